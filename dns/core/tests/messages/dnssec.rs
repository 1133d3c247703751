//! What a client of DNSSEC sees of a signed zone on the wire.
//!
//! The replies in `testdata/dnssec/replies.txt` were checked by a validator that nobody here wrote
//! (`testdata/dnssec/dnspython.py`). Both algorithms sign alike each time, so that a test can say
//! that these are still the replies.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use cfgdns_core::{
    Freshness, Limiter, Limits, Local, Outcome, State, Transport, Tree, Zones, respond,
};
use cfgdns_sign::{Algorithm, Set, SignatureCache, Signer, Time, verifies};
use cfgdns_testing::keys::{self, dnskeys, split_keys, validity};
use cfgdns_testing::zones::{name, zone};
use cfgdns_zone::Rtype;
use expect_test::{Expect, expect, expect_file};

use crate::{CLIENT, arrival, send, state, tcp, udp};
use cfgdns_testing::message::{Message, Record, TC, hex, message, opt, query, question};

/// DO and CO in the TTL of an OPT record.
const DO: u32 = 0x8000;
const CO: u32 = 0x4000;
/// When requests come, in the middle of the time that signatures are for.
const NOW: u32 = 1_559_731_985;

const ZONE: &str = "\
$TTL 3600
@ SOA ns1 root 7 3600 600 604800 60
@ NS ns1
@ NS ns.other.
@ MX 10 mail
ns1 A 192.0.2.1
mail A 192.0.2.2
WWW A 192.0.2.3
WWW A 192.0.2.33
WWW A 192.0.2.13
x.y.empty TXT x
alias CNAME www
gone CNAME missing
*.wild A 192.0.2.7
sub NS ns.sub
sub DS 1 8 250 00
ns.sub A 192.0.2.4
plain NS ns.plain
ns.plain A 192.0.2.5
old DNAME new
host.new A 192.0.2.6
";

/// Signs `example.` from some minutes before now to some after it.
pub(crate) fn signer(algorithm: Algorithm) -> Arc<Signer> {
    let validity = validity(NOW - 1_000, NOW + 1_000);
    keys::signer(&name("example."), &split_keys(algorithm), validity)
}

/// A server of the signed zone, with more sets.
fn signed(algorithm: Algorithm, more: &str) -> State {
    let zone = zone("example.", &format!("{ZONE}{more}"));
    let tree = Tree::build(&zone).expect("it has an SOA");
    let tree = tree.signed(signer(algorithm)).expect("its signer");
    State {
        zones: Zones::new([Arc::new(tree)]),
        ..state()
    }
}

fn asked(name: &str, rtype: Rtype, flags: u32) -> Vec<u8> {
    query(name, rtype, Some(opt(1_232, flags, &[])))
}

/// The sets of a section, each with the data of its signatures, all of which are valid.
fn check_sets(section: &[Record], state: &State) -> usize {
    let signer = state.zones.trees().next().and_then(|tree| tree.signer());
    let signer = signer.expect("it is signed");
    let keys = dnskeys(signer);
    let mut count = 0;
    for rrsig in section.iter().filter(|record| record.rtype == Rtype::RRSIG) {
        let covered = Rtype(u16::from_be_bytes([rrsig.data[0], rrsig.data[1]]));
        let is_of = |record: &&Record| record.name == rrsig.name && record.rtype == covered;
        let records = section.iter().filter(is_of);
        let set = Set {
            owner: Cow::Borrowed(rrsig.name.as_wire()),
            rtype: covered,
            ttl: rrsig.ttl,
            data: records
                .map(|record| Cow::Borrowed(&record.data[..]))
                .collect(),
        };
        assert!(!set.data.is_empty(), "a signature comes with its set");
        let same_ttl = section
            .iter()
            .filter(is_of)
            .all(|record| record.ttl == rrsig.ttl);
        assert!(same_ttl, "RFC 4034 3: the TTL of the set");
        let zone = (signer.origin(), &keys[..]);
        assert!(verifies(&rrsig.data, &set, zone, Time(NOW)), "{rrsig:?}");
        count += 1;
    }
    count
}

/// The reply without the octets of signatures, which are checked.
#[track_caller]
fn check(state: &State, reply: &Message, expected: Expect) {
    let count = [&reply.answer, &reply.authority, &reply.additional]
        .map(|section| check_sets(section, state));
    let text: String = reply.text().lines().fold(String::new(), |mut text, line| {
        let shown = match line.split_once(" RRSIG ") {
            Some((head, data)) if line.contains(" example. ") => {
                let (data, _) = data.split_once(" example. ").unwrap_or((data, ""));
                format!("{head} RRSIG {data}")
            }
            _ => line.to_owned(),
        };
        writeln!(text, "{shown}").expect("a string");
        text
    });
    expected.assert_eq(&format!("{text}signatures {count:?}\n"));
}

/// RFC 3225 3: DO is copied. RFC 4035 3.1.6: CD is cleared, and AD is never set.
#[test]
fn signatures_come_to_who_sets_do_and_no_flag_says_more() {
    let state = signed(Algorithm::Ed25519, "");
    let cd_ad_rd = 0x0130;
    let asked = message(
        cd_ad_rd,
        [
            &[question("wWw.example.", Rtype::A, 1)],
            &[],
            &[],
            &[opt(1_232, DO, &[])],
        ],
    );
    check(
        &state,
        &udp(&state, &asked),
        expect![[r#"
        191 octets, NOERROR aa rd
        opt: version 0 udp 1232 do
        question: wWw.example. A
        answer: wWw.example. 3600 A 192.0.2.3
        answer: wWw.example. 3600 A 192.0.2.13
        answer: wWw.example. 3600 A 192.0.2.33
        answer: wWw.example. 3600 RRSIG A 15 2 3600 20190605110945 20190605103625 40118
        signatures [1, 0, 0]
    "#]],
    );
    let plain = udp(
        &state,
        &query("www.example.", Rtype::A, Some(opt(1_232, 0, &[]))),
    );
    check(
        &state,
        &plain,
        expect![[r#"
        88 octets, NOERROR aa
        opt: version 0 udp 1232
        question: www.example. A
        answer: www.example. 3600 A 192.0.2.3
        answer: www.example. 3600 A 192.0.2.13
        answer: www.example. 3600 A 192.0.2.33
        signatures [0, 0, 0]
    "#]],
    );
    let without = udp(&state, &query("www.example.", Rtype::A, None));
    assert_eq!(without.answer, plain.answer);
}

/// RFC 9824 5.1: CO is copied, and the name is said not to exist.
#[test]
fn name_that_does_not_exist_is_so_for_who_takes_it_with_its_proof() {
    let state = signed(Algorithm::EcdsaP256Sha256, "");
    let name = "no.example.";
    check(
        &state,
        &udp(&state, &asked(name, Rtype::A, DO)),
        expect![[r#"
            335 octets, NOERROR aa
            opt: version 0 udp 1232 do
            question: no.example. A
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60
            authority: example. 60 RRSIG SOA 13 1 3600 20190605110945 20190605103625 62578
            authority: no.example. 60 NSEC \000.no.example. RRSIG NSEC NXNAME
            authority: no.example. 60 RRSIG NSEC 13 2 60 20190605110945 20190605103625 62578
            signatures [0, 2, 0]
        "#]],
    );
    check(
        &state,
        &udp(&state, &asked(name, Rtype::A, DO | CO)),
        expect![[r#"
            335 octets, NXDOMAIN aa
            opt: version 0 udp 1232 do co
            question: no.example. A
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60
            authority: example. 60 RRSIG SOA 13 1 3600 20190605110945 20190605103625 62578
            authority: no.example. 60 NSEC \000.no.example. RRSIG NSEC NXNAME
            authority: no.example. 60 RRSIG NSEC 13 2 60 20190605110945 20190605103625 62578
            signatures [0, 2, 0]
        "#]],
    );
    // RFC 6891 6.1.4: without DO the flag says nothing.
    check(
        &state,
        &udp(&state, &asked(name, Rtype::A, CO)),
        expect![[r#"
            84 octets, NXDOMAIN aa
            opt: version 0 udp 1232
            question: no.example. A
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60
            signatures [0, 0, 0]
        "#]],
    );
    let nxname = udp(&state, &asked(name, Rtype::NXNAME, DO));
    assert_eq!(
        (nxname.rcode(), nxname.authority.len()),
        (1, 0),
        "RFC 9824 3.5"
    );
}

/// RFC 2181 9, RFC 4035 3.1.1: a set goes with its signatures or not at all, and then TC says so;
/// but signatures of the additional section may be left out, and then its sets.
#[test]
fn signatures_are_not_parted_from_their_sets_where_there_is_no_room() {
    let mut more = "extra MX 1 m1\nextra MX 2 m2\nextra MX 3 m3\nextra MX 4 m4\n\
                    m1 A 192.0.2.1\nm2 A 192.0.2.2\nm3 A 192.0.2.3\nm4 A 192.0.2.4\n"
        .to_owned();
    // With its signature it fits into the larger half of the messages.
    for number in 0..6 {
        writeln!(more, "big TXT \"{number:0>100}\"").expect("a string");
    }
    let state = signed(Algorithm::Ed25519, &more);
    let (mut cut, mut bare, mut whole) = (0, 0, 0);
    for octets in 512..1_232_u16 {
        for name in [
            "extra.example.",
            "big.example.",
            "www.sub.example.",
            "no.example.",
        ] {
            let rtype = if name.starts_with('e') {
                Rtype::MX
            } else {
                Rtype::TXT
            };
            let reply = udp(&state, &query(name, rtype, Some(opt(octets, DO, &[]))));
            assert!(reply.octets <= usize::from(octets));
            if reply.has(TC) {
                assert_eq!(name, "big.example.");
                assert_eq!(reply.answer.len() + reply.authority.len(), 0);
                cut += 1;
                continue;
            }
            assert_eq!(
                check_sets(&reply.answer, &state),
                usize::from(rtype == Rtype::MX || name == "big.example.")
            );
            check_sets(&reply.authority, &state);
            let sets = reply
                .additional
                .iter()
                .filter(|record| record.rtype == Rtype::A)
                .count();
            match check_sets(&reply.additional, &state) {
                signed if signed < sets => bare += 1,
                _ => whole += 1,
            }
        }
    }
    assert!(
        cut > 100 && bare > 100 && whole > 1_000,
        "{cut} {bare} {whole}"
    );
    let many = (0..40).fold(String::new(), |mut text, last| {
        writeln!(text, "many A 198.51.100.{last}").expect("a string");
        text
    });
    let state = signed(Algorithm::Ed25519, &many);
    let request = |octets| query("many.example.", Rtype::A, Some(opt(octets, DO, &[])));
    let reply = udp(&state, &request(700));
    assert!(
        reply.has(TC) && reply.answer.is_empty(),
        "the set fits, its signature does not"
    );
    assert!(
        !udp(
            &state,
            &query("many.example.", Rtype::A, Some(opt(700, 0, &[])))
        )
        .has(TC)
    );
    assert_eq!(tcp(&state, &request(700)).answer.len(), 41);
    assert_eq!(udp(&state, &request(1_232)).answer.len(), 41);
}

/// A service at more hosts than a message has room for: as many signatures are made as go with it.
#[test]
fn signatures_that_have_no_room_are_not_made() {
    let more = (0..1_500).fold(String::new(), |mut text, host| {
        writeln!(
            text,
            "s SRV 0 0 1 h{host}\nh{host} A 192.0.2.1\nh{host} AAAA 2001:db8::1"
        )
        .expect("a string");
        text
    });
    let state = signed(Algorithm::Ed25519, &more);
    let made = |transport, octets, service: &str| {
        let mut cache = SignatureCache::new(10_000);
        let request = query(service, Rtype::SRV, Some(opt(octets, DO, &[])));
        let local = Local {
            limiter: None,
            signatures: Some(&mut cache),
        };
        match respond(&state, local, &arrival(transport, CLIENT, 1_000), &request) {
            Outcome::Send(octets) => (Message::read(&octets), cache.made()),
            other @ (Outcome::Silence | Outcome::Stream(_)) => panic!("{other:?}"),
        }
    };
    // That of the answer alone, which does not fit.
    let (reply, signatures) = made(Transport::Udp, 1_232, "s.example.");
    assert!(reply.has(TC));
    assert_eq!(signatures, 1);
    let (reply, signatures) = made(Transport::Tcp, 1_232, "s.example.");
    assert!(!reply.has(TC) && reply.answer.len() == 1_501);
    let sent = check_sets(&reply.additional, &state);
    let sets = reply.additional.len() - sent;
    assert!(sent > 20 && sets >= sent, "{sent} {sets}");
    // That of the answer, those that are sent, and one that did not fit.
    assert_eq!(signatures, 2 + u64::try_from(sent).expect("few"));
}

/// A reply that the rate limit withholds costs no signature, and what is counted does not change.
#[test]
fn rate_limit_and_fence_are_those_of_unsigned_zones() {
    let state = signed(Algorithm::Ed25519, "");
    let limits = Limits {
        per_second: 5,
        slip: 2,
        entries: 1_000,
    };
    let mut cache = SignatureCache::new(100);
    let mut limiter = Limiter::new(limits, [7; 16]);
    let mut sent = 0;
    for number in 0..50 {
        let request = asked(&format!("no-{number}.example."), Rtype::A, DO);
        let local = Local {
            limiter: Some(&mut limiter),
            signatures: Some(&mut cache),
        };
        let outcome = respond(
            &state,
            local,
            &arrival(Transport::Udp, CLIENT, 1_000),
            &request,
        );
        let Outcome::Send(octets) = outcome else {
            continue;
        };
        sent += u64::from(!Message::read(&octets).has(TC));
    }
    // One is of the SOA.
    assert_eq!((cache.made(), cache.found()), (sent + 1, sent - 1));
    assert!((5..15).contains(&sent), "{sent}");
    for freshness in [Freshness::Never, Freshness::Lost] {
        let fenced = State {
            freshness,
            ..state.clone()
        };
        let reply = udp(&fenced, &asked("www.example.", Rtype::A, DO));
        assert_eq!(
            (reply.rcode(), reply.answer.len(), reply.has(0x0400)),
            (2, 0, false)
        );
    }
}

/// The SERVFAIL of a zone whose keys are not here is no larger than its question, and is not held
/// back, as that of a fenced server.
#[test]
fn rate_limit_lets_through_that_keys_are_missing() {
    let tree = Tree::build(&zone("example.", ZONE)).expect("it has an SOA");
    let state = State {
        zones: Zones::new([Arc::new(tree.lacking_keys("a test"))]),
        ..state()
    };
    let limits = Limits {
        per_second: 1,
        slip: 2,
        entries: 1_000,
    };
    let mut limiter = Limiter::new(limits, [7; 16]);
    let request = asked("www.example.", Rtype::A, DO);
    for _ in 0..10 {
        let local = Local {
            limiter: Some(&mut limiter),
            signatures: None,
        };
        let arrival = arrival(Transport::Udp, CLIENT, 1_000);
        let Outcome::Send(octets) = respond(&state, local, &arrival, &request) else {
            panic!("held back");
        };
        let reply = Message::read(&octets);
        assert_eq!((reply.rcode(), reply.has(TC)), (2, false));
    }
}

/// What the validator was given: keys, and requests with the replies to them.
fn transcript() -> String {
    let questions = [
        ("wwW.example.", "A"),
        ("www.example.", "AAAA"),
        ("example.", "DNSKEY"),
        ("example.", "SOA"),
        ("example.", "MX"),
        ("example.", "NS"),
        ("y.empty.example.", "TXT"),
        ("alias.example.", "A"),
        ("gone.example.", "A"),
        ("no.example.", "A"),
        ("a.b.wild.example.", "A"),
        ("a.b.wild.example.", "TXT"),
        ("www.sub.example.", "A"),
        ("sub.example.", "DS"),
        ("www.plain.example.", "A"),
        ("plain.example.", "DS"),
        ("host.old.example.", "A"),
        ("none.old.example.", "A"),
        ("www.example.", "ANY"),
        ("www.example.", "NSEC"),
        ("no.example.", "NSEC"),
    ];
    let mut text = format!("now {NOW}\n");
    for algorithm in [Algorithm::Ed25519, Algorithm::EcdsaP256Sha256] {
        for (key, role, _) in split_keys(algorithm) {
            let data = key.dnskey(role.is_secure_entry()).to_data();
            let data = data.text(Rtype::DNSKEY, None);
            writeln!(text, "key example. {data}").expect("a string");
        }
        let state = signed(algorithm, "");
        for (name, rtype) in questions {
            let rtype = rtype.parse().expect("a type");
            for flags in [DO, DO | CO] {
                let request = asked(name, rtype, flags);
                let reply = send(&state, Transport::Udp, &request);
                writeln!(text, "{} {}", hex(&request), hex(&reply)).expect("a string");
            }
        }
    }
    text
}

/// Where they change, `testdata/dnssec/README.md` says how to have them checked.
#[test]
fn replies_are_those_that_another_validator_took() {
    expect_file!["../../../testdata/dnssec/replies.txt"].assert_eq(&transcript());
}
