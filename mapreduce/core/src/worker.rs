//! What a worker may do, by what the group has confirmed: pure, and asked before each deed.
//!
//! A worker follows a part of the keyspace (its own key, the role `mapreduce/master`, the headers
//! and logs of its jobs). Of that copy it knows up to which moment it is confirmed. Nothing is done
//! by a copy that is too old, or when the worker's own lease may be over; clocks need only run at
//! nearly the right rate for that, because two thirds of the lease's time are used and no more
//! (reference: mapreduce.md 5.2, 8). That limits how stale a served byte can be. It is not what
//! keeps two attempts from winning: that is the group's check of each batch.

use std::fmt;
use std::time::Duration;

use crate::names::{AttemptId, Epoch};
use crate::record::JobStatus;

/// Until when a lease counts whose renewal was sent at `sent` and has the time to live `ttl`: two
/// thirds of it, so that a clock that is slow by a third would still be right.
pub fn lease_deadline(sent: Duration, ttl: Duration) -> Duration {
    sent.saturating_add(ttl.saturating_mul(2) / 3)
}

/// The group as a worker's copy has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed<'a> {
    /// Epoch of the role `mapreduce/master`; none when nobody holds it.
    pub epoch: Option<Epoch>,
    /// The worker's own lease counts up to here: see [`lease_deadline`].
    pub lease_until: Duration,
    /// The copy may be used up to here.
    pub fresh_until: Duration,
    /// Whether the job goes on; none when the copy has no such job.
    pub job: Option<&'a JobStatus>,
    /// The winner of the task that is asked about, by the job's log.
    pub winner: Option<AttemptId>,
}

/// What a worker wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Begin an attempt that a master of this epoch has assigned.
    Begin(Epoch),
    /// Go on with an attempt that it has begun.
    GoOn,
    /// Serve a part of the output of this attempt of a map.
    Serve(AttemptId),
    /// Give the output of this attempt the name that the job's output has.
    Publish(AttemptId),
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its lease may be over.
    NoLease,
    /// Its copy is too old.
    NotFresh,
    /// The copy has no such job.
    NoJob,
    /// The job is over.
    JobOver,
    /// The copy has no master, or one of another epoch.
    Epoch {
        /// What the copy has.
        confirmed: Option<Epoch>,
        /// What was asked with.
        asked: Epoch,
    },
    /// The attempt is not the winner of its task, as far as is confirmed.
    NotWinner {
        /// Who is.
        winner: Option<AttemptId>,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLease => f.write_str("this worker's lease may be over"),
            Self::NotFresh => f.write_str("the group has not confirmed this worker's copy lately"),
            Self::NoJob => f.write_str("there is no such job"),
            Self::JobOver => f.write_str("the job is over"),
            Self::Epoch {
                confirmed: Some(confirmed),
                asked,
            } => write!(
                f,
                "the master has epoch {confirmed}, asked by one of {asked}"
            ),
            Self::Epoch { asked, .. } => write!(f, "there is no master, asked by one of {asked}"),
            Self::NotWinner {
                winner: Some(winner),
            } => write!(f, "attempt {winner} has won"),
            Self::NotWinner { winner: None } => f.write_str("no attempt has won"),
        }
    }
}

/// Whether a worker may do this now.
pub fn may(deed: Deed, confirmed: &Confirmed<'_>, now: Duration) -> Result<(), Refused> {
    if now >= confirmed.fresh_until {
        return Err(Refused::NotFresh);
    }
    // Anybody may publish what is recorded, also one that is no member any more.
    let needs_lease = !matches!(deed, Deed::Publish(_));
    if needs_lease && now >= confirmed.lease_until {
        return Err(Refused::NoLease);
    }
    let status = confirmed.job.ok_or(Refused::NoJob)?;
    let runs = match (status, deed) {
        (JobStatus::Running, _) | (JobStatus::Done, Deed::Publish(_)) => true,
        (JobStatus::Done | JobStatus::Failed(_) | JobStatus::Cancelled, _) => false,
    };
    if !runs {
        return Err(Refused::JobOver);
    }
    match deed {
        Deed::Begin(asked) if confirmed.epoch != Some(asked) => {
            let confirmed = confirmed.epoch;
            Err(Refused::Epoch { confirmed, asked })
        }
        Deed::Serve(attempt) | Deed::Publish(attempt) if confirmed.winner != Some(attempt) => {
            let winner = confirmed.winner;
            Err(Refused::NotWinner { winner })
        }
        Deed::Begin(_) | Deed::GoOn | Deed::Serve(_) | Deed::Publish(_) => Ok(()),
    }
}

/// What became of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Begin it.
    New,
    /// It came before, or a later one did: it is, or was, here; or it never will be.
    Before,
    /// It is of a master that another has followed.
    OldMaster,
}

/// What a worker remembers of its masters. Epochs and attempts only grow, so one of each is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    epoch: Epoch,
    accepted: AttemptId,
}

impl Intake {
    /// Of a worker that begins, with nothing heard.
    pub const fn new() -> Self {
        Self {
            epoch: Epoch(0),
            accepted: AttemptId::NONE,
        }
    }

    /// The highest epoch that it knows.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The greatest attempt that it has accepted; it takes none below.
    pub fn accepted(&self) -> AttemptId {
        self.accepted
    }

    /// A message of a master, or the copy of the group, has this epoch. False: it is an old one's,
    /// and counts for nothing.
    pub fn hear(&mut self, epoch: Epoch) -> bool {
        self.epoch = self.epoch.max(epoch);
        epoch == self.epoch
    }

    /// An assignment has come. What is new is to be begun, once [`may`] says so too.
    pub fn take(&mut self, attempt: AttemptId, epoch: Epoch) -> Taken {
        if !self.hear(epoch) || attempt.epoch != epoch {
            return Taken::OldMaster;
        }
        if attempt <= self.accepted {
            return Taken::Before;
        }
        self.accepted = attempt;
        Taken::New
    }
}

impl Default for Intake {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
