//! The contact with a simulated group, some of whose members fall silent.

use super::*;
use crate::route::Router;
use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};

const LIMIT_MS: u64 = 3_000;
const LIMIT: Duration = Duration::from_millis(LIMIT_MS);
const STEP: Duration = Duration::from_millis(5);
/// Longest way of a request and of its answer.
const WAY_MS: u64 = 40;
/// For the timers of a machine that does much else.
const LATE: Duration = Duration::from_millis(20);

fn at(ms: u64) -> Moment {
    Moment::since_boot(Duration::from_millis(ms))
}

/// What a member does when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Well,
    /// It says nothing.
    Silent,
    /// It says nothing to watches.
    Deaf,
}

/// What happens to the group.
#[derive(Clone, Debug)]
struct Fault {
    members: Vec<Member>,
    /// When.
    from: Moment,
    /// So long nobody leads: no barrier is answered until it is over.
    election: Duration,
}

/// Of up to five members two at most are silent, and not all, or one is deaf.
fn fault() -> impl Strategy<Value = Fault> {
    let silent = prop::collection::vec(any::<bool>(), 2..=5).prop_filter("one lives", |silent| {
        let silent_count = silent.iter().filter(|silent| **silent).count();
        silent_count < silent.len() && silent_count <= 2
    });
    let silent = silent.prop_map(|silent| {
        let member = |silent| if silent { Member::Silent } else { Member::Well };
        silent.into_iter().map(member).collect()
    });
    let deaf = (2_usize..=5).prop_map(|count| {
        let mut members = vec![Member::Well; count];
        members[0] = Member::Deaf;
        members
    });
    // What is left of the limit after a period, the ways, and a little.
    let election_ms = LIMIT_MS - LIMIT_MS / u64::from(PERIODS) - 3 * WAY_MS - 60;
    let members = prop_oneof![3 => silent, 1 => deaf];
    (members, 500..2_000_u64, 0..=election_ms).prop_map(|(members, from_ms, election_ms)| Fault {
        members,
        from: at(from_ms),
        election: Duration::from_millis(election_ms),
    })
}

/// Where the watch is, or is being opened.
enum Watching {
    At(usize),
    /// Accepted at this moment by that endpoint, or given up then.
    Opens(usize, Moment),
}

struct World {
    fault: Fault,
    now: Moment,
    rng: StdRng,
    router: Router,
    contact: Contact,
    watching: Watching,
    /// Progress that was asked for arrives then.
    progress: Option<Moment>,
    /// Barriers that will be answered: when, who was asked, how far from the one in use, and when.
    answers: Vec<(Moment, (usize, usize), Moment)>,
    /// Answered, and ahead of the watch.
    waiting: Vec<Moment>,
    confirmed: Moment,
}

impl World {
    fn new(fault: Fault, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let router = Router::new(fault.members.len(), &mut rng);
        Self {
            fault,
            now: at(0),
            contact: Contact::new(LIMIT, at(0)),
            watching: Watching::At(router.current()),
            router,
            rng,
            progress: None,
            answers: Vec::new(),
            waiting: Vec::new(),
            confirmed: at(0),
        }
    }

    fn is_silent(&self, endpoint: usize) -> bool {
        self.fault.members[endpoint] == Member::Silent && self.now >= self.fault.from
    }

    /// It says nothing to a watch.
    fn is_deaf(&self, endpoint: usize) -> bool {
        self.fault.members[endpoint] != Member::Well && self.now >= self.fault.from
    }

    fn way(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(1..=WAY_MS))
    }

    fn send(&mut self, steps: usize) {
        let endpoint = self.router.after(steps);
        let arrives = self.now + self.way();
        let answered = if arrives < self.fault.from {
            arrives
        } else if self.fault.members[endpoint] == Member::Silent {
            return;
        } else {
            let led = self.fault.from + self.fault.election;
            arrives.max(led)
        };
        let answer = (answered + self.way(), (endpoint, steps), self.now);
        self.answers.push(answer);
    }

    fn open_watch(&mut self, left: usize) {
        self.router.move_on_from(left);
        let next = self.router.current();
        let pause = backoff(0, &mut self.rng);
        let takes = if self.is_silent(next) {
            Contact::patience(LIMIT)
        } else {
            self.way() + self.way()
        };
        self.watching = Watching::Opens(next, self.now + pause + takes);
        self.progress = None;
    }

    fn turn(&mut self) {
        let turn = self.contact.turn(self.now);
        match (turn.watch, &self.watching) {
            (WithWatch::Ask, Watching::At(_)) => self.ask_progress(),
            (WithWatch::Leave, &Watching::At(left)) => self.open_watch(left),
            (WithWatch::Nothing, _) | (_, Watching::Opens(..)) => {}
        }
        self.send(turn.steps);
    }

    fn ask_progress(&mut self) {
        if let Watching::At(endpoint) = self.watching
            && !self.is_deaf(endpoint)
            && self.progress.is_none()
        {
            self.progress = Some(self.now + self.way() + self.way());
        }
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        let (due, later) = std::mem::take(&mut self.answers)
            .into_iter()
            .partition(|(when, ..)| *when <= self.now);
        self.answers = later;
        for (_, (endpoint, steps), sent) in due {
            if self.contact.answered(sent, steps) {
                self.router.prefer(endpoint);
            }
            // The group is written to all the time, so each barrier is ahead of the watch.
            self.waiting.push(sent);
            self.contact.ahead(self.now);
            self.ask_progress();
        }
        if let Watching::Opens(endpoint, when) = self.watching
            && when <= self.now
        {
            if self.is_silent(endpoint) {
                self.open_watch(endpoint);
            } else {
                self.watching = Watching::At(endpoint);
                self.progress = (!self.is_deaf(endpoint)).then_some(self.now);
            }
        }
        if self.progress.is_some_and(|arrives| arrives <= self.now) {
            self.progress = None;
            let silent = matches!(self.watching, Watching::At(at) if self.is_deaf(at));
            if !silent {
                self.contact.heard();
                self.confirmed = self.waiting.drain(..).fold(self.confirmed, Moment::max);
            }
        }
        // Timers are late.
        if self.contact.due() + LATE.mul_f64(self.rng.random_range(0.0..1.0)) <= self.now {
            self.turn();
        }
    }
}

proptest! {
    #[test]
    fn copy_stays_fresh_while_two_members_are_silent_and_through_an_election(
        fault in fault(), seed: u64,
    ) {
        let mut world = World::new(fault, seed);
        while world.now < at(12_000) {
            world.step();
            let age = world.now.since(world.confirmed);
            prop_assert!(age < LIMIT, "at {:?} it is {age:?} old", world.now);
        }
        // And it has settled with one that answers, and with a watch at one that speaks.
        prop_assert!(!world.is_silent(world.router.current()));
        prop_assert!(matches!(world.watching, Watching::At(at) if !world.is_deaf(at)));
    }

    #[test]
    fn barriers_under_way_are_bounded_and_visit_every_endpoint_in_turn(
        endpoints in 1_usize..6, seed: u64,
    ) {
        let mut contact = Contact::new(LIMIT, at(0));
        let router = Router::new(endpoints, &mut StdRng::seed_from_u64(seed));
        let mut sent = Vec::new();
        for ms in 0..10_000 {
            if contact.due() <= at(ms) {
                let turn = contact.turn(at(ms));
                sent.push((at(ms), router.after(turn.steps)));
            }
            let under_way = sent.iter().filter(|(sent, _)| at(ms).since(*sent) < LIMIT);
            prop_assert!(under_way.count() <= PERIODS as usize + 1);
        }
        for round in sent.chunks_exact(endpoints) {
            let mut asked: Vec<_> = round.iter().map(|(_, endpoint)| *endpoint).collect();
            asked.sort_unstable();
            prop_assert_eq!(asked, (0..endpoints).collect::<Vec<_>>());
        }
    }
}

#[test]
fn answers_that_take_longer_than_a_period_do_not_change_who_is_asked_first() {
    let mut contact = Contact::new(LIMIT, at(0));
    let mut router = Router::new(3, &mut StdRng::seed_from_u64(1));
    let mut answers: Vec<(u64, (usize, usize), Moment)> = Vec::new();
    let first = router.current();
    for ms in 0..20_000 {
        answers.retain(|&(when, (endpoint, steps), sent)| {
            if when == ms && contact.answered(sent, steps) {
                router.prefer(endpoint);
            }
            when != ms
        });
        assert_eq!(router.current(), first, "after {ms} ms");
        if contact.due() <= at(ms) {
            let steps = contact.turn(at(ms)).steps;
            answers.push((ms + 450, (router.after(steps), steps), at(ms)));
        }
    }
}

#[test]
fn barriers_that_fail_at_once_are_followed_by_ever_later_ones_at_other_endpoints() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut contact = Contact::new(LIMIT, at(0));
    let mut now = at(0);
    let mut waits = Vec::new();
    for steps in 0..20 {
        assert_eq!(contact.turn(now).steps, steps);
        let sent = now;
        assert!(contact.failed(sent, true, now, &mut rng));
        waits.push(contact.due().since(now));
        now = contact.due();
    }
    assert!(waits[0] < Duration::from_millis(40), "{waits:?}");
    let period = LIMIT / PERIODS;
    assert!(
        waits[10..]
            .iter()
            .all(|wait| *wait > period / 3 && *wait <= period)
    );
    // What fails long after another has answered says nothing.
    assert_eq!(contact.turn(now).steps, 20);
    assert!(contact.answered(now, 20));
    assert!(!contact.failed(now, true, now, &mut rng));
    assert_eq!(contact.due(), now + period);
}

#[test]
fn silent_watch_is_left_after_a_while_that_doubles_until_it_speaks() {
    let mut silence = Silence::new(Duration::from_millis(10));
    let mut left_at = Vec::new();
    for ms in (0..1_000).step_by(10) {
        silence.asked(at(ms));
        if silence.too_long(at(ms)) {
            left_at.push(ms);
        }
    }
    assert_eq!(left_at, [100, 310, 720]);
    silence.broken();
    assert!(!silence.too_long(at(20_000)), "it was not asked");
    silence.asked(at(20_000));
    assert!(silence.too_long(at(20_100)));
}
