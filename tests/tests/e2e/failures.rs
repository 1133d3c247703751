//! Members die, are cut off and come back; nothing that was acknowledged is lost.

use std::time::{Duration, Instant};

use cfgsvc_client::{AdminError, Get, Options, Put, WatchOptions};
use cfgsvc_tests::harness::{Cluster, ClusterOptions, etcdctl, eventually, eventually_some};
use tokio::runtime::Runtime;

use crate::writers::{Writers, client};

const PATIENCE: Duration = Duration::from_mins(1);

/// Index of the member that leads, as the members say.
pub(crate) fn leader(cluster: &Cluster) -> usize {
    eventually_some(PATIENCE, "a leader", || {
        (0..cluster.count()).find(|index| {
            let address = cluster
                .client_address(*index)
                .expect("it has an address")
                .to_string();
            let said = etcdctl(&address, &["endpoint", "status", "-w", "fields"]);
            let said = said.expect("etcdctl runs").stdout;
            let field = |name: &str| {
                let line = said
                    .lines()
                    .find(|line| line.starts_with(&format!("\"{name}\"")))?;
                line.split(':').nth(1).map(|value| value.trim().to_owned())
            };
            field("MemberID").is_some() && field("MemberID") == field("Leader")
        })
    })
    .expect("in time")
}

fn wait_for_writes(writers: &Writers, count: usize) {
    eventually(PATIENCE, "writes", || writers.count() >= count).expect("the group takes writes");
}

#[test]
fn leader_killed_in_the_middle_of_writes_loses_nothing() {
    let mut cluster = Cluster::start(3).expect("three members");
    let writers = Writers::start(&cluster, 4).expect("writers");
    // `CFGSVC_SEED=N tests/run leader_killed` repeats the choice of moments.
    let seed: u32 = match std::env::var("CFGSVC_SEED") {
        Ok(seed) => seed.parse().expect("CFGSVC_SEED is a number"),
        Err(_) => std::process::id(),
    };
    eprintln!("seed {seed}");
    for round in 0..3 {
        let before = writers.count();
        // Somewhere between two writes of somebody, in the middle of a sync or of a reply.
        let moment = seed.wrapping_mul(2_654_435_761).rotate_left(8 * round) % 200;
        wait_for_writes(&writers, before + 1 + moment as usize);
        let victim = leader(&cluster);
        cluster.kill(victim).expect("kill -9");
        let before = writers.count();
        wait_for_writes(&writers, before + 100);
        cluster.restart(victim).expect("it comes back");
    }
    let checked = writers.check(&cluster).expect("nothing is lost or doubled");
    assert!(checked >= 300, "only {checked} writes");
}

#[test]
fn all_members_killed_at_once_come_back_with_everything() {
    let mut cluster = Cluster::start(3).expect("three members");
    let writers = Writers::start(&cluster, 4).expect("writers");
    wait_for_writes(&writers, 300);
    for index in 0..3 {
        cluster.kill(index).expect("kill -9");
    }
    for index in 0..3 {
        cluster.spawn(index).expect("start");
    }
    cluster.wait_all_ready().expect("the group is back");
    let before = writers.count();
    wait_for_writes(&writers, before + 100);
    writers.check(&cluster).expect("nothing is lost or doubled");
}

#[test]
fn leader_cut_off_serves_no_reads_and_follows_when_it_is_back() {
    let options = ClusterOptions {
        members: 3,
        proxied: true,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start_with(options).expect("three members");
    let old = leader(&cluster);
    let others: Vec<usize> = (0..3).filter(|index| *index != old).collect();
    let at = |index: usize| cluster.client_address(index).expect("address").to_string();
    let put = |index: usize, value: &str| {
        let ran = etcdctl(&at(index), &["--command-timeout=20s", "put", "k", value]);
        ran.expect("etcdctl runs").code == Some(0)
    };
    assert!(put(old, "before"));
    cluster
        .network()
        .expect("proxied")
        .partition(&[&[old], &others]);
    eventually(PATIENCE, "the majority takes writes", || {
        put(others[0], "after")
    })
    .expect("the majority goes on");
    let read = etcdctl(&at(old), &["--command-timeout=3s", "get", "k"]).expect("etcdctl runs");
    assert_ne!(
        read.code,
        Some(0),
        "a leader without a quorum answered: {}",
        read.stdout
    );
    let stale = etcdctl(&at(old), &["get", "k", "--consistency=s"]).expect("etcdctl runs");
    assert_eq!(
        stale.stdout, "k\nbefore\n",
        "a serializable read shows what the member has"
    );
    cluster.network().expect("proxied").heal();
    eventually(PATIENCE, "the old leader follows", || {
        let read = etcdctl(&at(old), &["--command-timeout=3s", "get", "k"]);
        read.expect("etcdctl runs").stdout == "k\nafter\n"
    })
    .expect("it follows");
}

#[test]
fn member_back_from_a_partition_does_not_unseat_the_leader() {
    const ELECTION: Duration = Duration::from_secs(2);
    let options = ClusterOptions {
        members: 3,
        proxied: true,
        // So long that no load on the machine makes the others hold one of their own.
        arguments: vec!["--election-ms".to_owned(), ELECTION.as_millis().to_string()],
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start_with(options).expect("three members");
    let leads = leader(&cluster);
    let away = (leads + 1) % 3;
    let stays = [leads, (leads + 2) % 3];
    let at = |index: usize| cluster.client_address(index).expect("address").to_string();
    let term = |index: usize| {
        let said = etcdctl(&at(index), &["endpoint", "status", "-w", "fields"]);
        let said = said.expect("etcdctl runs").stdout;
        let line = said
            .lines()
            .find(|line| line.starts_with("\"RaftTerm\""))
            .map(str::to_owned);
        line.expect("a status has a term")
    };
    let before = term(leads);
    cluster
        .network()
        .expect("proxied")
        .partition(&[&[away], &stays]);
    let put = |value: String| {
        let ran = etcdctl(&at(leads), &["put", "k", &value]).expect("etcdctl runs");
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    };
    // Long enough for several elections that the member that is away would hold.
    let started = Instant::now();
    while started.elapsed() < 5 * ELECTION {
        put("meanwhile".to_owned());
    }
    put("last".to_owned());
    cluster.network().expect("proxied").heal();
    eventually(PATIENCE, "the member is back", || {
        let read = etcdctl(&at(away), &["--command-timeout=3s", "get", "k"]);
        read.expect("etcdctl runs").stdout == "k\nlast\n"
    })
    .expect("it catches up");
    assert_eq!(term(leads), before, "an election was held");
    assert_eq!(leader(&cluster), leads);
}

#[test]
fn watch_goes_on_over_the_death_of_its_member_without_gap_or_doubling() {
    let mut cluster = Cluster::start(3).expect("three members");
    let runtime = Runtime::new().expect("runtime");
    let addresses: Vec<String> = cluster.endpoints().split(',').map(str::to_owned).collect();
    let (first, mut watch) = runtime.block_on(async {
        let watcher = cfgsvc_client::Client::new(Options::new(addresses)).expect("client");
        let first = watcher
            .put(Put::new("seen/first", "0"))
            .await
            .expect("a put")
            .revision;
        let from_first = WatchOptions::prefix("seen/").from_revision(first);
        (first, watcher.watch(from_first).await.expect("a watch"))
    });
    let watching = runtime.spawn(async move {
        let mut revisions = Vec::new();
        while revisions.len() < 201 {
            let events = watch
                .next()
                .await
                .expect("it does not end")
                .expect("no error");
            revisions.extend(events.events.iter().map(|event| event.kv.mod_revision));
        }
        revisions
    });
    let put = |cluster: &Cluster, numbers: std::ops::Range<u32>| {
        runtime.block_on(async {
            let writer = client(cluster).expect("client");
            let session = writer.session(60).await.expect("session");
            let writer = writer.in_session(&session);
            for number in numbers {
                let key = format!("seen/{number}");
                writer.put(Put::new(key, "x")).await.expect("a put");
            }
        });
    };
    put(&cluster, 0..100);
    // The client sticks to the first endpoint.
    cluster.kill(0).expect("kill -9");
    put(&cluster, 100..200);
    let revisions = runtime
        .block_on(async { tokio::time::timeout(PATIENCE, watching).await })
        .expect("all events arrive")
        .expect("the watcher ends");
    let ordered = revisions.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(ordered, "out of order or doubled: {revisions:?}");
    assert_eq!(revisions.first(), Some(&first));
    assert_eq!(revisions.len(), 201);
}

#[test]
fn member_joins_a_running_group_and_takes_a_dead_ones_place() {
    let mut cluster = Cluster::start(3).expect("three members");
    let runtime = Runtime::new().expect("runtime");
    let joined = cluster.join(1).expect("n4 starts");
    cluster.wait_ready(joined).expect("n4 is ready");
    let client = runtime
        .block_on(async { client(&cluster) })
        .expect("client");
    eventually(PATIENCE, "n4 votes", || {
        let members = runtime.block_on(client.etcd_members()).expect("members");
        members
            .iter()
            .any(|member| member.name == "n4" && !member.is_learner)
    })
    .expect("a learner that has caught up is promoted");
    cluster.kill(0).expect("kill -9");
    let members = runtime.block_on(client.etcd_members()).expect("members");
    let dead = members
        .iter()
        .find(|member| member.name == "n1")
        .expect("n1")
        .id;
    // A leader that is new has not heard from a majority yet, and refuses until it has.
    eventually(PATIENCE, "n1 is removed", || {
        let removed = runtime.block_on(client.member_remove(dead));
        matches!(removed, Ok(()) | Err(AdminError::MemberNotFound { .. }))
    })
    .expect("n1 is removed");
    runtime.block_on(async {
        client.put(Put::new("k", "v")).await.expect("a put");
        let reply = client.get(Get::new("k")).await.expect("a get");
        assert_eq!(reply.kvs.len(), 1);
    });
    assert!(
        cluster.stop(joined).expect("SIGTERM").success(),
        "a clean end"
    );
}
