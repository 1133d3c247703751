//! Errors: one enum for each family of operations over one common enum for the call itself.
//!
//! Each answers two questions, in exhaustive matches:
//! - `retryable()`: may the same request be granted later without anything in it being changed?
//! - `outcome_unknown()`: may the group have executed it although this error came back?

use crate::refusal::Refusal;
use bytes::Bytes;
use std::time::Duration;
use tonic::Code;

/// The innermost reason of a failed connection, in the operating system's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Cause(pub String);

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No endpoint could be connected to. Nothing was executed.
    #[error("cannot reach the group: no connection to {endpoints}")]
    Unreachable {
        /// All that were tried.
        endpoints: String,
        /// The last one's reason.
        #[source]
        source: Cause,
    },
    /// The time for the request is over.
    #[error("no answer from {endpoints} within {waited_ms} ms")]
    TimedOut {
        /// All that may have been tried.
        endpoints: String,
        /// The request's time, milliseconds.
        waited_ms: u64,
        /// Whether an attempt was sent that may have been executed.
        sent: bool,
        /// What the last attempt said, if anything.
        #[source]
        source: Option<Cause>,
    },
    /// The connection broke after the request had been sent.
    #[error("the connection to {endpoint} broke before the answer came")]
    Broken {
        /// The endpoint.
        endpoint: String,
        /// What broke it.
        #[source]
        source: Cause,
    },
    /// The members that were asked have no working group behind them (or not at this moment).
    #[error("the group cannot answer now: {message}")]
    Unavailable {
        /// The last member's words.
        message: String,
        /// Whether an attempt was sent that may have been executed.
        sent: bool,
    },
    /// Refused before anything was done: too much work is waiting.
    #[error("the group is overloaded: {message}")]
    Overloaded {
        /// The member's words.
        message: String,
    },
    /// The group refused the request. That changed nothing; an earlier attempt may have.
    #[error("the group refused: {message}")]
    Refused {
        /// Which one of the known refusals it is.
        refusal: Option<Refusal>,
        /// gRPC code.
        code: Code,
        /// The member's words.
        message: String,
        /// Whether an earlier attempt was sent that got no answer.
        after_lost: bool,
    },
    /// The endpoint does not have this call: an older version, or another program.
    #[error("{endpoint} does not know this call: {message}")]
    Unimplemented {
        /// The endpoint.
        endpoint: String,
        /// Its words.
        message: String,
    },
    /// An error inside the member.
    #[error("the group failed: {message} (code {code:?})")]
    Failed {
        /// gRPC code.
        code: Code,
        /// The member's words.
        message: String,
    },
    /// The answer does not follow the protocol.
    #[error("the answer of the group is malformed: {what}")]
    Malformed {
        /// What is missing or wrong.
        what: &'static str,
    },
}

impl CallError {
    /// Whether the same request may be granted later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::Unavailable { .. }
            | Self::Overloaded { .. } => true,
            Self::Refused { .. }
            | Self::Unimplemented { .. }
            | Self::Failed { .. }
            | Self::Malformed { .. } => false,
        }
    }

    /// Whether the group may have executed the request.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::TimedOut { sent, .. } | Self::Unavailable { sent, .. } => *sent,
            Self::Refused {
                refusal,
                after_lost,
                ..
            } => *after_lost && !refusal.is_some_and(Refusal::is_final),
            Self::Broken { .. } | Self::Failed { .. } | Self::Malformed { .. } => true,
            Self::Unreachable { .. } | Self::Overloaded { .. } | Self::Unimplemented { .. } => {
                false
            }
        }
    }

    /// The same error, when an earlier attempt of the request may have been executed (`lost`).
    pub(crate) fn after_lost_attempt(self, lost: bool) -> Self {
        match self {
            Self::Refused {
                refusal,
                code,
                message,
                ..
            } => Self::Refused {
                refusal,
                code,
                message,
                after_lost: lost,
            },
            Self::Unimplemented { endpoint, message } if lost => Self::Failed {
                code: Code::Unimplemented,
                message: format!("{endpoint} does not know this call: {message}"),
            },
            other @ (Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::Unavailable { .. }
            | Self::Overloaded { .. }
            | Self::Unimplemented { .. }
            | Self::Failed { .. }
            | Self::Malformed { .. }) => other,
        }
    }

    /// Whether it is a refusal that came after an attempt that may have been executed.
    pub(crate) fn is_after_lost(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                after_lost: true,
                ..
            }
        )
    }

    /// Whether no member could be asked, so that nothing is wrong with the request itself.
    pub fn unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::Unavailable { .. } => true,
            Self::Overloaded { .. }
            | Self::Refused { .. }
            | Self::Unimplemented { .. }
            | Self::Failed { .. }
            | Self::Malformed { .. } => false,
        }
    }

    /// The known refusal in it.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { refusal, .. } => *refusal,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::Unavailable { .. }
            | Self::Overloaded { .. }
            | Self::Unimplemented { .. }
            | Self::Failed { .. }
            | Self::Malformed { .. } => None,
        }
    }
}

/// A key for a person: UTF-8 as it is, other bytes escaped.
pub fn show_key(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        Ok(_) | Err(_) => key.escape_ascii().to_string(),
    }
}

/// Errors of get, put, delete, transactions and compaction.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The key has no bytes.
    #[error("the key is empty")]
    EmptyKey,
    /// The key is not what the write was conditional on.
    #[error(
        "key `{}` changed: expected {}, found {}",
        show_key(key), wanted(*expected), at(*found)
    )]
    Conflict {
        /// The key.
        key: Bytes,
        /// Revision of the change that the caller had seen; 0: the key must be absent.
        expected: i64,
        /// Revision of the key's last change; 0: it is absent.
        found: i64,
    },
    /// A put that keeps the value or the lease of a key that does not exist.
    #[error("the key does not exist, so there is no value or lease to keep")]
    KeyNotFound,
    /// A put that keeps the value or the lease, and gives one.
    #[error("a put that keeps the {what} of its key must not give one")]
    KeptAndGiven {
        /// `value` or `lease`.
        what: &'static str,
    },
    /// The revision is gone.
    #[error("revision {revision} is compacted")]
    Compacted {
        /// As asked; 0 when the request named more than one.
        revision: i64,
    },
    /// The revision has not happened.
    #[error("revision {revision} is in the future")]
    FutureRevision {
        /// As asked; 0 when the request named more than one.
        revision: i64,
    },
    /// The lease has expired, was revoked or never was.
    #[error("lease {lease:x} does not live")]
    LeaseNotFound {
        /// As asked; 0 when the request named more than one.
        lease: i64,
    },
    /// Too many compares or operations.
    #[error("the transaction has {count} operations in its largest list, the limit is 128")]
    TooManyOps {
        /// Length of the longest of its three lists.
        count: usize,
    },
    /// Two writes of one key.
    #[error("the transaction writes a key twice")]
    DuplicateKey,
    /// Over the group's limit for a request.
    #[error("the request is too large: it has {bytes} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The group's store is full; reads and deletes still work.
    #[error("the group's store is full")]
    NoSpace,
    /// The session of the request id has ended; nothing was executed. (When an earlier attempt may
    /// have been, the refusal comes as [`KvError::Call`], whose outcome is unknown.)
    #[error("the session has ended")]
    SessionLost,
    /// The request id is too old: its answer is not kept, and it is not executed again.
    #[error("the answer of this request is not kept any more")]
    AnswerForgotten,
    /// The call itself failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// A key's revision for a person; 0 stands for no key.
fn at(revision: i64) -> String {
    match revision {
        0 => "no key".to_owned(),
        revision => format!("r{revision}"),
    }
}

fn wanted(revision: i64) -> String {
    match revision {
        0 => at(0),
        revision => format!("revision {}", at(revision)),
    }
}

/// What the request asked, to be named in its error.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) revision: i64,
    pub(crate) lease: i64,
    pub(crate) bytes: usize,
    pub(crate) ops: usize,
}

impl KvError {
    pub(crate) fn of(error: CallError, asked: Asked) -> Self {
        use Refusal as R;
        if too_large(&error) {
            return Self::TooLarge { bytes: asked.bytes };
        }
        if error.outcome_unknown() {
            return Self::Call(error);
        }
        let Some(refusal) = error.refusal() else {
            return Self::Call(error);
        };
        match refusal {
            R::EmptyKey => Self::EmptyKey,
            R::KeyNotFound => Self::KeyNotFound,
            R::ValueProvided => Self::KeptAndGiven { what: "value" },
            R::LeaseProvided => Self::KeptAndGiven { what: "lease" },
            R::Compacted => Self::Compacted {
                revision: asked.revision,
            },
            R::FutureRevision => Self::FutureRevision {
                revision: asked.revision,
            },
            R::LeaseNotFound => Self::LeaseNotFound { lease: asked.lease },
            R::TooManyOps => Self::TooManyOps { count: asked.ops },
            R::DuplicateKey => Self::DuplicateKey,
            R::RequestTooLarge => Self::TooLarge { bytes: asked.bytes },
            R::NoSpace => Self::NoSpace,
            R::SessionNotFound => Self::SessionLost,
            R::RequestTooOld => Self::AnswerForgotten,
            R::InvalidSort
            | R::BadMemberAddress
            | R::InvalidCommand
            | R::TtlTooLarge
            | R::MemberNotFound
            | R::TooManyRequests
            | R::SessionWindowFull
            | R::LeaseExists
            | R::MemberIdExists
            | R::PeerAddressExists
            | R::TooFewStartedMembers
            | R::NotALearner
            | R::LearnerNotInSync
            | R::TooManyLearners
            | R::ClusterIdMismatch
            | R::NotLeader
            | R::NotCapable
            | R::LearnerCannotServe
            | R::BadTransferTarget
            | R::NotEmpty
            | R::RestoreMismatch
            | R::RestoreInProgress
            | R::PermissionDenied
            | R::InvalidToken
            | R::Corrupt
            | R::InvalidObject
            | R::ReservedKey
            | R::RoleNotFound
            | R::HostAttends
            | R::NotHolder
            | R::Behind
            | R::InUse
            | R::RoleLease
            | R::EpochChanged
            | R::NotAvailable => Self::Call(error),
        }
    }

    /// Whether the same request may be granted later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NoSpace => true,
            Self::Call(error) => error.retryable(),
            Self::EmptyKey
            | Self::Conflict { .. }
            | Self::KeyNotFound
            | Self::KeptAndGiven { .. }
            | Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::LeaseNotFound { .. }
            | Self::TooManyOps { .. }
            | Self::DuplicateKey
            | Self::TooLarge { .. }
            | Self::SessionLost
            | Self::AnswerForgotten => false,
        }
    }

    /// Whether the group may have executed the request.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::AnswerForgotten => true,
            Self::Call(error) => error.outcome_unknown(),
            Self::NoSpace
            | Self::EmptyKey
            | Self::Conflict { .. }
            | Self::KeyNotFound
            | Self::KeptAndGiven { .. }
            | Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::LeaseNotFound { .. }
            | Self::TooManyOps { .. }
            | Self::DuplicateKey
            | Self::TooLarge { .. }
            | Self::SessionLost => false,
        }
    }
}

/// gRPC's own limit on a message is answered before the group's limit on a request.
fn too_large(error: &CallError) -> bool {
    let CallError::Refused {
        code: Code::ResourceExhausted,
        message,
        ..
    } = error
    else {
        return false;
    };
    message.contains("larger than max")
}

/// Errors of leases.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Expired, revoked, or never granted.
    #[error("lease {lease:x} does not live")]
    NotFound {
        /// The lease.
        lease: i64,
    },
    /// The asked time is not a lease's.
    #[error("lease ttl {ttl_s} s is outside 1..=9000000000 s")]
    TtlOutOfRange {
        /// As asked, seconds.
        ttl_s: i64,
    },
    /// A lease with the chosen id lives.
    #[error("lease {lease:x} exists already")]
    Exists {
        /// The lease.
        lease: i64,
    },
    /// The group's store is full.
    #[error("the group's store is full")]
    NoSpace,
    /// The call itself failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl LeaseError {
    pub(crate) fn of(error: CallError, lease: i64, ttl_s: i64) -> Self {
        if error.outcome_unknown() {
            return Self::Call(error);
        }
        match error.refusal() {
            Some(Refusal::LeaseNotFound) => Self::NotFound { lease },
            Some(Refusal::LeaseExists) => Self::Exists { lease },
            Some(Refusal::TtlTooLarge) => Self::TtlOutOfRange { ttl_s },
            Some(Refusal::NoSpace) => Self::NoSpace,
            Some(_) | None => Self::Call(error),
        }
    }

    /// Whether the same request may be granted later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NoSpace => true,
            Self::Call(error) => error.retryable(),
            Self::NotFound { .. } | Self::TtlOutOfRange { .. } | Self::Exists { .. } => false,
        }
    }

    /// Whether the group may have executed the request.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Call(error) => error.outcome_unknown(),
            Self::NoSpace
            | Self::NotFound { .. }
            | Self::TtlOutOfRange { .. }
            | Self::Exists { .. } => false,
        }
    }
}

/// Why a watch ended. A broken connection does not end it.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The revision to go on from is gone: read the keys again.
    #[error("revision {resume_revision} is compacted{}", since(*compact_revision))]
    Compacted {
        /// What the watch needed next.
        resume_revision: i64,
        /// The oldest revision that can be watched from; 0 when the member did not tell.
        compact_revision: i64,
    },
    /// The group ended or refused the watch.
    #[error("the group ended the watch: {reason}")]
    Cancelled {
        /// Its words.
        reason: String,
    },
    /// The member broke the order of events.
    #[error("the events of the watch are out of order: {what}")]
    OutOfOrder {
        /// What was seen.
        what: String,
    },
    /// The call itself failed, at the start.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl WatchError {
    /// Whether the same watch may be granted later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Call(error) => error.retryable(),
            Self::OutOfOrder { .. } => true,
            Self::Compacted { .. } | Self::Cancelled { .. } => false,
        }
    }

    /// Always false: a watch changes nothing.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Compacted { .. }
            | Self::Cancelled { .. }
            | Self::OutOfOrder { .. }
            | Self::Call(_) => false,
        }
    }
}

fn since(compact_revision: i64) -> String {
    match compact_revision {
        0 => String::new(),
        revision => format!(", history starts at {revision}"),
    }
}

/// Why a lock is not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The time to wait for it is over.
    #[error("lock `{name}` was not had{}{}", within(*waited), held_by(holder))]
    NotHad {
        /// The lock.
        name: String,
        /// Who held it last; empty when that was not heard.
        holder: String,
        /// How long it was waited for; zero when it was not.
        waited: Duration,
        /// Why the group may not know that the client has left the queue; it does when the
        /// client's lease is over.
        #[source]
        source: Option<CallError>,
    },
    /// The group could not be asked, or refused.
    #[error("lock `{name}`")]
    Call {
        /// The lock.
        name: String,
        /// Why.
        #[source]
        source: CallError,
    },
}

fn within(waited: Duration) -> String {
    if waited.is_zero() {
        return String::new();
    }
    format!(" within {} ms", waited.as_millis())
}

fn held_by(holder: &str) -> String {
    if holder.is_empty() {
        return String::new();
    }
    format!(": {holder} holds it")
}

impl LockError {
    /// Whether the same request may be granted later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NotHad { .. } => true,
            Self::Call { source, .. } => source.retryable(),
        }
    }

    /// Whether the client may be in the queue: it leaves it when its lease is over.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::NotHad { source, .. } => source.is_some(),
            Self::Call { source, .. } => source.outcome_unknown(),
        }
    }
}

/// Errors of what operators do with the group.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No member has this id.
    #[error("no member has the id {id:x}")]
    MemberNotFound {
        /// As asked.
        id: u64,
    },
    /// The change would cost the group its majority.
    #[error("the change would leave too few started members for a majority")]
    QuorumAtRisk,
    /// The learner is behind.
    #[error("member {id:x} has not caught up with the leader")]
    NotCaughtUp {
        /// The learner.
        id: u64,
    },
    /// The member votes already.
    #[error("member {id:x} is no learner")]
    NotALearner {
        /// The member.
        id: u64,
    },
    /// Only the leader can do this, and the member that was asked does not lead.
    #[error("the member that was asked does not lead the group")]
    NotLeader,
    /// The member cannot lead.
    #[error("member {id:x} cannot take over the leadership")]
    BadTransferTarget {
        /// The member.
        id: u64,
    },
    /// A restore needs an empty group.
    #[error("the group is not empty")]
    NotEmpty,
    /// The key has no bytes.
    #[error("the key is empty")]
    EmptyKey,
    /// The call itself failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl AdminError {
    pub(crate) fn of(error: CallError, id: u64) -> Self {
        match error.refusal() {
            Some(Refusal::MemberNotFound) => Self::MemberNotFound { id },
            Some(Refusal::TooFewStartedMembers) => Self::QuorumAtRisk,
            Some(Refusal::LearnerNotInSync) => Self::NotCaughtUp { id },
            Some(Refusal::NotALearner) => Self::NotALearner { id },
            Some(Refusal::NotLeader) => Self::NotLeader,
            Some(Refusal::BadTransferTarget) => Self::BadTransferTarget { id },
            Some(Refusal::NotEmpty) => Self::NotEmpty,
            Some(Refusal::EmptyKey) => Self::EmptyKey,
            Some(_) | None => Self::Call(error),
        }
    }

    /// Whether the same request may be granted later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NotCaughtUp { .. } | Self::QuorumAtRisk | Self::NotLeader => true,
            Self::Call(error) => error.retryable(),
            Self::MemberNotFound { .. }
            | Self::NotALearner { .. }
            | Self::BadTransferTarget { .. }
            | Self::NotEmpty
            | Self::EmptyKey => false,
        }
    }

    /// Whether the group may have executed the request.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Call(error) => error.outcome_unknown(),
            Self::MemberNotFound { .. }
            | Self::QuorumAtRisk
            | Self::NotCaughtUp { .. }
            | Self::NotALearner { .. }
            | Self::NotLeader
            | Self::BadTransferTarget { .. }
            | Self::NotEmpty
            | Self::EmptyKey => false,
        }
    }
}
