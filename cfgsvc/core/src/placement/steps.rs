//! The steps of a role, as commands: who comes, begins, stops, goes, and whom it is given to.
//!
//! Why each is refused before anything is written: a refused command changes nothing of the data.

use std::cmp::Ordering;
use std::io;

use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{Attend, LeaseRecord, Refusal, RoleCommand, RoleReply, Start, Yield};
use cluster_core::store::View;
use prost::Message;

use super::grant::{Attending, DataAt, Grant, Wrong};
use super::keys;
use super::moves::{move_role, out_of_reach};
use super::name::{Name, RoleName};
use super::objects::{self, Colo, Data, Host, Kind, Spec};
use super::sync::sync;
use super::turn::{There, Turn, load, value};
use super::verdict::Fence;
use crate::lease;
use crate::machine::LeaseChange;
use crate::refusal::{Code, refuse};
use crate::tables;
use crate::writer::{NewValue, RevisionWriter};

/// Longest text of an agent about itself: its instance, boot, identity, position and value.
pub(super) const TEXT_BYTES_MAX: usize = 1_024;

/// What a step does, or why it is refused.
pub(super) type Outcome = io::Result<Result<RoleReply, Refusal>>;

pub(super) fn name(text: &str) -> Result<Name, Refusal> {
    text.parse()
        .map_err(|error: super::name::BadName| refuse(Code::InvalidObject, error.to_string()))
}

pub(super) fn answer(grant: &Grant) -> RoleReply {
    RoleReply {
        epoch: grant.epoch,
        holder: grant.holder.clone().map_or_else(String::new, String::from),
        closing: grant.closing(),
        synced: grant.synced.keys().cloned().map(String::from).collect(),
        ..RoleReply::default()
    }
}

/// Carries out one step.
pub(crate) fn step(
    writer: &mut RevisionWriter<'_, '_>,
    command: RoleCommand,
    leases: &mut Vec<LeaseChange>,
) -> Outcome {
    let role: RoleName = match command.role.parse() {
        Ok(role) => role,
        Err(error) => return Ok(Err(refuse(Code::InvalidObject, format!("{error}")))),
    };
    match command.step {
        Some(Step::Attend(request)) => attend(writer, &role, request, leases),
        Some(Step::Start(request)) => start(writer, &role, &request, leases),
        Some(Step::Yield(request)) => yield_role(writer, &role, request, leases),
        Some(Step::Move(request)) => move_role(writer, &role, &request, leases),
        Some(Step::Sync(request)) => sync(writer, &role, &request, leases),
        None => Err(crate::machine::unknown("the log holds a step of a role")),
    }
}

fn attend(
    writer: &mut RevisionWriter<'_, '_>,
    role: &RoleName,
    request: Attend,
    leases: &mut Vec<LeaseChange>,
) -> Outcome {
    let (host, spec, attending) = match admit(writer.state, role, &request)? {
        Ok(admitted) => admitted,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut turn = match Turn::of(writer.state, role, spec)? {
        Ok(turn) => turn,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let before = turn.there(writer.state, &host)?.cloned();
    if let Some(before) = &before
        && let Some(done) = met(writer.state, (&turn, &host), before, &attending)?
    {
        return Ok(done);
    }
    // Everything that could refuse has agreed.
    if role.is_lock() {
        ensure_written(writer, &keys::role(role), &turn.spec)?;
    } else if let Some(colo) = attending.colo.clone() {
        let addresses = request.addresses;
        ensure_written(writer, &keys::host(&host), &Host { colo, addresses })?;
    }
    let mut attending = attending;
    turn.stops(writer.state, &host)?;
    let revision = writer.next_revision();
    note_arrival(
        &mut turn,
        (&host, before.as_ref()),
        &mut attending,
        revision,
    );
    turn.comes(writer.state, (&host, request.lease), attending)?;
    let spec = turn.spec.clone();
    let ttl_ms = spec.lease_ms();
    let lease = LeaseRecord {
        ttl_s: i64::try_from(ttl_ms.div_ceil(1_000)).unwrap_or(i64::MAX),
        ttl_ms,
        role: role.as_str().to_owned(),
        host: host.as_str().to_owned(),
        closing: false,
    };
    let stored = tables::lease(request.lease);
    writer.state.put(stored, lease.encode_to_vec());
    leases.push(LeaseChange::Granted {
        id: request.lease,
        ttl_ms,
    });
    let grant = turn.finish(writer, leases)?;
    if let Some(There { lease, .. }) = before {
        end_lease(writer, lease, leases)?;
    }
    Ok(Ok(attended(&spec, request.lease, &grant)))
}

/// Takes note, in the grant and of the one that comes, of what its coming says.
fn note_arrival(
    turn: &mut Turn,
    (host, before): (&Name, Option<&There>),
    now: &mut Attending,
    revision: i64,
) {
    if let Some(before) = before {
        let again = u32::from(turn.comes_again(host, before));
        now.tries = before.now.tries.saturating_add(again);
    }
    if now.has_data {
        let data = DataAt {
            identity: &now.identity,
            position: &now.position,
            life: &now.life,
        };
        turn.grant.sees(&turn.spec, (now.epoch, data));
    }
    turn.grant.comes(host, &now.life);
    if turn.spec.sync {
        let before = before.filter(|_| !now.life.is_empty());
        let same = before.filter(|before| before.now.life == now.life);
        now.since = same.map_or(revision, |before| before.now.since);
    }
    if turn.spec.max_lag.is_some() {
        now.said = revision;
    }
}

/// One comes as a host that is there already: the answer, unless it takes the other's place.
fn met(
    view: &dyn View,
    (turn, host): (&Turn, &Name),
    before: &There,
    now: &Attending,
) -> io::Result<Option<Result<RoleReply, Refusal>>> {
    let (role, lease) = (&turn.role, before.lease);
    if !same_agent(before, now) {
        let detail = format!(
            "another agent attends role '{role}' as '{host}' (lease {lease:x}); its lease must \
             end first, or it must stop"
        );
        return Ok(Some(Err(refuse(Code::HostAttends, detail))));
    }
    Ok(match now.attempt.cmp(&before.now.attempt) {
        Ordering::Less => Some(Err(late(role, host, before))),
        Ordering::Equal => {
            let stored: Option<LeaseRecord> = tables::get(view, &tables::lease(lease))?;
            let terms = attended(&turn.spec, lease, &turn.grant);
            // Of a lease by other terms than those of now, the first answer alone told them.
            let same = stored.is_some_and(|stored| stored.ttl_ms == terms.lease_ms);
            Some(if same {
                Ok(terms)
            } else {
                Err(late(role, host, before))
            })
        }
        Ordering::Greater => None,
    })
}

fn attended(spec: &Spec, lease: i64, grant: &Grant) -> RoleReply {
    RoleReply {
        lease,
        lease_ms: spec.lease_ms(),
        serve_ms: spec.serve_ms(),
        stop_ms: spec.stop_ms,
        ..answer(grant)
    }
}

/// A step that was overtaken by a later one of the same agent. What that one brought about must not
/// be undone: the agent may serve by it.
fn late(role: &RoleName, host: &Name, before: &There) -> Refusal {
    let last = before.now.attempt;
    let detail = format!("a step of '{host}' for role '{role}' arrived after its step {last}");
    refuse(Code::RequestTooOld, detail)
}

/// Whether the one that comes is the one that is there, started again: its state directory is held
/// by one process at a time, and within one boot nothing of the former is left when it begins.
fn same_agent(there: &There, now: &Attending) -> bool {
    there.now.instance == now.instance && there.now.boot == now.boot
}

/// Checks everything about the one that comes; returns its name, the role and what is written.
fn admit(
    view: &dyn View,
    role: &RoleName,
    request: &Attend,
) -> io::Result<Result<(Name, Spec, Attending), Refusal>> {
    let host = match name(&request.host) {
        Ok(host) => host,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let stored = match load::<Spec>(view, &keys::role(role))? {
        Ok(stored) => stored.map(|(spec, _)| spec),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let spec = match of_role(role, stored, request) {
        Ok(spec) => spec,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let colo = match in_colo(view, &spec, &host, request)? {
        Ok(colo) => colo,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if request.lease == 0 || view.get(&tables::lease(request.lease))?.is_some() {
        let detail = format!("lease {:x}", request.lease);
        return Ok(Err(refuse(Code::LeaseExists, detail)));
    }
    let attending = Attending {
        colo,
        instance: request.instance.clone(),
        boot: request.boot.clone(),
        // A client of a lock keeps nothing from one epoch to the next.
        epoch: if spec.kind == Kind::Lock {
            0
        } else {
            request.epoch
        },
        has_data: request.has_data && spec.data.is_some(&request.position),
        identity: request.identity.clone(),
        position: request.position.clone(),
        life: request.life.clone(),
        since: 0,
        said: 0,
        declines: false,
        attempt: request.attempt,
        tries: 0,
        serving: 0,
        value: request.value.clone(),
    };
    Ok(plausible(&spec, &attending).map(|()| (host, spec, attending)))
}

/// What is said of the role; a lock that nobody uses is as its first client says.
fn of_role(role: &RoleName, stored: Option<Spec>, request: &Attend) -> Result<Spec, Refusal> {
    let spec = match (stored, role.is_lock()) {
        (Some(spec), _) => spec,
        (None, false) => {
            let detail = format!("role '{role}'; see cfgctl role list");
            return Err(refuse(Code::RoleNotFound, detail));
        }
        (None, true) => {
            let wrong = |why| refuse(Code::InvalidObject, format!("lock '{role}': {why}"));
            let spec: Spec = serde_json::from_str(&request.lock)
                .map_err(|error| wrong(format!("its settings are no role: {error}")))?;
            spec.check().map_err(wrong)?;
            spec
        }
    };
    if (spec.kind == Kind::Lock) != role.is_lock() {
        let detail = format!("role '{role}': names of locks, and they alone, begin with 'locks/'");
        return Err(refuse(Code::InvalidObject, detail));
    }
    Ok(spec)
}

/// The colo of the one that comes, as its host's key says it, or will.
fn in_colo(
    view: &dyn View,
    spec: &Spec,
    host: &Name,
    request: &Attend,
) -> io::Result<Result<Option<Name>, Refusal>> {
    if spec.kind == Kind::Lock {
        return Ok(Ok(None));
    }
    let colo = match name(&request.colo) {
        Ok(colo) => colo,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let known = match load::<Host>(view, &keys::host(host))? {
        Ok(known) => known,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Some((known, _)) = known {
        if known.colo != colo {
            let detail = format!(
                "host '{host}' is in colo '{}', and says it is in '{colo}'",
                known.colo
            );
            return Ok(Err(refuse(Code::InvalidObject, detail)));
        }
    } else if let Err(why) = objects::check_addresses(&request.addresses) {
        return Ok(Err(refuse(
            Code::InvalidObject,
            format!("host '{host}': {why}"),
        )));
    }
    Ok(match load::<Colo>(view, &keys::colo(&colo))? {
        Ok(Some(_)) => Ok(Some(colo)),
        Ok(None) => {
            let detail = format!("colo '{colo}' does not exist; cfgctl colo add {colo}");
            Err(refuse(Code::InvalidObject, detail))
        }
        Err(refusal) => Err(refusal),
    })
}

fn plausible(spec: &Spec, attending: &Attending) -> Result<(), Refusal> {
    let wrong = |detail: String| Err(refuse(Code::InvalidObject, detail));
    let texts = [
        ("instance", &attending.instance),
        ("boot", &attending.boot),
        ("identity", &attending.identity),
        ("position", &attending.position),
        ("life", &attending.life),
        ("value", &attending.value),
    ];
    for (what, text) in texts {
        if text.len() > TEXT_BYTES_MAX {
            return wrong(format!(
                "{what} is {} bytes, at most {TEXT_BYTES_MAX}",
                text.len()
            ));
        }
    }
    if attending.instance.is_empty() || attending.boot.is_empty() {
        return wrong("instance and boot must be given".to_owned());
    }
    if attending.attempt == 0 {
        return wrong("attempt is 0; it counts the steps of an agent, from 1".to_owned());
    }
    if attending.epoch < 0 {
        return wrong(format!("epoch {} is before the first", attending.epoch));
    }
    if attending.has_data && !spec.data.is_position(&attending.position) {
        return wrong(no_position(spec.data, &attending.position));
    }
    Ok(())
}

/// What is wrong with a position, and what a right one is.
fn no_position(data: Data, position: &str) -> String {
    match (data, position) {
        (Data::None, _) => format!("position '{position}' is given, and the role keeps no data"),
        (_, "") => "the role keeps data, and the host says no position of its own: its hook \
                    'position' must print IDENTITY POSITION, of an empty store as well"
            .to_owned(),
        (_, _) => format!("position '{position}' is not {}", data.form()),
    }
}

/// Writes an object that is not there.
fn ensure_written<T: serde::Serialize>(
    writer: &mut RevisionWriter<'_, '_>,
    key: &bytes::Bytes,
    object: &T,
) -> io::Result<()> {
    if writer.state.get(&tables::current(key))?.is_some() {
        return Ok(());
    }
    let new = NewValue {
        value: value(object)?,
        lease: 0,
    };
    writer.put(key, new, None)
}

/// Ends a lease, and the keys that clients have hung on it.
fn end_lease(
    writer: &mut RevisionWriter<'_, '_>,
    id: i64,
    leases: &mut Vec<LeaseChange>,
) -> io::Result<()> {
    lease::end(writer, id)?;
    leases.push(LeaseChange::Ended { id });
    Ok(())
}

fn start(
    writer: &mut RevisionWriter<'_, '_>,
    role: &RoleName,
    request: &Start,
    leases: &mut Vec<LeaseChange>,
) -> Outcome {
    let by = (request.host.as_str(), request.lease, request.attempt);
    let (mut turn, host) = match new_step(writer.state, role, by)? {
        Ok(found) => found,
        Err(answer) => return Ok(answer),
    };
    if [&request.position, &request.identity, &request.life]
        .iter()
        .any(|text| text.len() > TEXT_BYTES_MAX)
    {
        let detail = format!("identity, position or life is over {TEXT_BYTES_MAX} bytes");
        return Ok(Err(refuse(Code::InvalidObject, detail)));
    }
    let data = DataAt {
        identity: &request.identity,
        position: &request.position,
        life: &request.life,
    };
    if let Err(wrong) = turn.starts(&host, request.epoch, data) {
        return Ok(Err(explain(&turn, &host, request, wrong)));
    }
    // Who gave it up has seen another begin: it may have it again.
    turn.forgive(writer.state)?;
    let grant = turn.finish(writer, leases)?;
    Ok(Ok(answer(&grant)))
}

fn explain(turn: &Turn, host: &Name, request: &Start, wrong: Wrong) -> Refusal {
    let (role, grant) = (&turn.role, &turn.grant);
    let (asked, position) = (request.epoch, &request.position);
    match wrong {
        Wrong::NotHolder => {
            let holder = grant.holder.as_ref().map_or("nobody", Name::as_str);
            let detail = format!(
                "role '{role}' is held by {holder} at epoch {}; '{host}' would begin epoch {asked}",
                grant.epoch
            );
            refuse(Code::NotHolder, detail)
        }
        Wrong::Closing => {
            let detail = format!("role '{role}' is being handed over");
            refuse(Code::NotHolder, detail)
        }
        Wrong::Begun => {
            let detail = format!(
                "epoch {asked} of role '{role}' was begun before, and is over; '{host}' comes \
                 again for another"
            );
            refuse(Code::NotAvailable, detail)
        }
        Wrong::Behind { left } => {
            let detail = format!(
                "'{host}' is at {position}, and the last holder of role '{role}' stopped at \
                 {left}: it must get the rest, or a person gives that up (cfgctl role switch \
                 {role} HOST --accept-loss)"
            );
            refuse(Code::Behind, detail)
        }
        Wrong::NotAPosition => {
            let detail = no_position(turn.spec.data, position);
            refuse(Code::InvalidObject, format!("role '{role}': {detail}"))
        }
        Wrong::OtherData { expected, found } => {
            let fence = Fence::OtherData { expected, found };
            refuse(
                Code::InvalidObject,
                format!("role '{role}', '{host}': {fence}"),
            )
        }
        Wrong::OutOfReach => {
            let at = turn
                .there_now(host)
                .map_or("", |there| there.position.as_str());
            refuse(Code::Behind, out_of_reach(turn, host, at))
        }
        Wrong::Reopened => {
            let detail = format!(
                "the store of '{host}' was opened anew since it came to role '{role}': what it had \
                 received may be gone; it comes again"
            );
            refuse(Code::NotAvailable, detail)
        }
        Wrong::Empty => {
            let detail = format!("role '{role}', '{host}': {}", Fence::Empty);
            refuse(Code::Behind, detail)
        }
    }
}

/// The role, and the one that attends with this lease and takes a step that is new; else the answer
/// to the step.
pub(super) fn new_step(
    view: &dyn View,
    role: &RoleName,
    (host, lease, attempt): (&str, i64, u64),
) -> io::Result<Result<(Turn, Name), Result<RoleReply, Refusal>>> {
    let host = match name(host) {
        Ok(host) => host,
        Err(refusal) => return Ok(Err(Err(refusal))),
    };
    let mut turn = match Turn::load(view, role)? {
        Ok(turn) => turn,
        Err(refusal) => return Ok(Err(Err(refusal))),
    };
    let grant = answer(&turn.grant);
    let there = match turn.there_with(view, (&host, lease))? {
        Ok(there) => there,
        Err(refusal) => return Ok(Err(Err(refusal))),
    };
    match attempt.cmp(&there.now.attempt) {
        Ordering::Less => return Ok(Err(Err(late(role, &host, there)))),
        Ordering::Equal => return Ok(Err(Ok(grant))),
        Ordering::Greater => there.now.attempt = attempt,
    }
    Ok(Ok((turn, host)))
}

fn yield_role(
    writer: &mut RevisionWriter<'_, '_>,
    role: &RoleName,
    request: Yield,
    leases: &mut Vec<LeaseChange>,
) -> Outcome {
    let by = (request.host.as_str(), request.lease, request.attempt);
    let (mut turn, host) = match new_step(writer.state, role, by)? {
        Ok(found) => found,
        Err(answer) => return Ok(answer),
    };
    if !request.position.is_empty() && !turn.spec.data.is_position(&request.position)
        || request.position.len() > TEXT_BYTES_MAX
    {
        let detail = match request.position.len() {
            0..=TEXT_BYTES_MAX => no_position(turn.spec.data, &request.position),
            bytes => format!("the position is {bytes} bytes, at most {TEXT_BYTES_MAX}"),
        };
        let detail = format!("role '{role}': {detail}");
        return Ok(Err(refuse(Code::InvalidObject, detail)));
    }
    let (kind, epoch) = (turn.spec.kind, turn.grant.epoch);
    let keeps = turn.spec.data != Data::None;
    let holder = turn.grant.holder.clone();
    let closing = turn.grant.closing();
    let mut served = false;
    if let Some(there) = turn.there(writer.state, &host)? {
        served = there.now.serving != 0;
        let holds = there.now.holds_as(kind, &host) == holder.as_ref();
        // Who gives it up unasked would be given it again.
        there.now.declines |= holds && !closing && kind != Kind::Lock;
        if served && keeps {
            // Where it began is not where its data ends: an end that it cannot say is known to
            // nobody, and cannot be compared.
            there.now.epoch = epoch;
            there.now.has_data = true;
            there.now.position.clone_from(&request.position);
        }
    }
    turn.stops(writer.state, &host)?;
    let kept = served && kind == Kind::Host && !turn.grant.loses;
    if kept && !request.position.is_empty() {
        let spec = turn.spec.clone();
        turn.grant.leaves(&spec, request.position);
    }
    if request.leave {
        turn.goes(writer.state, &host)?;
        writer.delete_if_there(&keys::attending(role, &host))?;
        end_lease(writer, request.lease, leases)?;
    }
    let grant = turn.finish(writer, leases)?;
    Ok(Ok(answer(&grant)))
}

/// The lease of somebody who attended is over, and the key that hung on it is gone.
pub(crate) fn lease_over(
    writer: &mut RevisionWriter<'_, '_>,
    lease: &LeaseRecord,
    was: Option<Attending>,
    leases: &mut Vec<LeaseChange>,
) -> io::Result<()> {
    let (Ok(role), Ok(host)) = (lease.role.parse::<RoleName>(), lease.host.parse::<Name>()) else {
        return Ok(());
    };
    // A role that cannot be read is nobody's to settle: it is refused wherever it is used.
    let Ok(mut turn) = Turn::load(writer.state, &role)? else {
        return Ok(());
    };
    if let Some(mut was) = was {
        turn.grant.stopped(&mut was);
    }
    turn.goes(writer.state, &host)?;
    turn.finish(writer, leases)?;
    Ok(())
}

/// The group was made from a snapshot, and what it promised is over: nobody is there, and no epoch
/// of it is gone on with. The former group may have given later ones, to others.
pub(crate) fn restored(
    writer: &mut RevisionWriter<'_, '_>,
    leases: &mut Vec<LeaseChange>,
) -> io::Result<()> {
    for role in super::read::roles(writer.state)? {
        let Ok(mut turn) = Turn::load(writer.state, &role)? else {
            continue;
        };
        turn.grant.restored = turn.grant.epoch != 0;
        turn.grant.wish(None, false);
        turn.grant.vacate = false;
        for (host, there) in turn.everybody(writer.state)? {
            turn.goes(writer.state, &host)?;
            writer.delete_if_there(&keys::attending(&role, &host))?;
            end_lease(writer, there.lease, leases)?;
        }
        turn.finish(writer, leases)?;
    }
    Ok(())
}
