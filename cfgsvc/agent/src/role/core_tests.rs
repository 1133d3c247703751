//! The agent's decisions, one at a time.

use super::*;

const SERVE: Duration = Duration::from_millis(900);

fn at(ms: u64) -> Moment {
    Moment::since_boot(Duration::from_millis(ms))
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
fn a_host_whose_store_was_opened_anew_comes_again_and_no_more_often_than_it_may() {
    let mut core = attends_with(HostData::Some);
    let told = standby(3);
    on(&mut core, Event::Told { stream: 1, told }, at(2));
    assert!(core.rests());
    on(&mut core, Event::SaysAnew, at(3));
    assert!(!core.rests(), "it is going to be asked");
    let again = at(0) + ATTEND_PAUSE;
    assert_eq!(core.next_wake(), Some(again));
    assert_eq!(on(&mut core, Event::Tick, again), [Effect::Attend]);
    // It cannot be said what there is now: it keeps what it has, and is asked again.
    on(&mut core, Event::NotAsked, again);
    let renewed = Event::Renewed {
        lease: 7,
        sent: again,
        renewal: Renewal::Renewed,
    };
    on(&mut core, renewed, again);
    let later = again + POSITION_PAUSE;
    let effects = on(&mut core, Event::Tick, later);
    assert!(effects.contains(&Effect::Attend), "{effects:?}");
    // Long after it came, at once.
    let (sent, data) = (later, HostData::Some);
    let terms = Terms {
        lease: 8,
        data,
        ..TERMS
    };
    on(&mut core, Event::Attends { sent, terms }, later);
    let (stream, told) = (core.stream, standby(3));
    on(&mut core, Event::Told { stream, told }, later);
    let late = later + ATTEND_PAUSE;
    assert_eq!(on(&mut core, Event::SaysAnew, late), [Effect::Attend]);
}

#[test]
fn a_host_is_looked_at_while_nothing_is_begun_or_served_there() {
    let told = |mut core: Core, told| {
        on(&mut core, Event::Told { stream: 1, told }, at(2));
        core
    };
    let of = attends_with;
    assert!(!of(HostData::Some).rests(), "what it may do is not known");
    assert!(told(of(HostData::Some), standby(3)).rests());
    assert!(told(of(HostData::Empty), standby(3)).rests());
    assert!(!told(of(HostData::NotKept), standby(3)).rests());
    let may_start = Told::MayStart { epoch: 9 };
    assert!(!told(of(HostData::Some), may_start.clone()).rests());
    assert!(!serves().rests());
    // It is refused, and tried again.
    let mut core = told(of(HostData::Some), may_start.clone());
    let refused = Some("it lacks 5".to_owned());
    on(&mut core, Event::NotBegun { refused }, at(3));
    let (stream, told) = (core.stream, may_start);
    on(&mut core, Event::Told { stream, told }, at(4));
    assert!(!core.rests());
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
fn a_program_that_does_not_do_its_work_is_given_up_with_the_reason_until_the_host_comes_again() {
    let mut core = serves();
    let why = "check failed: 3 times in a row";
    let fenced = Written::Not(Standing::fenced(9, why));
    let effects = on(&mut core, Event::Failed(why.to_owned()), at(4));
    let number = core.number;
    let what = fenced.clone();
    assert_eq!(effects, [Effect::Stop, Effect::Write { number, what }]);
    let effects = on(&mut core, Event::NothingLeft, at(5));
    let leaves = Effect::Yield {
        lease: 7,
        leave: true,
        served: true,
        until: at(0) + SERVE,
    };
    assert_eq!(effects, [leaves], "it does not do what it stands for");
    on(&mut core, Event::Yielded { known: true }, at(6));
    let again = at(5) + ENDED_PAUSE;
    assert_eq!(core.next_wake(), Some(again));
    assert_eq!(core.written, Some(fenced), "it says why all the time");
    assert_eq!(on(&mut core, Event::Tick, again), [Effect::Attend]);
    let terms = Terms { lease: 8, ..TERMS };
    let effects = on(&mut core, Event::Attends { sent: again, terms }, again);
    let said = |effect: &Effect| matches!(effect, Effect::Write { what: Written::Not(said), .. } if said.reason == why);
    assert!(!effects.iter().any(said), "{effects:?}");
    // What has failed is not served any more: nothing else comes of it.
    assert_eq!(on(&mut core, Event::Failed(why.to_owned()), again), []);
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
