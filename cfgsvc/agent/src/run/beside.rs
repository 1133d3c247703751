//! What is run beside a role's program while it is served: the hooks `check` and `sync`, and
//! `position` when the group wants to know.
//!
//! Invariants
//! - Nothing of it is there before the program is, nor when that is being stopped: it is killed
//!   then, and not waited for.
//! - `check` only says what it has found. Who serves, and for how long, is decided elsewhere.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::ask::Question;
use super::hooks::{Hooks, Told};
use super::sync::{Syncs, Voice};
use crate::board::{Board, Part};
use crate::role::core::Event;

/// How the program has come along; it goes one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It is not there yet.
    Starting,
    /// COMMAND or `on-serve` has begun.
    Begun,
    /// COMMAND has begun, or `on-serve` has succeeded.
    Up,
    /// It is being stopped, or has ended.
    Over,
}

/// When the hook `check` is run, and what counts as failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks {
    /// From one run's beginning to the next one's, if it has ended by then.
    pub(crate) interval: Duration,
    /// Longest time for a run.
    pub(crate) timeout: Duration,
    /// So many failures in a row are the end.
    pub(crate) failures: u32,
}

/// What it is about, and who is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside<'a> {
    pub(crate) hooks: &'a Hooks,
    pub(crate) told: &'a Told,
    pub(crate) board: &'a Board,
    pub(crate) events: &'a mpsc::Sender<Event>,
}

impl Beside<'_> {
    /// Runs it until the program's last stage.
    pub(crate) async fn run(
        self,
        (checks, voice): (Checks, Option<&Voice>),
        stage: watch::Receiver<Stage>,
    ) {
        let mut over = stage.clone();
        let check = self.check(checks, stage.clone());
        let sync = self.sync(voice, stage);
        tokio::select! {
            biased;
            // A sender that is gone says the same.
            _ = over.wait_for(|stage| *stage == Stage::Over) => {}
            ((), ()) = async { tokio::join!(check, sync) } => {}
        }
        // Of a list that is of no use any more.
        self.board.problem(&self.hooks.role, Part::Sync, None);
    }

    /// Tells the group what a holder has to say: who is in sync, and where its data is.
    async fn sync(self, voice: Option<&Voice>, mut stage: watch::Receiver<Stage>) {
        let begun = stage.wait_for(|stage| *stage >= Stage::Begun).await.is_ok();
        if let Some(voice) = voice.filter(|_| begun) {
            Syncs::new(self, voice).run().await;
        }
    }

    /// Runs the hook `check` until it has failed too often, which is told once.
    async fn check(self, checks: Checks, mut stage: watch::Receiver<Stage>) {
        let (role, epoch) = (&self.hooks.role, self.told.epoch);
        let shown = |problem| self.board.problem(role, Part::Check, problem);
        let up = stage.wait_for(|stage| *stage >= Stage::Up).await.is_ok();
        if !up || self.hooks.path("check").is_none() {
            return;
        }
        // Of the last time that it served.
        shown(None);
        let mut next = tokio::time::interval(checks.interval);
        next.set_missed_tick_behavior(MissedTickBehavior::Delay);
        next.reset();
        let mut check = Question::new("check", checks.timeout);
        let mut failed = 0;
        loop {
            next.tick().await;
            let Err(why) = check.passes(self.hooks, self.told).await else {
                failed = 0;
                shown(None);
                continue;
            };
            failed += 1;
            let most = checks.failures;
            if failed < most {
                shown(Some(format!("{why}; failure {failed} of {most} in a row")));
                continue;
            }
            let why = format!("check failed: {why}, {failed} times in a row");
            tracing::error!(role, epoch, why, "gives the role up");
            shown(Some(format!("{why}; the role was given up")));
            // Nobody to tell: the role is left.
            let _ = self.events.send(Event::Failed(why)).await;
            return;
        }
    }
}

#[cfg(test)]
#[path = "beside_tests.rs"]
mod tests;
