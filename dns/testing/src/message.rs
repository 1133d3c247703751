//! Writes requests and reads replies, without anything of the code under test: it follows pointers,
//! refuses what a careful client would, and says the reply as text.

use std::fmt::Write as _;

use cfgdns_zone::{Name, Rdata, Rtype};

/// A record of a reply, its data without compression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub rtype: Rtype,
    /// Its class.
    pub class: u16,
    /// Its TTL.
    pub ttl: u32,
    /// Its data.
    pub data: Vec<u8>,
}

/// A reply.
#[derive(Debug, Clone)]
pub struct Message {
    /// Tells it from others.
    pub id: u16,
    /// The second two octets of the header.
    pub flags: u16,
    /// The question as it is in the message.
    pub question: Vec<u8>,
    /// The answer section.
    pub answer: Vec<Record>,
    /// The authority section.
    pub authority: Vec<Record>,
    /// The additional section without the OPT record.
    pub additional: Vec<Record>,
    /// The OPT record.
    pub opt: Option<Opt>,
    /// How many octets it has.
    pub octets: usize,
}

/// Its OPT record.
#[derive(Debug, Clone)]
pub struct Opt {
    /// The largest message over UDP that the sender takes.
    pub udp_octets: u16,
    /// Upper bits of the rcode, version, flags.
    pub ttl: u32,
    /// Codes and values of its options.
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Message {
    /// Reads a whole message.
    pub fn read(octets: &[u8]) -> Self {
        let mut reader = Reader { octets, at: 0 };
        let [id, flags, questions, answers, authorities, additionals] =
            std::array::from_fn(|_| reader.u16());
        assert!(questions <= 1, "a reply has one question at most");
        let start = reader.at;
        if questions == 1 {
            reader.name();
            reader.at += 4;
        }
        let question = octets[start..reader.at].to_vec();
        let mut section = |count| (0..count).map(|_| reader.record()).collect::<Vec<_>>();
        let (answer, authority) = (section(answers), section(authorities));
        let mut additional = section(additionals);
        assert_eq!(reader.at, octets.len(), "octets after the last record");
        let place = additional
            .iter()
            .position(|record| record.rtype == Rtype::OPT);
        let opt = place.map(|place| Opt::read(&additional.remove(place)));
        assert!(additional.iter().all(|record| record.rtype != Rtype::OPT));
        Self {
            id,
            flags,
            question,
            answer,
            authority,
            additional,
            opt,
            octets: octets.len(),
        }
    }

    /// The outcome, with the bits that the OPT record has of it.
    pub fn rcode(&self) -> u16 {
        let upper = self.opt.as_ref().map_or(0, |opt| opt.ttl >> 24);
        self.flags & 15 | u16::try_from(upper << 4).expect("eight bits more")
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The value of the first option with a code.
    pub fn option(&self, code: u16) -> Option<&[u8]> {
        let options = &self.opt.as_ref()?.options;
        let found = options.iter().find(|option| option.0 == code);
        found.map(|option| &option.1[..])
    }

    /// The reply as text.
    pub fn text(&self) -> String {
        let mut text = format!("{} octets, {}", self.octets, rcode_text(self.rcode()));
        for (bit, name) in [
            (TC, "tc"),
            (AA, "aa"),
            (RD, "rd"),
            (0x80, "ra"),
            (0x70, "z"),
        ] {
            if self.has(bit) {
                write!(text, " {name}").expect("a string");
            }
        }
        let opcode = self.flags >> 11 & 15;
        if opcode > 0 {
            write!(text, " opcode {opcode}").expect("a string");
        }
        text.push('\n');
        if let Some(opt) = &self.opt {
            let version = opt.ttl >> 16 & 0xff;
            write!(text, "opt: version {version} udp {}", opt.udp_octets).expect("a string");
            text.push_str(if opt.ttl & 0x8000 > 0 { " do" } else { "" });
            text.push_str(if opt.ttl & 0x4000 > 0 { " co" } else { "" });
            assert_eq!(opt.ttl & 0x3fff, 0, "unknown flags are zero");
            for (code, value) in &opt.options {
                write!(text, ", {}", option_text(*code, value)).expect("a string");
            }
            text.push('\n');
        }
        if !self.question.is_empty() {
            let (name, octets) = Name::from_wire(&self.question).expect("a name");
            let rest = &self.question[octets..];
            let rtype = Rtype(u16::from_be_bytes([rest[0], rest[1]]));
            writeln!(text, "question: {name} {rtype}").expect("a string");
        }
        for (title, section) in [
            ("answer", &self.answer),
            ("authority", &self.authority),
            ("additional", &self.additional),
        ] {
            for record in section {
                let Record {
                    name, rtype, ttl, ..
                } = record;
                let data = match *rtype {
                    Rtype::TSIG => hex(&record.data),
                    rtype => Rdata::from_wire(rtype, &record.data)
                        .expect("valid")
                        .text(rtype, None),
                };
                let class = if record.class == 3 { " CH" } else { "" };
                writeln!(text, "{title}: {name} {ttl}{class} {rtype} {data}").expect("a string");
            }
        }
        text
    }
}

/// The message was cut.
pub const TC: u16 = 0x0200;
/// The server has authority.
pub const AA: u16 = 0x0400;
/// Recursion is desired.
pub const RD: u16 = 0x0100;

fn rcode_text(code: u16) -> &'static str {
    match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        9 => "NOTAUTH",
        16 => "BADVERS",
        23 => "BADCOOKIE",
        _ => panic!("rcode {code}"),
    }
}

fn option_text(code: u16, value: &[u8]) -> String {
    let number = |value: &[u8]| {
        value
            .iter()
            .fold(0_u32, |all, octet| all << 8 | u32::from(*octet))
    };
    match code {
        3 => format!("nsid {}", String::from_utf8_lossy(value)),
        9 => format!("expire {}", number(value)),
        10 => format!("cookie {}", hex(value)),
        15 => format!("ede {}", number(value)),
        19 => format!(
            "zoneversion {} {} {}",
            value[0],
            value[1],
            number(&value[2..])
        ),
        _ => panic!("option {code}"),
    }
}

/// Octets as hexadecimal digits.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        write!(text, "{octet:02x}").expect("a string");
        text
    })
}

/// The octets of hexadecimal digits.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let octet = |pair: &[Option<u32>]| {
        let [high, low] = [pair[0], pair[1]].map(|digit| digit.expect("hexadecimal"));
        u8::try_from(high << 4 | low).expect("two digits")
    };
    digits.chunks(2).map(octet).collect()
}

impl Opt {
    fn read(record: &Record) -> Self {
        assert!(record.name.is_root());
        let mut reader = Reader {
            octets: &record.data,
            at: 0,
        };
        let mut options = Vec::new();
        while reader.at < record.data.len() {
            let code = reader.u16();
            let length = usize::from(reader.u16());
            options.push((code, reader.take(length).to_vec()));
        }
        Self {
            udp_octets: record.class,
            ttl: record.ttl,
            options,
        }
    }
}

struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, octets: usize) -> &'a [u8] {
        let taken = &self.octets[self.at..self.at + octets];
        self.at += octets;
        taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two octets"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four octets"))
    }

    /// A name; pointers must lead back.
    fn name(&mut self) -> Name {
        let mut wire = Vec::new();
        let (mut at, mut end, mut start) = (self.at, None, self.at);
        loop {
            let length = usize::from(self.octets[at]);
            if length >= 0xc0 {
                end.get_or_insert(at + 2);
                at = (length & 0x3f) << 8 | usize::from(self.octets[at + 1]);
                assert!(at < start, "a pointer leads back");
                start = at;
                continue;
            }
            assert!(length <= 63, "a label");
            wire.extend(&self.octets[at..=at + length]);
            at += length + 1;
            if length == 0 {
                break;
            }
        }
        self.at = end.unwrap_or(at);
        Name::from_wire(&wire).expect("a name").0
    }

    fn record(&mut self) -> Record {
        let name = self.name();
        let rtype = Rtype(self.u16());
        let class = self.u16();
        let ttl = self.u32();
        let length = usize::from(self.u16());
        let end = self.at + length;
        let (skip, names) = match rtype {
            Rtype::NS | Rtype::CNAME | Rtype::PTR => (0, 1),
            Rtype::MX => (2, 1),
            Rtype::SOA => (0, 2),
            _ => (length, 0),
        };
        let mut data = self.take(skip).to_vec();
        for _ in 0..names {
            data.extend(self.name().as_wire());
        }
        data.extend(self.take(end - self.at));
        Record {
            name,
            rtype,
            class,
            ttl,
            data,
        }
    }
}

/// A question in wire form.
pub fn question(name: &str, rtype: Rtype, class: u16) -> Vec<u8> {
    let name: Name = name.parse().expect("a name");
    let rest = [rtype.0.to_be_bytes(), class.to_be_bytes()].concat();
    [name.as_wire(), &rest].concat()
}

/// An OPT record.
pub fn opt(udp_octets: u16, ttl: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (code, value) in options {
        data.extend(code.to_be_bytes());
        data.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
        data.extend(*value);
    }
    record(".", Rtype::OPT, udp_octets, ttl, &data)
}

/// A record, uncompressed.
pub fn record(name: &str, rtype: Rtype, class: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut octets = question(name, rtype, class);
    octets.extend(ttl.to_be_bytes());
    octets.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
    octets.extend(data);
    octets
}

/// A message with the id 0x1234.
pub fn message(flags: u16, sections: [&[Vec<u8>]; 4]) -> Vec<u8> {
    let mut octets = vec![0x12, 0x34];
    octets.extend(flags.to_be_bytes());
    for section in sections {
        octets.extend(u16::try_from(section.len()).expect("few").to_be_bytes());
    }
    octets.extend(sections.concat().concat());
    octets
}

/// A question, with an OPT record or without.
pub fn query(name: &str, rtype: Rtype, opt: Option<Vec<u8>>) -> Vec<u8> {
    let additional: Vec<_> = opt.into_iter().collect();
    message(0, [&[question(name, rtype, 1)], &[], &[], &additional])
}

/// A request for a transfer, with the SOA that an incremental one has (RFC 1995 3).
pub fn transfer(name: &str, rtype: Rtype, since: Option<u32>, opt: Option<Vec<u8>>) -> Vec<u8> {
    let authority: Vec<_> = since
        .map(|serial| {
            let numbers = [serial, 1, 1, 1, 1].map(u32::to_be_bytes);
            let data = [&[0, 0], numbers.as_flattened()].concat();
            record(name, Rtype::SOA, 1, 0, &data)
        })
        .into_iter()
        .collect();
    let additional: Vec<_> = opt.into_iter().collect();
    let question = question(name, rtype, 1);
    message(0, [&[question], &[], &authority, &additional])
}
