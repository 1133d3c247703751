//! A job as people see it, from the copy of what the group has: for tables, pages and JSON.
//!
//! What only the master in office knows, such as what runs, is in answers to `Inspect`
//! ([`crate::cluster::live`]); all that is here survives it.

use crate::cluster::copy::{Copy, JobCopy, Mishap};
use crate::cluster::words;
use crate::engine::task::OWN;
use mapreduce_core::names::{AttemptId, Epoch, JobId, Phase, TaskId};
use mapreduce_core::record::JobStatus;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::time::Duration;

/// How it stands with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Running,
    /// Its tasks are done, and its output is not in its place yet.
    Publishing,
    Done,
    Failed,
    Cancelled,
    /// What the group has of it cannot be read: nothing is done for it.
    Damaged,
}

impl State {
    pub(crate) const ALL: [Self; 6] = [
        Self::Running,
        Self::Publishing,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::Damaged,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Publishing => "publishing",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Damaged => "damaged",
        }
    }

    /// Nothing more comes of it.
    pub(crate) fn is_over(self) -> bool {
        match self {
            Self::Running | Self::Publishing => false,
            Self::Done | Self::Failed | Self::Cancelled | Self::Damaged => true,
        }
    }
}

/// A phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PhaseOf {
    pub(crate) tasks: u32,
    /// With a winner that is recorded.
    pub(crate) done: u32,
    /// Failures that count.
    pub(crate) failures: u64,
    /// Sums over winners, by group and name; none where only the list was asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) counters: BTreeMap<String, BTreeMap<String, u64>>,
}

impl PhaseOf {
    /// A counter of this library's own.
    pub(crate) fn own(&self, name: &str) -> u64 {
        self.counter(OWN, name)
    }

    pub(crate) fn counter(&self, group: &str, name: &str) -> u64 {
        let group = self.counters.get(group);
        group
            .and_then(|group| group.get(name))
            .copied()
            .unwrap_or(0)
    }
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    #[serde(serialize_with = "as_text")]
    pub(crate) task: TaskId,
    #[serde(serialize_with = "as_text")]
    pub(crate) attempt: AttemptId,
    /// Which worker ran it, if the master in office knows that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) worker: Option<String>,
    /// How.
    pub(crate) class: String,
    /// The record at which it was, from 0 in its split or partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) record: Option<u64>,
    pub(crate) message: String,
}

fn as_text<S: Serializer>(what: &impl ToString, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&what.to_string())
}

impl Failure {
    fn new(mishap: &Mishap) -> Self {
        Self {
            task: mishap.task,
            attempt: mishap.attempt,
            worker: None,
            class: mishap.class.to_string(),
            record: mishap.position,
            message: mishap.message.clone(),
        }
    }

    /// In one line.
    pub(crate) fn told(&self) -> String {
        let mut text = format!("{} attempt {}", self.task, self.attempt);
        if let Some(worker) = &self.worker {
            text = format!("{text} on {worker}");
        }
        if let Some(record) = self.record {
            text = format!("{text} at record {record}");
        }
        words::line(&format!("{text}: {}: {}", self.class, self.message))
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct View {
    pub(crate) key: String,
    #[serde(serialize_with = "as_text")]
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) state: State,
    /// Why it failed, is not published yet, or cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// The task with which it failed.
    #[serde(skip)]
    pub(crate) failed_task: Option<TaskId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<String>,
    /// All is done for it: its output is in its place, or nothing is left of it.
    pub(crate) settled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) submitted_ms: Option<u64>,
    pub(crate) input_octets: u64,
    pub(crate) maps: PhaseOf,
    pub(crate) reduces: PhaseOf,
    /// The latest, the last one last.
    pub(crate) failures: Vec<Failure>,
}

impl View {
    /// What a list shows.
    pub(crate) fn brief(key: &str, job: &JobCopy) -> Self {
        let info = job.info.clone().unwrap_or_default();
        let destination = job.destination.as_ref();
        let is_settled = destination.is_some_and(|to| to.settled);
        let (state, problem) = state(job, is_settled);
        let failed_task = match &job.header.status {
            JobStatus::Failed(failure) => failure.task,
            JobStatus::Running | JobStatus::Done | JobStatus::Cancelled => None,
        };
        Self {
            key: key.to_owned(),
            id: job.id,
            name: info.name,
            state,
            problem,
            failed_task,
            output: destination.map(|to| to.target.display().to_string()),
            settled: is_settled,
            submitted_ms: job.info.as_ref().map(|info| info.submitted_ms),
            input_octets: info.input_octets,
            maps: phase(job, Phase::Map),
            reduces: phase(job, Phase::Reduce),
            failures: job.mishaps.iter().map(Failure::new).collect(),
        }
    }

    /// With its counters, which are summed over all its tasks.
    pub(crate) fn whole(key: &str, job: &JobCopy) -> Self {
        let counters = |phase| {
            let mut groups = BTreeMap::<_, BTreeMap<_, _>>::new();
            for (name, count) in job.state.phase_counters(phase) {
                // Others are the core's own, which nobody counts by.
                if let Some((group, name)) = name.split_once('/') {
                    let count = u64::try_from(count).unwrap_or(u64::MAX);
                    let group = groups.entry(group.to_owned()).or_default();
                    group.insert(name.to_owned(), count);
                }
            }
            groups
        };
        let mut view = Self::brief(key, job);
        view.maps.counters = counters(Phase::Map);
        view.reduces.counters = counters(Phase::Reduce);
        view
    }

    pub(crate) fn phase(&self, phase: Phase) -> &PhaseOf {
        match phase {
            Phase::Map => &self.maps,
            Phase::Reduce => &self.reduces,
        }
    }

    /// It is done, and a person did not want its output any more.
    pub(crate) fn is_discarded(&self) -> bool {
        self.state == State::Done && self.problem.is_some()
    }

    /// It is over, and nothing is left to do for it.
    pub(crate) fn is_cleared(&self) -> bool {
        self.state.is_over() && self.settled
    }

    /// Since it was submitted, if that is known.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.submitted_ms.map(words::since_ms)
    }

    /// Its state, with the reason in the same line.
    pub(crate) fn told(&self) -> String {
        match &self.problem {
            Some(problem) => format!("{}: {}", self.state.name(), words::line(problem)),
            None => self.state.name().to_owned(),
        }
    }
}

fn state(job: &JobCopy, is_settled: bool) -> (State, Option<String>) {
    let unsettled = || job.destination.as_ref().and_then(|to| to.problem.clone());
    let given_up = || {
        let destination = job.destination.as_ref();
        let is_given_up = destination.is_some_and(|to| to.is_given_up);
        is_given_up.then(|| "its output was discarded".to_owned())
    };
    match (&job.header.status, &job.damage) {
        (JobStatus::Running, Some(damage)) => (State::Damaged, Some(damage.clone())),
        (JobStatus::Running, None) => (State::Running, None),
        (JobStatus::Done, _) if is_settled => (State::Done, given_up()),
        (JobStatus::Done, _) => (State::Publishing, unsettled()),
        (JobStatus::Failed(failure), _) => (State::Failed, Some(failure.to_string())),
        (JobStatus::Cancelled, _) => (State::Cancelled, unsettled()),
    }
}

fn phase(job: &JobCopy, phase: Phase) -> PhaseOf {
    let troubled = job.state.troubled().filter(|(task, _)| task.phase == phase);
    PhaseOf {
        tasks: job.state.count(phase),
        done: job.state.won(phase),
        failures: troubled.map(|(_, it)| u64::from(it.failures)).sum(),
        counters: BTreeMap::new(),
    }
}

/// The jobs of a copy, the oldest first.
pub(crate) fn all(copy: &Copy) -> Vec<View> {
    let views = copy.jobs.iter().map(|(key, job)| View::brief(key, job));
    let mut views: Vec<View> = views.collect();
    views.sort_by_key(|view| view.id);
    views
}

/// A task by what it is called: `map-00003`.
pub(crate) fn task_named(name: &str) -> Result<TaskId, String> {
    let number = |digits: &str| digits.parse().ok();
    let found = match name.split_once('-') {
        Some(("map", digits)) => number(digits).map(TaskId::map),
        Some(("reduce", digits)) => number(digits).map(TaskId::reduce),
        _ => None,
    };
    found.ok_or_else(|| "a task is called map-00003 or reduce-00000".to_owned())
}

/// An attempt by what it is called: `12.7`.
pub(crate) fn attempt_named(name: &str) -> Result<AttemptId, String> {
    let found = name.split_once('.').and_then(|(epoch, counter)| {
        let epoch = Epoch(epoch.parse().ok()?);
        let counter = counter.parse().ok()?;
        Some(AttemptId { epoch, counter })
    });
    found.ok_or_else(|| "an attempt is called by two numbers: 12.7".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_and_attempts_are_named_as_they_are_shown() {
        for task in [TaskId::map(3), TaskId::reduce(0), TaskId::map(249_999)] {
            assert_eq!(task_named(&task.to_string()), Ok(task));
        }
        for wrong in [
            "",
            "map",
            "map-",
            "map-x",
            "maps-1",
            "reduce--1",
            "map-5000000000",
        ] {
            assert!(task_named(wrong).is_err(), "{wrong}");
        }
        let attempt = AttemptId {
            epoch: Epoch(12),
            counter: 7,
        };
        assert_eq!(attempt_named(&attempt.to_string()), Ok(attempt));
        for wrong in ["", "12", "12.", ".7", "a.7", "12.7.1"] {
            assert!(attempt_named(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_failure_is_told_in_one_line_whatever_its_message_is() {
        let failure = Failure {
            task: TaskId::map(3),
            attempt: AttemptId {
                epoch: Epoch(12),
                counter: 7,
            },
            worker: Some("a".to_owned()),
            class: "the job's code failed".to_owned(),
            record: Some(17),
            message: "one\n\u{1b}[31mtwo".to_owned(),
        };
        let told = failure.told();
        let expected = "map-00003 attempt 12.7 on a at record 17: the job's code failed: one";
        assert_eq!(told, format!("{expected} [31mtwo"));
    }
}
