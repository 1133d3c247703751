//! From the words of a record to wire data.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::layout::{Field, layout};
use crate::name::{Name, unescape};
use crate::parts::{TAG_RULE, parts};
use crate::rdata::RdataError;
use crate::rtype::Rtype;
use crate::token::Token;
use crate::{codec, location, svcb};

/// The wire data that the words after the type mean.
pub(crate) fn wire(
    rtype: Rtype,
    tokens: &[Token<'_>],
    origin: Option<&Name>,
) -> Result<Vec<u8>, RdataError> {
    let mut words = Words(tokens);
    let mut wire = Vec::new();
    match (tokens.first(), layout(rtype)) {
        (Some(first), _) if first.text == b"\\#" && !first.quoted => {
            words.next("a length")?;
            generic(&mut words, &mut wire)?;
            parts(rtype, &wire)?;
            return Ok(wire);
        }
        (_, None) => {
            let found = tokens.first().map_or_else(String::new, Token::shown);
            let expected = "`\\# LENGTH HEX`, as data of a type without a text form is written \
                            (RFC 3597 5)";
            return Err(RdataError::Bad { expected, found });
        }
        (_, Some(layout)) => {
            for field in layout.fields {
                read(*field, &mut words, origin, &mut wire)?;
            }
        }
    }
    if let Some(extra) = words.0.first() {
        return Err(RdataError::Extra(extra.shown()));
    }
    // What words alone cannot say: rules between the parts, and lengths.
    parts(rtype, &wire)?;
    Ok(wire)
}

/// The words that are not read yet.
pub(crate) struct Words<'t, 'a>(&'t [Token<'a>]);

impl<'a> Words<'_, 'a> {
    pub(crate) fn next(&mut self, what: &'static str) -> Result<Token<'a>, RdataError> {
        let (first, rest) = self.0.split_first().ok_or(RdataError::Missing(what))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn peek(&self) -> Option<Token<'a>> {
        self.0.first().copied()
    }

    /// The next word as something that has a plain text form.
    fn parsed<T: FromStr>(&mut self, expected: &'static str) -> Result<T, RdataError> {
        let token = self.next(expected)?;
        let parsed = token.word().and_then(|word| word.parse().ok());
        parsed.ok_or_else(|| bad(expected, &token))
    }

    /// A number of decimal digits: neither a sign nor anything else is one.
    fn number<T: FromStr>(&mut self, expected: &'static str) -> Result<T, RdataError> {
        let token = self.next(expected)?;
        let digits = token
            .word()
            .filter(|word| word.bytes().all(|b| b.is_ascii_digit()));
        let parsed = digits.and_then(|word| word.parse().ok());
        parsed.ok_or_else(|| bad(expected, &token))
    }

    /// All words that are left, as one.
    fn joined(&mut self, expected: &'static str) -> Result<Vec<u8>, RdataError> {
        let mut text = self.next(expected)?.text.to_vec();
        for token in std::mem::take(&mut self.0) {
            text.extend_from_slice(token.text);
        }
        Ok(text)
    }
}

pub(crate) fn bad(expected: &'static str, token: &Token<'_>) -> RdataError {
    let found = token.shown();
    RdataError::Bad { expected, found }
}

fn read(
    field: Field,
    words: &mut Words<'_, '_>,
    origin: Option<&Name>,
    wire: &mut Vec<u8>,
) -> Result<(), RdataError> {
    match field {
        Field::U8 => wire.push(words.number("a number up to 255")?),
        Field::U16 => {
            let number: u16 = words.number("a number up to 65535")?;
            wire.extend(number.to_be_bytes());
        }
        Field::U32 => {
            let number: u32 = words.number("a number up to 4294967295")?;
            wire.extend(number.to_be_bytes());
        }
        Field::Seconds => seconds(words, wire)?,
        Field::Time => time(words, wire)?,
        Field::Type => wire.extend(words.parsed::<Rtype>("a record type")?.0.to_be_bytes()),
        Field::Ipv4 => wire.extend(words.parsed::<Ipv4Addr>("an IPv4 address")?.octets()),
        Field::Ipv6 => wire.extend(words.parsed::<Ipv6Addr>("an IPv6 address")?.octets()),
        Field::Name => name(words, origin, wire)?,
        Field::String => string(&words.next("a character string")?, wire)?,
        Field::Strings => {
            string(&words.next("a character string")?, wire)?;
            while words.peek().is_some() {
                string(&words.next("a character string")?, wire)?;
            }
        }
        Field::Hex => hexadecimal(words, wire)?,
        Field::Base64 => {
            let text = words.joined("base64")?;
            wire.extend(encoded(
                "base64 with its padding",
                &text,
                codec::base64_decode,
            )?);
        }
        Field::Tag => tag(words, wire)?,
        Field::Text => {
            let token = words.next("a text")?;
            wire.extend(octets(&token)?);
        }
        Field::Types => types(words, wire)?,
        Field::Params => svcb::read(words, wire)?,
        Field::Locator => {
            let expected = "four groups of hexadecimal digits between colons";
            grouped(words, expected, ':', (4, 8), wire)?;
        }
        Field::Eui(octets) => {
            let expected = "hexadecimal octets between hyphens";
            grouped(words, expected, '-', (2, octets), wire)?;
        }
        Field::Location => location::read(words, wire)?,
    }
    Ok(())
}

fn seconds(words: &mut Words<'_, '_>, wire: &mut Vec<u8>) -> Result<(), RdataError> {
    let expected = "a time in seconds, or with units as in 1h30m";
    let token = words.next(expected)?;
    let seconds = codec::seconds(token.text).ok_or_else(|| bad(expected, &token))?;
    wire.extend(seconds.to_be_bytes());
    Ok(())
}

fn time(words: &mut Words<'_, '_>, wire: &mut Vec<u8>) -> Result<(), RdataError> {
    let expected = "a time as YYYYMMDDHHmmSS, or in seconds since 1970 (RFC 4034 3.2)";
    let token = words.next(expected)?;
    let seconds = codec::time_decode(token.text).ok_or_else(|| bad(expected, &token))?;
    wire.extend(seconds.to_be_bytes());
    Ok(())
}

fn tag(words: &mut Words<'_, '_>, wire: &mut Vec<u8>) -> Result<(), RdataError> {
    let token = words.next("a tag")?;
    if token.text.is_empty() || !token.text.iter().all(u8::is_ascii_alphanumeric) {
        return Err(RdataError::Rule(TAG_RULE));
    }
    string(&token, wire)
}

fn name(
    words: &mut Words<'_, '_>,
    origin: Option<&Name>,
    wire: &mut Vec<u8>,
) -> Result<(), RdataError> {
    let token = words.next("a name")?;
    if token.quoted {
        return Err(bad("a name: names are not quoted", &token));
    }
    let name = Name::parse(token.text, origin).map_err(|source| RdataError::Name {
        found: token.shown(),
        source,
    })?;
    wire.extend_from_slice(name.as_wire());
    Ok(())
}

/// The octets of a word, its escapes read.
pub(crate) fn octets(token: &Token<'_>) -> Result<Vec<u8>, RdataError> {
    unescaped(token.text)
}

/// The same for the text of a word.
pub(crate) fn unescaped(text: &[u8]) -> Result<Vec<u8>, RdataError> {
    let mut octets = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte == b'\\' {
            let escaped = unescape(&text[at..]);
            let (octet, taken) = escaped.map_err(|_| RdataError::Bad {
                expected: "a text: a backslash is followed by a character or three digits up to \
                           255",
                found: crate::token::shown(text),
            })?;
            octets.push(octet);
            at += taken;
        } else {
            octets.push(byte);
        }
    }
    Ok(octets)
}

fn string(token: &Token<'_>, wire: &mut Vec<u8>) -> Result<(), RdataError> {
    let octets = octets(token)?;
    let expected = "a character string of at most 255 octets (RFC 1035 3.3): split it into several";
    let length = u8::try_from(octets.len()).map_err(|_| bad(expected, token))?;
    wire.push(length);
    wire.extend(octets);
    Ok(())
}

fn encoded(
    expected: &'static str,
    text: &[u8],
    decode: fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, RdataError> {
    decode(text).ok_or_else(|| RdataError::Bad {
        expected,
        found: crate::token::shown(text),
    })
}

fn grouped(
    words: &mut Words<'_, '_>,
    expected: &'static str,
    separator: char,
    (digits, octets): (usize, usize),
    wire: &mut Vec<u8>,
) -> Result<(), RdataError> {
    let token = words.next(expected)?;
    let decoded = token
        .word()
        .and_then(|word| codec::groups_decode(word, separator, digits))
        .filter(|decoded| decoded.len() == octets);
    wire.extend(decoded.ok_or_else(|| bad(expected, &token))?);
    Ok(())
}

fn types(words: &mut Words<'_, '_>, wire: &mut Vec<u8>) -> Result<(), RdataError> {
    let mut types = Vec::new();
    while words.peek().is_some() {
        types.push(words.parsed::<Rtype>("a record type")?.0);
    }
    types.sort_unstable();
    types.dedup();
    for window in types.chunk_by(|a, b| a.to_be_bytes()[0] == b.to_be_bytes()[0]) {
        let mut bits = [0_u8; 32];
        let mut length = 0;
        for rtype in window {
            let low = rtype.to_be_bytes()[1];
            bits[usize::from(low / 8)] |= 0x80 >> (low % 8);
            length = low / 8 + 1;
        }
        wire.extend([window[0].to_be_bytes()[0], length]);
        wire.extend(&bits[..usize::from(length)]);
    }
    Ok(())
}

/// Digits up to the end of the record, in as many words as there are.
fn hexadecimal(words: &mut Words<'_, '_>, wire: &mut Vec<u8>) -> Result<(), RdataError> {
    let text = words.joined("hexadecimal digits")?;
    wire.extend(encoded(
        "hexadecimal digits, two for each octet",
        &text,
        codec::hex_decode,
    )?);
    Ok(())
}

/// `\# LENGTH HEX` (RFC 3597 5); the mark is read already.
fn generic(words: &mut Words<'_, '_>, wire: &mut Vec<u8>) -> Result<(), RdataError> {
    let length: u16 = words.number("a length up to 65535")?;
    if words.peek().is_some() {
        hexadecimal(words, wire)?;
    }
    if wire.len() != usize::from(length) {
        return Err(RdataError::Rule(
            "the length after `\\#` is not the number of octets that follow (RFC 3597 5)",
        ));
    }
    Ok(())
}
