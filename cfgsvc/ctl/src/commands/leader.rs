//! `cfgctl leader`.

use super::member::find;
use super::status::{Report, reports};
use crate::Outcome;
use crate::args::LeaderCommand;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::placed::{print_plan, read, write};
use crate::render::Table;
use bytes::Bytes;
use cfgsvc_client::{AdminError, Client, Delete, Write};
use cfgsvc_core::placement::keys;
use cfgsvc_core::placement::objects::LeaderWish;
use serde_json::json;

pub(crate) async fn run(context: &Context, command: LeaderCommand) -> Outcome {
    let client = context.client()?;
    match command {
        LeaderCommand::Show => show(context, &client).await,
        LeaderCommand::Move { member } => transfer(context, &client, &member).await,
        LeaderCommand::Prefer {
            colo,
            role,
            none: _,
            dry_run,
        } => {
            let key = Bytes::from_static(keys::LEADER);
            let colo = colo.map(LeaderWish::Colo);
            let Some(wish) = role.map(LeaderWish::Role).or(colo) else {
                return no_wish(context, &client, key, dry_run).await;
            };
            let before = read::<LeaderWish>(&client, &key).await?;
            let before = before.as_ref().map(|stored| &stored.kv);
            write(context, &client, (key, before), &wish, dry_run).await
        }
    }
}

/// Where the group is led from is of no importance, also if it was of none before.
async fn no_wish(context: &Context, client: &Client, key: Bytes, dry_run: bool) -> Outcome {
    let delete = Delete::new(key);
    if dry_run {
        let planned = client.plan(&Write::Delete(delete)).await?;
        return print_plan(context, &planned);
    }
    client.delete(delete).await?;
    context.printer.note("the group is led from wherever it is");
    Ok(Exit::Done)
}

/// The member that leads in the highest term: an old leader may not know yet that it is none.
async fn leader(context: &Context, client: &Client) -> Result<Report, Diagnostic> {
    let mut reports = reports(context, client).await;
    if reports.iter().all(|report| report.status.is_err()) {
        // All errors say the same; the first endpoint's is as good as any.
        let error = reports.into_iter().find_map(|report| report.status.err());
        return Err(error.map_or_else(|| Diagnostic::refused("no member is known"), Into::into));
    }
    let known = reports.iter().filter_map(|one| one.status.as_ref().ok());
    let known = known.filter(|status| status.leader != 0);
    let named = known
        .max_by_key(|status| status.raft_term)
        .map(|status| status.leader);
    reports.retain(Report::leads);
    let term = |report: &Report| report.status.as_ref().map_or(0, |status| status.raft_term);
    reports
        .into_iter()
        .max_by_key(term)
        .ok_or_else(|| match named {
            Some(id) => {
                Diagnostic::refused(format!("member {id:x} is said to lead and cannot be asked"))
                    .hint(
                        "try again, it may have just ended; or name its address with `--endpoints`",
                    )
            }
            None => Diagnostic::refused("the group has no leader at this moment").hint(
                "a majority of the members must run and reach each other: see `cfgctl status`",
            ),
        })
}

async fn show(context: &Context, client: &Client) -> Outcome {
    let report = leader(context, client).await?;
    let status = report.status?;
    let id = format!("{:x}", status.leader);
    let name = report.name.unwrap_or_else(|| "-".into());
    let table = || {
        let mut table = Table::new(["ID", "NAME", "ENDPOINT", "TERM"]);
        let term = status.raft_term.to_string();
        table.row([id.clone(), name.clone(), report.endpoint.clone(), term]);
        table
    };
    context.print(table, || {
        json!({
            "id": id,
            "name": name,
            "endpoint": report.endpoint,
            "term": status.raft_term,
        })
    })?;
    Ok(Exit::Done)
}

async fn transfer(context: &Context, client: &Client, wanted: &str) -> Outcome {
    let target = find(client, wanted).await?;
    let report = leader(context, client).await?;
    if report
        .status
        .as_ref()
        .is_ok_and(|status| status.leader == target.id)
    {
        context
            .printer
            .note(&format!("`{}` leads already", target.name));
        return Ok(Exit::Done);
    }
    // Only the leader itself can hand over.
    match client.at(&report.endpoint)?.move_leader(target.id).await {
        Ok(()) => {}
        Err(error @ AdminError::NotLeader) => {
            return Err(Diagnostic::from(error).hint("the leader has just changed: try again"));
        }
        Err(error) => return Err(error.into()),
    }
    let table = || {
        let mut table = Table::new(["LEADER", "NAME"]);
        table.row([format!("{:x}", target.id), target.name.clone()]);
        table
    };
    context.print(
        table,
        || json!({ "leader": format!("{:x}", target.id), "name": target.name }),
    )?;
    Ok(Exit::Done)
}
