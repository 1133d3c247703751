//! What a client asked, when, and what it was told.
//!
//! Invariants (of a history that can be checked)
//! - no key is given the same value twice, so that a value tells who wrote it;
//! - times are nanoseconds of one monotonic clock;
//! - an outcome is unknown when the store may have executed the request at any time after the
//!   call, also long after the client gave up, or never.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::watch::Watch;

/// One version of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kv {
    /// Its value.
    pub value: String,
    /// Revision of its creation.
    pub create: i64,
    /// Revision of this version.
    pub modified: i64,
    /// Changes since its creation, 1 for the first.
    pub version: i64,
}

/// What must hold for a write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The key's last change was at this revision; 0: it does not exist.
    Revision(i64),
    /// The key exists and has this value.
    Value(String),
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Changes keys in one transaction. When the condition does not hold it reads that key.
    Write {
        /// A key and what must hold for it.
        when: Option<(String, Condition)>,
        /// New values; `None` deletes.
        changes: BTreeMap<String, Option<String>>,
    },
    /// Reads.
    Read {
        /// The key, or `None` for all.
        key: Option<String>,
        /// From one member's copy: any state that existed before the end.
        serializable: bool,
    },
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The store's revision: of the change, or that which was read.
    pub revision: i64,
    /// Whether the condition held; true without one.
    pub succeeded: bool,
    /// Keys that the request removed.
    pub deleted: i64,
    /// What was read.
    pub found: BTreeMap<String, Kv>,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With an answer.
    Done(Reply),
    /// Certainly without an effect.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// One request of one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Unique in its history.
    pub id: usize,
    /// Who asked.
    pub client: String,
    /// When it was sent, nanoseconds.
    pub call: u64,
    /// When the client had the answer or gave up, nanoseconds.
    pub end: u64,
    /// What was asked.
    pub request: Request,
    /// What came back.
    pub outcome: Outcome,
}

/// One change in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, in revisions.
    pub revision: i64,
    /// Of what.
    pub key: String,
    /// The new version; `None` is a deletion.
    pub kv: Option<Kv>,
}

/// All that was seen of a store which was empty at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Revision of the empty store.
    pub start: i64,
    /// In any order.
    pub operations: Vec<Operation>,
    /// All changes after the start as the store tells them at the end, in order.
    pub log: Option<Vec<Change>>,
    /// What watches showed.
    pub watches: Vec<Watch>,
}

impl Operation {
    /// From when it may take effect: a serializable read may show any earlier state.
    pub(crate) fn earliest(&self) -> u64 {
        match &self.request {
            Request::Read {
                serializable: true, ..
            } => 0,
            Request::Read { .. } | Request::Write { .. } => self.call,
        }
    }

    /// Until when it takes effect if it does: one without an answer has no end.
    pub(crate) fn latest(&self) -> u64 {
        match self.outcome {
            Outcome::Done(_) => self.end,
            Outcome::Failed | Outcome::Unknown => u64::MAX,
        }
    }

    /// Its answer.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.outcome {
            Outcome::Done(reply) => Some(reply),
            Outcome::Failed | Outcome::Unknown => None,
        }
    }
}

impl Request {
    /// Values that it sets, by key.
    pub fn values(&self) -> impl Iterator<Item = (&String, &String)> {
        let changes = match self {
            Self::Write { changes, .. } => Some(changes),
            Self::Read { .. } => None,
        };
        changes
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key, value.as_ref()?)))
    }

    /// Whether it only deletes.
    pub(crate) fn only_deletes(&self) -> bool {
        self.values().next().is_none()
    }
}

impl fmt::Display for Kv {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            value,
            create,
            modified,
            version,
        } = self;
        write!(
            out,
            "{value} (r{modified}, version {version} since r{create})"
        )
    }
}

impl fmt::Display for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { when, changes } => {
                match when {
                    Some((key, Condition::Revision(revision))) => {
                        write!(out, "if {key} at r{revision}: ")?;
                    }
                    Some((key, Condition::Value(value))) => write!(out, "if {key} = {value}: ")?,
                    None => {}
                }
                for (number, (key, value)) in changes.iter().enumerate() {
                    let comma = if number == 0 { "" } else { ", " };
                    match value {
                        Some(value) => write!(out, "{comma}put {key} = {value}")?,
                        None => write!(out, "{comma}delete {key}")?,
                    }
                }
                Ok(())
            }
            Self::Read { key, serializable } => {
                let how = if *serializable { "serializable " } else { "" };
                let key = key.as_deref().unwrap_or("everything");
                write!(out, "{how}get {key}")
            }
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "r{}", self.revision)?;
        if !self.succeeded {
            write!(out, ", condition did not hold")?;
        }
        if self.deleted > 0 {
            write!(out, ", deleted {}", self.deleted)?;
        }
        for (key, kv) in &self.found {
            write!(out, ", {key} is {kv}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            client,
            call,
            end,
            request,
            outcome,
        } = self;
        write!(out, "#{id} ({client}, {call}..{end} ns) {request} -> ")?;
        match outcome {
            Outcome::Done(reply) => write!(out, "{reply}"),
            Outcome::Failed => write!(out, "failed"),
            Outcome::Unknown => write!(out, "unknown"),
        }
    }
}
