//! Seeds that must be sound, seeds that must not be, and that a seed repeats a run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use cfgsvc_sim::defect::Defect;
use cfgsvc_sim::plan::Plan;
use cfgsvc_sim::run::{Report, run};

/// Runs seeds on two threads until one fails; returns the failure of the smallest.
fn first_failure(seeds: u64, defect: Option<Defect>) -> Option<Report> {
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<Report>> = Mutex::new(None);
    let work = || {
        while failed.lock().expect("no panic under it").is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let report = run(Plan::new(seed, defect), false);
            if report.failure.is_some() {
                let mut failed = failed.lock().expect("no panic under it");
                if failed.as_ref().is_none_or(|first| report.seed < first.seed) {
                    *failed = Some(report);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    failed.into_inner().expect("no panic under it")
}

#[test]
fn seeds_are_sound() {
    if let Some(report) = first_failure(SOUND_SEEDS, None) {
        panic!(
            "{}\nseed {} failed: {}\nagain: cargo run -p cfgsvc-sim --release -- --seed {} --verbose",
            report.lines.join("\n"),
            report.seed,
            report.failure.unwrap_or_default(),
            report.seed
        );
    }
}

#[test]
fn seed_repeats_a_run_to_the_byte_and_another_does_not() {
    for seed in [2, 5] {
        let first = run(Plan::new(seed, None), true);
        let second = run(Plan::new(seed, None), true);
        assert_eq!(first.lines, second.lines, "seed {seed}");
        assert_eq!(first.trace_hash, second.trace_hash);
        assert_eq!(first.counts, second.counts);
        assert!(
            first.events > 100,
            "a run of {} events shows nothing",
            first.events
        );
        let other = run(Plan::new(seed + 1, None), false);
        assert_ne!(first.trace_hash, other.trace_hash);
    }
}

/// Seeds of [`seeds_are_sound`].
const SOUND_SEEDS: u64 = 60;

/// Finds `defect` by what one of `words` says, within `seeds`.
fn is_found(defect: Defect, seeds: u64, words: &[&str]) {
    let report = first_failure(seeds, Some(defect));
    let why = report.and_then(|report| report.failure);
    let why = why.unwrap_or_else(|| panic!("{defect:?} is not found within {seeds} seeds"));
    assert!(
        words.iter().any(|word| why.contains(word)),
        "{defect:?}: {why}"
    );
}

#[test]
fn defect_restored_leader_is_found() {
    is_found(
        Defect::LeaderRestore,
        40,
        &["is another one at member", "differ after"],
    );
}

#[test]
fn defect_vote_that_is_not_persisted_is_found() {
    is_found(Defect::VoteNotPersisted, 20, &["it had promised"]);
}

#[test]
fn defect_apply_apart_from_its_index_is_found() {
    is_found(
        Defect::ApplyNotAtomic,
        40,
        &[
            "differ after",
            "comes after",
            "elsewhere",
            "publishes revision",
        ],
    );
}
