//! A chain that runs. Steps that do not wait for each other run together.
//!
//! What is done is known by two files: the record of a step, which is in the work directory before
//! the step begins and has a number that nobody else draws; and the manifest of its output, which
//! has that number once the output is there. A step is done if both agree, the record's spec is
//! what the chain says now, and it has read what the steps before it have now.
//!
//! Who carries a step out is an [`Engine`]: this process ([`super::here`]), or the workers of a
//! group ([`super::group`]). A process that ends takes its steps with it; jobs of a group go on,
//! and a later run comes back to them:
//!
//! ```text
//!  no record, or nothing goes on under it ──────────────────────┐
//!  record, and the manifest has its number ──► done             ├──► new number, record, begin
//!  record, and no manifest ──► does it go on? ── no, and never ─┤
//!                                │        └── yes ──► rejoin    │
//!  record of another step ───────┴──────────────────► end it ───┘
//! ```
//!
//! Invariant: a step begins under a new number only when nothing goes on under the one before, and
//! nothing ever will.

use super::finished::Finished;
use super::record::{Manifest, Record};
use super::{Chain, Input, Spec, Step};
use crate::store::Stores;
use crate::{Error, Result};
use fs_err as fs;
use std::collections::BTreeMap;
use std::fs::TryLockError;
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Held by who runs the chain, in its work directory. No step has such a name.
const LOCK: &str = ".lock";
/// Between two looks for an output.
const LOOK: Duration = Duration::from_millis(200);

/// How a chain is run, whoever runs its steps.
#[derive(Debug)]
pub(super) struct Settings {
    /// For records and the outputs of steps that have no place of their own.
    pub(super) work: PathBuf,
    /// Replaces outputs that exist.
    pub(super) overwrite: bool,
    /// Runs all steps, whatever was done before.
    pub(super) restart: bool,
    /// For so long the output of a step that is done may take to be seen here.
    pub(super) seen_within: Duration,
}

/// A step that begins.
#[derive(Debug)]
pub(super) struct Begun<'a> {
    /// Its place in the chain.
    pub(super) at: usize,
    pub(super) step: &'a Step,
    /// Its number.
    pub(super) id: &'a str,
    /// What it reads.
    pub(super) inputs: Vec<String>,
    pub(super) output: PathBuf,
    pub(super) overwrite: bool,
    /// Its share of what the engine has.
    pub(super) share: usize,
}

/// A step that an earlier run has begun under a number, and of which nobody has seen the end.
#[derive(Debug)]
pub(super) struct Earlier<'a> {
    /// The step's.
    pub(super) name: &'a str,
    pub(super) record: &'a Record,
    /// Where its output was to be.
    pub(super) output: PathBuf,
    /// It is what the chain says now. Else nobody wants it.
    pub(super) is_wanted: bool,
}

/// Why a step is not done.
#[derive(Debug)]
pub(super) enum Unfinished {
    /// It has failed, or did not begin: nothing of it goes on.
    Failed(Error),
    /// It may go on, and nobody here knows.
    Unknown(Error),
    /// It goes on, and whoever looked on has left.
    Left,
}

impl From<Error> for Unfinished {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Who runs steps, and says on the way how far they are.
pub(super) trait Engine: Sync {
    /// What is told of a step that is done.
    type Report: Send;
    /// A step of an earlier run that goes on.
    type Joined: Send;
    /// Steps go on without the process that has begun them.
    const SUBMITS: bool;

    /// Refuses an output that it cannot write.
    fn check(&self, output: &Path) -> Result<()>;
    /// Shares that it has for steps that run at once.
    fn shares(&self) -> usize;
    /// The shares of one of the steps that are ready, when so many are free.
    fn share(&self, free: usize, ready: usize) -> usize;
    /// No other step is to begin.
    fn is_interrupted(&self) -> bool;
    /// A number that nobody else draws.
    fn draw(&self) -> String;
    /// Says that a step was done by an earlier run.
    fn done_before(&self, step: &Step);
    /// What goes on of a step that an earlier run has begun. If it is not wanted it is ended. None:
    /// nothing of it goes on, and nothing ever will.
    fn earlier(&self, earlier: &Earlier<'_>) -> Result<Option<Self::Joined>, Unfinished>;
    /// Waits for the end of a step that goes on.
    fn rejoin(&self, step: &Step, joined: Self::Joined) -> Result<Self::Report, Unfinished>;
    /// Runs a step.
    fn run(&self, begun: Begun<'_>) -> Result<Self::Report, Unfinished>;
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Came<R> {
    /// Of each step whose end it has seen.
    pub(super) reports: Vec<R>,
    /// Which steps have failed, and why.
    pub(super) failed: Vec<String>,
    /// Steps that go on, with their numbers.
    pub(super) left: Vec<(String, String)>,
    /// The whole chain is done.
    pub(super) is_done: bool,
}

struct Running<'a, E> {
    chain: &'a Chain,
    settings: &'a Settings,
    stores: Stores,
    engine: &'a E,
}

/// A step of an earlier run that goes on, with its record.
type Joined<E> = (Record, <E as Engine>::Joined);

/// How far a chain is.
struct Stand<E: Engine> {
    /// Numbers of the steps that are done.
    done: Vec<Option<String>>,
    begun: Vec<bool>,
    /// Not begun here, but before.
    joined: Vec<Option<Joined<E>>>,
    reports: Vec<Option<E::Report>>,
    failed: Vec<String>,
    left: Vec<(String, String)>,
    /// Shares that nobody has.
    free: usize,
    running: usize,
}

/// Runs what is not done yet, and cleans up when all is.
pub(super) fn run<E: Engine>(
    chain: &Chain,
    settings: &Settings,
    engine: &E,
) -> Result<Came<E::Report>> {
    let running = Running {
        chain,
        settings,
        stores: Stores::default(),
        engine,
    };
    for step in &chain.steps {
        let checked = engine.check(&running.output(step));
        checked.map_err(|error| format!("step {}: {error}", step.name))?;
    }
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
    let finished = Finished::of(chain);
    if let Some(before) = Finished::read(&settings.work)? {
        before.remove(&settings.work)?;
        if before == finished && !settings.restart {
            return running.done_already(&finished, lock);
        }
    }
    let mut stand = Stand::new(running.done_before()?, engine.shares());
    running.find_earlier(&mut stand)?;
    if stand.left.is_empty() {
        running.check_outputs(&stand)?;
        running.all(&mut stand);
    }
    let came = stand.came();
    if came.is_done {
        finished.mark(&settings.work)?;
        finished.remove(&settings.work)?;
        running.close(&finished, lock)?;
    }
    Ok(came)
}

impl<E: Engine> Stand<E> {
    fn new(done: Vec<Option<String>>, free: usize) -> Self {
        Self {
            begun: done.iter().map(Option::is_some).collect(),
            joined: done.iter().map(|_| None).collect(),
            reports: done.iter().map(|_| None).collect(),
            done,
            failed: Vec::new(),
            left: Vec::new(),
            free,
            running: 0,
        }
    }

    fn came(self) -> Came<E::Report> {
        Came {
            is_done: self.done.iter().all(Option::is_some),
            reports: self.reports.into_iter().flatten().collect(),
            failed: self.failed,
            left: self.left,
        }
    }

    /// Takes in what came of a step.
    fn settle(&mut self, at: usize, step: &Step, ended: Ended<E::Report>) {
        let mut note = |error: &Error| {
            let said = crate::cli::with_causes(&**error);
            self.failed.push(format!("step {}: {said}", step.name));
        };
        match ended.came {
            Ok(report) => {
                self.done[at] = ended.id;
                self.reports[at] = Some(report);
            }
            Err(Unfinished::Failed(error)) => note(&error),
            Err(Unfinished::Unknown(error)) => {
                note(&error);
                self.left.extend(ended.id.map(|id| (step.name.clone(), id)));
            }
            Err(Unfinished::Left) => {
                self.left.extend(ended.id.map(|id| (step.name.clone(), id)));
            }
        }
    }
}

/// What came of a step, and its number if it had one.
struct Ended<R> {
    id: Option<String>,
    came: Result<R, Unfinished>,
}

impl<E: Engine> Running<'_, E> {
    fn record_path(&self, step: &Step) -> PathBuf {
        self.settings.work.join(format!("{}.json", step.name))
    }

    fn record(&self, step: &Step) -> Result<Option<Record>> {
        Record::read(&self.record_path(step))
    }

    fn output(&self, step: &Step) -> PathBuf {
        self.output_of(&step.name, &step.spec)
    }

    fn output_of(&self, step: &str, spec: &Spec) -> PathBuf {
        let own = || self.settings.work.join(step);
        spec.output.clone().unwrap_or_else(own)
    }

    fn manifest(&self, step: &Step) -> Result<Option<Manifest>> {
        let octets = self.stores.manifest(&self.output(step))?;
        Ok(octets.and_then(|octets| Manifest::read(&octets)))
    }

    /// Whether the output of a step is there as the record says.
    fn is_there(&self, step: &Step, record: &Record) -> Result<bool> {
        let manifest = self.manifest(step)?;
        Ok(manifest.is_some_and(|manifest| manifest.made_by() == Some(&record.id)))
    }

    /// Whether a record is of what the chain says now.
    fn is_same(&self, step: &Step, record: &Record, done: &[Option<String>]) -> bool {
        !self.settings.restart
            && record.spec == step.spec
            && self.ids(step, done).as_ref() == Some(&record.inputs)
    }

    /// The numbers of the steps that are done.
    fn done_before(&self) -> Result<Vec<Option<String>>> {
        let mut done: Vec<Option<String>> = Vec::new();
        for step in &self.chain.steps {
            let record = self.record(step)?;
            let same = record.filter(|record| self.is_same(step, record, &done));
            let id = match same {
                Some(record) => self.is_there(step, &record)?.then_some(record.id),
                None => None,
            };
            if id.is_some() {
                self.engine.done_before(step);
            }
            done.push(id);
        }
        Ok(done)
    }

    /// Finds out what goes on of an earlier run, and ends what is not wanted of it.
    fn find_earlier(&self, stand: &mut Stand<E>) -> Result<()> {
        self.end_strays(stand)?;
        for (at, step) in self.chain.steps.iter().enumerate() {
            let record = self.record(step)?.filter(|record| record.submitted);
            let Some(record) = record.filter(|_| stand.done[at].is_none()) else {
                continue;
            };
            let is_wanted = self.is_same(step, &record, &stand.done);
            match self.earlier(&step.name, &record, is_wanted, stand)? {
                Some(joined) => stand.joined[at] = Some((record, joined)),
                // It may have come to its end since its output was looked for.
                None if is_wanted && self.is_there(step, &record)? => {
                    self.engine.done_before(step);
                    (stand.begun[at], stand.done[at]) = (true, Some(record.id));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Ends what goes on of steps that the chain has no more.
    fn end_strays(&self, stand: &mut Stand<E>) -> Result<()> {
        for entry in fs::read_dir(&self.settings.work)? {
            let path = entry?.path();
            let is_record = path.extension().is_some_and(|kind| kind == "json");
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let is_stray = is_record && self.chain.steps.iter().all(|step| step.name != name);
            let record = is_stray.then(|| Record::read(&path)).transpose()?.flatten();
            let Some(record) = record.filter(|record| record.submitted) else {
                continue;
            };
            let ended = self.earlier(&name, &record, false, stand)?;
            if ended.is_none() && stand.left.is_empty() {
                record.over().write(&path)?;
            }
        }
        Ok(())
    }

    /// Asks the engine what goes on under a record.
    fn earlier(
        &self,
        name: &str,
        record: &Record,
        is_wanted: bool,
        stand: &mut Stand<E>,
    ) -> Result<Option<E::Joined>> {
        let found = self.engine.earlier(&Earlier {
            name,
            record,
            output: self.output_of(name, &record.spec),
            is_wanted,
        });
        match found {
            Ok(found) => Ok(found),
            Err(Unfinished::Failed(error) | Unfinished::Unknown(error)) => {
                let said = crate::cli::with_causes(&*error);
                Err(format!("step {name}: {said}").into())
            }
            Err(Unfinished::Left) => {
                stand.left.push((name.to_owned(), record.id.clone()));
                Ok(None)
            }
        }
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
        let manifest = self.manifest(step)?;
        let id = manifest.as_ref().and_then(Manifest::made_by);
        let is_own = |id: &&str| *id == record.id || record.replaces.as_deref() == Some(*id);
        Ok(id.filter(is_own).map(str::to_owned))
    }

    /// Whether a step's output may be replaced: it is in the work directory, or its own.
    fn may_replace(&self, step: &Step) -> Result<bool> {
        let all = self.settings.overwrite || step.spec.output.is_none();
        Ok(all || self.replaceable(step)?.is_some())
    }

    /// Refuses outputs that exist before anything runs.
    fn check_outputs(&self, stand: &Stand<E>) -> Result<()> {
        for (at, step) in self.chain.steps.iter().enumerate() {
            let begins = stand.done[at].is_none() && stand.joined[at].is_none();
            if begins && !self.may_replace(step)? {
                let checked = self.stores.destination(&self.output(step), false);
                checked.map_err(|error| format!("step {}: {error}", step.name))?;
            }
        }
        Ok(())
    }

    /// Runs all that is not done. When one fails, those that run go on to their end: they are done
    /// when the chain is run again.
    fn all(&self, stand: &mut Stand<E>) {
        let steps = &self.chain.steps;
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(steps.len());
            loop {
                let ready = self.ready(stand);
                for (number, at) in ready.iter().enumerate() {
                    let share = self.engine.share(stand.free, ready.len() - number);
                    let ids = self.ids(&steps[*at], &stand.done).unwrap_or_default();
                    let joined = stand.joined[*at].take();
                    stand.begun[*at] = true;
                    (stand.free, stand.running) = (stand.free - share, stand.running + 1);
                    let (send, at) = (send.clone(), *at);
                    scope.spawn(move || {
                        let step = AssertUnwindSafe(|| self.step(at, share, ids, joined));
                        let came = std::panic::catch_unwind(step).unwrap_or_else(|_| Ended {
                            id: None,
                            came: Err(Unfinished::Failed("its job has panicked".into())),
                        });
                        // There is room for all.
                        let _ = send.send((at, share, came));
                    });
                }
                if stand.running == 0 {
                    return;
                }
                let Ok((at, share, ended)) = receive.recv() else {
                    return;
                };
                (stand.free, stand.running) = (stand.free + share, stand.running - 1);
                stand.settle(at, &steps[at], ended);
            }
        });
    }

    /// Steps that can begin now. Those that go on already come back first: they need no more.
    fn ready(&self, stand: &Stand<E>) -> Vec<usize> {
        let goes_on = stand.failed.is_empty() && !self.engine.is_interrupted();
        let steps = &self.chain.steps;
        let can = |at: &usize| !stand.begun[*at] && self.ids(&steps[*at], &stand.done).is_some();
        let mut ready: Vec<usize> = (0..steps.len()).filter(can).collect();
        ready.sort_by_key(|at| stand.joined[*at].is_none());
        ready.retain(|at| goes_on || stand.joined[*at].is_some());
        ready.truncate(stand.free);
        ready
    }

    /// Runs a step to its end, or waits for it.
    fn step(
        &self,
        at: usize,
        share: usize,
        ids: BTreeMap<String, String>,
        joined: Option<Joined<E>>,
    ) -> Ended<E::Report> {
        let step = &self.chain.steps[at];
        let (record, came) = match joined {
            Some((record, joined)) => (record, self.engine.rejoin(step, joined)),
            None => match self.begin(step, ids) {
                Ok((record, inputs, overwrite)) => {
                    let came = self.engine.run(Begun {
                        at,
                        step,
                        id: &record.id,
                        inputs,
                        output: self.output(step),
                        overwrite,
                        share,
                    });
                    (record, came)
                }
                Err(error) => {
                    return Ended {
                        id: None,
                        came: Err(error.into()),
                    };
                }
            },
        };
        let came = self.ended(step, &record, came);
        Ended {
            id: Some(record.id),
            came,
        }
    }

    /// Writes the record of a step that begins; with what it reads, and whether it may replace an
    /// output.
    fn begin(
        &self,
        step: &Step,
        ids: BTreeMap<String, String>,
    ) -> Result<(Record, Vec<String>, bool)> {
        let overwrite = self.may_replace(step)?;
        let record = Record {
            spec: step.spec.clone(),
            id: self.engine.draw(),
            inputs: ids,
            replaces: self.replaceable(step)?,
            submitted: E::SUBMITS,
        };
        let inputs = self.inputs(step, &record)?;
        record.write(&self.record_path(step))?;
        Ok((record, inputs, overwrite))
    }

    /// Says in the record that nothing goes on, and makes sure that what is done can be read.
    fn ended<R>(
        &self,
        step: &Step,
        record: &Record,
        came: Result<R, Unfinished>,
    ) -> Result<R, Unfinished> {
        let goes_on = matches!(came, Err(Unfinished::Unknown(_) | Unfinished::Left));
        let written = if record.submitted && !goes_on {
            record.over().write(&self.record_path(step))
        } else {
            Ok(())
        };
        match (came, written) {
            (Ok(report), Ok(())) => self.see(step, record).map(|()| report),
            (Ok(_), Err(error)) => Err(error.into()),
            (Err(Unfinished::Failed(failed)), Err(error)) => {
                let failed = crate::cli::with_causes(&*failed);
                Err(Unfinished::Failed(format!("{failed}; {error}").into()))
            }
            (Err(unfinished), _) => Err(unfinished),
        }
    }

    /// Waits until the output of a step that is done is seen here: a file system that many machines
    /// have may show it late.
    fn see(&self, step: &Step, record: &Record) -> Result<(), Unfinished> {
        let began = Instant::now();
        while !self.is_there(step, record)? {
            if self.engine.is_interrupted() {
                return Err(Unfinished::Left);
            }
            if began.elapsed() >= self.settings.seen_within {
                let (id, output) = (&record.id, self.output(step));
                let output = output.display();
                return Err(Unfinished::Failed(
                    format!(
                        "it is done as {id}, and its output is not in {output}: that must be one \
                         directory for all machines, and nobody else's"
                    )
                    .into(),
                ));
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// What a step reads: of a step before it, what its manifest names.
    fn inputs(&self, step: &Step, record: &Record) -> Result<Vec<String>> {
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
            let id = record.inputs.get(&from.name).map(String::as_str);
            let manifest = self.manifest(from)?;
            let manifest = manifest.filter(|manifest| manifest.made_by() == id);
            let manifest = manifest.ok_or_else(|| {
                let (output, name) = (output.display(), &from.name);
                format!("{output}: it is not what step {name} has left; run the chain again")
            })?;
            for file in manifest.files() {
                let path = output.join(file).into_os_string().into_string();
                all.push(path.map_err(|path| format!("{}: no UTF-8", path.display()))?);
            }
        }
        Ok(all)
    }

    /// All is done, and the command that saw it was ended when it cleaned up.
    fn done_already(&self, finished: &Finished, lock: fs::File) -> Result<Came<E::Report>> {
        for step in &self.chain.steps {
            self.engine.done_before(step);
        }
        self.close(finished, lock)?;
        Ok(Came {
            reports: Vec::new(),
            failed: Vec::new(),
            left: Vec::new(),
            is_done: true,
        })
    }

    /// Removes the work directory, if nothing in it is to be kept. What else is in it is left: of
    /// steps that the chain had before, or somebody's own.
    fn close(&self, finished: &Finished, lock: fs::File) -> Result<()> {
        if finished.keeps() {
            return Ok(());
        }
        let work = &self.settings.work;
        fs::remove_file(work.join(LOCK))?;
        // On NFS a file that is open has another name until it is closed.
        drop(lock);
        match fs::remove_dir(work) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                let work = work.display();
                eprintln!("warning: {work} has other files, and is left");
                Ok(())
            }
            removed => Ok(removed?),
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
