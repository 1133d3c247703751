//! What a master is told, and what it asks for. Reports and answers are about the whole of what is
//! so, not about changes: one that is lost, doubled or late costs time and nothing else.

use std::sync::Arc;

use crate::limits::{
    COUNTER_NAME_BYTES_MAX, COUNTERS_MAX, OUTPUT_NAME_BYTES_MAX, OUTPUTS_MAX, REPORT_ENTRIES_MAX,
};
use crate::names::{AttemptId, Epoch, HostName, Incarnation, JobId, TaskId, WorkerName, ZoneName};
use crate::plan::SplitList;
use crate::record::{
    BUILTIN_COUNT, Batch, FailureClass, Header, JobStatus, Output, bounded, is_side_name,
};
use crate::spec::JobSpec;

/// A job as the group has it.
#[derive(Clone, Debug)]
pub struct JobImage {
    /// Which.
    pub job: JobId,
    /// Its header.
    pub header: Header,
    /// What it is.
    pub spec: JobSpec,
    /// What its maps read.
    pub splits: SplitList,
    /// Its log, from the first batch on.
    pub log: Vec<Batch>,
}

/// A worker of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its name, over all its lives.
    pub name: WorkerName,
    /// This life.
    pub incarnation: Incarnation,
    /// Attempts that it runs at a time.
    pub slots: u32,
    /// Where it runs.
    pub host: HostName,
    /// What that is near to.
    pub zone: ZoneName,
}

/// An attempt that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Of which job.
    pub job: JobId,
    /// Which task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: AttemptId,
    /// Bytes read so far.
    pub bytes: u64,
    /// Records read so far.
    pub records: u64,
}

/// An attempt that has finished: all that it wrote is on disk, under names of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Of which job.
    pub job: JobId,
    /// Which task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: AttemptId,
    /// What it wrote, the main output first.
    pub outputs: Vec<Output>,
    /// Order-independent checksum of what it put out.
    pub content: u64,
    /// Of a reduce: [`crate::job::inputs_digest`] of what it read.
    pub inputs: u64,
    /// What it counted, in the order of [`crate::record::BUILTIN_NAMES`].
    pub builtin: [u64; BUILTIN_COUNT],
    /// Counters of the job's code, by name.
    pub counters: Vec<(String, u64)>,
}

/// An attempt that ended without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Of which job.
    pub job: JobId,
    /// Which task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: AttemptId,
    /// How.
    pub class: FailureClass,
    /// What was said; cut where it is stored.
    pub message: String,
    /// The record at which it was, from 0 in its split or partition.
    pub position: Option<u64>,
}

/// A running reduce that cannot have the output of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchFailed {
    /// Of which job.
    pub job: JobId,
    /// The reduce's attempt.
    pub reader: AttemptId,
    /// The map.
    pub map: u32,
    /// The attempt that it was to read from.
    pub attempt: AttemptId,
    /// The life of the worker that should have it.
    pub holder: Incarnation,
    /// It answered, and what it sent is not what was recorded, or it has it no more.
    pub damaged: bool,
}

/// All that a worker has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which life of which worker.
    pub incarnation: Incarnation,
    /// Grows with each report: older ones that arrive late are left out.
    pub sequence: u64,
    /// The highest epoch that it knows.
    pub epoch: Epoch,
    /// The greatest attempt that it has accepted: it takes no lower one any more.
    pub accepted: AttemptId,
    /// What runs.
    pub running: Vec<Progress>,
    /// What has finished, until it hears what became of it.
    pub finished: Vec<Finished>,
    /// What has failed, until it hears that this is known.
    pub failed: Vec<Failed>,
    /// What its reduces miss.
    pub fetch_failed: Vec<FetchFailed>,
    /// How far it knows where map outputs are, for jobs whose reduces it runs.
    pub known: Vec<(JobId, u64)>,
}

/// A report, or a part of one, that is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Nobody of that life is there, now.
    #[error("worker {0} is not a member")]
    UnknownWorker(Incarnation),
    /// It has heard of a later master.
    #[error("the worker has seen epoch {found}, this master has {own}")]
    LaterEpoch {
        /// What it has seen.
        found: Epoch,
        /// Ours.
        own: Epoch,
    },
    /// A list or text that is too long.
    #[error("{field} has {found} entries or bytes, at most {max}")]
    TooLong {
        /// Which.
        field: &'static str,
        /// How long it is.
        found: usize,
        /// How long it may be.
        max: usize,
    },
    /// A side file whose name is no plain file name, or a main output that has one.
    #[error("an output is called `{name}`, which is not the name of a side file")]
    OutputName {
        /// The name.
        name: String,
    },
    /// No such task, or the attempt is of another.
    #[error("{attempt} is not an attempt of {task} of {job} at this worker")]
    WrongTask {
        /// Which job it was said to be of.
        job: JobId,
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// More of the changes of a job than there are.
    #[error("the worker knows {found} changes of {job}, there are {known}")]
    Ahead {
        /// Which job.
        job: JobId,
        /// What it says.
        found: u64,
        /// What is there.
        known: u64,
    },
}

impl Report {
    /// Whether every list and text is within its bounds.
    pub fn check(&self) -> Result<(), ReportError> {
        let lists = [
            self.running.len(),
            self.finished.len(),
            self.failed.len(),
            self.fetch_failed.len(),
            self.known.len(),
        ];
        for found in lists {
            at_most("a list of the report", found, REPORT_ENTRIES_MAX)?;
        }
        for finished in &self.finished {
            at_most("outputs", finished.outputs.len(), OUTPUTS_MAX)?;
            for (index, output) in finished.outputs.iter().enumerate() {
                let name = &output.name;
                if !(if index == 0 {
                    name.is_empty()
                } else {
                    is_side_name(name)
                }) {
                    return Err(ReportError::OutputName {
                        name: bounded(name, OUTPUT_NAME_BYTES_MAX).to_owned(),
                    });
                }
            }
            at_most("counters", finished.counters.len(), COUNTERS_MAX)?;
            for (name, _) in &finished.counters {
                at_most("a counter's name", name.len(), COUNTER_NAME_BYTES_MAX)?;
            }
        }
        Ok(())
    }
}

fn at_most(field: &'static str, found: usize, max: usize) -> Result<(), ReportError> {
    if found <= max {
        return Ok(());
    }
    Err(ReportError::TooLong { field, found, max })
}

/// Why an append had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The role is not granted at this epoch any more.
    Epoch,
    /// The job does not run any more: somebody cancelled or removed it.
    NotRunning,
    /// The sequence number has this batch.
    Present(Box<Batch>),
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A job is there: a new one, or one that an earlier master worked on. Boxed: it is large.
    Job(Box<JobImage>),
    /// A job's header says so.
    Cancelled(JobId),
    /// A worker's leased key was created. A later life replaces an earlier one.
    Joined(WorkerInfo),
    /// A worker's leased key is gone: it left, or lost its lease.
    Gone(Incarnation),
    /// The group has confirmed that what it has of jobs and workers is what this master was told.
    /// After each look at the group, at least every few seconds.
    Confirmed,
    /// A worker's report.
    Report(Box<Report>),
    /// The batch is in the log.
    Appended {
        /// Of which job.
        job: JobId,
        /// Which batch.
        sequence: u64,
    },
    /// The append had no effect.
    Refused {
        /// Of which job.
        job: JobId,
        /// Which batch.
        sequence: u64,
        /// Why.
        why: Refusal,
    },
    /// Nobody knows whether it is there: it is sent again, with the same number and bytes.
    Unknown {
        /// Of which job.
        job: JobId,
        /// Which batch.
        sequence: u64,
    },
    /// Time has passed. At least every few tens of milliseconds while there are jobs.
    Time,
}

/// What becomes of an attempt that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The group has recorded it as the winner: serve or publish its output.
    Won,
    /// The same, said again.
    AlreadyWon,
    /// Another has won: remove its files.
    Lost(AttemptId),
    /// It can win no more: it was given up, or its job is over. Remove its files.
    Fenced,
    /// Its failure is known.
    Noted,
}

/// Why an attempt is to stop. None of it is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Another attempt has won.
    Lost(AttemptId),
    /// The job is over.
    JobOver,
    /// It was given up: its slot is needed, or it is not known.
    GivenUp,
    /// A map that it has read from gives something else now.
    InputsChanged,
}

/// What a worker is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Of which job.
    pub job: JobId,
    /// Which task.
    pub task: TaskId,
    /// Under which name.
    pub attempt: AttemptId,
    /// Of the master that says so.
    pub epoch: Epoch,
    /// Maps of the job: of a reduce, how many outputs it has to read.
    pub maps: u32,
    /// Reduces of the job: of a map, how many partitions it makes.
    pub reduces: u32,
    /// Records to leave out: where runs of them begin, and how long they are.
    pub skip: Vec<(u64, u64)>,
}

/// Where the output of a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The attempt that won.
    pub attempt: AttemptId,
    /// The life of the worker that has it.
    pub incarnation: Incarnation,
    /// Checksum of its content: what goes into `inputs`.
    pub content: u64,
}

/// Maps whose location changed, and where each is; none where there is no winner.
pub type Locations = Arc<[(u32, Option<Location>)]>;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write `batch` as number `sequence` of the job's log, and `header` if there is one, in one
    /// transaction: only if the role is granted at the batch's epoch, that number is free and the
    /// job's header says that it runs.
    Append {
        /// Of which job.
        job: JobId,
        /// Its number.
        sequence: u64,
        /// What to write.
        batch: Batch,
        /// What the header becomes, when the job ends with this batch.
        header: Option<Header>,
    },
    /// Send an assignment; it may have been sent before.
    Assign {
        /// To whom.
        to: Incarnation,
        /// What.
        assignment: Box<Assignment>,
    },
    /// Tell what became of an attempt.
    Tell {
        /// To whom.
        to: Incarnation,
        /// Of which job.
        job: JobId,
        /// Which attempt.
        attempt: AttemptId,
        /// What.
        outcome: Outcome,
    },
    /// Tell to stop an attempt.
    Stop {
        /// To whom.
        to: Incarnation,
        /// Of which job.
        job: JobId,
        /// Which attempt.
        attempt: AttemptId,
        /// Why.
        reason: StopReason,
    },
    /// Tell where map outputs are, in the order in which that changed. A later entry of a map
    /// replaces an earlier one.
    Locations {
        /// To whom.
        to: Incarnation,
        /// Of which job.
        job: JobId,
        /// What it knew.
        from: u64,
        /// What it knows with this.
        next: u64,
        /// What there is to know: a worker that is behind asks again at once.
        known: u64,
        /// Each map that changed. Shared by all who are told the same.
        entries: Locations,
    },
    /// A job has ended, and the group says so. Of one that is done: see that every winner's output
    /// is published, then write the manifest. Both may be done again by anybody.
    JobEnded {
        /// Which.
        job: JobId,
        /// How.
        status: JobStatus,
    },
    /// A report, or a part of it, was not believed: for the log.
    Rejected {
        /// Who said so.
        from: Incarnation,
        /// What was wrong.
        error: ReportError,
    },
    /// A job that was not taken, or whose log is not one of ours: for a person.
    Unreadable {
        /// Which.
        job: JobId,
        /// What was wrong.
        message: String,
    },
    /// This master's time is over; it does nothing more.
    SteppedDown {
        /// Why.
        why: String,
    },
}
