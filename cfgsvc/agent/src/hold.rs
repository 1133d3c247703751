//! The program of a role that is served by hooks: `on-serve` at its start, `on-fence` at SIGTERM.
//!
//! Why so: hooks that an agent runs are not run by an agent that is stopped. As the guard's program
//! they are: it is told by the guard, at the deadline, whatever has become of the agent.
//!
//! The guard is told in turn, by SIGUSR1, when `on-serve` has succeeded, or there is none.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getppid, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use cfgsvc_clock::Moment;

use crate::signals::{drained, listen};

/// How long `on-serve` may take to end before `on-fence` is run.
const SERVE_STOP: Duration = Duration::from_millis(100);
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(5);

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The kernel refuses something.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// A hook cannot be run.
    #[error("cannot run the hook {}", .path.display())]
    Hook {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A hook failed.
    #[error("the hook {} failed: {status}", .path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// How.
        status: ExitStatus,
    },
}

/// Serves until SIGTERM. Ends at once when `on-serve` fails, with `on-fence` run all the same. The
/// agent says which of them there are: one that is not there any more has failed.
pub fn run(
    on_serve: Option<PathBuf>,
    on_fence: Option<PathBuf>,
    guarded: bool,
) -> Result<(), HoldError> {
    let asked = listen(&[SIGTERM, SIGINT, SIGHUP]).map_err(HoldError::Signals)?;
    let ended = listen(&[SIGCHLD]).map_err(HoldError::Signals)?;
    let served = serve(on_serve, guarded, (&asked, &ended));
    let fenced = match on_fence {
        Some(path) => finished(&path, start(&path, Some("fenced"))?.wait()),
        None => Ok(()),
    };
    served.and(fenced)
}

fn serve(
    hook: Option<PathBuf>,
    guarded: bool,
    (asked, ended): (&UnixStream, &UnixStream),
) -> Result<(), HoldError> {
    let mut running = match hook {
        Some(path) => Some((start(&path, None)?, path)),
        None => None,
    };
    if running.is_none() {
        up(guarded);
    }
    loop {
        wait(asked, ended).map_err(HoldError::Signals)?;
        if drained(asked) {
            if let Some((child, _)) = &mut running {
                end(child).map_err(HoldError::Signals)?;
            }
            return Ok(());
        }
        drained(ended);
        if let Some((child, path)) = &mut running {
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    finished(path, Ok(status))?;
                    running = None;
                    up(guarded);
                }
                Err(error) => return finished(path, Err(error)),
            }
        }
    }
}

/// Tells the guard, which is the parent: while it lives, and this process dies with it.
fn up(guarded: bool) {
    if guarded && let Some(guard) = getppid() {
        // An error: it is gone, and this process with it.
        let _ = kill_process(guard, Signal::USR1);
    }
}

/// Waits for the end of `on-serve`, which the guard has told as well, and then ends it: what it
/// would still put up must not come after `on-fence`.
fn end(child: &mut Child) -> io::Result<()> {
    let until = Moment::now() + SERVE_STOP;
    while child.try_wait()?.is_none() {
        if Moment::now() >= until {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(())
}

/// Starts a hook, by another verdict than the one in this program's environment, if given.
fn start(path: &Path, verdict: Option<&str>) -> Result<Child, HoldError> {
    let child = Command::new(path)
        .envs(verdict.map(|verdict| ("CFGSVC_VERDICT", verdict)))
        .stdin(Stdio::null())
        .spawn();
    child.map_err(|source| HoldError::Hook {
        path: path.to_owned(),
        source,
    })
}

fn finished(path: &Path, ended: io::Result<ExitStatus>) -> Result<(), HoldError> {
    let path = path.to_owned();
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(HoldError::Failed { path, status }),
        Err(source) => Err(HoldError::Hook { path, source }),
    }
}

fn wait(asked: &UnixStream, ended: &UnixStream) -> io::Result<()> {
    let mut sources = [
        PollFd::new(asked, PollFlags::IN),
        PollFd::new(ended, PollFlags::IN),
    ];
    match poll(&mut sources, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
