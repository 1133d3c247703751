//! Leases: who counts their time, and how renewals reach it.

pub mod book;
pub mod keeper;
pub mod renewals;
pub mod wire;

use std::time::Duration;

use cfgsvc_core::LeaseChange;

/// A lease as the state has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub id: i64,
    /// How long it lives without a renewal.
    pub ttl: Duration,
    /// It is not renewed: its holder is asked to stop.
    pub closing: bool,
}

/// Who is told of leases by the state machine. An interface, so that a simulation can count their
/// time by a clock of its own.
pub trait LeaseListener: Send + Sync + 'static {
    /// Replaces all leases: at start, after a snapshot.
    fn load(&self, leases: Vec<Known>);

    /// Leases began, ended and closed, in order, and that is visible.
    fn changed(&self, changes: &[LeaseChange]);
}
