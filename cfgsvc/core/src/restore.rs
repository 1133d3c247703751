//! Filling an empty group from a snapshot, through the log, so that every member gets it.
//!
//! ```text
//!  BEGIN 0 ──► RECORDS 1 ──► RECORDS 2 ... ──► FINISH n     each with the same restore id
//!     ▲ a BEGIN with another id clears what an unfinished restore left
//! ```
//!
//! Invariants
//! - while a restore is under way nothing else is written and nothing is read: the machine record
//!   names the restore, and the snapshot's own machine record waits aside until FINISH.
//! - a step that is repeated, or of another restore, changes nothing.
//! - no file, whoever made it, brings the machine to where a later command fails or overflows: the
//!   snapshot's machine record comes first, every number is held against it, no record comes twice,
//!   and attachments of leases are made from the keys, not taken from the file.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::kv::event::EventType;
use cfgsvc_proto::state::seed::Step;
use cfgsvc_proto::state::{
    HistoryRecord, KeyRecord, LeaseRecord, MachineRecord, OldRecord, Record, Refusal, Seed, Seeded,
    SessionRecord,
};
use cluster_core::store::{Direction, Overlay, View};

use crate::lease;
use crate::limits::{LEASE_TTL_S_MAX, REVISION_MAX, SESSION_BYTES_MAX, SESSION_WINDOW};
use crate::machine::{LeaseChange, new_record, unknown};
use crate::placement;
use crate::refusal::{Code, refuse, shown};
use crate::tables::{self, Table};
use crate::writer::absorb;

/// More than a session can have kept.
const KEPT_BYTES_MAX: u64 = 2 * SESSION_BYTES_MAX;

/// Does one step of a restore; leases count as granted when it finishes.
pub(crate) fn seed(
    state: &mut Overlay<'_>,
    record: &mut MachineRecord,
    step: Seed,
    leases: &mut Vec<LeaseChange>,
) -> io::Result<Result<Seeded, Refusal>> {
    match Step::try_from(step.step) {
        Ok(Step::Begin) => begin(state, record, &step),
        Ok(Step::Records) => records(state, record, step),
        Ok(Step::Finish) => finish(state, record, &step, leases),
        Err(_) => Err(unknown(&format!(
            "the log holds a restore step {}",
            step.step
        ))),
    }
}

fn begin(
    state: &mut Overlay<'_>,
    record: &mut MachineRecord,
    step: &Seed,
) -> io::Result<Result<Seeded, Refusal>> {
    if step.restore_id == 0 || step.number != 0 {
        let detail = format!(
            "a restore begins with an id above 0 and step 0, not id {} and step {}",
            step.restore_id, step.number
        );
        return Ok(Err(refuse(Code::InvalidCommand, detail)));
    }
    if record.restore_id == step.restore_id {
        let detail = format!("restore {:x} has begun already", step.restore_id);
        return Ok(Err(refuse(Code::RestoreMismatch, detail)));
    }
    if record.restore_id == 0 && record.revision != 1 {
        let detail = format!("the store is at revision {}, not 1", record.revision);
        return Ok(Err(refuse(Code::NotEmpty, detail)));
    }
    if record.restore_id == 0 && any(state, Table::Lease)? {
        return Ok(Err(refuse(Code::NotEmpty, "the store has leases")));
    }
    clear(state)?;
    *record = MachineRecord {
        restore_id: step.restore_id,
        restore_next: 1,
        ..new_record()
    };
    Ok(Ok(Seeded { records: 0 }))
}

fn any(view: &dyn View, table: Table) -> io::Result<bool> {
    let mut found = false;
    view.scan(&table.range(), Direction::Ascending, &mut |_, _| {
        found = true;
        ControlFlow::Break(())
    })?;
    Ok(found)
}

fn clear(state: &mut Overlay<'_>) -> io::Result<()> {
    for table in Table::ALL {
        let mut doomed = Vec::new();
        state.scan(&table.range(), Direction::Ascending, &mut |key, _| {
            doomed.push(Bytes::copy_from_slice(key));
            ControlFlow::Continue(())
        })?;
        for key in doomed {
            state.delete(key);
        }
    }
    Ok(())
}

/// Whether `step` is the next one of the restore that is under way.
fn in_order(record: &MachineRecord, step: &Seed) -> Result<(), Refusal> {
    if record.restore_id != 0
        && (step.restore_id, step.number) == (record.restore_id, record.restore_next)
    {
        return Ok(());
    }
    let detail = format!(
        "step {} of restore {:x}, expected step {} of restore {:x}",
        step.number, step.restore_id, record.restore_next, record.restore_id
    );
    Err(refuse(Code::RestoreMismatch, detail))
}

fn records(
    state: &mut Overlay<'_>,
    record: &mut MachineRecord,
    step: Seed,
) -> io::Result<Result<Seeded, Refusal>> {
    if let Err(refusal) = in_order(record, &step) {
        return Ok(Err(refusal));
    }
    let count = step.records.len() as u64;
    // Records are held against those before them, so the first are there when one is refused.
    let mut trial = Overlay::new(&*state);
    for entry in step.records {
        if let Err(detail) = add(&mut trial, entry)? {
            return Ok(Err(refuse(Code::RestoreMismatch, detail)));
        }
    }
    let batch = trial.into_batch();
    absorb(state, &batch);
    record.restore_next += 1;
    record.restore_records += count;
    Ok(Ok(Seeded {
        records: record.restore_records,
    }))
}

/// Puts a record in its place, or says what is wrong with it.
fn add(state: &mut Overlay<'_>, entry: Record) -> io::Result<Result<(), String>> {
    let Record { key, value } = entry;
    let table = match tables::verify(&key, &value) {
        Ok(table) => table,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let machine = tables::get::<MachineRecord>(state, &tables::RESTORED_MACHINE)?;
    let Some(machine) = machine else {
        if table != Table::Machine {
            return Ok(Err(format!(
                "key {} comes before the machine record: the snapshot is not whole",
                shown(&key)
            )));
        }
        let restored = tables::decode(&key, value.as_ref())?;
        let outcome = plausible(&restored);
        if outcome.is_ok() {
            state.put(tables::RESTORED_MACHINE, value);
        }
        return Ok(outcome);
    };
    if table == Table::Machine || state.get(&key)?.is_some() {
        return Ok(Err(format!("key {} comes twice", shown(&key))));
    }
    if !fits(state, &machine, table, &key, &value)? {
        return Ok(Err(format!(
            "key {} has a value that cannot be in a store at revision {}",
            shown(&key),
            machine.revision
        )));
    }
    match table {
        Table::LeaseKey => return Ok(Ok(())),
        Table::Current => {
            let KeyRecord { lease, .. } = tables::decode(&key, value.as_ref())?;
            if lease != 0 {
                state.put(tables::lease_key(lease, &key[1..]), Bytes::new());
            }
        }
        Table::Machine
        | Table::Old
        | Table::History
        | Table::Revision
        | Table::Lease
        | Table::Session
        | Table::Reply => {}
    }
    state.put(key, value);
    Ok(Ok(()))
}

/// Whether a record, which [`tables::verify`] has seen, can be in a store with these counters,
/// beside the records before it.
fn fits(
    view: &dyn View,
    machine: &MachineRecord,
    table: Table,
    key: &[u8],
    value: &[u8],
) -> io::Result<bool> {
    Ok(match table {
        Table::Machine => false,
        // What follows is made from the keys.
        Table::LeaseKey => true,
        Table::Current => {
            let version: KeyRecord = tables::decode(key, value)?;
            let lease = tables::lease(version.lease);
            version_fits(machine, &version) && (version.lease == 0 || view.get(&lease)?.is_some())
        }
        Table::Old => {
            let old: OldRecord = tables::decode(key, value)?;
            let mod_revision = tables::old_mod_revision(key)?;
            old.record.as_ref().is_some_and(|version| {
                version_fits(machine, version)
                    && version.mod_revision == mod_revision
                    && (mod_revision + 1..=machine.revision).contains(&old.ended_revision)
            })
        }
        Table::History => {
            let (revision, index) = tables::split_history(key)?;
            was_given(machine, revision)
                && index < u32::MAX
                && event_fits(machine, revision, &tables::decode(key, value)?)
        }
        Table::Revision => {
            let (revision, _) = tables::split_number(key)?;
            was_given(machine, revision)
        }
        Table::Lease => {
            let lease: LeaseRecord = tables::decode(key, value)?;
            tables::split_number(key)?.0 != 0
                && (1..=LEASE_TTL_S_MAX).contains(&lease.ttl_s)
                && lease.ttl_ms <= lease.ttl_s.unsigned_abs() * 1_000
        }
        Table::Session => {
            let (id, _) = tables::split_number(key)?;
            let session: SessionRecord = tables::decode(key, value)?;
            session.floor < u64::MAX
                && session.kept <= SESSION_WINDOW
                && session.kept_bytes <= KEPT_BYTES_MAX
                && view.get(&tables::lease(id))?.is_some()
        }
        Table::Reply => {
            let (id, _) = tables::split_number(key)?;
            view.get(&tables::session(id))?.is_some()
        }
    })
}

/// Whether a change can have this revision.
fn was_given(machine: &MachineRecord, revision: i64) -> bool {
    let lost = machine.lost_after < revision && revision <= machine.lost_until;
    (2..=machine.revision).contains(&revision) && !lost
}

fn version_fits(machine: &MachineRecord, version: &KeyRecord) -> bool {
    (2..=version.mod_revision).contains(&version.create_revision)
        && was_given(machine, version.mod_revision)
        && (1..=machine.revision).contains(&version.version)
}

fn event_fits(machine: &MachineRecord, revision: i64, event: &HistoryRecord) -> bool {
    let made = event.record.as_ref();
    let made_fits = match EventType::try_from(event.r#type) {
        Ok(EventType::Put) => made.is_some_and(|version| {
            version_fits(machine, version) && version.mod_revision == revision
        }),
        Ok(EventType::Delete) => made.is_none(),
        Err(_) => false,
    };
    made_fits && !event.key.is_empty() && (0..revision).contains(&event.replaced_revision)
}

fn finish(
    state: &mut Overlay<'_>,
    record: &mut MachineRecord,
    step: &Seed,
    leases: &mut Vec<LeaseChange>,
) -> io::Result<Result<Seeded, Refusal>> {
    if let Err(refusal) = in_order(record, step) {
        return Ok(Err(refusal));
    }
    let Some(restored) = tables::get::<MachineRecord>(state, &tables::RESTORED_MACHINE)? else {
        let detail = "the records hold no machine record: the snapshot is not whole";
        return Ok(Err(refuse(Code::RestoreMismatch, detail)));
    };
    if let Err(why) = placement::check::check_restored(state)? {
        let detail = format!("the snapshot's roles cannot be: {why}");
        return Ok(Err(refuse(Code::RestoreMismatch, detail)));
    }
    let mut granted = Vec::new();
    let range = Table::Lease.range();
    tables::try_scan(state, &range, Direction::Ascending, &mut |stored, value| {
        let (id, _) = tables::split_number(stored)?;
        let found: LeaseRecord = tables::decode(stored, value)?;
        let ttl_ms = lease::ttl_ms(&found);
        granted.push(LeaseChange::Granted { id, ttl_ms });
        if found.closing {
            let closing = true;
            granted.push(LeaseChange::Closing { id, closing });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let records = record.restore_records;
    let mut advanced = restored;
    if let Err(refusal) = advance(&mut advanced, step.advance) {
        return Ok(Err(refusal));
    }
    *record = advanced;
    state.delete(tables::RESTORED_MACHINE);
    leases.extend(granted);
    Ok(Ok(Seeded { records }))
}

/// Leaves `by` revisions out. Only the last stretch of revisions that are lost is remembered: what
/// is before an earlier one is compacted.
pub(crate) fn advance(record: &mut MachineRecord, by: i64) -> Result<(), Refusal> {
    if by == 0 {
        return Ok(());
    }
    let until = record.revision.checked_add(by);
    let Some(until) = until.filter(|until| by > 0 && *until <= REVISION_MAX) else {
        let detail = format!(
            "revision {} cannot advance by {by}: at least 0, and not beyond {REVISION_MAX}",
            record.revision
        );
        return Err(refuse(Code::InvalidCommand, detail));
    };
    if record.lost_until == 0 || record.lost_until < record.revision {
        record.compacted_revision = record.compacted_revision.max(record.lost_until);
        record.lost_after = record.revision;
    }
    record.revision = until;
    record.lost_until = until;
    Ok(())
}

/// Whether counters can be those of a store that no restore is filling.
fn plausible(record: &MachineRecord) -> Result<(), String> {
    let MachineRecord {
        revision,
        compacted_revision: compacted,
        scrubbed_revision: scrubbed,
        lost_after,
        lost_until,
        ..
    } = *record;
    let restore = (
        record.restore_id,
        record.restore_next,
        record.restore_records,
    );
    if (1..=REVISION_MAX).contains(&revision)
        && scrubbed >= 0
        && scrubbed <= compacted
        && compacted <= revision
        && ((lost_after, lost_until) == (0, 0)
            || (1 <= lost_after && lost_after < lost_until && lost_until <= revision))
        && restore == (0, 0, 0)
    {
        return Ok(());
    }
    Err(format!(
        "the machine record cannot be: revision {revision}, compacted {compacted}, scrubbed \
         {scrubbed}, lost after {lost_after} until {lost_until}, restore {:x}",
        record.restore_id
    ))
}
