//! A write of a synchronous role that was acknowledged is in the store of whoever begins a later
//! epoch, unless a person has given it up (DESIGN 2: what was acknowledged is not lost).

use std::collections::BTreeMap;

use cfgsvc_core::placement::RoleName;

use super::Program;
use crate::agents::held::Held;
use crate::agents::view::Placed;

/// What clients of databases were told.
#[derive(Debug, Default)]
pub struct AcknowledgedIsKept {
    acknowledged: BTreeMap<RoleName, Held>,
    said: BTreeMap<RoleName, Said>,
    checked: u64,
}

/// What the group said last of a role.
#[derive(Debug, Default, Clone, Copy)]
struct Said {
    /// The next holder may lack writes.
    loses: bool,
    /// The last epoch that was begun, and whether it was begun so.
    begun: i64,
    lost: bool,
}

impl AcknowledgedIsKept {
    /// The group says who holds what.
    pub fn placed(&mut self, placed: &Placed) {
        let Placed::Grant(role, Some(grant)) = placed else {
            return;
        };
        let said = self.said.entry(role.clone()).or_default();
        let begun = grant.starts.back().map_or(0, |last| last.epoch);
        if begun != said.begun {
            said.begun = begun;
            said.lost = said.loses;
        }
        said.loses = grant.loses;
    }

    /// What another group goes on from may be old: a person decides whose data counts.
    pub fn group_restored(&mut self) {
        self.acknowledged.clear();
        self.said.clear();
    }

    /// A holder has told clients that all of these are written.
    pub fn acknowledged(&mut self, role: &RoleName, writes: Held) {
        let before = self.acknowledged.entry(role.clone()).or_default();
        if before.position() < writes.position() {
            *before = writes;
        }
    }

    /// A program begins to run, with this store.
    pub fn started(&mut self, program: &Program, held: &Held) -> Result<(), String> {
        let said = self.said.get(&program.role).copied().unwrap_or_default();
        let before = self.acknowledged.entry(program.role.clone()).or_default();
        if said.lost && said.begun == program.epoch {
            if !before.is_part_of(held) {
                *before = before.first(before.common(held));
            }
            return Ok(());
        }
        self.checked += 1;
        if before.is_part_of(held) {
            return Ok(());
        }
        Err(format!(
            "{program} begins with {held:?}, and acknowledged were {before:?}"
        ))
    }

    /// How many beginnings were looked at.
    pub fn count(&self) -> u64 {
        self.checked
    }
}

#[cfg(test)]
mod tests {
    use cfgsvc_core::placement::Grant;
    use cfgsvc_core::placement::grant::Start;

    use super::super::program;
    use super::*;

    fn held(count: u64) -> Held {
        let mut held = Held::default();
        for _ in 0..count {
            held.wrote(5);
        }
        held
    }

    fn says(rule: &mut AcknowledgedIsKept, epoch: i64, loses: bool) {
        let start = Start {
            epoch,
            host: "h1".parse().expect("a name"),
            position: "0".to_owned(),
        };
        let grant = Grant {
            epoch,
            loses,
            starts: [start].into(),
            ..Grant::default()
        };
        rule.placed(&Placed::Grant("db".parse().expect("a role"), Some(grant)));
    }

    #[test]
    fn a_store_without_what_was_acknowledged_is_seen_unless_a_person_gave_it_up() {
        let mut rule = AcknowledgedIsKept::default();
        let role = program("db", "h1", 5).role;
        says(&mut rule, 5, false);
        rule.started(&program("db", "h1", 5), &held(0))
            .expect("the first");
        rule.acknowledged(&role, held(7));
        says(&mut rule, 9, false);
        rule.started(&program("db", "h2", 9), &held(6))
            .expect_err("one is missing");
        rule.started(&program("db", "h2", 9), &held(8))
            .expect("it has more");
        says(&mut rule, 9, true);
        says(&mut rule, 12, false);
        rule.started(&program("db", "h2", 12), &held(6))
            .expect("a person said so");
        rule.started(&program("db", "h2", 12), &held(5))
            .expect("the same");
        says(&mut rule, 15, false);
        rule.started(&program("db", "h2", 15), &held(4))
            .expect_err("that was for once");
    }
}
