//! The state machine that the group replicates, as the group sees it.

use std::io;

use bytes::Bytes;

use crate::store::{Overlay, View};

/// Keys below this prefix belong to the group (applied index, membership). An app never touches
/// them.
pub const RESERVED_PREFIX: &[u8] = b"\0cluster/";

/// One committed log entry for the app.
#[derive(Debug, Clone)]
pub struct AppEntry {
    /// Index in the Raft log; grows, with gaps for the group's own entries.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// The command, as proposed.
    pub command: Bytes,
}

/// A deterministic state machine. All replicas that apply the same entries hold the same bytes.
///
/// An `Err` is a failure of the disk below and stops the member; a command that is refused is a
/// reply. There is no clock, randomness or hash order in `apply`.
pub trait App: Send + 'static {
    /// Forgets everything cached and reads it again from `view`: at start and after a snapshot was
    /// installed.
    fn load(&mut self, view: &dyn View) -> io::Result<()>;

    /// Applies one entry to `state` and returns the encoded reply for its proposer.
    fn apply(&mut self, state: &mut Overlay<'_>, entry: &AppEntry) -> io::Result<Bytes>;

    /// The entries applied since the last call are now visible to readers, up to log index `index`.
    /// Watchers may be told. Called before the proposers get their replies.
    fn published(&mut self, index: u64);
}
