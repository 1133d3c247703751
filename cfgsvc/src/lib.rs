//! The server of the coordination service: the etcd v3 API and our own over one replicated group.
//!
//! ```text
//!  client ─► server ─► grpc ─► service ─► Group ─► ServiceApp ─► Hub ─► watch streams
//!                                                        └─────► Keeper (leases)
//! ```
//!
//! Architecture invariants
//! - what the data means is decided in `cfgsvc-core`; here is who may ask, when, and in which words
//!   it is answered.
//! - one module reads clocks ([`clock`]); what decides takes the time as an argument.

pub mod app;
pub mod connections;
pub mod group;
pub mod grpc;
pub mod housekeeping;
pub mod http;
pub mod leadership;
pub mod lease;
pub mod metrics;
pub mod options;
pub mod reads;
pub mod recover;
pub mod run;
pub mod server;
pub mod service;
mod signatures;
pub mod streams;
pub mod votes;
pub mod watch;

pub use cfgsvc_clock as clock;
