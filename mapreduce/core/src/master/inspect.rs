//! What a master knows, for people: read only, and nothing is decided by it.
//!
//! Invariant: a page of tasks holds at most as many as were asked for, first those that run, then
//! those that failed, each group in the order of tasks; so what is of interest comes first.

use std::time::Duration;

use super::event::WorkerInfo;
use super::workers::Worker;
use super::{Attempt, Master};
use crate::names::{AttemptId, Incarnation, JobId, Phase, TaskId};

/// A worker, as its master sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerView<'a> {
    /// Who it is.
    pub info: &'a WorkerInfo,
    /// Attempts that it was given and has not finished.
    pub running: u32,
    /// Since its last report, or since it joined.
    pub heard: Duration,
    /// It has said nothing for too long, or nothing yet: it is given nothing.
    pub is_silent: bool,
    /// For how long it rests yet, after failures; zero when it does not.
    pub rests: Duration,
}

/// An attempt that was assigned or adopted, until it is known what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptView {
    /// Which.
    pub attempt: AttemptId,
    /// The life of the worker that has it.
    pub worker: Incarnation,
    /// Since it was assigned, or adopted.
    pub runtime: Duration,
    /// It has finished, and its record is not in the log yet.
    pub is_finished: bool,
    /// It is a second one beside another.
    pub is_backup: bool,
    /// Bytes read so far.
    pub bytes: u64,
    /// Records read so far.
    pub records: u64,
}

/// A task of a job that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// Which.
    pub task: TaskId,
    /// Who has won it, recorded or proposed, and where.
    pub winner: Option<(AttemptId, Incarnation)>,
    /// Attempts that are under way.
    pub attempts: Vec<AttemptView>,
    /// Failures that count.
    pub failures: u32,
}

impl Master {
    /// Workers that are there, by their lives.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView<'_>> {
        self.workers.iter().map(|(_, worker)| self.seen(worker))
    }

    /// A life of a worker, while it is there.
    pub fn worker(&self, of: Incarnation) -> Option<WorkerView<'_>> {
        self.workers.get(of).map(|worker| self.seen(worker))
    }

    fn seen<'a>(&self, worker: &'a Worker) -> WorkerView<'a> {
        WorkerView {
            info: &worker.info,
            running: u32::try_from(worker.running.len()).unwrap_or(u32::MAX),
            heard: self.now.saturating_sub(worker.heard),
            is_silent: worker.silent,
            rests: worker.rests_until.saturating_sub(self.now),
        }
    }

    /// Up to `count` tasks of a job, from number `from` on: first those that run, then those that
    /// failed, then all others.
    pub fn tasks(&self, id: JobId, from: usize, count: usize) -> Vec<TaskView> {
        let Some(job) = self.jobs.get(&id) else {
            return Vec::new();
        };
        let runs = |task: &TaskId| job.attempts.contains_key(task);
        let has_failed = |task: &TaskId| job.state.failures(*task) > 0;
        let running = job.attempts.keys().copied();
        let troubled = job.state.troubled().map(|(task, _)| task);
        let failed = troubled.filter(|task| has_failed(task) && !runs(task));
        let maps = (0..job.state.count(Phase::Map)).map(TaskId::map);
        let reduces = (0..job.state.count(Phase::Reduce)).map(TaskId::reduce);
        let others = maps
            .chain(reduces)
            .filter(|task| !runs(task) && !has_failed(task));
        let all = running.chain(failed).chain(others);
        let page = all.skip(from).take(count);
        page.map(|task| TaskView {
            task,
            winner: job
                .state
                .winner(task)
                .map(|winner| (winner.attempt, winner.incarnation)),
            attempts: self.attempts(job.attempts.get(&task).into_iter().flatten()),
            failures: job.state.failures(task),
        })
        .collect()
    }

    fn attempts<'a>(&self, ids: impl Iterator<Item = &'a AttemptId>) -> Vec<AttemptView> {
        ids.filter_map(|id| Some(self.view_of(*id, self.attempts.get(id)?)))
            .collect()
    }

    fn view_of(&self, id: AttemptId, attempt: &Attempt) -> AttemptView {
        AttemptView {
            attempt: id,
            worker: attempt.worker,
            runtime: self.now.saturating_sub(attempt.started),
            is_finished: attempt.finished,
            is_backup: attempt.backup,
            bytes: attempt.bytes,
            records: attempt.records,
        }
    }

    /// All attempts that are under way, whether they have finished or not.
    pub fn under_way(&self) -> impl Iterator<Item = (JobId, TaskId, AttemptView)> {
        let all = self.attempts.iter();
        all.map(|(id, attempt)| (attempt.job, attempt.task, self.view_of(*id, attempt)))
    }

    /// The task of an attempt that is under way, and the life of the worker that has it.
    pub fn whose(&self, attempt: AttemptId) -> Option<(JobId, TaskId, Incarnation)> {
        let found = self.attempts.get(&attempt)?;
        Some((found.job, found.task, found.worker))
    }

    /// Half of the tasks of a phase that are done have taken no longer; none before the first.
    pub fn median(&self, job: JobId, phase: Phase) -> Option<Duration> {
        self.jobs.get(&job)?.runtimes.of(phase).median()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::event::{Assignment, Effect, Event, Failed, Finished, Progress, Report};
    use crate::master::{Master, Settings};
    use crate::names::Epoch;
    use crate::record::{BUILTIN_COUNT, FailureClass};
    use crate::spec::JobOptions;
    use crate::tests::hostile::{image, worker};

    const JOB: JobId = JobId(1);

    fn report(at: u64, sequence: u64) -> Report {
        Report {
            incarnation: Incarnation(at),
            sequence,
            epoch: Epoch(5),
            accepted: AttemptId::NONE,
            running: Vec::new(),
            finished: Vec::new(),
            failed: Vec::new(),
            fetch_failed: Vec::new(),
            known: Vec::new(),
        }
    }

    fn assigned(effects: Vec<Effect>) -> Vec<Assignment> {
        let assigned = effects.into_iter().filter_map(|effect| match effect {
            Effect::Assign { assignment, .. } => Some(*assignment),
            Effect::Append { .. }
            | Effect::Tell { .. }
            | Effect::Stop { .. }
            | Effect::Locations { .. }
            | Effect::JobEnded { .. }
            | Effect::Rejected { .. }
            | Effect::Unreadable { .. }
            | Effect::SteppedDown { .. } => None,
        });
        assigned.collect()
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// A master with a job of five maps and two reduces, a worker, and what runs there.
    fn bench() -> (Master, Vec<Assignment>) {
        let mut master = Master::new(Epoch(5), Settings::default(), Duration::ZERO);
        let image = image(JOB.0, 5, 2, JobOptions::default());
        master.step(Duration::ZERO, Event::Job(Box::new(image)));
        master.step(Duration::ZERO, Event::Joined(worker(1, 11, 2)));
        let joined = master.worker(Incarnation(11)).expect("it is there");
        assert!(joined.is_silent, "it has said nothing yet");
        master.step(Duration::ZERO, Event::Confirmed);
        let effects = master.step(secs(3), Event::Report(Box::new(report(11, 1))));
        let running = assigned(effects);
        assert_eq!(running.len(), 2, "as many as it has slots");
        (master, running)
    }

    #[test]
    fn workers_are_shown_with_what_they_run_and_when_they_were_heard() {
        let (mut master, running) = bench();
        master.step(secs(5), Event::Time);
        let all: Vec<_> = master.workers().collect();
        let [one] = all[..] else {
            panic!("one worker is there, found {}", all.len());
        };
        assert_eq!((one.running, one.heard), (2, secs(2)));
        assert_eq!((one.is_silent, one.rests), (false, Duration::ZERO));
        let under_way: Vec<_> = master.under_way().map(|(_, task, _)| task).collect();
        let assigned: Vec<_> = running.iter().map(|it| it.task).collect();
        assert_eq!(under_way, assigned);
        let found = master.whose(running[0].attempt);
        assert_eq!(found, Some((JOB, running[0].task, Incarnation(11))));
        master.step(secs(5), Event::Gone(Incarnation(11)));
        assert_eq!(master.workers().count(), 0);
        assert_eq!(master.worker(Incarnation(11)), None);
        assert_eq!(master.whose(running[0].attempt), None);
    }

    #[test]
    fn tasks_that_run_come_first_then_those_that_failed_and_each_once() {
        let (mut master, running) = bench();
        let (first, second) = (&running[0], &running[1]);
        let mut said = report(11, 2);
        said.failed.push(Failed {
            job: JOB,
            task: first.task,
            attempt: first.attempt,
            class: FailureClass::UserCode,
            message: "no".to_owned(),
            position: None,
        });
        said.running.push(Progress {
            job: JOB,
            task: second.task,
            attempt: second.attempt,
            bytes: 70,
            records: 7,
        });
        let next = assigned(master.step(secs(4), Event::Report(Box::new(said))));
        let other = next.first().expect("a slot was free").task;
        let tasks = master.tasks(JOB, 0, 100);
        let mut names: Vec<_> = tasks.iter().map(|task| task.task).collect();
        assert_eq!(names.len(), 7, "{names:?}");
        assert!(tasks[0].attempts.len() == 1 && tasks[1].attempts.len() == 1);
        assert!(names[..2].contains(&second.task) && names[..2].contains(&other));
        let shown = tasks.iter().find(|task| task.task == second.task);
        let shown = shown
            .and_then(|task| task.attempts.first())
            .expect("it runs");
        assert_eq!((shown.bytes, shown.records), (70, 7));
        assert_eq!(shown.runtime, secs(1));
        let failed = tasks.iter().find(|task| task.task == first.task);
        assert_eq!(failed.map(|task| task.failures), Some(1));
        let pages = [
            master.tasks(JOB, 0, 3),
            master.tasks(JOB, 3, 3),
            master.tasks(JOB, 6, 3),
        ];
        assert_eq!(pages.concat(), tasks, "pages are parts of the whole");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 7, "each once");
        // Nothing runs any more: what failed comes first, in whatever order it was found.
        master.step(secs(4), Event::Gone(Incarnation(11)));
        let tasks = master.tasks(JOB, 0, 100);
        let shown: Vec<_> = tasks
            .iter()
            .map(|task| (task.task, task.failures))
            .collect();
        assert_eq!(shown[0], (first.task, 1), "{shown:?}");
        assert!(
            shown[1..].iter().all(|(_, failures)| *failures == 0),
            "{shown:?}"
        );
        assert!(
            tasks.iter().all(|task| task.attempts.is_empty()),
            "{shown:?}"
        );
        assert_eq!(master.tasks(JobId(2), 0, 10), []);
        assert_eq!(master.tasks(JOB, usize::MAX, usize::MAX), []);
    }

    #[test]
    fn a_median_is_there_once_a_task_is_done() {
        let (mut master, running) = bench();
        assert_eq!(master.median(JOB, Phase::Map), None);
        let one = &running[0];
        let mut said = report(11, 2);
        said.finished.push(Finished {
            job: JOB,
            task: one.task,
            attempt: one.attempt,
            outputs: Vec::new(),
            content: 3,
            inputs: 0,
            builtin: [4; BUILTIN_COUNT],
            counters: Vec::new(),
        });
        master.step(secs(7), Event::Report(Box::new(said)));
        let median = master.median(JOB, Phase::Map).expect("one is done");
        assert!(median >= secs(4) && median < secs(5), "{median:?}");
        assert_eq!(master.median(JOB, Phase::Reduce), None);
        let state = master.state(JOB).expect("it runs");
        assert_eq!(state.phase_counters(Phase::Map)[0], ("records_in", 4));
        assert_eq!(state.phase_counters(Phase::Reduce)[0], ("records_in", 0));
    }
}
