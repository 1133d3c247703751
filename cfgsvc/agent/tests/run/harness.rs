//! A member, agents, and hooks that write down what they were told.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cfgsvc_agent::state::VerdictFile;
use cfgsvc_tests::harness::{
    Cluster, binary_path, eventually_some, http_get, run_binary, unused_address,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// For anything that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Setup {
    pub(crate) cluster: Cluster,
    pub(crate) dir: TempDir,
}

impl Setup {
    /// A member with two colos and the role `db/orders`, created with these options.
    pub(crate) fn new(role: &str) -> Result<Self> {
        let setup = Self {
            cluster: Cluster::start(1)?,
            dir: tempfile::tempdir()?,
        };
        for colo in ["akl", "wlg"] {
            setup.cfgctl(&format!("colo add {colo}"))?;
        }
        setup.cfgctl(&format!("role create db/orders {role}"))?;
        Ok(setup)
    }

    pub(crate) fn cfgctl(&self, line: &str) -> Result<String> {
        let endpoints = self.cluster.endpoints();
        let mut arguments = vec!["--endpoints", &endpoints];
        arguments.extend(line.split_whitespace());
        run_binary("cfgctl", &arguments)?.success()
    }

    /// The same, not waited for.
    pub(crate) fn cfgctl_started(&self, line: &str) -> Result<Child> {
        let mut command = Command::new(binary_path("cfgctl")?);
        command.args(["--endpoints", &self.cluster.endpoints()]);
        let started = command.args(line.split_whitespace()).spawn();
        started.context("start cfgctl")
    }

    /// An agent's command line, without what runs under it.
    pub(crate) fn command(&self, host: &str, http: &str) -> Command {
        self.command_by(host, http, &self.cluster.endpoints())
    }

    /// The same, with members where this says they are.
    fn command_by(&self, host: &str, http: &str, endpoints: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cfgagent"));
        command
            .args([
                "run",
                "--host",
                host,
                "--colo",
                "akl",
                "--role",
                "db/orders",
            ])
            .args(["--endpoints", endpoints])
            .args(["--watchdog", "off", "--http", http, "--state-dir"])
            .arg(self.state(host))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    pub(crate) fn state(&self, host: &str) -> PathBuf {
        self.dir.path().join(host)
    }

    pub(crate) fn agent(&self, host: &str, rest: &[&str]) -> Result<Agent> {
        self.agent_logs(host, rest, Stdio::inherit())
    }

    /// The same, with its log there.
    pub(crate) fn agent_logs(&self, host: &str, rest: &[&str], log: Stdio) -> Result<Agent> {
        let http = unused_address()?;
        let mut command = self.command(host, &http.to_string());
        self.started((host, http), command.args(rest).stderr(log))
    }

    /// An agent that reaches members there.
    pub(crate) fn agent_by(&self, host: &str, endpoints: &str, rest: &[&str]) -> Result<Agent> {
        let http = unused_address()?;
        let mut command = self.command_by(host, &http.to_string(), endpoints);
        self.started((host, http), command.args(rest))
    }

    fn started(&self, (host, http): (&str, SocketAddr), command: &mut Command) -> Result<Agent> {
        Ok(Agent {
            process: command.spawn().context("start cfgagent")?,
            http,
            file: self.state(host).join("roles/db+orders.json"),
        })
    }

    /// A directory of hooks: each does this, and those that are told something write their name,
    /// epoch and holder to `told` before.
    pub(crate) fn hooks(&self, hooks: &[(&str, &str)]) -> Result<Hooks> {
        let dir = tempfile::tempdir_in(self.dir.path())?;
        let told = dir.path().join("told");
        fs::write(&told, "")?;
        for (name, script) in hooks {
            let path = dir.path().join(name);
            let says = match *name {
                "position" | "check" | "sync" => String::new(),
                name => format!(
                    "echo {name} $CFGSVC_EPOCH $CFGSVC_HOLDER >> {}",
                    told.display()
                ),
            };
            fs::write(&path, format!("#!/bin/sh\n{says}\n{script}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Hooks { dir, told })
    }
}

pub(crate) struct Hooks {
    pub(crate) dir: TempDir,
    told: PathBuf,
}

impl Hooks {
    pub(crate) fn dir(&self) -> &str {
        self.dir
            .path()
            .to_str()
            .expect("a temporary directory is text")
    }

    /// What was told, epochs left out, once the last of it is this.
    pub(crate) fn told(&self, last: &str) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        let found = eventually_some(PATIENCE, format!("hook {last}"), || {
            let text = fs::read_to_string(&self.told).ok()?;
            seen = text.lines().map(without_epoch).collect();
            (seen.last().is_some_and(|line| line == last)).then(|| seen.clone())
        });
        found.with_context(|| format!("told: {seen:?}"))
    }
}

fn without_epoch(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        [hook, _, holder] => format!("{hook} {holder}"),
        [hook, ..] => hook.to_owned(),
        [] => String::new(),
    }
}

pub(crate) struct Agent {
    pub(crate) process: Child,
    pub(crate) http: SocketAddr,
    file: PathBuf,
}

impl Agent {
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.process), signal)?)
    }

    pub(crate) fn exit(&mut self) -> Result<ExitStatus> {
        eventually_some(PATIENCE, "the agent's end", || {
            self.process.try_wait().transpose()
        })?
        .context("wait for the agent")
    }

    /// Asks it to end, and sees that it does so in order.
    pub(crate) fn end(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.exit()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    /// The verdict file, once it says this.
    pub(crate) fn verdict(&self, verdict: &str) -> Result<VerdictFile> {
        let mut seen = None;
        let found = eventually_some(PATIENCE, format!("verdict {verdict}"), || {
            let text = fs::read(&self.file).ok()?;
            let file: VerdictFile = serde_json::from_slice(&text).ok()?;
            seen = Some(file.clone());
            (file.verdict == verdict).then_some(file)
        });
        found.with_context(|| format!("last seen: {seen:?}"))
    }

    /// What HTTP says about the role.
    pub(crate) fn role(&self) -> Result<(u16, serde_json::Value)> {
        let (status, body) = http_get(self.http, "/role/db/orders", PATIENCE)?;
        Ok((status, serde_json::from_str(&body)?))
    }

    /// Waits until HTTP says that it serves.
    pub(crate) fn serves(&self) -> Result<()> {
        let found = eventually_some(PATIENCE, "HTTP to say 200", || {
            let (status, body) = self.role().ok()?;
            (status == 200).then_some(body)
        })?;
        if found["serves"] != true || found["verdict"] != "serve" {
            bail!("200 with {found}");
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its guard stops what runs. Fails only if it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a shell with this word in its command line runs.
pub(crate) fn runs(word: &Path) -> bool {
    let word = word.as_os_str().as_encoded_bytes();
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes.flatten().any(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next() == Some(b"sh") && words.any(|found| found == word)
    })
}
