//! What is still to be waited for when a key of a zone changes (RFC 6781 4.1). Pure.
//!
//! Every step takes something away that caches or secondaries may still rely on. Since when it is
//! over is in the keys; for how long it lives on, in the zone: a set is kept for its TTL, and a
//! secondary that missed a NOTIFY has the zone of before until it asks, by the refresh of the SOA.
//! What the parent publishes is not known here: its DS is the operator's to wait for.

use super::stored::Stored;
use cfgdns_zone::{RrSet, Rtype};
use cfgsvc_core::zones::{KeyRole, SigningKey};

/// How long what the zone says lives on, s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// TTL of the keys, which is that of the SOA.
    pub(crate) keys: u32,
    /// The largest TTL.
    pub(crate) largest: u32,
    /// After so long a secondary asks.
    pub(crate) refresh: u32,
    /// For so long it answers without having been able to.
    pub(crate) expire: u32,
}

impl Times {
    /// Those of a zone; `None` where there is no such zone.
    pub(crate) fn of(stored: &Stored) -> Option<Self> {
        stored.settings.as_ref()?;
        let zone = &stored.zone;
        let soa = zone.soa()?;
        let sets = zone.nodes().flat_map(|(_, node)| node.sets());
        let follows = stored.follows.iter().map(|(_, _, follow)| follow.ttl);
        Some(Self {
            keys: zone.set(zone.origin(), Rtype::SOA)?.ttl(),
            largest: sets.map(RrSet::ttl).chain(follows).max()?,
            refresh: soa.refresh,
            expire: soa.expire,
        })
    }

    /// What is wrong with signatures that are good for so long (RFC 6781 4.4.2).
    pub(crate) fn too_short(&self, valid_s: u64) -> Option<String> {
        let (what, least) = if valid_s < u64::from(self.expire) {
            (
                "a secondary answers for, by the expire of its SOA",
                self.expire,
            )
        } else if valid_s < u64::from(self.largest) {
            ("records of the zone are kept, by their TTL", self.largest)
        } else {
            return None;
        };
        Some(format!(
            "signatures are good for {valid_s} s, and {least} s is how long {what}: it may give \
             signatures that have ended (RFC 6781 4.4.2)"
        ))
    }
}

/// A step of a change of keys, with the keys that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Use,
    Retire,
    Remove,
}

/// Something to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Until then, s since 1970.
    pub(crate) until: u64,
    pub(crate) why: String,
}

/// What must be waited for before a step with the keys in these places; `None` when nothing is, or
/// when nothing is known of it.
pub(crate) fn wait(
    keys: &[SigningKey],
    (step, places): (Step, &[usize]),
    times: &Times,
    now: u64,
) -> Option<Wait> {
    let is_one = |place: &usize| places.contains(place);
    let others = || {
        let others = keys.iter().enumerate().filter(|(place, _)| !is_one(place));
        others.map(|(_, key)| key).filter(|key| key.signs)
    };
    let each = places.iter().filter_map(|place| keys.get(*place));
    let waits = each.filter_map(|key| {
        let (since, ttl, why) = match step {
            Step::Use => (key.since, times.keys, "caches may not have this key yet"),
            Step::Retire => {
                let same = others().filter(|other| takes_over(other, key));
                let since = same.map(|other| other.since).max()?;
                (
                    since,
                    times.keys,
                    "caches may not have the keys that go on signing",
                )
            }
            Step::Remove if key.signs => {
                let since = others().map(|other| other.since).max()?;
                (
                    since,
                    times.largest,
                    "caches may have nothing that the other keys signed",
                )
            }
            Step::Remove => (
                key.since,
                times.largest,
                "caches may have what this key signed",
            ),
        };
        let until = since? + u64::from(ttl) + u64::from(times.refresh);
        let refresh = times.refresh;
        Some(Wait {
            until,
            why: format!("{why} (TTL {ttl} s, and {refresh} s until each secondary has asked)"),
        })
    });
    waits
        .filter(|wait| wait.until > now)
        .max_by_key(|wait| wait.until)
}

/// Whether a key signs some of what the other one does, so that it can take its place.
fn takes_over(key: &SigningKey, other: &SigningKey) -> bool {
    let same_role =
        key.role == other.role || key.role == KeyRole::Csk || other.role == KeyRole::Csk;
    same_role && algorithm(key) == algorithm(other)
}

/// The number of a key's algorithm.
pub(crate) fn algorithm(key: &SigningKey) -> Option<u8> {
    Some(key.read().ok()?.algorithm().number())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=";
    const P256: &str = "257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+\
                        e+MAnLr+Wi9xMWyQLc8NAA==";
    const TIMES: Times = Times {
        keys: 300,
        largest: 86_400,
        refresh: 3_600,
        expire: 604_800,
    };

    fn key(dnskey: &str, role: KeyRole, signs: bool, since: u64) -> SigningKey {
        SigningKey {
            dnskey: dnskey.to_owned(),
            role,
            signs,
            since: Some(since),
        }
    }

    /// How long to wait at 1000.
    fn left(keys: &[SigningKey], step: Step, places: &[usize]) -> Option<u64> {
        let wait = wait(keys, (step, places), &TIMES, 1_000)?;
        Some(wait.until - 1_000)
    }

    #[test]
    fn each_step_of_a_change_waits_for_what_the_one_before_left_in_caches() {
        let csk = KeyRole::Csk;
        let standby = [key(ED25519, csk, true, 5), key(ED25519, csk, false, 900)];
        assert_eq!(left(&standby, Step::Use, &[1]), Some(300 + 3_600 - 100));
        let both = [key(ED25519, csk, true, 5), key(ED25519, csk, true, 950)];
        assert_eq!(left(&both, Step::Retire, &[0]), Some(300 + 3_600 - 50));
        let retired = [key(ED25519, csk, false, 990), key(ED25519, csk, true, 1)];
        assert_eq!(
            left(&retired, Step::Remove, &[0]),
            Some(86_400 + 3_600 - 10)
        );
        let at = |now| wait(&retired, (Step::Remove, &[0]), &TIMES, now);
        assert_eq!(at(990 + 90_000), None, "it is over");
        let why = at(1_000).expect("a wait").why;
        assert!(why.contains("TTL 86400 s, and 3600 s"), "{why}");
    }

    #[test]
    fn an_algorithm_goes_when_all_has_been_signed_by_another_for_long_enough() {
        let csk = KeyRole::Csk;
        let both = [key(ED25519, csk, true, 5), key(P256, csk, true, 980)];
        assert_eq!(left(&both, Step::Remove, &[0]), Some(86_400 + 3_600 - 20));
        assert_eq!(left(&both, Step::Remove, &[0, 1]), None, "none is left");
        assert_eq!(
            left(&both, Step::Retire, &[0]),
            None,
            "the group refuses it"
        );
    }

    #[test]
    fn a_key_takes_the_place_of_one_of_its_role_and_what_is_not_known_is_not_waited_for() {
        let (ksk, zsk) = (KeyRole::Ksk, KeyRole::Zsk);
        let keys = [
            key(ED25519, ksk, true, 999),
            key(ED25519, zsk, true, 5),
            key(ED25519, zsk, true, 970),
        ];
        assert_eq!(left(&keys, Step::Retire, &[1]), Some(300 + 3_600 - 30));
        let mut old = keys.clone();
        for key in &mut old {
            key.since = None;
        }
        assert_eq!(left(&old, Step::Retire, &[1]), None);
        assert_eq!(left(&old, Step::Use, &[1]), None);
    }

    #[test]
    fn signatures_outlive_secondaries_and_caches() {
        assert_eq!(TIMES.too_short(604_800), None);
        let why = TIMES.too_short(604_799).expect("it is too short");
        assert!(why.contains("604800 s") && why.contains("expire"), "{why}");
        let long = Times {
            largest: 1_000_000,
            ..TIMES
        };
        let why = long.too_short(604_800).expect("it is too short");
        assert!(why.contains("1000000 s") && why.contains("TTL"), "{why}");
    }
}
