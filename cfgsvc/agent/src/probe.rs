//! Probes of other hosts: what is sent, and what is made of the answers. No socket, no clock.
//!
//! A probe is a datagram that names the host it is for and carries a number; whoever has that name
//! sends the same bytes back with one changed, so that nothing is amplified. A host that answered
//! none of the last probes is missed; one that has not been probed often enough is neither missed
//! nor reached.
//!
//! Invariants
//! - whatever list a member sends, no more than [`PROBES_MAX`] of it are probed.
//! - nobody is missed without [`MISSES`] probes and one more that were not answered.

use std::collections::BTreeMap;

use cfgsvc_client::{Probe, Probes};

/// Begins every datagram.
const MAGIC: &[u8; 7] = b"cfgprb1";
/// Asks.
const ASKS: u8 = b'?';
/// Answers.
const ANSWERS: u8 = b'!';
/// Before the name: what it begins with, what it is, its number.
const HEAD: usize = 7 + 1 + 8;
/// Longest datagram: a name has 253 bytes at most.
pub const BYTES_MAX: usize = HEAD + 253;
/// So many in a row without an answer are a miss.
pub const MISSES: u32 = 4;
/// Most that one host probes: the group asks for no more, and takes no longer rows.
pub const PROBES_MAX: usize = 1_024;

/// A datagram, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// Somebody asks whether this host is there.
    Asks {
        /// Whom it is meant for.
        host: &'a [u8],
    },
    /// An answer to the probe with this number.
    Answers {
        /// The number.
        number: u64,
    },
}

/// A probe of `host`.
pub fn ask(host: &str, number: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.push(ASKS);
    bytes.extend(number.to_be_bytes());
    bytes.extend(host.as_bytes());
    bytes
}

/// What a datagram says; none for what is no probe.
pub fn read(bytes: &[u8]) -> Option<Datagram<'_>> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .filter(|_| bytes.len() <= BYTES_MAX)?;
    let (what, rest) = rest.split_first()?;
    let (number, host) = rest.split_first_chunk::<8>()?;
    match *what {
        ASKS => Some(Datagram::Asks { host }),
        ANSWERS => Some(Datagram::Answers {
            number: u64::from_be_bytes(*number),
        }),
        _ => None,
    }
}

/// Turns what asks into its answer.
pub fn answer(bytes: &mut [u8]) {
    if let Some(what) = bytes.get_mut(MAGIC.len()) {
        *what = ANSWERS;
    }
}

/// How one of them looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    /// Probes since the last answer.
    unanswered: u32,
    /// One was answered, ever.
    answered: bool,
}

/// How those of one list look, by their place in it.
#[derive(Debug, Default)]
pub struct Looks {
    looks: Vec<Look>,
    /// Numbers under way, and whom they were for.
    under_way: BTreeMap<u64, usize>,
}

impl Looks {
    /// Of a new list of so many.
    pub fn new(count: usize) -> Self {
        Self {
            looks: vec![Look::default(); count],
            under_way: BTreeMap::new(),
        }
    }

    /// A probe of one of them is sent; `number` is of no other.
    pub fn sent(&mut self, at: usize, number: u64) {
        if let Some(look) = self.looks.get_mut(at) {
            look.unanswered = look.unanswered.saturating_add(1);
            self.under_way.insert(number, at);
        }
        let most = self.looks.len() * (MISSES as usize + 1);
        while self.under_way.len() > most {
            self.under_way.pop_first();
        }
    }

    /// The probe with this number is answered.
    pub fn answered(&mut self, number: u64) {
        if let Some(at) = self.under_way.remove(&number) {
            self.reached(at);
        }
    }

    /// One of them answers.
    pub fn reached(&mut self, at: usize) {
        if let Some(look) = self.looks.get_mut(at) {
            *look = Look {
                unanswered: 0,
                answered: true,
            };
        }
    }

    /// Bits, by place: probed long enough to say something; and missed.
    pub fn bits(&self) -> (Vec<u8>, Vec<u8>) {
        let mut probed = vec![0; self.looks.len().div_ceil(8)];
        let mut missed = probed.clone();
        for (at, look) in self.looks.iter().enumerate() {
            let bit = 1 << (at % 8);
            // The last one may still be answered.
            let misses = look.unanswered > MISSES;
            if look.answered || misses {
                probed[at / 8] |= bit;
            }
            if misses {
                missed[at / 8] |= bit;
            }
        }
        (probed, missed)
    }
}

/// Whom a host probes, and how they look.
#[derive(Debug, Default)]
pub struct Watched {
    list: u64,
    probes: Vec<Probe>,
    looks: Looks,
}

impl Watched {
    /// Whom to probe from now on. Who was reached by the last list is by this one.
    pub fn given(&mut self, Probes { list, mut probes }: Probes) {
        probes.truncate(PROBES_MAX);
        let before = std::mem::take(&mut self.probes);
        let (probed, missed) = self.looks.bits();
        let bit = |bits: &[u8], at: usize| bits[at / 8] & (1 << (at % 8)) != 0;
        let mut looks = Looks::new(probes.len());
        for (at, probe) in probes.iter().enumerate() {
            let place = before.iter().position(|one| one == probe);
            if place.is_some_and(|was| bit(&probed, was) && !bit(&missed, was)) {
                looks.reached(at);
            }
        }
        (self.list, self.probes, self.looks) = (list, probes, looks);
    }

    /// The number of the list, and who is on it.
    pub fn list(&self) -> (u64, &[Probe]) {
        (self.list, &self.probes)
    }

    /// A probe of the one at this place is sent; `number` is of no other.
    pub fn sent(&mut self, at: usize, number: u64) {
        self.looks.sent(at, number);
    }

    /// The probe with this number is answered.
    pub fn answered(&mut self, number: u64) {
        self.looks.answered(number);
    }

    /// Bits, by place in the list: probed long enough to say something; and missed.
    pub fn bits(&self) -> (Vec<u8>, Vec<u8>) {
        self.looks.bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_the_question_with_one_byte_changed() {
        let mut bytes = ask("a1", 7);
        assert_eq!(read(&bytes), Some(Datagram::Asks { host: b"a1" }));
        let length = bytes.len();
        answer(&mut bytes);
        assert_eq!(read(&bytes), Some(Datagram::Answers { number: 7 }));
        assert_eq!(bytes.len(), length);
        let long = ask(&"h".repeat(254), 7);
        for odd in [
            &b""[..],
            b"cfgprb1",
            b"cfgprb1?1234567",
            b"cfgprb2?12345678a",
            &long,
        ] {
            assert_eq!(read(odd), None);
        }
    }

    #[test]
    fn who_answers_is_reached_and_who_does_not_is_missed_after_some() {
        let mut looks = Looks::new(9);
        assert_eq!(looks.bits(), (vec![0, 0], vec![0, 0]), "nothing is known");
        looks.sent(8, 1);
        looks.answered(1);
        looks.answered(1);
        looks.answered(99);
        assert_eq!(looks.bits(), (vec![0, 1], vec![0, 0]));
        for number in 2..6 {
            looks.sent(8, number);
            looks.sent(0, number + 100);
        }
        assert_eq!(looks.bits(), (vec![0, 1], vec![0, 0]), "four may be lost");
        looks.sent(8, 6);
        looks.sent(0, 106);
        assert_eq!(looks.bits(), (vec![1, 1], vec![1, 1]));
        // A late answer is one too.
        looks.answered(3);
        assert_eq!(looks.bits(), (vec![1, 1], vec![1, 0]));
        looks.sent(99, 7);
    }

    #[test]
    fn list_that_is_longer_than_any_the_group_gives_is_probed_in_part() {
        let probe = |at: usize| Probe {
            host: format!("h{at}"),
            ..Probe::default()
        };
        let mut watched = Watched::default();
        watched.given(Probes {
            list: 7,
            probes: (0..PROBES_MAX + 9).map(probe).collect(),
        });
        assert_eq!(watched.list().1.len(), PROBES_MAX);
        watched.sent(3, 1);
        watched.answered(1);
        // Who was reached still is, at another place.
        watched.given(Probes {
            list: 8,
            probes: vec![probe(9), probe(3)],
        });
        assert_eq!(watched.bits(), (vec![0b10], vec![0]));
    }
}
