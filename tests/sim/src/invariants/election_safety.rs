//! At most one leader in a term.

use std::collections::BTreeMap;

use cluster::types::Vote;
use openraft::{RaftMetrics, ServerState};

use crate::types::SimTypes;

/// Who led each term.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<u64, u64>,
}

impl ElectionSafety {
    fn leads(&mut self, term: u64, leader: u64) -> Result<(), String> {
        match self.leaders.insert(term, leader) {
            Some(other) if other != leader => {
                Err(format!("members {other} and {leader} both led term {term}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A member writes a vote; a committed one names the leader of its term.
    pub fn voted(&mut self, _member: u64, vote: &Vote) -> Result<(), String> {
        if vote.committed {
            return self.leads(vote.leader_id.term, vote.leader_id.voted_for);
        }
        Ok(())
    }

    /// A member tells its role.
    pub fn told(&mut self, metrics: &RaftMetrics<SimTypes>) -> Result<(), String> {
        if metrics.state == ServerState::Leader && metrics.vote.committed {
            return self.leads(metrics.current_term, metrics.id);
        }
        Ok(())
    }

    /// Count of terms that had a leader.
    pub fn terms(&self) -> usize {
        self.leaders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_a_term_are_seen() {
        let mut rule = ElectionSafety::default();
        rule.voted(1, &Vote::new_committed(3, 1)).expect("first");
        rule.voted(2, &Vote::new_committed(3, 1)).expect("same");
        rule.voted(2, &Vote::new_committed(3, 2))
            .expect_err("other");
    }
}
