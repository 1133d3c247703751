//! Runs: records in order, by partition and then by key.
//!
//! ```text
//! run:    region 0 | region 1 | ... | index | trailer
//! region: blocks, none when the partition is empty
//! trailer: length of the index u32 | its CRC-32C u32 | "MRRUN001"
//! index:  for each partition  at u64 | length u64 | records u64 | octets u64 | sum u64
//! ```
//! One file with an index for each map task, not one for each partition: R small files for each of
//! M tasks are what other systems drown in. A reducer reads the index once, and of the rest its
//! region.
//!
//! The sum of a region is the sum of hashes of its records, which does not depend on their order:
//! two attempts of a function that is deterministic have the same one.

use crate::block::{self, Compression, Place};
use crate::merge::Cursor;
use crate::{RunError, partition};
use std::io::{Read, Write};

/// How a run ends.
const MAGIC: &[u8; 8] = b"MRRUN001";
/// Octets after the index.
pub const TRAILER: u64 = 16;
const REGION: usize = 40;
/// Partitions that a run has at most.
pub const PARTITIONS_MAX: u32 = 250_000;

/// Where the records of a partition are, and what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Octets of the run before it.
    pub at: u64,
    /// Octets that it takes, compressed or not.
    pub length: u64,
    /// Records.
    pub records: u64,
    /// Octets of keys and values, before compression.
    pub octets: u64,
    /// Sum of the hashes of its records.
    pub sum: u64,
    /// Octets of memory for its longest block: of its records, and of what is stored if that is
    /// compressed. The index does not have it, and who reads a region from there finds 0: unknown.
    pub longest: u64,
}

/// Writes a run.
#[derive(Debug)]
pub struct RunWriter<W> {
    to: W,
    compression: Compression,
    regions: Vec<Region>,
    partition: u32,
    at: u64,
    records: Vec<u8>,
    scratch: Vec<u8>,
}

impl<W: Write> RunWriter<W> {
    /// Of so many partitions.
    pub fn new(to: W, partitions: u32, compression: Compression) -> Self {
        Self {
            to,
            compression,
            regions: vec![Region::default(); partitions as usize],
            partition: 0,
            at: 0,
            records: Vec::with_capacity(block::BLOCK + 1024),
            scratch: Vec::new(),
        }
    }

    /// Adds a record; partitions do not go down, and keys do not within one.
    ///
    /// # Panics
    /// When a partition does go down, or is none of the run's.
    pub fn push(&mut self, partition: u32, key: &[u8], value: &[u8]) -> Result<(), RunError> {
        if partition != self.partition {
            assert!(
                partition > self.partition,
                "partitions are written in order"
            );
            self.close_block()?;
            self.partition = partition;
            self.regions[partition as usize].at = self.at;
        }
        let begin = self.records.len();
        block::put(key, value, &mut self.records)?;
        let region = &mut self.regions[partition as usize];
        region.records += 1;
        region.octets += (key.len() + value.len()) as u64;
        let hash = partition::hash(&self.records[begin..]);
        region.sum = region.sum.wrapping_add(hash);
        if self.records.len() >= block::BLOCK {
            self.close_block()?;
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), RunError> {
        if !self.records.is_empty() {
            let (scratch, to) = (&mut self.scratch, &mut self.to);
            let taken = block::write(&self.records, self.compression, scratch, to)?;
            self.at += taken;
            let region = &mut self.regions[self.partition as usize];
            region.length += taken;
            let memory = block::memory(self.records.len() as u64, taken - block::HEADER as u64);
            region.longest = region.longest.max(memory);
            self.records.clear();
        }
        Ok(())
    }

    /// Writes the index; where it was written to, and where the regions are.
    pub fn finish(mut self) -> Result<(W, Vec<Region>), RunError> {
        self.close_block()?;
        let mut index = Vec::with_capacity(self.regions.len() * REGION);
        for region in &self.regions {
            let numbers = [
                region.at,
                region.length,
                region.records,
                region.octets,
                region.sum,
            ];
            for number in numbers {
                index.extend_from_slice(&number.to_le_bytes());
            }
        }
        let length = u32::try_from(index.len()).expect("partitions are bounded");
        let crc = crc32c::crc32c(&index);
        index.extend_from_slice(&length.to_le_bytes());
        index.extend_from_slice(&crc.to_le_bytes());
        index.extend_from_slice(MAGIC);
        self.to.write_all(&index)?;
        Ok((self.to, self.regions))
    }
}

/// Octets of the index, by the last [`TRAILER`] octets of a run of `length` octets.
pub fn index_length(trailer: [u8; 16], length: u64) -> Result<u64, RunError> {
    let size = u64::from(u32::from_le_bytes(trailer[..4].try_into().expect("four")));
    let fits = size + TRAILER <= length
        && size <= u64::from(PARTITIONS_MAX) * REGION as u64
        && size.is_multiple_of(REGION as u64);
    if &trailer[8..] == MAGIC && fits {
        Ok(size)
    } else {
        let (what, at) = ("it does not end as a run does", length);
        Err(RunError::Damaged { what, at })
    }
}

/// The regions of a run: its index, and the trailer after it.
pub fn read_index(index: &[u8], trailer: [u8; 16], length: u64) -> Result<Vec<Region>, RunError> {
    let (what, at) = ("its index is not what was written", length);
    let damaged = RunError::Damaged { what, at };
    let crc = u32::from_le_bytes(trailer[4..8].try_into().expect("four"));
    if crc32c::crc32c(index) != crc {
        return Err(damaged);
    }
    let number = |octets: &[u8], at: usize| {
        u64::from_le_bytes(octets[at * 8..at * 8 + 8].try_into().expect("eight"))
    };
    let regions = index.chunks_exact(REGION).map(|octets| Region {
        at: number(octets, 0),
        length: number(octets, 1),
        records: number(octets, 2),
        octets: number(octets, 3),
        sum: number(octets, 4),
        longest: 0,
    });
    let regions: Vec<Region> = regions.collect();
    let end = |region: &Region| region.at.checked_add(region.length);
    let inside = |region: &Region| end(region).is_some_and(|end| end <= length);
    if regions.iter().all(inside) {
        Ok(regions)
    } else {
        Err(damaged)
    }
}

/// Reads the records of a region.
#[derive(Debug)]
pub struct RegionReader<R> {
    from: R,
    left: u64,
    at: u64,
    stored: Vec<u8>,
    records: Vec<u8>,
    place: Place,
}

impl<R: Read> RegionReader<R> {
    /// Of a region of `length` octets, which are the next of `from`.
    pub fn new(from: R, length: u64) -> Self {
        Self {
            from,
            left: length,
            at: 0,
            stored: Vec::new(),
            records: Vec::new(),
            place: Place::default(),
        }
    }

    /// Octets of the region that were read.
    pub fn taken(&self) -> u64 {
        self.at
    }
}

impl<R: Read> Cursor for RegionReader<R> {
    fn advance(&mut self) -> Result<bool, RunError> {
        if self.place.end == self.records.len() {
            if self.left == 0 {
                return Ok(false);
            }
            let (stored, records) = (&mut self.stored, &mut self.records);
            let taken = block::read(&mut self.from, self.left, self.at, stored, records)?;
            self.left -= taken;
            self.at += taken;
            self.place = Place::default();
        }
        let place = block::place(&self.records, self.place.end);
        let (what, at) = ("a record does not fit its block", self.at);
        self.place = place.ok_or(RunError::Damaged { what, at })?;
        Ok(true)
    }

    fn key(&self) -> &[u8] {
        &self.records[self.place.key..self.place.value]
    }

    fn value(&self) -> &[u8] {
        &self.records[self.place.value..self.place.end]
    }
}

/// Compares the checksums of all blocks of a region of so many octets, without unpacking them; the
/// octets of memory for the longest one, as [`Region::longest`] has them.
pub fn check(mut from: impl Read, length: u64) -> Result<u64, RunError> {
    let mut stored = Vec::new();
    let (mut taken, mut longest) = (0, 0);
    while taken < length {
        let (more, memory) = block::check(&mut from, length - taken, taken, &mut stored)?;
        taken += more;
        longest = longest.max(memory);
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Records = Vec<(u32, Vec<u8>, Vec<u8>)>;

    fn records() -> impl Strategy<Value = Records> {
        let octets = || prop::collection::vec(any::<u8>(), 0..300);
        let one = (0_u32..5, octets(), octets());
        prop::collection::vec(one, 0..800).prop_map(|mut records| {
            records.sort();
            records
        })
    }

    fn compression() -> impl Strategy<Value = Compression> {
        prop_oneof![Just(Compression::None), Just(Compression::Lz4)]
    }

    fn written(records: &Records, compression: Compression) -> Vec<u8> {
        let mut writer = RunWriter::new(Vec::new(), 5, compression);
        for (partition, key, value) in records {
            writer.push(*partition, key, value).expect("memory");
        }
        writer.finish().expect("memory").0
    }

    /// All that is in a run, as one who gets it from a peer reads it.
    fn read(run: &[u8]) -> Result<Records, RunError> {
        let length = run.len() as u64;
        let (what, at) = ("it is short", length);
        let (rest, trailer) = run
            .split_last_chunk::<16>()
            .ok_or(RunError::Damaged { what, at })?;
        let index = usize::try_from(index_length(*trailer, length)?).expect("it fits");
        let regions = read_index(&rest[rest.len() - index..], *trailer, length)?;
        let mut all = Vec::new();
        for (partition, region) in (0..).zip(regions) {
            let begin = usize::try_from(region.at).expect("it fits");
            let mut reader = RegionReader::new(&run[begin..], region.length);
            while reader.advance()? {
                all.push((partition, reader.key().to_vec(), reader.value().to_vec()));
            }
        }
        Ok(all)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(records in records(), compression in compression()) {
            prop_assert_eq!(read(&written(&records, compression)).expect("a run"), records);
        }

        #[test]
        fn damage_is_noticed_and_never_read(
            records in records(), compression in compression(), at: prop::sample::Index, bit in 0_u8..8,
        ) {
            let mut run = written(&records, compression);
            let at = at.index(run.len());
            run[at] ^= 1_u8 << bit;
            if let Ok(found) = read(&run) {
                prop_assert_eq!(found, records);
            }
        }

        #[test]
        fn region_whose_checksums_are_right_can_be_read(
            records in records(), compression in compression(), at: prop::sample::Index, bit in 0_u8..8,
        ) {
            let mut writer = RunWriter::new(Vec::new(), 1, compression);
            for (_, key, value) in &records {
                writer.push(0, key, value).expect("memory");
            }
            let (mut run, regions) = writer.finish().expect("memory");
            let length = regions[0].length;
            prop_assert_eq!(check(&run[..], length).expect("it is whole"), regions[0].longest);
            if length > 0 {
                let at = at.index(usize::try_from(length).expect("it fits"));
                run[at] ^= 1_u8 << bit;
                prop_assert!(check(&run[..], length).is_err());
            }
        }

        #[test]
        fn sums_depend_on_what_is_there_and_not_on_its_order(records in records()) {
            let sums = |records: &Records| {
                let mut writer = RunWriter::new(std::io::sink(), 5, Compression::None);
                for (partition, key, value) in records {
                    writer.push(*partition, key, value).expect("nowhere");
                }
                let regions = writer.finish().expect("nowhere").1;
                regions.iter().map(|region| region.sum).collect::<Vec<_>>()
            };
            let before = sums(&records);
            let mut turned: BTreeMap<u32, Records> = BTreeMap::new();
            for record in records.iter().rev() {
                turned.entry(record.0).or_default().push(record.clone());
            }
            let mut turned: Records = turned.into_values().flatten().collect();
            prop_assert_eq!(&sums(&turned), &before);
            if let Some(last) = turned.last_mut() {
                last.2.push(0);
                prop_assert_ne!(sums(&turned), before);
            }
        }
    }

    #[test]
    fn longest_block_of_a_region_is_known_with_what_is_stored_of_it() {
        let long = vec![7; 3 * block::BLOCK];
        let records = [(0, vec![1; 9]), (2, long.clone()), (2, vec![2; 9])];
        let longest = |compression| {
            let mut writer = RunWriter::new(std::io::sink(), 3, compression);
            for (partition, value) in &records {
                writer.push(*partition, b"key", value).expect("nowhere");
            }
            let regions = writer.finish().expect("nowhere").1;
            regions
                .iter()
                .map(|region| region.longest)
                .collect::<Vec<_>>()
        };
        // A record, and the lengths of its key and value.
        let raw = long.len() as u64 + 3 + 1 + 3;
        assert_eq!(longest(Compression::None), [14, 0, raw]);
        // What does not become smaller is stored as it is; what does is beside what it was.
        let packed = longest(Compression::Lz4);
        assert_eq!(packed[..2], [14, 0]);
        assert!((raw + 1..raw + 9_000).contains(&packed[2]), "{packed:?}");
    }

    #[test]
    fn lengths_that_are_promised_take_no_memory() {
        let mut block = Vec::new();
        for word in [u32::MAX - (1 << 31), u32::MAX, 0] {
            block.extend_from_slice(&word.to_le_bytes());
        }
        let mut reader = RegionReader::new(&block[..], u64::MAX);
        let error = reader.advance().expect_err("two gigabytes");
        let said = "the run is damaged: a block has an impossible size, at octet 0";
        assert_eq!(error.to_string(), said);
    }

    #[test]
    fn record_that_is_too_long_is_refused_with_its_length() {
        let mut writer = RunWriter::new(std::io::sink(), 1, Compression::None);
        let error = writer.push(0, b"k", &vec![0; crate::RECORD_MAX]);
        let said = "a record has 67108865 octets, the limit is 67108864";
        assert_eq!(error.expect_err("too long").to_string(), said);
    }

    #[test]
    fn run_is_the_same_octets_as_ever() {
        let records = vec![(1, b"key".to_vec(), b"value".to_vec())];
        let run = written(&records, Compression::None);
        let header = [0x0A, 0, 0, 0, 0x0A, 0, 0, 0, 0xDF, 0xE0, 0x9C, 0xB9];
        assert_eq!(&run[..12], header);
        assert_eq!(&run[12..22], b"\x03\x05keyvalue");
        assert_eq!(run.len() as u64, 12 + 10 + 5 * 40 + TRAILER);
    }
}
