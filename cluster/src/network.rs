//! Raft's messages to the other members, over gRPC.
//!
//! One connection for each pair and class (replication, heartbeats, snapshots): a large append or a
//! snapshot chunk must not delay a heartbeat. Replication is one long-lived stream each way.
//!
//! Invariants
//! - a stream on which requests wait for an answer longer than the time-to-live fails; a swallowed
//!   response must not stop replication for ever;
//! - a member that lacks what it has acknowledged to this leader is not heard any more;
//! - an answer that came late is no sign of life of after it was given.

#![expect(
    clippy::result_large_err,
    reason = "openraft's error type is what its traits return"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RPCTypes, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use tonic::Status;
use tonic::transport::Channel;

use crate::log_store::LogStore;
use crate::proto;
use crate::sent::{OVERDUE, Sent, watch_answers};
use crate::start::Options;
use crate::state_store::SnapshotHandle;
use crate::transport::{Caller, PeerClient, connect, peer_client};
use crate::types::{
    CommittedLeaderId, GroupTypes, NodeInfo, Types, Vote, entry_to, log_id_from, log_id_optional,
    log_id_to, vote_from, vote_required, vote_to,
};

/// Bytes of one snapshot chunk.
const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

type Rpc<T> = Result<T, RPCError<Types>>;
type AppendResults<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

/// Where the members are. Raft keeps its clients when the address of a member changes, so they look
/// here whenever they call.
#[derive(Debug, Default)]
pub struct Addresses(Mutex<BTreeMap<u64, String>>);

impl Addresses {
    /// Takes note of where a member is from now on.
    pub fn set(&self, id: u64, address: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id, address.to_owned());
    }

    fn of(&self, id: u64) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id).cloned()
    }
}

/// Makes a [`Peer`] for each member and class of messages.
pub struct Network {
    caller: Caller,
    addresses: Arc<Addresses>,
    connect_timeout: Duration,
    log: LogStore,
    acknowledged: BTreeMap<u64, Arc<Acknowledged>>,
}

impl Network {
    /// The way from `caller` to the others, for what its `log` holds.
    pub fn new(
        caller: Caller,
        addresses: Arc<Addresses>,
        options: &Options,
        log: LogStore,
    ) -> Self {
        Self {
            caller,
            addresses,
            connect_timeout: options.election / 2,
            log,
            acknowledged: BTreeMap::new(),
        }
    }
}

/// The way to one member.
pub struct Peer {
    caller: Caller,
    to: u64,
    addresses: Arc<Addresses>,
    /// The connection, and the address that it is for.
    channel: Option<(String, Channel)>,
    acknowledged: Arc<Acknowledged>,
    connect_timeout: Duration,
    log: LogStore,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Peer {
        self.addresses.set(target, &node.peer_address);
        Peer {
            caller: self.caller.clone(),
            to: target,
            addresses: self.addresses.clone(),
            channel: None,
            acknowledged: self.acknowledged.entry(target).or_default().clone(),
            connect_timeout: self.connect_timeout,
            log: self.log.clone(),
        }
    }
}

fn unreachable(status: &Status) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(format!(
        "{:?}: {}",
        status.code(),
        status.message()
    )))
}

fn bad_answer(error: impl std::error::Error + 'static) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl Peer {
    fn client(&mut self) -> Rpc<PeerClient> {
        let Some(address) = self.addresses.of(self.to) else {
            let why = format!("no address of member {} is known", self.to);
            return Err(RPCError::Unreachable(Unreachable::from_string(why)));
        };
        if let Some((connected, channel)) = &self.channel
            && *connected == address
        {
            return Ok(peer_client(channel.clone()));
        }
        let channel = connect(&address, self.connect_timeout).map_err(bad_answer)?;
        self.channel = Some((address, channel.clone()));
        Ok(peer_client(channel))
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> RPCError<Types> {
        let id = self.caller.node_id;
        RPCError::Timeout(Timeout {
            action,
            id,
            target: self.to,
            timeout,
        })
    }

    async fn ask(
        &mut self,
        rpc: VoteRequest<Types>,
        pre_vote: bool,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        let message = proto::VoteRequest {
            vote: Some(vote_to(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(log_id_to),
            leadership_transfer: rpc.leadership_transfer,
            pre_vote,
        };
        let request = self.caller.request(self.to, message);
        let mut client = self.client()?;
        let answer = tokio::time::timeout(option.hard_ttl(), client.vote(request))
            .await
            .map_err(|_| self.timeout(RPCTypes::Vote, option.hard_ttl()))?
            .map_err(|status| unreachable(&status))?
            .into_inner();
        let vote = vote_required("vote response", answer.vote.as_ref()).map_err(bad_answer)?;
        Ok(VoteResponse::new(
            vote,
            log_id_optional(answer.last_log_id.as_ref()).map_err(bad_answer)?,
            answer.granted,
        ))
    }
}

/// To the wire.
fn append_to(request: &AppendEntriesRequest<Types>) -> proto::AppendRequest {
    proto::AppendRequest {
        vote: Some(vote_to(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_to),
        entries: request.entries.iter().map(entry_to).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to),
    }
}

fn append_result(response: &proto::AppendResponse) -> Rpc<StreamAppendResult<Types>> {
    use proto::append_response::Result as Wire;
    match &response.result {
        Some(Wire::Matched(matched)) => Ok(Ok(
            log_id_optional(matched.log_id.as_ref()).map_err(bad_answer)?
        )),
        Some(Wire::Conflict(log_id)) => Ok(Err(StreamAppendError::Conflict(
            log_id_from(log_id).map_err(bad_answer)?,
        ))),
        Some(Wire::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(
            vote_from(vote).map_err(bad_answer)?,
        ))),
        None => Err(unreachable(&Status::internal(
            "an append response without a result",
        ))),
    }
}

/// Up to which index a member has acknowledged the log to this leader, over all its connections.
///
/// Why: openraft takes it for impossible that a member loses what it had acknowledged. It goes on
/// to count the lost entries towards majorities and may never send them again (a debug build
/// panics).
#[derive(Debug, Default)]
pub struct Acknowledged(Mutex<AcknowledgedIn>);

#[derive(Debug, Default)]
struct AcknowledgedIn {
    /// Term of the leadership: under another leader the member may have been told otherwise.
    term: u64,
    /// One more than the greatest index; 0 before the first.
    next: u64,
    /// It was said that the member lost something.
    told: bool,
}

impl Acknowledged {
    /// What counts in `term`; `None` when a later one has begun.
    fn of(&self, term: u64) -> Option<MutexGuard<'_, AcknowledgedIn>> {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.term < term {
            *now = AcknowledgedIn {
                term,
                ..AcknowledgedIn::default()
            };
        }
        (now.term == term).then_some(now)
    }

    /// The log is there up to an index, as the leader of `term` was told.
    pub fn note(&self, term: u64, index: u64) {
        if let Some(mut now) = self.of(term) {
            now.next = now.next.max(index.saturating_add(1));
        }
    }

    /// Member `id` asks the leader of `term` for the entry at `asked`; an error when it had
    /// acknowledged that entry.
    pub fn ask(&self, id: u64, term: u64, asked: u64) -> Result<(), String> {
        let Some(mut now) = self.of(term).filter(|now| asked < now.next) else {
            return Ok(());
        };
        let why = format!(
            "member {id} lacks log entry {asked}, but has acknowledged the log up to {}: its disk \
             was put back to an older state or has lost writes; replace it",
            now.next - 1
        );
        if !std::mem::replace(&mut now.told, true) {
            tracing::error!("{why}");
        }
        Err(why)
    }

    /// Takes note of an answer of member `id`, or refuses it.
    pub fn check<C: GroupTypes>(
        &self,
        id: u64,
        term: u64,
        answer: StreamAppendResult<C>,
    ) -> Result<StreamAppendResult<C>, RPCError<C>> {
        match &answer {
            Ok(Some(matched)) => self.note(term, matched.index()),
            Err(StreamAppendError::Conflict(asked)) => {
                let asked = self.ask(id, term, asked.index());
                asked.map_err(|why| RPCError::Unreachable(Unreachable::from_string(why)))?;
            }
            Ok(None) | Err(StreamAppendError::HigherVote(_)) => {}
        }
        Ok(answer)
    }
}

impl NetStreamAppend<Types> for Peer {
    fn stream_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'_, Rpc<AppendResults<'_>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let sent = Arc::new(Sent::default());
            let log = self.log.clone();
            let messages = sent
                .clone()
                .requests(input, move || log.purged())
                .map(|request| append_to(&request));
            let request = self.caller.request(self.to, messages);
            let mut client = self.client()?;
            let ttl = option.hard_ttl().max(Duration::from_millis(50));
            let answers = tokio::time::timeout(ttl, client.append(request))
                .await
                .map_err(|_| self.timeout(RPCTypes::AppendEntries, ttl))?
                .map_err(|status| unreachable(&status))?
                .into_inner();
            let answers = answers.map(|answer| match answer {
                Ok(response) => append_result(&response),
                Err(status) => Err(unreachable(&status)),
            });
            let peer = (self.to, self.acknowledged.clone());
            Ok(watch_answers(answers, sent, ttl.max(OVERDUE), peer))
        })
    }
}

impl NetVote<Types> for Peer {
    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        self.ask(rpc, false, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        self.ask(rpc, true, option).await
    }
}

impl NetBackoff<Types> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl NetTransferLeader<Types> for Peer {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Types>> {
        use proto::transfer_leader_response::Refused;
        let message = proto::TransferLeaderRequest {
            from_leader: Some(vote_to(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last_log_id: request.last_log_id().map(log_id_to),
        };
        let message = self.caller.request(self.to, message);
        let mut client = self.client()?;
        let answer = tokio::time::timeout(option.hard_ttl(), client.transfer_leader(message))
            .await
            .map_err(|_| self.timeout(RPCTypes::TransferLeader, option.hard_ttl()))?
            .map_err(|status| unreachable(&status))?
            .into_inner();
        Ok(match answer.refused {
            None => Ok(()),
            Some(Refused::VoteChanged(changed)) => Err(TransferLeaderError::VoteChanged {
                expected: vote_required("transfer response", changed.expected.as_ref())
                    .map_err(bad_answer)?,
                actual: vote_required("transfer response", changed.actual.as_ref())
                    .map_err(bad_answer)?,
            }),
            Some(Refused::LogNotFlushed(log)) => Err(TransferLeaderError::LogNotFlushed {
                expected: log_id_optional(log.expected.as_ref()).map_err(bad_answer)?,
                actual: log_id_optional(log.actual.as_ref()).map_err(bad_answer)?,
            }),
        })
    }
}

// === snapshots ===

type SnapshotOf = Snapshot<CommittedLeaderId, u64, NodeInfo, SnapshotHandle>;

fn streaming(status: &Status) -> StreamingError<Types> {
    StreamingError::Unreachable(Unreachable::from_string(format!(
        "snapshot: {:?}: {}",
        status.code(),
        status.message()
    )))
}

/// The chunks that the receiver lacks. Reading is on a blocking thread, one chunk ahead.
fn chunks(
    snapshot: SnapshotHandle,
    start: proto::SnapshotStart,
    held: Vec<u64>,
) -> impl Stream<Item = proto::SnapshotChunk> + Send + 'static {
    use proto::snapshot_chunk::Part;
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let send = |part| {
            sender
                .blocking_send(proto::SnapshotChunk { part: Some(part) })
                .is_ok()
        };
        if !send(Part::Start(start)) {
            return;
        }
        for (file, held) in (0_u32..).zip(held) {
            let mut offset = held;
            loop {
                let read = snapshot
                    .files
                    .read(file as usize, offset, SNAPSHOT_CHUNK_BYTES);
                let bytes = match read {
                    Ok(bytes) if bytes.is_empty() => break,
                    Ok(bytes) => bytes,
                    Err(error) => {
                        // The stream ends short; the receiver refuses what it has by its hash.
                        tracing::error!(%error, "a snapshot cannot be read");
                        return;
                    }
                };
                let next = offset + bytes.len() as u64;
                if !send(Part::Data(proto::SnapshotData {
                    file,
                    offset,
                    bytes,
                })) {
                    return;
                }
                offset = next;
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

impl Peer {
    async fn send_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotHandle,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let files = snapshot.files.clone();
        let manifest = tokio::task::spawn_blocking(move || files.manifest())
            .await
            .map_err(|error| streaming(&Status::internal(error.to_string())))?
            .map_err(|error| streaming(&Status::internal(error.to_string())))?;
        let mut client = self.client().map_err(|error| {
            StreamingError::Unreachable(Unreachable::from_string(error.to_string()))
        })?;
        let offer = self.caller.request(self.to, manifest.clone());
        let held = client
            .snapshot_offer(offer)
            .await
            .map_err(|status| streaming(&status))?;
        let held = held.into_inner().held_bytes;
        if held.len() != manifest.files.len() {
            return Err(streaming(&Status::internal(
                "an offer's answer for other files",
            )));
        }
        let covered = manifest.last_log_id;
        let start = proto::SnapshotStart {
            vote: Some(vote_to(&vote)),
            manifest: Some(manifest),
        };
        let request = self.caller.request(self.to, chunks(snapshot, start, held));
        let answer = client
            .snapshot_install(request)
            .await
            .map_err(|status| streaming(&status))?;
        let answer = vote_required("snapshot response", answer.into_inner().vote.as_ref())
            .map_err(|error| streaming(&Status::internal(error.to_string())))?;
        if let (true, Some(covered)) = (answer == vote, covered) {
            self.acknowledged.note(vote.leader_id.term, covered.index);
        }
        Ok(SnapshotResponse::new(answer))
    }
}

impl NetSnapshot<Types> for Peer {
    type SnapshotData = SnapshotHandle;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        // No deadline for the whole: a snapshot takes as long as it takes. A peer that is gone is
        // noticed by the connection's keep-alive.
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot.snapshot) => sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LogId;

    fn log_id(index: u64) -> LogId {
        LogId::new_term_index(3, index)
    }

    #[test]
    fn member_that_lacks_what_it_acknowledged_is_refused() {
        let acknowledged = Acknowledged::default();
        let accepts = |term, answer| acknowledged.check::<Types>(2, term, answer).is_ok();
        let conflict = |index| Err(StreamAppendError::Conflict(log_id(index)));
        assert!(accepts(3, conflict(9)), "the search for its end");
        assert!(accepts(3, Ok(Some(log_id(5)))));
        assert!(accepts(3, Ok(Some(log_id(4)))));
        assert!(accepts(3, conflict(6)));
        assert!(!accepts(3, conflict(5)));
        acknowledged.note(3, 8);
        assert!(!accepts(3, conflict(8)), "a snapshot brought it there");
        assert!(
            accepts(4, conflict(5)),
            "another leader may have replaced it meanwhile"
        );
        assert!(accepts(3, conflict(5)), "a late answer decides nothing");
    }
}
