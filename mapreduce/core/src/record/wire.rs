//! The stored form: protobuf of our own. Field numbers are for ever; a reader refuses a format
//! that it does not know instead of leaving out what it does not understand.

use prost::Message as _;

use super::{
    BUILTIN_COUNT, Batch, Counters, FailureClass, Header, JobFailure, JobFailureKind, JobStatus,
    Output, Record, RevokeReason, TaskWon, is_side_name,
};
use crate::limits::{
    BATCH_RECORDS_READ_MAX, COUNTER_NAME_BYTES_MAX, COUNTERS_MAX, MESSAGE_BYTES_MAX, OUTPUTS_MAX,
    TASKS_MAX, VALUE_READ_BYTES_MAX,
};
use crate::names::{AttemptId, Epoch, Incarnation, Phase, TaskId};

/// Version of headers and batches.
const FORMAT: u32 = 1;

/// A value of the group that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not of our format.
    #[error("the value cannot be read: {0}")]
    Malformed(String),
    /// Written by a later version.
    #[error("the value has format {found}, this version knows {FORMAT}; upgrade it")]
    Format {
        /// What it says.
        found: u32,
    },
    /// More bytes than anybody writes.
    #[error("the value has {bytes} bytes, at most {VALUE_READ_BYTES_MAX} are read")]
    TooLong {
        /// Bytes found.
        bytes: usize,
    },
    /// A number or length that is out of bounds.
    #[error("{field} is {found}, at most {max}")]
    Bound {
        /// Which.
        field: &'static str,
        /// What it is.
        found: u64,
        /// What it may be.
        max: u64,
    },
    /// Something that has to be there is not, or has no meaning to this version.
    #[error("{0} is missing or not known")]
    Unknown(&'static str),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireHeader {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(bytes = "vec", tag = "2")]
    spec_digest: Vec<u8>,
    #[prost(uint32, tag = "3")]
    maps: u32,
    #[prost(uint32, tag = "4")]
    reduces: u32,
    /// 1 running, 2 done, 3 failed, 4 cancelled.
    #[prost(uint32, tag = "5")]
    status: u32,
    #[prost(message, optional, tag = "6")]
    failure: Option<WireJobFailure>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireBatch {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(message, repeated, tag = "3")]
    records: Vec<WireRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRecord {
    #[prost(oneof = "WireKind", tags = "1, 2, 3, 4, 5, 6, 7")]
    kind: Option<WireKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum WireKind {
    #[prost(message, tag = "1")]
    Won(WireWon),
    #[prost(message, tag = "2")]
    Revoked(WireRevoked),
    #[prost(message, tag = "3")]
    Failed(WireFailed),
    #[prost(message, tag = "4")]
    Skipped(WireSkipped),
    #[prost(message, tag = "5")]
    CounterName(WireCounterName),
    #[prost(message, tag = "6")]
    Done(WireDone),
    #[prost(message, tag = "7")]
    JobFailed(WireJobFailure),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireWon {
    /// Twice the index, and one more of a reduce.
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint64, tag = "2")]
    attempt_epoch: u64,
    #[prost(uint64, tag = "3")]
    attempt_counter: u64,
    #[prost(uint64, tag = "4")]
    incarnation: u64,
    #[prost(fixed64, tag = "5")]
    content: u64,
    #[prost(fixed64, tag = "6")]
    inputs: u64,
    #[prost(message, repeated, tag = "7")]
    outputs: Vec<WireOutput>,
    /// In the order of `BUILTIN_NAMES`; zeros at the end are left out.
    #[prost(uint64, repeated, tag = "8")]
    builtin: Vec<u64>,
    #[prost(uint32, repeated, tag = "9")]
    user_ids: Vec<u32>,
    #[prost(uint64, repeated, tag = "10")]
    user_values: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireOutput {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    length: u64,
    #[prost(fixed64, tag = "3")]
    checksum: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRevoked {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint64, tag = "2")]
    attempt_epoch: u64,
    #[prost(uint64, tag = "3")]
    attempt_counter: u64,
    /// 1 worker lost, 2 fetch failed, 3 damaged.
    #[prost(uint32, tag = "4")]
    reason: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireFailed {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint64, tag = "2")]
    attempt_epoch: u64,
    #[prost(uint64, tag = "3")]
    attempt_counter: u64,
    /// From 1, in the order of `FailureClass::ALL`.
    #[prost(uint32, tag = "4")]
    class: u32,
    #[prost(string, tag = "5")]
    message: String,
    #[prost(uint64, optional, tag = "6")]
    position: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSkipped {
    #[prost(uint32, tag = "1")]
    task: u32,
    #[prost(uint64, tag = "2")]
    first: u64,
    #[prost(uint64, tag = "3")]
    count: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCounterName {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireDone {}

#[derive(Clone, PartialEq, prost::Message)]
struct WireJobFailure {
    /// 1 attempts exhausted, 2 io fatal, 3 no workers, 4 not deterministic, 5 output lost.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint32, optional, tag = "2")]
    task: Option<u32>,
    #[prost(string, tag = "3")]
    message: String,
}

pub(super) fn encode_batch(batch: &Batch) -> Vec<u8> {
    let records = batch.records.iter().map(to_wire).collect();
    let wire = WireBatch {
        format: FORMAT,
        epoch: batch.epoch.0,
        records,
    };
    wire.encode_to_vec()
}

pub(super) fn record_len(record: &Record) -> usize {
    // A key, and a length of at most three bytes.
    to_wire(record).encoded_len() + 4
}

pub(super) fn decode_batch(bytes: &[u8]) -> Result<Batch, DecodeError> {
    let wire: WireBatch = decode(bytes)?;
    check_format(wire.format)?;
    at_most("records", wire.records.len(), BATCH_RECORDS_READ_MAX)?;
    if wire.records.is_empty() {
        return Err(DecodeError::Unknown("a record"));
    }
    let records = wire.records.into_iter().map(from_wire);
    Ok(Batch {
        epoch: Epoch(wire.epoch),
        records: records.collect::<Result<_, _>>()?,
    })
}

pub(super) fn encode_header(header: &Header) -> Vec<u8> {
    let (status, failure) = match &header.status {
        JobStatus::Running => (1, None),
        JobStatus::Done => (2, None),
        JobStatus::Failed(failure) => (3, Some(failure_to_wire(failure))),
        JobStatus::Cancelled => (4, None),
    };
    let wire = WireHeader {
        format: FORMAT,
        spec_digest: header.spec_digest.to_vec(),
        maps: header.maps,
        reduces: header.reduces,
        status,
        failure,
    };
    wire.encode_to_vec()
}

pub(super) fn decode_header(bytes: &[u8]) -> Result<Header, DecodeError> {
    let wire: WireHeader = decode(bytes)?;
    check_format(wire.format)?;
    let tasks = u64::from(wire.maps) + u64::from(wire.reduces);
    bound("tasks", tasks, u64::from(TASKS_MAX))?;
    let status = match (wire.status, wire.failure) {
        (1, None) => JobStatus::Running,
        (2, None) => JobStatus::Done,
        (3, Some(failure)) => JobStatus::Failed(failure_from_wire(failure)?),
        (4, None) => JobStatus::Cancelled,
        _ => return Err(DecodeError::Unknown("the status")),
    };
    let spec_digest = wire.spec_digest.try_into();
    Ok(Header {
        spec_digest: spec_digest.map_err(|_| DecodeError::Unknown("the digest of the job"))?,
        maps: wire.maps,
        reduces: wire.reduces,
        status,
    })
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, DecodeError> {
    if bytes.len() > VALUE_READ_BYTES_MAX {
        return Err(DecodeError::TooLong { bytes: bytes.len() });
    }
    M::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))
}

fn check_format(found: u32) -> Result<(), DecodeError> {
    if found == FORMAT {
        return Ok(());
    }
    Err(DecodeError::Format { found })
}

fn bound(field: &'static str, found: u64, max: u64) -> Result<(), DecodeError> {
    if found <= max {
        return Ok(());
    }
    Err(DecodeError::Bound { field, found, max })
}

fn at_most(field: &'static str, found: usize, max: usize) -> Result<(), DecodeError> {
    bound(field, found as u64, max as u64)
}

fn task_to_wire(task: TaskId) -> u32 {
    // Indexes are below 250,000, so nothing is lost; a greater one is refused by who reads it.
    let twice = task.index.saturating_mul(2);
    twice.saturating_add(u32::from(task.phase == Phase::Reduce))
}

fn task_from_wire(task: u32) -> Result<TaskId, DecodeError> {
    let index = task / 2;
    bound("a task", u64::from(index), u64::from(TASKS_MAX - 1))?;
    Ok(if task.is_multiple_of(2) {
        TaskId::map(index)
    } else {
        TaskId::reduce(index)
    })
}

fn attempt(epoch: u64, counter: u64) -> AttemptId {
    let epoch = Epoch(epoch);
    AttemptId { epoch, counter }
}

fn to_wire(record: &Record) -> WireRecord {
    let kind = match record {
        Record::Won(won) => WireKind::Won(won_to_wire(won)),
        Record::Revoked {
            task,
            attempt,
            reason,
        } => WireKind::Revoked(WireRevoked {
            task: task_to_wire(*task),
            attempt_epoch: attempt.epoch.0,
            attempt_counter: attempt.counter,
            reason: match reason {
                RevokeReason::WorkerLost => 1,
                RevokeReason::FetchFailed => 2,
                RevokeReason::Damaged => 3,
            },
        }),
        Record::Failed {
            task,
            attempt,
            class,
            message,
            position,
        } => WireKind::Failed(WireFailed {
            task: task_to_wire(*task),
            attempt_epoch: attempt.epoch.0,
            attempt_counter: attempt.counter,
            class: class_to_wire(*class),
            message: message.clone(),
            position: *position,
        }),
        Record::Skipped { task, first, count } => WireKind::Skipped(WireSkipped {
            task: task_to_wire(*task),
            first: *first,
            count: *count,
        }),
        Record::CounterName { id, name } => WireKind::CounterName(WireCounterName {
            id: *id,
            name: name.clone(),
        }),
        Record::Done => WireKind::Done(WireDone {}),
        Record::JobFailed(failure) => WireKind::JobFailed(failure_to_wire(failure)),
    };
    WireRecord { kind: Some(kind) }
}

fn from_wire(record: WireRecord) -> Result<Record, DecodeError> {
    let kind = record.kind.ok_or(DecodeError::Unknown("a record's kind"))?;
    Ok(match kind {
        WireKind::Won(won) => Record::Won(Box::new(won_from_wire(won)?)),
        WireKind::Revoked(revoked) => Record::Revoked {
            task: task_from_wire(revoked.task)?,
            attempt: attempt(revoked.attempt_epoch, revoked.attempt_counter),
            reason: match revoked.reason {
                1 => RevokeReason::WorkerLost,
                2 => RevokeReason::FetchFailed,
                3 => RevokeReason::Damaged,
                _ => return Err(DecodeError::Unknown("the reason of a revocation")),
            },
        },
        WireKind::Failed(failed) => {
            at_most(
                "bytes of a message",
                failed.message.len(),
                MESSAGE_BYTES_MAX,
            )?;
            Record::Failed {
                task: task_from_wire(failed.task)?,
                attempt: attempt(failed.attempt_epoch, failed.attempt_counter),
                class: class_from_wire(failed.class)?,
                message: failed.message,
                position: failed.position,
            }
        }
        WireKind::Skipped(skipped) => Record::Skipped {
            task: task_from_wire(skipped.task)?,
            first: skipped.first,
            count: skipped.count,
        },
        WireKind::CounterName(named) => {
            let bytes = named.name.len();
            at_most("bytes of a counter's name", bytes, COUNTER_NAME_BYTES_MAX)?;
            bound("a counter", u64::from(named.id), COUNTERS_MAX as u64 - 1)?;
            Record::CounterName {
                id: named.id,
                name: named.name,
            }
        }
        WireKind::Done(WireDone {}) => Record::Done,
        WireKind::JobFailed(failure) => Record::JobFailed(failure_from_wire(failure)?),
    })
}

fn won_to_wire(won: &TaskWon) -> WireWon {
    let builtin = &won.counters.builtin;
    let used = builtin
        .iter()
        .rposition(|value| *value > 0)
        .map_or(0, |last| last + 1);
    let outputs = won.outputs.iter().map(|output| WireOutput {
        name: output.name.clone(),
        length: output.length,
        checksum: output.checksum,
    });
    let (user_ids, user_values) = won.counters.user.iter().copied().unzip();
    WireWon {
        task: task_to_wire(won.task),
        attempt_epoch: won.attempt.epoch.0,
        attempt_counter: won.attempt.counter,
        incarnation: won.incarnation.0,
        content: won.content,
        inputs: won.inputs,
        outputs: outputs.collect(),
        builtin: builtin[..used].to_vec(),
        user_ids,
        user_values,
    }
}

fn won_from_wire(won: WireWon) -> Result<TaskWon, DecodeError> {
    at_most("outputs", won.outputs.len(), OUTPUTS_MAX)?;
    at_most("counters", won.builtin.len(), BUILTIN_COUNT)?;
    at_most("counters of the job", won.user_ids.len(), COUNTERS_MAX)?;
    if won.user_ids.len() != won.user_values.len() {
        return Err(DecodeError::Unknown("a counter's value"));
    }
    let mut builtin = [0; BUILTIN_COUNT];
    builtin[..won.builtin.len()].copy_from_slice(&won.builtin);
    let user = won.user_ids.into_iter().zip(won.user_values).collect();
    let outputs = won.outputs.into_iter().enumerate().map(|(index, output)| {
        let fits = if index == 0 {
            output.name.is_empty()
        } else {
            is_side_name(&output.name)
        };
        if !fits {
            return Err(DecodeError::Unknown("a usable name of a side file"));
        }
        Ok(Output {
            name: output.name,
            length: output.length,
            checksum: output.checksum,
        })
    });
    Ok(TaskWon {
        task: task_from_wire(won.task)?,
        attempt: attempt(won.attempt_epoch, won.attempt_counter),
        incarnation: Incarnation(won.incarnation),
        outputs: outputs.collect::<Result<_, _>>()?,
        content: won.content,
        inputs: won.inputs,
        counters: Counters { builtin, user },
    })
}

fn class_to_wire(class: FailureClass) -> u32 {
    match class {
        FailureClass::UserCode => 1,
        FailureClass::BadRecord => 2,
        FailureClass::FetchLost => 3,
        FailureClass::Killed => 4,
        FailureClass::Fenced => 5,
        FailureClass::DiskFull => 6,
        FailureClass::IoRetryable => 7,
        FailureClass::IoFatal => 8,
    }
}

fn class_from_wire(class: u32) -> Result<FailureClass, DecodeError> {
    let all = FailureClass::ALL.into_iter();
    let mut found = all.filter(|known| class_to_wire(*known) == class);
    found
        .next()
        .ok_or(DecodeError::Unknown("the class of a failure"))
}

fn failure_to_wire(failure: &JobFailure) -> WireJobFailure {
    WireJobFailure {
        kind: match failure.kind {
            JobFailureKind::AttemptsExhausted => 1,
            JobFailureKind::IoFatal => 2,
            JobFailureKind::NoWorkers => 3,
            JobFailureKind::NonDeterministic => 4,
            JobFailureKind::OutputLost => 5,
        },
        task: failure.task.map(task_to_wire),
        message: failure.message.clone(),
    }
}

fn failure_from_wire(failure: WireJobFailure) -> Result<JobFailure, DecodeError> {
    at_most(
        "bytes of a message",
        failure.message.len(),
        MESSAGE_BYTES_MAX,
    )?;
    Ok(JobFailure {
        kind: match failure.kind {
            1 => JobFailureKind::AttemptsExhausted,
            2 => JobFailureKind::IoFatal,
            3 => JobFailureKind::NoWorkers,
            4 => JobFailureKind::NonDeterministic,
            5 => JobFailureKind::OutputLost,
            _ => return Err(DecodeError::Unknown("why the job failed")),
        },
        task: failure.task.map(task_from_wire).transpose()?,
        message: failure.message,
    })
}
