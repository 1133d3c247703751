//! Time, the network between the processes, and what goes wrong with both.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::defect::Defect;
use super::master::MasterNode;
use super::plan::{Fault, HEAL, Plan, WAY_MAX};
use super::rng::Rng;
use super::shared::{Message, Node, Shared, Violation};
use super::worker::WorkerNode;
use crate::names::HostName;
use crate::plan::{InputFile, Shape};
use crate::record::{Header, JobStatus};
use crate::spec::{JobCode, JobOptions, JobSpec, SPEC_VERSION, digest};

const TICK: Duration = Duration::from_millis(25);

#[derive(Debug)]
enum Event {
    Tick {
        node: Node,
        life: u64,
    },
    Arrives {
        from: (Node, u64),
        to: Node,
        life: u64,
        message: Message,
    },
    Begins(usize),
    Ends(usize),
    Submit(usize),
    Cancel(usize),
}

#[derive(Debug)]
struct Timed {
    at: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[derive(Debug)]
enum Process {
    Master(Box<MasterNode>),
    Worker(Box<WorkerNode>),
    Dead,
}

/// A process with what is wrong with it; faults of one kind may overlap.
#[derive(Debug)]
struct Host {
    process: Process,
    life: u64,
    killed: u32,
    paused: u32,
    cut: u32,
    /// What came while it stood still.
    inbox: Vec<((Node, u64), Message)>,
    rate: u64,
}

pub(super) struct World {
    shared: Shared,
    hosts: Vec<Host>,
    /// Links that are closed, how often.
    closed: Vec<Vec<u32>>,
    heap: BinaryHeap<Reverse<Timed>>,
    number: u64,
    network: Rng,
}

/// What came of a seed.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) events: std::collections::BTreeMap<&'static str, u64>,
    pub(super) ended_at: Duration,
    pub(super) trace: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64, defect: Option<Defect>, traced: bool) -> Self {
        let plan = Plan::new(seed, defect);
        let nodes = plan.masters + plan.slots.len();
        let hosts = (0..nodes).map(|node| Host {
            process: process(&plan, node),
            life: 0,
            killed: 0,
            paused: 0,
            cut: 0,
            inbox: Vec::new(),
            rate: plan.rates[node],
        });
        let mut world = Self {
            hosts: hosts.collect(),
            closed: vec![vec![0; nodes + 1]; nodes + 1],
            heap: BinaryHeap::new(),
            number: 0,
            network: Rng::new(seed ^ 0xFACE),
            shared: Shared::new(seed, plan, defect),
        };
        world.shared.trace = traced.then(Vec::new);
        for node in 0..nodes {
            world.push(Duration::ZERO, Event::Tick { node, life: 0 });
        }
        for (index, trouble) in world.shared.plan.troubles.clone().into_iter().enumerate() {
            world.push(trouble.at, Event::Begins(index));
            world.push(trouble.at + trouble.lasts, Event::Ends(index));
        }
        for (index, job) in world.shared.plan.jobs.clone().into_iter().enumerate() {
            world.push(job.at, Event::Submit(index));
            if let Some(after) = job.cancelled {
                world.push(job.at + after, Event::Cancel(index));
            }
        }
        world
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.number += 1;
        let number = self.number;
        self.heap.push(Reverse(Timed { at, number, event }));
    }

    /// Until all jobs have ended, or a check fails.
    pub(super) fn run(mut self) -> Result<Outcome, (Violation, Vec<String>)> {
        let end = self.shared.plan.faults_end + HEAL;
        let ended = loop {
            let Some(Reverse(next)) = self.heap.pop() else {
                break Err("nothing happens any more".to_owned());
            };
            if next.at > end {
                let jobs = self.shared.store.jobs.iter();
                let open = jobs.filter(|(_, job)| job.status() == JobStatus::Running);
                let open: Vec<_> = open.map(|(id, job)| (*id, job.state.open())).collect();
                break Err(format!("no progress after the last fault: {open:?}"));
            }
            self.shared.now = next.at;
            self.shared.store.expire(next.at);
            if let Err(violation) = self.happen(next.event) {
                break Err(violation);
            }
            if self.shared.is_over() {
                break self.shared.judge();
            }
        };
        let mut trace = self.shared.trace.take().unwrap_or_default();
        if ended.is_err() {
            trace.extend(self.hosts.iter().map(|host| format!("{:?}", host.process)));
        }
        match ended {
            Ok(()) => Ok(Outcome {
                events: self.shared.events,
                ended_at: self.shared.now,
                trace,
            }),
            Err(violation) => {
                let at = self.shared.now.as_secs_f64();
                Err((format!("{violation} (at {at:.3} s)"), trace))
            }
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Tick { node, life } => {
                if self.hosts[node].life != life {
                    return Ok(());
                }
                let early = Duration::from_millis(self.network.between(0, 10));
                self.push(self.shared.now + TICK + early, Event::Tick { node, life });
                if self.hosts[node].paused > 0 {
                    return Ok(());
                }
                self.at(node, None)
            }
            Event::Arrives {
                from,
                to,
                life,
                message,
            } => self.arrives(from, (to, life), message),
            Event::Begins(index) => {
                self.fault(index, true);
                Ok(())
            }
            Event::Ends(index) => {
                self.fault(index, false);
                Ok(())
            }
            Event::Submit(index) => {
                self.submit(index);
                Ok(())
            }
            Event::Cancel(index) => {
                let found = self.shared.jobs.iter().find(|(_, at)| **at == index);
                let job = *found.expect("it was submitted before").0;
                self.shared.store.cancel(job);
                Ok(())
            }
        }
    }

    /// What is for a life that is over is lost, as with the connection of a process that ended.
    fn arrives(
        &mut self,
        from: (Node, u64),
        to: (Node, u64),
        message: Message,
    ) -> Result<(), Violation> {
        if to.0 == self.shared.group() {
            return self.group(from, message);
        }
        let host = &mut self.hosts[to.0];
        if host.life != to.1 {
            return Ok(());
        }
        if host.paused > 0 {
            host.inbox.push((from, message));
            return Ok(());
        }
        self.at(to.0, Some((from.0, message)))
    }

    /// A process gets a message, or some time.
    fn at(&mut self, node: Node, message: Option<(Node, Message)>) -> Result<(), Violation> {
        let host = &mut self.hosts[node];
        let local = local(self.shared.now, host.rate);
        let shared = &mut self.shared;
        match (&mut host.process, message) {
            (Process::Master(it), None) => it.tick(local, shared)?,
            (Process::Worker(it), None) => it.tick(local, shared)?,
            (Process::Master(it), Some((_, message))) => it.receive(local, message, shared)?,
            (Process::Worker(it), Some((from, message))) => {
                it.receive(from, local, message, shared)?;
            }
            (Process::Dead, _) => {}
        }
        let life = self.hosts[node].life;
        self.send_all((node, life), None);
        Ok(())
    }

    fn group(&mut self, from: (Node, u64), message: Message) -> Result<(), Violation> {
        let (from, life) = from;
        let now = self.shared.now;
        let group = self.shared.group();
        let store = &mut self.shared.store;
        let answer = match message {
            Message::Campaign(holds) => Message::Role {
                granted: store.campaign(from, holds, now),
                view: store.view().into(),
            },
            Message::Look => Message::View(store.view().into()),
            Message::Append {
                job,
                sequence,
                bytes,
                header,
            } => Message::Appended {
                job,
                sequence,
                result: store.append(job, sequence, &bytes, header.as_deref(), now)?,
            },
            Message::Register(info) => Message::Registered(store.register(info, now)),
            Message::Poll { incarnation, sent } => Message::Polled {
                incarnation,
                sent,
                alive: store.keep_alive(incarnation, now),
                view: store.view().into(),
            },
            _ => return Ok(()),
        };
        self.shared.send(from, answer);
        self.send_all((group, 0), Some(life));
        Ok(())
    }

    /// What a process has to send goes on its way, or does not. An answer is for the life that
    /// asked.
    fn send_all(&mut self, from: (Node, u64), answer_to: Option<u64>) {
        let group = self.shared.group();
        for (to, message) in std::mem::take(&mut self.shared.outbox) {
            let is_cut = |node: Node| node != group && self.hosts[node].cut > 0;
            if self.closed[from.0][to] > 0 || is_cut(from.0) || is_cut(to) {
                continue;
            }
            let noisy = self.shared.now < self.shared.plan.faults_end;
            let plan = &self.shared.plan;
            let (lost, doubled, late) = (plan.lost, plan.doubled, plan.late);
            if noisy && self.network.chance(lost) {
                continue;
            }
            let copies = 1 + u32::from(noisy && self.network.chance(doubled));
            for _ in 0..copies {
                let way_max = if self.network.chance(late) {
                    WAY_MAX.as_millis() as u64
                } else {
                    10
                };
                let way = Duration::from_micros(self.network.between(200, way_max * 1_000));
                let current = self.hosts.get(to).map_or(0, |host| host.life);
                let life = answer_to.unwrap_or(current);
                let message = message.clone();
                let arrives = Event::Arrives {
                    from,
                    to,
                    life,
                    message,
                };
                self.push(self.shared.now + way, arrives);
            }
        }
    }

    fn fault(&mut self, index: usize, begins: bool) {
        let trouble = self.shared.plan.troubles[index].clone();
        let node = trouble.process;
        let change = |count: &mut u32| *count = if begins { *count + 1 } else { *count - 1 };
        match trouble.fault {
            Fault::Kill => {
                change(&mut self.hosts[node].killed);
                let host = &mut self.hosts[node];
                host.life += 1;
                host.inbox.clear();
                host.process = Process::Dead;
                if host.killed == 0 {
                    host.process = process(&self.shared.plan, node);
                    let life = host.life;
                    self.push(self.shared.now, Event::Tick { node, life });
                }
            }
            Fault::Pause => {
                change(&mut self.hosts[node].paused);
                if self.hosts[node].paused == 0 {
                    let life = self.hosts[node].life;
                    let inbox = std::mem::take(&mut self.hosts[node].inbox);
                    for (from, message) in inbox {
                        let arrives = Event::Arrives {
                            from,
                            to: node,
                            life,
                            message,
                        };
                        self.push(self.shared.now, arrives);
                    }
                }
            }
            Fault::CutOff => change(&mut self.hosts[node].cut),
            Fault::Link(other, from) => {
                let link = if from { (node, other) } else { (other, node) };
                change(&mut self.closed[link.0][link.1]);
            }
            Fault::Slow(times) => {
                if let Process::Worker(worker) = &mut self.hosts[node].process {
                    worker.slow = if begins { times } else { 1 };
                }
            }
        }
    }

    fn submit(&mut self, index: usize) {
        let plan = self.shared.plan.jobs[index].clone();
        let hosts = self.hosts.len();
        let files = (0..plan.maps).map(|map| InputFile {
            uri: format!("sim:{map}"),
            length: 1,
            splittable: true,
            hosts: HostName::new(&(map as usize % hosts).to_string())
                .into_iter()
                .collect(),
            version: String::new(),
        });
        let shape = Shape {
            split_bytes: 1,
            reduces: plan.reduces,
        };
        let made = crate::plan::plan(&files.collect::<Vec<_>>(), shape).expect("within bounds");
        let chunks = made.splits.chunks();
        let spec = JobSpec {
            version: SPEC_VERSION,
            name: "sim".to_owned(),
            code: JobCode::Builtin {
                name: "sim".to_owned(),
                arguments: Vec::new(),
            },
            input: made.input(&chunks),
            reduces: plan.reduces,
            output: "sim:out".to_owned(),
            options: JobOptions {
                skipped_max: plan.skipped_max,
                ..JobOptions::default()
            },
        };
        let spec = spec.to_json().expect("within bounds");
        let header = Header {
            spec_digest: digest([&spec[..]]),
            maps: plan.maps,
            reduces: plan.reduces,
            status: JobStatus::Running,
        };
        let job = self.shared.store.submit(header, spec, chunks);
        self.shared.jobs.insert(job, index);
    }
}

fn process(plan: &Plan, node: Node) -> Process {
    match node.checked_sub(plan.masters) {
        None => Process::Master(Box::new(MasterNode::new(node))),
        Some(worker) => Process::Worker(Box::new(WorkerNode::new(node, plan.slots[worker]))),
    }
}

/// What a clock of this rate says, parts per million.
fn local(now: Duration, rate: u64) -> Duration {
    let nanos = now.as_nanos() * u128::from(rate) / 1_000_000;
    Duration::from_nanos(nanos as u64)
}
