//! The process that becomes the program: it binds itself to the guard, then calls `exec`.
//!
//! Why a process of its own: only a process itself can ask the kernel for a signal at the death of
//! its parent, and the program does not. The wish survives `exec`; it ends when the program's user,
//! group or capabilities change, by being executed or by itself (`PR_SET_PDEATHSIG`).

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Why the program does not run.
#[derive(Debug, thiserror::Error)]
pub enum ShieldError {
    /// The kernel refuses the signal at the parent's death.
    #[error("cannot bind the program to its guard")]
    Unbound(#[source] io::Error),
    /// The guard died before the program was bound to it.
    #[error("the guard, process {expected}, is gone: nothing would stop the program")]
    Orphan {
        /// The guard.
        expected: i32,
    },
    /// There is nothing to run.
    #[error("no command is given")]
    NoCommand,
    /// `exec` failed.
    #[error("cannot run {}", .command.display())]
    Exec {
        /// The program.
        command: OsString,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl ShieldError {
    /// The code to exit with, as shells have it: 127 for a program that is not there.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Exec { .. } | Self::Unbound(_) | Self::Orphan { .. } | Self::NoCommand => 126,
        }
    }
}

/// Becomes `command`, which the kernel kills when process `guard`, the parent, dies. Returns only
/// if that cannot be.
pub fn run(guard: i32, command: &[OsString]) -> ShieldError {
    let Some((program, arguments)) = command.split_first() else {
        return ShieldError::NoCommand;
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return ShieldError::Unbound(error.into());
    }
    // A guard that died before the call above sends nothing; then the parent is another.
    if getppid().map(rustix::process::Pid::as_raw_pid) != Some(guard) {
        return ShieldError::Orphan { expected: guard };
    }
    ShieldError::Exec {
        command: program.clone(),
        source: Command::new(program).args(arguments).exec(),
    }
}
