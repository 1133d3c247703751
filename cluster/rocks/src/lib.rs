//! The two databases of a member, over `RocksDB`: its durable log and its applied state.
//!
//! Why two databases: they differ in what must be durable (every batch; nothing before a flush),
//! they must not wait for each other (a full state memtable must not delay a vote), and a copy of
//! the state must not hold the log.
//!
//! Architecture invariants
//! - no other package links `RocksDB`; none of its types leave this one.
//! - a failed write is never tried again: after it the page cache and the disk may differ.
//! - a database is made in a directory beside its own and renamed when it is whole, so a directory
//!   that is there either is complete or is damaged: nothing is ever made on top of what was found.

mod bounds;
mod directory;
mod error;
mod log;
mod options;
mod state;
mod synced;
mod wal;

use std::io;
use std::path::Path;

pub use crate::log::RocksLog;
pub use crate::options::{LogOptions, StateOptions};
pub use crate::state::RocksState;

/// Opens the log in `directory`, or makes it where [`LogOptions::create_if_missing`] says so. The
/// directory's parent must exist, and only one process may do this at a time.
pub fn open_log(directory: &Path, options: &LogOptions) -> io::Result<RocksLog> {
    RocksLog::open(directory, options)
}

/// Opens the state in `directory`, or makes it where [`StateOptions::create_if_missing`] says so.
/// The directory may be one that a checkpoint made. The directory's parent must exist, and only
/// one process may do this at a time.
pub fn open_state(directory: &Path, options: &StateOptions) -> io::Result<RocksState> {
    RocksState::open(directory, options)
}
