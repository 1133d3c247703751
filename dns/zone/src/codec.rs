//! Hexadecimal, base64, addresses of hardware and times, as master files write them.

/// Reads pairs of hexadecimal digits; none when it is anything else.
pub(crate) fn hex_decode(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.chunks_exact(2)
        .map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok())
        .collect()
}

/// Upper case, as the RFCs print it.
pub(crate) fn hex_encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Reads base64 with its padding (RFC 4648 4); none when it is anything else.
pub fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for &symbol in &text[..text.len() - padding] {
        bits = bits << 6 | base64_value(symbol)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    // Bits that no octet takes must be zero: there is one way only to write some octets.
    (bits == 0).then_some(bytes)
}

fn base64_value(symbol: u8) -> Option<u32> {
    Some(u32::from(match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

/// Base64 with padding.
pub fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut bits = 0_u32;
        for at in 0..3 {
            bits = bits << 8 | group.get(at).copied().map_or(0, u32::from);
        }
        for at in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * at) & 63).expect("six bits");
            text.push(if at <= group.len() {
                char::from(BASE64[index])
            } else {
                '='
            });
        }
    }
    text
}

/// Reads `count` groups of hexadecimal digits, `digits` each, between `separator`s.
pub(crate) fn groups_decode(text: &str, separator: char, digits: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for group in text.split(separator) {
        if group.len() > digits || group.is_empty() {
            return None;
        }
        bytes.extend(hex_decode(format!("{group:0>digits$}").as_bytes())?);
    }
    Some(bytes)
}

/// Writes octets as groups of `octets` each, between `separator`s.
pub(crate) fn groups_encode(bytes: &[u8], separator: &str, octets: usize) -> String {
    let groups: Vec<String> = bytes.chunks(octets).map(hex_encode).collect();
    groups.join(separator).to_lowercase()
}

/// Reads seconds, or a time with units as BIND writes them: `1h30m`, `2W`, `3600`.
pub(crate) fn seconds(text: &[u8]) -> Option<u32> {
    let mut total = 0_u64;
    let mut number: Option<u64> = None;
    let mut with_units = false;
    for &byte in text {
        if byte.is_ascii_digit() {
            let digit = u64::from(byte - b'0');
            let value = number.unwrap_or(0) * 10 + digit;
            if value > u64::from(u32::MAX) {
                return None;
            }
            number = Some(value);
            continue;
        }
        let unit = match byte.to_ascii_lowercase() {
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        total += number.take()? * unit;
        with_units = true;
        if total > u64::from(u32::MAX) {
            return None;
        }
    }
    match (number, with_units) {
        // A number without a unit after one with it: nobody can say what is meant.
        (Some(_), true) | (None, false) => None,
        (Some(value), false) => u32::try_from(value).ok(),
        (None, true) => u32::try_from(total).ok(),
    }
}

/// Seconds of a day.
const DAY: u32 = 86_400;

/// Writes a moment, in seconds since 1970, as the date and time of UTC (RFC 4034 3.2).
pub(crate) fn time_encode(seconds: u32) -> String {
    let (day, second) = (seconds / DAY, seconds % DAY);
    let mut left = day;
    let year = (1970..=2106).find(|year| step(&mut left, days_of_year(*year)));
    let year = year.expect("four octets end in 2106");
    let month = (1..=12).find(|month| step(&mut left, days_of_month(year, *month)));
    let month = month.expect("the months have the days of their year");
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    let (date, second) = (left + 1, second % 60);
    format!("{year:04}{month:02}{date:02}{hour:02}{minute:02}{second:02}")
}

/// Reads such a text, or seconds in at most ten digits (RFC 4034 3.2).
pub(crate) fn time_decode(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match text.len() {
        14 => {}
        1..=10 => return text.parse().ok(),
        _ => return None,
    }
    let part = |from: usize, to: usize| text[from..to].parse::<u32>().ok();
    let (year, month, date) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    // Four octets end in 2106.
    let days = (1970..=2106).contains(&year) && (1..=12).contains(&month);
    if !days || !(1..=days_of_month(year, month)).contains(&date) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let years: u32 = (1970..year).map(days_of_year).sum();
    let months: u32 = (1..month).map(|month| days_of_month(year, month)).sum();
    let day = years + months + date - 1;
    day.checked_mul(DAY)?
        .checked_add(hour * 3_600 + minute * 60 + second)
}

/// Takes `days` away when there are as many; true when there are not.
fn step(left: &mut u32, days: u32) -> bool {
    match left.checked_sub(days) {
        Some(less) => *left = less,
        None => return true,
    }
    false
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u32) -> u32 {
    365 + u32::from(is_leap(year))
}

fn days_of_month(year: u32, month: u32) -> u32 {
    match month {
        2 => 28 + u32::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 4648 10.
    #[test]
    fn base64_of_rfc_4648_is_read_and_written() {
        for (bytes, text) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64_encode(bytes.as_bytes()), text);
            assert_eq!(base64_decode(text.as_bytes()), Some(bytes.into()));
        }
        for wrong in ["", "Zg", "Zg=", "Z===", "Zh==", "Zm9=", "Zm9v\n", "Z=g="] {
            assert_eq!(base64_decode(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn hexadecimal_takes_whole_octets_of_either_case() {
        assert_eq!(hex_decode(b"00fFa1"), Some(vec![0, 255, 161]));
        assert_eq!(hex_encode(&[0, 255, 161]), "00FFA1");
        assert_eq!(hex_decode(b"0"), None);
        assert_eq!(hex_decode(b"0g"), None);
    }

    #[test]
    fn times_have_the_units_that_bind_has() {
        for (text, expected) in [
            ("0", Some(0)),
            ("3600", Some(3_600)),
            ("1h30m", Some(5_400)),
            ("1W2D", Some(777_600)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("99999999999999999999999", None),
            ("7102w", None),
            ("1h30", None),
            ("h", None),
            ("1y", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn groups_of_digits_may_lack_leading_zeros() {
        assert_eq!(
            groups_decode("1:2:ff", ':', 4),
            Some(vec![0, 1, 0, 2, 0, 255])
        );
        assert_eq!(groups_decode("1::2", ':', 4), None);
        assert_eq!(groups_decode("12345", ':', 4), None);
        assert_eq!(groups_encode(&[0, 1, 0, 255], ":", 2), "0001:00ff");
    }

    #[test]
    fn times_are_dates_of_utc() {
        for (seconds, text) in [
            (0, "19700101000000"),
            (951_782_400, "20000229000000"),
            (1_793_491_199, "20261031235959"),
            // The example of RFC 4034 3.3.
            (1_048_354_263, "20030322173103"),
            (u32::MAX, "21060207062815"),
        ] {
            assert_eq!(time_encode(seconds), text);
            assert_eq!(time_decode(text.as_bytes()), Some(seconds));
            assert_eq!(time_decode(seconds.to_string().as_bytes()), Some(seconds));
        }
        for text in [
            "",
            "20260229000000",
            "20261301000000",
            "20260100000000",
            "20260101240000",
            "20260101006000",
            "20260101000060",
            "21060207062816",
            "19691231235959",
            "4294967296",
            "2026010100000",
            "00000000001",
            "+1",
        ] {
            assert_eq!(time_decode(text.as_bytes()), None, "{text}");
        }
    }
}
