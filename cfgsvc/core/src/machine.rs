//! The state machine: one command in, one reply and its effects out.
//!
//! ```text
//!  command ─► decode ─► restore? ─► session: replay or refuse? ─► check ─► write ─► reply kept
//!              every arrow may end in a refusal; nothing is written before `write`, which a
//!              transaction does on top of the state until it is known to be within the limits
//! ```
//!
//! Invariants
//! - the outcome depends on the store and the command alone.
//! - a command adds at most one revision, and an expiry one for each lease that had keys.
//! - commit times never go back, whatever the proposers' clocks do.
//! - an operation that this version does not know stops the member: other members may know it.

use std::io;

use bytes::Bytes;
use cfgsvc_proto::etcd;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::seed::Step;
use cfgsvc_proto::state::{
    Command, LeaseExpire, LeaseExpired, LeaseRecord, MachineRecord, Refusal, Reply, RevisionRecord,
    Scrubbed,
};
use cluster_core::store::{Overlay, View};
use prost::Message;

use crate::floor::Floor;
use crate::limits::TXN_RECORDS_MAX;
use crate::metered::Metered;
use crate::read::Position;
use crate::refusal::{Code, refuse};
use crate::session::Admission;
use crate::txn::Path;
use crate::writer::{RevisionEvents, RevisionWriter, WatchEvent, absorb};
use crate::{compaction, lease, ops, placement, restore, session, tables, txn, validate, zones};

/// What applying one command did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    /// Encoded [`Reply`] for the proposer.
    pub reply: Bytes,
    /// New revisions, in order, for watchers.
    pub events: Vec<RevisionEvents>,
    /// Leases that began and ended, in order, for the one that keeps their time.
    pub leases: Vec<LeaseChange>,
}

/// A lease that began or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// It counts from now.
    Granted {
        /// Lease id.
        id: i64,
        /// Milliseconds that it lives without a renewal.
        ttl_ms: u64,
    },
    /// Whether it is renewed has changed.
    Closing {
        /// Lease id.
        id: i64,
        /// Its holder is asked to stop: renewals do not count.
        closing: bool,
    },
    /// It is gone, with its keys.
    Ended {
        /// Lease id.
        id: i64,
    },
}

/// The counters of a store in which nothing has been written: etcd begins at revision 1.
pub(crate) fn new_record() -> MachineRecord {
    MachineRecord {
        revision: 1,
        ..MachineRecord::default()
    }
}

/// The counters as stored, or those of an empty store.
pub(crate) fn load_record(view: &dyn View) -> io::Result<MachineRecord> {
    Ok(tables::get(view, &tables::MACHINE)?.unwrap_or_else(new_record))
}

/// Who changed keys, when and why.
struct Origin {
    at_ms: i64,
    author: String,
    reason: String,
}

/// The state machine; all but its counters is in the store.
#[derive(Debug, Clone)]
pub struct Machine {
    record: MachineRecord,
}

impl Machine {
    /// The machine whose state is in `view`.
    pub fn load(view: &dyn View) -> io::Result<Self> {
        Ok(Self {
            record: load_record(view)?,
        })
    }

    /// Revision after the last command applied, committed or not.
    pub fn revision(&self) -> i64 {
        self.record.revision
    }

    /// What of the past cannot be read.
    pub fn floor(&self) -> Floor {
        Floor::of(&self.record)
    }

    /// Leaves `by` revisions out: the group before may have given them, and what it did then is
    /// lost. For a store that begins again from a copy.
    pub fn advance(&mut self, state: &mut Overlay<'_>, by: i64) -> io::Result<Result<(), Refusal>> {
        let advanced = restore::advance(&mut self.record, by);
        if advanced.is_ok() {
            state.put(tables::MACHINE, self.record.encode_to_vec());
        }
        Ok(advanced)
    }

    /// Whether a leader should propose a scrub.
    pub fn scrub_pending(&self) -> bool {
        compaction::pending(&self.record)
    }

    /// Id of the restore that is under way.
    pub fn restore_in_progress(&self) -> Option<u64> {
        Some(self.record.restore_id).filter(|id| *id != 0)
    }

    /// Applies one command, an encoded [`Command`].
    pub fn apply(&mut self, state: &mut Overlay<'_>, command: Bytes) -> io::Result<Applied> {
        let before = self.record;
        let mut applied = Applied::default();
        applied.reply = match Command::decode(command) {
            Ok(command) => self.admit(state, command, &mut applied)?,
            Err(error) => {
                let detail = format!("the command does not decode: {error}");
                self.reply(Err(refuse(Code::InvalidCommand, detail)))
            }
        };
        if self.record != before {
            state.put(tables::MACHINE, self.record.encode_to_vec());
        }
        Ok(applied)
    }

    fn reply(&self, outcome: Result<Outcome, Refusal>) -> Bytes {
        let reply = Reply {
            revision: self.record.revision,
            result: Some(outcome.unwrap_or_else(Outcome::Refusal)),
        };
        reply.encode_to_vec().into()
    }

    /// Sorts out restores and sessions, then executes.
    fn admit(
        &mut self,
        state: &mut Overlay<'_>,
        mut command: Command,
        applied: &mut Applied,
    ) -> io::Result<Bytes> {
        let Some(op) = command.op.take() else {
            return Err(unknown("the log holds an operation"));
        };
        let is_seed = matches!(op, Op::Seed(_));
        if self.record.restore_id != 0 && !is_seed {
            let detail = format!("restore {:x}", self.record.restore_id);
            return Ok(self.reply(Err(refuse(Code::RestoreInProgress, detail))));
        }
        if command.session == 0 {
            let outcome = self.execute(state, op, origin(command), applied)?;
            return Ok(self.reply(outcome));
        }
        if is_seed || matches!(op, Op::Scrub(_) | Op::LeaseExpire(_)) {
            let refusal = refuse(Code::InvalidCommand, "the group's own work has no session");
            return Ok(self.reply(Err(refusal)));
        }
        match session::admit(state, &command)? {
            Admission::Refuse(refusal) => Ok(self.reply(Err(refusal))),
            Admission::Replay(reply) => Ok(reply),
            Admission::Execute(ticket) => {
                let outcome = self.execute(state, op, origin(command), applied)?;
                let reply = self.reply(outcome);
                session::keep(state, ticket, &reply)?;
                Ok(reply)
            }
        }
    }

    fn execute(
        &mut self,
        state: &mut Overlay<'_>,
        op: Op,
        origin: Origin,
        applied: &mut Applied,
    ) -> io::Result<Result<Outcome, Refusal>> {
        let outcome = match op {
            Op::Put(request) => self
                .put(state, request, &origin, applied)?
                .map(Outcome::Put),
            Op::DeleteRange(request) => self
                .delete_range(state, &request, &origin, applied)?
                .map(Outcome::DeleteRange),
            Op::Txn(request) => self
                .txn(state, &request, &origin, applied)?
                .map(Outcome::Txn),
            Op::Compact(request) => compaction::compact(&mut self.record, &request).map(|()| {
                Outcome::Compact(etcd::CompactionResponse {
                    header: ops::header(self.record.revision),
                })
            }),
            Op::LeaseGrant(request) => self
                .lease_grant(state, &request, applied)?
                .map(Outcome::LeaseGrant),
            Op::LeaseRevoke(request) => self
                .lease_revoke(state, request.id, &origin, applied)?
                .map(Outcome::LeaseRevoke),
            Op::LeaseExpire(request) => {
                let ended = self.lease_expire(state, &request, &origin, applied)?;
                Ok(Outcome::LeaseExpire(ended))
            }
            Op::Scrub(request) => {
                let more = compaction::scrub(state, &mut self.record, request.limit)?;
                Ok(Outcome::Scrub(Scrubbed { more }))
            }
            Op::Role(request) => {
                let step = |writer: &mut RevisionWriter<'_, '_>, leases: &mut Vec<LeaseChange>| {
                    placement::step(writer, request, leases)
                };
                let stepped = self.tried(state, step, &origin, applied)?;
                stepped.map(Outcome::Role)
            }
            Op::Seed(step) => {
                let is_last = step.step() == Step::Finish;
                let seeded = restore::seed(state, &mut self.record, step, &mut applied.leases)?;
                if is_last && seeded.is_ok() {
                    let mut writer = RevisionWriter::new(state, self.record.revision);
                    placement::restored(&mut writer, &mut applied.leases)?;
                    zones::restored(&mut writer)?;
                    let events = writer.finish()?;
                    self.commit(state, events, &origin, applied);
                }
                seeded.map(Outcome::Seed)
            }
        };
        Ok(outcome)
    }

    fn put(
        &mut self,
        state: &mut Overlay<'_>,
        request: etcd::PutRequest,
        origin: &Origin,
        applied: &mut Applied,
    ) -> io::Result<Result<etcd::PutResponse, Refusal>> {
        if let Err(refusal) = validate::put(&request) {
            return Ok(Err(refusal));
        }
        if let Err(refusal) = ops::check_lone_put(state, &request)? {
            return Ok(Err(refusal));
        }
        if placement::concerns(&request.key, b"") {
            let put = |writer: &mut RevisionWriter<'_, '_>| ops::put(writer, request);
            return self.reviewed(state, put, origin, applied);
        }
        let mut writer = RevisionWriter::new(state, self.record.revision);
        let outcome = ops::put(&mut writer, request)?;
        let events = writer.finish()?;
        self.commit(state, events, origin, applied);
        Ok(outcome)
    }

    fn delete_range(
        &mut self,
        state: &mut Overlay<'_>,
        request: &etcd::DeleteRangeRequest,
        origin: &Origin,
        applied: &mut Applied,
    ) -> io::Result<Result<etcd::DeleteRangeResponse, Refusal>> {
        if let Err(refusal) = validate::delete_range(request) {
            return Ok(Err(refusal));
        }
        if placement::concerns(&request.key, &request.range_end) {
            let delete = |writer: &mut RevisionWriter<'_, '_>| ops::delete_range(writer, request);
            return self.reviewed(state, delete, origin, applied);
        }
        let mut writer = RevisionWriter::new(state, self.record.revision);
        let outcome = ops::delete_range(&mut writer, request)?;
        let events = writer.finish()?;
        self.commit(state, events, origin, applied);
        Ok(outcome)
    }

    /// Writes on top of the state, and takes that over unless it is refused.
    fn tried<T>(
        &mut self,
        state: &mut Overlay<'_>,
        write: impl FnOnce(
            &mut RevisionWriter<'_, '_>,
            &mut Vec<LeaseChange>,
        ) -> io::Result<Result<T, Refusal>>,
        origin: &Origin,
        applied: &mut Applied,
    ) -> io::Result<Result<T, Refusal>> {
        let mut trial = Overlay::new(&*state);
        let mut writer = RevisionWriter::new(&mut trial, self.record.revision);
        let mut leases = Vec::new();
        let outcome = write(&mut writer, &mut leases)?;
        if outcome.is_ok() {
            let events = writer.finish()?;
            let tried = trial.into_batch();
            absorb(state, &tried);
            self.commit(state, events, origin, applied);
            applied.leases.extend(leases);
        }
        Ok(outcome)
    }

    /// The same, when what is now said of colos, hosts and roles makes sense.
    fn reviewed<T>(
        &mut self,
        state: &mut Overlay<'_>,
        write: impl FnOnce(&mut RevisionWriter<'_, '_>) -> io::Result<Result<T, Refusal>>,
        origin: &Origin,
        applied: &mut Applied,
    ) -> io::Result<Result<T, Refusal>> {
        let write = |writer: &mut RevisionWriter<'_, '_>, leases: &mut Vec<LeaseChange>| {
            Ok(match write(writer)? {
                Ok(outcome) => placement::review(writer, leases, origin.at_ms)?.map(|()| outcome),
                refused @ Err(_) => refused,
            })
        };
        self.tried(state, write, origin, applied)
    }

    fn txn(
        &mut self,
        state: &mut Overlay<'_>,
        request: &etcd::TxnRequest,
        origin: &Origin,
        applied: &mut Applied,
    ) -> io::Result<Result<etcd::TxnResponse, Refusal>> {
        if let Err(refusal) = validate::txn(request) {
            return Ok(Err(refusal));
        }
        let metered = Metered::new(&*state, TXN_RECORDS_MAX);
        let mut path = Path::choose(&metered, request)?;
        let position = Position::of(&self.record);
        let checked = txn::check(&metered, position, request, &path)?;
        // First: past its limit the view does not show all that is there.
        if let Err(refusal) = metered.verdict().and(checked) {
            return Ok(Err(refusal));
        }
        let mut trial = Overlay::new(&metered);
        let mut writer = RevisionWriter::new(&mut trial, position.revision);
        let executed = txn::execute(&mut writer, position.floor, request, &mut path)?;
        let mut response = match metered.verdict().and(executed) {
            Ok(response) => response,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut leases = Vec::new();
        let reviewed = placement::review(&mut writer, &mut leases, origin.at_ms)?;
        response.header = ops::header(writer.revision());
        let events = writer.finish()?;
        // Both read too, and must have seen all that is there.
        if let Err(refusal) = metered.verdict().and(reviewed) {
            return Ok(Err(refusal));
        }
        let tried = trial.into_batch();
        absorb(state, &tried);
        self.commit(state, events, origin, applied);
        applied.leases.extend(leases);
        Ok(Ok(response))
    }

    fn lease_grant(
        &mut self,
        state: &mut Overlay<'_>,
        request: &etcd::LeaseGrantRequest,
        applied: &mut Applied,
    ) -> io::Result<Result<etcd::LeaseGrantResponse, Refusal>> {
        let outcome = lease::grant(state, request)?;
        Ok(outcome.map(|mut response| {
            response.header = ops::header(self.record.revision);
            applied.leases.push(LeaseChange::Granted {
                id: response.id,
                ttl_ms: u64::try_from(response.ttl).unwrap_or(0) * 1_000,
            });
            response
        }))
    }

    fn lease_revoke(
        &mut self,
        state: &mut Overlay<'_>,
        id: i64,
        origin: &Origin,
        applied: &mut Applied,
    ) -> io::Result<Result<etcd::LeaseRevokeResponse, Refusal>> {
        let stored: Option<LeaseRecord> = tables::get(state, &tables::lease(id))?;
        if let Some(lease) = stored.filter(|lease| !lease.role.is_empty()) {
            let detail = format!(
                "lease {id:x} is that of '{}' for role '{}'; stop its agent, or switch the role",
                lease.host, lease.role
            );
            return Ok(Err(refuse(Code::RoleLease, detail)));
        }
        if !self.lease_end(state, id, origin, applied)? {
            return Ok(Err(refuse(Code::LeaseNotFound, format!("lease {id:x}"))));
        }
        Ok(Ok(etcd::LeaseRevokeResponse {
            header: ops::header(self.record.revision),
        }))
    }

    fn lease_expire(
        &mut self,
        state: &mut Overlay<'_>,
        request: &LeaseExpire,
        origin: &Origin,
        applied: &mut Applied,
    ) -> io::Result<LeaseExpired> {
        let mut ended = LeaseExpired::default();
        for id in &request.ids {
            if self.lease_end(state, *id, origin, applied)? {
                ended.ids.push(*id);
            }
        }
        Ok(ended)
    }

    fn lease_end(
        &mut self,
        state: &mut Overlay<'_>,
        id: i64,
        origin: &Origin,
        applied: &mut Applied,
    ) -> io::Result<bool> {
        let Some(lease) = tables::get::<LeaseRecord>(state, &tables::lease(id))? else {
            return Ok(false);
        };
        let was = placement::attending_by(state, id, &lease)?;
        let mut writer = RevisionWriter::new(state, self.record.revision);
        lease::end(&mut writer, id)?;
        applied.leases.push(LeaseChange::Ended { id });
        if !lease.role.is_empty() {
            placement::lease_over(&mut writer, &lease, was, &mut applied.leases)?;
        }
        let events = writer.finish()?;
        self.commit(state, events, origin, applied);
        Ok(true)
    }

    /// Counts the revision that `events` make, if any.
    fn commit(
        &mut self,
        state: &mut Overlay<'_>,
        events: Vec<WatchEvent>,
        origin: &Origin,
        applied: &mut Applied,
    ) {
        if events.is_empty() {
            return;
        }
        self.record.revision += 1;
        self.record.time_ms = self.record.time_ms.max(origin.at_ms);
        let revision = self.record.revision;
        let known = RevisionRecord {
            at_ms: self.record.time_ms,
            author: origin.author.clone(),
            reason: origin.reason.clone(),
        };
        state.put(tables::revision(revision), known.encode_to_vec());
        applied.events.push(RevisionEvents { revision, events });
    }
}

/// What a later version wrote into the log. Members of that version carry it out, so this one must
/// not go on without it: it would hold other data and not know.
pub(crate) fn unknown(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "{what} that this version does not know: start this member with the newest version \
             that a member has run"
        ),
    )
}

fn origin(command: Command) -> Origin {
    Origin {
        at_ms: command.at_ms,
        author: command.author,
        reason: command.reason,
    }
}
