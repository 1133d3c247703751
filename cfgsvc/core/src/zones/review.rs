//! Whether what operators wrote of zones makes sense, and refers to what is there.
//!
//! The rules of a whole zone (glue, what aliases point to) are `cfgctl zone apply`'s: they would
//! need all names for each change of one. What a name server cannot live without is checked here,
//! whoever writes.

use std::io;
use std::iter::successors;

use bytes::Bytes;
use cfgdns_zone::{Name, Node, Rtype};
use cfgsvc_proto::state::{KeyRecord, Refusal};
use cluster_core::store::{Direction, View};
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;

use super::keys::{self, Place, ZoneName};
use super::objects::{EPOCH_LABEL, Follow, FollowType, NodeObject, Settings};
use super::signing::SigningObject;
use crate::placement::{RoleName, keys as placement_keys};
use crate::refusal::{Code, refuse, shown};
use crate::tables;

type Checked = io::Result<Result<(), Refusal>>;

/// The object of a key now; `None` where there is none, or none that says anything.
pub(super) fn load<T: DeserializeOwned>(view: &dyn View, key: &Bytes) -> io::Result<Option<T>> {
    let record = tables::get::<KeyRecord>(view, &tables::current(key))?;
    Ok(record.and_then(|record| serde_json::from_slice(&record.value).ok()))
}

/// What a name has in a generation.
pub(super) fn node(
    view: &dyn View,
    zone: &ZoneName,
    generation: u64,
    name: &Name,
) -> io::Result<Option<Node>> {
    let object = load::<NodeObject>(view, &keys::node(zone, generation, name))?;
    Ok(object.and_then(|object| Some(object.read(zone, name).ok()?.1)))
}

/// The names of a zone that follow a role.
pub(super) fn follows(
    view: &dyn View,
    zone: &ZoneName,
) -> io::Result<Vec<(Name, FollowType, Follow)>> {
    let (from, to) = keys::follows(zone);
    let range = tables::current_range(&from, &to);
    let mut found = Vec::new();
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, value| {
        let key = stored.get(1..).unwrap_or_default();
        let record: KeyRecord = tables::decode(stored, value)?;
        let place = placement_keys::Place::of(key);
        let follow = serde_json::from_slice(&record.value);
        if let (Some(Ok(placement_keys::Place::Dns(Place::Follow(_, name, rtype)))), Ok(follow)) =
            (place, follow)
        {
            found.push((name, rtype, follow));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Checks a change of a key: its new value, or that it was deleted. `at_ms` is when that was
/// proposed; 0: it was not said.
pub(crate) fn review(
    view: &dyn View,
    key: &Bytes,
    place: &Place,
    new: Option<&Bytes>,
    at_ms: i64,
) -> Checked {
    let invalid = |why: String| refuse(Code::InvalidObject, format!("key {}: {why}", shown(key)));
    let checked = match (place, new) {
        (Place::Serial(_) | Place::Moved(_) | Place::Catalog, _) => {
            let detail = format!("key {} is written by the group alone", shown(key));
            return Ok(Err(refuse(Code::ReservedKey, detail)));
        }
        (Place::Zone(zone), Some(value)) => match parse::<Settings>(value) {
            Ok(settings) => come_into_force(view, zone, settings.generation)?,
            Err(why) => Err(why),
        },
        (Place::Zone(zone), None) => match follows(view, zone)?.first() {
            Some((name, rtype, follow)) => Err(format!(
                "{name} {rtype} follows role '{}'; cfgctl zone delete deletes both",
                follow.role
            )),
            None if is_signed(view, zone)? => {
                Err("the zone is signed; cfgctl zone delete deletes both".to_owned())
            }
            None => Ok(()),
        },
        (Place::Signing(zone), Some(value)) => match parse::<SigningObject>(value) {
            Ok(object) => put_signing(view, zone, &object, at_ms)?,
            Err(why) => Err(why),
        },
        (Place::Node(zone, generation, name), Some(value)) => {
            let read = parse::<NodeObject>(value).and_then(|object| object.read(zone, name));
            match read {
                Ok((name, node)) => put_node(view, zone, *generation, &name, &node)?,
                Err(why) => Err(why),
            }
        }
        (Place::Node(zone, generation, name), None) => {
            if name == zone.name() && in_force(view, zone)? == Some(*generation) {
                Err("the zone is in force: cfgctl zone delete".to_owned())
            } else {
                Ok(())
            }
        }
        (Place::Follow(zone, name, rtype), Some(value)) => match parse::<Follow>(value) {
            Ok(follow) => put_follow(view, zone, name, (*rtype, &follow))?,
            Err(why) => Err(why),
        },
        (Place::Follow(..) | Place::Signing(_), None) => Ok(()),
    };
    Ok(checked.map_err(invalid))
}

/// Whether a zone is signed.
fn is_signed(view: &dyn View, zone: &ZoneName) -> io::Result<bool> {
    let key = tables::current(&keys::signing(zone));
    Ok(tables::get::<KeyRecord>(view, &key)?.is_some())
}

/// Whether a zone can be signed so that validators believe it.
fn put_signing(
    view: &dyn View,
    zone: &ZoneName,
    object: &SigningObject,
    at_ms: i64,
) -> io::Result<Result<(), String>> {
    let now_s = u64::try_from(at_ms / 1_000).ok().filter(|now| *now > 0);
    if let Err(why) = object.check(now_s) {
        return Ok(Err(why));
    }
    if in_force(view, zone)?.is_none() {
        return Ok(Err(format!(
            "zone '{zone}' does not exist; cfgctl zone apply FILE"
        )));
    }
    Ok(Ok(()))
}

fn parse<T: DeserializeOwned>(value: &Bytes) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

/// The generation of a zone that is in force.
pub(super) fn in_force(view: &dyn View, zone: &ZoneName) -> io::Result<Option<u64>> {
    let settings = load::<Settings>(view, &keys::zone(zone))?;
    Ok(settings.map(|settings| settings.generation))
}

/// Whether a generation can be answered from, beside what follows roles.
fn come_into_force(
    view: &dyn View,
    zone: &ZoneName,
    generation: u64,
) -> io::Result<Result<(), String>> {
    if let Err(why) = apex(view, zone, generation)? {
        return Ok(Err(why));
    }
    for (name, rtype, follow) in follows(view, zone)? {
        if let Err(why) = answered_from(view, zone, generation, &name)? {
            return Ok(Err(why));
        }
        if let Some(node) = node(view, zone, generation, &name)?
            && let Err(why) = beside(&node, rtype)
        {
            let role = &follow.role;
            return Ok(Err(format!(
                "{name}: {why}, and {rtype} follows role '{role}'"
            )));
        }
    }
    Ok(Ok(()))
}

/// Whether a generation has what no zone can be without.
fn apex(view: &dyn View, zone: &ZoneName, generation: u64) -> io::Result<Result<(), String>> {
    let apex = node(view, zone, generation, zone.name())?;
    Ok(apex.map_or_else(
        || {
            let key = keys::node(zone, generation, zone.name());
            Err(format!("there is no {}", shown(&key)))
        },
        |apex| has_soa_and_ns(&apex),
    ))
}

pub(super) fn has_soa_and_ns(apex: &Node) -> Result<(), String> {
    for rtype in [Rtype::SOA, Rtype::NS] {
        if !apex.has(rtype) {
            return Err(format!(
                "the apex of the zone has no {rtype} (RFC 1035 5.2)"
            ));
        }
    }
    Ok(())
}

fn put_node(
    view: &dyn View,
    zone: &ZoneName,
    generation: u64,
    name: &Name,
    node: &Node,
) -> io::Result<Result<(), String>> {
    let found = cfgdns_zone::check_node(name, node);
    if let Some(fault) = found.faults.faults().first() {
        return Ok(Err(fault.to_string()));
    }
    if in_force(view, zone)? != Some(generation) {
        return Ok(Ok(()));
    }
    if name == zone.name()
        && let Err(why) = has_soa_and_ns(node)
    {
        return Ok(Err(why));
    }
    if name != zone.name() && node.has(Rtype::NS) || node.has(Rtype::DNAME) {
        for (below, ..) in follows(view, zone)? {
            if let Err(why) = hides(name, node, &below, zone) {
                return Ok(Err(why));
            }
        }
    }
    for (_, rtype, follow) in follows_of(view, zone, name)? {
        if let Err(why) = beside(node, rtype) {
            let role = &follow.role;
            let and = format!("{rtype} follows role '{role}': cfgctl zone unfollow it first");
            return Ok(Err(format!("{why}, and {and}")));
        }
    }
    Ok(Ok(()))
}

/// The records of one name that follow a role.
fn follows_of(
    view: &dyn View,
    zone: &ZoneName,
    name: &Name,
) -> io::Result<Vec<(Name, FollowType, Follow)>> {
    let all = [
        FollowType::A,
        FollowType::Aaaa,
        FollowType::Cname,
        FollowType::Srv,
    ];
    let mut found = Vec::new();
    for rtype in all {
        if let Some(follow) = load(view, &keys::follow(zone, name, rtype))? {
            found.push((name.clone(), rtype, follow));
        }
    }
    Ok(found)
}

/// Whether records of a type can be made beside those that a name has.
fn beside(node: &Node, rtype: FollowType) -> Result<(), String> {
    if node.has(rtype.rtype()) {
        return Err(format!("the name has {rtype} records"));
    }
    if node.has(Rtype::CNAME) {
        return Err("the name is an alias (CNAME), which stands alone".to_owned());
    }
    if rtype == FollowType::Cname {
        return Err("the name has other records, and a CNAME stands alone".to_owned());
    }
    Ok(())
}

/// Whether the zone answers for what `below` has, as far as that is decided by a name at or above
/// it.
fn hides(name: &Name, node: &Node, below: &Name, zone: &ZoneName) -> Result<(), String> {
    let unfollow = "have a name elsewhere follow (cfgctl zone unfollow)";
    if name != zone.name() && node.has(Rtype::NS) && below.is_at_or_below(name) {
        return Err(format!(
            "{below} cannot follow a role: {name} is delegated (NS), and the zone answers for \
             nothing there (RFC 1034 4.2.1); take its NS out, or {unfollow}"
        ));
    }
    if node.has(Rtype::DNAME) && below.is_below(name) {
        return Err(format!(
            "{below} cannot follow a role: {name} has a DNAME, and below it there are no other \
             names (RFC 6672 2.4); take its DNAME out, or {unfollow}"
        ));
    }
    Ok(())
}

/// Whether the zone answers for what a name has.
fn answered_from(
    view: &dyn View,
    zone: &ZoneName,
    generation: u64,
    name: &Name,
) -> io::Result<Result<(), String>> {
    let above = successors(Some(name.clone()), Name::parent);
    for above in above.take_while(|above| above.is_at_or_below(zone.name())) {
        if let Some(node) = node(view, zone, generation, &above)?
            && let Err(why) = hides(&above, &node, name, zone)
        {
            return Ok(Err(why));
        }
    }
    Ok(Ok(()))
}

fn put_follow(
    view: &dyn View,
    zone: &ZoneName,
    name: &Name,
    (rtype, follow): (FollowType, &Follow),
) -> io::Result<Result<(), String>> {
    if let Err(why) = follow.check(zone, rtype) {
        return Ok(Err(why));
    }
    if name.labels().next() == Some(EPOCH_LABEL.as_bytes()) {
        return Ok(Err(format!(
            "{name} cannot follow a role: names that begin with {EPOCH_LABEL} tell the epochs of \
             those that do; have another name follow"
        )));
    }
    let Some(generation) = in_force(view, zone)? else {
        return Ok(Err(format!(
            "zone '{zone}' does not exist; cfgctl zone apply FILE"
        )));
    };
    let role = &follow.role;
    if tables::get::<KeyRecord>(view, &tables::current(&placement_keys::role(role)))?.is_none() {
        return Ok(Err(format!(
            "role '{role}' does not exist; see cfgctl role list"
        )));
    }
    if let Err(why) = answered_from(view, zone, generation, name)? {
        return Ok(Err(why));
    }
    if let Some(node) = node(view, zone, generation, name)?
        && let Err(why) = beside(&node, rtype)
    {
        return Ok(Err(format!("{name}: {why}")));
    }
    let others = follows_of(view, zone, name)?;
    let alone = others.iter().any(|(_, one, _)| *one == FollowType::Cname) && others.len() > 1;
    Ok(if alone {
        Err(format!("{name}: a CNAME stands alone"))
    } else {
        Ok(())
    })
}

/// Whether a zone follows a role; names the first.
pub(crate) fn follower(view: &dyn View, role: &RoleName) -> io::Result<Option<String>> {
    if tables::get::<KeyRecord>(view, &tables::current(&keys::moved(role)))?.is_none() {
        return Ok(None);
    }
    let range = tables::current_range(b"/cfgsvc/follows/", b"/cfgsvc/follows0");
    let mut found = None;
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, value| {
        let record: KeyRecord = tables::decode(stored, value)?;
        let follow = serde_json::from_slice::<Follow>(&record.value);
        if follow.is_ok_and(|follow| follow.role == *role) {
            let key = stored.get(1..).unwrap_or_default();
            found = Some(shown(key));
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
