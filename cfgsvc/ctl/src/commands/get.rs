//! `cfgctl get`.

use crate::Outcome;
use crate::args::GetArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, cell, json_kv, lease_cell};
use cfgsvc_client::{Get, GetReply, KeyValue, Keys};
use serde_json::json;

pub(crate) async fn run(context: &Context, args: GetArgs) -> Outcome {
    let keys = if args.prefix {
        Keys::prefix(args.key.clone())
    } else {
        Keys::one(args.key.clone())
    };
    let mut get = Get::new(keys).revision(args.rev).limit(args.limit);
    if args.serializable {
        get = get.serializable();
    }
    if args.keys_only {
        get = get.keys_only();
    }
    let reply = context.client()?.get(get).await?;
    if reply.kvs.is_empty() && !args.prefix {
        return Err(missing(&args));
    }
    if args.print_value_only {
        print_values(context, &args, &reply.kvs)?;
    } else {
        let table = || table(&args, &reply.kvs);
        context.print(table, || {
            let kvs = reply.kvs.iter().map(|kv| json_kv(kv, !args.keys_only));
            json!({
                "revision": reply.revision,
                "count": reply.count,
                "more": reply.more,
                "kvs": kvs.collect::<Vec<_>>(),
            })
        })?;
    }
    note_rest(context, &reply);
    Ok(Exit::Done)
}

fn missing(args: &GetArgs) -> Diagnostic {
    let key = cell(args.key.as_bytes());
    match args.rev {
        0 => Diagnostic::refused(format!("key `{key}` does not exist")).hint(format!(
            "`cfgctl get --prefix --keys-only {key}` lists the keys that begin so"
        )),
        rev => Diagnostic::refused(format!("key `{key}` does not exist at revision {rev}"))
            .hint(format!("`cfgctl history {key}` prints its versions")),
    }
}

fn table(args: &GetArgs, kvs: &[KeyValue]) -> Table {
    if args.keys_only {
        let mut table = Table::new(["KEY", "REVISION", "VERSION"]);
        for kv in kvs {
            table.row([
                cell(&kv.key),
                kv.mod_revision.to_string(),
                kv.version.to_string(),
            ]);
        }
        return table;
    }
    let mut table = Table::new(["KEY", "REVISION", "VERSION", "LEASE", "VALUE"]);
    for kv in kvs {
        table.row([
            cell(&kv.key),
            kv.mod_revision.to_string(),
            kv.version.to_string(),
            lease_cell(kv.lease),
            cell(&kv.value),
        ]);
    }
    table
}

fn print_values(context: &Context, args: &GetArgs, kvs: &[KeyValue]) -> Result<(), Diagnostic> {
    for kv in kvs {
        context.printer.data(&kv.value)?;
        if args.prefix || context.printer.data_to_terminal() {
            context.printer.data(b"\n")?;
        }
    }
    Ok(())
}

fn note_rest(context: &Context, reply: &GetReply) {
    if reply.more {
        let shown = reply.kvs.len();
        context
            .printer
            .note(&format!("{shown} of {} keys are shown", reply.count));
    }
}
