//! Keys in, zones out: what a name server answers from, after whatever sequence of changes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cfgdns_core::{NodeId, Tree, Zones};
use cfgdns_sign::{Algorithm, PrivateKey};
use cfgdns_view::{Entry, View, ZoneChange, settle};
use cfgdns_zone::{Name, Rdata, Rtype};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn entry<'a>(key: &'a [u8], value: &'a [u8], revision: i64) -> Entry<'a> {
    Entry {
        key,
        value,
        created: 1,
        changed: revision,
    }
}

/// A group's keys and what a name server made of them.
#[derive(Default)]
struct Server {
    view: View,
    zones: Zones,
    revision: i64,
}

impl Server {
    fn put(&mut self, key: &str, value: &str) -> &mut Self {
        self.revision += 1;
        let key = format!("/cfgsvc/{key}");
        self.view
            .put(entry(key.as_bytes(), value.as_bytes(), self.revision));
        self
    }

    fn delete(&mut self, key: &str) -> &mut Self {
        self.view.delete(format!("/cfgsvc/{key}").as_bytes());
        self
    }

    fn build(&mut self) -> Vec<ZoneChange> {
        let zones = self.view.build(&self.zones);
        let before = std::mem::replace(&mut self.zones, zones);
        settle(&before, &self.zones)
    }

    /// What changed, zone by zone.
    fn changes(&mut self) -> String {
        let mut text = String::new();
        for change in self.build() {
            let serial =
                |serial: Option<u32>| serial.map_or("-".into(), |serial| serial.to_string());
            let (before, after) = (serial(change.before), serial(change.after));
            let why = change
                .closed
                .map_or(String::new(), |why| format!(" closed: {why}"));
            writeln!(text, "{} {before} -> {after}{why}", change.name).expect("a string");
        }
        text
    }

    fn zone(&self, origin: &str) -> String {
        let tree = self.zones.get(&name(origin)).expect("the zone");
        dump(tree)
    }
}

/// The records at the names that tests use.
fn dump(tree: &Tree) -> String {
    let mut text = String::new();
    for label in ["", "www.", "db.", "_sip._tcp.", "old.", "*."] {
        for above in ["", "_cfgsvc."] {
            let at = name(&format!("{above}{label}{}", tree.origin()));
            let Some(node) = tree.node(&at) else {
                continue;
            };
            let (at, _) = Name::from_wire(tree.name(node)).expect("a name");
            writeln!(text, "{at}").expect("a string");
            for set in tree.sets(node) {
                let weights = set.weights;
                for data in set.data {
                    let data = Rdata::from_wire(set.rtype, data).expect("valid data");
                    let data = data.text(set.rtype, None);
                    writeln!(text, "  {} {} {data}", set.ttl, set.rtype).expect("a string");
                }
                if !weights.is_empty() {
                    writeln!(text, "  weights {weights:?}").expect("a string");
                }
            }
        }
    }
    text
}

fn check(found: &str, expected: Expect) {
    expected.assert_eq(found);
}

const APEX: &str = r#"{"sets":{"NS":{"ttl":60,"data":["ns.other."]},"SOA":{"ttl":60,"data":["ns.other. root.other. 1 2 3 4 5"]}}}"#;

/// A zone in its first generation.
fn server() -> Server {
    let mut server = Server::default();
    server
        .put("names/example.com/1/@", APEX)
        .put(
            "names/example.com/1/old",
            r#"{"name":"OLD","sets":{"A":{"ttl":60,"data":["192.0.2.9"]}}}"#,
        )
        .put("zones/example.com", r#"{"generation":1}"#)
        .put("serials/example.com", r#"{"count":1}"#);
    server
}

#[test]
fn zone_is_that_of_its_generation_in_force_with_the_serial_of_the_group() {
    let mut server = server();
    check(
        &server.changes(),
        expect![[r#"
        example.com. - -> 1
    "#]],
    );
    // The next generation, which nobody reads, and then does.
    server.put("names/example.com/2/@", APEX).put(
        "names/example.com/2/www",
        r#"{"sets":{"TXT":{"ttl":60,"data":["new"]}}}"#,
    );
    assert_eq!(server.changes(), "");
    server
        .put("zones/example.com", r#"{"generation":2}"#)
        .put("serials/example.com", r#"{"count":2}"#);
    check(
        &server.changes(),
        expect![[r#"
        example.com. 1 -> 2
    "#]],
    );
    check(
        &server.zone("example.com."),
        expect![[r#"
        example.com.
          60 NS ns.other.
          60 SOA ns.other. root.other. 2 2 3 4 5
        www.example.com.
          60 TXT "new"
    "#]],
    );
    server
        .delete("names/example.com/1/@")
        .delete("names/example.com/1/old");
    assert_eq!(server.changes(), "");
    server.delete("zones/example.com");
    check(
        &server.changes(),
        expect![[r#"
        example.com. 2 -> -
    "#]],
    );
    assert_eq!(server.zones.trees().len(), 0);
    assert_eq!(server.changes(), "");
}

/// What the group refuses, an older one may have taken.
#[test]
fn epoch_is_told_only_where_a_name_for_it_can_be() {
    let mut server = server();
    server
        .put(
            "names/example.com/1/new",
            r#"{"sets":{"DNAME":{"ttl":60,"data":["old"]}}}"#,
        )
        .put(
            "names/example.com/1/sub",
            r#"{"sets":{"NS":{"ttl":60,"data":["ns.other."]}}}"#,
        )
        .put("roles/web", "{}")
        .put("moved/web", r#"{"count":0}"#)
        .put("serials/example.com", r#"{"count":7,"roles":{"web":0}}"#);
    for at in [
        "@",
        "www",
        "_cfgsvc.www",
        "new",
        "a.new",
        "sub",
        "a.sub",
        "*",
    ] {
        server.put(&format!("follows/example.com/{at}/A"), r#"{"role":"web"}"#);
    }
    server.changes();
    let tree = server.zones.get(&name("example.com.")).expect("the zone");
    let tells = |node: &NodeId| tree.set(*node, Rtype::TXT).is_some();
    let told = tree.nodes().filter(tells).map(|node| {
        let (name, _) = Name::from_wire(tree.name(node)).expect("a name");
        name.to_string()
    });
    // `_cfgsvc.www` follows itself, and tells nothing of `www`.
    assert_eq!(
        told.collect::<Vec<_>>(),
        ["_cfgsvc.example.com.", "_cfgsvc._cfgsvc.www.example.com."]
    );
}

#[test]
fn name_that_follows_a_role_has_what_its_holder_has() {
    let mut server = server();
    server
        .put(
            "colos/a",
            r#"{"addresses":["192.0.2.1","2001:db8::1","192.0.2.2:443"]}"#,
        )
        .put(
            "colos/b",
            r#"{"addresses":["192.0.2.3","web-b.example.net"]}"#,
        )
        .put("hosts/a", r#"{"colo":"a","addresses":["192.0.2.77"]}"#)
        .put(
            "hosts/h1",
            r#"{"colo":"a","addresses":["192.0.2.11:3306"],"new":"field"}"#,
        )
        .put("roles/web", r#"{"kind":"colo"}"#)
        .put("roles/db/orders", r#"{"kind":"host","term_ms":2000}"#)
        .put(
            "follows/example.com/www/A",
            r#"{"role":"web","ttl":5,"weights":{"192.0.2.2":3}}"#,
        )
        .put("follows/example.com/www/AAAA", r#"{"role":"web","ttl":7}"#)
        .put(
            "follows/example.com/db/CNAME",
            r#"{"role":"db/orders","names":"hosts"}"#,
        )
        .put(
            "follows/example.com/_sip._tcp/SRV",
            r#"{"role":"db/orders","names":"@"}"#,
        )
        .put("moved/web", r#"{"count":0}"#)
        .put("moved/db/orders", r#"{"count":4}"#)
        .put(
            "serials/example.com",
            r#"{"count":7,"roles":{"web":0,"db/orders":4}}"#,
        );
    assert_eq!(server.changes(), "example.com. - -> 7\n");
    check(
        &server.zone("example.com."),
        expect![[r#"
        example.com.
          60 NS ns.other.
          60 SOA ns.other. root.other. 7 2 3 4 5
        www.example.com.
        _cfgsvc.www.example.com.
          5 TXT "role=web" "epoch=0" "revision=15"
        db.example.com.
        _cfgsvc.db.example.com.
          5 TXT "role=db/orders" "epoch=0" "revision=16"
        _sip._tcp.example.com.
        _cfgsvc._sip._tcp.example.com.
          5 TXT "role=db/orders" "epoch=0" "revision=16"
        OLD.example.com.
          60 A 192.0.2.9
    "#]],
    );
    server
        .put("grants/web", r#"{"epoch":100,"holder":"a","serving":0}"#)
        .put(
            "grants/db/orders",
            r#"{"epoch":101,"holder":"h1","serving":1,"later":[1]}"#,
        )
        .put("moved/web", r#"{"count":1}"#)
        .put("moved/db/orders", r#"{"count":5}"#);
    assert_eq!(server.changes(), "example.com. 7 -> 9\n");
    check(
        &server.zone("example.com."),
        expect![[r#"
        example.com.
          60 NS ns.other.
          60 SOA ns.other. root.other. 9 2 3 4 5
        www.example.com.
          5 A 192.0.2.1
          5 A 192.0.2.2
          weights [1, 3]
          7 AAAA 2001:db8::1
        _cfgsvc.www.example.com.
          5 TXT "role=web" "holder=a" "epoch=100" "revision=20"
        db.example.com.
          5 CNAME h1.hosts.example.com.
        _cfgsvc.db.example.com.
          5 TXT "role=db/orders" "holder=h1" "epoch=101" "revision=21"
        _sip._tcp.example.com.
          5 SRV 0 0 3306 h1.example.com.
        _cfgsvc._sip._tcp.example.com.
          5 TXT "role=db/orders" "holder=h1" "epoch=101" "revision=21"
        OLD.example.com.
          60 A 192.0.2.9
    "#]],
    );
    // A failover packs nothing.
    let before = server.zones.get(&name("example.com.")).cloned();
    server
        .put("grants/web", r#"{"epoch":200,"holder":"b","serving":0}"#)
        .put("moved/web", r#"{"count":2}"#);
    assert_eq!(server.changes(), "example.com. 9 -> 10\n");
    let after = server.zones.get(&name("example.com.")).expect("the zone");
    assert!(after.same_records(&before.expect("the zone")));
    let www = "www.example.com.\n  5 A 192.0.2.3\n_cfgsvc";
    assert!(server.zone("example.com.").contains(www));
    // The addresses of whoever holds it, and of nobody else.
    server.put("colos/a", r#"{"addresses":["198.51.100.1"]}"#);
    assert_eq!(server.changes(), "");
    server.put("colos/b", r#"{"addresses":["198.51.100.2"]}"#);
    assert_eq!(server.changes(), "example.com. 10 -> 10\n");
    assert!(server.zone("example.com.").contains("  5 A 198.51.100.2\n"));
    // Nobody.
    server.put("grants/web", r#"{"epoch":200,"serving":0}"#);
    server.changes();
    assert!(
        server
            .zone("example.com.")
            .contains("www.example.com.\n_cfgsvc")
    );
}

#[test]
fn epoch_is_not_told_where_the_operator_says_something_else() {
    let mut server = server();
    server
        .put(
            "names/example.com/1/_cfgsvc.www",
            r#"{"sets":{"TXT":{"ttl":60,"data":["mine"]}}}"#,
        )
        .put("follows/example.com/www/A", r#"{"role":"web"}"#)
        .put("follows/example.com/*/A", r#"{"role":"web"}"#);
    server.changes();
    let zone = server.zone("example.com.");
    assert!(
        zone.contains("_cfgsvc.www.example.com.\n  60 TXT \"mine\"\nOLD"),
        "{zone}"
    );
    assert!(zone.ends_with("*.example.com.\n"), "{zone}");
}

#[test]
fn zone_with_a_key_that_cannot_be_read_is_closed_until_it_can() {
    let mut server = server();
    server.changes();
    for (key, bad, good) in [
        ("names/example.com/1/www", r#"{"sets":{},"later":1}"#, None),
        (
            "zones/example.com",
            r#"{"generation":"x"}"#,
            Some(r#"{"generation":1}"#),
        ),
        ("serials/example.com", "1", Some(r#"{"count":1}"#)),
        (
            "follows/example.com/www/A",
            r#"{"role":"web","later":1}"#,
            None,
        ),
        (
            "follows/example.com/www/A",
            r#"{"role":"web","ttl":5,"port":1}"#,
            None,
        ),
    ] {
        server.put(key, bad);
        let closed = server.changes();
        assert!(
            closed.starts_with("example.com. 1 -> - closed: "),
            "{key}: {closed}"
        );
        assert!(
            server
                .zones
                .get(&name("example.com."))
                .is_some_and(|tree| tree.is_closed())
        );
        match good {
            Some(good) => server.put(key, good),
            None => server.delete(key),
        };
        assert_eq!(server.changes(), "example.com. - -> 1\n", "{key}");
    }
    // Of a generation that is not in force nothing is answered.
    server.put("names/example.com/2/www", "{}");
    assert_eq!(server.changes(), "example.com. 1 -> 1\n");
    // What it follows is known, and who holds that is not.
    server
        .put("follows/example.com/www/A", r#"{"role":"web"}"#)
        .put("grants/web", r#"{"epoch":"x"}"#);
    let closed = server.changes();
    assert!(
        closed.starts_with("example.com. 1 -> - closed: invalid type"),
        "{closed}"
    );
}

#[test]
fn catalog_lists_the_zones_with_labels_of_their_own_and_the_count_of_the_group() {
    let mut server = server();
    let catalog = name("catalog.invalid.");
    server.view = View::new(Some(catalog.clone()));
    let listed = |server: &Server| -> Vec<String> {
        let tree = server.zones.get(&catalog).expect("the catalog");
        assert!(tree.is_private());
        let pointers = tree.nodes().filter_map(|node| tree.set(node, Rtype::PTR));
        pointers
            .map(|set| {
                let (owner, _) = Name::from_wire(set.owner).expect("a name");
                let (zone, _) = Name::from_wire(set.data.clone().next().expect("one")).expect("it");
                format!("{owner} {zone}")
            })
            .collect()
    };
    let serial = |server: &Server| server.zones.get(&catalog).map(|tree| tree.soa().serial);
    server.build();
    assert_eq!((listed(&server), serial(&server)), (Vec::new(), Some(1)));
    let put = |server: &mut Server, zone: &str, created| {
        let key = format!("/cfgsvc/zones/{zone}");
        let (value, changed) = (&b"{\"generation\":1}"[..], 9);
        let key = key.as_bytes();
        server.view.put(Entry {
            key,
            value,
            created,
            changed,
        });
    };
    put(&mut server, "one.example", 7);
    put(&mut server, "two.example", 7);
    server.put("catalog", r#"{"count":1}"#);
    server.build();
    let both = listed(&server);
    assert_eq!((both.len(), serial(&server)), (2, Some(2)));
    assert!(both[0].ends_with(" one.example.") || both[0].ends_with(" two.example."));
    // Another one of the same name has another label, and secondaries begin anew (RFC 9432 5.4).
    server.delete("zones/two.example");
    put(&mut server, "two.example", 8);
    server.put("catalog", r#"{"count":3}"#);
    server.build();
    let again = listed(&server);
    assert_eq!((again.len(), serial(&server)), (2, Some(4)));
    assert_eq!(both.iter().filter(|line| again.contains(line)).count(), 1);
    let steps = server.zones.get(&catalog).expect("it").history().steps();
    assert_eq!(steps, 2, "secondaries are sent what has changed");
    // An operator's zone of that name stands in its place, and what was listed comes back after it.
    server
        .put("names/catalog.invalid/1/@", APEX)
        .put("zones/catalog.invalid", r#"{"generation":1}"#)
        .put("serials/catalog.invalid", r#"{"count":9}"#);
    server.build();
    assert!(!server.zones.get(&catalog).expect("a zone").is_private());
    server
        .delete("names/catalog.invalid/1/@")
        .delete("zones/catalog.invalid")
        .delete("serials/catalog.invalid");
    server.build();
    assert_eq!(listed(&server), again);
    let steps = server.zones.get(&catalog).expect("it").history().steps();
    assert_eq!(steps, 0, "nothing leads from another zone to this one");
}

/// An operator's zone at the name of the catalog takes its place, for as long as it is in force.
#[test]
fn catalog_is_where_no_zone_of_its_name_is_in_force() {
    let mut server = server();
    server.view = View::new(Some(name("example.org.")));
    server.build();
    let is_catalog = |server: &Server| {
        let tree = server
            .zones
            .get(&name("example.org."))
            .expect("one of the two");
        tree.is_private()
    };
    assert!(is_catalog(&server));
    // Keys of a zone that is not in force.
    for (key, value) in [
        ("names/example.org/1/@", APEX),
        ("serials/example.org", r#"{"count":9}"#),
        ("follows/example.org/www/A", r#"{"role":"web"}"#),
    ] {
        server.put(key, value).build();
        assert!(is_catalog(&server), "{key}");
    }
    server
        .put("zones/example.org", r#"{"generation":1}"#)
        .build();
    assert!(!is_catalog(&server));
    server.delete("zones/example.org");
    check(
        &server.changes(),
        expect![[r#"
        example.org. 9 -> 1
    "#]],
    );
    assert!(is_catalog(&server));
}

/// Counts are read from the store, which can say what it likes: they go round.
#[test]
fn counts_at_the_end_of_their_numbers_bring_nothing_down() {
    let most = r#"{"count":18446744073709551615}"#;
    let mut server = server();
    server.view = View::new(Some(name("catalog.invalid.")));
    for (key, value) in [
        ("names/example.com/1/@", APEX),
        ("zones/example.com", r#"{"generation":1}"#),
        (
            "serials/example.com",
            r#"{"count":18446744073709551615,"roles":{"web":0,"db":0}}"#,
        ),
        ("moved/web", most),
        ("moved/db", most),
        ("catalog", most),
    ] {
        server.put(key, value);
    }
    check(
        &server.changes(),
        expect![[r#"
        example.com. - -> 4294967293
        catalog.invalid. - -> 1
    "#]],
    );
}

#[test]
fn keys_of_others_change_nothing() {
    let mut server = server();
    server.changes();
    for key in [
        "grants/lock/x",
        "attending/web/h1",
        "leader",
        "later/thing",
        "zones/Bad",
    ] {
        server.put(key, "{}");
    }
    server.view.put(entry(b"/app/config", b"1", 9));
    server.view.put(entry(b"/cfgsvc/\xff", b"1", 9));
    assert_eq!(server.changes(), "");
}

/// The private key number `octet`.
fn private(octet: u8) -> PrivateKey {
    PrivateKey::from_secret(Algorithm::Ed25519, &[octet; 32]).expect("any octets are a secret")
}

/// How a zone is signed by the key number `octet` since a moment.
fn signed_by(octet: u8, at: u64) -> String {
    let dnskey = private(octet).dnskey(true).to_data();
    let dnskey = dnskey.text(Rtype::DNSKEY, None);
    let key = format!(r#"{{"dnskey":"{dnskey}","role":"csk","signs":true}}"#);
    format!(r#"{{"keys":[{key}],"at":{at}}}"#)
}

/// Who signs a zone, by which keys and when; or which keys are not here.
fn signs(tree: &Tree) -> String {
    match (tree.signer(), tree.lacking()) {
        (Some(signer), None) => format!("{:?} {:?}", signer.signing(), signer.dnskeys()),
        (None, Some(why)) => why.to_owned(),
        (None, None) => "nobody".to_owned(),
        (Some(_), Some(why)) => panic!("signed, and not: {why}"),
    }
}

#[test]
fn zone_is_signed_while_its_keys_are_here_and_says_which_are_not() {
    let mut server = server();
    server.put("signing/example.com", &signed_by(1, 1_700_000_000));
    let who = |server: &Server| signs(server.zones.get(&name("example.com.")).expect("it"));
    let lacks = "of the keys that sign example.com., this server lacks those with the tags [";
    let changes = server.build();
    let unsigned = changes[0].unsigned.as_deref().unwrap_or_default();
    assert!(unsigned.starts_with(lacks), "{changes:?}");
    assert!(who(&server).starts_with(lacks));
    server.view.set_keys([private(2)]);
    server.build();
    assert!(who(&server).starts_with(lacks), "it is another one");
    server.view.set_keys([private(2), private(1)]);
    let changes = server.build();
    assert_eq!((changes.len(), &changes[0].unsigned), (1, &None));
    assert!(
        who(&server).contains("expiration: Time(1701209600)"),
        "{}",
        who(&server)
    );
    assert!(server.zone("example.com.").contains("60 DNSKEY 257 3 15 "));
    server.view.set_keys([]);
    server.build();
    assert!(who(&server).starts_with(lacks), "it is gone");
    server.delete("signing/example.com");
    server.build();
    assert_eq!(who(&server), "nobody");
    server.view.set_keys([private(1)]);
    assert_eq!(server.build(), [], "no zone wants a key");
}

#[test]
fn zone_is_closed_while_how_it_is_signed_cannot_be_read() {
    let mut server = server();
    server.view.set_keys([private(1)]);
    server.changes();
    let good = signed_by(1, 1_700_000_000);
    for bad in [
        "{}".to_owned(),
        good.replace("257 3 15 ", "257 3 8 "),
        good.replace(r#""at":"#, r#""later":1,"at":"#),
    ] {
        server.put("signing/example.com", &bad);
        let closed = server.changes();
        assert!(
            closed.starts_with("example.com. 1 -> - closed: "),
            "{bad}: {closed}"
        );
        server.put("signing/example.com", &good);
        assert_eq!(server.changes(), "example.com. - -> 1\n");
        server.delete("signing/example.com");
        server.changes();
    }
}

/// One change of one key, of few that meet in every way; now and then one that cannot be read.
fn any_change() -> impl Strategy<Value = (String, Option<String>)> {
    let zone = proptest::sample::select(vec!["a.example", "b.example"]);
    let zone_too = zone.clone();
    let label = proptest::sample::select(vec!["@", "www", "db", "_cfgsvc.www"]);
    let role = proptest::sample::select(vec!["web", "db/x"]);
    let holder = proptest::sample::select(vec!["", r#""holder":"a","#, r#""holder":"b","#]);
    let kind = proptest::sample::select(vec!["host", "colo"]);
    let rtype = proptest::sample::select(vec![("A", ""), ("CNAME", r#","names":"@""#)]);
    let key = prop_oneof![
        2 => (zone.clone(), 1..3_u8).prop_map(|(zone, generation)|
            (format!("zones/{zone}"), format!(r#"{{"generation":{generation}}}"#))),
        6 => (zone.clone(), 1..3_u8, label, 1..4_u8).prop_map(|(zone, generation, label, last)| {
            let value = match label {
                "@" => APEX.to_owned(),
                _ => format!(r#"{{"sets":{{"TXT":{{"ttl":{last},"data":["x"]}}}}}}"#),
            };
            (format!("names/{zone}/{generation}/{label}"), value)
        }),
        2 => (zone.clone(), role.clone(), rtype).prop_map(|(zone, role, (rtype, more))|
            (format!("follows/{zone}/www/{rtype}"), format!(r#"{{"role":"{role}"{more}}}"#))),
        2 => (zone, 1..5_u8, 0..3_u8).prop_map(|(zone, count, web)|
            (format!("serials/{zone}"), format!(r#"{{"count":{count},"roles":{{"web":{web}}}}}"#))),
        2 => (zone_too, 1..3_u8, 0..2_u64).prop_map(|(zone, octet, later)|
            (format!("signing/{zone}"), signed_by(octet, 1_700_000_000 + later))),
        1 => (1..6_u8).prop_map(|count|
            ("catalog".to_owned(), format!(r#"{{"count":{count}}}"#))),
        1 => (role.clone(), 3..6_u8).prop_map(|(role, count)|
            (format!("moved/{role}"), format!(r#"{{"count":{count}}}"#))),
        2 => (role.clone(), holder, 1..9_u8).prop_map(|(role, holder, epoch)|
            (format!("grants/{role}"), format!(r#"{{{holder}"epoch":{epoch},"serving":0}}"#))),
        1 => (role, kind).prop_map(|(role, kind)|
            (format!("roles/{role}"), format!(r#"{{"kind":"{kind}"}}"#))),
        2 => (proptest::sample::select(vec!["colos", "hosts"]),
              proptest::sample::select(vec!["a", "b"]), 1..4_u8)
            .prop_map(|(table, member, last)| (
                format!("{table}/{member}"),
                format!(r#"{{"colo":"a","addresses":["192.0.2.{last}"]}}"#),
            )),
    ];
    (key, 0..12_u8).prop_map(|((key, value), what)| match what {
        0 => (key, Some("{\"x".to_owned())),
        1..4 => (key, None),
        _ => (key, Some(value)),
    })
}

/// What happens to a name server: a change of a key of the group, or of its own private keys.
#[derive(Debug, Clone)]
enum Step {
    Key(String, Option<String>),
    Private(Vec<u8>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let some = proptest::sample::subsequence(vec![1, 2], 0..=2);
    prop_oneof![
        9 => any_change().prop_map(|(key, value)| Step::Key(key, value)),
        1 => some.prop_map(Step::Private),
    ]
}

fn keys_of(octets: &[u8]) -> Vec<PrivateKey> {
    octets.iter().map(|octet| private(*octet)).collect()
}

/// One that makes a catalog too.
fn with_catalog() -> Server {
    Server {
        view: View::new(Some(name("catalog.invalid."))),
        ..Server::default()
    }
}

fn dumps(zones: &Zones) -> Vec<(String, bool, usize, String, String)> {
    let of = |tree: &std::sync::Arc<Tree>| {
        (
            tree.origin().to_string(),
            tree.is_closed(),
            tree.name_count(),
            signs(tree),
            dump(tree),
        )
    };
    zones.trees().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Building now and then on the way, once at the end, and after a second load all give the same.
    #[test]
    fn zones_are_those_of_one_load_whatever_way_they_came(
        steps in proptest::collection::vec((any_step(), any::<bool>()), 1..40),
        stale in proptest::collection::vec(any_change(), 0..10),
    ) {
        let mut keys: BTreeMap<String, (String, i64)> = BTreeMap::new();
        let mut own = Vec::new();
        let mut server = with_catalog();
        for (revision, (step, build)) in (1..).zip(steps) {
            server.revision = revision - 1;
            match step {
                Step::Key(key, Some(value)) => {
                    server.put(&key, &value);
                    keys.insert(format!("/cfgsvc/{key}"), (value, revision));
                }
                Step::Key(key, None) => {
                    server.delete(&key);
                    keys.remove(&format!("/cfgsvc/{key}"));
                }
                Step::Private(octets) => {
                    server.view.set_keys(keys_of(&octets));
                    own = octets;
                }
            }
            if build {
                server.build();
            }
        }
        server.build();
        let all = || {
            let keys = keys.iter();
            keys.map(|(key, (value, at))| entry(key.as_bytes(), value.as_bytes(), *at))
        };
        let mut fresh = with_catalog();
        fresh.view.set_keys(keys_of(&own));
        fresh.view.load(all());
        fresh.build();
        prop_assert_eq!(dumps(&server.zones), dumps(&fresh.zones));
        // One that knew something else before.
        let mut other = with_catalog();
        for (key, value) in &stale {
            other.put(key, value.as_deref().unwrap_or("{}"));
        }
        other.build();
        other.view.load(all());
        other.view.set_keys(keys_of(&own));
        other.build();
        prop_assert_eq!(dumps(&other.zones), dumps(&fresh.zones));
    }
}
