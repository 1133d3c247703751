//! `cfgctl diff`.

use crate::Outcome;
use crate::args::{DiffArgs, Output};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::difference::{self, Side};
use crate::merge::{Change, Changes};
use crate::past::{self, Moment, change};
use crate::render::{JsonList, Table, cell, count, json_key, json_kv, pretty, shell_word};
use bytes::Bytes;
use cfgsvc_client::{AdminError, CallError, Client, EventKind, KeyValue};
use serde_json::Value;

/// Keys after which they are printed.
const PRINT_KEYS: usize = 1000;

pub(crate) async fn run(context: &Context, args: DiffArgs) -> Outcome {
    let client = context.client()?;
    match args.rev {
        Some(rev) if args.prefix => prefix(context, &client, &args, rev).await,
        Some(_) | None => one(context, &client, &args).await,
    }
}

async fn one(context: &Context, client: &Client, args: &DiffArgs) -> Outcome {
    let after = past::at(client, &args.key, args.to.unwrap_or(0)).await?;
    let before = match args.rev {
        Some(rev) => past::at(client, &args.key, rev).await?,
        None => before(client, &args.key, &after).await?,
    };
    if before.kv.is_none() && after.kv.is_none() {
        let key = cell(&args.key);
        let word = shell_word(&args.key);
        let (from, to) = (before.revision, after.revision);
        return Err(Diagnostic::refused(format!(
            "key `{key}` exists neither at revision {from} nor at revision {to}"
        ))
        .hint(format!("`cfgctl history {word}` prints its versions")));
    }
    let text = match context.output {
        Output::Table => text(&args.key, &before, &after),
        Output::Json => pretty(&json(&args.key, &before, &after)),
    };
    context.printer.data(text.as_bytes())?;
    Ok(Exit::Done)
}

/// The version before `after`.
async fn before(client: &Client, key: &Bytes, after: &Moment) -> Result<Moment, Diagnostic> {
    let changed = match &after.kv {
        Some(kv) if kv.version == 1 => {
            return Ok(Moment {
                revision: kv.mod_revision - 1,
                kv: None,
            });
        }
        Some(kv) => kv.mod_revision,
        None => deleted(client, key, after.revision).await?,
    };
    let mut before = past::at(client, key, changed - 1).await?;
    // The revision by which the history names it.
    if let Some(kv) = &before.kv {
        before.revision = kv.mod_revision;
    }
    Ok(before)
}

/// The revision at which `key`, which does not exist at revision `until`, was deleted.
async fn deleted(client: &Client, key: &Bytes, until: i64) -> Result<i64, Diagnostic> {
    let (shown, word) = (cell(key), shell_word(key));
    let absent = |until: i64| {
        Diagnostic::refused(format!("key `{shown}` does not exist at revision {until}"))
    };
    // Two, since it may have come back after `until`; older ones are asked for by `--rev`.
    let history = match client.history(key.clone(), 2, 0).await {
        Ok(history) => history,
        Err(AdminError::Call(CallError::Unimplemented { .. })) => {
            return Err(absent(until).hint("give the revision to compare with by `--rev`"));
        }
        Err(error) => return Err(error.into()),
    };
    let last = history
        .entries
        .iter()
        .rev()
        .filter_map(change)
        .find(|(_, kv)| kv.mod_revision <= until);
    match last {
        Some((EventKind::Delete, kv)) => Ok(kv.mod_revision),
        Some((EventKind::Put, _)) | None => Err(absent(until).hint(
            match (history.entries.len(), history.compact_revision) {
                (0, ..=0) => format!(
                    "it was never set; `cfgctl get --prefix --keys-only {word}` lists the keys \
                     that begin so"
                ),
                (0, oldest) => {
                    format!("no version is kept: those before revision {oldest} are compacted")
                }
                _ => format!("`cfgctl history {word}` prints its versions"),
            },
        )),
    }
}

fn text(key: &[u8], before: &Moment, after: &Moment) -> String {
    let (from, to) = (at_revision(before.revision), at_revision(after.revision));
    difference::render(
        key,
        side(before.kv.as_ref(), &from),
        side(after.kv.as_ref(), &to),
    )
}

/// How a plan and a difference name a revision.
pub(crate) fn at_revision(revision: i64) -> String {
    format!("at revision {revision}")
}

/// A version to be compared.
pub(crate) fn side<'a>(kv: Option<&'a KeyValue>, when: &'a str) -> Side<'a> {
    Side {
        when,
        value: kv.map(|kv| &kv.value[..]),
        lease: kv.map_or(0, |kv| kv.lease),
    }
}

/// A version that may not exist.
pub(crate) fn json_version(kv: Option<&KeyValue>) -> Value {
    kv.map_or(Value::Null, |kv| json_kv(kv, true))
}

fn json(key: &[u8], before: &Moment, after: &Moment) -> Value {
    let value = |moment: &Moment| moment.kv.as_ref().map(|kv| kv.value.clone());
    let mut map = json_key(key);
    map.insert("changed".into(), (value(before) != value(after)).into());
    map.insert("before".into(), json_version(before.kv.as_ref()));
    map.insert("from_revision".into(), before.revision.into());
    map.insert("after".into(), json_version(after.kv.as_ref()));
    map.insert("to_revision".into(), after.revision.into());
    Value::Object(map)
}

#[derive(Default)]
struct Tally {
    added: usize,
    removed: usize,
    changed: usize,
}

impl Tally {
    fn count(&mut self, change: &Change) -> &'static str {
        let (number, word) = match (&change.before, &change.after) {
            (None, _) => (&mut self.added, "added"),
            (Some(_), None) => (&mut self.removed, "removed"),
            (Some(_), Some(_)) => (&mut self.changed, "changed"),
        };
        *number += 1;
        word
    }
}

async fn prefix(context: &Context, client: &Client, args: &DiffArgs, rev: i64) -> Outcome {
    let mut changes = match Changes::between(client, &args.key, rev, args.to.unwrap_or(0)).await {
        Ok(changes) => changes,
        Err(error) => return Err(past::unreadable(client, error).await),
    };
    let to = changes.to();
    if changes.no_keys() {
        let key = cell(&args.key);
        return Err(Diagnostic::refused(format!(
            "no key begins with `{key}`, neither at revision {rev} nor at revision {to}"
        )));
    }
    let mut tally = Tally::default();
    let mut table = Table::new(["CHANGE", "BEFORE", "AFTER", "KEY"]);
    let mut list = JsonList::default();
    let mut text = match context.output {
        Output::Table => String::new(),
        Output::Json => JsonList::begin(&[], "changes"),
    };
    let mut waiting = 0;
    loop {
        let change = match changes.next().await {
            Ok(change) => change,
            Err(error) => return Err(past::unreadable(client, error).await),
        };
        let Some(change) = change else { break };
        let word = tally.count(&change);
        match context.output {
            Output::Table => table.row(row(word, &change)),
            Output::Json => text.push_str(&list.item(&json_change(word, &change))),
        }
        waiting += 1;
        if waiting == PRINT_KEYS {
            waiting = 0;
            if context.output == Output::Table {
                text.push_str(&table.take());
            }
            context.printer.data(text.as_bytes())?;
            text.clear();
        }
    }
    match context.output {
        Output::Table => text.push_str(&table.render()),
        Output::Json => {
            let after = [("from_revision", rev.into()), ("to_revision", to.into())];
            text.push_str(&list.end(&after));
        }
    }
    context.printer.data(text.as_bytes())?;
    context.printer.note(&format!(
        "{} added, {} removed, {} changed from revision {rev} to {to}",
        count(tally.added as i128, "key"),
        tally.removed,
        tally.changed
    ));
    Ok(Exit::Done)
}

fn key_of(change: &Change) -> &[u8] {
    let kv = change.before.as_ref().or(change.after.as_ref());
    kv.map_or(&[], |kv| &kv.key)
}

fn row(word: &str, change: &Change) -> [String; 4] {
    let at = |kv: &Option<KeyValue>| {
        kv.as_ref()
            .map_or("-".to_owned(), |kv| kv.mod_revision.to_string())
    };
    [
        word.to_owned(),
        at(&change.before),
        at(&change.after),
        cell(key_of(change)),
    ]
}

fn json_change(word: &str, change: &Change) -> Value {
    let at = |kv: &Option<KeyValue>| Value::from(kv.as_ref().map(|kv| kv.mod_revision));
    let mut map = json_key(key_of(change));
    map.insert("change".into(), word.into());
    map.insert("before".into(), at(&change.before));
    map.insert("after".into(), at(&change.after));
    Value::Object(map)
}
