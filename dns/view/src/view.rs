//! All keys that a name server follows, and the zones that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cfgdns_core::{Tree, Zones};
use cfgdns_zone::Name;
use cfgsvc_core::placement::keys::Place as Key;
use cfgsvc_core::placement::{Name as Member, RoleName};
use cfgsvc_core::zones::{Moved, Place, ZoneName};
use serde::de::DeserializeOwned;

use crate::placement::{Moves, Placement, Read};
use crate::zone::{Stale, ZoneKeys};

/// What the group's keys say of DNS.
#[derive(Debug, Default)]
pub struct View {
    zones: BTreeMap<ZoneName, ZoneKeys>,
    placement: Placement,
    /// The zones that follow each role.
    followers: BTreeMap<RoleName, BTreeSet<ZoneName>>,
    /// What must be made anew, since the zones were last built.
    stale: BTreeMap<ZoneName, Stale>,
}

/// Zones that were built.
#[derive(Debug)]
pub struct Built {
    /// All of them.
    pub zones: Zones,
    /// Those that are not as they were, by name.
    pub changes: Vec<ZoneChange>,
}

/// A zone that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneChange {
    /// Its name.
    pub name: Name,
    /// Its serial before; none when it was not there, or was closed.
    pub before: Option<u32>,
    /// Its serial now; none when it is not there any more, or is closed.
    pub after: Option<u32>,
    /// Why it is closed, if it is: some of its keys cannot be read.
    pub closed: Option<String>,
}

impl View {
    /// Takes all keys, each with its value and the revision of its last change, in the place of
    /// those that there were.
    pub fn load<'a>(&mut self, all: impl IntoIterator<Item = (&'a [u8], &'a [u8], i64)>) {
        let before = std::mem::take(self);
        self.stale = before.stale;
        for zone in before.zones.into_keys() {
            self.stale.insert(zone, Stale::Packed);
        }
        for (key, value, revision) in all {
            self.put(key, value, revision);
        }
    }

    /// A key has a value since a revision.
    pub fn put(&mut self, key: &[u8], value: &[u8], revision: i64) {
        self.change(key, Some((value, revision)));
    }

    /// A key is gone.
    pub fn delete(&mut self, key: &[u8]) {
        self.change(key, None);
    }

    fn change(&mut self, key: &[u8], value: Option<(&[u8], i64)>) {
        // A key that is no key of ours is of a later version, and nothing that is known here
        // depends on it.
        let Some(Ok(place)) = Key::of(key) else {
            return;
        };
        let bytes = value.map(|(value, _)| value);
        match place {
            Key::Dns(Place::Moved(role)) => {
                let moved = value.map(|(value, revision)| {
                    let moved: Moved = parse(value)?;
                    let count = moved.count;
                    Ok(Moves { count, revision })
                });
                set(&mut self.placement.moved, &role, moved);
                self.role_changed(&role);
            }
            Key::Dns(place) => self.change_zone(place, bytes),
            Key::Grant(role) if !role.is_lock() => {
                set(&mut self.placement.grants, &role, bytes.map(parse));
                self.role_changed(&role);
            }
            Key::Role(role) if !role.is_lock() => {
                set(&mut self.placement.roles, &role, bytes.map(parse));
                self.role_changed(&role);
            }
            Key::Colo(colo) => {
                set(&mut self.placement.colos, &colo, bytes.map(parse));
                self.member_changed(&colo);
            }
            Key::Host(host) => {
                set(&mut self.placement.hosts, &host, bytes.map(parse));
                self.member_changed(&host);
            }
            Key::Grant(_) | Key::Role(_) | Key::Attending(..) | Key::Failover | Key::Leader => {}
        }
    }

    fn change_zone(&mut self, place: Place, value: Option<&[u8]>) {
        let (Place::Zone(name)
        | Place::Node(name, ..)
        | Place::Follow(name, ..)
        | Place::Serial(name)) = &place
        else {
            return;
        };
        let name = name.clone();
        let zone = self.zones.entry(name.clone());
        let zone = zone.or_insert_with(|| ZoneKeys::new(name.clone()));
        let follows = matches!(place, Place::Follow(..));
        let roles = |zone: &ZoneKeys| -> BTreeSet<RoleName> {
            let all = follows.then(|| zone.roles());
            all.into_iter().flatten().cloned().collect()
        };
        let before = roles(zone);
        let stale = zone.change(place, value);
        let now = roles(zone);
        if zone.is_empty() {
            self.zones.remove(&name);
        }
        for role in before.difference(&now) {
            if let Some(zones) = self.followers.get_mut(role) {
                zones.remove(&name);
                if zones.is_empty() {
                    self.followers.remove(role);
                }
            }
        }
        for role in now.difference(&before) {
            let zones = self.followers.entry(role.clone()).or_default();
            zones.insert(name.clone());
        }
        self.mark(name, stale);
    }

    fn mark(&mut self, zone: ZoneName, stale: Stale) {
        if stale > Stale::Nothing {
            let known = self.stale.entry(zone).or_insert(stale);
            *known = stale.max(*known);
        }
    }

    fn role_changed(&mut self, role: &RoleName) {
        let zones = self.followers.get(role).cloned().unwrap_or_default();
        for zone in zones {
            self.mark(zone, Stale::Live);
        }
    }

    fn member_changed(&mut self, member: &Member) {
        let roles: Vec<RoleName> = self.placement.held_by(member).cloned().collect();
        for role in roles {
            self.role_changed(&role);
        }
    }

    /// Builds what changed since the last call; `before` is what that gave.
    pub fn build(&mut self, before: &Zones) -> Built {
        let mut trees = Vec::new();
        let mut changes = Vec::new();
        for (zone, stale) in std::mem::take(&mut self.stale) {
            let name = zone.name().clone();
            let old = before.get(&name);
            let made = self
                .zones
                .get(&zone)
                .filter(|keys| keys.is_in_force())
                .map(|keys| self.tree(keys, old, stale));
            let (new, closed) = match made {
                None => (None, None),
                Some(Ok(tree)) => (Some(tree), None),
                Some(Err(why)) => (Some(Tree::closed(&name)), Some(why)),
            };
            let serial = |tree: &Tree| (!tree.is_closed()).then(|| tree.soa().serial);
            let change = ZoneChange {
                name: name.clone(),
                before: old.and_then(|old| serial(old)),
                after: new.as_ref().and_then(serial),
                closed,
            };
            if old.is_some() || new.is_some() {
                changes.push(change);
                trees.push((name, new.map(Arc::new)));
            }
        }
        Built {
            zones: before.with(trees),
            changes,
        }
    }

    fn tree(&self, keys: &ZoneKeys, old: Option<&Arc<Tree>>, stale: Stale) -> Read<Tree> {
        match old {
            Some(old) if stale < Stale::Packed && !old.is_closed() => {
                keys.renew(old, &self.placement)
            }
            _ => keys.pack(&self.placement),
        }
    }
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Read<T> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

/// Puts what was read of a value, or takes it away.
fn set<K: Ord + Clone, T>(map: &mut BTreeMap<K, Read<T>>, key: &K, value: Option<Read<T>>) {
    match value {
        Some(value) => {
            map.insert(key.clone(), value);
        }
        None => {
            map.remove(key);
        }
    }
}
