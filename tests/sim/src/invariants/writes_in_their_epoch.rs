//! A resource that checks epochs takes no write of an older epoch after one of a newer, and only
//! writes of the host to which the group gave the epoch (DESIGN 2.1: at most one host's writes take
//! effect, always).

use std::collections::BTreeMap;

use cfgsvc_core::placement::{Name, RoleName};

use super::Program;
use crate::agents::view::Placed;

/// What resources took.
#[derive(Debug, Default)]
pub struct WritesInTheirEpoch {
    granted: BTreeMap<(RoleName, i64), Name>,
    highest: BTreeMap<RoleName, Program>,
    taken: u64,
}

impl WritesInTheirEpoch {
    /// The group says who holds what.
    pub fn placed(&mut self, placed: &Placed) {
        if let Placed::Grant(role, Some(grant)) = placed
            && let Some(holder) = &grant.holder
        {
            self.granted
                .insert((role.clone(), grant.epoch), holder.clone());
        }
    }

    /// A resource took a write.
    pub fn taken(&mut self, by: &Program) -> Result<(), String> {
        self.taken += 1;
        if let Some(newer) = self.highest.get(&by.role)
            && newer.epoch > by.epoch
        {
            return Err(format!("a write of {by} took effect after one of {newer}"));
        }
        let holder = self.granted.get(&(by.role.clone(), by.epoch));
        if holder != Some(&by.host) {
            return Err(format!(
                "a write of {by} took effect, and the group gave that epoch to {holder:?}"
            ));
        }
        self.highest.insert(by.role.clone(), by.clone());
        Ok(())
    }

    /// Count of writes.
    pub fn count(&self) -> u64 {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use cfgsvc_core::placement::Grant;

    use super::super::program;
    use super::*;

    fn grant(role: &str, epoch: i64, holder: &str) -> Placed {
        let grant = Grant {
            epoch,
            holder: Some(holder.parse().expect("a name")),
            ..Grant::default()
        };
        Placed::Grant(role.parse().expect("a role"), Some(grant))
    }

    #[test]
    fn write_of_an_older_epoch_and_of_nobody_are_seen() {
        let mut rule = WritesInTheirEpoch::default();
        rule.placed(&grant("web", 5, "h1"));
        rule.placed(&grant("web", 9, "h2"));
        rule.taken(&program("web", "h1", 5)).expect("its own");
        rule.taken(&program("web", "h1", 9))
            .expect_err("another's epoch");
        rule.taken(&program("web", "h2", 9)).expect("the next");
        rule.taken(&program("web", "h1", 5)).expect_err("older");
        rule.taken(&program("db", "h1", 5))
            .expect_err("never given");
    }
}
