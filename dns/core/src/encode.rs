//! Writes a message (RFC 1035 4.1): names compressed, sets whole or not at all, and never more than
//! a limit.
//!
//! A name points at the longest suffix that the message has already, whatever its case: most often
//! at the question, so that an answer shows the case that was asked. A copy of a zone must show the
//! case of the zone, so there a name points at octets that are the same (RFC 5936 3.4). Within data
//! only the types of RFC 1035 have names that may be compressed (RFC 3597 4).

use cfgdns_zone::{LABELS_MAX, Rtype, compressible};

use crate::answer::CLASS_IN;
use crate::index::hash_label;
use crate::message::{HEADER_OCTETS, option};
use crate::reply::{ExtendedError, Records};

/// Where a pointer can lead: it has 14 bits (RFC 1035 4.1.4).
const POINTER_MAX: u16 = 0x3fff;
/// How many suffixes are remembered. Later names are found among these, or written out, so that a
/// message with thousands of names costs no more than so many looks for each.
const SUFFIXES_MAX: usize = 96;

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
    /// Hash and place of each suffix of a name that is in it.
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
            suffixes: Vec::with_capacity(16),
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
        let at = self.octets.len();
        self.put(wire)?;
        self.counts[0] += 1;
        let name = &wire[..wire.len() - 4];
        let (labels, count) = labels(name);
        self.remember(&labels[..count], at);
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
        self.put(&rtype.0.to_be_bytes())?;
        self.put(&class.to_be_bytes())?;
        self.put(&ttl.to_be_bytes())?;
        let length_at = self.octets.len();
        self.put(&[0, 0])?;
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
        let (labels, count) = labels(wire);
        let labels = &labels[..count];
        let at = self.octets.len();
        for (index, &(start, hash)) in labels.iter().enumerate() {
            let suffix = &wire[usize::from(start)..];
            if let Some(place) = self.find(hash, suffix) {
                self.put(&wire[..usize::from(start)])?;
                self.put(&(place | 0xc000).to_be_bytes())?;
                self.remember(&labels[..index], at);
                return Ok(());
            }
        }
        self.put(wire)?;
        self.remember(labels, at);
        Ok(())
    }

    /// Remembers the suffixes that begin with these labels of a name that is at `at`.
    fn remember(&mut self, labels: &[(u8, u64)], at: usize) {
        for &(start, hash) in labels {
            let Ok(place @ ..=POINTER_MAX) = u16::try_from(at + usize::from(start)) else {
                return;
            };
            if self.suffixes.len() == SUFFIXES_MAX {
                return;
            }
            self.suffixes.push((hash, place));
        }
    }

    fn find(&self, hash: u64, suffix: &[u8]) -> Option<u16> {
        let mut known = self.suffixes.iter();
        let found = known.find(|known| known.0 == hash && self.is_at(known.1, suffix));
        found.map(|known| known.1)
    }

    /// Whether the name at a place of this message is `suffix`.
    fn is_at(&self, place: u16, mut suffix: &[u8]) -> bool {
        let mut at = usize::from(place);
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
}

impl Opt {
    /// Octets that it takes.
    pub(crate) fn octets(&self) -> usize {
        11 + self.options.len()
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

    /// Writes it, where room was kept for it.
    pub(crate) fn write(&self, writer: &mut Writer) {
        let meta = (Rtype::OPT, self.udp_octets, self.ttl);
        let written = writer.record(Section::Additional, &[0], meta, &self.options);
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

/// Where each label of a name begins, with the hash of the suffix from there; and how many.
fn labels(wire: &[u8]) -> ([(u8, u64); LABELS_MAX], usize) {
    let mut labels = [(0, 0); LABELS_MAX];
    let mut count = 0;
    let mut at = 0_u8;
    while wire[usize::from(at)] > 0 {
        labels[count].0 = at;
        count += 1;
        at += wire[usize::from(at)] + 1;
    }
    let mut hash = 0;
    for label in labels[..count].iter_mut().rev() {
        let start = usize::from(label.0);
        hash = hash_label(hash, &wire[start + 1..start + 1 + usize::from(wire[start])]);
        label.1 = hash;
    }
    (labels, count)
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
