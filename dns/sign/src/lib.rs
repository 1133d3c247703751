//! DNSSEC of a zone: its keys, signatures of sets, what does not exist, and the zone as a whole.
//!
//! ```text
//! key files of the server ─► PrivateKey ─┐
//!                                        ├─► Signer ─┬─ rrsigs(set) ─────► answers, as asked
//! the group's keys ─► Signing ───────────┘           └─ SignedZone(sets) ─► transfers
//!    which keys, which sign, from when to when
//! ```
//!
//! Pure: no clock, file, socket or randomness. Times and random octets come in as values. Both
//! algorithms are deterministic, so that the same records, keys and times give the same octets on
//! every server: whichever a secondary asks, a serial means one content (RFC 1995 5).
//!
//! Invariants
//! - secrets are wiped when they are dropped, and no text shows them but the key file;
//! - what a `Signing` says can be done by whoever has the keys: no set would be without the
//!   signatures that RFC 4035 2.2 asks for;
//! - a signature is of the canonical form of a set, whatever the case and order it comes in.

mod cache;
mod chain;
mod denial;
mod dnskey;
mod key;
mod key_file;
mod private_keys;
mod set;
mod signer;
mod signing;
mod time;
#[cfg(feature = "testing")]
mod verify;

pub use cache::SignatureCache;
pub use chain::{NoSoa, Place, SignedZone, ZoneChain, ZoneNode, chained, nodes};
pub use denial::{compact_next, nsec_data};
pub use dnskey::{Dnskey, DnskeyError};
pub use key::{Algorithm, PrivateKey, SECRET_OCTETS, SIGNATURE_OCTETS, UnusableSecret};
pub use key_file::{KeyFileError, PublicKey, file_stem, read_private, read_public};
pub use key_file::{write_private, write_public};
pub use private_keys::PrivateKeys;
pub use set::Set;
pub use signer::{MissingKeys, Signer};
pub use signing::{KEYS_MAX, Role, Signing, SigningError, ZoneKey};
pub use time::{Time, Validity, ValidityError};
#[cfg(feature = "testing")]
pub use verify::verifies;
