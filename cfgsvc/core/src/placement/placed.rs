//! What votes need to know of hosts and roles, by the state of one commit.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use cluster_core::store::View;
use serde::de::IgnoredAny;

use super::grant::Grant;
use super::keys;
use super::name::{Name, RoleName};
use super::objects::{Colo, Failover, Host, Kind, LeaderWish};
use super::read::roles;
use super::review::scan;
use super::turn::{Turn, load};
use crate::machine::load_record;
use crate::votes::{Placed, Settings};

/// Hosts, roles and settings, as votes are decided on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// All hosts that there are, with their colos.
    pub hosts: BTreeMap<Name, Name>,
    /// Those that attend a role.
    pub attending: BTreeSet<Name>,
    /// All roles that are no locks.
    pub roles: Vec<Placed>,
    /// Checks to make, and where: role, check, address of the holder.
    pub checks: BTreeMap<RoleName, (String, String)>,
    /// What an operator says.
    pub settings: Settings,
}

/// The colo that the group is to be led from, if a person says so and it is known now.
pub fn leader_colo(view: &dyn View) -> io::Result<Option<Name>> {
    let wish = load::<LeaderWish>(view, &bytes::Bytes::from_static(keys::LEADER))?;
    Ok(match wish.unwrap_or_default() {
        Some((LeaderWish::Colo(colo), _)) => Some(colo),
        Some((LeaderWish::Role(role), _)) => {
            let grant = load::<Grant>(view, &keys::grant(&role))?.unwrap_or_default();
            match grant.and_then(|(grant, _)| grant.holder) {
                // Of a role of hosts: where its holder is.
                Some(holder) => match load::<Host>(view, &keys::host(&holder))? {
                    Ok(Some((host, _))) => Some(host.colo),
                    Ok(None) | Err(_) => Some(holder),
                },
                None => None,
            }
        }
        None => None,
    })
}

/// What is so now; empty while a restore fills the store.
pub fn fleet(view: &dyn View) -> io::Result<Fleet> {
    let mut fleet = Fleet::default();
    if load_record(view)?.restore_id != 0 {
        return Ok(fleet);
    }
    let mut addresses = BTreeMap::new();
    scan(view, "hosts", |name, host: &Host| {
        if let Ok(name) = name.parse::<Name>() {
            fleet.hosts.insert(name.clone(), host.colo.clone());
            addresses.extend(host.addresses.first().map(|at| (name, at.clone())));
        }
    })?;
    scan(view, "attending", |name, _: &IgnoredAny| {
        let host = name
            .rsplit_once('/')
            .filter(|(role, _)| !role.starts_with("locks/"));
        fleet
            .attending
            .extend(host.and_then(|(_, host)| host.parse::<Name>().ok()));
    })?;
    let mut colos = Vec::new();
    scan(view, "colos", |name, colo: &Colo| {
        if let (Ok(name), false) = (name.parse::<Name>(), colo.drained) {
            colos.push(name);
        }
    })?;
    let settings = load(view, &bytes::Bytes::from_static(keys::FAILOVER))?;
    fleet.settings = settings
        .unwrap_or_default()
        .map(|(settings, _)| settings)
        .unwrap_or_default();
    for name in roles(view)? {
        if name.is_lock() {
            continue;
        }
        if let Ok(mut turn) = Turn::load(view, &name)? {
            let candidates = candidates(view, &mut turn, &colos)?;
            fleet.add(&turn, candidates, &addresses);
        }
    }
    Ok(fleet)
}

/// Who could have a role, the best first.
fn candidates(view: &dyn View, turn: &mut Turn, colos: &[Name]) -> io::Result<Vec<Name>> {
    let listed = &turn.spec.candidates;
    Ok(match turn.spec.kind {
        Kind::Colo if listed.is_empty() => colos.to_vec(),
        Kind::Colo => {
            let open = listed.iter().filter(|colo| colos.contains(colo));
            open.cloned().collect()
        }
        Kind::Host | Kind::Lock => {
            let takers = turn.available(view)?.into_iter();
            let takers = takers.filter(|one| one.by_itself);
            takers.map(|one| one.name).collect()
        }
    })
}

impl Fleet {
    fn add(&mut self, turn: &Turn, candidates: Vec<Name>, addresses: &BTreeMap<Name, String>) {
        let (role, spec, grant) = (&turn.role, &turn.spec, &turn.grant);
        let holder = grant.holder.as_ref();
        let at = holder.and_then(|holder| addresses.get(holder));
        if let (Some(check), Some(at), true) = (&spec.check, at, grant.serving > 0) {
            let check = (check.clone(), at.clone());
            self.checks.insert(role.clone(), check);
        }
        self.roles.push(Placed {
            role: role.clone(),
            kind: spec.kind,
            automatic: spec.failover == Failover::Auto && !spec.paused,
            colo: holder.and_then(|holder| self.hosts.get(holder).cloned()),
            holder: holder.cloned(),
            epoch: grant.epoch,
            serving: grant.serving,
            closing: grant.closing(),
            begun: !grant.starts.is_empty(),
            follows: spec.follows.clone(),
            candidates,
        });
    }
}
