//! What UDP clients see.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use cfgdns_core::Freshness;
use cfgdns_zone::Rtype;
use proptest::prelude::*;

use crate::client::{ask, query, query_edns, receive, socket, www};
use crate::{Running, listen, rate_limit, state};

/// RFC 2181 4.1. The addresses of one batch are many.
#[test]
fn reply_leaves_from_the_address_that_was_asked_on_wildcards() {
    let running = Running::new(&listen(&["0.0.0.0:0", "[::]:0"]));
    let [v4, v6] = *running.server.addresses() else {
        panic!("two addresses");
    };
    let socket4 = socket(v4);
    let asked = |id: u16| {
        let [high, low] = (id / 3 + 1).to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(127, 0, high, low), v4.port()))
    };
    // As many as the buffer of the client holds.
    for id in 0..200 {
        socket4.send_to(&www(id), asked(id)).expect("sent");
    }
    let mut ids = BTreeSet::new();
    for _ in 0..200 {
        let (reply, from) = receive(&socket4);
        assert_eq!((reply.rcode, reply.answers), (0, 1));
        assert_eq!(from, asked(reply.id));
        ids.insert(reply.id);
    }
    assert_eq!(ids.len(), 200);
    let loopback = SocketAddr::new("::1".parse().expect("an address"), v6.port());
    for id in 0..5 {
        assert_eq!(ask(loopback, &www(id)).id, id);
    }
    running.shutdown();
}

#[test]
fn each_address_answers_from_itself_and_from_its_own_port() {
    let running = Running::new(&listen(&["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"]));
    for (number, address) in running.server.addresses().iter().enumerate() {
        let id = u16::try_from(number).expect("few");
        assert_eq!(ask(*address, &www(id)).id, id);
    }
    let totals = running.shutdown();
    assert_eq!((totals.udp_requests, totals.replies[0]), (3, 3));
    assert_eq!(totals.udp_batches[0], 3);
}

#[test]
fn state_that_is_stored_is_what_the_next_request_is_answered_from() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    for number in 1..=50_u8 {
        let www_address = Ipv4Addr::new(192, 0, 2, number);
        let next = state(&www_address.to_string(), Freshness::Until(u64::MAX));
        running.shared.store(Arc::new(next));
        let reply = ask(running.address(), &www(u16::from(number)));
        assert_eq!(reply.address(), www_address);
    }
    running.shutdown();
}

/// Silence is what costs clients most: a fenced server says SERVFAIL, and why (RFC 8914).
#[test]
fn server_that_is_not_fresh_says_so() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let now = cfgdns_net::now().monotonic_ms;
    for (freshness, extended_error) in [
        (Freshness::Never, 14),
        (Freshness::Lost, 24),
        (Freshness::Until(now), 24),
    ] {
        running
            .shared
            .store(Arc::new(state("192.0.2.1", freshness)));
        let reply = ask(running.address(), &query_edns(1, "www.example.", Rtype::A));
        assert_eq!((reply.rcode, reply.answers), (2, 0));
        assert_eq!(reply.octets[2] & 4, 0, "without AA");
        assert_eq!(
            reply.octets[reply.octets.len() - 6..],
            [0, 15, 0, 2, 0, extended_error]
        );
    }
    let later = Freshness::Until(now + 3_600_000);
    running.shared.store(Arc::new(state("192.0.2.1", later)));
    assert_eq!(ask(running.address(), &www(1)).rcode, 0);
    assert_eq!(running.shutdown().replies[2], 3);
}

#[test]
fn large_reply_is_truncated_and_comes_whole_over_tcp() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let big = query(7, "big.example.", Rtype::TXT);
    let reply = ask(running.address(), &big);
    assert!(reply.truncated && reply.octets.len() <= 512);
    let reply = crate::client::Connection::open(running.address()).ask(&big);
    assert_eq!((reply.truncated, reply.answers), (false, 40));
    assert_eq!(running.shutdown().truncated, 1);
}

#[test]
fn request_that_is_too_long_for_a_datagram_gets_an_error_with_its_id() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let mut request = www(0x1234);
    request.resize(9_000, 0);
    let reply = ask(running.address(), &request);
    assert_eq!((reply.id, reply.rcode), (0x1234, 1));
    running.shutdown();
}

#[test]
fn rate_limit_holds_for_an_address_whatever_ports_are_used() {
    let mut listen = listen(&["127.0.0.1:0"]);
    listen.rate_limit = Some(rate_limit(4));
    listen.udp_threads = NonZeroU16::new(2).expect("two");
    let running = Running::new(&listen);
    let before = Instant::now();
    for _ in 0..10 {
        let socket = socket(running.address());
        for id in 0..20 {
            socket.send_to(&www(id), running.address()).expect("sent");
        }
    }
    running.until("all read", |totals| totals.udp_requests == 200);
    let seconds = before.elapsed().as_secs() + 1;
    let totals = running.shutdown();
    let (replies, limited) = (totals.replies[0], totals.limited);
    assert_eq!(replies + limited, 200);
    assert!(
        (2..=4 * (seconds + 1)).contains(&replies),
        "{replies} in {seconds} s"
    );
}

#[test]
fn without_a_rate_limit_everybody_gets_everything() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let socket = socket(running.address());
    for id in 0..200 {
        socket.send_to(&www(id), running.address()).expect("sent");
    }
    let ids: BTreeSet<_> = (0..200).map(|_| receive(&socket).0.id).collect();
    assert_eq!(ids.len(), 200);
    let totals = running.shutdown();
    assert_eq!(
        (totals.udp_requests, totals.replies[0], totals.limited),
        (200, 200, 0)
    );
}

/// Of a client that went away the kernel of its machine says so (ICMP), which is no error of ours.
#[test]
fn clients_that_are_gone_stop_nothing() {
    let running = Running::new(&listen(&["127.0.0.1:0", "[::1]:0"]));
    for address in running.server.addresses() {
        for id in 0..100 {
            let socket = socket(*address);
            socket.send_to(&www(id), *address).expect("sent");
        }
        assert_eq!(ask(*address, &www(1)).answers, 1);
    }
    let totals = running.shutdown();
    assert_eq!(totals.udp_requests, 202);
    assert_eq!(totals.replies[0], 202);
}

/// Two servers that take replies for requests would never end.
#[test]
fn reply_gets_no_reply() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let mut reply = www(1);
    reply[2] |= 0x80;
    let socket = socket(running.address());
    for request in [&reply[..], b"", b"short", &www(2)] {
        socket.send_to(request, running.address()).expect("sent");
    }
    assert_eq!(receive(&socket).0.id, 2);
    let totals = running.until("all read", |totals| totals.udp_requests == 4);
    assert_eq!((totals.ignored, totals.limited), (3, 0));
    running.shutdown();
}

/// What is sent over loopback is in the buffer of the server when the call returns.
#[test]
fn shutdown_answers_what_has_come() {
    for _ in 0..10 {
        let running = Running::new(&listen(&["127.0.0.1:0"]));
        let sockets: Vec<_> = (0..4).map(|_| socket(running.address())).collect();
        for socket in &sockets {
            for id in 0..40 {
                socket.send_to(&www(id), running.address()).expect("sent");
            }
        }
        let totals = running.shutdown();
        assert_eq!((totals.udp_requests, totals.replies[0]), (160, 160));
        for socket in &sockets {
            let ids: BTreeSet<_> = (0..40).map(|_| receive(socket).0.id).collect();
            assert_eq!(ids.len(), 40);
        }
    }
}

#[test]
fn arbitrary_datagrams_stop_nothing() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let address = running.address();
    let datagram = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        proptest::collection::vec(any::<u8>(), 64..4_000),
        // A request with a few octets changed.
        proptest::collection::vec((0_usize..40, any::<u8>()), 1..4).prop_map(|changes| {
            let mut octets = query_edns(1, "www.example.", Rtype::A);
            for (place, octet) in changes {
                let place = place % octets.len();
                octets[place] = octet;
            }
            octets
        }),
    ];
    let datagrams = proptest::collection::vec(datagram, 1..40);
    proptest!(|(datagrams in datagrams)| {
        let before = running.server.totals();
        let client = socket(address);
        for datagram in &datagrams {
            client.send_to(datagram, address).expect("sent");
        }
        // From enough ports that each thread is asked.
        for id in 0..16 {
            prop_assert_eq!(ask(address, &www(id)).answers, 1);
        }
        let all = before.udp_requests + datagrams.len() as u64 + 16;
        let totals = running.until("all read", |totals| totals.udp_requests == all);
        let replies: u64 = totals.replies.iter().sum();
        prop_assert_eq!(replies + totals.ignored, all, "each is answered or ignored");
    });
    let totals = running.shutdown();
    assert_eq!((totals.udp_unsent, totals.udp_receive_errors), (0, 0));
}

#[test]
fn own_addresses_are_told_with_their_ports() {
    let running = Running::new(&listen(&["127.0.0.1:0"]));
    let address = running.address();
    assert_eq!(address.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert_ne!(address.port(), 0);
    running.shutdown();
}
