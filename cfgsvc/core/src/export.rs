//! All records of the service, for a snapshot file.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::state::{Record, Refusal};
use cluster_core::store::{Direction, View};

use crate::machine::load_record;
use crate::refusal::{Code, refuse};
use crate::tables::{self, Table};

/// What a visitor is called with; its error ends the export.
pub type VisitRecord<'a> = dyn FnMut(Record) -> io::Result<()> + 'a;

/// Visits every record of every table, the counters first; returns how many there were. Refused
/// while a restore fills the store, which is then no state of anything.
pub fn records(view: &dyn View, visit: &mut VisitRecord<'_>) -> io::Result<Result<u64, Refusal>> {
    let record = load_record(view)?;
    if record.restore_id != 0 {
        let detail = format!("restore {:x}", record.restore_id);
        return Ok(Err(refuse(Code::RestoreInProgress, detail)));
    }
    let mut count = 1;
    // Also of a store in which nothing was written yet, so that every snapshot has counters.
    visit(Record {
        key: tables::MACHINE,
        value: prost::Message::encode_to_vec(&record).into(),
    })?;
    for table in Table::ALL
        .into_iter()
        .filter(|table| *table != Table::Machine)
    {
        let range = table.range();
        tables::try_scan(view, &range, Direction::Ascending, &mut |key, value| {
            count += 1;
            visit(Record {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
            })?;
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(Ok(count))
}

/// Count of current keys, for the header of a snapshot.
pub fn current_keys(view: &dyn View) -> io::Result<u64> {
    let mut count = 0;
    view.scan(
        &Table::Current.range(),
        Direction::Ascending,
        &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        },
    )?;
    Ok(count)
}
