//! One change of one role in a commit: what it is before, and what is written when it is decided.
//!
//! Invariant: every change of a role ends in [`Turn::finish`], which settles it, so that no commit
//! leaves a role that somebody could take and nobody was given.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::state::{KeyRecord, LeaseRecord, Refusal};
use cluster_core::store::{Direction, View};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::grant::{Attending, DataAt, Grant, Taker, in_reach};
use super::keys;
use super::name::{Name, RoleName};
use super::objects::{Colo, Host, Kind, Spec};
use super::verdict;
use crate::machine::LeaseChange;
use crate::refusal::{Code, refuse, shown};
use crate::tables;
use crate::writer::{NewValue, RevisionWriter};

/// The current version of a key and what its value says; `None` when it does not exist. The refusal
/// is for a value that says nothing: it came with a restore from a later version, if at all.
pub(super) fn load<T: DeserializeOwned>(
    view: &dyn View,
    key: &Bytes,
) -> io::Result<Result<Option<(T, KeyRecord)>, Refusal>> {
    let Some(record) = tables::get::<KeyRecord>(view, &tables::current(key))? else {
        return Ok(Ok(None));
    };
    Ok(match serde_json::from_slice(&record.value) {
        Ok(value) => Ok(Some((value, record))),
        Err(error) => {
            let detail = format!("the value of {} is not one: {error}", shown(key));
            Err(refuse(Code::InvalidObject, detail))
        }
    })
}

/// The value of a key.
pub(super) fn value<T: Serialize>(object: &T) -> io::Result<Bytes> {
    Ok(serde_json::to_vec(object)?.into())
}

/// Somebody who is there, as stored and as it will be.
#[derive(Debug, Clone)]
pub(super) struct There {
    pub(super) now: Attending,
    pub(super) lease: i64,
    /// The version in the store; `None` when it has just come.
    stored: Option<KeyRecord>,
    /// What is stored.
    before: Option<Attending>,
}

/// A role in a commit.
pub(super) struct Turn {
    pub(super) role: RoleName,
    pub(super) spec: Spec,
    pub(super) grant: Grant,
    stored: Option<KeyRecord>,
    before: Grant,
    /// Those that this commit has looked at; `None` for those that went away in it.
    there: BTreeMap<Name, Option<There>>,
}

impl Turn {
    /// The role as it is; refused when there is none.
    pub(super) fn load(view: &dyn View, role: &RoleName) -> io::Result<Result<Self, Refusal>> {
        match load::<Spec>(view, &keys::role(role))? {
            Ok(Some((spec, _))) => Self::of(view, role, spec),
            Ok(None) => {
                let detail = format!("role '{role}'; see cfgctl role list");
                Ok(Err(refuse(Code::RoleNotFound, detail)))
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// The role, of which `spec` is said from this commit on.
    pub(super) fn of(
        view: &dyn View,
        role: &RoleName,
        spec: Spec,
    ) -> io::Result<Result<Self, Refusal>> {
        let (grant, stored) = match load::<Grant>(view, &keys::grant(role))? {
            Ok(Some((grant, stored))) => (grant, Some(stored)),
            Ok(None) => (Grant::default(), None),
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(Ok(Self {
            role: role.clone(),
            spec,
            before: grant.clone(),
            grant,
            stored,
            there: BTreeMap::new(),
        }))
    }

    /// Whether nothing is said of it yet.
    pub(super) fn is_new(&self) -> bool {
        self.stored.is_none()
    }

    /// Who attends as `host`.
    pub(super) fn there(&mut self, view: &dyn View, host: &Name) -> io::Result<Option<&mut There>> {
        if !self.there.contains_key(host) {
            let key = keys::attending(&self.role, host);
            // A value that says nothing is nobody.
            let found = load::<Attending>(view, &key)?.unwrap_or_default();
            let there = found.map(|(now, stored)| There {
                before: Some(now.clone()),
                now,
                lease: stored.lease,
                stored: Some(stored),
            });
            self.there.insert(host.clone(), there);
        }
        Ok(self.there.get_mut(host).and_then(Option::as_mut))
    }

    /// The same, when its lease is `lease`.
    pub(super) fn there_with(
        &mut self,
        view: &dyn View,
        (host, lease): (&Name, i64),
    ) -> io::Result<Result<&mut There, Refusal>> {
        let role = self.role.clone();
        Ok(self
            .there(view, host)?
            .filter(|there| there.lease == lease)
            .ok_or_else(|| {
                let detail = format!("lease {lease:x} of '{host}' for role '{role}' is over");
                refuse(Code::LeaseNotFound, detail)
            }))
    }

    /// `host` is there from this commit on, with `lease`.
    pub(super) fn comes(
        &mut self,
        view: &dyn View,
        (host, lease): (&Name, i64),
        now: Attending,
    ) -> io::Result<()> {
        let before = self.there(view, host)?.cloned();
        let (stored, before) = before.map_or((None, None), |there| (there.stored, there.before));
        let there = There {
            now,
            lease,
            stored,
            before,
        };
        self.there.insert(host.clone(), Some(there));
        Ok(())
    }

    /// Whether `host`, which was there, was given the role and has not begun: it comes again and
    /// again when nothing that it is answered arrives. A lock is begun by being given, so whoever
    /// holds one and comes again is as good as new.
    pub(super) fn comes_again(&self, host: &Name, before: &There) -> bool {
        let holds = self.grant.holder.as_ref() == Some(host);
        match self.spec.kind {
            Kind::Host => holds && before.now.serving == 0,
            Kind::Lock => holds,
            Kind::Colo => false,
        }
    }

    /// `host`, whose key goes in this commit, is not there any more.
    pub(super) fn goes(&mut self, view: &dyn View, host: &Name) -> io::Result<()> {
        self.stops(view, host)?;
        self.there.insert(host.clone(), None);
        Ok(())
    }

    /// `host` serves no more.
    pub(super) fn stops(&mut self, view: &dyn View, host: &Name) -> io::Result<()> {
        self.there(view, host)?;
        if let Some(Some(there)) = self.there.get_mut(host) {
            self.grant.stopped(&mut there.now);
        }
        Ok(())
    }

    /// Who gave the role up unasked could take it again.
    pub(super) fn forgive(&mut self, view: &dyn View) -> io::Result<()> {
        self.everybody(view)?;
        for there in self.there.values_mut().flatten() {
            there.now.declines = false;
        }
        Ok(())
    }

    /// Whether somebody is there, in the order that costs least.
    fn anybody(&self, view: &dyn View) -> io::Result<bool> {
        if self.there.values().any(Option::is_some) {
            return Ok(true);
        }
        let (first, end) = keys::all_attending(&self.role);
        let prefix = first.len();
        let mut found = false;
        let range = tables::current_range(&first, &end);
        tables::try_scan(view, &range, Direction::Ascending, &mut |stored, _| {
            let host = std::str::from_utf8(stored.get(1 + prefix..).unwrap_or_default());
            let host = host.ok().and_then(|host| host.parse::<Name>().ok());
            // Those whose key goes in this commit are known not to be there.
            found = host.is_some_and(|host| !self.there.contains_key(&host));
            Ok(if found {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(found)
    }

    /// One that attends and has been looked at.
    pub(super) fn there_now(&self, host: &Name) -> Option<&Attending> {
        let there = self.there.get(host)?.as_ref()?;
        Some(&there.now)
    }

    /// `host` begins the epoch.
    pub(super) fn starts(
        &mut self,
        host: &Name,
        epoch: i64,
        data: DataAt<'_>,
    ) -> Result<bool, super::grant::Wrong> {
        let there = self.there.get_mut(host).and_then(Option::as_mut);
        let there = there.ok_or(super::grant::Wrong::NotHolder)?;
        let begins = (host, &mut there.now);
        self.grant.start(&self.spec, begins, (epoch, data))
    }

    /// All who are there, by name.
    pub(super) fn everybody(&mut self, view: &dyn View) -> io::Result<Vec<(Name, There)>> {
        let (first, end) = keys::all_attending(&self.role);
        let prefix = first.len();
        let mut hosts = Vec::new();
        let range = tables::current_range(&first, &end);
        tables::try_scan(view, &range, Direction::Ascending, &mut |stored, _| {
            let host = std::str::from_utf8(&stored[1 + prefix..]);
            // With a slash: of a role below this one.
            if let Some(host) = host.ok().and_then(|host| host.parse::<Name>().ok()) {
                hosts.push(host);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for host in &hosts {
            self.there(view, host)?;
        }
        let there = self.there.iter();
        Ok(there
            .filter_map(|(host, there)| Some((host.clone(), there.clone()?)))
            .collect())
    }

    /// Who may take the role now, the best first.
    pub(super) fn available(&mut self, view: &dyn View) -> io::Result<Vec<Taker>> {
        let colos = Colos::of(self, view)?;
        let mut ranked = Vec::new();
        for (host, there) in self.everybody(view)? {
            if there.now.declines {
                continue;
            }
            let Some(name) = there.now.holds_as(self.spec.kind, &host).cloned() else {
                continue;
            };
            let listed = self.spec.candidates.iter().position(|one| *one == name);
            // Of a lock: who came first. The newest has no version yet.
            let came = there
                .stored
                .as_ref()
                .map_or(i64::MAX, |stored| stored.create_revision);
            let came = if self.spec.kind == Kind::Lock {
                came
            } else {
                0
            };
            let taker = self.taker((host, &there), name, &colos, view)?;
            let order = (
                taker.tries,
                Reverse(self.advance(&there.now)),
                colos.is_far(&there.now),
                listed.unwrap_or(usize::MAX),
                came,
            );
            ranked.push((order, taker));
        }
        ranked.sort();
        ranked.dedup_by(|a, b| a.1 == b.1);
        Ok(ranked.into_iter().map(|(.., taker)| taker).collect())
    }

    /// How far the data of one goes, where that decides.
    fn advance(&self, there: &Attending) -> u128 {
        match self.spec.max_lag {
            Some(_) => self.spec.data.advance(&there.position),
            None => 0,
        }
    }

    fn taker(
        &self,
        (host, there): (Name, &There),
        name: Name,
        colos: &Colos,
        view: &dyn View,
    ) -> io::Result<Taker> {
        let (spec, grant, there) = (&self.spec, &self.grant, &there.now);
        let drained = match &there.colo {
            Some(colo) => load::<Colo>(view, &keys::colo(colo))?
                .is_ok_and(|found| found.is_some_and(|(colo, _)| colo.drained)),
            None => false,
        };
        let whole = verdict::may_begin(spec, grant, there);
        let wanted = !drained && spec.is_candidate(&name) && colos.may_hold(there);
        let awaited = whole && wanted && grant.says_anew(there);
        Ok(Taker {
            tries: there.tries,
            name,
            by_itself: whole && wanted,
            complete: verdict::may_go_on(spec, grant, there),
            reaches: !awaited && in_reach(spec, grant, &host, there),
            awaited,
        })
    }

    /// Settles the role and writes what has changed; returns what the keeper of leases is told.
    pub(super) fn finish(
        mut self,
        writer: &mut RevisionWriter<'_, '_>,
        leases: &mut Vec<LeaseChange>,
    ) -> io::Result<Grant> {
        let lost = self.before.serving > 0 && self.grant.serving == 0;
        if lost && self.spec.max_lag.is_some() && self.grant.left.is_none() && !self.grant.loses {
            self.grant.lost = writer.next_revision();
        }
        // While somebody serves nobody is given it, so nobody need be looked for.
        let available = match self.grant.serving {
            0 => self.available(writer.state)?,
            _ => Vec::new(),
        };
        let revision = writer.next_revision();
        self.grant.settle(&self.spec, &available, revision);
        if self.spec.kind == Kind::Lock {
            self.hold_lock(writer.state)?;
        }
        let closes = |grant: &Grant| (grant.closing(), grant.lost, grant.serving > 0);
        if closes(&self.grant) != closes(&self.before) {
            // Leases that are not renewed from here on, or are again.
            self.everybody(writer.state)?;
        }
        let unused = self.spec.kind == Kind::Lock && !self.anybody(writer.state)?;
        for (host, there) in std::mem::take(&mut self.there) {
            let Some(there) = there else { continue };
            close(writer, &there, self.grant.closes(&there.now), leases)?;
            let same_lease = there
                .stored
                .as_ref()
                .is_some_and(|stored| stored.lease == there.lease);
            if there.before.as_ref() == Some(&there.now) && same_lease {
                continue;
            }
            let new = NewValue {
                value: value(&there.now)?,
                lease: there.lease,
            };
            writer.put(&keys::attending(&self.role, &host), new, there.stored)?;
        }
        let Self {
            role,
            grant,
            before,
            stored,
            ..
        } = self;
        if unused {
            // A lock leaves nothing behind: epochs are revisions, so none comes again.
            writer.delete_if_there(&keys::role(&role))?;
            writer.delete_if_there(&keys::grant(&role))?;
        } else if grant != before {
            let new = NewValue {
                value: value(&grant)?,
                lease: 0,
            };
            writer.put(&keys::grant(&role), new, stored)?;
        }
        Ok(grant)
    }

    /// A lock has nothing to prepare: who is given it holds it.
    fn hold_lock(&mut self, view: &dyn View) -> io::Result<()> {
        let (epoch, holder) = (self.grant.epoch, self.grant.holder.clone());
        if let Some(holder) = holder
            && self.there(view, &holder)?.is_some()
        {
            // It has just been given to this very client.
            drop(self.starts(&holder, epoch, DataAt::default()));
        }
        Ok(())
    }
}

/// Which colos the group may give a role to, and which it gives it to rather.
struct Colos {
    /// That of the role which this one follows.
    bound: Option<Name>,
    /// That of the last who began.
    near: Option<Name>,
}

impl Colos {
    fn of(turn: &Turn, view: &dyn View) -> io::Result<Self> {
        let bound = match &turn.spec.follows {
            Some(role) => {
                let grant = load::<Grant>(view, &keys::grant(role))?.unwrap_or_default();
                grant.and_then(|(grant, _)| grant.next.or(grant.holder))
            }
            None => None,
        };
        let last = turn.grant.starts.back().filter(|_| turn.spec.same_colo);
        let near = match last {
            Some(last) => load::<Host>(view, &keys::host(&last.host))?
                .unwrap_or_default()
                .map(|(host, _)| host.colo),
            None => None,
        };
        Ok(Self { bound, near })
    }

    fn may_hold(&self, there: &Attending) -> bool {
        self.bound.is_none() || self.bound == there.colo
    }

    fn is_far(&self, there: &Attending) -> bool {
        self.near.is_some() && self.near != there.colo
    }
}

/// Notes whether the lease of someone who is there is renewed.
fn close(
    writer: &mut RevisionWriter<'_, '_>,
    there: &There,
    closing: bool,
    leases: &mut Vec<LeaseChange>,
) -> io::Result<()> {
    let stored = tables::lease(there.lease);
    let Some(mut lease) = tables::get::<LeaseRecord>(writer.state, &stored)? else {
        return Ok(());
    };
    if lease.closing != closing {
        lease.closing = closing;
        writer.state.put(stored, lease.encode_to_vec());
        let id = there.lease;
        leases.push(LeaseChange::Closing { id, closing });
    }
    Ok(())
}

/// Who attends with lease `id`.
pub(crate) fn attending_by(
    view: &dyn View,
    id: i64,
    lease: &LeaseRecord,
) -> io::Result<Option<Attending>> {
    let (Ok(role), Ok(host)) = (lease.role.parse::<RoleName>(), lease.host.parse::<Name>()) else {
        return Ok(None);
    };
    let found = load::<Attending>(view, &keys::attending(&role, &host))?.unwrap_or_default();
    let found = found.filter(|(_, stored)| stored.lease == id);
    Ok(found.map(|(attending, _)| attending))
}
