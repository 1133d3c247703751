//! How a zone is signed (DNSSEC): which keys are in it, which of them sign, and since when.
//!
//! Private keys are files of the name servers and never here. What is here makes all of them sign
//! alike: signatures of the same keys over the same records at the same times are the same octets,
//! so one serial says one content on every server, and a secondary may go from one to the other.
//!
//! `at` moves on by itself before signatures end: whoever leads the group writes it
//! ([`SigningObject::next`]), and with it the zone has its next serial.

use cfgdns_sign::{Dnskey, Role, Signing, Time, Validity, ZoneKey};
use cfgdns_zone::{Rdata, Rtype};
use serde::{Deserialize, Serialize};

/// Signatures begin so long before the moment of signing, s: clocks of validators may be behind.
const BEFORE_S: u64 = 3_600;
/// How long signatures are good unless it is said, s: two weeks.
const VALID_S: u64 = 14 * 86_400;
/// The shortest and the longest time, s.
const VALID_S_MIN: u64 = 60;
const VALID_S_MAX: u64 = 366 * 86_400;

/// What a key of a zone signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyRole {
    /// Everything (combined signing key).
    Csk,
    /// The keys (key signing key).
    Ksk,
    /// Everything but the keys (zone signing key).
    Zsk,
}

impl KeyRole {
    fn role(self) -> Role {
        match self {
            Self::Csk => Role::Both,
            Self::Ksk => Role::KeySigning,
            Self::Zsk => Role::ZoneSigning,
        }
    }
}

/// A key of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    /// Its DNSKEY record, as a master file has it: flags, protocol, algorithm, public key.
    pub dnskey: String,
    /// What it signs.
    pub role: KeyRole,
    /// Whether it does: one that comes or goes is in the zone and signs nothing (RFC 6781 4.1).
    pub signs: bool,
}

impl SigningKey {
    /// The record; the error says what is wrong with it.
    pub fn read(&self) -> Result<Dnskey, String> {
        let data = Rdata::parse(Rtype::DNSKEY, &self.dnskey, None);
        let data = data.map_err(|error| format!("dnskey '{}': {error}", self.dnskey))?;
        Dnskey::from_data(&data).map_err(|error| format!("dnskey '{}': {error}", self.dnskey))
    }
}

/// How a zone is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningObject {
    /// The keys in the zone.
    pub keys: Vec<SigningKey>,
    /// The moment of signing, s since 1970.
    pub at: u64,
    /// How long signatures are good, s, from then on.
    #[serde(default = "valid")]
    pub valid_s: u64,
}

fn valid() -> u64 {
    VALID_S
}

impl SigningObject {
    /// Signed at a moment, by no key yet.
    pub fn new(at: u64) -> Self {
        Self {
            keys: Vec::new(),
            at,
            valid_s: VALID_S,
        }
    }

    /// What servers sign by; the error says what a validator would not take.
    pub fn read(&self) -> Result<Signing, String> {
        if !(VALID_S_MIN..=VALID_S_MAX).contains(&self.valid_s) {
            return Err(format!(
                "valid_s is {}, allowed: {VALID_S_MIN} to {VALID_S_MAX}",
                self.valid_s
            ));
        }
        if self.at <= BEFORE_S || self.at > u64::from(u32::MAX) {
            return Err(format!("at is {}, no time in seconds since 1970", self.at));
        }
        let keys = self.keys.iter().map(|key| {
            Ok(ZoneKey {
                dnskey: key.read()?,
                role: key.role.role(),
                signs: key.signs,
            })
        });
        let keys = keys.collect::<Result<Vec<_>, String>>()?;
        let inception = Time::from_unix(self.at - BEFORE_S);
        let expiration = Time::from_unix(self.at + self.valid_s);
        let validity = Validity::new(inception, expiration).map_err(|error| error.to_string())?;
        Signing::new(keys, validity).map_err(|error| error.to_string())
    }

    /// Signed anew at a moment, when half of the time is over: secondaries and resolvers keep what
    /// they have for a while, and whoever must look at it if that fails has the other half.
    pub fn next(&self, now: u64) -> Option<Self> {
        let due = self.at.saturating_add(self.valid_s / 2);
        (now >= due).then(|| Self {
            at: now,
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8080 6.1.
    const KEY: &str = "257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=";

    fn object() -> SigningObject {
        SigningObject {
            keys: vec![SigningKey {
                dnskey: KEY.to_owned(),
                role: KeyRole::Csk,
                signs: true,
            }],
            ..SigningObject::new(1_700_000_000)
        }
    }

    #[test]
    fn signatures_begin_an_hour_before_and_end_after_their_time() {
        let signing = object().read().expect("it can be signed so");
        assert_eq!(signing.keys().len(), 1);
        assert_eq!(signing.validity().inception(), Time(1_700_000_000 - 3_600));
        assert_eq!(signing.validity().expiration(), Time(1_701_209_600));
        let text = serde_json::to_string(&object()).expect("JSON");
        assert_eq!(
            serde_json::from_str::<SigningObject>(&text).expect("it"),
            object()
        );
    }

    #[test]
    fn what_a_validator_would_not_take_is_refused_with_why() {
        let refused = |change: fn(&mut SigningObject)| {
            let mut object = object();
            change(&mut object);
            object.read().expect_err("refused")
        };
        assert_eq!(
            refused(|object| object.valid_s = 1),
            "valid_s is 1, allowed: 60 to 31622400"
        );
        assert_eq!(
            refused(|object| object.at = 0),
            "at is 0, no time in seconds since 1970"
        );
        assert_eq!(
            refused(|object| object.keys.clear()),
            "a signed zone has a key"
        );
        assert!(refused(|object| object.keys[0].signs = false).contains("RFC 4035 2.2"));
        assert!(refused(|object| object.keys[0].role = KeyRole::Zsk).contains("RFC 4034 2.1.1"));
        assert!(
            refused(|object| object.keys[0].dnskey = "257 3 8 AQ==".into()).contains("257 3 8")
        );
    }

    #[test]
    fn zone_is_signed_anew_when_half_of_the_time_is_over() {
        let before = object();
        assert_eq!(before.next(1_700_000_000 + 604_799), None);
        let after = before.next(1_700_000_000 + 604_800).expect("it is time");
        assert_eq!((after.at, &after.keys), (1_700_604_800, &before.keys));
        assert_eq!(after.next(after.at), None);
    }
}
