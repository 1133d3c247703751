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

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
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
use openraft::type_config::TypeConfigExt as _;
use tonic::Status;
use tonic::transport::Channel;

use crate::proto;
use crate::state_store::SnapshotHandle;
use crate::transport::{Caller, PeerClient, connect, peer_client};
use crate::types::{
    CommittedLeaderId, GroupTypes, LogId, NodeInfo, Types, Vote, entry_to, log_id_from,
    log_id_optional, log_id_to, vote_from, vote_required, vote_to,
};

/// Bytes of one snapshot chunk.
const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

/// An answer to an append is overdue after this at the earliest. A follower may be held up by one
/// slow sync: it is given longer than a heartbeat.
pub const OVERDUE: Duration = Duration::from_secs(2);

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
    acknowledged: BTreeMap<u64, Arc<Acknowledged>>,
}

impl Network {
    /// The way from `caller` to the others.
    pub fn new(caller: Caller, addresses: Arc<Addresses>, connect_timeout: Duration) -> Self {
        Self {
            caller,
            addresses,
            connect_timeout,
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

/// What was sent over a replication stream and is not answered yet.
///
/// Why: openraft credits an answer to every request whose entries it covers. One that carries no
/// entry, but only what is committed now, ends where the one before it ends: so an answer that was
/// given to the former, and came late, counts as an answer to the latter, which was sent later. A
/// leader that was cut off takes it for a sign of life of after the cut, and confirms reads
/// although another leader has been elected meanwhile (defect S3).
///
/// ```text
///  openraft ─ pulls requests ─► noted, unless an answer is being handed over ─► member
///  openraft ◄─ handed over: nothing sent later is covered by it ◄─ held back ◄─ answers
/// ```
///
/// Invariants
/// - between handing an answer over and being asked for the next one, no request is pulled: what
///   openraft has recorded as sent is what is noted here.
/// - an answer is handed over only if it covers no request that is not answered; else the answer
///   to that one tells as much.
#[derive(Debug, Default)]
pub struct Sent(Mutex<Sending>);

#[derive(Debug, Default)]
struct Sending {
    /// Where the entries of each request that is not answered begin and end, in order.
    unanswered: VecDeque<(Option<LogId>, Option<LogId>)>,
    /// Of the leadership that sends: a stream serves one.
    term: u64,
    /// An answer was handed over, and the next one not asked for.
    handing_over: bool,
    /// Who waits to pull a request.
    puller: Option<Waker>,
}

impl Sending {
    fn note<C: GroupTypes>(&mut self, request: &AppendEntriesRequest<C>) {
        self.term = request.vote.leader_id.term;
        let last = request.entries.last().map(|entry| entry.log_id);
        self.unanswered
            .push_back((request.prev_log_id, last.or(request.prev_log_id)));
    }

    /// Whether openraft would take an answer that the log is there up to `matching` for one to the
    /// next request, too.
    fn covers_next(&self, matching: Option<LogId>) -> bool {
        let next = self.unanswered.front();
        next.is_some_and(|(prev, last)| matching >= *last || matching > *prev)
    }
}

impl Sent {
    fn lock(&self) -> MutexGuard<'_, Sending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a request that is answered before the next one is pulled.
    pub fn note<C: GroupTypes>(&self, request: &AppendEntriesRequest<C>) {
        let mut sending = self.lock();
        sending.unanswered.clear();
        sending.note(request);
    }

    /// Term of the leadership that sent the last request.
    pub fn term(&self) -> u64 {
        self.lock().term
    }

    /// The requests of `input`, each noted as it is pulled, none while an answer is handed over.
    pub fn requests<C, S>(
        self: Arc<Self>,
        mut input: S,
    ) -> impl Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static
    where
        C: GroupTypes,
        S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static,
    {
        futures_util::stream::poll_fn(move |context| {
            let mut sending = self.lock();
            if sending.handing_over {
                sending.puller = Some(context.waker().clone());
                return Poll::Pending;
            }
            let polled = input.poll_next_unpin(context);
            if let Poll::Ready(Some(request)) = &polled {
                sending.note(request);
            }
            polled
        })
    }

    /// The next answer is asked for; says whether a request waits for one.
    fn ask(&self) -> bool {
        let mut sending = self.lock();
        sending.handing_over = false;
        let waiting = !sending.unanswered.is_empty();
        let puller = sending.puller.take();
        drop(sending);
        if let Some(puller) = puller {
            puller.wake();
        }
        waiting
    }

    /// A success that was received: whether it is handed over.
    fn hand_over(&self, matching: Option<LogId>) -> bool {
        let mut sending = self.lock();
        sending.unanswered.pop_front();
        sending.handing_over = !sending.covers_next(matching);
        sending.handing_over
    }
}

/// Yields the answers of a replication stream that openraft may see (see [`Sent`]), and an error
/// when one is overdue. Ends with the first that is not a success.
pub fn watch_answers<C, A>(
    answers: A,
    sent: Arc<Sent>,
    overdue: Duration,
    (to, acknowledged): (u64, Arc<Acknowledged>),
) -> BoxStream<'static, A::Item>
where
    C: GroupTypes,
    A: Stream<Item = Result<StreamAppendResult<C>, RPCError<C>>> + Send + Unpin + 'static,
{
    futures_util::stream::unfold(Some(answers), move |answers| {
        let (sent, acknowledged) = (sent.clone(), acknowledged.clone());
        async move {
            let mut answers = answers?;
            loop {
                let waiting = sent.ask();
                match C::timeout(overdue, answers.next()).await {
                    Ok(None) => return None,
                    Ok(Some(answer)) => {
                        let term = sent.term();
                        let result = answer.and_then(|answer| acknowledged.check(to, term, answer));
                        match &result {
                            Ok(Ok(matching)) if sent.hand_over(*matching) => {
                                return Some((result, Some(answers)));
                            }
                            Ok(Ok(_)) => {}
                            Ok(Err(_)) | Err(_) => return Some((result, None)),
                        }
                    }
                    Err(_) if waiting => {
                        let late = Unreachable::from_string("no answer to an append");
                        return Some((Err(RPCError::Unreachable(late)), None));
                    }
                    Err(_) => {}
                }
            }
        }
    })
    .boxed()
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
            let messages = sent
                .clone()
                .requests(input)
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
    use futures_util::FutureExt as _;
    use openraft::entry::RaftEntry as _;

    use super::*;
    use crate::types::Entry;

    fn log_id(index: u64) -> LogId {
        LogId::new_term_index(3, index)
    }

    /// What the leader of term 3 sends of the log behind `prev` up to `last`.
    fn append(prev: u64, last: u64) -> AppendEntriesRequest<Types> {
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 1),
            prev_log_id: Some(log_id(prev)),
            entries: (prev + 1..=last)
                .map(|index| Entry::new_blank(log_id(index)))
                .collect(),
            leader_commit: None,
        }
    }

    /// An answer was given to the entries and came late; what is committed was sent after that.
    #[tokio::test]
    async fn answer_that_covers_a_later_request_waits_for_the_answer_to_that() {
        let sent = Arc::new(Sent::default());
        let input = futures_util::stream::iter([append(8, 9), append(9, 9), append(9, 10)]);
        let mut requests = sent.clone().requests::<Types, _>(input);
        let (answer, mut arrived) = tokio::sync::mpsc::channel(4);
        let answers = futures_util::stream::poll_fn(move |context| arrived.poll_recv(context));
        let mut handed = watch_answers(answers, sent, OVERDUE, (2, Arc::default()));
        let up_to = |index| Ok::<_, RPCError<Types>>(Ok(Some(log_id(index))));
        requests.next().now_or_never().expect("the entry");
        requests.next().now_or_never().expect("what is committed");

        answer.try_send(up_to(9)).expect("room");
        assert!(handed.next().now_or_never().is_none(), "handed over early");
        answer.try_send(up_to(9)).expect("room");
        let first = handed.next().now_or_never().expect("both are answered");
        assert_eq!(
            first.expect("an answer").expect("no error"),
            Ok(Some(log_id(9)))
        );

        let pulled = requests.next().now_or_never();
        assert!(pulled.is_none(), "pulled while an answer is handed over");
        assert!(handed.next().now_or_never().is_none());
        requests.next().now_or_never().expect("the next entry");
        answer.try_send(up_to(10)).expect("room");
        assert!(handed.next().now_or_never().is_some());
    }

    #[tokio::test]
    async fn answers_to_entries_that_are_pipelined_are_handed_over_one_by_one() {
        let sent = Arc::new(Sent::default());
        let input = futures_util::stream::iter([append(7, 8), append(8, 9)]);
        let mut requests = sent.clone().requests::<Types, _>(input);
        requests.next().now_or_never().expect("an entry");
        requests.next().now_or_never().expect("another");
        let answers = futures_util::stream::iter([8, 9].map(|index| Ok(Ok(Some(log_id(index))))));
        let handed = watch_answers(answers, sent, OVERDUE, (2, Arc::default()));
        let handed: Vec<Rpc<_>> = handed.collect().await;
        assert_eq!(handed.len(), 2);
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
