//! The private keys that a server has, found by the public ones of a zone.
//!
//! A map, as a server may have two keys for each of ten thousand zones, and every change of how one
//! of them is signed looks for its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dnskey::Dnskey;
use crate::key::{Algorithm, PrivateKey};

/// Private keys, each by its algorithm and public key.
#[derive(Debug, Clone, Default)]
pub struct PrivateKeys(BTreeMap<(Algorithm, Box<[u8]>), Arc<PrivateKey>>);

impl PrivateKeys {
    /// The private key of a public one, whatever the flags in its record are.
    pub fn of(&self, dnskey: &Dnskey) -> Option<&Arc<PrivateKey>> {
        self.0.get(&(dnskey.algorithm(), dnskey.public().into()))
    }
}

impl FromIterator<Arc<PrivateKey>> for PrivateKeys {
    fn from_iter<T: IntoIterator<Item = Arc<PrivateKey>>>(keys: T) -> Self {
        let each = keys.into_iter();
        Self(
            each.map(|key| ((key.algorithm(), key.public().into()), key))
                .collect(),
        )
    }
}

impl FromIterator<PrivateKey> for PrivateKeys {
    fn from_iter<T: IntoIterator<Item = PrivateKey>>(keys: T) -> Self {
        keys.into_iter().map(Arc::new).collect()
    }
}
