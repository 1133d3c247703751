//! What is refused before there is a job, and ends of jobs that people ask for.

use cfgsvc_tests::harness::eventually;

use super::{PATIENCE, Place, text};

#[test]
fn what_cannot_be_is_refused_and_nothing_is_left() {
    let place = Place::start(1, 1, 1).expect("a group");
    let input = place.input("text", text(1, 100)).expect("a file");
    let output = place.path("output");
    std::fs::create_dir(&output).expect("a directory");
    place.input("output/there", "x").expect("a file");
    let new = place.path("new");
    let cases: [(&[&str], &str); 5] = [
        (
            &["wordcount", "--input", "none", "--output", &new],
            "none: No such file",
        ),
        (
            &["wordcount", "--input", &input, "--output", &output],
            "exists: name another",
        ),
        (
            &["nothing", "--input", &input, "--output", &new],
            "no job is named nothing",
        ),
        (
            &[
                "wordcount",
                "--input",
                &input,
                "--output",
                &new,
                "--reduces",
                "0",
            ],
            "at least 1",
        ),
        (
            &[
                "wordcount",
                "--input",
                &input,
                "--output",
                "/proc/none",
                "--split-size",
                "1k",
            ],
            "/proc/",
        ),
    ];
    for (arguments, expected) in cases {
        let ran = place
            .mapreduce(&[&["submit"], arguments].concat())
            .expect("it ends");
        assert_eq!(ran.code, Some(1), "{ran}");
        assert!(ran.stderr.contains(expected), "{arguments:?}: {ran}");
    }
    let too_many = [
        "submit",
        "wordcount",
        "--input",
        &input,
        "--output",
        &new,
        "--split-size",
        "1",
    ];
    let ran = place
        .mapreduce(&[&too_many[..], &["--reduces", "250000"]].concat())
        .expect("it ends");
    assert_eq!(ran.code, Some(1), "{ran}");
    let listed = place
        .mapreduce(&["list"])
        .expect("it ends")
        .success()
        .expect("a list");
    assert!(!listed.contains("wordcount"), "{listed}");
    place.is_clean("new").expect("nothing is left");
}

#[test]
fn cancelled_job_leaves_nothing() {
    let place = Place::start(1, 1, 1).expect("a group");
    let input = place.input("text", text(1, 20_000)).expect("a file");
    let there = place.path("there");
    let arguments = [
        "submit", "--detach", "slow", "--input", &input, "--output", &there,
    ];
    let mut command = place.command("test-jobs", &arguments).expect("a command");
    let ran = cfgsvc_tests::harness::run(&mut command).expect("it ends");
    let job = ran.success().expect("it is submitted").trim().to_owned();
    eventually(PATIENCE, "a task to run", || {
        std::fs::read_dir(place.path("worker0/attempts")).is_ok_and(|mut all| all.next().is_some())
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    place
        .mapreduce(&["cancel", &job])
        .expect("it ends")
        .success()
        .expect("it is cancelled");
    place.is_clean("there").expect("nothing is left");
    eventually(PATIENCE, "no attempt to be left", || {
        std::fs::read_dir(place.path("worker0/attempts")).is_ok_and(|mut all| all.next().is_none())
    })
    .expect("its files are removed");
    let said = place.mapreduce(&["cancel", "none"]).expect("it ends");
    assert!(said.stderr.contains("no job none"), "{said}");
}
