//! Reads a request from octets that anybody may have sent (RFC 1035 4.1, RFC 6891).
//!
//! What cannot be read still gets an answer when it has a header: silence makes a client wait and
//! ask again (RFC 8906 3). So reading never fails as a whole; it keeps what it got and says what is
//! wrong. Nothing is followed or copied but the one name that is asked for, and the work is linear
//! in the octets, whatever the counts of the header claim.

use cfgdns_zone::{LABEL_OCTETS_MAX, NAME_OCTETS_MAX, Name, Rtype};

use crate::answer::CLASS_IN;
use crate::cookie::CLIENT_OCTETS;
use crate::reply::Rcode;

/// Octets of the header (RFC 1035 4.1.1).
pub const HEADER_OCTETS: usize = 12;

/// The opcode of a plain question.
pub(crate) const OPCODE_QUERY: u8 = 0;
/// The opcode of a message that tells of a change (RFC 1996 3.3).
pub(crate) const OPCODE_NOTIFY: u8 = 4;

/// Codes of the options of EDNS that are understood.
pub(crate) mod option {
    /// RFC 5001: who answers.
    pub(crate) const NSID: u16 = 3;
    /// RFC 7314: for how long a secondary may serve a zone.
    pub(crate) const EXPIRE: u16 = 9;
    /// RFC 7873.
    pub(crate) const COOKIE: u16 = 10;
    /// RFC 7830: octets that only make a message longer.
    pub(crate) const PADDING: u16 = 12;
    /// RFC 8914: extended errors.
    pub(crate) const EXTENDED_ERROR: u16 = 15;
    /// RFC 9660: which version of the zone answers.
    pub(crate) const ZONE_VERSION: u16 = 19;
}

/// Server cookies of other forms have 8 to 32 octets (RFC 7873 4.2).
const FOREIGN_COOKIE_OCTETS: std::ops::RangeInclusive<usize> = 16..=40;

/// The class of records that belong to a message (RFC 8945 4.2).
pub(crate) const CLASS_ANY: u16 = 255;

/// Octets at the end of the data of an SOA record, from its serial.
const SOA_NUMBERS_OCTETS: usize = 20;

/// Why a request is not answered as it was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It breaks a rule of its form.
    Form,
    /// Another kind of message than a question.
    Opcode,
    /// A version of EDNS that does not exist yet (RFC 6891 6.1.3).
    Version,
}

impl Fault {
    /// What it is answered with.
    pub fn rcode(self) -> Rcode {
        match self {
            Self::Form => Rcode::FormErr,
            Self::Opcode => Rcode::NotImp,
            Self::Version => Rcode::BadVers,
        }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// The question as it came: a reply has the same octets (RFC 4343 and "0x20").
    pub wire: &'a [u8],
    /// The name.
    pub name: Name,
    /// The type.
    pub rtype: Rtype,
    /// The class.
    pub class: u16,
}

/// The OPT record of a request (RFC 6891 6.1).
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a bit of the record, and options without a value: each is there or not"
)]
pub struct Edns<'a> {
    /// The largest UDP message that the client can get.
    pub udp_octets: u16,
    /// Its version.
    pub version: u8,
    /// Whether it takes records of DNSSEC.
    pub dnssec_ok: bool,
    /// Whether it takes NXDOMAIN with the proof of a name that is said to exist (RFC 9824 5.1).
    pub compact_ok: bool,
    /// Its cookie: the client's eight octets, and maybe one of a server.
    pub cookie: Option<&'a [u8]>,
    /// Whether it asks who answers.
    pub nsid: bool,
    /// Whether it asks for the serial of the zone.
    pub zone_version: bool,
    /// Whether it asks for how long it may serve the zone.
    pub expire: bool,
    /// Whether it is padded, so that its size says less (RFC 7830).
    pub padding: bool,
}

/// A signature: the TSIG record of a message (RFC 8945 4.2).
#[derive(Debug, Clone)]
pub struct Tsig<'a> {
    /// The name of the key.
    pub key: Name,
    /// The name of the algorithm.
    pub algorithm: Name,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// Seconds that the clocks may differ by.
    pub fudge: u16,
    /// The keyed hash, or its beginning.
    pub mac: &'a [u8],
    /// The id that the message had when it was signed.
    pub original_id: u16,
    /// What is wrong with the signature of a request.
    pub error: u16,
    /// More about that.
    pub other: &'a [u8],
    /// Where the record begins in the message: what is before it is signed.
    pub start: usize,
}

/// What a client sent.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Tells its reply from others.
    pub id: u16,
    /// The kind of message.
    pub opcode: u8,
    /// Copied into the reply to a question (RFC 1035 4.1.1).
    pub recursion_desired: bool,
    /// What is asked, when it could be read and is one.
    pub question: Option<Asked<'a>>,
    /// The first OPT record.
    pub edns: Option<Edns<'a>>,
    /// The signature.
    pub tsig: Option<Tsig<'a>>,
    /// The serial of an SOA record in the authority section: what a secondary has (RFC 1995 3).
    pub serial: Option<u32>,
    /// What is wrong with it.
    pub fault: Option<Fault>,
}

impl<'a> Request<'a> {
    /// Reads a request. None when there is nothing to answer: less than a header, or a reply.
    pub fn read(octets: &'a [u8]) -> Option<Self> {
        let [i0, i1, flags, _, counts @ ..] = *octets.first_chunk::<HEADER_OCTETS>()?;
        if flags & 0x80 != 0 {
            return None;
        }
        let mut request = Self {
            id: u16::from_be_bytes([i0, i1]),
            opcode: flags >> 3 & 15,
            recursion_desired: flags & 1 != 0,
            question: None,
            edns: None,
            tsig: None,
            serial: None,
            fault: None,
        };
        let [q0, q1, a0, a1, n0, n1, r0, r1] = counts;
        let counts = [[q0, q1], [a0, a1], [n0, n1], [r0, r1]].map(u16::from_be_bytes);
        let mut reader = Reader {
            octets,
            at: HEADER_OCTETS,
        };
        let fault = request.read_body(&mut reader, counts).err();
        // The form of another kind of message need not be the one that was looked for.
        let other = (request.opcode != OPCODE_QUERY).then_some(Fault::Opcode);
        request.fault = other.or(fault);
        Some(request)
    }

    fn read_body(&mut self, reader: &mut Reader<'a>, counts: [u16; 4]) -> Result<(), Fault> {
        let [questions, answers, authorities, additionals] = counts;
        if questions == 1 {
            self.question = Some(reader.question().ok_or(Fault::Form)?);
        } else {
            for _ in 0..questions {
                reader.skip_question().ok_or(Fault::Form)?;
            }
        }
        for _ in 0..answers {
            reader.record().filter(is_plain).ok_or(Fault::Form)?;
        }
        for _ in 0..authorities {
            let record = reader.record().filter(is_plain).ok_or(Fault::Form)?;
            if record.rtype == Rtype::SOA {
                let numbers = record.data.len().checked_sub(SOA_NUMBERS_OCTETS);
                let serial = numbers.and_then(|at| record.data[at..].first_chunk::<4>());
                self.serial = Some(u32::from_be_bytes(*serial.ok_or(Fault::Form)?));
            }
        }
        let mut tsig = None;
        for number in 0..additionals {
            let start = reader.at;
            let record = reader.record().ok_or(Fault::Form)?;
            match record.rtype {
                Rtype::OPT => self.read_opt(&record)?,
                // RFC 8945 5.2: it is the last record.
                Rtype::TSIG if number + 1 < additionals => return Err(Fault::Form),
                Rtype::TSIG => {
                    let read = Tsig::read(reader.octets, start, &record);
                    tsig = Some(read.ok_or(Fault::Form)?);
                }
                _ => {}
            }
        }
        if reader.at < reader.octets.len() {
            return Err(Fault::Form);
        }
        self.tsig = tsig;
        // RFC 9619 4: one question. Without any there can be a wish for a cookie (RFC 7873 5.4).
        match self.edns {
            _ if questions > 1 => Err(Fault::Form),
            Some(edns) if edns.version > 0 => Err(Fault::Version),
            Some(edns) if edns.cookie.is_some() => Ok(()),
            _ if questions == 0 => Err(Fault::Form),
            _ => Ok(()),
        }
    }

    fn read_opt(&mut self, record: &Record<'a>) -> Result<(), Fault> {
        // RFC 6891 6.1.1 and 6.1.2: one, at the root.
        if self.edns.is_some() || record.name != [0] {
            return Err(Fault::Form);
        }
        let [_, version, flags, _] = record.ttl.to_be_bytes();
        let edns = self.edns.insert(Edns {
            udp_octets: record.class,
            version,
            dnssec_ok: flags & 0x80 != 0,
            compact_ok: flags & 0x40 != 0,
            ..Edns::default()
        });
        // What the options of a later version mean, a later version says.
        match version {
            0 => edns.read_options(record.data).ok_or(Fault::Form),
            _ => Ok(()),
        }
    }
}

impl<'a> Edns<'a> {
    fn read_options(&mut self, data: &'a [u8]) -> Option<()> {
        let mut reader = Reader {
            octets: data,
            at: 0,
        };
        while reader.at < data.len() {
            let code = reader.u16()?;
            let length = reader.u16()?;
            let value = reader.take(usize::from(length))?;
            match code {
                // RFC 7873 5.2: the first counts, and another length is an error.
                option::COOKIE if self.cookie.is_none() => {
                    let octets = value.len();
                    if octets != CLIENT_OCTETS && !FOREIGN_COOKIE_OCTETS.contains(&octets) {
                        return None;
                    }
                    self.cookie = Some(value);
                }
                option::NSID => self.nsid = true,
                option::ZONE_VERSION => {
                    // RFC 9660 3.2.1: one, without a value.
                    (value.is_empty() && !self.zone_version).then_some(())?;
                    self.zone_version = true;
                }
                option::EXPIRE => self.expire = true,
                option::PADDING => self.padding = true,
                // Whatever is unknown (RFC 6891 6.1.2).
                _ => {}
            }
        }
        Some(())
    }
}

impl<'a> Tsig<'a> {
    /// RFC 8945 4.2. The name of the key may be compressed, as that of any record.
    fn read(octets: &'a [u8], start: usize, record: &Record<'a>) -> Option<Self> {
        let (algorithm, used) = Name::from_wire(record.data).ok()?;
        let mut reader = Reader {
            octets: record.data,
            at: used,
        };
        let time = [reader.u16()?, reader.u16()?, reader.u16()?];
        let fudge = reader.u16()?;
        let mac_octets = reader.u16()?;
        let mac = reader.take(usize::from(mac_octets))?;
        let original_id = reader.u16()?;
        let error = reader.u16()?;
        let other_octets = reader.u16()?;
        let other = reader.take(usize::from(other_octets))?;
        let plain = record.class == CLASS_ANY && record.ttl == 0;
        (plain && reader.at == record.data.len()).then_some(())?;
        Some(Self {
            key: name_at(octets, start)?,
            algorithm,
            time: time
                .iter()
                .fold(0, |time, part| time << 16 | u64::from(*part)),
            fudge,
            mac,
            original_id,
            error,
            other,
            start,
        })
    }
}

/// How it went, by the octets of a reply of ours: the bits of the header, and above them those of
/// the OPT record (RFC 6891 6.1.3). None when there is no header.
///
/// It is asked for each reply: only one without an answer and without authority can have such bits,
/// and in that the OPT record comes soon.
pub fn rcode_of(reply: &[u8]) -> Option<u16> {
    let [_, _, _, lower, counts @ ..] = *reply.first_chunk::<HEADER_OCTETS>()?;
    let lower = u16::from(lower & 15);
    let upper = match counts {
        [q0, q1, 0, 0, 0, 0, r0, r1] => {
            let [questions, records] = [[q0, q1], [r0, r1]].map(u16::from_be_bytes);
            upper_bits(reply, questions, records).unwrap_or_default()
        }
        _ => 0,
    };
    Some(u16::from(upper) << 4 | lower)
}

/// The bits of the outcome that are in the OPT record, if there is one.
fn upper_bits(reply: &[u8], questions: u16, records: u16) -> Option<u8> {
    let mut reader = Reader {
        octets: reply,
        at: HEADER_OCTETS,
    };
    for _ in 0..questions {
        reader.skip_question()?;
    }
    for _ in 0..records {
        let record = reader.record()?;
        if record.rtype == Rtype::OPT {
            return record.ttl.to_be_bytes().first().copied();
        }
    }
    None
}

/// A reply to a message that tells of a change (RFC 1996).
pub(crate) struct Notified<'a> {
    pub(crate) id: u16,
    pub(crate) rcode: u8,
    /// Missing where a server leaves the question out of an error, as NSD does.
    pub(crate) name: Option<Name>,
    pub(crate) tsig: Option<Tsig<'a>>,
}

impl<'a> Notified<'a> {
    /// Reads one; none when it is anything else.
    pub(crate) fn read(octets: &'a [u8]) -> Option<Self> {
        let [i0, i1, upper, lower, ..] = *octets.first_chunk::<HEADER_OCTETS>()?;
        let (counts, _) = octets[4..HEADER_OCTETS].as_chunks::<2>();
        let mut reader = Reader {
            octets,
            at: HEADER_OCTETS,
        };
        let (&questions, records) = counts.split_first()?;
        let is_reply = upper & 0x80 != 0 && upper >> 3 & 15 == OPCODE_NOTIFY;
        let rcode = lower & 15;
        let name = match u16::from_be_bytes(questions) {
            0 if is_reply && rcode > 0 => None,
            1 if is_reply => {
                let asked = reader.question()?;
                (asked.rtype == Rtype::SOA && asked.class == CLASS_IN).then_some(())?;
                Some(asked.name)
            }
            _ => return None,
        };
        let mut last = None;
        for count in records {
            for _ in 0..u16::from_be_bytes(*count) {
                last = Some((reader.at, reader.record()?));
            }
        }
        (reader.at == octets.len()).then_some(())?;
        let signed = last.filter(|(_, record)| record.rtype == Rtype::TSIG);
        let tsig = match signed {
            Some((start, record)) => Some(Tsig::read(octets, start, &record)?),
            None => None,
        };
        Some(Self {
            id: u16::from_be_bytes([i0, i1]),
            rcode,
            name,
            tsig,
        })
    }
}

/// The name at a place of a message, whose pointers lead back (RFC 1035 4.1.4).
fn name_at(octets: &[u8], mut at: usize) -> Option<Name> {
    let mut wire = Vec::new();
    let mut start = at;
    loop {
        let length = *octets.get(at)?;
        match usize::from(length) {
            // Every pointer leads to before where this part of the name began, so that it ends.
            0xc0..=0xff => {
                let target = usize::from(length & 0x3f) << 8 | usize::from(*octets.get(at + 1)?);
                (HEADER_OCTETS..start).contains(&target).then_some(())?;
                (at, start) = (target, target);
            }
            label @ 0..=LABEL_OCTETS_MAX => {
                wire.extend(octets.get(at..=at + label)?);
                at += label + 1;
                if label == 0 {
                    return Some(Name::from_wire(&wire).ok()?.0);
                }
            }
            _ => return None,
        }
        if wire.len() > NAME_OCTETS_MAX {
            return None;
        }
    }
}

/// Neither of the records that belong into the additional section.
fn is_plain(record: &Record<'_>) -> bool {
    record.rtype != Rtype::OPT && record.rtype != Rtype::TSIG
}

struct Record<'a> {
    /// Its name as it was written, maybe with a pointer.
    name: &'a [u8],
    rtype: Rtype,
    class: u16,
    ttl: u32,
    data: &'a [u8],
}

struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, octets: usize) -> Option<&'a [u8]> {
        let taken = self.octets.get(self.at..)?.get(..octets)?;
        self.at += octets;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().copied().map(u32::from_be_bytes)
    }

    fn question(&mut self) -> Option<Asked<'a>> {
        let start = self.at;
        // There is nothing before it that a pointer could lead to.
        let (name, octets) = Name::from_wire(self.octets.get(start..)?).ok()?;
        self.at += octets;
        let rtype = Rtype(self.u16()?);
        let class = self.u16()?;
        Some(Asked {
            wire: &self.octets[start..self.at],
            name,
            rtype,
            class,
        })
    }

    fn skip_question(&mut self) -> Option<()> {
        self.skip_name()?;
        self.take(4).map(|_| ())
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let start = self.at;
        self.skip_name()?;
        let name = &self.octets[start..self.at];
        let rtype = Rtype(self.u16()?);
        let class = self.u16()?;
        let ttl = self.u32()?;
        let length = self.u16()?;
        let data = self.take(usize::from(length))?;
        Some(Record {
            name,
            rtype,
            class,
            ttl,
            data,
        })
    }

    /// Goes to the end of a name, without following a pointer.
    fn skip_name(&mut self) -> Option<()> {
        let start = self.at;
        loop {
            let length = usize::from(self.u8()?);
            match length {
                0 => return Some(()),
                1..=LABEL_OCTETS_MAX => self.take(length)?,
                // RFC 1035 4.1.4: two bits that say so, and where the name goes on, before here.
                0xc0..=0xff => {
                    let target = (length & 0x3f) << 8 | usize::from(self.u8()?);
                    let before = (HEADER_OCTETS..start).contains(&target);
                    return before.then_some(());
                }
                _ => return None,
            };
            if self.at - start >= NAME_OCTETS_MAX {
                return None;
            }
        }
    }
}
