//! A set of records as it is signed: its canonical form (RFC 4034 3.1.8.1, 6.2, 6.3).

use std::borrow::Cow;

use cfgdns_zone::{Rtype, canonical};

/// The class IN (RFC 1035 3.2.4): zones of other classes are not here.
const CLASS_IN: u16 = 1;

/// Records of one name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set<'a> {
    /// The name in wire form, uncompressed.
    pub owner: Cow<'a, [u8]>,
    /// The type.
    pub rtype: Rtype,
    /// The TTL, which answers may have less of.
    pub ttl: u32,
    /// The data of the records, valid and uncompressed, in any order.
    pub data: Vec<Cow<'a, [u8]>>,
}

impl Set<'_> {
    /// Labels of the name, without the root and without the asterisk of a wildcard
    /// (RFC 4034 3.1.3): a validator sees by it that a wildcard made the name.
    pub(crate) fn labels(&self) -> u8 {
        let mut count = 0;
        let mut at = 0;
        while self.owner[at] > 0 {
            count += 1;
            at += usize::from(self.owner[at]) + 1;
        }
        count - u8::from(self.owner.starts_with(b"\x01*"))
    }

    /// The records as they are signed: `RR(1) | RR(2) ...` of RFC 4034 3.1.8.1.
    pub(crate) fn canonical(&self) -> Vec<u8> {
        let mut data: Vec<Vec<u8>> = self
            .data
            .iter()
            .map(|data| canonical(self.rtype, data))
            .collect();
        data.sort_unstable();
        // RFC 4034 6.3: what is there twice is there once.
        data.dedup();
        let owner = self.owner.to_ascii_lowercase();
        let mut octets = Vec::new();
        for data in data {
            octets.extend_from_slice(&owner);
            octets.extend(self.rtype.0.to_be_bytes());
            octets.extend(CLASS_IN.to_be_bytes());
            octets.extend(self.ttl.to_be_bytes());
            let length = u16::try_from(data.len()).expect("valid data has at most 65,535 octets");
            octets.extend(length.to_be_bytes());
            octets.extend(data);
        }
        octets
    }
}
