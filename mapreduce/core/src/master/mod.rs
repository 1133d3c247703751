//! The master: which worker runs which task when, and what is proposed to the group as won.
//!
//! `step` takes what happened and gives what to do. Whatever it decides is worth nothing until the
//! group has it: a batch takes effect only while the role is granted at this master's epoch, and
//! only then is anybody told who has won. So a master that is paused, cut off or late does no harm.
//!
//! ```text
//!           assign              finished              the batch is in the log
//!  waiting ────────▶ running ───────────▶ proposed ──────────────────────────▶ won: told
//!    ▲                 │ failed, killed,      │                                 │
//!    │                 │ worker lost          │ map output lost: revoked        │
//!    └─────────────────┴──────────────────────┴─────────────────────────────────┘
//! ```
//!
//! A master that takes over adopts what runs: an attempt of an earlier epoch that its worker
//! reports goes on, and its result is proposed in this epoch. Tasks may take hours, and nothing is
//! wrong with an attempt because its master died; it is this master that proposes it, so the
//! group's check of the epoch is not weakened. Nothing else of an earlier epoch can win.

pub mod event;
mod image;
mod inspect;
mod job;
mod loss;
mod queue;
mod report;
mod runtimes;
mod schedule;
mod settings;
mod workers;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use event::{Effect, Event, JobImage, Outcome, Refusal, StopReason};
pub use image::ImageError;
pub use inspect::{AttemptView, TaskView, WorkerView};
pub use settings::Settings;

use self::job::Job;
use self::workers::Workers;
use crate::job::{FoldError, JobState};
use crate::limits::JOBS_MAX;
use crate::names::{AttemptId, Epoch, Incarnation, JobId, Phase, TaskId};
use crate::record::{JobStatus, Record};

/// Mistakes that the simulation makes on purpose, to show that it sees them. Only tests can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// A map output that cannot be fetched counts as a failure of the reduce.
    FetchFailureCounts,
    /// With a worker its finished reduces are run again.
    WonReducesRunAgain,
    /// Reduces take all slots, and are not stopped for maps.
    ReducesStarveMaps,
    /// A batch whose outcome is not known is sent again under the next number.
    RetriedUnderNextNumber,
    /// Who has won is told before the group has it.
    ToldBeforeRecorded,
    /// Who was not heard of after a while is lost, whether or not it is known who is there.
    SettledUnconfirmed,
}

/// An attempt that was assigned or adopted, until it is known what became of it.
#[derive(Clone, Debug)]
struct Attempt {
    job: JobId,
    task: TaskId,
    worker: Incarnation,
    started: Duration,
    /// When its assignment was sent last.
    sent: Duration,
    finished: bool,
    /// It is a second attempt beside another.
    backup: bool,
    bytes: u64,
    records: u64,
    /// Whose map output it said was damaged.
    doubted: Option<Incarnation>,
}

/// The master of all jobs, for one epoch.
#[derive(Clone, Debug)]
pub struct Master {
    epoch: Epoch,
    settings: Settings,
    now: Duration,
    /// From then on it gives out tasks, and what nobody has is lost; none before it knows who is
    /// there.
    settled: Option<Duration>,
    counter: u64,
    workers: Workers,
    jobs: BTreeMap<JobId, Job>,
    attempts: BTreeMap<AttemptId, Attempt>,
    backups: u32,
    /// Workers that may be given something and were not tried since there was something new.
    eager: BTreeSet<(u32, Incarnation)>,
    /// Something waits that did not before.
    fresh_work: bool,
    no_workers_since: Option<Duration>,
    kept_house: Duration,
    stepped_down: bool,
    defect: Option<Defect>,
    effects: Vec<Effect>,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    /// Of each phase: tasks, won (recorded or proposed), running, waiting.
    pub maps: PhaseView,
    /// The same of the reduces.
    pub reduces: PhaseView,
    /// Failures that counted, of all tasks that are known.
    pub records: u64,
    /// Batches and bytes that this master has written for it.
    pub written: (u64, u64),
}

/// How far a phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseView {
    /// Tasks.
    pub count: u32,
    /// With a winner.
    pub won: u32,
    /// With an attempt and without a winner.
    pub busy: u32,
    /// With neither.
    pub waiting: u32,
}

impl Master {
    /// A master that was granted the role at `epoch`. It is told the jobs that the group has
    /// ([`Event::Job`]), then the workers ([`Event::Joined`]), then that these are all
    /// ([`Event::Confirmed`]), then everything else. However long that takes, it does nothing until
    /// then. One for each epoch and never a second: its attempts are numbered from 1.
    pub fn new(epoch: Epoch, settings: Settings, now: Duration) -> Self {
        Self {
            epoch,
            settled: None,
            settings,
            now,
            counter: 0,
            workers: Workers::default(),
            jobs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            backups: 0,
            eager: BTreeSet::new(),
            fresh_work: true,
            no_workers_since: None,
            kept_house: now,
            stepped_down: false,
            defect: None,
            effects: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn with_defect(mut self, defect: Option<Defect>) -> Self {
        self.defect = defect;
        self
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether its time is over.
    pub fn has_stepped_down(&self) -> bool {
        self.stepped_down
    }

    /// What follows from an event. `now` does not go back; if it does, it stands still.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        if self.stepped_down {
            return Vec::new();
        }
        self.now = self.now.max(now);
        if self.workers.at(self.now) {
            self.fresh_work = true;
        }
        let done = self.event(event).and_then(|()| {
            if self.now >= self.kept_house + self.settings.housekeeping {
                self.kept_house = self.now;
                self.keep_house()?;
            }
            self.schedule();
            Ok(())
        });
        if let Err(error) = done {
            // What is in `effects` was decided before the mistake, and by the same rules.
            self.step_down(format!("a record does not fit the log: {error}"));
        }
        if !self.stepped_down {
            self.write();
        }
        std::mem::take(&mut self.effects)
    }

    fn event(&mut self, event: Event) -> Result<(), FoldError> {
        match event {
            Event::Job(image) => self.job(*image),
            Event::Cancelled(job) => {
                self.end_job(job, JobStatus::Cancelled);
                Ok(())
            }
            Event::Joined(info) => self.joined(info),
            Event::Gone(incarnation) => self.lost(incarnation),
            Event::Confirmed => self.confirmed(),
            Event::Report(report) => self.report(*report),
            Event::Appended { job, sequence } => {
                self.appended(job, sequence);
                Ok(())
            }
            Event::Refused { job, sequence, why } => {
                self.refused(job, sequence, why);
                Ok(())
            }
            Event::Unknown { job, sequence } => {
                let again = self.now + self.settings.append_retry;
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.writer.unknown(sequence, again);
                    if self.defect == Some(Defect::RetriedUnderNextNumber) {
                        job.writer.renumber(sequence);
                    }
                }
                Ok(())
            }
            Event::Time => Ok(()),
        }
    }

    fn job(&mut self, image: JobImage) -> Result<(), FoldError> {
        let id = image.job;
        if self.jobs.contains_key(&id) {
            return Ok(());
        }
        if image.header.status != JobStatus::Running {
            let status = image.header.status;
            self.effects.push(Effect::JobEnded { job: id, status });
            return Ok(());
        }
        let is_odd = image.splits.count() != image.header.maps
            || image.spec.reduces != image.header.reduces
            || image.header.maps.saturating_add(image.header.reduces) > crate::limits::TASKS_MAX;
        let refusal = if self.jobs.len() >= JOBS_MAX {
            Some(format!("{JOBS_MAX} jobs run already"))
        } else if is_odd {
            Some("header, specification and splits do not agree".to_owned())
        } else {
            None
        };
        if let Some(message) = refusal {
            self.effects.push(Effect::Unreadable { job: id, message });
            return Ok(());
        }
        match Job::new(image, self.epoch, self.now) {
            Ok(mut job) if job.state.epoch() <= self.epoch => {
                job.defect = self.defect;
                job.finish_if_done(self.now)?;
                self.jobs.insert(id, job);
                self.fresh_work = true;
            }
            Ok(job) => {
                let later = job.state.epoch();
                self.step_down(format!("the log of {id} has epoch {later}"));
            }
            Err(error) => {
                let message = format!("its log is not one of ours: {error}");
                self.effects.push(Effect::Unreadable { job: id, message });
            }
        }
        Ok(())
    }

    fn step_down(&mut self, why: String) {
        self.stepped_down = true;
        self.effects.push(Effect::SteppedDown { why });
    }

    fn refused(&mut self, id: JobId, sequence: u64, why: Refusal) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let Some(flight) = job.writer.flight().filter(|it| it.sequence == sequence) else {
            return;
        };
        match why {
            Refusal::Epoch => self.step_down("the role is granted to another".to_owned()),
            Refusal::NotRunning => self.end_job(id, JobStatus::Cancelled),
            Refusal::Present(batch) if *batch == flight.batch => self.appended(id, sequence),
            Refusal::Present(batch) => {
                let epoch = batch.epoch;
                self.step_down(format!("batch {sequence} of {id} is of epoch {epoch}"));
            }
        }
    }

    /// What is in the log now is told to those whom it concerns.
    fn appended(&mut self, id: JobId, sequence: u64) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let Some(flight) = job.writer.appended(sequence) else {
            return;
        };
        job.settle(&flight.batch.records);
        let mut end = None;
        for record in flight.batch.records {
            match record {
                Record::Won(won) => self.tell_won(id, won.task, won.attempt, won.incarnation),
                Record::Done => end = Some(JobStatus::Done),
                Record::JobFailed(failure) => end = Some(JobStatus::Failed(failure)),
                Record::Revoked { .. }
                | Record::Failed { .. }
                | Record::Skipped { .. }
                | Record::CounterName { .. } => {}
            }
        }
        if let Some(status) = end {
            self.end_job(id, status);
        }
    }

    fn tell_won(&mut self, id: JobId, task: TaskId, attempt: AttemptId, winner: Incarnation) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        // It may have been revoked since it was proposed.
        let stands = job
            .state
            .winner(task)
            .is_some_and(|it| it.attempt == attempt);
        let others = job.attempts.get(&task).cloned().unwrap_or_default();
        if stands {
            self.tell(winner, id, attempt, Outcome::Won);
            for other in others.into_iter().filter(|other| *other != attempt) {
                self.stop(other, StopReason::Lost(attempt));
            }
        }
        self.take_out(attempt);
    }

    /// The group says that a job is over.
    fn end_job(&mut self, id: JobId, status: JobStatus) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let attempts: Vec<_> = job.attempts.values().flatten().copied().collect();
        for attempt in attempts {
            self.stop(attempt, StopReason::JobOver);
        }
        self.jobs.remove(&id);
        self.fresh_work = true;
        self.effects.push(Effect::JobEnded { job: id, status });
    }

    fn tell(&mut self, to: Incarnation, job: JobId, attempt: AttemptId, outcome: Outcome) {
        self.effects.push(Effect::Tell {
            to,
            job,
            attempt,
            outcome,
        });
    }

    /// An attempt is given up: it stops, or, if it has finished, its files go.
    fn stop(&mut self, attempt: AttemptId, reason: StopReason) {
        let Some(given_up) = self.take_out(attempt) else {
            return;
        };
        let (to, job) = (given_up.worker, given_up.job);
        match (given_up.finished, reason) {
            (true, StopReason::Lost(winner)) => self.tell(to, job, attempt, Outcome::Lost(winner)),
            (true, _) => self.tell(to, job, attempt, Outcome::Fenced),
            (false, reason) => self.effects.push(Effect::Stop {
                to,
                job,
                attempt,
                reason,
            }),
        }
    }

    /// Enters an attempt at a worker.
    fn put_in(&mut self, id: AttemptId, attempt: Attempt) {
        let Some(job) = self.jobs.get_mut(&attempt.job) else {
            return;
        };
        job.enter(attempt.task, id, attempt.started);
        self.backups += u32::from(attempt.backup);
        self.workers
            .change(attempt.worker, |worker| worker.running.insert(id));
        self.attempts.insert(id, attempt);
    }

    /// Takes an attempt out; its task waits if nobody else works on it.
    fn take_out(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        self.backups -= u32::from(attempt.backup);
        self.vacate(attempt.worker, id);
        if let Some(job) = self.jobs.get_mut(&attempt.job) {
            job.leave(attempt.task, id, attempt.started);
            if job.is_waiting(attempt.task) {
                job.queue(attempt.task);
                self.fresh_work = true;
            }
        }
        Some(attempt)
    }

    /// The slot of an attempt is free.
    fn vacate(&mut self, incarnation: Incarnation, attempt: AttemptId) {
        let freed = self
            .workers
            .change(incarnation, |worker| worker.running.remove(&attempt));
        if freed == Some(true) {
            self.make_eager(incarnation);
        }
    }

    fn make_eager(&mut self, incarnation: Incarnation) {
        if let Some(worker) = self.workers.get(incarnation) {
            let used = u32::try_from(worker.running.len()).unwrap_or(u32::MAX);
            self.eager.insert((used, incarnation));
        }
    }

    /// Batches that are due.
    fn write(&mut self) {
        for (id, job) in &mut self.jobs {
            if job.writer.is_idle() {
                continue;
            }
            let running = job.running(Phase::Map) + job.running(Phase::Reduce);
            let header = job.ending.then_some(&job.header);
            let due = job
                .writer
                .due(&job.state, header, running, self.now, &self.settings);
            if let Some(flight) = due {
                self.effects.push(Effect::Append {
                    job: *id,
                    sequence: flight.sequence,
                    batch: flight.batch.clone(),
                    header: flight.header.clone(),
                });
            }
        }
    }

    /// Jobs that run.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.keys().copied()
    }

    /// How far a job is.
    pub fn view(&self, job: JobId) -> Option<JobView> {
        let job = self.jobs.get(&job)?;
        let phase = |phase| PhaseView {
            count: job.state.count(phase),
            won: job.state.won(phase),
            busy: *job.busy.of(phase),
            waiting: job.waiting(phase),
        };
        Some(JobView {
            maps: phase(Phase::Map),
            reduces: phase(Phase::Reduce),
            records: job.state.records(),
            written: job.writer.written,
        })
    }

    /// The fold of a job's log, with what is proposed and not yet recorded.
    pub fn state(&self, job: JobId) -> Option<&JobState> {
        Some(&self.jobs.get(&job)?.state)
    }

    /// What runs, with bytes and records read so far.
    pub fn running(&self) -> impl Iterator<Item = (AttemptId, JobId, TaskId, u64, u64)> {
        let running = self
            .attempts
            .iter()
            .filter(|(_, attempt)| !attempt.finished);
        running.map(|(id, it)| (*id, it.job, it.task, it.bytes, it.records))
    }

    /// Bytes in memory, about.
    pub fn memory_bytes(&self) -> usize {
        let jobs = self.jobs.values().map(Job::memory_bytes).sum::<usize>();
        let workers = self.workers.iter().count() * 400;
        jobs + workers + self.attempts.len() * 160
    }

    /// Everything that must hold, by counting anew: for tests.
    pub fn check(&self) {
        self.workers.check();
        for job in self.jobs.values() {
            job.check();
        }
        let backups = self
            .attempts
            .values()
            .filter(|attempt| attempt.backup)
            .count();
        assert_eq!(backups, self.backups as usize, "backup attempts");
        for (id, attempt) in &self.attempts {
            let worker = self.workers.get(attempt.worker);
            let runs = worker.is_some_and(|worker| worker.running.contains(id));
            assert_eq!(runs, !attempt.finished, "attempt {id} and its worker");
        }
    }
}

#[cfg(test)]
#[path = "master_tests.rs"]
mod tests;
