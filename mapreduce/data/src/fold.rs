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

    /// Octets of memory that the table takes, of so many places for keys.
    fn table(places: usize) -> usize {
        places * (size_of::<Entry<C::Sum>>() + 1)
    }

    /// Whether its memory is used, or will be by the next new key: a table without a free place is
    /// doubled for it.
    fn is_full(&self) -> bool {
        let places = self.table.capacity();
        let needed = if self.table.len() < places {
            places
        } else {
            places * 2
        };
        self.keys.len() + Self::table(needed) + self.memory >= self.budget
    }

    /// Forgets all. The table stays as it is for the next keys, unless most of it was for nothing:
    /// keys or sums are long now, and shall have the memory that it takes.
    fn clear(&mut self) {
        let count = self.table.len();
        self.table.clear();
        if count < self.table.capacity() / 2 {
            self.table.shrink_to(count, |entry| entry.hash);
        }
        self.keys.clear();
        self.memory = 0;
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
        self.clear();
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

    /// Pushes keys and writes whenever it is time to; how many keys each run had, of those that were
    /// written.
    fn runs(buffer: &mut FoldBuffer<Sum>, keys: impl Iterator<Item = String>) -> Vec<usize> {
        let mut runs = Vec::new();
        for key in keys {
            let before = buffer.table.len();
            if buffer.push(key.as_bytes(), 1).expect("it is short") {
                assert!(buffer.table.len() > before, "only a new key takes memory");
                runs.push(buffer.table.len());
                let mut writer = RunWriter::new(std::io::sink(), 1, Compression::None);
                buffer.write(&mut writer, |_, _| 0).expect("nowhere");
            }
            let taken = buffer.keys.len() + FoldBuffer::<Sum>::table(buffer.table.capacity());
            assert!(taken < buffer.budget, "{taken} octets");
        }
        runs
    }

    #[test]
    fn table_is_written_instead_of_doubled_beyond_the_budget() {
        let numbers = || (0..100_000_u32).map(|number| format!("{number:07}"));
        // What is left for keys beside a table is now much of it and now little.
        for budget in (500_000..1_000_000).step_by(49_973) {
            let mut buffer = FoldBuffer::new(Sum, budget);
            let runs = runs(&mut buffer, numbers());
            let least = runs.iter().min().copied().unwrap_or_default();
            // A key takes 32 octets, and half of a table may be empty.
            assert!(least > budget / 80, "{budget}: {runs:?}");
        }
    }

    #[test]
    fn keys_that_are_longer_than_those_before_have_the_memory_of_the_table() {
        let short = (0..60_000).map(|number| format!("{number:05}"));
        let long = (0..2_000).map(|number| format!("{number:01000}"));
        // A little more than a table takes.
        let mut buffer = FoldBuffer::new(Sum, 28_672 * 25 + 160_000);
        let runs = runs(&mut buffer, short.chain(long));
        let long = runs.iter().filter(|count| **count < 1_000).count();
        assert!((2..6).contains(&long), "{runs:?}");
    }

    #[test]
    fn buffer_is_not_full_after_a_key_and_a_sum_beyond_its_budget() {
        let mut buffer = FoldBuffer::new(Concat, 4_000);
        for round in 0..10 {
            let key = vec![round; 9_000];
            assert!(buffer.push(&key, &[0; 9_000]).expect("it is short"));
            let mut writer = RunWriter::new(std::io::sink(), 1, Compression::None);
            buffer.write(&mut writer, |_, _| 0).expect("nowhere");
            assert!(buffer.is_empty() && !buffer.is_full());
            assert!(!buffer.push(b"key", b"value").expect("it is short"));
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
