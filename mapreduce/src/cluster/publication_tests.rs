//! An output is put into its place once, whoever does it, however often, and however late.

use super::*;
use mapreduce_core::names::Incarnation;
use mapreduce_core::record::{Batch, Counters, Output, Record, TaskWon};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::sync::Barrier;

const KEY: &str = "0123456789ab";
const ID: JobId = JobId(7);
const OF: (&str, JobId) = (KEY, ID);

fn attempt(counter: u64) -> AttemptId {
    let epoch = Epoch(3);
    AttemptId { epoch, counter }
}

/// A job of two maps that has ended; the second task had two attempts.
fn ended() -> JobState {
    let won = |task, counter, length| {
        Record::Won(Box::new(TaskWon {
            task: TaskId::map(task),
            attempt: attempt(counter),
            incarnation: Incarnation(1),
            outputs: vec![Output {
                name: String::new(),
                length,
                checksum: 1,
            }],
            content: 1,
            inputs: 0,
            counters: Counters::default(),
        }))
    };
    let mut state = JobState::new(2, 0);
    let records = vec![won(0, 1, 3), won(1, 3, 5), Record::Done];
    let epoch = Epoch(3);
    let applied = state.apply(1, &Batch { epoch, records });
    applied.expect("it fits");
    state
}

/// What attempts have left, beside a place that has something else.
fn prepared(directory: &Path, is_there: bool) -> Destination {
    let target = directory.join("out");
    if is_there {
        fs::create_dir(&target).expect("a directory");
        fs::write(target.join("before"), "before").expect("a file");
    }
    let staging = staging(&target, KEY).expect("a name");
    fs::create_dir_all(attempts(&staging)).expect("a directory");
    fs::write(program(&staging), "program").expect("a file");
    for (task, counter, what) in [(0, 1, "one"), (1, 2, "lost"), (1, 3, "three")] {
        let name = attempt_name(ID, TaskId::map(task), attempt(counter));
        fs::write(attempts(&staging).join(name), what).expect("a file");
    }
    Destination {
        target,
        overwrite: is_there,
        ..Destination::default()
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names
        .map(|name| name.into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// The winners' output is in its place, and nothing else is there.
fn is_whole(destination: &Destination) {
    let target = &destination.target;
    assert_eq!(
        names(target),
        ["_MANIFEST", "_SUCCESS", "part-00000", "part-00001"]
    );
    let read = |name| fs::read_to_string(target.join(name)).expect("a file");
    assert_eq!(
        (read("part-00000"), read("part-00001")),
        ("one".into(), "three".into())
    );
    assert!(is_of(target, OF).expect("it can be read"));
    assert_eq!(names(target.parent().expect("it has one")), ["out"]);
}

#[test]
fn output_is_published_once_however_often() {
    for is_there in [false, true] {
        let place = tempfile::tempdir().expect("a directory");
        let destination = prepared(place.path(), is_there);
        let publish = |epoch| publish(&destination, OF, &ended(), Epoch(epoch));
        assert_eq!(publish(3).expect("it is done"), Published::Now);
        is_whole(&destination);
        for epoch in [3, 9] {
            assert_eq!(publish(epoch).expect("it was done"), Published::Before);
            is_whole(&destination);
        }
    }
}

#[test]
fn whoever_is_held_up_before_the_last_rename_undoes_nothing() {
    let place = tempfile::tempdir().expect("a directory");
    let destination = prepared(place.path(), true);
    let staging = staging(&destination.target, KEY).expect("a name");
    // An old master has claimed it, and stands still.
    fill(&staging, OF, &ended(), Epoch(3)).expect("it is filled");
    let own = staging.with_added_extension(Epoch(3).to_string());
    assert!(claim(&staging, &own, OF).expect("it is claimed"));
    let done = publish(&destination, OF, &ended(), Epoch(9)).expect("it is done");
    assert_eq!(done, Published::Now);
    is_whole(&destination);
    // It goes on.
    let late = renameat_with(CWD, &own, CWD, &destination.target, RenameFlags::EXCHANGE);
    assert_eq!(late, Err(rustix::io::Errno::NOENT));
    is_whole(&destination);
}

#[test]
fn what_was_there_before_is_not_put_back() {
    let place = tempfile::tempdir().expect("a directory");
    let destination = prepared(place.path(), true);
    let staging = staging(&destination.target, KEY).expect("a name");
    // A master has exchanged the directories and was killed before it removed the old one.
    fill(&staging, OF, &ended(), Epoch(3)).expect("it is filled");
    let own = staging.with_added_extension(Epoch(3).to_string());
    assert!(claim(&staging, &own, OF).expect("it is claimed"));
    renameat_with(CWD, &own, CWD, &destination.target, RenameFlags::EXCHANGE).expect("it is done");
    for epoch in [9, 3] {
        let done = publish(&destination, OF, &ended(), Epoch(epoch)).expect("it was done");
        assert_eq!(done, Published::Before);
        is_whole(&destination);
    }
}

#[test]
fn masters_at_the_same_time_publish_once() {
    for round in 0..100 {
        let place = tempfile::tempdir().expect("a directory");
        let destination = prepared(place.path(), round % 2 == 0);
        let both = Barrier::new(3);
        let work = |epoch| {
            both.wait();
            // Whoever comes too late at a step says so, and tries again, as a master does.
            while publish(&destination, OF, &ended(), Epoch(epoch)).is_err() {}
        };
        std::thread::scope(|scope| {
            for epoch in [3, 5, 9] {
                scope.spawn(move || work(epoch));
            }
        });
        is_whole(&destination);
    }
}

#[test]
fn output_that_exists_is_kept_and_so_is_the_new_one() {
    let place = tempfile::tempdir().expect("a directory");
    let destination = prepared(place.path(), true);
    let refused = Destination {
        overwrite: false,
        ..destination.clone()
    };
    let error = publish(&refused, OF, &ended(), Epoch(3)).expect_err("something is there");
    assert!(error.to_string().contains("File exists"), "{error}");
    assert_eq!(names(&destination.target), ["before"]);
    // A person moves it out of the way.
    fs::remove_dir_all(&destination.target).expect("it is removed");
    publish(&refused, OF, &ended(), Epoch(4)).expect("it is done");
    is_whole(&refused);
}

#[test]
fn file_that_is_not_as_its_task_wrote_it_is_not_published() {
    let place = tempfile::tempdir().expect("a directory");
    let destination = prepared(place.path(), false);
    let staging = staging(&destination.target, KEY).expect("a name");
    let name = attempt_name(ID, TaskId::map(0), attempt(1));
    fs::write(attempts(&staging).join(name), "cut").expect("a file");
    fs::write(
        attempts(&staging).join(attempt_name(ID, TaskId::map(1), attempt(3))),
        "th",
    )
    .expect("a file");
    let error = publish(&destination, OF, &ended(), Epoch(3)).expect_err("it is cut");
    assert!(
        error.to_string().contains("has 2 octets, its task wrote 5"),
        "{error}"
    );
    assert!(!destination.target.exists());
}

#[test]
fn discarded_job_leaves_nothing() {
    let place = tempfile::tempdir().expect("a directory");
    let destination = prepared(place.path(), true);
    for _ in 0..2 {
        discard(&destination, KEY).expect("it is removed");
        assert_eq!(names(place.path()), ["out"]);
    }
}

#[test]
fn output_that_is_given_up_while_a_master_publishes_it_is_there_or_is_not() {
    for (is_exchanged, is_there) in [(false, false), (false, true), (true, true)] {
        let place = tempfile::tempdir().expect("a directory");
        let destination = prepared(place.path(), is_there);
        let staging = staging(&destination.target, KEY).expect("a name");
        // A master has claimed it, and stands still before the last rename, or after it.
        fill(&staging, OF, &ended(), Epoch(3)).expect("it is filled");
        let own = staging.with_added_extension(Epoch(3).to_string());
        assert!(claim(&staging, &own, OF).expect("it is claimed"));
        if is_exchanged {
            put(&own, &destination).expect("it is put");
        }
        discard(&destination, KEY).expect("it is discarded");
        let is_published = is_published(&destination, OF).expect("it can be read");
        assert_eq!(is_published, is_exchanged);
        if is_published {
            is_whole(&destination);
            continue;
        }
        put(&own, &destination).expect_err("it is gone");
        let left: &[&str] = if is_there { &["out"] } else { &[] };
        assert_eq!(names(place.path()), left);
        if is_there {
            assert_eq!(names(&destination.target), ["before"]);
        }
    }
}

#[test]
fn directory_that_is_being_removed_is_not_published() {
    let place = tempfile::tempdir().expect("a directory");
    let destination = prepared(place.path(), false);
    let staging = staging(&destination.target, KEY).expect("a name");
    fill(&staging, OF, &ended(), Epoch(3)).expect("it is filled");
    // Whoever removed it was killed when a part of it was gone.
    let going = staging.with_added_extension(format!("{GOING}1"));
    fs::rename(&staging, &going).expect("it is renamed");
    fs::remove_file(going.join("part-00001")).expect("it is removed");
    publish(&destination, OF, &ended(), Epoch(9)).expect_err("there is nothing whole");
    assert!(!destination.target.exists());
    discard(&destination, KEY).expect("it is discarded");
    assert_eq!(names(place.path()), [""; 0]);
}

#[test]
fn side_file_of_a_map_whose_worker_is_gone_is_published() {
    let place = tempfile::tempdir().expect("a directory");
    let destination = prepared(place.path(), false);
    let staging = staging(&destination.target, KEY).expect("a name");
    let output = |name: &str, length| Output {
        name: name.to_owned(),
        length,
        checksum: 1,
    };
    let won = |task, counter, outputs, inputs| {
        Record::Won(Box::new(TaskWon {
            task,
            attempt: attempt(counter),
            incarnation: Incarnation(1),
            outputs,
            content: 1,
            inputs,
            counters: Counters::default(),
        }))
    };
    let (map, reduce) = (TaskId::map(0), TaskId::reduce(0));
    let inputs = mapreduce_core::job::inputs_digest([(0, 1)]);
    let records = vec![
        won(map, 8, vec![output("", 9), output("_notes", 4)], 0),
        Record::Revoked {
            task: map,
            attempt: attempt(8),
            reason: mapreduce_core::record::RevokeReason::WorkerLost,
        },
        won(reduce, 9, vec![output("", 6)], inputs),
        Record::Done,
    ];
    let mut state = JobState::new(1, 1);
    let epoch = Epoch(3);
    let applied = state.apply(1, &Batch { epoch, records });
    applied.expect("it fits");
    let of = |task, counter| attempts(&staging).join(attempt_name(ID, task, attempt(counter)));
    fs::write(of(reduce, 9), "result").expect("a file");
    fs::write(side(&of(map, 8), "_notes"), "side").expect("a file");
    publish(&destination, OF, &state, epoch).expect("it is done");
    let notes = fs::read_to_string(destination.target.join("_notes"));
    assert_eq!(notes.expect("a file"), "side");
    let manifest = fs::read_to_string(destination.target.join("_MANIFEST"));
    assert!(manifest.expect("a file").contains("_notes"));
}
