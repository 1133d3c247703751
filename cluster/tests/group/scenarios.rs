//! Members over real sockets and disks: founding, reads anywhere, restart, snapshot, membership.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::group::{Group, MembershipError, NewMember, Role, Status};
use cluster::start::{Beginning, start};
use cluster::types::{Membership, Payload, Types};
use openraft::Precondition;
use openraft::async_runtime::watch::WatchReceiver as _;

use crate::list_app::{Echo, ListApp};
use crate::world::{World, free_address, numbers, votes};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_through_any_member_are_read_through_any_other() {
    let world = World::begin(&["n1", "n2", "n3"]).await;
    for (number, name) in ["n1", "n2", "n3", "n1"].iter().enumerate() {
        world.write(name, number.to_string()).await;
        for reader in ["n1", "n2", "n3"] {
            assert_eq!(world.read(reader).await.len(), number + 1, "{reader} lags");
        }
    }
    let echo = world
        .member("n3")
        .call_leader(Bytes::from_static(b"hello"))
        .await;
    assert_eq!(echo.expect("the leader answers"), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn group_that_stops_whole_comes_back_with_everything() {
    let mut world = World::begin(&["n1", "n2", "n3"]).await;
    for number in numbers(0..250) {
        world.write("n1", number).await;
    }
    for name in ["n1", "n2", "n3"] {
        world.stop(name).await;
    }
    for name in ["n1", "n2", "n3"] {
        world.restart(name).await.expect("restart");
    }
    assert_eq!(world.read("n2").await, numbers(0..250));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn member_that_was_away_too_long_gets_a_snapshot() {
    let mut world = World::begin(&["n1", "n2", "n3"]).await;
    world.write("n1", "0".to_owned()).await;
    world.stop("n3").await;
    for number in numbers(1..500) {
        world.write("n1", number).await;
    }
    world.restart("n3").await.expect("restart");
    assert_eq!(world.read("n3").await, numbers(0..500));
    assert!(world.installs("n3") > 0, "it was brought up by the log");
    world.write("n3", "500".to_owned()).await;
    assert_eq!(world.read("n3").await, numbers(0..501));
    world.stop("n3").await;
    world
        .restart("n3")
        .await
        .expect("restart after the install");
    assert_eq!(world.read("n3").await, numbers(0..501));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leadership_moves_on_request_and_before_a_stop() {
    let mut world = World::begin(&["n1", "n2", "n3"]).await;
    world.write("n1", "0".to_owned()).await;
    let leader = world.leader().await;
    let status = world.member(&leader).status().borrow().clone();
    let target = status
        .members
        .iter()
        .find(|member| member.name != leader)
        .expect("another");
    world
        .member(&leader)
        .transfer_leader(target.id)
        .await
        .expect("transfer");
    assert_eq!(world.leader().await, target.name);
    let term = world
        .status_when(&target.name, |status| status.role == Role::Leader)
        .await
        .term;
    world.stop(&target.name).await;
    let name = world.running.keys().next().expect("two run").clone();
    let status = world.status_when(&name, |status| {
        status.term > term && status.leader.is_some()
    });
    assert_ne!(status.await.leader, Some(target.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn member_joins_is_promoted_and_replaces_another() {
    let mut world = World::begin(&["n1", "n2", "n3"]).await;
    for number in numbers(0..150) {
        world.write("n1", number).await;
    }
    world.join("n4", "n2").await;
    let status = world.status_when("n4", |status| votes(status, "n4")).await;
    assert_eq!(world.read("n4").await, numbers(0..150));
    let ids: BTreeSet<u64> = status.members.iter().map(|member| member.id).collect();
    assert!(
        ids.iter().any(|id| *id > 3),
        "the new id comes from the log: {ids:?}"
    );
    let n3 = status
        .members
        .iter()
        .find(|member| member.name == "n3")
        .expect("n3")
        .id;
    world.stop("n3").await;
    world.member("n4").member_remove(n3).await.expect("remove");
    world.write("n4", "150".to_owned()).await;
    assert_eq!(world.read("n1").await, numbers(0..151));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn member_that_comes_at_another_address_than_before_is_reached_there() {
    let mut world = World::begin(&["n1"]).await;
    world.write("n1", "0".to_owned()).await;
    let registered = NewMember {
        name: "n2".to_owned(),
        colo: String::new(),
        peer_address: free_address().to_string(),
        client_addresses: vec![],
        incarnation: String::new(),
        learner: false,
    };
    let registered = world.member("n1").member_add(registered).await;
    let id = registered.expect("n2 is registered").id;
    world.join("n2", "n1").await;
    let status = world.status_when("n2", |status| votes(status, "n2")).await;
    assert!(status.members.iter().any(|member| member.id == id));
    assert_eq!(world.read("n2").await, numbers(0..1));
    // It moves while the group goes on; one of two voters is no majority without it.
    world.join("n3", "n1").await;
    world.status_when("n3", |status| votes(status, "n3")).await;
    world.stop("n2").await;
    world.join("n2", "n1").await;
    world.write("n1", "1".to_owned()).await;
    assert_eq!(world.read("n2").await, numbers(0..2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leader_that_removes_itself_says_so_before_its_reads_time_out() {
    let world = World::begin(&["n1", "n2", "n3"]).await;
    world.write("n1", "0".to_owned()).await;
    let leader = world.leader().await;
    let id = world.member(&leader).identity().node_id;
    let removal = world.member(&leader).member_remove(id);
    // The request timeout of the options is what a read of a removed member takes.
    let removed = tokio::time::timeout(Duration::from_secs(10), removal).await;
    removed.expect("in time").expect("two voters are left");
    let other = world.addresses.keys().find(|name| **name != leader);
    let other = other.expect("three").clone();
    world.write(&other, "1".to_owned()).await;
    assert_eq!(world.read(&other).await, numbers(0..2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn change_that_was_left_half_made_is_finished() {
    let world = World::begin(&["n1", "n2", "n3"]).await;
    world.write("n1", "0".to_owned()).await;
    let leader = world.member(&world.leader().await);
    let before = leader.raft().metrics().borrow_watched().clone();
    let nodes = before.membership_config.membership().nodes();
    let nodes: BTreeMap<_, _> = nodes.map(|(id, node)| (*id, node.clone())).collect();
    let voters: BTreeSet<u64> = nodes.keys().copied().collect();
    let removed = voters.iter().copied().find(|id| *id != before.id);
    let mut left = voters.clone();
    left.remove(&removed.expect("three"));
    let joint = Membership::new(vec![voters, left.clone()], nodes).expect("two steps");
    let condition: [Precondition<Types>; 0] = [];
    let half = leader
        .raft()
        .append_membership(joint, Payload::Blank, condition);
    half.await.expect("the first step");
    let mut metrics = leader.raft().metrics();
    let finished = metrics.wait_until(|now| {
        let config = now
            .membership_config
            .membership()
            .get_joint_config()
            .clone();
        config == std::slice::from_ref(&left)
    });
    let finished = tokio::time::timeout(Duration::from_secs(20), finished).await;
    finished.expect("in time").expect("the leader runs");
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("create");
    for entry in std::fs::read_dir(from).expect("list") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copy");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn member_whose_log_was_put_back_is_not_heard_and_stops_nobody() {
    let mut world = World::begin(&["n1", "n2", "n3"]).await;
    world.write("n1", "0".to_owned()).await;
    let leader = world.leader().await;
    let names = ["n1", "n2", "n3"];
    let name = *names.iter().find(|name| **name != leader).expect("three");
    let id = world.member(name).identity().node_id;
    world.stop(name).await;
    let copy = world.root.path().join("copy");
    for part in ["log", "state"] {
        copy_tree(&world.directory(name).join(part), &copy.join(part));
    }
    world.restart(name).await.expect("restart");
    for number in numbers(1..10) {
        world.write(&leader, number).await;
    }
    // What it has applied it has acknowledged before.
    assert_eq!(world.read(name).await, numbers(0..10));
    world.stop(name).await;
    for part in ["log", "state"] {
        let directory = world.directory(name).join(part);
        std::fs::remove_dir_all(&directory).expect("remove");
        copy_tree(&copy.join(part), &directory);
    }
    world.restart(name).await.expect("nothing is missing in it");
    let silent = |status: &Arc<Status>| {
        let mut members = status.members.iter();
        let silent = |ago: Option<u64>| ago.is_none_or(|ago| ago > 2_000);
        members.any(|member| member.id == id && silent(member.last_contact_ms))
    };
    world.status_when(&leader, silent).await;
    world.write(&leader, "10".to_owned()).await;
    assert_eq!(world.read(&leader).await, numbers(0..11));
}

#[tokio::test]
async fn commands_that_no_message_could_carry_are_refused_as_a_setting() {
    let world = World::new(&["n1"]);
    let mut options = world.options("n1", Beginning::Found(world.founders()));
    options.command_bytes_max = 16 << 20;
    let started = start(options, Box::new(ListApp::default()), Arc::new(Echo)).await;
    let Err(refused) = started else {
        panic!("a command of 16 MiB fits no message");
    };
    assert!(refused.to_string().contains("16777216 bytes"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn removal_that_would_lose_the_quorum_and_doubled_members_are_refused() {
    let mut world = World::begin(&["n1", "n2", "n3"]).await;
    world.write("n1", "0".to_owned()).await;
    let status = world
        .status_when("n1", |status| status.members.len() == 3)
        .await;
    let id = |name: &str| {
        status
            .members
            .iter()
            .find(|m| m.name == name)
            .expect("member")
            .id
    };
    let leader = world.leader().await;
    let moved = world.member(&leader).transfer_leader(id("n1")).await;
    assert_eq!(moved, Ok(()));
    world.stop("n3").await;
    // n3 was heard from a moment ago; that it answers no more is what counts.
    let refused = world.member("n1").member_remove(id("n2")).await;
    let expected = MembershipError::WouldLoseQuorum {
        id: id("n2"),
        live: 1,
        voters: 2,
        needed: 2,
    };
    assert_eq!(refused, Err(expected));
    let twice = NewMember {
        name: "n2".to_owned(),
        colo: String::new(),
        peer_address: "127.0.0.1:1".to_owned(),
        client_addresses: vec![],
        incarnation: String::new(),
        learner: false,
    };
    let refused = world.member("n1").member_add(twice).await;
    assert!(
        matches!(refused, Err(MembershipError::Exists { .. })),
        "{refused:?}"
    );
    assert_eq!(
        world.member("n1").member_remove(999).await,
        Err(MembershipError::NotFound { id: 999 })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn founder_whose_disk_was_emptied_is_refused() {
    let mut world = World::begin(&["n1", "n2", "n3"]).await;
    world.write("n1", "0".to_owned()).await;
    for name in ["n1", "n3"] {
        world.stop(name).await;
        std::fs::remove_dir_all(world.directory(name)).expect("empty the disk");
        let refused = world
            .restart(name)
            .await
            .expect_err("an empty disk is not n1 or n3");
        assert!(
            refused.to_string().contains("another data directory"),
            "{refused}"
        );
        std::fs::remove_dir_all(world.directory(name)).expect("clear");
    }
}
