//! `cfgctl history`.

use crate::Outcome;
use crate::args::HistoryArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, cell, json_key, json_kv, time};
use cfgsvc_client::{EventKind, History, HistoryEntry, KeyValue};
use serde_json::{Value, json};

pub(crate) async fn run(context: &Context, args: HistoryArgs) -> Outcome {
    let client = context.client()?;
    let history = client
        .history(args.key.clone(), args.limit, args.rev)
        .await?;
    let key = cell(args.key.as_bytes());
    if history.entries.is_empty() {
        let text = format!("key `{key}` has no version that is kept");
        let compacted = history.compact_revision;
        return Err(Diagnostic::refused(text).hint(format!(
            "versions before revision {compacted} are compacted"
        )));
    }
    context.print(|| table(&history), || json(&args.key, &history))?;
    Ok(Exit::Done)
}

/// What an entry is about.
fn version(entry: &HistoryEntry) -> Option<(EventKind, &KeyValue)> {
    let event = entry.event.as_ref()?;
    // Put is 0 in the protocol.
    let kind = if event.r#type == 0 {
        EventKind::Put
    } else {
        EventKind::Delete
    };
    Some((kind, event.kv.as_ref()?))
}

fn or_dash(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => cell(text.as_bytes()),
    }
}

fn table(history: &History) -> Table {
    let mut table = Table::new(["REVISION", "TIME", "AUTHOR", "REASON", "CHANGE", "VALUE"]);
    for entry in &history.entries {
        let Some((kind, kv)) = version(entry) else {
            continue;
        };
        let (change, value) = match kind {
            EventKind::Put => ("put", cell(&kv.value)),
            EventKind::Delete => ("delete", "-".to_owned()),
        };
        table.row([
            kv.mod_revision.to_string(),
            time(entry.at_ms),
            or_dash(&entry.author),
            or_dash(&entry.reason),
            change.to_owned(),
            value,
        ]);
    }
    table
}

fn json(key: &str, history: &History) -> Value {
    let entries = history.entries.iter().filter_map(|entry| {
        let (kind, kv) = version(entry)?;
        let (event, kv) = match kind {
            EventKind::Put => ("put", json_kv(kv, true)),
            EventKind::Delete => ("delete", Value::Object(json_key(&kv.key))),
        };
        Some(json!({
            "event": event,
            "revision": entry.event.as_ref()?.kv.as_ref()?.mod_revision,
            "time": time(entry.at_ms),
            "author": entry.author,
            "reason": entry.reason,
            "kv": kv,
        }))
    });
    json!({
        "key": key,
        "compact_revision": history.compact_revision,
        "entries": entries.collect::<Vec<_>>(),
    })
}
