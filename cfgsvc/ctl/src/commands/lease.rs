//! `cfgctl lease`.

use super::whole_seconds;
use crate::Outcome;
use crate::args::{LeaseCommand, Output};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, cell, json_key};
use cfgsvc_client::{AtEnd, Client, LeaseLost, LeaseState};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) async fn run(context: &Context, command: LeaseCommand) -> Outcome {
    let client = context.client()?;
    match command {
        LeaseCommand::Grant { ttl } => grant(context, &client, ttl).await,
        LeaseCommand::Revoke { id } => revoke(context, &client, id).await,
        LeaseCommand::List => list(context, &client).await,
        LeaseCommand::Show { id } => show(context, &client, id).await,
        LeaseCommand::KeepAlive { id, once } => keep_alive(context, &client, id, once).await,
    }
}

async fn grant(context: &Context, client: &Client, ttl: Duration) -> Outcome {
    let grant = client.grant(whole_seconds(ttl)).await?;
    print_term(context, grant.lease, grant.ttl_s)?;
    Ok(Exit::Done)
}

fn print_term(context: &Context, lease: i64, ttl_s: i64) -> Result<(), Diagnostic> {
    let table = || {
        let mut table = Table::new(["LEASE", "TTL"]);
        table.row([format!("{lease:x}"), format!("{ttl_s}s")]);
        table
    };
    context.print(
        table,
        || json!({ "lease": format!("{lease:x}"), "ttl_s": ttl_s }),
    )
}

async fn revoke(context: &Context, client: &Client, id: i64) -> Outcome {
    client.revoke(id).await?;
    let table = || {
        let mut table = Table::new(["REVOKED"]);
        table.row([format!("{id:x}")]);
        table
    };
    context.print(table, || json!({ "revoked": format!("{id:x}") }))?;
    Ok(Exit::Done)
}

async fn list(context: &Context, client: &Client) -> Outcome {
    let leases = client.leases().await?;
    let ids: Vec<String> = leases.iter().map(|id| format!("{id:x}")).collect();
    let table = || {
        let mut table = Table::new(["LEASE"]);
        for id in &ids {
            table.row([id.clone()]);
        }
        table
    };
    context.print(table, || json!({ "leases": &ids }))?;
    Ok(Exit::Done)
}

async fn show(context: &Context, client: &Client, id: i64) -> Outcome {
    let info = client.lease_info(id, true).await?;
    let table = || {
        let mut table = Table::new(["LEASE", "LEFT", "TTL", "KEYS"]);
        let mut keys = info.keys.iter().map(|key| cell(key));
        let first = keys.next().unwrap_or_else(|| "-".into());
        let (left, ttl) = (format!("{}s", info.left_s), format!("{}s", info.granted_s));
        table.row([format!("{id:x}"), left, ttl, first]);
        for key in keys {
            table.row([String::new(), String::new(), String::new(), key]);
        }
        table
    };
    context.print(table, || {
        let keys = info.keys.iter().map(|key| Value::Object(json_key(key)));
        json!({
            "lease": format!("{id:x}"),
            "left_s": info.left_s,
            "ttl_s": info.granted_s,
            "keys": keys.collect::<Vec<_>>(),
        })
    })?;
    Ok(Exit::Done)
}

async fn keep_alive(context: &Context, client: &Client, id: i64, once: bool) -> Outcome {
    let grant = client.renew(id).await?;
    if once {
        print_term(context, id, grant.ttl_s)?;
        return Ok(Exit::Done);
    }
    let ttl = format!("{}s", grant.ttl_s);
    context
        .printer
        .note(&format!("renewing lease {id:x} of {ttl}, end with Ctrl-C"));
    // The lease was there before and stays: it is renewed, not owned.
    let keeper = client.keep_alive(&grant, AtEnd::Leave);
    let mut state = keeper.state();
    loop {
        tokio::select! {
            changed = state.changed() => {
                let now = state.borrow_and_update().clone();
                match now {
                    LeaseState::Lost(lost) => return Err(gone(id, lost)),
                    LeaseState::Held { .. } if changed.is_err() => {
                        return Err(gone(id, LeaseLost::Closed));
                    }
                    LeaseState::Held { .. } => renewed(context, id)?,
                }
            }
            // An error means that the signal cannot be waited for: Ctrl-C then ends the program.
            Ok(()) = tokio::signal::ctrl_c() => return Ok(Exit::Done),
        }
    }
}

fn renewed(context: &Context, id: i64) -> Result<(), Diagnostic> {
    match context.output {
        Output::Table => context.printer.line(&format!("{id:x} renewed")),
        Output::Json => {
            let line = json!({ "renewed": format!("{id:x}") });
            context.printer.line(&line.to_string())
        }
    }
}

fn gone(id: i64, lost: LeaseLost) -> Diagnostic {
    Diagnostic::refused(format!("lease {id:x} is lost")).because(lost)
}
