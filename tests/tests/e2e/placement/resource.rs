//! The resources that a role's holders write to, over a network that keeps some writes back: one
//! that looks at epochs, and one that takes whatever comes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::seeds::Numbers;

/// One write in so many is kept back.
const KEPT_BACK_ONE_IN: u64 = 50;
/// Longest time for which it is, milliseconds: longer than a role's term.
const KEPT_BACK_MS_MAX: u64 = 4_000;
/// Longest wait for a write before looking at those that were kept back.
const LOOK: Duration = Duration::from_millis(5);

/// What became of the writes to one role's resources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Writes {
    /// Highest epoch that came.
    pub(super) highest: i64,
    /// The resource that looks: taken, and refused because a later epoch had come.
    pub(super) taken: u64,
    pub(super) refused: u64,
    /// The other: taken although a later epoch had come.
    pub(super) stale: u64,
}

impl Writes {
    fn write(&mut self, epoch: i64) {
        // The one that looks remembers the highest epoch, and that is all it has to do.
        if epoch < self.highest {
            self.refused += 1;
            self.stale += 1;
        } else {
            self.highest = epoch;
            self.taken += 1;
        }
    }
}

/// Both resources of all roles.
pub(super) struct Resource {
    address: SocketAddr,
    roles: Arc<Mutex<BTreeMap<String, Writes>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Resource {
    pub(super) fn start(seed: u64) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("bind the resource")?;
        socket.set_read_timeout(Some(LOOK)).context("set a limit")?;
        let address = socket.local_addr().context("its address")?;
        let roles = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let end = Arc::new(AtomicBool::new(false));
        let (shared, ends) = (Arc::clone(&roles), Arc::clone(&end));
        let thread = thread::spawn(move || serve(&socket, Numbers::new(seed), &shared, &ends));
        Ok(Self {
            address,
            roles,
            end,
            thread: Some(thread),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// An address of this machine at which it is reached as well.
    pub(super) fn also_at(&self, here: IpAddr) -> Result<SocketAddr> {
        let socket = UdpSocket::bind((here, 0)).context("bind the resource")?;
        socket.set_read_timeout(Some(LOOK)).context("set a limit")?;
        let address = socket.local_addr().context("its address")?;
        let onward = UdpSocket::bind("127.0.0.1:0").context("bind what passes writes on")?;
        onward.connect(self.address).context("reach the resource")?;
        let ends = Arc::clone(&self.end);
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            while !ends.load(Ordering::Relaxed) {
                if let Ok(bytes) = socket.recv(&mut buffer) {
                    // As unsure as the network is.
                    let _ = onward.send(&buffer[..bytes]);
                }
            }
        });
        Ok(address)
    }

    /// What became of all writes.
    pub(super) fn end(mut self) -> Result<BTreeMap<String, Writes>> {
        self.end.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is ended once")?;
        thread
            .join()
            .map_err(|_| anyhow!("the resource panicked"))??;
        Ok(self.lock().clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Writes>> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(
    socket: &UdpSocket,
    mut numbers: Numbers,
    roles: &Mutex<BTreeMap<String, Writes>>,
    end: &AtomicBool,
) -> Result<()> {
    let mut kept: BTreeMap<(Instant, u64), (String, i64)> = BTreeMap::new();
    let mut number = 0;
    let write = |role: String, epoch| {
        let mut roles = roles.lock().unwrap_or_else(PoisonError::into_inner);
        roles.entry(role).or_default().write(epoch);
    };
    let mut buffer = [0; 1024];
    while !end.load(Ordering::Relaxed) {
        if let Ok(bytes) = socket.recv(&mut buffer) {
            let text = std::str::from_utf8(&buffer[..bytes]).context("a write is text")?;
            let mut words = text.split(' ');
            let role = words.next().context("a write has a role")?.to_owned();
            let epoch = words.next().context("a write has an epoch")?.parse()?;
            if numbers.below(KEPT_BACK_ONE_IN) == 0 {
                let back = Duration::from_millis(numbers.below(KEPT_BACK_MS_MAX));
                number += 1;
                kept.insert((Instant::now() + back, number), (role, epoch));
            } else {
                write(role, epoch);
            }
        }
        while let Some(first) = kept.first_entry()
            && first.key().0 <= Instant::now()
        {
            let (role, epoch) = first.remove();
            write(role, epoch);
        }
    }
    Ok(())
}
