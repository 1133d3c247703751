//! Parameters of services, as SVCB and HTTPS records carry them (RFC 9460 2.1, 2.2, 7, 8).
//!
//! On the wire they are in ascending order of their keys, each at most once; text may have them in
//! any order. What `mandatory` lists must be there, and `no-default-alpn` needs `alpn`.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::codec;
use crate::rdata::RdataError;
use crate::read::{Words, octets, unescaped};
use crate::token::Token;
use crate::write::quoted;

const MANDATORY: u16 = 0;
const ALPN: u16 = 1;
const NO_DEFAULT_ALPN: u16 = 2;
const PORT: u16 = 3;
const IPV4HINT: u16 = 4;
const ECH: u16 = 5;
const IPV6HINT: u16 = 6;
const DOHPATH: u16 = 7;
const OHTTP: u16 = 8;
/// Reserved: no parameter has this key (RFC 9460 14.3.1).
const INVALID: u16 = 65_535;

/// Names of keys by number (RFC 9460 14.3.2, RFC 9461, RFC 9540).
const KEYS: [&str; 9] = [
    "mandatory",
    "alpn",
    "no-default-alpn",
    "port",
    "ipv4hint",
    "ech",
    "ipv6hint",
    "dohpath",
    "ohttp",
];

fn key_text(key: u16) -> String {
    let known = KEYS.get(usize::from(key));
    known.map_or_else(|| format!("key{key}"), |name| (*name).to_owned())
}

fn key_number(text: &str) -> Option<u16> {
    if let Some(known) = KEYS.iter().position(|name| *name == text) {
        return u16::try_from(known).ok();
    }
    let digits = text.strip_prefix("key")?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    // RFC 9460 2.1: without leading zeros.
    let canonical = plain && (digits == "0" || !digits.starts_with('0'));
    canonical.then(|| digits.parse().ok()).flatten()
}

/// Parameters on the wire; none when their bytes do not add up.
fn split(mut wire: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut params = Vec::new();
    while let [key_high, key_low, high, low, rest @ ..] = wire {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(length)?;
        params.push((u16::from_be_bytes([*key_high, *key_low]), value));
        wire = rest;
    }
    wire.is_empty().then_some(params)
}

/// Whether the bytes are valid parameters.
pub(crate) fn check(wire: &[u8]) -> Result<(), RdataError> {
    let rule = |text| Err(RdataError::Rule(text));
    let Some(params) = split(wire) else {
        return rule("the data ends within a service parameter (RFC 9460 2.2)");
    };
    if !params.is_sorted_by(|a, b| a.0 < b.0) {
        return rule("service parameters are in ascending order, each once (RFC 9460 2.2)");
    }
    let has = |key| params.iter().any(|(found, _)| *found == key);
    for (key, value) in &params {
        if let Some(broken) = broken_value(*key, value) {
            return rule(broken);
        }
        let mut listed = value
            .chunks_exact(2)
            .map(|key| u16::from_be_bytes([key[0], key[1]]));
        if *key == MANDATORY && !listed.all(has) {
            return rule("`mandatory` lists a parameter that is not there (RFC 9460 8)");
        }
    }
    if has(NO_DEFAULT_ALPN) && !has(ALPN) {
        return rule("`no-default-alpn` needs `alpn` (RFC 9460 7.1.1)");
    }
    Ok(())
}

/// What is wrong with a value.
fn broken_value(key: u16, value: &[u8]) -> Option<&'static str> {
    let (valid, rule) = match key {
        MANDATORY => {
            let keys: Vec<_> = value.chunks(2).collect();
            let whole = value.len().is_multiple_of(2) && !value.is_empty();
            let sorted = keys.is_sorted_by(|a, b| a < b);
            let rule = "`mandatory` is an ascending list of other keys (RFC 9460 8)";
            (whole && sorted && keys[0] != [0, 0], rule)
        }
        ALPN => (
            alpn_ids(value).is_some(),
            "`alpn` is a list of protocols (RFC 9460 7.1.1)",
        ),
        NO_DEFAULT_ALPN | OHTTP => (value.is_empty(), "the parameter has no value (RFC 9460 7)"),
        PORT => (
            value.len() == 2,
            "`port` is a number up to 65535 (RFC 9460 7.2)",
        ),
        IPV4HINT => (
            value.len().is_multiple_of(4) && !value.is_empty(),
            "`ipv4hint` is a list of IPv4 addresses (RFC 9460 7.3)",
        ),
        IPV6HINT => (
            value.len().is_multiple_of(16) && !value.is_empty(),
            "`ipv6hint` is a list of IPv6 addresses (RFC 9460 7.3)",
        ),
        ECH => (
            !value.is_empty(),
            "`ech` is base64 and not empty (RFC 9460 7)",
        ),
        DOHPATH => (
            std::str::from_utf8(value).is_ok(),
            "`dohpath` is a template in UTF-8 (RFC 9461 5)",
        ),
        INVALID => (false, "the key 65535 is reserved (RFC 9460 14.3.1)"),
        _ => return None,
    };
    (!valid).then_some(rule)
}

/// The protocols of a value of `alpn`; none when it has none, or an empty one.
fn alpn_ids(mut value: &[u8]) -> Option<Vec<&[u8]>> {
    let mut ids = Vec::new();
    while let Some((&length, rest)) = value.split_first() {
        let (id, rest) = rest.split_at_checked(usize::from(length))?;
        if id.is_empty() {
            return None;
        }
        ids.push(id);
        value = rest;
    }
    (!ids.is_empty()).then_some(ids)
}

/// Reads all words that are left as parameters.
pub(crate) fn read(words: &mut Words<'_, '_>, wire: &mut Vec<u8>) -> Result<(), RdataError> {
    let mut params = Vec::new();
    while words.peek().is_some() {
        let token = words.next("a service parameter")?;
        let equals = token.text.iter().position(|byte| *byte == b'=');
        let name = &token.text[..equals.unwrap_or(token.text.len())];
        let plain = if token.quoted {
            None
        } else {
            std::str::from_utf8(name).ok()
        };
        let Some(key) = plain.and_then(key_number) else {
            let expected = "a service parameter: a known key, or `key123`, and its value \
                            (RFC 9460 2.1)";
            return Err(crate::read::bad(expected, &token));
        };
        let rest = equals.map_or(&[][..], |at| &token.text[at + 1..]);
        // The value of `key="a b"` is a word of its own, because a quote ends the one before.
        let value = match words.peek() {
            Some(next) if next.quoted && equals.is_some() && rest.is_empty() => {
                octets(&words.next("a value")?)?
            }
            _ => unescaped(rest)?,
        };
        let encoded = encode(key, &value).ok_or_else(|| RdataError::Bad {
            expected: "a parameter with a value that its key takes (RFC 9460 7)",
            found: token.shown(),
        })?;
        params.push((key, encoded, token));
    }
    params.sort_by_key(|(key, _, _)| *key);
    for (key, value, token) in &params {
        wire.extend(key.to_be_bytes());
        wire.extend(value_length(value, token)?);
        wire.extend(value);
    }
    Ok(())
}

fn value_length(value: &[u8], token: &Token<'_>) -> Result<[u8; 2], RdataError> {
    let length = u16::try_from(value.len());
    length.map(u16::to_be_bytes).map_err(|_| RdataError::Bad {
        expected: "a value of at most 65535 octets",
        found: token.shown(),
    })
}

/// A value on the wire; none when the text is not what its key takes.
fn encode(key: u16, value: &[u8]) -> Option<Vec<u8>> {
    let text = || std::str::from_utf8(value).ok();
    match key {
        MANDATORY => {
            let keys = text()?.split(',').map(key_number);
            let mut keys: Vec<u16> = keys.collect::<Option<_>>()?;
            keys.sort_unstable();
            Some(keys.into_iter().flat_map(u16::to_be_bytes).collect())
        }
        ALPN => {
            let mut wire = Vec::new();
            for id in split_list(value)? {
                wire.push(u8::try_from(id.len()).ok()?);
                wire.extend(id);
            }
            Some(wire)
        }
        PORT => {
            let plain = value.iter().all(u8::is_ascii_digit);
            let port: u16 = plain.then(|| text()?.parse().ok()).flatten()?;
            Some(port.to_be_bytes().into())
        }
        IPV4HINT => list(text()?, |item| {
            Some(item.parse::<Ipv4Addr>().ok()?.octets().into())
        }),
        IPV6HINT => list(text()?, |item| {
            Some(item.parse::<Ipv6Addr>().ok()?.octets().into())
        }),
        ECH => codec::base64_decode(value),
        _ => Some(value.to_vec()),
    }
}

fn list(text: &str, item: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let items: Option<Vec<_>> = text.split(',').map(item).collect();
    items.map(|items| items.concat())
}

/// Items between commas; a backslash takes a comma or itself into an item (RFC 9460 A.1).
fn split_list(value: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut items = vec![Vec::new()];
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b',' => items.push(Vec::new()),
            b'\\' => {
                let escaped = bytes.next().filter(|byte| matches!(byte, b',' | b'\\'))?;
                items.last_mut()?.push(*escaped);
            }
            _ => items.last_mut()?.push(byte),
        }
    }
    Some(items)
}

/// The text of valid parameters.
pub(crate) fn write(wire: &[u8]) -> String {
    let params = split(wire).unwrap_or_default();
    let texts: Vec<String> = params
        .into_iter()
        .map(|(key, value)| match (key, value_text(key, value)) {
            (NO_DEFAULT_ALPN | OHTTP, _) => key_text(key),
            (key, text) if text.iter().all(|byte| is_plain(*byte)) && !text.is_empty() => {
                let text: String = text.into_iter().map(char::from).collect();
                format!("{}={text}", key_text(key))
            }
            (key, text) if text.is_empty() => key_text(key),
            (key, text) => format!("{}={}", key_text(key), quoted(&text)),
        })
        .collect();
    texts.join(" ")
}

/// What needs no quotes in a value.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b",.:-_/+=".contains(&byte)
}

fn value_text(key: u16, value: &[u8]) -> Vec<u8> {
    let joined = |items: Vec<String>| items.join(",").into_bytes();
    match key {
        MANDATORY => joined(
            value
                .chunks_exact(2)
                .map(|key| key_text(u16::from_be_bytes([key[0], key[1]])))
                .collect(),
        ),
        ALPN => {
            let mut text = Vec::new();
            for (index, id) in alpn_ids(value).unwrap_or_default().iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                for &byte in *id {
                    if matches!(byte, b',' | b'\\') {
                        text.push(b'\\');
                    }
                    text.push(byte);
                }
            }
            text
        }
        PORT => crate::write::number(value).to_string().into_bytes(),
        IPV4HINT => joined(
            value
                .as_chunks::<4>()
                .0
                .iter()
                .map(|octets| Ipv4Addr::from(*octets).to_string())
                .collect(),
        ),
        IPV6HINT => joined(
            value
                .as_chunks::<16>()
                .0
                .iter()
                .map(|octets| Ipv6Addr::from(*octets).to_string())
                .collect(),
        ),
        ECH => codec::base64_encode(value).into_bytes(),
        _ => value.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};

    use crate::{Name, Rdata, Rtype};

    /// Text, through wire data and back; or why it is refused.
    fn check(text: &str, expected: Expect) {
        let origin: Name = "example.".parse().expect("a name");
        let found = match Rdata::parse(Rtype::SVCB, text, Some(&origin)) {
            Ok(data) => data.text(Rtype::SVCB, Some(&origin)),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&found);
    }

    /// The vectors of RFC 9460 D.2.
    #[test]
    fn vectors_of_rfc_9460_are_read_in_any_order_and_written_in_that_of_the_keys() {
        check(
            "16 foo.example.com. port=53",
            expect!["16 foo.example.com. port=53"],
        );
        check("1 foo key667=hello", expect!["1 foo key667=hello"]);
        check(
            "1 foo key667=\"hello\\210qoo\"",
            expect![[r#"1 foo key667="hello\210qoo""#]],
        );
        check(
            "1 foo ipv6hint=\"2001:db8::1,2001:db8::53:1\"",
            expect!["1 foo ipv6hint=2001:db8::1,2001:db8::53:1"],
        );
        check(
            "16 foo alpn=h2,h3-19 mandatory=ipv4hint,alpn ipv4hint=192.0.2.1",
            expect!["16 foo mandatory=alpn,ipv4hint alpn=h2,h3-19 ipv4hint=192.0.2.1"],
        );
        let comma = expect![[r#"16 foo alpn="f\\\\oo\\,bar,h2""#]];
        check(r#"16 foo alpn="f\\\\oo\\,bar,h2""#, comma);
        let escaped = expect![[r#"16 foo alpn="f\\\\oo\\,bar,h2""#]];
        check(r"16 foo alpn=f\\\092oo\092,bar,h2", escaped);
    }

    /// The failure cases of RFC 9460 D.3, and some of ours.
    #[test]
    fn parameters_that_rfc_9460_refuses_are_refused() {
        let mut found = String::new();
        for params in [
            "key123=abc key123=def",
            "mandatory",
            "alpn",
            "port",
            "port=65536",
            "port=+1",
            "ipv4hint",
            "ipv4hint=192.0.2.1,",
            "no-default-alpn=abc",
            "no-default-alpn",
            "mandatory=key123",
            "mandatory=mandatory",
            "mandatory=key123,key123 key123=abc",
            "key65535=x",
            "key007=x",
            "ech=",
            "\"port=1\"",
        ] {
            let error = Rdata::parse(Rtype::SVCB, &format!("1 . {params}"), None);
            let error = error.expect_err(params);
            writeln!(found, "{params}: {error}").expect("a string takes everything");
        }
        expect![[r#"
            key123=abc key123=def: service parameters are in ascending order, each once (RFC 9460 2.2)
            mandatory: `mandatory` is not a parameter with a value that its key takes (RFC 9460 7)
            alpn: `alpn` is a list of protocols (RFC 9460 7.1.1)
            port: `port` is not a parameter with a value that its key takes (RFC 9460 7)
            port=65536: `port=65536` is not a parameter with a value that its key takes (RFC 9460 7)
            port=+1: `port=+1` is not a parameter with a value that its key takes (RFC 9460 7)
            ipv4hint: `ipv4hint` is not a parameter with a value that its key takes (RFC 9460 7)
            ipv4hint=192.0.2.1,: `ipv4hint=192.0.2.1,` is not a parameter with a value that its key takes (RFC 9460 7)
            no-default-alpn=abc: the parameter has no value (RFC 9460 7)
            no-default-alpn: `no-default-alpn` needs `alpn` (RFC 9460 7.1.1)
            mandatory=key123: `mandatory` lists a parameter that is not there (RFC 9460 8)
            mandatory=mandatory: `mandatory` is an ascending list of other keys (RFC 9460 8)
            mandatory=key123,key123 key123=abc: `mandatory` is an ascending list of other keys (RFC 9460 8)
            key65535=x: the key 65535 is reserved (RFC 9460 14.3.1)
            key007=x: `key007=x` is not a service parameter: a known key, or `key123`, and its value (RFC 9460 2.1)
            ech=: `ech=` is not a parameter with a value that its key takes (RFC 9460 7)
            "port=1": `port=1` is not a service parameter: a known key, or `key123`, and its value (RFC 9460 2.1)
        "#]].assert_eq(&found);
    }
}
