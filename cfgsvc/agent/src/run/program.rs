//! The life of a role's program, from its start to the end of its last process: one task.
//!
//! Invariants
//! - While it lives, no hook of the role runs but `on-serve`, which the guard starts and ends, and
//!   those beside it, which are killed when it is being stopped.
//! - It ends when no process of the program is left, and `on-fence` has succeeded; not before.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cfgsvc_client::sleep_until;
use cfgsvc_clock::Moment;
use tokio::sync::{mpsc, watch};

use super::beside::{Beside, Checks, Stage};
use super::hooks::{Hooks, Last, Told};
use super::sync::Voice;
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
#[derive(Debug)]
pub(crate) struct Program {
    /// Empty: the hooks serve.
    pub(crate) command: Vec<OsString>,
    pub(crate) stop: Duration,
    pub(crate) lock: PathBuf,
    pub(crate) told: Told,
    pub(crate) hooks: Hooks,
    pub(crate) checks: Checks,
    /// For the hook `sync`.
    pub(crate) voice: Option<Voice>,
    pub(crate) board: Arc<Board>,
}

/// What may be left of a program.
trait Left {
    /// Kills it; an error if somebody is still there.
    fn kill(&mut self) -> impl Future<Output = Result<(), GuardError>> + Send;
}

impl Left for Option<GuardHandle> {
    async fn kill(&mut self) -> Result<(), GuardError> {
        match self {
            Some(guard) => guard.kill_all(PATIENCE).await,
            None => Ok(()),
        }
    }
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
        let (stage, staged) = watch::channel(Stage::Starting);
        let beside = Beside {
            hooks: &self.hooks,
            told: &self.told,
            board: &self.board,
            events: &events,
        };
        let guarded = self.guarded(&mut orders, stage);
        let (left, ()) = tokio::join!(
            guarded,
            beside.run((self.checks, self.voice.as_ref()), staged)
        );
        self.end(&events, left).await;
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
            let own = executable.clone().into_os_string();
            let mut command = vec![own, "hold".into(), "--guarded".into()];
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

    /// Runs it under a guard until it has ended; with a guard that is not relied on any more,
    /// processes may be left.
    async fn guarded(
        &self,
        orders: &mut watch::Receiver<Orders>,
        stage: watch::Sender<Stage>,
    ) -> Option<GuardHandle> {
        let role = &self.hooks.role;
        let epoch = self.told.epoch;
        let mut guard = match GuardHandle::spawn(&self.options()) {
            Ok(guard) => guard,
            Err(error) => {
                tracing::error!(role, epoch, %error, "cannot start the program");
                return None;
            }
        };
        let followed = self.follow(&mut guard, orders, &stage).await;
        stage.send_replace(Stage::Over);
        let error = followed.err()?;
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(role, epoch, %error, cause, "kills all processes of the program");
        Some(guard)
    }

    /// Says that it serves no more, and then kills until nobody is left, and notes who does not
    /// die: that may take as long as a disk hangs.
    async fn end(&self, events: &mpsc::Sender<Event>, mut left: impl Left) {
        let role = &self.hooks.role;
        self.set(|status| status.running = false);
        // Nobody to tell: the role is left.
        let _ = events.send(Event::Ended).await;
        while let Err(error) = left.kill().await {
            let problem = format!("the program is not gone: {error}");
            self.board.problem(role, Part::Program, Some(problem));
            tokio::time::sleep(KILL_PAUSE).await;
        }
        self.board.problem(role, Part::Program, None);
        let epoch = self.told.epoch;
        tracing::info!(role, epoch, "the program is gone");
        // No process is left: what fences after it is not the watchdog's matter.
        self.set(|status| status.gone_by = None);
    }

    /// Passes on orders and hears reports until the program is gone.
    async fn follow(
        &self,
        guard: &mut GuardHandle,
        orders: &mut watch::Receiver<Orders>,
        stage: &watch::Sender<Stage>,
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
                        stage.send_replace(Stage::Over);
                        stops = stops.min(Moment::now());
                        guard.stop()?;
                    } else {
                        stops = now.until;
                        guard.until(now.until)?;
                    }
                    self.set(|status| status.gone_by = Some(stops + self.stop));
                }
                report = guard.next() => match report? {
                    Some(report) => self.heard(report, stage),
                    None => return Ok(()),
                },
                () = sleep_until(given_up_at(stops, self.stop)) => return Err(GuardError::Late),
            }
        }
    }

    fn heard(&self, report: Report, stage: &watch::Sender<Stage>) {
        // After the last there is none.
        let comes = |to: Stage| stage.send_modify(|at| *at = to.max(*at));
        let (role, epoch) = (&self.hooks.role, self.told.epoch);
        match report {
            Report::Started { pid } => {
                tracing::info!(role, epoch, pid, "serves");
                self.set(|status| status.running = true);
                self.board.problem(role, Part::Serve, None);
                let serves = self.command.is_empty();
                comes(if serves { Stage::Begun } else { Stage::Up });
            }
            Report::Up => comes(Stage::Up),
            Report::Beside(ending) => {
                let problem = format!("hook on-serve ended with {ending}");
                self.board.problem(role, Part::Serve, Some(problem));
            }
            Report::Stopping(reason) => {
                tracing::info!(role, epoch, %reason, "stops the program");
                self.set(|status| status.running = false);
                comes(Stage::Over);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::hooks::Files;

    /// Two rounds of processes that do not die, and what was known in each.
    struct Stubborn {
        board: Arc<Board>,
        events: mpsc::Receiver<Event>,
        rounds: usize,
    }

    impl Left for &mut Stubborn {
        async fn kill(&mut self) -> Result<(), GuardError> {
            self.rounds += 1;
            let mut status = self.board.role("r").unwrap_or_default();
            assert!(!status.running && status.gone_by.is_some());
            let problem = status.problems.remove(&Part::Program);
            match self.rounds {
                1 => assert_eq!(self.events.try_recv(), Ok(Event::Ended)),
                2 => assert!(problem.is_some_and(|problem| problem.contains("[17, 18]"))),
                _ => return Ok(()),
            }
            Err(GuardError::Remain {
                pids: vec![17, 18],
                patience: PATIENCE,
            })
        }
    }

    #[tokio::test]
    async fn who_does_not_die_serves_no_more_and_is_shown_until_it_is_gone() {
        let board = Arc::new(Board::default());
        let program = program(Arc::clone(&board));
        program.set(|status| {
            status.running = true;
            status.gone_by = Some(Moment::now());
        });
        let (sender, events) = mpsc::channel(1);
        let rounds = 0;
        let mut stubborn = Stubborn {
            board: Arc::clone(&board),
            events,
            rounds,
        };
        program.end(&sender, &mut stubborn).await;
        assert_eq!(stubborn.rounds, 3);
        let status = board.role("r").unwrap_or_default();
        assert!(status.problems.is_empty() && status.gone_by.is_none());
    }

    fn program(board: Arc<Board>) -> Program {
        Program {
            command: vec!["true".into()],
            stop: Duration::from_secs(1),
            lock: PathBuf::new(),
            told: Told::default(),
            hooks: Hooks {
                files: Files::default(),
                role: "r".to_owned(),
                host: "a1".to_owned(),
                colo: "akl".to_owned(),
                file: PathBuf::new(),
                lock: PathBuf::new(),
            },
            checks: Checks {
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(2),
                failures: 3,
            },
            voice: None,
            board,
        }
    }
}
