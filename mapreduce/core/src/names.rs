//! What jobs, tasks, attempts, masters and workers are called. Each kind is a type of its own, so
//! that none passes for another; none is ever used for a second thing.

use std::fmt;

use crate::limits::NAME_BYTES_MAX;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number!(
    /// A job: the revision at which its header was created in the group. Later jobs are greater.
    JobId,
    "job-"
);
number!(
    /// A term of office of the master: the revision at which the role `mapreduce/master` was
    /// granted. It is the fencing token of everything that this master does.
    Epoch,
    "e"
);
number!(
    /// A life of a worker: the revision at which its leased key was created. A worker that lost
    /// its lease and comes back has another.
    Incarnation,
    "i"
);

/// Which function a task applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// One for each split.
    Map,
    /// One for each partition.
    Reduce,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Map => "map",
            Self::Reduce => "reduce",
        })
    }
}

/// A task of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Its phase.
    pub phase: Phase,
    /// Which of its phase, from 0.
    pub index: u32,
}

impl TaskId {
    /// A map task.
    pub const fn map(index: u32) -> Self {
        let phase = Phase::Map;
        Self { phase, index }
    }

    /// A reduce task.
    pub const fn reduce(index: u32) -> Self {
        let phase = Phase::Reduce;
        Self { phase, index }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:05}", self.phase, self.index)
    }
}

/// One try of a task. Never used again: a master counts up, and no two masters share an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// Of the master that assigned it.
    pub epoch: Epoch,
    /// Which assignment of that master, from 1.
    pub counter: u64,
}

impl AttemptId {
    /// Before any attempt.
    pub const NONE: Self = Self {
        epoch: Epoch(0),
        counter: 0,
    };
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.0, self.counter)
    }
}

/// A name that is too long, empty, or has a control character.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {NAME_BYTES_MAX} bytes and no control characters, found {bytes} bytes")]
pub struct NameError {
    /// Bytes found.
    pub bytes: usize,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checked: 1 to [`NAME_BYTES_MAX`] bytes, none of them a control character.
            pub fn new(name: &str) -> Result<Self, NameError> {
                let bytes = name.len();
                if bytes == 0 || bytes > NAME_BYTES_MAX || name.chars().any(char::is_control) {
                    return Err(NameError { bytes });
                }
                Ok(Self(name.to_owned()))
            }

            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A worker, over all its lives.
    WorkerName
);
name!(
    /// A machine, on which data may be and workers run.
    HostName
);
name!(
    /// A failure domain, such as a rack or a colo: what is in the same one is near.
    ZoneName
);

/// A number that depends on all bits of both; the finalizer of splitmix64. It is part of what is
/// stored (`inputs` of a reduce), so it is for ever.
pub const fn mix(first: u64, second: u64) -> u64 {
    let mut z = first
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(second)
        .wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
