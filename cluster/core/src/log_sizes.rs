//! How many bytes the entries of the log take, by stretches of entries: a log of large entries is
//! snapshotted and purged by its size, and asking the disk for each entry would cost more than it
//! is worth.
//!
//! Invariants
//! - marks ascend, in their indexes and in their totals;
//! - what is said of an index is at most a stretch (or an entry, if that is larger) off.

use std::collections::VecDeque;

/// Bytes after which an end is remembered.
const STRETCH_BYTES: u64 = 1 << 20;

/// The end of a stretch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Mark {
    index: u64,
    /// Bytes of all entries up to that index, counted from some point.
    total: u64,
}

/// Sizes of the entries that the log holds.
#[derive(Debug, Default)]
pub struct LogSizes {
    /// The first is the end of what is no longer held.
    marks: VecDeque<Mark>,
    last: Mark,
}

/// Where `wanted` lies between `low` and `high`, when `from` and `to` are what belongs to these.
fn between(wanted: u64, (low, high): (u64, u64), (from, to): (u64, u64)) -> u64 {
    let share = u128::from(wanted.clamp(low, high) - low) * u128::from(to - from);
    let part = share / u128::from(high - low).max(1);
    // A part of a difference of two u64.
    from + u64::try_from(part).unwrap_or(u64::MAX)
}

impl LogSizes {
    /// A log that was opened: entries after `first`, up to `last`, take `bytes` together.
    pub fn of(first: u64, last: u64, bytes: u64) -> Self {
        let begin = Mark {
            index: first,
            total: 0,
        };
        let last = Mark {
            index: last.max(first),
            total: bytes,
        };
        Self {
            marks: [begin].into(),
            last,
        }
    }

    /// The next entry.
    pub fn push(&mut self, index: u64, bytes: u64) {
        let behind = self.marks.back().map_or(0, |mark| mark.total);
        if self.marks.is_empty() || self.last.total - behind >= STRETCH_BYTES {
            self.marks.push_back(self.last);
        }
        self.last = Mark {
            index,
            total: self.last.total + bytes,
        };
    }

    /// Entries after `index` are gone.
    pub fn truncate_after(&mut self, index: u64) {
        let total = self.total_at(index);
        self.marks.truncate(self.marks_before(index));
        self.last = Mark { index, total };
    }

    /// Entries up to `index` are gone.
    pub fn purge(&mut self, index: u64) {
        let total = self.total_at(index);
        self.marks.drain(..self.marks_before(index));
        let begin = Mark { index, total };
        self.marks.push_front(begin);
        if self.last.index < index {
            self.last = begin;
        }
    }

    /// Bytes of the entries after `index`.
    pub fn after(&self, index: u64) -> u64 {
        self.last.total - self.total_at(index)
    }

    /// The index after which entries of `bytes` follow; of the last one purged, when fewer do.
    pub fn index_before(&self, bytes: u64) -> u64 {
        let wanted = self.last.total.saturating_sub(bytes);
        let at = self.marks.partition_point(|mark| mark.total <= wanted);
        let (low, high) = self.around(at);
        between(wanted, (low.total, high.total), (low.index, high.index))
    }

    fn total_at(&self, index: u64) -> u64 {
        let (low, high) = self.around(self.marks_before(index));
        between(index, (low.index, high.index), (low.total, high.total))
    }

    /// How many marks are at or below `index`.
    fn marks_before(&self, index: u64) -> usize {
        self.marks.partition_point(|mark| mark.index <= index)
    }

    /// The mark before the one at `at`, and that one.
    fn around(&self, at: usize) -> (Mark, Mark) {
        let mark = |at: usize| self.marks.get(at).copied();
        let high = mark(at).unwrap_or(self.last);
        let low = at.checked_sub(1).and_then(mark);
        (low.unwrap_or(mark(0).unwrap_or(self.last)), high)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Change {
        Push(u64),
        TruncateLast(usize),
        PurgeFirst(usize),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let bytes = prop_oneof![4 => 1..2_000_u64, 1 => 1..(4 * STRETCH_BYTES)];
        let change = prop_oneof![
            12 => bytes.prop_map(Change::Push),
            1 => (0..20_usize).prop_map(Change::TruncateLast),
            1 => (0..40_usize).prop_map(Change::PurgeFirst),
        ];
        prop::collection::vec(change, 0..300)
    }

    proptest! {
        #[test]
        fn sizes_are_those_of_the_entries_up_to_a_stretch(changes in changes(), begin in 0..50_u64) {
            let mut sizes = LogSizes::of(begin, begin, 0);
            let (mut purged, mut held) = (begin, Vec::<u64>::new());
            let mut largest = 0;
            for change in changes {
                match change {
                    Change::Push(bytes) => {
                        held.push(bytes);
                        largest = largest.max(bytes);
                        sizes.push(purged + held.len() as u64, bytes);
                    }
                    Change::TruncateLast(count) => {
                        held.truncate(held.len().saturating_sub(count));
                        sizes.truncate_after(purged + held.len() as u64);
                    }
                    Change::PurgeFirst(count) => {
                        let count = count.min(held.len());
                        held.drain(..count);
                        purged += count as u64;
                        sizes.purge(purged);
                    }
                }
                // What was cut off within a stretch is not known better than the stretch.
                let off = 2 * (STRETCH_BYTES + largest);
                for at in 0..=held.len() {
                    let index = purged + at as u64;
                    let bytes: u64 = held[at..].iter().sum();
                    let told = sizes.after(index);
                    prop_assert!(told.abs_diff(bytes) <= off, "{told} for {bytes} after {index}");
                    let found = sizes.index_before(told);
                    prop_assert!((purged..=purged + held.len() as u64).contains(&found));
                    prop_assert!(sizes.after(found).abs_diff(told) <= off);
                }
            }
        }
    }

    #[test]
    fn log_that_was_opened_is_taken_to_be_even() {
        let sizes = LogSizes::of(100, 200, 1_000);
        assert_eq!(sizes.after(100), 1_000);
        assert_eq!(sizes.after(150), 500);
        assert_eq!(sizes.index_before(100), 190);
        assert_eq!(sizes.index_before(5_000), 100, "all there is");
    }

    #[test]
    fn empty_log_takes_nothing() {
        assert_eq!(LogSizes::default().after(0), 0);
        assert_eq!(LogSizes::of(7, 7, 0).index_before(10), 7);
    }

    #[test]
    fn marks_are_as_many_as_the_log_is_long() {
        let mut sizes = LogSizes::default();
        for index in 1..=10_000 {
            sizes.push(index, 1_024);
        }
        assert_eq!(sizes.marks.len(), 10);
        sizes.purge(9_000);
        assert_eq!(sizes.marks.len(), 2);
    }
}
