//! A transaction in a file: a text grammar for people and JSON for programs. Pure.
//!
//! Both become the same [`Txn`]. Every error names line and column.

mod json;
mod text;
mod words;

use cfgsvc_client::Txn;
use std::fmt;

/// Where a file is wrong, and how. Lines and columns count from 1; columns in characters.
#[derive(Debug, PartialEq, Eq)]
pub struct FileError {
    /// Its line.
    pub line: usize,
    /// Its column.
    pub column: usize,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.what
        )
    }
}

impl std::error::Error for FileError {}

/// Reads a transaction; the first sign that is not blank tells which form it is.
pub fn parse(file: &str) -> Result<Txn, FileError> {
    if file.trim_start().starts_with('{') {
        json::parse(file)
    } else {
        text::parse(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    fn check(file: &str, expected: Expect) {
        let text = match parse(file) {
            Ok(_) => "accepted\n".to_owned(),
            Err(error) => format!("{error}\n"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn text_and_json_mean_the_same() {
        let text = parse(
            "# a change\nif\n  mod k = 41\n  value \"a b\" != \"x\\ty\\xff\"\n  missing z\n\
             then\n put k v lease ff\n del old prefix\nelse\n get k\n get p prefix\n",
        );
        let json = parse(
            r#"{"if": [{"key": "k", "mod": 41},
                       {"key": "a b", "is": "!=", "value": "eAl5/w==", "encoding": "base64"},
                       {"key": "z", "create": 0}],
                "then": [{"put": {"key": "k", "value": "v", "lease": "ff"}},
                         {"del": {"key": "old", "prefix": true}}],
                "else": [{"get": {"key": "k"}}, {"get": {"key": "p", "prefix": true}}]}"#,
        );
        let (text, json) = (text.expect("valid text"), json.expect("valid JSON"));
        assert_eq!(format!("{text:?}"), format!("{json:?}"));
    }

    #[test]
    fn text_errors_name_line_and_column() {
        check(
            "put a 1",
            expect![["line 1, column 1: `put` stands before `if`, `then` or `else`\n"]],
        );
        check(
            "then\n  set a 1",
            expect![["line 2, column 3: `set` is no operation: use get, put or del\n"]],
        );
        check(
            "then\n  put a",
            expect![["line 2, column 8: the value is missing\n"]],
        );
        check(
            "then\n put a 1 2",
            expect![["line 2, column 10: `2` is too much: only `lease ID` may follow\n"]],
        );
        check(
            "if\n mod a = x",
            expect![["line 2, column 10: `x` is no revision\n"]],
        );
        check(
            "if\n mod a is 1",
            expect![["line 2, column 8: `is` is no comparison: use = != < >\n"]],
        );
        check(
            "if\n size a = 1",
            expect![[
                "line 2, column 2: `size` is no condition: use value, mod, version, create, lease, exists or missing\n"
            ]],
        );
        check(
            "then\n put \"a b",
            expect![["line 2, column 6: the quote is not closed on this line\n"]],
        );
        check(
            "then\n put \"a\\q\" 1",
            expect![[
                "line 2, column 8: `\\q` is no escape: use \\n \\t \\r \\0 \\\\ \\\" or \\xNN\n"
            ]],
        );
        check(
            "then\nthen\n",
            expect![["line 2, column 1: `then` comes a second time\n"]],
        );
        check(
            "else\nif\n",
            expect![["line 2, column 1: `if` comes after a later section\n"]],
        );
        check(
            "# nothing\n",
            expect![["line 2, column 1: the file holds no transaction\n"]],
        );
        check(
            "then\n put a 1 lease zz",
            expect![["line 2, column 16: a lease id is a hexadecimal number of at most 63 bits\n"]],
        );
    }

    #[test]
    fn json_errors_name_line_and_column() {
        check(
            "{\n \"then\": [{\"set\": {}}]}",
            expect![[r#"
                line 2, column 16: unknown variant `set`, expected one of `get`, `put`, `del`, `txn`
            "#]],
        );
        check(
            "{\"if\": [\n {\"key\": \"a\"}]}",
            expect![[r#"
                line 2, column 14: a condition needs exactly one of value, mod, version, create and lease
            "#]],
        );
        check(
            "{\"then\": [{\"put\": {\"key\": \"a\", \"value\": \"!\", \"encoding\": \"base64\"}}]}",
            expect![["line 1, column 66: the value is not base64: Invalid symbol 33, offset 0.\n"]],
        );
        check(
            "{\"then\": [",
            expect![["line 1, column 10: EOF while parsing a list\n"]],
        );
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic_and_errors_lie_inside_or_just_behind_the_file(
            file in "((if|then|else|put|get|mod|value|[a-z=\"\\\\# ]{0,6})[ \n]){0,12}",
        ) {
            if let Err(error) = parse(&file) {
                let lines: Vec<&str> = file.split('\n').collect();
                prop_assert!((1..=lines.len()).contains(&error.line), "{}", error);
                let width = lines[error.line - 1].chars().count();
                prop_assert!((1..=width + 1).contains(&error.column), "{}", error);
            }
        }

        #[test]
        fn any_bytes_written_as_a_quoted_word_are_read_back(bytes: Vec<u8>) {
            let escaped: Vec<String> = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            let quoted = escaped.concat();
            let words = words::split(1, &format!(" \"{quoted}\" next")).expect("quoted");
            prop_assert_eq!(&words[0].bytes[..], &bytes[..]);
            prop_assert_eq!(&words[1].bytes[..], b"next");
        }
    }
}
