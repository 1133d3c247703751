//! At no moment do two programs run in the same role, be it on two hosts or on one (DESIGN 2.1).

use std::collections::BTreeMap;
use std::time::Duration;

use cfgsvc_core::placement::RoleName;

use super::Program;
use crate::runtime::world_time;

/// Which program runs in each role.
#[derive(Debug, Default)]
pub struct RolesNeverOverlap {
    running: BTreeMap<RoleName, Program>,
    /// When the last one ended.
    ended: BTreeMap<RoleName, Duration>,
    shortest_gap: Option<Duration>,
    longest_gap: Duration,
}

impl RolesNeverOverlap {
    /// A program begins to run.
    pub fn started(&mut self, program: &Program) -> Result<(), String> {
        let role = &program.role;
        if let Some(other) = self.running.get(role) {
            return Err(format!(
                "two programs overlap: {program} starts while {other} runs"
            ));
        }
        self.running.insert(role.clone(), program.clone());
        if let Some(ended) = self.ended.get(role) {
            let gap = world_time().saturating_sub(*ended);
            self.shortest_gap = Some(self.shortest_gap.map_or(gap, |least| least.min(gap)));
            self.longest_gap = self.longest_gap.max(gap);
        }
        Ok(())
    }

    /// Nothing of a program is left.
    pub fn ended(&mut self, program: &Program) {
        if self.running.get(&program.role) == Some(program) {
            self.running.remove(&program.role);
            self.ended.insert(program.role.clone(), world_time());
        }
    }

    /// The program that runs in a role.
    pub fn running(&self, role: &RoleName) -> Option<&Program> {
        self.running.get(role)
    }

    /// Shortest and longest time from the end of a program to the start of the next in its role.
    pub fn gaps(&self) -> (Option<Duration>, Duration) {
        (self.shortest_gap, self.longest_gap)
    }
}

#[cfg(test)]
mod tests {
    use super::super::program;
    use super::*;

    #[test]
    fn overlap_is_seen_on_two_hosts_and_on_one() {
        let mut rule = RolesNeverOverlap::default();
        rule.started(&program("web", "h1", 5)).expect("first");
        rule.started(&program("db", "h2", 6)).expect("another role");
        rule.started(&program("web", "h2", 7))
            .expect_err("two hosts");
        rule.started(&program("web", "h1", 5))
            .expect_err("one host");
        rule.ended(&program("web", "h1", 5));
        rule.started(&program("web", "h2", 7))
            .expect("after its end");
    }
}
