//! What the group's keys say of one zone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cfgdns_core::{LazyTree, Tree};
use cfgdns_sign::{PrivateKeys, Signer, Signing};
use cfgdns_zone::{Name, Node, Zone};
use cfgsvc_core::placement::RoleName;
use cfgsvc_core::zones::{
    Follow, FollowType, NodeObject, Place, Settings, SigningObject, ZoneName, ZoneSerial, on_wire,
};
use serde::de::DeserializeOwned;

use crate::follow::{Following, Follows};
use crate::placement::{Placement, Read};

/// A zone, in force or not.
#[derive(Debug)]
pub(crate) struct ZoneKeys {
    name: ZoneName,
    settings: Option<Settings>,
    /// The names of each generation.
    generations: BTreeMap<u64, Zone>,
    follows: Follows,
    serial: Option<Arc<ZoneSerial>>,
    /// How it is signed, if it is.
    signing: Option<Arc<Signing>>,
    /// What could not be read, with why.
    unreadable: BTreeMap<Place, String>,
    /// What was made of all this but the serial, when that was last done.
    packed: Option<Arc<Packed>>,
}

/// What a zone has whoever holds which role.
#[derive(Debug)]
struct Packed {
    /// Without sets that follow roles.
    tree: Tree,
    following: Following,
}

/// What a change is to what is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stale {
    /// Nothing.
    Nothing,
    /// What follows roles, and the serial, are others.
    Live,
    /// All of it may be.
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
            packed: None,
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

    /// A key of the zone has another value, or is gone; whether what is answered may be another.
    pub(crate) fn change(&mut self, place: Place, value: Option<&[u8]>) -> bool {
        let changed = match &place {
            Place::Zone(_) => self.change_settings(value),
            Place::Node(_, generation, name) => self.change_node(*generation, name, value),
            Place::Follow(_, name, rtype) => self.change_follow(name, *rtype, value),
            Place::Signing(_) => self.change_signing(value),
            Place::Serial(_) => {
                let read = value.map(parse::<ZoneSerial>).transpose();
                read.map(|serial| {
                    self.serial = serial.map(Arc::new);
                    Stale::Live
                })
            }
            Place::Moved(_) | Place::Catalog => Ok(Stale::Nothing),
        };
        // What could not be read may be read now, and the other way round.
        let known_before = self.unreadable.remove(&place).is_none();
        let stale = match changed {
            Ok(stale) if known_before => stale,
            Ok(_) => Stale::Packed,
            Err(why) => {
                self.unreadable.insert(place, why);
                Stale::Packed
            }
        };
        if stale == Stale::Packed {
            self.packed = None;
        }
        stale != Stale::Nothing
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

    /// The zone as it is answered; the error says why it cannot be.
    pub(crate) fn tree(
        &mut self,
        placement: &Arc<Placement>,
        keys: &PrivateKeys,
    ) -> Read<LazyTree> {
        let packed = match &self.packed {
            Some(packed) => Arc::clone(packed),
            None => Arc::new(self.pack(keys)?),
        };
        self.packed = Some(Arc::clone(&packed));
        let serial = self.serial.clone().ok_or("the zone has no serial")?;
        let placement = Arc::clone(placement);
        Ok(LazyTree::later(move || {
            let live = packed.live(&serial, &placement);
            live.unwrap_or_else(|why| Tree::closed(packed.tree.origin(), &why))
        }))
    }

    fn pack(&self, keys: &PrivateKeys) -> Read<Packed> {
        let zone = self.readable()?;
        let following = Following::new(&self.name, zone, &self.follows);
        let packed = Tree::build_with(zone, &following.names());
        let packed = packed.map_err(|error| error.to_string())?;
        let tree = match &self.signing {
            None => packed,
            Some(signing) => match Signer::new(self.name.name(), Arc::clone(signing), keys) {
                Ok(signer) => packed
                    .signed(Arc::new(signer))
                    .map_err(|error| error.to_string())?,
                Err(missing) => packed.lacking_keys(&missing.to_string()),
            },
        };
        Ok(Packed { tree, following })
    }

    /// There are other private keys; whether that may change what is answered.
    pub(crate) fn keys_changed(&mut self) -> bool {
        if self.signing.is_some() {
            self.packed = None;
        }
        self.signing.is_some()
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
}

impl Packed {
    /// With what follows roles as it is now.
    fn live(&self, serial: &ZoneSerial, placement: &Placement) -> Read<Tree> {
        let mut moves = BTreeMap::new();
        for role in serial.roles.keys() {
            moves.insert(role, placement.moves(role)?.count);
        }
        let serial = serial.now(|role| moves.get(role).copied().unwrap_or_default());
        let sets = self.following.sets(placement)?;
        let live = self.tree.with(on_wire(serial), sets);
        live.map_err(|error| error.to_string())
    }
}
