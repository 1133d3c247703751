//! When each lease ends, as the leader counts it.
//!
//! Why soft state: a renewal costs no log entry. The leader alone counts; a new one gives every
//! lease its whole time again from the moment it took over, so that a lease can live too long but
//! never too short.
//!
//! Invariants
//! - a lease is due no earlier than its TTL after the last of: its grant became known here, the
//!   leader took over, its renewal was confirmed.
//! - a lease whose end was proposed is not renewed until the outcome of every proposal is known.
//! - a lease that is closing is not renewed: a hand-over takes no longer than its time.
//! - `by_deadline` holds exactly the leases that are counted: while leading, all that are not
//!   ending.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Known;
use crate::clock::Moment;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// This member does not lead.
    Idle,
    /// Ends at this moment unless renewed.
    Until(Moment),
    /// Its end was proposed.
    Ending,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: Duration,
    /// Its holder is asked to stop: it is not renewed.
    closing: bool,
    count: Count,
}

/// The proposals to end some leases in one term. One whose outcome is not known may be executed
/// later, whatever becomes of those that follow, until one of these is: the log keeps their order.
#[derive(Debug, Default)]
pub struct Attempts {
    unknown: bool,
}

impl Attempts {
    /// Takes the outcome of the newest: the error says whether it is certain that it was not and
    /// will not be executed. Returns whether it is known what became of all of them.
    pub fn settled(&mut self, outcome: Result<(), bool>) -> bool {
        self.unknown = match outcome {
            Ok(()) => false,
            Err(not_executed) => self.unknown || !not_executed,
        };
        !self.unknown
    }
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It has its whole time again: this much.
    Renewed(Duration),
    /// Its holder is asked to stop: it has the time that is left.
    Closing,
    /// There is no such lease.
    Gone,
    /// Its end was proposed; whether it lives will be known soon.
    Ending,
    /// This member does not lead in that term.
    NotLeading,
}

/// What is left of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// For how long it was granted.
    pub granted: Duration,
    /// Time until it ends; zero when it is ending.
    pub remaining: Duration,
}

/// All leases of the group, and while this member leads, their deadlines.
#[derive(Debug, Default)]
pub struct LeaseBook {
    leases: BTreeMap<i64, Lease>,
    by_deadline: BTreeSet<(Moment, i64)>,
    leading: Option<u64>,
}

impl LeaseBook {
    /// Replaces all leases by `leases`: at start, after a snapshot. Ends leading.
    pub fn load(&mut self, leases: impl IntoIterator<Item = Known>) {
        self.follow();
        let idle = |known: Known| Lease {
            ttl: known.ttl,
            closing: known.closing,
            count: Count::Idle,
        };
        self.leases = leases
            .into_iter()
            .map(|known| (known.id, idle(known)))
            .collect();
    }

    /// A lease was granted, for `ttl`.
    pub fn granted(&mut self, now: Moment, id: i64, ttl: Duration) {
        self.gone(id);
        self.leases.insert(
            id,
            Lease {
                ttl,
                closing: false,
                count: Count::Idle,
            },
        );
        if self.leading.is_some() {
            self.count_from(now, id);
        }
    }

    /// Whether a lease is renewed has changed.
    pub fn closing(&mut self, id: i64, closing: bool) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.closing = closing;
        }
    }

    /// A lease was revoked or has expired.
    pub fn gone(&mut self, id: i64) {
        if let Some(Lease {
            count: Count::Until(deadline),
            ..
        }) = self.leases.remove(&id)
        {
            self.by_deadline.remove(&(deadline, id));
        }
    }

    /// Starts to count in `term`: every lease has its whole time from `now`. All leases of the
    /// state at the start of the term must be known.
    pub fn lead(&mut self, now: Moment, term: u64) {
        self.follow();
        self.leading = Some(term);
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        for id in ids {
            self.count_from(now, id);
        }
    }

    /// Stops to count.
    pub fn follow(&mut self) {
        self.leading = None;
        self.by_deadline.clear();
        for lease in self.leases.values_mut() {
            lease.count = Count::Idle;
        }
    }

    /// The term in which this member counts.
    pub fn leading(&self) -> Option<u64> {
        self.leading
    }

    /// Notes a renewal that was confirmed by a quorum in `term`, with a check that ended at `now`.
    pub fn renewed(&mut self, now: Moment, term: u64, id: i64) -> Renewal {
        if self.leading != Some(term) {
            return Renewal::NotLeading;
        }
        match self.leases.get(&id) {
            None => Renewal::Gone,
            Some(Lease {
                count: Count::Ending,
                ..
            }) => Renewal::Ending,
            Some(Lease { closing: true, .. }) => Renewal::Closing,
            Some(Lease { ttl, .. }) => {
                let ttl = *ttl;
                self.count_from(now, id);
                Renewal::Renewed(ttl)
            }
        }
    }

    /// The leases whose time is over, at most `limit` and not taken before: their end is to be
    /// proposed in the returned term.
    pub fn take_due(&mut self, now: Moment, limit: usize) -> Option<(u64, Vec<i64>)> {
        let term = self.leading?;
        let due: Vec<(Moment, i64)> = self
            .by_deadline
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .take(limit)
            .copied()
            .collect();
        for (deadline, id) in &due {
            self.by_deadline.remove(&(*deadline, *id));
            if let Some(lease) = self.leases.get_mut(id) {
                lease.count = Count::Ending;
            }
        }
        (!due.is_empty()).then(|| (term, due.into_iter().map(|(_, id)| id).collect()))
    }

    /// The proposal to end `ids` in `term` has had its effect or none: those that are still there
    /// are due again, and may be renewed before. Returns how many.
    pub fn not_ended(&mut self, now: Moment, term: u64, ids: &[i64]) -> usize {
        if self.leading != Some(term) {
            return 0;
        }
        let mut left = 0;
        for id in ids {
            if let Some(lease) = self.leases.get_mut(id)
                && lease.count == Count::Ending
            {
                lease.count = Count::Until(now);
                self.by_deadline.insert((now, *id));
                left += 1;
            }
        }
        left
    }

    /// When the next lease is due.
    pub fn next_due(&self) -> Option<Moment> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// What is left of a lease; `None` when there is none.
    pub fn remaining(&self, now: Moment, id: i64) -> Option<Remaining> {
        let lease = self.leases.get(&id)?;
        let remaining = match lease.count {
            Count::Idle => lease.ttl,
            Count::Until(deadline) => deadline.since(now),
            Count::Ending => Duration::ZERO,
        };
        Some(Remaining {
            granted: lease.ttl,
            remaining,
        })
    }

    /// Count of leases.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    fn count_from(&mut self, now: Moment, id: i64) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        if let Count::Until(deadline) = lease.count {
            self.by_deadline.remove(&(deadline, id));
        }
        let deadline = now.plus(lease.ttl);
        lease.count = Count::Until(deadline);
        self.by_deadline.insert((deadline, id));
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
