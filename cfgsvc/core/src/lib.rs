//! The state machine of the service: a multi-version keyspace with etcd's rules, transactions,
//! leases, sessions, compaction and restore. `OVERVIEW.md` has tables and paths in one page.
//!
//! Architecture invariants
//! - nothing here awaits, reads a clock, draws a random number or iterates in hash order: replicas
//!   that apply the same commands hold the same bytes.
//! - all state is in the store ([`cluster_core::store`]); [`Machine`] only caches its counters.
//! - an `Err` of [`io::Error`](std::io::Error) is a failure of the store below, a damaged record in
//!   it, or an operation of a later version in the log, and stops the member; everything that a
//!   client can cause is a [`Refusal`](cfgsvc_proto::state::Refusal), and a refused command changes
//!   nothing of the data.

pub mod check;
mod compaction;
pub mod export;
mod floor;
pub mod history;
mod intervals;
mod lease;
pub mod limits;
mod machine;
mod metered;
mod ops;
pub mod placement;
pub mod read;
pub mod refusal;
mod restore;
mod session;
pub mod snapshot_file;
pub mod tables;
mod txn;
pub mod validate;
pub mod votes;
mod writer;
pub mod zones;

pub use floor::Floor;
pub use lease::ttl_ms;
pub use machine::{Applied, LeaseChange, Machine};
pub use txn::{is_read_only, txn_readonly};
pub use writer::{RevisionEvents, WatchEvent};
