//! Histories of concurrent clients, and whether a store that keeps etcd's promises explains them.
//!
//! ```text
//!   operations ─┐
//!   log ────────┼─► check        is there an order of the operations that explains every reply,
//!               │                keeps real time and gives every write the revision it was told?
//!   watches ────┴─► check_watch  did a watch show exactly the log from where it began?
//! ```
//!
//! - [`operation`]: what a client asked, when, and what it was told;
//! - [`store`]: the sequential model, one operation at a time;
//! - [`check()`]: the order that explains a history, or why there is none;
//! - [`watch`]: watches against the log;
//! - [`lines`]: a history as text, one JSON value on a line.
//!
//! Pure: no clock, no file, no socket. Recording is the business of who runs the clients.

pub mod check;
mod evidence;
pub mod lines;
pub mod operation;
pub mod store;
pub mod watch;

pub use check::{Explained, Refusal, check};
pub use lines::{from_lines, to_lines};
pub use operation::{Change, Condition, History, Kv, Operation, Outcome, Reply, Request};
pub use store::Store;
pub use watch::{Watch, check_watch, first_difference};
