//! What a role's core hears and does: its events and effects.

use std::time::Duration;

use cfgsvc_clock::Moment;

/// The terms of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its id.
    pub lease: i64,
    /// How long the host may serve after sending a renewal; the time to stop is not in it.
    pub serve: Duration,
    /// What the host said of its data when it came.
    pub data: HostData,
}

/// What a host says of the role's data that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostData {
    /// Nothing: it is not asked where it ends.
    NotKept,
    /// Its store is empty, or cannot be seen: its volume is not mounted, say.
    Empty,
    /// It has some.
    Some,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It has its whole time again.
    Renewed,
    /// It is not renewed: the holder is asked to stop.
    Closing,
    /// There is no such lease.
    Gone,
}

/// What the group says this host may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It holds the epoch, which has begun.
    Serve {
        /// The epoch.
        epoch: i64,
    },
    /// It was given the epoch, and may begin it.
    MayStart {
        /// The epoch.
        epoch: i64,
    },
    /// Its lease is not there.
    NotAttending,
    /// Anything else: standby, redirect, rebuild, fenced.
    Other(Standing),
}

/// A verdict that does not let the host serve, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `standby`, `redirect`, `rebuild` or `fenced`.
    pub verdict: &'static str,
    /// The role's epoch.
    pub epoch: i64,
    /// Who holds it; empty when nobody does.
    pub holder: String,
    /// Where the holder is reached.
    pub addresses: Vec<String>,
    /// In words.
    pub reason: String,
}

impl Standing {
    /// Nothing is known: not the group, not its answer.
    pub fn fenced(epoch: i64, reason: &str) -> Self {
        Self {
            verdict: "fenced",
            epoch,
            holder: String::new(),
            addresses: Vec::new(),
            reason: reason.to_owned(),
        }
    }
}

/// What is written down for the host's programs, and for the agent after a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// This host serves.
    Serve {
        /// The epoch.
        epoch: i64,
        /// Until then, unless it is written again.
        until: Moment,
    },
    /// It does not.
    Not(Standing),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The group took the host in; `sent` is when it was asked.
    Attends {
        /// When it was asked.
        sent: Moment,
        /// What it gave.
        terms: Terms,
    },
    /// It did not, or did not answer.
    NotAttended,
    /// It was not asked: where the host's data ends is not known now.
    NotAsked,
    /// A renewal was answered.
    Renewed {
        /// Which lease.
        lease: i64,
        /// When it was asked.
        sent: Moment,
        /// The answer.
        renewal: Renewal,
    },
    /// A renewal got no answer.
    NotRenewed,
    /// The group says what this host may do.
    Told {
        /// On which stream.
        stream: u64,
        /// What.
        told: Told,
    },
    /// The start is committed.
    Begun {
        /// With which lease.
        lease: i64,
        /// The epoch.
        epoch: i64,
    },
    /// The start was refused, which says why; or nobody knows what became of it.
    NotBegun {
        /// Why the group refused it.
        refused: Option<String>,
    },
    /// What was to be written is on disk, up to this number.
    Synced(u64),
    /// The program is gone; what fences after it is not done yet. May be left out.
    Ended,
    /// What serves does not do its work, and why: it is given up as one that ends by itself.
    Failed(String),
    /// No process of the program is left, or none was started, and the host is fenced. The first
    /// one says that the host is fenced at the start.
    NothingLeft,
    /// The group was told that this host has stopped.
    Yielded {
        /// It answered.
        known: bool,
    },
    /// This host has the data of this epoch's holder now.
    Rebuilt {
        /// The epoch.
        epoch: i64,
    },
    /// What the group knows of this host's data counts no more: its store was opened anew, or the
    /// group asks where it ends now.
    SaysAnew,
    /// The agent is asked to end.
    End,
    /// Time has passed.
    Tick,
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the group for a lease. Answered by [`Event::Attends`] or [`Event::NotAttended`].
    Attend,
    /// Follow the verdicts for this lease on a new stream, and on no other. Its first one is of a
    /// read that begins now.
    Follow {
        /// Number of the stream.
        stream: u64,
        /// The lease.
        lease: i64,
    },
    /// Renew. Answered by [`Event::Renewed`] or [`Event::NotRenewed`].
    Renew(i64),
    /// Tell the group that the epoch begins. Answered by [`Event::Begun`] or [`Event::NotBegun`].
    Begin {
        /// With which lease.
        lease: i64,
        /// The epoch.
        epoch: i64,
    },
    /// Write it down, and sync it. Answered by [`Event::Synced`], by a later one's at the latest.
    Write {
        /// Numbers ascend.
        number: u64,
        /// What.
        what: Written,
    },
    /// Start the program, which may run until then.
    Run {
        /// The epoch, for its environment.
        epoch: i64,
        /// Its deadline.
        until: Moment,
    },
    /// The program may run until then.
    Until(Moment),
    /// Stop the program. Answered by [`Event::NothingLeft`].
    Stop,
    /// Tell the group that it has stopped; `leave`: that the host goes away. Answered by
    /// [`Event::Yielded`].
    Yield {
        /// With which lease.
        lease: i64,
        /// The host goes away.
        leave: bool,
        /// It has served, so that the group is told where its data ends.
        served: bool,
        /// By then the lease is over, and nobody need be told.
        until: Moment,
    },
    /// The agent may end.
    Done,
}
