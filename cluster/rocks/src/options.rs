//! How much memory and how many files the databases may use, and what that means for `RocksDB`.
//!
//! Both databases use the process's two shared background threads: one flushes, one compacts.
//! There is no compression: it is not compiled in, and values are small.

use rocksdb::{
    BlockBasedOptions, BlockBasedTablePinningTier, Cache, DBCompressionType, DBRecoveryMode,
    LogLevel, Options,
};

/// Bytes in a MiB.
const MIB: usize = 1 << 20;

/// Flushes and compactions at a time, over both databases: one thread for each kind.
const BACKGROUND_JOBS: i32 = 2;

/// Files of `RocksDB`'s own log to keep, and bytes in each.
const INFO_LOG_FILES: usize = 2;
const INFO_LOG_BYTES: usize = MIB;

/// Bytes a MANIFEST may grow to before it is written anew.
const MANIFEST_BYTES: usize = 4 * MIB;

/// Of this many neighbouring entries in a file ...
const DELETION_WINDOW: usize = 4096;
/// ... this many deletions make the file due for compaction, so that space comes back by itself.
const DELETION_TRIGGER: usize = 2048;
/// The same for the share of deletions in a whole file.
const DELETION_SHARE: f64 = 0.5;

/// How the log is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Make the log when it is not there. A member that has voted before must say no: an empty log
    /// in the place of a lost one could vote twice.
    pub create_if_missing: bool,
    /// Bytes of entries in memory before they are written out as a table; up to four times this is
    /// held while the disk is behind.
    pub memtable_bytes: usize,
    /// Bytes of write-ahead log to keep and to replay at the next start, at most (about). It fills
    /// up to this, since every batch may hold a fact that is not in a table yet.
    pub wal_bytes_max: u64,
    /// Bytes of table blocks cached; the newest entries are served from memory anyway.
    pub cache_bytes: usize,
    /// Files held open.
    pub open_files_max: u16,
}

impl LogOptions {
    /// What a server uses: 16 MiB of memtable, 32 MiB of write-ahead log, 8 MiB of cache.
    pub fn new(create_if_missing: bool) -> Self {
        Self {
            create_if_missing,
            memtable_bytes: 16 * MIB,
            wal_bytes_max: 32 * MIB as u64,
            cache_bytes: 8 * MIB,
            open_files_max: 128,
        }
    }

    pub(crate) fn database(&self) -> Options {
        let mut options = common(self.open_files_max);
        // Only a torn last record is forgiven: it was never acknowledged. The default would drop
        // acknowledged entries behind the first bad record and go on.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_total_wal_size(self.wal_bytes_max);
        // One thread writes.
        options.set_allow_concurrent_memtable_write(false);
        options.set_enable_write_thread_adaptive_yield(false);
        options
    }

    /// Options of the column family that holds entries.
    pub(crate) fn entries(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_size(16 << 10);
        table.set_block_cache(&Cache::new_lru_cache(self.cache_bytes));
        let mut options = Options::default();
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(self.memtable_bytes);
        options.set_max_write_buffer_number(4);
        options.set_target_file_size_base(self.memtable_bytes as u64);
        options.set_block_based_table_factory(&table);
        options
    }

    /// Options of a column family that holds a few small values.
    pub(crate) fn small() -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(64 << 10));
        let mut options = Options::default();
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(MIB);
        options.set_block_based_table_factory(&table);
        options
    }
}

/// How the state is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateOptions {
    /// Make an empty state when there is none.
    pub create_if_missing: bool,
    /// Bytes of changes in memory before they are written out; twice this is held while a flush
    /// runs.
    pub memtable_bytes: usize,
    /// Bytes of blocks, indexes and filters cached.
    pub cache_bytes: usize,
    /// Files held open.
    pub open_files_max: u16,
}

impl StateOptions {
    /// What a server uses: 32 MiB of memtable, twice, and 32 MiB of cache.
    pub fn new(create_if_missing: bool) -> Self {
        Self {
            create_if_missing,
            memtable_bytes: 32 * MIB,
            cache_bytes: 32 * MIB,
            open_files_max: 256,
        }
    }

    pub(crate) fn database(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_size(8 << 10);
        table.set_bloom_filter(10.0, false);
        table.set_optimize_filters_for_memory(true);
        table.set_block_cache(&Cache::new_lru_cache(self.cache_bytes));
        // Indexes and filters count against the cache, so that memory has one bound.
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_unpartitioned_pinning_tier(BlockBasedTablePinningTier::FlushAndSimilar);
        let mut options = common(self.open_files_max);
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(self.memtable_bytes);
        options.set_max_write_buffer_number(2);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_target_file_size_base(16 * MIB as u64);
        options.set_max_bytes_for_level_base(64 * MIB as u64);
        options.add_compact_on_deletion_collector_factory(
            DELETION_WINDOW,
            DELETION_TRIGGER,
            DELETION_SHARE,
        );
        options.set_block_based_table_factory(&table);
        options
    }
}

/// What both databases have in common.
fn common(open_files_max: u16) -> Options {
    let mut options = Options::default();
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_open_files(open_files_max.into());
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(INFO_LOG_FILES);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_max_manifest_file_size(MANIFEST_BYTES);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}
