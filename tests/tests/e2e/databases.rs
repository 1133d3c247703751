//! Real databases under real agents and a real group: a pair of `MariaDB` servers, and a `PostgreSQL`
//! primary with a standby, run by the hooks in `deploy/`, while clients write with the epoch.
//!
//! What a client was told is written must be in the surviving holder at the end; a row is only ever
//! written at the host that held its epoch. A host that comes back learns what it is to do, and
//! stands by again before the next fault.
//!
//! `TRIAL_SEED` repeats the choice of faults (not the moments, as these are real processes),
//! `TRIAL_ROUNDS` says how many there are, `TRIAL_TERM_MS` how long leases last, `TRIAL_FAULT` (such
//! as `DiskFull`) that there is no other.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cfgsvc_tests::harness::{Cluster, ClusterOptions, eventually, eventually_some, run_binary};
use rustix::process::Signal;
use serde_json::Value;

use crate::seeds::{Numbers, lasts, setting};
use engine::Engine;
use host::{Host, Place};
use load::{Acknowledged, Load};

mod engine;
mod host;
mod load;

const ROLE: &str = "db/orders";
/// For the pair to be whole again: a copy of the data, and a server that recovers.
const PATIENCE: Duration = Duration::from_mins(2);
/// The lease's term unless `TRIAL_TERM_MS` says another.
const TERM_MS: u64 = 2_000;
/// Nobody took the role for so long: is there anybody who could?
const LONG: Duration = Duration::from_secs(20);
/// What stops within the term: a database in order, or by SIGKILL.
const STOP: &str = "1s";
/// Clients that write at once.
const CLIENTS: usize = 3;
/// How long a host is cut off, and is not, when its link flaps; and how often it is.
const FLAP: Duration = Duration::from_secs(1);
const FLAPS: usize = 5;
/// Rounds of each engine in the gate; hundreds by hand.
const ROUNDS: u64 = 4;

/// What happens to the host that holds the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Switch,
    AgentKilled,
    ServerKilled,
    HostKilled,
    CutOff,
    /// The agent's questions arrive, and the answers do not.
    Deaf,
    /// It accepts connections, and answers nothing.
    ServerStopped,
    /// Both hosts lose power, and the standby comes back first.
    BothKilled,
    /// The standby may not replicate any more; later the host loses power.
    ReplicationStopped,
    /// The disk of its data is full.
    DiskFull,
    /// It is cut off, and is not, each for a second.
    Flapping,
}

const FAULTS: [Fault; 11] = [
    Fault::ReplicationStopped,
    Fault::DiskFull,
    Fault::Flapping,
    Fault::ServerKilled,
    Fault::CutOff,
    Fault::Switch,
    Fault::HostKilled,
    Fault::ServerStopped,
    Fault::BothKilled,
    Fault::AgentKilled,
    Fault::Deaf,
];

struct Trial {
    cluster: Cluster,
    hosts: Vec<Host>,
    load: Load,
    engine: Engine,
    place: Place,
    /// Who began which epoch; the group tells the latest only.
    began: BTreeMap<i64, String>,
    /// How often the holder was lost when nobody could take the role.
    alone: usize,
}

fn cfgctl(endpoints: &str, arguments: &[&str]) -> Result<String> {
    let mut all = vec!["--endpoints", endpoints];
    all.extend(arguments);
    run_binary("cfgctl", &all)?.success()
}

impl Trial {
    fn start(engine: Engine, small_disks: bool) -> Result<Self> {
        let cluster = Cluster::start_with(ClusterOptions {
            members: 3,
            ..ClusterOptions::default()
        })?;
        let endpoints = cluster.endpoints();
        let place = Place::new(engine, small_disks)?;
        let term = format!("{}ms", setting("TRIAL_TERM_MS", TERM_MS));
        for colo in ["akl", "wlg"] {
            cfgctl(&endpoints, &["colo", "add", colo])?;
        }
        let data = engine.data();
        let create = ["role", "create", ROLE, "--term", &term, "--stop", STOP];
        let policy = ["--data", data, "--sync", "--candidates", "a1,w1"];
        cfgctl(&endpoints, &[&create[..], &policy[..]].concat())?;
        let members: Result<Vec<_>> = (0..3).map(|at| cluster.client_address(at)).collect();
        let members = members?;
        let mut hosts = Vec::new();
        for (number, (name, colo)) in [("a1", "akl"), ("w1", "wlg")].into_iter().enumerate() {
            hosts.push(Host::new(&place, (name, colo), number + 1, &members)?);
        }
        for host in &mut hosts {
            host.set_up()?;
            host.start_agent()?;
        }
        let doors = hosts
            .iter()
            .map(|host| (host.name().to_owned(), host.door()));
        let doors: BTreeMap<_, _> = doors.collect();
        let load = Load::new(engine, doors, endpoints);
        let mut trial = Self {
            cluster,
            hosts,
            load,
            engine,
            place,
            began: BTreeMap::new(),
            alone: 0,
        };
        trial.whole()?;
        Ok(trial)
    }

    fn shown(&self) -> Result<Value> {
        let shown = ["role", "show", ROLE, "-o", "json"];
        let text = cfgctl(&self.cluster.endpoints(), &shown)?;
        serde_json::from_str(&text).context("a role as JSON")
    }

    /// The host that serves, and its epoch.
    fn holder(&self) -> Result<Option<(usize, i64)>> {
        Ok(self.serves(&self.shown()?))
    }

    fn serves(&self, shown: &Value) -> Option<(usize, i64)> {
        let grant = &shown["grant"];
        let name = grant["holder"].as_str().unwrap_or_default();
        let at = self.hosts.iter().position(|host| host.name() == name);
        let serves = grant["serving"] == 1;
        at.zip(grant["epoch"].as_i64()).filter(|_| serves)
    }

    /// The holder and its epoch, when the other is in sync with it.
    fn pair(&self, shown: &Value) -> Option<(usize, i64)> {
        let synced = shown["grant"]["synced"].as_object();
        self.serves(shown)
            .filter(|_| synced.is_some_and(|all| all.len() == 1))
    }

    /// Waits until one host serves and the other is in sync with it.
    fn whole(&mut self) -> Result<(usize, i64)> {
        let mut last = Value::Null;
        let whole = eventually_some(
            PATIENCE,
            "one host to serve, and the other to be in sync",
            || {
                last = self.shown().ok()?;
                self.pair(&last)
            },
        );
        let whole = whole
            .with_context(|| format!("{}\n{last:#}\n{}", self.cluster.endpoints(), self.logs()))?;
        for start in last["grant"]["starts"].as_array().context("starts")? {
            let host = start["host"].as_str().unwrap_or_default().to_owned();
            let epoch = start["epoch"].as_i64().unwrap_or_default();
            let before = self.began.insert(epoch, host.clone());
            ensure!(
                before.as_ref().is_none_or(|before| *before == host),
                "epoch {epoch} was begun by {before:?} and by {host}"
            );
        }
        Ok(whole)
    }

    /// The same, with writes in that epoch. On a busy machine a lease may be lost meanwhile; then
    /// it is waited for again.
    fn ready(&mut self) -> Result<(usize, i64)> {
        loop {
            let whole = self.whole()?;
            let acknowledged = self.load.count();
            eventually(PATIENCE, "writes", || self.load.count() > acknowledged + 20)?;
            if self.pair(&self.shown()?) == Some(whole) {
                return Ok(whole);
            }
        }
    }

    fn logs(&self) -> String {
        self.hosts.iter().map(Host::log_tail).collect()
    }

    /// Does it to the holder, waits until the role is served again, and mends it.
    fn round(&mut self, fault: Fault) -> Result<Duration> {
        let (holder, before) = self.ready()?;
        let other = 1 - holder;
        let from = Instant::now();
        match fault {
            Fault::Switch => {
                let to = self.hosts[other].name().to_owned();
                let mut said = String::new();
                // Refused where that host comes again at this moment.
                let switched = eventually(PATIENCE, "a switch", || {
                    let done = cfgctl(&self.cluster.endpoints(), &["role", "switch", ROLE, &to]);
                    said = done
                        .as_ref()
                        .err()
                        .map_or_else(String::new, ToString::to_string);
                    done.is_ok()
                });
                switched.context(said)?;
            }
            Fault::AgentKilled => self.hosts[holder].kill_agent()?,
            Fault::ServerKilled => self.hosts[holder].signal_server(Signal::KILL)?,
            Fault::HostKilled => self.hosts[holder].kill_all()?,
            Fault::CutOff => self.hosts[holder].cut(true),
            Fault::Deaf => self.hosts[holder].cut(false),
            Fault::ServerStopped => self.hosts[holder].signal_server(Signal::STOP)?,
            Fault::DiskFull => self.hosts[holder].fill_disk()?,
            Fault::BothKilled => {
                self.hosts[holder].kill_all()?;
                self.hosts[other].kill_all()?;
                return self.both_come_back(holder, before, from);
            }
            Fault::ReplicationStopped => return self.replication_stopped(holder, before),
            Fault::Flapping => return self.flapping(holder),
        }
        let mut alone = false;
        let mut first = None;
        let mut last = Ok(Value::Null);
        eventually(PATIENCE, "a write in a later epoch", || {
            first = self.load.first_after(before);
            if first.is_none() && from.elapsed() > LONG {
                last = self.shown();
                alone = self.nobody_may_take_it(holder, last.as_ref().unwrap_or(&Value::Null));
            }
            first.is_some() || alone
        })
        .with_context(|| format!("{fault:?}\n{last:?}\n{}", self.logs()))?;
        match fault {
            Fault::Switch | Fault::ServerKilled => {}
            Fault::CutOff | Fault::Deaf => self.hosts[holder].heal(),
            Fault::ServerStopped => self.hosts[holder].continue_server()?,
            Fault::AgentKilled | Fault::HostKilled => self.hosts[holder].start_agent()?,
            Fault::DiskFull => self.hosts[holder].free_disk()?,
            Fault::BothKilled | Fault::ReplicationStopped | Fault::Flapping => {
                bail!("it is mended elsewhere")
            }
        }
        if alone {
            self.alone += 1;
            eprintln!("the holder was lost when nobody was in sync, and its return waited for");
            return Ok(self.goes_on(holder, before)?.duration_since(from));
        }
        Ok(first.context("a write")?.duration_since(from))
    }

    /// The holder is lost, and the standby was not in sync (its connection had broken just before,
    /// or the holder had lost its lease and not begun again, as happens where a machine is busy):
    /// whoever took it could lack what was acknowledged.
    fn nobody_may_take_it(&self, lost: usize, shown: &Value) -> bool {
        let grant = &shown["grant"];
        let held = grant["holder"] == self.hosts[lost].name();
        held && grant["serving"] == 0 && grant["synced"].is_null()
    }

    /// The standby comes first: what it had received and not applied may be gone, so it must not
    /// be given the role. Then the holder comes, and goes on.
    fn both_come_back(&mut self, holder: usize, before: i64, from: Instant) -> Result<Duration> {
        let other = 1 - holder;
        self.hosts[other].start_agent()?;
        let name = self.hosts[other].name().to_owned();
        let mut last = Value::Null;
        // Not by what it was before: it has come anew when nobody is in sync any more.
        let alone = eventually(PATIENCE, "the standby to be there alone, and anew", || {
            last = self.shown().unwrap_or_default();
            let there = &last["attending"];
            let alone = there.as_array().is_some_and(|all| all.len() == 1);
            alone && there[0]["host"] == name.as_str() && last["grant"]["synced"].is_null()
        });
        alone.with_context(|| format!("{last:#}\n{}", self.logs()))?;
        self.hosts[holder].start_agent()?;
        Ok(self.goes_on(holder, before)?.duration_since(from))
    }

    /// The standby lacks what was acknowledged since: it must not be given the role when the holder
    /// is lost, nor by a person who does not say that this may be lost. The holder comes back and
    /// goes on. How long that took, from its loss.
    fn replication_stopped(&mut self, holder: usize, before: i64) -> Result<Duration> {
        let other = 1 - holder;
        self.hosts[holder].set_replication(false)?;
        let mut last = Value::Null;
        let alone = eventually(PATIENCE, "the group to count on nobody", || {
            last = self.shown().unwrap_or_default();
            last["grant"]["epoch"] == before && last["grant"]["synced"].is_null()
        });
        alone.with_context(|| format!("{last:#}\n{}", self.logs()))?;
        let acknowledged = self.load.count();
        eventually(PATIENCE, "writes that the standby lacks", || {
            self.load.count() > acknowledged + 20
        })
        .with_context(|| self.logs())?;
        let from = Instant::now();
        self.hosts[holder].kill_all()?;
        let name = self.hosts[other].name().to_owned();
        let lost = eventually(
            PATIENCE,
            "the holder to be lost, and the other alone",
            || {
                last = self.shown().unwrap_or_default();
                let there = &last["attending"];
                let alone = there.as_array().is_some_and(|all| all.len() == 1);
                let grant = &last["grant"];
                let held = grant["epoch"] == before && grant["serving"] == 0;
                alone && held && there[0]["host"] == name.as_str()
            },
        );
        lost.with_context(|| format!("{last:#}\n{}", self.logs()))?;
        let given = cfgctl(&self.cluster.endpoints(), &["role", "switch", ROLE, &name]);
        let refused = given.err().context("a stale host was given the role")?;
        let refused = format!("{refused:#}");
        ensure!(refused.contains("--accept-loss"), "{refused}");
        self.hosts[holder].start_agent()?;
        let waited = self.goes_on(holder, before)?.duration_since(from);
        self.hosts[holder].set_replication(true)?;
        Ok(waited)
    }

    /// When the first write was acknowledged after `before`, at this host.
    fn goes_on(&self, holder: usize, before: i64) -> Result<Instant> {
        let mut first = None;
        eventually(PATIENCE, "the holder to go on", || {
            first = self.load.first_after(before);
            first.is_some()
        })
        .with_context(|| format!("{:?}\n{}", self.shown(), self.logs()))?;
        let serves = self.holder()?.map(|(at, _)| at);
        ensure!(
            serves == Some(holder),
            "{} was not in sync: {:#}",
            self.hosts[1 - holder].name(),
            self.shown()?
        );
        first.context("a write")
    }

    /// How long it took until a write was acknowledged after the last cut.
    fn flapping(&mut self, holder: usize) -> Result<Duration> {
        for _ in 0..FLAPS {
            self.hosts[holder].cut(true);
            lasts(FLAP);
            self.hosts[holder].heal();
            lasts(FLAP);
        }
        let (from, count) = (Instant::now(), self.load.count());
        eventually(PATIENCE, "a write after the last cut", || {
            self.load.count() > count
        })
        .with_context(|| format!("{:?}\n{}", self.shown(), self.logs()))?;
        Ok(from.elapsed())
    }

    /// Compares what clients were told with what the holder has.
    fn judge(&mut self) -> Result<(usize, usize)> {
        let (holder, _) = self.whole()?;
        let acknowledged: Vec<Acknowledged> = self.load.stop();
        let rows = self.hosts[holder].rows()?;
        let missing: Vec<_> = acknowledged
            .iter()
            .filter(|one| rows.get(&one.id).map(|row| row.0) != Some(one.epoch))
            .collect();
        ensure!(
            missing.is_empty(),
            "{} acknowledged writes are missing in {}: {:?}",
            missing.len(),
            self.hosts[holder].name(),
            &missing[..missing.len().min(5)]
        );
        for (id, (epoch, port)) in &rows {
            let host = self.hosts.iter().find(|host| host.port() == *port);
            let host = host.context("a row of another server")?.name();
            let held = self.began.get(epoch).map(String::as_str);
            ensure!(
                held == Some(host),
                "row {id} of epoch {epoch}: {host}, held by {held:?}"
            );
        }
        Ok((acknowledged.len(), rows.len()))
    }
}

/// The one fault that is asked for, or nothing.
fn only() -> String {
    std::env::var("TRIAL_FAULT").unwrap_or_default()
}

fn trials(engine: Engine) -> Result<()> {
    engine.installed()?;
    let seed = setting("TRIAL_SEED", u64::from(std::process::id()));
    let again = format!("TRIAL_SEED={seed} tests/run {engine:?}");
    let mut numbers = Numbers::new(seed);
    let rounds = usize::try_from(setting("TRIAL_ROUNDS", ROUNDS))?;
    // Each comes once before any comes again, from another one on in each run.
    let first = usize::try_from(numbers.below(FAULTS.len() as u64))?;
    let faults = FAULTS.into_iter().cycle().skip(first).take(rounds);
    let faults: Vec<Fault> = match FAULTS.into_iter().find(|one| format!("{one:?}") == only()) {
        Some(one) => vec![one; rounds],
        None => faults.collect(),
    };
    let mut trial = Trial::start(engine, faults.contains(&Fault::DiskFull))?;
    trial.load.start(CLIENTS)?;
    let mut waits: BTreeMap<String, Vec<u128>> = BTreeMap::new();
    for (round, fault) in faults.into_iter().enumerate() {
        let waited = trial.round(fault);
        let waited = waited.with_context(|| format!("round {round}: {fault:?} ({again})"))?;
        let waited = waited.as_millis();
        eprintln!("{engine:?} {}/{rounds}: {fault:?} {waited} ms", round + 1);
        waits.entry(format!("{fault:?}")).or_default().push(waited);
    }
    let (acknowledged, rows) = trial.judge().with_context(|| again.clone())?;
    trial.place.done();
    eprintln!(
        "{:?}: {rounds} rounds, {acknowledged} writes acknowledged, {rows} rows",
        trial.engine
    );
    eprintln!("from the fault to the next acknowledged write, ms:");
    for (fault, mut ms) in waits {
        ms.sort_unstable();
        let at = |percent: usize| ms[(ms.len() * percent).div_ceil(100).max(1) - 1];
        let (p50, p99, worst) = (at(50), at(99), at(100));
        eprintln!(
            "  {fault}: {} times, p50 {p50}, p99 {p99}, worst {worst}",
            ms.len()
        );
    }
    ensure!(acknowledged > 0, "nothing was written");
    let alone = trial.alone;
    ensure!(
        alone * 10 <= rounds.max(10),
        "nobody was in sync in {alone} of {rounds} rounds"
    );
    Ok(())
}

/// The hooks alone, without agents, in one of the scenarios of `tests/databases`; there are many
/// more, to be run by hand after a change of the hooks.
fn scenario(engine: Engine, scenario: &str) -> Result<()> {
    engine.installed()?;
    let script = format!("databases/{}.sh", engine.directory());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let said = Command::new("bash").arg(script).arg(scenario).output()?;
    ensure!(
        said.status.success(),
        "{}\n{}\n{}",
        said.status,
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    Ok(())
}

#[test]
fn long_mariadb_hooks_from_nothing() -> Result<()> {
    scenario(Engine::MariaDb, "first_start")
}

#[test]
fn long_mariadb_hooks_when_the_disk_is_full() -> Result<()> {
    scenario(Engine::MariaDb, "disk_full")
}

#[test]
fn long_postgres_hooks_when_the_disk_is_full() -> Result<()> {
    scenario(Engine::Postgres, "full_disk")
}

#[test]
fn long_mariadb_keeps_every_acknowledged_write_whatever_fails() -> Result<()> {
    trials(Engine::MariaDb)
}

#[test]
fn long_postgres_keeps_every_acknowledged_write_whatever_fails() -> Result<()> {
    trials(Engine::Postgres)
}
