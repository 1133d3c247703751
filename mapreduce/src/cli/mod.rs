//! The command line of a job binary, and of `mapreduce`, which has the built-in jobs.

mod cluster;
mod people;

use crate::chain;
use crate::cluster::follow::Unreached;
use crate::engine::local::{self, Options, Phase, Report, Watch};
use crate::engine::task::TaskError;
use crate::job::Code;
use crate::{AnyJob, Error, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use mapreduce_core::plan::Bytes;
use std::io::{IsTerminal as _, Write as _};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// The exit code when the group is not reached.
const UNREACHED: u8 = 3;

/// Octets with which merging works well, to what one buffer can address.
const MEMORY_RANGE: std::ops::RangeInclusive<u64> = 1 << 20..=2 << 30;

#[derive(Debug, Parser)]
#[command(
    name = "mapreduce",
    version,
    about = "Runs MapReduce jobs",
    after_help = "\
Examples:
  mapreduce run wordcount --input books --output counts
  mapreduce run grep --input 'logs/*.gz' --output found -- 'error|fatal'
  mapreduce run sort --input records.txt --output sorted --reduces 8
  mapreduce run wordcount --input 's3://logs/2024/*.gz' --output s3://results/words
  mapreduce run --chain steps.toml
  mapreduce submit wordcount --input /data/books --output /data/counts
  mapreduce submit --chain steps.toml --work /data/steps.chain
  mapreduce jobs"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a job on this machine, in one process
    #[command(after_help = "\
Examples:
  mapreduce run wordcount --input books 'logs/*.gz' --output counts
  mapreduce run sort --input records.txt --output sorted --reduces 8 --memory 64MiB
  mapreduce run grep --input logs --output found -- 'error|fatal'
  mapreduce run --chain steps.toml")]
    Run(Box<Run>),
    /// List the jobs that this binary has
    Jobs,
    /// Be a master, or stand by to be one
    #[command(after_help = "\
Examples:
  mapreduce master --endpoints 10.1.0.1:2379,10.2.0.1:2379,10.3.0.1:2379 --listen 10.1.0.5:7070
  mapreduce master --listen-http 10.1.0.5:7072 --keep-jobs 500")]
    Master(cluster::Master),
    /// Run tasks
    #[command(after_help = "\
Examples:
  mapreduce worker --endpoints 10.1.0.1:2379,10.2.0.1:2379 --listen 10.1.0.6:7071
  mapreduce worker --slots 4 --task-memory 2GiB --data-dir /var/lib/mapreduce --holds /data")]
    Worker(cluster::Worker),
    /// Submit a job, or a chain of jobs, to the workers, and show how far it is
    #[command(after_help = "\
Examples:
  mapreduce submit wordcount --input /data/books --output /data/counts --reduces 8
  mapreduce submit streaming --input /data/logs --output /data/hits --file count.py -- \\
      --mapper 'python3 count.py'
  mapreduce submit sort --detach --overwrite --input s3://in/records --output s3://out/sorted
  mapreduce submit --chain steps.toml --work /data/steps.chain")]
    Submit(Box<cluster::Submit>),
    /// Show how far a job is until it is over, as `submit` does
    #[command(after_help = "\
Examples:
  mapreduce watch 3f2a
  mapreduce watch 3f2a -o json")]
    Watch(people::Looked),
    /// List jobs of the workers
    #[command(after_help = "\
Examples:
  mapreduce list
  mapreduce list -o json")]
    List(people::Everything),
    /// Show a job: its phases, what runs, what failed
    #[command(after_help = "\
Examples:
  mapreduce status 3f2a
  mapreduce status job-17 -o json")]
    Status(people::Looked),
    /// End a job
    #[command(after_help = "\
Examples:
  mapreduce cancel 3f2a")]
    Cancel(people::Named),
    /// Show what the attempts of a job printed to standard error
    #[command(after_help = "\
Examples:
  mapreduce logs 3f2a
  mapreduce logs 3f2a --task map-00003
  mapreduce logs 3f2a --attempt 12.7")]
    Logs(people::Logs),
    /// Forget a job that has ended; its output stays
    #[command(after_help = "\
Examples:
  mapreduce remove 3f2a
  mapreduce remove --discard 3f2a")]
    Remove(people::Removed),
    /// Run a task that a worker orders on standard input
    #[command(hide = true)]
    Task,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
struct Run {
    /// The job: `mapreduce jobs` lists them
    #[arg(required_unless_present = "chain")]
    job: Option<String>,
    #[command(flatten)]
    chain: chain::Args,
    /// A file, a directory or a glob, or a URL (s3:, gs:, az:, file:); several may be given.
    /// Symbolic links are followed: a file that a directory has under two names is read twice
    #[arg(long, required_unless_present = "chain", num_args = 1..)]
    input: Vec<String>,
    /// The directory for the output, or its URL; it must not exist, or be empty
    #[arg(long, required_unless_present = "chain")]
    output: Option<PathBuf>,
    /// Replace an output that exists, when the job is done
    #[arg(long)]
    overwrite: bool,
    /// Reduce tasks, each of which writes a file [default: one for each 256 MiB of input]
    #[arg(long)]
    reduces: Option<u32>,
    /// The size of a split, which one map task reads: 16MiB, 64M, 1000000
    /// [default: 64MiB; less of an input below 4 GiB, to 8MiB]
    #[arg(long, value_parser = octets)]
    split_size: Option<u64>,
    /// Tasks that run at once [default: one for each processor]
    #[arg(long)]
    threads: Option<NonZero<usize>>,
    /// Memory of a task for records, 1MiB to 2GiB; what is more goes over the disk [default: 32MiB]
    #[arg(long, value_parser = memory)]
    memory: Option<u64>,
    /// A directory for what is spilled [default: beside the output; $TMPDIR for one in a bucket]
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// How the report is written
    #[arg(short, value_enum, default_value = "table")]
    o: Format,
    /// Arguments of the job, after `--`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// A job that is to be run elsewhere.
#[derive(Debug, Args)]
struct Asked {
    /// The job: `mapreduce jobs` lists them
    #[arg(required_unless_present = "chain")]
    job: Option<String>,
    /// A file, a directory or a glob, or a URL (s3:, gs:, az:, file:); several may be given.
    /// Symbolic links are followed: a file that a directory has under two names is read twice
    #[arg(long, required_unless_present = "chain", num_args = 1..)]
    input: Vec<String>,
    /// The directory for the output, or its URL; it must not exist, or be empty
    #[arg(long, required_unless_present = "chain")]
    output: Option<PathBuf>,
    /// Replace an output that exists, when the job is done
    #[arg(long)]
    overwrite: bool,
    /// Reduce tasks, each of which writes a file [default: one for each 256 MiB of input]
    #[arg(long)]
    reduces: Option<u32>,
    /// The size of a split, which one map task reads: 16MiB, 64M, 1000000
    /// [default: 64MiB; less of an input below 4 GiB, to 8MiB]
    #[arg(long, value_parser = octets)]
    split_size: Option<u64>,
    /// How what came of it is written
    #[arg(short, value_enum, default_value = "table")]
    o: Format,
    /// Arguments of the job, after `--`
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Asked {
    fn options(self) -> Options {
        // The parser has seen to it that it is there.
        let default = Options::new(self.input, self.output.unwrap_or_default());
        Options {
            overwrite: self.overwrite,
            reduces: self.reduces,
            split_octets: self.split_size,
            ..default
        }
    }
}

/// A number of octets with or without a unit of 1024.
fn octets(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|at: char| !at.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1_u64 << 40,
        _ => return Err("a number, and one of KiB, MiB, GiB, TiB: 64MiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
    let octets = number.checked_mul(unit).ok_or("it is too great")?;
    if octets == 0 {
        return Err("at least 1".to_owned());
    }
    Ok(octets)
}

/// What a task may have for its records.
fn memory(text: &str) -> Result<u64, String> {
    let asked = octets(text)?;
    if MEMORY_RANGE.contains(&asked) {
        Ok(asked)
    } else {
        Err("from 1MiB to 2GiB can be".to_owned())
    }
}

/// The `main` of a binary that has these jobs.
///
/// Exit codes: 0 done, 1 the job failed or was refused, 2 wrong usage, 3 the group is not reached,
/// 4 the job was cancelled, 130 whoever looked on was interrupted, and the job goes on.
pub fn main(jobs: Vec<AnyJob>) -> ExitCode {
    let cli = Cli::parse();
    // As many runs as memory takes are merged at once: the limit that most systems give is less.
    cfgsvc_daemon::raise_open_files();
    let success = |()| ExitCode::SUCCESS;
    let done = match cli.command {
        Command::Run(run) => run_here(&jobs, *run).map(success),
        Command::Jobs => list(&jobs).map(success),
        Command::Master(args) => cluster::wait(cluster::master(args)).map(success),
        Command::Worker(args) => cluster::wait(cluster::worker(args)).map(success),
        Command::Submit(args) => cluster::submit(&jobs, *args),
        Command::Watch(args) => cluster::wait(people::watch(args)),
        Command::List(args) => cluster::wait(people::list(args)).map(success),
        Command::Status(args) => cluster::wait(people::status(args)).map(success),
        Command::Cancel(args) => cluster::wait(people::cancel(args)).map(success),
        Command::Logs(args) => cluster::wait(people::logs(args)).map(success),
        Command::Remove(args) => cluster::wait(people::remove(args)).map(success),
        Command::Task => return crate::engine::child::main(&jobs),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", with_causes(&*error));
            if error.is::<Unreached>() {
                ExitCode::from(UNREACHED)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// An error with what caused it, as far as it does not say so itself.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

fn list(jobs: &[AnyJob]) -> Result<()> {
    let names = jobs.iter().map(|job| format!("{} {}", job.name, job.usage));
    let names: Vec<String> = names.map(|name| name.trim_end().to_owned()).collect();
    let width = names.iter().map(String::len).max().unwrap_or_default();
    let mut out = std::io::stdout().lock();
    for (job, name) in jobs.iter().zip(names) {
        writeln!(out, "{name:width$}  {}", job.about)?;
    }
    Ok(())
}

/// The job of a name, and what runs.
fn made<'a>(
    jobs: &'a [AnyJob],
    name: &str,
    arguments: &[String],
) -> Result<(&'a AnyJob, Arc<dyn Code>)> {
    let job = jobs.iter().find(|job| job.name == name).ok_or_else(|| {
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        let names = names.join(", ");
        Error::from(format!("no job is named {name}; there are {names}"))
    })?;
    let made = job.make(arguments);
    let code = made.map_err(|error| match job.usage.as_str() {
        "" => format!("job {}: {error}", job.name),
        usage => format!("job {}: {error}; arguments: -- {usage}", job.name),
    })?;
    Ok((job, code))
}

impl Run {
    fn options(self) -> Result<Options> {
        // Only a chain needs none.
        let default = Options::new(self.input, self.output.unwrap_or_default());
        Ok(Options {
            overwrite: self.overwrite,
            reduces: self.reduces,
            split_octets: self.split_size,
            threads: self.threads.unwrap_or(default.threads),
            memory: self.memory.map_or(Ok(default.memory), usize::try_from)?,
            scratch: self.scratch,
            ..default
        })
    }
}

fn run_here(jobs: &[AnyJob], mut run: Run) -> Result<()> {
    let format = run.o;
    if run.chain.file.is_some() {
        let (chain, split_octets) = (std::mem::take(&mut run.chain), run.split_size);
        let options = run.options()?;
        let reports = chain::command(jobs, chain, options, split_octets)?;
        return match format {
            Format::Table => reports.iter().try_for_each(print),
            Format::Json => print_json(&reports),
        };
    }
    let name = run.job.as_deref().ok_or("the job is not named")?;
    let (job, code) = made(jobs, name, &run.arguments)?;
    let options = run.options()?;
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends it at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&ended))?;
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let report = local::run(&job.name, &*code, &options, &ended, &Terminal::new());
    let report = report.map_err(|error| match error.downcast_ref() {
        // A task that fails says why: this was a signal.
        Some(TaskError::Ended) => "interrupted: the job has ended, and leaves nothing".into(),
        Some(_) | None => error,
    })?;
    match format {
        Format::Table => print(&report),
        Format::Json => print_json(&report),
    }
}

fn print_json(what: &impl serde::Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, what)?;
    Ok(writeln!(out)?)
}

fn print(report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let (files, seconds) = (report.files.len(), report.took.as_secs_f64());
    let octets = local::own(report, "map input bytes");
    let rate = octets as f64 / seconds / f64::from(1 << 20);
    let beside = match report.side_files.len() {
        0 => String::new(),
        count => format!(" and {count} side files"),
    };
    let (job, output) = (&report.job, &report.output);
    writeln!(out, "{job}: {files} files{beside} in {output}")?;
    writeln!(
        out,
        "{} map and {} reduce tasks, {seconds:.1} s, {rate:.0} MiB/s",
        report.maps, report.reduces
    )?;
    for (group, counters) in &report.counters {
        writeln!(out, "{group}")?;
        for (name, count) in counters {
            writeln!(out, "  {name:22} {count:>16}")?;
        }
    }
    Ok(())
}

/// Shows how far a job is, where a person looks on.
struct Terminal {
    is_shown: bool,
    began: Instant,
    tasks: AtomicU32,
    done: AtomicU32,
    octets: AtomicU64,
}

impl Terminal {
    fn new() -> Self {
        Self {
            is_shown: std::io::stderr().is_terminal(),
            began: Instant::now(),
            tasks: AtomicU32::new(0),
            done: AtomicU32::new(0),
            octets: AtomicU64::new(0),
        }
    }

    fn show(&self, phase: Phase) {
        if self.is_shown {
            let (done, tasks) = (&self.done, &self.tasks);
            let (done, tasks) = (done.load(Ordering::Relaxed), tasks.load(Ordering::Relaxed));
            let name = phase.name();
            let read = Bytes(self.octets.load(Ordering::Relaxed)).to_string();
            let seconds = self.began.elapsed().as_secs();
            eprint!("\r{name:6} {done:>6}/{tasks:<6} {read:>10} {seconds} s ");
            if done == tasks {
                eprintln!();
            }
        }
    }
}

impl Watch for Terminal {
    fn begins(&self, phase: Phase, tasks: u32) {
        self.done.store(0, Ordering::Relaxed);
        self.octets.store(0, Ordering::Relaxed);
        self.tasks.store(tasks, Ordering::Relaxed);
        self.show(phase);
    }

    fn done(&self, phase: Phase, octets: u64) {
        self.octets.fetch_max(octets, Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
        self.show(phase);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024_and_are_not_zero() {
        assert_eq!(octets("64MiB"), Ok(64 << 20));
        assert_eq!(octets("10k"), Ok(10 << 10));
        assert_eq!(octets("1000000"), Ok(1_000_000));
        for wrong in ["", "MiB", "1.5G", "0", "64 MiB", "-1", "99999999999TiB"] {
            assert!(octets(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_of_a_task_has_a_range() {
        assert_eq!(memory("1MiB"), Ok(1 << 20));
        assert_eq!(memory("2GiB"), Ok(2 << 30));
        for wrong in ["1k", "3GiB", "1048575"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn command_line_is_well_formed_and_its_help_has_examples_that_are_right() {
        use clap::CommandFactory as _;
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands_mut().filter(|it| !it.is_hide_set()) {
            let name = command.get_name().to_owned();
            if name == "jobs" {
                continue;
            }
            let help = command.render_long_help().to_string();
            let (_, examples) = help.split_once("Examples:\n").expect(&name);
            let examples = examples.replace("\\\n", "");
            for example in examples.lines() {
                let words = example.split_whitespace();
                Cli::try_parse_from(words).unwrap_or_else(|wrong| panic!("{example}: {wrong}"));
            }
        }
    }

    #[test]
    fn job_or_chain_is_run_and_never_both_nor_neither() {
        let is_right = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        for (command, more) in [("run", "--threads 2"), ("submit", "--attempts 2 --file f")] {
            let command = format!("mapreduce {command}");
            let job = format!("{command} sort --input a --output b");
            assert!(is_right(&job));
            let chain = format!("{command} --chain c --work w --restart --overwrite {more}");
            assert!(is_right(&chain), "{chain}");
            for more in ["--chain c", "--work w", "--restart"] {
                assert!(!is_right(&format!("{job} {more}")), "{more}");
            }
            for wrong in [
                "",
                "sort",
                "sort --input a",
                "--work w",
                "--chain c --input a",
                "--chain c --output b",
                "--chain c --reduces 2",
                "--chain c -- x",
            ] {
                assert!(!is_right(&format!("{command} {wrong}")), "{wrong}");
            }
        }
    }
}
