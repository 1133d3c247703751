//! The mirror: a local copy of a prefix that follows the group and says how fresh it is.
//!
//! One task loads the prefix, watches from the next revision on, and sends a barrier (a small
//! linearizable read) each third of the freshness limit. After a compaction that it has missed, or
//! when another group answers, it loads again; the difference reaches subscribers like any other
//! change. When barriers say that the group goes on and the watch says nothing, the watch moves to
//! another member.

use crate::Client;
use crate::clock::Moment;
use crate::error::{KvError, WatchError, show_key};
use crate::kv::{Get, GetReply, KeyValue};
use crate::mirror::{Barrier, Change, Copied, Freshness, Keep, MirrorState};
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

/// Least silence of a watch that must have something to say before it moves to another member; it
/// doubles with each move, so that a slow member is not left for ever before it speaks.
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// Longest such silence.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A watch that was followed for so long has worked: the next load need not wait.
const LASTED: Duration = Duration::from_secs(10);

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
    following: Following<Copied>,
    /// Counts changes of the copy and of its confirmation; its sender lives as long as `following`.
    counter: watch::Receiver<u64>,
    batches: broadcast::Sender<MirrorBatch>,
}

/// Follows all keys with one prefix, and makes of them what `K` does. Dropping it ends the task
/// that follows the group.
#[derive(Debug)]
pub struct Following<K: Keep> {
    shared: Arc<Shared<K>>,
    task: JoinHandle<()>,
}

impl<K: Keep> Following<K> {
    /// Looks at what was made of the keys, and how fresh it is. Nothing changes meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&MirrorState<K>) -> T) -> T {
        look(&self.shared.read())
    }

    /// Changes what is made of the keys; then what follows a change of keys is done too, with the
    /// changes that it gives.
    pub fn change(&self, change: impl FnOnce(&mut MirrorState<K>) -> K::Changes) {
        self.shared.change(|state| Some(change(state)));
    }

    /// What keeps it from being fresh, if anything is known.
    pub fn problem(&self) -> Option<String> {
        let problem = self.shared.problem.read();
        problem.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<K: Keep> Drop for Following<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Called after each change with what it was; none when only the confirmation is another.
type After<K> = Box<dyn Fn(&mut MirrorState<K>, Option<<K as Keep>::Changes>) + Send + Sync>;

struct Shared<K: Keep> {
    state: RwLock<MirrorState<K>>,
    after: After<K>,
    problem: RwLock<Option<String>>,
}

impl<K: Keep + std::fmt::Debug> std::fmt::Debug for Shared<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("state", &self.state)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

impl<K: Keep> Shared<K> {
    fn read(&self) -> RwLockReadGuard<'_, MirrorState<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then tells whoever wants to know.
    fn change(&self, change: impl FnOnce(&mut MirrorState<K>) -> Option<K::Changes>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let changes = change(&mut state);
        (self.after)(&mut state, changes);
    }

    fn report(&self, problem: Option<String>) {
        *self.problem.write().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

impl Mirror {
    /// The key as the copy has it, whatever its freshness.
    pub fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.following.shared.read().keys().get(key).cloned()
    }

    /// The key with the freshness of exactly this copy: what to serve from. (The answers of
    /// [`Mirror::get`] and [`Mirror::freshness`] may belong to two copies.)
    pub fn look(&self, key: &[u8]) -> (Option<KeyValue>, Freshness) {
        let state = self.following.shared.read();
        let found = state.keys().get(key).cloned();
        (found, state.freshness(Moment::now()))
    }

    /// All keys, with the freshness of exactly this copy.
    pub fn snapshot(&self) -> (BTreeMap<Bytes, KeyValue>, Freshness) {
        let state = self.following.shared.read();
        (state.keys().clone(), state.freshness(Moment::now()))
    }

    /// How far the copy can be trusted now.
    pub fn freshness(&self) -> Freshness {
        self.following.shared.read().freshness(Moment::now())
    }

    /// All changes up to this revision are in the copy; 0 before the first load.
    pub fn confirmed_revision(&self) -> i64 {
        self.following.shared.read().revision()
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
        self.following.problem()
    }

    /// Waits until the copy or its confirmation has changed since the last call.
    pub async fn changed(&mut self) {
        // The sender lives as long as this value.
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
    /// Subscribe first and take the first snapshot then: batches that it holds already come again,
    /// none is missed.
    pub fn subscribe(&self) -> broadcast::Receiver<MirrorBatch> {
        self.batches.subscribe()
    }
}

impl Client {
    /// Follows all keys that start with `prefix`. Returns at once, with a copy that is
    /// [`Freshness::Never`] fresh: see [`Mirror::fresh_within`]. A confirmation is good for
    /// `limit`; it is renewed each third of that.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn mirror(&self, prefix: impl Into<Bytes>, limit: Duration) -> Mirror {
        let (counter, counter_rx) = watch::channel(0);
        let (batches, _) = broadcast::channel(SUBSCRIBER_BUFFER);
        let sender = batches.clone();
        let after = move |state: &mut MirrorState, changes: Option<Vec<Change>>| {
            if let Some(changes) = changes.filter(|changes| !changes.is_empty()) {
                let (revision, changes) = (state.revision(), Arc::new(changes));
                // Without subscribers there is nobody to tell.
                let _ = sender.send(MirrorBatch { revision, changes });
            }
            counter.send_modify(|counter| *counter += 1);
        };
        Mirror {
            following: self.follow(prefix, limit, Copied::default(), after),
            counter: counter_rx,
            batches,
        }
    }

    /// As [`Client::mirror`], for one who makes something of the keys and needs no copy of them.
    ///
    /// `after` is called after each change, with what it was, and after each confirmation of the
    /// group, with none. It must not wait: nothing is followed meanwhile.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn follow<K>(
        &self,
        prefix: impl Into<Bytes>,
        limit: Duration,
        kept: K,
        after: impl Fn(&mut MirrorState<K>, Option<K::Changes>) + Send + Sync + 'static,
    ) -> Following<K>
    where
        K: Keep + Send + Sync + 'static,
    {
        let shared = Arc::new(Shared {
            state: RwLock::new(MirrorState::keeping(kept, limit)),
            after: Box::new(after),
            problem: RwLock::new(None),
        });
        let task = Task {
            client: self.clone(),
            prefix: prefix.into(),
            // Never zero, which a timer would refuse.
            period: (limit / 3).max(Duration::from_millis(1)),
            shared: Arc::clone(&shared),
        };
        Following {
            shared,
            task: tokio::spawn(task.run()),
        }
    }
}

struct Task<K: Keep> {
    client: Client,
    prefix: Bytes,
    period: Duration,
    shared: Arc<Shared<K>>,
}

impl<K: Keep> Task<K> {
    async fn run(self) {
        let mut round = 0;
        loop {
            match self.load().await {
                Ok((watch, cluster_id)) => {
                    self.shared.report(None);
                    let began = Moment::now();
                    let end = self.follow(watch, cluster_id).await;
                    tracing::debug!(prefix = show_key(&self.prefix), %end, "mirror loads again");
                    self.shared.report(Some(end.to_string()));
                    if Moment::now().since(began) >= LASTED {
                        round = 0;
                    }
                }
                Err(problem) => self.shared.report(Some(problem)),
            }
            let pause = backoff(round, &mut rand::rng());
            tokio::time::sleep(pause).await;
            round = (round + 1).min(16);
        }
    }

    /// Loads the copy; the watch that goes on from it, and the group that it belongs to.
    async fn load(&self) -> Result<(Watch, u64), String> {
        let sent = Moment::now();
        let all = self.client.get_all(self.prefix.clone(), PAGE).await;
        let all = all.map_err(|error| error.to_string())?;
        self.shared
            .change(|state| Some(state.load(all.kvs, all.revision, sent)));
        let options = WatchOptions::prefix(self.prefix.clone())
            .from_revision(all.revision.saturating_add(1))
            .progress();
        let watch = self.client.watch(options).await;
        let watch = watch.map_err(|error| error.to_string())?;
        Ok((watch, all.cluster_id))
    }

    async fn follow(&self, mut watch: Watch, cluster_id: u64) -> WatchError {
        let mut barrier = std::pin::pin!(self.next_barrier());
        let mut silence = Silence::new(self.period);
        loop {
            let item = tokio::select! {
                item = watch.next() => item,
                answered = &mut barrier => {
                    if let Err(end) = self.confirm(&answered, cluster_id, &watch, &mut silence) {
                        return end;
                    }
                    barrier.set(self.next_barrier());
                    continue;
                }
            };
            silence.broken();
            match item {
                Some(Ok(item)) => self.shared.change(|state| Some(state.apply(item))),
                Some(Err(error)) => return error,
                None => {
                    return WatchError::Cancelled {
                        reason: "its task ended".into(),
                    };
                }
            }
        }
    }

    /// Takes a barrier's answer, and asks the watch for what is missing.
    fn confirm(
        &self,
        answered: &Answered,
        cluster_id: u64,
        watch: &Watch,
        silence: &mut Silence,
    ) -> Result<(), WatchError> {
        let &Answered {
            revision,
            sent,
            copy,
            ..
        } = answered;
        // One that does not say which group it belongs to is believed.
        if answered.cluster_id != cluster_id && answered.cluster_id != 0 && cluster_id != 0 {
            return Err(WatchError::Cancelled {
                reason: format!(
                    "another group answers: cluster {:x}, the copy is of {cluster_id:x}",
                    answered.cluster_id
                ),
            });
        }
        let mut outcome = Barrier::Waiting;
        self.shared.change(|state| {
            outcome = state.barrier(revision, sent, copy);
            None
        });
        match outcome {
            Barrier::Reached => silence.broken(),
            Barrier::Waiting if silence.too_long(Moment::now()) => watch.remake(),
            Barrier::Waiting => watch.request_progress(),
            Barrier::WentBack => {
                return Err(WatchError::OutOfOrder {
                    what: format!("the group is at r{revision}, it was at r{copy}"),
                });
            }
        }
        Ok(())
    }

    /// The next barrier that was answered.
    async fn next_barrier(&self) -> Answered {
        loop {
            tokio::time::sleep(self.period).await;
            let copy = self.shared.read().revision();
            let sent = Moment::now();
            match self.barrier().await {
                Ok(reply) => {
                    self.shared.report(None);
                    return Answered {
                        revision: reply.revision,
                        cluster_id: reply.cluster_id,
                        sent,
                        copy,
                    };
                }
                Err(error) => self.shared.report(Some(error.to_string())),
            }
        }
    }

    async fn barrier(&self) -> Result<GetReply, KvError> {
        // One key of no importance: only the header matters.
        let key = if self.prefix.is_empty() {
            Bytes::from_static(&[0])
        } else {
            self.prefix.clone()
        };
        let get = Get::new(crate::Keys::One(key)).count_only();
        self.client.get(get).await
    }
}

/// A barrier with its answer.
struct Answered {
    /// Where the group was.
    revision: i64,
    /// Which group that is.
    cluster_id: u64,
    /// When it was sent.
    sent: Moment,
    /// Where the copy was then.
    copy: i64,
}

/// How long the watch has been silent though it must have something to say. Pure.
struct Silence {
    least: Duration,
    since: Option<Moment>,
    limit: Duration,
}

impl Silence {
    /// For barriers that come every `period`.
    fn new(period: Duration) -> Self {
        let least = SILENCE_MIN.max(period);
        Self {
            least,
            since: None,
            limit: least,
        }
    }

    /// It said something, or had nothing to say.
    fn broken(&mut self) {
        self.since = None;
        self.limit = self.least;
    }

    /// It should have spoken by `now`; whether it is time to leave the member.
    fn too_long(&mut self, now: Moment) -> bool {
        let since = *self.since.get_or_insert(now);
        if now.since(since) < self.limit {
            return false;
        }
        self.since = None;
        self.limit = (self.limit * 2).min(SILENCE_MAX.max(self.least));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_watch_is_left_after_a_while_that_doubles_until_it_speaks() {
        let mut silence = Silence::new(Duration::from_millis(10));
        let mut left_at = Vec::new();
        let at = |ms| Moment::since_boot(Duration::from_millis(ms));
        for ms in (0..10_000).step_by(100) {
            if silence.too_long(at(ms)) {
                left_at.push(ms);
            }
        }
        assert_eq!(left_at, [1000, 3100, 7200]);
        silence.broken();
        assert!(!silence.too_long(at(20_000)));
        assert!(silence.too_long(at(21_000)));
    }
}
