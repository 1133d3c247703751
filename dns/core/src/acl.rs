//! Who may have whole zones: networks, keys, or a key from a network. Nobody, unless it is said.
//!
//! An address is what a datagram claims and what a connection shows; a key is what nobody can claim
//! without the secret (RFC 8945). Each entry says what it asks for, and one that is met is enough.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use cfgdns_zone::Name;

/// Bits before the address of IPv4 in one of IPv6 that stands for it (RFC 4291 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// All bits after the prefix are zero.
    address: IpAddr,
    /// How many bits are the same.
    prefix: u8,
}

/// What an entry asks for: all that it names; one that names nothing is met by everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// Where the request comes from.
    pub from: Option<Network>,
    /// Which key it is signed with.
    pub key: Option<Name>,
}

/// A list of entries, of which one must be met: by default none, so that it is nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl(Vec<Allow>);

/// Why a text is no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowError {
    /// It is none of the forms.
    #[error("`{0}` is none of `any`, NETWORK, `key NAME` and `NETWORK key NAME`")]
    Form(String),
    /// The network cannot be read.
    #[error("`{0}` is not a network: an address, or an address, `/` and the bits of the prefix")]
    Network(String),
    /// There are bits after the prefix, so that one of the two is not what was meant.
    #[error("`{given}` has bits after its prefix: the network is `{network}`")]
    HostBits {
        /// What was written.
        given: String,
        /// The network that it is in.
        network: Network,
    },
    /// Clients with IPv4 are compared as such, so that nobody would ever be in it (RFC 4291
    /// 2.5.5.2).
    #[error("`{given}` is a network of IPv4 in the form of IPv6: write `{network}`")]
    Mapped {
        /// What was written.
        given: String,
        /// The network as it is compared.
        network: Network,
    },
    /// The name of the key is none.
    #[error("`{0}` is not the name of a key")]
    Key(String),
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        prefix_of(address.to_canonical(), self.prefix) == Some(self.address)
    }
}

/// The address with zeros after the prefix; none when it has less bits.
fn prefix_of(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(address) => {
            let host_bits = 32_u32.checked_sub(prefix)?;
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            Some(IpAddr::V4((address.to_bits() & mask).into()))
        }
        IpAddr::V6(address) => {
            let host_bits = 128_u32.checked_sub(prefix)?;
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            Some(IpAddr::V6((address.to_bits() & mask).into()))
        }
    }
}

/// The network of IPv4 that this one of IPv6 stands for, if it does.
fn mapped(address: IpAddr, prefix: u8) -> Option<Network> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let prefix = prefix.checked_sub(MAPPED_BITS)?;
    let address = prefix_of(IpAddr::V4(address.to_ipv4_mapped()?), prefix)?;
    Some(Network { address, prefix })
}

impl FromStr for Network {
    type Err = AllowError;

    fn from_str(text: &str) -> Result<Self, AllowError> {
        let bad = || AllowError::Network(text.to_owned());
        let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
        let given: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix = match (prefix, given) {
            ("", _) if text.contains('/') => return Err(bad()),
            ("", IpAddr::V4(_)) => 32,
            ("", IpAddr::V6(_)) => 128,
            // Not what a number may begin with beside digits: a sign.
            (digits, _) if digits.starts_with(|first: char| first.is_ascii_digit()) => {
                digits.parse().map_err(|_| bad())?
            }
            _ => return Err(bad()),
        };
        if let Some(network) = mapped(given, prefix) {
            let given = text.to_owned();
            return Err(AllowError::Mapped { given, network });
        }
        let address = prefix_of(given, prefix).ok_or_else(bad)?;
        let network = Self { address, prefix };
        if address != given {
            let given = text.to_owned();
            return Err(AllowError::HostBits { given, network });
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Allow {
    type Err = AllowError;

    fn from_str(text: &str) -> Result<Self, AllowError> {
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        let (from, key) = match words[..] {
            ["any"] => (None, None),
            ["key", name] => (None, Some(name)),
            [network] => (Some(network), None),
            [network, "key", name] => (Some(network), Some(name)),
            _ => return Err(AllowError::Form(text.to_owned())),
        };
        let name = |text: &str| {
            // The names of keys are written with a dot at their end, or without.
            let name = Name::parse(text.as_bytes(), Some(&Name::root()));
            name.map_err(|_| AllowError::Key(text.to_owned()))
        };
        Ok(Self {
            from: from.map(str::parse).transpose()?,
            key: key.map(name).transpose()?,
        })
    }
}

impl Acl {
    /// Nobody.
    pub fn nobody() -> Self {
        Self::default()
    }

    /// Whoever meets one of these.
    pub fn new(entries: Vec<Allow>) -> Self {
        Self(entries)
    }

    /// The entries.
    pub fn entries(&self) -> &[Allow] {
        &self.0
    }

    /// Whether a request from this address, signed with this key, is allowed.
    pub fn allows(&self, client: IpAddr, key: Option<&Name>) -> bool {
        self.0.iter().any(|entry| {
            let from = entry.from.is_none_or(|network| network.contains(client));
            let signed = entry.key.as_ref().is_none_or(|name| key == Some(name));
            from && signed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(entries: &[&str], client: &str, key: Option<&str>) -> bool {
        let entries = entries.iter().map(|text| text.parse().expect(text));
        let key = key.map(|key| key.parse::<Name>().expect(key));
        Acl::new(entries.collect()).allows(client.parse().expect(client), key.as_ref())
    }

    #[test]
    fn one_entry_that_is_met_is_enough_and_none_lets_nobody() {
        for (entries, client, key, expected) in [
            (&[][..], "192.0.2.1", Some("k."), false),
            (&["any"], "192.0.2.1", None, true),
            (&["192.0.2.0/24"], "192.0.2.255", None, true),
            (&["192.0.2.0/24"], "192.0.3.0", None, false),
            (&["192.0.2.0/24"], "::ffff:192.0.2.7", None, true),
            (&["192.0.2.1"], "192.0.2.2", None, false),
            (&["0.0.0.0/0"], "255.255.255.255", None, true),
            (&["0.0.0.0/0"], "2001:db8::1", None, false),
            (&["::/0"], "192.0.2.1", None, false),
            (&["2001:db8::/33"], "2001:db8:7fff::1", None, true),
            (&["2001:db8::/33"], "2001:db8:8000::1", None, false),
            (&["key k"], "192.0.2.1", Some("K."), true),
            (&["key k."], "192.0.2.1", Some("l."), false),
            (&["key k"], "192.0.2.1", None, false),
            (&["192.0.2.1 key k"], "192.0.2.1", None, false),
            (&["192.0.2.1 key k"], "192.0.2.2", Some("k."), false),
            (&["192.0.2.1 key k"], "192.0.2.1", Some("k."), true),
            (&["192.0.2.1", "key k"], "192.0.2.2", Some("k."), true),
        ] {
            assert_eq!(
                allows(entries, client, key),
                expected,
                "{entries:?} {client}"
            );
        }
    }

    #[test]
    fn entry_that_cannot_be_meant_is_refused() {
        for (text, expected) in [
            (
                "",
                "`` is none of `any`, NETWORK, `key NAME` and `NETWORK key NAME`",
            ),
            (
                "key",
                "`key` is not a network: an address, or an address, `/` and the bits of the prefix",
            ),
            (
                "192.0.2.0/33",
                "`192.0.2.0/33` is not a network: an address, or an address, `/` and the bits of \
                 the prefix",
            ),
            (
                "192.0.2.0/",
                "`192.0.2.0/` is not a network: an address, or an address, `/` and the bits of the \
                 prefix",
            ),
            (
                "192.0.2.1/24",
                "`192.0.2.1/24` has bits after its prefix: the network is `192.0.2.0/24`",
            ),
            (
                "192.0.2.0/+24",
                "`192.0.2.0/+24` is not a network: an address, or an address, `/` and the bits of \
                 the prefix",
            ),
            (
                "::ffff:192.0.2.0/120",
                "`::ffff:192.0.2.0/120` is a network of IPv4 in the form of IPv6: write \
                 `192.0.2.0/24`",
            ),
            (
                "::ffff:192.0.2.1",
                "`::ffff:192.0.2.1` is a network of IPv4 in the form of IPv6: write `192.0.2.1/32`",
            ),
            (
                "::ffff:192.0.2.1/120 key k",
                "`::ffff:192.0.2.1/120` is a network of IPv4 in the form of IPv6: write \
                 `192.0.2.0/24`",
            ),
            (
                "::ffff:0:0/96",
                "`::ffff:0:0/96` is a network of IPv4 in the form of IPv6: write `0.0.0.0/0`",
            ),
            (
                "::ffff:0:0/95",
                "`::ffff:0:0/95` has bits after its prefix: the network is `::fffe:0:0/95`",
            ),
            (
                "::ffff:0:0/129",
                "`::ffff:0:0/129` is not a network: an address, or an address, `/` and the bits of \
                 the prefix",
            ),
            ("key a..b", "`a..b` is not the name of a key"),
        ] {
            let error = text.parse::<Allow>().expect_err(text);
            assert_eq!(error.to_string(), expected);
        }
    }
}
