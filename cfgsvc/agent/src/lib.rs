//! The agent of a host. So far only [`guard`]: the supervisor that ends a program with its lease.
//!
//! Read `OVERVIEW.md` beside this package first.

pub mod guard;
