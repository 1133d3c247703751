//! What is said over QUIC is what is said over TCP, field by field, whatever is asked.

use std::fmt::Write as _;
use std::sync::Arc;

use cfgdns_core::{
    Acl, Algorithm as TsigAlgorithm, Chaos, CookieSecrets, Freshness, State, Tree, TsigKey,
    TsigKeys, Zones,
};
use cfgdns_sign::Algorithm;
use cfgdns_testing::keys::{signer, split_keys, validity};
use cfgdns_testing::message::{Message, Record, TC, message, opt, query, question};
use cfgdns_testing::zones::{name, zone};
use cfgdns_zone::Rtype;

use super::Quic;
use crate::fresh;

/// DO in the TTL of an OPT record.
const DO: u32 = 0x8000;
const PADDING: u16 = 12;
const COOKIE: u16 = 10;

/// What there is to compare: names with the case that they have.
fn fields(octets: &[u8]) -> impl PartialEq + std::fmt::Debug + use<> {
    let read = Message::read(octets);
    let records = |section: &[Record]| -> Vec<_> {
        let text = |record: &Record| (record.name.to_string(), record.clone());
        section.iter().map(text).collect()
    };
    let sections = [&read.answer, &read.authority, &read.additional].map(|all| records(all));
    let opt = read.opt.map(|opt| {
        let plain = |option: &(u16, _)| option.0 != PADDING;
        let options = opt.options.into_iter().filter(plain);
        // A server cookie is of the second in which it was made (RFC 9018 4).
        let options = options.map(|(code, mut value)| {
            if code == COOKIE {
                assert_eq!(value.len(), 24);
                value.truncate(12);
            }
            (code, value)
        });
        (opt.udp_octets, opt.ttl, options.collect::<Vec<_>>())
    });
    (read.flags, read.question, sections, opt)
}

/// A zone with answers of every kind and with data of many types.
pub(super) const ZONE: &str = "\
$TTL 3600
@ SOA ns1 root 7 3600 600 604800 60
@ NS ns1
@ NS ns.other.
@ MX 10 mail
@ MX 20 Mail.Other.
@ CAA 0 issue \"ca.example.net\"
ns1 A 192.0.2.1
ns1 AAAA 2001:db8::1
mail A 192.0.2.2
WWW A 192.0.2.3
WWW A 192.0.2.4
alias CNAME www
out CNAME www.example.net.
old DNAME new
host.new A 192.0.2.6
_sip._tcp SRV 0 0 5060 mail
svc HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.9
svc SVCB 0 mail
text TXT \"a\" \"\" \"c\"
ptr PTR www
naptr NAPTR 100 10 \"u\" \"E2U+sip\" \"!^.*$!sip:x@example.!\" .
ssh SSHFP 4 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
_25._tcp TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
info HINFO \"cpu\" \"os\"
loc LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
other TYPE65280 \\# 3 c00c00
none TYPE65281 \\# 0
*.wild A 192.0.2.7
sub NS ns.sub
sub NS ns.other.
sub DS 1 8 250 00
ns.sub A 192.0.2.4
";

pub(super) fn with_zone(text: &str, signs: bool) -> State {
    let mut tree = Tree::build(&zone("example.", text)).expect("it has an SOA");
    if signs {
        let now = u32::try_from(cfgdns_net::now().unix_seconds).expect("before 2106");
        let signer = signer(
            &name("example."),
            &split_keys(Algorithm::Ed25519),
            validity(now - 1_000, now + 1_000),
        );
        tree = tree.signed(signer).expect("its signer");
    }
    let mut state = fresh();
    state.zones = Zones::new([Arc::new(tree)]);
    state.settings.nsid = Some("ns1.akl".try_into().expect("short"));
    state.settings.chaos = Some(Chaos {
        id: "ns1.akl".try_into().expect("short"),
        version: "cfgdns".try_into().expect("short"),
    });
    state.settings.cookies = Some(CookieSecrets {
        current: *b"0123456789abcdef",
        other: None,
    });
    state.settings.transfers = Acl::new(vec!["any".parse().expect("a rule")]);
    let key = TsigKey::new(name("a.key."), TsigAlgorithm::HmacSha256, &[7; 32]);
    state.settings.keys = TsigKeys::new([key.expect("a key")]).expect("one");
    state
}

/// All types at all names, with what a client may want beside.
fn questions() -> Vec<Vec<u8>> {
    let names = "example. www.EXAMPLE. WwW.eXample. alias.example. out.example. a.old.example. \
                 host.old.example. _sip._tcp.example. _25._tcp.example. svc.example. \
                 text.example. ptr.example. naptr.example. ssh.example. info.example. \
                 loc.example. other.example. none.example. a.wild.example. wild.example. \
                 sub.example. a.sub.example. missing.example. example.org. .";
    // A, NS, SOA, PTR, HINFO, MX, TXT, AAAA, LOC, SRV, NAPTR, DS, SSHFP, RRSIG, DNSKEY, TLSA, SVCB,
    // HTTPS, ANY, CAA, and two that have no name.
    let types = "1 2 6 12 13 15 16 28 29 33 35 43 44 46 48 52 64 65 255 257 65280 65281";
    let cookie: &[u8] = b"01234567";
    let wishes = [
        None,
        Some(opt(
            1_232,
            0,
            &[(3, b""), (9, b""), (10, cookie), (19, b"")],
        )),
        Some(opt(4_096, DO, &[(3, b"")])),
        Some(opt(512, DO | 0x4000, &[])),
    ];
    let mut all = Vec::new();
    for name in names.split_whitespace() {
        for rtype in types.split_whitespace() {
            let rtype = Rtype(rtype.parse().expect("a number"));
            for wish in &wishes {
                all.push(query(name, rtype, wish.clone()));
            }
        }
    }
    all
}

/// Requests that have no question about a zone, or are none.
fn oddities() -> Vec<Vec<u8>> {
    let opt = |ttl, options: &[(u16, &[u8])]| opt(1_232, ttl, options);
    let plain = opt(0, &[]);
    let of = |flags, questions: &[Vec<u8>], additional: &[Vec<u8>]| {
        message(flags, [questions, &[], &[], additional])
    };
    let www = question("www.example.", Rtype::A, 1);
    vec![
        of(0, &[question("id.server.", Rtype::TXT, 3)], &[]),
        of(
            0,
            &[question("version.bind.", Rtype::TXT, 3)],
            std::slice::from_ref(&plain),
        ),
        of(
            0,
            &[question("www.example.", Rtype::A, 3)],
            std::slice::from_ref(&plain),
        ),
        // RD, CD; of a version that does not exist; without a question, for a cookie; NOTIFY, UPDATE
        // and an opcode that nobody has.
        of(
            0x0110,
            std::slice::from_ref(&www),
            std::slice::from_ref(&plain),
        ),
        of(0, std::slice::from_ref(&www), &[opt(1 << 16, &[])]),
        of(0, &[], &[opt(0, &[(10, b"01234567")])]),
        of(0, &[], &[]),
        of(0x2000, &[question("example.", Rtype::SOA, 1)], &[]),
        of(
            0x2800,
            &[question("example.", Rtype::SOA, 1)],
            std::slice::from_ref(&plain),
        ),
        of(0x7800, std::slice::from_ref(&www), &[]),
        of(0, &[www.clone(), www], &[]),
    ]
}

#[test]
fn replies_are_those_of_tcp_field_by_field() {
    let quic = Quic::usual();
    let mut tcp = quic.tcp();
    let mut over_quic = quic.open();
    let mut large = ZONE.to_owned();
    for number in 0..400 {
        writeln!(large, "big TXT \"{number:0>90}\"").expect("a string");
        writeln!(large, "many NS n{number}.a-name-of-some-length.").expect("a string");
    }
    let mut asked = 0;
    for (state, questions) in [
        (with_zone(ZONE, false), questions()),
        (with_zone(ZONE, true), questions()),
        (with_zone(ZONE, false), oddities()),
        (
            with_zone(&large, true),
            vec![
                query("big.example.", Rtype::TXT, None),
                query("big.example.", Rtype::TXT, Some(opt(1_232, DO, &[]))),
                query("many.example.", Rtype::NS, None),
            ],
        ),
        (
            State {
                freshness: Freshness::Lost,
                ..with_zone(ZONE, true)
            },
            [questions()[..8].to_vec(), oddities()].concat(),
        ),
        (
            State {
                freshness: Freshness::Never,
                ..with_zone(ZONE, true)
            },
            oddities(),
        ),
    ] {
        quic.running.shared.store(Arc::new(state));
        for question in questions {
            asked += 1;
            // Hickory ends a connection with its hundredth request.
            if asked % 100 == 0 {
                over_quic = quic.open();
            }
            let by_tcp = tcp.ask(&question).octets;
            let by_quic = over_quic.ask(&question);
            assert_eq!(
                fields(&by_quic),
                fields(&by_tcp),
                "{}",
                Message::read(&by_tcp).text()
            );
        }
    }
    let totals = quic.shutdown();
    assert_eq!((totals.quic_requests, totals.tcp_requests), (asked, asked));
    assert_eq!(
        (totals.quic_failed, totals.quic_slow, totals.quic_refused),
        (0, 0, 0)
    );
    assert!(asked > 4_000, "{asked}");
}

/// RFC 9250 5.4, RFC 8467 4.1.
#[test]
fn padded_request_gets_whole_blocks_with_what_is_said_over_tcp() {
    let quic = Quic::usual();
    quic.running.shared.store(Arc::new(with_zone(ZONE, true)));
    let mut tcp = quic.tcp();
    let client = quic.open();
    for (name, rtype) in [
        ("www.example.", Rtype::A),
        ("example.", Rtype::MX),
        ("sub.example.", Rtype::A),
        ("missing.example.", Rtype::A),
        ("example.org.", Rtype::A),
    ] {
        for padding in [0, 1, 100] {
            let wish: &[(u16, &[u8])] = &[(PADDING, &vec![0; padding]), (3, b"")];
            let request = query(name, rtype, Some(opt(1_232, DO, wish)));
            let reply = client.ask(&request);
            assert_eq!(reply.len() % 468, 0, "{name}: {} octets", reply.len());
            let read = Message::read(&reply);
            let padding = read.option(PADDING).expect("padding");
            assert!(padding.len() < 468 && padding.iter().all(|octet| *octet == 0));
            assert_eq!(fields(&reply), fields(&tcp.ask(&request).octets));
        }
    }
    quic.shutdown();
}

#[test]
fn what_does_not_fit_when_it_is_written_anew_is_truncated_without_records() {
    let quic = Quic::usual();
    // Owners that are compressed by us, and not by hickory after the first hundred names.
    let mut text = ZONE.to_owned();
    let owner = ["a".repeat(60), "b".repeat(60), "c".repeat(60)].join(".");
    for number in 0..1_000 {
        writeln!(text, "{owner} TXT \"{number}\"").expect("a string");
    }
    quic.running.shared.store(Arc::new(with_zone(&text, false)));
    let request = query(
        &format!("{owner}.example."),
        Rtype::TXT,
        Some(opt(1_232, 0, &[])),
    );
    assert_eq!(quic.tcp().ask(&request).answers, 1_000);
    let reply = Message::read(&quic.open().ask(&request));
    assert!(reply.has(TC) && reply.answer.is_empty() && reply.opt.is_some());
    quic.shutdown();
}
