//! What is different where nobody reads on the way: sizes say little (RFC 7830), transfers need
//! the name of the protocol (RFC 9103), and over QUIC there are none, nor is anything signed.

use cfgdns_core::{Arrival, End, Local, Outcome, State, Transport, respond};
use cfgdns_zone::Rtype;

use crate::transfers::state_with;
use crate::transfers::{all, assert_same, large_zone, moment, records, records_of};
use crate::{CLIENT, arrival, send, state};
use cfgdns_testing::message::{AA, Message, TC, opt, query, transfer as request};

const TLS: Transport = Transport::Tls { dot: true };
/// RFC 8467 4.1.
const BLOCK: usize = 468;
const PADDING: u16 = 12;

/// An OPT record that asks for padding, and is padded itself.
fn padded(octets: usize) -> Vec<u8> {
    opt(1_232, 0, &[(PADDING, &vec![0; octets])])
}

#[test]
fn padded_request_gets_whole_blocks_where_nobody_reads_on_the_way() {
    let state = state();
    for (name, rtype, rcode) in [
        ("www.example.", Rtype::A, 0),
        ("none.example.", Rtype::A, 3),
        ("example.org.", Rtype::A, 5),
        ("big.example.", Rtype::TXT, 0),
        ("far.example.", Rtype::SRV, 0),
    ] {
        for octets in [0, 1, 100] {
            let request = query(name, rtype, Some(padded(octets)));
            let octets = send(&state, TLS, &request);
            assert_eq!(send(&state, Transport::Quic, &request), octets);
            let reply = Message::read(&octets);
            assert_eq!(octets.len() % BLOCK, 0, "{name}: {} octets", octets.len());
            assert_eq!((reply.rcode(), reply.has(TC)), (rcode, false), "{name}");
            let padding = reply.option(PADDING).expect("padding");
            assert!(padding.len() < BLOCK && padding.iter().all(|octet| *octet == 0));
            // But for that it is the reply of TCP, where padding would hide nothing (RFC 7830 6).
            let tcp = Message::read(&send(&state, Transport::Tcp, &request));
            assert_eq!(tcp.option(PADDING), None);
            assert_eq!(tcp.octets + 4 + padding.len(), octets.len());
            assert_eq!((tcp.answer, tcp.authority), (reply.answer, reply.authority));
            let udp = Message::read(&send(&state, Transport::Udp, &request));
            assert_eq!(udp.option(PADDING), None);
        }
    }
}

#[test]
fn request_without_padding_gets_what_it_gets_over_tcp() {
    let state = state();
    for opt in [None, Some(opt(1_232, 0x8000, &[(3, b"")]))] {
        for name in ["www.example.", "none.example.", "big.example."] {
            let request = query(name, Rtype::TXT, opt.clone());
            let tcp = send(&state, Transport::Tcp, &request);
            assert_eq!(send(&state, TLS, &request), tcp);
            assert_eq!(send(&state, Transport::Quic, &request), tcp);
            // Who did not name the protocol is answered all the same (RFC 7858).
            assert_eq!(send(&state, Transport::Tls { dot: false }, &request), tcp);
        }
    }
}

/// What has no room in 140 blocks is cut, and the rest is still whole blocks.
#[test]
fn reply_that_is_too_large_is_cut_to_whole_blocks() {
    let mut zone = large_zone();
    for number in 0..400 {
        let text = format!("\"{number:0>200}\"");
        crate::transfers::insert(&mut zone, "huge", Rtype::TXT, &text);
    }
    let state = state_with(&zone);
    let octets = send(
        &state,
        TLS,
        &query("huge.example.", Rtype::TXT, Some(padded(9))),
    );
    let reply = Message::read(&octets);
    assert!(reply.has(TC) && reply.answer.is_empty());
    assert_eq!(octets.len(), BLOCK);
}

fn outcome(state: &State, transport: Transport, request: &[u8]) -> Outcome {
    let arrival: Arrival = arrival(transport, CLIENT, 1_000);
    respond(state, Local::default(), &arrival, request)
}

/// RFC 9103 7.1: "dot" must have been selected.
#[test]
fn transfer_needs_the_name_of_the_protocol() {
    let state = state();
    for (rtype, since) in [(Rtype::AXFR, None), (Rtype::IXFR, Some(5))] {
        let request = request("example.", rtype, since, Some(opt(1_232, 0, &[])));
        assert!(matches!(outcome(&state, TLS, &request), Outcome::Stream(_)));
        for refusing in [Transport::Tls { dot: false }, Transport::Quic] {
            let reply = Message::read(&send(&state, refusing, &request));
            assert_eq!((reply.rcode(), reply.has(AA)), (5, false));
            assert_eq!(reply.option(15), Some(&[0, 21][..]));
        }
    }
}

#[test]
fn messages_of_a_padded_transfer_are_whole_blocks_and_say_the_whole_zone() {
    let zone = large_zone();
    let mut state = state_with(&zone);
    let request = request("example.", Rtype::AXFR, None, Some(padded(3)));
    let Outcome::Stream(stream) = outcome(&state, TLS, &request) else {
        panic!("no transfer");
    };
    let messages = all(&state, stream.clone());
    assert!(messages.len() > 3);
    for message in &messages {
        assert_eq!(message.len() % BLOCK, 0, "{} octets", message.len());
        assert!(Message::read(message).option(PADDING).is_some());
    }
    assert_same(&records(&messages), &records_of(&zone));
    // One that fails says so in whole blocks too.
    let mut cut = stream;
    cut.next(&state, moment(1_000)).expect("a first message");
    state.freshness = cfgdns_core::Freshness::Lost;
    let last = cut.next(&state, moment(1_000)).expect("that it failed");
    assert_eq!((Message::read(&last).rcode(), last.len()), (2, BLOCK));
    assert_eq!(cut.end(), Some(End::NotFresh));
}
