//! A running member: the [`Group`] that a service sees.
//!
//! Requests that only the leader can answer are forwarded to it. Whether a forwarded request may be
//! sent again is decided by what is certain: an answer "not leader" or a refused connection is, a
//! broken one is not.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cluster_core::log::LogEngine;
use cluster_core::store::ReadFn;
use futures_util::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Raft, ReadPolicy};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::convert::{call_error, read_error, read_refused, write_refused};
use crate::forward::Waiting;
use crate::group::{
    CallError, Group, LeaderService, Member as MemberInfo, MembershipError, NewMember,
    ProposeError, ReadError, Status,
};
use crate::log_store::{LogCounters, LogStore};
use crate::machine::Machine;
use crate::network::Addresses;
use crate::proto;
use crate::state_store::StateStore;
use crate::transport::{Caller, PeerClient, connect, peer_client};
use crate::types::{Command, LogId, NodeInfo, Types, log_id_from};

/// Commands in flight on one member at most: its own, and those that others forward to it.
pub const IN_FLIGHT_MAX: usize = 8192;
/// Bytes of them at most; and bytes of the log that may wait for the disk before more is refused.
pub const IN_FLIGHT_BYTES_MAX: usize = 256 << 20;

/// How long to wait for news of a leader before asking again.
const LEADER_POLL: Duration = Duration::from_millis(20);

/// openraft on our types.
pub type RaftHandle = Raft<Types, Machine>;

/// Bounds that a running member keeps.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one command at most.
    pub command_bytes: usize,
    /// A request that has no answer by then fails.
    pub request_timeout: Duration,
    /// Longest time between two elections.
    pub election_max: Duration,
    /// Writes are refused below this many free bytes.
    pub min_free_bytes: u64,
}

/// A handle on the member; clones share it.
#[derive(Clone)]
pub struct Member {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) raft: RaftHandle,
    pub(crate) caller: Caller,
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) log: LogStore,
    pub(crate) log_engine: Arc<dyn LogEngine>,
    pub(crate) limits: Limits,
    pub(crate) service: Arc<dyn LeaderService>,
    pub(crate) status: watch::Sender<Arc<Status>>,
    pub(crate) barrier: mpsc::Sender<oneshot::Sender<Result<(), ReadError>>>,
    /// To the leader.
    pub(crate) forward: mpsc::Sender<Waiting>,
    pub(crate) addresses: Arc<Addresses>,
    /// Of the file system; `u64::MAX` until it was looked at.
    pub(crate) free_bytes: AtomicU64,
    pub(crate) membership_change: tokio::sync::Mutex<()>,
    pub(crate) in_flight: InFlight,
    pub(crate) channels: Channels,
    /// What a read has found to be damaged: this member stops.
    pub(crate) damage: OnceLock<String>,
}

/// Connections to other members by address, for what is not Raft's own.
pub(crate) type Channels = Mutex<BTreeMap<String, Channel>>;

/// The commands in flight: their count and bytes.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// Counts a command while it is in flight.
struct Counted<'a> {
    all: &'a InFlight,
    bytes: usize,
}

impl InFlight {
    /// Counts a command of `bytes`, unless that is too much; `backlog` bytes wait for the disk.
    fn admit(&self, bytes: usize, backlog: usize) -> Result<Counted<'_>, ProposeError> {
        let waiting = self.count.fetch_add(1, Ordering::AcqRel);
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let counted = Counted { all: self, bytes };
        if waiting >= IN_FLIGHT_MAX
            || before.saturating_add(bytes) > IN_FLIGHT_BYTES_MAX
            || backlog > IN_FLIGHT_BYTES_MAX
        {
            drop(counted);
            return Err(ProposeError::Overloaded { waiting });
        }
        Ok(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.all.count.fetch_sub(1, Ordering::AcqRel);
        self.all.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Member {
    pub(crate) fn new(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    /// openraft.
    pub fn raft(&self) -> &RaftHandle {
        &self.inner.raft
    }

    /// Who this member is.
    pub fn identity(&self) -> &Caller {
        &self.inner.caller
    }

    /// Where its state is.
    pub fn store(&self) -> &Arc<dyn StateStore> {
        &self.inner.store
    }

    /// The databases.
    pub(crate) fn storage(&self) -> (Arc<dyn LogEngine>, Arc<dyn StateStore>) {
        (self.inner.log_engine.clone(), self.inner.store.clone())
    }

    /// Figures of the log.
    pub fn log_counters(&self) -> Arc<LogCounters> {
        self.inner.log.counters()
    }

    /// Whether this member believes to lead.
    pub fn leads(&self) -> bool {
        self.leader() == Some(self.inner.caller.node_id)
    }

    /// The leader as far as this member knows.
    pub fn leader(&self) -> Option<u64> {
        self.inner.raft.metrics().borrow_watched().current_leader
    }

    /// The incarnation that the membership knows of a member.
    pub fn incarnation_of(&self, id: u64) -> Option<String> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .membership_config
            .get_node(&id)
            .map(|node| node.incarnation.clone())
    }

    /// The last entry of this member's log.
    pub(crate) fn last_log_id(&self) -> Option<LogId> {
        self.inner.log.last_log_id()
    }

    pub(crate) fn node(&self, id: u64) -> Option<NodeInfo> {
        self.inner
            .raft
            .metrics()
            .borrow_watched()
            .membership_config
            .get_node(&id)
            .cloned()
    }

    /// A client for the leader's protocol, when another member leads.
    pub(crate) fn leader_client(&self) -> Option<(u64, PeerClient)> {
        let id = self.leader()?;
        Some((id, self.client_of(id)?))
    }

    /// A client for another member's protocol.
    pub(crate) fn client_of(&self, id: u64) -> Option<PeerClient> {
        let address = self.node(id)?.peer_address;
        let mut channels = self
            .inner
            .channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&address) {
            return Some(peer_client(channel.clone()));
        }
        let channel = connect(&address, self.inner.limits.election_max).ok()?;
        channels.insert(address, channel.clone());
        Some(peer_client(channel))
    }

    /// Waits for news of a leader, a little.
    pub(crate) async fn await_leader_news(&self, before: Option<u64>) {
        let mut metrics = self.inner.raft.metrics();
        let news = metrics.wait_until(|metrics| metrics.current_leader != before);
        // Either way the caller looks again.
        let _ = tokio::time::timeout(LEADER_POLL, news).await;
    }

    /// Returns when another member than `former` leads, or this member has ended.
    pub(crate) async fn led_by_another(&self, former: u64) {
        let mut metrics = self.inner.raft.metrics();
        let replaced = metrics.wait_until(|metrics| {
            metrics
                .current_leader
                .is_some_and(|leader| leader != former)
        });
        // An error says that Raft has stopped; then there is nothing to wait for either.
        let _ = replaced.await;
    }

    // === writes ===

    fn check_command(&self, command: &Bytes) -> Result<(), ProposeError> {
        let limits = &self.inner.limits;
        if command.len() > limits.command_bytes {
            let (bytes, limit) = (command.len(), limits.command_bytes);
            return Err(ProposeError::TooLarge { bytes, limit });
        }
        let free_bytes = self.inner.free_bytes.load(Ordering::Relaxed);
        // The service refuses what grows the data earlier; here is the floor for everything.
        if free_bytes < limits.min_free_bytes / 2 {
            let node_id = self.inner.caller.node_id;
            return Err(ProposeError::NoSpace {
                node_id,
                free_bytes,
            });
        }
        Ok(())
    }

    fn admit(&self, command: &Bytes) -> Result<Counted<'_>, ProposeError> {
        self.check_command(command)?;
        let backlog = self.inner.log.backlog_bytes();
        self.inner.in_flight.admit(command.len(), backlog)
    }

    /// Proposes for another member on this one, which must lead.
    pub async fn propose_here(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let _counted = self.admit(&command)?;
        self.propose_counted(command).await
    }

    pub(crate) async fn propose_counted(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let timeout = self.inner.limits.request_timeout;
        let write = self.inner.raft.client_write(Command(command));
        match tokio::time::timeout(timeout, write).await {
            Err(_) => Err(ProposeError::Timeout {
                waited_ms: millis(timeout),
            }),
            Ok(Ok(response)) => Ok(response.data.0),
            Ok(Err(error)) => Err(write_refused(error)),
        }
    }

    async fn propose_once(&self, command: Bytes, left: Duration) -> Result<Bytes, ProposeError> {
        if self.leads() {
            return self.propose_counted(command).await;
        }
        let (answer, answered) = oneshot::channel();
        let forwarded = async {
            let waiting = Waiting { command, answer };
            if self.inner.forward.send(waiting).await.is_err() {
                return Err(ProposeError::Stopped);
            }
            // Without an answer the member is ending, and the command may be on its way.
            answered.await.unwrap_or(Err(ProposeError::LeaderChanged))
        };
        match tokio::time::timeout(left, forwarded).await {
            Err(_) => Err(ProposeError::Timeout {
                waited_ms: millis(left),
            }),
            Ok(result) => result,
        }
    }

    async fn propose_until_deadline(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let _counted = self.admit(&command)?;
        let timeout = self.inner.limits.request_timeout;
        let deadline = Instant::now() + timeout;
        loop {
            let leader = self.leader();
            let left = deadline.saturating_duration_since(Instant::now());
            match self.propose_once(command.clone(), left).await {
                Err(ProposeError::NoLeader) if !left.is_zero() => {
                    self.await_leader_news(leader).await;
                }
                result => return result,
            }
        }
    }

    // === reads ===

    /// The index that a linearizable read must have seen, confirmed by a quorum; this member must
    /// lead.
    pub async fn read_index_here(&self) -> Result<LogId, ReadError> {
        let timeout = self.inner.limits.election_max;
        let confirmed = self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex);
        match tokio::time::timeout(timeout, confirmed).await {
            Err(_) => Err(ReadError::Timeout {
                waited_ms: millis(timeout),
            }),
            Ok(Ok((read, _))) => Ok(*read.log_id()),
            Ok(Err(error)) => Err(read_refused(error, millis(timeout))),
        }
    }

    async fn read_index(&self) -> Result<LogId, ReadError> {
        if self.leads() {
            return self.read_index_here().await;
        }
        let Some((to, mut client)) = self.leader_client() else {
            return Err(ReadError::NoLeader);
        };
        let timeout = 2 * self.inner.limits.election_max;
        let request = self.inner.caller.request(to, proto::ReadIndexRequest {});
        // A leader that is silent closes nothing: who asks it must look for its successor. What it
        // may have answered is not missed, since a read can be asked again.
        let answer = tokio::select! {
            answer = tokio::time::timeout(timeout, client.read_index(request)) => answer,
            () = self.led_by_another(to) => return Err(ReadError::NoLeader),
        };
        let answer = match answer {
            Err(_) => {
                return Err(ReadError::Timeout {
                    waited_ms: millis(timeout),
                });
            }
            Ok(Err(_)) => return Err(ReadError::NoLeader),
            Ok(Ok(answer)) => answer.into_inner(),
        };
        match answer.result {
            Some(proto::read_index_response::Result::LogId(log_id)) => log_id_from(&log_id)
                .map_err(|error| {
                    tracing::error!(member = to, %error, "a read index is refused");
                    ReadError::NoLeader
                }),
            Some(proto::read_index_response::Result::Failure(failure)) => Err(read_error(&failure)),
            None => Err(ReadError::NoLeader),
        }
    }

    /// One round for all reads that wait. A read is not a write: it is simply tried again.
    async fn barrier_round(&self) -> Result<(), ReadError> {
        let timeout = self.inner.limits.request_timeout;
        let deadline = Instant::now() + timeout;
        let expired = || ReadError::Timeout {
            waited_ms: millis(timeout),
        };
        let log_id = loop {
            let leader = self.leader();
            match self.read_index().await {
                Ok(log_id) => break log_id,
                Err(ReadError::Stopped) => return Err(ReadError::Stopped),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => self.await_leader_news(leader).await,
            }
        };
        let mut metrics = self.inner.raft.metrics();
        let applied = metrics.wait_until(|metrics| {
            metrics
                .last_applied
                .is_some_and(|applied| applied.index() >= log_id.index())
                || metrics.running_state.is_err()
        });
        match tokio::time::timeout_at(deadline, applied).await {
            Err(_) => Err(expired()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Ok(Ok(metrics)) if metrics.running_state.is_err() => Err(ReadError::Stopped),
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// Serves the waiting reads until the member is gone.
    pub(crate) async fn run_barrier(
        self,
        mut waiting: mpsc::Receiver<oneshot::Sender<Result<(), ReadError>>>,
    ) {
        while let Some(first) = waiting.recv().await {
            let mut readers = vec![first];
            while let Ok(reader) = waiting.try_recv() {
                readers.push(reader);
            }
            let result = self.barrier_round().await;
            for reader in readers {
                // A reader that has given up does not listen.
                let _ = reader.send(result.clone());
            }
        }
    }

    // === membership ===

    /// Tries a change again while nobody leads: then it certainly was not made.
    async fn until_led<T, F>(
        &self,
        mut change: impl FnMut() -> F + Send,
    ) -> Result<T, MembershipError>
    where
        F: Future<Output = Result<T, MembershipError>> + Send,
    {
        let deadline = Instant::now() + self.inner.limits.request_timeout;
        loop {
            let leader = self.leader();
            match change().await {
                Err(MembershipError::NotLeader { .. }) if Instant::now() < deadline => {
                    self.await_leader_news(leader).await;
                }
                Ok(changed) => {
                    self.see_change().await;
                    self.publish_status();
                    return Ok(changed);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Who asks this member next must see a change, wherever it was made. When no majority answers
    /// now, the change is made all the same.
    async fn see_change(&self) {
        if self.node(self.inner.caller.node_id).is_none() {
            // It is removed itself: nobody answers it any more.
            return;
        }
        if let Err(error) = self.read_barrier().await {
            tracing::warn!(%error, "the changed membership is not confirmed here yet");
        }
    }

    // === the leader's service ===

    /// Asks the service on this member, which must lead.
    pub async fn call_here(&self, request: Bytes) -> Result<Bytes, CallError> {
        let term = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.current_leader != Some(self.inner.caller.node_id) {
                return Err(CallError::NotLeader);
            }
            metrics.current_term
        };
        self.inner.service.call(term, request).await
    }

    async fn call_leader_once(&self, request: Bytes) -> Result<Bytes, CallError> {
        if self.leads() {
            return self.call_here(request).await;
        }
        let Some((to, mut client)) = self.leader_client() else {
            return Err(CallError::NoLeader);
        };
        let timeout = self.inner.limits.request_timeout;
        let request = self
            .inner
            .caller
            .request(to, proto::CallRequest { request });
        let answer = match tokio::time::timeout(timeout, client.call_leader(request)).await {
            Err(_) => {
                return Err(CallError::Timeout {
                    waited_ms: millis(timeout),
                });
            }
            Ok(Err(_)) => return Err(CallError::NoLeader),
            Ok(Ok(answer)) => answer.into_inner(),
        };
        match answer.result {
            Some(proto::call_response::Result::Response(response)) => Ok(response),
            Some(proto::call_response::Result::Failure(failure)) => Err(call_error(&failure)),
            None => Err(CallError::NoLeader),
        }
    }
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Group for Member {
    fn propose(&self, command: Bytes) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
        Box::pin(self.propose_until_deadline(command))
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async move {
            let (sender, receiver) = oneshot::channel();
            self.inner
                .barrier
                .send(sender)
                .await
                .map_err(|_| ReadError::Stopped)?;
            receiver.await.map_err(|_| ReadError::Stopped)?
        })
    }

    fn read(&self, read: &mut ReadFn<'_>) -> io::Result<()> {
        let result = self.inner.store.engine().read(read);
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::InvalidData
        {
            self.stop_damaged(error);
        }
        result
    }

    fn confirm_leadership(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        Box::pin(async move {
            // The read index belongs to the leadership that confirmed it: its term is the answer.
            let log_id = self.read_index_here().await?;
            Ok(log_id.committed_leader_id().term)
        })
    }

    fn call_leader(&self, request: Bytes) -> BoxFuture<'_, Result<Bytes, CallError>> {
        Box::pin(async move {
            let deadline = Instant::now() + self.inner.limits.request_timeout;
            loop {
                let leader = self.leader();
                match self.call_leader_once(request.clone()).await {
                    Err(CallError::NoLeader | CallError::NotLeader)
                        if Instant::now() < deadline =>
                    {
                        self.await_leader_news(leader).await;
                    }
                    result => return result,
                }
            }
        })
    }

    fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.inner.status.subscribe()
    }

    fn member_add(&self, member: NewMember) -> BoxFuture<'_, Result<MemberInfo, MembershipError>> {
        Box::pin(self.until_led(move || self.add(member.clone())))
    }

    fn member_join(&self, member: NewMember) -> BoxFuture<'_, Result<MemberInfo, MembershipError>> {
        Box::pin(self.until_led(move || self.join(member.clone())))
    }

    fn member_remove(&self, id: u64) -> BoxFuture<'_, Result<(), MembershipError>> {
        Box::pin(self.until_led(move || self.remove(id)))
    }

    fn member_promote(&self, id: u64) -> BoxFuture<'_, Result<(), MembershipError>> {
        Box::pin(self.until_led(move || self.promote(id)))
    }

    fn transfer_leader(&self, target: u64) -> BoxFuture<'_, Result<(), MembershipError>> {
        Box::pin(self.transfer(target))
    }

    fn disk_bytes(&self) -> io::Result<u64> {
        Ok(self.inner.log_engine.size_bytes()? + self.inner.store.engine().size_bytes()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_flight_are_bounded_by_count_bytes_and_the_disk() {
        let half = IN_FLIGHT_BYTES_MAX / 2;
        let all = InFlight::default();
        let first = all.admit(half, 0).expect("room");
        let second = all.admit(half, IN_FLIGHT_BYTES_MAX).expect("room");
        let full = Err(ProposeError::Overloaded { waiting: 2 });
        assert_eq!(all.admit(1, 0).map(|_| ()), full);
        drop(second);
        assert!(all.admit(half, 0).is_ok());
        assert!(
            all.admit(0, IN_FLIGHT_BYTES_MAX + 1).is_err(),
            "the disk is behind"
        );
        drop(first);
        let many: Vec<_> = (0..IN_FLIGHT_MAX).map(|_| all.admit(0, 0)).collect();
        assert!(many.iter().all(Result::is_ok));
        assert!(all.admit(0, 0).is_err());
        drop(many);
        assert!(
            all.admit(IN_FLIGHT_BYTES_MAX, 0).is_ok(),
            "all was given back"
        );
    }
}
