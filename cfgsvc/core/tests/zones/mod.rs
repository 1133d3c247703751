//! Zones as keys: what is refused, and how the serial counts.

use std::collections::{BTreeMap, BTreeSet};

use cfgsvc_core::check::check;
use cfgsvc_core::placement::{Colo, Grant, RoleName};
use cfgsvc_core::tables;
use cfgsvc_core::zones::{Follow, Moved, NodeObject, Settings, ZoneSerial, on_wire};
use cfgsvc_proto::etcd::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op};
use cfgsvc_proto::state::LeaseExpire;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{HistoryRecord, KeyRecord};
use proptest::prelude::*;
use prost::Message;

use super::world::{Facts, HOSTS, World, attend, go, start, stop};

const APEX: &str = r#"{"sets":{"NS":{"ttl":300,"data":["ns1"]},"SOA":{"ttl":300,"data":["ns1 hostmaster SERIAL 3600 600 604800 60"]}}}"#;
const HOST: &str = r#"{"sets":{"A":{"ttl":300,"data":["192.0.2.1"]}}}"#;
const ALIAS: &str = r#"{"sets":{"CNAME":{"ttl":300,"data":["ns1"]}}}"#;

fn apex(serial: u32) -> String {
    APEX.replace("SERIAL", &serial.to_string())
}

fn in_force(generation: u64) -> String {
    format!(r#"{{"generation":{generation}}}"#)
}

fn name(generation: u64, name: &str) -> String {
    format!("/cfgsvc/names/example.com/{generation}/{name}")
}

const ZONE: &str = "/cfgsvc/zones/example.com";

fn follow(name: &str) -> String {
    format!("/cfgsvc/follows/example.com/{name}")
}

/// The zone `example.com` with serial 7 in force, two colos, and a role of each kind.
fn world() -> World {
    let mut world = World::new();
    for (colo, at) in [("akl", "198.51.100.1:80"), ("wlg", "203.0.113.1:80")] {
        let colo = format!("/cfgsvc/colos/{colo}");
        taken(&mut world, &colo, &format!(r#"{{"addresses":["{at}"]}}"#));
    }
    taken(
        &mut world,
        "/cfgsvc/roles/web",
        r#"{"kind":"colo","candidates":["akl","wlg"]}"#,
    );
    taken(&mut world, "/cfgsvc/roles/db", "{}");
    taken(&mut world, &name(1, "@"), &apex(7));
    taken(&mut world, &name(1, "ns1"), HOST);
    taken(&mut world, ZONE, &in_force(1));
    world
}

fn taken(world: &mut World, key: &str, value: &str) {
    let done = world.put(key, value);
    assert!(matches!(done, Outcome::Put(_)), "{key} {value}: {done:?}");
    check(&world.state).expect("the store's invariants");
}

fn why(outcome: Outcome) -> String {
    let Outcome::Refusal(refusal) = outcome else {
        panic!("it was not refused: {outcome:?}");
    };
    refusal.detail
}

fn put(key: &str, value: &str) -> request_op::Request {
    request_op::Request::RequestPut(PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        ..PutRequest::default()
    })
}

fn delete(key: &str) -> request_op::Request {
    request_op::Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.as_bytes().to_vec().into(),
        ..DeleteRangeRequest::default()
    })
}

fn txn(world: &mut World, requests: Vec<request_op::Request>) -> Outcome {
    let success = requests.into_iter().map(|request| RequestOp {
        request: Some(request),
    });
    let done = world.apply(Op::Txn(TxnRequest {
        success: success.collect(),
        ..TxnRequest::default()
    }));
    check(&world.state).expect("the store's invariants");
    done
}

fn deleted(world: &mut World, key: &str) -> Outcome {
    txn(world, vec![delete(key)])
}

/// The count of the zone, by all that the group counts.
fn count(world: &World) -> u64 {
    let serial: ZoneSerial = world
        .object("/cfgsvc/serials/example.com")
        .unwrap_or_default();
    serial.now(|role| moves(world, role))
}

fn moves(world: &World, role: &RoleName) -> u64 {
    let moved: Option<Moved> = world.object(&format!("/cfgsvc/moved/{role}"));
    moved.unwrap_or_default().count
}

#[test]
fn a_zone_comes_into_force_with_soa_and_name_servers_and_keeps_them() {
    let mut world = world();
    assert_eq!(count(&world), 7);
    let refused = why(world.put(ZONE, &in_force(2)));
    assert!(
        refused.contains("there is no '/cfgsvc/names/example.com/2/@'"),
        "{refused}"
    );
    let refused = why(world.put(&name(1, "@"), HOST));
    assert!(
        refused.contains("the apex of the zone has no SOA"),
        "{refused}"
    );
    let refused = why(deleted(&mut world, &name(1, "@")));
    assert!(
        refused.contains("the zone is in force: cfgctl zone delete"),
        "{refused}"
    );
    let gone = txn(&mut world, vec![delete(ZONE), delete(&name(1, "@"))]);
    assert!(matches!(gone, Outcome::Txn(_)), "{gone:?}");
    assert_eq!(
        count(&world),
        8,
        "it never goes back, should the zone come again"
    );
}

#[test]
fn the_serial_counts_commits_that_change_the_zone_and_no_others() {
    let mut world = world();
    taken(&mut world, &name(1, "www"), HOST);
    assert_eq!(count(&world), 8);
    let both = vec![put(&name(1, "a"), HOST), put(&name(1, "b"), HOST)];
    assert!(matches!(txn(&mut world, both), Outcome::Txn(_)));
    assert_eq!(count(&world), 9, "one commit");
    taken(&mut world, &name(2, "@"), &apex(3));
    taken(&mut world, &name(2, "ns1"), HOST);
    assert_eq!(count(&world), 9, "nobody reads the next generation");
    taken(&mut world, ZONE, &in_force(2));
    assert_eq!(count(&world), 10, "an older serial is not taken over");
    assert!(matches!(
        deleted(&mut world, &name(1, "www")),
        Outcome::Txn(_)
    ));
    assert_eq!(count(&world), 10, "nobody reads the last one any more");
    taken(&mut world, &name(2, "@"), &apex(2_026_112_200));
    assert_eq!(count(&world), 2_026_112_200);
    taken(&mut world, &name(2, "www"), HOST);
    assert_eq!(on_wire(count(&world)), 2_026_112_201);
}

#[test]
fn a_move_of_a_role_is_one_small_change_and_a_new_serial_of_all_who_follow() {
    let mut world = world();
    taken(&mut world, &follow("www/A"), r#"{"role":"web"}"#);
    taken(&mut world, &follow("api/A"), r#"{"role":"web"}"#);
    let before = count(&world);
    world.step("web", go("akl")).expect("akl is there");
    let given = count(&world);
    assert_eq!(given, before + 1);
    world.step("web", go("wlg")).expect("wlg is there");
    assert_eq!(count(&world), given + 1);
    taken(
        &mut world,
        "/cfgsvc/colos/wlg",
        r#"{"addresses":["203.0.113.2:80"]}"#,
    );
    assert_eq!(count(&world), given + 2, "its address is another");
    taken(
        &mut world,
        "/cfgsvc/colos/akl",
        r#"{"addresses":["203.0.113.3:80"]}"#,
    );
    assert_eq!(count(&world), given + 2, "nobody is sent there");
    for key in ["www/A", "api/A"] {
        assert!(matches!(deleted(&mut world, &follow(key)), Outcome::Txn(_)));
    }
    assert_eq!(count(&world), given + 4, "it never goes back");
    world.step("web", go("akl")).expect("akl is there");
    assert_eq!(count(&world), given + 4, "it follows no more");
}

#[test]
fn a_role_that_goes_with_all_that_follow_it_takes_no_serial_back() {
    let mut world = world();
    taken(&mut world, &follow("www/A"), r#"{"role":"web"}"#);
    for colo in ["akl", "wlg", "akl"] {
        world.step("web", go(colo)).expect("it is there");
    }
    let before = count(&world);
    let both = vec![delete(&follow("www/A")), delete("/cfgsvc/roles/web")];
    assert!(matches!(txn(&mut world, both), Outcome::Txn(_)));
    assert_eq!(count(&world), before + 1);
    assert_eq!(world.object::<Moved>("/cfgsvc/moved/web"), None);
}

#[test]
fn a_lease_that_ends_moves_what_follows_its_role() {
    let mut world = world();
    taken(&mut world, &follow("db/A"), r#"{"role":"db"}"#);
    for (nth, host) in HOSTS.iter().take(2).enumerate() {
        let lease = i64::try_from(nth).expect("few") + 1;
        let come = attend(*host, lease, Facts::default());
        world.step("db", come).expect("it is there");
    }
    let epoch = world.grant("db").epoch;
    world
        .step("db", start("h1", 1, epoch, ""))
        .expect("it was given");
    let before = count(&world);
    world.apply(Op::LeaseExpire(LeaseExpire {
        ids: vec![1],
        term: 1,
    }));
    check(&world.state).expect("the store's invariants");
    assert_eq!(
        world.grant("db").holder.map(String::from),
        Some("h2".to_owned())
    );
    assert_eq!(count(&world), before + 1);
    world
        .step("db", stop("h2", 2, "", true))
        .expect("it leaves");
    assert_eq!(count(&world), before + 1, "nobody else has taken it");
}

/// RFC 1034 4.2.1, RFC 6672 2.4: whoever comes first, the name or what hides it.
#[test]
fn a_name_that_the_zone_does_not_answer_for_follows_no_role() {
    let mut world = world();
    let cut = r#"{"sets":{"NS":{"ttl":300,"data":["ns1"]}}}"#;
    let dname = r#"{"sets":{"DNAME":{"ttl":300,"data":["ns1"]}}}"#;
    let web = r#"{"role":"web"}"#;
    taken(&mut world, &name(1, "sub"), cut);
    taken(&mut world, &name(1, "old"), dname);
    for (at, expected) in [
        ("sub", "sub.example.com. is delegated (NS)"),
        ("a.b.sub", "sub.example.com. is delegated (NS)"),
        ("a.old", "old.example.com. has a DNAME"),
        ("_cfgsvc.www", "begin with _cfgsvc"),
    ] {
        let refused = why(world.put(&follow(&format!("{at}/A")), web));
        assert!(refused.contains(expected), "{refused}");
        let name = format!("{at}.example.com. cannot follow a role: ");
        assert!(refused.contains(&name), "{refused}");
    }
    // The apex has the NS of the zone, and a DNAME hides what is below it alone (RFC 6672 2.4).
    for at in ["@/A", "www/A", "old/A", "a.b.new/A", "x_cfgsvc/A"] {
        taken(&mut world, &follow(at), web);
    }
    taken(&mut world, &name(1, "www"), dname);
    for (at, node) in [("b.new", dname), ("new", cut), ("a.b.new", cut)] {
        let refused = why(world.put(&name(1, at), node));
        assert!(refused.contains("a.b.new.example.com. cannot"), "{refused}");
    }
    taken(&mut world, &name(2, "@"), &apex(3));
    taken(&mut world, &name(2, "new"), dname);
    let refused = why(world.put(ZONE, &in_force(2)));
    assert!(
        refused.contains("new.example.com. has a DNAME"),
        "{refused}"
    );
    assert!(matches!(
        deleted(&mut world, &follow("a.b.new/A")),
        Outcome::Txn(_)
    ));
    taken(&mut world, ZONE, &in_force(2));
}

#[test]
fn what_cannot_be_answered_is_refused_by_name() {
    let mut world = world();
    taken(&mut world, &follow("www/A"), r#"{"role":"web"}"#);
    taken(&mut world, &name(1, "alias"), ALIAS);
    taken(&mut world, &name(1, "host"), HOST);
    let srv = r#"{"role":"db","names":"hosts"}"#;
    for (key, value, expected) in [
        (
            follow("a/A"),
            r#"{"role":"none"}"#,
            "role 'none' does not exist",
        ),
        (
            follow("a/TXT"),
            r#"{"role":"web"}"#,
            "A, AAAA, CNAME and SRV can",
        ),
        (
            follow("a/A"),
            r#"{"role":"web","ttl":301}"#,
            "allowed: 0 to 300",
        ),
        (follow("a/A"), r#"{"role":"locks/l"}"#, "is a lock"),
        (follow("a/SRV"), r#"{"role":"db"}"#, "SRV needs names"),
        (
            follow("a/A"),
            r#"{"role":"web","names":"x"}"#,
            "names is for CNAME and SRV",
        ),
        (
            follow("a/A"),
            r#"{"role":"web","port":1}"#,
            "port is for SRV",
        ),
        (
            follow("a/A"),
            r#"{"role":"web","weights":{"::1":1}}"#,
            "weight of ::1",
        ),
        (
            follow("a/A"),
            r#"{"role":"web","more":1}"#,
            "unknown field `more`",
        ),
        (
            follow("host/A"),
            r#"{"role":"web"}"#,
            "the name has A records",
        ),
        (
            follow("alias/A"),
            r#"{"role":"web"}"#,
            "is an alias (CNAME)",
        ),
        (follow("host/CNAME"), srv, "a CNAME stands alone"),
        (follow("www/CNAME"), srv, "a CNAME stands alone"),
        (
            "/cfgsvc/follows/example.org/www/A".to_owned(),
            r#"{"role":"web"}"#,
            "does not exist",
        ),
        (name(1, "www"), HOST, "A follows role 'web'"),
        (name(1, "www"), ALIAS, "A follows role 'web'"),
        (name(1, "x"), "[]", "invalid length 1"),
        (
            name(1, "x"),
            r#"{"sets":{"A":{"ttl":1,"data":["x"]}}}"#,
            "A 'x'",
        ),
        (
            name(1, "x"),
            r#"{"sets":{"A":{"ttl":1,"data":["192.0.2.1"]},"CNAME":{"ttl":1,"data":["y"]}}}"#,
            "CNAME",
        ),
        (
            "/cfgsvc/serials/example.com".to_owned(),
            "{}",
            "by the group alone",
        ),
        ("/cfgsvc/moved/web".to_owned(), "{}", "by the group alone"),
    ] {
        let refused = why(world.put(&key, value));
        assert!(refused.contains(expected), "{key} {value}: {refused}");
    }
    taken(&mut world, &name(2, "@"), &apex(3));
    taken(&mut world, &name(2, "www"), HOST);
    let refused = why(world.put(ZONE, &in_force(2)));
    assert!(
        refused.contains("www.example.com.: the name has A records"),
        "{refused}"
    );
    let refused = why(deleted(&mut world, "/cfgsvc/roles/web"));
    assert!(
        refused.contains("is followed by '/cfgsvc/follows/example.com/www/A'"),
        "{refused}"
    );
    let refused = why(deleted(&mut world, ZONE));
    assert!(
        refused.contains("www.example.com. A follows role 'web'"),
        "{refused}"
    );
    let gone = txn(&mut world, vec![delete(ZONE), delete(&follow("www/A"))]);
    assert!(matches!(gone, Outcome::Txn(_)), "{gone:?}");
    assert!(matches!(
        deleted(&mut world, "/cfgsvc/roles/web"),
        Outcome::Txn(_)
    ));
    assert_eq!(world.object::<Moved>("/cfgsvc/moved/web"), None);
}

#[test]
fn a_restored_group_leaves_serials_out_that_it_may_have_told() {
    let world = world();
    let before = count(&world);
    let world = super::restored(&world.state);
    check(&world.state).expect("the store's invariants");
    assert_eq!(count(&world), before + (1 << 20));
}

const SIGNING: &str = "/cfgsvc/signing/example.com";
/// Public keys of RFC 8080 6.1 and RFC 6605 6.1.
const ED25519: &str = "257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=";
const P256: &str = "257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==";
/// The moment of signing, s.
const SIGNED_AT: i64 = 1_700_000_000;

/// How a zone is signed by these keys; `true`: it signs.
fn signed_by(keys: &[(&str, bool)]) -> String {
    let keys = keys
        .iter()
        .map(|(dnskey, signs)| format!(r#"{{"dnskey":"{dnskey}","role":"csk","signs":{signs}}}"#));
    let keys: Vec<String> = keys.collect();
    format!(r#"{{"keys":[{}],"at":{SIGNED_AT}}}"#, keys.join(","))
}

#[test]
fn a_zone_is_signed_where_it_is_and_its_serial_grows_with_each_change_of_that() {
    let mut world = world();
    let signed = signed_by(&[(ED25519, true)]);
    let refused = why(world.put("/cfgsvc/signing/example.org", &signed));
    assert!(
        refused.contains("'example.org' does not exist"),
        "{refused}"
    );
    let before = count(&world);
    taken(&mut world, SIGNING, &signed);
    assert_eq!(count(&world), before + 1);
    let later = signed.replace("1700000000", "1700000001");
    taken(&mut world, SIGNING, &later);
    assert_eq!(count(&world), before + 2);
    let refused = why(deleted(&mut world, ZONE));
    assert!(refused.contains("the zone is signed"), "{refused}");
    assert!(matches!(deleted(&mut world, SIGNING), Outcome::Txn(_)));
    assert_eq!(count(&world), before + 3, "it is signed no more");
    taken(&mut world, SIGNING, &signed);
    let both = vec![delete(SIGNING), delete(ZONE), delete(&name(1, "@"))];
    assert!(matches!(txn(&mut world, both), Outcome::Txn(_)));
}

#[test]
fn a_moment_of_signing_far_ahead_of_the_command_is_refused() {
    let mut world = world();
    let signed = signed_by(&[(ED25519, true)]);
    world.at_ms = (SIGNED_AT - 3_601) * 1_000;
    let refused = why(world.put(SIGNING, &signed));
    assert!(refused.contains("by the clock of the group"), "{refused}");
    let both = vec![put(SIGNING, &signed)];
    let refused = why(txn(&mut world, both));
    assert!(refused.contains("by the clock of the group"), "{refused}");
    world.at_ms += 1_000;
    taken(&mut world, SIGNING, &signed);
    // The group's time does not go back, and a clock that was ahead once says nothing of later.
    world.at_ms += 400_000_000_000;
    taken(&mut world, "elsewhere", "1");
    world.at_ms -= 400_000_000_000;
    let later = SIGNED_AT + 7_200;
    let far = signed.replace("1700000000", &later.to_string());
    let refused = why(world.put(SIGNING, &far));
    assert!(refused.contains("by the clock of the group"), "{refused}");
}

/// RFC 6781 4.1.4 and RFC 6840 5.11, by the steps of ZONES.md.
#[test]
fn an_algorithm_is_changed_by_adding_a_key_that_signs_and_removing_the_one_before() {
    let mut world = world();
    taken(&mut world, SIGNING, &signed_by(&[(ED25519, true)]));
    for wrong in [
        signed_by(&[(ED25519, true), (P256, false)]),
        signed_by(&[(ED25519, false), (P256, true)]),
    ] {
        let refused = why(world.put(SIGNING, &wrong));
        assert!(refused.contains("RFC 4035 2.2"), "{wrong}: {refused}");
    }
    taken(
        &mut world,
        SIGNING,
        &signed_by(&[(ED25519, true), (P256, true)]),
    );
    taken(&mut world, SIGNING, &signed_by(&[(P256, true)]));
}

/// How often zones came or went, by what the group counts.
fn listed(world: &World) -> Option<u64> {
    let moved: Option<Moved> = world.object("/cfgsvc/catalog");
    moved.map(|moved| moved.count)
}

#[test]
fn a_snapshot_of_before_zones_were_counted_is_restored_and_they_are_from_then_on() {
    let mut old = world();
    assert_eq!(listed(&old), Some(1));
    let catalog = b"/cfgsvc/catalog";
    old.state.remove(&tables::current(catalog));
    old.state.retain(|key, value| {
        let is_history = key.first() == Some(&(tables::Table::History as u8));
        let of = || HistoryRecord::decode(value.clone()).expect("a record").key;
        !is_history || of() != catalog.as_slice()
    });
    check(&old.state).expect("old data");
    let mut world = super::restored(&old.state);
    check(&world.state).expect("the store's invariants");
    assert_eq!(listed(&world), Some(1 << 20));
    let gone = txn(&mut world, vec![delete(ZONE), delete(&name(1, "@"))]);
    assert!(matches!(gone, Outcome::Txn(_)), "{gone:?}");
    assert_eq!(listed(&world), Some((1 << 20) + 1));

    let nothing = super::restored(&World::new().state);
    assert_eq!(listed(&nothing), None, "there is no zone to count");
}

#[test]
fn zones_that_come_and_go_are_counted_by_the_group_alone_and_on_after_a_restore() {
    let mut world = world();
    assert_eq!(listed(&world), Some(1));
    taken(&mut world, &name(1, "www"), HOST);
    taken(&mut world, &name(2, "@"), &apex(3));
    taken(&mut world, ZONE, &in_force(2));
    assert_eq!(listed(&world), Some(1), "it was there before");
    for done in [
        world.put("/cfgsvc/catalog", r#"{"count":9}"#),
        deleted(&mut world, "/cfgsvc/catalog"),
    ] {
        let refused = why(done);
        assert!(refused.contains("by the group alone"), "{refused}");
    }
    let mut world = super::restored(&world.state);
    assert_eq!(listed(&world), Some(1 + (1 << 20)));
    let gone = txn(&mut world, vec![delete(ZONE), delete(&name(2, "@"))]);
    assert!(matches!(gone, Outcome::Txn(_)), "{gone:?}");
    assert_eq!(listed(&world), Some(2 + (1 << 20)));
}

/// What is done next.
#[derive(Debug, Clone)]
enum Action {
    Name(u64, usize, u8),
    NameGone(u64, usize),
    Generation(u64),
    Follow(usize, usize),
    FollowGone(usize),
    Move(usize),
    Address(usize, u8),
}

const NAMES: [&str; 3] = ["a", "b", "ns1"];
const COLOS: [&str; 2] = ["akl", "wlg"];

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (1..3_u64, 0..3_usize, 1..4_u8).prop_map(|(to, name, at)| Action::Name(to, name, at)),
        2 => (1..3_u64, 0..3_usize).prop_map(|(of, name)| Action::NameGone(of, name)),
        2 => (1..3_u64).prop_map(Action::Generation),
        3 => (0..3_usize, 0..2_usize).prop_map(|(name, role)| Action::Follow(name, role)),
        2 => (0..3_usize).prop_map(Action::FollowGone),
        4 => (0..2_usize).prop_map(Action::Move),
        2 => (0..2_usize, 1..4_u8).prop_map(|(colo, at)| Action::Address(colo, at)),
    ]
}

fn act(world: &mut World, action: &Action) {
    match *action {
        Action::Name(generation, at, octet) => {
            let value = HOST.replace("192.0.2.1", &format!("192.0.2.{octet}"));
            world.put(&name(generation, NAMES[at]), &value);
        }
        Action::NameGone(generation, at) => {
            deleted(world, &name(generation, NAMES[at]));
        }
        Action::Generation(generation) => {
            world.put(ZONE, &in_force(generation));
        }
        Action::Follow(at, role) => {
            let value = format!(r#"{{"role":"{}"}}"#, ["web", "second"][role]);
            world.put(&follow(&format!("{}/A", NAMES[at])), &value);
        }
        Action::FollowGone(at) => {
            deleted(world, &follow(&format!("{}/A", NAMES[at])));
        }
        // Refused where it is there already.
        Action::Move(colo) => drop(world.step("web", go(COLOS[colo]))),
        Action::Address(colo, octet) => {
            let value = format!(r#"{{"addresses":["198.51.100.{octet}:80"]}}"#);
            world.put(&format!("/cfgsvc/colos/{}", COLOS[colo]), &value);
        }
    }
}

/// What the zone says, as a name server would read it from the keys: names, and where those that
/// follow lead.
fn says(world: &World) -> BTreeSet<String> {
    let settings: Settings = world.object(ZONE).expect("the zone");
    let mut said = BTreeSet::new();
    let current = tables::current(b"");
    for (stored, value) in &world.state {
        let Some(key) = stored.strip_prefix(&current[..]) else {
            continue;
        };
        let record = KeyRecord::decode(value.clone()).expect("a record");
        let key = String::from_utf8_lossy(key);
        if let Some(name) = key.strip_prefix(&name(settings.generation, "")) {
            let object: NodeObject = serde_json::from_slice(&record.value).expect("a node");
            said.insert(format!("{name} {object:?}"));
        }
        if let Some(name) = key.strip_prefix(&follow("")) {
            let follow: Follow = serde_json::from_slice(&record.value).expect("a follow");
            let grant: Grant = world.grant(follow.role.as_str());
            let epoch = grant.epoch;
            let colo = grant
                .holder
                .and_then(|holder| world.object::<Colo>(&format!("/cfgsvc/colos/{holder}")));
            said.insert(format!("{name} {epoch} {colo:?}"));
        }
    }
    said
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn another_zone_has_a_later_serial_and_no_serial_goes_back(
        actions in prop::collection::vec(action(), 1..40)
    ) {
        let mut world = world();
        taken(&mut world, "/cfgsvc/roles/second", r#"{"kind":"colo","candidates":["wlg"]}"#);
        taken(&mut world, &name(2, "@"), &apex(9));
        let mut known: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        known.insert(count(&world), says(&world));
        let mut last = count(&world);
        for action in &actions {
            act(&mut world, action);
            check(&world.state).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
            let (now, said) = (count(&world), says(&world));
            prop_assert!(now >= last, "{action:?}: {now} after {last}");
            last = now;
            let before = known.entry(now).or_insert_with(|| said.clone());
            prop_assert_eq!(&*before, &said, "{:?}: serial {} says another thing", action, now);
        }
    }
}
