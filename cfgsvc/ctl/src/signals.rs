//! Signals that ask the program to end, for commands that have something to give back first.
//!
//! From the moment that they are listened to, they end nothing by themselves: whoever holds a
//! [`Signals`] must look at it wherever it waits.

use crate::diagnostics::{Diagnostic, Exit};
use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP of this process.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Stream,
    terminate: Stream,
    hangup: Stream,
}

impl Signals {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self, Diagnostic> {
        let failed = |error| Diagnostic::refused("cannot wait for signals").because(error);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            hangup: signal(SignalKind::hangup()).map_err(failed)?,
        })
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        // The streams do not end while the runtime lives.
        tokio::select! {
            Some(()) = self.interrupt.recv() => Signal::INT,
            Some(()) = self.terminate.recv() => Signal::TERM,
            Some(()) = self.hangup.recv() => Signal::HUP,
            else => std::future::pending().await,
        }
    }

    /// Waits for a signal and makes it the end of the program, with the code that a shell gives to
    /// a program that it has ended.
    pub(crate) async fn end(&mut self) -> Diagnostic {
        let code = 128 + self.next().await.as_raw();
        Diagnostic::quiet(Exit::Of(u8::try_from(code).unwrap_or(1)))
    }
}
