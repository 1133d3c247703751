//! What a program relies on is there before it runs: the group has committed that its host serves
//! in its epoch, with data from which position, and the host's own disk says so.

use std::collections::BTreeMap;

use cfgsvc_core::placement::{Name, RoleName};

use super::Program;
use crate::agents::held::Held;
use crate::agents::view::Placed;

/// What was committed.
#[derive(Debug, Default)]
pub struct StartsBeforeRuns {
    serving: BTreeMap<(RoleName, Name), i64>,
    /// Host and position of each epoch's start.
    starts: BTreeMap<(RoleName, i64), (Name, String)>,
}

/// What a host has when its program starts.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Epoch in which its synced verdict says that it serves; 0 when it does not.
    pub on_disk: i64,
    /// Where its data ends; `None` when the role has none.
    pub position: Option<u64>,
    /// What it has of a synchronous role's.
    pub held: Option<Held>,
}

impl StartsBeforeRuns {
    /// The group says who holds what, and who serves.
    pub fn placed(&mut self, placed: &Placed) {
        match placed {
            Placed::Attending(role, host, now) => {
                let serving = now.as_ref().map_or(0, |now| now.serving);
                self.serving.insert((role.clone(), host.clone()), serving);
            }
            Placed::Grant(role, Some(grant)) => {
                for start in &grant.starts {
                    let key = (role.clone(), start.epoch);
                    let value = (start.host.clone(), start.position.clone());
                    self.starts.insert(key, value);
                }
            }
            Placed::Grant(_, None) => {}
        }
    }

    /// Whoever served the former group serves no more.
    pub fn group_restored(&mut self) {
        self.serving.clear();
    }

    /// A program begins to run.
    pub fn started(&self, program: &Program, facts: &Facts) -> Result<(), String> {
        let key = (program.role.clone(), program.host.clone());
        let serving = self.serving.get(&key).copied().unwrap_or(0);
        if serving != program.epoch {
            return Err(format!(
                "{program} runs without a start: the group says {serving}"
            ));
        }
        if facts.on_disk != program.epoch {
            let on_disk = facts.on_disk;
            return Err(format!(
                "{program} runs without a verdict on disk, which says {on_disk}"
            ));
        }
        let Some(position) = facts.position else {
            return Ok(());
        };
        let start = self.starts.get(&(program.role.clone(), program.epoch));
        match start {
            Some((host, from)) if *host == program.host => match from.parse::<u64>() {
                // When it runs again in its epoch it has written since.
                Ok(from) if from <= position => Ok(()),
                Ok(_) | Err(_) => Err(format!(
                    "{program} runs from {position} and began at {from}"
                )),
            },
            Some(_) | None => Err(format!(
                "{program} runs without the start of its epoch: {start:?}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use cfgsvc_core::placement::Grant;
    use cfgsvc_core::placement::grant::{Attending, Start};

    use super::super::program;
    use super::*;

    fn attending(epoch: i64) -> Attending {
        let value = format!(r#"{{"instance":"i","boot":"b","epoch":0,"serving":{epoch}}}"#);
        serde_json::from_str(&value).expect("somebody who attends")
    }

    #[test]
    fn program_without_a_committed_start_is_seen() {
        let mut rule = StartsBeforeRuns::default();
        let one = program("db", "h1", 5);
        let facts = |on_disk, position| Facts {
            on_disk,
            position,
            held: None,
        };
        rule.started(&one, &facts(5, None)).expect_err("no start");
        let there = Placed::Attending(one.role.clone(), one.host.clone(), Some(attending(5)));
        rule.placed(&there);
        rule.started(&one, &facts(5, None)).expect("it serves");
        rule.started(&one, &facts(4, None))
            .expect_err("not on disk");
        rule.started(&one, &facts(5, Some(7)))
            .expect_err("no position");
        let start = Start {
            epoch: 5,
            host: one.host.clone(),
            position: "8".to_owned(),
        };
        let grant = Grant {
            epoch: 5,
            starts: [start].into(),
            ..Grant::default()
        };
        rule.placed(&Placed::Grant(one.role.clone(), Some(grant)));
        rule.started(&one, &facts(5, Some(8))).expect("from there");
        rule.started(&one, &facts(5, Some(7)))
            .expect_err("before there");
    }
}
