//! Three servers of one kind on loopback, with their data in a directory that goes with them.
//!
//! Invariants
//! - no server outlives its [`Group`]; each is ended by its own process id, and nothing else is.
//! - both kinds run with their own default settings, data on the same file system, syncs for real.
//!   etcd is only allowed more space than its default of 2 GiB, which fast loads would fill.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cfgsvc_proto::etcd::StatusRequest;
use cfgsvc_proto::etcd::kv_client::KvClient;
use cfgsvc_proto::etcd::maintenance_client::MaintenanceClient;
use cfgsvc_tests::harness::unused_address;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::client::{self, REQUEST};

/// Members of a group.
const MEMBERS: usize = 3;
/// Between two tries to write.
const PROBE: Duration = Duration::from_millis(10);
/// Time for a try: what was handed to a leader that died may be answered much later or never, and
/// must not keep fresh tries away. It also bounds how many are under way.
const TRY: Duration = Duration::from_secs(2);
/// Time for a group to take a write.
const SERVES: Duration = Duration::from_mins(2);
/// Bytes that etcd may keep.
const ETCD_QUOTA: &str = "8589934592";

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Cfgsvc,
    Etcd,
}

impl Kind {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cfgsvc => "cfgsvc",
            Self::Etcd => "etcd",
        }
    }
}

/// A running group.
pub(crate) struct Group {
    kind: Kind,
    binary: PathBuf,
    members: Vec<Member>,
    /// Removed when the group goes, after its servers.
    directory: TempDir,
}

struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

impl Group {
    /// Starts three servers within `directory`; returns when one has taken a write, with the time
    /// from the start of the first.
    pub(crate) async fn start(
        kind: Kind,
        binary: &Path,
        directory: &Path,
    ) -> Result<(Self, Duration)> {
        let directory = tempfile::Builder::new()
            .prefix("cfgsvc-bench-")
            .tempdir_in(directory)
            .with_context(|| format!("make a directory in {}", directory.display()))?;
        let mut members = Vec::new();
        for number in 1..=MEMBERS {
            members.push(Member {
                name: format!("n{number}"),
                client: unused_address()?,
                peer: unused_address()?,
                process: None,
            });
        }
        let mut group = Self {
            kind,
            binary: binary.to_owned(),
            members,
            directory,
        };
        let started = Instant::now();
        for index in 0..MEMBERS {
            group.spawn(index)?;
        }
        let took = first_write(&group.endpoints(), started).await;
        let took = took.with_context(|| group.logs())?;
        // The others may still be on their way.
        for endpoint in group.endpoints() {
            let served = first_write(&[endpoint], started).await;
            served.with_context(|| group.logs())?;
        }
        Ok((group, took))
    }

    /// HOST:PORT of those that run.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        let running = self
            .members
            .iter()
            .filter(|member| member.process.is_some());
        running.map(|member| member.client.to_string()).collect()
    }

    /// Process ids of those that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let processes = self
            .members
            .iter()
            .filter_map(|member| member.process.as_ref());
        processes.map(Child::id).collect()
    }

    /// Kills the leader with SIGKILL; returns the time from then to the first answer to a write
    /// that was sent later. Starts the member again and waits until it serves.
    pub(crate) async fn fail_over(&mut self) -> Result<Duration> {
        let leader = self.leader().await?;
        let mut process = self.members[leader].process.take();
        let process = process.as_mut().context("the leader runs")?;
        let killed = Instant::now();
        process.kill().context("kill the leader")?;
        let took = first_write(&self.endpoints(), killed).await;
        process.wait().context("wait for the killed leader")?;
        let took = took.with_context(|| self.logs())?;
        self.spawn(leader)?;
        let back = [self.members[leader].client.to_string()];
        let served = first_write(&back, Instant::now()).await;
        served.with_context(|| self.logs())?;
        Ok(took)
    }

    /// The member that says of itself that it leads.
    async fn leader(&self) -> Result<usize> {
        for (index, member) in self.members.iter().enumerate() {
            let channel = lazy(&member.client.to_string())?;
            let mut client = MaintenanceClient::new(channel);
            let status = timeout(REQUEST, client.status(StatusRequest {}))
                .await
                .with_context(|| format!("{} does not tell its status", member.name))?
                .map_err(client::told)?
                .into_inner();
            let id = status.header.context("a status has no header")?.member_id;
            if id == status.leader {
                return Ok(index);
            }
        }
        bail!("no member of {} says that it leads", self.kind.name())
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let arguments = self.arguments(index);
        let log = self.directory.path().join(format!("n{}.log", index + 1));
        let log = File::options().create(true).append(true).open(&log)?;
        let process = Command::new(&self.binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        self.members[index].process = Some(process);
        Ok(())
    }

    fn arguments(&self, index: usize) -> Vec<String> {
        let member = &self.members[index];
        let data = self.directory.path().join(&member.name);
        let data = data.to_string_lossy().into_owned();
        let scheme = match self.kind {
            Kind::Cfgsvc => "",
            Kind::Etcd => "http://",
        };
        let all: Vec<_> = (self.members.iter())
            .map(|member| format!("{}={scheme}{}", member.name, member.peer))
            .collect();
        let (client, peer) = (
            format!("{scheme}{}", member.client),
            format!("{scheme}{}", member.peer),
        );
        let mut arguments = vec!["--name", &member.name, "--data-dir", &data];
        let all = all.join(",");
        arguments.extend(["--initial-cluster", &all]);
        match self.kind {
            Kind::Cfgsvc => {
                arguments.extend(["--colo", &member.name]);
                arguments.extend(["--listen-client", &client, "--listen-peer", &peer]);
            }
            Kind::Etcd => {
                arguments.extend(["--listen-client-urls", &client]);
                arguments.extend(["--advertise-client-urls", &client]);
                arguments.extend(["--listen-peer-urls", &peer]);
                arguments.extend(["--initial-advertise-peer-urls", &peer]);
                arguments.extend(["--quota-backend-bytes", ETCD_QUOTA]);
            }
        }
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// The ends of the members' logs, for an error.
    fn logs(&self) -> String {
        let mut all = vec![format!("the logs of {} end so:", self.kind.name())];
        for member in &self.members {
            let path = self.directory.path().join(format!("{}.log", member.name));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| error.to_string());
            let lines: Vec<_> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(10)..];
            all.extend(tail.iter().map(|line| format!("{}: {line}", member.name)));
        }
        all.join("\n")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for member in &mut self.members {
            let Some(process) = &mut member.process else {
                continue;
            };
            if let Err(error) = process.kill().and_then(|()| process.wait()) {
                eprintln!("process {} may still run: {error}", process.id());
            }
        }
    }
}

/// Time from `since` to the first answer to a write, of which one is sent to each endpoint every
/// few milliseconds, without waiting for those before.
async fn first_write(endpoints: &[String], since: Instant) -> Result<Duration> {
    let channels: Vec<_> = endpoints
        .iter()
        .map(|one| lazy(one))
        .collect::<Result<_>>()?;
    let give_up = Instant::now() + SERVES;
    let mut tries = JoinSet::new();
    let mut last = "no answer yet".to_owned();
    loop {
        for channel in &channels {
            tries.spawn(write_once(channel.clone()));
        }
        let next = tokio::time::sleep(PROBE);
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = &mut next => break,
                Some(tried) = tries.join_next() => match tried.context("a try has panicked")? {
                    Ok(answered) => return Ok(answered.saturating_duration_since(since)),
                    Err(error) => last = format!("{error:#}"),
                },
            }
        }
        if Instant::now() > give_up {
            bail!(
                "{} took no write in {SERVES:?}: {last}",
                endpoints.join(", ")
            );
        }
    }
}

/// Puts a key; returns when that was answered.
async fn write_once(channel: Channel) -> Result<Instant> {
    let put = client::put("bench/probe".into(), "x".into());
    match timeout(TRY, KvClient::new(channel).put(put)).await {
        Ok(Ok(_)) => Ok(Instant::now()),
        Ok(Err(status)) => Err(client::told(status)),
        Err(_) => bail!("no answer in {TRY:?}"),
    }
}

/// A connection that is made when it is needed, and again after it broke.
fn lazy(endpoint: &str) -> Result<Channel> {
    let uri = format!("http://{endpoint}");
    Ok(Endpoint::from_shared(uri)?
        .connect_timeout(REQUEST)
        .connect_lazy())
}
