//! `cfgctl lock`: runs a command while a lock is held, and not longer.
//!
//! ```text
//!   renewal sent                     deadline
//!   ├─ the command runs ─────────────┤ SIGTERM ─ stop ─ SIGKILL ─ gone │ clocks, lock-delay │ next
//! ```
//! Invariant: the lock is released only when no process of the command is left.

use crate::Outcome;
use crate::args::{ClaimArgs, LockArgs};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit, LOST, NOT_HAD};
use crate::guarded::{self, Ended, Unruly};
use crate::signals::Signals;
use cfgsvc_agent::guard::handle::GuardError;
use cfgsvc_agent::guard::protocol::Ending;
use cfgsvc_client::{LeaseLost, LockGuard, LockOptions, Wait};
use rustix::process::Signal;
use std::ffi::OsString;

pub(crate) async fn run(context: &Context, args: LockArgs) -> Outcome {
    // Before there is anything to give back, so that no moment is left in which it would stay.
    let mut signals = Signals::listen()?;
    let lock = acquire(context, &args.name, options(&args.claim), &mut signals).await?;
    while_held(context, (&args.name, lock), &args.command, &mut signals).await
}

/// How a lock is asked for.
pub(super) fn options(args: &ClaimArgs) -> LockOptions {
    let options = LockOptions::new()
        .term(args.term)
        .stop(args.stop)
        .lock_delay(args.lock_delay)
        .wait(match args.wait {
            None => Wait::Forever,
            Some(time) if time.is_zero() => Wait::Once,
            Some(time) => Wait::AtMost(time),
        });
    match &args.host {
        Some(host) => options.host(host.as_str()),
        None => options,
    }
}

/// Waits for the lock; a signal ends the wait, and gives the place in the queue back.
pub(super) async fn acquire(
    context: &Context,
    name: &str,
    options: LockOptions,
    signals: &mut Signals,
) -> Result<LockGuard, Diagnostic> {
    let client = context.client()?;
    context.printer.note(&format!("waiting for lock `{name}`"));
    let mut claim = client.lock(name, options);
    let ended = tokio::select! {
        had = &mut claim => {
            let lock = had.map_err(|error| Diagnostic::from(error).not_had())?;
            let epoch = lock.epoch();
            context.printer.note(&format!("holding it with epoch {epoch}"));
            return Ok(lock);
        }
        end = signals.end() => end,
    };
    if let Err(error) = claim.leave().await {
        context.printer.note(&format!(
            "warning: the place in the queue of lock `{name}` ends with its lease: {error}"
        ));
    }
    Err(ended)
}

/// Gives the lock back, when nothing that it guards is under way.
pub(super) async fn release(context: &Context, name: &str, lock: LockGuard) {
    match lock.release().await {
        Ok(()) => context.printer.note(&format!("released lock `{name}`")),
        Err(error) => context.printer.note(&format!(
            "warning: lock `{name}` is released when its lease ends: {error}"
        )),
    }
}

/// The error of a lock that was lost.
pub(super) fn lost(name: &str, what: &str, why: LeaseLost) -> Diagnostic {
    Diagnostic::refused(format!("lock `{name}` was lost{what}"))
        .because(why)
        .hint("`cfgctl status` shows the group, `cfgctl role list` who holds what now")
        .exiting(Exit::Of(LOST))
}

/// Runs a command while the lock is held, then releases it.
pub(super) async fn while_held(
    context: &Context,
    (name, lock): (&str, LockGuard),
    command: &[OsString],
    signals: &mut Signals,
) -> Outcome {
    let ended = match guarded::run(&lock, command, signals).await {
        Ok(ended) => ended,
        Err(Unruly::NotRun(error)) => {
            release(context, name, lock).await;
            return Err(unguarded("the command is not run", error));
        }
        Err(Unruly::Remains(error)) => {
            // Its drop would give the lock back while something of the command may run.
            std::mem::forget(lock);
            let hint = format!("end them; lock `{name}` goes to another when its lease is over");
            return Err(unguarded("processes of the command may still run", error).hint(hint));
        }
    };
    release(context, name, lock).await;
    match ended {
        Ended::ByItself(Ending::Code(code)) => Ok(exit(code)),
        Ended::ByItself(Ending::Signal(signal)) => Ok(exit(128 + signal)),
        Ended::Killed => Ok(exit(128 + Signal::KILL.as_raw())),
        Ended::NotRun(Some(signal)) => Ok(exit(128 + signal.as_raw())),
        Ended::NotRun(None) => {
            Err(Diagnostic::refused("the command cannot be started").exiting(Exit::Of(NOT_HAD)))
        }
        Ended::Lost(why) => Err(lost(name, ", the command was stopped", why)),
        Ended::Unguarded(error) => Err(unguarded("the command was killed", error)),
    }
}

fn exit(code: i32) -> Exit {
    Exit::Of(u8::try_from(code).unwrap_or(1))
}

fn unguarded(what: &str, error: GuardError) -> Diagnostic {
    Diagnostic::refused(what)
        .because(error)
        .exiting(Exit::Of(NOT_HAD))
}
