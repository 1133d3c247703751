//! Leadership goes to where a person wishes it: to a colo, or to the one that holds a role.
//!
//! Writes of the active colo's clients take one round trip less then. It is a wish: a member there
//! must be heard, vote, and have the log, for some time; else whoever leads goes on. What happens
//! to leadership otherwise is not touched: an election asks nobody where he is.

use std::sync::Arc;
use std::time::Duration;

use cfgsvc_core::placement::Name;
use cfgsvc_core::placement::placed::leader_colo;
use cluster::{Member, Role, Status as GroupStatus};
use tokio::time::MissedTickBehavior;

use crate::clock::Moment;
use crate::service::Service;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A member that was not heard for so long does not take over, ms.
const SILENT_MS: u64 = 500;
/// A member that lacks more entries than this does not take over.
const BEHIND_MAX: u64 = 1_000;
/// So many looks in a row must find the same member fit.
const LOOKS: u32 = 5;
/// Wait after a try before the next, so that leadership does not go to and fro.
const PAUSE: Duration = Duration::from_secs(30);

/// The member that should lead instead of this one: of those that could, the one with most of the
/// log.
fn better(status: &GroupStatus, colo: &Name) -> Option<u64> {
    let own = status.members.iter().find(|one| one.id == status.node_id)?;
    if status.role != Role::Leader || own.colo == colo.as_str() {
        return None;
    }
    let fit = |one: &&Member| {
        one.voter
            && one.colo == colo.as_str()
            && one.last_contact_ms.is_some_and(|ms| ms < SILENT_MS)
            && one
                .matched
                .is_some_and(|at| status.last_index.saturating_sub(at) <= BEHIND_MAX)
    };
    let fit = status.members.iter().filter(fit);
    fit.max_by_key(|one| one.matched).map(|one| one.id)
}

/// Hands leadership over for as long as the member runs.
pub async fn run(service: Arc<Service>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut found = (0, 0);
    let mut tried: Option<Moment> = None;
    loop {
        looks.tick().await;
        let wish = service.read(leader_colo);
        let wish = wish.unwrap_or_else(|status| {
            tracing::warn!(%status, "cannot read where the group is to be led from");
            None
        });
        let better = wish.and_then(|colo| better(&service.status(), &colo));
        found = match better {
            Some(id) if id == found.0 => (id, found.1 + 1),
            Some(id) => (id, 1),
            None => (0, 0),
        };
        let paused = tried.is_some_and(|tried| Moment::now().since(tried) < PAUSE);
        if found.1 < LOOKS || paused {
            continue;
        }
        tried = Some(Moment::now());
        match service.group.transfer_leader(found.0).await {
            Ok(()) => tracing::info!(member = found.0, "leads from where it is wished"),
            Err(error) => tracing::warn!(member = found.0, %error, "does not take over"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, colo: &str, last_contact_ms: Option<u64>, matched: u64) -> Member {
        Member {
            id,
            name: format!("n{id}"),
            colo: colo.to_owned(),
            peer_address: String::new(),
            client_addresses: Vec::new(),
            incarnation: String::new(),
            voter: true,
            keep_learner: false,
            matched: Some(matched),
            last_contact_ms,
        }
    }

    #[test]
    fn member_of_the_colo_that_is_heard_and_has_the_log_is_better() {
        let mut status = GroupStatus {
            role: Role::Leader,
            last_index: 5_000,
            members: vec![
                member(1, "akl", None, 5_000),
                member(2, "wlg", Some(10), 4_990),
                member(3, "wlg", Some(10), 4_999),
            ],
            ..GroupStatus::first(1, 1)
        };
        let colo = |text: &str| text.parse::<Name>().expect("a name");
        assert_eq!(better(&status, &colo("wlg")), Some(3));
        assert_eq!(better(&status, &colo("akl")), None, "it leads there");
        assert_eq!(better(&status, &colo("chc")), None, "nobody is there");
        status.members[2].last_contact_ms = Some(900);
        assert_eq!(better(&status, &colo("wlg")), Some(2));
        status.members[1].matched = Some(3_000);
        assert_eq!(better(&status, &colo("wlg")), None, "it lacks too much");
        status.members[2] = member(3, "wlg", Some(1), 5_000);
        status.members[2].voter = false;
        assert_eq!(better(&status, &colo("wlg")), None, "it does not vote");
        status.role = Role::Follower;
        assert_eq!(better(&status, &colo("wlg")), None);
    }
}
