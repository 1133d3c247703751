//! Faults, chosen by a seed: one or two at a time, for a while, then all is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cfgsvc_tests::harness::{Cluster, etcdctl, eventually, eventually_some};
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
    /// A sync of one member's disk takes longer than all else that is waited for.
    StalledDisk,
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
    /// What makes disks slow, by member.
    slow: BTreeMap<usize, SlowDisk>,
    /// How long a stalled disk takes for a sync.
    stall: Duration,
    counts: BTreeMap<Fault, usize>,
    /// The leader is whom it strikes.
    at_leader: bool,
}

/// The tool that makes a member's disk slow.
struct SlowDisk {
    strace: Child,
    /// What it says.
    said: PathBuf,
    /// What it saw.
    syncs: PathBuf,
}

/// Calls that bring data to a disk.
const SYNCS: &str = "fsync,fdatasync,sync_file_range";
/// For what must happen soon.
const SOON: Duration = Duration::from_secs(30);

impl SlowDisk {
    /// Every sync of this process takes so much longer, from now on.
    fn start(process: u32, delay: Duration, files: &Path) -> Result<Self> {
        let (said, syncs) = (files.with_extension("said"), files.with_extension("syncs"));
        let strace = Command::new("strace")
            .args(["-f", "-q", "-e", &format!("trace={SYNCS}"), "-e"])
            .arg(format!("inject={SYNCS}:delay_enter={}", delay.as_micros()))
            .arg("-o")
            .arg(&syncs)
            .args(["-p", &process.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said).context("make a log of strace")?)
            .spawn()
            .context("start strace, of Debian's package strace")?;
        let mut slow = Self {
            strace,
            said,
            syncs,
        };
        let tracer = format!("TracerPid:\t{}\n", slow.strace.id());
        let mut ended = None;
        let attached = eventually(SOON, "strace to hold all threads", || {
            ended = slow.strace.try_wait().transpose();
            ended.is_some() || threads_hold(process, &tracer).unwrap_or(false)
        });
        match ended {
            Some(status) => bail!("{}", slow.problem(status)),
            None => attached.map(|()| slow),
        }
    }

    fn problem(&self, status: io::Result<ExitStatus>) -> String {
        let said = fs::read_to_string(&self.said).unwrap_or_else(|error| error.to_string());
        format!("strace, which slows syncs down, ended by itself: {status:?}: {said}")
    }

    /// Lets go of the process, which has gone on since: so has strace.
    fn end(mut self, process_ended: bool) -> Result<()> {
        if let Some(status) = self.strace.try_wait().transpose() {
            ensure!(process_ended, "{}", self.problem(status));
            return Ok(());
        }
        kill_process(Pid::from_child(&self.strace), Signal::TERM).context("stop strace")?;
        self.strace.wait().context("wait for strace")?;
        Ok(())
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Whether the status of every thread of a process says so.
fn threads_hold(process: u32, line: &str) -> io::Result<bool> {
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        if !fs::read_to_string(task?.path().join("status"))?.contains(line) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The file that says a member's clock.
fn clock_file(cluster: &Cluster, member: usize) -> PathBuf {
    cluster.directory().join(format!("clock-{member}"))
}

/// Gives every member of a group that does not run yet a clock that can be set.
pub(crate) fn prepare_clocks(cluster: &mut Cluster) -> Result<()> {
    for member in 0..cluster.count() {
        fs::write(clock_file(cluster, member), "+0\n").context("set a clock")?;
        cluster.set_environment(member, clock_environment(cluster, member))?;
    }
    Ok(())
}

/// Variables that give a member such a clock.
pub(crate) fn clock_environment(cluster: &Cluster, member: usize) -> Vec<(String, String)> {
    clock_of_file(&clock_file(cluster, member))
}

impl<'a> Nemesis<'a> {
    pub(crate) fn new(cluster: &'a mut Cluster, faults: &'a [Fault], seed: u64) -> Self {
        Self {
            cluster,
            faults,
            numbers: Numbers::new(seed),
            down: BTreeSet::new(),
            slow: BTreeMap::new(),
            stall: Duration::from_millis(SLOW_MS_MAX),
            counts: BTreeMap::new(),
            at_leader: false,
        }
    }

    /// Makes one fault of the leader, holds it for this time and mends it.
    pub(crate) fn once(mut self, fault: Fault, time: Duration) -> Result<()> {
        self.at_leader = true;
        self.stall = time;
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
        let victim = self.victim(&members)?;
        let others: Vec<usize> = members
            .iter()
            .copied()
            .filter(|one| *one != victim)
            .collect();
        match fault {
            Fault::Kill => self.kill(victim),
            Fault::KillAll => members.iter().try_for_each(|member| self.kill(*member)),
            // There is nothing to stop or to slow down.
            Fault::Pause | Fault::SlowDisk | Fault::StalledDisk if self.down.contains(&victim) => {
                Ok(())
            }
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
            Fault::SlowDisk => {
                let delay_ms = 50 + self.numbers.below(SLOW_MS_MAX - 50);
                self.slow_down(victim, Duration::from_millis(delay_ms))
            }
            Fault::StalledDisk => {
                self.slow_down(victim, self.stall)?;
                self.sync(victim)
            }
            Fault::Clock => {
                let jump = *self.numbers.one_of(&JUMPS_S);
                fs::write(clock_file(self.cluster, victim), format!("{jump}\n"))
                    .context("set a clock")
            }
            Fault::MoveLeader => self.move_leader(),
        }
    }

    /// Any member, the leader half of the time if one says that it leads, or always.
    fn victim(&mut self, members: &[usize]) -> Result<usize> {
        if self.at_leader {
            return eventually_some(SOON, "a member that leads", || self.leader());
        }
        let any = *self.numbers.one_of(members);
        let strikes = self.numbers.below(2) != 0;
        Ok(self.leader().filter(|_| strikes).unwrap_or(any))
    }

    /// The member that says that it leads.
    fn leader(&self) -> Option<usize> {
        let leads = |member: &usize| self.status(*member).is_some_and(|(id, leads)| id == leads);
        (0..self.cluster.count()).find(leads)
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

    fn slow_down(&mut self, member: usize, delay: Duration) -> Result<()> {
        // One tool at a time can hold a process.
        if !self.slow.contains_key(&member) {
            let process = self.cluster.process_id(member)?;
            let files = self.cluster.directory().join(format!("strace-{member}"));
            let slow = SlowDisk::start(process, delay, &files)?;
            self.slow.insert(member, slow);
        }
        Ok(())
    }

    /// Waits until a member whose disk is slow has begun a sync.
    fn sync(&self, member: usize) -> Result<()> {
        let slow = self.slow.get(&member).context("its disk is not slow")?;
        let address = self.cluster.client_address(member)?.to_string();
        eventually(SOON, "a sync that takes long", || {
            // It may not be answered in this time; the leader writes it down all the same.
            let asked = ["--command-timeout=500ms", "put", "nemesis", "stalled"];
            let _ = etcdctl(&address, &asked);
            fs::read_to_string(&slow.syncs).is_ok_and(|syncs| syncs.contains("sync("))
        })
    }

    /// Asks the leader to hand over to another. It may refuse, and lead no more when the request
    /// arrives; where all else is well it is asked until it does.
    fn move_leader(&mut self) -> Result<()> {
        if self.at_leader {
            let mut said = String::new();
            return eventually(SOON, "the leader to hand over", || match self.hand_over() {
                Ok(moved) => moved,
                Err(error) => {
                    said = format!("{error:#}");
                    false
                }
            })
            .with_context(|| said);
        }
        self.hand_over()?;
        Ok(())
    }

    /// Whether the leader has handed over to another member.
    fn hand_over(&mut self) -> Result<bool> {
        let Some(leader) = self.leader() else {
            return Ok(false);
        };
        let others: Vec<usize> = (0..self.cluster.count())
            .filter(|member| *member != leader && !self.down.contains(member))
            .collect();
        if others.is_empty() {
            return Ok(false);
        }
        let to = *self.numbers.one_of(&others);
        let Some((id, _)) = self.status(to) else {
            return Ok(false);
        };
        let address = self.cluster.client_address(leader)?.to_string();
        let asked = ["--command-timeout=2s", "move-leader", &format!("{id:x}")];
        Ok(etcdctl(&address, &asked)?.code == Some(0))
    }

    /// Ends all faults but for clocks that are wrong.
    fn mend(&mut self) -> Result<()> {
        for (member, slow) in std::mem::take(&mut self.slow) {
            // It ends by itself with the member that it holds.
            slow.end(self.down.contains(&member))?;
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
