//! Writes a message (RFC 1035 4.1): names compressed, sets whole or not at all, and never more than
//! a limit.
//!
//! A name points at the longest suffix that the message has already, whatever its case: most often
//! at the question, so that an answer shows the case that was asked. A copy of a zone must show the
//! case of the zone, so there a name points at octets that are the same (RFC 5936 3.4). Within data
//! only the types of RFC 1035 have names that may be compressed (RFC 3597 4).

use std::borrow::Cow;

use cfgdns_zone::{Rtype, compressible};

use crate::answer::CLASS_IN;
use crate::message::{HEADER_OCTETS, option};
use crate::reply::{ExtendedError, Records};

/// Where a pointer can lead: it has 14 bits (RFC 1035 4.1.4).
const POINTER_MAX: u16 = 0x3fff;
/// What makes a pointer of a place (RFC 1035 4.1.4).
const POINTER: u16 = 0xc000;
/// Where the name of the question is: after the header.
const QUESTION_AT: u16 = 12;
const _: () = assert!(QUESTION_AT as usize == HEADER_OCTETS);
/// How many suffixes are remembered. Later names are found among these, or written out, so that a
/// message with thousands of names costs no more than so many looks for each.
const SUFFIXES_MAX: usize = 96;

/// What the size of a padded message is a multiple of (RFC 8467 4.1).
const BLOCK_OCTETS: usize = 468;
/// Octets of an option without its value.
const OPTION_HEAD_OCTETS: usize = 4;

/// The message has no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// A section of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// What was asked for.
    Answer = 1,
    /// Who has authority.
    Authority = 2,
    /// What may help.
    Additional = 3,
}

/// A message that is being written.
pub(crate) struct Writer {
    octets: Vec<u8>,
    /// Octets of the name in the question, which most other names are, or end with.
    question: usize,
    /// Key and place of each suffix of a name that is in it. Those of the question are put there
    /// when the first other name comes: most messages have none.
    suffixes: Vec<(u64, u16)>,
    limit: usize,
    /// Records of each section; of the first, questions.
    counts: [u16; 4],
    /// Whether a name that is pointed at must be in the same case.
    keeps_case: bool,
}

impl Writer {
    /// An empty message of at most `limit` octets, which are more than a header.
    pub(crate) fn new(limit: usize) -> Self {
        let mut octets = Vec::with_capacity(limit.min(1_232));
        octets.resize(HEADER_OCTETS, 0);
        Self {
            octets,
            question: 0,
            suffixes: Vec::new(),
            limit,
            counts: [0; 4],
            keeps_case: false,
        }
    }

    /// An empty message that keeps the case of every name.
    pub(crate) fn keeping_case(limit: usize) -> Self {
        Self {
            keeps_case: true,
            ..Self::new(limit)
        }
    }

    /// How many records a section has.
    pub(crate) fn count(&self, section: Section) -> u16 {
        self.counts[section as usize]
    }

    /// Writes the question as it came.
    pub(crate) fn question(&mut self, wire: &[u8]) -> Result<(), Full> {
        self.put(wire)?;
        self.counts[0] += 1;
        self.question = wire.len() - 4;
        Ok(())
    }

    /// Keeps room for what will be written last.
    pub(crate) fn reserve(&mut self, octets: usize) -> Result<(), Full> {
        let left = self.limit.checked_sub(octets).ok_or(Full)?;
        if left < self.octets.len() {
            return Err(Full);
        }
        self.limit = left;
        Ok(())
    }

    /// Gives back room that was kept.
    pub(crate) fn release(&mut self, octets: usize) {
        self.limit += octets;
    }

    /// Writes a set with its signatures, or, when it does not fit, nothing.
    pub(crate) fn set(&mut self, section: Section, records: &Records<'_>) -> Result<(), Full> {
        let (class, ttl) = (CLASS_IN, records.ttl);
        self.whole(|writer| {
            let data = records.data().map(|data| (records.rtype, data));
            let signatures = records.signatures.iter();
            let signatures = signatures.map(|signature| (Rtype::RRSIG, &signature[..]));
            let mut all = data.chain(signatures);
            all.try_for_each(|(rtype, data)| {
                writer.record(section, &records.owner, (rtype, class, ttl), data)
            })
        })
    }

    /// Does all that `write` does, or, when it does not fit, nothing.
    pub(crate) fn whole(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        let mark = (self.octets.len(), self.suffixes.len());
        let before = self.counts;
        let written = write(self);
        if written.is_err() {
            self.octets.truncate(mark.0);
            self.suffixes.truncate(mark.1);
            self.counts = before;
        }
        written
    }

    /// Writes a record; when it does not fit, maybe a part of it.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: &[u8],
        (rtype, class, ttl): (Rtype, u16, u32),
        data: &[u8],
    ) -> Result<(), Full> {
        self.name(owner)?;
        let ([r0, r1], [c0, c1]) = (rtype.0.to_be_bytes(), class.to_be_bytes());
        let [t0, t1, t2, t3] = ttl.to_be_bytes();
        self.put(&[r0, r1, c0, c1, t0, t1, t2, t3, 0, 0])?;
        let length_at = self.octets.len() - 2;
        let (skip, names) = compressible(rtype);
        let (first, mut rest) = data.split_at_checked(skip).unwrap_or((data, &[]));
        self.put(first)?;
        for _ in 0..names {
            let (name, after) = rest.split_at(name_octets(rest));
            self.name(name)?;
            rest = after;
        }
        self.put(rest)?;
        let length = u16::try_from(self.octets.len() - length_at - 2).map_err(|_| Full)?;
        self.octets[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        self.counts[section as usize] += 1;
        Ok(())
    }

    /// Takes back all records: the question stays.
    pub(crate) fn clear(&mut self, question_octets: usize) {
        self.octets.truncate(HEADER_OCTETS + question_octets);
        self.suffixes.clear();
        self.counts[1..].fill(0);
    }

    /// The message, with the first four octets of its header.
    pub(crate) fn finish(mut self, head: [u8; 4]) -> Vec<u8> {
        self.octets[..4].copy_from_slice(&head);
        let counts = self.counts.map(u16::to_be_bytes);
        self.octets[4..HEADER_OCTETS].copy_from_slice(counts.as_flattened());
        self.octets
    }

    fn put(&mut self, octets: &[u8]) -> Result<(), Full> {
        if self.octets.len() + octets.len() > self.limit {
            return Err(Full);
        }
        self.octets.extend_from_slice(octets);
        Ok(())
    }

    /// Writes a name, with a pointer to as much of it as is there.
    fn name(&mut self, wire: &[u8]) -> Result<(), Full> {
        if wire.len() == 1 {
            return self.put(wire);
        }
        if wire.len() == self.question && self.is_at(QUESTION_AT, wire) {
            return self.put(&(QUESTION_AT | POINTER).to_be_bytes());
        }
        if self.suffixes.is_empty() && self.question > 0 {
            let question = &self.octets[HEADER_OCTETS..HEADER_OCTETS + self.question];
            remember(&mut self.suffixes, question, question.len(), HEADER_OCTETS);
        }
        let at = self.octets.len();
        let mut start = 0;
        let mut known = None;
        while known.is_none() && wire[start] > 0 {
            known = self.find(&wire[start..]);
            if known.is_none() {
                start += usize::from(wire[start]) + 1;
            }
        }
        match known {
            Some(place) => {
                self.put(&wire[..start])?;
                self.put(&(place | POINTER).to_be_bytes())?;
            }
            None => self.put(wire)?,
        }
        remember(&mut self.suffixes, wire, start, at);
        Ok(())
    }

    fn find(&self, suffix: &[u8]) -> Option<u16> {
        let wanted = key(suffix);
        let mut known = self.suffixes.iter();
        let found = known.find(|known| known.0 == wanted && self.is_at(known.1, suffix));
        found.map(|known| known.1)
    }

    /// Whether the name at a place of this message is `suffix`.
    fn is_at(&self, place: u16, mut suffix: &[u8]) -> bool {
        let mut at = usize::from(place);
        // Most often the octets are the same, without a pointer: the lengths are among them.
        if self.octets[at..].starts_with(suffix) {
            return true;
        }
        loop {
            let length = self.octets[at];
            if length >= 0xc0 {
                // Pointers of this message lead back, so this ends.
                at = usize::from(length & 0x3f) << 8 | usize::from(self.octets[at + 1]);
                continue;
            }
            let label = usize::from(length) + 1;
            let there = &self.octets[at..at + label];
            let same = if self.keeps_case {
                *there == suffix[..label]
            } else {
                there.eq_ignore_ascii_case(&suffix[..label])
            };
            if !same || length == 0 {
                return same;
            }
            at += label;
            suffix = &suffix[label..];
        }
    }
}

/// The OPT record of a message (RFC 6891 6.1).
#[derive(Debug, Clone)]
pub(crate) struct Opt {
    /// The largest UDP message that is taken.
    pub(crate) udp_octets: u16,
    /// The upper bits of the outcome, the version and the flags.
    pub(crate) ttl: u32,
    /// Codes, lengths and values.
    pub(crate) options: Vec<u8>,
    /// Whether the message is padded, so that its size says little.
    pub(crate) padded: bool,
}

impl Opt {
    /// Octets that it takes, but for what it is padded with.
    pub(crate) fn octets(&self) -> usize {
        let padding = if self.padded { OPTION_HEAD_OCTETS } else { 0 };
        11 + self.options.len() + padding
    }

    /// Octets that a message can have which has `opt`: where it is padded, whole blocks.
    pub(crate) fn limit(opt: Option<&Self>, limit: usize) -> usize {
        match opt {
            Some(opt) if opt.padded => limit - limit % BLOCK_OCTETS,
            Some(_) | None => limit,
        }
    }

    /// Adds an option.
    pub(crate) fn push(&mut self, code: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("values of ours are short");
        self.options.extend(code.to_be_bytes());
        self.options.extend(length.to_be_bytes());
        self.options.extend(value);
    }

    /// Adds why (RFC 8914 2).
    pub(crate) fn extended_error(&mut self, error: Option<ExtendedError>) {
        if let Some(error) = error {
            self.push(option::EXTENDED_ERROR, &error.code().to_be_bytes());
        }
    }

    /// Writes it, where room was kept for it, in a message of whole blocks when it is padded.
    /// After it come so many octets.
    pub(crate) fn write(&self, writer: &mut Writer, after: usize) {
        let meta = (Rtype::OPT, self.udp_octets, self.ttl);
        let mut options = Cow::Borrowed(&self.options);
        if self.padded {
            let octets = writer.octets.len() + self.octets() + after;
            let padding = octets.next_multiple_of(BLOCK_OCTETS) - octets;
            let mut padded = self.clone();
            padded.push(option::PADDING, &[0; BLOCK_OCTETS][..padding]);
            options = Cow::Owned(padded.options);
        }
        let written = writer.record(Section::Additional, &[0], meta, &options);
        written.expect("there is room that was kept");
    }
}

/// Octets of the name that valid data begins with.
fn name_octets(data: &[u8]) -> usize {
    let mut at = 0;
    while data[at] > 0 {
        at += usize::from(data[at]) + 1;
    }
    at + 1
}

/// Remembers the suffixes of a name at `at` that begin before `end`, without the root.
fn remember(suffixes: &mut Vec<(u64, u16)>, wire: &[u8], end: usize, at: usize) {
    let mut start = 0;
    while start < end && wire[start] > 0 {
        let Ok(place @ ..=POINTER_MAX) = u16::try_from(at + start) else {
            return;
        };
        if suffixes.len() == SUFFIXES_MAX {
            return;
        }
        suffixes.push((key(&wire[start..]), place));
        start += usize::from(wire[start]) + 1;
    }
}

/// What suffixes that are the same but for case have in common, and others hardly: how many octets
/// there are, and the last of those of the first label, where names that are alike differ.
fn key(suffix: &[u8]) -> u64 {
    let end = usize::from(suffix[0]) + 1;
    let octets = match (suffix[..end].last_chunk(), suffix.first_chunk()) {
        (Some(last), _) => *last,
        (None, Some(first)) => *first,
        (None, None) => {
            let mut octets = [0; 8];
            octets[..suffix.len()].copy_from_slice(suffix);
            octets
        }
    };
    // This bit is what lower case has more; that it makes others the same does no harm.
    let folded = u64::from_le_bytes(octets) | 0x2020_2020_2020_2020;
    folded.rotate_left(8) ^ suffix.len() as u64
}

#[cfg(test)]
mod tests {
    use cfgdns_zone::{Rdata, names_in};

    use super::*;

    /// The table of the zone package says which names may be compressed; here is its short form.
    #[test]
    fn names_that_are_compressed_are_those_that_the_table_of_types_allows() {
        for (rtype, text) in [
            (Rtype::A, "192.0.2.1"),
            (Rtype::NS, "a.b."),
            (Rtype::MD, "a.b."),
            (Rtype::MF, "a.b."),
            (Rtype::CNAME, "a.b."),
            (Rtype::SOA, "a.b. c. 1 2 3 4 5"),
            (Rtype::MB, "a.b."),
            (Rtype::MG, "a.b."),
            (Rtype::MR, "a.b."),
            (Rtype::PTR, "a.b."),
            (Rtype::HINFO, "a b"),
            (Rtype::MINFO, "a.b. c."),
            (Rtype::MX, "1 a.b."),
            (Rtype::TXT, "a"),
            (Rtype::RP, "a.b. c."),
            (Rtype::AFSDB, "1 a.b."),
            (Rtype::RT, "1 a.b."),
            (Rtype::PX, "1 a.b. c."),
            (Rtype::SRV, "1 2 3 a.b."),
            (Rtype::NAPTR, "1 2 a b c a.b."),
            (Rtype::KX, "1 a.b."),
            (Rtype::DNAME, "a.b."),
            (Rtype::SVCB, "1 a.b."),
            (Rtype::HTTPS, "1 a.b."),
            (Rtype::LP, "1 a.b."),
        ] {
            let data = Rdata::parse(rtype, text, None).expect(text);
            let wire = data.as_wire();
            let places = names_in(rtype, wire);
            let allowed: Vec<_> = places.iter().filter(|place| place.compress).collect();
            let (skip, names) = compressible(rtype);
            assert_eq!(allowed.len(), names, "{rtype}");
            let mut at = skip;
            for place in allowed {
                assert_eq!((place.at, place.octets), (at, name_octets(&wire[at..])));
                at += place.octets;
            }
        }
    }
}
