//! `cfgctl zone apply` and `rollback`: a zone becomes another, in one commit.

use super::plan::{Edit, Plan, batches, plan, settle_serial};
use super::stored::Stored;
use crate::Outcome;
use crate::args::ZoneApplyArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::placed::foretell;
use crate::render::{Table, cell, count};
use bytes::Bytes;
use cfgdns_zone::{
    Change, FILE_BYTES_MAX, Loaded, Name, Report, Rtype, Source, Zone, diff, load, parse,
};
use cfgsvc_client::{Client, Compare, Delete, Get, Is, Keys, Op, Put, Txn, TxnReply, Write};
use cfgsvc_core::zones::{Settings, ZoneName, keys};
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use std::io::Read;
use std::path::Path;

/// Transactions of a generation that are under way at once.
const BATCHES: usize = 8;
/// Keys that are deleted in one commit: a few milliseconds for every member.
const CLEARED: i64 = 1_000;

pub(crate) async fn run(context: &Context, args: ZoneApplyArgs) -> Outcome {
    let text = read(&args.file)?;
    let file = args.file.display().to_string();
    let zone = match args.zone {
        Some(zone) => zone,
        None => zone_of(&file, &text)?,
    };
    let source = Source {
        file: &file,
        text: &text,
        origin: zone.name(),
    };
    let Loaded {
        zone: new,
        warnings,
    } = load(&source).map_err(|report| invalid(&report))?;
    if !warnings.is_empty() {
        context.printer.note(&format!("warning: {warnings}"));
    }
    let client = context.client_because(format!("apply {file}"))?;
    let stored = Stored::read(&client, &zone, 0).await?;
    change(context, &client, &stored, new, args.dry_run).await
}

pub(crate) async fn rollback(
    context: &Context,
    zone: &ZoneName,
    to: i64,
    dry_run: bool,
) -> Outcome {
    let client = context.client_because(format!("roll zone {zone} back to revision {to}"))?;
    let past = Stored::read(&client, zone, to).await?;
    past.in_force()?;
    let stored = Stored::read(&client, zone, 0).await?;
    change(context, &client, &stored, past.zone, dry_run).await
}

fn read(file: &Path) -> Result<Vec<u8>, Diagnostic> {
    let wrong = |error: std::io::Error| {
        Diagnostic::refused(format!("cannot read {}", file.display())).because(error)
    };
    let mut text = Vec::new();
    // One byte more shows that there is more.
    let limit = FILE_BYTES_MAX as u64 + 1;
    if file == Path::new("-") {
        let read = std::io::stdin().lock().take(limit).read_to_end(&mut text);
        read.map_err(wrong)?;
    } else {
        let open = std::fs::File::open(file).map_err(wrong)?;
        open.take(limit).read_to_end(&mut text).map_err(wrong)?;
    }
    Ok(text)
}

fn invalid(report: &Report) -> Diagnostic {
    Diagnostic::refused(report.to_string())
        .hint("nothing was written; correct the file and apply it again")
}

/// The zone that a file is of: where its start of authority is.
fn zone_of(file: &str, text: &[u8]) -> Result<ZoneName, Diagnostic> {
    let root = Name::root();
    let source = Source {
        file,
        text,
        origin: &root,
    };
    let found = parse(&source).map_err(|report| invalid(&report))?;
    let mut with_soa = found.zone.nodes().filter(|(_, node)| node.has(Rtype::SOA));
    match (with_soa.next(), with_soa.next()) {
        (Some((name, _)), None) if !name.is_root() => Ok(ZoneName::new(name)),
        _ => Err(
            Diagnostic::usage(format!("{file} does not say which zone it is"))
                .hint("name it with `--zone NAME`, or begin the file with $ORIGIN"),
        ),
    }
}

/// Makes what is stored `new`.
async fn change(
    context: &Context,
    client: &Client,
    stored: &Stored,
    mut new: Zone,
    dry_run: bool,
) -> Outcome {
    settle_serial(stored, &mut new);
    let changes = diff(&stored.zone, &new);
    let plan = plan(stored, &new);
    if dry_run && plan != Plan::Nothing {
        print(context, stored, &changes, None)?;
    }
    let revision = match plan {
        Plan::Nothing => {
            context.printer.note(&format!(
                "zone {} is so already (serial {}): nothing was written",
                stored.name, stored.serial
            ));
            return Ok(Exit::Done);
        }
        Plan::Edits(edits) => {
            let txn = transaction(stored, edits);
            if dry_run {
                return foretell(context, client, &Write::Txn(txn)).await;
            }
            commit(client, stored, txn).await?
        }
        Plan::Generation(edits) => {
            if dry_run {
                let names = count(edits.len() as i128, "name");
                context.printer.note(&format!(
                    "{names} would be written anew, and nothing was written"
                ));
                return Ok(Exit::Done);
            }
            generation(context, client, stored, edits).await?
        }
    };
    print(context, stored, &changes, Some(revision))?;
    Ok(Exit::Done)
}

/// Nobody else has changed the zone since it was read.
pub(crate) fn unchanged(stored: &Stored) -> Txn {
    let zone = &stored.name;
    let (settings, serial) = stored.versions;
    Txn::new()
        .when(Compare::mod_revision(
            Keys::One(keys::zone(zone)),
            Is::Equal,
            settings,
        ))
        .when(Compare::mod_revision(
            Keys::One(keys::serial(zone)),
            Is::Equal,
            serial,
        ))
}

fn operation(zone: &ZoneName, generation: u64, edit: Edit) -> Op {
    let key = keys::node(zone, generation, &edit.name);
    match edit.value {
        Some(value) => Op::Put(Put::new(key, value)),
        None => Op::Delete(Delete::new(Keys::One(key))),
    }
}

fn into_force(zone: &ZoneName, generation: u64) -> Op {
    let settings = Settings { generation };
    let value = serde_json::to_vec(&settings).expect("a number is JSON");
    Op::Put(Put::new(keys::zone(zone), value))
}

/// All edits at once, in the generation that is in force, or in the first one.
fn transaction(stored: &Stored, edits: Vec<Edit>) -> Txn {
    let zone = &stored.name;
    let first = u64::try_from(stored.revision).unwrap_or_default();
    let generation = stored
        .settings
        .as_ref()
        .map_or(first, |settings| settings.generation);
    let mut txn = unchanged(stored);
    for edit in edits {
        txn = txn.then(operation(zone, generation, edit));
    }
    if stored.settings.is_none() {
        txn = txn.then(into_force(zone, generation));
    }
    txn
}

async fn commit(client: &Client, stored: &Stored, txn: Txn) -> Result<i64, Diagnostic> {
    let reply = client.txn(txn).await?;
    if reply.succeeded {
        return Ok(reply.revision);
    }
    Err(changed_meanwhile(stored))
}

pub(crate) fn changed_meanwhile(stored: &Stored) -> Diagnostic {
    Diagnostic::refused(format!(
        "zone {} was changed, or is being changed, since it was read at revision {}: nothing was \
         done",
        stored.name, stored.revision
    ))
    .hint("run it again, with --dry-run to see what differs now")
}

/// Writes all names into a generation that nobody reads, and then has that come into force.
async fn generation(
    context: &Context,
    client: &Client,
    stored: &Stored,
    edits: Vec<Edit>,
) -> Result<i64, Diagnostic> {
    let zone = &stored.name;
    // No generation before can have this number: it is that of a revision.
    let number = u64::try_from(stored.revision).unwrap_or_default();
    let apex = keys::node(zone, number, zone.name());
    let total = edits.len();
    let mut all = batches(zone, edits).into_iter();
    let put = |txn: Txn, batch: Vec<Edit>| {
        let each = batch.into_iter();
        each.fold(txn, |txn, edit| txn.then(operation(zone, number, edit)))
    };
    // The apex is the first name, and whoever writes it has the generation.
    let first = all.next().unwrap_or_default();
    let mut done = first.len();
    let claim = Txn::new().when(Compare::missing(apex.clone()));
    commit(client, stored, put(claim, first)).await?;
    let mut writes = stream::iter(all.map(|batch| {
        let (names, txn) = (batch.len(), put(Txn::new(), batch));
        async move { client.txn(txn).await.map(|_: TxnReply| names) }
    }))
    .buffer_unordered(BATCHES);
    while let Some(written) = writes.next().await {
        done += written?;
        context
            .printer
            .progress(&format!("{done} of {total} names"));
    }
    drop(writes);
    context.printer.progress("");
    let flip = unchanged(stored)
        .when(Compare::version(Keys::One(apex), Is::Equal, 1))
        .then(into_force(zone, number));
    let revision = match commit(client, stored, flip).await {
        Ok(revision) => revision,
        Err(why) => {
            clear(context, client, keys::nodes(zone, number)).await?;
            return Err(why);
        }
    };
    older(context, client, zone, number).await?;
    Ok(revision)
}

/// Deletes the generations before `number`.
pub(crate) async fn older(
    context: &Context,
    client: &Client,
    zone: &ZoneName,
    number: u64,
) -> Result<(), Diagnostic> {
    let (mut from, to) = keys::generations(zone);
    loop {
        let get = Get::new(Keys::Range(from.clone(), to.clone()))
            .keys_only()
            .limit(1);
        let Some(first) = client.get(get).await?.kvs.into_iter().next() else {
            return Ok(());
        };
        let begin = keys::generations(zone).0.len();
        let rest = String::from_utf8_lossy(first.key.get(begin..).unwrap_or_default());
        let found = rest
            .split('/')
            .next()
            .and_then(|text| text.parse::<u64>().ok());
        let Some(found) = found else {
            return Ok(());
        };
        let range = keys::nodes(zone, found);
        from = range.1.clone();
        if found < number {
            clear(context, client, range).await?;
        }
    }
}

/// Deletes a range in small commits, so that nobody waits for it.
async fn clear(
    context: &Context,
    client: &Client,
    (mut from, to): (Bytes, Bytes),
) -> Result<(), Diagnostic> {
    let mut gone = 0;
    loop {
        let get = Get::new(Keys::Range(from.clone(), to.clone()))
            .keys_only()
            .limit(CLEARED);
        let found = client.get(get).await?.kvs;
        let Some(last) = found.last() else {
            context.printer.progress("");
            return Ok(());
        };
        let end: Bytes = [&last.key[..], b"\0"].concat().into();
        let reply = client
            .delete(Delete::new(Keys::Range(from, end.clone())))
            .await?;
        gone += reply.deleted;
        context
            .printer
            .progress(&format!("{gone} old names deleted"));
        from = end;
    }
}

/// What differs, record by record; `revision`: it was written.
fn print(
    context: &Context,
    stored: &Stored,
    changes: &[Change],
    revision: Option<i64>,
) -> Result<(), Diagnostic> {
    let records = || {
        changes.iter().flat_map(|change| {
            let gone = change
                .removed
                .iter()
                .map(move |record| ("-", change, record));
            let new = change.added.iter().map(move |record| ("+", change, record));
            gone.chain(new)
        })
    };
    let renamed = || {
        let each = changes.iter();
        each.filter_map(|change| Some((&change.name, change.renamed.as_ref()?)))
    };
    let origin = stored.name.name();
    context.print(
        || {
            let mut table = Table::new(["CHANGE", "NAME", "TTL", "TYPE", "DATA"]);
            for (name, to) in renamed() {
                let to = format!("is written {}", to.relative_text(origin));
                let [same, ttl, rtype] = ["~", "-", "-"].map(str::to_owned);
                table.row([same, name.relative_text(origin), ttl, rtype, to]);
            }
            for (sign, change, record) in records() {
                table.row([
                    sign.to_owned(),
                    change.name.relative_text(origin),
                    record.ttl.to_string(),
                    record.rtype.to_string(),
                    cell(record.data.text(record.rtype, Some(origin)).as_bytes()),
                ]);
            }
            table
        },
        || {
            let records = records().map(|(sign, change, record)| {
                json!({
                    "change": if sign == "-" { "remove" } else { "add" },
                    "name": change.name.to_string(),
                    "ttl": record.ttl,
                    "type": record.rtype.to_string(),
                    "data": record.data.text(record.rtype, None),
                })
            });
            let renamed = renamed().map(|(name, to)| {
                json!({ "change": "rename", "name": name.to_string(), "to": to.to_string() })
            });
            json!({
                "zone": stored.name.to_string(),
                "changes": renamed.chain(records).collect::<Vec<_>>(),
                "revision": revision,
            })
        },
    )?;
    if let Some(revision) = revision {
        let records = count(records().count() as i128, "record");
        let zone = &stored.name;
        let note = format!("zone {zone}: {records} changed, at revision {revision}");
        context.printer.note(&note);
    }
    Ok(())
}
