//! What a master may be told, with the reasons for the defaults.

use std::time::Duration;

/// How a master decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Longest that a record waits for others to be written with it.
    pub linger_max: Duration,
    /// What it waits for each attempt of the job that runs: with few, few can join it.
    pub linger_per_attempt: Duration,
    /// Records in a batch, at most.
    pub batch_records_max: usize,
    /// An append whose outcome is not known is sent again after this.
    pub append_retry: Duration,
    /// A master that begins hears who is there, and what runs, before it assigns anything:
    /// workers follow the role, and report at once to whoever has it.
    pub settle: Duration,
    /// An assignment that its worker does not mention is sent again after this.
    pub assign_patience: Duration,
    /// A worker that says nothing for so long is given nothing, and what it ran runs elsewhere.
    pub silent_after: Duration,
    /// Without any worker for so long, as confirmed at its beginning and end, jobs fail.
    pub no_workers_grace: Duration,
    /// So long a task that failed goes to other workers, if there are any.
    pub avoid_for: Duration,
    /// Failures in a row after which a worker rests.
    pub rest_after: u32,
    /// How long it rests, twice as long each time; up to [`Settings::rest_max`].
    pub rest: Duration,
    /// The longest rest.
    pub rest_max: Duration,
    /// Share of a phase that is done before backup tasks begin, percent.
    pub backup_done_percent: u32,
    /// Runtime from which a task gets a backup, percent of the median.
    pub backup_runtime_percent: u32,
    /// The same, at least.
    pub backup_runtime_min: Duration,
    /// Backup tasks at a time, percent of all slots, at least one. Of the slots and not of what
    /// runs: at the end of a phase all that runs is slow, and a tenth of it would be nothing.
    pub backup_share_percent: u32,
    /// Reduces that must miss a map's output before it is made again, if so many run.
    pub fetch_reporters: usize,
    /// One that misses it for so long is enough.
    pub fetch_patience: Duration,
    /// A reduce that cannot reach more workers than this is itself what is cut off.
    pub fetch_accused_max: usize,
    /// Times that a map's output may be lost to fetching before its job fails.
    pub output_losses_max: u32,
    /// Share of the slots that reduces may have while maps are open, percent.
    pub early_reduce_percent: u32,
    /// How often everything is looked at that no event points to.
    pub housekeeping: Duration,
}

impl Default for Settings {
    /// Backups: 75 %, 1.5 times the median and 10 s, between Hadoop's and Spark's. Fetching: three
    /// reduces, as in Hadoop.
    fn default() -> Self {
        Self {
            linger_max: Duration::from_secs(1),
            linger_per_attempt: Duration::from_millis(1),
            batch_records_max: crate::limits::BATCH_RECORDS_MAX,
            append_retry: Duration::from_millis(500),
            settle: Duration::from_secs(2),
            assign_patience: Duration::from_secs(2),
            silent_after: Duration::from_secs(20),
            no_workers_grace: Duration::from_mins(1),
            avoid_for: Duration::from_secs(10),
            rest_after: 4,
            rest: Duration::from_secs(30),
            rest_max: Duration::from_mins(5),
            backup_done_percent: 75,
            backup_runtime_percent: 150,
            backup_runtime_min: Duration::from_secs(10),
            backup_share_percent: 10,
            fetch_reporters: 3,
            fetch_patience: Duration::from_secs(10),
            fetch_accused_max: 3,
            output_losses_max: 10,
            early_reduce_percent: 50,
            housekeeping: Duration::from_secs(1),
        }
    }
}
