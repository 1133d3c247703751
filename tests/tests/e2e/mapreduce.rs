//! MapReduce on many machines, as real processes: a group, masters and workers beside it, and jobs
//! that are submitted to them. What they put out is compared with what one machine gives, octet for
//! octet.

mod bucket;
mod chain;
mod code;
mod faults;
mod input;
mod interrupted;
mod people;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Cluster, Network, Ran, binary_path, eventually, run, unused_address};
use rustix::process::{Pid, Signal, kill_process};

use crate::beside::{OTHERS, Process, SELF, start_command, ways};
use crate::seeds::Numbers;

const PATIENCE: Duration = Duration::from_mins(1);

/// A master or a worker.
struct Member {
    arguments: Vec<String>,
    environment: Environment,
    log: String,
    network: Network,
    process: Option<Process>,
}

/// What programs find in their environment beside what this process has.
type Environment = Vec<(&'static str, String)>;

impl Member {
    /// Its files go to a directory of its own below `data`.
    fn new(
        kind: &str,
        number: usize,
        (cluster, data): (&Cluster, &Path),
        more: &[&str],
    ) -> Result<Self> {
        let (network, endpoints) = ways(cluster)?;
        let name = format!("{kind}{number}");
        let listen: SocketAddr = unused_address()?;
        let mut arguments = vec![kind.to_owned()];
        let listen = listen.to_string();
        for argument in [
            "--endpoints",
            &endpoints,
            "--name",
            &name,
            "--listen",
            &listen,
        ] {
            arguments.push(argument.to_owned());
        }
        if kind == "worker" {
            let directory = data.join(&name);
            arguments.push("--data-dir".to_owned());
            arguments.push(directory.display().to_string());
            arguments.extend(["--slots", "1"].map(str::to_owned));
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Ok(Self {
            arguments,
            environment: Environment::new(),
            log: format!("{name}.log"),
            network,
            process: None,
        })
    }

    fn start(&mut self, directory: &Path) -> Result<()> {
        let mut command = Command::new(binary_path("mapreduce")?);
        command.args(&self.arguments).envs(self.environment.clone());
        self.process = Some(start_command(&mut command, directory, &self.log)?);
        Ok(())
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref().context("it runs")?;
        let id = Pid::from_raw(process.0.id().cast_signed()).context("a number")?;
        Ok(kill_process(id, signal)?)
    }

    fn runs(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| matches!(process.0.try_wait(), Ok(None)))
    }

    fn cut(&self) {
        self.network.cut(SELF, OTHERS);
    }

    fn heal(&self) {
        self.network.heal();
    }
}

/// A group, with masters and workers.
struct Place {
    masters: Vec<Member>,
    workers: Vec<Member>,
    environment: Environment,
    cluster: Cluster,
}

impl Place {
    fn start(members: usize, masters: usize, workers: usize) -> Result<Self> {
        Self::with(members, masters, workers, &[])
    }

    fn with(members: usize, masters: usize, workers: usize, of_workers: &[&str]) -> Result<Self> {
        Self::in_environment(members, (masters, workers), of_workers, &[])
    }

    fn in_environment(
        members: usize,
        (masters, workers): (usize, usize),
        of_workers: &[&str],
        environment: &[(&'static str, String)],
    ) -> Result<Self> {
        let cluster = Cluster::start(members)?;
        let of = |kind, count, more: &[&str]| -> Result<Vec<Member>> {
            let at = (&cluster, cluster.directory());
            let all = (0..count).map(|number| {
                let mut member = Member::new(kind, number, at, more)?;
                member.environment = environment.to_vec();
                Ok(member)
            });
            all.collect()
        };
        let (masters, workers) = (
            of("master", masters, &[])?,
            of("worker", workers, of_workers)?,
        );
        let mut place = Self {
            masters,
            workers,
            environment: environment.to_vec(),
            cluster,
        };
        let directory = place.directory();
        for member in place.masters.iter_mut().chain(&mut place.workers) {
            member.start(&directory)?;
        }
        Ok(place)
    }

    /// Another worker, whose files are elsewhere.
    fn add_worker(&mut self, data: &Path, more: &[&str]) -> Result<()> {
        let at = (&self.cluster, data);
        let mut worker = Member::new("worker", self.workers.len(), at, more)?;
        worker.start(&self.directory())?;
        self.workers.push(worker);
        Ok(())
    }

    fn directory(&self) -> PathBuf {
        self.cluster.directory().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.directory().join(name).display().to_string()
    }

    /// Writes an input file.
    fn input(&self, name: &str, what: impl AsRef<[u8]>) -> Result<String> {
        let path = self.path(name);
        fs::write(&path, what)?;
        Ok(path)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary_path(program)?);
        command
            .args(arguments)
            .env("CFGCTL_ENDPOINTS", self.cluster.endpoints())
            .envs(self.environment.clone())
            .current_dir(self.directory());
        Ok(command)
    }

    fn mapreduce(&self, arguments: &[&str]) -> Result<Ran> {
        run(&mut self.command("mapreduce", arguments)?)
    }

    /// Runs a job here, and on the workers; both give the same.
    fn same(&self, program: &str, job: &[&str], settings: &[&str]) -> Result<Ran> {
        let here = self.run_here(program, job, settings)?;
        let there = self.path("there");
        let (name, more) = job.split_first().context("a job")?;
        let submitted = [&["submit", name, "--output", &there], settings, more].concat();
        let ran = run(&mut self.command(program, &submitted)?)?;
        ensure!(ran.code == Some(0), "{job:?}: {ran}");
        ensure!(
            parts(&there)? == here,
            "{job:?} gives something else: {ran}"
        );
        self.is_clean("there")?;
        fs::remove_dir_all(there)?;
        Ok(ran)
    }

    /// What a job gives on one machine, by file.
    fn run_here(
        &self,
        program: &str,
        job: &[&str],
        settings: &[&str],
    ) -> Result<BTreeMap<String, Vec<u8>>> {
        let here = self.path("here");
        let (name, more) = job.split_first().context("a job")?;
        let arguments = [&["run", name, "--output", &here], settings, more].concat();
        run(&mut self.command(program, &arguments)?)?.success()?;
        let expected = parts(&here)?;
        ensure!(!expected.is_empty(), "{job:?} gives nothing");
        fs::remove_dir_all(here)?;
        Ok(expected)
    }

    /// Nothing is left beside an output of this name.
    fn is_clean(&self, name: &str) -> Result<()> {
        let prefix = format!(".{name}.");
        let what = format!("nothing of .{name}. in {}", self.directory().display());
        eventually(PATIENCE, what, || {
            let Ok(entries) = fs::read_dir(self.directory()) else {
                return false;
            };
            let names = entries.flatten().map(|entry| entry.file_name());
            !names
                .into_iter()
                .any(|name| name.to_string_lossy().starts_with(&prefix))
        })
    }

    /// Starts to submit a job, whose output goes to `there`.
    fn begin(&self, program: &str, job: &[&str], settings: &[&str]) -> Result<Process> {
        let there = self.path("there");
        let (name, more) = job.split_first().context("a job")?;
        let arguments = [&["submit", name, "--output", &there], settings, more].concat();
        let mut command = self.command(program, &arguments)?;
        start_command(&mut command, &self.directory(), "submit.log")
    }

    fn logs(&self) -> String {
        let mut all = String::new();
        for member in self.masters.iter().chain(&self.workers) {
            let path = self.directory().join(&member.log);
            let log = fs::read_to_string(path).unwrap_or_default();
            // A String takes all.
            let _ = writeln!(all, "== {}\n{log}", member.log);
        }
        all
    }
}

/// The output files of a directory, and side files.
fn parts(directory: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(|| directory.to_owned())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !["_MANIFEST", "_SUCCESS", "_SKIPPED"].contains(&name.as_str()) {
            found.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(found)
}

/// A file that nobody writes: who opens it waits for ever.
fn endless(place: &Place, name: &str) -> String {
    let path = place.path(name);
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("it starts").success());
    path
}

/// Lines of words, of which some are frequent.
fn text(seed: u64, lines: usize) -> String {
    let mut numbers = Numbers::new(seed);
    let mut text = String::new();
    for _ in 0..lines {
        for _ in 0..8 {
            let words = 1 << numbers.below(12);
            let word = numbers.below(words);
            // A String takes all.
            let _ = write!(text, "w{word} ");
        }
        text.push('\n');
    }
    text
}

#[test]
fn tasks_run_where_their_input_is() {
    let mut place = Place::start(1, 1, 0).expect("a group");
    let directory = place.directory();
    for host in ["a", "b"] {
        let held = directory.join(host);
        fs::create_dir(&held).expect("a directory");
        fs::write(held.join("text"), text(1, 2000)).expect("a file");
        let held = held.display().to_string();
        let more = ["--host", host, "--holds", &held];
        place.add_worker(&directory, &more).expect("a worker");
    }
    let listed = |place: &Place| place.logs().matches("worker is there").count();
    eventually(PATIENCE, "both workers", || listed(&place) == 2).expect("they are members");
    let input = place.path("a");
    let other = place.path("b");
    let there = place.path("there");
    let arguments = ["submit", "where", "--output", &there];
    // A backup task may run anywhere.
    let how = [
        "--locality-wait",
        "60000",
        "--attempts",
        "1",
        "--no-backup-tasks",
    ];
    let settings = ["--input", &input, &other, "--split-size", "20k"];
    let arguments = [&arguments[..], &how, &settings].concat();
    let mut command = place.command("test-jobs", &arguments).expect("a command");
    let ran = run(&mut command).expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
}

#[test]
fn script_that_is_submitted_is_there_where_tasks_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::start(1, 1, 2).expect("a group");
    let text = place.input("text", text(1, 500)).expect("a file");
    let script = place.input(
        "words.awk",
        "{ for (i = 1; i <= NF; i++) print $i \"\\t1\" }",
    );
    let first = place
        .input("first", "#!/bin/sh\nexec awk -f words.awk\n")
        .expect("a file");
    fs::set_permissions(&first, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let job = [
        "streaming",
        "--",
        "--mapper",
        "./first",
        "--reducer",
        "uniq -c",
    ];
    let settings = ["--input", &text, "--split-size", "4k", "--reduces", "2"];
    let expected = place
        .run_here("mapreduce", &job, &settings)
        .expect("it runs");
    let there = place.path("there");
    let (name, more) = (&job[..1], &job[1..]);
    let files = ["--file", &script.expect("a file"), "--file", &first];
    let arguments = [
        &["submit"],
        name,
        &["--output", &there],
        &files,
        &settings,
        more,
    ]
    .concat();
    let ran = place.mapreduce(&arguments).expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
    assert_eq!(parts(&there).expect("output"), expected);
    let other = place.path("other");
    let twice = [
        &["submit"],
        name,
        &["--output", &other, "--file", &first],
        &files,
        &settings,
    ];
    let ran = place
        .mapreduce(&[&twice.concat(), more].concat())
        .expect("it ends");
    assert!(ran.stderr.contains("two files are called first"), "{ran}");
}

#[test]
fn workers_give_what_one_machine_does() {
    let place = Place::start(1, 2, 2).expect("a group");
    let text = place.input("text", text(1, 5000)).expect("a file");
    let pages = place.directory().join("pages");
    fs::create_dir(&pages).expect("a directory");
    for page in 0..20 {
        let link = |to: usize| format!("<a href=\"http://h{}.example/{to}\">x</a>\n", to % 3);
        let html: String = (0..page).map(link).collect();
        fs::write(pages.join(format!("{page}.html")), html).expect("a page");
    }
    let (pages, input) = (
        pages.display().to_string(),
        ["--input", &text, "--split-size", "30k"],
    );
    let reduces = [&input[..], &["--reduces", "3"]].concat();
    let of_pages = ["--input", &pages, "--reduces", "2"];
    let cases: [(&str, &[&str], &[&str]); 8] = [
        ("mapreduce", &["wordcount"], &reduces),
        ("mapreduce", &["sort"], &reduces),
        ("mapreduce", &["invertedindex"], &of_pages),
        ("mapreduce", &["linkgraph"], &of_pages),
        ("mapreduce", &["termvector"], &of_pages),
        ("mapreduce", &["grep", "--", "w1 .*w2 "], &input),
        (
            "mapreduce",
            &[
                "streaming",
                "--",
                "--mapper",
                "tr ' ' '\\n'",
                "--reducer",
                "uniq -c",
            ],
            &reduces,
        ),
        ("test-jobs", &["marks"], &reduces),
    ];
    for (program, job, settings) in cases {
        place
            .same(program, job, settings)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", place.logs()));
    }
}
