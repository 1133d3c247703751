//! What does not come to its end: submissions that are interrupted, and file systems that do not
//! answer while an output is put into its place.

use std::fs;

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Ran, eventually, eventually_some};
use rustix::process::Signal;

use super::bucket::Buckets;
use super::{Member, PATIENCE, Place, endless, text};
use crate::beside::{Process, cfgctl, start_command};

/// Starts to submit a job, and waits until it has begun to leave there what tasks need.
fn begun(place: &Place, output: &str, is_begun: impl Fn() -> bool) -> Result<Process> {
    let input = place.input("text", text(1, 100))?;
    let first = place.input("first", "x")?;
    let fifo = place.path("fifo");
    let arguments = ["submit", "wordcount", "--input", &input, "--output", output];
    let files = ["--file", &first, "--file", &fifo];
    let mut command = place.command("mapreduce", &[&arguments[..], &files].concat())?;
    let process = start_command(&mut command, &place.directory(), "submit.log")?;
    eventually(PATIENCE, "it to have begun", is_begun)?;
    Ok(process)
}

/// Whether the group has something of a job.
fn is_known(place: &Place, part: &str) -> bool {
    let keys = ["get", "--prefix", "/mapreduce/jobs/"];
    let found = cfgctl(&place.cluster, &keys).expect("it answers");
    found
        .lines()
        .any(|line| line.contains("/mapreduce/jobs/") && line.contains(part))
}

/// Interrupts submissions in the middle of what they leave for tasks.
fn interrupted(place: &Place, output: &str, is_left: impl Fn() -> bool) {
    endless(place, "fifo");
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let check = || -> Result<()> {
            let mut process = begun(place, output, &is_left)?;
            ensure!(is_known(place, "/submitting"), "nobody knows of it");
            let id = rustix::process::Pid::from_raw(process.0.id().cast_signed());
            rustix::process::kill_process(id.context("a number")?, signal)?;
            let ended = eventually_some(PATIENCE, "it", || process.0.try_wait().transpose())??;
            if signal != Signal::KILL {
                ensure!(ended.code() == Some(1), "{ended}");
                ensure!(!is_left(), "it is left");
            }
            eventually(PATIENCE, "nothing to be left", || !is_left())?;
            eventually(PATIENCE, "no key to be left", || !is_known(place, ""))
        };
        check().unwrap_or_else(|error| {
            let said = fs::read_to_string(place.path("submit.log")).unwrap_or_default();
            panic!("{output} {signal:?}: {error:#}\n{said}\n{}", place.logs())
        });
    }
}

#[test]
fn submission_that_is_interrupted_leaves_no_directory() {
    let place = Place::start(1, 1, 0).expect("a group");
    interrupted(&place, &place.path("there"), || {
        let entries = fs::read_dir(place.directory()).into_iter().flatten();
        let mut names = entries.flatten().map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().starts_with(".there."))
    });
}

#[test]
fn submission_that_is_interrupted_leaves_no_object() {
    let buckets = Buckets::start().expect("a server");
    let place = buckets.place(1, 1, 0).expect("a group");
    interrupted(&place, "s3://data/out", || !buckets.all("out").is_empty());
}

fn key(ran: Result<Ran>) -> String {
    let said = ran.and_then(Ran::success).expect("it is submitted");
    said.trim().to_owned()
}

#[test]
fn file_system_that_does_not_answer_holds_up_no_other_job_and_no_end_of_a_master() {
    let mut place = Place::start(1, 1, 1).expect("a group");
    let input = place.input("text", text(1, 100)).expect("a file");
    let (first, second) = (place.path("first"), place.path("second"));
    let go = place.path("go");
    let waits = format!("until [ -e {go} ]; do sleep 0.05; done; cat");
    let job = [
        "submit",
        "streaming",
        "--detach",
        "--input",
        &input,
        "--output",
        &first,
    ];
    let programs = ["--", "--mapper", &waits, "--reducer", "cat"];
    let hung = key(place.mapreduce(&[&job[..], &programs].concat()));
    // Who looks for the manifest waits for ever.
    endless(&place, &format!(".first.{hung}/_MANIFEST"));
    fs::write(&go, "").expect("a file");
    let is_at_it = || {
        let listed = place.mapreduce(&["list"]).map(|ran| ran.stdout);
        listed.is_ok_and(|listed| listed.contains("publishing"))
    };
    eventually(PATIENCE, "the master to be at it", is_at_it)
        .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    let job = [
        "submit",
        "wordcount",
        "--input",
        &input,
        "--output",
        &second,
    ];
    let ran = place.mapreduce(&job).expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
    let told = || {
        let ran = place.mapreduce(&["remove", &hung]).expect("it ends");
        ran.stderr.contains("it takes longer than 30 s")
    };
    eventually(PATIENCE, "people to be told", told)
        .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    ends_and_goes_on(&mut place, &hung, &first);
}

/// The master ends when it is asked to, and the next one goes on.
fn ends_and_goes_on(place: &mut Place, hung: &str, output: &str) {
    let master: &mut Member = &mut place.masters[0];
    master.signal(Signal::TERM).expect("it runs");
    eventually(PATIENCE / 4, "the master's end", || !master.runs())
        .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    let said = format!("job is not settled: the next master goes on with it key=\"{hung}\"");
    assert!(place.logs().contains(&said), "{said}: {}", place.logs());
    let manifest = place.path(&format!(".first.{hung}/_MANIFEST"));
    fs::remove_file(manifest).expect("it answers again");
    let directory = place.directory();
    place.masters[0].start(&directory).expect("it starts");
    eventually(PATIENCE, "the output", || {
        fs::exists(output).is_ok_and(|is_there| is_there)
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
}
