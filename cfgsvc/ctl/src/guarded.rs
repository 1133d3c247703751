//! A command under the agent's guard: it runs until the deadline of a lock, which each renewal puts
//! off, whatever happens to this process.
//!
//! Why a guard: cfgctl talks to the network, and may be killed, stopped or stuck. The guard is a
//! process that does nothing but watch the deadline; it is this program again, by the hidden
//! commands `guard` and `shield`.

use crate::signals::Signals;
use cfgsvc_agent::guard::core::given_up_at;
use cfgsvc_agent::guard::handle::{GuardError, GuardHandle, GuardOptions};
use cfgsvc_agent::guard::protocol::{Ending, Reason, Report};
use cfgsvc_client::{LeaseLost, LeaseState, LockGuard, Moment, sleep_until};
use rustix::process::Signal;
use std::ffi::OsString;
use std::time::Duration;

/// How long processes may take to die of SIGKILL. One that takes longer is in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How a command ended, of which no process is left.
#[derive(Debug)]
pub(crate) enum Ended {
    ByItself(Ending),
    /// It did not stop in time after a signal, and was killed.
    Killed,
    /// A signal came before it was started, or it could not be.
    NotRun(Option<Signal>),
    Lost(LeaseLost),
    /// Its guard went before it, and it was killed.
    Unguarded(GuardError),
}

/// Why a command cannot be waited for.
#[derive(Debug)]
pub(crate) enum Unruly {
    /// It could not be started, and nothing runs.
    NotRun(GuardError),
    /// Some of it could not be killed, or not be looked for.
    Remains(GuardError),
}

/// A command that runs while a lock is held.
struct Run<'a> {
    guard: GuardHandle,
    lock: &'a LockGuard,
    /// What the guard was told.
    until: Moment,
    /// Since when it is to stop.
    stopping: Option<Moment>,
    signal: Option<Signal>,
    ended: Option<Ended>,
}

/// Runs `command` while `lock` is held, and no longer. When it returns without an error, no process
/// of the command is left.
pub(crate) async fn run(
    lock: &LockGuard,
    command: &[OsString],
    signals: &mut Signals,
) -> Result<Ended, Unruly> {
    let Some(until) = lock.deadline() else {
        return Ok(Ended::Lost(lock.lost().await));
    };
    let epoch = lock.epoch().to_string();
    let environment = [
        ("EPOCH", epoch.as_str()),
        ("CFGSVC_EPOCH", &epoch),
        ("CFGSVC_ROLE", lock.role()),
        ("CFGSVC_HOST", lock.host()),
    ];
    let guard = GuardHandle::spawn(&GuardOptions {
        executable: GuardOptions::own_executable(),
        command: command.to_vec(),
        beside: None,
        stop: lock.stop_time(),
        hold: None,
        environment: environment
            .map(|(name, value)| (name.into(), value.into()))
            .to_vec(),
    });
    let mut run = Run {
        guard: guard.map_err(Unruly::NotRun)?,
        lock,
        until,
        stopping: None,
        signal: None,
        ended: None,
    };
    if let Err(wrong) = run.watch(signals).await {
        let killed = run.guard.kill_all(KILL_PATIENCE).await;
        killed.map_err(Unruly::Remains)?;
        run.ended.get_or_insert(match wrong {
            Wrong::Guard(error) => Ended::Unguarded(error),
            Wrong::Overdue if run.signal.is_some() => Ended::Killed,
            Wrong::Overdue => Ended::Lost(LeaseLost::NotRenewed),
        });
    }
    Ok(run.ended.unwrap_or(Ended::NotRun(run.signal)))
}

/// Why the guard is not relied on.
enum Wrong {
    Guard(GuardError),
    /// It should have ended by now.
    Overdue,
}

impl Run<'_> {
    /// Until nothing is left.
    async fn watch(&mut self, signals: &mut Signals) -> Result<(), Wrong> {
        let mut state = self.lock.state();
        self.extend(self.until);
        let mut held = true;
        loop {
            let over_by = self.over_by();
            tokio::select! {
                report = self.guard.next() => match report.map_err(Wrong::Guard)? {
                    Some(Report::Gone) | None => return Ok(()),
                    Some(report) => self.hear(report),
                },
                changed = state.changed(), if held => {
                    let now = state.borrow_and_update().clone();
                    match now {
                        LeaseState::Held { until } if changed.is_ok() => self.extend(until),
                        LeaseState::Held { .. } => held = self.lost(LeaseLost::Closed),
                        LeaseState::Lost(why) => held = self.lost(why),
                    }
                }
                signal = signals.next() => {
                    self.signal.get_or_insert(signal);
                    self.stop();
                }
                () = sleep_until(over_by) => return Err(Wrong::Overdue),
            }
        }
    }

    /// When the guard is given up: nothing should be left then, and there is time to see to it.
    fn over_by(&self) -> Moment {
        let stops = self.stopping.map_or(self.until, |at| at.min(self.until));
        given_up_at(stops, self.lock.stop_time())
    }

    fn hear(&mut self, report: Report) {
        match report {
            Report::Exited(ending) => {
                self.ended.get_or_insert(Ended::ByItself(ending));
            }
            Report::Late | Report::Stopping(Reason::Deadline) => {
                self.ended.get_or_insert(Ended::Lost(LeaseLost::NotRenewed));
            }
            Report::Ready { .. }
            | Report::Started { .. }
            | Report::Beside(_)
            | Report::Stopping(_)
            | Report::Up
            | Report::Gone => {}
        }
    }

    /// The lock was renewed.
    fn extend(&mut self, until: Moment) {
        // A guard that does not listen any more has ended, as its reports say, or is stuck; then
        // what it was told last counts.
        if self.guard.until(until).is_ok() {
            self.until = until;
        }
    }

    fn stop(&mut self) {
        // As above: a guard that does not hear it is overdue soon.
        let _ = self.guard.stop();
        self.stopping.get_or_insert(Moment::now());
    }

    /// The lock is held no more, nor ever again.
    fn lost(&mut self, why: LeaseLost) -> bool {
        self.ended.get_or_insert(Ended::Lost(why));
        self.stop();
        false
    }
}
