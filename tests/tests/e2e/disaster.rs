//! A group loses its majority for good; what one member holds is recovered offline into a new one.

use std::path::Path;
use std::time::Duration;

use cfgsvc_client::{Client, Options, Put, WatchError, WatchOptions};
use cfgsvc_tests::harness::{Cluster, ClusterOptions, etcdctl, eventually, run_binary};
use tokio::runtime::Runtime;

use crate::failures::leader;

const PATIENCE: Duration = Duration::from_mins(1);
const RUNBOOK: &str = include_str!("../../../deploy/OPERATING.md");
const COMMAND: &str = "danger-recover-lost-majority";
const ADVANCE: i64 = 1_000_000_000;

fn etcd(at: &str, arguments: &[&str]) -> String {
    let ran = etcdctl(at, arguments).expect("etcdctl runs");
    ran.success().expect("etcdctl succeeds")
}

fn client(at: &str) -> Client {
    Client::new(Options::new(at.split(','))).expect("a client")
}

fn recover(arguments: &[&str]) -> Result<String, String> {
    let all = [&[COMMAND], arguments].concat();
    let ran = run_binary("cfgsvcd", &all).expect("cfgsvcd runs");
    let said = ran.stderr.clone();
    ran.success().map_err(|_| said)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Keys, versions of one key, and a lease with a key; returns the lease id.
fn fill(cluster: &Cluster) -> String {
    let at = cluster.endpoints();
    for number in 0..20 {
        etcd(&at, &["put", &format!("k{number:02}"), "value"]);
    }
    for value in ["one", "two", "three"] {
        etcd(&at, &["put", "versions", value]);
    }
    let granted = etcd(&at, &["lease", "grant", "600"]);
    let lease = granted.split_whitespace().nth(1).expect("an id").to_owned();
    etcd(&at, &["put", "leased", "value", "--lease", &lease]);
    for index in 0..cluster.count() {
        let own = cluster.client_address(index).expect("address").to_string();
        eventually(PATIENCE, format!("everything at member {index}"), || {
            let read = etcdctl(&own, &["get", "leased", "--consistency=s"]).expect("etcdctl runs");
            read.stdout.contains("value")
        })
        .expect("it follows");
    }
    lease
}

/// The leader takes a write that no other member hears of, and all are killed. Returns the leader.
fn lose_majority(cluster: &mut Cluster) -> usize {
    let survivor = leader(cluster);
    let at = cluster
        .client_address(survivor)
        .expect("address")
        .to_string();
    let others: Vec<usize> = (0..3).filter(|index| *index != survivor).collect();
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = client(&at);
        // Connected before the cut, so that the write is proposed while it still leads.
        client.get_key("k00").await.expect("a read");
        let network = cluster.network().expect("proxies");
        network.partition(&[&[survivor], &others]);
        let put = client.put(Put::new("unsure", "value"));
        let unsure = tokio::time::timeout(Duration::from_secs(2), put).await;
        assert!(
            !matches!(unsure, Ok(Ok(_))),
            "acknowledged without a majority"
        );
    });
    for index in 0..3 {
        cluster.kill(index).expect("kill -9");
    }
    survivor
}

fn json(arguments: &[&str]) -> String {
    let all = [arguments, &["-o", "json"]].concat();
    let ran = run_binary("cfgctl", &all).expect("cfgctl runs");
    ran.success().expect("cfgctl succeeds")
}

#[test]
fn group_that_lost_its_majority_is_recovered_from_one_member() {
    let options = ClusterOptions {
        members: 3,
        proxied: true,
        ..ClusterOptions::default()
    };
    let mut lost = Cluster::start_with(options).expect("three members");
    let lease = fill(&lost);
    let running = lost.data_directory(0).expect("directory");
    let refused = recover(&["--data-dir", text(&running)]).expect_err("it runs");
    assert!(refused.contains("in use by another process"), "{refused}");
    let survivor = lose_majority(&mut lost);

    let directory = lost.data_directory(survivor).expect("directory");
    let file = lost.directory().join("recovered.snapshot");
    let look = recover(&["--data-dir", text(&directory)]).expect("it looks");
    for words in [
        "voters       n1, n2, n3",
        "nobody knows",
        "Nothing was written",
    ] {
        assert!(look.contains(words), "no `{words}` in {look}");
    }
    let arguments = ["--data-dir", text(&directory), "--out", text(&file)];
    let wrote = recover(&arguments).expect("it writes");
    assert!(wrote.contains("23 keys"), "{wrote}");
    let refused = recover(&arguments).expect_err("the file is there");
    assert!(refused.contains("exists"), "{refused}");
    let inspected = json(&["snapshot", "inspect", text(&file)]);
    let source = format!("\"recovered_from\": \"n{}\"", survivor + 1);
    assert!(inspected.contains(&source), "{inspected}");

    let new = Cluster::start(3).expect("a new group");
    let at = new.endpoints();
    let restored = [
        "--endpoints",
        &at,
        "snapshot",
        "restore",
        text(&file),
        "--yes",
    ];
    json(&restored);
    for command in [COMMAND, "cfgctl snapshot restore FILE --yes"] {
        assert!(RUNBOOK.contains(command), "the runbook lacks `{command}`");
    }
    holds_everything(&at, &lease);
}

/// What the lost group held is there, and nothing that it may have given is given again.
fn holds_everything(at: &str, lease: &str) {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = client(at);
        let unsure = client.get_key("unsure").await.expect("a read");
        let unsure = unsure.expect("the survivor held it");
        assert!(unsure.mod_revision > ADVANCE, "at {}", unsure.mod_revision);
        let versions = client.get_key("versions").await.expect("a read");
        let versions = versions.expect("it was acknowledged");
        assert_eq!(
            (versions.value.as_ref(), versions.version),
            (&b"three"[..], 3)
        );
        let earlier = (versions.mod_revision - 1).to_string();
        let value = ["get", "versions", "--print-value-only", "--rev", &earlier];
        assert_eq!(etcd(at, &value).trim(), "two");
        let put = client.put(Put::new("new", "value")).await.expect("a write");
        assert!(put.revision > unsure.mod_revision);

        let lost = versions.mod_revision + 1000;
        let mut watch = client
            .watch(WatchOptions::new("k00").from_revision(lost))
            .await
            .expect("a stream");
        let end = tokio::time::timeout(PATIENCE, watch.next()).await;
        let end = end.expect("it is told").expect("an end");
        assert!(matches!(end, Err(WatchError::Compacted { .. })), "{end:?}");
        let lost = lost.to_string();
        let read = etcdctl(at, &["get", "k00", "--rev", &lost]).expect("etcdctl runs");
        assert!(read.stderr.contains("compacted"), "{}", read.stderr);
    });
    let keys = etcd(at, &["get", "k", "--prefix", "--keys-only"]);
    assert_eq!(keys.lines().filter(|line| !line.is_empty()).count(), 20);
    let told = etcd(at, &["lease", "timetolive", lease, "--keys"]);
    for words in ["granted with TTL(600s)", "leased"] {
        assert!(told.contains(words), "no `{words}` in {told}");
    }
    let history = json(&["--endpoints", at, "history", "versions"]);
    for value in ["one", "two", "three"] {
        assert!(history.contains(value), "no `{value}` in {history}");
    }
}

#[test]
fn directory_that_no_member_has_used_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let refused = recover(&["--data-dir", text(directory.path())]).expect_err("it is empty");
    assert!(
        refused.contains("is not the data directory of a member"),
        "{refused}"
    );
    let mut left = std::fs::read_dir(directory.path()).expect("list");
    assert!(left.next().is_none());
}
