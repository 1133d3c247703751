//! Jobs whose partitions are ranges of keys: each group is in one of them, all are in order, and
//! what contradicts that is refused.

use std::fs;
use std::num::NonZero;
use std::path::Path;

use mapreduce::{
    AnyJob, Bytes, Emit, Halves, Job, KeyValues, Options, Pair, Result, U64, Values, map_fn,
    reduce_fn,
};
use tempfile::TempDir;

type Key = Pair<Bytes, Bytes>;

/// Both halves of a line are the key.
fn halves(first: &[u8], second: &[u8], out: &mut Emit<'_, Key, U64>) -> Result<()> {
    out.emit(Halves::new::<Bytes, Bytes>(first, second), 1)
}

/// The first half, and how many second ones came with it, which are in order.
fn count(
    key: Halves<'_>,
    values: &mut Values<'_, U64>,
    out: &mut Emit<'_, Bytes, U64>,
) -> Result<()> {
    let (mut count, mut last) = (0, Vec::new());
    while values.next()?.is_some() {
        let second = values.key::<Key>()?.second::<Bytes>()?.to_vec();
        assert!(last <= second, "{last:?} {second:?}");
        (count, last) = (count + 1, second);
    }
    out.emit(key.first::<Bytes>()?, count)
}

fn run(directory: &Path, job: &AnyJob, reduces: u32) -> Result<Vec<String>> {
    let inputs = vec![directory.join("in").display().to_string()];
    let options = Options {
        reduces: Some(reduces),
        split_octets: Some(500),
        threads: NonZero::new(2).expect("at least one"),
        ..Options::new(inputs, directory.join("out"))
    };
    let report = mapreduce::run(job, &[], &options)?;
    let files = report.files.iter().map(|file| &file.name);
    let files = files.map(|name| fs::read_to_string(directory.join("out").join(name)));
    Ok(files.collect::<Result<Vec<_>, _>>()?)
}

/// Few first halves, of which one has most of the second ones: some ranges begin among them.
fn input(directory: &Path) {
    let lines = (0..400).map(|number| {
        let first = if number % 4 == 0 { number % 7 } else { 3 };
        format!("key{first}\t{:04}\n", number * 37 % 400)
    });
    fs::write(directory.join("in"), lines.collect::<String>()).expect("a file");
}

#[test]
fn group_of_a_sorted_job_is_reduced_once() {
    let directory = TempDir::new().expect("a directory");
    input(directory.path());
    let job = Job::new(
        "groups",
        KeyValues,
        || map_fn(KeyValues, halves),
        || reduce_fn(count),
    );
    let files = run(directory.path(), &job.group_by_first().sorted().into(), 5);
    let files = files.expect("it runs");
    assert_eq!(files.len(), 5);
    let counts = [15, 14, 14, 314, 15, 14, 14];
    let expected = counts.iter().enumerate();
    let expected = expected.map(|(first, count)| format!("key{first}\t{count}\n"));
    assert_eq!(files.concat(), expected.collect::<String>());
    assert!(files.iter().filter(|file| !file.is_empty()).count() > 1);
}

#[test]
fn what_has_a_first_half_in_common_is_in_one_range() {
    let directory = TempDir::new().expect("a directory");
    input(directory.path());
    let job = Job::new(
        "parts",
        KeyValues,
        || map_fn(KeyValues, halves),
        || reduce_fn(count),
    );
    let job = job.partition_by_first().sorted().into();
    let files = run(directory.path(), &job, 5).expect("it runs");
    let firsts = files.iter().map(|file| {
        let mut firsts: Vec<_> = file.lines().map(|line| &line[..4]).collect();
        firsts.dedup();
        firsts
    });
    let firsts = firsts.collect::<Vec<_>>().concat();
    let expected: Vec<_> = (0..7).map(|first| format!("key{first}")).collect();
    assert_eq!(firsts, expected, "each in one file, and in order");
}

#[test]
fn sorted_job_that_chooses_partitions_by_a_function_is_refused() {
    let directory = TempDir::new().expect("a directory");
    input(directory.path());
    let job = || {
        Job::new(
            "both",
            KeyValues,
            || map_fn(KeyValues, halves),
            || reduce_fn(count),
        )
    };
    for job in [
        job().partition(|_, _| 0).sorted(),
        job().sorted().partition(|_, _| 0),
        job().group_by_first().partition(|_, _| 0).sorted(),
    ] {
        let error = run(directory.path(), &job.into(), 3).expect_err("it is refused");
        let said = "its partitions are ranges of keys, as it is sorted: it cannot choose them by a \
                    function too";
        assert_eq!(error.to_string(), said);
        assert!(!directory.path().join("out").exists());
    }
}
