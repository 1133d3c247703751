//! `cfgctl failover`: what the group decides by votes, and the same decision by a person.

use super::role::{go, grant_of, one, spec_of};
use super::votes;
use crate::Outcome;
use crate::args::FailoverArgs;
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use crate::placed::{read, read_all, write};
use bytes::Bytes;
use cfgsvc_client::{CallError, Client, MoveTo, Write};
use cfgsvc_core::placement::objects::Kind;
use cfgsvc_core::placement::{Colo, Name, RoleName, Spec, keys};
use cfgsvc_core::votes::Settings;
use std::time::Duration;

pub(crate) async fn run(context: &Context, args: FailoverArgs) -> Outcome {
    let client = context.client()?;
    if let Some(role) = &args.role {
        return now(context, &client, role, &args).await;
    }
    let says = args.pause || args.resume || args.hold_down.is_some() || args.interval.is_some();
    if says {
        return settings(context, &client, &args).await;
    }
    votes::print_decisions(context, &client).await
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn settings(context: &Context, client: &Client, args: &FailoverArgs) -> Outcome {
    let key = Bytes::from_static(keys::FAILOVER);
    let before = read::<Settings>(client, &key).await?;
    let mut settings = before
        .as_ref()
        .map_or_else(Settings::default, |stored| stored.object.clone());
    settings.paused = (settings.paused || args.pause) && !args.resume;
    settings.hold_down_ms = args.hold_down.map_or(settings.hold_down_ms, ms);
    settings.interval_ms = args.interval.map_or(settings.interval_ms, ms);
    let before = before.as_ref().map(|stored| &stored.kv);
    write(context, client, (key, before), &settings, args.how.dry_run).await
}

/// Has a role go to the first of its candidates that the group lets have it.
async fn now(context: &Context, client: &Client, role: &RoleName, args: &FailoverArgs) -> Outcome {
    let state = one(client, role).await?;
    let (spec, grant) = (spec_of(&state)?, grant_of(&state)?);
    let epoch = if args.how.epoch == 0 {
        grant.epoch
    } else {
        args.how.epoch
    };
    let candidates: Vec<Name> = match spec.kind {
        _ if !spec.candidates.is_empty() => spec.candidates.clone(),
        Kind::Colo => {
            let colos: Vec<(String, Colo)> = read_all(client, "/cfgsvc/colos/").await?;
            let open = colos.into_iter().filter(|(_, colo)| !colo.drained);
            open.filter_map(|(name, _)| name.parse().ok()).collect()
        }
        Kind::Host | Kind::Lock => {
            let there = state.attending.iter();
            there.filter_map(|there| there.host.parse().ok()).collect()
        }
    };
    let within = followed(client, &spec).await?;
    let mut refused = Vec::new();
    for to in candidates
        .iter()
        .filter(|one| Some(*one) != grant.holder.as_ref())
    {
        if let Some((followed, colo)) = &within
            && !state
                .attending
                .iter()
                .any(|there| there.host == to.as_str() && there.colo == *colo)
        {
            refused.push(format!(
                "`{to}` is not in `{colo}`, which holds `{followed}`, and `{role}` follows that"
            ));
            continue;
        }
        let to = MoveTo {
            role: role.to_string(),
            to: to.to_string(),
            epoch,
            accept_loss: args.how.accept_loss,
        };
        match client.plan(&Write::Move(to.clone())).await {
            Ok(_) => return go(context, client, &to, &args.how).await,
            Err(CallError::Refused { message, .. }) => {
                refused.push(format!("`{}`: {message}", to.to));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let none = Diagnostic::refused(format!("no candidate of role `{role}` may take it"));
    Err(if refused.is_empty() {
        none.hint(format!(
            "nobody but its holder is there: `cfgctl role show {role}`"
        ))
    } else {
        none.hint(refused.join("; "))
    })
}

/// The role that this one follows, and the colo that holds it: the group gives it nowhere else.
async fn followed(client: &Client, spec: &Spec) -> Result<Option<(RoleName, String)>, Diagnostic> {
    let Some(followed) = &spec.follows else {
        return Ok(None);
    };
    let holder = grant_of(&one(client, followed).await?)?.holder;
    Ok(Some((
        followed.clone(),
        holder.map(String::from).unwrap_or_default(),
    )))
}
