//! Colos, hosts and roles as keys: read, changed on the condition that nobody else did, planned.

use crate::Outcome;
use crate::args::Output;
use crate::commands::dry_run;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, json_event, pretty};
use bytes::Bytes;
use cfgsvc_client::{
    CallError, Client, Delete, Event, EventKind, Get, KeyValue, Planned, Put, Verdict, Write,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// An object, and the version of its key.
pub(crate) struct Stored<T> {
    pub(crate) object: T,
    pub(crate) kv: KeyValue,
}

/// Reads an object; `None` when it does not exist.
pub(crate) async fn read<T: DeserializeOwned>(
    client: &Client,
    key: &Bytes,
) -> Result<Option<Stored<T>>, Diagnostic> {
    let reply = client.get(Get::new(key.clone())).await?;
    let Some(kv) = reply.kvs.into_iter().next() else {
        return Ok(None);
    };
    let object = parse(&kv)?;
    Ok(Some(Stored { object, kv }))
}

/// Reads all objects below a prefix, by name.
pub(crate) async fn read_all<T: DeserializeOwned>(
    client: &Client,
    prefix: &str,
) -> Result<Vec<(String, T)>, Diagnostic> {
    let reply = client.get(Get::prefix(prefix.to_owned())).await?;
    let named = reply.kvs.iter().map(|kv| {
        let name = kv.key.get(prefix.len()..).unwrap_or_default();
        Ok((String::from_utf8_lossy(name).into_owned(), parse(kv)?))
    });
    named.collect()
}

/// The object of a key.
pub(crate) fn parse<T: DeserializeOwned>(kv: &KeyValue) -> Result<T, Diagnostic> {
    serde_json::from_slice(&kv.value).map_err(|error| {
        let key = crate::render::cell(&kv.key);
        Diagnostic::refused(format!("the value of key `{key}` is not what it should be"))
            .because(error)
            .hint("it may be of a later version than this cfgctl")
    })
}

/// Writes an object in place of the version that was read; `dry_run` prints the plan only.
pub(crate) async fn write<T: Serialize>(
    context: &Context,
    client: &Client,
    (key, before): (Bytes, Option<&KeyValue>),
    object: &T,
    dry_run: bool,
) -> Outcome {
    let value = serde_json::to_vec(object)
        .map_err(|error| Diagnostic::refused("the object is no JSON").because(error))?;
    let put = Put::new(key.clone(), value.clone());
    if dry_run {
        let planned = client.plan(&Write::Put(put)).await?;
        return print_plan(context, &planned);
    }
    if before.is_some_and(|kv| kv.value.as_ref() == value) {
        context
            .printer
            .note("it is so already, nothing was written");
        return Ok(Exit::Done);
    }
    let revision = before.map_or(0, |kv| kv.mod_revision);
    let reply = client.put(put.if_revision(revision)).await?;
    let name = crate::render::cell(&key);
    context.print(
        || {
            let mut table = Table::new(["KEY", "REVISION"]);
            table.row([name.clone(), reply.revision.to_string()]);
            table
        },
        || json!({ "key": name, "revision": reply.revision }),
    )?;
    Ok(Exit::Done)
}

/// Deletes an object that is there; `what` names it. `dry_run` prints the plan only.
pub(crate) async fn delete(
    context: &Context,
    client: &Client,
    (key, what): (Bytes, &str),
    dry_run: bool,
) -> Outcome {
    let delete = Delete::new(key);
    let missing = || {
        let kind = what.split(' ').next().unwrap_or_default();
        Diagnostic::refused(format!("there is no {what}"))
            .hint(format!("`cfgctl {kind} list` prints those that there are"))
    };
    if dry_run {
        let planned = client.plan(&Write::Delete(delete)).await?;
        if planned.events.is_empty() {
            return Err(missing());
        }
        return print_plan(context, &planned);
    }
    if client.delete(delete).await?.deleted == 0 {
        return Err(missing());
    }
    context.printer.note(&format!("deleted {what}"));
    Ok(Exit::Done)
}

/// Prints what a write would change: keys, and verdicts.
pub(crate) fn print_plan(context: &Context, planned: &Planned) -> Outcome {
    let at = planned.header.as_ref().map_or(0, |header| header.revision);
    let text = match context.output {
        Output::Table => {
            let mut text: String = planned
                .events
                .iter()
                .filter_map(|event| {
                    let kv = event.kv.as_ref()?;
                    let after = (event.r#type == 0).then_some((kv.value.as_ref(), kv.lease));
                    let before = event.prev_kv.as_ref();
                    Some(dry_run::text(&kv.key, before, at, after))
                })
                .collect();
            if !planned.verdicts.is_empty() {
                text.push_str(&verdict_table(planned).render());
            }
            text
        }
        Output::Json => pretty(&json!({
            "at_revision": at,
            "events": planned.events.iter().filter_map(event_json).collect::<Vec<_>>(),
            "verdicts": planned.verdicts.iter().map(|change| json!({
                "role": change.role,
                "host": change.host,
                "before": change.before.as_ref().map(verdict_json),
                "after": change.after.as_ref().map(verdict_json),
            })).collect::<Vec<_>>(),
        })),
    };
    context.printer.data(text.as_bytes())?;
    context.printer.note("nothing was written");
    Ok(Exit::Done)
}

/// Tells what a write that was shown already would change besides: whose verdicts. The error is the
/// one that the write would get.
pub(crate) async fn foretell(context: &Context, client: &Client, write: &Write) -> Outcome {
    let planned = match client.plan_verdicts(write).await {
        // An older member, or etcd: it does not say what it would refuse.
        Err(CallError::Unimplemented { .. }) => Planned::default(),
        planned => planned?,
    };
    for change in &planned.verdicts {
        let (role, host) = (&change.role, &change.host);
        let (was, is) = (shown(change.before.as_ref()), shown(change.after.as_ref()));
        let change = format!("role `{role}`, host `{host}`: {was}; would be {is}");
        context.printer.note(&change);
    }
    context.printer.note("nothing was written");
    Ok(Exit::Done)
}

fn event_json(event: &cfgsvc_proto::kv::Event) -> Option<Value> {
    let kind = if event.r#type == 0 {
        EventKind::Put
    } else {
        EventKind::Delete
    };
    let kv = event.kv.clone()?;
    let revision = kv.mod_revision;
    let event = Event {
        kind,
        kv,
        previous: event.prev_kv.clone(),
    };
    Some(json_event(&event, revision))
}

fn verdict_table(planned: &Planned) -> Table {
    let mut table = Table::new(["ROLE", "HOST", "VERDICT", "WOULD BE"]);
    for change in &planned.verdicts {
        table.row([
            change.role.clone(),
            change.host.clone(),
            shown(change.before.as_ref()),
            shown(change.after.as_ref()),
        ]);
    }
    table
}

fn shown(verdict: Option<&Verdict>) -> String {
    verdict.map_or_else(
        || "-".to_owned(),
        |verdict| format!("{}: {}", verdict_name(verdict), verdict.reason),
    )
}

/// A verdict's name.
pub(crate) fn verdict_name(verdict: &Verdict) -> &'static str {
    use cfgsvc_client::VerdictKind as Kind;
    match verdict.kind() {
        Kind::Fenced => "fenced",
        Kind::Serve => "serve",
        Kind::Standby => "standby",
        Kind::Redirect => "redirect",
        Kind::Rebuild => "rebuild",
    }
}

/// A verdict for programs.
pub(crate) fn verdict_json(verdict: &Verdict) -> Value {
    json!({
        "verdict": verdict_name(verdict),
        "epoch": verdict.epoch,
        "holder": verdict.holder,
        "reason": verdict.reason,
    })
}
