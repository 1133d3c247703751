//! The life of a member: start, serve, stop in order.
//!
//! ```text
//!  group ─► listen ─► serve ─► signal ─► hand leadership over ─► end streams ─► close
//!                        └───► fault  ─► error
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use cluster::{Group, LeaderService, Role};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::ServiceApp;
use crate::housekeeping::{self, Retention};
use crate::lease::keeper::Keeper;
use crate::options::Settings;
use crate::server;
use crate::service::{Limits, Service};
use crate::watch::hub::Hub;

/// How long open calls may take to end when the member stops.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// How long another member may take to become leader when this one stops.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);

/// Parts of a member that must exist before its group does.
#[derive(Default)]
pub struct Parts {
    /// Where watchers wait.
    pub hub: Arc<Hub>,
    /// Who keeps the leases' time.
    pub keeper: Arc<Keeper>,
}

impl Parts {
    /// The state machine for the group.
    pub fn app(&self) -> ServiceApp {
        ServiceApp::new(Arc::clone(&self.hub), Arc::clone(&self.keeper))
    }

    /// What the leader answers to other members.
    pub fn leader_service(&self) -> Arc<dyn LeaderService> {
        Arc::clone(&self.keeper) as Arc<dyn LeaderService>
    }

    /// The service over the started group.
    pub fn service(
        self,
        group: Arc<dyn Group>,
        limits: Limits,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Service> {
        Arc::new(Service::new(group, self.hub, self.keeper, limits, stopping))
    }
}

/// Runs a member until `signal` resolves, and stops it in order. An error is a failure to start or
/// the fault that stopped the group.
pub async fn run(settings: Settings, signal: impl Future<Output = ()>) -> anyhow::Result<()> {
    let address = settings.listen_client.clone();
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("cannot listen for clients on {address} (--listen-client)"))?;
    let parts = Parts::default();
    let group = crate::group::start_group(&settings, parts.app(), parts.leader_service()).await?;
    let (stop, stopping) = watch::channel(false);
    let service = parts.service(Arc::clone(&group), Limits::of(&settings), stopping);
    let retention = Retention {
        after: settings.compact_after,
        keep: settings.compact_keep,
    };
    let mut tasks = background(&service, retention);
    let serving = Arc::clone(&service);
    let mut server = tokio::spawn(async move { server::serve(&serving, listener).await });
    tracing::info!(
        name = settings.name,
        clients = address,
        "ready to serve client requests"
    );

    let ended = tokio::select! {
        () = signal => Ok(()),
        fault = fault(group.as_ref()) => Err(fault),
        served = &mut server => {
            served.context("server task")?.context("serve clients")?;
            bail!("the server for clients ended by itself");
        }
    };
    if ended.is_ok() {
        tracing::info!("stopping");
        hand_over(group.as_ref()).await;
    }
    // Receivers see the value even when they look later.
    stop.send_replace(true);
    if tokio::time::timeout(DRAIN_PATIENCE, &mut server)
        .await
        .is_err()
    {
        tracing::warn!(patience = ?DRAIN_PATIENCE, "open calls are cut");
        server.abort();
    }
    tasks.shutdown().await;
    match ended {
        Ok(()) => Ok(()),
        Err(fault) => bail!("the member stopped by itself: {fault}"),
    }
}

/// Starts what works beside the calls.
pub fn background(service: &Arc<Service>, retention: Retention) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (keeper, group) = (Arc::clone(&service.keeper), Arc::clone(&service.group));
    tasks.spawn(async move { keeper.run(group).await });
    tasks.spawn(housekeeping::run(Arc::clone(service), retention));
    tasks
}

/// Resolves when the group has stopped by itself, to the reason.
async fn fault(group: &dyn Group) -> String {
    let mut status = group.status();
    let fault = status.wait_for(|status| status.fault.is_some()).await;
    fault
        .ok()
        .and_then(|status| status.fault.clone())
        .unwrap_or_else(|| "its status is gone".to_owned())
}

/// If this member leads, lets the voter that has most of the log lead.
async fn hand_over(group: &dyn Group) {
    let status = Arc::clone(&group.status().borrow());
    if status.role != Role::Leader {
        return;
    }
    let others = status
        .members
        .iter()
        .filter(|member| member.voter && member.id != status.node_id);
    let Some(heir) = others.max_by_key(|member| member.matched) else {
        return;
    };
    match tokio::time::timeout(TRANSFER_PATIENCE, group.transfer_leader(heir.id)).await {
        Ok(Ok(())) => tracing::info!(to = heir.id, name = heir.name, "leadership handed over"),
        Ok(Err(error)) => tracing::warn!(to = heir.id, %error, "leadership not handed over"),
        Err(_) => tracing::warn!(to = heir.id, "leadership not handed over in time"),
    }
}
