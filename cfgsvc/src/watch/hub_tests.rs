//! Every watcher gets exactly what a plain filter over the history gives it, whatever happens to it
//! on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cfgsvc_proto::etcd::WatchCreateRequest;
use cfgsvc_proto::kv::{Event, KeyValue};
use proptest::prelude::*;

use super::super::commit::Commit;
use super::super::cursor::Cursor;
use super::*;

fn commit(revision: i64, keys: &[(u8, bool, usize)]) -> Arc<Commit> {
    let events = keys
        .iter()
        .map(|(key, delete, bytes)| Event {
            r#type: i32::from(*delete),
            kv: Some(KeyValue {
                key: vec![*key].into(),
                mod_revision: revision,
                value: vec![b'v'; *bytes].into(),
                ..KeyValue::default()
            }),
            prev_kv: None,
        })
        .collect();
    Arc::new(Commit::new(revision, events))
}

/// What can happen.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(u8, bool, usize)>),
    Watch {
        key: u8,
        end: Option<u8>,
        back: i64,
        filters: Vec<i32>,
    },
    Drain,
    CatchUp,
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![4 => 0usize..10, 1 => Just(1 << 20)];
    let change = (0u8..4, any::<bool>(), bytes);
    prop_oneof![
        6 => prop::collection::vec(change, 1..4).prop_map(Step::Commit),
        2 => (0u8..4, prop::option::of(1u8..6), -3i64..6, prop::collection::vec(0i32..2, 0..2))
            .prop_map(|(key, end, back, filters)| Step::Watch { key, end, back, filters }),
        2 => Just(Step::Drain),
        2 => Just(Step::CatchUp),
        1 => Just(Step::Snapshot),
    ]
}

struct Watcher {
    cursor: Cursor,
    start: i64,
    fresh: Cursor,
    live: bool,
    got: Vec<Event>,
}

/// A stream's task without its I/O, and the whole history as the store would have it.
struct World {
    hub: Arc<Hub>,
    stream: Stream,
    history: Vec<Arc<Commit>>,
    watchers: BTreeMap<i64, Watcher>,
}

impl World {
    fn new() -> Self {
        let hub = Arc::new(Hub::default());
        hub.reset(1, Floor::default());
        let stream = hub.stream();
        Self {
            hub,
            stream,
            history: Vec::new(),
            watchers: BTreeMap::new(),
        }
    }

    fn revision(&self) -> i64 {
        1 + self.history.len() as i64
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Commit(changes) => {
                let commit = commit(self.revision() + 1, &changes);
                self.history.push(Arc::clone(&commit));
                self.hub.publish(vec![commit], 0);
            }
            Step::Watch {
                key,
                end,
                back,
                filters,
            } => self.watch(key, end, back, filters),
            Step::Drain => self.drain(),
            Step::CatchUp => self.catch_up(),
            Step::Snapshot => {
                // A snapshot brings revisions that this member never saw one by one.
                self.history
                    .push(commit(self.revision() + 1, &[(1, false, 1)]));
                self.hub.reset(self.revision(), Floor::default());
            }
        }
    }

    fn watch(&mut self, key: u8, end: Option<u8>, back: i64, filters: Vec<i32>) {
        let request = WatchCreateRequest {
            key: vec![key].into(),
            range_end: end.map_or_else(Bytes::new, |end| vec![end].into()),
            filters,
            ..WatchCreateRequest::default()
        };
        let start = (self.revision() + 1 - back).max(1);
        let Some(cursor) = Cursor::new(&request, start) else {
            return;
        };
        let id = self.watchers.len() as i64;
        let live = self.stream.join(id, &cursor);
        let watcher = Watcher {
            fresh: cursor.clone(),
            cursor,
            start,
            live,
            got: Vec::new(),
        };
        self.watchers.insert(id, watcher);
    }

    fn drain(&mut self) {
        let deliveries = self.stream.inbox().take();
        for (id, commit) in deliveries.commits {
            let watcher = self.watchers.get_mut(&id).expect("only own watchers");
            watcher.got.extend(watcher.cursor.take(&commit));
        }
        if let Some(missed_from) = deliveries.missed_from {
            self.stream.leave_all();
            for watcher in self.watchers.values_mut().filter(|watcher| watcher.live) {
                watcher.cursor.pass(missed_from - 1);
                watcher.live = false;
            }
        }
    }

    /// One commit for each that is behind, from memory or from the store.
    fn catch_up(&mut self) {
        for (id, watcher) in self
            .watchers
            .iter_mut()
            .filter(|(_, watcher)| !watcher.live)
        {
            let next = watcher.cursor.next();
            let from_store = || {
                let stored = self.history.iter().find(|commit| commit.revision >= next);
                stored.cloned().into_iter().collect()
            };
            for commit in self.hub.recent(next, 1).unwrap_or_else(from_store) {
                watcher.got.extend(watcher.cursor.take(&commit));
            }
            if watcher.cursor.next() == 1 {
                // Revision 1 is the empty store: nothing is in it.
                watcher.cursor.pass(1);
            }
            watcher.live = self.stream.join(*id, &watcher.cursor);
        }
    }
}

proptest! {
    #[test]
    fn watchers_get_all_they_want_once_and_in_order(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.drain();
        while world.watchers.values().any(|watcher| !watcher.live) {
            world.catch_up();
            world.drain();
        }
        prop_assert_eq!(world.stream.confirmed(), Some(world.revision()));
        for watcher in world.watchers.values_mut() {
            let mut plain = watcher.fresh.clone();
            let expected: Vec<Event> = world
                .history
                .iter()
                .filter(|commit| commit.revision >= watcher.start)
                .flat_map(|commit| plain.take(commit))
                .collect();
            prop_assert_eq!(&watcher.got, &expected);
        }
    }
}

#[test]
fn full_inbox_names_the_first_commit_it_lost() {
    let hub = Arc::new(Hub::default());
    hub.reset(1, Floor::default());
    let stream = hub.stream();
    let request = WatchCreateRequest {
        key: vec![1].into(),
        ..WatchCreateRequest::default()
    };
    let cursor = Cursor::new(&request, 2).expect("one key");
    assert!(stream.join(0, &cursor));
    for revision in 2..10 {
        hub.publish(vec![commit(revision, &[(1, false, 1 << 20)])], 0);
    }
    let deliveries = stream.inbox().take();
    let given: Vec<i64> = deliveries
        .commits
        .iter()
        .map(|(_, commit)| commit.revision)
        .collect();
    assert_eq!((given, deliveries.missed_from), (vec![2, 3, 4], Some(5)));
}

#[test]
fn recent_commits_are_bounded_and_without_a_gap() {
    let hub = Hub::default();
    hub.reset(1, Floor::default());
    for revision in 2..100 {
        hub.publish(vec![commit(revision, &[(1, false, 1 << 20)])], 0);
    }
    assert_eq!(hub.recent(2, 1), None, "too old");
    assert_eq!(hub.recent(100, 1), None, "not there yet");
    let recent = hub.recent(80, usize::MAX).expect("in memory");
    let revisions: Vec<i64> = recent.iter().map(|commit| commit.revision).collect();
    assert_eq!(revisions, (80..100).collect::<Vec<_>>());
}

#[test]
fn dropped_stream_leaves_nothing_behind() {
    let hub = Arc::new(Hub::default());
    hub.reset(1, Floor::default());
    let stream = hub.stream();
    for (id, end) in [(0, &b""[..]), (1, b"\0")] {
        let request = WatchCreateRequest {
            key: Bytes::from_static(b"k"),
            range_end: end.into(),
            ..WatchCreateRequest::default()
        };
        assert!(stream.join(id, &Cursor::new(&request, 2).expect("a range")));
    }
    assert_eq!(hub.waiting(), 2);
    drop(stream);
    assert_eq!(hub.waiting(), 0);
}
