//! The splits of a job, run-length coded: a file that is cut evenly is one row, so that 200,000
//! splits take as much room as the files' names do, in memory and in the group. Small files are
//! joined: several rows are one split then.

use prost::Message as _;

use crate::limits::{
    HOSTS_MAX, TASKS_MAX, URI_BYTES_MAX, VALUE_BYTES_MAX, VALUE_READ_BYTES_MAX, VERSION_BYTES_MAX,
};
use crate::names::HostName;

/// Version of the stored form.
const FORMAT: u32 = 1;

/// A range of a file that is cut evenly; the last piece may be shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitRun {
    /// Where the file is.
    pub uri: String,
    /// Where the range begins, bytes.
    pub offset: u64,
    /// Bytes of the range.
    pub length: u64,
    /// Bytes of a piece.
    pub split_bytes: u64,
    /// Machines that hold it.
    pub hosts: Vec<HostName>,
    /// What the file was when the job was submitted, where its store says so; else empty.
    pub version: String,
    /// It is in one split with the row before it. Both are ranges of one piece.
    pub joined: bool,
}

impl SplitRun {
    /// Whether it is one piece, and may be in a split with others.
    pub(super) fn is_whole(&self) -> bool {
        self.length <= self.split_bytes
    }
}

/// What one map task reads: a piece of a file, or several files one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split<'a> {
    runs: &'a [SplitRun],
    /// Which piece of a range; of joined ones there is but one.
    piece: u64,
}

/// A range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Where the file is.
    pub uri: &'a str,
    /// Where it begins in the file, bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What the file must be; empty where nobody knows.
    pub version: &'a str,
}

impl<'a> Split<'a> {
    /// What it is of, at least one part, in order.
    pub fn parts(&self) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let piece = self.piece;
        self.runs.iter().map(move |run| {
            let skipped = piece * run.split_bytes;
            Part {
                uri: &run.uri,
                offset: run.offset + skipped,
                length: run.split_bytes.min(run.length - skipped),
                version: &run.version,
            }
        })
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        let lengths = self.parts().map(|part| part.length);
        lengths.fold(0, u64::saturating_add)
    }

    /// Machines that hold it.
    pub fn hosts(&self) -> &'a [HostName] {
        self.runs.first().map_or(&[], |run| &run.hosts)
    }
}

/// A list that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// Not of our format.
    #[error("the stored splits cannot be read: {0}")]
    Decode(String),
    /// Written by a later version.
    #[error("the stored splits have format {found}, this version knows {FORMAT}; upgrade it")]
    Format {
        /// What it says.
        found: u32,
    },
    /// Chunks that do not follow each other.
    #[error("chunk {chunk} of the splits begins with split {found}, expected {expected}")]
    Gap {
        /// Which chunk.
        chunk: usize,
        /// Its first split.
        found: u32,
        /// What it should be.
        expected: u32,
    },
    /// A run without bytes, with pieces of none, or beyond what a file can have.
    #[error("run {run} of the splits has no bytes, pieces of none, or ends beyond all files")]
    Range {
        /// Which run, from 0.
        run: usize,
    },
    /// An address, a host or a version that is too long, or too many hosts.
    #[error("run {run} of the splits has an address, hosts or a version beyond the limits")]
    Names {
        /// Which run, from 0.
        run: usize,
    },
    /// A range that is in one split with the one before it, and cannot be: there is none, or one of
    /// them is cut, or they are on different machines.
    #[error("run {run} of the splits cannot be in one split with what is before it")]
    Joined {
        /// Which run, from 0.
        run: usize,
    },
    /// More splits, or files, than a job has tasks.
    #[error("there are more than {TASKS_MAX} splits; use bigger ones")]
    TooMany,
    /// A value that is longer than any we write.
    #[error("a chunk of the splits has {bytes} bytes, at most {VALUE_READ_BYTES_MAX} are read")]
    TooLong {
        /// Bytes found.
        bytes: usize,
    },
}

/// All splits of a job, numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitList {
    runs: Vec<SplitRun>,
    /// Number of the first split of each run; of joined ones it is the same.
    firsts: Vec<u32>,
    count: u32,
}

impl SplitList {
    /// Of these runs, each of which is checked.
    pub fn new(runs: Vec<SplitRun>) -> Result<Self, SplitError> {
        if runs.len() > TASKS_MAX as usize {
            return Err(SplitError::TooMany);
        }
        let mut firsts = Vec::with_capacity(runs.len());
        let mut count = 0_u32;
        for (index, run) in runs.iter().enumerate() {
            if run.length == 0
                || run.split_bytes == 0
                || run.offset.checked_add(run.length).is_none()
            {
                return Err(SplitError::Range { run: index });
            }
            let uri_bytes = run.uri.len();
            if uri_bytes == 0
                || uri_bytes > URI_BYTES_MAX
                || run.hosts.len() > HOSTS_MAX
                || run.version.len() > VERSION_BYTES_MAX
            {
                return Err(SplitError::Names { run: index });
            }
            if run.joined {
                let before = index.checked_sub(1).map(|before| &runs[before]);
                let fits = |before: &SplitRun| {
                    before.is_whole() && run.is_whole() && before.hosts == run.hosts
                };
                if !before.is_some_and(fits) {
                    return Err(SplitError::Joined { run: index });
                }
                firsts.push(count - 1);
                continue;
            }
            firsts.push(count);
            let pieces = u32::try_from(run.length.div_ceil(run.split_bytes));
            let pieces = pieces.map_err(|_| SplitError::TooMany)?;
            count = count.checked_add(pieces).ok_or(SplitError::TooMany)?;
            if count > TASKS_MAX {
                return Err(SplitError::TooMany);
            }
        }
        Ok(Self {
            runs,
            firsts,
            count,
        })
    }

    /// How many.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        let lengths = self.runs.iter().map(|run| run.length);
        lengths.fold(0, u64::saturating_add)
    }

    /// Split `index`, if there is one.
    pub fn get(&self, index: u32) -> Option<Split<'_>> {
        if index >= self.count {
            return None;
        }
        let end = self.firsts.partition_point(|first| *first <= index);
        let first = self.firsts[end - 1];
        let begin = self.firsts.partition_point(|other| *other < first);
        Some(Split {
            runs: &self.runs[begin..end],
            piece: u64::from(index - first),
        })
    }

    /// Every run with the number of its first split and how many end with it: none, if another is
    /// joined to it.
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32, &SplitRun)> {
        let ends = self
            .firsts
            .iter()
            .skip(1)
            .chain(std::iter::once(&self.count));
        let firsts = self.firsts.iter().zip(ends);
        let runs = self.runs.iter().zip(firsts);
        runs.map(|(run, (first, end))| (*first, end - first, run))
    }

    /// As values for the group, each of at most [`VALUE_BYTES_MAX`] bytes.
    pub fn chunks(&self) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        let mut chunk = WireChunk::new(0);
        let mut bytes = 0;
        for (first, _, run) in self.runs() {
            let wire = WireRun::from_run(run);
            let wire_bytes = wire.encoded_len() + 8;
            if bytes + wire_bytes > VALUE_BYTES_MAX - 64 && !chunk.runs.is_empty() {
                chunks.push(chunk.encode_to_vec());
                chunk = WireChunk::new(first);
                bytes = 0;
            }
            chunk.runs.push(wire);
            bytes += wire_bytes;
        }
        if !chunk.runs.is_empty() {
            chunks.push(chunk.encode_to_vec());
        }
        chunks
    }

    /// From all chunks, in order.
    pub fn from_chunks(chunks: &[Vec<u8>]) -> Result<Self, SplitError> {
        let mut runs = Vec::new();
        let mut begins = Vec::with_capacity(chunks.len());
        for bytes in chunks {
            let chunk = decode_chunk(bytes)?;
            begins.push((chunk.first, runs.len()));
            for run in chunk.runs {
                runs.push(run.into_run(runs.len())?);
            }
            if runs.len() > TASKS_MAX as usize {
                return Err(SplitError::TooMany);
            }
        }
        let list = Self::new(runs)?;
        for (index, (found, run)) in begins.into_iter().enumerate() {
            let expected = list.firsts.get(run).copied().unwrap_or(list.count);
            if found != expected {
                return Err(SplitError::Gap {
                    chunk: index,
                    found,
                    expected,
                });
            }
        }
        Ok(list)
    }
}

fn decode_chunk(bytes: &[u8]) -> Result<WireChunk, SplitError> {
    if bytes.len() > VALUE_READ_BYTES_MAX {
        return Err(SplitError::TooLong { bytes: bytes.len() });
    }
    let chunk = WireChunk::decode(bytes).map_err(|error| SplitError::Decode(error.to_string()))?;
    match chunk.format {
        FORMAT => Ok(chunk),
        found => Err(SplitError::Format { found }),
    }
}

/// Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
struct WireChunk {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint32, tag = "2")]
    first: u32,
    #[prost(message, repeated, tag = "3")]
    runs: Vec<WireRun>,
}

impl WireChunk {
    fn new(first: u32) -> Self {
        Self {
            format: FORMAT,
            first,
            runs: Vec::new(),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRun {
    #[prost(string, tag = "1")]
    uri: String,
    #[prost(uint64, tag = "2")]
    offset: u64,
    #[prost(uint64, tag = "3")]
    length: u64,
    #[prost(uint64, tag = "4")]
    split_bytes: u64,
    #[prost(string, repeated, tag = "5")]
    hosts: Vec<String>,
    #[prost(bool, tag = "6")]
    joined: bool,
    #[prost(string, tag = "7")]
    version: String,
}

impl WireRun {
    fn from_run(run: &SplitRun) -> Self {
        Self {
            uri: run.uri.clone(),
            offset: run.offset,
            length: run.length,
            split_bytes: run.split_bytes,
            hosts: run
                .hosts
                .iter()
                .map(|host| host.as_str().to_owned())
                .collect(),
            joined: run.joined,
            version: run.version.clone(),
        }
    }

    fn into_run(self, index: usize) -> Result<SplitRun, SplitError> {
        let names = SplitError::Names { run: index };
        if self.hosts.len() > HOSTS_MAX {
            return Err(names);
        }
        let hosts = self.hosts.iter().map(|host| HostName::new(host));
        Ok(SplitRun {
            hosts: hosts.collect::<Result<_, _>>().map_err(|_| names)?,
            uri: self.uri,
            offset: self.offset,
            length: self.length,
            split_bytes: self.split_bytes,
            joined: self.joined,
            version: self.version,
        })
    }
}
