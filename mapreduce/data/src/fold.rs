//! Folding: the values of a key are put together as they are collected (a combiner), in a table of
//! keys. For data whose keys repeat this takes a third of what sorting and then combining does.

use crate::codec::Codec;
use crate::merge::prefix;
use crate::run::RunWriter;
use crate::{RECORD_MAX, RunError, partition};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Found;
use std::io::Write;

/// How values of one key are put together. It is done any number of times, to any values in any
/// order, or not at all: it must be commutative and associative, and what it writes is a value
/// again.
pub trait Combine: 'static {
    /// Of the values.
    type Value: Codec;
    /// What they are put together in.
    type Sum;

    /// Of one value.
    fn first(&self, value: <Self::Value as Codec>::Ref<'_>) -> Self::Sum;

    /// Of one more.
    fn add(&self, sum: &mut Self::Sum, value: <Self::Value as Codec>::Ref<'_>);

    /// Appends it as a value.
    fn write(&self, sum: &Self::Sum, to: &mut Vec<u8>);

    /// Octets of memory that it takes beyond its size.
    fn memory(&self, _sum: &Self::Sum) -> usize {
        0
    }
}

/// Octets of memory beyond which a sum is written as it is, and another one begun: what a key's
/// values are put together in stays far below the longest record.
pub const SUM_MAX: usize = 1 << 20;

#[derive(Debug)]
struct Entry<S> {
    hash: u64,
    at: u32,
    length: u32,
    sum: S,
}

/// Collects folded values, and writes them in order.
#[derive(Debug)]
pub struct FoldBuffer<C: Combine> {
    combine: C,
    keys: Vec<u8>,
    table: HashTable<Entry<C::Sum>>,
    /// Of sums, beyond their size.
    memory: usize,
    budget: usize,
}

impl<C: Combine> FoldBuffer<C> {
    /// Takes about `budget` octets of memory.
    pub fn new(combine: C, budget: usize) -> Self {
        Self {
            combine,
            keys: Vec::new(),
            table: HashTable::new(),
            memory: 0,
            budget: budget.min(u32::MAX as usize - RECORD_MAX),
        }
    }

    /// How values are put together.
    pub fn combine(&self) -> &C {
        &self.combine
    }

    /// Adds a value; whether it is time to write all.
    pub fn push(
        &mut self,
        key: &[u8],
        value: <C::Value as Codec>::Ref<'_>,
    ) -> Result<bool, RunError> {
        if key.len() > RECORD_MAX {
            return Err(RunError::TooLong { length: key.len() });
        }
        let hash = partition::hash(key);
        let keys = &mut self.keys;
        let is_it = |entry: &Entry<C::Sum>| {
            entry.hash == hash && &keys[entry.at as usize..][..entry.length as usize] == key
        };
        match self.table.entry(hash, is_it, |entry| entry.hash) {
            Found::Occupied(mut found) => {
                let sum = &mut found.get_mut().sum;
                let before = self.combine.memory(sum);
                self.combine.add(sum, value);
                let after = self.combine.memory(sum);
                self.memory = self.memory + after - before;
                Ok(after > before && (after > SUM_MAX || self.is_full()))
            }
            Found::Vacant(place) => {
                let sum = self.combine.first(value);
                self.memory += self.combine.memory(&sum);
                place.insert(Entry {
                    hash,
                    at: u32::try_from(keys.len()).expect("the budget is below 4 GB"),
                    length: u32::try_from(key.len()).expect("a record is below 4 GB"),
                    sum,
                });
                keys.extend_from_slice(key);
                Ok(self.is_full())
            }
        }
    }

    fn is_full(&self) -> bool {
        let table = self.table.capacity() * (size_of::<Entry<C::Sum>>() + 1);
        self.keys.len() + table + self.memory >= self.budget
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Writes all in order, with the partition of each key and its hash, and is empty then.
    pub fn write(
        &mut self,
        run: &mut RunWriter<impl Write>,
        mut partition: impl FnMut(&[u8], u64) -> u32,
    ) -> Result<(), RunError> {
        let keys = &self.keys;
        let key = |entry: &Entry<C::Sum>| &keys[entry.at as usize..][..entry.length as usize];
        let order = self.table.iter().map(|entry| {
            let key = key(entry);
            (partition(key, entry.hash), prefix(key), entry)
        });
        let mut order: Vec<_> = order.collect();
        order.sort_unstable_by(|a, b| {
            let by_prefix = (a.0, a.1).cmp(&(b.0, b.1));
            by_prefix.then_with(|| key(a.2).cmp(key(b.2)))
        });
        let mut value = Vec::new();
        for (partition, _, entry) in order {
            value.clear();
            self.combine.write(&entry.sum, &mut value);
            run.push(partition, key(entry), &value)?;
        }
        self.table.clear();
        self.keys.clear();
        self.memory = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Compression;
    use crate::codec::{Bytes, U64};
    use crate::merge::Cursor as _;
    use crate::partition::by_hash;
    use crate::run::RegionReader;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    struct Sum;

    impl Combine for Sum {
        type Value = U64;
        type Sum = u64;

        fn first(&self, value: u64) -> u64 {
            value
        }

        fn add(&self, sum: &mut u64, value: u64) {
            *sum = sum.wrapping_add(value);
        }

        fn write(&self, sum: &u64, to: &mut Vec<u8>) {
            U64::encode(*sum, to);
        }
    }

    /// One whose sums grow.
    struct Concat;

    impl Combine for Concat {
        type Value = Bytes;
        type Sum = Vec<u8>;

        fn first(&self, value: &[u8]) -> Vec<u8> {
            value.to_vec()
        }

        fn add(&self, sum: &mut Vec<u8>, value: &[u8]) {
            sum.extend_from_slice(value);
        }

        fn write(&self, sum: &Vec<u8>, to: &mut Vec<u8>) {
            to.extend_from_slice(sum);
        }

        fn memory(&self, sum: &Vec<u8>) -> usize {
            sum.capacity()
        }
    }

    proptest! {
        #[test]
        fn each_key_is_written_once_in_order_with_the_sum_of_its_values(
            records in prop::collection::vec(
                (prop::collection::vec(0_u8..2, 0..11), any::<u64>()), 0..300,
            ),
        ) {
            let mut buffer = FoldBuffer::new(Sum, 1 << 20);
            let mut expected: BTreeMap<(u32, Vec<u8>), u64> = BTreeMap::new();
            for (key, value) in records {
                prop_assert!(!buffer.push(&key, value).expect("it is short"));
                let sum = expected.entry((by_hash(partition::hash(&key), 3), key)).or_default();
                *sum = sum.wrapping_add(value);
            }
            let mut writer = RunWriter::new(Vec::new(), 3, Compression::Lz4);
            buffer.write(&mut writer, |_, hash| by_hash(hash, 3)).expect("memory");
            prop_assert!(buffer.is_empty());
            let (run, regions) = writer.finish().expect("memory");
            let mut found = Vec::new();
            for (partition, region) in (0..).zip(regions) {
                let at = usize::try_from(region.at).expect("it is short");
                let mut reader = RegionReader::new(&run[at..], region.length);
                while reader.advance().expect("memory") {
                    let sum = U64::decode(reader.value()).expect("a number");
                    found.push(((partition, reader.key().to_vec()), sum));
                }
            }
            prop_assert_eq!(found, Vec::from_iter(expected));
        }
    }

    #[test]
    fn sums_that_grow_count_for_the_budget() {
        let mut buffer = FoldBuffer::new(Concat, 100_000);
        let pushed = (0..2_000).find(|_| buffer.push(b"key", &[0; 100]).expect("it is short"));
        // They double as they grow; what is full first is about the budget.
        assert!(
            pushed.is_some_and(|pushed| (400..1_000).contains(&pushed)),
            "{pushed:?}"
        );
    }
}
