//! The gate, case by case.

use std::fmt::Write as _;

use expect_test::expect;
use proptest::prelude::*;

use super::*;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn attempt(epoch: u64, counter: u64) -> AttemptId {
    AttemptId {
        epoch: Epoch(epoch),
        counter,
    }
}

const RUNNING: JobStatus = JobStatus::Running;

fn confirmed() -> Confirmed<'static> {
    Confirmed {
        epoch: Some(Epoch(5)),
        lease_until: secs(10),
        fresh_until: secs(10),
        job: Some(&RUNNING),
        winner: Some(attempt(5, 1)),
    }
}

#[test]
fn what_is_confirmed_may_be_done_and_nothing_else() {
    let deeds = [
        Deed::Begin(Epoch(5)),
        Deed::GoOn,
        Deed::Serve(attempt(5, 1)),
        Deed::Publish(attempt(5, 1)),
        Deed::Begin(Epoch(4)),
        Deed::Begin(Epoch(6)),
        Deed::Serve(attempt(5, 2)),
        Deed::Publish(attempt(5, 2)),
    ];
    let here = confirmed();
    let views = [
        ("as it should be", here, 9),
        (
            "not fresh",
            Confirmed {
                fresh_until: secs(9),
                ..here
            },
            9,
        ),
        (
            "no lease",
            Confirmed {
                lease_until: secs(9),
                ..here
            },
            9,
        ),
        ("no job", Confirmed { job: None, ..here }, 9),
        (
            "job done",
            Confirmed {
                job: Some(&JobStatus::Done),
                ..here
            },
            9,
        ),
        (
            "job cancelled",
            Confirmed {
                job: Some(&JobStatus::Cancelled),
                ..here
            },
            9,
        ),
        (
            "nobody has won",
            Confirmed {
                winner: None,
                ..here
            },
            9,
        ),
        (
            "no master",
            Confirmed {
                epoch: None,
                ..here
            },
            9,
        ),
    ];
    let mut text = String::new();
    for (name, view, now) in views {
        writeln!(text, "{name}").expect("text takes it");
        for deed in deeds {
            let says = may(deed, &view, secs(now)).err().map(|why| why.to_string());
            let says = says.as_deref().unwrap_or("yes");
            writeln!(text, "  {deed:?}: {says}").expect("text takes it");
        }
    }
    expect![[r#"
        as it should be
          Begin(Epoch(5)): yes
          GoOn: yes
          Serve(AttemptId { epoch: Epoch(5), counter: 1 }): yes
          Publish(AttemptId { epoch: Epoch(5), counter: 1 }): yes
          Begin(Epoch(4)): the master has epoch e5, asked by one of e4
          Begin(Epoch(6)): the master has epoch e5, asked by one of e6
          Serve(AttemptId { epoch: Epoch(5), counter: 2 }): attempt 5.1 has won
          Publish(AttemptId { epoch: Epoch(5), counter: 2 }): attempt 5.1 has won
        not fresh
          Begin(Epoch(5)): the group has not confirmed this worker's copy lately
          GoOn: the group has not confirmed this worker's copy lately
          Serve(AttemptId { epoch: Epoch(5), counter: 1 }): the group has not confirmed this worker's copy lately
          Publish(AttemptId { epoch: Epoch(5), counter: 1 }): the group has not confirmed this worker's copy lately
          Begin(Epoch(4)): the group has not confirmed this worker's copy lately
          Begin(Epoch(6)): the group has not confirmed this worker's copy lately
          Serve(AttemptId { epoch: Epoch(5), counter: 2 }): the group has not confirmed this worker's copy lately
          Publish(AttemptId { epoch: Epoch(5), counter: 2 }): the group has not confirmed this worker's copy lately
        no lease
          Begin(Epoch(5)): this worker's lease may be over
          GoOn: this worker's lease may be over
          Serve(AttemptId { epoch: Epoch(5), counter: 1 }): this worker's lease may be over
          Publish(AttemptId { epoch: Epoch(5), counter: 1 }): yes
          Begin(Epoch(4)): this worker's lease may be over
          Begin(Epoch(6)): this worker's lease may be over
          Serve(AttemptId { epoch: Epoch(5), counter: 2 }): this worker's lease may be over
          Publish(AttemptId { epoch: Epoch(5), counter: 2 }): attempt 5.1 has won
        no job
          Begin(Epoch(5)): there is no such job
          GoOn: there is no such job
          Serve(AttemptId { epoch: Epoch(5), counter: 1 }): there is no such job
          Publish(AttemptId { epoch: Epoch(5), counter: 1 }): there is no such job
          Begin(Epoch(4)): there is no such job
          Begin(Epoch(6)): there is no such job
          Serve(AttemptId { epoch: Epoch(5), counter: 2 }): there is no such job
          Publish(AttemptId { epoch: Epoch(5), counter: 2 }): there is no such job
        job done
          Begin(Epoch(5)): the job is over
          GoOn: the job is over
          Serve(AttemptId { epoch: Epoch(5), counter: 1 }): the job is over
          Publish(AttemptId { epoch: Epoch(5), counter: 1 }): yes
          Begin(Epoch(4)): the job is over
          Begin(Epoch(6)): the job is over
          Serve(AttemptId { epoch: Epoch(5), counter: 2 }): the job is over
          Publish(AttemptId { epoch: Epoch(5), counter: 2 }): attempt 5.1 has won
        job cancelled
          Begin(Epoch(5)): the job is over
          GoOn: the job is over
          Serve(AttemptId { epoch: Epoch(5), counter: 1 }): the job is over
          Publish(AttemptId { epoch: Epoch(5), counter: 1 }): the job is over
          Begin(Epoch(4)): the job is over
          Begin(Epoch(6)): the job is over
          Serve(AttemptId { epoch: Epoch(5), counter: 2 }): the job is over
          Publish(AttemptId { epoch: Epoch(5), counter: 2 }): the job is over
        nobody has won
          Begin(Epoch(5)): yes
          GoOn: yes
          Serve(AttemptId { epoch: Epoch(5), counter: 1 }): no attempt has won
          Publish(AttemptId { epoch: Epoch(5), counter: 1 }): no attempt has won
          Begin(Epoch(4)): the master has epoch e5, asked by one of e4
          Begin(Epoch(6)): the master has epoch e5, asked by one of e6
          Serve(AttemptId { epoch: Epoch(5), counter: 2 }): no attempt has won
          Publish(AttemptId { epoch: Epoch(5), counter: 2 }): no attempt has won
        no master
          Begin(Epoch(5)): there is no master, asked by one of e5
          GoOn: yes
          Serve(AttemptId { epoch: Epoch(5), counter: 1 }): yes
          Publish(AttemptId { epoch: Epoch(5), counter: 1 }): yes
          Begin(Epoch(4)): there is no master, asked by one of e4
          Begin(Epoch(6)): there is no master, asked by one of e6
          Serve(AttemptId { epoch: Epoch(5), counter: 2 }): attempt 5.1 has won
          Publish(AttemptId { epoch: Epoch(5), counter: 2 }): attempt 5.1 has won
    "#]].assert_eq(&text);
}

#[test]
fn a_lease_counts_for_two_thirds_from_when_the_renewal_was_sent() {
    assert_eq!(lease_deadline(secs(1), secs(9)), secs(7));
    assert_eq!(lease_deadline(Duration::MAX, secs(9)), Duration::MAX);
}

#[test]
fn an_assignment_is_taken_once_and_from_the_latest_master_only() {
    let mut intake = Intake::new();
    assert_eq!(intake.take(attempt(5, 1), Epoch(5)), Taken::New);
    assert_eq!(intake.take(attempt(5, 1), Epoch(5)), Taken::Before);
    assert_eq!(intake.take(attempt(5, 3), Epoch(5)), Taken::New);
    assert_eq!(intake.take(attempt(5, 2), Epoch(5)), Taken::Before);
    assert!(intake.hear(Epoch(6)));
    assert_eq!(intake.take(attempt(5, 4), Epoch(5)), Taken::OldMaster);
    assert_eq!(intake.take(attempt(5, 4), Epoch(6)), Taken::OldMaster);
    assert_eq!(intake.take(attempt(6, 1), Epoch(6)), Taken::New);
}

proptest! {
    #[test]
    fn no_attempt_is_taken_twice_and_epochs_do_not_go_back(
        offers in prop::collection::vec((0..4_u64, 0..6_u64, 0..4_u64), 0..60),
    ) {
        let mut intake = Intake::new();
        let mut taken = Vec::new();
        for (epoch, counter, said) in offers {
            let before = intake;
            let offer = attempt(epoch, counter);
            if intake.take(offer, Epoch(said)) == Taken::New {
                prop_assert!(taken.last().is_none_or(|last| *last < offer));
                prop_assert_eq!(offer.epoch, intake.epoch());
                taken.push(offer);
            }
            prop_assert!(intake.epoch() >= before.epoch() && intake.accepted() >= before.accepted());
        }
    }
}
