//! What is committed at an index stays; a member that writes another entry there has lost it.

use std::collections::BTreeMap;

use cluster::types::LogId;

/// Terms of the committed entries.
#[derive(Debug, Default)]
pub struct CommittedNeverChanges {
    terms: BTreeMap<u64, u64>,
    /// Last of each leader's term that is written anywhere, for an entry of a later leader.
    newest: u64,
}

fn term_of(log_id: LogId) -> u64 {
    log_id.committed_leader_id().term
}

impl CommittedNeverChanges {
    /// A member knows that `log_id` is committed.
    pub fn committed(&mut self, member: u64, log_id: LogId) -> Result<(), String> {
        let (index, term) = (log_id.index(), term_of(log_id));
        self.newest = self.newest.max(index);
        match self.terms.insert(index, term) {
            Some(other) if other != term => Err(format!(
                "index {index} is committed with term {other} and, at member {member}, {term}"
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// A member appends an entry: no later leader may put another one where something is committed.
    pub fn appended(&mut self, member: u64, log_id: LogId) -> Result<(), String> {
        let (index, term) = (log_id.index(), term_of(log_id));
        match self.terms.get(&index) {
            Some(committed) if term > *committed => Err(format!(
                "member {member} appends index {index} of term {term}, where term {committed} is \
                 committed"
            )),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_in_place_of_a_committed_one_is_seen() {
        let mut rule = CommittedNeverChanges::default();
        rule.committed(1, LogId::new_term_index(2, 7))
            .expect("first");
        rule.committed(2, LogId::new_term_index(2, 7))
            .expect("same");
        rule.appended(3, LogId::new_term_index(1, 7))
            .expect("an old one that will go");
        rule.appended(3, LogId::new_term_index(3, 7))
            .expect_err("later");
        rule.committed(3, LogId::new_term_index(3, 7))
            .expect_err("other");
    }
}
