//! What attempts have printed to standard error: which attempts a person means, and, at a worker,
//! how long their logs are kept.

use crate::cluster::copy::{Changed, Copy, JobCopy};
use crate::cluster::live::{self, NoLog};
use crate::cluster::proto;
use crate::cluster::shuffle::LOGS;
use crate::cluster::wire;
use crate::{Error, Result};
use fs_err as fs;
use mapreduce_core::names::{AttemptId, Incarnation, JobId, TaskId};
use std::collections::BTreeSet;
use std::path::Path;

/// Attempts whose logs are shown at a time.
const SHOWN_MAX: usize = 20;

/// Which logs are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) task: Option<TaskId>,
    pub(crate) attempt: Option<AttemptId>,
}

/// An attempt that has run, or runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// None: it is not known of which task it was.
    pub(crate) task: Option<TaskId>,
    pub(crate) attempt: AttemptId,
    /// The life of the worker that ran it, and its name, as far as they are known.
    pub(crate) at: Option<Incarnation>,
    pub(crate) worker: Option<String>,
}

impl Ran {
    /// As a person names it.
    pub(crate) fn told(&self) -> String {
        let task = self
            .task
            .map_or_else(String::new, |task| format!("{task} "));
        let worker = self.worker.as_deref().filter(|name| !name.is_empty());
        let worker = worker.map_or_else(String::new, |name| format!(" on {name}"));
        format!("{task}attempt {}{worker}", self.attempt)
    }
}

/// The attempts that are meant: the one that is named; those of the task that is named; else those
/// that failed, or, when none has, those that run. With how many more there would be.
pub(crate) fn meant(
    copy: &Copy,
    (key, id): (&str, JobId),
    live: Option<&proto::InspectResponse>,
    wanted: Wanted,
) -> Result<(Vec<Ran>, usize)> {
    let job = copy.jobs.get(key).ok_or("the job is not there any more")?;
    if let Some(task) = wanted.task
        && task.index >= job.state.count(task.phase)
    {
        let (count, phase) = (job.state.count(task.phase), task.phase);
        return Err(format!("job {key} has no task {task}: it has {count} {phase} tasks").into());
    }
    let failed = failed(job, live);
    let running = live.map(live::running).unwrap_or_default();
    let running = running.into_iter().map(|runs| Ran {
        task: Some(runs.task),
        attempt: runs.attempt,
        at: Some(runs.incarnation),
        worker: Some(runs.worker),
    });
    let mut meant: Vec<Ran> = match (wanted.task, wanted.attempt) {
        (None, None) if !failed.is_empty() => failed,
        (None, None) => running.collect(),
        (task, _) => {
            let won = task.and_then(|task| won(copy, job, task));
            let others = live.into_iter().flat_map(uncounted);
            let all = failed.into_iter().chain(others);
            all.chain(running).chain(won).collect()
        }
    };
    meant.retain(|ran| {
        wanted.task.is_none_or(|task| ran.task == Some(task))
            && wanted.attempt.is_none_or(|attempt| ran.attempt == attempt)
    });
    let mut known = BTreeSet::new();
    meant.retain(|ran| known.insert(ran.attempt));
    match wanted.attempt {
        Some(attempt) if meant.is_empty() => meant.push(Ran {
            task: wanted.task,
            attempt,
            at: None,
            worker: None,
        }),
        _ if meant.is_empty() => return Err(nothing(key, id, wanted, live.is_some())),
        _ => {}
    }
    // The latest are of interest.
    let more = meant.len().saturating_sub(SHOWN_MAX);
    Ok((meant.split_off(more), more))
}

/// Attempts whose failures are in the group.
fn failed(job: &JobCopy, live: Option<&proto::InspectResponse>) -> Vec<Ran> {
    let place = |attempt| live.and_then(|live| live::failed_at(live, attempt));
    let failed = job.mishaps.iter().map(|mishap| {
        let at = place(mishap.attempt);
        Ran {
            task: Some(mishap.task),
            attempt: mishap.attempt,
            at: at.as_ref().map(|(at, _)| *at),
            worker: at.map(|(_, worker)| worker),
        }
    });
    failed.collect()
}

/// Attempts that failed in whatever way: those that do not count are known to the master alone.
fn uncounted(live: &proto::InspectResponse) -> impl Iterator<Item = Ran> {
    live.failed.iter().filter_map(|failed| {
        Some(Ran {
            task: Some(wire::task_of(failed.task).ok()?),
            attempt: wire::attempt_of(failed.attempt).ok()?,
            at: Some(Incarnation(failed.incarnation)),
            worker: Some(failed.worker.clone()),
        })
    })
}

/// The attempt that won a task.
fn won(copy: &Copy, job: &JobCopy, task: TaskId) -> Option<Ran> {
    let winner = job.state.winner(task)?;
    Some(Ran {
        task: Some(task),
        attempt: winner.attempt,
        at: Some(winner.incarnation),
        worker: name_of(copy, winner.incarnation),
    })
}

fn nothing(key: &str, id: JobId, wanted: Wanted, is_live: bool) -> Error {
    let what = match wanted.task {
        Some(task) => format!("no attempt of {task} is known"),
        None => format!("no attempt of {id} has failed, and none is known to run"),
    };
    let hint = if is_live {
        format!("`mapreduce logs {key} --task map-00000` shows those of one task")
    } else {
        "no master answers, and only it knows what runs".to_owned()
    };
    format!("{what}; {hint}").into()
}

fn name_of(copy: &Copy, life: Incarnation) -> Option<String> {
    let found = copy.workers.iter().find(|(_, (known, _))| *known == life);
    found.map(|(name, _)| name.clone())
}

/// What an attempt has printed.
pub(crate) async fn printed(
    workers: Vec<(Incarnation, String)>,
    job: JobId,
    ran: &Ran,
) -> Result<Vec<u8>, NoLog> {
    // A worker finds a log by job and attempt alone.
    let task = ran.task.unwrap_or(TaskId::map(0));
    live::log(workers, job, task, ran.attempt, ran.at).await
}

/// When a worker looks for logs of jobs that the group has no more: once it knows all jobs, and
/// when one is removed.
#[derive(Debug, Default)]
pub(crate) struct Sweeping {
    is_begun: bool,
}

impl Sweeping {
    /// The jobs whose logs stay, when there may be others.
    pub(crate) fn needed(&mut self, changed: &Changed, copy: &Copy) -> Option<BTreeSet<JobId>> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let is_gone = |key: &String| !copy.jobs.contains_key(key);
        (is_first || changed.jobs.iter().any(is_gone))
            .then(|| copy.jobs.values().map(|job| job.id).collect())
    }
}

/// Removes the logs of all other jobs, of a worker's directory.
pub(crate) fn sweep(directory: &Path, jobs: &BTreeSet<JobId>) {
    let Ok(entries) = fs::read_dir(directory.join(LOGS)) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let of = name.to_str().and_then(job_of);
        if of.is_some_and(|job| !jobs.contains(&job))
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(%error, "a log is left");
        }
    }
}

/// The job that a log is of: they are called `job-12-34.5`.
fn job_of(name: &str) -> Option<JobId> {
    let (job, _) = name.strip_prefix("job-")?.split_once('-')?;
    job.parse().ok().map(JobId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::shuffle::log_path;
    use mapreduce_core::names::Epoch;

    #[test]
    fn logs_go_with_their_jobs_and_nothing_else_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path();
        fs::create_dir(at.join(LOGS)).expect("a directory");
        let attempt = |counter| AttemptId {
            epoch: Epoch(34),
            counter,
        };
        let kept = log_path(at, JobId(12), attempt(1));
        let gone = log_path(at, JobId(1), attempt(2));
        let foreign = at.join(LOGS).join("notes");
        for path in [&kept, &gone, &foreign] {
            fs::write(path, "x").expect("a file");
        }
        sweep(at, &BTreeSet::from([JobId(12)]));
        assert!(kept.exists() && foreign.exists() && !gone.exists());
        sweep(&at.join("nowhere"), &BTreeSet::new());
    }
}
