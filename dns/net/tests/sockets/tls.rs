//! What clients see over TLS: a client that is rustls's own, and trusts one certificate.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use cfgdns_core::{Acl, Freshness, State};
use cfgdns_net::{Listen, SharedTls, TlsListen, Totals};
use cfgdns_zone::Rtype;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
};

use crate::client::{Connection, Reply, framed, query, query_edns, www};
use crate::{Running, listen, number, state, state_of};

pub(crate) const NAME: &str = "ns1.example";
const DOT: &[&[u8]] = &[b"dot"];

type Secret = Connection<StreamOwned<ClientConnection, TcpStream>>;

/// As whom a server shows itself.
pub(crate) struct Identity(CertifiedKey<KeyPair>);

impl Identity {
    pub(crate) fn new() -> Self {
        Self(generate_simple_self_signed(vec![NAME.to_owned()]).expect("a certificate"))
    }

    fn certificate(&self) -> CertificateDer<'static> {
        self.0.cert.der().clone()
    }

    pub(crate) fn server(&self) -> ServerConfig {
        let key = self.0.signing_key.serialize_der();
        let key = PrivateKeyDer::try_from(key).expect("a key");
        ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate()], key)
            .expect("a pair")
    }

    pub(crate) fn client(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate()).expect("a root");
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

/// A server that speaks TLS too, and who it says it is.
struct Tls {
    running: Running,
    identity: Identity,
    shared: Arc<SharedTls>,
}

impl Tls {
    fn new(mut listen: Listen) -> Self {
        let identity = Identity::new();
        let shared = Arc::new(SharedTls::new(identity.server()));
        listen.tls = Some(TlsListen {
            addresses: vec!["127.0.0.1:0".parse().expect("an address")],
            config: Arc::clone(&shared),
        });
        Self {
            running: Running::new(&listen),
            identity,
            shared,
        }
    }

    fn address(&self) -> SocketAddr {
        self.running.server.tls_addresses()[0]
    }

    fn open(&self) -> Secret {
        self.open_for(DOT)
    }

    fn open_for(&self, protocols: &[&[u8]]) -> Secret {
        connect(self.address(), self.identity.client(protocols)).expect("a handshake")
    }

    fn until(&self, what: &str, condition: impl Fn(&Totals) -> bool) -> Totals {
        self.running.until(what, condition)
    }

    fn shutdown(self) -> Totals {
        let totals = self.running.shutdown();
        assert_eq!(totals.tls_open, 0);
        assert_eq!(Arc::strong_count(&self.shared), 1, "a task is left");
        totals
    }
}

/// Shakes hands.
fn connect(server: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Secret> {
    let name = NAME.try_into().expect("a name");
    let connection = ClientConnection::new(config, name).expect("a client");
    let stream = Connection::open(server).0;
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Connection(stream))
}

fn default_listen() -> Listen {
    listen(&["127.0.0.1:0"])
}

fn is_authoritative(reply: &Reply) -> bool {
    reply.octets[2] & 4 == 4
}

#[test]
fn pipelined_requests_are_answered_as_over_tcp() {
    let tls = Tls::new(default_listen());
    let mut secret = tls.open();
    let mut plain = Connection::open(tls.running.address());
    let requests = [
        www(1),
        query_edns(2, "none.example.", Rtype::A),
        query(3, "big.example.", Rtype::TXT),
        query(4, "example.org.", Rtype::A),
    ];
    let all: Vec<_> = requests
        .iter()
        .flat_map(|request| framed(request))
        .collect();
    secret.send(&all);
    plain.send(&all);
    for (id, rcode, answers) in [(1, 0, 1), (2, 3, 0), (3, 0, 40), (4, 5, 0)] {
        let reply = secret.receive();
        assert_eq!((reply.id, reply.rcode, reply.answers), (id, rcode, answers));
        assert!(!reply.truncated);
        assert_eq!(reply, plain.receive());
    }
    let many: Vec<_> = (0..500).flat_map(|id| framed(&www(id))).collect();
    secret.send(&many);
    for id in 0..500 {
        assert_eq!(secret.receive().id, id);
    }
    for octet in framed(&www(7)) {
        secret.send(&[octet]);
    }
    assert_eq!(secret.receive().id, 7);
    let totals = tls.until("open", |totals| totals.tls_open == 1);
    assert_eq!((totals.tls_requests, totals.tcp_requests), (505, 4));
    assert_eq!((totals.tls_handshakes, totals.tcp_open), (1, 2));
    tls.shutdown();
}

#[test]
fn what_is_no_question_gets_an_error_without_authority_or_the_end() {
    let tls = Tls::new(default_listen());
    let mut secret = tls.open();
    // As long as a message can be, cut in its first record, and with a pointer in the question.
    let mut long = www(1);
    long[7] = 1;
    long.resize(65_535, 0);
    let mut cut = query_edns(1, "www.example.", Rtype::A);
    cut.truncate(cut.len() - 3);
    let mut pointer = query(1, ".", Rtype::A);
    pointer.splice(12..13, [0xc0, 0x0c]);
    for faulty in [long, cut, pointer] {
        let reply = secret.ask(&faulty);
        assert_eq!((reply.id, reply.rcode, reply.answers), (1, 1, 0));
        assert!(!is_authoritative(&reply));
    }
    let mut reply = www(1);
    reply[2] |= 0x80;
    for garbage in [vec![0, 0], framed(b"short"), framed(&reply)] {
        let mut secret = tls.open();
        assert_eq!(secret.ask(&www(1)).id, 1);
        secret.send(&garbage);
        secret.ends();
    }
    tls.until("counted", |totals| totals.tcp_failed == 3);
    // Half a request is none.
    let mut half = tls.open();
    half.send(&framed(&www(1))[..20]);
    half.0.conn.send_close_notify();
    half.0.conn.complete_io(&mut half.0.sock).expect("sent");
    half.ends();
    assert_eq!(secret.ask(&www(9)).id, 9);
    tls.shutdown();
}

#[test]
fn who_speaks_no_tls_or_another_protocol_is_left() {
    let tls = Tls::new(default_listen());
    let mut plain = Connection::open(tls.address());
    plain.send(&framed(&www(1)));
    // An alert that says so, and the end, in order or not.
    let mut rest = Vec::new();
    let _ = plain.0.read_to_end(&mut rest);
    assert!(rest.first().is_none_or(|kind| *kind == 21), "{rest:?}");
    assert!(connect(tls.address(), tls.identity.client(&[b"h2"])).is_err());
    let stranger = Identity::new();
    assert!(connect(tls.address(), stranger.client(DOT)).is_err());
    tls.until("counted", |totals| totals.tls_failed == 3);
    assert_eq!(tls.open().ask(&www(1)).id, 1);
    assert_eq!(tls.shutdown().tls_requests, 1);
}

#[test]
fn client_that_goes_without_a_word_has_not_failed() {
    let tls = Tls::new(default_listen());
    let mut secret = tls.open();
    let requests: Vec<_> = (0..100).flat_map(|id| framed(&www(id))).collect();
    secret.send(&requests);
    secret.0.sock.shutdown(Shutdown::Write).expect("closed");
    for id in 0..100 {
        assert_eq!(secret.receive().id, id);
    }
    secret.ends();
    let totals = tls.until("gone", |totals| totals.tls_open == 0);
    assert_eq!(totals.tcp_failed, 0);
    tls.shutdown();
}

#[test]
fn idle_client_is_left_before_its_handshake_and_after_it() {
    let mut listen = default_listen();
    listen.tcp.idle_timeout = Duration::from_millis(300);
    let tls = Tls::new(listen);
    Connection::open(tls.address()).ends();
    // The beginning of a handshake is none.
    let mut begun = Connection::open(tls.address());
    begun.send(&[22, 3, 1, 1, 0, 1]);
    begun.ends();
    let totals = tls.until("counted", |totals| totals.tcp_idle == 2);
    assert_eq!((totals.tls_handshakes, totals.tls_failed), (0, 0));
    let mut secret = tls.open();
    secret.send(&framed(&www(1))[..20]);
    secret.ends();
    tls.until("counted", |totals| totals.tcp_idle == 3);
    tls.shutdown();
}

#[test]
fn idle_connections_make_room_among_those_of_tls() {
    let mut listen = default_listen();
    listen.tcp.connections = number(3);
    let tls = Tls::new(listen);
    // Who has not finished its handshake is idle too.
    let mut begun = Connection::open(tls.address());
    tls.until("there", |totals| totals.tls_open == 1);
    let mut secrets: Vec<_> = (0..2).map(|_| tls.open()).collect();
    for place in [1, 0] {
        assert_eq!(secrets[place].ask(&www(1)).id, 1);
    }
    let mut third = tls.open();
    assert_eq!(third.ask(&www(3)).id, 3);
    begun.ends();
    let mut fourth = tls.open();
    assert_eq!(fourth.ask(&www(4)).id, 4);
    secrets[1].ends();
    let totals = tls.until("evicted", |totals| totals.tcp_evicted == 2);
    assert_eq!((totals.tls_open, totals.tcp_refused), (3, 0));
    // Those without TLS have places of their own.
    let mut plain: Vec<_> = (0..3)
        .map(|_| Connection::open(tls.running.address()))
        .collect();
    for connection in &mut plain {
        assert_eq!(connection.ask(&www(5)).id, 5);
    }
    let totals = tls.until("all there", |totals| totals.tcp_open == 6);
    assert_eq!((totals.tcp_evicted, totals.tls_open), (2, 3));
    assert_eq!(secrets[0].ask(&www(6)).id, 6);
    tls.shutdown();
}

#[test]
fn certificate_that_is_stored_is_shown_to_who_comes_then() {
    let tls = Tls::new(default_listen());
    let mut before = tls.open();
    assert_eq!(before.ask(&www(1)).id, 1);
    let next = Identity::new();
    tls.shared.store(next.server());
    assert_eq!(before.ask(&www(2)).id, 2);
    assert!(connect(tls.address(), tls.identity.client(DOT)).is_err());
    let mut after = connect(tls.address(), next.client(DOT)).expect("the new one");
    assert_eq!(after.ask(&www(3)).id, 3);
    assert_eq!(before.ask(&www(4)).id, 4);
    tls.shutdown();
}

#[test]
fn fenced_server_says_servfail_and_why() {
    let tls = Tls::new(default_listen());
    let mut secret = tls.open();
    let lost = state("192.0.2.1", Freshness::Lost);
    tls.running.shared.store(Arc::new(lost));
    let reply = secret.ask(&query_edns(1, "www.example.", Rtype::A));
    assert_eq!((reply.rcode, reply.answers), (2, 0));
    assert!(!is_authoritative(&reply));
    assert_eq!(reply.octets[reply.octets.len() - 6..], [0, 15, 0, 2, 0, 24]);
    tls.shutdown();
}

/// A zone of several messages, for anybody.
fn large() -> State {
    let mut text =
        "$TTL 60\n@ SOA ns1 root 7 3600 600 604800 60\n@ NS ns1\nns1 A 192.0.2.1\n".to_owned();
    for number in 0..1_000 {
        writeln!(text, "ns{number} TXT \"{number:0>100}\"").expect("a string");
    }
    let mut state = state_of(&text, Freshness::Until(u64::MAX));
    state.settings.transfers = Acl::new(vec!["any".parse().expect("a rule")]);
    state
}

#[test]
fn zone_is_transferred_to_who_named_the_protocol() {
    let tls = Tls::new(default_listen());
    tls.running.shared.store(Arc::new(large()));
    let request = query(1, "example.", Rtype::AXFR);
    let mut secret = tls.open();
    secret.send(&framed(&request));
    let mut records = 0;
    let mut messages = 0;
    while records < 1_004 {
        let reply = secret.receive();
        assert_eq!((reply.id, reply.rcode), (1, 0));
        records += reply.answers;
        messages += 1;
    }
    assert!(records == 1_004 && messages > 3, "{records} {messages}");
    assert_eq!(secret.ask(&query(2, "ns7.example.", Rtype::TXT)).answers, 1);
    let mut unnamed = tls.open_for(&[]);
    let refused = unnamed.ask(&request);
    assert_eq!((refused.rcode, refused.answers), (5, 0));
    assert_eq!(
        unnamed.ask(&query(2, "ns7.example.", Rtype::TXT)).answers,
        1
    );
    assert_eq!(tls.shutdown().transfers, 1);
}

#[test]
fn shutdown_answers_what_is_under_way_and_closes_in_order() {
    for _ in 0..5 {
        let tls = Tls::new(default_listen());
        let mut secrets: Vec<_> = (0..5).map(|_| tls.open()).collect();
        for secret in &mut secrets {
            assert_eq!(secret.ask(&www(1_000)).id, 1_000);
        }
        // It has begun a handshake, and does not finish it.
        let mut begun = Connection::open(tls.address());
        tls.until("there", |totals| totals.tls_open == 6);
        let requests: Vec<_> = (0..200).flat_map(|id| framed(&www(id))).collect();
        for secret in &mut secrets {
            secret.send(&requests);
        }
        let totals = tls.shutdown();
        assert_eq!(totals.tls_requests, 5 * 201);
        for secret in &mut secrets {
            for id in 0..200 {
                assert_eq!(secret.receive().id, id);
            }
            // With the word that it is the end: without it this fails.
            assert_eq!(secret.0.read(&mut [0]).expect("an end in order"), 0);
        }
        begun.ends();
    }
}

/// The client asks for 4 kB again and again and reads nothing.
#[test]
fn client_that_reads_nothing_is_left() {
    let mut listen = default_listen();
    listen.tcp.write_timeout = Duration::from_millis(300);
    let tls = Tls::new(listen);
    let mut secret = tls.open();
    let requests = framed(&query(1, "big.example.", Rtype::TXT)).repeat(1_000);
    while secret.0.write_all(&requests).is_ok() && secret.0.flush().is_ok() {}
    tls.until("counted", |totals| totals.tcp_slow == 1);
    assert_eq!(tls.open().ask(&www(1)).answers, 1);
    tls.shutdown();
}
