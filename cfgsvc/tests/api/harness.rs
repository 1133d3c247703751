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
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub solo: Arc<Solo>,
    pub service: Arc<Service>,
    pub stop: watch::Sender<bool>,
    pub served: JoinHandle<()>,
    _tasks: JoinSet<()>,
}

/// Limits that suit tests.
pub fn limits() -> Limits {
    Limits {
        request_bytes: 3 << 19,
        min_lease_ttl_s: 2,
        quota_bytes: None,
        leaderless: Duration::from_millis(300),
        request_patience: Duration::from_secs(2),
        progress_interval: Duration::from_secs(600),
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(limits()).await
    }

    pub async fn start_with(limits: Limits) -> Self {
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

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn clients(&self) -> Clients {
        Clients::connect(&self.url())
    }
}

/// Clients of one address.
#[derive(Clone)]
pub struct Clients {
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub admin: AdminClient<Channel>,
}

impl Clients {
    pub fn connect(url: &str) -> Self {
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
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing within {PATIENCE:?}"),
    }
}
