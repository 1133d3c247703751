//! Records that wait in memory to be sorted.

use crate::merge::{Cursor, prefix};
use crate::run::RunWriter;
use crate::{RECORD_MAX, RunError};
use std::io::Write;

/// Octets of keys and values that a buffer can address.
const OCTETS_MAX: usize = u32::MAX as usize;

#[derive(Clone, Copy, Debug)]
struct Entry {
    partition: u32,
    key_length: u32,
    prefix: u64,
    at: u32,
    value_length: u32,
}

impl Entry {
    fn key<'a>(&self, octets: &'a [u8]) -> &'a [u8] {
        &octets[self.at as usize..][..self.key_length as usize]
    }

    fn value<'a>(&self, octets: &'a [u8]) -> &'a [u8] {
        let at = self.at as usize + self.key_length as usize;
        &octets[at..][..self.value_length as usize]
    }
}

/// Collects records, and writes them in order.
#[derive(Debug)]
pub struct SortBuffer {
    octets: Vec<u8>,
    entries: Vec<Entry>,
    budget: usize,
}

impl SortBuffer {
    /// Takes about `budget` octets of memory.
    pub fn new(budget: usize) -> Self {
        Self {
            octets: Vec::new(),
            entries: Vec::new(),
            budget: budget.min(OCTETS_MAX - RECORD_MAX),
        }
    }

    /// Adds a record; whether it is time to write all of them.
    pub fn push(&mut self, partition: u32, key: &[u8], value: &[u8]) -> Result<bool, RunError> {
        let length = key.len() + value.len();
        if length > RECORD_MAX {
            return Err(RunError::TooLong { length });
        }
        let number = |number: usize| u32::try_from(number).expect("the budget is below 4 GB");
        self.entries.push(Entry {
            partition,
            key_length: number(key.len()),
            prefix: prefix(key),
            at: number(self.octets.len()),
            value_length: number(value.len()),
        });
        self.octets.extend_from_slice(key);
        self.octets.extend_from_slice(value);
        let taken = self.octets.len() + self.entries.len() * size_of::<Entry>();
        Ok(taken >= self.budget)
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Records that wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn sort(&mut self) {
        let octets = &self.octets;
        self.entries.sort_unstable_by(|a, b| {
            let by_prefix = (a.partition, a.prefix).cmp(&(b.partition, b.prefix));
            by_prefix.then_with(|| a.key(octets).cmp(b.key(octets)).then(a.at.cmp(&b.at)))
        });
    }

    /// Goes over all in order, partition by partition. Records with one key keep their order.
    pub fn sorted(&mut self) -> Sorted<'_> {
        self.sort();
        Sorted {
            octets: &self.octets,
            entries: &self.entries,
            next: 0,
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.octets.clear();
        self.entries.clear();
    }

    /// Writes all in order, and is empty then. Records with one key keep their order.
    pub fn write(&mut self, run: &mut RunWriter<impl Write>) -> Result<(), RunError> {
        self.sort();
        for entry in &self.entries {
            let (key, value) = (entry.key(&self.octets), entry.value(&self.octets));
            run.push(entry.partition, key, value)?;
        }
        self.clear();
        Ok(())
    }
}

/// The records of a buffer, in order.
#[derive(Debug)]
pub struct Sorted<'a> {
    octets: &'a [u8],
    entries: &'a [Entry],
    next: usize,
}

impl Cursor for Sorted<'_> {
    fn advance(&mut self) -> Result<bool, RunError> {
        self.next += 1;
        Ok(self.next <= self.entries.len())
    }

    fn key(&self) -> &[u8] {
        self.entries[self.next - 1].key(self.octets)
    }

    fn value(&self) -> &[u8] {
        self.entries[self.next - 1].value(self.octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Compression;
    use crate::run::RegionReader;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_are_written_by_partition_and_key_and_then_as_they_came(
            records in prop::collection::vec(
                (0_u32..3, prop::collection::vec(0_u8..2, 0..11), any::<u16>()), 0..300,
            ),
        ) {
            let mut buffer = SortBuffer::new(1 << 20);
            for (partition, key, value) in &records {
                let full = buffer.push(*partition, key, &value.to_be_bytes());
                prop_assert!(!full.expect("they are short"));
            }
            prop_assert_eq!(buffer.len(), records.len());
            let mut gone_over = Vec::new();
            let mut sorted = buffer.sorted();
            while sorted.advance().expect("memory") {
                let value = sorted.value().try_into().expect("two octets");
                gone_over.push((sorted.key().to_vec(), u16::from_be_bytes(value)));
            }
            let mut writer = RunWriter::new(Vec::new(), 3, Compression::None);
            buffer.write(&mut writer).expect("memory");
            prop_assert!(buffer.is_empty());
            let (run, regions) = writer.finish().expect("memory");
            let mut found = Vec::new();
            for (partition, region) in (0..).zip(regions) {
                let at = usize::try_from(region.at).expect("it is short");
                let mut reader = RegionReader::new(&run[at..], region.length);
                while reader.advance().expect("memory") {
                    let value = reader.value().try_into().expect("two octets");
                    found.push((partition, reader.key().to_vec(), u16::from_be_bytes(value)));
                }
            }
            let mut expected = records;
            expected.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            prop_assert_eq!(&found, &expected);
            let expected = expected.into_iter().map(|(_, key, value)| (key, value));
            prop_assert_eq!(gone_over, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn buffer_is_full_when_its_budget_is_used() {
        let mut buffer = SortBuffer::new(10_000);
        let pushed = (0..1_000).find(|_| buffer.push(0, b"k", &[0; 99]).expect("it is short"));
        // 100 octets and an entry of 24 for each.
        assert_eq!(pushed, Some(80));
    }
}
