//! Starting a member: take the data directory, become part of a group, run.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cluster_core::app::App;
use futures_util::future::BoxFuture;
use openraft::error::{InitializeError, RaftError};
use openraft::{Config, Raft, SnapshotPolicy};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::transport::Server;

use crate::connections::watched;
use crate::directory_store::DirectoryStore;
use crate::founding::{FoundingDesk, FoundingError};
use crate::group::{LeaderService, NewMember, Status};
use crate::identity::{DataDirectory, IdentityError};
use crate::log_store::{FlushMode, LogStore, LogStoreOptions};
use crate::machine::Machine;
use crate::member::{Channels, IN_FLIGHT_MAX, InFlight, Inner, Limits, Member, millis};
use crate::network::{Addresses, Network};
use crate::peer_server::PeerServer;
use crate::proto;
use crate::proto::founding_server::FoundingServer;
use crate::proto::raft_server::RaftServer;
use crate::state_store::StateStore;
use crate::status::run_status;
use crate::transport::{Caller, MESSAGE_BYTES_MAX};
use crate::types::{Types, node_from};

/// Asks a running group for a place, with the cluster id that the data directory has already or 0:
/// cluster id and member id. When it has one, `None` says that nobody answered: the member starts.
pub type JoinFn = Box<
    dyn Fn(NewMember, u64) -> BoxFuture<'static, Result<Option<(u64, u64)>, String>> + Send + Sync,
>;

/// How a member with an empty directory becomes part of a group.
pub enum Beginning {
    /// With these founders: names and peer addresses, its own included.
    Found(BTreeMap<String, String>),
    /// By asking a running group.
    Join {
        /// The way to ask.
        ask: JoinFn,
        /// Stay a learner when caught up.
        learner: bool,
    },
}

/// Everything a member needs to know. There is no default: the caller chooses.
pub struct Options {
    /// Unique name in the group.
    pub name: String,
    /// Failure domain.
    pub colo: String,
    /// Where it keeps everything.
    pub data_directory: PathBuf,
    /// Where it listens for the others.
    pub listen_peer: SocketAddr,
    /// HOST:PORT at which the others reach it.
    pub advertise_peer: String,
    /// HOST:PORT for clients, told to whoever asks.
    pub client_addresses: Vec<String>,
    /// Used while the directory is empty.
    pub beginning: Beginning,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout; the longest is twice this.
    pub election: Duration,
    /// Entries between two snapshots.
    pub snapshot_entries: u64,
    /// Bytes of entries after which there is a snapshot although they are fewer; half of that stays
    /// in the log.
    pub snapshot_bytes: u64,
    /// Entries that stay in the log after a snapshot, for members that lag.
    pub keep_entries: u64,
    /// Bytes of one command at most.
    pub command_bytes_max: usize,
    /// A request without an answer by then fails.
    pub request_timeout: Duration,
    /// Writes are refused below this many free bytes.
    pub min_free_bytes: u64,
    /// Accept a directory that was copied.
    pub danger_adopt_copied_data: bool,
}

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory is not ours.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The address is taken or not ours.
    #[error("cannot listen for members on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The founders disagree.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// The group refused.
    #[error("the group does not admit this member: {0}")]
    Join(String),
    /// Log or state.
    #[error("cannot open {what}")]
    Storage {
        /// Which part.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Settings that make no sense together.
    #[error("settings: {0}")]
    Settings(String),
    /// openraft.
    #[error("raft: {0}")]
    Raft(String),
}

/// Bytes of a command at most, whatever the settings: an append holds one command and reads end
/// behind 1 MiB, so a message has room for it. A larger one would be accepted and sent for ever.
const COMMAND_BYTES_LIMIT: usize = MESSAGE_BYTES_MAX - (4 << 20);

/// How long a stopping member waits for calls in flight.
const DRAIN: Duration = Duration::from_secs(5);

/// A member that runs. Dropping it does not stop it; [`Running::shutdown`] does.
pub struct Running {
    /// The group as the service sees it.
    pub member: Member,
    peers: PeerServer,
    directory: Arc<Mutex<DataDirectory>>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// If this member leads, lets the live voter that holds most lead.
    pub async fn hand_over(&self) {
        if self.member.leads()
            && let Some(successor) = self.member.best_successor()
        {
            match self.member.transfer(successor).await {
                Ok(()) => tracing::info!(to = successor, "leadership handed over"),
                Err(error) => tracing::warn!(%error, "leadership not handed over"),
            }
        }
    }

    /// Hands leadership over, stops, makes the state durable and gives the data directory back.
    pub async fn shutdown(self) -> io::Result<()> {
        self.hand_over().await;
        self.stop.send_replace(true);
        self.peers.detach();
        if let Err(error) = self.member.raft().shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        for task in self.tasks {
            task.abort();
            // It ended, or was cancelled just now: both are the end.
            let _ = task.await;
        }
        let store = self.member.store().clone();
        let flushed = tokio::task::spawn_blocking(move || store.engine().flush()).await;
        let (log, store) = self.member.storage();
        // The last handle on the log waits for its last sync.
        let member = self.member;
        tokio::task::spawn_blocking(move || drop(member));
        let deadline = tokio::time::Instant::now() + DRAIN;
        while Arc::strong_count(&log) + Arc::strong_count(&store) > 2 {
            if tokio::time::Instant::now() > deadline {
                tracing::warn!("calls are still in flight; the databases close when they end");
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The last handles go here, so that the databases are closed before the lock is given up.
        drop((log, store));
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .release()?;
        flushed.map_err(io::Error::other)?
    }
}

/// openraft's settings. Those that differ from its defaults do so for a reason given beside them.
pub fn raft_config(options: &Options) -> Result<Config, StartError> {
    if options.command_bytes_max > COMMAND_BYTES_LIMIT {
        return Err(StartError::Settings(format!(
            "commands may have {} bytes, members can send {COMMAND_BYTES_LIMIT} at most",
            options.command_bytes_max
        )));
    }
    let config = Config {
        cluster_name: "cfgsvc".to_owned(),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election),
        election_timeout_max: 2 * millis(options.election),
        // A restored leader resumes its term without a vote and gives lost indexes to new entries:
        // acknowledged writes vanish and replicas diverge (defect S1, pinned by a test).
        enable_leader_restore: Some(false),
        // A member that comes back from a partition must not unseat a healthy leader.
        enable_pre_vote: Some(true),
        // A log that went back is a lost disk; such a member is replaced, never trusted again.
        allow_log_reversion: Some(false),
        max_payload_entries: 2048,
        // The default of 1 purges with every applied entry.
        purge_batch_size: options.keep_entries.clamp(1, 1024),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_entries),
        max_in_snapshot_log_to_keep: options.keep_entries,
        replication_lag_threshold: options.snapshot_entries + options.keep_entries,
        install_snapshot_timeout: 60_000,
        backoff: "10ms 20ms ...500ms".to_owned(),
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| StartError::Settings(error.to_string()))
}

/// Starts a member and returns when it is part of a group; it may not know a leader yet. Founders
/// wait for each other, for ever if need be: drop the future to give up.
pub async fn start(
    options: Options,
    app: Box<dyn App>,
    service: Arc<dyn LeaderService>,
) -> Result<Running, StartError> {
    let config = Arc::new(raft_config(&options)?);
    let directory = DataDirectory::open(
        &options.data_directory,
        &options.name,
        options.danger_adopt_copied_data,
    )?;
    let address = options.listen_peer;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })?;
    let directory = Arc::new(Mutex::new(directory));
    let (stop, _) = watch::channel(false);
    let peers = PeerServer::default();
    let founders = match &options.beginning {
        Beginning::Found(founders) => founders.clone(),
        Beginning::Join { .. } => BTreeMap::new(),
    };
    let desk = Arc::new(FoundingDesk::new(
        directory.clone(),
        founders,
        options.colo.clone(),
        options.client_addresses.clone(),
    ));
    let mut tasks = vec![tokio::spawn(serve_peers(
        listener,
        peers.clone(),
        desk.clone(),
        stop.subscribe(),
    ))];
    begin(&options, &directory, &desk).await?;
    let identity = locked(&directory).identity().clone();
    let member = run(&options, &identity, config, app, service).await?;
    locked(&directory)
        .set_opened()
        .map_err(|source| StartError::Storage {
            what: "the data directory",
            source,
        })?;
    peers.attach(member.member.clone());
    tasks.extend(member.tasks);
    tasks.push(tokio::spawn(peers.watch().run(member.member.clone())));
    let member = member.member;
    tasks.extend(initialize(&member, &identity, desk).await?);
    Ok(Running {
        member,
        peers,
        directory,
        stop,
        tasks,
    })
}

fn locked(directory: &Mutex<DataDirectory>) -> MutexGuard<'_, DataDirectory> {
    directory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the data directory part of a group when it is not yet.
async fn begin(
    options: &Options,
    directory: &Mutex<DataDirectory>,
    desk: &FoundingDesk,
) -> Result<(), StartError> {
    let cluster_id = locked(directory).identity().cluster_id;
    match &options.beginning {
        Beginning::Found(_) if cluster_id == 0 => Ok(desk.found().await?),
        Beginning::Join { ask, learner } => join(options, ask, *learner, directory).await,
        Beginning::Found(_) => Ok(()),
    }
}

/// Gives Raft its first membership. Repeated at every start until it took: a crash may have come
/// between the founders' word and the deed. Returns the task that tells the others again.
async fn initialize(
    member: &Member,
    identity: &proto::Identity,
    desk: Arc<FoundingDesk>,
) -> Result<Option<JoinHandle<()>>, StartError> {
    let raft = |error: openraft::error::Fatal<Types>| StartError::Raft(error.to_string());
    if identity.founders.is_empty() || member.raft().is_initialized().await.map_err(raft)? {
        return Ok(None);
    }
    let nodes: BTreeMap<_, _> = identity.founders.iter().cloned().map(node_from).collect();
    match member.raft().initialize(nodes).await {
        // Not allowed: another founder's messages were here first.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => return Err(StartError::Raft(error.to_string())),
    }
    Ok(Some(tokio::spawn(async move {
        if let Err(error) = desk.found().await {
            tracing::error!(%error, "founding");
        }
    })))
}

async fn join(
    options: &Options,
    ask: &JoinFn,
    learner: bool,
    directory: &Mutex<DataDirectory>,
) -> Result<(), StartError> {
    let identity = {
        let directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
        directory.identity().clone()
    };
    let member = NewMember {
        name: options.name.clone(),
        colo: options.colo.clone(),
        peer_address: options.advertise_peer.clone(),
        client_addresses: options.client_addresses.clone(),
        incarnation: identity.incarnation,
        learner,
    };
    let joined = ask(member, identity.cluster_id)
        .await
        .map_err(StartError::Join)?;
    let mut directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
    match joined {
        Some((cluster_id, node_id)) if identity.cluster_id == 0 => directory
            .bind(cluster_id, node_id, Vec::new())
            .map_err(|source| StartError::Storage {
                what: "the data directory",
                source,
            }),
        Some(joined) if joined != (identity.cluster_id, identity.node_id) => {
            Err(StartError::Join(format!(
                "the data directory is of member {} of group {:x}, the group asked knows it as \
                 member {} of group {:x}",
                identity.node_id, identity.cluster_id, joined.1, joined.0
            )))
        }
        None if identity.cluster_id == 0 => Err(StartError::Join("nobody answered".to_owned())),
        Some(_) | None => Ok(()),
    }
}

async fn serve_peers(
    listener: TcpListener,
    peers: PeerServer,
    desk: Arc<FoundingDesk>,
    mut stop: watch::Receiver<bool>,
) {
    let incoming = watched(listener, peers.watch());
    let raft = RaftServer::new(peers)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let served = Server::builder()
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(2)))
        .add_service(raft)
        .add_service(FoundingServer::new(desk))
        .serve_with_incoming_shutdown(incoming, async move {
            // An error means that the member is gone: that is the end, too.
            let _ = stop.wait_for(|stop| *stop).await;
        });
    if let Err(error) = served.await {
        tracing::error!(%error, "the members' port is closed");
    }
}

struct Started {
    member: Member,
    tasks: Vec<JoinHandle<()>>,
}

/// Opens log and state and starts Raft.
async fn run(
    options: &Options,
    identity: &proto::Identity,
    config: Arc<Config>,
    app: Box<dyn App>,
    service: Arc<dyn LeaderService>,
) -> Result<Started, StartError> {
    let root = options.data_directory.clone();
    let storage = |what| move |source| StartError::Storage { what, source };
    let log_engine = open_log(&root, !identity.opened).map_err(storage("the log"))?;
    let log_options = LogStoreOptions {
        tail_bytes: 8 << 20,
        read_bytes: 1 << 20,
    };
    let log = LogStore::open(log_engine.clone(), FlushMode::Thread, log_options)
        .map_err(storage("the log"))?;
    let store: Arc<dyn StateStore> =
        Arc::new(DirectoryStore::open(&root, Box::new(open_state)).map_err(storage("the state"))?);
    let machine = Machine::open(store.clone(), Some(log.clone()), app)
        .map_err(storage("the state machine"))?;
    let caller = Caller {
        cluster_id: identity.cluster_id,
        node_id: identity.node_id,
        incarnation: identity.incarnation.clone(),
    };
    let addresses = Arc::new(Addresses::default());
    let network = Network::new(caller.clone(), addresses.clone(), options, log.clone());
    let raft = Raft::new(identity.node_id, config, network, log.clone(), machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    let (barrier, waiting) = mpsc::channel(1024);
    let (forward, to_forward) = mpsc::channel(IN_FLIGHT_MAX);
    let (status, _) = watch::channel(Arc::new(Status::first(
        identity.cluster_id,
        identity.node_id,
    )));
    let limits = Limits {
        command_bytes: options.command_bytes_max,
        request_timeout: options.request_timeout,
        election_max: 2 * options.election,
        min_free_bytes: options.min_free_bytes,
    };
    let member = Member::new(Inner {
        raft,
        caller,
        store,
        log,
        log_engine,
        limits,
        service,
        status,
        barrier,
        forward,
        addresses,
        free_bytes: AtomicU64::new(u64::MAX),
        membership_change: tokio::sync::Mutex::default(),
        in_flight: InFlight::default(),
        channels: Channels::default(),
        damage: OnceLock::new(),
    });
    let tasks = vec![
        tokio::spawn(member.clone().run_barrier(waiting)),
        tokio::spawn(member.clone().run_forward(to_forward)),
        tokio::spawn(member.clone().run_upkeep()),
        tokio::spawn(member.clone().run_log_upkeep(options.snapshot_bytes)),
        tokio::spawn(run_status(member.clone())),
        tokio::spawn(watch_disk(member.clone(), root)),
    ];
    Ok(Started { member, tasks })
}

/// Makes the log only at the very first start: later its absence is a loss, not a beginning.
pub(crate) fn open_log(
    root: &Path,
    create: bool,
) -> io::Result<Arc<dyn cluster_core::log::LogEngine>> {
    let options = cluster_rocks::LogOptions::new(create);
    Ok(Arc::new(cluster_rocks::open_log(
        &root.join("log"),
        &options,
    )?))
}

pub(crate) fn open_state(path: &Path) -> io::Result<Arc<dyn cluster_core::store::StateEngine>> {
    // The pointer file says which directory is the state; see `DirectoryStore::open`.
    let options = cluster_rocks::StateOptions::new(!path.join("CURRENT").exists());
    Ok(Arc::new(cluster_rocks::open_state(path, &options)?))
}

/// Keeps an eye on the free space of the file system, so that writes stop before it is full.
async fn watch_disk(member: Member, path: PathBuf) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        match rustix::fs::statvfs(&path) {
            Ok(found) => {
                let free = found.f_bavail.saturating_mul(found.f_frsize);
                member.set_free_bytes(free);
            }
            Err(error) => tracing::warn!(%error, "free space is not known"),
        }
    }
}
