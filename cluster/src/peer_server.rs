//! What a member answers to the others.
//!
//! Invariant: nothing reaches Raft before [`PeerServer::admit`] has checked who calls, from which
//! data directory, and whom it believes to reach.

use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt as _};
use openraft::raft::{StreamAppendError, TransferLeaderError, TransferLeaderRequest, VoteRequest};
use openraft::storage::Snapshot;
use tonic::{Request, Response, Status, Streaming};

use cluster_core::contact::Question;

use crate::append::{append_request, leader_vote};
use crate::connections::ConnectionWatch;
use crate::convert::{call_failure, member_to, membership_failure, new_member_from, read_failure};
use crate::forward::COMMANDS_MAX;
use crate::group::{Group as _, MembershipError};
use crate::member::Member;
use crate::proto;
use crate::proto::raft_server::Raft;
use crate::state_store::{SnapshotReceiver, meta_from};
use crate::transport::CallIdentity;
use crate::types::{DecodeError, Types, log_id_optional, log_id_to, vote_required, vote_to};

/// The members' protocol. Answers "not ready" until the member runs.
#[derive(Clone, Default)]
pub(crate) struct PeerServer {
    member: Arc<RwLock<Option<Member>>>,
    connections: Arc<ConnectionWatch>,
}

fn malformed(error: &DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this member has stopped: {error}"))
}

impl PeerServer {
    /// From now on calls are answered.
    pub(crate) fn attach(&self, member: Member) {
        *self.member.write().unwrap_or_else(PoisonError::into_inner) = Some(member);
    }

    /// From now on calls are refused.
    pub(crate) fn detach(&self) {
        *self.member.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Where connections are watched.
    pub(crate) fn watch(&self) -> Arc<ConnectionWatch> {
        self.connections.clone()
    }

    /// Whether this member has no leader, or has lost all connections from it.
    fn without_leader(&self, member: &Member) -> bool {
        member
            .leader()
            .is_none_or(|leader| self.connections.lost(leader))
    }

    /// Checks the two ends of a call.
    fn admit<T>(&self, request: &Request<T>) -> Result<Member, Status> {
        let call = CallIdentity::from_metadata(request.metadata())?;
        let member = self
            .member
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let member = member.ok_or_else(|| Status::unavailable("this member is not ready"))?;
        let me = member.identity();
        if call.cluster_id != me.cluster_id {
            return Err(Status::failed_precondition(format!(
                "the call is for group {:x}, this member is of group {:x}",
                call.cluster_id, me.cluster_id
            )));
        }
        if call.to_id != me.node_id {
            return Err(Status::failed_precondition(format!(
                "the call is for member {}, this is member {}",
                call.to_id, me.node_id
            )));
        }
        if let Some(known) = member.incarnation_of(call.from_id)
            && !known.is_empty()
            && known != call.from_incarnation
        {
            return Err(Status::permission_denied(format!(
                "member {} is known with another data directory: its disk was emptied or copied",
                call.from_id
            )));
        }
        Ok(member)
    }
}

fn append_response(
    result: &Result<Option<crate::types::LogId>, StreamAppendError<Types>>,
) -> proto::AppendResponse {
    use proto::append_response::Result as Wire;
    let result = match result {
        Ok(log_id) => Wire::Matched(proto::Matched {
            log_id: log_id.as_ref().map(log_id_to),
        }),
        Err(StreamAppendError::Conflict(log_id)) => Wire::Conflict(log_id_to(log_id)),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(vote_to(vote)),
    };
    proto::AppendResponse {
        result: Some(result),
    }
}

type AppendStream = Pin<Box<dyn Stream<Item = Result<proto::AppendResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Raft for PeerServer {
    type AppendStream = AppendStream;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<AppendStream>, Status> {
        let member = self.admit(&request)?;
        self.connections.called(&request);
        let raft = member.raft().clone();
        // A broken or malformed request ends the stream: the leader opens another.
        let requests = futures_util::stream::unfold(request.into_inner(), |mut requests| async {
            let request = requests.message().await.ok().flatten()?;
            match append_request(request) {
                Ok(request) => Some((request, requests)),
                Err(error) => {
                    tracing::error!(%error, "an append request is refused");
                    None
                }
            }
        });
        let responses = raft.stream_append(requests).map(|result| match result {
            Ok(result) => Ok(append_response(&result)),
            Err(fatal) => Err(stopped(fatal)),
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let member = self.admit(&request)?;
        let request = request.into_inner();
        let vote = vote_required("vote request", request.vote.as_ref())
            .map_err(|error| malformed(&error))?;
        let rpc = VoteRequest {
            vote,
            last_log_id: log_id_optional(request.last_log_id.as_ref())
                .map_err(|error| malformed(&error))?,
            // The lease of a leader that is gone protects nobody: votes need not wait for its end.
            leadership_transfer: request.leadership_transfer || self.without_leader(&member),
        };
        let raft = member.raft();
        let answer = if request.pre_vote {
            raft.pre_vote(rpc).await
        } else {
            raft.vote(rpc).await
        };
        let answer = answer.map_err(stopped)?;
        Ok(Response::new(proto::VoteResponse {
            vote: Some(vote_to(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(log_id_to),
        }))
    }

    async fn leader_lost(
        &self,
        request: Request<proto::LeaderLostRequest>,
    ) -> Result<Response<proto::LeaderLostResponse>, Status> {
        let member = self.admit(&request)?;
        let request = request.into_inner();
        let last = request.last_log_id.unwrap_or_default();
        let question = Question {
            term: request.term,
            leader: request.leader_id,
            asking: (last.term, last.index),
        };
        let agreed = self.connections.agrees(question, &member);
        Ok(Response::new(proto::LeaderLostResponse { agreed }))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        use proto::transfer_leader_response::Refused;
        let member = self.admit(&request)?;
        let request = request.into_inner();
        let from = vote_required("transfer request", request.from_leader.as_ref())
            .map_err(|error| malformed(&error))?;
        let last =
            log_id_optional(request.last_log_id.as_ref()).map_err(|error| malformed(&error))?;
        let rpc = TransferLeaderRequest::new(from, request.to_node_id, last);
        let answer = member
            .raft()
            .handle_transfer_leader(rpc)
            .await
            .map_err(stopped)?;
        let refused = match answer {
            Ok(()) => None,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                Some(Refused::VoteChanged(proto::VoteChanged {
                    expected: Some(vote_to(&expected)),
                    actual: Some(vote_to(&actual)),
                }))
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                Some(Refused::LogNotFlushed(proto::LogNotFlushed {
                    expected: expected.as_ref().map(log_id_to),
                    actual: actual.as_ref().map(log_id_to),
                }))
            }
        };
        Ok(Response::new(proto::TransferLeaderResponse { refused }))
    }

    async fn snapshot_offer(
        &self,
        request: Request<proto::SnapshotManifest>,
    ) -> Result<Response<proto::SnapshotHave>, Status> {
        let member = self.admit(&request)?;
        let store = member.store().clone();
        let manifest = request.into_inner();
        let receiver = tokio::task::spawn_blocking(move || store.receive(&manifest))
            .await
            .map_err(stopped)?
            .map_err(|error| {
                Status::failed_precondition(format!("the snapshot cannot be received: {error}"))
            })?;
        Ok(Response::new(proto::SnapshotHave {
            held_bytes: receiver.held(),
        }))
    }

    async fn snapshot_install(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<proto::SnapshotInstalled>, Status> {
        use proto::snapshot_chunk::Part;
        let member = self.admit(&request)?;
        let mut chunks = request.into_inner();
        let Some(proto::SnapshotChunk {
            part: Some(Part::Start(start)),
        }) = chunks.message().await?
        else {
            return Err(Status::invalid_argument(
                "a snapshot begins with its manifest",
            ));
        };
        let vote =
            leader_vote("snapshot", start.vote.as_ref()).map_err(|error| malformed(&error))?;
        let manifest = start
            .manifest
            .ok_or_else(|| Status::invalid_argument("no manifest in the start"))?;
        let meta = meta_from(&manifest).map_err(|error| malformed(&error))?;
        if meta.last_log_id.map(|id| id.committed_leader_id().term) > Some(vote.leader_id.term) {
            // Raft would panic.
            return Err(Status::invalid_argument(
                "the snapshot is of a later term than its sender's",
            ));
        }
        let disk = |error: std::io::Error| Status::internal(format!("snapshot: {error}"));
        let store = member.store().clone();
        let mut receiver = tokio::task::spawn_blocking(move || store.receive(&manifest))
            .await
            .map_err(stopped)?
            .map_err(disk)?;
        while let Some(chunk) = chunks.message().await? {
            let Some(Part::Data(data)) = chunk.part else {
                return Err(Status::invalid_argument("a snapshot has one start"));
            };
            receiver = write_chunk(receiver, data).await.map_err(disk)?;
        }
        let snapshot = tokio::task::spawn_blocking(move || receiver.finish())
            .await
            .map_err(stopped)?
            .map_err(disk)?;
        let snapshot = Snapshot { meta, snapshot };
        let answer = member
            .raft()
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(stopped)?;
        Ok(Response::new(proto::SnapshotInstalled {
            vote: Some(vote_to(&answer.vote)),
        }))
    }

    async fn propose(
        &self,
        request: Request<proto::ProposeRequest>,
    ) -> Result<Response<proto::ProposeResponse>, Status> {
        let member = self.admit(&request)?;
        let commands = request.into_inner().commands;
        if commands.len() > COMMANDS_MAX {
            return Err(Status::invalid_argument(format!(
                "{} commands in a request, at most {COMMANDS_MAX} may be",
                commands.len()
            )));
        }
        let proposals = commands
            .into_iter()
            .map(|command| member.propose_here(command));
        let results = join_all(proposals).await;
        Ok(Response::new(crate::forward::answer(results)))
    }

    async fn read_index(
        &self,
        request: Request<proto::ReadIndexRequest>,
    ) -> Result<Response<proto::ReadIndexResponse>, Status> {
        use proto::read_index_response::Result as Wire;
        let member = self.admit(&request)?;
        let result = match member.read_index_here().await {
            Ok(log_id) => Wire::LogId(log_id_to(&log_id)),
            Err(error) => Wire::Failure(read_failure(&error)),
        };
        Ok(Response::new(proto::ReadIndexResponse {
            result: Some(result),
        }))
    }

    async fn call_leader(
        &self,
        request: Request<proto::CallRequest>,
    ) -> Result<Response<proto::CallResponse>, Status> {
        use proto::call_response::Result as Wire;
        let member = self.admit(&request)?;
        let result = match member.call_here(request.into_inner().request).await {
            Ok(response) => Wire::Response(response),
            Err(error) => Wire::Failure(call_failure(&error)),
        };
        Ok(Response::new(proto::CallResponse {
            result: Some(result),
        }))
    }

    async fn membership(
        &self,
        request: Request<proto::MembershipRequest>,
    ) -> Result<Response<proto::MembershipResponse>, Status> {
        use proto::membership_request::Change;
        let member = self.admit(&request)?;
        let change = request
            .into_inner()
            .change
            .ok_or_else(|| Status::invalid_argument("no change in the request"))?;
        // Only the leader changes the membership; a caller that is behind is told so.
        if !member.leads() {
            let error = MembershipError::NotLeader {
                leader: member.leader(),
            };
            let failure = Some(membership_failure(&error));
            return Ok(Response::new(proto::MembershipResponse {
                member: None,
                failure,
            }));
        }
        let result = match change {
            Change::Add(node) => member.member_add(new_member_from(node)).await.map(Some),
            Change::Join(node) => member.member_join(new_member_from(node)).await.map(Some),
            Change::Remove(id) => member.member_remove(id).await.map(|()| None),
            Change::Promote(id) => member.member_promote(id).await.map(|()| None),
        };
        Ok(Response::new(match result {
            Ok(changed) => proto::MembershipResponse {
                member: changed.as_ref().map(member_to),
                failure: None,
            },
            Err(error) => proto::MembershipResponse {
                member: None,
                failure: Some(membership_failure(&error)),
            },
        }))
    }
}

/// Writes one chunk on a blocking thread.
async fn write_chunk(
    mut receiver: Box<dyn SnapshotReceiver>,
    data: proto::SnapshotData,
) -> std::io::Result<Box<dyn SnapshotReceiver>> {
    tokio::task::spawn_blocking(move || {
        receiver.write(data.file as usize, data.offset, &data.bytes)?;
        Ok(receiver)
    })
    .await
    .map_err(std::io::Error::other)?
}
