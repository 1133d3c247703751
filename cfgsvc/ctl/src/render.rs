//! Data as text: tables for people, JSON for programs. Pure.
//!
//! Bytes that are not UTF-8, and control characters, are escaped in tables (`\x00`); JSON carries
//! such bytes as base64 and says so in `encoding` (for a key: `key_encoding`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cfgsvc_client::{Event, EventKind, KeyValue, show_key};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Columns, each as wide as its widest cell, two spaces apart.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned).to_vec()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// The text, with a newline after each row.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a string does not fail.
                let _ = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
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
