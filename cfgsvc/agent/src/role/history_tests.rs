//! The agent against a group, a disk and a guard that answer when they like, or not at all.
//!
//! The group here is the rule alone: it counts a lease from when a renewal reached it, and gives
//! the role to another (`stolen`) once nobody is counted as serving. What must never be is a
//! program that runs while the role is another's.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const SERVE: Duration = Duration::from_millis(900);
/// How long the program takes to stop, at most.
const STOP: Duration = Duration::from_millis(250);
/// The group keeps a lease longer than a host may serve: clocks, and the time to stop.
const KEPT: Duration = Duration::from_millis(1_200);

fn at(ms: u64) -> Moment {
    Moment::since_boot(Duration::from_millis(ms))
}

/// What is under way, and what it will be answered with.
#[derive(Debug, Clone)]
enum Call {
    Fence,
    Attend { sent: Moment },
    Renew { sent: Moment, lease: i64 },
    Begin { lease: i64, epoch: i64 },
    Yield { lease: i64, leave: bool },
    Sync(u64),
    StopProgram,
    Verdict { stream: u64, lease: i64 },
}

#[derive(Debug, Default)]
struct Group {
    next: i64,
    /// The lease that lives, and until when.
    lease: Option<(i64, Moment)>,
    /// The host was given this epoch.
    granted: Option<i64>,
    /// It may be serving, with this lease.
    serving: Option<i64>,
    closing: bool,
    /// Another holds the role.
    stolen: bool,
}

impl Group {
    fn end_lease(&mut self, id: i64) {
        if self.lease.is_some_and(|(lease, _)| lease == id) {
            self.lease = None;
        }
        if self.serving == Some(id) {
            self.serving = None;
        }
        self.settle();
    }

    fn expire(&mut self, now: Moment) {
        if let Some((id, until)) = self.lease
            && until <= now
        {
            self.end_lease(id);
            self.steal();
        }
    }

    /// Another wants the role.
    fn steal(&mut self) {
        self.closing = true;
        self.settle();
    }

    fn settle(&mut self) {
        if self.closing && self.serving.is_none() {
            self.closing = false;
            self.granted = None;
            self.stolen = true;
        }
    }

    /// The other gives it back.
    fn give(&mut self) {
        if self.stolen && self.lease.is_some() {
            self.stolen = false;
            self.next += 1;
            self.granted = Some(self.next);
        }
    }

    fn told(&self, lease: i64) -> Told {
        if self.lease.is_none_or(|(id, _)| id != lease) {
            return Told::NotAttending;
        }
        match (self.granted, self.closing) {
            (Some(epoch), false) if self.serving == Some(lease) => Told::Serve { epoch },
            (Some(epoch), false) if self.serving.is_none() => Told::MayStart { epoch },
            _ => Told::Other(Standing {
                verdict: "standby",
                epoch: self.next,
                holder: "other".to_owned(),
                addresses: Vec::new(),
                reason: String::new(),
            }),
        }
    }
}

struct World {
    core: Core,
    group: Group,
    now: Moment,
    calls: Vec<Call>,
    stream: (u64, i64),
    /// Verdicts on their way.
    told: VecDeque<(u64, Told)>,
    /// The program: its epoch and its deadline.
    program: Option<(i64, Moment)>,
    stopping: bool,
    disk: Vec<(u64, Written)>,
    synced: Option<Written>,
    runs: u32,
    done: bool,
}

impl World {
    fn new() -> Self {
        let group = Group {
            stolen: true,
            ..Group::default()
        };
        Self {
            core: Core::new(0, at(0)),
            group,
            now: at(0),
            calls: vec![Call::Fence],
            stream: (0, 0),
            told: VecDeque::new(),
            program: None,
            stopping: false,
            disk: Vec::new(),
            synced: None,
            runs: 0,
            done: false,
        }
    }

    fn event(&mut self, event: Event) {
        let effects = self.core.on(event, self.now);
        // Whoever waits until then would turn in a circle.
        let wake = self.core.next_wake();
        assert!(wake.is_none_or(|wake| wake > self.now), "{:?}", self.core);
        for effect in effects {
            self.effect(effect);
        }
        // Something happens by itself, or is under way.
        let under_way = !self.calls.is_empty() || !self.told.is_empty() || self.program.is_some();
        let lives = self.core.next_wake().is_some() || under_way || self.done;
        assert!(lives, "{:?}", self.core);
    }

    fn effect(&mut self, effect: Effect) {
        let sent = self.now;
        match effect {
            Effect::Attend => self.calls.push(Call::Attend { sent }),
            Effect::Follow { stream, lease } => {
                self.stream = (stream, lease);
                self.calls.push(Call::Verdict { stream, lease });
            }
            Effect::Renew(lease) => self.calls.push(Call::Renew { sent, lease }),
            Effect::Begin { lease, epoch } => self.calls.push(Call::Begin { lease, epoch }),
            Effect::Write { number, what } => {
                self.disk.push((number, what));
                self.calls.push(Call::Sync(number));
            }
            Effect::Run { epoch, until } => {
                assert!(self.program.is_none(), "one program at a time");
                let serves =
                    matches!(self.synced, Some(Written::Serve { epoch: at, .. }) if at == epoch);
                assert!(serves, "what is on disk says so: {:?}", self.synced);
                assert_eq!(self.group.granted, Some(epoch), "it was given, or is still");
                assert!(until > self.now, "there is time");
                self.program = Some((epoch, until));
                self.runs += 1;
            }
            Effect::Until(until) => {
                if let Some((_, at)) = &mut self.program {
                    *at = until;
                }
            }
            Effect::Stop => {
                self.stopping = true;
                self.calls.push(Call::StopProgram);
            }
            Effect::Yield { lease, leave, .. } => {
                assert!(self.program.is_none(), "the program is gone first");
                let serves = matches!(self.synced, Some(Written::Serve { .. }));
                assert!(!serves, "what is on disk says so no more");
                self.calls.push(Call::Yield { lease, leave });
            }
            Effect::Done => {
                assert!(self.program.is_none(), "the program is gone first");
                self.done = true;
            }
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        let asked = |call: &Call| {
            !matches!(
                call,
                Call::Renew { .. } | Call::Sync(_) | Call::Verdict { .. }
            )
        };
        let busy = self.program.is_some() || self.calls.iter().any(asked);
        assert!(!self.core.rests() || !busy, "{:?}", self.core);
        if let Some((epoch, _)) = self.program {
            assert!(!self.group.stolen, "runs epoch {epoch} of another");
            assert_eq!(self.group.granted, Some(epoch));
        }
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now + Duration::from_millis(1);
            // The guard keeps the deadline whatever the agent does; the program takes its time.
            if self
                .program
                .is_some_and(|(_, until)| until + STOP <= self.now)
            {
                self.program = None;
                self.stopping = false;
                self.calls.retain(|call| !matches!(call, Call::StopProgram));
                self.event(Event::NothingLeft);
            }
            self.group.expire(self.now);
            self.check();
            if self.core.next_wake().is_some_and(|wake| wake <= self.now) {
                self.event(Event::Tick);
            }
            let due = self.core.next_wake();
            assert!(
                due.is_none_or(|due| due > self.now),
                "nothing is done about what is due at {due:?}: {:?}",
                self.core
            );
            self.check();
        }
    }

    /// Carries out a call and answers it; `lost`: it is carried out, and the answer is not heard.
    fn answer(&mut self, nth: usize, lost: bool) {
        if self.calls.is_empty() {
            return;
        }
        let call = self.calls.remove(nth % self.calls.len());
        let event = match call {
            Call::Fence => Event::NothingLeft,
            // The hook that says where the data ends has failed.
            Call::Attend { .. } if lost && nth.is_multiple_of(2) => Event::NotAsked,
            Call::Attend { sent } => {
                let fencing = self.calls.iter().any(|call| matches!(call, Call::Fence));
                assert!(!fencing, "it is fenced first");
                let lease = self.group.next + 1;
                self.group.next = lease;
                if let Some((old, _)) = self.group.lease {
                    self.group.end_lease(old);
                }
                self.group.lease = Some((lease, self.now + KEPT));
                let datas = [HostData::NotKept, HostData::Empty, HostData::Some];
                let terms = Terms {
                    lease,
                    serve: SERVE,
                    data: datas[nth % datas.len()],
                };
                if lost {
                    Event::NotAttended
                } else {
                    Event::Attends { sent, terms }
                }
            }
            Call::Renew { sent, lease } => {
                let renewal = match &mut self.group.lease {
                    Some((id, _)) if *id == lease && self.group.closing => Renewal::Closing,
                    Some((id, until)) if *id == lease => {
                        *until = self.now + KEPT;
                        Renewal::Renewed
                    }
                    _ => Renewal::Gone,
                };
                if lost {
                    Event::NotRenewed
                } else {
                    Event::Renewed {
                        lease,
                        sent,
                        renewal,
                    }
                }
            }
            Call::Begin { lease, epoch } => {
                let may = self.group.told(lease) == Told::MayStart { epoch };
                let again = self.group.told(lease) == Told::Serve { epoch };
                if may {
                    self.group.serving = Some(lease);
                }
                if lost {
                    Event::NotBegun { refused: None }
                } else if may || again {
                    Event::Begun { lease, epoch }
                } else {
                    let refused = Some("another has it".to_owned());
                    Event::NotBegun { refused }
                }
            }
            Call::Yield { lease, leave } => {
                if self.group.serving == Some(lease) {
                    self.group.serving = None;
                }
                if leave {
                    self.group.end_lease(lease);
                }
                self.group.settle();
                Event::Yielded { known: !lost }
            }
            Call::Sync(number) => {
                // A later one may be on disk already.
                let on_disk = self.disk.iter().rev().find(|(at, _)| *at <= number);
                self.synced = on_disk.map(|(_, what)| what.clone());
                let earlier = |call: &Call| !matches!(call, Call::Sync(at) if *at <= number);
                self.calls.retain(earlier);
                Event::Synced(number)
            }
            Call::StopProgram => {
                self.program = None;
                self.stopping = false;
                Event::NothingLeft
            }
            Call::Verdict { stream, lease } => {
                let told = self.group.told(lease);
                Event::Told { stream, told }
            }
        };
        self.event(event);
        self.check();
    }

    /// The group says what has changed.
    fn tell(&mut self) {
        let (stream, lease) = self.stream;
        let told = self.group.told(lease);
        self.told.push_back((stream, told));
    }

    fn hear(&mut self) {
        if let Some((stream, told)) = self.told.pop_front() {
            self.event(Event::Told { stream, told });
            self.check();
        }
    }

    /// Everything is answered, for a while.
    fn heal(&mut self, ms: u64) {
        for _ in 0..ms {
            self.tell();
            while !self.told.is_empty() {
                self.hear();
            }
            while !self.calls.is_empty() {
                self.answer(0, false);
            }
            self.wait(1);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Answer(usize, bool),
    Tell,
    Hear,
    Steal,
    Give,
    ProgramEnds,
    ProgramFails,
    Rebuilt,
    SaysAnew,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..400).prop_map(Step::Wait),
        12 => (0usize..8, prop::bool::weighted(0.15)).prop_map(|(n, lost)| Step::Answer(n, lost)),
        3 => Just(Step::Tell),
        4 => Just(Step::Hear),
        1 => Just(Step::Steal),
        3 => Just(Step::Give),
        1 => Just(Step::ProgramEnds),
        1 => Just(Step::ProgramFails),
        1 => Just(Step::Rebuilt),
        1 => Just(Step::SaysAnew),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn the_program_never_runs_while_the_role_is_anothers(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new();
        world.event(Event::Tick);
        for step in steps {
            match step {
                Step::Wait(ms) => world.wait(ms),
                Step::Answer(nth, lost) => world.answer(nth, lost),
                Step::Tell => world.tell(),
                Step::Hear => world.hear(),
                Step::Steal => world.group.steal(),
                Step::Give => world.group.give(),
                Step::Rebuilt => {
                    let epoch = world.group.next;
                    world.event(Event::Rebuilt { epoch });
                }
                // Also late: of a store that was looked at before something was begun.
                Step::SaysAnew => world.event(Event::SaysAnew),
                Step::ProgramFails => world.event(Event::Failed("check failed".to_owned())),
                Step::ProgramEnds => if world.program.take().is_some() {
                    world.calls.retain(|call| !matches!(call, Call::StopProgram));
                    world.calls.push(Call::StopProgram);
                    world.event(Event::Ended);
                },
            }
            world.check();
        }
        // With a group that answers it serves in the end, whatever was before.
        world.heal(3_000);
        world.group.give();
        world.heal(3_000);
        prop_assert!(world.program.is_some(), "{:?} {:?}", world.core, world.group);
        // And ends in order when it is asked to.
        world.event(Event::End);
        world.heal(100);
        prop_assert!(world.done, "{:?} {:?}", world.core, world.group);
        prop_assert!(world.group.lease.is_none() && world.group.serving.is_none());
    }
}

#[test]
fn a_host_that_is_given_the_role_serves_and_hands_over() {
    let mut world = World::new();
    world.event(Event::Tick);
    world.heal(10);
    world.group.give();
    world.heal(10);
    assert!(world.program.is_some());
    world.group.steal();
    world.heal(10);
    assert!(world.program.is_none() && world.group.stolen);
    assert_eq!(world.runs, 1);
}
