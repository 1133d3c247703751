//! Whether wire data is valid, and which part of it is where.

use std::ops::Range;

use crate::layout::{Field, layout};
use crate::name::wire_name_length;
use crate::rdata::RdataError;
use crate::rtype::Rtype;
use crate::{location, svcb};

/// The parts of the data, or why it is not valid. An opaque type has none, and is always valid.
pub(crate) fn parts(rtype: Rtype, wire: &[u8]) -> Result<Vec<(Field, Range<usize>)>, RdataError> {
    let Some(layout) = layout(rtype) else {
        return Ok(Vec::new());
    };
    let mut parts = Vec::with_capacity(layout.fields.len());
    let mut at = 0;
    for &field in layout.fields {
        let octets = octets(field, &wire[at..])?;
        parts.push((field, at..at + octets));
        at += octets;
    }
    if at < wire.len() {
        return Err(RdataError::ExtraOctets(wire.len() - at));
    }
    digests(rtype, wire)?;
    Ok(parts)
}

/// How many octets of `rest` the part takes; an error when they are not valid.
fn octets(field: Field, rest: &[u8]) -> Result<usize, RdataError> {
    let fixed = |octets: usize, what| {
        let whole = rest.len() >= octets;
        whole.then_some(octets).ok_or(RdataError::Missing(what))
    };
    match field {
        Field::U8 => fixed(1, "a number of one octet"),
        Field::U16 | Field::Type => fixed(2, "a number of two octets"),
        Field::U32 | Field::Seconds | Field::Time => fixed(4, "a number of four octets"),
        Field::Ipv4 => fixed(4, "an IPv4 address"),
        Field::Ipv6 => fixed(16, "an IPv6 address"),
        Field::Locator => fixed(8, "eight octets of a locator"),
        Field::Eui(octets) => fixed(octets, "a hardware address"),
        Field::Name => wire_name_length(rest).map_err(|source| RdataError::Name {
            found: crate::codec::hex_encode(&rest[..rest.len().min(16)]),
            source,
        }),
        Field::String => string(rest),
        Field::Strings => {
            let mut at = string(rest)?;
            while at < rest.len() {
                at += string(&rest[at..])?;
            }
            Ok(at)
        }
        Field::Hex | Field::Base64 => {
            let some = !rest.is_empty();
            some.then_some(rest.len())
                .ok_or(RdataError::Missing("its last part"))
        }
        Field::Tag => {
            let octets = string(rest)?;
            let tag = &rest[1..octets];
            if tag.is_empty() || !tag.iter().all(u8::is_ascii_alphanumeric) {
                return Err(RdataError::Rule(TAG_RULE));
            }
            Ok(octets)
        }
        Field::Text => Ok(rest.len()),
        Field::Types => types(rest).map(|()| rest.len()),
        Field::Params => svcb::check(rest).map(|()| rest.len()),
        Field::Location => location::check(rest),
    }
}

/// What a tag of CAA is.
pub(crate) const TAG_RULE: &str = "a tag has letters and digits only, and at least one \
    (RFC 8659 4.1)";

fn string(rest: &[u8]) -> Result<usize, RdataError> {
    let missing = RdataError::Missing("the end of a character string");
    let (&length, rest) = rest.split_first().ok_or(missing.clone())?;
    let whole = rest.len() >= usize::from(length);
    whole.then_some(usize::from(length) + 1).ok_or(missing)
}

/// Windows in ascending order, none empty, no octets of zero at the end (RFC 4034 4.1.2).
fn types(mut rest: &[u8]) -> Result<(), RdataError> {
    let wrong = RdataError::Rule("the bit map of types is not as RFC 4034 4.1.2 has it");
    let mut last: Option<u8> = None;
    while let [window, length, bits @ ..] = rest {
        let length = usize::from(*length);
        let ascending = last.is_none_or(|last| last < *window);
        let sized = (1..=32).contains(&length) && bits.len() >= length;
        if !ascending || !sized || bits[length - 1] == 0 {
            return Err(wrong);
        }
        last = Some(*window);
        rest = &bits[length..];
    }
    if rest.is_empty() { Ok(()) } else { Err(wrong) }
}

/// A digest is as long as its algorithm makes it, when that is known.
fn digests(rtype: Rtype, wire: &[u8]) -> Result<(), RdataError> {
    let (kind, digest, expected) = match rtype {
        // RFC 4034 5.1.4, RFC 4509 2.1, RFC 6605 2.
        Rtype::DS | Rtype::CDS => (wire[3], &wire[4..], [(1, 20), (2, 32), (4, 48)]),
        // RFC 4255 3.1.2, RFC 6594 4.2.
        Rtype::SSHFP => (wire[1], &wire[2..], [(1, 20), (2, 32), (2, 32)]),
        // RFC 6698 2.1.3.
        Rtype::TLSA | Rtype::SMIMEA => (wire[2], &wire[3..], [(1, 32), (2, 64), (2, 64)]),
        _ => return Ok(()),
    };
    let octets = expected.iter().find(|(number, _)| *number == kind);
    match octets {
        Some((_, octets)) if *octets != digest.len() => Err(RdataError::Rule(
            "the digest is not as long as its algorithm makes it",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(rtype: Rtype, wire: &[u8], expected: &str) {
        let found = parts(rtype, wire).expect_err("refused").to_string();
        assert_eq!(found, expected);
    }

    #[test]
    fn data_that_is_short_long_or_broken_is_refused() {
        refused(Rtype::A, &[1, 2, 3], "the data ends before an IPv4 address");
        let extra = "1 octets are left over after the last part";
        refused(Rtype::A, &[1, 2, 3, 4, 5], extra);
        let open = "the data ends before the end of a character string";
        refused(Rtype::TXT, &[], open);
        refused(Rtype::TXT, &[3, b'a'], open);
        refused(Rtype::CAA, &[0, 1, b'-', b'x'], TAG_RULE);
        let pointer = "`C00C` is not a name: a label begins with 0xc0: only plain labels of up to \
                       63 octets are read here";
        refused(Rtype::NS, &[0xc0, 0x0c], pointer);
        let digest = "the digest is not as long as its algorithm makes it";
        refused(Rtype::DS, &[0, 1, 8, 2, 1, 2, 3], digest);
        let types = "the bit map of types is not as RFC 4034 4.1.2 has it";
        for bits in [
            &[0, 0][..],
            &[0, 1, 0],
            &[0, 2, 1],
            &[1, 1, 1, 0, 1, 1],
            &[7],
        ] {
            refused(Rtype::CSYNC, &[&[0; 6], bits].concat(), types);
        }
    }

    #[test]
    fn opaque_types_take_all_bytes() {
        assert_eq!(parts(Rtype(65280), &[1, 2, 3]), Ok(Vec::new()));
    }
}
