//! A member's vote only grows, over restarts too: what it has promised it has promised.

use std::collections::BTreeMap;

use cluster::types::Vote;

/// The votes of each member.
#[derive(Debug, Default)]
pub struct VotesNeverGoBack {
    written: BTreeMap<u64, Vote>,
    acknowledged: BTreeMap<u64, Vote>,
}

fn rank(vote: &Vote) -> (u64, bool) {
    (vote.leader_id.term, vote.committed)
}

impl VotesNeverGoBack {
    /// A member starts with this vote.
    pub fn started(&mut self, member: u64, vote: Option<Vote>) -> Result<(), String> {
        if let Some(promised) = self.acknowledged.get(&member)
            && vote.is_none_or(|vote| rank(&vote) < rank(promised))
        {
            return Err(format!(
                "member {member} starts with vote {vote:?}, it had promised {promised:?}"
            ));
        }
        match vote {
            Some(vote) => self.written.insert(member, vote),
            None => self.written.remove(&member),
        };
        Ok(())
    }

    /// A member hands a vote to its disk.
    pub fn written(&mut self, member: u64, vote: Vote) -> Result<(), String> {
        match self.written.insert(member, vote) {
            Some(before) if rank(&vote) < rank(&before) => Err(format!(
                "member {member} writes vote {vote:?} after {before:?}"
            )),
            Some(before)
                if before.leader_id.term == vote.leader_id.term
                    && before.leader_id.voted_for != vote.leader_id.voted_for
                    && !vote.committed =>
            {
                Err(format!(
                    "member {member} votes twice in a term: {vote:?} after {before:?}"
                ))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The vote is durable: it was given.
    pub fn acknowledged(&mut self, member: u64, vote: Vote) {
        self.acknowledged.insert(member, vote);
    }

    /// A member's disk was replaced.
    pub fn forget(&mut self, member: u64) {
        self.acknowledged.remove(&member);
        self.written.remove(&member);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vote_that_went_back_or_was_given_twice_is_seen() {
        let mut rule = VotesNeverGoBack::default();
        rule.written(1, Vote::new(3, 2)).expect("first");
        rule.acknowledged(1, Vote::new(3, 2));
        rule.written(1, Vote::new_committed(3, 2)).expect("it won");
        rule.written(1, Vote::new(2, 1)).expect_err("back");
        rule.started(1, Some(Vote::new(3, 2))).expect("as promised");
        rule.written(1, Vote::new(3, 1)).expect_err("twice");
        rule.started(1, None).expect_err("lost");
    }
}
