//! No lease ends before its time, whatever happens in which order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Moment {
    Moment::since_boot(Duration::from_millis(ms))
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).expect("a positive number"))
}

fn known(id: i64, ttl_s: i64) -> Known {
    Known {
        id,
        ttl: seconds(ttl_s),
        closing: false,
    }
}

impl LeaseBook {
    /// What must hold after every step.
    fn check(&self) {
        let counted: BTreeSet<(Moment, i64)> = self
            .leases
            .iter()
            .filter_map(|(id, lease)| match lease.count {
                Count::Until(deadline) => Some((deadline, *id)),
                Count::Idle | Count::Ending => None,
            })
            .collect();
        assert_eq!(counted, self.by_deadline);
        let idle = self.leases.values().any(|lease| lease.count == Count::Idle);
        assert!(
            !(idle && self.leading.is_some()),
            "a leader counts all leases"
        );
        assert!(
            self.leading.is_some() || counted.is_empty(),
            "only a leader counts"
        );
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Grant(i64, i64),
    Gone(i64),
    Closing(i64, bool),
    Renew(i64, u64),
    Due,
    Failed,
    Lead(u64),
    Follow,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..4_000).prop_map(Step::Wait),
        2 => (1i64..5, 1i64..5).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => (1i64..5).prop_map(Step::Gone),
        1 => (1i64..5, any::<bool>()).prop_map(|(id, closing)| Step::Closing(id, closing)),
        4 => (1i64..5, 1u64..4).prop_map(|(id, term)| Step::Renew(id, term)),
        4 => Just(Step::Due),
        1 => Just(Step::Failed),
        1 => (1u64..4).prop_map(Step::Lead),
        1 => Just(Step::Follow),
    ]
}

proptest! {
    #[test]
    fn invariant_never_ends_early(steps in prop::collection::vec(step(), 1..80)) {
        let mut book = LeaseBook::default();
        // What a careful observer knows: the last moment from which each lease has its whole time.
        let mut whole_from: BTreeMap<i64, (u64, i64)> = BTreeMap::new();
        let mut closing: BTreeSet<i64> = BTreeSet::new();
        let mut ending: Option<(u64, Vec<i64>)> = None;
        let (mut now, mut led_from) = (0, 0);
        book.lead(at(0), 1);
        for step in steps {
            match step {
                Step::Wait(ms) => now += ms,
                Step::Grant(id, ttl_s) => {
                    book.granted(at(now), id, seconds(ttl_s));
                    closing.remove(&id);
                    whole_from.insert(id, (now, ttl_s));
                }
                Step::Gone(id) => {
                    book.gone(id);
                    whole_from.remove(&id);
                    closing.remove(&id);
                }
                Step::Closing(id, begins) => {
                    book.closing(id, begins);
                    if begins && whole_from.contains_key(&id) {
                        closing.insert(id);
                    } else {
                        closing.remove(&id);
                    }
                }
                Step::Renew(id, term) => {
                    let was_ending = book.leases.get(&id).is_some_and(|l| l.count == Count::Ending);
                    match book.renewed(at(now), term, id) {
                        Renewal::Renewed(ttl) => {
                            prop_assert!(!was_ending && !closing.contains(&id));
                            whole_from.insert(id, (now, ttl.as_secs() as i64));
                        }
                        Renewal::Closing => prop_assert!(closing.contains(&id)),
                        Renewal::Gone => prop_assert!(!whole_from.contains_key(&id)),
                        Renewal::Ending => prop_assert!(was_ending),
                        Renewal::NotLeading => prop_assert!(book.leading() != Some(term)),
                    }
                }
                Step::Due => {
                    if let Some((term, ids)) = book.take_due(at(now), 2) {
                        prop_assert_eq!(Some(term), book.leading());
                        prop_assert!(ids.len() <= 2);
                        for id in &ids {
                            let (from, ttl_s) = whole_from[id];
                            let from = from.max(led_from);
                            prop_assert!(now >= from + 1000 * ttl_s as u64, "lease {} early", id);
                        }
                        ending = Some((term, ids));
                    }
                }
                Step::Failed => {
                    if let Some((term, ids)) = ending.take() {
                        book.not_ended(at(now), term, &ids);
                    }
                }
                Step::Lead(term) => {
                    book.lead(at(now), term);
                    led_from = now;
                    ending = None;
                }
                Step::Follow => book.follow(),
            }
            book.check();
        }
        // Nothing is forgotten: with time, every lease is due while this member leads.
        book.lead(at(now), 9);
        let due = book.take_due(at(now + 10_000), usize::MAX).map_or(Vec::new(), |(_, ids)| ids);
        prop_assert_eq!(
            due.into_iter().collect::<BTreeSet<_>>(),
            whole_from.into_keys().collect::<BTreeSet<_>>()
        );
    }
}

#[test]
fn renewal_waits_for_the_outcome_of_a_proposed_end() {
    let mut book = LeaseBook::default();
    book.load([known(7, 2)]);
    book.lead(at(0), 1);
    assert_eq!(book.take_due(at(1_999), 10), None);
    assert_eq!(book.take_due(at(2_000), 10), Some((1, vec![7])));
    assert_eq!(book.renewed(at(2_000), 1, 7), Renewal::Ending);
    assert_eq!(book.not_ended(at(2_100), 2, &[7]), 0, "another term");
    assert_eq!(book.not_ended(at(2_100), 1, &[7, 8]), 1);
    assert_eq!(book.renewed(at(2_100), 1, 7), Renewal::Renewed(seconds(2)));
    assert_eq!(book.next_due(), Some(at(4_100)));
    book.gone(7);
    assert_eq!(book.renewed(at(2_200), 1, 7), Renewal::Gone);
}

#[test]
fn remaining_time_counts_down_on_the_leader_only() {
    let mut book = LeaseBook::default();
    book.load([known(7, 60)]);
    let left = |book: &LeaseBook, ms| {
        book.remaining(at(ms), 7)
            .map(|left| left.remaining.as_secs())
    };
    assert_eq!(left(&book, 50_000), Some(60));
    book.lead(at(0), 1);
    assert_eq!(left(&book, 50_500), Some(9));
    assert_eq!(book.remaining(at(0), 8), None);
}

#[test]
fn what_was_proposed_and_not_answered_may_be_executed_after_a_refusal() {
    let (unknown, refused) = (Err(false), Err(true));
    let settled = |outcomes: &[Result<(), bool>]| {
        let mut attempts = Attempts::default();
        let each = outcomes.iter().map(|outcome| attempts.settled(*outcome));
        each.last()
    };
    assert_eq!(settled(&[refused]), Some(true));
    assert_eq!(settled(&[unknown]), Some(false));
    assert_eq!(settled(&[unknown, refused]), Some(false));
    assert_eq!(settled(&[unknown, refused, Ok(())]), Some(true));
}
