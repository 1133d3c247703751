//! What the keys of zones say, as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use cfgdns_zone::{Name, Node, Rdata, Rtype, TTL_MAX};
use serde::{Deserialize, Serialize};

use super::keys::ZoneName;
use crate::placement::RoleName;

/// The TTL of a name that follows a role, s, unless it says another.
const FOLLOW_TTL_S: u32 = 5;
/// The longest: for so long a resolver may send clients to a holder that is none any more.
const FOLLOW_TTL_S_MAX: u32 = 300;

/// What an operator says of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The generation of names that is in force.
    pub generation: u64,
}

/// What the group counts of a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneSerial {
    /// The count at the last change of the zone's own keys.
    pub count: u64,
    /// The roles that the zone follows, each with its moves at that time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<RoleName, u64>,
}

impl ZoneSerial {
    /// The count now; `moves` has those of every role that is followed.
    pub fn now(&self, moves: impl Fn(&RoleName) -> u64) -> u64 {
        let since = |(role, then): (&RoleName, &u64)| moves(role).saturating_sub(*then);
        // What is read of a store may be any number, and must bring no name server down.
        self.roles
            .iter()
            .map(since)
            .fold(self.count, u64::wrapping_add)
    }
}

/// What the group counts of a role that zones follow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moved {
    /// How often its holder, the epoch, or the holder's addresses became others.
    pub count: u64,
}

/// What a name has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeObject {
    /// The name as it was written, where that is not in lower case; relative to the zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its records, by type.
    pub sets: BTreeMap<String, SetObject>,
}

/// The records of a name and type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetObject {
    /// How long an answer may be kept, s.
    pub ttl: u32,
    /// The data of each record, as a master file has it; names are relative to the zone.
    pub data: Vec<String>,
}

impl NodeObject {
    /// What `name` of the zone has.
    pub fn of(zone: &ZoneName, name: &Name, node: &Node) -> Self {
        let origin = Some(zone.name());
        let sets = node.sets().iter().map(|set| {
            let data = set.data().iter().map(|data| data.text(set.rtype(), origin));
            let ttl = set.ttl();
            (
                set.rtype().to_string(),
                SetObject {
                    ttl,
                    data: data.collect(),
                },
            )
        });
        let written = name.relative_text(zone.name());
        let lower = name.to_lowercase().relative_text(zone.name());
        Self {
            name: (written != lower).then_some(written),
            sets: sets.collect(),
        }
    }

    /// The name as it was written, and its records; the error says what is wrong with which.
    pub fn read(&self, zone: &ZoneName, key: &Name) -> Result<(Name, Node), String> {
        let origin = Some(zone.name());
        let name = match &self.name {
            None => key.clone(),
            Some(text) => {
                let name = Name::parse(text.as_bytes(), origin);
                let name = name.map_err(|error| format!("name '{}': {error}", shown(text)))?;
                if name != *key {
                    return Err(format!("name '{}' is not that of the key", shown(text)));
                }
                name
            }
        };
        let mut node = Node::default();
        for (text, set) in &self.sets {
            let rtype: Rtype = text
                .parse()
                .map_err(|_| format!("'{}' is no type of records", shown(text)))?;
            let canonical = rtype.to_string();
            if *text != canonical {
                return Err(format!("type '{}' is written '{canonical}'", shown(text)));
            }
            if let Some(refusal) = rtype.refusal() {
                return Err(format!("{rtype}: {}; {}", refusal.rule, refusal.hint));
            }
            if set.ttl > TTL_MAX {
                return Err(format!("{rtype}: ttl is {}, at most {TTL_MAX}", set.ttl));
            }
            if set.data.is_empty() {
                return Err(format!("{rtype}: has no data; leave the type out"));
            }
            for text in &set.data {
                let data = Rdata::parse(rtype, text, origin)
                    .map_err(|error| format!("{rtype} '{}': {error}", shown(text)))?;
                let inserted = node.insert(rtype, set.ttl, data);
                let inserted = inserted.map_err(|error| format!("{rtype}: {error}"))?;
                if inserted.duplicate {
                    return Err(format!("{rtype}: '{}' is there twice", shown(text)));
                }
            }
        }
        if node.sets().is_empty() {
            return Err("has no records; delete the key".to_owned());
        }
        Ok((name, node))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// The first label of the name that tells the epoch of another, which follows a role.
pub const EPOCH_LABEL: &str = "_cfgsvc";

/// The types of records that can follow a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FollowType {
    /// The holder's IPv4 addresses.
    A,
    /// Its IPv6 addresses.
    Aaaa,
    /// Its name.
    Cname,
    /// Its name and port.
    Srv,
}

impl FollowType {
    /// As DNS has it.
    pub fn rtype(self) -> Rtype {
        match self {
            Self::A => Rtype::A,
            Self::Aaaa => Rtype::AAAA,
            Self::Cname => Rtype::CNAME,
            Self::Srv => Rtype::SRV,
        }
    }
}

impl fmt::Display for FollowType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rtype().fmt(f)
    }
}

impl FromStr for FollowType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "A" => Ok(Self::A),
            "AAAA" => Ok(Self::Aaaa),
            "CNAME" => Ok(Self::Cname),
            "SRV" => Ok(Self::Srv),
            _ => Err(format!(
                "'{}' cannot follow a role: A, AAAA, CNAME and SRV can",
                shown(text)
            )),
        }
    }
}

/// A name that follows a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// The role.
    pub role: RoleName,
    /// How long an answer may be kept, s.
    #[serde(default = "follow_ttl")]
    pub ttl: u32,
    /// Of CNAME and SRV: the holder's name is looked for below this one, `HOLDER.NAMES`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// Of SRV: the port, where it is not that of the holder's first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Of A and AAAA: how often an address comes first, among the others; 1 where it is not said,
    /// and 0 for one that is not answered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<core::net::IpAddr, u16>,
}

fn follow_ttl() -> u32 {
    FOLLOW_TTL_S
}

impl Follow {
    /// Whether the settings make sense for the type, in the zone.
    pub fn check(&self, zone: &ZoneName, rtype: FollowType) -> Result<(), String> {
        if self.ttl > FOLLOW_TTL_S_MAX {
            return Err(format!(
                "ttl is {}, allowed: 0 to {FOLLOW_TTL_S_MAX}, as clients go to the old holder for \
                 so long",
                self.ttl
            ));
        }
        if self.role.is_lock() {
            return Err(format!("'{}' is a lock: it has no address", self.role));
        }
        let by_name = matches!(rtype, FollowType::Cname | FollowType::Srv);
        match &self.names {
            Some(names) if by_name => below(zone, names).map(drop)?,
            Some(_) => return Err(format!("names is for CNAME and SRV, not for {rtype}")),
            None if by_name => {
                return Err(format!(
                    "{rtype} needs names: the domain below which each host or colo has its name"
                ));
            }
            None => {}
        }
        if self.port.is_some() && rtype != FollowType::Srv {
            return Err(format!("port is for SRV, not for {rtype}"));
        }
        let fits = |address: &core::net::IpAddr| match rtype {
            FollowType::A => address.is_ipv4(),
            FollowType::Aaaa => address.is_ipv6(),
            FollowType::Cname | FollowType::Srv => false,
        };
        match self.weights.keys().find(|address| !fits(address)) {
            Some(address) => Err(format!("weight of {address} does not fit {rtype}")),
            None => Ok(()),
        }
    }

    /// The name of a holder of the role; `None` when there is none, or it would be too long.
    pub fn target(&self, zone: &ZoneName, holder: &str) -> Option<Name> {
        let domain = below(zone, self.names.as_ref()?).ok()?;
        Name::parse(holder.as_bytes(), Some(&domain)).ok()
    }
}

/// The domain of the holders' names.
fn below(zone: &ZoneName, names: &str) -> Result<Name, String> {
    Name::parse(names.as_bytes(), Some(zone.name()))
        .map_err(|error| format!("names '{}': {error}", shown(names)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> ZoneName {
        "example.com".parse().expect("a zone")
    }

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes(), Some(zone().name())).expect("a name")
    }

    #[test]
    fn what_a_name_has_is_written_and_read_again() {
        let text = r#"{"name":"WWW","sets":{"A":{"ttl":300,"data":["192.0.2.1","192.0.2.2"]},"MX":{"ttl":60,"data":["10 mail","20 mail.example.org."]},"TYPE4711":{"ttl":0,"data":["\\# 2 AB01"]}}}"#;
        let object: NodeObject = serde_json::from_str(text).expect("an object");
        let (written, node) = object.read(&zone(), &name("www")).expect("records");
        assert_eq!(written.to_string(), "WWW.example.com.");
        assert_eq!(node.sets().len(), 3);
        assert_eq!(NodeObject::of(&zone(), &written, &node), object);
        assert_eq!(serde_json::to_string(&object).expect("JSON"), text);
    }

    #[test]
    fn records_that_say_nothing_are_refused_by_name() {
        for (text, why) in [
            (r#"{"sets":{}}"#, "has no records; delete the key"),
            (
                r#"{"sets":{"A":{"ttl":1,"data":[]}}}"#,
                "A: has no data; leave the type out",
            ),
            (
                r#"{"sets":{"a":{"ttl":1,"data":["192.0.2.1"]}}}"#,
                "type 'a' is written 'A'",
            ),
            (
                r#"{"sets":{"A":{"ttl":2147483648,"data":["192.0.2.1"]}}}"#,
                "A: ttl is 2147483648, at most 2147483647",
            ),
            (
                r#"{"sets":{"XY":{"ttl":1,"data":["1"]}}}"#,
                "'XY' is no type of records",
            ),
            (
                r#"{"sets":{"A":{"ttl":1,"data":["192.0.2.1","192.0.2.1"]}}}"#,
                "A: '192.0.2.1' is there twice",
            ),
            (
                r#"{"name":"w","sets":{"A":{"ttl":1,"data":["192.0.2.1"]}}}"#,
                "name 'w' is not that of the key",
            ),
        ] {
            let object: NodeObject = serde_json::from_str(text).expect("an object");
            let read = object.read(&zone(), &name("www"));
            assert_eq!(read.expect_err(text), why);
        }
        let text = r#"{"sets":{"A":{"ttl":1,"data":["192.0.2.256"]}}}"#;
        let object: NodeObject = serde_json::from_str(text).expect("an object");
        let why = object.read(&zone(), &name("www")).expect_err("no address");
        assert!(why.starts_with("A '192.0.2.256': "), "{why}");
    }

    #[test]
    fn the_count_is_that_of_the_last_change_and_all_moves_since() {
        let web: RoleName = "web".parse().expect("a role");
        let mut serial = ZoneSerial {
            count: 7,
            roles: BTreeMap::new(),
        };
        assert_eq!(serial.now(|_| 4), 7);
        serial.roles.insert(web, 3);
        assert_eq!(serial.now(|_| 3), 7);
        assert_eq!(serial.now(|_| 5), 9);
        serial.count = u64::MAX;
        assert_eq!(serial.now(|_| 5), 1);
    }
}
