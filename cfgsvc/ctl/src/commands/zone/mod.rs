//! `cfgctl zone`: DNS zones as master files, in and out.

mod apply;
mod follow;
mod key;
mod plan;
mod roll;
mod stored;

use crate::Outcome;
use crate::args::ZoneCommand;
use crate::confirm::consent;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::placed::read_all;
use crate::render::{Table, time};
use cfgdns_zone::print;
use cfgsvc_client::{Delete, Keys, Op};
use cfgsvc_core::zones::{Moved, Settings, ZoneName, ZoneSerial, keys, on_wire};
use serde_json::json;
use std::collections::BTreeMap;
use stored::Stored;

pub(crate) async fn run(context: &Context, command: ZoneCommand) -> Outcome {
    match command {
        ZoneCommand::Apply(args) => apply::run(context, args).await,
        ZoneCommand::List => list(context).await,
        ZoneCommand::Show { zone, rev } => show(context, &zone, rev.unwrap_or(0)).await,
        ZoneCommand::History { zone, limit } => history(context, &zone, limit).await,
        ZoneCommand::Rollback { zone, to, dry_run } => {
            apply::rollback(context, &zone, to, dry_run).await
        }
        ZoneCommand::Delete { zone, yes } => delete(context, &zone, yes).await,
        ZoneCommand::Follow(args) => follow::run(context, args).await,
        ZoneCommand::Key(command) => key::run(context, command).await,
        ZoneCommand::Unfollow { what, dry_run } => follow::end(context, what, dry_run).await,
    }
}

async fn list(context: &Context) -> Outcome {
    let client = context.client()?;
    let zones: Vec<(String, Settings)> = read_all(&client, "/cfgsvc/zones/").await?;
    let serials: Vec<(String, ZoneSerial)> = read_all(&client, "/cfgsvc/serials/").await?;
    let serials: BTreeMap<String, ZoneSerial> = serials.into_iter().collect();
    let moved: Vec<(String, Moved)> = read_all(&client, "/cfgsvc/moved/").await?;
    let moved: BTreeMap<String, u64> = moved
        .into_iter()
        .map(|(role, moved)| (role, moved.count))
        .collect();
    let serial = |zone: &str| {
        let counted = serials.get(zone).cloned().unwrap_or_default();
        on_wire(counted.now(|role| moved.get(role.as_str()).copied().unwrap_or_default()))
    };
    let follows = |zone: &str| {
        let roles = serials.get(zone).map(|serial| &serial.roles);
        let roles = roles.into_iter().flat_map(BTreeMap::keys);
        roles.map(ToString::to_string).collect::<Vec<_>>()
    };
    let table = || {
        let mut table = Table::new(["ZONE", "SERIAL", "FOLLOWS"]);
        for (zone, _) in &zones {
            let follows = follows(zone).join(" ");
            let follows = if follows.is_empty() {
                "-".to_owned()
            } else {
                follows
            };
            table.row([zone.clone(), serial(zone).to_string(), follows]);
        }
        table
    };
    context.print(table, || {
        let zones = zones.iter().map(
            |(zone, _)| json!({ "zone": zone, "serial": serial(zone), "follows": follows(zone) }),
        );
        json!({ "zones": zones.collect::<Vec<_>>() })
    })?;
    Ok(Exit::Done)
}

async fn show(context: &Context, zone: &ZoneName, rev: i64) -> Outcome {
    let client = context.client()?;
    let stored = Stored::read(&client, zone, rev).await?;
    stored.in_force()?;
    let text = || {
        let follows = stored.follows.iter().map(|(name, rtype, follow)| {
            let name = name.relative_text(zone.name());
            let (ttl, role) = (follow.ttl, &follow.role);
            // A comment: cfgctl zone apply leaves such names as they are.
            format!("; {name} {ttl} {rtype} follows role {role}\n")
        });
        let follows: String = follows.collect();
        print(&stored.with_serial()) + &follows
    };
    context.print_text(text, || {
        let follows = stored.follows.iter().map(|(name, rtype, follow)| {
            json!({
                "name": name.to_string(),
                "type": rtype.to_string(),
                "role": follow.role,
                "ttl": follow.ttl,
            })
        });
        json!({
            "zone": zone.to_string(),
            "revision": stored.revision,
            "serial": stored.serial,
            "master_file": print(&stored.with_serial()),
            "follows": follows.collect::<Vec<_>>(),
        })
    })?;
    Ok(Exit::Done)
}

async fn history(context: &Context, zone: &ZoneName, limit: i64) -> Outcome {
    let client = context.client()?;
    let history = client.history(keys::serial(zone), limit, 0).await?;
    if history.entries.is_empty() {
        return Err(
            Diagnostic::refused(format!("zone `{zone}` was never there"))
                .hint("`cfgctl zone list` prints those that there are"),
        );
    }
    let entries: Vec<_> = history
        .entries
        .iter()
        .filter_map(|entry| {
            let (_, kv) = crate::past::change(entry)?;
            let serial: ZoneSerial = serde_json::from_slice(&kv.value).ok()?;
            Some((kv.mod_revision, entry, on_wire(serial.count)))
        })
        .collect();
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    let table = || {
        let mut table = Table::new(["REVISION", "TIME", "AUTHOR", "REASON", "SERIAL"]);
        for (revision, entry, serial) in &entries {
            let at = if entry.at_ms > 0 {
                time(entry.at_ms)
            } else {
                "-".to_owned()
            };
            table.row([
                revision.to_string(),
                at,
                or_dash(&entry.author),
                or_dash(&entry.reason),
                serial.to_string(),
            ]);
        }
        table
    };
    context.print(table, || {
        let entries = entries.iter().map(|(revision, entry, serial)| {
            json!({
                "revision": revision,
                "at_ms": entry.at_ms,
                "author": entry.author,
                "reason": entry.reason,
                "serial": serial,
            })
        });
        json!({ "zone": zone.to_string(), "changes": entries.collect::<Vec<_>>() })
    })?;
    Ok(Exit::Done)
}

async fn delete(context: &Context, zone: &ZoneName, yes: bool) -> Outcome {
    let client = context.client_because(format!("delete zone {zone}"))?;
    let stored = Stored::read(&client, zone, 0).await?;
    stored.in_force()?;
    let what = format!("this deletes zone {zone}: {}", stored.size());
    let _consent = consent(&context.printer, &what, yes)?;
    let (from, to) = keys::follows(zone);
    let txn = apply::unchanged(&stored)
        .then(Op::Delete(Delete::new(Keys::One(keys::signing(zone)))))
        .then(Op::Delete(Delete::new(Keys::One(keys::zone(zone)))))
        .then(Op::Delete(Delete::new(Keys::Range(from, to))));
    let reply = client.txn(txn).await?;
    if !reply.succeeded {
        return Err(apply::changed_meanwhile(&stored));
    }
    // The zone is gone by now; its names are what is left over. Who has applied it anew since has
    // written into a later generation.
    let number = u64::try_from(reply.revision).unwrap_or_default();
    apply::older(context, &client, zone, number).await?;
    context.printer.note(&format!(
        "deleted zone {zone} at revision {}",
        reply.revision
    ));
    Ok(Exit::Done)
}
