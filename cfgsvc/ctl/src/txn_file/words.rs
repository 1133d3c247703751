//! A line of a transaction file as words: bare ones end at a blank, quoted ones hold any bytes.

use super::FileError;

/// A word and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) bytes: Vec<u8>,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Word {
    /// For messages and keywords.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(super) fn error(&self, what: impl Into<String>) -> FileError {
        FileError {
            line: self.line,
            column: self.column,
            what: what.into(),
        }
    }
}

/// Splits a line; `#` at the beginning of a word begins a comment.
pub(super) fn split(line: usize, text: &str) -> Result<Vec<Word>, FileError> {
    let mut words = Vec::new();
    let mut rest = text.chars().enumerate().peekable();
    while let Some((index, sign)) = rest.peek().copied() {
        if sign.is_whitespace() {
            rest.next();
            continue;
        }
        if sign == '#' {
            break;
        }
        let column = index + 1;
        let mut bytes = Vec::new();
        if sign == '"' {
            rest.next();
            quoted(line, column, &mut rest, &mut bytes)?;
        } else {
            while let Some((_, sign)) = rest.next_if(|(_, sign)| !sign.is_whitespace()) {
                push(sign, &mut bytes);
            }
        }
        words.push(Word {
            bytes,
            line,
            column,
        });
    }
    Ok(words)
}

fn push(sign: char, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(sign.encode_utf8(&mut [0; 4]).as_bytes());
}

/// The rest of a quoted word that begins at `column`.
fn quoted(
    line: usize,
    column: usize,
    rest: &mut impl Iterator<Item = (usize, char)>,
    bytes: &mut Vec<u8>,
) -> Result<(), FileError> {
    let open = || FileError {
        line,
        column,
        what: "the quote is not closed on this line".into(),
    };
    loop {
        match rest.next().ok_or_else(open)? {
            (_, '"') => return Ok(()),
            (at, '\\') => {
                let (_, sign) = rest.next().ok_or_else(open)?;
                let bad = |sign: String| FileError {
                    line,
                    column: at + 1,
                    what: format!(
                        "`\\{sign}` is no escape: use \\n \\t \\r \\0 \\\\ \\\" or \\xNN"
                    ),
                };
                bytes.push(match sign {
                    'n' => b'\n',
                    't' => b'\t',
                    'r' => b'\r',
                    '0' => 0,
                    '\\' => b'\\',
                    '"' => b'"',
                    'x' => {
                        let (_, high) = rest.next().ok_or_else(open)?;
                        let (_, low) = rest.next().ok_or_else(open)?;
                        let digits = format!("{high}{low}");
                        // The parser of numbers accepts a sign, this grammar does not.
                        let hex = digits.chars().all(|digit| digit.is_ascii_hexdigit());
                        match u8::from_str_radix(&digits, 16) {
                            Ok(byte) if hex => byte,
                            Ok(_) | Err(_) => return Err(bad(format!("x{digits}"))),
                        }
                    }
                    other => return Err(bad(other.to_string())),
                });
            }
            (_, sign) => push(sign, bytes),
        }
    }
}
