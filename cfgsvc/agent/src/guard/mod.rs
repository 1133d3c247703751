//! The guard: a tiny process between the agent and the guarded program.
//!
//! Why so: the agent talks to the group, and whatever can happen to it (killed, stopped, swapped
//! out, stuck in a call) must not leave a program behind that serves beyond its lease. The guard
//! does nothing but watch one deadline and one socket, so that little can happen to it; and when it
//! dies all the same, the kernel kills the program.
//!
//! - [`core`]: what to do when, pure.
//! - [`protocol`]: the lines between agent and guard.
//! - [`shell`]: the process of the guard.
//! - [`shield`]: the process that becomes the program.
//! - [`processes`]: who descends from whom, and signals that reach nobody else.
//! - [`handle`]: the agent's side; [`entry`]: how a program becomes the others.
//!
//! Not here: when the lease ends. The agent says until when the program may run.

pub mod core;
pub mod entry;
pub mod handle;
pub mod processes;
pub mod protocol;
pub mod shell;
pub mod shield;
