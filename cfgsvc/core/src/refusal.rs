//! What a refusal looks like to clients: gRPC code and text, in one place for server and client.
//!
//! Why exact: etcd's clients branch on the text, so the codes that etcd has carry its text to the
//! byte (`etcdserver: ` and so on); our own follow the same form.

use cfgsvc_proto::state::Refusal;
pub use cfgsvc_proto::state::refusal::Code;

/// A refusal with what was found, in words; `detail` may be empty.
pub fn refuse(code: Code, detail: impl Into<String>) -> Refusal {
    Refusal {
        code: code.into(),
        detail: detail.into(),
    }
}

/// Number of the gRPC status code, and the status message.
pub fn grpc_status(code: Code) -> (i32, &'static str) {
    const INVALID_ARGUMENT: i32 = 3;
    const NOT_FOUND: i32 = 5;
    const RESOURCE_EXHAUSTED: i32 = 8;
    const FAILED_PRECONDITION: i32 = 9;
    const OUT_OF_RANGE: i32 = 11;
    const UNAVAILABLE: i32 = 14;
    const UNKNOWN: i32 = 2;
    match code {
        Code::Unspecified => (
            UNKNOWN,
            "etcdserver: refused for a reason this version does not know",
        ),
        Code::EmptyKey => (INVALID_ARGUMENT, "etcdserver: key is not provided"),
        Code::KeyNotFound => (INVALID_ARGUMENT, "etcdserver: key not found"),
        Code::ValueProvided => (INVALID_ARGUMENT, "etcdserver: value is provided"),
        Code::LeaseProvided => (INVALID_ARGUMENT, "etcdserver: lease is provided"),
        Code::TooManyOps => (
            INVALID_ARGUMENT,
            "etcdserver: too many operations in txn request",
        ),
        Code::DuplicateKey => (
            INVALID_ARGUMENT,
            "etcdserver: duplicate key given in txn request",
        ),
        Code::Compacted => (
            OUT_OF_RANGE,
            "etcdserver: mvcc: required revision has been compacted",
        ),
        Code::FutureRevision => (
            OUT_OF_RANGE,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        Code::LeaseNotFound => (NOT_FOUND, "etcdserver: requested lease not found"),
        Code::LeaseExists => (FAILED_PRECONDITION, "etcdserver: lease already exists"),
        Code::LeaseTtlTooLarge => (OUT_OF_RANGE, "etcdserver: too large lease TTL"),
        Code::NoSpace => (
            RESOURCE_EXHAUSTED,
            "etcdserver: mvcc: database space exceeded",
        ),
        Code::SessionNotFound => (NOT_FOUND, "etcdserver: session not found"),
        Code::RequestTooOld => (
            FAILED_PRECONDITION,
            "etcdserver: request id is too old, its answer is not kept",
        ),
        Code::SessionWindowFull => (
            RESOURCE_EXHAUSTED,
            "etcdserver: too many unacknowledged requests in session",
        ),
        Code::NotEmpty => (FAILED_PRECONDITION, "etcdserver: store is not empty"),
        Code::RestoreInProgress => (UNAVAILABLE, "etcdserver: restore in progress"),
        Code::RestoreMismatch => (
            FAILED_PRECONDITION,
            "etcdserver: step does not belong to the restore in progress",
        ),
        Code::InvalidCommand => (INVALID_ARGUMENT, "etcdserver: invalid command"),
        Code::InvalidSort => (INVALID_ARGUMENT, "etcdserver: invalid sort option"),
        Code::RequestTooLarge => (INVALID_ARGUMENT, "etcdserver: request is too large"),
    }
}

/// All codes.
pub const CODES: [Code; 22] = [
    Code::Unspecified,
    Code::EmptyKey,
    Code::KeyNotFound,
    Code::ValueProvided,
    Code::LeaseProvided,
    Code::TooManyOps,
    Code::DuplicateKey,
    Code::Compacted,
    Code::FutureRevision,
    Code::LeaseNotFound,
    Code::LeaseExists,
    Code::LeaseTtlTooLarge,
    Code::NoSpace,
    Code::SessionNotFound,
    Code::RequestTooOld,
    Code::SessionWindowFull,
    Code::NotEmpty,
    Code::RestoreInProgress,
    Code::RestoreMismatch,
    Code::InvalidCommand,
    Code::InvalidSort,
    Code::RequestTooLarge,
];

/// Status message of `code`.
pub fn refusal_text(code: Code) -> &'static str {
    grpc_status(code).1
}

/// The code whose status message is `text`: how a client finds out what it was told.
pub fn from_text(text: &str) -> Option<Code> {
    CODES.into_iter().find(|code| refusal_text(*code) == text)
}

/// Whether the same request may be granted later without anything in it being changed.
pub fn retryable(code: Code) -> bool {
    matches!(
        code,
        Code::NoSpace | Code::SessionWindowFull | Code::RestoreInProgress
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_text_and_is_found_by_it() {
        for code in CODES {
            assert_eq!(from_text(refusal_text(code)), Some(code));
        }
        let known = (0..200).filter(|number| Code::try_from(*number).is_ok());
        assert_eq!(known.count(), CODES.len());
        assert_eq!(from_text("etcdserver: no leader"), None);
    }
}
