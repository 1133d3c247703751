//! DNS over QUIC (RFC 9250): hickory-server has the sockets, the handshakes, the connections and
//! the streams; what is asked is answered here, by what answers over TCP.
//!
//! ```text
//! UDP ─► quinn ─► hickory-server: connection ─► stream ─► Request ─► Handler ─► respond ─► octets
//!                                                 ▲                                          │
//!                                                 └─ hickory encodes ◄─ records ◄─ rewriting ┘
//! ```
//!
//! An address has a thread of its own, so that nothing that comes here delays who comes otherwise.
//!
//! Invariants
//! - what is said is what is said over TCP, but for the way in which names are compressed;
//! - what hickory cannot carry whole is refused: transfers, which its idle timeout cuts, and signed
//!   requests, since it writes anew what would be signed;
//! - at most so many requests are under way as there may be TCP connections, and no client holds
//!   one for longer than [`crate::TcpLimits::write_timeout`];
//! - a reply that is not acknowledged is given up when nothing else was asked for as long as TCP
//!   would try: it must not arrive long after the server was fenced.
//!
//! Not bounded, because hickory-server 0.26.3 has no place for it (paths are of hickory-net, or
//! named): connections, and what a client may send on each, 100 streams of 1.25 MB
//! (`quic/quic_config.rs` 26, and the defaults of quinn). At a socket one handshake is done after
//! the other, and each may take 5 s (`quic/quic_server.rs` 94): who stops in one, as a client does
//! that does not trust the certificate, keeps new clients waiting. So an address has several.

mod rewriting;

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfgdns_core::{Arrival, Local, Outcome, SignatureCache, Transport, respond};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, ResponseCode};
use hickory_server::proto::rr::rdata::opt::EdnsCode;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use crate::counters::{Counters, Tally};
use crate::listen::{BindError, TcpLimits};
use crate::shared::{Shared, now};
use crate::stop::Stop;
use crate::tcp::expect_end;
use crate::tls::SharedTls;
use rewriting::Rewritten;

/// Signatures that an address keeps: those of thousands of popular names, in some 2 MB.
const SIGNATURES_MAX: usize = 16_384;

/// Turns that other tasks get so that what is written leaves: the task of a connection sends when
/// it has its turn, and one that is waked by it has the turn after.
const TURNS_TO_SEND: usize = 4;

/// All that answers at one address.
pub(crate) struct Quic {
    listeners: Vec<Listener>,
}

/// What answers at one socket of an address.
struct Listener {
    server: Server<Handler>,
    common: Arc<Common>,
}

/// What the sockets of an address have in common.
struct Common {
    address: SocketAddr,
    places: Arc<Semaphore>,
    all_places: u32,
    stop: Arc<Stop>,
    shutdown_timeout: Duration,
}

/// What an address answers with.
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) tls: Arc<SharedTls>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) limits: TcpLimits,
    pub(crate) shutdown_timeout: Duration,
}

impl Quic {
    /// Begins to answer at the sockets of an address; called inside the runtime that is to do it.
    pub(crate) fn begin(
        sockets: Vec<UdpSocket>,
        address: SocketAddr,
        service: Service,
    ) -> Result<Self, BindError> {
        let limits = service.limits;
        // More than that many permits a semaphore does not have, nor a machine connections.
        let all_places = u32::try_from(limits.connections.get()).unwrap_or(u32::MAX);
        let all_places = all_places.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let places = Arc::new(Semaphore::new(all_places as usize));
        let handler = Handler {
            shared: service.shared,
            counters: service.counters,
            signatures: Arc::new(Mutex::new(SignatureCache::new(SIGNATURES_MAX))),
            places: Arc::clone(&places),
            write_timeout: limits.write_timeout,
        };
        let common = Arc::new(Common {
            address,
            places,
            all_places,
            stop: service.stop,
            shutdown_timeout: service.shutdown_timeout,
        });
        let idle = limits.idle_timeout.min(limits.delivery_timeout);
        // Of all sockets one, so that a session can be taken up again at another.
        let tls = service.tls.for_quic();
        let begin = |socket| {
            let socket = tokio::net::UdpSocket::from_std(socket).map_err(BindError::Threads)?;
            let mut server = Server::new(handler.clone());
            server
                .register_quic_listener_and_tls_config(socket, idle, Arc::clone(&tls))
                .map_err(|error| BindError::Quic(Box::new(error)))?;
            let common = Arc::clone(&common);
            Ok(Listener { server, common })
        };
        let listeners: Result<Vec<_>, BindError> = sockets.into_iter().map(begin).collect();
        Ok(Self {
            listeners: listeners?,
        })
    }

    /// Answers until the server ends.
    pub(crate) async fn run(self) {
        let mut answering = JoinSet::new();
        for listener in self.listeners {
            answering.spawn(listener.run());
        }
        while let Some(ended) = answering.join_next().await {
            expect_end(ended);
        }
    }
}

impl Listener {
    async fn run(mut self) {
        let mut stopping = self.common.stop.watch();
        tokio::select! {
            // The sender is in what this has a part of: it is not dropped before.
            _ = stopping.wait_for(|stopping| *stopping) => {}
            ended = self.server.block_until_done() => {
                let error = ended.err().map(|error| error.to_string());
                let address = self.common.address;
                tracing::error!(%address, error, "quic: a socket does not answer: restart");
                return;
            }
        }
        let patience = self.common.shutdown_timeout;
        if timeout(patience, self.end()).await.is_err() {
            tracing::info!("quic: replies that were not taken in time");
        }
    }

    /// What is under way is answered and sent before hickory drops its connections.
    async fn end(&mut self) {
        let Common {
            places, all_places, ..
        } = &*self.common;
        turns().await;
        let taken = places.acquire_many(*all_places).await;
        turns().await;
        // No request is taken any more. That of the sockets another was here first means the same.
        drop(taken);
        places.close();
        if let Err(error) = self.server.shutdown_gracefully().await {
            tracing::info!(%error, "quic: did not end in order");
        }
        // That it is the end is told to the clients.
        turns().await;
    }
}

/// Lets the tasks of connections send what they have.
async fn turns() {
    for _ in 0..TURNS_TO_SEND {
        yield_now().await;
    }
}

/// Answers what hickory reads.
#[derive(Clone)]
struct Handler {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    /// What was signed lately; of one thread, so that nobody waits.
    signatures: Arc<Mutex<SignatureCache>>,
    places: Arc<Semaphore>,
    write_timeout: Duration,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut responder: R,
    ) -> ResponseInfo {
        let nothing = ResponseInfo::from(Header {
            metadata: request.metadata,
            counts: HeaderCounts::default(),
        });
        self.counters.quic_requests.add(1);
        let Ok(_place) = self.places.try_acquire() else {
            self.counters.quic_refused.add(1);
            return nothing;
        };
        let Some(reply) = self.answer(request) else {
            return nothing;
        };
        let sent = match Rewritten::read(&reply) {
            Ok(reply) => {
                timeout(
                    self.write_timeout,
                    responder.send_response(reply.response()),
                )
                .await
            }
            Err(error) => {
                tracing::error!(%error, "quic: a reply of ours cannot be read: SERVFAIL instead");
                let reply = MessageResponseBuilder::from_message_request(request)
                    .error_msg(&request.metadata, ResponseCode::ServFail);
                timeout(self.write_timeout, responder.send_response(reply)).await
            }
        };
        // Hickory drops a connection with its hundredth request, and what is not sent by then.
        turns().await;
        match sent {
            Ok(Ok(info)) => return info,
            Ok(Err(error)) => {
                self.counters.quic_failed.add(1);
                tracing::debug!(client = %request.src(), %error, "quic: cannot send a reply");
            }
            Err(_) => self.counters.quic_slow.add(1),
        }
        nothing
    }
}

impl Handler {
    /// The reply in octets; none to what is no request of this protocol, whose stream ends.
    fn answer(&self, request: &Request) -> Option<Vec<u8>> {
        let mut tally = Tally::default();
        let reply = is_doq(request).then(|| self.respond(request)).flatten();
        match &reply {
            Some(reply) => tally.reply(reply),
            None => tally.ignored += 1,
        }
        tally.add_to(&self.counters);
        reply
    }

    fn respond(&self, request: &Request) -> Option<Vec<u8>> {
        let mut octets = request.as_slice().to_vec();
        // All have the same id (RFC 9250 4.2.1), and by the id is drawn which address comes first.
        octets.first_chunk_mut::<2>()?.clone_from(&rand::random());
        let arrival = Arrival {
            transport: Transport::Quic,
            client: request.src(),
            now: now(),
        };
        let mut signatures = self
            .signatures
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let local = Local {
            limiter: None,
            signatures: Some(&mut signatures),
        };
        match respond(&self.shared.load(), local, &arrival, &octets) {
            Outcome::Send(reply) => Some(reply),
            // Zones are not transferred, and the core says so itself.
            Outcome::Silence | Outcome::Stream(_) => None,
        }
    }
}

/// What else the protocol demands of a request, or the connection is to be closed (RFC 9250 4.2.1,
/// 5.5.2): hickory closes the stream, when nothing is sent.
fn is_doq(request: &Request) -> bool {
    let keepalive = |edns| hickory_server::proto::op::Edns::option(edns, EdnsCode::Keepalive);
    request.metadata.id == 0 && request.edns.as_ref().and_then(keepalive).is_none()
}
