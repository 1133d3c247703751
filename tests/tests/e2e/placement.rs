//! Roles under faults: real agents, guards and programs, of which every one that runs says so under
//! its epoch, on one clock. Never do two run at once, and no write of an old epoch is taken by a
//! resource that looks at epochs.
//!
//! Each lane is a role and its two hosts. A round is a fault of the holder's host in every lane at
//! once, and then a fault of the group that all lanes see; each lane's part in either is a trial.
//! After each, the role must be served again. Nothing here depends on speed but the patience.
//!
//! `TRIAL_SEED` repeats the choice of faults (not the moments, as these are real processes),
//! `TRIAL_ROUNDS` and `TRIAL_LANES` say how many there are, `TRIAL_TERM_MS` how long leases last.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use cfgsvc_tests::harness::{Cluster, ClusterOptions, eventually, eventually_some, run_binary};
use rustix::process::Signal;

use crate::nemesis::{Fault, Nemesis, prepare_clocks};
use crate::seeds::{Numbers, setting};
use clock::HostClock;
use host::{Host, HostOptions, Machine, send};
use judge::{Gaps, Run, judge, runs};
use namespace::Namespace;
use resource::{Resource, Writes};

mod clock;
mod host;
mod judge;
mod namespace;
mod resource;

/// For a role to be served again.
const PATIENCE: Duration = Duration::from_mins(1);
/// The lease's term unless `TRIAL_TERM_MS` says another; the time to stop is a fifth of it.
const TERM_MS: u64 = 2_000;
/// Jumps of a host's wall clock.
const JUMPS_S: [i64; 3] = [3_600, -3_600, 0];
/// How much faster than the true one the clock of a host runs, parts per million; the second is
/// what roles allow for.
const RATES_PPM: [i64; 3] = [0, 90_000, -90_000];
const ROLE_RATE_PPM: &str = "100000";

/// What happens to the host that holds the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HostFault {
    /// SIGKILL for the program.
    ProgramKilled,
    /// SIGKILL for the agent.
    AgentKilled,
    /// SIGTERM for the agent.
    AgentEnded,
    /// SIGSTOP for the agent until another serves; then it goes on.
    AgentStopped,
    /// SIGKILL for the guard.
    GuardKilled,
    /// SIGKILL for agent and guard at once.
    BothKilled,
    /// SIGSTOP for the guard, and the role is switched to the other.
    GuardStopped,
    /// Nothing between host and group passes; its clients reach it.
    Cut,
    /// What it asks does not arrive.
    RequestsLost,
    /// What it is answered does not arrive.
    AnswersLost,
    /// The role is switched to the other by an operator.
    Switched,
    /// The host's wall clock is set, and the role switched.
    ClockSet,
    /// The host sleeps until another serves.
    Suspended,
}

const HOST_FAULTS: [HostFault; 13] = [
    HostFault::ProgramKilled,
    HostFault::AgentKilled,
    HostFault::AgentEnded,
    HostFault::AgentStopped,
    HostFault::GuardKilled,
    HostFault::BothKilled,
    HostFault::GuardStopped,
    HostFault::Cut,
    HostFault::RequestsLost,
    HostFault::AnswersLost,
    HostFault::Switched,
    HostFault::ClockSet,
    HostFault::Suspended,
];

const GROUP_FAULTS: [Fault; 8] = [
    Fault::Kill,
    Fault::KillAll,
    Fault::Pause,
    Fault::Partition,
    Fault::OneWay,
    Fault::SlowDisk,
    Fault::Clock,
    Fault::MoveLeader,
];

/// A kind of trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Host(HostFault),
    Group(Fault),
}

/// Trials of one kind.
#[derive(Debug, Clone, Default)]
struct Tally {
    trials: usize,
    /// Times between holders, of trials in which the role went to another epoch.
    gaps: Gaps,
}

type Tallies = BTreeMap<Kind, Tally>;

/// A role and its hosts.
struct Lane {
    role: String,
    endpoints: String,
    hosts: Vec<Host>,
    log: PathBuf,
    numbers: Numbers,
    tallies: Tallies,
}

impl Lane {
    fn start(number: u64, cluster: &Cluster, resource: &Resource, seed: u64) -> Result<Self> {
        let role = format!("trial/r{number}");
        let term_ms = term_ms();
        let endpoints = cluster.endpoints();
        cfgctl(
            &endpoints,
            &[
                "role",
                "create",
                &role,
                "--term",
                &format!("{term_ms}ms"),
                "--stop",
                &format!("{}ms", term_ms / 5),
                "--rate-ppm",
                ROLE_RATE_PPM,
            ],
        )?;
        let dir = cluster.directory().join(format!("lane-{number}"));
        fs::create_dir(&dir)?;
        let log = dir.join("holders");
        fs::write(&log, "")?;
        let library = clock::library(&dir)?;
        let mut members = Vec::new();
        for member in 0..cluster.count() {
            members.push(cluster.client_address(member)?);
        }
        let program = cfgsvc_tests::harness::binary_path("trial-holder")?;
        // In every second lane the program does not listen to SIGTERM.
        let ignore = if number % 2 == 1 {
            "trap '' TERM; "
        } else {
            ""
        };
        let script = format!("{ignore}exec \"$@\"");
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let command = [
            // The program notes the true time.
            "env",
            "--unset=LD_PRELOAD",
            "sh",
            "-c",
            &script,
            "sh",
            &text(&program),
            &text(&log),
        ]
        .map(str::to_owned);
        let mut hosts = Vec::new();
        // All pairs of rates come about.
        let mut rates = RATES_PPM.into_iter().cycle().skip(usize::try_from(number)?);
        let (first, mut others) = (rates.next(), rates.skip(usize::try_from(number / 3)?));
        for (colo, rate) in [("akl", first), ("wlg", others.next())] {
            let name = format!("{colo}{number}");
            let rate = rate.unwrap_or_default();
            let clock = HostClock::new(&library, dir.join(format!("{name}.clock")), rate)?;
            // Every second lane, so that both kinds of cut are tried.
            let namespace = number.is_multiple_of(2).then(namespace).flatten();
            let reached = match &namespace {
                Some(namespace) => resource.also_at(namespace.client_address())?,
                None => resource.address(),
            };
            let mut command = command.to_vec();
            command.push(reached.to_string());
            let options = HostOptions {
                name,
                colo: colo.to_owned(),
                role: role.clone(),
                members: members.clone(),
                dir: dir.clone(),
                command,
            };
            let machine = Machine {
                clock: Some(clock),
                namespace,
            };
            hosts.push(Host::start(options, machine)?);
        }
        Ok(Self {
            role,
            endpoints,
            hosts,
            log,
            numbers: Numbers::new(seed ^ (number << 32)),
            tallies: Tallies::new(),
        })
    }

    fn runs(&self) -> Result<Vec<Run>> {
        let log = fs::read_to_string(&self.log)?;
        runs(&log).map_err(|problem| anyhow!(problem))
    }

    /// Waits until a run of a later epoch than `after` has lasted for some lines, and goes on.
    fn serves(&self, after: i64) -> Result<Run> {
        let what = format!("role {} to be served after epoch {after}", self.role);
        let waited = eventually_some(PATIENCE, what, || {
            let newest = self.runs().map(|mut runs| runs.pop());
            match newest {
                Ok(Some(run)) if run.epoch > after && run.last > run.first && run.goes_on() => {
                    Some(Ok(run))
                }
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            }
        });
        waited
            .map_err(|error| {
                let logs: Vec<_> = self.hosts.iter().map(|host| tail(&host.log())).collect();
                error.context(format!("the agents say:\n{}", logs.join("\n--\n")))
            })?
            .with_context(|| format!("role {}", self.role))
    }

    /// One fault of the holder's host.
    fn host_trial(&mut self) -> Result<()> {
        let fault = *self.numbers.one_of(&HOST_FAULTS);
        let before = self.serves(self.newest()?.map_or(0, |run| run.epoch - 1))?;
        let (holder, other) = if self.hosts[0].name() == before.host {
            (0, 1)
        } else {
            (1, 0)
        };
        self.make(fault, holder, other)
            .with_context(|| format!("{fault:?} of {}", before.host))?;
        let after = self
            .serves(before.epoch)
            .with_context(|| format!("{fault:?} of {}", before.host))?;
        self.hosts[holder].mend()?;
        self.count(Kind::Host(fault), &[before, after])
    }

    fn make(&mut self, fault: HostFault, holder: usize, other: usize) -> Result<()> {
        let host = &self.hosts[holder];
        match fault {
            HostFault::ProgramKilled => send(host.program()?, Signal::KILL),
            HostFault::AgentKilled => self.hosts[holder].end_agent(Signal::KILL),
            HostFault::AgentEnded => self.hosts[holder].end_agent(Signal::TERM),
            HostFault::AgentStopped => host.signal_agent(Signal::STOP),
            HostFault::GuardKilled => send(host.guard()?, Signal::KILL),
            HostFault::BothKilled => {
                let guard = host.guard()?;
                // The agent first: what its guard's end would make it do, it does not.
                host.signal_agent(Signal::STOP)?;
                send(guard, Signal::KILL)?;
                self.hosts[holder].end_agent(Signal::KILL)
            }
            HostFault::GuardStopped => {
                send(host.guard()?, Signal::STOP)?;
                self.switch(other)
            }
            HostFault::Cut => host.cut(true, true),
            HostFault::RequestsLost => host.cut(true, false),
            HostFault::AnswersLost => host.cut(false, true),
            HostFault::Switched => self.switch(other),
            HostFault::ClockSet => {
                let jump = *self.numbers.one_of(&JUMPS_S);
                self.hosts[holder].set_wall(jump)?;
                self.switch(other)
            }
            HostFault::Suspended => self.hosts[holder].suspend(),
        }
    }

    fn switch(&self, to: usize) -> Result<()> {
        let to = self.hosts[to].name();
        // The other may be on its way back from the trial before.
        let mut said = String::new();
        eventually(
            PATIENCE,
            format!("the switch of {} to {to}", self.role),
            || {
                let ran = run_binary(
                    "cfgctl",
                    &[
                        "--endpoints",
                        &self.endpoints,
                        "role",
                        "switch",
                        &self.role,
                        to,
                    ],
                );
                match ran {
                    Ok(ran) if ran.code == Some(0) => true,
                    Ok(ran) => {
                        said = ran.stderr;
                        false
                    }
                    Err(error) => {
                        said = format!("{error:#}");
                        false
                    }
                }
            },
        )
        .with_context(|| said)
    }

    /// After a fault of the group: the role is served, by whomever.
    fn served_again(&mut self, fault: Fault, from: &Run) -> Result<()> {
        let now = cfgsvc_clock::Moment::now().nanos();
        let what = format!("role {} to be served after {fault:?}", self.role);
        let after = eventually_some(PATIENCE, what, || {
            let newest = self.runs().ok()?.pop()?;
            (newest.last > now).then_some(newest)
        })
        .map_err(|error| {
            let logs: Vec<_> = self.hosts.iter().map(|host| tail(&host.log())).collect();
            error.context(format!("the agents say:\n{}", logs.join("\n--\n")))
        })?;
        self.count(Kind::Group(fault), &[from.clone(), after])
    }

    fn newest(&self) -> Result<Option<Run>> {
        Ok(self.runs()?.pop())
    }

    /// Judges the whole log, and counts the time between these two runs.
    fn count(&mut self, kind: Kind, [before, after]: &[Run; 2]) -> Result<()> {
        let runs = self.runs()?;
        judge(&runs).map_err(|problem| anyhow!("role {} after {kind:?}: {problem}", self.role))?;
        let between: Vec<Run> = runs
            .into_iter()
            .filter(|run| (before.epoch..=after.epoch).contains(&run.epoch))
            .collect();
        let gaps = judge(&between).map_err(|problem| anyhow!(problem))?;
        let tally = self.tallies.entry(kind).or_default();
        tally.trials += 1;
        tally.gaps.join(&gaps);
        Ok(())
    }
}

fn term_ms() -> u64 {
    setting("TRIAL_TERM_MS", TERM_MS)
}

/// A network for a host where root may make one.
fn namespace() -> Option<Namespace> {
    match Namespace::new() {
        Ok(namespace) => Some(namespace),
        Err(error) => {
            eprintln!("a host behind proxies only: {error:#}");
            None
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn cfgctl(endpoints: &str, arguments: &[&str]) -> Result<String> {
    let mut all = vec!["--endpoints", endpoints];
    all.extend(arguments);
    run_binary("cfgctl", &all)?.success()
}

/// Does the same in all lanes at once.
fn all_lanes(lanes: &mut [Lane], work: impl Fn(&mut Lane) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let mut running = Vec::new();
        for lane in lanes {
            running.push(scope.spawn(|| work(lane)));
        }
        let mut ended = Ok(());
        for lane in running {
            let result = lane.join().map_err(|_| anyhow!("a lane panicked"));
            ended = ended.and(result.and_then(|result| result));
        }
        ended
    })
}

struct Report {
    tallies: Tallies,
    resources: Writes,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["trials", "handed over", "least ms", "p50", "p99", "most ms"];
        write!(f, "{:<20}", "")?;
        for head in heads {
            write!(f, "{head:>12}")?;
        }
        let mut all = Tally::default();
        for (kind, tally) in &self.tallies {
            all.trials += tally.trials;
            all.gaps.join(&tally.gaps);
            let name = match kind {
                Kind::Host(fault) => format!("host {fault:?}"),
                Kind::Group(fault) => format!("group {fault:?}"),
            };
            line(f, &name, tally)?;
        }
        line(f, "all", &all)?;
        let Writes {
            taken,
            refused,
            stale,
            ..
        } = self.resources;
        writeln!(f)?;
        write!(
            f,
            "no two at once. The resource that looks at epochs took {taken} writes and refused \
             {refused}; one that does not took {stale} of an old epoch"
        )
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, tally: &Tally) -> fmt::Result {
    let (trials, gaps) = (tally.trials, &tally.gaps);
    write!(f, "\n{name:<20}{trials:>12}{:>12}", gaps.count())?;
    for percent in [0, 50, 99, 100] {
        match gaps.percentile(percent) {
            Some(gap) => write!(f, "{:>12}", gap.as_millis())?,
            None => write!(f, "{:>12}", "-")?,
        }
    }
    Ok(())
}

fn trials(cluster: &mut Cluster, seed: u64, rounds: u64, lanes: u64) -> Result<Report> {
    prepare_clocks(cluster)?;
    for member in 0..cluster.count() {
        cluster.spawn(member)?;
    }
    cluster.wait_all_ready()?;
    for colo in ["akl", "wlg"] {
        cfgctl(&cluster.endpoints(), &["colo", "add", colo])?;
    }
    let resource = Resource::start(seed)?;
    let lanes: Result<Vec<_>> = (0..lanes)
        .map(|number| Lane::start(number, cluster, &resource, seed))
        .collect();
    let mut lanes = lanes?;
    let mut numbers = Numbers::new(seed);
    for round in 0..rounds {
        all_lanes(&mut lanes, Lane::host_trial).with_context(|| format!("round {round}"))?;
        let fault = GROUP_FAULTS[usize::try_from(round).unwrap_or(0) % GROUP_FAULTS.len()];
        let before: Result<Vec<_>> = lanes.iter().map(|lane| lane.serves(0)).collect();
        // Up to twice as long as a host may serve without the group.
        let held = numbers.below(2 * term_ms());
        Nemesis::new(cluster, &GROUP_FAULTS, seed ^ round)
            .once(fault, Duration::from_millis(held))
            .with_context(|| format!("round {round}"))?;
        for (lane, before) in lanes.iter_mut().zip(before?) {
            lane.served_again(fault, &before)
                .with_context(|| format!("round {round}"))?;
        }
        eprintln!("round {} of {rounds}: {fault:?} for {held} ms", round + 1);
    }
    let mut tallies = Tallies::new();
    for lane in &lanes {
        for (kind, tally) in &lane.tallies {
            let all = tallies.entry(*kind).or_default();
            all.trials += tally.trials;
            all.gaps.join(&tally.gaps);
        }
    }
    drop(lanes);
    let mut resources = Writes::default();
    for (role, taken) in resource.end()? {
        ensure!(taken.taken > 0, "role {role} wrote nothing");
        resources.taken += taken.taken;
        resources.refused += taken.refused;
        resources.stale += taken.stale;
    }
    Ok(Report { tallies, resources })
}

#[test]
fn long_a_role_has_one_holder_whatever_fails() {
    let seed = setting("TRIAL_SEED", u64::from(std::process::id()));
    let (rounds, lanes) = (setting("TRIAL_ROUNDS", 8), setting("TRIAL_LANES", 3));
    let options = ClusterOptions {
        members: 3,
        proxied: true,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::unstarted(options).expect("three members");
    match trials(&mut cluster, seed, rounds, lanes) {
        Ok(report) => eprintln!("seed {seed}:\n{report}"),
        Err(error) => panic!(
            "{error:#}\nseed {seed}; repeat with: TRIAL_SEED={seed} TRIAL_ROUNDS={rounds} \
             TRIAL_LANES={lanes} tests/run one_holder_whatever"
        ),
    }
}

/// A holder that the snapshot does not know of is cut off, and serves on while its lease lasts. The
/// group that is made from the snapshot meanwhile gives the role to nobody before that.
fn restored(old: &mut Cluster, new: &mut Cluster, dir: &Path) -> Result<Gaps> {
    let before = old.endpoints();
    for colo in ["akl", "wlg"] {
        cfgctl(&before, &["colo", "add", colo])?;
    }
    // Long beside the time that killing, starting and restoring take.
    let role = ["role", "create", "r", "--term", "6s", "--stop", "500ms"];
    cfgctl(&before, &role)?;
    let resource = Resource::start(1)?;
    let log = dir.join("holders");
    fs::write(&log, "")?;
    let members = vec![old.client_address(0)?, new.client_address(0)?];
    let program = cfgsvc_tests::harness::binary_path("trial-holder")?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let host = |colo: &str| {
        let options = HostOptions {
            name: colo.to_owned(),
            colo: colo.to_owned(),
            role: "r".to_owned(),
            members: members.clone(),
            dir: dir.to_owned(),
            command: vec![text(&program), text(&log), resource.address().to_string()],
        };
        Host::start(options, Machine::default())
    };
    let read = || -> Result<Vec<Run>> {
        let log = fs::read_to_string(&log)?;
        runs(&log).map_err(|problem| anyhow!(problem))
    };
    let serves = |host: &str, after: i64| -> Result<Run> {
        eventually_some(PATIENCE, format!("{host} to serve"), || {
            let newest = read().ok()?.pop()?;
            (newest.host == host && newest.epoch > after && newest.last > newest.first)
                .then_some(newest)
        })
    };
    let first = host("akl")?;
    let known = serves("akl", 0)?;
    let snapshot = text(&dir.join("snapshot"));
    cfgctl(&before, &["snapshot", "save", &snapshot])?;
    let second = host("wlg")?;
    let moved = eventually(PATIENCE, "the switch", || {
        cfgctl(&before, &["role", "switch", "r", "wlg"]).is_ok()
    });
    moved?;
    let unknown = serves("wlg", known.epoch)?;
    second.cut(true, true)?;
    old.kill(0)?;
    new.spawn(0)?;
    new.wait_ready(0)?;
    cfgctl(
        &new.endpoints(),
        &["snapshot", "restore", &snapshot, "--yes"],
    )?;
    let after = serves("akl", unknown.epoch)?;
    ensure!(after.epoch > unknown.epoch, "{after:?} after {unknown:?}");
    second.heal();
    drop((first, second));
    judge(&read()?).map_err(|problem| anyhow!(problem))
}

#[test]
fn a_restored_group_waits_for_holders_that_it_does_not_know_and_never_repeats_an_epoch() {
    let mut old = Cluster::start(1).expect("a group");
    let options = ClusterOptions {
        members: 1,
        ..ClusterOptions::default()
    };
    let mut new = Cluster::unstarted(options).expect("another one");
    let dir = tempfile::tempdir().expect("a directory");
    let gaps = restored(&mut old, &mut new, dir.path()).expect("one at a time");
    assert_eq!(gaps.count(), 2, "{gaps:?}");
}
