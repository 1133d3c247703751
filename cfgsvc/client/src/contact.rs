//! When one who follows the group asks it, and whom; and when the watch is left. Pure: the shell is
//! `follow`.
//!
//! A barrier goes out each period, whether or not those before it were answered: one that waits for
//! an election at a member that lives is worth more than another try. The first one asks the
//! endpoint in use. While none is answered each asks the next endpoint, so that a member that says
//! nothing costs one period. The one that answers is in use from then on.
//!
//! A watch that is silent may have nothing to say. So it is asked: when a barrier is not answered
//! in time, and when a barrier is ahead of it. If it says nothing to that it is left.
//!
//! Invariants
//! - with [`PERIODS`] periods in the time for which a confirmation counts, no more than that many
//!   barriers are under way, and one for each that failed at once;
//! - an endpoint in use is left only for one that has answered while it did not;
//! - a barrier that fails at once is followed by the next after a wait that grows with each.

use crate::clock::Moment;
use crate::route::backoff;
use rand::Rng;
use std::time::Duration;

/// Barriers in the time for which a confirmation counts. With so many, two members that are silent,
/// one after the other, with a watch at each, cost less than that time; and so does an election
/// that takes no longer than seven of these periods.
pub(crate) const PERIODS: u32 = 8;
/// Periods in which a watch must answer when it is asked, at least.
const SILENT_PERIODS: u32 = 2;
/// Least time that it has, however short the periods are.
const SILENCE_MIN: Duration = Duration::from_millis(100);
/// The time doubles with each watch that is left, so that a slow member is not left for ever before
/// it speaks: up to this.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What to do with the watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithWatch {
    /// Nothing is missing.
    Nothing,
    /// Ask it how far it is.
    Ask,
    /// Leave its member.
    Leave,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// A barrier goes to the endpoint that is so many after the one in use.
    pub(crate) steps: usize,
    /// This too.
    pub(crate) watch: WithWatch,
}

/// The contact with the group.
#[derive(Debug)]
pub(crate) struct Contact {
    period: Duration,
    due: Moment,
    /// When the first barrier was sent since one was answered.
    since: Option<Moment>,
    /// Barriers since then.
    unanswered: usize,
    /// Barriers in a row that failed at once.
    failed: u32,
    silence: Silence,
}

impl Contact {
    /// For confirmations that count for `limit`; the first barrier is due at `now`.
    pub(crate) fn new(limit: Duration, now: Moment) -> Self {
        // Never zero, which would be no wait at all.
        let period = (limit / PERIODS).max(Duration::from_millis(1));
        Self {
            period,
            due: now,
            since: None,
            unanswered: 0,
            failed: 0,
            silence: Silence::new(period),
        }
    }

    /// How long a watch may take to be opened.
    pub(crate) fn patience(limit: Duration) -> Duration {
        (limit / PERIODS * SILENT_PERIODS).max(SILENCE_MIN)
    }

    /// When something is to be done next.
    pub(crate) fn due(&self) -> Moment {
        self.due
    }

    /// What is to be done now.
    pub(crate) fn turn(&mut self, now: Moment) -> Turn {
        let watch = if self.silence.too_long(now) {
            WithWatch::Leave
        } else if self.unanswered > 0 {
            self.silence.asked(now);
            WithWatch::Ask
        } else {
            WithWatch::Nothing
        };
        let steps = self.unanswered;
        self.since.get_or_insert(now);
        self.unanswered += 1;
        self.due = now + self.period;
        Turn { steps, watch }
    }

    /// The barrier that was sent at `sent`, so many `steps` on, was answered; whether its endpoint
    /// is to be used from now on: those that were asked before it, since anybody has answered,
    /// have said nothing. The one in use may have been left meanwhile, for the sake of the watch.
    pub(crate) fn answered(&mut self, sent: Moment, steps: usize) -> bool {
        let first = self.is_open(sent);
        if first {
            self.since = None;
            self.unanswered = 0;
            self.failed = 0;
        }
        first && steps > 0
    }

    /// The barrier that was sent at `sent` was not answered, and, when it failed `at_once`, the
    /// next one need not wait for its time; whether nobody has answered since it was sent.
    pub(crate) fn failed(
        &mut self,
        sent: Moment,
        at_once: bool,
        now: Moment,
        rng: &mut impl Rng,
    ) -> bool {
        let open = self.is_open(sent);
        if open && at_once {
            let pause = backoff(self.failed, rng);
            self.failed = (self.failed + 1).min(16);
            self.due = self.due.min(now + pause);
        }
        open
    }

    /// Nobody has answered since before this barrier was sent.
    fn is_open(&self, sent: Moment) -> bool {
        self.since.is_some_and(|since| since <= sent)
    }

    /// What was answered is ahead of the watch, which is asked at once.
    pub(crate) fn ahead(&mut self, now: Moment) {
        self.silence.asked(now);
    }

    /// The watch has said something.
    pub(crate) fn heard(&mut self) {
        self.silence.broken();
    }
}

/// How long the watch has been silent since it was asked.
#[derive(Debug)]
struct Silence {
    least: Duration,
    asked: Option<Moment>,
    limit: Duration,
}

impl Silence {
    fn new(period: Duration) -> Self {
        let least = (period * SILENT_PERIODS).max(SILENCE_MIN);
        Self {
            least,
            asked: None,
            limit: least,
        }
    }

    fn broken(&mut self) {
        self.asked = None;
        self.limit = self.least;
    }

    fn asked(&mut self, now: Moment) {
        self.asked.get_or_insert(now);
    }

    /// Whether it is time to leave the member; the next one gets more time.
    fn too_long(&mut self, now: Moment) -> bool {
        let silent = self
            .asked
            .is_some_and(|asked| now.since(asked) >= self.limit);
        if silent {
            self.asked = None;
            self.limit = (self.limit * 2).min(SILENCE_MAX.max(self.least));
        }
        silent
    }
}

#[cfg(test)]
#[path = "contact_tests.rs"]
mod tests;
