//! All keys that a name server follows, and the zones that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cfgdns_core::{CatalogMember, Tree, Zones, catalog};
use cfgdns_sign::PrivateKey;
use cfgdns_zone::Name;
use cfgsvc_core::placement::keys::Place as Key;
use cfgsvc_core::placement::{Name as Member, RoleName};
use cfgsvc_core::zones::{Moved, Place, ZoneName, on_wire};
use serde::de::DeserializeOwned;

use crate::placement::{Moves, Placement, Read};
use crate::zone::{Stale, ZoneKeys};

/// What the group's keys say of DNS.
#[derive(Debug, Default)]
pub struct View {
    zones: BTreeMap<ZoneName, ZoneKeys>,
    placement: Placement,
    /// The revision at which each zone came, and how often one came or went.
    came: BTreeMap<ZoneName, i64>,
    catalog_count: Option<Read<u64>>,
    /// The name of the catalog of zones, if one is made.
    catalog: Option<Name>,
    /// The private keys that this server has.
    keys: Arc<[Arc<PrivateKey>]>,
    /// The zones that depend on each role.
    followers: BTreeMap<RoleName, BTreeSet<ZoneName>>,
    /// What must be made anew, since the zones were last built.
    stale: BTreeMap<ZoneName, Stale>,
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
        for zone in before.zones.into_keys() {
            self.stale.insert(zone, Stale::Packed);
        }
        for entry in all {
            self.put(entry);
        }
    }

    /// These are the private keys that zones can be signed with.
    pub fn set_keys(&mut self, keys: impl IntoIterator<Item = PrivateKey>) {
        self.keys = keys.into_iter().map(Arc::new).collect();
        let signed = self.zones.iter().filter(|(_, keys)| keys.is_signed());
        let signed: Vec<ZoneName> = signed.map(|(zone, _)| zone.clone()).collect();
        for zone in signed {
            self.mark(zone, Stale::Packed);
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
                set(&mut self.placement.moved, &role, moved);
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
            if made.is_none() && self.catalog.as_ref() == Some(&name) {
                // Where no zone is in force, the catalog is.
                self.catalog_stale = true;
                continue;
            }
            let (new, closed) = match made {
                None => (None, None),
                Some(Ok(tree)) => (Some(following(tree, old)), None),
                Some(Err(why)) => (Some(Tree::closed(&name)), Some(why)),
            };
            let serial = |tree: &Tree| (!tree.is_closed()).then(|| tree.soa().serial);
            let change = ZoneChange {
                name: name.clone(),
                before: old.and_then(|old| serial(old)),
                after: new.as_ref().and_then(serial),
                closed,
                unsigned: self
                    .zones
                    .get(&zone)
                    .and_then(|keys| keys.has_keys(&self.keys).err()),
            };
            if old.is_some() || new.is_some() {
                changes.push(change);
                trees.push((name, new.map(Arc::new)));
            }
        }
        if std::mem::take(&mut self.catalog_stale) {
            self.build_catalog(before, &mut trees, &mut changes);
        }
        Built {
            zones: before.with(trees),
            changes,
        }
    }

    /// The zones in force by name, which is a zone itself; none where an operator has a zone there.
    fn build_catalog(
        &self,
        before: &Zones,
        trees: &mut Vec<(Name, Option<Arc<Tree>>)>,
        changes: &mut Vec<ZoneChange>,
    ) {
        let Some(name) = &self.catalog else {
            return;
        };
        let zone_there = self.zones.get(&ZoneName::new(name));
        if zone_there.is_some_and(ZoneKeys::is_in_force) {
            return;
        }
        let old = before.get(name);
        let (new, closed) = match self.catalog_tree(name) {
            Ok(tree) => (following(tree, old), None),
            Err(why) => (Tree::closed(name), Some(why)),
        };
        let serial = |tree: &Tree| (!tree.is_closed()).then(|| tree.soa().serial);
        changes.push(ZoneChange {
            name: name.clone(),
            before: old.and_then(|old| serial(old)),
            after: serial(&new),
            closed,
            unsigned: None,
        });
        trees.push((name.clone(), Some(Arc::new(new))));
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

    fn tree(&self, keys: &ZoneKeys, old: Option<&Arc<Tree>>, stale: Stale) -> Read<Tree> {
        match old {
            Some(old) if stale < Stale::Packed && !old.is_closed() => {
                keys.renew(old, &self.placement)
            }
            _ => keys.pack(&self.placement, &self.keys),
        }
    }
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

/// A tree that knows what has changed since the one before, when there was one.
fn following(tree: Tree, old: Option<&Arc<Tree>>) -> Tree {
    match old {
        Some(old) if !old.is_closed() => tree.following(old),
        _ => tree,
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
