//! Public keys as records: DNSKEY, and what a parent publishes or is asked to publish of them.

use cfgdns_zone::{Name, Rdata, Rtype};
use sha2::{Digest, Sha256};

use crate::key::Algorithm;

/// The key of a zone (RFC 4034 2.1.1).
const ZONE_KEY: u16 = 256;
/// It signs keys: a parent may vouch for it (RFC 4034 2.1.1).
const SECURE_ENTRY: u16 = 1;
/// The only value of the field (RFC 4034 2.1.2).
const PROTOCOL: u8 = 3;
/// SHA-256 in a DS record (RFC 4509 2.1).
const DIGEST_SHA256: u8 = 2;

/// A public key of a zone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dnskey {
    flags: u16,
    algorithm: Algorithm,
    public: Box<[u8]>,
}

/// Why a record is no key that can sign here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DnskeyError {
    /// The record ends before its key.
    #[error("a DNSKEY has flags, protocol and algorithm before its key (RFC 4034 2.1)")]
    Short,
    /// Neither of the two kinds of keys; a revoked one (RFC 5011) is of no use here either.
    #[error("the flags are {0}: 256 or 257 is the key of a zone (RFC 4034 2.1.1)")]
    Flags(u16),
    /// Another protocol.
    #[error("the protocol is {0}, not 3 (RFC 4034 2.1.2)")]
    Protocol(u8),
    /// Another algorithm.
    #[error("the algorithm is {0}: 13 (ECDSAP256SHA256) and 15 (ED25519) are here")]
    Algorithm(u8),
    /// Not as long as keys of the algorithm.
    #[error("the key has {found} octets, not {expected}")]
    Octets {
        /// Those that there are.
        found: usize,
        /// Those of the algorithm.
        expected: usize,
    },
}

impl Dnskey {
    /// A key with these octets; `secure_entry` when keys are what it signs.
    pub fn new(
        secure_entry: bool,
        algorithm: Algorithm,
        public: &[u8],
    ) -> Result<Self, DnskeyError> {
        let (found, expected) = (public.len(), algorithm.public_octets());
        if found != expected {
            return Err(DnskeyError::Octets { found, expected });
        }
        Ok(Self {
            flags: ZONE_KEY | u16::from(secure_entry),
            algorithm,
            public: public.into(),
        })
    }

    /// Reads the data of a DNSKEY record, or of a CDNSKEY, which has the same.
    pub fn from_data(data: &Rdata) -> Result<Self, DnskeyError> {
        let [f0, f1, protocol, algorithm, public @ ..] = data.as_wire() else {
            return Err(DnskeyError::Short);
        };
        let flags = u16::from_be_bytes([*f0, *f1]);
        if flags & !SECURE_ENTRY != ZONE_KEY {
            return Err(DnskeyError::Flags(flags));
        }
        if *protocol != PROTOCOL {
            return Err(DnskeyError::Protocol(*protocol));
        }
        let algorithm =
            Algorithm::from_number(*algorithm).ok_or(DnskeyError::Algorithm(*algorithm))?;
        Self::new(flags & SECURE_ENTRY != 0, algorithm, public)
    }

    /// The data of its DNSKEY record.
    pub fn to_data(&self) -> Rdata {
        self.data(Rtype::DNSKEY)
    }

    /// The data of a CDNSKEY record, which asks the parent to vouch for it (RFC 7344 3.2).
    pub fn cdnskey(&self) -> Rdata {
        self.data(Rtype::CDNSKEY)
    }

    fn data(&self, rtype: Rtype) -> Rdata {
        Rdata::from_wire(rtype, &self.wire()).expect("it has its parts")
    }

    fn wire(&self) -> Vec<u8> {
        let [f0, f1] = self.flags.to_be_bytes();
        let head = [f0, f1, PROTOCOL, self.algorithm.number()];
        [&head, &*self.public].concat()
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The octets of the key.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Whether keys are what it signs.
    pub fn is_secure_entry(&self) -> bool {
        self.flags & SECURE_ENTRY != 0
    }

    /// A number by which keys are likely told apart (RFC 4034 B).
    pub fn key_tag(&self) -> u16 {
        key_tag(&self.wire())
    }

    /// The data of a DS record with SHA-256, by which the parent vouches for it (RFC 4034 5.1).
    pub fn ds(&self, zone: &Name) -> Rdata {
        let wire = delegation(zone, &self.wire());
        Rdata::from_wire(Rtype::DS, &wire).expect("a digest of SHA-256 has 32 octets")
    }

    /// The data of a CDS record, which asks the parent for that (RFC 7344 3.1).
    pub fn cds(&self, zone: &Name) -> Rdata {
        let wire = delegation(zone, &self.wire());
        Rdata::from_wire(Rtype::CDS, &wire).expect("a digest of SHA-256 has 32 octets")
    }

    /// Whether a signature is one of a message by the holder of this key.
    #[cfg(feature = "testing")]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.algorithm.verify(&self.public, message, signature)
    }
}

fn key_tag(key: &[u8]) -> u16 {
    let octets = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    let sum: u32 = key.chunks(2).map(octets).sum();
    let [_, _, high, low] = (sum + (sum >> 16)).to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The data of a DS record for a key of any algorithm.
fn delegation(zone: &Name, key: &[u8]) -> Vec<u8> {
    let mut digest = Sha256::new();
    digest.update(zone.to_lowercase().as_wire());
    digest.update(key);
    let [t0, t1] = key_tag(key).to_be_bytes();
    let head = [t0, t1, key[3], DIGEST_SHA256];
    [&head[..], digest.finalize().as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 4034 5.4 with its tag, and its digest of RFC 4509 2.3.
    #[test]
    fn tag_and_digest_are_those_of_the_rfcs() {
        let key = "256 3 5 AQOeiiR0GOMYkDshWoSKz9XzfwJr1AYtsmx3TGkJaNXVbfi/2pHm822aJ5iI9BMzNXxeYCmZ\
                   DRD99WYwYqUSdjMmmAphXdvxegXd/M5+X7OrzKBaMbCVdFLUUh6DhweJBjEVv5f2wwjM9XzcnOf+EPbt\
                   G9DMBmADjFDc2w/rljwvFw==";
        let key = Rdata::parse(Rtype::DNSKEY, key, None).expect("a key");
        assert_eq!(key_tag(key.as_wire()), 60_485);
        let zone = "dskey.example.com.".parse().expect("a name");
        let ds = Rdata::from_wire(Rtype::DS, &delegation(&zone, key.as_wire())).expect("a DS");
        let expected = "60485 5 2 D4B7D520E7BB5F0F67674A0CCEB1E3E0614B93C4F9E99B8383F6A1E4469DA50A";
        assert_eq!(ds.text(Rtype::DS, None), expected);
        assert_eq!(Dnskey::from_data(&key), Err(DnskeyError::Algorithm(5)));
    }

    #[test]
    fn what_is_no_key_that_signs_here_is_refused() {
        let read = |wire: &[u8]| {
            let data = Rdata::from_wire(Rtype::DNSKEY, wire).expect("the parts of a key");
            Dnskey::from_data(&data).expect_err("refused")
        };
        let key = |flags: [u8; 2], protocol, algorithm, octets: usize| {
            [
                &[flags[0], flags[1], protocol, algorithm][..],
                &vec![7; octets],
            ]
            .concat()
        };
        assert_eq!(read(&key([0, 0], 3, 15, 32)), DnskeyError::Flags(0));
        // Revoked (RFC 5011 7).
        assert_eq!(read(&key([1, 0x81], 3, 15, 32)), DnskeyError::Flags(385));
        assert_eq!(read(&key([1, 0], 1, 15, 32)), DnskeyError::Protocol(1));
        assert_eq!(read(&key([1, 0], 3, 8, 32)), DnskeyError::Algorithm(8));
        let (found, expected) = (33, 32);
        assert_eq!(
            read(&key([1, 0], 3, 15, 33)),
            DnskeyError::Octets { found, expected }
        );
        let (found, expected) = (32, 64);
        assert_eq!(
            read(&key([1, 1], 3, 13, 32)),
            DnskeyError::Octets { found, expected }
        );
    }
}
