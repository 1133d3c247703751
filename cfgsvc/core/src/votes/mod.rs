//! Votes: who is down, by what the hosts see of one another, and what the group does about it.
//!
//! ```text
//!  agents: probe hosts and checks        leader: rows (soft state, the newest of each host)
//!  ┌──────┐ row with each renewal   ┌──────────┐  cut    ┌──────────┐ policy   ┌──────────────┐
//!  │ h1   ├────────────────────────▶│ Scene    ├────────▶│ Cut: who ├─────────▶│ one move, or │
//!  │ h2   │◀─ whom to probe ────────┤          │         │ is down  │          │ why not      │
//!  └──────┘                         └──────────┘         └──────────┘          └──────┬───────┘
//!                                                    committed, if all is still so ◀──┘
//! ```
//!
//! Why so: a holder that is cut off stops by its lease, without any vote. Votes are for what leases
//! do not show: a host that the group hears and nobody else does, a service that answers nothing,
//! a colo that has to be left as a whole. They are soft state, lost with the leader and sent again;
//! what is decided is a commit, conditional on what it was decided from.
//!
//! Everything here is a pure function of its arguments; times are milliseconds of the leader's
//! lease clock.
//!
//! Invariants
//! - nothing is down unless a majority of all colos say so ([`mod@cut`]).
//! - an observer that is not well, or sees hardly anybody, says nothing.
//! - the last colo that is up is not left.

pub mod cut;
pub mod observers;
pub mod policy;
mod row;

pub use cut::{Cut, Scene, State, Subject, cut};
pub use policy::{Memory, Move, Outcome, Placed, Settings, decide};
pub use row::{Row, Sight};
