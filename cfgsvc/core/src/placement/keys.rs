//! Where placement is in the keyspace.
//!
//! | key | value | written by |
//! | --- | --- | --- |
//! | `/cfgsvc/colos/NAME` | [`Colo`] | operators |
//! | `/cfgsvc/hosts/NAME` | [`Host`] | operators, and the first attend of a host |
//! | `/cfgsvc/roles/ROLE` | [`Spec`] | operators; of a lock, its first client |
//! | `/cfgsvc/grants/ROLE` | [`Grant`] | the machine |
//! | `/cfgsvc/attending/ROLE/HOST` | [`Attending`] | the machine |
//! | `/cfgsvc/failover` | [`Settings`] | operators |
//! | `/cfgsvc/leader` | [`LeaderWish`] | operators |
//! | `/cfgsvc/zones/ZONE` and others | [`zones`] | operators, and the machine |
//!
//! [`Colo`]: super::objects::Colo
//! [`Host`]: super::objects::Host
//! [`Spec`]: super::objects::Spec
//! [`Grant`]: super::grant::Grant
//! [`Attending`]: super::grant::Attending
//! [`Settings`]: crate::votes::Settings
//! [`LeaderWish`]: super::objects::LeaderWish
//! [`zones`]: crate::zones
//!
//! All other keys below `/cfgsvc/` are kept for later and refused, so that no value is there when
//! they get a meaning.

use bytes::Bytes;

use super::name::{Name, RoleName};
use crate::zones;

/// Begins every key that has a meaning here.
pub const PREFIX: &[u8] = b"/cfgsvc/";

/// What a key below [`PREFIX`] is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A colo.
    Colo(Name),
    /// A host.
    Host(Name),
    /// What is said of a role.
    Role(RoleName),
    /// Who holds a role.
    Grant(RoleName),
    /// Who is there for a role.
    Attending(RoleName, Name),
    /// What is said of decisions by votes.
    Failover,
    /// Where the group is led from.
    Leader,
    /// About zones of DNS.
    Dns(zones::Place),
}

impl Place {
    /// What `key` is for; `None` when it is not below [`PREFIX`], the error when it has no meaning.
    pub fn of(key: &[u8]) -> Option<Result<Self, String>> {
        let rest = key.strip_prefix(PREFIX)?;
        Some(Self::parse(rest))
    }

    fn parse(rest: &[u8]) -> Result<Self, String> {
        let rest = std::str::from_utf8(rest).map_err(|_| "is not UTF-8".to_owned())?;
        let (table, name) = rest.split_once('/').unwrap_or((rest, ""));
        let bad = |error: super::name::BadName| error.to_string();
        match table {
            "failover" if rest == "failover" => Ok(Self::Failover),
            "leader" if rest == "leader" => Ok(Self::Leader),
            "colos" => name.parse().map(Self::Colo).map_err(bad),
            "hosts" => name.parse().map(Self::Host).map_err(bad),
            "roles" => name.parse().map(Self::Role).map_err(bad),
            "grants" => name.parse().map(Self::Grant).map_err(bad),
            "attending" => {
                let (role, host) = name
                    .rsplit_once('/')
                    .ok_or_else(|| "names no host".to_owned())?;
                let role = role.parse().map_err(bad)?;
                Ok(Self::Attending(role, host.parse().map_err(bad)?))
            }
            _ => zones::Place::parse(table, name).map_or_else(
                || Err("is in no table: keys below /cfgsvc/ are colos, hosts, roles, zones".into()),
                |place| place.map(Self::Dns),
            ),
        }
    }
}

fn key(table: &str, name: &str) -> Bytes {
    format!("/cfgsvc/{table}/{name}").into_bytes().into()
}

/// Key of what is said of decisions by votes.
pub const FAILOVER: &[u8] = b"/cfgsvc/failover";

/// Key of where the group is led from.
pub const LEADER: &[u8] = b"/cfgsvc/leader";

/// Key of a colo.
pub fn colo(name: &Name) -> Bytes {
    key("colos", name.as_str())
}

/// Key of a host.
pub fn host(name: &Name) -> Bytes {
    key("hosts", name.as_str())
}

/// Key of what is said of a role.
pub fn role(name: &RoleName) -> Bytes {
    key("roles", name.as_str())
}

/// Key of who holds a role.
pub fn grant(name: &RoleName) -> Bytes {
    key("grants", name.as_str())
}

/// Key of a host that is there for a role.
pub fn attending(role: &RoleName, host: &Name) -> Bytes {
    key("attending", &format!("{role}/{host}"))
}

/// First key and end of those of all hosts that are there for a role. Those of roles below it are
/// among them: their host has a slash.
pub fn all_attending(role: &RoleName) -> (Bytes, Bytes) {
    // '0' follows '/'.
    (
        key("attending", &format!("{role}/")),
        key("attending", &format!("{role}0")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_they_are_for() {
        let role: RoleName = "db/orders".parse().expect("a role");
        let host: Name = "h1".parse().expect("a host");
        let place = |key: &[u8]| Place::of(key).and_then(Result::ok);
        assert_eq!(
            place(&attending(&role, &host)),
            Some(Place::Attending(role.clone(), host.clone()))
        );
        assert_eq!(place(&grant(&role)), Some(Place::Grant(role.clone())));
        assert_eq!(place(&super::role(&role)), Some(Place::Role(role.clone())));
        assert_eq!(place(&super::host(&host)), Some(Place::Host(host.clone())));
        assert_eq!(place(&colo(&host)), Some(Place::Colo(host.clone())));
        let (first, end) = all_attending(&role);
        assert!((first..end).contains(&attending(&role, &host)));
        assert_eq!(Place::of(b"/cfgsvc"), None);
        for refused in [
            "",
            "zones/A",
            "tables/a",
            "colos/",
            "colos/a/b",
            "attending/h1",
            "roles/a//b",
        ] {
            let key = [PREFIX, refused.as_bytes()].concat();
            assert!(matches!(Place::of(&key), Some(Err(_))), "{refused}");
        }
    }
}
