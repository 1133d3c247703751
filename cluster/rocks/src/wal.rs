//! A look at the write-ahead log before `RocksDB` recovers from it: is anything missing in it?
//!
//! Why: recovery forgives a torn last record, as it must, and takes for one every record whose
//! length leads past the end of the file. One flipped bit in a length within the last 32 KiB would
//! so drop all acknowledged batches behind it without a word; and a stretch of zeros is skipped
//! anywhere. Both leave something behind that can be seen here: batches carry sequence numbers
//! without gaps, and behind a torn record there is nothing. A file that was cut leaves nothing, and
//! is told by where it ends: `SYNCED` says how far it must reach at least.
//!
//! The format is that of `RocksDB`'s `db/log_format.h`: blocks of 32 KiB, in them records of
//! checksum (4 bytes, masked CRC-32C over type and payload), length (2), type (1) and payload, a
//! batch in one full record or in a first, middle ones and a last. A batch begins with its sequence
//! number (8 bytes) and its count of changes (4). Numbers are little-endian.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{self, Database};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
const BATCH_HEADER_BYTES: usize = 12;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Refuses a log whose files lack a batch in the middle, or end before the change `synced`.
pub(crate) fn check(directory: &Path, synced: u64) -> io::Result<()> {
    let mut scan = Scan::default();
    let mut newest = None;
    for path in files(directory)? {
        check_file(&path, &mut scan)?.map_err(|what| {
            let what = format!("{}: {what}", path.display());
            error::damaged(Database::Log, directory, &what)
        })?;
        newest = Some(path);
    }
    match newest.zip(scan.next.and_then(|next| next.checked_sub(1))) {
        Some((newest, last)) if last < synced => {
            let newest = newest.display();
            let what = format!("{newest}: it ends at change {last}, and was synced up to {synced}");
            Err(error::damaged(Database::Log, directory, &what))
        }
        // Without a batch it says nothing: all changes may be in tables.
        Some(_) | None => Ok(()),
    }
}

/// The files of the write-ahead log, oldest first.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let list = |error: io::Error| error::file("list", directory, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(list)? {
        let path = entry.map_err(list)?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some(number), true) = (number, path.extension().is_some_and(|found| found == "log"))
        {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn check_file(path: &Path, scan: &mut Scan) -> io::Result<Result<(), String>> {
    let mut file = File::open(path).map_err(|error| error::file("open", path, &error))?;
    scan.begin_file();
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    loop {
        block.clear();
        (&mut file)
            .take(BLOCK_BYTES as u64)
            .read_to_end(&mut block)
            .map_err(|error| error::file("read", path, &error))?;
        if let Err(what) = scan.block(&block) {
            return Ok(Err(what));
        }
        if block.len() < BLOCK_BYTES {
            return Ok(Ok(()));
        }
    }
}

/// What was seen so far.
#[derive(Default)]
struct Scan {
    /// Sequence number of the next batch; `None` before the first.
    next: Option<u64>,
    /// The first bytes of a batch that began in a record before.
    head: Vec<u8>,
    /// Zeros or a torn record were met: nothing may follow in this file.
    ended: bool,
}

impl Scan {
    fn begin_file(&mut self) {
        self.head.clear();
        self.ended = false;
    }

    fn block(&mut self, block: &[u8]) -> Result<(), String> {
        let mut rest = block;
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER_BYTES>() {
            if *header == [0; HEADER_BYTES] && behind.iter().all(|byte| *byte == 0) {
                self.ended = true;
                return Ok(());
            }
            if self.ended {
                return Err("there is a record behind the end".to_owned());
            }
            let Some(record) = Record::parse(*header, behind) else {
                // Only in the last block, which is shorter; recovery refuses others by itself.
                return self.torn(&rest[1..]);
            };
            if !record.is_intact() {
                return Err("a record does not match its checksum".to_owned());
            }
            self.record(&record)?;
            rest = &behind[record.payload.len()..];
        }
        Ok(())
    }

    fn record(&mut self, record: &Record<'_>) -> Result<(), String> {
        match record.kind {
            FULL | FIRST => self.head.clear(),
            MIDDLE | LAST => {}
            // Not a part of a batch.
            _ => return Ok(()),
        }
        let missing = BATCH_HEADER_BYTES - self.head.len();
        let more = &record.payload[..missing.min(record.payload.len())];
        self.head.extend_from_slice(more);
        if matches!(record.kind, FULL | LAST) {
            let Some((sequence, count)) = batch_header(&self.head) else {
                return Err("a batch is too short".to_owned());
            };
            if let Some(next) = self.next.filter(|next| *next != sequence) {
                return Err(format!("batch {sequence} is where batch {next} must be"));
            }
            self.next = Some(sequence.saturating_add(u64::from(count)));
            self.head.clear();
        }
        Ok(())
    }

    /// A record that leads past the end of the file: torn while it was written, and so the last.
    fn torn(&mut self, behind: &[u8]) -> Result<(), String> {
        self.ended = true;
        let next = self.next.unwrap_or(0);
        for start in 0..behind
            .len()
            .saturating_sub(HEADER_BYTES + BATCH_HEADER_BYTES)
        {
            let Some((header, after)) = behind[start..].split_first_chunk() else {
                break;
            };
            let Some(record) = Record::parse(*header, after) else {
                continue;
            };
            // The sequence number first: it spares most checksums.
            let is_later = matches!(record.kind, FULL | FIRST)
                && batch_header(record.payload).is_some_and(|(sequence, _)| sequence > next);
            if is_later && record.is_intact() {
                return Err("a batch is behind a record that leads past the end".to_owned());
            }
        }
        Ok(())
    }
}

struct Record<'a> {
    checksum: u32,
    kind: u8,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// `None` when the record is longer than what is there.
    fn parse(header: [u8; HEADER_BYTES], behind: &'a [u8]) -> Option<Self> {
        let [a, b, c, d, low, high, kind] = header;
        let length = usize::from(u16::from_le_bytes([low, high]));
        Some(Self {
            checksum: u32::from_le_bytes([a, b, c, d]),
            kind,
            payload: behind.get(..length)?,
        })
    }

    fn is_intact(&self) -> bool {
        let sum = crc32c::crc32c_append(crc32c::crc32c(&[self.kind]), self.payload);
        // Stored masked, so that a checksum over stored checksums keeps its strength.
        sum.rotate_right(15).wrapping_add(0xa282_ead8) == self.checksum
    }
}

/// Sequence number and count of changes.
fn batch_header(batch: &[u8]) -> Option<(u64, u32)> {
    let (sequence, rest) = batch.split_first_chunk()?;
    let (count, _) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*sequence), u32::from_le_bytes(*count)))
}
