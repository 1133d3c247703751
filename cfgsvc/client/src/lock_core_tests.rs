//! One client of a lock against a group that answers when it likes, or not at all, and against
//! others that want the lock too.
//!
//! The group here is the rule alone: it counts a lease from when a renewal reached it, gives the
//! lock to who came first, and to nobody while it is another's. What must never be is a client that
//! believes it holds the lock while the group may give it away.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

const SERVE: Duration = Duration::from_millis(900);
/// The group keeps a lease longer than the client may count on it: clocks, and the time to stop.
const KEPT: Duration = Duration::from_millis(1_200);

fn at(ms: u64) -> Moment {
    Moment::since_boot(Duration::from_millis(ms))
}

fn terms(lease: i64) -> Terms {
    Terms {
        lease,
        serve: SERVE,
    }
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Attend { sent: Moment },
    Renew { sent: Moment, lease: i64 },
    Leave { lease: i64 },
}

impl Call {
    /// What the client hears when it hears nothing.
    fn unheard(self) -> Event {
        match self {
            Self::Attend { .. } => Event::NotAttended(Hindrance::Unreachable),
            Self::Renew { lease, .. } => Event::NotRenewed { lease },
            Self::Leave { .. } => Event::Left,
        }
    }
}

#[derive(Debug, Default)]
struct Group {
    last_lease: i64,
    revision: i64,
    /// The client's lease, and until when it is kept.
    lease: Option<(i64, Moment)>,
    /// The client holds the lock in this epoch.
    granted: Option<i64>,
    closing: bool,
    /// Another holds it.
    taken: bool,
    /// Another waits for it.
    wanted: bool,
}

impl Group {
    fn end_lease(&mut self) {
        self.lease = None;
        self.granted = None;
        self.closing = false;
        self.settle();
    }

    fn settle(&mut self) {
        if self.granted.is_some() {
            return;
        }
        if self.wanted {
            (self.taken, self.wanted) = (true, false);
        }
        if !self.taken && self.lease.is_some() {
            self.revision += 1;
            self.granted = Some(self.revision);
        }
    }

    fn expire(&mut self, now: Moment) {
        if self.lease.is_some_and(|(_, until)| until <= now) {
            self.end_lease();
        }
    }

    fn answer(&mut self, call: Call, now: Moment) -> Event {
        self.expire(now);
        match call {
            Call::Attend { sent } => {
                if self.closing {
                    self.granted = None;
                    self.closing = false;
                }
                self.last_lease += 1;
                self.lease = Some((self.last_lease, now + KEPT));
                self.settle();
                let terms = terms(self.last_lease);
                Event::Attends { sent, terms }
            }
            Call::Renew { sent, lease } => {
                let renewal = match &mut self.lease {
                    Some((id, _)) if *id != lease => Renewal::Gone,
                    None => Renewal::Gone,
                    Some(_) if self.closing => Renewal::Closing,
                    Some((_, until)) => {
                        *until = now + KEPT;
                        Renewal::Renewed
                    }
                };
                Event::Renewed {
                    lease,
                    sent,
                    renewal,
                }
            }
            Call::Leave { lease } => {
                if self.lease.is_some_and(|(id, _)| id == lease) {
                    self.end_lease();
                }
                Event::Left
            }
        }
    }

    fn told(&self, lease: i64) -> Told {
        match (self.lease, self.granted) {
            (Some((id, _)), Some(_)) if id == lease && self.closing => Told::HandOver,
            (Some((id, _)), Some(epoch)) if id == lease => Told::Yours { epoch },
            (Some((id, _)), None) if id == lease => Told::NotYours,
            _ => Told::NotAttending,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    /// A call reaches the group.
    Reach(usize),
    /// A call does not.
    Lose(usize),
    Answer(usize),
    LoseAnswer(usize),
    /// The group says what is so on the stream.
    Say,
    /// The client hears the oldest of it.
    Hear,
    OtherComes,
    OtherGoes,
    /// The client is asked to hand over.
    Ask,
    Leave,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..400_u64).prop_map(Step::Pass),
        8 => any::<usize>().prop_map(Step::Reach),
        1 => any::<usize>().prop_map(Step::Lose),
        8 => any::<usize>().prop_map(Step::Answer),
        1 => any::<usize>().prop_map(Step::LoseAnswer),
        6 => Just(Step::Say),
        6 => Just(Step::Hear),
        2 => Just(Step::OtherComes),
        3 => Just(Step::OtherGoes),
        1 => Just(Step::Ask),
        1 => Just(Step::Leave),
    ];
    prop::collection::vec(step, 1..120)
}

#[derive(Debug)]
struct World {
    core: Core,
    group: Group,
    now: Moment,
    /// On the way to the group, and back.
    calls: Vec<Call>,
    answers: Vec<(Call, Event)>,
    following: Option<i64>,
    said: VecDeque<(i64, Told)>,
    held: Option<i64>,
    lost: bool,
    done: bool,
}

impl World {
    fn new(patience: Patience) -> Self {
        let now = at(1_000);
        let mut world = Self {
            core: Core::new(patience, now),
            group: Group::default(),
            now,
            calls: Vec::new(),
            answers: Vec::new(),
            following: None,
            said: VecDeque::new(),
            held: None,
            lost: false,
            done: false,
        };
        world.event(Event::Tick);
        world
    }

    fn event(&mut self, event: Event) {
        let effects = self.core.on(event, self.now);
        self.core.check();
        for effect in effects {
            assert!(!self.done, "{effect:?} after the end");
            let sent = self.now;
            match effect {
                Effect::Attend => self.calls.push(Call::Attend { sent }),
                Effect::Follow { lease } => {
                    self.following = Some(lease);
                    self.said.clear();
                }
                Effect::Renew { lease } => self.calls.push(Call::Renew { sent, lease }),
                Effect::Leave { lease } => self.calls.push(Call::Leave { lease }),
                Effect::Done => self.done = true,
            }
        }
        self.invariant_held_alone();
        self.invariant_one_epoch_for_good();
    }

    fn invariant_held_alone(&mut self) {
        self.group.expire(self.now);
        if let Standing::Held { epoch, until } = self.core.standing()
            && self.now < until
        {
            assert_eq!(self.group.granted, Some(epoch), "{self:?}");
            assert!(!self.group.taken, "{self:?}");
            let kept = self.group.lease.map(|(_, kept)| kept);
            assert!(kept.is_some_and(|kept| until <= kept), "{self:?}");
        }
    }

    fn invariant_one_epoch_for_good(&mut self) {
        match self.core.standing() {
            Standing::Held { epoch, .. } => {
                assert!(!self.lost, "held again after a loss");
                assert_eq!(*self.held.get_or_insert(epoch), epoch);
            }
            Standing::Lost(_) | Standing::Left => self.lost = true,
            Standing::Waiting => assert!(self.held.is_none(), "it waits for what it had"),
        }
    }

    fn step(&mut self, step: Step) {
        let place = |at: usize, count: usize| (count > 0).then(|| at % count);
        match step {
            Step::Pass(ms) => self.pass(Duration::from_millis(ms)),
            Step::Reach(index) => {
                if let Some(index) = place(index, self.calls.len()) {
                    let call = self.calls.remove(index);
                    let answer = self.group.answer(call, self.now);
                    self.answers.push((call, answer));
                }
            }
            Step::Lose(index) => {
                if let Some(index) = place(index, self.calls.len()) {
                    let call = self.calls.remove(index);
                    self.event(call.unheard());
                }
            }
            Step::Answer(index) => {
                if let Some(index) = place(index, self.answers.len()) {
                    let (_, answer) = self.answers.remove(index);
                    self.event(answer);
                }
            }
            Step::LoseAnswer(index) => {
                if let Some(index) = place(index, self.answers.len()) {
                    let (call, _) = self.answers.remove(index);
                    self.event(call.unheard());
                }
            }
            Step::Say => {
                self.group.expire(self.now);
                if let Some(lease) = self.following {
                    self.said.push_back((lease, self.group.told(lease)));
                }
            }
            Step::Hear => {
                if let Some((lease, told)) = self.said.pop_front() {
                    self.event(Event::Told { lease, told });
                }
            }
            Step::OtherComes => {
                self.group.wanted = true;
                self.group.settle();
            }
            Step::OtherGoes => {
                self.group.taken = false;
                self.group.settle();
            }
            Step::Ask => self.group.closing = self.group.granted.is_some(),
            Step::Leave => self.event(Event::Leave),
        }
        self.invariant_held_alone();
    }

    /// Time passes, with a tick where one is due.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(wake) = self.core.next_wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.event(Event::Tick);
        }
        self.now = end;
        self.invariant_held_alone();
    }

    /// A round in which everything gets through.
    fn round(&mut self) {
        self.step(Step::OtherGoes);
        while !self.calls.is_empty() {
            self.step(Step::Reach(0));
        }
        while !self.answers.is_empty() {
            self.step(Step::Answer(0));
        }
        self.step(Step::Say);
        while !self.said.is_empty() {
            self.step(Step::Hear);
        }
        self.pass(Duration::from_millis(100));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_is_held_only_while_nobody_else_can_have_it(steps in steps(), once: bool) {
        let until = once.then(|| at(3_000));
        let mut world = World::new(Patience { once, until });
        for step in steps {
            world.step(step);
        }
        world.group.closing = false;
        for _ in 0..60 {
            world.round();
            if !matches!(world.core.standing(), Standing::Waiting) {
                break;
            }
        }
        prop_assert!(
            !matches!(world.core.standing(), Standing::Waiting),
            "it waits for what nobody has: {:?}", world
        );
        // Renewals keep what it has.
        if let Standing::Held { epoch, .. } = world.core.standing() {
            for _ in 0..30 {
                world.round();
            }
            let still = matches!(
                world.core.standing(),
                Standing::Held { epoch: now, .. } if now == epoch
            );
            prop_assert!(still, "lost while everything gets through: {:?}", world);
        }
        world.step(Step::Leave);
        for _ in 0..3 {
            world.round();
        }
        prop_assert!(world.done, "{:?}", world);
        world.pass(2 * KEPT);
        world.group.expire(world.now);
        prop_assert!(world.group.lease.is_none() && world.calls.is_empty());
    }
}

/// A client that has the lock in epoch 7, since 1 s.
fn holder() -> Core {
    let mut core = Core::new(Patience::default(), at(1_000));
    assert_eq!(core.on(Event::Tick, at(1_000)), [Effect::Attend]);
    let attends = Event::Attends {
        sent: at(1_000),
        terms: terms(1),
    };
    assert_eq!(core.on(attends, at(1_100)), [Effect::Follow { lease: 1 }]);
    let told = Told::Yours { epoch: 7 };
    assert_eq!(core.on(Event::Told { lease: 1, told }, at(1_100)), []);
    core
}

#[test]
fn the_deadline_counts_from_the_sending_and_a_late_answer_brings_nothing_back() {
    let mut core = holder();
    let (epoch, until) = (7, at(1_900));
    assert_eq!(core.standing(), Standing::Held { epoch, until });
    assert_eq!(core.next_wake(), Some(at(1_300)));
    assert_eq!(
        core.on(Event::Tick, at(1_300)),
        [Effect::Renew { lease: 1 }]
    );
    let renewed = |sent| Event::Renewed {
        lease: 1,
        sent,
        renewal: Renewal::Renewed,
    };
    core.on(renewed(at(1_300)), at(1_500));
    let until = at(2_200);
    assert_eq!(core.standing(), Standing::Held { epoch, until });
    assert_eq!(
        core.on(Event::Tick, at(1_600)),
        [Effect::Renew { lease: 1 }]
    );
    // Confirmed, and heard of too late: whoever looked at the clock has seen the lock lost.
    assert_eq!(core.on(renewed(at(1_600)), at(2_200)), []);
    assert_eq!(core.standing(), Standing::Lost(LeaseLost::NotRenewed));
    assert_eq!(
        core.on(Event::Leave, at(2_600)),
        [Effect::Leave { lease: 1 }]
    );
    assert_eq!(core.on(Event::Left, at(2_700)), [Effect::Done]);
}

#[test]
fn it_is_lost_at_once_when_the_group_says_so() {
    for (told, why, leaves) in [
        (
            Told::HandOver,
            LeaseLost::HandOver,
            Effect::Leave { lease: 1 },
        ),
        (
            Told::NotYours,
            LeaseLost::HandOver,
            Effect::Leave { lease: 1 },
        ),
        (
            Told::Yours { epoch: 8 },
            LeaseLost::HandOver,
            Effect::Leave { lease: 1 },
        ),
        (Told::NotAttending, LeaseLost::Gone, Effect::Done),
    ] {
        let mut core = holder();
        // Of another lease: nothing.
        core.on(Event::Told { lease: 2, told }, at(1_200));
        assert!(matches!(core.standing(), Standing::Held { .. }));
        assert_eq!(core.on(Event::Told { lease: 1, told }, at(1_200)), []);
        assert_eq!(core.standing(), Standing::Lost(why));
        assert_eq!(core.next_wake(), None, "nothing is renewed");
        assert_eq!(core.on(Event::Leave, at(1_300)), [leaves]);
    }
}

#[test]
fn late_answers_of_a_former_lease_change_nothing() {
    let renewals = [Renewal::Renewed, Renewal::Closing, Renewal::Gone];
    let renewed = renewals.map(|renewal| Event::Renewed {
        lease: 9,
        sent: at(1_200),
        renewal,
    });
    for event in renewed.into_iter().chain([Event::NotRenewed { lease: 9 }]) {
        let mut core = holder();
        let before = format!("{core:?}");
        assert_eq!(core.on(event, at(1_250)), []);
        assert_eq!(format!("{core:?}"), before, "{event:?}");
    }
}

#[test]
fn who_gives_up_while_it_queues_up_leaves_when_it_is_in() {
    let mut core = Core::new(Patience::default(), at(0));
    core.on(Event::Tick, at(0));
    assert_eq!(core.on(Event::Leave, at(1)), []);
    let attends = Event::Attends {
        sent: at(0),
        terms: terms(3),
    };
    let leave = Effect::Leave { lease: 3 };
    assert_eq!(
        core.on(attends, at(2)),
        [Effect::Follow { lease: 3 }, leave]
    );
    // It was given the lock meanwhile.
    let told = Told::Yours { epoch: 9 };
    assert_eq!(core.on(Event::Told { lease: 3, told }, at(3)), []);
    assert_eq!(core.standing(), Standing::Left);
}

#[test]
fn who_does_not_wait_leaves_at_once_and_who_waits_for_a_time_when_it_is_over() {
    let attends = Event::Attends {
        sent: at(0),
        terms: terms(1),
    };
    let told = Event::Told {
        lease: 1,
        told: Told::NotYours,
    };
    let until = Some(at(700));
    let mut once = Core::new(Patience { once: true, until }, at(0));
    let mut some = Core::new(Patience { once: false, until }, at(0));
    for core in [&mut once, &mut some] {
        core.on(Event::Tick, at(0));
        core.on(attends, at(1));
    }
    assert_eq!(once.on(told, at(2)), [Effect::Leave { lease: 1 }]);
    assert_eq!(some.on(told, at(2)), []);
    assert_eq!(some.next_wake(), Some(at(300)), "to renew");
    some.on(Event::Tick, at(300));
    assert_eq!(some.next_wake(), Some(at(700)), "to leave");
    assert_eq!(some.on(Event::Tick, at(700)), [Effect::Leave { lease: 1 }]);
    // A name that is taken is waited for, but not by who does not wait.
    let mut once = Core::new(Patience { once: true, until }, at(0));
    once.on(Event::Tick, at(0));
    let occupied = Event::NotAttended(Hindrance::Occupied);
    assert_eq!(once.on(occupied, at(1)), [Effect::Done]);
}

#[test]
fn a_group_that_was_never_reached_is_given_up_and_one_that_was_is_not() {
    let unreachable = Event::NotAttended(Hindrance::Unreachable);
    let mut core = Core::new(Patience::default(), at(0));
    core.on(Event::Tick, at(0));
    assert_eq!(core.on(unreachable, at(5_000)), [Effect::Done]);

    let mut core = Core::new(Patience::default(), at(1_000));
    core.on(Event::Tick, at(1_000));
    let attends = Event::Attends {
        sent: at(1_000),
        terms: terms(1),
    };
    core.on(attends, at(1_000));
    core.on(Event::Tick, at(1_300));
    core.on(Event::NotRenewed { lease: 1 }, at(1_890));
    assert_eq!(core.on(Event::Tick, at(1_900)), [Effect::Attend]);
    assert_eq!(core.on(unreachable, at(6_000)), []);
    assert_eq!(core.next_wake(), Some(at(6_000) + ATTEND_PAUSE));
}
