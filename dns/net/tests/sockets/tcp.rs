//! What TCP clients see.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cfgdns_core::Freshness;
use cfgdns_zone::Rtype;

use crate::client::{Connection, ask, framed, query, query_edns, www};
use crate::{PATIENCE, Running, listen, number, state};

/// RFC 7766 6.2.1.1: a client need not wait for one reply before it asks again.
#[test]
fn pipelined_requests_are_all_answered() {
    let running = Running::new(&listen(&["127.0.0.1:0", "[::1]:0"]));
    for address in running.server.addresses() {
        let mut connection = Connection::open(*address);
        let requests: Vec<_> = (0..500).flat_map(|id| framed(&www(id))).collect();
        connection.send(&requests);
        for id in 0..500 {
            let reply = connection.receive();
            assert_eq!((reply.id, reply.answers), (id, 1));
        }
    }
    let totals = running.shutdown();
    assert_eq!((totals.tcp_requests, totals.replies[0]), (1_000, 1_000));
    assert_eq!((totals.tcp_accepted, totals.udp_requests), (2, 0));
}

#[test]
fn request_octet_by_octet_is_answered_once_it_is_whole() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let mut connection = Connection::open(running.address());
    for octet in framed(&www(7)) {
        connection.send(&[octet]);
    }
    assert_eq!(connection.receive().id, 7);
    // The end of one and the beginning of the next in one segment.
    let both = [framed(&www(8)), framed(&www(9))].concat();
    let (first, second) = both.split_at(both.len() / 2 + 5);
    connection.send(first);
    assert_eq!(connection.receive().id, 8);
    connection.send(second);
    assert_eq!(connection.receive().id, 9);
    running.shutdown();
}

#[test]
fn client_that_closes_its_side_gets_its_replies_and_then_the_end() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let mut connection = Connection::open(running.address());
    let requests: Vec<_> = (0..100).flat_map(|id| framed(&www(id))).collect();
    connection.send(&requests);
    connection.0.shutdown(Shutdown::Write).expect("closed");
    for id in 0..100 {
        assert_eq!(connection.receive().id, id);
    }
    connection.ends();
    running.until("closed", |totals| totals.tcp_open == 0);
    running.shutdown();
}

#[test]
fn message_without_a_header_ends_the_connection() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let mut reply = www(1);
    reply[2] |= 0x80;
    for garbage in [vec![0, 0], framed(b"short"), framed(&reply)] {
        let mut connection = Connection::open(running.address());
        assert_eq!(connection.ask(&www(1)).id, 1);
        connection.send(&garbage);
        connection.ends();
    }
    running.until("counted", |totals| totals.tcp_failed == 3);
    running.shutdown();
}

/// The kernel resets a connection that is closed with unread octets.
#[test]
fn end_before_all_was_read_takes_no_reply_away() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let mut connection = Connection::open(running.address());
    let all = [&framed(&www(1))[..], &vec![0; 30_000]].concat();
    connection.send(&all);
    running.until("over", |totals| {
        totals.tcp_failed == 1 && totals.tcp_open == 0
    });
    // This client has the reply already, and Linux would keep it: that there was no reset is asked.
    let reset = connection.0.take_error().expect("a socket");
    assert!(reset.is_none(), "{reset:?}");
    assert_eq!(connection.receive().id, 1);
    connection.ends();
    running.shutdown();
}

#[test]
fn idle_connection_is_closed_and_counted() {
    let mut listen = listen(&["127.0.0.1:0"]);
    listen.tcp.idle_timeout = Duration::from_millis(50);
    let running = Running::new(&listen);
    Connection::open(running.address()).ends();
    // Half a request is none.
    let mut connection = Connection::open(running.address());
    connection.send(&framed(&www(1))[..20]);
    connection.ends();
    running.until("counted", |totals| totals.tcp_idle == 2);
    running.shutdown();
}

/// The client asks for 4 kB again and again and reads nothing: all buffers of the kernel fill, and
/// the server stops reading, so that the client cannot write either.
#[test]
fn client_that_reads_nothing_is_left() {
    let mut listen = listen(&["127.0.0.1:0"]);
    listen.tcp.write_timeout = Duration::from_millis(300);
    let running = Running::new(&listen);
    let mut connection = Connection::open(running.address());
    let requests = framed(&query(1, "big.example.", Rtype::TXT)).repeat(1_000);
    let error = loop {
        if let Err(error) = connection.0.write_all(&requests) {
            break error.kind();
        }
    };
    assert!(
        [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error),
        "{error:?}"
    );
    running.until("counted", |totals| totals.tcp_slow == 1);
    assert_eq!(ask(running.address(), &www(1)).answers, 1);
    running.shutdown();
}

#[test]
fn connection_that_is_idle_for_longest_makes_room() {
    let mut listen = listen(&["127.0.0.1:0"]);
    listen.tcp.connections = number(3);
    let running = Running::new(&listen);
    let mut connections: Vec<_> = (0..3)
        .map(|_| Connection::open(running.address()))
        .collect();
    for place in [1, 2, 0] {
        assert_eq!(connections[place].ask(&www(1)).id, 1);
    }
    // Idle is who has its reply and whose task knows that it is written.
    let mut fourth = Connection::open(running.address());
    assert_eq!(fourth.ask(&www(4)).id, 4);
    let totals = running.until("evicted", |totals| totals.tcp_evicted == 1);
    assert_eq!((totals.tcp_open, totals.tcp_refused), (3, 0));
    connections[1].ends();
    for place in [0, 2] {
        assert_eq!(connections[place].ask(&www(5)).id, 5);
    }
    running.shutdown();
}

/// A connection that cannot write is not idle: it keeps its place until its time is over.
#[test]
fn new_connection_is_refused_when_none_is_idle() {
    let mut listen = listen(&["127.0.0.1:0"]);
    listen.tcp.connections_per_client = number(1);
    listen
        .addresses
        .push("[::1]:0".parse().expect("an address"));
    let running = Running::new(&listen);
    // Another client: its replies show that the thread of all connections had its turn.
    let mut other = Connection::open(running.server.addresses()[1]);
    let mut busy = Connection::open(running.address());
    busy.0.set_nonblocking(true).expect("set");
    let requests = framed(&query(1, "big.example.", Rtype::TXT)).repeat(100);
    let mut requests = requests.iter().copied().cycle();
    // Until the server takes no more, whenever it had its turn: then it cannot write.
    let mut rest = Vec::new();
    let mut full = 0;
    while full < 100 {
        if rest.is_empty() {
            rest = requests.by_ref().take(10_000).collect();
        }
        match busy.0.write(&rest) {
            Ok(count) => {
                rest.drain(..count);
                full = 0;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                full += 1;
                assert_eq!(other.ask(&www(2)).id, 2);
            }
        }
    }
    Connection::open(running.address()).ends();
    let totals = running.until("refused", |totals| totals.tcp_refused == 1);
    assert_eq!((totals.tcp_open, totals.tcp_evicted), (2, 0));
    drop(busy);
    running.until("gone", |totals| totals.tcp_open == 1);
    assert_eq!(Connection::open(running.address()).ask(&www(3)).id, 3);
    running.shutdown();
}

#[test]
fn state_that_is_stored_is_seen_by_connections_that_are_open() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let mut connection = Connection::open(running.address());
    for number in 1..=20_u8 {
        let address = Ipv4Addr::new(192, 0, 2, number);
        let next = state(&address.to_string(), Freshness::Until(u64::MAX));
        running.shared.store(Arc::new(next));
        assert_eq!(connection.ask(&www(1)).address(), address);
    }
    running
        .shared
        .store(Arc::new(state("192.0.2.1", Freshness::Lost)));
    let reply = connection.ask(&query_edns(1, "www.example.", Rtype::A));
    assert_eq!((reply.rcode, reply.answers), (2, 0));
    assert_eq!(reply.octets[reply.octets.len() - 6..], [0, 15, 0, 2, 0, 24]);
    running.shutdown();
}

#[test]
fn shutdown_answers_what_is_under_way_and_closes() {
    for tcp_threads in [1, 2].repeat(5) {
        let mut listen = listen(&["127.0.0.1:0"]);
        listen.tcp_threads = NonZeroU16::new(tcp_threads).expect("not zero");
        let running = Running::new(&listen);
        let mut connections: Vec<_> = (0..5)
            .map(|_| Connection::open(running.address()))
            .collect();
        // Who was answered once is accepted.
        for connection in &mut connections {
            assert_eq!(connection.ask(&www(1_000)).id, 1_000);
        }
        let requests: Vec<_> = (0..200).flat_map(|id| framed(&www(id))).collect();
        for connection in &mut connections {
            connection.send(&requests);
        }
        let totals = running.shutdown();
        assert_eq!(totals.replies[0], 5 * 201);
        for connection in &mut connections {
            for id in 0..200 {
                assert_eq!(connection.receive().id, id);
            }
            connection.ends();
        }
    }
}

#[test]
fn shutdown_does_not_wait_for_a_client_that_reads_nothing() {
    let mut listen = listen(&["127.0.0.1:0"]);
    listen.shutdown_timeout = Duration::from_millis(100);
    listen.tcp.write_timeout = 10 * PATIENCE;
    let running = Running::new(&listen);
    let mut connection = Connection::open(running.address());
    let requests = framed(&query(1, "big.example.", Rtype::TXT)).repeat(2_000);
    connection.send(&requests);
    // Its replies, eight million octets, are more than the buffers of the kernel hold.
    assert_eq!(connection.receive().id, 1);
    let asked = Instant::now();
    let totals = running.shutdown();
    assert!(asked.elapsed() < PATIENCE, "it waits for the client");
    assert!((1..2_000).contains(&totals.tcp_requests), "{totals:?}");
    let mut rest = Vec::new();
    // The end, in order or not.
    let _ = connection.0.read_to_end(&mut rest);
}

#[test]
fn transfer_is_refused_as_long_as_nobody_may_have_one() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let mut connection = Connection::open(running.address());
    let plain = connection.ask(&query(5, "example.", Rtype::AXFR));
    assert_eq!((plain.id, plain.rcode, plain.octets[11]), (5, 5, 0));
    let edns = connection.ask(&query_edns(6, "example.", Rtype::AXFR));
    assert_eq!((edns.id, edns.rcode, edns.octets[11]), (6, 5, 1));
    running.shutdown();
}
