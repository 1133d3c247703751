//! Masters, workers and the group under virtual time, with everything that may go wrong drawn from
//! a seed. Real: the master, its events and effects, the gate and intake of the worker, the bytes of
//! the log and their fold. Twins: the loops around them, the group, the network, the work.
//!
//! ```text
//! MAPREDUCE_SEEDS=0..5000 cargo test --release -p mapreduce-core seeds_hold -- --nocapture
//! MAPREDUCE_SEEDS=17..18 MAPREDUCE_TRACE=1 cargo test -p mapreduce-core seeds_hold -- --nocapture
//! ```
#![expect(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test: its numbers are small, it shows what happened, and most messages are for others"
)]

mod defect;
mod master;
mod plan;
mod rng;
mod shared;
mod store;
mod work;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;

use defect::Defect;
use world::World;

/// Seeds of a run without more being asked for: a few seconds.
const SEEDS: Range<u64> = 0..120;
/// Seeds after which a defect must have been found.
const DEFECT_SEEDS: u64 = 400;

#[expect(
    clippy::disallowed_methods,
    reason = "how a person asks for other seeds"
)]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn seeds() -> Range<u64> {
    let Some(asked) = setting("MAPREDUCE_SEEDS") else {
        return SEEDS;
    };
    let (first, end) = asked.split_once("..").expect("MAPREDUCE_SEEDS=FIRST..END");
    first.parse().expect("a number")..end.parse().expect("a number")
}

#[test]
fn seeds_hold() {
    let traced = setting("MAPREDUCE_TRACE").is_some();
    let mut totals = BTreeMap::<&str, u64>::new();
    let mut failures = Vec::new();
    for seed in seeds() {
        match World::new(seed, None, traced).run() {
            Ok(outcome) => {
                for (event, count) in outcome.events {
                    *totals.entry(event).or_default() += count;
                }
                for line in &outcome.trace {
                    println!("{line}");
                }
            }
            Err((violation, trace)) => {
                for line in &trace {
                    println!("{line}");
                }
                failures.push(format!(
                    "seed {seed}: {violation}\n  MAPREDUCE_SEEDS={seed}..{} MAPREDUCE_TRACE=1 \
                     cargo test -p mapreduce-core seeds_hold -- --nocapture",
                    seed + 1
                ));
            }
        }
    }
    println!("{totals:#?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    if seeds() == SEEDS {
        // A simulation in which nothing happens proves nothing.
        for event in ["jobs done", "jobs failed", "jobs cancelled", "maps revoked"] {
            assert!(
                totals.get(event).is_some_and(|count| *count > 5),
                "{event}: {totals:?}"
            );
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in [3, 11, 27] {
        let run = || World::new(seed, None, true).run().expect("it holds");
        let (first, second) = (run(), run());
        assert!(!first.trace.is_empty());
        assert_eq!(first.trace, second.trace);
        assert_eq!(first.ended_at, second.ended_at);
    }
}

#[test]
fn each_defect_is_found() {
    let mut missed = Vec::new();
    for defect in Defect::ALL {
        let found = (0..DEFECT_SEEDS).find_map(|seed| {
            let violation = World::new(seed, Some(defect), false).run().err()?.0;
            Some((seed, violation))
        });
        match found {
            Some((seed, violation)) => println!("{defect:?}: seed {seed}: {violation}"),
            None => missed.push(defect),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
