//! What stands between the others and a member.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::world::free_address;

/// Passes connections on and counts the bytes; breaks them all, once, after so many; holds up what
/// goes to the member, when told so.
pub(crate) struct Proxy {
    to: SocketAddr,
    pub(crate) passed: AtomicU64,
    pub(crate) cut_at: AtomicU64,
    held: Mutex<bool>,
    let_go: Condvar,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub(crate) fn start(to: SocketAddr) -> (SocketAddr, Arc<Self>) {
        let at = free_address();
        let listener = TcpListener::bind(at).expect("an address of its own");
        let proxy = Arc::new(Self {
            to,
            passed: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
            held: Mutex::new(false),
            let_go: Condvar::new(),
            streams: Mutex::default(),
        });
        let accepting = proxy.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                // A member that does not run refuses, and so does its proxy.
                if let (Ok(near), Ok(far)) = (near, TcpStream::connect(accepting.to)) {
                    accepting.pass(&near, &far);
                }
            }
        });
        (at, proxy)
    }

    fn pass(self: &Arc<Self>, near: &TcpStream, far: &TcpStream) {
        let copy = |stream: &TcpStream| stream.try_clone().expect("a handle");
        let mut streams = self.streams.lock().expect("streams");
        streams.extend([copy(near), copy(far)]);
        for (mut from, mut to, counts) in [
            (copy(near), copy(far), true),
            (copy(far), copy(near), false),
        ] {
            let proxy = self.clone();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = from.read(&mut buffer) {
                    if counts {
                        proxy.count(read);
                        proxy.pass_when_let_go();
                    }
                    if to.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                // The other end learns of it; it may be gone already.
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }

    /// Whether what goes to the member waits from now on.
    pub(crate) fn hold(&self, held: bool) {
        *self.held.lock().expect("held") = held;
        self.let_go.notify_all();
    }

    fn pass_when_let_go(&self) {
        let held = self.held.lock().expect("held");
        drop(self.let_go.wait_while(held, |held| *held).expect("held"));
    }

    fn count(&self, bytes: usize) {
        let bytes = bytes as u64;
        let before = self.passed.fetch_add(bytes, Ordering::SeqCst);
        let cut_at = self.cut_at.load(Ordering::SeqCst);
        if before < cut_at && before + bytes >= cut_at {
            for stream in self.streams.lock().expect("streams").drain(..) {
                // Broken already is as good.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}
