//! A master that is told anything at all: it says no, and keeps its books; what it writes is always
//! a log that holds.

use std::time::Duration;

use proptest::prelude::*;

use crate::job::JobState;
use crate::master::event::{
    Effect, Event, Failed, FetchFailed, Finished, JobImage, Progress, Refusal, Report, WorkerInfo,
};
use crate::master::{Master, Settings};
use crate::names::{
    AttemptId, Epoch, HostName, Incarnation, JobId, Phase, TaskId, WorkerName, ZoneName,
};
use crate::plan::{InputFile, Shape, plan};
use crate::record::{BUILTIN_COUNT, Batch, FailureClass, Header, JobStatus, Output, Record};
use crate::spec::{InputSpec, JobCode, JobOptions, JobSpec, SPEC_VERSION};

const MAPS: u32 = 3;

pub(crate) fn host(name: u64) -> HostName {
    HostName::new(&format!("h{name}")).expect("short")
}

pub(crate) fn worker(name: u64, incarnation: u64, slots: u32) -> WorkerInfo {
    WorkerInfo {
        name: WorkerName::new(&format!("w{name}")).expect("short"),
        incarnation: Incarnation(incarnation),
        slots,
        host: host(name),
        zone: ZoneName::new(&format!("z{}", name % 2)).expect("short"),
    }
}

/// A job whose map `n` reads a file on host `n`.
pub(crate) fn image(job: u64, maps: u32, reduces: u32, options: JobOptions) -> JobImage {
    let files = (0..maps).map(|map| InputFile {
        uri: format!("file:///in/{map}"),
        length: 1,
        splittable: true,
        hosts: vec![host(u64::from(map))],
        version: String::new(),
    });
    let shape = Shape {
        split_bytes: 1,
        reduces,
    };
    let planned = plan(&files.collect::<Vec<_>>(), shape).expect("within limits");
    JobImage {
        job: JobId(job),
        header: Header {
            spec_digest: [0; 32],
            maps,
            reduces,
            status: JobStatus::Running,
        },
        spec: JobSpec {
            version: SPEC_VERSION,
            name: "test".to_owned(),
            code: JobCode::Builtin {
                name: "test".to_owned(),
                arguments: Vec::new(),
            },
            input: InputSpec {
                splits: maps,
                chunks: 1,
                bytes: planned.bytes,
                digest: String::new(),
            },
            reduces,
            output: "file:///out".to_owned(),
            options,
        },
        splits: planned.splits,
        log: Vec::new(),
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..6_u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn task() -> impl Strategy<Value = TaskId> {
    let index = prop_oneof![8 => 0..MAPS + 1, 1 => any::<u32>()];
    let phase = prop_oneof![Just(Phase::Map), Just(Phase::Reduce)];
    (phase, index).prop_map(|(phase, index)| TaskId { phase, index })
}

fn attempt() -> impl Strategy<Value = AttemptId> {
    let epoch = prop_oneof![6 => Just(5), 2 => 3..7_u64, 1 => any::<u64>()].prop_map(Epoch);
    (epoch, number()).prop_map(|(epoch, counter)| AttemptId { epoch, counter })
}

fn job() -> impl Strategy<Value = JobId> {
    prop_oneof![8 => Just(JobId(1)), 1 => number().prop_map(JobId)]
}

fn finished() -> impl Strategy<Value = Finished> {
    let inputs = prop_oneof![
        Just(crate::job::inputs_digest((0..MAPS).map(|map| (map, 1)))),
        any::<u64>()
    ];
    let outputs = prop_oneof![9 => 0..3_usize, 1 => 15..30_usize];
    let counters = prop_oneof![9 => 0..3_usize, 1 => 60..70_usize];
    let content = prop_oneof![5 => Just(1), 1 => number()];
    (
        job(),
        task(),
        attempt(),
        (content, inputs),
        (outputs, counters, number()),
    )
        .prop_map(
            |(job, task, attempt, (content, inputs), (outputs, counters, salt))| Finished {
                job,
                task,
                attempt,
                outputs: vec![Output::default(); outputs],
                content,
                inputs,
                builtin: [salt; BUILTIN_COUNT],
                counters: (0..counters)
                    .map(|n| (format!("c{n}-{salt}"), salt))
                    .collect(),
            },
        )
}

fn failed() -> impl Strategy<Value = Failed> {
    let class = prop::sample::select(FailureClass::ALL.to_vec());
    let position = prop_oneof![Just(None), number().prop_map(Some)];
    let message = prop_oneof![Just(String::new()), Just("é".repeat(1_000))];
    (job(), task(), attempt(), class, position, message).prop_map(
        |(job, task, attempt, class, position, message)| Failed {
            job,
            task,
            attempt,
            class,
            message,
            position,
        },
    )
}

fn report() -> impl Strategy<Value = Event> {
    let running = (job(), task(), attempt(), number());
    let running = running.prop_map(|(job, task, attempt, bytes)| Progress {
        job,
        task,
        attempt,
        bytes,
        records: bytes,
    });
    let missed = (
        job(),
        attempt(),
        0..5_u32,
        attempt(),
        number(),
        any::<bool>(),
    );
    let missed = missed.prop_map(|(job, reader, map, attempt, holder, damaged)| FetchFailed {
        job,
        reader,
        map,
        attempt,
        holder: Incarnation(holder),
        damaged,
    });
    let lists = (
        prop::collection::vec(running, 0..4),
        prop::collection::vec(finished(), 0..3),
        prop::collection::vec(failed(), 0..3),
        prop::collection::vec(missed, 0..3),
        prop::collection::vec((job(), number()), 0..2),
    );
    let epoch = prop_oneof![9 => Just(5), 1 => number()];
    (number(), any::<u64>(), epoch, attempt(), lists).prop_map(
        |(incarnation, sequence, epoch, accepted, lists)| {
            let (running, finished, failed, fetch_failed, known) = lists;
            Event::Report(Box::new(Report {
                incarnation: Incarnation(incarnation),
                // Most are heard: later ones are greater.
                sequence: sequence >> 32,
                epoch: Epoch(epoch),
                accepted,
                running,
                finished,
                failed,
                fetch_failed,
                known,
            }))
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let why = prop_oneof![
        1 => Just(Refusal::NotRunning),
        2 => Just(Refusal::Present(Box::new(Batch { epoch: Epoch(4), records: vec![Record::Done] }))),
    ];
    let slots = prop_oneof![8 => 0..4_u32, 1 => any::<u32>()];
    let options = JobOptions {
        skipped_max: 2,
        ..JobOptions::default()
    };
    prop_oneof![
        12 => report(),
        4 => (0..4_u64, number(), slots)
            .prop_map(|(name, incarnation, slots)| Event::Joined(worker(name, incarnation, slots))),
        1 => number().prop_map(|incarnation| Event::Gone(Incarnation(incarnation))),
        6 => (job(), 0..9_u64).prop_map(|(job, sequence)| Event::Appended { job, sequence }),
        2 => (job(), 0..9_u64).prop_map(|(job, sequence)| Event::Unknown { job, sequence }),
        1 => (job(), number(), why)
            .prop_map(|(job, sequence, why)| Event::Refused { job, sequence, why }),
        2 => (0..3_u64, 0..=MAPS, 0..3_u32)
            .prop_map(move |(job, maps, reduces)| {
                Event::Job(Box::new(image(job, maps, reduces, options.clone())))
            }),
        1 => job().prop_map(Event::Cancelled),
        3 => Just(Event::Time),
        1 => Just(Event::Confirmed),
    ]
}

proptest! {
    #[test]
    fn a_master_that_is_told_anything_keeps_its_books(
        events in prop::collection::vec((event(), 0..3_000_u64), 1..120),
    ) {
        let settings = Settings {
            settle: Duration::from_millis(100),
            ..Settings::default()
        };
        let mut master = Master::new(Epoch(5), settings, Duration::ZERO);
        let mut now = Duration::ZERO;
        let options = JobOptions { skipped_max: 2, ..JobOptions::default() };
        let first = Event::Job(Box::new(image(1, MAPS, 2, options)));
        let mut written = JobState::new(MAPS, 2);
        let joined = (0..3).map(|name| Event::Joined(worker(name, name + 1, 2)));
        let begin = std::iter::once(first).chain(joined).map(|event| (event, 0));
        for (event, ms) in begin.chain(events) {
            // A job that ended may come again under its number, in these events: another job.
            let again = matches!(&event, Event::Job(image) if image.job == JobId(1));
            now += Duration::from_millis(ms);
            if again && master.view(JobId(1)).is_none() && !master.has_stepped_down() {
                continue;
            }
            for effect in master.step(now, event) {
                if let Effect::Append { job: JobId(1), sequence, batch, .. } = effect {
                    let batch = Batch::decode(&batch.encode()).expect("within bounds");
                    if sequence == written.sequence() + 1 {
                        written.apply(sequence, &batch).expect("the log holds");
                        written.check();
                    } else {
                        prop_assert_eq!(sequence, written.sequence(), "the same once more");
                    }
                }
            }
            master.check();
        }
    }
}
