//! What does not exist: the data of NSEC records, and the names that follow others directly.
//!
//! A transfer has the chain of all names (RFC 4034 4). An answer has one record made for it, which
//! says of the asked name alone what is there (RFC 9824): its next name is the very next one that
//! could exist.

use cfgdns_zone::{LABEL_OCTETS_MAX, NAME_OCTETS_MAX, Name, Rtype};

/// The data of an NSEC record: the next name, and which types there are (RFC 4034 4.1).
pub fn nsec_data(next: &[u8], types: impl IntoIterator<Item = Rtype>) -> Vec<u8> {
    let mut types: Vec<u16> = types.into_iter().map(|rtype| rtype.0).collect();
    types.sort_unstable();
    let mut data = next.to_vec();
    // A window of 256 types each, those without any left out.
    for window in types.chunk_by(|a, b| a.to_be_bytes()[0] == b.to_be_bytes()[0]) {
        let mut bits = [0_u8; 32];
        let mut octets = 0;
        for rtype in window {
            let low = rtype.to_be_bytes()[1];
            bits[usize::from(low / 8)] |= 0x80 >> (low % 8);
            octets = low / 8 + 1;
        }
        data.extend([window[0].to_be_bytes()[0], octets]);
        data.extend(&bits[..usize::from(octets)]);
    }
    data
}

/// The name that could exist directly after `name`, so that a record from one to the other speaks
/// of `name` alone: the first below it (RFC 9824 3.2), or, where it is delegated and all below it
/// are others', the first beside it (RFC 9824 3.4). The origin where no name is left.
pub fn compact_next(name: &Name, origin: &Name, delegated: bool) -> Name {
    if !delegated && let Ok(below) = name.child(&[0]) {
        return below;
    }
    let mut current = name.clone();
    while current != *origin {
        let Some(above) = current.parent() else { break };
        let label = current.labels().next().unwrap_or_default();
        if let Some(beside) = label_after(label, above.as_wire().len())
            && let Ok(next) = above.child(&beside)
        {
            return next;
        }
        current = above;
    }
    origin.clone()
}

/// The label directly after another, below a name of so many octets (RFC 4471 3.1); none when it is
/// the last.
fn label_after(label: &[u8], above_octets: usize) -> Option<Vec<u8>> {
    let mut after = label.to_ascii_lowercase();
    let room = NAME_OCTETS_MAX - above_octets - 1;
    if after.len() < LABEL_OCTETS_MAX.min(room) {
        after.push(0);
        return Some(after);
    }
    while after.last() == Some(&u8::MAX) {
        after.pop();
    }
    let last = after.last_mut()?;
    // Letters are compared in lower case: after `@` there is nothing before `[`.
    *last = if *last == b'@' { b'[' } else { *last + 1 };
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect(text)
    }

    #[track_caller]
    fn check(text: &str, delegated: bool, expected: &str) {
        let (from, origin) = (name(text), name("example."));
        let next = compact_next(&from, &origin, delegated);
        assert_eq!(next, name(expected), "{next}");
        assert!(next > from || next == origin);
    }

    #[test]
    fn next_name_is_the_first_below_and_beside_a_delegation() {
        check("a.example.", false, "\\000.a.example.");
        check("example.", false, "\\000.example.");
        check("A.example.", true, "a\\000.example.");
        let full = "a".repeat(63);
        check(
            &format!("{full}.example."),
            true,
            &format!("{}b.example.", "a".repeat(62)),
        );
        let at = "@".repeat(63);
        let expected = format!("{}[.example.", "\\@".repeat(62));
        check(&format!("{at}.example."), true, &expected);
        let last = "\\255".repeat(63);
        check(
            &format!("a.{last}.example."),
            true,
            &format!("a\\000.{last}.example."),
        );
        check(&format!("{last}.example."), true, "example.");
    }

    /// A name of 254 or 255 octets has nothing below it.
    #[test]
    fn longest_names_are_followed_by_what_fits_beside_them() {
        let octets = 63 + 1 + 63 + 1 + 63 + 1;
        let above = vec!["a".repeat(63); 3].join(".") + ".example.";
        let left = 255 - octets - 9 - 1;
        let longest = format!("{}.{above}", "b".repeat(left));
        assert_eq!(name(&longest).as_wire().len(), 255);
        let next = format!("{}c.{above}", "b".repeat(left - 1));
        check(&longest, false, &next);
        let shorter = format!("{}.{above}", "b".repeat(left - 1));
        check(
            &shorter,
            false,
            &format!("{}\\000.{above}", "b".repeat(left - 1)),
        );
        let last = format!("{}.{above}", "\\255".repeat(left));
        let next = ["a".repeat(62) + "b", "a".repeat(63), "a".repeat(63)].join(".") + ".example.";
        check(&last, false, &next);
    }

    /// RFC 4034 4.3: the example.
    #[test]
    fn types_are_bits_of_windows() {
        let types = [Rtype::NSEC, Rtype::A, Rtype(1234), Rtype::MX, Rtype::RRSIG];
        let data = nsec_data(name("host.example.com.").as_wire(), types);
        let mut expected = b"\x04host\x07example\x03com\0".to_vec();
        expected.extend(b"\x00\x06\x40\x01\x00\x00\x00\x03");
        expected.extend(b"\x04\x1b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x20");
        assert_eq!(data, expected);
        assert_eq!(nsec_data(&[0], []), [0]);
    }
}
