//! Transfers of zones: what is sent to a secondary, message by message, and to whom.

use std::sync::Arc;

use cfgdns_core::{
    Acl, End, Freshness, Local, Moment, Outcome, STREAM_OCTETS, State, Stream, Transport, Tree,
    Zones, respond,
};
use cfgdns_zone::{Name, Rdata, Rtype, Zone};
use expect_test::expect;

use crate::{CLIENT, arrival, send, state, tcp, udp};
use cfgdns_testing::message::{
    AA, Message, RD, Record, hex, message, opt, query, question, transfer as request,
};
use cfgdns_testing::zones::name;

/// The stream that a request over TCP begins.
pub(crate) fn stream(state: &State, request: &[u8]) -> Stream {
    match respond(
        state,
        Local::default(),
        &arrival(Transport::Tcp, CLIENT, 1_000),
        request,
    ) {
        Outcome::Stream(stream) => stream,
        other @ (Outcome::Silence | Outcome::Send(_)) => panic!("{other:?}"),
    }
}

pub(crate) fn moment(monotonic_ms: u64) -> Moment {
    arrival(Transport::Tcp, CLIENT, monotonic_ms).now
}

/// All messages of a stream that ends as it should.
pub(crate) fn all(state: &State, mut stream: Stream) -> Vec<Vec<u8>> {
    let messages: Vec<_> = std::iter::from_fn(|| stream.next(state, moment(1_000))).collect();
    assert_eq!(stream.end(), Some(End::Complete));
    assert_eq!(
        stream.messages(),
        u64::try_from(messages.len()).expect("few")
    );
    messages
}

pub(crate) fn records(messages: &[Vec<u8>]) -> Vec<Record> {
    let answers = messages.iter().map(|octets| Message::read(octets).answer);
    answers.flatten().collect()
}

/// The records of a zone as a transfer has them: the SOA first and last.
pub(crate) fn records_of(zone: &Zone) -> Vec<Record> {
    let mut records = Vec::new();
    for (name, node) in zone.nodes() {
        for set in node.sets() {
            records.extend(set.data().iter().map(|data| Record {
                name: name.clone(),
                rtype: set.rtype(),
                class: 1,
                ttl: set.ttl(),
                data: data.as_wire().to_vec(),
            }));
        }
    }
    let soa = records.iter().position(|record| record.rtype == Rtype::SOA);
    let soa = records.remove(soa.expect("a zone has an SOA"));
    let soa = std::slice::from_ref(&soa);
    [soa, &records, soa].concat()
}

/// Equal to the last octet: names in the same case.
pub(crate) fn assert_same(found: &[Record], expected: &[Record]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
        assert_eq!(found.name.as_wire(), expected.name.as_wire());
    }
}

pub(crate) fn insert(zone: &mut Zone, owner: &str, rtype: Rtype, text: &str) {
    let data = Rdata::parse(rtype, text, Some(zone.origin())).expect(text);
    let owner = Name::parse(owner.as_bytes(), Some(zone.origin())).expect("a name");
    zone.insert(&owner, rtype, 3_600, data)
        .expect("in the zone");
}

/// A zone with what a transfer could lose: glue, data that a delegation hides, names that only have
/// something below them, names in several cases, a wildcard.
pub(crate) fn small_zone(serial: u32) -> Zone {
    let mut zone = Zone::new(name("eXample."));
    for (owner, rtype, text) in [
        (
            "@",
            Rtype::SOA,
            &*format!("ns1 root {serial} 3600 600 604800 60"),
        ),
        ("@", Rtype::NS, "NS1"),
        ("@", Rtype::NS, "ns.other."),
        ("ns1", Rtype::A, "192.0.2.1"),
        ("Www.Deep", Rtype::A, "192.0.2.2"),
        ("www.deep", Rtype::TXT, "\"a text\""),
        ("sub", Rtype::NS, "ns.SUB"),
        ("sub", Rtype::DS, "1 8 250 00"),
        ("ns.sub", Rtype::A, "192.0.2.4"),
        ("hidden.sub", Rtype::TXT, "hidden"),
        ("*.wild", Rtype::MX, "10 Mail.Example."),
        ("old", Rtype::DNAME, "new"),
    ] {
        insert(&mut zone, owner, rtype, text);
    }
    zone
}

/// A zone of many messages: a set that none of 16 KiB holds, a record that none of them holds, and
/// 3,000 names.
pub(crate) fn large_zone() -> Zone {
    let mut zone = small_zone(7);
    for number in 0..3_000 {
        insert(&mut zone, &format!("host{number}.x"), Rtype::A, "192.0.2.9");
        let target = format!("1 target{number}");
        insert(&mut zone, "many", Rtype::MX, &target);
    }
    let strings = vec![format!("\"{}\"", "t".repeat(255)); 250].join(" ");
    insert(&mut zone, "text", Rtype::TXT, &strings);
    zone
}

pub(crate) fn state_with(zone: &Zone) -> State {
    let mut state = state();
    let tree = Tree::build(zone).expect("it has an SOA");
    state.zones = Zones::new([Arc::new(tree)]);
    state
}

/// RFC 5936 2.2: one SOA first, one last, everything else between, the question as it came; 2.2.1
/// AA and no TC; 3.4 names in the case of the zone; 3.5 what a delegation hides is there; RFC 7314:
/// for how long it may be served.
#[test]
fn whole_zone_goes_over_tcp_with_its_soa_first_and_last() {
    let zone = small_zone(7);
    let state = state_with(&zone);
    let expire = opt(1_232, 0x8000, &[(3, b""), (9, b""), (19, b"")]);
    let request = request("EXAMPLE.", Rtype::AXFR, None, Some(expire));
    let messages = all(&state, stream(&state, &request));
    let [only] = &messages[..] else {
        panic!("{} messages", messages.len());
    };
    let reply = Message::read(only);
    assert_same(&reply.answer, &records_of(&zone));
    expect![[r#"
        407 octets, NOERROR aa
        opt: version 0 udp 1232 do, nsid ns1.colo-a, zoneversion 1 0 7, expire 604800
        question: EXAMPLE. AXFR
        answer: eXample. 3600 SOA ns1.eXample. root.eXample. 7 3600 600 604800 60
        answer: eXample. 3600 NS ns.other.
        answer: eXample. 3600 NS NS1.eXample.
        answer: Www.Deep.eXample. 3600 A 192.0.2.2
        answer: Www.Deep.eXample. 3600 TXT "a text"
        answer: ns1.eXample. 3600 A 192.0.2.1
        answer: old.eXample. 3600 DNAME new.eXample.
        answer: sub.eXample. 3600 NS ns.SUB.eXample.
        answer: sub.eXample. 3600 DS 1 8 250 00
        answer: hidden.sub.eXample. 3600 TXT "hidden"
        answer: ns.sub.eXample. 3600 A 192.0.2.4
        answer: *.wild.eXample. 3600 MX 10 Mail.Example.
        answer: eXample. 3600 SOA ns1.eXample. root.eXample. 7 3600 600 604800 60
    "#]]
    .assert_eq(&reply.text());
}

/// RFC 5936 2.2: the question is in the first message only, as BIND and NSD do, and a set may be in
/// several messages.
#[test]
pub(crate) fn large_zone_goes_in_messages_that_pointers_reach_through() {
    let zone = large_zone();
    let state = state_with(&zone);
    for opt in [None, Some(opt(1_232, 0, &[(9, b"")]))] {
        let edns = opt.is_some();
        let request = request("example.", Rtype::AXFR, None, opt);
        let messages = all(&state, stream(&state, &request));
        assert_same(&records(&messages), &records_of(&zone));
        assert!(messages.len() > 10);
        let mut large = 0;
        for (number, octets) in messages.iter().enumerate() {
            let reply = Message::read(octets);
            assert_eq!((reply.id, reply.flags), (0x1234, 0x8400));
            assert_eq!(reply.question.is_empty(), number > 0);
            assert_eq!(reply.opt.is_some(), edns);
            assert_eq!(reply.option(9).is_some(), edns && number == 0);
            assert!(reply.authority.is_empty() && reply.additional.is_empty());
            if octets.len() > STREAM_OCTETS {
                large += 1;
                assert!(octets.len() < 65_536);
                assert!(
                    reply
                        .answer
                        .iter()
                        .any(|record| record.data.len() == 64_000)
                );
            }
        }
        assert_eq!(large, 1);
    }
}

/// RFC 5936 5: nobody, unless it is said; RFC 8914 4.19.
#[test]
fn transfer_is_refused_to_whom_it_is_not_allowed() {
    let mut state = state_with(&small_zone(7));
    let opt = || Some(opt(1_232, 0, &[]));
    let axfr = request("example.", Rtype::AXFR, None, opt());
    let ixfr = request("example.", Rtype::IXFR, Some(6), opt());
    for acl in [
        Acl::nobody(),
        Acl::new(vec!["198.51.100.0/24".parse().expect("a network")]),
    ] {
        state.settings.transfers = acl;
        for reply in [tcp(&state, &axfr), tcp(&state, &ixfr), udp(&state, &ixfr)] {
            assert_eq!((reply.rcode(), reply.has(AA)), (5, false));
            assert_eq!(reply.option(15), Some(&[0, 18][..]));
            assert!(reply.answer.is_empty());
        }
    }
    state.settings.transfers = Acl::new(vec!["key a.key".parse().expect("an entry")]);
    assert_eq!(tcp(&state, &axfr).rcode(), 5);
    state.settings.transfers = Acl::new(vec!["any".parse().expect("an entry")]);
    assert_eq!(stream(&state, &axfr).zone().soa().serial, 7);
}

/// RFC 5936 2.2.1 (not ours), 4.2 (not over UDP), RFC 1995 3 (an incremental one says a serial).
#[test]
fn transfer_of_another_zone_or_over_udp_is_an_error() {
    let state = state();
    let opt = || Some(opt(1_232, 0, &[]));
    for rtype in [Rtype::AXFR, Rtype::IXFR] {
        for name in ["example.org.", "www.example.", "sub.example."] {
            let reply = tcp(&state, &request(name, rtype, Some(5), opt()));
            assert_eq!((reply.rcode(), reply.option(15)), (9, Some(&[0, 20][..])));
        }
    }
    let reply = udp(&state, &request("example.", Rtype::AXFR, None, opt()));
    assert_eq!((reply.rcode(), reply.option(15)), (5, Some(&[0, 21][..])));
    for transport in [Transport::Tcp, Transport::Udp] {
        let request = query("example.", Rtype::IXFR, None);
        assert_eq!(Message::read(&send(&state, transport, &request)).rcode(), 1);
    }
}

/// RFC 1995 2: who has this version, or a newer one, gets the SOA alone; over UDP so does whoever
/// needs more than a message holds.
#[test]
fn incremental_transfer_of_what_the_client_has_is_the_soa_alone() {
    let state = state();
    let expire = || Some(opt(1_232, 0, &[(9, b"")]));
    let text = expect![[r#"
        89 octets, NOERROR aa
        opt: version 0 udp 1232, expire 604800
        question: example. IXFR
        answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60
    "#]];
    for since in [7, 8, 0x7fff_ffff] {
        let request = request("example.", Rtype::IXFR, Some(since), expire());
        let [reply] = &all(&state, stream(&state, &request))[..] else {
            panic!("more than one message");
        };
        text.assert_eq(&Message::read(reply).text());
        text.assert_eq(&udp(&state, &request).text());
    }
    // This zone does not fit into a datagram.
    text.assert_eq(&udp(&state, &request("example.", Rtype::IXFR, Some(6), expire())).text());
}

/// RFC 1995 2 and 4: without the history that is asked for it is the whole zone, by UDP too where
/// that fits.
#[test]
fn incremental_transfer_without_history_is_the_whole_zone() {
    let mut zone = small_zone(7);
    insert(&mut zone, "text", Rtype::TXT, &"t".repeat(200));
    let state = state_with(&zone);
    for since in [6, 0x8000_0008, 0xffff_ffff] {
        let over = |octets| {
            request(
                "example.",
                Rtype::IXFR,
                Some(since),
                Some(opt(octets, 0, &[])),
            )
        };
        let messages = all(&state, stream(&state, &over(1_232)));
        assert_same(&records(&messages), &records_of(&zone));
        assert_same(&udp(&state, &over(1_232)).answer, &records_of(&zone));
        assert_eq!(udp(&state, &over(300)).answer.len(), 1);
    }
}

/// RFC 5936 2.2: an error ends a transfer. Nothing of a zone leaves a server that is not fresh,
/// also when it was when the transfer began.
#[test]
fn transfer_ends_without_its_closing_soa_when_the_server_is_not_fresh_any_more() {
    let zone = large_zone();
    let mut state = state_with(&zone);
    let request = request(
        "example.",
        Rtype::AXFR,
        None,
        Some(opt(1_232, 0, &[(9, b"")])),
    );
    for (freshness, at_ms) in [(Freshness::Until(10_000), 10_000), (Freshness::Lost, 1_000)] {
        state.freshness = Freshness::Until(10_000);
        let mut stream = stream(&state, &request);
        let first = stream.next(&state, moment(9_999)).expect("a message");
        assert_eq!(Message::read(&first).rcode(), 0);
        state.freshness = freshness;
        let last = stream.next(&state, moment(at_ms)).expect("an error");
        expect![[r#"
            42 octets, SERVFAIL
            opt: version 0 udp 1232, ede 24
            question: example. AXFR
        "#]]
        .assert_eq(&Message::read(&last).text());
        assert_eq!(stream.end(), Some(End::NotFresh));
        // It does not go on when the server is fresh again: nobody waits for it.
        state.freshness = Freshness::Until(20_000);
        assert_eq!(stream.next(&state, moment(1_000)), None);
    }
}

#[test]
fn zone_that_changes_during_its_transfer_is_sent_as_it_was() {
    let zone = large_zone();
    let mut state = state_with(&zone);
    let mut stream = stream(&state, &request("example.", Rtype::AXFR, None, None));
    let mut messages = vec![stream.next(&state, moment(1_000)).expect("a message")];
    state.zones = state_with(&small_zone(8)).zones;
    messages.extend(std::iter::from_fn(|| stream.next(&state, moment(1_000))));
    assert_same(&records(&messages), &records_of(&zone));
    assert_eq!(stream.end(), Some(End::Complete));
}

/// The rules of a zone keep such records out; a transfer does not say that it is whole without it.
#[test]
fn record_that_fits_into_no_message_fails_the_transfer() {
    let mut zone = small_zone(7);
    let data = Rdata::from_wire(Rtype(65_280), &vec![7; 65_520]).expect("of an unknown type");
    zone.insert(&name("a.example."), Rtype(65_280), 60, data)
        .expect("in the zone");
    let state = state_with(&zone);
    let mut stream = stream(&state, &request("example.", Rtype::AXFR, None, None));
    let replies: Vec<_> = std::iter::from_fn(|| stream.next(&state, moment(1_000))).collect();
    let rcodes: Vec<_> = replies
        .iter()
        .map(|octets| Message::read(octets).rcode())
        .collect();
    assert_eq!((rcodes, stream.end()), (vec![0, 2], Some(End::TooLarge)));
}

/// RFC 1035 4.1.1: as in every reply.
#[test]
fn flags_of_the_request_come_back_as_in_every_reply() {
    let state = state_with(&small_zone(7));
    let asked = [question("example.", Rtype::AXFR, 1)];
    let messages = all(
        &state,
        stream(&state, &message(RD | 0x30, [&asked, &[], &[], &[]])),
    );
    assert_eq!(hex(&messages[0][..4]), "12348500");
}
