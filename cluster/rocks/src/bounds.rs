//! Which indexes the log holds, known without asking the disk.
//!
//! Why in memory: a purged log begins with range tombstones, and a seek to its first key would
//! crawl over them.
//!
//! Invariants
//! - the held indexes have no hole; the first is at or above `floor`;
//! - `floor` never decreases: it is one more than the last index that was ever purged.

use std::io;

/// First and last index held and the floor below which nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bounds {
    /// One more than the last purged index.
    pub(crate) floor: u64,
    /// First and last index held.
    pub(crate) held: Option<(u64, u64)>,
    /// Count of changes that took entries away since the log was opened.
    pub(crate) shrinks: u64,
}

impl Bounds {
    /// Whether an entry at `index` is held.
    pub(crate) fn holds(&self, index: u64) -> bool {
        self.held
            .is_some_and(|(first, last)| (first..=last).contains(&index))
    }

    /// Adds or replaces the entry at `index`.
    pub(crate) fn append(&mut self, index: u64) -> io::Result<()> {
        if index == u64::MAX {
            return Err(refused(format!(
                "log index {index} is above the limit {}",
                u64::MAX - 1
            )));
        }
        if index < self.floor {
            return Err(refused(format!(
                "log index {index} was purged: the log begins at {}",
                self.floor
            )));
        }
        match &mut self.held {
            None => self.held = Some((index, index)),
            Some((first, last)) if index < *first || index > *last + 1 => {
                return Err(refused(format!(
                    "log index {index} would leave a hole: the log holds {first}..={last}"
                )));
            }
            Some((_, last)) => *last = index.max(*last),
        }
        Ok(())
    }

    /// Takes away everything from `from` on; returns the indexes that go, first and last.
    pub(crate) fn truncate_from(&mut self, from: u64) -> Option<(u64, u64)> {
        let (first, last) = self.held?;
        if from > last {
            return None;
        }
        self.shrinks += 1;
        self.held = (from > first).then(|| (first, from - 1));
        Some((from.max(first), last))
    }

    /// Takes away everything up to `to`; returns the indexes that go, first and last.
    pub(crate) fn purge_to(&mut self, to: u64) -> io::Result<Option<(u64, u64)>> {
        let Some(floor) = to.checked_add(1) else {
            return Err(refused(format!(
                "purge to log index {to} is above the limit {}",
                u64::MAX - 1
            )));
        };
        self.floor = self.floor.max(floor);
        let Some((first, last)) = self.held else {
            return Ok(None);
        };
        if to < first {
            return Ok(None);
        }
        self.shrinks += 1;
        self.held = (to < last).then_some((to + 1, last));
        Ok(Some((first, to.min(last))))
    }
}

fn refused(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(first: u64, last: u64) -> Bounds {
        Bounds {
            floor: first,
            held: Some((first, last)),
            shrinks: 0,
        }
    }

    #[test]
    fn append_after_a_gap_is_refused() {
        let mut bounds = holding(3, 5);
        assert!(bounds.append(6).is_ok());
        let error = bounds.append(8).expect_err("7 is missing");
        assert_eq!(
            error.to_string(),
            "log index 8 would leave a hole: the log holds 3..=6"
        );
        assert_eq!(bounds.held, Some((3, 6)));
    }

    #[test]
    fn append_below_the_floor_is_refused_when_empty_too() {
        let mut bounds = holding(3, 5);
        assert_eq!(bounds.purge_to(9).ok(), Some(Some((3, 5))));
        assert_eq!(bounds.held, None);
        assert!(bounds.append(9).is_err());
        assert!(bounds.append(10).is_ok());
    }

    #[test]
    fn truncate_and_purge_say_what_goes() {
        let mut bounds = holding(3, 9);
        assert_eq!(bounds.truncate_from(10), None);
        assert_eq!(bounds.truncate_from(8), Some((8, 9)));
        assert_eq!(bounds.purge_to(4).ok(), Some(Some((3, 4))));
        assert_eq!(bounds.purge_to(2).ok(), Some(None));
        assert_eq!((bounds.held, bounds.floor), (Some((5, 7)), 5));
        assert_eq!(bounds.truncate_from(1), Some((5, 7)));
        assert_eq!((bounds.held, bounds.shrinks), (None, 3));
    }

    #[test]
    fn the_greatest_index_is_refused_and_not_wrapped() {
        let mut bounds = Bounds::default();
        assert!(bounds.append(u64::MAX).is_err());
        assert!(bounds.purge_to(u64::MAX).is_err());
        assert_eq!(bounds, Bounds::default());
    }
}
