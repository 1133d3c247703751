//! What must hold of placement in every store that the machine has written.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::state::{KeyRecord, LeaseRecord};
use cluster_core::store::{Direction, View};
use serde::de::DeserializeOwned;

use super::grant::{Attending, Grant};
use super::keys::{PREFIX, Place};
use super::name::{Name, RoleName};
use super::objects::{Colo, Failover, Host, Kind, LeaderWish, Spec};
use crate::votes::Settings;
use crate::{tables, zones};

/// Everything below `/cfgsvc/`, decoded.
#[derive(Default)]
struct Placed {
    colos: BTreeMap<Name, Colo>,
    hosts: BTreeMap<Name, Host>,
    roles: BTreeMap<RoleName, Spec>,
    grants: BTreeMap<RoleName, (Grant, i64)>,
    attending: BTreeMap<(RoleName, Name), (Attending, i64)>,
    zones: BTreeMap<zones::Place, Bytes>,
}

fn parse<T: DeserializeOwned>(key: &[u8], record: &KeyRecord) -> Result<T, String> {
    serde_json::from_slice(&record.value)
        .map_err(|error| format!("{} is no object: {error}", key.escape_ascii()))
}

fn load(current: &BTreeMap<Bytes, KeyRecord>) -> Result<Placed, String> {
    let mut placed = Placed::default();
    for (key, record) in current.range(Bytes::from_static(PREFIX)..) {
        let Some(place) = Place::of(key) else { break };
        match place? {
            Place::Colo(name) => drop(placed.colos.insert(name, parse(key, record)?)),
            Place::Host(name) => drop(placed.hosts.insert(name, parse(key, record)?)),
            Place::Role(name) => drop(placed.roles.insert(name, parse(key, record)?)),
            Place::Leader => drop(parse::<LeaderWish>(key, record)?),
            Place::Failover => parse::<Settings>(key, record)?.check()?,
            Place::Dns(place) => drop(placed.zones.insert(place, record.value.clone())),
            Place::Grant(name) => {
                let grant = (parse(key, record)?, record.mod_revision);
                placed.grants.insert(name, grant);
            }
            Place::Attending(role, host) => {
                let attending = (parse(key, record)?, record.lease);
                placed.attending.insert((role, host), attending);
            }
        }
    }
    Ok(placed)
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// Checks what a restore has filled a store with.
pub(crate) fn check_restored(view: &dyn View) -> io::Result<Result<(), String>> {
    let mut current = BTreeMap::new();
    let range = tables::current_range(PREFIX, b"/cfgsvc0");
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, value| {
        let key = Bytes::copy_from_slice(stored.get(1..).unwrap_or_default());
        current.insert(key, tables::decode(stored, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    let leases = crate::read::leases(view)?.into_iter().collect();
    Ok(check(&current, &leases))
}

/// Checks the current versions of all keys, and all leases.
pub(crate) fn check(
    current: &BTreeMap<Bytes, KeyRecord>,
    leases: &BTreeMap<i64, LeaseRecord>,
) -> Result<(), String> {
    let placed = load(current)?;
    invariant_objects_make_sense(&placed)?;
    invariant_who_serves_holds(&placed)?;
    invariant_attending_has_a_lease(&placed, leases)?;
    zones::check::invariants(&placed.zones, |role| placed.roles.contains_key(role))?;
    invariant_nobody_waits_for_nothing(&placed)
}

fn invariant_objects_make_sense(placed: &Placed) -> Result<(), String> {
    for (name, host) in &placed.hosts {
        ensure(placed.colos.contains_key(&host.colo), || {
            format!("host {name} is in colo {}, which does not exist", host.colo)
        })?;
    }
    for (role, spec) in &placed.roles {
        spec.check().map_err(|why| format!("role {role}: {why}"))?;
        ensure(role.is_lock() == (spec.kind == Kind::Lock), || {
            format!("role {role} is of kind {:?}", spec.kind)
        })?;
    }
    for role in placed.grants.keys() {
        ensure(placed.roles.contains_key(role), || {
            format!("the grant of {role} has no role")
        })?;
    }
    Ok(())
}

fn invariant_who_serves_holds(placed: &Placed) -> Result<(), String> {
    let mut serving: BTreeMap<&RoleName, u32> = BTreeMap::new();
    for ((role, host), (attending, _)) in &placed.attending {
        let spec = placed.roles.get(role);
        let spec = spec.ok_or_else(|| format!("{host} attends {role}, which does not exist"))?;
        if attending.serving == 0 {
            continue;
        }
        *serving.entry(role).or_default() += 1;
        let (grant, _) = placed
            .grants
            .get(role)
            .ok_or_else(|| format!("{host} serves {role}, which was never granted"))?;
        let holds = attending.holds_as(spec.kind, host) == grant.holder.as_ref();
        ensure(holds && attending.serving == grant.epoch, || {
            format!("{host} serves {role} at {}: {grant:?}", attending.serving)
        })?;
        let begun = grant.starts.iter().any(|start| start.epoch == grant.epoch);
        ensure(spec.kind != Kind::Host || begun, || {
            format!("{role}: epoch {} is served and did not begin", grant.epoch)
        })?;
    }
    for (role, (grant, written)) in &placed.grants {
        let found = serving.get(role).copied().unwrap_or(0);
        ensure(grant.serving == found, || {
            format!(
                "{role} counts {} who serve, there are {found}",
                grant.serving
            )
        })?;
        ensure(grant.epoch <= *written, || {
            format!("{role}: epoch {} is after {written}", grant.epoch)
        })?;
        ensure(found == 0 || grant.holder.is_some(), || {
            format!("{role} is served and held by nobody")
        })?;
        ensure(
            grant.starts.iter().is_sorted_by(|a, b| a.epoch < b.epoch),
            || format!("{role}: starts are not in order: {:?}", grant.starts),
        )?;
    }
    Ok(())
}

fn invariant_attending_has_a_lease(
    placed: &Placed,
    leases: &BTreeMap<i64, LeaseRecord>,
) -> Result<(), String> {
    for ((role, host), (attending, id)) in &placed.attending {
        let lease = leases.get(id);
        let own =
            lease.is_some_and(|lease| lease.role == role.as_str() && lease.host == host.as_str());
        ensure(own, || {
            format!("{host} attends {role} with lease {id}: {lease:?}")
        })?;
        let grant = placed.grants.get(role);
        let expected = grant.is_some_and(|(grant, _)| grant.closes(attending));
        ensure(lease.is_some_and(|lease| lease.closing == expected), || {
            format!("lease of {host} for {role} should close: {expected}, {lease:?}")
        })?;
    }
    let of_roles = leases.values().filter(|lease| !lease.role.is_empty());
    ensure(of_roles.count() == placed.attending.len(), || {
        "a lease of a role has nobody who attends".to_owned()
    })
}

fn invariant_nobody_waits_for_nothing(placed: &Placed) -> Result<(), String> {
    for (role, (grant, _)) in &placed.grants {
        ensure(!grant.closing() || grant.serving > 0, || {
            format!("{role} is handed over, and nobody serves: {grant:?}")
        })?;
        let given_by_itself = placed.roles.get(role).is_some_and(|spec| {
            spec.kind == Kind::Lock && spec.failover == Failover::Auto && !spec.paused
        });
        ensure(!given_by_itself || grant.serving == 1, || {
            format!("{role} is there to be had, and nobody has it: {grant:?}")
        })?;
    }
    Ok(())
}
