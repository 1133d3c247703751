//! `cfgagent`: the agent of a host.
//!
//! `guard`, `shield` and `hold` are hidden: the agent starts the first, that the others. They must
//! run in the process's only thread, so nothing is started before the command is known.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use cfgsvc_agent::args::{Cli, Command, VerdictArgs};
use cfgsvc_agent::guard::entry::{entered, failure};
use cfgsvc_agent::{hold, run, state};
use cfgsvc_clock::Moment;
use clap::Parser;

fn main() -> ExitCode {
    if let Some(code) = entered() {
        return code;
    }
    match Cli::parse().command {
        Command::Run(args) => match cfgsvc_daemon::start_log(&args.log) {
            Ok(()) => ended(run::run(*args)),
            Err(problem) => {
                let _ = writeln!(io::stderr(), "error: {problem}");
                2.into()
            }
        },
        Command::Verdict(args) => verdict(&args),
        Command::Hold {
            on_serve,
            on_fence,
            guarded,
        } => ended(hold::run(on_serve, on_fence, guarded)),
    }
}

fn ended<E: Error>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error, 1),
    }
}

/// Prints what the file says, and whether it is so now.
fn verdict(args: &VerdictArgs) -> ExitCode {
    let known = state::read_verdict(&args.state_dir, &args.role);
    let known = known.and_then(|file| {
        let boot = state::boot_id().map_err(|source| state::StateError::Io {
            dir: "/proc".into(),
            source,
        })?;
        let has_agent = state::has_agent(&args.state_dir).map_err(|source| {
            let dir = args.state_dir.clone();
            state::StateError::Io { dir, source }
        })?;
        Ok((file, boot, has_agent))
    });
    let (file, boot, has_agent) = match known {
        Ok(known) => known,
        Err(error) => return failure(&error, 1),
    };
    let mut out = io::stdout();
    let Some(file) = file else {
        let role = args.role.as_str();
        let dir = args.state_dir.display();
        let _ = writeln!(out, "fenced: nothing is known about role '{role}' in {dir}");
        return 1.into();
    };
    let serves = file.serves(&boot, Moment::now().nanos());
    if serves && !has_agent {
        // What it ran ends with it, and before the deadline.
        let epoch = file.epoch;
        let _ = writeln!(out, "fenced: the agent that served epoch {epoch} is gone");
        return 1.into();
    }
    if serves {
        let _ = writeln!(out, "serve: epoch {}: {}", file.epoch, file.reason);
        return ExitCode::SUCCESS;
    }
    let _ = if file.verdict == "serve" {
        writeln!(out, "fenced: the lease of epoch {} is over", file.epoch)
    } else {
        let (verdict, epoch) = (&file.verdict, file.epoch);
        writeln!(out, "{verdict}: epoch {epoch}: {}", file.reason)
    };
    1.into()
}
