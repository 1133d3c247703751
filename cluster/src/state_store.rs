//! Where the state machine's database lives, and how a copy of it travels.
//!
//! Two interfaces, so that a simulation can keep both in memory: [`StateStore`] owns the current
//! database and its latest snapshot; [`SnapshotFiles`] is one snapshot, readable in pieces.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cluster_core::store::StateEngine;

use crate::proto;
use crate::types::{
    DecodeError, SnapshotMeta, log_id_optional, log_id_to, stored_membership_from,
    stored_membership_to,
};

/// The reserved key that holds the applied log id and membership; written in the same batch as what
/// was applied, so the two can never differ.
pub const APPLIED_KEY: &[u8] = b"\0cluster/applied";

/// One durable snapshot. Files never change; the last handle to an outdated one removes it.
pub trait SnapshotFiles: Send + Sync + 'static {
    /// What it covers, and its files with sizes and SHA-256. Computed at the first call.
    fn manifest(&self) -> io::Result<proto::SnapshotManifest>;

    /// Up to `max_bytes` of a file of the manifest from `offset` on; empty at its end.
    fn read(&self, file: usize, offset: u64, max_bytes: usize) -> io::Result<Bytes>;
}

/// A snapshot with what it covers: openraft's snapshot data.
#[derive(Clone)]
pub struct SnapshotHandle {
    /// The files.
    pub files: Arc<dyn SnapshotFiles>,
}

/// A snapshot that is being received.
pub trait SnapshotReceiver: Send {
    /// Bytes that are there already of each file, from an earlier transfer that broke.
    fn held(&self) -> Vec<u64>;

    /// The next bytes of a file; `offset` must be where the last ones ended.
    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Checks sizes and hashes and makes it durable.
    fn finish(self: Box<Self>) -> io::Result<SnapshotHandle>;
}

/// The database of the state machine.
pub trait StateStore: Send + Sync + 'static {
    /// The database now. A handle that is kept over an install reads the old one.
    fn engine(&self) -> Arc<dyn StateEngine>;

    /// Makes a snapshot of the database as it is and keeps it in place of the one before. The
    /// caller sees to it that nothing is committed meanwhile.
    fn build(&self, meta: &SnapshotMeta) -> io::Result<SnapshotHandle>;

    /// The snapshot that is kept.
    fn current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotHandle)>>;

    /// Bytes on the disk that only the kept snapshot holds: the database has rewritten them.
    fn outdated_bytes(&self) -> io::Result<u64>;

    /// Prepares to receive a snapshot; goes on where a broken transfer of the same one ended.
    fn receive(&self, manifest: &proto::SnapshotManifest) -> io::Result<Box<dyn SnapshotReceiver>>;

    /// Replaces the database by the snapshot's, atomically and durably, and keeps the snapshot.
    fn install(&self, snapshot: &SnapshotHandle) -> io::Result<()>;
}

/// What a manifest says that it covers.
pub fn meta_from(manifest: &proto::SnapshotManifest) -> Result<SnapshotMeta, DecodeError> {
    let membership = manifest.membership.clone().ok_or(DecodeError::Missing {
        what: "snapshot manifest",
        field: "membership",
    })?;
    Ok(SnapshotMeta {
        last_log_id: log_id_optional(manifest.last_log_id.as_ref())?,
        last_membership: stored_membership_from(membership)?,
    })
}

/// A manifest without files.
pub fn manifest_for(meta: &SnapshotMeta, id: String) -> proto::SnapshotManifest {
    proto::SnapshotManifest {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to),
        membership: Some(stored_membership_to(&meta.last_membership)),
        files: Vec::new(),
        id,
    }
}
