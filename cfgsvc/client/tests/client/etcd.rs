//! A real etcd for the tests: Debian's, on loopback, in a directory that goes with it.

use anyhow::{Context, Result, bail};
use ports::unused_address;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

// The same one as the tests of the whole use, so that they never take each other's ports.
#[path = "../../../../tests/src/harness/ports.rs"]
#[allow(unreachable_pub, reason = "public where it lives")]
mod ports;

const PROGRAM: &str = "/usr/bin/etcd";

/// A member, or a group's member, that can be killed and started again.
pub(crate) struct Etcd {
    name: String,
    client: u16,
    peer: u16,
    cluster: String,
    dir: TempDir,
    child: Option<Child>,
}

impl Etcd {
    /// Starts one member.
    pub(crate) fn start() -> Result<Self> {
        let mut members = Self::group(1)?;
        members.pop().context("a group of one has one member")
    }

    /// Starts a group and waits until each member serves.
    pub(crate) fn group(count: usize) -> Result<Vec<Self>> {
        if !Path::new(PROGRAM).exists() {
            bail!("{PROGRAM} is missing: install the package etcd-server");
        }
        let ports: Vec<(u16, u16)> = (0..count)
            .map(|_| Ok((unused_address()?.port(), unused_address()?.port())))
            .collect::<Result<_>>()?;
        let names: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(index, (_, peer))| format!("n{index}=http://127.0.0.1:{peer}"))
            .collect();
        let cluster = names.join(",");
        let mut members = Vec::new();
        for (index, (client, peer)) in ports.into_iter().enumerate() {
            let mut member = Self {
                name: format!("n{index}"),
                client,
                peer,
                cluster: cluster.clone(),
                dir: TempDir::new().context("make a data directory")?,
                child: None,
            };
            member.spawn()?;
            members.push(member);
        }
        for member in &mut members {
            member.wait_until_serving()?;
        }
        Ok(members)
    }

    /// Address for clients.
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("kill etcd")?;
            child.wait().context("wait for etcd")?;
        }
        Ok(())
    }

    /// Starts it again on the same data.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn()?;
        self.wait_until_serving()
    }

    /// Stops its execution (SIGSTOP), as a paused machine would.
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(rustix::process::Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(rustix::process::Signal::CONT)
    }

    fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let child = self.child.as_ref().context("etcd runs")?;
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).context("signal etcd")
    }

    fn spawn(&mut self) -> Result<()> {
        let client = format!("http://127.0.0.1:{}", self.client);
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))?;
        let child = Command::new(PROGRAM)
            .args(["--name", &self.name])
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &self.cluster])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start etcd")?;
        self.child = Some(child);
        Ok(())
    }

    fn wait_until_serving(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_mins(2);
        loop {
            let health = Command::new("/usr/bin/etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &self.endpoint(), "endpoint", "health"])
                .output()
                .context("run etcdctl: install the package etcd-client")?;
            if health.status.success() {
                return Ok(());
            }
            let child = self.child.as_mut().context("it was started")?;
            if let Some(status) = child.try_wait().context("look at etcd")? {
                let log = std::fs::read_to_string(self.dir.path().join("log"))?;
                bail!("etcd ended with {status}: {log}");
            }
            if Instant::now() > deadline {
                bail!(
                    "etcd does not serve: {}",
                    String::from_utf8_lossy(&health.stderr)
                );
            }
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A failure means that it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
