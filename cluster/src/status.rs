//! What a member tells about itself: openraft's metrics as a [`Status`].

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{RaftMetrics, ServerState};

use crate::group::{Role, Status};
use crate::member::Member;
use crate::membership::member_info;
use crate::types::Types;

/// Changes that matter at once are a role, leader, term or fault; progress is told this often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);
/// What the leader knows of the others' contact is told this often when nothing else happens.
const CONTACT_INTERVAL: Duration = Duration::from_millis(500);

impl Member {
    pub(crate) fn set_free_bytes(&self, free: u64) {
        let before = self.no_space();
        self.inner.free_bytes.store(free, Ordering::Relaxed);
        let now = self.no_space();
        if now && !before {
            let limit = self.inner.limits.min_free_bytes;
            tracing::error!(
                free_bytes = free,
                limit_bytes = limit,
                "the disk is almost full: writes are refused until there is room"
            );
        } else if before && !now {
            tracing::info!(free_bytes = free, "there is room on the disk again");
        }
        if now != before {
            self.inner.status.send_modify(|status| {
                let mut changed = status.as_ref().clone();
                changed.no_space = now;
                *status = Arc::new(changed);
            });
        }
    }

    /// Stops a member whose state was found to be damaged: what it can still read is not to be
    /// trusted either, and only a member that is down is replaced.
    pub(crate) fn stop_damaged(&self, error: &io::Error) {
        if self.inner.damage.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the state is damaged: this member stops");
            self.inner.status.send_modify(|status| {
                let mut changed = status.as_ref().clone();
                changed.fault = Some(error.to_string());
                changed.role = Role::Stopped;
                *status = Arc::new(changed);
            });
        }
    }

    /// Tells the state of now, ahead of the next turn of [`run_status`].
    pub(crate) fn publish_status(&self) {
        let metrics = self.inner.raft.metrics();
        let status = self.status_from(&metrics.borrow_watched());
        self.inner.status.send_replace(Arc::new(status));
    }

    fn no_space(&self) -> bool {
        self.inner.free_bytes.load(Ordering::Relaxed) < self.inner.limits.min_free_bytes
    }

    fn status_from(&self, metrics: &RaftMetrics<Types>) -> Status {
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let members = metrics.membership_config.nodes();
        let fault = metrics
            .running_state
            .as_ref()
            .err()
            .map(ToString::to_string)
            .or_else(|| self.inner.damage.get().cloned());
        Status {
            cluster_id: self.inner.caller.cluster_id,
            node_id: self.inner.caller.node_id,
            term: metrics.current_term,
            role: match (&fault, metrics.state) {
                (Some(_), _) | (None, ServerState::Shutdown) => Role::Stopped,
                (None, ServerState::Learner) => Role::Learner,
                (None, ServerState::Follower) => Role::Follower,
                (None, ServerState::Candidate) => Role::Candidate,
                (None, ServerState::Leader) => Role::Leader,
            },
            leader: metrics.current_leader,
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.cluster_committed.map_or(0, |id| id.index()),
            applied_index: metrics.last_applied.map_or(0, |id| id.index()),
            members: members
                .map(|(id, node)| member_info(metrics, *id, node, &voters))
                .collect(),
            no_space: self.no_space(),
            fault,
        }
    }
}

/// Tells every change until the member has stopped.
pub(crate) async fn run_status(member: Member) {
    let mut metrics = member.inner.raft.metrics();
    loop {
        let (status, leader, term, state, replicated, membership) = {
            let now = metrics.borrow_and_update();
            (
                member.status_from(&now),
                now.current_leader,
                now.current_term,
                now.state,
                replicated_sum(&now),
                *now.membership_config.log_id(),
            )
        };
        let stopped = status.role == Role::Stopped;
        member.inner.status.send_replace(Arc::new(status));
        if stopped {
            return;
        }
        let important = metrics.wait_until(|now| {
            now.current_leader != leader
                || now.current_term != term
                || now.state != state
                || *now.membership_config.log_id() != membership
                || now.running_state.is_err()
        });
        if let Ok(Err(_)) = tokio::time::timeout(PROGRESS_INTERVAL, important).await {
            return;
        }
        // Nothing new since the last look: wait for it.
        let seen = (status_index(&member), leader, term, replicated);
        let fresh = metrics.wait_until(|now| {
            let last = now.last_applied.map_or(0, |id| id.index());
            (
                last,
                now.current_leader,
                now.current_term,
                replicated_sum(now),
            ) != seen
                || now.running_state.is_err()
        });
        // A learner's progress and a silent member change nothing here: look again each second.
        if let Ok(Err(_)) = tokio::time::timeout(CONTACT_INTERVAL, fresh).await {
            return;
        }
    }
}

/// Grows with every entry that a follower is known to hold.
fn replicated_sum(metrics: &RaftMetrics<Types>) -> u64 {
    let matched = metrics
        .replication
        .iter()
        .flat_map(|all| all.values().flatten());
    matched.map(openraft::LogId::index).sum()
}

fn status_index(member: &Member) -> u64 {
    member.inner.status.borrow().applied_index
}
