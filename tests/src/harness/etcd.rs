//! A real etcd for the tests: Debian's, on loopback, in a directory that goes with it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::command::etcdctl;
use super::ports::unused_address;
use super::wait::eventually_some;

const PROGRAM: &str = "/usr/bin/etcd";

/// A member, or a group's member, that can be killed and started again.
pub struct Etcd {
    name: String,
    client: u16,
    peer: u16,
    cluster: String,
    dir: TempDir,
    child: Option<Child>,
}

impl Etcd {
    /// Starts one member.
    pub fn start() -> Result<Self> {
        let mut members = Self::group(1)?;
        members.pop().context("a group of one has one member")
    }

    /// Starts a group and waits until each member serves.
    pub fn group(count: usize) -> Result<Vec<Self>> {
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
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("kill etcd")?;
            child.wait().context("wait for etcd")?;
        }
        Ok(())
    }

    /// Starts it again on the same data.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn()?;
        self.wait_until_serving()
    }

    /// Stops its execution (SIGSTOP), as a paused machine would.
    pub fn pause(&self) -> Result<()> {
        self.signal(rustix::process::Signal::STOP)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
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
        let mut command = Command::new(PROGRAM);
        if self.cluster.contains(',') {
            // Tests wait for its elections. Alone it keeps etcd's own times, on which the least TTL
            // of a lease depends.
            command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        }
        let child = command
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
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start etcd")?;
        self.child = Some(child);
        Ok(())
    }

    fn wait_until_serving(&mut self) -> Result<()> {
        let endpoint = self.endpoint();
        let mut said = String::new();
        let served = eventually_some(Duration::from_mins(2), "etcd serves", || {
            self.serves(&endpoint, &mut said).transpose()
        });
        served.with_context(|| said)?
    }

    /// Whether it answers, which it does once it knows a leader; `None` when not yet, with what was
    /// said.
    fn serves(&mut self, endpoint: &str, said: &mut String) -> Result<Option<()>> {
        let health = etcdctl(endpoint, &["endpoint", "health"])?;
        if health.code == Some(0) {
            return Ok(Some(()));
        }
        *said = health.stderr;
        let child = self.child.as_mut().context("it was started")?;
        if let Some(status) = child.try_wait().context("look at etcd")? {
            let log = std::fs::read_to_string(self.dir.path().join("log"))?;
            bail!("etcd ended with {status}: {log}");
        }
        Ok(None)
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
