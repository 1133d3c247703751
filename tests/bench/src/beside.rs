//! Our group beside etcd's: every load in turns, so that what disturbs the machine hits both.
//!
//! Both groups run all the time, and who is first changes from turn to turn. A load that fails is
//! told and the others go on; it is an error at the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cfgsvc_tests::harness::binary_path;
use serde::Serialize;

use crate::args::{Beside, Common, Load};
use crate::drive;
use crate::environment::Environment;
use crate::group::{Group, Kind};
use crate::ratio::{self, Pair, Row};
use crate::report::{self, Report};
use crate::say;

/// The options of `--quick`.
const QUICK_SECONDS: Duration = Duration::from_secs(2);
const QUICK_WARMUP: Duration = Duration::from_millis(500);

/// A load of the comparison.
#[derive(Debug, Clone, Copy)]
struct Plan {
    name: &'static str,
    load: Load,
    clients: u32,
    rate: Option<f64>,
}

/// What the file holds.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    environment: Environment,
    rounds: u32,
    seconds: f64,
    rows: Vec<Row>,
    /// Milliseconds.
    start_to_first_write: Option<Pair>,
    /// Milliseconds.
    leader_killed_to_next_write: Option<Pair>,
    turns: Vec<Turns>,
    starts_ms: Vec<(Kind, f64)>,
    fail_overs_ms: Vec<(Kind, f64)>,
    failures: Vec<String>,
}

/// All turns of one load.
#[derive(Debug, Serialize)]
struct Turns {
    name: &'static str,
    turns: Vec<(Kind, Report)>,
}

/// Both groups, and where they come from.
struct Bench {
    options: Beside,
    cfgsvcd: PathBuf,
    directory: PathBuf,
    failures: Vec<String>,
}

/// Runs the comparison and prints it; the result is for the file.
pub(crate) async fn run(mut options: Beside) -> Result<Comparison> {
    if options.quick {
        (options.rounds, options.seconds) = (1, QUICK_SECONDS);
        options.warmup = QUICK_WARMUP;
    }
    let cfgsvcd = match &options.cfgsvcd {
        Some(path) => path.clone(),
        None => binary_path("cfgsvcd").context("--cfgsvcd names another one")?,
    };
    let environment = Environment::look(&cfgsvcd, &options.etcd)?;
    say(&environment.line())?;
    let chosen: Vec<_> = plans()
        .into_iter()
        .filter(|plan| options.only.is_empty() || named(plan.name, &options.only))
        .collect();
    let mut bench = Bench {
        directory: options.dir.clone().unwrap_or_else(std::env::temp_dir),
        cfgsvcd,
        options,
        failures: Vec::new(),
    };
    let (mut groups, starts_ms) = bench.start_both().await?;
    say(&report::head())?;
    let mut turns = Vec::new();
    for plan in chosen {
        turns.push(Turns {
            name: plan.name,
            turns: bench.turns(&plan, &groups).await?,
        });
    }
    let fail_overs_ms = bench.fail_overs(&mut groups).await;
    drop(groups);
    let rows: Vec<_> = turns
        .iter()
        .filter_map(|load| Row::of(load.name, &load.turns))
        .collect();
    let start_to_first_write = Pair::of(&starts_ms, |ms| *ms);
    let leader_killed_to_next_write = Pair::of(&fail_overs_ms, |ms| *ms);
    let single: Vec<_> = [
        ("three started to the first write, ms", start_to_first_write),
        (
            "leader killed -9 to the next write, ms",
            leader_killed_to_next_write,
        ),
    ]
    .into_iter()
    .filter_map(|(what, pair)| Some((what.to_owned(), pair?)))
    .collect();
    say(&format!("\n{}", ratio::table(&rows, &single)))?;
    Ok(Comparison {
        environment,
        rounds: bench.options.rounds,
        seconds: bench.options.seconds.as_secs_f64(),
        rows,
        start_to_first_write,
        leader_killed_to_next_write,
        turns,
        starts_ms,
        fail_overs_ms,
        failures: bench.failures,
    })
}

impl Comparison {
    /// An error that names what failed.
    pub(crate) fn whole(&self) -> Result<()> {
        if !self.failures.is_empty() {
            bail!(
                "{} turns failed: {}",
                self.failures.len(),
                self.failures.join("; ")
            );
        }
        Ok(())
    }
}

impl Bench {
    fn binary(&self, kind: Kind) -> &Path {
        match kind {
            Kind::Cfgsvc => &self.cfgsvcd,
            Kind::Etcd => &self.options.etcd,
        }
    }

    /// Starts both as often as there are rounds, and keeps the last two; with the times to the
    /// first write in milliseconds.
    async fn start_both(&self) -> Result<([Group; 2], Vec<(Kind, f64)>)> {
        let mut starts = Vec::new();
        for _ in 1..self.options.rounds {
            for kind in [Kind::Cfgsvc, Kind::Etcd] {
                self.start(kind, &mut starts).await?;
            }
        }
        let ours = self.start(Kind::Cfgsvc, &mut starts).await?;
        let etcd = self.start(Kind::Etcd, &mut starts).await?;
        Ok(([ours, etcd], starts))
    }

    async fn start(&self, kind: Kind, starts: &mut Vec<(Kind, f64)>) -> Result<Group> {
        let (group, took) = Group::start(kind, self.binary(kind), &self.directory).await?;
        starts.push((kind, took.as_secs_f64() * 1e3));
        Ok(group)
    }

    /// Runs a load against both in turns.
    async fn turns(&mut self, plan: &Plan, groups: &[Group; 2]) -> Result<Vec<(Kind, Report)>> {
        let [ours, etcd] = groups;
        let mut turns = Vec::new();
        for round in 0..self.options.rounds {
            let mut order = [(Kind::Cfgsvc, ours), (Kind::Etcd, etcd)];
            order.rotate_left((round % 2) as usize);
            for (kind, group) in order {
                let name = format!("{} {}", plan.name, kind.name());
                let common = self.common(plan, group);
                match drive::run(plan.name, plan.load, &common).await {
                    Ok(report) => {
                        say(&report::line(&name, &report))?;
                        for remark in report::remarks(&report) {
                            say(&format!("  {remark}"))?;
                        }
                        turns.push((kind, report));
                    }
                    Err(error) => self.fail(&name, &error)?,
                }
            }
        }
        Ok(turns)
    }

    fn fail(&mut self, name: &str, error: &anyhow::Error) -> Result<()> {
        let failure = format!("{name}: {error:#}");
        say(&failure)?;
        self.failures.push(failure);
        Ok(())
    }

    fn common(&self, plan: &Plan, group: &Group) -> Common {
        Common {
            endpoints: group.endpoints(),
            clients: plan.clients,
            connections: None,
            seconds: self.options.seconds,
            warmup: self.options.warmup,
            rate: plan.rate,
            value_bytes: 256,
            keys: 10_000,
            pids: group.pids(),
            threads: 1,
            json: None,
        }
    }

    /// Kills the leaders in turns; milliseconds to the next write.
    async fn fail_overs(&mut self, groups: &mut [Group; 2]) -> Vec<(Kind, f64)> {
        let mut took = Vec::new();
        for _ in 0..self.options.rounds {
            for (group, kind) in groups.iter_mut().zip([Kind::Cfgsvc, Kind::Etcd]) {
                match group.fail_over().await {
                    Ok(time) => took.push((kind, time.as_secs_f64() * 1e3)),
                    Err(error) => {
                        let failure = format!("leader of {} killed: {error:#}", kind.name());
                        self.failures.push(failure);
                    }
                }
            }
        }
        took
    }
}

fn named(name: &str, only: &[String]) -> bool {
    only.iter().any(|part| name.contains(part.as_str()))
}

/// The loads, in the order in which they run.
fn plans() -> Vec<Plan> {
    let closed = |name, clients, load| Plan {
        name,
        load,
        clients,
        rate: None,
    };
    let open = |name, clients, rate, load| Plan {
        rate: Some(rate),
        ..closed(name, clients, load)
    };
    let get = |serializable| Load::Get { serializable };
    let mixed = Load::Mixed {
        writes: 10,
        serializable: false,
    };
    let watch = |watchers| Load::Watch {
        watchers,
        streams: watchers,
    };
    vec![
        closed("put-1", 1, Load::Put),
        closed("put-64", 64, Load::Put),
        closed("put-1000", 1_000, Load::Put),
        open("put-500/s", 64, 500.0, Load::Put),
        closed("cas-64", 64, Load::Cas),
        closed("get-lin-64", 64, get(false)),
        closed("get-lin-1000", 1_000, get(false)),
        closed("get-ser-64", 64, get(true)),
        closed("mixed-lin-64", 64, mixed),
        closed("range1000-4", 4, Load::Range { limit: 1_000 }),
        open("watch-100x100/s", 8, 100.0, watch(100)),
        open("watch-1000x10/s", 8, 10.0, watch(1_000)),
        closed("watch-100-max", 64, watch(100)),
        closed("lease-churn-64", 64, Load::LeaseChurn),
        closed("keep-alive-64", 64, Load::KeepAlive { leases: 1_000 }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_chosen_by_a_part_of_them() {
        let only = ["put".to_owned(), "lin-64".to_owned()];
        assert!(named("put-64", &only) && named("get-lin-64", &only));
        assert!(!named("get-ser-64", &only));
    }
}
