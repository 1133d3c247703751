//! Checks a signature, as a resolver does that knows the keys of the zone (RFC 4035 5.3). For
//! tests: a name server checks none.

use std::borrow::Cow;

use cfgdns_zone::{Name, Rtype};

use crate::dnskey::Dnskey;
use crate::key::Algorithm;
use crate::set::Set;
use crate::time::{Time, Validity};

/// Whether the data of an RRSIG record is a valid signature of a set at this moment, by one of
/// these keys of the zone `zone`. The TTL of the set may be less than when it was signed.
pub fn verifies(rrsig: &[u8], set: &Set<'_>, (zone, keys): (&Name, &[Dnskey]), now: Time) -> bool {
    let Some(found) = Rrsig::read(rrsig) else {
        return false;
    };
    let owner_labels = set.labels();
    let about = found.rtype == set.rtype
        && found.signer == *zone
        && found.ttl >= set.ttl
        && found.labels <= owner_labels
        && found.validity.is_some_and(|validity| validity.covers(now));
    let Some(owner) = found.owner(&set.owner, owner_labels).filter(|_| about) else {
        return false;
    };
    let signed = Set {
        owner: Cow::Owned(owner),
        ttl: found.ttl,
        ..set.clone()
    };
    let message = [found.head, &signed.canonical()[..]].concat();
    keys.iter().any(|key| {
        Some(key.algorithm()) == found.algorithm
            && key.key_tag() == found.tag
            && key.verifies(&message, found.signature)
    })
}

struct Rrsig<'a> {
    head: &'a [u8],
    rtype: Rtype,
    algorithm: Option<Algorithm>,
    labels: u8,
    ttl: u32,
    validity: Option<Validity>,
    tag: u16,
    signer: Name,
    signature: &'a [u8],
}

impl<'a> Rrsig<'a> {
    fn read(data: &'a [u8]) -> Option<Self> {
        let (fields, rest) = data.split_first_chunk::<18>()?;
        let [r0, r1, algorithm, labels, numbers @ .., t0, t1] = *fields;
        let ([ttl, expiration, inception], []) = numbers.as_chunks::<4>() else {
            return None;
        };
        let [inception, expiration] =
            [inception, expiration].map(|octets| Time(u32::from_be_bytes(*octets)));
        let (signer, octets) = Name::from_wire(rest).ok()?;
        let (head, signature) = data.split_at(18 + octets);
        Some(Self {
            head,
            rtype: Rtype(u16::from_be_bytes([r0, r1])),
            algorithm: Algorithm::from_number(algorithm),
            labels,
            ttl: u32::from_be_bytes(*ttl),
            validity: Validity::new(inception, expiration).ok(),
            tag: u16::from_be_bytes([t0, t1]),
            signer,
            signature,
        })
    }

    /// The name that was signed: where it has fewer labels, a wildcard (RFC 4035 5.3.2).
    fn owner(&self, owner: &[u8], labels: u8) -> Option<Vec<u8>> {
        if self.labels == labels {
            return Some(owner.to_vec());
        }
        let mut at = 0;
        for _ in self.labels..labels {
            at += usize::from(*owner.get(at)?) + 1;
        }
        Some([b"\x01*", owner.get(at..)?].concat())
    }
}
