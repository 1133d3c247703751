//! A server on a loopback port over [`Solo`], and the clients for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cfgsvc::housekeeping::Retention;
use cfgsvc::run::{Parts, background};
use cfgsvc::server;
use cfgsvc::service::{Limits, Service};
use cfgsvc_proto::etcd::cluster_client::ClusterClient;
use cfgsvc_proto::etcd::kv_client::KvClient;
use cfgsvc_proto::etcd::lease_client::LeaseClient;
use cfgsvc_proto::etcd::maintenance_client::MaintenanceClient;
use cfgsvc_proto::etcd::watch_client::WatchClient;
use cfgsvc_proto::v1::admin_client::AdminClient;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::{Channel, Endpoint};

use crate::solo::Solo;

/// Longest wait of a test for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) solo: Arc<Solo>,
    pub(crate) service: Arc<Service>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) served: JoinHandle<()>,
    _tasks: JoinSet<()>,
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
            _tasks: tasks,
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
            admin: AdminClient::new(channel),
        }
    }
}

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let value = tokio::time::timeout(PATIENCE, future).await;
    value.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}
