//! What a job may take of its machine: open files; and that it ends as soon as one of its functions
//! panics, or nobody wants it.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mapreduce::{Bytes, Emit, Identity, Job, Lines, Options, Result, U64, map_fn};
use tempfile::TempDir;

#[test]
fn runs_are_merged_with_as_many_files_as_may_be_open() {
    let directory = TempDir::new().expect("a directory");
    let lines = (0..3_000).map(|number| format!("{:04}\n", number * 7 % 3_000));
    fs::write(directory.path().join("in"), lines.collect::<String>()).expect("a file");
    // 300 map tasks, of which each reduce task reads a run; the limit is a hard one.
    let job = "ulimit -n 200 && exec \"$0\" run sort --input in --output out --split-size 50 \
               --reduces 3 --threads 3 --memory 1GiB";
    let mut command = Command::new("sh");
    command.args(["-c", job, env!("CARGO_BIN_EXE_mapreduce")]);
    let out = command.current_dir(directory.path()).output();
    let out = out.expect("it starts");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let parts = (0..3).map(|part| directory.path().join(format!("out/part-{part:05}")));
    let parts = parts.map(|part| fs::read_to_string(part).expect("a file"));
    let sorted = (0..3_000).map(|number| format!("{number:04}\n"));
    assert_eq!(parts.collect::<String>(), sorted.collect::<String>());
}

/// The first of two tasks panics; the other one waits until nobody wants it.
fn panics(at: u64, line: &[u8], out: &mut Emit<'_, Bytes, U64>) -> Result<()> {
    assert!(at != 3, "of what it has read");
    let began = Instant::now();
    while out.context().task() == 1 {
        out.context().is_wanted()?;
        let waited = began.elapsed();
        assert!(waited < Duration::from_mins(1), "the job does not end");
        std::thread::yield_now();
    }
    out.emit(line, at)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn job_whose_function_panics_ends_at_once_with_the_record() {
    let directory = TempDir::new().expect("a directory");
    let input = directory.path().join("in").display().to_string();
    fs::write(&input, "01\n02\n03\n04\n").expect("a file");
    let job = Job::new("panics", Lines, || map_fn(Lines, panics), Identity::default);
    let options = Options {
        split_octets: Some(6),
        threads: NonZero::new(2).expect("two"),
        ..Options::new(vec![input.clone()], directory.path().join("out"))
    };
    let error = mapreduce::run(&job.into(), &[], &options).expect_err("it panics");
    let said = format!("{input}, octet 3: it panicked: of what it has read");
    assert_eq!(error.to_string(), said);
    assert_eq!(names(directory.path()), ["in"]);
}
