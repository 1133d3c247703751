//! The largest jobs of the original paper, on the real master: 200,000 maps, 5,000 reduces, 2,000
//! workers of two slots. Workers, network and group are a model; events, records and bytes are not.
//!
//! ```text
//! cargo run --release -p mapreduce-core --example scale
//! cargo run --release -p mapreduce-core --example scale -- 20000 500 200    # M, R, workers
//! ```
//!
//! The model: a map reads 64 MiB in 8 to 12 s; a reduce fetches and sorts for 40 to 60 s once it
//! knows where all maps are, and writes for 20 to 30 s. Stragglers are 1 % of the workers, ten
//! times as slow (a disk that corrects errors, in the paper). A message takes 1 ms, an append 5 ms,
//! a lease 5 s. A worker reports each 3 s, when something has finished, and when it is behind in
//! what it knows.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::cast_possible_truncation,
    reason = "a program that measures and prints"
)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use mapreduce_core::job::inputs_digest;
use mapreduce_core::master::event::{
    Assignment, Effect, Event, Finished, JobImage, Outcome, Progress, Report, WorkerInfo,
};
use mapreduce_core::master::{Master, Settings};
use mapreduce_core::names::{
    AttemptId, Epoch, HostName, Incarnation, JobId, Phase, WorkerName, ZoneName, mix,
};
use mapreduce_core::plan::{InputFile, Shape, plan};
use mapreduce_core::record::{BUILTIN_COUNT, Header, JobStatus, Output};
use mapreduce_core::spec::{JobCode, JobOptions, JobSpec, SPEC_VERSION};

const WAY: Duration = Duration::from_millis(1);
const APPEND: Duration = Duration::from_millis(5);
const LEASE: Duration = Duration::from_secs(5);
const REPORT: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(50);
const JOB: JobId = JobId(9);

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    stragglers: bool,
    backups: bool,
    killed: usize,
}

#[derive(Clone, Copy)]
struct Size {
    maps: u32,
    reduces: u32,
    workers: usize,
}

enum Happens {
    Tick,
    ToWorker(usize, Effect),
    Appended(u64, bool),
    Report(usize, bool),
    Ends(usize, AttemptId, u32),
    Kill,
    Gone(usize),
    Return(usize),
}

/// What a reduce does.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Map,
    Waits(Duration),
    Fetches { until: Duration },
    Writes,
}

struct Run {
    assignment: Assignment,
    stage: Stage,
    /// Which of its ends counts.
    turn: u32,
}

struct Worker {
    incarnation: Incarnation,
    dead: bool,
    slow: u32,
    sequence: u64,
    accepted: AttemptId,
    running: BTreeMap<AttemptId, Run>,
    finished: BTreeMap<AttemptId, Finished>,
    known: u64,
    has: Vec<bool>,
    has_count: u32,
}

#[derive(Default)]
struct Figures {
    events: u64,
    assigned: u64,
    busy: Duration,
    longest: Duration,
    state_bytes: usize,
    batches: u64,
    batch_bytes: u64,
    records: u64,
    runs: [u64; 2],
    told: u64,
    maps_done: Duration,
}

struct World {
    size: Size,
    case: Case,
    now: Duration,
    number: u64,
    heap: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Happens>,
    master: Master,
    workers: Vec<Worker>,
    incarnations: BTreeMap<Incarnation, usize>,
    digest: u64,
    figures: Figures,
    over: bool,
}

fn main() {
    let numbers: Vec<u32> = std::env::args()
        .skip(1)
        .filter_map(|it| it.parse().ok())
        .collect();
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let size = Size {
        maps: number(0, 200_000),
        reduces: number(1, 5_000),
        workers: number(2, 2_000) as usize,
    };
    let case = |name, stragglers, backups, killed| Case {
        name,
        stragglers,
        backups,
        killed,
    };
    let cases = [
        case("nothing goes wrong", false, true, 0),
        case("stragglers, backup tasks", true, true, 0),
        case("stragglers, no backup tasks", true, false, 0),
        case(
            "a tenth of the workers killed",
            false,
            true,
            size.workers / 10,
        ),
    ];
    println!(
        "M = {}, R = {}, {} workers of 2 slots\n",
        size.maps, size.reduces, size.workers
    );
    println!(
        "{:30} {:>8} {:>8} {:>9} {:>9} {:>9} {:>10} {:>8} {:>8} {:>7} {:>8} {:>9} {:>9}",
        "case",
        "job s",
        "maps s",
        "map runs",
        "red. runs",
        "events",
        "decisions",
        "CPU s",
        "dec./s",
        "max ms",
        "MB held",
        "writes",
        "MB writ."
    );
    for case in cases {
        print(case, World::new(size, case).run());
    }
    println!(
        "\ndecisions: assignments, records, and outcomes told. CPU s: in the master's step alone."
    );
}

fn print(case: Case, (ended, figures): (Duration, Figures)) {
    let decisions = figures.assigned + figures.records + figures.told;
    println!(
        "{:30} {:8.1} {:8.1} {:9} {:9} {:9} {:10} {:8.2} {:8.0} {:7.1} {:8.1} {:9} {:9.1}",
        case.name,
        ended.as_secs_f64(),
        figures.maps_done.as_secs_f64(),
        figures.runs[0],
        figures.runs[1],
        figures.events,
        decisions,
        figures.busy.as_secs_f64(),
        decisions as f64 / figures.busy.as_secs_f64(),
        figures.longest.as_secs_f64() * 1e3,
        figures.state_bytes as f64 / 1e6,
        figures.batches,
        figures.batch_bytes as f64 / 1e6,
    );
}

impl World {
    fn new(size: Size, case: Case) -> Self {
        let settings = Settings::default();
        let worker = |index: usize| Worker {
            incarnation: Incarnation(1_000 + index as u64),
            dead: false,
            slow: if case.stragglers && index.is_multiple_of(100) {
                10
            } else {
                1
            },
            sequence: 0,
            accepted: AttemptId::NONE,
            running: BTreeMap::new(),
            finished: BTreeMap::new(),
            known: 0,
            has: vec![false; size.maps as usize],
            has_count: 0,
        };
        let contents = (0..size.maps).map(|map| (map, content(map)));
        let mut world = Self {
            size,
            case,
            now: Duration::ZERO,
            number: 0,
            heap: BinaryHeap::new(),
            events: BTreeMap::new(),
            master: Master::new(Epoch(500), settings, Duration::ZERO),
            workers: (0..size.workers).map(worker).collect(),
            incarnations: BTreeMap::new(),
            digest: inputs_digest(contents),
            figures: Figures::default(),
            over: false,
        };
        let image = image(size, case);
        world.step(Event::Job(Box::new(image)));
        for index in 0..size.workers {
            world.join(index);
        }
        world.at(TICK, Happens::Tick);
        world
    }

    fn at(&mut self, after: Duration, happens: Happens) {
        self.number += 1;
        self.heap.push(Reverse((self.now + after, self.number)));
        self.events.insert(self.number, happens);
    }

    fn join(&mut self, index: usize) {
        let incarnation = self.workers[index].incarnation;
        self.incarnations.insert(incarnation, index);
        let info = WorkerInfo {
            name: WorkerName::new(&format!("w{index}")).expect("short"),
            incarnation,
            slots: 2,
            host: host(index),
            zone: ZoneName::new(&format!("rack{}", index / 40)).expect("short"),
        };
        self.step(Event::Joined(info));
        self.step(Event::Confirmed);
        let spread = Duration::from_millis(mix(7, index as u64) % 1_000);
        self.at(spread, Happens::Report(index, true));
    }

    fn run(mut self) -> (Duration, Figures) {
        while !self.over {
            let Reverse((at, number)) = self.heap.pop().expect("ticks go on");
            let happens = self.events.remove(&number).expect("it was entered");
            self.now = at;
            assert!(at < Duration::from_hours(24), "the job does not end");
            self.happen(happens);
        }
        (self.now, self.figures)
    }

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::Tick => {
                self.at(TICK, Happens::Tick);
                self.step(Event::Time);
                let bytes = self.master.memory_bytes();
                self.figures.state_bytes = self.figures.state_bytes.max(bytes);
                self.watch();
            }
            Happens::ToWorker(index, effect) => self.hear(index, effect),
            Happens::Appended(sequence, last) => {
                self.over |= last;
                let job = JOB;
                self.step(Event::Appended { job, sequence });
            }
            Happens::Report(index, again) => {
                if again && !self.workers[index].dead {
                    self.at(REPORT, Happens::Report(index, true));
                }
                self.report(index);
            }
            Happens::Ends(index, attempt, turn) => self.ends(index, attempt, turn),
            Happens::Kill => {
                for index in 0..self.case.killed {
                    let worker = &mut self.workers[index];
                    worker.dead = true;
                    worker.running.clear();
                    worker.finished.clear();
                    self.at(LEASE, Happens::Gone(index));
                }
            }
            Happens::Gone(index) => {
                let incarnation = self.workers[index].incarnation;
                self.step(Event::Gone(incarnation));
                self.at(Duration::from_secs(1), Happens::Return(index));
            }
            Happens::Return(index) => {
                let maps = self.size.maps as usize;
                let worker = &mut self.workers[index];
                worker.dead = false;
                worker.incarnation.0 += 1_000_000;
                worker.known = 0;
                worker.has = vec![false; maps];
                worker.has_count = 0;
                self.join(index);
            }
        }
    }

    /// When the last map is done the first time, workers are killed a little later.
    fn watch(&mut self) {
        let view = self.master.view(JOB);
        let done = view.is_some_and(|view| view.maps.won == view.maps.count);
        if done && self.figures.maps_done.is_zero() {
            self.figures.maps_done = self.now;
            self.at(Duration::from_secs(20), Happens::Kill);
        }
    }

    fn step(&mut self, event: Event) {
        let begun = Instant::now();
        let effects = self.master.step(self.now, event);
        let took = begun.elapsed();
        self.figures.events += 1;
        self.figures.busy += took;
        self.figures.longest = self.figures.longest.max(took);
        for effect in effects {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        let to = match &effect {
            Effect::Append {
                sequence,
                batch,
                header,
                ..
            } => {
                self.figures.batches += 1;
                self.figures.batch_bytes += batch.encode().len() as u64;
                self.figures.records += batch.records.len() as u64;
                let last = header.is_some();
                return self.at(APPEND, Happens::Appended(*sequence, last));
            }
            Effect::Assign { to, .. } => {
                self.figures.assigned += 1;
                *to
            }
            Effect::Tell { to, .. } | Effect::Stop { to, .. } | Effect::Locations { to, .. } => {
                self.figures.told += 1;
                *to
            }
            Effect::JobEnded { status, .. } => {
                assert_eq!(*status, JobStatus::Done, "the job ends as it should");
                return;
            }
            Effect::Rejected { .. } => return,
            Effect::Unreadable { .. } | Effect::SteppedDown { .. } => panic!("{effect:?}"),
        };
        let index = self.incarnations[&to];
        if self.workers[index].incarnation == to && !self.workers[index].dead {
            self.at(WAY, Happens::ToWorker(index, effect));
        }
    }

    fn hear(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Assign { assignment, .. } => self.begin(index, *assignment),
            Effect::Tell {
                attempt, outcome, ..
            } => {
                let worker = &mut self.workers[index];
                worker.finished.remove(&attempt);
                assert_ne!(outcome, Outcome::Noted, "nothing fails here");
            }
            Effect::Stop { attempt, .. } => {
                self.workers[index].running.remove(&attempt);
            }
            Effect::Locations {
                from,
                next,
                known,
                entries,
                ..
            } => {
                let worker = &mut self.workers[index];
                if worker.known != from {
                    return;
                }
                worker.known = next;
                for (map, location) in entries.iter() {
                    let has = &mut worker.has[*map as usize];
                    worker.has_count -= u32::from(*has);
                    *has = location.is_some();
                    worker.has_count += u32::from(*has);
                }
                if next < known {
                    self.at(WAY, Happens::Report(index, false));
                } else {
                    self.go_on(index);
                }
            }
            Effect::Append { .. }
            | Effect::JobEnded { .. }
            | Effect::Rejected { .. }
            | Effect::Unreadable { .. }
            | Effect::SteppedDown { .. } => {}
        }
    }

    fn begin(&mut self, index: usize, assignment: Assignment) {
        let id = assignment.attempt;
        let worker = &mut self.workers[index];
        if id <= worker.accepted {
            return;
        }
        worker.accepted = id;
        let is_map = assignment.task.phase == Phase::Map;
        self.figures.runs[usize::from(!is_map)] += 1;
        let slow = worker.slow;
        let spread = mix(id.counter, 3) % 1_000;
        let stage = if is_map {
            let takes = Duration::from_millis(8_000 + 4 * spread) * slow;
            self.at(takes, Happens::Ends(index, id, 0));
            Stage::Map
        } else {
            Stage::Waits(Duration::from_millis(40_000 + 20 * spread) * slow)
        };
        let run = Run {
            assignment,
            stage,
            turn: 0,
        };
        self.workers[index].running.insert(id, run);
        self.go_on(index);
        if !is_map && self.workers[index].has_count < self.size.maps {
            self.at(WAY, Happens::Report(index, false));
        }
    }

    /// Reduces fetch while all maps are somewhere, and wait while they are not.
    fn go_on(&mut self, index: usize) {
        let all = self.workers[index].has_count == self.size.maps;
        let now = self.now;
        let mut begun = Vec::new();
        for (id, run) in &mut self.workers[index].running {
            match run.stage {
                Stage::Waits(left) if all => {
                    run.turn += 1;
                    run.stage = Stage::Fetches { until: now + left };
                    begun.push((*id, run.turn, left));
                }
                Stage::Fetches { until } if !all => {
                    run.turn += 1;
                    run.stage = Stage::Waits(until.saturating_sub(now));
                }
                Stage::Map | Stage::Waits(_) | Stage::Fetches { .. } | Stage::Writes => {}
            }
        }
        for (id, turn, left) in begun {
            self.at(left, Happens::Ends(index, id, turn));
        }
    }

    fn ends(&mut self, index: usize, id: AttemptId, turn: u32) {
        let digest = self.digest;
        let worker = &mut self.workers[index];
        let slow = worker.slow;
        let Some(run) = worker.running.get_mut(&id).filter(|run| run.turn == turn) else {
            return;
        };
        if let Stage::Fetches { .. } = run.stage {
            run.turn += 1;
            run.stage = Stage::Writes;
            let takes = Duration::from_millis(20_000 + 10 * (mix(id.counter, 5) % 1_000)) * slow;
            return self.at(takes, Happens::Ends(index, id, turn + 1));
        }
        let task = run.assignment.task;
        let is_map = task.phase == Phase::Map;
        worker.running.remove(&id);
        let output = Output {
            name: String::new(),
            length: 64 << 20,
            checksum: mix(u64::from(task.index), 1),
        };
        let finished = Finished {
            job: JOB,
            task,
            attempt: id,
            outputs: vec![output],
            content: content(task.index),
            inputs: if is_map { 0 } else { digest },
            // Workers count by name.
            builtin: [0; BUILTIN_COUNT],
            counters: counters(task.phase),
        };
        worker.finished.insert(id, finished);
        self.report(index);
    }

    fn report(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        if worker.dead {
            return;
        }
        worker.sequence += 1;
        let running = worker.running.iter().map(|(id, run)| Progress {
            job: JOB,
            task: run.assignment.task,
            attempt: *id,
            bytes: 0,
            records: 0,
        });
        let running: Vec<_> = running.collect();
        let reduces = running.iter().any(|run| run.task.phase == Phase::Reduce);
        let report = Report {
            incarnation: worker.incarnation,
            sequence: worker.sequence,
            epoch: Epoch(500),
            accepted: worker.accepted,
            running,
            finished: worker.finished.values().cloned().collect(),
            failed: Vec::new(),
            fetch_failed: Vec::new(),
            known: if reduces {
                vec![(JOB, worker.known)]
            } else {
                Vec::new()
            },
        };
        self.step(Event::Report(Box::new(report)));
    }
}

/// What a task of a sort counts.
fn counters(phase: Phase) -> Vec<(String, u64)> {
    let counted: &[(&str, u64)] = match phase {
        Phase::Map => &[
            ("map input bytes", 64 << 20),
            ("map input records", 600_000),
            ("map output records", 600_000),
            ("shuffle bytes", 62 << 20),
            ("shuffle records", 600_000),
            ("spilled bytes", 130 << 20),
        ],
        Phase::Reduce => &[
            ("output bytes", 2_600 << 20),
            ("output records", 24_000_000),
            ("reduce input groups", 24_000_000),
            ("reduce input records", 24_000_000),
            ("spilled bytes", 5_200 << 20),
        ],
    };
    let named = counted.iter();
    let named = named.map(|(name, count)| (format!("mapreduce/{name}"), *count));
    named.collect()
}

fn content(map: u32) -> u64 {
    mix(u64::from(map), 77)
}

fn host(index: usize) -> HostName {
    HostName::new(&format!("h{index}")).expect("short")
}

/// Files of 100 splits each, on three workers each.
fn image(size: Size, case: Case) -> JobImage {
    let files = (0..size.maps.div_ceil(100)).map(|file| {
        let splits = u64::from((size.maps - file * 100).min(100));
        let holder = |copy| mix(u64::from(file), copy) as usize % size.workers;
        InputFile {
            uri: format!("file:///input/part-{file:05}"),
            length: splits * (64 << 20),
            splittable: true,
            hosts: (0..3).map(holder).map(host).collect(),
            version: String::new(),
        }
    });
    let shape = Shape {
        split_bytes: 64 << 20,
        reduces: size.reduces,
    };
    let planned = plan(&files.collect::<Vec<_>>(), shape).expect("within limits");
    let spec = JobSpec {
        version: SPEC_VERSION,
        name: "scale".to_owned(),
        code: JobCode::Builtin {
            name: "sort".to_owned(),
            arguments: Vec::new(),
        },
        input: planned.input(&planned.splits.chunks()),
        reduces: size.reduces,
        output: "file:///output".to_owned(),
        options: JobOptions {
            backup_tasks: case.backups,
            ..JobOptions::default()
        },
    };
    JobImage {
        job: JOB,
        header: Header {
            spec_digest: [0; 32],
            maps: planned.maps(),
            reduces: size.reduces,
            status: JobStatus::Running,
        },
        spec,
        splits: planned.splits,
        log: Vec::new(),
    }
}
