//! The group: linearizable, with leases that end by its own clock, and conditional appends. What is
//! written is bytes, which are decoded and folded at once: a log that does not hold is found there.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use super::defect::Defect;
use super::plan::TTL;
use crate::job::JobState;
use crate::master::event::{JobImage, Refusal, WorkerInfo};
use crate::names::{AttemptId, Epoch, Incarnation, JobId, Phase, TaskId, WorkerName};
use crate::record::{Batch, Header, JobStatus, Record, RevokeReason};

/// A job in the group.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) header: Vec<u8>,
    pub(super) spec: Vec<u8>,
    pub(super) splits: Vec<Vec<u8>>,
    pub(super) log: Vec<Vec<u8>>,
    pub(super) state: JobState,
}

impl Stored {
    pub(super) fn status(&self) -> JobStatus {
        Header::decode(&self.header).expect("our own").status
    }

    pub(super) fn image(&self, job: JobId) -> JobImage {
        JobImage::read(job, &self.header, &self.spec, &self.splits, &self.log).expect("our own")
    }
}

/// What is read from it at a moment.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) revision: u64,
    pub(super) role: Option<(usize, Epoch)>,
    pub(super) workers: Vec<WorkerInfo>,
    pub(super) jobs: BTreeMap<JobId, Rc<Stored>>,
}

#[derive(Debug)]
pub(super) struct Store {
    revision: u64,
    role: Option<(usize, Epoch, Duration)>,
    workers: BTreeMap<WorkerName, (WorkerInfo, Duration)>,
    pub(super) jobs: BTreeMap<JobId, Rc<Stored>>,
    /// When each attempt that ever won was recorded, and revoked.
    pub(super) wins: BTreeMap<(JobId, TaskId, AttemptId), (Duration, Option<Duration>)>,
    /// Since when there is no worker, and the longest time of that.
    empty_since: Option<Duration>,
    pub(super) empty_longest: Duration,
    pub(super) batches: u64,
    defect: Option<Defect>,
}

impl Store {
    pub(super) fn new(defect: Option<Defect>) -> Self {
        Self {
            revision: 10,
            role: None,
            workers: BTreeMap::new(),
            jobs: BTreeMap::new(),
            wins: BTreeMap::new(),
            empty_since: Some(Duration::ZERO),
            empty_longest: Duration::ZERO,
            batches: 0,
            defect,
        }
    }

    /// Leases that have ended by now are gone.
    pub(super) fn expire(&mut self, now: Duration) {
        if self.role.is_some_and(|(_, _, until)| until < now) {
            self.role = None;
            self.revision += 1;
        }
        let before = self.workers.len();
        self.workers.retain(|_, (_, until)| *until >= now);
        self.revision += u64::from(self.workers.len() < before);
        if self.workers.is_empty() {
            let since = *self.empty_since.get_or_insert(now);
            self.empty_longest = self.empty_longest.max(now.saturating_sub(since));
        } else {
            self.empty_since = None;
        }
    }

    pub(super) fn view(&self) -> View {
        View {
            revision: self.revision,
            role: self.role.map(|(holder, epoch, _)| (holder, epoch)),
            workers: self
                .workers
                .values()
                .map(|(info, _)| info.clone())
                .collect(),
            jobs: self.jobs.clone(),
        }
    }

    /// The role, if nobody has it, or to the one that has it at this epoch.
    pub(super) fn campaign(&mut self, who: usize, holds: Option<Epoch>, now: Duration) -> bool {
        match &mut self.role {
            None if holds.is_none() => {
                self.revision += 1;
                self.role = Some((who, Epoch(self.revision), now + TTL));
                true
            }
            Some((holder, epoch, until)) if *holder == who && Some(*epoch) == holds => {
                *until = now + TTL;
                true
            }
            _ => false,
        }
    }

    pub(super) fn register(&mut self, mut info: WorkerInfo, now: Duration) -> Incarnation {
        self.revision += 1;
        info.incarnation = Incarnation(self.revision);
        let incarnation = info.incarnation;
        self.workers.insert(info.name.clone(), (info, now + TTL));
        incarnation
    }

    pub(super) fn is_member(&self, incarnation: Incarnation) -> bool {
        self.workers
            .values()
            .any(|(info, _)| info.incarnation == incarnation)
    }

    pub(super) fn keep_alive(&mut self, incarnation: Incarnation, now: Duration) -> bool {
        let mut workers = self.workers.values_mut();
        let found = workers.find(|(info, _)| info.incarnation == incarnation);
        let Some((_, until)) = found else {
            return false;
        };
        *until = now + TTL;
        true
    }

    pub(super) fn submit(&mut self, header: Header, spec: Vec<u8>, splits: Vec<Vec<u8>>) -> JobId {
        self.revision += 1;
        let stored = Stored {
            state: JobState::new(header.maps, header.reduces),
            header: header.encode(),
            spec,
            splits,
            log: Vec::new(),
        };
        let job = JobId(self.revision);
        self.jobs.insert(job, Rc::new(stored));
        job
    }

    pub(super) fn cancel(&mut self, job: JobId) -> bool {
        let stored = Rc::make_mut(self.jobs.get_mut(&job).expect("it was submitted"));
        let mut header = Header::decode(&stored.header).expect("our own");
        if header.status != JobStatus::Running {
            return false;
        }
        self.revision += 1;
        header.status = JobStatus::Cancelled;
        stored.header = header.encode();
        true
    }

    /// The transaction of a batch. An error is a violation of what the log promises.
    pub(super) fn append(
        &mut self,
        job: JobId,
        sequence: u64,
        bytes: &[u8],
        header: Option<&[u8]>,
        now: Duration,
    ) -> Result<Result<(), Refusal>, String> {
        let batch = Batch::decode(bytes).map_err(|error| format!("a batch: {error}"))?;
        let stored = self.jobs.get_mut(&job).ok_or("a batch for no job")?;
        let at = usize::try_from(sequence).map_err(|error| error.to_string())?;
        if let Some(present) = at.checked_sub(1).and_then(|at| stored.log.get(at)) {
            let present = Batch::decode(present).expect("our own");
            return Ok(Err(Refusal::Present(Box::new(present))));
        }
        let granted = self.role.is_some_and(|(_, epoch, _)| epoch == batch.epoch);
        if !granted && self.defect != Some(Defect::EpochNotChecked) {
            return Ok(Err(Refusal::Epoch));
        }
        if stored.status() != JobStatus::Running {
            return Ok(Err(Refusal::NotRunning));
        }
        if !granted {
            return Err(format!(
                "{job} takes a batch of {}, which is not granted",
                batch.epoch
            ));
        }
        let maps = (0..stored.state.count(Phase::Map)).map(TaskId::map);
        let winner = |task| Some((task, stored.state.winner(task)?.incarnation));
        let winners: BTreeMap<_, _> = maps.filter_map(winner).collect();
        let workers = self.workers.values().map(|(info, _)| info.incarnation);
        let workers: BTreeSet<_> = workers.collect();
        let stored = Rc::make_mut(stored);
        let folded = stored.state.apply(sequence, &batch);
        folded.map_err(|error| format!("{job}, batch {sequence}: {error}"))?;
        stored.state.check();
        stored.log.push(bytes.to_vec());
        if let Some(header) = header {
            stored.header = header.to_vec();
            let says = stored.status();
            if says != *stored.state.status() {
                return Err(format!(
                    "{job}: header {says:?}, log {:?}",
                    stored.state.status()
                ));
            }
        } else if *stored.state.status() != JobStatus::Running {
            return Err(format!("{job} has ended without its header"));
        }
        for record in &batch.records {
            if let Record::Won(won) = record {
                self.wins.insert((job, won.task, won.attempt), (now, None));
            }
            if let Record::Revoked {
                task,
                attempt,
                reason: RevokeReason::WorkerLost,
            } = record
                && let Some(winner) = winners.get(task)
                && workers.contains(winner)
            {
                return Err(format!(
                    "{job}: {attempt} of {task} is lost, {winner} is there"
                ));
            }
            if let Record::Revoked { task, attempt, .. } = record
                && let Some((_, until)) = self.wins.get_mut(&(job, *task, *attempt))
            {
                *until = Some(now);
            }
        }
        self.revision += 1;
        self.batches += 1;
        Ok(Ok(()))
    }
}
