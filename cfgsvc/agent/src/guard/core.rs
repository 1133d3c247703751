//! What the guard does when: a state machine without a clock, a process or a socket.
//!
//! ```text
//!            until (in the future)        deadline, stop, agent lost, main process ended
//!  Waiting ───────────────────────▶ Running ───────────────────────▶ Stopping ───▶ Over
//!     │        START                            TERM, … then KILL, KILL, …     ▲  nothing
//!     └────────────────────────────────────────────────────────────────────────┘  is left
//!            stop, agent lost: nothing was started, nothing is left
//! ```
//!
//! Invariants
//! - The program is started once at most, only before a deadline, and never after stopping began.
//! - At the deadline and later the program has been sent TERM.
//! - KILL comes [`kill_after`] of the stop margin after TERM, and no later than that after the
//!   deadline: who finds after a suspend that both are over kills at once.
//! - A deadline that is moved counts from then on; one that comes after stopping began does not.
//! - The end is said once, when nothing is left, and nothing is done after it.

use std::time::Duration;

use cfgsvc_clock::Moment;

use super::protocol::{Ending, Reason, Report};

/// Time between two rounds of KILL. A process may fork while it is killed; whoever is left after
/// the first round is waited for, and a look each 10 ms costs a few hundredths of a core.
pub const AGAIN: Duration = Duration::from_millis(10);

/// The furthest deadline that is taken for one. No lease is as long: a figure beyond it is of
/// another unit or another machine.
pub const FURTHEST: Duration = Duration::from_hours(24);

/// From TERM to KILL, of the stop margin `stop`: the time from the deadline until all is gone. What
/// is left of it is for KILL to take effect, and for whoever steps in when the guard does not run.
pub fn kill_after(stop: Duration) -> Duration {
    stop * 3 / 4
}

/// When the guard is given up whose program was to stop from `stops` on: if it has not said `gone`
/// by then, whoever started it kills all. Half of what the guard's own KILL leaves of the margin
/// has passed, and half is there for this one.
pub fn given_up_at(stops: Moment, stop: Duration) -> Moment {
    stops + stop * 7 / 8
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The agent says that the program may run until then.
    Until(Moment),
    /// Somebody asks for the end.
    Stop(Asker),
    /// Nothing more will be heard from the agent.
    Lost(Loss),
    /// The program could not be started, and no process of it exists.
    NotStarted,
    /// The program says that it is up.
    Up,
    /// The main process has ended.
    Exited(Ending),
    /// What was started beside it has ended, or could not be started.
    BesideEnded(Ending),
    /// No process of the program is left.
    NothingLeft,
    /// Time has passed.
    Tick,
}

/// Who asks for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The agent.
    Agent,
    /// Whoever sent the guard SIGTERM, SIGINT or SIGHUP.
    Signal,
}

/// How the agent was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its end of the socket is closed.
    Closed,
    /// It said something that no agent says.
    BadInput,
}

/// What to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start the program, and what is to run beside it.
    Start,
    /// Send this to every process of the program.
    Signal(Sent),
    /// Tell the agent.
    Say(Report),
    /// End the guard.
    Done,
}

/// A signal to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No deadline in the future was given yet.
    Waiting,
    Running {
        until: Moment,
    },
    /// TERM has been sent.
    Stopping {
        kill_at: Moment,
    },
    /// KILL has been sent.
    Killing {
        again_at: Moment,
    },
    /// Nothing is left.
    Over,
}

/// The state of one guard, which runs its program once.
#[derive(Debug)]
pub struct Core {
    /// From the deadline until all is gone.
    stop: Duration,
    phase: Phase,
}

impl Core {
    /// `stop`: the time from the deadline, or an earlier TERM, until all must be gone.
    pub fn new(stop: Duration) -> Self {
        Self {
            stop,
            phase: Phase::Waiting,
        }
    }

    /// When a [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_wake(&self) -> Option<Moment> {
        match self.phase {
            Phase::Waiting | Phase::Over => None,
            Phase::Running { until } => Some(until),
            Phase::Stopping { kill_at } => Some(kill_at),
            Phase::Killing { again_at } => Some(again_at),
        }
    }

    /// Takes what happened, at `now`, and returns what to do about it.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.phase == Phase::Over {
            return effects;
        }
        match event {
            Event::Until(until) => self.on_until(until, now, &mut effects),
            Event::Stop(Asker::Agent) => self.stop(Reason::Asked, now, &mut effects),
            Event::Stop(Asker::Signal) => self.stop(Reason::Signal, now, &mut effects),
            Event::Lost(Loss::Closed) => self.stop(Reason::AgentLost, now, &mut effects),
            Event::Lost(Loss::BadInput) => self.stop(Reason::BadInput, now, &mut effects),
            Event::NotStarted => {
                self.stop(Reason::NotStarted, now, &mut effects);
                self.over(&mut effects);
            }
            Event::Exited(ending) => {
                effects.push(Effect::Say(Report::Exited(ending)));
                self.stop(Reason::Exited, now, &mut effects);
            }
            Event::Up => {
                if matches!(self.phase, Phase::Running { .. }) {
                    effects.push(Effect::Say(Report::Up));
                }
            }
            // While it is stopped, it ends by that.
            Event::BesideEnded(ending) => {
                if matches!(self.phase, Phase::Running { .. }) && ending != Ending::Code(0) {
                    effects.push(Effect::Say(Report::Beside(ending)));
                }
            }
            Event::NothingLeft => {
                self.stop(Reason::Exited, now, &mut effects);
                self.over(&mut effects);
            }
            Event::Tick => {}
        }
        self.on_time(now, &mut effects);
        effects
    }

    fn on_until(&mut self, until: Moment, now: Moment, effects: &mut Vec<Effect>) {
        if now.until(until) > FURTHEST {
            return self.stop(Reason::BadInput, now, effects);
        }
        match self.phase {
            Phase::Waiting if until > now => {
                self.phase = Phase::Running { until };
                effects.push(Effect::Start);
            }
            Phase::Waiting => effects.push(Effect::Say(Report::Late)),
            Phase::Running { .. } => self.phase = Phase::Running { until },
            Phase::Stopping { .. } | Phase::Killing { .. } | Phase::Over => {}
        }
    }

    /// Begins to stop, unless that began before.
    fn stop(&mut self, reason: Reason, now: Moment, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Waiting => {
                effects.push(Effect::Say(Report::Stopping(reason)));
                self.over(effects);
            }
            Phase::Running { until } => {
                let kill_at = now.min(until) + kill_after(self.stop);
                self.phase = Phase::Stopping { kill_at };
                effects.push(Effect::Signal(Sent::Term));
                effects.push(Effect::Say(Report::Stopping(reason)));
            }
            Phase::Stopping { .. } | Phase::Killing { .. } | Phase::Over => {}
        }
    }

    fn over(&mut self, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            effects.push(Effect::Say(Report::Gone));
            effects.push(Effect::Done);
        }
    }

    /// Does what is due by `now`: after a suspend more than one step can be.
    fn on_time(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if let Phase::Running { until } = self.phase
            && until <= now
        {
            self.stop(Reason::Deadline, now, effects);
        }
        if let Phase::Stopping { kill_at: due } | Phase::Killing { again_at: due } = self.phase
            && due <= now
        {
            self.phase = Phase::Killing {
                again_at: now + AGAIN,
            };
            effects.push(Effect::Signal(Sent::Kill));
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
