//! Whether the server may speak, as people and load balancers are told: one line for each change.
//!
//! Pure. What is answered to clients is decided for each request by the same deadline
//! ([`cfgdns_core::Freshness`]); this only tells of it.

use std::collections::BTreeSet;
use std::time::Duration;

use cfgsvc_client::{Freshness, Moment};

/// How often to look for another reason while nothing is answered.
const LOOK: Duration = Duration::from_secs(1);
/// Reasons that are told of one time without answers.
const REASONS_MAX: usize = 16;

/// What was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Not fresh since the start.
    NotReady,
    Fresh,
    /// Fenced since a moment.
    Fenced(Moment),
}

/// Tells changes of freshness, each once, and why nothing is answered.
#[derive(Debug)]
pub struct Lamp {
    told: Told,
    /// Until then it may become ready without a word.
    patience: Moment,
    /// Told since it was fresh.
    reasons: BTreeSet<String>,
}

/// A change to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The group confirmed the copy for the first time.
    Ready {
        /// At this revision.
        revision: i64,
    },
    /// The group has confirmed nothing since the start, for longer than it should take, or for
    /// another reason.
    NotReady {
        /// What is known of why.
        why: String,
    },
    /// The group's confirmation is over.
    Fenced {
        /// What the copy has.
        revision: i64,
        /// What is known of why.
        why: String,
    },
    /// It is still over, for another reason.
    StillFenced {
        /// What is known of why.
        why: String,
    },
    /// The group confirmed the copy again.
    Back {
        /// At this revision.
        revision: i64,
        /// So long nothing was told.
        fenced_for: Duration,
    },
}

impl Lamp {
    /// Of a server that should be ready when `patience` is over.
    pub fn new(patience: Moment) -> Self {
        Self {
            told: Told::NotReady,
            patience,
            reasons: BTreeSet::new(),
        }
    }

    /// Looks at how fresh the copy is, and at what is known of why it is not; and when to look
    /// again without a change.
    pub fn look(
        &mut self,
        freshness: Freshness,
        why: Option<String>,
        now: Moment,
    ) -> (Option<Change>, Moment) {
        let why = why.unwrap_or_else(|| "no word from the group".to_owned());
        match (self.told, freshness) {
            (told, Freshness::Fresh { revision, until }) => {
                self.told = Told::Fresh;
                self.reasons.clear();
                let change = match told {
                    Told::Fresh => None,
                    Told::NotReady => Some(Change::Ready { revision }),
                    Told::Fenced(since) => Some(Change::Back {
                        revision,
                        fenced_for: now.since(since),
                    }),
                };
                (change, until)
            }
            (Told::Fresh, Freshness::Stale { since, revision }) => {
                self.told = Told::Fenced(since);
                self.is_new(&why);
                (Some(Change::Fenced { revision, why }), now + LOOK)
            }
            (Told::NotReady, _) if now < self.patience => (None, self.patience),
            (Told::NotReady, _) => {
                let change = self.is_new(&why).then_some(Change::NotReady { why });
                (change, now + LOOK)
            }
            // A copy is not less confirmed than it was: never after fresh is not.
            (Told::Fresh | Told::Fenced(_), _) => {
                let change = self.is_new(&why).then_some(Change::StillFenced { why });
                (change, now + LOOK)
            }
        }
    }

    /// Whether this reason is to be told: each once, since they alternate where each member that is
    /// asked fails in its own way.
    fn is_new(&mut self, why: &str) -> bool {
        self.reasons.len() < REASONS_MAX && self.reasons.insert(why.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::since_boot(Duration::from_millis(ms))
    }

    fn fresh(revision: i64, until: u64) -> Freshness {
        Freshness::Fresh {
            revision,
            until: at(until),
        }
    }

    fn stale(revision: i64, since: u64) -> Freshness {
        Freshness::Stale {
            revision,
            since: at(since),
        }
    }

    #[test]
    fn each_change_is_told_once() {
        let mut lamp = Lamp::new(at(100));
        assert_eq!(lamp.look(Freshness::Never, None, at(1)), (None, at(100)));
        // It was confirmed and is over before anybody looked.
        assert_eq!(lamp.look(stale(4, 2), None, at(3)), (None, at(100)));
        let ready = Change::Ready { revision: 5 };
        assert_eq!(lamp.look(fresh(5, 30), None, at(10)), (Some(ready), at(30)));
        assert_eq!(lamp.look(fresh(6, 40), None, at(20)), (None, at(40)));
        let fenced = Change::Fenced {
            revision: 6,
            why: "no word from the group".to_owned(),
        };
        let told = lamp.look(stale(6, 40), None, at(41));
        assert_eq!(told, (Some(fenced), at(1_041)));
        assert_eq!(lamp.look(stale(7, 40), None, at(50)), (None, at(1_050)));
        let back = Change::Back {
            revision: 8,
            fenced_for: Duration::from_millis(20),
        };
        assert_eq!(lamp.look(fresh(8, 90), None, at(60)), (Some(back), at(90)));
    }

    #[test]
    fn server_that_does_not_become_ready_says_why_and_each_other_reason_once() {
        let mut lamp = Lamp::new(at(100));
        let mut told = Vec::new();
        let mut now = 50;
        for reason in ["a", "a", "b", "a", "b", "c"] {
            let (change, next) = lamp.look(Freshness::Never, Some(reason.to_owned()), at(now));
            told.extend(change.map(|change| (now, change)));
            now += u64::try_from(next.since(at(now)).as_millis()).expect("soon");
        }
        let not_ready = |why: &str| Change::NotReady {
            why: why.to_owned(),
        };
        let expected = [(100, "a"), (1_100, "b"), (4_100, "c")];
        assert_eq!(told, expected.map(|(ms, why)| (ms, not_ready(why))));
        // However many there are.
        for number in 0..100 {
            lamp.look(Freshness::Never, Some(number.to_string()), at(now));
        }
        assert!(lamp.reasons.len() <= REASONS_MAX);
    }

    #[test]
    fn fenced_server_says_when_the_reason_is_another_and_all_again_the_next_time() {
        let mut lamp = Lamp::new(at(100));
        for base in [1_000, 20_000] {
            lamp.look(fresh(5, base + 30), None, at(base));
            let fenced = lamp.look(stale(5, base + 30), None, at(base + 40)).0;
            assert!(matches!(fenced, Some(Change::Fenced { .. })), "{fenced:?}");
            let refused = Some("refused".to_owned());
            let still = lamp.look(stale(5, base + 30), refused, at(base + 50)).0;
            let expected = Change::StillFenced {
                why: "refused".to_owned(),
            };
            assert_eq!(still, Some(expected));
            assert_eq!(lamp.look(stale(5, base + 30), None, at(base + 60)).0, None);
        }
    }
}
