//! What all processes of a simulation stand on: the group, the place where outputs go, and the
//! checks that look at both from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use super::defect::Defect;
use super::plan::{FRESH, Plan, WAY_MAX};
use super::rng::Rng;
use super::store::{Store, View};
use super::work;
use crate::master::event::{Effect, Refusal, Report, WorkerInfo};
use crate::names::{AttemptId, Epoch, Incarnation, JobId, Phase, TaskId};
use crate::record::{FailureClass, JobFailureKind, JobStatus};

/// A process: masters first, then workers, then the group.
pub(super) type Node = usize;

/// A part of a map's output that a reduce wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) job: JobId,
    pub(super) map: u32,
    pub(super) attempt: AttemptId,
    pub(super) holder: Incarnation,
    pub(super) reduce: u32,
    pub(super) reader: AttemptId,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Campaign(Option<Epoch>),
    Look,
    Role {
        granted: bool,
        view: Rc<View>,
    },
    View(Rc<View>),
    Append {
        job: JobId,
        sequence: u64,
        bytes: Rc<Vec<u8>>,
        header: Option<Vec<u8>>,
    },
    Appended {
        job: JobId,
        sequence: u64,
        result: Result<(), Refusal>,
    },
    Register(WorkerInfo),
    Registered(Incarnation),
    Poll {
        incarnation: Incarnation,
        sent: Duration,
    },
    Polled {
        incarnation: Incarnation,
        sent: Duration,
        alive: bool,
        view: Rc<View>,
    },
    Order {
        epoch: Epoch,
        to: Incarnation,
        effect: Box<Effect>,
    },
    Report(Box<Report>),
    Fetch(Fetch),
    Part(Fetch, Option<(u64, u64)>),
}

/// A check that failed.
pub(super) type Violation = String;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) defect: Option<Defect>,
    pub(super) now: Duration,
    pub(super) store: Store,
    pub(super) outbox: Vec<(Node, Message)>,
    /// Which job of the plan it is.
    pub(super) jobs: BTreeMap<JobId, usize>,
    files: BTreeMap<(JobId, TaskId, AttemptId), u64>,
    published: BTreeMap<(JobId, TaskId), (AttemptId, u64)>,
    begun: BTreeSet<AttemptId>,
    assigned: BTreeSet<AttemptId>,
    /// Failures of each task for a reason that passes.
    passing: BTreeMap<(JobId, TaskId), u32>,
    pub(super) losers_words: u64,
    pub(super) events: BTreeMap<&'static str, u64>,
    pub(super) trace: Option<Vec<String>>,
}

impl Shared {
    pub(super) fn new(seed: u64, plan: Plan, defect: Option<Defect>) -> Self {
        Self {
            plan,
            rng: Rng::new(seed ^ 0x5EED),
            defect,
            now: Duration::ZERO,
            store: Store::new(defect),
            outbox: Vec::new(),
            jobs: BTreeMap::new(),
            files: BTreeMap::new(),
            published: BTreeMap::new(),
            begun: BTreeSet::new(),
            assigned: BTreeSet::new(),
            passing: BTreeMap::new(),
            losers_words: 0,
            events: BTreeMap::new(),
            trace: None,
        }
    }

    pub(super) fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.events.entry(what).or_default() += 1;
    }

    pub(super) fn send(&mut self, to: Node, message: Message) {
        self.outbox.push((to, message));
    }

    pub(super) fn group(&self) -> Node {
        self.plan.masters + self.plan.slots.len()
    }

    /// How an attempt that begins now will fail, if it will.
    pub(super) fn fate(
        &mut self,
        job: JobId,
        task: TaskId,
        skip: &[(u64, u64)],
    ) -> Option<(FailureClass, Option<u64>)> {
        let plan = &self.plan.jobs[*self.jobs.get(&job)?];
        let is = |map: Option<u32>| task.phase == Phase::Map && map == Some(task.index);
        if is(plan.poisoned) {
            return Some((FailureClass::UserCode, None));
        }
        if is(plan.bad_record) && !skip.iter().any(|(first, _)| *first == work::BAD_POSITION) {
            return Some((FailureClass::BadRecord, Some(work::BAD_POSITION)));
        }
        let failed = self.passing.entry((job, task)).or_default();
        if *failed >= 1 || !self.rng.chance(self.plan.failing) {
            return None;
        }
        *failed += 1;
        let classes = [
            FailureClass::UserCode,
            FailureClass::DiskFull,
            FailureClass::IoRetryable,
        ];
        let class = classes[self.rng.between(0, 2) as usize];
        Some((class, None))
    }

    /// An attempt begins: it never has before.
    pub(super) fn begins(&mut self, attempt: AttemptId) -> Result<(), Violation> {
        self.count("attempts");
        if self.begun.insert(attempt) {
            return Ok(());
        }
        Err(format!("attempt {attempt} begins a second time"))
    }

    /// A master assigns an attempt: never of a task of the last phase that has been won.
    pub(super) fn assigns(
        &mut self,
        epoch: Epoch,
        job: JobId,
        task: TaskId,
        attempt: AttemptId,
    ) -> Result<(), Violation> {
        let is_new = self.assigned.insert(attempt);
        let is_current = self
            .store
            .view()
            .role
            .is_some_and(|(_, current)| current == epoch);
        let state = self.store.jobs.get(&job).map(|stored| &stored.state);
        let is_last = state.is_some_and(|state| state.last_phase() == task.phase);
        let won = state
            .and_then(|state| state.winner(task))
            .map(|winner| winner.attempt);
        match won {
            Some(winner) if is_new && is_current && is_last => Err(format!(
                "{task} of {job} is won by {winner} and is run again as {attempt}"
            )),
            _ => Ok(()),
        }
    }

    /// An attempt has finished its file.
    pub(super) fn writes(&mut self, job: JobId, task: TaskId, attempt: AttemptId, value: u64) {
        self.files.insert((job, task, attempt), value);
    }

    /// An attempt's file becomes the job's output.
    pub(super) fn publish(
        &mut self,
        job: JobId,
        task: TaskId,
        attempt: AttemptId,
    ) -> Result<(), Violation> {
        let winner = self
            .store
            .jobs
            .get(&job)
            .and_then(|stored| stored.state.winner(task));
        if winner.map(|winner| winner.attempt) != Some(attempt) {
            return Err(format!(
                "{task} of {job}: {attempt} is published, and has not won"
            ));
        }
        let file = self.files.get(&(job, task, attempt));
        let value = *file.ok_or(format!("{attempt} of {job} has won without a file"))?;
        let before = self.published.insert((job, task), (attempt, value));
        match before {
            Some(before) if before != (attempt, value) => {
                Err(format!("{task} of {job}: the published output changes"))
            }
            _ => Ok(()),
        }
    }

    /// A worker hears that an attempt has won: the group has it, or has had it.
    pub(super) fn hears_won(&self, job: JobId, attempt: AttemptId) -> Result<(), Violation> {
        let mut wins = self.store.wins.keys();
        if wins.any(|(of, _, winner)| (*of, *winner) == (job, attempt)) {
            return Ok(());
        }
        Err(format!(
            "{attempt} of {job} is told that it has won, and the group does not have it"
        ))
    }

    /// A worker serves a part: it is a member, and the attempt is a winner, or was lately.
    pub(super) fn serves(&mut self, fetch: &Fetch) -> Result<(), Violation> {
        self.count("parts served");
        if !self.store.is_member(fetch.holder) {
            return Err(format!("{} serves and is no member", fetch.holder));
        }
        let key = (fetch.job, TaskId::map(fetch.map), fetch.attempt);
        match self.store.wins.get(&key) {
            Some((_, None)) => Ok(()),
            Some((_, Some(until))) if self.now <= *until + FRESH * 11 / 10 + WAY_MAX => Ok(()),
            _ => Err(format!("{} is served, and is no winner", fetch.attempt)),
        }
    }

    /// All jobs have ended, and what they have put out is where it belongs.
    pub(super) fn is_over(&self) -> bool {
        self.jobs.len() == self.plan.jobs.len()
            && self
                .store
                .jobs
                .iter()
                .all(|(id, stored)| match stored.status() {
                    JobStatus::Running => false,
                    JobStatus::Failed(_) | JobStatus::Cancelled => true,
                    JobStatus::Done => {
                        let phase = stored.state.last_phase();
                        let mut tasks =
                            (0..stored.state.count(phase)).map(|index| TaskId { phase, index });
                        tasks.all(|task| self.published.contains_key(&(*id, task)))
                    }
                })
    }

    /// What came of each job is what had to come of it.
    pub(super) fn judge(&mut self) -> Result<(), Violation> {
        let ids: Vec<_> = self.jobs.keys().copied().collect();
        for id in ids {
            match self.store.jobs[&id].status() {
                JobStatus::Running => return Err(format!("{id} still runs")),
                JobStatus::Cancelled => self.count("jobs cancelled"),
                JobStatus::Done => {
                    self.judge_done(id)?;
                    self.count("jobs done");
                }
                JobStatus::Failed(failure) => {
                    self.judge_failed(id, failure.kind, failure.task)
                        .map_err(|why| format!("{id} failed ({failure}): {why}"))?;
                    self.count("jobs failed");
                    self.count(match failure.kind {
                        JobFailureKind::AttemptsExhausted => "failed: attempts",
                        JobFailureKind::NoWorkers => "failed: no workers",
                        JobFailureKind::NonDeterministic => "failed: not deterministic",
                        JobFailureKind::IoFatal | JobFailureKind::OutputLost => "failed: other",
                    });
                }
            }
            self.judge_size(id)?;
        }
        Ok(())
    }

    fn judge_failed(
        &self,
        id: JobId,
        kind: JobFailureKind,
        task: Option<TaskId>,
    ) -> Result<(), Violation> {
        let plan = &self.plan.jobs[self.jobs[&id]];
        let map = |map: Option<u32>| map.map(TaskId::map);
        let right = match kind {
            JobFailureKind::AttemptsExhausted => {
                let unskipped = plan.bad_record.filter(|_| plan.skipped_max == 0);
                task.is_some() && (task == map(plan.poisoned) || task == map(unskipped))
            }
            JobFailureKind::NoWorkers => {
                self.store.empty_longest >= self.plan.settings.no_workers_grace / 10 * 9
            }
            JobFailureKind::NonDeterministic => plan.random,
            JobFailureKind::IoFatal | JobFailureKind::OutputLost => false,
        };
        if right {
            Ok(())
        } else {
            Err("and should not have".to_owned())
        }
    }

    fn judge_done(&self, id: JobId) -> Result<(), Violation> {
        let (index, stored) = (self.jobs[&id], &self.store.jobs[&id]);
        let plan = &self.plan.jobs[index];
        if plan.poisoned.is_some() {
            return Err(format!("{id} is done, and a map of it cannot be"));
        }
        let state = &stored.state;
        let salts: Vec<_> = (0..plan.maps).map(|map| self.last_salt(id, map)).collect();
        let phase = state.last_phase();
        for task in (0..state.count(phase)).map(|index| TaskId { phase, index }) {
            let expected = work::expected(index as u64, plan, &salts, task).content;
            let found = self.published.get(&(id, task)).map(|(_, value)| *value);
            if found != Some(expected) {
                return Err(format!("{task} of {id}: {found:?} is not {expected}"));
            }
        }
        let maps = (0..plan.maps).map(|map| work::map(index as u64, plan, map, 0));
        let words = maps
            .clone()
            .map(|result| u128::from(result.words))
            .sum::<u128>();
        let read = maps
            .map(|result| u128::from(result.builtin[0]))
            .sum::<u128>();
        let read = read + u128::from(plan.maps) * u128::from(plan.reduces);
        let count = |name| {
            state
                .counters()
                .find(|(it, _)| *it == name)
                .map_or(0, |(_, it)| it)
        };
        let counted = count("words") + u128::from(self.losers_words);
        let found = (counted, count("records_in"));
        if found != (words, read) {
            return Err(format!(
                "{id} counts {found:?}, expected {:?}",
                (words, read)
            ));
        }
        Ok(())
    }

    /// Of the last attempt of a map that won: what the reduces have read.
    fn last_salt(&self, id: JobId, map: u32) -> u64 {
        let plan = &self.plan.jobs[self.jobs[&id]];
        let task = TaskId::map(map);
        let wins = self
            .store
            .wins
            .iter()
            .filter(|((job, of, _), _)| (*job, *of) == (id, task));
        let last = wins.max_by_key(|(_, (at, _))| *at);
        last.map_or(0, |((_, _, attempt), _)| work::salt(plan, *attempt))
    }

    /// The log has O(M + R) records, and as many as were revoked.
    fn judge_size(&mut self, id: JobId) -> Result<(), Violation> {
        let plan = &self.plan.jobs[self.jobs[&id]];
        let of_job = self.store.wins.iter().filter(|((job, _, _), _)| *job == id);
        let revoked = of_job.filter(|(_, (_, until))| until.is_some()).count() as u64;
        let tasks = u64::from(plan.maps + plan.reduces);
        let records = self.store.jobs[&id].state.records();
        // Won and revoked; one passing failure a task, and those of the two special maps.
        if records > 2 * tasks + 2 * revoked + 12 {
            return Err(format!(
                "{records} records for {tasks} tasks and {revoked} revocations"
            ));
        }
        *self.events.entry("maps revoked").or_default() += revoked;
        Ok(())
    }
}
