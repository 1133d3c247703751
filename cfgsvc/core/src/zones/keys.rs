//! Where zones are in the keyspace, and how names of DNS are written in keys.
//!
//! A name in a key has one way to be written: in lower case, as a master file has it, with `/` as
//! `\047` (zones of RFC 2317 have it in a label). That of a zone is without the dot at its end, but
//! for the root; that below a zone is relative to it, and `@` at its apex.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use cfgdns_zone::Name;

use super::objects::FollowType;
use crate::placement::RoleName;

/// Most bytes of a name in a key: each octet of the wire can be four characters.
const TEXT_BYTES_MAX: usize = 4 * 255;

/// The name of a zone, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneName(Name);

impl ZoneName {
    /// The zone at `name`.
    pub fn new(name: &Name) -> Self {
        Self(name.to_lowercase())
    }

    /// The name of its apex.
    pub fn name(&self) -> &Name {
        &self.0
    }

    /// A name in the zone as keys have it.
    pub fn text_of(&self, name: &Name) -> String {
        escaped(&name.to_lowercase().relative_text(&self.0))
    }

    /// The name that a key has in this zone.
    fn read(&self, text: &str) -> Result<Name, String> {
        let found = parse(text, Some(&self.0))?;
        if !found.is_at_or_below(&self.0) {
            return Err(format!("'{}' is not in zone {self}", shown(text)));
        }
        let written = self.text_of(&found);
        if written == text {
            return Ok(found);
        }
        Err(format!("name '{}' is written '{written}'", shown(text)))
    }
}

fn escaped(text: &str) -> String {
    text.replace('/', "\\047")
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

fn parse(text: &str, origin: Option<&Name>) -> Result<Name, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("a name of {} bytes is too long", text.len()));
    }
    let name = Name::parse(text.as_bytes(), origin);
    name.map_err(|error| format!("name '{}': {error}", shown(text)))
}

impl fmt::Display for ZoneName {
    /// As keys have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = escaped(&self.0.to_string());
        match text.strip_suffix('.') {
            Some("") | None => f.write_str(&text),
            Some(text) => f.write_str(text),
        }
    }
}

impl FromStr for ZoneName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let zone = Self::new(&parse(text, Some(&Name::root()))?);
        if zone.to_string() == text {
            return Ok(zone);
        }
        Err(format!("zone '{}' is written '{zone}'", shown(text)))
    }
}

/// What a key about zones is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// What is said of a zone.
    Zone(ZoneName),
    /// What a name has, in a generation of a zone.
    Node(ZoneName, u64, Name),
    /// A name of a zone that follows a role.
    Follow(ZoneName, Name, FollowType),
    /// How a zone is signed.
    Signing(ZoneName),
    /// What the group counts of a zone.
    Serial(ZoneName),
    /// What the group counts of a role that is followed.
    Moved(RoleName),
    /// What the group counts of zones that come and go: the serial of a catalog of them (RFC 9432).
    Catalog,
}

impl Place {
    /// What the key `/cfgsvc/TABLE/REST` is for; `None` when it is not about zones.
    pub(crate) fn parse(table: &str, rest: &str) -> Option<Result<Self, String>> {
        Some(match table {
            "zones" => rest.parse().map(Self::Zone),
            "catalog" if rest.is_empty() => Ok(Self::Catalog),
            "signing" => rest.parse().map(Self::Signing),
            "serials" => rest.parse().map(Self::Serial),
            "names" => Self::node(rest),
            "follows" => Self::follow(rest),
            "moved" => rest
                .parse()
                .map(Self::Moved)
                .map_err(|error: crate::placement::name::BadName| error.to_string()),
            _ => return None,
        })
    }

    fn node(rest: &str) -> Result<Self, String> {
        let parts: Vec<&str> = rest.split('/').collect();
        let &[zone, generation, name] = parts.as_slice() else {
            return Err("is not names/ZONE/GENERATION/NAME".to_owned());
        };
        let zone: ZoneName = zone.parse()?;
        let number = generation.parse::<u64>().ok();
        let number = number.filter(|number| number.to_string() == generation);
        let number = number.ok_or_else(|| format!("'{}' is no generation", shown(generation)))?;
        let name = zone.read(name)?;
        Ok(Self::Node(zone, number, name))
    }

    fn follow(rest: &str) -> Result<Self, String> {
        let parts: Vec<&str> = rest.split('/').collect();
        let &[zone, name, rtype] = parts.as_slice() else {
            return Err("is not follows/ZONE/NAME/TYPE".to_owned());
        };
        let zone: ZoneName = zone.parse()?;
        let name = zone.read(name)?;
        let rtype = rtype.parse()?;
        Ok(Self::Follow(zone, name, rtype))
    }
}

/// Key of what is said of a zone.
pub fn zone(zone: &ZoneName) -> Bytes {
    format!("/cfgsvc/zones/{zone}").into()
}

/// Key of how a zone is signed.
pub fn signing(zone: &ZoneName) -> Bytes {
    format!("/cfgsvc/signing/{zone}").into()
}

/// Key of what the group counts of a zone.
pub fn serial(zone: &ZoneName) -> Bytes {
    format!("/cfgsvc/serials/{zone}").into()
}

/// Key of what the group counts of a role that is followed.
pub fn moved(role: &RoleName) -> Bytes {
    format!("/cfgsvc/moved/{role}").into()
}

/// Key of what the group counts of zones that come and go.
pub const CATALOG: Bytes = Bytes::from_static(b"/cfgsvc/catalog");

/// Key of what a name has, in a generation of a zone.
pub fn node(zone: &ZoneName, generation: u64, name: &Name) -> Bytes {
    let name = zone.text_of(name);
    format!("/cfgsvc/names/{zone}/{generation}/{name}").into()
}

/// First key and end of all names of a generation.
pub fn nodes(zone: &ZoneName, generation: u64) -> (Bytes, Bytes) {
    below(&format!("/cfgsvc/names/{zone}/{generation}"))
}

/// First key and end of all names of all generations.
pub fn generations(zone: &ZoneName) -> (Bytes, Bytes) {
    below(&format!("/cfgsvc/names/{zone}"))
}

/// Key of a name that follows a role.
pub fn follow(zone: &ZoneName, name: &Name, rtype: FollowType) -> Bytes {
    let name = zone.text_of(name);
    format!("/cfgsvc/follows/{zone}/{name}/{rtype}").into()
}

/// First key and end of all names of a zone that follow a role.
pub fn follows(zone: &ZoneName) -> (Bytes, Bytes) {
    below(&format!("/cfgsvc/follows/{zone}"))
}

/// '0' follows '/'.
fn below(prefix: &str) -> (Bytes, Bytes) {
    (format!("{prefix}/").into(), format!("{prefix}0").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes(), None).expect("a name")
    }

    #[test]
    fn keys_say_what_they_are_for() {
        let zone = ZoneName::new(&name("Example.COM."));
        let www = name("WWW.example.com.");
        for (key, expected) in [
            (super::zone(&zone), "/cfgsvc/zones/example.com"),
            (signing(&zone), "/cfgsvc/signing/example.com"),
            (serial(&zone), "/cfgsvc/serials/example.com"),
            (node(&zone, 7, &www), "/cfgsvc/names/example.com/7/www"),
            (node(&zone, 7, zone.name()), "/cfgsvc/names/example.com/7/@"),
            (
                follow(&zone, &www, FollowType::Aaaa),
                "/cfgsvc/follows/example.com/www/AAAA",
            ),
        ] {
            assert_eq!(key, expected);
            let rest = expected.strip_prefix("/cfgsvc/").expect("the prefix");
            let (table, rest) = rest.split_once('/').expect("a table");
            let place = Place::parse(table, rest).expect("a table of zones");
            let back = match place.expect("a key") {
                Place::Zone(zone) => super::zone(&zone),
                Place::Signing(zone) => signing(&zone),
                Place::Serial(zone) => serial(&zone),
                Place::Node(zone, generation, name) => node(&zone, generation, &name),
                Place::Follow(zone, name, rtype) => follow(&zone, &name, rtype),
                Place::Moved(role) => moved(&role),
                Place::Catalog => CATALOG,
            };
            assert_eq!(back, key);
        }
    }

    #[test]
    fn names_with_slashes_dots_and_the_root_have_keys_of_their_own() {
        let reverse = name("0/25.2.0.192.in-addr.arpa.");
        let zone = ZoneName::new(&reverse);
        assert_eq!(zone.to_string(), "0\\04725.2.0.192.in-addr.arpa");
        assert_eq!(zone.to_string().parse(), Ok(zone.clone()));
        let host = reverse.child(b"a.b/c").expect("a name");
        let key = node(&zone, 1, &host);
        let rest = key.strip_prefix(b"/cfgsvc/names/").expect("the table");
        let rest = std::str::from_utf8(rest).expect("UTF-8");
        assert_eq!(Place::node(rest), Ok(Place::Node(zone, 1, host)));
        let root = ZoneName::new(&Name::root());
        assert_eq!(root.to_string(), ".");
        assert_eq!(".".parse(), Ok(root.clone()));
        assert_eq!(node(&root, 1, &name("com.")), "/cfgsvc/names/./1/com.");
        assert_eq!(
            Place::node("./1/com."),
            Ok(Place::Node(root, 1, name("com.")))
        );
    }

    #[test]
    fn a_name_is_written_in_one_way_only() {
        for bad in [
            "Example.com/1/www",
            "example.com./1/www",
            "example.com/01/www",
            "example.com/1/WWW",
            "example.com/1/www.example.com.",
            "example.com/1/www.example.org.",
            "example.com/1/",
            "example.com/1",
            "/1/www",
            "example.com/1/a/b",
            "example.com/x/www",
        ] {
            assert!(Place::node(bad).is_err(), "{bad}");
        }
        let why = Place::node("example.com/1/WWW").expect_err("upper case");
        assert_eq!(why, "name 'WWW' is written 'www'");
    }
}
