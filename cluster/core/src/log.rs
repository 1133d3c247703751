//! The durable log below Raft, as Raft's adapter sees it.
//!
//! Invariants
//! - [`LogEngine::write`] returns only when the whole batch is durable, and a crash keeps the
//!   batches up to some point and nothing after it: never a hole, never part of a batch.
//! - One thread writes. Readers are any.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::RwLock;

use bytes::Bytes;

/// Small facts that live beside the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogMeta {
    /// The vote (term, candidate) of this member.
    Vote,
    /// Last log id known to be committed; a hint for a quick start.
    Committed,
    /// Last log id that was purged.
    Purged,
}

impl LogMeta {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Vote, Self::Committed, Self::Purged];

    /// The name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::Committed => "committed",
            Self::Purged => "purged",
        }
    }
}

/// One change of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOp {
    /// Sets the entry at an index.
    Append {
        /// Index of the entry.
        index: u64,
        /// The encoded entry.
        entry: Bytes,
    },
    /// Removes all entries with an index at or above `from`.
    TruncateFrom {
        /// First index that goes.
        from: u64,
    },
    /// Removes all entries with an index at or below `to`.
    PurgeTo {
        /// Last index that goes.
        to: u64,
    },
    /// Sets a fact.
    SetMeta {
        /// Which fact.
        meta: LogMeta,
        /// Its encoded value.
        value: Bytes,
    },
}

/// A durable log.
pub trait LogEngine: Send + Sync + 'static {
    /// Applies the changes in order, atomically, and returns when they are durable.
    ///
    /// An error means the log is in an unknown state: the caller stops and never tries again.
    fn write(&self, ops: &[LogOp]) -> io::Result<()>;

    /// A fact.
    fn meta(&self, meta: LogMeta) -> io::Result<Option<Bytes>>;

    /// The entries of `range` in order: as many as are there without a gap from its start, fewer
    /// when their sizes pass `max_bytes` (but at least one).
    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>>;

    /// First and last index held, `None` when empty.
    fn bounds(&self) -> io::Result<Option<(u64, u64)>>;

    /// Bytes on disk.
    fn size_bytes(&self) -> io::Result<u64>;
}

/// The in-memory twin of the log: serves tests and the conformance suite's comparison.
#[derive(Debug, Default)]
pub struct MemoryLog {
    inner: RwLock<MemoryLogInner>,
}

#[derive(Debug, Default)]
struct MemoryLogInner {
    entries: BTreeMap<u64, Bytes>,
    meta: BTreeMap<LogMeta, Bytes>,
}

impl MemoryLog {
    fn inner(&self) -> std::sync::RwLockReadGuard<'_, MemoryLogInner> {
        self.inner
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl LogEngine for MemoryLog {
    fn write(&self, ops: &[LogOp]) -> io::Result<()> {
        let mut inner = self
            .inner
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for op in ops {
            match op {
                LogOp::Append { index, entry } => {
                    inner.entries.insert(*index, entry.clone());
                }
                LogOp::TruncateFrom { from } => {
                    inner.entries.split_off(from);
                }
                LogOp::PurgeTo { to } => {
                    inner.entries = inner.entries.split_off(&(to + 1));
                }
                LogOp::SetMeta { meta, value } => {
                    inner.meta.insert(*meta, value.clone());
                }
            }
        }
        Ok(())
    }

    fn meta(&self, meta: LogMeta) -> io::Result<Option<Bytes>> {
        Ok(self.inner().meta.get(&meta).cloned())
    }

    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let mut found: Vec<(u64, Bytes)> = Vec::new();
        let mut bytes = 0;
        // The entries come first: no number is asked for that has no place.
        let expected = range.start..;
        for ((index, entry), expected) in self.inner().entries.range(range).zip(expected) {
            bytes += entry.len();
            if *index != expected || (!found.is_empty() && bytes > max_bytes) {
                break;
            }
            found.push((*index, entry.clone()));
        }
        Ok(found)
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        let inner = self.inner();
        Ok(inner
            .entries
            .first_key_value()
            .zip(inner.entries.last_key_value())
            .map(|((first, _), (last, _))| (*first, *last)))
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self
            .inner()
            .entries
            .values()
            .map(|entry| entry.len() as u64)
            .sum())
    }
}
