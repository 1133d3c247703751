//! The agent's end of a guard, by hand: what is said is under the test's control.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cfgsvc_agent::guard::protocol::Report;
use cfgsvc_clock::Moment;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than any wait that a machine's slowness explains.
pub(crate) const LONG: Duration = Duration::from_mins(1);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn cfgagent() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cfgagent"))
}

pub(crate) struct Agent {
    guard: Child,
    socket: Option<BufReader<UnixStream>>,
    /// The other end of the standard output of guard and program.
    output: BufReader<UnixStream>,
}

impl Agent {
    /// A guard for a shell script, which is ready.
    pub(crate) fn spawn(stop: Duration, script: &str) -> Result<Self> {
        Self::spawn_command(stop, &["sh", "-c", script])
    }

    pub(crate) fn spawn_command(stop: Duration, command: &[&str]) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let (output, their_output) = UnixStream::pair()?;
        for end in [&ours, &output] {
            end.set_read_timeout(Some(LONG))?;
            end.set_write_timeout(Some(LONG))?;
        }
        let guard = cfgagent()
            .args(["guard", "--stop-ms", &stop.as_millis().to_string(), "--"])
            .args(command)
            .env("CFGSVC_ROLE", "db/orders")
            .env("CFGSVC_EPOCH", "42")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(their_output)))
            .spawn()?;
        let mut agent = Self {
            guard,
            socket: Some(BufReader::new(ours)),
            output: BufReader::new(output),
        };
        let ready = agent.report()?;
        ensure!(matches!(ready, Report::Ready { .. }), "{ready}");
        Ok(agent)
    }

    /// The same, and the program has said `up`.
    pub(crate) fn with_running(stop: Duration, script: &str) -> Result<Self> {
        let mut agent = Self::spawn(stop, script)?;
        agent.until(Moment::now() + 10 * LONG)?;
        agent.started()?;
        let line = agent.line()?;
        ensure!(line == "up", "the program says {line:?}");
        Ok(agent)
    }

    fn socket(&mut self) -> Result<&mut BufReader<UnixStream>> {
        self.socket.as_mut().context("the agent is dead")
    }

    pub(crate) fn say(&mut self, text: &str) -> Result<()> {
        self.socket()?.get_mut().write_all(text.as_bytes())?;
        Ok(())
    }

    pub(crate) fn until(&mut self, moment: Moment) -> Result<()> {
        self.say(&format!("until {}\n", moment.nanos()))
    }

    /// Nothing more is said; reports are still heard.
    pub(crate) fn hang_up(&mut self) -> Result<()> {
        Ok(self.socket()?.get_ref().shutdown(Shutdown::Write)?)
    }

    /// Reports find nobody from now on.
    pub(crate) fn deaf(&mut self) -> Result<()> {
        Ok(self.socket()?.get_ref().shutdown(Shutdown::Read)?)
    }

    pub(crate) fn die(&mut self) {
        self.socket = None;
    }

    fn report(&mut self) -> Result<Report> {
        let line = read_line(self.socket()?).context("a report of the guard")?;
        Report::parse(line.as_bytes()).with_context(|| format!("report {line:?}"))
    }

    pub(crate) fn started(&mut self) -> Result<()> {
        let report = self.report()?;
        ensure!(matches!(report, Report::Started { .. }), "{report}");
        Ok(())
    }

    pub(crate) fn expect(&mut self, reports: &[Report]) -> Result<()> {
        for expected in reports {
            let found = self.report()?;
            ensure!(found == *expected, "expected {expected}, found {found}");
        }
        Ok(())
    }

    /// A line of the program.
    pub(crate) fn line(&mut self) -> Result<String> {
        read_line(&mut self.output).context("a line of the program")
    }

    /// Text for a program that reads from the socket that is its output.
    pub(crate) fn feed(&mut self, text: &str) -> Result<()> {
        Ok(self.output.get_mut().write_all(text.as_bytes())?)
    }

    pub(crate) fn signal_guard(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.guard), signal)?)
    }

    /// Waits until neither the guard nor any process of the program is left.
    pub(crate) fn program_gone(&mut self) -> Result<()> {
        let mut rest = String::new();
        self.output
            .read_to_string(&mut rest)
            .context("somebody holds the program's output")?;
        ensure!(rest.is_empty(), "the program says {rest:?}");
        Ok(())
    }

    /// The same, and the guard ended as it should.
    pub(crate) fn all_gone(&mut self) -> Result<()> {
        self.program_gone()?;
        let status = self.guard.wait()?;
        ensure!(status.success(), "the guard ended with {status}");
        Ok(())
    }
}

impl Drop for Agent {
    /// A test that fails leaves nobody either: a guard that has lost its agent ends, and one that
    /// does not is killed.
    fn drop(&mut self) {
        self.socket = None;
        if matches!(self.guard.try_wait(), Ok(Some(_))) {
            return;
        }
        // Both fail only for a guard that is gone.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

fn read_line(from: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    ensure!(line.ends_with('\n'), "it ends after {line:?}");
    line.pop();
    Ok(line)
}
