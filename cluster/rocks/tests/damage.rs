//! What is left after a kill, a torn write, a flipped bit, a mixed-up or a locked directory.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cluster_core::log::{LogEngine, LogMeta, LogOp};
use cluster_core::store::{Batch, Direction, KeyRange, StateEngine};
use cluster_rocks::{LogOptions, RocksLog, RocksState, StateOptions, open_log, open_state};

fn log_at(directory: &Path) -> io::Result<RocksLog> {
    open_log(directory, &LogOptions::new(true))
}

fn state_at(directory: &Path) -> io::Result<RocksState> {
    open_state(directory, &StateOptions::new(true))
}

/// The error of an open that must fail.
fn refusal<T>(opened: io::Result<T>) -> io::Error {
    opened.map(|_| ()).expect_err("the open must be refused")
}

fn entry(index: u64) -> Bytes {
    Bytes::from(format!("entry {index} {}", "x".repeat(200)))
}

fn append(log: &RocksLog, range: std::ops::Range<u64>) {
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
fn copy(from: &Path, to: &Path) {
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
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let found: BTreeSet<_> = fs::read_dir(directory)
        .expect("list")
        .map(|file| file.expect("list").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.into_iter().collect()
}

fn flip_bit(path: &Path, offset: usize, bit: u32) {
    let mut bytes = fs::read(path).expect("read");
    bytes[offset] ^= 1 << bit;
    fs::write(path, bytes).expect("write");
}

fn check_entries(log: &RocksLog, range: std::ops::Range<u64>) {
    let found = log.entries(range.clone(), usize::MAX).expect("entries");
    let expected: Vec<_> = range.map(|index| (index, entry(index))).collect();
    assert_eq!(found, expected);
}

#[test]
fn killed_log_keeps_every_acknowledged_batch() {
    let root = tempfile::tempdir().expect("temporary directory");
    let log = log_at(&root.path().join("log")).expect("open");
    for batch in 0..20 {
        append(&log, 1 + batch * 5..6 + batch * 5);
        let killed = root.path().join(format!("killed{batch}"));
        copy(&root.path().join("log"), &killed);
        let reopened = log_at(&killed).expect("open after the kill");
        assert_eq!(reopened.bounds().expect("bounds"), Some((1, 5 + batch * 5)));
        check_entries(&reopened, 1..6 + batch * 5);
        assert_eq!(
            reopened.meta(LogMeta::Committed).expect("meta"),
            Some(Bytes::from_static(b"c"))
        );
    }
    assert_eq!(log.batches_synced(), 20);
}

#[test]
fn torn_tail_opens_with_a_prefix_of_batches() {
    let root = tempfile::tempdir().expect("temporary directory");
    let log = log_at(&root.path().join("log")).expect("open");
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
fn any_flipped_bit_in_the_write_ahead_log_costs_at_most_the_last_batch() {
    let root = tempfile::tempdir().expect("temporary directory");
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
fn batches_longer_than_a_block_and_many_files_are_no_damage() {
    let root = tempfile::tempdir().expect("temporary directory");
    let mut options = LogOptions::new(true);
    options.memtable_bytes = 64 << 10;
    let directory = root.path().join("log");
    let log = open_log(&directory, &options).expect("open");
    let mut most = 0;
    for batch in 0..40 {
        append(&log, 1 + batch * 400..1 + (batch + 1) * 400);
        most = most.max(files(&directory, "log").len());
        if batch % 8 == 7 {
            let killed = root.path().join(format!("killed{batch}"));
            copy(&directory, &killed);
            let reopened = open_log(&killed, &options).expect("open after the kill");
            check_entries(&reopened, 1..1 + (batch + 1) * 400);
        }
    }
    assert!(most > 1, "there was never more than one file");
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
fn killed_state_keeps_a_prefix_of_commits_up_to_the_flush_at_least() {
    let root = tempfile::tempdir().expect("temporary directory");
    let directory = root.path().join("state");
    let mut options = StateOptions::new(true);
    options.memtable_bytes = 64 << 10;
    let state = open_state(&directory, &options).expect("open");
    let flushed = 700;
    for number in 1..=1000_u64 {
        state.commit(numbered(number)).expect("commit");
        if number == flushed {
            state.flush().expect("flush");
        }
    }
    let killed = root.path().join("killed");
    copy(&directory, &killed);
    let reopened = open_state(&killed, &options).expect("open after the kill");
    let last = check_numbered(&reopened);
    assert!(
        (flushed..=1000).contains(&last),
        "the state is as of commit {last}"
    );
}

/// A commit that sets two keys far from each other, and one of its own.
fn numbered(number: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put(&b"a"[..], number.to_be_bytes().to_vec());
    batch.put(format!("n{number:08}"), vec![b'v'; 300]);
    batch.put(&b"z"[..], number.to_be_bytes().to_vec());
    batch
}

/// Checks that the store is as of one commit and returns its number.
fn check_numbered(state: &RocksState) -> u64 {
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
