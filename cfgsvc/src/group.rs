//! Starts this process' member of the group.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cfgsvc_proto::v1;
use cfgsvc_proto::v1::admin_client::AdminClient;
use cluster::start::{Beginning, JoinFn, Options, Running};
use cluster::{App, LeaderService, NewMember};
use tonic::transport::Endpoint;

use crate::options::{Settings, Start};

/// A command holds one request and what surrounds it: ids, author, reason.
const COMMAND_OVERHEAD_BYTES: usize = 64 << 10;
/// etcd's request timeout: 5 s and two elections.
const REQUEST_TIMEOUT_BASE: Duration = Duration::from_secs(5);
/// Bytes of log entries after which there is a snapshot, whatever their number.
const SNAPSHOT_BYTES: u64 = 128 << 20;
/// Entries that stay in the log after a snapshot, for members that lag a little.
const KEEP_ENTRIES: u64 = 10_000;
/// One try to join takes this long at most.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the member that `settings` describe, over `app`; other members' services reach
/// `leader_service` while this one leads.
pub async fn start_group(
    settings: &Settings,
    app: impl App,
    leader_service: Arc<dyn LeaderService>,
) -> anyhow::Result<Running> {
    let listen_peer = resolve(&settings.listen_peer).await?;
    let beginning = match &settings.start {
        Start::Initial(founders) => Beginning::Found(founders.clone()),
        Start::Join { address, learner } => Beginning::Join {
            ask: join_through(address.clone()),
            learner: *learner,
        },
    };
    let options = Options {
        name: settings.name.clone(),
        colo: settings.colo.clone(),
        data_directory: settings.data_dir.clone(),
        listen_peer,
        advertise_peer: settings.advertise_peer.clone(),
        client_addresses: settings.advertise_client.clone(),
        beginning,
        heartbeat: settings.heartbeat,
        election: settings.election,
        snapshot_entries: settings.snapshot_entries,
        snapshot_bytes: SNAPSHOT_BYTES,
        keep_entries: KEEP_ENTRIES,
        command_bytes_max: settings.max_request_bytes + COMMAND_OVERHEAD_BYTES,
        request_timeout: REQUEST_TIMEOUT_BASE + 2 * settings.election,
        min_free_bytes: settings.min_free_bytes,
        danger_adopt_copied_data: settings.danger_adopt_copied_data,
    };
    Ok(cluster::start::start(options, Box::new(app), leader_service).await?)
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(address)
        .await
        .with_context(|| format!("cannot resolve {address} (--listen-peer)"))?;
    found
        .next()
        .with_context(|| format!("{address} (--listen-peer) has no address"))
}

/// Asks a running group through any member's client port. A member that has its place already asks
/// once: to be refused by another group, not to wait for its own.
fn join_through(address: String) -> JoinFn {
    Box::new(move |member, cluster_id| {
        let address = address.clone();
        Box::pin(async move {
            loop {
                match ask(&address, &member, cluster_id).await {
                    Ok(joined) => return Ok(Some((joined.cluster_id, joined.node_id))),
                    Err(status) if retryable(status.code()) && cluster_id != 0 => return Ok(None),
                    Err(status) if retryable(status.code()) => {
                        tracing::warn!(address, "not joined yet: {}", status.message());
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    Err(status) => return Err(status.message().to_owned()),
                }
            }
        })
    })
}

fn retryable(code: tonic::Code) -> bool {
    matches!(
        code,
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Aborted
    )
}

async fn ask(
    address: &str,
    member: &NewMember,
    cluster_id: u64,
) -> Result<v1::JoinResponse, tonic::Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| tonic::Status::invalid_argument(format!("--join {address}: {error}")))?
        .connect_timeout(JOIN_TIMEOUT)
        .timeout(JOIN_TIMEOUT);
    let channel = endpoint.connect().await.map_err(|error| {
        tonic::Status::unavailable(format!("cannot connect to {address}: {error}"))
    })?;
    let request = v1::JoinRequest {
        name: member.name.clone(),
        colo: member.colo.clone(),
        peer_address: member.peer_address.clone(),
        client_addresses: member.client_addresses.clone(),
        incarnation: member.incarnation.clone(),
        learner: member.learner,
        cluster_id,
    };
    Ok(AdminClient::new(channel).join(request).await?.into_inner())
}
