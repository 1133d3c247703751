//! `cfgdns`: an authoritative name server that answers from the group's zones, and only while the
//! group confirms them.
//!
//! ```text
//! group ─► client: keys, freshness ─► cfgdns-view: Zones ─► State ─► cfgdns-net: UDP, TCP, TLS,
//!                                            publish, one store          │         QUIC
//!                    lamp: log lines ◄── freshness ──► status: HTTP      │ respond, each request
//!                                                                        ▼
//!                                                                     clients
//! ```
//!
//! Invariants
//! - zones and their deadline are stored together: no answer comes from zones that are older than
//!   the confirmation that vouches for them;
//! - the deadline is counted from when the confirmed request was sent, by a clock that nobody sets
//!   and that goes on while the machine sleeps; nothing of it is on disk;
//! - a request that comes after the deadline gets SERVFAIL, whatever else the process does.

pub mod args;
pub mod lamp;
mod metrics;
pub mod news;
pub mod publish;
pub mod run;
pub mod secrets;
mod signatures;
pub mod status;
