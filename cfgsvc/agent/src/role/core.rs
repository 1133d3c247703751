//! What the agent does about one role when: a state machine without a clock, a socket or a file.
//!
//! ```text
//!  Fencing: what the last agent left is put down
//!    ▼ done
//!    │   verdict: may start        start committed          synced: "serve"
//!   Idle ─────────────────▶ Beginning ─────────────▶ Writing ─────────────▶ Serving
//!    ▲ ▲                      │ refused                                       │ verdict, deadline,
//!    │ └──────────────────────┘                                               ▼ lease lost, asked
//!    └── told ── Yielding ◀── synced: not ── Unwriting ◀── nothing left ── Stopping
//! ```
//!
//! Invariants
//! - The program runs only in an epoch whose start the group has committed, with the lease of that
//!   start, and never past the deadline that counts from the moment the last renewal was SENT.
//! - What is on disk says `serve` before the program is started, and no longer when the group is
//!   told that it has stopped.
//! - The group is told so only when no process of the program is left.
//! - A verdict counts only for the lease that it was asked for; what is not known is fenced.
//! - The group is asked for nothing before the host is fenced.
//! - A host with data follows a new epoch only by a verdict on where its data ended after that had
//!   begun; and one that says it has none does not come to know epochs by that.
//! - A host whose disk does not take what it is told takes no role, and does not keep one.

use std::time::Duration;

use cfgsvc_clock::Moment;

pub use super::events::{Effect, Event, HostData, Renewal, Standing, Terms, Told, Written};

/// Shortest time between two tries to attend.
pub const ATTEND_PAUSE: Duration = Duration::from_millis(250);
/// Wait after a start that the group refused: until the host has what it lacks, or a person helps.
pub const BEGIN_PAUSE: Duration = Duration::from_millis(250);
/// Starts that are refused before the host comes again: others that wait are tried first then.
const BEGIN_TRIES: u32 = 8;
/// Wait after the host could not say where its data ends, before it is asked again.
pub const POSITION_PAUSE: Duration = Duration::from_secs(2);
/// Wait before a host whose store is empty, and which is fenced for that, is asked again.
const EMPTY_PAUSE: Duration = Duration::from_secs(5);
/// Wait after a program that ended by itself, before this host stands for the role again.
pub const ENDED_PAUSE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    terms: Terms,
    /// Serving must be over by then.
    until: Moment,
    renew_at: Moment,
    renewing: bool,
    /// It is not renewed any more.
    closing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// What the last agent left may still be there: the host is being fenced.
    Fencing,
    /// Nothing runs.
    Idle,
    /// The group was asked to begin this epoch.
    Beginning { epoch: i64 },
    /// The start is committed; that it serves is being written down: this number.
    Writing {
        epoch: i64,
        lease: i64,
        number: Option<u64>,
    },
    /// The program runs.
    Serving { epoch: i64, lease: i64 },
    /// The program is being stopped, or has ended by itself and the host is being fenced. `ended`:
    /// by itself, or for not doing its work.
    Stopping { lease: i64, ended: bool },
    /// Nothing is left; that it does not serve is being written down.
    Unwriting {
        lease: i64,
        number: Option<u64>,
        ended: bool,
    },
    /// The group is being told.
    Yielding,
    /// The agent may end.
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    why: String,
    /// It is tried again then.
    again: Moment,
    times: u32,
}

/// The agent's state about one role.
#[derive(Debug)]
pub struct Core {
    lease: Option<Lease>,
    attending: bool,
    attend_at: Moment,
    /// What the group counts as this host's data is what it said when it came: it has other data
    /// now and comes again, with its lease until the new one is there.
    comes_again: bool,
    /// When it came last.
    came_at: Moment,
    /// When a host is asked again that has said it has no data.
    look_at: Moment,
    told: Option<Told>,
    /// The epoch of which it was told, and for which it came again to say where its data ends.
    asked_of: i64,
    stream: u64,
    /// Why what served was given up, until the host comes again.
    failed: Option<String>,
    /// Why the epoch that was granted cannot be begun.
    refused: Option<Refused>,
    phase: Phase,
    /// What was written last, and its number.
    written: Option<Written>,
    number: u64,
    /// What is on disk.
    on_disk: u64,
    /// Last epoch known.
    known: i64,
    ends: bool,
}

impl Core {
    /// At the agent's start: nothing runs, and nothing is known but the last epoch, from the file.
    pub fn new(known: i64, now: Moment) -> Self {
        Self {
            lease: None,
            attending: false,
            attend_at: now,
            comes_again: false,
            came_at: now,
            look_at: now,
            told: None,
            asked_of: 0,
            stream: 0,
            failed: None,
            refused: None,
            phase: Phase::Fencing,
            written: None,
            number: 0,
            on_disk: 0,
            known,
            ends: false,
        }
    }

    /// The last epoch whose data this host has.
    pub fn known(&self) -> i64 {
        self.known
    }

    /// Until when the host may serve, if it has a lease.
    pub fn until(&self) -> Option<Moment> {
        self.lease.as_ref().map(|lease| lease.until)
    }

    /// Whether the host attends with a store, and nothing of the role is under way here: nothing is
    /// begun, served or fenced, and nothing asked.
    pub fn rests(&self) -> bool {
        let keeps = self.lease.as_ref();
        let keeps = keeps.is_some_and(|at| at.terms.data != HostData::NotKept);
        let told = matches!(self.told, Some(Told::Other(_)));
        let busy = self.attending || self.comes_again || self.ends;
        keeps && told && !busy && self.phase == Phase::Idle
    }

    /// When an [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_wake(&self) -> Option<Moment> {
        let lease = self.lease.as_ref();
        let renew = lease.filter(|lease| self.renews() && !lease.renewing && !lease.closing);
        let deadline = lease.map(|lease| lease.until);
        let attend = self.may_attend().then_some(self.attend_at);
        let may_start = matches!(self.told, Some(Told::MayStart { .. }));
        let begins = may_start && self.may_begin();
        let begin = self.refused.as_ref().filter(|_| begins);
        let begin = begin.map(|refused| refused.again);
        let again = self.comes_again_at();
        let times = [
            renew.map(|lease| lease.renew_at),
            deadline,
            attend,
            begin,
            again,
        ];
        times.into_iter().flatten().min()
    }

    /// Takes what happened, at `now`, and returns what to do about it.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.phase == Phase::Over {
            return effects;
        }
        self.take(event, now, &mut effects);
        self.lease_over(now, &mut effects);
        self.follow_verdict(now, &mut effects);
        self.write_down(&mut effects);
        self.synced(now, &mut effects);
        self.keep_lease(now, &mut effects);
        let nothing_runs = matches!(self.phase, Phase::Fencing | Phase::Idle);
        if self.ends && nothing_runs && self.lease.is_none() {
            self.phase = Phase::Over;
            effects.push(Effect::Done);
        }
        effects
    }

    fn take(&mut self, event: Event, now: Moment, effects: &mut Vec<Effect>) {
        match event {
            Event::Attends { sent, terms } => self.attends(sent, terms, effects),
            Event::NotAttended => {
                self.attending = false;
                self.attend_at = now + ATTEND_PAUSE;
                // It may have been done all the same, and ended the lease that this host came with.
                self.lease = None;
                self.told = None;
            }
            Event::NotAsked => {
                self.attending = false;
                self.attend_at = now + POSITION_PAUSE;
                // It keeps what it has, and is asked again.
                self.comes_again = true;
                self.follow(effects);
            }
            Event::Renewed {
                lease,
                sent,
                renewal,
            } => self.renewed((lease, sent), renewal, effects),
            Event::NotRenewed => {
                if let Some(lease) = &mut self.lease {
                    lease.renewing = false;
                    lease.renew_at = now + lease.terms.serve / 20;
                }
            }
            Event::Told { stream, told } if self.lease.is_some() && stream == self.stream => {
                if !matches!(told, Told::MayStart { .. }) {
                    self.refused = None;
                }
                self.hears(told, effects);
            }
            Event::Told { .. } | Event::Tick => {}
            Event::Begun { lease, epoch } => {
                let expected = self.phase == Phase::Beginning { epoch };
                self.refused = None;
                if expected && self.is_lease(lease) {
                    let number = None;
                    self.phase = Phase::Writing {
                        epoch,
                        lease,
                        number,
                    };
                } else if expected {
                    self.phase = Phase::Idle;
                }
            }
            Event::NotBegun { refused } => self.not_begun(refused, now, effects),
            Event::Synced(number) => self.on_disk = self.on_disk.max(number),
            Event::Ended => self.serves_no_more(None, effects),
            Event::Failed(why) => self.serves_no_more(Some(why), effects),
            Event::NothingLeft => self.nothing_left(),
            Event::Yielded { known } => self.yielded(known, now, effects),
            Event::Rebuilt { epoch } => {
                self.known = self.known.max(epoch);
                self.comes_again = true;
            }
            Event::SaysAnew => {
                self.comes_again = true;
                // A store that is another at each look is told of no more often than that.
                self.attend_at = self.attend_at.max(self.came_at + ATTEND_PAUSE);
            }
            Event::End => self.ends = true,
        }
    }

    /// It has ended by itself, or has failed, and is to be stopped.
    fn serves_no_more(&mut self, failed: Option<String>, effects: &mut Vec<Effect>) {
        if let Phase::Serving { lease, .. } = self.phase {
            self.phase = Phase::Stopping { lease, ended: true };
            if failed.is_some() {
                self.failed = failed;
                effects.push(Effect::Stop);
            }
        }
    }

    fn not_begun(&mut self, refused: Option<String>, now: Moment, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Beginning { .. }) {
            return;
        }
        self.phase = Phase::Idle;
        let times = self.refused.as_ref().map_or(0, |last| last.times) + 1;
        self.comes_again |= refused.is_some() && times.is_multiple_of(BEGIN_TRIES);
        self.refused = refused.map(|why| Refused {
            why,
            again: now + BEGIN_PAUSE,
            times,
        });
        // What the group said is not so any more; or the start is committed, and then it says so.
        self.follow(effects);
    }

    fn yielded(&mut self, known: bool, now: Moment, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Yielding {
            return;
        }
        self.phase = Phase::Idle;
        if !known {
            // What was asked may still be on its way: it counts for that lease alone.
            self.lease = None;
            self.attend_at = now;
        }
        if let Some(lease) = &mut self.lease {
            // Who serves no more is not asked to stop.
            lease.closing = false;
            lease.renew_at = now;
        }
        self.follow(effects);
    }

    /// Takes a verdict; not one by where the data ended before the epoch began.
    fn hears(&mut self, told: Told, effects: &mut Vec<Effect>) {
        let new = match &told {
            Told::Other(standing) if matches!(standing.verdict, "standby" | "redirect") => {
                standing.epoch.max(self.known)
            }
            Told::Other(_) | Told::Serve { .. } | Told::MayStart { .. } | Told::NotAttending => {
                self.known
            }
        };
        let data = self.lease.as_ref().map(|at| at.terms.data);
        let keeps = data.is_some_and(|data| data != HostData::NotKept);
        if keeps && new > self.known && new != self.asked_of {
            self.asked_of = new;
            self.told = None;
            self.comes_again = true;
            self.stop(effects);
        } else {
            self.told = Some(told);
        }
    }

    fn is_lease(&self, id: i64) -> bool {
        self.lease.as_ref().is_some_and(|at| at.terms.lease == id)
    }

    /// Asks anew what this host may do: what was said before counts no more.
    fn follow(&mut self, effects: &mut Vec<Effect>) {
        self.told = None;
        if let Some(lease) = &self.lease {
            self.stream += 1;
            let (stream, lease) = (self.stream, lease.terms.lease);
            effects.push(Effect::Follow { stream, lease });
        }
    }

    fn attends(&mut self, sent: Moment, terms: Terms, effects: &mut Vec<Effect>) {
        self.attending = false;
        self.refused = None;
        self.failed = None;
        // By a lease that is over with this.
        self.stop(effects);
        self.lease = Some(Lease {
            terms,
            until: sent + terms.serve,
            renew_at: sent + terms.serve / 3,
            renewing: false,
            closing: false,
        });
        self.came_at = sent;
        self.look_at = sent + EMPTY_PAUSE;
        self.follow(effects);
    }

    fn renewed(&mut self, (id, sent): (i64, Moment), renewal: Renewal, effects: &mut Vec<Effect>) {
        let serving = match self.phase {
            Phase::Serving { lease, .. } => lease == id,
            Phase::Fencing
            | Phase::Idle
            | Phase::Beginning { .. }
            | Phase::Writing { .. }
            | Phase::Stopping { .. }
            | Phase::Unwriting { .. }
            | Phase::Yielding
            | Phase::Over => false,
        };
        let Some(lease) = self.lease.as_mut().filter(|at| at.terms.lease == id) else {
            return;
        };
        lease.renewing = false;
        match renewal {
            Renewal::Renewed => {
                lease.closing = false;
                lease.until = lease.until.max(sent + lease.terms.serve);
                lease.renew_at = sent + lease.terms.serve / 3;
                if serving {
                    effects.push(Effect::Until(lease.until));
                }
            }
            Renewal::Closing => {
                // It is asked to stop; the verdict says so too, and may be late.
                lease.closing = true;
                if serving {
                    self.stop(effects);
                }
            }
            // The one that takes its place is on its way.
            Renewal::Gone if self.attending => lease.renew_at = sent + lease.terms.serve / 3,
            // Ended by the group: by its time, or because this agent attended again.
            Renewal::Gone => {
                self.lease = None;
                self.told = None;
                self.stop(effects);
            }
        }
    }

    /// Begins to stop the program, if one runs or is about to.
    fn stop(&mut self, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Serving { lease, .. } => {
                let ended = false;
                self.phase = Phase::Stopping { lease, ended };
                effects.push(Effect::Stop);
            }
            // Committed and not started: there is nothing to stop, but the group counts it.
            Phase::Writing { lease, .. } => {
                let ended = false;
                self.phase = Phase::Stopping { lease, ended };
                self.nothing_left();
            }
            Phase::Fencing
            | Phase::Idle
            | Phase::Beginning { .. }
            | Phase::Stopping { .. }
            | Phase::Unwriting { .. }
            | Phase::Yielding
            | Phase::Over => {}
        }
    }

    /// Goes on when what it waits for is on disk.
    fn synced(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let on_disk = |number: Option<u64>| number.is_some_and(|number| number <= self.on_disk);
        if let Phase::Writing {
            epoch,
            lease,
            number,
        } = self.phase
            && on_disk(number)
        {
            // A lease that is over was dropped before, with this phase.
            let own = self.lease.as_ref().filter(|at| at.terms.lease == lease);
            if let Some(until) = own.map(|at| at.until) {
                self.phase = Phase::Serving { epoch, lease };
                effects.push(Effect::Run { epoch, until });
            }
        } else if let Phase::Unwriting {
            lease,
            number,
            ended,
        } = self.phase
        {
            let Some(until) = self.until().filter(|_| self.is_lease(lease)) else {
                // Its lease is over: the group has counted it out, and so has what is on disk.
                self.phase = Phase::Idle;
                return;
            };
            if !on_disk(number) {
                return;
            }
            self.phase = Phase::Yielding;
            let leave = self.ends || ended;
            if leave {
                self.lease = None;
                self.attend_at = now + ENDED_PAUSE;
            }
            effects.push(Effect::Yield {
                lease,
                leave,
                served: true,
                until,
            });
        }
    }

    fn nothing_left(&mut self) {
        let (lease, ended) = match self.phase {
            Phase::Stopping { lease, ended } => (lease, ended),
            // By itself: this host does not do what it stands for.
            Phase::Serving { lease, .. } => (lease, true),
            Phase::Fencing => {
                self.phase = Phase::Idle;
                return;
            }
            Phase::Idle
            | Phase::Beginning { .. }
            | Phase::Writing { .. }
            | Phase::Unwriting { .. }
            | Phase::Yielding
            | Phase::Over => return,
        };
        self.told = None;
        self.phase = Phase::Unwriting {
            lease,
            number: None,
            ended,
        };
    }

    /// The deadline of the lease has passed: it is never believed again.
    fn lease_over(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.lease.as_ref().is_some_and(|at| at.until <= now) {
            self.lease = None;
            self.told = None;
            self.attend_at = now;
            self.stop(effects);
        }
    }

    fn follow_verdict(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Some((lease, until)) = self.lease.as_ref().map(|at| (at.terms.lease, at.until)) else {
            return;
        };
        if self.ends {
            self.stop(effects);
            if self.phase == Phase::Idle {
                self.phase = Phase::Yielding;
                self.lease = None;
                effects.push(Effect::Yield {
                    lease,
                    leave: true,
                    served: false,
                    until,
                });
            }
            return;
        }
        if self.attending {
            // What this lease is told is over with it.
            return;
        }
        match (&self.told, &self.phase) {
            (Some(Told::MayStart { .. }), Phase::Idle)
                if !self.may_begin()
                    || self.refused.as_ref().is_some_and(|last| now < last.again) => {}
            (Some(Told::MayStart { epoch }), Phase::Idle) => {
                let epoch = *epoch;
                self.phase = Phase::Beginning { epoch };
                effects.push(Effect::Begin { lease, epoch });
            }
            // The start was committed and its answer lost.
            (Some(Told::Serve { epoch }), Phase::Idle) => {
                let (epoch, number) = (*epoch, None);
                self.phase = Phase::Writing {
                    epoch,
                    lease,
                    number,
                };
            }
            (
                Some(Told::Serve { epoch } | Told::MayStart { epoch }),
                Phase::Writing { epoch: at, .. } | Phase::Serving { epoch: at, .. },
            ) if epoch == at => {}
            (Some(Told::NotAttending), _) => {
                self.lease = None;
                self.told = None;
                self.attend_at = now + ATTEND_PAUSE;
                self.stop(effects);
            }
            (Some(_), Phase::Writing { .. } | Phase::Serving { .. }) => self.stop(effects),
            _ => {}
        }
    }

    /// It said that it has no data, where data is kept.
    fn is_empty(&self) -> bool {
        let lease = self.lease.as_ref();
        lease.is_some_and(|at| at.terms.data == HostData::Empty)
    }

    /// Nothing runs, nothing is asked, and the disk has taken what it was told.
    fn may_begin(&self) -> bool {
        let free = self.phase == Phase::Idle && !self.attending && !self.ends;
        free && self.on_disk >= self.number
    }

    /// While something of the former lease runs, no other is asked for.
    fn may_attend(&self) -> bool {
        self.may_begin() && self.lease.is_none()
    }

    /// When it comes again with the lease that it has, if it does: it has something to say.
    fn comes_again_at(&self) -> Option<Moment> {
        self.lease.as_ref()?;
        let fenced = matches!(&self.told, Some(Told::Other(at)) if at.verdict == "fenced");
        // For its lack of data, perhaps, which may be there by now.
        let empty = fenced && self.is_empty();
        if self.phase != Phase::Idle || self.attending || self.ends {
            return None;
        }
        let empty = empty.then_some(self.look_at.max(self.attend_at));
        if self.comes_again {
            Some(self.attend_at)
        } else {
            empty
        }
    }

    /// Whether the lease is kept. Not for as long as the disk takes: a role must not hang on it.
    fn renews(&self) -> bool {
        let may_start = matches!(self.told, Some(Told::MayStart { .. }));
        match self.phase {
            Phase::Writing { .. } | Phase::Unwriting { .. } => false,
            Phase::Idle if may_start => self.on_disk >= self.number,
            Phase::Fencing
            | Phase::Idle
            | Phase::Beginning { .. }
            | Phase::Serving { .. }
            | Phase::Stopping { .. }
            | Phase::Yielding
            | Phase::Over => true,
        }
    }

    fn keep_lease(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.comes_again_at().is_some_and(|at| at <= now) {
            self.attend(effects);
        }
        let renews = self.renews();
        if let Some(lease) = &mut self.lease {
            if renews && !lease.renewing && !lease.closing && lease.renew_at <= now {
                lease.renewing = true;
                effects.push(Effect::Renew(lease.terms.lease));
            }
            return;
        }
        if self.may_attend() && self.attend_at <= now {
            self.attend(effects);
        }
    }

    fn attend(&mut self, effects: &mut Vec<Effect>) {
        self.comes_again = false;
        self.attending = true;
        effects.push(Effect::Attend);
    }

    /// Writes down what has changed. Until the group says otherwise, a host that may not serve is
    /// what it was said to be last: a standby that is promoted is not fenced in between.
    fn write_down(&mut self, effects: &mut Vec<Effect>) {
        let standing = |reason| Written::Not(Standing::fenced(self.known, reason));
        let stands = |reason| standing(self.failed.as_deref().unwrap_or(reason));
        let until = self.lease.as_ref().map(|at| at.until);
        let wanted = match (&self.phase, until, &self.told) {
            (Phase::Writing { epoch, .. } | Phase::Serving { epoch, .. }, Some(until), _) => {
                Written::Serve {
                    epoch: *epoch,
                    until,
                }
            }
            (Phase::Stopping { .. }, ..) => stands("stopping"),
            (Phase::Unwriting { .. } | Phase::Yielding, ..) => stands("stopped"),
            (_, _, Some(Told::Other(standing))) => Written::Not(standing.clone()),
            (_, None, _) => stands("no lease of the group"),
            (..) => match (&self.written, &self.refused) {
                // Its hooks are told nothing: it follows the last holder on, to get what it lacks.
                (Some(Written::Not(last)), Some(refused)) => Written::Not(Standing {
                    reason: refused.why.clone(),
                    ..last.clone()
                }),
                (Some(last @ Written::Not(_)), None) => last.clone(),
                (Some(Written::Serve { .. }) | None, _) => {
                    standing("the group has not said what this host may do")
                }
            },
        };
        if let Written::Not(at) = &wanted
            && at.verdict != "rebuild"
            && at.verdict != "fenced"
            // Who had data, and says it has none, may have it again.
            && (self.known == 0 || !self.is_empty())
        {
            self.known = self.known.max(at.epoch);
        }
        if let Written::Serve { epoch, .. } = &wanted {
            self.known = *epoch;
        }
        if self.written.as_ref() != Some(&wanted) {
            self.written = Some(wanted.clone());
            self.number += 1;
            let number = self.number;
            let what = wanted;
            effects.push(Effect::Write { number, what });
        }
        let at = self.number;
        if let Phase::Writing { number, .. } | Phase::Unwriting { number, .. } = &mut self.phase {
            number.get_or_insert(at);
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "history_tests.rs"]
mod histories;
