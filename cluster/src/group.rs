//! What a service may ask of the group: the one interface between the two.
//!
//! A trait, so that a service can run over a real member, over a simulated one, and in its unit
//! tests over one that applies at once.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cluster_core::store::ReadFn;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// A member of a group, from the side of the service that runs on it.
pub trait Group: Send + Sync + 'static {
    /// Replicates `command`, through the leader wherever that is, and returns the reply of
    /// [`cluster_core::app::App::apply`] once it is committed on a majority and applied by the
    /// leader.
    fn propose(&self, command: Bytes) -> BoxFuture<'_, Result<Bytes, ProposeError>>;

    /// Returns when this member has applied everything that was committed when the call began:
    /// a [`Group::read`] after it is linearizable (`ReadIndex`, Raft thesis 6.4). Waiting reads
    /// share one round.
    fn read_barrier(&self) -> BoxFuture<'_, Result<(), ReadError>>;

    /// Runs `read` on what this member has applied so far. Serializable, not linearizable.
    fn read(&self, read: &mut ReadFn<'_>) -> io::Result<()>;

    /// Confirms with a quorum check that began after the call that this member leads, and returns
    /// its term.
    fn confirm_leadership(&self) -> BoxFuture<'_, Result<u64, ReadError>>;

    /// Asks the [`LeaderService`] of the leader, wherever that is. When a connection breaks or the
    /// leader changes it is asked again: a request must bear to be answered twice.
    fn call_leader(&self, request: Bytes) -> BoxFuture<'_, Result<Bytes, CallError>>;

    /// What this member knows now, and a way to wait for a change.
    fn status(&self) -> watch::Receiver<Arc<Status>>;

    /// Registers a member that is not started yet; it becomes a learner and gets its id from the
    /// log.
    fn member_add(&self, member: NewMember) -> BoxFuture<'_, Result<Member, MembershipError>>;

    /// Admits a starting member: claims a registered place or makes one. Idempotent by incarnation.
    fn member_join(&self, member: NewMember) -> BoxFuture<'_, Result<Member, MembershipError>>;

    /// Removes a member; refused when the rest could not form a quorum of live voters.
    fn member_remove(&self, id: u64) -> BoxFuture<'_, Result<(), MembershipError>>;

    /// Makes a caught-up learner a voter.
    fn member_promote(&self, id: u64) -> BoxFuture<'_, Result<(), MembershipError>>;

    /// Hands leadership of this member, which must lead, to `target`; returns when this member sees
    /// it lead.
    fn transfer_leader(&self, target: u64) -> BoxFuture<'_, Result<(), MembershipError>>;

    /// Bytes on disk: log and state.
    fn disk_bytes(&self) -> io::Result<u64>;
}

/// What the service answers while it runs on the leader. Opaque to the group.
pub trait LeaderService: Send + Sync + 'static {
    /// Answers a request of any member's service. `term` is the term in which this member leads,
    /// as far as it knows; the service confirms it itself where that matters.
    fn call(&self, term: u64, request: Bytes) -> BoxFuture<'_, Result<Bytes, CallError>>;
}

/// Who a new member says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMember {
    /// Unique name in the group.
    pub name: String,
    /// Failure domain.
    pub colo: String,
    /// HOST:PORT for the other members.
    pub peer_address: String,
    /// HOST:PORT for clients.
    pub client_addresses: Vec<String>,
    /// Random id of its data directory; empty while it is only registered.
    pub incarnation: String,
    /// Stay a learner when caught up.
    pub learner: bool,
}

/// A member as the group knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Never used again for another data directory.
    pub id: u64,
    /// Unique name in the group.
    pub name: String,
    /// Failure domain.
    pub colo: String,
    /// HOST:PORT for the other members.
    pub peer_address: String,
    /// HOST:PORT for clients.
    pub client_addresses: Vec<String>,
    /// Random id of its data directory; empty while it is only registered.
    pub incarnation: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it stays a learner when caught up.
    pub keep_learner: bool,
    /// Last log index it is known to hold; only the leader knows.
    pub matched: Option<u64>,
    /// Milliseconds since the leader last heard from it; only the leader knows.
    pub last_contact_ms: Option<u64>,
}

/// What a member is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Receives the log, does not vote.
    Learner,
    /// Votes and follows.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Stopped by itself, see [`Status::fault`].
    Stopped,
}

/// What a member knows of itself and the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The group's random id.
    pub cluster_id: u64,
    /// This member's id.
    pub node_id: u64,
    /// Raft term.
    pub term: u64,
    /// What this member is doing.
    pub role: Role,
    /// The leader, as far as this member knows; `None` also on a leader that lost its quorum.
    pub leader: Option<u64>,
    /// Last index in its log.
    pub last_index: u64,
    /// Last index it knows to be committed.
    pub committed_index: u64,
    /// Last index it has applied.
    pub applied_index: u64,
    /// Everyone in the group, by id.
    pub members: Vec<Member>,
    /// Writes are refused because the disk is almost full.
    pub no_space: bool,
    /// Why the member stopped.
    pub fault: Option<String>,
}

impl Status {
    /// What a member knows that has heard nothing yet.
    pub fn first(cluster_id: u64, node_id: u64) -> Self {
        Self {
            cluster_id,
            node_id,
            term: 0,
            role: Role::Learner,
            leader: None,
            last_index: 0,
            committed_index: 0,
            applied_index: 0,
            members: Vec::new(),
            no_space: false,
            fault: None,
        }
    }
}

/// Why a command has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not executed.
    #[error("no leader is known")]
    NoLeader,
    /// Not executed.
    #[error("command of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Size asked for.
        bytes: usize,
        /// Size allowed.
        limit: usize,
    },
    /// Not executed.
    #[error("disk of member {node_id} is almost full: {free_bytes} bytes left")]
    NoSpace {
        /// The leader.
        node_id: u64,
        /// What its file system has left.
        free_bytes: u64,
    },
    /// Not executed.
    #[error("{waiting} commands are waiting, the limit is reached")]
    Overloaded {
        /// Commands in flight.
        waiting: usize,
    },
    /// Perhaps executed, now or later.
    #[error("leadership changed before the command was confirmed")]
    LeaderChanged,
    /// Perhaps executed, now or later.
    #[error("no confirmation within {waited_ms} ms")]
    Timeout {
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// Perhaps executed, now or later.
    #[error("the member is stopping")]
    Stopped,
}

impl ProposeError {
    /// Whether it is certain that the command was not and will not be executed.
    pub fn not_executed(&self) -> bool {
        match self {
            Self::NoLeader
            | Self::TooLarge { .. }
            | Self::NoSpace { .. }
            | Self::Overloaded { .. } => true,
            Self::LeaderChanged | Self::Timeout { .. } | Self::Stopped => false,
        }
    }
}

/// Why a read could not be confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody to ask.
    #[error("no leader is known")]
    NoLeader,
    /// The leader could not reach a quorum, or this member did not catch up in time.
    #[error("not confirmed within {waited_ms} ms")]
    Timeout {
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// This member is stopping.
    #[error("the member is stopping")]
    Stopped,
}

/// Why a call to the leader's service failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody to ask.
    #[error("no leader is known")]
    NoLeader,
    /// The member asked does not lead (any more).
    #[error("the member does not lead")]
    NotLeader,
    /// No answer in time.
    #[error("no answer within {waited_ms} ms")]
    Timeout {
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// The service refused, in its words.
    #[error("{0}")]
    Refused(String),
}

/// Why the membership did not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Name or address is taken.
    #[error("member `{name}` exists already: id {id}, peer address {peer_address}")]
    Exists {
        /// Name of the member that is there.
        name: String,
        /// Its id.
        id: u64,
        /// Its address.
        peer_address: String,
    },
    /// No such member.
    #[error("no member has id {id}")]
    NotFound {
        /// The id asked for.
        id: u64,
    },
    /// The name is taken by a member with another data directory.
    #[error(
        "member `{name}` (id {id}) joined with another data directory; its disk was emptied or it \
         runs elsewhere"
    )]
    OtherIncarnation {
        /// Name asked for.
        name: String,
        /// Id of the member that holds it.
        id: u64,
    },
    /// Not enough live voters would be left.
    #[error("removing member {id} would leave {live} live of {voters} voters, {needed} are needed")]
    WouldLoseQuorum {
        /// The member.
        id: u64,
        /// Voters heard from of late, after the change.
        live: usize,
        /// Voters after the change.
        voters: usize,
        /// Their majority.
        needed: usize,
    },
    /// It votes already.
    #[error("member {id} is not a learner")]
    NotLearner {
        /// The member.
        id: u64,
    },
    /// It has not replicated enough.
    #[error("learner {id} holds the log up to {matched}, the leader is at {last}")]
    NotCaughtUp {
        /// The member.
        id: u64,
        /// Last index it holds.
        matched: u64,
        /// Last index of the leader.
        last: u64,
    },
    /// The target cannot lead.
    #[error("member {id} cannot lead: {why}")]
    BadTransferee {
        /// The member.
        id: u64,
        /// Why not.
        why: String,
    },
    /// This member does not lead.
    #[error("this member does not lead; the leader is {leader:?}")]
    NotLeader {
        /// The leader, when known.
        leader: Option<u64>,
    },
    /// Somebody else changed the membership at the same time.
    #[error("another membership change is under way")]
    Busy,
    /// Perhaps changed.
    #[error("not confirmed: {0}")]
    Unconfirmed(String),
}
