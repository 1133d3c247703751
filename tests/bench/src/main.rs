//! `bench`: drives any etcd v3 endpoint and measures it, or runs our group beside etcd.
//!
//! Raw gRPC clients on one thread, so that what is measured is the server and little processor is
//! taken from it. What is pure has tests of its own: `schedule`, `tally`, `report`, `ratio`.

mod args;
mod beside;
mod client;
mod dns;
mod drive;
mod environment;
mod group;
mod hosts;
mod pace;
mod procfs;
mod ratio;
mod report;
mod schedule;
mod tally;
mod votes;
mod watch;
mod worker;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use args::{Arguments, Task};
use clap::Parser as _;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match main_or_error(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn main_or_error(arguments: Arguments) -> Result<()> {
    match arguments.command.task() {
        Task::Load(name, load, common) => {
            let report = runtime(common.threads)?.block_on(drive::run(name, load, &common))?;
            say(&report::head())?;
            say(&report::line(name, &report))?;
            for remark in report::remarks(&report) {
                say(&format!("  {remark}"))?;
            }
            write_json(common.json.as_deref(), &report)
        }
        Task::RoleHosts(options) => {
            let json = options.json.clone();
            let figures = runtime(1)?.block_on(until_signal(Box::pin(hosts::run(options))))?;
            for line in hosts::lines(&figures) {
                say(&line)?;
            }
            write_json(json.as_deref(), &figures)
        }
        Task::Votes(options) => {
            let counts = options.hosts.iter().map(|count| usize::from(*count));
            let figures: Vec<_> = counts.map(votes::run).collect::<Result<_>>()?;
            for line in votes::lines(&figures) {
                say(&line)?;
            }
            write_json(options.json.as_deref(), &figures)
        }
        Task::DnsFailover(options) => {
            let json = options.json.clone();
            let figures = runtime(1)?.block_on(until_signal(Box::pin(dns::run(options))))?;
            for line in dns::lines(&figures) {
                say(&line)?;
            }
            write_json(json.as_deref(), &figures)
        }
        Task::Beside(options) => {
            let json = options.json.clone();
            let comparison = runtime(1)?.block_on(until_signal(beside::run(options)))?;
            write_json(json.as_deref(), &comparison)?;
            comparison.whole()
        }
    }
}

/// Drops what runs, and with it the servers that it has started, when this program shall end.
async fn until_signal<T>(running: impl Future<Output = Result<T>>) -> Result<T> {
    let signal = |kind| signal(kind).context("listen for signals");
    let (mut interrupt, mut terminate, mut hangup) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    tokio::select! {
        ended = running => ended,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("asked to end"),
        _ = hangup.recv() => bail!("the terminal is gone"),
    }
}

/// One thread does with less processor time than several, which wake each other.
fn runtime(threads: u8) -> Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads.into());
    }
    builder.enable_all().build().context("start the runtime")
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("write to standard output")
}

fn write_json(path: Option<&Path>, figures: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut text = serde_json::to_string_pretty(figures).context("write the figures as JSON")?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
