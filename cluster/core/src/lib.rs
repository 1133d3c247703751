//! The group without I/O: what a replicated state machine is, what it is stored in, who is in it.
//!
//! Architecture invariants
//! - nothing here awaits, spawns, opens a socket or reads a clock; the dependency tree holds no
//!   tokio, tonic, openraft or rocksdb (`tests/run` proves it).
//! - nothing here knows keys of the service above: values are opaque bytes.

pub mod app;
pub mod contact;
pub mod log;
pub mod log_sizes;
pub mod membership;
pub mod store;
