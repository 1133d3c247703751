//! Who gets what. A worker with a slot to spare gets, of the first job that has something for it: a
//! map, near its split if there is one; else a reduce, if reduces may start; else a backup.
//!
//! Work per event does not grow with the number of tasks: only workers are tried that have become
//! free, or all free ones when something has begun to wait, and each list is taken from its front.
//!
//! Reduces wait for maps, so maps must never wait for reduces. While maps of a job are open, its
//! reduces may have only a share of the slots; and where maps wait and nothing is free, the
//! youngest reduces of that job, or of later ones, are stopped.

use super::event::StopReason;
use super::job::Job;
use super::queue::{Asker, Choice, take};
use super::{Attempt, Defect, Master};
use crate::names::{AttemptId, Incarnation, JobId, Phase, TaskId};

/// A task for a worker.
#[derive(Clone, Copy, Debug)]
struct Pick {
    job: JobId,
    task: TaskId,
    backup: bool,
}

impl Master {
    pub(super) fn schedule(&mut self) {
        if !self.is_settled() {
            return;
        }
        if std::mem::take(&mut self.fresh_work) && self.has_work() {
            self.eager = self.workers.free().clone();
        }
        while let Some((used, incarnation)) = self.eager.pop_first() {
            if !self.workers.free().contains(&(used, incarnation)) {
                continue;
            }
            if !self.has_work() {
                // What begins to wait later makes all free workers eager.
                self.eager.clear();
                break;
            }
            if let Some(pick) = self.pick(incarnation) {
                self.assign(incarnation, pick);
                self.make_eager(incarnation);
            }
        }
        if self.defect != Some(Defect::ReducesStarveMaps) {
            self.make_room();
        }
    }

    /// Whether anything waits that may be given to somebody.
    fn has_work(&self) -> bool {
        let slots = self.workers.slots();
        self.jobs.values().any(|job| {
            let reduces = job.waiting(Phase::Reduce) > 0 || !job.forgotten.is_empty();
            !job.ending
                && (job.waiting(Phase::Map) > 0
                    || !job.backups_wanted.is_empty()
                    || (reduces && job.reduces_may_start(slots, &self.settings)))
        })
    }

    fn pick(&mut self, incarnation: Incarnation) -> Option<Pick> {
        let slots = self.workers.slots();
        let ids: Vec<_> = self.jobs.keys().copied().collect();
        for id in ids {
            if let Some(pick) = self.pick_map(id, incarnation, false) {
                return Some(pick);
            }
            let (now, settings) = (self.now, &self.settings);
            let others = || self.workers.has_other(incarnation);
            let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.ending) else {
                continue;
            };
            let backup = self.backups < backups_max(slots, settings.backup_share_percent);
            if let Some(task) = job.take_reduce(incarnation, slots, settings, now, others) {
                let backup = false;
                return Some(Pick {
                    job: id,
                    task,
                    backup,
                });
            }
            if !backup {
                continue;
            }
            let attempts = &self.attempts;
            let at = |id: &AttemptId| attempts.get(id).map(|attempt| attempt.worker);
            if let Some(task) = job.take_backup(incarnation, at) {
                return Some(Pick {
                    job: id,
                    task,
                    backup,
                });
            }
        }
        None
    }

    fn pick_map(&mut self, id: JobId, incarnation: Incarnation, any: bool) -> Option<Pick> {
        let worker = self.workers.get(incarnation)?;
        let job = self.jobs.get_mut(&id)?;
        if job.ending || job.waiting(Phase::Map) == 0 {
            return None;
        }
        let asker = Asker {
            host: &worker.info.host,
            near: self.workers.near(&worker.info.zone),
            now: self.now,
            wait: if any {
                std::time::Duration::ZERO
            } else {
                std::time::Duration::from_millis(job.options.locality_wait_ms)
            },
        };
        let mut queue = std::mem::take(&mut job.maps_waiting);
        let found = queue.take(asker, |map| {
            let others = || !any && self.workers.has_other(incarnation);
            job.choose(TaskId::map(map), incarnation, self.now, others)
        });
        job.maps_waiting = queue;
        let task = TaskId::map(found?);
        Some(Pick {
            job: id,
            task,
            backup: false,
        })
    }

    fn assign(&mut self, incarnation: Incarnation, pick: Pick) {
        let Pick { job, task, backup } = pick;
        self.counter += 1;
        let id = AttemptId {
            epoch: self.epoch,
            counter: self.counter,
        };
        let attempt = Attempt {
            job,
            task,
            worker: incarnation,
            started: self.now,
            sent: self.now,
            finished: false,
            backup,
            bytes: 0,
            records: 0,
            doubted: None,
        };
        self.put_in(id, attempt);
        self.send_assignment(id);
    }

    /// Maps wait, and nothing is free: reduces that could not go on without them make room.
    fn make_room(&mut self) {
        let slots = self.workers.slots();
        let ids: Vec<_> = self.jobs.keys().copied().collect();
        for id in ids {
            while let Some(job) = self.jobs.get(&id).filter(|job| !job.ending) {
                let share = (slots / 2).max(1);
                if job.waiting(Phase::Map) == 0
                    || job.running(Phase::Map) >= share
                    || !self.workers.free().is_empty()
                {
                    break;
                }
                let later = self.jobs.range(id..).rev();
                let mut youngest = later.filter_map(|(_, job)| job.started.reduce.last());
                let Some((_, victim)) = youngest.next().copied() else {
                    break;
                };
                let Some(worker) = self.attempts.get(&victim).map(|victim| victim.worker) else {
                    break;
                };
                self.stop(victim, StopReason::GivenUp);
                // Taken at once, so that no reduce begins there again.
                let Some(pick) = self.pick_map(id, worker, true) else {
                    break;
                };
                self.assign(worker, pick);
            }
        }
    }
}

fn backups_max(slots: u32, share_percent: u32) -> u32 {
    (slots.saturating_mul(share_percent) / 100).max(1)
}

impl Job {
    /// Whether a task that is in a list may go to this worker.
    fn choose(
        &self,
        task: TaskId,
        incarnation: Incarnation,
        now: std::time::Duration,
        others: impl Fn() -> bool,
    ) -> Choice {
        if !self.is_waiting(task) {
            return Choice::Drop;
        }
        match self.avoid.get(&task) {
            Some((at, until)) if *at == incarnation && now < *until && others() => Choice::Pass,
            _ => Choice::Take,
        }
    }

    fn take_reduce(
        &mut self,
        incarnation: Incarnation,
        slots: u32,
        settings: &super::Settings,
        now: std::time::Duration,
        others: impl Fn() -> bool,
    ) -> Option<TaskId> {
        if let Some(index) = self.forgotten.pop_first() {
            return Some(TaskId::reduce(index));
        }
        if self.waiting(Phase::Reduce) == 0 || !self.reduces_may_start(slots, settings) {
            return None;
        }
        let mut queue = std::mem::take(&mut self.reduces_waiting);
        let found = take(&mut queue, |index| *index, &mut |index| {
            self.choose(TaskId::reduce(index), incarnation, now, &others)
        });
        self.reduces_waiting = queue;
        found.map(TaskId::reduce)
    }

    /// A task that is to have a second attempt, not where the first runs.
    fn take_backup(
        &mut self,
        incarnation: Incarnation,
        worker_of: impl Fn(&AttemptId) -> Option<Incarnation>,
    ) -> Option<TaskId> {
        while let Some(task) = self.backups_wanted.front()
            && (self.is_won(*task) || self.attempts.get(task).is_none_or(|it| it.len() != 1))
        {
            self.backups_wanted.pop_front();
        }
        let first = *self.backups_wanted.front()?;
        let runs_here = self.attempts.get(&first).into_iter().flatten();
        if runs_here
            .filter_map(worker_of)
            .any(|worker| worker == incarnation)
        {
            return None;
        }
        self.backups_wanted.pop_front()
    }
}
