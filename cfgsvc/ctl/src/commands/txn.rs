//! `cfgctl txn`.

mod rehearsal;

use crate::Outcome;
use crate::args::TxnArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, cell, count, json_kv};
use cfgctl::txn_file;
use cfgsvc_client::{OpReply, TxnReply};
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;

/// Most bytes of a file: a transaction is at most 1.5 MiB, and base64 adds a third.
const FILE_BYTES_MAX: u64 = 16 << 20;

pub(crate) async fn run(context: &Context, args: TxnArgs) -> Outcome {
    let text = read(&args.file)?;
    let txn = txn_file::parse(&text).map_err(|error| {
        Diagnostic::usage(format!("{}: {error}", args.file.display()))
            .hint("`cfgctl txn --help` describes the file")
    })?;
    let client = context.client()?;
    if args.dry_run {
        return rehearsal::run(context, &client, &txn).await;
    }
    let reply = client.txn(txn).await?;
    context.print(
        || {
            let mut table = Table::new(["OPERATION", "RESULT"]);
            let held = if reply.succeeded {
                "held"
            } else {
                "did not hold"
            };
            table.row([
                "if".into(),
                format!("{held} at revision {}", reply.revision),
            ]);
            rows(&reply, 0, &mut table);
            table
        },
        || json_reply(&reply),
    )?;
    Ok(if reply.succeeded {
        Exit::Done
    } else {
        Exit::Refused
    })
}

fn read(path: &Path) -> Result<String, Diagnostic> {
    let failed = |error: std::io::Error| {
        Diagnostic::refused(format!("cannot read {}", path.display())).because(error)
    };
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let text = format!("{} has more than {FILE_BYTES_MAX} bytes", path.display());
        return Err(Diagnostic::usage(text));
    }
    String::from_utf8(bytes).map_err(|error| {
        let text = format!("{} is not UTF-8", path.display());
        Diagnostic::usage(text).because(error.utf8_error())
    })
}

fn rows(reply: &TxnReply, depth: usize, table: &mut Table) {
    let indent = "  ".repeat(depth);
    for one in &reply.replies {
        match one {
            OpReply::Put(put) => {
                let before = put
                    .previous
                    .as_ref()
                    .map_or(String::new(), |kv| cell(&kv.value));
                let result = if before.is_empty() {
                    "done".to_owned()
                } else {
                    before
                };
                table.row([format!("{indent}put"), result]);
            }
            OpReply::Delete(delete) => {
                table.row([format!("{indent}del"), count(delete.deleted, "key")]);
            }
            OpReply::Get(get) => {
                table.row([format!("{indent}get"), count(get.count, "key")]);
                for kv in &get.kvs {
                    let text = format!("{} = {}", cell(&kv.key), cell(&kv.value));
                    table.row([String::new(), text]);
                }
            }
            OpReply::Txn(nested) => {
                let held = if nested.succeeded {
                    "held"
                } else {
                    "did not hold"
                };
                table.row([format!("{indent}txn"), held.to_owned()]);
                rows(nested, depth + 1, table);
            }
        }
    }
}

fn json_reply(reply: &TxnReply) -> Value {
    let replies = reply.replies.iter().map(|one| match one {
        OpReply::Put(put) => {
            let previous = put
                .previous
                .as_ref()
                .map_or(Value::Null, |kv| json_kv(kv, true));
            json!({ "put": { "previous": previous } })
        }
        OpReply::Delete(delete) => json!({ "del": { "deleted": delete.deleted } }),
        OpReply::Get(get) => {
            let kvs = get
                .kvs
                .iter()
                .map(|kv| json_kv(kv, true))
                .collect::<Vec<_>>();
            json!({ "get": { "count": get.count, "kvs": kvs } })
        }
        OpReply::Txn(nested) => json!({ "txn": json_reply(nested) }),
    });
    let replies = replies.collect::<Vec<_>>();
    json!({ "succeeded": reply.succeeded, "revision": reply.revision, "replies": replies })
}
