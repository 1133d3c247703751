//! Steps that are run by this process: those that run together share its threads.

use super::Step;
use super::run::{Begun, Earlier, Engine, Unfinished};
use crate::Result;
use crate::engine::local::{self, Options, Phase, Report, Watch};
use mapreduce_core::plan::Bytes;
use std::convert::Infallible;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// This process.
pub(super) struct Here {
    /// What is said of all steps.
    pub(super) options: Options,
    /// The size of splits, if that was said.
    pub(super) split_octets: Option<u64>,
    /// Ends the chain. One more for each step: a step that fails ends by its own.
    pub(super) interrupted: Arc<AtomicBool>,
    pub(super) ended: Vec<Arc<AtomicBool>>,
    /// A person looks on.
    pub(super) is_shown: bool,
}

impl Engine for Here {
    type Report = Report;
    /// What it runs ends with it.
    type Joined = Infallible;
    const SUBMITS: bool = false;

    fn check(&self, _output: &Path) -> Result<()> {
        Ok(())
    }

    fn shares(&self) -> usize {
        self.options.threads.get()
    }

    fn share(&self, free: usize, ready: usize) -> usize {
        free.div_ceil(ready)
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn draw(&self) -> String {
        uuid::Uuid::new_v4().simple().to_string()
    }

    fn done_before(&self, step: &Step) {
        eprintln!("step {}: done before", step.name);
    }

    fn earlier(&self, earlier: &Earlier<'_>) -> Result<Option<Infallible>, Unfinished> {
        let (id, name) = (&earlier.record.id, earlier.name);
        Err(Unfinished::Unknown(
            format!(
                "it was submitted as job {id}, and may go on\n\nhint: `mapreduce submit --chain` \
                 goes on with it; if `mapreduce status {id}` says that it is over, or has never \
                 been, remove {name}.json in the work directory"
            )
            .into(),
        ))
    }

    fn rejoin(&self, _step: &Step, joined: Infallible) -> Result<Report, Unfinished> {
        match joined {}
    }

    fn run(&self, begun: Begun<'_>) -> Result<Report, Unfinished> {
        let spec = &begun.step.spec;
        let default = Options::new(begun.inputs, begun.output);
        let options = Options {
            overwrite: begun.overwrite,
            reduces: spec.reduces,
            split_octets: self.split_octets.or(default.split_octets),
            threads: NonZero::new(begun.share).unwrap_or(NonZero::<usize>::MIN),
            memory: self.options.memory,
            scratch: self.options.scratch.clone(),
            format: spec.format.map(Into::into),
            id: Some(begun.id.to_owned()),
            ..default
        };
        let looker = Looker {
            step: &begun.step.name,
            is_shown: self.is_shown,
            tasks: Mutex::default(),
        };
        let ended = &self.ended[begun.at];
        let report = local::run(&spec.job, &*begun.step.code, &options, ended, &looker)?;
        let (files, seconds) = (report.files.len(), report.took.as_secs_f64());
        let (step, output) = (&begun.step.name, &report.output);
        eprintln!("step {step}: {files} files in {output}, {seconds:.1} s");
        Ok(report)
    }
}

/// Lines on standard error. What ends is said always; how far a step is, where a person looks on.
struct Looker<'a> {
    step: &'a str,
    is_shown: bool,
    tasks: Mutex<(u32, u32)>,
}

impl Looker<'_> {
    fn show(&self, phase: Phase, (done, tasks): (u32, u32), octets: u64) {
        // Of several steps at once: a line for a tenth of a phase.
        let tenth = tasks.div_ceil(10).max(1);
        if self.is_shown && (done == tasks || done.is_multiple_of(tenth)) {
            let (step, name, read) = (self.step, phase.name(), Bytes(octets));
            eprintln!("step {step}: {name} {done}/{tasks} {read}");
        }
    }
}

impl Watch for Looker<'_> {
    fn begins(&self, phase: Phase, tasks: u32) {
        *local::lock(&self.tasks) = (0, tasks);
        self.show(phase, (0, tasks), 0);
    }

    fn done(&self, phase: Phase, octets: u64) {
        let mut tasks = local::lock(&self.tasks);
        tasks.0 += 1;
        self.show(phase, *tasks, octets);
    }
}
