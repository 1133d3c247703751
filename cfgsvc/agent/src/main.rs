//! `cfgagent`: the agent of a host.
//!
//! `guard` and `shield` are hidden: the agent starts the one, and that the other. They must run in
//! the process's only thread, so nothing is started before the command is known.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use cfgsvc_agent::guard::{shell, shield};
use clap::{Parser, Subcommand};

/// The agent of a host: runs programs only while the group lets it serve
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program until the deadlines that the agent gives on standard input
    #[command(hide = true)]
    Guard {
        /// From SIGTERM to SIGKILL, in milliseconds
        #[arg(long)]
        stop_ms: u64,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Become a program that dies with its guard
    #[command(hide = true)]
    Shield {
        /// Process id of the guard
        #[arg(long)]
        guard: i32,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Guard { stop_ms, command } => {
            let stop = Duration::from_millis(stop_ms);
            match shell::run(shell::Options { stop, command }) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failure(&error, 1),
            }
        }
        Command::Shield { guard, command } => {
            let error = shield::run(guard, &command);
            failure(&error, error.code())
        }
    }
}

fn failure(error: &dyn Error, code: u8) -> ExitCode {
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
