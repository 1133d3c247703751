//! Properties of answers, over zones of a few labels that meet in every way, with a model that looks
//! at all names of the zone where the tree walks.

use std::sync::Arc;

use cfgdns_core::{CLASS_IN, Lookup, Question, Rcode, Tree, Zones, answer};
use cfgdns_testing::zones::{any_name, any_zone};
use cfgdns_zone::{Name, Rdata, Rtype, Zone};
use proptest::prelude::*;

fn any_type() -> impl Strategy<Value = Rtype> {
    proptest::sample::select(vec![
        Rtype::A,
        Rtype::NS,
        Rtype::CNAME,
        Rtype::DNAME,
        Rtype::MX,
        Rtype::SVCB,
        Rtype::DS,
        Rtype::ANY,
        Rtype::SOA,
        Rtype(65280),
    ])
}

/// Where a walk must end, found by looking at every name (RFC 1034 4.3.2 step 3).
fn model(zone: &Zone, name: &Name) -> (&'static str, Option<Name>) {
    let mut above: Vec<Name> = std::iter::successors(Some(name.clone()), Name::parent)
        .take_while(|name| name.is_at_or_below(zone.origin()))
        .collect();
    above.reverse();
    let mut encloser = None;
    for step in &above {
        let has = |rtype| zone.set(step, rtype).is_some();
        if !zone.exists(step) {
            return ("missing", encloser);
        }
        if has(Rtype::NS) && step != zone.origin() {
            return ("cut", Some(step.clone()));
        }
        if has(Rtype::DNAME) && step != name {
            return ("dname", Some(step.clone()));
        }
        encloser = Some(step.clone());
    }
    ("found", Some(name.clone()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn walk_ends_where_a_search_over_all_names_says(zone in any_zone("z."), name in any_name("z.")) {
        let tree = Tree::build(&zone).expect("it has an SOA");
        let (kind, node) = match tree.lookup(&name).expect("in the zone") {
            Lookup::Found(node) => ("found", node),
            Lookup::Cut { node, exact } => {
                let (cut, _) = Name::from_wire(tree.name(node)).expect("a name");
                prop_assert_eq!(exact, cut == name);
                ("cut", node)
            }
            Lookup::Dname(node) => ("dname", node),
            Lookup::Missing(node) => ("missing", node),
        };
        let (found, _) = Name::from_wire(tree.name(node)).expect("a name");
        prop_assert_eq!((kind, Some(found)), model(&zone, &name));
    }

    #[test]
    fn tree_has_every_record_of_its_zone(zone in any_zone("z.")) {
        let tree = Tree::build(&zone).expect("it has an SOA");
        for (name, node) in zone.nodes() {
            let id = tree.node(name).expect("each name is in the tree");
            prop_assert_eq!(tree.name(id), name.as_wire());
            let sets: Vec<_> = tree.sets(id).collect();
            prop_assert_eq!(sets.len(), node.sets().len());
            for (found, set) in sets.into_iter().zip(node.sets()) {
                prop_assert_eq!((found.rtype, found.ttl), (set.rtype(), set.ttl()));
                let data: Vec<&[u8]> = found.data.collect();
                let expected: Vec<&[u8]> = set.data().iter().map(Rdata::as_wire).collect();
                prop_assert_eq!(data, expected);
            }
        }
    }

    /// RFC 4034 6.1, from any name on; names that only have something below them are there too.
    #[test]
    fn names_of_a_tree_come_once_and_in_canonical_order(zone in any_zone("z."), start in any_name("z.")) {
        let tree = Tree::build(&zone).expect("it has an SOA");
        let name = |node| Name::from_wire(tree.name(node)).expect("a name").0;
        let names: Vec<_> = tree.nodes().map(name).collect();
        prop_assert!(names.is_sorted_by(|first, second| first < second));
        prop_assert!(names.iter().all(|name| zone.exists(name)));
        prop_assert!(zone.nodes().all(|(name, _)| names.contains(name)));
        if let Some(node) = tree.node(&start) {
            let place = names.iter().position(|name| *name == start).expect("it is there");
            let rest: Vec<_> = tree.nodes_from(node).map(name).collect();
            prop_assert_eq!(&rest[..], &names[place..]);
        }
    }

    #[test]
    fn reply_is_bounded_and_says_no_name_only_where_nothing_is(
        zone in any_zone("z."),
        name in any_name("z."),
        rtype in any_type(),
    ) {
        let zones = Zones::new([Arc::new(Tree::build(&zone).expect("it has an SOA"))]);
        let question = Question { name: &name, rtype, class: CLASS_IN };
        let reply = answer(&zones, &question);
        // The last name that was looked at: where the last alias leads, or the question's.
        let alias = reply.answer.iter().rfind(|set| set.rtype == Rtype::CNAME);
        let target = alias.and_then(|set| Some(Name::from_wire(set.data().next()?).ok()?.0));
        let last = target.unwrap_or_else(|| name.clone());
        match reply.rcode {
            Rcode::NxDomain => {
                prop_assert!(!zone.exists(&last), "{} exists", last);
                prop_assert!(reply.authoritative);
                prop_assert_eq!(reply.authority.len(), 1);
                prop_assert_eq!(reply.authority[0].rtype, Rtype::SOA);
                // min(60, 5): RFC 2308 3.
                prop_assert_eq!(reply.authority[0].ttl, 5);
            }
            Rcode::NoError | Rcode::YxDomain => {}
            other @ (Rcode::FormErr
            | Rcode::ServFail
            | Rcode::NotImp
            | Rcode::Refused
            | Rcode::NotAuth
            | Rcode::BadVers
            | Rcode::BadCookie) => {
                prop_assert!(false, "{other:?}");
            }
        }
        // A referral, and only a referral, has NS in the authority section; alone it has no AA.
        let referral = reply.authority.iter().any(|set| set.rtype == Rtype::NS);
        prop_assert_eq!(reply.authoritative, !(referral && reply.answer.is_empty()));
        // An alias and its DNAME for each step, and what they lead to.
        prop_assert!(reply.answer.len() <= 2 * (cfgdns_core::ALIASES_MAX + 1) + 1);
        for section in [&reply.answer, &reply.authority, &reply.additional] {
            for (index, set) in section.iter().enumerate() {
                prop_assert!(set.data().next().is_some());
                let twice = section[..index].iter().any(|other| {
                    other.rtype == set.rtype && other.owner.eq_ignore_ascii_case(&set.owner)
                });
                prop_assert!(!twice, "a set is there twice");
            }
        }
    }

    #[test]
    fn longest_zone_is_found_as_by_looking_at_all(
        origins in proptest::collection::vec(any_name("z."), 0..6),
        name in any_name("z."),
    ) {
        let trees = origins.iter().map(|origin| {
            let mut zone = Zone::new(origin.clone());
            let soa = Rdata::parse(Rtype::SOA, "ns. root. 1 2 3 4 5", None).expect("an SOA");
            zone.insert(origin, Rtype::SOA, 60, soa).expect("in the zone");
            Arc::new(Tree::build(&zone).expect("it has an SOA"))
        });
        let zones = Zones::new(trees);
        let found = zones.find(&name, Rtype::A).map(|tree| tree.origin().clone());
        let above = origins.iter().filter(|origin| name.is_at_or_below(origin));
        let longest = above.max_by_key(|origin| origin.label_count()).cloned();
        prop_assert_eq!(found, longest);
    }
}
