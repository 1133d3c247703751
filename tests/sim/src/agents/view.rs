//! What the group has said of roles so far, as its first member to publish says it.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use cfgsvc::watch::commit::Commit;
use cfgsvc_core::placement::keys::Place;
use cfgsvc_core::placement::{Attending, Grant, Name, RoleName};
use serde::de::DeserializeOwned;

use crate::history::changes_of;

/// A change of what the machine writes about a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// Who holds it; `None` when it is forgotten.
    Grant(RoleName, Option<Grant>),
    /// Who is there.
    Attending(RoleName, Name, Option<Attending>),
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant(role, Some(grant)) => write!(
                f,
                "{role} is held by {:?} at {}, {} serve, next {:?}, vacate {}, left {:?}",
                grant.holder, grant.epoch, grant.serving, grant.next, grant.vacate, grant.left
            ),
            Self::Attending(role, host, Some(there)) => write!(
                f,
                "{host} attends {role} at {}, serves {}, position {}, {}",
                there.epoch, there.serving, there.position, there.boot
            ),
            Self::Grant(role, None) => write!(f, "{role} is forgotten"),
            Self::Attending(role, host, None) => write!(f, "{host} attends {role} no more"),
        }
    }
}

fn parse<T: DeserializeOwned>(value: Option<&Bytes>) -> Result<Option<T>, String> {
    let parsed = value.map(|value| serde_json::from_slice(value)).transpose();
    parsed.map_err(|error| format!("a value of placement: {error}"))
}

/// What a commit says of roles.
pub fn placed(commit: &Commit) -> Result<Vec<Placed>, String> {
    let mut all = Vec::new();
    for change in changes_of(commit) {
        let value = change.value.as_ref();
        match Place::of(&change.key) {
            Some(Ok(Place::Grant(role))) => all.push(Placed::Grant(role, parse(value)?)),
            Some(Ok(Place::Attending(role, host))) => {
                all.push(Placed::Attending(role, host, parse(value)?));
            }
            Some(Ok(
                Place::Colo(_)
                | Place::Host(_)
                | Place::Role(_)
                | Place::Failover
                | Place::Leader
                | Place::Dns(_),
            ))
            | None => {}
            Some(Err(why)) => return Err(format!("a key of placement: {why}")),
        }
    }
    Ok(all)
}

/// All that was said.
#[derive(Debug, Default)]
pub struct View {
    grants: BTreeMap<RoleName, Grant>,
}

impl View {
    /// A commit says more.
    pub fn take(&mut self, placed: &[Placed]) {
        for one in placed {
            match one {
                Placed::Grant(role, Some(grant)) => {
                    self.grants.insert(role.clone(), grant.clone());
                }
                Placed::Grant(role, None) => drop(self.grants.remove(role)),
                Placed::Attending(..) => {}
            }
        }
    }

    /// Who holds a role.
    pub fn holder(&self, role: &RoleName) -> Option<Name> {
        self.grants.get(role)?.holder.clone()
    }

    /// Whether it came from a snapshot, and was not given anew.
    pub fn is_restored(&self, role: &RoleName) -> bool {
        self.grants.get(role).is_some_and(|grant| grant.restored)
    }

    /// The host that began the last epoch of a role with data, and that epoch.
    pub fn last_started(&self, role: &RoleName) -> Option<(Name, i64)> {
        let start = self.grants.get(role)?.starts.back()?;
        Some((start.host.clone(), start.epoch))
    }
}
