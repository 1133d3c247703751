//! Running a program to its end, with a deadline, and keeping what it said.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::wait::eventually_some;

/// Time for a command line tool to end, with a cluster that answers or not.
const DEADLINE: Duration = Duration::from_mins(1);

/// A program that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output of a program that must have ended with code 0.
    pub fn success(self) -> Result<String> {
        match self.code {
            Some(0) => Ok(self.stdout),
            Some(_) | None => bail!("{self}"),
        }
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            stdout,
            stderr,
        } = self;
        match code {
            Some(code) => write!(out, "exit code {code}")?,
            None => write!(out, "ended by a signal")?,
        }
        write!(out, "\nstdout: {stdout}\nstderr: {stderr}")
    }
}

/// Runs `command` to its end, with nothing on standard input; kills it at the deadline of a minute.
pub fn run(command: &mut Command) -> Result<Ran> {
    let what = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {what}"))?;
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    let status = match eventually_some(DEADLINE, &what, || child.try_wait().transpose()) {
        Ok(status) => status.with_context(|| format!("wait for {what}"))?,
        Err(error) => {
            kill(&mut child)?;
            return Err(error);
        }
    };
    let text = |reader: thread::JoinHandle<std::io::Result<Vec<u8>>>| match reader.join() {
        Ok(read) => Ok(String::from_utf8_lossy(&read.context("read its output")?).into_owned()),
        Err(_) => bail!("the thread that reads the output of {what} panicked"),
    };
    Ok(Ran {
        code: status.code(),
        stdout: text(stdout)?,
        stderr: text(stderr)?,
    })
}

/// Kills a child and takes its exit status, so that nothing of it is left.
pub(super) fn kill(child: &mut Child) -> Result<()> {
    child.kill().context("kill a child")?;
    child.wait().context("wait for a killed child")?;
    Ok(())
}

fn read_all(
    pipe: Option<impl Read + Send + 'static>,
) -> thread::JoinHandle<std::io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    })
}

/// Runs Debian's `etcdctl` with API version 3 against `endpoints` (HOST:PORT, comma-separated).
pub fn etcdctl(endpoints: &str, arguments: &[&str]) -> Result<Ran> {
    run(Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={endpoints}"))
        .args(arguments))
    .context("etcdctl is in Debian's package etcd-client")
}

/// Runs one of this repository's binaries.
pub fn run_binary(name: &str, arguments: &[&str]) -> Result<Ran> {
    run(Command::new(binary_path(name)?).args(arguments))
}

/// Where one of this repository's binaries is: beside the running test, as cargo lays them out.
pub fn binary_path(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("find the running test")?;
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    found.with_context(|| {
        let profile = test.ancestors().nth(2).unwrap_or(Path::new("target/debug"));
        format!(
            "{name} is not in {}: build it with cargo build --workspace --bins",
            profile.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_code_are_kept() {
        let ran = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]));
        let ran = ran.expect("sh runs");
        let expected = Ran {
            code: Some(3),
            stdout: "out\n".to_owned(),
            stderr: "err\n".to_owned(),
        };
        assert_eq!(ran, expected);
        let error = ran.success().expect_err("code 3 is no success").to_string();
        assert_eq!(error, "exit code 3\nstdout: out\n\nstderr: err\n");
    }

    #[test]
    fn missing_programs_and_binaries_are_named() {
        let error = run(&mut Command::new("no-such-program")).expect_err("it does not exist");
        assert!(
            format!("{error:#}").contains("no-such-program"),
            "{error:#}"
        );
        let error = binary_path("no-such-binary").expect_err("it does not exist");
        assert!(
            format!("{error:#}").contains("cargo build --workspace --bins"),
            "{error:#}"
        );
    }
}
