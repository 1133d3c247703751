//! The mirror: a local copy of a prefix that follows the group and says how fresh it is.
//!
//! One task loads the prefix, watches from the next revision on, and sends a barrier (a small
//! linearizable read) each third of the freshness limit. After a compaction that it has missed it
//! loads again; the difference reaches subscribers like any other change.

use crate::Client;
use crate::clock::Moment;
use crate::error::{KvError, WatchError, show_key};
use crate::kv::{Get, KeyValue};
use crate::mirror::{Barrier, Change, Freshness, MirrorState};
use crate::route::backoff;
use crate::watch::{Watch, WatchOptions};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

/// Keys in one page of the first load.
const PAGE: i64 = 1000;
/// Batches that a subscriber may be behind before it misses some and is told so.
const SUBSCRIBER_BUFFER: usize = 256;

/// What a subscriber gets: the changes of one revision, or of a reload.
#[derive(Clone, Debug)]
pub struct MirrorBatch {
    /// The copy is complete up to here.
    pub revision: i64,
    /// At least one.
    pub changes: Arc<Vec<Change>>,
}

/// A copy of all keys with one prefix. Dropping it ends the task that follows the group.
#[derive(Debug)]
pub struct Mirror {
    shared: Arc<Shared>,
    counter: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: RwLock<MirrorState>,
    /// Counts changes of the copy and of its confirmation.
    counter: watch::Sender<u64>,
    batches: broadcast::Sender<MirrorBatch>,
    problem: RwLock<Option<String>>,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, MirrorState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then tells those that wait.
    fn change(&self, change: impl FnOnce(&mut MirrorState) -> Vec<Change>) {
        let (changes, revision) = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let changes = change(&mut state);
            (changes, state.revision())
        };
        if !changes.is_empty() {
            let changes = Arc::new(changes);
            // Without subscribers there is nobody to tell.
            let _ = self.batches.send(MirrorBatch { revision, changes });
        }
        self.counter.send_modify(|counter| *counter += 1);
    }

    fn report(&self, problem: Option<String>) {
        *self.problem.write().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

impl Mirror {
    /// The key as the copy has it, whatever its freshness.
    pub fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.shared.read().keys().get(key).cloned()
    }

    /// All keys, with the freshness of exactly this copy.
    pub fn snapshot(&self) -> (BTreeMap<Bytes, KeyValue>, Freshness) {
        let state = self.shared.read();
        (state.keys().clone(), state.freshness(Moment::now()))
    }

    /// How far the copy can be trusted now.
    pub fn freshness(&self) -> Freshness {
        self.shared.read().freshness(Moment::now())
    }

    /// All changes up to this revision are in the copy; 0 before the first load.
    pub fn confirmed_revision(&self) -> i64 {
        self.shared.read().revision()
    }

    /// Until when the copy is fresh without further contact; `None` when it is not.
    pub fn confirmed_until(&self) -> Option<Moment> {
        match self.freshness() {
            Freshness::Fresh { until, .. } => Some(until),
            Freshness::Never | Freshness::Stale { .. } => None,
        }
    }

    /// What keeps it from being fresh, if anything is known.
    pub fn problem(&self) -> Option<String> {
        self.shared
            .problem
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the copy or its confirmation has changed since the last call.
    pub async fn changed(&mut self) {
        // The sender lives in `shared`, as long as this value.
        let _ = self.counter.changed().await;
    }

    /// Waits until the copy is fresh; false when that takes longer than `wait_max`.
    pub async fn fresh_within(&self, wait_max: Duration) -> bool {
        let mut counter = self.counter.clone();
        let wait = async {
            while self.confirmed_until().is_none() {
                counter.borrow_and_update();
                if self.confirmed_until().is_some() {
                    return;
                }
                // As above: the sender outlives this wait.
                let _ = counter.changed().await;
            }
        };
        tokio::time::timeout(wait_max, wait).await.is_ok()
    }

    /// All changes from now on. One who reads too slowly gets `Lagged` and should take a snapshot.
    pub fn subscribe(&self) -> broadcast::Receiver<MirrorBatch> {
        self.shared.batches.subscribe()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Follows all keys that start with `prefix`. Returns at once, with a copy that is
    /// [`Freshness::Never`] fresh: see [`Mirror::fresh_within`]. A confirmation is good for
    /// `limit`; it is renewed each third of that.
    pub fn mirror(&self, prefix: impl Into<Bytes>, limit: Duration) -> Mirror {
        let (counter, counter_rx) = watch::channel(0);
        let (batches, _) = broadcast::channel(SUBSCRIBER_BUFFER);
        let shared = Arc::new(Shared {
            state: RwLock::new(MirrorState::new(limit)),
            counter,
            batches,
            problem: RwLock::new(None),
        });
        let task = Task {
            client: self.clone(),
            prefix: prefix.into(),
            // Never zero, which a timer would refuse.
            period: (limit / 3).max(Duration::from_millis(1)),
            shared: Arc::clone(&shared),
        };
        Mirror {
            shared,
            counter: counter_rx,
            task: tokio::spawn(task.run()),
        }
    }
}

struct Task {
    client: Client,
    prefix: Bytes,
    period: Duration,
    shared: Arc<Shared>,
}

impl Task {
    async fn run(self) {
        let mut round = 0;
        loop {
            match self.load().await {
                Ok(watch) => {
                    round = 0;
                    self.shared.report(None);
                    let end = self.follow(watch).await;
                    tracing::debug!(prefix = show_key(&self.prefix), %end, "mirror loads again");
                    self.shared.report(Some(end.to_string()));
                }
                Err(problem) => self.shared.report(Some(problem)),
            }
            let pause = backoff(round, &mut rand::rng());
            tokio::time::sleep(pause).await;
            round = (round + 1).min(16);
        }
    }

    async fn load(&self) -> Result<Watch, String> {
        let sent = Moment::now();
        let all = self.client.get_all(self.prefix.clone(), PAGE).await;
        let all = all.map_err(|error| error.to_string())?;
        self.shared
            .change(|state| state.load(all.kvs, all.revision, sent));
        let options = WatchOptions::prefix(self.prefix.clone())
            .from_revision(all.revision + 1)
            .progress();
        self.client
            .watch(options)
            .await
            .map_err(|error| error.to_string())
    }

    async fn follow(&self, mut watch: Watch) -> WatchError {
        let mut barrier = std::pin::pin!(self.next_barrier());
        loop {
            let item = tokio::select! {
                item = watch.next() => item,
                (revision, sent, copy) = &mut barrier => {
                    let mut outcome = Barrier::Waiting;
                    self.shared.change(|state| {
                        outcome = state.barrier(revision, sent, copy);
                        Vec::new()
                    });
                    match outcome {
                        Barrier::Reached => {}
                        Barrier::Waiting => watch.request_progress(),
                        Barrier::WentBack => return WatchError::OutOfOrder {
                            what: format!("the group is at r{revision}, it was at r{copy}"),
                        },
                    }
                    barrier.set(self.next_barrier());
                    continue;
                }
            };
            match item {
                Some(Ok(item)) => self.shared.change(|state| state.apply(item)),
                Some(Err(error)) => return error,
                None => {
                    return WatchError::Cancelled {
                        reason: "its task ended".into(),
                    };
                }
            }
        }
    }

    /// The next barrier that was answered: its revision, when it was sent, and where the copy was.
    async fn next_barrier(&self) -> (i64, Moment, i64) {
        loop {
            tokio::time::sleep(self.period).await;
            let copy = self.shared.read().revision();
            let sent = Moment::now();
            match self.barrier().await {
                Ok(revision) => {
                    self.shared.report(None);
                    return (revision, sent, copy);
                }
                Err(error) => self.shared.report(Some(error.to_string())),
            }
        }
    }

    async fn barrier(&self) -> Result<i64, KvError> {
        // One key of no importance: only the revision in the header matters.
        let key = if self.prefix.is_empty() {
            Bytes::from_static(&[0])
        } else {
            self.prefix.clone()
        };
        let reply = self
            .client
            .get(Get::new(crate::Keys::One(key)).count_only())
            .await?;
        Ok(reply.revision)
    }
}
