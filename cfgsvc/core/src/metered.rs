//! A view that counts what is read from it, and shows nothing more once that is too much.
//!
//! Why: every member does the reads of a transaction when it applies it. A request of a few
//! kilobytes can name a range thousands of times over, so the time must be bounded as the memory
//! is; and in records, which are the same on every member, not in seconds.
//!
//! Invariant: whether the limit is exceeded depends on the store and the reads alone. What was read
//! when it is exceeded is not the truth, and the caller must throw it away.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::state::Refusal;
use cluster_core::store::{Direction, KeyRange, View, Visit};

use crate::refusal::{Code, refuse};

/// Counts the records read from a view.
pub(crate) struct Metered<'a> {
    view: &'a dyn View,
    limit: u64,
    read: Cell<u64>,
}

impl<'a> Metered<'a> {
    /// Nothing is read yet; at most `limit` records may be.
    pub(crate) fn new(view: &'a dyn View, limit: u64) -> Self {
        Self {
            view,
            limit,
            read: Cell::new(0),
        }
    }

    /// Refuses what has read more than the limit.
    pub(crate) fn verdict(&self) -> Result<(), Refusal> {
        if self.read.get() <= self.limit {
            return Ok(());
        }
        let detail = format!(
            "it reads more than {} records, the most for a request that may write; read by itself \
             what is large",
            self.limit
        );
        Err(refuse(Code::RequestTooLarge, detail))
    }

    /// Counts one record; whether it may be shown.
    fn count(&self) -> bool {
        let read = self.read.get().saturating_add(1);
        self.read.set(read);
        read <= self.limit
    }
}

impl View for Metered<'_> {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        if self.count() {
            self.view.get(key)
        } else {
            Ok(None)
        }
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> io::Result<()> {
        if self.verdict().is_err() {
            return Ok(());
        }
        self.view.scan(range, direction, &mut |key, value| {
            if self.count() {
                visit(key, value)
            } else {
                ControlFlow::Break(())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn scanned(view: &dyn View) -> usize {
        let mut visited = 0;
        let range = KeyRange::from(Bytes::new());
        view.scan(&range, Direction::Ascending, &mut |_, _| {
            visited += 1;
            ControlFlow::Continue(())
        })
        .expect("memory does not fail");
        visited
    }

    #[test]
    fn reads_up_to_the_limit_are_shown_and_no_more() {
        let base: BTreeMap<Bytes, Bytes> = (0..5u8)
            .map(|number| (vec![number].into(), Bytes::new()))
            .collect();
        let metered = Metered::new(&base, 11);
        assert_eq!((scanned(&metered), scanned(&metered)), (5, 5));
        assert_eq!(metered.get(&[1]).expect("memory"), Some(Bytes::new()));
        assert_eq!(metered.verdict(), Ok(()));
        assert_eq!(metered.get(&[1]).expect("memory"), None);
        assert_eq!(scanned(&metered), 0);
        let refusal = metered.verdict().expect_err("12 records are over 11");
        assert_eq!(refusal.code(), Code::RequestTooLarge);

        let metered = Metered::new(&base, 3);
        assert_eq!(scanned(&metered), 3);
        metered.verdict().expect_err("a scan went on");
    }
}
