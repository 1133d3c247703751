//! What a holder says while it serves: which hosts have all that it has acknowledged, and where its
//! data is.
//!
//! Why the group must know: a holder that waits for another host before it acknowledges a write can
//! be followed by that host without loss, and by no other. When the other is away, the holder says
//! so here first and acknowledges alone only then, so that the group does not follow it by a host
//! that lacks writes (as Patroni does with its `/sync` key; in words of the design's reference,
//! coordination 5.1, the durability quorum is revoked).
//!
//! Invariant: a host is in sync only with the life of its store in which it was named.

use std::collections::BTreeMap;
use std::io;

use cfgsvc_proto::state::{Refusal, Sync};
use cluster_core::store::View;

use super::grant::{Attending, Grant};
use super::name::{Name, RoleName};
use super::steps::{Outcome, TEXT_BYTES_MAX, answer, name, new_step};
use super::turn::Turn;
use crate::machine::LeaseChange;
use crate::refusal::{Code, refuse};
use crate::writer::RevisionWriter;

/// Takes note of what a holder says.
pub(super) fn sync(
    writer: &mut RevisionWriter<'_, '_>,
    role: &RoleName,
    request: &Sync,
    leases: &mut Vec<LeaseChange>,
) -> Outcome {
    let by = (request.host.as_str(), request.lease, request.attempt);
    let (mut turn, host) = match new_step(writer.state, role, by)? {
        Ok(found) => found,
        Err(answer) => return Ok(answer),
    };
    let (epoch, asked) = (turn.grant.epoch, request.epoch);
    let serves = turn.there(writer.state, &host)?;
    if asked != epoch || serves.is_none_or(|there| there.now.serving != epoch) {
        let detail =
            format!("'{host}' does not serve role '{role}' at epoch {asked}: it is {epoch}");
        return Ok(Err(refuse(Code::NotHolder, detail)));
    }
    let wrong = |detail| Ok(Err(refuse(Code::InvalidObject, detail)));
    if !request.position.is_empty()
        && (request.position.len() > TEXT_BYTES_MAX
            || !turn.spec.data.is_position(&request.position))
    {
        let form = turn.spec.data.form();
        return wrong(format!("role '{role}': the position is not {form}"));
    }
    if !turn.spec.sync && !request.synced.is_empty() {
        return wrong(format!(
            "role '{role}' is not synchronous: nobody is in sync (cfgctl role create {role} --sync)"
        ));
    }
    let synced = match in_sync(writer.state, &mut turn, &host, request)? {
        Ok(synced) => synced,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let spec = turn.spec.clone();
    turn.grant.tells(&spec, synced, &request.position);
    let grant = turn.finish(writer, leases)?;
    Ok(Ok(answer(&grant)))
}

/// The hosts that a holder names, with the life of the store of each.
fn in_sync(
    view: &dyn View,
    turn: &mut Turn,
    holder: &Name,
    request: &Sync,
) -> io::Result<Result<BTreeMap<Name, String>, Refusal>> {
    let mut synced = BTreeMap::new();
    let began = turn.grant.clone();
    for text in &request.synced {
        let host = match name(text) {
            Ok(host) => host,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let before = turn.grant.synced.get(&host).cloned();
        let life = match (before, turn.there(view, &host)?) {
            (Some(life), _) => life,
            (None, Some(there)) if host != *holder => {
                if there.now.since > request.revision {
                    let detail = format!(
                        "'{host}' opened its store anew after '{holder}' looked if it is in sync"
                    );
                    return Ok(Err(refuse(Code::NotAvailable, detail)));
                }
                begins_with(&mut there.now, &began);
                there.now.life.clone()
            }
            (None, _) => {
                let role = &turn.role;
                let detail = format!(
                    "'{host}' cannot be in sync with '{holder}': it does not attend role '{role}'"
                );
                return Ok(Err(refuse(Code::NotAvailable, detail)));
            }
        };
        synced.insert(host, life);
    }
    Ok(Ok(synced))
}

/// A host that came with an empty store, and is in sync now, has what the epoch began with.
fn begins_with(there: &mut Attending, grant: &Grant) {
    let began = grant.starts.back().filter(|_| !there.has_data);
    if let Some(began) = began {
        there.has_data = true;
        there.epoch = grant.epoch;
        there.identity.clone_from(&grant.identity);
        there.position.clone_from(&began.position);
    }
}
