//! Keeps the time of leases: takes over with leadership, ends what is over, renews what is
//! confirmed.
//!
//! ```text
//!  client ─ keep-alive ─► member: batch ─ call_leader ─► leader: quorum check ─► book ─► answers
//!                                                        leader: book due ─► propose LeaseExpire
//! ```
//!
//! Invariants
//! - a renewal is answered only after a quorum check that began after it had arrived.
//! - counting starts after everything of earlier terms is applied here, in the term of the check.
//! - a lease ends only by a log entry.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use cfgsvc_core::LeaseChange;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::{Command, LeaseExpire};
use cluster::{CallError, Group, LeaderService, ProposeError, ReadError, Role};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prost::Message;
use tokio::sync::Notify;

use super::book::{Attempts, LeaseBook, Renewal};
use super::wire::{LeaseAnswer, LeaseCall, Renewed, Seen, decode};
use super::{Known, LeaseListener};
use crate::clock::{self, Moment};
use crate::votes::Votes;

/// Most leases that one log entry ends; with some keys each it stays a small entry.
const EXPIRE_LEASES_MAX: usize = 128;
/// Wait after a failure before the next try.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Longest sleep of the expiry task: a sleep does not count the time that the machine was
/// suspended, the deadlines do.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// Keeps the time of leases on one member.
#[derive(Default)]
pub struct Keeper {
    book: Mutex<LeaseBook>,
    /// The next deadline may have changed.
    recount: Notify,
    /// Weak: the group holds this as its leader's service, and must be able to close.
    group: OnceLock<Weak<dyn Group>>,
    /// What hosts see of one another, as the leader hears it with their renewals.
    votes: Votes,
}

impl Keeper {
    /// What hosts see of one another.
    pub fn votes(&self) -> &Votes {
        &self.votes
    }

    /// The term in which this member counts leases, and hears what hosts see.
    pub fn leading(&self) -> Option<u64> {
        self.book().leading()
    }

    /// Count of leases.
    pub fn count(&self) -> usize {
        self.book().len()
    }

    /// Works for as long as the member runs: follows leadership and ends leases. Must be called
    /// once.
    pub async fn run(&self, group: Arc<dyn Group>) {
        self.group.get_or_init(|| Arc::downgrade(&group));
        tokio::join!(
            self.follow_leadership(group.as_ref()),
            self.end_due(group.as_ref())
        );
    }

    fn book(&self) -> MutexGuard<'_, LeaseBook> {
        // No code panics while it holds the lock.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow_leadership(&self, group: &dyn Group) {
        let mut status = group.status();
        loop {
            let (role, term) = {
                let now = status.borrow_and_update();
                (now.role, now.term)
            };
            let counted = self.book().leading();
            if role != Role::Leader || counted.is_some_and(|counted| counted != term) {
                self.book().follow();
            }
            if role == Role::Leader && self.book().leading().is_none() {
                match take_over(group, term).await {
                    Ok(()) => self.book().lead(Moment::now(), term),
                    Err(error) => {
                        tracing::debug!(term, %error, "not counting leases yet");
                        tokio::time::sleep(RETRY_PAUSE).await;
                        continue;
                    }
                }
                tracing::info!(
                    term,
                    leases = self.count(),
                    "leases have their whole time again"
                );
                self.recount.notify_one();
            }
            if status.changed().await.is_err() {
                self.book().follow();
                return;
            }
        }
    }

    async fn end_due(&self, group: &dyn Group) {
        loop {
            let due = self.book().take_due(Moment::now(), EXPIRE_LEASES_MAX);
            if let Some((term, ids)) = due {
                self.end(group, term, ids).await;
                continue;
            }
            let next = self.book().next_due();
            let pause = next.map_or(SLEEP_MAX, |next| next.since(Moment::now()).min(SLEEP_MAX));
            // Whichever comes first; the deadlines are looked at again in both cases.
            let _ = tokio::time::timeout(pause, self.recount.notified()).await;
        }
    }

    /// Ends `ids`, and returns when the outcome is known or another member leads.
    async fn end(&self, group: &dyn Group, term: u64, ids: Vec<i64>) {
        let command = Command {
            at_ms: clock::wall_ms(),
            author: "cfgsvcd".to_owned(),
            reason: "lease expired".to_owned(),
            op: Some(Op::LeaseExpire(LeaseExpire {
                ids: ids.clone(),
                term,
            })),
            ..Command::default()
        };
        let command = Bytes::from(command.encode_to_vec());
        let mut attempts = Attempts::default();
        loop {
            let outcome = group.propose(command.clone()).await.map(drop);
            let settled = outcome.as_ref().copied();
            let certain = attempts.settled(settled.map_err(ProposeError::not_executed));
            let left = if certain {
                // What ended has arrived in `changed` before.
                self.book().not_ended(Moment::now(), term, &ids)
            } else {
                ids.len()
            };
            if left == 0 {
                return;
            }
            let error = outcome.err().map(|error| error.to_string());
            tracing::warn!(term, leases = left, error, "leases did not end yet");
            tokio::time::sleep(RETRY_PAUSE).await;
            if certain || self.book().leading() != Some(term) {
                return;
            }
        }
    }

    async fn answer(&self, request: Bytes) -> Result<Bytes, CallError> {
        let call: LeaseCall = decode(request)?;
        let group = self
            .group
            .get()
            .and_then(Weak::upgrade)
            .ok_or(CallError::NotLeader)?;
        if self.book().leading().is_none() {
            return Err(CallError::NotLeader);
        }
        let term = group
            .confirm_leadership()
            .await
            .map_err(|error| match error {
                ReadError::NoLeader | ReadError::Stopped => CallError::NotLeader,
                ReadError::Timeout { waited_ms } => CallError::Timeout { waited_ms },
            })?;
        let now = Moment::now();
        let mut book = self.book();
        if book.leading() != Some(term) {
            return Err(CallError::NotLeader);
        }
        let renewed = call
            .renew
            .iter()
            .map(|id| renewed(book.renewed(now, term, *id)));
        let renewed = renewed.collect();
        let seen = call.look.iter().map(|id| match book.remaining(now, *id) {
            Some(left) => Seen {
                granted_ms: whole_ms(left.granted),
                remaining_ms: whole_ms(left.remaining),
            },
            None => Seen::default(),
        });
        let seen = seen.collect();
        drop(book);
        let rows = call.rows.into_iter();
        let answer = LeaseAnswer {
            renewed,
            seen,
            probes: rows.map(|row| self.votes.hear(now, term, row)).collect(),
            votes: call.votes.then(|| self.votes.shown(now)),
        };
        Ok(answer.encode_to_vec().into())
    }
}

impl LeaseListener for Keeper {
    fn load(&self, leases: Vec<Known>) {
        self.book().load(leases);
        self.recount.notify_one();
    }

    fn changed(&self, changes: &[LeaseChange]) {
        if changes.is_empty() {
            return;
        }
        let now = Moment::now();
        let mut book = self.book();
        for change in changes {
            match *change {
                LeaseChange::Granted { id, ttl_ms } => {
                    book.granted(now, id, Duration::from_millis(ttl_ms));
                }
                LeaseChange::Closing { id, closing } => book.closing(id, closing),
                LeaseChange::Ended { id } => book.gone(id),
            }
        }
        drop(book);
        self.recount.notify_one();
    }
}

impl LeaderService for Keeper {
    fn call(&self, _term: u64, request: Bytes) -> BoxFuture<'_, Result<Bytes, CallError>> {
        self.answer(request).boxed()
    }
}

/// What became of a renewal, for the one that asked.
fn renewed(renewal: Renewal) -> Renewed {
    match renewal {
        Renewal::Renewed(ttl) => Renewed {
            ttl_ms: whole_ms(ttl),
            ..Renewed::default()
        },
        Renewal::Closing => Renewed {
            closing: true,
            ..Renewed::default()
        },
        Renewal::Gone => Renewed::default(),
        // The second cannot be: the term was compared under the same lock.
        Renewal::Ending | Renewal::NotLeading => Renewed {
            undecided: true,
            ..Renewed::default()
        },
    }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns when this member, leading in `term`, has applied everything of earlier terms. Two checks
/// around the barrier: it was passed in `term`.
async fn take_over(group: &dyn Group, term: u64) -> Result<(), TakeOverError> {
    let first = group.confirm_leadership().await?;
    group.read_barrier().await?;
    let last = group.confirm_leadership().await?;
    if (first, last) != (term, term) {
        return Err(TakeOverError::OtherTerm {
            expected: term,
            found: last,
        });
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum TakeOverError {
    #[error("leadership is not confirmed")]
    Unconfirmed(#[from] ReadError),
    #[error("leads in term {found}, expected term {expected}")]
    OtherTerm { expected: u64, found: u64 },
}
