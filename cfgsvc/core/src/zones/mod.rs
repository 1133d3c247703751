//! DNS zones as keys: what operators write, what the group counts, and what must hold of both.
//!
//! ```text
//!   zones/ZONE                  settings, and which generation of names is in force
//!   names/ZONE/GENERATION/NAME  what a name has: one key for each name
//!   follows/ZONE/NAME/TYPE      a name whose records follow a role
//!   signing/ZONE                how the zone is signed, and since when
//!   serials/ZONE                by the group: counts what the zone says      ┐ together the serial
//!   moved/ROLE                  by the group: counts moves of a role's holder ┘ of the zone
//!   catalog                     by the group: counts zones that come and go: a catalog's serial
//! ```
//!
//! Why a key for each name: a change of one record is one small commit that every watcher sees, and
//! its history and undo are those of any key. A zone that changes in more places than fit into one
//! transaction is written into the next generation, which nobody reads, and comes into force by one
//! small commit that names it.
//!
//! Why the serial is a sum: a failover moves one role, which ten thousand zones may follow. It must
//! be one small commit, and every zone that follows must have a new serial by it. So the group
//! counts the moves of each role that is followed, and every name server adds them up.
//!
//! Invariants
//! - a zone in force has a start of authority and name servers at its apex;
//! - every value below `names/` is valid wire data, whose rules for a single name hold;
//! - the serial of a zone grows in every commit that changes what the zone says, by one, or to that
//!   of its start of authority where that is newer (RFC 1982); it never goes back.

pub(crate) mod check;
pub mod keys;
pub mod objects;
mod review;
mod serial;
mod settle;
mod signing;

pub use keys::{Place, ZoneName};
pub use objects::{EPOCH_LABEL, Follow, FollowType, Moved, NodeObject, Settings, ZoneSerial};
pub use serial::{later, on_wire};
pub use signing::{KeyRole, SigningKey, SigningObject, VALID_S_MAX, VALID_S_MIN};

pub(crate) use review::{follower, review};
pub(crate) use settle::{restored, settle};
