//! A host that is late itself: its agent gets the processor in short turns only, as on a machine that
//! swaps, or a virtual one whose processor others use. Probes that come meanwhile wait, and are
//! answered in the next turn.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::seeds::lasts;

/// How long it does not run: longer than an observer may be late (500 ms), with what is left until
/// its next turn was due (500 ms at most); less than what a host is missed after (2.5 s).
const STOPPED: Duration = Duration::from_millis(1_200);
/// How long it runs then: enough for a row, which is due each second, not for a quiet half second.
const RUNS: Duration = Duration::from_millis(400);

/// It runs on as ever when this is dropped.
pub(super) struct Starved {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Starved {
    /// Begins with a stop. The process must not be waited for before this is dropped.
    pub(super) fn new(process: &Child) -> Result<Self> {
        let process = Pid::from_child(process);
        kill_process(process, Signal::STOP).context("stop an agent")?;
        let ends = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ends);
        let thread = std::thread::spawn(move || turns(process, &until));
        Ok(Self {
            ends,
            thread: Some(thread),
        })
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            drop(thread.join());
        }
    }
}

fn turns(process: Pid, ends: &AtomicBool) {
    let signal = |signal| kill_process(process, signal).expect("nobody has waited for it");
    loop {
        lasts(STOPPED);
        signal(Signal::CONT);
        if ends.load(Ordering::Relaxed) {
            return;
        }
        lasts(RUNS);
        signal(Signal::STOP);
    }
}
