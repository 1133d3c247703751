//! What the master in office tells people: answers to `Inspect`, built from what it decides by.
//!
//! Invariant: an answer is bounded, whatever runs: [`ANSWER_MAX`] entries of each list, and counts
//! that say how many there are.

use crate::cluster::master::{Office, Shared};
use crate::cluster::{proto, wire};
use crate::engine::progress::STATUS_MAX;
use mapreduce_core::master::event::Report;
use mapreduce_core::master::{AttemptView, Master, TaskView, WorkerView};
use mapreduce_core::names::{AttemptId, Incarnation, JobId, Phase, TaskId};
use mapreduce_core::record::bounded;
use std::collections::BTreeMap;
use std::time::Duration;

/// Entries of one list in an answer; 1,000 tasks with an attempt each are some 100 KiB.
pub(crate) const ANSWER_MAX: usize = 1_000;
/// Failed attempts of which it is kept where they ran, of all jobs: 1 MiB.
const FAILED_MAX: usize = 10_000;

/// Where attempts ran that failed under this master; the log of the group does not have it.
#[derive(Default)]
pub(super) struct FailedAt(BTreeMap<AttemptId, Failed>);

struct Failed {
    job: JobId,
    task: TaskId,
    incarnation: Incarnation,
    worker: String,
}

impl FailedAt {
    /// Notes what a report says of attempts that are under way, before the master takes it.
    pub(super) fn note(&mut self, master: &Master, report: &Report) {
        for failed in &report.failed {
            let id = failed.attempt;
            let Some((job, task, incarnation)) = master.whose(id) else {
                continue;
            };
            if incarnation != report.incarnation {
                continue;
            }
            let worker = name_of(master, incarnation);
            let failed = Failed {
                job,
                task,
                incarnation,
                worker,
            };
            self.0.insert(id, failed);
            if self.0.len() > FAILED_MAX {
                self.0.pop_first();
            }
        }
    }

    fn of(&self, job: JobId) -> Vec<proto::FailedSeen> {
        let of = self.0.iter().filter(|(_, failed)| failed.job == job);
        let mut latest: Vec<_> = of.rev().take(ANSWER_MAX).collect();
        latest.reverse();
        let seen = latest.into_iter().map(|(id, failed)| proto::FailedSeen {
            task: Some(wire::task(failed.task)),
            attempt: Some(wire::attempt(*id)),
            incarnation: failed.incarnation.0,
            worker: failed.worker.clone(),
        });
        seen.collect()
    }
}

/// What the code of attempts says of them, as their workers have told last.
#[derive(Default)]
pub(super) struct Said(BTreeMap<Incarnation, BTreeMap<AttemptId, String>>);

impl Said {
    /// Notes what a report says; of strangers nothing is kept.
    pub(super) fn note(&mut self, master: &Master, report: &proto::ReportRequest) {
        let from = Incarnation(report.incarnation);
        if master.worker(from).is_none() {
            return;
        }
        let told = report.running.iter().filter(|it| !it.status.is_empty());
        let told = told.take(ANSWER_MAX).filter_map(|it| {
            let attempt = wire::attempt_of(it.attempt).ok()?;
            Some((attempt, bounded(&it.status, STATUS_MAX).to_owned()))
        });
        let told: BTreeMap<_, _> = told.collect();
        if told.is_empty() {
            self.0.remove(&from);
        } else {
            self.0.insert(from, told);
        }
    }

    /// A worker is gone.
    pub(super) fn forget(&mut self, worker: Incarnation) {
        self.0.remove(&worker);
    }

    fn of(&self, worker: Incarnation, attempt: AttemptId) -> String {
        let told = self.0.get(&worker).and_then(|told| told.get(&attempt));
        told.cloned().unwrap_or_default()
    }
}

fn name_of(master: &Master, worker: Incarnation) -> String {
    let found = master.worker(worker);
    found.map_or_else(String::new, |it| it.info.name.to_string())
}

/// What is asked for; none unless this is the master in office.
pub(super) fn inspect(
    shared: &Shared,
    asked: &proto::InspectRequest,
) -> Option<proto::InspectResponse> {
    let answer = shared.with(|office| (!office.is_over).then(|| answer(office, asked)));
    answer.flatten()
}

/// Whether this is the master in office.
pub(super) fn is_in_office(shared: &Shared) -> bool {
    shared.with(|office| !office.is_over) == Some(true)
}

fn answer(office: &Office, asked: &proto::InspectRequest) -> proto::InspectResponse {
    let master = &office.master;
    let running = read_so_far(master);
    let jobs = master.jobs().take(ANSWER_MAX);
    let mut answer = proto::InspectResponse {
        epoch: master.epoch().0,
        jobs: jobs.filter_map(|id| job(master, id, &running)).collect(),
        jobs_count: count(master.jobs().count()),
        workers: master.workers().take(ANSWER_MAX).map(worker).collect(),
        workers_count: count(master.workers().count()),
        memory: master.memory_bytes() as u64,
        ..proto::InspectResponse::default()
    };
    if let Some(id) = asked.job.map(JobId) {
        let max = (asked.tasks_max as usize).min(ANSWER_MAX);
        let tasks = master.tasks(id, asked.tasks_from as usize, max);
        answer.tasks = tasks.into_iter().map(|it| task(office, it)).collect();
        answer.tasks_count = master
            .view(id)
            .map_or(0, |view| view.maps.count.saturating_add(view.reduces.count));
        answer.failed = office.failed_at.of(id);
    }
    answer
}

/// Octets and records.
type Read = BTreeMap<(JobId, Phase), (u64, u64)>;

/// What was read for tasks that have no winner yet: of two attempts at one, by the faster.
fn read_so_far(master: &Master) -> Read {
    let mut tasks: BTreeMap<(JobId, TaskId), (u64, u64)> = BTreeMap::new();
    for (job, task, attempt) in master.under_way() {
        let state = master.state(job);
        if state.is_some_and(|state| state.winner(task).is_none()) || attempt.is_finished {
            let most = tasks.entry((job, task)).or_default();
            *most = (*most).max((attempt.bytes, attempt.records));
        }
    }
    let mut phases = Read::new();
    for ((job, task), (octets, records)) in tasks {
        let sum = phases.entry((job, task.phase)).or_default();
        sum.0 = sum.0.saturating_add(octets);
        sum.1 = sum.1.saturating_add(records);
    }
    phases
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn job(master: &Master, id: JobId, running: &Read) -> Option<proto::JobSeen> {
    let (view, state) = (master.view(id)?, master.state(id)?);
    let phase = |phase| {
        let seen = match phase {
            Phase::Map => view.maps,
            Phase::Reduce => view.reduces,
        };
        let troubled = state.troubled().filter(|(task, _)| task.phase == phase);
        let (octets, records) = running.get(&(id, phase)).copied().unwrap_or_default();
        proto::PhaseSeen {
            count: seen.count,
            won: seen.won,
            running: seen.busy,
            waiting: seen.waiting,
            failures: troubled.map(|(_, it)| u64::from(it.failures)).sum(),
            median_ms: master.median(id, phase).map(ms),
            octets_running: octets,
            records_running: records,
        }
    };
    Some(proto::JobSeen {
        job: id.0,
        maps: Some(phase(Phase::Map)),
        reduces: Some(phase(Phase::Reduce)),
        batches_written: view.written.0,
        octets_written: view.written.1,
    })
}

fn worker(worker: WorkerView<'_>) -> proto::WorkerSeen {
    proto::WorkerSeen {
        name: worker.info.name.to_string(),
        incarnation: worker.info.incarnation.0,
        host: worker.info.host.to_string(),
        zone: worker.info.zone.to_string(),
        slots: worker.info.slots,
        running: worker.running,
        heard_ms: ms(worker.heard),
        silent: worker.is_silent,
        rests_ms: ms(worker.rests),
    }
}

fn task(office: &Office, seen: TaskView) -> proto::TaskSeen {
    let attempt = |it: &AttemptView| proto::AttemptSeen {
        attempt: Some(wire::attempt(it.attempt)),
        incarnation: it.worker.0,
        worker: name_of(&office.master, it.worker),
        runtime_ms: ms(it.runtime),
        octets: it.bytes,
        records: it.records,
        backup: it.is_backup,
        finished: it.is_finished,
        status: office.said.of(it.worker, it.attempt),
    };
    proto::TaskSeen {
        task: Some(wire::task(seen.task)),
        winner: seen.winner.map(|(winner, _)| wire::attempt(winner)),
        winner_incarnation: seen.winner.map_or(0, |(_, at)| at.0),
        attempts: seen.attempts.iter().map(attempt).collect(),
        failures: seen.failures,
    }
}
