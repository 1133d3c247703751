//! What must hold of zones in every store that the machine has written.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::keys::Place;
use super::objects::{Follow, Moved, NodeObject, Settings, ZoneSerial};
use super::review::has_soa_and_ns;
use super::signing::SigningObject;
use crate::placement::RoleName;

fn parse<T: DeserializeOwned>(place: &Place, value: &Bytes) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("{place:?} is no object: {error}"))
}

/// Checks all keys of zones; `is_role` says whether there is a role.
pub(crate) fn invariants(
    all: &BTreeMap<Place, Bytes>,
    is_role: impl Fn(&RoleName) -> bool,
) -> Result<(), String> {
    for (place, value) in all {
        match place {
            Place::Zone(zone) => {
                let settings: Settings = parse(place, value)?;
                let apex = Place::Node(zone.clone(), settings.generation, zone.name().clone());
                let node = all
                    .get(&apex)
                    .ok_or_else(|| format!("there is no {apex:?}"))?;
                let (_, node) = parse::<NodeObject>(&apex, node)?.read(zone, zone.name())?;
                has_soa_and_ns(&node).map_err(|why| format!("{apex:?}: {why}"))?;
                if !all.contains_key(&Place::Serial(zone.clone())) {
                    return Err(format!("zone {zone} has no serial"));
                }
            }
            Place::Node(zone, _, name) => {
                let read = parse::<NodeObject>(place, value)?.read(zone, name);
                read.map_err(|why| format!("{place:?}: {why}"))?;
            }
            Place::Follow(zone, _, rtype) => {
                let follow: Follow = parse(place, value)?;
                let made = follow.check(zone, *rtype);
                made.map_err(|why| format!("{place:?}: {why}"))?;
                let counted = all.contains_key(&Place::Moved(follow.role.clone()));
                let forced = all.contains_key(&Place::Zone(zone.clone()));
                if !is_role(&follow.role) || !counted || !forced {
                    return Err(format!(
                        "{place:?} follows role '{}', or its zone is not there",
                        follow.role
                    ));
                }
            }
            Place::Signing(zone) => {
                let object: SigningObject = parse(place, value)?;
                object.read().map_err(|why| format!("{place:?}: {why}"))?;
                if !all.contains_key(&Place::Zone(zone.clone())) {
                    return Err(format!("{place:?}: there is no such zone"));
                }
            }
            Place::Serial(zone) => {
                let serial: ZoneSerial = parse(place, value)?;
                if serial.count == 0 {
                    return Err(format!("the serial of {zone} counts nothing"));
                }
            }
            Place::Catalog => {
                parse::<Moved>(place, value)?;
            }
            Place::Moved(role) => {
                parse::<Moved>(place, value)?;
                if !is_role(role) {
                    return Err(format!("moves of '{role}' are counted, which is no role"));
                }
            }
        }
    }
    Ok(())
}
