//! Job code that does what it should not: the job fails, or goes on without what is bad, and says
//! why; workers go on.

use std::fs;

use super::{Place, text};
use crate::seeds::lasts;

/// What is said of a job that fails; nothing of it is left, and workers go on.
fn failure(place: &mut Place, job: &str, settings: &[&str]) -> String {
    let there = place.path("there");
    let arguments = [&["submit", "--output", &there, job], settings].concat();
    let mut command = place.command("test-jobs", &arguments).expect("a command");
    let ran = cfgsvc_tests::harness::run(&mut command).expect("it ends");
    assert_eq!(ran.code, Some(1), "{ran}\n{}", place.logs());
    assert!(!std::path::Path::new(&there).exists(), "{ran}");
    place.is_clean("there").expect("nothing is left");
    assert!(
        place.workers.iter_mut().all(super::Member::runs),
        "{}",
        place.logs()
    );
    format!("{}{}", ran.stdout, ran.stderr)
}

#[test]
fn code_that_crashes_hangs_eats_or_floods_harms_no_worker() {
    let settings = ["--task-timeout", "3", "--task-memory", "300MiB"];
    let mut place = Place::with(1, 1, 2, &settings).expect("a group");
    let good = place.input("good", text(1, 200)).expect("a file");
    let bad = format!("{}one boom two\n{}", text(2, 100), text(3, 100));
    let at = bad.find("one boom").expect("it is there");
    let bad = place.input("bad", bad).expect("a file");
    let input = ["--input", &good, &bad, "--attempts", "2"];
    let said = failure(&mut place, "refuses", &input);
    let expected = format!("{bad}, octet {at}: the job's map function: it says boom");
    assert!(said.contains(&expected), "{said}");
    let said = failure(&mut place, "aborts", &input);
    assert!(said.contains("signal: 6 (SIGABRT)"), "{said}");
    let said = failure(&mut place, "eats", &input);
    assert!(said.contains("memory allocation of"), "{said}");
    let said = failure(&mut place, "hangs", &input);
    assert!(said.contains("no progress for 3 s"), "{said}");
    place
        .same("test-jobs", &["floods"], &["--input", &good])
        .expect("its output is nobody's affair");
}

#[test]
fn records_on_which_code_crashes_are_left_out_and_listed() {
    let place = Place::start(1, 1, 2).expect("a group");
    let good = format!("{}{}", text(2, 100), text(3, 100));
    let bad = format!("{}one boom two\n{}boom\n", text(2, 100), text(3, 100));
    let good = place.input("good", good).expect("a file");
    let bad = place.input("bad", bad).expect("a file");
    let expected = place.run_here("mapreduce", &["wordcount"], &["--input", &good]);
    let there = place.path("there");
    let arguments = [
        "submit",
        "--output",
        &there,
        "--skip-bad-records",
        "5",
        "aborts",
        "--input",
        &bad,
    ];
    let mut command = place.command("test-jobs", &arguments).expect("a command");
    let ran = cfgsvc_tests::harness::run(&mut command).expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
    assert_eq!(
        super::parts(&there).expect("output"),
        expected.expect("it runs")
    );
    let listed = fs::read_to_string(format!("{there}/_SKIPPED")).expect("a list");
    let listed: Vec<serde_json::Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let begins: Vec<&str> = listed
        .iter()
        .filter_map(|one| one["begins"].as_str())
        .collect();
    assert_eq!(begins, ["one boom two", "boom"]);
    assert_eq!(listed[0]["record"], 100);
    assert!(ran.stdout.contains("skipped records"), "{ran}");
}

#[test]
fn task_lives_while_values_pass_and_a_record_on_which_it_hangs_is_left_out() {
    let place = Place::with(1, 1, 1, &["--task-timeout", "3"]).expect("a group");
    // One key, whose values take twice the time in which something must move.
    let values = place.input("values", text(4, 6_000)).expect("a file");
    let once = ["--input", &values, "--attempts", "1"];
    let there = place.path("there");
    let arguments = [&["submit", "--output", &there, "patient"], &once[..]].concat();
    let mut command = place.command("test-jobs", &arguments).expect("a command");
    let ran = cfgsvc_tests::harness::run(&mut command).expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
    let counted = super::parts(&there).expect("output");
    assert_eq!(counted["part-00000"], b"all\t6000\n");
    let bad = format!("{}one boom two\n{}", text(2, 100), text(3, 100));
    let bad = place.input("bad", bad).expect("a file");
    let there = place.path("hung");
    let skips = ["--skip-bad-records", "5", "--input", &bad];
    let arguments = [&["submit", "--output", &there, "hangs"], &skips[..]].concat();
    let mut command = place.command("test-jobs", &arguments).expect("a command");
    let ran = cfgsvc_tests::harness::run(&mut command).expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
    let listed = fs::read_to_string(format!("{there}/_SKIPPED")).expect("a list");
    assert!(listed.contains(r#""begins":"one boom two""#), "{listed}");
    assert_eq!(listed.lines().count(), 1, "{listed}");
}

#[test]
fn task_that_a_slow_worker_has_gets_a_backup_that_wins() {
    let place = Place::start(1, 1, 2).expect("a group");
    // Sixteen tasks of a second each; a backup may begin after ten.
    let input = place.input("text", text(4, 16_000)).expect("a file");
    let settings = ["--input", &input, "--split-size", "40k", "--reduces", "2"];
    let expected = place
        .run_here("mapreduce", &["wordcount"], &settings)
        .expect("it runs");
    let mut submitted = place
        .begin("test-jobs", &["slow"], &settings)
        .expect("it starts");
    let mut slowed = false;
    let done = cfgsvc_tests::harness::eventually(2 * super::PATIENCE, "the job", || {
        // Stopped for nine tenths of the time: ten times as slow.
        let children = children_of(place.workers[0].process.as_ref().map_or(0, |it| it.0.id()));
        for signal in [rustix::process::Signal::STOP, rustix::process::Signal::CONT] {
            for child in &children {
                slowed |= rustix::process::kill_process(*child, signal).is_ok();
            }
            if signal == rustix::process::Signal::STOP {
                lasts(std::time::Duration::from_millis(90));
            }
        }
        matches!(submitted.0.try_wait(), Ok(Some(_)))
    });
    done.unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    assert!(slowed);
    assert_eq!(
        super::parts(&place.path("there")).expect("output"),
        expected
    );
}

/// The tasks of a worker.
fn children_of(worker: u32) -> Vec<rustix::process::Pid> {
    let threads = fs::read_dir(format!("/proc/{worker}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let children = threads.map(|thread| fs::read_to_string(thread.path().join("children")));
    let children: String = children.map(Result::unwrap_or_default).collect();
    let ids = children
        .split_ascii_whitespace()
        .filter_map(|id| id.parse().ok());
    ids.filter_map(rustix::process::Pid::from_raw).collect()
}
