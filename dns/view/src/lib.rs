//! From the group's keys to the zones that a name server answers from.
//!
//! ```text
//! zones, names ───► Zone of the generation in force ──► packed records ─┐
//! follows ──┐                                                           ├─► Tree ─► Zones
//! roles     ├─► addresses, names, epochs of the holders ─► live sets ───┤
//! grants  ──┤                                                           │
//! colos, hosts                       serials, moved ──► serial of now ──┘
//! ```
//!
//! Pure: keys and values come in, in the order of their revisions; immutable zones come out. Every
//! name server that has seen the same revision has the same zones, to the last octet, whatever way
//! it came there: that is what lets any of them answer a secondary (RFC 1995) that another served.
//!
//! Invariants
//! - what was built after any sequence of changes is what one load of the same keys would give;
//! - a change of a role costs a few sets for each zone that follows it, and packs nothing;
//! - a zone with a key that cannot be read is closed: SERVFAIL to all, because what is missing in
//!   it cannot be known. Keys pass the group's checks, so that is one of a later version;
//! - names and generations that are not in force are kept, and never answered.

mod follow;
mod placement;
mod view;
mod zone;

pub use view::{Entry, View, ZoneChange, settle};
