//! Properties of messages: whatever comes in, and whatever is asked.

use std::sync::LazyLock;

use cfgdns_core::{
    CLASS_IN, Local, Outcome, Question, Records, Request, State, Transport, answer, respond,
};
use cfgdns_zone::{Name, Rtype, compare_data};
use proptest::prelude::*;

use crate::{CLIENT, arrival, chaos, state};
use cfgdns_testing::message::{Message, Record, TC, message, opt, question};

static PLAIN: LazyLock<State> = LazyLock::new(state);

/// It also says who it is.
static TALKATIVE: LazyLock<State> = LazyLock::new(|| {
    let mut state = state();
    state.settings.chaos = Some(chaos());
    state
});

/// Octets that are a request, or nearly: some are changed, and the end may be cut off.
fn nearly_a_request() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let options = proptest::collection::vec(
        (0..20_u16, proptest::collection::vec(any::<u8>(), 0..42)),
        0..4,
    );
    let asked = (
        any_name(),
        any_type(),
        proptest::sample::select(vec![1_u16, 3, 255]),
    );
    (
        asked,
        options,
        changes,
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|((name, rtype, class), options, changes, end, cut)| {
            let options: Vec<(u16, &[u8])> = options
                .iter()
                .map(|(code, value)| (*code, &value[..]))
                .collect();
            let asked = question(&name, rtype, class);
            let mut octets = message(0, [&[asked], &[], &[], &[opt(1_232, 0, &options)]]);
            for (place, octet) in changes {
                let place = place.index(octets.len());
                octets[place] = octet;
            }
            if cut {
                octets.truncate(end.index(octets.len()));
            }
            octets
        })
}

fn any_name() -> impl Strategy<Value = String> {
    let labels = vec![
        "www", "WWW", "mail", "alias", "old", "new", "host", "wild", "sub", "ns", "glue", "big",
        "many", "extra", "m1", "_sip", "_tcp", "sibling", "other", "no", "far",
    ];
    let zone = proptest::sample::select(vec!["example.", "eXAMPLE.", "example.", "org.", "."]);
    let labels = proptest::collection::vec(proptest::sample::select(labels), 0..3);
    (labels, zone).prop_map(|(labels, zone)| {
        if labels.is_empty() {
            return zone.to_owned();
        }
        format!("{}.{}", labels.join("."), zone.trim_start_matches('.'))
    })
}

fn any_type() -> impl Strategy<Value = Rtype> {
    proptest::sample::select(vec![
        Rtype::A,
        Rtype::AAAA,
        Rtype::NS,
        Rtype::SOA,
        Rtype::MX,
        Rtype::TXT,
        Rtype::SRV,
        Rtype::CNAME,
        Rtype::DNAME,
        Rtype::ANY,
        Rtype::DS,
        Rtype::IXFR,
        Rtype(65_280),
    ])
}

/// What is sent, with the most that may be.
fn sent(transport: Transport, octets: &[u8], with_chaos: bool) -> Option<Vec<u8>> {
    let state = if with_chaos { &*TALKATIVE } else { &*PLAIN };
    match respond(
        state,
        Local::default(),
        &arrival(transport, CLIENT, 1_000),
        octets,
    ) {
        Outcome::Send(octets) => Some(octets),
        Outcome::Silence | Outcome::Stream(_) => None,
    }
}

/// The sets of a section as records.
fn records(sets: &[Records<'_>]) -> Vec<Record> {
    let of_set = |set: &Records<'_>| {
        let (name, _) = Name::from_wire(&set.owner).expect("a name");
        let (rtype, ttl) = (set.rtype, set.ttl);
        let record = |data: &[u8]| Record {
            name: name.clone(),
            rtype,
            class: CLASS_IN,
            ttl,
            data: data.to_vec(),
        };
        set.data().map(record).collect::<Vec<_>>()
    };
    sets.iter().flat_map(of_set).collect()
}

/// Compression may show a name in the case of another place.
fn same(ours: &[Record], theirs: &[Record]) -> bool {
    ours.len() == theirs.len()
        && ours.iter().zip(theirs).all(|(ours, theirs)| {
            (&ours.name, ours.rtype, ours.ttl) == (&theirs.name, theirs.rtype, theirs.ttl)
                && ours.class == theirs.class
                && compare_data(ours.rtype, &ours.data, &theirs.data).is_eq()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn arbitrary_octets_bring_nothing_down(
        octets in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let tls = Transport::Tls { dot: true };
        for transport in [Transport::Udp, Transport::Tcp, tls, Transport::Quic] {
            if let Some(reply) = sent(transport, &octets, true) {
                prop_assert_eq!(&reply[..2], &octets[..2]);
                Message::read(&reply);
            }
        }
    }

    #[test]
    fn whatever_has_the_header_of_a_question_gets_a_reply_that_can_be_read(
        octets in nearly_a_request(),
        with_chaos in any::<bool>(),
    ) {
        let readable = octets.len() >= 12 && octets[2] & 0x80 == 0;
        let reply = sent(Transport::Udp, &octets, with_chaos);
        prop_assert_eq!(reply.is_some(), readable);
        if let Some(reply) = reply {
            let read = Message::read(&reply);
            prop_assert!(reply.len() <= 1_232);
            prop_assert_eq!(read.id.to_be_bytes(), [octets[0], octets[1]]);
            prop_assert!(read.has(0x8000));
            prop_assert_eq!(reply[2] >> 3 & 15, octets[2] >> 3 & 15);
            let request = Request::read(&octets).expect("it was answered");
            prop_assert_eq!(read.opt.is_some(), request.edns.is_some());
            if let Some(asked) = request.question {
                prop_assert_eq!(&read.question[..], asked.wire);
            }
            if let Some(fault) = request.fault {
                prop_assert_eq!(read.rcode(), u16::from(fault.rcode().code()));
                prop_assert!(read.answer.is_empty() && read.authority.is_empty());
            }
        }
    }

    #[test]
    fn reply_says_what_the_answer_is_whole_or_that_it_is_cut(
        name in any_name(),
        rtype in any_type().prop_filter("an answer", |rtype| *rtype != Rtype::IXFR),
        size in proptest::option::of(0..2_000_u16),
    ) {
        let asked = question(&name, rtype, 1);
        let additional: Vec<_> = size.map(|size| opt(size, 0, &[])).into_iter().collect();
        let request = message(0, [std::slice::from_ref(&asked), &[], &[], &additional]);
        let parsed: Name = name.parse().expect("a name");
        let question = Question { name: &parsed, rtype, class: CLASS_IN };
        let expected = answer(&PLAIN.zones, &question);
        let udp = sent(Transport::Udp, &request, false).expect("a reply");
        let tcp = sent(Transport::Tcp, &request, false).expect("a reply");
        let cap = size.map_or(512, |size| usize::from(size.clamp(512, 1_232)));
        prop_assert!(udp.len() <= cap);
        // What fits is the same by either way.
        prop_assert_eq!(tcp.len() <= cap, udp == tcp);
        for (octets, whole) in [(&udp, tcp.len() <= cap), (&tcp, true)] {
            let reply = Message::read(octets);
            prop_assert_eq!(&reply.question, &asked);
            prop_assert_eq!(reply.rcode(), u16::from(expected.rcode.code()));
            prop_assert_eq!(reply.has(0x0400), expected.authoritative);
            if reply.has(TC) {
                prop_assert!(!whole);
            }
            if !reply.has(TC) || !reply.authority.is_empty() {
                prop_assert!(same(&reply.answer, &records(&expected.answer)));
                prop_assert!(same(&reply.authority, &records(&expected.authority)));
            } else {
                prop_assert!(reply.answer.is_empty());
            }
            // The additional section has sets of the answer's, in order, each whole or not at all.
            let mut rest = &reply.additional[..];
            let mut missing = false;
            for set in &expected.additional {
                let set_records = records(std::slice::from_ref(set));
                match rest.get(..set_records.len()) {
                    Some(first) if same(first, &set_records) => rest = &rest[set_records.len()..],
                    _ => missing |= set.needed,
                }
            }
            prop_assert!(rest.is_empty());
            prop_assert!(!missing || reply.has(TC));
            prop_assert!(!whole || reply.additional.len() == records(&expected.additional).len());
        }
    }
}
