//! `cfgctl lock`: runs a command while a lock is held, and not longer.
//!
//! ```text
//!   lease:    |<------------------- term ------------------->|
//!   renewals: ^ at 1/3 ... ^ at 2/3 (both failed)            |
//!   command:  runs ......................... SIGTERM ........ SIGKILL
//! ```
//! The command gets SIGTERM when a third of the term is left without a renewal, or when the group
//! says that the lease is gone, and SIGKILL when the term (or, in the second case, a third of it)
//! is over.

use super::whole_seconds;
use crate::Outcome;
use crate::args::LockArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::signals::Signals;
use cfgsvc_client::{LeaseState, LockGuard, Moment, Session, sleep_until};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// Part of the term that is left to the command for its end.
const STOP_SHARE: u32 = 3;

pub(crate) async fn run(context: &Context, args: LockArgs) -> Outcome {
    let client = context.client()?;
    // Before there is anything to give back, so that no moment is left in which it would stay.
    let mut signals = Signals::listen()?;
    let session = tokio::select! {
        session = client.session(whole_seconds(args.ttl)) => session?,
        end = signals.end() => return Err(end),
    };
    context
        .printer
        .note(&format!("waiting for lock `{}`", args.name));
    let locked = tokio::select! {
        locked = client.lock(&args.name, &session) => locked.map_err(Diagnostic::from),
        end = signals.end() => Err(end),
    };
    let guard = match locked {
        Ok(guard) => guard,
        Err(diagnostic) => {
            give_back(context, session).await;
            return Err(diagnostic);
        }
    };
    context
        .printer
        .note(&format!("holding it with epoch {}", guard.epoch()));
    let ended = hold(&args, &session, &guard, &mut signals).await;
    let held = session.is_live();
    let name = &args.name;
    if held {
        match guard.release().await {
            Ok(()) => context.printer.note(&format!("released lock `{name}`")),
            Err(error) => context.printer.note(&format!(
                "warning: lock `{name}` is released when its lease ends: {error}"
            )),
        }
    } else {
        context.printer.note(&format!(
            "warning: lock `{name}` was lost before it was released"
        ));
    }
    give_back(context, session).await;
    match ended? {
        Ended::ByItself(status) => Ok(exit_of(status)),
        Ended::Stopped => Err(Diagnostic::refused(format!(
            "lock `{name}` was lost, the command was stopped"
        ))
        .hint("the lease was revoked, or not renewed in time: see `cfgctl status`")),
    }
}

/// Ends the lease. What the command did stands, so a failure here is only worth a warning.
async fn give_back(context: &Context, session: Session) {
    let lease = session.lease();
    if let Err(error) = session.close().await {
        context
            .printer
            .note(&format!("warning: lease {lease:x} ends by itself: {error}"));
    }
}

/// How the command ended.
enum Ended {
    ByItself(ExitStatus),
    Stopped,
}

async fn hold(
    args: &LockArgs,
    session: &Session,
    guard: &LockGuard,
    signals: &mut Signals,
) -> Result<Ended, Diagnostic> {
    let (program, rest) = args.command.split_first().ok_or_else(|| {
        Diagnostic::usage("no command is given").hint("`cfgctl lock NAME -- COMMAND...`")
    })?;
    let key = String::from_utf8_lossy(guard.key()).into_owned();
    let mut child = Command::new(program)
        .args(rest)
        .env("CFGSVC_LOCK_KEY", key)
        .env("EPOCH", guard.epoch().to_string())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            let text = format!("cannot start `{}`", program.to_string_lossy());
            Diagnostic::refused(text).because(error)
        })?;
    let mut endangered = Box::pin(endangered(session.state(), session.ttl() / STOP_SHARE));
    loop {
        tokio::select! {
            status = child.wait() => return Ok(Ended::ByItself(waited(status)?)),
            kill_at = &mut endangered => {
                stop(&mut child, kill_at).await?;
                return Ok(Ended::Stopped);
            }
            signal = signals.next() => match signal {
                // A terminal sends it to the command too; here it only must not end the hold.
                Signal::INT => {}
                signal => send(&child, signal),
            },
        }
    }
}

fn waited(status: std::io::Result<ExitStatus>) -> Result<ExitStatus, Diagnostic> {
    status.map_err(|error| Diagnostic::refused("cannot wait for the command").because(error))
}

/// Waits until the command must be told to stop; returns when it must be gone.
async fn endangered(mut state: watch::Receiver<LeaseState>, stop: Duration) -> Moment {
    loop {
        let until = match &*state.borrow_and_update() {
            LeaseState::Lost(_) => return Moment::now() + stop,
            LeaseState::Held { until } => *until,
        };
        let left = Moment::now().until(until).saturating_sub(stop);
        // Renewed, lost, or time to stop: by a clock that goes on while the machine is suspended.
        tokio::select! {
            changed = state.changed() => if changed.is_err() {
                return Moment::now() + stop;
            },
            () = sleep_until(Moment::now() + left) => return until,
        }
    }
}

async fn stop(child: &mut Child, kill_at: Moment) -> Result<(), Diagnostic> {
    send(child, Signal::TERM);
    tokio::select! {
        ended = child.wait() => waited(ended).map(|_| ()),
        () = sleep_until(kill_at) => child
            .kill()
            .await
            .map_err(|error| Diagnostic::refused("cannot kill the command").because(error)),
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in this moment, which `wait` then tells.
        let _ = kill_process(pid, signal);
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    Exit::Of(u8::try_from(code).unwrap_or(1))
}
