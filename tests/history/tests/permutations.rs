//! The checker says the same as trying every order, on histories small enough for that.

use std::collections::BTreeMap;

use cfgsvc_history::{Condition, History, Operation, Outcome, Request, Store, check};
use proptest::prelude::*;

/// One operation, before it is known what the store says to it.
#[derive(Debug, Clone)]
struct Plan {
    request: u8,
    key: bool,
    other: bool,
    /// When it takes effect, and how much earlier it is called and later ends.
    at: u64,
    before: u64,
    after: u64,
    /// 0: never answered and not executed, 1: never answered, 2: failed; above: answered.
    fate: u8,
}

fn plan() -> impl Strategy<Value = Plan> {
    let times = (1..200_u64, 0..40_u64, 0..40_u64);
    (0..8_u8, any::<bool>(), any::<bool>(), times, 0..12_u8).prop_map(
        |(request, key, other, (at, before, after), fate)| Plan {
            request,
            key,
            other,
            at: at + 40,
            before,
            after,
            fate,
        },
    )
}

/// A change of a history that may make it wrong.
#[derive(Debug, Clone)]
enum Harm {
    None,
    Revision(usize, i64),
    Forget(usize),
    SwapReplies(usize, usize),
    Move(usize, u64, u64),
    Invent(usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    let place = 0..8_usize;
    prop_oneof![
        2 => Just(Harm::None),
        2 => (place.clone(), prop_oneof![Just(-1_i64), Just(1_i64)])
            .prop_map(|(place, by)| Harm::Revision(place, by)),
        1 => place.clone().prop_map(Harm::Forget),
        2 => (place.clone(), 0..8_usize).prop_map(|(one, two)| Harm::SwapReplies(one, two)),
        2 => (place.clone(), 0..240_u64, 0..80_u64)
            .prop_map(|(place, call, length)| Harm::Move(place, call, length)),
        1 => place.prop_map(Harm::Invent),
    ]
}

fn name(key: bool) -> String {
    String::from(if key { "a" } else { "b" })
}

fn request(plan: &Plan, number: usize, store: &Store) -> Request {
    let key = name(plan.key);
    let value = Some(format!("v{number}"));
    let one = BTreeMap::from([(key.clone(), value.clone())]);
    let current = store.keys.get(&key);
    let at = current.map_or(0, |kv| kv.modified) + i64::from(plan.other);
    let was = current.map_or_else(String::new, |kv| kv.value.clone());
    let (when, changes) = match plan.request {
        0 | 1 => (None, one),
        2 => (None, BTreeMap::from([(key, None)])),
        3 => (Some((key, Condition::Revision(at))), one),
        4 => (Some((key, Condition::Value(was))), one),
        5 => {
            let other = plan.other.then(|| value.clone()).flatten();
            (
                None,
                BTreeMap::from([(name(true), value), (name(false), other)]),
            )
        }
        6 => {
            return Request::Read {
                key: Some(key),
                serializable: plan.other,
            };
        }
        _ => {
            return Request::Read {
                key: None,
                serializable: false,
            };
        }
    };
    Request::Write { when, changes }
}

/// What a correct store would tell clients that do this.
fn play(plans: &[Plan]) -> Vec<Operation> {
    let mut order: Vec<&Plan> = plans.iter().collect();
    order.sort_by_key(|plan| plan.at);
    let mut store = Store::new(1);
    let mut operations = Vec::new();
    for (id, plan) in order.into_iter().enumerate() {
        let request = request(plan, id, &store);
        let outcome = match plan.fate {
            0 => Outcome::Unknown,
            2 => Outcome::Failed,
            _ => {
                let (reply, after) = store.execute(&request);
                store = after.unwrap_or(store);
                if plan.fate == 1 {
                    Outcome::Unknown
                } else {
                    Outcome::Done(reply)
                }
            }
        };
        operations.push(Operation {
            id,
            client: "c".to_owned(),
            call: plan.at - plan.before,
            end: plan.at + plan.after,
            request,
            outcome,
        });
    }
    operations
}

fn do_harm(operations: &mut Vec<Operation>, harm: &Harm) {
    let count = operations.len();
    match harm {
        Harm::None => {}
        Harm::Revision(place, by) => {
            if let Outcome::Done(reply) = &mut operations[place % count].outcome {
                reply.revision += by;
            }
        }
        Harm::Forget(place) => operations[place % count].outcome = Outcome::Unknown,
        Harm::SwapReplies(one, two) => {
            let (one, two) = (one % count, two % count);
            let kept = operations[one].outcome.clone();
            operations[one].outcome = operations[two].outcome.clone();
            operations[two].outcome = kept;
        }
        Harm::Move(place, call, length) => {
            operations[place % count].call = *call;
            operations[place % count].end = call + length;
        }
        Harm::Invent(place) => {
            operations.remove(place % count);
        }
    }
}

fn interval(operation: &Operation) -> (u64, u64) {
    let anytime = matches!(
        operation.request,
        Request::Read {
            serializable: true,
            ..
        }
    );
    let call = if anytime { 0 } else { operation.call };
    match operation.outcome {
        Outcome::Done(_) => (call, operation.end),
        Outcome::Failed | Outcome::Unknown => (call, u64::MAX),
    }
}

/// The definition: an order of all answered and some unanswered operations that keeps real time and
/// in which the store says what was told.
fn some_order(store: &Store, left: &[&Operation]) -> bool {
    if left
        .iter()
        .all(|one| !matches!(one.outcome, Outcome::Done(_)))
    {
        return true;
    }
    (0..left.len()).any(|next| {
        let operation = left[next];
        let too_early = left
            .iter()
            .any(|other| interval(other).1 < interval(operation).0);
        let (reply, after) = store.execute(&operation.request);
        let told = match &operation.outcome {
            Outcome::Done(told) => *told == reply,
            Outcome::Unknown => true,
            Outcome::Failed => false,
        };
        let mut rest = left.to_vec();
        rest.remove(next);
        !too_early && told && some_order(after.as_ref().unwrap_or(store), &rest)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn checker_agrees_with_trying_every_order(
        plans in prop::collection::vec(plan(), 1..8),
        harms in prop::collection::vec(harm(), 0..3),
    ) {
        let mut operations = play(&plans);
        for harm in &harms {
            if !operations.is_empty() {
                do_harm(&mut operations, harm);
            }
        }
        let all: Vec<&Operation> = operations.iter().collect();
        let expected = some_order(&Store::new(1), &all);
        let history = History { start: 1, operations, ..History::default() };
        let found = check(&history);
        prop_assert_eq!(found.is_ok(), expected, "{:?} of {:#?}", found, history);
    }

    #[test]
    fn what_a_correct_store_says_is_explained_by_its_log(
        plans in prop::collection::vec(plan(), 1..30),
    ) {
        let operations = play(&plans);
        let mut store = Store::new(1);
        let mut log = Vec::new();
        let mut fates: Vec<&Plan> = plans.iter().collect();
        fates.sort_by_key(|plan| plan.at);
        for (operation, plan) in operations.iter().zip(fates) {
            if plan.fate != 0 && plan.fate != 2
                && let (_, Some(after)) = store.execute(&operation.request)
            {
                log.extend(after.changes_since(&store));
                store = after;
            }
        }
        let history = History { start: 1, operations, log: Some(log), watches: Vec::new() };
        let found = check(&history);
        prop_assert!(found.is_ok(), "{:?} of {:#?}", found, history);
        prop_assert_eq!(found.map(|found| found.store), Ok(store));
    }
}
