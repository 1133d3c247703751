//! A snapshot on its way to a member, over a connection that breaks.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::world::{World, free_address};

/// Passes connections on and counts the bytes; breaks them all, once, after so many.
struct Proxy {
    to: SocketAddr,
    passed: AtomicU64,
    cut_at: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    fn start(to: SocketAddr) -> (SocketAddr, Arc<Self>) {
        let at = free_address();
        let listener = TcpListener::bind(at).expect("an address of its own");
        let proxy = Arc::new(Self {
            to,
            passed: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
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

/// Text that does not compress, a different one for each seed.
fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let digit = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from_digit((state % 36) as u32, 36).expect("a digit")
    };
    std::iter::repeat_with(digit).take(bytes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transfer_that_is_cut_goes_on_where_it_broke() {
    const ITEM_BYTES: u64 = 100_000;
    const ITEMS: u64 = 400;
    const SIZE: u64 = ITEM_BYTES * ITEMS;
    let names = ["n1", "n2", "n3"];
    let mut world = World::new(&names);
    // One snapshot, so that the transfer that goes on is one of the same snapshot.
    world.snapshot_entries = ITEMS - 50;
    let (address, proxy) = Proxy::start(world.addresses["n3"]);
    world.advertised.insert("n3".to_owned(), address);
    world.found(&names).await;
    world.stop("n3").await;
    let item_bytes = usize::try_from(ITEM_BYTES).expect("small");
    for seed in 0..ITEMS {
        if seed == ITEMS - 40 {
            world.snapshot_of("n1").await;
            world.snapshot_of("n2").await;
        }
        world.write("n1", noise(seed, item_bytes)).await;
    }
    let before = proxy.passed.load(Ordering::SeqCst);
    proxy.cut_at.store(before + SIZE * 7 / 10, Ordering::SeqCst);
    world.restart("n3").await.expect("restart");
    assert_eq!(world.read("n3").await.len() as u64, ITEMS);
    let passed = proxy.passed.load(Ordering::SeqCst) - before;
    assert!(passed > SIZE * 7 / 10, "it was cut: {passed} bytes");
    // From the start again it would be 1.7 times the size; what was under way is sent twice.
    assert!(passed < SIZE * 14 / 10, "{passed} bytes for {SIZE}");
    assert_eq!(world.installs("n3"), 1);
}
