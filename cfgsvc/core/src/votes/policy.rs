//! What the group does by itself about those who are down: which role is to go where, and why
//! nothing is done.
//!
//! | a role | goes elsewhere when |
//! | --- | --- |
//! | of a colo | its colo is down; or a role that follows it is served by nobody there |
//! | of hosts | its holder, whom the group still hears, is down for the others, or its check is |
//!
//! Each only after it was so for the whole hold-down, not more often than the interval allows, not
//! while it is paused, and never when more than half of all hosts look down at once; when that is
//! over the hold-down begins anew, so that those who come back last are not left for it.
//!
//! Where it goes is said in order; the caller takes the first place to which the state machine lets
//! it go, so that what is planned and what is done are refused by the same rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cut::{Cut, State, Subject};
use crate::placement::objects::Kind;
use crate::placement::{Name, RoleName};

/// What an operator says of automatic decisions, in `/cfgsvc/failover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Nothing is decided by votes.
    pub paused: bool,
    /// How long it must be so before something is done, ms.
    pub hold_down_ms: u64,
    /// Shortest time between two decisions about one role, ms.
    pub interval_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            paused: false,
            hold_down_ms: 3_000,
            interval_ms: 60_000,
        }
    }
}

impl Settings {
    /// Whether they make sense.
    pub fn check(&self) -> Result<(), String> {
        for (what, value) in [
            ("hold_down_ms", self.hold_down_ms),
            ("interval_ms", self.interval_ms),
        ] {
            if value > 86_400_000 {
                return Err(format!("{what} is {value}, at most 86400000 (a day)"));
            }
        }
        Ok(())
    }
}

/// What is so of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its name.
    pub role: RoleName,
    /// Who holds it.
    pub kind: Kind,
    /// The group may decide about it.
    pub automatic: bool,
    /// Its holder, and the epoch.
    pub holder: Option<Name>,
    /// The epoch.
    pub epoch: i64,
    /// The colo of a holder that is a host.
    pub colo: Option<Name>,
    /// Hosts that may be serving.
    pub serving: u32,
    /// It is on its way to another.
    pub closing: bool,
    /// Somebody has begun an epoch of it.
    pub begun: bool,
    /// The role that it follows.
    pub follows: Option<RoleName>,
    /// Who could have it, the best first.
    pub candidates: Vec<Name>,
}

/// What the leader remembers from one look to the next.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Since when each has been as it is, ms.
    hosts: BTreeMap<Name, (State, u64)>,
    colos: BTreeMap<Name, (State, u64)>,
    checks: BTreeMap<RoleName, (State, u64)>,
    /// Since when nobody has served each, ms.
    unserved: BTreeMap<RoleName, u64>,
    /// When each was moved last, ms.
    moved: BTreeMap<RoleName, u64>,
    /// When too many looked down at once last, ms.
    doubted: Option<u64>,
}

/// A role that is to go elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub role: RoleName,
    /// Only at this epoch.
    pub epoch: i64,
    /// Where to: the first that may take it.
    pub to: Vec<Name>,
    /// The evidence.
    pub why: String,
}

/// What is to be done, and why nothing is done about the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// At most one for a role.
    pub moves: Vec<Move>,
    /// Of each role that has a reason to move, and does not.
    pub waits: BTreeMap<RoleName, String>,
}

fn note<K: Ord + Clone>(
    memory: &mut BTreeMap<K, (State, u64)>,
    now: impl Iterator<Item = (K, State)>,
    now_ms: u64,
) {
    let mut kept = BTreeMap::new();
    for (key, state) in now {
        let since = match memory.get(&key) {
            Some((before, since)) if *before == state => *since,
            _ => now_ms,
        };
        kept.insert(key, (state, since));
    }
    *memory = kept;
}

impl Memory {
    /// Takes note of what is so now.
    pub fn look(&mut self, cut: &Cut, roles: &[Placed], now_ms: u64) {
        let hosts = cut
            .subjects
            .iter()
            .filter_map(|(subject, (state, _))| match subject {
                Subject::Host(host) => Some((host.clone(), *state)),
                Subject::Check(_) => None,
            });
        note(&mut self.hosts, hosts, now_ms);
        if everybody(cut).is_err() {
            self.doubted = Some(now_ms);
        }
        let checks = cut
            .subjects
            .iter()
            .filter_map(|(subject, (state, _))| match subject {
                Subject::Check(role) => Some((role.clone(), *state)),
                Subject::Host(_) => None,
            });
        note(&mut self.checks, checks, now_ms);
        let colos = cut.colos.iter().map(|(colo, state)| (colo.clone(), *state));
        note(&mut self.colos, colos, now_ms);
        let unserved = roles.iter().filter(|role| role.serving == 0);
        let since = |role: &Placed| self.unserved.get(&role.role).copied().unwrap_or(now_ms);
        self.unserved = unserved
            .map(|role| (role.role.clone(), since(role)))
            .collect();
    }

    /// A move of a role was committed.
    pub fn moved(&mut self, role: &RoleName, now_ms: u64) {
        self.moved.insert(role.clone(), now_ms);
    }

    /// How long a colo has been as it is, ms.
    pub fn colo_for_ms(&self, colo: &Name, now_ms: u64) -> u64 {
        let since = self.colos.get(colo).map_or(now_ms, |(_, since)| *since);
        now_ms.saturating_sub(since)
    }
}

/// A reason to move a role: what in words, and for how long it has been so.
struct Reason {
    why: String,
    for_ms: u64,
}

/// What is to be done now, after [`Memory::look`] of the same moment.
pub fn decide(
    memory: &Memory,
    cut: &Cut,
    roles: &[Placed],
    (settings, now_ms): (&Settings, u64),
) -> Outcome {
    let mut outcome = Outcome::default();
    for role in roles {
        let Some(reason) = reason(memory, cut, (role, roles), now_ms) else {
            continue;
        };
        match may_move(memory, cut, role, (&reason, settings), now_ms) {
            Ok(to) => outcome.moves.push(Move {
                role: role.role.clone(),
                epoch: role.epoch,
                to,
                why: reason.why,
            }),
            Err(wait) => {
                let why = format!("{}; {wait}", reason.why);
                outcome.waits.insert(role.role.clone(), why);
            }
        }
    }
    outcome
}

fn reason(
    memory: &Memory,
    cut: &Cut,
    (role, roles): (&Placed, &[Placed]),
    now_ms: u64,
) -> Option<Reason> {
    let holder = role.holder.as_ref()?;
    let since = |known: Option<&(State, u64)>| {
        now_ms.saturating_sub(known.map_or(now_ms, |(_, since)| *since))
    };
    let reason = |why, for_ms| Some(Reason { why, for_ms });
    match role.kind {
        Kind::Colo if cut.colo(holder) == State::Down => {
            let here = cut.homes.iter().find(|(_, colo)| *colo == holder);
            let seen = here.map_or_else(String::new, |(host, _)| {
                cut.evidence(&Subject::Host(host.clone()))
            });
            let why = format!("colo {holder} is down ({seen})");
            reason(why, since(memory.colos.get(holder)))
        }
        Kind::Colo => {
            let starves = roles.iter().find(|other| {
                other.follows.as_ref() == Some(&role.role)
                    && other.automatic
                    && other.begun
                    && other.serving == 0
            })?;
            let unserved = memory
                .unserved
                .get(&starves.role)
                .copied()
                .unwrap_or(now_ms);
            let name = &starves.role;
            let why = format!("role {name} follows it, and nobody serves that in colo {holder}");
            reason(why, now_ms.saturating_sub(unserved))
        }
        Kind::Host if role.serving == 0 => None,
        Kind::Host if cut.host(holder) == State::Down => {
            let seen = cut.evidence(&Subject::Host(holder.clone()));
            let why = format!("host {holder} is down for the others ({seen})");
            reason(why, since(memory.hosts.get(holder)))
        }
        Kind::Host if cut.check(&role.role) == State::Down => {
            let seen = cut.evidence(&Subject::Check(role.role.clone()));
            let why = format!("the check of {holder} fails ({seen})");
            reason(why, since(memory.checks.get(&role.role)))
        }
        Kind::Host | Kind::Lock => None,
    }
}

/// Where a role may go; or why it does not.
fn may_move(
    memory: &Memory,
    cut: &Cut,
    role: &Placed,
    (reason, settings): (&Reason, &Settings),
    now_ms: u64,
) -> Result<Vec<Name>, String> {
    if settings.paused {
        return Err("decisions by votes are paused (cfgctl failover --resume)".to_owned());
    }
    if !role.automatic {
        return Err("a person decides about it: it is paused, or manual".to_owned());
    }
    if role.closing {
        return Err("it is on its way to another".to_owned());
    }
    everybody(cut)?;
    let doubted = memory.doubted.map(|last| now_ms.saturating_sub(last));
    let found = reason.for_ms.min(doubted.unwrap_or(u64::MAX));
    let needed = settings.hold_down_ms;
    // What one colo does not agree on yet may be more of the same (Rapid, 4.2): it is waited for,
    // as long again.
    let unsure = cut
        .subjects
        .values()
        .any(|(state, _)| *state == State::Unsure);
    let needed = if unsure { needed * 2 } else { needed };
    if found < needed {
        return Err(format!("it has been so for {found} of {needed} ms"));
    }
    let last = memory.moved.get(&role.role);
    let since = last.map(|last| now_ms.saturating_sub(*last));
    if let Some(since) = since.filter(|since| *since < settings.interval_ms) {
        let interval = settings.interval_ms;
        return Err(format!(
            "it was moved {since} ms ago, and may be once in {interval} ms"
        ));
    }
    let holder = role.holder.as_ref();
    let is_up = |one: &&Name| match role.kind {
        Kind::Colo => cut.colos.contains_key(*one) && cut.colo(one) == State::Up,
        Kind::Host | Kind::Lock => cut.host(one) == State::Up,
    };
    let others = role.candidates.iter().filter(|one| Some(*one) != holder);
    let to: Vec<Name> = others.filter(is_up).cloned().collect();
    if to.is_empty() {
        return Err("no other that is up could take it".to_owned());
    }
    Ok(to)
}

/// Refuses when more than half of the colos look down, or of the hosts of the others: it is rather
/// those who look.
fn everybody(cut: &Cut) -> Result<(), String> {
    let colos_down = cut.colos.values().filter(|state| **state == State::Down);
    if colos_down.count() * 2 > cut.colos.len() {
        return Err(
            "more than half of the colos look down at once: look at the network first".into(),
        );
    }
    let outside = cut
        .homes
        .iter()
        .filter(|(_, colo)| cut.colo(colo) != State::Down);
    let hosts = outside.clone().count();
    let down = outside
        .filter(|(host, _)| cut.host(host) == State::Down)
        .count();
    if down * 2 > hosts {
        return Err(format!(
            "{down} of {hosts} hosts look down at once: look at the network first"
        ));
    }
    Ok(())
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
