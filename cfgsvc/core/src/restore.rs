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

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::state::seed::Step;
use cfgsvc_proto::state::{LeaseRecord, MachineRecord, Refusal, Seed, Seeded};
use cluster_core::store::{Direction, Overlay, View};

use crate::machine::{LeaseChange, new_record};
use crate::refusal::{Code, refuse};
use crate::tables::{self, Table};

/// Does one step of a restore; leases count as granted when it finishes.
pub(crate) fn seed(
    state: &mut Overlay<'_>,
    record: &mut MachineRecord,
    step: Seed,
    leases: &mut Vec<LeaseChange>,
) -> io::Result<Result<Seeded, Refusal>> {
    match Step::try_from(step.step) {
        Ok(Step::Begin) => begin(state, record, &step),
        Ok(Step::Records) => Ok(records(state, record, step)),
        Ok(Step::Finish) => finish(state, record, &step, leases),
        Err(_) => {
            let detail = format!("restore step {} is not known", step.step);
            Ok(Err(refuse(Code::InvalidCommand, detail)))
        }
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
) -> Result<Seeded, Refusal> {
    in_order(record, &step)?;
    for entry in &step.records {
        if let Err(error) = tables::verify(&entry.key, &entry.value) {
            return Err(refuse(Code::RestoreMismatch, error.to_string()));
        }
    }
    record.restore_next += 1;
    record.restore_records += step.records.len() as u64;
    for entry in step.records {
        if entry.key == tables::MACHINE {
            state.put(tables::RESTORED_MACHINE, entry.value);
        } else {
            state.put(entry.key, entry.value);
        }
    }
    Ok(Seeded {
        records: record.restore_records,
    })
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
    if let Err(detail) = plausible(&restored) {
        return Ok(Err(refuse(Code::RestoreMismatch, detail)));
    }
    let mut granted = Vec::new();
    let range = Table::Lease.range();
    tables::try_scan(state, &range, Direction::Ascending, &mut |stored, value| {
        let (id, _) = tables::split_number(stored)?;
        let LeaseRecord { ttl_s } = tables::decode(stored, value)?;
        granted.push(LeaseChange::Granted { id, ttl_s });
        Ok(ControlFlow::Continue(()))
    })?;
    let records = record.restore_records;
    *record = restored;
    state.delete(tables::RESTORED_MACHINE);
    leases.extend(granted);
    Ok(Ok(Seeded { records }))
}

fn plausible(record: &MachineRecord) -> Result<(), String> {
    let MachineRecord {
        revision,
        compacted_revision: compacted,
        scrubbed_revision: scrubbed,
        ..
    } = *record;
    if revision >= 1
        && scrubbed >= 0
        && scrubbed <= compacted
        && compacted <= revision
        && record.restore_id == 0
    {
        return Ok(());
    }
    Err(format!(
        "the machine record cannot be: revision {revision}, compacted {compacted}, scrubbed \
         {scrubbed}, restore {:x}",
        record.restore_id
    ))
}
