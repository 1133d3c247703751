//! Roles: for operators and resources, who holds what, moves, plans; for the agents of hosts,
//! leases, verdicts, starts.
//!
//! A renewal counts from the moment before its call: whichever of its attempts was confirmed was
//! sent no earlier.

use crate::Client;
use crate::channel::{How, Missed, classify, require_leader};
use crate::error::CallError;
use crate::kv::{Delete, Put};
use crate::route::Safety;
use crate::txn::Txn;
use cfgsvc_clock::Moment;
use cfgsvc_proto::v1;
use cfgsvc_proto::v1::roles_client::RolesClient;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Streaming};

pub use cfgsvc_proto::v1::renew_response::State as RenewState;
pub use cfgsvc_proto::v1::verdict::Kind as VerdictKind;
pub use cfgsvc_proto::v1::{
    AttendRequest as Attend, AttendResponse as Attended, CheckResponse as Checked, CheckVotes,
    ColoVotes, HostVotes, PlanResponse as Planned, Probe, Probes, RoleInfo as RoleState,
    RoleResponse as Moved, RoleVotes, Row, StartRequest as Start, SyncRequest as Sync, Verdict,
    VotesResponse as VotesState, YieldRequest as Yield,
};

/// Numbers the steps of an agent about its roles, so that one which arrives late is not taken: each
/// is greater than all before it, also those of another process on this machine since its boot.
#[derive(Debug, Default)]
pub struct StepNumbers(AtomicU64);

impl StepNumbers {
    /// The number of a new step. A step that is sent again keeps its own.
    pub fn next(&self) -> u64 {
        let now = Moment::now().nanos().max(1);
        let step = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        // The update always has a value; so both ways are the number before it.
        let last = last.unwrap_or_else(|last| last);
        now.max(last.saturating_add(1))
    }
}

/// What a host may do, as it is told on one stream.
#[derive(Debug)]
pub struct Verdicts {
    client: Client,
    endpoint: (usize, String),
    responses: Streaming<v1::VerdictResponse>,
}

impl Verdicts {
    /// Whether the client has moved on from the member that says this, since it was silent.
    pub fn left_behind(&self) -> bool {
        self.client.pool.current().0 != self.endpoint.0
    }

    /// The next verdict. The stream is over after an error: what was told before may be so no
    /// more, and a new one begins with what is so then.
    pub async fn next(&mut self) -> Result<Verdict, CallError> {
        let (index, name) = &self.endpoint;
        let missed = match self.responses.message().await {
            Ok(Some(response)) => return Ok(response.verdict.unwrap_or_default()),
            Ok(None) => Missed::ended(),
            Err(status) => classify(&status, name)?,
        };
        self.client.pool.move_on_from(*index);
        Err(missed.into_error(&self.client.pool, name))
    }
}

/// Whom a role is to go to.
#[derive(Clone, Debug, Default)]
pub struct MoveTo {
    /// The role.
    pub role: String,
    /// Host or colo; empty: nobody.
    pub to: String,
    /// Refused when the role's epoch is another; 0 for any.
    pub epoch: i64,
    /// The next holder may lack what the last one wrote.
    pub accept_loss: bool,
}

impl MoveTo {
    fn to_request(&self) -> v1::MoveRequest {
        v1::MoveRequest {
            role: self.role.clone(),
            to: self.to.clone(),
            epoch: self.epoch,
            accept_loss: self.accept_loss,
        }
    }
}

/// A write that is planned and not made.
#[derive(Clone, Debug)]
pub enum Write {
    /// A put, without its condition.
    Put(Put),
    /// A delete.
    Delete(Delete),
    /// A transaction.
    Txn(Txn),
    /// A role that is moved.
    Move(MoveTo),
}

impl Client {
    fn roles_client(&self, channel: Channel) -> RolesClient<Channel> {
        RolesClient::new(channel).max_decoding_message_size(self.pool.receive_bytes_max)
    }

    /// A role, or all (locks among them) when `role` is empty: who holds it, who is there, and what
    /// each may do. Linearizable.
    pub async fn roles(&self, role: &str) -> Result<Vec<RoleState>, CallError> {
        let request = v1::ShowRequest {
            role: role.to_owned(),
        };
        let reply = self
            .call(Safety::Repeatable, &request, |channel, request| {
                let mut roles = self.roles_client(channel);
                async move { roles.show(request).await.map(Response::into_inner) }
            })
            .await?;
        Ok(reply.roles)
    }

    /// Gives a role to another, or takes it from who holds it. Those who serve are asked to stop
    /// first; the answer says whether that is under way (`closing`).
    pub async fn move_role(&self, to: &MoveTo) -> Result<Moved, CallError> {
        let request = to.to_request();
        self.call(Safety::Once, &request, |channel, request| {
            let mut roles = self.roles_client(channel);
            async move { roles.r#move(request).await.map(Response::into_inner) }
        })
        .await
    }

    /// What a write would change, keys and verdicts; the error is the one that it would get.
    pub async fn plan(&self, write: &Write) -> Result<Planned, CallError> {
        self.planned(write, false).await
    }

    /// The same for verdicts alone: of a large delete the keys are no small answer.
    pub async fn plan_verdicts(&self, write: &Write) -> Result<Planned, CallError> {
        self.planned(write, true).await
    }

    async fn planned(&self, write: &Write, verdicts_only: bool) -> Result<Planned, CallError> {
        let write = match write {
            Write::Put(put) => v1::plan_request::Write::Put(put.to_request()),
            Write::Delete(delete) => v1::plan_request::Write::DeleteRange(delete.to_request()),
            Write::Txn(txn) => v1::plan_request::Write::Txn(txn.clone().into_request()),
            Write::Move(to) => v1::plan_request::Write::Move(to.to_request()),
        };
        let request = v1::PlanRequest {
            write: Some(write),
            verdicts_only,
        };
        self.call(Safety::Repeatable, &request, |channel, request| {
            let mut roles = self.roles_client(channel);
            async move { roles.plan(request).await.map(Response::into_inner) }
        })
        .await
    }

    /// Whether `epoch` is the newest of a role, and its holder is not asked to stop: for a resource
    /// that is asked to act for a holder. Linearizable.
    pub async fn is_current(&self, role: &str, epoch: i64) -> Result<bool, CallError> {
        Ok(self.check_epoch(role, epoch).await?.current)
    }

    /// The same, with the newest epoch and who holds it: 0 and empty when nobody does.
    pub async fn check_epoch(&self, role: &str, epoch: i64) -> Result<Checked, CallError> {
        let request = v1::CheckRequest {
            role: role.to_owned(),
            epoch,
        };
        self.call(Safety::Repeatable, &request, |channel, request| {
            let mut roles = self.roles_client(channel);
            async move { roles.check(request).await.map(Response::into_inner) }
        })
        .await
    }

    /// A host is there. Asked twice, the second lease takes the place of the first.
    pub async fn attend(&self, request: &Attend) -> Result<Attended, CallError> {
        self.call(Safety::Repeatable, request, |channel, request| {
            let mut roles = self.roles_client(channel);
            async move { roles.attend(request).await.map(Response::into_inner) }
        })
        .await
    }

    /// Renews leases of roles; the answers are in their order.
    pub async fn renew_roles(&self, leases: Vec<i64>) -> Result<Vec<RenewState>, CallError> {
        let (states, _) = self.renew_roles_with(leases, None).await?;
        Ok(states)
    }

    /// The same, with what this host sees of others; answers whom it is to probe, when that is
    /// another list than that of the row.
    pub async fn renew_roles_with(
        &self,
        leases: Vec<i64>,
        row: Option<Row>,
    ) -> Result<(Vec<RenewState>, Option<Probes>), CallError> {
        let request = v1::RenewRequest { leases, row };
        self.renew_until(request, self.pool.deadline()).await
    }

    /// The same, for whoever gives it up by a clock of its own: a member that is silent is waited
    /// for longer, a third of `within`, before another one is asked.
    pub async fn renew_roles_within(
        &self,
        leases: Vec<i64>,
        row: Option<Row>,
        within: Duration,
    ) -> Result<(Vec<RenewState>, Option<Probes>), CallError> {
        let request = v1::RenewRequest { leases, row };
        self.renew_until(request, Instant::now() + within).await
    }

    /// What the leader knows of who sees whom, and what it would do about that.
    pub async fn votes(&self) -> Result<VotesState, CallError> {
        self.call(
            Safety::Repeatable,
            &v1::VotesRequest {},
            |channel, request| {
                let mut roles = self.roles_client(channel);
                async move { roles.votes(request).await.map(Response::into_inner) }
            },
        )
        .await
    }

    /// Renews one lease of a role, or gives it up after `within`.
    pub(crate) async fn renew_role_within(
        &self,
        lease: i64,
        within: Duration,
    ) -> Result<RenewState, CallError> {
        let deadline = Instant::now() + within;
        let request = v1::RenewRequest {
            leases: vec![lease],
            row: None,
        };
        let (states, _) = self.renew_until(request, deadline).await?;
        Ok(states[0])
    }

    async fn renew_until(
        &self,
        request: v1::RenewRequest,
        deadline: Instant,
    ) -> Result<(Vec<RenewState>, Option<Probes>), CallError> {
        let asked = request.leases.len();
        let how = How {
            safety: Safety::Repeatable,
            id: None,
            deadline,
        };
        let reply = self
            .pool
            .call(how, &request, |channel, request| {
                let mut roles = self.roles_client(channel);
                async move { roles.renew(request).await.map(Response::into_inner) }
            })
            .await?;
        // A state of a later version is none that lets anybody serve.
        let states: Vec<_> = reply.states().collect();
        if states.len() != asked {
            let what = "another number of renewals than was asked for";
            return Err(CallError::Malformed { what });
        }
        Ok((states, reply.probes))
    }

    /// Begins an epoch that was granted; only after the answer the host may serve.
    pub async fn start_epoch(&self, request: &Start) -> Result<Moved, CallError> {
        self.call(Safety::Repeatable, request, |channel, request| {
            let mut roles = self.roles_client(channel);
            async move { roles.start(request).await.map(Response::into_inner) }
        })
        .await
    }

    /// Says which hosts have all that this one has acknowledged, and where its data is.
    pub async fn sync_role(&self, request: &Sync) -> Result<Moved, CallError> {
        self.call(Safety::Repeatable, request, |channel, request| {
            let mut roles = self.roles_client(channel);
            async move { roles.sync(request).await.map(Response::into_inner) }
        })
        .await
    }

    /// The host serves no more. When it leaves with that, a repeated call finds no lease.
    pub async fn yield_role(&self, request: &Yield) -> Result<Moved, CallError> {
        self.call(Safety::Repeatable, request, |channel, request| {
            let mut roles = self.roles_client(channel);
            async move { roles.r#yield(request).await.map(Response::into_inner) }
        })
        .await
    }

    /// What a host may do about a role, now and at every change. One attempt at one member; the
    /// caller tries again, at another.
    pub async fn verdicts(
        &self,
        role: &str,
        host: &str,
        lease: i64,
    ) -> Result<Verdicts, CallError> {
        let message = v1::VerdictsRequest {
            role: role.to_owned(),
            host: host.to_owned(),
            lease,
        };
        let (index, name, channel) = self.pool.current();
        let name = name.to_owned();
        let mut request = self.pool.request(message, None);
        require_leader(&mut request);
        let mut roles = self.roles_client(channel);
        let opened = tokio::time::timeout(self.pool.request_timeout, roles.verdicts(request)).await;
        let missed = match opened {
            Ok(Ok(response)) => {
                return Ok(Verdicts {
                    client: self.clone(),
                    endpoint: (index, name),
                    responses: response.into_inner(),
                });
            }
            Ok(Err(status)) => classify(&status, &name)?,
            Err(_) => Missed::silent(self.pool.request_timeout),
        };
        self.pool.move_on_from(index);
        Err(missed.into_error(&self.pool, &name))
    }
}
