//! The life of a role's program, from its start to the end of its last process: one task.
//!
//! Invariants
//! - While it lives, no hook of the role runs but `on-serve`, which the guard starts and ends.
//! - It ends when no process of the program is left, and `on-fence` has succeeded; not before.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cfgsvc_client::sleep_until;
use cfgsvc_clock::Moment;
use tokio::sync::{mpsc, watch};

use super::hooks::{Hooks, Last, Told};
use crate::board::{Board, Part};
use crate::guard::core::given_up_at;
use crate::guard::handle::{GuardError, GuardHandle, GuardOptions};
use crate::guard::protocol::Report;
use crate::role::core::Event;

/// How long the last resort looks for processes before it says which do not end.
const PATIENCE: Duration = Duration::from_secs(2);
/// Wait before it looks again.
const KILL_PAUSE: Duration = Duration::from_millis(500);

/// What the program is told; the last word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Orders {
    /// It may run until then.
    pub(crate) until: Moment,
    pub(crate) stop: bool,
}

/// What runs, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Empty: the hooks serve.
    pub(crate) command: Vec<OsString>,
    pub(crate) stop: Duration,
    pub(crate) lock: PathBuf,
    pub(crate) told: Told,
    pub(crate) hooks: Hooks,
    pub(crate) board: Arc<Board>,
}

impl Program {
    /// Runs it until it is gone.
    pub(crate) async fn run(
        self,
        mut orders: watch::Receiver<Orders>,
        last: Last,
        events: mpsc::Sender<Event>,
    ) {
        let stopped = |orders: &Orders| orders.stop || orders.until <= Moment::now();
        let mut last = tokio::select! {
            last = last.lock_owned() => last,
            // A sender that is gone says the same.
            _ = orders.wait_for(stopped) => return,
        };
        *last = Some(self.told.clone());
        self.guarded(&mut orders).await;
        self.set(|status| {
            status.running = false;
            // No process is left: what fences after it is not the watchdog's matter.
            status.gone_by = None;
        });
        // Nobody to tell: the role is left.
        let _ = events.send(Event::Ended).await;
        let fenced = Told {
            verdict: "fenced",
            reason: "stopped".to_owned(),
            ..self.told.clone()
        };
        let problem = |problem| self.board.problem(&self.hooks.role, Part::Fence, problem);
        self.hooks.until_done("on-fence", &fenced, problem).await;
        *last = Some(fenced);
    }

    fn set(&self, change: impl FnOnce(&mut crate::board::Status)) {
        self.board.change(&self.hooks.role, change);
    }

    fn options(&self) -> GuardOptions {
        let executable = GuardOptions::own_executable();
        let command = if self.command.is_empty() {
            let mut command = vec![executable.clone().into_os_string(), "hold".into()];
            for hook in ["on-serve", "on-fence"] {
                if let Some(path) = self.hooks.path(hook) {
                    command.extend([format!("--{hook}").into(), path.into()]);
                }
            }
            command
        } else {
            self.command.clone()
        };
        // Without a command, the program is what runs the hook.
        let beside = (!self.command.is_empty()).then(|| self.hooks.path("on-serve"));
        GuardOptions {
            executable,
            command,
            beside: beside.flatten().map(Path::to_owned),
            stop: self.stop,
            environment: self.hooks.environment(&self.told),
            hold: Some(self.lock.clone()),
        }
    }

    async fn guarded(&self, orders: &mut watch::Receiver<Orders>) {
        let role = &self.hooks.role;
        let epoch = self.told.epoch;
        let mut guard = match GuardHandle::spawn(&self.options()) {
            Ok(guard) => guard,
            Err(error) => return tracing::error!(role, epoch, %error, "cannot start the program"),
        };
        let Err(error) = self.follow(&mut guard, orders).await else {
            return tracing::info!(role, epoch, "the program is gone");
        };
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(role, epoch, %error, cause, "kills all processes of the program");
        while let Err(error) = guard.kill_all(PATIENCE).await {
            tracing::error!(role, epoch, %error, "the program is not gone");
            tokio::time::sleep(KILL_PAUSE).await;
        }
        tracing::info!(role, epoch, "the program is gone, killed");
    }

    /// Passes on orders and hears reports until the program is gone.
    async fn follow(
        &self,
        guard: &mut GuardHandle,
        orders: &mut watch::Receiver<Orders>,
    ) -> Result<(), GuardError> {
        let now = *orders.borrow_and_update();
        // When it must begin to stop.
        let mut stops = now.until;
        self.set(|status| status.gone_by = Some(stops + self.stop));
        let mut stopping = now.stop;
        if stopping {
            guard.stop()?;
        } else {
            guard.until(now.until)?;
        }
        loop {
            tokio::select! {
                changed = orders.changed(), if !stopping => {
                    let now = *orders.borrow_and_update();
                    if changed.is_err() || now.stop {
                        stopping = true;
                        stops = stops.min(Moment::now());
                        guard.stop()?;
                    } else {
                        stops = now.until;
                        guard.until(now.until)?;
                    }
                    self.set(|status| status.gone_by = Some(stops + self.stop));
                }
                report = guard.next() => match report? {
                    Some(report) => self.heard(report),
                    None => return Ok(()),
                },
                () = sleep_until(given_up_at(stops, self.stop)) => return Err(GuardError::Late),
            }
        }
    }

    fn heard(&self, report: Report) {
        let (role, epoch) = (&self.hooks.role, self.told.epoch);
        match report {
            Report::Started { pid } => {
                tracing::info!(role, epoch, pid, "serves");
                self.set(|status| status.running = true);
                self.board.problem(role, Part::Serve, None);
            }
            Report::Beside(ending) => {
                let problem = format!("hook on-serve ended with {ending}");
                self.board.problem(role, Part::Serve, Some(problem));
            }
            Report::Stopping(reason) => {
                tracing::info!(role, epoch, %reason, "stops the program");
                self.set(|status| status.running = false);
            }
            Report::Exited(ending) => tracing::info!(role, epoch, %ending, "the program ended"),
            Report::Late => tracing::warn!(role, epoch, "the lease was over before the start"),
            Report::Ready { locked: false } => {
                tracing::debug!(
                    role,
                    "the guard may be swapped out: its memory is not locked"
                );
            }
            Report::Ready { locked: true } | Report::Gone => {}
        }
    }
}
