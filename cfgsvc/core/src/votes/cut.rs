//! Who is down, by all rows at one moment.
//!
//! Each colo has one vote on each subject:
//! - by its observers, if it has any that are well and were heard: *down* when at least
//!   [`Marks::high`] of them miss it, *up* when fewer than [`Marks::low`] do, else *unsure* (the
//!   two marks of Rapid, as shares because the number of observers differs);
//! - else by the group, if the colo has a member of it that the leader hears: what a host says
//!   arrives through any member, so one that was not heard has not reached that member either;
//! - else none. It counts in the denominator all the same.
//!
//! A subject is *down* when a majority of all colos say down, *unsure* when down and unsure
//! together are a majority. A colo is down when all its hosts are.

use std::collections::{BTreeMap, BTreeSet};

use super::row::{Row, Sight};
use crate::placement::{Name, RoleName};

/// A row counts so long after it was heard, ms: agents tell one each second.
pub const FRESH_MS: u64 = 3_000;
/// An observer whose timers are later than this says nothing, ms.
pub const LATE_MS_MAX: u64 = 500;

/// The two marks, in percent of a colo's observers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// From here on the colo says down.
    pub high: u32,
    /// Below that it says up.
    pub low: u32,
}

impl Default for Marks {
    /// Those of Rapid: 9 and 4 of 10.
    fn default() -> Self {
        Self { high: 90, low: 40 }
    }
}

/// Who or what is voted on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A host.
    Host(Name),
    /// The check of a role, at its holder.
    Check(RoleName),
}

/// What is said of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No majority says otherwise.
    Up,
    /// A majority sees something, and they do not agree.
    Unsure,
    /// A majority of the colos say so.
    Down,
}

/// All that a cut is made from.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    /// Now, ms.
    pub now_ms: u64,
    /// Hosts that attend a role or have been heard, with their colos.
    pub hosts: BTreeMap<Name, Name>,
    /// Hosts with a lease: they are heard, also if they send no rows.
    pub attending: BTreeSet<Name>,
    /// The newest row of each.
    pub rows: BTreeMap<Name, Row>,
    /// Colos with a member of the group, and whether the leader hears it.
    pub members: BTreeMap<Name, bool>,
    /// Roles whose checks are made, with the colo of the holder.
    pub checks: BTreeMap<RoleName, Name>,
    /// Since when the leader has led, ms: rows of before are not known to it.
    pub led_since_ms: u64,
}

/// One colo's vote on a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// What it says; none when it says nothing.
    pub says: Option<State>,
    /// Observers that miss the subject.
    pub missed: u32,
    /// Observers that were counted; 0 when the group's hearing is the vote.
    pub of: u32,
}

/// Who is down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// Each subject with its state and the votes of the colos.
    pub subjects: BTreeMap<Subject, (State, BTreeMap<Name, Vote>)>,
    /// The colo of each host.
    pub homes: BTreeMap<Name, Name>,
    /// Each colo that has hosts.
    pub colos: BTreeMap<Name, State>,
    /// Observers that do not count, and why.
    pub left_out: BTreeMap<Name, &'static str>,
}

impl Cut {
    /// State of a host; one that nobody sees is up.
    pub fn host(&self, host: &Name) -> State {
        let subject = self.subjects.get(&Subject::Host(host.clone()));
        subject.map_or(State::Up, |(state, _)| *state)
    }

    /// State of a colo.
    pub fn colo(&self, colo: &Name) -> State {
        self.colos.get(colo).copied().unwrap_or(State::Up)
    }

    /// State of a role's check.
    pub fn check(&self, role: &RoleName) -> State {
        let subject = self.subjects.get(&Subject::Check(role.clone()));
        subject.map_or(State::Up, |(state, _)| *state)
    }

    /// What says that a subject is down, in words: the evidence of a decision.
    pub fn evidence(&self, subject: &Subject) -> String {
        let Some((_, votes)) = self.subjects.get(subject) else {
            return "nobody looks at it".to_owned();
        };
        let words: Vec<String> = votes
            .iter()
            .map(|(colo, vote)| match (vote.says, vote.of) {
                (None, _) => format!("{colo} says nothing"),
                (Some(State::Down), 0) => format!("the group in {colo} has not heard it"),
                (Some(State::Up | State::Unsure), 0) => format!("the group in {colo} hears it"),
                (Some(_), of) => format!("{colo}: {} of {of} miss it", vote.missed),
            })
            .collect();
        words.join(", ")
    }
}

impl Scene {
    fn heard(&self, host: &Name) -> bool {
        match self.rows.get(host) {
            Some(row) => self.is_fresh(row),
            None => self.attending.contains(host),
        }
    }

    fn is_fresh(&self, row: &Row) -> bool {
        self.now_ms.saturating_sub(row.heard_ms) <= FRESH_MS
    }

    /// Whether a host that was not heard would have been by now.
    fn has_listened(&self) -> bool {
        self.now_ms.saturating_sub(self.led_since_ms) > FRESH_MS
    }

    /// Why a row says nothing by itself, if so.
    fn unwell(&self, row: &Row) -> Option<&'static str> {
        let sees_somebody = || row.hosts.values().any(|sight| *sight == Sight::Reached);
        if !self.is_fresh(row) {
            Some("was not heard lately")
        } else if row.late_ms > LATE_MS_MAX {
            Some("is late itself")
        } else if row.hosts.len() > 1 && !sees_somebody() {
            Some("sees nobody")
        } else {
            None
        }
    }

    /// What a row says of hosts in other colos.
    fn far<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = Sight> + Clone {
        let of_others = row.hosts.iter().filter(|(host, _)| {
            let colo = self.hosts.get(*host);
            colo.is_some_and(|colo| *colo != row.colo)
        });
        of_others.map(|(_, sight)| *sight)
    }

    /// Observers that count, by colo; and those that do not.
    fn observers(&self) -> (BTreeMap<&Name, Vec<&Row>>, BTreeMap<Name, &'static str>) {
        let mut observers: BTreeMap<&Name, Vec<&Row>> = BTreeMap::new();
        let mut left_out = BTreeMap::new();
        let neighbours = self.neighbours();
        for (host, row) in &self.rows {
            let far = self.far(row);
            let misses_all = far.clone().all(|sight| sight == Sight::Missed);
            if let Some(why) = self.unwell(row) {
                left_out.insert(host.clone(), why);
            } else if far.count() > 1 && misses_all && is_alone(&neighbours, row) {
                left_out.insert(host.clone(), "alone sees no other colo");
            } else {
                observers.entry(&row.colo).or_default().push(row);
            }
        }
        (observers, left_out)
    }

    /// How many rows there are of each colo, and in how many somebody elsewhere is missed: what one
    /// says that is not well bears nobody out.
    fn neighbours(&self) -> BTreeMap<&Name, (usize, usize)> {
        let mut neighbours: BTreeMap<&Name, (usize, usize)> = BTreeMap::new();
        for row in self.rows.values() {
            let misses = self.far(row).any(|sight| sight == Sight::Missed);
            let (count, missing) = neighbours.entry(&row.colo).or_default();
            *count += 1;
            *missing += usize::from(misses && self.unwell(row).is_none());
        }
        neighbours
    }

    /// All colos that have a say: they have hosts, or a member of the group.
    fn electorate(&self) -> BTreeSet<&Name> {
        self.hosts.values().chain(self.members.keys()).collect()
    }
}

/// Whether no other observer in the colo of `row`, which misses somebody elsewhere, does so too:
/// then it may be this one's own network.
fn is_alone(neighbours: &BTreeMap<&Name, (usize, usize)>, row: &Row) -> bool {
    let (count, missing) = neighbours.get(&row.colo).copied().unwrap_or_default();
    count > 1 && missing <= 1
}

/// In each colo, how many miss a subject, and of how many that look at it.
type Tally<'a, S> = BTreeMap<&'a S, BTreeMap<&'a Name, (u32, u32)>>;

fn count<'a, S: Ord>(
    tally: &mut Tally<'a, S>,
    colo: &'a Name,
    sights: impl Iterator<Item = (&'a S, &'a Sight)>,
) {
    for (subject, sight) in sights {
        let (missed, of) = tally.entry(subject).or_default().entry(colo).or_default();
        *missed += u32::from(*sight == Sight::Missed);
        *of += 1;
    }
}

/// Who is down.
pub fn cut(scene: &Scene, marks: Marks) -> Cut {
    let electorate = scene.electorate();
    let (observers, left_out) = scene.observers();
    let mut cut = Cut {
        left_out,
        homes: scene.hosts.clone(),
        ..Cut::default()
    };
    let (mut of_hosts, mut of_checks) = (Tally::new(), Tally::new());
    for (colo, rows) in &observers {
        for row in rows {
            count(&mut of_hosts, colo, row.hosts.iter());
            count(&mut of_checks, colo, row.checks.iter());
        }
    }
    let none = BTreeMap::new();
    let hosts = scene.hosts.keys().map(|host| {
        let counted = of_hosts.get(host).unwrap_or(&none);
        (Subject::Host(host.clone()), counted)
    });
    let checks = scene.checks.keys().map(|role| {
        let counted = of_checks.get(role).unwrap_or(&none);
        (Subject::Check(role.clone()), counted)
    });
    for (subject, counted) in hosts.chain(checks) {
        let vote = |colo: &&Name| {
            let counted = counted.get(colo).copied().unwrap_or_default();
            (
                (*colo).clone(),
                vote(scene, marks, &subject, (colo, counted)),
            )
        };
        let votes: BTreeMap<Name, Vote> = electorate.iter().map(vote).collect();
        let state = majority(&votes);
        cut.subjects.insert(subject, (state, votes));
    }
    for (host, colo) in &scene.hosts {
        let state = cut.host(host);
        let least = cut.colos.entry(colo.clone()).or_insert(state);
        *least = state.min(*least);
    }
    cut
}

fn vote(
    scene: &Scene,
    marks: Marks,
    subject: &Subject,
    (colo, (missed, of)): (&Name, (u32, u32)),
) -> Vote {
    if of > 0 {
        let share = u64::from(missed) * 100 / u64::from(of);
        let says = match share {
            share if share >= u64::from(marks.high) => State::Down,
            share if share < u64::from(marks.low) => State::Up,
            _ => State::Unsure,
        };
        let says = Some(says);
        return Vote { says, missed, of };
    }
    let hears = scene.members.get(colo).copied().unwrap_or(false);
    let says = match subject {
        Subject::Host(host) if scene.heard(host) => hears.then_some(State::Up),
        Subject::Host(_) if scene.has_listened() => hears.then_some(State::Down),
        Subject::Host(_) | Subject::Check(_) => None,
    };
    Vote {
        says,
        missed: 0,
        of: 0,
    }
}

/// What a majority of all colos says, also of those that say nothing.
fn majority(votes: &BTreeMap<Name, Vote>) -> State {
    let say = |state: State| {
        votes
            .values()
            .filter(|vote| vote.says == Some(state))
            .count()
    };
    let is_majority = |count: usize| count * 2 > votes.len();
    if is_majority(say(State::Down)) {
        State::Down
    } else if is_majority(say(State::Down) + say(State::Unsure)) {
        State::Unsure
    } else {
        State::Up
    }
}

#[cfg(test)]
#[path = "cut_tests.rs"]
pub(super) mod tests;
