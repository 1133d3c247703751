//! Signatures of messages (RFC 8945), made and checked without `cfgdns-core`, so that a changed
//! request can be signed after the change, and is not refused for its signature.

use cfgdns_core::{Algorithm, TsigKey};
use cfgdns_testing::message::Message;
use cfgdns_testing::zones::name;
use cfgdns_zone::{Name, Rtype};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const FUDGE: u16 = 300;
const HEADER_OCTETS: usize = 12;
/// Name, algorithm of the server, and how many octets its hash has.
const KEYS: [(&str, Algorithm, usize); 5] = [
    ("sha1.k.", Algorithm::HmacSha1, 20),
    ("sha224.k.", Algorithm::HmacSha224, 28),
    ("sha256.k.", Algorithm::HmacSha256, 32),
    ("sha384.k.", Algorithm::HmacSha384, 48),
    ("sha512.k.", Algorithm::HmacSha512, 64),
];

/// The keys of the servers.
pub(crate) fn keys() -> impl Iterator<Item = TsigKey> {
    KEYS.iter().map(|(key, algorithm, _)| {
        TsigKey::new(name(key), *algorithm, SECRET).expect("a long secret")
    })
}

/// One of the keys, by its number modulo five.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key(usize);

impl Key {
    pub(crate) fn new(number: usize) -> Self {
        Self(number % KEYS.len())
    }

    pub(crate) fn name(self) -> Name {
        name(KEYS[self.0].0)
    }

    /// The key as servers have it.
    pub(crate) fn tsig_key(self) -> TsigKey {
        let (key, algorithm, _) = KEYS[self.0];
        TsigKey::new(name(key), algorithm, SECRET).expect("a long secret")
    }

    fn algorithm(self) -> Name {
        name(&format!("{}.", KEYS[self.0].1.text()))
    }

    fn mac(self, parts: &[&[u8]]) -> Vec<u8> {
        fn whole<M: Mac + KeyInit>(parts: &[&[u8]]) -> Vec<u8> {
            let mac = <M as KeyInit>::new_from_slice(SECRET).expect("a secret of any length");
            let mac = parts.iter().fold(mac, Mac::chain_update);
            mac.finalize().into_bytes().to_vec()
        }
        match KEYS[self.0].1 {
            Algorithm::HmacSha1 => whole::<Hmac<Sha1>>(parts),
            Algorithm::HmacSha224 => whole::<Hmac<Sha224>>(parts),
            Algorithm::HmacSha256 => whole::<Hmac<Sha256>>(parts),
            Algorithm::HmacSha384 => whole::<Hmac<Sha384>>(parts),
            Algorithm::HmacSha512 => whole::<Hmac<Sha512>>(parts),
        }
    }

    /// Octets of its hash.
    pub(crate) fn octets(self) -> usize {
        KEYS[self.0].2
    }
}

/// What a record says beside names and MAC.
struct Said<'a> {
    time: u64,
    fudge: u16,
    error: u16,
    other: &'a [u8],
}

impl Said<'_> {
    /// RFC 8945 4.3.3.1.
    fn timers(&self) -> Vec<u8> {
        [&self.time.to_be_bytes()[2..], &self.fudge.to_be_bytes()].concat()
    }

    /// RFC 8945 4.3.3.
    fn variables(&self, key: Key) -> Vec<u8> {
        let mut octets = [key.name().as_wire(), &[0, 255, 0, 0, 0, 0]].concat();
        octets.extend(key.algorithm().as_wire());
        octets.extend(self.timers());
        octets.extend(self.error.to_be_bytes());
        octets.extend(with_length(self.other));
        octets
    }
}

fn with_length(octets: &[u8]) -> Vec<u8> {
    let length = u16::try_from(octets.len()).expect("short");
    [&length.to_be_bytes(), octets].concat()
}

fn number(octets: &[u8]) -> u16 {
    u16::from_be_bytes([octets[0], octets[1]])
}

/// Signs a message, which has a header; `prior` is the MAC of the request if it is a reply. The
/// MAC is cut to so many octets, and returned.
pub(crate) fn sign(
    message: &mut Vec<u8>,
    key: Key,
    prior: Option<&[u8]>,
    (time, mac_octets): (u64, usize),
) -> Vec<u8> {
    let said = Said {
        time,
        fudge: FUDGE,
        error: 0,
        other: &[],
    };
    let prior = prior.map(with_length).unwrap_or_default();
    let mut mac = key.mac(&[&prior, message, &said.variables(key)]);
    mac.truncate(mac_octets);
    let id = [message[0], message[1]];
    let mut data = key.algorithm().as_wire().to_vec();
    data.extend(said.timers());
    data.extend(with_length(&mac));
    data.extend(id);
    data.extend([0; 4]);
    message.extend(key.name().as_wire());
    message.extend(Rtype::TSIG.0.to_be_bytes());
    message.extend([0, 255, 0, 0, 0, 0]);
    message.extend(with_length(&data));
    let count = number(&message[10..]).wrapping_add(1);
    message[10..HEADER_OCTETS].copy_from_slice(&count.to_be_bytes());
    mac
}

/// The signature of a reply.
pub(crate) struct Found {
    pub(crate) error: u16,
    pub(crate) mac: Vec<u8>,
}

/// Reads the signature of a reply, if it has one.
pub(crate) fn found(read: &Message) -> Option<Found> {
    let tsig = read.additional.last()?;
    if tsig.rtype != Rtype::TSIG {
        return None;
    }
    let rest = &tsig.data[Name::from_wire(&tsig.data).expect("a name").1..];
    let mac = usize::from(number(&rest[8..]));
    Some(Found {
        error: number(&rest[12 + mac..]),
        mac: rest[10..10 + mac].to_vec(),
    })
}

/// Checks the signature of a reply as a client does, and returns its MAC. Of messages after the
/// first only the time is hashed (RFC 8945 5.3.1).
pub(crate) fn verified(octets: &[u8], key: Key, prior: &[u8], first: bool) -> Vec<u8> {
    let read = Message::read(octets);
    let record = read.additional.last().expect("it is signed");
    assert_eq!(
        (record.rtype, record.class, record.ttl),
        (Rtype::TSIG, 255, 0)
    );
    assert!(record.name == key.name(), "signed with another key");
    let (algorithm, used) = Name::from_wire(&record.data).expect("a name");
    assert!(algorithm == key.algorithm(), "signed by another algorithm");
    let rest = &record.data[used..];
    let found = found(&read).expect("it is signed");
    let time = [&[0, 0], &rest[..6]].concat();
    let mac_end = 10 + found.mac.len();
    assert_eq!(rest[mac_end..mac_end + 2], octets[..2]);
    let said = Said {
        time: u64::from_be_bytes(time.try_into().expect("eight octets")),
        fudge: number(&rest[6..]),
        error: found.error,
        other: &rest[mac_end + 6..],
    };
    // A reply has the name of the key in full.
    let start = octets.len() - record.name.as_wire().len() - 10 - record.data.len();
    let mut unsigned = octets[..start].to_vec();
    let count = number(&unsigned[10..]) - 1;
    unsigned[10..HEADER_OCTETS].copy_from_slice(&count.to_be_bytes());
    let said = if first {
        said.variables(key)
    } else {
        said.timers()
    };
    let right = key.mac(&[&with_length(prior), &unsigned, &said]);
    assert!(right == found.mac, "the MAC is wrong");
    found.mac
}
