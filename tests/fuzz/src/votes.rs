//! What hosts tell of one another, as it comes from the network: rows at the leader, the cut and
//! the decisions made of them, and lists at the agents.
//!
//! - what is accepted is within its limits, and one host's row is the same heard twice, or before
//!   the row of another;
//! - a subject is down when a majority of all colos say so, counted here anew, and what an observer
//!   says that is left out changes nothing;
//! - nothing is moved when more than half look down at once, nor to one that is not up, nor before
//!   its time, nor without what it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cfgsvc::lease::wire::{LeaseCall, decode};
use cfgsvc::votes::{Votes, check_row};
use cfgsvc_agent::probe::{self, BYTES_MAX, Datagram, MISSES, PROBES_MAX, Watched};
use cfgsvc_client::Moment;
use cfgsvc_core::placement::objects::Kind;
use cfgsvc_core::placement::placed::Fleet;
use cfgsvc_core::placement::{Name, RoleName};
use cfgsvc_core::votes::cut::{FRESH_MS, LATE_MS_MAX, Marks, Vote};
use cfgsvc_core::votes::{
    Cut, Memory, Move, Outcome, Placed, Row, Scene, Settings, Sight, State, Subject, cut, decide,
};
use cfgsvc_proto::v1::{self, Probe, Probes, VotesResponse};
use prost::Message;

use crate::draw::Draw;

/// Steps in one run at most: bounds the time of a run.
const STEPS_MAX: usize = 32;
const HOSTS: [&str; 8] = ["a1", "a2", "a3", "b1", "b2", "b3", "c1", "d1"];
const COLOS: [&str; 4] = ["a", "b", "c", "d"];
const ROLES: [&str; 3] = ["web", "db", "app"];
/// Longest text of a row, and longest list of bits: what agents send is shorter.
const TEXT_BYTES_MAX: usize = 255;
const LIST_BYTES_MAX: usize = PROBES_MAX / 8;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn role(text: &str) -> RoleName {
    text.parse().expect("a role")
}

fn one_of<'a>(draw: &mut Draw<'_>, all: &[&'a str]) -> &'a str {
    let at = draw.below(all.len() as u64);
    all[usize::try_from(at).unwrap_or(0)]
}

/// Some of them, by a byte for each eight.
fn some_of<'a>(draw: &mut Draw<'_>, all: &'a [&'a str]) -> impl Iterator<Item = &'a str> + use<'a> {
    let bits = draw.byte();
    let chosen = move |(at, _): &(usize, &&str)| bits & (1 << (at % 8)) == 0;
    all.iter().enumerate().filter(chosen).map(|(_, one)| *one)
}

/// Its own colo, but for some.
fn home(draw: &mut Draw<'_>, host: &str) -> Name {
    if draw.rarely(16) {
        name(one_of(draw, &COLOS))
    } else {
        name(&host[..1])
    }
}

/// Rows, looks, and terms at a leader that hears each row once, and at one that hears them twice
/// and in another order.
pub(crate) fn rows(data: &[u8]) {
    let mut draw = Draw::new(data);
    let mut leader = Leader::default();
    for _ in 0..STEPS_MAX {
        if draw.is_empty() {
            break;
        }
        leader.now = leader.now + Duration::from_millis(draw.below(4_000));
        match draw.below(8) {
            0..=3 => leader.hear(&mut draw),
            4 => leader.term = draw.below(3) + 1,
            5 if draw.rarely(4) => {
                leader.once.forget();
                leader.twice.forget();
            }
            _ => leader.look(&mut draw),
        }
        let shown = leader.once.shown(leader.now);
        assert_eq!(shown, leader.twice.shown(leader.now));
    }
}

struct Leader {
    once: Votes,
    twice: Votes,
    now: Moment,
    term: u64,
    revision: i64,
    fleet: Fleet,
    /// What the agent of each host makes of the lists that it was given.
    agents: BTreeMap<String, Watched>,
}

impl Default for Leader {
    fn default() -> Self {
        Self {
            once: Votes::default(),
            twice: Votes::default(),
            now: Moment::since_boot(Duration::from_secs(100)),
            term: 1,
            revision: 0,
            fleet: Fleet::default(),
            agents: BTreeMap::new(),
        }
    }
}

impl Leader {
    /// Rows of a few hosts, at one moment.
    fn hear(&mut self, draw: &mut Draw<'_>) {
        let mut rows: BTreeMap<String, v1::Row> = BTreeMap::new();
        for _ in 0..=draw.below(6) {
            let row = self.row(draw);
            match check_row(&row) {
                Ok(()) => drop(rows.insert(row.host.clone(), row)),
                Err(status) => assert!(!is_within(&row), "{status}: {row:?}"),
            }
        }
        let call = LeaseCall {
            rows: rows.into_values().collect(),
            ..LeaseCall::default()
        };
        let call: LeaseCall = decode(call.encode_to_vec().into()).expect("its own words");
        let mut given = BTreeMap::new();
        for row in &call.rows {
            assert!(is_within(row), "{row:?}");
            given.insert(
                row.host.clone(),
                self.once.hear(self.now, self.term, row.clone()),
            );
        }
        for row in call.rows.iter().chain(&call.rows).rev() {
            let again = self.twice.hear(self.now, self.term, row.clone());
            assert_eq!(again, given[&row.host]);
        }
        for (host, probes) in given {
            self.given(&host, probes);
        }
    }

    fn row(&mut self, draw: &mut Draw<'_>) -> v1::Row {
        if draw.rarely(16) {
            return v1::Row::decode(draw.bytes(64)).unwrap_or_default();
        }
        let host = one_of(draw, &HOSTS);
        let own = self.agents.get(host).map_or(0, |own| own.list().0);
        let bits = |draw: &mut Draw<'_>| match draw.below(4) {
            0 => vec![0xff; 2],
            1 => draw.bytes(200).to_vec(),
            _ => draw.bytes(3).to_vec(),
        };
        v1::Row {
            host: host.to_owned(),
            colo: home(draw, host).to_string(),
            probe: match draw.below(8) {
                0 => String::new(),
                1 => "h".repeat(usize::try_from(draw.below(300)).unwrap_or(0)),
                _ => format!("192.0.2.1:{}", draw.byte()),
            },
            late_ms: draw.number(2 * LATE_MS_MAX),
            list: if draw.rarely(8) { draw.number(4) } else { own },
            probed: bits(draw).into(),
            missed: bits(draw).into(),
        }
    }

    /// A list names others, each once, that were told where they are probed, and the checks of
    /// roles; its agent takes all of it.
    fn given(&mut self, host: &str, probes: Probes) {
        if probes.list == 0 {
            assert!(probes.probes.is_empty(), "{probes:?}");
            return;
        }
        let mut seen = BTreeSet::new();
        for probe in &probes.probes {
            let subject = (&probe.host, &probe.role);
            assert!(seen.insert(subject), "{subject:?} twice for {host}");
            assert_ne!(probe.host, host);
            assert_ne!(probe.host.is_empty(), probe.role.is_empty());
            assert_eq!(probe.check.is_empty(), probe.role.is_empty());
            assert!(!probe.address.is_empty() && probe.address.len() <= TEXT_BYTES_MAX);
        }
        let agent = self.agents.entry(host.to_owned()).or_default();
        agent.given(probes.clone());
        assert_eq!(agent.list(), (probes.list, &probes.probes[..]));
    }

    fn look(&mut self, draw: &mut Draw<'_>) {
        let mut news = None;
        if self.revision == 0 || draw.rarely(3) {
            self.revision += 1;
            self.fleet = fleet(draw);
            news = Some((self.revision, self.fleet.clone()));
        }
        let members: BTreeMap<Name, bool> = members(draw);
        let moves = self
            .once
            .look(self.now, self.term, news.clone(), members.clone());
        let again = self.twice.look(self.now, self.term, news, members);
        assert_eq!(moves, again);
        let shown = self.once.shown(self.now);
        for one in &moves {
            self.moved(one, &shown);
        }
    }

    /// What is to be moved may be, by what people are shown.
    fn moved(&self, one: &Move, shown: &VotesResponse) {
        assert!(!shown.paused, "{one:?}");
        let placed = self
            .fleet
            .roles
            .iter()
            .find(|placed| placed.role == one.role);
        let placed = placed.expect("a role that there is");
        may_move(placed, one);
        let state = |wanted: &Name| match placed.kind {
            Kind::Colo => shown
                .colos
                .iter()
                .find(|colo| colo.colo == wanted.as_str())
                .map(|colo| &colo.state),
            Kind::Host | Kind::Lock => shown
                .hosts
                .iter()
                .find(|host| host.host == wanted.as_str())
                .map(|host| &host.state),
        };
        for to in &one.to {
            assert!(
                state(to).is_none_or(|state| state == "up"),
                "{one:?}: {shown:?}"
            );
        }
        let down = shown
            .colos
            .iter()
            .filter(|colo| colo.state == "down")
            .count();
        assert!(down * 2 <= shown.colos.len(), "{one:?}: {shown:?}");
    }
}

fn is_within(row: &v1::Row) -> bool {
    let texts = [&row.host, &row.colo, &row.probe];
    texts.iter().all(|text| text.len() <= TEXT_BYTES_MAX)
        && row.probed.len().max(row.missed.len()) <= LIST_BYTES_MAX
}

/// What a move of a role must be, whatever the reason.
fn may_move(placed: &Placed, one: &Move) {
    assert!(placed.automatic && !placed.closing, "{one:?} of {placed:?}");
    assert_eq!(placed.epoch, one.epoch);
    assert!(placed.holder.is_some() && !one.to.is_empty(), "{one:?}");
    assert!(
        !one.to.iter().any(|to| Some(to) == placed.holder.as_ref()),
        "{one:?}"
    );
    let mut candidates = placed.candidates.iter();
    // In their order.
    assert!(
        one.to.iter().all(|to| candidates.any(|one| one == to)),
        "{one:?} of {placed:?}"
    );
}

fn members(draw: &mut Draw<'_>) -> BTreeMap<Name, bool> {
    let heard = draw.byte();
    let all = some_of(draw, &COLOS).zip(0..);
    all.map(|(colo, at)| (name(colo), heard & (1 << at) == 0))
        .collect()
}

fn fleet(draw: &mut Draw<'_>) -> Fleet {
    let hosts: Vec<&str> = some_of(draw, &HOSTS).collect();
    let hosts: BTreeMap<Name, Name> = hosts
        .into_iter()
        .map(|host| (name(host), home(draw, host)))
        .collect();
    let roles: Vec<Placed> = ROLES
        .iter()
        .map(|role| placed(draw, role, &hosts))
        .collect();
    let checked = draw.byte();
    let checks = roles
        .iter()
        .zip(0..)
        .filter(|(one, at)| one.kind == Kind::Host && checked & (1 << at) == 0);
    let checks = checks.map(|(one, _)| {
        let check = ("tcp".to_owned(), "192.0.2.1:3306".to_owned());
        (one.role.clone(), check)
    });
    let checks = checks.collect();
    Fleet {
        checks,
        attending: some_of(draw, &HOSTS).map(name).collect(),
        settings: settings(draw),
        roles,
        hosts,
    }
}

fn settings(draw: &mut Draw<'_>) -> Settings {
    Settings {
        paused: draw.rarely(8),
        hold_down_ms: draw.below(4) * 1_000,
        interval_ms: draw.below(8) * 1_000,
    }
}

fn placed(draw: &mut Draw<'_>, of: &str, hosts: &BTreeMap<Name, Name>) -> Placed {
    let kind = if of == "web" { Kind::Colo } else { Kind::Host };
    let all: &[&str] = if kind == Kind::Colo { &COLOS } else { &HOSTS };
    let holder = (!draw.rarely(8)).then(|| name(one_of(draw, all)));
    Placed {
        role: role(of),
        kind,
        automatic: !draw.rarely(8),
        epoch: i64::from(draw.byte()),
        colo: holder
            .as_ref()
            .and_then(|holder| hosts.get(holder).cloned()),
        holder,
        serving: u32::from(!draw.rarely(4)),
        closing: draw.rarely(8),
        begun: !draw.rarely(4),
        follows: (of == "app" || draw.rarely(4)).then(|| role("web")),
        candidates: some_of(draw, all).map(name).collect(),
    }
}

/// Any scene, any roles: the cut, counted anew, and what is decided.
pub(crate) fn cuts(data: &[u8]) {
    let mut draw = Draw::new(data);
    let fleet = fleet(&mut draw);
    let (mut memory, settings) = (Memory::default(), fleet.settings.clone());
    let mut now_ms = 100_000;
    let mut scene = Scene::default();
    let began_ms = now_ms;
    let mut moved: BTreeMap<RoleName, u64> = BTreeMap::new();
    for step in 0..STEPS_MAX / 2 {
        if draw.is_empty() && step > 1 {
            break;
        }
        if step == 0 || draw.rarely(2) {
            scene = drawn(&mut draw, &fleet, now_ms);
        }
        scene.now_ms = now_ms;
        let seen = cut(&scene, Marks::default());
        counted_anew(&scene, &seen);
        without_left_out(&scene, &seen);
        memory.look(&seen, &fleet.roles, now_ms);
        let outcome = decide(&memory, &seen, &fleet.roles, (&settings, now_ms));
        decided(&outcome, &seen, &fleet, now_ms - began_ms);
        for one in outcome.moves {
            let last = moved.insert(one.role.clone(), now_ms);
            assert!(
                last.is_none_or(|last| now_ms - last >= settings.interval_ms),
                "{one:?}"
            );
            memory.moved(&one.role, now_ms);
        }
        now_ms += draw.below(4_000);
    }
}

fn drawn(draw: &mut Draw<'_>, fleet: &Fleet, now_ms: u64) -> Scene {
    let mut rows = BTreeMap::new();
    let observers: Vec<&str> = some_of(draw, &HOSTS).collect();
    for host in observers {
        let (probed, missed, checks) = (draw.byte(), draw.byte(), draw.byte());
        let seen = |at: usize| match (probed & (1 << at) == 0, missed & (1 << at) == 0) {
            (false, _) => None,
            (true, true) => Some(Sight::Missed),
            (true, false) => Some(Sight::Reached),
        };
        let others = HOSTS
            .iter()
            .enumerate()
            .filter(|(_, other)| **other != host);
        let of_roles = ROLES
            .iter()
            .zip(0_u8..)
            .filter(|(_, at)| checks & (1 << at) == 0);
        let check = |at: u8| {
            if checks & (8 << at) == 0 {
                Sight::Missed
            } else {
                Sight::Reached
            }
        };
        let row = Row {
            colo: home(draw, host),
            heard_ms: now_ms.saturating_sub(draw.below(2) * draw.number(2 * FRESH_MS)),
            late_ms: draw.below(2) * draw.number(2 * LATE_MS_MAX),
            probed: draw.flag(),
            hosts: others
                .filter_map(|(at, other)| Some((name(other), seen(at)?)))
                .collect(),
            checks: of_roles.map(|(of, at)| (role(of), check(at))).collect(),
        };
        rows.insert(name(host), row);
    }
    let checks = fleet
        .roles
        .iter()
        .filter(|one| fleet.checks.contains_key(&one.role));
    Scene {
        now_ms,
        hosts: fleet.hosts.clone(),
        attending: fleet.attending.clone(),
        rows,
        members: members(draw),
        checks: checks
            .filter_map(|one| Some((one.role.clone(), one.colo.clone()?)))
            .collect(),
        led_since_ms: now_ms.saturating_sub(draw.number(2 * FRESH_MS)),
    }
}

/// The votes of each colo on each subject, and what a majority of all says.
fn counted_anew(scene: &Scene, seen: &Cut) {
    let hosts = scene.hosts.keys().cloned().map(Subject::Host);
    let subjects: BTreeSet<Subject> = hosts
        .chain(scene.checks.keys().cloned().map(Subject::Check))
        .collect();
    assert_eq!(
        seen.subjects.keys().cloned().collect::<BTreeSet<_>>(),
        subjects
    );
    let colos: BTreeSet<&Name> = scene.hosts.values().chain(scene.members.keys()).collect();
    for (subject, (state, votes)) in &seen.subjects {
        assert!(
            votes.keys().eq(colos.iter().copied()),
            "{subject:?}: {votes:?}"
        );
        for (colo, vote) in votes {
            assert_eq!(
                count(scene, seen, subject, colo),
                (vote.missed, vote.of),
                "{subject:?}"
            );
            says(scene, subject, colo, *vote);
        }
        let say = |wanted| {
            votes
                .values()
                .filter(|vote| vote.says == Some(wanted))
                .count()
        };
        let (down, unsure) = (say(State::Down), say(State::Unsure));
        let majority = colos.len() / 2 + 1;
        assert_eq!(
            *state == State::Down,
            down >= majority,
            "{subject:?}: {votes:?}"
        );
        assert_eq!(
            *state == State::Up,
            down + unsure < majority,
            "{subject:?}: {votes:?}"
        );
        assert!(!seen.evidence(subject).is_empty());
    }
    for (colo, state) in &seen.colos {
        let mut own = scene.hosts.iter().filter(|(_, at)| *at == colo);
        let all_down = own.all(|(host, _)| seen.host(host) == State::Down);
        assert_eq!(*state == State::Down, all_down, "{colo}");
    }
}

/// How many observers of a colo that are not left out miss a subject, and of how many.
fn count(scene: &Scene, seen: &Cut, subject: &Subject, colo: &Name) -> (u32, u32) {
    let rows = scene.rows.iter();
    let rows = rows.filter(|(host, row)| row.colo == *colo && !seen.left_out.contains_key(*host));
    let sights = rows.filter_map(|(_, row)| {
        assert!(
            row.late_ms <= LATE_MS_MAX && scene.now_ms - row.heard_ms <= FRESH_MS,
            "{row:?}"
        );
        match subject {
            Subject::Host(host) => row.hosts.get(host),
            Subject::Check(role) => row.checks.get(role),
        }
    });
    sights.fold((0, 0), |(missed, of), sight| {
        (missed + u32::from(*sight == Sight::Missed), of + 1)
    })
}

/// What a colo says by so many.
fn says(scene: &Scene, subject: &Subject, colo: &Name, vote: Vote) {
    let Vote { says, missed, of } = vote;
    if of > 0 {
        assert_eq!(says == Some(State::Down), missed * 10 >= of * 9, "{vote:?}");
        assert_eq!(says == Some(State::Up), missed * 10 < of * 4, "{vote:?}");
        return;
    }
    // A colo without observers has a say by its member alone, about hosts.
    let hears = scene.members.get(colo) == Some(&true);
    let is_host = matches!(subject, Subject::Host(_));
    assert!(
        says.is_none() || hears && is_host,
        "{colo} on {subject:?}: {vote:?}"
    );
    let is_new = scene.now_ms.saturating_sub(scene.led_since_ms) <= FRESH_MS;
    assert!(
        says != Some(State::Down) || !is_new,
        "{colo} on {subject:?}: {vote:?}"
    );
}

/// What those have seen that are left out, for whatever reason, changes nothing.
fn without_left_out(scene: &Scene, seen: &Cut) {
    let mut blank = scene.clone();
    for host in seen.left_out.keys() {
        if let Some(row) = blank.rows.get_mut(host) {
            row.hosts.clear();
            row.checks.clear();
        }
    }
    let again = cut(&blank, Marks::default());
    assert_eq!(again.subjects, seen.subjects, "{:?}", seen.left_out);
}

/// What is to be done has its reason, its time, and a place to go.
fn decided(outcome: &Outcome, seen: &Cut, fleet: &Fleet, since_ms: u64) {
    let roles: BTreeSet<&RoleName> = outcome.moves.iter().map(|one| &one.role).collect();
    assert_eq!(roles.len(), outcome.moves.len(), "one for a role");
    assert!(!roles.iter().any(|role| outcome.waits.contains_key(role)));
    if outcome.moves.is_empty() {
        return;
    }
    assert!(!fleet.settings.paused && since_ms >= fleet.settings.hold_down_ms);
    let colos_down = seen
        .colos
        .values()
        .filter(|state| **state == State::Down)
        .count();
    assert!(colos_down * 2 <= seen.colos.len(), "{outcome:?}");
    let outside = seen
        .homes
        .iter()
        .filter(|(_, colo)| seen.colo(colo) != State::Down);
    let outside: Vec<State> = outside.map(|(host, _)| seen.host(host)).collect();
    let down = outside
        .iter()
        .filter(|state| **state == State::Down)
        .count();
    assert!(down * 2 <= outside.len(), "{outcome:?}");
    for one in &outcome.moves {
        let placed = fleet.roles.iter().find(|placed| placed.role == one.role);
        let placed = placed.expect("a role that there is");
        may_move(placed, one);
        let holder = placed.holder.as_ref().expect("one that is left");
        let (reason, is_up) = match placed.kind {
            Kind::Colo => (
                seen.colo(holder) == State::Down || starves(fleet, placed),
                one.to
                    .iter()
                    .all(|to| seen.colos.get(to) == Some(&State::Up)),
            ),
            Kind::Host | Kind::Lock => (
                placed.serving > 0
                    && (seen.host(holder) == State::Down || seen.check(&one.role) == State::Down),
                one.to.iter().all(|to| seen.host(to) == State::Up),
            ),
        };
        assert!(reason && is_up, "{one:?} of {placed:?}: {seen:?}");
    }
}

/// Whether a role that follows this one is served by nobody, and was.
fn starves(fleet: &Fleet, placed: &Placed) -> bool {
    let mut roles = fleet.roles.iter();
    roles.any(|one| {
        let follows = one.follows.as_ref() == Some(&placed.role);
        follows && one.automatic && one.begun && one.serving == 0
    })
}

/// Datagrams from anybody, and lists from any member, at an agent.
pub(crate) fn lists(data: &[u8]) {
    let mut draw = Draw::new(data);
    datagram(draw.bytes(2 * BYTES_MAX as u64));
    let mut watched = Watched::default();
    let mut unanswered: Vec<u32> = Vec::new();
    let mut number = 0;
    let mut under_way: BTreeMap<u64, usize> = BTreeMap::new();
    for _ in 0..STEPS_MAX {
        if draw.is_empty() {
            break;
        }
        match draw.below(8) {
            0 => {
                let reached = reached(&watched);
                watched.given(list(&mut draw));
                under_way.clear();
                unanswered = vec![0; watched.list().1.len()];
                still_reached(&watched, &reached);
            }
            3..=6 => {
                for (at, count) in unanswered.iter_mut().enumerate() {
                    number += 1;
                    watched.sent(at, number);
                    under_way.insert(number, at);
                    *count += 1;
                }
            }
            1 | 2 => {
                // Those of the last rounds; what is older may be forgotten.
                let known = unanswered.len() as u64 * u64::from(MISSES + 1);
                let answered = number - draw.below(known.max(1)).min(number);
                watched.answered(answered);
                if let Some(at) = under_way.remove(&answered) {
                    unanswered[at] = 0;
                }
            }
            // Of no probe that was sent.
            _ => watched.answered(draw.number(9).saturating_add(number + 1)),
        }
        looks(&watched, &unanswered);
    }
}

fn datagram(bytes: &[u8]) {
    let mut answer = bytes.to_vec();
    match probe::read(bytes) {
        Some(Datagram::Asks { host }) => {
            assert!(bytes.len() <= BYTES_MAX && bytes.ends_with(host));
            probe::answer(&mut answer);
            assert_eq!(answer.len(), bytes.len());
            let read = probe::read(&answer);
            assert!(matches!(read, Some(Datagram::Answers { .. })), "{read:?}");
        }
        Some(Datagram::Answers { number }) => {
            // Nobody answers an answer.
            let host = String::from_utf8_lossy(&bytes[16..]);
            let mut asked = probe::ask(&host, number);
            probe::answer(&mut asked);
            assert_eq!(asked[..16], bytes[..16]);
        }
        None => probe::answer(&mut answer),
    }
}

fn list(draw: &mut Draw<'_>) -> Probes {
    if draw.rarely(8) {
        return Probes::decode(draw.bytes(128)).unwrap_or_default();
    }
    let long = if draw.rarely(16) {
        draw.below(2 * PROBES_MAX as u64)
    } else {
        0
    };
    let count = draw.below(6) + long;
    let probes = (0..count).map(|at| Probe {
        host: if at < 8 {
            one_of(draw, &HOSTS).to_owned()
        } else {
            format!("h{at}")
        },
        address: if at < 8 { draw.text(1) } else { String::new() },
        ..Probe::default()
    });
    Probes {
        probes: probes.collect(),
        list: draw.number(4),
    }
}

fn bit(bytes: &[u8], at: usize) -> bool {
    bytes[at / 8] & (1 << (at % 8)) != 0
}

fn reached(watched: &Watched) -> Vec<Probe> {
    let (probed, missed) = watched.bits();
    let all = watched.list().1.iter().enumerate();
    let all = all.filter(|(at, _)| bit(&probed, *at) && !bit(&missed, *at));
    all.map(|(_, probe)| probe.clone()).collect()
}

fn still_reached(watched: &Watched, before: &[Probe]) {
    let now = reached(watched);
    assert!(now.iter().all(|probe| before.contains(probe)));
    let (_, missed) = watched.bits();
    assert!(
        missed.iter().all(|byte| *byte == 0),
        "nobody is missed by a list that is new"
    );
}

/// What goes to the group is what it takes, and nobody is missed too early.
fn looks(watched: &Watched, unanswered: &[u32]) {
    let (list, probes) = watched.list();
    let (probed, missed) = watched.bits();
    assert!(probes.len() <= PROBES_MAX);
    let row = v1::Row {
        list,
        probed: probed.clone().into(),
        missed: missed.clone().into(),
        ..v1::Row::default()
    };
    assert!(check_row(&row).is_ok(), "{row:?}");
    for at in 0..probed.len() * 8 {
        let (is_probed, is_missed) = (bit(&probed, at), bit(&missed, at));
        assert!(at < probes.len() || !is_probed);
        assert!(is_probed || !is_missed);
        let due = unanswered.get(at).is_some_and(|count| *count > MISSES);
        assert_eq!(is_missed, due, "{at}: {unanswered:?}");
    }
}
