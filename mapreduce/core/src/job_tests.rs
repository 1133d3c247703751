//! The fold: what fits is taken, what does not is refused, and counters are sums over winners.

use proptest::prelude::*;

use super::*;
use crate::record::{JobFailureKind, RevokeReason};

fn attempt(epoch: u64, counter: u64) -> AttemptId {
    AttemptId {
        epoch: Epoch(epoch),
        counter,
    }
}

fn won(task: TaskId, by: AttemptId, content: u64, inputs: u64) -> Record {
    Record::Won(Box::new(TaskWon {
        task,
        attempt: by,
        incarnation: Incarnation(by.counter),
        outputs: vec![Output {
            name: String::new(),
            length: 10,
            checksum: content,
        }],
        content,
        inputs,
        counters: Counters {
            builtin: [by.counter, 0, 0, 0, 0, 0, u64::MAX],
            user: Vec::new(),
        },
    }))
}

fn revoked(task: TaskId, by: AttemptId) -> Record {
    Record::Revoked {
        task,
        attempt: by,
        reason: RevokeReason::WorkerLost,
    }
}

/// A job of two maps and a reduce, with these batches of epoch 1.
fn after(batches: &[&[Record]]) -> Result<JobState, FoldError> {
    let mut state = JobState::new(2, 1);
    for (sequence, records) in (1..).zip(batches) {
        let records = records.to_vec();
        let epoch = Epoch(1);
        state.apply(sequence, &Batch { epoch, records })?;
        state.check();
    }
    Ok(state)
}

const MAP0: TaskId = TaskId::map(0);
const MAP1: TaskId = TaskId::map(1);
const REDUCE: TaskId = TaskId::reduce(0);

#[test]
fn a_job_is_done_when_its_reduces_are_and_counts_winners_once() {
    let inputs = inputs_digest([(1, 6), (0, 5)]);
    let maps = [
        won(MAP0, attempt(1, 1), 5, 0),
        won(MAP1, attempt(1, 2), 6, 0),
    ];
    let again = [revoked(MAP0, attempt(1, 1)), won(MAP0, attempt(1, 3), 5, 0)];
    let last = [won(REDUCE, attempt(1, 4), 7, inputs), Record::Done];
    let state = after(&[&maps, &again, &last]).expect("it fits");
    assert_eq!(state.status(), &JobStatus::Done);
    assert_eq!(state.counters().next(), Some(("records_in", 2 + 3 + 4)));
    assert_eq!(
        state.counters().nth(6),
        Some(("records_skipped", 3 * u128::from(u64::MAX)))
    );
    assert_eq!(state.changes(), [0, 1, 0, 0]);
    assert_eq!(state.open(), 0);
}

#[test]
fn what_a_map_has_left_beside_counts_until_another_attempt_has_won() {
    let first = won(MAP0, attempt(1, 1), 5, 0);
    let lost = revoked(MAP0, attempt(1, 1));
    let counted = |batches: &[&[Record]]| {
        let state = after(batches).expect("it fits");
        let counted = state.counted(MAP0).map(|winner| winner.attempt);
        (state.winner(MAP0).is_some(), counted)
    };
    assert_eq!(counted(&[]), (false, None));
    let gone = [first, lost];
    assert_eq!(counted(&[&gone[..1]]), (true, Some(attempt(1, 1))));
    assert_eq!(counted(&[&gone]), (false, Some(attempt(1, 1))));
    let again = [won(MAP0, attempt(1, 3), 5, 0)];
    assert_eq!(counted(&[&gone, &again]), (true, Some(attempt(1, 3))));
}

#[test]
fn what_does_not_fit_is_refused() {
    let first = won(MAP0, attempt(1, 1), 5, 0);
    let second = won(MAP1, attempt(1, 2), 6, 0);
    let inputs = inputs_digest([(0, 5), (1, 6)]);
    let reduce = won(REDUCE, attempt(1, 4), 7, inputs);
    let refused = |records: &[Record]| after(&[records]).expect_err("refused").to_string();
    let twice = [first.clone(), won(MAP0, attempt(1, 2), 5, 0)];
    assert_eq!(
        refused(&twice),
        "map-00000 is won by 1.1, and 1.2 wins it as well"
    );
    let back = [first.clone(), revoked(MAP0, attempt(1, 1)), first.clone()];
    let of_later = "cannot win map-00000: it was revoked, or is of a later epoch";
    assert_eq!(refused(&back), format!("1.1 {of_later}"));
    assert_eq!(
        refused(&[won(MAP0, attempt(2, 1), 5, 0)]),
        format!("2.1 {of_later}")
    );
    assert_eq!(
        refused(&[first.clone(), revoked(MAP0, attempt(1, 2))]),
        "1.2 is not a winner of map-00000 that can be revoked"
    );
    let early = [first.clone(), won(REDUCE, attempt(1, 4), 7, inputs)];
    assert!(refused(&early).contains("has read other map outputs"));
    let all = [first, second, reduce.clone()];
    let kept = [&all[..], &[revoked(REDUCE, attempt(1, 4))]].concat();
    assert!(refused(&kept).contains("is not a winner of reduce-00000"));
    let changed = [
        revoked(MAP0, attempt(1, 1)),
        won(MAP0, attempt(1, 9), 55, 0),
    ];
    let changed = [&all[..], &changed].concat();
    assert!(refused(&changed).contains("gave another content than before"));
    let ended = [&all[..], &[Record::Done, reduce]].concat();
    assert_eq!(refused(&ended), "a record follows the end of the job");
    assert_eq!(
        refused(&[Record::Done]),
        "the job is said to be done, and 1 tasks are not"
    );
    assert_eq!(
        refused(&[won(TaskId::map(2), attempt(1, 1), 0, 0)]),
        "the job has no task map-00002"
    );
}

#[test]
fn batches_follow_each_other_and_epochs_do_not_go_back() {
    let batch = |epoch| Batch {
        epoch: Epoch(epoch),
        records: vec![Record::Failed {
            task: MAP0,
            attempt: attempt(1, 1),
            class: FailureClass::UserCode,
            message: String::new(),
            position: None,
        }],
    };
    let mut state = JobState::new(1, 0);
    assert!(matches!(
        state.apply(2, &batch(1)),
        Err(FoldError::Sequence { .. })
    ));
    state.apply(1, &batch(3)).expect("the first");
    assert!(matches!(
        state.apply(2, &batch(2)),
        Err(FoldError::Epoch { .. })
    ));
    assert!(matches!(
        state.clone().apply(1, &batch(3)),
        Err(FoldError::Sequence { .. })
    ));
}

#[test]
fn a_skipped_record_makes_its_crashes_good() {
    let crash = |position| Record::Failed {
        task: MAP0,
        attempt: attempt(1, 1),
        class: FailureClass::BadRecord,
        message: String::new(),
        position: Some(position),
    };
    let skip = Record::Skipped {
        task: MAP0,
        first: 7,
        count: 1,
    };
    let state = after(&[&[crash(7), crash(7), crash(9), skip]]).expect("it fits");
    let troubles = state.troubles(MAP0).expect("there are some");
    assert_eq!((troubles.failures, state.skipped()), (1, 1));
    assert_eq!(troubles.crashes, BTreeMap::from([(9, 1)]));
    let endless = Record::Skipped {
        task: MAP0,
        first: u64::MAX,
        count: 2,
    };
    assert!(after(&[&[endless]]).is_err());
}

fn record() -> impl Strategy<Value = Record> {
    let phase = prop_oneof![Just(Phase::Map), Just(Phase::Reduce)];
    let task = (phase, 0..3_u32).prop_map(|(phase, index)| TaskId { phase, index });
    let by = (0..3_u64, 0..4_u64).prop_map(|(epoch, counter)| attempt(epoch, counter));
    let digests = prop_oneof![Just(0), Just(inputs_digest([(0, 5), (1, 5)])), any::<u64>()];
    prop_oneof![
        6 => (task.clone(), by.clone(), 5..7_u64, digests)
            .prop_map(|(task, by, content, inputs)| won(task, by, content, inputs)),
        3 => (task.clone(), by.clone()).prop_map(|(task, by)| revoked(task, by)),
        1 => (task, 0..9_u64, any::<u64>())
            .prop_map(|(task, first, count)| Record::Skipped { task, first, count }),
        1 => (0..3_u32).prop_map(|id| Record::CounterName { id, name: "n".to_owned() }),
        1 => Just(Record::Done),
        1 => Just(Record::JobFailed(JobFailure {
            kind: JobFailureKind::NoWorkers,
            task: None,
            message: String::new(),
        })),
    ]
}

proptest! {
    #[test]
    fn any_log_is_folded_or_refused_and_what_is_folded_holds(
        records in prop::collection::vec(record(), 0..40),
    ) {
        let mut state = JobState::new(2, 1);
        let mut sequence = 0;
        for record in records {
            let batch = Batch { epoch: Epoch(2), records: vec![record] };
            let mut next = state.clone();
            // What does not fit is left out, so that the log goes on.
            if next.apply(sequence + 1, &batch).is_ok() {
                sequence += 1;
                state = next;
                state.check();
            }
        }
    }
}
