//! Algorithms and private keys.
//!
//! Two algorithms, both with keys of 32 secret octets and signatures of 64: Ed25519 (RFC 8080) and
//! ECDSA with P-256 (RFC 6605). The second needs a number for each signature that nobody can guess;
//! it is drawn from key and message (RFC 6979), so that a signature is the same wherever it is
//! made.

use std::fmt;

use ed25519_dalek::Signer as _;
#[cfg(feature = "testing")]
use p256::ecdsa::signature::Verifier as _;
use zeroize::Zeroizing;

use crate::dnskey::Dnskey;

/// Octets of a secret, of either algorithm.
pub const SECRET_OCTETS: usize = 32;
/// Octets of a signature, of either algorithm (RFC 6605 4, RFC 8080 4).
pub const SIGNATURE_OCTETS: usize = 64;

/// How is signed (RFC 8624 3.1: those that a new zone should take).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256 (RFC 6605).
    EcdsaP256Sha256,
    /// Ed25519 (RFC 8080).
    Ed25519,
}

impl Algorithm {
    /// The number in records.
    pub fn number(self) -> u8 {
        match self {
            Self::EcdsaP256Sha256 => 13,
            Self::Ed25519 => 15,
        }
    }

    /// The algorithm with a number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            13 => Some(Self::EcdsaP256Sha256),
            15 => Some(Self::Ed25519),
            _ => None,
        }
    }

    /// The name, as in key files.
    pub fn mnemonic(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ECDSAP256SHA256",
            Self::Ed25519 => "ED25519",
        }
    }

    /// Octets of a public key in a record.
    pub fn public_octets(self) -> usize {
        match self {
            Self::EcdsaP256Sha256 => 64,
            Self::Ed25519 => 32,
        }
    }

    /// Whether a secret is a number, and not just octets.
    pub(crate) fn secret_is_number(self) -> bool {
        self == Self::EcdsaP256Sha256
    }

    /// Whether a signature is one of a message by the holder of a key.
    #[cfg(feature = "testing")]
    pub(crate) fn verify(self, public: &[u8], message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519 => {
                let key = public.try_into().ok();
                let key = key.and_then(|key| ed25519_dalek::VerifyingKey::from_bytes(key).ok());
                let signature = ed25519_dalek::Signature::from_slice(signature).ok();
                let both = key.zip(signature);
                both.is_some_and(|(key, signature)| key.verify_strict(message, &signature).is_ok())
            }
            Self::EcdsaP256Sha256 => {
                /// What a point begins with elsewhere; records have its coordinates alone
                /// (RFC 6605 4).
                const UNCOMPRESSED: u8 = 4;
                let point = [&[UNCOMPRESSED], public].concat();
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).ok();
                let signature = p256::ecdsa::Signature::from_slice(signature).ok();
                let both = key.zip(signature);
                both.is_some_and(|(key, signature)| key.verify(message, &signature).is_ok())
            }
        }
    }
}

/// The octets are no secret of the algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the octets are no secret of {0:?}: it is a number from 1 to below the order of the curve")]
pub struct UnusableSecret(pub Algorithm);

enum Secret {
    Ed25519(Box<ed25519_dalek::SigningKey>),
    EcdsaP256(Box<p256::ecdsa::SigningKey>),
}

/// A private key, with its public one. Both libraries wipe it when it is dropped.
pub struct PrivateKey {
    secret: Secret,
    public: Box<[u8]>,
}

impl PrivateKey {
    /// The key with this secret, or a new one from random octets. Of random octets for P-256, one
    /// draw in 2^32 is no secret: draw again.
    pub fn from_secret(
        algorithm: Algorithm,
        secret: &[u8; SECRET_OCTETS],
    ) -> Result<Self, UnusableSecret> {
        match algorithm {
            Algorithm::Ed25519 => {
                let key = Box::new(ed25519_dalek::SigningKey::from_bytes(secret));
                let public = (*key.verifying_key().as_bytes()).into();
                let secret = Secret::Ed25519(key);
                Ok(Self { secret, public })
            }
            Algorithm::EcdsaP256Sha256 => {
                let key = p256::ecdsa::SigningKey::from_slice(secret);
                let key = Box::new(key.map_err(|_| UnusableSecret(algorithm))?);
                let point = key.verifying_key().to_sec1_point(false);
                let public = point.as_bytes()[1..].into();
                let secret = Secret::EcdsaP256(key);
                Ok(Self { secret, public })
            }
        }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.secret {
            Secret::Ed25519(_) => Algorithm::Ed25519,
            Secret::EcdsaP256(_) => Algorithm::EcdsaP256Sha256,
        }
    }

    /// The public key, as in a DNSKEY record.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The secret, for a key file.
    pub(crate) fn secret(&self) -> Zeroizing<[u8; SECRET_OCTETS]> {
        Zeroizing::new(match &self.secret {
            Secret::Ed25519(key) => key.to_bytes(),
            Secret::EcdsaP256(key) => key.to_bytes().into(),
        })
    }

    /// Signs. The same message gets the same signature each time.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_OCTETS] {
        match &self.secret {
            Secret::Ed25519(key) => key.sign(message).to_bytes(),
            Secret::EcdsaP256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_bytes().into()
            }
        }
    }

    /// The record of this key; `secure_entry` when keys are what it signs (RFC 4034 2.1.1).
    pub fn dnskey(&self, secure_entry: bool) -> Dnskey {
        let key = Dnskey::new(secure_entry, self.algorithm(), &self.public);
        key.expect("a public key has the octets of its algorithm")
    }
}

/// Without the secret.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PrivateKey")
            .field("algorithm", &self.algorithm())
            .field("key_tag", &self.dnskey(false).key_tag())
            .finish_non_exhaustive()
    }
}
