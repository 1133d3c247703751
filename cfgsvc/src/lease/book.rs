//! When each lease ends, as the leader counts it.
//!
//! Why soft state: a renewal costs no log entry. The leader alone counts; a new one gives every
//! lease its whole time again from the moment it took over, so that a lease can live too long but
//! never too short.
//!
//! Invariants
//! - a lease is due no earlier than its TTL after the last of: its grant became known here, the
//!   leader took over, its renewal was confirmed.
//! - a lease whose end was proposed is not renewed until the outcome is known.
//! - `by_deadline` holds exactly the leases that are counted: while leading, all that are not
//!   ending.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

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
    ttl_s: i64,
    count: Count,
}

impl Lease {
    fn ttl(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.ttl_s).unwrap_or(0))
    }
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It has its whole time again: this many seconds.
    Renewed(i64),
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
    /// Seconds it was granted.
    pub granted_s: i64,
    /// Whole seconds until it ends; 0 when it is ending.
    pub remaining_s: i64,
}

/// All leases of the group, and while this member leads, their deadlines.
#[derive(Debug, Default)]
pub struct LeaseBook {
    leases: BTreeMap<i64, Lease>,
    by_deadline: BTreeSet<(Moment, i64)>,
    leading: Option<u64>,
}

impl LeaseBook {
    /// Replaces all leases by `leases` (id, TTL in seconds): at start, after a snapshot. Ends
    /// leading.
    pub fn load(&mut self, leases: impl IntoIterator<Item = (i64, i64)>) {
        self.follow();
        self.leases = leases
            .into_iter()
            .map(|(id, ttl_s)| {
                (
                    id,
                    Lease {
                        ttl_s,
                        count: Count::Idle,
                    },
                )
            })
            .collect();
    }

    /// A lease was granted, for `ttl_s` seconds.
    pub fn granted(&mut self, now: Moment, id: i64, ttl_s: i64) {
        self.gone(id);
        self.leases.insert(
            id,
            Lease {
                ttl_s,
                count: Count::Idle,
            },
        );
        if self.leading.is_some() {
            self.count_from(now, id);
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
            Some(Lease { ttl_s, .. }) => {
                let ttl_s = *ttl_s;
                self.count_from(now, id);
                Renewal::Renewed(ttl_s)
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
        let remaining_s = match lease.count {
            Count::Idle => lease.ttl_s,
            Count::Until(deadline) => deadline.since(now).as_secs() as i64,
            Count::Ending => 0,
        };
        Some(Remaining {
            granted_s: lease.ttl_s,
            remaining_s,
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
        let deadline = now.plus(lease.ttl());
        lease.count = Count::Until(deadline);
        self.by_deadline.insert((deadline, id));
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
