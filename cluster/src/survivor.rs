//! What the data directory of a member holds, read while the member does not run: for a group that
//! has lost its majority for good.
//!
//! ```text
//!  state ──────── applied ─── entries known to be committed ─── entries of which nobody knows
//!                              everybody had them at their          another member may have
//!                              index, or will never know            committed others there
//! ```
//!
//! Invariants
//! - the directory stays what it was: the log is replayed in memory. The member can start again.
//! - everything that the directory holds is replayed: an entry that only this member and lost ones
//!   hold may have been acknowledged.

use std::io;
use std::path::Path;

use cluster_core::app::AppEntry;
use cluster_core::store::Overlay;
use openraft::entry::EntryPayload;

use crate::directory_store::DirectoryStore;
use crate::identity::DataDirectory;
use crate::log_store::{FlushMode, LogStore, LogStoreOptions};
use crate::machine::{applied_in, check_order, check_reach};
use crate::start::{StartError, open_log, open_state};
use crate::state_store::StateStore as _;
use crate::types::{LogId, StoredMembership};

/// Bytes of entries read at a time.
const STEP_BYTES: usize = 4 << 20;

/// A member's data directory, held while this lives.
pub struct Survivor {
    store: DirectoryStore,
    log: LogStore,
    /// What it holds.
    pub holdings: Holdings,
    /// Given up last, when the databases are closed.
    _directory: DataDirectory,
}

/// What a directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// The group that it belongs to.
    pub cluster_id: u64,
    /// The member.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// The files are not the ones that the member wrote, but a copy: maybe an old one.
    pub copied: bool,
    /// Names of the voters, as far as is known to be committed.
    pub voters: Vec<String>,
    /// Term and index of the last entry: of several survivors, the one with the greatest holds
    /// everything that the others know to be committed.
    pub last: (u64, u64),
    /// Index of the last entry that is known to be committed.
    pub committed: u64,
}

impl Holdings {
    /// Count of entries of which it is not known whether they are committed.
    pub fn unsure(&self) -> u64 {
        self.last.1.saturating_sub(self.committed)
    }
}

/// What the visitor of [`Survivor::replay`] is told, in this order.
#[derive(Debug)]
pub enum Replay<'a> {
    /// The state as it is on disk.
    Begin,
    /// An entry that is known to be committed.
    Committed(&'a AppEntry),
    /// An entry of which nobody knows.
    Unsure(&'a AppEntry),
    /// That was all.
    End,
}

/// Changes the state as the next part of what a member holds demands.
pub type ReplayFn<'a> = dyn FnMut(&mut Overlay<'_>, Replay<'_>) -> io::Result<()> + 'a;

impl Survivor {
    /// Takes the directory of a member that does not run.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let (directory, copied) = DataDirectory::open_offline(path)?;
        let storage = |what| move |source| StartError::Storage { what, source };
        let engine = open_log(path, false).map_err(storage("the log"))?;
        let options = LogStoreOptions {
            tail_bytes: 0,
            read_bytes: STEP_BYTES,
        };
        let log = LogStore::open(engine, FlushMode::Inline, options).map_err(storage("the log"))?;
        let store = DirectoryStore::open(path, Box::new(open_state));
        let store = store.map_err(storage("the state"))?;
        let (applied, membership) = brought_forward(&store).map_err(storage("the state"))?;
        check_reach(applied, log.purged()).map_err(storage("the state"))?;
        let committed = log.committed().max(applied);
        let membership =
            membership_at(&log, applied, membership, committed).map_err(storage("the log"))?;
        let identity = directory.identity();
        let holdings = Holdings {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            name: identity.name.clone(),
            copied,
            voters: voters(&membership),
            last: log
                .last_log_id()
                .max(applied)
                .map_or((0, 0), term_and_index),
            committed: committed.map_or(0, |id| id.index()),
        };
        Ok(Self {
            store,
            log,
            holdings,
            _directory: directory,
        })
    }

    /// Lets `visit` see the state, and change it in memory by every entry behind it.
    pub fn replay(&self, visit: &mut ReplayFn<'_>) -> io::Result<()> {
        self.store.engine().read(&mut |view| {
            let (applied, _) = applied_in(view)?;
            let mut state = Overlay::new(view);
            visit(&mut state, Replay::Begin)?;
            let mut last = applied.map(|id| id.index());
            loop {
                let next = last.map_or(0, |last| last + 1);
                let entries = self.log.read(next, u64::MAX, STEP_BYTES)?;
                if entries.is_empty() {
                    return visit(&mut state, Replay::End);
                }
                check_order(last, entries.iter().map(|entry| entry.log_id.index()))?;
                for entry in entries {
                    last = Some(entry.log_id.index());
                    let EntryPayload::Normal(command) = entry.payload else {
                        continue;
                    };
                    let index = entry.log_id.index();
                    let entry = AppEntry {
                        index,
                        term: entry.log_id.committed_leader_id().term,
                        command: command.0,
                    };
                    if index <= self.holdings.committed {
                        visit(&mut state, Replay::Committed(&entry))?;
                    } else {
                        visit(&mut state, Replay::Unsure(&entry))?;
                    }
                }
            }
        })
    }
}

/// As a member does at its start: installs a snapshot that was received whole and not installed.
fn brought_forward(store: &DirectoryStore) -> io::Result<(Option<LogId>, StoredMembership)> {
    let found = applied(store)?;
    match store.current()? {
        Some((meta, snapshot)) if meta.last_log_id > found.0 => {
            store.install(&snapshot)?;
            applied(store)
        }
        Some(_) | None => Ok(found),
    }
}

fn applied(store: &DirectoryStore) -> io::Result<(Option<LogId>, StoredMembership)> {
    let mut found = (None, StoredMembership::default());
    store.engine().read(&mut |view| {
        found = applied_in(view)?;
        Ok(())
    })?;
    Ok(found)
}

/// The membership when the log up to `committed` is applied behind `applied`.
fn membership_at(
    log: &LogStore,
    applied: Option<LogId>,
    mut membership: StoredMembership,
    committed: Option<LogId>,
) -> io::Result<StoredMembership> {
    let end = committed.map_or(0, |id| id.index() + 1);
    let mut next = applied.map_or(0, |id| id.index() + 1);
    while next < end {
        let entries = log.read(next, end, STEP_BYTES)?;
        let Some(last) = entries.last() else { break };
        next = last.log_id.index() + 1;
        for entry in entries {
            if let EntryPayload::Membership(changed) = entry.payload {
                membership = StoredMembership::new(Some(entry.log_id), changed);
            }
        }
    }
    Ok(membership)
}

fn voters(membership: &StoredMembership) -> Vec<String> {
    let ids: Vec<u64> = membership.voter_ids().collect();
    let mut names: Vec<String> = membership
        .nodes()
        .filter(|(id, _)| ids.contains(id))
        .map(|(_, node)| node.name.clone())
        .collect();
    names.sort();
    names
}

fn term_and_index(id: LogId) -> (u64, u64) {
    (id.committed_leader_id().term, id.index())
}
