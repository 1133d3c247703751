//! Signs the sets of a zone.

use std::sync::Arc;

use cfgdns_zone::{Name, Rdata};

use crate::cache::SignatureCache;
use crate::key::PrivateKey;
use crate::private_keys::PrivateKeys;
use crate::set::Set;
use crate::signing::{Role, Signing, ZoneKey};

/// Signs the sets of one zone, as was decided for it.
#[derive(Debug, Clone)]
pub struct Signer {
    origin: Name,
    signing: Arc<Signing>,
    /// The keys that sign, in the order of their algorithms and tags.
    active: Vec<Active>,
}

#[derive(Debug, Clone)]
struct Active {
    role: Role,
    tag: u16,
    key: Arc<PrivateKey>,
}

/// Private keys that sign a zone are not here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("of the keys that sign {zone}, this server lacks those with the tags {tags:?}")]
pub struct MissingKeys {
    /// The zone.
    pub zone: Name,
    /// The tags of the keys.
    pub tags: Vec<u16>,
}

impl Signer {
    /// Takes what it needs of the private keys.
    pub fn new(
        origin: &Name,
        signing: Arc<Signing>,
        keys: &PrivateKeys,
    ) -> Result<Self, MissingKeys> {
        let mut active = Vec::new();
        let mut tags = Vec::new();
        for ZoneKey { dnskey, role, .. } in signing.keys().iter().filter(|key| key.signs) {
            let (role, tag) = (*role, dnskey.key_tag());
            match keys.of(dnskey) {
                Some(key) => {
                    let key = Arc::clone(key);
                    active.push(Active { role, tag, key });
                }
                None => tags.push(tag),
            }
        }
        if !tags.is_empty() {
            let zone = origin.clone();
            return Err(MissingKeys { zone, tags });
        }
        active.sort_by_key(|active| (active.key.algorithm(), active.tag));
        Ok(Self {
            origin: origin.to_lowercase(),
            signing,
            active,
        })
    }

    /// The name of the zone, in lower case.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// What was decided.
    pub fn signing(&self) -> &Arc<Signing> {
        &self.signing
    }

    /// The data of the DNSKEY records of the zone, in canonical order.
    pub fn dnskeys(&self) -> Vec<Rdata> {
        let keys = self.signing.keys().iter();
        let mut data: Vec<Rdata> = keys.map(|key| key.dnskey.to_data()).collect();
        data.sort_unstable();
        data
    }

    /// The data of the RRSIG records of a set: one for each key that signs it (RFC 4034 3.1).
    ///
    /// A cache spares the signatures that are in it. What is returned does not depend on it.
    pub fn rrsigs(&self, set: &Set<'_>, mut cache: Option<&mut SignatureCache>) -> Vec<Vec<u8>> {
        let records = set.canonical();
        let active = self.active.iter();
        let signing = active.filter(|active| active.role.signs(set.rtype));
        signing
            .map(|active| {
                let head = self.head(active, set);
                // RFC 4034 3.1.8.1.
                let message = [&head[..], &records].concat();
                let signature = match cache.as_deref_mut() {
                    Some(cache) => cache.sign(&active.key, &message),
                    None => active.key.sign(&message),
                };
                [&head[..], &signature].concat()
            })
            .collect()
    }

    /// The data of an RRSIG record without its signature (RFC 4034 3.1).
    fn head(&self, active: &Active, set: &Set<'_>) -> Vec<u8> {
        let validity = self.signing.validity();
        let mut head = Vec::with_capacity(18 + self.origin.as_wire().len());
        head.extend(set.rtype.0.to_be_bytes());
        head.extend([active.key.algorithm().number(), set.labels()]);
        head.extend(set.ttl.to_be_bytes());
        head.extend(validity.expiration().0.to_be_bytes());
        head.extend(validity.inception().0.to_be_bytes());
        head.extend(active.tag.to_be_bytes());
        head.extend_from_slice(self.origin.as_wire());
        head
    }
}
