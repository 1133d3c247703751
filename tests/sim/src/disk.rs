//! A member's log disk: what is synced, what is only written, and what a crash leaves of it.
//!
//! ```text
//!  queued ─► written (page cache) ─► synced ─► acknowledged
//!     lost by a kill    lost by a loss of power, in part
//! ```
//!
//! A batch is one record of a write-ahead log: it is there or it is not. A loss of power keeps what
//! was synced and any number of the first batches behind it; the last of them may be torn, which
//! the log's recovery treats as not written.
//!
//! Readers see a batch when its sync is over, as a database shows it.

use std::io;
use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;
use cluster::proto;
use cluster::types::{LogId, decode, entry_from, log_id_from};
use cluster_core::log::{LogEngine, LogMeta, LogOp, MemoryLog};

use crate::rng::Rng;
use crate::runtime::lock;

/// Where in a write a crash may strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing of the batch has left the process.
    Queued,
    /// It is in the page cache.
    Written,
    /// Its sync runs.
    Syncing,
    /// It is synced, nobody knows yet.
    Synced,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Written, Self::Syncing, Self::Synced];
}

/// What ends a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process alone: what it wrote stays.
    Kill,
    /// The machine: what was not synced may be gone.
    Power,
}

/// A log disk; it outlives the process.
#[derive(Default)]
pub struct SimDisk {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What a reader sees.
    shown: Image,
    /// What survives a loss of power.
    synced: Image,
    /// Written behind it, oldest first.
    written: Vec<Vec<LogOp>>,
    /// The first of these that readers do not see.
    unseen: usize,
}

/// A log at one moment.
#[derive(Default)]
pub struct Image(MemoryLog);

impl Image {
    fn apply(&self, ops: &[LogOp]) -> io::Result<()> {
        self.0.write(ops)
    }

    fn copy(&self) -> io::Result<Self> {
        let copy = Self::default();
        let mut ops = Vec::new();
        if let Some((first, last)) = self.0.bounds()? {
            for (index, entry) in self.0.entries(first..last + 1, usize::MAX)? {
                ops.push(LogOp::Append { index, entry });
            }
        }
        for meta in LogMeta::ALL {
            if let Some(value) = self.0.meta(meta)? {
                ops.push(LogOp::SetMeta { meta, value });
            }
        }
        copy.apply(&ops)?;
        Ok(copy)
    }
}

impl SimDisk {
    /// Writes a batch to the page cache.
    pub fn write(&self, ops: Vec<LogOp>) {
        lock(&self.state).written.push(ops);
    }

    /// Shows everything written to readers.
    pub fn show(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        for batch in state.written.iter().skip(state.unseen) {
            state.shown.apply(batch)?;
        }
        state.unseen = state.written.len();
        Ok(())
    }

    /// Makes everything written durable, and shows it.
    pub fn sync(&self) -> io::Result<()> {
        self.show()?;
        let mut state = lock(&self.state);
        state.unseen = 0;
        for batch in std::mem::take(&mut state.written) {
            state.synced.apply(&batch)?;
        }
        Ok(())
    }

    /// What a crash leaves; nothing may be written before [`SimDisk::sync`] or a read shows it.
    /// Returns how many batches were lost.
    pub fn crash(&self, crash: Crash, rng: &mut Rng) -> io::Result<usize> {
        let mut state = lock(&self.state);
        let written = std::mem::take(&mut state.written);
        state.unseen = 0;
        let kept = match crash {
            Crash::Kill => written.len(),
            Crash::Power => rng.index(written.len() + 1),
        };
        for batch in &written[..kept] {
            state.synced.apply(batch)?;
        }
        // Opening the database writes out what it recovered.
        state.shown = state.synced.copy()?;
        Ok(written.len() - kept)
    }

    /// Whether an entry is synced, or was and is purged.
    pub fn holds(&self, log_id: LogId) -> io::Result<bool> {
        let state = lock(&self.state);
        let log = &state.synced.0;
        if let Some(purged) = log.meta(LogMeta::Purged)?
            && log_id_from(&decode::<proto::LogId>("purged", purged)?)? >= log_id
        {
            return Ok(true);
        }
        let index = log_id.index();
        let Some((_, entry)) = log.entries(index..index + 1, usize::MAX)?.pop() else {
            return Ok(false);
        };
        let entry = entry_from(decode::<proto::Entry>("log entry", entry)?)?;
        Ok(entry.log_id == log_id)
    }

    /// A copy of what is synced: an image of the disk.
    pub fn image(&self) -> io::Result<Image> {
        lock(&self.state).synced.copy()
    }

    /// Puts an image in place of everything.
    pub fn restore(&self, image: &Image) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.written.clear();
        state.unseen = 0;
        state.shown = image.copy()?;
        state.synced = image.copy()?;
        Ok(())
    }
}

impl LogEngine for SimDisk {
    /// Writes and syncs at once.
    fn write(&self, ops: &[LogOp]) -> io::Result<()> {
        Self::write(self, ops.to_vec());
        self.sync()
    }

    fn meta(&self, meta: LogMeta) -> io::Result<Option<Bytes>> {
        lock(&self.state).shown.0.meta(meta)
    }

    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        lock(&self.state).shown.0.entries(range, max_bytes)
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        lock(&self.state).shown.0.bounds()
    }

    fn size_bytes(&self) -> io::Result<u64> {
        lock(&self.state).shown.0.size_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(index: u64) -> Vec<LogOp> {
        vec![LogOp::Append {
            index,
            entry: Bytes::from(index.to_string()),
        }]
    }

    fn last(disk: &SimDisk) -> u64 {
        disk.bounds().expect("memory").map_or(0, |(_, last)| last)
    }

    #[test]
    fn what_is_synced_survives_everything() {
        for seed in 0..20 {
            let disk = SimDisk::default();
            disk.write(append(1));
            disk.sync().expect("memory");
            disk.write(append(2));
            disk.crash(Crash::Power, &mut Rng::new(seed))
                .expect("memory");
            assert!((1..=2).contains(&last(&disk)));
        }
    }

    #[test]
    fn kill_keeps_what_was_written_and_power_loses_a_suffix() {
        let mut kept = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let disk = SimDisk::default();
            for index in 1..=3 {
                disk.write(append(index));
            }
            let lost = disk
                .crash(Crash::Power, &mut Rng::new(seed))
                .expect("memory");
            assert_eq!(last(&disk), 3 - lost as u64);
            kept.insert(last(&disk));
        }
        assert_eq!(kept, (0..=3).collect());
        let disk = SimDisk::default();
        disk.write(append(1));
        assert_eq!(last(&disk), 0, "a write shows when it is synced");
        disk.crash(Crash::Kill, &mut Rng::new(0)).expect("memory");
        assert_eq!(last(&disk), 1);
    }

    #[test]
    fn image_put_back_is_the_disk_of_then() {
        let disk = SimDisk::default();
        LogEngine::write(&disk, &append(1)).expect("memory");
        let image = disk.image().expect("memory");
        LogEngine::write(&disk, &append(2)).expect("memory");
        disk.restore(&image).expect("memory");
        assert_eq!(last(&disk), 1);
    }
}
