//! Tells all threads and tasks of a server to end, once, and wakes those that wait.
//!
//! Threads wait in `poll` for a socket and for this; tasks wait for a watch. Both are set for ever,
//! so nobody can come too late to see it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::watch;

/// Whether the server is to end.
#[derive(Debug)]
pub(crate) struct Stop {
    stopping: AtomicBool,
    /// Readable from the stop on: nobody reads it.
    event: EventFd,
    tasks: watch::Sender<bool>,
}

impl Stop {
    /// Nobody is to end yet.
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            stopping: AtomicBool::new(false),
            event: EventFd::from_value_and_flags(0, flags)?,
            tasks: watch::Sender::new(false),
        })
    }

    /// From now on all are to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.tasks.send_replace(true);
        // It can fail only when it was written to 2^64 - 2 times.
        let _ = self.event.write(1);
    }

    /// Whether all are to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Becomes true at the stop.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.tasks.subscribe()
    }

    /// Waits for the stop, or so long.
    pub(crate) fn wait(&self, timeout_ms: u16) {
        let mut events = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        // An interrupted wait is a short one.
        let _ = poll(&mut events, PollTimeout::from(timeout_ms));
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
