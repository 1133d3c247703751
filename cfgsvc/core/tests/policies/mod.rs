//! Who is next: by lag, by colo, by the role that another follows.

use cfgsvc_core::check::check;
use cfgsvc_core::placement::objects::Data;
use cfgsvc_core::placement::{Fence, Name, Verdict, read};
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{LeaseExpire, Move, Sync};

use super::holder;
use super::world::{Facts, HOSTS, World, attend, go, start, stop};

/// Two colos, and these roles.
fn world(roles: &[(&str, &str)]) -> World {
    let mut world = World::new();
    for colo in ["akl", "wlg"] {
        world.put(&format!("/cfgsvc/colos/{colo}"), "{}");
    }
    for (role, spec) in roles {
        let made = world.put(&format!("/cfgsvc/roles/{role}"), spec);
        assert!(matches!(made, Outcome::Put(_)), "{made:?}");
    }
    world
}

fn comes(world: &mut World, role: &str, (host, lease): (usize, i64), position: Option<u64>) {
    let facts = Facts {
        epoch: world.grant(role).epoch,
        position,
        ..Facts::default()
    };
    let come = attend(HOSTS[host], lease, facts);
    world.step(role, come).expect("it is there");
}

/// Whoever was given the role begins it.
fn begins(world: &mut World, role: &str, lease: i64, position: &str) -> i64 {
    let (epoch, host) = (world.grant(role).epoch, holder(world, role));
    let begin = start(&host, lease, epoch, position);
    world.step(role, begin).expect("it was given");
    epoch
}

fn lost(world: &mut World, lease: i64) {
    let ids = vec![lease];
    world.apply(Op::LeaseExpire(LeaseExpire { ids, term: 1 }));
    check(&world.state).expect("the store's invariants");
}

fn reaches(world: &mut World, role: &str, lease: i64, position: &str) {
    let told = Step::Sync(Sync {
        host: holder(world, role),
        lease,
        epoch: world.grant(role).epoch,
        position: position.to_owned(),
        ..Sync::default()
    });
    world.step(role, told).expect("it serves");
}

const LAG: &str = r#"{"data":"number","max_lag":10}"#;

#[test]
fn after_a_loss_all_say_where_their_data_ends_and_the_most_advanced_is_next() {
    let mut world = world(&[("db", LAG)]);
    comes(&mut world, "db", (0, 1), Some(100));
    begins(&mut world, "db", 1, "100");
    comes(&mut world, "db", (1, 2), Some(100));
    comes(&mut world, "db", (2, 3), Some(100));
    comes(&mut world, "db", (3, 4), Some(100));
    reaches(&mut world, "db", 1, "200");
    lost(&mut world, 1);
    // They said that before the holder was lost.
    assert_eq!(holder(&world, "db"), "h1", "nobody else yet");
    let judged = |world: &World, host: &str, lease| {
        let (role, host) = ("db".parse().expect("a role"), host.parse().expect("a name"));
        read::judge(&world.state, &role, &host, lease).expect("memory")
    };
    assert!(judged(&world, "h2", 2).says_anew);
    comes(&mut world, "db", (1, 12), Some(191));
    assert!(!judged(&world, "h2", 12).says_anew);
    assert_eq!(holder(&world, "db"), "h1", "others may have more");
    comes(&mut world, "db", (2, 13), Some(195));
    assert_eq!(holder(&world, "db"), "h1");
    // The last one never says it; its lease is not renewed, and ends.
    lost(&mut world, 4);
    assert_eq!(holder(&world, "db"), "h3");
    begins(&mut world, "db", 13, "195");
}

#[test]
fn nobody_follows_a_lost_holder_who_lacks_more_than_the_lag() {
    let mut world = world(&[("db", LAG)]);
    comes(&mut world, "db", (0, 1), Some(100));
    begins(&mut world, "db", 1, "100");
    comes(&mut world, "db", (1, 2), Some(100));
    let (role, host) = ("db".parse().expect("a role"), "h1".parse().expect("a name"));
    let judged = read::judge(&world.state, &role, &host, 1).expect("memory");
    assert!(judged.tells, "as long as it serves");
    reaches(&mut world, "db", 1, "111");
    lost(&mut world, 1);
    comes(&mut world, "db", (1, 12), Some(100));
    assert_eq!(holder(&world, "db"), "h1", "h2 lacks 11 of 10");
    let refused = world.step("db", go("h2")).expect_err("it may lack writes");
    assert!(
        refused.contains("'h1' was at 111, 'h2' at 100, max_lag is 10"),
        "{refused}"
    );
    // The holder comes back and goes on.
    comes(&mut world, "db", (0, 21), Some(111));
    let epoch = world.grant("db").epoch;
    let begun = Verdict::Fenced(Fence::NotBegun { epoch });
    assert_eq!(world.verdict("db", "h1"), begun);
    begins(&mut world, "db", 21, "111");
    lost(&mut world, 21);
    comes(&mut world, "db", (1, 22), Some(100));
    let loss = Step::Move(Move {
        to: "h2".to_owned(),
        accept_loss: true,
        ..Move::default()
    });
    world.step("db", loss).expect("a person gives it up");
    begins(&mut world, "db", 22, "100");
}

#[test]
fn a_switch_in_order_asks_for_no_lag() {
    let mut world = world(&[("db", LAG)]);
    comes(&mut world, "db", (0, 1), Some(100));
    begins(&mut world, "db", 1, "100");
    comes(&mut world, "db", (1, 2), Some(5));
    world.step("db", go("h2")).expect("it may get the rest");
    world
        .step("db", stop("h1", 1, "500", false))
        .expect("it serves");
    assert_eq!(holder(&world, "db"), "h2");
    let early = start("h2", 2, world.grant("db").epoch, "499");
    world.step("db", early).expect_err("it lacks one");
    begins(&mut world, "db", 2, "500");
}

/// A person's switch is under way, and the holder is lost: what it wrote last is nobody's.
#[test]
fn a_switch_whose_holder_is_lost_goes_to_nobody_out_of_reach() {
    let mut world = world(&[("db", r#"{"data":"number","sync":true}"#)]);
    comes(&mut world, "db", (0, 1), Some(100));
    begins(&mut world, "db", 1, "100");
    comes(&mut world, "db", (1, 2), Some(100));
    world.step("db", go("h2")).expect("in order");
    lost(&mut world, 1);
    assert_eq!(holder(&world, "db"), "h1");
    let refused = world.step("db", go("h2")).expect_err("it was not in sync");
    assert!(
        refused.contains("nobody was") && refused.contains("--accept-loss"),
        "{refused}"
    );
}

#[test]
fn a_holder_that_says_less_than_it_began_with_leaves_what_it_began_with() {
    let mut world = world(&[("db", r#"{"data":"number"}"#)]);
    comes(&mut world, "db", (0, 1), Some(100));
    begins(&mut world, "db", 1, "100");
    comes(&mut world, "db", (1, 2), Some(100));
    world.step("db", go("h2")).expect("in order");
    world
        .step("db", stop("h1", 1, "90", false))
        .expect("it serves");
    assert_eq!(world.grant("db").left.as_deref(), Some("100"));
}

#[test]
fn candidates_of_the_same_colo_come_first_when_asked() {
    for (same, next) in [(true, "h3"), (false, "h2")] {
        let spec = format!(r#"{{"same_colo":{same},"candidates":["h1","h2","h3"]}}"#);
        let mut world = world(&[("one", &spec)]);
        for (host, lease) in [(0, 1), (1, 2), (2, 3)] {
            comes(&mut world, "one", (host, lease), None);
        }
        begins(&mut world, "one", 1, "");
        lost(&mut world, 1);
        assert_eq!(holder(&world, "one"), next, "{spec}");
    }
}

const WEB: (&str, &str) = ("web", r#"{"kind":"colo"}"#);
const FOLLOWS: &str = r#"{"follows":"web"}"#;

#[test]
fn a_role_that_follows_a_colo_goes_with_it_in_one_commit() {
    let mut world = world(&[WEB, ("db", FOLLOWS)]);
    world.step("web", go("akl")).expect("a person decides");
    for (host, lease) in [(1, 1), (0, 2)] {
        comes(&mut world, "db", (host, lease), None);
    }
    assert_eq!(
        holder(&world, "db"),
        "h1",
        "h2 came first, and is elsewhere"
    );
    begins(&mut world, "db", 2, "");
    let before = world.machine.revision();
    world.step("web", go("wlg")).expect("a person decides");
    assert_eq!(world.machine.revision(), before + 1);
    let next = world.grant("db").next;
    assert_eq!(next.as_ref().map(Name::as_str), Some("h2"));
    world
        .step("db", stop("h1", 2, "", false))
        .expect("it serves");
    assert_eq!(holder(&world, "db"), "h2");
    begins(&mut world, "db", 1, "");
    // The one in the other colo is not chosen, though this one is lost.
    lost(&mut world, 1);
    assert_eq!(holder(&world, "db"), "h2", "nobody else there");
    check(&world.state).expect("the store's invariants");
}

#[test]
fn a_colo_is_not_activated_where_nobody_could_take_what_follows() {
    let mut world = world(&[WEB, ("db", FOLLOWS)]);
    world.step("web", go("akl")).expect("a person decides");
    comes(&mut world, "db", (0, 1), None);
    begins(&mut world, "db", 1, "");
    let state = world.state.clone();
    let refused = world.step("web", go("wlg")).expect_err("nobody is there");
    assert!(
        refused.contains("role 'db' follows 'web', and no host of colo 'wlg'"),
        "{refused}"
    );
    let grant = |state| read::grant(state, &"web".parse().expect("a role")).expect("memory");
    assert_eq!(grant(&world.state), grant(&state), "nothing is half done");
    let anyhow = Step::Move(Move {
        to: "wlg".to_owned(),
        accept_loss: true,
        ..Move::default()
    });
    world.step("web", anyhow).expect("a person gives it up");
    assert_eq!(holder(&world, "web"), "wlg");
}

#[test]
fn a_follower_that_was_lost_with_its_colo_is_given_in_the_commit_that_moves_it() {
    let mut world = world(&[WEB, ("db", FOLLOWS)]);
    world.step("web", go("akl")).expect("a person decides");
    comes(&mut world, "db", (0, 1), None);
    comes(&mut world, "db", (1, 2), None);
    begins(&mut world, "db", 1, "");
    lost(&mut world, 1);
    assert_eq!(holder(&world, "db"), "h1", "it waits for the colo");
    world.step("web", go("wlg")).expect("a policy decides");
    assert_eq!(holder(&world, "db"), "h2");
    // It comes back, and takes nothing.
    comes(&mut world, "db", (0, 11), None);
    assert_eq!(holder(&world, "db"), "h2");
    assert_eq!(holder(&world, "web"), "wlg");
}

#[test]
fn settings_that_make_no_sense_are_refused_with_the_reason() {
    let mut world = world(&[WEB]);
    for (spec, why) in [
        (r#"{"follows":"nothing"}"#, "no role of a colo"),
        (r#"{"kind":"colo","same_colo":true}"#, "need kind 'host'"),
        (r#"{"check":"sh -c x"}"#, "must be tcp or http:/PATH"),
        (r#"{"sync":true}"#, "need data"),
        (r#"{"max_lag":1}"#, "need data"),
    ] {
        let Outcome::Refusal(refusal) = world.put("/cfgsvc/roles/db", spec) else {
            panic!("{spec} is taken");
        };
        assert!(refusal.detail.contains(why), "{spec}: {}", refusal.detail);
    }
    world.put("/cfgsvc/roles/db", FOLLOWS);
    let delete = Op::DeleteRange(cfgsvc_proto::etcd::DeleteRangeRequest {
        key: "/cfgsvc/roles/web".into(),
        ..Default::default()
    });
    let Outcome::Refusal(refusal) = world.apply(delete) else {
        panic!("it is deleted");
    };
    assert!(
        refusal.detail.contains("role 'db' follows"),
        "{}",
        refusal.detail
    );
    assert_eq!(Data::default(), Data::None);
}
