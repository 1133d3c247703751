//! The hidden commands by which a program is its own guard: `guard` and `shield`.
//!
//! Whoever guards with [`super::handle`] calls [`entered`] first of all in `main`: both must run in
//! the process's only thread.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use super::{shell, shield};

#[derive(Debug, Parser)]
enum Entry {
    /// Run a program until the deadlines that come on standard input.
    Guard {
        /// From the deadline until all is gone, in milliseconds; SIGKILL at three quarters.
        #[arg(long)]
        stop_ms: u64,
        /// Start this too, after the command, and end it with that.
        #[arg(long)]
        beside: Option<OsString>,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Become a program that dies with its guard.
    Shield {
        /// Process id of the guard.
        #[arg(long)]
        guard: i32,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Runs the guard or the shield, if this process was started as one; the code to exit with.
pub fn entered() -> Option<ExitCode> {
    let command = std::env::args_os().nth(1)?;
    if command != "guard" && command != "shield" {
        return None;
    }
    Some(match Entry::parse() {
        Entry::Guard {
            stop_ms,
            beside,
            command,
        } => {
            let options = shell::Options {
                stop: Duration::from_millis(stop_ms),
                command,
                beside,
            };
            match shell::run(options) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failure(&error, 1),
            }
        }
        Entry::Shield { guard, command } => {
            let error = shield::run(guard, &command);
            failure(&error, error.code())
        }
    })
}

/// Says what is wrong, with its causes, on standard error.
pub fn failure(error: &dyn Error, code: u8) -> ExitCode {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    // Nobody is left to tell if that fails; the code says it too.
    let _ = writeln!(std::io::stderr(), "{text}");
    code.into()
}
