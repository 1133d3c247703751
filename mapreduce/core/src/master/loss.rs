//! Workers that come and go, and what is looked at from time to time.
//!
//! There is one way in which a worker is lost, however that was found out: what it ran runs
//! elsewhere; map outputs that it has are revoked while reduces still need them; outputs of the
//! last phase are where the job's output is, and stay. One that only says nothing keeps its map
//! outputs: reduces may well reach it, and say so if not.

use super::event::{StopReason, WorkerInfo};
use super::{Defect, Master};
use crate::job::FoldError;
use crate::names::{Incarnation, Phase, TaskId};
use crate::record::{JobFailureKind, RevokeReason};

impl Master {
    pub(super) fn joined(&mut self, info: WorkerInfo) -> Result<(), FoldError> {
        if self.workers.get(info.incarnation).is_some() {
            return Ok(());
        }
        if let Some(before) = self.workers.by_name(&info.name) {
            if before >= info.incarnation {
                return Ok(());
            }
            self.lost(before)?;
        }
        self.workers.join(info);
        self.no_workers_since = None;
        Ok(())
    }

    pub(super) fn lost(&mut self, incarnation: Incarnation) -> Result<(), FoldError> {
        self.silenced(incarnation);
        let finished = self
            .attempts
            .iter()
            .filter(|(_, it)| it.worker == incarnation);
        let finished: Vec<_> = finished.map(|(id, _)| *id).collect();
        for attempt in finished {
            self.take_out(attempt);
        }
        if self.workers.remove(incarnation).is_none() {
            return Ok(());
        }
        self.revoke_held(incarnation)
    }

    /// What it ran is given up; it is given nothing until it is heard again.
    fn silenced(&mut self, incarnation: Incarnation) {
        let running = self.workers.change(incarnation, |worker| {
            worker.silent = true;
            worker.running.clone()
        });
        for attempt in running.into_iter().flatten() {
            // It is told too, in case it hears without being heard.
            self.stop(attempt, StopReason::GivenUp);
        }
    }

    /// The map outputs of a worker that is not there any more.
    fn revoke_held(&mut self, incarnation: Incarnation) -> Result<(), FoldError> {
        let now = self.now;
        for job in self.jobs.values_mut() {
            if self.defect == Some(Defect::WonReducesRunAgain) {
                job.forget_reduces(incarnation);
            }
            let Some(maps) = job.held.remove(&incarnation) else {
                continue;
            };
            if !job.needs_maps() {
                continue;
            }
            for map in maps {
                let winner = job.state.winner(TaskId::map(map));
                let attempt = winner
                    .filter(|it| it.incarnation == incarnation)
                    .map(|it| it.attempt);
                if let Some(attempt) = attempt {
                    job.revoke(map, attempt, RevokeReason::WorkerLost, now)?;
                    self.fresh_work = true;
                }
            }
        }
        Ok(())
    }

    /// The group says that the workers are those that this master knows. Without any for too long
    /// jobs fail; a copy that is old proves nothing, for workers may have come since.
    pub(super) fn confirmed(&mut self) -> Result<(), FoldError> {
        let now = self.now;
        self.settled.get_or_insert(now + self.settings.settle);
        if !self.workers.is_empty() {
            self.no_workers_since = None;
            return Ok(());
        }
        let since = *self.no_workers_since.get_or_insert(now);
        if now < since + self.settings.no_workers_grace {
            return Ok(());
        }
        let message = format!("for {} s", now.saturating_sub(since).as_secs());
        let mut jobs = self.jobs.values_mut();
        jobs.try_for_each(|job| job.fail(JobFailureKind::NoWorkers, None, &message, now))
    }

    /// Whether it knows who is there, and those have had the time to say what they run. Before,
    /// a worker that it has not heard of looks like one that is gone.
    pub(super) fn is_settled(&self) -> bool {
        let settled = self.settled.is_some_and(|settled| self.now >= settled);
        settled || self.defect == Some(Defect::SettledUnconfirmed)
    }

    /// Once in a while: what no event points to.
    pub(super) fn keep_house(&mut self) -> Result<(), FoldError> {
        let now = self.now;
        let patience = self.settings.silent_after;
        let silent = self
            .workers
            .iter()
            .filter(|(_, it)| !it.silent && now >= it.heard + patience);
        let silent: Vec<_> = silent.map(|(incarnation, _)| *incarnation).collect();
        for incarnation in silent {
            self.silenced(incarnation);
        }
        if self.is_settled() {
            self.revoke_unknown()?;
            self.plan_backups();
            self.fresh_work = true;
        }
        Ok(())
    }

    /// Winners of workers that were gone before this master began.
    fn revoke_unknown(&mut self) -> Result<(), FoldError> {
        let held = self.jobs.values().flat_map(|job| job.held.keys());
        let gone = held.filter(|incarnation| self.workers.get(**incarnation).is_none());
        let gone: Vec<_> = gone.copied().collect();
        gone.into_iter()
            .try_for_each(|incarnation| self.revoke_held(incarnation))
    }

    /// Tasks that take far longer than others get a second attempt.
    fn plan_backups(&mut self) {
        let settings = &self.settings;
        let slots = self.workers.slots();
        let cap = (slots * settings.backup_share_percent / 100).max(1);
        for job in self.jobs.values_mut() {
            let options = &job.options;
            if !options.backup_tasks || options.external_effects || job.ending {
                continue;
            }
            job.backups_wanted.clear();
            for phase in [Phase::Map, Phase::Reduce] {
                if phase == Phase::Reduce && job.maps_open() {
                    continue;
                }
                let share = u64::from(job.state.won(phase)) * 100;
                let done = u64::from(settings.backup_done_percent);
                let Some(median) = job.runtimes.of(phase).median() else {
                    continue;
                };
                if share < u64::from(job.state.count(phase)) * done {
                    continue;
                }
                let slow = (median * settings.backup_runtime_percent / 100)
                    .max(settings.backup_runtime_min);
                let began = job
                    .maps_done
                    .filter(|_| phase == Phase::Reduce)
                    .unwrap_or_default();
                let room = cap.saturating_sub(self.backups) as usize;
                let oldest = job.started.of(phase).iter().take_while(|(started, _)| {
                    self.now.saturating_sub((*started).max(began)) > slow
                });
                // Those that have one are passed over: there are at most as many as backups.
                let tasks = oldest.take(room + 2 * self.backups as usize);
                let tasks = tasks
                    .filter_map(|(_, id)| self.attempts.get(id))
                    .map(|it| it.task);
                let alone = |task: &TaskId| job.attempts.get(task).is_some_and(|it| it.len() == 1);
                job.backups_wanted.extend(tasks.filter(alone).take(room));
            }
        }
    }
}

impl super::job::Job {
    /// A mistake, see [`Defect`]: reduces of a lost worker wait again.
    fn forget_reduces(&mut self, incarnation: Incarnation) {
        for index in 0..self.state.count(Phase::Reduce) {
            let winner = self.state.winner(TaskId::reduce(index));
            if winner.is_some_and(|winner| winner.incarnation == incarnation) {
                self.reduces_waiting.push_front(index);
                self.forgotten.insert(index);
            }
        }
    }
}
