//! A chain that runs. Steps that do not wait for each other run together and share the threads.
//!
//! What is done is known by two files: the record of a step, which is in the work directory before
//! the step begins and has a number that nobody else draws; and the manifest of its output, which
//! has that number once the output is there. A step is done if both agree, the record's spec is
//! what the chain says now, and it has read what the steps before it have now.

use super::{Chain, Input, Spec, Step};
use crate::engine::local::{self, Options, Phase, Report, Watch};
use crate::store::Stores;
use crate::{Error, Result};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::TryLockError;
use std::io::{ErrorKind, Write as _};
use std::num::NonZero;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

/// Held by who runs the chain, in its work directory. No step has such a name.
const LOCK: &str = ".lock";

/// How a chain is run.
#[derive(Debug)]
pub(super) struct Settings {
    /// For records and the outputs of steps that have no place of their own.
    pub(crate) work: PathBuf,
    /// Replaces outputs that exist.
    pub(crate) overwrite: bool,
    /// Runs all steps, whatever was done before.
    pub(crate) restart: bool,
    pub(crate) threads: NonZero<usize>,
    pub(crate) memory: usize,
    pub(crate) scratch: Option<PathBuf>,
    /// Ends it. One more for each step: a step that fails ends by its own.
    pub(crate) interrupted: Arc<AtomicBool>,
    pub(crate) ended: Vec<Arc<AtomicBool>>,
}

/// Who looks on: what begins and ends, and how far a step is.
pub(super) trait Audience: Sync {
    fn done_before(&self, step: &str);
    fn done(&self, step: &str, report: &Report);
    fn phase(&self, step: &str, phase: Phase, tasks: (u32, u32), octets: u64);
}

/// What a step was when it began.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    spec: Spec,
    id: String,
    /// Of the steps that it read.
    inputs: BTreeMap<String, String>,
    /// Of the output that it may replace: that of an earlier run of the step.
    replaces: Option<String>,
}

/// What a manifest says, as far as it matters here.
#[derive(Deserialize)]
struct Manifest {
    id: Option<String>,
    files: Vec<ManifestFile>,
}

#[derive(Deserialize)]
struct ManifestFile {
    name: String,
}

/// A step that runs, for who looks on.
struct Looker<'a> {
    step: &'a str,
    audience: &'a dyn Audience,
    tasks: std::sync::Mutex<(u32, u32)>,
}

impl Watch for Looker<'_> {
    fn begins(&self, phase: Phase, tasks: u32) {
        *local::lock(&self.tasks) = (0, tasks);
        self.audience.phase(self.step, phase, (0, tasks), 0);
    }

    fn done(&self, phase: Phase, octets: u64) {
        let mut tasks = local::lock(&self.tasks);
        tasks.0 += 1;
        self.audience.phase(self.step, phase, *tasks, octets);
    }
}

struct Running<'a> {
    chain: &'a Chain,
    settings: &'a Settings,
    stores: Stores,
    audience: &'a dyn Audience,
}

/// Runs what is not done yet; what came of each step that ran.
pub(super) fn run(
    chain: &Chain,
    settings: &Settings,
    audience: &dyn Audience,
) -> Result<Vec<Report>> {
    match fs::create_dir(&settings.work) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let lock = fs::File::create(settings.work.join(LOCK))?;
    lock.file().try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            let work = settings.work.display();
            Error::from(format!("{work}: another run of the chain is at work there"))
        }
        TryLockError::Error(error) => error.into(),
    })?;
    let running = Running {
        chain,
        settings,
        stores: Stores::default(),
        audience,
    };
    let done = running.done_before()?;
    running.check_outputs(&done)?;
    let reports = running.all(done)?;
    running.clean()?;
    Ok(reports)
}

impl Running<'_> {
    fn record_path(&self, step: &Step) -> PathBuf {
        self.settings.work.join(format!("{}.json", step.name))
    }

    fn output(&self, step: &Step) -> PathBuf {
        let own = || self.settings.work.join(&step.name);
        step.spec.output.clone().unwrap_or_else(own)
    }

    fn record(&self, step: &Step) -> Result<Option<Record>> {
        let path = self.record_path(step);
        match fs::read(&path) {
            Ok(octets) => {
                let record = serde_json::from_slice(&octets);
                let record = record.map_err(|error| {
                    let path = path.display();
                    format!("{path}: {error}: it is no record of a step; remove it")
                });
                Ok(Some(record?))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn manifest(&self, step: &Step) -> Result<Option<Manifest>> {
        let output = self.output(step);
        let Some(octets) = self.stores.manifest(&output)? else {
            return Ok(None);
        };
        // Of another version, or another program: not what a step of this chain has left.
        Ok(serde_json::from_slice(&octets).ok())
    }

    /// Whether the output of a step is there as the record says.
    fn is_there(&self, step: &Step, record: &Record) -> Result<bool> {
        let manifest = self.manifest(step)?;
        Ok(manifest.is_some_and(|manifest| manifest.id.as_ref() == Some(&record.id)))
    }

    /// The numbers of the steps that are done.
    fn done_before(&self) -> Result<Vec<Option<String>>> {
        let mut done: Vec<Option<String>> = Vec::new();
        for step in &self.chain.steps {
            let id = match self.record(step)? {
                Some(record) if !self.settings.restart => {
                    let same = record.spec == step.spec
                        && self.ids(step, &done).as_ref() == Some(&record.inputs);
                    (same && self.is_there(step, &record)?).then_some(record.id)
                }
                Some(_) | None => None,
            };
            if id.is_some() {
                self.audience.done_before(&step.name);
            }
            done.push(id);
        }
        Ok(done)
    }

    /// The numbers of the steps that one reads, if they are done.
    fn ids(&self, step: &Step, done: &[Option<String>]) -> Option<BTreeMap<String, String>> {
        let before = step.inputs.iter().filter_map(|input| match input {
            Input::Step(from) => Some(*from),
            Input::Named(_) => None,
        });
        let ids = before.map(|from| {
            let name = self.chain.steps[from].name.clone();
            Some((name, done.get(from)?.clone()?))
        });
        ids.collect()
    }

    /// The number of a step's output, if an earlier run of the step has made what is there.
    fn replaceable(&self, step: &Step) -> Result<Option<String>> {
        let record = self.record(step)?;
        let Some(record) = record.filter(|record| record.spec.output == step.spec.output) else {
            return Ok(None);
        };
        let id = self.manifest(step)?.and_then(|manifest| manifest.id);
        Ok(id.filter(|id| *id == record.id || record.replaces.as_ref() == Some(id)))
    }

    /// Whether a step's output may be replaced: it is in the work directory, or its own.
    fn may_replace(&self, step: &Step) -> Result<bool> {
        let all = self.settings.overwrite || step.spec.output.is_none();
        Ok(all || self.replaceable(step)?.is_some())
    }

    /// Refuses outputs that exist before anything runs.
    fn check_outputs(&self, done: &[Option<String>]) -> Result<()> {
        for (step, done) in self.chain.steps.iter().zip(done) {
            if done.is_none() && !self.may_replace(step)? {
                let checked = self.stores.destination(&self.output(step), false);
                checked.map_err(|error| format!("step {}: {error}", step.name))?;
            }
        }
        Ok(())
    }

    /// Runs all that is not done. When one fails, those that run go on to their end: they are done
    /// when the chain is run again.
    fn all(&self, mut done: Vec<Option<String>>) -> Result<Vec<Report>> {
        let steps = &self.chain.steps;
        let mut begun: Vec<bool> = done.iter().map(Option::is_some).collect();
        let mut reports: Vec<Option<Report>> = steps.iter().map(|_| None).collect();
        let mut failed: Option<Error> = None;
        let mut free = self.settings.threads.get();
        let mut running = 0_usize;
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(steps.len());
            loop {
                let goes_on =
                    failed.is_none() && !self.settings.interrupted.load(Ordering::Relaxed);
                let can = |at: &usize| !begun[*at] && self.ids(&steps[*at], &done).is_some();
                let ready = (0..steps.len()).filter(can).filter(|_| goes_on);
                let ready: Vec<usize> = ready.take(free).collect();
                for (number, at) in ready.iter().enumerate() {
                    let share = free.div_ceil(ready.len() - number);
                    let ids = self.ids(&steps[*at], &done).unwrap_or_default();
                    (free, begun[*at], running) = (free - share, true, running + 1);
                    let (send, at) = (send.clone(), *at);
                    scope.spawn(move || {
                        let step = AssertUnwindSafe(|| self.step(at, share, ids));
                        let came = std::panic::catch_unwind(step);
                        let came = came.unwrap_or_else(|_| Err("its job has panicked".into()));
                        // There is room for all.
                        let _ = send.send((at, share, came));
                    });
                }
                if running == 0 {
                    break;
                }
                let Ok((at, share, came)) = receive.recv() else {
                    break;
                };
                (free, running) = (free + share, running - 1);
                match came {
                    Ok((id, report)) => {
                        self.audience.done(&steps[at].name, &report);
                        done[at] = Some(id);
                        reports[at] = Some(report);
                    }
                    Err(error) => {
                        let name = &steps[at].name;
                        let said = crate::cli::with_causes(&*error);
                        failed.get_or_insert_with(|| format!("step {name}: {said}").into());
                    }
                }
            }
        });
        match failed {
            Some(error) => Err(error),
            None if done.iter().any(Option::is_none) => Err("ended before all steps ran".into()),
            None => Ok(reports.into_iter().flatten().collect()),
        }
    }

    /// Runs a step on so many threads.
    fn step(
        &self,
        at: usize,
        threads: usize,
        inputs: BTreeMap<String, String>,
    ) -> Result<(String, Report)> {
        let step = &self.chain.steps[at];
        let overwrite = self.may_replace(step)?;
        let record = Record {
            spec: step.spec.clone(),
            id: uuid::Uuid::new_v4().simple().to_string(),
            inputs,
            replaces: self.replaceable(step)?,
        };
        write_synced(
            &self.record_path(step),
            &serde_json::to_vec_pretty(&record)?,
        )?;
        let default = Options::new(self.inputs(step)?, self.output(step));
        let options = Options {
            overwrite,
            reduces: step.spec.reduces,
            split_octets: step.spec.split_octets.unwrap_or(default.split_octets),
            threads: NonZero::new(threads).unwrap_or(NonZero::<usize>::MIN),
            memory: self.settings.memory,
            scratch: self.settings.scratch.clone(),
            format: step.spec.format.map(Into::into),
            id: Some(record.id.clone()),
            ..default
        };
        let looker = Looker {
            step: &step.name,
            audience: self.audience,
            tasks: std::sync::Mutex::default(),
        };
        let ended = &self.settings.ended[at];
        let report = local::run(&step.spec.job, &*step.code, &options, ended, &looker)?;
        Ok((record.id, report))
    }

    /// What a step reads: of a step before it, what its manifest names.
    fn inputs(&self, step: &Step) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for input in &step.inputs {
            let from = match input {
                Input::Named(name) => {
                    all.push(name.clone());
                    continue;
                }
                Input::Step(from) => &self.chain.steps[*from],
            };
            let output = self.output(from);
            let manifest = self.manifest(from)?.ok_or_else(|| {
                let output = output.display();
                format!("{output}: it has no manifest any more; run the chain again")
            })?;
            for file in manifest.files {
                let path = output.join(file.name).into_os_string().into_string();
                all.push(path.map_err(|path| format!("{}: no UTF-8", path.display()))?);
            }
        }
        Ok(all)
    }

    /// Removes what only the chain needed, when all of it is done.
    fn clean(&self) -> Result<()> {
        for step in &self.chain.steps {
            if step.keep {
                continue;
            }
            fs::remove_file(self.record_path(step))?;
            if step.spec.output.is_none() {
                fs::remove_dir_all(self.output(step))?;
            }
        }
        if !self.chain.steps.iter().any(|step| step.keep) {
            fs::remove_file(self.settings.work.join(LOCK))?;
            fs::remove_dir(&self.settings.work)?;
        }
        Ok(())
    }
}

/// A file that is there whole or not at all.
fn write_synced(path: &Path, what: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(what)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
