//! The agent of a host: [`guard`] ends a program with its lease, [`role`] decides what to do about
//! a role, [`run`] asks the group and does it.
//!
//! Read `OVERVIEW.md` beside this package first.

pub mod args;
mod board;
mod group;
pub mod guard;
pub mod hold;
pub mod probe;
pub mod role;
pub mod run;
mod signals;
pub mod state;
