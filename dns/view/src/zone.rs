//! What the group's keys say of one zone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cfgdns_core::{LiveSet, Tree};
use cfgdns_sign::{PrivateKey, Signer, Signing};
use cfgdns_zone::{Name, Node, Zone};
use cfgsvc_core::placement::RoleName;
use cfgsvc_core::zones::{
    Follow, FollowType, NodeObject, Place, Settings, SigningObject, ZoneName, ZoneSerial, on_wire,
};
use serde::de::DeserializeOwned;

use crate::follow::{self, Follows};
use crate::placement::{Placement, Read};

/// A zone, in force or not.
#[derive(Debug)]
pub(crate) struct ZoneKeys {
    name: ZoneName,
    settings: Option<Settings>,
    /// The names of each generation.
    generations: BTreeMap<u64, Zone>,
    follows: Follows,
    serial: Option<ZoneSerial>,
    /// How it is signed, if it is.
    signing: Option<Arc<Signing>>,
    /// What could not be read, with why.
    unreadable: BTreeMap<Place, String>,
}

/// What must be made anew after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stale {
    /// Nothing that is answered.
    Nothing,
    /// What follows roles, and the serial.
    Live,
    /// All of it.
    Packed,
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Read<T> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

impl ZoneKeys {
    /// A zone without keys.
    pub(crate) fn new(name: ZoneName) -> Self {
        Self {
            name,
            settings: None,
            generations: BTreeMap::new(),
            follows: Follows::new(),
            serial: None,
            signing: None,
            unreadable: BTreeMap::new(),
        }
    }

    /// Whether there is no key.
    pub(crate) fn is_empty(&self) -> bool {
        self.settings.is_none()
            && self.generations.is_empty()
            && self.follows.is_empty()
            && self.serial.is_none()
            && self.signing.is_none()
            && self.unreadable.is_empty()
    }

    /// Whether it is there for those who ask.
    pub(crate) fn is_in_force(&self) -> bool {
        let unread = Place::Zone(self.name.clone());
        self.settings.is_some() || self.unreadable.contains_key(&unread)
    }

    /// The roles that its names follow, or its serial counts the moves of.
    pub(crate) fn roles(&self) -> BTreeSet<&RoleName> {
        let counted = self.serial.iter().flat_map(|serial| serial.roles.keys());
        let followed = self.follows.values().map(|follow| &follow.role);
        followed.chain(counted).collect()
    }

    /// A key of the zone has another value, or is gone.
    pub(crate) fn change(&mut self, place: Place, value: Option<&[u8]>) -> Stale {
        let changed = match &place {
            Place::Zone(_) => self.change_settings(value),
            Place::Node(_, generation, name) => self.change_node(*generation, name, value),
            Place::Follow(_, name, rtype) => self.change_follow(name, *rtype, value),
            Place::Signing(_) => self.change_signing(value),
            Place::Serial(_) => {
                let read = value.map(parse::<ZoneSerial>).transpose();
                read.map(|serial| {
                    self.serial = serial;
                    Stale::Live
                })
            }
            Place::Moved(_) | Place::Catalog => Ok(Stale::Nothing),
        };
        // What could not be read may be read now, and the other way round.
        let known_before = self.unreadable.remove(&place).is_none();
        match changed {
            Ok(stale) if known_before => stale,
            Ok(_) => Stale::Packed,
            Err(why) => {
                self.unreadable.insert(place, why);
                Stale::Packed
            }
        }
    }

    fn change_settings(&mut self, value: Option<&[u8]>) -> Read<Stale> {
        self.settings = value.map(parse).transpose()?;
        Ok(Stale::Packed)
    }

    fn change_signing(&mut self, value: Option<&[u8]>) -> Read<Stale> {
        let object = value.map(parse::<SigningObject>).transpose()?;
        let signing = object.map(|object| object.read()).transpose()?;
        self.signing = signing.map(Arc::new);
        Ok(Stale::Packed)
    }

    fn change_node(&mut self, generation: u64, name: &Name, value: Option<&[u8]>) -> Read<Stale> {
        let (written, node) = match value {
            None => (name.clone(), Node::default()),
            Some(value) => parse::<NodeObject>(value)?.read(&self.name, name)?,
        };
        let origin = self.name.name();
        let zone = self.generations.entry(generation);
        let zone = zone.or_insert_with(|| Zone::new(origin.clone()));
        zone.put(written, node).map_err(|error| error.to_string())?;
        if zone.node_count() == 0 {
            self.generations.remove(&generation);
        }
        Ok(self.stale_if(generation))
    }

    fn stale_if(&self, generation: u64) -> Stale {
        let in_force = self.settings.as_ref();
        if in_force.is_some_and(|settings| settings.generation == generation) {
            Stale::Packed
        } else {
            Stale::Nothing
        }
    }

    fn change_follow(
        &mut self,
        name: &Name,
        rtype: FollowType,
        value: Option<&[u8]>,
    ) -> Read<Stale> {
        let key = (name.clone(), rtype);
        match value {
            None => {
                self.follows.remove(&key);
            }
            Some(value) => {
                let follow: Follow = parse(value)?;
                follow.check(&self.name, rtype)?;
                self.follows.insert(key, follow);
            }
        }
        Ok(Stale::Packed)
    }

    /// The zone as it is answered, from these keys alone; the error says why it cannot be.
    pub(crate) fn pack(&self, placement: &Placement, keys: &[Arc<PrivateKey>]) -> Read<Tree> {
        let zone = self.readable()?;
        let names = follow::names(&self.follows, zone);
        let packed = Tree::build_with(zone, &names).map_err(|error| error.to_string())?;
        let signed = match &self.signing {
            None => packed,
            Some(signing) => match Signer::new(self.name.name(), Arc::clone(signing), keys) {
                Ok(signer) => packed
                    .signed(Arc::new(signer))
                    .map_err(|error| error.to_string())?,
                Err(_) => packed.lacking_keys(),
            },
        };
        self.renew(&signed, placement)
    }

    /// Whether the private keys that it must be signed with are here; the error names them.
    pub(crate) fn has_keys(&self, keys: &[Arc<PrivateKey>]) -> Read<()> {
        let Some(signing) = &self.signing else {
            return Ok(());
        };
        let signer = Signer::new(self.name.name(), Arc::clone(signing), keys);
        signer.map(drop).map_err(|missing| missing.to_string())
    }

    /// Whether it is signed.
    pub(crate) fn is_signed(&self) -> bool {
        self.signing.is_some()
    }

    /// The packed records of `before`, with what follows roles as it is now.
    pub(crate) fn renew(&self, before: &Tree, placement: &Placement) -> Read<Tree> {
        let zone = self.readable()?;
        let sets: Vec<LiveSet> = follow::sets(&self.name, zone, &self.follows, placement)?;
        let serial = self.serial(placement)?;
        let renewed = before.with(serial, sets);
        renewed.map_err(|error| error.to_string())
    }

    /// The names in force; the error says what of the zone could not be read.
    fn readable(&self) -> Read<&Zone> {
        let generation = self.settings.as_ref().map(|settings| settings.generation);
        let of_another = |place: &Place| match place {
            Place::Node(_, of, _) => Some(*of) != generation,
            Place::Zone(_)
            | Place::Follow(..)
            | Place::Signing(_)
            | Place::Serial(_)
            | Place::Moved(_)
            | Place::Catalog => false,
        };
        if let Some((place, why)) = self.unreadable.iter().find(|(place, _)| !of_another(place)) {
            return Err(format!("{place:?} cannot be read: {why}"));
        }
        let generation = generation.ok_or("the zone is not in force")?;
        let zone = self.generations.get(&generation);
        zone.ok_or_else(|| format!("generation {generation} has no names"))
    }

    fn serial(&self, placement: &Placement) -> Read<u32> {
        let serial = self.serial.as_ref().ok_or("the zone has no serial")?;
        let mut moves = BTreeMap::new();
        for role in serial.roles.keys() {
            moves.insert(role, placement.moves(role)?.count);
        }
        Ok(on_wire(
            serial.now(|role| moves.get(role).copied().unwrap_or_default()),
        ))
    }
}
