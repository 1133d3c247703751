//! Sets that change by themselves, beside the records of a zone: what follows a role is answered as
//! if an operator had written it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use cfgdns_core::{
    BuildError, CLASS_IN, ExtendedError, LiveSet, Question, Reply, Tree, Zones, answer,
};
use cfgdns_testing::zones::{self, name};
use cfgdns_zone::{Name, Node, Rdata, RrSet, Rtype, Zone};
use proptest::prelude::*;

fn zone(text: &str) -> Zone {
    let head = "$TTL 3600\n@ SOA ns.other. root 1 2 3 4 60\n@ NS ns.other.\n";
    zones::zone("example.", &format!("{head}{text}"))
}

fn address(last: u8) -> Rdata {
    Rdata::from_wire(Rtype::A, &[192, 0, 2, last]).expect("four octets")
}

fn addresses(at: &str, ttl: u32, last: &[u8]) -> LiveSet {
    LiveSet {
        name: name(at),
        rtype: Rtype::A,
        ttl,
        data: last.iter().copied().map(address).collect(),
        weights: Vec::new(),
    }
}

fn names(sets: &[LiveSet]) -> BTreeSet<Name> {
    let mut names = BTreeSet::new();
    for set in sets {
        // The first says how the name is written, as in a zone.
        names.insert(set.name.clone());
    }
    names
}

/// Everything that a reply says, but for the server's view of where it comes from.
fn written(reply: &Reply<'_>) -> String {
    let mut text = format!("{:?} AA={}", reply.rcode, reply.authoritative);
    for section in [&reply.answer, &reply.authority, &reply.additional] {
        for set in section {
            let (owner, _) = Name::from_wire(&set.owner).expect("a name");
            for data in set.data() {
                let data = Rdata::from_wire(set.rtype, data).expect("valid data");
                let data = data.text(set.rtype, None);
                write!(text, " | {owner} {} {} {data}", set.ttl, set.rtype).expect("a string");
            }
        }
        text.push_str(" ;");
    }
    text
}

fn ask(tree: &Tree, at: &Name, rtype: Rtype) -> String {
    let zones = Zones::new([Arc::new(tree.clone())]);
    let class = CLASS_IN;
    written(&answer(
        &zones,
        &Question {
            name: at,
            rtype,
            class,
        },
    ))
}

#[test]
fn name_that_follows_has_the_sets_of_now_and_the_records_of_its_zone() {
    let sets = [addresses("www.example.", 5, &[1, 2])];
    let packed = Tree::build_with(&zone("WWW TXT hello\n"), &names(&sets)).expect("an SOA");
    let tree = packed.with(7, sets).expect("it has a place");
    let www = name("www.example.");
    assert_eq!(
        ask(&tree, &www, Rtype::A),
        "NoError AA=true | WWW.example. 5 A 192.0.2.1 | WWW.example. 5 A 192.0.2.2 ; ; ;"
    );
    assert_eq!(
        ask(&tree, &www, Rtype::TXT),
        "NoError AA=true | WWW.example. 3600 TXT \"hello\" ; ; ;"
    );
    let start = ask(&tree, &name("example."), Rtype::SOA);
    assert!(
        start.contains("SOA ns.other. root.example. 7 2 3 4 60"),
        "{start}"
    );
    assert_eq!(tree.soa().serial, 7);
    // The holder goes to another place: the packed records are the same ones.
    let moved = tree
        .with(8, [addresses("www.example.", 5, &[9])])
        .expect("it has a place");
    assert!(moved.same_records(&tree) && moved.same_records(&packed));
    assert!(ask(&moved, &www, Rtype::A).contains("5 A 192.0.2.9"));
    assert!(ask(&tree, &www, Rtype::A).contains("5 A 192.0.2.1"));
}

#[test]
fn nobody_holds_the_role_is_no_data_and_not_kept_for_longer_than_an_answer() {
    let none = |at: &str, rtype| LiveSet {
        rtype,
        ..addresses(at, 5, &[])
    };
    let sets = [
        none("www.example.", Rtype::A),
        none("db.example.", Rtype::CNAME),
    ];
    let records = zone("* A 192.0.2.77\nwww TXT hello\n");
    let packed = Tree::build_with(&records, &names(&sets)).expect("an SOA");
    let tree = packed.with(7, sets).expect("it has a place");
    let nothing = |ttl| {
        format!("NoError AA=true ; | example. {ttl} SOA ns.other. root.example. 7 2 3 4 60 ; ;")
    };
    // Not the wildcard: the name exists (RFC 4592 2.2.1).
    assert_eq!(ask(&tree, &name("www.example."), Rtype::A), nothing(5));
    assert_eq!(ask(&tree, &name("db.example."), Rtype::A), nothing(5));
    assert_eq!(ask(&tree, &name("db.example."), Rtype::CNAME), nothing(5));
    // What else there could be is denied with it.
    let db = [none("db.example.", Rtype::A)];
    let packed = Tree::build_with(&zone(""), &names(&db)).expect("an SOA");
    let followed = packed.with(7, db).expect("it has a place");
    assert_eq!(ask(&followed, &name("db.example."), Rtype::ANY), nothing(5));
    // That no role decides on.
    assert_eq!(ask(&tree, &name("www.example."), Rtype::MX), nothing(60));
    assert!(ask(&tree, &name("other.example."), Rtype::A).contains("192.0.2.77"));
    assert_eq!(
        ask(&tree, &name("www.example."), Rtype::ANY),
        "NoError AA=true | www.example. 3600 TXT \"hello\" ; ; ;"
    );
}

#[test]
fn sets_go_only_where_the_tree_was_built_for_them() {
    let live = BTreeSet::from([name("www.example.")]);
    let tree = Tree::build_with(&zone("ftp TXT hello\n"), &live).expect("an SOA");
    for at in ["ftp.example.", "none.example.", "www.example.org."] {
        let error = tree.with(2, [addresses(at, 5, &[1])]).expect_err(at);
        assert_eq!(error, BuildError::NoPlace(name(at)));
    }
    let outside = BTreeSet::from([name("www.example.org.")]);
    let error = Tree::build_with(&zone(""), &outside).expect_err("another zone's");
    assert_eq!(
        error.to_string(),
        "www.example.org. is not in the zone example."
    );
}

#[test]
fn each_record_comes_first_as_often_as_its_weight_says() {
    let sets = [LiveSet {
        weights: vec![1, 3, 4],
        ..addresses("www.example.", 5, &[1, 2, 3])
    }];
    let packed = Tree::build_with(&zone(""), &names(&sets)).expect("an SOA");
    let tree = packed.with(2, sets).expect("it has a place");
    let zones = Zones::new([Arc::new(tree)]);
    let question = Question {
        name: &name("www.example."),
        rtype: Rtype::A,
        class: CLASS_IN,
    };
    let mut first = [0_u32; 3];
    for number in 0..=u16::MAX {
        let mut reply = answer(&zones, &question);
        reply.answer[0].draw(number);
        let data: Vec<&[u8]> = reply.answer[0].data().collect();
        let last = data[0][3];
        first[usize::from(last) - 1] += 1;
        let all: BTreeSet<&[u8]> = data.iter().copied().collect();
        assert_eq!((data.len(), all.len()), (3, 3), "each is there, once");
    }
    assert_eq!(first, [8_192, 24_576, 32_768]);
}

#[test]
fn closed_zone_says_servfail_and_its_parent_goes_on() {
    let parent =
        Arc::new(Tree::build(&zone("sub NS ns.other.\nsub DS 1 8 250 00\n")).expect("an SOA"));
    let closed = Arc::new(Tree::closed(&name("sub.example."), "a test"));
    let zones = Zones::new([parent, closed]);
    let ask = |at: &str, rtype| {
        let (name, class) = (&name(at), CLASS_IN);
        let reply = answer(&zones, &Question { name, rtype, class });
        let why = reply.extended_error.map_or(0, ExtendedError::code);
        format!("{} EDE {why}", written(&reply))
    };
    for at in ["sub.example.", "www.sub.example."] {
        assert_eq!(ask(at, Rtype::SOA), "ServFail AA=false ; ; ; EDE 24");
    }
    assert!(ask("sub.example.", Rtype::DS).starts_with("NoError AA=true | sub.example. 3600 DS"));
    assert!(ask("www.example.", Rtype::A).starts_with("NxDomain"));
}

/// Names of up to three labels of three kinds, in either case.
fn any_name() -> impl Strategy<Value = Name> {
    let label = proptest::sample::select(vec!["a", "B", "b", "*"]);
    proptest::collection::vec(label, 0..3).prop_map(|labels| {
        let labels = labels.iter().chain([&"example."]).copied();
        name(&labels.collect::<Vec<_>>().join("."))
    })
}

fn any_record() -> impl Strategy<Value = (Name, Rtype, String)> {
    let data = prop_oneof![
        (0..3_u8).prop_map(|last| (Rtype::A, format!("192.0.2.{last}"))),
        any_name().prop_map(|name| (Rtype::CNAME, name.to_string())),
        any_name().prop_map(|name| (Rtype::MX, format!("1 {name}"))),
        any_name().prop_map(|name| (Rtype::NS, name.to_string())),
    ];
    (any_name(), data).prop_map(|(name, (rtype, text))| (name, rtype, text))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn answers_are_those_of_a_zone_with_the_sets_in_it(
        records in proptest::collection::vec(any_record(), 0..8),
        followed in proptest::collection::vec((any_name(), 0..3_u8, any::<bool>()), 0..4),
        at in any_name(),
        rtype in proptest::sample::select(
            vec![Rtype::A, Rtype::CNAME, Rtype::MX, Rtype::ANY, Rtype::SOA]
        ),
    ) {
        let mut own = zone("");
        for (name, rtype, text) in &records {
            let data = Rdata::parse(*rtype, text, None).expect(text);
            own.insert(name, *rtype, 60, data).expect("in the zone");
        }
        let mut both = own.clone();
        let mut live: Vec<LiveSet> = Vec::new();
        for (name, last, alias) in &followed {
            let (rtype, data) = match alias {
                false => (Rtype::A, address(*last)),
                true => (Rtype::CNAME, Rdata::parse(Rtype::CNAME, "b.example.", None)
                    .expect("a name")),
            };
            both.replace(name, RrSet::new(rtype, 5, data.clone())).expect("in the zone");
            let data = vec![data];
            let weights = Vec::new();
            live.push(LiveSet { name: name.clone(), rtype, ttl: 5, data, weights });
        }
        let packed = Tree::build_with(&own, &names(&live)).expect("it has an SOA");
        let tree = packed.with(1, live).expect("they have places");
        let whole = Tree::build(&both).expect("it has an SOA");
        prop_assert_eq!(ask(&tree, &at, rtype), ask(&whole, &at, rtype));
        // And there is nothing else in it.
        for (name, node) in both.nodes() {
            let id = tree.node(name).expect("each name is in the tree");
            let mut found = Node::default();
            for set in tree.sets(id) {
                for data in set.data {
                    let data = Rdata::from_wire(set.rtype, data).expect("valid data");
                    found.insert(set.rtype, set.ttl, data).expect("few records");
                }
            }
            prop_assert_eq!(&found, node);
        }
    }
}
