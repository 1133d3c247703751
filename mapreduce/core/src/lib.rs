//! What MapReduce decides, without I/O: what the tasks of a job are, what is stored about it, which
//! worker runs what when, who has won, and what a worker may do. See `OVERVIEW.md`.
//!
//! Pure: what happened goes in with the time (a [`std::time::Duration`] since the process began),
//! what to do comes out. Nothing here reads a clock, draws a number or waits.

pub mod job;
pub mod limits;
pub mod master;
pub mod names;
pub mod plan;
pub mod record;
pub mod spec;
pub mod worker;

#[cfg(test)]
mod tests;
