//! Where the next attempt goes, whether there is one, and when. Pure: the shell is `channel`.
//!
//! A client sticks to the endpoint that works. It moves on when that one cannot be reached, breaks
//! or says that it has no group. Every member serves every request (followers forward), so there
//! is no hunt for the leader. The first endpoint is the user's choice; the order of the others is
//! drawn by each client, so that the clients of a member that dies spread over all that are left.
//!
//! Invariants
//! - a write without a request id is sent again only when it was certainly not executed;
//! - no attempt starts after the deadline;
//! - a round of attempts visits each endpoint once;
//! - many tasks that fail on one endpoint together move on by one endpoint, not by many.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use std::time::Duration;

/// Wait after the first failed round through all endpoints; it doubles with each round.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
/// Longest wait: short enough that a new leader (elected within about 0.2 s) is found soon.
const BACKOFF_MAX: Duration = Duration::from_millis(400);
/// Shortest time that an attempt gets before a silent endpoint is given up.
const ATTEMPT_MIN: Duration = Duration::from_millis(500);
/// Least time that a further attempt needs to be worth it: one that is cut off at once brings
/// nothing, and makes an outcome unknown that was known.
const ATTEMPT_LEAST: Duration = Duration::from_millis(50);

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
    /// The member answered that it cannot hand the request to a leader, because it knows none or
    /// because it is a learner of etcd's: it did nothing.
    NoLeader,
    /// The member answered that it is overloaded, so it did nothing.
    Overloaded,
}

impl Failure {
    /// Whether the group may have executed the request, now or later.
    pub fn maybe_executed(self) -> bool {
        match self {
            Self::Lost | Self::Unavailable => true,
            Self::NotSent | Self::NoLeader | Self::Overloaded => false,
        }
    }
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
    /// Indices of the endpoints in the order of a round; never empty.
    order: Vec<usize>,
    /// Place in `order` of the one in use.
    place: usize,
}

impl Router {
    /// For `count` endpoints: the first one first, the others in an order that is drawn.
    pub fn new(count: usize, rng: &mut impl Rng) -> Self {
        assert!(
            count > 0,
            "a client without endpoints is refused by its options"
        );
        let mut order: Vec<usize> = (0..count).collect();
        order[1..].shuffle(rng);
        Self { order, place: 0 }
    }

    /// Index of the endpoint that the next attempt uses.
    pub fn current(&self) -> usize {
        self.order[self.place]
    }

    /// Index of the endpoint that is so many after that one, in the order of a round.
    pub fn after(&self, steps: usize) -> usize {
        self.order[(self.place + steps) % self.order.len()]
    }

    /// `endpoint` answers: the next attempts use it.
    pub fn prefer(&mut self, endpoint: usize) {
        let place = self.order.iter().position(|index| *index == endpoint);
        self.place = place.unwrap_or(self.place);
    }

    /// An attempt on `endpoint` failed so that another one should be tried. No effect when someone
    /// else has moved on already.
    pub fn move_on_from(&mut self, endpoint: usize) {
        if endpoint == self.current() {
            self.place = (self.place + 1) % self.order.len();
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
        if self.safety == Safety::Once && failure.maybe_executed() {
            return Next::GiveUp;
        }
        let after = self.pause(failure, rng);
        if after + ATTEMPT_LEAST <= left {
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
            Failure::NotSent
            | Failure::Lost
            | Failure::Unavailable
            | Failure::NoLeader
            | Failure::Overloaded => backoff(round, rng),
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
            Just(Failure::NoLeader),
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
                    prop_assert!(after + ATTEMPT_LEAST <= left);
                    prop_assert!(after <= BACKOFF_MAX * 3 / 2);
                }
            }
        }

        #[test]
        fn tasks_that_fail_together_move_on_by_one_and_a_round_visits_each_endpoint_once(
            count in 1_usize..6, tasks in 1_usize..10, seed: u64,
        ) {
            let mut router = Router::new(count, &mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(router.current(), 0);
            let mut visited = Vec::new();
            for _ in 0..count {
                let seen = router.current();
                visited.push(seen);
                router.move_on_from(seen);
                let next = router.current();
                if count > 1 && next != seen {
                    for _ in 1..tasks {
                        router.move_on_from(seen);
                        prop_assert_eq!(router.current(), next);
                    }
                }
            }
            prop_assert_eq!(router.current(), 0);
            visited.sort_unstable();
            prop_assert_eq!(visited, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_clients_of_a_member_that_dies_spread_over_the_others() {
        let mut clients_of = [0; 4];
        for seed in 0..300 {
            let mut router = Router::new(4, &mut StdRng::seed_from_u64(seed));
            router.move_on_from(0);
            clients_of[router.current()] += 1;
        }
        assert_eq!(clients_of[0], 0);
        assert!(
            clients_of[1..].iter().all(|count| *count > 60),
            "{clients_of:?}"
        );
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
