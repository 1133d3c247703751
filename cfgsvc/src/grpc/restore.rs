//! Fills an empty group from a snapshot file that a client streams.
//!
//! Why through the log: every member gets it, and a leader that changes meanwhile goes on or fails
//! as for any other write.
//!
//! Invariants
//! - the data counts only after the whole file was read and its hash agreed.
//! - after any failure the group is empty and waits for the next try.
//! - nothing of it counts before what the former group may have promised is over: who holds a role
//!   by a grant that the file does not have may serve until then.

use std::sync::Arc;
use std::time::Duration;

use cfgsvc_clock::Moment;
use cfgsvc_core::limits::REVISION_MAX;
use cfgsvc_core::placement::promised_ms;
use cfgsvc_core::snapshot_file::{Reader, SnapshotError};
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::seed::Step;
use cfgsvc_proto::state::{Command, Record, Seed};
use cfgsvc_proto::v1::RestoreRequest;
use prost::Message;
use tonic::{Status, Streaming};

use crate::clock;
use crate::service::{Done, Service, unexpected};

/// Bytes of records in one log entry; one record alone may be larger.
const STEP_BYTES: usize = 512 << 10;
/// Longest wait between two looks at the lease clock.
const LOOK: Duration = Duration::from_millis(200);

/// Restores; returns the revision of the store and the count of records.
pub(super) async fn run(
    service: &Arc<Service>,
    mut blobs: Streaming<RestoreRequest>,
) -> Result<(i64, u64), Status> {
    let mut reader = Reader::new();
    let mut steps = None;
    let mut advance = None;
    while let Some(request) = blobs.message().await? {
        let advance = *advance.get_or_insert(request.advance);
        let records = reader
            .feed(&request.blob)
            .map_err(|error| refused(&error, steps.is_some()))?;
        // Nothing is touched before the file has shown that it is one.
        let Some(header) = reader.header() else {
            continue;
        };
        check_advance(header.revision, advance)?;
        let steps = match &mut steps {
            Some(steps) => steps,
            none => none.insert(Steps::begin(service, advance).await?),
        };
        for record in records {
            steps.add(record).await?;
        }
    }
    reader
        .finish()
        .map_err(|error| refused(&error, steps.is_some()))?;
    match steps {
        Some(steps) => steps.finish().await,
        None => Err(Status::internal("a whole file had no header")),
    }
}

fn check_advance(revision: i64, advance: i64) -> Result<(), Status> {
    if advance >= 0
        && revision
            .checked_add(advance)
            .is_some_and(|to| to <= REVISION_MAX)
    {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "revision {revision} cannot advance by {advance}: at least by 0, and not beyond revision \
         {REVISION_MAX}; nothing was changed"
    )))
}

/// The file is bad; `begun` says whether that was found out after the restore had begun.
fn refused(error: &SnapshotError, begun: bool) -> Status {
    let state = if begun {
        "nothing was restored, the group is empty and waits for a restore with a whole file"
    } else {
        "nothing was changed"
    };
    Status::invalid_argument(format!("snapshot refused: {error}; {state}"))
}

/// The steps of one restore.
struct Steps<'a> {
    service: &'a Service,
    /// Revisions to leave out.
    advance: i64,
    restore_id: u64,
    next: u64,
    pending: Vec<Record>,
    pending_bytes: usize,
    /// The former group was over by then.
    began: Moment,
    /// The longest lease of a role.
    promised: Duration,
}

impl<'a> Steps<'a> {
    async fn begin(service: &'a Service, advance: i64) -> Result<Self, Status> {
        let mut steps = Self {
            service,
            advance,
            restore_id: rand::random_range(1..=u64::MAX),
            next: 0,
            pending: Vec::new(),
            pending_bytes: 0,
            began: Moment::now(),
            promised: Duration::ZERO,
        };
        steps.propose(Step::Begin).await?;
        Ok(steps)
    }

    async fn add(&mut self, record: Record) -> Result<(), Status> {
        let bytes = record.encoded_len() + 4;
        if self.pending_bytes > 0 && self.pending_bytes + bytes > STEP_BYTES {
            self.step(Step::Records).await?;
        }
        self.pending_bytes += bytes;
        self.promised = self
            .promised
            .max(Duration::from_millis(promised_ms(&record)));
        self.pending.push(record);
        Ok(())
    }

    async fn finish(mut self) -> Result<(i64, u64), Status> {
        if !self.pending.is_empty() {
            self.step(Step::Records).await?;
        }
        self.wait_for_promises().await;
        let done = self.step(Step::Finish).await?;
        let Outcome::Seed(seeded) = done.outcome else {
            return Err(unexpected(&done));
        };
        Ok((done.revision, seeded.records))
    }

    /// The clock may stand still for the sleeping process, not for the holders of roles.
    async fn wait_for_promises(&self) {
        let until = self.began + self.promised;
        let left = Moment::now().until(until);
        if !left.is_zero() {
            tracing::info!(
                ?left,
                "waits for the leases of roles of the former group to be over"
            );
        }
        while Moment::now() < until {
            tokio::time::sleep(Moment::now().until(until).min(LOOK)).await;
        }
    }

    /// A step after the first; says how to go on when it fails.
    async fn step(&mut self, step: Step) -> Result<Done, Status> {
        let number = self.next;
        self.propose(step).await.map_err(|status| {
            Status::new(
                status.code(),
                format!(
                    "restore stopped at step {number}: {}; the group is empty and waits: run the \
                     restore again",
                    status.message()
                ),
            )
        })
    }

    async fn propose(&mut self, step: Step) -> Result<Done, Status> {
        let seed = Seed {
            step: step.into(),
            number: self.next,
            records: std::mem::take(&mut self.pending),
            restore_id: self.restore_id,
            advance: if step == Step::Finish {
                self.advance
            } else {
                0
            },
        };
        self.next += 1;
        self.pending_bytes = 0;
        let command = Command {
            at_ms: clock::wall_ms(),
            op: Some(Op::Seed(seed)),
            ..Command::default()
        };
        self.service.propose(&command).await
    }
}
