//! `cfgctl` against real members: what etcd, against which its own tests run, has no answer for.

use std::fs;

use cfgsvc_tests::harness::{Cluster, Ran, run_binary};

fn cfgctl(at: &str, arguments: &[&str]) -> Ran {
    let mut all = vec!["--endpoints", at, "--author", "tester"];
    all.extend_from_slice(arguments);
    run_binary("cfgctl", &all).expect("cfgctl runs")
}

/// Standard output of a command that succeeds.
fn done(at: &str, arguments: &[&str]) -> String {
    cfgctl(at, arguments).success().expect("cfgctl succeeds")
}

/// Standard error of a command that is refused.
fn refused(at: &str, arguments: &[&str], words: &[&str]) {
    let ran = cfgctl(at, arguments);
    assert_eq!(
        ran.code,
        Some(1),
        "{arguments:?}: {}{}",
        ran.stdout,
        ran.stderr
    );
    for word in words {
        assert!(
            ran.stderr.contains(word),
            "{arguments:?}: no `{word}` in {}",
            ran.stderr
        );
    }
}

#[test]
fn history_tells_who_changed_what_and_why() {
    let cluster = Cluster::start(1).expect("a member");
    let at = cluster.endpoints();
    done(&at, &["--reason", "begin", "set", "k", "one"]);
    done(&at, &["set", "k", "two"]);
    done(&at, &["del", "k"]);
    let history = done(&at, &["history", "k"]);
    let words: Vec<&str> = history.split_whitespace().collect();
    for word in ["tester", "begin", "one", "two", "delete"] {
        assert!(words.contains(&word), "no `{word}` in {history}");
    }
    refused(&at, &["get", "k"], &["key `k` does not exist"]);
    refused(&at, &["get", "k", "--rev", "99"], &["future"]);
    done(&at, &["compact", "3"]);
    refused(&at, &["get", "k", "--rev", "2"], &["compacted"]);
    refused(&at, &["set", "k", "x", "--lease", "12345"], &["lease"]);
}

#[test]
fn snapshot_is_saved_checked_and_restored_into_another_group() {
    let one = Cluster::start(3).expect("three members");
    let from = one.endpoints();
    for number in 0..40 {
        done(
            &from,
            &["set", &format!("a/{}", number % 7), &number.to_string()],
        );
    }
    done(&from, &["del", "a/3"]);
    let file = one.directory().join("saved");
    let file = file.to_str().expect("a path of text");
    done(&from, &["snapshot", "save", file]);
    refused(&from, &["snapshot", "save", file], &["exists"]);
    assert!(
        done(&from, &["snapshot", "inspect", file]).contains("42"),
        "revision of the header"
    );
    let whole = fs::read(file).expect("the file");
    let damaged = format!("{file}.damaged");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for bytes in [&flipped[..], &whole[..whole.len() - 10]] {
        fs::write(&damaged, bytes).expect("write");
        refused(&from, &["snapshot", "inspect", &damaged], &[]);
        refused(&from, &["snapshot", "restore", &damaged, "--yes"], &[]);
    }
    refused(&from, &["snapshot", "restore", file, "--yes"], &["empty"]);
    let other = Cluster::start(3).expect("three other members");
    let to = other.endpoints();
    done(&to, &["snapshot", "restore", file, "--yes"]);
    let all = ["-o", "json", "get", "a/", "--prefix"];
    assert_eq!(done(&to, &all), done(&from, &all));
    let old = ["-o", "json", "get", "a/3", "--rev", "10"];
    assert_eq!(done(&to, &old), done(&from, &old));
    assert_eq!(
        done(&to, &["-o", "json", "history", "a/1"]),
        done(&from, &["-o", "json", "history", "a/1",])
    );
    assert!(
        done(&to, &["set", "a/0", "after"]).contains("43"),
        "revisions go on"
    );
}

#[test]
fn members_are_added_listed_and_removed_by_name() {
    let mut cluster = Cluster::start(3).expect("three members");
    let at = cluster.endpoints();
    done(&at, &["member", "add", "n9", "--peer", "127.0.0.1:9"]);
    refused(
        &at,
        &["member", "add", "n9", "--peer", "127.0.0.1:10"],
        &["exist"],
    );
    refused(&at, &["member", "promote", "n9"], &[]);
    assert!(done(&at, &["member", "list"]).contains("n9"));
    done(&at, &["member", "remove", "n9", "--yes"]);
    assert!(!done(&at, &["member", "list"]).contains("n9"));
    refused(&at, &["member", "remove", "n9", "--yes"], &["n9"]);
    let leader = done(&at, &["-o", "json", "leader", "show"]);
    let target = if leader.contains("\"n1\"") {
        "n2"
    } else {
        "n1"
    };
    done(&at, &["leader", "move", target]);
    assert!(done(&at, &["-o", "json", "leader", "show"]).contains(&format!("\"{target}\"")));
    cluster.stop(2).expect("SIGTERM");
    done(&at, &["set", "k", "two of three"]);
    let status = cfgctl(&at, &["status"]);
    assert!(
        status.stdout.contains("n1") && status.stdout.contains("n2"),
        "{}",
        status.stdout
    );
}

#[test]
fn lock_runs_one_command_at_a_time_and_passes_its_exit_code() {
    let cluster = Cluster::start(1).expect("a member");
    let at = cluster.endpoints();
    let ran = cfgctl(
        &at,
        &["lock", "l", "--", "sh", "-c", "echo epoch $EPOCH; exit 7"],
    );
    assert_eq!(ran.code, Some(7), "{}", ran.stderr);
    let epoch = |text: &str| -> i64 {
        let last = text.split_whitespace().last().expect("an epoch");
        last.parse().expect("a number")
    };
    let first = epoch(&ran.stdout);
    let second = epoch(&done(
        &at,
        &["lock", "l", "--", "sh", "-c", "echo epoch $EPOCH"],
    ));
    assert!(second > first, "epochs grow: {first}, {second}");
    let lease = done(&at, &["-o", "json", "lease", "grant", "60s"]);
    assert!(lease.contains("60"), "{lease}");
}
