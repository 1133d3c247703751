//! What a member's service asks the leader's about leases.

use bytes::Bytes;
use cfgsvc_proto::v1::{Probes, Row, VotesResponse};
use cluster::CallError;
use prost::Message;

/// Leases to renew and to look at.
#[derive(Clone, PartialEq, Message)]
pub struct LeaseCall {
    /// Ids of leases to renew.
    #[prost(int64, repeated, tag = "1")]
    pub renew: Vec<i64>,
    /// Ids of leases whose remaining time is asked for.
    #[prost(int64, repeated, tag = "2")]
    pub look: Vec<i64>,
    /// What hosts see.
    #[prost(message, repeated, tag = "3")]
    pub rows: Vec<Row>,
    /// What the leader makes of it is asked for.
    #[prost(bool, tag = "4")]
    pub votes: bool,
}

/// Answers, in the order of the call.
#[derive(Clone, PartialEq, Message)]
pub struct LeaseAnswer {
    /// One for each lease to renew.
    #[prost(message, repeated, tag = "1")]
    pub renewed: Vec<Renewed>,
    /// One for each lease to look at.
    #[prost(message, repeated, tag = "2")]
    pub seen: Vec<Seen>,
    /// One for each row: whom that host is to probe; empty when it knows.
    #[prost(message, repeated, tag = "3")]
    pub probes: Vec<Probes>,
    /// What the leader makes of all rows.
    #[prost(message, optional, tag = "4")]
    pub votes: Option<VotesResponse>,
}

/// What became of a renewal.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Renewed {
    /// Milliseconds from now; 0 when there is no such lease, or it was not renewed.
    #[prost(uint64, tag = "1")]
    pub ttl_ms: u64,
    /// Its end was proposed: ask again.
    #[prost(bool, tag = "2")]
    pub undecided: bool,
    /// It is not renewed any more: its holder is asked to stop.
    #[prost(bool, tag = "3")]
    pub closing: bool,
}

/// What is left of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Seen {
    /// Milliseconds it was granted; 0 when there is no such lease.
    #[prost(uint64, tag = "1")]
    pub granted_ms: u64,
    /// Milliseconds that are left.
    #[prost(uint64, tag = "2")]
    pub remaining_ms: u64,
}

/// Reads a message of another member.
pub fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, CallError> {
    M::decode(bytes).map_err(|error| {
        CallError::Refused(format!("message about leases does not decode: {error}"))
    })
}
