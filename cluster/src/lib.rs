//! A Raft group over several hosts that replicates an opaque state machine ([`App`]).
//!
//! Architecture invariants
//! - all openraft types stay inside this package; wire and disk formats are ours.
//! - nothing here knows keys, leases or DNS (`cfgsvc*` is not in the dependency tree).
//! - persist, then send: nothing is acknowledged before the log said it is durable.

pub mod append;
mod connections;
pub mod convert;
pub mod directory_store;
mod forward;
pub mod founding;
pub mod group;
pub mod identity;
mod log_entry;
pub mod log_store;
mod log_tail;
mod log_upkeep;
pub mod machine;
pub mod member;
mod membership;
pub mod network;
mod peer_server;
mod sealed;
pub mod sent;
pub mod start;
pub mod state_store;
mod status;
pub mod survivor;
pub mod transport;
pub mod types;

pub mod proto;

pub use cluster_core::app::{App, AppEntry};
pub use cluster_core::store::{StateEngine, View};
pub use group::{
    CallError, Group, LeaderService, Member, MembershipError, NewMember, ProposeError, ReadError,
    Role, Status,
};
