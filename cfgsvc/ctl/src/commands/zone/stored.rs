//! A zone as the group keeps it: read at one revision.

use crate::diagnostics::Diagnostic;
use crate::past::unreadable;
use crate::placed::parse;
use crate::render::{cell, count};
use bytes::Bytes;
use cfgdns_zone::{Name, Rtype, Soa, Zone};
use cfgsvc_client::{Client, Get, KeyValue, Keys, KvError};
use cfgsvc_core::placement::keys::Place as Placed;
use cfgsvc_core::zones::{
    Follow, FollowType, Moved, NodeObject, Place, Settings, ZoneName, ZoneSerial, keys, on_wire,
};

/// A zone, and the versions that a change of it is conditional on.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) name: ZoneName,
    /// All was so at this revision.
    pub(crate) revision: i64,
    /// `None`: the zone is not in force.
    pub(crate) settings: Option<Settings>,
    /// Versions of the settings and of the serial; 0: there is none.
    pub(crate) versions: (i64, i64),
    pub(crate) zone: Zone,
    pub(crate) follows: Vec<(Name, FollowType, Follow)>,
    /// As it is on the wire.
    pub(crate) serial: u32,
}

/// One key at a revision.
async fn one(client: &Client, key: Bytes, revision: i64) -> Result<Option<KeyValue>, Diagnostic> {
    let get = Get::new(Keys::One(key)).revision(revision);
    let read = client.get(get).await;
    match read {
        Ok(reply) => Ok(reply.kvs.into_iter().next()),
        Err(error) => Err(unreadable(client, error).await),
    }
}

/// The revision of the group now.
async fn now(client: &Client) -> Result<i64, KvError> {
    let reply = client.get(Get::new("/cfgsvc/zones/").keys_only()).await?;
    Ok(reply.revision)
}

impl Stored {
    /// Reads the zone as it was at `revision`, or is now when that is 0.
    pub(crate) async fn read(
        client: &Client,
        name: &ZoneName,
        revision: i64,
    ) -> Result<Self, Diagnostic> {
        let revision = match revision {
            0 => now(client).await?,
            past => past,
        };
        let settings = one(client, keys::zone(name), revision).await?;
        let serial = one(client, keys::serial(name), revision).await?;
        let version = |kv: &Option<KeyValue>| kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let versions = (version(&settings), version(&serial));
        let settings: Option<Settings> = settings.as_ref().map(parse).transpose()?;
        let counted: Option<ZoneSerial> = serial.as_ref().map(parse).transpose()?;
        let counted = counted.unwrap_or_default();
        let mut moves = Vec::new();
        for role in counted.roles.keys() {
            let moved = one(client, keys::moved(role), revision).await?;
            let moved: Option<Moved> = moved.as_ref().map(parse).transpose()?;
            moves.push((role.clone(), moved.unwrap_or_default().count));
        }
        let count = counted.now(|role| {
            let found = moves.iter().find(|(one, _)| one == role);
            found.map_or(0, |(_, count)| *count)
        });
        let mut stored = Self {
            name: name.clone(),
            revision,
            settings,
            versions,
            zone: Zone::new(name.name().clone()),
            follows: Vec::new(),
            serial: on_wire(count),
        };
        if let Some(settings) = &stored.settings {
            let nodes = keys::nodes(name, settings.generation);
            stored.add(client, nodes).await?;
        }
        stored.add(client, keys::follows(name)).await?;
        Ok(stored)
    }

    /// Reads all keys of a range into the zone.
    async fn add(&mut self, client: &Client, (from, to): (Bytes, Bytes)) -> Result<(), Diagnostic> {
        let get = Get::new(Keys::Range(from, to)).revision(self.revision);
        let mut pages = match client.get_pages(get).await {
            Ok(pages) => pages,
            Err(error) => return Err(unreadable(client, error).await),
        };
        while let Some(page) = pages.next().await? {
            for kv in page {
                self.take(&kv)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, kv: &KeyValue) -> Result<(), Diagnostic> {
        let unlike = |why: String| {
            let key = cell(&kv.key);
            Diagnostic::refused(format!("key `{key}`: {why}"))
                .hint("it may be of a later version than this cfgctl")
        };
        match Placed::of(&kv.key) {
            Some(Ok(Placed::Dns(Place::Node(zone, _, key)))) => {
                let object: NodeObject = parse(kv)?;
                let (name, node) = object.read(&zone, &key).map_err(unlike)?;
                let put = self.zone.put(name, node);
                put.map_err(|error| unlike(error.to_string()))
            }
            Some(Ok(Placed::Dns(Place::Follow(_, name, rtype)))) => {
                self.follows.push((name, rtype, parse(kv)?));
                Ok(())
            }
            _ => Err(unlike("is no key of a zone".to_owned())),
        }
    }

    /// The zone, when it is in force.
    pub(crate) fn in_force(&self) -> Result<&Zone, Diagnostic> {
        if self.settings.is_some() {
            return Ok(&self.zone);
        }
        Err(Diagnostic::refused(format!(
            "there is no zone `{}` at revision {}",
            self.name, self.revision
        ))
        .hint("`cfgctl zone list` prints those that there are"))
    }

    /// The zone with its serial, as a name server has it.
    pub(crate) fn with_serial(&self) -> Zone {
        let mut zone = self.zone.clone();
        set_serial(&mut zone, self.serial);
        zone
    }

    /// How much there is, for people.
    pub(crate) fn size(&self) -> String {
        format!(
            "{}, {}",
            count(self.zone.node_count() as i128, "name"),
            count(self.zone.record_count() as i128, "record")
        )
    }
}

/// Gives the start of authority another serial, where there is one.
pub(crate) fn set_serial(zone: &mut Zone, serial: u32) {
    let origin = zone.origin().clone();
    let (Some(soa), Some(set)) = (zone.soa(), zone.set(&origin, Rtype::SOA)) else {
        return;
    };
    let data = Soa { serial, ..soa }.to_data();
    let set = cfgdns_zone::RrSet::new(Rtype::SOA, set.ttl(), data);
    zone.replace(&origin, set)
        .expect("the origin is in its zone");
}
