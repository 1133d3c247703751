//! What is known about each role now, for load balancers, people and the watchdog.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cfgsvc_clock::Moment;
use serde::Serialize;

/// One role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) verdict: &'static str,
    pub(crate) epoch: i64,
    pub(crate) holder: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) reason: String,
    /// Serving is over then.
    pub(crate) until: Option<Moment>,
    /// The program runs, or has begun to.
    pub(crate) running: bool,
    /// Every process of the program must be gone by then.
    pub(crate) gone_by: Option<Moment>,
    /// What does not work now.
    pub(crate) problems: BTreeMap<Part, String>,
}

/// What may not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// What is asked of the group.
    Group,
    /// The stream of verdicts.
    Verdicts,
    /// The hook that says where the data ends.
    Position,
    /// The hook beside the program.
    Serve,
    /// The hook that looks whether it serves.
    Check,
    /// The hook that says who is in sync, and telling the group of it.
    Sync,
    /// Ending the program.
    Program,
    /// The hook that fences after the program.
    Fence,
    /// Writing the verdict file.
    File,
}

/// What is shown of it.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    role: String,
    serves: bool,
    verdict: &'static str,
    epoch: i64,
    holder: String,
    addresses: Vec<String>,
    reason: String,
    /// How long it may still serve, ms.
    left_ms: u64,
    running: bool,
    problem: Option<String>,
}

impl Status {
    /// The program runs, and may.
    pub(crate) fn serves(&self, now: Moment) -> bool {
        self.verdict == "serve" && self.running && self.until.is_some_and(|until| now < until)
    }

    pub(crate) fn shown(self, role: &str, now: Moment) -> Shown {
        let left = self.until.map(|until| now.until(until));
        Shown {
            role: role.to_owned(),
            serves: self.serves(now),
            verdict: self.verdict,
            epoch: self.epoch,
            holder: self.holder,
            addresses: self.addresses,
            reason: self.reason,
            left_ms: left.filter(|_| self.verdict == "serve").map_or(0, |left| {
                u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
            }),
            running: self.running,
            problem: self
                .problems
                .into_values()
                .reduce(|all, one| format!("{all}; {one}")),
        }
    }
}

/// All roles of this agent.
#[derive(Debug, Default)]
pub(crate) struct Board {
    roles: Mutex<BTreeMap<String, Status>>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Status>> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known about `role`.
    pub(crate) fn change(&self, role: &str, change: impl FnOnce(&mut Status)) {
        change(self.lock().entry(role.to_owned()).or_default());
    }

    /// Notes what does not work, or that it does again; logs what is new.
    pub(crate) fn problem(&self, role: &str, part: Part, problem: Option<String>) {
        self.change(role, |status| match problem {
            Some(problem) if status.problems.get(&part) != Some(&problem) => {
                tracing::warn!(role, "{problem}");
                status.problems.insert(part, problem);
            }
            Some(_) => {}
            None => {
                if let Some(was) = status.problems.remove(&part) {
                    tracing::info!(role, was, "is over");
                }
            }
        });
    }

    pub(crate) fn role(&self, role: &str) -> Option<Status> {
        self.lock().get(role).cloned()
    }

    pub(crate) fn all(&self) -> BTreeMap<String, Status> {
        self.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_serves_while_the_program_runs_and_the_lease_lasts() {
        let at = |ms| Moment::since_boot(Duration::from_millis(ms));
        let board = Board::default();
        board.change("r", |status| {
            status.verdict = "serve";
            status.until = Some(at(10));
        });
        let serves = |now| board.role("r").is_some_and(|status| status.serves(at(now)));
        assert!(!serves(9), "it does not run yet");
        board.change("r", |status| status.running = true);
        assert!(serves(9) && !serves(10));
        board.change("r", |status| status.verdict = "fenced");
        assert!(!serves(9));
    }
}
