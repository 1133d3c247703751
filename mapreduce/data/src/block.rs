//! Blocks: how records lie in a run.
//!
//! ```text
//! block:  stored u32 | raw u32 | CRC-32C of both and of what is stored, u32 | stored octets
//! raw:    key length | value length | key | value | ...      lengths as LEB128
//! ```
//! Numbers are little-endian. `raw` has its highest bit set when what is stored is compressed with
//! LZ4 (block format). A block has about [`BLOCK`] octets before it is compressed, and more for a
//! record that is longer.

use crate::{RECORD_MAX, RunError};
use std::io::{Read, Write};

/// Octets of records after which a block is closed.
pub const BLOCK: usize = 128 << 10;
/// Octets before what is stored.
pub const HEADER: usize = 12;
/// A block holds at most one record beyond its size; ten octets for each length.
const RAW_MAX: usize = BLOCK + RECORD_MAX + 20;
const COMPRESSED: u32 = 1 << 31;

/// What is done to blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// For disks of the machine itself.
    None,
    /// For what goes over a network.
    Lz4,
}

/// Appends a length.
pub(crate) fn put_length(mut length: usize, to: &mut Vec<u8>) {
    while length >= 0x80 {
        to.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    to.push(length.to_le_bytes()[0]);
}

/// A length, and where what follows it begins.
fn length(octets: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut length = 0_usize;
    for shift in (0..35).step_by(7) {
        let octet = *octets.get(at)?;
        at += 1;
        length |= usize::from(octet & 0x7F) << shift;
        if octet & 0x80 == 0 {
            return Some((length, at));
        }
    }
    None
}

/// Where a record lies in the octets of a block, and where the next one begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) key: usize,
    pub(crate) value: usize,
    pub(crate) end: usize,
}

/// The record at an octet of a block; `None` when it is damaged.
pub(crate) fn place(octets: &[u8], at: usize) -> Option<Place> {
    let (key_length, at) = length(octets, at)?;
    let (value_length, key) = length(octets, at)?;
    let value = key.checked_add(key_length)?;
    let end = value.checked_add(value_length)?;
    (end <= octets.len()).then_some(Place { key, value, end })
}

/// Appends a record.
pub(crate) fn put(key: &[u8], value: &[u8], to: &mut Vec<u8>) -> Result<(), RunError> {
    let length = key.len() + value.len();
    if length > RECORD_MAX {
        return Err(RunError::TooLong { length });
    }
    put_length(key.len(), to);
    put_length(value.len(), to);
    to.extend_from_slice(key);
    to.extend_from_slice(value);
    Ok(())
}

fn checksum(stored: u32, raw: u32, octets: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&stored.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &raw.to_le_bytes());
    crc32c::crc32c_append(crc, octets)
}

/// Writes a block of these records; the octets that it takes. What does not become smaller is not
/// compressed.
pub(crate) fn write(
    records: &[u8],
    compression: Compression,
    scratch: &mut Vec<u8>,
    to: &mut impl Write,
) -> Result<u64, RunError> {
    let length = u32::try_from(records.len()).expect("a block is far below 2 GB");
    let mut raw = length;
    let mut stored = records;
    if compression == Compression::Lz4 {
        scratch.resize(lz4_flex::block::get_maximum_output_size(records.len()), 0);
        // The size is the one that is asked for.
        let size = lz4_flex::block::compress_into(records, scratch).unwrap_or(records.len());
        if size < records.len() {
            stored = &scratch[..size];
            raw |= COMPRESSED;
        }
    }
    let size = u32::try_from(stored.len()).expect("it is not more than the records");
    to.write_all(&size.to_le_bytes())?;
    to.write_all(&raw.to_le_bytes())?;
    to.write_all(&checksum(size, raw, stored).to_le_bytes())?;
    to.write_all(stored)?;
    Ok((HEADER + stored.len()) as u64)
}

/// Reads the header of the next block of at most `left` octets; what is stored, what it is of, and
/// the checksum of both.
fn header(from: &mut impl Read, left: u64, at: u64) -> Result<(u32, u32, u32), RunError> {
    let damaged = |what| RunError::Damaged { what, at };
    if left < HEADER as u64 {
        return Err(damaged("a block is cut"));
    }
    let mut header = [0; HEADER];
    from.read_exact(&mut header)?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four octets"));
    let (size, raw) = (word(0), word(4));
    let length = raw & !COMPRESSED;
    let taken = HEADER as u64 + u64::from(size);
    if taken > left || length as usize > RAW_MAX || size > length {
        return Err(damaged("a block has an impossible size"));
    }
    Ok((size, raw, word(8)))
}

/// Octets of memory in which a block is read: of its records, and of what is stored where that is
/// compressed.
pub(crate) fn memory(records: u64, stored: u64) -> u64 {
    if stored < records {
        records + stored
    } else {
        records
    }
}

/// Reads the next block of at most `left` octets and compares its checksum; `stored` has it then.
/// The octets it took, and those of memory in which it would be read.
pub(crate) fn check(
    from: &mut impl Read,
    left: u64,
    at: u64,
    stored: &mut Vec<u8>,
) -> Result<(u64, u64), RunError> {
    let damaged = |what| RunError::Damaged { what, at };
    let (size, raw, crc) = header(from, left, at)?;
    stored.clear();
    // Memory grows with what arrives, not with what is promised.
    if from.take(u64::from(size)).read_to_end(stored)? != size as usize {
        return Err(damaged("a block is cut"));
    }
    if checksum(size, raw, stored) != crc {
        return Err(damaged("a block's checksum differs"));
    }
    let memory = memory((raw & !COMPRESSED).into(), size.into());
    Ok((HEADER as u64 + u64::from(size), memory))
}

/// Reads the next block of at most `left` octets into `records`; `at` is for errors. The octets it
/// took.
pub(crate) fn read(
    from: &mut impl Read,
    left: u64,
    at: u64,
    stored: &mut Vec<u8>,
    records: &mut Vec<u8>,
) -> Result<u64, RunError> {
    let damaged = |what| RunError::Damaged { what, at };
    let (size, raw, crc) = header(from, left, at)?;
    let length = (raw & !COMPRESSED) as usize;
    let taken = HEADER as u64 + u64::from(size);
    let into = if raw & COMPRESSED == 0 {
        &mut *records
    } else {
        &mut *stored
    };
    into.clear();
    // Memory grows with what arrives, not with what is promised.
    let read = from.take(u64::from(size)).read_to_end(into)?;
    if read != size as usize {
        return Err(damaged("a block is cut"));
    }
    if checksum(size, raw, into) != crc {
        return Err(damaged("a block's checksum differs"));
    }
    if raw & COMPRESSED != 0 {
        records.clear();
        records.resize(length, 0);
        let found = lz4_flex::block::decompress_into(stored, records);
        if found.ok() != Some(length) {
            return Err(damaged("a block cannot be decompressed"));
        }
    } else if length != size as usize {
        return Err(damaged("a block has an impossible size"));
    }
    Ok(taken)
}
