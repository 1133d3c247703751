//! The mirror: a local copy of a prefix that follows the group and says how fresh it is.
//!
//! One task loads the prefix, watches from the next revision on, and sends barriers (small
//! linearizable reads) several times in the freshness limit; `contact` says when, to whom, and when
//! the watch moves to another member. After a compaction that it has missed, or when another group
//! answers, it loads again; the difference reaches subscribers like any other change.

use crate::Client;
use crate::clock::{Moment, sleep_until};
use crate::contact::{Contact, WithWatch};
use crate::cursor::WatchEvents;
use crate::error::{WatchError, show_key};
use crate::kv::{Get, GetReply, KeyValue};
use crate::mirror::{Barrier, Change, Copied, Freshness, Keep, MirrorState};
use crate::route::backoff;
use crate::watch::{Watch, WatchOptions};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tonic::Response;

/// Keys in one page of the first load.
const PAGE: i64 = 1000;
/// Batches that a subscriber may be behind before it misses some and is told so.
const SUBSCRIBER_BUFFER: usize = 256;

/// Events after which a change is not merged with the next.
const MERGED_MAX: usize = 10_000;
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
    /// `limit`; it is renewed eight times in that.
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
            limit,
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
    /// For how long a confirmation counts.
    limit: Duration,
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
        let all = self.client.get_all(self.prefix.clone(), PAGE).await;
        let all = all.map_err(|error| with_causes(&error))?;
        self.shared
            .change(|state| Some(state.load(all.kvs, all.revision, Moment::now())));
        let options = WatchOptions::prefix(self.prefix.clone())
            .from_revision(all.revision.saturating_add(1))
            .attempt_timeout(Contact::patience(self.limit))
            .progress();
        let watch = self.client.watch(options).await;
        let watch = watch.map_err(|error| with_causes(&error))?;
        Ok((watch, all.cluster_id))
    }

    async fn follow(&self, mut watch: Watch, cluster_id: u64) -> WatchError {
        let mut contact = Contact::new(self.limit, Moment::now());
        let mut barriers = FuturesUnordered::new();
        loop {
            let item = tokio::select! {
                item = watch.next() => item,
                Some(asked) = barriers.next() => {
                    if let Err(end) = self.take(asked, cluster_id, &watch, &mut contact) {
                        return end;
                    }
                    continue;
                }
                () = sleep_until(contact.due()) => {
                    let turn = contact.turn(Moment::now());
                    match turn.watch {
                        WithWatch::Nothing => {}
                        WithWatch::Ask => watch.request_progress(),
                        WithWatch::Leave => watch.remake(),
                    }
                    barriers.push(self.barrier(turn.steps));
                    continue;
                }
            };
            contact.heard();
            match item {
                Some(Ok(item)) => {
                    if let Err(end) = self.apply(item, &mut watch) {
                        return end;
                    }
                }
                Some(Err(error)) => return error,
                None => {
                    return WatchError::Cancelled {
                        reason: "its task ended".into(),
                    };
                }
            }
        }
    }

    /// Applies what the watch delivered, and with it what else has come, if that may be.
    fn apply(&self, mut item: WatchEvents, watch: &mut Watch) -> Result<(), WatchError> {
        let mut ended = Ok(());
        while K::MERGES && ended.is_ok() && item.events.len() < MERGED_MAX {
            match watch.next_now() {
                Some(Ok(next)) => {
                    item.events.extend(next.events);
                    item.revision = item.revision.max(next.revision);
                }
                Some(Err(error)) => ended = Err(error),
                None => break,
            }
        }
        self.shared
            .change(|state| Some(state.apply(item, Moment::now())));
        ended
    }

    /// Takes what became of a barrier.
    fn take(
        &self,
        asked: Asked,
        cluster_id: u64,
        watch: &Watch,
        contact: &mut Contact,
    ) -> Result<(), WatchError> {
        let reply = match asked.reply {
            Ok(reply) => reply,
            Err(NoReply { why, at_once }) => {
                if contact.failed(asked.sent, at_once, Moment::now(), &mut rand::rng()) {
                    self.shared.report(Some(why));
                }
                return Ok(());
            }
        };
        self.shared.report(None);
        if contact.answered(asked.sent, asked.steps) {
            self.client.pool.prefer(asked.endpoint);
        }
        // One that does not say which group it belongs to is believed.
        if reply.cluster_id != cluster_id && reply.cluster_id != 0 && cluster_id != 0 {
            return Err(WatchError::Cancelled {
                reason: format!(
                    "another group answers: cluster {:x}, the copy is of {cluster_id:x}",
                    reply.cluster_id
                ),
            });
        }
        let (revision, copy) = (reply.revision, asked.copy);
        let mut outcome = Barrier::Waiting;
        self.shared.change(|state| {
            outcome = state.barrier(revision, (asked.sent, Moment::now()), copy);
            None
        });
        match outcome {
            Barrier::Reached => {}
            Barrier::Waiting => {
                contact.ahead(Moment::now());
                watch.request_progress();
            }
            Barrier::WentBack => {
                return Err(WatchError::OutOfOrder {
                    what: format!("the group is at r{revision}, it was at r{copy}"),
                });
            }
        }
        Ok(())
    }

    /// Asks the endpoint so many after the one in use where the group is, for as long as its answer
    /// would count.
    async fn barrier(&self, steps: usize) -> Asked {
        let endpoint = self.client.pool.after(steps);
        let copy = self.shared.read().revision();
        let sent = Moment::now();
        // One key of no importance: only the header matters.
        let key = if self.prefix.is_empty() {
            Bytes::from_static(&[0])
        } else {
            self.prefix.clone()
        };
        let get = Get::new(crate::Keys::One(key)).count_only().to_request();
        let answer = self.client.pool.ask(endpoint, get, |channel, request| {
            let mut kv = self.client.kv(channel);
            async move { kv.range(request).await.map(Response::into_inner) }
        });
        let reply = match tokio::time::timeout(self.limit, answer).await {
            Ok(Ok(reply)) => Ok(GetReply::of(reply)),
            Ok(Err(error)) => Err(NoReply {
                why: with_causes(&error),
                at_once: true,
            }),
            Err(_) => Err(NoReply {
                why: format!(
                    "no answer from {} within {} ms",
                    self.client.pool.name(endpoint),
                    self.limit.as_millis()
                ),
                at_once: false,
            }),
        };
        Asked {
            endpoint,
            steps,
            sent,
            copy,
            reply,
        }
    }
}

/// What an error says, and what its causes add to that.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

/// A barrier, and what became of it.
struct Asked {
    /// Who was asked.
    endpoint: usize,
    /// How far from the one in use that was.
    steps: usize,
    /// When.
    sent: Moment,
    /// Where the copy was then.
    copy: i64,
    /// Where the group was.
    reply: Result<GetReply, NoReply>,
}

/// A barrier that was not answered.
struct NoReply {
    why: String,
    /// It failed; else it was given up.
    at_once: bool,
}
