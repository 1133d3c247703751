//! `cfgctl colo` and `cfgctl host`.

use super::role;
use crate::Outcome;
use crate::args::{ColoCommand, HostCommand};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::placed::{delete, read, read_all, write};
use crate::render::Table;
use cfgsvc_client::MoveTo;
use cfgsvc_core::placement::{Attending, Colo, Host, keys};
use serde_json::json;

pub(crate) async fn run(context: &Context, command: ColoCommand) -> Outcome {
    let client = context.client()?;
    match command {
        ColoCommand::List => list(context).await,
        ColoCommand::Add {
            name,
            addresses,
            dry_run,
        } => {
            let key = keys::colo(&name);
            let before = read::<Colo>(&client, &key).await?;
            let mut colo = before
                .as_ref()
                .map_or_else(Colo::default, |at| at.object.clone());
            colo.addresses = addresses;
            let before = before.as_ref().map(|stored| &stored.kv);
            write(context, &client, (key, before), &colo, dry_run).await
        }
        ColoCommand::Drain {
            name,
            undo,
            dry_run,
        } => {
            let key = keys::colo(&name);
            let stored = read::<Colo>(&client, &key).await?.ok_or_else(|| {
                Diagnostic::refused(format!("there is no colo `{name}`"))
                    .hint("`cfgctl colo list` prints those that there are")
            })?;
            let mut colo = stored.object;
            colo.drained = !undo;
            write(context, &client, (key, Some(&stored.kv)), &colo, dry_run).await
        }
        ColoCommand::Delete { name, dry_run } => {
            let what = format!("colo `{name}`");
            delete(context, &client, (keys::colo(&name), &what), dry_run).await
        }
        ColoCommand::Activate { name, role, how } => {
            let to = MoveTo {
                role: role.into(),
                to: name.into(),
                epoch: how.epoch,
                accept_loss: how.accept_loss,
            };
            role::go(context, &client, &to, &how).await
        }
    }
}

async fn list(context: &Context) -> Outcome {
    let client = context.client()?;
    let colos: Vec<(String, Colo)> = read_all(&client, "/cfgsvc/colos/").await?;
    let hosts: Vec<(String, Host)> = read_all(&client, "/cfgsvc/hosts/").await?;
    let count = |name: &str| {
        let of_colo = hosts.iter().filter(|(_, host)| host.colo.as_str() == name);
        of_colo.count()
    };
    let table = || {
        let mut table = Table::new(["COLO", "HOSTS", "STATE", "ADDRESSES"]);
        for (name, colo) in &colos {
            let state = if colo.drained { "drained" } else { "open" };
            table.row([
                name.clone(),
                count(name).to_string(),
                state.to_owned(),
                colo.addresses.join(" "),
            ]);
        }
        table
    };
    context.print(table, || {
        let colos = colos.iter().map(|(name, colo)| {
            json!({
                "name": name,
                "hosts": count(name),
                "drained": colo.drained,
                "addresses": colo.addresses,
            })
        });
        json!({ "colos": colos.collect::<Vec<_>>() })
    })?;
    Ok(Exit::Done)
}

pub(crate) async fn run_host(context: &Context, command: HostCommand) -> Outcome {
    let client = context.client()?;
    if let HostCommand::Delete { name, dry_run } = command {
        let what = format!("host `{name}`");
        return delete(context, &client, (keys::host(&name), &what), dry_run).await;
    }
    let hosts: Vec<(String, Host)> = read_all(&client, "/cfgsvc/hosts/").await?;
    let attending: Vec<(String, Attending)> = read_all(&client, "/cfgsvc/attending/").await?;
    let roles = |host: &str| -> Vec<String> {
        let of_host = attending.iter().filter_map(|(name, there)| {
            let (role, name) = name.rsplit_once('/')?;
            let star = if there.serving == 0 { "" } else { "*" };
            // A lock has clients of any name.
            let attends = name == host && !role.starts_with("locks/");
            attends.then(|| format!("{role}{star}"))
        });
        of_host.collect()
    };
    let table = || {
        let mut table = Table::new(["HOST", "COLO", "ATTENDS (* SERVES)", "ADDRESSES"]);
        for (name, host) in &hosts {
            let roles = roles(name);
            let roles = if roles.is_empty() {
                "-".to_owned()
            } else {
                roles.join(" ")
            };
            table.row([
                name.clone(),
                host.colo.to_string(),
                roles,
                host.addresses.join(" "),
            ]);
        }
        table
    };
    context.print(table, || {
        let hosts = hosts.iter().map(|(name, host)| {
            json!({
                "name": name,
                "colo": host.colo,
                "attends": roles(name),
                "addresses": host.addresses,
            })
        });
        json!({ "hosts": hosts.collect::<Vec<_>>() })
    })?;
    Ok(Exit::Done)
}
