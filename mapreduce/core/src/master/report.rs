//! What a worker says. Nothing of it is believed that is out of bounds or does not fit; what is
//! refused is named in an effect, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::event::{
    Assignment, Effect, Failed, FetchFailed, Finished, Outcome, Progress, Report, ReportError,
    StopReason,
};
use super::job::Accusation;
use super::{Attempt, Defect, Master};
use crate::job::FoldError;
use crate::limits::{COUNTERS_MAX, MESSAGE_BYTES_MAX};
use crate::names::{AttemptId, Incarnation, JobId, Phase, TaskId};
use crate::record::{
    Counters, FailureClass, JobFailureKind, Record, RevokeReason, TaskWon, bounded,
};

/// Positions from here on are not those of records: no split is so long.
const POSITION_MAX: u64 = 1 << 62;
/// Crashes on one record after which it is left out, if the job allows it.
const CRASHES_BEFORE_SKIP: u32 = 2;

impl Master {
    pub(super) fn report(&mut self, report: Report) -> Result<(), FoldError> {
        let from = report.incarnation;
        if let Err(error) = self.admit(&report) {
            self.effects.push(Effect::Rejected { from, error });
            return Ok(());
        }
        let Some(worker) = self.workers.get(from) else {
            return Ok(());
        };
        if worker.sequence.is_some_and(|last| report.sequence <= last) {
            return Ok(());
        }
        let (now, was_silent) = (self.now, worker.silent);
        self.workers.change(from, |worker| {
            worker.sequence = Some(report.sequence);
            worker.heard = now;
            worker.silent = false;
        });
        if was_silent {
            self.make_eager(from);
        }
        self.unmentioned(&report);
        for finished in report.finished {
            self.finished(from, finished)?;
        }
        for failed in report.failed {
            self.failed(from, failed)?;
        }
        for running in report.running {
            self.runs(from, running);
        }
        self.readers_got(from, &report.fetch_failed);
        self.cut_off_readers(from, &report.fetch_failed);
        for missed in report.fetch_failed {
            self.fetch_failed(from, missed)?;
        }
        for (job, known) in report.known {
            self.locations(from, job, known);
        }
        Ok(())
    }

    fn admit(&self, report: &Report) -> Result<(), ReportError> {
        if self.workers.get(report.incarnation).is_none() {
            return Err(ReportError::UnknownWorker(report.incarnation));
        }
        if report.epoch > self.epoch || report.accepted.epoch > self.epoch {
            return Err(ReportError::LaterEpoch {
                found: report.epoch.max(report.accepted.epoch),
                own: self.epoch,
            });
        }
        report.check()
    }

    /// What was assigned there and is not in the report is on its way, or will never begin.
    fn unmentioned(&mut self, report: &Report) {
        let Some(worker) = self.workers.get(report.incarnation) else {
            return;
        };
        let mut missing = worker.running.clone();
        for progress in &report.running {
            missing.remove(&progress.attempt);
        }
        for finished in &report.finished {
            missing.remove(&finished.attempt);
        }
        for failed in &report.failed {
            missing.remove(&failed.attempt);
        }
        for id in missing {
            let Some(attempt) = self.attempts.get(&id) else {
                continue;
            };
            if id <= report.accepted {
                // It takes no attempt below the greatest, so this one is not there.
                self.take_out(id);
            } else if self.now >= attempt.sent + self.settings.assign_patience {
                self.send_assignment(id);
            }
        }
    }

    /// Sends an assignment, perhaps again.
    pub(super) fn send_assignment(&mut self, id: AttemptId) {
        let now = self.now;
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        attempt.sent = now;
        let Some(job) = self.jobs.get(&attempt.job) else {
            return;
        };
        let troubles = job.state.troubles(attempt.task);
        let skip = troubles.map(|it| it.skipped.iter().map(|(first, count)| (*first, *count)));
        let assignment = Assignment {
            job: attempt.job,
            task: attempt.task,
            attempt: id,
            epoch: self.epoch,
            maps: job.state.count(Phase::Map),
            reduces: job.state.count(Phase::Reduce),
            skip: skip.into_iter().flatten().collect(),
        };
        self.effects.push(Effect::Assign {
            to: attempt.worker,
            assignment: Box::new(assignment),
        });
    }

    /// Whether this is an attempt of that task at that worker, as far as anything is known of it.
    fn fits(&self, from: Incarnation, job: JobId, task: TaskId, id: AttemptId) -> bool {
        let known = self.attempts.get(&id);
        known.is_none_or(|it| (it.job, it.task, it.worker) == (job, task, from))
            && id.epoch <= self.epoch
            && (id.epoch < self.epoch || id.counter <= self.counter)
            && self.jobs.get(&job).is_none_or(|job| job.has(task))
    }

    fn reject(&mut self, from: Incarnation, job: JobId, task: TaskId, attempt: AttemptId) {
        let error = ReportError::WrongTask { job, task, attempt };
        self.effects.push(Effect::Rejected { from, error });
    }

    /// An attempt of an earlier epoch may go on: nobody else has won, and it was not revoked.
    fn may_adopt(&self, job: JobId, task: TaskId, id: AttemptId) -> bool {
        let Some(job) = self.jobs.get(&job) else {
            return false;
        };
        let revoked = job
            .state
            .troubles(task)
            .is_some_and(|it| it.revoked.contains(&id));
        id.epoch < self.epoch && !job.ending && !job.is_won(task) && !revoked
    }

    fn runs(&mut self, from: Incarnation, progress: Progress) {
        let Progress {
            job,
            task,
            attempt: id,
            bytes,
            records,
        } = progress;
        if !self.fits(from, job, task, id) {
            return self.reject(from, job, task, id);
        }
        if let Some(known) = self.attempts.get_mut(&id) {
            (known.bytes, known.records) = (bytes, records);
            return;
        }
        let others = self
            .jobs
            .get(&job)
            .and_then(|job| job.attempts.get(&task))
            .map_or(0, Vec::len);
        if self.may_adopt(job, task, id) && others == 0 {
            let adopted = Attempt {
                job,
                task,
                worker: from,
                started: self.now,
                sent: self.now,
                finished: false,
                backup: false,
                bytes,
                records,
                doubted: None,
            };
            self.put_in(id, adopted);
            return;
        }
        let winner = self.jobs.get(&job).and_then(|job| job.confirmed(task));
        let reason = match (self.jobs.contains_key(&job), winner) {
            (false, _) => StopReason::JobOver,
            (true, Some(winner)) => StopReason::Lost(winner.attempt),
            (true, None) => StopReason::GivenUp,
        };
        self.effects.push(Effect::Stop {
            to: from,
            job,
            attempt: id,
            reason,
        });
    }

    fn finished(&mut self, from: Incarnation, finished: Finished) -> Result<(), FoldError> {
        let (id, task, attempt) = (finished.job, finished.task, finished.attempt);
        if !self.fits(from, id, task, attempt) {
            self.reject(from, id, task, attempt);
            return Ok(());
        }
        let Some(job) = self.jobs.get(&id) else {
            self.tell(from, id, attempt, Outcome::Fenced);
            return Ok(());
        };
        if let Some(winner) = job.state.winner(task).map(|winner| winner.attempt) {
            let is_recorded = job.confirmed(task).is_some();
            let outcome = if winner == attempt {
                Outcome::AlreadyWon
            } else {
                Outcome::Lost(winner)
            };
            if is_recorded {
                self.take_out(attempt);
                self.tell(from, id, attempt, outcome);
            } else {
                // What becomes of it is told when it is known.
                self.has_finished(attempt);
            }
            return Ok(());
        }
        let known = self.attempts.contains_key(&attempt);
        if job.ending || !(known || self.may_adopt(id, task, attempt)) {
            self.tell(from, id, attempt, Outcome::Fenced);
            return Ok(());
        }
        self.wins(from, finished)
    }

    /// Its slot is free; what becomes of it is not known yet.
    fn has_finished(&mut self, id: AttemptId) {
        let Some(attempt) = self
            .attempts
            .get_mut(&id)
            .filter(|attempt| !attempt.finished)
        else {
            return;
        };
        attempt.finished = true;
        let (worker, job, task, started) =
            (attempt.worker, attempt.job, attempt.task, attempt.started);
        if let Some(job) = self.jobs.get_mut(&job) {
            job.started.of_mut(task.phase).remove(&(started, id));
        }
        self.vacate(worker, id);
    }

    /// The first to finish: it is proposed as the winner, if what it read is what there is.
    fn wins(&mut self, from: Incarnation, finished: Finished) -> Result<(), FoldError> {
        let (id, task, attempt, now) = (finished.job, finished.task, finished.attempt, self.now);
        let Some(job) = self.jobs.get_mut(&id) else {
            return Ok(());
        };
        if task.phase == Phase::Reduce && !job.state.contents().matches(finished.inputs) {
            return self.read_other_inputs(from, finished);
        }
        let is_changed = task.phase == Phase::Map
            && job.state.contents().changes(task.index, finished.content)
            && job.state.last_phase() == Phase::Reduce;
        if is_changed {
            job.contents_changed = true;
            if job.state.won(Phase::Reduce) > 0 {
                let message = "it gave something else when it was run again, and reduces have won";
                let kind = JobFailureKind::NonDeterministic;
                return job.fail(kind, Some(task), message, now);
            }
        }
        let mut user = Vec::new();
        for (name, value) in finished.counters {
            let Some(counter) = job.counter_id(&name, now)? else {
                let failed = Failed {
                    job: id,
                    task,
                    attempt,
                    class: FailureClass::UserCode,
                    message: format!("the job has more than {COUNTERS_MAX} counters of its own"),
                    position: None,
                };
                return self.failed(from, failed);
            };
            user.push((counter, value));
        }
        let won = TaskWon {
            task,
            attempt,
            incarnation: from,
            outputs: finished.outputs,
            content: finished.content,
            inputs: finished.inputs,
            counters: Counters {
                builtin: finished.builtin,
                user,
            },
        };
        job.win(won, now)?;
        if let Some(known) = self.attempts.get(&attempt) {
            let began = match (task.phase, job.maps_done) {
                (Phase::Reduce, Some(done)) => known.started.max(done),
                (Phase::Reduce | Phase::Map, _) => known.started,
            };
            job.runtimes
                .of_mut(task.phase)
                .add(now.saturating_sub(began));
        }
        self.fresh_work |= task.phase == Phase::Map;
        self.has_finished(attempt);
        self.workers.succeeded(from);
        if is_changed {
            self.restart_reduces(id);
        }
        if self.defect == Some(Defect::ToldBeforeRecorded) {
            self.tell(from, id, attempt, Outcome::Won);
        }
        Ok(())
    }

    /// A map that it read from gives something else now, or it is mistaken.
    fn read_other_inputs(
        &mut self,
        from: Incarnation,
        finished: Finished,
    ) -> Result<(), FoldError> {
        let (job, task, attempt) = (finished.job, finished.task, finished.attempt);
        if self
            .jobs
            .get(&job)
            .is_some_and(|job| job.contents_changed || job.maps_open())
        {
            self.take_out(attempt);
            self.tell(from, job, attempt, Outcome::Fenced);
            return Ok(());
        }
        let failed = Failed {
            job,
            task,
            attempt,
            class: FailureClass::IoRetryable,
            message: "it read other map outputs than those that won".to_owned(),
            position: None,
        };
        self.failed(from, failed)
    }

    fn restart_reduces(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let reduces = job
            .attempts
            .iter()
            .filter(|(task, _)| task.phase == Phase::Reduce);
        let running: Vec<_> = reduces
            .flat_map(|(_, attempts)| attempts)
            .copied()
            .collect();
        for attempt in running {
            self.stop(attempt, StopReason::InputsChanged);
        }
    }

    pub(super) fn failed(&mut self, from: Incarnation, failed: Failed) -> Result<(), FoldError> {
        let (id, task, attempt, now) = (failed.job, failed.task, failed.attempt, self.now);
        if !self.fits(from, id, task, attempt) {
            self.reject(from, id, task, attempt);
            return Ok(());
        }
        self.tell(from, id, attempt, Outcome::Noted);
        // One that nobody waits for any more, or of an earlier master, is no failure of the task.
        if self
            .attempts
            .get(&attempt)
            .is_none_or(|known| known.finished)
        {
            return Ok(());
        }
        let avoid_until = now + self.settings.avoid_for;
        let counts = failed.class.counts()
            || (failed.class == FailureClass::FetchLost
                && self.defect == Some(Defect::FetchFailureCounts));
        if let Some(job) = self.jobs.get_mut(&id) {
            if counts || failed.class == FailureClass::FetchLost {
                job.avoid.insert(task, (from, avoid_until));
            }
            if counts && !job.is_won(task) && !job.ending {
                job.count_failure(failed, now)?;
            }
        }
        if counts {
            self.workers.failed(from, &self.settings);
        }
        self.take_out(attempt);
        Ok(())
    }

    /// What readers there do not miss any more they have fetched: it counts against nobody.
    fn readers_got(&mut self, from: Incarnation, missed: &[FetchFailed]) {
        let missed: BTreeSet<_> = missed.iter().map(|it| (it.reader, it.map)).collect();
        let attempts = &self.attempts;
        for job in self.jobs.values_mut() {
            job.accusations.retain(|map, accusation| {
                accusation.readers.retain(|reader| {
                    let is_here = |it: &Attempt| it.worker == from;
                    !attempts.get(reader).is_none_or(is_here) || missed.contains(&(*reader, *map))
                });
                !accusation.readers.is_empty()
            });
        }
    }

    /// A reduce misses the output of a map. One that is damaged, or that enough reduces miss, or
    /// that one has missed for long, is made again.
    fn fetch_failed(&mut self, from: Incarnation, missed: FetchFailed) -> Result<(), FoldError> {
        let (id, map, now) = (missed.job, missed.map, self.now);
        let is_ours = self.attempts.get(&missed.reader).is_some_and(|reader| {
            reader.worker == from && reader.job == id && reader.task.phase == Phase::Reduce
        });
        let Some(job) = self
            .jobs
            .get_mut(&id)
            .filter(|job| is_ours && job.needs_maps())
        else {
            return Ok(());
        };
        let winner = job
            .confirmed(TaskId::map(map))
            .map(|it| (it.attempt, it.incarnation));
        if winner != Some((missed.attempt, missed.holder)) {
            // It is about another attempt; the locations tell.
            return Ok(());
        }
        if missed.damaged && self.doubts_others(&missed) {
            return Ok(());
        }
        let Some(job) = self.jobs.get_mut(&id) else {
            return Ok(());
        };
        let readers_max = job.running(Phase::Reduce).max(1) as usize;
        let accusation = job.accused(map, missed.attempt, now, self.settings.fetch_patience);
        accusation.readers.insert(missed.reader);
        let enough = accusation.readers.len() >= self.settings.fetch_reporters.min(readers_max);
        let long = now >= accusation.since + self.settings.fetch_patience;
        // A single reader has to insist: it may be at fault itself.
        let believed = missed.damaged || long || (enough && readers_max > 1);
        if !believed {
            return Ok(());
        }
        let reason = if missed.damaged {
            RevokeReason::Damaged
        } else {
            RevokeReason::FetchFailed
        };
        self.fresh_work = true;
        let losses = job.output_losses.entry(map).or_default();
        *losses += 1;
        if *losses > self.settings.output_losses_max {
            let message = format!("lost {losses} times, last at {}", missed.holder);
            let kind = JobFailureKind::OutputLost;
            return job.fail(kind, Some(TaskId::map(map)), &message, now);
        }
        job.revoke(map, missed.attempt, reason, now)
    }

    /// A reader that finds outputs of two workers damaged is more likely to be what is: its disk,
    /// or its memory. It goes elsewhere.
    fn doubts_others(&mut self, missed: &FetchFailed) -> bool {
        let Some(reader) = self.attempts.get_mut(&missed.reader) else {
            return false;
        };
        let before = *reader.doubted.get_or_insert(missed.holder);
        if before == missed.holder {
            return false;
        }
        let (worker, task) = (reader.worker, reader.task);
        let avoid_until = self.now + self.settings.avoid_for;
        if let Some(job) = self.jobs.get_mut(&missed.job) {
            job.avoid.insert(task, (worker, avoid_until));
        }
        self.workers.failed(worker, &self.settings);
        self.stop(missed.reader, StopReason::GivenUp);
        true
    }

    /// A reduce that cannot reach many workers is itself what is cut off: it goes elsewhere, and
    /// that is no failure.
    fn cut_off_readers(&mut self, from: Incarnation, missed: &[FetchFailed]) {
        let mut accused = BTreeMap::<AttemptId, BTreeSet<Incarnation>>::new();
        for missed in missed.iter().filter(|missed| !missed.damaged) {
            accused
                .entry(missed.reader)
                .or_default()
                .insert(missed.holder);
        }
        accused.retain(|_, holders| holders.len() > self.settings.fetch_accused_max);
        let avoid_until = self.now + self.settings.avoid_for;
        for id in accused.into_keys() {
            let Some(reader) = self
                .attempts
                .get(&id)
                .filter(|reader| reader.worker == from)
            else {
                continue;
            };
            if let Some(job) = self.jobs.get_mut(&reader.job) {
                job.avoid.insert(reader.task, (from, avoid_until));
            }
            self.stop(id, StopReason::GivenUp);
        }
    }

    fn locations(&mut self, to: Incarnation, id: JobId, from: u64) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let known = job.writer.changes();
        let Some(begin) = usize::try_from(from).ok().filter(|begin| *begin <= known) else {
            let error = ReportError::Ahead {
                job: id,
                found: from,
                known: known as u64,
            };
            self.effects.push(Effect::Rejected { from: to, error });
            return;
        };
        if begin == known {
            return;
        }
        let (end, entries) = job.locations(begin, known);
        self.effects.push(Effect::Locations {
            to,
            job: id,
            from,
            next: end as u64,
            known: known as u64,
            entries,
        });
    }
}

impl super::job::Job {
    /// The number of a counter, which may be new; none when there are too many.
    fn counter_id(&mut self, name: &str, now: Duration) -> Result<Option<u32>, FoldError> {
        if let Some(id) = self.counter_ids.get(name) {
            return Ok(Some(*id));
        }
        let id = u32::try_from(self.counter_ids.len()).unwrap_or(u32::MAX);
        if id as usize >= COUNTERS_MAX {
            return Ok(None);
        }
        let name = name.to_owned();
        self.counter_ids.insert(name.clone(), id);
        self.propose(Record::CounterName { id, name }, now)?;
        Ok(Some(id))
    }

    /// A winner is proposed.
    fn win(&mut self, won: TaskWon, now: Duration) -> Result<(), FoldError> {
        let (task, incarnation) = (won.task, won.incarnation);
        self.propose(Record::Won(Box::new(won)), now)?;
        if self.attempts.contains_key(&task) {
            *self.busy.of_mut(task.phase) -= 1;
        }
        if task.phase == Phase::Map {
            self.held.entry(incarnation).or_default().push(task.index);
        }
        self.avoid.remove(&task);
        self.finish_if_done(now)
    }

    /// A failure that counts: the record that made it may be left out, or the job fails.
    fn count_failure(&mut self, failed: Failed, now: Duration) -> Result<(), FoldError> {
        let task = failed.task;
        let message = bounded(&failed.message, MESSAGE_BYTES_MAX).to_owned();
        let position = failed.position.filter(|position| *position < POSITION_MAX);
        self.propose(
            Record::Failed {
                task,
                attempt: failed.attempt,
                class: failed.class,
                message: message.clone(),
                position,
            },
            now,
        )?;
        if failed.class == FailureClass::IoFatal {
            return self.fail(JobFailureKind::IoFatal, Some(task), &message, now);
        }
        let crashes = |job: &Self, position| {
            let troubles = job.state.troubles(task)?;
            troubles.crashes.get(&position).copied()
        };
        if let Some(first) = position
            && crashes(self, first).is_some_and(|crashes| crashes >= CRASHES_BEFORE_SKIP)
            && self.state.skipped() < u64::from(self.options.skipped_max)
        {
            let count = 1;
            self.propose(Record::Skipped { task, first, count }, now)?;
        }
        let failures = self
            .state
            .troubles(task)
            .map_or(0, |troubles| troubles.failures);
        if failures >= self.options.attempts_max {
            let said = format!("{}: {message}", failed.class);
            return self.fail(JobFailureKind::AttemptsExhausted, Some(task), &said, now);
        }
        Ok(())
    }

    /// Who misses a map's output. After a time without anybody it begins anew.
    fn accused(
        &mut self,
        map: u32,
        attempt: AttemptId,
        now: Duration,
        patience: Duration,
    ) -> &mut Accusation {
        let new = || Accusation {
            attempt,
            readers: BTreeSet::new(),
            since: now,
            last: now,
        };
        let accusation = self.accusations.entry(map).or_insert_with(new);
        if accusation.attempt != attempt || now >= accusation.last + 2 * patience {
            *accusation = new();
        }
        accusation.last = now;
        accusation
    }
}
