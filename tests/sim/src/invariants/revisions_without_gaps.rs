//! Each member publishes every revision once and in order, from where its state was loaded.

use std::collections::BTreeMap;

/// Last revision that each member published or loaded.
#[derive(Debug, Default)]
pub struct RevisionsWithoutGaps {
    last: BTreeMap<u64, i64>,
}

impl RevisionsWithoutGaps {
    /// A member loaded its state.
    pub fn loaded(&mut self, member: u64, revision: i64) {
        self.last.insert(member, revision);
    }

    /// A member published a revision.
    pub fn published(&mut self, member: u64, revision: i64) -> Result<(), String> {
        match self.last.insert(member, revision) {
            Some(last) if revision != last + 1 => Err(format!(
                "member {member} publishes revision {revision} after {last}"
            )),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_and_repetition_are_seen() {
        let mut rule = RevisionsWithoutGaps::default();
        rule.loaded(1, 1);
        rule.published(1, 2).expect("next");
        rule.published(1, 2).expect_err("again");
        rule.published(1, 4).expect_err("gap");
    }
}
