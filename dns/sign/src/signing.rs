//! What is decided about the signatures of a zone, once for all servers: which keys are in it,
//! which of them sign, and the times of the signatures.
//!
//! It has no secrets, so that it can be among the keys of the group. Who has the secrets makes a
//! [`crate::Signer`] of it.

use std::collections::BTreeSet;

use cfgdns_zone::Rtype;

use crate::dnskey::Dnskey;
use crate::key::Algorithm;
use crate::time::Validity;

/// Keys of a zone: two of each role and algorithm while all of them roll at once, and each that
/// signs costs a signature. The set of eight keys of P-256 fits into no message of UDP, with that
/// of eight signatures not by far (640 octets and 856, of 1,232): it is sent over TCP.
pub const KEYS_MAX: usize = 8;

/// What a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The keys, and what the parent is asked to vouch for: it vouches for this key.
    KeySigning,
    /// Everything but the keys.
    ZoneSigning,
    /// Everything: the parent vouches for it.
    Both,
}

impl Role {
    /// Whether the record of the key has the flag of a secure entry point.
    pub fn is_secure_entry(self) -> bool {
        self != Self::ZoneSigning
    }

    /// Whether a key of this role signs the sets of a type. CDS and CDNSKEY have the signatures of
    /// all keys: the parent takes them only from one that it vouches for (RFC 7344 4.1).
    pub fn signs(self, rtype: Rtype) -> bool {
        match rtype {
            Rtype::DNSKEY => self.signs_keys(),
            Rtype::CDS | Rtype::CDNSKEY => true,
            _ => self.signs_zone(),
        }
    }

    pub(crate) fn signs_keys(self) -> bool {
        self != Self::ZoneSigning
    }

    pub(crate) fn signs_zone(self) -> bool {
        self != Self::KeySigning
    }
}

/// A key of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneKey {
    /// Its record, which is in the zone.
    pub dnskey: Dnskey,
    /// What it signs.
    pub role: Role,
    /// Whether it does: one that comes or goes is in the zone and signs nothing (RFC 6781 4.1).
    pub signs: bool,
}

/// How a zone is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signing {
    keys: Vec<ZoneKey>,
    validity: Validity,
}

/// Why a zone cannot be signed so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// There is no key.
    #[error("a signed zone has a key")]
    NoKey,
    /// More than a message can hold.
    #[error("a zone has at most {KEYS_MAX} keys, not {0}")]
    TooMany(usize),
    /// The same tag twice: nobody could tell their signatures apart.
    #[error("two keys have the tag {0}: make another one")]
    Tag(u16),
    /// A role that the record does not show.
    #[error("key {tag} has the role {role:?}, and flags that say otherwise (RFC 4034 2.1.1)")]
    Flags {
        /// The tag of the key.
        tag: u16,
        /// Its role.
        role: Role,
    },
    /// The keys would have no signature.
    #[error("no key of {0:?} signs the keys (RFC 4035 2.2): one with the role KeySigning or Both")]
    KeysUnsigned(Algorithm),
    /// The records would have no signature.
    #[error("no key of {0:?} signs the zone (RFC 4035 2.2): one with the role ZoneSigning or Both")]
    ZoneUnsigned(Algorithm),
}

impl Signing {
    /// Checks that a validator would take what is signed so.
    pub fn new(keys: Vec<ZoneKey>, validity: Validity) -> Result<Self, SigningError> {
        if keys.is_empty() {
            return Err(SigningError::NoKey);
        }
        if keys.len() > KEYS_MAX {
            return Err(SigningError::TooMany(keys.len()));
        }
        let mut tags = BTreeSet::new();
        for key in &keys {
            let (tag, role) = (key.dnskey.key_tag(), key.role);
            if key.dnskey.is_secure_entry() != role.is_secure_entry() {
                return Err(SigningError::Flags { tag, role });
            }
            if !tags.insert(tag) {
                return Err(SigningError::Tag(tag));
            }
        }
        // RFC 4035 2.2: each set has a signature of each algorithm that is among the keys.
        let algorithms: BTreeSet<_> = keys.iter().map(|key| key.dnskey.algorithm()).collect();
        for algorithm in algorithms {
            let mut signing = keys
                .iter()
                .filter(|key| key.signs && key.dnskey.algorithm() == algorithm)
                .map(|key| key.role);
            if !signing.clone().any(Role::signs_keys) {
                return Err(SigningError::KeysUnsigned(algorithm));
            }
            if !signing.any(Role::signs_zone) {
                return Err(SigningError::ZoneUnsigned(algorithm));
            }
        }
        Ok(Self { keys, validity })
    }

    /// The keys.
    pub fn keys(&self) -> &[ZoneKey] {
        &self.keys
    }

    /// The times of the signatures.
    pub fn validity(&self) -> Validity {
        self.validity
    }
}
