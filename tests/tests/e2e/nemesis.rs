//! Faults, chosen by a seed: one or two at a time, for a while, then all is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cfgsvc_tests::harness::{Cluster, etcdctl, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::clock::clock_of_file;
use crate::seeds::Numbers;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGKILL for all members at once.
    KillAll,
    /// SIGSTOP, later SIGCONT.
    Pause,
    /// A member apart from the others.
    Partition,
    /// What one member sends does not arrive at another, or at any other.
    OneWay,
    /// Every sync of one member's disk takes long.
    SlowDisk,
    /// One member's wall clock jumps.
    Clock,
    /// Another member is asked to lead.
    MoveLeader,
}

/// Longest sync of a slow disk, milliseconds.
const SLOW_MS_MAX: u64 = 600;
/// Jumps of a clock, seconds.
const JUMPS_S: [&str; 6] = ["+0", "+5", "-5", "+3600", "-3600", "+31536000"];

/// Who does it.
pub(crate) struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    faults: &'a [Fault],
    numbers: Numbers,
    /// Members that it killed.
    down: BTreeSet<usize>,
    /// What makes disks slow.
    slow: Vec<Child>,
    counts: BTreeMap<Fault, usize>,
    /// The leader is whom it strikes.
    at_leader: bool,
}

/// The file that says a member's clock.
fn clock_file(cluster: &Cluster, member: usize) -> PathBuf {
    cluster.directory().join(format!("clock-{member}"))
}

/// Gives every member of a group that does not run yet a clock that can be set.
pub(crate) fn prepare_clocks(cluster: &mut Cluster) -> Result<()> {
    for member in 0..cluster.count() {
        let file = clock_file(cluster, member);
        fs::write(&file, "+0\n").context("set a clock")?;
        cluster.set_environment(member, clock_of_file(&file))?;
    }
    Ok(())
}

impl<'a> Nemesis<'a> {
    pub(crate) fn new(cluster: &'a mut Cluster, faults: &'a [Fault], seed: u64) -> Self {
        Self {
            cluster,
            faults,
            numbers: Numbers::new(seed),
            down: BTreeSet::new(),
            slow: Vec::new(),
            counts: BTreeMap::new(),
            at_leader: false,
        }
    }

    /// Makes one fault of the leader, if one leads, holds it for this time and mends it.
    pub(crate) fn once(mut self, fault: Fault, time: Duration) -> Result<()> {
        self.at_leader = true;
        self.make(fault)
            .with_context(|| format!("make the fault {fault:?}"))?;
        let held = u64::try_from(time.as_millis()).context("less than an age")?;
        self.hold(held, held + 1)?;
        self.mend()?;
        self.cluster.wait_all_ready()
    }

    /// Makes faults for this time, then mends all and waits until all members are ready.
    pub(crate) fn run(mut self, time: Duration) -> Result<BTreeMap<Fault, usize>> {
        let end = Instant::now() + time;
        let faults = self.faults;
        while Instant::now() < end {
            for _ in 0..=self.numbers.below(2) {
                let fault = *self.numbers.one_of(faults);
                self.make(fault)
                    .with_context(|| format!("make the fault {fault:?}"))?;
                *self.counts.entry(fault).or_default() += 1;
            }
            self.hold(300, 2_200)?;
            self.mend()?;
            self.hold(100, 1_200)?;
        }
        self.mend()?;
        self.cluster.wait_all_ready()?;
        Ok(std::mem::take(&mut self.counts))
    }

    /// Lets time pass, milliseconds, and sees to it that no member ends by itself.
    fn hold(&mut self, least: u64, most: u64) -> Result<()> {
        let time = Duration::from_millis(least + self.numbers.below(most - least));
        let mut ended = None;
        let passed = eventually(time, "a member that ends", || {
            ended = (0..self.cluster.count())
                .find(|member| !self.down.contains(member) && !self.cluster.runs(*member));
            ended.is_some()
        });
        match ended {
            Some(member) if passed.is_ok() => {
                let log = self.cluster.logs(member)?;
                let lines: Vec<&str> = log.lines().rev().take(20).collect();
                bail!(
                    "member {member} ended by itself, newest first:\n{}",
                    lines.join("\n")
                )
            }
            Some(_) | None => Ok(()),
        }
    }

    fn make(&mut self, fault: Fault) -> Result<()> {
        let members: Vec<usize> = (0..self.cluster.count()).collect();
        let victim = self.victim(&members);
        let others: Vec<usize> = members
            .iter()
            .copied()
            .filter(|one| *one != victim)
            .collect();
        match fault {
            Fault::Kill => self.kill(victim),
            Fault::KillAll => members.iter().try_for_each(|member| self.kill(*member)),
            // There is nothing to stop or to slow down.
            Fault::Pause | Fault::SlowDisk if self.down.contains(&victim) => Ok(()),
            Fault::Pause => self.cluster.pause(victim),
            Fault::Partition => {
                self.cluster.network()?.partition(&[&[victim], &others]);
                Ok(())
            }
            Fault::OneWay => {
                let network = self.cluster.network()?;
                match self.numbers.below(3) {
                    0 => others
                        .iter()
                        .for_each(|other| network.cut_one_way(victim, *other)),
                    1 => others
                        .iter()
                        .for_each(|other| network.cut_one_way(*other, victim)),
                    _ => network.cut_one_way(victim, others[0]),
                }
                Ok(())
            }
            Fault::SlowDisk => self.slow_down(victim),
            Fault::Clock => {
                let jump = *self.numbers.one_of(&JUMPS_S);
                fs::write(clock_file(self.cluster, victim), format!("{jump}\n"))
                    .context("set a clock")
            }
            Fault::MoveLeader => self.move_leader(victim),
        }
    }

    /// Any member, the leader half of the time if one says that it leads, or always.
    fn victim(&mut self, members: &[usize]) -> usize {
        let any = *self.numbers.one_of(members);
        if !self.at_leader && self.numbers.below(2) == 0 {
            return any;
        }
        let leads = |member: &usize| self.status(*member).is_some_and(|(id, leads)| id == leads);
        members.iter().copied().find(leads).unwrap_or(any)
    }

    /// A member's id and its leader's, as it says.
    fn status(&self, member: usize) -> Option<(u64, u64)> {
        if self.down.contains(&member) {
            return None;
        }
        let address = self.cluster.client_address(member).ok()?.to_string();
        let asked = [
            "--command-timeout=500ms",
            "endpoint",
            "status",
            "-w",
            "json",
        ];
        let said = etcdctl(&address, &asked).ok()?.success().ok()?;
        let json: Value = serde_json::from_str(&said).ok()?;
        let status = &json[0]["Status"];
        Some((
            status["header"]["member_id"].as_u64()?,
            status["leader"].as_u64()?,
        ))
    }

    fn kill(&mut self, member: usize) -> Result<()> {
        if self.down.insert(member) {
            self.cluster.kill(member)?;
        }
        Ok(())
    }

    fn slow_down(&mut self, member: usize) -> Result<()> {
        let delay_us = 1_000 * (50 + self.numbers.below(SLOW_MS_MAX - 50));
        let process = self.cluster.process_id(member)?;
        let strace = Command::new("strace")
            .args([
                "-f",
                "-q",
                "-e",
                "trace=fsync,fdatasync,sync_file_range",
                "-e",
            ])
            .arg(format!(
                "inject=fsync,fdatasync,sync_file_range:delay_enter={delay_us}"
            ))
            .args(["-o", "/dev/null", "-p", &process.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start strace, of Debian's package strace")?;
        self.slow.push(strace);
        Ok(())
    }

    /// Asks the leader to hand over; it may refuse, and lead no more when the request arrives.
    fn move_leader(&self, to: usize) -> Result<()> {
        let Some((id, leads)) = self.status(to) else {
            return Ok(());
        };
        let leader = (0..self.cluster.count())
            .find(|member| self.status(*member).is_some_and(|(id, _)| id == leads));
        if let Some(leader) = leader.filter(|_| leads != 0) {
            let address = self.cluster.client_address(leader)?.to_string();
            let asked = ["--command-timeout=2s", "move-leader", &format!("{id:x}")];
            etcdctl(&address, &asked)?;
        }
        Ok(())
    }

    /// Ends all faults but for clocks that are wrong.
    fn mend(&mut self) -> Result<()> {
        for mut strace in self.slow.drain(..) {
            // It ends by itself with the member that it traces, and lets go of it when told to.
            if let Ok(None) = strace.try_wait() {
                kill_process(Pid::from_child(&strace), Signal::TERM).context("stop strace")?;
            }
            strace.wait().context("wait for strace")?;
        }
        if let Ok(network) = self.cluster.network() {
            network.heal();
        }
        for member in 0..self.cluster.count() {
            if self.down.remove(&member) {
                self.cluster.spawn(member)?;
            } else {
                self.cluster.resume(member)?;
            }
        }
        Ok(())
    }
}

impl Drop for Nemesis<'_> {
    fn drop(&mut self) {
        for strace in &mut self.slow {
            // Fails only for a process that has ended.
            let _ = strace.kill();
            let _ = strace.wait();
        }
    }
}
