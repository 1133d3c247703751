//! The network between members: a proxy before each member's peer port, which can cut or delay what
//! flows from one member to another, in either direction.
//!
//! Why a proxy: it needs no privilege, where network namespaces and packet filters do. Members
//! replicate one peer address each, so there is one proxy for each destination; who connects is
//! found by asking `/proc` whose socket it is.
//!
//! Invariants
//! - a cut loses nothing and closes nothing, like a broken link that heals before TCP gives up:
//!   bytes, connections and their ends wait.
//! - who is no member (a client, a test) is never cut off nor delayed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Finds the member that connected from an address to one of the proxies.
pub type SourceOf = dyn Fn(SocketAddr) -> Option<usize> + Send + Sync;

/// Bytes read at a time, and how many such pieces may wait for their time or for a cut to heal:
/// 4 MiB for each direction of a connection, more than a second of what a test sends.
const PIECE_BYTES: usize = 16 << 10;
const PIECES_MAX: usize = 256;

/// From one member to another.
type Way = (usize, usize);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Faults {
    cut: BTreeSet<Way>,
    delay: BTreeMap<Way, Duration>,
}

/// All proxies and what is wrong between whom.
pub struct Network {
    faults: watch::Sender<Faults>,
    source_of: Arc<SourceOf>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Network {
    /// A network without links yet.
    pub fn new(source_of: Arc<SourceOf>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("test-network")
            .enable_all()
            .build()
            .context("start the proxies' runtime")?;
        Ok(Self {
            faults: watch::Sender::new(Faults::default()),
            source_of,
            runtime: Some(runtime),
        })
    }

    /// Accepts connections at `listen` and passes them on to `target`, the peer port of member
    /// `destination`.
    pub fn link(&self, listen: SocketAddr, target: SocketAddr, destination: usize) -> Result<()> {
        let listener =
            TcpListener::bind(listen).with_context(|| format!("listen on {listen} for a proxy"))?;
        listener
            .set_nonblocking(true)
            .context("make the proxy's listener non-blocking")?;
        let faults = self.faults.subscribe();
        let source_of = Arc::clone(&self.source_of);
        let runtime = self.runtime.as_ref().context("the network is shut down")?;
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (connection, from) = listener.accept().await?;
                let connection = Connection {
                    client: connection,
                    from,
                    target,
                    destination,
                };
                tokio::spawn(connection.pass_on(Arc::clone(&source_of), faults.clone()));
            }
            #[expect(unreachable_code, reason = "names the type of the block's errors")]
            io::Result::Ok(())
        });
        Ok(())
    }

    /// Stops what flows from `from` to `to`; the other direction goes on.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.faults.send_modify(|faults| {
            faults.cut.insert((from, to));
        });
    }

    /// Stops what flows between two members.
    pub fn cut(&self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Stops what flows between members of different groups.
    pub fn partition(&self, groups: &[&[usize]]) {
        for (number, group) in groups.iter().enumerate() {
            for other in groups.iter().skip(number + 1) {
                for a in *group {
                    for b in *other {
                        self.cut(*a, *b);
                    }
                }
            }
        }
    }

    /// Delays what flows from `from` to `to`, without making it slower.
    pub fn delay_one_way(&self, from: usize, to: usize, delay: Duration) {
        self.faults.send_modify(|faults| {
            faults.delay.insert((from, to), delay);
        });
    }

    /// Ends all cuts and delays.
    pub fn heal(&self) {
        self.faults.send_replace(Faults::default());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Does not wait, so that a test may drop this inside of its own runtime.
            runtime.shutdown_background();
        }
    }
}

/// One accepted connection.
struct Connection {
    client: TcpStream,
    from: SocketAddr,
    target: SocketAddr,
    destination: usize,
}

impl Connection {
    /// Copies both ways until both ends are closed. An error of either side closes both, which is
    /// all that a peer would see of it.
    async fn pass_on(
        self,
        source_of: Arc<SourceOf>,
        faults: watch::Receiver<Faults>,
    ) -> io::Result<()> {
        let from = self.from;
        let source = tokio::task::spawn_blocking(move || source_of(from))
            .await
            .map_err(io::Error::other)?;
        let server = TcpStream::connect(self.target).await?;
        self.client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (client_read, client_write) = self.client.into_split();
        let (server_read, server_write) = server.into_split();
        let forth = source.map(|source| (source, self.destination));
        let back = source.map(|source| (self.destination, source));
        tokio::try_join!(
            copy(client_read, server_write, forth, faults.clone()),
            copy(server_read, client_write, back, faults),
        )?;
        Ok(())
    }
}

/// Copies one direction, each piece no earlier than its delay after it was read.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Option<Way>,
    faults: watch::Receiver<Faults>,
) -> io::Result<()> {
    let (pieces, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let delays = faults.clone();
    let read = async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let bytes = from.read(&mut piece).await?;
            if bytes == 0 {
                return io::Result::Ok(());
            }
            piece.truncate(bytes);
            let delay = way.and_then(|way| delays.borrow().delay.get(&way).copied());
            let due = Instant::now() + delay.unwrap_or_default();
            pieces.send((due, piece)).await.map_err(io::Error::other)?;
        }
    };
    let write = async move {
        let mut faults = faults;
        while let Some((due, piece)) = waiting.recv().await {
            sleep_until(due).await;
            not_cut(&mut faults, way).await?;
            to.write_all(&piece).await?;
        }
        not_cut(&mut faults, way).await?;
        to.shutdown().await
    };
    tokio::try_join!(read, write)?;
    Ok(())
}

/// Waits until `way` is not cut.
async fn not_cut(faults: &mut watch::Receiver<Faults>, way: Option<Way>) -> io::Result<()> {
    if let Some(way) = way {
        faults
            .wait_for(|faults| !faults.cut.contains(&way))
            .await
            .map_err(io::Error::other)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::sync::Mutex;
    use std::thread;

    use super::*;
    use crate::harness::{eventually, unused_address};

    const SOON: Duration = Duration::from_secs(20);

    /// A server that answers each byte with its successor, behind a proxy; member 0 connects to
    /// member 1.
    struct Setup {
        network: Network,
        client: TcpStream,
        received: Arc<Mutex<Vec<u8>>>,
    }

    fn setup(source: Option<usize>) -> Setup {
        let server = TcpListener::bind("127.0.0.1:0").expect("listen");
        let target = server.local_addr().expect("address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&received);
        thread::spawn(move || {
            let (mut connection, _) = server.accept().expect("accept");
            let mut byte = [0];
            while connection.read_exact(&mut byte).is_ok() {
                seen.lock().expect("not poisoned").push(byte[0]);
                connection.write_all(&[byte[0] + 1]).expect("answer");
            }
        });
        let network = Network::new(Arc::new(move |_| source)).expect("network");
        let listen = unused_address().expect("address");
        network.link(listen, target, 1).expect("link");
        let client = TcpStream::connect(listen).expect("connect");
        Setup {
            network,
            client,
            received,
        }
    }

    impl Setup {
        fn send(&mut self, byte: u8) {
            self.client.write_all(&[byte]).expect("send");
        }

        /// The next answer, `None` when none comes within this time.
        fn answer(&mut self, within: Duration) -> Option<u8> {
            self.client.set_read_timeout(Some(within)).expect("set");
            let mut byte = [0];
            match self.client.read_exact(&mut byte) {
                Ok(()) => Some(byte[0]),
                Err(error) => {
                    let late = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
                    assert!(late.contains(&error.kind()), "{error}");
                    None
                }
            }
        }

        fn received(&self) -> Vec<u8> {
            self.received.lock().expect("not poisoned").clone()
        }
    }

    const A_MOMENT: Duration = Duration::from_millis(150);

    #[test]
    fn cut_holds_everything_back_until_it_heals() {
        let mut setup = setup(Some(0));
        setup.send(1);
        assert_eq!(setup.answer(SOON), Some(2));
        setup.network.partition(&[&[0, 2], &[1]]);
        setup.send(3);
        assert_eq!(setup.answer(A_MOMENT), None);
        assert_eq!(setup.received(), [1]);
        setup.network.heal();
        assert_eq!(setup.answer(SOON), Some(4));
    }

    #[test]
    fn one_way_cut_lets_requests_through_and_no_answers() {
        let mut setup = setup(Some(0));
        setup.network.cut_one_way(1, 0);
        setup.send(1);
        eventually(SOON, "the request", || setup.received() == [1]).expect("the request comes");
        assert_eq!(setup.answer(A_MOMENT), None);
        setup.network.heal();
        assert_eq!(setup.answer(SOON), Some(2));
    }

    #[test]
    fn strangers_and_other_ways_are_not_cut() {
        let mut stranger = setup(None);
        stranger.network.cut(0, 1);
        stranger.send(1);
        assert_eq!(stranger.answer(SOON), Some(2));
        let mut member = setup(Some(0));
        member.network.cut(1, 2);
        member.send(1);
        assert_eq!(member.answer(SOON), Some(2));
    }

    #[test]
    fn delay_is_added_and_order_kept() {
        let mut setup = setup(Some(0));
        let delay = Duration::from_millis(120);
        setup.network.delay_one_way(0, 1, delay);
        let sent = Instant::now();
        setup.send(1);
        setup.send(5);
        assert_eq!(setup.answer(SOON), Some(2));
        assert!(sent.elapsed() >= delay, "{:?}", sent.elapsed());
        assert_eq!(setup.answer(SOON), Some(6));
    }

    #[test]
    fn closed_connection_is_passed_on() {
        let setup = setup(Some(0));
        let mut client = setup.client;
        client.shutdown(std::net::Shutdown::Write).expect("close");
        client.set_read_timeout(Some(SOON)).expect("set");
        assert_eq!(client.read(&mut [0]).expect("the end"), 0);
    }
}
