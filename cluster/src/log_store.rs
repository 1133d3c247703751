//! The log as openraft wants it, over any [`LogEngine`].
//!
//! Write path: `append` puts the entries into an in-memory tail, hands their bytes and the callback
//! to the flush thread and returns in microseconds. The thread drains all that is queued into one
//! batch and one sync, then calls the callbacks in order. While one sync runs, what arrives queues
//! up and becomes the next batch: group commit without a timer. Votes, truncations and purges go
//! through the same queue, so their order on disk is the order in which Raft asked for them.
//!
//! Invariants
//! - an entry is readable when `append` returns and acknowledged only when its sync is over;
//! - the tail holds every entry that is not durable yet;
//! - after one failed write nothing is ever written or acknowledged again (a second sync may report
//!   success for pages the kernel has dropped).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use cluster_core::log::{LogEngine, LogMeta, LogOp};
use openraft::OptionalSend;
use openraft::async_runtime::OneshotSender as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt as _;
use prost::Message;

use crate::log_entry::{damaged, entry_at};
use crate::log_tail::Tail;
use crate::types::{Entry, GroupTypes, LogId, Vote, entry_to, log_id_to, vote_to};

/// Requests that wait for the flush thread. Hardly ever full: commands are refused when the disk is
/// far behind, a follower has 64 append requests at a time, and votes, truncations and purges are
/// few. When it is full, Raft waits.
const FLUSH_QUEUE: usize = 16_384;

/// Bounds of the log store. All in bytes or counts, none may be zero.
#[derive(Debug, Clone, Copy)]
pub struct LogStoreOptions {
    /// Durable entries kept in memory for replication and apply, by the size of their commands.
    pub tail_bytes: usize,
    /// One read of a replication task; keeps an append request far below the transport's limit.
    pub read_bytes: usize,
}

/// Who runs the writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushMode {
    /// A thread of its own, as a server has it.
    Thread,
    /// Inside `append`, for tests that may have one thread only.
    Inline,
}

/// What waits to be written, for a caller that writes it itself ([`LogStore::open_driven`]): a
/// simulated disk takes time without taking a thread.
pub struct FlushQueue {
    receiver: tokio::sync::mpsc::Receiver<FlushRequest>,
    flusher: Flusher,
    shared: Weak<Shared>,
    batch: Option<FlushBatch>,
}

/// Figures for metrics and tests.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Synced batches written.
    pub syncs: AtomicU64,
    /// Entries in them.
    pub entries: AtomicU64,
}

/// The log store; clones share it. When the last one is dropped, all that was handed in is written
/// and nothing of the store holds the engine any more: that may take as long as a sync.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    /// Dropped after `shared`, without which the thread ends. Not part of it: the thread itself may
    /// be the last to hold that.
    thread: Option<Arc<FlushThread>>,
}

/// Waits for the flush thread when dropped.
struct FlushThread(Option<JoinHandle<()>>);

struct Shared {
    engine: Arc<dyn LogEngine>,
    options: LogStoreOptions,
    tail: Mutex<Tail>,
    flush: Flush,
    counters: Arc<LogCounters>,
    /// `None` once a write has failed.
    durable: tokio::sync::watch::Sender<Option<u64>>,
}

/// Last index of an append, and how often the log had been truncated by then: a sync that was under
/// way during a truncation says nothing about the entries that took the place of the truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Appended {
    index: u64,
    truncations: u64,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// It is durable, up to this entry when it held entries.
    Durable(Option<Appended>),
    /// Nothing is written any more.
    Failed,
}

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

struct FlushRequest {
    ops: Vec<LogOp>,
    /// What is durable when the request is.
    last: Option<Appended>,
    done: Option<Done>,
}

/// Requests that are written together.
struct FlushBatch {
    requests: Vec<FlushRequest>,
    last: Option<Appended>,
    /// Entries in it.
    entries: u64,
}

enum Flush {
    Thread(std_mpsc::SyncSender<FlushRequest>),
    Driven(tokio::sync::mpsc::Sender<FlushRequest>),
    Inline(Mutex<Flusher>),
}

/// Writes batches and remembers a failure.
struct Flusher {
    engine: Arc<dyn LogEngine>,
    counters: Arc<LogCounters>,
    failed: Option<(io::ErrorKind, String)>,
}

impl LogStore {
    /// Reads what the engine holds and starts the flush thread, which ends with the last clone.
    pub fn open(
        engine: Arc<dyn LogEngine>,
        mode: FlushMode,
        options: LogStoreOptions,
    ) -> io::Result<Self> {
        let tail = Tail::read(engine.as_ref())?;
        let flusher = Flusher::new(engine.clone());
        let counters = flusher.counters.clone();
        if mode == FlushMode::Inline {
            let flush = Flush::Inline(Mutex::new(flusher));
            return Ok(Self::over(engine, options, tail, flush, counters));
        }
        let (sender, receiver) = std_mpsc::sync_channel(FLUSH_QUEUE);
        let flush = Flush::Thread(sender);
        let mut store = Self::over(engine, options, tail, flush, counters);
        let weak = Arc::downgrade(&store.shared);
        let thread = std::thread::Builder::new()
            .name("log-flush".into())
            .spawn(move || {
                let written = |outcome| {
                    if let Some(shared) = weak.upgrade() {
                        shared.written(outcome);
                    }
                };
                flusher.run(&receiver, &written);
            })?;
        store.thread = Some(Arc::new(FlushThread(Some(thread))));
        Ok(store)
    }

    /// Reads what the engine holds; the caller writes what the queue gives it. The queue ends with
    /// the last clone of the store.
    pub fn open_driven(
        engine: Arc<dyn LogEngine>,
        options: LogStoreOptions,
    ) -> io::Result<(Self, FlushQueue)> {
        let tail = Tail::read(engine.as_ref())?;
        let flusher = Flusher::new(engine.clone());
        let counters = flusher.counters.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel(FLUSH_QUEUE);
        let store = Self::over(engine, options, tail, Flush::Driven(sender), counters);
        let queue = FlushQueue {
            receiver,
            flusher,
            shared: Arc::downgrade(&store.shared),
            batch: None,
        };
        Ok((store, queue))
    }

    fn over(
        engine: Arc<dyn LogEngine>,
        options: LogStoreOptions,
        tail: Tail,
        flush: Flush,
        counters: Arc<LogCounters>,
    ) -> Self {
        let durable = tokio::sync::watch::Sender::new(Some(tail.durable));
        Self {
            shared: Arc::new(Shared {
                engine,
                options,
                tail: Mutex::new(tail),
                flush,
                counters,
                durable,
            }),
            thread: None,
        }
    }

    /// Figures.
    pub fn counters(&self) -> Arc<LogCounters> {
        self.shared.counters.clone()
    }

    /// The last log id, durable or not.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.shared.tail().last
    }

    /// Bytes of entries that are in memory because they are not durable yet, about.
    pub fn backlog_bytes(&self) -> usize {
        let in_memory = self.shared.tail().bytes;
        in_memory.saturating_sub(self.shared.options.tail_bytes)
    }

    /// The last log id that was purged.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.tail().purged
    }

    /// Bytes of the entries after `index`, about.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.shared.tail().sizes.after(index)
    }

    /// The index after which about so many bytes of entries follow.
    pub(crate) fn index_before(&self, bytes: u64) -> u64 {
        self.shared.tail().sizes.index_before(bytes)
    }

    /// The log id that was last handed in as committed.
    pub fn committed(&self) -> Option<LogId> {
        self.shared.tail().committed
    }

    /// Returns when the log up to `index` is durable here. The state machine waits for it before it
    /// applies: a commit needs a majority of disks, and this one may not be among them yet. A state
    /// that reached the disk before its log could name an entry that the log does not hold.
    pub async fn wait_durable(&self, index: u64) -> io::Result<()> {
        let mut durable = self.shared.durable.subscribe();
        let reached = durable
            .wait_for(|durable| durable.is_none_or(|durable| durable >= index))
            .await
            .map_err(|_| io::Error::other("the log is closed"))?;
        match *reached {
            Some(_) => Ok(()),
            None => Err(io::Error::other("the log cannot be written any more")),
        }
    }

    /// The entries of the range that the log holds, in order; fewer, but at least one, when their
    /// sizes pass `max_bytes`.
    pub(crate) fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        loop {
            let (on_disk, truncations, held_to) = {
                let tail = self.shared.tail();
                let start = start.max(tail.first);
                let end = end.min(tail.last.map_or(0, |id| id.index() + 1));
                if start >= end {
                    return Ok(Vec::new());
                }
                let in_memory = tail.first_in_memory();
                if start >= in_memory {
                    return tail.copy(start - in_memory, end, max_bytes);
                }
                (start..end.min(in_memory), tail.truncations, end)
            };
            let mut found = Vec::new();
            let mut bytes = 0;
            for (index, encoded) in self.shared.engine.entries(on_disk.clone(), max_bytes)? {
                bytes += encoded.len();
                found.push(entry_at(index, encoded)?);
            }
            let next = on_disk.start + found.len() as u64;
            // A bounded read ends where the next entry would pass the bound: before it is reached.
            let missing = next < on_disk.end && (found.is_empty() || max_bytes == usize::MAX);
            let (first, truncations_now) = {
                let tail = self.shared.tail();
                (tail.first, tail.truncations)
            };
            if truncations_now != truncations || (missing && first > on_disk.start) {
                // Entries were taken away meanwhile: the log is another one now.
                continue;
            }
            if missing {
                return Err(damaged(format!(
                    "log entry {next} is not in the log, which should reach to {held_to}"
                )));
            }
            if next == on_disk.end && next < held_to && bytes < max_bytes {
                let left = match max_bytes {
                    usize::MAX => usize::MAX,
                    bounded => bounded - bytes,
                };
                found.extend(self.read(next, held_to, left)?);
            }
            return Ok(found);
        }
    }
}

// === impl FlushThread, Shared ===

impl Drop for FlushThread {
    fn drop(&mut self) {
        if self.0.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log's flush thread has panicked");
        }
    }
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a batch: what is durable now, or that nothing will be any more.
    fn written(&self, outcome: Outcome) {
        let last = match outcome {
            Outcome::Durable(Some(last)) => last,
            Outcome::Durable(None) => return,
            Outcome::Failed => {
                self.durable.send_replace(None);
                return;
            }
        };
        let mut tail = self.tail();
        if tail.truncations != last.truncations {
            return;
        }
        tail.durable = tail.durable.max(last.index);
        tail.evict(self.options.tail_bytes);
        self.durable.send_replace(Some(tail.durable));
    }

    fn submit(&self, request: FlushRequest) -> io::Result<()> {
        match &self.flush {
            Flush::Thread(sender) => sender
                .send(request)
                .map_err(|_| io::Error::other("the log's flush thread has stopped")),
            Flush::Driven(sender) => sender
                .try_send(request)
                .map_err(|error| io::Error::other(format!("the log's flush queue: {error}"))),
            Flush::Inline(flusher) => {
                let mut flusher = flusher.lock().unwrap_or_else(PoisonError::into_inner);
                let outcome = flusher.write(vec![request]);
                drop(flusher);
                self.written(outcome);
                Ok(())
            }
        }
    }
}

// === impl Flusher ===

impl Flusher {
    fn new(engine: Arc<dyn LogEngine>) -> Self {
        Self {
            engine,
            counters: Arc::default(),
            failed: None,
        }
    }

    /// Writes until the last sender is gone.
    fn run(mut self, receiver: &std_mpsc::Receiver<FlushRequest>, written: &dyn Fn(Outcome)) {
        while let Ok(first) = receiver.recv() {
            let mut requests = vec![first];
            requests.extend(receiver.try_iter());
            written(self.write(requests));
        }
    }

    /// One batch, one sync, then the callbacks in order.
    fn write(&mut self, requests: Vec<FlushRequest>) -> Outcome {
        let (batch, ops) = FlushBatch::of(requests);
        let result = if self.failed.is_none() {
            self.engine.write(&ops)
        } else {
            Ok(())
        };
        self.finish(batch, result)
    }

    /// Takes note of what became of a batch and calls its callbacks in order.
    fn finish(&mut self, batch: FlushBatch, result: io::Result<()>) -> Outcome {
        match (&self.failed, result) {
            (Some(_), _) => {}
            (None, Ok(())) => {
                self.counters.syncs.fetch_add(1, Ordering::Relaxed);
                let entries = &self.counters.entries;
                entries.fetch_add(batch.entries, Ordering::Relaxed);
            }
            (None, Err(error)) => {
                tracing::error!(%error, "the log cannot be written: this member stops");
                self.failed = Some((error.kind(), error.to_string()));
            }
        }
        for request in batch.requests {
            if let Some(done) = request.done {
                done(match &self.failed {
                    None => Ok(()),
                    Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
                });
            }
        }
        match self.failed {
            None => Outcome::Durable(batch.last),
            Some(_) => Outcome::Failed,
        }
    }
}

// === impl FlushBatch, FlushQueue ===

impl FlushBatch {
    /// The requests as one, and their changes.
    fn of(mut requests: Vec<FlushRequest>) -> (Self, Vec<LogOp>) {
        let last = requests
            .iter()
            .filter_map(|request| request.last)
            .next_back();
        let ops: Vec<LogOp> = requests
            .iter_mut()
            .flat_map(|request| std::mem::take(&mut request.ops))
            .collect();
        let appends = ops
            .iter()
            .filter(|op| matches!(op, LogOp::Append { .. }))
            .count();
        let batch = Self {
            requests,
            last,
            entries: appends as u64,
        };
        (batch, ops)
    }
}

impl FlushQueue {
    /// The changes of the next batch: all that waits. `None` when the store is gone. Nothing comes
    /// any more after a failure.
    pub async fn next(&mut self) -> Option<Vec<LogOp>> {
        loop {
            let mut requests = vec![self.receiver.recv().await?];
            while let Ok(request) = self.receiver.try_recv() {
                requests.push(request);
            }
            let (batch, ops) = FlushBatch::of(requests);
            self.batch = Some(batch);
            if self.flusher.failed.is_none() {
                return Some(ops);
            }
            self.finish(Ok(()));
        }
    }

    /// Says what became of the batch: `Ok` that it is durable.
    pub fn finish(&mut self, result: io::Result<()>) {
        let Some(batch) = self.batch.take() else {
            return;
        };
        let outcome = self.flusher.finish(batch, result);
        if let Some(shared) = self.shared.upgrade() {
            shared.written(outcome);
        }
    }
}

// === impl RaftLogReader, RaftLogStorage ===

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl<C: GroupTypes> RaftLogReader<C> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.tail().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, self.shared.options.read_bytes)?;
        // A replication task that is behind the purge (defect S4, `sent.rs`) gets nothing:
        // what is left would follow its own last entry with a gap.
        let follows = |entry: &Entry| entry.log_id.index() == start;
        Ok(if entries.first().is_some_and(follows) {
            entries
        } else {
            Vec::new()
        })
    }
}

impl<C: GroupTypes> RaftLogStorage<C> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        let tail = self.shared.tail();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (sender, receiver) = C::oneshot::<io::Result<()>>();
        let value = vote_to(vote).encode_to_vec().into();
        self.shared.submit(FlushRequest {
            ops: vec![LogOp::SetMeta {
                meta: LogMeta::Vote,
                value,
            }],
            last: None,
            done: Some(Box::new(move |result| {
                // The receiver is gone only when Raft has stopped.
                let _ = sender.send(result);
            })),
        })?;
        receiver
            .await
            .map_err(|_| io::Error::other("the log's flush thread has stopped"))??;
        self.shared.tail().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut tail = self.shared.tail();
        tail.committed = committed;
        tail.committed_is_new = committed.is_some();
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        // A log that was cut since (by an operator's tool) must not name what it does not hold.
        let tail = self.shared.tail();
        Ok(tail.committed.min(tail.last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut ops = Vec::new();
        let mut last = None;
        {
            let mut tail = self.shared.tail();
            for entry in entries {
                let index = entry.log_id.index();
                last = Some(Appended {
                    index,
                    truncations: tail.truncations,
                });
                let encoded = entry_to(&entry).encode_to_vec().into();
                ops.push(LogOp::Append {
                    index,
                    entry: encoded,
                });
                tail.push(entry);
            }
            ops.extend(tail.take_committed());
        }
        self.shared.submit(FlushRequest {
            ops,
            last,
            done: Some(Box::new(move |result| callback.io_completed(result))),
        })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        {
            let mut tail = self.shared.tail();
            if tail.last <= last {
                return Ok(());
            }
            tail.truncate_after(last);
            let durable = tail.durable;
            self.shared
                .durable
                .send_modify(|now| *now = now.map(|_| durable));
        }
        let from = last.map_or(0, |id| id.index() + 1);
        self.shared.submit(FlushRequest {
            ops: vec![LogOp::TruncateFrom { from }],
            last: None,
            done: None,
        })
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.shared.tail().purge(log_id);
        let value = log_id_to(&log_id).encode_to_vec().into();
        self.shared.submit(FlushRequest {
            ops: vec![
                LogOp::PurgeTo { to: log_id.index() },
                LogOp::SetMeta {
                    meta: LogMeta::Purged,
                    value,
                },
            ],
            last: None,
            done: None,
        })
    }
}
