//! What the operator decides about a server, whatever the request.

use crate::acl::Acl;
use crate::cookie::CookieSecrets;
use crate::keys::TsigKeys;

/// Octets of a text that says who the server is, so that it fits into every reply.
pub const IDENTITY_OCTETS_MAX: usize = 64;

/// A short text that says who the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(Box<[u8]>);

/// An identity is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the identity has {0} octets: at most {IDENTITY_OCTETS_MAX} fit into every reply")]
pub struct IdentityTooLong(pub usize);

impl TryFrom<&str> for Identity {
    type Error = IdentityTooLong;

    fn try_from(text: &str) -> Result<Self, IdentityTooLong> {
        match text.len() {
            0..=IDENTITY_OCTETS_MAX => Ok(Self(text.as_bytes().into())),
            octets => Err(IdentityTooLong(octets)),
        }
    }
}

impl Identity {
    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }
}

/// What the server says about itself in the class CHAOS (RFC 4892).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chaos {
    /// For `id.server` and `hostname.bind`.
    pub id: Identity,
    /// For `version.server` and `version.bind`.
    pub version: Identity,
}

/// What the operator decides; by default nothing is said and nobody may have anything.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who answers, for those who ask (RFC 5001).
    pub nsid: Option<Identity>,
    /// Whether and how questions in the class CHAOS are answered.
    pub chaos: Option<Chaos>,
    /// Octets of the largest UDP message, from 512 to [`crate::UDP_OCTETS_MAX`]; others are moved
    /// there.
    pub udp_octets_max: u16,
    /// The secrets of server cookies; without them cookies are not answered.
    pub cookies: Option<CookieSecrets>,
    /// Who may have whole zones, and what has changed in them.
    pub transfers: Acl,
    /// The keys that requests can be signed with.
    pub keys: TsigKeys,
}
