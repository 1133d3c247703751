//! Roles that follow a role of colos: what is waited for, and printed, after that has gone to
//! another colo.
//!
//! The group asks for all of them in the commit that moves the colo's. Those of which a person
//! decides stay where they are: that is said.

use super::role::{grant_of, spec_of};
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use cfgsvc_client::{Client, RoleState, WatchOptions};
use cfgsvc_core::placement::objects::Failover;
use cfgsvc_core::placement::{Grant, RoleName};
use std::time::Duration;

/// A role that follows, as it is.
enum Stand {
    /// It is served in that colo.
    There(Grant),
    /// It is not yet.
    Comes,
    /// It does not come along.
    Stays(String),
}

/// How a role stands that follows `followed`; nothing of one that does not, or that nobody has
/// begun, which nobody misses.
fn stand(role: &RoleState, followed: &str, colo: &str) -> Result<Option<Stand>, Diagnostic> {
    let (spec, grant) = (spec_of(role)?, grant_of(role)?);
    let follows = spec.follows.as_ref().map(RoleName::as_str) == Some(followed);
    if !follows || grant.starts.is_empty() {
        return Ok(None);
    }
    let holder = grant.holder.as_ref().map_or("", |holder| holder.as_str());
    let mut attending = role.attending.iter();
    let here = attending.any(|there| there.host == holder && there.colo == colo);
    let stays = spec.failover == Failover::Manual || spec.paused;
    Ok(Some(match () {
        () if here && grant.serving > 0 && !grant.closing() => Stand::There(grant),
        () if stays => Stand::Stays(if holder.is_empty() { "nobody" } else { holder }.to_owned()),
        () => Stand::Comes,
    }))
}

/// Waits until all roles that follow `followed` are served in `colo`, from the revision of the
/// move on; gives their names and who holds them. `waits` is for whom, at any moment.
pub(super) async fn arrived(
    context: &Context,
    client: &Client,
    (followed, colo, from): (&str, &str, i64),
    waits: &mut Vec<String>,
) -> Result<Vec<(String, Grant)>, Diagnostic> {
    // What comes after the move, and then what is so: nothing between the two is missed.
    let options = WatchOptions::prefix("/cfgsvc/grants/").from_revision(from + 1);
    let mut watch = client.watch(options).await?;
    let mut said = false;
    loop {
        let (mut there, mut stays) = (Vec::new(), Vec::new());
        waits.clear();
        for role in client.roles("").await? {
            match stand(&role, followed, colo)? {
                Some(Stand::There(grant)) => there.push((role.name, grant)),
                Some(Stand::Stays(holder)) => stays.push((role.name, holder)),
                Some(Stand::Comes) => waits.push(role.name),
                None => {}
            }
        }
        if !waits.is_empty() && !std::mem::replace(&mut said, true) {
            let names = waits.join("`, `");
            context
                .printer
                .note(&format!("waiting until `{names}` is served in `{colo}`"));
        }
        if waits.is_empty() {
            for (name, holder) in stays {
                context.printer.note(&format!(
                    "role `{name}` stays with `{holder}`: a person decides about it"
                ));
            }
            return Ok(there);
        }
        let ended = || Diagnostic::refused("the watch of the roles ended without a reason");
        watch.next().await.ok_or_else(ended)??;
    }
}

/// Those that have not come in time.
pub(super) fn not_arrived(waits: &[String], colo: &str, wait: Duration) -> Diagnostic {
    let wait = humantime::format_duration(wait);
    let names = waits.join("`, `");
    let first = waits.first().map_or("", String::as_str);
    Diagnostic::refused(format!(
        "colo `{colo}` has the role, and `{names}` is not served there within {wait}"
    ))
    .hint(format!(
        "it is still on its way: `cfgctl role show {first}` says what is missing"
    ))
}
