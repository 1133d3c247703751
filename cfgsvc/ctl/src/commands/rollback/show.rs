//! The plan of a rollback: what differs, and whose changes are undone.
//!
//! It is printed key by key, since what is there now may be larger than a transaction.

use super::plan::{Plan, Step};
use super::verb;
use crate::args::Output;
use crate::commands::diff::{at_revision, json_version, side};
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use crate::difference::{self, Side};
use crate::past::{self, Moment, Undone};
use crate::render::{JsonList, json_key, json_value};
use cfgsvc_client::Client;
use serde_json::Value;

/// On standard output, in the form that was asked for.
pub(super) async fn as_data(
    context: &Context,
    client: &Client,
    plan: &Plan,
) -> Result<(), Diagnostic> {
    let mut list = JsonList::default();
    let json = context.output == Output::Json;
    if json {
        let text = JsonList::begin(&[("at_revision", plan.at.into())], "changes");
        context.printer.data(text.as_bytes())?;
    }
    for step in &plan.steps {
        let (now, undone) = found(client, plan, step).await?;
        let text = if json {
            list.item(&item(step, &now, &undone))
        } else {
            text(plan, step, &now, &undone)
        };
        context.printer.data(text.as_bytes())?;
    }
    if json {
        let text = list.end(&[("to_revision", plan.to.into())]);
        context.printer.data(text.as_bytes())?;
    }
    Ok(())
}

/// On standard error, for who is asked.
pub(super) async fn as_notes(
    context: &Context,
    client: &Client,
    plan: &Plan,
) -> Result<(), Diagnostic> {
    for step in &plan.steps {
        let (now, undone) = found(client, plan, step).await?;
        let text = text(plan, step, &now, &undone);
        context.printer.note(text.trim_end_matches('\n'));
    }
    Ok(())
}

/// What the plan was made with.
async fn found(client: &Client, plan: &Plan, step: &Step) -> Result<(Moment, Undone), Diagnostic> {
    let now = past::at(client, &step.key, plan.at).await?;
    let undone = past::undone(client, &step.key, plan.to, plan.at).await?;
    Ok((now, undone))
}

fn text(plan: &Plan, step: &Step, now: &Moment, undone: &Undone) -> String {
    let (from, to) = (at_revision(plan.at), format!("as at revision {}", plan.to));
    let after = Side {
        when: &to,
        value: step.value.as_deref(),
        lease: step.lease,
    };
    let mut text = difference::render(&step.key, side(now.kv.as_ref(), &from), after);
    text.push_str(&undone.text(&step.key));
    text
}

fn item(step: &Step, now: &Moment, undone: &Undone) -> Value {
    let mut map = json_key(&step.key);
    map.insert("change".into(), verb(step).into());
    map.insert("before".into(), json_version(now.kv.as_ref()));
    let after = step.value.as_ref();
    let after = after.map_or(Value::Null, |value| json_value(value, step.lease));
    map.insert("after".into(), after);
    map.insert("undone".into(), undone.json());
    Value::Object(map)
}
