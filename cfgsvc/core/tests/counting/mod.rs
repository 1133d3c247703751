//! How much is read for an answer, or to apply a command.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use cluster_core::store::{Direction, KeyRange, View, Visit};

/// A view that counts what scans visit.
pub(crate) struct Counting {
    entries: BTreeMap<Bytes, Bytes>,
    pub(crate) visited: Cell<usize>,
}

impl Counting {
    pub(crate) fn new(entries: BTreeMap<Bytes, Bytes>) -> Self {
        Self {
            entries,
            visited: Cell::new(0),
        }
    }
}

impl View for Counting {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        View::get(&self.entries, key)
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> io::Result<()> {
        self.entries.scan(range, direction, &mut |key, value| {
            self.visited.set(self.visited.get() + 1);
            visit(key, value)
        })
    }
}
