//! Whole groups in one thread, under virtual time and seeded faults. `OVERVIEW.md` has the picture.
//!
//! Architecture invariants
//! - everything that happens follows from the seed: no thread, no clock, no hash order.
//! - the members run the real state machine, log store and apply logic; what is simulated is below
//!   them (disks, network, clocks) and around them (clients, operators, people who pull plugs).

pub mod agents;
pub mod client;
pub mod defect;
pub mod disk;
pub mod history;
pub mod host;
pub mod housekeeping;
pub mod invariants;
pub mod lease;
pub mod links;
pub mod member;
pub mod membership;
pub mod nemesis;
pub mod network;
pub mod observe;
pub mod oracle;
pub mod peer;
pub mod plan;
pub mod rng;
pub mod run;
pub mod runtime;
pub mod state;
pub mod trace;
pub mod types;
pub mod watcher;
pub mod world;
