//! A role and its two hosts, on which trials are made.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use cfgsvc_clock::Moment;
use cfgsvc_tests::harness::{Cluster, eventually, eventually_some, run_binary};
use rustix::process::Signal;

use super::clock::{self, HostClock};
use super::faults::{Deck, HOST_FAULTS, HostFault, Kind};
use super::host::{Host, HostOptions, Machine, send};
use super::judge::{Log, Run, judge};
use super::namespace::Namespace;
use super::report::Tallies;
use super::resource::{Resources, Write};
use super::{JUMP_S, PATIENCE, RATES_PPM, ROLE_RATE_PPM, cfgctl, term_ms};
use crate::nemesis::Fault;

/// Which of all lanes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) number: usize,
    pub(super) lanes: usize,
    pub(super) seed: u64,
}

pub(super) struct Lane<'a> {
    place: Place,
    role: String,
    endpoints: String,
    resources: &'a Resources,
    began: Moment,
    hosts: Vec<Host>,
    log: Log,
    faults: Deck<HostFault>,
    /// The holder that is cut off while the group has a fault.
    cut: Option<usize>,
    pub(super) tallies: Tallies,
}

impl<'a> Lane<'a> {
    pub(super) fn start(place: Place, cluster: &Cluster, resources: &'a Resources) -> Result<Self> {
        let number = place.number;
        let role = format!("trial/r{number}");
        let term_ms = term_ms();
        let endpoints = cluster.endpoints();
        let (term, stop) = (format!("{term_ms}ms"), format!("{}ms", term_ms / 5));
        let times = [
            "--term",
            &term,
            "--stop",
            &stop,
            "--rate-ppm",
            ROLE_RATE_PPM,
        ];
        let create = ["role", "create", &role];
        cfgctl(&endpoints, &[&create[..], &times].concat())?;
        let dir = cluster.directory().join(format!("lane-{number}"));
        fs::create_dir(&dir)?;
        let mut lane = Self {
            place,
            role,
            endpoints,
            resources,
            began: Moment::now(),
            hosts: Vec::new(),
            log: Log::create(dir.join("holders"))?,
            faults: Deck::of_lane(&HOST_FAULTS, place.seed, number, place.lanes),
            cut: None,
            tallies: Tallies::new(),
        };
        lane.start_hosts(cluster, &dir)?;
        Ok(lane)
    }

    fn start_hosts(&mut self, cluster: &Cluster, dir: &Path) -> Result<()> {
        let number = self.place.number;
        let library = clock::library(dir)?;
        let mut members = Vec::new();
        for member in 0..cluster.count() {
            members.push(cluster.client_address(member)?);
        }
        let command = self.command()?;
        // All pairs of rates come about.
        let mut rates = RATES_PPM.into_iter().cycle().skip(number);
        let (first, mut others) = (rates.next(), rates.skip(number / 3));
        for (colo, rate) in [("akl", first), ("wlg", others.next())] {
            let name = format!("{colo}{number}");
            let rate = rate.unwrap_or_default();
            let clock = HostClock::new(&library, dir.join(format!("{name}.clock")), rate)?;
            // Every second lane, so that both kinds of cut are tried.
            let namespace = number.is_multiple_of(2).then(namespace).flatten();
            let reached = match &namespace {
                Some(namespace) => self.resources.also_at(namespace.client_address())?,
                None => self.resources.address(),
            };
            let mut command = command.clone();
            command.push(reached.to_string());
            let options = HostOptions {
                name,
                colo: colo.to_owned(),
                role: self.role.clone(),
                members: members.clone(),
                dir: dir.to_owned(),
                command,
            };
            let machine = Machine {
                clock: Some(clock),
                namespace,
            };
            self.hosts.push(Host::start(options, machine)?);
        }
        Ok(())
    }

    /// The program of the role, but for where its resources are.
    fn command(&self) -> Result<Vec<String>> {
        let program = cfgsvc_tests::harness::binary_path("trial-holder")?;
        // In every second lane the program does not listen to SIGTERM.
        let ignore = if self.place.number % 2 == 1 {
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
            &text(self.log.path()),
        ];
        Ok(command.map(str::to_owned).into())
    }

    /// Waits until a run of a later epoch than `after` has lasted for some lines, and goes on: it
    /// has said so since the last look.
    pub(super) fn serves(&mut self, after: i64) -> Result<Run> {
        let what = format!("role {} to be served after epoch {after}", self.role);
        let mut looked = Moment::now().nanos();
        let log = &mut self.log;
        let waited = eventually_some(PATIENCE, what, || {
            let since = std::mem::replace(&mut looked, Moment::now().nanos());
            let newest = log.runs().map(|mut runs| runs.pop());
            match newest {
                Ok(Some(run)) if run.epoch > after && run.last > run.first.max(since) => {
                    Some(Ok(run))
                }
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            }
        });
        self.explained(waited)?
            .with_context(|| format!("role {}", self.role))
    }

    /// What was waited for, or what the agents say about it.
    fn explained<T>(&self, waited: Result<T>) -> Result<T> {
        waited.map_err(|error| {
            let logs: Vec<_> = self.hosts.iter().map(|host| tail(&host.log())).collect();
            error.context(format!("the agents say:\n{}", logs.join("\n--\n")))
        })
    }

    /// The host that runs, and the other.
    fn holder(&self, run: &Run) -> (usize, usize) {
        if self.hosts[0].name() == run.host {
            (0, 1)
        } else {
            (1, 0)
        }
    }

    /// One fault of the holder's host.
    pub(super) fn host_trial(&mut self) -> Result<()> {
        let (fault, passes) = self.faults.deal();
        // Of faults that come in two ways, half come in each: lanes begin with the other.
        let other_way = (self.place.number + passes) % 2 == 1;
        self.check_clock()?;
        let newest = self.log.runs()?.pop();
        let mut before = self.serves(newest.map_or(0, |run| run.epoch - 1))?;
        // On a machine that is slow a lease may end at any time.
        while self.hosts[self.holder(&before).0].program().is_err() {
            before = self.serves(before.epoch)?;
        }
        let (holder, other) = self.holder(&before);
        let what = || format!("{fault:?} of {}, other way: {other_way}", before.host);
        self.make(fault, other_way, (holder, other))
            .with_context(what)?;
        let after = self.serves(before.epoch).with_context(what)?;
        if fault == HostFault::Suspended && other_way {
            self.wake_program(holder, &before).with_context(what)?;
        }
        self.hosts[holder].mend().with_context(what)?;
        self.count(Kind::Host(fault), &[before, after])
    }

    /// What the agent of a host that serves has written down is of the host's own clock.
    fn check_clock(&self) -> Result<()> {
        let serving = eventually_some(PATIENCE, "an agent that wrote its deadline", || {
            let deadline = |host: &Host| host.deadline().ok().flatten();
            let mut hosts = self.hosts.iter();
            hosts.find_map(|host| deadline(host).map(|deadline| (host, deadline)))
        });
        let (host, deadline) = self.explained(serving)?;
        let term = Duration::from_millis(term_ms());
        host.check_deadline(deadline, self.began, term)
    }

    fn make(
        &mut self,
        fault: HostFault,
        other_way: bool,
        (holder, other): (usize, usize),
    ) -> Result<()> {
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
                if other_way {
                    return host.cut(true, true);
                }
                self.switch(other)
            }
            HostFault::Cut => host.cut(true, true),
            HostFault::RequestsLost => host.cut(true, false),
            HostFault::AnswersLost => host.cut(false, true),
            HostFault::Switched => self.switch(other),
            HostFault::ClockSet => {
                host.set_wall(if other_way { JUMP_S } else { -JUMP_S })?;
                host.cut(true, true)
            }
            HostFault::Suspended => self.hosts[holder].suspend(),
        }
    }

    fn switch(&self, to: usize) -> Result<()> {
        let to = self.hosts[to].name();
        let asked = ["--endpoints", &self.endpoints, "role", "switch"];
        let asked = [&asked[..], &[&self.role, to]].concat();
        // The other may be on its way back from the trial before.
        let mut said = String::new();
        let what = format!("the switch of {} to {to}", self.role);
        eventually(PATIENCE, what, || match run_binary("cfgctl", &asked) {
            Ok(ran) if ran.code == Some(0) => true,
            Ok(ran) => {
                said = ran.stderr;
                false
            }
            Err(error) => {
                said = format!("{error:#}");
                false
            }
        })
        .with_context(|| said)
    }

    /// Of a machine that slept, and whose role another serves now, the program runs first. What it
    /// writes then is too late: the resource that looks at epochs refuses it. Before the guard runs
    /// it is stopped again, so that the time in which it runs is known.
    fn wake_program(&mut self, holder: usize, before: &Run) -> Result<()> {
        let program = self.hosts[holder].sleeping_program()?;
        ensure!(program == before.process, "{program} is not of {before:?}");
        let (role, resources) = (&self.role, self.resources);
        eventually(PATIENCE, "a write of the later epoch", || {
            let later = |write: &Write| write.role == *role && write.epoch > before.epoch;
            resources.checked().applied.iter().rev().any(later)
        })?;
        let from = Moment::now().nanos();
        self.log.woken(program, from);
        send(program, Signal::CONT)?;
        let late = |write: &Write| {
            (&write.role, write.epoch, &write.host) == (role, before.epoch, &before.host)
                && write.nanos >= from
        };
        eventually(PATIENCE, "a late write that is refused", || {
            resources.checked().refused.iter().rev().any(late)
                && resources.unchecked().applied.iter().rev().any(late)
        })?;
        self.hosts[holder].stop_program()?;
        self.log.asleep(program, Moment::now().nanos());
        Ok(())
    }

    /// Cuts the holder off until [`Lane::served_again`].
    pub(super) fn cut_holder(&mut self, run: &Run) -> Result<()> {
        let (holder, _) = self.holder(run);
        self.cut = Some(holder);
        self.hosts[holder].cut(true, true)
    }

    /// After a fault of the group: the role is served, by whomever.
    pub(super) fn served_again(&mut self, fault: Fault, from: &Run) -> Result<()> {
        let kind = match self.cut.take() {
            Some(holder) => {
                self.hosts[holder].heal();
                Kind::Both(fault)
            }
            None => Kind::Group(fault),
        };
        let now = Moment::now().nanos();
        let what = format!("role {} to be served after {kind:?}", self.role);
        let log = &mut self.log;
        let after = eventually_some(PATIENCE, what, || {
            let newest = log.runs().ok()?.pop()?;
            (newest.last > now).then_some(newest)
        });
        let after = self.explained(after)?;
        self.count(kind, &[from.clone(), after])
    }

    /// Judges the whole log, and counts the time between these two runs.
    fn count(&mut self, kind: Kind, [before, after]: &[Run; 2]) -> Result<()> {
        let runs = self.log.runs()?;
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
