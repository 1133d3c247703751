//! DNS over TLS (RFC 7858) and transfers over it (RFC 9103): the handshake, in bounds. After it the
//! conversation is that of TCP, message for message.
//!
//! Invariants
//! - who is in a handshake has a place like others, counts as idle, and has the time of one who is;
//! - a connection has the certificate that was there when it began; the next has the one of then;
//! - a handshake that is done before the server ends is followed by the conversation, so that what
//!   came with it is answered.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cfgdns_core::Transport;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::tcp::table::Ticket;
use crate::tcp::{Service, closing};

/// The name of the protocol in a handshake (RFC 7858 and the registry of ALPN).
const DOT: &[u8] = b"dot";
/// The same over QUIC (RFC 9250 4.1.1).
const DOQ: &[u8] = b"doq";
/// Sessions over QUIC that can be taken up again, as many as there are over TLS by default.
const QUIC_SESSIONS_MAX: usize = 256;

/// As whom the server shows itself, and how it speaks TLS. Written by whoever reads the files of
/// the certificate, read for each connection that begins.
#[derive(Debug)]
pub struct SharedTls {
    config: ArcSwap<ServerConfig>,
}

impl SharedTls {
    /// Connections begin with this until another is stored.
    pub fn new(config: ServerConfig) -> Self {
        Self {
            config: ArcSwap::new(for_dns(config)),
        }
    }

    /// From now on connections begin with this.
    pub fn store(&self, config: ServerConfig) {
        self.config.store(for_dns(config));
    }

    /// The same for QUIC, of which a listener takes one for ever: it asks here, for each connection
    /// that begins, with which certificate.
    pub(crate) fn for_quic(self: &Arc<Self>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config.load());
        config.alpn_protocols = vec![DOQ.to_vec()];
        config.cert_resolver = Arc::<Self>::clone(self);
        // What was said over one protocol is not taken up over the other.
        config.session_storage = ServerSessionMemoryCache::new(QUIC_SESSIONS_MAX);
        Arc::new(config)
    }
}

impl ResolvesServerCert for SharedTls {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.config.load().cert_resolver.resolve(client)
    }
}

/// Who names a protocol must name this; who names none is taken to mean it.
fn for_dns(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![DOT.to_vec()];
    Arc::new(config)
}

impl Service {
    /// Shakes hands with a client, and answers it.
    pub(crate) async fn converse_secretly(
        self,
        tls: Arc<SharedTls>,
        stream: TcpStream,
        client: SocketAddr,
        ticket: Ticket,
    ) {
        let handshake = TlsAcceptor::from(tls.config.load_full()).accept(stream);
        let done = tokio::select! {
            // First, so that at the end it gets as far as what has come lets it.
            biased;
            done = timeout(self.patience.idle, handshake) => done,
            () = Ticket::taken(ticket.place()) => return,
            () = closing(&self.closing) => return,
        };
        let counters = &self.counters;
        match done {
            Ok(Ok(stream)) => {
                counters.tls_handshakes.add(1);
                let dot = stream.get_ref().1.alpn_protocol() == Some(DOT);
                let arrived = (client, Transport::Tls { dot });
                self.converse(stream, arrived, ticket).await;
            }
            Ok(Err(error)) => {
                counters.tls_failed.add(1);
                tracing::debug!(%client, %error, "tls: handshake failed");
            }
            Err(_) => counters.tcp_idle.add(1),
        }
    }
}
