//! The state machine as the group runs it, and who is told of what it did.
//!
//! Invariants
//! - watchers and the lease keeper hear of a change only after it is visible to readers.
//! - a proposal to end leases counts only in the term in which it was made. A leader that lost its
//!   place may have its proposal carried to the next one, which has given the leases their whole
//!   time again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cfgsvc_core::{Applied, LeaseChange, Machine, RevisionEvents};
use cfgsvc_proto::kv::Event;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{LeaseExpire, LeaseExpired, Reply};
use cluster::{App, AppEntry, View};
use cluster_core::store::Overlay;
use prost::Message;

use crate::lease::{Known, LeaseListener};
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
    keeper: Arc<dyn LeaseListener>,
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
    pub fn new(hub: Arc<Hub>, keeper: Arc<dyn LeaseListener>) -> Self {
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
        self.keeper.load(
            leases
                .into_iter()
                .map(|(id, lease)| Known {
                    id,
                    ttl: Duration::from_millis(cfgsvc_core::ttl_ms(&lease)),
                    closing: lease.closing,
                })
                .collect(),
        );
        self.hub.reset(machine.revision(), machine.floor());
        self.machine = Some(machine);
        Ok(())
    }

    fn apply(&mut self, state: &mut Overlay<'_>, entry: &AppEntry) -> io::Result<Bytes> {
        let machine = self
            .machine
            .as_mut()
            .ok_or_else(|| io::Error::other("an entry was applied before the state was loaded"))?;
        let before = machine.revision();
        let Applied {
            reply,
            events,
            leases,
        } = apply(machine, state, entry)?;
        let made = i64::try_from(events.len()).unwrap_or(i64::MAX);
        if machine.revision() != before + made {
            self.unpublished.commits.clear();
            // What is made in the same command comes after the jump, as at the end of a restore.
            self.unpublished.jumped_to = Some(machine.revision() - made);
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
        let floor = self
            .machine
            .as_ref()
            .map(Machine::floor)
            .unwrap_or_default();
        if let Some(revision) = jumped_to {
            self.hub.reset(revision, floor);
        }
        self.hub.publish(commits, floor.compacted);
        self.keeper.changed(&leases);
    }
}

/// Applies one entry of the group's log to the machine.
pub(crate) fn apply(
    machine: &mut Machine,
    state: &mut Overlay<'_>,
    entry: &AppEntry,
) -> io::Result<Applied> {
    if is_of_another_term(entry) {
        return Ok(Applied {
            reply: nothing_expired(machine.revision()),
            ..Applied::default()
        });
    }
    machine.apply(state, entry.command.clone())
}

/// Whether the entry ends leases; what does not decode is the machine's to refuse.
pub(crate) fn ends_leases(entry: &AppEntry) -> bool {
    expiry(entry).is_some()
}

/// Whether the entry ends leases on behalf of a leader of another term.
fn is_of_another_term(entry: &AppEntry) -> bool {
    expiry(entry).is_some_and(|expire| expire.term != entry.term)
}

fn expiry(entry: &AppEntry) -> Option<LeaseExpire> {
    let command = TermBound::decode(entry.command.clone()).ok();
    command.and_then(|command| command.lease_expire)
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

#[cfg(test)]
mod tests {
    use cfgsvc_proto::etcd::{LeaseGrantRequest, PutRequest};
    use cfgsvc_proto::state::Command;
    use cfgsvc_proto::state::command::Op;
    use cluster::StateEngine;
    use cluster_core::store::MemoryState;

    use super::*;
    use crate::lease::keeper::Keeper;

    struct World {
        state: MemoryState,
        app: ServiceApp,
        hub: Arc<Hub>,
        keeper: Arc<Keeper>,
        index: u64,
    }

    impl World {
        fn new() -> Self {
            let (hub, keeper) = (Arc::new(Hub::default()), Arc::new(Keeper::default()));
            let mut app = ServiceApp::new(Arc::clone(&hub), keeper.clone());
            let state = MemoryState::default();
            state
                .read(&mut |view| app.load(view))
                .expect("an empty state loads");
            Self {
                state,
                app,
                hub,
                keeper,
                index: 0,
            }
        }

        /// Applies in `term` and commits; publishing is left to the test.
        fn apply(&mut self, term: u64, op: Op) -> Outcome {
            self.index += 1;
            let command = Command {
                op: Some(op),
                ..Command::default()
            }
            .encode_to_vec()
            .into();
            let base = self.state.entries();
            let mut overlay = Overlay::new(&base);
            let entry = AppEntry {
                index: self.index,
                term,
                command,
            };
            let reply = self
                .app
                .apply(&mut overlay, &entry)
                .expect("memory does not fail");
            self.state
                .commit(overlay.into_batch())
                .expect("memory does not fail");
            Reply::decode(reply)
                .expect("own reply")
                .result
                .expect("a result")
        }
    }

    fn grant() -> Op {
        Op::LeaseGrant(LeaseGrantRequest { ttl: 5, id: 9 })
    }

    fn expire(term: u64) -> Op {
        Op::LeaseExpire(LeaseExpire { ids: vec![9], term })
    }

    fn put() -> Op {
        let request = PutRequest {
            key: "k".into(),
            lease: 9,
            ..PutRequest::default()
        };
        Op::Put(request)
    }

    #[test]
    fn end_of_a_lease_counts_only_in_the_term_of_its_proposer() {
        let mut world = World::new();
        world.apply(1, grant());
        let late = world.apply(2, expire(1));
        assert_eq!(late, Outcome::LeaseExpire(LeaseExpired::default()));
        let right = world.apply(2, expire(2));
        assert_eq!(right, Outcome::LeaseExpire(LeaseExpired { ids: vec![9] }));
    }

    #[test]
    fn nobody_hears_of_a_change_before_it_is_published() {
        let mut world = World::new();
        world.apply(1, grant());
        world.apply(1, put());
        assert_eq!((world.hub.published(), world.keeper.count()), (1, 0));
        world.app.published(2);
        assert_eq!((world.hub.published(), world.keeper.count()), (2, 1));
        world.apply(1, expire(1));
        world.app.published(3);
        assert_eq!((world.hub.published(), world.keeper.count()), (3, 0));
    }

    #[test]
    fn loading_again_forgets_what_was_not_published() {
        let mut world = World::new();
        world.apply(1, grant());
        world.apply(1, put());
        let World { state, app, .. } = &mut world;
        state.read(&mut |view| app.load(view)).expect("it loads");
        assert_eq!((world.hub.published(), world.keeper.count()), (2, 1));
        world.app.published(2);
        assert_eq!(world.hub.published(), 2);
    }
}
