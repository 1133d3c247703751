//! Where commits meet watchers: recent history in memory, and an index of those who wait.
//!
//! ```text
//!  apply thread ─ publish ─► Hub ─ matching commits ─► Inbox of a stream ─► its task ─► client
//!                            │ recent commits                                ▲
//!                            └────────── a watcher that is behind ────────────┘ (or the store)
//! ```
//!
//! Why an inbox with a bound and not a channel: publishing never waits. A stream whose inbox is
//! full is told the first revision it missed, and reads from there itself.
//!
//! Invariants
//! - a watcher is in the index exactly while everything before its place was given to it and
//!   everything from there on will be put into its stream's inbox, or the inbox says what it
//!   missed.
//! - `recent` holds all commits from its first to `published`, without a gap.
//! - memory is bounded: by `RECENT_*` and `WATCHERS_MAX` for the hub, by `INBOX_*` for each stream.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cfgsvc_core::Floor;
use tokio::sync::Notify;

use super::commit::{Commit, as_compacted};
use super::cursor::Cursor;
use super::index::Index;

/// Commits kept in memory: some seconds of full speed, so that a stream that stumbles need not go
/// to the store.
const RECENT_COMMITS: usize = 16_384;
/// Bytes of commits kept in memory.
const RECENT_BYTES: usize = 32 << 20;
/// Commits waiting for one stream; a stream that has more is better served from the recent ones.
const INBOX_DELIVERIES: usize = 4_096;
/// Bytes of commits waiting for one stream. They are shared with the recent ones and other streams,
/// but in the worst case only this stream still holds them.
const INBOX_BYTES: usize = 4 << 20;

/// What a stream finds in its inbox.
#[derive(Debug, Default, PartialEq)]
pub struct Deliveries {
    /// Watch id and commit, by revision.
    pub commits: Vec<(i64, Arc<Commit>)>,
    /// The inbox overflowed: nothing from this revision on is complete.
    pub missed_from: Option<i64>,
    bytes: usize,
}

/// Watchers of one member: some 500 MB with short keys.
const WATCHERS_MAX: usize = 1_000_000;

/// Commits on the way to one stream.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<Deliveries>,
    filled: Notify,
}

impl Inbox {
    /// Waits until there is something.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Empties it.
    pub fn take(&self) -> Deliveries {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Deliveries> {
        // No code panics while it holds the lock; what it guards is whole in any case.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, watch_id: i64, commit: &Arc<Commit>) {
        let mut waiting = self.lock();
        if waiting.missed_from.is_some() {
            return;
        }
        // Many watchers of one stream may share a commit; its memory counts once.
        let shared = waiting
            .commits
            .last()
            .is_some_and(|(_, last)| Arc::ptr_eq(last, commit));
        let bytes = if shared { 0 } else { commit.size_bytes };
        let full = waiting.commits.len() >= INBOX_DELIVERIES
            || (waiting.bytes > 0 && waiting.bytes + bytes > INBOX_BYTES);
        if full {
            waiting.missed_from = Some(commit.revision);
        } else {
            waiting.bytes += bytes;
            waiting.commits.push((watch_id, Arc::clone(commit)));
        }
        drop(waiting);
        self.filled.notify_one();
    }
}

/// A stream's place in the hub. Dropping it takes all its watchers out.
pub struct Stream {
    hub: Arc<Hub>,
    id: u64,
    inbox: Arc<Inbox>,
    /// Its watchers, in the index or not.
    watchers: usize,
}

/// A watcher in the index.
#[derive(Debug)]
struct Waiting {
    /// Commits before this revision are not for it.
    next: i64,
    inbox: Arc<Inbox>,
}

#[derive(Debug, Default)]
struct State {
    published: i64,
    floor: Floor,
    recent: VecDeque<Arc<Commit>>,
    recent_bytes: usize,
    streams: u64,
    waiting: Index<Waiting>,
    /// Watchers of all streams, in the index or not.
    watchers: usize,
}

/// Where commits meet watchers.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    watchers_max: usize,
}

impl Default for Hub {
    fn default() -> Self {
        Self::for_watchers(WATCHERS_MAX)
    }
}

impl Hub {
    /// A hub for so many watchers.
    pub fn for_watchers(watchers_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            watchers_max,
        }
    }

    /// Starts from the state at `published`: at start, and after a snapshot was installed. Waiting
    /// watchers are told to read what they have not got.
    pub fn reset(&self, published: i64, floor: Floor) {
        let mut state = self.lock();
        let missed_from = state.published + 1;
        state.recent.clear();
        state.recent_bytes = 0;
        state.published = published;
        state.floor = floor;
        if published < missed_from {
            return;
        }
        for watcher in state.waiting.all() {
            watcher.inbox.lock().missed_from.get_or_insert(missed_from);
            watcher.inbox.filled.notify_one();
        }
    }

    /// Hands out commits that have just become visible, in order. `compacted` is the revision below
    /// which history cannot be read any more.
    pub fn publish(&self, commits: Vec<Arc<Commit>>, compacted: i64) {
        let mut state = self.lock();
        state.floor.compacted = state.floor.compacted.max(compacted);
        for commit in commits {
            assert!(
                commit.revision == state.published + 1,
                "revision {} was published after {}",
                commit.revision,
                state.published
            );
            state.deliver(&commit);
            state.published = commit.revision;
            state.remember(commit);
        }
    }

    /// The last revision that was published.
    pub fn published(&self) -> i64 {
        self.lock().published
    }

    /// What of the past cannot be read any more.
    pub fn floor(&self) -> Floor {
        self.lock().floor
    }

    /// A place for a new stream.
    pub fn stream(self: &Arc<Self>) -> Stream {
        let mut state = self.lock();
        state.streams += 1;
        Stream {
            hub: Arc::clone(self),
            id: state.streams,
            inbox: Arc::default(),
            watchers: 0,
        }
    }

    /// Count of watchers that are in the index.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Count of all watchers, those that are behind included.
    pub fn watchers(&self) -> usize {
        self.lock().watchers
    }

    /// Commits in memory from `next` on, at most `limit_bytes` of them but at least one; `None`
    /// when the first of them is not in memory.
    pub fn recent(&self, next: i64, limit_bytes: usize) -> Option<Vec<Arc<Commit>>> {
        let state = self.lock();
        let first = state.recent.front()?.revision;
        let skip = usize::try_from(next - first).ok()?;
        let mut bytes = 0;
        let commits: Vec<_> = state
            .recent
            .iter()
            .skip(skip)
            .take_while(|commit| {
                let fits = bytes == 0 || bytes + commit.size_bytes <= limit_bytes;
                bytes += commit.size_bytes;
                fits
            })
            .cloned()
            .collect();
        (!commits.is_empty()).then_some(commits)
    }

    /// The same as watchers may see them now that history is compacted, and the revision to go on
    /// from.
    pub fn recent_seen(&self, next: i64, limit_bytes: usize) -> Option<(Vec<Arc<Commit>>, i64)> {
        let commits = self.recent(next, limit_bytes)?;
        let compacted = self.floor().compacted;
        let next = commits.last()?.revision + 1;
        let seen = commits
            .into_iter()
            .map(|commit| as_compacted(commit, compacted));
        Some((seen.collect(), next))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The one panic under the lock is the assertion in `publish`, which stops the member.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn deliver(&self, commit: &Arc<Commit>) {
        // A watcher of several keys of one commit gets it once.
        let mut given = BTreeSet::new();
        let once = commit.events.len() == 1;
        for key in commit
            .events
            .iter()
            .filter_map(|event| Some(&event.kv.as_ref()?.key))
        {
            for (id, waiting) in self.waiting.of_key(key) {
                if commit.revision >= waiting.next && (once || given.insert(id)) {
                    waiting.inbox.push(id.1, commit);
                }
            }
        }
    }

    fn remember(&mut self, commit: Arc<Commit>) {
        self.recent_bytes += commit.size_bytes;
        self.recent.push_back(commit);
        while self.recent.len() > RECENT_COMMITS || self.recent_bytes > RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else {
                return;
            };
            self.recent_bytes -= oldest.size_bytes;
        }
    }
}

impl Stream {
    /// Where its commits arrive.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Counts one more watcher of this stream; `false` when the hub has as many as it may.
    pub fn admit(&mut self) -> bool {
        let mut state = self.hub.lock();
        let admitted = state.watchers < self.hub.watchers_max;
        if admitted {
            state.watchers += 1;
            self.watchers += 1;
        }
        admitted
    }

    /// Counts one watcher less.
    pub fn dismiss(&mut self) {
        if let Some(left) = self.watchers.checked_sub(1) {
            self.watchers = left;
            self.hub.lock().watchers -= 1;
        }
    }

    /// Puts a watcher into the index if it lacks nothing that was published; says whether it did.
    pub fn join(&self, watch_id: i64, cursor: &Cursor) -> bool {
        let mut state = self.hub.lock();
        if cursor.next() <= state.published {
            return false;
        }
        let id = (self.id, watch_id);
        let waiting = Waiting {
            next: cursor.next(),
            inbox: Arc::clone(&self.inbox),
        };
        state.waiting.insert(id, cursor.interest(), waiting);
        true
    }

    /// Takes a watcher out of the index. What is in the inbox for it stays there.
    pub fn leave(&self, watch_id: i64) {
        self.hub.lock().waiting.remove((self.id, watch_id));
    }

    /// Takes all watchers out of the index and empties the inbox.
    pub fn leave_all(&self) {
        let mut state = self.hub.lock();
        for id in state.waiting.of_stream(self.id) {
            state.waiting.remove(id);
        }
        self.inbox.take();
    }

    /// The revision up to which every watcher of this stream that is in the index has got
    /// everything; `None` while something waits in the inbox.
    pub fn confirmed(&self) -> Option<i64> {
        let state = self.hub.lock();
        let waiting = self.inbox.lock();
        (waiting.commits.is_empty() && waiting.missed_from.is_none()).then_some(state.published)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.leave_all();
        self.hub.lock().watchers -= self.watchers;
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
