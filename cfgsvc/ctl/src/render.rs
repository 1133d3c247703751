//! Data as text: tables for people, JSON for programs. Pure.
//!
//! Bytes that are not UTF-8, and control characters, are escaped in tables (`\x00`); JSON carries
//! such bytes as base64 and says so in `encoding` (for a key: `key_encoding`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cfgsvc_client::{Event, EventKind, KeyValue, show_key};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Widest column, in characters: a longer cell moves what follows it in its row only, instead of
/// filling every other row with blanks.
const WIDTH_MAX: usize = 120;

/// Columns, each as wide as its widest cell, two spaces apart.
///
/// A table of any length is rendered in parts ([`Table::take`]): a column of a later part is at
/// least as wide as before, so that only a longer cell than any before it moves what follows it.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Table {
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned).to_vec()],
            widths: vec![0; N],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// The text of all rows, with a newline after each.
    pub(crate) fn render(mut self) -> String {
        self.take()
    }

    /// The text of the rows so far, with a newline after each; they are not kept.
    pub(crate) fn take(&mut self) -> String {
        let rows = std::mem::take(&mut self.rows);
        for row in &rows {
            for (cell, width) in row.iter().zip(&mut self.widths) {
                let columns = cell.chars().take(WIDTH_MAX).count();
                *width = (*width).max(columns);
            }
        }
        let mut text = String::new();
        for row in &rows {
            let last = row.iter().rposition(|cell| !cell.is_empty()).unwrap_or(0);
            for (index, (cell, width)) in row.iter().zip(&self.widths).enumerate() {
                text.push_str(cell);
                if index >= last {
                    break;
                }
                let columns = cell.chars().take(*width).count();
                text.extend(std::iter::repeat_n(' ', width - columns + 2));
            }
            text.push('\n');
        }
        text
    }
}

/// Bytes for a table.
pub(crate) fn cell(bytes: &[u8]) -> String {
    show_key(bytes)
}

/// A lease for a table: hexadecimal, nothing for none.
pub(crate) fn lease_cell(lease: i64) -> String {
    match lease {
        0 => "-".to_owned(),
        lease => format!("{lease:x}"),
    }
}

/// JSON with a newline, indented.
pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// An object with one list that is printed item by item: what [`pretty`] makes of the whole, when
/// the fields before the list stand before it in the alphabet, and those after it behind.
#[derive(Debug, Default)]
pub(crate) struct JsonList {
    some: bool,
}

impl JsonList {
    /// The text up to the first item.
    pub(crate) fn begin(before: &[(&str, Value)], list: &str) -> String {
        let mut text = String::from("{\n");
        for (name, value) in before {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {}: {value},", Value::from(*name));
        }
        let _ = write!(text, "  {}: [", Value::from(list));
        text
    }

    /// The text of an item.
    pub(crate) fn item(&mut self, item: &Value) -> String {
        let comma = if self.some { "," } else { "" };
        self.some = true;
        // A newline within a text is escaped: all that are here are between tokens.
        let item = format!("{item:#}").replace('\n', "\n    ");
        format!("{comma}\n    {item}")
    }

    /// The text behind the last item.
    pub(crate) fn end(&self, after: &[(&str, Value)]) -> String {
        let mut text = String::from(if self.some { "\n  ]" } else { "]" });
        for (name, value) in after {
            let _ = write!(text, ",\n  {}: {value}", Value::from(*name));
        }
        text.push_str("\n}\n");
        text
    }
}

/// Bytes as a word of a command line, for hints that are copied into a shell.
pub(crate) fn shell_word(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return show_key(bytes);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
        Ok(_) | Err(_) => {
            let escaped: Vec<String> = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("$'{}'", escaped.concat())
        }
    }
}

fn insert_bytes(map: &mut Map<String, Value>, name: &str, encoding: &str, bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        map.insert(name.into(), text.into());
    } else {
        map.insert(name.into(), STANDARD.encode(bytes).into());
        map.insert(encoding.into(), "base64".into());
    }
}

/// A key alone.
pub(crate) fn json_key(key: &[u8]) -> Map<String, Value> {
    let mut map = Map::new();
    insert_bytes(&mut map, "key", "key_encoding", key);
    map
}

/// A version of a key.
pub(crate) fn json_kv(kv: &KeyValue, with_value: bool) -> Value {
    let mut map = json_key(&kv.key);
    if with_value {
        insert_bytes(&mut map, "value", "encoding", &kv.value);
    }
    map.insert("create_revision".into(), kv.create_revision.into());
    map.insert("mod_revision".into(), kv.mod_revision.into());
    map.insert("version".into(), kv.version.into());
    if kv.lease != 0 {
        map.insert("lease".into(), format!("{:x}", kv.lease).into());
    }
    Value::Object(map)
}

/// A value that is to be written.
pub(crate) fn json_value(value: &[u8], lease: i64) -> Value {
    let mut map = Map::new();
    insert_bytes(&mut map, "value", "encoding", value);
    if lease != 0 {
        map.insert("lease".into(), format!("{lease:x}").into());
    }
    Value::Object(map)
}

/// A change.
pub(crate) fn json_event(event: &Event, revision: i64) -> Value {
    match event.kind {
        EventKind::Put => json!({
            "event": "put", "revision": revision, "kv": json_kv(&event.kv, true),
        }),
        EventKind::Delete => json!({
            "event": "delete", "revision": revision, "kv": json_key(&event.kv.key),
        }),
    }
}

/// A number of things: `1 key`, `2 keys`.
pub(crate) fn count(number: impl Into<i128>, thing: &str) -> String {
    match number.into() {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A moment for people: UTC, milliseconds since 1970.
pub(crate) fn time(at_ms: i64) -> String {
    let since = std::time::Duration::from_millis(u64::try_from(at_ms).unwrap_or(0));
    let at = std::time::UNIX_EPOCH.checked_add(since);
    // The library refuses years after 9999, which no honest clock shows.
    match at.filter(|_| since.as_secs() < 253_402_300_800) {
        Some(at) => humantime::format_rfc3339_millis(at).to_string(),
        None => format!("{at_ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn columns_are_aligned_and_rows_have_no_trailing_space() {
        let mut table = Table::new(["KEY", "VALUE"]);
        table.row(["größe".into(), "1".into()]);
        table.row(["a".into(), String::new()]);
        expect![[r"
            KEY    VALUE
            größe  1
            a
        "]]
        .assert_eq(&table.render());
    }

    #[test]
    fn a_table_in_parts_keeps_its_columns_and_holds_no_row_twice() {
        let mut table = Table::new(["KEY", "VALUE"]);
        table.row(["abc".into(), "1".into()]);
        let first = table.take();
        table.row(["a".into(), "2".into()]);
        table.row(["abcde".into(), "3".into()]);
        let text = format!("{first}--\n{}{}", table.take(), table.take());
        expect![[r"
            KEY  VALUE
            abc  1
            --
            a      2
            abcde  3
        "]]
        .assert_eq(&text);
    }

    #[test]
    fn a_cell_of_any_size_is_printed_whole_and_does_not_widen_the_other_rows() {
        let long = "x".repeat(100_000);
        let mut table = Table::new(["KEY", "VALUE"]);
        table.row([long.clone(), "1".into()]);
        table.row(["a".into(), long.clone()]);
        let text = table.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], format!("{long}  1"));
        assert_eq!(lines[2], format!("a{}{long}", " ".repeat(WIDTH_MAX + 1)));
    }

    #[test]
    fn a_list_in_parts_is_what_the_whole_would_be() {
        for items in [
            vec![],
            vec![json!({"k": "a\nb", "n": {"x": []}})],
            vec![json!(1), json!("2")],
        ] {
            let mut list = JsonList::default();
            let mut text = JsonList::begin(&[("a", json!(7))], "list");
            for item in &items {
                text.push_str(&list.item(item));
            }
            text.push_str(&list.end(&[("more", json!(false)), ("revision", json!(3))]));
            let whole = json!({"a": 7, "list": items, "more": false, "revision": 3});
            assert_eq!(text, pretty(&whole));
        }
    }

    #[test]
    fn words_of_hints_survive_a_shell() {
        for (bytes, word) in [
            (&b"app/flags"[..], "app/flags"),
            (b"", "''"),
            (b"two words", "'two words'"),
            (b"it's $HOME", "'it'\\''s $HOME'"),
            ("gr\u{fc}n".as_bytes(), "'gr\u{fc}n'"),
            (b"a\n\xff", "$'\\x61\\x0a\\xff'"),
        ] {
            assert_eq!(shell_word(bytes), word);
            let script = format!("printf %s {word}");
            let said = std::process::Command::new("bash")
                .args(["-c", &script])
                .output();
            assert_eq!(said.expect("bash runs").stdout, bytes);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_escaped_in_tables_and_base64_in_json() {
        assert_eq!(cell(b"a\xff\n"), "a\\xff\\n");
        assert_eq!(cell("grün".as_bytes()), "grün");
        let kv = KeyValue {
            key: "k".into(),
            value: vec![0xff, 0xfe].into(),
            lease: 255,
            ..KeyValue::default()
        };
        let text = json_kv(&kv, true).to_string();
        expect![[
            r#"{"create_revision":0,"encoding":"base64","key":"k","lease":"ff","mod_revision":0,"value":"//4=","version":0}"#
        ]]
        .assert_eq(&text);
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!(
            [size(1023), size(1024), size(5 << 30)],
            ["1023 B", "1.0 KiB", "5.0 GiB"]
        );
        assert_eq!(time(1_600_000_000_123), "2020-09-13T12:26:40.123Z");
        assert_eq!(time(i64::MAX), "9223372036854775807 ms");
    }
}
