//! `cfgctl completions`.

use crate::Outcome;
use crate::args::{Cli, CompletionsArgs};
use crate::context::Context;
use crate::diagnostics::Exit;
use clap::CommandFactory;

pub(crate) fn run(context: &Context, args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cfgctl", &mut script);
    context.printer.data(&script)?;
    Ok(Exit::Done)
}
