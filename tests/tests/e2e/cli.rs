//! `cfgctl` against real members: what etcd, against which its own tests run, has no answer for.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use cfgsvc_tests::harness::{Cluster, Ran, binary_path, run_binary};

pub(crate) fn cfgctl(at: &str, arguments: &[&str]) -> Ran {
    // Much time, so that a slow machine is not taken for a group that is away.
    let mut all = vec!["--endpoints", at, "--author", "tester", "--timeout", "30s"];
    all.extend_from_slice(arguments);
    run_binary("cfgctl", &all).expect("cfgctl runs")
}

/// Standard output of a command that succeeds.
pub(crate) fn done(at: &str, arguments: &[&str]) -> String {
    cfgctl(at, arguments).success().expect("cfgctl succeeds")
}

/// Standard error of a command that is refused.
pub(crate) fn refused(at: &str, arguments: &[&str], words: &[&str]) {
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
    refused(
        &at,
        &["history", "never"],
        &["was never set", "--keys-only never"],
    );
    refused(&at, &["get", "k", "--rev", "99"], &["future"]);
    done(&at, &["compact", "3"]);
    refused(&at, &["get", "k", "--rev", "2"], &["compacted"]);
    refused(&at, &["set", "k", "x", "--lease", "12345"], &["lease"]);
}

#[test]
fn large_prefix_is_read_in_pages_and_never_held_as_a_whole() {
    const KEYS: usize = 96;
    const VALUE_BYTES: usize = 160 << 10;
    let cluster = Cluster::start(1).expect("a member");
    let at = cluster.endpoints();
    let from = cluster.directory().join("files");
    fs::create_dir(&from).expect("mkdir");
    for number in 0..KEYS {
        fs::write(from.join(format!("{number:03}")), vec![b'x'; VALUE_BYTES]).expect("write");
    }
    let imported = done(
        &at,
        &[
            "-o",
            "json",
            "import",
            &from.to_string_lossy(),
            "--prefix",
            "p",
        ],
    );
    assert!(imported.contains("\"written\": 96"), "{imported}");
    for form in ["json", "table"] {
        let mut child = Command::new(binary_path("cfgctl").expect("it is built"))
            .args([
                "--endpoints",
                &at,
                "--timeout",
                "30s",
                "-o",
                form,
                "get",
                "--prefix",
                "p/",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("cfgctl starts");
        let mut output = child.stdout.take().expect("it is piped");
        // All but two values: more than a pipe holds, so that the process waits in a write.
        let mut most = vec![0; (KEYS - 2) * VALUE_BYTES];
        output.read_exact(&mut most).expect("most values");
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.split_whitespace().next()?.parse::<usize>().ok());
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).expect("the end");
        assert!(child.wait().expect("it ends").success());
        assert!(
            peak.expect("a peak") < 26 << 10,
            "{form}: a peak of {peak:?} KiB"
        );
        let text = [most, rest].concat();
        let values = text.split(|byte| *byte == b'x').count() - 1;
        assert_eq!(values, KEYS * VALUE_BYTES, "{form}");
    }
    let to = cluster.directory().join("exported");
    let exported = done(&at, &["-o", "json", "export", "p", &to.to_string_lossy()]);
    assert!(exported.contains("\"files\": 96"), "{exported}");
    let (first, last) = (fs::read(to.join("000")), fs::read(to.join("095")));
    assert_eq!(first.expect("the first"), last.expect("the last"));
    // A limit ends in the middle of a page.
    let some = done(
        &at,
        &[
            "-o",
            "json",
            "get",
            "--prefix",
            "p/",
            "--keys-only",
            "--limit",
            "70",
        ],
    );
    assert_eq!(some.matches("\"key\"").count(), 70);
    assert!(
        some.contains("\"count\": 96") && some.contains("\"more\": true"),
        "{some}"
    );
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
    let mode = fs::metadata(file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o077, 0, "it holds everything: {mode:o}");
    let header = done(&from, &["-o", "json", "snapshot", "inspect", file]);
    assert!(header.contains("\"revision\": 42,"), "{header}");
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
    let all = ["get", "-v", "a/", "--prefix"];
    assert_eq!(done(&to, &all), done(&from, &all));
    let old = ["get", "-v", "a/3", "--rev", "10"];
    assert_eq!(done(&to, &old), done(&from, &old));
    assert_eq!(
        done(&to, &["-o", "json", "history", "a/1"]),
        done(&from, &["-o", "json", "history", "a/1",])
    );
    let after = done(&to, &["-o", "json", "set", "a/0", "after"]);
    assert!(
        after.contains("\"revision\": 1000000043"),
        "revisions go on a billion later: {after}"
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
    let status = cfgctl(&at, &["status", "--timeout", "5s"]);
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
