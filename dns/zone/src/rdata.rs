//! The data of one record: wire bytes that were validated, and never compressed.
//!
//! Everything follows the table in `layout`: what text means (`read`), how bytes are written
//! (`write`), what bytes are valid and where names are in them (`parts`).
//!
//! Invariant: the bytes are valid data of the type that they were made for. The type is not stored
//! here, because a set of records has it once.

use std::cmp::Ordering;
use std::fmt;

use crate::layout::{Field, layout};
use crate::name::{Name, NameError};
use crate::parts::parts;
use crate::rtype::Rtype;
use crate::token::{Lexer, LineError, Token};
use crate::{read, write};

/// Octets of one record's data: the length on the wire has two octets (RFC 1035 3.2.1).
pub const RDATA_OCTETS_MAX: usize = 65_535;

/// The data of one record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rdata(Box<[u8]>);

/// Why something is no data of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RdataError {
    /// A part is not there.
    #[error("the data ends before {0}")]
    Missing(&'static str),
    /// More than the type has.
    #[error("`{0}` is more than the type has")]
    Extra(String),
    /// Octets after the last part.
    #[error("{0} octets are left over after the last part")]
    ExtraOctets(usize),
    /// A part is something else.
    #[error("`{found}` is not {expected}")]
    Bad {
        /// What is expected there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A name is none.
    #[error("`{found}` is not a name: {source}")]
    Name {
        /// What is there.
        found: String,
        /// Why.
        #[source]
        source: NameError,
    },
    /// A rule that concerns more than one part, or bytes that nobody wrote as text.
    #[error("{0}")]
    Rule(&'static str),
    /// The text of a record cannot be split into words.
    #[error("quotes and parentheses are not closed")]
    Unclosed,
    /// More than the wire can hold.
    #[error("the data has {0} octets, at most 65535 (RFC 1035 3.2.1)")]
    TooLong(usize),
}

impl Rdata {
    /// Takes wire bytes; names in them are uncompressed.
    pub fn from_wire(rtype: Rtype, wire: &[u8]) -> Result<Self, RdataError> {
        if wire.len() > RDATA_OCTETS_MAX {
            return Err(RdataError::TooLong(wire.len()));
        }
        parts(rtype, wire)?;
        Ok(Self(wire.into()))
    }

    /// Reads the data as a master file has it, which may go over several lines in parentheses.
    pub fn parse(rtype: Rtype, text: &str, origin: Option<&Name>) -> Result<Self, RdataError> {
        let mut lexer = Lexer::new(text.as_bytes());
        let line = lexer.next_line(Vec::new());
        match &line {
            None => Self::from_tokens(rtype, &[], origin),
            Some(line) => {
                if let Some(error) = line.error {
                    return Err(unclosed(error));
                }
                if let Some(more) = lexer.next_line(Vec::new()) {
                    let found = more.tokens.first().map_or_else(String::new, Token::shown);
                    return Err(RdataError::Extra(found));
                }
                Self::from_tokens(rtype, &line.tokens, origin)
            }
        }
    }

    /// Reads the words of a record after its type.
    pub(crate) fn from_tokens(
        rtype: Rtype,
        tokens: &[Token<'_>],
        origin: Option<&Name>,
    ) -> Result<Self, RdataError> {
        let wire = read::wire(rtype, tokens, origin)?;
        if wire.len() > RDATA_OCTETS_MAX {
            return Err(RdataError::TooLong(wire.len()));
        }
        Ok(Self(wire.into()))
    }

    /// The wire bytes, uncompressed.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The data as a master file has it, names relative to `origin` when there is one.
    pub fn text(&self, rtype: Rtype, origin: Option<&Name>) -> String {
        write::text(rtype, &self.0, origin)
    }
}

impl fmt::Debug for Rdata {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&crate::codec::hex_encode(&self.0))
    }
}

fn unclosed(_: LineError) -> RdataError {
    RdataError::Unclosed
}

/// The order of data in a set (RFC 4034 6.3), in which records that are the same are equal.
pub fn compare_data(rtype: Rtype, ours: &[u8], theirs: &[u8]) -> Ordering {
    if !layout(rtype).is_some_and(|layout| layout.lower) {
        return ours.cmp(theirs);
    }
    canonical(rtype, ours).cmp(&canonical(rtype, theirs))
}

/// The canonical form of valid data: its names in lower case where RFC 4034 6.2 says so.
pub fn canonical(rtype: Rtype, wire: &[u8]) -> Vec<u8> {
    let mut bytes = wire.to_vec();
    if layout(rtype).is_some_and(|layout| layout.lower) {
        for place in names_in(rtype, wire) {
            bytes[place.at..place.at + place.octets].make_ascii_lowercase();
        }
    }
    bytes
}

/// Where a name is within wire data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamePlace {
    /// Where it begins.
    pub at: usize,
    /// How long it is.
    pub octets: usize,
    /// Whether a message may compress it (RFC 3597 4).
    pub compress: bool,
}

/// The names within valid data.
pub fn names_in(rtype: Rtype, wire: &[u8]) -> Vec<NamePlace> {
    let compress = layout(rtype).is_some_and(|layout| layout.compress);
    let parts = parts(rtype, wire).unwrap_or_default();
    let names = parts.iter().filter(|(field, _)| *field == Field::Name);
    names
        .map(|(_, range)| NamePlace {
            at: range.start,
            octets: range.len(),
            compress,
        })
        .collect()
}

/// What a message may compress in the data of a type (RFC 3597 4), for whoever writes many: so many
/// octets come before the names, which follow one another, and so many names there are.
pub fn compressible(rtype: Rtype) -> (usize, usize) {
    let Some(layout) = layout(rtype).filter(|layout| layout.compress) else {
        return (0, 0);
    };
    let is_name = |field: &&Field| **field == Field::Name;
    let before = layout.fields.iter().take_while(|field| !is_name(field));
    let names = layout.fields.iter().filter(is_name);
    // Of those types MX alone has something before its name: a number of two octets.
    (2 * before.count(), names.count())
}

/// The name in valid data whose addresses go with it into an answer (RFC 1035 3.3, RFC 2782,
/// RFC 9460 4.1), in wire form.
pub fn additional_target(rtype: Rtype, wire: &[u8]) -> Option<&[u8]> {
    match rtype {
        Rtype::NS => Some(wire),
        Rtype::MX => wire.get(2..),
        Rtype::SRV => wire.get(6..),
        Rtype::SVCB | Rtype::HTTPS => {
            let (_, octets) = Name::from_wire(wire.get(2..)?).ok()?;
            wire.get(2..2 + octets)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(rtype: Rtype, text: &str) -> Rdata {
        let origin: Name = "example.".parse().expect("a name");
        Rdata::parse(rtype, text, Some(&origin)).expect(text)
    }

    #[test]
    fn same_record_in_another_case_is_equal_where_the_rfcs_say_so() {
        for (rtype, ours, theirs, expected) in [
            (Rtype::NS, "A", "a", Ordering::Equal),
            (Rtype::SRV, "1 2 3 A", "1 2 3 a", Ordering::Equal),
            (Rtype::MX, "10 A", "11 a", Ordering::Less),
            (Rtype::TXT, "A", "a", Ordering::Less),
            (Rtype::HTTPS, "1 A", "1 a", Ordering::Less),
        ] {
            let (ours, theirs) = (parsed(rtype, ours), parsed(rtype, theirs));
            let found = compare_data(rtype, ours.as_wire(), theirs.as_wire());
            assert_eq!(found, expected, "{rtype}");
        }
    }

    /// RFC 3597 4: only names in the types of RFC 1035 are compressed.
    #[test]
    fn names_are_found_and_those_of_newer_types_are_not_compressed() {
        let mx = parsed(Rtype::MX, "10 mail");
        let place = NamePlace {
            at: 2,
            octets: 14,
            compress: true,
        };
        assert_eq!(names_in(Rtype::MX, mx.as_wire()), [place]);
        let srv = parsed(Rtype::SRV, "1 2 3 mail");
        assert!(!names_in(Rtype::SRV, srv.as_wire())[0].compress);
        let soa = parsed(Rtype::SOA, "a b 1 2 3 4 5");
        assert_eq!(names_in(Rtype::SOA, soa.as_wire()).len(), 2);
        assert_eq!(names_in(Rtype::A, &[1, 2, 3, 4]), []);
    }

    #[test]
    fn additional_names_are_those_of_servers_and_services() {
        for (rtype, text, expected) in [
            (Rtype::NS, "h", Some("h.example.")),
            (Rtype::MX, "1 h", Some("h.example.")),
            (Rtype::SRV, "1 2 3 h", Some("h.example.")),
            (Rtype::HTTPS, "1 h port=1", Some("h.example.")),
            (Rtype::CNAME, "h", None),
            (Rtype::TXT, "h", None),
        ] {
            let data = parsed(rtype, text);
            let target = additional_target(rtype, data.as_wire());
            let found = target.map(|wire| Name::from_wire(wire).expect("a name").0);
            assert_eq!(found.map(|name| name.to_string()).as_deref(), expected);
        }
    }
}
