//! What a member refuses to start on, in words that say what to do.

use std::fs;
use std::process::Command;
use std::time::Duration;

use cfgsvc_tests::harness::{Cluster, ClusterOptions, Ran, run, unused_address};

/// Starts `cfgsvcd` with these arguments, which it refuses.
fn refused(arguments: &[&str]) -> Ran {
    let binary = cfgsvc_tests::harness::binary_path("cfgsvcd").expect("it is built");
    let ran = run(Command::new(binary).args(arguments)).expect("it runs");
    assert_ne!(ran.code, Some(0), "accepted: {arguments:?}");
    ran
}

fn says(ran: &Ran, words: &[&str]) {
    for word in words {
        assert!(ran.stderr.contains(word), "no `{word}` in: {}", ran.stderr);
    }
}

#[test]
fn bad_settings_are_reported_all_at_once() {
    let ran = refused(&[
        "--listen-client",
        "nowhere",
        "--election-ms",
        "7",
        "--name",
        "",
    ]);
    assert_eq!(ran.code, Some(2));
    says(&ran, &["listen-client", "nowhere", "election-ms", "name"]);
    assert_eq!(refused(&["--no-such-flag"]).code, Some(2));
}

#[test]
fn address_that_is_taken_is_named() {
    let cluster = Cluster::start(1).expect("a member");
    let directory = tempfile::tempdir().expect("temp dir");
    let taken = cluster.client_address(0).expect("address").to_string();
    let free = unused_address().expect("address").to_string();
    let data = directory.path().join("d").to_string_lossy().into_owned();
    let start = [
        "--data-dir",
        &data,
        "--listen-client",
        &taken,
        "--listen-peer",
        &free,
    ];
    says(&refused(&start), &["cannot listen", &taken]);
    let taken = cluster.peer_address(0).expect("address").to_string();
    let start = [
        "--data-dir",
        &data,
        "--listen-client",
        &free,
        "--listen-peer",
        &taken,
    ];
    says(&refused(&start), &["cannot listen", &taken]);
}

#[test]
fn swapped_copied_emptied_and_used_directories_are_refused() {
    let mut cluster = Cluster::start(3).expect("three members");
    let data = |cluster: &Cluster, index: usize| {
        cluster
            .data_directory(index)
            .expect("directory")
            .to_string_lossy()
            .into_owned()
    };
    let used = data(&cluster, 0);
    let (client, peer) = (
        unused_address().expect("free"),
        unused_address().expect("free"),
    );
    let (client, peer) = (client.to_string(), peer.to_string());
    let alone = |name: &str, data: &str| {
        refused(&[
            "--name",
            name,
            "--data-dir",
            data,
            "--listen-client",
            &client,
            "--listen-peer",
            &peer,
        ])
    };
    says(&alone("n1", &used), &["in use by another process"]);
    cluster.stop(0).expect("SIGTERM");
    says(&alone("n2", &used), &["belongs to member `n1`"]);
    let copy = cluster.directory().join("copy");
    run(Command::new("cp").args(["-r", &used]).arg(&copy))
        .expect("copy")
        .success()
        .expect("copy");
    says(
        &alone("n1", &copy.to_string_lossy()),
        &["is a copy", "--danger-adopt-copied-data"],
    );
    fs::remove_dir_all(format!("{used}/log")).expect("lose the log");
    says(
        &alone("n1", &used),
        &["lacks `log", "cfgctl member remove n1"],
    );
    fs::remove_dir_all(&used).expect("lose the disk");
    cluster.spawn(0).expect("start");
    let status = cluster
        .wait_exit(0, Duration::from_secs(30))
        .expect("it ends");
    assert!(!status.success());
    let log = cluster.logs(0).expect("log");
    assert!(log.contains("another data directory"), "{log}");
}

#[test]
fn member_of_one_group_does_not_join_another() {
    let one = Cluster::start(1).expect("a group");
    let mut other = Cluster::unstarted(ClusterOptions {
        members: 1,
        ..ClusterOptions::default()
    })
    .expect("another");
    other.spawn(0).expect("start");
    other.wait_ready(0).expect("ready");
    other.stop(0).expect("SIGTERM");
    let data = other
        .data_directory(0)
        .expect("directory")
        .to_string_lossy()
        .into_owned();
    let join = one.client_address(0).expect("address").to_string();
    let (client, peer) = (
        unused_address().expect("free"),
        unused_address().expect("free"),
    );
    let ran = refused(&[
        "--name",
        "n1",
        "--data-dir",
        &data,
        "--listen-client",
        &client.to_string(),
        "--listen-peer",
        &peer.to_string(),
        "--join",
        &join,
    ]);
    says(&ran, &["cluster ID mismatch"]);
}
