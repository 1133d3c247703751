//! `cfgctl rollback`: what was comes back as a new version.
//!
//! A plan is made of two revisions, printed, and done in one transaction that compares every key
//! with the plan. Nothing here writes around the group's own checks.

mod plan;
mod show;

use crate::Outcome;
use crate::args::RollbackArgs;
use crate::confirm::{Consent, consent};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::placed::foretell;
use crate::render::{Table, cell, count, json_key};
use cfgsvc_client::{
    Client, Compare, Delete, Get, Is, Keys, Op, OpReply, Put, Txn, TxnReply, Write,
};
use plan::{Plan, Step};
use serde_json::{Value, json};

pub(crate) async fn run(context: &Context, args: RollbackArgs) -> Outcome {
    let client = context.client_because(format!("rollback to revision {}", args.to))?;
    let plan = if args.prefix {
        Plan::of_prefix(&client, &args.key, args.to).await?
    } else {
        Plan::of_key(&client, &args.key, args.to).await?
    };
    if args.dry_run {
        show::as_data(context, &client, &plan).await?;
        return foretell(context, &client, &Write::Txn(transaction(&plan))).await;
    }
    if plan.steps.is_empty() {
        context.printer.note(&format!(
            "nothing differs between revision {} and now (revision {}): nothing was written",
            plan.to, plan.at
        ));
        print(context, &plan, None)?;
        return Ok(Exit::Done);
    }
    show::as_notes(context, &client, &plan).await?;
    let consent = consent(&context.printer, &summary(&plan), args.yes)?;
    let revision = execute(&client, &plan, consent).await?;
    print(context, &plan, Some(revision))?;
    Ok(Exit::Done)
}

fn summary(plan: &Plan) -> String {
    let written = plan.steps.iter().filter(|step| step.value.is_some());
    let written = written.count();
    let deleted = plan.steps.len() - written;
    let what: Vec<String> = [("writes", written), ("deletes", deleted)]
        .into_iter()
        .filter(|(_, number)| *number > 0)
        .map(|(verb, number)| format!("{verb} {}", count(number as i128, "key")))
        .collect();
    format!("this {}: back to revision {}", what.join(" and "), plan.to)
}

/// What was planned, unless a key has changed since.
fn transaction(plan: &Plan) -> Txn {
    let mut txn = Txn::new();
    for step in &plan.steps {
        let key = Keys::One(step.key.clone());
        let op = match &step.value {
            Some(value) => Op::Put(Put::new(step.key.clone(), value.clone()).lease(step.lease)),
            None => Op::Delete(Delete::new(key.clone())),
        };
        txn = txn
            .when(Compare::mod_revision(key.clone(), Is::Equal, step.found))
            .then(op)
            .otherwise(Op::Get(Get::new(key).keys_only()));
    }
    txn
}

/// Does what was planned, unless a key has changed since; returns the revision.
async fn execute(client: &Client, plan: &Plan, _consent: Consent) -> Result<i64, Diagnostic> {
    let reply = client.txn(transaction(plan)).await?;
    if reply.succeeded {
        return Ok(reply.revision);
    }
    Err(changed_meanwhile(plan, &reply))
}

/// Names the first key that is not as it was planned with.
fn changed_meanwhile(plan: &Plan, reply: &TxnReply) -> Diagnostic {
    let now = reply.replies.iter().map(|one| match one {
        OpReply::Get(get) => get.kvs.first().map_or(0, |kv| kv.mod_revision),
        OpReply::Put(_) | OpReply::Delete(_) | OpReply::Txn(_) => 0,
    });
    let what = plan
        .steps
        .iter()
        .zip(now)
        .find(|(step, now)| step.found != *now)
        .map_or("a key was changed".to_owned(), |(step, now)| {
            let key = cell(&step.key);
            match now {
                0 => format!("key `{key}` was deleted"),
                now => format!("key `{key}` was changed at revision {now}"),
            }
        });
    Diagnostic::refused(format!(
        "{what}, after the plan was made at revision {}: nothing was done",
        plan.at
    ))
    .hint("run it again to see the plan as it is now")
}

fn verb(step: &Step) -> &'static str {
    if step.value.is_some() {
        "put"
    } else {
        "delete"
    }
}

/// What was done; without a revision nothing.
fn print(context: &Context, plan: &Plan, revision: Option<i64>) -> Result<(), Diagnostic> {
    context.print(
        || {
            let mut table = Table::new(["CHANGE", "REVISION", "KEY"]);
            let revision = revision.map_or("-".to_owned(), |revision| revision.to_string());
            for step in &plan.steps {
                table.row([verb(step).to_owned(), revision.clone(), cell(&step.key)]);
            }
            table
        },
        || {
            let changes = plan.steps.iter().map(|step| {
                let mut map = json_key(&step.key);
                map.insert("change".into(), verb(step).into());
                Value::Object(map)
            });
            json!({
                "changes": changes.collect::<Vec<_>>(),
                "revision": revision,
                "to_revision": plan.to,
            })
        },
    )
}
