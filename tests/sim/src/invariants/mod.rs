//! What must hold at every moment, one rule in each file. All are fed by events and look only at
//! what is new.

pub mod applied_is_a_prefix;
pub mod committed_is_durable;
pub mod committed_never_changes;
pub mod election_safety;
pub mod leases_never_early;
pub mod log_matching;
pub mod revisions_without_gaps;
pub mod votes_never_go_back;

use bytes::Bytes;
use cluster::proto;
use cluster::types::{LogId, Vote, decode, vote_from};
use cluster_core::log::{LogMeta, LogOp};
use openraft::RaftMetrics;

use crate::types::SimTypes;

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

    /// Count of terms that had a leader.
    pub fn terms_led(&self) -> usize {
        self.election_safety.terms()
    }
}
