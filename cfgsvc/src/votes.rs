//! What hosts see of one another, on the leader; and what is done about it.
//!
//! Rows arrive with renewals, through any member, after a quorum check that began after they did;
//! so a member that leads no more hears none. Everything here is forgotten when leadership goes: a
//! new leader hears it within a renewal of each host, and believes that a host is silent only when
//! it has listened long enough. What is decided is proposed conditional on the role's epoch.
//!
//! Invariants
//! - rows of one term never count in another.
//! - a decision is rehearsed on the state that it was made from, by the machine that will apply it;
//!   the first place that is not refused is proposed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cfgsvc_core::placement::placed::{Fleet, fleet};
use cfgsvc_core::placement::{Name, RoleName};
use cfgsvc_core::read::machine_record;
use cfgsvc_core::votes::cut::Marks;
use cfgsvc_core::votes::observers::subjects;
use cfgsvc_core::votes::{
    Cut, Memory, Move, Outcome, Row, Scene, Settings, Sight, State, Subject, cut, decide,
};
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{self, Command, RoleCommand};
use cfgsvc_proto::v1;
use cfgsvc_proto::v1::{CheckVotes, ColoVotes, HostVotes, Probe, Probes, RoleVotes, VotesResponse};
use cluster_core::store::View;
use tokio::time::MissedTickBehavior;
use tonic::Status;

use crate::clock::{self, Moment};
use crate::grpc::rehearse;
use crate::service::Service;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Most probes that a host is asked for: five observers of each colo, and what chance adds.
const PROBES_MAX: usize = 1_024;
/// A member that the leader has not heard for so long has no say, ms.
const MEMBER_SILENT_MS: u64 = 2_000;
/// Longest name or address in a row, bytes.
const TEXT_BYTES_MAX: usize = 255;
/// Longest reason that a commit carries, bytes.
const REASON_BYTES_MAX: usize = 1_000;

/// Refuses a row that no agent sends.
pub fn check_row(row: &v1::Row) -> Result<(), Status> {
    let bytes_max = PROBES_MAX / 8;
    let texts = [&row.host, &row.colo, &row.probe];
    if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX)
        || row.missed.len().max(row.probed.len()) > bytes_max
    {
        return Err(Status::invalid_argument(format!(
            "a row has texts of {TEXT_BYTES_MAX} bytes and lists of {PROBES_MAX} probes at most"
        )));
    }
    Ok(())
}

/// What the leader knows of one host.
struct Heard {
    row: Row,
    probe: String,
}

/// A list that a host was given.
struct List {
    number: u64,
    probes: Vec<Probe>,
}

#[derive(Default)]
struct Known {
    /// The term in which all of this was heard, and since when.
    term: u64,
    since: Option<Moment>,
    heard: BTreeMap<Name, Heard>,
    lists: BTreeMap<Name, List>,
    /// Those that have been heard, with their colos; and whom each of them is to probe.
    observers: BTreeMap<Name, Name>,
    subjects: BTreeMap<Name, Vec<Name>>,
    /// What there was at this revision; 0: not known yet.
    revision: i64,
    fleet: Fleet,
    members: BTreeMap<Name, bool>,
    memory: Memory,
    /// What came of the last look.
    cut: Cut,
    outcome: Outcome,
    /// Where each move would go, or why it may not.
    rehearsed: BTreeMap<RoleName, Result<Name, String>>,
}

/// What hosts see of one another.
#[derive(Default)]
pub struct Votes(Mutex<Known>);

fn millis(moment: Moment) -> u64 {
    moment.nanos() / 1_000_000
}

/// A number for a list that is another when the list is.
fn number_of(probes: &[Probe]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for probe in probes {
        for text in [&probe.host, &probe.role, &probe.check, &probe.address] {
            for byte in text.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    hash.max(1)
}

fn bit(bytes: &[u8], at: usize) -> bool {
    bytes
        .get(at / 8)
        .is_some_and(|byte| byte & (1 << (at % 8)) != 0)
}

impl Votes {
    fn known(&self) -> MutexGuard<'_, Known> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a row that was heard while this member led in `term`; answers whom its host is to
    /// probe, or nothing when it knows.
    pub fn hear(&self, now: Moment, term: u64, wire: v1::Row) -> Probes {
        let (Ok(host), Ok(colo)) = (wire.host.parse::<Name>(), wire.colo.parse::<Name>()) else {
            return Probes::default();
        };
        let mut known = self.known();
        if known.term != term {
            known.begin(now, term);
        }
        let known = &mut *known;
        let mut row = Row {
            colo,
            heard_ms: millis(now),
            late_ms: wire.late_ms,
            probed: !wire.probe.is_empty(),
            hosts: BTreeMap::new(),
            checks: BTreeMap::new(),
        };
        let list = known.lists.get(&host);
        if let Some(list) = list.filter(|list| list.number == wire.list) {
            for (at, probe) in list.probes.iter().enumerate() {
                let sight = match (bit(&wire.probed, at), bit(&wire.missed, at)) {
                    (false, _) => continue,
                    (true, false) => Sight::Reached,
                    (true, true) => Sight::Missed,
                };
                if let Ok(role) = probe.role.parse() {
                    row.checks.insert(role, sight);
                } else if let Ok(host) = probe.host.parse() {
                    row.hosts.insert(host, sight);
                }
            }
        }
        let probe = wire.probe;
        let answer = list
            .filter(|list| list.number != wire.list)
            .map(|list| Probes {
                list: list.number,
                probes: list.probes.clone(),
            });
        known.heard.insert(host, Heard { row, probe });
        answer.unwrap_or_default()
    }

    /// The revision of the fleet that is known in `term`: another is to be looked up.
    fn revision(&self, term: u64) -> i64 {
        let known = self.known();
        if known.term == term {
            known.revision
        } else {
            0
        }
    }

    /// Looks at what is known at `now`, and says what is to be done. `fleet`: what there is, and at
    /// which revision, where that is another than the known one.
    pub fn look(
        &self,
        now: Moment,
        term: u64,
        fleet: Option<(i64, Fleet)>,
        members: BTreeMap<Name, bool>,
    ) -> Vec<Move> {
        let mut known = self.known();
        if known.term != term {
            known.begin(now, term);
        }
        let known = &mut *known;
        match fleet {
            Some((revision, fleet)) => {
                known.revision = revision;
                known.fleet = fleet;
            }
            None if known.revision == 0 => return Vec::new(),
            None => {}
        }
        let fleet = &known.fleet;
        known.heard.retain(|host, _| fleet.hosts.contains_key(host));
        known.members.clone_from(&members);
        known.make_lists();
        let rows = known.heard.iter();
        let scene = Scene {
            now_ms: millis(now),
            hosts: known.fleet.hosts.clone(),
            attending: known.fleet.attending.clone(),
            rows: rows
                .map(|(host, heard)| (host.clone(), heard.row.clone()))
                .collect(),
            members,
            checks: known
                .fleet
                .roles
                .iter()
                .filter(|role| known.fleet.checks.contains_key(&role.role))
                .filter_map(|role| Some((role.role.clone(), role.colo.clone()?)))
                .collect(),
            led_since_ms: known.since.map_or(0, millis),
        };
        known.cut = cut(&scene, Marks::default());
        let roles = &known.fleet.roles;
        known.memory.look(&known.cut, roles, scene.now_ms);
        let settings = (&known.fleet.settings, scene.now_ms);
        let outcome = decide(&known.memory, &known.cut, roles, settings);
        for (role, why) in &outcome.waits {
            if !known.outcome.waits.contains_key(role) {
                tracing::info!(%role, why, "has a reason to move");
            }
        }
        known.outcome = outcome;
        let moving = &known.outcome.moves;
        known
            .rehearsed
            .retain(|role, _| moving.iter().any(|one| one.role == *role));
        known.outcome.moves.clone()
    }

    /// Notes where a move goes, or why it may not.
    fn rehearsed(&self, one: &Move, result: Result<Name, String>) {
        let mut known = self.known();
        if let Err(why) = &result
            && known.rehearsed.get(&one.role) != Some(&Err(why.clone()))
        {
            tracing::warn!(role = %one.role, reason = one.why, why, "cannot move");
        }
        known.rehearsed.insert(one.role.clone(), result);
    }

    fn moved(&self, role: &RoleName, now: Moment) {
        self.known().memory.moved(role, millis(now));
    }

    /// This member leads no more.
    pub fn forget(&self) {
        let mut known = self.known();
        if known.term != 0 {
            *known = Known::default();
        }
    }

    /// All of it, for people.
    pub fn shown(&self, now: Moment) -> VotesResponse {
        let known = self.known();
        let now_ms = millis(now);
        let Settings {
            paused,
            hold_down_ms,
            interval_ms,
        } = known.fleet.settings;
        VotesResponse {
            header: None,
            hosts: known.hosts_shown(now_ms),
            colos: known
                .cut
                .colos
                .iter()
                .map(|(colo, state)| {
                    let heard = known.members.get(colo);
                    ColoVotes {
                        colo: colo.to_string(),
                        state: word(*state).to_owned(),
                        for_ms: known.memory.colo_for_ms(colo, now_ms),
                        member: heard.is_some(),
                        member_heard: heard.copied().unwrap_or(false),
                    }
                })
                .collect(),
            roles: known.roles_shown(),
            checks: known.checks_shown(),
            paused,
            hold_down_ms,
            interval_ms,
        }
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Up => "up",
        State::Unsure => "unsure",
        State::Down => "down",
    }
}

impl Known {
    fn begin(&mut self, now: Moment, term: u64) {
        *self = Self {
            term,
            since: Some(now),
            ..Self::default()
        };
    }

    /// Whom each host is to probe, by those that have been heard and can be.
    fn make_lists(&mut self) {
        let probed = self.heard.iter().filter(|(_, heard)| heard.row.probed);
        let probed: BTreeMap<Name, Name> = probed
            .map(|(host, heard)| (host.clone(), heard.row.colo.clone()))
            .collect();
        let observers: BTreeMap<Name, Name> = self
            .heard
            .iter()
            .map(|(host, heard)| (host.clone(), heard.row.colo.clone()))
            .collect();
        if observers != self.observers {
            // It takes a tenth of a second for ten thousand.
            self.subjects = subjects(&observers);
            self.observers = observers;
        }
        let mut lists = std::mem::take(&mut self.lists);
        lists.retain(|host, _| self.observers.contains_key(host));
        let checks = self.checks();
        let none = Vec::new();
        for host in self.observers.keys() {
            let of = self.subjects.get(host).unwrap_or(&none);
            let hosts = of.iter().filter(|other| probed.contains_key(*other));
            let hosts = hosts.map(|other| Probe {
                host: other.to_string(),
                address: self
                    .heard
                    .get(other)
                    .map_or_else(String::new, |at| at.probe.clone()),
                ..Probe::default()
            });
            let checks = of.iter().filter_map(|holder| checks.get(holder)).flatten();
            let probes = hosts.chain(checks.cloned()).take(PROBES_MAX);
            let probes: Vec<Probe> = probes.collect();
            let number = number_of(&probes);
            match lists.entry(host.clone()) {
                Entry::Occupied(list) if list.get().number == number => {}
                Entry::Occupied(mut list) => drop(list.insert(List { number, probes })),
                Entry::Vacant(list) => drop(list.insert(List { number, probes })),
            }
        }
        self.lists = lists;
    }

    /// The checks to be made at each holder.
    fn checks(&self) -> BTreeMap<&Name, Vec<Probe>> {
        let mut checks: BTreeMap<&Name, Vec<Probe>> = BTreeMap::new();
        for one in &self.fleet.roles {
            let check = self.fleet.checks.get(&one.role);
            if let (Some(holder), Some((check, address))) = (&one.holder, check) {
                checks.entry(holder).or_default().push(Probe {
                    role: one.role.to_string(),
                    check: check.clone(),
                    address: address.clone(),
                    ..Probe::default()
                });
            }
        }
        checks
    }

    fn hosts_shown(&self, now_ms: u64) -> Vec<HostVotes> {
        let hosts = self.fleet.hosts.iter();
        hosts
            .map(|(host, colo)| {
                let row = self.heard.get(host).map(|heard| &heard.row);
                let seen = |wanted: Sight| {
                    let hosts = row.into_iter().flat_map(|row| &row.hosts);
                    let hosts = hosts.filter(move |(_, sight)| **sight == wanted);
                    hosts.map(|(host, _)| host.to_string()).collect()
                };
                let heard = row.map(|row| now_ms.saturating_sub(row.heard_ms));
                HostVotes {
                    host: host.to_string(),
                    colo: colo.to_string(),
                    state: word(self.cut.host(host)).to_owned(),
                    evidence: self.cut.evidence(&Subject::Host(host.clone())),
                    heard_ms: heard.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(-1),
                    left_out: (*self.cut.left_out.get(host).unwrap_or(&"")).to_owned(),
                    reached: seen(Sight::Reached),
                    missed: seen(Sight::Missed),
                }
            })
            .collect()
    }

    fn checks_shown(&self) -> Vec<CheckVotes> {
        let checks = self.cut.subjects.iter();
        let checks = checks.filter_map(|(subject, (state, _))| match subject {
            Subject::Check(role) => Some((role, subject, *state)),
            Subject::Host(_) => None,
        });
        checks
            .map(|(role, subject, state)| {
                let seen = |wanted: Sight| {
                    let rows = self.heard.iter();
                    let rows =
                        rows.filter(|(_, heard)| heard.row.checks.get(role) == Some(&wanted));
                    rows.map(|(host, _)| host.to_string()).collect()
                };
                CheckVotes {
                    role: role.to_string(),
                    state: word(state).to_owned(),
                    evidence: self.cut.evidence(subject),
                    reached: seen(Sight::Reached),
                    missed: seen(Sight::Missed),
                }
            })
            .collect()
    }

    fn roles_shown(&self) -> Vec<RoleVotes> {
        let moves = self.outcome.moves.iter().map(|one| {
            let (why, to) = match self.rehearsed.get(&one.role) {
                Some(Ok(to)) => (one.why.clone(), to.to_string()),
                Some(Err(refused)) => (format!("{}; {refused}", one.why), String::new()),
                None => (one.why.clone(), String::new()),
            };
            RoleVotes {
                role: one.role.to_string(),
                why,
                to,
            }
        });
        let waits = self.outcome.waits.iter().map(|(role, why)| RoleVotes {
            role: role.to_string(),
            why: why.clone(),
            to: String::new(),
        });
        moves.chain(waits).collect()
    }
}

/// Decides by votes for as long as the member runs, while it leads.
pub async fn run(service: Arc<Service>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(term) = service.keeper.leading() else {
            service.keeper.votes().forget();
            continue;
        };
        if let Err(status) = look(&service, term).await {
            tracing::warn!(%status, "cannot look at the votes");
        }
    }
}

/// Colos of members, and whether the leader hears them.
fn members(service: &Service) -> BTreeMap<Name, bool> {
    let status = service.status();
    let mut colos: BTreeMap<Name, bool> = BTreeMap::new();
    for member in &status.members {
        let Ok(colo) = member.colo.parse::<Name>() else {
            continue;
        };
        let silent = member.last_contact_ms;
        let heard = member.id == status.node_id || silent.is_some_and(|ms| ms < MEMBER_SILENT_MS);
        *colos.entry(colo).or_default() |= heard;
    }
    colos
}

async fn look(service: &Service, term: u64) -> Result<(), Status> {
    let before = service.keeper.votes().revision(term);
    let news = move |view: &dyn View| {
        let revision = machine_record(view)?.revision;
        Ok(if revision == before {
            None
        } else {
            Some((revision, fleet(view)?))
        })
    };
    let fleet = service.read_step(news).await?;
    let now = Moment::now();
    let moves = service
        .keeper
        .votes()
        .look(now, term, fleet, members(service));
    for one in moves {
        let goes = rehearsal(service, &one).await?;
        service.keeper.votes().rehearsed(&one, goes.clone());
        let Ok(to) = goes else { continue };
        let mut command = command(&one, &to);
        command
            .reason
            .truncate(command.reason.floor_char_boundary(REASON_BYTES_MAX));
        match service.propose(&command).await {
            Ok(_) => {
                tracing::warn!(role = %one.role, %to, reason = one.why, "moved by votes");
                service.keeper.votes().moved(&one.role, Moment::now());
            }
            Err(status) => {
                tracing::warn!(role = %one.role, %to, %status, "not moved");
            }
        }
    }
    Ok(())
}

fn command(one: &Move, to: &Name) -> Command {
    let role = one.role.to_string();
    let step = Step::Move(state::Move {
        to: to.to_string(),
        epoch: one.epoch,
        accept_loss: false,
    });
    Command {
        at_ms: clock::wall_ms(),
        author: "cfgsvcd".to_owned(),
        reason: format!("by votes: {}", one.why),
        op: Some(Op::Role(RoleCommand {
            role,
            step: Some(step),
        })),
        ..Command::default()
    }
}

/// The first place to which the state lets it go; or why none does.
async fn rehearsal(service: &Service, one: &Move) -> Result<Result<Name, String>, Status> {
    let mut refused = Vec::new();
    for to in &one.to {
        match rehearse(service, command(one, to)).await? {
            Ok(()) => return Ok(Ok(to.clone())),
            Err(refusal) => refused.push(format!("not to {to}: {}", refusal.detail)),
        }
    }
    Ok(Err(refused.join("; ")))
}

#[cfg(test)]
#[path = "votes_tests.rs"]
mod tests;
