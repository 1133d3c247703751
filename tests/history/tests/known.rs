//! Histories that are known to be wrong are refused by the operations that contradict each other,
//! and known good ones are explained.

use std::collections::BTreeMap;

use cfgsvc_history::{
    Change, Condition, History, Kv, Operation, Outcome, Reply, Request, check, from_lines, to_lines,
};

/// A history whose operations are numbered from 0 as they are added; the store begins at r1.
#[derive(Default)]
struct Build(Vec<Operation>);

fn kv(value: &str, create: i64, modified: i64, version: i64) -> Kv {
    let value = value.to_owned();
    Kv {
        value,
        create,
        modified,
        version,
    }
}

fn done(revision: i64) -> Outcome {
    Outcome::Done(Reply {
        revision,
        succeeded: true,
        deleted: 0,
        found: BTreeMap::new(),
    })
}

fn lost_race(revision: i64, found: Option<(&str, Kv)>) -> Outcome {
    Outcome::Done(Reply {
        revision,
        succeeded: false,
        deleted: 0,
        found: found
            .map(|(key, kv)| (key.to_owned(), kv))
            .into_iter()
            .collect(),
    })
}

fn deleted(revision: i64, count: i64) -> Outcome {
    Outcome::Done(Reply {
        revision,
        succeeded: true,
        deleted: count,
        found: BTreeMap::new(),
    })
}

/// A call and an end.
type Time = (u64, u64);

impl Build {
    fn add(mut self, time: Time, request: Request, outcome: Outcome) -> Self {
        let id = self.0.len();
        self.0.push(Operation {
            id,
            client: format!("c{id}"),
            call: time.0,
            end: time.1,
            request,
            outcome,
        });
        self
    }

    fn write(
        self,
        time: Time,
        when: Option<(&str, Condition)>,
        changes: &[(&str, Option<&str>)],
        outcome: Outcome,
    ) -> Self {
        let owned =
            |(key, value): &(&str, Option<&str>)| ((*key).to_owned(), value.map(str::to_owned));
        let request = Request::Write {
            when: when.map(|(key, condition)| (key.to_owned(), condition)),
            changes: changes.iter().map(owned).collect(),
        };
        self.add(time, request, outcome)
    }

    fn put(self, time: Time, key: &str, value: &str, outcome: Outcome) -> Self {
        self.write(time, None, &[(key, Some(value))], outcome)
    }

    fn delete(self, time: Time, key: &str, outcome: Outcome) -> Self {
        self.write(time, None, &[(key, None)], outcome)
    }

    fn swap(self, time: Time, key: &str, at: i64, value: &str, outcome: Outcome) -> Self {
        let when = Some((key, Condition::Revision(at)));
        self.write(time, when, &[(key, Some(value))], outcome)
    }

    fn read(self, time: Time, serializable: bool, revision: i64, found: &[(&str, Kv)]) -> Self {
        let key = Some("a".to_owned());
        let found = found
            .iter()
            .map(|(key, kv)| ((*key).to_owned(), kv.clone()));
        let outcome = Outcome::Done(Reply {
            revision,
            succeeded: true,
            deleted: 0,
            found: found.collect(),
        });
        self.add(time, Request::Read { key, serializable }, outcome)
    }

    /// A linearizable read of key a.
    fn get(self, time: Time, revision: i64, found: Option<Kv>) -> Self {
        let found: Vec<_> = found.map(|kv| ("a", kv)).into_iter().collect();
        self.read(time, false, revision, &found)
    }

    fn history(self) -> History {
        History {
            start: 1,
            operations: self.0,
            ..History::default()
        }
    }

    #[track_caller]
    fn refused(self, operations: &[usize], words: &str) {
        let refusal = check(&self.history()).expect_err("it is wrong");
        let mut named = refusal.operations.clone();
        named.sort_unstable();
        assert_eq!(named, operations, "{refusal}");
        assert!(refusal.text.contains(words), "{refusal}");
        for id in operations {
            assert!(refusal.text.contains(&format!("#{id} ")), "{refusal}");
        }
    }

    #[track_caller]
    fn explained(self, took_effect: &[usize]) {
        let history = self.history();
        let explained = check(&history).unwrap_or_else(|refusal| panic!("{refusal}"));
        assert_eq!(explained.took_effect, took_effect);
        let again = to_lines(&history).and_then(|text| from_lines(&text));
        assert_eq!(again.expect("it can be read again"), history);
    }
}

fn build() -> Build {
    Build::default()
}

#[test]
fn stale_read_is_refused() {
    let stale = build().put((0, 1), "a", "x", done(2)).get((2, 3), 1, None);
    stale.refused(&[0, 1], "ended before the second began");
}

#[test]
fn read_that_does_not_show_its_revision_is_refused() {
    let wrong = build().put((0, 1), "a", "x", done(2)).get((2, 3), 2, None);
    wrong.refused(&[0, 1], "would have said r2, a is x");
}

#[test]
fn lost_update_is_refused() {
    build()
        .put((0, 1), "a", "x", done(2))
        .put((2, 3), "a", "y", done(3))
        .put((2, 4), "a", "z", done(4))
        .get((5, 6), 4, Some(kv("z", 2, 4, 2)))
        .refused(&[2, 3], "version 3 since r2");
}

#[test]
fn dirty_read_of_a_swap_that_lost_is_refused() {
    build()
        .put((0, 1), "a", "x", done(2))
        .swap(
            (2, 5),
            "a",
            1,
            "y",
            lost_race(2, Some(("a", kv("x", 2, 2, 1)))),
        )
        .get((3, 4), 3, Some(kv("y", 2, 3, 2)))
        .refused(&[1, 2], "a write without an effect was seen");
}

#[test]
fn dirty_read_of_a_write_that_failed_is_refused() {
    build()
        .put((0, 1), "a", "x", Outcome::Failed)
        .get((0, 4), 2, Some(kv("x", 2, 2, 1)))
        .refused(&[0, 1], "a write without an effect was seen");
}

#[test]
fn read_that_goes_back_is_refused() {
    build()
        .put((0, 9), "a", "x", done(2))
        .get((1, 2), 2, Some(kv("x", 2, 2, 1)))
        .get((3, 4), 1, None)
        .refused(&[1, 2], "ended before the second began");
}

#[test]
fn two_swaps_of_one_revision_that_both_win_are_refused() {
    build()
        .put((0, 1), "a", "x", done(2))
        .swap((2, 5), "a", 2, "y", done(3))
        .swap((2, 5), "a", 2, "z", done(4))
        .refused(&[1, 2], "condition did not hold");
}

#[test]
fn swap_that_lost_without_a_winner_is_refused() {
    build()
        .put((0, 1), "a", "x", done(2))
        .swap(
            (2, 5),
            "a",
            2,
            "y",
            lost_race(2, Some(("a", kv("x", 2, 2, 1)))),
        )
        .refused(&[0, 1], "would have said r3");
}

#[test]
fn write_applied_twice_is_refused() {
    build()
        .put((0, 1), "a", "x", done(2))
        .put((2, 3), "a", "y", done(3))
        .get((4, 5), 4, Some(kv("x", 2, 4, 3)))
        .refused(&[0, 2], "one write at two revisions");
    build()
        .put((0, 9), "a", "x", Outcome::Unknown)
        .get((1, 2), 2, Some(kv("x", 2, 2, 1)))
        .get((3, 4), 3, Some(kv("x", 2, 3, 2)))
        .refused(&[0, 2], "one write at two revisions");
}

#[test]
fn revision_told_to_two_writes_is_refused() {
    build()
        .put((0, 1), "a", "x", done(2))
        .put((2, 3), "b", "y", done(2))
        .refused(&[0, 1], "two writes at r2");
}

#[test]
fn revisions_against_real_time_are_refused_over_keys() {
    build()
        .put((0, 1), "a", "x", done(3))
        .put((2, 3), "b", "y", done(2))
        .refused(&[0, 1], "ended before the second began");
}

#[test]
fn acknowledged_write_that_is_lost_is_refused() {
    build()
        .put((0, 1), "a", "x", done(2))
        .put((2, 3), "b", "y", done(3))
        .get((4, 5), 3, None)
        .refused(&[0, 1, 2], "a is x");
    build()
        .put((0, 1), "a", "x", done(2))
        .get((4, 5), 4, Some(kv("x", 2, 2, 1)))
        .refused(&[], "nobody wrote r3");
}

#[test]
fn acknowledged_write_that_the_log_does_not_have_is_refused() {
    let mut history = build().put((0, 1), "a", "x", done(2)).history();
    history.log = Some(Vec::new());
    let refusal = check(&history).expect_err("it is lost");
    assert_eq!(refusal.operations, [0]);
    assert!(refusal.text.contains("r2 is not in the log"), "{refusal}");
}

#[test]
fn log_that_tells_another_change_is_refused() {
    let mut history = build().put((0, 1), "a", "x", done(2)).history();
    let told = |kv| {
        let change = Change {
            revision: 2,
            key: "a".to_owned(),
            kv,
        };
        Some(vec![change])
    };
    history.log = told(None);
    let refusal = check(&history).expect_err("a put is no deletion");
    assert!(refusal.text.contains("the log says a deleted"), "{refusal}");
    history.log = told(Some(kv("x", 2, 2, 2)));
    let refusal = check(&history).expect_err("a wrong version");
    assert!(refusal.text.contains("version 2 since r2"), "{refusal}");
    history.log = told(Some(kv("x", 2, 2, 1)));
    assert!(check(&history).is_ok());
}

#[test]
fn write_that_is_seen_before_its_call_is_refused() {
    build()
        .get((0, 1), 2, Some(kv("x", 2, 2, 1)))
        .put((2, 3), "a", "x", done(2))
        .refused(&[0, 1], "ended before the second began");
    build()
        .get((0, 1), 2, Some(kv("x", 2, 2, 1)))
        .put((2, 3), "a", "x", Outcome::Unknown)
        .refused(&[0, 1], "ended before the second began");
}

#[test]
fn value_that_nobody_wrote_is_refused() {
    let wrong = build().get((0, 1), 2, Some(kv("x", 2, 2, 1)));
    wrong.refused(&[0], "nobody wrote a = x");
}

#[test]
fn deletions_that_do_not_count_right_are_refused() {
    build()
        .put((0, 1), "a", "x", done(2))
        .delete((2, 3), "a", deleted(3, 1))
        .delete((4, 5), "a", deleted(4, 1))
        .refused(&[1, 2], "would have said r3");
    build()
        .put((0, 1), "a", "x", done(2))
        .delete((2, 3), "a", deleted(2, 0))
        .refused(&[0, 1], "deleted 1");
}

#[test]
fn half_of_a_transaction_is_refused() {
    build()
        .write((0, 1), None, &[("a", Some("x")), ("b", Some("y"))], done(2))
        .delete((2, 3), "b", deleted(2, 0))
        .refused(&[0, 1], "deleted 1");
}

#[test]
fn serializable_read_of_a_state_that_never_was_is_refused() {
    build()
        .put((0, 1), "a", "x", done(2))
        .put((2, 3), "a", "y", done(3))
        .read((4, 5), true, 3, &[("a", kv("x", 2, 2, 1))])
        .refused(&[0, 1, 2], "would have said r3, a is y");
    build()
        .read((0, 1), true, 2, &[("a", kv("x", 2, 2, 1))])
        .put((2, 3), "a", "x", done(2))
        .refused(&[0, 1], "ended before the second began");
}

#[test]
fn values_that_are_not_unique_are_refused() {
    build()
        .put((0, 1), "a", "x", done(2))
        .put((2, 3), "a", "x", done(3))
        .refused(&[0, 1], "cannot be checked");
}

#[test]
fn concurrent_operations_are_explained() {
    build()
        .put((0, 10), "a", "x", done(3))
        .put((0, 10), "b", "y", done(2))
        .get((1, 9), 2, None)
        .get((1, 9), 3, Some(kv("x", 3, 3, 1)))
        .swap((2, 20), "a", 3, "z", done(4))
        .swap((2, 20), "a", 3, "w", lost_race(5, None))
        .delete((2, 20), "a", deleted(5, 1))
        .delete((2, 20), "a", deleted(5, 0))
        .explained(&[]);
}

#[test]
fn serializable_read_may_be_as_old_as_it_likes() {
    build()
        .put((0, 1), "a", "x", done(2))
        .put((2, 3), "a", "y", done(3))
        .read((4, 5), true, 2, &[("a", kv("x", 2, 2, 1))])
        .read((6, 7), true, 1, &[])
        .explained(&[]);
}

#[test]
fn unknown_outcome_that_took_effect_late_is_explained() {
    build()
        .put((0, 1), "a", "x", Outcome::Unknown)
        .get((2, 3), 1, None)
        .put((4, 5), "b", "y", done(2))
        .get((6, 7), 3, Some(kv("x", 3, 3, 1)))
        .explained(&[0]);
}

#[test]
fn unknown_outcome_that_never_took_effect_is_explained() {
    build()
        .put((0, 1), "a", "x", Outcome::Unknown)
        .put((2, 3), "a", "y", done(2))
        .get((4, 5), 2, Some(kv("y", 2, 2, 1)))
        .explained(&[]);
}

#[test]
fn revision_that_nobody_owns_up_to_is_given_to_an_unknown_outcome_that_fits() {
    // Only the deletion explains that key a is new again; the put of b fits the revision too.
    build()
        .put((0, 1), "a", "x", done(2))
        .put((2, 3), "b", "y", Outcome::Unknown)
        .delete((2, 3), "a", Outcome::Unknown)
        .put((4, 5), "a", "z", done(4))
        .get((6, 7), 4, Some(kv("z", 4, 4, 1)))
        .explained(&[2]);
}
