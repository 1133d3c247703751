//! The state machine as the group runs it, and who is told of what it did.
//!
//! Invariants
//! - watchers and the lease keeper hear of a change only after it is visible to readers.
//! - a proposal to end leases counts only in the term in which it was made. A leader that lost its
//!   place may have its proposal carried to the next one, which has given the leases their whole
//!   time again.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cfgsvc_core::{Applied, LeaseChange, Machine, RevisionEvents};
use cfgsvc_proto::kv::Event;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{LeaseExpire, LeaseExpired, Reply};
use cluster::{App, AppEntry, View};
use cluster_core::store::Overlay;
use prost::Message;

use crate::lease::keeper::Keeper;
use crate::watch::commit::Commit;
use crate::watch::hub::Hub;

/// [`cfgsvc_proto::state::Command`] with the one operation that depends on the term; decoding it
/// skips all else without a copy.
#[derive(Clone, PartialEq, Message)]
struct TermBound {
    #[prost(message, optional, tag = "16")]
    lease_expire: Option<LeaseExpire>,
}

/// [`Machine`] as [`App`].
pub struct ServiceApp {
    machine: Option<Machine>,
    hub: Arc<Hub>,
    keeper: Arc<Keeper>,
    unpublished: Unpublished,
}

/// What was applied and is not visible yet.
#[derive(Default)]
struct Unpublished {
    /// Everything before this revision came at once, without events: a restore ended.
    jumped_to: Option<i64>,
    commits: Vec<Arc<Commit>>,
    leases: Vec<LeaseChange>,
}

impl ServiceApp {
    /// Tells `hub` and `keeper` of what is applied.
    pub fn new(hub: Arc<Hub>, keeper: Arc<Keeper>) -> Self {
        Self {
            machine: None,
            hub,
            keeper,
            unpublished: Unpublished::default(),
        }
    }
}

impl App for ServiceApp {
    fn load(&mut self, view: &dyn View) -> io::Result<()> {
        let machine = Machine::load(view)?;
        let leases = cfgsvc_core::read::leases(view)?;
        self.unpublished = Unpublished::default();
        self.keeper
            .load(leases.into_iter().map(|(id, lease)| (id, lease.ttl_s)));
        self.hub
            .reset(machine.revision(), machine.compacted_revision());
        self.machine = Some(machine);
        Ok(())
    }

    fn apply(&mut self, state: &mut Overlay<'_>, entry: &AppEntry) -> io::Result<Bytes> {
        let machine = self
            .machine
            .as_mut()
            .ok_or_else(|| io::Error::other("an entry was applied before the state was loaded"))?;
        if is_of_another_term(entry) {
            return Ok(nothing_expired(machine.revision()));
        }
        let before = machine.revision();
        let Applied {
            reply,
            events,
            leases,
        } = machine.apply(state, entry.command.clone())?;
        let made = i64::try_from(events.len()).unwrap_or(i64::MAX);
        if machine.revision() != before + made {
            self.unpublished.commits.clear();
            self.unpublished.jumped_to = Some(machine.revision());
        }
        self.unpublished
            .commits
            .extend(events.into_iter().map(commit));
        self.unpublished.leases.extend(leases);
        Ok(reply)
    }

    fn published(&mut self, _index: u64) {
        let Unpublished {
            jumped_to,
            commits,
            leases,
        } = std::mem::take(&mut self.unpublished);
        let compacted = self.machine.as_ref().map_or(0, Machine::compacted_revision);
        if let Some(revision) = jumped_to {
            self.hub.reset(revision, compacted);
        }
        self.hub.publish(commits, compacted);
        self.keeper.changed(&leases);
    }
}

/// Whether the entry ends leases on behalf of a leader of another term.
fn is_of_another_term(entry: &AppEntry) -> bool {
    // What does not decode is the machine's to refuse.
    TermBound::decode(entry.command.clone())
        .ok()
        .and_then(|command| command.lease_expire)
        .is_some_and(|expire| expire.term != entry.term)
}

fn nothing_expired(revision: i64) -> Bytes {
    let result = Some(Outcome::LeaseExpire(LeaseExpired::default()));
    Reply { revision, result }.encode_to_vec().into()
}

/// The events of one revision as watchers get them.
pub fn commit(revision: RevisionEvents) -> Arc<Commit> {
    let events = revision
        .events
        .into_iter()
        .map(|changed| Event {
            prev_kv: changed.previous,
            ..changed.event
        })
        .collect();
    Arc::new(Commit::new(revision.revision, events))
}
