//! One job as its master sees it: what is won, with what has been proposed and is not yet recorded;
//! what runs; what waits.
//!
//! `state` is the fold of the log with everything that was proposed. So a record that does not fit
//! is never proposed, and what is told to others is held against `unconfirmed` first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Defect;
use super::event::{JobImage, Location, Locations};
use super::queue::MapQueue;
use super::runtimes::Runtimes;
use super::settings::Settings;
use super::writer::Writer;
use crate::job::{FoldError, JobState, Winner};
use crate::limits::LOCATIONS_MAX;
use crate::names::{AttemptId, Epoch, Incarnation, Phase, TaskId};
use crate::plan::SplitList;
use crate::record::{Header, JobFailure, JobFailureKind, JobStatus, Record, RevokeReason, bounded};
use crate::spec::JobOptions;

/// A value for each phase.
#[derive(Clone, Debug, Default)]
pub(super) struct Both<T> {
    pub(super) map: T,
    pub(super) reduce: T,
}

impl<T> Both<T> {
    pub(super) fn of(&self, phase: Phase) -> &T {
        match phase {
            Phase::Map => &self.map,
            Phase::Reduce => &self.reduce,
        }
    }

    pub(super) fn of_mut(&mut self, phase: Phase) -> &mut T {
        match phase {
            Phase::Map => &mut self.map,
            Phase::Reduce => &mut self.reduce,
        }
    }
}

/// Reduces that miss the output of a map.
#[derive(Clone, Debug)]
pub(super) struct Accusation {
    pub(super) attempt: AttemptId,
    pub(super) readers: BTreeSet<AttemptId>,
    pub(super) since: Duration,
    /// When it was last said.
    pub(super) last: Duration,
}

/// A map whose winner changes, by records that are not in the log yet.
#[derive(Clone, Debug)]
struct Unsettled {
    /// How many of them there are.
    changes: u32,
    /// What the log says.
    recorded: Option<Location>,
}

/// A job that runs.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) header: Header,
    pub(super) options: JobOptions,
    pub(super) splits: SplitList,
    pub(super) state: JobState,
    pub(super) writer: Writer,
    /// Attempts of each task that has some, whether they have finished or not.
    pub(super) attempts: BTreeMap<TaskId, Vec<AttemptId>>,
    /// Tasks without a winner that have attempts.
    pub(super) busy: Both<u32>,
    /// Attempts that have not finished, the oldest first.
    pub(super) started: Both<BTreeSet<(Duration, AttemptId)>>,
    pub(super) runtimes: Both<Runtimes>,
    pub(super) maps_waiting: MapQueue,
    pub(super) reduces_waiting: VecDeque<u32>,
    /// Tasks that run and shall have a second attempt.
    pub(super) backups_wanted: VecDeque<TaskId>,
    /// Map winners by the worker that has their output; also some that are none any more.
    pub(super) held: BTreeMap<Incarnation, Vec<u32>>,
    /// Where a task failed, and until when it does not go there.
    pub(super) avoid: BTreeMap<TaskId, (Incarnation, Duration)>,
    pub(super) accusations: BTreeMap<u32, Accusation>,
    unsettled: BTreeMap<u32, Unsettled>,
    /// Locations that are told as they are: see [`Job::locations`].
    sealed: Vec<Locations>,
    pub(super) output_losses: BTreeMap<u32, u32>,
    pub(super) counter_ids: BTreeMap<String, u32>,
    /// When the last map was won; none while some are open.
    pub(super) maps_done: Option<Duration>,
    /// A map has given something else than before.
    pub(super) contents_changed: bool,
    /// Its end is proposed.
    pub(super) ending: bool,
    pub(super) defect: Option<Defect>,
    /// Reduces that are run again by mistake: see [`Defect::WonReducesRunAgain`].
    pub(super) forgotten: BTreeSet<u32>,
}

impl Job {
    /// From what the group has of it.
    pub(super) fn new(image: JobImage, epoch: Epoch, now: Duration) -> Result<Self, FoldError> {
        let mut state = JobState::new(image.header.maps, image.header.reduces);
        for (sequence, batch) in (1..).zip(&image.log) {
            state.apply(sequence, batch)?;
        }
        let mut held = BTreeMap::<_, Vec<_>>::new();
        for map in 0..image.header.maps {
            if let Some(winner) = state.winner(TaskId::map(map)) {
                held.entry(winner.incarnation).or_default().push(map);
            }
        }
        let names = state.counter_names().iter().cloned().zip(0..).collect();
        let writer = Writer::new(epoch, &state);
        let runtimes = Both {
            map: Runtimes::new(),
            reduce: Runtimes::new(),
        };
        let mut job = Self {
            maps_waiting: MapQueue::new(&image.splits, now),
            reduces_waiting: (0..image.header.reduces).collect(),
            header: image.header,
            options: image.spec.options,
            splits: image.splits,
            state,
            writer,
            attempts: BTreeMap::new(),
            busy: Both::default(),
            started: Both::default(),
            runtimes,
            backups_wanted: VecDeque::new(),
            held,
            avoid: BTreeMap::new(),
            accusations: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            sealed: Vec::new(),
            output_losses: BTreeMap::new(),
            counter_ids: names,
            maps_done: None,
            contents_changed: false,
            ending: false,
            defect: None,
            forgotten: BTreeSet::new(),
        };
        job.progressed(now);
        Ok(job)
    }

    pub(super) fn has(&self, task: TaskId) -> bool {
        task.index < self.state.count(task.phase)
    }

    pub(super) fn is_won(&self, task: TaskId) -> bool {
        self.state.winner(task).is_some()
    }

    /// It is not won, and nobody works on it.
    pub(super) fn is_waiting(&self, task: TaskId) -> bool {
        !self.is_won(task) && !self.attempts.contains_key(&task)
    }

    /// Tasks of a phase that wait.
    pub(super) fn waiting(&self, phase: Phase) -> u32 {
        let not_waiting = self.state.won(phase) + self.busy.of(phase);
        self.state.count(phase).saturating_sub(not_waiting)
    }

    pub(super) fn maps_open(&self) -> bool {
        self.state.won(Phase::Map) < self.state.count(Phase::Map)
    }

    /// Attempts that have not finished.
    pub(super) fn running(&self, phase: Phase) -> u32 {
        u32::try_from(self.started.of(phase).len()).unwrap_or(u32::MAX)
    }

    /// Whether a reduce may start, of so many slots in all.
    pub(super) fn reduces_may_start(&self, slots: u32, settings: &Settings) -> bool {
        if !self.maps_open() {
            return true;
        }
        let maps = u64::from(self.state.count(Phase::Map));
        let won = u64::from(self.state.won(Phase::Map));
        let share = u64::from(self.options.slow_start_percent);
        if self.defect == Some(Defect::ReducesStarveMaps) {
            return won * 100 >= maps * share;
        }
        // Those that wait are given slots first, so a share of none is for when all maps run.
        let early = u64::from(slots) * u64::from(settings.early_reduce_percent) / 100;
        won * 100 >= maps * share && u64::from(self.running(Phase::Reduce)) < early
    }

    /// Whether the outputs of its maps are still of use.
    pub(super) fn needs_maps(&self) -> bool {
        !self.ending && self.state.last_phase() == Phase::Reduce && self.state.open() > 0
    }

    /// A record that fits is part of the state, and of the next batch.
    pub(super) fn propose(&mut self, record: Record, now: Duration) -> Result<(), FoldError> {
        if let Some((map, _)) = change(&record) {
            let recorded = self.location(map);
            let changes = 0;
            let new = Unsettled { changes, recorded };
            self.unsettled.entry(map).or_insert(new).changes += 1;
        }
        self.state.propose(self.writer.epoch(), &record)?;
        self.writer.push(record, now);
        self.progressed(now);
        Ok(())
    }

    fn progressed(&mut self, now: Duration) {
        if self.maps_open() {
            self.maps_done = None;
        } else if self.maps_done.is_none() {
            self.maps_done = Some(now);
            self.writer.hurry();
        }
    }

    /// All tasks of the last phase are won: the end is proposed, once.
    pub(super) fn finish_if_done(&mut self, now: Duration) -> Result<(), FoldError> {
        if self.ending || self.state.open() > 0 {
            return Ok(());
        }
        self.end(Record::Done, JobStatus::Done, now)
    }

    /// It cannot be done.
    pub(super) fn fail(
        &mut self,
        kind: JobFailureKind,
        task: Option<TaskId>,
        message: &str,
        now: Duration,
    ) -> Result<(), FoldError> {
        if self.ending {
            return Ok(());
        }
        let message = bounded(message, crate::limits::MESSAGE_BYTES_MAX).to_owned();
        let failure = JobFailure {
            kind,
            task,
            message,
        };
        let status = JobStatus::Failed(failure.clone());
        self.end(Record::JobFailed(failure), status, now)
    }

    fn end(&mut self, last: Record, status: JobStatus, now: Duration) -> Result<(), FoldError> {
        self.propose(last, now)?;
        self.ending = true;
        self.header.status = status;
        self.writer.hurry();
        Ok(())
    }

    /// A winner whose record is in the log.
    pub(super) fn confirmed(&self, task: TaskId) -> Option<&Winner> {
        let winner = self.state.winner(task)?;
        (!self.writer.is_unconfirmed(task, winner.attempt)).then_some(winner)
    }

    /// These records are in the log.
    pub(super) fn settle(&mut self, records: &[Record]) {
        for (map, location) in records.iter().filter_map(change) {
            let Some(unsettled) = self.unsettled.get_mut(&map) else {
                continue;
            };
            unsettled.recorded = location;
            unsettled.changes -= 1;
            if unsettled.changes == 0 {
                self.unsettled.remove(&map);
            }
        }
    }

    /// Where the output of a map is by the log, whatever is proposed: the next master numbers the
    /// same changes, and knows of no others.
    fn location(&self, map: u32) -> Option<Location> {
        if let Some(unsettled) = self.unsettled.get(&map) {
            return unsettled.recorded;
        }
        let winner = self.state.winner(TaskId::map(map))?;
        Some(Location {
            attempt: winner.attempt,
            incarnation: winner.incarnation,
            content: winner.content,
        })
    }

    /// Where maps are that changed from number `begin` on, of `known` changes; and up to which.
    ///
    /// All workers with reduces ask for the same, so what is complete is kept. It may be old by
    /// the time it is told: then a later change says so.
    pub(super) fn locations(&mut self, begin: usize, known: usize) -> (usize, Locations) {
        let whole = self.sealed.len()..known / LOCATIONS_MAX;
        for chunk in whole {
            let first = chunk * LOCATIONS_MAX;
            let sealed = self.entries(first, first + LOCATIONS_MAX);
            self.sealed.push(sealed);
        }
        let chunk = begin / LOCATIONS_MAX;
        let end = known.min((chunk + 1) * LOCATIONS_MAX);
        let entries = match self.sealed.get(chunk) {
            Some(sealed) if begin.is_multiple_of(LOCATIONS_MAX) => sealed.clone(),
            _ => self.entries(begin, end),
        };
        (end, entries)
    }

    fn entries(&self, begin: usize, end: usize) -> Locations {
        let changes = self.state.changes().get(begin..end).unwrap_or_default();
        changes
            .iter()
            .map(|map| (*map, self.location(*map)))
            .collect()
    }

    /// A task waits again.
    pub(super) fn queue(&mut self, task: TaskId) {
        if !self.is_waiting(task) {
            return;
        }
        match task.phase {
            Phase::Map => {
                let hosts = self
                    .splits
                    .get(task.index)
                    .map_or(&[][..], |split| split.hosts());
                self.maps_waiting.push_again(task.index, hosts);
            }
            Phase::Reduce => self.reduces_waiting.push_front(task.index),
        }
    }

    /// The winner of a map is none any more, and the map waits.
    pub(super) fn revoke(
        &mut self,
        map: u32,
        attempt: AttemptId,
        reason: RevokeReason,
        now: Duration,
    ) -> Result<(), FoldError> {
        let task = TaskId::map(map);
        let record = Record::Revoked {
            task,
            attempt,
            reason,
        };
        self.propose(record, now)?;
        // Attempts that were too late may still come in time for this.
        if self.attempts.contains_key(&task) {
            self.busy.map += 1;
        }
        self.accusations.remove(&map);
        self.queue(task);
        Ok(())
    }

    /// Enters an attempt that was assigned, or adopted.
    pub(super) fn enter(&mut self, task: TaskId, attempt: AttemptId, started: Duration) {
        let attempts = self.attempts.entry(task).or_default();
        attempts.push(attempt);
        if attempts.len() == 1 && self.state.winner(task).is_none() {
            *self.busy.of_mut(task.phase) += 1;
        }
        self.started.of_mut(task.phase).insert((started, attempt));
    }

    /// Takes an attempt out, whether it has finished or not.
    pub(super) fn leave(&mut self, task: TaskId, attempt: AttemptId, started: Duration) {
        self.started.of_mut(task.phase).remove(&(started, attempt));
        let Some(attempts) = self.attempts.get_mut(&task) else {
            return;
        };
        attempts.retain(|other| *other != attempt);
        if attempts.is_empty() {
            self.attempts.remove(&task);
            if self.state.winner(task).is_none() {
                *self.busy.of_mut(task.phase) -= 1;
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let held = self
            .held
            .values()
            .map(|maps| maps.capacity() * 4 + 48)
            .sum::<usize>();
        let attempts = self.attempts.len() * 64 + (self.started.map.len() * 40);
        let queues = self.maps_waiting.memory_bytes() + self.reduces_waiting.capacity() * 4;
        let sealed = self.sealed.len() * LOCATIONS_MAX * size_of::<(u32, Option<Location>)>();
        self.state.memory_bytes() + held + attempts + queues + sealed
    }

    pub(super) fn check(&self) {
        self.state.check();
        for phase in [Phase::Map, Phase::Reduce] {
            let tasks = self.attempts.keys().filter(|task| task.phase == phase);
            let busy = tasks.filter(|task| !self.is_won(**task)).count();
            assert_eq!(
                busy,
                *self.busy.of(phase) as usize,
                "{phase} tasks with attempts"
            );
        }
    }
}

/// The map whose winner a record changes, and where its output is then.
pub(super) fn change(record: &Record) -> Option<(u32, Option<Location>)> {
    match record {
        Record::Won(won) if won.task.phase == Phase::Map => {
            let location = Location {
                attempt: won.attempt,
                incarnation: won.incarnation,
                content: won.content,
            };
            Some((won.task.index, Some(location)))
        }
        Record::Revoked { task, .. } => Some((task.index, None)),
        Record::Won(_)
        | Record::Failed { .. }
        | Record::Skipped { .. }
        | Record::CounterName { .. }
        | Record::Done
        | Record::JobFailed(_) => None,
    }
}
