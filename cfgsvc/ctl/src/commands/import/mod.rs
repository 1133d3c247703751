//! `cfgctl import`: files become keys.
//!
//! What is there already is not written again. Each batch is conditional on the versions that were
//! compared with, so a change that somebody makes meanwhile is never overwritten unseen.

mod files;

use crate::Outcome;
use crate::args::ImportArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, cell};
use bytes::Bytes;
use cfgsvc_client::{Client, Compare, Is, KeyValue, Keys, Op, Put, Txn};
use files::{FILE_BYTES_MAX, Found, Skipped};
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Most writes of a batch: the group's limit on the operations of a transaction.
const BATCH_OPS: usize = 128;
/// Most bytes of keys and values of a batch, so that it stays under the group's limit of 1.5 MiB
/// for a request, with its conditions, which name each key again.
const BATCH_BYTES: usize = 1 << 20;

/// Keys that are looked at together: enough to share the group's round trips, and so few that what
/// they hold (at most 1.5 MiB each) fits into memory.
const READS: usize = 16;

/// A file that is to be written.
struct Write {
    key: Bytes,
    value: Bytes,
    /// Revision of the version that it replaces; 0: there is none.
    replaces: i64,
}

pub(crate) async fn run(context: &Context, args: ImportArgs) -> Outcome {
    let Found { files, mut skipped } =
        files::find(&args.path, &before(&args.prefix)).map_err(|error| {
            Diagnostic::refused(format!("cannot read {}", args.path.display())).because(error)
        })?;
    let client = context.client()?;
    let mut tally = Tally::default();
    let mut batch = Batch::default();
    let mut planned = Vec::new();
    let total = files.len();
    let mut present = stream::iter(files)
        .map(|(key, path)| present(&client, key, path))
        .buffered(READS);
    while let Some(found) = present.next().await {
        let (key, path, old) = found?;
        let value = match files::read(&path) {
            Ok(value) => value,
            Err(why) => {
                skipped.push(Skipped { path, why });
                continue;
            }
        };
        if old.as_ref().is_some_and(|kv| kv.value == value) {
            tally.unchanged += 1;
            continue;
        }
        let replaces = old.map_or(0, |kv| kv.mod_revision);
        let write = Write {
            key,
            value,
            replaces,
        };
        tally.written += 1;
        if args.dry_run {
            planned.push((write.key, write.value.len(), replaces));
            continue;
        }
        if !batch.fits(&write) {
            tally.revision = batch.send(&client).await?;
            let done = tally.written + tally.unchanged;
            context
                .printer
                .progress(&format!("{done} of {total} files"));
        }
        batch.push(write);
    }
    if !batch.writes.is_empty() {
        tally.revision = batch.send(&client).await?;
    }
    context.printer.progress("");
    for Skipped { path, why } in &skipped {
        context
            .printer
            .note(&format!("skipped {}: {why}", path.display()));
    }
    if args.dry_run {
        return print_plan(context, &planned);
    }
    print_tally(context, &tally, skipped.len())
}

/// What all keys begin with: the prefix, with one slash behind it unless it is empty.
fn before(prefix: &[u8]) -> Vec<u8> {
    let end = prefix.iter().rposition(|byte| *byte != b'/');
    match (prefix, end) {
        ([], _) => Vec::new(),
        (prefix, end) => [&prefix[..end.map_or(0, |end| end + 1)], b"/"].concat(),
    }
}

/// A file with what its key holds now.
async fn present(
    client: &Client,
    key: Bytes,
    path: PathBuf,
) -> Result<(Bytes, PathBuf, Option<KeyValue>), Diagnostic> {
    let old = client.get_key(key.clone()).await?;
    Ok((key, path, old))
}

#[derive(Default)]
struct Tally {
    written: usize,
    unchanged: usize,
    revision: i64,
}

#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    bytes: usize,
}

impl Batch {
    fn fits(&self, write: &Write) -> bool {
        let bytes = self.bytes + write.key.len() + write.value.len();
        self.writes.is_empty() || (self.writes.len() < BATCH_OPS && bytes <= BATCH_BYTES)
    }

    fn push(&mut self, write: Write) {
        self.bytes += write.key.len() + write.value.len();
        self.writes.push(write);
        assert!(self.writes.len() <= BATCH_OPS, "`fits` was asked before");
    }

    /// Writes the batch and empties it; returns the revision.
    async fn send(&mut self, client: &Client) -> Result<i64, Diagnostic> {
        let mut txn = Txn::new();
        for write in self.writes.drain(..) {
            let key = Keys::One(write.key.clone());
            txn = txn
                .when(Compare::mod_revision(key, Is::Equal, write.replaces))
                .then(Op::Put(Put::new(write.key, write.value)));
        }
        self.bytes = 0;
        let reply = client.txn(txn).await?;
        if !reply.succeeded {
            return Err(
                Diagnostic::refused("a key was changed by somebody during the import")
                    .hint("run it again: what is imported already is not written again"),
            );
        }
        Ok(reply.revision)
    }
}

fn print_plan(context: &Context, planned: &[(Bytes, usize, i64)]) -> Outcome {
    let change = |replaces: i64| if replaces == 0 { "add" } else { "change" };
    context.print(
        || {
            let mut table = Table::new(["CHANGE", "BYTES", "KEY"]);
            for (key, bytes, replaces) in planned {
                table.row([change(*replaces).to_owned(), bytes.to_string(), cell(key)]);
            }
            table
        },
        || {
            let changes = planned.iter().map(|(key, bytes, replaces)| {
                let mut map = crate::render::json_key(key);
                map.insert("change".into(), change(*replaces).into());
                map.insert("bytes".into(), (*bytes).into());
                Value::Object(map)
            });
            json!({ "changes": changes.collect::<Vec<_>>() })
        },
    )?;
    context.printer.note("nothing was written");
    Ok(Exit::Done)
}

fn print_tally(context: &Context, tally: &Tally, skipped: usize) -> Outcome {
    let revision = match tally.written {
        0 => None,
        _ => Some(tally.revision),
    };
    context.print(
        || {
            let mut table = Table::new(["WRITTEN", "UNCHANGED", "SKIPPED", "REVISION"]);
            table.row([
                tally.written.to_string(),
                tally.unchanged.to_string(),
                skipped.to_string(),
                revision.map_or("-".into(), |revision| revision.to_string()),
            ]);
            table
        },
        || {
            json!({
                "written": tally.written,
                "unchanged": tally.unchanged,
                "skipped": skipped,
                "revision": revision,
            })
        },
    )?;
    Ok(Exit::Done)
}

const _: () = assert!(
    FILE_BYTES_MAX <= BATCH_BYTES as u64,
    "a file fits into a batch"
);
