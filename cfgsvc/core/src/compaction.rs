//! Compaction: at once for readers, in small steps for the disk.
//!
//! `Compact` only moves `compacted_revision` to R: reads below R are refused from then on. `Scrub`
//! walks the history behind it and removes what no read can reach any more:
//! - the old version that an event at or before R ended,
//! - events before R and what is known of their commits. Events of R stay, so that a watch from R
//!   sees them, deletes included.
//!
//! ```text
//!        gone              old versions go, events go        R          readable
//!  ───────────────┤ scrubbed_revision ├─────────────────┤ compacted ├────────────── revision
//! ```
//!
//! Invariants
//! - a step looks at no more events than its limit; a revision of a million deletes takes many
//!   steps. Below R the events that were handled are gone; of R itself, whose events stay,
//!   `scrubbed_events` counts those that were handled.
//! - reads never depend on how far the scrub is.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::etcd;
use cfgsvc_proto::state::{MachineRecord, Refusal};
use cluster_core::store::{Direction, Overlay};
use prost::Message;

use crate::limits::SCRUB_EVENTS_MAX;
use crate::refusal::{Code, refuse};
use crate::tables;
use crate::validate;

/// Value of `scrubbed_events` when the whole revision is handled.
pub(crate) const ALL_EVENTS: u32 = u32::MAX;

/// A history record without its version: what the walk needs, without copying the value.
#[derive(Clone, PartialEq, Message)]
struct Ended {
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
    #[prost(int64, tag = "4")]
    replaced_revision: i64,
}

/// Makes revisions before the request's unreadable.
pub(crate) fn compact(
    record: &mut MachineRecord,
    request: &etcd::CompactionRequest,
) -> Result<(), Refusal> {
    validate::compact(request)?;
    let (asked, compacted) = (request.revision, record.compacted_revision);
    if asked <= compacted {
        let detail = format!("revision {asked}, compacted to {compacted}");
        return Err(refuse(Code::Compacted, detail));
    }
    if asked > record.revision {
        let detail = format!("revision {asked}, the store is at {}", record.revision);
        return Err(refuse(Code::FutureRevision, detail));
    }
    record.compacted_revision = asked;
    Ok(())
}

/// Whether something compacted is still on disk.
pub(crate) fn pending(record: &MachineRecord) -> bool {
    record.scrubbed_revision < record.compacted_revision
        || (record.compacted_revision > 0 && record.scrubbed_events != ALL_EVENTS)
}

/// Removes what is behind at most `limit` events. Returns whether more may wait.
pub(crate) fn scrub(
    state: &mut Overlay<'_>,
    record: &mut MachineRecord,
    limit: u32,
) -> io::Result<bool> {
    if !pending(record) {
        return Ok(false);
    }
    let target = record.compacted_revision;
    let first = record.scrubbed_revision;
    let skip = if first == target {
        record.scrubbed_events
    } else {
        0
    };
    let limit = limit.clamp(1, SCRUB_EVENTS_MAX) as usize;
    let mut events: Vec<(i64, u32, Ended)> = Vec::new();
    let mut more = false;
    let range = tables::history_range(first, skip, target);
    tables::try_scan(state, &range, Direction::Ascending, &mut |stored, value| {
        if events.len() == limit {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        let (revision, index) = tables::split_history(stored)?;
        events.push((revision, index, tables::decode(stored, value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    for (revision, index, event) in &events {
        if event.replaced_revision > 0 {
            state.delete(tables::old(&event.key, event.replaced_revision));
        }
        if *revision < target {
            state.delete(tables::history(*revision, *index));
            state.delete(tables::revision(*revision));
        }
    }
    match events.last() {
        Some((revision, index, _)) if more => {
            record.scrubbed_revision = *revision;
            record.scrubbed_events = if *revision == target { index + 1 } else { 0 };
        }
        Some(_) | None => {
            record.scrubbed_revision = target;
            record.scrubbed_events = ALL_EVENTS;
        }
    }
    Ok(more)
}
