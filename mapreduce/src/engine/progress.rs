//! How far a task is, for those who look on, and whether it is still wanted: both go through here
//! wherever a task may take long.
//!
//! A task is alive when any of its numbers moves. Octets and records of its input do while it maps;
//! while runs are merged, and within the values of one key, only the records that pass do.

use mapreduce_core::record::bounded;
use mapreduce_data::RunError;
use mapreduce_data::merge::Cursor;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Octets of what code says of its task.
pub(crate) const STATUS_MAX: usize = 200;
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
    /// What its code says of it, for people: see [`Self::says`].
    pub(crate) status: Mutex<String>,
}

impl Progress {
    pub(crate) fn is_at(&self, octets: u64) {
        let before = self.octets.swap(octets, Ordering::Relaxed);
        let more = octets.saturating_sub(before);
        self.all.fetch_add(more, Ordering::Relaxed);
    }

    /// The job's code says how it stands: it lives.
    pub(crate) fn says(&self, status: &str) {
        let mut said = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        said.clear();
        said.push_str(bounded(status, STATUS_MAX));
        drop(said);
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// What it has said last.
    pub(crate) fn status(&self) -> String {
        let said = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
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
