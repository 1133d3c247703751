//! What all calls share: the group, its state as clients may see it, and the limits.
//!
//! Invariants
//! - the header's term never goes back, whatever the group says in passing.
//! - reads of more than one key run on threads of their own, never on those that serve sockets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cfgsvc_core::Machine;
use cfgsvc_proto::etcd::ResponseHeader;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{Command, Reply};
use cluster::{Group, Status as GroupStatus, View};
use prost::Message;
use tokio::sync::watch;
use tonic::Status;

use crate::clock;
use crate::grpc::metadata::RequestMeta;
use crate::grpc::status;
use crate::lease::keeper::Keeper;
use crate::lease::renewals::Renewals;
use crate::options::Settings;
use crate::reads::{self, Reads, Turn};
use crate::watch::hub::Hub;

/// Version that etcd's clients are told: they switch features by it.
pub const ETCD_VERSION: &str = "3.6.1";
/// Wait of a request for the group beside two elections; etcd's constant.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// Time between progress notices of idle watchers; etcd's default.
const PROGRESS_INTERVAL: Duration = Duration::from_mins(10);

/// What a service may choose for itself.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest encoded command in bytes.
    pub request_bytes: usize,
    /// Least time to live of a lease in seconds.
    pub min_lease_ttl_s: i64,
    /// Bytes of data above which writes are refused.
    pub quota_bytes: Option<u64>,
    /// Time without a leader after which streams that ask for one are cut.
    pub leaderless: Duration,
    /// How long a request waits for the group.
    pub request_patience: Duration,
    /// Time between progress notices of idle watchers.
    pub progress_interval: Duration,
}

impl Limits {
    /// The limits that `settings` ask for.
    pub fn of(settings: &Settings) -> Self {
        Self {
            request_bytes: settings.max_request_bytes,
            min_lease_ttl_s: settings.min_lease_ttl_s(),
            quota_bytes: settings.quota_bytes,
            leaderless: settings.election * 3,
            request_patience: REQUEST_PATIENCE + settings.election * 2,
            progress_interval: PROGRESS_INTERVAL,
        }
    }
}

/// What all calls share.
pub struct Service {
    /// The group.
    pub group: Arc<dyn Group>,
    /// Where watchers wait.
    pub hub: Arc<Hub>,
    /// Who keeps the leases' time.
    pub keeper: Arc<Keeper>,
    /// Where renewals go.
    pub renewals: Renewals,
    /// Bounds.
    pub limits: Limits,
    /// Turns true when the member stops.
    pub stopping: watch::Receiver<bool>,
    group_status: watch::Receiver<Arc<GroupStatus>>,
    term: AtomicU64,
    over_quota: AtomicBool,
    reads: Reads,
}

/// A command's reply that is not a refusal.
pub struct Done {
    /// Revision of the store after the command.
    pub revision: i64,
    /// What it did.
    pub outcome: Outcome,
}

impl Service {
    /// Serves `group`, whose app tells `hub` and `keeper`.
    pub fn new(
        group: Arc<dyn Group>,
        hub: Arc<Hub>,
        keeper: Arc<Keeper>,
        limits: Limits,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            renewals: Renewals::start(Arc::clone(&group), limits.request_patience),
            group_status: group.status(),
            group,
            hub,
            keeper,
            limits,
            stopping,
            term: AtomicU64::new(0),
            over_quota: AtomicBool::new(false),
            reads: Reads::default(),
        }
    }

    /// What this member knows now.
    pub fn status(&self) -> Arc<GroupStatus> {
        Arc::clone(&self.group_status.borrow())
    }

    /// A way to wait for a change of what this member knows.
    pub fn status_changes(&self) -> watch::Receiver<Arc<GroupStatus>> {
        self.group_status.clone()
    }

    /// A header for an answer that shows the store at `revision`; 0 leaves it out.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        let status = self.status();
        let before = self.term.fetch_max(status.term, Ordering::Relaxed);
        ResponseHeader {
            cluster_id: status.cluster_id,
            member_id: status.node_id,
            revision,
            raft_term: before.max(status.term),
        }
    }

    /// Puts cluster, member and term into a header that has a revision.
    pub fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.header(revision));
    }

    /// Whether writes that need space are refused.
    pub fn is_full(&self) -> bool {
        self.over_quota.load(Ordering::Relaxed) || self.status().no_space
    }

    /// Compares the data on disk with the quota.
    pub fn check_quota(&self) -> io::Result<()> {
        if let Some(quota) = self.limits.quota_bytes {
            let over = self.group.disk_bytes()? > quota;
            if self.over_quota.swap(over, Ordering::Relaxed) != over {
                tracing::warn!(quota_bytes = quota, over, "data against its quota");
            }
        }
        Ok(())
    }

    /// Whether something compacted is still on disk.
    pub fn scrub_pending(&self) -> Result<bool, Status> {
        self.read(|view| Ok(Machine::load(view)?.scrub_pending()))
    }

    /// Returns when a read of this member's state is linearizable.
    pub async fn barrier(&self) -> Result<(), Status> {
        self.group
            .read_barrier()
            .await
            .map_err(|error| status::of_read(&error))
    }

    /// Reads this member's state here and now: for what takes no longer than one key.
    pub fn read<T>(&self, read: impl FnMut(&dyn View) -> io::Result<T>) -> Result<T, Status> {
        read_group(self.group.as_ref(), read).map_err(|error| status::of_io(&error))
    }

    /// Reads this member's state for a request, on a thread of its own; refused when too many wait.
    pub async fn read_large<T, F>(&self, read: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnMut(&dyn View) -> io::Result<T> + Send + 'static,
    {
        let group = Arc::clone(&self.group);
        self.reads
            .request(self.limits.request_patience, move || {
                read_group(group.as_ref(), read)
            })
            .await?
            .map_err(|error| status::of_io(&error))
    }

    /// Reads this member's state for the next step of a stream, on a thread of its own.
    pub async fn read_step<T, F>(&self, read: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnMut(&dyn View) -> io::Result<T> + Send + 'static,
    {
        let group = Arc::clone(&self.group);
        self.reads
            .step(move || read_group(group.as_ref(), read))
            .await?
            .map_err(|error| status::of_io(&error))
    }

    /// Reads all of this member's state, on a thread of its own; refused when others do already.
    pub async fn scan<T, F>(&self, read: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnMut(&dyn View) -> io::Result<T> + Send + 'static,
    {
        let group = Arc::clone(&self.group);
        reads::run(self.scan_turn()?, move || read_group(group.as_ref(), read))
            .await?
            .map_err(|error| status::of_io(&error))
    }

    /// The turn of a scan of all of this member's state.
    pub fn scan_turn(&self) -> Result<Turn, Status> {
        self.reads.scan()
    }

    /// Has the group execute `op` for a client.
    pub async fn execute(&self, meta: RequestMeta, op: Op) -> Result<Done, Status> {
        let command = Command {
            at_ms: clock::wall_ms(),
            author: meta.author,
            reason: meta.reason,
            session: meta.session,
            seq: meta.seq,
            ack: meta.ack,
            op: Some(op),
        };
        if command.encoded_len() > self.limits.request_bytes {
            return Err(status::too_large());
        }
        self.propose(&command).await
    }

    /// Has the group execute a command.
    pub async fn propose(&self, command: &Command) -> Result<Done, Status> {
        let bytes = self
            .group
            .propose(command.encode_to_vec().into())
            .await
            .map_err(|error| status::of_propose(&error))?;
        let reply = Reply::decode(bytes).map_err(|error| {
            Status::internal(format!(
                "reply of the state machine does not decode: {error}"
            ))
        })?;
        match reply.result {
            Some(Outcome::Refusal(refused)) => Err(status::of_refusal(&refused)),
            Some(outcome) => Ok(Done {
                revision: reply.revision,
                outcome,
            }),
            None => Err(Status::internal(
                "reply of the state machine holds no result",
            )),
        }
    }
}

/// Runs `read` once on the state of `group`.
pub fn read_group<T>(
    group: &dyn Group,
    mut read: impl FnMut(&dyn View) -> io::Result<T>,
) -> io::Result<T> {
    let mut result = None;
    group.read(&mut |view| {
        result = Some(read(view)?);
        Ok(())
    })?;
    result.ok_or_else(|| io::Error::other("the group ran no read"))
}

/// The error of an outcome that does not fit its command.
pub fn unexpected(done: &Done) -> Status {
    Status::internal(format!(
        "reply of the state machine is for another command: {:?}",
        done.outcome
    ))
}
