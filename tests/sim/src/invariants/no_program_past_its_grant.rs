//! The group counts nobody out who still runs: when it says that a host serves no more, or gives
//! the role on, nothing of that host's program is left.
//!
//! Why so and not only the next program's start: until that one starts there is time by luck.

use std::collections::BTreeMap;

use cfgsvc_core::placement::{Name, RoleName};

use super::Program;
use crate::agents::view::Placed;

/// Who runs.
#[derive(Debug, Default)]
pub struct NoProgramPastItsGrant {
    running: BTreeMap<(RoleName, Name), Program>,
    epochs: BTreeMap<RoleName, i64>,
}

impl NoProgramPastItsGrant {
    /// A program begins to run.
    pub fn started(&mut self, program: &Program) -> Result<(), String> {
        let newest = self.epochs.get(&program.role).copied().unwrap_or(0);
        if program.epoch < newest {
            return Err(format!("{program} starts after epoch {newest} was given"));
        }
        let key = (program.role.clone(), program.host.clone());
        self.running.insert(key, program.clone());
        Ok(())
    }

    /// Nothing of a program is left.
    pub fn ended(&mut self, program: &Program) {
        let key = (program.role.clone(), program.host.clone());
        if self.running.get(&key) == Some(program) {
            self.running.remove(&key);
        }
    }

    /// Another group goes on: it counts nobody who serves.
    pub fn group_restored(&self) -> Result<(), String> {
        match self.running.values().next() {
            Some(runs) => Err(format!("{runs} runs when another group goes on")),
            None => Ok(()),
        }
    }

    /// The group says who holds what, and who serves.
    pub fn placed(&mut self, placed: &Placed) -> Result<(), String> {
        match placed {
            // Of a snapshot, and not gone on with.
            Placed::Grant(_, Some(grant)) if grant.restored => Ok(()),
            Placed::Grant(role, Some(grant)) => {
                self.epochs.insert(role.clone(), grant.epoch);
                let mut of_role = self.running.values().filter(|runs| runs.role == *role);
                match of_role.find(|runs| runs.epoch < grant.epoch) {
                    Some(runs) => Err(format!("{runs} runs when epoch {} is given", grant.epoch)),
                    None => Ok(()),
                }
            }
            Placed::Attending(role, host, now) => {
                let serving = now.as_ref().map_or(0, |now| now.serving);
                match self.running.get(&(role.clone(), host.clone())) {
                    Some(runs) if runs.epoch != serving => {
                        Err(format!("{runs} runs when the group counts it out"))
                    }
                    Some(_) | None => Ok(()),
                }
            }
            Placed::Grant(_, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use cfgsvc_core::placement::Grant;

    use super::super::program;
    use super::*;

    #[test]
    fn program_that_runs_when_it_is_counted_out_is_seen() {
        let mut rule = NoProgramPastItsGrant::default();
        let one = program("web", "h1", 5);
        rule.started(&one).expect("it was given");
        let gone = Placed::Attending(one.role.clone(), one.host.clone(), None);
        rule.placed(&gone).expect_err("it runs");
        rule.ended(&one);
        rule.placed(&gone).expect("it has stopped");
    }

    #[test]
    fn program_that_runs_when_the_next_epoch_is_given_is_seen() {
        let mut rule = NoProgramPastItsGrant::default();
        let one = program("web", "h1", 5);
        let next = Grant {
            epoch: 9,
            ..Grant::default()
        };
        let next = Placed::Grant(one.role.clone(), Some(next));
        rule.started(&one).expect("it was given");
        rule.placed(&next).expect_err("it runs");
        rule.ended(&one);
        rule.placed(&next).expect("it has stopped");
        rule.started(&one).expect_err("too late");
    }
}
