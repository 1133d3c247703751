//! Chains whose steps are jobs of the group: what they give, and that no step is ever run twice at
//! once, wherever the command that submits them is killed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Ran, binary_path, eventually, eventually_some, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, Place, endless, parts, text};
use crate::beside::{Process, cfgctl};
use crate::seeds::{Numbers, setting};

/// The work directory of `chain.toml`.
const WORK: &str = ".chain.chain";

/// A step of a chain.
fn step(name: &str, job: &str, input: &[&str], more: &str) -> String {
    format!("[[step]]\nname = \"{name}\"\njob = \"{job}\"\ninput = {input:?}\n{more}\n\n")
}

/// A step whose program counts that it runs.
fn piped(place: &Place, name: &str, input: &str, program: &str, more: &str) -> String {
    let runs = place.path(&format!("{name}.runs"));
    let arguments = format!("arguments = [\"--mapper\", '''echo run >> {runs}; {program}''']");
    step(name, "streaming", &[input], &format!("{arguments}\n{more}"))
}

/// How often the program of a step was run.
fn runs(place: &Place, name: &str) -> usize {
    let runs = fs::read_to_string(place.path(&format!("{name}.runs")));
    runs.unwrap_or_default().lines().count()
}

fn submit(place: &Place, program: &str, more: &[&str]) -> Result<Ran> {
    let arguments = [&["submit", "--chain", "chain.toml"], more].concat();
    run(&mut place.command(program, &arguments)?)
}

/// Starts the command; what it says goes to `chain.log`.
fn begin(place: &Place, program: &str, more: &[&str]) -> Result<Process> {
    let arguments = [&["submit", "--chain", "chain.toml"], more].concat();
    let mut command = place.command(program, &arguments)?;
    crate::beside::start_command(&mut command, &place.directory(), "chain.log")
}

fn said(place: &Place) -> String {
    fs::read_to_string(place.path("chain.log")).unwrap_or_default()
}

fn signal(process: &Process, signal: Signal) -> Result<()> {
    let id = Pid::from_raw(process.0.id().cast_signed()).context("a number")?;
    Ok(kill_process(id, signal)?)
}

/// All jobs that the group has: their names and states, the oldest first.
fn jobs(place: &Place) -> Result<Vec<(String, String)>> {
    let listed = place.mapreduce(&["list", "-o", "json"])?.success()?;
    let listed: Vec<Value> = serde_json::from_str(&listed)?;
    let text = |job: &Value, field: &str| job[field].as_str().unwrap_or_default().to_owned();
    let jobs = listed.iter();
    Ok(jobs
        .map(|job| (text(job, "name"), text(job, "state")))
        .collect())
}

fn of(jobs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, state): &(&str, &str)| ((*name).to_owned(), (*state).to_owned());
    jobs.iter().map(owned).collect()
}

/// The key in the record of a step.
fn key(place: &Place, step: &str) -> Result<String> {
    let record = fs::read(place.path(&format!("{WORK}/{step}.json")))?;
    let record: Value = serde_json::from_slice(&record)?;
    Ok(record["id"].as_str().context("a number")?.to_owned())
}

/// Nothing is left but what the chain was to write.
fn is_clean(place: &Place) -> Result<()> {
    let names = fs::read_dir(place.directory())?;
    let names = names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    let left: Vec<&String> = names.iter().filter(|name| name.starts_with('.')).collect();
    ensure!(left.is_empty(), "{left:?} is left");
    let keys = cfgctl(&place.cluster, &["get", "--prefix", "/mapreduce/jobs/"])?;
    ensure!(!keys.contains("/submitting"), "a claim is left");
    Ok(())
}

#[test]
fn example_of_three_steps_by_workers_gives_what_one_machine_does() {
    let place = Place::start(1, 1, 2).expect("a group");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mapreduce/examples/candidates");
    for name in ["candidates.toml", "lines.tsv"] {
        fs::copy(example.join(name), place.path(name)).expect("a file");
    }
    let program = "examples/candidates";
    assert!(
        binary_path(program).is_ok(),
        "build it first: cargo build -p mapreduce --examples"
    );
    let chain = ["--chain", "candidates.toml", "--split-size", "300"];
    let ran = |more: &[&str]| {
        let arguments = [more, &chain].concat();
        let command = place.command(program, &arguments);
        run(&mut command.expect("a command")).expect("it ends")
    };
    ran(&["run"]).success().expect("it is done");
    let average = place.path("average");
    let expected = parts(&average).expect("output");
    assert!(!expected.is_empty());
    let refused = ran(&["submit"]);
    assert_eq!(refused.code, Some(1), "{refused}");
    let exists = "step average: output average exists";
    assert!(refused.stderr.contains(exists), "{refused}");
    fs::remove_dir_all(&average).expect("it is there");
    let done = ran(&["submit", "-o", "json"]);
    assert_eq!(done.code, Some(0), "{done}\n{}", place.logs());
    assert_eq!(parts(&average).expect("output"), expected, "{done}");
    let told: Vec<Value> = serde_json::from_str(&done.stdout).expect("JSON and nothing else");
    let names: Vec<&str> = told.iter().filter_map(|job| job["name"].as_str()).collect();
    assert_eq!(names, ["find", "best", "average"]);
    for (step, job) in names.iter().zip(&told) {
        assert_eq!(job["state"], "done", "{done}");
        let key = job["key"].as_str().expect("a key");
        let line = format!("step {step}: job {key}\n");
        assert!(done.stderr.contains(&line), "{line} in {done}");
    }
    is_clean(&place).expect("it is clean");
    let refused = ran(&["submit", "--detach"]);
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(
        refused.stderr.contains("hint: leave it with Ctrl-C"),
        "{refused}"
    );
}

/// When the command is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// A step has its record.
    Record(&'static str),
    /// The directory beside its output is there.
    Prepared(&'static str),
    /// Its program is there, or is being copied.
    Claimed(&'static str),
    /// The command says that it is submitted.
    Submitted(&'static str),
    /// Its output is there.
    Published(&'static str),
    /// All is done, and what is between is removed.
    Cleans,
    /// So many ms after its start.
    After(u64),
}

impl Moment {
    fn draw(numbers: &mut Numbers) -> Self {
        let step = *numbers.one_of(&["count", "side", "last"]);
        match numbers.below(7) {
            0 => Self::Record(step),
            1 => Self::Prepared(step),
            2 => Self::Claimed(step),
            3 => Self::Submitted(step),
            4 => Self::Published(step),
            5 => Self::Cleans,
            _ => Self::After(numbers.below(2_000)),
        }
    }

    fn is_now(self, place: &Place, began: Instant) -> bool {
        let is_there = |name: &str| fs::exists(place.path(name)).unwrap_or_default();
        let output = |step: &str| match step {
            "last" => "out".to_owned(),
            step => format!("{WORK}/{step}"),
        };
        let beside = |step: &str| {
            let output = output(step);
            let (directory, name) = output.rsplit_once('/').unwrap_or(("", &output));
            let key = key(place, step).ok()?;
            Some(Path::new(directory).join(format!(".{name}.{key}")))
        };
        let has = |step, part: &str| {
            let path = beside(step).map(|path| path.join(part));
            path.is_some_and(|path| is_there(&path.display().to_string()))
        };
        match self {
            Self::Record(step) => is_there(&format!("{WORK}/{step}.json")),
            Self::Prepared(step) => has(step, ""),
            Self::Claimed(step) => has(step, "_program"),
            Self::Submitted(step) => said(place).contains(&format!("step {step}: job ")),
            Self::Published(step) => is_there(&format!("{}/_MANIFEST", output(step))),
            Self::Cleans => is_there(&format!("{WORK}/.done")),
            Self::After(ms) => began.elapsed() >= Duration::from_millis(ms),
        }
    }
}

/// Two steps beside each other, and one that reads both.
fn diamond(place: &Place) -> Result<()> {
    place.input("one", text(1, 300))?;
    place.input("two", text(2, 300))?;
    let both = ["step:count", "step:side"];
    let chain = [
        step("last", "refuses", &both, "reduces = 2\noutput = \"out\""),
        step("count", "slow", &["one"], "reduces = 2"),
        step("side", "slow", &["two"], ""),
    ];
    place.input("chain.toml", chain.concat())?;
    Ok(())
}

/// What the chain gives on one machine.
fn here(place: &Place, program: &str) -> Result<std::collections::BTreeMap<String, Vec<u8>>> {
    let arguments = ["run", "--chain", "chain.toml", "--split-size", "3k"];
    run(&mut place.command(program, &arguments)?)?.success()?;
    let expected = parts(&place.path("out"))?;
    ensure!(!expected.is_empty(), "the chain gives nothing");
    fs::remove_dir_all(place.path("out"))?;
    Ok(expected)
}

/// Whether something is left to do. A chain that was done to its end would be done again.
fn goes_on(place: &Place) -> Result<bool> {
    if !fs::exists(place.path("out/_MANIFEST"))? {
        return Ok(true);
    }
    let Ok(left) = fs::read_dir(place.path(WORK)) else {
        return Ok(false);
    };
    let mut left = left.flatten().map(|entry| entry.file_name());
    let is_closed = left.all(|name| name == ".lock");
    if is_closed {
        fs::remove_dir_all(place.path(WORK))?;
    }
    Ok(!is_closed)
}

/// A chain whose command is killed five times.
fn killed(seed: u64) -> Result<()> {
    let mut numbers = Numbers::new(seed);
    let place = Place::start(1, 1, 2)?;
    diamond(&place)?;
    let expected = here(&place, "test-jobs")?;
    let settings = ["--split-size", "3k"];
    let mut moments = Vec::new();
    for _ in 0..5 {
        let moment = Moment::draw(&mut numbers);
        moments.push(moment);
        // What an earlier command has said is not of this one.
        fs::write(place.path("chain.log"), "")?;
        let began = Instant::now();
        let mut command = begin(&place, "test-jobs", &settings)?;
        eventually(PATIENCE, format!("{moment:?}"), || {
            let has_ended = matches!(command.0.try_wait(), Ok(Some(_)));
            has_ended || moment.is_now(&place, began)
        })
        .with_context(|| format!("{moments:?}\n{}\n{}", said(&place), place.logs()))?;
        // By SIGKILL, and waited for.
        drop(command);
        if !goes_on(&place)? {
            break;
        }
    }
    let check = || -> Result<()> {
        if goes_on(&place)? {
            let ran = submit(&place, "test-jobs", &settings)?;
            ensure!(ran.code == Some(0), "{ran}");
        }
        let found = parts(&place.path("out"))?;
        ensure!(found == expected, "it gives something else");
        let mut jobs = jobs(&place)?;
        jobs.sort();
        let once = of(&[("refuses", "done"), ("slow", "done"), ("slow", "done")]);
        ensure!(jobs == once, "not each step was submitted once: {jobs:?}");
        is_clean(&place)
    };
    check().with_context(|| format!("{moments:?}\n{}\n{}", said(&place), place.logs()))?;
    eprintln!("seed {seed}: {moments:?}");
    Ok(())
}

#[test]
fn command_that_is_killed_and_run_again_submits_each_step_once() {
    let (first, count) = (setting("MAPREDUCE_SEED", 1), setting("MAPREDUCE_ROUNDS", 4));
    for seed in first..first + count {
        if let Err(error) = killed(seed) {
            panic!(
                "{error:#}\nrepeat it with MAPREDUCE_SEED={seed} MAPREDUCE_ROUNDS=1 \
                 tests/run command_that_is_killed_and_run_again"
            );
        }
    }
}

#[test]
fn submission_under_way_when_another_command_took_over_comes_to_nothing() {
    let place = Place::start(1, 1, 1).expect("a group");
    place.input("one", text(1, 100)).expect("a file");
    let chain = step("count", "slow", &["one"], "keep = true");
    place.input("chain.toml", chain).expect("a file");
    // Between what says that it is under way and the job the command copies files for it.
    let fifo = endless(&place, "fifo");
    let mut command = begin(&place, "test-jobs", &["--file", "fifo"]).expect("it begins");
    let copies = || {
        let key = key(&place, "count").ok()?;
        let path = place.path(&format!("{WORK}/.count.{key}/_files"));
        fs::exists(path).unwrap_or_default().then_some(key)
    };
    let key = eventually_some(PATIENCE, "a command that copies files", copies);
    let key = key.unwrap_or_else(|error| panic!("{error}\n{}", said(&place)));
    let keys = || {
        let keys = ["get", "--prefix", "/mapreduce/jobs/"];
        cfgctl(&place.cluster, &keys).expect("it answers")
    };
    assert!(keys().contains(&format!("{key}/submitting")), "{}", keys());
    let before = jobs(&place).expect("a list");
    // The same state as it would be if the command was killed, but for its lock.
    fs::create_dir(place.path("other")).expect("a directory");
    let record = format!("{WORK}/count.json");
    fs::copy(place.path(&record), place.path("other/count.json")).expect("a file");
    let ran = submit(&place, "test-jobs", &["--work", "other"]).expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
    fs::write(&fifo, "").expect("somebody reads it");
    let ended = eventually_some(PATIENCE, "its end", || command.0.try_wait().ok().flatten());
    let ended = ended.unwrap_or_else(|error| panic!("{error}\n{}", said(&place)));
    assert_eq!(ended.code(), Some(1), "{}", said(&place));
    let expected = "step count: it was withdrawn meanwhile, or the group was not reached";
    assert!(said(&place).contains(expected), "{}", said(&place));
    let after = jobs(&place).expect("a list");
    assert_eq!(after.len(), before.len() + 1, "it ran twice: {after:?}");
    let left = fs::read_dir(place.path(WORK)).expect("a directory");
    let left = left.flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left
        .filter(|name| name != ".lock" && name != "count.json")
        .collect();
    assert!(left.is_empty(), "{left:?} is left");
    assert!(!keys().contains(&key), "{}", keys());
}

#[test]
fn step_that_fails_says_why_and_either_engine_goes_on_from_there() {
    let place = Place::start(1, 1, 2).expect("a group");
    place.input("book", "a\nb\n").expect("a file");
    let fixed = place.path("fixed");
    let fails = format!("test -e {fixed} || exit 7; cat");
    let chain = |output: &str| {
        let output = format!("output = \"{output}\"");
        [
            piped(&place, "first", "book", "cat", ""),
            piped(&place, "middle", "step:first", &fails, ""),
            piped(&place, "last", "step:middle", "cat", &output),
        ]
        .concat()
    };
    let counts = || ["first", "middle", "last"].map(|name| runs(&place, name));
    place
        .input("chain.toml", chain("by-workers"))
        .expect("a file");
    let ran = submit(&place, "mapreduce", &["--attempts", "1"]).expect("it ends");
    assert_eq!(ran.code, Some(1), "{ran}\n{}", place.logs());
    let key = key(&place, "middle").expect("a record");
    for expected in [
        format!("step middle: job {key} failed: a task failed too often: map-00000"),
        "exit status: 7".to_owned(),
        format!("hint: `mapreduce logs {key} --task map-00000`"),
        "hint: the same command again goes on from there".to_owned(),
    ] {
        assert!(ran.stderr.contains(&expected), "{expected} in {ran}");
    }
    assert_eq!(counts(), [1, 1, 0]);
    place.input("fixed", "").expect("a file");
    let ran = submit(&place, "mapreduce", &[]).expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
    assert!(ran.stderr.contains("step first: done before"), "{ran}");
    assert_eq!(counts(), [1, 2, 1]);
    is_clean(&place).expect("it is clean");
    goes_on_elsewhere(&place, &chain, &counts);
}

/// Begun by the group and ended by one machine, and the other way round.
fn goes_on_elsewhere(
    place: &Place,
    chain: &dyn Fn(&str) -> String,
    counts: &dyn Fn() -> [usize; 3],
) {
    let by_workers = parts(&place.path("by-workers")).expect("output");
    let one_machine = || place.mapreduce(&["run", "--chain", "chain.toml"]);
    let many = || submit(place, "mapreduce", &["--attempts", "1"]);
    let engines: [&dyn Fn() -> Result<Ran>; 2] = [&many, &one_machine];
    for (at, output) in ["here-at-last", "there-at-last"].iter().enumerate() {
        let (first, second) = (engines[at], engines[1 - at]);
        fs::remove_file(place.path("fixed")).expect("it is there");
        place.input("chain.toml", chain(output)).expect("a file");
        let [of_first, of_middle, of_last] = counts();
        let ran = first().expect("it ends");
        assert_eq!(ran.code, Some(1), "{ran}\n{}", place.logs());
        place.input("fixed", "").expect("a file");
        let ran = second().expect("it ends");
        assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
        assert!(ran.stderr.contains("step first: done before"), "{ran}");
        assert_eq!(counts(), [of_first + 1, of_middle + 2, of_last + 1]);
        assert_eq!(parts(&place.path(output)).expect("output"), by_workers);
        is_clean(place).expect("it is clean");
    }
}

#[test]
fn command_that_is_left_says_how_to_come_back_and_a_changed_step_ends_its_job() {
    let place = Place::start(1, 1, 1).expect("a group");
    // It would go on for minutes.
    place.input("one", text(1, 100_000)).expect("a file");
    place.input("two", text(2, 100)).expect("a file");
    let chain = |input: &str| step("count", "slow", &[input], "output = \"out\"");
    place.input("chain.toml", chain("one")).expect("a file");
    let mut command = begin(&place, "test-jobs", &[]).expect("it starts");
    eventually(PATIENCE, "a line of progress", || {
        said(&place).contains("running; map 0/1")
    })
    .unwrap_or_else(|error| panic!("{error}\n{}\n{}", said(&place), place.logs()));
    let key = key(&place, "count").expect("a record");
    signal(&command, Signal::INT).expect("it runs");
    let ended = command.0.wait().expect("it ends");
    assert_eq!(ended.code(), Some(130), "{}", said(&place));
    for expected in [
        format!("step count: {key} running; map 0/1"),
        format!("step count: job {key} goes on without you"),
        "hint: the same command again goes on with it".to_owned(),
    ] {
        assert!(said(&place).contains(&expected), "{}", said(&place));
    }
    // One machine does not know what became of the job.
    let arguments = ["run", "--chain", "chain.toml"];
    let command = place.command("test-jobs", &arguments);
    let ran = run(&mut command.expect("a command")).expect("it ends");
    assert_eq!(ran.code, Some(1), "{ran}");
    let expected = format!("step count: it was submitted as job {key}, and may go on");
    assert!(ran.stderr.contains(&expected), "{ran}");
    // Who comes back follows the same job; then the step is another.
    fs::remove_file(place.path("chain.log")).expect("it is there");
    let command = begin(&place, "test-jobs", &[]).expect("it starts");
    let goes_on = format!("step count: job {key} goes on");
    eventually(PATIENCE, &goes_on, || said(&place).contains(&goes_on)).expect("it comes back");
    drop(command);
    assert_eq!(jobs(&place).expect("a list"), of(&[("slow", "running")]));
    place.input("chain.toml", chain("two")).expect("a file");
    let ran = submit(&place, "test-jobs", &[]).expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
    let expected = format!("step count: cancels job {key}");
    assert!(ran.stderr.contains(&expected), "{ran}");
    let both = of(&[("slow", "cancelled"), ("slow", "done")]);
    assert_eq!(jobs(&place).expect("a list"), both);
    place.is_clean("out").expect("nothing is left");
}
