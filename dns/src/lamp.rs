//! Whether the server may speak, as people and load balancers are told: one line for each change.
//!
//! Pure. What is answered to clients is decided for each request by the same deadline
//! ([`cfgdns_core::Freshness`]); this only tells of it.

use std::time::Duration;

use cfgsvc_client::{Freshness, Moment};

/// What was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Told {
    /// Not fresh since the start.
    #[default]
    NotReady,
    Fresh,
    /// Fenced since a moment.
    Fenced(Moment),
}

/// Tells changes of freshness, each once.
#[derive(Debug, Default)]
pub struct Lamp {
    told: Told,
}

/// A change to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The group confirmed the copy for the first time.
    Ready {
        /// At this revision.
        revision: i64,
    },
    /// The group's confirmation is over.
    Fenced {
        /// What the copy has.
        revision: i64,
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
    /// Looks at how fresh the copy is, and when to look again without a change.
    pub fn look(&mut self, freshness: Freshness, now: Moment) -> (Option<Change>, Option<Moment>) {
        match (self.told, freshness) {
            (Told::NotReady, Freshness::Fresh { revision, until }) => {
                self.told = Told::Fresh;
                (Some(Change::Ready { revision }), Some(until))
            }
            (Told::Fresh, Freshness::Fresh { until, .. }) => (None, Some(until)),
            (Told::Fenced(since), Freshness::Fresh { revision, until }) => {
                self.told = Told::Fresh;
                let fenced_for = now.since(since);
                let change = Change::Back {
                    revision,
                    fenced_for,
                };
                (Some(change), Some(until))
            }
            (Told::Fresh, Freshness::Stale { since, revision }) => {
                self.told = Told::Fenced(since);
                (Some(Change::Fenced { revision }), None)
            }
            // A copy is not less confirmed than it was.
            (Told::Fresh, Freshness::Never)
            | (Told::NotReady | Told::Fenced(_), Freshness::Never | Freshness::Stale { .. }) => {
                (None, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::since_boot(Duration::from_millis(ms))
    }

    #[test]
    fn each_change_is_told_once() {
        let mut lamp = Lamp::default();
        let fresh = |revision, until| Freshness::Fresh {
            revision,
            until: at(until),
        };
        let stale = |revision, since| Freshness::Stale {
            revision,
            since: at(since),
        };
        assert_eq!(lamp.look(Freshness::Never, at(1)), (None, None));
        // It was confirmed and is over before anybody looked.
        assert_eq!(lamp.look(stale(4, 2), at(3)), (None, None));
        let ready = Change::Ready { revision: 5 };
        assert_eq!(lamp.look(fresh(5, 30), at(10)), (Some(ready), Some(at(30))));
        assert_eq!(lamp.look(fresh(6, 40), at(20)), (None, Some(at(40))));
        let fenced = Change::Fenced { revision: 6 };
        assert_eq!(lamp.look(stale(6, 40), at(41)), (Some(fenced), None));
        assert_eq!(lamp.look(stale(7, 40), at(50)), (None, None));
        let back = Change::Back {
            revision: 8,
            fenced_for: Duration::from_millis(20),
        };
        assert_eq!(lamp.look(fresh(8, 90), at(60)), (Some(back), Some(at(90))));
    }
}
