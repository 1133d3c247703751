//! What counts as lost, and whose fault it is.

use super::*;

/// A master that takes over a job whose first map was won by worker 1.
fn taken_over(workers: &[WorkerInfo]) -> (Bench, AttemptId) {
    let mut before = Bench::new(2, 1, JobOptions::default(), &[worker(1, 1, 1)]);
    before.after(secs(3));
    before.finish(1, M1);
    before.after(secs(1));
    let winner = before.winner(M1).expect("it has won");
    let mut image = image(JOB.0, 2, 1, JobOptions::default());
    image.log = before.log;
    (Bench::resume(Epoch(6), image, workers), winner)
}

#[test]
fn master_that_does_not_know_yet_who_is_there_takes_nobody_for_lost() {
    let (mut next, winner) = taken_over(&[]);
    let before = next.log.len();
    // Hearing of all jobs may take long.
    for _ in 0..30 {
        next.now += secs(1);
        next.step(Event::Time);
    }
    assert_eq!((next.winner(M1), next.log.len()), (Some(winner), before));
    next.step(Event::Joined(worker(1, 1, 1)));
    next.report(Incarnation(1), |_| {});
    assert!(next.at(1).is_empty(), "others may run it");
    next.after(secs(5));
    assert_eq!(next.winner(M1), Some(winner));
    assert_eq!(next.at(1), ["map-00000"]);
}

#[test]
fn master_that_knows_who_is_there_takes_the_others_for_lost() {
    let (mut next, _) = taken_over(&[worker(2, 2, 1)]);
    next.after(secs(5));
    assert_eq!(next.winner(M1), None);
}

/// A job of two maps, of which worker 1 has the first and worker 2 the second, and four reduces.
fn reducing() -> Bench {
    let mut bench = Bench::new(2, 4, JobOptions::default(), &workers(5, 1));
    bench.after(secs(5));
    let maps = |bench: &Bench, worker| bench.at(worker).iter().any(|task| task.starts_with("map"));
    for (map, task) in [(0, M0), (1, M1)] {
        let at = (1..=5).find(|worker| bench.at(*worker).contains(&task.to_string()));
        bench.finish(at.unwrap_or_else(|| panic!("map {map} runs")), task);
    }
    bench.after(secs(1));
    assert!((1..=5).all(|worker| !maps(&bench, worker)));
    bench
}

/// What runs at a worker misses the output of a map.
fn missed(bench: &Bench, at: u64, map: TaskId, damaged: bool) -> FetchFailed {
    let state = bench.master.state(JOB).expect("it runs");
    let winner = state.winner(map).expect("it has won");
    FetchFailed {
        job: JOB,
        reader: bench.running[&Incarnation(at)][0].attempt,
        map: map.index,
        attempt: winner.attempt,
        holder: winner.incarnation,
        damaged,
    }
}

/// Workers with a reduce.
fn readers(bench: &Bench) -> Vec<u64> {
    (1..=5).filter(|at| !bench.at(*at).is_empty()).collect()
}

#[test]
fn what_readers_could_fetch_at_last_counts_against_nobody() {
    let mut bench = reducing();
    let winner = bench.winner(M0);
    let readers = readers(&bench);
    assert_eq!(readers.len(), 4);
    for _ in 0..3 {
        for at in &readers {
            let missed = missed(&bench, *at, M0, false);
            bench.report(Incarnation(*at), |report| report.fetch_failed.push(missed));
            // It could fetch it: the next report does not say so any more.
            bench.report(Incarnation(*at), |_| {});
        }
        bench.now += secs(8);
    }
    assert_eq!(bench.winner(M0), winner);
    for at in &readers[..3] {
        let missed = missed(&bench, *at, M0, false);
        bench.report(Incarnation(*at), |report| report.fetch_failed.push(missed));
    }
    assert_eq!(bench.winner(M0), None, "three miss it at once");
}

#[test]
fn reader_to_whom_outputs_of_two_workers_are_damaged_goes_elsewhere() {
    let mut bench = reducing();
    let second = bench.winner(M1);
    let at = readers(&bench)[3];
    let first = missed(&bench, at, M0, true);
    bench.report(Incarnation(at), |report| report.fetch_failed.push(first));
    assert_eq!(bench.winner(M0), None, "one may be");
    let more = missed(&bench, at, M1, true);
    let reader = more.reader;
    bench.report(Incarnation(at), |report| report.fetch_failed.push(more));
    assert_eq!(bench.winner(M1), second);
    let is_stopped = |effect: &Effect| match effect {
        Effect::Stop { attempt, .. } => *attempt == reader,
        _ => false,
    };
    assert!(bench.said.iter().any(is_stopped), "{:?}", bench.said);
}
