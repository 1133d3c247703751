//! How members call each other: connections, the identity that every call carries, errors.
//!
//! Invariants
//! - every call between members of a group names the cluster, the caller (with its incarnation) and
//!   the callee; the callee checks all of it before anything else: a wrong address in a membership
//!   or a swapped disk must never reach Raft.
//! - messages and windows are bounded; nothing here queues without a limit.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::proto;
use crate::proto::raft_client::RaftClient;

/// Bytes of one message at most: an append request is cut at 1 MiB or one command.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The client side of the members' protocol.
pub type PeerClient = RaftClient<Channel>;

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The group.
    pub cluster_id: u64,
    /// The calling member.
    pub node_id: u64,
    /// The incarnation of its data directory.
    pub incarnation: String,
}

impl Caller {
    /// A request that names caller and callee.
    pub fn request<T>(&self, to: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("cluster-id", self.cluster_id.into());
        metadata.insert("from-id", self.node_id.into());
        metadata.insert("to-id", to.into());
        if let Ok(incarnation) = MetadataValue::<Ascii>::try_from(&self.incarnation) {
            metadata.insert("from-incarnation", incarnation);
        }
        request
    }
}

/// What a call says of its two ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallIdentity {
    /// The group.
    pub cluster_id: u64,
    /// The caller.
    pub from_id: u64,
    /// The incarnation of the caller's data directory.
    pub from_incarnation: String,
    /// Whom the caller believes to reach.
    pub to_id: u64,
}

impl CallIdentity {
    /// Reads it from a call's metadata.
    pub fn from_metadata(metadata: &MetadataMap) -> Result<Self, Status> {
        let text = |name: &'static str| {
            metadata
                .get(name)
                .and_then(|value| value.to_str().ok())
                .ok_or_else(|| Status::invalid_argument(format!("the call lacks `{name}`")))
        };
        let number = |name: &'static str| {
            text(name)?
                .parse::<u64>()
                .map_err(|_| Status::invalid_argument(format!("`{name}` is not a number")))
        };
        Ok(Self {
            cluster_id: number("cluster-id")?,
            from_id: number("from-id")?,
            from_incarnation: text("from-incarnation")?.to_owned(),
            to_id: number("to-id")?,
        })
    }
}

/// A connection that is made when it is first used.
pub fn connect(
    address: &str,
    connect_timeout: Duration,
) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20);
    Ok(endpoint.connect_lazy())
}

/// The members' protocol over a connection.
pub fn peer_client(channel: Channel) -> PeerClient {
    RaftClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Whether a failed call certainly never reached the other side.
pub fn never_arrived(status: &Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

/// A [`proto::Failure`] without figures.
pub fn failure(kind: proto::failure::Kind, detail: impl Into<String>) -> proto::Failure {
    proto::Failure {
        kind: kind.into(),
        detail: detail.into(),
        found: 0,
        limit: 0,
    }
}
