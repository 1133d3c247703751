//! What differs between two versions of a key, as text for people. Pure.
//!
//! ```text
//! --- app/flags at revision 2
//! +++ app/flags at revision 5
//! @@ -1 +1 @@
//! -on
//! +off
//! ```
//!
//! Text is compared line by line. JSON is laid out one member a line before, from its own tokens:
//! no number is rounded, no member reordered or dropped. Of any other bytes there are only the
//! count and an excerpt.
//!
//! Invariants
//! - values that differ never give a text that says they are the same.
//! - nothing in a value reaches the terminal as a control character, but line ends and tabs.

use crate::render::{cell, count, lease_cell};
use serde::de::IgnoredAny;
use similar::{ChangeTag, TextDiff};
use std::fmt::Write as _;
use std::time::Duration;

/// Unchanged lines around a changed one.
const CONTEXT: usize = 3;
/// After this time the rest is compared coarsely: values may have a million lines.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes of JSON that was laid out: indentation multiplies what is deeply nested.
const JSON_BYTES_MAX: usize = 16 << 20;
/// Bytes of an excerpt.
const EXCERPT: usize = 16;
/// Bytes of an excerpt before the first that differs.
const BEFORE_DIFFERENCE: usize = 4;

/// One of the two versions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side<'a> {
    /// When it was, or will be: behind the key.
    pub(crate) when: &'a str,
    /// The value; `None`: the key does not exist.
    pub(crate) value: Option<&'a [u8]>,
    /// The lease; 0 for none.
    pub(crate) lease: i64,
}

impl Side<'_> {
    fn heading(&self, sign: &str, key: &[u8]) -> String {
        let note = match self.value {
            None => " (does not exist)",
            Some([]) => " (empty)",
            Some(_) => "",
        };
        format!("{sign} {} {}{note}\n", cell(key), self.when)
    }
}

/// What differs, with a newline after each line.
pub(crate) fn render(key: &[u8], before: Side<'_>, after: Side<'_>) -> String {
    let mut text = before.heading("---", key);
    text.push_str(&after.heading("+++", key));
    if before.value.is_some() && after.value.is_some() && before.lease != after.lease {
        let (old, new) = (lease_cell(before.lease), lease_cell(after.lease));
        // Writing to a string does not fail.
        let _ = writeln!(text, "lease {old} before, {new} after");
    }
    if before.value == after.value {
        text.push_str("the value is the same\n");
        return text;
    }
    let (old, new) = (
        before.value.unwrap_or_default(),
        after.value.unwrap_or_default(),
    );
    match (plain(old), plain(new)) {
        (Some(old), Some(new)) => text.push_str(&lines(old, new)),
        (Some(_), None) | (None, Some(_) | None) => {
            text.push_str(&excerpts(before.value, after.value));
        }
    }
    text
}

/// The value as text, unless it holds what no text does.
fn plain(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| !text.contains('\0'))
}

/// The lines that differ between two texts.
fn lines(old: &str, new: &str) -> String {
    let laid_out = |text: &str| {
        if text.is_empty() {
            return Some(String::new());
        }
        lay_out(text)
    };
    if old == new {
        // An empty value and none: the headings say which is which.
        return String::new();
    }
    match (laid_out(old), laid_out(new)) {
        (Some(old), Some(new)) if old == new => "only white space in the JSON differs\n".to_owned(),
        (Some(old), Some(new)) => hunks(&old, &new),
        (Some(_), None) | (None, Some(_) | None) => hunks(old, new),
    }
}

fn hunks(old: &str, new: &str) -> String {
    let mut config = TextDiff::configure();
    let diff = config.timeout(PATIENCE).diff_lines(old, new);
    let ends = |text: &str| text.is_empty() || text.ends_with('\n');
    let mark_ends = ends(old) != ends(new) && !old.is_empty() && !new.is_empty();
    let mut text = String::new();
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        let _ = writeln!(text, "{}", hunk.header());
        for change in hunk.iter_changes() {
            text.push(match change.tag() {
                ChangeTag::Equal => ' ',
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            });
            let line = change.value();
            let whole = line.strip_suffix('\n');
            push_visible(&mut text, whole.unwrap_or(line));
            text.push('\n');
            if whole.is_none() && mark_ends {
                text.push_str("\\ no newline at the end\n");
            }
        }
    }
    text
}

fn push_visible(text: &mut String, line: &str) {
    for sign in line.chars() {
        if sign.is_control() && sign != '\t' {
            text.extend(sign.escape_default());
        } else {
            text.push(sign);
        }
    }
}

/// A JSON object or list with one member a line; `None` for anything else, and for what would be
/// too large.
fn lay_out(text: &str) -> Option<String> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut out = String::new();
    let mut depth = 0_usize;
    let (mut quoted, mut escaped) = (false, false);
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        if quoted {
            out.push(sign);
            quoted = escaped || sign != '"';
            escaped = !escaped && sign == '\\';
            continue;
        }
        match sign {
            ' ' | '\t' | '\r' | '\n' => {}
            '{' | '[' => {
                out.push(sign);
                while signs.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = signs.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(sign);
            }
            ',' => {
                out.push(sign);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            sign => {
                quoted = sign == '"';
                out.push(sign);
            }
        }
        if out.len() > JSON_BYTES_MAX {
            return None;
        }
    }
    out.push('\n');
    Some(out)
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Size and some bytes of each version that exists.
fn excerpts(old: Option<&[u8]>, new: Option<&[u8]>) -> String {
    let from = match (old, new) {
        (Some(old), Some(new)) => old
            .iter()
            .zip(new)
            .position(|(old, new)| old != new)
            .unwrap_or(old.len().min(new.len()))
            .saturating_sub(BEFORE_DIFFERENCE),
        (Some(_), None) | (None, Some(_) | None) => 0,
    };
    let mut text = String::new();
    for (sign, value) in [('-', old), ('+', new)] {
        let Some(value) = value else { continue };
        let shown = value.get(from..).unwrap_or_default();
        let cut = &shown[..shown.len().min(EXCERPT)];
        let hex: Vec<String> = cut.iter().map(|byte| format!("{byte:02x}")).collect();
        let size = count(value.len() as i128, "byte");
        let place = match from {
            0 => String::new(),
            from => format!(", from byte {from} on"),
        };
        let more = if cut.len() < shown.len() { " ..." } else { "" };
        let _ = writeln!(text, "{sign}{size}{place}: {}{more}", hex.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    fn side(value: Option<&[u8]>) -> Side<'_> {
        Side {
            when: "then",
            value,
            lease: 0,
        }
    }

    fn check(old: &[u8], new: &[u8], expected: Expect) {
        expected.assert_eq(&render(b"k", side(Some(old)), side(Some(new))));
    }

    #[test]
    fn text_is_compared_line_by_line_with_some_lines_around() {
        check(
            b"1\n2\n3\n4\n5\n6\n7\n8\n9\n",
            b"1\n2\n3\n4\nfive\n6\n7\n8\n9\n",
            expect![[r#"
                --- k then
                +++ k then
                @@ -2,7 +2,7 @@
                 2
                 3
                 4
                -5
                +five
                 6
                 7
                 8
            "#]],
        );
        check(
            b"on",
            b"on\n",
            expect![[r#"
                --- k then
                +++ k then
                @@ -1 +1 @@
                -on
                \ no newline at the end
                +on
            "#]],
        );
        check(
            b"a\r\n",
            b"\x1b[2Ja\n",
            expect![[r#"
                --- k then
                +++ k then
                @@ -1 +1 @@
                -a\r
                +\u{1b}[2Ja
            "#]],
        );
    }

    #[test]
    fn json_is_laid_out_and_loses_no_digit() {
        check(
            br#"{"a":{"n":12345678901234567890.12345678901},"l":[],"s":"x, {\"y\": 1}"}"#,
            br#"{"a": {"n": 12345678901234567890.12345678902}, "l": [ ], "s": "x, {\"y\": 1}"}"#,
            expect![[r#"
                --- k then
                +++ k then
                @@ -1,6 +1,6 @@
                 {
                   "a": {
                -    "n": 12345678901234567890.12345678901
                +    "n": 12345678901234567890.12345678902
                   },
                   "l": [],
                   "s": "x, {\"y\": 1}"
            "#]],
        );
        check(
            b"{\"a\":1}",
            b"{ \"a\": 1 }\n",
            expect![[r#"
                --- k then
                +++ k then
                only white space in the JSON differs
            "#]],
        );
        check(
            b"[1]",
            b"[1",
            expect![[r#"
                --- k then
                +++ k then
                @@ -1 +1 @@
                -[1]
                +[1
            "#]],
        );
    }

    #[test]
    fn other_bytes_are_counted_and_shown_where_they_differ() {
        let old = [vec![0xff; 40], vec![1]].concat();
        let new = [vec![0xff; 40], vec![2; 30]].concat();
        check(
            &old,
            &new,
            expect![[r#"
                --- k then
                +++ k then
                -41 bytes, from byte 36 on: ff ff ff ff 01
                +70 bytes, from byte 36 on: ff ff ff ff 02 02 02 02 02 02 02 02 02 02 02 02 ...
            "#]],
        );
        let text = render(b"\xffk", side(None), side(Some(b"\0")));
        expect![[r#"
            --- \xffk then (does not exist)
            +++ \xffk then
            +1 byte: 00
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn leases_empty_values_and_equal_ones_are_named() {
        let before = Side {
            lease: 0x5f,
            ..side(Some(b"x"))
        };
        let text =
            render(b"k", before, side(Some(b"x"))) + &render(b"k", side(Some(b"")), side(None));
        expect![[r#"
            --- k then
            +++ k then
            lease 5f before, - after
            the value is the same
            --- k then (empty)
            +++ k then (does not exist)
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn deep_json_is_not_blown_up() {
        let deep = format!(
            "{}{}1{}",
            "[".repeat(120),
            "1,".repeat(500_000),
            "]".repeat(120)
        );
        assert_eq!(lay_out(&deep), None);
    }

    proptest! {
        #[test]
        fn a_layout_has_the_tokens_of_the_json_and_no_others(
            texts in prop::collection::vec("[a\\\\\"{}:,\\[\\] \n]{0,8}", 0..6),
            numbers in prop::collection::vec(any::<f64>(), 0..4),
        ) {
            let value = serde_json::json!({"t": texts, "n": numbers, "": {"e": {}, "l": [[]]}});
            let out = lay_out(&value.to_string());
            prop_assert_eq!(out.as_ref(), Some(&format!("{value:#}\n")));
            // And again from what is laid out already.
            prop_assert_eq!(lay_out(&format!("{value:#}")), out);
        }

        #[test]
        fn values_that_differ_are_told_apart(
            old in "[ab\n\r\u{0}]{0,12}", new in "[ab\n\r\u{0}]{0,12}",
        ) {
            prop_assume!(old != new);
            let text = render(b"k", side(Some(old.as_bytes())), side(Some(new.as_bytes())));
            let changed = |line: &str| {
                (line.starts_with('-') && !line.starts_with("---"))
                    || (line.starts_with('+') && !line.starts_with("+++"))
            };
            prop_assert!(text.lines().any(changed), "{}", text);
        }
    }
}
