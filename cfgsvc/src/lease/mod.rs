//! Leases: who counts their time, and how renewals reach it.

pub mod book;
pub mod keeper;
pub mod renewals;
pub mod wire;
