//! `cfgsvc.v1.Roles`: who may serve.
//!
//! Invariant: a renewal is confirmed by the leader's book after a quorum check that began after the
//! request had arrived ([`crate::lease::keeper`]); nothing here keeps time.

use std::sync::Arc;

use cfgsvc_core::placement::read::{Judged, Role, judge, role, roles};
use cfgsvc_core::placement::{Fence, Name, RoleName, Verdict, keys};
use cfgsvc_core::read::machine_record;
use cfgsvc_core::refusal::{Code, refuse};
use cfgsvc_proto::etcd::WatchCreateRequest;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{self, RoleCommand, RoleReply};
use cfgsvc_proto::v1::renew_response::State;
use cfgsvc_proto::v1::roles_server::Roles;
use cfgsvc_proto::v1::verdict::Kind;
use cfgsvc_proto::v1::{
    AttendRequest, AttendResponse, AttendingInfo, CheckRequest, CheckResponse, MoveRequest,
    PlanRequest, PlanResponse, RenewRequest, RenewResponse, RoleInfo, RoleResponse, ShowRequest,
    ShowResponse, StartRequest, SyncRequest, Verdict as WireVerdict, VerdictResponse,
    VerdictsRequest, VotesRequest, VotesResponse, YieldRequest,
};
use futures_util::future::try_join_all;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::metadata::{RequestMeta, wants_leader};
use super::{Api, plan, status};
use crate::service::{Service, unexpected};
use crate::streams::{self, Outlet};
use crate::votes;
use crate::watch::cursor::Cursor;
use crate::watch::hub::Stream;

/// Most leases of one call.
const RENEWALS_MAX: usize = 1_000;
/// Verdicts that wait for a slow client; it is asked for the newest only.
const VERDICTS_WAITING: usize = 16;

fn role_name(text: &str) -> Result<RoleName, Status> {
    text.parse()
        .map_err(|error| status::of_refusal(&refuse(Code::InvalidObject, format!("{error}"))))
}

fn host_name(text: &str) -> Result<Name, Status> {
    text.parse()
        .map_err(|error| status::of_refusal(&refuse(Code::InvalidObject, format!("{error}"))))
}

/// A verdict for the wire.
pub(super) fn wire(verdict: &Verdict, epoch: i64, addresses: Vec<String>) -> WireVerdict {
    let mut wire = WireVerdict {
        epoch,
        addresses,
        ..WireVerdict::default()
    };
    let kind = match verdict {
        Verdict::Serve { epoch } => {
            wire.reason = format!("holds epoch {epoch}");
            Kind::Serve
        }
        Verdict::Standby { holder, .. } => {
            wire.holder = holder.to_string();
            wire.reason = format!("{holder} holds it");
            Kind::Standby
        }
        Verdict::Redirect { holder, .. } => {
            wire.holder = holder.to_string();
            wire.reason = format!("it is served by {holder}");
            Kind::Redirect
        }
        Verdict::Rebuild { holder, why, .. } => {
            wire.holder = holder.to_string();
            wire.reason.clone_from(why);
            Kind::Rebuild
        }
        Verdict::Fenced(fence) => {
            wire.reason = fence.to_string();
            wire.may_start = matches!(fence, Fence::NotBegun { .. });
            wire.hands_over = matches!(fence, Fence::HandsOver { .. });
            wire.not_attending = matches!(fence, Fence::NotAttending);
            if let Fence::OtherNotBegun { holder } = fence {
                wire.holder = holder.to_string();
            }
            Kind::Fenced
        }
    };
    wire.kind = kind.into();
    wire
}

fn json<T: serde::Serialize>(object: &T) -> Result<String, Status> {
    serde_json::to_string(object)
        .map_err(|error| Status::internal(format!("an object is no JSON: {error}")))
}

fn info(role: Role) -> Result<RoleInfo, Status> {
    let attending = role.attending.into_iter();
    let attending = attending.map(|(host, there, lease, verdict)| AttendingInfo {
        host: host.into(),
        colo: there.colo.map_or_else(String::new, String::from),
        lease,
        serving: there.serving != 0,
        verdict: Some(wire(&verdict, role.grant.epoch, Vec::new())),
        value: there.value,
        position: there.position,
    });
    Ok(RoleInfo {
        name: role.name.into(),
        spec: json(&role.spec)?,
        attending: attending.collect(),
        grant: json(&role.grant)?,
    })
}

impl Api {
    /// Has the group take a step of a role.
    async fn step(
        &self,
        meta: RequestMeta,
        role: String,
        step: Step,
    ) -> Result<(i64, RoleReply), Status> {
        let step = Some(step);
        let done = self
            .0
            .execute(meta, Op::Role(RoleCommand { role, step }))
            .await?;
        let Outcome::Role(reply) = done.outcome else {
            return Err(unexpected(&done));
        };
        Ok((done.revision, reply))
    }

    /// The same for a request that is answered with the role; `step` makes role and step of it.
    async fn role_step<T>(
        &self,
        request: Request<T>,
        step: impl FnOnce(T) -> (String, Step),
    ) -> Result<Response<RoleResponse>, Status> {
        let meta = RequestMeta::parse(request.metadata())?;
        let (role, step) = step(request.into_inner());
        let (revision, reply) = self.step(meta, role, step).await?;
        Ok(Response::new(RoleResponse {
            header: Some(self.0.header(revision)),
            epoch: reply.epoch,
            holder: reply.holder,
            closing: reply.closing,
            synced: reply.synced,
        }))
    }
}

#[tonic::async_trait]
impl Roles for Api {
    async fn attend(
        &self,
        request: Request<AttendRequest>,
    ) -> Result<Response<AttendResponse>, Status> {
        self.check_leader(&request)?;
        let meta = RequestMeta::parse(request.metadata())?;
        let request = request.into_inner();
        // A host that comes back must not wait until applications have made room: its key is small.
        let lock = request.role.starts_with("locks/");
        if self.0.status().no_space || lock && self.0.is_full() {
            return Err(status::no_space());
        }
        let lease = rand::random_range(1..=i64::MAX);
        let step = Step::Attend(state::Attend {
            host: request.host,
            colo: request.colo,
            lease,
            instance: request.instance,
            boot: request.boot,
            epoch: request.epoch,
            has_data: request.has_data,
            identity: request.identity,
            position: request.position,
            value: request.value,
            lock: request.lock,
            addresses: request.addresses,
            attempt: request.attempt,
            life: request.life,
        });
        let (revision, reply) = self.step(meta, request.role, step).await?;
        Ok(Response::new(AttendResponse {
            header: Some(self.0.header(revision)),
            lease: reply.lease,
            lease_ms: reply.lease_ms,
            serve_ms: reply.serve_ms,
            stop_ms: reply.stop_ms,
        }))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let RenewRequest { leases, row } = request.into_inner();
        if let Some(row) = &row {
            votes::check_row(row)?;
        }
        if leases.len() > RENEWALS_MAX {
            return Err(Status::invalid_argument(format!(
                "{} leases in one call, at most {RENEWALS_MAX}",
                leases.len()
            )));
        }
        if let (Some(row), true) = (&row, leases.is_empty()) {
            let told = self.0.renewals.tell(row.clone()).await;
            return Ok(Response::new(RenewResponse {
                states: Vec::new(),
                probes: told.map_err(|error| status::of_call(&error))?,
            }));
        }
        // What the host sees goes with the first of them.
        let rows = std::iter::once(row).chain(std::iter::repeat(None));
        let renewals = leases.into_iter().zip(rows);
        let renewals = renewals.map(|(id, row)| self.0.renewals.renew_with(id, row));
        let renewed = try_join_all(renewals)
            .await
            .map_err(|error| status::of_call(&error))?;
        let probes = renewed.first().and_then(|(_, probes)| probes.clone());
        let states = renewed.into_iter().map(|(renewed, _)| {
            let state = match (renewed.closing, renewed.ttl_ms) {
                (true, _) => State::Closing,
                (false, 0) => State::Gone,
                (false, _) => State::Renewed,
            };
            state.into()
        });
        Ok(Response::new(RenewResponse {
            states: states.collect(),
            probes,
        }))
    }

    async fn start(
        &self,
        request: Request<StartRequest>,
    ) -> Result<Response<RoleResponse>, Status> {
        let step = |request: StartRequest| {
            let step = state::Start {
                host: request.host,
                lease: request.lease,
                epoch: request.epoch,
                position: request.position,
                attempt: request.attempt,
                identity: request.identity,
                life: request.life,
            };
            (request.role, Step::Start(step))
        };
        self.role_step(request, step).await
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<RoleResponse>, Status> {
        let step = |request: SyncRequest| {
            let step = state::Sync {
                host: request.host,
                lease: request.lease,
                epoch: request.epoch,
                synced: request.synced,
                position: request.position,
                attempt: request.attempt,
                revision: request.revision,
            };
            (request.role, Step::Sync(step))
        };
        self.role_step(request, step).await
    }

    async fn r#yield(
        &self,
        request: Request<YieldRequest>,
    ) -> Result<Response<RoleResponse>, Status> {
        let step = |request: YieldRequest| {
            let step = state::Yield {
                host: request.host,
                lease: request.lease,
                position: request.position,
                leave: request.leave,
                attempt: request.attempt,
            };
            (request.role, Step::Yield(step))
        };
        self.role_step(request, step).await
    }

    async fn r#move(
        &self,
        request: Request<MoveRequest>,
    ) -> Result<Response<RoleResponse>, Status> {
        let step = |request: MoveRequest| {
            let role = request.role.clone();
            (role, Step::Move(plan::move_step(request)))
        };
        self.role_step(request, step).await
    }

    type VerdictsStream = ReceiverStream<Result<VerdictResponse, Status>>;

    async fn verdicts(
        &self,
        request: Request<VerdictsRequest>,
    ) -> Result<Response<Self::VerdictsStream>, Status> {
        self.check_leader(&request)?;
        let cut = streams::cut(&self.0, wants_leader(request.metadata()));
        let request = request.into_inner();
        let follower = Follower {
            role: role_name(&request.role)?,
            host: host_name(&request.host)?,
            lease: request.lease,
            service: Arc::clone(&self.0),
        };
        let mut stream = self.0.hub.stream();
        if !follower.keys().all(|_| stream.admit()) {
            return Err(status::too_many_requests());
        }
        self.0.barrier().await?;
        let (outlet, responses) = streams::outlet(VERDICTS_WAITING);
        tokio::spawn(async move {
            let gone = outlet.gone();
            let end = tokio::select! {
                status = follower.run(&stream, &outlet) => status,
                status = cut => Some(status),
                () = gone => None,
            };
            if let Some(status) = end {
                outlet.end(status);
            }
        });
        Ok(Response::new(responses))
    }

    async fn show(&self, request: Request<ShowRequest>) -> Result<Response<ShowResponse>, Status> {
        self.check_leader(&request)?;
        let wanted = request.into_inner().role;
        let wanted = match wanted.as_str() {
            "" => None,
            name => Some(role_name(name)?),
        };
        self.0.barrier().await?;
        let revision = self.0.hub.published();
        let asked = wanted.clone();
        let found = self
            .0
            .read_large(move |view| {
                let names = match asked.clone() {
                    Some(name) => vec![name],
                    None => roles(view)?,
                };
                let mut found = Vec::new();
                for name in &names {
                    found.extend(role(view, name)?);
                }
                Ok(found)
            })
            .await?;
        if let (Some(name), true) = (wanted, found.is_empty()) {
            let detail = format!("role '{name}'; see cfgctl role list");
            return Err(status::of_refusal(&refuse(Code::RoleNotFound, detail)));
        }
        Ok(Response::new(ShowResponse {
            header: Some(self.0.header(revision)),
            roles: found.into_iter().map(info).collect::<Result<_, _>>()?,
        }))
    }

    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        self.check_leader(&request)?;
        let request = request.into_inner();
        let name = role_name(&request.role)?;
        self.0.barrier().await?;
        let revision = self.0.hub.published();
        let grant = self
            .0
            .read(|view| cfgsvc_core::placement::read::grant(view, &name))?
            .unwrap_or_default();
        Ok(Response::new(CheckResponse {
            header: Some(self.0.header(revision)),
            current: request.epoch != 0 && grant.is_current(request.epoch),
            epoch: grant.epoch,
            holder: grant.holder.map_or_else(String::new, String::from),
        }))
    }

    async fn votes(
        &self,
        request: Request<VotesRequest>,
    ) -> Result<Response<VotesResponse>, Status> {
        self.check_leader(&request)?;
        let votes = self.0.renewals.votes().await;
        let mut votes = votes.map_err(|error| status::of_call(&error))?;
        votes.header = Some(self.0.header(self.0.hub.published()));
        Ok(Response::new(votes))
    }

    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        self.check_leader(&request)?;
        let meta = RequestMeta::parse(request.metadata())?;
        plan::plan(&self.0, meta, request.into_inner()).await
    }
}

/// Tells one host what it may do.
struct Follower {
    role: RoleName,
    host: Name,
    lease: i64,
    service: Arc<Service>,
}

impl Follower {
    /// What the verdict depends on; the addresses of a holder that has not changed do not count.
    fn keys(&self) -> impl Iterator<Item = bytes::Bytes> + use<> {
        [
            keys::role(&self.role),
            keys::grant(&self.role),
            keys::attending(&self.role, &self.host),
        ]
        .into_iter()
    }

    /// Waits for commits after `revision` that touch one of the keys; `false` when one of them is
    /// published already.
    fn wait_after(&self, stream: &Stream, revision: i64) -> bool {
        self.keys().zip(0..).all(|(key, id)| {
            let request = WatchCreateRequest {
                key,
                ..WatchCreateRequest::default()
            };
            let cursor = Cursor::new(&request, revision + 1);
            cursor.is_some_and(|cursor| stream.join(id, &cursor))
        })
    }

    /// Returns why the stream ends; `None` when the client is gone.
    async fn run(&self, stream: &Stream, outlet: &Outlet<VerdictResponse>) -> Option<Status> {
        let mut last: Option<Judged> = None;
        loop {
            let revision = self.service.hub.published();
            stream.leave_all();
            if !self.wait_after(stream, revision) {
                continue;
            }
            // What is published by now is at least what was waited for.
            let (judged_at, judged) = match self.judge() {
                Ok(judged) => judged,
                Err(status) => return Some(status),
            };
            if last.as_ref() != Some(&judged) {
                let mut verdict = wire(&judged.verdict, judged.epoch, judged.addresses.clone());
                verdict.revision = judged_at;
                verdict.say_position = judged.says_anew;
                verdict.tell_position = judged.tells;
                verdict.synced = judged.synced.iter().cloned().map(String::from).collect();
                let response = VerdictResponse {
                    header: Some(self.service.header(revision)),
                    verdict: Some(verdict),
                };
                outlet.send(response).await.ok()?;
                last = Some(judged);
            }
            stream.inbox().filled().await;
        }
    }

    /// What it may do, and the revision of the store by which that is so: it may be later than what
    /// is published, and who compares revisions must not take what is new for old.
    fn judge(&self) -> Result<(i64, Judged), Status> {
        let (role, host, lease) = (&self.role, &self.host, self.lease);
        self.service.read(|view| {
            let revision = machine_record(view)?.revision;
            Ok((revision, judge(view, role, host, lease)?))
        })
    }
}
