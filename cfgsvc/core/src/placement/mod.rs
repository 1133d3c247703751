//! Placement: colos, hosts and roles, who holds a role, and what a host may do about it.
//!
//! ```text
//!   operators ─ put, delete, txn ─► review ──┐
//!   agents ──── role commands ────► steps ───┼─► Turn ─► Grant: pure transitions ─► keys
//!   time ────── leases that end ──► steps ───┘               │
//!                                               verdict ◄────┘ pure: for hosts and people
//! ```
//!
//! Architecture invariants
//! - a role has at most one holder, and a host is counted as serving from the commit of its start
//!   to the commit of its stop, or of its lease's end ([`grant`]).
//! - only [`grant::Grant::settle`] gives a role to somebody, and only while nobody serves.
//! - what operators write and what the machine writes are different keys ([`keys`]).

pub(crate) mod check;
pub mod grant;
pub mod keys;
mod moves;
pub mod name;
pub mod objects;
pub mod placed;
pub mod position;
mod promised;
pub mod read;
mod review;
mod steps;
mod sync;
mod turn;
pub mod verdict;

pub use grant::{Attending, Grant};
pub use name::{Name, RoleName};
pub use objects::{Colo, Host, Spec};
pub use promised::promised_ms;
pub use verdict::{Fence, Verdict};

pub(crate) use review::{concerns, review};
pub(crate) use steps::{lease_over, restored, step};
pub(crate) use turn::attending_by;
