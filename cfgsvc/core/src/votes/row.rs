//! What one host sees: its row of the matrix.

use std::collections::BTreeMap;

use crate::placement::{Name, RoleName};

/// What an observer sees of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// It answers.
    Reached,
    /// It does not, several times in a row.
    Missed,
}

/// What one host sees; whom it has not probed is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The colo of the observer.
    pub colo: Name,
    /// When the leader had it, ms.
    pub heard_ms: u64,
    /// How late the observer's own timers were when it made it, ms: one that is late sees others
    /// late (Lifeguard's self-awareness, arXiv 1707.00788).
    pub late_ms: u64,
    /// Whether it can be probed itself.
    pub probed: bool,
    /// Other hosts.
    pub hosts: BTreeMap<Name, Sight>,
    /// Checks of roles, at their holders.
    pub checks: BTreeMap<RoleName, Sight>,
}
