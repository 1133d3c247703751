//! What the guard's core promises, over arbitrary histories.

use proptest::prelude::*;

use super::*;

const STOP: Duration = Duration::from_millis(400);
/// Three quarters of that.
const KILL_AFTER: Duration = Duration::from_millis(300);

fn at(ms: u64) -> Moment {
    Moment::since_boot(Duration::from_millis(ms))
}

/// A core, and what its history says that it must do.
struct World {
    core: Core,
    now: Moment,
    /// The deadline that counts.
    until: Option<Moment>,
    started: bool,
    /// When KILL is due, from when TERM was sent.
    kill_due: Option<Moment>,
    killed: bool,
    over: bool,
    said: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self {
            core: Core::new(STOP),
            now: at(1_000),
            until: None,
            started: false,
            kill_due: None,
            killed: false,
            over: false,
            said: Vec::new(),
        }
    }

    fn event(&mut self, event: Event) {
        if let Event::Until(until) = event
            && self.kill_due.is_none()
            && (self.started || until > self.now)
        {
            self.until = Some(until);
        }
        let effects = self.core.on(event, self.now);
        assert!(
            !self.over || effects.is_empty(),
            "{effects:?} after the end"
        );
        for effect in effects {
            self.effect(event, effect);
        }
        self.invariant_the_deadline_is_kept();
        self.invariant_it_goes_on(event);
    }

    fn effect(&mut self, event: Event, effect: Effect) {
        assert!(!self.over, "{effect:?} after the end");
        let now = self.now;
        match effect {
            Effect::Start => {
                assert!(!self.started && self.kill_due.is_none(), "started twice");
                assert!(self.until.is_some_and(|until| until > now));
                self.started = true;
            }
            Effect::Signal(Sent::Term) => {
                assert!(self.started && self.kill_due.is_none(), "one TERM");
                let until = self.until.expect("nothing starts without one");
                let asked = matches!(
                    event,
                    Event::Stop(_)
                        | Event::Lost(_)
                        | Event::Exited(_)
                        | Event::NothingLeft
                        | Event::NotStarted
                );
                let absurd = matches!(event, Event::Until(at) if now.until(at) > FURTHEST);
                assert!(asked || absurd || now >= until, "stopped before {until}");
                self.kill_due = Some(now.min(until) + KILL_AFTER);
            }
            Effect::Signal(Sent::Kill) => {
                let due = self.kill_due.expect("TERM comes first");
                assert!(now >= due, "killed at {now}, before {due}");
                self.killed = true;
            }
            Effect::Say(report) => {
                if report == Report::Gone {
                    let nothing = matches!(event, Event::NothingLeft | Event::NotStarted);
                    assert!(nothing || !self.started, "gone while something is left");
                }
                if let Report::Beside(ending) = report {
                    assert_eq!(event, Event::BesideEnded(ending));
                    assert!(self.kill_due.is_none(), "it was stopped");
                }
                if report == Report::Up {
                    assert!(self.started && self.kill_due.is_none(), "it was stopped");
                }
                self.said.push(report.to_string());
            }
            Effect::Done => self.over = true,
        }
    }

    fn invariant_the_deadline_is_kept(&self) {
        if self.started && !self.over {
            let over = self.until.is_some_and(|until| until <= self.now);
            assert!(!over || self.kill_due.is_some(), "no TERM at {}", self.now);
        }
        if let Some(due) = self.kill_due
            && due <= self.now
        {
            assert!(self.killed || self.over, "no KILL at {}", self.now);
        }
    }

    fn invariant_it_goes_on(&self, event: Event) {
        match self.core.next_wake() {
            Some(wake) => {
                assert!(self.started && !self.over);
                assert!(wake > self.now, "due at {wake} after {event:?}");
            }
            None => assert!(!self.started || self.over, "it waits for nothing"),
        }
    }

    /// Lets time pass. Asleep, the wakes on the way are missed.
    fn pass(&mut self, span: Duration, asleep: bool) {
        let end = self.now + span;
        while let Some(wake) = self.core.next_wake()
            && wake <= end
            && !asleep
        {
            self.now = wake;
            self.event(Event::Tick);
        }
        self.now = end;
        self.event(Event::Tick);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A deadline so many milliseconds after the present, or before it.
    Until(i64),
    Event(Event),
    Pass {
        ms: u64,
        asleep: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let rare = prop::sample::select(vec![
        Event::Stop(Asker::Agent),
        Event::Stop(Asker::Signal),
        Event::Lost(Loss::Closed),
        Event::Lost(Loss::BadInput),
        Event::NotStarted,
        Event::Up,
        Event::Exited(Ending::Code(3)),
        Event::Exited(Ending::Signal(15)),
        Event::BesideEnded(Ending::Code(0)),
        Event::BesideEnded(Ending::Code(1)),
        Event::NothingLeft,
        Event::Tick,
    ]);
    prop_oneof![
        6 => (-1_000_i64..3_000).prop_map(Step::Until),
        1 => Just(Step::Until(100_000_000)),
        8 => (0_u64..1_500, any::<bool>()).prop_map(|(ms, asleep)| Step::Pass { ms, asleep }),
        3 => rare.prop_map(Step::Event),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_the_program_ends_with_its_lease(
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Until(after) => {
                    let ms = world.now.nanos() / 1_000_000;
                    world.event(Event::Until(at(ms.saturating_add_signed(after))));
                }
                // The shell reports what it has started and its remains only if there are any.
                Step::Event(
                    Event::Exited(_)
                    | Event::BesideEnded(_)
                    | Event::NothingLeft
                    | Event::NotStarted,
                ) if !world.started || world.over => {}
                Step::Event(event) => world.event(event),
                Step::Pass { ms, asleep } => world.pass(Duration::from_millis(ms), asleep),
            }
        }
        // Nothing more is heard: the deadline is the first wake, and KILL the second.
        for _ in 0..2 {
            if let Some(wake) = world.core.next_wake() {
                world.pass(world.now.until(wake), false);
            }
        }
        prop_assert!(!world.started || world.over || world.killed);
    }
}

#[test]
fn a_deadline_in_the_past_starts_nothing_and_a_later_one_does() {
    let mut core = Core::new(STOP);
    let late = vec![Effect::Say(Report::Late)];
    assert_eq!(core.on(Event::Until(at(9)), at(10)), late);
    assert_eq!(core.on(Event::Until(at(10)), at(10)), late);
    assert_eq!(core.on(Event::Until(at(11)), at(10)), vec![Effect::Start]);
}

#[test]
fn an_extended_deadline_is_honoured_and_a_shorter_one_too() {
    let mut world = World::new();
    world.event(Event::Until(at(2_000)));
    world.pass(Duration::from_millis(900), false);
    world.event(Event::Until(at(3_000)));
    world.pass(Duration::from_secs(1), false);
    assert_eq!(world.kill_due, None);
    world.event(Event::Until(at(2_900)));
    assert_eq!(world.kill_due, Some(at(3_200)));
    world.event(Event::Until(at(9_000)));
    world.pass(KILL_AFTER, false);
    assert!(
        world.killed,
        "a deadline after stopping began does not count"
    );
    world.event(Event::NothingLeft);
    assert_eq!(world.said, ["stopping deadline", "gone"]);
}

#[test]
fn after_a_suspend_beyond_the_stop_margin_it_kills_at_once() {
    let mut core = Core::new(STOP);
    core.on(Event::Until(at(2_000)), at(1_000));
    assert_eq!(
        core.on(Event::Tick, at(60_000)),
        vec![
            Effect::Signal(Sent::Term),
            Effect::Say(Report::Stopping(Reason::Deadline)),
            Effect::Signal(Sent::Kill),
        ]
    );
    assert_eq!(core.next_wake(), Some(at(60_000) + AGAIN));
}

#[test]
fn a_lost_agent_before_the_start_ends_the_guard() {
    let mut world = World::new();
    world.event(Event::Lost(Loss::Closed));
    assert!(world.over && !world.started);
    assert_eq!(world.said, ["stopping agent-lost", "gone"]);
    world.event(Event::Until(at(5_000)));
    assert!(!world.started);
}

#[test]
fn what_the_main_process_leaves_is_stopped() {
    let mut world = World::new();
    world.event(Event::Until(at(9_000)));
    world.event(Event::Exited(Ending::Code(3)));
    assert_eq!(world.kill_due, Some(at(1_300)));
    world.event(Event::NothingLeft);
    assert_eq!(world.said, ["exited 3", "stopping exited", "gone"]);
}

#[test]
fn within_the_margin_the_guard_kills_and_then_who_gave_it_up_does() {
    let stops = at(1_000);
    let mut core = Core::new(STOP);
    core.on(Event::Until(stops), at(0));
    core.on(Event::Tick, stops);
    let (kill, over) = (core.next_wake(), stops + STOP);
    assert_eq!(kill, Some(at(1_300)));
    assert_eq!(given_up_at(stops, STOP), at(1_350));
    assert!(given_up_at(stops, STOP) < over);
}

#[test]
fn a_program_is_up_when_it_says_so_while_it_runs() {
    let mut world = World::new();
    world.event(Event::Up);
    world.event(Event::Until(at(9_000)));
    world.event(Event::Up);
    assert_eq!(world.kill_due, None);
    world.event(Event::Stop(Asker::Agent));
    world.event(Event::Up);
    assert_eq!(world.said, ["up", "stopping asked"]);
}

#[test]
fn what_fails_beside_the_program_is_said_and_changes_nothing() {
    let mut world = World::new();
    world.event(Event::Until(at(9_000)));
    world.event(Event::BesideEnded(Ending::Code(0)));
    world.event(Event::BesideEnded(Ending::Code(3)));
    assert_eq!(world.kill_due, None);
    world.event(Event::Stop(Asker::Agent));
    world.event(Event::BesideEnded(Ending::Signal(15)));
    assert_eq!(world.said, ["beside 3", "stopping asked"]);
}
