//! Places on earth: the LOC record (RFC 1876).
//!
//! Lengths on the wire are one digit and a power of ten, in centimetres; angles are thousandths of
//! a second of arc from the equator and the prime meridian at 2^31; heights are centimetres from
//! 100 km below the sea.

use std::fmt::Write as _;

use crate::rdata::RdataError;
use crate::read::Words;
use crate::write::number;

const OCTETS: usize = 16;
const EQUATOR: u32 = 1 << 31;
const THOUSANDTHS_PER_DEGREE: u32 = 3_600_000;
/// Centimetres from the reference to the sea.
const SEA_LEVEL: i64 = 10_000_000;
/// 1 m, 10 km and 10 m, which are meant when they are not written (RFC 1876 3).
const SIZES: [u8; 3] = [0x12, 0x16, 0x13];
const FORM: &str = "a place as `51 30 12.748 N 0 7 39.612 W 10m 1m 10000m 10m` (RFC 1876 3)";

/// The octets of a valid place at the beginning of `wire`.
pub(crate) fn check(wire: &[u8]) -> Result<usize, RdataError> {
    let fields = wire.get(..OCTETS);
    let fields = fields.ok_or(RdataError::Missing("the 16 octets of a place"))?;
    let within = |at: usize, degrees: u32| {
        let angle = number(&fields[at..at + 4]);
        angle.abs_diff(EQUATOR) <= degrees * THOUSANDTHS_PER_DEGREE
    };
    let sized = |size: u8| size == 0 || (1..=9).contains(&(size >> 4)) && size & 15 <= 9;
    let sizes = fields[1..4].iter().all(|size| sized(*size));
    if fields[0] == 0 && sizes && within(4, 90) && within(8, 180) {
        Ok(OCTETS)
    } else {
        Err(RdataError::Rule(
            "the octets are not a place of version 0 (RFC 1876 2)",
        ))
    }
}

/// Reads the words of a place.
pub(crate) fn read(words: &mut Words<'_, '_>, wire: &mut Vec<u8>) -> Result<(), RdataError> {
    let latitude = angle(words, ['N', 'S'], 90)?;
    let longitude = angle(words, ['E', 'W'], 180)?;
    let height = centimetres(words)? + SEA_LEVEL;
    let mut sizes = SIZES;
    for size in &mut sizes {
        if words.peek().is_some() {
            *size = power(centimetres(words)?).ok_or_else(bad)?;
        }
    }
    wire.push(0);
    wire.extend(sizes);
    wire.extend(latitude.to_be_bytes());
    wire.extend(longitude.to_be_bytes());
    wire.extend(u32::try_from(height).map_err(|_| bad())?.to_be_bytes());
    Ok(())
}

fn bad() -> RdataError {
    RdataError::Rule("the place is not as RFC 1876 3 has it: 51 30 12.748 N 0 7 39.612 W 10m")
}

fn word<'a>(words: &mut Words<'_, 'a>) -> Result<&'a str, RdataError> {
    words.next(FORM)?.word().ok_or_else(bad)
}

/// Degrees, minutes and seconds, the last two optional, and the direction.
fn angle(words: &mut Words<'_, '_>, ends: [char; 2], most: u32) -> Result<u32, RdataError> {
    let mut thousandths = 0_i64;
    for (unit, limit) in [
        (3_600_000, i64::from(most)),
        (60_000, 59),
        (1_000, 59),
        (0, 0),
    ] {
        let text = word(words)?;
        let direction = ends.iter().position(|end| {
            let mut symbols = text.chars();
            symbols
                .next()
                .is_some_and(|first| first.eq_ignore_ascii_case(end))
                && symbols.next().is_none()
        });
        // The direction ends the angle; at least the degrees come first.
        if let Some(direction) = direction.filter(|_| unit < 3_600_000) {
            let away = u32::try_from(thousandths).map_err(|_| bad())?;
            if away > most * THOUSANDTHS_PER_DEGREE {
                return Err(bad());
            }
            return Ok(if direction == 0 {
                EQUATOR + away
            } else {
                EQUATOR - away
            });
        }
        let decimals = if unit == 1_000 { 3 } else { 0 };
        let value =
            decimal(text, decimals).filter(|value| *value < (limit + 1) * 10_i64.pow(decimals));
        let value = value.filter(|_| unit > 0).ok_or_else(bad)?;
        thousandths += if decimals > 0 { value } else { value * unit };
    }
    Err(bad())
}

/// A number without a sign and with at most `decimals` digits after the point, times ten to their
/// count.
fn decimal(text: &str, decimals: u32) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
    let places = u32::try_from(fraction.len()).ok()?;
    if whole.is_empty() || !digits(whole) || !digits(fraction) || places > decimals {
        return None;
    }
    let fraction: i64 = if places == 0 {
        0
    } else {
        fraction.parse().ok()?
    };
    let whole: i64 = whole.parse().ok()?;
    Some(whole * 10_i64.pow(decimals) + fraction * 10_i64.pow(decimals - places))
}

/// Metres, with or without their unit, in centimetres.
fn centimetres(words: &mut Words<'_, '_>) -> Result<i64, RdataError> {
    let text = word(words)?;
    let text = text.strip_suffix(['m', 'M']).unwrap_or(text);
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    decimal(text, 2).map(|value| sign * value).ok_or_else(bad)
}

/// The digit and the power of ten; none when that cannot say the length exactly.
fn power(mut centimetres: i64) -> Option<u8> {
    let mut exponent = 0;
    while centimetres > 9 {
        if centimetres % 10 != 0 || exponent == 9 {
            return None;
        }
        centimetres /= 10;
        exponent += 1;
    }
    Some(u8::try_from(centimetres).ok()? << 4 | exponent)
}

/// The text of a valid place.
pub(crate) fn write(wire: &[u8]) -> String {
    let mut text = String::new();
    for (at, ends) in [(4, ['N', 'S']), (8, ['E', 'W'])] {
        let angle = number(&wire[at..at + 4]);
        let away = angle.abs_diff(EQUATOR);
        let (degrees, rest) = (away / 3_600_000, away % 3_600_000);
        let (minutes, rest) = (rest / 60_000, rest % 60_000);
        let end = ends[usize::from(angle < EQUATOR)];
        let (seconds, thousandths) = (rest / 1_000, rest % 1_000);
        write!(
            text,
            "{degrees} {minutes} {seconds}.{thousandths:03} {end} "
        )
        .expect("a string takes everything");
    }
    text.push_str(&metres(i64::from(number(&wire[12..16])) - SEA_LEVEL));
    for size in &wire[1..4] {
        text.push(' ');
        text.push_str(&metres(
            i64::from(size >> 4) * 10_i64.pow(u32::from(size & 15)),
        ));
    }
    text
}

fn metres(centimetres: i64) -> String {
    let sign = if centimetres < 0 { "-" } else { "" };
    let away = centimetres.abs();
    format!("{sign}{}.{:02}m", away / 100, away % 100)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use crate::{Rdata, Rtype};

    fn check(text: &str, expected: Expect) {
        let found = match Rdata::parse(Rtype::LOC, text, None) {
            Ok(data) => {
                let written = data.text(Rtype::LOC, None);
                assert_eq!(Rdata::parse(Rtype::LOC, &written, None), Ok(data));
                written
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&found);
    }

    /// Examples of RFC 1876 4.
    #[test]
    fn examples_of_rfc_1876_are_read_and_written() {
        check(
            "42 21 54 N 71 06 18 W -24m 30m",
            expect!["42 21 54.000 N 71 6 18.000 W -24.00m 30.00m 10000.00m 10.00m"],
        );
        check(
            "52 14 05 N 00 08 50 E 10m",
            expect!["52 14 5.000 N 0 8 50.000 E 10.00m 1.00m 10000.00m 10.00m"],
        );
        check(
            "90 S 180 W 42849672.95m 0m 9000000000 1",
            expect!["the place is not as RFC 1876 3 has it: 51 30 12.748 N 0 7 39.612 W 10m"],
        );
    }

    #[test]
    fn places_off_the_earth_are_refused() {
        let refused = "the place is not as RFC 1876 3 has it: 51 30 12.748 N 0 7 39.612 W 10m";
        for text in [
            "91 N 0 E 0",
            "90 0 0.001 N 0 E 0",
            "1 60 N 0 E 0",
            "1 0 0 0 N 0 E 0",
            "N 0 E 0",
            "1 N 0 E 1.234m",
            "1 N 0 E -100001m",
            "1 N 0 E 0 1.5m",
            "1 N 0 N 0",
        ] {
            let error = Rdata::parse(Rtype::LOC, text, None).expect_err(text);
            if text != "1 N 0 E 0 1.5m" {
                assert_eq!(error.to_string(), refused, "{text}");
            }
        }
    }
}
