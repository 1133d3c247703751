//! What the group counts of zones, at the end of every commit.
//!
//! Every way to change a key ends in [`settle`], so no change of what a zone says can be without a
//! new serial: those of operators, a failover, a lease that ended.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgdns_zone::{Rtype, Soa};
use cfgsvc_proto::kv::KeyValue;
use cfgsvc_proto::kv::event::EventType;
use cfgsvc_proto::state::KeyRecord;
use cluster_core::store::{Direction, View};
use serde::Serialize;

use super::keys::{self, Place, ZoneName};
use super::objects::{Moved, ZoneSerial};
use super::review::{follows, in_force, load, node};
use super::serial::later;
use crate::placement::{
    Colo, Grant, Host, Name, RoleName,
    keys::{self as placement_keys, PREFIX, Place as Placed},
};
use crate::tables;
use crate::writer::{NewValue, RevisionWriter};

/// A restored group may have given out later serials than its snapshot knows: so many are left out.
const RESTORED_SKIP: u64 = 1 << 20;

/// What a commit changed that zones depend on.
#[derive(Default)]
struct Touched {
    /// Roles whose holder became another, or holds it anew.
    roles: BTreeSet<RoleName>,
    /// Colos and hosts whose addresses became others.
    addresses: BTreeSet<Name>,
    /// Roles that were deleted.
    gone: BTreeSet<RoleName>,
    /// A zone came or went.
    zones_listed: bool,
    /// Zones of which a key changed, and whether their start of authority may be another.
    zones: BTreeMap<ZoneName, bool>,
}

/// Counts what the commit changed so far.
pub(crate) fn settle(writer: &mut RevisionWriter<'_, '_>) -> io::Result<()> {
    let touched = Touched::by(writer)?;
    let mut moved = touched.roles.clone();
    if !touched.addresses.is_empty() {
        moved.extend(held_by(writer.state, &touched.addresses)?);
    }
    // Nobody follows those any more, and a key changes once in a commit.
    moved.retain(|role| !touched.gone.contains(role));
    for role in &moved {
        // A role that nobody follows has none.
        if let Some(before) = load::<Moved>(writer.state, &keys::moved(role))? {
            let count = before.count + 1;
            put(writer, &keys::moved(role), &Moved { count })?;
        }
    }
    for (zone, soa_too) in touched.zones {
        count(writer, &zone, soa_too)?;
    }
    if touched.zones_listed {
        let before: Moved = load(writer.state, &keys::CATALOG)?.unwrap_or_default();
        let count = before.count + 1;
        put(writer, &keys::CATALOG, &Moved { count })?;
    }
    // Last: what a zone that followed it until now has told is counted by it.
    for role in &touched.gone {
        writer.delete_if_there(&keys::moved(role))?;
    }
    Ok(())
}

impl Touched {
    fn by(writer: &RevisionWriter<'_, '_>) -> io::Result<Self> {
        let mut touched = Self::default();
        let mut forced: BTreeMap<ZoneName, Option<u64>> = BTreeMap::new();
        for changed in writer.events() {
            let Some(kv) = changed.event.kv.as_ref() else {
                continue;
            };
            if !kv.key.starts_with(PREFIX) {
                continue;
            }
            let new = (changed.event.r#type == i32::from(EventType::Put)).then_some(kv);
            let before = changed.previous.as_ref();
            match Placed::of(&kv.key) {
                Some(Ok(Placed::Grant(role))) if held(before) != held(new) => {
                    touched.roles.insert(role);
                }
                Some(Ok(Placed::Role(role))) if new.is_none() => {
                    touched.gone.insert(role);
                }
                Some(Ok(Placed::Colo(name))) if colo_at(before) != colo_at(new) => {
                    touched.addresses.insert(name);
                }
                Some(Ok(Placed::Host(name))) if host_at(before) != host_at(new) => {
                    touched.addresses.insert(name);
                }
                Some(Ok(Placed::Dns(place))) => {
                    let came_or_went = before.is_none() || new.is_none();
                    touched.zones_listed |= came_or_went && matches!(place, Place::Zone(_));
                    touched.zone(writer.state, &mut forced, place)?;
                }
                _ => {}
            }
        }
        Ok(touched)
    }

    fn zone(
        &mut self,
        view: &dyn View,
        forced: &mut BTreeMap<ZoneName, Option<u64>>,
        place: Place,
    ) -> io::Result<()> {
        let (zone, soa) = match place {
            Place::Zone(zone) => (zone, true),
            Place::Follow(zone, ..) | Place::Signing(zone) => (zone, false),
            Place::Node(zone, generation, name) => {
                let known = if let Some(known) = forced.get(&zone) {
                    *known
                } else {
                    let known = in_force(view, &zone)?;
                    forced.insert(zone.clone(), known);
                    known
                };
                if known != Some(generation) {
                    return Ok(());
                }
                let soa = name == *zone.name();
                (zone, soa)
            }
            Place::Serial(_) | Place::Moved(_) | Place::Catalog => return Ok(()),
        };
        *self.zones.entry(zone).or_default() |= soa;
        Ok(())
    }
}

/// Who holds a role, and in which epoch: what name servers tell of it.
fn held(kv: Option<&KeyValue>) -> Option<(Option<Name>, i64)> {
    let grant: Grant = serde_json::from_slice(&kv?.value).ok()?;
    Some((grant.holder, grant.epoch))
}

fn colo_at(kv: Option<&KeyValue>) -> Vec<String> {
    let colo = kv.and_then(|kv| serde_json::from_slice::<Colo>(&kv.value).ok());
    colo.map_or_else(Vec::new, |colo| colo.addresses)
}

fn host_at(kv: Option<&KeyValue>) -> Vec<String> {
    let host = kv.and_then(|kv| serde_json::from_slice::<Host>(&kv.value).ok());
    host.map_or_else(Vec::new, |host| host.addresses)
}

/// The roles that zones follow, and one of these holds.
fn held_by(view: &dyn View, holders: &BTreeSet<Name>) -> io::Result<Vec<RoleName>> {
    let range = tables::current_range(b"/cfgsvc/moved/", b"/cfgsvc/moved0");
    let mut followed = Vec::new();
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, _| {
        let key = stored.get(1..).unwrap_or_default();
        if let Some(Ok(Placed::Dns(Place::Moved(role)))) = Placed::of(key) {
            followed.push(role);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let mut held = Vec::new();
    for role in followed {
        let grant = load::<Grant>(view, &placement_keys::grant(&role))?;
        let holder = grant.and_then(|grant| grant.holder);
        if holder.is_some_and(|holder| holders.contains(&holder)) {
            held.push(role);
        }
    }
    Ok(held)
}

/// Gives a zone its next serial.
fn count(writer: &mut RevisionWriter<'_, '_>, zone: &ZoneName, soa_too: bool) -> io::Result<()> {
    let key = keys::serial(zone);
    let before: ZoneSerial = load(writer.state, &key)?.unwrap_or_default();
    let mut roles = BTreeMap::new();
    for (_, _, follow) in follows(writer.state, zone)? {
        let moved = keys::moved(&follow.role);
        let counted = load::<Moved>(writer.state, &moved)?;
        if counted.is_none() {
            put(writer, &moved, &Moved::default())?;
        }
        let count = counted.unwrap_or_default().count;
        roles.insert(follow.role, count);
    }
    let mut moves = BTreeMap::new();
    for role in before.roles.keys() {
        let moved: Moved = load(writer.state, &keys::moved(role))?.unwrap_or_default();
        moves.insert(role.clone(), moved.count);
    }
    let now = before.now(|role| moves.get(role).copied().unwrap_or_default());
    let asked = if soa_too {
        soa_serial(writer.state, zone)?
    } else {
        0
    };
    let count = later(now, asked);
    put(writer, &key, &ZoneSerial { count, roles })
}

/// What the zone's start of authority says itself.
fn soa_serial(view: &dyn View, zone: &ZoneName) -> io::Result<u32> {
    let Some(generation) = in_force(view, zone)? else {
        return Ok(0);
    };
    let apex = node(view, zone, generation, zone.name())?;
    let data = apex.and_then(|apex| apex.set(Rtype::SOA)?.data().first().cloned());
    let soa = data.and_then(|data| Soa::from_data(&data));
    Ok(soa.map_or(0, |soa| soa.serial))
}

fn put<T: Serialize>(
    writer: &mut RevisionWriter<'_, '_>,
    key: &Bytes,
    object: &T,
) -> io::Result<()> {
    let value = Bytes::from(serde_json::to_vec(object)?);
    let before: Option<KeyRecord> = tables::get(writer.state, &tables::current(key))?;
    writer.put(key, NewValue { value, lease: 0 }, before)
}

/// The group went back to a snapshot: it may have told later serials before that.
///
/// A snapshot of before zones were counted has no count of them: it begins here, as name servers
/// of the group may have counted on since.
pub(crate) fn restored(writer: &mut RevisionWriter<'_, '_>) -> io::Result<()> {
    let range = tables::current_range(b"/cfgsvc/serials/", b"/cfgsvc/serials0");
    let mut serials = Vec::new();
    tables::try_scan(
        writer.state,
        &range,
        Direction::Ascending,
        &mut |stored, value| {
            let record: KeyRecord = tables::decode(stored, value)?;
            if let Ok(serial) = serde_json::from_slice::<ZoneSerial>(&record.value) {
                let key = stored.get(1..).unwrap_or_default();
                serials.push((Bytes::copy_from_slice(key), serial));
            }
            Ok(ControlFlow::Continue(()))
        },
    )?;
    for (key, mut serial) in serials {
        serial.count += RESTORED_SKIP;
        put(writer, &key, &serial)?;
    }
    let listed = load::<Moved>(writer.state, &keys::CATALOG)?;
    if listed.is_some() || any_zone(writer.state)? {
        let count = listed.unwrap_or_default().count + RESTORED_SKIP;
        put(writer, &keys::CATALOG, &Moved { count })?;
    }
    Ok(())
}

/// Whether there is a zone.
fn any_zone(view: &dyn View) -> io::Result<bool> {
    let range = tables::current_range(b"/cfgsvc/zones/", b"/cfgsvc/zones0");
    let mut found = false;
    tables::try_scan(view, &range, Direction::Ascending, &mut |_, _| {
        found = true;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}
