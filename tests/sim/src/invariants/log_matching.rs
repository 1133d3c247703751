//! Entries with the same index and term are the same, and so is what is before them.

use std::collections::BTreeMap;

use bytes::Bytes;
use cluster::proto;
use cluster::types::{LogId, decode, entry_from};

use crate::state::hash_of;

/// What every log id held when it was first written, with the hash of the log up to it.
#[derive(Debug, Default)]
pub struct LogMatching {
    known: BTreeMap<(u64, u64), Known>,
    /// Term of each entry in the log of each member.
    logs: BTreeMap<u64, BTreeMap<u64, u64>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Known {
    content: u64,
    /// Term of the entry before; `None` when it is not known.
    before: Option<u64>,
}

impl LogMatching {
    /// A member appends an entry; returns its log id.
    pub fn appended(&mut self, member: u64, index: u64, entry: &Bytes) -> Result<LogId, String> {
        let text = |error: cluster::types::DecodeError| error.to_string();
        let decoded = decode::<proto::Entry>("log entry", entry.clone()).map_err(text)?;
        let log_id = entry_from(decoded).map_err(text)?.log_id;
        let term = log_id.committed_leader_id().term;
        let log = self.logs.entry(member).or_default();
        let before = index
            .checked_sub(1)
            .and_then(|before| log.get(&before))
            .copied();
        log.insert(index, term);
        let content = hash_of(&[entry]);
        match self.known.get_mut(&(term, index)) {
            None => {
                self.known.insert((term, index), Known { content, before });
            }
            Some(known) => {
                if known.content != content {
                    return Err(format!(
                        "entry {index} of term {term} is another one at member {member}"
                    ));
                }
                let differs = known.before.zip(before).is_some_and(|(a, b)| a != b);
                if differs {
                    return Err(format!(
                        "entry {index} of term {term} follows term {before:?} at member {member} \
                         and {:?} elsewhere",
                        known.before
                    ));
                }
                known.before = known.before.or(before);
            }
        }
        Ok(log_id)
    }

    /// A member removes all entries from `from` on.
    pub fn truncated(&mut self, member: u64, from: u64) {
        self.logs.entry(member).or_default().split_off(&from);
    }
}
