//! Readers, writers and checkpoints at the same time; space that comes back; what is refused.

mod common;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use cluster_core::log::{LogEngine, LogOp, MemoryLog};
use cluster_core::store::StateEngine;
use cluster_rocks::{LogOptions, StateOptions, open_log, open_state};

use crate::common::*;

#[test]
fn refused_batches_change_nothing_and_later_ones_go_on() {
    let root = tempfile::tempdir().expect("temporary directory");
    let log = log_at(&root.path().join("log")).expect("open");
    append(&log, 1..4);
    let hole = [
        LogOp::TruncateFrom { from: 3 },
        LogOp::Append {
            index: 7,
            entry: entry(7),
        },
    ];
    let error = log.write(&hole).expect_err("7 leaves a hole");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    check_entries(&log, 1..4);
    append(&log, 4..6);
    check_entries(&log, 1..6);
}

#[test]
fn the_last_index_that_has_one_after_it_is_read_by_both_engines() {
    let root = tempfile::tempdir().expect("temporary directory");
    let rocks = log_at(&root.path().join("log")).expect("open");
    let engines: [&dyn LogEngine; 2] = [&rocks, &MemoryLog::default()];
    for engine in engines {
        append(engine, u64::MAX - 2..u64::MAX);
        check_entries(engine, u64::MAX - 2..u64::MAX);
    }
}

#[test]
fn purged_files_give_their_space_back() {
    let root = tempfile::tempdir().expect("temporary directory");
    let mut options = LogOptions::new(true);
    options.memtable_bytes = 256 << 10;
    let directory = root.path().join("log");
    let log = open_log(&directory, &options).expect("open");
    for batch in 0..100 {
        append(&log, 1 + batch * 400..1 + (batch + 1) * 400);
    }
    let full: u64 = table_bytes(&directory);
    assert!(full > 4_000_000, "tables hold {full} bytes");
    for to in (1000..=39_000).step_by(1000) {
        log.write(&[LogOp::PurgeTo { to }]).expect("purge");
        assert_eq!(log.bounds().expect("bounds"), Some((to + 1, 40_000)));
    }
    check_entries(&log, 39_001..40_001);
    assert!(
        log.entries(39_000..39_002, usize::MAX)
            .expect("entries")
            .is_empty()
    );
    drop(log);
    let log = open_log(&directory, &options).expect("open again");
    assert_eq!(log.bounds().expect("bounds"), Some((39_001, 40_000)));
    check_entries(&log, 39_001..40_001);
    let left = table_bytes(&directory);
    assert!(left < full / 2, "{left} of {full} bytes are left");
}

fn table_bytes(directory: &Path) -> u64 {
    files(directory, "sst")
        .iter()
        .map(|path| fs::metadata(path).map_or(0, |found| found.len()))
        .sum()
}

#[test]
fn readers_never_see_damage_while_the_writer_rewrites_the_tail() {
    let root = tempfile::tempdir().expect("temporary directory");
    let log = log_at(&root.path().join("log")).expect("open");
    append(&log, 1..100);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u64;
            while !done.load(Ordering::Relaxed) {
                let (first, last) = log.bounds().expect("bounds").expect("never empty");
                for (index, found) in log.entries(first..last + 1, usize::MAX).expect("entries") {
                    assert_eq!(found, entry(index));
                }
                reads += 1;
            }
            reads
        });
        for round in 0..150 {
            log.write(&[LogOp::TruncateFrom { from: 60 + round }])
                .expect("truncate");
            append(&log, 60 + round..101 + round);
            log.write(&[LogOp::PurgeTo { to: 1 + round }])
                .expect("purge");
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().expect("the reader does not panic") > 0);
    });
}

#[test]
fn checkpoint_while_writing_is_of_one_moment() {
    let root = tempfile::tempdir().expect("temporary directory");
    let state = state_at(&root.path().join("state")).expect("open");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                state.commit(numbered(number)).expect("commit");
            }
            number
        });
        let mut before = 0;
        for round in 0..5 {
            let directory = root.path().join(format!("checkpoint{round}"));
            state.checkpoint(&directory).expect("checkpoint");
            let copy = open_state(&directory, &StateOptions::new(false)).expect("open the copy");
            let last = check_numbered(&copy);
            assert!(
                last >= before,
                "checkpoint {round} is of {last}, the one before of {before}"
            );
            before = last;
        }
        done.store(true, Ordering::Relaxed);
        let written = writer.join().expect("the writer does not panic");
        assert_eq!(check_numbered(&state), written);
        assert!(before > 0, "no commit came before the last checkpoint");
    });
    let taken = root.path().join("checkpoint0");
    let error = state.checkpoint(&taken).expect_err("the directory exists");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn batches_longer_than_a_block_and_many_files_are_no_damage() {
    let root = tempfile::tempdir().expect("temporary directory");
    let mut options = LogOptions::new(true);
    options.memtable_bytes = 64 << 10;
    let directory = root.path().join("log");
    let mut most = 0;
    for start in 0..5 {
        let log = open_log(&directory, &options).expect("open");
        check_entries(&log, 1..1 + start * 3200);
        for batch in start * 8..start * 8 + 8 {
            append(&log, 1 + batch * 400..1 + (batch + 1) * 400);
            most = most.max(files(&directory, "log").len());
        }
    }
    assert!(most > 1, "there was never more than one file");
}
