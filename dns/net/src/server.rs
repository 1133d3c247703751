//! All sockets of a name server: bound, answering, and gone again.

use std::io::Error;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use cfgdns_core::{Limiter, Limits, SignatureCache};
use tokio::runtime;

use crate::counters::{Counters, Totals, sum};
use crate::listen::{BindError, Carrier, Listen, QuicListen, Sockets, listener, quic_sockets};
use crate::quic::{self, Quic};
use crate::shared::Shared;
use crate::stop::Stop;
use crate::tcp::Service;
use crate::tcp::connection::Patience;
use crate::tcp::table::{Places, Table};
use crate::tls::SharedTls;
use crate::udp::{SIGNATURES_MAX, Worker};

/// Sockets that answer. Dropped, it ends as by [`Server::shutdown`].
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    quic_addresses: Vec<SocketAddr>,
    counters: Vec<Arc<Counters>>,
    connections: Arc<Table>,
    tls_connections: Arc<Table>,
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Takes all addresses and answers from the shared state, or takes none.
    pub fn bind(listen: &Listen, shared: &Arc<Shared>) -> Result<Self, BindError> {
        if listen.addresses.is_empty() {
            return Err(BindError::NoAddress);
        }
        let udp_threads = usize::from(listen.udp_threads.get());
        let asked = listen.addresses.iter();
        let sockets: Result<Vec<_>, _> = asked
            .map(|address| Sockets::bind(*address, udp_threads, listen.tcp.delivery_timeout))
            .collect();
        let sockets = sockets?;
        let tls = listen.tls.iter().flat_map(|tls| &tls.addresses);
        let tls: Result<Vec<_>, _> = tls
            .map(|address| listener(Carrier::Tls, *address, listen.tcp.delivery_timeout))
            .collect();
        let (tls_listeners, tls_addresses): (Vec<_>, _) = tls?.into_iter().unzip();
        let quic = listen.quic.iter().flat_map(|quic| &quic.addresses);
        let quic: Result<Vec<_>, _> = quic.map(|address| quic_sockets(*address)).collect();
        let quic = quic?;
        let places = Places {
            all: listen.tcp.connections.get(),
            of_client: listen.tcp.connections_per_client.get(),
        };
        let stop = Stop::new().map_err(|errno| BindError::Threads(errno.into()))?;
        // Dropped on the way out, it ends the threads that are there.
        let mut server = Self {
            addresses: sockets.iter().map(|sockets| sockets.address).collect(),
            tls_addresses,
            quic_addresses: quic.iter().map(|(_, address)| *address).collect(),
            counters: Vec::new(),
            connections: Table::new(places),
            tls_connections: Table::new(places),
            stop: Arc::new(stop),
            threads: Vec::new(),
        };
        let mut listeners = Vec::new();
        for Sockets { udp, tcp, .. } in sockets {
            for socket in udp {
                let limiter = listen.rate_limit.map(|limits| limiter(limits, listen));
                server.start_udp(socket, limiter, (listen, shared))?;
            }
            listeners.push(tcp);
        }
        for _ in 0..listen.tcp_threads.get() {
            server.start_connections("dns-tcp", &listeners, None, (listen, shared))?;
        }
        if let Some(tls) = &listen.tls {
            // Of its own: what handshakes cost must not delay who comes without TLS.
            let tls = Some(&tls.config);
            server.start_connections("dns-tls", &tls_listeners, tls, (listen, shared))?;
        }
        if let Some(QuicListen { config, .. }) = &listen.quic {
            for sockets in quic {
                server.start_quic(sockets, config, (listen, shared))?;
            }
        }
        Ok(server)
    }

    /// The addresses in the order that they were asked for, with their ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Those for TLS, in the same way.
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Those for QUIC, in the same way.
    pub fn quic_addresses(&self) -> &[SocketAddr] {
        &self.quic_addresses
    }

    /// What has happened so far.
    pub fn totals(&self) -> Totals {
        let mut totals = sum(&self.counters);
        totals.tls_open = self.tls_connections.open() as u64;
        totals.tcp_open = self.connections.open() as u64 + totals.tls_open;
        totals
    }

    /// Takes no more requests, answers those that the sockets have, and ends. It takes as long as
    /// [`Listen::shutdown_timeout`] at most, and blocks. Afterwards the addresses are free.
    pub fn shutdown(mut self) -> Totals {
        self.end();
        self.totals()
    }

    fn end(&mut self) {
        self.stop.stop();
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }

    fn start_udp(
        &mut self,
        socket: UdpSocket,
        limiter: Option<Limiter>,
        (listen, shared): (&Listen, &Arc<Shared>),
    ) -> Result<(), BindError> {
        let worker = Worker {
            socket,
            shared: Arc::clone(shared),
            counters: self.new_counters(),
            limiter,
            signatures: SignatureCache::new(SIGNATURES_MAX),
            stop: Arc::clone(&self.stop),
            shutdown_timeout: listen.shutdown_timeout,
        };
        self.start("dns-udp", move || worker.run())
    }

    /// Starts a thread that accepts at all listeners, as others do, and keeps what it accepts: its
    /// runtime has no other thread, so what has come by a moment is known (see `Service::close`).
    fn start_connections(
        &mut self,
        name: &str,
        listeners: &[TcpListener],
        tls: Option<&Arc<SharedTls>>,
        (listen, shared): (&Listen, &Arc<Shared>),
    ) -> Result<(), BindError> {
        let table = match tls {
            Some(_) => &self.tls_connections,
            None => &self.connections,
        };
        let service = Service {
            shared: Arc::clone(shared),
            table: Arc::clone(table),
            counters: self.new_counters(),
            tls: tls.map(Arc::clone),
            stop: Arc::clone(&self.stop),
            closing: Arc::default(),
            patience: Patience {
                idle: listen.tcp.idle_timeout,
                write: listen.tcp.write_timeout,
            },
            shutdown_timeout: listen.shutdown_timeout,
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(BindError::Threads)?;
        let listeners: Result<Vec<_>, Error> = {
            let _inside = runtime.enter();
            let listeners = listeners.iter().map(TcpListener::try_clone);
            listeners
                .map(|listener| tokio::net::TcpListener::from_std(listener?))
                .collect()
        };
        let listeners = listeners.map_err(BindError::Threads)?;
        self.start(name, move || runtime.block_on(service.run(listeners)))
    }

    /// Starts a thread that answers over QUIC at one address.
    fn start_quic(
        &mut self,
        (sockets, address): (Vec<UdpSocket>, SocketAddr),
        tls: &Arc<SharedTls>,
        (listen, shared): (&Listen, &Arc<Shared>),
    ) -> Result<(), BindError> {
        let service = quic::Service {
            shared: Arc::clone(shared),
            counters: self.new_counters(),
            tls: Arc::clone(tls),
            stop: Arc::clone(&self.stop),
            limits: listen.tcp,
            shutdown_timeout: listen.shutdown_timeout,
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(BindError::Threads)?;
        let quic = {
            let _inside = runtime.enter();
            Quic::begin(sockets, address, service)?
        };
        self.start("dns-quic", move || runtime.block_on(quic.run()))
    }

    fn new_counters(&mut self) -> Arc<Counters> {
        let counters = Arc::<Counters>::default();
        self.counters.push(Arc::clone(&counters));
        counters
    }

    fn start(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), BindError> {
        let thread = Builder::new().name(name.to_owned()).spawn(work);
        self.threads.push(thread.map_err(BindError::Threads)?);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// The share of the rate limit that a thread has, with a secret of its own.
fn limiter(limits: Limits, listen: &Listen) -> Limiter {
    let threads = listen.udp_threads.get();
    let share = Limits {
        per_second: limits.per_second.div_ceil(threads),
        slip: limits.slip,
        entries: limits.entries.div_ceil(usize::from(threads)),
    };
    Limiter::new(share, rand::random())
}
