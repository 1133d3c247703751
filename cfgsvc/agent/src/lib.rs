//! The agent of a host. So far [`guard`], the supervisor that ends a program with its lease, and
//! the decisions of [`role`]; nothing yet that asks the group.
//!
//! Read `OVERVIEW.md` beside this package first.

pub mod guard;
pub mod role;
