//! What a refusal looks like to clients: gRPC code and text, in one place for server and client.
//!
//! Why exact: etcd's clients branch on the text, so the codes that etcd has carry its text to the
//! byte (`etcdserver: ` and so on); our own follow the same form.

use cfgsvc_proto::state::Refusal;
pub use cfgsvc_proto::state::refusal::Code;

/// Longest detail of a refusal, bytes. It travels in a header beside the status, and clients take
/// about 8 KiB of headers, escaped; of a longer one they would see a broken stream and no refusal.
const DETAIL_BYTES_MAX: usize = 1024;

/// Most bytes of a key that a text shows.
const SHOWN_KEY_BYTES: usize = 64;

/// A refusal with what was found, in words; `detail` may be empty.
pub fn refuse(code: Code, detail: impl Into<String>) -> Refusal {
    let mut detail = detail.into();
    if detail.len() > DETAIL_BYTES_MAX {
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX - 3));
        detail.push_str("...");
    }
    Refusal {
        code: code.into(),
        detail,
    }
}

/// A key, or its beginning and its length, for a text.
pub(crate) fn shown(key: &[u8]) -> String {
    match key.get(..SHOWN_KEY_BYTES) {
        Some(begin) if key.len() > SHOWN_KEY_BYTES => {
            format!("'{}...' ({} bytes)", begin.escape_ascii(), key.len())
        }
        Some(_) | None => format!("'{}'", key.escape_ascii()),
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
        Code::InvalidObject => (INVALID_ARGUMENT, "cfgsvc: invalid object"),
        Code::ReservedKey => (INVALID_ARGUMENT, "cfgsvc: key is reserved"),
        Code::RoleNotFound => (NOT_FOUND, "cfgsvc: role not found"),
        Code::HostAttends => (FAILED_PRECONDITION, "cfgsvc: another agent attends"),
        Code::NotHolder => (FAILED_PRECONDITION, "cfgsvc: role is not granted so"),
        Code::Behind => (FAILED_PRECONDITION, "cfgsvc: behind the last holder"),
        Code::InUse => (FAILED_PRECONDITION, "cfgsvc: object is in use"),
        Code::RoleLease => (FAILED_PRECONDITION, "cfgsvc: lease belongs to a role"),
        Code::EpochChanged => (FAILED_PRECONDITION, "cfgsvc: epoch has changed"),
        Code::NotAvailable => (FAILED_PRECONDITION, "cfgsvc: nobody can take the role so"),
    }
}

/// All codes.
pub const CODES: [Code; 32] = [
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
    Code::InvalidObject,
    Code::ReservedKey,
    Code::RoleNotFound,
    Code::HostAttends,
    Code::NotHolder,
    Code::Behind,
    Code::InUse,
    Code::RoleLease,
    Code::EpochChanged,
    Code::NotAvailable,
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
    fn detail_fits_into_a_header_however_long_what_it_names_is() {
        let key = vec![0; 1 << 20];
        let named = refuse(Code::KeyNotFound, format!("key {}", shown(&key)));
        let begin = "\\x00".repeat(64);
        assert_eq!(named.detail, format!("key '{begin}...' (1048576 bytes)"));
        assert_eq!(shown(b"a\n"), r"'a\n'");
        let long = refuse(Code::InvalidCommand, "ä".repeat(1 << 20)).detail;
        assert_eq!(long, format!("{}...", "ä".repeat(510)));
        let just = "x".repeat(1024);
        assert_eq!(refuse(Code::InvalidCommand, just.clone()).detail, just);
    }

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
