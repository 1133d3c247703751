//! One life of a member: Raft over the simulated disk and network, and what the server does around
//! it. The twin of `cluster::member` and `cluster::connections`, which are bound to sockets.
//!
//! Real here: openraft with the production settings, `LogStore`, `Machine`, `ServiceApp` with the
//! core's state machine, the watch hub, the lease book, the rules of membership and contact.

use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cfgsvc::app::ServiceApp;
use cfgsvc::clock::Moment;
use cfgsvc::lease::LeaseListener;
use cfgsvc::lease::book::LeaseBook;
use cfgsvc::watch::hub::Hub;
use cfgsvc_core::LeaseChange;
use cluster::convert::{read_refused, write_refused};
use cluster::log_store::{FlushQueue, LogStore, LogStoreOptions};
use cluster::machine::Machine;
use cluster::types::{Command, LogId, NodeInfo};
use cluster::{App, ProposeError, ReadError};
use cluster_core::contact::{Contacts, Question};
use cluster_core::log::{LogEngine as _, LogMeta, LogOp};
use cluster_core::membership::majority;
use futures_util::future::{Either, join_all, select};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{InitializeError, RaftError};
use openraft::{Config, Raft, RaftMetrics, ReadPolicy};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::agents::group::unnumbered;
use crate::defect::Defect;
use crate::disk::Stage;
use crate::host::Host;
use crate::membership::node;
use crate::network::{self, CallError, From};
use crate::observe::Recorder;
use crate::peer::Network;
use crate::runtime::{Life, local_time, lock, sleep, timeout};
use crate::state::SimStore;
use crate::types::{RaftHandle, SimTypes};
use crate::world::World;

/// A connection that closes may be remade at once; this long is waited for that.
const SETTLE: Duration = Duration::from_millis(20);
/// Members ask one after the other, this far apart.
const APART: Duration = Duration::from_millis(40);
/// An answer takes this long at most.
const ASK_TIMEOUT: Duration = Duration::from_millis(200);
/// How long to wait for news of a leader before asking again.
const LEADER_POLL: Duration = Duration::from_millis(20);
/// A request without an answer by then fails.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

type Waiting = oneshot::Sender<Result<(), ReadError>>;

/// A handle on a running member; clones share it.
#[derive(Clone)]
pub struct Member {
    inner: Arc<Inner>,
}

struct Inner {
    world: Arc<World>,
    host: Arc<Host>,
    life: Arc<Life>,
    from: From,
    raft: RaftHandle,
    log: LogStore,
    store: SimStore,
    hub: Arc<Hub>,
    book: Arc<Book>,
    barrier: mpsc::Sender<Waiting>,
    contacts: Mutex<Contacts>,
    closed: Notify,
    connections: AtomicU64,
    pub(crate) membership_change: tokio::sync::Mutex<()>,
}

/// The lease book with the member's clock.
pub struct Book {
    /// The real book.
    pub book: Mutex<LeaseBook>,
    /// The next deadline may have changed.
    pub recount: Notify,
}

/// Now, by the clock of the member whose task runs.
pub fn moment() -> Moment {
    Moment::since_boot(local_time())
}

impl LeaseListener for Book {
    fn load(&self, leases: Vec<cfgsvc::lease::Known>) {
        lock(&self.book).load(leases);
        self.recount.notify_one();
    }

    fn changed(&self, changes: &[LeaseChange]) {
        let mut book = lock(&self.book);
        for change in changes {
            match *change {
                LeaseChange::Granted { id, ttl_ms } => {
                    book.granted(moment(), id, Duration::from_millis(ttl_ms));
                }
                LeaseChange::Closing { id, closing } => book.closing(id, closing),
                LeaseChange::Ended { id } => book.gone(id),
            }
        }
        drop(book);
        self.recount.notify_one();
    }
}

/// A connection of another member to this one, while it is open.
pub struct Connection {
    member: Member,
    number: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let inner = &self.member.inner;
        if lock(&inner.contacts).closed(self.number).is_some() {
            inner.closed.notify_one();
        }
    }
}

fn place(log_id: Option<LogId>) -> (u64, u64) {
    log_id.map_or((0, 0), |id| (id.committed_leader_id().term, id.index()))
}

/// Runs the writes of a log over its disk, with everything that can go wrong.
async fn run_flush(world: Arc<World>, host: Arc<Host>, mut queue: FlushQueue) {
    while let Some(ops) = queue.next().await {
        let plan = host.next_write(&world);
        host.pass(&world, Stage::Queued).await;
        sleep(plan.write).await;
        if let Some(why) = plan.failure {
            queue.finish(Err(io::Error::other(why)));
            continue;
        }
        world.check(|checks| checks.log_written(host.id, &ops));
        let stored = if world.plan.defect == Some(Defect::VoteNotPersisted) {
            let is_vote = |op: &LogOp| {
                matches!(
                    op,
                    LogOp::SetMeta {
                        meta: LogMeta::Vote,
                        ..
                    }
                )
            };
            ops.iter().filter(|op| !is_vote(op)).cloned().collect()
        } else {
            ops.clone()
        };
        host.disk.write(stored);
        host.pass(&world, Stage::Written).await;
        let early = world.plan.defect == Some(Defect::AckBeforeSync);
        if early {
            let shown = host.disk.show();
            queue.finish(shown);
        }
        host.pass(&world, Stage::Syncing).await;
        sleep(plan.sync).await;
        if let Err(error) = host.disk.sync() {
            queue.finish(Err(error));
            continue;
        }
        host.pass(&world, Stage::Synced).await;
        if !early {
            world.check(|checks| checks.log_acknowledged(host.id, &ops));
            queue.finish(Ok(()));
        }
    }
}

/// Gives Raft of a founder its first membership, at every start until it took.
async fn found(world: &World, id: u64, raft: &RaftHandle) -> Result<(), String> {
    let founders = world.founders();
    if !founders.contains(&id) {
        return Ok(());
    }
    let nodes: BTreeMap<u64, NodeInfo> = founders.map(|id| (id, node(id, false))).collect();
    match raft.initialize(nodes).await {
        // Not allowed: another founder's messages were here first.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

impl Member {
    /// Starts a member on what its disks hold.
    pub async fn start(
        world: Arc<World>,
        host: Arc<Host>,
        life: Arc<Life>,
        config: Arc<Config>,
    ) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let vote = host.disk.meta(LogMeta::Vote).map_err(text)?;
        world.check(|checks| checks.started(host.id, vote.as_ref()));
        let options = LogStoreOptions {
            tail_bytes: world.plan.tail_bytes,
            read_bytes: world.plan.read_bytes,
        };
        let (log, queue) = LogStore::open_driven(host.disk.clone(), options).map_err(text)?;
        life.spawn(run_flush(world.clone(), host.clone(), queue));
        let store = SimStore(host.state.clone());
        let hub = Arc::new(Hub::default());
        let book = Arc::new(Book {
            book: Mutex::default(),
            recount: Notify::new(),
        });
        let app = ServiceApp::new(hub.clone(), book.clone());
        let app: Box<dyn App> = Box::new(Recorder::new(world.clone(), host.id, hub.clone(), app));
        let state = Arc::new(store.clone());
        let machine = Machine::open(state, Some(log.clone()), app).map_err(text)?;
        let from = From {
            id: host.id,
            incarnation: host.incarnation(),
        };
        let network = Network::new(world.clone(), from.clone(), log.clone());
        let raft = Raft::new(host.id, config, network, log.clone(), machine)
            .await
            .map_err(|error| error.to_string())?;
        found(&world, host.id, &raft).await?;
        let (barrier, waiting) = mpsc::channel(1024);
        let member = Self {
            inner: Arc::new(Inner {
                world,
                host,
                life,
                from,
                raft,
                log,
                store,
                hub,
                book,
                barrier,
                contacts: Mutex::default(),
                closed: Notify::new(),
                connections: AtomicU64::new(0),
                membership_change: tokio::sync::Mutex::new(()),
            }),
        };
        let life = &member.inner.life;
        life.spawn(member.clone().run_barrier(waiting));
        life.spawn(member.clone().run_contact());
        life.spawn(crate::lease::follow_leadership(member.clone()));
        life.spawn(crate::lease::end_due(member.clone()));
        life.spawn(crate::membership::run_upkeep(member.clone()));
        life.spawn(crate::housekeeping::run(member.clone()));
        Ok(member)
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.inner.host.id
    }

    /// The world it is in.
    pub fn world(&self) -> &Arc<World> {
        &self.inner.world
    }

    /// Its life.
    pub fn life(&self) -> &Arc<Life> {
        &self.inner.life
    }

    /// openraft.
    pub fn raft(&self) -> &RaftHandle {
        &self.inner.raft
    }

    /// Its log.
    pub fn log(&self) -> &LogStore {
        &self.inner.log
    }

    /// Its state.
    pub fn store(&self) -> &SimStore {
        &self.inner.store
    }

    /// Its watch hub.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.inner.hub
    }

    /// Its lease book.
    pub fn book(&self) -> &Arc<Book> {
        &self.inner.book
    }

    /// Who it is when it calls.
    pub fn from(&self) -> &From {
        &self.inner.from
    }

    /// Held while it changes the membership.
    pub async fn membership_turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.membership_change.lock().await
    }

    /// The same, unless somebody else holds it.
    pub fn try_membership_turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.inner.membership_change.try_lock().ok()
    }

    /// What openraft says of itself.
    pub fn metrics(&self) -> RaftMetrics<SimTypes> {
        self.inner.raft.metrics().borrow_watched().clone()
    }

    /// Whether this member believes to lead.
    pub fn leads(&self) -> bool {
        self.leader() == Some(self.id())
    }

    /// The leader as far as this member knows.
    pub fn leader(&self) -> Option<u64> {
        self.inner.raft.metrics().borrow_watched().current_leader
    }

    /// The rule of `PeerServer::admit`: an id goes with one data directory.
    pub fn admit(&self, from: &From) -> Result<(), String> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let node = metrics.membership_config.get_node(&from.id);
        let known = node.map_or("", |node| node.incarnation.as_str());
        if from.id == 0 || known.is_empty() || known == from.incarnation {
            return Ok(());
        }
        self.inner
            .world
            .count("caller refused: another data directory");
        Err(format!(
            "member {} is known with another data directory",
            from.id
        ))
    }

    // === contact ===

    /// Takes note of a connection of `caller`.
    pub fn connected(&self, caller: u64) -> Connection {
        let number = self.inner.connections.fetch_add(1, Ordering::Relaxed);
        let mut contacts = lock(&self.inner.contacts);
        contacts.opened(number);
        contacts.called(number, caller);
        drop(contacts);
        Connection {
            member: self.clone(),
            number,
        }
    }

    /// Whether this member has no leader, or has lost all connections from it.
    pub fn without_leader(&self) -> bool {
        self.leader()
            .is_none_or(|leader| lock(&self.inner.contacts).lost(leader))
    }

    fn agrees(&self, question: Question) -> bool {
        let metrics = self.metrics();
        let (term, follows) = (metrics.current_term, metrics.current_leader);
        let contacts = lock(&self.inner.contacts);
        question.agreed(
            &contacts,
            term,
            follows,
            place(self.inner.log.last_log_id()),
        )
    }

    /// Stands for election when the leader is lost for a majority; see `cluster::connections`.
    async fn run_contact(self) {
        loop {
            self.inner.closed.notified().await;
            let metrics = self.metrics();
            let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
            let me = self.id();
            let known = metrics.current_leader;
            let Some(leader) = known.filter(|leader| *leader != me && voters.contains(&me)) else {
                continue;
            };
            let is_ahead = |id: &&u64| **id < me && **id != leader;
            let rank = u32::try_from(voters.iter().filter(is_ahead).count()).unwrap_or(u32::MAX);
            sleep(SETTLE + APART * rank).await;
            let question = Question {
                term: metrics.current_term,
                leader,
                asking: place(self.inner.log.last_log_id()),
            };
            if !self.agrees(question) {
                continue;
            }
            let others = voters.iter().filter(|id| **id != me && **id != leader);
            let asked = others.map(|id| {
                let ask = move |member: Self| async move { member.agrees(question) };
                let call = network::call(self.world(), self.from().clone(), *id, ask);
                timeout(ASK_TIMEOUT, call)
            });
            let answers = join_all(asked).await;
            let agreed = answers.into_iter().filter(|answer| *answer == Ok(Ok(true)));
            if 1 + agreed.count() >= majority(voters.len()) {
                self.world().count("election by closed connections");
                if self.inner.raft.trigger().elect(false).await.is_err() {
                    return;
                }
            }
        }
    }

    // === writes ===

    /// Proposes on this member, which must lead.
    pub async fn propose_here(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let command = match self.world().plan.defect {
            Some(Defect::StepsWithoutNumbers) => unnumbered(command),
            Some(_) | None => command,
        };
        let write = self.inner.raft.client_write(Command(command));
        match timeout(REQUEST_TIMEOUT, write).await {
            Err(_) => Err(ProposeError::Timeout { waited_ms: 0 }),
            Ok(Ok(response)) => Ok(response.data.0),
            Ok(Err(error)) => Err(write_refused(error)),
        }
    }

    async fn propose_once(&self, command: Bytes, left: Duration) -> Result<Bytes, ProposeError> {
        if self.leads() {
            return self.propose_here(command).await;
        }
        let Some(to) = self.leader() else {
            return Err(ProposeError::NoLeader);
        };
        let handler = move |member: Self| {
            let command = command.clone();
            async move { member.propose_here(command).await }
        };
        let call = network::call(self.world(), self.from().clone(), to, handler);
        match timeout(left, call).await {
            Err(_) => Err(ProposeError::Timeout { waited_ms: 0 }),
            Ok(Err(CallError::Refused(_))) => Err(ProposeError::NoLeader),
            Ok(Err(CallError::Broken) | Ok(Err(ProposeError::Stopped))) => {
                Err(ProposeError::LeaderChanged)
            }
            Ok(Ok(answer)) => answer,
        }
    }

    /// Proposes wherever the leader is.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let deadline = local_time() + REQUEST_TIMEOUT;
        loop {
            let leader = self.leader();
            let left = deadline.saturating_sub(local_time());
            match self.propose_once(command.clone(), left).await {
                Err(ProposeError::NoLeader) if !left.is_zero() => {
                    self.await_leader_news(leader).await;
                }
                result => return result,
            }
        }
    }

    /// Waits for news of a leader, a little.
    pub async fn await_leader_news(&self, before: Option<u64>) {
        let mut metrics = self.inner.raft.metrics();
        let news = metrics.wait_until(|metrics| metrics.current_leader != before);
        // Either way the caller looks again. News of an end comes at once and for ever: wait.
        if let Ok(Err(_)) = timeout(LEADER_POLL, news).await {
            sleep(LEADER_POLL).await;
        }
    }

    // === reads ===

    /// The index that a linearizable read must have seen, and the term it was confirmed in.
    pub async fn read_index_here(&self) -> Result<LogId, ReadError> {
        let policy = if self.world().plan.defect == Some(Defect::LeaseRead) {
            ReadPolicy::LeaseRead
        } else {
            ReadPolicy::ReadIndex
        };
        let confirmed = self.inner.raft.get_read_log_id(policy);
        let patience = self.world().plan.election * 2;
        match timeout(patience, confirmed).await {
            Err(_) => Err(ReadError::Timeout { waited_ms: 0 }),
            Ok(Ok((read, _))) => Ok(*read.log_id()),
            Ok(Err(error)) => Err(read_refused(error, 0)),
        }
    }

    async fn read_index(&self) -> Result<LogId, ReadError> {
        if self.leads() {
            return self.read_index_here().await;
        }
        let to = self.leader().ok_or(ReadError::NoLeader)?;
        let handler = |member: Self| async move { member.read_index_here().await };
        let call = network::call(self.world(), self.from().clone(), to, handler);
        let call = timeout(self.world().plan.election * 4, call);
        let replaced = self.led_by_another(to);
        match select(pin!(call), pin!(replaced)).await {
            Either::Right(_) | Either::Left((Ok(Err(_) | Ok(Err(ReadError::Stopped))), _)) => {
                Err(ReadError::NoLeader)
            }
            Either::Left((Err(_), _)) => Err(ReadError::Timeout { waited_ms: 0 }),
            Either::Left((Ok(Ok(answer)), _)) => answer,
        }
    }

    /// Returns when another member than `former` leads, or this member has ended.
    async fn led_by_another(&self, former: u64) {
        let mut metrics = self.inner.raft.metrics();
        let replaced = metrics.wait_until(|metrics| {
            metrics
                .current_leader
                .is_some_and(|leader| leader != former)
        });
        // An error says that Raft has stopped; then there is nothing to wait for either.
        let _ = replaced.await;
    }

    /// One round for all reads that wait.
    async fn barrier_round(&self) -> Result<(), ReadError> {
        let deadline = local_time() + REQUEST_TIMEOUT;
        let log_id = loop {
            let leader = self.leader();
            match self.read_index().await {
                Ok(log_id) => break log_id,
                Err(ReadError::Stopped) => return Err(ReadError::Stopped),
                Err(error) if local_time() >= deadline => return Err(error),
                Err(_) => self.await_leader_news(leader).await,
            }
        };
        let mut metrics = self.inner.raft.metrics();
        let applied = metrics.wait_until(|metrics| {
            metrics
                .last_applied
                .is_some_and(|applied| applied.index() >= log_id.index())
                || metrics.running_state.is_err()
        });
        let left = deadline.saturating_sub(local_time());
        match timeout(left, applied).await {
            Err(_) => Err(ReadError::Timeout { waited_ms: 0 }),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Ok(Ok(metrics)) if metrics.running_state.is_err() => Err(ReadError::Stopped),
            Ok(Ok(_)) => Ok(()),
        }
    }

    async fn run_barrier(self, mut waiting: mpsc::Receiver<Waiting>) {
        let joins_late = self.world().plan.defect == Some(Defect::BarrierJoinedLate);
        while let Some(first) = waiting.recv().await {
            let mut readers = vec![first];
            while let Ok(reader) = waiting.try_recv() {
                readers.push(reader);
            }
            let result = self.barrier_round().await;
            while let (true, Ok(reader)) = (joins_late, waiting.try_recv()) {
                readers.push(reader);
            }
            for reader in readers {
                // A reader that has given up does not listen.
                drop(reader.send(result.clone()));
            }
        }
    }

    /// Returns when this member has applied everything that was acknowledged before the call.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let (sender, receiver) = oneshot::channel();
        let sent = self.inner.barrier.send(sender).await;
        sent.map_err(|_| ReadError::Stopped)?;
        receiver.await.map_err(|_| ReadError::Stopped)?
    }

    /// The term in which this member is confirmed to lead.
    pub async fn confirm_leadership(&self) -> Result<u64, ReadError> {
        let log_id = self.read_index_here().await?;
        Ok(log_id.committed_leader_id().term)
    }

    /// Last contact of the members with this leader, by its clock.
    pub fn last_contacts(&self) -> BTreeMap<u64, Duration> {
        use openraft::Instant as _;
        let metrics = self.metrics();
        let heard = metrics.heartbeat.into_iter().flatten();
        heard
            .filter_map(|(id, at)| Some((id, (*at?).elapsed())))
            .collect()
    }
}
