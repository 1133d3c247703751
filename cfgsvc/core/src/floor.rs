//! Which revisions of the past can be read: not those that are compacted, and not those that are
//! lost.
//!
//! ```text
//!   compacted           lost_after              lost_until            revision
//!  ─────────┼────────────────┤ given, if at all, by ├─────────────────────┤
//!   refused      readable      a group that is gone      readable
//! ```
//!
//! A group that is filled from a snapshot, or recovered from one member, leaves revisions out: the
//! group before it may have given them to changes that are lost. An epoch is a revision, so none
//! may be given twice; and whoever saw a lost one must not be told that nothing has changed since.

use cfgsvc_proto::state::MachineRecord;

/// What of the past cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Floor {
    /// The oldest revision that can be read.
    pub compacted: i64,
    /// The last revision before those that are lost.
    pub lost_after: i64,
    /// The first revision after those that are lost; 0 when none are.
    pub lost_until: i64,
}

impl Floor {
    /// What the counters say.
    pub fn of(record: &MachineRecord) -> Self {
        Self {
            compacted: record.compacted_revision,
            lost_after: record.lost_after,
            lost_until: record.lost_until,
        }
    }

    /// Whether the state at `revision` can be read; the error is the first later one that can.
    pub fn read(self, revision: i64) -> Result<(), i64> {
        self.from(revision, self.lost_after)
    }

    /// Whether the changes from revision `from` on are known, for one who knows all before; the
    /// error is the first later one from which they are.
    pub fn watch(self, from: i64) -> Result<(), i64> {
        // Who knows all up to `lost_after` has seen nothing that is lost.
        self.from(from, self.lost_after + 1)
    }

    fn from(self, revision: i64, lost_after: i64) -> Result<(), i64> {
        let mut first = revision.max(self.compacted);
        if first > lost_after && first < self.lost_until {
            first = self.lost_until;
        }
        if first == revision {
            Ok(())
        } else {
            Err(first)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compacted_and_lost_revisions_are_refused_with_the_next_that_can_be_read() {
        let floor = Floor {
            compacted: 3,
            lost_after: 8,
            lost_until: 100,
        };
        let cases = [
            (2, Err(3), Err(3)),
            (3, Ok(()), Ok(())),
            (8, Ok(()), Ok(())),
            (9, Err(100), Ok(())),
            (10, Err(100), Err(100)),
            (99, Err(100), Err(100)),
            (100, Ok(()), Ok(())),
            (101, Ok(()), Ok(())),
        ];
        for (revision, read, watch) in cases {
            assert_eq!(floor.read(revision), read, "state at {revision}");
            assert_eq!(floor.watch(revision), watch, "changes from {revision}");
        }
    }

    #[test]
    fn compacted_into_or_beyond_what_is_lost() {
        let floor = |compacted| Floor {
            compacted,
            lost_after: 8,
            lost_until: 100,
        };
        assert_eq!(floor(50).read(4), Err(100));
        assert_eq!(floor(50).watch(50), Err(100));
        assert_eq!(floor(200).read(150), Err(200));
        assert_eq!(floor(200).read(200), Ok(()));
    }

    #[test]
    fn nothing_is_lost_in_a_group_of_its_own() {
        assert_eq!(Floor::default().read(1), Ok(()));
        assert_eq!(Floor::default().watch(0), Ok(()));
    }
}
