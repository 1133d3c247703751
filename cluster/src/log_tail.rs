//! What is known of the log without asking the disk: its newest entries, its bounds and its facts.

use std::collections::VecDeque;
use std::io;

use cluster_core::log::{LogEngine, LogMeta, LogOp};
use cluster_core::log_sizes::LogSizes;
use prost::Message as _;

use crate::log_entry::{damaged, read_one};
use crate::proto;
use crate::types::{Entry, LogId, Vote, decode, log_id_from, log_id_to, vote_from};

/// What is known of the log without asking the disk.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Consecutive entries; the last is the last of the log.
    pub(crate) entries: VecDeque<Entry>,
    pub(crate) bytes: usize,
    /// Index of the first entry of the log, or of the next one when it is empty.
    pub(crate) first: u64,
    /// Last log id of the log, also when `entries` is empty.
    pub(crate) last: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) committed: Option<LogId>,
    /// `committed` was not handed to a batch yet.
    pub(crate) committed_is_new: bool,
    pub(crate) vote: Option<Vote>,
    /// Entries up to this index are durable and may leave the tail.
    pub(crate) durable: u64,
    /// Bytes of the entries, also of those on disk only.
    pub(crate) sizes: LogSizes,
    /// Count of truncations since the log was opened.
    pub(crate) truncations: u64,
}

/// The bytes of an entry that count against a bound.
pub(crate) fn size_of(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => command.0.len() + 32,
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 256,
    }
}

impl Tail {
    /// What the engine holds.
    pub(crate) fn read(engine: &dyn LogEngine) -> io::Result<Self> {
        let log_id = |meta| -> io::Result<Option<LogId>> {
            let Some(bytes) = engine.meta(meta)? else {
                return Ok(None);
            };
            let log_id = decode::<proto::LogId>(meta.name(), bytes)?;
            Ok(Some(log_id_from(&log_id)?))
        };
        let purged = log_id(LogMeta::Purged)?;
        let committed = log_id(LogMeta::Committed)?;
        let vote = match engine.meta(LogMeta::Vote)? {
            Some(bytes) => Some(vote_from(&decode::<proto::Vote>("vote", bytes)?)?),
            None => None,
        };
        let (first, last) = match engine.bounds()? {
            Some((first, last)) => (first, Some(read_one(engine, last)?.log_id)),
            None => (purged.map_or(0, |id| id.index() + 1), purged),
        };
        if let Some(purged) = purged.filter(|purged| first <= purged.index()) {
            let why = format!("the log begins with entry {first}, but is purged up to {purged}");
            return Err(damaged(why));
        }
        let held_from = first.saturating_sub(1);
        let held_to = last.map_or(held_from, |id| id.index());
        let sizes = LogSizes::of(held_from, held_to, engine.size_bytes()?);
        Ok(Self {
            first,
            sizes,
            last,
            purged,
            committed,
            vote,
            durable: last.map_or(0, |id| id.index()),
            ..Self::default()
        })
    }

    /// Index of the first entry that is in memory; beyond all indexes when none is.
    pub(crate) fn first_in_memory(&self) -> u64 {
        let first = self.entries.front();
        first.map_or(u64::MAX, |entry| entry.log_id.index())
    }

    /// Entries in memory up to index `end`, without the first `skip`; at least one, and more while
    /// their sizes stay within `max_bytes`.
    pub(crate) fn copy(&self, skip: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let skip = usize::try_from(skip).map_err(io::Error::other)?;
        let mut found = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.iter().skip(skip) {
            bytes += size_of(entry);
            if entry.log_id.index() >= end || (!found.is_empty() && bytes > max_bytes) {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        if self.last.is_none_or(|last| last.index() < self.first) {
            self.first = entry.log_id.index();
        }
        let bytes = size_of(&entry);
        self.bytes += bytes;
        self.sizes.push(entry.log_id.index(), bytes as u64);
        self.last = Some(entry.log_id);
        self.entries.push_back(entry);
    }

    pub(crate) fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |id| id.index() + 1);
        while let Some(entry) = self
            .entries
            .pop_back_if(|entry| entry.log_id.index() >= keep)
        {
            self.bytes -= size_of(&entry);
        }
        self.last = last;
        self.sizes.truncate_after(last.map_or(0, |id| id.index()));
        self.truncations += 1;
        self.durable = self.durable.min(last.map_or(0, |id| id.index()));
    }

    pub(crate) fn purge(&mut self, purged: LogId) {
        while let Some(entry) = self
            .entries
            .pop_front_if(|entry| entry.log_id.index() <= purged.index())
        {
            self.bytes -= size_of(&entry);
        }
        self.purged = Some(purged);
        self.sizes.purge(purged.index());
        self.first = self.first.max(purged.index() + 1);
        if self.last.is_none_or(|last| last.index() < purged.index()) {
            self.last = Some(purged);
        }
    }

    pub(crate) fn evict(&mut self, limit: usize) {
        while self.bytes > limit {
            let durable = self.durable;
            let Some(entry) = self
                .entries
                .pop_front_if(|entry| entry.log_id.index() <= durable)
            else {
                break;
            };
            self.bytes -= size_of(&entry);
        }
    }

    /// The newest committed log id, if no batch carries it yet: it costs nothing in one that is
    /// written anyway.
    pub(crate) fn take_committed(&mut self) -> Option<LogOp> {
        if !std::mem::take(&mut self.committed_is_new) {
            return None;
        }
        let value = log_id_to(self.committed.as_ref()?).encode_to_vec().into();
        Some(LogOp::SetMeta {
            meta: LogMeta::Committed,
            value,
        })
    }
}
