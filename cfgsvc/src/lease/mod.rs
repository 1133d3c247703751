//! Leases: who counts their time, and how renewals reach it.

pub mod book;
