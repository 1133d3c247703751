//! A role goes to another because a person, or a policy, says so.
//!
//! A role of a colo takes along the roles that follow it: all of them are asked for in one commit,
//! and none is when one of them has nobody in that colo who could take it.

use std::io;

use cfgsvc_proto::state::{Move, Refusal};
use cluster_core::store::View;

use super::grant::{Taker, in_reach};
use super::keys;
use super::name::{Name, RoleName};
use super::objects::{Colo, Data, Failover, Kind};
use super::read::roles;
use super::steps::{Outcome, answer, name};
use super::turn::{Turn, load};
use super::verdict::{self, Fence, Verdict};
use crate::machine::LeaseChange;
use crate::refusal::{Code, refuse};
use crate::writer::RevisionWriter;

/// Gives a role to another, or takes it from who holds it.
pub(super) fn move_role(
    writer: &mut RevisionWriter<'_, '_>,
    role: &RoleName,
    request: &Move,
    leases: &mut Vec<LeaseChange>,
) -> Outcome {
    let mut turn = match Turn::load(writer.state, role)? {
        Ok(turn) => turn,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let epoch = turn.grant.epoch;
    if request.epoch != 0 && request.epoch != epoch {
        let detail = format!(
            "role '{role}' is at epoch {epoch}, asked for at epoch {}",
            request.epoch
        );
        return Ok(Err(refuse(Code::EpochChanged, detail)));
    }
    let to = match goal(writer.state, &mut turn, request)? {
        Ok(to) => to,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Some(to) = &to
        && let Some(there) = turn.there(writer.state, to)?
    {
        // A person knows better than it did.
        there.now.declines = false;
    }
    let of_colo = turn.spec.kind == Kind::Colo;
    turn.grant.wish(to.clone(), request.accept_loss);
    let grant = turn.finish(writer, leases)?;
    if let Some(colo) = to.filter(|_| of_colo)
        && let Err(refusal) = take_along(writer, (role, &colo), request.accept_loss, leases)?
    {
        return Ok(Err(refusal));
    }
    Ok(Ok(answer(&grant)))
}

/// Has the roles that follow `role` go to `colo` as well: those that the group decides about.
fn take_along(
    writer: &mut RevisionWriter<'_, '_>,
    (role, colo): (&RoleName, &Name),
    loses: bool,
    leases: &mut Vec<LeaseChange>,
) -> io::Result<Result<(), Refusal>> {
    for name in roles(writer.state)? {
        if name.is_lock() {
            // Its clients are in no colo.
            continue;
        }
        let Ok(mut turn) = Turn::load(writer.state, &name)? else {
            continue;
        };
        let automatic = turn.spec.failover == Failover::Auto && !turn.spec.paused;
        if turn.spec.follows.as_ref() != Some(role) || !automatic {
            continue;
        }
        // By what the commit has written so far, it is bound to the new colo.
        let to = match successor_in(writer.state, &mut turn, colo, loses)? {
            Ok(to) => to,
            Err(why) => {
                let detail = format!(
                    "role '{name}' follows '{role}', and {why}; give up what may be missing \
                     (--accept-loss), or let it follow no more (cfgctl role create {name} \
                     --follows none)"
                );
                return Ok(Err(refuse(Code::NotAvailable, detail)));
            }
        };
        if to.is_some() {
            turn.grant.wish(to, loses);
            turn.finish(writer, leases)?;
        }
    }
    Ok(Ok(()))
}

/// Who of a colo takes a role that comes along; `None` when it stays as it is.
fn successor_in(
    view: &dyn View,
    turn: &mut Turn,
    colo: &Name,
    loses: bool,
) -> io::Result<Result<Option<Name>, String>> {
    let available = turn.available(view)?;
    // A holder that stops in order says where its data ends, and the next one waits for that.
    let stops = turn.grant.serving > 0;
    let fits = |one: &&Taker| one.by_itself && (one.reaches || stops);
    let mut to = available.iter().find(fits).map(|one| one.name.clone());
    if to.is_none() && loses {
        for one in &available {
            let there = turn.there(view, &one.name)?;
            let here = there.is_some_and(|there| there.now.colo.as_ref() == Some(colo));
            if here && turn.spec.is_candidate(&one.name) {
                to = Some(one.name.clone());
                break;
            }
        }
    }
    let stays = stops && to == turn.grant.holder;
    Ok(match to {
        Some(_) if stays => Ok(None),
        Some(to) => Ok(Some(to)),
        // Nobody has held it, so it is not missed.
        None if turn.grant.epoch == 0 || turn.grant.starts.is_empty() || loses => Ok(None),
        None => Err(format!("no host of colo '{colo}' could take it now")),
    })
}

/// Whom the role is to go to.
fn goal(
    view: &dyn View,
    turn: &mut Turn,
    request: &Move,
) -> io::Result<Result<Option<Name>, Refusal>> {
    let to = request.to.as_str();
    let role = turn.role.clone();
    let automatic = turn.spec.failover == Failover::Auto && !turn.spec.paused;
    if to.is_empty() {
        if automatic && turn.spec.kind != Kind::Lock {
            let detail = format!(
                "role '{role}' is given by the group itself and would be again; pause it first \
                 (cfgctl role pause {role}), or switch it to another"
            );
            return Ok(Err(refuse(Code::NotAvailable, detail)));
        }
        return Ok(Ok(None));
    }
    let to = match name(to) {
        Ok(to) => to,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let none = |detail| Ok(Err(refuse(Code::NotAvailable, detail)));
    if !turn.spec.is_candidate(&to) {
        let detail = format!("'{to}' is no candidate of role '{role}'");
        return none(detail);
    }
    if turn.spec.kind == Kind::Colo {
        return match load::<Colo>(view, &keys::colo(&to))? {
            Ok(Some(_)) => Ok(Ok(Some(to))),
            Ok(None) => none(format!("colo '{to}' does not exist")),
            Err(refusal) => Ok(Err(refusal)),
        };
    }
    let Some(there) = turn.there(view, &to)?.map(|there| there.now.clone()) else {
        let detail = format!("'{to}' does not attend role '{role}': is its agent running?");
        return none(detail);
    };
    let fence = verdict::never(&turn.spec, &turn.grant, &there);
    if let Some(fence @ (Fence::OtherData { .. } | Fence::UnknownData)) = fence {
        return none(format!("'{to}' cannot take role '{role}': {fence}"));
    }
    let holds = turn.grant.holder.as_ref() == Some(&to);
    let goes_on = holds && (there.serving != 0 || turn.grant.restored);
    if turn.grant.serving == 0
        && !request.accept_loss
        && !in_reach(&turn.spec, &turn.grant, &to, &there)
    {
        return none(out_of_reach(turn, &to, &there.position));
    }
    let keeps = turn.spec.data != Data::None && !goes_on;
    if keeps && !request.accept_loss && !verdict::may_begin(&turn.spec, &turn.grant, &there) {
        let why = match verdict::verdict(Some((&turn.spec, &turn.grant)), &to, Some(&there)) {
            Verdict::Rebuild { why, .. } => why,
            Verdict::Fenced(fence) => fence.to_string(),
            Verdict::Standby { .. } | Verdict::Redirect { .. } | Verdict::Serve { .. } => {
                "it said no data when it came".to_owned()
            }
        };
        return none(format!(
            "'{to}' may lack what was written last: {why}. Let it get that first, or give it up \
             (--accept-loss)"
        ));
    }
    Ok(Ok(Some(to)))
}

/// Why the last holder, which was lost, may have written what `to` lacks.
pub(super) fn out_of_reach(turn: &Turn, to: &Name, position: &str) -> String {
    let grant = &turn.grant;
    let last = grant
        .starts
        .back()
        .map_or("nobody", |last| last.host.as_str());
    let synced: Vec<&str> = grant.synced.keys().map(Name::as_str).collect();
    let synced = if synced.is_empty() {
        "nobody was".to_owned()
    } else {
        format!("in sync were: {}", synced.join(", "))
    };
    let lag = match (turn.spec.max_lag, &grant.reached) {
        (Some(max), Some(reached)) => {
            format!("; '{last}' was at {reached}, '{to}' at {position}, max_lag is {max}")
        }
        _ => String::new(),
    };
    format!(
        "'{to}' may lack what '{last}' wrote last: it was not in sync with it ({synced}){lag}. \
         Bring '{last}' back, or give that up (--accept-loss)"
    )
}
