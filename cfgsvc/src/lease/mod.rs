//! Leases: who counts their time, and how renewals reach it.

pub mod book;
pub mod keeper;
pub mod renewals;
pub mod wire;

use cfgsvc_core::LeaseChange;

/// Who is told of leases by the state machine. An interface, so that a simulation can count their
/// time by a clock of its own.
pub trait LeaseListener: Send + Sync + 'static {
    /// Replaces all leases (id, TTL in seconds): at start, after a snapshot.
    fn load(&self, leases: Vec<(i64, i64)>);

    /// Leases began and ended, in order, and that is visible.
    fn changed(&self, changes: &[LeaseChange]);
}
