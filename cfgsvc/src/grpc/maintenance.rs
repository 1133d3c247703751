//! `etcdserverpb.Maintenance`.

use std::pin::Pin;

use cfgsvc_proto::etcd::alarm_request::AlarmAction;
use cfgsvc_proto::etcd::maintenance_server::Maintenance;
use cfgsvc_proto::etcd::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse,
};
use cluster::Role;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{Api, hash, snapshot, status};
use crate::service::{ETCD_VERSION, Service};

/// Version of the storage that etcd's clients are told.
pub(crate) const STORAGE_VERSION: &str = "3.6.0";

#[tonic::async_trait]
impl Maintenance for Api {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let request = request.into_inner();
        if request.action() == AlarmAction::Activate {
            return Err(Status::unimplemented(
                "etcdserver: alarms follow the space that is left and cannot be set",
            ));
        }
        // An alarm ends by itself when there is space again, so that to end it changes nothing.
        Ok(Response::new(AlarmResponse {
            header: Some(self.0.header(self.0.hub.published())),
            alarms: alarms(&self.0),
        }))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let known = self.0.status();
        let bytes = self
            .0
            .group
            .disk_bytes()
            .map_err(|error| status::of_io(&error))?;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let quota = self.0.limits.quota_bytes.unwrap_or(0);
        let header = self.0.header(self.0.hub.published());
        Ok(Response::new(StatusResponse {
            version: ETCD_VERSION.to_owned(),
            db_size: bytes,
            leader: known.leader.unwrap_or(0),
            raft_index: known.committed_index,
            raft_term: header.raft_term,
            raft_applied_index: known.applied_index,
            errors: errors(&self.0),
            db_size_in_use: bytes,
            is_learner: known.role == Role::Learner,
            storage_version: STORAGE_VERSION.to_owned(),
            db_size_quota: i64::try_from(quota).unwrap_or(i64::MAX),
            downgrade_info: None,
            header: Some(header),
        }))
    }

    async fn defragment(
        &self,
        _request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        // The store gives space back by itself; as etcd has it, the answer has no header.
        Ok(Response::new(DefragmentResponse::default()))
    }

    async fn hash(&self, _request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let (revision, hash) = self.0.scan(hash::whole).await?;
        Ok(Response::new(HashResponse {
            header: Some(self.0.header(revision)),
            hash,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let revision = request.into_inner().revision;
        let hashed = self
            .0
            .scan(move |view| hash::keys(view, revision))
            .await?
            .map_err(|refused| status::of_refusal(&refused))?;
        Ok(Response::new(HashKvResponse {
            header: Some(self.0.header(hashed.revision)),
            hash: hashed.hash,
            compact_revision: hashed.compacted,
            hash_revision: hashed.hash_revision,
        }))
    }

    type SnapshotStream =
        Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send + 'static>>;

    async fn snapshot(
        &self,
        _request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Ok(Response::new(Box::pin(snapshot::start(&self.0)?)))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let known = self.0.status();
        if known.leader != Some(known.node_id) {
            return Err(status::not_leader());
        }
        self.0
            .group
            .transfer_leader(request.into_inner().target_id)
            .await
            .map_err(|error| status::of_transfer(&error))?;
        // As etcd has it, without a header.
        Ok(Response::new(MoveLeaderResponse::default()))
    }

    async fn downgrade(
        &self,
        _request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: not capable"))
    }
}

fn alarms(service: &Service) -> Vec<AlarmMember> {
    let alarm = AlarmMember {
        member_id: service.status().node_id,
        alarm: AlarmType::Nospace.into(),
    };
    if service.is_full() {
        vec![alarm]
    } else {
        Vec::new()
    }
}

fn errors(service: &Service) -> Vec<String> {
    let known = service.status();
    let mut errors = Vec::new();
    if known.leader.is_none() {
        errors.push("etcdserver: no leader".to_owned());
    }
    let alarms = alarms(service);
    errors.extend(
        alarms
            .iter()
            .map(|alarm| format!("memberID:{} alarm:NOSPACE ", alarm.member_id)),
    );
    errors.extend(known.fault.clone());
    errors
}
