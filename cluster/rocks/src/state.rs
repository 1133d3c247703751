//! The applied state: an ordered byte store whose durable point moves at each flush.
//!
//! Why no write-ahead log: the Raft log is one. After a crash the state is as of its last flush,
//! and the member applies the entries behind it again.
//!
//! Invariants
//! - one column family, so that a flush keeps a prefix of the commits.
//! - a view is one snapshot of the database.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cluster_core::store::{Batch, Direction, KeyRange, ReadFn, StateEngine, View, Visit};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, ReadOptions, Snapshot, WriteBatch, WriteOptions};

use crate::directory;
use crate::error::{self, Database};
use crate::options::StateOptions;

const DATABASE: Database = Database::State;

/// A [`StateEngine`] in a `RocksDB` of its own.
pub struct RocksState {
    db: DB,
    directory: PathBuf,
    unlogged: WriteOptions,
}

impl RocksState {
    /// See [`crate::open_state`].
    pub(crate) fn open(directory: &Path, options: &StateOptions) -> io::Result<Self> {
        let opened = |error| error::open(DATABASE, directory, &error);
        directory::ensure(DATABASE, directory, options.create_if_missing, |staging| {
            let mut creating = options.database();
            creating.create_if_missing(true);
            DB::open(&creating, staging).map(drop).map_err(opened)
        })?;
        let mut unlogged = WriteOptions::default();
        unlogged.disable_wal(true);
        Ok(Self {
            db: DB::open(&options.database(), directory).map_err(opened)?,
            directory: directory.to_owned(),
            unlogged,
        })
    }

    fn write_error(&self, error: &rocksdb::Error) -> io::Error {
        error::write(DATABASE, &self.directory, error)
    }
}

impl StateEngine for RocksState {
    fn read(&self, read: &mut ReadFn<'_>) -> io::Result<()> {
        let snapshot = self.db.snapshot();
        let mut get_options = ReadOptions::default();
        get_options.set_snapshot(&snapshot);
        read(&StateView {
            state: self,
            get_options,
            snapshot,
        })
    }

    fn commit(&self, batch: Batch) -> io::Result<()> {
        let mut changes = WriteBatch::default();
        for (key, value) in batch.iter() {
            match value {
                Some(value) => changes.put(key, value),
                None => changes.delete(key),
            }
        }
        self.db
            .write_opt(changes, &self.unlogged)
            .map_err(|error| self.write_error(&error))
    }

    fn flush(&self) -> io::Result<()> {
        self.db.flush().map_err(|error| self.write_error(&error))
    }

    fn checkpoint(&self, directory: &Path) -> io::Result<()> {
        if directory.symlink_metadata().is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "checkpoint directory {} exists: remove it or name another",
                    directory.display()
                ),
            ));
        }
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(directory))
            .map_err(|error| error::checkpoint(&self.directory, directory, &error))?;
        directory::sync_tree(directory)?;
        directory::sync(directory::parent_of(directory))
    }

    fn size_bytes(&self) -> io::Result<u64> {
        directory::size_bytes(&self.directory)
    }
}

/// The state at one moment. Fields drop in order: the options before the snapshot they point to.
struct StateView<'a> {
    state: &'a RocksState,
    get_options: ReadOptions,
    snapshot: Snapshot<'a>,
}

impl StateView<'_> {
    fn read_error(&self, what: &str, error: &rocksdb::Error) -> io::Error {
        error::read(DATABASE, &self.state.directory, what, error)
    }
}

impl View for StateView<'_> {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.state
            .db
            .get_pinned_opt(key, &self.get_options)
            .map(|value| value.map(|value| Bytes::copy_from_slice(&value)))
            .map_err(|error| self.read_error(&format!("key {}", key.escape_ascii()), &error))
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.start.as_ref());
        if let Some(end) = &range.end {
            options.set_iterate_upper_bound(end.as_ref());
        }
        let mut entries = self.snapshot.raw_iterator_opt(options);
        match direction {
            Direction::Ascending => entries.seek_to_first(),
            Direction::Descending => entries.seek_to_last(),
        }
        while let Some((key, value)) = entries.item() {
            if let ControlFlow::Break(()) = visit(key, value) {
                return Ok(());
            }
            match direction {
                Direction::Ascending => entries.next(),
                Direction::Descending => entries.prev(),
            }
        }
        entries.status().map_err(|error| {
            self.read_error(&format!("keys from {}", range.start.escape_ascii()), &error)
        })
    }
}
