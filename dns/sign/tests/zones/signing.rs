//! What is decided about the signatures of a zone, and the zone as a whole.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::common::{FROM, TO, ZONE, lines, signed, signer, validity, zone};
use cfgdns_sign::{
    Algorithm, NoSoa, PrivateKey, Role, Set, SignatureCache, Signer, Signing, SigningError, Time,
    ZoneChain, ZoneKey, nodes, verifies,
};
use cfgdns_testing::keys::{key, zone_key};
use cfgdns_testing::zones::{any_zone, name};
use cfgdns_zone::{Name, Rdata, Rtype, Zone};
use expect_test::{Expect, expect};
use proptest::prelude::*;

const ED25519: Algorithm = Algorithm::Ed25519;
const P256: Algorithm = Algorithm::EcdsaP256Sha256;

#[track_caller]
fn refused(keys: Vec<ZoneKey>, expected: Expect) {
    let error = Signing::new(keys, validity()).expect_err("refused");
    expected.assert_eq(&error.to_string());
}

#[test]
fn signing_that_no_validator_would_take_is_refused() {
    let (a, b, c) = (key(ED25519, 1), key(ED25519, 2), key(P256, 3));
    let (keys, records, both) = (Role::KeySigning, Role::ZoneSigning, Role::Both);
    refused(vec![], expect!["a signed zone has a key"]);
    refused(
        vec![zone_key(&a, records, true)],
        expect![
            "no key of Ed25519 signs the keys (RFC 4035 2.2): one with the role KeySigning or Both"
        ],
    );
    refused(
        vec![zone_key(&a, keys, true), zone_key(&b, records, false)],
        expect![
            "no key of Ed25519 signs the zone (RFC 4035 2.2): one with the role ZoneSigning or Both"
        ],
    );
    // Each algorithm that is among the keys signs everything.
    refused(
        vec![zone_key(&a, both, true), zone_key(&c, both, false)],
        expect![
            "no key of EcdsaP256Sha256 signs the keys (RFC 4035 2.2): one with the role KeySigning or Both"
        ],
    );
    refused(
        vec![zone_key(&a, both, true), zone_key(&a, both, true)],
        expect!["two keys have the tag 60795: make another one"],
    );
    let wrong = ZoneKey {
        role: records,
        ..zone_key(&a, both, true)
    };
    refused(
        vec![wrong],
        expect![
            "key 60795 has the role ZoneSigning, and flags that say otherwise (RFC 4034 2.1.1)"
        ],
    );
    let many = (1..=9).map(|octet| zone_key(&key(ED25519, octet), both, true));
    refused(many.collect(), expect!["a zone has at most 8 keys, not 9"]);
    let enough = (1..=8).map(|octet| zone_key(&key(ED25519, octet), both, true));
    assert!(Signing::new(enough.collect(), validity()).is_ok());
    assert_eq!(
        Signing::new(vec![], validity()).expect_err("refused"),
        SigningError::NoKey
    );
}

#[test]
fn server_without_a_key_that_signs_is_told_which() {
    let (a, b, c) = (key(ED25519, 1), key(ED25519, 2), key(ED25519, 3));
    let keys = vec![
        zone_key(&a, Role::KeySigning, true),
        zone_key(&b, Role::ZoneSigning, true),
        zone_key(&c, Role::ZoneSigning, false),
    ];
    let signing = Arc::new(Signing::new(keys, validity()).expect("keys that sign"));
    let make = |keys: &[&Arc<PrivateKey>]| {
        let keys = keys.iter().copied().cloned().collect();
        Signer::new(&name("example."), Arc::clone(&signing), &keys)
    };
    let error = make(&[&a, &c]).expect_err("one is missing");
    let expected = "of the keys that sign example., this server lacks those with the tags [40118]";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.tags, [b.dnskey(false).key_tag()]);
    assert!(
        make(&[&c, &b, &a]).is_ok(),
        "in any order, with what it does not need"
    );
    assert!(
        make(&[&a, &b]).is_ok(),
        "one that does not sign need not be here"
    );
}

/// The parts of a chain without what was signed and by whom.
fn chain(zone: &Zone) -> String {
    let signer = signer(&[(key(ED25519, 1), Role::Both, true)]);
    let mut text = String::new();
    for (set, is_signed) in ZoneChain::new(&signer, nodes(zone)).expect("it has an SOA") {
        text.push_str(if is_signed { "signed   " } else { "unsigned " });
        match set.rtype {
            Rtype::NSEC => lines(&set, &mut text),
            rtype => {
                let (owner, _) = Name::from_wire(&set.owner).expect("a name");
                writeln!(text, "{owner} {rtype}").expect("a string");
            }
        }
    }
    text
}

/// RFC 4035 2.2: NS of a delegation and glue are not signed. 2.3: each name with authoritative data
/// and each delegation has an NSEC, names without records and those below a delegation have none;
/// the types of a delegation are NS, DS, RRSIG and NSEC. RFC 9077 3.2: the TTL is the lesser one.
#[test]
fn chain_goes_over_all_names_that_are_the_zones_own() {
    expect![[r#"
        signed   example. NS
        signed   example. SOA
        signed   example. MX
        signed   example. HTTPS
        signed   example. CAA
        signed   example. DNSKEY
        signed   example. 60 IN NSEC *.example. NS SOA MX RRSIG NSEC DNSKEY HTTPS CAA
        signed   *.example. TXT
        signed   *.example. 60 IN NSEC _sip._tcp.example. TXT RRSIG NSEC
        signed   _sip._tcp.example. SRV
        signed   _sip._tcp.example. 60 IN NSEC alias.example. SRV RRSIG NSEC
        signed   alias.example. CNAME
        signed   alias.example. 60 IN NSEC x.y.empty.example. CNAME RRSIG NSEC
        signed   x.y.empty.example. TXT
        signed   x.y.empty.example. 60 IN NSEC Mail.example. TXT RRSIG NSEC
        signed   Mail.example. A
        signed   Mail.example. 60 IN NSEC host.new.example. A RRSIG NSEC
        signed   host.new.example. A
        signed   host.new.example. 60 IN NSEC ns1.example. A RRSIG NSEC
        signed   ns1.example. A
        signed   ns1.example. AAAA
        signed   ns1.example. 60 IN NSEC old.example. A AAAA RRSIG NSEC
        signed   old.example. DNAME
        signed   old.example. 60 IN NSEC plain.example. DNAME RRSIG NSEC
        unsigned plain.example. NS
        signed   plain.example. 60 IN NSEC sub.example. NS RRSIG NSEC
        unsigned sub.example. NS
        signed   sub.example. DS
        signed   sub.example. 60 IN NSEC unknown.example. NS DS RRSIG NSEC
        unsigned hidden.sub.example. TXT
        unsigned ns.sub.example. A
        signed   unknown.example. TYPE65280
        signed   unknown.example. 60 IN NSEC *.deep.wild.example. RRSIG NSEC TYPE65280
        signed   *.deep.wild.example. A
        signed   *.deep.wild.example. 60 IN NSEC z-last.example. A RRSIG NSEC
        signed   z-last.example. A
        signed   z-last.example. 60 IN NSEC example. A RRSIG NSEC
    "#]]
    .assert_eq(&chain(&zone(ZONE)));
}

#[test]
fn zone_of_one_name_leads_to_itself_and_one_without_a_start_is_none() {
    let apex = zone("@ 30 SOA a. b. 1 2 3 4 60\n@ 60 NS ns.other.\n");
    expect![[r#"
        signed   example. NS
        signed   example. SOA
        signed   example. DNSKEY
        signed   example. 30 IN NSEC example. NS SOA RRSIG NSEC DNSKEY
    "#]]
    .assert_eq(&chain(&apex));
    let signer = signer(&[(key(ED25519, 1), Role::Both, true)]);
    let none = Zone::new(name("example."));
    assert_eq!(ZoneChain::new(&signer, nodes(&none)).err(), Some(NoSoa));
    let mut without = Zone::new(name("example."));
    let data = Rdata::parse(Rtype::NS, "a.", None).expect("a name");
    let inserted = without.insert(&name("example."), Rtype::NS, 1, data);
    inserted.expect("in the zone");
    assert_eq!(ZoneChain::new(&signer, nodes(&without)).err(), Some(NoSoa));
}

#[test]
fn every_server_makes_the_same_octets_with_or_without_a_cache() {
    for algorithm in [ED25519, P256] {
        let keys = [
            (key(algorithm, 1), Role::KeySigning, true),
            (key(algorithm, 2), Role::ZoneSigning, true),
        ];
        let one = signed(&signer(&keys), &zone(ZONE));
        let mut turned = keys.clone();
        turned.reverse();
        assert_eq!(one, signed(&signer(&turned), &zone(ZONE)));
        let signer = signer(&keys);
        let mut cache = SignatureCache::new(1_000);
        for _ in 0..2 {
            for (set, _) in ZoneChain::new(&signer, nodes(&zone(ZONE))).expect("it has an SOA") {
                let plain = signer.rrsigs(&set, None);
                assert_eq!(signer.rrsigs(&set, Some(&mut cache)), plain);
            }
        }
        assert_eq!(cache.made(), cache.found(), "the second time all are found");
    }
}

/// RFC 4034 6.2 and 6.3: case and order are not signed. RFC 4034 3.1.3: a wildcard is one label less.
#[test]
fn signature_is_of_the_canonical_form() {
    let signer = signer(&[(key(ED25519, 1), Role::Both, true)]);
    let set = |owner: &str, texts: &[&str]| {
        let owner = name(owner).as_wire().to_vec().into();
        let data = texts.iter().map(|text| {
            let data = Rdata::parse(Rtype::MX, text, None).expect("valid");
            data.as_wire().to_vec().into()
        });
        let (rtype, ttl, data) = (Rtype::MX, 60, data.collect());
        Set {
            owner,
            rtype,
            ttl,
            data,
        }
    };
    let one = signer.rrsigs(&set("www.example.", &["1 a.", "2 b."]), None);
    let same = signer.rrsigs(&set("WWW.Example.", &["2 B.", "1 A.", "2 b."]), None);
    assert_eq!(one, same);
    assert_ne!(one, signer.rrsigs(&set("www.example.", &["1 a."]), None));
    assert_eq!((one.len(), one[0][3]), (1, 2));
    assert_eq!(
        signer.rrsigs(&set("*.www.example.", &["1 a."]), None)[0][3],
        2
    );
    assert_eq!(
        signer.rrsigs(&set("a.*.example.", &["1 a."]), None)[0][3],
        3
    );
}

/// RFC 7344 4.1: the parent takes CDS and CDNSKEY from a key that it vouches for, which is none that
/// signs the zone alone.
#[test]
fn what_asks_the_parent_is_signed_by_the_key_that_it_vouches_for() {
    let ksk = key(ED25519, 1);
    let signer = signer(&[
        (Arc::clone(&ksk), Role::KeySigning, true),
        (key(ED25519, 2), Role::ZoneSigning, true),
        (key(ED25519, 3), Role::KeySigning, false),
    ]);
    let (owner, dnskey) = (name("example."), ksk.dnskey(true));
    let asks = [
        (Rtype::CDS, dnskey.cds(&owner), 2),
        (Rtype::CDNSKEY, dnskey.cdnskey(), 2),
        (Rtype::DNSKEY, dnskey.to_data(), 1),
    ];
    for (rtype, data, count) in asks {
        let set = Set {
            owner: owner.as_wire().into(),
            rtype,
            ttl: 60,
            data: vec![data.as_wire().into()],
        };
        let rrsigs = signer.rrsigs(&set, None);
        assert_eq!(rrsigs.len(), count, "{rtype}");
        let by_parent = (&owner, &[dnskey.clone()][..]);
        let valid = |rrsig: &Vec<u8>| verifies(rrsig, &set, by_parent, Time(FROM + 7));
        assert_eq!(rrsigs.iter().filter(|rrsig| valid(rrsig)).count(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The chain is one ring through all names that are the zone's own, in order; every signature
    /// verifies; and all records are there, once.
    #[test]
    fn chain_is_a_ring_and_every_signature_verifies(zone in any_zone("example.")) {
        let signer = signer(&[
            (key(ED25519, 1), Role::KeySigning, true),
            (key(ED25519, 2), Role::ZoneSigning, true),
        ]);
        let keys: Vec<_> = signer.signing().keys().iter().map(|key| key.dnskey.clone()).collect();
        let origin = name("example.");
        let hidden = |at: &Name| {
            let above = std::iter::successors(at.parent(), Name::parent);
            let mut above = above.take_while(|above| above.is_at_or_below(&origin));
            above.any(|above| {
                zone.set(&above, Rtype::DNAME).is_some()
                    || above != origin && zone.set(&above, Rtype::NS).is_some()
            })
        };
        let mut own: Vec<Name> = Vec::new();
        let mut next: Vec<Name> = Vec::new();
        let mut count = 0;
        for (set, is_signed) in ZoneChain::new(&signer, nodes(&zone)).expect("it has an SOA") {
            let (owner, _) = Name::from_wire(&set.owner).expect("a name");
            if set.rtype == Rtype::NSEC {
                own.push(owner.clone());
                next.push(Name::from_wire(&set.data[0]).expect("a name").0);
            } else if set.rtype != Rtype::DNSKEY {
                count += set.data.len();
            }
            let delegated = owner != origin && zone.set(&owner, Rtype::NS).is_some();
            let made = set.rtype == Rtype::NSEC || set.rtype == Rtype::DS;
            prop_assert_eq!(is_signed, !hidden(&owner) && (!delegated || made));
            let rrsigs = signer.rrsigs(&set, None);
            prop_assert_eq!(rrsigs.len(), 1);
            for (now, valid) in [(FROM, true), (TO, true), (FROM - 1, false), (TO + 1, false)] {
                let found = verifies(&rrsigs[0], &set, (&origin, &keys), Time(now));
                prop_assert_eq!(found, valid);
            }
        }
        prop_assert_eq!(count, zone.record_count());
        let expected: Vec<Name> = zone.nodes().map(|(name, _)| name.clone())
            .filter(|name| !hidden(name)).collect();
        prop_assert_eq!(&own, &expected);
        own.rotate_left(1);
        prop_assert_eq!(own, next);
    }
}
