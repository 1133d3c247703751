//! A mirror's state: a copy of a prefix, and how fresh it is. Pure: `follow` is the shell.
//!
//! Two facts make a copy fresh, and both are needed:
//! - a *barrier*: a linearizable read that was sent at moment T answered with revision R, so the
//!   group, not just one node, was at R or before it when T was;
//! - *completeness*: the watch has delivered everything up to R.
//!
//! Then the copy shows the group as it was at T or later, and it is fresh until T + limit. Progress
//! from one member alone never makes it fresh: a member that is cut off can be complete up to its
//! own old revision for ever.
//!
//! A copy that is not fresh becomes so once, to stay so: only a barrier counts, which is one of
//! many that follow each other, and only one whose answer comes early enough for the next to be
//! answered before its time is over. When a link comes back, what was sent into the dark is
//! answered too: it would make a copy fresh for a moment.
//!
//! Invariants
//! - the revision and the moment of confirmation never go back, but for one case: a load after the
//!   group itself went back, because it was made anew from a snapshot;
//! - every key of the map belongs to a revision at or before `revision`, or is newer because its
//!   event came early; none is missing;
//! - at most [`BARRIERS_MAX`] barriers wait.

use crate::clock::Moment;
use crate::cursor::{Event, EventKind, WatchEvents};
use crate::kv::KeyValue;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Barriers that wait for the watch. Half as many are sent in the time of the limit; one that waits
/// for longer brings nothing.
const BARRIERS_MAX: usize = 16;

/// What is left of the limit, at least, when a copy becomes fresh: two of the periods in which the
/// next barriers are sent (see `contact`), as a part of the limit.
const LEFT_MIN: u32 = 4;

/// How far a copy can be trusted at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The group has not confirmed anything since this mirror was made.
    Never,
    /// The copy shows the group no older than the limit.
    Fresh {
        /// All changes up to this revision are in the copy.
        revision: i64,
        /// It stays fresh until then, without further contact.
        until: Moment,
    },
    /// Contact was lost.
    Stale {
        /// Since then.
        since: Moment,
        /// All changes up to this revision are in the copy.
        revision: i64,
    },
}

/// One key's change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Before; `None`: it did not exist.
    pub before: Option<KeyValue>,
    /// After; `None`: it does not exist.
    pub after: Option<KeyValue>,
}

/// What a mirror makes of the keys that it follows.
pub trait Keep {
    /// What it tells of a change.
    type Changes;

    /// Whether revisions that have come together are applied as one change: for who makes something
    /// of the keys that takes longer than to hear of them.
    const MERGES: bool = false;

    /// These are all keys; what was before is over.
    fn load(&mut self, kvs: Vec<KeyValue>) -> Self::Changes;

    /// One revision's events, in order; those of several, one after the other, where it
    /// [merges](Self::MERGES) them.
    fn apply(&mut self, events: Vec<Event>) -> Self::Changes;
}

/// Keeps the keys as they are.
#[derive(Debug, Default)]
pub struct Copied {
    keys: BTreeMap<Bytes, KeyValue>,
}

impl Keep for Copied {
    /// Each key that is not as it was.
    type Changes = Vec<Change>;

    fn load(&mut self, kvs: Vec<KeyValue>) -> Vec<Change> {
        let fresh: BTreeMap<Bytes, KeyValue> =
            kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        let before = std::mem::replace(&mut self.keys, fresh);
        let mut changes = Vec::new();
        for (key, old) in &before {
            let new = self.keys.get(key);
            if new != Some(old) {
                changes.push(change(key, Some(old.clone()), new.cloned()));
            }
        }
        for (key, new) in &self.keys {
            if !before.contains_key(key) {
                changes.push(change(key, None, Some(new.clone())));
            }
        }
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        changes
    }

    fn apply(&mut self, events: Vec<Event>) -> Vec<Change> {
        let mut changes = Vec::new();
        for event in events {
            let key = event.kv.key.clone();
            let (before, after) = match event.kind {
                EventKind::Put => {
                    let before = self.keys.insert(key.clone(), event.kv.clone());
                    (before, Some(event.kv))
                }
                EventKind::Delete => (self.keys.remove(&key), None),
            };
            if before != after {
                changes.push(Change { key, before, after });
            }
        }
        changes
    }
}

/// What a barrier leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// The copy has all that there was.
    Reached,
    /// The copy is behind: ask the watch for progress.
    Waiting,
    /// The group is at an earlier revision than it was: it was restored. Load again.
    WentBack,
}

/// The copy and what is known about it.
#[derive(Debug)]
pub struct MirrorState<K = Copied> {
    kept: K,
    /// Complete up to here; 0 before the first load.
    revision: i64,
    /// When the newest barrier was sent that the copy has reached.
    confirmed: Option<Moment>,
    /// Barriers that the copy has not reached, as they were answered: revision, moment of sending.
    barriers: VecDeque<(i64, Moment)>,
    limit: Duration,
}

impl MirrorState {
    /// Empty, and never confirmed; a confirmation is good for `limit`.
    pub fn new(limit: Duration) -> Self {
        Self::keeping(Copied::default(), limit)
    }

    /// The copy.
    pub fn keys(&self) -> &BTreeMap<Bytes, KeyValue> {
        &self.kept.keys
    }
}

impl<K: Keep> MirrorState<K> {
    /// As [`MirrorState::new`], for whatever is made of the keys; of none so far.
    pub fn keeping(kept: K, limit: Duration) -> Self {
        Self {
            kept,
            revision: 0,
            confirmed: None,
            barriers: VecDeque::new(),
            limit,
        }
    }

    /// All keys, as a linearizable read found them at `revision`. A barrier confirms them.
    pub fn load(&mut self, kvs: Vec<KeyValue>, revision: i64, now: Moment) -> K::Changes {
        let changes = self.kept.load(kvs);
        // A restored group may be at a lower revision: what was waited for will not come.
        if revision < self.revision {
            self.barriers.clear();
            self.revision = revision;
        }
        self.reached(revision, now);
        changes
    }

    /// What the watch delivered: the events of one revision, or progress.
    pub fn apply(&mut self, item: WatchEvents, now: Moment) -> K::Changes {
        let changes = self.kept.apply(item.events);
        self.reached(item.revision, now);
        changes
    }

    /// A linearizable read that was sent at `sent`, when the copy was at `copy_revision`, was
    /// answered at `now`, with `revision`.
    pub fn barrier(
        &mut self,
        revision: i64,
        (sent, now): (Moment, Moment),
        copy_revision: i64,
    ) -> Barrier {
        if revision < copy_revision {
            return Barrier::WentBack;
        }
        if self.revision == 0 {
            return Barrier::Waiting;
        }
        if revision <= self.revision {
            self.confirm(sent, now);
            return Barrier::Reached;
        }
        if self.barriers.len() >= BARRIERS_MAX {
            self.barriers.pop_front();
        }
        self.barriers.push_back((revision, sent));
        Barrier::Waiting
    }

    fn reached(&mut self, revision: i64, now: Moment) {
        self.revision = self.revision.max(revision);
        let mut newest = None;
        // One that was answered later may be reached earlier: answers overtake each other.
        self.barriers.retain(|&(wanted, sent)| {
            let reached = wanted <= self.revision;
            newest = newest.max(reached.then_some(sent));
            !reached
        });
        if let Some(sent) = newest {
            self.confirm(sent, now);
        }
    }

    fn confirm(&mut self, sent: Moment, now: Moment) {
        let is_fresh = matches!(self.freshness(now), Freshness::Fresh { .. });
        if is_fresh || now.until(sent + self.limit) >= self.limit / LEFT_MIN {
            self.confirmed = self.confirmed.max(Some(sent));
        }
    }

    /// How far the copy can be trusted at `now`.
    pub fn freshness(&self, now: Moment) -> Freshness {
        let revision = self.revision;
        match self.confirmed.map(|sent| sent + self.limit) {
            None => Freshness::Never,
            Some(until) if now < until => Freshness::Fresh { revision, until },
            Some(since) => Freshness::Stale { since, revision },
        }
    }

    /// All changes up to this revision are in the copy; 0 before the first load.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// What was made of the keys.
    pub fn kept(&self) -> &K {
        &self.kept
    }

    /// What was made of the keys, to go on with it.
    pub fn kept_mut(&mut self) -> &mut K {
        &mut self.kept
    }
}

fn change(key: &Bytes, before: Option<KeyValue>, after: Option<KeyValue>) -> Change {
    Change {
        key: key.clone(),
        before,
        after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_millis(100);

    fn moment(ms: u64) -> Moment {
        Moment::since_boot(Duration::from_millis(ms))
    }

    fn kv(key: u8, revision: i64) -> KeyValue {
        KeyValue {
            key: vec![key].into(),
            mod_revision: revision,
            ..KeyValue::default()
        }
    }

    /// A group in one variable: its keys at each revision and when it got there.
    #[derive(Clone, Debug)]
    enum Act {
        Put(u8),
        Delete(u8),
        /// The watch delivers the next revision.
        Deliver,
        Progress,
        Barrier,
        Reload,
        Wait(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let one = prop_oneof![
            4 => (0_u8..4).prop_map(Act::Put),
            2 => (0_u8..4).prop_map(Act::Delete),
            6 => Just(Act::Deliver),
            2 => Just(Act::Progress),
            3 => Just(Act::Barrier),
            1 => Just(Act::Reload),
            3 => (1_u64..60).prop_map(Act::Wait),
        ];
        prop::collection::vec(one, 1..120)
    }

    proptest! {
        #[test]
        fn a_fresh_copy_shows_the_group_no_older_than_the_limit(list in acts()) {
            let mut history = vec![(BTreeMap::new(), Vec::new(), 0_u64)];
            let mut state = MirrorState::new(LIMIT);
            let mut now = 0_u64;
            let mut shown = BTreeMap::new();
            for act in list {
                let newest = history.last().expect("it starts with one").0.clone();
                let current = history.len() as i64;
                let mut changes = Vec::new();
                match act {
                    Act::Put(key) => {
                        let kv = kv(key, current + 1);
                        let mut keys: BTreeMap<Bytes, KeyValue> = newest;
                        keys.insert(kv.key.clone(), kv.clone());
                        let event = Event { kind: EventKind::Put, kv, previous: None };
                        history.push((keys, vec![event], now));
                    }
                    Act::Delete(key) => {
                        let kv = kv(key, current + 1);
                        let mut keys = newest;
                        if keys.remove(&kv.key).is_some() {
                            let event = Event { kind: EventKind::Delete, kv, previous: None };
                            history.push((keys, vec![event], now));
                        }
                    }
                    Act::Deliver if state.revision() > 0 && state.revision() < current => {
                        let revision = state.revision() + 1;
                        let index = usize::try_from(revision - 1).expect("it is positive");
                        let events = history[index].1.clone();
                        changes = state.apply(WatchEvents { revision, events }, moment(now));
                    }
                    Act::Progress if state.revision() > 0 => {
                        let revision = state.revision();
                        state.apply(WatchEvents { revision, events: Vec::new() }, moment(now));
                    }
                    Act::Barrier => {
                        let copy = state.revision();
                        prop_assert_ne!(
                            state.barrier(current, (moment(now), moment(now)), copy),
                            Barrier::WentBack
                        );
                    }
                    Act::Reload => {
                        let kvs = newest.into_values().collect();
                        changes = state.load(kvs, current, moment(now));
                    }
                    Act::Wait(ms) => now += ms,
                    Act::Deliver | Act::Progress => {}
                }
                for change in changes {
                    prop_assert_eq!(shown.get(&change.key), change.before.as_ref());
                    match change.after {
                        Some(after) => shown.insert(change.key, after),
                        None => shown.remove(&change.key),
                    };
                }
                prop_assert_eq!(&shown, state.keys());
                if let Freshness::Fresh { revision, until } = state.freshness(moment(now)) {
                    let index = usize::try_from(revision - 1).expect("it is positive");
                    prop_assert_eq!(&history[index].0, state.keys());
                    // The next revision, if any, is younger than the limit.
                    if let Some((_, _, at)) = history.get(index + 1) {
                        prop_assert!(now - at <= 100, "stale by {} ms", now - at);
                    }
                    prop_assert!(moment(now).until(until) <= LIMIT);
                }
            }
        }
    }

    fn progress(revision: i64) -> WatchEvents {
        WatchEvents {
            revision,
            events: Vec::new(),
        }
    }

    fn fresh(revision: i64, until: u64) -> Freshness {
        Freshness::Fresh {
            revision,
            until: moment(until),
        }
    }

    /// Sent and answered at once.
    fn at_once(ms: u64) -> (Moment, Moment) {
        (moment(ms), moment(ms))
    }

    #[test]
    fn a_barrier_ahead_of_the_watch_counts_once_the_watch_has_reached_it() {
        let mut state = MirrorState::new(LIMIT);
        assert_eq!(state.barrier(3, at_once(1), 0), Barrier::Waiting);
        assert_eq!(state.freshness(moment(1)), Freshness::Never);
        state.load(Vec::new(), 3, moment(5));
        assert_eq!(state.barrier(3, at_once(6), 3), Barrier::Reached);
        assert_eq!(state.freshness(moment(6)), fresh(3, 106));
        assert_eq!(state.barrier(4, at_once(50), 3), Barrier::Waiting);
        let stale = Freshness::Stale {
            since: moment(106),
            revision: 3,
        };
        assert_eq!(state.freshness(moment(110)), stale);
        state.apply(progress(4), moment(110));
        assert_eq!(state.freshness(moment(110)), fresh(4, 150));
    }

    #[test]
    fn barriers_whose_answers_overtake_each_other_count_from_when_they_were_sent() {
        let mut state = MirrorState::new(LIMIT);
        state.load(Vec::new(), 3, moment(5));
        assert_eq!(state.barrier(9, at_once(20), 3), Barrier::Waiting);
        assert_eq!(state.barrier(8, at_once(30), 3), Barrier::Waiting);
        state.apply(progress(8), moment(31));
        assert_eq!(state.freshness(moment(40)), fresh(8, 130));
        // What was sent before takes nothing away.
        state.apply(progress(9), moment(40));
        assert_eq!(state.freshness(moment(40)), fresh(9, 130));
        // The newest of many count.
        for ms in 41..91 {
            assert_eq!(state.barrier(10, at_once(ms), 9), Barrier::Waiting);
        }
        state.apply(progress(10), moment(95));
        assert_eq!(state.freshness(moment(95)), fresh(10, 190));
    }

    #[test]
    fn copy_comes_back_by_what_lasts_and_not_by_late_answers() {
        let mut state = MirrorState::new(LIMIT);
        state.load(Vec::new(), 3, moment(5));
        assert_eq!(
            state.freshness(moment(5)),
            Freshness::Never,
            "not by a load"
        );
        // The link was down: what was sent at 10 is answered at 100, with 10 ms left.
        assert_eq!(
            state.barrier(3, (moment(10), moment(100)), 3),
            Barrier::Reached
        );
        assert_eq!(state.freshness(moment(100)), Freshness::Never);
        // A quarter is enough.
        assert_eq!(
            state.barrier(3, (moment(30), moment(105)), 3),
            Barrier::Reached
        );
        assert_eq!(state.freshness(moment(105)), fresh(3, 130));
        // To stay fresh, less than that is enough.
        assert_eq!(
            state.barrier(3, (moment(40), moment(129)), 3),
            Barrier::Reached
        );
        assert_eq!(state.freshness(moment(129)), fresh(3, 140));
        // Waiting for the watch makes an answer late too.
        assert_eq!(state.barrier(4, at_once(120), 3), Barrier::Waiting);
        state.apply(progress(4), moment(200));
        let stale = Freshness::Stale {
            since: moment(140),
            revision: 4,
        };
        assert_eq!(state.freshness(moment(200)), stale);
    }

    #[test]
    fn a_group_that_went_back_is_noticed_and_loaded_again() {
        let mut state = MirrorState::new(LIMIT);
        state.load(vec![kv(1, 9)], 9, moment(5));
        assert_eq!(state.barrier(3, at_once(6), 9), Barrier::WentBack);
        assert_eq!(state.load(Vec::new(), 3, moment(7)).len(), 1);
        assert_eq!(state.revision(), 3);
    }
}
