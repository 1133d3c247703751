//! Who is in the group: changes of the membership, made by the leader one at a time.
//!
//! Invariants
//! - an id is the index of a blank entry of the log, so it is never given twice;
//! - a change is appended only on the membership it was decided on (compare and set);
//! - a change that would leave too few live voters is refused before it is proposed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster_core::membership::{Removal, caught_up};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition, RaftMetrics};
use tokio::time::Instant;

use crate::convert::{member_from, membership_error, new_member_to};
use crate::group::{Member as MemberInfo, MembershipError, NewMember};
use crate::member::{Member, millis};
use crate::proto;
use crate::proto::membership_request::Change;
use crate::types::{NodeInfo, Types};

/// A learner at most this many entries behind may vote: a second of writes at full speed.
const PROMOTE_LAG_MAX: u64 = 5_000;

/// Ids below are the founders'; a later member's is this and the index of its blank entry.
pub(crate) const FIRST_LOG_ID: u64 = 1_000;

type ChangeError = RaftError<Types, ClientWriteError<Types>>;

fn change_error(error: ChangeError) -> MembershipError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            MembershipError::NotLeader {
                leader: forward.leader_id,
            }
        }
        RaftError::APIError(
            ClientWriteError::PreconditionFailed(_) | ClientWriteError::ChangeMembershipError(_),
        ) => MembershipError::Busy,
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
            MembershipError::Unconfirmed("leadership changed".to_owned())
        }
        RaftError::Fatal(fatal) => MembershipError::Unconfirmed(fatal.to_string()),
    }
}

/// What the group knows of a member.
pub(crate) fn member_info(
    metrics: &RaftMetrics<Types>,
    id: u64,
    node: &NodeInfo,
    voters: &BTreeSet<u64>,
) -> MemberInfo {
    let leads = metrics.current_leader == Some(metrics.id);
    let (matched, last_contact_ms) = if !leads {
        (None, None)
    } else if id == metrics.id {
        (metrics.last_log_index, Some(0))
    } else {
        let matched = metrics
            .replication
            .as_ref()
            .and_then(|all| all.get(&id))
            .map(|at| at.as_ref().map_or(0, openraft::LogId::index));
        (matched, last_contact(metrics, id).map(millis))
    };
    MemberInfo {
        id,
        name: node.name.clone(),
        colo: node.colo.clone(),
        peer_address: node.peer_address.clone(),
        client_addresses: node.client_addresses.clone(),
        incarnation: node.incarnation.clone(),
        voter: voters.contains(&id),
        keep_learner: node.keep_learner,
        matched,
        last_contact_ms,
    }
}

/// How long ago the leader heard from a member.
fn last_contact(metrics: &RaftMetrics<Types>, id: u64) -> Option<Duration> {
    use openraft::Instant as _;
    let at = (*metrics.heartbeat.as_ref()?.get(&id)?)?;
    Some(at.elapsed())
}

/// Voters that the leader has heard from within `window`, itself included.
fn live_voters(
    metrics: &RaftMetrics<Types>,
    voters: &BTreeSet<u64>,
    window: Duration,
) -> BTreeSet<u64> {
    let heard =
        |id: &u64| *id == metrics.id || last_contact(metrics, *id).is_some_and(|ago| ago <= window);
    voters.iter().copied().filter(heard).collect()
}

impl Member {
    fn snapshot_of_metrics(&self) -> RaftMetrics<Types> {
        self.inner.raft.metrics().borrow_watched().clone()
    }

    fn voters(metrics: &RaftMetrics<Types>) -> BTreeSet<u64> {
        metrics.membership_config.voter_ids().collect()
    }

    async fn change(
        &self,
        metrics: &RaftMetrics<Types>,
        members: ChangeMembers<u64, NodeInfo>,
    ) -> Result<(), MembershipError> {
        let last_membership_log_id = *metrics.membership_config.log_id();
        let condition = Precondition::LastMembershipLogId {
            last_membership_log_id,
        };
        let change = self
            .inner
            .raft
            .change_membership_if(members, false, [condition]);
        match tokio::time::timeout(self.inner.limits.request_timeout, change).await {
            Err(_) => Err(MembershipError::Unconfirmed(
                "no majority in time".to_owned(),
            )),
            Ok(changed) => changed.map(|_| ()).map_err(change_error),
        }
    }

    /// Sends a change to the leader when that is another member.
    async fn forward(&self, change: Change) -> Option<Result<Option<MemberInfo>, MembershipError>> {
        if self.leads() {
            return None;
        }
        let Some((to, mut client)) = self.leader_client() else {
            return Some(Err(MembershipError::NotLeader { leader: None }));
        };
        let message = proto::MembershipRequest {
            change: Some(change),
        };
        let request = self.inner.caller.request(to, message);
        let timeout = 2 * self.inner.limits.request_timeout;
        Some(
            match tokio::time::timeout(timeout, client.membership(request)).await {
                Err(_) => Err(MembershipError::Unconfirmed(
                    "no answer of the leader".to_owned(),
                )),
                Ok(Err(status)) => Err(MembershipError::Unconfirmed(status.message().to_owned())),
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    match answer.failure {
                        Some(failure) => Err(membership_error(failure)),
                        None => Ok(answer.member.map(member_from)),
                    }
                }
            },
        )
    }

    /// Registers a member.
    pub(crate) async fn add(&self, member: NewMember) -> Result<MemberInfo, MembershipError> {
        if let Some(answer) = self
            .forward(Change::Add(new_member_to(member.clone())))
            .await
        {
            return required(answer?);
        }
        let _turn = self.inner.membership_change.lock().await;
        let metrics = self.snapshot_of_metrics();
        refuse_taken(&metrics, &member)?;
        self.add_learner(member).await
    }

    /// Admits a starting member.
    pub(crate) async fn join(&self, member: NewMember) -> Result<MemberInfo, MembershipError> {
        if let Some(answer) = self
            .forward(Change::Join(new_member_to(member.clone())))
            .await
        {
            return required(answer?);
        }
        let _turn = self.inner.membership_change.lock().await;
        let metrics = self.snapshot_of_metrics();
        let known = metrics
            .membership_config
            .nodes()
            .find(|(_, node)| node.name == member.name || registered_at(node, &member))
            .map(|(id, node)| (*id, node.clone()));
        let Some((id, node)) = known else {
            refuse_taken(&metrics, &member)?;
            return self.add_learner(member).await;
        };
        let voters = Self::voters(&metrics);
        let claimed = node.incarnation == member.incarnation;
        let moved = node.peer_address != member.peer_address
            || node.client_addresses != member.client_addresses;
        if claimed && !moved {
            return Ok(member_info(&metrics, id, &node, &voters));
        }
        if !claimed && !node.incarnation.is_empty() {
            return Err(MembershipError::OtherIncarnation {
                name: member.name,
                id,
            });
        }
        let address = &member.peer_address;
        let other = metrics.membership_config.nodes().find(|(other, node)| {
            **other != id && (node.peer_address == *address || node.name == member.name)
        });
        if let Some((id, node)) = other {
            return Err(exists(*id, node));
        }
        // A registered place is claimed, or a member has moved; its colo and role stay.
        let node = NodeInfo {
            client_addresses: member.client_addresses,
            colo: if node.colo.is_empty() {
                member.colo
            } else {
                node.colo
            },
            incarnation: member.incarnation,
            keep_learner: node.keep_learner || member.learner,
            name: member.name.clone(),
            peer_address: member.peer_address,
        };
        let nodes = BTreeMap::from([(id, node.clone())]);
        self.change(&metrics, ChangeMembers::SetNodes(nodes))
            .await?;
        self.inner.addresses.set(id, &node.peer_address);
        let metrics = self.snapshot_of_metrics();
        Ok(member_info(&metrics, id, &node, &voters))
    }

    async fn add_learner(&self, member: NewMember) -> Result<MemberInfo, MembershipError> {
        let blank = self.inner.raft.write_blank();
        let timeout = self.inner.limits.request_timeout;
        let unconfirmed = || MembershipError::Unconfirmed("no majority in time".to_owned());
        let response = tokio::time::timeout(timeout, blank)
            .await
            .map_err(|_| unconfirmed())?
            .map_err(change_error)?;
        let id = FIRST_LOG_ID + response.log_id.index();
        let node = NodeInfo {
            name: member.name,
            colo: member.colo,
            peer_address: member.peer_address,
            client_addresses: member.client_addresses,
            incarnation: member.incarnation,
            keep_learner: member.learner,
        };
        let metrics = self.snapshot_of_metrics();
        let nodes = BTreeMap::from([(id, node.clone())]);
        self.change(&metrics, ChangeMembers::AddNodes(nodes))
            .await?;
        Ok(member_info(
            &self.snapshot_of_metrics(),
            id,
            &node,
            &BTreeSet::new(),
        ))
    }

    /// Removes a member.
    pub(crate) async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        if let Some(answer) = self.forward(Change::Remove(id)).await {
            return answer.map(|_| ());
        }
        let _turn = self.inner.membership_change.lock().await;
        let metrics = self.snapshot_of_metrics();
        if metrics.membership_config.get_node(&id).is_none() {
            return Err(MembershipError::NotFound { id });
        }
        let voters = Self::voters(&metrics);
        if !voters.contains(&id) {
            return self
                .change(&metrics, ChangeMembers::RemoveNodes([id].into()))
                .await;
        }
        let plan = self.removal_plan(&voters, id).await;
        if !plan.keeps_quorum() {
            let Removal {
                live,
                voters,
                needed,
            } = plan;
            return Err(MembershipError::WouldLoseQuorum {
                id,
                live,
                voters,
                needed,
            });
        }
        self.change(&metrics, ChangeMembers::RemoveVoters([id].into()))
            .await
    }

    /// The group without `id`, by who answers what the leader sends from now on: a voter heard from
    /// just before it died would count as alive, and the change could not end without it. Waits
    /// until enough have answered, at most two election timeouts.
    async fn removal_plan(&self, voters: &BTreeSet<u64>, id: u64) -> Removal {
        let begun = Instant::now();
        let plan = |metrics: &RaftMetrics<Types>| {
            let window = begun.elapsed().min(self.inner.limits.election_max);
            let live = live_voters(metrics, voters, window);
            Removal::plan(voters, &live, id)
        };
        let mut watch = self.inner.raft.metrics();
        let enough = watch.wait_until(|metrics| {
            plan(metrics).keeps_quorum() || metrics.current_leader != Some(metrics.id)
        });
        // Too few in time, or the end of this member: what is known then tells it.
        let _ = tokio::time::timeout(2 * self.inner.limits.election_max, enough).await;
        plan(&self.snapshot_of_metrics())
    }

    /// Makes a learner a voter.
    pub(crate) async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        if let Some(answer) = self.forward(Change::Promote(id)).await {
            return answer.map(|_| ());
        }
        let _turn = self.inner.membership_change.lock().await;
        let metrics = self.snapshot_of_metrics();
        let Some(node) = metrics.membership_config.get_node(&id) else {
            return Err(MembershipError::NotFound { id });
        };
        if Self::voters(&metrics).contains(&id) {
            return Err(MembershipError::NotLearner { id });
        }
        let (matched, last) = progress(&metrics, id);
        // A vote of a member that is not there counts against every majority.
        let window = 2 * self.inner.limits.election_max;
        let here = !node.incarnation.is_empty()
            && last_contact(&metrics, id).is_some_and(|ago| ago <= window);
        if !here || !caught_up(matched, last, PROMOTE_LAG_MAX) {
            return Err(MembershipError::NotCaughtUp { id, matched, last });
        }
        self.change(&metrics, ChangeMembers::AddVoterIds([id].into()))
            .await
    }

    /// Hands leadership over.
    pub(crate) async fn transfer(&self, target: u64) -> Result<(), MembershipError> {
        let metrics = self.snapshot_of_metrics();
        if metrics.current_leader != Some(metrics.id) {
            return Err(MembershipError::NotLeader {
                leader: metrics.current_leader,
            });
        }
        if target == metrics.id {
            return Ok(());
        }
        self.begin_transfer(target).await?;
        let mut watch = self.inner.raft.metrics();
        let led = watch.wait_until(|metrics| metrics.current_leader == Some(target));
        match tokio::time::timeout(2 * self.inner.limits.election_max, led).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(MembershipError::Unconfirmed(format!(
                "member {target} did not take over in time"
            ))),
        }
    }

    /// A leader that hands over proposes nothing any more, until another one leads. So the target
    /// is a voter when that begins, whatever changes the members at the same time: the last voter
    /// that is left would wait for ever.
    async fn begin_transfer(&self, target: u64) -> Result<(), MembershipError> {
        let _turn = self.inner.membership_change.lock().await;
        let fatal =
            |error: openraft::error::Fatal<Types>| MembershipError::Unconfirmed(error.to_string());
        let raft = &self.inner.raft;
        let votes = raft.with_raft_state(move |state| {
            let mut voters = state.membership_state.effective().voter_ids();
            voters.any(|id| id == target)
        });
        if !votes.await.map_err(fatal)? {
            let why = "it is not a voter".to_owned();
            return Err(MembershipError::BadTransferee { id: target, why });
        }
        raft.trigger().transfer_leader(target).await.map_err(fatal)
    }

    /// The voter to hand leadership to when this member stops: the one that holds most.
    pub(crate) fn best_successor(&self) -> Option<u64> {
        let metrics = self.snapshot_of_metrics();
        let voters = Self::voters(&metrics);
        let live = live_voters(&metrics, &voters, self.inner.limits.election_max);
        let others = live.into_iter().filter(|id| *id != metrics.id);
        others.max_by_key(|id| progress(&metrics, *id).0)
    }

    /// Takes the second step of a change whose first step is made and whose author is gone: a
    /// leader that died, a request that was given up. Until then every decision needs two
    /// majorities.
    async fn finish_change(&self) {
        let Ok(_turn) = self.inner.membership_change.try_lock() else {
            // Its author is at it.
            return;
        };
        let metrics = self.snapshot_of_metrics();
        let stored = &metrics.membership_config;
        if stored.membership().get_joint_config().len() < 2 {
            return;
        }
        let no_more = ChangeMembers::AddVoterIds(BTreeSet::new());
        match self.change(&metrics, no_more).await {
            Ok(()) => tracing::info!("finished a membership change that was left half made"),
            // Until a majority of both halves answers; every turn of the upkeep tries again.
            Err(error) => tracing::debug!(%error, "a membership change stays half made"),
        }
    }

    /// Promotes learners that have joined and caught up and finishes changes that were left half
    /// made, while this member leads.
    pub(crate) async fn run_upkeep(self) {
        let mut failed_until: BTreeMap<u64, Instant> = BTreeMap::new();
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tick.tick().await;
            let metrics = self.snapshot_of_metrics();
            if metrics.running_state.is_err() {
                return;
            }
            if metrics.current_leader != Some(metrics.id) {
                continue;
            }
            self.finish_change().await;
            let voters = Self::voters(&metrics);
            for (id, node) in metrics.membership_config.nodes() {
                let (matched, last) = progress(&metrics, *id);
                let waiting = voters.contains(id)
                    || node.keep_learner
                    || node.incarnation.is_empty()
                    || matched == 0
                    || !caught_up(matched, last, PROMOTE_LAG_MAX)
                    || failed_until
                        .get(id)
                        .is_some_and(|until| Instant::now() < *until);
                if waiting {
                    continue;
                }
                match self.promote(*id).await {
                    Ok(()) => tracing::info!(id, name = node.name, "learner promoted to voter"),
                    Err(error) => {
                        tracing::info!(id, name = node.name, %error, "learner not promoted yet");
                        failed_until.insert(*id, Instant::now() + Duration::from_secs(1));
                    }
                }
            }
        }
    }
}

/// etcd's way to register a member names only its address.
fn registered_at(node: &NodeInfo, member: &NewMember) -> bool {
    node.incarnation.is_empty() && node.peer_address == member.peer_address
}

fn required(answer: Option<MemberInfo>) -> Result<MemberInfo, MembershipError> {
    answer.ok_or_else(|| MembershipError::Unconfirmed("the leader named no member".to_owned()))
}

/// Last index that a member holds, and the leader's.
fn progress(metrics: &RaftMetrics<Types>, id: u64) -> (u64, u64) {
    let matched = metrics
        .replication
        .as_ref()
        .and_then(|all| all.get(&id))
        .and_then(|at| at.as_ref().map(openraft::LogId::index));
    (matched.unwrap_or(0), metrics.last_log_index.unwrap_or(0))
}

/// A name and an address belong to one member.
fn refuse_taken(metrics: &RaftMetrics<Types>, member: &NewMember) -> Result<(), MembershipError> {
    let taken = metrics
        .membership_config
        .nodes()
        .find(|(_, node)| node.name == member.name || node.peer_address == member.peer_address);
    match taken {
        None => Ok(()),
        Some((id, node)) => Err(exists(*id, node)),
    }
}

fn exists(id: u64, node: &NodeInfo) -> MembershipError {
    MembershipError::Exists {
        name: node.name.clone(),
        id,
        peer_address: node.peer_address.clone(),
    }
}
