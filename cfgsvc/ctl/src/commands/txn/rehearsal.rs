//! `cfgctl txn --dry-run`: whether the conditions hold, and what would be done then.
//!
//! The group answers the conditions and says which keys the chosen branch is about in one
//! transaction that only reads; the values that would be replaced are read at its revision.

use crate::Outcome;
use crate::args::Output;
use crate::commands::dry_run;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::past;
use crate::placed::foretell;
use crate::render::{cell, count, json_key, pretty};
use bytes::Bytes;
use cfgsvc_client::{Client, GetReply, KeyValue, Op, OpReply, Put, Txn, TxnReply};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Most keys of a step that are named.
const NAMED: i64 = 100;

/// A step as it would go.
enum Step<'a> {
    Put(&'a Put, Option<KeyValue>),
    Delete(&'a GetReply),
    Get(&'a GetReply),
    Txn(bool, Vec<Step<'a>>),
}

pub(super) async fn run(context: &Context, client: &Client, txn: &Txn) -> Outcome {
    let reply = client.txn(txn.rehearsal(NAMED)).await?;
    let steps = Box::pin(foresee(client, txn, &reply, reply.revision)).await?;
    let text = match context.output {
        Output::Table => {
            let mut text = format!("{} at revision {}\n", held(reply.succeeded), reply.revision);
            write_steps(&steps, reply.revision, &mut text);
            text
        }
        Output::Json => pretty(&json!({
            "revision": reply.revision,
            "steps": steps.iter().map(json_step).collect::<Vec<_>>(),
            "succeeded": reply.succeeded,
        })),
    };
    context.printer.data(text.as_bytes())?;
    foretell(context, client, &cfgsvc_client::Write::Txn(txn.clone())).await?;
    Ok(if reply.succeeded {
        Exit::Done
    } else {
        Exit::Refused
    })
}

/// The steps of the branch that `reply` says would be taken.
async fn foresee<'a>(
    client: &Client,
    txn: &'a Txn,
    reply: &'a TxnReply,
    revision: i64,
) -> Result<Vec<Step<'a>>, Diagnostic> {
    let steps = txn.steps(reply.succeeded);
    if steps.len() != reply.replies.len() {
        return Err(malformed());
    }
    let mut foreseen = Vec::new();
    for (op, one) in steps.iter().zip(&reply.replies) {
        foreseen.push(match (op, one) {
            (Op::Put(put), OpReply::Get(_)) => Step::Put(put, now(client, put, revision).await?),
            (Op::Delete(_), OpReply::Get(get)) => Step::Delete(get),
            (Op::Get(_), OpReply::Get(get)) => Step::Get(get),
            (Op::Txn(nested), OpReply::Txn(reply)) => {
                let steps = Box::pin(foresee(client, nested, reply, revision)).await?;
                Step::Txn(reply.succeeded, steps)
            }
            (
                Op::Put(_) | Op::Delete(_) | Op::Get(_) | Op::Txn(_),
                OpReply::Put(_) | OpReply::Delete(_) | OpReply::Get(_) | OpReply::Txn(_),
            ) => return Err(malformed()),
        });
    }
    Ok(foreseen)
}

async fn now(client: &Client, put: &Put, revision: i64) -> Result<Option<KeyValue>, Diagnostic> {
    let key: &Bytes = put.key();
    Ok(past::at(client, key, revision).await?.kv)
}

fn malformed() -> Diagnostic {
    Diagnostic::refused("the answer does not fit the transaction that was asked")
}

fn held(succeeded: bool) -> &'static str {
    if succeeded {
        "the conditions hold"
    } else {
        "the conditions do not hold"
    }
}

fn planned(put: &Put) -> (&[u8], i64) {
    (&put.value()[..], put.lease_id())
}

fn write_steps(steps: &[Step<'_>], revision: i64, text: &mut String) {
    for step in steps {
        match step {
            Step::Put(put, now) => {
                text.push_str("put\n");
                let difference =
                    dry_run::text(put.key(), now.as_ref(), revision, Some(planned(put)));
                text.push_str(&difference);
            }
            Step::Delete(get) => {
                // Writing to a string does not fail.
                let _ = writeln!(text, "del {}", count(get.count, "key"));
                for kv in &get.kvs {
                    let _ = writeln!(text, "- {} at revision {}", cell(&kv.key), kv.mod_revision);
                }
                let more = get.count.saturating_sub(get.kvs.len() as i64);
                if more > 0 {
                    let _ = writeln!(text, "- and {more} more");
                }
            }
            Step::Get(get) => {
                let _ = writeln!(text, "get {}", count(get.count, "key"));
            }
            Step::Txn(succeeded, steps) => {
                let _ = writeln!(text, "txn: {}", held(*succeeded));
                write_steps(steps, revision, text);
                text.push_str("end of txn\n");
            }
        }
    }
}

fn json_step(step: &Step<'_>) -> Value {
    match step {
        Step::Put(put, now) => {
            json!({ "put": dry_run::json(put.key(), now.as_ref(), Some(planned(put))) })
        }
        Step::Delete(get) => {
            let keys = get.kvs.iter().map(|kv| {
                let mut map = json_key(&kv.key);
                map.insert("mod_revision".into(), kv.mod_revision.into());
                Value::Object(map)
            });
            json!({ "del": { "count": get.count, "keys": keys.collect::<Vec<_>>() } })
        }
        Step::Get(get) => json!({ "get": { "count": get.count } }),
        Step::Txn(succeeded, steps) => json!({
            "txn": {
                "steps": steps.iter().map(json_step).collect::<Vec<_>>(),
                "succeeded": succeeded,
            }
        }),
    }
}
