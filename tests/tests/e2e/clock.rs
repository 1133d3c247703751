//! The wall clock is set while a member runs. It decides nothing: leases end by a monotonic clock,
//! and the time in the history never goes back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cfgsvc_tests::harness::{Cluster, ClusterOptions, etcdctl, eventually, run_binary};

/// Variables that show a process the wall clock that a file says, and the true monotonic one.
pub(crate) fn clock_of_file(file: &Path) -> Vec<(String, String)> {
    let library = library();
    let environment = [
        ("LD_PRELOAD", &*library.to_string_lossy()),
        ("FAKETIME_TIMESTAMP_FILE", &file.to_string_lossy()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    environment
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// The library that does it. The directory is named after the machine.
fn library() -> PathBuf {
    let name = "faketime/libfaketimeMT.so.1";
    let machines = fs::read_dir("/usr/lib").expect("list /usr/lib");
    let mut paths = machines.map(|machine| machine.expect("an entry").path().join(name));
    let found = paths.find(|path| path.is_file());
    found.expect("no /usr/lib/*/faketime/libfaketimeMT.so.1: install the package faketime")
}

#[test]
fn clock_set_forward_and_back_by_an_hour_ends_no_lease_and_turns_no_history() {
    let directory = tempfile::tempdir().expect("temp dir");
    let clock = directory.path().join("clock");
    let set = |offset: &str| fs::write(&clock, format!("{offset}\n")).expect("set the clock");
    set("+0");
    let options = ClusterOptions {
        members: 1,
        environment: clock_of_file(&clock),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start_with(options).expect("a member");
    let at = cluster.endpoints();
    let etcd = |arguments: &[&str]| {
        etcdctl(&at, arguments)
            .expect("etcdctl runs")
            .success()
            .expect("the group answers")
    };
    let granted = etcd(&["lease", "grant", "15"]);
    let lease = granted.split_whitespace().nth(1).expect("an id").to_owned();
    etcd(&["put", "k", "0", "--lease", &lease]);
    for (number, offset) in ["+0", "+3600", "-3600", "+0"].iter().enumerate() {
        // A new term for each look, so that a slow machine does not outlive it.
        etcd(&["lease", "keep-alive", "--once", &lease]);
        set(offset);
        etcd(&["put", "other", &number.to_string()]);
        assert_eq!(
            etcd(&["get", "k"]),
            "k\n0\n",
            "the lease ended at offset {offset}"
        );
    }
    let history = run_binary(
        "cfgctl",
        &["--endpoints", &at, "-o", "json", "history", "other"],
    )
    .expect("cfgctl runs")
    .success()
    .expect("a history");
    let times: Vec<&str> = history
        .lines()
        .filter_map(|line| line.trim().strip_prefix("\"time\": "))
        .collect();
    assert_eq!(times.len(), 4, "{history}");
    assert!(times.is_sorted(), "time went back: {history}");
    let first: Vec<&str> = times.iter().map(|time| &time[..14]).collect();
    assert_ne!(
        first.first(),
        first.last(),
        "the clock was not moved: {history}"
    );
    eventually(
        Duration::from_secs(90),
        "the lease ends after its term",
        || {
            etcdctl(&at, &["get", "k"])
                .expect("etcdctl runs")
                .stdout
                .is_empty()
        },
    )
    .expect("it ends");
}
