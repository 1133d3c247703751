//! The log and the applied state as they are found on disk: a member opens what it finds or refuses
//! it, and never reads an entry for another.

use std::sync::Arc;

use bytes::Bytes;
use cluster::log_store::{FlushMode, LogStore, LogStoreOptions};
use cluster::machine::Machine;
use cluster::proto;
use cluster::state_store::APPLIED_KEY;
use cluster::types::Types;
use cluster_core::log::{LogEngine, LogMeta, LogOp, MemoryLog};
use cluster_core::store::{Batch, MemoryState, StateEngine};
use futures_util::FutureExt as _;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use prost::Message;

use crate::directory::{Scratch, memory_store};
use crate::draw::Draw;
use crate::peer::{entry, log_id, stored_membership, vote};

const OPTIONS: LogStoreOptions = LogStoreOptions {
    tail_bytes: 64,
    read_bytes: 64,
};

/// A log of entries that mostly follow each other, facts beside it, and a state.
pub(crate) fn target(data: &[u8]) {
    let mut draw = Draw::new(data);
    let engine = Arc::new(MemoryLog::default());
    fill(&mut draw, engine.as_ref());
    let Ok(log) = LogStore::open(engine.clone(), FlushMode::Inline, OPTIONS) else {
        return;
    };
    read(&mut draw, log.clone());
    if draw.rarely(8) {
        open_state(&mut draw, log);
    }
}

fn fill(draw: &mut Draw<'_>, engine: &MemoryLog) {
    let mut ops = Vec::new();
    for meta in LogMeta::ALL {
        let value = match (meta, draw.below(4)) {
            (_, 0 | 1) => continue,
            (_, 2) if draw.rarely(4) => draw.bytes(12).to_vec(),
            (LogMeta::Vote, _) => vote(draw).encode_to_vec(),
            (LogMeta::Committed | LogMeta::Purged, _) => log_id(draw).encode_to_vec(),
        };
        ops.push(LogOp::SetMeta {
            meta,
            value: value.into(),
        });
    }
    let first = draw.number(4);
    for offset in 0..draw.below(8) {
        let index = first.saturating_add(offset);
        let mut entry = entry(draw);
        if !draw.rarely(8)
            && let Some(log_id) = &mut entry.log_id
        {
            log_id.index = index;
        }
        let entry = if draw.rarely(16) {
            Bytes::copy_from_slice(draw.bytes(12))
        } else {
            entry.encode_to_vec().into()
        };
        ops.push(LogOp::Append { index, entry });
    }
    engine.write(&ops).expect("memory does not fail");
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory does not wait")
}

fn read(draw: &mut Draw<'_>, mut log: LogStore) {
    let state = ready(RaftLogStorage::<Types>::get_log_state(&mut log)).expect("it was opened");
    let last = state.last_log_id.map(|id| id.index());
    assert!(
        last >= state.last_purged_log_id.map(|id| id.index()),
        "{state:?}"
    );
    let _ = ready(RaftLogReader::<Types>::read_vote(&mut log)).expect("it was opened");
    let committed = ready(RaftLogStorage::<Types>::read_committed(&mut log));
    assert!(committed.expect("it was opened") <= state.last_log_id);
    for _ in 0..draw.below(4) {
        let (start, end) = (draw.number(8), draw.number(12));
        let whole = ready(RaftLogReader::<Types>::try_get_log_entries(
            &mut log,
            start..end,
        ));
        let bounded = ready(RaftLogReader::<Types>::limited_get_log_entries(
            &mut log, start, end,
        ));
        for found in [whole, bounded].into_iter().flatten() {
            let mut expected = found.first().map(|entry| entry.log_id.index());
            for entry in &found {
                let index = entry.log_id.index();
                assert_eq!(Some(index), expected, "another entry in its place");
                assert!((start..end).contains(&index), "{index} is outside");
                expected = index.checked_add(1);
            }
        }
    }
}

/// The state machine over a store with any applied state, beside this log.
fn open_state(draw: &mut Draw<'_>, log: LogStore) {
    let applied = if draw.rarely(4) {
        draw.bytes(16).to_vec()
    } else {
        let state = proto::AppliedState {
            log_id: draw.flag().then(|| log_id(draw)),
            membership: draw.flag().then(|| stored_membership(draw)),
        };
        state.encode_to_vec()
    };
    let state = MemoryState::default();
    let mut batch = Batch::default();
    batch.put(APPLIED_KEY, applied);
    state.commit(batch).expect("memory does not fail");
    let scratch = Scratch::new();
    let store = memory_store(scratch.path(), Arc::new(state)).expect("an empty directory");
    let purged = log.purged();
    let app = Box::new(crate::directory::NoApp);
    if let Ok(machine) = Machine::open(Arc::new(store), Some(log), app) {
        assert!(machine.applied() >= purged);
    }
}
