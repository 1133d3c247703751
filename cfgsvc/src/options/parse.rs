//! From the text of one setting to its value. The error is what is allowed.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

/// What HOST:PORT means, for error texts.
const HOST_PORT: &str =
    "HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:2379 or [::1]:2379";
/// Longest host name, as the DNS has it.
const HOST_BYTES_MAX: usize = 253;

/// Checks HOST:PORT and returns it unchanged. What others are told goes through here too, so that
/// nothing gets into the membership that nobody can connect to or print.
pub fn host_port(text: &str) -> Result<String, String> {
    let refused = || HOST_PORT.to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
    // Digits alone: `parse` would take a sign.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = port.parse().map_err(|_| refused())?;
    if !digits || port == 0 || !is_host(host) {
        return Err(refused());
    }
    Ok(text.to_owned())
}

/// Whether `host` is a name, an IPv4 address or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']');
        return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(good)
}

/// A list of HOST:PORT separated by commas; at least one.
pub(super) fn host_ports(text: &str) -> Result<Vec<String>, String> {
    text.split(',')
        .map(|one| host_port(one.trim()).map_err(|why| format!("a comma-separated list of {why}")))
        .collect()
}

/// NAME=HOST:PORT pairs separated by commas, names unique.
pub(super) fn cluster(text: &str) -> Result<BTreeMap<String, String>, String> {
    let refused = || {
        "NAME=HOST:PORT pairs separated by commas, each name and each address once, such as \
         n1=10.0.0.1:2380,n2=10.0.0.2:2380"
            .to_owned()
    };
    let mut members = BTreeMap::new();
    for pair in text.split(',') {
        let (member, address) = pair.trim().split_once('=').ok_or_else(refused)?;
        let address = host_port(address).map_err(|_| refused())?;
        let member = name(member).map_err(|_| refused())?;
        let repeated = members.values().any(|other| *other == address);
        if repeated || members.insert(member, address).is_some() {
            return Err(refused());
        }
    }
    Ok(members)
}

/// The name of a member or colo.
pub fn name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(good) {
        return Err("1 to 64 of the characters a-z A-Z 0-9 - _ .".to_owned());
    }
    Ok(text.to_owned())
}

/// A path; anything but nothing.
pub(super) fn path(text: &str) -> Result<std::path::PathBuf, String> {
    if text.is_empty() {
        return Err("a path".to_owned());
    }
    Ok(text.into())
}

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// A whole number in `allowed`.
pub(super) fn number(text: &str, allowed: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|value| allowed.contains(value))
        .ok_or_else(|| {
            format!(
                "a whole number from {} to {}",
                allowed.start(),
                allowed.end()
            )
        })
}

/// Bytes, with an optional unit KiB, MiB, GiB or TiB, in `allowed`.
pub(super) fn bytes(text: &str, allowed: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (digits, shift) = units
        .iter()
        .find_map(|(unit, shift)| {
            text.strip_suffix(unit)
                .map(|digits| (digits.trim_end(), *shift))
        })
        .unwrap_or((text, 0));
    digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(1 << shift))
        .filter(|value| allowed.contains(value))
        .ok_or_else(|| {
            format!(
                "bytes from {} to {}, plain or with KiB, MiB, GiB or TiB, such as 512MiB",
                allowed.start(),
                allowed.end()
            )
        })
}

/// A duration as a whole number with a unit ms, s, m, h or d; `0` is none.
pub(super) fn duration(text: &str) -> Result<Option<Duration>, String> {
    if text == "0" {
        return Ok(None);
    }
    let units = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    units
        .iter()
        .find_map(|(unit, ms)| {
            let count = text.strip_suffix(unit)?.parse::<u64>().ok()?;
            count.checked_mul(*ms)
        })
        .filter(|ms| (1_000..=10 * 366 * 86_400_000).contains(ms))
        .map(|ms| Some(Duration::from_millis(ms)))
        .ok_or_else(|| {
            "0, or 1s to 10 years as a number with ms, s, m, h or d, such as 24h".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_port_is_what_others_can_connect_to() {
        let long = format!("{}:1", "h".repeat(254));
        for good in ["127.0.0.1:2379", "[::1]:1", "db-1.akl_2.example.:65535"] {
            assert_eq!(host_port(good), Ok(good.to_owned()));
        }
        for bad in [
            "", ":1", "h", "h:", "h:0", "h:+1", "h:65536", "::1:1", "[]:1", "[h]:1", "[::1:1",
            "a b:1", "a\n:1", "u@h:1", "h/p:1", "hé:1", &long,
        ] {
            assert_eq!(host_port(bad), Err(HOST_PORT.to_owned()), "{bad:?}");
        }
    }
}
