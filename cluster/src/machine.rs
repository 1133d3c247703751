//! The state machine as openraft wants it: applies committed entries to the app over a
//! [`StateStore`].
//!
//! Invariants
//! - what a chunk of entries changes, the applied log id and the membership are one batch;
//! - nothing is applied that the local log does not hold durably (see `LogStore::wait_durable`);
//! - entries are applied one after the other: one that is missing or comes twice stops the member;
//! - a chunk is visible to readers before any proposer of it gets its reply;
//! - a snapshot is taken between two chunks, so its log id is exactly what its files hold.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cluster_core::app::{App, AppEntry};
use cluster_core::store::{Batch, Overlay, View};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::entry::EntryPayload;
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use prost::Message;

use crate::log_store::LogStore;
use crate::log_tail::size_of;
use crate::proto;
use crate::state_store::{APPLIED_KEY, SnapshotHandle, StateStore};
use crate::types::{
    CommittedLeaderId, Entry, GroupTypes, LogId, NodeInfo, Reply, SnapshotMeta, StoredMembership,
    decode, log_id_optional, log_id_to, stored_membership_from, stored_membership_to,
};

/// Entries applied in one batch at most: bounds the batch's memory and how long a snapshot waits.
const CHUNK_ENTRIES: usize = 512;

/// A batch ends with the entry whose command, or whose reply, brings it over so many bytes.
const CHUNK_BYTES: usize = 4 << 20;

/// A batch ends with the entry that brings the keys that change over this.
const CHUNK_KEYS: usize = 50_000;

/// The state machine of one member.
pub struct Machine {
    store: Arc<dyn StateStore>,
    /// Whose entries must be durable first; `None` where there is no log (conformance tests): there
    /// gaps between the entries are none of a log's.
    log: Option<LogStore>,
    inner: Arc<Mutex<Inner>>,
}

/// What changes while entries are applied. Held for a whole chunk and for taking a snapshot.
struct Inner {
    app: Box<dyn App>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

type SnapshotOf = Snapshot<CommittedLeaderId, u64, NodeInfo, SnapshotHandle>;

impl Machine {
    /// Loads the app from the store. A store that does not reach to where the log begins has lost
    /// what it had applied and is refused.
    pub fn open(
        store: Arc<dyn StateStore>,
        log: Option<LogStore>,
        app: Box<dyn App>,
    ) -> io::Result<Self> {
        let mut inner = Inner {
            app,
            applied: None,
            membership: StoredMembership::default(),
        };
        inner.load(store.as_ref())?;
        if let Some(log) = &log {
            // Raft brings a store forward from its snapshot when that is newer.
            let kept = store.current()?.and_then(|(meta, _)| meta.last_log_id);
            check_reach(inner.applied.max(kept), log.purged())?;
        }
        Ok(Self {
            store,
            log,
            inner: Arc::new(Mutex::new(inner)),
        })
    }

    /// Last log id that is applied.
    pub fn applied(&self) -> Option<LogId> {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .applied
    }

    async fn apply_chunk<C: GroupTypes>(&self, chunk: Vec<EntryResponder<C>>) -> io::Result<()> {
        let Some((last, _)) = chunk.last() else {
            return Ok(());
        };
        let last = last.log_id;
        if let Some(log) = &self.log {
            log.wait_durable(last.index()).await?;
        }
        let (entries, responders): (Vec<Entry>, Vec<Option<ApplyResponder<C>>>) =
            chunk.into_iter().unzip();
        let mut entries = entries.into_iter();
        let mut responders = responders.into_iter();
        while !entries.as_slice().is_empty() {
            let replies = {
                let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                if self.log.is_some() {
                    let indexes = entries.as_slice().iter().map(|entry| entry.log_id.index());
                    check_order(inner.applied.map(|id| id.index()), indexes)?;
                }
                inner.apply(self.store.as_ref(), &mut entries)?
            };
            for (reply, responder) in replies.into_iter().zip(responders.by_ref()) {
                if let Some(responder) = responder {
                    responder.send(Reply(reply));
                }
            }
        }
        Ok(())
    }
}

/// The last log id that is applied in a state, and the membership then.
pub(crate) fn applied_in(view: &dyn View) -> io::Result<(Option<LogId>, StoredMembership)> {
    let Some(bytes) = view.get(APPLIED_KEY)? else {
        return Ok((None, StoredMembership::default()));
    };
    let state: proto::AppliedState = decode("applied state", bytes)?;
    let membership = match state.membership {
        Some(membership) => stored_membership_from(membership)?,
        None => StoredMembership::default(),
    };
    Ok((log_id_optional(state.log_id.as_ref())?, membership))
}

/// Refuses a state to which the entries that follow it are gone.
pub(crate) fn check_reach(state: Option<LogId>, purged: Option<LogId>) -> io::Result<()> {
    if state >= purged {
        return Ok(());
    }
    let index = |id: Option<LogId>| id.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the state holds the log up to {}, but the log is purged up to {}: part of the data \
             directory was lost or put back from an older copy; replace the member",
            index(state),
            index(purged)
        ),
    ))
}

/// Refuses entries that do not follow each other and what is applied: nobody above checks that, and
/// a replica that skipped one would differ from the others without a word.
pub(crate) fn check_order(
    applied: Option<u64>,
    indexes: impl Iterator<Item = u64>,
) -> io::Result<()> {
    let first = applied.map_or(0, |applied| applied + 1);
    for (expected, found) in (first..).zip(indexes) {
        if found != expected {
            let why = format!(
                "log entry {found} was to be applied where entry {expected} must be: the log or \
                 the state of this member is damaged; replace the member"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
    }
    Ok(())
}

// === impl Inner ===

impl Inner {
    fn load(&mut self, store: &dyn StateStore) -> io::Result<()> {
        store.engine().read(&mut |view| {
            (self.applied, self.membership) = applied_in(view)?;
            self.app.load(view)
        })
    }

    /// Applies the first entries, as many as a batch may hold, commits and publishes them; returns
    /// their replies in order.
    fn apply(
        &mut self,
        store: &dyn StateStore,
        entries: &mut std::vec::IntoIter<Entry>,
    ) -> io::Result<Vec<Bytes>> {
        let engine = store.engine();
        let mut replies = Vec::with_capacity(entries.len());
        let mut batch = Batch::default();
        engine.read(&mut |view| {
            let mut state = Overlay::new(view);
            let mut reply_bytes = 0;
            for entry in entries.by_ref() {
                let log_id = entry.log_id;
                let reply = match entry.payload {
                    EntryPayload::Blank => Bytes::new(),
                    EntryPayload::Normal(command) => {
                        let entry = AppEntry {
                            index: log_id.index(),
                            term: log_id.committed_leader_id().term,
                            command: command.0,
                        };
                        self.app.apply(&mut state, &entry)?
                    }
                    EntryPayload::Membership(membership) => {
                        self.membership = StoredMembership::new(Some(log_id), membership);
                        Bytes::new()
                    }
                };
                reply_bytes += reply.len();
                replies.push(reply);
                self.applied = Some(log_id);
                if reply_bytes > CHUNK_BYTES || state.pending() > CHUNK_KEYS {
                    break;
                }
            }
            batch = std::mem::replace(&mut state, Overlay::new(view)).into_batch();
            Ok(())
        })?;
        batch.put(APPLIED_KEY, self.applied_state().encode_to_vec());
        engine.commit(batch)?;
        self.app.published(self.applied.map_or(0, |id| id.index()));
        Ok(replies)
    }

    fn applied_state(&self) -> proto::AppliedState {
        proto::AppliedState {
            log_id: self.applied.as_ref().map(log_id_to),
            membership: Some(stored_membership_to(&self.membership)),
        }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }
}

// === impl RaftStateMachine ===

impl<C: GroupTypes> RaftStateMachine<C> for Machine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((inner.applied, inner.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<C>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunk = Vec::new();
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            let mut bytes = size_of(&entry.0);
            chunk.push(entry);
            while chunk.len() < CHUNK_ENTRIES && bytes <= CHUNK_BYTES {
                match entries.next().now_or_never() {
                    Some(Some(entry)) => {
                        let entry = entry?;
                        bytes += size_of(&entry.0);
                        chunk.push(entry);
                    }
                    Some(None) | None => break,
                }
            }
            self.apply_chunk::<C>(std::mem::take(&mut chunk)).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            store: self.store.clone(),
            inner: self.inner.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotHandle,
    ) -> Result<(), io::Error> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.install(&snapshot)?;
        inner.load(self.store.as_ref())?;
        if inner.applied != meta.last_log_id {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the snapshot holds the log up to {:?}, its manifest says {:?}",
                    inner.applied, meta.last_log_id
                ),
            ));
        }
        let index = inner.applied.map_or(0, |id| id.index());
        inner.app.published(index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        let current = self.store.current()?;
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Takes a snapshot while entries go on being applied, but for the moment of the copy itself.
pub struct Builder {
    store: Arc<dyn StateStore>,
    inner: Arc<Mutex<Inner>>,
}

impl<C: GroupTypes> RaftSnapshotBuilder<C> for Builder {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf, io::Error> {
        // Most of what is in memory goes to disk before the applier is held up.
        self.store.engine().flush()?;
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let meta = inner.meta();
        let snapshot = self.store.build(&meta)?;
        Ok(Snapshot { meta, snapshot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_do_not_follow_are_refused() {
        assert!(check_order(None, 0..3).is_ok());
        assert!(check_order(Some(4), 5..9).is_ok());
        for (applied, indexes) in [(None, vec![1]), (Some(4), vec![4]), (Some(4), vec![5, 7])] {
            let refused = check_order(applied, indexes.into_iter()).expect_err("a gap");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{refused}");
        }
    }
}
