//! Master files (RFC 1035 5): from text to a zone.
//!
//! ```text
//! text ─► lines of words (token) ─► $ORIGIN, $TTL │ record ─► zone ─► check ─► loaded
//!                                         └──────── faults, with line, record, rule, hint
//! ```
//!
//! One file says the whole zone: `$INCLUDE` would read files that the service does not have, and
//! `$GENERATE` is an extension of one server. Reading goes on after a fault, so that one try tells
//! all of them.

use std::collections::BTreeMap;

use crate::check::check;
use crate::codec;
use crate::fault::{FAULTS_COUNTED_MAX, Fault, Report};
use crate::layout;
use crate::name::Name;
use crate::rdata::Rdata;
use crate::rtype::Rtype;
use crate::token::{Lexer, Line, LineError, Token, shown};
use crate::zone::{InsertError, Soa, TTL_MAX, Zone};

/// Bytes of a file: a record of a line of 32 bytes, as many as there may be.
pub const FILE_BYTES_MAX: usize = 32 * RECORDS_MAX;
/// Records of a file: ten times the largest zone that the service is made for.
pub const RECORDS_MAX: usize = 1_000_000;

/// A master file.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// How messages call it.
    pub file: &'a str,
    /// What it holds.
    pub text: &'a [u8],
    /// The name of the zone, which is also the first origin.
    pub origin: &'a Name,
}

/// A zone that may be served, and what to be warned of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The zone.
    pub zone: Zone,
    /// What was normalised, or is likely not meant.
    pub warnings: Report,
}

/// Reads a file and checks the zone; or says everything that is wrong with it.
pub fn load(source: &Source<'_>) -> Result<Loaded, Report> {
    let Loaded { zone, mut warnings } = parse(source)?;
    let mut found = check(&zone);
    if !found.faults.is_empty() || !found.warnings.is_empty() {
        // Lines are looked for only when somebody will read them.
        let lines = lines(source);
        let line_of = |about: &(Name, Rtype)| lines.get(about).copied();
        found.faults.locate(line_of);
        warnings.append(found.warnings);
        warnings.locate(line_of);
    }
    if found.faults.is_empty() {
        Ok(Loaded { zone, warnings })
    } else {
        let mut refused = Report::new(source.file);
        refused.append(found.faults);
        Err(refused)
    }
}

/// Reads a file. Whether the records are a zone that may be served is not looked at.
pub fn parse(source: &Source<'_>) -> Result<Loaded, Report> {
    let mut zone = Zone::new(source.origin.clone());
    let mut parser = Parser::new(source);
    parser.read_all(|faults, record| add(&mut zone, faults, record));
    if parser.faults.refused.is_empty() {
        let warnings = parser.faults.warnings;
        Ok(Loaded { zone, warnings })
    } else {
        Err(parser.faults.refused)
    }
}

/// The first line of each name and type.
fn lines(source: &Source<'_>) -> BTreeMap<(Name, Rtype), u32> {
    let mut lines = BTreeMap::new();
    Parser::new(source).read_all(|_, record| {
        let about = (record.name.clone(), record.rtype);
        lines.entry(about).or_insert(record.line.number);
    });
    lines
}

/// Puts a record into the zone.
fn add(zone: &mut Zone, faults: &mut Faults, record: Record<'_, '_>) {
    let Record {
        name,
        rtype,
        ttl,
        data,
        line,
    } = record;
    let inserted = match zone.insert(name, rtype, ttl, data) {
        Ok(inserted) => inserted,
        Err(error) => {
            let hint = match error {
                InsertError::OutOfZone { .. } => {
                    "write a name below the zone's, or put the record into a file of its own zone"
                }
                InsertError::SetFull => "spread the records over several names",
            };
            faults.refuse(line, error.to_string(), hint);
            return;
        }
    };
    if inserted.duplicate {
        let rule = "the record is there twice and was taken once (RFC 2181 5)";
        faults.warn(line, rule.to_owned(), "remove one of them");
    }
    if let Some(other) = inserted.other_ttl {
        let low = other.min(ttl);
        let rule = format!(
            "its set has records with the TTLs {ttl} and {other}; all have {low} now (RFC 2181 5.2)"
        );
        faults.warn(
            line,
            rule,
            "write one TTL at all records of the name and type",
        );
    }
}

/// A record, and the line that it begins on.
struct Record<'r, 'a> {
    name: &'r Name,
    rtype: Rtype,
    ttl: u32,
    data: Rdata,
    line: &'r Line<'a>,
}

/// What was found on the way.
struct Faults {
    refused: Report,
    warnings: Report,
}

impl Faults {
    fn refuse(&mut self, line: &Line<'_>, rule: String, hint: &str) {
        self.refused.add(fault(line, rule, hint));
    }

    fn warn(&mut self, line: &Line<'_>, rule: String, hint: &str) {
        self.warnings.add(fault(line, rule, hint));
    }
}

fn fault(line: &Line<'_>, rule: String, hint: &str) -> Fault {
    let words: Vec<String> = line.tokens.iter().take(8).map(Token::shown).collect();
    let words = shown(words.join(" ").as_bytes());
    let record = if words.is_empty() {
        "the line".to_owned()
    } else {
        format!("`{words}`")
    };
    Fault {
        line: Some(line.number),
        record,
        rule,
        hint: hint.to_owned(),
        about: None,
    }
}

/// A rule that a line breaks, and the next step.
type Broken = (String, &'static str);

struct Parser<'s, 'a> {
    lexer: Lexer<'a>,
    source: &'s Source<'a>,
    /// The last `$ORIGIN`.
    origin: Name,
    /// The last `$TTL`.
    default_ttl: Option<u32>,
    /// The last TTL that a record had written.
    last_ttl: Option<u32>,
    /// The name of the last record.
    owner: Option<Name>,
    /// The line that is read.
    number: u32,
    /// Records that may still come.
    records_left: usize,
    faults: Faults,
}

impl<'s, 'a> Parser<'s, 'a> {
    fn new(source: &'s Source<'a>) -> Self {
        Self {
            lexer: Lexer::new(source.text),
            source,
            origin: source.origin.clone(),
            default_ttl: None,
            last_ttl: None,
            owner: None,
            number: 0,
            records_left: RECORDS_MAX,
            faults: Faults {
                refused: Report::new(source.file),
                warnings: Report::new(source.file),
            },
        }
    }

    fn read_all(&mut self, mut each: impl FnMut(&mut Faults, Record<'_, 'a>)) {
        if self.source.text.len() > FILE_BYTES_MAX {
            let size = self.source.text.len();
            self.stop(format!(
                "the file has {size} bytes, at most {FILE_BYTES_MAX}"
            ));
            return;
        }
        let mut tokens = Vec::new();
        while let Some(line) = self.lexer.next_line(tokens) {
            match self.line(&line) {
                Ok(None) => {}
                Ok(Some((rtype, ttl, data))) => {
                    let Some(left) = self.records_left.checked_sub(1) else {
                        self.stop(format!("the file has more than {RECORDS_MAX} records"));
                        return;
                    };
                    self.records_left = left;
                    let name = self.owner.as_ref().expect("a record has an owner");
                    let record = Record {
                        name,
                        rtype,
                        ttl,
                        data,
                        line: &line,
                    };
                    each(&mut self.faults, record);
                }
                Err((rule, hint)) => self.faults.refuse(&line, rule, hint),
            }
            if self.faults.refused.more() > FAULTS_COUNTED_MAX {
                return;
            }
            tokens = line.tokens;
        }
    }

    fn stop(&mut self, rule: String) {
        self.faults.refused.add(Fault {
            line: None,
            record: self.source.origin.to_string(),
            rule,
            hint: "delegate a part of the zone, and write that into a file of its own".to_owned(),
            about: None,
        });
    }

    /// A record, or none when the line is a directive.
    fn line(&mut self, line: &Line<'a>) -> Result<Option<(Rtype, u32, Rdata)>, Broken> {
        self.number = line.number;
        if let Some(error) = line.error {
            return Err(open(error));
        }
        let mut tokens = &line.tokens[..];
        if !line.blank_start {
            let first = tokens[0];
            tokens = &tokens[1..];
            if !first.quoted && first.text.starts_with(b"$") {
                self.directive(first, tokens)?;
                return Ok(None);
            }
            self.set_owner(first)?;
        }
        if self.owner.is_none() {
            let rule = "no name is written here, nor before (RFC 1035 5.1)";
            return Err((
                rule.to_owned(),
                "begin the line with the name of the record",
            ));
        }
        self.record(tokens).map(Some)
    }

    fn directive(&mut self, first: Token<'a>, tokens: &[Token<'a>]) -> Result<(), Broken> {
        let name = first.text.to_ascii_uppercase();
        let value = match tokens {
            [value] if !value.quoted => Some(value),
            _ => None,
        };
        match &name[..] {
            b"$ORIGIN" => {
                let hint = "write one name: $ORIGIN example.";
                let wrong = "$ORIGIN has one value, a name (RFC 1035 5.1)";
                let value = value.ok_or((wrong.to_owned(), hint))?;
                let origin = Name::parse(value.text, Some(&self.origin));
                self.origin = origin.map_err(|error| (format!("{wrong}: {error}"), hint))?;
            }
            b"$TTL" => {
                let hint = "write one number: $TTL 3600";
                let wrong = "$TTL has one value, seconds or a time as 1h30m (RFC 2308 4)";
                let seconds = value.and_then(|value| codec::seconds(value.text));
                let seconds = seconds.ok_or((wrong.to_owned(), hint))?;
                self.default_ttl = Some(ttl_in_range(seconds)?);
            }
            b"$INCLUDE" => {
                let rule = "the file must hold the whole zone: $INCLUDE is not read";
                return Err((rule.to_owned(), "write the records of the other file here"));
            }
            b"$GENERATE" => {
                let rule = "$GENERATE is an extension of BIND and is not read";
                let hint = "write the records, as printed by `named-compilezone -o - ZONE FILE`";
                return Err((rule.to_owned(), hint));
            }
            _ => {
                let rule = format!("{} is not a directive (RFC 1035 5.1)", first.shown());
                return Err((
                    rule,
                    "there are $ORIGIN and $TTL; a name with a dollar is \\$name",
                ));
            }
        }
        Ok(())
    }

    fn set_owner(&mut self, token: Token<'a>) -> Result<(), Broken> {
        let hint = "names have labels of 1 to 63 octets between dots, 255 octets in all";
        if token.quoted {
            return Err(("a name is not quoted (RFC 1035 5.1)".to_owned(), hint));
        }
        let origin = Some(&self.origin);
        let owner = Name::parse(token.text, origin).map_err(|error| (error.to_string(), hint))?;
        self.owner = Some(owner);
        Ok(())
    }

    /// What follows the name: TTL and class in either order, type, data.
    fn record(&mut self, tokens: &[Token<'a>]) -> Result<(Rtype, u32, Rdata), Broken> {
        let mut at = 0;
        let (mut ttl, mut class) = (None, false);
        while let Some(token) = tokens.get(at).filter(|_| at < 2) {
            let word = token.word().unwrap_or_default();
            if ttl.is_none() && word.starts_with(|first: char| first.is_ascii_digit()) {
                ttl = Some(written_ttl(token)?);
            } else if !class && is_class(word)? {
                class = true;
            } else {
                break;
            }
            at += 1;
        }
        if ttl.is_some() {
            self.last_ttl = ttl;
        }
        let rtype = rtype(tokens.get(at))?;
        let data = Rdata::from_tokens(rtype, &tokens[at + 1..], Some(&self.origin));
        let data = data.map_err(|error| {
            let rule = format!("{error}; the form is `{}`", layout::form(rtype));
            (
                rule,
                "write the data in that form; quote texts with blanks or semicolons",
            )
        })?;
        // RFC 2308 4, and RFC 1035 5.1 where there is no $TTL.
        let ttl = match ttl.or(self.default_ttl).or(self.last_ttl) {
            Some(ttl) => ttl,
            None => self.first_ttl(rtype, &data)?,
        };
        Ok((rtype, ttl, data))
    }

    /// The TTL of an SOA record that says none: what answers about nothing have, as BIND does it.
    fn first_ttl(&mut self, rtype: Rtype, data: &Rdata) -> Result<u32, Broken> {
        let soa = (rtype == Rtype::SOA)
            .then(|| Soa::from_data(data))
            .flatten();
        let hint = "write `$TTL 3600` at the beginning of the file";
        let minimum = soa.map(|soa| soa.minimum).filter(|ttl| *ttl <= TTL_MAX);
        let missing = "no TTL is written here, and there is no $TTL (RFC 2308 4)";
        let ttl = minimum.ok_or((missing.to_owned(), hint))?;
        self.last_ttl = Some(ttl);
        self.faults.warnings.add(Fault {
            line: Some(self.number),
            record: format!("{} SOA", self.owner.as_ref().unwrap_or(&self.origin)),
            rule: format!("{missing}; {ttl} is taken, the last number of the SOA record"),
            hint: hint.to_owned(),
            about: None,
        });
        Ok(ttl)
    }
}

fn open(error: LineError) -> Broken {
    match error {
        LineError::OpenQuote => (
            "a quote is not closed on its line (RFC 1035 5.1)".to_owned(),
            "close the quote; a quote within a text is \\\"",
        ),
        LineError::OpenParenthesis => (
            "a parenthesis is not closed before the end of the file (RFC 1035 5.1)".to_owned(),
            "close it after the last word of the record",
        ),
        LineError::ClosedParenthesis => (
            "a parenthesis is closed that was not opened (RFC 1035 5.1)".to_owned(),
            "remove it, or open it on the line where the record begins",
        ),
    }
}

fn ttl_in_range(seconds: u32) -> Result<u32, Broken> {
    if seconds > TTL_MAX {
        let rule = format!("a TTL of {seconds} is more than {TTL_MAX} (RFC 2181 8)");
        return Err((rule, "write a TTL of at most a week"));
    }
    Ok(seconds)
}

fn written_ttl(token: &Token<'_>) -> Result<u32, Broken> {
    let seconds = codec::seconds(token.text).ok_or_else(|| {
        let rule = format!("`{}` is not a TTL (RFC 1035 5.1)", token.shown());
        (
            rule,
            "write seconds, or a time with the units w d h m s, as 1h30m",
        )
    })?;
    ttl_in_range(seconds)
}

/// Whether the word is the class that zones of the internet have.
fn is_class(word: &str) -> Result<bool, Broken> {
    let is = |name: &str| word.eq_ignore_ascii_case(name);
    if is("IN") || is("CLASS1") {
        return Ok(true);
    }
    let numbered = word
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case("CLASS"));
    if is("CH") || is("HS") || is("CS") || numbered {
        let rule = format!("the class {word} is not served, only IN (RFC 1035 5.2)");
        return Err((rule, "remove the record, or its class"));
    }
    Ok(false)
}

fn rtype(token: Option<&Token<'_>>) -> Result<Rtype, Broken> {
    let hint = "a record is written NAME [TTL] [IN] TYPE DATA";
    let Some(token) = token else {
        return Err(("the type is missing (RFC 1035 5.1)".to_owned(), hint));
    };
    let rtype: Option<Rtype> = token.word().and_then(|word| word.parse().ok());
    let unknown = || {
        let rule = format!("`{}` is not a record type (RFC 1035 5.1)", token.shown());
        (
            rule,
            "a record is written NAME [TTL] [IN] TYPE DATA; any type can be TYPE123",
        )
    };
    let rtype = rtype.ok_or_else(unknown)?;
    match rtype.refusal() {
        Some(refusal) => Err((format!("{rtype}: {}", refusal.rule), refusal.hint)),
        None => Ok(rtype),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_beyond_the_bounds_is_not_read() {
        let origin: Name = "example.".parse().expect("a name");
        let text = vec![b'\n'; FILE_BYTES_MAX + 1];
        let source = |text| Source {
            file: "big",
            text,
            origin: &origin,
        };
        let refused = parse(&source(&text)).expect_err("too large").to_string();
        assert!(
            refused.starts_with("big: example.: the file has 32000001 bytes"),
            "{refused}"
        );
        let text = b"a 1 A 192.0.2.1\nb 1 A 192.0.2.1\nc 1 A 192.0.2.1\n";
        let source = source(text);
        let mut parser = Parser::new(&source);
        parser.records_left = 2;
        let mut names = Vec::new();
        parser.read_all(|_, record| names.push(record.name.to_string()));
        assert_eq!(names, ["a.example.", "b.example."]);
        let refused = parser.faults.refused.to_string();
        assert!(
            refused.contains("the file has more than 1000000 records"),
            "{refused}"
        );
    }
}
