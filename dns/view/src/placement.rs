//! Who holds which role, and where they are reached: what names that follow roles are made of.
//!
//! Only what is needed of a value is read, so that a group of a later version, which says more in
//! it, is understood.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use cfgsvc_core::placement::objects::Kind;
use cfgsvc_core::placement::{Name as Member, RoleName};
use serde::Deserialize;

/// Who holds a role.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Held {
    /// Revision of the commit that gave it to them.
    pub(crate) epoch: i64,
    /// None: nobody holds it.
    #[serde(default)]
    pub(crate) holder: Option<Member>,
}

/// What can hold a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Holders {
    pub(crate) kind: Kind,
}

/// A colo or a host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Reached {
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
}

/// How often a role moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    pub(crate) count: u64,
    /// Revision of the last of them.
    pub(crate) revision: i64,
}

/// Something that could not be read, with why.
pub(crate) type Read<T> = Result<T, String>;

/// All roles, colos and hosts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placement {
    pub(crate) grants: BTreeMap<RoleName, Read<Held>>,
    pub(crate) roles: BTreeMap<RoleName, Read<Holders>>,
    pub(crate) colos: BTreeMap<Member, Read<Reached>>,
    pub(crate) hosts: BTreeMap<Member, Read<Reached>>,
    pub(crate) moved: BTreeMap<RoleName, Read<Moves>>,
}

/// A holder of a role, and where it is reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder<'a> {
    pub(crate) name: &'a Member,
    addresses: &'a [String],
}

impl Placement {
    /// The epoch of a role, and who holds it; the error says what cannot be known.
    pub(crate) fn holder(&self, role: &RoleName) -> Read<(i64, Option<Holder<'_>>)> {
        let held = match self.grants.get(role) {
            // Nobody has held it yet.
            None => return Ok((0, None)),
            Some(held) => held.as_ref().map_err(Clone::clone)?,
        };
        let Some(name) = &held.holder else {
            return Ok((held.epoch, None));
        };
        let kind = match self.roles.get(role) {
            None => return Err(format!("role '{role}' is held and does not exist")),
            Some(holders) => holders.as_ref().map_err(Clone::clone)?.kind,
        };
        let table = match kind {
            Kind::Host => &self.hosts,
            Kind::Colo => &self.colos,
            Kind::Lock => return Err(format!("'{role}' is a lock: it has no address")),
        };
        let addresses = match table.get(name) {
            // It was deleted, and the role is about to be another's.
            None => &[][..],
            Some(reached) => &reached.as_ref().map_err(Clone::clone)?.addresses,
        };
        Ok((held.epoch, Some(Holder { name, addresses })))
    }

    /// How often a role moved; the error says why that cannot be known.
    pub(crate) fn moves(&self, role: &RoleName) -> Read<Moves> {
        self.moved
            .get(role)
            .cloned()
            .unwrap_or_else(|| Ok(Moves::default()))
    }

    /// The roles that someone holds.
    pub(crate) fn held_by(&self, member: &Member) -> impl Iterator<Item = &RoleName> {
        let held = self.grants.iter();
        held.filter(move |(_, held)| {
            held.as_ref()
                .is_ok_and(|held| held.holder.as_ref() == Some(member))
        })
        .map(|(role, _)| role)
    }
}

impl Holder<'_> {
    /// Its addresses in the order in which it tells them; what is no address, such as a name, is
    /// left out.
    pub(crate) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses
            .iter()
            .filter_map(|text| Some(split(text)?.0))
    }

    /// The port of its first address.
    pub(crate) fn port(&self) -> Option<u16> {
        let first = self.addresses.first()?;
        let after = || first.rsplit_once(':')?.1.parse().ok();
        match split(first) {
            Some((_, port)) => port,
            // A name with a port.
            None => after(),
        }
    }
}

/// `ADDRESS`, `IPV4:PORT` or `[IPV6]:PORT`.
fn split(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip, None));
    }
    let with_port: SocketAddr = text.parse().ok()?;
    Some((with_port.ip(), Some(with_port.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_with_and_without_port_and_names_are_passed_over() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        for (text, expected) in [
            ("192.0.2.1", Some((ip("192.0.2.1"), None))),
            ("192.0.2.1:80", Some((ip("192.0.2.1"), Some(80)))),
            ("2001:db8::1", Some((ip("2001:db8::1"), None))),
            ("[2001:db8::1]:80", Some((ip("2001:db8::1"), Some(80)))),
            ("db.example.com", None),
            ("db.example.com:80", None),
            ("192.0.2.256", None),
            ("192.0.2.1:65536", None),
            ("", None),
        ] {
            assert_eq!(split(text), expected, "{text}");
        }
    }

    #[test]
    fn port_is_that_of_the_first_address_also_when_it_is_a_name() {
        let name: Member = "a1".parse().expect("a name");
        for (addresses, port) in [
            (&["192.0.2.1:3306", "192.0.2.2:1"][..], Some(3306)),
            (&["db.example.com:3306"], Some(3306)),
            (&["192.0.2.1", "192.0.2.1:3306"], None),
            (&["2001:db8::1"], None),
            (&[], None),
        ] {
            let addresses: Vec<String> = addresses.iter().copied().map(String::from).collect();
            let holder = Holder {
                name: &name,
                addresses: &addresses,
            };
            assert_eq!(holder.port(), port, "{addresses:?}");
        }
    }
}
