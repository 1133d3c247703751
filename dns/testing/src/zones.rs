//! Names and zones from text; strategies for zones whose names meet in every way.

use cfgdns_zone::{Name, Rdata, Rtype, Source, Zone, load};
use proptest::prelude::*;

/// A whole name.
pub fn name(text: &str) -> Name {
    text.parse().expect(text)
}

/// The zone of a master file, which has no fault.
pub fn zone(origin: &str, text: &str) -> Zone {
    let source = Source {
        file: "zone",
        text: text.as_bytes(),
        origin: &name(origin),
    };
    let loaded = load(&source).unwrap_or_else(|report| panic!("{report}"));
    loaded.zone
}

/// Names of up to three labels of three kinds below the origin, in either case.
pub fn any_name(origin: &'static str) -> impl Strategy<Value = Name> {
    let label = proptest::sample::select(vec!["a", "B", "b", "*"]);
    proptest::collection::vec(label, 0..4).prop_map(move |labels| {
        let labels = labels.iter().chain([&origin]).copied();
        name(&labels.collect::<Vec<_>>().join("."))
    })
}

/// Data of the types that a walk, a chain or an answer turns at; names are below the origin.
pub fn any_data(origin: &'static str) -> impl Strategy<Value = (Rtype, String)> {
    let any_name = move || any_name(origin);
    prop_oneof![
        (0..3_u8).prop_map(|last| (Rtype::A, format!("192.0.2.{last}"))),
        any_name().prop_map(|name| (Rtype::NS, name.to_string())),
        any_name().prop_map(|name| (Rtype::CNAME, name.to_string())),
        any_name().prop_map(|name| (Rtype::DNAME, name.to_string())),
        any_name().prop_map(|name| (Rtype::MX, format!("1 {name}"))),
        any_name().prop_map(|name| (Rtype::SVCB, format!("0 {name}"))),
        Just((Rtype::SVCB, "1 .".to_owned())),
        Just((Rtype::DS, "1 8 250 00".to_owned())),
        Just((Rtype(65_280), "\\# 1 00".to_owned())),
    ]
}

/// Zones that need not obey any rule: nothing must fall over what got past a check.
pub fn any_zone(origin: &'static str) -> impl Strategy<Value = Zone> {
    let records = proptest::collection::vec((any_name(origin), any_data(origin)), 0..12);
    records.prop_map(move |records| {
        let mut zone = zone(origin, "@ 60 SOA ns. root. 1 2 3 4 5\n@ 60 NS ns.\n");
        for (name, (rtype, text)) in records {
            let data = Rdata::parse(rtype, &text, None).expect(&text);
            zone.insert(&name, rtype, 60, data).expect("in the zone");
        }
        zone
    })
}
