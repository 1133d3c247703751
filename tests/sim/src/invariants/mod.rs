//! What must hold at every moment, one rule in each file. All are fed by events and look only at
//! what is new.

pub mod acknowledged_is_kept;
pub mod applied_is_a_prefix;
pub mod committed_is_durable;
pub mod committed_never_changes;
pub mod election_safety;
pub mod epochs_only_grow;
pub mod leases_never_early;
pub mod log_matching;
pub mod no_program_past_its_grant;
pub mod revisions_without_gaps;
pub mod roles_never_overlap;
pub mod starts_before_runs;
pub mod votes_never_go_back;
pub mod writes_in_their_epoch;

use std::fmt;

use bytes::Bytes;
use cfgsvc_core::placement::{Name, RoleName};
use cluster::proto;
use cluster::types::{LogId, Vote, decode, vote_from};
use cluster_core::log::{LogMeta, LogOp};
use openraft::RaftMetrics;

use crate::agents::view::Placed;
use crate::types::SimTypes;

/// A program that serves a role, from its start until nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The role.
    pub role: RoleName,
    /// Where it runs.
    pub host: Name,
    /// The epoch that it was started in.
    pub epoch: i64,
    /// Which of the run it is.
    pub number: u64,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            role,
            host,
            epoch,
            number,
        } = self;
        write!(f, "program {number} of {host} in epoch {epoch} of {role}")
    }
}

/// All rules.
#[derive(Debug, Default)]
pub struct Checks {
    election_safety: election_safety::ElectionSafety,
    log_matching: log_matching::LogMatching,
    committed: committed_never_changes::CommittedNeverChanges,
    applied: applied_is_a_prefix::AppliedIsAPrefix,
    votes: votes_never_go_back::VotesNeverGoBack,
    /// Leases, which clients tell of.
    pub leases: leases_never_early::LeasesNeverEarly,
    revisions: revisions_without_gaps::RevisionsWithoutGaps,
    /// Programs, of which hosts tell.
    pub overlap: roles_never_overlap::RolesNeverOverlap,
    /// What resources took.
    pub writes: writes_in_their_epoch::WritesInTheirEpoch,
    /// What the group said of roles.
    pub epochs: epochs_only_grow::EpochsOnlyGrow,
    grants: no_program_past_its_grant::NoProgramPastItsGrant,
    starts: starts_before_runs::StartsBeforeRuns,
    /// What databases of synchronous roles told their clients.
    pub acknowledged: acknowledged_is_kept::AcknowledgedIsKept,
}

fn decoded_vote(bytes: &Bytes) -> Result<Vote, String> {
    let vote = decode::<proto::Vote>("vote", bytes.clone()).map_err(|error| error.to_string())?;
    vote_from(&vote).map_err(|error| error.to_string())
}

impl Checks {
    /// A member starts with this vote on its disk.
    pub fn started(&mut self, member: u64, vote: Option<&Bytes>) -> Result<(), String> {
        let vote = vote.map(decoded_vote).transpose()?;
        self.votes.started(member, vote)
    }

    /// A member hands a batch to its disk.
    pub fn log_written(&mut self, member: u64, ops: &[LogOp]) -> Result<(), String> {
        for op in ops {
            match op {
                LogOp::Append { index, entry } => {
                    let log_id = self.log_matching.appended(member, *index, entry)?;
                    self.committed.appended(member, log_id)?;
                }
                LogOp::TruncateFrom { from } => self.log_matching.truncated(member, *from),
                LogOp::SetMeta {
                    meta: LogMeta::Vote,
                    value,
                } => {
                    let vote = decoded_vote(value)?;
                    self.election_safety.voted(member, &vote)?;
                    self.votes.written(member, vote)?;
                }
                LogOp::SetMeta { .. } | LogOp::PurgeTo { .. } => {}
            }
        }
        Ok(())
    }

    /// A batch was acknowledged to Raft.
    pub fn log_acknowledged(&mut self, member: u64, ops: &[LogOp]) -> Result<(), String> {
        for op in ops {
            if let LogOp::SetMeta {
                meta: LogMeta::Vote,
                value,
            } = op
            {
                self.votes.acknowledged(member, decoded_vote(value)?);
            }
        }
        Ok(())
    }

    /// A member's state is now that of `applied`.
    pub fn applied(
        &mut self,
        member: u64,
        applied: Option<LogId>,
        hash: u64,
    ) -> Result<(), String> {
        if let Some(applied) = applied {
            self.committed.committed(member, applied)?;
            self.applied.applied(member, applied, hash)?;
        }
        Ok(())
    }

    /// What a member says of itself now.
    pub fn told(&mut self, metrics: &RaftMetrics<SimTypes>) -> Result<(), String> {
        self.election_safety.told(metrics)?;
        if let Some(committed) = metrics.local_committed {
            self.committed.committed(metrics.id, committed)?;
        }
        Ok(())
    }

    /// A member published a revision.
    pub fn published(&mut self, member: u64, revision: i64) -> Result<(), String> {
        self.revisions.published(member, revision)
    }

    /// A member loaded its state at a revision.
    pub fn loaded(&mut self, member: u64, revision: i64) {
        self.revisions.loaded(member, revision);
    }

    /// A member has a new disk, or an old one put back.
    pub fn forget(&mut self, member: u64) {
        self.votes.forget(member);
        self.log_matching.truncated(member, 0);
    }

    /// The group is no more: what is of its log and its members is of no other's.
    pub fn group_lost(&mut self) {
        self.election_safety = election_safety::ElectionSafety::default();
        self.log_matching = log_matching::LogMatching::default();
        self.committed = committed_never_changes::CommittedNeverChanges::default();
        self.applied = applied_is_a_prefix::AppliedIsAPrefix::default();
        self.votes = votes_never_go_back::VotesNeverGoBack::default();
        self.leases = leases_never_early::LeasesNeverEarly::default();
        self.revisions = revisions_without_gaps::RevisionsWithoutGaps::default();
    }

    /// Another group goes on from a snapshot.
    pub fn group_restored(&mut self) -> Result<(), String> {
        self.starts.group_restored();
        self.acknowledged.group_restored();
        self.grants.group_restored()
    }

    /// The group said this of roles, at a revision that nobody published before.
    pub fn placed(&mut self, revision: i64, placed: &[Placed]) -> Result<(), String> {
        for one in placed {
            self.writes.placed(one);
            self.starts.placed(one);
            self.acknowledged.placed(one);
            self.epochs.placed(revision, one)?;
            self.grants.placed(one)?;
        }
        Ok(())
    }

    /// A program begins to run.
    pub fn program_started(
        &mut self,
        program: &Program,
        facts: &starts_before_runs::Facts,
    ) -> Result<(), String> {
        self.overlap.started(program)?;
        self.grants.started(program)?;
        self.starts.started(program, facts)?;
        match &facts.held {
            Some(held) => self.acknowledged.started(program, held),
            None => Ok(()),
        }
    }

    /// Nothing of a program is left.
    pub fn program_ended(&mut self, program: &Program) {
        self.overlap.ended(program);
        self.grants.ended(program);
    }

    /// Count of terms that had a leader.
    pub fn terms_led(&self) -> usize {
        self.election_safety.terms()
    }
}

#[cfg(test)]
fn program(role: &str, host: &str, epoch: i64) -> Program {
    Program {
        role: role.parse().expect("a role"),
        host: host.parse().expect("a name"),
        epoch,
        number: 1,
    }
}
