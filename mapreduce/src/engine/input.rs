//! Input formats: how records lie in a file, and how a split of it is read without a record being
//! cut in half.

use crate::{Bytes, Codec, Result, Text, U64};
use mapreduce_data::RECORD_MAX;
use mapreduce_data::merge::Cursor as _;
use mapreduce_data::run::{RegionReader, TRAILER};
use std::io::Read;

/// Octets that are read at once.
const BUFFER: usize = 256 << 10;

/// A way to open a file at an octet.
pub type OpenAt<'a> = dyn Fn(u64) -> Result<Box<dyn Read>> + 'a;

/// A part of a file that one map task reads.
pub struct Source<'a> {
    /// Of the file, for the records that have it and for messages.
    pub name: &'a str,
    /// The first octet.
    pub begin: u64,
    /// The octet after the last one; `None`: the end of the file.
    pub end: Option<u64>,
    /// Opens the file.
    pub open: &'a OpenAt<'a>,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = (self.name, self.begin, self.end);
        f.debug_tuple("Source").field(&all).finish()
    }
}

/// A way in which records lie in files. A new one is this and a [`RecordReader`].
pub trait InputFormat: Send + Sync + 'static {
    /// Of a record.
    type Key: Codec;
    /// Of a record.
    type Value: Codec;

    /// Whether a file may be read in parts. Each record belongs to exactly one of them.
    fn splits(&self) -> bool {
        true
    }

    /// Whether a file that begins as gzip and zstd do is read as what it holds. One of a format
    /// whose files are never packed may begin with any octets, and is read as it is.
    fn unpacks(&self) -> bool {
        true
    }

    /// Opens a part.
    fn open(&self, source: Source<'_>) -> Result<Box<dyn RecordReader>>;
}

/// Goes over the records of a part.
pub trait RecordReader {
    /// Goes to the next one; false when there is none.
    fn advance(&mut self) -> Result<bool>;

    /// Its key, as the format's codec has it.
    fn key(&self) -> &[u8];

    /// Its value, as the format's codec has it.
    fn value(&self) -> &[u8];

    /// Where it begins in the file: octets, unpacked.
    fn offset(&self) -> u64;

    /// Octets of the part that were read. What is read beyond its end is of another part, which
    /// counts it.
    fn taken(&self) -> u64;
}

/// Octets of a part from its begin up to `at`, which may be beyond its end.
fn within((begin, end): (u64, Option<u64>), at: u64) -> u64 {
    end.map_or(at, |end| at.min(end)).saturating_sub(begin)
}

/// A line for each record: where it begins, and its octets without the line's end. A split has the
/// lines that begin in it.
#[derive(Clone, Copy, Debug)]
pub struct Lines;

impl InputFormat for Lines {
    type Key = U64;
    type Value = Bytes;

    fn open(&self, source: Source<'_>) -> Result<Box<dyn RecordReader>> {
        Ok(Box::new(LineReader::open(&source)?))
    }
}

struct LineReader {
    from: Box<dyn Read>,
    buffer: Vec<u8>,
    /// The line, in the buffer; the next one begins at `next`.
    line: std::ops::Range<usize>,
    next: usize,
    /// Octets of the buffer that were read.
    filled: usize,
    /// Where in the file the buffer begins.
    at: u64,
    begin: u64,
    end: Option<u64>,
    /// Where the line begins, encoded.
    key: [u8; 8],
    is_at_end: bool,
}

impl LineReader {
    fn open(source: &Source<'_>) -> Result<Self> {
        // A line that begins just here does so because the octet before it ends one.
        let at = source.begin.saturating_sub(1);
        let mut reader = Self {
            from: (source.open)(at)?,
            buffer: vec![0; BUFFER],
            line: 0..0,
            next: 0,
            filled: 0,
            at,
            begin: source.begin,
            end: source.end,
            key: [0; 8],
            is_at_end: false,
        };
        if source.begin > 0 {
            // What begins before this part is another's; it may be long, and is not kept.
            loop {
                let rest = &reader.buffer[reader.next..reader.filled];
                if let Some(found) = memchr::memchr(b'\n', rest) {
                    reader.next += found + 1;
                    break;
                }
                reader.next = reader.filled;
                if reader.is_past() || !reader.fill()? {
                    break;
                }
            }
        }
        Ok(reader)
    }

    /// The next line begins after this part.
    fn is_past(&self) -> bool {
        self.end
            .is_some_and(|end| self.at + self.next as u64 >= end)
    }

    /// Reads more behind what is not used; false at the end of the file.
    fn fill(&mut self) -> Result<bool> {
        if self.is_at_end {
            return Ok(false);
        }
        self.buffer.copy_within(self.next..self.filled, 0);
        self.at += self.next as u64;
        self.filled -= self.next;
        self.next = 0;
        if self.filled == self.buffer.len() {
            let length = self.buffer.len();
            if length >= RECORD_MAX {
                return Err(format!("a line of {RECORD_MAX} octets or more").into());
            }
            self.buffer.resize(length * 2, 0);
        }
        let read = loop {
            match self.from.read(&mut self.buffer[self.filled..]) {
                Ok(read) => break read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        };
        self.filled += read;
        self.is_at_end = read == 0;
        Ok(read > 0)
    }
}

impl RecordReader for LineReader {
    fn advance(&mut self) -> Result<bool> {
        if self.is_past() {
            return Ok(false);
        }
        let mut looked = self.next;
        let end = loop {
            if let Some(found) = memchr::memchr(b'\n', &self.buffer[looked..self.filled]) {
                break looked + found;
            }
            let unread = self.filled - self.next;
            if !self.fill()? {
                if unread == 0 {
                    return Ok(false);
                }
                // The last line has no end.
                break self.filled;
            }
            looked = self.next + unread;
        };
        self.line = self.next..end;
        self.key = (self.at + self.next as u64).to_be_bytes();
        self.next = (end + 1).min(self.filled);
        Ok(true)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn value(&self) -> &[u8] {
        &self.buffer[self.line.clone()]
    }

    fn offset(&self) -> u64 {
        u64::from_be_bytes(self.key)
    }

    fn taken(&self) -> u64 {
        within((self.begin, self.end), self.at + self.next as u64)
    }
}

/// A line for each record: what is before its first TAB, and what is after it; all of it and
/// nothing when there is none.
#[derive(Clone, Copy, Debug)]
pub struct KeyValues;

impl InputFormat for KeyValues {
    type Key = Bytes;
    type Value = Bytes;

    fn open(&self, source: Source<'_>) -> Result<Box<dyn RecordReader>> {
        let lines = LineReader::open(&source)?;
        Ok(Box::new(KeyValueReader { lines, tab: 0 }))
    }
}

struct KeyValueReader {
    lines: LineReader,
    /// Octets of the line before its TAB.
    tab: usize,
}

impl RecordReader for KeyValueReader {
    fn advance(&mut self) -> Result<bool> {
        let found = self.lines.advance()?;
        let line = self.lines.value();
        self.tab = memchr::memchr(b'\t', line).unwrap_or(line.len());
        Ok(found)
    }

    fn key(&self) -> &[u8] {
        &self.lines.value()[..self.tab]
    }

    fn value(&self) -> &[u8] {
        self.lines.value().get(self.tab + 1..).unwrap_or_default()
    }

    fn offset(&self) -> u64 {
        self.lines.offset()
    }

    fn taken(&self) -> u64 {
        self.lines.taken()
    }
}

/// Records of so many octets each: where one begins, and its octets. A split has the records that
/// begin in it. Fewer octets at the end of a file are an error.
#[derive(Clone, Copy, Debug)]
pub struct Fixed(pub u32);

impl InputFormat for Fixed {
    type Key = U64;
    type Value = Bytes;

    fn open(&self, source: Source<'_>) -> Result<Box<dyn RecordReader>> {
        let length = u64::from(self.0);
        if length == 0 || length > RECORD_MAX as u64 {
            return Err(format!("records of {length} octets: 1 to {RECORD_MAX} can be").into());
        }
        let begin = source.begin.next_multiple_of(length);
        Ok(Box::new(FixedReader {
            from: std::io::BufReader::with_capacity(BUFFER, (source.open)(begin)?),
            record: vec![0; self.0 as usize],
            next: begin,
            begin: source.begin,
            end: source.end,
            key: [0; 8],
        }))
    }
}

struct FixedReader {
    from: std::io::BufReader<Box<dyn Read>>,
    record: Vec<u8>,
    next: u64,
    begin: u64,
    end: Option<u64>,
    key: [u8; 8],
}

impl RecordReader for FixedReader {
    fn advance(&mut self) -> Result<bool> {
        if self.end.is_some_and(|end| self.next >= end) {
            return Ok(false);
        }
        let mut filled = 0;
        while filled < self.record.len() {
            match self.from.read(&mut self.record[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => {
                    let length = self.record.len();
                    let what = format!("the last record has {filled} octets instead of {length}");
                    return Err(what.into());
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.key = self.next.to_be_bytes();
        self.next += self.record.len() as u64;
        Ok(true)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn value(&self) -> &[u8] {
        &self.record
    }

    fn offset(&self) -> u64 {
        u64::from_be_bytes(self.key)
    }

    fn taken(&self) -> u64 {
        within((self.begin, self.end), self.next)
    }
}

/// A file for each record: its name, and all its octets.
#[derive(Clone, Copy, Debug)]
pub struct WholeFiles;

impl InputFormat for WholeFiles {
    type Key = Text;
    type Value = Bytes;

    fn splits(&self) -> bool {
        false
    }

    fn open(&self, source: Source<'_>) -> Result<Box<dyn RecordReader>> {
        let from = (source.open)(0)?;
        let mut octets = Vec::new();
        from.take(RECORD_MAX as u64 + 1).read_to_end(&mut octets)?;
        if octets.len() > RECORD_MAX {
            return Err(format!("a file of more than {RECORD_MAX} octets as one record").into());
        }
        let name = source.name.as_bytes().to_vec();
        Ok(Box::new(WholeReader {
            name,
            octets,
            is_read: false,
        }))
    }
}

struct WholeReader {
    name: Vec<u8>,
    octets: Vec<u8>,
    is_read: bool,
}

impl RecordReader for WholeReader {
    fn advance(&mut self) -> Result<bool> {
        Ok(!std::mem::replace(&mut self.is_read, true))
    }

    fn key(&self) -> &[u8] {
        &self.name
    }

    fn value(&self) -> &[u8] {
        &self.octets
    }

    fn offset(&self) -> u64 {
        0
    }

    fn taken(&self) -> u64 {
        self.octets.len() as u64
    }
}

/// Keys and values as an earlier job wrote them, in [`crate::OutputFormat::Pairs`]. `K` and `V` are
/// the types that job emitted.
#[derive(Debug)]
pub struct Pairs<K, V>(std::marker::PhantomData<(K, V)>);

impl<K, V> Default for Pairs<K, V> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<K: Codec + Send + Sync, V: Codec + Send + Sync> InputFormat for Pairs<K, V> {
    type Key = K;
    type Value = V;

    fn splits(&self) -> bool {
        false
    }

    /// It begins with a length, which may be any.
    fn unpacks(&self) -> bool {
        false
    }

    fn open(&self, source: Source<'_>) -> Result<Box<dyn RecordReader>> {
        let length = source.end.ok_or("a file of pairs has a length")?;
        let region = pairs_region(&source, length)?;
        let from = (source.open)(region.at)?;
        Ok(Box::new(PairReader {
            records: RegionReader::new(from, region.length),
            number: 0,
        }))
    }
}

/// The one region of a file of pairs.
fn pairs_region(source: &Source<'_>, length: u64) -> Result<mapreduce_data::run::Region> {
    use mapreduce_data::run::{index_length, read_index};
    let at = length
        .checked_sub(TRAILER)
        .ok_or("it is no file of pairs: too short")?;
    let mut trailer = [0; 16];
    (source.open)(at)?.read_exact(&mut trailer)?;
    let size = index_length(trailer, length)?;
    let mut index = Vec::new();
    (source.open)(at - size)?
        .take(size)
        .read_to_end(&mut index)?;
    match read_index(&index, trailer, length)?.as_slice() {
        [region] => Ok(*region),
        many => Err(format!("it is no output of a job: {} partitions", many.len()).into()),
    }
}

struct PairReader {
    records: RegionReader<Box<dyn Read>>,
    number: u64,
}

impl RecordReader for PairReader {
    fn advance(&mut self) -> Result<bool> {
        self.number += 1;
        Ok(self.records.advance()?)
    }

    fn key(&self) -> &[u8] {
        self.records.key()
    }

    fn value(&self) -> &[u8] {
        self.records.value()
    }

    /// Records have no octets of their own in a compressed block: their number.
    fn offset(&self) -> u64 {
        self.number - 1
    }

    fn taken(&self) -> u64 {
        self.records.taken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Octets and records that all parts of so many octets have read of a file together.
    fn read(format: &impl InputFormat, file: &'static [u8], part: usize) -> (u64, usize) {
        let (mut octets, mut records) = (0, 0);
        let open = |at| -> Result<Box<dyn Read>> {
            let at = file.len().min(usize::try_from(at)?);
            Ok(Box::new(&file[at..]))
        };
        for begin in (0..file.len()).step_by(part) {
            let source = Source {
                name: "file",
                begin: begin as u64,
                end: Some((begin + part).min(file.len()) as u64),
                open: &open,
            };
            let mut reader = format.open(source).expect("memory");
            let mut before = 0;
            while reader.advance().expect("memory") {
                assert!((before..=part as u64).contains(&reader.taken()));
                before = reader.taken();
                records += 1;
            }
            octets += reader.taken();
        }
        (octets, records)
    }

    #[test]
    fn all_parts_together_read_each_octet_once() {
        let files: [&[u8]; 4] = [
            b"a\nlong line over many parts\n\nb\n\n",
            b"one without an end over many parts",
            b"\n\n\n",
            b"last has\nno end",
        ];
        for file in files {
            for part in 1..file.len() + 2 {
                let lines = file.split_inclusive(|octet| *octet == b'\n').count();
                assert_eq!(read(&Lines, file, part), (file.len() as u64, lines));
                assert_eq!(read(&KeyValues, file, part), (file.len() as u64, lines));
            }
        }
        let file = b"seven  seven  seven  seven  ";
        for part in 1..30 {
            assert_eq!(read(&Fixed(7), file, part), (28, 4), "parts of {part}");
        }
    }
}
