//! Where the next attempt goes, whether there is one, and when. Pure: the shell is `channel`.
//!
//! A client sticks to the endpoint that works. It moves on when that one cannot be reached, breaks
//! or says that it has no group. Every member serves every request (followers forward), so there
//! is no hunt for the leader.
//!
//! Invariants
//! - a write without a request id is sent again only when it was certainly not executed;
//! - no attempt starts after the deadline;
//! - many tasks that fail on one endpoint together move on by one endpoint, not by many.

use rand::{Rng, RngExt};
use std::time::Duration;

/// Wait after the first failed round through all endpoints; it doubles with each round.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
/// Longest wait: short enough that a new leader (elected within about 0.2 s) is found soon.
const BACKOFF_MAX: Duration = Duration::from_millis(400);
/// Shortest time that an attempt gets before a silent endpoint is given up.
const ATTEMPT_MIN: Duration = Duration::from_millis(500);

/// Whether a request may be executed more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    /// It changes nothing, or doing it twice is the same as once, or the group recognises the
    /// second try by its id.
    Repeatable,
    /// A write that must not be done twice.
    Once,
}

/// Why an attempt brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It never left: the connection could not be made.
    NotSent,
    /// It left, and the connection broke or no answer came in time: executed or not, who knows.
    Lost,
    /// The member answered that it cannot answer now: executed or not, who knows.
    Unavailable,
    /// The member answered that it is overloaded, so it did nothing.
    Overloaded,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again after this time.
    Retry {
        /// Zero while there are endpoints that were not tried in this round.
        after: Duration,
    },
    /// Tell the caller.
    GiveUp,
}

/// The endpoint in use. Shared by all requests of a client.
#[derive(Debug)]
pub struct Router {
    count: usize,
    current: usize,
}

impl Router {
    /// For `count` endpoints, starting with the first.
    pub fn new(count: usize) -> Self {
        assert!(
            count > 0,
            "a client without endpoints is refused by its options"
        );
        Self { count, current: 0 }
    }

    /// Index of the endpoint that the next attempt uses.
    pub fn current(&self) -> usize {
        assert!(self.current < self.count);
        self.current
    }

    /// An attempt on `endpoint` failed so that another one should be tried. No effect when someone
    /// else has moved on already.
    pub fn move_on_from(&mut self, endpoint: usize) {
        if endpoint == self.current {
            self.current = (self.current + 1) % self.count;
        }
    }
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Attempts {
    safety: Safety,
    endpoints: usize,
    failed: u32,
}

impl Attempts {
    /// Before the first one.
    pub fn new(safety: Safety, endpoints: usize) -> Self {
        Self {
            safety,
            endpoints,
            failed: 0,
        }
    }

    /// How long one attempt may take when `left` remains of the request's time. A request that can
    /// be repeated leaves time to ask another endpoint when this one is silent.
    pub fn attempt_timeout(&self, left: Duration) -> Duration {
        let shares = u32::try_from(self.endpoints.min(3)).unwrap_or(3);
        match self.safety {
            Safety::Repeatable if shares > 1 => left.min(ATTEMPT_MIN.max(left / shares)),
            Safety::Repeatable | Safety::Once => left,
        }
    }

    /// After an attempt failed, with `left` of the request's time.
    pub fn after(&mut self, failure: Failure, left: Duration, rng: &mut impl Rng) -> Next {
        self.failed = self.failed.saturating_add(1);
        let executed_for_sure_not = match failure {
            Failure::NotSent | Failure::Overloaded => true,
            Failure::Lost | Failure::Unavailable => false,
        };
        if self.safety == Safety::Once && !executed_for_sure_not {
            return Next::GiveUp;
        }
        let after = self.pause(failure, rng);
        if after < left {
            Next::Retry { after }
        } else {
            Next::GiveUp
        }
    }

    fn pause(&self, failure: Failure, rng: &mut impl Rng) -> Duration {
        let endpoints = u32::try_from(self.endpoints).unwrap_or(u32::MAX);
        let round = self.failed / endpoints;
        let in_round = self.failed % endpoints;
        match failure {
            Failure::NotSent | Failure::Lost if in_round != 0 => Duration::ZERO,
            Failure::NotSent | Failure::Lost | Failure::Unavailable | Failure::Overloaded => {
                backoff(round, rng)
            }
        }
    }
}

/// Wait before round `round` of attempts: doubled each round up to a limit, then spread over half
/// to one and a half of it, so that clients which failed together do not come back together.
pub fn backoff(round: u32, rng: &mut impl Rng) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << round.min(10));
    doubled.min(BACKOFF_MAX).mul_f64(rng.random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    fn failures() -> impl Strategy<Value = Failure> {
        prop_oneof![
            Just(Failure::NotSent),
            Just(Failure::Lost),
            Just(Failure::Unavailable),
            Just(Failure::Overloaded),
        ]
    }

    proptest! {
        #[test]
        fn a_write_without_an_id_is_never_sent_twice_unless_it_was_not_executed(
            endpoints in 1_usize..5, list in prop::collection::vec(failures(), 1..20),
            seed: u64,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut attempts = Attempts::new(Safety::Once, endpoints);
            for failure in list {
                let next = attempts.after(failure, Duration::from_mins(1), &mut rng);
                let unknown = matches!(failure, Failure::Lost | Failure::Unavailable);
                prop_assert_eq!(next == Next::GiveUp, unknown);
                if unknown {
                    break;
                }
            }
        }

        #[test]
        fn a_retry_always_starts_before_the_deadline_and_waits_a_bounded_time(
            endpoints in 1_usize..5, list in prop::collection::vec(failures(), 1..40),
            left_ms in 0_u64..2000, seed: u64,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut attempts = Attempts::new(Safety::Repeatable, endpoints);
            let left = Duration::from_millis(left_ms);
            for failure in list {
                prop_assert!(attempts.attempt_timeout(left) <= left);
                if let Next::Retry { after } = attempts.after(failure, left, &mut rng) {
                    prop_assert!(after < left);
                    prop_assert!(after <= BACKOFF_MAX * 3 / 2);
                }
            }
        }

        #[test]
        fn tasks_that_fail_together_move_on_by_one(count in 1_usize..6, tasks in 1_usize..10) {
            let mut router = Router::new(count);
            let seen = router.current();
            for _ in 0..tasks {
                router.move_on_from(seen);
                if count == 1 {
                    prop_assert_eq!(router.current(), 0);
                } else {
                    prop_assert_eq!(router.current(), (seen + 1) % count);
                }
            }
        }
    }

    #[test]
    fn unreachable_endpoints_are_passed_without_a_wait_until_the_round_is_over() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut attempts = Attempts::new(Safety::Once, 3);
        let left = Duration::from_secs(5);
        let zero = Next::Retry {
            after: Duration::ZERO,
        };
        assert_eq!(attempts.after(Failure::NotSent, left, &mut rng), zero);
        assert_eq!(attempts.after(Failure::NotSent, left, &mut rng), zero);
        assert_ne!(attempts.after(Failure::NotSent, left, &mut rng), zero);
    }
}
