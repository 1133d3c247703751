//! Keeps the log and the kept snapshot small by their bytes. openraft counts entries: a hundred
//! thousand of them are 40 MB, or 150 GB. And a snapshot shares its files with the database until
//! that has rewritten them; from then on it holds them alone.

use std::io;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::member::Member;

/// Pause between two looks; what is written meanwhile is on top of the bound.
const LOOK: Duration = Duration::from_secs(1);

/// What there is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// Entries in the log.
    log: u64,
    /// Those of them that no snapshot covers.
    uncovered: u64,
    /// Files that only the kept snapshot holds.
    outdated: u64,
    /// The database.
    state: u64,
    /// Something was applied after the kept snapshot.
    is_news: bool,
    /// Up to where the log may be purged, when that is further than it is.
    purge_to: Option<u64>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    /// A snapshot of now takes the place of the kept one.
    Snapshot,
    /// Entries up to this index leave the log.
    Purge(u64),
}

impl Held {
    /// There is a snapshot after `limit` bytes of entries, and the newest half of that stays in the
    /// log for members that lag. A large database may have a quarter of itself outdated: it
    /// rewrites its files all the time.
    fn step(self, limit: u64) -> Step {
        match self.purge_to {
            Some(upto) if self.log > limit => Step::Purge(upto),
            _ if !self.is_news => Step::Nothing,
            _ if self.uncovered >= limit => Step::Snapshot,
            _ if self.outdated >= limit.max(self.state / 4) => Step::Snapshot,
            _ => Step::Nothing,
        }
    }
}

impl Member {
    fn held(&self, limit: u64) -> io::Result<Held> {
        let (log, store) = (&self.inner.log, &self.inner.store);
        let (snapshot, applied) = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.snapshot, metrics.last_applied)
        };
        let purged = log.purged().map_or(0, |id| id.index());
        let covered = snapshot.map_or(0, |id| id.index());
        let upto = log.index_before(limit / 2).min(covered);
        Ok(Held {
            log: log.bytes_after(purged),
            uncovered: log.bytes_after(covered),
            outdated: store.outdated_bytes()?,
            state: store.engine().size_bytes()?,
            is_news: applied > snapshot,
            purge_to: (upto > purged).then_some(upto),
        })
    }

    /// Bounds them for as long as the member runs.
    pub(crate) async fn run_log_upkeep(self, limit: u64) {
        let mut tick = tokio::time::interval(LOOK);
        loop {
            tick.tick().await;
            let step = match self.held(limit) {
                Ok(held) => held.step(limit),
                Err(error) => {
                    tracing::warn!(%error, "the sizes of log and snapshot cannot be read");
                    continue;
                }
            };
            let trigger = self.inner.raft.trigger();
            let done = match step {
                Step::Nothing => Ok(()),
                Step::Snapshot => trigger.snapshot().await,
                Step::Purge(upto) => trigger.purge_log(upto).await,
            };
            if done.is_err() {
                // Raft has stopped, and said why.
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Held = Held {
        log: 99,
        uncovered: 99,
        outdated: 99,
        state: 300,
        is_news: true,
        purge_to: Some(7),
    };

    #[test]
    fn what_is_within_the_bound_stays() {
        assert_eq!(SMALL.step(100), Step::Nothing);
    }

    #[test]
    fn long_log_is_purged_as_far_as_a_snapshot_goes_and_then_there_is_another() {
        let long = Held { log: 101, ..SMALL };
        assert_eq!(long.step(100), Step::Purge(7));
        let uncovered = Held {
            uncovered: 100,
            purge_to: None,
            ..long
        };
        assert_eq!(uncovered.step(100), Step::Snapshot);
        let nothing_new = Held {
            is_news: false,
            ..uncovered
        };
        assert_eq!(nothing_new.step(100), Step::Nothing);
    }

    #[test]
    fn snapshot_is_replaced_when_it_holds_much_that_the_database_does_not() {
        let outdated = Held {
            outdated: 100,
            ..SMALL
        };
        assert_eq!(outdated.step(100), Step::Snapshot);
        let large = Held {
            state: 1_000,
            ..outdated
        };
        assert_eq!(large.step(100), Step::Nothing);
    }
}
