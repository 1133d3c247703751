//! Reports and what comes back for them, between the core's types and messages. What comes from the
//! network is bounded by the size of a message and checked by the core; here it is only that all is
//! there.

use crate::cluster::proto;
use mapreduce_core::master::event::{
    Assignment, Effect, Failed, FetchFailed, Finished, Location, Outcome, Progress, Report,
    StopReason,
};
use mapreduce_core::names::{AttemptId, Epoch, Incarnation, JobId, Phase, TaskId};
use mapreduce_core::record::{BUILTIN_COUNT, FailureClass, Output};

/// What a message lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message has no {0}, or one that is not known")]
pub(crate) struct Missing(&'static str);

pub(crate) fn attempt(attempt: AttemptId) -> proto::Attempt {
    proto::Attempt {
        epoch: attempt.epoch.0,
        counter: attempt.counter,
    }
}

pub(crate) fn attempt_of(attempt: Option<proto::Attempt>) -> Result<AttemptId, Missing> {
    let attempt = attempt.ok_or(Missing("attempt"))?;
    Ok(AttemptId {
        epoch: Epoch(attempt.epoch),
        counter: attempt.counter,
    })
}

pub(crate) fn task(task: TaskId) -> proto::Task {
    proto::Task {
        reduce: task.phase == Phase::Reduce,
        index: task.index,
    }
}

pub(crate) fn task_of(task: Option<proto::Task>) -> Result<TaskId, Missing> {
    let task = task.ok_or(Missing("task"))?;
    Ok(if task.reduce {
        TaskId::reduce(task.index)
    } else {
        TaskId::map(task.index)
    })
}

fn failure(class: FailureClass) -> proto::Failure {
    match class {
        FailureClass::UserCode => proto::Failure::UserCode,
        FailureClass::BadRecord => proto::Failure::BadRecord,
        FailureClass::FetchLost => proto::Failure::FetchLost,
        FailureClass::Killed => proto::Failure::Killed,
        FailureClass::Fenced => proto::Failure::Fenced,
        FailureClass::DiskFull => proto::Failure::DiskFull,
        FailureClass::IoRetryable => proto::Failure::IoRetryable,
        FailureClass::IoFatal => proto::Failure::IoFatal,
    }
}

fn failure_of(failure: proto::Failure) -> Result<FailureClass, Missing> {
    Ok(match failure {
        proto::Failure::Unspecified => return Err(Missing("failure")),
        proto::Failure::UserCode => FailureClass::UserCode,
        proto::Failure::BadRecord => FailureClass::BadRecord,
        proto::Failure::FetchLost => FailureClass::FetchLost,
        proto::Failure::Killed => FailureClass::Killed,
        proto::Failure::Fenced => FailureClass::Fenced,
        proto::Failure::DiskFull => FailureClass::DiskFull,
        proto::Failure::IoRetryable => FailureClass::IoRetryable,
        proto::Failure::IoFatal => FailureClass::IoFatal,
    })
}

/// A report as a message.
pub(crate) fn report(report: &Report) -> proto::ReportRequest {
    proto::ReportRequest {
        incarnation: report.incarnation.0,
        sequence: report.sequence,
        epoch: report.epoch.0,
        accepted: Some(attempt(report.accepted)),
        running: report.running.iter().map(running).collect(),
        finished: report.finished.iter().map(finished).collect(),
        failed: report.failed.iter().map(failed).collect(),
        fetch_failed: report.fetch_failed.iter().map(fetch_failed).collect(),
        known: report
            .known
            .iter()
            .map(|(job, changes)| proto::Known {
                job: job.0,
                changes: *changes,
            })
            .collect(),
    }
}

fn running(running: &Progress) -> proto::Running {
    proto::Running {
        job: running.job.0,
        task: Some(task(running.task)),
        attempt: Some(attempt(running.attempt)),
        bytes: running.bytes,
        records: running.records,
        // The master decides nothing by it: it is put beside.
        status: String::new(),
    }
}

fn finished(finished: &Finished) -> proto::Finished {
    let output = |output: &Output| proto::Output {
        name: output.name.clone(),
        length: output.length,
        checksum: output.checksum,
    };
    let counter = |(name, count): &(String, u64)| proto::Counter {
        name: name.clone(),
        count: *count,
    };
    proto::Finished {
        job: finished.job.0,
        task: Some(task(finished.task)),
        attempt: Some(attempt(finished.attempt)),
        outputs: finished.outputs.iter().map(output).collect(),
        content: finished.content,
        inputs: finished.inputs,
        builtin: finished.builtin.to_vec(),
        counters: finished.counters.iter().map(counter).collect(),
    }
}

fn failed(failed: &Failed) -> proto::Failed {
    proto::Failed {
        job: failed.job.0,
        task: Some(task(failed.task)),
        attempt: Some(attempt(failed.attempt)),
        failure: failure(failed.class).into(),
        message: failed.message.clone(),
        position: failed.position,
    }
}

fn fetch_failed(failed: &FetchFailed) -> proto::FetchFailed {
    proto::FetchFailed {
        job: failed.job.0,
        reader: Some(attempt(failed.reader)),
        map: failed.map,
        attempt: Some(attempt(failed.attempt)),
        holder: failed.holder.0,
        damaged: failed.damaged,
    }
}

/// A message as a report.
pub(crate) fn report_of(report: proto::ReportRequest) -> Result<Report, Missing> {
    Ok(Report {
        incarnation: Incarnation(report.incarnation),
        sequence: report.sequence,
        epoch: Epoch(report.epoch),
        accepted: attempt_of(report.accepted)?,
        running: all(report.running, |one| {
            Ok(Progress {
                job: JobId(one.job),
                task: task_of(one.task)?,
                attempt: attempt_of(one.attempt)?,
                bytes: one.bytes,
                records: one.records,
            })
        })?,
        finished: all(report.finished, finished_of)?,
        failed: all(report.failed, |one| {
            Ok(Failed {
                job: JobId(one.job),
                task: task_of(one.task)?,
                attempt: attempt_of(one.attempt)?,
                class: failure_of(one.failure())?,
                message: one.message,
                position: one.position,
            })
        })?,
        fetch_failed: all(report.fetch_failed, |one| {
            Ok(FetchFailed {
                job: JobId(one.job),
                reader: attempt_of(one.reader)?,
                map: one.map,
                attempt: attempt_of(one.attempt)?,
                holder: Incarnation(one.holder),
                damaged: one.damaged,
            })
        })?,
        known: report
            .known
            .into_iter()
            .map(|one| (JobId(one.job), one.changes))
            .collect(),
    })
}

fn all<A, B>(from: Vec<A>, to: impl FnMut(A) -> Result<B, Missing>) -> Result<Vec<B>, Missing> {
    from.into_iter().map(to).collect()
}

fn finished_of(one: proto::Finished) -> Result<Finished, Missing> {
    let builtin: [u64; BUILTIN_COUNT] = one
        .builtin
        .try_into()
        .map_err(|_| Missing("built-in counters"))?;
    let output = |output: proto::Output| Output {
        name: output.name,
        length: output.length,
        checksum: output.checksum,
    };
    Ok(Finished {
        job: JobId(one.job),
        task: task_of(one.task)?,
        attempt: attempt_of(one.attempt)?,
        outputs: one.outputs.into_iter().map(output).collect(),
        content: one.content,
        inputs: one.inputs,
        builtin,
        counters: one
            .counters
            .into_iter()
            .map(|counter| (counter.name, counter.count))
            .collect(),
    })
}

/// What a worker is sent of an effect: with whom it is for, and nothing of those that are the
/// master's own.
pub(crate) fn effect(effect: Effect) -> Option<(Incarnation, proto::Effect)> {
    use proto::effect::Effect as To;
    let (to, effect) = match effect {
        Effect::Assign { to, assignment } => (to, To::Assign(assign(*assignment))),
        Effect::Tell {
            to,
            job,
            attempt: of,
            outcome,
        } => (to, To::Tell(tell(job, of, outcome))),
        Effect::Stop {
            to,
            job,
            attempt: of,
            reason,
        } => (to, To::Stop(stop(job, of, reason))),
        Effect::Locations {
            to,
            job,
            from,
            next,
            known,
            entries,
        } => {
            let entries = entries.iter().map(location).collect();
            let locations = proto::Locations {
                job: job.0,
                from,
                next,
                known,
                entries,
            };
            (to, To::Locations(locations))
        }
        Effect::Append { .. }
        | Effect::JobEnded { .. }
        | Effect::Rejected { .. }
        | Effect::Unreadable { .. }
        | Effect::SteppedDown { .. } => return None,
    };
    let effect = Some(effect);
    Some((to, proto::Effect { effect }))
}

fn assign(assignment: Assignment) -> proto::Assign {
    let skip = |(first, count)| proto::Skip { first, count };
    proto::Assign {
        job: assignment.job.0,
        task: Some(task(assignment.task)),
        attempt: Some(attempt(assignment.attempt)),
        epoch: assignment.epoch.0,
        maps: assignment.maps,
        reduces: assignment.reduces,
        skip: assignment.skip.into_iter().map(skip).collect(),
    }
}

/// An assignment of a message.
pub(crate) fn assignment_of(assign: proto::Assign) -> Result<Assignment, Missing> {
    Ok(Assignment {
        job: JobId(assign.job),
        task: task_of(assign.task)?,
        attempt: attempt_of(assign.attempt)?,
        epoch: Epoch(assign.epoch),
        maps: assign.maps,
        reduces: assign.reduces,
        skip: assign
            .skip
            .into_iter()
            .map(|skip| (skip.first, skip.count))
            .collect(),
    })
}

fn tell(job: JobId, of: AttemptId, outcome: Outcome) -> proto::Tell {
    let (outcome, winner) = match outcome {
        Outcome::Won => (proto::Outcome::Won, None),
        Outcome::AlreadyWon => (proto::Outcome::AlreadyWon, None),
        Outcome::Lost(winner) => (proto::Outcome::Lost, Some(attempt(winner))),
        Outcome::Fenced => (proto::Outcome::GivenUp, None),
        Outcome::Noted => (proto::Outcome::Noted, None),
    };
    proto::Tell {
        job: job.0,
        attempt: Some(attempt(of)),
        outcome: outcome.into(),
        winner,
    }
}

/// What a message tells of an attempt.
pub(crate) fn outcome_of(tell: &proto::Tell) -> Result<Outcome, Missing> {
    Ok(match tell.outcome() {
        proto::Outcome::Unspecified => return Err(Missing("outcome")),
        proto::Outcome::Won => Outcome::Won,
        proto::Outcome::AlreadyWon => Outcome::AlreadyWon,
        proto::Outcome::Lost => Outcome::Lost(attempt_of(tell.winner)?),
        proto::Outcome::GivenUp => Outcome::Fenced,
        proto::Outcome::Noted => Outcome::Noted,
    })
}

fn stop(job: JobId, of: AttemptId, reason: StopReason) -> proto::Stop {
    let (reason, winner) = match reason {
        StopReason::Lost(winner) => (proto::Reason::AnotherWon, Some(attempt(winner))),
        StopReason::JobOver => (proto::Reason::JobOver, None),
        StopReason::GivenUp => (proto::Reason::NotWanted, None),
        StopReason::InputsChanged => (proto::Reason::InputsChanged, None),
    };
    proto::Stop {
        job: job.0,
        attempt: Some(attempt(of)),
        reason: reason.into(),
        winner,
    }
}

fn location((map, location): &(u32, Option<Location>)) -> proto::Location {
    proto::Location {
        map: *map,
        attempt: location.map(|location| attempt(location.attempt)),
        incarnation: location.map_or(0, |location| location.incarnation.0),
        content: location.map_or(0, |location| location.content),
    }
}

/// A location of a message.
pub(crate) fn location_of(one: &proto::Location) -> Result<(u32, Option<Location>), Missing> {
    let attempt = match one.attempt {
        Some(attempt) => Some(attempt_of(Some(attempt))?),
        None => None,
    };
    let location = attempt.map(|attempt| Location {
        attempt,
        incarnation: Incarnation(one.incarnation),
        content: one.content,
    });
    Ok((one.map, location))
}
