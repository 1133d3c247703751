//! What Prometheus is told by masters and workers: read when it is asked for, so it cannot go
//! stale.
//!
//! Invariant: the number of time series is fixed. Names of jobs, workers and counters never become
//! labels.

use crate::cluster::proto;
use crate::cluster::view::State;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;

/// What a monitor is told that this is.
pub(crate) const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as text.
pub(crate) fn text(present: impl Collector) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(present));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// A master at one moment.
#[derive(Debug)]
pub(crate) struct OfMaster {
    /// Its copy is as the group has it.
    pub(crate) is_fresh: bool,
    /// How it stands with each job.
    pub(crate) jobs: Vec<State>,
    /// What it knows if it is in office; none when it stands by.
    pub(crate) office: Option<proto::InspectResponse>,
}

impl Collector for OfMaster {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut to;
        let help = "1 while the copy of the group is confirmed";
        gauge(to, "master_fresh", help, u64::from(self.is_fresh))?;
        let help = "1 while it is the master in office, 0 while it stands by";
        gauge(
            to,
            "master_in_office",
            help,
            u64::from(self.office.is_some()),
        )?;
        let jobs = State::ALL.map(|state| {
            let count = self.jobs.iter().filter(|of| **of == state).count();
            ([("state", state.name())], count as u64)
        });
        family(
            to,
            "jobs",
            "Jobs that the group has, by how it stands with them",
            &jobs,
        )?;
        match &self.office {
            Some(office) => in_office(to, office),
            None => Ok(()),
        }
    }
}

fn in_office(to: &mut DescriptorEncoder<'_>, office: &proto::InspectResponse) -> fmt::Result {
    gauge(
        to,
        "master_epoch",
        "Epoch of the master in office",
        office.epoch,
    )?;
    let help = "Memory of the master's state, about";
    gauge(to, "master_state_bytes", help, office.memory)?;
    let mut tasks = Vec::new();
    let (mut failures, mut read) = (Vec::new(), Vec::new());
    for name in ["map", "reduce"] {
        let phases = || {
            office.jobs.iter().filter_map(move |job| match name {
                "map" => job.maps.as_ref(),
                _ => job.reduces.as_ref(),
            })
        };
        let sum = |of: fn(&proto::PhaseSeen) -> u64| phases().map(of).sum();
        let states = [
            ("won", sum(|phase| phase.won.into())),
            ("running", sum(|phase| phase.running.into())),
            ("waiting", sum(|phase| phase.waiting.into())),
        ];
        tasks.extend(states.map(|(state, count)| ([("phase", name), ("state", state)], count)));
        failures.push(([("phase", name)], sum(|phase| phase.failures)));
        read.push(([("phase", name)], sum(|phase| phase.octets_running)));
    }
    family(to, "tasks", "Tasks of the jobs that run", &tasks)?;
    let help = "Failed attempts that count, of the jobs that run";
    family(to, "task_failures", help, &failures)?;
    let help = "What the attempts that run have read so far";
    family(to, "running_read_bytes", help, &read)?;
    let count = |of: fn(&&proto::WorkerSeen) -> bool| {
        let of = office.workers.iter().filter(of);
        of.count() as u64
    };
    let workers = [
        (
            [("state", "ready")],
            count(|it| !it.silent && it.rests_ms == 0),
        ),
        (
            [("state", "resting")],
            count(|it| !it.silent && it.rests_ms > 0),
        ),
        ([("state", "silent")], count(|it| it.silent)),
    ];
    family(to, "workers", "Workers that are members", &workers)?;
    let sum = |of: fn(&proto::WorkerSeen) -> u32| {
        let of = office.workers.iter().map(of);
        of.map(u64::from).sum::<u64>()
    };
    gauge(to, "slots", "Slots of the workers", sum(|it| it.slots))?;
    gauge(
        to,
        "slots_busy",
        "Slots in which attempts run",
        sum(|it| it.running),
    )
}

/// A worker at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OfWorker {
    /// For how long it may go on by its lease, s.
    pub(crate) lease_s: f64,
    pub(crate) is_fresh: bool,
    pub(crate) slots: u64,
    pub(crate) running: u64,
    /// Finished, and not told yet what became of them.
    pub(crate) finished: u64,
    pub(crate) failed: u64,
    /// Outputs of maps that it serves.
    pub(crate) outputs: u64,
    /// What the attempts that run have read.
    pub(crate) octets: u64,
    pub(crate) records: u64,
}

impl Collector for OfWorker {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut to;
        let help = "For how long its lease is held without another renewal";
        let lease = ConstGauge::new(self.lease_s);
        metric(to, "worker_lease_seconds", help, &lease)?;
        let help = "1 while its copy of the group is confirmed";
        gauge(to, "worker_fresh", help, u64::from(self.is_fresh))?;
        gauge(
            to,
            "worker_slots",
            "Attempts that it runs at a time",
            self.slots,
        )?;
        let attempts = [
            ([("state", "running")], self.running),
            ([("state", "finished")], self.finished),
            ([("state", "failed")], self.failed),
        ];
        let help = "Attempts, until the master has said what became of them";
        family(to, "worker_attempts", help, &attempts)?;
        let help = "Outputs of maps that it serves";
        gauge(to, "worker_map_outputs", help, self.outputs)?;
        let help = "What the attempts that run have read so far";
        gauge(to, "worker_running_read_bytes", help, self.octets)?;
        gauge(to, "worker_running_records", help, self.records)
    }
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    metric(to, name, help, &ConstGauge::new(signed(value)))
}

/// Numbers of things that are in memory, and revisions.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn metric(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let name = format!("mapreduce_{name}");
    let encoder = to.encode_descriptor(&name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}

/// Gauges of one name that labels tell apart.
fn family<const N: usize>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    members: &[([(&'static str, &'static str); N], u64)],
) -> fmt::Result {
    let name = format!("mapreduce_{name}");
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut encoder = to.encode_descriptor(&name, help, None, kind)?;
    for (labels, value) in members {
        ConstGauge::new(signed(*value)).encode(encoder.encode_family(labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present() -> OfMaster {
        let phase = proto::PhaseSeen {
            won: 3,
            waiting: 4,
            ..proto::PhaseSeen::default()
        };
        let job = proto::JobSeen {
            maps: Some(phase),
            ..proto::JobSeen::default()
        };
        let worker = proto::WorkerSeen {
            name: "bad\"} 1\nname".to_owned(),
            slots: 2,
            running: 1,
            ..proto::WorkerSeen::default()
        };
        OfMaster {
            is_fresh: true,
            jobs: vec![State::Failed],
            office: Some(proto::InspectResponse {
                epoch: 12,
                jobs: vec![job, job],
                workers: vec![worker],
                ..proto::InspectResponse::default()
            }),
        }
    }

    #[test]
    fn a_master_in_office_tells_what_runs_and_names_nobody() {
        let text = text(present()).expect("it can be written");
        for line in [
            "mapreduce_master_in_office 1",
            "mapreduce_master_epoch 12",
            "mapreduce_jobs{state=\"failed\"} 1",
            "mapreduce_jobs{state=\"running\"} 0",
            "mapreduce_tasks{phase=\"map\",state=\"won\"} 6",
            "mapreduce_tasks{phase=\"reduce\",state=\"waiting\"} 0",
            "mapreduce_workers{state=\"ready\"} 1",
            "mapreduce_slots 2",
            "mapreduce_slots_busy 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!text.contains("bad") && !text.contains("script"), "{text}");
    }

    #[test]
    fn one_that_stands_by_says_so() {
        let mut present = present();
        present.office = None;
        let text = text(present).expect("it can be written");
        assert!(text.contains("mapreduce_master_in_office 0\n"), "{text}");
        assert!(!text.contains("mapreduce_tasks"), "{text}");
    }

    #[test]
    fn a_worker_tells_what_it_runs() {
        let present = OfWorker {
            lease_s: 1.5,
            running: 2,
            ..OfWorker::default()
        };
        let text = text(present).expect("it can be written");
        assert!(
            text.contains("mapreduce_worker_lease_seconds 1.5\n"),
            "{text}"
        );
        let line = "mapreduce_worker_attempts{state=\"running\"} 2\n";
        assert!(text.contains(line), "{text}");
    }
}
