//! What happened: events for watches that catch up, and the versions of one key for people.
//!
//! Invariants
//! - revisions are never split, skipped or repeated.
//! - nothing here depends on how far the scrub behind a compaction has come: what is compacted is
//!   left out though it may still be on disk.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::kv::{Event, KeyValue, event::EventType};
use cfgsvc_proto::state::{HistoryRecord, KeyRecord, OldRecord, RevisionRecord};
use cluster_core::store::{Direction, View};

use crate::floor::Floor;
use crate::machine::load_record;
use crate::read::size;
use crate::tables;
use crate::writer::{RevisionEvents, WatchEvent, key_value};

/// Which events to read.
#[derive(Debug, Clone, Copy)]
pub struct HistoryQuery {
    /// First revision.
    pub from: i64,
    /// Last revision; one that is not there yet is the latest.
    pub to: i64,
    /// No further revision is begun when so many events are read.
    pub max_events: usize,
    /// No further revision is begun when so many bytes of keys and values are read, those of
    /// versions before too.
    pub max_bytes: usize,
    /// Whether to look up the versions before, which costs a read for each.
    pub previous: bool,
}

/// Events read.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    /// Whole revisions, in order; at least one if there is one.
    pub revisions: Vec<RevisionEvents>,
    /// Revision to go on from; more than `to`, or the revision of the store, when all is read.
    pub next: i64,
}

/// The first revision asked for cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// What can.
    pub floor: Floor,
}

/// Events from one revision to another.
pub fn history_since(
    view: &dyn View,
    query: &HistoryQuery,
) -> io::Result<Result<HistoryPage, Compacted>> {
    let record = load_record(view)?;
    let floor = Floor::of(&record);
    if floor.watch(query.from).is_err() {
        return Ok(Err(Compacted { floor }));
    }
    let to = query.to.min(record.revision);
    let mut page = HistoryPage {
        revisions: Vec::new(),
        next: query.from.max(to.saturating_add(1)),
    };
    let (mut events, mut bytes) = (0, 0);
    let range = tables::history_range(query.from.max(0), 0, to);
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, value| {
        let (revision, _) = tables::split_history(stored)?;
        let same = page
            .revisions
            .last()
            .is_some_and(|last| last.revision == revision);
        if !same {
            if events > 0 && (events >= query.max_events || bytes >= query.max_bytes) {
                page.next = revision;
                return Ok(ControlFlow::Break(()));
            }
            page.revisions.push(RevisionEvents {
                revision,
                events: Vec::new(),
            });
        }
        let record: HistoryRecord = tables::decode(stored, value)?;
        events += 1;
        let look_up = query.previous && revision > floor.compacted;
        let event = watch_event(view, revision, record, look_up)?;
        bytes += value.len() + event.previous.as_ref().map_or(0, size);
        if let Some(last) = page.revisions.last_mut() {
            last.events.push(event);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Ok(page))
}

fn watch_event(
    view: &dyn View,
    revision: i64,
    record: HistoryRecord,
    look_up: bool,
) -> io::Result<WatchEvent> {
    let mut previous = None;
    if look_up && record.replaced_revision > 0 {
        let stored = tables::old(&record.key, record.replaced_revision);
        let old: Option<OldRecord> = tables::get(view, &stored)?;
        previous = old
            .and_then(|old| old.record)
            .map(|version| key_value(record.key.clone(), version));
    }
    let kv = match record.record {
        Some(version) => key_value(record.key, version),
        None => KeyValue {
            key: record.key,
            mod_revision: revision,
            ..KeyValue::default()
        },
    };
    Ok(WatchEvent {
        event: Event {
            r#type: record.r#type,
            kv: Some(kv),
            prev_kv: None,
        },
        previous,
    })
}

/// One change of a key, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEntry {
    /// Revision of the change.
    pub revision: i64,
    /// What it was.
    pub kind: EventType,
    /// The version that it made; `None` for a delete.
    pub version: Option<KeyValue>,
    /// Who made it, when and why; `None` when that is compacted.
    pub commit: Option<RevisionRecord>,
}

/// The changes of `key` at `min_revision` or later that are not compacted, newest first, at most
/// `limit`. The version that was there when the store was compacted counts. `None` when their
/// values hold more than `max_bytes`.
pub fn key_history(
    view: &dyn View,
    key: &Bytes,
    min_revision: i64,
    limit: usize,
    max_bytes: usize,
) -> io::Result<Option<Vec<HistoryEntry>>> {
    let compacted = load_record(view)?.compacted_revision;
    let mut entries = Entries {
        view,
        compacted,
        min_revision,
        limit,
        bytes_left: Some(max_bytes),
        found: Vec::new(),
    };
    // Revision of the put that came after the version at hand.
    let mut successor = None;
    if let Some(record) = tables::get::<KeyRecord>(view, &tables::current(key))? {
        successor = Some(record.mod_revision);
        entries.put(key, record)?;
    }
    let range = tables::old_versions(key, 0, i64::MAX);
    tables::try_scan(view, &range, Direction::Descending, &mut |stored, value| {
        let old: OldRecord = tables::decode(stored, value)?;
        if old.ended_revision <= compacted || old.ended_revision < min_revision || entries.is_full()
        {
            return Ok(ControlFlow::Break(()));
        }
        if successor != Some(old.ended_revision) {
            entries.add(old.ended_revision, None)?;
        }
        let record = old.record.unwrap_or_default();
        successor = Some(record.mod_revision);
        entries.put(key, record)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(entries.bytes_left.map(|_| entries.found))
}

struct Entries<'a> {
    view: &'a dyn View,
    compacted: i64,
    min_revision: i64,
    limit: usize,
    /// `None` when there were more.
    bytes_left: Option<usize>,
    found: Vec<HistoryEntry>,
}

impl Entries<'_> {
    fn is_full(&self) -> bool {
        self.found.len() >= self.limit || self.bytes_left.is_none()
    }

    fn put(&mut self, key: &Bytes, record: KeyRecord) -> io::Result<()> {
        self.add(record.mod_revision, Some(key_value(key.clone(), record)))
    }

    fn add(&mut self, revision: i64, version: Option<KeyValue>) -> io::Result<()> {
        if self.is_full() || revision < self.min_revision {
            return Ok(());
        }
        let bytes = version.as_ref().map_or(0, |version| version.value.len());
        self.bytes_left = self.bytes_left.and_then(|left| left.checked_sub(bytes));
        if self.bytes_left.is_none() {
            return Ok(());
        }
        let commit = if revision >= self.compacted {
            tables::get(self.view, &tables::revision(revision))?
        } else {
            None
        };
        self.found.push(HistoryEntry {
            revision,
            kind: if version.is_some() {
                EventType::Put
            } else {
                EventType::Delete
            },
            version,
            commit,
        });
        Ok(())
    }
}

/// What is known of the commit of `revision`; `None` when it is compacted or not there.
pub fn commit(view: &dyn View, revision: i64) -> io::Result<Option<RevisionRecord>> {
    if revision < load_record(view)?.compacted_revision {
        return Ok(None);
    }
    tables::get(view, &tables::revision(revision))
}
