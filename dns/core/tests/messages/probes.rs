//! The probes of RFC 8906 section 8, which tell servers that communicate from those that do not,
//! and other requests that must be answered in one way.

use std::fmt::Write as _;

use cfgdns_core::{Local, Outcome, Transport, respond};
use cfgdns_zone::Rtype;
use expect_test::{Expect, expect};

use crate::{CLIENT, arrival, chaos, send, state, tcp, udp};
use cfgdns_testing::message::{Message, RD, message, opt, query, question, record};

const AD: u16 = 0x20;
const CD: u16 = 0x10;
const Z: u16 = 0x40;

fn soa(flags: u16, additional: &[Vec<u8>]) -> Vec<u8> {
    let asked = question("example.", Rtype::SOA, 1);
    message(flags, [&[asked], &[], &[], additional])
}

fn check(requests: &[(&str, Vec<u8>)], expected: Expect) {
    let state = state();
    let mut text = String::new();
    for (title, request) in requests {
        writeln!(text, "{title}\n{}", udp(&state, request).text()).expect("a string");
    }
    expected.assert_eq(&text);
}

#[test]
fn probes_without_edns() {
    check(
        &[
            ("RFC 8906 8.1.1, the zone is served", soa(0, &[])),
            (
                "RFC 8906 8.1.2, unknown type",
                query("example.", Rtype(1000), None),
            ),
            ("RFC 8906 8.1.3.1, CD=1", soa(CD, &[])),
            ("RFC 8906 8.1.3.2, AD=1", soa(AD, &[])),
            ("RFC 8906 8.1.3.3, the reserved bit", soa(Z, &[])),
            ("RFC 8906 8.1.3.4, RD=1", soa(RD, &[])),
            (
                "RFC 8906 8.1.4, unknown opcode",
                message(15 << 11, [&[], &[], &[], &[]]),
            ),
        ],
        expect![[r#"
            RFC 8906 8.1.1, the zone is served
            70 octets, NOERROR aa
            question: example. SOA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

            RFC 8906 8.1.2, unknown type
            70 octets, NOERROR aa
            question: example. TYPE1000
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            RFC 8906 8.1.3.1, CD=1
            70 octets, NOERROR aa
            question: example. SOA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

            RFC 8906 8.1.3.2, AD=1
            70 octets, NOERROR aa
            question: example. SOA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

            RFC 8906 8.1.3.3, the reserved bit
            70 octets, NOERROR aa
            question: example. SOA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

            RFC 8906 8.1.3.4, RD=1
            70 octets, NOERROR aa rd
            question: example. SOA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

            RFC 8906 8.1.4, unknown opcode
            12 octets, NOTIMP opcode 15

        "#]],
    );
}

/// RFC 8906 8.1.5: over TCP as over UDP.
#[test]
fn probe_over_tcp_is_answered_as_over_udp() {
    let state = state();
    let request = soa(0, &[]);
    let [udp, tcp] = [Transport::Udp, Transport::Tcp].map(|by| send(&state, by, &request));
    assert_eq!(udp, tcp);
}

#[test]
fn probes_with_edns() {
    let version_1 = 1 << 16;
    let unknown = (100, &b"x"[..]);
    let all: Vec<(u16, &[u8])> = vec![
        unknown,
        (3, b""),
        (8, &[0, 1, 0, 0]),
        (9, b""),
        (10, b"\x01\x02\x03\x04\x05\x06\x07\x08"),
        (12, &[0; 9]),
        (19, b""),
    ];
    check(
        &[
            ("RFC 8906 8.2.1, minimal", soa(0, &[opt(4096, 0, &[])])),
            (
                "RFC 8906 8.2.2, version 1",
                soa(0, &[opt(4096, version_1, &[])]),
            ),
            (
                "RFC 8906 8.2.3, unknown option",
                soa(0, &[opt(4096, 0, &[unknown])]),
            ),
            (
                "RFC 8906 8.2.4, unknown flag",
                soa(0, &[opt(4096, 0x40, &[])]),
            ),
            (
                "RFC 8906 8.2.5, version 1 and unknown flag",
                soa(0, &[opt(4096, version_1 | 0x40, &[])]),
            ),
            (
                "RFC 8906 8.2.6, version 1 and unknown option",
                soa(0, &[opt(4096, version_1, &[unknown])]),
            ),
            (
                "RFC 8906 8.2.7, truncated",
                query("big.example.", Rtype::TXT, Some(opt(512, 0x8000, &[]))),
            ),
            ("RFC 8906 8.2.8, DO=1", soa(0, &[opt(4096, 0x8000, &[])])),
            (
                "RFC 8906 8.2.9, version 1 and DO=1",
                soa(0, &[opt(4096, version_1 | 0x8000, &[])]),
            ),
            (
                "RFC 8906 8.2.10, many options",
                soa(0, &[opt(4096, 0, &all)]),
            ),
        ],
        expect![[r#"
            RFC 8906 8.2.1, minimal
            81 octets, NOERROR aa
            opt: version 0 udp 1232
            question: example. SOA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

            RFC 8906 8.2.2, version 1
            36 octets, BADVERS
            opt: version 0 udp 1232
            question: example. SOA

            RFC 8906 8.2.3, unknown option
            81 octets, NOERROR aa
            opt: version 0 udp 1232
            question: example. SOA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

            RFC 8906 8.2.4, unknown flag
            81 octets, NOERROR aa
            opt: version 0 udp 1232
            question: example. SOA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

            RFC 8906 8.2.5, version 1 and unknown flag
            36 octets, BADVERS
            opt: version 0 udp 1232
            question: example. SOA

            RFC 8906 8.2.6, version 1 and unknown option
            36 octets, BADVERS
            opt: version 0 udp 1232
            question: example. SOA

            RFC 8906 8.2.7, truncated
            40 octets, NOERROR tc aa
            opt: version 0 udp 1232 do
            question: big.example. TXT

            RFC 8906 8.2.8, DO=1
            81 octets, NOERROR aa
            opt: version 0 udp 1232 do
            question: example. SOA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

            RFC 8906 8.2.9, version 1 and DO=1
            36 octets, BADVERS
            opt: version 0 udp 1232 do
            question: example. SOA

            RFC 8906 8.2.10, many options
            141 octets, NOERROR aa
            opt: version 0 udp 1232, nsid ns1.colo-a, cookie 0102030405060708010000005cf79f11cef53822fb516bef, zoneversion 1 0 7, expire 604800
            question: example. SOA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

        "#]],
    );
}

/// Each is answered with FORMERR, with the id, and with OPT where one could be read.
fn check_malformed(cases: Vec<(&str, Vec<u8>, bool)>) {
    let state = state();
    for (title, request, with_opt) in cases {
        let reply = udp(&state, &request);
        assert_eq!((reply.id, reply.rcode()), (0x1234, 1), "{title}");
        assert_eq!(reply.opt.is_some(), with_opt, "{title}");
        assert!(
            reply.answer.is_empty() && reply.authority.is_empty(),
            "{title}"
        );
    }
}

#[test]
fn malformed_questions_are_answered_with_their_id() {
    let good = soa(0, &[]);
    let asked = question("example.", Rtype::SOA, 1);
    let with_opt = message(0, [&[], &[], &[], &[opt(1232, 0, &[])]]);
    let [mut long_label, mut pointer, mut overrun] = [(); 3].map(|()| good.clone());
    long_label[12] = 64;
    pointer[12..14].copy_from_slice(&[0xc0, 12]);
    overrun[5] = 2;
    let two = message(0, [&[asked.clone(), asked], &[], &[], &[]]);
    let none = message(0, [&[], &[], &[], &[]]);
    let ixfr = query("example.", Rtype::IXFR, None);
    let opt = query("example.", Rtype::OPT, None);
    check_malformed(vec![
        (
            "RFC 1035 4.1.2: cut in the question",
            good[..20].to_vec(),
            false,
        ),
        ("RFC 1035 3.1: a label of 64", long_label, false),
        ("RFC 1035 4.1.4: a pointer to itself", pointer, false),
        ("RFC 9619 4: counts two questions, has one", overrun, false),
        ("RFC 9619 4: two questions", two, false),
        ("RFC 9619 4: no question", none, false),
        ("RFC 9619 4: no question, and no cookie", with_opt, true),
        ("octets after the end", [&good[..], b"x"].concat(), false),
        ("RFC 1995 3: IXFR without what the client has", ixfr, false),
        ("RFC 6895 3.1: OPT is no question", opt, false),
    ]);
}

#[test]
fn malformed_names_of_records_are_answered_with_their_id() {
    // A record of the additional section whose name is given as octets.
    let named = |name: &[u8]| {
        let record = record(".", Rtype::A, 1, 0, &[192, 0, 2, 1]);
        soa(0, &[[name, &record[1..]].concat()])
    };
    let long = [&[1, b'a'].repeat(126)[..], b"\x02aa\0"].concat();
    assert_eq!(long.len(), 256);
    check_malformed(vec![
        (
            "RFC 1035 4.1.4: a pointer forward",
            named(&[0xc0, 200]),
            false,
        ),
        (
            "RFC 1035 4.1.4: a pointer to its own",
            named(&[0xc0, 25]),
            false,
        ),
        (
            "RFC 1035 4.1.4: a pointer to the header",
            named(&[0xc0, 11]),
            false,
        ),
        ("RFC 1035 2.3.4: a name of 256", named(&long), false),
        (
            "RFC 6891 5: a label of a type that nobody uses",
            named(&[0x41, 0]),
            false,
        ),
    ]);
}

#[test]
fn malformed_opt_and_tsig_are_answered_with_their_id() {
    let asked = question("example.", Rtype::SOA, 1);
    let plain = opt(1232, 0, &[]);
    let tsig = record("key.", Rtype::TSIG, 255, 0, b"\0");
    let in_answer = message(0, [&[asked], std::slice::from_ref(&plain), &[], &[]]);
    let with_name = record("a.", Rtype::OPT, 1232, 0, b"");
    let overrun = record(".", Rtype::OPT, 1232, 0, &[0, 3, 0, 9]);
    let version = opt(1232, 0, &[(19, b"x")]);
    let versions = opt(1232, 0, &[(19, b""), (19, b"")]);
    let cookie = |octets: usize| soa(0, &[opt(1232, 0, &[(10, &vec![1; octets])])]);
    check_malformed(vec![
        (
            "RFC 6891 6.1.1: two OPT",
            soa(0, &[plain.clone(), plain.clone()]),
            true,
        ),
        ("RFC 6891 6.1.1: OPT in the answer", in_answer, false),
        (
            "RFC 6891 6.1.2: OPT with a name",
            soa(0, &[with_name]),
            false,
        ),
        (
            "RFC 6891 6.1.2: an option longer than it",
            soa(0, &[overrun]),
            true,
        ),
        ("RFC 7873 5.2.2: a cookie of 7", cookie(7), true),
        ("RFC 7873 5.2.2: a cookie of 9", cookie(9), true),
        ("RFC 7873 5.2.2: a cookie of 15", cookie(15), true),
        ("RFC 7873 5.2.2: a cookie of 41", cookie(41), true),
        (
            "RFC 9660 3.2.1: a version in a request",
            soa(0, &[version]),
            true,
        ),
        (
            "RFC 9660 3.2.1: two wishes for the version",
            soa(0, &[versions]),
            true,
        ),
        (
            "RFC 8945 5.2: TSIG is not the last",
            soa(0, &[tsig, plain]),
            false,
        ),
    ]);
}

/// The same records, in a form that is right, are passed over.
#[test]
fn records_that_nobody_asked_for_are_passed_over() {
    let state = state();
    let plain = record(".", Rtype::A, 1, 0, &[192, 0, 2, 1]);
    let asked = question("example.", Rtype::SOA, 1);
    let pointed = [&[0xc0, 12], &plain[1..]].concat();
    let long = [&[1, b'a'].repeat(127)[..], &plain].concat();
    let request = message(
        0,
        [
            &[asked],
            &[long],
            std::slice::from_ref(&pointed),
            &[plain, pointed.clone()],
        ],
    );
    assert_eq!(udp(&state, &request).rcode(), 0);
}

/// RFC 1035 7.3, RFC 8906 3: less than a header, and replies, are for nobody; nor does anybody wait
/// at port 0.
#[test]
fn what_is_no_request_is_not_answered() {
    let state = state();
    let good = soa(0, &[]);
    let reply = soa(0x8000, &[]);
    let silent = |client: &str, octets: &[u8]| {
        let arrival = arrival(Transport::Udp, client, 1_000);
        matches!(
            respond(&state, Local::default(), &arrival, octets),
            Outcome::Silence
        )
    };
    for length in 0..12 {
        assert!(silent(CLIENT, &good[..length]), "{length}");
    }
    assert!(silent(CLIENT, &reply));
    assert!(silent("192.0.2.99:0", &good));
    assert!(!silent(CLIENT, &good));
}

#[test]
fn other_kinds_of_messages_and_classes() {
    let asked = |rtype, class| question("example.", rtype, class);
    let one = |flags, asked| message(flags, [&[asked], &[], &[], &[opt(1232, 0, &[])]]);
    check(
        &[
            (
                "RFC 1996 NOTIFY: we are no secondary",
                one(4 << 11 | RD, asked(Rtype::SOA, 1)),
            ),
            (
                "RFC 2136 UPDATE: zones change in the group",
                one(5 << 11, asked(Rtype::SOA, 1)),
            ),
            ("RFC 1035 3.2.4, class HS", one(0, asked(Rtype::SOA, 4))),
            ("RFC 1035 3.2.5, class ANY", one(0, asked(Rtype::SOA, 255))),
            (
                "RFC 4892, CHAOS is off",
                one(0, question("id.server.", Rtype::TXT, 3)),
            ),
            (
                "RFC 8914 4.21, foreign zone",
                one(0, question("example.org.", Rtype::A, 1)),
            ),
            (
                "RFC 7873 5.4, a cookie and no question",
                message(0, [&[], &[], &[], &[opt(1232, 0, &[(10, &[1; 8])])]]),
            ),
        ],
        expect![[r#"
            RFC 1996 NOTIFY: we are no secondary
            36 octets, NOTIMP opcode 4
            opt: version 0 udp 1232
            question: example. SOA

            RFC 2136 UPDATE: zones change in the group
            36 octets, NOTIMP opcode 5
            opt: version 0 udp 1232
            question: example. SOA

            RFC 1035 3.2.4, class HS
            42 octets, REFUSED
            opt: version 0 udp 1232, ede 20
            question: example. SOA

            RFC 1035 3.2.5, class ANY
            42 octets, REFUSED
            opt: version 0 udp 1232, ede 20
            question: example. SOA

            RFC 4892, CHAOS is off
            44 octets, REFUSED
            opt: version 0 udp 1232, ede 20
            question: id.server. TXT

            RFC 8914 4.21, foreign zone
            46 octets, REFUSED
            opt: version 0 udp 1232, ede 20
            question: example.org. A

            RFC 7873 5.4, a cookie and no question
            51 octets, NOERROR
            opt: version 0 udp 1232, cookie 0101010101010101010000005cf79f114eba67eac6d147e5

        "#]],
    );
}

/// RFC 4892 3: only when it is on, and only what there is.
#[test]
fn chaos_is_answered_when_it_is_on() {
    let mut state = state();
    state.settings.chaos = Some(chaos());
    let mut text = String::new();
    for (name, rtype) in [
        ("id.server.", Rtype::TXT),
        ("Hostname.BIND.", Rtype::TXT),
        ("version.bind.", Rtype::ANY),
        ("version.server.", Rtype::TXT),
        ("version.bind.", Rtype::A),
        ("authors.bind.", Rtype::TXT),
        ("www.example.", Rtype::A),
    ] {
        let request = message(0, [&[question(name, rtype, 3)], &[], &[], &[]]);
        text += &udp(&state, &request).text();
    }
    expect![[r#"
        50 octets, NOERROR aa
        question: id.server. TXT
        answer: id.server. 0 CH TXT "ns1.colo-a"
        54 octets, NOERROR aa
        question: Hostname.BIND. TXT
        answer: Hostname.BIND. 0 CH TXT "ns1.colo-a"
        49 octets, NOERROR aa
        question: version.bind. ANY
        answer: version.bind. 0 CH TXT "cfgdns"
        51 octets, NOERROR aa
        question: version.server. TXT
        answer: version.server. 0 CH TXT "cfgdns"
        30 octets, REFUSED
        question: version.bind. A
        30 octets, REFUSED
        question: authors.bind. TXT
        29 octets, REFUSED
        question: www.example. A
    "#]]
    .assert_eq(&text);
}

/// RFC 8945 5.2.1 and 5.3.2: no key is known, so the request is not processed.
#[test]
fn signed_request_is_told_that_its_key_is_not_known() {
    let state = state();
    let mut data = b"\x0bhmac-sha256\0".to_vec();
    data.extend([
        0, 0, 0x5c, 0xf7, 0x9f, 0x11, 1, 44, 0, 0, 0x12, 0x34, 0, 0, 0, 0,
    ]);
    let tsig = record("key.example.", Rtype::TSIG, 255, 0, &data);
    let request = soa(0, &[opt(1232, 0, &[]), tsig]);
    let udp = send(&state, Transport::Udp, &request);
    expect![[r#"
        88 octets, NOTAUTH
        opt: version 0 udp 1232
        question: example. SOA
        additional: key.example. 0 TSIG 0b686d61632d7368613235360000005cf79f11012c0000123400110000
    "#]]
    .assert_eq(&Message::read(&udp).text());
    // The signature is the last record.
    assert!(udp.ends_with(&[0, 17, 0, 0]));
    let transfer = message(
        0,
        [
            &[question("example.", Rtype::AXFR, 1)],
            &[],
            &[],
            &[record("key.example.", Rtype::TSIG, 255, 0, &data)],
        ],
    );
    assert_eq!(tcp(&state, &transfer).rcode(), 9);
}
