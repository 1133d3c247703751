//! Reads of a log that is longer than what is in memory, or that begins behind the state.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cluster::StateEngine;
use cluster::directory_store::DirectoryStore;
use cluster::log_store::{FlushMode, LogStore, LogStoreOptions};
use cluster::machine::Machine;
use cluster::types::{Command, Entry, LogId, Payload, Types, entry_to, log_id_to};
use cluster_core::log::{LogEngine, LogMeta, LogOp, MemoryLog};
use cluster_core::store::MemoryState;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use prost::Message;

use crate::list_app::ListApp;

const ENTRY_BYTES: usize = 600;
const READ_BYTES: usize = 1000;

fn log_id(index: u64) -> LogId {
    LogId::new_term_index(1, index)
}

fn entry(index: u64) -> LogOp {
    let entry = Entry {
        log_id: log_id(index),
        payload: Payload::Normal(Command(Bytes::from(vec![7; ENTRY_BYTES]))),
    };
    let entry = entry_to(&entry).encode_to_vec().into();
    LogOp::Append { index, entry }
}

/// A log on disk with entries `0..count`, and nothing of it in memory yet: as after a restart.
fn engine(count: u64) -> MemoryLog {
    let engine = MemoryLog::default();
    let entries: Vec<LogOp> = (0..count).map(entry).collect();
    engine.write(&entries).expect("memory");
    engine
}

fn open(engine: impl LogEngine) -> LogStore {
    try_open(engine).expect("log store")
}

fn try_open(engine: impl LogEngine) -> io::Result<LogStore> {
    let options = LogStoreOptions {
        tail_bytes: ENTRY_BYTES,
        read_bytes: READ_BYTES,
    };
    LogStore::open(Arc::new(engine), FlushMode::Inline, options)
}

async fn limited(log: &mut LogStore, range: Range<u64>) -> io::Result<Vec<u64>> {
    let read = RaftLogReader::<Types>::limited_get_log_entries(log, range.start, range.end).await;
    Ok(read?.iter().map(|entry| entry.log_id.index()).collect())
}

async fn all(log: &mut LogStore, range: Range<u64>) -> io::Result<Vec<u64>> {
    let read = RaftLogReader::<Types>::try_get_log_entries(log, range).await;
    Ok(read?.iter().map(|entry| entry.log_id.index()).collect())
}

#[tokio::test]
async fn read_for_a_lagging_member_ends_before_the_bound_is_passed() {
    let mut log = open(engine(5));
    // Two entries are more than the bound: one is given out, and the rest is no damage.
    assert_eq!(limited(&mut log, 1..5).await.expect("a read"), [1]);
    assert_eq!(limited(&mut log, 2..5).await.expect("a read"), [2]);
    assert_eq!(all(&mut log, 1..5).await.expect("a read"), [1, 2, 3, 4]);
}

#[tokio::test]
async fn read_for_a_member_that_needs_what_is_purged_leaves_no_gap() {
    let mut log = open(engine(6));
    RaftLogStorage::<Types>::purge(&mut log, log_id(2))
        .await
        .expect("purge");
    assert_eq!(limited(&mut log, 3..5).await.expect("read"), [3]);
    assert_eq!(limited(&mut log, 2..5).await.expect("read"), [0; 0]);
    assert_eq!(all(&mut log, 2..5).await.expect("read"), [3, 4]);
}

#[tokio::test]
async fn hole_in_the_log_is_damage() {
    let disk = engine(2);
    disk.write(&[entry(3)]).expect("memory");
    let mut log = open(disk);
    assert!(all(&mut log, 0..4).await.is_err());
    assert!(limited(&mut log, 2..4).await.is_err());
}

#[tokio::test]
async fn entry_in_the_place_of_another_is_damage() {
    let LogOp::Append { entry: other, .. } = entry(7) else {
        unreachable!("an append");
    };
    let swapped = |index| {
        let disk = engine(3);
        let entry = other.clone();
        disk.write(&[LogOp::Append { index, entry }])
            .expect("memory");
        disk
    };
    let mut log = open(swapped(1));
    assert!(all(&mut log, 0..3).await.is_err());
    assert!(try_open(swapped(2)).is_err());
    assert!(try_open(swapped(u64::MAX)).is_err());
}

#[test]
fn log_that_holds_what_was_purged_is_damage() {
    let purged_to = |index| {
        let disk = MemoryLog::default();
        let value = log_id_to(&log_id(index)).encode_to_vec().into();
        let meta = LogMeta::Purged;
        let ops = [entry(5), entry(6), LogOp::SetMeta { meta, value }];
        disk.write(&ops).expect("memory");
        disk
    };
    assert!(try_open(purged_to(4)).is_ok());
    for index in [5, 6, 9] {
        assert!(try_open(purged_to(index)).is_err(), "purged to {index}");
    }
}

/// What is done to a log store while a read of it is under way.
type Meanwhile = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A log in which something happens between the beginning of a read and the look at the disk.
struct Racing {
    disk: MemoryLog,
    meanwhile: Meanwhile,
}

impl LogEngine for Racing {
    fn write(&self, ops: &[LogOp]) -> io::Result<()> {
        self.disk.write(ops)
    }

    fn meta(&self, meta: LogMeta) -> io::Result<Option<Bytes>> {
        self.disk.meta(meta)
    }

    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let meanwhile = self.meanwhile.lock().expect("not poisoned").take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        self.disk.entries(range, max_bytes)
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        self.disk.bounds()
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.disk.size_bytes()
    }
}

/// Reads `0..5` of the log and does `what` to it after the read has begun.
async fn read_while<F>(what: impl FnOnce(LogStore) -> F + Send + 'static) -> io::Result<Vec<u64>>
where
    F: Future<Output = io::Result<()>>,
{
    let meanwhile = Meanwhile::default();
    let mut log = open(Racing {
        disk: engine(5),
        meanwhile: meanwhile.clone(),
    });
    let other = log.clone();
    let change = move || {
        let changed = futures_util::future::FutureExt::now_or_never(what(other));
        changed.expect("it never waits").expect("memory");
    };
    *meanwhile.lock().expect("not poisoned") = Some(Box::new(change));
    limited(&mut log, 0..5).await
}

#[tokio::test]
async fn log_that_is_cut_while_it_is_read_is_not_damaged() {
    let purged =
        read_while(
            |mut log| async move { RaftLogStorage::<Types>::purge(&mut log, log_id(2)).await },
        );
    assert_eq!(purged.await.expect("no damage"), [0; 0], "no gap either");
    let truncated = read_while(|mut log| async move {
        RaftLogStorage::<Types>::truncate_after(&mut log, None).await
    });
    assert_eq!(truncated.await.expect("no damage"), [0; 0]);
}

#[tokio::test]
async fn state_that_ends_before_the_log_begins_is_refused() {
    let root = tempfile::tempdir().expect("temp dir");
    let machine = |log: LogStore| {
        let empty = |path: &std::path::Path| {
            std::fs::create_dir_all(path)?;
            Ok(Arc::<MemoryState>::default() as Arc<dyn StateEngine>)
        };
        let store = DirectoryStore::open(root.path(), Box::new(empty)).expect("a state");
        Machine::open(Arc::new(store), Some(log), Box::new(ListApp::default()))
    };
    let mut log = open(engine(5));
    machine(log.clone()).expect("the whole log is there");
    let purge = RaftLogStorage::<Types>::purge(&mut log, log_id(2)).await;
    purge.expect("memory");
    let Err(refused) = machine(log) else {
        panic!("entries 0 to 2 are in neither");
    };
    assert!(
        refused.to_string().contains("holds the log up to nothing"),
        "{refused}"
    );
}
