//! Rules for who may join and leave, as pure functions over what the leader knows.

use std::collections::BTreeSet;

/// Voters needed for a decision among `voters`.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// A group without a member, if it can still decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Voters that answer, after the removal.
    pub live: usize,
    /// Voters after the removal.
    pub voters: usize,
    /// Their majority.
    pub needed: usize,
}

impl Removal {
    /// What the group would be without `id`. `live` are the voters heard from of late.
    pub fn plan(voters: &BTreeSet<u64>, live: &BTreeSet<u64>, id: u64) -> Self {
        let rest: BTreeSet<u64> = voters
            .iter()
            .copied()
            .filter(|voter| *voter != id)
            .collect();
        Self {
            live: rest.intersection(live).count(),
            voters: rest.len(),
            needed: majority(rest.len()),
        }
    }

    /// Whether the rest can decide.
    pub fn keeps_quorum(self) -> bool {
        self.voters > 0 && self.live >= self.needed
    }
}

/// Whether a learner holds enough of the log to vote: at most `lag_max` entries behind the leader.
pub fn caught_up(matched: u64, last: u64, lag_max: u64) -> bool {
    last.saturating_sub(matched) <= lag_max
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn dead_member_of_three_may_go_but_not_a_live_one_beside_it() {
        let voters = set(&[1, 2, 3]);
        let live = set(&[1, 2]);
        assert!(Removal::plan(&voters, &live, 3).keeps_quorum());
        let refused = Removal::plan(&voters, &live, 2);
        assert_eq!(
            refused,
            Removal {
                live: 1,
                voters: 2,
                needed: 2
            }
        );
        assert!(!refused.keeps_quorum());
    }

    #[test]
    fn last_voter_may_not_go() {
        assert!(!Removal::plan(&set(&[1]), &set(&[1]), 1).keeps_quorum());
    }

    #[test]
    fn learner_is_caught_up_within_the_lag() {
        assert!(caught_up(95, 100, 5));
        assert!(!caught_up(94, 100, 5));
        assert!(caught_up(101, 100, 5));
    }
}
