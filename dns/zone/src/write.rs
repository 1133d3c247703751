//! From wire data to the text of a master file.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::layout::Field;
use crate::name::{Name, push_decimal_escape};
use crate::parts::parts;
use crate::rtype::Rtype;
use crate::{codec, location, svcb};

/// The text of valid data, in the form that `read` takes.
pub(crate) fn text(rtype: Rtype, wire: &[u8], origin: Option<&Name>) -> String {
    let parts = parts(rtype, wire).unwrap_or_default();
    if parts.is_empty() {
        let digits = codec::hex_encode(wire);
        let space = if digits.is_empty() { "" } else { " " };
        return format!("\\# {}{space}{digits}", wire.len());
    }
    let mut text = String::new();
    for (field, range) in parts {
        let part = part(field, &wire[range], origin);
        if !text.is_empty() && !part.is_empty() {
            text.push(' ');
        }
        text.push_str(&part);
    }
    text
}

fn part(field: Field, bytes: &[u8], origin: Option<&Name>) -> String {
    match field {
        Field::U8 | Field::U16 | Field::U32 | Field::Seconds => number(bytes).to_string(),
        Field::Time => codec::time_encode(number(bytes)),
        Field::Type => Rtype(u16::from_be_bytes([bytes[0], bytes[1]])).to_string(),
        Field::Ipv4 => address::<4>(bytes)
            .map_or_else(String::new, |octets| Ipv4Addr::from(octets).to_string()),
        Field::Ipv6 => address::<16>(bytes)
            .map_or_else(String::new, |octets| Ipv6Addr::from(octets).to_string()),
        Field::Name => name(bytes, origin),
        Field::String => quoted(&bytes[1..]),
        Field::Strings => strings(bytes),
        Field::Hex => codec::hex_encode(bytes),
        Field::Base64 => codec::base64_encode(bytes),
        Field::Tag => bytes[1..].iter().copied().map(char::from).collect(),
        Field::Text => quoted(bytes),
        Field::Types => types(bytes),
        Field::Params => svcb::write(bytes),
        Field::Locator => codec::groups_encode(bytes, ":", 2),
        Field::Eui(_) => codec::groups_encode(bytes, "-", 1),
        Field::Location => location::write(bytes),
    }
}

/// A number of up to four octets.
pub(crate) fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn address<const OCTETS: usize>(bytes: &[u8]) -> Option<[u8; OCTETS]> {
    bytes.try_into().ok()
}

fn name(bytes: &[u8], origin: Option<&Name>) -> String {
    match (Name::from_wire(bytes), origin) {
        (Ok((name, _)), Some(origin)) => name.relative_text(origin),
        (Ok((name, _)), None) => name.to_string(),
        (Err(error), _) => unreachable!("data is validated: {error}"),
    }
}

/// A character string between quotes.
pub(crate) fn quoted(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len() + 2);
    text.push('"');
    for &octet in octets {
        match octet {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(octet));
            }
            0x20..=0x7e => text.push(char::from(octet)),
            _ => push_decimal_escape(&mut text, octet),
        }
    }
    text.push('"');
    text
}

fn strings(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while let Some((&length, rest)) = bytes.split_first() {
        let (string, rest) = rest.split_at(usize::from(length));
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&quoted(string));
        bytes = rest;
    }
    text
}

fn types(mut bytes: &[u8]) -> String {
    let mut names = Vec::new();
    while let [window, length, rest @ ..] = bytes {
        let (bits, rest) = rest.split_at(usize::from(*length));
        for (low, rtype) in (0..=255_u8).map(|low| (low, u16::from_be_bytes([*window, low]))) {
            let octet = bits.get(usize::from(low / 8)).copied().unwrap_or(0);
            if octet & (0x80 >> (low % 8)) != 0 {
                names.push(Rtype(rtype).to_string());
            }
        }
        bytes = rest;
    }
    names.join(" ")
}
