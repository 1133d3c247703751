//! Errors as gRPC statuses: code and text, in one place.
//!
//! Why exact: etcd's clients branch on the text. What more is known goes into the metadata
//! `cfgsvc-detail`.

use std::io;

use cfgsvc_core::refusal::grpc_status;
use cfgsvc_proto::state::Refusal;
use cluster::{CallError, MembershipError, ProposeError, ReadError};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Metadata of a status with what was found, in words.
pub const DETAIL: &str = "cfgsvc-detail";

/// Most bytes of the detail: it travels in a header, for which many clients have 16 KiB in all.
const DETAIL_BYTES_MAX: usize = 1_024;

const NO_LEADER: &str = "etcdserver: no leader";
const LEADER_CHANGED: &str = "etcdserver: leader changed";
const TIMED_OUT: &str = "etcdserver: request timed out";
const STOPPED: &str = "etcdserver: server stopped";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const TOO_MANY: &str = "etcdserver: too many requests";
const TOO_LARGE: &str = "etcdserver: request is too large";
const NOT_LEADER: &str = "etcdserver: not leader";

fn detailed(code: Code, text: &str, detail: &str) -> Status {
    let mut status = Status::new(code, text);
    // A header is ASCII without line ends, and short; a detail may repeat a key of a megabyte.
    let shown: String = detail
        .chars()
        .flat_map(plain)
        .take(DETAIL_BYTES_MAX)
        .collect();
    if !shown.is_empty()
        && let Ok(value) = MetadataValue::try_from(shown)
    {
        status.metadata_mut().insert(DETAIL, value);
    }
    status
}

/// What a header can hold of a character: itself, when it is printable ASCII.
fn plain(c: char) -> impl Iterator<Item = char> {
    let itself = matches!(c, ' '..='~').then_some(c);
    let escaped = itself.is_none().then(|| c.escape_default());
    itself.into_iter().chain(escaped.into_iter().flatten())
}

/// No leader is known.
pub fn no_leader() -> Status {
    Status::unavailable(NO_LEADER)
}

/// The member is stopping.
pub fn stopped() -> Status {
    Status::unavailable(STOPPED)
}

/// Writes are refused for want of space.
pub fn no_space() -> Status {
    Status::resource_exhausted(NO_SPACE)
}

/// More is asked for at a time than is served; it may be asked again.
pub fn too_many_requests() -> Status {
    Status::resource_exhausted(TOO_MANY)
}

/// There was no answer in time.
pub fn timed_out() -> Status {
    Status::unavailable(TIMED_OUT)
}

/// The request is over the limit.
pub fn too_large() -> Status {
    Status::invalid_argument(TOO_LARGE)
}

/// This member does not lead.
pub fn not_leader() -> Status {
    Status::failed_precondition(NOT_LEADER)
}

/// The store below failed.
pub fn of_io(error: &io::Error) -> Status {
    tracing::error!(%error, "reading the state failed");
    detailed(
        Code::Internal,
        "etcdserver: reading the state failed",
        &error.to_string(),
    )
}

/// The state machine refused.
pub fn of_refusal(refused: &Refusal) -> Status {
    let (code, text) = grpc_status(refused.code());
    detailed(Code::from(code), text, &refused.detail)
}

/// The group has no reply.
pub fn of_propose(error: &ProposeError) -> Status {
    let (code, text) = match error {
        ProposeError::NoLeader => (Code::Unavailable, NO_LEADER),
        ProposeError::TooLarge { .. } => (Code::InvalidArgument, TOO_LARGE),
        ProposeError::NoSpace { .. } => (Code::ResourceExhausted, NO_SPACE),
        ProposeError::Overloaded { .. } => (Code::ResourceExhausted, TOO_MANY),
        ProposeError::LeaderChanged => (Code::Unavailable, LEADER_CHANGED),
        ProposeError::Timeout { .. } => (Code::Unavailable, TIMED_OUT),
        ProposeError::Stopped => (Code::Unavailable, STOPPED),
    };
    detailed(code, text, &error.to_string())
}

/// The group did not confirm a read.
pub fn of_read(error: &ReadError) -> Status {
    let text = match error {
        ReadError::NoLeader => NO_LEADER,
        ReadError::Timeout { .. } => TIMED_OUT,
        ReadError::Stopped => STOPPED,
    };
    detailed(Code::Unavailable, text, &error.to_string())
}

/// The leader's service did not answer.
pub fn of_call(error: &CallError) -> Status {
    let text = match error {
        CallError::NoLeader | CallError::NotLeader => NO_LEADER,
        CallError::Timeout { .. } => TIMED_OUT,
        CallError::Refused(_) => LEADER_CHANGED,
    };
    detailed(Code::Unavailable, text, &error.to_string())
}

/// The membership did not change.
pub fn of_membership(error: &MembershipError) -> Status {
    let (code, text) = match error {
        MembershipError::Exists { .. } => (
            Code::FailedPrecondition,
            "etcdserver: Peer URLs already exists",
        ),
        MembershipError::NotFound { .. } => (Code::NotFound, "etcdserver: member not found"),
        MembershipError::OtherIncarnation { .. } => (
            Code::FailedPrecondition,
            "etcdserver: member ID already exist",
        ),
        MembershipError::WouldLoseQuorum { .. } => (
            Code::FailedPrecondition,
            "etcdserver: re-configuration failed due to not enough started members",
        ),
        MembershipError::NotLearner { .. } => (
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member",
        ),
        MembershipError::NotCaughtUp { .. } => (
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member which is in sync with leader",
        ),
        MembershipError::BadTransferee { .. } => (
            Code::FailedPrecondition,
            "etcdserver: bad leader transferee",
        ),
        MembershipError::NotLeader { .. } => (Code::FailedPrecondition, NOT_LEADER),
        MembershipError::Busy => (
            Code::Unavailable,
            "etcdserver: another membership change is under way",
        ),
        MembershipError::Unconfirmed(_) => (Code::Unavailable, TIMED_OUT),
    };
    detailed(code, text, &error.to_string())
}

/// Leadership was not handed over.
pub fn of_transfer(error: &MembershipError) -> Status {
    if matches!(
        error,
        MembershipError::NotFound { .. } | MembershipError::NotLearner { .. }
    ) {
        let text = "etcdserver: bad leader transferee";
        return detailed(Code::FailedPrecondition, text, &error.to_string());
    }
    of_membership(error)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn line(status: &Status) -> String {
        let detail = status
            .metadata()
            .get(DETAIL)
            .map(|value| value.to_str().unwrap_or("?"));
        format!(
            "{:?} {:?} ({})\n",
            status.code(),
            status.message(),
            detail.unwrap_or("-")
        )
    }

    #[test]
    fn detail_of_any_length_fits_into_a_header() {
        let refused = Refusal {
            detail: "'k'\u{0}é".repeat(1 << 20),
            ..Refusal::default()
        };
        let status = of_refusal(&refused);
        let detail = status.metadata().get(DETAIL).expect("a detail");
        assert_eq!(detail.len(), DETAIL_BYTES_MAX);
        assert!(detail.as_bytes().starts_with(br"'k'\u{0}\u{e9}'k"));
    }

    #[test]
    fn what_the_group_says_has_etcds_code_and_text() {
        let proposals = [
            ProposeError::NoLeader,
            ProposeError::TooLarge { bytes: 2, limit: 1 },
            ProposeError::NoSpace {
                node_id: 1,
                free_bytes: 2,
            },
            ProposeError::Overloaded { waiting: 3 },
            ProposeError::LeaderChanged,
            ProposeError::Timeout { waited_ms: 4 },
            ProposeError::Stopped,
        ];
        let reads = [
            ReadError::NoLeader,
            ReadError::Timeout { waited_ms: 1 },
            ReadError::Stopped,
        ];
        let calls = [
            CallError::NoLeader,
            CallError::NotLeader,
            CallError::Timeout { waited_ms: 1 },
            CallError::Refused("bad\nmessage".to_owned()),
        ];
        let lines: String = proposals
            .iter()
            .map(of_propose)
            .chain(reads.iter().map(of_read))
            .chain(calls.iter().map(of_call))
            .map(|status| line(&status))
            .collect();
        expect![[r#"
            Unavailable "etcdserver: no leader" (no leader is known)
            InvalidArgument "etcdserver: request is too large" (command of 2 bytes is over the limit of 1 bytes)
            ResourceExhausted "etcdserver: mvcc: database space exceeded" (disk of member 1 is almost full: 2 bytes left)
            ResourceExhausted "etcdserver: too many requests" (3 commands are waiting, the limit is reached)
            Unavailable "etcdserver: leader changed" (leadership changed before the command was confirmed)
            Unavailable "etcdserver: request timed out" (no confirmation within 4 ms)
            Unavailable "etcdserver: server stopped" (the member is stopping)
            Unavailable "etcdserver: no leader" (no leader is known)
            Unavailable "etcdserver: request timed out" (not confirmed within 1 ms)
            Unavailable "etcdserver: server stopped" (the member is stopping)
            Unavailable "etcdserver: no leader" (no leader is known)
            Unavailable "etcdserver: no leader" (the member does not lead)
            Unavailable "etcdserver: request timed out" (no answer within 1 ms)
            Unavailable "etcdserver: leader changed" (bad\nmessage)
        "#]].assert_eq(&lines);
    }

    #[test]
    fn what_membership_says_has_etcds_code_and_text() {
        let errors = [
            MembershipError::Exists {
                name: "n".to_owned(),
                id: 1,
                peer_address: "a:1".to_owned(),
            },
            MembershipError::NotFound { id: 9 },
            MembershipError::OtherIncarnation {
                name: "n".to_owned(),
                id: 1,
            },
            MembershipError::WouldLoseQuorum {
                id: 1,
                live: 1,
                voters: 2,
                needed: 2,
            },
            MembershipError::NotLearner { id: 1 },
            MembershipError::NotCaughtUp {
                id: 1,
                matched: 2,
                last: 3,
            },
            MembershipError::BadTransferee {
                id: 1,
                why: "it does not vote".to_owned(),
            },
            MembershipError::NotLeader { leader: Some(2) },
            MembershipError::Busy,
            MembershipError::Unconfirmed("lost".to_owned()),
        ];
        let lines: String = errors
            .iter()
            .map(|error| line(&of_membership(error)))
            .collect();
        expect![[r#"
            FailedPrecondition "etcdserver: Peer URLs already exists" (member `n` exists already: id 1, peer address a:1)
            NotFound "etcdserver: member not found" (no member has id 9)
            FailedPrecondition "etcdserver: member ID already exist" (member `n` (id 1) joined with another data directory; its disk was emptied or it runs elsewhere)
            FailedPrecondition "etcdserver: re-configuration failed due to not enough started members" (removing member 1 would leave 1 live of 2 voters, 2 are needed)
            FailedPrecondition "etcdserver: can only promote a learner member" (member 1 is not a learner)
            FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader" (learner 1 holds the log up to 2, the leader is at 3)
            FailedPrecondition "etcdserver: bad leader transferee" (member 1 cannot lead: it does not vote)
            FailedPrecondition "etcdserver: not leader" (this member does not lead; the leader is Some(2))
            Unavailable "etcdserver: another membership change is under way" (another membership change is under way)
            Unavailable "etcdserver: request timed out" (not confirmed: lost)
        "#]].assert_eq(&lines);
    }
}
