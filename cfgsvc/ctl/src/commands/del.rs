//! `cfgctl del`.

use crate::Outcome;
use crate::args::{DelArgs, Output};
use crate::commands::dry_run;
use crate::confirm::{Consent, consent};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::past;
use crate::placed::foretell;
use crate::render::{JsonList, Table, cell, count as plural, json_key};
use cfgsvc_client::{Client, Delete, DeleteReply, Get, Keys, Write};
use serde_json::{Value, json};

pub(crate) async fn run(context: &Context, args: DelArgs) -> Outcome {
    let client = context.client()?;
    let key = cell(&args.key);
    if args.dry_run && args.prefix {
        return rehearse_prefix(context, &client, &args).await;
    }
    if args.dry_run {
        let now = past::at(&client, &args.key, 0).await?;
        return match now.kv {
            Some(_) => {
                let write = Write::Delete(Delete::new(Keys::one(args.key.clone())));
                dry_run::print(context, (&client, &write), (&args.key, &now), None).await
            }
            None => Err(missing(&key)),
        };
    }
    let reply = if args.prefix {
        let keys = Keys::prefix(args.key.clone());
        let count = client.get(Get::new(keys.clone()).count_only()).await?.count;
        if count == 0 {
            return Err(none_begins(&key));
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
        return Err(missing(&key));
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

fn missing(key: &str) -> Diagnostic {
    Diagnostic::refused(format!("key `{key}` does not exist"))
}

fn none_begins(key: &str) -> Diagnostic {
    Diagnostic::refused(format!("no key begins with `{key}`"))
}

/// Lists what would be deleted, page by page.
async fn rehearse_prefix(context: &Context, client: &Client, args: &DelArgs) -> Outcome {
    let get = Get::prefix(args.key.clone()).keys_only();
    let mut pages = client.get_pages(get).await?;
    if pages.count() == 0 {
        return Err(none_begins(&cell(&args.key)));
    }
    let json = context.output == Output::Json;
    let mut table = Table::new(["CHANGE", "REVISION", "KEY"]);
    let mut list = JsonList::default();
    let mut text = String::new();
    if json {
        text = JsonList::begin(&[("at_revision", pages.revision().into())], "changes");
    }
    while let Some(kvs) = pages.next().await? {
        for kv in &kvs {
            if json {
                let mut map = json_key(&kv.key);
                map.insert("change".into(), "delete".into());
                map.insert("mod_revision".into(), kv.mod_revision.into());
                text.push_str(&list.item(&Value::Object(map)));
            } else {
                let at = kv.mod_revision.to_string();
                table.row(["delete".to_owned(), at, cell(&kv.key)]);
            }
        }
        if !json {
            text.push_str(&table.take());
        }
        context.printer.data(text.as_bytes())?;
        text.clear();
    }
    if json {
        text = list.end(&[("count", pages.count().into())]);
        context.printer.data(text.as_bytes())?;
    }
    let write = Write::Delete(Delete::new(Keys::prefix(args.key.clone())));
    foretell(context, client, &write).await
}
