//! All keys that a name server follows, and the zones that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cfgdns_core::{CatalogMember, LazyTree, Tree, Zones, catalog};
use cfgdns_sign::{PrivateKey, PrivateKeys};
use cfgdns_zone::Name;
use cfgsvc_core::placement::keys::Place as Key;
use cfgsvc_core::placement::{Name as Member, RoleName};
use cfgsvc_core::zones::{Moved, Place, ZoneName, on_wire};
use serde::de::DeserializeOwned;

use crate::placement::{Moves, Placement, Read};
use crate::zone::ZoneKeys;

/// What the group's keys say of DNS.
#[derive(Debug, Default)]
pub struct View {
    zones: BTreeMap<ZoneName, ZoneKeys>,
    /// Shared by zones that are to be made of it.
    placement: Arc<Placement>,
    /// The revision at which each zone came, and how often one came or went.
    came: BTreeMap<ZoneName, i64>,
    catalog_count: Option<Read<u64>>,
    /// The name of the catalog of zones, if one is made.
    catalog: Option<Name>,
    /// The private keys that this server has.
    keys: PrivateKeys,
    /// The zones that depend on each role.
    followers: BTreeMap<RoleName, BTreeSet<ZoneName>>,
    /// What must be made anew, since the zones were last built.
    stale: BTreeSet<ZoneName>,
    /// The roles whose followers must be, beside these.
    stale_roles: BTreeSet<RoleName>,
    catalog_stale: bool,
}

/// A key with its value.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// The revision since which it is there.
    pub created: i64,
    /// The revision of its last change.
    pub changed: i64,
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
    /// Why clients that want signatures get none: which private keys are not here.
    pub unsigned: Option<String>,
}

impl View {
    /// No keys; with a name, a catalog of the zones is made there (RFC 9432).
    pub fn new(catalog: Option<Name>) -> Self {
        Self {
            catalog_stale: catalog.is_some(),
            catalog,
            ..Self::default()
        }
    }

    /// Takes all keys in the place of those that there were.
    pub fn load<'a>(&mut self, all: impl IntoIterator<Item = Entry<'a>>) {
        let catalog = self.catalog.clone();
        let before = std::mem::replace(self, Self::new(catalog));
        self.keys = before.keys;
        self.stale = before.stale;
        self.stale.extend(before.zones.into_keys());
        for entry in all {
            self.put(entry);
        }
    }

    /// These are the private keys that zones can be signed with.
    pub fn set_keys(&mut self, keys: impl IntoIterator<Item = PrivateKey>) {
        self.keys = keys.into_iter().collect();
        for (zone, keys) in &mut self.zones {
            if keys.keys_changed() {
                self.stale.insert(zone.clone());
            }
        }
    }

    /// A key has another value.
    pub fn put(&mut self, entry: Entry<'_>) {
        self.change(entry.key, Some(entry));
    }

    /// A key is gone.
    pub fn delete(&mut self, key: &[u8]) {
        self.change(key, None);
    }

    fn change(&mut self, key: &[u8], entry: Option<Entry<'_>>) {
        // A key that is no key of ours is of a later version, and nothing that is known here
        // depends on it.
        let Some(Ok(place)) = Key::of(key) else {
            return;
        };
        let bytes = entry.map(|entry| entry.value);
        match place {
            Key::Dns(Place::Moved(role)) => {
                let moved = entry.map(|entry| {
                    let moved: Moved = parse(entry.value)?;
                    let (count, revision) = (moved.count, entry.changed);
                    Ok(Moves { count, revision })
                });
                set(&mut Arc::make_mut(&mut self.placement).moved, &role, moved);
                self.role_changed(&role);
            }
            Key::Dns(Place::Catalog) => {
                let count = bytes.map(|value| parse::<Moved>(value).map(|moved| moved.count));
                self.catalog_count = count;
                self.catalog_stale = self.catalog.is_some();
            }
            Key::Dns(place) => {
                if let Place::Zone(zone) = &place {
                    match entry {
                        Some(entry) => self.came.insert(zone.clone(), entry.created),
                        None => self.came.remove(zone),
                    };
                    self.catalog_stale = self.catalog.is_some();
                }
                self.change_zone(place, bytes);
            }
            Key::Grant(role) if !role.is_lock() => {
                set(
                    &mut Arc::make_mut(&mut self.placement).grants,
                    &role,
                    bytes.map(parse),
                );
                self.role_changed(&role);
            }
            Key::Role(role) if !role.is_lock() => {
                set(
                    &mut Arc::make_mut(&mut self.placement).roles,
                    &role,
                    bytes.map(parse),
                );
                self.role_changed(&role);
            }
            Key::Colo(colo) => {
                set(
                    &mut Arc::make_mut(&mut self.placement).colos,
                    &colo,
                    bytes.map(parse),
                );
                self.member_changed(&colo);
            }
            Key::Host(host) => {
                set(
                    &mut Arc::make_mut(&mut self.placement).hosts,
                    &host,
                    bytes.map(parse),
                );
                self.member_changed(&host);
            }
            Key::Grant(_) | Key::Role(_) | Key::Attending(..) | Key::Failover | Key::Leader => {}
        }
    }

    fn change_zone(&mut self, place: Place, value: Option<&[u8]>) {
        let (Place::Zone(name)
        | Place::Node(name, ..)
        | Place::Follow(name, ..)
        | Place::Signing(name)
        | Place::Serial(name)) = &place
        else {
            return;
        };
        let name = name.clone();
        let zone = self.zones.entry(name.clone());
        let zone = zone.or_insert_with(|| ZoneKeys::new(name.clone()));
        let follows = matches!(place, Place::Follow(..) | Place::Serial(_));
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
        if stale {
            self.stale.insert(name);
        }
    }

    fn role_changed(&mut self, role: &RoleName) {
        self.stale_roles.insert(role.clone());
    }

    /// What must be made anew, all of it in one list.
    fn take_stale(&mut self) -> BTreeSet<ZoneName> {
        let mut all = std::mem::take(&mut self.stale);
        for role in std::mem::take(&mut self.stale_roles) {
            if let Some(zones) = self.followers.get(&role) {
                // There may be thousands: lists in order are merged, and none is looked up.
                all.append(&mut zones.clone());
            }
        }
        all
    }

    fn member_changed(&mut self, member: &Member) {
        let roles: Vec<RoleName> = self.placement.held_by(member).cloned().collect();
        for role in roles {
            self.role_changed(&role);
        }
    }

    /// The zones after all changes; `before` is what the last call gave.
    ///
    /// Zones whose records changed are packed here. Where only a role moved, they are made when
    /// they are asked for, or by [`settle`].
    pub fn build(&mut self, before: &Zones) -> Zones {
        let mut trees = Vec::new();
        let stale = self.take_stale();
        // Most often all zones are as they were but a few, or those that follow a role follow one
        // another: a zone is looked up where it is not the next one.
        let mut zones = self.zones.range_mut::<ZoneName, _>(..);
        for zone in stale {
            let name = zone.name().clone();
            let mut next = zones.next();
            if next.as_ref().is_none_or(|(next, _)| **next != zone) {
                zones = self.zones.range_mut(&zone..);
                next = zones.next();
            }
            let keys = next.filter(|(next, _)| **next == zone);
            let keys = keys.map(|(_, keys)| keys);
            let tree = keys.filter(|keys| keys.is_in_force()).map(|keys| {
                let tree = keys.tree(&self.placement, &self.keys);
                tree.unwrap_or_else(|why| closed(&name, &why))
            });
            if tree.is_none() && self.catalog.as_ref() == Some(&name) {
                // Where no zone is in force, the catalog is.
                self.catalog_stale = true;
                continue;
            }
            trees.push((name, tree));
        }
        if std::mem::take(&mut self.catalog_stale) {
            trees.extend(self.build_catalog());
        }
        before.with(trees)
    }

    /// The zones in force by name, which is a zone itself; none where an operator has a zone there.
    fn build_catalog(&self) -> Option<(Name, Option<LazyTree>)> {
        let name = self.catalog.clone()?;
        let zone_there = self.zones.get(&ZoneName::new(&name));
        if zone_there.is_some_and(ZoneKeys::is_in_force) {
            return None;
        }
        let tree = self.catalog_tree(&name);
        let tree = tree.map_or_else(|why| closed(&name, &why), |tree| Arc::new(tree).into());
        Some((name, Some(tree)))
    }

    fn catalog_tree(&self, name: &Name) -> Read<Tree> {
        let count = self.catalog_count.clone().unwrap_or(Ok(0))?;
        let members: Vec<CatalogMember> = self
            .came
            .iter()
            .map(|(zone, created)| CatalogMember {
                zone: zone.name().clone(),
                label: label(zone.name(), *created),
            })
            .collect();
        let zone = catalog(name, &members, on_wire(count.wrapping_add(1)))
            .map_err(|error| error.to_string())?;
        let tree = Tree::build(&zone).map_err(|error| error.to_string())?;
        Ok(tree.private())
    }
}

fn closed(name: &Name, why: &str) -> LazyTree {
    Arc::new(Tree::closed(name, why)).into()
}

/// Makes what is not made yet of the zones that are not those of before, lets each know what has
/// changed in it (its history, which secondaries are sent), and says which they are.
///
/// Nobody who asks for an address waits for this; who asks for a transfer before it gets the whole
/// zone. `before` is what the last call had, so that histories have no gaps.
pub fn settle(before: &Zones, after: &Zones) -> Vec<ZoneChange> {
    let serial = |tree: &Tree| (!tree.is_closed()).then(|| tree.soa().serial);
    let mut changes = Vec::new();
    for (old, new) in after.changes(before) {
        // An operator's zone may have stood where the catalog is: they do not follow one another.
        let leads = |(old, new): &(&Arc<Tree>, &Arc<Tree>)| {
            !old.is_closed() && old.is_private() == new.is_private()
        };
        if let Some((old, new)) = old.zip(new).filter(leads) {
            new.follow(old);
        }
        let Some(name) = new.or(old).map(|tree| tree.origin().clone()) else {
            continue;
        };
        changes.push(ZoneChange {
            name,
            before: old.and_then(|old| serial(old)),
            after: new.and_then(|new| serial(new)),
            closed: new.and_then(|new| new.closed_because()).map(Into::into),
            unsigned: new.and_then(|new| new.lacking()).map(Into::into),
        });
    }
    changes
}

/// What tells a zone from others in the catalog, and from a later one of its name: zones may have
/// come in one commit, so it is made of both (FNV-1a, and the finish of `SplitMix64`).
fn label(zone: &Name, created: i64) -> u64 {
    let octets = zone.as_wire().iter().copied().chain(created.to_be_bytes());
    let hash = octets.fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
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
