//! openraft's types as this group uses them, and their wire and disk form.
//!
//! Standard Raft leader ids: at most one leader in a term, a log id is (term, index).
//!
//! Invariant: only this file turns openraft's types into bytes and back. Whatever comes from the
//! network or a disk is checked here: a missing field is an error, never a default that means
//! something.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use bytes::Bytes;
use openraft::RaftTypeConfig;
use openraft::impls::{TokioRuntime, leader_id_std};
use openraft::vote::RaftLeaderId;
use prost::Message;

use crate::proto;

/// A command of the app, opaque.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(pub Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The app's reply, opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(pub Bytes);

/// What the membership says of a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeInfo {
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
    pub keep_learner: bool,
}

/// (term, node) of a leader or candidate.
pub type LeaderId = leader_id_std::LeaderId<u64, u64>;
/// A leader that was elected is known by its term alone.
pub type CommittedLeaderId = <LeaderId as RaftLeaderId>::Committed;
/// Position in the log.
pub type LogId = openraft::LogId<CommittedLeaderId>;
/// What a member has promised.
pub type Vote = openraft::impls::Vote<LeaderId>;
/// What an entry holds.
pub type Payload = openraft::EntryPayload<Command, u64, NodeInfo>;
/// A log entry.
pub type Entry = openraft::Entry<CommittedLeaderId, Payload>;
/// Who is in the group.
pub type Membership = openraft::Membership<u64, NodeInfo>;
/// Who is in the group since which entry.
pub type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, NodeInfo>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::storage::SnapshotMeta<CommittedLeaderId, u64, NodeInfo>;

/// Declares openraft's configuration of the group on an async runtime.
#[macro_export]
macro_rules! declare_group_types {
    ($(#[$said:meta])* $name:ident on $runtime:ty) => {
        openraft::declare_raft_types!(
            $(#[$said])*
            pub $name:
                D = $crate::types::Command,
                R = $crate::types::Reply,
                NodeId = u64,
                Node = $crate::types::NodeInfo,
                Term = u64,
                LeaderId = $crate::types::LeaderId,
                AsyncRuntime = $runtime,
        );
    };
}

declare_group_types!(
    /// The group on tokio.
    Types on TokioRuntime
);

/// The group on any runtime: log store and state machine are written for this, so that a simulated
/// runtime can take tokio's place.
pub trait GroupTypes:
    RaftTypeConfig<
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = NodeInfo,
        Term = u64,
        LeaderId = LeaderId,
        Vote = Vote,
        Payload = Payload,
        Entry = Entry,
    >
{
}

impl<C> GroupTypes for C where
    C: RaftTypeConfig<
            D = Command,
            R = Reply,
            NodeId = u64,
            Node = NodeInfo,
            Term = u64,
            LeaderId = LeaderId,
            Vote = Vote,
            Payload = Payload,
            Entry = Entry,
        >
{
}

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a message of the protocol.
    #[error("{what} is not decodable: {why}")]
    Malformed {
        /// Which record or message.
        what: &'static str,
        /// The decoder's words.
        why: String,
    },
    /// A message without a part that it must have.
    #[error("{what} lacks `{field}`")]
    Missing {
        /// Which record or message.
        what: &'static str,
        /// The part.
        field: &'static str,
    },
}

impl From<DecodeError> for io::Error {
    fn from(error: DecodeError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Decodes a message; `what` names it in the error.
pub fn decode<M: Message + Default>(what: &'static str, bytes: Bytes) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|error| DecodeError::Malformed {
        what,
        why: error.to_string(),
    })
}

fn missing(what: &'static str, field: &'static str) -> DecodeError {
    DecodeError::Missing { what, field }
}

/// To the wire.
pub fn log_id_to(log_id: &LogId) -> proto::LogId {
    proto::LogId {
        term: log_id.committed_leader_id().term,
        index: log_id.index(),
    }
}

/// From the wire. Everybody counts on from an index, so the greatest number is none.
pub fn log_id_from(log_id: &proto::LogId) -> Result<LogId, DecodeError> {
    if log_id.index == u64::MAX {
        return Err(DecodeError::Malformed {
            what: "log id",
            why: format!("index {} has none after it", log_id.index),
        });
    }
    Ok(LogId::new_term_index(log_id.term, log_id.index))
}

/// From the wire, where it may be absent.
pub fn log_id_optional(log_id: Option<&proto::LogId>) -> Result<Option<LogId>, DecodeError> {
    log_id.map(log_id_from).transpose()
}

/// To the wire.
pub fn vote_to(vote: &Vote) -> proto::Vote {
    proto::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

/// From the wire. A member that campaigns counts on from the term, so the greatest number is none.
pub fn vote_from(vote: &proto::Vote) -> Result<Vote, DecodeError> {
    if vote.term == u64::MAX {
        return Err(DecodeError::Malformed {
            what: "vote",
            why: format!("term {} has none after it", vote.term),
        });
    }
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.node_id)
    } else {
        Vote::new(vote.term, vote.node_id)
    })
}

/// From the wire, where it must be there.
pub fn vote_required(what: &'static str, vote: Option<&proto::Vote>) -> Result<Vote, DecodeError> {
    vote.map_or_else(|| Err(missing(what, "vote")), vote_from)
}

/// To the wire.
pub fn node_to(id: u64, node: &NodeInfo) -> proto::Node {
    proto::Node {
        id,
        name: node.name.clone(),
        colo: node.colo.clone(),
        peer_address: node.peer_address.clone(),
        client_addresses: node.client_addresses.clone(),
        incarnation: node.incarnation.clone(),
        keep_learner: node.keep_learner,
    }
}

/// From the wire.
pub fn node_from(node: proto::Node) -> (u64, NodeInfo) {
    let info = NodeInfo {
        name: node.name,
        colo: node.colo,
        peer_address: node.peer_address,
        client_addresses: node.client_addresses,
        incarnation: node.incarnation,
        keep_learner: node.keep_learner,
    };
    (node.id, info)
}

/// To the wire.
pub fn membership_to(membership: &Membership) -> proto::Membership {
    proto::Membership {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|set| proto::VoterSet {
                ids: set.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| node_to(*id, node))
            .collect(),
    }
}

/// From the wire.
pub fn membership_from(membership: proto::Membership) -> Result<Membership, DecodeError> {
    let voters: Vec<BTreeSet<u64>> = membership
        .voters
        .into_iter()
        .map(|set| set.ids.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, NodeInfo> = membership.nodes.into_iter().map(node_from).collect();
    if voters.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, nodes).map_err(|error| DecodeError::Malformed {
        what: "membership",
        why: error.to_string(),
    })
}

/// To the wire.
pub fn stored_membership_to(stored: &StoredMembership) -> proto::StoredMembership {
    proto::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to),
        membership: Some(membership_to(stored.membership())),
    }
}

/// From the wire.
pub fn stored_membership_from(
    stored: proto::StoredMembership,
) -> Result<StoredMembership, DecodeError> {
    let membership = stored
        .membership
        .ok_or_else(|| missing("membership", "membership"))?;
    Ok(StoredMembership::new(
        log_id_optional(stored.log_id.as_ref())?,
        membership_from(membership)?,
    ))
}

/// To the wire and to the log.
pub fn entry_to(entry: &Entry) -> proto::Entry {
    use proto::entry::Payload as Wire;
    let payload = match &entry.payload {
        Payload::Blank => Wire::Blank(proto::Blank {}),
        Payload::Normal(command) => Wire::Command(command.0.clone()),
        Payload::Membership(membership) => Wire::Membership(membership_to(membership)),
    };
    proto::Entry {
        log_id: Some(log_id_to(&entry.log_id)),
        payload: Some(payload),
    }
}

/// From the wire and from the log.
pub fn entry_from(entry: proto::Entry) -> Result<Entry, DecodeError> {
    use proto::entry::Payload as Wire;
    let log_id = entry
        .log_id
        .as_ref()
        .ok_or_else(|| missing("log entry", "log_id"))?;
    let payload = match entry
        .payload
        .ok_or_else(|| missing("log entry", "payload"))?
    {
        Wire::Blank(proto::Blank {}) => Payload::Blank,
        Wire::Command(command) => Payload::Normal(Command(command)),
        Wire::Membership(membership) => Payload::Membership(membership_from(membership)?),
    };
    Ok(Entry {
        log_id: log_id_from(log_id)?,
        payload,
    })
}
