//! Roles with data, and people who move roles: who lacks what, and who may have it again.

use cfgsvc_core::Machine;
use cfgsvc_core::placement::{Fence, Name, Verdict, read};
use cfgsvc_proto::etcd::DeleteRangeRequest;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{Attend, Command, LeaseExpire, Reply, Sync};
use cluster_core::store::Overlay;
use prost::Message;

use super::counting::Counting;
use super::world::{Facts, HOSTS, World, attend, go, start, stop};
use super::{holder, loss};

/// Two colos and role `db`, of which `spec` is said.
fn world(spec: &str) -> World {
    let mut world = World::new();
    for colo in ["akl", "wlg"] {
        world.put(&format!("/cfgsvc/colos/{colo}"), "{}");
    }
    let made = world.put("/cfgsvc/roles/db", spec);
    assert!(matches!(made, Outcome::Put(_)), "{made:?}");
    world
}

const NUMBER: &str = r#"{"data":"number"}"#;

fn comes(world: &mut World, host: usize, lease: i64, (epoch, position): (i64, Option<u64>)) {
    let facts = Facts {
        epoch,
        position,
        ..Facts::default()
    };
    let come = attend(HOSTS[host], lease, facts);
    world.step("db", come).expect("it is there");
}

/// The holder begins at `position`; its epoch.
fn begins(world: &mut World, host: &str, lease: i64, position: &str) -> i64 {
    let grant = world.grant("db");
    assert_eq!(grant.holder.as_ref().map(Name::as_str), Some(host));
    let begin = start(host, lease, grant.epoch, position);
    world.step("db", begin).expect("it was given");
    grant.epoch
}

#[test]
fn a_stop_without_a_position_leaves_data_that_nobody_can_compare() {
    let mut world = world(NUMBER);
    comes(&mut world, 0, 1, (0, Some(100)));
    let epoch = begins(&mut world, "h1", 1, "100");
    comes(&mut world, 1, 2, (epoch, Some(100)));
    world.step("db", go("h2")).expect("a person decides");
    world.step("db", stop("h1", 1, "", false)).expect("stopped");
    begins(&mut world, "h2", 2, "120");
    let told = world.verdict("db", "h1");
    assert!(matches!(told, Verdict::Rebuild { .. }), "{told:?}");
}

#[test]
fn a_person_who_moves_a_role_to_a_host_that_lacks_writes_must_say_so() {
    let mut world = world(NUMBER);
    comes(&mut world, 1, 1, (0, Some(10)));
    let first = begins(&mut world, "h2", 1, "10");
    world
        .step("db", stop("h2", 1, "10", true))
        .expect("it goes");
    comes(&mut world, 0, 2, (first, Some(100)));
    begins(&mut world, "h1", 2, "100");
    // It wrote on after all, as the other did.
    comes(&mut world, 1, 3, (first, Some(120)));
    let refused = world
        .step("db", go("h2"))
        .expect_err("it lacks what h1 writes");
    assert!(refused.contains("--accept-loss"), "{refused}");
    world.step("db", loss("h2")).expect("a person gives it up");
    world
        .step("db", stop("h1", 2, "130", false))
        .expect("stopped");
    begins(&mut world, "h2", 3, "120");
}

#[test]
fn a_loss_that_is_accepted_before_the_holder_stops_is_accepted_after_it() {
    let mut world = world(NUMBER);
    comes(&mut world, 0, 1, (0, Some(5)));
    let epoch = begins(&mut world, "h1", 1, "5");
    comes(&mut world, 1, 2, (epoch, Some(5)));
    world.step("db", loss("h2")).expect("a person decides");
    world
        .step("db", stop("h1", 1, "110", false))
        .expect("stopped");
    begins(&mut world, "h2", 2, "5");
    // The next move is another one.
    let epoch = world.grant("db").epoch;
    comes(&mut world, 2, 3, (epoch, Some(5)));
    world.step("db", go("h3")).expect("a person decides");
    world
        .step("db", stop("h2", 2, "9", false))
        .expect("stopped");
    let begin = start("h3", 3, world.grant("db").epoch, "5");
    let refused = world.step("db", begin).expect_err("it lacks 4 writes");
    assert!(refused.contains("stopped at 9"), "{refused}");
}

#[test]
fn an_empty_store_has_nothing_to_lose() {
    let mut world = world(NUMBER);
    comes(&mut world, 0, 1, (0, Some(0)));
    comes(&mut world, 1, 2, (0, Some(0)));
    begins(&mut world, "h1", 1, "0");
    let told = world.verdict("db", "h2");
    assert!(matches!(told, Verdict::Standby { .. }), "{told:?}");
}

#[test]
fn who_gave_a_role_up_unasked_may_have_it_again_when_another_had_it() {
    let mut world = world("{}");
    comes(&mut world, 0, 1, (0, None));
    comes(&mut world, 1, 2, (0, None));
    begins(&mut world, "h1", 1, "");
    world.step("db", go("h2")).expect("a person decides");
    world.step("db", go("h1")).expect("and decides again");
    // It was stopping by then, which nobody asks for any more.
    world.step("db", stop("h1", 1, "", false)).expect("stopped");
    let declines = |world: &World| world.attending("db", "h1").is_some_and(|at| at.declines);
    assert!(declines(&world));
    begins(&mut world, "h2", 2, "");
    assert!(!declines(&world));
    world.step("db", stop("h2", 2, "", true)).expect("it goes");
    begins(&mut world, "h1", 1, "");
}

#[test]
fn a_person_gives_a_role_to_one_who_gave_it_up() {
    let mut world = world(r#"{"failover":"manual"}"#);
    comes(&mut world, 0, 1, (0, None));
    world.step("db", go("h1")).expect("a person decides");
    begins(&mut world, "h1", 1, "");
    world.step("db", stop("h1", 1, "", false)).expect("stopped");
    world.step("db", go("h1")).expect("a person knows better");
    begins(&mut world, "h1", 1, "");
}

#[test]
fn a_colo_that_holds_a_role_stays_whatever_a_host_is_called() {
    let mut world = world("{}");
    world.put(
        "/cfgsvc/roles/web",
        r#"{"kind":"colo","failover":"manual"}"#,
    );
    world.step("web", go("akl")).expect("a person decides");
    // A role before that one, held by a host of the same name.
    let facts = Facts::default();
    world
        .step("db", attend(("akl", "wlg"), 1, facts))
        .expect("it is there");
    let gone = world.apply(Op::DeleteRange(DeleteRangeRequest {
        key: "/cfgsvc/colos/akl".into(),
        ..DeleteRangeRequest::default()
    }));
    assert!(matches!(gone, Outcome::Refusal(_)), "{gone:?}");
}

#[test]
fn what_is_said_of_data_that_is_not_kept_shuts_nobody_out() {
    let mut world = world("{}");
    for (host, lease, identity) in [(0, 1, "orders"), (1, 2, ""), (2, 3, "other")] {
        let Step::Attend(mut come) = attend(HOSTS[host], lease, Facts::default()) else {
            unreachable!("it attends");
        };
        identity.clone_into(&mut come.identity);
        let lock = Attend {
            colo: String::new(),
            lease: 10 + lease,
            epoch: 1_000,
            ..come.clone()
        };
        world.step("db", Step::Attend(come)).expect("it is there");
        world.step("locks/l", Step::Attend(lock)).expect("it waits");
    }
    for (host, lease) in [("h1", 1), ("h2", 2), ("h3", 3)] {
        begins(&mut world, host, lease, "");
        world
            .step("db", stop(host, lease, "", true))
            .expect("it goes");
        let epoch = world.grant("locks/l").epoch;
        assert_eq!(world.verdict("locks/l", host), Verdict::Serve { epoch });
        let done = stop(host, 10 + lease, "", true);
        world.step("locks/l", done).expect("it goes");
    }
}

#[test]
fn a_holder_that_comes_back_empty_does_not_begin_over_what_it_wrote() {
    let mut world = world(NUMBER);
    comes(&mut world, 0, 1, (0, Some(50)));
    let epoch = begins(&mut world, "h1", 1, "50");
    // Its volume is not mounted.
    comes(&mut world, 0, 2, (epoch, Some(0)));
    assert_eq!(world.verdict("db", "h1"), Verdict::Fenced(Fence::Empty));
    let refused = world.step("db", go("h1")).expect_err("nobody said so");
    assert!(refused.contains("--accept-loss"), "{refused}");
    // It is looked at again when it begins.
    comes(&mut world, 0, 3, (epoch, Some(60)));
    for empty in ["0", "00"] {
        let begin = start("h1", 3, world.grant("db").epoch, empty);
        let refused = world.step("db", begin).expect_err("it lost what it wrote");
        assert!(refused.contains("volume"), "{refused}");
    }
    comes(&mut world, 0, 4, (epoch, Some(0)));
    // Who has the data is given it.
    comes(&mut world, 1, 5, (epoch, Some(90)));
    begins(&mut world, "h2", 5, "90");
}

#[test]
fn a_person_may_let_a_holder_begin_with_an_empty_store() {
    let mut world = world(r#"{"data":"number","failover":"manual"}"#);
    comes(&mut world, 0, 1, (0, Some(50)));
    world.step("db", go("h1")).expect("a person decides");
    let epoch = begins(&mut world, "h1", 1, "50");
    comes(&mut world, 0, 2, (epoch, Some(0)));
    world.step("db", loss("h1")).expect("a person gives it up");
    begins(&mut world, "h1", 2, "0");
    // That was for this once: it has written since, as one that follows knows.
    let epoch = world.grant("db").epoch;
    comes(&mut world, 1, 3, (epoch, Some(10)));
    comes(&mut world, 0, 4, (epoch, Some(0)));
    assert_eq!(world.verdict("db", "h1"), Verdict::Fenced(Fence::Empty));
}

#[test]
fn nobody_begins_empty_once_a_new_store_was_written_to() {
    let mut world = world(NUMBER);
    comes(&mut world, 0, 1, (0, Some(0)));
    let epoch = begins(&mut world, "h1", 1, "0");
    comes(&mut world, 1, 2, (epoch, Some(0)));
    let asked = |world: &World| {
        let (role, host) = ("db".parse().expect("a role"), "h1".parse().expect("a name"));
        let judged = read::judge(&world.state, &role, &host, 1).expect("memory");
        judged.tells
    };
    let tells = |world: &mut World, position: &str| {
        let told = Step::Sync(Sync {
            host: "h1".to_owned(),
            lease: 1,
            epoch,
            position: position.to_owned(),
            ..Sync::default()
        });
        world.step("db", told).expect("it serves");
    };
    assert!(asked(&world), "it is to say when there is something");
    tells(&mut world, "0");
    assert!(asked(&world));
    tells(&mut world, "1");
    assert!(!asked(&world), "the rest is of no use to the group");
    let ids = vec![1];
    world.apply(Op::LeaseExpire(LeaseExpire { ids, term: 1 }));
    assert_eq!(holder(&world, "db"), "h1", "the other one has nothing");
    let refused = world.step("db", go("h2")).expect_err("nobody gave it up");
    assert!(refused.contains("--accept-loss"), "{refused}");
    comes(&mut world, 0, 3, (epoch, Some(7)));
    begins(&mut world, "h1", 3, "7");
}

#[test]
fn a_holder_of_a_store_that_is_new_goes_on_and_others_do_not_take_its_place() {
    let mut world = world(NUMBER);
    comes(&mut world, 0, 1, (0, Some(0)));
    let epoch = begins(&mut world, "h1", 1, "0");
    comes(&mut world, 1, 2, (epoch, Some(0)));
    // It is lost before it says that it wrote anything. What it wrote the other has not.
    world.apply(Op::LeaseExpire(LeaseExpire {
        ids: vec![1],
        ..LeaseExpire::default()
    }));
    assert_eq!(world.attending("db", "h1"), None);
    assert_eq!(
        world.grant("db").holder.as_ref().map(Name::as_str),
        Some("h1")
    );
    comes(&mut world, 0, 3, (epoch, Some(0)));
    begins(&mut world, "h1", 3, "0");
}

#[test]
fn a_holder_whose_volume_is_mounted_late_goes_on_though_a_person_decides() {
    let mut world = world(r#"{"data":"number","failover":"manual"}"#);
    comes(&mut world, 0, 1, (0, Some(50)));
    world.step("db", go("h1")).expect("a person decides");
    let epoch = begins(&mut world, "h1", 1, "50");
    for (lease, position) in [(2, 0), (3, 0), (4, 60)] {
        comes(&mut world, 0, lease, (epoch, Some(position)));
    }
    begins(&mut world, "h1", 4, "60");
}

#[test]
fn a_store_that_was_empty_to_the_end_may_begin_again() {
    let mut world = world(NUMBER);
    comes(&mut world, 0, 1, (0, Some(0)));
    let epoch = begins(&mut world, "h1", 1, "0");
    world.step("db", stop("h1", 1, "0", true)).expect("it goes");
    comes(&mut world, 0, 2, (epoch, Some(0)));
    begins(&mut world, "h1", 2, "0");
}

#[test]
fn a_holder_with_other_data_makes_room_for_one_that_has_it() {
    let mut world = world(NUMBER);
    comes(&mut world, 0, 1, (0, Some(50)));
    let epoch = begins(&mut world, "h1", 1, "50");
    comes(&mut world, 1, 2, (epoch, Some(50)));
    let facts = Facts {
        epoch,
        position: Some(70),
        ..Facts::default()
    };
    let Step::Attend(mut other) = attend(HOSTS[0], 3, facts) else {
        unreachable!("it attends");
    };
    "stock".clone_into(&mut other.identity);
    world.step("db", Step::Attend(other)).expect("it is there");
    begins(&mut world, "h2", 2, "50");
    // Nor does a person give it to whom no grant could help.
    let refused = world.step("db", loss("h1")).expect_err("it has other data");
    assert!(refused.contains("of 'stock'"), "{refused}");
}

/// Of a host that is lost and whose name another takes, say, or that starts again with less.
#[test]
fn who_comes_again_begins_an_epoch_of_its_own() {
    let mut world = world(NUMBER);
    comes(&mut world, 0, 1, (0, Some(50)));
    let first = begins(&mut world, "h1", 1, "50");
    // It wrote up to 100, and 90 is what its disk kept.
    comes(&mut world, 0, 2, (first, Some(90)));
    let second = begins(&mut world, "h1", 2, "90");
    assert!(second > first);
    comes(&mut world, 1, 3, (first, Some(100)));
    let told = world.verdict("db", "h2");
    assert!(matches!(told, Verdict::Rebuild { .. }), "{told:?}");
}

#[test]
fn a_role_that_is_made_again_is_given_to_who_knew_the_former() {
    let mut world = world("{}");
    comes(&mut world, 0, 1, (0, None));
    let epoch = begins(&mut world, "h1", 1, "");
    world.step("db", stop("h1", 1, "", true)).expect("it goes");
    let gone = world.apply(Op::DeleteRange(DeleteRangeRequest {
        key: "/cfgsvc/roles/db".into(),
        ..DeleteRangeRequest::default()
    }));
    assert!(matches!(gone, Outcome::DeleteRange(_)), "{gone:?}");
    world.put("/cfgsvc/roles/db", "{}");
    comes(&mut world, 0, 2, (epoch, None));
    begins(&mut world, "h1", 2, "");
}

#[test]
fn a_client_of_a_lock_is_no_host() {
    let mut world = world("{}");
    let hosts = world.put("/cfgsvc/hosts/h1", r#"{"colo":"akl"}"#);
    assert!(matches!(hosts, Outcome::Put(_)), "{hosts:?}");
    let Step::Attend(mut lock) = attend(HOSTS[0], 1, Facts::default()) else {
        unreachable!("it attends");
    };
    lock.colo = String::new();
    world.step("locks/l", Step::Attend(lock)).expect("it waits");
    let moved = world.put("/cfgsvc/hosts/h1", r#"{"colo":"wlg"}"#);
    assert!(matches!(moved, Outcome::Put(_)), "{moved:?}");
}

/// Every member reads it when it is applied, and nothing else is applied meanwhile.
#[test]
fn what_is_read_for_hosts_that_go_is_the_same_for_one_and_for_a_hundred() {
    let mut world = world("{}");
    for number in 0..100 {
        world.put(&format!("/cfgsvc/hosts/gone-{number}"), r#"{"colo":"akl"}"#);
        let host = format!("here-{number}");
        let come = attend((&host, "akl"), 1 + number, Facts::default());
        world.step("db", come).expect("it is there");
    }
    let view = Counting::new(world.state);
    let mut machine = Machine::load(&view).expect("memory");
    let mut visited = |end: &str| {
        let command = Command {
            op: Some(Op::DeleteRange(DeleteRangeRequest {
                key: "/cfgsvc/hosts/gone-".into(),
                range_end: format!("/cfgsvc/hosts/gone-{end}").into(),
                ..DeleteRangeRequest::default()
            })),
            ..Command::default()
        };
        view.visited.set(0);
        let mut overlay = Overlay::new(&view);
        let command = command.encode_to_vec().into();
        let applied = machine.apply(&mut overlay, command).expect("memory");
        let reply = Reply::decode(applied.reply).expect("a reply").result;
        let Some(Outcome::DeleteRange(gone)) = reply else {
            unreachable!("{reply:?}");
        };
        (gone.deleted, view.visited.get())
    };
    let ((one, few), (all, many)) = (visited("00"), visited(":"));
    assert_eq!((one, all), (1, 100));
    assert!(many < few + 3 * 100, "{few} for one, {many} for all");
}

#[test]
fn who_gave_a_role_up_unasked_and_is_alone_has_it_again_when_it_comes_again() {
    let mut world = world("{}");
    comes(&mut world, 0, 1, (0, None));
    let epoch = begins(&mut world, "h1", 1, "");
    world.step("db", stop("h1", 1, "", false)).expect("stopped");
    let again = world.step("db", start("h1", 1, epoch, ""));
    let refused = again.expect_err("the epoch is over");
    assert!(refused.contains("comes again"), "{refused}");
    comes(&mut world, 0, 2, (epoch, None));
    begins(&mut world, "h1", 2, "");
}
