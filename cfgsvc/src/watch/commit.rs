//! The changes of one revision, as watchers get them.

use std::sync::Arc;

use cfgsvc_proto::kv::Event;

/// All events of one revision, in the order in which they were made. Shared by all watchers.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// The revision.
    pub revision: i64,
    /// Never empty; each with the version it replaced, where that is still known.
    pub events: Vec<Event>,
    /// About what it takes in memory, in bytes.
    pub size_bytes: usize,
}

/// Memory of an event beside its keys and values, in bytes: two `KeyValue` and the shared buffers.
const EVENT_OVERHEAD_BYTES: usize = 320;

impl Commit {
    /// The commit of `revision` with `events`.
    pub fn new(revision: i64, events: Vec<Event>) -> Self {
        let size_bytes = events.iter().map(event_bytes).sum();
        Self {
            revision,
            events,
            size_bytes,
        }
    }
}

/// `commit` as a watcher may see it once history before `compacted` is gone: without versions that
/// cannot be read any more.
pub fn as_compacted(commit: Arc<Commit>, compacted: i64) -> Arc<Commit> {
    if commit.revision > compacted {
        return commit;
    }
    let bare = |event: &Event| Event {
        prev_kv: None,
        ..event.clone()
    };
    Arc::new(Commit::new(
        commit.revision,
        commit.events.iter().map(bare).collect(),
    ))
}

/// About what an event takes in memory, in bytes.
pub fn event_bytes(event: &Event) -> usize {
    let kvs = [&event.kv, &event.prev_kv];
    let data: usize = kvs
        .into_iter()
        .flatten()
        .map(|kv| kv.key.len() + kv.value.len())
        .sum();
    data + EVENT_OVERHEAD_BYTES
}
