//! The master, rule by rule. The simulation has the faults; here each rule is seen alone.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for some effects and records among many"
)]

use super::event::{
    Assignment, Failed, FetchFailed, Finished, Progress, Refusal, Report, WorkerInfo,
};
use super::*;
use crate::job::inputs_digest;
use crate::plan::SplitList;
use crate::record::{BUILTIN_COUNT, Batch, FailureClass, JobFailureKind};
use crate::spec::JobOptions;
use crate::tests::hostile::{host, image, worker};

const JOB: JobId = JobId(1);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A master whose batches are in the log at once, and workers that say what they are told to.
struct Bench {
    master: Master,
    now: Duration,
    sequences: BTreeMap<Incarnation, u64>,
    /// What runs at each, by assignment.
    running: BTreeMap<Incarnation, Vec<Assignment>>,
    log: Vec<Batch>,
    /// All effects but assignments and appends, since they were last taken.
    said: Vec<Effect>,
    /// Appends are answered.
    answers: bool,
}

impl Bench {
    fn new(maps: u32, reduces: u32, options: JobOptions, workers: &[WorkerInfo]) -> Self {
        let image = image(JOB.0, maps, reduces, options);
        Self::resume(Epoch(5), image, workers)
    }

    fn resume(epoch: Epoch, image: JobImage, workers: &[WorkerInfo]) -> Self {
        let mut bench = Self {
            master: Master::new(epoch, Settings::default(), Duration::ZERO),
            now: Duration::ZERO,
            sequences: BTreeMap::new(),
            running: BTreeMap::new(),
            log: image.log.clone(),
            said: Vec::new(),
            answers: true,
        };
        bench.step(Event::Job(Box::new(image)));
        for info in workers {
            bench.step(Event::Joined(info.clone()));
            bench.report(info.incarnation, |_| {});
        }
        bench
    }

    fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.master.step(self.now, event) {
                match effect {
                    Effect::Assign { to, assignment } => {
                        self.running.entry(to).or_default().push(*assignment);
                    }
                    Effect::Append {
                        job,
                        sequence,
                        batch,
                        ..
                    } if self.answers => {
                        assert_eq!(sequence, self.log.len() as u64 + 1, "numbers follow");
                        self.log.push(batch);
                        events.push(Event::Appended { job, sequence });
                    }
                    Effect::Stop { to, attempt, .. } => {
                        self.remove(to, attempt);
                        self.said.push(effect);
                    }
                    effect => self.said.push(effect),
                }
            }
            self.master.check();
        }
    }

    fn remove(&mut self, at: Incarnation, attempt: AttemptId) {
        let running = self.running.entry(at).or_default();
        running.retain(|assignment| assignment.attempt != attempt);
    }

    fn after(&mut self, time: Duration) {
        for _ in 0..10 {
            self.now += time / 10;
            self.step(Event::Time);
            self.step(Event::Confirmed);
            let heard: Vec<_> = self.sequences.keys().copied().collect();
            for incarnation in heard {
                self.report(incarnation, |_| {});
            }
        }
    }

    /// What runs there, and what `change` adds.
    fn report(&mut self, at: Incarnation, change: impl FnOnce(&mut Report)) {
        let sequence = self.sequences.entry(at).or_default();
        *sequence += 1;
        let assigned = self.running.entry(at).or_default();
        let running = assigned.iter().map(|assignment| Progress {
            job: assignment.job,
            task: assignment.task,
            attempt: assignment.attempt,
            bytes: 0,
            records: 0,
        });
        let mut report = Report {
            incarnation: at,
            sequence: *sequence,
            epoch: self.master.epoch(),
            accepted: AttemptId::NONE,
            running: running.collect(),
            finished: Vec::new(),
            failed: Vec::new(),
            fetch_failed: Vec::new(),
            known: Vec::new(),
        };
        change(&mut report);
        self.step(Event::Report(Box::new(report)));
    }

    /// What runs at a worker, by task.
    fn at(&self, worker: u64) -> Vec<String> {
        let running = self.running.get(&Incarnation(worker)).into_iter().flatten();
        running
            .map(|assignment| assignment.task.to_string())
            .collect()
    }

    fn find(&self, worker: u64, task: TaskId) -> AttemptId {
        let mut running = self.running[&Incarnation(worker)].iter();
        let found = running.find(|assignment| assignment.task == task);
        found
            .unwrap_or_else(|| panic!("{task} at {worker}: {:?}", self.at(worker)))
            .attempt
    }

    fn finish(&mut self, worker: u64, task: TaskId) {
        self.finish_with(worker, task, content(task.index));
    }

    fn finish_with(&mut self, worker: u64, task: TaskId, content: u64) {
        let attempt = self.find(worker, task);
        let maps = self.master.view(JOB).map_or(0, |view| view.maps.count);
        let finished = finished(task, attempt, content, maps);
        self.remove(Incarnation(worker), attempt);
        self.report(Incarnation(worker), |report| report.finished.push(finished));
    }

    fn fail(&mut self, worker: u64, task: TaskId, class: FailureClass, position: Option<u64>) {
        let failed = Failed {
            job: JOB,
            task,
            attempt: self.find(worker, task),
            class,
            message: "é".repeat(400),
            position,
        };
        self.remove(Incarnation(worker), failed.attempt);
        self.report(Incarnation(worker), |report| report.failed.push(failed));
    }

    fn winner(&self, task: TaskId) -> Option<AttemptId> {
        self.master
            .state(JOB)?
            .winner(task)
            .map(|winner| winner.attempt)
    }

    /// How the job ended.
    fn ended(&self) -> Option<&JobStatus> {
        self.said.iter().find_map(|effect| match effect {
            Effect::JobEnded { status, .. } => Some(status),
            _ => None,
        })
    }

    fn failure(&self) -> Option<(JobFailureKind, Option<TaskId>)> {
        match self.ended()? {
            JobStatus::Failed(failure) => Some((failure.kind, failure.task)),
            JobStatus::Running | JobStatus::Done | JobStatus::Cancelled => None,
        }
    }
}

fn content(map: u32) -> u64 {
    u64::from(map) + 100
}

fn finished(task: TaskId, attempt: AttemptId, content_found: u64, maps: u32) -> Finished {
    let inputs = inputs_digest((0..maps).map(|map| (map, content(map))));
    Finished {
        job: JOB,
        task,
        attempt,
        outputs: Vec::new(),
        content: content_found,
        inputs: if task.phase == Phase::Reduce {
            inputs
        } else {
            0
        },
        builtin: [1; BUILTIN_COUNT],
        counters: Vec::new(),
    }
}

fn workers(count: u64, slots: u32) -> Vec<WorkerInfo> {
    (1..=count).map(|name| worker(name, name, slots)).collect()
}

const M0: TaskId = TaskId::map(0);
const M1: TaskId = TaskId::map(1);
const R0: TaskId = TaskId::reduce(0);
const R1: TaskId = TaskId::reduce(1);

#[test]
fn maps_go_to_their_host_then_to_its_zone_then_anywhere() {
    // Hosts 1 and 3 are in a zone; maps 1 and 3 read files there, map 0 one of a third host.
    let mut bench = Bench::new(
        4,
        0,
        JobOptions::default(),
        &[worker(1, 1, 1), worker(3, 3, 1)],
    );
    assert!(bench.at(1).is_empty(), "it hears first who is there");
    bench.after(secs(3));
    assert_eq!(
        (bench.at(1), bench.at(3)),
        (vec!["map-00001".to_owned()], vec!["map-00003".to_owned()])
    );
    bench.finish(1, TaskId::map(1));
    assert_eq!(bench.at(1), ["map-00000"]);
    let mut bench = Bench::new(4, 0, JobOptions::default(), &[worker(1, 1, 4)]);
    bench.after(secs(3));
    assert_eq!(bench.at(1)[0], "map-00001");
    // Nobody works on host 3, so that it is near is not known.
    assert_eq!(bench.at(1).len(), 4);
}

#[test]
fn a_map_waits_for_its_host_as_long_as_the_job_says() {
    let options = JobOptions {
        locality_wait_ms: 5_000,
        ..JobOptions::default()
    };
    let mut bench = Bench::new(2, 0, options.clone(), &[worker(1, 1, 2)]);
    bench.after(secs(4));
    assert_eq!(bench.at(1), ["map-00001"]);
    bench.after(secs(5));
    assert_eq!(bench.at(1), ["map-00001"], "then it waits for the zone");
    bench.after(secs(2));
    assert_eq!(bench.at(1), ["map-00001", "map-00000"]);
}

#[test]
fn a_worker_with_nothing_left_on_its_host_takes_no_map_of_a_neighbour_that_still_waits() {
    let options = JobOptions {
        locality_wait_ms: 5_000,
        ..JobOptions::default()
    };
    let mut image = image(JOB.0, 3, 0, options);
    let mut runs: Vec<_> = image.splits.runs().map(|(_, _, run)| run.clone()).collect();
    for (run, on) in runs.iter_mut().zip([1, 3, 3]) {
        run.hosts = vec![host(on)];
    }
    image.splits = SplitList::new(runs).expect("as before");
    // Two hosts of one zone, a slot each.
    let two = [worker(1, 1, 1), worker(3, 3, 1)];
    let mut bench = Bench::resume(Epoch(5), image, &two);
    bench.after(secs(3));
    assert_eq!(bench.at(1), ["map-00000"]);
    assert_eq!(bench.at(3), ["map-00001"]);
    bench.finish(1, M0);
    bench.after(secs(1));
    assert!(bench.at(1).is_empty(), "what waits, waits for host 3");
    bench.after(secs(2));
    assert_eq!(bench.at(1), ["map-00002"], "it has waited for 5 s");
}

#[test]
fn the_job_is_done_when_the_group_has_all_reduces() {
    let mut bench = Bench::new(2, 2, JobOptions::default(), &workers(2, 2));
    bench.after(secs(3));
    bench.finish(1, M1);
    bench.finish(2, M0);
    let at = |bench: &Bench, task: TaskId| {
        let here = bench.at(1).contains(&task.to_string());
        if here { 1 } else { 2 }
    };
    bench.finish(at(&bench, R0), R0);
    assert_eq!(bench.ended(), None);
    bench.answers = false;
    bench.finish(at(&bench, R1), R1);
    assert_eq!(bench.ended(), None, "the group does not have it yet");
    let sequence = bench.log.len() as u64 + 1;
    bench.step(Event::Appended { job: JOB, sequence });
    assert_eq!(bench.ended(), Some(&JobStatus::Done));
    let won = bench.said.iter().filter(|effect| {
        matches!(
            effect,
            Effect::Tell {
                outcome: Outcome::Won,
                ..
            }
        )
    });
    assert_eq!(won.count(), 4);
}

#[test]
fn with_a_worker_its_maps_are_lost_and_its_reduces_are_not() {
    let mut bench = Bench::new(2, 2, JobOptions::default(), &[worker(1, 1, 4)]);
    bench.after(secs(3));
    bench.finish(1, M0);
    bench.finish(1, M1);
    bench.finish(1, R0);
    let before = bench.winner(R0).expect("it has won");
    bench.step(Event::Gone(Incarnation(1)));
    assert_eq!((bench.winner(M0), bench.winner(M1)), (None, None));
    assert_eq!(bench.winner(R0), Some(before));
    bench.sequences.clear();
    bench.step(Event::Joined(worker(1, 9, 4)));
    bench.report(Incarnation(9), |_| {});
    bench.after(secs(3));
    let mut runs = bench.at(9);
    runs.sort();
    assert_eq!(runs, ["map-00000", "map-00001"]);
    bench.finish(9, M0);
    bench.finish(9, M1);
    assert_eq!(bench.at(9), ["reduce-00001"]);
    bench.finish(9, R1);
    assert_eq!(bench.ended(), Some(&JobStatus::Done));
}

#[test]
fn outputs_of_a_job_that_only_maps_survive_their_worker() {
    let mut bench = Bench::new(2, 0, JobOptions::default(), &workers(1, 1));
    bench.after(secs(3));
    bench.finish(1, M1);
    let before = bench.winner(M1);
    bench.step(Event::Gone(Incarnation(1)));
    assert!(before.is_some());
    assert_eq!(bench.winner(M1), before);
}

#[test]
fn reduces_that_hold_all_slots_make_room_for_maps() {
    let mut bench = Bench::new(2, 4, JobOptions::default(), &workers(2, 2));
    bench.after(secs(3));
    bench.finish(1, M1);
    bench.finish(2, M0);
    assert_eq!(
        (bench.at(1).len(), bench.at(2).len()),
        (2, 2),
        "four reduces, four slots"
    );
    let missed = FetchFailed {
        job: JOB,
        reader: bench.running[&Incarnation(1)][0].attempt,
        map: 0,
        attempt: bench.winner(M0).expect("it has won"),
        holder: Incarnation(2),
        damaged: true,
    };
    bench.report(Incarnation(1), |report| report.fetch_failed.push(missed));
    let all = [bench.at(1), bench.at(2)].concat();
    assert!(all.contains(&"map-00000".to_owned()), "{all:?}");
    assert_eq!(all.len(), 4);
}

#[test]
fn a_task_that_fails_four_times_fails_its_job() {
    let mut bench = Bench::new(2, 0, JobOptions::default(), &workers(3, 1));
    bench.after(secs(3));
    let mut ran_at = Vec::new();
    for _ in 0..4 {
        let found = (1..=3).find(|worker| bench.at(*worker).contains(&M0.to_string()));
        let at = found.expect("it runs somewhere");
        ran_at.push(at);
        bench.fail(at, M0, FailureClass::UserCode, None);
    }
    assert_eq!(
        bench.failure(),
        Some((JobFailureKind::AttemptsExhausted, Some(M0)))
    );
    assert!(
        ran_at.windows(2).all(|pair| pair[0] != pair[1]),
        "elsewhere each time: {ran_at:?}"
    );
    let stored = bench
        .log
        .iter()
        .flat_map(|batch| &batch.records)
        .find_map(|it| match it {
            Record::Failed { message, .. } => Some(message.len()),
            _ => None,
        });
    assert_eq!(stored, Some(512), "a message is cut");
}

#[test]
fn what_was_killed_or_could_not_fetch_is_no_failure() {
    for class in [
        FailureClass::Killed,
        FailureClass::Fenced,
        FailureClass::FetchLost,
    ] {
        let mut bench = Bench::new(1, 0, JobOptions::default(), &workers(1, 1));
        bench.after(secs(3));
        for _ in 0..9 {
            bench.fail(1, M0, class, None);
            bench.after(secs(1));
        }
        assert_eq!(bench.at(1), ["map-00000"], "{class}");
        assert!(bench.log.is_empty());
    }
}

#[test]
fn what_will_not_pass_fails_the_job_at_once() {
    let mut bench = Bench::new(1, 0, JobOptions::default(), &workers(1, 1));
    bench.after(secs(3));
    bench.fail(1, M0, FailureClass::IoFatal, None);
    assert_eq!(bench.failure(), Some((JobFailureKind::IoFatal, Some(M0))));
}

#[test]
fn a_record_that_crashes_two_attempts_is_left_out_if_the_job_allows_it() {
    let options = JobOptions {
        skipped_max: 1,
        ..JobOptions::default()
    };
    let mut bench = Bench::new(1, 0, options, &workers(1, 1));
    bench.after(secs(3));
    bench.fail(1, M0, FailureClass::BadRecord, Some(7));
    assert!(bench.running[&Incarnation(1)][0].skip.is_empty());
    bench.fail(1, M0, FailureClass::BadRecord, Some(7));
    assert_eq!(bench.running[&Incarnation(1)][0].skip, [(7, 1)]);
    // There is one to skip, not two.
    for _ in 0..4 {
        // The worker rests now and then.
        bench.after(secs(100));
        assert_eq!(bench.failure(), None);
        bench.fail(1, M0, FailureClass::BadRecord, Some(9));
    }
    assert_eq!(
        bench.failure(),
        Some((JobFailureKind::AttemptsExhausted, Some(M0)))
    );
}

#[test]
fn a_worker_with_many_failures_in_a_row_rests() {
    let options = JobOptions {
        attempts_max: 9,
        ..JobOptions::default()
    };
    let mut bench = Bench::new(8, 0, options, &workers(1, 4));
    bench.after(secs(3));
    for _ in 0..4 {
        let task = bench.running[&Incarnation(1)][0].task;
        bench.fail(1, task, FailureClass::DiskFull, None);
    }
    assert_eq!(
        bench.at(1).len(),
        3,
        "what runs goes on, and nothing is added"
    );
    bench.after(secs(20));
    assert_eq!(bench.at(1).len(), 3);
    bench.after(secs(11));
    assert_eq!(bench.at(1).len(), 4);
}

/// Three of four maps done in a second each; the last one runs at worker 1.
fn with_a_straggler(options: JobOptions) -> Bench {
    let mut bench = Bench::new(4, 0, options, &workers(4, 1));
    bench.after(secs(3));
    for worker in 1..=4 {
        let task = bench.running[&Incarnation(worker)][0].task;
        if task != M1 {
            bench.finish(worker, task);
        }
    }
    bench
}

#[test]
fn a_straggler_gets_a_backup_elsewhere_and_the_first_to_finish_wins() {
    let mut bench = with_a_straggler(JobOptions::default());
    bench.after(secs(8));
    let count = |bench: &Bench| (1..=4).map(|worker| bench.at(worker).len()).sum::<usize>();
    assert_eq!(count(&bench), 1, "ten seconds are not over");
    bench.after(secs(4));
    assert_eq!(count(&bench), 2);
    let at = (2..=4)
        .find(|worker| !bench.at(*worker).is_empty())
        .expect("not where it runs");
    let first = bench.find(1, M1);
    let backup = bench.find(at, M1);
    bench.finish(at, M1);
    assert_eq!(bench.ended(), Some(&JobStatus::Done));
    let stopped = Effect::Stop {
        to: Incarnation(1),
        job: JOB,
        attempt: first,
        reason: StopReason::Lost(backup),
    };
    assert!(bench.said.contains(&stopped), "{:?}", bench.said);
}

#[test]
fn a_job_with_effects_outside_gets_no_backups() {
    let mut bench = with_a_straggler(JobOptions {
        external_effects: true,
        ..JobOptions::default()
    });
    bench.after(secs(60));
    assert_eq!(
        (1..=4).map(|worker| bench.at(worker).len()).sum::<usize>(),
        1
    );
}

#[test]
fn without_workers_a_job_waits_a_minute_and_fails() {
    let mut bench = Bench::new(1, 0, JobOptions::default(), &workers(1, 1));
    bench.after(secs(3));
    bench.sequences.clear();
    bench.step(Event::Gone(Incarnation(1)));
    bench.after(secs(59));
    assert_eq!(bench.failure(), None);
    bench.after(secs(10));
    assert_eq!(bench.failure(), Some((JobFailureKind::NoWorkers, None)));
}

#[test]
fn a_map_that_changes_restarts_reduces_or_fails_the_job() {
    for reduce_has_won in [false, true] {
        let mut bench = Bench::new(1, 2, JobOptions::default(), &workers(1, 4));
        bench.after(secs(3));
        bench.finish(1, M0);
        if reduce_has_won {
            bench.finish(1, R0);
        }
        let missed = FetchFailed {
            job: JOB,
            reader: bench.find(1, R1),
            map: 0,
            attempt: bench.winner(M0).expect("it has won"),
            holder: Incarnation(1),
            damaged: true,
        };
        let reader = missed.reader;
        bench.report(Incarnation(1), |report| report.fetch_failed.push(missed));
        bench.finish_with(1, M0, 999);
        if reduce_has_won {
            assert_eq!(
                bench.failure(),
                Some((JobFailureKind::NonDeterministic, Some(M0)))
            );
        } else {
            assert_eq!(bench.failure(), None);
            assert_ne!(bench.find(1, R1), reader, "another attempt");
        }
    }
}

/// Another master may follow, to which a revocation that was only proposed never happened.
#[test]
fn workers_are_told_where_outputs_are_by_the_log_and_not_by_what_is_proposed() {
    let mut bench = Bench::new(1, 1, JobOptions::default(), &workers(2, 2));
    bench.after(secs(3));
    bench.finish(1, M0);
    let at = if bench.at(1).is_empty() { 2 } else { 1 };
    let winner = bench.winner(M0).expect("it has won");
    let missed = FetchFailed {
        job: JOB,
        reader: bench.find(at, R0),
        map: 0,
        attempt: winner,
        holder: Incarnation(1),
        damaged: true,
    };
    bench.answers = false;
    bench.report(Incarnation(at), |report| report.fetch_failed.push(missed));
    assert_eq!(bench.winner(M0), None, "that is proposed");
    let known = |bench: &mut Bench, from| {
        bench.said.clear();
        bench.report(Incarnation(2), |report| report.known.push((JOB, from)));
        bench.said.iter().find_map(|effect| match effect {
            Effect::Locations { next, entries, .. } => {
                let entries = entries
                    .iter()
                    .map(|(map, it)| (*map, it.map(|it| it.attempt)));
                Some((*next, entries.collect::<Vec<_>>()))
            }
            _ => None,
        })
    };
    assert_eq!(known(&mut bench, 0), Some((1, vec![(0, Some(winner))])));
    assert_eq!(known(&mut bench, 1), None);
    bench.after(secs(1));
    let sequence = bench.log.len() as u64 + 1;
    bench.step(Event::Appended { job: JOB, sequence });
    assert_eq!(known(&mut bench, 1), Some((2, vec![(0, None)])));
}

#[test]
fn an_append_of_unknown_outcome_goes_again_as_it_was() {
    let mut bench = Bench::new(2, 0, JobOptions::default(), &workers(1, 2));
    bench.after(secs(3));
    bench.answers = false;
    bench.finish(1, M1);
    bench.after(secs(2));
    let appends = |bench: &Bench| {
        let effects = bench
            .said
            .iter()
            .filter(|it| matches!(it, Effect::Append { .. }));
        effects.cloned().collect::<Vec<_>>()
    };
    assert_eq!(appends(&bench).len(), 1);
    let sequence = bench.log.len() as u64 + 1;
    bench.step(Event::Unknown { job: JOB, sequence });
    bench.finish(1, M0);
    bench.after(secs(1));
    let sent = appends(&bench);
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
    let Effect::Append { batch, .. } = &sent[0] else {
        unreachable!("they were filtered");
    };
    // It is there: the answer was lost, not the batch.
    let why = Refusal::Present(Box::new(batch.clone()));
    bench.log.push(batch.clone());
    bench.answers = true;
    bench.step(Event::Refused {
        job: JOB,
        sequence,
        why,
    });
    assert_eq!(bench.ended(), Some(&JobStatus::Done));
}

#[test]
fn a_batch_of_another_master_ends_this_one() {
    for why in [
        Refusal::Epoch,
        Refusal::Present(Box::new(Batch {
            epoch: Epoch(6),
            records: vec![Record::Done],
        })),
    ] {
        let mut bench = Bench::new(1, 0, JobOptions::default(), &workers(1, 1));
        bench.after(secs(3));
        bench.answers = false;
        bench.finish(1, M0);
        let sequence = 1;
        bench.step(Event::Refused {
            job: JOB,
            sequence,
            why,
        });
        assert!(bench.master.has_stepped_down());
        assert_eq!(bench.ended(), None);
    }
}

#[test]
fn the_next_master_runs_nothing_again_and_adopts_what_runs() {
    let mut bench = Bench::new(
        2,
        2,
        JobOptions::default(),
        &[worker(1, 1, 1), worker(2, 2, 1)],
    );
    bench.after(secs(3));
    bench.finish(1, M1);
    bench.after(secs(1));
    let running = bench.find(2, M0);
    let mut image = image(JOB.0, 2, 2, JobOptions::default());
    image.log = bench.log.clone();
    let assignments = bench.running[&Incarnation(2)].clone();
    let mut next = Bench::resume(Epoch(6), image, &[worker(1, 1, 1)]);
    next.step(Event::Joined(worker(2, 2, 1)));
    next.running.insert(Incarnation(2), assignments);
    next.report(Incarnation(2), |_| {});
    next.after(secs(5));
    assert_eq!(next.winner(M1), bench.winner(M1));
    assert_eq!(next.at(2), ["map-00000"], "it goes on, once");
    next.finish(2, M0);
    assert_eq!(
        next.winner(M0),
        Some(running),
        "an attempt of the epoch before"
    );
    assert!(
        next.at(1).iter().all(|task| task.starts_with("reduce")),
        "{:?}",
        next.at(1)
    );
}

#[test]
fn a_winner_that_reports_again_hears_that_it_won_and_others_that_they_lost() {
    let mut bench = Bench::new(2, 0, JobOptions::default(), &workers(2, 1));
    bench.after(secs(3));
    let winner = bench.find(1, M1);
    bench.finish(1, M1);
    bench.after(secs(1));
    bench.said.clear();
    let again = finished(M1, winner, content(1), 2);
    bench.report(Incarnation(1), |report| report.finished.push(again));
    let other = AttemptId {
        epoch: Epoch(4),
        counter: 3,
    };
    let late = finished(M1, other, content(1), 2);
    bench.report(Incarnation(2), |report| report.finished.push(late));
    let outcomes = bench.said.iter().filter_map(|effect| match effect {
        Effect::Tell { outcome, .. } => Some(*outcome),
        _ => None,
    });
    assert_eq!(
        outcomes.collect::<Vec<_>>(),
        [Outcome::AlreadyWon, Outcome::Lost(winner)]
    );
}

#[test]
fn a_report_of_a_later_epoch_or_an_unknown_worker_is_refused() {
    let mut bench = Bench::new(1, 0, JobOptions::default(), &workers(1, 1));
    bench.report(Incarnation(1), |report| report.epoch = Epoch(6));
    bench.report(Incarnation(7), |_| {});
    let refused = bench
        .said
        .iter()
        .filter(|it| matches!(it, Effect::Rejected { .. }));
    assert_eq!(refused.count(), 2);
}

#[test]
fn a_worker_that_falls_silent_loses_what_it_runs_and_keeps_what_it_has() {
    let mut bench = Bench::new(2, 1, JobOptions::default(), &workers(2, 1));
    bench.after(secs(3));
    bench.finish(1, M1);
    assert_eq!(bench.at(2), ["map-00000"]);
    bench.sequences.remove(&Incarnation(2));
    bench.after(secs(25));
    assert!(
        bench.at(1).contains(&"map-00000".to_owned()),
        "{:?}",
        bench.at(1)
    );
    assert!(bench.winner(M1).is_some());
}

#[path = "loss_tests.rs"]
mod loss;
