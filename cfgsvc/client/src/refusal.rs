//! What the group says when it will not do something: the known texts, in one table.
//!
//! Why texts: the etcd protocol gives one gRPC code to many errors, and its clients tell them
//! apart by the message. The table is exact to the byte.

use tonic::{Code, Status};

/// A known refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say what the texts in `TABLE` say")]
pub enum Refusal {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidSort,
    RequestTooLarge,
    BadMemberAddress,
    InvalidCommand,
    Compacted,
    FutureRevision,
    TtlTooLarge,
    LeaseNotFound,
    MemberNotFound,
    SessionNotFound,
    NoSpace,
    TooManyRequests,
    SessionWindowFull,
    LeaseExists,
    MemberIdExists,
    PeerAddressExists,
    TooFewStartedMembers,
    NotALearner,
    LearnerNotInSync,
    TooManyLearners,
    ClusterIdMismatch,
    NotLeader,
    NotCapable,
    LearnerCannotServe,
    BadTransferTarget,
    RequestTooOld,
    NotEmpty,
    RestoreMismatch,
    RestoreInProgress,
    PermissionDenied,
    InvalidToken,
    Corrupt,
    InvalidObject,
    ReservedKey,
    RoleNotFound,
    HostAttends,
    NotHolder,
    Behind,
    InUse,
    RoleLease,
    EpochChanged,
    NotAvailable,
}

const PREFIX: &str = "etcdserver: ";
/// Begins what etcd does not know, in place of [`PREFIX`].
pub(crate) const OWN_PREFIX: &str = "cfgsvc: ";

/// Each refusal's message behind [`PREFIX`], or the whole of it with [`OWN_PREFIX`], and its code
/// (etcd 3.4 sends two of them with another code, so the code is not compared).
const TABLE: [(Refusal, Code, &str); 48] = {
    use Refusal as R;
    const INVALID: Code = Code::InvalidArgument;
    const FAILED: Code = Code::FailedPrecondition;
    const EXHAUSTED: Code = Code::ResourceExhausted;
    const UNSTARTED: &str = "re-configuration failed due to not enough started members";
    [
        (R::EmptyKey, INVALID, "key is not provided"),
        (R::KeyNotFound, INVALID, "key not found"),
        (R::ValueProvided, INVALID, "value is provided"),
        (R::LeaseProvided, INVALID, "lease is provided"),
        (R::TooManyOps, INVALID, "too many operations in txn request"),
        (
            R::DuplicateKey,
            INVALID,
            "duplicate key given in txn request",
        ),
        (R::InvalidSort, INVALID, "invalid sort option"),
        (R::RequestTooLarge, INVALID, "request is too large"),
        (
            R::BadMemberAddress,
            INVALID,
            "given member URLs are invalid",
        ),
        (R::InvalidCommand, INVALID, "invalid command"),
        (
            R::Compacted,
            Code::OutOfRange,
            "mvcc: required revision has been compacted",
        ),
        (
            R::FutureRevision,
            Code::OutOfRange,
            "mvcc: required revision is a future revision",
        ),
        (R::TtlTooLarge, Code::OutOfRange, "too large lease TTL"),
        (
            R::LeaseNotFound,
            Code::NotFound,
            "requested lease not found",
        ),
        (R::MemberNotFound, Code::NotFound, "member not found"),
        (R::SessionNotFound, Code::NotFound, "session not found"),
        (R::NoSpace, EXHAUSTED, "mvcc: database space exceeded"),
        (R::TooManyRequests, EXHAUSTED, "too many requests"),
        (
            R::SessionWindowFull,
            EXHAUSTED,
            "too many unacknowledged requests in session",
        ),
        (R::LeaseExists, FAILED, "lease already exists"),
        (R::MemberIdExists, FAILED, "member ID already exist"),
        (R::PeerAddressExists, FAILED, "Peer URLs already exists"),
        (R::TooFewStartedMembers, FAILED, UNSTARTED),
        (R::NotALearner, FAILED, "can only promote a learner member"),
        (
            R::LearnerNotInSync,
            FAILED,
            "can only promote a learner member which is in sync with leader",
        ),
        (
            R::TooManyLearners,
            FAILED,
            "too many learner members in cluster",
        ),
        (R::ClusterIdMismatch, FAILED, "cluster ID mismatch"),
        (R::NotLeader, FAILED, "not leader"),
        (R::NotCapable, FAILED, "not capable"),
        (
            R::LearnerCannotServe,
            FAILED,
            "rpc not supported for learner",
        ),
        (R::BadTransferTarget, FAILED, "bad leader transferee"),
        (
            R::RequestTooOld,
            FAILED,
            "request id is too old, its answer is not kept",
        ),
        (R::NotEmpty, FAILED, "store is not empty"),
        (
            R::RestoreMismatch,
            FAILED,
            "step does not belong to the restore in progress",
        ),
        (
            R::RestoreInProgress,
            Code::Unavailable,
            "restore in progress",
        ),
        (
            R::PermissionDenied,
            Code::PermissionDenied,
            "permission denied",
        ),
        (R::InvalidToken, Code::Unauthenticated, "invalid auth token"),
        (R::Corrupt, Code::DataLoss, "corrupt cluster"),
        (R::InvalidObject, INVALID, "cfgsvc: invalid object"),
        (R::ReservedKey, INVALID, "cfgsvc: key is reserved"),
        (R::RoleNotFound, Code::NotFound, "cfgsvc: role not found"),
        (R::HostAttends, FAILED, "cfgsvc: another agent attends"),
        (R::NotHolder, FAILED, "cfgsvc: role is not granted so"),
        (R::Behind, FAILED, "cfgsvc: behind the last holder"),
        (R::InUse, FAILED, "cfgsvc: object is in use"),
        (R::RoleLease, FAILED, "cfgsvc: lease belongs to a role"),
        (R::EpochChanged, FAILED, "cfgsvc: epoch has changed"),
        (
            R::NotAvailable,
            FAILED,
            "cfgsvc: nobody can take the role so",
        ),
    ]
};

impl Refusal {
    /// What `status` refuses, when its message is a known one.
    pub(crate) fn from_status(status: &Status) -> Option<Self> {
        Self::from_message(status.message())
    }

    /// Whether the same request can have had no other answer before: the refusal depends on the
    /// request alone, or comes from the log, where a request id is executed once. The others depend
    /// on the moment: an earlier attempt may have been executed.
    pub fn is_final(self) -> bool {
        match self {
            Self::EmptyKey
            | Self::KeyNotFound
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::TooManyOps
            | Self::DuplicateKey
            | Self::InvalidSort
            | Self::RequestTooLarge
            | Self::BadMemberAddress
            | Self::InvalidCommand
            | Self::Compacted
            | Self::FutureRevision
            | Self::TtlTooLarge
            | Self::LeaseNotFound
            | Self::RequestTooOld
            | Self::InvalidObject
            | Self::ReservedKey
            | Self::RoleNotFound
            | Self::HostAttends
            | Self::NotHolder
            | Self::Behind
            | Self::InUse
            | Self::RoleLease
            | Self::EpochChanged
            | Self::NotAvailable => true,
            Self::MemberNotFound
            | Self::SessionNotFound
            | Self::NoSpace
            | Self::TooManyRequests
            | Self::SessionWindowFull
            | Self::LeaseExists
            | Self::MemberIdExists
            | Self::PeerAddressExists
            | Self::TooFewStartedMembers
            | Self::NotALearner
            | Self::LearnerNotInSync
            | Self::TooManyLearners
            | Self::ClusterIdMismatch
            | Self::NotLeader
            | Self::NotCapable
            | Self::LearnerCannotServe
            | Self::BadTransferTarget
            | Self::NotEmpty
            | Self::RestoreMismatch
            | Self::RestoreInProgress
            | Self::PermissionDenied
            | Self::InvalidToken
            | Self::Corrupt => false,
        }
    }

    /// The refusal whose message is `message`.
    pub fn from_message(message: &str) -> Option<Self> {
        let text = if message.starts_with(OWN_PREFIX) {
            message
        } else {
            message.strip_prefix(PREFIX)?
        };
        TABLE.iter().find(|row| row.2 == text).map(|row| row.0)
    }

    /// The whole message as it is sent.
    pub fn message(self) -> String {
        let row = TABLE.iter().find(|row| row.0 == self);
        let text = row
            .expect("a unit test holds every refusal against the table")
            .2;
        if text.starts_with(OWN_PREFIX) {
            return text.to_owned();
        }
        format!("{PREFIX}{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_one_text_and_is_found_by_it() {
        for (index, (refusal, _, _)) in TABLE.iter().enumerate() {
            assert_eq!(
                *refusal as usize, index,
                "the table is in the order of the enum"
            );
            assert_eq!(Refusal::from_message(&refusal.message()), Some(*refusal));
        }
        assert_eq!(TABLE.len(), Refusal::NotAvailable as usize + 1);
        assert_eq!(Refusal::from_message("etcdserver: no leader"), None);
        assert_eq!(Refusal::from_message("key not found"), None);
    }
}
