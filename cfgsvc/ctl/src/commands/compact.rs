//! `cfgctl compact`.

use crate::Outcome;
use crate::args::CompactArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::Table;
use cfgsvc_client::KvError;
use serde_json::json;

pub(crate) async fn run(context: &Context, args: CompactArgs) -> Outcome {
    let revision = args.revision;
    match context.client()?.compact(revision).await {
        Ok(()) => {}
        Err(KvError::Compacted { .. }) => {
            return Err(Diagnostic::refused(format!(
                "revision {revision} is compacted already"
            )));
        }
        Err(error) => return Err(error.into()),
    }
    let table = || {
        let mut table = Table::new(["COMPACTED"]);
        table.row([revision.to_string()]);
        table
    };
    context.print(table, || json!({ "compact_revision": revision }))?;
    Ok(Exit::Done)
}
