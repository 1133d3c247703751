//! Debian's etcdctl works against the server.

use std::process::Stdio;

use expect_test::{Expect, expect};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::harness::{Server, soon};

/// A command of etcdctl against `server`.
fn etcdctl(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .arg("--endpoints")
        .arg(server.address.to_string())
        // Its own patience is 2 s and 5 s: too little beside a build.
        .args(["--dial-timeout", "60s", "--command-timeout", "60s"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs etcdctl with `input` and returns what it printed.
async fn run(server: &Server, args: &[&str], input: &str) -> String {
    let mut child = etcdctl(server, args).spawn().expect("etcdctl is installed");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = soon("etcdctl", child.wait_with_output())
        .await
        .expect("it ran");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut shown = text(&output.stdout);
    if !output.status.success() {
        let errors = text(&output.stderr);
        let last = errors.lines().last().unwrap_or_default();
        // etcdctl logs with its own clock and file names; the last line is the error itself.
        shown = format!("{shown}exit {:?}: {last}\n", output.status.code());
    }
    shown.replace(&server.address.to_string(), "ADDRESS")
}

async fn check(server: &Server, args: &[&str], input: &str, expected: Expect) {
    expected.assert_eq(&run(server, args, input).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_transactions() {
    let server = Server::start().await;
    check(
        &server,
        &["put", "a", "1"],
        "",
        expect![[r#"
        OK
    "#]],
    )
    .await;
    check(
        &server,
        &["put", "b", "2", "--prev-kv"],
        "",
        expect![[r#"
        OK
    "#]],
    )
    .await;
    check(
        &server,
        &["get", "a"],
        "",
        expect![[r#"
        a
        1
    "#]],
    )
    .await;
    check(&server, &["get", "", "--prefix", "-w", "json"], "", expect![[r#"
        {"header":{"cluster_id":77,"member_id":7,"revision":3,"raft_term":3},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":2,"version":1,"value":"MQ=="},{"key":"Yg==","create_revision":3,"mod_revision":3,"version":1,"value":"Mg=="}],"count":2}
    "#]]).await;
    check(
        &server,
        &["get", "a", "--rev", "9"],
        "",
        expect![[r#"
        exit Some(1): Error: etcdserver: mvcc: required revision is a future revision
    "#]],
    )
    .await;
    let txn = "value(\"a\") = \"1\"\n\nput c 3\nget b\n\nget a\n\n";
    check(
        &server,
        &["txn"],
        txn,
        expect![[r#"
        SUCCESS

        OK

        b
        2
    "#]],
    )
    .await;
    check(
        &server,
        &["del", "a", "--prev-kv"],
        "",
        expect![[r#"
        1
        a
        1
    "#]],
    )
    .await;
    check(
        &server,
        &["get", "a", "--rev", "2"],
        "",
        expect![[r#"
        a
        1
    "#]],
    )
    .await;
    check(
        &server,
        &["compaction", "4"],
        "",
        expect![[r#"
        compacted revision 4
    "#]],
    )
    .await;
    check(
        &server,
        &["get", "a", "--rev", "2"],
        "",
        expect![[r#"
        exit Some(1): Error: etcdserver: mvcc: required revision has been compacted
    "#]],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_shows_past_and_live_events() {
    let server = Server::start().await;
    run(&server, &["put", "k1", "past"], "").await;
    let mut child = etcdctl(&server, &["watch", "k", "--prefix", "--rev", "2"])
        .spawn()
        .expect("etcdctl is installed");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = async || soon("an event", lines.next_line()).await.expect("text");
    for expected in ["PUT", "k1", "past"] {
        assert_eq!(next().await.as_deref(), Some(expected));
    }
    run(&server, &["put", "k2", "live"], "").await;
    run(&server, &["del", "k1"], "").await;
    for expected in ["PUT", "k2", "live", "DELETE", "k1", ""] {
        assert_eq!(next().await.as_deref(), Some(expected));
    }
    child.kill().await.expect("it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases() {
    let server = Server::start().await;
    let granted = run(&server, &["lease", "grant", "60"], "").await;
    let id = granted.split_whitespace().nth(1).expect("an id").to_owned();
    let shown = |text: String| text.replace(&id, "ID");
    assert_eq!(shown(granted), "lease ID granted with TTL(60s)\n");
    run(&server, &["put", "x", "1", "--lease", &id], "").await;
    let renewed = run(&server, &["lease", "keep-alive", "--once", &id], "").await;
    assert_eq!(shown(renewed), "lease ID keepalived with TTL(60)\n");
    let left = run(&server, &["lease", "timetolive", &id, "--keys"], "").await;
    assert!(
        shown(left.clone()).starts_with("lease ID granted with TTL(60s), remaining("),
        "{left}"
    );
    assert!(left.ends_with("attached keys([x])\n"), "{left}");
    let listed = run(&server, &["lease", "list"], "").await;
    assert_eq!(shown(listed), "found 1 leases\nID\n");
    let revoked = run(&server, &["lease", "revoke", &id], "").await;
    assert_eq!(shown(revoked), "lease ID revoked\n");
    check(&server, &["get", "x"], "", expect![[""]]).await;
    check(
        &server,
        &["lease", "revoke", "1234"],
        "",
        expect![[r#"
        exit Some(1): Error: failed to revoke lease (etcdserver: requested lease not found)
    "#]],
    )
    .await;
    check(
        &server,
        &["lease", "timetolive", "1234"],
        "",
        expect![[r#"
        lease 0000000000001234 already expired
    "#]],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_endpoints() {
    let server = Server::start().await;
    check(
        &server,
        &["member", "list"],
        "",
        expect![[r#"
        7, started, solo, http://127.0.0.1:1, http://127.0.0.1:2, false
    "#]],
    )
    .await;
    let output = etcdctl(&server, &["endpoint", "health"])
        .output()
        .await
        .expect("it ran");
    // Some versions print it to stderr.
    let health = [output.stdout, output.stderr].concat();
    let health = String::from_utf8_lossy(&health);
    assert!(health.contains("is healthy"), "{health}");
    let status = run(&server, &["endpoint", "status", "-w", "fields"], "").await;
    let kept = [
        "\"Version\"",
        "\"Leader\"",
        "\"ClusterID\"",
        "\"MemberID\"",
        "\"IsLearner\"",
    ];
    let lines: Vec<&str> = status
        .lines()
        .filter(|line| kept.iter().any(|name| line.starts_with(name)))
        .collect();
    let lines = lines.join(
        "
",
    ) + "
";
    expect![[r#"
        "ClusterID" : 77
        "MemberID" : 7
        "Version" : "3.6.1"
        "Leader" : 7
        "IsLearner" : false
    "#]]
    .assert_eq(&lines);
    check(&server, &["alarm", "list"], "", expect![[""]]).await;
    check(
        &server,
        &["defrag"],
        "",
        expect![[r#"
        Finished defragmenting etcd member[ADDRESS]
    "#]],
    )
    .await;
    check(
        &server,
        &["move-leader", "99"],
        "",
        expect![[r#"
        exit Some(1): Error: etcdserver: bad leader transferee
    "#]],
    )
    .await;
    check(
        &server,
        &["member", "add", "n2", "--peer-urls", "http://127.0.0.1:9"],
        "",
        expect![[r#"
            Member                8 added to cluster               4d

            ETCD_NAME="n2"
            ETCD_INITIAL_CLUSTER="solo=http://127.0.0.1:1,n2=http://127.0.0.1:9"
            ETCD_INITIAL_ADVERTISE_PEER_URLS="http://127.0.0.1:9"
            ETCD_INITIAL_CLUSTER_STATE="existing"
        "#]],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_elections_of_the_client_work() {
    let server = Server::start().await;
    check(
        &server,
        &["lock", "job", "echo", "held"],
        "",
        expect![[r#"
        held
    "#]],
    )
    .await;
    let mut child = etcdctl(&server, &["elect", "chair", "me"])
        .spawn()
        .expect("etcdctl is installed");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let key = soon("a leader key", lines.next_line())
        .await
        .expect("text")
        .expect("a key");
    assert!(key.starts_with("chair/"), "{key}");
    child.kill().await.expect("it runs");
}
