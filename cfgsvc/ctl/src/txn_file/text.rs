//! The text grammar: sections `if`, `then`, `else`, each at most once and in this order; one
//! statement a line.

use super::FileError;
use super::words::{Word, split};
use crate::lease_id::hex_lease;
use cfgsvc_client::{Compare, Delete, Get, Is, Keys, Op, Put, Txn};

/// The sections, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    If,
    Then,
    Else,
}

pub(super) fn parse(file: &str) -> Result<Txn, FileError> {
    let mut txn = Txn::new();
    let mut section = None;
    let mut last = 1;
    for (index, line) in file.lines().enumerate() {
        last = index + 2;
        let words = split(index + 1, line)?;
        let Some((first, rest)) = words.split_first() else {
            continue;
        };
        if let Some(next) = section_of(first) {
            enter(&mut section, next, first)?;
            if let Some(extra) = rest.first() {
                return Err(extra.error("a section's name stands alone on its line"));
            }
            continue;
        }
        let statement = Statement { first, rest };
        txn = match section {
            None => {
                let text = first.text();
                return Err(first.error(format!("`{text}` stands before `if`, `then` or `else`")));
            }
            Some(Section::If) => txn.when(statement.compare()?),
            Some(Section::Then) => txn.then(statement.op()?),
            Some(Section::Else) => txn.otherwise(statement.op()?),
        };
    }
    if section.is_none() {
        let what = "the file holds no transaction".into();
        let line = last.min(file.split('\n').count());
        return Err(FileError {
            line,
            column: 1,
            what,
        });
    }
    Ok(txn)
}

fn section_of(word: &Word) -> Option<Section> {
    match &word.bytes[..] {
        b"if" => Some(Section::If),
        b"then" => Some(Section::Then),
        b"else" => Some(Section::Else),
        _ => None,
    }
}

fn enter(section: &mut Option<Section>, next: Section, word: &Word) -> Result<(), FileError> {
    let text = word.text();
    match *section {
        Some(now) if now == next => Err(word.error(format!("`{text}` comes a second time"))),
        Some(now) if now > next => Err(word.error(format!("`{text}` comes after a later section"))),
        Some(_) | None => {
            *section = Some(next);
            Ok(())
        }
    }
}

/// A line in a section.
struct Statement<'a> {
    first: &'a Word,
    rest: &'a [Word],
}

impl Statement<'_> {
    fn word(&self, index: usize, what: &str) -> Result<&Word, FileError> {
        self.rest.get(index).ok_or_else(|| {
            let last = self.rest.last().unwrap_or(self.first);
            let width = last.text().chars().count();
            FileError {
                line: last.line,
                column: last.column + width,
                what: format!("the {what} is missing"),
            }
        })
    }

    fn end(&self, index: usize, allowed: &str) -> Result<(), FileError> {
        match self.rest.get(index) {
            None => Ok(()),
            Some(word) => Err(word.error(format!("`{}` is too much: {allowed}", word.text()))),
        }
    }

    fn compare(&self) -> Result<Compare, FileError> {
        let property = &self.first.bytes[..];
        if !matches!(
            property,
            b"value" | b"mod" | b"version" | b"create" | b"lease" | b"exists" | b"missing"
        ) {
            return Err(self.first.error(format!(
                "`{}` is no condition: use value, mod, version, create, lease, exists or missing",
                self.first.text()
            )));
        }
        let key = Keys::from(self.word(0, "key")?.bytes.clone());
        if matches!(property, b"exists" | b"missing") {
            self.end(1, "nothing follows the key")?;
            let is = if property == b"exists" {
                Is::Greater
            } else {
                Is::Equal
            };
            return Ok(Compare::create_revision(key, is, 0));
        }
        let sign = self.word(1, "comparison")?;
        let is = match &sign.bytes[..] {
            b"=" => Is::Equal,
            b"!=" => Is::NotEqual,
            b"<" => Is::Less,
            b">" => Is::Greater,
            _ => {
                let text = sign.text();
                return Err(sign.error(format!("`{text}` is no comparison: use = != < >")));
            }
        };
        let to = self.word(2, "value to compare with")?;
        self.end(3, "nothing follows the value")?;
        Ok(match property {
            b"value" => Compare::value(key, is, to.bytes.clone()),
            b"lease" => Compare::lease(key, is, lease(to)?),
            b"version" => Compare::version(key, is, number(to, "version")?),
            b"create" => Compare::create_revision(key, is, number(to, "revision")?),
            _ => Compare::mod_revision(key, is, number(to, "revision")?),
        })
    }

    fn op(&self) -> Result<Op, FileError> {
        let operation = &self.first.bytes[..];
        if !matches!(operation, b"get" | b"put" | b"del") {
            let text = self.first.text();
            return Err(self
                .first
                .error(format!("`{text}` is no operation: use get, put or del")));
        }
        let key = self.word(0, "key")?.bytes.clone();
        if operation == b"put" {
            let value = self.word(1, "value")?.bytes.clone();
            let mut put = Put::new(key, value);
            let more = "only `lease ID` may follow";
            match self.rest.get(2) {
                Some(word) if word.bytes == b"lease" => {
                    put = put.lease(lease(self.word(3, "lease id")?)?);
                    self.end(4, more)?;
                }
                Some(_) | None => self.end(2, more)?,
            }
            return Ok(Op::Put(put));
        }
        let more = "only `prefix` may follow";
        let keys = match self.rest.get(1) {
            Some(word) if word.bytes == b"prefix" => {
                self.end(2, more)?;
                Keys::prefix(key)
            }
            Some(_) | None => {
                self.end(1, more)?;
                Keys::from(key)
            }
        };
        Ok(match operation {
            b"get" => Op::Get(Get::new(keys)),
            _ => Op::Delete(Delete::new(keys)),
        })
    }
}

fn number(word: &Word, what: &str) -> Result<i64, FileError> {
    let text = word.text();
    text.parse()
        .map_err(|_| word.error(format!("`{text}` is no {what}")))
}

fn lease(word: &Word) -> Result<i64, FileError> {
    hex_lease(&word.text()).map_err(|what| word.error(what))
}
