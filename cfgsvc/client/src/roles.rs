//! Roles, as operators and resources see them: who holds what, moves, plans.

use crate::Client;
use crate::error::CallError;
use crate::kv::{Delete, Put};
use crate::route::Safety;
use cfgsvc_proto::v1;
use cfgsvc_proto::v1::roles_client::RolesClient;
use tonic::Response;
use tonic::transport::Channel;

pub use cfgsvc_proto::v1::verdict::Kind as VerdictKind;
pub use cfgsvc_proto::v1::{
    PlanResponse as Planned, RoleInfo as RoleState, RoleResponse as Moved, Verdict,
};

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
        let write = match write {
            Write::Put(put) => v1::plan_request::Write::Put(put.to_request()),
            Write::Delete(delete) => v1::plan_request::Write::DeleteRange(delete.to_request()),
            Write::Move(to) => v1::plan_request::Write::Move(to.to_request()),
        };
        let request = v1::PlanRequest { write: Some(write) };
        self.call(Safety::Repeatable, &request, |channel, request| {
            let mut roles = self.roles_client(channel);
            async move { roles.plan(request).await.map(Response::into_inner) }
        })
        .await
    }

    /// Whether `epoch` is the newest of a role, and its holder is not asked to stop: for a resource
    /// that is asked to act for a holder. Linearizable.
    pub async fn is_current(&self, role: &str, epoch: i64) -> Result<bool, CallError> {
        let request = v1::CheckRequest {
            role: role.to_owned(),
            epoch,
        };
        let reply = self
            .call(Safety::Repeatable, &request, |channel, request| {
                let mut roles = self.roles_client(channel);
                async move { roles.check(request).await.map(Response::into_inner) }
            })
            .await?;
        Ok(reply.current)
    }
}
