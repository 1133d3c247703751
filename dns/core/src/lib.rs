//! What an authoritative name server answers: immutable zones and a question in, a reply out.
//!
//! ```text
//! Zone ─► Tree ─┐
//! Zone ─► Tree ─┼─► Zones ─┬─► answer ─► Reply: what goes into which section
//! Zone ─► Tree ─┘          │
//!              Question ───┘
//! ```
//!
//! Pure: no clock, file, socket, thread or hash order. Whether the server may answer at all, the
//! bytes of the message, EDNS, truncation and transfers are for the shell around it.
//!
//! Invariants
//! - one question costs a walk over its labels for each alias, at most [`ALIASES_MAX`] of them, and
//!   one for each name that goes into the additional section, whether the name exists or not;
//! - NXDOMAIN is said only of a name that has nothing at or below it (RFC 8020);
//! - AA is set only when the first name of the answer is in a zone of ours and not delegated.

mod answer;
mod index;
mod reply;
mod tree;
mod zones;

pub use answer::{ALIASES_MAX, CLASS_IN, Question, answer};
pub use reply::{Data, ExtendedError, Rcode, Records, Reply};
pub use tree::{BuildError, Lookup, NodeId, SetView, StoredData, Tree};
pub use zones::Zones;
