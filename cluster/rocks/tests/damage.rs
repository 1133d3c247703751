//! Flipped bits, zeros, lost files, mixed-up and locked directories: an error that says what to do,
//! and never wrong data.

mod common;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use cluster_core::log::LogEngine;
use cluster_core::store::{Direction, KeyRange, StateEngine};
use cluster_rocks::{LogOptions, RocksLog, open_log};

use crate::common::*;

/// The error of an open that must fail.
fn refusal<T>(opened: io::Result<T>) -> io::Error {
    opened.map(|_| ()).expect_err("the open must be refused")
}

fn flip_bit(path: &Path, offset: usize, bit: u32) {
    let mut bytes = fs::read(path).expect("read");
    bytes[offset] ^= 1 << bit;
    fs::write(path, bytes).expect("write");
}

#[test]
fn flipped_bit_inside_the_write_ahead_log_is_refused() {
    let root = tempfile::tempdir().expect("temporary directory");
    let log = log_at(&root.path().join("log")).expect("open");
    for batch in 0..20 {
        append(&log, 1 + batch * 5..6 + batch * 5);
    }
    for part in 1..4 {
        let damaged = root.path().join(format!("damaged{part}"));
        copy(&root.path().join("log"), &damaged);
        let newest = files(&damaged, "log").pop().expect("a write-ahead log");
        let bytes = fs::metadata(&newest).expect("size").len();
        flip_bit(
            &newest,
            usize::try_from(bytes * part / 4).expect("a small file"),
            0,
        );
        let error = refusal(log_at(&damaged));
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains("is damaged"), "{error}");
        assert!(error.to_string().contains("remove this member"), "{error}");
    }
}

/// A log of six batches of one size, and the bytes of one record in its file.
fn six_batches(root: &Path) -> (RocksLog, usize) {
    let log = log_at(&root.join("log")).expect("open");
    for index in 1..=6 {
        append(&log, index..index + 1);
    }
    let newest = files(&root.join("log"), "log")
        .pop()
        .expect("a write-ahead log");
    let bytes = usize::try_from(fs::metadata(&newest).expect("size").len()).expect("small");
    assert_eq!(bytes % 6, 0, "the records differ in size");
    (log, bytes / 6)
}

#[test]
fn any_flipped_bit_in_the_write_ahead_log_is_refused_and_after_a_loss_of_power_costs_one_batch() {
    let root = tempfile::tempdir().expect("temporary directory");
    let before = root.path().join("before");
    drop(log_at(&before).expect("make a log"));
    let (_log, record) = six_batches(root.path());
    let damaged = root.path().join("damaged");
    let mut opened = 0;
    // All of each record's header, and here and there in its payload.
    let header = (0..6).flat_map(|batch| (0..9).map(move |at| batch * record + at));
    for offset in header.chain((10..6 * record).step_by(61)) {
        for bit in [0, 1, 3, 7] {
            copy(&root.path().join("log"), &damaged);
            let newest = files(&damaged, "log").pop().expect("a write-ahead log");
            flip_bit(&newest, offset, bit);
            let error = refusal(log_at(&damaged));
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            // After a loss of power nobody knows how far the log was synced.
            fs::copy(before.join("SYNCED"), damaged.join("SYNCED")).expect("copy");
            match log_at(&damaged) {
                Ok(log) => {
                    let last = log.bounds().expect("bounds").map_or(0, |(_, last)| last);
                    assert_eq!(last, 5, "bit {bit} at {offset}, records of {record} bytes");
                    check_entries(&log, 1..last + 1);
                    opened += 1;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}"),
            }
            fs::remove_dir_all(&damaged).expect("remove");
        }
    }
    assert!(
        (1..8).contains(&opened),
        "{opened} damaged logs were opened"
    );
}

#[test]
fn zeros_in_the_write_ahead_log_are_refused() {
    let root = tempfile::tempdir().expect("temporary directory");
    let (_log, record) = six_batches(root.path());
    // A whole record, a part of one, and all but the last.
    let zeros = [record..2 * record, record + 20..record + 40, 0..5 * record];
    for (number, zeros) in zeros.into_iter().enumerate() {
        let damaged = root.path().join(format!("damaged{number}"));
        copy(&root.path().join("log"), &damaged);
        let newest = files(&damaged, "log").pop().expect("a write-ahead log");
        let mut bytes = fs::read(&newest).expect("read");
        bytes[zeros].fill(0);
        fs::write(&newest, bytes).expect("write");
        let error = refusal(log_at(&damaged));
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

#[test]
fn flipped_bit_in_a_log_table_is_an_error_that_names_the_entry() {
    let root = tempfile::tempdir().expect("temporary directory");
    let directory = root.path().join("log");
    let log = log_at(&directory).expect("open");
    append(&log, 1..2000);
    drop(log);
    // Opening writes what the write-ahead log held into a table.
    drop(log_at(&directory).expect("open again"));
    let largest = files(&directory, "sst")
        .into_iter()
        .max_by_key(|path| fs::metadata(path).map_or(0, |found| found.len()))
        .expect("a table");
    let bytes = fs::metadata(&largest).expect("size").len();
    assert!(
        bytes > 400_000,
        "the entries are not in {}",
        largest.display()
    );
    flip_bit(
        &largest,
        usize::try_from(bytes / 2).expect("a small file"),
        0,
    );
    let log = log_at(&directory).expect("the open does not read every block");
    let mut refused = 0;
    for index in 1..2000 {
        match log.entries(index..index + 1, usize::MAX) {
            Ok(found) => assert_eq!(found, [(index, entry(index))]),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                assert!(
                    error.to_string().contains(&format!("entry {index} ")),
                    "{error}"
                );
                refused += 1;
            }
        }
    }
    assert!((1..200).contains(&refused), "{refused} entries refused");
}

#[test]
fn flipped_bit_in_a_state_table_is_an_error_and_not_wrong_data() {
    let root = tempfile::tempdir().expect("temporary directory");
    let directory = root.path().join("state");
    let state = state_at(&directory).expect("open");
    for number in 1..=1000 {
        state.commit(numbered(number)).expect("commit");
    }
    state.flush().expect("flush");
    drop(state);
    let table = files(&directory, "sst").pop().expect("a table");
    let bytes = fs::metadata(&table).expect("size").len();
    flip_bit(&table, usize::try_from(bytes / 2).expect("a small file"), 0);
    let state = state_at(&directory).expect("the open does not read every block");
    let scanned = state.read(&mut |view| {
        view.scan(
            &KeyRange::from(Bytes::new()),
            Direction::Ascending,
            &mut |key, value| {
                assert!(!key.starts_with(b"n") || value == [b'v'; 300]);
                ControlFlow::Continue(())
            },
        )
    });
    let error = scanned.expect_err("the scan meets the flipped bit");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[test]
fn directories_that_are_not_such_a_database_are_refused_and_left_alone() {
    let root = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| root.path().join(name);
    drop(log_at(&at("log")).expect("make a log"));
    drop(state_at(&at("state")).expect("make a state"));

    let foreign = at("foreign");
    fs::create_dir(&foreign).expect("make");
    fs::write(foreign.join("my.cnf"), "[mysqld]").expect("write");
    fs::write(at("file"), "text").expect("write");
    let lost = at("lost");
    copy(&at("log"), &lost);
    fs::remove_file(lost.join("CURRENT")).expect("remove");

    for (error, says) in [
        (refusal(state_at(&at("log"))), "is not a state database"),
        (refusal(log_at(&at("state"))), "is not a log database"),
        (refusal(log_at(&foreign)), "it holds my.cnf and no CURRENT"),
        (refusal(state_at(&at("file"))), "it is a file"),
        (refusal(log_at(&lost)), "and no CURRENT"),
    ] {
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(fs::read_dir(&foreign).expect("list").count(), 1);

    let absent = refusal(open_log(&at("absent"), &LogOptions::new(false)));
    assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    assert!(!at("absent").exists());
    let orphan = refusal(log_at(&at("no/parent")));
    assert_eq!(orphan.kind(), io::ErrorKind::NotFound);
}

#[test]
fn log_without_its_newest_file_is_refused() {
    let root = tempfile::tempdir().expect("temporary directory");
    let directory = root.path().join("log");
    let log = log_at(&directory).expect("open");
    append(&log, 1..20);
    drop(log);
    fs::remove_file(files(&directory, "log").pop().expect("a write-ahead log")).expect("remove");
    for _ in 0..2 {
        let error = refusal(log_at(&directory));
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains("was synced up to"), "{error}");
    }
}

#[test]
fn locked_directory_says_so() {
    let root = tempfile::tempdir().expect("temporary directory");
    let directory = root.path().join("log");
    let log = log_at(&directory).expect("open");
    let error = refusal(log_at(&directory));
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
    assert!(
        error.to_string().contains("in use by another process"),
        "{error}"
    );
    drop(log);
    log_at(&directory).expect("open after the other closed it");
}

#[test]
fn lost_table_is_refused_at_open() {
    let root = tempfile::tempdir().expect("temporary directory");
    let directory = root.path().join("state");
    let state = state_at(&directory).expect("open");
    state.commit(numbered(1)).expect("commit");
    state.flush().expect("flush");
    drop(state);
    fs::remove_file(files(&directory, "sst").pop().expect("a table")).expect("remove");
    let error = refusal(state_at(&directory));
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}
