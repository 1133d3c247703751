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
    Rebuilt,
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
        1 => Just(Step::Rebuilt),
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

/// What comes of an event on a host whose disk takes at once what it is told.
fn on(core: &mut Core, event: Event, now: Moment) -> Vec<Effect> {
    let mut effects = core.on(event, now);
    let mut next = 0;
    while let Some(effect) = effects.get(next) {
        next += 1;
        if let Effect::Write { number, .. } = effect {
            let event = Event::Synced(*number);
            effects.extend(core.on(event, now));
        }
    }
    effects
}

const TERMS: Terms = Terms {
    lease: 7,
    serve: SERVE,
    data: HostData::NotKept,
};

/// A host that knows epoch 3, and attends with lease 7.
fn attends() -> Core {
    attends_with(HostData::NotKept)
}

fn attends_with(data: HostData) -> Core {
    let mut core = Core::new(3, at(0));
    let effects = on(&mut core, Event::Tick, at(0));
    assert!(!effects.contains(&Effect::Attend), "it is not fenced yet");
    let effects = on(&mut core, Event::NothingLeft, at(0));
    assert!(effects.contains(&Effect::Attend), "{effects:?}");
    let (sent, terms) = (at(0), Terms { data, ..TERMS });
    on(&mut core, Event::Attends { sent, terms }, at(1));
    core
}

fn standby(epoch: i64) -> Told {
    Told::Other(Standing {
        verdict: "standby",
        epoch,
        holder: "other".to_owned(),
        addresses: Vec::new(),
        reason: "other holds it".to_owned(),
    })
}

/// The same, and it was told that it may begin epoch 9.
fn may_start() -> Core {
    let mut core = attends();
    let told = Told::MayStart { epoch: 9 };
    let effects = on(&mut core, Event::Told { stream: 1, told }, at(2));
    assert_eq!(effects, [Effect::Begin { lease: 7, epoch: 9 }]);
    core
}

/// The same, and it serves.
fn serves() -> Core {
    let mut core = may_start();
    let effects = on(&mut core, Event::Begun { lease: 7, epoch: 9 }, at(3));
    let run = |effect: &Effect| matches!(effect, Effect::Run { epoch: 9, .. });
    assert!(effects.iter().any(run), "{effects:?}");
    core
}

#[test]
fn a_host_whose_disk_takes_nothing_asks_for_nothing_and_keeps_nothing() {
    let mut core = Core::new(3, at(0));
    core.on(Event::Tick, at(0));
    let effects = core.on(Event::NothingLeft, at(0));
    assert!(!effects.contains(&Effect::Attend), "{effects:?}");
    assert_eq!(core.next_wake(), None, "it waits for the disk");
    assert_eq!(core.on(Event::Synced(1), at(5)), [Effect::Attend]);
    // The disk fails when the start is committed.
    let mut core = may_start();
    core.on(Event::Begun { lease: 7, epoch: 9 }, at(3));
    let end = at(0) + SERVE;
    assert_eq!(core.next_wake(), Some(end), "its lease is not renewed");
    let effects = core.on(Event::Tick, end);
    let only_written = effects
        .iter()
        .all(|effect| matches!(effect, Effect::Write { .. }));
    assert!(only_written, "{effects:?}");
    // And it ends when it is asked to, without the disk.
    assert!(core.on(Event::End, end).contains(&Effect::Done));
    // The disk fails before it is given the role: it does not keep that from others.
    let mut core = attends();
    let told = standby(3);
    core.on(Event::Told { stream: 1, told }, at(2));
    let told = Told::MayStart { epoch: 9 };
    assert_eq!(core.on(Event::Told { stream: 1, told }, at(3)), []);
    assert_eq!(core.next_wake(), Some(end), "its lease is not renewed");
}

#[test]
fn an_agent_ends_while_its_host_cannot_be_fenced() {
    let mut core = Core::new(3, at(0));
    on(&mut core, Event::Tick, at(0));
    assert!(on(&mut core, Event::End, at(1)).contains(&Effect::Done));
}

#[test]
fn a_host_with_data_follows_a_new_epoch_by_where_its_data_ended_then() {
    let mut core = attends_with(HostData::Some);
    let told = standby(3);
    on(&mut core, Event::Told { stream: 1, told }, at(2));
    // It has followed the last holder on, since it came.
    let told = standby(9);
    let effects = on(&mut core, Event::Told { stream: 1, told }, at(3));
    assert_eq!(effects, [Effect::Attend]);
    assert_eq!(core.known(), 3, "that is what it says it knows");
    let (sent, data) = (at(3), HostData::Some);
    let terms = Terms {
        lease: 8,
        data,
        ..TERMS
    };
    on(&mut core, Event::Attends { sent, terms }, at(4));
    let told = standby(9);
    let effects = on(&mut core, Event::Told { stream: 2, told }, at(5));
    assert!(!effects.contains(&Effect::Attend), "{effects:?}");
    assert_eq!(core.known(), 9);
}

#[test]
fn a_host_that_says_its_store_is_empty_knows_no_more_by_following() {
    let mut core = attends_with(HostData::Empty);
    let mut stream = 1;
    for _ in 0..2 {
        let told = standby(9);
        on(&mut core, Event::Told { stream, told }, at(2));
        let (sent, data) = (at(2), HostData::Empty);
        let terms = Terms { data, ..TERMS };
        on(&mut core, Event::Attends { sent, terms }, at(3));
        stream = core.stream;
    }
    assert_eq!(core.known(), 3, "its volume may be mounted again");
    // But a host that never had any does.
    on(&mut core, Event::Rebuilt { epoch: 9 }, at(4));
    assert_eq!(core.known(), 9);
}

#[test]
fn a_host_that_is_fenced_with_an_empty_store_is_looked_at_again() {
    let mut core = attends_with(HostData::Empty);
    let told = Told::Other(Standing::fenced(9, "its store is empty"));
    on(&mut core, Event::Told { stream: 1, told }, at(2));
    let renew = core.next_wake().expect("it renews");
    assert!(!on(&mut core, Event::Tick, renew).contains(&Effect::Attend));
    let again = at(0) + EMPTY_PAUSE;
    let renewed = Event::Renewed {
        lease: 7,
        sent: again,
        renewal: Renewal::Renewed,
    };
    on(&mut core, renewed, at(5));
    assert!(on(&mut core, Event::Tick, again).contains(&Effect::Attend));
}

#[test]
fn a_host_that_cannot_say_where_its_data_ends_keeps_what_it_has() {
    let mut core = attends_with(HostData::Some);
    let told = standby(3);
    on(&mut core, Event::Told { stream: 1, told }, at(2));
    let effects = on(&mut core, Event::Rebuilt { epoch: 3 }, at(3));
    assert_eq!(effects, [Effect::Attend]);
    let effects = on(&mut core, Event::NotAsked, at(4));
    let follow = Effect::Follow {
        stream: 2,
        lease: 7,
    };
    assert_eq!(effects, [follow], "nothing is written, and nothing ends");
    let renewed = Event::Renewed {
        lease: 7,
        sent: at(5),
        renewal: Renewal::Renewed,
    };
    on(&mut core, renewed, at(5));
    let again = at(4) + POSITION_PAUSE;
    let renewed = Event::Renewed {
        lease: 7,
        sent: again,
        renewal: Renewal::Renewed,
    };
    on(&mut core, renewed, again);
    assert!(on(&mut core, Event::Tick, again).contains(&Effect::Attend) || core.attending);
}

#[test]
fn a_host_that_has_handed_over_keeps_its_lease() {
    let mut core = serves();
    let asked = Event::Renewed {
        lease: 7,
        sent: at(4),
        renewal: Renewal::Closing,
    };
    assert!(on(&mut core, asked, at(4)).contains(&Effect::Stop));
    let effects = on(&mut core, Event::NothingLeft, at(5));
    let told = Effect::Yield {
        lease: 7,
        leave: false,
        served: true,
        until: at(0) + SERVE,
    };
    assert!(effects.contains(&told), "{effects:?}");
    let effects = on(&mut core, Event::Yielded { known: true }, at(6));
    assert!(effects.contains(&Effect::Renew(7)), "{effects:?}");
}

#[test]
fn what_is_not_known_of_a_yield_counts_for_no_lease_that_follows() {
    let mut core = serves();
    let told = Told::Other(Standing::fenced(9, "handed over"));
    on(&mut core, Event::Told { stream: 1, told }, at(4));
    on(&mut core, Event::NothingLeft, at(5));
    let effects = on(&mut core, Event::Yielded { known: false }, at(6));
    assert!(effects.contains(&Effect::Attend), "{effects:?}");
}

#[test]
fn a_program_that_has_ended_is_not_served_while_the_host_is_being_fenced() {
    let mut core = serves();
    let effects = on(&mut core, Event::Ended, at(4));
    let fenced = |effect: &Effect| matches!(effect, Effect::Write { what: Written::Not(said), .. } if said.verdict == "fenced");
    assert!(effects.iter().any(fenced), "{effects:?}");
    let effects = on(&mut core, Event::NothingLeft, at(5));
    let leaves = |effect: &Effect| matches!(effect, Effect::Yield { leave: true, .. });
    assert!(
        effects.iter().any(leaves),
        "it does not do what it stands for: {effects:?}"
    );
}

#[test]
fn a_host_that_cannot_begin_comes_again_so_that_others_are_tried() {
    let mut core = may_start();
    let mut now = at(3);
    for time in 1..=BEGIN_TRIES {
        let refused = Some("it lacks 5".to_owned());
        let effects = on(&mut core, Event::NotBegun { refused }, now);
        let came = effects.contains(&Effect::Attend);
        assert_eq!(came, time == BEGIN_TRIES, "{effects:?}");
        now = now + BEGIN_PAUSE;
        let renewed = Event::Renewed {
            lease: 7,
            sent: now,
            renewal: Renewal::Renewed,
        };
        on(&mut core, renewed, now);
        let told = Told::MayStart { epoch: 9 };
        let stream = core.stream;
        on(&mut core, Event::Told { stream, told }, now);
    }
}

#[test]
fn a_host_that_was_rebuilt_comes_again_with_the_epoch_it_has() {
    let mut core = attends();
    let told = Told::Other(Standing {
        verdict: "rebuild",
        epoch: 9,
        holder: "other".to_owned(),
        addresses: Vec::new(),
        reason: String::new(),
    });
    on(&mut core, Event::Told { stream: 1, told }, at(2));
    assert_eq!(core.known(), 3, "it lacks what the epoch has");
    let effects = on(&mut core, Event::Rebuilt { epoch: 9 }, at(3));
    assert!(effects.contains(&Effect::Attend), "{effects:?}");
    assert_eq!(core.known(), 9);
    // The lease that it comes with takes the place of the other, whose end is no news.
    let gone = Event::Renewed {
        lease: 7,
        sent: at(3),
        renewal: Renewal::Gone,
    };
    let over = Event::Told {
        stream: 1,
        told: Told::NotAttending,
    };
    for event in [gone, over] {
        let effects = on(&mut core, event, at(4));
        let written = effects
            .iter()
            .any(|done| matches!(done, Effect::Write { .. }));
        assert!(!written, "{effects:?}");
    }
    let terms = Terms { lease: 8, ..TERMS };
    let effects = on(&mut core, Event::Attends { sent: at(3), terms }, at(5));
    let follow = Effect::Follow {
        stream: 2,
        lease: 8,
    };
    assert_eq!(effects, [follow]);
}

/// It lacks what the last holder wrote, say: it stays what it was told to be, with the reason, and
/// tries again.
#[test]
fn a_start_that_is_refused_is_tried_again_and_says_why() {
    let mut core = attends();
    let standby = Standing {
        verdict: "standby",
        epoch: 3,
        holder: "other".to_owned(),
        addresses: Vec::new(),
        reason: "other holds it".to_owned(),
    };
    let told = Told::Other(standby.clone());
    on(&mut core, Event::Told { stream: 1, told }, at(2));
    let told = Told::MayStart { epoch: 9 };
    let begin = Effect::Begin { lease: 7, epoch: 9 };
    let effects = on(&mut core, Event::Told { stream: 1, told }, at(3));
    assert_eq!(effects, std::slice::from_ref(&begin));
    let refused = Some("it lacks 5".to_owned());
    let effects = on(&mut core, Event::NotBegun { refused }, at(4));
    let follow = Effect::Follow {
        stream: 2,
        lease: 7,
    };
    let reason = "it lacks 5".to_owned();
    let what = Written::Not(Standing { reason, ..standby });
    let number = 3;
    assert_eq!(effects, [follow, Effect::Write { number, what }]);
    let told = Told::MayStart { epoch: 9 };
    assert_eq!(on(&mut core, Event::Told { stream: 2, told }, at(5)), []);
    let again = at(4) + BEGIN_PAUSE;
    assert_eq!(core.next_wake(), Some(again));
    assert_eq!(on(&mut core, Event::Tick, again), [begin]);
    let begun = Event::Begun { lease: 7, epoch: 9 };
    let effects = on(&mut core, begun, again);
    let serve = Written::Serve {
        epoch: 9,
        until: at(0) + SERVE,
    };
    let what = serve;
    let write = Effect::Write { number: 4, what };
    assert_eq!(effects.first(), Some(&write));
}
