//! What a job leaves in the group: a header, and a log of batches that only grows.
//!
//! A batch is written by one transaction, which takes effect only if the role `mapreduce/master` is
//! still granted at the epoch in the batch, the job's next sequence number is free, and the job
//! runs. So the log has one writer at a time, and its fold ([`crate::job::JobState`]) is the only
//! truth about a job. Everything in it is O(M + R): where the slices of a map's output begin is in
//! that output's own index.

mod wire;

use std::fmt;

pub use wire::DecodeError;

use crate::limits::OUTPUT_NAME_BYTES_MAX;
use crate::names::{AttemptId, Epoch, Incarnation, TaskId};

/// How many counters every attempt has.
pub const BUILTIN_COUNT: usize = 7;
/// Their names, in the order in which they are stored.
pub const BUILTIN_NAMES: [&str; BUILTIN_COUNT] = [
    "records_in",
    "bytes_in",
    "records_out",
    "bytes_out",
    "bytes_spilled",
    "records_combined",
    "records_skipped",
];

/// A file that an attempt wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Of a side file; the main output has none.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// Of its bytes, as the data format has it.
    pub checksum: u64,
}

/// What an attempt counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Those of [`BUILTIN_NAMES`].
    pub builtin: [u64; BUILTIN_COUNT],
    /// Those of the job's code, by the number that a [`Record::CounterName`] gave them.
    pub user: Vec<(u32, u64)>,
}

/// An attempt that won its task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskWon {
    /// Of which task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: AttemptId,
    /// The life of the worker that ran it, and has a map's output.
    pub incarnation: Incarnation,
    /// What it wrote, the main output first.
    pub outputs: Vec<Output>,
    /// Order-independent checksum of what it put out, over all partitions.
    pub content: u64,
    /// Of a reduce: [`crate::job::inputs_digest`] of the map outputs that it read; else 0.
    pub inputs: u64,
    /// What it counted.
    pub counters: Counters,
}

/// Why a winner is none any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RevokeReason {
    /// The worker that has the output lost its lease or left.
    WorkerLost,
    /// Reduces could not fetch it.
    FetchFailed,
    /// What was fetched is not what was recorded, or is gone.
    Damaged,
}

/// How an attempt ended that did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureClass {
    /// The job's code failed, crashed or hung, on no particular record.
    UserCode,
    /// The job's code crashed on a record, whose position is known.
    BadRecord,
    /// A map output could not be fetched: the fault of nobody's code.
    FetchLost,
    /// It was told to stop.
    Killed,
    /// It was not allowed to go on: an older epoch, no lease, or the job is over.
    Fenced,
    /// The worker's disk is full.
    DiskFull,
    /// Reading or writing failed in a way that may pass.
    IoRetryable,
    /// Reading or writing failed in a way that will not pass: a missing input, a refused output.
    IoFatal,
}

impl FailureClass {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::UserCode,
        Self::BadRecord,
        Self::FetchLost,
        Self::Killed,
        Self::Fenced,
        Self::DiskFull,
        Self::IoRetryable,
        Self::IoFatal,
    ];

    /// Whether it is one of the failures that a task may have only so many of.
    pub fn counts(self) -> bool {
        match self {
            Self::UserCode
            | Self::BadRecord
            | Self::DiskFull
            | Self::IoRetryable
            | Self::IoFatal => true,
            Self::FetchLost | Self::Killed | Self::Fenced => false,
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserCode => "the job's code failed",
            Self::BadRecord => "the job's code crashed on a record",
            Self::FetchLost => "a map output could not be fetched",
            Self::Killed => "stopped",
            Self::Fenced => "not allowed to go on",
            Self::DiskFull => "disk full",
            Self::IoRetryable => "input or output failed",
            Self::IoFatal => "input or output failed for good",
        })
    }
}

/// Why a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobFailureKind {
    /// A task failed as often as it may.
    AttemptsExhausted,
    /// Input or output that no other attempt will have more luck with.
    IoFatal,
    /// For too long there was no worker.
    NoWorkers,
    /// A map gave something else when it was run again, and a reduce had won with the first.
    NonDeterministic,
    /// A map's output was lost in the same way too often.
    OutputLost,
}

impl fmt::Display for JobFailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AttemptsExhausted => "a task failed too often",
            Self::IoFatal => "input or output failed for good",
            Self::NoWorkers => "no worker was there",
            Self::NonDeterministic => "the map function is not deterministic",
            Self::OutputLost => "a map's output could not be fetched, again and again",
        })
    }
}

/// Why a job failed, with the task that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFailure {
    /// The kind.
    pub kind: JobFailureKind,
    /// The task, if it was one.
    pub task: Option<TaskId>,
    /// More, for people; bounded by [`crate::limits::MESSAGE_BYTES_MAX`].
    pub message: String,
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(task) = self.task {
            write!(f, ": {task}")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// One transition of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The first attempt to finish has won. Boxed: it is the large one.
    Won(Box<TaskWon>),
    /// A map's winner is none any more; nothing else takes a winner away.
    Revoked {
        /// The task.
        task: TaskId,
        /// Its winner until now.
        attempt: AttemptId,
        /// Why.
        reason: RevokeReason,
    },
    /// A failure that counts.
    Failed {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: AttemptId,
        /// How.
        class: FailureClass,
        /// What was said.
        message: String,
        /// The record at which it was, from 0 in its split or partition, if that is known.
        position: Option<u64>,
    },
    /// Records that attempts of this task leave out from now on.
    Skipped {
        /// The task.
        task: TaskId,
        /// The first, from 0 in its split or partition.
        first: u64,
        /// How many follow each other.
        count: u64,
    },
    /// What a counter of the job's code is called.
    CounterName {
        /// Its number: names are numbered from 0.
        id: u32,
        /// The name.
        name: String,
    },
    /// All tasks of the last phase have winners. The last record.
    Done,
    /// It cannot be done. The last record.
    JobFailed(JobFailure),
}

/// What one write to the log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Of the master that wrote it.
    pub epoch: Epoch,
    /// At least one.
    pub records: Vec<Record>,
}

impl Batch {
    /// As a value for the group.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode_batch(self)
    }

    /// From a value of the group: bounds are checked, the meaning is up to the fold.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::decode_batch(bytes)
    }
}

impl Record {
    /// Bytes in a batch.
    pub fn encoded_len(&self) -> usize {
        wire::record_len(self)
    }
}

/// Whether a job goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// Tasks are, or will be, run.
    Running,
    /// It has its output: the winners of the log.
    Done,
    /// It has none.
    Failed(JobFailure),
    /// Somebody stopped it.
    Cancelled,
}

/// What the group has of each job beside its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Digest of the job's JSON.
    pub spec_digest: [u8; 32],
    /// Map tasks.
    pub maps: u32,
    /// Reduce tasks.
    pub reduces: u32,
    /// Whether it goes on. The end of the log and this change in one transaction.
    pub status: JobStatus,
}

impl Header {
    /// As a value for the group.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode_header(self)
    }

    /// From a value of the group, checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::decode_header(bytes)
    }
}

/// Whether a side file may be called so: one part of a path, and no way out of its directory.
pub fn is_side_name(name: &str) -> bool {
    let is_part = !name.is_empty() && name != "." && name != "..";
    is_part && name.len() <= OUTPUT_NAME_BYTES_MAX && !name.contains(['/', '\\', '\0'])
}

/// `text` cut to at most `bytes_max` bytes, at the end of a character.
pub fn bounded(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
