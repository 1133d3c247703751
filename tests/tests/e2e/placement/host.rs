//! A host: its agent, behind a network of its own, and what runs under it.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cfgsvc_clock::Moment;
use cfgsvc_tests::harness::{Network, binary_path, eventually, unused_address};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::clock::HostClock;
use super::namespace::Namespace;

/// For what must happen soon.
const SOON: Duration = Duration::from_secs(30);

/// The number of the host in its network; members have 1 and above.
const SELF: usize = 0;

/// How an agent is started.
#[derive(Debug, Clone)]
pub(super) struct HostOptions {
    pub(super) name: String,
    pub(super) colo: String,
    pub(super) role: String,
    /// Where members answer clients.
    pub(super) members: Vec<SocketAddr>,
    pub(super) dir: PathBuf,
    pub(super) command: Vec<String>,
}

pub(super) struct Host {
    options: HostOptions,
    network: Network,
    endpoints: String,
    agent: Option<Child>,
    machine: Machine,
    suspended: Option<Suspended>,
}

/// What a host has of its own.
#[derive(Default)]
pub(super) struct Machine {
    /// Without, it has the true clocks.
    pub(super) clock: Option<HostClock>,
    /// Without, it is cut off by its proxies.
    pub(super) namespace: Option<Namespace>,
}

/// A machine that sleeps.
struct Suspended {
    since: Moment,
    guard: u32,
    program: u32,
}

impl Host {
    /// Starts the agent.
    pub(super) fn start(options: HostOptions, machine: Machine) -> Result<Self> {
        let network = Network::new(Arc::new(|_| Some(SELF)))?;
        let mut endpoints = Vec::new();
        for (number, member) in options.members.iter().enumerate() {
            let listen = match &machine.namespace {
                Some(namespace) => namespace.group_address()?,
                None => unused_address()?,
            };
            network.link(listen, *member, number + 1)?;
            endpoints.push(listen.to_string());
        }
        let mut host = Self {
            endpoints: endpoints.join(","),
            options,
            network,
            agent: None,
            machine,
            suspended: None,
        };
        host.spawn()?;
        Ok(host)
    }

    pub(super) fn name(&self) -> &str {
        &self.options.name
    }

    /// Starts the agent that does not run.
    pub(super) fn spawn(&mut self) -> Result<()> {
        let options = &self.options;
        let log = options.dir.join(format!("{}.log", options.name));
        let log = File::options().create(true).append(true).open(log)?;
        let agent = binary_path("cfgagent")?;
        let mut command = match &self.machine.namespace {
            Some(namespace) => {
                let mut command = namespace.command();
                command.arg(agent);
                command
            }
            None => Command::new(agent),
        };
        let agent = command
            .args(["run", "--host", &options.name, "--colo", &options.colo])
            .args(["--role", &options.role, "--endpoints", &self.endpoints])
            .args(["--http", "off", "--watchdog", "off", "--state-dir"])
            .arg(options.dir.join(&options.name))
            .arg("--")
            .args(&options.command)
            .envs(self.machine.clock.iter().flat_map(HostClock::environment))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start cfgagent")?;
        self.agent = Some(agent);
        Ok(())
    }

    /// What the group sends does not come, and the other way.
    pub(super) fn cut(&self, to_group: bool, from_group: bool) -> Result<()> {
        if let Some(namespace) = &self.machine.namespace {
            return namespace.cut(to_group, from_group);
        }
        for member in 1..=self.options.members.len() {
            if to_group {
                self.network.cut_one_way(SELF, member);
            }
            if from_group {
                self.network.cut_one_way(member, SELF);
            }
        }
        Ok(())
    }

    pub(super) fn heal(&self) {
        if let Some(namespace) = &self.machine.namespace {
            namespace.heal();
        }
        self.network.heal();
    }

    fn agent_id(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("the agent does not run")?.id())
    }

    pub(super) fn signal_agent(&self, signal: Signal) -> Result<()> {
        send(self.agent_id()?, signal)
    }

    /// Ends the agent by this signal, and waits for its end.
    pub(super) fn end_agent(&mut self, signal: Signal) -> Result<()> {
        self.signal_agent(signal)?;
        let mut agent = self.agent.take().context("the agent does not run")?;
        let mut ended = Ok(None);
        eventually(SOON, "the agent's end", || {
            ended = agent.try_wait();
            !matches!(ended, Ok(None))
        })?;
        ended.context("wait for the agent")?;
        Ok(())
    }

    /// The guard, while it runs.
    pub(super) fn guard(&self) -> Result<u32> {
        child_of(self.agent_id()?, "guard")
    }

    /// The guarded program's main process.
    pub(super) fn program(&self) -> Result<u32> {
        child_of(self.guard()?, "")
    }

    /// Until when the host serves by its own lease clock, nanoseconds, if its agent has written
    /// down that it does.
    pub(super) fn deadline(&self) -> Result<Option<u64>> {
        let file = format!("{}.json", self.options.role.replace('/', "+"));
        let state = self.options.dir.join(&self.options.name);
        let text = fs::read_to_string(state.join("roles").join(file))?;
        let file: Value = serde_json::from_str(&text).context("a verdict")?;
        let serves = file["verdict"] == "serve";
        Ok(file["deadline_nanos"].as_u64().filter(|_| serves))
    }

    /// What it wrote is of its own clock: not before `from`, not much later than now.
    pub(super) fn check_deadline(&self, deadline: u64, from: Moment, term: Duration) -> Result<()> {
        let clock = self.machine.clock.as_ref().context("its clocks are true")?;
        let rounding = 10_000_000;
        let least = clock.shows(from) - rounding;
        let most = clock.shows(Moment::now().plus(term)) + rounding;
        ensure!(
            (least..=most).contains(&i128::from(deadline)),
            "the deadline {deadline} is not of {clock:?}, which is {least} to {most}"
        );
        Ok(())
    }

    /// Its wall clock is off by so much.
    pub(super) fn set_wall(&self, seconds: i64) -> Result<()> {
        self.machine
            .clock
            .as_ref()
            .context("its clocks are true")?
            .set_wall(seconds)
    }

    /// The machine sleeps: nothing of it runs, and its monotonic clocks stand still.
    pub(super) fn suspend(&mut self) -> Result<()> {
        let (guard, program) = (self.guard()?, self.program()?);
        let since = Moment::now();
        for process in [program, guard, self.agent_id()?] {
            send(process, Signal::STOP)?;
        }
        self.suspended = Some(Suspended {
            since,
            guard,
            program,
        });
        Ok(())
    }

    /// The program of the machine that sleeps.
    pub(super) fn sleeping_program(&self) -> Result<u32> {
        let sleeps = self.suspended.as_ref().context("the machine is awake")?;
        Ok(sleeps.program)
    }

    /// Stops the sleeping machine's program again, which was woken, and waits until it stands.
    pub(super) fn stop_program(&self) -> Result<()> {
        let program = self.sleeping_program()?;
        send(program, Signal::STOP)?;
        eventually(SOON, "the program to stand", || {
            let stat = fs::read_to_string(format!("/proc/{program}/stat"));
            stat.is_ok_and(|stat| stat.contains(") T"))
        })
    }

    /// It wakes up, the guard first. Which of its processes runs first is by chance; a trial in
    /// which the program does wakes it before.
    fn resume(&mut self) -> Result<()> {
        let Some(slept) = self.suspended.take() else {
            return Ok(());
        };
        let clock = self.machine.clock.as_mut().context("its clocks are true")?;
        clock.slept(Moment::now().since(slept.since))?;
        send(slept.guard, Signal::CONT)?;
        eventually(SOON, "the guard to end the program", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", slept.program));
            stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z"))
        })?;
        self.signal_agent(Signal::CONT)
    }

    /// Everything that was stopped goes on, everything that was ended runs again.
    pub(super) fn mend(&mut self) -> Result<()> {
        self.heal();
        if self.machine.clock.is_some() {
            self.set_wall(0)?;
        }
        self.resume()?;
        if let Ok(guard) = self.guard() {
            // Fails only for a guard that its agent has killed meanwhile.
            let _ = send(guard, Signal::CONT);
        }
        let ended = match &mut self.agent {
            Some(agent) => agent.try_wait().context("look at the agent")?.is_some(),
            None => true,
        };
        if ended {
            return self.spawn();
        }
        self.signal_agent(Signal::CONT)
    }

    pub(super) fn log(&self) -> String {
        let log = self.options.dir.join(format!("{}.log", self.options.name));
        fs::read_to_string(log).unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What sleeps, or was stopped, is ended by its guard.
        let _ = self.resume();
        if let Ok(guard) = self.guard() {
            let _ = send(guard, Signal::CONT);
        }
        if let Some(agent) = &mut self.agent {
            // The guard stops the program when the agent is gone. Fails only if it has ended.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

pub(super) fn send(process: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let pid = pid.context("a process id")?;
    kill_process(pid, signal).with_context(|| format!("send {signal:?} to process {process}"))
}

/// The child of `process` whose second word is `word`, or any.
fn child_of(process: u32, word: &str) -> Result<u32> {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    for task in fs::read_dir(tasks).context("the process is gone")? {
        let children = fs::read_to_string(task?.path().join("children"))?;
        for child in children.split_whitespace() {
            let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            let second = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
            if word.is_empty() || second == word.as_bytes() {
                return child.parse().context("a process id");
            }
        }
    }
    bail!("process {process} has no child {word}")
}
