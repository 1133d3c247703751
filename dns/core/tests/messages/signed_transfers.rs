//! Transfers of signed zones: what a secondary gets is what a signer of whole zones makes, and each
//! step makes the new signed zone out of the old one.

use std::collections::BTreeSet;
use std::sync::Arc;

use cfgdns_core::{LiveSet, State, Tree, Zones};
use cfgdns_sign::{Algorithm, SignedZone, Signer, nodes};
use cfgdns_zone::{Name, Rdata, Rtype, Zone};
use proptest::prelude::*;

use crate::dnssec::signer;
use crate::state;
use crate::transfers::{all, insert, records, small_zone, stream};
use cfgdns_testing::message::{Record, opt, transfer as request};
use cfgdns_testing::secondary::{Key, apply_to, key};
use cfgdns_testing::zones::name;

fn sign(tree: &Tree, signer: &Arc<Signer>) -> Tree {
    tree.signed(Arc::clone(signer)).expect("its signer")
}

fn build(zone: &Zone, signer: &Arc<Signer>) -> Tree {
    sign(&Tree::build(zone).expect("it has an SOA"), signer)
}

fn server(tree: Tree) -> State {
    State {
        zones: Zones::new([Arc::new(tree)]),
        ..state()
    }
}

/// What a secondary is sent that has this serial, or none, and whether that is not the whole zone.
fn sent(tree: &Tree, since: Option<u32>) -> (Vec<Record>, bool) {
    let state = server(tree.clone());
    let rtype = if since.is_some() {
        Rtype::IXFR
    } else {
        Rtype::AXFR
    };
    let stream = stream(&state, &request("example.", rtype, since, None));
    let incremental = stream.is_incremental();
    (records(&all(&state, stream)), incremental)
}

fn keys(records: &[Record]) -> BTreeSet<Key> {
    records.iter().map(key).collect()
}

/// The records that a signer of whole zones makes.
fn signed_records(zone: &Zone, signer: &Signer) -> BTreeSet<Key> {
    let sets = SignedZone::new(signer, nodes(zone)).expect("it has an SOA");
    let records = sets.flat_map(|set| {
        let (owner, rtype, ttl) = (set.owner.to_vec(), set.rtype, set.ttl);
        let data = set.data.into_iter().map(|data| data.to_vec());
        let records: Vec<Key> = data.map(|data| (owner.clone(), rtype, ttl, data)).collect();
        records
    });
    records.collect()
}

/// Some hundred names: the records and signatures of one go over the end of a message.
fn wide_zone(serial: u32) -> Zone {
    let mut zone = small_zone(serial);
    for number in 0..100 {
        insert(&mut zone, &format!("host{number}"), Rtype::A, "192.0.2.9");
        insert(&mut zone, &format!("host{number}"), Rtype::TXT, "text");
    }
    zone
}

#[test]
fn whole_zone_has_its_chain_and_all_signatures() {
    for algorithm in [Algorithm::Ed25519, Algorithm::EcdsaP256Sha256] {
        let signer = signer(algorithm);
        for zone in [small_zone(7), wide_zone(7)] {
            let (sent, _) = sent(&build(&zone, &signer), None);
            let (first, last) = (&sent[0], &sent[sent.len() - 1]);
            assert_eq!((first.rtype, key(first)), (Rtype::SOA, key(last)));
            let expected = signed_records(&zone, &signer);
            assert_eq!(sent.len(), expected.len() + 1, "each record is there once");
            assert_eq!(keys(&sent), expected);
        }
    }
}

#[test]
fn steps_have_the_signatures_that_change_and_no_others() {
    let signer = signer(Algorithm::Ed25519);
    let (first, mut second) = (wide_zone(7), wide_zone(8));
    insert(&mut second, "host50a", Rtype::A, "192.0.2.10");
    insert(&mut second, "host7", Rtype::A, "192.0.2.10");
    let old = build(&first, &signer);
    let new = build(&second, &signer).following(&old);
    let (steps, incremental) = sent(&new, Some(7));
    assert!(incremental);
    let (made, count) = apply_to(&sent(&old, None).0, &steps);
    assert_eq!((made, count), (signed_records(&second, &signer), 1));
    // Four SOA records. Gone: their signature, that of host7's addresses, and host50's NSEC with its
    // own. New: the same, an address of host7, and the new name with two signatures and an NSEC.
    assert_eq!(steps.len(), 4 + 4 + 4 + 1 + 4);
    assert!(!sent(&new, Some(6)).1, "a serial that never was");
}

#[test]
fn other_keys_or_times_make_the_whole_zone_another() {
    let (one, other) = (
        signer(Algorithm::Ed25519),
        signer(Algorithm::EcdsaP256Sha256),
    );
    let zones = [wide_zone(7), wide_zone(8), wide_zone(9), wide_zone(10)];
    let unsigned = Tree::build(&zones[0]).expect("it has an SOA");
    let signed = build(&zones[1], &one).following(&unsigned);
    let rolled = build(&zones[2], &other).following(&signed);
    let last = Tree::build(&zones[3])
        .expect("it has an SOA")
        .following(&rolled);
    for (tree, since) in [(&signed, 7), (&rolled, 8), (&last, 9)] {
        assert!(!sent(tree, Some(since)).1, "{since}");
    }
    assert_eq!(
        keys(&sent(&rolled, Some(8)).0),
        signed_records(&zones[2], &other)
    );
}

#[test]
fn zone_whose_keys_are_not_here_is_not_transferred() {
    let tree = Tree::build(&small_zone(7))
        .expect("it has an SOA")
        .lacking_keys("key 1");
    let state = server(tree);
    for (rtype, since) in [(Rtype::AXFR, None), (Rtype::IXFR, Some(6))] {
        let reply = crate::tcp(
            &state,
            &request("example.", rtype, since, Some(opt(1_232, 0, &[]))),
        );
        assert_eq!((reply.rcode(), reply.answer.len()), (2, 0));
    }
}

/// A role moves: only what it moves is looked at, and the chain where a name comes or goes.
#[test]
fn steps_of_sets_that_change_by_themselves_are_those_of_the_whole_zone() {
    let signer = signer(Algorithm::Ed25519);
    let zone = wide_zone(7);
    let live = |last: Option<u8>| LiveSet {
        name: name("host33a.example."),
        rtype: Rtype::A,
        ttl: 5,
        data: last
            .map(|last| Rdata::from_wire(Rtype::A, &[192, 0, 2, last]).expect("four octets"))
            .into_iter()
            .collect(),
        weights: Vec::new(),
    };
    let names = BTreeSet::from([name("host33a.example.")]);
    let packed = Tree::build_with(&zone, &names).expect("it has an SOA");
    let packed = sign(&packed, &signer);
    let mut old = packed.with(7, [live(None)]).expect("it has a place");
    for (serial, last) in [(8, Some(1)), (9, Some(2)), (10, None), (11, Some(3))] {
        let new = packed.with(serial, [live(last)]).expect("it has a place");
        let new = new.following(&old);
        let (steps, incremental) = sent(&new, Some(serial - 1));
        assert!(incremental && new.same_records(&old));
        let (made, count) = apply_to(&sent(&old, None).0, &steps);
        assert_eq!((made, count), (keys(&sent(&new, None).0), 1), "{last:?}");
        let chain = steps
            .iter()
            .filter(|record| record.rtype == Rtype::NSEC)
            .count();
        // The name's own, and that of the one before it twice: not where only an address moves.
        assert_eq!(chain, if serial == 9 { 0 } else { 3 });
        old = new;
    }
}

/// Names that meet in every way: above, below, beside each other.
fn any_record() -> impl Strategy<Value = (String, Rtype, &'static str)> {
    let label = proptest::sample::select(vec!["a", "b", "*"]);
    let labels = proptest::collection::vec(label, 1..4);
    let data = proptest::sample::select(vec![
        (Rtype::A, "192.0.2.1"),
        (Rtype::A, "192.0.2.2"),
        (Rtype::NS, "ns.other."),
        (Rtype::DNAME, "other."),
        (Rtype::DS, "1 8 250 00"),
        (Rtype::TXT, "text"),
    ]);
    (labels, data).prop_map(|(labels, (rtype, text))| (labels.join("."), rtype, text))
}

fn zone_of(serial: u32, records: &[(String, Rtype, &str)]) -> Zone {
    let mut zone = Zone::new(name("example."));
    insert(
        &mut zone,
        "@",
        Rtype::SOA,
        &format!("ns1 root {serial} 3600 600 604800 60"),
    );
    insert(&mut zone, "@", Rtype::NS, "ns.other.");
    // So that steps are smaller than the zone.
    for number in 0..30 {
        insert(&mut zone, &format!("host{number}"), Rtype::A, "192.0.2.9");
    }
    for (owner, rtype, text) in records {
        insert(&mut zone, owner, *rtype, text);
    }
    zone
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn signed_zone_and_a_step_make_the_next_signed_zone(
        before in proptest::collection::vec(any_record(), 0..6),
        after in proptest::collection::vec(any_record(), 0..6),
    ) {
        let signer = signer(Algorithm::Ed25519);
        let (first, second) = (zone_of(7, &before), zone_of(8, &after));
        let old = build(&first, &signer);
        let new = build(&second, &signer).following(&old);
        let (whole, _) = sent(&old, None);
        prop_assert_eq!(keys(&whole), signed_records(&first, &signer));
        let (steps, incremental) = sent(&new, Some(7));
        let (made, count) = apply_to(&whole, &steps);
        prop_assert_eq!(count, usize::from(incremental));
        prop_assert_eq!(made, signed_records(&second, &signer));
    }
}

/// RFC 4034 3.1.7: the signer is the zone.
#[test]
fn origin_may_be_written_in_any_case() {
    let zone = small_zone(7);
    assert_eq!(zone.origin().to_string(), "eXample.");
    let signer = signer(Algorithm::Ed25519);
    let (sent, _) = sent(&build(&zone, &signer), None);
    let rrsig = sent
        .iter()
        .find(|record| record.rtype == Rtype::RRSIG)
        .expect("one");
    let (signed_by, _) = Name::from_wire(&rrsig.data[18..]).expect("a name");
    // RFC 4034 6.2: in lower case, as it is signed.
    assert_eq!(signed_by.to_string(), "example.");
}
