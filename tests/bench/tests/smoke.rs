//! Every load against a real member, and the comparison with etcd, shortly: requests are answered
//! and the figures are there. Nothing depends on how fast that was: in an open loop what counts is
//! what was due, however late the answer.

use std::fs;
use std::path::Path;
use std::process::Command;

use cfgsvc_tests::harness::{Cluster, Ran, run, unused_address};
use serde_json::Value;

/// Due in the measured time of [`OPEN`].
const DUE: u64 = 20;
const OPEN: [&str; 6] = ["--rate", "40", "--seconds", "0.5", "--warmup", "0.1"];

fn bench(arguments: &[&str]) -> Ran {
    run(Command::new(env!("CARGO_BIN_EXE_bench")).args(arguments)).expect("bench runs")
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("the figures are written");
    serde_json::from_str(&text).expect("they are JSON")
}

#[test]
fn every_load_is_answered_whole_and_tells_its_figures() {
    let cluster = Cluster::start(1).expect("a member");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("figures.json");
    let (endpoints, file_name) = (cluster.endpoints(), file.to_string_lossy());
    let pid = cluster.process_id(0).expect("it runs").to_string();
    let watch = ["watch", "--watchers", "6", "--streams", "4"];
    let loads: [(&[&str], u64); 9] = [
        (&["put"], DUE),
        (&["cas"], DUE),
        (&["get-linearizable"], DUE),
        (&["get-serializable"], DUE),
        (&["mixed", "--writes", "50"], DUE),
        (&["range"], DUE),
        (&watch, 6 * DUE),
        (&["lease-churn"], DUE),
        (&["keep-alive", "--leases", "9"], DUE),
    ];
    for (load, requests) in loads {
        let common = [
            "--endpoints",
            &endpoints,
            "--clients",
            "4",
            "--keys",
            "1500",
        ];
        let of_run = ["--pids", &pid, "--json", &file_name];
        let table = bench(&[load, &common, &OPEN, &of_run].concat());
        let table = table
            .success()
            .unwrap_or_else(|error| panic!("{load:?}: {error:#}"));
        let figures = json(&file);
        assert_eq!(figures["first_error"], Value::Null, "{load:?}: {figures}");
        assert_eq!(figures["requests"], requests, "{load:?}: {figures}");
        assert_eq!(figures["never_started"], 0, "{load:?}: {figures}");
        assert!(
            figures["latency_ms"]["p99.9"].as_f64() > Some(0.0),
            "{load:?}: {figures}"
        );
        assert!(
            figures["servers"][0]["rss_mib"].as_f64() > Some(0.0),
            "{load:?}: {figures}"
        );
        if load[0] == "watch" {
            assert_eq!(figures["lost_events"], 0, "{figures}");
        }
        assert!(
            table.contains(load[0]) && table.lines().count() == 2,
            "{table}"
        );
    }
    let closed = [
        "put",
        "--endpoints",
        &endpoints,
        "--clients",
        "4",
        "--seconds",
        "2",
    ];
    let figures = bench(&[&closed[..], &["--json", &file_name]].concat());
    figures
        .success()
        .expect("some of four clients is answered in two seconds");
    assert_eq!(json(&file)["rate"], Value::Null);
}

#[test]
fn servers_and_processes_that_are_not_there_are_named() {
    let free = unused_address().expect("an address").to_string();
    let ran = bench(&["put", "--endpoints", &free]);
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(ran.stderr.contains(&free), "{ran}");
    let ran = bench(&["put", "--pids", "4294967295"]);
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(ran.stderr.contains("4294967295"), "{ran}");
}

#[test]
fn both_groups_are_compared_and_nothing_is_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    fs::create_dir(&data).expect("make it");
    let file = directory.path().join("ratios.json");
    let (data_name, file_name) = (data.to_string_lossy(), file.to_string_lossy());
    let short = [
        "--rounds",
        "1",
        "--seconds",
        "0.5",
        "--warmup",
        "0.1",
        "--only",
        "put-500",
    ];
    let files = ["--dir", &data_name, "--json", &file_name];
    let ran = bench(&[&["beside-etcd"], &short[..], &files].concat());
    let table = ran.success().expect("both serve");
    assert!(table.contains("| put-500/s "), "{table}");
    let figures = json(&file);
    assert_eq!(figures["rows"][0]["load"], "put-500/s");
    for figure in ["start_to_first_write", "leader_killed_to_next_write"] {
        assert!(
            figures[figure]["ratio"].as_f64() > Some(0.0),
            "{figure}: {figures}"
        );
    }
    assert_eq!(
        fs::read_dir(&data).expect("it is there").count(),
        0,
        "data is left"
    );
}
