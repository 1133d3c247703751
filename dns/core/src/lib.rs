//! What an authoritative name server answers: immutable zones and a request in, a reply out.
//!
//! ```text
//! Zone ─► Tree ─┐
//! Zone ─► Tree ─┼─► Zones ─┬─► answer ─► Reply: what goes into which section ─┐
//! Zone ─► Tree ─┘          │                                                  │
//!              Question ───┘                                                  ▼
//!                 ▲    signature, freshness, settings, time, client, limit ─► respond ─► octets
//!              Request ◄─ octets                                                 └─────► Stream
//!
//! Tree ─► following(the one before) ─► History: what has changed, for incremental transfers
//! Tree ─► Notifier ─► messages to secondaries      names ─► catalog ─► Zone: the list of zones
//! ```
//!
//! Pure: no clock, file, socket, thread or hash order. Times and secrets come in as values; what
//! carries the octets is for the shell around it.
//!
//! Invariants
//! - one question costs a walk over its labels for each alias, at most [`ALIASES_MAX`] of them, and
//!   one for each name that goes into the additional section, whether the name exists or not;
//! - NXDOMAIN is said only of a name that has nothing at or below it (RFC 8020);
//! - AA is set only when the first name of the answer is in a zone of ours and not delegated.

mod acl;
mod answer;
mod catalog;
mod cookie;
mod dnssec;
mod encode;
mod history;
mod index;
mod keys;
mod limit;
mod message;
mod notify;
mod packed;
mod reply;
mod respond;
mod serial;
mod settings;
mod siphash;
mod stream;
mod tree;
mod tsig;
mod whole;
mod zones;

pub use acl::{Acl, Allow, AllowError, Network};
pub use answer::{ALIASES_MAX, CLASS_IN, Question, answer};
pub use catalog::{CatalogError, CatalogMember, catalog};
pub use cfgdns_sign::SignatureCache;
pub use cookie::CookieSecrets;
pub use dnssec::{Wanted, prove};
pub use history::{HISTORY_OCTETS_MAX, HISTORY_STEPS_MAX, History};
pub use keys::{
    Algorithm, KEY_FILE_OCTETS_MAX, KeyError, KeyFileError, SECRET_OCTETS_MIN, TsigKey, TsigKeys,
    TwoKeys, parse_keys,
};
pub use limit::{Limiter, Limits};
pub use message::{Asked, Edns, Fault, HEADER_OCTETS, Request, Tsig, rcode_of};
pub use notify::{NOTIFY_SENDS_MAX, Notifier, NotifyReply, NotifyTarget};
pub use reply::{Data, ExtendedError, Rcode, Records, Reply};
pub use respond::{
    Arrival, Freshness, Local, Moment, Outcome, PLAIN_UDP_OCTETS, State, TCP_OCTETS_MAX, Transport,
    UDP_OCTETS_MAX, respond,
};
pub use serial::is_before;
pub use settings::{Chaos, IDENTITY_OCTETS_MAX, Identity, IdentityTooLong, Settings};
pub use stream::{End, STREAM_OCTETS, Stream};
pub use tree::{BuildError, LiveSet, Lookup, NodeId, SetView, StoredData, Tree};
pub use zones::{Changed, LazyTree, Zones};
