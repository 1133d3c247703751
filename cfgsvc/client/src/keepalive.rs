//! When a lease is renewed and until when it is held. Pure: the shell is `session`.
//!
//! The group confirms a renewal some time after it was sent. The only thing that the holder knows
//! for sure is that the term began no earlier than the moment of *sending*, so the deadline is
//! counted from there, and less a margin for a clock that runs slower than the group's.
//!
//! Invariants
//! - the deadline never goes back;
//! - the next renewal is due before the deadline.

use crate::clock::Moment;
use std::time::Duration;

/// Share of the term that is given away for clocks that run at different rates: 1/50 is far more
/// than the 1/2000 that a quartz may be off.
const MARGIN_DIVISOR: u32 = 50;
/// A lease is renewed when this share of its term has passed: two more tries fit before its end.
const RENEW_DIVISOR: u32 = 3;

/// The holder's view of its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    ttl: Duration,
    sent: Moment,
}

impl Term {
    /// After a grant or renewal for `ttl` whose request was sent at `sent`.
    pub fn new(sent: Moment, ttl: Duration) -> Self {
        Self { ttl, sent }
    }

    /// A renewal that was sent at `sent` is confirmed for `ttl`. An answer that would shorten the
    /// term does not: what the group confirmed once stays true.
    pub fn renewed(&mut self, sent: Moment, ttl: Duration) {
        let next = Self { ttl, sent };
        if next.deadline() > self.deadline() {
            *self = next;
        }
    }

    /// The lease is certainly held before this moment.
    pub fn deadline(&self) -> Moment {
        self.sent + self.ttl.saturating_sub(self.ttl / MARGIN_DIVISOR)
    }

    /// The next renewal is due at this moment.
    pub fn renew_at(&self) -> Moment {
        self.sent + self.ttl / RENEW_DIVISOR
    }

    /// Longest wait for the answer to a renewal before it is sent to another endpoint.
    pub fn answer_timeout(&self) -> Duration {
        self.ttl / (2 * RENEW_DIVISOR)
    }

    /// Whether the lease is certainly held at `now`.
    pub fn holds(&self, now: Moment) -> bool {
        now < self.deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_deadline_never_goes_back_and_never_passes_what_the_group_grants(
            answers in prop::collection::vec((0_u64..100_000, 1_u64..60), 1..30),
        ) {
            let moment = |ms| Moment::since_boot(Duration::from_millis(ms));
            let mut term = Term::new(moment(0), Duration::from_secs(10));
            let mut latest = moment(0) + Duration::from_secs(10);
            for (sent_ms, ttl_s) in answers {
                let before = term.deadline();
                term.renewed(moment(sent_ms), Duration::from_secs(ttl_s));
                latest = latest.max(moment(sent_ms) + Duration::from_secs(ttl_s));
                prop_assert!(term.deadline() >= before);
                prop_assert!(term.deadline() < latest);
                prop_assert!(term.renew_at() < term.deadline());
                prop_assert!(!term.holds(term.deadline()));
            }
        }
    }
}
