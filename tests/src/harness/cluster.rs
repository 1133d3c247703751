//! A group of `cfgsvcd` processes on loopback that can be killed, paused, cut off and started
//! again.
//!
//! Invariants
//! - no process outlives its [`Cluster`]: dropping it kills all, and they stay in the test's
//!   process group, so that who ends the test by signal ends them too.
//! - data and logs are in one temporary directory, which is kept when the test fails or
//!   `CFGSVC_KEEP=1`, and named on standard error then.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::command::{binary_path, kill};
use super::http;
use super::network::Network;
use super::ports::unused_address;
use super::source;
use super::wait::{eventually, eventually_some};

/// Time for a member to be ready, with as much to recover as tests write, on a busy machine.
const READY: Duration = Duration::from_mins(1);
/// Time for a member that was asked to stop.
const STOPPED: Duration = Duration::from_secs(30);
/// Time for one question by HTTP.
const ANSWER: Duration = Duration::from_secs(2);
/// Lines of a member's log in an error.
const TAIL_LINES: usize = 40;

/// How a cluster is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Members that form the group.
    pub members: usize,
    /// Put a proxy before each member's peer port, see [`Cluster::network`].
    pub proxied: bool,
    /// Arguments for every member, after those that the harness gives.
    pub arguments: Vec<String>,
    /// Variables for every member's environment.
    pub environment: Vec<(String, String)>,
    /// Where to make the directory for data and logs; `None` is the system's temporary directory.
    pub within: Option<PathBuf>,
}

/// A running group.
pub struct Cluster {
    options: ClusterOptions,
    binary: PathBuf,
    members: Vec<Member>,
    /// Process ids by member, for the network to know who connects.
    processes: Arc<Mutex<Vec<Option<u32>>>>,
    network: Option<Network>,
    /// `None` only while it is dropped.
    directory: Option<TempDir>,
    root: PathBuf,
}

struct Member {
    name: String,
    colo: String,
    client: SocketAddr,
    /// Where it listens for peers.
    peer: SocketAddr,
    /// Where peers find it: the same, or a proxy.
    advertised: SocketAddr,
    /// How it finds the group: `--initial-cluster ...` or `--join ...`.
    group: [String; 2],
    /// Variables that the other members do not have.
    environment: Vec<(String, String)>,
    process: Option<Child>,
}

impl Cluster {
    /// Starts a group of `members` and waits until all are ready.
    pub fn start(members: usize) -> Result<Self> {
        Self::start_with(ClusterOptions {
            members,
            ..ClusterOptions::default()
        })
    }

    /// Starts a group and waits until all its members are ready.
    pub fn start_with(options: ClusterOptions) -> Result<Self> {
        let mut cluster = Self::unstarted(options)?;
        for member in 0..cluster.members.len() {
            cluster.spawn(member)?;
        }
        cluster.wait_all_ready()?;
        Ok(cluster)
    }

    /// A group of which nothing runs yet: its members are to be [`Cluster::spawn`]ed.
    pub fn unstarted(options: ClusterOptions) -> Result<Self> {
        Self::prepare(options, binary_path("cfgsvcd")?)
    }

    /// A group with addresses, directories and proxies, whose server is `binary`.
    fn prepare(options: ClusterOptions, binary: PathBuf) -> Result<Self> {
        let within = options.within.clone().unwrap_or_else(std::env::temp_dir);
        let directory = tempfile::Builder::new()
            .prefix("cfgsvc-test-")
            .tempdir_in(within)
            .context("make a directory for the members")?;
        let processes = Arc::new(Mutex::new(Vec::new()));
        let network = if options.proxied {
            let processes = Arc::clone(&processes);
            Some(Network::new(Arc::new(move |from| {
                // Copied, so that one that takes long holds nobody up.
                let now = processes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                source::owner(from, &now)
            }))?)
        } else {
            None
        };
        let mut cluster = Self {
            options,
            binary,
            members: Vec::new(),
            processes,
            network,
            root: directory.path().to_owned(),
            directory: Some(directory),
        };
        for _ in 0..cluster.options.members {
            cluster.place()?;
        }
        let initial: Vec<_> = cluster
            .members
            .iter()
            .map(|member| format!("{}={}", member.name, member.advertised))
            .collect();
        for member in &mut cluster.members {
            member.group = ["--initial-cluster".to_owned(), initial.join(",")];
        }
        Ok(cluster)
    }

    /// Gives one more member its name and addresses.
    fn place(&mut self) -> Result<usize> {
        let index = self.members.len();
        let peer = unused_address()?;
        let advertised = match &self.network {
            None => peer,
            Some(network) => {
                let proxy = unused_address()?;
                network.link(proxy, peer, index)?;
                proxy
            }
        };
        let colo = (b'a'..=b'z')
            .nth(index)
            .context("more members than letters for colos")?;
        self.members.push(Member {
            name: format!("n{}", index + 1),
            colo: char::from(colo).to_string(),
            client: unused_address()?,
            peer,
            advertised,
            group: Default::default(),
            environment: Vec::new(),
            process: None,
        });
        self.set_process(index, None);
        Ok(index)
    }

    /// Starts one more member, which joins through the client address of member `through`; returns
    /// its index. Does not wait.
    pub fn join(&mut self, through: usize) -> Result<usize> {
        let group = [
            "--join".to_owned(),
            self.member(through)?.client.to_string(),
        ];
        let index = self.place()?;
        self.member_mut(index)?.group = group;
        self.spawn(index)?;
        Ok(index)
    }

    fn member(&self, index: usize) -> Result<&Member> {
        let count = self.members.len();
        self.members
            .get(index)
            .with_context(|| format!("there is no member {index}, only {count}"))
    }

    fn member_mut(&mut self, index: usize) -> Result<&mut Member> {
        let count = self.members.len();
        self.members
            .get_mut(index)
            .with_context(|| format!("there is no member {index}, only {count}"))
    }

    fn set_process(&self, index: usize, process: Option<u32>) {
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = processes.len().max(index + 1);
        processes.resize(count, None);
        processes[index] = process;
    }

    /// The command line of a member.
    fn arguments(&self, index: usize) -> Result<Vec<String>> {
        let member = self.member(index)?;
        let mut arguments: Vec<String> = [
            "--name",
            &member.name,
            "--colo",
            &member.colo,
            "--data-dir",
            &self.data_directory(index)?.to_string_lossy(),
            "--listen-client",
            &member.client.to_string(),
            "--listen-peer",
            &member.peer.to_string(),
        ]
        .map(str::to_owned)
        .into();
        if member.advertised != member.peer {
            arguments.push("--advertise-peer".to_owned());
            arguments.push(member.advertised.to_string());
        }
        arguments.extend_from_slice(&member.group);
        arguments.extend_from_slice(&self.options.arguments);
        Ok(arguments)
    }

    /// Starts the process of a member that does not run. Does not wait until it is ready.
    pub fn spawn(&mut self, index: usize) -> Result<()> {
        let arguments = self.arguments(index)?;
        let environment = self.member(index)?.environment.clone();
        let path = self.log_path(index)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        let errors = log.try_clone().context("clone the log's handle")?;
        ensure!(
            self.member(index)?.process.is_none(),
            "member {index} runs already"
        );
        // Held until the process is entered, so that no connection of it is taken for a stranger's,
        // who is not cut off.
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let process = Command::new(&self.binary)
            .args(arguments)
            .envs(self.options.environment.iter().cloned())
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        processes[index] = Some(process.id());
        drop(processes);
        self.member_mut(index)?.process = Some(process);
        Ok(())
    }

    /// Gives one member variables for its environment at its next start, above those of
    /// [`ClusterOptions::environment`].
    pub fn set_environment(
        &mut self,
        index: usize,
        variables: Vec<(String, String)>,
    ) -> Result<()> {
        self.member_mut(index)?.environment = variables;
        Ok(())
    }

    /// Waits until a member answers `/readyz` with 200.
    pub fn wait_ready(&mut self, index: usize) -> Result<()> {
        let address = self.member(index)?.client;
        let name = self.member(index)?.name.clone();
        let mut last = String::from("not asked yet");
        let ready = eventually(READY, format!("{name} to be ready"), || {
            last = match http::get(address, "/readyz", ANSWER) {
                Ok((200, _)) => return true,
                Ok((status, body)) => format!("status {status}: {body}"),
                Err(error) => format!("{error:#}"),
            };
            // Whoever ended will not become ready.
            !self.runs(index)
        });
        if ready.is_ok() && self.runs(index) {
            return Ok(());
        }
        let end = if ready.is_ok() {
            format!("{name} ended")
        } else {
            format!("{name} is not ready")
        };
        bail!(
            "{end}; last answer: {last}; end of its log:\n{}",
            self.log_tail(index)?
        )
    }

    /// Waits until every member that runs is ready.
    pub fn wait_all_ready(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            if self.members[index].process.is_some() {
                self.wait_ready(index)?;
            }
        }
        Ok(())
    }

    /// Whether the process of a member runs (a paused one does).
    pub fn runs(&mut self, index: usize) -> bool {
        self.members
            .get_mut(index)
            .and_then(|member| member.process.as_mut())
            .is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        let member = self.member_mut(index)?;
        let mut process = member
            .process
            .take()
            .with_context(|| format!("{} is down", member.name))?;
        self.set_process(index, None);
        kill(&mut process)
    }

    /// Asks a member to stop with SIGTERM, and waits until it has; one that does not is killed, and
    /// that is an error.
    pub fn stop(&mut self, index: usize) -> Result<ExitStatus> {
        self.signal(index, Signal::TERM)?;
        self.wait_exit(index, STOPPED)
    }

    /// Waits until a member ends by itself; one that does not is killed, and that is an error.
    pub fn wait_exit(&mut self, index: usize, within: Duration) -> Result<ExitStatus> {
        let member = self.member_mut(index)?;
        let mut process = member
            .process
            .take()
            .with_context(|| format!("{} is down", member.name))?;
        let what = format!("{} to end", member.name);
        let ended = eventually_some(within, what, || process.try_wait().transpose());
        self.set_process(index, None);
        match ended {
            Ok(status) => status.context("wait for a member"),
            Err(error) => {
                kill(&mut process)?;
                let tail = self.log_tail(index)?;
                Err(error.context(format!("a member did not end; end of its log:\n{tail}")))
            }
        }
    }

    /// Freezes a member with SIGSTOP: its sockets stay open and it says nothing.
    pub fn pause(&mut self, index: usize) -> Result<()> {
        self.signal(index, Signal::STOP)
    }

    /// Lets a paused member go on.
    pub fn resume(&mut self, index: usize) -> Result<()> {
        self.signal(index, Signal::CONT)
    }

    fn signal(&mut self, index: usize, signal: Signal) -> Result<()> {
        let member = self.member(index)?;
        let process = member
            .process
            .as_ref()
            .with_context(|| format!("{} is down", member.name))?;
        kill_process(Pid::from_child(process), signal)
            .with_context(|| format!("send a signal to {}", member.name))
    }

    /// Starts a member again that was killed, was stopped or ended, on the same data; kills it
    /// before when it runs. Waits until it is ready.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        if self.member(index)?.process.is_some() {
            self.kill(index)?;
        }
        self.spawn(index)?;
        self.wait_ready(index)
    }

    /// Members, running or not.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// HOST:PORT for the clients of a member.
    pub fn client_address(&self, index: usize) -> Result<SocketAddr> {
        Ok(self.member(index)?.client)
    }

    /// HOST:PORT at which peers find a member.
    pub fn peer_address(&self, index: usize) -> Result<SocketAddr> {
        Ok(self.member(index)?.advertised)
    }

    /// HOST:PORT of all members for clients, separated by commas.
    pub fn endpoints(&self) -> String {
        let all: Vec<_> = self
            .members
            .iter()
            .map(|member| member.client.to_string())
            .collect();
        all.join(",")
    }

    /// Process id of a member that runs.
    pub fn process_id(&self, index: usize) -> Result<u32> {
        let member = self.member(index)?;
        let process = member.process.as_ref();
        Ok(process
            .with_context(|| format!("{} is down", member.name))?
            .id())
    }

    /// The network between the members; only of a cluster that was started with proxies.
    pub fn network(&self) -> Result<&Network> {
        self.network
            .as_ref()
            .context("the cluster has no proxies: set ClusterOptions::proxied")
    }

    /// Where a member keeps its data.
    pub fn data_directory(&self, index: usize) -> Result<PathBuf> {
        Ok(self.root.join(&self.member(index)?.name))
    }

    /// Where everything of this cluster is.
    pub fn directory(&self) -> &Path {
        &self.root
    }

    fn log_path(&self, index: usize) -> Result<PathBuf> {
        Ok(self.root.join(format!("{}.log", self.member(index)?.name)))
    }

    /// All that a member has printed, over all its starts.
    pub fn logs(&self, index: usize) -> Result<String> {
        let path = self.log_path(index)?;
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn log_tail(&self, index: usize) -> Result<String> {
        let all = self.logs(index)?;
        let lines: Vec<_> = all.lines().collect();
        Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut process) = member.process.take()
                && let Err(error) = kill(&mut process)
            {
                eprintln!("{} may still run: {error:#}", member.name);
            }
        }
        let keep = std::thread::panicking()
            || std::env::var_os("CFGSVC_KEEP").is_some_and(|value| value == "1");
        if let Some(directory) = self.directory.take()
            && keep
        {
            eprintln!(
                "data and logs of the members are kept in {}",
                directory.keep().display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A group whose server is this shell script.
    fn standing_in(script: &str, proxied: bool) -> Cluster {
        let options = ClusterOptions {
            members: 3,
            proxied,
            arguments: vec!["--extra".to_owned()],
            within: None,
            environment: Vec::new(),
        };
        let mut cluster = Cluster::prepare(options, PathBuf::new()).expect("prepare");
        cluster.binary = cluster.root.join("server");
        fs::write(&cluster.binary, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&cluster.binary, fs::Permissions::from_mode(0o700)).expect("set");
        cluster
    }

    fn state_of(process: u32) -> Option<char> {
        let status = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        status.rsplit_once(") ")?.1.chars().next()
    }

    #[test]
    fn members_are_told_who_they_are_and_whom_to_meet() {
        let mut cluster = standing_in("echo \"$@\"", true);
        cluster.spawn(1).expect("spawn");
        assert!(cluster.wait_exit(1, SOON).expect("it ends").success());
        let peers: Vec<_> = (0..3)
            .map(|member| cluster.members[member].advertised)
            .collect();
        let member = &cluster.members[1];
        let expected = format!(
            "--name n2 --colo b --data-dir {}/n2 --listen-client {} --listen-peer {} \
             --advertise-peer {} --initial-cluster n1={},n2={},n3={} --extra\n",
            cluster.root.display(),
            member.client,
            member.peer,
            member.advertised,
            peers[0],
            peers[1],
            peers[2],
        );
        assert_ne!(member.peer, member.advertised);
        assert_eq!(cluster.logs(1).expect("logs"), expected);
        let joined = cluster.join(0).expect("join");
        assert!(cluster.wait_exit(joined, SOON).expect("it ends").success());
        let through = format!(" --join {} --extra\n", cluster.members[0].client);
        assert!(cluster.logs(joined).expect("logs").ends_with(&through));
    }

    #[test]
    fn members_can_be_paused_stopped_and_killed_and_none_is_left() {
        let mut cluster = standing_in("exec sleep 1000", false);
        let processes: Vec<_> = (0..3)
            .map(|member| {
                cluster.spawn(member).expect("spawn");
                cluster.process_id(member).expect("it runs")
            })
            .collect();
        cluster.pause(0).expect("pause");
        eventually(SOON, "a paused member", || {
            state_of(processes[0]) == Some('T')
        })
        .expect("pause");
        cluster.resume(0).expect("resume");
        eventually(SOON, "a member that goes on", || {
            state_of(processes[0]) == Some('S')
        })
        .expect("resume");
        assert!(!cluster.stop(1).expect("it stops").success());
        cluster.kill(2).expect("kill");
        assert!(cluster.runs(0) && !cluster.runs(1) && !cluster.runs(2));
        assert!(cluster.kill(2).is_err(), "it is down already");
        cluster.spawn(2).expect("it can be started again");
        let last = cluster.process_id(2).expect("it runs");
        let root = cluster.root.clone();
        drop(cluster);
        for process in processes.into_iter().chain([last]) {
            assert_eq!(state_of(process), None, "process {process} is left");
        }
        assert!(!root.exists());
    }

    #[test]
    fn member_that_ends_is_never_ready_and_its_log_is_shown() {
        let mut cluster = standing_in("echo no such setting >&2; exit 2", false);
        cluster.spawn(0).expect("spawn");
        let error = cluster.wait_ready(0).expect_err("it ended").to_string();
        assert!(error.contains("n1 ended"), "{error}");
        assert!(error.ends_with("no such setting"), "{error}");
    }
}
