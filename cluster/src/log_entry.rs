//! Log entries as they are found on disk: an entry counts only in the place of its own index.

use std::io;

use bytes::Bytes;
use cluster_core::log::LogEngine;

use crate::proto;
use crate::types::{Entry, decode, entry_from};

/// A log that is not what was written.
pub(crate) fn damaged(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The entry that the engine holds at `index`, where one must be.
pub(crate) fn read_one(engine: &dyn LogEngine, index: u64) -> io::Result<Entry> {
    let end = index.checked_add(1).ok_or_else(|| {
        let why = format!("the log holds an entry {index}, which has no index after it");
        damaged(why)
    })?;
    let mut found = engine.entries(index..end, usize::MAX)?;
    let (_, encoded) = found
        .pop()
        .ok_or_else(|| damaged(format!("log entry {index} is not in the log")))?;
    entry_at(index, encoded)
}

/// The entry that is stored at `index`, when it is the entry of that index.
pub(crate) fn entry_at(index: u64, encoded: Bytes) -> io::Result<Entry> {
    let entry = entry_from(decode::<proto::Entry>("log entry", encoded)?)?;
    if entry.log_id.index() != index {
        let found = entry.log_id;
        return Err(damaged(format!("log entry {index} is that of {found}")));
    }
    Ok(entry)
}
