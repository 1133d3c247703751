//! What the tests of the name server have in common, each with at least two users. Nothing of the
//! product depends on it.
//!
//! - [`message`]: writes requests and reads replies, as a careful client would;
//! - [`secondary`]: what a secondary makes of its zone and of what it is sent;
//! - [`zones`]: names and zones from text, and zones whose names meet in every way;
//! - [`keys`]: keys and signers that are the same each time.
//!
//! It panics where something is not as it must be: whoever calls it is a test. It stands on zones
//! and keys only, and on nothing of `cfgdns-core`, whose messages it reads.

pub mod keys;
pub mod message;
pub mod secondary;
pub mod zones;
