//! Commands and reads that clients give to a follower, on their way to the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::group::{Group as _, ProposeError};
use futures_util::future::join_all;

use crate::proxy::Proxy;
use crate::world::{World, numbers};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_of_many_commands_is_executed_once_and_gets_its_own_reply() {
    let world = World::begin(&NAMES).await;
    let leader = world.leader().await;
    let items = numbers(0..3000);
    let followers = NAMES.iter().filter(|name| **name != leader);
    let proposals = followers.cycle().zip(&items).map(|(name, item)| {
        let proposed = world.member(name).propose(Bytes::from(item.clone()));
        async move { (proposed.await.expect("a reply"), item) }
    });
    let replies = join_all(proposals).await;
    let list = world.read(&leader).await;
    assert_eq!(list.len(), items.len());
    for (reply, item) in replies {
        // The length of the list when the item was its last.
        let length = String::from_utf8_lossy(&reply).parse::<usize>();
        assert_eq!(&list[length.expect("a number") - 1], item);
    }
}

/// A group whose leader will be replaced by one of the others while another asks it.
struct Replaced {
    world: World,
    proxies: BTreeMap<&'static str, Arc<Proxy>>,
    leader: String,
    /// Who asks it.
    follower: &'static str,
    /// The next leader.
    target: u64,
}

impl Replaced {
    async fn begin() -> Self {
        let mut world = World::new(&NAMES);
        let proxies: BTreeMap<_, _> = NAMES
            .iter()
            .map(|name| {
                let (address, proxy) = Proxy::start(world.addresses[*name]);
                world.advertised.insert((*name).to_owned(), address);
                (*name, proxy)
            })
            .collect();
        world.found(&NAMES).await;
        world.write("n1", "0".to_owned()).await;
        let leader = world.leader().await;
        let others: BTreeSet<&str> = NAMES.into_iter().filter(|name| *name != leader).collect();
        let [follower, next] = *others.into_iter().collect::<Vec<_>>() else {
            panic!("two others")
        };
        let status = world.member(&leader).status().borrow().clone();
        let target = status.members.iter().find(|member| member.name == next);
        Self {
            target: target.expect("a member").id,
            world,
            proxies,
            leader,
            follower,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn read_that_asked_a_leader_that_is_silent_is_answered_by_the_next_one() {
    let Replaced {
        world,
        proxies,
        leader,
        follower,
        target,
    } = Replaced::begin().await;
    // As long as the follower's connection is not made, it does not go silent but fails.
    assert_eq!(world.read(follower).await, ["0"]);
    proxies[leader.as_str()].hold(true);
    let mut read = std::pin::pin!(world.read(follower));
    assert!(futures_util::poll!(&mut read).is_pending());
    // The connection breaks two seconds after it went silent at the earliest.
    let in_time = async {
        let replaced = world.status_when(follower, |status| status.leader == Some(target));
        replaced.await;
        tokio::time::timeout(Duration::from_secs(1), read).await
    };
    let (_, found) = tokio::join!(world.member(&leader).transfer_leader(target), in_time);
    proxies[leader.as_str()].hold(false);
    assert_eq!(found.expect("the leader was replaced"), ["0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn command_on_its_way_to_a_leader_that_is_replaced_holds_up_nobody() {
    let Replaced {
        world,
        proxies,
        leader,
        follower,
        target,
    } = Replaced::begin().await;

    // More than may be under way at a time: the last of them wait for the first.
    proxies[leader.as_str()].hold(true);
    let proposals = (1..100).map(|number: u32| {
        let command = Bytes::from(number.to_string());
        world.member(follower).propose(command)
    });
    let mut proposals = std::pin::pin!(join_all(proposals));
    assert!(futures_util::poll!(&mut proposals).is_pending());
    // The connection breaks two seconds after it went silent at the earliest; the command does not
    // wait for that. The leader does not hear of its successor.
    let in_time = async {
        let replaced = world.status_when(follower, |status| status.leader == Some(target));
        replaced.await;
        tokio::time::timeout(Duration::from_millis(1500), proposals).await
    };
    let (_, outcomes) = tokio::join!(world.member(&leader).transfer_leader(target), in_time);
    let outcomes = outcomes.expect("the leader was replaced");
    proxies[leader.as_str()].hold(false);
    let list = world.read(follower).await;
    for (number, outcome) in (1..100).zip(outcomes) {
        let executed = list.iter().filter(|item| **item == number.to_string());
        match outcome {
            Ok(_) => assert_eq!(executed.count(), 1, "{number}"),
            Err(ProposeError::LeaderChanged) => assert!(executed.count() <= 1, "{number}"),
            Err(error) => panic!("{number}: {error}"),
        }
    }
}
