//! Who waits for a key: watchers by key, by prefix and by range.
//!
//! Why by prefix: nearly all ranges that are watched are prefixes, and each event asks for them
//! under the hub's lock, on the thread that applies. A key is looked up once for each length of a
//! prefix that somebody watches, however many watch. Only other ranges are looked at one by one.
//!
//! Invariant: each watcher is at exactly one place, the one that `places` names.

use std::collections::BTreeMap;

use bytes::Bytes;
use cluster_core::store::{KeyRange, prefix_end};

use super::cursor::Interest;

/// Who a watcher is: its stream, and its id in the stream.
pub(super) type WatcherId = (u64, i64);

type Watchers<T> = BTreeMap<WatcherId, T>;

#[derive(Debug)]
enum Place {
    Key(Bytes),
    Prefix(Bytes),
    Range(KeyRange),
}

impl Place {
    fn of(interest: &Interest) -> Self {
        match interest {
            Interest::Key(key) => Self::Key(key.clone()),
            Interest::Range(range) if range.end == prefix_end(&range.start) => {
                Self::Prefix(range.start.clone())
            }
            Interest::Range(range) => Self::Range(range.clone()),
        }
    }
}

/// Watchers, each with a `T`.
#[derive(Debug)]
pub(super) struct Index<T> {
    keys: BTreeMap<Bytes, Watchers<T>>,
    prefixes: BTreeMap<Bytes, Watchers<T>>,
    /// How many entries `prefixes` has of each length.
    lengths: BTreeMap<usize, usize>,
    ranges: BTreeMap<WatcherId, (KeyRange, T)>,
    places: BTreeMap<WatcherId, Place>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            lengths: BTreeMap::new(),
            ranges: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }
}

impl<T> Index<T> {
    /// Puts a watcher in, with what it wants; one of the same id goes.
    pub(super) fn insert(&mut self, id: WatcherId, interest: &Interest, watcher: T) {
        self.remove(id);
        let place = Place::of(interest);
        match &place {
            Place::Key(key) => {
                self.keys
                    .entry(key.clone())
                    .or_default()
                    .insert(id, watcher);
            }
            Place::Prefix(prefix) => {
                let watchers = self.prefixes.entry(prefix.clone()).or_default();
                if watchers.is_empty() {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                watchers.insert(id, watcher);
            }
            Place::Range(range) => {
                self.ranges.insert(id, (range.clone(), watcher));
            }
        }
        self.places.insert(id, place);
    }

    /// Takes a watcher out.
    pub(super) fn remove(&mut self, id: WatcherId) {
        match self.places.remove(&id) {
            Some(Place::Key(key)) => {
                remove(&mut self.keys, &key, id);
            }
            Some(Place::Prefix(prefix)) => {
                if remove(&mut self.prefixes, &prefix, id)
                    && let Some(count) = self.lengths.get_mut(&prefix.len())
                {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            Some(Place::Range(_)) => {
                self.ranges.remove(&id);
            }
            None => {}
        }
    }

    /// The watchers that want `key`.
    pub(super) fn of_key(&self, key: &[u8]) -> impl Iterator<Item = (WatcherId, &T)> {
        let exact = self.keys.get(key);
        let prefixed = self
            .lengths
            .keys()
            .take_while(|length| **length <= key.len())
            .filter_map(|length| self.prefixes.get(&key[..*length]));
        let ranges = self
            .ranges
            .iter()
            .filter(|(_, (range, _))| range.contains(key))
            .map(|(id, (_, watcher))| (*id, watcher));
        let indexed = exact.into_iter().chain(prefixed).flatten();
        indexed.map(|(id, watcher)| (*id, watcher)).chain(ranges)
    }

    /// All watchers.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        let indexed = self.keys.values().chain(self.prefixes.values());
        let ranges = self.ranges.values().map(|(_, watcher)| watcher);
        indexed.flat_map(BTreeMap::values).chain(ranges)
    }

    /// Ids of the watchers of a stream.
    pub(super) fn of_stream(&self, stream: u64) -> Vec<WatcherId> {
        let own = self.places.range((stream, i64::MIN)..=(stream, i64::MAX));
        own.map(|(id, _)| *id).collect()
    }

    /// Count of watchers.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}

/// Takes a watcher out of `map`; says whether it was the last one there.
fn remove<T>(map: &mut BTreeMap<Bytes, Watchers<T>>, key: &Bytes, id: WatcherId) -> bool {
    let Some(watchers) = map.get_mut(key) else {
        return false;
    };
    watchers.remove(&id);
    let last = watchers.is_empty();
    if last {
        map.remove(key);
    }
    last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        let byte = prop_oneof![Just(0x00u8), Just(0x61), Just(0x62), Just(0xff)];
        prop::collection::vec(byte, 0..4).prop_map(Bytes::from)
    }

    fn interest() -> impl Strategy<Value = Interest> {
        prop_oneof![
            key().prop_map(Interest::Key),
            key().prop_map(|prefix| Interest::Range(KeyRange::prefix(prefix))),
            key().prop_map(|start| Interest::Range(KeyRange::from(start))),
            (key(), key()).prop_map(|(start, end)| Interest::Range(KeyRange::new(start, end))),
        ]
    }

    proptest! {
        #[test]
        fn key_finds_the_watchers_that_a_plain_filter_finds(
            steps in prop::collection::vec((0u64..3, 0i64..4, prop::option::of(interest())), 1..40),
            keys in prop::collection::vec(key(), 1..8),
        ) {
            let mut index = Index::default();
            let mut plain: BTreeMap<WatcherId, Interest> = BTreeMap::new();
            for (stream, id, interest) in steps {
                let id = (stream, id);
                if let Some(interest) = interest {
                    index.insert(id, &interest, id);
                    plain.insert(id, interest);
                } else {
                    index.remove(id);
                    plain.remove(&id);
                }
            }
            for key in keys {
                let mut found: Vec<WatcherId> = index.of_key(&key).map(|(id, _)| id).collect();
                found.sort_unstable();
                let wanted = plain.iter().filter(|(_, interest)| interest.contains(&key));
                prop_assert_eq!(found, wanted.map(|(id, _)| *id).collect::<Vec<_>>());
            }
            prop_assert_eq!(index.len(), plain.len());
            prop_assert_eq!(index.all().count(), plain.len());
            for stream in 0..3 {
                for id in index.of_stream(stream) {
                    index.remove(id);
                }
            }
            prop_assert!(index.keys.is_empty() && index.prefixes.is_empty());
            prop_assert!(index.lengths.is_empty() && index.ranges.is_empty());
        }
    }

    #[test]
    fn many_prefixes_of_one_length_are_one_look_up() {
        let mut index = Index::default();
        for number in 0..1_000 {
            let prefix = format!("/agents/{number:04}/");
            index.insert((1, number), &Interest::Range(KeyRange::prefix(prefix)), ());
        }
        assert_eq!(index.lengths, BTreeMap::from([(13, 1_000)]));
        assert!(index.ranges.is_empty());
        let found: Vec<WatcherId> = index
            .of_key(b"/agents/0042/lease")
            .map(|(id, ())| id)
            .collect();
        assert_eq!(found, [(1, 42)]);
    }
}
