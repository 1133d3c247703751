//! What is wrong with a zone, so that whoever wrote it can mend it: where, which record, which
//! rule, and what to do next.
//!
//! Invariant: a report holds at most [`FAULTS_MAX`] faults, and how many more there were: a file
//! of another kind does not become a message of a million lines.

use std::fmt;

use crate::name::Name;
use crate::rtype::Rtype;

/// Faults that a report keeps: as many as a person reads before the next try.
pub const FAULTS_MAX: usize = 20;

/// Faults that are counted: whoever has more has another kind of file, and the rest is not read.
pub(crate) const FAULTS_COUNTED_MAX: usize = 10_000;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line of the file, from 1, when there is a file.
    pub line: Option<u32>,
    /// The record, or what stands in its place.
    pub record: String,
    /// The rule that it breaks, with where that is written.
    pub rule: String,
    /// The next step.
    pub hint: String,
    /// The name and type that the fault is about, when a record is.
    pub(crate) about: Option<(Name, Rtype)>,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(out, "line {line}: ")?;
        }
        write!(out, "{}: {}\n  hint: {}", self.record, self.rule, self.hint)
    }
}

/// What is wrong with a zone; or, of a zone that is taken, what it is warned of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    file: String,
    faults: Vec<Fault>,
    more: usize,
}

impl Report {
    /// An empty report about a file, or about whatever `file` names.
    pub fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            ..Self::default()
        }
    }

    /// The faults, at most [`FAULTS_MAX`].
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// How many there were beyond those.
    pub fn more(&self) -> usize {
        self.more
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn add(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn append(&mut self, other: Self) {
        for fault in other.faults {
            self.add(fault);
        }
        self.more += other.more;
    }

    /// Says on which lines the records are.
    pub(crate) fn locate(&mut self, line_of: impl Fn(&(Name, Rtype)) -> Option<u32>) {
        for fault in &mut self.faults {
            if let (None, Some(about)) = (fault.line, &fault.about) {
                fault.line = line_of(about);
            }
        }
        self.faults.sort_by_key(|fault| fault.line);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            match fault.line {
                Some(line) => write!(out, "{end}{}:{line}: ", self.file)?,
                None => write!(out, "{end}{}: ", self.file)?,
            }
            write!(
                out,
                "{}: {}\n  hint: {}",
                fault.record, fault.rule, fault.hint
            )?;
        }
        if self.more > FAULTS_COUNTED_MAX {
            write!(out, "\nand more than {FAULTS_COUNTED_MAX} more")?;
        } else if self.more > 0 {
            write!(out, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}
