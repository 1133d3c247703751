//! Accepts TCP connections, in bounds, and lets each be answered by a task; those of TLS after a
//! handshake (`crate::tls`).
//!
//! The tasks run on threads of their own: a flood of connections must not delay whoever follows the
//! group in the same process, because that would fence the server.

pub(crate) mod connection;
pub(crate) mod table;

use std::future::Future;
use std::io::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cfgdns_core::{
    Arrival, End as StreamEnd, Local, Moment, Outcome, SignatureCache, Stream, Transport, respond,
};
use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use crate::complaints::Complaints;
use crate::counters::{Counters, Tally};
use crate::shared::{Shared, now};
use crate::stop::Stop;
use crate::tls::SharedTls;
use connection::{Answer, Answers, Connection, End, Messages, Patience, Surroundings};
use table::{Admission, Table, Ticket};

/// Signatures that a connection keeps: those of the SOA and of what one client asks about, in some
/// 10 kB at most.
const SIGNATURES_MAX: usize = 64;

/// What accept(2) says when something is short, and not when a connection failed.
const SHORTAGES: [Errno; 4] = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];

/// How long nobody is accepted when there are no descriptors, unless a connection ends.
const SHORTAGE_WAIT: Duration = Duration::from_millis(100);

/// What all connections of a server have in common.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) table: Arc<Table>,
    /// Where TLS is spoken here.
    pub(crate) tls: Option<Arc<SharedTls>>,
    pub(crate) stop: Arc<Stop>,
    /// Told when connections are to end.
    pub(crate) closing: Arc<watch::Sender<bool>>,
    pub(crate) patience: Patience,
    /// Time for the last replies.
    pub(crate) shutdown_timeout: Duration,
}

impl Service {
    /// Accepts connections at all these until the server ends, and then ends them.
    pub(crate) async fn run(self, listeners: Vec<TcpListener>) {
        let mut accepting = JoinSet::new();
        accepting.spawn(self.clone().close());
        for listener in listeners {
            accepting.spawn(self.clone().accept(listener));
        }
        while let Some(ended) = accepting.join_next().await {
            expect_end(ended);
        }
    }

    /// Tells connections to end when the server does, after a look at what has come by then for
    /// each: tokio wakes a task that yields when it has looked. So a request that was there before
    /// the end is seen by its connection before the end is. A task of its own, which nothing else
    /// wakes.
    async fn close(self) {
        let mut stopping = self.stop.watch();
        // The sender is in the same structure: it is not dropped before.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        for _ in 0..=self.table.open() / EVENTS {
            yield_now().await;
        }
        self.closing.send_replace(true);
    }

    async fn accept(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let mut complaints = Complaints::default();
        let mut closing = std::pin::pin!(closing(&self.closing));
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, client)) => self.admit(stream, client, &mut connections),
                    Err(error) => {
                        self.bear(error, &mut complaints, &mut connections).await;
                    },
                },
                Some(ended) = connections.join_next() => expect_end(ended),
                () = &mut closing => break,
            }
        }
        drop(listener);
        let all_end = async { while connections.join_next().await.map(expect_end).is_some() {} };
        if timeout(self.shutdown_timeout, all_end).await.is_err() {
            tracing::info!(
                left = connections.len(),
                "tcp: connections that did not end in time"
            );
        }
        connections.shutdown().await;
    }

    fn admit(&self, stream: TcpStream, client: SocketAddr, connections: &mut JoinSet<()>) {
        self.counters.tcp_accepted.add(1);
        let Admission::Place { ticket, evicted } = self.table.admit(client.ip()) else {
            self.counters.tcp_refused.add(1);
            return;
        };
        self.counters.tcp_evicted.add(u64::from(evicted));
        // Replies are written whole. Where it cannot be set the connection is gone, which the first
        // read tells.
        let _ = stream.set_nodelay(true);
        let service = self.clone();
        if let Some(tls) = &self.tls {
            let tls = Arc::clone(tls);
            connections.spawn(service.converse_secretly(tls, stream, client, ticket));
        } else {
            let arrived = (client, Transport::Tcp);
            connections.spawn(service.converse(stream, arrived, ticket));
        }
    }

    /// Answers over a connection of any kind.
    pub(crate) async fn converse<S>(
        self,
        stream: S,
        (client, transport): (SocketAddr, Transport),
        ticket: Ticket,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let answers = Client {
            shared: self.shared,
            counters: Arc::clone(&self.counters),
            address: client,
            transport,
            signatures: SignatureCache::new(SIGNATURES_MAX),
        };
        let around = Around::new(ticket, &self.closing);
        let end = Connection::new(stream, answers, now, self.patience)
            .run(around)
            .await;
        let counters = &self.counters;
        match end {
            End::Done | End::Evicted => {}
            End::Idle => counters.tcp_idle.add(1),
            End::Slow => counters.tcp_slow.add(1),
            End::NotDns => counters.tcp_failed.add(1),
            End::Cut => counters.transfers_cut.add(1),
            End::Failed(error) => {
                counters.tcp_failed.add(1);
                tracing::debug!(%client, %error, "tcp: connection failed");
            }
        }
    }

    /// What one connection failed with is its own matter (accept(2) lists what the network can say
    /// of it). Where descriptors or memory are short, an idle connection makes room.
    async fn bear(&self, error: Error, complaints: &mut Complaints, open: &mut JoinSet<()>) {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        if !SHORTAGES.contains(&errno) {
            tracing::debug!(%error, "tcp: a connection failed before it was accepted");
            return;
        }
        self.counters.tcp_accept_errors.add(1);
        let evicted = self.table.evict();
        self.counters.tcp_evicted.add(u64::from(evicted));
        if let Some(unsaid) = complaints.due(now().monotonic_ms) {
            tracing::warn!(%error, evicted, unsaid, "tcp: cannot accept connections");
        }
        let one_ends = async {
            match open.join_next().await {
                Some(ended) => expect_end(ended),
                None => std::future::pending().await,
            }
        };
        // After that time there may be a descriptor without one that ended.
        let _ = timeout(SHORTAGE_WAIT, one_ends).await;
    }
}

/// Ready when connections are to end.
pub(crate) fn closing(closing: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut watch = closing.subscribe();
    async move {
        // The sender cannot be gone before, and that would mean the same.
        let _ = watch.wait_for(|closing| *closing).await;
    }
}

/// Events of the network that tokio takes in one look.
const EVENTS: usize = 1_024;

/// A task that panicked takes its thread along, where the program was not built to end at once:
/// what it would have gone on with is not known.
pub(crate) fn expect_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// The answers to one client.
struct Client {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    address: SocketAddr,
    transport: Transport,
    /// What was signed for it lately.
    signatures: SignatureCache,
}

impl Answers for Client {
    fn answer(&mut self, now: Moment, request: &[u8]) -> Answer {
        let arrival = Arrival {
            transport: self.transport,
            client: self.address,
            now,
        };
        let mut tally = Tally::default();
        let local = Local {
            limiter: None,
            signatures: Some(&mut self.signatures),
        };
        let answer = match respond(&self.shared.load(), local, &arrival, request) {
            Outcome::Send(reply) => Answer::Message(reply),
            Outcome::Silence => Answer::Nothing,
            Outcome::Stream(stream) => Answer::Messages(Box::new(Transfer {
                stream,
                shared: Arc::clone(&self.shared),
            })),
        };
        match &answer {
            Answer::Message(reply) => tally.reply(reply),
            Answer::Messages(_) => self.counters.transfers.add(1),
            Answer::Nothing => tally.ignored += 1,
        }
        match self.transport {
            Transport::Udp | Transport::Tcp => self.counters.tcp_requests.add(1),
            Transport::Tls { .. } => self.counters.tls_requests.add(1),
            Transport::Quic => self.counters.quic_requests.add(1),
        }
        tally.add_to(&self.counters);
        answer
    }
}

/// A transfer: each message is of the state at its time, so that it ends when the server is not
/// fresh any more.
struct Transfer {
    stream: Stream,
    shared: Arc<Shared>,
}

impl Messages for Transfer {
    fn next(&mut self, now: Moment) -> Option<Vec<u8>> {
        self.stream.next(&self.shared.load(), now)
    }

    fn is_complete(&self) -> bool {
        self.stream.end() == Some(StreamEnd::Complete)
    }
}

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The place of a connection, and the end of the server.
struct Around {
    ticket: Ticket,
    evicted: Signal,
    stopping: Signal,
}

impl Around {
    fn new(ticket: Ticket, end: &watch::Sender<bool>) -> Self {
        Self {
            evicted: Box::pin(Ticket::taken(ticket.place())),
            stopping: Box::pin(closing(end)),
            ticket,
        }
    }
}

impl Surroundings for Around {
    fn set_idle(&self, idle: bool) {
        self.ticket.set_idle(idle);
    }

    fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.evicted.as_mut().poll(cx)
    }

    fn poll_stopping(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stopping.as_mut().poll(cx)
    }
}
