//! Watches: from committed changes to the streams of those who asked for them.

pub mod commit;
pub mod cursor;
pub mod hub;
mod index;
pub mod session;
