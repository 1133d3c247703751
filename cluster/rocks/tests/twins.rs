//! Both databases against their in-memory twins: any sequence of changes and restarts shows the
//! same.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use bytes::Bytes;
use cluster_core::log::{LogEngine, LogMeta, LogOp, MemoryLog};
use cluster_core::store::{Batch, Direction, KeyRange, MemoryState, StateEngine};
use cluster_rocks::{LogOptions, RocksLog, RocksState, StateOptions, open_log, open_state};
use proptest::prelude::*;

/// Small, so that a few steps already reach the tables on disk.
const MEMTABLE_BYTES: usize = 64 << 10;

fn log_in(directory: &Path) -> RocksLog {
    let mut options = LogOptions::new(true);
    options.memtable_bytes = MEMTABLE_BYTES;
    open_log(&directory.join("log"), &options).expect("open the log")
}

fn state_in(directory: &Path) -> RocksState {
    let mut options = StateOptions::new(true);
    options.memtable_bytes = MEMTABLE_BYTES;
    open_state(&directory.join("state"), &options).expect("open the state")
}

/// A change of the log that is right wherever the log is.
#[derive(Debug, Clone)]
enum Change {
    Append { entries: u64, bytes: usize },
    TruncateLast(u64),
    PurgeFirst(u64),
    PurgePastEnd(u64),
    Meta(usize, u8),
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<Change>),
    Read {
        skip: u64,
        count: u64,
        max_bytes: usize,
    },
    Reopen,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => (1u64..80, 0usize..1500)
            .prop_map(|(entries, bytes)| Change::Append { entries, bytes }),
        2 => (1u64..60).prop_map(Change::TruncateLast),
        2 => (1u64..60).prop_map(Change::PurgeFirst),
        1 => (0u64..5).prop_map(Change::PurgePastEnd),
        1 => (0usize..LogMeta::ALL.len(), any::<u8>())
            .prop_map(|(meta, value)| Change::Meta(meta, value)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(change(), 1..4).prop_map(Step::Write),
        3 => (0u64..200, 0u64..200, 0usize..20_000)
            .prop_map(|(skip, count, max_bytes)| Step::Read { skip, count, max_bytes }),
        1 => Just(Step::Reopen),
    ]
}

/// Where the next change goes: first and next index.
struct Cursor {
    first: u64,
    next: u64,
    salt: u8,
}

impl Cursor {
    fn ops(&mut self, change: &Change, ops: &mut Vec<LogOp>) {
        self.salt = self.salt.wrapping_add(1);
        match *change {
            Change::Append { entries, bytes } => {
                for _ in 0..entries {
                    ops.push(LogOp::Append {
                        index: self.next,
                        entry: Bytes::from(vec![self.salt; bytes]),
                    });
                    self.next += 1;
                }
            }
            Change::TruncateLast(count) => {
                self.next = self.next.saturating_sub(count).max(self.first);
                ops.push(LogOp::TruncateFrom { from: self.next });
            }
            Change::PurgeFirst(count) => {
                let to = (self.first + count - 1).min(self.next.saturating_sub(1));
                self.first = self.first.max(to + 1);
                self.next = self.next.max(self.first);
                ops.push(LogOp::PurgeTo { to });
            }
            Change::PurgePastEnd(count) => {
                let to = self.next + count;
                (self.first, self.next) = (to + 1, to + 1);
                ops.push(LogOp::PurgeTo { to });
            }
            Change::Meta(meta, value) => ops.push(LogOp::SetMeta {
                meta: LogMeta::ALL[meta],
                value: Bytes::from(vec![value]),
            }),
        }
    }
}

fn same_log(log: &RocksLog, twin: &MemoryLog, range: Range<u64>, max_bytes: usize) {
    assert_eq!(
        log.bounds().expect("bounds"),
        twin.bounds().expect("bounds")
    );
    assert_eq!(
        log.entries(range.clone(), max_bytes).expect("entries"),
        twin.entries(range, max_bytes).expect("entries")
    );
    for meta in LogMeta::ALL {
        assert_eq!(
            log.meta(meta).expect("meta"),
            twin.meta(meta).expect("meta")
        );
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(0xff)], 0..5)
}

#[derive(Debug, Clone)]
enum StateStep {
    Commit(Vec<(Vec<u8>, Option<usize>)>),
    Scan {
        start: Vec<u8>,
        end: Option<Vec<u8>>,
        ascending: bool,
        limit: usize,
    },
    Get(Vec<u8>),
    Flush,
    Reopen,
}

fn state_step() -> impl Strategy<Value = StateStep> {
    prop_oneof![
        5 => prop::collection::vec((key(), prop::option::of(0usize..3000)), 0..20)
            .prop_map(StateStep::Commit),
        5 => (key(), prop::option::of(key()), any::<bool>(), 1usize..40).prop_map(
            |(start, end, ascending, limit)| StateStep::Scan { start, end, ascending, limit }
        ),
        2 => key().prop_map(StateStep::Get),
        1 => Just(StateStep::Flush),
        1 => Just(StateStep::Reopen),
    ]
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

fn scan(state: &dyn StateEngine, range: &KeyRange, direction: Direction, limit: usize) -> Entries {
    let mut found = Entries::new();
    state
        .read(&mut |view| {
            view.scan(range, direction, &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                if found.len() == limit {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        })
        .expect("scan");
    found
}

fn get(state: &dyn StateEngine, key: &[u8]) -> Option<Bytes> {
    let mut found = None;
    state
        .read(&mut |view| {
            found = view.get(key)?;
            Ok(())
        })
        .expect("get");
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn log_equals_its_twin(steps in prop::collection::vec(step(), 1..24)) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let twin = MemoryLog::default();
        let mut log = Some(log_in(directory.path()));
        let mut cursor = Cursor { first: 1, next: 1, salt: 0 };
        for step in steps {
            let open = log.take().expect("open between steps");
            log = Some(match step {
                Step::Write(changes) => {
                    let mut ops = Vec::new();
                    for change in &changes {
                        cursor.ops(change, &mut ops);
                    }
                    open.write(&ops).expect("write");
                    twin.write(&ops).expect("write");
                    open
                }
                Step::Read { skip, count, max_bytes } => {
                    let start = cursor.first.saturating_sub(2) + skip;
                    same_log(&open, &twin, start..start + count, max_bytes);
                    open
                }
                Step::Reopen => {
                    drop(open);
                    log_in(directory.path())
                }
            });
            let open = log.as_ref().expect("open between steps");
            same_log(open, &twin, cursor.first..cursor.next + 1, usize::MAX);
        }
    }

    #[test]
    fn state_equals_its_twin(steps in prop::collection::vec(state_step(), 1..30)) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let twin = MemoryState::default();
        let mut state = Some(state_in(directory.path()));
        for (number, step) in steps.into_iter().enumerate() {
            let open = state.take().expect("open between steps");
            match step {
                StateStep::Commit(changes) => {
                    let mut batch = Batch::default();
                    for (key, bytes) in changes {
                        match bytes {
                            Some(bytes) => batch.put(key, vec![number.to_le_bytes()[0]; bytes]),
                            None => batch.delete(key),
                        }
                    }
                    open.commit(batch.clone()).expect("commit");
                    twin.commit(batch).expect("commit");
                }
                StateStep::Scan { start, end, ascending, limit } => {
                    let range = KeyRange { start: start.into(), end: end.map(Bytes::from) };
                    let direction =
                        if ascending { Direction::Ascending } else { Direction::Descending };
                    prop_assert_eq!(
                        scan(&open, &range, direction, limit),
                        scan(&twin, &range, direction, limit)
                    );
                }
                StateStep::Get(key) => prop_assert_eq!(get(&open, &key), get(&twin, &key)),
                StateStep::Flush => open.flush().expect("flush"),
                StateStep::Reopen => {
                    // Nothing is promised without a flush, see `crash_keeps_a_prefix`.
                    open.flush().expect("flush");
                    drop(open);
                    state = Some(state_in(directory.path()));
                    continue;
                }
            }
            state = Some(open);
        }
        let open = state.as_ref().expect("open between steps");
        let all = KeyRange::from(Bytes::new());
        prop_assert_eq!(
            scan(open, &all, Direction::Ascending, usize::MAX),
            scan(&twin, &all, Direction::Ascending, usize::MAX)
        );
    }
}
