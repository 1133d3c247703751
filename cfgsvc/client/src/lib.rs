//! Client.

mod channel;
mod client;
mod clock;
mod cursor;
mod error;
mod ids;
mod keepalive;
mod keys;
mod kv;
mod lease;
mod options;
mod refusal;
mod route;
mod session;
mod txn;
mod watch;

pub use client::Client;
pub use clock::Moment;
pub use cursor::*;
pub use error::*;
pub use ids::*;
pub use keepalive::Term;
pub use keys::Keys;
pub use kv::*;
pub use lease::*;
pub use options::*;
pub use refusal::Refusal;
pub use session::*;
pub use txn::*;
pub use watch::*;
