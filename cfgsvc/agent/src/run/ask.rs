//! Hooks that answer: by what they print, or by whether they succeed. They are run again and again.
//!
//! Invariants
//! - There is one run of a question at a time: one that its time has ended counts until the kernel
//!   has ended it too.
//! - A run that is not waited for any longer is killed, with its process group.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::hooks::{Hooks, Running, Told};

/// Most that a hook may print, bytes.
const SAID_BYTES_MAX: u64 = 4096;

/// What a hook is asked.
#[derive(Debug)]
pub(crate) struct Question {
    name: &'static str,
    /// Longest time for a run.
    limit: Duration,
    /// What it finds in its environment beside what all hooks do.
    environment: Vec<(OsString, OsString)>,
    /// An open lock, which it inherits.
    held: Option<OwnedFd>,
    /// A run that was killed, until its end is known.
    left: Option<Running>,
}

impl Question {
    pub(crate) fn new(name: &'static str, limit: Duration) -> Self {
        Self {
            name,
            limit,
            environment: Vec::new(),
            held: None,
            left: None,
        }
    }

    /// From now on, it finds this variable in its environment.
    pub(crate) fn tell(&mut self, name: &str, value: String) {
        self.environment.retain(|(one, _)| one != name);
        self.environment.push((name.into(), value.into()));
    }

    /// From now on, it holds this lock while it runs.
    pub(crate) fn hold(&mut self, lock: OwnedFd) {
        self.held = Some(lock);
    }

    /// Runs the hook; why it did not succeed in time. What it prints is not heard.
    pub(crate) async fn passes(&mut self, hooks: &Hooks, told: &Told) -> Result<(), String> {
        self.run(hooks, told, Stdio::null()).await.map(drop)
    }

    /// The same, and what it printed.
    pub(crate) async fn says(&mut self, hooks: &Hooks, told: &Told) -> Result<String, String> {
        self.run(hooks, told, Stdio::piped()).await
    }

    async fn run(&mut self, hooks: &Hooks, told: &Told, to: Stdio) -> Result<String, String> {
        let (name, limit) = (self.name, self.limit.as_millis());
        let failed = |error: io::Error| format!("hook {name}: {error}");
        let over = Instant::now() + self.limit;
        if let Some(left) = &mut self.left {
            let ended = timeout_at(over, left.wait()).await;
            let still = |_| format!("hook {name} has not ended {limit} ms after SIGKILL");
            ended.map_err(still)?.map_err(failed)?;
            self.left = None;
        }
        let more = (&self.environment[..], self.held.as_ref());
        let mut running = hooks.ask((name, told), to, more).map_err(failed)?;
        match timeout_at(over, heard(&mut running)).await {
            Ok(Ok((status, said))) if status.success() => {
                if said.len() > usize::try_from(SAID_BYTES_MAX).unwrap_or(usize::MAX) {
                    return Err(format!("hook {name} printed over {SAID_BYTES_MAX} bytes"));
                }
                Ok(said)
            }
            Ok(Ok((status, _))) => Err(format!("hook {name}: {status}")),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => {
                running.signal(Signal::KILL);
                self.left = Some(running);
                Err(format!("hook {name} did not end within {limit} ms"))
            }
        }
    }
}

/// How it ended, and what it printed, up to one byte too many.
async fn heard(running: &mut Running) -> io::Result<(ExitStatus, String)> {
    let mut said = String::new();
    if let Some(output) = running.output() {
        let mut output = output.take(SAID_BYTES_MAX + 1);
        output.read_to_string(&mut said).await?;
    }
    Ok((running.wait().await?, said))
}

#[cfg(test)]
#[path = "ask_tests.rs"]
mod tests;
