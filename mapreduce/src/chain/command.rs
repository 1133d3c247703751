//! `mapreduce run --chain` and `mapreduce submit --chain`.

use super::Chain;
use super::group::{Followed, Group};
use super::here::Here;
use super::run::{Came, Settings, run};
use crate::cluster::bars::Steps;
use crate::cluster::master;
use crate::engine::local::{Options, Report};
use crate::{AnyJob, Result};
use cfgsvc_client::Client;
use mapreduce_core::spec::JobOptions;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// For so long an output may take to be seen here: NFS clients keep what they know of a directory
/// for up to a minute.
const SEEN_WITHIN: Duration = Duration::from_secs(90);

/// Interrupted, as shells say it of a process that SIGINT ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// What is said of a chain on the command line.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Run the steps of this TOML file, and go on from where an earlier run of it has ended
    #[arg(long = "chain", id = "chain", value_name = "FILE")]
    #[arg(conflicts_with_all = ["job", "input", "output", "reduces", "arguments"])]
    pub(crate) file: Option<PathBuf>,
    /// A directory for what only the chain needs; workers must see it, if they run the steps
    /// [default: .NAME.chain for NAME.toml]
    #[arg(long, requires = "chain", conflicts_with = "job")]
    work: Option<PathBuf>,
    /// Run all steps of the chain again
    #[arg(long, requires = "chain", conflicts_with = "job")]
    restart: bool,
}

impl Args {
    fn read(
        self,
        jobs: &[AnyJob],
        split_octets: Option<u64>,
        overwrite: bool,
    ) -> Result<(Chain, Settings)> {
        let file = self.file.ok_or("the chain is not named")?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let own = || PathBuf::from(format!(".{name}.chain"));
        let settings = Settings {
            work: self.work.unwrap_or_else(own),
            overwrite,
            restart: self.restart,
            seen_within: SEEN_WITHIN,
        };
        Ok((Chain::read(&file, jobs, split_octets)?, settings))
    }
}

/// Runs what is not done yet of a chain: `options` are those of all its steps, but for
/// `split_octets`, which is what was asked for.
pub(crate) fn command(
    jobs: &[AnyJob],
    args: Args,
    options: Options,
    split_octets: Option<u64>,
) -> Result<Vec<Report>> {
    let (chain, settings) = args.read(jobs, split_octets, options.overwrite)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let ended: Vec<_> = chain.steps.iter().map(|_| Arc::default()).collect();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends it at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))?;
        for flag in ended.iter().chain([&interrupted]) {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
        }
    }
    let here = Here {
        options,
        split_octets,
        interrupted,
        ended,
        is_shown: std::io::stderr().is_terminal(),
    };
    let came = run(&chain, &settings, &here)?;
    if !came.failed.is_empty() {
        return Err(came.failed.join("\n").into());
    }
    if !came.is_done {
        return Err("ended before all steps ran".into());
    }
    Ok(came.reports)
}

/// How a chain is submitted.
pub(crate) struct Submitted<'a> {
    pub(crate) args: Args,
    pub(crate) overwrite: bool,
    /// The size of splits, if that was said.
    pub(crate) split_octets: Option<u64>,
    pub(crate) files: &'a [PathBuf],
    pub(crate) how: JobOptions,
}

/// What came of a chain that was submitted.
pub(crate) enum End {
    /// All of it is done. What came of the steps whose end was seen.
    Done(Vec<Followed>),
    /// The person has left: steps that go on, with the keys of their jobs.
    Left(Vec<(String, String)>),
}

/// Has what is not done yet of a chain run by workers, step by step.
pub(crate) fn submitted(
    jobs: &[AnyJob],
    (runtime, client): (&Runtime, &Client),
    what: Submitted<'_>,
) -> Result<End> {
    let (chain, settings) = what.args.read(jobs, what.split_octets, what.overwrite)?;
    let left = leaves(runtime)?;
    let group = Group {
        client,
        runtime: runtime.handle().clone(),
        files: what.files,
        how: what.how,
        split_octets: what.split_octets,
        left,
        display: Steps::new(),
    };
    ended(run(&chain, &settings, &group)?)
}

fn ended(came: Came<Followed>) -> Result<End> {
    if came.failed.is_empty() {
        return Ok(if came.is_done {
            End::Done(came.reports)
        } else {
            End::Left(came.left)
        });
    }
    let goes_on = came.left.iter();
    let goes_on = goes_on.map(|(step, key)| format!("step {step}: job {key} may go on"));
    let lines: Vec<String> = came.failed.iter().cloned().chain(goes_on).collect();
    let hint = "hint: the same command again goes on from there";
    Err(format!("{}\n\n{hint}", lines.join("\n")).into())
}

/// True when the person has left, by SIGINT or SIGTERM. The second one ends this process at once.
fn leaves(runtime: &Runtime) -> Result<watch::Receiver<bool>> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let shutdown = signal_hook::flag::register_conditional_shutdown;
        shutdown(signal, INTERRUPTED.into(), Arc::clone(&again))?;
        signal_hook::flag::register(signal, Arc::clone(&again))?;
    }
    let _inside = runtime.enter();
    let asked = master::asked_to_end()?;
    let (leaves, left) = watch::channel(false);
    runtime.spawn(async move {
        asked.await;
        leaves.send_replace(true);
    });
    Ok(left)
}
