//! `cfgctl history`.

use crate::Outcome;
use crate::args::HistoryArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::past::{change, or_dash};
use crate::render::{Table, cell, json_key, json_kv, shell_word, time};
use cfgsvc_client::{EventKind, History};
use serde_json::{Value, json};

pub(crate) async fn run(context: &Context, args: HistoryArgs) -> Outcome {
    let client = context.client()?;
    let history = client
        .history(args.key.clone(), args.limit, args.rev)
        .await?;
    if history.entries.is_empty() {
        return Err(none(&args, history.compact_revision));
    }
    context.print(|| table(&history), || json(&args.key, &history))?;
    Ok(Exit::Done)
}

/// Why there is nothing to print.
fn none(args: &HistoryArgs, compacted: i64) -> Diagnostic {
    let (key, word) = (cell(&args.key), shell_word(&args.key));
    match (args.rev, compacted) {
        (0, ..=0) => Diagnostic::refused(format!("key `{key}` was never set")).hint(format!(
            "`cfgctl get --prefix --keys-only {word}` lists the keys that begin so"
        )),
        (0, compacted) => Diagnostic::refused(format!("key `{key}` has no version that is kept"))
            .hint(format!(
                "versions before revision {compacted} are compacted"
            )),
        (rev, _) => Diagnostic::refused(format!(
            "key `{key}` has no version at or after revision {rev}"
        ))
        .hint(format!("`cfgctl history {word}` prints the older ones")),
    }
}

/// The time of a change; it is forgotten with the author and the reason when the change itself is
/// compacted and only the version that it made is kept.
fn known(at_ms: i64) -> Option<i64> {
    Some(at_ms).filter(|at_ms| *at_ms > 0)
}

fn table(history: &History) -> Table {
    let mut table = Table::new(["REVISION", "TIME", "AUTHOR", "REASON", "CHANGE", "VALUE"]);
    for entry in &history.entries {
        let Some((kind, kv)) = change(entry) else {
            continue;
        };
        let (verb, value) = match kind {
            EventKind::Put => ("put", cell(&kv.value)),
            EventKind::Delete => ("delete", "-".to_owned()),
        };
        table.row([
            kv.mod_revision.to_string(),
            known(entry.at_ms).map_or("-".to_owned(), time),
            or_dash(&entry.author),
            or_dash(&entry.reason),
            verb.to_owned(),
            value,
        ]);
    }
    table
}

fn json(key: &[u8], history: &History) -> Value {
    let entries = history.entries.iter().filter_map(|entry| {
        let (kind, kv) = change(entry)?;
        let (event, kv) = match kind {
            EventKind::Put => ("put", json_kv(kv, true)),
            EventKind::Delete => ("delete", Value::Object(json_key(&kv.key))),
        };
        Some(json!({
            "event": event,
            "revision": entry.event.as_ref()?.kv.as_ref()?.mod_revision,
            "time": known(entry.at_ms).map(time),
            "author": entry.author,
            "reason": entry.reason,
            "kv": kv,
        }))
    });
    let mut map = json_key(key);
    map.insert("compact_revision".into(), history.compact_revision.into());
    map.insert("entries".into(), entries.collect());
    Value::Object(map)
}
