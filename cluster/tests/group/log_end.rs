//! What is left of a log store when the last handle on it is gone: nothing.

use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cluster::log_store::{FlushMode, LogStore, LogStoreOptions};
use cluster::types::{LogId, Types};
use cluster_core::log::{LogEngine, LogMeta, LogOp, MemoryLog};
use openraft::storage::RaftLogStorage;

/// A disk whose writes say that they have begun and end when they are let.
struct Slow {
    disk: MemoryLog,
    begun: SyncSender<()>,
    let_go: Mutex<Receiver<()>>,
}

impl LogEngine for Slow {
    fn write(&self, ops: &[LogOp]) -> io::Result<()> {
        self.begun.send(()).expect("the test listens");
        self.let_go
            .lock()
            .expect("not poisoned")
            .recv()
            .expect("the test goes on");
        self.disk.write(ops)
    }

    fn meta(&self, meta: LogMeta) -> io::Result<Option<Bytes>> {
        self.disk.meta(meta)
    }

    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        self.disk.entries(range, max_bytes)
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        self.disk.bounds()
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.disk.size_bytes()
    }
}

#[tokio::test]
async fn last_handle_goes_with_the_flush_thread_and_leaves_all_written() {
    let (begun, has_begun) = sync_channel(2);
    let (let_go, wait) = sync_channel(2);
    let engine = Arc::new(Slow {
        disk: MemoryLog::default(),
        begun,
        let_go: Mutex::new(wait),
    });
    let options = LogStoreOptions {
        tail_bytes: 1000,
        read_bytes: 1000,
    };
    let mut log = LogStore::open(engine.clone(), FlushMode::Thread, options).expect("log store");
    let other = log.clone();
    for index in [1, 2] {
        let purged = LogId::new_term_index(1, index);
        let purge = RaftLogStorage::<Types>::purge(&mut log, purged).await;
        purge.expect("it is queued");
    }
    has_begun.recv().expect("the first write");
    drop(other);
    // Nobody lets the writes go on before the last handle is being dropped.
    let (dropping, is_dropping) = sync_channel(2);
    let dropped = std::thread::spawn(move || {
        dropping.send(()).expect("the test listens");
        drop(log);
        let written = engine.meta(LogMeta::Purged).expect("memory").is_some();
        (Arc::strong_count(&engine), written)
    });
    is_dropping.recv().expect("it is dropped");
    for _ in 0..2 {
        let_go.send(()).expect("the writer waits");
    }
    let (users, written) = dropped.join().expect("no panic");
    assert_eq!(users, 1, "the thread holds the database");
    assert!(written, "what was queued is written");
}
