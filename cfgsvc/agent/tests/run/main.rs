//! `cfgagent run` and `cfgagent verdict` with a real group.

mod checks;
mod harness;
mod hooks;
mod programs;
mod stores;
mod syncs;
