//! What the check of a role asks: a server on a host that says whether it works, as a test has it
//! say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// Longest wait for a question.
const QUESTION_MAX: Duration = Duration::from_secs(1);
/// Time between two looks for a connection.
const LOOK: Duration = Duration::from_millis(5);

/// A server of one host; it ends with this.
pub(super) struct Health {
    well: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Health {
    /// One that is well, and answers there.
    pub(super) fn answers(listener: TcpListener) -> Result<Self> {
        let (well, ends) = (Arc::new(AtomicBool::new(true)), Arc::default());
        let (says, until) = (Arc::clone(&well), Arc::clone(&ends));
        listener.set_nonblocking(true).context("a listener")?;
        let thread = std::thread::spawn(move || serve(&listener, &says, &until));
        Ok(Self {
            well,
            ends,
            thread: Some(thread),
        })
    }

    /// From now on it says that it works, or does not.
    pub(super) fn set(&self, well: bool) {
        self.well.store(well, Ordering::Relaxed);
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            drop(thread.join());
        }
    }
}

fn serve(listener: &TcpListener, well: &AtomicBool, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        let accepted: std::io::Result<(TcpStream, SocketAddr)> = listener.accept();
        let Ok((mut connection, _)) = accepted else {
            std::thread::park_timeout(LOOK);
            continue;
        };
        let status = if well.load(Ordering::Relaxed) {
            "200 OK"
        } else {
            "503 Service Unavailable"
        };
        // On a connection of its own: one that is slow keeps nobody waiting. Whoever went away
        // has no answer.
        std::thread::spawn(move || {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            let _ = connection.set_nonblocking(false);
            let _ = connection.set_read_timeout(Some(QUESTION_MAX));
            let mut question = [0; 512];
            if matches!(connection.read(&mut question), Ok(1..)) {
                let _ = connection.write_all(answer.as_bytes());
            }
        });
    }
}
