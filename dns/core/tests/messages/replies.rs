//! Whole replies: their octets, what fits into them, and what a server that is not fresh says.

use std::fmt::Write as _;

use cfgdns_core::{Freshness, Identity, IdentityTooLong, State, Transport};
use cfgdns_zone::{Name, Rtype};
use expect_test::expect;

use crate::{send, state, tcp, udp};
use cfgdns_testing::message::{AA, Message, TC, hex, message, opt, query, question, record};

/// RFC 1035 4.1.4 (names that point back), RFC 3597 4 (the target of SRV is written out), RFC 1034
/// 4.3.2 3b (a referral without AA, with glue), RFC 6672 3.1, RFC 4592 3.3.
#[test]
fn messages_as_octets_and_as_text() {
    let state = state();
    let mut text = String::new();
    for (name, rtype) in [
        ("www.example.", Rtype::A),
        ("alias.example.", Rtype::A),
        ("example.", Rtype::MX),
        ("_sip._tcp.example.", Rtype::SRV),
        ("host.sub.example.", Rtype::A),
        ("host.old.example.", Rtype::A),
        ("a.wild.example.", Rtype::A),
        ("no.example.", Rtype::A),
    ] {
        let reply = send(&state, Transport::Udp, &query(name, rtype, None));
        let read = Message::read(&reply).text();
        for line in reply.chunks(32) {
            writeln!(text, "{}", hex(line)).expect("a string");
        }
        writeln!(text, "{read}").expect("a string");
    }
    expect![[r#"
        12348400000100010000000003777777076578616d706c650000010001c00c00
        01000100000e100004c0000203
        45 octets, NOERROR aa
        question: www.example. A
        answer: www.example. 3600 A 192.0.2.3

        12348400000100020000000005616c696173076578616d706c650000010001c0
        0c0005000100000e10000603777777c012c02b0001000100000e100004c00002
        03
        65 octets, NOERROR aa
        question: alias.example. A
        answer: alias.example. 3600 CNAME www.example.
        answer: www.example. 3600 A 192.0.2.3

        123484000001000100000001076578616d706c6500000f0001c00c000f000100
        000e100009000a046d61696cc00cc0270001000100000e100004c0000202
        62 octets, NOERROR aa
        question: example. MX
        answer: example. 3600 MX 10 mail.example.
        additional: mail.example. 3600 A 192.0.2.2

        123484000001000100000001045f736970045f746370076578616d706c650000
        210001c00c0021000100000e1000140000000013c4046d61696c076578616d70
        6c6500046d61696cc0160001000100000e100004c0000202
        88 octets, NOERROR aa
        question: _sip._tcp.example. SRV
        answer: _sip._tcp.example. 3600 SRV 0 0 5060 mail.example.
        additional: mail.example. 3600 A 192.0.2.2

        12348000000100000001000104686f737403737562076578616d706c65000001
        0001c0110002000100000e100005026e73c011c02e0001000100000e100004c0
        000204
        67 octets, NOERROR
        question: host.sub.example. A
        authority: sub.example. 3600 NS ns.sub.example.
        additional: ns.sub.example. 3600 A 192.0.2.4

        12348400000100030000000004686f7374036f6c64076578616d706c65000001
        0001c0110027000100000e10000d036e6577076578616d706c6500c00c000500
        0100000e10000b04686f7374036e6577c015c0470001000100000e100004c000
        0206
        98 octets, NOERROR aa
        question: host.old.example. A
        answer: old.example. 3600 DNAME new.example.
        answer: host.old.example. 3600 CNAME host.new.example.
        answer: host.new.example. 3600 A 192.0.2.6

        12348400000100010000000001610477696c64076578616d706c650000010001
        c00c0001000100000e100004c0000207
        48 octets, NOERROR aa
        question: a.wild.example. A
        answer: a.wild.example. 3600 A 192.0.2.7

        123484030001000000010000026e6f076578616d706c650000010001c00f0006
        00010000003c0021036e7331c00f04726f6f74c00f0000000700000e10000002
        5800093a800000003c
        73 octets, NXDOMAIN aa
        question: no.example. A
        authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

    "#]]
    .assert_eq(&text);
}

/// RFC 4343 4.1, and what resolvers do with "0x20".
#[test]
fn question_comes_back_in_the_case_that_it_was_asked_in() {
    let reply = udp(&state(), &query("wWw.eXaMpLe.", Rtype::A, None));
    assert_eq!(reply.question, question("wWw.eXaMpLe.", Rtype::A, 1));
    assert_eq!(reply.answer[0].name.to_string(), "wWw.eXaMpLe.");
}

/// What a client gets of an answer, by what it can take.
#[test]
fn replies_keep_within_what_the_client_takes_and_their_sets_are_whole() {
    let mut state = state();
    let mut text = String::new();
    let mut line = |state: &State, title: &str, name: &str, rtype, size: Option<u16>| {
        let request = query(name, rtype, size.map(|size| opt(size, 0, &[])));
        let reply = udp(state, &request);
        let [answer, authority, additional] =
            [&reply.answer, &reply.authority, &reply.additional].map(Vec::len);
        let tc = if reply.has(TC) { " tc" } else { "" };
        let size = size.map_or("none".to_owned(), |size| size.to_string());
        let octets = reply.octets;
        let counts = format!("{answer} {authority} {additional}");
        writeln!(text, "{name} {size}: {octets}{tc} {counts}  {title}").expect("a string");
    };
    let (a, mx, txt) = (Rtype::A, Rtype::MX, Rtype::TXT);
    line(&state, "RFC 1035 4.2.1", "many.example.", a, None);
    line(&state, "RFC 6891 6.2.3", "many.example.", a, Some(0));
    line(&state, "as without", "many.example.", a, Some(512));
    line(&state, "one octet short", "many.example.", a, Some(680));
    line(&state, "to the octet", "many.example.", a, Some(681));
    line(
        &state,
        "the flag day of 2020",
        "big.example.",
        txt,
        Some(65_535),
    );
    line(&state, "RFC 2181 9", "extra.example.", mx, Some(1_232));
    line(&state, "RFC 9471 3.1", "www.glue.example.", a, None);
    line(&state, "RFC 9471 3.1", "www.glue.example.", a, Some(1_232));
    state.settings.udp_octets_max = 600;
    line(
        &state,
        "the operator's limit",
        "many.example.",
        a,
        Some(1_232),
    );
    state.settings.udp_octets_max = u16::MAX;
    line(
        &state,
        "an operator who asks for more",
        "big.example.",
        txt,
        Some(65_535),
    );
    expect![[r#"
        many.example. none: 30 tc 0 0 0  RFC 1035 4.2.1
        many.example. 0: 41 tc 0 0 0  RFC 6891 6.2.3
        many.example. 512: 41 tc 0 0 0  as without
        many.example. 680: 41 tc 0 0 0  one octet short
        many.example. 681: 681 40 0 0  to the octet
        big.example. 65535: 40 tc 0 0 0  the flag day of 2020
        extra.example. 1232: 1014 40 0 20  RFC 2181 9
        www.glue.example. none: 502 tc 0 8 15  RFC 9471 3.1
        www.glue.example. 1232: 541 0 8 16  RFC 9471 3.1
        many.example. 1232: 41 tc 0 0 0  the operator's limit
        big.example. 65535: 40 tc 0 0 0  an operator who asks for more
    "#]]
    .assert_eq(&text);
    let whole = tcp(&state, &query("big.example.", Rtype::TXT, None));
    assert_eq!((whole.answer.len(), whole.has(TC)), (40, false));
    assert!(whole.octets > 4_000);
}

/// RFC 2181 9: a set that does not fit leaves nothing behind that a later name could point at.
#[test]
fn smaller_set_of_a_name_is_there_when_a_larger_one_is_left_out() {
    let request = query("wide.example.", Rtype::SRV, Some(opt(512, 0, &[])));
    expect![[r#"
        114 octets, NOERROR aa
        opt: version 0 udp 1232
        question: wide.example. SRV
        answer: wide.example. 3600 SRV 0 0 1 wide.new.example.
        additional: wide.new.example. 3600 AAAA 2001:db8::7
    "#]]
    .assert_eq(&udp(&state(), &request).text());
}

/// RFC 1035 4.1.4: a pointer has 14 bits. Names that are further on are written out.
#[test]
fn message_that_is_longer_than_pointers_reach_is_whole() {
    let state = state();
    let reply = tcp(&state, &query("far.example.", Rtype::SRV, None));
    assert_eq!((reply.answer.len(), reply.additional.len()), (200, 400));
    assert!(reply.octets > 0x4000 + 400 * 16, "{}", reply.octets);
    for (number, pair) in reply.additional.chunks(2).enumerate() {
        let name: Name = format!("t{number:0>60}.example.").parse().expect("a name");
        assert!(pair.iter().all(|record| record.name == name), "{name}");
        assert_eq!([pair[0].rtype, pair[1].rtype], [Rtype::A, Rtype::AAAA]);
    }
}

/// RFC 8914 4.15 and 4.25: no zone is spoken of, nor which there are, however it is asked.
#[test]
fn server_that_is_not_fresh_says_servfail_to_everything() {
    let soa = record("example.", Rtype::SOA, 1, 0, &[0; 22]);
    let with_opt = |name, rtype, authority: &[Vec<u8>]| {
        let asked = question(name, rtype, 1);
        message(
            0,
            [&[asked], &[], authority, &[opt(1_232, 0, &[(19, b"")])]],
        )
    };
    let requests = [
        with_opt("example.", Rtype::SOA, &[]),
        with_opt("www.example.", Rtype::A, &[]),
        with_opt("no.example.", Rtype::A, &[]),
        with_opt("www.example.org.", Rtype::A, &[]),
        with_opt("example.", Rtype::ANY, &[]),
        with_opt("example.", Rtype::AXFR, &[]),
        with_opt("example.", Rtype::IXFR, &[soa]),
    ];
    let mut state = state();
    for (freshness, error) in [
        (Freshness::Never, 14),
        (Freshness::Lost, 24),
        (Freshness::Until(1_000), 24),
        (Freshness::Until(0), 24),
    ] {
        state.freshness = freshness;
        for request in &requests {
            for transport in [Transport::Udp, Transport::Tcp] {
                let reply = Message::read(&send(&state, transport, request));
                assert_eq!(reply.rcode(), 2, "{freshness:?}");
                assert_eq!(reply.flags & (AA | TC), 0, "{freshness:?}");
                let opt = reply.opt.as_ref().expect("it was asked with one");
                assert_eq!(opt.options, [(15, vec![0, error])], "{freshness:?}");
                assert!(reply.answer.is_empty() && reply.authority.is_empty());
            }
        }
    }
    // One millisecond before the end it is fresh, and the others are other servers' zones.
    state.freshness = Freshness::Until(1_001);
    let rcode = |request: &[u8]| udp(&state, request).rcode();
    assert_eq!([rcode(&requests[0]), rcode(&requests[3])], [0, 5]);
}

/// RFC 9018 3, RFC 7873 5.2.
#[test]
fn cookie_comes_back_with_ours_unless_there_is_no_secret() {
    let mut state = state();
    let asked = |cookie: &[u8]| {
        query(
            "www.example.",
            Rtype::A,
            Some(opt(1_232, 0, &[(10, cookie)])),
        )
    };
    let first = udp(&state, &asked(b"01234567"));
    let first = first.option(10).expect("a cookie").to_vec();
    assert_eq!((first.len(), &first[..8]), (24, &b"01234567"[..]));
    // Also for one that is wrong, or that a server of another kind made.
    let mut wrong = first.clone();
    wrong[23] ^= 1;
    for cookie in [&first[..], &wrong, &first[..16]] {
        assert_eq!(udp(&state, &asked(cookie)).option(10), Some(&first[..]));
    }
    state.settings.cookies = None;
    assert_eq!(udp(&state, &asked(&first)).option(10), None);
}

/// RFC 9660 3.2: in whatever comes from a zone of ours, also in a referral, where it is that of the
/// zone above; not where there is no such zone.
#[test]
fn version_of_the_zone_is_told_where_the_zone_answers() {
    let state = state();
    let asked = |name| {
        let request = query(name, Rtype::A, Some(opt(1_232, 0, &[(19, b"")])));
        udp(&state, &request).option(19).map(<[u8]>::to_vec)
    };
    let version = Some(vec![1, 0, 0, 0, 0, 7]);
    for name in [
        "www.example.",
        "no.example.",
        "alias.example.",
        "example.",
        "www.sub.example.",
    ] {
        assert_eq!(asked(name), version, "{name}");
    }
    assert_eq!(asked("example.org."), None);
}

#[test]
fn identity_has_a_bound_that_every_reply_can_hold() {
    let text = "x".repeat(65);
    assert_eq!(Identity::try_from(&*text), Err(IdentityTooLong(65)));
    let mut state = state();
    state.settings.nsid = Some(Identity::try_from(&text[1..]).expect("64 octets"));
    // The longest name, all options, and the least room.
    let name = "a.".repeat(120) + "wild.example.";
    let all = [(3, &b""[..]), (9, b""), (10, b"01234567"), (19, b"")];
    for rtype in [Rtype::A, Rtype::SOA] {
        let reply = udp(&state, &query(&name, rtype, Some(opt(512, 0, &all))));
        assert!(reply.octets <= 512 && reply.option(3).is_some());
    }
}
