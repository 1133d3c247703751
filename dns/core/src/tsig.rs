//! Signatures of messages (RFC 8945): whether a request has a right one, and that of each reply.
//!
//! ```text
//! request            hash( message │ variables )
//! first reply        hash( MAC of the request │ message │ variables )
//! each later one     hash( MAC of the one before │ message │ time and fudge )
//! ```
//!
//! `message` is without the TSIG record; `variables` are the name of the key, class, TTL, name of
//! the algorithm, time, fudge, error and other data.
//!
//! Invariants
//! - a reply is signed only with the key of its request, and only when the MAC of that was right
//!   (RFC 8945 5.3);
//! - MACs are compared in constant time;
//! - every message of a transfer is signed (RFC 8945 5.3.1).
//!
//! Not here: RFC 8945 5.2.3 also wishes that a server remembers the last time of each key and
//! refuses older ones. This one does not: datagrams overtake each other, and who repeats an old
//! request learns what the network could see already.

use std::sync::Arc;

use cfgdns_zone::{Name, Rtype};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};

use crate::keys::{Algorithm, TsigKey, TsigKeys};
use crate::message::{CLASS_ANY, HEADER_OCTETS, Request, Tsig};
use crate::reply::Rcode;

/// Errors within a TSIG record (RFC 8945 3).
pub(crate) const BADSIG: u16 = 16;
pub(crate) const BADKEY: u16 = 17;
pub(crate) const BADTIME: u16 = 18;

/// Seconds that clocks may differ by (RFC 8945 10).
const FUDGE_SECONDS: u16 = 300;
/// Octets of the shortest MAC, if half of the whole has not more (RFC 8945 5.2.2.1).
const MAC_OCTETS_MIN: usize = 10;
/// Where the header counts the records of the additional section.
const ADDITIONAL_COUNT_AT: usize = 10;

/// What the signature of a request is worth.
pub(crate) enum Checked {
    /// There is none.
    Unsigned,
    /// It is right; this signs the replies.
    Signed(Signer),
    /// It is not; this is said, maybe with a TSIG record that says more.
    Refused(Rcode, Option<Signing>),
}

/// The TSIG record of a reply.
#[derive(Debug, Clone)]
pub(crate) enum Signing {
    /// It signs.
    Signed(Signer),
    /// It only says what is wrong with that of the request (RFC 8945 5.3.2).
    Error {
        key: Name,
        algorithm: Name,
        error: u16,
    },
}

/// Signs the messages of one exchange.
#[derive(Debug, Clone)]
pub(crate) struct Signer {
    key: Arc<TsigKey>,
    /// The MAC of the request, or of the message before; none for a request.
    prior: Option<Vec<u8>>,
    /// Whether a message of this exchange was signed.
    later: bool,
    /// The request came too late or too early: its time, its fudge.
    late: Option<(u64, u16)>,
}

/// The parts of a TSIG record that are hashed, beside names.
struct Variables<'a> {
    time: u64,
    fudge: u16,
    error: u16,
    other: &'a [u8],
}

/// Checks the signature of a request, in the order of RFC 8945 5.2.
pub(crate) fn check(keys: &TsigKeys, octets: &[u8], request: &Request<'_>, now: u64) -> Checked {
    let Some(tsig) = &request.tsig else {
        return Checked::Unsigned;
    };
    let refuse = |error| {
        let signing = Signing::Error {
            key: tsig.key.clone(),
            algorithm: tsig.algorithm.clone(),
            error,
        };
        Checked::Refused(Rcode::NotAuth, Some(signing))
    };
    let algorithm = Algorithm::named(&tsig.algorithm);
    let key = keys.get(&tsig.key);
    let Some(key) = key.filter(|key| Some(key.algorithm()) == algorithm) else {
        return refuse(BADKEY);
    };
    match verify(key, None, octets, tsig) {
        Err(Mismatch::Length) => return Checked::Refused(Rcode::FormErr, None),
        Err(Mismatch::Mac) => return refuse(BADSIG),
        Ok(()) => {}
    }
    let mut signer = Signer {
        key: Arc::clone(key),
        prior: Some(tsig.mac.to_vec()),
        later: false,
        late: None,
    };
    if tsig.time.abs_diff(now) > u64::from(tsig.fudge) {
        signer.late = Some((tsig.time, tsig.fudge));
        return Checked::Refused(Rcode::NotAuth, Some(Signing::Signed(signer)));
    }
    Checked::Signed(signer)
}

/// Why a MAC is not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// No such length can be (RFC 8945 5.2.2.1).
    Length,
    /// It is another.
    Mac,
}

/// Whether the MAC of a message is right; `prior` is that of the request, when it is a reply.
pub(crate) fn verify(
    key: &TsigKey,
    prior: Option<&[u8]>,
    octets: &[u8],
    tsig: &Tsig<'_>,
) -> Result<(), Mismatch> {
    let whole = key.algorithm().octets();
    if !(MAC_OCTETS_MIN.max(whole / 2)..=whole).contains(&tsig.mac.len()) {
        return Err(Mismatch::Length);
    }
    let (Some(rest), Some(additional)) = (
        octets.get(HEADER_OCTETS..tsig.start),
        octets.first_chunk::<HEADER_OCTETS>(),
    ) else {
        return Err(Mismatch::Length);
    };
    // RFC 8945 4.3.2: as it was before the record was added.
    let mut header = *additional;
    header[..2].copy_from_slice(&tsig.original_id.to_be_bytes());
    count_additional(&mut header, |count| count.checked_sub(1)).ok_or(Mismatch::Length)?;
    let variables = Variables {
        time: tsig.time,
        fudge: tsig.fudge,
        error: tsig.error,
        other: tsig.other,
    };
    let prior = prior.map(with_length).unwrap_or_default();
    let variables = variables.octets(key);
    let right = is_mac(key, &[&prior, &header, rest, &variables], tsig.mac);
    right.then_some(()).ok_or(Mismatch::Mac)
}

impl Signing {
    /// Octets that it adds to a message.
    pub(crate) fn octets(&self) -> usize {
        match self {
            Self::Signed(signer) => signer.octets(),
            Self::Error { key, algorithm, .. } => record_octets(key, algorithm, 0, 0),
        }
    }

    /// Adds it to a message, as its last record.
    pub(crate) fn append(&mut self, message: &mut Vec<u8>, now: u64) {
        match self {
            Self::Signed(signer) => signer.sign(message, now),
            Self::Error {
                key,
                algorithm,
                error,
            } => {
                let variables = Variables {
                    time: now,
                    fudge: FUDGE_SECONDS,
                    error: *error,
                    other: &[],
                };
                append(message, (key, algorithm), &variables, &[]);
            }
        }
    }
}

impl Signer {
    /// Signs a request of ours.
    pub(crate) fn of_request(key: Arc<TsigKey>) -> Self {
        Self {
            key,
            prior: None,
            later: false,
            late: None,
        }
    }

    /// The key.
    pub(crate) fn key(&self) -> &TsigKey {
        &self.key
    }

    /// The MAC of the last message, which that of the next covers.
    pub(crate) fn prior(&self) -> Option<&[u8]> {
        self.prior.as_deref()
    }

    /// Octets that it adds to a message.
    pub(crate) fn octets(&self) -> usize {
        let algorithm = self.key.algorithm();
        let other = if self.late.is_some() { 6 } else { 0 };
        record_octets(
            self.key.name(),
            &algorithm.name(),
            algorithm.octets(),
            other,
        )
    }

    /// Signs a message: adds the record.
    pub(crate) fn sign(&mut self, message: &mut Vec<u8>, now: u64) {
        let server_time = time_octets(now);
        let variables = match self.late {
            // RFC 8945 5.2.3: the client's time and fudge, so that the client can check it.
            Some((time, fudge)) => Variables {
                time,
                fudge,
                error: BADTIME,
                other: &server_time,
            },
            None => Variables {
                time: now,
                fudge: FUDGE_SECONDS,
                error: 0,
                other: &[],
            },
        };
        let prior = self.prior().map(with_length).unwrap_or_default();
        let hashed = if self.later {
            variables.timers()
        } else {
            variables.octets(&self.key)
        };
        let mac = mac(&self.key, &[&prior, message, &hashed]);
        let algorithm = self.key.algorithm().name();
        append(message, (self.key.name(), &algorithm), &variables, &mac);
        self.later = true;
        self.prior = Some(mac);
    }
}

impl Variables<'_> {
    /// RFC 8945 4.3.3.
    fn octets(&self, key: &TsigKey) -> Vec<u8> {
        let mut octets = key.name().as_wire().to_vec();
        octets.extend(CLASS_ANY.to_be_bytes());
        octets.extend([0; 4]);
        octets.extend(key.algorithm().name().as_wire());
        octets.extend(self.timers());
        octets.extend(self.error.to_be_bytes());
        octets.extend(with_length(self.other));
        octets
    }

    /// RFC 8945 4.3.3.1.
    fn timers(&self) -> Vec<u8> {
        [&time_octets(self.time)[..], &self.fudge.to_be_bytes()].concat()
    }
}

/// RFC 8945 4.2: 48 bits.
fn time_octets(seconds: u64) -> [u8; 6] {
    let [_, _, time @ ..] = seconds.to_be_bytes();
    time
}

fn with_length(octets: &[u8]) -> Vec<u8> {
    let length = u16::try_from(octets.len()).expect("it was in a record, or is a hash");
    [&length.to_be_bytes(), octets].concat()
}

/// Name, type, class, TTL and length; algorithm, time, fudge, MAC, id, error and other data.
fn record_octets(key: &Name, algorithm: &Name, mac: usize, other: usize) -> usize {
    let fixed = 10 + 6 + 2 + 2 + 2 + 2 + 2;
    key.as_wire().len() + algorithm.as_wire().len() + fixed + mac + other
}

/// Adds a TSIG record to a message and counts it.
fn append(
    message: &mut Vec<u8>,
    (key, algorithm): (&Name, &Name),
    variables: &Variables<'_>,
    mac: &[u8],
) {
    let mut data = algorithm.as_wire().to_vec();
    data.extend(variables.timers());
    data.extend(with_length(mac));
    data.extend(&message[..2]);
    data.extend(variables.error.to_be_bytes());
    data.extend(with_length(variables.other));
    message.extend(key.as_wire());
    message.extend(Rtype::TSIG.0.to_be_bytes());
    message.extend(CLASS_ANY.to_be_bytes());
    message.extend([0; 4]);
    message.extend(with_length(&data));
    let header = message.first_chunk_mut::<HEADER_OCTETS>();
    let header = header.expect("a message has a header");
    count_additional(header, |count| count.checked_add(1)).expect("few records of ours");
}

fn count_additional(
    header: &mut [u8; HEADER_OCTETS],
    change: impl FnOnce(u16) -> Option<u16>,
) -> Option<()> {
    let [.., c0, c1] = *header;
    let count = change(u16::from_be_bytes([c0, c1]))?;
    header[ADDITIONAL_COUNT_AT..].copy_from_slice(&count.to_be_bytes());
    Some(())
}

fn hash<M: Mac + KeyInit>(secret: &[u8], parts: &[&[u8]]) -> M {
    let mac = <M as KeyInit>::new_from_slice(secret).expect("a secret of any length will do");
    parts.iter().fold(mac, Mac::chain_update)
}

fn mac(key: &TsigKey, parts: &[&[u8]]) -> Vec<u8> {
    fn whole<M: Mac + KeyInit>(secret: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        hash::<M>(secret, parts).finalize().into_bytes().to_vec()
    }
    let secret = key.secret();
    match key.algorithm() {
        Algorithm::HmacSha1 => whole::<Hmac<Sha1>>(secret, parts),
        Algorithm::HmacSha224 => whole::<Hmac<Sha224>>(secret, parts),
        Algorithm::HmacSha256 => whole::<Hmac<Sha256>>(secret, parts),
        Algorithm::HmacSha384 => whole::<Hmac<Sha384>>(secret, parts),
        Algorithm::HmacSha512 => whole::<Hmac<Sha512>>(secret, parts),
    }
}

/// Whether the hash begins with these octets, found out in constant time.
fn is_mac(key: &TsigKey, parts: &[&[u8]], found: &[u8]) -> bool {
    fn begins<M: Mac + KeyInit>(secret: &[u8], parts: &[&[u8]], found: &[u8]) -> bool {
        hash::<M>(secret, parts)
            .verify_truncated_left(found)
            .is_ok()
    }
    let secret = key.secret();
    match key.algorithm() {
        Algorithm::HmacSha1 => begins::<Hmac<Sha1>>(secret, parts, found),
        Algorithm::HmacSha224 => begins::<Hmac<Sha224>>(secret, parts, found),
        Algorithm::HmacSha256 => begins::<Hmac<Sha256>>(secret, parts, found),
        Algorithm::HmacSha384 => begins::<Hmac<Sha384>>(secret, parts, found),
        Algorithm::HmacSha512 => begins::<Hmac<Sha512>>(secret, parts, found),
    }
}
