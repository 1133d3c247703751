//! Starts this process' member of the group.

use std::sync::Arc;

use cluster::{App, Group, LeaderService};

use crate::options::Settings;

/// Starts the member that `settings` describe, over `app`; other members' services reach
/// `leader_service` while this one leads.
#[allow(
    clippy::unused_async,
    reason = "joining another group's member waits for it"
)]
pub async fn start_group(
    settings: &Settings,
    app: impl App,
    leader_service: Arc<dyn LeaderService>,
) -> anyhow::Result<Arc<dyn Group>> {
    drop((app, leader_service));
    anyhow::bail!(
        "member `{}` cannot start: this build has no replicated group",
        settings.name
    )
}
