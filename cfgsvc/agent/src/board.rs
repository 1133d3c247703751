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
    /// What keeps the agent from the group, if anything does.
    pub(crate) problem: Option<String>,
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
            left_ms: left.map_or(0, |left| {
                u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
            }),
            running: self.running,
            problem: self.problem,
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
