//! The two proven defects of openraft 0.10.0-alpha.37, each shown twice: that our settings are safe
//! from it, and that the library still has it (when that half fails, the guard can be thought over).
//!
//! Three members in this process, a network of function calls that can be cut, and a log that can be
//! held up before it is durable.

#![expect(
    clippy::result_large_err,
    reason = "openraft's error type is what its traits return"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cluster::directory_store::DirectoryStore;
use cluster::log_store::{FlushMode, LogStore, LogStoreOptions};
use cluster::machine::Machine;
use cluster::member::RaftHandle;
use cluster::state_store::{SnapshotHandle, StateStore};
use cluster::types::{Command, NodeInfo, Types, Vote};
use cluster_core::log::{LogEngine, LogMeta, LogOp, MemoryLog};
use cluster_core::store::{Batch, ReadFn, StateEngine};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{Config, OptionalSend, Raft, ReadPolicy};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::block_in_place;

use crate::list_app::{ListApp, items_of};

// === a log that can be held up ===

#[derive(Default)]
struct HeldLog {
    durable: MemoryLog,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Gate {
    #[default]
    Open,
    Held,
    /// Power is gone: what is held up is lost.
    Lost,
}

impl HeldLog {
    fn set(&self, gate: Gate) {
        *self.gate.lock().expect("gate") = gate;
        self.changed.notify_all();
    }
}

/// One life of a member on a log; a life that ended cannot write any more.
struct Life(Arc<HeldLog>, Mutex<bool>);

impl LogEngine for Life {
    fn write(&self, ops: &[LogOp]) -> io::Result<()> {
        let gate = self.0.gate.lock().expect("gate");
        let gate = self
            .0
            .changed
            .wait_while(gate, |gate| *gate == Gate::Held)
            .expect("gate");
        let mut ended = self.1.lock().expect("life");
        *ended |= *gate == Gate::Lost;
        if *ended {
            return Err(io::Error::other("power was lost"));
        }
        self.0.durable.write(ops)
    }

    fn meta(&self, meta: LogMeta) -> io::Result<Option<Bytes>> {
        self.0.durable.meta(meta)
    }

    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        self.0.durable.entries(range, max_bytes)
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        self.0.durable.bounds()
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.0.durable.size_bytes()
    }
}

// === a network of function calls ===

#[derive(Default)]
struct Wires {
    members: BTreeMap<u64, RaftHandle>,
    cut: BTreeSet<(u64, u64)>,
}

#[derive(Clone)]
struct Factory {
    from: u64,
    wires: Arc<Mutex<Wires>>,
}

struct Wire {
    from: u64,
    to: u64,
    wires: Arc<Mutex<Wires>>,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Wire;

    async fn new_client(&mut self, target: u64, _node: &NodeInfo) -> Wire {
        Wire {
            from: self.from,
            to: target,
            wires: self.wires.clone(),
        }
    }
}

impl Wire {
    fn peer(&self) -> Result<RaftHandle, RPCError<Types>> {
        let wires = self.wires.lock().expect("wires");
        let cut = wires.cut.contains(&(self.from, self.to));
        let peer = wires.members.get(&self.to).filter(|_| !cut).cloned();
        peer.ok_or_else(|| RPCError::Unreachable(Unreachable::from_string("cut")))
    }
}

fn gone(error: impl std::fmt::Display) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(error.to_string()))
}

impl RaftNetworkV2<Types> for Wire {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let answer = self.peer()?.append_entries(rpc).await.map_err(gone)?;
        self.peer()?;
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.peer()?.vote(rpc).await.map_err(gone)?;
        self.peer()?;
        Ok(answer)
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: openraft::storage::Snapshot<
            cluster::types::CommittedLeaderId,
            u64,
            NodeInfo,
            SnapshotHandle,
        >,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(Unreachable::from_string(
            "no snapshots here",
        )))
    }
}

// === the group ===

/// A group of three. Those that run when it is dropped are ended: a process that ends while a
/// database is open aborts in the library's own teardown.
struct World {
    config: Arc<Config>,
    wires: Arc<Mutex<Wires>>,
    logs: BTreeMap<u64, Arc<HeldLog>>,
    roots: BTreeMap<u64, TempDir>,
    stores: BTreeMap<u64, Arc<DirectoryStore>>,
    /// Whose databases are open: a receiver ends when its database is closed.
    open: BTreeMap<u64, watch::Receiver<()>>,
}

/// A database that tells when it is closed. Fields drop in order: closed first, then told.
struct Told {
    engine: Box<dyn StateEngine>,
    _open: watch::Sender<()>,
}

impl StateEngine for Told {
    fn read(&self, read: &mut ReadFn<'_>) -> io::Result<()> {
        self.engine.read(read)
    }

    fn commit(&self, batch: Batch) -> io::Result<()> {
        self.engine.commit(batch)
    }

    fn flush(&self) -> io::Result<()> {
        self.engine.flush()
    }

    fn checkpoint(&self, directory: &Path) -> io::Result<()> {
        self.engine.checkpoint(directory)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.engine.size_bytes()
    }
}

/// Who stands for election when a leader is silent.
#[derive(Clone, Copy)]
enum Elections {
    /// Every follower, after 1.5 s.
    ByTimeout,
    /// Nobody within the time of a test, however slow the machine: the test says who and when.
    OnlyByHand,
}

/// Our settings but for the one under test.
fn config(leader_restore: bool, elections: Elections) -> Arc<Config> {
    let (election_timeout_min, election_timeout_max) = match elections {
        Elections::ByTimeout => (1500, 2000),
        Elections::OnlyByHand => (60_000, 90_000),
    };
    Arc::new(Config {
        election_timeout_min,
        election_timeout_max,
        heartbeat_interval: 50,
        enable_leader_restore: Some(leader_restore),
        ..Config::default()
    })
}

impl World {
    async fn start(leader_restore: bool, elections: Elections) -> Self {
        let mut world = Self {
            config: config(leader_restore, elections),
            wires: Arc::default(),
            logs: BTreeMap::new(),
            roots: BTreeMap::new(),
            stores: BTreeMap::new(),
            open: BTreeMap::new(),
        };
        for id in 1..=3 {
            world.logs.insert(id, Arc::default());
            world
                .roots
                .insert(id, tempfile::tempdir().expect("temp dir"));
            world.run(id).await;
        }
        let nodes: BTreeMap<u64, NodeInfo> = (1..=3).map(|id| (id, NodeInfo::default())).collect();
        world.member(1).initialize(nodes).await.expect("initialize");
        let led = world.member(1).wait(Some(Duration::from_secs(10)));
        led.current_leader(1, "the initializing member leads")
            .await
            .expect("leader");
        // A leader takes writes once a quorum has answered it.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while let Err(error) = world.write(1, "x").await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
        }
        // A member without `x` could not be elected over one that has it.
        for id in 1..=3 {
            assert_eq!(world.items_when(id, 1).await, ["x"], "member {id}");
        }
        world
    }

    /// Starts a member on what its disk holds.
    async fn run(&mut self, id: u64) {
        let root = self.roots[&id].path();
        let (told, open) = watch::channel(());
        let opened = move |path: &Path| {
            let options = cluster_rocks::StateOptions::new(!path.join("CURRENT").exists());
            let engine = Box::new(cluster_rocks::open_state(path, &options)?);
            let told = Told {
                engine,
                _open: told.clone(),
            };
            Ok(Arc::new(told) as Arc<dyn StateEngine>)
        };
        let store = Arc::new(DirectoryStore::open(root, Box::new(opened)).expect("state"));
        let engine = Arc::new(Life(self.logs[&id].clone(), Mutex::new(false)));
        let options = LogStoreOptions {
            tail_bytes: 1 << 20,
            read_bytes: 1 << 20,
        };
        let log = LogStore::open(engine, FlushMode::Thread, options).expect("log");
        let app = Box::new(ListApp::default());
        let machine = Machine::open(store.clone(), Some(log.clone()), app).expect("machine");
        let network = Factory {
            from: id,
            wires: self.wires.clone(),
        };
        let raft = Raft::new(id, self.config.clone(), network, log, machine)
            .await
            .expect("raft starts");
        self.stores.insert(id, store);
        self.open.insert(id, open);
        self.wires.lock().expect("wires").members.insert(id, raft);
    }

    fn member(&self, id: u64) -> RaftHandle {
        self.wires.lock().expect("wires").members[&id].clone()
    }

    /// Ends a member as a loss of power does: what its log had not made durable is gone.
    async fn power_off(&mut self, id: u64) {
        let member = self
            .wires
            .lock()
            .expect("wires")
            .members
            .remove(&id)
            .expect("it runs");
        self.logs[&id].set(Gate::Lost);
        // Its storage has failed or it stops now: both are the end.
        let _ = member.shutdown().await;
        drop(member);
        drop(self.stores.remove(&id).expect("it ran"));
        let mut open = self.open.remove(&id).expect("it ran");
        // Closed before the next life opens it; nothing is ever sent.
        let closed = tokio::time::timeout(Duration::from_secs(10), open.changed()).await;
        let closed = closed.unwrap_or_else(|_| panic!("member {id} holds its database"));
        closed.expect_err("it is closed");
        self.logs[&id].set(Gate::Open);
    }

    fn cut(&self, a: u64, b: u64) {
        self.wires
            .lock()
            .expect("wires")
            .cut
            .extend([(a, b), (b, a)]);
    }

    fn items(&self, id: u64) -> Vec<String> {
        items_of(self.stores[&id].engine().as_ref())
    }

    /// Waits until a member's list has `length` items, and returns it.
    async fn items_when(&self, id: u64, length: usize) -> Vec<String> {
        let mut metrics = self.member(id).metrics();
        let enough =
            async { while self.items(id).len() < length && metrics.changed().await.is_ok() {} };
        // The caller compares the items: it says what is missing.
        let _ = tokio::time::timeout(Duration::from_secs(15), enough).await;
        self.items(id)
    }

    async fn write(&self, id: u64, item: &'static str) -> Result<(), String> {
        let member = self.member(id);
        let write = member.client_write(Command(Bytes::from_static(item.as_bytes())));
        match tokio::time::timeout(Duration::from_secs(3), write).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("timeout".to_owned()),
        }
    }

    /// Whoever leads writes `item`; returns when it is applied somewhere.
    async fn write_anywhere(&self, item: &'static str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
        while tokio::time::Instant::now() < deadline {
            for id in 1..=3 {
                if self.write(id, item).await.is_ok() {
                    return;
                }
            }
        }
        panic!("no leader took `{item}`");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let running: Vec<u64> = self.stores.keys().copied().collect();
        let end = async {
            for id in running {
                self.power_off(id).await;
            }
        };
        // A test that has failed already says why; a second panic would hide it.
        if !std::thread::panicking() {
            block_in_place(|| Handle::current().block_on(end));
        }
    }
}

/// The leader sends an entry before it is durable at home, loses power, and is back before anybody
/// stands for election. Returns what each member applied.
async fn leader_restarts_fast_with_a_lost_tail(leader_restore: bool) -> Vec<Vec<String>> {
    // A restored leader needs no election; without the restore there must be one.
    let elections = if leader_restore {
        Elections::OnlyByHand
    } else {
        Elections::ByTimeout
    };
    let mut world = World::start(leader_restore, elections).await;
    world.logs[&1].set(Gate::Held);
    let leader = world.member(1);
    let lost = tokio::spawn(async move {
        leader
            .client_write(Command(Bytes::from_static(b"A")))
            .await
            .is_ok()
    });
    for id in [2, 3] {
        assert_eq!(
            world.items_when(id, 2).await,
            ["x", "A"],
            "A is committed on the followers"
        );
    }
    world.power_off(1).await;
    assert!(
        !lost.await.expect("the writer ends"),
        "the leader may not acknowledge A"
    );
    world.run(1).await;
    world.write_anywhere("B").await;
    let mut lists = Vec::new();
    for id in 1..=3 {
        lists.push(
            world
                .items_when(id, if leader_restore { 2 } else { 3 })
                .await,
        );
    }
    lists
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_fast_restart_of_a_leader_with_a_lost_tail_keeps_the_members_equal() {
    let lists = leader_restarts_fast_with_a_lost_tail(false).await;
    for list in lists {
        assert_eq!(list, ["x", "A", "B"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_canary_a_restored_leader_makes_the_members_differ() {
    let lists = leader_restarts_fast_with_a_lost_tail(true).await;
    assert_ne!(
        lists[0], lists[1],
        "openraft has mended S1: leader restore may be thought over"
    );
}

/// The old leader is cut off, a follower restarts (and forgets its lease) and helps to elect another
/// leader, which acknowledges a write. Returns whether the old leader confirms a read under `policy`.
async fn cut_off_leader_confirms_a_read(policy: ReadPolicy) -> bool {
    let mut world = World::start(false, Elections::OnlyByHand).await;
    world.cut(1, 2);
    world.power_off(3).await;
    world.cut(1, 3);
    world.run(3).await;
    world
        .member(2)
        .trigger()
        .elect(false)
        .await
        .expect("member 2 stands for election");
    let led = world.member(2).wait(Some(Duration::from_secs(15)));
    led.current_leader(2, "member 2 leads")
        .await
        .expect("another leader");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    while let Err(error) = world.write(2, "new").await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
    }
    let old = world.member(1);
    let read = old.get_read_log_id(policy);
    let confirmed = tokio::time::timeout(Duration::from_secs(3), read).await;
    assert_eq!(
        world.items(1),
        ["x"],
        "the old leader knows nothing of `new`"
    );
    matches!(confirmed, Ok(Ok(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_cut_off_leader_does_not_confirm_a_read_index() {
    assert!(!cut_off_leader_confirms_a_read(ReadPolicy::ReadIndex).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_canary_a_lease_read_is_stale_after_a_followers_restart() {
    assert!(
        cut_off_leader_confirms_a_read(ReadPolicy::LeaseRead).await,
        "openraft has mended S2: lease reads may be thought over"
    );
}
