//! Jobs that do what job code should not: they crash, hang, take all memory, flood their output,
//! read forever, or give something else each time.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use mapreduce::{
    AnyJob, Bytes, Emit, Job, Lines, Result, Sum, Text, U64, error, map_fn, reduce_fn,
};

type Out<'a, 'b> = &'a mut Emit<'b, Text, U64>;

/// Counts the words of each line, unless `before` has something to say about it.
fn words(
    before: impl Fn(&[u8], Out<'_, '_>) -> Result<()>,
) -> impl Fn(u64, &[u8], Out<'_, '_>) -> Result<()> {
    move |_, line, out| {
        before(line, out)?;
        let line = String::from_utf8_lossy(line);
        line.split_ascii_whitespace()
            .try_for_each(|word| out.emit(word, 1))
    }
}

fn has(line: &[u8], word: &str) -> bool {
    String::from_utf8_lossy(line)
        .split_ascii_whitespace()
        .any(|found| found == word)
}

fn pause(time: Duration) {
    let began = std::time::Instant::now();
    while let Some(left) = time.checked_sub(began.elapsed()) {
        std::thread::park_timeout(left);
    }
}

/// A job by its name, and what its map function does before it counts words.
macro_rules! job {
    ($name:literal, $before:expr) => {
        Job::new(
            $name,
            Lines,
            || map_fn(Lines, words($before)),
            Sum::<Text>::default,
        )
        .into()
    };
}

fn main() -> ExitCode {
    mapreduce::main(vec![
        job!("aborts", |line, _| {
            if has(line, "boom") {
                std::process::abort();
            }
            Ok(())
        }),
        job!("refuses", |line, _| {
            if has(line, "boom") {
                return Err(error("it says boom"));
            }
            Ok(())
        }),
        job!("hangs", |line, _| {
            while has(line, "boom") {
                pause(Duration::from_secs(1));
            }
            Ok(())
        }),
        job!("eats", |line, _| {
            let mut eaten: Vec<Vec<u8>> = Vec::new();
            while has(line, "boom") {
                eaten.push(vec![1; 1 << 20]);
            }
            Ok(())
        }),
        job!("floods", |_, _| {
            for _ in 0..100 {
                writeln!(std::io::stdout(), "{}", "x".repeat(1000))?;
                writeln!(std::io::stderr(), "{}", "y".repeat(1000))?;
            }
            Ok(())
        }),
        // Each record takes a millisecond.
        job!("slow", |_, _| {
            pause(Duration::from_millis(1));
            Ok(())
        }),
        random(),
        patient(),
        where_it_runs(),
        marks(),
    ])
}

/// Its map function gives something else each time, and its reduce takes a while.
fn random() -> AnyJob {
    Job::new(
        "random",
        Lines,
        || {
            map_fn(Lines, |_, _: &[u8], out: Out<'_, '_>| {
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?;
                pause(Duration::from_micros(100));
                out.emit(&now.as_nanos().to_string(), 1)
            })
        },
        || {
            reduce_fn(
                |key: &str, _: &mut mapreduce::Values<'_, U64>, out: &mut Emit<'_, Text, U64>| {
                    pause(Duration::from_millis(1));
                    out.emit(key, 1)
                },
            )
        },
    )
    .into()
}

/// Counts lines, under one key, and takes a millisecond for each.
fn patient() -> AnyJob {
    Job::new(
        "patient",
        Lines,
        || map_fn(Lines, |_, _: &[u8], out: Out<'_, '_>| out.emit("all", 1)),
        || {
            reduce_fn(
                |key: &str, values: &mut mapreduce::Values<'_, U64>, out: Out<'_, '_>| {
                    let mut count = 0;
                    while let Some(one) = values.next()? {
                        pause(Duration::from_millis(1));
                        count += one;
                    }
                    out.emit(key, count)
                },
            )
        },
    )
    .into()
}

/// Refuses to read the file of another worker: `a/text` is the first one's, `b/text` the second's.
fn where_it_runs() -> AnyJob {
    Job::map_only("where", Lines, || {
        map_fn(Lines, |_, line: &[u8], out: &mut Emit<'_, U64, Bytes>| {
            let here = std::env::current_dir()?.display().to_string();
            let input = out.context().input().to_owned();
            let is_elsewhere = (input.ends_with("a/text") && here.contains("/worker1/"))
                || (input.ends_with("b/text") && here.contains("/worker0/"));
            if is_elsewhere {
                return Err(error(format!("{input} is read in {here}")));
            }
            out.emit(0, line)
        })
    })
    .into()
}

/// Counts, and writes a side file.
fn marks() -> AnyJob {
    Job::new(
        "marks",
        Lines,
        || {
            map_fn(Lines, |at, line: &[u8], out: &mut Emit<'_, U64, Bytes>| {
                out.count("test", "lines", 1);
                if line.len() > 40 {
                    out.side_file("long")?.write_all(line)?;
                }
                out.emit(at, line)
            })
        },
        mapreduce::Identity::default,
    )
    .into()
}
