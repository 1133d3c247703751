//! `mapreduce run --chain`.

use super::{Audience, Chain, Settings, run};
use crate::engine::local::{Options, Phase, Report};
use crate::{AnyJob, Result};
use mapreduce_core::plan::Bytes;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What is said of a chain on the command line.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Run the steps of this TOML file, and go on from where an earlier run of it has ended
    #[arg(long = "chain", id = "chain", value_name = "FILE")]
    #[arg(conflicts_with_all = ["job", "input", "output", "reduces", "arguments"])]
    pub(crate) file: Option<PathBuf>,
    /// A directory for what only the chain needs [default: .NAME.chain for NAME.toml]
    #[arg(long, requires = "chain", conflicts_with = "job")]
    work: Option<PathBuf>,
    /// Run all steps of the chain again
    #[arg(long, requires = "chain", conflicts_with = "job")]
    restart: bool,
}

/// Runs what is not done yet of a chain: `options` are those of all its steps, but for
/// `split_octets`, which is what was asked for.
pub(crate) fn command(
    jobs: &[AnyJob],
    args: Args,
    options: Options,
    split_octets: Option<u64>,
) -> Result<Vec<Report>> {
    let file = args.file.ok_or("the chain is not named")?;
    let chain = Chain::read(&file, jobs, split_octets)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let ended: Vec<_> = chain.steps.iter().map(|_| Arc::default()).collect();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one ends it at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))?;
        for flag in ended.iter().chain([&interrupted]) {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
        }
    }
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let own = || PathBuf::from(format!(".{name}.chain"));
    let settings = Settings {
        work: args.work.unwrap_or_else(own),
        overwrite: options.overwrite,
        restart: args.restart,
        threads: options.threads,
        memory: options.memory,
        scratch: options.scratch,
        interrupted,
        ended,
    };
    let is_shown = std::io::stderr().is_terminal();
    run(&chain, &settings, &Lines { is_shown })
}

/// Lines on standard error. What ends is said always; how far a step is, where a person looks on.
struct Lines {
    is_shown: bool,
}

impl Audience for Lines {
    fn done_before(&self, step: &str) {
        eprintln!("step {step}: done before");
    }

    fn done(&self, step: &str, report: &Report) {
        let (files, seconds) = (report.files.len(), report.took.as_secs_f64());
        let output = &report.output;
        eprintln!("step {step}: {files} files in {output}, {seconds:.1} s");
    }

    fn phase(&self, step: &str, phase: Phase, (done, tasks): (u32, u32), octets: u64) {
        // Of several steps at once: a line for a tenth of a phase.
        let tenth = tasks.div_ceil(10).max(1);
        if self.is_shown && (done == tasks || done.is_multiple_of(tenth)) {
            let (name, read) = (phase.name(), Bytes(octets));
            eprintln!("step {step}: {name} {done}/{tasks} {read}");
        }
    }
}
