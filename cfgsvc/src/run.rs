//! The life of a member: start, serve, stop in order.
//!
//! ```text
//!  group ─► listen ─► serve ─► signal ─► hand leadership over ─► end streams ─► close
//!                        └───► fault  ─► error
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use cluster::{Group, LeaderService};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::ServiceApp;
use crate::group::start_group;
use crate::housekeeping::{self, Retention};
use crate::leadership;
use crate::lease::keeper::Keeper;
use crate::options::Settings;
use crate::server;
use crate::service::{Limits, Service};
use crate::votes;
use crate::watch::hub::Hub;

/// How long the server for clients may take to end: longer than it gives open calls.
const SERVER_PATIENCE: Duration = Duration::from_secs(8);

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
        ServiceApp::new(Arc::clone(&self.hub), self.keeper.clone())
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
    tokio::pin!(signal);
    let started = tokio::select! {
        // Founders wait for each other and joiners for the group: a signal ends that, too.
        () = &mut signal => return Ok(()),
        started = start_group(&settings, parts.app(), parts.leader_service()) => started,
    };
    let running = started?;
    let group: Arc<dyn Group> = Arc::new(running.member.clone());
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
        () = &mut signal => Ok(()),
        fault = fault(group.as_ref()) => Err(fault),
        served = &mut server => {
            served.context("server task")?.context("serve clients")?;
            bail!("the server for clients ended by itself");
        }
    };
    if ended.is_ok() {
        tracing::info!("stopping");
        running.hand_over().await;
    }
    // Receivers see the value even when they look later.
    stop.send_replace(true);
    match tokio::time::timeout(SERVER_PATIENCE, &mut server).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the server for clients"),
        Ok(Err(error)) => tracing::warn!(%error, "the server for clients"),
        Err(_) => {
            tracing::warn!(patience = ?SERVER_PATIENCE, "the server for clients does not end");
            server.abort();
        }
    }
    tasks.shutdown().await;
    drop((service, group));
    let stopped = running.shutdown().await.context("make the state durable");
    match ended {
        Ok(()) => stopped,
        Err(fault) => bail!("the member stopped by itself: {fault}"),
    }
}

/// Starts what works beside the calls.
pub fn background(service: &Arc<Service>, retention: Retention) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (keeper, group) = (Arc::clone(&service.keeper), Arc::clone(&service.group));
    tasks.spawn(async move { keeper.run(group).await });
    tasks.spawn(leadership::run(Arc::clone(service)));
    tasks.spawn(votes::run(Arc::clone(service)));
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
