//! Entries and commits that can be checked, and files as they are on disk.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of this"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cluster_core::log::{LogEngine, LogMeta, LogOp};
use cluster_core::store::{Batch, Direction, KeyRange, StateEngine};
use cluster_rocks::{LogOptions, RocksLog, RocksState, StateOptions, open_log, open_state};

pub fn log_at(directory: &Path) -> io::Result<RocksLog> {
    open_log(directory, &LogOptions::new(true))
}

pub fn state_at(directory: &Path) -> io::Result<RocksState> {
    open_state(directory, &StateOptions::new(true))
}

pub fn entry(index: u64) -> Bytes {
    Bytes::from(format!("entry {index} {}", "x".repeat(200)))
}

pub fn append(log: &dyn LogEngine, range: std::ops::Range<u64>) {
    let mut ops: Vec<_> = range
        .map(|index| LogOp::Append {
            index,
            entry: entry(index),
        })
        .collect();
    ops.push(LogOp::SetMeta {
        meta: LogMeta::Committed,
        value: Bytes::from_static(b"c"),
    });
    log.write(&ops).expect("write");
}

/// A copy of the files as they are now: what a SIGKILL at this moment would leave.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("make the copy's directory");
    for file in fs::read_dir(from).expect("list") {
        let path = file.expect("list").path();
        let name = path.file_name().expect("a listed file has a name");
        if name != "LOCK" {
            fs::copy(&path, to.join(name)).expect("copy");
        }
    }
}

/// Files with this extension, oldest first (their names are numbers of one width).
pub fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let found: BTreeSet<_> = fs::read_dir(directory)
        .expect("list")
        .map(|file| file.expect("list").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.into_iter().collect()
}

pub fn check_entries(log: &dyn LogEngine, range: std::ops::Range<u64>) {
    let found = log.entries(range.clone(), usize::MAX).expect("entries");
    let expected: Vec<_> = range.map(|index| (index, entry(index))).collect();
    assert_eq!(found, expected);
}

/// A commit that sets two keys far from each other, and one of its own.
pub fn numbered(number: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put(&b"a"[..], number.to_be_bytes().to_vec());
    batch.put(format!("n{number:08}"), vec![b'v'; 300]);
    batch.put(&b"z"[..], number.to_be_bytes().to_vec());
    batch
}

/// Checks that the store is as of one commit and returns its number.
pub fn check_numbered(state: &RocksState) -> u64 {
    let mut last = 0;
    state
        .read(&mut |view| {
            let number = |key: &[u8]| -> io::Result<u64> {
                let value = view.get(key)?;
                Ok(value.map_or(0, |value| {
                    u64::from_be_bytes(value.as_ref().try_into().expect("8 bytes"))
                }))
            };
            last = number(b"a")?;
            assert_eq!(number(b"z")?, last);
            let mut next = 1;
            let range = KeyRange::prefix(&b"n"[..]);
            view.scan(&range, Direction::Ascending, &mut |key, _| {
                assert_eq!(key, format!("n{next:08}").as_bytes());
                next += 1;
                ControlFlow::Continue(())
            })?;
            assert_eq!(next, last + 1);
            Ok(())
        })
        .expect("read");
    last
}
