//! `cfgagent run` and `cfgagent verdict` with a real group.

mod harness;
mod hooks;
mod programs;
