//! What a secondary makes of its zone and of what it is sent (RFC 1995 4, RFC 5936 2.2).

use std::collections::BTreeSet;

use cfgdns_zone::{Rdata, Rtype, Soa};

use crate::message::Record;

/// Name, type, TTL and data, to the last octet.
pub type Key = (Vec<u8>, Rtype, u32, Vec<u8>);

/// The key of a record.
pub fn key(record: &Record) -> Key {
    let owner = record.name.as_wire().to_vec();
    (owner, record.rtype, record.ttl, record.data.clone())
}

/// The serial of a record, which is an SOA.
pub fn serial(soa: &Record) -> u32 {
    assert_eq!(soa.rtype, Rtype::SOA);
    let data = Rdata::from_wire(Rtype::SOA, &soa.data).expect("an SOA");
    Soa::from_data(&data).expect("an SOA").serial
}

/// What there is after a transfer to who has these records, of which the first is the SOA, and how
/// many steps it had. Nothing is taken away that is not there, and nothing added that is.
pub fn apply_to(whole: &[Record], sent: &[Record]) -> (BTreeSet<Key>, usize) {
    let have = serial(&whole[0]);
    let mut content: BTreeSet<_> = whole.iter().map(key).collect();
    let [first, rest @ .., last] = sent else {
        assert_eq!((sent.len(), serial(&sent[0])), (1, have));
        return (content, 0);
    };
    assert_eq!(key(first), key(last));
    if rest[0].rtype != Rtype::SOA {
        let sent: BTreeSet<_> = sent.iter().map(key).collect();
        return (sent, 0);
    }
    let (mut at, mut steps) = (have, 0);
    let mut rest = rest;
    while let Some((old_soa, after)) = rest.split_first() {
        assert_eq!(serial(old_soa), at);
        let is_soa = |record: &Record| record.rtype == Rtype::SOA;
        let middle = after.iter().position(is_soa).expect("a new SOA");
        let (gone, new) = after.split_at(middle);
        let end = 1 + new[1..].iter().position(is_soa).unwrap_or(new.len() - 1);
        let (new, next) = new.split_at(end);
        for record in [old_soa].into_iter().chain(gone) {
            assert!(content.remove(&key(record)), "{record:?} is not there");
        }
        for record in new {
            assert!(content.insert(key(record)), "{record:?} is there");
        }
        (at, rest, steps) = (serial(&new[0]), next, steps + 1);
    }
    assert_eq!(at, serial(first));
    (content, steps)
}
