//! The durable log: entries by index, and the vote, committed and purged log ids beside them.
//!
//! ```text
//! column family `log`   index (8 bytes, big-endian) -> crc32 (4 bytes, big-endian) | entry
//! column family `meta`  LogMeta::name() -> its value; FORMAT, FLOOR (ours, below)
//! ```
//!
//! Invariants
//! - one [`LogEngine::write`] is one `WriteBatch`, so one record of the write-ahead log, and is
//!   synced before it returns.
//! - an entry is given out only when its checksum over index and bytes is right.
//! - after a failed write none is tried again.
//! - a log that ends before what was synced is refused, see [`crate::synced`].

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use bytes::Bytes;
use cluster_core::log::{LogEngine, LogMeta, LogOp};
use rocksdb::{ColumnFamily, DB, Options, ReadOptions, WriteBatch, WriteOptions};

use crate::bounds::Bounds;
use crate::directory;
use crate::error::{self, Database};
use crate::options::LogOptions;
use crate::synced::Synced;
use crate::wal;

const DATABASE: Database = Database::Log;
const ENTRIES: &str = "log";
const META: &str = "meta";

/// Key of the version of this layout; no [`LogMeta::name`] begins with NUL.
const FORMAT: &[u8] = b"\0format";
const FORMAT_VERSION: u32 = 2;
/// Key of [`Bounds::floor`].
const FLOOR: &[u8] = b"\0floor";

const CHECKSUM_BYTES: usize = 4;

/// Up to this many entries are deleted one by one: a range tombstone costs every later read more.
const POINT_DELETES_MAX: u64 = 32;

/// A [`LogEngine`] in a `RocksDB` of its own.
pub struct RocksLog {
    db: DB,
    directory: PathBuf,
    with_sync: WriteOptions,
    synced: Synced,
    /// Changed by the writer only, under `writer`.
    bounds: RwLock<Bounds>,
    writer: Mutex<Writer>,
    /// Batches that are durable, counted since the log was opened.
    batches_synced: AtomicU64,
}

#[derive(Default)]
struct Writer {
    /// A write failed, or is under way.
    failed: bool,
}

/// A batch, and what the log holds while it is written and after.
struct Plan {
    batch: WriteBatch,
    /// The entries that are held before, during and after.
    during: Bounds,
    after: Bounds,
    /// Entries leave the log at its beginning.
    purges: bool,
}

impl RocksLog {
    /// See [`crate::open_log`].
    pub(crate) fn open(directory: &Path, options: &LogOptions) -> io::Result<Self> {
        directory::ensure(DATABASE, directory, options.create_if_missing, |staging| {
            make(staging, options)
        })?;
        let (synced, reached) = Synced::open(directory)?;
        wal::check(directory, reached)?;
        let db = open_database(directory, options.database(), options)?;
        let mut with_sync = WriteOptions::default();
        with_sync.set_sync(true);
        let log = Self {
            db,
            directory: directory.to_owned(),
            with_sync,
            synced,
            bounds: RwLock::default(),
            writer: Mutex::default(),
            batches_synced: AtomicU64::new(0),
        };
        log.check_format()?;
        log.check_reached(reached)?;
        log.publish(log.load_bounds()?);
        Ok(log)
    }

    /// Batches that were made durable since the log was opened, each by one sync.
    pub fn batches_synced(&self) -> u64 {
        self.batches_synced.load(Ordering::Relaxed)
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db
            .cf_handle(name)
            .expect("both column families were opened with the database")
    }

    fn current(&self) -> Bounds {
        *self.bounds.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, bounds: Bounds) {
        *self.bounds.write().unwrap_or_else(PoisonError::into_inner) = bounds;
    }

    fn fact(&self, key: &[u8], what: &str) -> io::Result<Option<Bytes>> {
        self.db
            .get_pinned_cf(self.family(META), key)
            .map(|value| value.map(|value| Bytes::copy_from_slice(&value)))
            .map_err(|error| error::read(DATABASE, &self.directory, what, &error))
    }

    fn check_format(&self) -> io::Result<()> {
        let found = self.fact(FORMAT, "the format")?;
        if found.as_deref() == Some(FORMAT_VERSION.to_be_bytes().as_slice()) {
            return Ok(());
        }
        let found = found.map_or_else(|| "none".to_owned(), |bytes| format!("{bytes:?}"));
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "the log database {} has format {found}, this version reads {FORMAT_VERSION}: \
                 start the version that wrote it",
                self.directory.display()
            ),
        ))
    }

    /// Refuses a log that ends before what was synced, where no batch is left to tell it sooner.
    fn check_reached(&self, synced: u64) -> io::Result<()> {
        let last = self.db.latest_sequence_number();
        if last >= synced {
            return Ok(());
        }
        let what = format!("it ends at change {last}, and was synced up to {synced}");
        Err(error::damaged(DATABASE, &self.directory, &what))
    }

    fn load_bounds(&self) -> io::Result<Bounds> {
        let floor = match self.fact(FLOOR, "the first index")? {
            None => 0,
            Some(bytes) => self.index_of(&bytes)?,
        };
        let mut from_floor = ReadOptions::default();
        from_floor.set_iterate_lower_bound(floor.to_be_bytes());
        let mut entries = self
            .db
            .raw_iterator_cf_opt(self.family(ENTRIES), from_floor);
        entries.seek_to_first();
        let first = entries.key().map(|key| self.index_of(key)).transpose()?;
        if first.is_some() {
            entries.seek_to_last();
        }
        let last = entries.key().map(|key| self.index_of(key)).transpose()?;
        entries.status().map_err(|error| {
            error::read(
                DATABASE,
                &self.directory,
                "the first and last entry",
                &error,
            )
        })?;
        Ok(Bounds {
            floor,
            held: first.zip(last),
            shrinks: 0,
        })
    }

    fn index_of(&self, key: &[u8]) -> io::Result<u64> {
        key.try_into().map(u64::from_be_bytes).map_err(|_| {
            let what = format!("an index has {} bytes in place of 8", key.len());
            error::damaged(DATABASE, &self.directory, &what)
        })
    }

    /// Turns `ops` into one batch, or refuses them whole.
    fn plan(&self, ops: &[LogOp]) -> io::Result<Plan> {
        let (entries, facts) = (self.family(ENTRIES), self.family(META));
        let mut after = self.current();
        let mut during = after;
        let mut batch = WriteBatch::default();
        let mut purges = false;
        let mut value = Vec::new();
        for op in ops {
            match op {
                LogOp::Append { index, entry } => {
                    after.append(*index)?;
                    value.clear();
                    value.extend_from_slice(&checksum(*index, entry).to_be_bytes());
                    value.extend_from_slice(entry);
                    batch.put_cf(entries, index.to_be_bytes(), &value);
                }
                LogOp::TruncateFrom { from } => {
                    during.truncate_from(*from);
                    if let Some(gone) = after.truncate_from(*from) {
                        delete(&mut batch, entries, gone);
                    }
                }
                LogOp::PurgeTo { to } => {
                    during.purge_to(*to)?;
                    if let Some(gone) = after.purge_to(*to)? {
                        delete(&mut batch, entries, gone);
                        purges = true;
                    }
                    batch.put_cf(facts, FLOOR, after.floor.to_be_bytes());
                }
                LogOp::SetMeta { meta, value } => batch.put_cf(facts, meta.name(), value),
            }
        }
        during.shrinks = after.shrinks;
        Ok(Plan {
            batch,
            during,
            after,
            purges,
        })
    }

    /// Drops files that hold purged entries only, without waiting for a compaction. The log is
    /// purged seldom, and much at a time.
    fn drop_files_below(&self, floor: u64) -> io::Result<()> {
        let last = floor.saturating_sub(1);
        self.db
            .delete_file_in_range_cf(
                self.family(ENTRIES),
                0_u64.to_be_bytes(),
                last.to_be_bytes(),
            )
            .map_err(|error| error::write(DATABASE, &self.directory, &error))
    }

    /// The entry in a stored value.
    fn checked(&self, index: u64, value: &[u8]) -> io::Result<Bytes> {
        match value.split_first_chunk::<CHECKSUM_BYTES>() {
            Some((stored, entry)) if u32::from_be_bytes(*stored) == checksum(index, entry) => {
                Ok(Bytes::copy_from_slice(entry))
            }
            Some(_) | None => Err(error::damaged(
                DATABASE,
                &self.directory,
                &format!("entry {index} does not match its checksum"),
            )),
        }
    }

    /// Why a read found no entry at `index`: `None` when it was taken away meanwhile.
    fn absent(&self, index: u64, seen: Bounds) -> Option<io::Error> {
        let (first, last) = seen.held?;
        (self.current().shrinks == seen.shrinks).then(|| {
            let what = format!("entry {index} is missing, the log holds {first}..={last}");
            error::damaged(DATABASE, &self.directory, &what)
        })
    }
}

impl LogEngine for RocksLog {
    fn write(&self, ops: &[LogOp]) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.failed {
            return Err(io::Error::other(format!(
                "a write to the log database {} failed before: start this member again",
                self.directory.display()
            )));
        }
        let plan = self.plan(ops)?;
        if plan.batch.is_empty() {
            return Ok(());
        }
        // Shrunk before, grown after: a reader never looks for an entry that is not there.
        self.publish(plan.during);
        writer.failed = true;
        self.db
            .write_opt(plan.batch, &self.with_sync)
            .map_err(|error| error::write(DATABASE, &self.directory, &error))?;
        self.synced.set(self.db.latest_sequence_number())?;
        self.publish(plan.after);
        self.batches_synced.fetch_add(1, Ordering::Relaxed);
        if plan.purges {
            self.drop_files_below(plan.after.floor)?;
        }
        writer.failed = false;
        Ok(())
    }

    fn meta(&self, meta: LogMeta) -> io::Result<Option<Bytes>> {
        self.fact(meta.name().as_bytes(), meta.name())
    }

    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        // Read before the iterator is made: what shrinks between the two is seen in the count.
        let seen = self.current();
        let end = seen
            .held
            .map_or(0, |(_, last)| range.end.min(last.saturating_add(1)));
        if !seen.holds(range.start) || range.start >= end {
            return Ok(Vec::new());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.start.to_be_bytes());
        options.set_iterate_upper_bound(end.to_be_bytes());
        let mut entries = self.db.raw_iterator_cf_opt(self.family(ENTRIES), options);
        entries.seek_to_first();
        let mut found: Vec<(u64, Bytes)> = Vec::new();
        let mut bytes = 0;
        for index in range.start..end {
            let value = match entries.item() {
                Some((key, value)) if key == index.to_be_bytes() => value,
                Some(_) | None => {
                    entries.status().map_err(|error| {
                        let what = format!("entry {index}");
                        error::read(DATABASE, &self.directory, &what, &error)
                    })?;
                    match self.absent(index, seen) {
                        Some(error) => return Err(error),
                        None => break,
                    }
                }
            };
            let entry = self.checked(index, value)?;
            bytes += entry.len();
            if !found.is_empty() && bytes > max_bytes {
                break;
            }
            found.push((index, entry));
            entries.next();
        }
        Ok(found)
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        Ok(self.current().held)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        directory::size_bytes(&self.directory)
    }
}

/// Opens an existing database with all its column families.
fn open_database(directory: &Path, database: Options, options: &LogOptions) -> io::Result<DB> {
    let families = [
        (rocksdb::DEFAULT_COLUMN_FAMILY_NAME, LogOptions::small()),
        (ENTRIES, options.entries()),
        (META, LogOptions::small()),
    ];
    DB::open_cf_with_opts(&database, directory, families)
        .map_err(|error| error::open(DATABASE, directory, &error))
}

/// Makes an empty log.
fn make(directory: &Path, options: &LogOptions) -> io::Result<()> {
    let mut database = options.database();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    let db = open_database(directory, database, options)?;
    let meta = db
        .cf_handle(META)
        .expect("the column family was opened with the database");
    db.put_cf(meta, FORMAT, FORMAT_VERSION.to_be_bytes())
        .and_then(|()| db.flush_cf(meta))
        .map_err(|error| error::write(DATABASE, directory, &error))?;
    Synced::make(directory)
}

/// Deletes the entries `first..=last`.
fn delete(batch: &mut WriteBatch, entries: &ColumnFamily, (first, last): (u64, u64)) {
    if last - first < POINT_DELETES_MAX {
        for index in first..=last {
            batch.delete_cf(entries, index.to_be_bytes());
        }
    } else {
        // An index is never u64::MAX, see `Bounds::append`.
        batch.delete_range_cf(entries, first.to_be_bytes(), (last + 1).to_be_bytes());
    }
}

/// Checksum over what an entry is and where it belongs.
fn checksum(index: u64, entry: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&index.to_be_bytes());
    hasher.update(entry);
    hasher.finalize()
}
