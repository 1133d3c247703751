//! The ordered byte store that a state machine lives in, as the state machine sees it.
//!
//! Why an interface: `cfgsvc-core` must run over `RocksDB` in a server, over a map in a test and
//! over a faulty disk in a simulation, and be the same code in all three.
//!
//! Invariants
//! - A [`View`] never changes: it shows the store as it was at one moment.
//! - A [`Batch`] becomes visible and durable whole or not at all.
//! - [`Overlay`] reads its own pending writes first, so that several log entries can be applied
//!   before one commit.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::{Arc, RwLock};

use bytes::Bytes;

/// Half-open range of keys in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key that is in the range.
    pub start: Bytes,
    /// First key after the range; `None` is no end.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// All keys `k` with `start <= k < end`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self {
            start: start.into(),
            end: Some(end.into()),
        }
    }

    /// All keys from `start` on.
    pub fn from(start: impl Into<Bytes>) -> Self {
        Self {
            start: start.into(),
            end: None,
        }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end }
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }
}

/// First key after all keys that begin with `prefix`; `None` when there is none (all bytes 0xff).
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// Order in which a scan visits keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Ascending,
    /// Greatest key first.
    Descending,
}

/// What a scan calls for each entry; `Break` ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// The store at one moment.
pub trait View {
    /// Value of `key`.
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Visits the entries of `range` in order until `visit` breaks. An empty range visits nothing.
    fn scan(&self, range: &KeyRange, direction: Direction, visit: &mut Visit<'_>)
    -> io::Result<()>;
}

/// Changes that are committed together: a value puts, `None` deletes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    writes: BTreeMap<Bytes, Option<Bytes>>,
}

impl Batch {
    /// Sets `key` to `value`; the last change of a key in a batch wins.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.insert(key.into(), Some(value.into()));
    }

    /// Removes `key`; no error when it is absent.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.insert(key.into(), None);
    }

    /// The changes in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.writes.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// Count of keys that change.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// A view with changes on top that are not committed yet.
pub struct Overlay<'a> {
    base: &'a dyn View,
    batch: Batch,
}

impl<'a> Overlay<'a> {
    /// `base` with no change yet.
    pub fn new(base: &'a dyn View) -> Self {
        Self {
            base,
            batch: Batch::default(),
        }
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.batch.put(key, value);
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.batch.delete(key);
    }

    /// Count of keys that change so far.
    pub fn pending(&self) -> usize {
        self.batch.len()
    }

    /// The changes, to be committed.
    pub fn into_batch(self) -> Batch {
        self.batch
    }
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        match self.batch.writes.get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let bounds = (
            Bound::Included(range.start.clone()),
            range.end.clone().map_or(Bound::Unbounded, Bound::Excluded),
        );
        let mut pending: Box<dyn Iterator<Item = (&Bytes, &Option<Bytes>)>> = match direction {
            Direction::Ascending => Box::new(self.batch.writes.range(bounds)),
            Direction::Descending => Box::new(self.batch.writes.range(bounds).rev()),
        };
        let mut next = pending.next();
        let before = |a: &[u8], b: &[u8]| match direction {
            Direction::Ascending => a < b,
            Direction::Descending => a > b,
        };
        let mut stopped = false;
        self.base.scan(range, direction, &mut |key, value| {
            while let Some((pending_key, pending_value)) = next {
                if !before(pending_key, key) {
                    break;
                }
                next = pending.next();
                if let Some(value) = pending_value
                    && visit(pending_key, value).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let shown = match next {
                Some((pending_key, pending_value)) if pending_key.as_ref() == key => {
                    next = pending.next();
                    pending_value.as_deref()
                }
                Some(_) | None => Some(value),
            };
            if let Some(value) = shown
                && visit(key, value).is_break()
            {
                stopped = true;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        while let (false, Some((key, value))) = (stopped, next) {
            next = pending.next();
            if let Some(value) = value
                && visit(key, value).is_break()
            {
                stopped = true;
            }
        }
        Ok(())
    }
}

/// What a read does with a view.
pub type ReadFn<'a> = dyn FnMut(&dyn View) -> io::Result<()> + 'a;

/// The database that holds the state machine. Not durable by itself: the Raft log is its log.
pub trait StateEngine: Send + Sync + 'static {
    /// Runs `read` on a view of now.
    fn read(&self, read: &mut ReadFn<'_>) -> io::Result<()>;

    /// Makes the batch visible, atomically. It need not be durable before the next `flush`, but a
    /// crash must never keep part of a batch, nor a later batch without an earlier one.
    fn commit(&self, batch: Batch) -> io::Result<()>;

    /// Makes everything committed so far durable.
    fn flush(&self) -> io::Result<()>;

    /// Writes a durable copy of the store to `directory`, which must not exist; links files where
    /// it can. Writers go on meanwhile; the copy is of one moment.
    fn checkpoint(&self, directory: &Path) -> io::Result<()>;

    /// Bytes on disk.
    fn size_bytes(&self) -> io::Result<u64>;
}

/// The in-memory twin of the database: serves tests, and checks the other.
#[derive(Debug, Default)]
pub struct MemoryState {
    entries: RwLock<Arc<BTreeMap<Bytes, Bytes>>>,
}

impl View for BTreeMap<Bytes, Bytes> {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(BTreeMap::get(self, key).cloned())
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let bounds = (
            Bound::Included(range.start.clone()),
            range.end.clone().map_or(Bound::Unbounded, Bound::Excluded),
        );
        let mut entries: Box<dyn Iterator<Item = (&Bytes, &Bytes)>> = match direction {
            Direction::Ascending => Box::new(self.range(bounds)),
            Direction::Descending => Box::new(self.range(bounds).rev()),
        };
        // The visitor decides when to stop; nothing is left to do after it did.
        let _ = entries.try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }
}

impl MemoryState {
    fn current(&self) -> Arc<BTreeMap<Bytes, Bytes>> {
        self.entries
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Everything in the store.
    pub fn entries(&self) -> BTreeMap<Bytes, Bytes> {
        self.current().as_ref().clone()
    }
}

impl StateEngine for MemoryState {
    fn read(&self, read: &mut ReadFn<'_>) -> io::Result<()> {
        let view = self.current();
        read(view.as_ref())
    }

    fn commit(&self, batch: Batch) -> io::Result<()> {
        let mut entries = self
            .entries
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let map = Arc::make_mut(&mut entries);
        for (key, value) in batch.writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint(&self, directory: &Path) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "the in-memory store has no files to link into {}",
                directory.display()
            ),
        ))
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self
            .current()
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collect(view: &dyn View, range: &KeyRange, direction: Direction) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        view.scan(range, direction, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("memory does not fail");
        found
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..4)
    }

    proptest! {
        #[test]
        fn overlay_shows_what_the_committed_batch_will_show(
            base in prop::collection::btree_map(key(), 0u8..4, 0..12),
            changes in prop::collection::vec((key(), prop::option::of(4u8..8)), 0..12),
            start in key(),
            end in prop::option::of(key()),
            ascending in any::<bool>(),
        ) {
            let store = MemoryState::default();
            let mut batch = Batch::default();
            for (key, value) in base {
                batch.put(key, vec![value]);
            }
            store.commit(batch).expect("commit");
            let before = store.entries();
            let mut overlay = Overlay::new(&before);
            for (key, value) in changes {
                match value {
                    Some(value) => overlay.put(key, vec![value]),
                    None => overlay.delete(key),
                }
            }
            let range = KeyRange { start: start.into(), end: end.map(Bytes::from) };
            let direction = if ascending { Direction::Ascending } else { Direction::Descending };
            let shown = collect(&overlay, &range, direction);
            store.commit(overlay.into_batch()).expect("commit");
            prop_assert_eq!(shown, collect(&store.entries(), &range, direction));
        }
    }

    #[test]
    fn prefix_end_skips_trailing_ff() {
        assert_eq!(prefix_end(b"a"), Some(Bytes::from_static(b"b")));
        assert_eq!(prefix_end(b"a\xff"), Some(Bytes::from_static(b"b")));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
