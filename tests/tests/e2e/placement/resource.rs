//! Two resource servers that a role's holders write to: one looks at epochs, the other takes
//! whatever comes. Before both is a network that brings every write to each of them, some late, and
//! the first of each epoch once more when the next epoch has begun.
//!
//! Each server has its own socket, thread and memory, and keeps what it applied in a list, which is
//! judged elsewhere.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::seeds::Numbers;

/// One write in so many comes late.
const LATE_ONE_IN: u64 = 50;
/// How late at most, milliseconds: longer than a role's term.
const LATE_MS_MAX: u64 = 4_000;
/// Longest wait for a write before looking at those that are late.
const LOOK: Duration = Duration::from_millis(5);
/// More than any write has.
const WRITE_BYTES_MAX: usize = 1024;

/// What a holder wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) role: String,
    pub(super) epoch: i64,
    pub(super) host: String,
    /// When it was sent, nanoseconds on the clock of the holders' log.
    pub(super) nanos: u64,
}

impl Write {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).context("a write is text")?;
        let [role, epoch, host, nanos] = text.split(' ').collect::<Vec<_>>()[..] else {
            return Err(anyhow!("'{text}' is no write"));
        };
        Ok(Self {
            role: role.to_owned(),
            epoch: epoch.parse().context("an epoch")?,
            host: host.to_owned(),
            nanos: nanos.parse().context("a time")?,
        })
    }
}

/// What a server did, in the order in which the writes came.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) applied: Vec<Write>,
    pub(super) refused: Vec<Write>,
}

/// Says whether a server takes a write.
type Rule = Box<dyn FnMut(&Write) -> bool + Send>;

struct Server {
    address: SocketAddr,
    lists: Arc<Mutex<Lists>>,
    thread: JoinHandle<Result<()>>,
}

impl Server {
    fn start(end: &Arc<AtomicBool>, mut takes: Rule) -> Result<Self> {
        let (socket, address) = socket("127.0.0.1".parse()?)?;
        let lists = Arc::<Mutex<Lists>>::default();
        let (shared, end) = (Arc::clone(&lists), Arc::clone(end));
        let thread = thread::spawn(move || {
            let mut buffer = [0; WRITE_BYTES_MAX];
            while !end.load(Ordering::Relaxed) {
                let Ok(bytes) = socket.recv(&mut buffer) else {
                    continue;
                };
                let write = Write::parse(&buffer[..bytes])?;
                let taken = takes(&write);
                let mut lists = lock(&shared);
                if taken {
                    lists.applied.push(write);
                } else {
                    lists.refused.push(write);
                }
            }
            Ok(())
        });
        Ok(Self {
            address,
            lists,
            thread,
        })
    }

    fn end(self) -> Result<Lists> {
        ended(self.thread)?;
        Ok(std::mem::take(&mut lock(&self.lists)))
    }
}

/// The server that looks remembers the highest epoch of each role, and that is all it has to do.
fn looks_at_epochs() -> Rule {
    let mut highest = BTreeMap::<String, i64>::new();
    Box::new(move |write| {
        let highest = highest.entry(write.role.clone()).or_insert(write.epoch);
        let late = write.epoch < *highest;
        *highest = write.epoch.max(*highest);
        !late
    })
}

/// Both servers and the network before them.
pub(super) struct Resources {
    address: SocketAddr,
    checked: Server,
    unchecked: Server,
    end: Arc<AtomicBool>,
    network: JoinHandle<Result<()>>,
}

impl Resources {
    pub(super) fn start(seed: u64) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let checked = Server::start(&end, looks_at_epochs())?;
        let unchecked = Server::start(&end, Box::new(|_| true))?;
        let (socket, address) = socket("127.0.0.1".parse()?)?;
        let servers = [checked.address, unchecked.address];
        let ends = Arc::clone(&end);
        let numbers = Numbers::new(seed);
        let network = thread::spawn(move || pass_on(&socket, numbers, servers, &ends));
        Ok(Self {
            address,
            checked,
            unchecked,
            end,
            network,
        })
    }

    /// Where writes are sent to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// An address of this machine at which they are taken as well.
    pub(super) fn also_at(&self, here: IpAddr) -> Result<SocketAddr> {
        let (from, address) = socket(here)?;
        let onward = UdpSocket::bind("127.0.0.1:0").context("bind what passes writes on")?;
        onward.connect(self.address).context("reach the network")?;
        let ends = Arc::clone(&self.end);
        thread::spawn(move || {
            let mut buffer = [0; WRITE_BYTES_MAX];
            while !ends.load(Ordering::Relaxed) {
                if let Ok(bytes) = from.recv(&mut buffer) {
                    // As unsure as the network is.
                    let _ = onward.send(&buffer[..bytes]);
                }
            }
        });
        Ok(address)
    }

    /// What the server that looks at epochs did so far.
    pub(super) fn checked(&self) -> MutexGuard<'_, Lists> {
        lock(&self.checked.lists)
    }

    /// What the other did so far.
    pub(super) fn unchecked(&self) -> MutexGuard<'_, Lists> {
        lock(&self.unchecked.lists)
    }

    /// What they did: the one that looks at epochs, and the other.
    pub(super) fn end(self) -> Result<[Lists; 2]> {
        self.end.store(true, Ordering::Relaxed);
        ended(self.network)?;
        Ok([self.checked.end()?, self.unchecked.end()?])
    }
}

fn socket(at: IpAddr) -> Result<(UdpSocket, SocketAddr)> {
    let socket = UdpSocket::bind((at, 0)).context("bind a resource")?;
    socket.set_read_timeout(Some(LOOK)).context("set a limit")?;
    let address = socket.local_addr().context("its address")?;
    Ok((socket, address))
}

fn lock(lists: &Mutex<Lists>) -> MutexGuard<'_, Lists> {
    lists.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a resource panicked"))?
}

fn pass_on(
    socket: &UdpSocket,
    mut numbers: Numbers,
    servers: [SocketAddr; 2],
    end: &AtomicBool,
) -> Result<()> {
    let bring = |write: &[u8]| -> Result<()> {
        for server in servers {
            socket.send_to(write, server).context("bring a write")?;
        }
        Ok(())
    };
    let mut late: BTreeMap<(Instant, u64), Vec<u8>> = BTreeMap::new();
    let mut firsts: BTreeMap<String, (i64, Vec<u8>)> = BTreeMap::new();
    let mut number = 0;
    let mut buffer = [0; WRITE_BYTES_MAX];
    while !end.load(Ordering::Relaxed) {
        if let Ok(bytes) = socket.recv(&mut buffer) {
            let bytes = &buffer[..bytes];
            let Write { role, epoch, .. } = Write::parse(bytes)?;
            if firsts.get(&role).is_none_or(|(first, _)| *first < epoch) {
                bring(bytes)?;
                if let Some((_, old)) = firsts.insert(role, (epoch, bytes.to_vec())) {
                    bring(&old)?;
                }
            } else if numbers.below(LATE_ONE_IN) == 0 {
                let by = Duration::from_millis(numbers.below(LATE_MS_MAX));
                number += 1;
                late.insert((Instant::now() + by, number), bytes.to_vec());
            } else {
                bring(bytes)?;
            }
        }
        while let Some(first) = late.first_entry()
            && first.key().0 <= Instant::now()
        {
            bring(&first.remove())?;
        }
    }
    Ok(())
}
