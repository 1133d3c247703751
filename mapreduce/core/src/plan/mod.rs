//! From input files to the tasks of a job: what `job plan` prints and `submit` stores.
//!
//! A file is cut into ranges of the split size; one that cannot be cut (compressed) is one split;
//! an empty one gives none. Small files that follow each other are joined to one split, as a task
//! for each would cost more than what it does. Records that lie across a cut are the reader's
//! affair: it begins after the first end of a record, unless at 0, and reads past its end.

mod splits;

use std::fmt;

pub use splits::{Part, Split, SplitError, SplitList, SplitRun};

use crate::limits::{HOSTS_MAX, TASKS_MAX, URI_BYTES_MAX, VERSION_BYTES_MAX};
use crate::names::HostName;

/// Split size of a large input unless the user says another, bytes: that of Google's system.
pub const SPLIT_BYTES: u64 = 64 << 20;
/// That of a small one, bytes: below this a task costs more than what it does.
pub const SPLIT_BYTES_MIN: u64 = 8 << 20;
/// Splits of an input between the two.
const SPLITS_WANTED: u64 = 64;
/// Below this a slice, what one map has for one reduce, costs more to fetch than to send, bytes.
pub const SLICE_BYTES_MIN: u64 = 1 << 20;

/// Files of one split, at most.
pub const JOINED_MAX: usize = 1_000;
/// Small files are joined to splits of so many bytes also where that leaves few splits.
const JOINED_BYTES_MIN: u64 = 1 << 20;
/// Else to that part of the input, so that there is something to do for all workers.
const JOINED_SHARE: u64 = 32;

/// A file of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Where it is.
    pub uri: String,
    /// Bytes.
    pub length: u64,
    /// Whether a reader can begin in its middle.
    pub splittable: bool,
    /// Machines that hold it, if that is known.
    pub hosts: Vec<HostName>,
    /// What it is now, where its store says so: who reads it must find the same. Else empty.
    pub version: String,
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a split, at most.
    pub split_bytes: u64,
    /// Reduce tasks; 0 for a job that only maps.
    pub reduces: u32,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Too many tasks.
    #[error(
        "{maps} map and {reduces} reduce tasks are more than the limit of {TASKS_MAX}; {}",
        next_step(*.split_bytes_next)
    )]
    TooManyTasks {
        /// Splits found.
        maps: u64,
        /// Asked for.
        reduces: u32,
        /// A split size with which it would do; none when there are too many files or reduces.
        split_bytes_next: Option<u64>,
    },
    /// A split size of 0.
    #[error("a split has at least one byte; leave the size out for the default")]
    NoSplitBytes,
    /// An address that is empty or too long.
    #[error("the address of a file has 1 to {URI_BYTES_MAX} bytes, found {bytes}")]
    Address {
        /// Bytes found.
        bytes: usize,
    },
    /// More bytes than a number holds.
    #[error("the input is longer than {} bytes", u64::MAX)]
    TooLong,
}

fn next_step(split_bytes: Option<u64>) -> String {
    match split_bytes {
        Some(bytes) => format!("use splits of {} or more", Bytes(bytes)),
        None => "join small files, or use fewer reduces".to_owned(),
    }
}

/// Something that a person should know before the job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The reduces will fetch very many small pieces.
    SmallSlices {
        /// Bytes of a slice: input / (M × R).
        slice_bytes: u64,
    },
    /// Files that cannot be cut and are longer than a split: each keeps one worker busy alone.
    LongUnsplittable {
        /// How many.
        files: u64,
        /// Bytes of the longest.
        longest_bytes: u64,
    },
    /// There is nothing to read.
    Empty,
}

/// The tasks of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One for each map task, in the order of the files.
    pub splits: SplitList,
    /// Reduce tasks; 0 for a job that only maps.
    pub reduces: u32,
    /// Bytes of input.
    pub bytes: u64,
    /// Files with something in them.
    pub files: u64,
    /// Files without: no split is made of them.
    pub empty_files: u64,
    /// The split size that it was made with, bytes.
    pub split_bytes: u64,
    /// What should be known first.
    pub warnings: Vec<Warning>,
}

impl Plan {
    /// Map tasks.
    pub fn maps(&self) -> u32 {
        self.splits.count()
    }
}

/// The split size for an input of so many bytes, unless the user says another: there is something
/// to do for a few dozen processors. It depends on nothing else, so that an output has the same
/// files wherever the job runs.
pub fn split_bytes_for(bytes: u64) -> u64 {
    let split_bytes = (bytes / SPLITS_WANTED).checked_next_power_of_two();
    split_bytes.map_or(SPLIT_BYTES, |split_bytes| {
        split_bytes.clamp(SPLIT_BYTES_MIN, SPLIT_BYTES)
    })
}

/// The plan for `files`, which keep their order.
pub fn plan(files: &[InputFile], shape: Shape) -> Result<Plan, PlanError> {
    if shape.split_bytes == 0 {
        return Err(PlanError::NoSplitBytes);
    }
    let mut bytes = 0_u64;
    for file in files {
        let uri_bytes = file.uri.len();
        if uri_bytes == 0 || uri_bytes > URI_BYTES_MAX {
            return Err(PlanError::Address { bytes: uri_bytes });
        }
        bytes = bytes.checked_add(file.length).ok_or(PlanError::TooLong)?;
    }
    let maps = maps(files, shape, bytes);
    if maps.saturating_add(u64::from(shape.reduces)) > u64::from(TASKS_MAX) {
        return Err(PlanError::TooManyTasks {
            maps,
            reduces: shape.reduces,
            split_bytes_next: larger_splits(files, shape, bytes),
        });
    }
    let splits = SplitList::new(rows(files, shape, bytes));
    let splits = splits.map_err(|_| PlanError::TooLong)?;
    let empty_files = files.iter().filter(|file| file.length == 0).count() as u64;
    Ok(Plan {
        warnings: warnings(files, shape, bytes, splits.count()),
        splits,
        reduces: shape.reduces,
        bytes,
        files: files.len() as u64 - empty_files,
        empty_files,
        split_bytes: shape.split_bytes,
    })
}

/// Each file that has something in it, and whether it is joined to the one before it.
fn joined(
    files: &[InputFile],
    shape: Shape,
    bytes: u64,
) -> impl Iterator<Item = (&InputFile, bool)> {
    let joined_bytes = (bytes / JOINED_SHARE).max(JOINED_BYTES_MIN);
    let joined_bytes = joined_bytes.min(shape.split_bytes);
    let is_whole = move |file: &InputFile| file.length <= split_bytes_of(file, shape);
    // Of the last split: bytes, files, and the last of them.
    let last = (0_u64, 0_usize, None::<&InputFile>);
    let files = files.iter().filter(|file| file.length > 0);
    files.scan(last, move |(bytes, count, last), file| {
        *bytes = bytes.saturating_add(file.length);
        *count += 1;
        let goes = |last: &InputFile| is_whole(last) && hosts(last) == hosts(file);
        let is_joined = *bytes <= joined_bytes
            && *count <= JOINED_MAX
            && is_whole(file)
            && last.is_some_and(goes);
        if !is_joined {
            (*bytes, *count) = (file.length, 1);
        }
        *last = Some(file);
        Some((file, is_joined))
    })
}

/// The splits, before it is known that there are not too many.
fn maps(files: &[InputFile], shape: Shape, bytes: u64) -> u64 {
    let first = joined(files, shape, bytes).filter(|(_, is_joined)| !is_joined);
    let each = first.map(|(file, _)| file.length.div_ceil(split_bytes_of(file, shape)));
    each.fold(0, u64::saturating_add)
}

fn rows(files: &[InputFile], shape: Shape, bytes: u64) -> Vec<SplitRun> {
    let rows = joined(files, shape, bytes).map(|(file, joined)| SplitRun {
        uri: file.uri.clone(),
        offset: 0,
        length: file.length,
        split_bytes: split_bytes_of(file, shape),
        hosts: hosts(file).to_vec(),
        // One that is beyond all measure is not looked at.
        version: Some(&file.version)
            .filter(|version| version.len() <= VERSION_BYTES_MAX)
            .cloned()
            .unwrap_or_default(),
        joined,
    });
    rows.collect()
}

/// Machines that count.
fn hosts(file: &InputFile) -> &[HostName] {
    &file.hosts[..file.hosts.len().min(HOSTS_MAX)]
}

fn split_bytes_of(file: &InputFile, shape: Shape) -> u64 {
    if file.splittable {
        shape.split_bytes
    } else {
        file.length.max(1)
    }
}

/// Splits of whole MiB with which the tasks are few enough.
fn larger_splits(files: &[InputFile], shape: Shape, bytes: u64) -> Option<u64> {
    const MIB: u64 = 1 << 20;
    let room = u64::from(TASKS_MAX.checked_sub(shape.reduces)?);
    let maps_with = |split_bytes| {
        let shape = Shape {
            split_bytes,
            ..shape
        };
        maps(files, shape, bytes)
    };
    // The greatest is that of one split for each file; between, fewer splits with each step.
    let (mut low, mut high) = (shape.split_bytes / MIB, u64::MAX / MIB);
    if maps_with(high * MIB) > room {
        return None;
    }
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if maps_with((middle * MIB).max(1)) > room {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(high * MIB)
}

fn warnings(files: &[InputFile], shape: Shape, bytes: u64, maps: u32) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if maps == 0 {
        warnings.push(Warning::Empty);
    }
    let slices = u64::from(maps) * u64::from(shape.reduces);
    if slices > 1 && bytes / slices < SLICE_BYTES_MIN {
        let slice_bytes = bytes / slices;
        warnings.push(Warning::SmallSlices { slice_bytes });
    }
    let long = |file: &&InputFile| !file.splittable && file.length > shape.split_bytes;
    let (files, longest_bytes) = files
        .iter()
        .filter(long)
        .fold((0, 0), |(count, longest), file| {
            (count + 1, file.length.max(longest))
        });
    if files > 0 {
        warnings.push(Warning::LongUnsplittable {
            files,
            longest_bytes,
        });
    }
    warnings
}

/// Bytes for people: binary units, one digit after the point.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let unit = (self.0.max(1).ilog2() / 10) as usize;
        let name = UNITS.get(unit).copied().unwrap_or("EiB");
        if unit == 0 {
            return write!(f, "{} {name}", self.0);
        }
        let scale = 1_u64 << (10 * unit);
        let (whole, rest) = (self.0 / scale, self.0 % scale);
        let tenths = (u128::from(rest) * 10) >> (10 * unit);
        match tenths {
            0 => write!(f, "{whole} {name}"),
            tenths => write!(f, "{whole}.{tenths} {name}"),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SmallSlices { slice_bytes } => write!(
                f,
                "each map has about {} for each reduce; below {} fetching costs more than sending: \
                 use larger splits or fewer reduces",
                Bytes(*slice_bytes),
                Bytes(SLICE_BYTES_MIN)
            ),
            Self::LongUnsplittable {
                files,
                longest_bytes,
            } => write!(
                f,
                "{files} files cannot be split and are longer than a split, up to {}: one worker \
                 reads each alone",
                Bytes(*longest_bytes)
            ),
            Self::Empty => f.write_str("the input is empty"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "input    {} in {} files, {} empty ones left out",
            Bytes(self.bytes),
            self.files,
            self.empty_files
        )?;
        writeln!(
            f,
            "map      {} tasks, splits of up to {}",
            self.maps(),
            Bytes(self.split_bytes)
        )?;
        match self.reduces {
            0 => writeln!(f, "reduce   none: the maps write the output")?,
            reduces => writeln!(f, "reduce   {reduces} tasks, as many output files")?,
        }
        for warning in &self.warnings {
            writeln!(f, "warning  {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
