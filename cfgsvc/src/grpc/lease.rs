//! `etcdserverpb.Lease`.

use std::pin::Pin;

use cfgsvc_core::limits::LEASE_TTL_S_MAX;
use cfgsvc_core::read;
use cfgsvc_core::refusal::{Code, refuse};
use cfgsvc_proto::etcd::lease_server::Lease;
use cfgsvc_proto::etcd::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use futures_util::TryStreamExt;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::metadata::{RequestMeta, wants_leader};
use super::{Api, status};
use crate::service::unexpected;
use crate::streams;

/// Renewals of one stream under way at a time; they share quorum checks.
const RENEWALS_AT_ONCE: usize = 256;

/// Whole seconds of a time, as etcd tells them.
fn seconds(ms: u64) -> i64 {
    i64::try_from(ms / 1_000).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl Lease for Api {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        self.check_leader(&request)?;
        let meta = RequestMeta::parse(request.metadata())?;
        let mut request = request.into_inner();
        if request.ttl > LEASE_TTL_S_MAX {
            let detail = format!("ttl {} s, at most {LEASE_TTL_S_MAX} s", request.ttl);
            return Err(status::of_refusal(&refuse(Code::LeaseTtlTooLarge, detail)));
        }
        if self.0.is_full() {
            return Err(status::no_space());
        }
        request.ttl = request.ttl.max(self.0.limits.min_lease_ttl_s);
        if request.id == 0 {
            request.id = rand::random_range(1..=i64::MAX);
        }
        let done = self.0.execute(meta, Op::LeaseGrant(request)).await?;
        let Outcome::LeaseGrant(mut response) = done.outcome else {
            return Err(unexpected(&done));
        };
        response.header = Some(self.0.header(done.revision));
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.check_leader(&request)?;
        let meta = RequestMeta::parse(request.metadata())?;
        let done = self
            .0
            .execute(meta, Op::LeaseRevoke(request.into_inner()))
            .await?;
        let Outcome::LeaseRevoke(mut response) = done.outcome else {
            return Err(unexpected(&done));
        };
        response.header = Some(self.0.header(done.revision));
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send + 'static>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.check_leader(&request)?;
        let cut = streams::cut(&self.0, wants_leader(request.metadata()));
        let service = std::sync::Arc::clone(&self.0);
        let answers = request
            .into_inner()
            .map_ok(move |LeaseKeepAliveRequest { id }| {
                let service = std::sync::Arc::clone(&service);
                // Before the renewal, as etcd has it: keys that expire later are not promised.
                let header = service.header(service.hub.published());
                async move {
                    let renewed = service
                        .renewals
                        .renew(id)
                        .await
                        .map_err(|error| status::of_call(&error))?;
                    Ok(LeaseKeepAliveResponse {
                        header: Some(header),
                        id,
                        ttl: seconds(renewed.ttl_ms),
                    })
                }
            })
            .try_buffered(RENEWALS_AT_ONCE);
        Ok(Response::new(Box::pin(streams::until(answers, cut))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.check_leader(&request)?;
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let seen = self
            .0
            .renewals
            .look(id)
            .await
            .map_err(|error| status::of_call(&error))?;
        let mut response = LeaseTimeToLiveResponse {
            header: Some(self.0.header(self.0.hub.published())),
            id,
            ttl: -1,
            ..LeaseTimeToLiveResponse::default()
        };
        if seen.granted_ms > 0 {
            response.ttl = seconds(seen.remaining_ms);
            response.granted_ttl = seconds(seen.granted_ms);
            if keys {
                self.0.barrier().await?;
                response.keys = self
                    .0
                    .read_large(move |view| read::lease_keys(view, id))
                    .await?;
            }
        }
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.check_leader(&request)?;
        self.0.barrier().await?;
        let leases = self.0.read_large(read::leases).await?;
        Ok(Response::new(LeaseLeasesResponse {
            header: Some(self.0.header(self.0.hub.published())),
            leases: leases
                .into_iter()
                .map(|(id, _)| LeaseStatus { id })
                .collect(),
        }))
    }
}
