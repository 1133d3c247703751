//! The list of zones, as a zone (RFC 9432): a secondary that transfers it serves new zones, and
//! drops old ones, without anybody's hand.
//!
//! ```text
//! zones.example.                          SOA, NS invalid.
//! version.zones.example.                  TXT "2"
//! 00000000000004d2.zones.zones.example.   PTR example.com.
//! ```
//!
//! The label of a member is a number that whoever lists it gives: the same on all servers, and for
//! as long as the zone exists. A zone that is deleted and made anew has another, and a secondary
//! then forgets what it had of the old one (RFC 9432 5.4).
//!
//! It is a zone like others: it is transferred, told of and kept a history of in the same way. Who
//! may ask for it is the operator's business (RFC 9432 6): it names all zones.

use std::collections::BTreeMap;

use cfgdns_zone::{InsertError, Name, NameError, Rdata, Rtype, Soa, Zone};

/// After how many seconds a secondary looks whether it missed a message.
const REFRESH_SECONDS: u32 = 300;
/// After how many it looks again when there was no answer.
const RETRY_SECONDS: u32 = 60;
/// For how long the list is good without an answer: without end, because to lose the list is worse
/// than to have an old one, and each zone in it ends by its own SOA.
const EXPIRE_SECONDS: u32 = i32::MAX.unsigned_abs() - 1;
/// TTLs mean nothing here (RFC 9432 4.1).
const TTL: u32 = 0;

/// A zone of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogMember {
    /// Its name.
    pub zone: Name,
    /// What tells it from others, and from a later zone of this name.
    pub label: u64,
}

/// Why a list is no catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// A zone is in the list twice: nobody would process it (RFC 9432 4.1).
    #[error("the zone {0} is twice in the catalog (RFC 9432 4.1)")]
    TwiceListed(Name),
    /// Two zones have one label: nobody would process it (RFC 9432 4.1).
    #[error("the zones {first} and {second} have one label in the catalog (RFC 9432 4.1)")]
    TwoOfLabel {
        /// One of them.
        first: Name,
        /// The other.
        second: Name,
    },
    /// The catalog would list itself.
    #[error("the catalog {0} does not list itself")]
    Itself(Name),
    /// The name leaves no room for those of members.
    #[error("the name of the catalog is too long: {0}")]
    Name(#[from] NameError),
    /// The records make no zone.
    #[error("the catalog is no zone: {0}")]
    Insert(#[from] InsertError),
}

/// The catalog zone of this name, with this serial, of these zones in whatever order.
pub fn catalog(name: &Name, members: &[CatalogMember], serial: u32) -> Result<Zone, CatalogError> {
    let mut zones = BTreeMap::new();
    let mut labels = BTreeMap::new();
    for CatalogMember { zone, label } in members {
        if zone == name {
            return Err(CatalogError::Itself(name.clone()));
        }
        if zones.insert(zone, label).is_some() {
            return Err(CatalogError::TwiceListed(zone.clone()));
        }
        if let Some(first) = labels.insert(label, zone) {
            let (first, second) = (Name::clone(first), zone.clone());
            return Err(CatalogError::TwoOfLabel { first, second });
        }
    }
    // RFC 9432 4: nobody is to resolve it, so that no server need be named.
    let invalid = Name::root().child(b"invalid")?;
    let soa = Soa {
        primary: invalid.clone(),
        mailbox: invalid.clone(),
        serial,
        refresh: REFRESH_SECONDS,
        retry: RETRY_SECONDS,
        expire: EXPIRE_SECONDS,
        minimum: 0,
    };
    let mut catalog = Zone::new(name.clone());
    catalog.insert(name, Rtype::SOA, TTL, soa.to_data())?;
    catalog.insert(name, Rtype::NS, TTL, target(Rtype::NS, &invalid))?;
    let version = Rdata::from_wire(Rtype::TXT, b"\x012").expect("a text of one octet");
    catalog.insert(&name.child(b"version")?, Rtype::TXT, TTL, version)?;
    let above = name.child(b"zones")?;
    for (label, zone) in labels {
        let owner = above.child(format!("{label:016x}").as_bytes())?;
        catalog.insert(&owner, Rtype::PTR, TTL, target(Rtype::PTR, zone))?;
    }
    Ok(catalog)
}

fn target(rtype: Rtype, name: &Name) -> Rdata {
    Rdata::from_wire(rtype, name.as_wire()).expect("the data of such a record is a name")
}

#[cfg(test)]
mod tests {
    use cfgdns_zone::{check, print};
    use expect_test::expect;

    use super::*;
    use crate::tree::Tree;

    fn name(text: &str) -> Name {
        text.parse().expect(text)
    }

    fn members(list: &[(&str, u64)]) -> Vec<CatalogMember> {
        let member = |&(zone, label): &(&str, u64)| CatalogMember {
            zone: name(zone),
            label,
        };
        list.iter().map(member).collect()
    }

    /// RFC 9432 4, 4.1, 4.2.1.
    #[test]
    fn zones_are_listed_by_their_labels_whatever_their_order() {
        let list = [
            ("example.com.", 1_234),
            ("Example.ORG.", u64::MAX),
            (".", 0),
        ];
        let zone = catalog(&name("zones.example."), &members(&list), 7).expect("a catalog");
        expect![[r#"
            $ORIGIN zones.example.
            $TTL 0
            @                               SOA     invalid. invalid. 7 300 60 2147483646 0
                                            NS      invalid.
            version                         TXT     "2"
            0000000000000000.zones          PTR     .
            00000000000004d2.zones          PTR     example.com.
            ffffffffffffffff.zones          PTR     Example.ORG.
        "#]]
        .assert_eq(&print(&zone));
        let found = check(&zone);
        assert_eq!(found.faults.to_string(), "");
        assert_eq!(Tree::build(&zone).expect("it has an SOA").soa().serial, 7);
        let turned: Vec<_> = list.into_iter().rev().collect();
        let other = catalog(&name("zones.example."), &members(&turned), 7).expect("a catalog");
        assert_eq!(zone, other);
        let empty = catalog(&name("zones.example."), &[], 1).expect("a catalog");
        assert_eq!(empty.record_count(), 3);
    }

    /// A change of a member is a change of one record, so that a secondary need not hear of others.
    #[test]
    fn zone_that_comes_and_goes_is_one_record() {
        let zones: Vec<_> = (0..1_000).map(|number| format!("z{number}.")).collect();
        let list: Vec<_> = zones.iter().map(String::as_str).zip(0..).collect();
        let build = |list: &[(&str, u64)], serial| {
            let zone = catalog(&name("catalog."), &members(list), serial).expect("a catalog");
            Tree::build(&zone).expect("it has an SOA")
        };
        let first = build(&list[1..], 1);
        let second = build(&list, 2).following(&first);
        let third = build(&list[1..], 3).following(&second);
        assert_eq!(third.history().steps(), 2);
        // Two SOA records and a PTR each.
        assert!(third.history().octets() < 2 * 200);
    }

    /// RFC 9432 4.1: such a catalog must not be processed, so it is not made.
    #[test]
    fn list_that_nobody_would_process_is_refused() {
        let long = "l.".repeat(117);
        for (origin, list, expected) in [
            (
                "c.",
                &[("a.", 1), ("A.", 2)][..],
                "the zone A. is twice in the catalog (RFC 9432 4.1)",
            ),
            (
                "c.",
                &[("a.", 1), ("b.", 1)],
                "the zones a. and b. have one label in the catalog (RFC 9432 4.1)",
            ),
            ("c.", &[("C.", 1)], "the catalog c. does not list itself"),
            (
                &long,
                &[("a.", 1)],
                "the name of the catalog is too long: the name has more than 255 octets (RFC 1035 \
                 2.3.4)",
            ),
        ] {
            let error = catalog(&name(origin), &members(list), 1).expect_err(expected);
            assert_eq!(error.to_string(), expected);
        }
    }
}
