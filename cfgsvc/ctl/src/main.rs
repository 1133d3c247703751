//! `cfgctl`: the command line of the service.
//!
//! `args` is the grammar, `commands` holds one file for each command, `render` turns results into
//! text, `difference` two versions into lines, `diagnostics` errors into words and hints; `past`
//! and `merge` read what was, `placed` reads and writes colos, hosts and roles, `guarded` runs a
//! command no longer than it may, `signals` waits for interrupts, and `printer` alone prints.

mod args;
mod commands;
mod confirm;
mod context;
mod diagnostics;
mod difference;
mod guarded;
mod merge;
mod past;
mod placed;
mod printer;
mod render;
mod signals;

use args::Cli;
use clap::Parser;
use context::Context;
use diagnostics::{Diagnostic, Exit};
use printer::Printer;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: it must be the process's only thread.
    if let Some(code) = cfgsvc_agent::guard::entry::entered() {
        return code;
    }
    let cli = Cli::parse();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let printer = Printer::new(cli.global.color, no_color);
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let context = Context::new(cli.global, printer, user);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(commands::run(&context, cli.command))),
        Err(error) => Err(Diagnostic::refused("cannot start").because(error)),
    };
    match result {
        Ok(exit) => exit.code().into(),
        Err(diagnostic) => {
            context.printer.failure(&diagnostic);
            diagnostic.exit().code().into()
        }
    }
}

/// What a command ends with when nothing went wrong.
type Outcome = Result<Exit, Diagnostic>;
