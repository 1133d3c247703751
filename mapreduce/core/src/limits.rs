//! Every bound of this crate, with the arithmetic behind it. What comes from a worker, a user or
//! the group is measured against these before it is believed.

/// Map and reduce tasks of a job together. Each costs the group about 100 B; 250,000 of them 25 MB.
pub const TASKS_MAX: u32 = 250_000;
/// Bytes of a value in the group, as this crate writes them; the group takes 1 MiB and more.
pub const VALUE_BYTES_MAX: usize = 512 * 1024;
/// Bytes of a value that is read: what any version of this crate may have written.
pub const VALUE_READ_BYTES_MAX: usize = 1024 * 1024;
/// Records in one batch: [`VALUE_BYTES_MAX`] holds them at 100 B each ten times over.
pub const BATCH_RECORDS_MAX: usize = 500;
/// Records in a batch that is read.
pub const BATCH_RECORDS_READ_MAX: usize = 4 * BATCH_RECORDS_MAX;
/// Output files of one attempt: the main one and side files.
pub const OUTPUTS_MAX: usize = 16;
/// Bytes in the name of a side file, as file systems have it.
pub const OUTPUT_NAME_BYTES_MAX: usize = 255;
/// Counters of a job's own code, for each attempt. Hadoop's cap is 120 for a job.
pub const COUNTERS_MAX: usize = 64;
/// Bytes in the name of a counter.
pub const COUNTER_NAME_BYTES_MAX: usize = 128;
/// Bytes of an error message in the group; the whole text is in the attempt's log.
pub const MESSAGE_BYTES_MAX: usize = 512;
/// Bytes in the name of a worker, host or zone: that of a DNS name.
pub const NAME_BYTES_MAX: usize = 253;
/// Bytes in the address of a file.
pub const URI_BYTES_MAX: usize = 2_048;
/// Hosts that are remembered for a file: replicas of a block in HDFS are three.
pub const HOSTS_MAX: usize = 8;
/// Bytes of what an object store calls a version of an object.
pub const VERSION_BYTES_MAX: usize = 256;
/// Attempts that may fail before a job does, at most.
pub const ATTEMPTS_MAX: u32 = 100;
/// Bad records that a job may skip, at most: each is a record of the log.
pub const SKIPPED_MAX: u32 = 10_000;
/// Bytes of the JSON of a job.
pub const SPEC_BYTES_MAX: usize = 256 * 1024;
/// Words on a command line of a job.
pub const ARGUMENTS_MAX: usize = 256;
/// Slots of a worker.
pub const SLOTS_MAX: u32 = 4_096;
/// Workers that a master knows.
pub const WORKERS_MAX: usize = 20_000;
/// Jobs that run at a time.
pub const JOBS_MAX: usize = 1_000;
/// Entries of one list in a report of a worker: its slots, and finished attempts that wait.
pub const REPORT_ENTRIES_MAX: usize = 16_384;
/// Locations in one answer: at 50 B each 200 KiB. In tests fewer, so that jobs have several.
pub const LOCATIONS_MAX: usize = if cfg!(test) { 8 } else { 4_096 };
