//! The words of a master file (RFC 1035 5.1): one logical line at a time, with its parentheses,
//! quotes and comments taken away, and the escapes left as they are.

/// One word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    /// Without the quotes, escapes as they are written.
    pub(crate) text: &'a [u8],
    /// Whether quotes were around it: then it is a character string and never a keyword.
    pub(crate) quoted: bool,
}

impl<'a> Token<'a> {
    /// The word as text, when it is unquoted ASCII: what every keyword and number is.
    pub(crate) fn word(&self) -> Option<&'a str> {
        let plain = !self.quoted && self.text.is_ascii();
        plain.then(|| std::str::from_utf8(self.text).ok()).flatten()
    }

    /// How a message shows the word.
    pub(crate) fn shown(&self) -> String {
        shown(self.text)
    }
}

/// Bytes of a file as a message shows them: bounded, and nothing that a terminal obeys.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 80;
    let mut text = String::new();
    for &byte in bytes.iter().take(SHOWN_MAX) {
        match byte {
            0x20..=0x7e => text.push(char::from(byte)),
            _ => crate::name::push_decimal_escape(&mut text, byte),
        }
    }
    if bytes.len() > SHOWN_MAX {
        text.push_str("...");
    }
    text
}

/// What stops the reading of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineError {
    /// A quote is not closed on its line.
    OpenQuote,
    /// A parenthesis is not closed before the end.
    OpenParenthesis,
    /// A parenthesis is closed that was not opened.
    ClosedParenthesis,
}

/// One logical line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// The number of the line that it begins on, from 1.
    pub(crate) number: u32,
    /// Whether it begins with a blank: the record belongs to the name before.
    pub(crate) blank_start: bool,
    /// The words.
    pub(crate) tokens: Vec<Token<'a>>,
    /// What is wrong with it; the words are those before.
    pub(crate) error: Option<LineError>,
}

/// Reads lines from the whole text.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    number: u32,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        // A byte order mark is how some editors begin a file.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Self {
            text,
            at: 0,
            number: 1,
        }
    }

    /// The next line that has words or an error; none at the end. `tokens` is what the last line
    /// had: its memory is used again.
    pub(crate) fn next_line(&mut self, mut tokens: Vec<Token<'a>>) -> Option<Line<'a>> {
        tokens.clear();
        while self.at < self.text.len() {
            let mut line = Line {
                number: self.number,
                blank_start: matches!(self.text[self.at], b' ' | b'\t'),
                tokens,
                error: None,
            };
            line.error = self.read(&mut line.tokens).err();
            if line.error.is_some() {
                self.skip_line();
            }
            if line.error.is_some() || !line.tokens.is_empty() {
                return Some(line);
            }
            tokens = line.tokens;
        }
        None
    }

    fn read(&mut self, tokens: &mut Vec<Token<'a>>) -> Result<(), LineError> {
        let mut depth = 0_u32;
        loop {
            let Some(&byte) = self.text.get(self.at) else {
                return if depth == 0 {
                    Ok(())
                } else {
                    Err(LineError::OpenParenthesis)
                };
            };
            match byte {
                b'\n' => {
                    self.at += 1;
                    self.number += 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                b' ' | b'\t' | b'\r' | b'\x0c' => self.at += 1,
                b';' => self.at = self.end_of_line(),
                b'(' => {
                    depth += 1;
                    self.at += 1;
                }
                b')' => {
                    depth = depth.checked_sub(1).ok_or(LineError::ClosedParenthesis)?;
                    self.at += 1;
                }
                b'"' => tokens.push(self.quoted()?),
                _ => tokens.push(self.unquoted()),
            }
        }
    }

    fn quoted(&mut self) -> Result<Token<'a>, LineError> {
        let start = self.at + 1;
        let mut end = start;
        loop {
            match self.text.get(end) {
                None | Some(b'\n') => return Err(LineError::OpenQuote),
                Some(b'"') => break,
                // A line's end is never escaped: a quote that is open there is an error.
                Some(b'\\') if self.text.get(end + 1) != Some(&b'\n') => end += 2,
                Some(_) => end += 1,
            }
        }
        self.at = end + 1;
        Ok(Token {
            text: &self.text[start..end],
            quoted: true,
        })
    }

    fn unquoted(&mut self) -> Token<'a> {
        let start = self.at;
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b'\x0c' | b';' | b'(' | b')' | b'"' => break,
                b'\\' if !matches!(self.text.get(self.at + 1), None | Some(b'\n')) => self.at += 2,
                _ => self.at += 1,
            }
        }
        Token {
            text: &self.text[start..self.at],
            quoted: false,
        }
    }

    fn end_of_line(&self) -> usize {
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n');
        length.map_or(self.text.len(), |length| self.at + length)
    }

    fn skip_line(&mut self) {
        self.at = self.end_of_line();
        if self.at < self.text.len() {
            self.at += 1;
            self.number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        let mut lexer = Lexer::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some(line) = lexer.next_line(Vec::new()) {
            let words: Vec<String> = line
                .tokens
                .iter()
                .map(|token| {
                    let quote = if token.quoted { "\"" } else { "" };
                    format!("{quote}{}{quote}", token.shown())
                })
                .collect();
            let blank = if line.blank_start { "_ " } else { "" };
            let error = line.error.map_or(String::new(), |e| format!(" {e:?}"));
            found.push(format!(
                "{}: {blank}{}{error}\n",
                line.number,
                words.join(" ")
            ));
        }
        expected.assert_eq(&found.concat());
    }

    #[test]
    fn parentheses_quotes_comments_and_blank_lines() {
        check(
            "; comment\n\na IN SOA b c ( 1 ; serial\n  2\n) ; end\n  TXT \"x ; ( y\" z\\ w\n\tA\r\n",
            expect![[r#"
                3: a IN SOA b c 1 2
                6: _ TXT "x ; ( y" z\ w
                7: _ A
            "#]],
        );
    }

    #[test]
    fn what_is_left_open_is_an_error_of_its_line_and_the_next_goes_on() {
        check(
            "a TXT \"x\nb A ) c\nd \"\\\" e\\\"\nf\\\n( g\n",
            expect![[r#"
                1: a TXT OpenQuote
                2: b A ClosedParenthesis
                3: d OpenQuote
                4: f\
                5: g OpenParenthesis
            "#]],
        );
    }
}
