//! On what a comparison ran: without it, figures of two days cannot be told apart.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// On what a comparison ran.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Environment {
    /// When it began, UTC.
    pub began: String,
    /// Commit of the working directory, with `-dirty` when it has changes.
    pub commit: String,
    /// First lines of what the servers say of their versions.
    pub cfgsvcd: String,
    pub etcd: String,
    /// How this program was built: a debug build measures little but itself.
    pub profile: &'static str,
    pub cores: usize,
    pub kernel: String,
    /// `/proc/loadavg` at the start: what ran beside it.
    pub load_average: String,
}

impl Environment {
    /// Looks at the machine and both programs.
    pub(crate) fn look(cfgsvcd: &Path, etcd: &Path) -> Result<Self> {
        let read = |path: &str| -> Result<String> {
            let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
            Ok(text.trim().to_owned())
        };
        let commit = [
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ];
        let version = |binary: &Path| {
            first_line(Command::new(binary).arg("--version"))
                .with_context(|| format!("ask {} for its version", binary.display()))
        };
        Ok(Self {
            began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit: first_line(Command::new("git").args(commit))
                .unwrap_or_else(|error| format!("unknown: {error:#}")),
            cfgsvcd: version(cfgsvcd)?,
            etcd: version(etcd)
                .context("Debian has it in the package etcd-server; --etcd names another one")?,
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease")?,
            load_average: read("/proc/loadavg")?,
        })
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}; commit {}; {}; {}; {} build, {} cores, Linux {}, load average {}",
            self.began,
            self.commit,
            self.cfgsvcd,
            self.etcd,
            self.profile,
            self.cores,
            self.kernel,
            self.load_average
        )
    }
}

/// The first line that a program prints.
fn first_line(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().context("it printed nothing")?;
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_are_not_there_are_named() {
        let error = Environment::look(Path::new("/no/such/cfgsvcd"), Path::new("/no/such/etcd"));
        let error = format!("{:#}", error.expect_err("it does not exist"));
        assert!(error.contains("/no/such/cfgsvcd"), "{error}");
        assert!(first_line(Command::new("echo").arg("a\nb")).is_ok_and(|line| line == "a"));
    }
}
