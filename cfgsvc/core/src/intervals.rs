//! A set of raw keys made of ranges, for the check that a transaction touches no key twice.
//!
//! Why merged: a request of a megabyte can hold a hundred thousand ranges; the check must stay
//! near linear.
//!
//! Invariant: the ranges are disjoint and do not touch; `None` is no end, and only the last has it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

/// Keys in ranges.
#[derive(Debug, Default)]
pub(crate) struct Intervals {
    /// Start of a range to its end.
    ranges: BTreeMap<Bytes, Option<Bytes>>,
}

/// Half-open range of raw keys by etcd's rules for `range_end`; `None` when no key is in it.
pub(crate) fn raw_range(key: &Bytes, range_end: &Bytes) -> Option<(Bytes, Option<Bytes>)> {
    match range_end.as_ref() {
        b"" => {
            let mut end = Vec::with_capacity(key.len() + 1);
            end.extend_from_slice(key);
            end.push(0);
            Some((key.clone(), Some(end.into())))
        }
        b"\0" => Some((key.clone(), None)),
        end if end <= key.as_ref() => None,
        _ => Some((key.clone(), Some(range_end.clone()))),
    }
}

/// Whether end `a` is before end `b`.
fn ends_before(a: Option<&Bytes>, b: Option<&Bytes>) -> bool {
    match (a, b) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(a), Some(b)) => a < b,
    }
}

impl Intervals {
    /// Adds a range that is not empty.
    pub(crate) fn insert(&mut self, start: Bytes, end: Option<Bytes>) {
        let (mut start, mut end) = (start, end);
        if let Some((before, its_end)) = self.ranges.range::<Bytes, _>(..=&start).next_back()
            && its_end.as_ref().is_none_or(|its_end| *its_end >= start)
        {
            start = before.clone();
        }
        let upper = end.clone().map_or(Bound::Unbounded, Bound::Included);
        let swallowed: Vec<Bytes> = self
            .ranges
            .range::<Bytes, _>((Bound::Included(start.clone()), upper))
            .map(|(key, _)| key.clone())
            .collect();
        for key in swallowed {
            if let Some(its_end) = self.ranges.remove(&key)
                && ends_before(end.as_ref(), its_end.as_ref())
            {
                end = its_end;
            }
        }
        self.ranges.insert(start, end);
    }

    /// Whether `key` is in a range.
    pub(crate) fn contains(&self, key: &Bytes) -> bool {
        let found = self.ranges.range::<Bytes, _>(..=key).next_back();
        found.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < end))
    }

    /// Whether any of `keys` is in a range.
    pub(crate) fn contain_any(&self, keys: &BTreeSet<Bytes>) -> bool {
        // Whichever is fewer is walked.
        if keys.len() < self.ranges.len() {
            return keys.iter().any(|key| self.contains(key));
        }
        self.ranges.iter().any(|(start, end)| {
            let upper = end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let bounds = (Bound::Included(start), upper);
            keys.range::<Bytes, _>(bounds).next().is_some()
        })
    }

    /// Adds all of `other`.
    pub(crate) fn extend(&mut self, other: Self) {
        for (start, end) in other.ranges {
            self.insert(start, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2)], 0..3).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn holds_a_key_when_one_of_the_ranges_does(
            ranges in prop::collection::vec((key(), key()), 0..8), probes in
            prop::collection::btree_set(key(), 1..6),
        ) {
            let raw: Vec<_> = ranges.iter().filter_map(|(k, e)| raw_range(k, e)).collect();
            let mut set = Intervals::default();
            for (start, end) in raw.clone() {
                set.insert(start, end);
            }
            let wanted = |probe: &Bytes| raw.iter().any(|(start, end)| {
                probe >= start && end.as_ref().is_none_or(|end| probe < end)
            });
            for probe in &probes {
                prop_assert_eq!(set.contains(probe), wanted(probe));
            }
            prop_assert_eq!(set.contain_any(&probes), probes.iter().any(wanted));
        }
    }
}
