//! The group's errors and members on the wire, for requests that are forwarded to the leader; and
//! what openraft's refusals mean to the group's users.

use openraft::error::{ClientWriteError, LinearizableReadError, RaftError};

use crate::group::{CallError, Member, MembershipError, NewMember, ProposeError, ReadError};
use crate::proto;
use crate::proto::failure::Kind;
use crate::proto::membership_failure::Kind as MemberKind;
use crate::transport::failure;
use crate::types::GroupTypes;

/// Why a write that this member proposed was not made, or may not have been.
pub fn write_refused<C: GroupTypes>(error: RaftError<C, ClientWriteError<C>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => ProposeError::NoLeader,
        RaftError::APIError(
            ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_),
        ) => ProposeError::LeaderChanged,
        RaftError::Fatal(_) => ProposeError::Stopped,
    }
}

/// Why a read index was not confirmed here; no quorum answered within `waited_ms` milliseconds.
pub fn read_refused<C: GroupTypes>(
    error: RaftError<C, LinearizableReadError<C>>,
    waited_ms: u64,
) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => ReadError::NoLeader,
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => {
            ReadError::Timeout { waited_ms }
        }
        RaftError::Fatal(_) => ReadError::Stopped,
    }
}

/// To the wire.
pub fn propose_failure(error: &ProposeError) -> proto::Failure {
    let mut wire = failure(Kind::Unspecified, error.to_string());
    let (kind, found, limit) = match error {
        ProposeError::NoLeader => (Kind::NoLeader, 0, 0),
        ProposeError::TooLarge { bytes, limit } => (Kind::TooLarge, *bytes as u64, *limit as u64),
        ProposeError::NoSpace {
            node_id,
            free_bytes,
        } => (Kind::NoSpace, *node_id, *free_bytes),
        ProposeError::Overloaded { waiting } => (Kind::Overloaded, *waiting as u64, 0),
        ProposeError::LeaderChanged => (Kind::LeaderChanged, 0, 0),
        ProposeError::Timeout { waited_ms } => (Kind::Timeout, *waited_ms, 0),
        ProposeError::Stopped => (Kind::Stopped, 0, 0),
    };
    wire.set_kind(kind);
    wire.found = found;
    wire.limit = limit;
    wire
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// From the wire. Whatever is not certain to be unexecuted is an unknown outcome.
pub fn propose_error(wire: &proto::Failure) -> ProposeError {
    match wire.kind() {
        Kind::NotLeader | Kind::NoLeader => ProposeError::NoLeader,
        Kind::TooLarge => ProposeError::TooLarge {
            bytes: size(wire.found),
            limit: size(wire.limit),
        },
        Kind::NoSpace => ProposeError::NoSpace {
            node_id: wire.found,
            free_bytes: wire.limit,
        },
        Kind::Overloaded => ProposeError::Overloaded {
            waiting: size(wire.found),
        },
        Kind::Timeout => ProposeError::Timeout {
            waited_ms: wire.found,
        },
        Kind::LeaderChanged | Kind::Stopped | Kind::Unspecified | Kind::Refused => {
            ProposeError::LeaderChanged
        }
    }
}

/// To the wire.
pub fn read_failure(error: &ReadError) -> proto::Failure {
    let mut wire = failure(Kind::Unspecified, error.to_string());
    match error {
        ReadError::NoLeader => wire.set_kind(Kind::NotLeader),
        ReadError::Timeout { waited_ms } => {
            wire.set_kind(Kind::Timeout);
            wire.found = *waited_ms;
        }
        ReadError::Stopped => wire.set_kind(Kind::Stopped),
    }
    wire
}

/// From the wire.
pub fn read_error(wire: &proto::Failure) -> ReadError {
    match wire.kind() {
        Kind::Timeout => ReadError::Timeout {
            waited_ms: wire.found,
        },
        Kind::Unspecified
        | Kind::NotLeader
        | Kind::NoLeader
        | Kind::TooLarge
        | Kind::NoSpace
        | Kind::Overloaded
        | Kind::LeaderChanged
        | Kind::Stopped
        | Kind::Refused => ReadError::NoLeader,
    }
}

/// To the wire.
pub fn call_failure(error: &CallError) -> proto::Failure {
    match error {
        CallError::NoLeader => failure(Kind::NoLeader, ""),
        CallError::NotLeader => failure(Kind::NotLeader, ""),
        CallError::Timeout { waited_ms } => {
            let mut wire = failure(Kind::Timeout, "");
            wire.found = *waited_ms;
            wire
        }
        CallError::Refused(why) => failure(Kind::Refused, why),
    }
}

/// From the wire.
pub fn call_error(wire: &proto::Failure) -> CallError {
    match wire.kind() {
        Kind::Refused => CallError::Refused(wire.detail.clone()),
        Kind::Timeout => CallError::Timeout {
            waited_ms: wire.found,
        },
        Kind::NotLeader => CallError::NotLeader,
        Kind::Unspecified
        | Kind::NoLeader
        | Kind::TooLarge
        | Kind::NoSpace
        | Kind::Overloaded
        | Kind::LeaderChanged
        | Kind::Stopped => CallError::NoLeader,
    }
}

/// To the wire.
pub fn new_member_to(member: NewMember) -> proto::Node {
    proto::Node {
        id: 0,
        name: member.name,
        colo: member.colo,
        peer_address: member.peer_address,
        client_addresses: member.client_addresses,
        incarnation: member.incarnation,
        keep_learner: member.learner,
    }
}

/// From the wire.
pub fn new_member_from(node: proto::Node) -> NewMember {
    NewMember {
        name: node.name,
        colo: node.colo,
        peer_address: node.peer_address,
        client_addresses: node.client_addresses,
        incarnation: node.incarnation,
        learner: node.keep_learner,
    }
}

/// To the wire.
pub fn member_to(member: &Member) -> proto::Node {
    proto::Node {
        id: member.id,
        name: member.name.clone(),
        colo: member.colo.clone(),
        peer_address: member.peer_address.clone(),
        client_addresses: member.client_addresses.clone(),
        incarnation: member.incarnation.clone(),
        keep_learner: member.keep_learner,
    }
}

/// From the wire; a member that was just added is a learner.
pub fn member_from(node: proto::Node) -> Member {
    Member {
        id: node.id,
        name: node.name,
        colo: node.colo,
        peer_address: node.peer_address,
        client_addresses: node.client_addresses,
        incarnation: node.incarnation,
        keep_learner: node.keep_learner,
        voter: false,
        matched: None,
        last_contact_ms: None,
    }
}

/// To the wire.
pub fn membership_failure(error: &MembershipError) -> proto::MembershipFailure {
    let wire =
        |kind: MemberKind, text: &str, id: u64, numbers: Vec<u64>| proto::MembershipFailure {
            kind: kind.into(),
            text: text.to_owned(),
            id,
            numbers,
            address: String::new(),
        };
    match error {
        MembershipError::Exists {
            name,
            id,
            peer_address,
        } => proto::MembershipFailure {
            address: peer_address.clone(),
            ..wire(MemberKind::Exists, name, *id, vec![])
        },
        MembershipError::NotFound { id } => wire(MemberKind::NotFound, "", *id, vec![]),
        MembershipError::OtherIncarnation { name, id } => {
            wire(MemberKind::OtherIncarnation, name, *id, vec![])
        }
        MembershipError::WouldLoseQuorum {
            id,
            live,
            voters,
            needed,
        } => {
            let numbers = vec![*live as u64, *voters as u64, *needed as u64];
            wire(MemberKind::WouldLoseQuorum, "", *id, numbers)
        }
        MembershipError::NotLearner { id } => wire(MemberKind::NotLearner, "", *id, vec![]),
        MembershipError::NotCaughtUp { id, matched, last } => {
            wire(MemberKind::NotCaughtUp, "", *id, vec![*matched, *last])
        }
        MembershipError::BadTransferee { id, why } => {
            wire(MemberKind::BadTransferee, why, *id, vec![])
        }
        MembershipError::NotLeader { leader } => {
            wire(MemberKind::NotLeader, "", leader.unwrap_or(0), vec![])
        }
        MembershipError::Busy => wire(MemberKind::Busy, "", 0, vec![]),
        MembershipError::Unconfirmed(why) => wire(MemberKind::Unconfirmed, why, 0, vec![]),
    }
}

/// From the wire.
pub fn membership_error(wire: proto::MembershipFailure) -> MembershipError {
    let number = |place: usize| wire.numbers.get(place).copied().unwrap_or(0);
    let id = wire.id;
    match wire.kind() {
        MemberKind::Exists => MembershipError::Exists {
            name: wire.text,
            id,
            peer_address: wire.address,
        },
        MemberKind::NotFound => MembershipError::NotFound { id },
        MemberKind::OtherIncarnation => MembershipError::OtherIncarnation {
            name: wire.text,
            id,
        },
        MemberKind::WouldLoseQuorum => MembershipError::WouldLoseQuorum {
            id,
            live: size(number(0)),
            voters: size(number(1)),
            needed: size(number(2)),
        },
        MemberKind::NotLearner => MembershipError::NotLearner { id },
        MemberKind::NotCaughtUp => MembershipError::NotCaughtUp {
            id,
            matched: number(0),
            last: number(1),
        },
        MemberKind::BadTransferee => MembershipError::BadTransferee { id, why: wire.text },
        MemberKind::NotLeader => MembershipError::NotLeader {
            leader: (id != 0).then_some(id),
        },
        MemberKind::Busy => MembershipError::Busy,
        MemberKind::Unconfirmed | MemberKind::Unspecified => {
            MembershipError::Unconfirmed(wire.text)
        }
    }
}
