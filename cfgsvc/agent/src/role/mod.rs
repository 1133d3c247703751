//! One role on one host: when to attend, renew, begin, serve, stop and yield.

pub mod core;
mod events;
