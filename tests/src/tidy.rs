//! Rules of the house that no other tool checks, as functions from a file's text to complaints.
//!
//! - a Rust file opens with `//!`, and has at most [`FILE_LINES_MAX`] lines;
//! - a function has at most [`FUNCTION_LINES_MAX`] lines, from `fn` to its closing brace;
//! - a line of Rust or of a script has at most [`COLUMNS_MAX`] columns;
//! - nothing is left marked as to be done;
//! - the pure cores name no clock, thread, file, socket or hash order.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Lines in a file.
pub const FILE_LINES_MAX: usize = 800;
/// Lines in a function.
pub const FUNCTION_LINES_MAX: usize = 70;
/// Characters in a line.
pub const COLUMNS_MAX: usize = 100;

/// What a pure core must not name, and what it uses in its place.
const BANNED_IN_CORES: &[(&str, &str)] = &[
    ("std::time::Instant", "take the time as an argument"),
    ("Instant::now", "take the time as an argument"),
    ("SystemTime", "take the time as an argument"),
    ("std::fs", "take a store interface as an argument"),
    ("std::net", "leave sockets to the shell around the core"),
    ("std::thread", "return an effect and let the shell run it"),
    ("std::process", "return an effect and let the shell run it"),
    (
        "HashMap",
        "use BTreeMap: its order is the same on every replica",
    ),
    (
        "HashSet",
        "use BTreeSet: its order is the same on every replica",
    ),
];

/// Paths of the files that git tracks, or would track, below `root`.
pub fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .context("run git ls-files")?;
    ensure!(
        listed.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let names = String::from_utf8(listed.stdout).context("a file name is not UTF-8")?;
    let mut files: Vec<_> = names
        .split_terminator('\0')
        // A file that was removed and not yet staged is still in the index.
        .filter(|name| root.join(name).is_file())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// Everything that is wrong with one file, `FILE:LINE: what` each.
pub fn check_file(root: &Path, path: &str) -> Result<Vec<String>> {
    let bytes = fs::read(root.join(path)).with_context(|| format!("read {path}"))?;
    Ok(String::from_utf8(bytes).map_or_else(|_| Vec::new(), |text| check_text(path, &text)))
}

/// The same for a text that is said to be at `path`.
pub fn check_text(path: &str, text: &str) -> Vec<String> {
    if is_generated(path, text) {
        return Vec::new();
    }
    let mut complaints = Complaints::new();
    let is_rust = Path::new(path)
        .extension()
        .is_some_and(|found| found == "rs");
    let first_test_line = first_test_line(path, text);
    if is_rust || text.starts_with("#!") {
        check_columns(text, &mut complaints);
    }
    if is_rust {
        let code = code_of(text);
        check_functions(&code, &mut complaints);
        // A test holds expected output, which is as wide as it is, and tells a story to its end.
        complaints.retain(|(line, _)| *line < first_test_line);
        check_header(text, &mut complaints);
        if path.contains("/core/src/") {
            check_core(&code, &mut complaints);
        }
    }
    if !path.ends_with("tidy.rs") {
        check_marks(text, &mut complaints);
    }
    complaints.sort();
    complaints
        .into_iter()
        .map(|(line, what)| format!("{path}:{line}: {what}"))
        .collect()
}

/// Where the tests of a file begin.
fn first_test_line(path: &str, text: &str) -> usize {
    if path.contains("/tests/") || path.ends_with("tests.rs") {
        return 1;
    }
    let marked = numbered(text).find(|(_, line)| line.trim() == "#[cfg(test)]");
    marked.map_or(usize::MAX, |(number, _)| number)
}

type Complaints = Vec<(usize, String)>;

fn is_generated(path: &str, text: &str) -> bool {
    path.contains("/generated/")
        || path.ends_with("Cargo.lock")
        || text
            .lines()
            .next()
            .is_some_and(|line| line.contains("@generated"))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

fn check_columns(text: &str, complaints: &mut Complaints) {
    for (number, line) in numbered(text) {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            complaints.push((number, format!("{columns} columns, at most {COLUMNS_MAX}")));
        }
    }
}

fn check_marks(text: &str, complaints: &mut Complaints) {
    for (number, line) in numbered(text) {
        for mark in ["FIXME", "TODO"] {
            if line.contains(mark) {
                complaints.push((number, format!("{mark}: do it now, or open an issue")));
            }
        }
    }
}

fn check_header(text: &str, complaints: &mut Complaints) {
    if !text.starts_with("//!") {
        let what = "does not open with `//!`: say what is here, why so, and what always holds";
        complaints.push((1, what.to_owned()));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        complaints.push((
            lines,
            format!("{lines} lines, at most {FILE_LINES_MAX}: split it"),
        ));
    }
}

fn check_core(code: &str, complaints: &mut Complaints) {
    for (number, line) in numbered(code) {
        for (banned, instead) in BANNED_IN_CORES {
            if line.contains(banned) {
                complaints.push((number, format!("{banned} in a pure core: {instead}")));
            }
        }
    }
}

/// Counts braces from each `fn` to the one that closes it.
fn check_functions(code: &str, complaints: &mut Complaints) {
    let lines: Vec<&str> = code.lines().collect();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let mut depth = 0_usize;
        let body = lines[start..].iter().position(|line| {
            let mut closed = false;
            for symbol in line.chars() {
                match symbol {
                    '{' => depth += 1,
                    '}' => {
                        depth = depth.saturating_sub(1);
                        closed |= depth == 0;
                    }
                    // A declaration in a trait, or a pointer type, has no body.
                    ';' => closed |= depth == 0,
                    _ => {}
                }
            }
            closed
        });
        let length = body.map_or(lines.len() - start, |last| last + 1);
        if length > FUNCTION_LINES_MAX {
            complaints.push((
                start + 1,
                format!("fn {name} has {length} lines, at most {FUNCTION_LINES_MAX}: split it"),
            ));
        }
    }
}

/// The name of the function whose definition begins on this line.
fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace().skip_while(|word| {
        matches!(*word, "async" | "const" | "default" | "extern" | "unsafe")
            || word.starts_with("pub")
    });
    if words.next() != Some("fn") {
        return None;
    }
    words.next()?.split(['(', '<']).next()
}

/// The text with comments and the insides of literals blanked, line by line as it was.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = literal_or_comment_bytes(rest, code.chars().next_back());
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().filter(|symbol| *symbol == '\n'));
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// Bytes of the literal or comment that `rest` begins with, 0 when it begins with neither.
fn literal_or_comment_bytes(rest: &str, before: Option<char>) -> usize {
    let until = |end: &str, from: usize| {
        rest[from..]
            .find(end)
            .map_or(rest.len(), |at| from + at + end.len())
    };
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until("*/", 2);
    }
    let inside_name = before.is_some_and(|symbol| symbol.is_alphanumeric() || symbol == '_');
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'));
    if let (false, Some(raw)) = (inside_name, raw) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let prefix = rest.len() - raw.len() + hashes + 1;
            return until(&format!("\"{}", "#".repeat(hashes)), prefix);
        }
    }
    if rest.starts_with('"') {
        return quoted_bytes(rest, '"');
    }
    // A lifetime has no closing quote two symbols on; a character literal has, or is escaped.
    let mut symbols = rest.chars();
    match (symbols.next(), symbols.next(), symbols.next()) {
        (Some('\''), Some('\\'), _) | (Some('\''), Some(_), Some('\'')) => quoted_bytes(rest, '\''),
        _ => 0,
    }
}

/// Bytes of the quoted literal that `rest` begins with, with both quotes.
fn quoted_bytes(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, symbol) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if symbol == '\\' {
            escaped = true;
        } else if symbol == quote {
            return at + 1;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_columns_and_marks_are_checked() {
        let text = format!("use x;\n// {}\n// {}DO: later\n", "y".repeat(98), "TO");
        assert_eq!(
            check_text("a/src/b.rs", &text),
            [
                "a/src/b.rs:1: does not open with `//!`: say what is here, why so, and what always \
                 holds",
                "a/src/b.rs:2: 101 columns, at most 100",
                "a/src/b.rs:3: TODO: do it now, or open an issue",
            ]
        );
        assert_eq!(check_text("a/generated/b.rs", &text), [""; 0]);
        assert_eq!(check_text("data.csv", &"z".repeat(200)), [""; 0]);
        assert_eq!(
            check_text("script", &format!("#!/bin/sh\n{}", "z".repeat(101))).len(),
            1
        );
    }

    #[test]
    fn function_of_71_lines_is_refused_and_of_70_is_not() {
        let function = |lines: usize| {
            let body = "    let _ = ('{', \"}\", r#\"\"}\"#); // }\n".repeat(lines - 2);
            format!("//! x\n\npub(crate) async fn long<'a>(a: &'a str) {{\n{body}}}\nfn b() {{}}\n")
        };
        assert_eq!(check_text("a.rs", &function(70)), [""; 0]);
        assert_eq!(
            check_text("a.rs", &function(71)),
            ["a.rs:3: fn long has 71 lines, at most 70: split it"]
        );
    }

    #[test]
    fn tests_are_measured_by_neither_rule() {
        let long = format!("//! x\n#[cfg(test)]\n// {}\n", "x".repeat(COLUMNS_MAX));
        assert_eq!(check_text("a.rs", &long), [""; 0]);
        assert_eq!(check_text("a/tests/b.rs", &long), [""; 0]);
    }

    #[test]
    fn declarations_without_a_body_are_one_line_long() {
        let text = format!(
            "//! x\ntrait T {{\n    fn a(\n        &self,\n    );\n{}}}\n",
            "\n".repeat(90)
        );
        assert_eq!(check_text("a.rs", &text), [""; 0]);
    }

    #[test]
    fn cores_must_not_name_clocks_nor_hash_order_but_may_speak_of_them() {
        let text = "//! no HashMap\nuse std::collections::HashMap;\nfn f() { Instant::now(); }\n";
        assert_eq!(
            check_text("cluster/core/src/a.rs", text),
            [
                "cluster/core/src/a.rs:2: HashMap in a pure core: use BTreeMap: its order is the \
                 same on every replica",
                "cluster/core/src/a.rs:3: Instant::now in a pure core: take the time as an \
                 argument",
            ]
        );
        assert_eq!(check_text("cluster/src/a.rs", text), [""; 0]);
    }

    #[test]
    fn file_of_801_lines_is_refused() {
        let text = format!("//! x\n{}", "//\n".repeat(800));
        assert_eq!(
            check_text("a.rs", &text),
            ["a.rs:801: 801 lines, at most 800: split it"]
        );
    }
}
