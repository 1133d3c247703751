//! Where everything is in the store: one byte of table, then the key of the record.
//!
//! Why one file: these bytes are in the databases and snapshot files of every member. Numbers are
//! big-endian, so that the order of keys is the order of numbers.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `m` machine | none, or `r`: the counters of a restore that is under way | `MachineRecord` |
//! | `c` current | raw key | `KeyRecord` |
//! | `o` old | escaped key, mod revision | `OldRecord` |
//! | `h` history | revision, place in it (u32) | `HistoryRecord` |
//! | `r` revision | revision | `RevisionRecord` |
//! | `l` lease | lease id | `LeaseRecord` |
//! | `k` lease key | lease id, raw key | empty |
//! | `s` session | lease id | `SessionRecord` |
//! | `p` reply | lease id, request number | encoded `Reply` |
//!
//! A key in `old` is followed by a number, so it is escaped to keep the order of raw keys: 0x00
//! becomes 0x00 0xff, and 0x00 0x00 ends it.
//!
//! Invariant: no table byte is 0x00, which begins the keys of the group below
//! ([`cluster_core::app::RESERVED_PREFIX`]).

use std::io;
use std::ops::ControlFlow;

use bytes::{Buf, Bytes};
use cfgsvc_proto::state;
use cluster_core::store::{Direction, KeyRange, View};
use prost::Message;

use crate::refusal::shown;

/// The tables; the value is the first byte of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the table above says what each is")]
pub enum Table {
    Machine = b'm',
    Current = b'c',
    Old = b'o',
    History = b'h',
    Revision = b'r',
    Lease = b'l',
    LeaseKey = b'k',
    Session = b's',
    Reply = b'p',
}

impl Table {
    /// All tables, in the order in which a snapshot holds them.
    pub const ALL: [Self; 9] = [
        Self::Machine,
        Self::Revision,
        Self::Lease,
        Self::LeaseKey,
        Self::Session,
        Self::Reply,
        Self::Current,
        Self::Old,
        Self::History,
    ];

    /// The table that `key` belongs to.
    pub fn of(key: &[u8]) -> Option<Self> {
        let first = key.first()?;
        Self::ALL.into_iter().find(|table| *table as u8 == *first)
    }

    /// All keys of the table.
    pub fn range(self) -> KeyRange {
        KeyRange::prefix(vec![self as u8])
    }

    fn key(self, parts: &[&[u8]]) -> Bytes {
        let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut key = Vec::with_capacity(length);
        key.push(self as u8);
        for part in parts {
            key.extend_from_slice(part);
        }
        key.into()
    }
}

/// Key of the counters.
pub const MACHINE: Bytes = Bytes::from_static(b"m");
/// Key of the counters that a restore installs when it finishes.
pub const RESTORED_MACHINE: Bytes = Bytes::from_static(b"mr");

/// Key of the current version of `key`.
pub fn current(key: &[u8]) -> Bytes {
    Table::Current.key(&[key])
}

/// Keys of `current` for a request's `key` and `range_end`, by etcd's rules: an empty end is the
/// single key, one zero byte is no end. An end before the key is an empty range.
pub fn current_range(key: &[u8], range_end: &[u8]) -> KeyRange {
    match range_end {
        b"" => {
            let start = current(key);
            let end = Table::Current.key(&[key, &[0]]);
            KeyRange::new(start, end)
        }
        b"\0" => KeyRange {
            start: current(key),
            end: Table::Current.range().end,
        },
        end => KeyRange::new(current(key), current(end)),
    }
}

/// Key of the old version of `key` that was made at `mod_revision`.
pub fn old(key: &[u8], mod_revision: i64) -> Bytes {
    let mut out = old_prefix(key);
    out.extend_from_slice(&number(mod_revision));
    out.into()
}

fn old_prefix(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 11);
    out.push(Table::Old as u8);
    for byte in key {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
    out
}

/// Keys of `old` for the old versions of `key` made at `first` or later and before `end`.
pub fn old_versions(key: &[u8], first: i64, end: i64) -> KeyRange {
    KeyRange::new(old(key, first), old(key, end))
}

/// Keys of `old` for a request's `key` and `range_end`, as in [`current_range`].
pub fn old_range(key: &[u8], range_end: &[u8]) -> KeyRange {
    match range_end {
        b"" => KeyRange::prefix(old_prefix(key)),
        b"\0" => KeyRange {
            start: old_prefix(key).into(),
            end: Table::Old.range().end,
        },
        end => KeyRange::new(old_prefix(key), old_prefix(end)),
    }
}

/// The mod revision in a key of `old`; the cheap half of [`split_old`].
pub fn old_mod_revision(stored: &[u8]) -> io::Result<i64> {
    let at = stored.len().checked_sub(8).filter(|at| *at >= 3);
    at.and_then(|at| parse_number(&stored[at..]))
        .ok_or_else(|| damaged(stored, "is too short for table old"))
}

/// Raw key and mod revision of a key of `old`.
pub fn split_old(stored: &[u8]) -> io::Result<(Bytes, i64)> {
    let mod_revision = old_mod_revision(stored)?;
    let escaped = &stored[1..stored.len() - 8];
    let Some(escaped) = escaped.strip_suffix(&[0, 0]) else {
        return Err(damaged(stored, "has no end of key"));
    };
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        key.push(*byte);
        if *byte == 0 && bytes.next() != Some(&0xff) {
            return Err(damaged(stored, "has a zero byte that is not escaped"));
        }
    }
    Ok((key.into(), mod_revision))
}

/// Key of event number `index` of `revision`.
pub fn history(revision: i64, index: u32) -> Bytes {
    Table::History.key(&[&number(revision), &index.to_be_bytes()])
}

/// Revision and index of a key of `history`.
pub fn split_history(stored: &[u8]) -> io::Result<(i64, u32)> {
    let parts = stored.split_first().and_then(|(_, rest)| {
        let (revision, index) = rest.split_at_checked(8)?;
        let index = u32::from_be_bytes(index.try_into().ok()?);
        Some((parse_number(revision)?, index))
    });
    parts.ok_or_else(|| damaged(stored, "is not a key of table history"))
}

/// Keys of `history` from event `index` of `first` to the end of revision `last`.
pub fn history_range(first: i64, index: u32, last: i64) -> KeyRange {
    KeyRange::new(history(first, index), history(last.saturating_add(1), 0))
}

/// Key of what is known of a commit.
pub fn revision(revision: i64) -> Bytes {
    Table::Revision.key(&[&number(revision)])
}

/// Key of a lease.
pub fn lease(id: i64) -> Bytes {
    Table::Lease.key(&[&number(id)])
}

/// Key of the attachment of `key` to lease `id`.
pub fn lease_key(id: i64, key: &[u8]) -> Bytes {
    Table::LeaseKey.key(&[&number(id), key])
}

/// Keys of all attachments of lease `id`.
pub fn lease_keys(id: i64) -> KeyRange {
    KeyRange::prefix(lease_key(id, b""))
}

/// Key of a session.
pub fn session(id: i64) -> Bytes {
    Table::Session.key(&[&number(id)])
}

/// Key of the reply to request `seq` of session `id`.
pub fn reply(id: i64, seq: u64) -> Bytes {
    Table::Reply.key(&[&number(id), &seq.to_be_bytes()])
}

/// Keys of all replies of session `id`.
pub fn replies(id: i64) -> KeyRange {
    KeyRange::prefix(Table::Reply.key(&[&number(id)]))
}

/// The number after the table byte, and what follows it: id and key of an attachment, and so on.
pub fn split_number(stored: &[u8]) -> io::Result<(i64, &[u8])> {
    let parts = stored.split_first().and_then(|(_, rest)| {
        let (first, rest) = rest.split_at_checked(8)?;
        Some((parse_number(first)?, rest))
    });
    parts.ok_or_else(|| damaged(stored, "is too short for its number"))
}

fn number(value: i64) -> [u8; 8] {
    (value as u64).to_be_bytes()
}

fn parse_number(bytes: &[u8]) -> Option<i64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?) as i64)
}

fn damaged(stored: &[u8], what: &str) -> io::Error {
    let shown = shown(stored);
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("key {shown} of the store {what}"),
    )
}

/// Decodes the value of `stored`, a key of the store; the error names it.
pub fn decode<M: Message + Default>(stored: &[u8], value: impl Buf) -> io::Result<M> {
    M::decode(value).map_err(|error| damaged(stored, &format!("has a damaged value: {error}")))
}

/// Reads and decodes the value of a key of the store.
pub fn get<M: Message + Default>(view: &dyn View, stored: &Bytes) -> io::Result<Option<M>> {
    match view.get(stored)? {
        Some(value) => decode(stored, value).map(Some),
        None => Ok(None),
    }
}

/// What [`try_scan`] calls for each entry.
pub type TryVisit<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<ControlFlow<()>> + 'a;

/// [`View::scan`] with a visitor that can fail; its error ends the scan.
pub fn try_scan(
    view: &dyn View,
    range: &KeyRange,
    direction: Direction,
    visit: &mut TryVisit<'_>,
) -> io::Result<()> {
    let mut outcome = Ok(());
    view.scan(
        range,
        direction,
        &mut |key, value| match visit(key, value) {
            Ok(flow) => flow,
            Err(error) => {
                outcome = Err(error);
                ControlFlow::Break(())
            }
        },
    )?;
    outcome
}

/// Whether a record from outside (a snapshot file) has a key of a known table and a value of that
/// table. The error says what is wrong.
pub fn verify(key: &[u8], value: &[u8]) -> io::Result<Table> {
    let table = Table::of(key).ok_or_else(|| damaged(key, "belongs to no table"))?;
    let exact = |parts: usize| {
        if key.len() == parts {
            Ok(())
        } else {
            Err(damaged(
                key,
                &format!("is {} bytes, not {parts}", key.len()),
            ))
        }
    };
    match table {
        Table::Machine => exact(1).and(decode::<state::MachineRecord>(key, value).map(drop))?,
        Table::Current => {
            if key.len() < 2 {
                return Err(damaged(key, "has an empty key"));
            }
            decode::<state::KeyRecord>(key, value).map(drop)?;
        }
        Table::Old => {
            split_old(key)?;
            let old = decode::<state::OldRecord>(key, value)?;
            if old.record.is_none() {
                return Err(damaged(key, "has no version in it"));
            }
        }
        Table::History => {
            split_history(key)?;
            decode::<state::HistoryRecord>(key, value).map(drop)?;
        }
        Table::Revision => exact(9).and(decode::<state::RevisionRecord>(key, value).map(drop))?,
        Table::Lease => exact(9).and(decode::<state::LeaseRecord>(key, value).map(drop))?,
        Table::LeaseKey => {
            let (_, attached) = split_number(key)?;
            if attached.is_empty() || !value.is_empty() {
                return Err(damaged(key, "is not an attachment of a lease"));
            }
        }
        Table::Session => exact(9).and(decode::<state::SessionRecord>(key, value).map(drop))?,
        Table::Reply => exact(17).and(decode::<state::Reply>(key, value).map(drop))?,
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff)];
        prop::collection::vec(byte, 0..6)
    }

    proptest! {
        #[test]
        fn old_keys_sort_as_raw_keys_and_come_back(
            a in key(), b in key(), m in 0i64..300, n in 0i64..300,
        ) {
            prop_assert_eq!(old(&a, m).cmp(&old(&b, n)), (&a, m).cmp(&(&b, n)));
            prop_assert_eq!(split_old(&old(&a, m)).expect("own key"), (Bytes::from(a), m));
        }

        #[test]
        fn both_ranges_hold_the_same_raw_keys(key in key(), end in key(), probe in key()) {
            let wanted = match end.as_slice() {
                b"" => probe == key,
                b"\0" => probe >= key,
                end => probe >= key && probe.as_slice() < end,
            };
            prop_assert_eq!(current_range(&key, &end).contains(&current(&probe)), wanted);
            prop_assert_eq!(old_range(&key, &end).contains(&old(&probe, 7)), wanted);
        }
    }

    #[test]
    fn history_keys_come_back_and_sort() {
        assert_eq!(split_history(&history(7, 3)).expect("own key"), (7, 3));
        assert!(history(7, u32::MAX) < history(8, 0));
        assert!(history_range(7, 1, 8).contains(&history(8, 5)));
        assert!(!history_range(7, 1, 8).contains(&history(7, 0)));
    }
}
