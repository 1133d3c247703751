//! Names of the domain name system, absolute and in wire form.
//!
//! A name keeps the case that it was written in, because an answer shows it (RFC 4343 4.1), and
//! compares, orders and hashes without it. The order is the canonical one (RFC 4034 6.1): by labels
//! from the root down, so that everything below a name follows it directly.
//!
//! Invariants
//! - the bytes are a whole uncompressed name, with the root's empty label last;
//! - at most [`NAME_OCTETS_MAX`] octets, and no label has more than [`LABEL_OCTETS_MAX`].

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// Octets of a name on the wire, with the length of each label and the root (RFC 1035 2.3.4).
pub const NAME_OCTETS_MAX: usize = 255;
/// Octets of a label (RFC 1035 2.3.4).
pub const LABEL_OCTETS_MAX: usize = 63;
/// Labels that fit into a name, without the root: each has a length and at least one octet.
pub const LABELS_MAX: usize = (NAME_OCTETS_MAX - 1) / 2;

/// An absolute domain name.
#[derive(Clone)]
pub struct Name(Box<[u8]>);

/// Why something is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The whole is too long.
    #[error("the name has more than 255 octets (RFC 1035 2.3.4)")]
    TooLong,
    /// One label is too long.
    #[error("a label has more than 63 octets (RFC 1035 2.3.4)")]
    LabelTooLong,
    /// Two dots in a row, a dot at the beginning, or nothing at all.
    #[error("a label is empty (RFC 1035 2.3.1)")]
    EmptyLabel,
    /// A backslash that is followed by neither three digits up to 255 nor another character.
    #[error("a backslash is followed by neither a character nor three digits up to 255")]
    BadEscape,
    /// No dot at the end, and no origin to complete it with.
    #[error("the name does not end with a dot")]
    Relative,
    /// The bytes end within the name.
    #[error("the bytes end within a name")]
    Truncated,
    /// A pointer, or a label type that nobody uses.
    #[error("a label begins with {0:#04x}: only plain labels of up to 63 octets are read here")]
    LabelType(u8),
}

/// The octet that an escape stands for, and the bytes that it takes after the backslash.
pub(crate) fn unescape(after: &[u8]) -> Result<(u8, usize), NameError> {
    match after {
        [a, b, c, ..] if a.is_ascii_digit() && b.is_ascii_digit() && c.is_ascii_digit() => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            let value = digit(a) * 100 + digit(b) * 10 + digit(c);
            let octet = u8::try_from(value).map_err(|_| NameError::BadEscape)?;
            Ok((octet, 3))
        }
        [first, ..] if !first.is_ascii_digit() => Ok((*first, 1)),
        _ => Err(NameError::BadEscape),
    }
}

impl Name {
    /// The root.
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Reads a name as it is written in a master file (RFC 1035 5.1): `\DDD` and `\X` are escapes,
    /// `@` is the origin, and a name without a dot at its end is completed with the origin.
    pub fn parse(text: &[u8], origin: Option<&Self>) -> Result<Self, NameError> {
        match text {
            b"." => return Ok(Self::root()),
            b"@" => return origin.cloned().ok_or(NameError::Relative),
            _ => {}
        }
        let mut wire = Vec::with_capacity(text.len() + 2);
        let mut length_at = 0;
        wire.push(0);
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            at += 1;
            if byte == b'.' {
                close_label(&mut wire, length_at)?;
                length_at = wire.len();
                wire.push(0);
                continue;
            }
            let mut octet = byte;
            if byte == b'\\' {
                let (escaped, taken) = unescape(&text[at..])?;
                octet = escaped;
                at += taken;
            }
            wire.push(octet);
            if wire.len() > NAME_OCTETS_MAX + LABEL_OCTETS_MAX {
                return Err(NameError::TooLong);
            }
        }
        // An absolute name ends with the empty label that its last dot began.
        if length_at + 1 != wire.len() || text.is_empty() {
            close_label(&mut wire, length_at)?;
            wire.extend_from_slice(&origin.ok_or(NameError::Relative)?.0);
        }
        if wire.len() > NAME_OCTETS_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self(wire.into_boxed_slice()))
    }

    /// Reads the uncompressed name that `bytes` begin with, and says how many octets it has.
    pub fn from_wire(bytes: &[u8]) -> Result<(Self, usize), NameError> {
        let length = wire_name_length(bytes)?;
        Ok((Self(bytes[..length].into()), length))
    }

    /// The name on the wire, uncompressed, in the case that it was written in.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels from the left, without the root's.
    pub fn labels(&self) -> Labels<'_> {
        Labels(&self.0)
    }

    /// How many labels there are, without the root's.
    pub fn label_count(&self) -> usize {
        self.labels().count()
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// Whether the leftmost label is an asterisk (RFC 4592 2.1.1).
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with(b"\x01*")
    }

    /// The name without its leftmost label; none above the root.
    pub fn parent(&self) -> Option<Self> {
        let first = usize::from(self.0[0]);
        (first > 0).then(|| Self(self.0[first + 1..].into()))
    }

    /// The same name with one more label on the left.
    pub fn child(&self, label: &[u8]) -> Result<Self, NameError> {
        let length = match u8::try_from(label.len()) {
            Ok(0) => return Err(NameError::EmptyLabel),
            Ok(length) if label.len() <= LABEL_OCTETS_MAX => length,
            _ => return Err(NameError::LabelTooLong),
        };
        if self.0.len() + label.len() + 1 > NAME_OCTETS_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self([&[length], label, &self.0].concat().into()))
    }

    /// Whether `self` is `other`, or a name below it.
    pub fn is_at_or_below(&self, other: &Self) -> bool {
        self.octets_before(other).is_some()
    }

    /// Whether `self` is a name below `other`, and not `other` itself.
    pub fn is_below(&self, other: &Self) -> bool {
        self.octets_before(other).is_some_and(|octets| octets > 0)
    }

    /// This name with `new` in the place of its suffix `old` (RFC 6672 2.2). None when it does not
    /// end with `old`; an error when the outcome would be too long.
    pub fn with_suffix(&self, old: &Self, new: &Self) -> Option<Result<Self, NameError>> {
        let octets = self.octets_before(old)?;
        if octets + new.0.len() > NAME_OCTETS_MAX {
            return Some(Err(NameError::TooLong));
        }
        Some(Ok(Self([&self.0[..octets], &new.0].concat().into())))
    }

    /// The name as it is written below `origin`: `@`, or without the origin, or absolute. It is
    /// absolute also where it has the origin in another case, which would be lost.
    pub fn relative_text(&self, origin: &Self) -> String {
        let same_case = |octets: &usize| self.0[*octets..] == *origin.0;
        match self.octets_before(origin).filter(same_case) {
            Some(0) => "@".to_owned(),
            Some(octets) if !origin.is_root() => {
                let mut text = String::with_capacity(octets);
                for (index, label) in Labels(&self.0[..octets]).enumerate() {
                    if index > 0 {
                        text.push('.');
                    }
                    push_label(&mut text, label);
                }
                text
            }
            _ => self.to_string(),
        }
    }

    /// The name in lower case, which is its canonical form (RFC 4034 6.2).
    #[must_use]
    pub fn to_lowercase(&self) -> Self {
        Self(self.0.to_ascii_lowercase().into())
    }

    /// The octets to the left of the suffix `other`, when that is one.
    fn octets_before(&self, other: &Self) -> Option<usize> {
        let octets = self.0.len().checked_sub(other.0.len())?;
        let mut at = 0;
        while at < octets {
            at += usize::from(self.0[at]) + 1;
        }
        (at == octets && self.0[octets..].eq_ignore_ascii_case(&other.0)).then_some(octets)
    }

    /// Octets that order as the names do: the labels from the root down, in lower case, each with
    /// an end that is below every octet. What is at or below a name begins with that name's.
    ///
    /// A map that has them as keys compares octets in the place of labels.
    pub fn sort_key(&self) -> Vec<u8> {
        let (offsets, count) = self.label_offsets();
        let mut key = Vec::with_capacity(self.0.len());
        for start in offsets[..count].iter().rev().copied().map(usize::from) {
            for octet in &self.0[start + 1..start + 1 + usize::from(self.0[start])] {
                match octet {
                    // 0 is the end of a label, and 1 says that 0 or 1 is meant.
                    0 | 1 => key.extend([1, octet + 1]),
                    _ => key.push(octet.to_ascii_lowercase()),
                }
            }
            key.push(0);
        }
        key
    }

    /// Where each label begins on the wire, from the left, and how many there are.
    pub fn label_offsets(&self) -> ([u8; LABELS_MAX + 1], usize) {
        let mut offsets = [0; LABELS_MAX + 1];
        let mut count = 0;
        let mut at = 0_u8;
        while self.0[usize::from(at)] > 0 {
            offsets[count] = at;
            count += 1;
            at += self.0[usize::from(at)] + 1;
        }
        (offsets, count)
    }
}

/// The octets of the uncompressed name that `bytes` begin with.
pub(crate) fn wire_name_length(bytes: &[u8]) -> Result<usize, NameError> {
    let mut at = 0;
    loop {
        let length = *bytes.get(at).ok_or(NameError::Truncated)?;
        if usize::from(length) > LABEL_OCTETS_MAX {
            return Err(NameError::LabelType(length));
        }
        at += usize::from(length) + 1;
        if at > NAME_OCTETS_MAX {
            return Err(NameError::TooLong);
        }
        if at > bytes.len() {
            return Err(NameError::Truncated);
        }
        if length == 0 {
            return Ok(at);
        }
    }
}

/// Writes the length of the label that ends with `wire`.
fn close_label(wire: &mut [u8], length_at: usize) -> Result<(), NameError> {
    let length = wire.len() - length_at - 1;
    if length == 0 {
        return Err(NameError::EmptyLabel);
    }
    if length > LABEL_OCTETS_MAX {
        return Err(NameError::LabelTooLong);
    }
    wire[length_at] = u8::try_from(length).map_err(|_| NameError::LabelTooLong)?;
    Ok(())
}

/// Writes a label so that every reader of master files takes it for what it is.
fn push_label(text: &mut String, label: &[u8]) {
    for &octet in label {
        match octet {
            b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => {
                text.push('\\');
                text.push(char::from(octet));
            }
            0x21..=0x7e => text.push(char::from(octet)),
            _ => push_decimal_escape(text, octet),
        }
    }
}

/// Writes `\DDD`.
pub(crate) fn push_decimal_escape(text: &mut String, octet: u8) {
    write!(text, "\\{octet:03}").expect("a string takes everything");
}

/// The labels of a name, from the left.
#[derive(Debug, Clone)]
pub struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        if length == 0 {
            return None;
        }
        let (label, rest) = rest.split_at(usize::from(length));
        self.0 = rest;
        Some(label)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text.as_bytes(), None)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return out.pad(".");
        }
        let mut text = String::with_capacity(self.0.len());
        for label in self.labels() {
            push_label(&mut text, label);
            text.push('.');
        }
        out.pad(&text)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        // Lengths of labels are below every letter, so that they compare as they are.
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for octet in &self.0 {
            state.write_u8(octet.to_ascii_lowercase());
        }
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        let (ours, our_count) = self.label_offsets();
        let (theirs, their_count) = other.label_offsets();
        let label = |wire: &'_ [u8], at: u8| {
            let at = usize::from(at);
            at + 1..at + 1 + usize::from(wire[at])
        };
        let common = our_count.min(their_count);
        for back in 1..=common {
            let our_label = &self.0[label(&self.0, ours[our_count - back])];
            let their_label = &other.0[label(&other.0, theirs[their_count - back])];
            let order = compare_labels(our_label, their_label);
            if order.is_ne() {
                return order;
            }
        }
        our_count.cmp(&their_count)
    }
}

/// As sequences of octets, letters in lower case; a prefix comes first (RFC 4034 6.1).
fn compare_labels(ours: &[u8], theirs: &[u8]) -> Ordering {
    for (our, their) in ours.iter().zip(theirs) {
        let order = our.to_ascii_lowercase().cmp(&their.to_ascii_lowercase());
        if order.is_ne() {
            return order;
        }
    }
    ours.len().cmp(&theirs.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect(text)
    }

    fn relative(text: &str) -> Result<String, NameError> {
        Name::parse(text.as_bytes(), Some(&name("example."))).map(|name| name.to_string())
    }

    #[test]
    fn text_is_completed_with_the_origin_and_escapes_are_read() {
        assert_eq!(relative("www").as_deref(), Ok("www.example."));
        assert_eq!(relative("www.").as_deref(), Ok("www."));
        assert_eq!(relative("@").as_deref(), Ok("example."));
        assert_eq!(relative("\\@").as_deref(), Ok("\\@.example."));
        assert_eq!(relative(".").as_deref(), Ok("."));
        assert_eq!(relative("a\\.b.c").as_deref(), Ok("a\\.b.c.example."));
        assert_eq!(relative("\\065\\000").as_deref(), Ok("A\\000.example."));
        assert_eq!(relative("*._tcp").as_deref(), Ok("*._tcp.example."));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        assert_eq!(relative(""), Err(NameError::EmptyLabel));
        assert_eq!(relative("a..b"), Err(NameError::EmptyLabel));
        assert_eq!(relative(".a"), Err(NameError::EmptyLabel));
        assert_eq!(relative("a\\"), Err(NameError::BadEscape));
        assert_eq!(relative("a\\256"), Err(NameError::BadEscape));
        assert_eq!(relative("a\\2"), Err(NameError::BadEscape));
        assert_eq!(relative(&"a".repeat(64)), Err(NameError::LabelTooLong));
        assert_eq!(relative(&"a.".repeat(130)), Err(NameError::TooLong));
        assert_eq!(relative(&"a".repeat(100_000)), Err(NameError::TooLong));
        assert_eq!("www".parse::<Name>(), Err(NameError::Relative));
    }

    /// 255 octets, which is the most, as four labels (RFC 1035 2.3.4).
    #[test]
    fn longest_name_is_taken_and_one_more_octet_is_not() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}.", "a".repeat(61));
        assert_eq!(name(&longest).as_wire().len(), NAME_OCTETS_MAX);
        let longer = format!("{label}.{label}.{label}.{}.", "a".repeat(62));
        assert_eq!(longer.parse::<Name>(), Err(NameError::TooLong));
        assert_eq!(name(&"a.".repeat(127)).label_count(), LABELS_MAX);
    }

    #[test]
    fn wire_form_is_bounded_and_holds_no_pointer() {
        let wire = name("www.example.");
        let (read, used) = Name::from_wire(b"\x03www\x07example\x00more").expect("whole");
        assert_eq!((read, used), (wire, 13));
        assert_eq!(Name::from_wire(b"\x03ww").err(), Some(NameError::Truncated));
        assert_eq!(Name::from_wire(b"").err(), Some(NameError::Truncated));
        let pointer = Name::from_wire(b"\xc0\x0c").err();
        assert_eq!(pointer, Some(NameError::LabelType(0xc0)));
        let long = [[1, b'a'].repeat(128), vec![0]].concat();
        assert_eq!(Name::from_wire(&long).err(), Some(NameError::TooLong));
    }

    /// The example of RFC 4034 6.1.
    #[test]
    fn order_is_the_canonical_one_of_rfc_4034() {
        let sorted = [
            "example.",
            "a.example.",
            "yljkjljk.a.example.",
            "Z.a.example.",
            "zABC.a.EXAMPLE.",
            "z.example.",
            "\\001.z.example.",
            "*.z.example.",
            "\\200.z.example.",
        ];
        let mut names: Vec<Name> = sorted.iter().rev().map(|text| name(text)).collect();
        names.sort();
        let written: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert_eq!(written, sorted);
    }

    #[test]
    fn case_is_kept_and_never_compared() {
        assert_eq!(name("WWW.Example."), name("www.example."));
        assert_eq!(name("WWW.Example.").to_string(), "WWW.Example.");
        assert!(name("a.WWW.Example.").is_below(&name("www.example.")));
        assert!(!name("xwww.example.").is_at_or_below(&name("www.example.")));
        assert!(!name("www.example.").is_below(&name("www.example.")));
        assert!(name("www.example.").is_at_or_below(&Name::root()));
    }

    #[test]
    fn suffix_that_lies_within_a_label_is_none() {
        // The octets of "\x01a\x00" end the label of the first name, and are no label of it.
        let inside = Name::parse(b"x\\001a", Some(&Name::root())).expect("a name");
        assert!(!inside.is_at_or_below(&name("a.")));
    }

    #[test]
    fn relative_text_reads_back_as_the_same_name() {
        let origin = name("example.");
        for (text, expected) in [
            ("example.", "@"),
            ("a.b.example.", "a.b"),
            ("other.", "other."),
            ("\\$ttl.example.", "\\$ttl"),
            ("a.Example.", "a.Example."),
        ] {
            let found = name(text).relative_text(&origin);
            assert_eq!(found, expected);
            assert_eq!(Name::parse(found.as_bytes(), Some(&origin)), Ok(name(text)));
        }
        assert_eq!(name("a.").relative_text(&Name::root()), "a.");
    }

    #[test]
    fn suffix_is_replaced_until_the_name_is_too_long() {
        let replaced = name("a.b.old.").with_suffix(&name("old."), &name("new.example."));
        assert_eq!(replaced, Some(Ok(name("a.b.new.example."))));
        assert_eq!(name("a.").with_suffix(&name("old."), &Name::root()), None);
        let long = name(&format!("{}x.", "a.".repeat(120)));
        let longer = long.with_suffix(&name("x."), &name("twenty.octets.and.more."));
        assert_eq!(longer, Some(Err(NameError::TooLong)));
        assert_eq!(name("a.").child(b"*"), Ok(name("*.a.")));
        assert_eq!(name("a.").parent(), Some(Name::root()));
        assert_eq!(Name::root().parent(), None);
    }
}
