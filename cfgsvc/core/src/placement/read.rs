//! What is known of roles, by the state of one commit.

use std::io;
use std::ops::ControlFlow;

use cluster_core::store::{Direction, View};

use super::grant::{Attending, Grant};
use super::keys;
use super::name::{Name, RoleName};
use super::objects::{Colo, Host, Kind, Spec};
use super::turn::{Turn, load};
use super::verdict::{Fence, Verdict, verdict};
use crate::machine::load_record;
use crate::tables;

/// A role and all who are there for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: RoleName,
    /// What an operator says of it.
    pub spec: Spec,
    /// Who holds it.
    pub grant: Grant,
    /// Who is there, with the id of their lease and what they may do.
    pub attending: Vec<(Name, Attending, i64, Verdict)>,
}

/// A role; `None` when there is none, or its value says nothing.
pub fn role(view: &dyn View, name: &RoleName) -> io::Result<Option<Role>> {
    if load_record(view)?.restore_id != 0 {
        return Ok(None);
    }
    let Ok(mut turn) = Turn::load(view, name)? else {
        return Ok(None);
    };
    let everybody = turn.everybody(view)?;
    let (spec, grant) = (turn.spec, turn.grant);
    let attending = everybody
        .into_iter()
        .map(|(host, there)| {
            let verdict = verdict(Some((&spec, &grant)), &host, Some(&there.now));
            (host, there.now, there.lease, verdict)
        })
        .collect();
    Ok(Some(Role {
        name: name.clone(),
        spec,
        grant,
        attending,
    }))
}

/// Names of all roles, locks among them, in order.
pub fn roles(view: &dyn View) -> io::Result<Vec<RoleName>> {
    let range = tables::current_range(b"/cfgsvc/roles/", b"/cfgsvc/roles0");
    let mut names = Vec::new();
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, _| {
        let key = stored.get(1..).unwrap_or_default();
        if let Some(Ok(keys::Place::Role(name))) = keys::Place::of(key) {
            names.push(name);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(names)
}

/// What one host may do about a role, and what it needs for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// Epoch of the role; 0 when it was never granted.
    pub epoch: i64,
    /// Where the holder is reached: the addresses of the host, or of the colo.
    pub addresses: Vec<String>,
    /// The holder is lost: the host is to attend again, and say where its data ends.
    pub says_anew: bool,
    /// Of a host that serves: who is in sync with it.
    pub synced: Vec<Name>,
    /// Of a host that serves: it is to say again and again where its data is.
    pub tells: bool,
}

impl Judged {
    fn only(verdict: Verdict) -> Self {
        Self {
            verdict,
            epoch: 0,
            addresses: Vec::new(),
            says_anew: false,
            synced: Vec::new(),
            tells: false,
        }
    }
}

/// What `host` may do, when it attends with `lease`: with another, it does not attend.
///
/// What a restore has filled so far is no state of anything: everybody is fenced until it is whole.
pub fn judge(view: &dyn View, role: &RoleName, host: &Name, lease: i64) -> io::Result<Judged> {
    if load_record(view)?.restore_id != 0 {
        return Ok(Judged::only(Verdict::Fenced(Fence::Restored)));
    }
    let Ok(mut turn) = Turn::load(view, role)? else {
        return Ok(Judged::only(verdict(None, host, None)));
    };
    let there = turn.there(view, host)?.filter(|there| there.lease == lease);
    let attending = there.map(|there| there.now.clone());
    let (spec, grant) = (&turn.spec, &turn.grant);
    let addresses = match (&grant.holder, spec.kind) {
        (Some(holder), Kind::Colo) => load::<Colo>(view, &keys::colo(holder))?
            .unwrap_or_default()
            .map_or_else(Vec::new, |(colo, _)| colo.addresses),
        (Some(holder), Kind::Host) => load::<Host>(view, &keys::host(holder))?
            .unwrap_or_default()
            .map_or_else(Vec::new, |(host, _)| host.addresses),
        (Some(_), Kind::Lock) | (None, _) => Vec::new(),
    };
    let me = attending.as_ref();
    let serves = me.is_some_and(|me| me.serving != 0);
    Ok(Judged {
        verdict: verdict(Some((spec, grant)), host, me),
        epoch: grant.epoch,
        addresses,
        says_anew: me.is_some_and(|me| grant.says_anew(me)),
        synced: if serves {
            grant.synced.keys().cloned().collect()
        } else {
            Vec::new()
        },
        tells: serves && grant.asks_position(spec),
    })
}

/// Who holds a role; `None` when it was never granted.
pub fn grant(view: &dyn View, role: &RoleName) -> io::Result<Option<Grant>> {
    if load_record(view)?.restore_id != 0 {
        return Ok(None);
    }
    let found = load::<Grant>(view, &keys::grant(role))?.unwrap_or_default();
    Ok(found.map(|(grant, _)| grant))
}
