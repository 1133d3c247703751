//! What operators wrote below `/cfgsvc/`, by whichever call: is it well formed, and does it refer
//! to what is there?
//!
//! It is looked at after everything of the commit is written, on top of the store, so that a
//! transaction may make a colo and a host in it; what is refused is thrown away whole.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::kv::event::EventType;
use cfgsvc_proto::state::{KeyRecord, Refusal};
use cluster_core::store::{Direction, View};
use serde::de::DeserializeOwned;

use super::grant::Grant;
use super::keys::{self, PREFIX, Place};
use super::name::{Name, RoleName};
use super::objects::{Colo, Host, Kind, LeaderWish, Spec, check_addresses};
use super::turn::{Turn, load};
use crate::machine::LeaseChange;
use crate::refusal::{Code, refuse, shown};
use crate::tables;
use crate::votes::Settings;
use crate::writer::RevisionWriter;
use crate::zones;

type Checked = io::Result<Result<(), Refusal>>;

/// First key after those below [`PREFIX`].
const END: &[u8] = b"/cfgsvc0";

/// Whether a request's `key` and `range_end` reach keys that have a meaning here.
pub(crate) fn concerns(key: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        b"" => key.starts_with(PREFIX),
        b"\0" => key < END,
        end => key < END && end > PREFIX,
    }
}

/// A change of one key.
struct Change {
    key: Bytes,
    /// The new value and its lease; `None` when the key was deleted.
    new: Option<(Bytes, i64)>,
    previous: Option<Bytes>,
}

/// Checks all that was written so far, and settles the roles of which something else is said now.
/// `at_ms` is when the command was proposed; 0: it does not say.
pub(crate) fn review(
    writer: &mut RevisionWriter<'_, '_>,
    leases: &mut Vec<LeaseChange>,
    at_ms: i64,
) -> Checked {
    let changes: Vec<Change> = writer
        .events()
        .iter()
        .filter_map(|changed| {
            let kv = changed.event.kv.as_ref()?;
            if !kv.key.starts_with(PREFIX) {
                return None;
            }
            let put = changed.event.r#type == i32::from(EventType::Put);
            Some(Change {
                key: kv.key.clone(),
                new: put.then(|| (kv.value.clone(), kv.lease)),
                previous: changed.previous.as_ref().map(|kv| kv.value.clone()),
            })
        })
        .collect();
    let mut users = Users::default();
    for change in &changes {
        if let Err(refusal) = one(writer, &mut users, change, (leases, at_ms))? {
            return Ok(Err(refusal));
        }
    }
    if changes.iter().any(lets_back) {
        settle_all(writer, leases)?;
    }
    Ok(Ok(()))
}

/// Whether a colo is drained no more: its hosts may be given roles that nobody else could take.
fn lets_back(change: &Change) -> bool {
    let drained =
        |value: &Bytes| serde_json::from_slice::<Colo>(value).is_ok_and(|colo| colo.drained);
    matches!(Place::of(&change.key), Some(Ok(Place::Colo(_))))
        && change.previous.as_ref().is_some_and(drained)
        && change
            .new
            .as_ref()
            .is_some_and(|(value, _)| !drained(value))
}

fn settle_all(
    writer: &mut RevisionWriter<'_, '_>,
    leases: &mut Vec<LeaseChange>,
) -> io::Result<()> {
    for role in super::read::roles(writer.state)? {
        if role.is_lock() {
            // Its clients are in no colo.
            continue;
        }
        // A role that cannot be read is nobody's to settle: it is refused wherever it is used.
        if let Ok(turn) = Turn::load(writer.state, &role)? {
            turn.finish(writer, leases)?;
        }
    }
    Ok(())
}

fn one(
    writer: &mut RevisionWriter<'_, '_>,
    users: &mut Users,
    change: &Change,
    (leases, at_ms): (&mut Vec<LeaseChange>, i64),
) -> Checked {
    let key = shown(&change.key);
    let reserved = |why: &str| refuse(Code::ReservedKey, format!("key {key} {why}"));
    let place = match Place::of(&change.key) {
        Some(Ok(place)) => place,
        Some(Err(why)) => return Ok(Err(reserved(&why))),
        None => return Ok(Ok(())),
    };
    if change.new.as_ref().is_some_and(|(_, lease)| *lease != 0) {
        let detail = format!("key {key} must not hang on a lease");
        return Ok(Err(refuse(Code::InvalidObject, detail)));
    }
    match place {
        Place::Grant(_) | Place::Attending(..) => {
            Ok(Err(reserved("is written by the group alone")))
        }
        Place::Failover => Ok(change.new.as_ref().map_or(Ok(()), |(value, _)| {
            let settings: Settings = parse(&change.key, value)?;
            settings.check().map_err(|why| invalid(&change.key, why))
        })),
        Place::Leader => Ok(change.new.as_ref().map_or(Ok(()), |(value, _)| {
            parse::<LeaderWish>(&change.key, value).map(drop)
        })),
        Place::Colo(colo) => review_colo(writer.state, users, (&colo, change)),
        Place::Host(host) => review_host(writer.state, users, (&host, change)),
        Place::Role(role) => review_role(writer, &role, change, leases),
        Place::Dns(place) => {
            let new = change.new.as_ref().map(|(value, _)| value);
            zones::review(writer.state, &change.key, &place, new, at_ms)
        }
    }
}

/// The object of a new value.
fn parse<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(value)
        .map_err(|error| refuse(Code::InvalidObject, format!("key {}: {error}", shown(key))))
}

fn invalid(key: &[u8], why: impl std::fmt::Display) -> Refusal {
    refuse(Code::InvalidObject, format!("key {}: {why}", shown(key)))
}

fn in_use(what: String) -> Result<(), Refusal> {
    Err(refuse(Code::InUse, what))
}

fn review_colo(view: &dyn View, users: &mut Users, (name, change): (&Name, &Change)) -> Checked {
    if let Some((value, _)) = &change.new {
        let colo: Result<Colo, Refusal> = parse(&change.key, value);
        return Ok(colo.and_then(|colo| {
            check_addresses(&colo.addresses).map_err(|why| invalid(&change.key, why))
        }));
    }
    let used = users.known(view)?;
    if let Some(host) = used.colo_hosts.get(name) {
        return Ok(in_use(format!(
            "colo '{name}' has host '{host}': cfgctl host delete {host}"
        )));
    }
    if let Some(role) = used.candidates.get(&(Kind::Colo, name.clone())) {
        return Ok(in_use(no_candidate("colo", name, role)));
    }
    if let Some(role) = used.colo_roles.get(name) {
        return Ok(in_use(format!(
            "colo '{name}' holds role '{role}': cfgctl colo activate OTHER --role {role}, or \
             cfgctl role delete {role}"
        )));
    }
    Ok(Ok(()))
}

fn no_candidate(kind: &str, name: &Name, role: &RoleName) -> String {
    format!(
        "{kind} '{name}' is a candidate of role '{role}': say others first (cfgctl role create \
         {role} --candidates ...)"
    )
}

fn review_host(view: &dyn View, users: &mut Users, (name, change): (&Name, &Change)) -> Checked {
    let before = change
        .previous
        .as_ref()
        .and_then(|value| serde_json::from_slice::<Host>(value).ok());
    let after = match &change.new {
        Some((value, _)) => match parse::<Host>(&change.key, value) {
            Ok(host) => Some(host),
            Err(refusal) => return Ok(Err(refusal)),
        },
        None => None,
    };
    let stays = after.as_ref().map(|host| &host.colo) == before.as_ref().map(|host| &host.colo);
    if before.is_some()
        && !stays
        && let Some(role) = users.known(view)?.attending.get(name)
    {
        return Ok(in_use(format!(
            "host '{name}' attends role '{role}'; stop its agent first"
        )));
    }
    let Some(host) = after else {
        let candidate = (Kind::Host, name.clone());
        if let Some(role) = users.known(view)?.candidates.get(&candidate) {
            return Ok(in_use(no_candidate("host", name, role)));
        }
        return Ok(Ok(()));
    };
    if let Err(why) = check_addresses(&host.addresses) {
        return Ok(Err(invalid(&change.key, why)));
    }
    if load::<Colo>(view, &keys::colo(&host.colo))?.is_ok_and(|colo| colo.is_some()) {
        return Ok(Ok(()));
    }
    let colo = &host.colo;
    let why = format!("colo '{colo}' does not exist; cfgctl colo add {colo}");
    Ok(Err(invalid(&change.key, why)))
}

fn review_role(
    writer: &mut RevisionWriter<'_, '_>,
    role: &RoleName,
    change: &Change,
    leases: &mut Vec<LeaseChange>,
) -> Checked {
    if role.is_lock() {
        let detail = format!("key {}: a lock is made by its use", shown(&change.key));
        return Ok(Err(refuse(Code::ReservedKey, detail)));
    }
    let Some((value, _)) = &change.new else {
        return delete_role(writer, role, change);
    };
    let spec: Spec = match parse(&change.key, value) {
        Ok(spec) => spec,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Err(why) = spec.check() {
        return Ok(Err(invalid(&change.key, why)));
    }
    if spec.kind == Kind::Lock {
        return Ok(Err(invalid(&change.key, "kind 'lock' is for locks")));
    }
    let mut turn = match Turn::of(writer.state, role, spec)? {
        Ok(turn) => turn,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if turn.is_new() {
        // Who took part in a role of this name that was deleted knows epochs before this one only.
        turn.grant.epoch = writer.next_revision();
    }
    let before: Option<Spec> = change
        .previous
        .as_ref()
        .and_then(|value| serde_json::from_slice(value).ok());
    if let Some(before) = before {
        if before.kind != turn.spec.kind {
            return Ok(Err(invalid(
                &change.key,
                "kind cannot change; make another role",
            )));
        }
        if before.data != turn.spec.data && !turn.grant.starts.is_empty() {
            return Ok(Err(invalid(
                &change.key,
                "data cannot change once an epoch has begun; make another role",
            )));
        }
    }
    if let Some(followed) = turn.spec.follows.clone() {
        let found = load::<Spec>(writer.state, &keys::role(&followed))?.unwrap_or_default();
        if found.is_none_or(|(spec, _)| spec.kind != Kind::Colo) {
            let why = format!(
                "follows '{followed}', which is no role of a colo: cfgctl role create {followed} \
                 --kind colo"
            );
            return Ok(Err(invalid(&change.key, why)));
        }
    }
    if turn.spec.kind == Kind::Colo {
        for colo in &turn.spec.candidates {
            if load::<Colo>(writer.state, &keys::colo(colo))?.is_ok_and(|found| found.is_none()) {
                let why = format!("colo '{colo}' does not exist; cfgctl colo add {colo}");
                return Ok(Err(invalid(&change.key, why)));
            }
        }
    }
    turn.finish(writer, leases)?;
    Ok(Ok(()))
}

fn delete_role(writer: &mut RevisionWriter<'_, '_>, role: &RoleName, change: &Change) -> Checked {
    let kind = change
        .previous
        .as_ref()
        .and_then(|value| serde_json::from_slice::<Spec>(value).ok())
        .map_or(Kind::Host, |spec| spec.kind);
    let mut turn = match Turn::of(writer.state, role, Spec::of(kind))? {
        Ok(turn) => turn,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Some((host, _)) = turn.everybody(writer.state)?.first() {
        return Ok(in_use(format!(
            "host '{host}' attends role '{role}'; stop its agent first"
        )));
    }
    if kind == Kind::Colo {
        let mut follower = None;
        scan(writer.state, "roles", |name, spec: &Spec| {
            if spec.follows.as_ref() == Some(role) {
                follower = Some(name.to_owned());
            }
        })?;
        if let Some(name) = follower {
            return Ok(in_use(format!(
                "role '{name}' follows role '{role}': cfgctl role create {name} --follows none"
            )));
        }
    }
    if let Some(follow) = zones::follower(writer.state, role)? {
        return Ok(in_use(format!(
            "role '{role}' is followed by {follow}: cfgctl zone unfollow it first"
        )));
    }
    writer.delete_if_there(&keys::grant(role))?;
    Ok(Ok(()))
}

/// What colos and hosts are used for, by a commit in which some of them go. It is read once,
/// however many go.
#[derive(Default)]
struct Users(Option<Used>);

#[derive(Default)]
struct Used {
    /// A host of each colo.
    colo_hosts: BTreeMap<Name, Name>,
    /// A role that each host attends. Clients of locks are no hosts.
    attending: BTreeMap<Name, RoleName>,
    /// A role of which each is a candidate.
    candidates: BTreeMap<(Kind, Name), RoleName>,
    /// A role that each colo holds, or gets next.
    colo_roles: BTreeMap<Name, RoleName>,
}

impl Users {
    fn known(&mut self, view: &dyn View) -> io::Result<&Used> {
        if self.0.is_none() {
            self.0 = Some(Used::read(view)?);
        }
        Ok(self.0.get_or_insert_default())
    }
}

impl Used {
    fn read(view: &dyn View) -> io::Result<Self> {
        let mut used = Self::default();
        scan(view, "hosts", |name, host: &Host| {
            if let Ok(name) = name.parse() {
                used.colo_hosts.insert(host.colo.clone(), name);
            }
        })?;
        scan(view, "attending", |name, _: &serde::de::IgnoredAny| {
            if let Some((role, host)) = name.rsplit_once('/')
                && let (Ok(role), Ok(host)) = (role.parse::<RoleName>(), host.parse())
                && !role.is_lock()
            {
                used.attending.insert(host, role);
            }
        })?;
        let mut colo_roles = Vec::new();
        scan(view, "roles", |name, spec: &Spec| {
            let Ok(role) = name.parse::<RoleName>() else {
                return;
            };
            for candidate in &spec.candidates {
                let candidate = (spec.kind, candidate.clone());
                used.candidates.insert(candidate, role.clone());
            }
            if spec.kind == Kind::Colo {
                colo_roles.push(role);
            }
        })?;
        for role in colo_roles {
            let grant = load::<Grant>(view, &keys::grant(&role))?.unwrap_or_default();
            let colos = grant.map(|(grant, _)| [grant.holder, grant.next]);
            for colo in colos.into_iter().flatten().flatten() {
                used.colo_roles.insert(colo, role.clone());
            }
        }
        Ok(used)
    }
}

/// The objects of a table, by name. What says nothing is left out.
pub(super) fn scan<T: DeserializeOwned>(
    view: &dyn View,
    table: &str,
    mut each: impl FnMut(&str, &T),
) -> io::Result<()> {
    let prefix = format!("/cfgsvc/{table}/");
    let end = format!("/cfgsvc/{table}0");
    let range = tables::current_range(prefix.as_bytes(), end.as_bytes());
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, value| {
        let record: KeyRecord = tables::decode(stored, value)?;
        let name = stored.get(1 + prefix.len()..).unwrap_or_default();
        if let (Ok(name), Ok(object)) = (
            std::str::from_utf8(name),
            serde_json::from_slice(&record.value),
        ) {
            each(name, &object);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_reach_these_keys_are_seen() {
        for (key, end, expected) in [
            (&b"/cfgsvc/roles/a"[..], &b""[..], true),
            (b"/cfgsvc", b"", false),
            (b"/cfgsvc0", b"", false),
            (b"a", b"b", false),
            (b"\0", b"\0", true),
            (b"/cfgsvc/", b"/cfgsvc0", true),
            (b"/a", b"/cfgsvc/", false),
            (b"/a", b"/cfgsvc/a", true),
            (b"/cfgsvc0", b"\0", false),
        ] {
            assert_eq!(concerns(key, end), expected, "{key:?} {end:?}");
        }
    }
}
