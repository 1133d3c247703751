//! `cfgctl version`.

use crate::Outcome;
use crate::args::Output;
use crate::context::Context;
use crate::diagnostics::Exit;
use crate::render::pretty;
use serde_json::json;

pub(crate) fn run(context: &Context) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    match context.output {
        Output::Table => context.printer.line(&format!("cfgctl {version}"))?,
        Output::Json => context
            .printer
            .data(pretty(&json!({ "cfgctl": version })).as_bytes())?,
    }
    Ok(Exit::Done)
}
