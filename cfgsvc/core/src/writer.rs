//! All changes of one revision: keeps `current`, `old`, `history` and the attachments of leases in
//! step, and collects what watchers are told.
//!
//! Invariant: a key changes at most once in a revision (`validate::txn` refuses anything else), so
//! (key, mod revision) names a version.

use std::io;

use bytes::Bytes;
use cfgsvc_proto::kv::{Event, KeyValue, event::EventType};
use cfgsvc_proto::state::{HistoryRecord, KeyRecord, OldRecord, Refusal};
use cluster_core::store::{Batch, Overlay};
use prost::Message;

use crate::limits::{ANSWER_BYTES_MAX, REPLACED_BYTES_MAX};
use crate::refusal::{Code, refuse};
use crate::{tables, zones};

/// One change of a key, for watchers.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvent {
    /// The change, without `prev_kv`; a delete has only key and mod revision.
    pub event: Event,
    /// The version before, for watchers that want `prev_kv`; `None` when there was none or it is
    /// compacted.
    pub previous: Option<KeyValue>,
}

/// All changes of one revision, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: i64,
    /// Its changes; at least one.
    pub events: Vec<WatchEvent>,
}

/// The version of `key` as clients see it.
pub(crate) fn key_value(key: Bytes, record: KeyRecord) -> KeyValue {
    KeyValue {
        key,
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        version: record.version,
        value: record.value,
        lease: record.lease,
    }
}

/// Refuses a command for what it would answer.
pub(crate) fn answer_too_large() -> Refusal {
    let detail = format!(
        "its answer is over {ANSWER_BYTES_MAX} bytes, the most for a request that may write; read \
         by itself what is large"
    );
    refuse(Code::RequestTooLarge, detail)
}

/// Adds to `state` the changes that were tried on top of it.
pub(crate) fn absorb(state: &mut Overlay<'_>, tried: &Batch) {
    for (key, value) in tried.iter() {
        match value {
            Some(value) => state.put(key.clone(), value.clone()),
            None => state.delete(key.clone()),
        }
    }
}

/// What a put makes of a key.
pub(crate) struct NewValue {
    pub(crate) value: Bytes,
    pub(crate) lease: i64,
}

/// Writes one revision.
pub(crate) struct RevisionWriter<'a, 'view> {
    pub(crate) state: &'a mut Overlay<'view>,
    /// Revision of the store before.
    base: i64,
    events: Vec<WatchEvent>,
    /// Bytes of the answer so far, at most [`ANSWER_BYTES_MAX`].
    answer_bytes: usize,
    /// Bytes of replaced versions so far, at most [`REPLACED_BYTES_MAX`].
    replaced_bytes: usize,
}

impl<'a, 'view> RevisionWriter<'a, 'view> {
    pub(crate) fn new(state: &'a mut Overlay<'view>, base: i64) -> Self {
        Self {
            state,
            base,
            events: Vec::new(),
            answer_bytes: 0,
            replaced_bytes: 0,
        }
    }

    /// Bytes that may still be added to the answer.
    pub(crate) fn answer_left(&self) -> usize {
        ANSWER_BYTES_MAX - self.answer_bytes
    }

    /// Bytes of versions that may still be replaced.
    pub(crate) fn replaced_left(&self) -> usize {
        REPLACED_BYTES_MAX - self.replaced_bytes
    }

    /// Counts what is added to the answer; refused when that is more than is left.
    pub(crate) fn count_answer(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > self.answer_left() {
            return Err(answer_too_large());
        }
        self.answer_bytes += bytes;
        Ok(())
    }

    /// Counts versions about to be replaced, overhead included; refused when that is more than is
    /// left.
    pub(crate) fn count_replaced(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > self.replaced_left() {
            let detail = format!(
                "it replaces or deletes more than {REPLACED_BYTES_MAX} bytes of keys and values, \
                 do it in smaller parts"
            );
            return Err(refuse(Code::RequestTooLarge, detail));
        }
        self.replaced_bytes += bytes;
        Ok(())
    }

    /// Revision of the store as it is now: one more as soon as a key has changed.
    pub(crate) fn revision(&self) -> i64 {
        self.base + i64::from(!self.events.is_empty())
    }

    /// Revision that a change of a key gets.
    pub(crate) fn next_revision(&self) -> i64 {
        self.base + 1
    }

    /// The changes so far, in order.
    pub(crate) fn events(&self) -> &[WatchEvent] {
        &self.events
    }

    /// Counts what the changes mean for zones, and ends the revision: the changes, in order.
    pub(crate) fn finish(mut self) -> io::Result<Vec<WatchEvent>> {
        zones::settle(&mut self)?;
        Ok(self.events)
    }

    /// Makes a new version of `key`; `previous` is the current one.
    pub(crate) fn put(
        &mut self,
        key: &Bytes,
        new: NewValue,
        previous: Option<KeyRecord>,
    ) -> io::Result<()> {
        let revision = self.base + 1;
        let record = KeyRecord {
            create_revision: previous
                .as_ref()
                .map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(1, |old| old.version + 1),
            lease: new.lease,
            value: new.value,
        };
        let old_lease = previous.as_ref().map_or(0, |old| old.lease);
        if old_lease != record.lease {
            if old_lease != 0 {
                self.state.delete(tables::lease_key(old_lease, key));
            }
            if record.lease != 0 {
                self.state
                    .put(tables::lease_key(record.lease, key), Bytes::new());
            }
        }
        self.state.put(tables::current(key), record.encode_to_vec());
        self.end_version(key, EventType::Put, Some(record), previous)
    }

    /// Removes `key`, whose current version is `previous`.
    pub(crate) fn delete(&mut self, key: &Bytes, previous: KeyRecord) -> io::Result<()> {
        if previous.lease != 0 {
            self.state.delete(tables::lease_key(previous.lease, key));
        }
        self.state.delete(tables::current(key));
        self.end_version(key, EventType::Delete, None, Some(previous))
    }

    /// Removes `key` if it exists.
    pub(crate) fn delete_if_there(&mut self, key: &Bytes) -> io::Result<()> {
        let current: Option<KeyRecord> = tables::get(self.state, &tables::current(key))?;
        match current {
            Some(record) => self.delete(key, record),
            None => Ok(()),
        }
    }

    fn end_version(
        &mut self,
        key: &Bytes,
        kind: EventType,
        record: Option<KeyRecord>,
        previous: Option<KeyRecord>,
    ) -> io::Result<()> {
        let revision = self.base + 1;
        let index = u32::try_from(self.events.len())
            .map_err(|_| io::Error::other("a revision has more than 2^32 changes"))?;
        let history = HistoryRecord {
            r#type: kind.into(),
            key: key.clone(),
            record,
            replaced_revision: previous.as_ref().map_or(0, |old| old.mod_revision),
        };
        self.state
            .put(tables::history(revision, index), history.encode_to_vec());
        let kv = history.record.map_or_else(
            || KeyValue {
                key: key.clone(),
                mod_revision: revision,
                ..KeyValue::default()
            },
            |record| key_value(key.clone(), record),
        );
        let previous = previous.map(|record| self.keep_old(key, record, revision));
        self.events.push(WatchEvent {
            event: Event {
                r#type: kind.into(),
                kv: Some(kv),
                prev_kv: None,
            },
            previous,
        });
        Ok(())
    }

    fn keep_old(&mut self, key: &Bytes, record: KeyRecord, ended_revision: i64) -> KeyValue {
        let stored = tables::old(key, record.mod_revision);
        let old = OldRecord {
            record: Some(record.clone()),
            ended_revision,
        };
        self.state.put(stored, old.encode_to_vec());
        key_value(key.clone(), record)
    }
}
