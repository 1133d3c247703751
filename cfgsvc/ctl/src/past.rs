//! Reads of the past: a key at a revision, who changed it since, and what is kept at all.

use crate::diagnostics::Diagnostic;
use crate::render::{Table, cell, shell_word, time};
use bytes::Bytes;
use cfgsvc_client::{
    AdminError, CallError, Client, EventKind, Get, HistoryEntry, KeyValue, Keys, KvError,
    WatchError, WatchOptions,
};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::timeout;

/// Most changes that a plan names, for each key: the newest.
const SHOWN: usize = 20;

/// Longest wait for a watch to be refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);

/// A key at a revision.
#[derive(Debug)]
pub(crate) struct Moment {
    pub(crate) revision: i64,
    /// `None`: it did not exist.
    pub(crate) kv: Option<KeyValue>,
}

/// Reads `key` as it was at `revision`, or is now when that is 0.
pub(crate) async fn at(client: &Client, key: &Bytes, revision: i64) -> Result<Moment, Diagnostic> {
    let get = Get::new(Keys::One(key.clone())).revision(revision);
    match client.get(get).await {
        Ok(reply) => Ok(Moment {
            revision: if revision == 0 {
                reply.revision
            } else {
                revision
            },
            kv: reply.kvs.into_iter().next(),
        }),
        Err(error) => Err(unreadable(client, error).await),
    }
}

/// Why the past cannot be read, with the oldest revision that can.
pub(crate) async fn unreadable(client: &Client, error: KvError) -> Diagnostic {
    let KvError::Compacted { revision } = error else {
        return error.into();
    };
    let oldest = oldest_after(client, revision).await;
    let diagnostic = Diagnostic::from(error);
    diagnostic.hint(match oldest {
        Some(oldest) => {
            format!("the first one after it that can be read is {oldest}: give that or a later one")
        }
        None => "give a later revision: `cfgctl history KEY` prints those that are kept".to_owned(),
    })
}

/// The first revision after `compacted`, which is, that can be read. Only a watch from there is
/// told, by an etcd too, and also of revisions that a restore has left out.
async fn oldest_after(client: &Client, compacted: i64) -> Option<i64> {
    // Of which key is no matter.
    let options = WatchOptions::new("any").from_revision(compacted);
    let refused = async {
        match client.watch(options).await {
            Ok(mut watch) => watch.next().await,
            Err(error) => Some(Err(error)),
        }
    };
    // The group answers at once, unless the watch is possible where the read is not: from the first
    // revision that a restore has left out.
    match timeout(REFUSED_WITHIN, refused).await {
        Ok(Some(Err(WatchError::Compacted {
            compact_revision, ..
        }))) => Some(compact_revision).filter(|oldest| *oldest > compacted),
        Ok(Some(_) | None) | Err(_) => None,
    }
}

/// The changes of a key that a rollback undoes.
#[derive(Debug)]
pub(crate) struct Undone {
    /// Oldest first. `None`: the member keeps no history of them.
    entries: Option<Vec<HistoryEntry>>,
    /// There are older ones that are not among them.
    more: bool,
}

/// The newest changes of `key` after revision `after`, up to and with revision `until`.
pub(crate) async fn undone(
    client: &Client,
    key: &Bytes,
    after: i64,
    until: i64,
) -> Result<Undone, Diagnostic> {
    // One more than is shown; as large as values may be, they fit into one answer.
    let limit = SHOWN as i64 + 1;
    let from = after.saturating_add(1);
    let history = match client.history(key.clone(), limit, from).await {
        Ok(history) => history,
        Err(AdminError::Call(CallError::Unimplemented { .. })) => {
            return Ok(Undone {
                entries: None,
                more: false,
            });
        }
        Err(error) => return Err(error.into()),
    };
    let mut entries = history.entries;
    let more = entries.len() > SHOWN;
    if more {
        entries.remove(0);
    }
    entries.retain(|entry| change(entry).is_some_and(|(_, kv)| kv.mod_revision <= until));
    Ok(Undone {
        entries: Some(entries),
        more,
    })
}

/// What a history entry is about.
pub(crate) fn change(entry: &HistoryEntry) -> Option<(EventKind, &KeyValue)> {
    let event = entry.event.as_ref()?;
    // Put is 0 in the protocol.
    let kind = if event.r#type == 0 {
        EventKind::Put
    } else {
        EventKind::Delete
    };
    Some((kind, event.kv.as_ref()?))
}

/// Text that may be missing, for a table.
pub(crate) fn or_dash(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => cell(text.as_bytes()),
    }
}

fn verb(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Put => "put",
        EventKind::Delete => "delete",
    }
}

impl Undone {
    /// For people.
    pub(crate) fn text(&self, key: &[u8]) -> String {
        let Some(entries) = &self.entries else {
            return "who made the changes is not known: the member keeps no such history\n"
                .to_owned();
        };
        let mut table = Table::new(["UNDOES", "TIME", "AUTHOR", "REASON", "CHANGE"]);
        for entry in entries {
            if let Some((kind, kv)) = change(entry) {
                table.row([
                    kv.mod_revision.to_string(),
                    time(entry.at_ms),
                    or_dash(&entry.author),
                    or_dash(&entry.reason),
                    verb(kind).to_owned(),
                ]);
            }
        }
        let mut text = table.render();
        if self.more {
            let word = shell_word(key);
            // Writing to a string does not fail.
            let _ = writeln!(text, "and older ones: `cfgctl history {word}` prints them");
        }
        text
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let entries = self.entries.as_ref().map(|entries| {
            let rows = entries.iter().filter_map(|entry| {
                let (kind, kv) = change(entry)?;
                Some(json!({
                    "author": entry.author,
                    "event": verb(kind),
                    "reason": entry.reason,
                    "revision": kv.mod_revision,
                    "time": time(entry.at_ms),
                }))
            });
            rows.collect::<Vec<_>>()
        });
        json!({ "changes": entries, "more": self.more })
    }
}
