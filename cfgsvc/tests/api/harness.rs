//! A server on a loopback port over [`Solo`], and the clients for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cfgsvc::housekeeping::Retention;
use cfgsvc::run::{Parts, background};
use cfgsvc::server;
use cfgsvc::service::{Limits, Service};
use cfgsvc_proto::etcd::cluster_client::ClusterClient;
use cfgsvc_proto::etcd::kv_client::KvClient;
use cfgsvc_proto::etcd::lease_client::LeaseClient;
use cfgsvc_proto::etcd::maintenance_client::MaintenanceClient;
use cfgsvc_proto::etcd::watch_client::WatchClient;
use cfgsvc_proto::etcd::watch_request::RequestUnion;
use cfgsvc_proto::etcd::{PutRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use cfgsvc_proto::v1::admin_client::AdminClient;
use cfgsvc_proto::v1::roles_client::RolesClient;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::solo::Solo;

/// Longest wait of a test for anything.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) solo: Arc<Solo>,
    pub(crate) service: Arc<Service>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) served: JoinHandle<()>,
    pub(crate) tasks: JoinSet<()>,
}

/// Limits that suit tests.
pub(crate) fn limits() -> Limits {
    Limits {
        request_bytes: 3 << 19,
        min_lease_ttl_s: 2,
        quota_bytes: None,
        leaderless: Duration::from_millis(300),
        request_patience: Duration::from_secs(2),
        progress_interval: Duration::from_mins(10),
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(limits()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        let parts = Parts::default();
        let solo = Solo::start(parts.app(), parts.leader_service());
        let (stop, stopping) = watch::channel(false);
        let service = parts.service(Arc::clone(&solo) as _, limits, stopping);
        let tasks = background(
            &service,
            Retention {
                after: None,
                keep: None,
            },
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let serving = Arc::clone(&service);
        let served = tokio::spawn(async move {
            server::serve(&serving, listener)
                .await
                .expect("serves until it is stopped");
        });
        Self {
            address,
            solo,
            service,
            stop,
            served,
            tasks,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn clients(&self) -> Clients {
        Clients::connect(&self.url())
    }
}

/// Clients of one address.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) kv: KvClient<Channel>,
    pub(crate) watch: WatchClient<Channel>,
    pub(crate) lease: LeaseClient<Channel>,
    pub(crate) cluster: ClusterClient<Channel>,
    pub(crate) maintenance: MaintenanceClient<Channel>,
    pub(crate) admin: AdminClient<Channel>,
    pub(crate) roles: RolesClient<Channel>,
}

impl Clients {
    pub(crate) fn connect(url: &str) -> Self {
        let channel = Endpoint::from_shared(url.to_owned())
            .expect("a URL")
            .connect_lazy();
        let large = 64 << 20;
        Self {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(large),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(large),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()).max_decoding_message_size(large),
            admin: AdminClient::new(channel.clone()),
            roles: RolesClient::new(channel),
        }
    }
}

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let value = tokio::time::timeout(PATIENCE, future).await;
    value.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

/// A put of `value` at `key`; returns its revision.
pub(crate) async fn put(clients: &Clients, key: &str, value: &[u8]) -> i64 {
    let request = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value),
        ..PutRequest::default()
    };
    let response = clients
        .kv
        .clone()
        .put(request)
        .await
        .expect("a put")
        .into_inner();
    response.header.expect("a header").revision
}

/// Code and text of an error, for comparing.
pub(crate) fn error<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
    let status = result.expect_err("must be refused");
    format!("{:?}: {}", status.code(), status.message())
}

/// A request with metadata.
pub(crate) fn with<T>(message: T, pairs: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in pairs {
        request
            .metadata_mut()
            .insert(*name, value.parse().expect("a header"));
    }
    request
}

/// An open watch stream.
pub(crate) struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl WatchStream {
    pub(crate) async fn open(clients: &Clients, pairs: &[(&'static str, &str)]) -> Self {
        let (requests, stream) = mpsc::channel(16);
        let request = with(ReceiverStream::new(stream), pairs);
        let responses = clients
            .watch
            .clone()
            .watch(request)
            .await
            .expect("a stream")
            .into_inner();
        Self {
            requests,
            responses,
        }
    }

    pub(crate) async fn ask(&self, union: RequestUnion) {
        let request = WatchRequest {
            request_union: Some(union),
        };
        self.requests
            .send(request)
            .await
            .expect("the stream is open");
    }

    /// Creates a watcher and returns the answer.
    pub(crate) async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.ask(RequestUnion::CreateRequest(request)).await;
        self.next().await.expect("no error")
    }

    pub(crate) async fn next(&mut self) -> Result<WatchResponse, Status> {
        let message = soon("a watch response", self.responses.message()).await;
        message.map(|response| response.expect("the stream does not end by itself"))
    }
}

/// A watch of all keys.
pub(crate) fn all_keys(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        start_revision,
        ..WatchCreateRequest::default()
    }
}
