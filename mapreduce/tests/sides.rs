//! Side files: what tasks write beside their records is there with the output, or not at all, and is
//! no data to who reads the output.

use std::fs;
use std::num::NonZero;
use std::path::Path;

use mapreduce::{AnyJob, Bytes, Emit, Job, KeyValues, Options, Report, Result, Values, error};
use mapreduce::{Sum, U64, map_fn, reduce_fn};
use tempfile::TempDir;

/// Gives on records whose value is a number, and puts the keys of others aside.
fn check(key: &[u8], value: &[u8], out: &mut Emit<'_, Bytes, U64>) -> Result<()> {
    let number = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
    if let Some(number) = number {
        return out.emit(key, number);
    }
    if value == b"end" {
        return Err(error("it is the end"));
    }
    let refused = out.side_file("refused")?;
    refused.write_all(key)?;
    Ok(refused.write_all(b"\n")?)
}

/// Sums values, and puts those of many aside.
fn sum(key: &[u8], values: &mut Values<'_, U64>, out: &mut Emit<'_, Bytes, U64>) -> Result<()> {
    let (mut sum, mut count) = (0, 0);
    while let Some(value) = values.next()? {
        (sum, count) = (sum + value, count + 1);
    }
    if count > 1 {
        writeln!(out.side_file("many.txt")?, "{count}")?;
        out.side_file("refused")?.write_all(b"by the reduce\n")?;
    }
    out.emit(key, sum)
}

fn job() -> AnyJob {
    let map = || map_fn(KeyValues, check);
    Job::new("check", KeyValues, map, || reduce_fn(sum)).into()
}

fn run(directory: &Path, job: &AnyJob, split: u64, threads: usize) -> Result<Report> {
    let input = directory.join("in").display().to_string();
    let options = Options {
        split_octets: Some(split),
        threads: NonZero::new(threads).expect("at least one"),
        overwrite: true,
        reduces: Some(2),
        ..Options::new(vec![input], directory.join("out"))
    };
    mapreduce::run(job, &[], &options)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn text(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join("out").join(name)).expect("a file")
}

/// Eight octets a line.
const LINES: &str =
    "aaaaa\t1\nbbbbb\tx\nccccc\t2\nddddd\t3\neeeee\ty\nfffff\tz\naaaaa\t4\nggggg\t5\n";

#[test]
fn side_files_are_published_with_the_output_and_listed_in_the_manifest() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    fs::write(directory.join("in"), LINES).expect("a file");
    for threads in [1, 3] {
        let report = run(directory, &job(), 24, threads).expect("it runs");
        let reduces = |name: &str| {
            let at = (0..2).find(|at| {
                let name = format!("_{name}-r-{at:05}");
                directory.join("out").join(name).exists()
            });
            format!("_{name}-r-{:05}", at.expect("one of both"))
        };
        let (many, refused) = (reduces("many.txt"), reduces("refused"));
        let sides = [&many, "_refused-m-00000", "_refused-m-00001", &refused];
        let data = ["part-00000", "part-00001"];
        let found = names(&directory.join("out"));
        let expected = [&["_MANIFEST", "_SUCCESS"], &sides[..], &data].concat();
        assert_eq!(found, expected);
        assert_eq!(text(directory, "_refused-m-00000"), "bbbbb\n");
        assert_eq!(text(directory, "_refused-m-00001"), "eeeee\nfffff\n");
        assert_eq!(text(directory, &many), "2\n");
        assert_eq!(text(directory, &refused), "by the reduce\n");
        let listed = |files: &[mapreduce::OutputFile]| -> Vec<(String, u64)> {
            let all = files.iter().map(|file| (file.name.clone(), file.octets));
            all.collect()
        };
        let lengths = [2, 6, 12, 14];
        let expected: Vec<_> = sides.map(str::to_owned).into_iter().zip(lengths).collect();
        assert_eq!(listed(&report.side_files), expected);
        assert_eq!(report.files.len(), 2);
        let manifest: serde_json::Value =
            serde_json::from_str(&text(directory, "_MANIFEST")).expect("JSON");
        let named = |what: &str| manifest[what].as_array().expect("a list").len();
        assert_eq!((named("side_files"), named("files")), (4, 2));
    }
    assert_eq!(names(directory), ["in", "out"]);
}

#[test]
fn side_files_are_no_data_unless_they_are_named() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    fs::write(directory.join("in"), LINES).expect("a file");
    run(directory, &job(), 24, 2).expect("it runs");
    let keys = |_: &[u8], _: &[u8], out: &mut Emit<'_, Bytes, U64>| out.emit(b"lines", 1);
    let count = || -> AnyJob {
        let map = move || map_fn(KeyValues, keys);
        Job::new("count", KeyValues, map, Sum::<Bytes>::default).into()
    };
    for (input, expected) in [("out", 4), ("out/_refused-m-*", 3), ("out/*", 4)] {
        let input = directory.join(input).display().to_string();
        let to = directory.join("counts");
        let options = Options {
            overwrite: true,
            ..Options::new(vec![input.clone()], &to)
        };
        mapreduce::run(&count(), &[], &options).expect("it runs");
        let counted = fs::read_to_string(to.join("part-00000")).expect("a file");
        assert_eq!(counted, format!("lines\t{expected}\n"), "{input}");
    }
}

#[test]
fn job_that_fails_leaves_no_side_file() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    fs::write(directory.join("in"), format!("{LINES}hhhhh\tend\n")).expect("a file");
    let said = run(directory, &job(), 24, 1).expect_err("it fails");
    assert!(said.to_string().contains("map function"), "{said}");
    assert_eq!(names(directory), ["in"]);
}

#[test]
fn side_files_with_wrong_names_and_too_many_of_them_are_refused() {
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    fs::write(directory.join("in"), LINES).expect("a file");
    let named = |name: &'static str, count: usize| -> AnyJob {
        let open = move |_: &[u8], _: &[u8], out: &mut Emit<'_, Bytes, U64>| {
            for number in 0..count {
                out.side_file(&format!("{name}{number}"))?;
            }
            Ok(())
        };
        let map = move || map_fn(KeyValues, open);
        Job::new("open", KeyValues, map, Sum::<Bytes>::default).into()
    };
    for (name, count, expected) in [
        ("", 0, None),
        ("a-b_c.", 15, None),
        ("a", 16, Some("side file a15: a task has at most 15")),
        ("../a", 1, Some("side file \"../a0\": a name has")),
        ("_a", 1, Some("begins with a letter")),
        (".a", 1, Some("begins with a letter")),
    ] {
        let came = run(directory, &named(name, count), 1000, 1);
        let said = came.err().map(|error| {
            let error: &(dyn std::error::Error + 'static) = &*error;
            let cause = error.source().map(ToString::to_string);
            format!("{error} {cause:?}")
        });
        match (&said, expected) {
            (None, None) => {}
            (Some(said), Some(expected)) => assert!(said.contains(expected), "{said}"),
            _ => panic!("{name} {count}: {said:?}"),
        }
    }
}
