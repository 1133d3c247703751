//! A group of one that applies at once, with switches for what a real one can do to a service.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cluster::{
    App, AppEntry, CallError, Group, LeaderService, Member, MembershipError, NewMember,
    ProposeError, ReadError, Role, StateEngine, Status,
};
use cluster_core::store::{MemoryState, Overlay, ReadFn};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending, ready};
use tokio::sync::watch;

/// Id of the only member.
pub(crate) const NODE_ID: u64 = 7;
/// Id of the group.
pub(crate) const CLUSTER_ID: u64 = 77;

/// What to refuse.
#[derive(Default)]
struct Faults {
    propose: Option<ProposeError>,
    read: Option<ReadError>,
    /// The proposal after so many others gets no answer.
    stall_after: Option<usize>,
}

/// A group of one.
pub(crate) struct Solo {
    state: MemoryState,
    app: Mutex<(Box<dyn App>, u64)>,
    leader_service: Arc<dyn LeaderService>,
    status: watch::Sender<Arc<Status>>,
    faults: Mutex<Faults>,
}

impl Solo {
    /// Loads `app` from an empty state and leads in term 3.
    pub(crate) fn start(mut app: impl App, leader_service: Arc<dyn LeaderService>) -> Arc<Self> {
        let state = MemoryState::default();
        state
            .read(&mut |view| app.load(view))
            .expect("an empty state loads");
        let member = Member {
            id: NODE_ID,
            name: "solo".to_owned(),
            colo: "here".to_owned(),
            peer_address: "127.0.0.1:1".to_owned(),
            client_addresses: vec!["127.0.0.1:2".to_owned()],
            incarnation: "first".to_owned(),
            voter: true,
            keep_learner: false,
            matched: Some(1),
            last_contact_ms: Some(0),
        };
        let status = Status {
            cluster_id: CLUSTER_ID,
            node_id: NODE_ID,
            term: 3,
            role: Role::Leader,
            leader: Some(NODE_ID),
            last_index: 1,
            committed_index: 1,
            applied_index: 1,
            members: vec![member],
            no_space: false,
            fault: None,
        };
        Arc::new(Self {
            state,
            app: Mutex::new((Box::new(app), 1)),
            leader_service,
            status: watch::Sender::new(Arc::new(status)),
            faults: Mutex::default(),
        })
    }

    /// Changes what the member says of itself.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Status)) {
        self.status
            .send_modify(|status| change(Arc::make_mut(status)));
    }

    /// Fails proposals from now on, or no more.
    pub(crate) fn fail_proposals(&self, error: Option<ProposeError>) {
        self.faults().propose = error;
    }

    /// Fails barriers and confirmations from now on, or no more.
    pub(crate) fn fail_reads(&self, error: Option<ReadError>) {
        self.faults().read = error;
    }

    /// The proposal after `others` gets no answer.
    pub(crate) fn stall_proposal_after(&self, others: usize) {
        self.faults().stall_after = Some(others);
    }

    /// Whether that proposal is still to come.
    pub(crate) fn will_stall(&self) -> bool {
        self.faults().stall_after.is_some()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let fault = self.faults().propose.clone();
        if let Some(error) = fault {
            return Err(error);
        }
        let mut app = self.app.lock().unwrap_or_else(PoisonError::into_inner);
        let (app, index) = &mut *app;
        *index += 1;
        let entry = AppEntry {
            index: *index,
            term: self.status.borrow().term,
            command,
        };
        let base = self.state.entries();
        let mut overlay = Overlay::new(&base);
        let reply = app
            .apply(&mut overlay, &entry)
            .expect("memory does not fail");
        self.state
            .commit(overlay.into_batch())
            .expect("memory does not fail");
        app.published(*index);
        let index = *index;
        self.set(|status| {
            status.last_index = index;
            status.committed_index = index;
            status.applied_index = index;
        });
        Ok(reply)
    }

    fn confirmed(&self) -> Result<u64, ReadError> {
        match &self.faults().read {
            Some(error) => Err(error.clone()),
            None => Ok(self.status.borrow().term),
        }
    }
}

impl Group for Solo {
    fn propose(&self, command: Bytes) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
        let mut faults = self.faults();
        let Some(others) = faults.stall_after.take() else {
            return async move { self.apply(command) }.boxed();
        };
        let Some(others) = others.checked_sub(1) else {
            return pending().boxed();
        };
        faults.stall_after = Some(others);
        async move { self.apply(command) }.boxed()
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        ready(self.confirmed().map(drop)).boxed()
    }

    fn read(&self, read: &mut ReadFn<'_>) -> io::Result<()> {
        self.state.read(read)
    }

    fn confirm_leadership(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        ready(self.confirmed()).boxed()
    }

    fn call_leader(&self, request: Bytes) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let status = Arc::clone(&self.status.borrow());
        match status.leader {
            None => ready(Err(CallError::NoLeader)).boxed(),
            Some(_) => self.leader_service.call(status.term, request),
        }
    }

    fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    fn member_add(&self, member: NewMember) -> BoxFuture<'_, Result<Member, MembershipError>> {
        let known = Arc::clone(&self.status.borrow()).members.clone();
        let taken = known
            .iter()
            .find(|one| one.name == member.name || one.peer_address == member.peer_address);
        if let Some(taken) = taken {
            let error = MembershipError::Exists {
                name: taken.name.clone(),
                id: taken.id,
                peer_address: taken.peer_address.clone(),
            };
            return ready(Err(error)).boxed();
        }
        let added = Member {
            id: NODE_ID + known.len() as u64,
            name: member.name,
            colo: member.colo,
            peer_address: member.peer_address,
            client_addresses: member.client_addresses,
            incarnation: member.incarnation,
            voter: false,
            keep_learner: member.learner,
            matched: None,
            last_contact_ms: None,
        };
        self.set(|status| status.members.push(added.clone()));
        ready(Ok(added)).boxed()
    }

    fn member_join(&self, member: NewMember) -> BoxFuture<'_, Result<Member, MembershipError>> {
        self.member_add(member)
    }

    fn member_remove(&self, id: u64) -> BoxFuture<'_, Result<(), MembershipError>> {
        let known = self
            .status
            .borrow()
            .members
            .iter()
            .any(|member| member.id == id);
        let result = match known {
            false => Err(MembershipError::NotFound { id }),
            true if id == NODE_ID => Err(MembershipError::WouldLoseQuorum {
                id,
                live: 0,
                voters: 0,
                needed: 1,
            }),
            true => {
                self.set(|status| status.members.retain(|member| member.id != id));
                Ok(())
            }
        };
        ready(result).boxed()
    }

    fn member_promote(&self, id: u64) -> BoxFuture<'_, Result<(), MembershipError>> {
        let status = Arc::clone(&self.status.borrow());
        let result = match status.members.iter().find(|member| member.id == id) {
            None => Err(MembershipError::NotFound { id }),
            Some(member) if member.voter => Err(MembershipError::NotLearner { id }),
            Some(_) => Err(MembershipError::NotCaughtUp {
                id,
                matched: 0,
                last: 9,
            }),
        };
        ready(result).boxed()
    }

    fn transfer_leader(&self, target: u64) -> BoxFuture<'_, Result<(), MembershipError>> {
        let known = self
            .status
            .borrow()
            .members
            .iter()
            .any(|member| member.id == target);
        let result = if known {
            Ok(())
        } else {
            Err(MembershipError::NotFound { id: target })
        };
        ready(result).boxed()
    }

    fn disk_bytes(&self) -> io::Result<u64> {
        self.state.size_bytes()
    }
}
