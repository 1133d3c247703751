//! A member whose files are damaged is refused; the group goes on, and the commands of the runbook
//! put another in its place.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use cfgsvc_tests::harness::{Cluster, etcdctl, eventually, run_binary};

const PATIENCE: Duration = Duration::from_mins(1);

const RUNBOOK: &str = include_str!("../../../deploy/OPERATING.md");

fn put(at: &str, keys: std::ops::Range<usize>) {
    for number in keys {
        let ran = etcdctl(at, &["put", &format!("k{number:03}"), "value"]).expect("etcdctl runs");
        ran.success().expect("the group takes writes");
    }
}

/// The newest file of a member's write-ahead log.
fn newest_log(cluster: &Cluster, index: usize) -> PathBuf {
    let directory = cluster
        .data_directory(index)
        .expect("directory")
        .join("log");
    let entries = fs::read_dir(directory).expect("list");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let logs = paths.filter(|path| path.extension().is_some_and(|found| found == "log"));
    logs.max().expect("a write-ahead log")
}

#[test]
fn member_with_a_torn_file_is_refused_and_the_runbook_replaces_it() {
    let mut cluster = Cluster::start(3).expect("three members");
    put(&cluster.endpoints(), 0..20);
    cluster.stop(1).expect("SIGTERM");
    let torn = newest_log(&cluster, 1);
    let length = fs::metadata(&torn).expect("metadata").len();
    let file = File::options().write(true).open(&torn).expect("open");
    file.set_len(length / 2).expect("cut");
    drop(file);

    cluster.spawn(1).expect("start");
    let status = cluster.wait_exit(1, PATIENCE).expect("it ends");
    assert!(!status.success());
    let log = cluster.logs(1).expect("log");
    let named = torn.to_string_lossy();
    for words in [&*named, "is damaged", "remove this member from the group"] {
        assert!(log.contains(words), "no `{words}` in {log}");
    }
    let others = [0, 2].map(|index| cluster.client_address(index).expect("address").to_string());
    let at = others.join(",");
    put(&at, 20..40);

    for command in ["cfgctl member remove n2 ", "cfgsvcd --name n2b --join "] {
        assert!(
            RUNBOOK.contains(command),
            "the runbook does not say `{command}`"
        );
    }
    let cfgctl = |arguments: &[&str]| {
        let all = [&["--endpoints", &at, "--timeout", "30s"], arguments].concat();
        let ran = run_binary("cfgctl", &all).expect("cfgctl runs");
        ran.success().expect("cfgctl succeeds")
    };
    cfgctl(&["member", "remove", "n2", "--yes"]);
    let joined = cluster.join(0).expect("start");
    cluster.wait_ready(joined).expect("it joins");
    put(&at, 40..60);
    eventually(PATIENCE, "the new member votes", || {
        let list = cfgctl(&["member", "list"]);
        assert!(
            !list
                .lines()
                .any(|line| line.split_whitespace().any(|word| word == "n2"))
        );
        list.lines()
            .any(|line| line.contains("n4") && line.contains("follower"))
    })
    .expect("it is promoted");
    for index in [0, 2, joined] {
        let at = cluster.client_address(index).expect("address").to_string();
        let own = ["get", "k", "--prefix", "--keys-only", "--consistency=s"];
        eventually(PATIENCE, format!("all keys at member {index}"), || {
            let read = etcdctl(&at, &own).expect("etcdctl runs");
            read.stdout.lines().filter(|line| !line.is_empty()).count() == 60
        })
        .expect("it has everything");
    }
}
