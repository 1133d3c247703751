//! When a lock is held, and what its client asks of the group when: a state machine without a
//! clock or a socket. The shell is `lock_task`.
//!
//! ```text
//!   attends        told: it is yours        deadline, lease gone, asked to hand over
//!   ───────▶ Waiting ───────────────▶ Held ───────────────▶ Lost
//!             ▲ │ │                    │                     │
//!  lease over └─┘ └── gives up ────────┴── leaves ───────────┴──▶ Leaving ──▶ Over
//! ```
//! Who waits keeps its lease and so its place. A lease that is over while it waits is asked for
//! anew; the group lets the same client keep its place while the former one lives.
//!
//! Invariants
//! - It is held only with the lease with which the group said so, and never past the deadline that
//!   counts from the moment the last renewal was SENT.
//! - Once lost it is never held again: another lock has another epoch.
//! - What was said for one lease counts for no other.

use crate::clock::Moment;
use crate::session::LeaseLost;
use std::time::Duration;

/// Shortest time between two tries to queue up.
pub(crate) const ATTEND_PAUSE: Duration = Duration::from_millis(250);

/// The terms of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Its id.
    pub(crate) lease: i64,
    /// How long the lock may be held after a renewal was sent; the time to stop is not in it.
    pub(crate) serve: Duration,
}

/// How long to wait for the lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Not behind somebody else.
    pub(crate) once: bool,
    /// Until then.
    pub(crate) until: Option<Moment>,
}

/// Why the group did not take the client in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hindrance {
    /// It never will.
    Refused,
    /// Somebody of the same name is there.
    Occupied,
    /// No answer.
    Unreachable,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    Renewed,
    /// It is not renewed: the holder is asked to stop.
    Closing,
    /// There is no such lease.
    Gone,
}

/// What the group says of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It holds the lock.
    Yours { epoch: i64 },
    /// Its lease is not there.
    NotAttending,
    /// It holds the lock, and is asked to give it up.
    HandOver,
    /// Another holds it, or nobody.
    NotYours,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The group took the client in; `sent` is when it was asked.
    Attends { sent: Moment, terms: Terms },
    /// It did not.
    NotAttended(Hindrance),
    /// A renewal was answered; `sent` is when it was asked.
    Renewed {
        lease: i64,
        sent: Moment,
        renewal: Renewal,
    },
    /// A renewal got no answer.
    NotRenewed { lease: i64 },
    /// The group says what is so for this lease.
    Told { lease: i64, told: Told },
    /// The user wants it no more; nothing that it guards is under way.
    Leave,
    /// The group knows, or cannot be told.
    Left,
    /// Time has passed.
    Tick,
}

/// What to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Queue up. Answered by [`Event::Attends`] or [`Event::NotAttended`].
    Attend,
    /// Follow what the group says for this lease, and for no other.
    Follow { lease: i64 },
    /// Answered by [`Event::Renewed`] or [`Event::NotRenewed`].
    Renew { lease: i64 },
    /// Leave the queue, or give the lock up. Answered by [`Event::Left`].
    Leave { lease: i64 },
    /// Nothing is left to do.
    Done,
}

/// How it stands with the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Waiting,
    /// It is held until then at least.
    Held {
        epoch: i64,
        until: Moment,
    },
    Lost(LeaseLost),
    /// It is being left, or was.
    Left,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    terms: Terms,
    /// The lock counts as held until then.
    until: Moment,
    renew_at: Moment,
    renewing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Held { epoch: i64 },
    Lost(LeaseLost),
    Leaving,
    Over,
}

/// The state of one client of one lock.
#[derive(Debug)]
pub(crate) struct Core {
    patience: Patience,
    phase: Phase,
    /// Believed to live.
    lease: Option<Lease>,
    /// The last lease that may live at the group.
    left_behind: Option<i64>,
    attending: bool,
    /// It has been taken in once.
    attended: bool,
    attend_at: Moment,
    told: Option<Told>,
    /// It will not go on, be it granted or not.
    leaves: bool,
}

impl Core {
    pub(crate) fn new(patience: Patience, now: Moment) -> Self {
        Self {
            patience,
            phase: Phase::Waiting,
            lease: None,
            left_behind: None,
            attending: false,
            attended: false,
            attend_at: now,
            told: None,
            leaves: false,
        }
    }

    /// How it stands, as of the last event: at `until` it is held no more, event or not.
    pub(crate) fn standing(&self) -> Standing {
        match (self.phase, &self.lease) {
            (Phase::Held { epoch }, Some(lease)) => Standing::Held {
                epoch,
                until: lease.until,
            },
            (Phase::Waiting, _) if !self.leaves => Standing::Waiting,
            (Phase::Lost(lost), _) => Standing::Lost(lost),
            (Phase::Held { .. } | Phase::Waiting | Phase::Leaving | Phase::Over, _) => {
                Standing::Left
            }
        }
    }

    /// When an [`Event::Tick`] is due, if nothing else happens before.
    pub(crate) fn next_wake(&self) -> Option<Moment> {
        let waits = self.phase == Phase::Waiting && !self.leaves;
        let live = waits || matches!(self.phase, Phase::Held { .. });
        let lease = self.lease.as_ref().filter(|_| live);
        let renew = lease.filter(|lease| !lease.renewing);
        let attend = waits && self.lease.is_none() && !self.attending;
        let times = [
            renew.map(|lease| lease.renew_at),
            lease.map(|lease| lease.until),
            attend.then_some(self.attend_at),
            self.patience.until.filter(|_| waits),
        ];
        times.into_iter().flatten().min()
    }

    /// Takes what happened, at `now`, and returns what to do about it.
    pub(crate) fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.phase == Phase::Over {
            return effects;
        }
        // What comes after the deadline is too late: somebody may have seen it pass.
        self.lease_over(now);
        self.take(event, now, &mut effects);
        self.follow_told(now);
        if self.phase == Phase::Waiting && self.patience.until.is_some_and(|until| until <= now) {
            self.leaves = true;
        }
        self.leave(&mut effects);
        self.keep_lease(now, &mut effects);
        effects
    }

    fn take(&mut self, event: Event, now: Moment, effects: &mut Vec<Effect>) {
        match event {
            Event::Attends { sent, terms } => {
                self.attending = false;
                self.attended = true;
                self.told = None;
                self.left_behind = Some(terms.lease);
                self.lease = Some(Lease {
                    terms,
                    until: sent + terms.serve,
                    renew_at: sent + terms.serve / 3,
                    renewing: false,
                });
                let lease = terms.lease;
                effects.push(Effect::Follow { lease });
            }
            Event::NotAttended(hindrance) => {
                self.attending = false;
                self.attend_at = now + ATTEND_PAUSE;
                self.leaves |= match hindrance {
                    Hindrance::Refused => true,
                    Hindrance::Occupied => self.patience.once,
                    // A wrong address is an error, not an endless wait.
                    Hindrance::Unreachable => !self.attended,
                };
            }
            Event::Renewed {
                lease,
                sent,
                renewal,
            } => self.renewed((lease, sent), renewal, now),
            Event::NotRenewed { lease } => {
                if let Some(lease) = self.lease_of(lease) {
                    lease.renewing = false;
                    lease.renew_at = now + lease.terms.serve / 20;
                }
            }
            Event::Told { lease, told } => {
                if self.lease_of(lease).is_some() {
                    self.told = Some(told);
                }
            }
            Event::Leave => self.leaves = true,
            Event::Left => {
                if self.phase == Phase::Leaving {
                    self.phase = Phase::Over;
                    effects.push(Effect::Done);
                }
            }
            Event::Tick => {}
        }
    }

    fn lease_of(&mut self, id: i64) -> Option<&mut Lease> {
        self.lease.as_mut().filter(|at| at.terms.lease == id)
    }

    fn renewed(&mut self, (id, sent): (i64, Moment), renewal: Renewal, now: Moment) {
        let Some(lease) = self.lease_of(id) else {
            return;
        };
        lease.renewing = false;
        match renewal {
            Renewal::Renewed => {
                lease.until = lease.until.max(sent + lease.terms.serve);
                lease.renew_at = sent + lease.terms.serve / 3;
            }
            // What the group says on the stream may be late.
            Renewal::Closing => self.told = Some(Told::HandOver),
            Renewal::Gone => self.gone(LeaseLost::Gone, now),
        }
    }

    /// The lease is over, by the clock or by the group.
    fn gone(&mut self, why: LeaseLost, now: Moment) {
        if why == LeaseLost::Gone {
            self.left_behind = None;
        }
        self.lease = None;
        self.told = None;
        self.attend_at = now;
        if let Phase::Held { .. } = self.phase {
            self.phase = Phase::Lost(why);
        }
    }

    fn lease_over(&mut self, now: Moment) {
        if self.lease.as_ref().is_some_and(|at| at.until <= now) {
            self.gone(LeaseLost::NotRenewed, now);
        }
    }

    fn follow_told(&mut self, now: Moment) {
        let Some(told) = self.told else {
            return;
        };
        match (told, self.phase) {
            (_, Phase::Leaving | Phase::Over) => {}
            (Told::NotAttending, _) => {
                self.gone(LeaseLost::Gone, now);
                self.attend_at = now + ATTEND_PAUSE;
            }
            (Told::Yours { epoch }, Phase::Waiting) => {
                self.phase = Phase::Held { epoch };
            }
            (Told::Yours { epoch }, Phase::Held { epoch: at }) if epoch == at => {}
            (_, Phase::Held { .. }) => self.phase = Phase::Lost(LeaseLost::HandOver),
            // It was given the lock and asked for it before it knew: it queues up anew, which
            // tells the group that nothing runs.
            (Told::HandOver, Phase::Waiting) => {
                self.leaves |= self.patience.once;
                self.lease = None;
                self.told = None;
                self.attend_at = now + ATTEND_PAUSE;
            }
            (Told::NotYours, Phase::Waiting) => self.leaves |= self.patience.once,
            (_, Phase::Lost(_)) => {}
        }
    }

    fn leave(&mut self, effects: &mut Vec<Effect>) {
        let done = matches!(self.phase, Phase::Leaving | Phase::Over);
        // What is asked for now would otherwise be there after it has left.
        if !self.leaves || done || self.attending {
            return;
        }
        self.lease = None;
        self.told = None;
        if let Some(lease) = self.left_behind.take() {
            self.phase = Phase::Leaving;
            effects.push(Effect::Leave { lease });
        } else {
            self.phase = Phase::Over;
            effects.push(Effect::Done);
        }
    }

    fn keep_lease(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Waiting | Phase::Held { .. } => {}
            Phase::Lost(_) | Phase::Leaving | Phase::Over => return,
        }
        if let Some(lease) = &mut self.lease {
            if !lease.renewing && lease.renew_at <= now {
                lease.renewing = true;
                let lease = lease.terms.lease;
                effects.push(Effect::Renew { lease });
            }
        } else if !self.attending && self.attend_at <= now {
            self.attending = true;
            effects.push(Effect::Attend);
        }
    }

    #[cfg(test)]
    fn check(&self) {
        match self.phase {
            Phase::Held { .. } => {
                assert!(self.lease.is_some(), "held without a lease: {self:?}");
                assert!(!self.attending, "held, and asks for another: {self:?}");
            }
            Phase::Leaving | Phase::Over => {
                assert!(self.lease.is_none() && !self.attending, "left: {self:?}");
            }
            Phase::Waiting | Phase::Lost(_) => {}
        }
        if let Some(lease) = &self.lease {
            let id = Some(lease.terms.lease);
            assert_eq!(self.left_behind, id, "the lease that would be given back");
        }
    }
}

#[cfg(test)]
#[path = "lock_core_tests.rs"]
mod tests;
