//! The agent's side of one guard: starts it, tells it deadlines, hears its reports.
//!
//! Invariants
//! - Nothing here waits for the guard to read: what finds no room is an error, and a guard that
//!   has not read hundreds of lines is stopped or stuck.
//! - A handle that is dropped closes the socket, and the guard stops the program.
//! - The guard is in a process group of its own: the interrupt and the stop of a terminal are the
//!   agent's to hear, which decides.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Socket;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cfgsvc_clock::Moment;
use rustix::process::getpid;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command as Process};

use super::core::AGAIN;
use super::processes::{self, MARK_VARIABLE, Remains};
use super::protocol::{Command, LineError, Lines, Report};
use crate::state;

/// What is guarded, and how.
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// The file of `cfgagent`.
    pub executable: PathBuf,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Started once after the program, and ended with it and like it, with all that descends from
    /// it; its failure is [`Report::Beside`].
    pub beside: Option<PathBuf>,
    /// The stop margin: from the deadline until all is gone. SIGTERM comes at its beginning,
    /// SIGKILL after [`super::core::kill_after`] of it; who has not heard `gone` at
    /// [`super::core::given_up_at`] calls [`GuardHandle::kill_all`]. Sent as whole milliseconds,
    /// rounded down.
    pub stop: Duration,
    /// A file that the guard and the program keep locked (`flock`, shared) while they are there;
    /// they inherit it locked, so that it is so from before they begin.
    pub hold: Option<PathBuf>,
    /// Added to the environment of the program.
    pub environment: Vec<(OsString, OsString)>,
}

impl GuardOptions {
    /// The file that runs here, though another may have its name by now.
    pub fn own_executable() -> PathBuf {
        PathBuf::from("/proc/self/exe")
    }
}

/// What is wrong with the guard. But for [`GuardError::Start`], the program may still run: call
/// [`GuardHandle::kill_all`].
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// It could not be started, so nothing runs.
    #[error("cannot start the guard")]
    Start(#[source] io::Error),
    /// It does not take what it is told.
    #[error("the guard does not listen")]
    Deaf(#[source] io::Error),
    /// It says what no guard says.
    #[error("the guard cannot be understood")]
    Garbled(#[source] LineError),
    /// It ended without having said that the program is gone.
    #[error("the guard ended before its program: {status}")]
    Died {
        /// How.
        status: ExitStatus,
    },
    /// The program should be gone, and it has not said so.
    #[error("the guard is late: it, or its program, does not end")]
    Late,
    /// It cannot be heard or waited for.
    #[error("cannot hear the guard")]
    Unheard(#[source] io::Error),
    /// `/proc` cannot be read.
    #[error("cannot look for processes of the program")]
    Blind(#[source] io::Error),
    /// Some processes were killed and are still there.
    #[error("processes {pids:?} do not end by SIGKILL within {} ms", .patience.as_millis())]
    Remain {
        /// Who.
        pids: Vec<i32>,
        /// How long they had.
        patience: Duration,
    },
}

/// One guard, which runs its program once.
#[derive(Debug)]
pub struct GuardHandle {
    guard: Child,
    /// The same socket, to write to without waiting.
    ours: Socket,
    reports: UnixStream,
    lines: Lines,
    heard: VecDeque<Report>,
    garbled: Option<LineError>,
    program: Option<i32>,
    gone: bool,
    mark: String,
    session: i32,
}

impl GuardHandle {
    /// Starts a guard. It starts the program at the first [`Self::until`] that is in the future.
    /// Must be called in a tokio runtime.
    pub fn spawn(options: &GuardOptions) -> Result<Self, GuardError> {
        let (ours, theirs) = Socket::pair().map_err(GuardError::Start)?;
        ours.set_nonblocking(true).map_err(GuardError::Start)?;
        let reports = ours.try_clone().map_err(GuardError::Start)?;
        let reports = UnixStream::from_std(reports).map_err(GuardError::Start)?;
        let own = getpid().as_raw_pid();
        let own = processes::Process::look(own).ok_or_else(|| {
            GuardError::Blind(io::Error::other(format!("/proc/{own}/stat cannot be read")))
        })?;
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let mut guard = Process::new(&options.executable);
        guard
            .arg0("cfgagent")
            .args(["guard", "--stop-ms"])
            .arg(options.stop.as_millis().to_string());
        if let Some(beside) = &options.beside {
            guard.arg("--beside").arg(beside);
        }
        let lock = options.hold.as_deref().map(state::hold_inherited);
        let held = lock.transpose().map_err(GuardError::Start)?;
        let guard = guard
            .arg("--")
            .args(&options.command)
            .envs(
                options
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .env(MARK_VARIABLE, &mark)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .process_group(0)
            .spawn()
            .map_err(GuardError::Start)?;
        // The guard has it now.
        drop(held);
        Ok(Self {
            guard,
            ours,
            reports,
            lines: Lines::default(),
            heard: VecDeque::new(),
            garbled: None,
            program: None,
            gone: false,
            mark,
            session: own.session,
        })
    }

    /// The guard's process id, until its end is known.
    pub fn pid(&self) -> Option<u32> {
        self.guard.id()
    }

    /// The program may run until `moment`: SIGTERM comes then, SIGKILL within the stop margin.
    pub fn until(&mut self, moment: Moment) -> Result<(), GuardError> {
        self.tell(Command::Until(moment))
    }

    /// Begin to stop the program now.
    pub fn stop(&mut self) -> Result<(), GuardError> {
        self.tell(Command::Stop)
    }

    fn tell(&mut self, command: Command) -> Result<(), GuardError> {
        // Part of a line would be refused by the guard, which stops the program.
        self.ours
            .write_all(format!("{command}\n").as_bytes())
            .map_err(GuardError::Deaf)
    }

    /// The next report; none after [`Report::Gone`] and the guard's own end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Report>, GuardError> {
        loop {
            if let Some(report) = self.heard.pop_front() {
                return Ok(Some(report));
            }
            if let Some(error) = self.garbled {
                return Err(GuardError::Garbled(error));
            }
            let mut piece = [0; 256];
            let read = match self.reports.read(&mut piece).await {
                Ok(read) => read,
                // It ended with something unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(GuardError::Unheard(error)),
            };
            if read == 0 {
                let status = self.guard.wait().await.map_err(GuardError::Unheard)?;
                return if self.gone {
                    Ok(None)
                } else {
                    Err(GuardError::Died { status })
                };
            }
            self.take(piece.get(..read).unwrap_or_default());
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let reports = match self.lines.feed(piece, Report::parse) {
            Ok(reports) => reports,
            Err((reports, error)) => {
                self.garbled = Some(error);
                reports
            }
        };
        for report in reports {
            match report {
                Report::Started { pid } => self.program = i32::try_from(pid).ok(),
                Report::Gone => self.gone = true,
                Report::Ready { .. }
                | Report::Late
                | Report::Up
                | Report::Beside(_)
                | Report::Stopping(_)
                | Report::Exited(_) => {}
            }
            self.heard.push_back(report);
        }
    }

    /// The last resort, when the guard has died or does not do its work: SIGKILL to the guard and
    /// to every process of the program that can be found, until none can be found any more.
    ///
    /// Found are the guard's descendants while it lives, the program's group, whoever bears the
    /// guard's mark in its environment, and all that descend from them. Not found, once the guard
    /// is dead, is who did all three: left the group, lost its parent, and wiped its environment.
    /// Not killed is who may not be (another user's) or cannot be (in the kernel, behind a disk
    /// that does not answer).
    pub async fn kill_all(&mut self, patience: Duration) -> Result<(), GuardError> {
        let give_up = Moment::now() + patience;
        loop {
            let remains = Remains {
                guard: self.guard.id().and_then(|pid| i32::try_from(pid).ok()),
                program: self.program,
                mark: self.mark.clone(),
                session: self.session,
            };
            let looked = tokio::task::spawn_blocking(move || remains.kill()).await;
            let pids = looked
                .map_err(io::Error::other)
                .and_then(|left| left)
                .map_err(GuardError::Blind)?;
            if pids.is_empty() {
                return Ok(());
            }
            if Moment::now() >= give_up {
                return Err(GuardError::Remain { pids, patience });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
