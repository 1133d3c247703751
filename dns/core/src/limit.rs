//! The response rate limit: how many answers of a kind about a name go to a network in a second,
//! so that nobody who forges addresses makes this server flood another's network.
//!
//! ```text
//! (client's /24 or /56, kind of answer, name) ─► hash ─► one of four slots ─► credit ─► verdict
//! ```
//!
//! What is over the limit is dropped, or, each `slip`th of it, sent as an empty truncated message:
//! who really asked then comes again over TCP, where an address cannot be forged. Who has cookies
//! is sent one instead, and comes again with it. Who shows a cookie of ours is not limited at all,
//! and need not come here.
//!
//! The table never grows: where all four slots are taken, the one with most credit is given away,
//! because it limits least, and starts with full credit. To forget is to be lenient. The key of the
//! hash keeps strangers from choosing which slots meet.

use core::net::IpAddr;

use cfgdns_zone::NAME_OCTETS_MAX;

use crate::siphash::siphash24;

/// Slots that an entry can be in.
const WAYS: usize = 4;
/// Credit of one answer: parts that come in by the millisecond.
const ONE: u32 = 1_000;

/// What is limited, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Answers of a kind about a name to a network in a second; as many can come at once.
    pub per_second: u16,
    /// Each how manyth answer over the limit is sent without its records: 1 is all of them, 0 none.
    pub slip: u8,
    /// How many are remembered, at the least; each takes 24 octets.
    pub entries: usize,
}

/// The kinds of answers that have limits of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Data.
    Answer,
    /// A name without the type.
    NoData,
    /// No such name.
    NxDomain,
    /// A delegation.
    Referral,
    /// Anything else.
    Error,
}

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is within the limit.
    Send,
    /// It is over the limit, and its turn to slip through.
    Slip,
    /// It is over the limit.
    Drop,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The whole hash; 0 where nobody was yet, with full credit, so that nobody minds.
    tag: u64,
    /// When it was looked at last, in milliseconds.
    at_ms: u64,
    /// What is left, in thousandths of an answer.
    credit: u32,
    /// Answers over the limit since one slipped through.
    withheld: u8,
}

impl Slot {
    fn new(tag: u64, at_ms: u64, credit: u32) -> Self {
        Self {
            tag,
            at_ms,
            credit,
            withheld: 0,
        }
    }

    fn credit_at(&self, now_ms: u64, limits: Limits) -> u32 {
        let elapsed = u32::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(u32::MAX);
        let earned = elapsed.saturating_mul(u32::from(limits.per_second));
        self.credit.saturating_add(earned).min(full(limits))
    }
}

/// Credit of a second.
fn full(limits: Limits) -> u32 {
    u32::from(limits.per_second) * ONE
}

/// The state of the limit: one for each thread that answers.
#[derive(Debug, Clone)]
pub struct Limiter {
    limits: Limits,
    /// Keys the hash.
    secret: [u8; 16],
    /// A power of two times [`WAYS`].
    slots: Box<[Slot]>,
}

impl Limiter {
    /// A limit that nobody has used yet. The secret is random, and nobody else's business.
    pub fn new(limits: Limits, secret: [u8; 16]) -> Self {
        let rows = limits.entries.div_ceil(WAYS).max(1).next_power_of_two();
        let slot = Slot::new(0, 0, full(limits));
        Self {
            limits,
            secret,
            slots: vec![slot; rows * WAYS].into_boxed_slice(),
        }
    }

    /// Octets that the table takes.
    pub fn octets(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// Counts an answer about a name in wire form. Time that goes back brings no credit.
    pub(crate) fn count(
        &mut self,
        client: IpAddr,
        kind: Kind,
        name: &[u8],
        now_ms: u64,
    ) -> Verdict {
        let tag = self.tag(client, kind, name);
        let limits = self.limits;
        let rows = self.slots.len() / WAYS;
        let row = usize::try_from(tag >> 32).expect("32 bits fit") & (rows - 1);
        let slots = &mut self.slots[row * WAYS..(row + 1) * WAYS];
        let slot = if let Some(found) = slots.iter().position(|slot| slot.tag == tag) {
            &mut slots[found]
        } else {
            let credit = |slot: &&mut Slot| slot.credit_at(now_ms, limits);
            let slot = slots.iter_mut().max_by_key(credit);
            let slot = slot.expect("a row has slots");
            *slot = Slot::new(tag, now_ms, full(limits));
            slot
        };
        slot.credit = slot.credit_at(now_ms, limits);
        slot.at_ms = slot.at_ms.max(now_ms);
        if let Some(left) = slot.credit.checked_sub(ONE) {
            slot.credit = left;
            return Verdict::Send;
        }
        slot.withheld = slot.withheld.saturating_add(1);
        if limits.slip > 0 && slot.withheld >= limits.slip {
            slot.withheld = 0;
            return Verdict::Slip;
        }
        Verdict::Drop
    }

    fn tag(&self, client: IpAddr, kind: Kind, name: &[u8]) -> u64 {
        // The network, which kind of address it is of, the kind of answer, the name.
        let mut input = [0; 9 + NAME_OCTETS_MAX];
        match client.to_canonical() {
            IpAddr::V4(address) => input[..3].copy_from_slice(&address.octets()[..3]),
            IpAddr::V6(address) => {
                input[..7].copy_from_slice(&address.octets()[..7]);
                input[7] = 1;
            }
        }
        input[8] = kind as u8;
        let name = &name[..name.len().min(NAME_OCTETS_MAX)];
        input[9..9 + name.len()].copy_from_slice(name);
        input[9..].make_ascii_lowercase();
        siphash24(&self.secret, &input[..9 + name.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Drop, Send, Slip};
    use super::*;

    fn limiter(per_second: u16, slip: u8, entries: usize) -> Limiter {
        let limits = Limits {
            per_second,
            slip,
            entries,
        };
        Limiter::new(limits, *b"0123456789abcdef")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    const NAME: &[u8] = b"\x01a\x00";

    #[test]
    fn burst_is_sent_then_each_second_slips_and_a_second_later_all_is_well() {
        let mut limiter = limiter(3, 2, 100);
        let client = address("192.0.2.1");
        let mut count = |now_ms| limiter.count(client, Kind::Answer, NAME, now_ms);
        let first: Vec<_> = (0..7).map(|_| count(5_000)).collect();
        assert_eq!(first, [Send, Send, Send, Drop, Slip, Drop, Slip]);
        // A third of a second brings one; time that goes back brings none.
        let later = [5_334, 5_334, 1, 5_335].map(&mut count);
        assert_eq!(later, [Send, Drop, Slip, Drop]);
        let later: Vec<_> = (0..4).map(|_| count(60_000)).collect();
        assert_eq!(later, [Send, Send, Send, Slip]);
    }

    #[test]
    fn slip_of_one_drops_nothing_and_of_zero_lets_nothing_through() {
        for (slip, expected) in [(1, Slip), (0, Drop)] {
            let mut limiter = limiter(1, slip, 100);
            let client = address("192.0.2.1");
            let mut count = || limiter.count(client, Kind::Answer, NAME, 0);
            assert_eq!(count(), Send);
            for _ in 0..600 {
                assert_eq!(count(), expected);
            }
        }
    }

    #[test]
    fn network_kind_and_name_are_what_is_counted() {
        let sent = |other: &str, kind, name: &[u8]| {
            let mut limiter = limiter(1, 0, 100);
            for client in ["192.0.2.1", "2001:db8:0:100::1"] {
                limiter.count(address(client), Kind::Answer, NAME, 0);
            }
            limiter.count(address(other), kind, name, 0) == Send
        };
        for (client, kind, name, expected) in [
            ("192.0.2.255", Kind::Answer, &b"\x01A\x00"[..], false),
            ("::ffff:192.0.2.9", Kind::Answer, NAME, false),
            ("192.0.3.1", Kind::Answer, NAME, true),
            ("2001:db8:0:1ff:ffff::", Kind::Answer, NAME, false),
            ("2001:db8:0:200::1", Kind::Answer, NAME, true),
            ("192.0.2.1", Kind::NxDomain, NAME, true),
            ("192.0.2.1", Kind::Answer, b"\x01b\x00", true),
        ] {
            assert_eq!(sent(client, kind, name), expected, "{client} {kind:?}");
        }
    }

    #[test]
    fn table_never_grows_and_still_limits_whoever_asks_most() {
        let mut limiter = limiter(5, 0, 64);
        let octets = limiter.octets();
        assert!(octets <= 64 * 24, "{octets}");
        let flood = address("192.0.2.1");
        let mut sent = 0;
        for number in 0..5_000_u32 {
            let other = IpAddr::from((number << 8).to_be_bytes());
            limiter.count(other, Kind::Answer, NAME, 0);
            for _ in 0..10 {
                sent += u32::from(limiter.count(flood, Kind::Answer, NAME, 0) == Send);
            }
        }
        assert_eq!((sent, limiter.octets()), (5, octets));
    }
}
