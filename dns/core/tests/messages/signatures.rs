//! Signed requests and replies (RFC 8945). Requests were signed, and signatures of replies checked,
//! by programs that nobody here wrote: `dns/testdata/tsig/README.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::LazyLock;

use cfgdns_core::{
    Acl, Algorithm, Arrival, Local, Moment, Outcome, State, Transport, TsigKey, TsigKeys, respond,
};
use cfgdns_zone::Rtype;
use expect_test::{expect, expect_file};
use proptest::prelude::*;

use crate::transfers::{records, records_of, small_zone, state_with};
use crate::{CLIENT, state, tcp};
use cfgdns_testing::message::{AA, Message, TC, hex, opt, query, record, unhex};

const REQUESTS: &str = include_str!("../../../testdata/tsig/requests.txt");
const DIG: &str = include_str!("../../../testdata/tsig/dig.txt");
pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_559_731_985;

static KEYED: LazyLock<State> = LazyLock::new(keyed);

/// A request that was recorded.
struct Recorded {
    label: &'static str,
    octets: Vec<u8>,
}

fn recorded(text: &'static str) -> impl Iterator<Item = Recorded> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let (label, rest) = line.split_once(' ').expect("words");
        let (_, request) = rest.rsplit_once(' ').expect("words");
        let octets = unhex(request);
        Recorded { label, octets }
    })
}

fn request(label: &str) -> Vec<u8> {
    let found = recorded(REQUESTS).find(|request| request.label == label);
    found.expect(label).octets
}

fn key(name: &str, algorithm: Algorithm) -> TsigKey {
    TsigKey::new(name.parse().expect("a name"), algorithm, SECRET).expect("a key")
}

fn keys() -> TsigKeys {
    let keys = [
        ("sha1.key.", Algorithm::HmacSha1),
        ("sha224.key.", Algorithm::HmacSha224),
        ("sha256.key.", Algorithm::HmacSha256),
        ("sha384.key.", Algorithm::HmacSha384),
        ("sha512.key.", Algorithm::HmacSha512),
        ("tsig.example.", Algorithm::HmacSha256),
        ("dig.key.", Algorithm::HmacSha256),
        ("dig-sha512.key.", Algorithm::HmacSha512),
        ("kdig.key.", Algorithm::HmacSha384),
    ];
    TsigKeys::new(keys.map(|(name, algorithm)| key(name, algorithm))).expect("names differ")
}

/// A server whose zone only the holder of a key may have.
fn keyed() -> State {
    let mut state = state();
    state.settings.keys = keys();
    let entry = "192.0.2.0/24 key sha256.key".parse().expect("an entry");
    state.settings.transfers = Acl::new(vec![entry]);
    state
}

fn replies(state: &State, transport: Transport, octets: &[u8], now: u64) -> Vec<Vec<u8>> {
    let now = Moment {
        unix_seconds: now,
        monotonic_ms: 1_000,
    };
    let arrival = Arrival {
        transport,
        client: CLIENT.parse().expect("an address"),
        now,
    };
    match respond(state, Local::default(), &arrival, octets) {
        Outcome::Send(reply) => vec![reply],
        Outcome::Stream(mut stream) => std::iter::from_fn(|| stream.next(state, now)).collect(),
        Outcome::Silence => Vec::new(),
    }
}

/// The error of the signature of a reply, and how many octets its MAC has; none without one.
fn signature(reply: &[u8]) -> Option<(u16, usize)> {
    let read = Message::read(reply);
    let tsig = read.additional.last()?;
    assert_eq!((tsig.rtype, tsig.class, tsig.ttl), (Rtype::TSIG, 255, 0));
    let algorithm = cfgdns_zone::Name::from_wire(&tsig.data).expect("a name").1;
    let number = |at: usize| u16::from_be_bytes([tsig.data[at], tsig.data[at + 1]]);
    let mac = usize::from(number(algorithm + 8));
    assert_eq!(number(algorithm + 10 + mac), read.id);
    Some((number(algorithm + 12 + mac), mac))
}

/// RFC 8945 5.2, 5.3: every kind of request and of mistake. The transcript beside this file says
/// that dnspython finds the signatures of these very octets right.
#[test]
fn replies_to_signed_requests_are_those_that_dnspython_checked() {
    let mut state = keyed();
    let mut zone = small_zone(8);
    for number in 0..600 {
        let host = format!("host{number}.example.").parse().expect("a name");
        let data = cfgdns_zone::Rdata::parse(Rtype::TXT, &"t".repeat(30), None).expect("a text");
        zone.insert(&host, Rtype::TXT, 60, data)
            .expect("in the zone");
    }
    let big = cfgdns_zone::Rdata::parse(Rtype::TXT, &"b ".repeat(400), None).expect("a text");
    zone.insert(
        &"big.example.".parse().expect("a name"),
        Rtype::TXT,
        60,
        big,
    )
    .expect("in the zone");
    state.zones = state_with(&zone).zones;
    let mut text = String::new();
    for Recorded { label, octets } in recorded(REQUESTS) {
        let transport = match label {
            "axfr" | "ixfr" => Transport::Tcp,
            _ => Transport::Udp,
        };
        for reply in replies(&state, transport, &octets, NOW) {
            writeln!(text, "{label} {}", hex(&reply)).expect("a string");
        }
    }
    expect_file!["../../../testdata/tsig/replies.txt"].assert_eq(&text);
}

#[test]
fn requests_of_dig_and_kdig_are_answered_signed() {
    let state = keyed();
    for Recorded { label, octets } in recorded(DIG) {
        // The time is the six octets after the name of the algorithm.
        let algorithm = octets
            .windows(5)
            .rposition(|five| five == b"hmac-")
            .expect("HMAC");
        let at = algorithm + usize::from(octets[algorithm - 1]) + 1;
        let time = octets[at..at + 6]
            .iter()
            .fold(0, |all, octet| all << 8 | u64::from(*octet));
        let reply = &replies(&state, Transport::Udp, &octets, time)[0];
        assert_eq!(Message::read(reply).rcode(), 0, "{label}");
        let (error, mac) = signature(reply).expect("signed");
        assert!(error == 0 && mac >= 32, "{label}");
    }
}

/// What is written anew on its way cannot be signed: whether the request is rightly signed makes no
/// difference, and what is said is not signed either.
#[test]
fn signed_request_over_quic_is_refused_whatever_its_signature() {
    let state = keyed();
    for label in ["sha256", "sha512", "unknown-key", "late", "axfr", "ixfr"] {
        let reply = &replies(&state, Transport::Quic, &request(label), NOW)[0];
        let read = Message::read(reply);
        assert_eq!(
            (read.rcode(), read.has(AA), read.answer.len()),
            (5, false, 0)
        );
        assert_eq!(read.additional, [], "{label}");
    }
}

/// RFC 8945 5.2.1 to 5.2.3, 5.3.2: the rcode, the error of the signature, the octets of the MAC.
#[test]
fn error_says_what_is_wrong_and_is_signed_only_when_the_request_was_right() {
    let state = keyed();
    let mut wrong = request("sha256");
    let end = wrong.len();
    wrong[end - 10] ^= 1;
    for (octets, expected) in [
        (request("unknown-key"), (9, Some((17, 0)))),
        (request("unknown-algorithm"), (9, Some((17, 0)))),
        (request("other-algorithm"), (9, Some((17, 0)))),
        (wrong, (9, Some((16, 0)))),
        (request("late"), (9, Some((18, 32)))),
        (request("early"), (9, Some((18, 32)))),
        (request("in-time"), (0, Some((0, 32)))),
        (request("compressed"), (0, Some((0, 32)))),
        (request("capitals"), (0, Some((0, 32)))),
        (request("notify"), (4, Some((0, 32)))),
        (request("refused"), (5, Some((0, 32)))),
        (query("example.", Rtype::SOA, None), (0, None)),
    ] {
        let reply = &replies(&state, Transport::Udp, &octets, NOW)[0];
        let found = (Message::read(reply).rcode(), signature(reply));
        assert_eq!(found, expected, "{}", hex(&octets));
    }
}

/// The request with a MAC of another length. That of SHA-256 has 32 octets, and at least 16.
fn with_mac_octets(octets: usize) -> Vec<u8> {
    let mut request = request("sha256");
    let tail = request.split_off(request.len() - 6);
    let mac = request.split_off(request.len() - 32);
    let length_at = request.len() - 2;
    let mac: Vec<_> = mac.into_iter().cycle().take(octets).collect();
    request[length_at + 1] = u8::try_from(octets).expect("short");
    // The length of the record's data.
    let data = u8::try_from(13 + 16 + octets).expect("short");
    let data_at = length_at - 8 - 13 - 1;
    assert_eq!(request[data_at], 61);
    request[data_at] = data;
    request.extend(mac);
    request.extend(tail);
    request
}

/// RFC 8945 5.2.2.1: a MAC that is longer than the hash, or shorter than half of it.
#[test]
fn truncated_mac_is_taken_down_to_half_of_its_length() {
    let state = keyed();
    for (octets, expected) in [
        (0, (1, None)),
        (10, (1, None)),
        (15, (1, None)),
        (16, (0, Some((0, 32)))),
        (31, (0, Some((0, 32)))),
        (32, (0, Some((0, 32)))),
        (33, (1, None)),
    ] {
        let reply = &replies(&state, Transport::Udp, &with_mac_octets(octets), NOW)[0];
        let found = (Message::read(reply).rcode(), signature(reply));
        assert_eq!(found, expected, "{octets} octets");
    }
}

/// RFC 8945 5.2: it is the last record, there is one, and its class and TTL are as they must be.
#[test]
fn signature_that_cannot_be_one_is_a_format_error() {
    let state = keyed();
    let good = request("sha256");
    let tsig = good[25..].to_vec();
    assert_eq!(tsig[..7], *b"\x06sha256");
    let plain = record("a.", Rtype::A, 1, 0, &[192, 0, 2, 1]);
    let with = |count: u8, section_at: usize, records: &[&[u8]]| {
        let mut octets = good[..25].to_vec();
        octets[11] = 0;
        octets[section_at] = count;
        octets.extend(records.concat());
        octets
    };
    let other_class = [&tsig[..15], &[0, 1], &tsig[17..]].concat();
    let other_ttl = [&tsig[..20], &[1], &tsig[21..]].concat();
    for (what, octets) in [
        ("not the last", with(2, 11, &[&tsig, &plain])),
        ("two", with(2, 11, &[&tsig, &tsig])),
        ("in the answer section", with(1, 7, &[&tsig])),
        ("in the authority section", with(1, 9, &[&tsig])),
        ("of class IN", with(1, 11, &[&other_class])),
        ("with a TTL", with(1, 11, &[&other_ttl])),
        ("cut off", with(1, 11, &[&tsig[..tsig.len() - 1]])),
    ] {
        let reply = &replies(&state, Transport::Udp, &octets, NOW)[0];
        let found = (Message::read(reply).rcode(), signature(reply));
        assert_eq!(found, (1, None), "{what}");
    }
    assert_eq!(with(1, 11, &[&tsig]), good);
}

/// RFC 8945 5.3: where the signature leaves no room for the records, the reply says that there is
/// more, and nothing else; its question is there whatever the names.
#[test]
fn reply_has_room_for_its_signature() {
    let state = keyed();
    let reply = &replies(&state, Transport::Udp, &request("large"), NOW)[0];
    let read = Message::read(reply);
    assert_eq!(
        (read.rcode(), read.answer.len(), read.has(TC)),
        (0, 0, true)
    );
    assert_eq!(signature(reply), Some((0, 32)));
    // Names as long as they can be: a key that nobody knows.
    let long = format!(
        "{}.{}.{}.{}.",
        "k".repeat(63),
        "k".repeat(63),
        "k".repeat(63),
        "k".repeat(61)
    );
    let asked = format!(
        "{}.{}.{}.example.",
        "q".repeat(63),
        "q".repeat(63),
        "q".repeat(63)
    );
    let name: cfgdns_zone::Name = long.parse().expect("a name");
    let mut data = name.as_wire().to_vec();
    data.extend([0; 16]);
    let tsig = record(&long, Rtype::TSIG, 255, 0, &data);
    let options = opt(512, 0, &[(3, b""), (10, b"01234567"), (19, b"")]);
    let question = cfgdns_testing::message::question(&asked, Rtype::A, 1);
    let octets = cfgdns_testing::message::message(0, [&[question], &[], &[], &[options, tsig]]);
    let reply = &replies(&state, Transport::Udp, &octets, NOW)[0];
    assert_eq!(
        (Message::read(reply).rcode(), signature(reply)),
        (9, Some((17, 0)))
    );
    assert!(reply.len() <= 1_232 && reply.len() < octets.len() + 100);
}

/// RFC 8945 5.3.1: every message is signed. Only the holder of the key gets them.
#[test]
fn transfer_is_for_the_holder_of_the_key_and_signed_throughout() {
    let mut state = keyed();
    let zone = small_zone(7);
    state.zones = state_with(&zone).zones;
    let messages = replies(&state, Transport::Tcp, &request("axfr"), NOW);
    assert!(
        messages
            .iter()
            .all(|message| signature(message) == Some((0, 32)))
    );
    assert_eq!(records(&messages), records_of(&zone));
    let unsigned = query("example.", Rtype::AXFR, None);
    let reply = tcp(&state, &unsigned);
    assert_eq!((reply.rcode(), reply.has(AA)), (5, false));
    // The key alone is not enough where an address is asked for too.
    let entry = "198.51.100.0/24 key sha256.key".parse().expect("an entry");
    state.settings.transfers = Acl::new(vec![entry]);
    let reply = &replies(&state, Transport::Tcp, &request("axfr"), NOW)[0];
    assert_eq!(
        (Message::read(reply).rcode(), signature(reply)),
        (5, Some((0, 32)))
    );
}

#[test]
fn server_that_is_not_fresh_says_so_signed() {
    let mut state = keyed();
    state.freshness = cfgdns_core::Freshness::Lost;
    for label in ["sha256", "axfr", "ixfr"] {
        let reply = &replies(&state, Transport::Tcp, &request(label), NOW)[0];
        assert_eq!(
            (Message::read(reply).rcode(), signature(reply)),
            (2, Some((0, 32)))
        );
    }
}

/// No octet can be changed, but the id, which is replaced by the one that was signed, and the case
/// of the names of key and algorithm. Where the record is none any more, the request is unsigned.
#[test]
fn any_change_of_a_signed_request_loses_what_only_its_key_allows() {
    let state = keyed();
    let good = request("axfr");
    let mut rcodes = BTreeSet::new();
    for at in 2..good.len() {
        for bit in 0..8 {
            let mut changed = good.clone();
            changed[at] ^= 1 << bit;
            let letter = good[at].is_ascii_alphabetic() && bit == 5;
            let replies = replies(&state, Transport::Tcp, &changed, NOW);
            let Some(reply) = replies.first() else {
                assert_eq!((at, bit), (2, 7), "only a reply is not answered");
                continue;
            };
            let read = Message::read(reply);
            let error = signature(reply).map(|(error, _)| error);
            if letter && at > 25 && read.rcode() == 0 {
                // Canonical names have no case (RFC 8945 4.3.3).
                continue;
            }
            assert!(read.answer.is_empty(), "{at} {bit}");
            rcodes.insert((read.rcode(), error));
        }
    }
    // FORMERR; REFUSED, unsigned; NOTAUTH with BADSIG or BADKEY.
    let expected = [(1, None), (5, None), (9, Some(16)), (9, Some(17))];
    assert_eq!(rcodes, BTreeSet::from(expected));
    let replies = replies(&state, Transport::Tcp, &good, NOW);
    assert_eq!(Message::read(&replies[0]).rcode(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Records with arbitrary data at the place of a signature, and octets after a right one.
    #[test]
    fn arbitrary_signatures_bring_nothing_down(
        data in proptest::collection::vec(any::<u8>(), 0..80),
        named in any::<bool>(),
        after in proptest::collection::vec(any::<u8>(), 1..80),
    ) {
        let state = &*KEYED;
        let start = if named { b"\x0bhmac-sha256\0".to_vec() } else { Vec::new() };
        let tsig = record("sha256.key.", Rtype::TSIG, 255, 0, &[&start[..], &data].concat());
        let question = cfgdns_testing::message::question("example.", Rtype::AXFR, 1);
        let octets = cfgdns_testing::message::message(0, [&[question], &[], &[], &[tsig]]);
        let longer = [&request("axfr")[..], &after].concat();
        for octets in [octets, longer] {
            let reply = &replies(state, Transport::Tcp, &octets, NOW)[0];
            prop_assert!(matches!(Message::read(reply).rcode(), 1 | 9));
        }
    }
}

/// Both forms, in one file, with comments where operators put them.
#[test]
fn file_of_keys_has_lines_or_what_tsig_keygen_prints() {
    let text = "
# of the secondaries
sha256.key  HMAC-SHA256.  MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=
; kdig.key hmac-sha384 -
key \"transfer.example\" {
\talgorithm hmac-sha512; // as long as can be
\tsecret \"//////////////////////////////////////////8=\";
};
key other.key. { secret MDEyMzQ1Njc4OWFiY2RlZg==; algorithm \"hmac-sha1\"; }; // short
//comment
key hmac-sha256 MDEyMzQ1Njc4OWFiY2RlZg==
slash.key hmac-sha224 //////////////////////8=\n";
    let keys = cfgdns_core::parse_keys(text).unwrap_or_else(|error| panic!("{error}"));
    let shown = format!("{keys:?}").replace(", ", "\n");
    expect![[r#"
        TsigKeys([TsigKey(transfer.example. hmac-sha512 ..)
        TsigKey(key. hmac-sha256 ..)
        TsigKey(other.key. hmac-sha1 ..)
        TsigKey(sha256.key. hmac-sha256 ..)
        TsigKey(slash.key. hmac-sha224 ..)])"#]]
    .assert_eq(&shown);
    assert_eq!(
        *keys
            .get(&"SHA256.key.".parse().expect("a name"))
            .expect("a key")
            .as_ref(),
        key("sha256.key.", Algorithm::HmacSha256)
    );
}

#[test]
fn file_of_keys_that_cannot_be_read_is_refused_by_line_and_without_its_secrets() {
    let secret = "c2VjcmV0c2VjcmV0c2VjcmV0";
    let mut messages = String::new();
    for text in [
        format!("k hmac-md5 {secret}"),
        format!("k hmac-sha256-128 {secret}"),
        format!("\n\na..b hmac-sha256 {secret}"),
        format!("k hmac-sha256 {secret}="),
        "k hmac-sha256 c2VjcmV0".to_owned(),
        format!("k hmac-sha256 {secret} {secret}"),
        format!("k {secret}"),
        format!("k {secret} hmac-sha256"),
        format!("{} hmac-sha256 k", secret.repeat(3)),
        format!("key k {{\n algorithm hmac-sha256;\n secret {secret}\n}};"),
        format!("key k {{\n secret {secret};\n}};"),
        "key k { algorithm hmac-sha256; };".to_owned(),
        format!("key k {{ algorithm hmac-sha256; secret \"{secret}; }};"),
        format!("key k {{ algorithm hmac-sha256; secret {secret}; }}"),
        format!("key \"\" {{ algorithm hmac-sha256; secret {secret}; }};"),
        "options { };".to_owned(),
        format!("k hmac-sha256 {secret}\nK. hmac-sha256 {secret}"),
        "#".repeat(cfgdns_core::KEY_FILE_OCTETS_MAX + 1),
    ] {
        let error = cfgdns_core::parse_keys(&text).expect_err(&text).to_string();
        assert!(!error.contains("c2Vjcm"), "{error}");
        messages += &error
            .replace("; ", ";\n  ")
            .replace(", hmac-sha5", ",\n  hmac-sha5");
        messages.push('\n');
    }
    expect![[r#"
        line 1: the algorithm is none of hmac-sha1, hmac-sha224, hmac-sha256, hmac-sha384,
          hmac-sha512;
          `tsig-keygen NAME` makes a key of hmac-sha256
        line 1: the algorithm is none of hmac-sha1, hmac-sha224, hmac-sha256, hmac-sha384,
          hmac-sha512;
          `tsig-keygen NAME` makes a key of hmac-sha256
        line 3: the name of the key is not a name
        line 1: the secret is not base64 (RFC 4648 4)
        line 1: the secret has 6 octets: at least 16, or it can be guessed
        line 1: expected `key`;
          a key is `NAME ALGORITHM BASE64` on a line of its own, or what tsig-keygen prints
        line 1: expected `key`;
          a key is `NAME ALGORITHM BASE64` on a line of its own, or what tsig-keygen prints
        line 1: the secret is not base64 (RFC 4648 4)
        line 1: the name of the key is not a name
        line 4: expected `;`;
          a key is `NAME ALGORITHM BASE64` on a line of its own, or what tsig-keygen prints
        line 3: expected `algorithm` before this;
          a key is `NAME ALGORITHM BASE64` on a line of its own, or what tsig-keygen prints
        line 1: expected `secret` before this;
          a key is `NAME ALGORITHM BASE64` on a line of its own, or what tsig-keygen prints
        line 1: expected a word;
          a key is `NAME ALGORITHM BASE64` on a line of its own, or what tsig-keygen prints
        line 1: expected `;`;
          a key is `NAME ALGORITHM BASE64` on a line of its own, or what tsig-keygen prints
        line 1: expected the name of the key;
          a key is `NAME ALGORITHM BASE64` on a line of its own, or what tsig-keygen prints
        line 1: expected `key`;
          a key is `NAME ALGORITHM BASE64` on a line of its own, or what tsig-keygen prints
        there are two keys with the name k.
        the file has 1048577 octets: at most 1048576
    "#]]
    .assert_eq(&messages);
}
