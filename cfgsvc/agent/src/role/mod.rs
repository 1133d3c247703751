//! One role on one host: when to attend, renew, begin, serve, stop and yield; and whom to wait for.

pub mod core;
mod events;
pub mod sync;
