//! `cfgctl zone`: DNS zones as master files, in and out.

mod apply;
mod follow;
mod history;
mod key;
mod plan;
mod roll;
mod stored;

use crate::Outcome;
use crate::args::ZoneCommand;
use crate::confirm::consent;
use crate::context::Context;
use crate::diagnostics::Exit;
use crate::placed::read_all;
use crate::render::Table;
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
        ZoneCommand::History { zone, limit } => history::run(context, &zone, limit).await,
        ZoneCommand::Rollback { zone, to, dry_run } => {
            apply::rollback(context, &zone, to, dry_run).await
        }
        ZoneCommand::Delete { zone, yes, dry_run } => delete(context, &zone, (yes, dry_run)).await,
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
            // Comments: cfgctl zone apply leaves such names as they are.
            let command = follow::command(zone, &name, (*rtype, follow));
            format!("; {name} {ttl} {rtype} follows role {role}\n; {command}\n")
        });
        let follows: String = follows.collect();
        print(&stored.with_serial()) + &follows
    };
    let command = |name: &str, rtype, follow| follow::command(zone, name, (rtype, follow));
    context.print_text(text, || {
        let follows = stored.follows.iter().map(|(name, rtype, follow)| {
            json!({
                "name": name.to_string(),
                "type": rtype.to_string(),
                "role": follow.role,
                "ttl": follow.ttl,
                "names": follow.names,
                "port": follow.port,
                "weights": follow.weights,
                "command": command(&name.relative_text(zone.name()), *rtype, follow),
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

async fn delete(context: &Context, zone: &ZoneName, (yes, dry_run): (bool, bool)) -> Outcome {
    let client = context.client_because(format!("delete zone {zone}"))?;
    let stored = Stored::read(&client, zone, 0).await?;
    stored.in_force()?;
    let what = format!("this deletes zone {zone}: {}", stored.size());
    if dry_run {
        let follows = stored.follows.len();
        let and = match follows {
            0 => String::new(),
            1 => ", and a name that follows a role".to_owned(),
            _ => format!(", and {follows} names that follow roles"),
        };
        context.printer.note(&format!("{what}{and}"));
        context.printer.note("nothing was written");
        return Ok(Exit::Done);
    }
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
