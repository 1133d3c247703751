//! Changes of the membership by the leader; the twin of `cluster::membership`, with its rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::types::NodeInfo;
use cluster_core::membership::{Removal, caught_up};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{ChangeMembers, Precondition, RaftMetrics};

use crate::member::{Member, REQUEST_TIMEOUT};
use crate::runtime::{local_time, sleep, timeout};
use crate::types::SimTypes;

/// Ids below are the founders'.
const FIRST_LOG_ID: u64 = 1_000;
const PROMOTE_LAG_MAX: u64 = 5_000;
const PROMOTE_LOOK: Duration = Duration::from_millis(200);
const PROMOTE_PAUSE: Duration = Duration::from_secs(1);

fn voters_of(metrics: &RaftMetrics<SimTypes>) -> BTreeSet<u64> {
    metrics.membership_config.voter_ids().collect()
}

async fn change(
    member: &Member,
    metrics: &RaftMetrics<SimTypes>,
    members: ChangeMembers<u64, NodeInfo>,
) -> Result<(), String> {
    let last_membership_log_id = *metrics.membership_config.log_id();
    let condition = Precondition::LastMembershipLogId {
        last_membership_log_id,
    };
    let change = member
        .raft()
        .change_membership_if(members, false, [condition]);
    let changed = timeout(REQUEST_TIMEOUT, change).await;
    let changed = changed.map_err(|_| "no majority in time".to_owned())?;
    changed.map(|_| ()).map_err(|error| error.to_string())
}

/// What the membership says of the member `id`.
pub fn node(id: u64, keep_learner: bool) -> NodeInfo {
    NodeInfo {
        name: format!("n{id}"),
        incarnation: format!("directory-{id}"),
        keep_learner,
        ..NodeInfo::default()
    }
}

/// Hands leadership over to a voter.
pub async fn transfer(member: Member, to: u64) -> Result<(), String> {
    if to == member.id() {
        return Ok(());
    }
    let _turn = member.membership_turn().await;
    let votes = member.raft().with_raft_state(move |state| {
        let mut voters = state.membership_state.effective().voter_ids();
        voters.any(|id| id == to)
    });
    if !votes.await.map_err(|error| error.to_string())? {
        return Err("it is not a voter".to_owned());
    }
    let transfer = member.raft().trigger().transfer_leader(to).await;
    transfer.map_err(|error| error.to_string())
}

/// Admits a new member as learner; returns its id.
pub async fn add(member: Member, keep_learner: bool) -> Result<u64, String> {
    let _turn = member.membership_turn().await;
    let blank = timeout(REQUEST_TIMEOUT, member.raft().write_blank()).await;
    let response = blank
        .map_err(|_| "no majority in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let id = FIRST_LOG_ID + response.log_id.index();
    let metrics = member.metrics();
    let nodes = BTreeMap::from([(id, node(id, keep_learner))]);
    change(&member, &metrics, ChangeMembers::AddNodes(nodes)).await?;
    Ok(id)
}

fn live_voters(member: &Member, voters: &BTreeSet<u64>, window: Duration) -> BTreeSet<u64> {
    let contacts = member.last_contacts();
    let heard = |id: &u64| *id == member.id() || contacts.get(id).is_some_and(|ago| *ago <= window);
    voters.iter().copied().filter(heard).collect()
}

/// Removes a member, unless the rest could not decide.
pub async fn remove(member: Member, id: u64) -> Result<(), String> {
    let _turn = member.membership_turn().await;
    let metrics = member.metrics();
    if metrics.membership_config.get_node(&id).is_none() {
        return Err("there is no such member".to_owned());
    }
    let voters = voters_of(&metrics);
    if !voters.contains(&id) {
        return change(&member, &metrics, ChangeMembers::RemoveNodes([id].into())).await;
    }
    let begun = local_time();
    let plan = || {
        let window = local_time().saturating_sub(begun);
        let window = window.min(member.world().plan.election * 2);
        Removal::plan(&voters, &live_voters(&member, &voters, window), id)
    };
    let mut watch = member.raft().metrics();
    let enough = watch
        .wait_until(|metrics| plan().keeps_quorum() || metrics.current_leader != Some(metrics.id));
    // Too few in time, or the end of this member: what is known then tells it.
    drop(timeout(member.world().plan.election * 4, enough).await);
    if !plan().keeps_quorum() {
        return Err("the rest could not decide".to_owned());
    }
    change(&member, &metrics, ChangeMembers::RemoveVoters([id].into())).await
}

fn progress(metrics: &RaftMetrics<SimTypes>, id: u64) -> (u64, u64) {
    let all = metrics.replication.as_ref();
    let matched = all.and_then(|all| all.get(&id)).and_then(|at| *at);
    (
        matched.map_or(0, |log_id| log_id.index()),
        metrics.last_log_index.unwrap_or(0),
    )
}

async fn promote(member: &Member, id: u64) -> Result<(), String> {
    let _turn = member.membership_turn().await;
    let metrics = member.metrics();
    if metrics.membership_config.get_node(&id).is_none() || voters_of(&metrics).contains(&id) {
        return Err("it is no learner".to_owned());
    }
    let (matched, last) = progress(&metrics, id);
    let window = member.world().plan.election * 4;
    let here = member
        .last_contacts()
        .get(&id)
        .is_some_and(|ago| *ago <= window);
    if !here || !caught_up(matched, last, PROMOTE_LAG_MAX) {
        return Err("it is not caught up".to_owned());
    }
    change(member, &metrics, ChangeMembers::AddVoterIds([id].into())).await
}

/// Takes the second step of a change whose author is gone.
async fn finish_change(member: &Member) {
    let Some(_turn) = member.try_membership_turn() else {
        return;
    };
    let metrics = member.metrics();
    let stored = &metrics.membership_config;
    if stored.membership().get_joint_config().len() < 2 {
        return;
    }
    let no_more = ChangeMembers::AddVoterIds(BTreeSet::new());
    if change(member, &metrics, no_more).await.is_ok() {
        member.world().count("half-made membership change finished");
    }
}

/// Promotes learners that have caught up and finishes changes that were left half made, while this
/// member leads.
pub async fn run_upkeep(member: Member) {
    let mut failed_until: BTreeMap<u64, Duration> = BTreeMap::new();
    loop {
        sleep(PROMOTE_LOOK).await;
        let metrics = member.metrics();
        if metrics.running_state.is_err() {
            return;
        }
        if metrics.current_leader != Some(metrics.id) {
            continue;
        }
        finish_change(&member).await;
        let voters = voters_of(&metrics);
        for (id, node) in metrics.membership_config.nodes() {
            let (matched, last) = progress(&metrics, *id);
            let failed = failed_until
                .get(id)
                .is_some_and(|until| local_time() < *until);
            let waiting = voters.contains(id)
                || node.keep_learner
                || matched == 0
                || !caught_up(matched, last, PROMOTE_LAG_MAX)
                || failed;
            if waiting {
                continue;
            }
            if promote(&member, *id).await.is_ok() {
                member.world().count("learner promoted");
            } else {
                failed_until.insert(*id, local_time() + PROMOTE_PAUSE);
            }
        }
    }
}
