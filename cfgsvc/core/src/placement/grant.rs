//! Who holds a role: the transitions, as pure functions.
//!
//! ```text
//!               settle            start               yield, lease over
//!   no holder ─────────► granted ───────► serving ──────────────────────┐
//!       ▲                   ▲                │ move: they must stop     │
//!       │                   │ settle         ▼                          │
//!       └── vacated ────────┴──────── nobody serves ◄───────────────────┘
//! ```
//!
//! Why nothing can be granted too early: [`Grant::settle`] alone gives a role to somebody, and it
//! does nothing while anybody is counted in `serving`. A host is counted there from the commit of
//! its start until the commit that says it has stopped, or that its lease is over.
//!
//! Invariants
//! - `epoch` only grows: it is the revision of the commit that granted.
//! - a host or client begins an epoch once: who comes again, though it be of the same name, gets a
//!   new one, so that what the former still writes is told from it, and its start is known.
//! - the position from which an epoch begins is in `starts` before its holder may serve.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::name::Name;
use super::objects::{Data, Failover, Kind, Spec};

/// Epochs whose start is kept. A host that was away for more is told to rebuild.
pub const STARTS_MAX: usize = 64;

/// From where an epoch began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The epoch.
    pub epoch: i64,
    /// The host that began it.
    pub host: Name,
    /// Its last durable position then.
    pub position: String,
}

/// Who holds a role, as the group says it; only the state machine writes it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact by itself, and they are stored by name"
)]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Revision of the commit that gave the role to the holder.
    pub epoch: i64,
    /// The host, colo or client that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Name>,
    /// How many hosts may be serving.
    pub serving: u32,
    /// Who gets it when nobody serves any more; set by a move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Name>,
    /// A move to nobody: the holder gives it up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub vacate: bool,
    /// Last position of a holder that gave it up in order: the next one must have as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// A person gave up what the last holder wrote: where it stops, and whether the next one has
    /// it, is of no importance until that one begins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loses: bool,
    /// What the data is of: the first holder's identity of it. Another is not the same data.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// From where the last epochs began, oldest first; for a role with data.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub starts: VecDeque<Start>,
    /// The epoch, or the one before, is known to have data: an empty store lacks that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub written: bool,
    /// Hosts without which the holder acknowledges no write, by its own word; each with the life
    /// that its store had then. For a role with `sync`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub synced: BTreeMap<Name, String>,
    /// Where the data of the last who began was, when it told so last; for a role with `max_lag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<String>,
    /// Revision of the commit at which the holder of a role with `max_lag` was lost, without a word
    /// on where its data ends; 0 when it was not, or another has begun since. Where the data of the
    /// others ended before that does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: i64,
    /// It came from a snapshot, which may lack later epochs: this one is not gone on with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// Starts of older epochs were dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trimmed: bool,
}

/// A host or client that is there for a role: its lease lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attending {
    /// The colo it is in; none for a client of a lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colo: Option<Name>,
    /// Random name of the agent's state directory.
    pub instance: String,
    /// The boot of its machine.
    pub boot: String,
    /// The last epoch it knew when it came; its own when it began one since.
    pub epoch: i64,
    /// It has data of the role.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_data: bool,
    /// What that data is of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// Its last durable position at that epoch.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub position: String,
    /// Changes when its store was opened anew; empty when that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub life: String,
    /// Revision of the commit at which it came with this life.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: i64,
    /// Revision of the commit at which it said where its data ends; of a role with `max_lag`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub said: i64,
    /// It cannot take the role now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub declines: bool,
    /// Its last step, by its own count: one that arrives later and is earlier is not taken.
    #[serde(default)]
    pub attempt: u64,
    /// How often it was given the role and came again without having begun: it may not hear what
    /// the group answers, so those who did so less often go before it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries: u32,
    /// The epoch in which it may be serving; 0 when it is not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub serving: i64,
    /// What it says of itself: a leader's value in an election.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

/// Who may take a role now.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact by itself, and the choice turns on each"
)]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taker {
    /// [`Attending::tries`].
    pub tries: u32,
    /// By the name that this kind of role is held by.
    pub name: Name,
    /// The group would choose it by itself.
    pub by_itself: bool,
    /// Nothing that was written is known to be missing there.
    pub complete: bool,
    /// It has what the role's policy asks for, after a holder that was lost ([`in_reach`]).
    pub reaches: bool,
    /// It could be given the role, and where its data ends is not known since the holder was lost.
    pub awaited: bool,
}

impl Attending {
    /// The name that a grant of this kind of role has for it.
    pub fn holds_as<'a>(&'a self, kind: Kind, host: &'a Name) -> Option<&'a Name> {
        match kind {
            Kind::Host | Kind::Lock => Some(host),
            Kind::Colo => self.colo.as_ref(),
        }
    }
}

/// What a host's data is of, and where it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataAt<'a> {
    /// Empty: as it said when it came.
    pub identity: &'a str,
    /// Empty for a role without data.
    pub position: &'a str,
    /// Changes when the store is opened anew; empty when that is not known.
    pub life: &'a str,
}

/// Why a step is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The role was not granted so: epoch and holder as they are.
    NotHolder,
    /// The holder is asked to stop.
    Closing,
    /// The epoch was begun before, and is over.
    Begun,
    /// Its position is before where the last holder stopped.
    Behind {
        /// Where that was.
        left: String,
    },
    /// It is no position for this kind of data.
    NotAPosition,
    /// The data is of something else.
    OtherData {
        /// What the role's is of.
        expected: String,
        /// What its own is of.
        found: String,
    },
    /// Its store is empty, and others began before.
    Empty,
    /// Its store was opened anew since it came.
    Reopened,
    /// It was given the role, and is not in reach of the last who began any more.
    OutOfReach,
}

impl Grant {
    /// Whether `epoch` is one that somebody may write under: the newest, of a holder who is not
    /// asked to stop; and not one of a snapshot, which may lack later ones.
    pub fn is_current(&self, epoch: i64) -> bool {
        let held = self.holder.is_some() && !self.restored && !self.closing();
        held && self.epoch == epoch
    }

    /// Whether those who serve are asked to stop.
    pub fn closing(&self) -> bool {
        self.next.is_some() || self.vacate
    }

    /// Whether the lease of one that attends is not to be renewed: it serves and must stop, or must
    /// say anew where its data ends.
    pub fn closes(&self, attending: &Attending) -> bool {
        if attending.serving != 0 {
            return self.closing();
        }
        self.says_anew(attending)
    }

    /// Whether where its data ends counts no more: it said so before the holder was lost.
    pub fn says_anew(&self, attending: &Attending) -> bool {
        self.serving == 0 && attending.said < self.lost
    }

    /// Takes note of where the data of an epoch was, as somebody says who has been in it.
    pub fn sees(&mut self, spec: &Spec, (epoch, data): (i64, DataAt<'_>)) {
        if epoch == self.epoch && data.identity == self.identity {
            self.written |= spec.data.is_some(data.position);
        }
    }

    /// `host` begins epoch `epoch` with the data that it says; from here on it may serve. `true`
    /// when that is new.
    pub fn start(
        &mut self,
        spec: &Spec,
        (host, attending): (&Name, &mut Attending),
        (epoch, data): (i64, DataAt<'_>),
    ) -> Result<bool, Wrong> {
        let position = data.position;
        let holds = attending.holds_as(spec.kind, host);
        if self.restored || epoch != self.epoch || holds.is_none() || holds != self.holder.as_ref()
        {
            return Err(Wrong::NotHolder);
        }
        if self.closing() {
            return Err(Wrong::Closing);
        }
        if attending.serving == epoch {
            return Ok(false);
        }
        if spec.kind == Kind::Host && self.is_begun() {
            // And over: when it comes with what it has now, it gets another.
            return Err(Wrong::Begun);
        }
        // It may have come again, with a store that was opened anew, since it was given the role.
        if !self.loses && !in_reach(spec, self, host, attending) {
            return Err(Wrong::OutOfReach);
        }
        let identity = self.fits(spec, attending, data)?;
        self.left = None;
        self.loses = false;
        self.written = spec.data.is_some(position);
        self.synced.clear();
        self.lost = 0;
        self.reached = spec.max_lag.map(|_| position.to_owned());
        self.identity.clone_from(&identity);
        attending.identity = identity;
        attending.serving = epoch;
        attending.declines = false;
        attending.tries = 0;
        attending.epoch = epoch;
        attending.has_data = spec.data != Data::None;
        position.clone_into(&mut attending.position);
        self.serving += 1;
        if spec.kind == Kind::Host {
            if self.starts.len() == STARTS_MAX {
                self.starts.pop_front();
                self.trimmed = true;
            }
            self.starts.push_back(Start {
                epoch,
                host: host.clone(),
                position: position.to_owned(),
            });
        }
        Ok(true)
    }

    /// What the data of one that would begin is of; or why it is not what the role has.
    fn fits(&self, spec: &Spec, attending: &Attending, data: DataAt<'_>) -> Result<String, Wrong> {
        let position = data.position;
        if spec.data != Data::None && attending.life != data.life {
            return Err(Wrong::Reopened);
        }
        if !spec.data.is_position(position) {
            return Err(Wrong::NotAPosition);
        }
        let identity = match (spec.data, data.identity) {
            // Whatever is said of data where none is kept: it must not shut others out.
            (Data::None, _) => "",
            (_, "") => attending.identity.as_str(),
            (_, said) => said,
        }
        .to_owned();
        if !self.identity.is_empty() && self.identity != identity {
            return Err(Wrong::OtherData {
                expected: self.identity.clone(),
                found: identity,
            });
        }
        if let Some(left) = &self.left
            && spec.data.covers(position, left) != Some(true)
        {
            let left = left.clone();
            return Err(Wrong::Behind { left });
        }
        if self.written && !self.loses && !spec.data.is_some(position) {
            return Err(Wrong::Empty);
        }
        Ok(identity)
    }

    /// `host` has stopped, and says where its data ends: whoever is next must have as much, and as
    /// much as the epoch began with.
    pub fn leaves(&mut self, spec: &Spec, position: String) {
        self.written = spec.data.is_some(&position);
        let began = self.starts.back().filter(|last| last.epoch == self.epoch);
        let less = began.filter(|last| spec.data.covers(&position, &last.position) != Some(true));
        self.left = Some(less.map_or(position, |last| last.position.clone()));
    }

    /// Whether a host has begun the epoch.
    fn is_begun(&self) -> bool {
        let last = self.starts.back();
        last.is_some_and(|last| last.epoch == self.epoch)
    }

    /// `attending` serves no more: it has stopped, or its lease is over.
    pub fn stopped(&mut self, attending: &mut Attending) {
        if attending.serving != 0 {
            attending.serving = 0;
            self.serving = self.serving.saturating_sub(1);
        }
    }

    /// A person, or a policy, wants `to` to hold the role; `None` that nobody does. `loses`: the
    /// next holder may lack what the last one wrote, or will have written.
    pub fn wish(&mut self, to: Option<Name>, loses: bool) {
        self.vacate = to.is_none() && self.holder.is_some();
        let begins = self.serving == 0 && to.is_some();
        self.next = to.filter(|to| self.restored || self.holder.as_ref() != Some(to));
        self.loses = loses && (self.closing() || begins);
        if loses {
            self.left = None;
        }
    }

    /// What its holder says while it serves: who is in sync, with the life of each store, and where
    /// its own data is.
    pub fn tells(&mut self, spec: &Spec, synced: BTreeMap<Name, String>, position: &str) {
        if spec.sync {
            self.synced = synced;
        }
        if spec.max_lag.is_some() && !position.is_empty() {
            self.reached = Some(position.to_owned());
        }
        self.written |= !position.is_empty() && spec.data.is_some(position);
    }

    /// Whether its holder is to say while it serves where its data is: others may lack so much and
    /// no more; or the epoch began with nothing, and whoever has nothing could follow.
    pub fn asks_position(&self, spec: &Spec) -> bool {
        let kept = spec.kind == Kind::Host && spec.data != Data::None;
        kept && (spec.max_lag.is_some() || !self.written)
    }

    /// `host` comes, with a store of this life. What one that was opened anew had received and not
    /// written may be gone: it is in sync no more.
    pub fn comes(&mut self, host: &Name, life: &str) {
        let same = |was: &String| !life.is_empty() && was == life;
        if self.synced.get(host).is_some_and(|was| !same(was)) {
            self.synced.remove(host);
        }
    }

    /// Gives the role to whom it is due, if nobody serves. `available` says who may take it now,
    /// the best first; a holder that could go on is among them. `revision` is that of this commit.
    pub fn settle(&mut self, spec: &Spec, available: &[Taker], revision: i64) {
        if self.serving > 0 {
            return;
        }
        let mut vacated = std::mem::take(&mut self.vacate);
        let next = self.next.take();
        let meant = next.clone().or_else(|| self.holder.clone());
        let by_itself = spec.failover == Failover::Auto && !spec.paused;
        if vacated && (spec.kind == Kind::Lock || by_itself) {
            // Whoever attends a lock waits for it: it is the turn of the first of them. And a role
            // that was resumed meanwhile is the group's to give again.
            vacated = false;
            self.holder = None;
        }
        let fits = |one: &&Taker| one.reaches || self.loses;
        let is_there = |name: &Name| available.iter().filter(fits).any(|one| one.name == *name);
        // It is there, and has what it wrote, or a person gave that up.
        let holder = self.holder.as_ref().and_then(|holder| {
            let fit =
                |one: &&Taker| one.name == *holder && (one.complete && one.reaches || self.loses);
            available.iter().find(fit)
        });
        let stays = match (&self.holder, spec.kind) {
            (None, _) => false,
            // Whether a colo is lost is not told by who attends: all its agents may start again.
            (Some(_), Kind::Colo) => true,
            // It has not come in vain before.
            (Some(_), Kind::Host | Kind::Lock) => holder.is_some_and(|one| one.tries == 0),
        };
        let can_take = |next: &Name| spec.kind == Kind::Colo || is_there(next);
        let successor = match next.filter(can_take) {
            Some(next) => Some(next),
            None if vacated => None,
            // Others may have written in epochs that the snapshot lacks: a person decides.
            None if self.restored && spec.data != Data::None => return,
            None if stays => self.holder.clone(),
            // One of them may have more than the others.
            None if available.iter().any(|one| one.awaited) => None,
            // Also when the one that was wished for went away.
            None if by_itself => {
                let best = available.iter().find(|one| one.by_itself && one.reaches);
                best.or(holder).map(|one| one.name.clone())
            }
            // Who has tried is better than nobody.
            None => holder.map(|one| one.name.clone()),
        };
        self.loses &= successor.is_none() || successor == meant;
        let begun = match spec.kind {
            Kind::Host => self.is_begun(),
            // It is begun by being given.
            Kind::Lock => true,
            Kind::Colo => false,
        };
        match successor {
            // Nobody began it since: it is still to be begun.
            Some(successor)
                if !self.restored && !begun && self.holder.as_ref() == Some(&successor) => {}
            Some(successor) => {
                self.holder = Some(successor);
                self.epoch = revision;
                self.restored = false;
            }
            None if vacated || spec.kind == Kind::Lock => self.holder = None,
            // The holder may come back to it: nobody has held it since.
            None => {}
        }
    }
}

/// Whether one that attends has as much as the role's policy asks of whoever follows a holder that
/// was lost: it is in sync, or lacks no more than it may.
pub fn in_reach(spec: &Spec, grant: &Grant, host: &Name, attending: &Attending) -> bool {
    if !spec.sync && spec.max_lag.is_none() {
        return true;
    }
    // Nobody has written; the one who wrote itself; or the last one has said where its data ends,
    // and no epoch begins before that.
    let own = grant.starts.back().is_none_or(|last| last.host == *host);
    if own || grant.left.is_some() {
        return true;
    }
    let synced = spec.sync && grant.synced.contains_key(host);
    let near = spec.max_lag.is_some_and(|max| {
        let reached = grant.reached.as_ref();
        let lag = reached.and_then(|reached| spec.data.lag(reached, &attending.position));
        lag.is_some_and(|lag| lag <= max)
    });
    synced || near
}
