//! The fold of a job's log: who won what. The only source of truth about a job; a master that takes
//! over begins with it, and every reader of the log comes to the same.
//!
//! ```text
//!            Won(attempt)                        Done: all tasks of the last phase are won
//!   open ───────────────────▶ won               JobFailed: nothing follows
//!    ▲                         │ Revoked: maps only, only the winner itself
//!    └─────────────────────────┘
//! ```
//!
//! Invariants
//! - a task has one winner at most; that of the last phase is for ever;
//! - an attempt that was revoked never wins again;
//! - every counter is summed over the last winner of each task, so nothing counts twice;
//! - all reduces that won have read the same content of every map.

use std::collections::BTreeMap;

use crate::limits::{ATTEMPTS_MAX, COUNTERS_MAX, SKIPPED_MAX};
use crate::names::{AttemptId, Epoch, Incarnation, Phase, TaskId, mix};
use crate::record::{
    BUILTIN_COUNT, BUILTIN_NAMES, Batch, Counters, FailureClass, JobFailure, JobStatus, Output,
    Record, TaskWon,
};

/// The winner of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Winner {
    /// Which attempt.
    pub attempt: AttemptId,
    /// The life of the worker that ran it.
    pub incarnation: Incarnation,
    /// Order-independent checksum of its output.
    pub content: u64,
    /// Bytes and checksum of the main output.
    pub main: (u64, u64),
    builtin: [u64; BUILTIN_COUNT],
    /// Side files and counters of the job's code, which most have not.
    more: Option<Box<More>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    sides: Vec<Output>,
    user: Vec<(u32, u64)>,
}

impl Winner {
    fn new(won: &TaskWon) -> Self {
        let main = won
            .outputs
            .first()
            .map_or((0, 0), |main| (main.length, main.checksum));
        let sides: Vec<_> = won.outputs.iter().skip(1).cloned().collect();
        let user = won.counters.user.clone();
        let is_plain = sides.is_empty() && user.is_empty();
        Self {
            attempt: won.attempt,
            incarnation: won.incarnation,
            content: won.content,
            main,
            builtin: won.counters.builtin,
            more: (!is_plain).then(|| Box::new(More { sides, user })),
        }
    }

    /// Bytes beside the winner itself, about.
    fn more_bytes(&self) -> usize {
        self.more.as_ref().map_or(0, |more| {
            let sides = more.sides.capacity() * size_of::<Output>();
            size_of::<More>() + sides + more.user.capacity() * size_of::<(u32, u64)>()
        })
    }

    /// Its side files.
    pub fn sides(&self) -> &[Output] {
        self.more.as_ref().map_or(&[], |more| &more.sides)
    }

    /// What it counted.
    pub fn counters(&self) -> Counters {
        Counters {
            builtin: self.builtin,
            user: self.user().to_vec(),
        }
    }

    fn user(&self) -> &[(u32, u64)] {
        self.more.as_ref().map_or(&[], |more| &more.user)
    }
}

/// What went wrong with a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Failures that count, less those that were made good by skipping their record.
    pub failures: u32,
    /// How often a record made an attempt crash.
    pub crashes: BTreeMap<u64, u32>,
    /// Records that are left out: where runs of them begin, and how long they are.
    pub skipped: BTreeMap<u64, u64>,
    /// Attempts that won and were revoked.
    pub revoked: Vec<AttemptId>,
}

/// A batch or record that does not fit what came before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// Not the next one.
    #[error("batch {found} does not follow batch {last}")]
    Sequence {
        /// Its number.
        found: u64,
        /// The number of the last one.
        last: u64,
    },
    /// Written by a master that was not the latest.
    #[error("a batch of epoch {found} follows one of {last}")]
    Epoch {
        /// Its epoch.
        found: Epoch,
        /// The epoch of the last one.
        last: Epoch,
    },
    /// Something follows the end of the job.
    #[error("a record follows the end of the job")]
    Ended,
    /// A task that the job has not.
    #[error("the job has no task {task}")]
    NoTask {
        /// Which.
        task: TaskId,
    },
    /// A second winner.
    #[error("{task} is won by {winner}, and {attempt} wins it as well")]
    SecondWinner {
        /// Which task.
        task: TaskId,
        /// Who won.
        winner: AttemptId,
        /// Who is said to have won.
        attempt: AttemptId,
    },
    /// A winner that was revoked, or is of a later epoch than the batch.
    #[error("{attempt} cannot win {task}: it was revoked, or is of a later epoch")]
    CannotWin {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// A revocation of something else than a map's winner.
    #[error("{attempt} is not a winner of {task} that can be revoked")]
    CannotRevoke {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// A reduce that read something else than what the maps' winners have.
    #[error("{task} has read other map outputs than those that won")]
    Inputs {
        /// Which task.
        task: TaskId,
    },
    /// A map that changed what reduces have already used.
    #[error("{task} gave another content than before, and a reduce has won")]
    Content {
        /// Which task.
        task: TaskId,
    },
    /// A counter without a name, or a name out of turn.
    #[error("counter {id} has no name, or its name comes out of turn")]
    Counter {
        /// Which.
        id: u32,
    },
    /// More failures or skipped records than a job may have.
    #[error("{task} has more failures or skipped records than a task can have")]
    Troubles {
        /// Which task.
        task: TaskId,
    },
    /// An end that is none: tasks have no winner.
    #[error("the job is said to be done, and {open} tasks are not")]
    NotDone {
        /// Tasks without a winner.
        open: u32,
    },
}

/// What a reduce has read: the same for any order and any attempts with the same content.
pub fn inputs_digest(contents: impl IntoIterator<Item = (u32, u64)>) -> u64 {
    contents.into_iter().fold(0, |sum, (map, content)| {
        sum.wrapping_add(input_digest(map, content))
    })
}

fn input_digest(map: u32, content: u64) -> u64 {
    mix(u64::from(map) + 1, content)
}

/// The content of every map, as the last winner of each has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    by_map: Vec<Option<u64>>,
    known: u32,
    digest: u64,
}

impl Contents {
    /// Nothing is known of `maps` maps.
    pub fn new(maps: u32) -> Self {
        Self {
            by_map: vec![None; maps as usize],
            known: 0,
            digest: 0,
        }
    }

    /// Whether `map` would change what is known of it.
    pub fn changes(&self, map: u32, content: u64) -> bool {
        self.get(map).is_some_and(|known| known != content)
    }

    fn get(&self, map: u32) -> Option<u64> {
        self.by_map.get(map as usize).copied().flatten()
    }

    /// `map` has this content; a map that is not there is left out.
    pub fn set(&mut self, map: u32, content: u64) {
        let Some(slot) = self.by_map.get_mut(map as usize) else {
            return;
        };
        match slot.replace(content) {
            Some(before) => self.digest = self.digest.wrapping_sub(input_digest(map, before)),
            None => self.known += 1,
        }
        self.digest = self.digest.wrapping_add(input_digest(map, content));
    }

    /// Whether a reduce that read this has read every map as it is known.
    pub fn matches(&self, inputs: u64) -> bool {
        self.known as usize == self.by_map.len() && self.digest == inputs
    }
}

/// Sums over the last winner of each task. Wide enough for as many tasks as there can be, so that
/// what another attempt counts can replace them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    builtin: [u128; BUILTIN_COUNT],
    user: Vec<u128>,
}

impl Totals {
    fn change(&mut self, winner: &Winner, by: fn(u128, u128) -> u128) {
        for (total, value) in self.builtin.iter_mut().zip(winner.builtin) {
            *total = by(*total, u128::from(value));
        }
        for (id, value) in winner.user() {
            if let Some(total) = self.user.get_mut(*id as usize) {
                *total = by(*total, u128::from(*value));
            }
        }
    }
}

/// Who won what in a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobState {
    status: JobStatus,
    sequence: u64,
    epoch: Epoch,
    maps: Vec<Option<Winner>>,
    reduces: Vec<Option<Winner>>,
    won: (u32, u32),
    contents: Contents,
    /// Winners of maps that were revoked and have no other yet: what they counted still counts,
    /// because a job may end with what reduces had read of them.
    former: BTreeMap<u32, Winner>,
    counter_names: Vec<String>,
    totals: Totals,
    troubles: BTreeMap<TaskId, Troubles>,
    skipped: u64,
    /// Maps in the order in which their winners changed: readers follow it by its length.
    changes: Vec<u32>,
    records: u64,
    /// See [`Winner::more_bytes`], of all.
    more_bytes: usize,
}

impl JobState {
    /// Before the first batch, of a job with so many tasks.
    pub fn new(maps: u32, reduces: u32) -> Self {
        Self {
            status: JobStatus::Running,
            sequence: 0,
            epoch: Epoch(0),
            maps: vec![None; maps as usize],
            reduces: vec![None; reduces as usize],
            won: (0, 0),
            contents: Contents::new(maps),
            former: BTreeMap::new(),
            counter_names: Vec::new(),
            totals: Totals::default(),
            troubles: BTreeMap::new(),
            skipped: 0,
            changes: Vec::new(),
            records: 0,
            more_bytes: 0,
        }
    }

    /// Takes the next batch. After an error the state is of no use: the log is not one of ours.
    pub fn apply(&mut self, sequence: u64, batch: &Batch) -> Result<(), FoldError> {
        let last = self.sequence;
        if self.sequence.checked_add(1) != Some(sequence) {
            let found = sequence;
            return Err(FoldError::Sequence { found, last });
        }
        if batch.epoch < self.epoch {
            let (found, last) = (batch.epoch, self.epoch);
            return Err(FoldError::Epoch { found, last });
        }
        self.sequence = sequence;
        self.epoch = batch.epoch;
        batch
            .records
            .iter()
            .try_for_each(|record| self.record(record))
    }

    /// Takes one record that is to be written in this epoch, before it is in a batch.
    pub(crate) fn propose(&mut self, epoch: Epoch, record: &Record) -> Result<(), FoldError> {
        let last = self.epoch;
        if epoch < last {
            return Err(FoldError::Epoch { found: epoch, last });
        }
        self.epoch = epoch;
        self.record(record)
    }

    fn record(&mut self, record: &Record) -> Result<(), FoldError> {
        if self.status != JobStatus::Running {
            return Err(FoldError::Ended);
        }
        self.records += 1;
        match record {
            Record::Won(won) => self.task_won(won),
            Record::Revoked { task, attempt, .. } => self.revoked(*task, *attempt),
            Record::Failed {
                task,
                class,
                position,
                ..
            } => self.failed(*task, *class, *position),
            Record::Skipped { task, first, count } => self.skip(*task, *first, *count),
            Record::CounterName { id, name } => {
                if *id as usize != self.counter_names.len() || *id as usize >= COUNTERS_MAX {
                    return Err(FoldError::Counter { id: *id });
                }
                self.counter_names.push(name.clone());
                self.totals.user.push(0);
                Ok(())
            }
            Record::Done => match self.open() {
                0 => {
                    self.status = JobStatus::Done;
                    Ok(())
                }
                open => Err(FoldError::NotDone { open }),
            },
            Record::JobFailed(failure) => {
                self.status = JobStatus::Failed(failure.clone());
                Ok(())
            }
        }
    }

    fn slot(&mut self, task: TaskId) -> Result<&mut Option<Winner>, FoldError> {
        let tasks = match task.phase {
            Phase::Map => &mut self.maps,
            Phase::Reduce => &mut self.reduces,
        };
        let slot = tasks.get_mut(task.index as usize);
        slot.ok_or(FoldError::NoTask { task })
    }

    fn task_won(&mut self, won: &TaskWon) -> Result<(), FoldError> {
        let (task, attempt) = (won.task, won.attempt);
        if let Some(winner) = self.slot(task)? {
            let winner = winner.attempt;
            return Err(FoldError::SecondWinner {
                task,
                winner,
                attempt,
            });
        }
        let was_revoked = self
            .troubles
            .get(&task)
            .is_some_and(|it| it.revoked.contains(&attempt));
        if was_revoked || attempt.epoch > self.epoch {
            return Err(FoldError::CannotWin { task, attempt });
        }
        let ids = won.counters.user.iter().map(|(id, _)| *id);
        if let Some(id) = ids
            .into_iter()
            .find(|id| *id as usize >= self.counter_names.len())
        {
            return Err(FoldError::Counter { id });
        }
        match task.phase {
            Phase::Map => {
                if self.won.1 > 0 && self.contents.changes(task.index, won.content) {
                    return Err(FoldError::Content { task });
                }
                self.contents.set(task.index, won.content);
                self.changes.push(task.index);
                self.won.0 += 1;
                if let Some(former) = self.former.remove(&task.index) {
                    self.totals.change(&former, u128::saturating_sub);
                    self.more_bytes -= former.more_bytes();
                }
            }
            Phase::Reduce => {
                if !self.contents.matches(won.inputs) {
                    return Err(FoldError::Inputs { task });
                }
                self.won.1 += 1;
            }
        }
        let winner = Winner::new(won);
        self.totals.change(&winner, u128::saturating_add);
        self.more_bytes += winner.more_bytes();
        *self.slot(task)? = Some(winner);
        Ok(())
    }

    fn revoked(&mut self, task: TaskId, attempt: AttemptId) -> Result<(), FoldError> {
        let is_last = task.phase == Phase::Reduce || self.reduces.is_empty();
        let slot = self.slot(task)?;
        let taken = slot.take_if(|winner| winner.attempt == attempt && !is_last);
        let Some(winner) = taken else {
            return Err(FoldError::CannotRevoke { task, attempt });
        };
        self.former.insert(task.index, winner);
        self.won.0 -= 1;
        self.changes.push(task.index);
        self.troubles.entry(task).or_default().revoked.push(attempt);
        Ok(())
    }

    fn failed(
        &mut self,
        task: TaskId,
        class: FailureClass,
        position: Option<u64>,
    ) -> Result<(), FoldError> {
        self.slot(task)?;
        let troubles = self.troubles.entry(task).or_default();
        // Records that are skipped forgive two failures each, so this is not reached by masters.
        if troubles.failures > 2 * ATTEMPTS_MAX {
            return Err(FoldError::Troubles { task });
        }
        troubles.failures += 1;
        if let (FailureClass::BadRecord, Some(position)) = (class, position) {
            *troubles.crashes.entry(position).or_default() += 1;
        }
        Ok(())
    }

    fn skip(&mut self, task: TaskId, first: u64, count: u64) -> Result<(), FoldError> {
        self.slot(task)?;
        let end = first
            .checked_add(count)
            .ok_or(FoldError::Troubles { task })?;
        self.skipped = self.skipped.saturating_add(count);
        if count == 0 || self.skipped > u64::from(SKIPPED_MAX) {
            return Err(FoldError::Troubles { task });
        }
        let troubles = self.troubles.entry(task).or_default();
        for position in first..end {
            let crashes = troubles.crashes.remove(&position).unwrap_or(0);
            troubles.failures = troubles.failures.saturating_sub(crashes);
        }
        let longest = troubles.skipped.entry(first).or_default();
        *longest = (*longest).max(count);
        Ok(())
    }

    /// Whose side files, skipped records and counters are those of a task: its winner's or, when
    /// that was revoked and the job ended with what reduces had read of it, still that one's.
    pub fn counted(&self, task: TaskId) -> Option<&Winner> {
        let former = (task.phase == Phase::Map).then(|| self.former.get(&task.index));
        self.winner(task).or(former.flatten())
    }

    /// Whether the job goes on, as the log has it.
    pub fn status(&self) -> &JobStatus {
        &self.status
    }

    /// Number of the last batch; the first is 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Of the last batch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many tasks of a phase there are.
    pub fn count(&self, phase: Phase) -> u32 {
        let count = match phase {
            Phase::Map => self.maps.len(),
            Phase::Reduce => self.reduces.len(),
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How many tasks of a phase have a winner.
    pub fn won(&self, phase: Phase) -> u32 {
        match phase {
            Phase::Map => self.won.0,
            Phase::Reduce => self.won.1,
        }
    }

    /// The phase whose outputs are those of the job.
    pub fn last_phase(&self) -> Phase {
        if self.reduces.is_empty() {
            Phase::Map
        } else {
            Phase::Reduce
        }
    }

    /// Tasks of the last phase without a winner.
    pub fn open(&self) -> u32 {
        let last = self.last_phase();
        self.count(last) - self.won(last)
    }

    /// The winner of a task.
    pub fn winner(&self, task: TaskId) -> Option<&Winner> {
        let tasks = match task.phase {
            Phase::Map => &self.maps,
            Phase::Reduce => &self.reduces,
        };
        tasks.get(task.index as usize)?.as_ref()
    }

    /// What went wrong with a task.
    pub fn troubles(&self, task: TaskId) -> Option<&Troubles> {
        self.troubles.get(&task)
    }

    /// Failures of a task that count.
    pub fn failures(&self, task: TaskId) -> u32 {
        self.troubles(task).map_or(0, |troubles| troubles.failures)
    }

    /// Tasks with which something went wrong, in their order.
    pub fn troubled(&self) -> impl Iterator<Item = (TaskId, &Troubles)> {
        self.troubles
            .iter()
            .map(|(task, troubles)| (*task, troubles))
    }

    /// Records that are left out, in all tasks.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The content of the maps.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Maps in the order in which their winners changed.
    pub fn changes(&self) -> &[u32] {
        &self.changes
    }

    /// Names of the counters of the job's code, by number.
    pub fn counter_names(&self) -> &[String] {
        &self.counter_names
    }

    /// Every counter by name, summed over the last winner of each task.
    pub fn counters(&self) -> impl Iterator<Item = (&str, u128)> {
        let builtin = BUILTIN_NAMES.into_iter().zip(self.totals.builtin);
        let names = self.counter_names.iter().map(String::as_str);
        builtin.chain(names.zip(self.totals.user.iter().copied()))
    }

    /// The same of one phase, counted anew: for people, not for each event.
    pub fn phase_counters(&self, phase: Phase) -> Vec<(&str, u128)> {
        let (winners, former) = match phase {
            Phase::Map => (&self.maps, Some(&self.former)),
            Phase::Reduce => (&self.reduces, None),
        };
        let mut totals = Totals {
            user: vec![0; self.counter_names.len()],
            ..Totals::default()
        };
        let former = former.into_iter().flat_map(BTreeMap::values);
        for winner in winners.iter().flatten().chain(former) {
            totals.change(winner, u128::saturating_add);
        }
        let names = self.counter_names.iter().map(String::as_str);
        let names = BUILTIN_NAMES.into_iter().chain(names);
        names
            .zip(totals.builtin.into_iter().chain(totals.user))
            .collect()
    }

    /// Records so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&JobFailure> {
        match &self.status {
            JobStatus::Failed(failure) => Some(failure),
            JobStatus::Running | JobStatus::Done | JobStatus::Cancelled => None,
        }
    }

    /// Bytes in memory, about: without what the allocator adds.
    pub fn memory_bytes(&self) -> usize {
        let slots = (self.maps.capacity() + self.reduces.capacity()) * size_of::<Option<Winner>>();
        let contents = self.contents.by_map.capacity() * size_of::<Option<u64>>();
        let changes = self.changes.capacity() * 4;
        slots + contents + changes + self.troubles.len() * 160 + self.more_bytes
    }

    /// Everything that must hold, by counting anew: for tests.
    pub fn check(&self) {
        for phase in [Phase::Map, Phase::Reduce] {
            let tasks = (0..self.count(phase)).map(|index| TaskId { phase, index });
            let won = tasks.filter(|task| self.winner(*task).is_some()).count();
            assert_eq!(
                won,
                self.won(phase) as usize,
                "winners of the {phase} phase"
            );
        }
        let mut totals = Totals {
            user: vec![0; self.counter_names.len()],
            ..Totals::default()
        };
        let winners = self.maps.iter().chain(&self.reduces).flatten();
        let mut more_bytes = 0;
        for winner in winners.chain(self.former.values()) {
            totals.change(winner, u128::saturating_add);
            more_bytes += winner.more_bytes();
        }
        assert_eq!(more_bytes, self.more_bytes, "memory beside winners");
        assert_eq!(
            totals, self.totals,
            "counters are sums over the last winners"
        );
        for (index, winner) in (0..).zip(&self.maps) {
            if let Some(winner) = winner {
                assert_eq!(
                    self.contents.get(index),
                    Some(winner.content),
                    "content of map {index}"
                );
            }
        }
        if self.status == JobStatus::Done {
            assert_eq!(self.open(), 0, "a job that is done has all its outputs");
        }
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
