//! Histories as large as tests record are checked in seconds.

use std::collections::BTreeMap;

use cfgsvc_history::{Condition, History, Operation, Outcome, Request, Store, check};

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What `clients` were told that ask without a pause; every 200th never heard, half of these were
/// executed, at some time later.
fn history(seed: u64, count: usize, keys: u64, clients: u64) -> History {
    let mut numbers = Numbers(seed);
    let mut store = Store::new(1);
    let mut operations = Vec::new();
    let mut late: Vec<(u64, Request)> = Vec::new();
    let mut ready = vec![0_u64; usize::try_from(clients).expect("a few")];
    for id in 0..count {
        let client = (0..ready.len()).min_by_key(|client| ready[*client]);
        let client = client.expect("there are some");
        // Points are in order of the operations, calls before and ends after them overlap.
        let point = 1_000 * (id as u64 + clients);
        let call = ready[client].max(point.saturating_sub(500 * clients)) + 1;
        let end = point + 1 + numbers.below(500 * clients);
        ready[client] = end;
        let key = format!("k{}", numbers.below(keys));
        let one = |value| BTreeMap::from([(key.clone(), value)]);
        let at = store.keys.get(&key).map_or(0, |kv| kv.modified);
        let request = match numbers.below(8) {
            0..3 => Request::Write {
                when: None,
                changes: one(Some(format!("v{id}"))),
            },
            3 => Request::Write {
                when: None,
                changes: one(None),
            },
            4 => Request::Write {
                when: Some((key.clone(), Condition::Revision(at))),
                changes: one(Some(format!("v{id}"))),
            },
            5 => Request::Read {
                key: None,
                serializable: false,
            },
            _ => Request::Read {
                key: Some(key.clone()),
                serializable: false,
            },
        };
        if late.first().is_some_and(|(when, _)| *when <= point) {
            let (_, request) = late.remove(0);
            let (_, after) = store.execute(&request);
            store = after.unwrap_or(store);
        }
        let outcome = if id % 200 == 7 {
            if id % 400 == 7 {
                late.push((point + 20_000, request.clone()));
            }
            Outcome::Unknown
        } else {
            let (reply, after) = store.execute(&request);
            store = after.unwrap_or(store);
            Outcome::Done(reply)
        };
        operations.push(Operation {
            id,
            client: format!("c{client}"),
            call,
            end,
            request,
            outcome,
        });
    }
    History {
        start: 1,
        operations,
        ..History::default()
    }
}

#[test]
fn ten_thousand_operations_on_ten_keys_with_fifty_unknown_outcomes() {
    for seed in 0..5 {
        let history = history(seed, 10_000, 10, 12);
        let unknown = |one: &&Operation| one.outcome == Outcome::Unknown;
        assert_eq!(history.operations.iter().filter(unknown).count(), 50);
        let explained = check(&history).unwrap_or_else(|refusal| panic!("{refusal}"));
        assert!(explained.steps < 100_000, "{} steps", explained.steps);
    }
}

#[test]
fn one_wrong_answer_among_ten_thousand_is_found() {
    let mut history = history(1, 10_000, 10, 12);
    let swapped = history.operations.iter().position(|one| {
        one.id > 8_000
            && matches!(one.request, Request::Read { key: None, .. })
            && matches!(one.outcome, Outcome::Done(_))
    });
    let one = &mut history.operations[swapped.expect("there are reads")];
    let id = one.id;
    if let Outcome::Done(reply) = &mut one.outcome {
        reply.revision -= 1;
    }
    let refusal = check(&history).expect_err("it is wrong");
    assert!(refusal.operations.contains(&id), "{refusal}");
}
