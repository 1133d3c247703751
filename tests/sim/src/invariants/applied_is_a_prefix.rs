//! Members apply the same log: at the same applied index they hold the same bytes.

use std::collections::BTreeMap;

use cluster::types::LogId;

/// Hash of the state at each log index at which some member stopped to look.
#[derive(Debug, Default)]
pub struct AppliedIsAPrefix {
    states: BTreeMap<u64, (u64, u64)>,
}

impl AppliedIsAPrefix {
    /// A member's state after `applied` has this hash.
    pub fn applied(&mut self, member: u64, applied: LogId, hash: u64) -> Result<(), String> {
        let known = self.states.entry(applied.index()).or_insert((hash, member));
        if known.0 == hash {
            return Ok(());
        }
        Err(format!(
            "members {} and {member} differ after index {}",
            known.1,
            applied.index()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_states_at_one_index_are_seen() {
        let mut rule = AppliedIsAPrefix::default();
        let at = LogId::new_term_index(1, 4);
        rule.applied(1, at, 5).expect("first");
        rule.applied(2, at, 5).expect("same");
        rule.applied(2, at, 6).expect_err("other");
    }
}
