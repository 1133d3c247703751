//! Incremental transfers (RFC 1995): the steps from the serial of a secondary to that of the zone.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use cfgdns_core::{HISTORY_OCTETS_MAX, HISTORY_STEPS_MAX, STREAM_OCTETS, State, Tree, Zones};
use cfgdns_zone::{Name, Rdata, Rtype, Soa, Zone};
use expect_test::{expect, expect_file};
use proptest::prelude::*;

use crate::transfers::{all, assert_same, insert, records, records_of, small_zone, stream};
use crate::{state, udp};
use cfgdns_testing::message::{Message, Record, hex, opt, transfer as request};
use cfgdns_testing::secondary::{Key, apply_to, key};

/// What a secondary makes of the zone that it has and of what it is sent (RFC 1995 4), and how many
/// steps that were; it takes nothing away that is not there, and adds nothing that is.
fn apply(zone: &Zone, sent: &[Record]) -> (BTreeSet<Key>, usize) {
    apply_to(&records_of(zone), sent)
}

/// Trees of zones that follow each other; the last has the history.
fn trees(zones: &[Zone]) -> Tree {
    let build = |zone| Tree::build(zone).expect("it has an SOA");
    let mut zones = zones.iter();
    let first = build(zones.next().expect("a zone"));
    zones.fold(first, |old, zone| build(zone).following(&old))
}

fn server(zones: &[Zone]) -> State {
    let mut state = state();
    state.zones = Zones::new([Arc::new(trees(zones))]);
    state
}

fn asked(since: u32) -> Vec<u8> {
    request(
        "example.",
        Rtype::IXFR,
        Some(since),
        Some(opt(1_232, 0, &[])),
    )
}

/// A zone with so many names that a change is smaller.
fn wide_zone(serial: u32) -> Zone {
    let mut zone = small_zone(serial);
    for number in 0..100 {
        insert(&mut zone, &format!("host{number}"), Rtype::A, "192.0.2.9");
    }
    zone
}

fn remove(zone: &mut Zone, owner: &str, rtype: Rtype) {
    let owner = Name::parse(owner.as_bytes(), Some(zone.origin())).expect("a name");
    let mut node = zone.node(&owner).expect("it is there").clone();
    node.remove(rtype).expect("it is there");
    zone.put(owner, node).expect("in the zone");
}

/// RFC 1995 4 and 7: the SOA of the zone first and last, between them the steps, not condensed; of
/// each the old SOA, what is gone, the new SOA, what is new.
#[test]
fn secondary_that_is_behind_is_sent_each_step() {
    let first = wide_zone(7);
    let mut second = wide_zone(8);
    remove(&mut second, "host5", Rtype::A);
    insert(&mut second, "host5", Rtype::A, "192.0.2.10");
    insert(&mut second, "host5", Rtype::TXT, "moved");
    let mut third = wide_zone(9);
    insert(&mut third, "new.deep", Rtype::A, "192.0.2.11");
    let zones = [first, second, third];
    let state = server(&zones);
    let sent = all(&state, stream(&state, &asked(7)));
    expect![[r#"
        399 octets, NOERROR aa
        opt: version 0 udp 1232
        question: example. IXFR
        answer: eXample. 3600 SOA ns1.eXample. root.eXample. 9 3600 600 604800 60
        answer: eXample. 3600 SOA ns1.eXample. root.eXample. 7 3600 600 604800 60
        answer: host5.eXample. 3600 A 192.0.2.9
        answer: eXample. 3600 SOA ns1.eXample. root.eXample. 8 3600 600 604800 60
        answer: host5.eXample. 3600 A 192.0.2.10
        answer: host5.eXample. 3600 TXT "moved"
        answer: eXample. 3600 SOA ns1.eXample. root.eXample. 8 3600 600 604800 60
        answer: host5.eXample. 3600 A 192.0.2.10
        answer: host5.eXample. 3600 TXT "moved"
        answer: eXample. 3600 SOA ns1.eXample. root.eXample. 9 3600 600 604800 60
        answer: new.deep.eXample. 3600 A 192.0.2.11
        answer: host5.eXample. 3600 A 192.0.2.9
        answer: eXample. 3600 SOA ns1.eXample. root.eXample. 9 3600 600 604800 60
    "#]]
    .assert_eq(&Message::read(&sent[0]).text());
    assert!(stream(&state, &asked(7)).is_incremental());
    assert_eq!(apply(&zones[0], &records(&sent)).1, 2);
    let sent = all(&state, stream(&state, &asked(8)));
    assert_eq!(apply(&zones[1], &records(&sent)).1, 1);
    // RFC 1995 2: by UDP too when it fits; the test of a large step has one that does not.
    assert_eq!(udp(&state, &asked(8)).answer, records(&sent));
    // A serial that never was, and one from before.
    for since in [5, 6, 0xffff_ffff] {
        let sent = all(&state, stream(&state, &asked(since)));
        assert_same(&records(&sent), &records_of(&zones[2]));
    }
    let trees = trees(&zones);
    let serials: Vec<_> = trees.history().serials().collect();
    assert_eq!((serials, trees.history().steps()), (vec![7, 8], 2));
}

/// RFC 1995 5: steps are of no use where together they are longer than the zone.
#[test]
fn way_that_is_longer_than_the_zone_is_the_zone() {
    let mut zones = vec![wide_zone(1)];
    for serial in 2..=20 {
        let mut zone = wide_zone(serial);
        for number in 0..20 {
            let address = format!("198.51.100.{serial}");
            insert(&mut zone, &format!("host{number}"), Rtype::A, &address);
        }
        zones.push(zone);
    }
    let state = server(&zones);
    let whole = all(&state, stream(&state, &asked(0)));
    let forms: Vec<_> = (1..20)
        .map(|since| {
            let sent = all(&state, stream(&state, &asked(since)));
            let expected: BTreeSet<_> = records_of(&zones[19]).iter().map(key).collect();
            let place = usize::try_from(since - 1).expect("small");
            let (content, steps) = apply(&zones[place], &records(&sent));
            assert_eq!(content, expected);
            let octets = |messages: &[Vec<u8>]| messages.iter().map(Vec::len).sum::<usize>();
            assert!(octets(&sent) <= octets(&whole) + 500);
            steps
        })
        .collect();
    // The last steps go as such, and what is before them as the zone.
    let first = forms.iter().position(|steps| *steps > 0).expect("steps");
    assert!((10..18).contains(&first), "{forms:?}");
    assert!(forms[..first].iter().all(|steps| *steps == 0));
    let expected: Vec<_> = (1..=19 - first).rev().collect();
    assert_eq!(&forms[first..], expected);
}

/// The history is bounded by steps, by octets, and by what its tree takes.
#[test]
fn history_forgets_its_oldest_steps() {
    let build = |zone: &Zone| Tree::build(zone).expect("it has an SOA");
    let mut tree = build(&wide_zone(1));
    for serial in 2..400 {
        tree = build(&wide_zone(serial)).following(&tree);
        assert!(tree.history().octets() <= HISTORY_OCTETS_MAX.min(2 * tree.octets()));
    }
    let steps = tree.history().steps();
    assert!((10..=HISTORY_STEPS_MAX).contains(&steps), "{steps}");
    let last = tree.history().serials().last().expect("a step");
    assert_eq!((last, tree.soa().serial), (398, 399));
    // Steps without end: of a zone that is larger than all of them.
    let large = |serial: u32| {
        let mut zone = small_zone(serial);
        for number in 0..500 {
            insert(&mut zone, &format!("host{number}"), Rtype::A, "192.0.2.9");
        }
        build(&zone)
    };
    let mut tree = large(1);
    for serial in 2..=200 {
        let mut next = zone_of(&tree, serial);
        insert(
            &mut next,
            "host7",
            Rtype::A,
            &format!("198.51.100.{serial}"),
        );
        tree = build(&next).following(&tree);
    }
    assert_eq!(tree.history().steps(), HISTORY_STEPS_MAX);
    // A change that is larger than the zone afterwards leaves no way.
    let tree = build(&small_zone(201)).following(&tree);
    assert_eq!((tree.history().steps(), tree.history().octets()), (0, 0));
}

/// The zone that a tree was built from, with another serial.
fn zone_of(tree: &Tree, serial: u32) -> Zone {
    let mut zone = Zone::new(tree.origin().clone());
    for node in tree.nodes() {
        let (name, _) = Name::from_wire(tree.name(node)).expect("a name");
        for set in tree.sets(node) {
            for data in set.data {
                let data = Rdata::from_wire(set.rtype, data).expect("valid");
                let data = match Soa::from_data(&data).filter(|_| set.rtype == Rtype::SOA) {
                    Some(soa) => Soa { serial, ..soa }.to_data(),
                    None => data,
                };
                zone.insert(&name, set.rtype, set.ttl, data)
                    .expect("in the zone");
            }
        }
    }
    zone
}

/// RFC 1982, and that a serial says one content: where that is broken there is no way.
#[test]
fn serial_that_does_not_grow_ends_the_history() {
    let build = |zone: &Zone| Tree::build(zone).expect("it has an SOA");
    let known = build(&wide_zone(8)).following(&build(&wide_zone(7)));
    assert_eq!(known.history().steps(), 1);
    // The same again is nothing new.
    let again = build(&wide_zone(8)).following(&known);
    assert_eq!(again.history().serials().collect::<Vec<_>>(), [7]);
    let mut changed = wide_zone(8);
    insert(&mut changed, "new", Rtype::A, "192.0.2.1");
    for zone in [changed, wide_zone(7), wide_zone(0x8000_0009)] {
        assert_eq!(build(&zone).following(&known).history().steps(), 0);
    }
    // Over the end of the ring, and not so far that an old serial would look newer.
    let wrapped = build(&wide_zone(2)).following(&build(&wide_zone(0xffff_fff0)));
    assert_eq!(
        wrapped.history().serials().collect::<Vec<_>>(),
        [0xffff_fff0]
    );
    let mut tree = build(&wide_zone(0));
    for serial in [0x4000_0000, 0x7fff_ffff, 0x8000_0000] {
        tree = build(&wide_zone(serial)).following(&tree);
    }
    let serials: Vec<_> = tree.history().serials().collect();
    assert_eq!(serials, [0x4000_0000, 0x7fff_ffff]);
}

/// A step of several messages: a set that none holds.
#[test]
fn step_that_is_larger_than_a_message_goes_in_several() {
    let mut old = wide_zone(7);
    for number in 0..2_000 {
        insert(&mut old, &format!("host{number}.x"), Rtype::A, "192.0.2.9");
    }
    let mut new = zone_of(&Tree::build(&old).expect("it has an SOA"), 8);
    for number in 0..1_500 {
        insert(
            &mut new,
            "many",
            Rtype::MX,
            &format!("{number} target{number}"),
        );
    }
    let zones = [old, new];
    let state = server(&zones);
    let sent = all(&state, stream(&state, &asked(7)));
    assert!(sent.len() > 1 && sent.iter().all(|message| message.len() <= STREAM_OCTETS));
    let (content, steps) = apply(&zones[0], &records(&sent));
    assert_eq!((content.len(), steps), (records_of(&zones[1]).len() - 1, 1));
    assert_eq!(udp(&state, &asked(7)).answer.len(), 1);
}

/// What dnspython read out of these octets: `dns/testdata/transfers/README.md`.
#[test]
fn transfers_are_those_that_dnspython_applied() {
    let mut second = wide_zone(8);
    remove(&mut second, "host5", Rtype::A);
    insert(&mut second, "HOST5", Rtype::TXT, "moved");
    let mut third = zone_of(&Tree::build(&second).expect("it has an SOA"), 9);
    remove(&mut third, "sub", Rtype::NS);
    for number in 0..700 {
        insert(
            &mut third,
            "many",
            Rtype::MX,
            &format!("{number} target{number}"),
        );
    }
    let mut fourth = zone_of(&Tree::build(&third).expect("it has an SOA"), 10);
    insert(&mut fourth, "*.wild", Rtype::MX, "20 mail");
    let zones = [wide_zone(7), second, third, fourth];
    let mut text = String::new();
    for (number, zone) in zones.iter().enumerate() {
        let serial = zone.soa().expect("an SOA").serial;
        let state = server(&zones[..=number]);
        let axfr = request("example.", Rtype::AXFR, None, None);
        let last = server(&zones);
        for (what, sent) in [
            ("axfr", all(&state, stream(&state, &axfr))),
            ("ixfr", all(&last, stream(&last, &asked(serial)))),
        ] {
            for message in sent {
                writeln!(text, "{what} {serial} {}", hex(&message)).expect("a string");
            }
        }
    }
    expect_file!["../../../testdata/transfers/messages.txt"].assert_eq(&text);
}

fn any_name() -> impl Strategy<Value = String> {
    let label = proptest::sample::select(vec!["a", "B", "b", "*"]);
    proptest::collection::vec(label, 0..3).prop_map(|labels| {
        if labels.is_empty() {
            return "@".to_owned();
        }
        labels.join(".")
    })
}

/// A name, a type, a TTL and data, where the case of names differs now and then.
fn any_record() -> impl Strategy<Value = (String, Rtype, u32, String)> {
    let data = prop_oneof![
        (0..4_u8).prop_map(|last| (Rtype::A, format!("192.0.2.{last}"))),
        any_name().prop_map(|name| (Rtype::NS, name)),
        any_name().prop_map(|name| (Rtype::MX, format!("1 {name}"))),
        any_name().prop_map(|name| (Rtype::SVCB, format!("1 {name}"))),
    ];
    (any_name(), data, 60..62_u32).prop_map(|(name, (rtype, text), ttl)| (name, rtype, ttl, text))
}

/// Zones that follow each other, and how far their serials are apart.
fn any_zones() -> impl Strategy<Value = Vec<Zone>> {
    let step = prop_oneof![Just(1), 1..100_u32, Just(0x1000_0000)];
    let version = (proptest::collection::vec(any_record(), 0..10), step);
    let first = prop_oneof![Just(1), Just(0xffff_fffd_u32)];
    (proptest::collection::vec(version, 1..6), first).prop_map(|(versions, first)| {
        let mut serial = first;
        let zone = |(records, step): (Vec<(String, Rtype, u32, String)>, u32)| {
            serial = serial.wrapping_add(step);
            let mut zone = wide_zone(serial);
            for (owner, rtype, ttl, text) in records {
                let origin = zone.origin().clone();
                let data = Rdata::parse(rtype, &text, Some(&origin)).expect(&text);
                let owner = Name::parse(owner.as_bytes(), Some(&origin)).expect("a name");
                zone.insert(&owner, rtype, ttl, data).expect("in the zone");
            }
            zone
        };
        versions.into_iter().map(zone).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever a secondary has of the last versions, it has the zone then, to the last octet; and
    /// every server that saw the same versions sends the same.
    #[test]
    fn what_is_sent_makes_the_zone_out_of_what_the_secondary_has(zones in any_zones()) {
        let (here, there) = (server(&zones), server(&zones));
        let last = zones.last().expect("a zone");
        let expected: BTreeSet<_> = records_of(last).iter().map(key).collect();
        let mut stepwise = 0;
        for zone in &zones {
            let asked = asked(zone.soa().expect("an SOA").serial);
            let sent = all(&here, stream(&here, &asked));
            let (content, steps) = apply(zone, &records(&sent));
            prop_assert_eq!(&content, &expected);
            prop_assert_eq!(&sent, &all(&there, stream(&there, &asked)));
            let by_udp = udp(&here, &asked).answer;
            prop_assert!(by_udp.len() == 1 || by_udp == records(&sent));
            stepwise += steps;
        }
        prop_assert!(zones.len() == 1 || stepwise > 0);
    }
}
