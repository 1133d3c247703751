//! What clients see over QUIC: a client that is quinn alone, which sends octets of any kind, and
//! trusts one certificate.

mod same;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use cfgdns_core::Freshness;
use cfgdns_net::{Listen, QuicListen, Server, SharedTls, Totals};
use cfgdns_testing::message::{AA, Message, message, opt, query, question, transfer};
use cfgdns_zone::Rtype;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, TransportConfig, VarInt};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Connection as Tcp, framed, www};
use crate::tls::{Identity, NAME};
use crate::{PATIENCE, Running, fresh, listen, number, state};
use same::{ZONE, with_zone};

const DOQ: &[&[u8]] = &[b"doq"];
const EXTENDED_ERROR: u16 = 15;

/// A server that speaks QUIC too, and who it says it is.
struct Quic {
    running: Running,
    identity: Identity,
    shared: Arc<SharedTls>,
}

impl Quic {
    fn new(mut listen: Listen) -> Self {
        let identity = Identity::new();
        let shared = Arc::new(SharedTls::new(identity.server()));
        listen.quic = Some(QuicListen {
            addresses: vec!["127.0.0.1:0".parse().expect("an address")],
            config: Arc::clone(&shared),
        });
        Self {
            running: Running::new(&listen),
            identity,
            shared,
        }
    }

    fn usual() -> Self {
        Self::new(listen(&["127.0.0.1:0"]))
    }

    fn address(&self) -> SocketAddr {
        self.running.server.quic_addresses()[0]
    }

    fn open(&self) -> Client {
        self.client(DOQ, TransportConfig::default())
            .expect("a handshake")
    }

    fn client(&self, protocols: &[&[u8]], transport: TransportConfig) -> Result<Client, String> {
        Client::open(self.address(), &self.identity, protocols, transport)
    }

    fn tcp(&self) -> Tcp {
        Tcp::open(self.running.address())
    }

    fn until(&self, what: &str, condition: impl Fn(&Totals) -> bool) -> Totals {
        self.running.until(what, condition)
    }

    fn shutdown(self) -> Totals {
        let totals = self.running.shutdown();
        assert_eq!(Arc::strong_count(&self.shared), 1, "a task is left");
        totals
    }
}

/// A client with a connection.
struct Client {
    runtime: Runtime,
    _endpoint: Endpoint,
    connection: Connection,
}

impl Client {
    fn open(
        server: SocketAddr,
        identity: &Identity,
        protocols: &[&[u8]],
        transport: TransportConfig,
    ) -> Result<Self, String> {
        let runtime = runtime();
        let config = config(identity, protocols, transport);
        let (endpoint, connection) = runtime.block_on(connect(server, config))?;
        Ok(Self {
            runtime,
            _endpoint: endpoint,
            connection,
        })
    }

    /// The first of so many that try at once, from ports of their own; the others give up.
    fn first_of(count: usize, server: SocketAddr, identity: &Identity) -> Self {
        let runtime = runtime();
        let config = config(identity, DOQ, TransportConfig::default());
        let (endpoint, connection) = runtime.block_on(async {
            let mut connecting = JoinSet::new();
            for _ in 0..count {
                connecting.spawn(connect(server, config.clone()));
            }
            let first = connecting.join_next().await.expect("there are some");
            first.expect("no panic").expect("a handshake")
        });
        Self {
            runtime,
            _endpoint: endpoint,
            connection,
        }
    }

    /// All that comes on a stream for these octets, and the end of ours.
    fn send(&self, octets: &[u8]) -> Result<Vec<u8>, String> {
        let conversation = async {
            let (mut send, mut receive) = self
                .connection
                .open_bi()
                .await
                .map_err(|error| error.to_string())?;
            send.write_all(octets)
                .await
                .map_err(|error| error.to_string())?;
            send.finish().map_err(|error| error.to_string())?;
            receive
                .read_to_end(70_000)
                .await
                .map_err(|error| error.to_string())
        };
        let said = self
            .runtime
            .block_on(async { timeout(PATIENCE, conversation).await });
        said.expect("an answer or an end")
    }

    /// The reply to a request, which gets the id that all have.
    fn ask(&self, request: &[u8]) -> Vec<u8> {
        let said = self.send(&framed(&unnumbered(request))).expect("a reply");
        let (length, reply) = said.split_first_chunk::<2>().expect("a length");
        assert_eq!(usize::from(u16::from_be_bytes(*length)), reply.len());
        assert_eq!(reply[..2], [0, 0], "RFC 9250 4.2.1");
        reply.to_vec()
    }

    /// Waits for the end of the connection.
    fn ends(&self) -> ConnectionError {
        let closed = self
            .runtime
            .block_on(async { timeout(PATIENCE, self.connection.closed()).await });
        closed.expect("an end")
    }
}

/// With a thread of its own: a connection goes on by itself, while the test does something else.
fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build();
    runtime.expect("a runtime")
}

fn config(identity: &Identity, protocols: &[&[u8]], transport: TransportConfig) -> ClientConfig {
    let crypto = QuicClientConfig::try_from(identity.client(protocols)).expect("TLS 1.3");
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    config
}

async fn connect(
    server: SocketAddr,
    config: ClientConfig,
) -> Result<(Endpoint, Connection), String> {
    let own: SocketAddr = match server {
        SocketAddr::V4(_) => "127.0.0.1:0".parse().expect("an address"),
        SocketAddr::V6(_) => "[::1]:0".parse().expect("an address"),
    };
    let endpoint = Endpoint::client(own);
    let endpoint = endpoint.expect("a port");
    let connecting = endpoint.connect_with(config, server, NAME);
    let opened = timeout(PATIENCE, connecting.expect("a server")).await;
    let connection = opened
        .expect("an answer")
        .map_err(|error| error.to_string())?;
    Ok((endpoint, connection))
}

fn unnumbered(request: &[u8]) -> Vec<u8> {
    [&[0, 0], &request[2..]].concat()
}

#[test]
fn hundred_requests_of_a_connection_are_answered_and_the_next_connection_goes_on() {
    let quic = Quic::usual();
    for _ in 0..3 {
        let client = quic.open();
        for _ in 0..100 {
            assert_eq!(Message::read(&client.ask(&www(0))).answer.len(), 1);
        }
        let ended = client.ends();
        assert!(
            matches!(ended, ConnectionError::ApplicationClosed(_)),
            "{ended}"
        );
    }
    quic.shutdown();
}

#[test]
fn transfers_signed_requests_and_news_are_refused() {
    let quic = Quic::usual();
    quic.running.shared.store(Arc::new(with_zone(ZONE, false)));
    let client = quic.open();
    let plain = || Some(opt(1_232, 0, &[]));
    // As a client signs, but for the MAC; right or wrong makes no difference.
    let mut tsig = b"\x0bhmac-sha256\0\0\0\0\0\0\0\x01\x2c\0\x20".to_vec();
    tsig.extend([9; 32]);
    tsig.extend([0x12, 0x34, 0, 0, 0, 0]);
    let tsig = cfgdns_testing::message::record("a.key.", Rtype::TSIG, 255, 0, &tsig);
    let signed = |question: Vec<u8>| {
        message(
            0,
            [&[question], &[], &[], &[opt(1_232, 0, &[]), tsig.clone()]],
        )
    };
    for request in [
        transfer("example.", Rtype::AXFR, None, plain()),
        transfer("example.", Rtype::IXFR, Some(5), plain()),
        signed(question("www.example.", Rtype::A, 1)),
        signed(question("example.", Rtype::AXFR, 1)),
    ] {
        let reply = Message::read(&client.ask(&request));
        assert_eq!(
            (reply.rcode(), reply.has(AA), reply.answer.len()),
            (5, false, 0)
        );
        assert_eq!(reply.option(EXTENDED_ERROR), Some(&[0, 21][..]));
        assert_eq!(reply.additional, []);
    }
    let notify = message(
        0x2400,
        [&[question("example.", Rtype::SOA, 1)], &[], &[], &[]],
    );
    let reply = Message::read(&client.ask(&notify));
    assert_eq!((reply.rcode(), reply.has(AA)), (4, false));
    let totals = quic.shutdown();
    assert_eq!((totals.transfers, totals.quic_requests), (0, 5));
}

#[test]
fn garbage_gets_an_error_without_authority_or_the_end_and_others_are_answered() {
    let quic = Quic::usual();
    let good = quic.open();
    assert_eq!(Message::read(&good.ask(&www(0))).rcode(), 0);
    // As long as a message can be, cut in its first record, and with a pointer in the question.
    let mut long = www(0);
    long[7] = 1;
    long.resize(65_535, 0);
    let mut cut = query("www.example.", Rtype::A, Some(opt(1_232, 0, &[])));
    cut.truncate(cut.len() - 3);
    let mut pointer = query(".", Rtype::A, None);
    pointer.splice(12..13, [0xc0, 0x0c]);
    let two_opts = [opt(1_232, 0, &[]), opt(1_232, 0, &[])];
    let twice = message(
        0,
        [
            &[question("www.example.", Rtype::A, 1)],
            &[],
            &[],
            &two_opts,
        ],
    );
    for faulty in [long, cut, pointer, twice] {
        let reply = Message::read(&quic.open().ask(&faulty));
        assert_eq!(
            (reply.rcode(), reply.has(AA), reply.answer.len()),
            (1, false, 0)
        );
    }
    // Too short, a reply, with an id, with an option that is for TCP: nothing is said.
    let mut reply = www(0);
    reply[2] |= 0x80;
    let keepalive = query("www.example.", Rtype::A, Some(opt(1_232, 0, &[(11, b"")])));
    for garbage in [
        b"short".to_vec(),
        Vec::new(),
        reply,
        www(7),
        unnumbered(&keepalive),
    ] {
        let client = quic.open();
        assert_eq!(
            client.send(&framed(&garbage)),
            Ok(Vec::new()),
            "{garbage:?}"
        );
        assert_eq!(Message::read(&client.ask(&www(0))).rcode(), 0);
    }
    // No whole message on a stream ends the connection.
    for half in [&framed(&www(0))[..20], &[0][..], &[]] {
        let client = quic.open();
        client.send(half).expect_err("an end");
        client.ends();
    }
    // Datagrams of anybody.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for octet in [0, 0x40, 0xc0, 0xff] {
        for octets in [1, 20, 1_200] {
            socket
                .send_to(&vec![octet; octets], quic.address())
                .expect("sent");
        }
    }
    assert_eq!(Message::read(&good.ask(&www(0))).answer.len(), 1);
    quic.until("counted", |totals| totals.ignored == 2);
    quic.shutdown();
}

#[test]
fn fence_falls_and_rises_between_two_requests_of_a_connection() {
    let quic = Quic::usual();
    let client = quic.open();
    let request = query("www.example.", Rtype::A, Some(opt(1_232, 0, &[])));
    for (freshness, rcode, error) in [
        (Freshness::Until(u64::MAX), 0, None),
        (Freshness::Lost, 2, Some(24)),
        (Freshness::Never, 2, Some(14)),
        (Freshness::Until(u64::MAX), 0, None),
    ] {
        quic.running
            .shared
            .store(Arc::new(state("192.0.2.1", freshness)));
        let reply = Message::read(&client.ask(&request));
        assert_eq!((reply.rcode(), reply.has(AA)), (rcode, rcode == 0));
        let said = reply.option(EXTENDED_ERROR).map(|said| said[1]);
        assert_eq!(said, error);
    }
    quic.shutdown();
}

#[test]
fn who_does_not_name_the_protocol_or_does_not_trust_is_not_answered() {
    let quic = Quic::usual();
    // RFC 7301 3.2, as RFC 9001 8.1 has it.
    for protocols in [&[][..], &[&b"dot"[..]], &[&b"h3"[..]]] {
        let refused = quic.client(protocols, TransportConfig::default());
        let refused = refused.map(|_| ()).expect_err("no handshake");
        assert!(refused.contains("error 120"), "{refused}");
    }
    let stranger = Client::open(
        quic.address(),
        &Identity::new(),
        DOQ,
        TransportConfig::default(),
    );
    let refused = stranger.map(|_| ()).expect_err("another certificate");
    assert!(refused.contains("certificate"), "{refused}");
    assert_eq!(Message::read(&quic.open().ask(&www(0))).answer.len(), 1);
    quic.shutdown();
}

#[test]
fn new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let mut quic = Quic::usual();
    let old = quic.open();
    assert_eq!(Message::read(&old.ask(&www(0))).rcode(), 0);
    let other = Identity::new();
    quic.shared.store(other.server());
    let refused = quic.client(DOQ, TransportConfig::default());
    refused
        .map(|_| ())
        .expect_err("it trusts the old one alone");
    quic.identity = other;
    assert_eq!(Message::read(&quic.open().ask(&www(0))).rcode(), 0);
    assert_eq!(Message::read(&old.ask(&www(0))).rcode(), 0);
    quic.shutdown();
}

/// A client that grants no octets of the reply, and holds the only place for requests.
#[test]
fn client_that_takes_nothing_is_left_and_meanwhile_others_are_not_begun() {
    let mut listen = listen(&["127.0.0.1:0"]);
    listen.tcp.connections = number(1);
    listen.tcp.write_timeout = Duration::from_secs(2);
    let quic = Quic::new(listen);
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(1));
    let greedy = quic.client(DOQ, transport).expect("a handshake");
    let good = quic.open();
    greedy.runtime.block_on(async {
        let (mut send, receive) = greedy.connection.open_bi().await.expect("a stream");
        send.write_all(&framed(&www(0))).await.expect("sent");
        send.finish().expect("an end");
        // Not read, and not told that it will not be.
        std::mem::forget(receive);
    });
    quic.until("read", |totals| totals.quic_requests == 1);
    assert_eq!(good.send(&framed(&www(0))), Ok(Vec::new()));
    quic.until("left", |totals| {
        totals.quic_slow == 1 && totals.quic_refused == 1
    });
    assert_eq!(Message::read(&good.ask(&www(0))).answer.len(), 1);
    quic.shutdown();
}

/// Hickory does one handshake after the other, so that there are several sockets. Twenty at one
/// socket take a hundred seconds: who comes to another, or otherwise, does not notice.
#[test]
fn who_stops_in_a_handshake_keeps_few_clients_waiting_and_nobody_elsewhere() {
    let quic = Quic::usual();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // The first datagrams of clients, without the rest of the handshake, to one socket.
    for _ in 0..20 {
        socket
            .send_to(&first_datagram(&quic), quic.address())
            .expect("sent");
    }
    socket.recv(&mut [0; 1_500]).expect("a handshake is begun");
    let mut tcp = quic.tcp();
    for id in 0..50 {
        assert_eq!(tcp.ask(&www(id)).id, id);
        assert_eq!(crate::client::ask(quic.running.address(), &www(id)).id, id);
    }
    // That all come to the one socket does not happen in 10^14 runs.
    let client = Client::first_of(16, quic.address(), &quic.identity);
    assert_eq!(Message::read(&client.ask(&www(0))).answer.len(), 1);
    quic.shutdown();
}

/// What a client sends first, to a port where nobody answers.
fn first_datagram(quic: &Quic) -> Vec<u8> {
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("a port");
    nobody.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let address = nobody.local_addr().expect("bound");
    let runtime = runtime();
    let _inside = runtime.enter();
    let endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address"));
    let endpoint = endpoint.expect("a port");
    let config = config(&quic.identity, DOQ, TransportConfig::default());
    let _connecting = endpoint.connect_with(config, address, NAME).expect("sent");
    let mut octets = vec![0; 2_000];
    let (count, _) = nobody.recv_from(&mut octets).expect("a datagram");
    octets.truncate(count);
    octets
}

#[test]
fn shutdown_sends_what_is_under_way_tells_clients_and_frees_the_address() {
    for _ in 0..5 {
        let quic = Quic::usual();
        let address = quic.address();
        let clients: Vec<_> = (0..5).map(|_| quic.open()).collect();
        for client in &clients {
            assert_eq!(Message::read(&client.ask(&www(0))).answer.len(), 1);
        }
        let asked: Vec<_> = clients
            .iter()
            .map(|client| {
                let connection = client.connection.clone();
                client.runtime.spawn(async move {
                    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
                    send.write_all(&framed(&www(0))).await.expect("sent");
                    receive.read_to_end(1_000).await
                })
            })
            .collect();
        quic.until("read", |totals| totals.quic_requests == 10);
        quic.shutdown();
        for (client, asked) in clients.iter().zip(asked) {
            let said = client
                .runtime
                .block_on(asked)
                .expect("no panic")
                .expect("a reply");
            assert_eq!(Message::read(&said[2..]).answer.len(), 1);
            let ended = client.ends();
            assert!(
                matches!(ended, ConnectionError::ApplicationClosed(_)),
                "{ended}"
            );
        }
        UdpSocket::bind(address).expect("nobody is there");
    }
}

#[test]
fn address_that_another_program_has_is_an_error_with_advice() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let mut listen = listen(&["127.0.0.1:0"]);
    listen.quic = Some(QuicListen {
        addresses: vec![address],
        config: Arc::new(SharedTls::new(Identity::new().server())),
    });
    let shared = Arc::new(cfgdns_net::Shared::new(fresh()));
    let error = Server::bind(&listen, &shared)
        .expect_err("it is taken")
        .to_string();
    let expected = format!("cannot listen on QUIC {address}: another program has the port");
    assert!(error.starts_with(&expected), "{error}");
}

/// The client takes what comes from the address that it has asked, and no other.
#[test]
fn reply_leaves_from_the_address_that_was_asked() {
    let identity = Identity::new();
    let mut listen = listen(&["127.0.0.1:0"]);
    listen.quic = Some(QuicListen {
        addresses: ["0.0.0.0:0", "[::]:0"]
            .map(|text| text.parse().expect("an address"))
            .into(),
        config: Arc::new(SharedTls::new(identity.server())),
    });
    let running = Running::new(&listen);
    let [v4, v6] = [0, 1].map(|number| running.server.quic_addresses()[number].port());
    for (address, port) in [("127.0.0.1", v4), ("127.0.0.7", v4), ("::1", v6)] {
        let address = SocketAddr::new(address.parse().expect("an address"), port);
        let client = Client::open(address, &identity, DOQ, TransportConfig::default());
        let reply = client.expect("a handshake").ask(&www(0));
        assert_eq!(Message::read(&reply).answer.len(), 1, "{address}");
    }
    running.shutdown();
}
