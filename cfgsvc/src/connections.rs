//! Connections of the client port: how many there may be, and when one is closed.
//!
//! Why so: each connection takes a file descriptor, of which the databases need some too: a member
//! that cannot open its files stops. And a client whose machine is gone says no good-bye: nobody
//! would ever take its watchers away.
//!
//! Invariants
//! - a connection over the limit is closed at once, so that its client tries another member.
//! - a connection outlives the member's stop by a bounded time, whatever its client does: it holds
//!   the group.
//! - a failure to accept is logged and followed by a pause, never by a loop without one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpIncoming};

use crate::streams;

/// Most connections of clients, if the process may open so many files.
const CONNECTIONS_MAX: u64 = 65_536;
/// Files that the databases, the other members' connections and the rest need.
const FILES_RESERVED: u64 = 640;
/// Least connections of clients, however few files the process may open.
const CONNECTIONS_MIN: u64 = 64;
/// Silence after which the kernel asks whether the other side is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Time between two such questions; three without an answer are enough.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Wait after a failure to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two warnings of the same kind.
const WARN_PAUSE: Duration = Duration::from_secs(10);

/// What is allowed to a connection.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at a time.
    pub connections: usize,
    /// Time in which a client must say something.
    pub first_byte: Duration,
    /// Time that open calls have to end when the member stops.
    pub drain: Duration,
}

impl Bounds {
    /// Bounds for this process. Lets it open as many files as the system allows at most.
    pub fn of_process() -> Self {
        let connections = cfgsvc_daemon::raise_open_files()
            .saturating_sub(FILES_RESERVED)
            .clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        Self {
            connections: usize::try_from(connections).unwrap_or(usize::MAX),
            first_byte: Duration::from_secs(10),
            drain: Duration::from_secs(5),
        }
    }
}

/// A connection of a client.
pub struct Connection {
    stream: TcpStream,
    /// Until something was read: when that must be.
    first_byte: Option<Pin<Box<Sleep>>>,
    /// Resolves when the connection has to close.
    end: BoxFuture<'static, ()>,
    _place: OwnedSemaphorePermit,
}

struct Accepting {
    incoming: TcpIncoming,
    places: Arc<Semaphore>,
    bounds: Bounds,
    stopping: watch::Receiver<bool>,
    /// When the next warning may be logged.
    warn_from: Option<tokio::time::Instant>,
}

/// The connections of `listener`, within `bounds`; `stopping` turns true when the member stops.
pub fn accepted(
    listener: TcpListener,
    bounds: Bounds,
    stopping: watch::Receiver<bool>,
) -> impl Stream<Item = io::Result<Connection>> {
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(KEEPALIVE))
        .with_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .with_keepalive_retries(Some(3));
    let accepting = Accepting {
        incoming,
        places: Arc::new(Semaphore::new(bounds.connections)),
        bounds,
        stopping,
        warn_from: None,
    };
    stream::unfold(accepting, |mut accepting| async move {
        let connection = accepting.next().await?;
        Some((Ok(connection), accepting))
    })
}

impl Accepting {
    async fn next(&mut self) -> Option<Connection> {
        loop {
            match self.incoming.next().await? {
                Ok(stream) => {
                    if let Some(connection) = self.admit(stream) {
                        return Some(connection);
                    }
                }
                Err(error) => {
                    if self.may_warn() {
                        tracing::warn!(%error, "a client's connection was not accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&mut self, stream: TcpStream) -> Option<Connection> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(Connection {
                stream,
                first_byte: Some(Box::pin(tokio::time::sleep(self.bounds.first_byte))),
                end: end(self.stopping.clone(), self.bounds.drain).boxed(),
                _place: place,
            });
        }
        if self.may_warn() {
            let limit = self.bounds.connections;
            tracing::warn!(
                limit,
                "a client's connection was closed: there are too many; raise the limit of open \
                 files or close some"
            );
        }
        None
    }

    fn may_warn(&mut self) -> bool {
        let now = tokio::time::Instant::now();
        let may = self.warn_from.is_none_or(|from| from <= now);
        if may {
            self.warn_from = Some(now + WARN_PAUSE);
        }
        may
    }
}

/// Returns `drain` after the member was told to stop.
async fn end(stopping: watch::Receiver<bool>, drain: Duration) {
    streams::stopped(stopping).await;
    tokio::time::sleep(drain).await;
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.first_byte = None;
        } else if let Some(due) = &mut self.first_byte
            && due.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.unless_over(context, read)
    }
}

impl Connection {
    /// `outcome`, but no more waiting once the connection has to close. A client that does not read
    /// lets hyper wait for writes alone, so that reads and writes both end in here.
    fn unless_over<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_pending() && self.end.poll_unpin(context).is_ready() {
            // It may be asked again.
            self.end = futures_util::future::ready(()).boxed();
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        outcome
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.unless_over(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.unless_over(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.unless_over(context, shut)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.unless_over(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn listening(
        connections: usize,
        first_byte: Duration,
        stopping: watch::Receiver<bool>,
    ) -> (SocketAddr, impl Stream<Item = io::Result<Connection>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let bounds = Bounds {
            connections,
            first_byte,
            drain: Duration::ZERO,
        };
        (address, accepted(listener, bounds, stopping))
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.expect("it listens")
    }

    #[tokio::test]
    async fn connection_over_the_limit_is_closed_and_a_closed_one_makes_place() {
        let (_stop, stopping) = watch::channel(false);
        let (address, stream) = listening(1, Duration::from_mins(10), stopping).await;
        tokio::pin!(stream);
        let mut first = connect(address).await;
        let mut held = stream.next().await.expect("open").expect("accepted");
        let mut second = connect(address).await;
        let mut byte = [0];
        tokio::select! {
            _ = stream.next() => panic!("there is no place"),
            closed = second.read(&mut byte) => assert!(matches!(closed, Ok(0) | Err(_))),
        }
        first.write_all(b"x").await.expect("it is open");
        held.read_exact(&mut byte).await.expect("it is open");
        drop(held);
        let _third = connect(address).await;
        assert!(stream.next().await.expect("open").is_ok());
    }

    #[tokio::test]
    async fn silent_connection_ends_and_one_that_spoke_stays() {
        let (_stop, stopping) = watch::channel(false);
        let (address, stream) = listening(1, Duration::from_millis(20), stopping.clone()).await;
        tokio::pin!(stream);
        let _silent = connect(address).await;
        let mut held = stream.next().await.expect("open").expect("accepted");
        let mut byte = [0];
        let ended = held.read(&mut byte).await.expect_err("it said nothing");
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);

        let (address, stream) = listening(1, Duration::from_mins(10), stopping).await;
        tokio::pin!(stream);
        let mut speaking = connect(address).await;
        speaking.write_all(b"x").await.expect("it is open");
        let mut held = stream.next().await.expect("open").expect("accepted");
        held.read_exact(&mut byte).await.expect("a byte");
        assert!(held.first_byte.is_none(), "no deadline is left");
    }

    #[tokio::test]
    async fn open_connection_ends_after_the_member_has_stopped() {
        let (stop, stopping) = watch::channel(false);
        let (address, stream) = listening(1, Duration::from_mins(10), stopping).await;
        tokio::pin!(stream);
        let _client = connect(address).await;
        let mut held = stream.next().await.expect("open").expect("accepted");
        let mut byte = [0];
        assert!(held.read(&mut byte).now_or_never().is_none());
        stop.send_replace(true);
        let ended = held.read(&mut byte).await.expect_err("it is over");
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionAborted);
        // The client reads nothing: at some point nothing can be written, and that ends as well.
        while held.write_all(&[0; 4096]).await.is_ok() {}
    }

    #[test]
    fn process_may_have_as_many_connections_as_it_may_open_files() {
        let bounds = Bounds::of_process();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        let connections = bounds.connections as u64;
        assert!((CONNECTIONS_MIN..=CONNECTIONS_MAX).contains(&connections));
    }
}
