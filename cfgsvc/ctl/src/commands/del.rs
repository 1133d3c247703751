//! `cfgctl del`.

use crate::Outcome;
use crate::args::DelArgs;
use crate::confirm::{Consent, consent};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, cell, count as plural};
use cfgsvc_client::{Client, Delete, DeleteReply, Get, Keys};
use serde_json::json;

pub(crate) async fn run(context: &Context, args: DelArgs) -> Outcome {
    let client = context.client()?;
    let key = cell(&args.key);
    let reply = if args.prefix {
        let keys = Keys::prefix(args.key.clone());
        let count = client.get(Get::new(keys.clone()).count_only()).await?.count;
        if count == 0 {
            return Err(Diagnostic::refused(format!("no key begins with `{key}`")));
        }
        let what = match key.as_str() {
            "" => format!(
                "this deletes all keys of the group: {}",
                plural(count, "key")
            ),
            key => format!(
                "this deletes what begins with `{key}`: {}",
                plural(count, "key")
            ),
        };
        let consent = consent(&context.printer, &what, args.yes)?;
        delete_many(&client, keys, consent).await?
    } else {
        client
            .delete(Delete::new(Keys::one(args.key.clone())))
            .await?
    };
    if reply.deleted == 0 && args.prefix {
        return Err(Diagnostic::refused(format!(
            "no key begins with `{key}` any more: somebody else has deleted them"
        )));
    }
    if reply.deleted == 0 {
        return Err(Diagnostic::refused(format!("key `{key}` does not exist")));
    }
    let table = || {
        let mut table = Table::new(["DELETED", "REVISION"]);
        table.row([reply.deleted.to_string(), reply.revision.to_string()]);
        table
    };
    context.print(
        table,
        || json!({ "deleted": reply.deleted, "revision": reply.revision }),
    )?;
    Ok(Exit::Done)
}

async fn delete_many(
    client: &Client,
    keys: Keys,
    _consent: Consent,
) -> Result<DeleteReply, Diagnostic> {
    Ok(client.delete(Delete::new(keys)).await?)
}
