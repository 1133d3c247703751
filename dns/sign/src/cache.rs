//! Signatures that were made, so that a name that is asked often is signed once.
//!
//! Two generations: what is made or found goes into the young one; when that is full, it becomes the
//! old one, and what was old is forgotten. Whoever asks for names that nobody else asks for makes
//! the generations change faster, and cannot keep out what is asked for in between.
//!
//! A signature is found by a digest of its key and of all that it signs, which has the times and the
//! zone in it: one that was made for something else is never found, and none is ever out of date.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::key::{PrivateKey, SIGNATURE_OCTETS};

type Generation = BTreeMap<[u8; 32], [u8; SIGNATURE_OCTETS]>;

/// Signatures by what they sign; for one thread.
#[derive(Debug)]
pub struct SignatureCache {
    young: Generation,
    old: Generation,
    /// Of each generation.
    entries: usize,
    made: u64,
    found: u64,
}

impl SignatureCache {
    /// A cache of at most so many signatures; of some 150 octets each.
    pub fn new(entries: usize) -> Self {
        Self {
            young: Generation::new(),
            old: Generation::new(),
            entries: (entries / 2).max(1),
            made: 0,
            found: 0,
        }
    }

    /// The signature of a message; made when it is not here.
    pub(crate) fn sign(&mut self, key: &PrivateKey, message: &[u8]) -> [u8; SIGNATURE_OCTETS] {
        let mut digest = Sha256::new();
        digest.update([key.algorithm().number()]);
        digest.update(key.public());
        digest.update(message);
        let digest: [u8; 32] = digest.finalize().into();
        if let Some(signature) = self.young.get(&digest) {
            self.found += 1;
            return *signature;
        }
        let signature = if let Some(signature) = self.old.get(&digest) {
            self.found += 1;
            *signature
        } else {
            self.made += 1;
            key.sign(message)
        };
        if self.young.len() == self.entries {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, signature);
        signature
    }

    /// How many signatures were made.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// How many were found here instead.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// How many are here.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Algorithm;

    fn key(octet: u8) -> PrivateKey {
        PrivateKey::from_secret(Algorithm::Ed25519, &[octet; 32]).expect("any octets are one")
    }

    #[test]
    fn signature_is_made_once_for_each_key_and_message() {
        let mut cache = SignatureCache::new(10);
        let (one, other) = (key(1), key(2));
        for _ in 0..3 {
            assert_eq!(cache.sign(&one, b"a"), one.sign(b"a"));
            assert_eq!(cache.sign(&one, b"b"), one.sign(b"b"));
            assert_eq!(cache.sign(&other, b"a"), other.sign(b"a"));
        }
        assert_eq!((cache.made(), cache.found(), cache.len()), (3, 6, 3));
    }

    #[test]
    fn what_is_asked_often_stays_while_strangers_ask_for_anything() {
        let mut cache = SignatureCache::new(16);
        let key = key(1);
        cache.sign(&key, b"popular");
        for number in 0..200_u32 {
            cache.sign(&key, &number.to_be_bytes());
            // Asked once for each six of the others, fewer than a generation has.
            if number % 6 == 0 {
                cache.sign(&key, b"popular");
            }
            assert!(cache.len() <= 16);
        }
        assert_eq!(cache.made(), 201, "the popular one was made once");
        for number in 0..100_u32 {
            cache.sign(&key, &(1_000 + number).to_be_bytes());
        }
        cache.sign(&key, b"popular");
        assert_eq!(cache.made(), 302, "what nobody asks for is forgotten");
    }
}
