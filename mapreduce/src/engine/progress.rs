//! How far a task is, for those who look on, and whether it is still wanted: both go through here
//! wherever a task may take long.
//!
//! A task is alive when any of its numbers moves. Octets and records of its input do while it maps;
//! while runs are merged, and within the values of one key, only the records that pass do.

use mapreduce_data::RunError;
use mapreduce_data::merge::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Records that pass between two looks at whether the task goes on: of the longest ones, 4 GiB.
const LOOK_EVERY: u64 = 64;

/// How far a task is. Its thread alone writes it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Octets of input.
    pub(crate) octets: AtomicU64,
    /// Records of input; keys, of a reduce.
    pub(crate) records: AtomicU64,
    /// Records that were merged, folded or given out as values.
    pub(crate) passed: AtomicU64,
    /// The job's code has a record or a key, and the engine does nothing for it just now.
    pub(crate) is_in_code: AtomicBool,
    /// Octets of input of all tasks of the phase.
    pub(crate) all: Arc<AtomicU64>,
    /// Nobody wants it any more.
    pub(crate) ended: Arc<AtomicBool>,
}

impl Progress {
    pub(crate) fn is_at(&self, octets: u64) {
        let before = self.octets.swap(octets, Ordering::Relaxed);
        let more = octets.saturating_sub(before);
        self.all.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// What the engine does, perhaps for the job's code that waits for it.
    pub(crate) fn in_engine<T>(&self, work: impl FnOnce() -> T) -> T {
        let was_in_code = self.is_in_code.load(Ordering::Relaxed);
        self.is_in_code.store(false, Ordering::Relaxed);
        let done = work();
        self.is_in_code.store(was_in_code, Ordering::Relaxed);
        done
    }

    /// One more record has passed: an error when nobody wants it.
    fn passes(&self) -> Result<(), RunError> {
        let passed = self.passed.load(Ordering::Relaxed) + 1;
        self.passed.store(passed, Ordering::Relaxed);
        if passed.is_multiple_of(LOOK_EVERY) && self.has_ended() {
            return Err(RunError::Ended);
        }
        Ok(())
    }
}

/// A cursor whose records are counted, until nobody wants them any more.
#[derive(Debug)]
pub(crate) struct Counted<C> {
    cursor: C,
    progress: Arc<Progress>,
}

impl<C> Counted<C> {
    pub(crate) fn new(cursor: C, progress: &Arc<Progress>) -> Self {
        let progress = Arc::clone(progress);
        Self { cursor, progress }
    }
}

impl<C: Cursor> Cursor for Counted<C> {
    fn advance(&mut self) -> Result<bool, RunError> {
        self.progress.passes()?;
        self.cursor.advance()
    }

    fn key(&self) -> &[u8] {
        self.cursor.key()
    }

    fn value(&self) -> &[u8] {
        self.cursor.value()
    }
}
