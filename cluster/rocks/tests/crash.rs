//! What is left after a SIGKILL, a torn write, a failed write and an interrupted creation.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use cluster_core::log::{LogEngine, LogMeta, LogOp};
use cluster_core::store::StateEngine;
use cluster_rocks::{LogOptions, StateOptions, open_log, open_state};

use crate::common::*;

/// Names the directory for the half of a test that runs in a process of its own.
const CHILD: &str = "CLUSTER_ROCKS_CHILD_DIRECTORY";

fn child_directory() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Says to the parent how far this process is.
fn report(number: u64) {
    let mut out = io::stdout().lock();
    writeln!(out, "\nreached {number}").expect("the parent reads");
    out.flush().expect("the parent reads");
}

/// Runs `test` in a process with `directory`, kills it with SIGKILL after it reported `reports`
/// times, and returns the last number that it reported.
fn run_and_kill(test: &str, directory: &Path, reports: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("the running test"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("run the other half");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut last = 0;
    let mut seen = 0;
    for line in lines {
        if let Some(number) = line.expect("read").strip_prefix("reached ") {
            last = number.parse().expect("a number");
            seen += 1;
            if seen == reports {
                child.kill().expect("kill");
            }
        }
    }
    child.wait().expect("wait");
    assert!(seen >= reports, "it ended by itself after {seen} reports");
    last
}

#[test]
fn killed_log_keeps_every_acknowledged_batch() {
    let mut options = LogOptions::new(true);
    options.memtable_bytes = 64 << 10;
    if let Some(directory) = child_directory() {
        let log = open_log(&directory, &options).expect("open");
        let mut next = log
            .bounds()
            .expect("bounds")
            .map_or(1, |(_, last)| last + 1);
        loop {
            append(&log, next..next + 5);
            next += 5;
            report(next - 1);
        }
    }
    let root = tempfile::tempdir().expect("temporary directory");
    let directory = root.path().join("log");
    let mut before = 0;
    for reports in [1, 40, 333, 1000] {
        let name = "killed_log_keeps_every_acknowledged_batch";
        let acknowledged = run_and_kill(name, &directory, reports);
        assert!(acknowledged > before);
        let log = open_log(&directory, &options).expect("open after the kill");
        let (first, last) = log.bounds().expect("bounds").expect("not empty");
        assert!(
            first == 1 && last >= acknowledged,
            "{last} of {acknowledged}"
        );
        assert_eq!(last % 5, 0, "a part of a batch is there");
        check_entries(&log, 1..last + 1);
        assert_eq!(
            log.meta(LogMeta::Committed).expect("meta"),
            Some(Bytes::from_static(b"c"))
        );
        before = last;
    }
}

#[test]
fn batches_are_counted_as_they_are_synced() {
    let root = tempfile::tempdir().expect("temporary directory");
    let log = log_at(&root.path().join("log")).expect("open");
    append(&log, 1..4);
    append(&log, 4..6);
    log.write(&[]).expect("nothing to write");
    assert_eq!(log.batches_synced(), 2);
}

#[test]
fn torn_tail_opens_with_a_prefix_of_batches() {
    let root = tempfile::tempdir().expect("temporary directory");
    let log = log_at(&root.path().join("log")).expect("open");
    let before = fs::read(root.path().join("log/SYNCED")).expect("read");
    for batch in 0..4 {
        append(&log, 1 + batch * 5..6 + batch * 5);
    }
    let mut seen = BTreeSet::new();
    for cut in (1..3000).step_by(97) {
        let torn = root.path().join(format!("torn{cut}"));
        copy(&root.path().join("log"), &torn);
        let newest = files(&torn, "log").pop().expect("a write-ahead log");
        let bytes = fs::read(&newest).expect("read");
        fs::write(&newest, &bytes[..bytes.len() - cut]).expect("write");
        let error = log_at(&torn)
            .map(|_| ())
            .expect_err("all four batches were synced");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(
            error.to_string().contains(".log: it ends at change"),
            "{error}"
        );
        // A loss of power before any of them was synced.
        fs::write(torn.join("SYNCED"), &before).expect("write");
        let reopened = log_at(&torn).expect("open with a torn tail");
        let last = reopened
            .bounds()
            .expect("bounds")
            .map_or(0, |(_, last)| last);
        assert_eq!(
            last % 5,
            0,
            "part of a batch is there after {cut} bytes were cut"
        );
        check_entries(&reopened, 1..last + 1);
        seen.insert(last);
    }
    assert_eq!(seen, BTreeSet::from([5, 10, 15]));
}

#[test]
fn failed_write_stops_the_log_and_what_was_acknowledged_is_there_after() {
    if let Some(directory) = child_directory() {
        return write_until_it_fails(&directory);
    }
    let root = tempfile::tempdir().expect("temporary directory");
    let directory = root.path().join("log");
    drop(log_at(&directory).expect("make a log"));
    // A file must not grow over 2 MiB, and the signal that says so is ignored: a write fails.
    let test = std::env::current_exe().expect("the running test");
    let name = "failed_write_stops_the_log_and_what_was_acknowledged_is_there_after";
    let output = Command::new("bash")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 2048; exec \"$0\" --exact \"$1\"",
        ])
        .args([test.as_os_str(), name.as_ref()])
        .env(CHILD, &directory)
        .output()
        .expect("run the other half");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let acknowledged = fs::read_to_string(root.path().join("acknowledged")).expect("read");
    let acknowledged: u64 = acknowledged.parse().expect("an index");
    assert!(
        acknowledged > 1000,
        "only {acknowledged} entries were acknowledged"
    );
    let log = log_at(&directory).expect("open after the failure");
    let (first, last) = log.bounds().expect("bounds").expect("not empty");
    assert!(
        first == 1 && last >= acknowledged,
        "{first}..={last} of {acknowledged}"
    );
    check_entries(&log, 1..last + 1);
    append(&log, last + 1..last + 3);
}

fn write_until_it_fails(directory: &Path) {
    let log = log_at(directory).expect("open");
    let mut next = 1;
    let write = |next: u64| {
        let ops: Vec<_> = (next..next + 100)
            .map(|index| LogOp::Append {
                index,
                entry: entry(index),
            })
            .collect();
        log.write(&ops)
    };
    let error = loop {
        match write(next) {
            Ok(()) => next += 100,
            Err(error) => break error,
        }
    };
    assert!(
        error
            .to_string()
            .contains("cannot write to the log database"),
        "{error}"
    );
    assert!(
        error.to_string().contains("start this member again"),
        "{error}"
    );
    let again = write(next).expect_err("no second try");
    assert!(again.to_string().contains("failed before"), "{again}");
    let parent = directory
        .parent()
        .expect("the directory is inside the test's");
    fs::write(parent.join("acknowledged"), (next - 1).to_string()).expect("write");
}

#[test]
fn killed_state_keeps_a_prefix_of_commits_up_to_the_flush_at_least() {
    let mut options = StateOptions::new(true);
    options.memtable_bytes = 64 << 10;
    if let Some(directory) = child_directory() {
        let state = open_state(&directory, &options).expect("open");
        for number in check_numbered(&state) + 1.. {
            state.commit(numbered(number)).expect("commit");
            if number % 70 == 0 {
                state.flush().expect("flush");
                report(number);
            }
        }
    }
    let root = tempfile::tempdir().expect("temporary directory");
    let directory = root.path().join("state");
    for reports in [1, 5, 30] {
        let name = "killed_state_keeps_a_prefix_of_commits_up_to_the_flush_at_least";
        let flushed = run_and_kill(name, &directory, reports);
        let state = open_state(&directory, &options).expect("open after the kill");
        let last = check_numbered(&state);
        assert!(
            last >= flushed,
            "the state is as of commit {last}, {flushed} was flushed"
        );
    }
}

#[test]
fn interrupted_creation_is_started_again() {
    let root = tempfile::tempdir().expect("temporary directory");
    let unfinished = root.path().join("log.new");
    fs::create_dir(&unfinished).expect("make");
    fs::write(unfinished.join("MANIFEST-000001"), "half").expect("write");
    let log = log_at(&root.path().join("log")).expect("open");
    append(&log, 1..3);
    assert!(!unfinished.exists());
    assert!(log.size_bytes().expect("size") > 0);
}
