//! What is committed is synced on the disks of a majority: it was when it was acknowledged, and
//! disks forget nothing that was synced.

use std::sync::Arc;

use cluster_core::membership::majority;

use crate::host::Host;
use crate::types::SimTypes;
use openraft::RaftMetrics;

/// Checks the last entry that a leader knows to be committed; `host` finds the machine of a voter.
pub fn check(
    leader: &RaftMetrics<SimTypes>,
    host: impl Fn(u64) -> Option<Arc<Host>>,
) -> Result<(), String> {
    let membership = &leader.membership_config;
    let Some(committed) = leader.cluster_committed else {
        return Ok(());
    };
    // Until a new membership is committed, the majority may have been one of the membership before.
    let changing = membership.membership().get_joint_config().len() != 1
        || membership.log_id().is_none_or(|since| since > committed);
    if changing {
        return Ok(());
    }
    let voters: Vec<u64> = membership.voter_ids().collect();
    let mut holding = 0;
    for id in &voters {
        let Some(host) = host(*id).filter(|host| host.out().is_none()) else {
            // Its disk is gone; it may have been one of them.
            return Ok(());
        };
        let holds = host
            .disk
            .holds(committed)
            .map_err(|error| error.to_string())?;
        holding += usize::from(holds);
    }
    if holding >= majority(voters.len()) {
        return Ok(());
    }
    Err(format!(
        "entry {committed} is committed by leader {} and synced on {holding} disks of {voters:?}",
        leader.id
    ))
}
