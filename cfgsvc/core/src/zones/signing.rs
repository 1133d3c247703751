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
/// It is for ever, as it is in no value: name servers of two versions with two of these would make
/// other signatures, and say other things by one serial.
const BEFORE_S: u64 = 3_600;
/// How long signatures are good where a value does not say it, s: two weeks. It is for ever too;
/// who writes a value says it, as [`SigningObject`] always does.
const VALID_S: u64 = 14 * 86_400;
/// The shortest time that is taken, s. Half of it is for making signatures anew, and there must be
/// many looks in that, so that one that fails costs nothing.
pub const VALID_S_MIN: u64 = 3_600;
/// The longest, s.
pub const VALID_S_MAX: u64 = 366 * 86_400;
/// The shortest that was ever taken, s: such values are read, and made anew with [`VALID_S_MIN`].
const VALID_S_READ_MIN: u64 = 60;

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
    /// When it came, began or ceased to sign, s since 1970: what caches and secondaries still have
    /// is told by it. Whoever does that writes it; values of before that was written have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
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

    /// Whether a zone may be signed so from now on, at `now_s` where that is known.
    ///
    /// Signatures of a moment that is to come are believed by nobody until then: a clock far ahead
    /// must not get into the zone.
    pub fn check(&self, now_s: Option<u64>) -> Result<(), String> {
        if self.valid_s < VALID_S_MIN {
            return Err(self.valid_refused());
        }
        self.read()?;
        match now_s {
            Some(now) if self.is_ahead(now) => Err(format!(
                "at is {}, and it is {now} by the clock of the group: at most {BEFORE_S} s after \
                 that; see which clock is wrong, then try again",
                self.at
            )),
            _ => Ok(()),
        }
    }

    fn valid_refused(&self) -> String {
        let valid_s = self.valid_s;
        format!("valid_s is {valid_s}, allowed: {VALID_S_MIN} to {VALID_S_MAX}")
    }

    /// Whether it is signed at a moment after this one, by more than clocks may differ.
    fn is_ahead(&self, now: u64) -> bool {
        self.at > now.saturating_add(BEFORE_S)
    }

    /// What servers sign by; the error says what a validator would not take.
    pub fn read(&self) -> Result<Signing, String> {
        if !(VALID_S_READ_MIN..=VALID_S_MAX).contains(&self.valid_s) {
            return Err(self.valid_refused());
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
    /// they have for a while, and whoever must look at it if that fails has the other half. And
    /// when it was signed by a clock far ahead.
    pub fn next(&self, now: u64) -> Option<Self> {
        let due = self.at.saturating_add(self.valid_s / 2);
        (now >= due || self.is_ahead(now)).then(|| Self {
            at: now,
            valid_s: self.valid_s.max(VALID_S_MIN),
            ..self.clone()
        })
    }

    /// When signatures end, s since 1970.
    pub fn until(&self) -> u64 {
        self.at.saturating_add(self.valid_s)
    }

    /// Whether no more than a quarter of the time is left: it was to be signed anew before that.
    pub fn is_late(&self, now: u64) -> bool {
        now >= self.until().saturating_sub(self.valid_s / 4)
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
                since: None,
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
    }

    #[test]
    fn values_of_before_are_read_and_what_is_written_says_how_long() {
        let text = serde_json::to_string(&object()).expect("JSON");
        let expected = format!(
            r#"{{"keys":[{{"dnskey":"{KEY}","role":"csk","signs":true}}],"at":1700000000,"valid_s":1209600}}"#
        );
        assert_eq!(text, expected);
        let read = |text: &str| serde_json::from_str::<SigningObject>(text).expect("it");
        assert_eq!(read(&text), object());
        assert_eq!(read(&text.replace(r#","valid_s":1209600"#, "")), object());
        let mut since = object();
        since.keys[0].since = Some(7);
        let text = serde_json::to_string(&since).expect("JSON");
        assert!(text.contains(r#""signs":true,"since":7}"#), "{text}");
        assert_eq!(read(&text), since);
    }

    #[test]
    fn a_short_time_of_before_is_read_and_made_anew_with_one_that_has_a_margin() {
        let short = SigningObject {
            valid_s: 60,
            ..object()
        };
        assert!(short.read().is_ok());
        assert_eq!(
            short.check(None).expect_err("it would be too short"),
            "valid_s is 60, allowed: 3600 to 31622400"
        );
        let next = short.next(short.at + 30).expect("half of it is over");
        assert_eq!((next.valid_s, next.check(None)), (3_600, Ok(())));
    }

    #[test]
    fn a_clock_far_ahead_is_refused_and_what_it_signed_is_signed_anew() {
        let ahead = object();
        let now = ahead.at - BEFORE_S;
        assert_eq!(ahead.check(Some(now)), Ok(()), "clocks differ");
        assert_eq!(ahead.next(now), None);
        let why = ahead.check(Some(now - 1)).expect_err("too far ahead");
        assert!(
            why.starts_with("at is 1700000000, and it is 1699996399 "),
            "{why}"
        );
        assert_eq!(ahead.check(None), Ok(()), "nobody knows the time");
        let next = ahead.next(now - 1).expect("nobody would believe it");
        assert_eq!((next.at, next.next(now - 1)), (now - 1, None));
    }

    #[test]
    fn it_is_late_when_a_quarter_of_the_time_is_left() {
        let object = object();
        assert_eq!(object.until(), 1_701_209_600);
        assert!(!object.is_late(object.until() - 302_401));
        assert!(object.is_late(object.until() - 302_400));
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
            "valid_s is 1, allowed: 3600 to 31622400"
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
