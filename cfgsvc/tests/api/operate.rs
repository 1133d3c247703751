//! What operators do: snapshots and restores, members, probes.

use bytes::Bytes;
use cfgsvc_core::snapshot_file;
use cfgsvc_proto::etcd::{
    HashKvRequest, HashRequest, MemberAddRequest, MemberListRequest, MemberPromoteRequest,
    MemberRemoveRequest, MoveLeaderRequest, RangeRequest, SnapshotRequest, StatusRequest,
};
use cfgsvc_proto::v1::{JoinRequest, MemberAddRequest as Register, MembersRequest, RestoreRequest};
use expect_test::expect;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Status;

use crate::harness::{Clients, Server, WatchStream, all_keys, error, put, soon};

async fn snapshot(clients: &Clients) -> Vec<u8> {
    let mut maintenance = clients.maintenance.clone();
    let mut stream = maintenance
        .snapshot(SnapshotRequest {})
        .await
        .expect("a stream")
        .into_inner();
    let mut file = Vec::new();
    let mut last = (Bytes::new(), 1);
    while let Some(response) = soon("a blob", stream.message()).await.expect("no error") {
        file.extend_from_slice(&response.blob);
        last = (response.blob, response.remaining_bytes);
    }
    let before = file.len() - snapshot_file::HASH_BYTES;
    assert_eq!(last, (Bytes::copy_from_slice(&file[before..]), 0));
    assert_eq!(Sha256::digest(&file[..before]).as_slice(), &file[before..]);
    file
}

async fn restore(clients: &Clients, file: &[u8]) -> Result<u64, Status> {
    let blobs: Vec<_> = file
        .chunks(100_000)
        .map(|blob| RestoreRequest {
            blob: Bytes::copy_from_slice(blob),
            advance: 0,
        })
        .collect();
    let mut admin = clients.admin.clone();
    let restored = admin.restore(tokio_stream::iter(blobs));
    Ok(soon("a restore", restored).await?.into_inner().records)
}

async fn hash(clients: &Clients) -> u32 {
    let mut maintenance = clients.maintenance.clone();
    let hashed = maintenance
        .hash_kv(HashKvRequest::default())
        .await
        .expect("a hash")
        .into_inner();
    hashed.hash
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_restores_an_empty_group_and_nothing_else() {
    let from = Server::start().await;
    let source = from.clients();
    for number in 0..30 {
        put(&source, &format!("k{number}"), &vec![7; 60_000]).await;
    }
    let last = put(&source, "k0", b"again").await;
    let file = snapshot(&source).await;

    let server = Server::start().await;
    let target = server.clients();
    let mut flipped = file.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let cut = &file[..file.len() - 10];
    let waits = "the group is empty and waits for a restore with a whole file";
    for (bad, state) in [
        (&b"what is this, then?"[..], "; nothing was changed"),
        (&flipped, waits),
        (cut, waits),
    ] {
        let text = error(restore(&target, bad).await);
        assert!(
            text.starts_with("InvalidArgument: snapshot refused: "),
            "{text}"
        );
        assert!(text.ends_with(state), "{text}");
    }
    let range = RangeRequest {
        key: "k0".into(),
        ..RangeRequest::default()
    };
    let text = error(target.kv.clone().range(range.clone()).await);
    assert_eq!(text, "Unavailable: etcdserver: restore in progress");

    let mut stream = WatchStream::open(&target, &[]).await;
    stream.create(all_keys(last + 1)).await;
    assert!(restore(&target, &file).await.expect("a whole file") > 30);
    let found = target
        .kv
        .clone()
        .range(range)
        .await
        .expect("a range")
        .into_inner();
    assert_eq!(found.kvs[0].value, "again");
    assert_eq!(found.header.expect("a header").revision, last);
    assert_eq!(hash(&target).await, hash(&source).await);
    let old = RangeRequest {
        key: "k0".into(),
        revision: 2,
        ..RangeRequest::default()
    };
    let old = target
        .kv
        .clone()
        .range(old)
        .await
        .expect("history came along")
        .into_inner();
    assert_eq!(old.kvs[0].value.len(), 60_000);
    let next = put(&target, "live", b"1").await;
    let response = stream.next().await.expect("no error");
    assert_eq!((next, response.events.len()), (last + 1, 1));

    let text = error(restore(&target, b"nor is this").await);
    assert!(text.ends_with("; nothing was changed"), "{text}");
    let text = error(restore(&target, &file).await);
    assert_eq!(text, "FailedPrecondition: etcdserver: store is not empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_their_snapshots_hold_up_nobody_else() {
    let server = Server::start().await;
    let clients = server.clients();
    for number in 0..100 {
        put(&clients, &format!("k{number}"), &vec![7; 100_000]).await;
    }
    let mut maintenance = clients.maintenance.clone();
    let mut unread = Vec::new();
    for _ in 0..4 {
        let stream = maintenance.snapshot(SnapshotRequest {}).await;
        unread.push(stream.expect("a stream"));
    }
    let too_many = "ResourceExhausted: etcdserver: too many requests";
    assert_eq!(
        error(maintenance.snapshot(SnapshotRequest {}).await),
        too_many
    );
    assert_eq!(
        error(maintenance.hash_kv(HashKvRequest::default()).await),
        too_many
    );
    let keys = RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        count_only: true,
        ..RangeRequest::default()
    };
    // What waits unread fills the window of its own connection.
    let mut others = server.clients().kv;
    let count = soon("a range", others.range(keys)).await;
    assert_eq!(count.expect("a range").into_inner().count, 100);
    drop(unread);
    let again = async {
        while maintenance.snapshot(SnapshotRequest {}).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon("a place", again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_server_waits_for_no_client_that_does_not_read() {
    let server = Server::start().await;
    let clients = server.clients();
    for number in 0..100 {
        put(&clients, &format!("k{number}"), &vec![7; 100_000]).await;
    }
    let mut maintenance = clients.maintenance.clone();
    let unread = maintenance.snapshot(SnapshotRequest {}).await;
    let keys = RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..RangeRequest::default()
    };
    let unread = (unread, clients.kv.clone().range_stream(keys).await);
    server.stop.send_replace(true);
    soon("the server", server.served).await.expect("no panic");
    // Nothing is left that holds the group, so that it can close.
    let group = std::sync::Arc::downgrade(&server.service);
    drop((server.service, server.tasks));
    let free = async {
        while group.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("all calls to end", free).await;
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_follow_the_keys() {
    let servers = [Server::start().await, Server::start().await];
    let [clients, other] = [servers[0].clients(), servers[1].clients()];
    for clients in [&clients, &other] {
        put(clients, "a", b"1").await;
        put(clients, "b", b"1").await;
    }
    assert_eq!(hash(&clients).await, hash(&other).await);
    put(&clients, "b", b"2").await;
    assert_ne!(hash(&clients).await, hash(&other).await);
    let mut maintenance = clients.maintenance.clone();
    let past = maintenance
        .hash_kv(HashKvRequest { revision: 3 })
        .await
        .expect("a hash");
    let past = past.into_inner();
    assert_eq!((past.hash, past.hash_revision), (hash(&other).await, 3));
    let whole = maintenance
        .hash(HashRequest {})
        .await
        .expect("a hash")
        .into_inner()
        .hash;
    assert_ne!(whole, 0);
    let text = error(maintenance.hash_kv(HashKvRequest { revision: 99 }).await);
    assert_eq!(
        text,
        "OutOfRange: etcdserver: mvcc: required revision is a future revision"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_added_joined_and_removed_in_etcds_words() {
    let server = Server::start().await;
    let clients = server.clients();
    let mut cluster = clients.cluster.clone();
    let mut admin = clients.admin.clone();
    let add = |url: &str| MemberAddRequest {
        peer_ur_ls: vec![url.to_owned()],
        is_learner: true,
    };
    let added = cluster
        .member_add(add("http://127.0.0.1:9"))
        .await
        .expect("added")
        .into_inner();
    let id = added.member.expect("a member").id;
    let mut lines = vec![
        error(cluster.member_add(add("http://127.0.0.1:9")).await),
        error(cluster.member_add(add("127.0.0.1:9")).await),
        error(
            cluster
                .member_promote(MemberPromoteRequest { id: 404 })
                .await,
        ),
        error(cluster.member_promote(MemberPromoteRequest { id: 7 }).await),
        error(cluster.member_promote(MemberPromoteRequest { id }).await),
        error(cluster.member_remove(MemberRemoveRequest { id: 404 }).await),
        error(cluster.member_remove(MemberRemoveRequest { id: 7 }).await),
    ];
    let join = JoinRequest {
        name: "n3".to_owned(),
        colo: "c".to_owned(),
        peer_address: "127.0.0.1:13".to_owned(),
        client_addresses: vec!["127.0.0.1:12".to_owned()],
        incarnation: "i3".to_owned(),
        learner: false,
        cluster_id: 0,
    };
    let joined = admin.join(join.clone()).await.expect("joined").into_inner();
    assert_eq!(joined.cluster_id, 77);
    let other = JoinRequest {
        cluster_id: 5,
        ..join.clone()
    };
    lines.push(error(admin.join(other).await));
    lines.push(error(
        admin
            .join(JoinRequest {
                incarnation: String::new(),
                ..join
            })
            .await,
    ));
    let nameless = Register {
        peer_address: "h:1".to_owned(),
        ..Register::default()
    };
    lines.push(error(admin.member_add(nameless).await));
    let endless = Register {
        name: "n4".to_owned(),
        peer_address: format!("{}:1", "h".repeat(1_000_000)),
        ..Register::default()
    };
    lines.push(error(admin.member_add(endless).await));
    lines.push(error(
        clients
            .maintenance
            .clone()
            .move_leader(MoveLeaderRequest { target_id: 1 })
            .await,
    ));
    server.solo.set(|status| status.leader = Some(8));
    lines.push(error(
        clients
            .maintenance
            .clone()
            .move_leader(MoveLeaderRequest { target_id: 1 })
            .await,
    ));
    expect![[r#"
        FailedPrecondition: etcdserver: Peer URLs already exists
        InvalidArgument: etcdserver: given member URLs are invalid
        NotFound: etcdserver: member not found
        FailedPrecondition: etcdserver: can only promote a learner member
        FailedPrecondition: etcdserver: can only promote a learner member which is in sync with leader
        NotFound: etcdserver: member not found
        FailedPrecondition: etcdserver: re-configuration failed due to not enough started members
        FailedPrecondition: cluster ID mismatch: the data directory of `n3` belongs to cluster 5, this is cluster 4d; use an empty --data-dir or join the other cluster
        InvalidArgument: incarnation is 0 bytes, expected 1 to 64
        InvalidArgument: name is ``, expected 1 to 64 of the characters a-z A-Z 0-9 - _ .
        InvalidArgument: peer_address is `hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh...`, expected HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:2379 or [::1]:2379
        FailedPrecondition: etcdserver: bad leader transferee
        FailedPrecondition: etcdserver: not leader"#]].assert_eq(&lines.join("\n"));

    cluster
        .member_remove(MemberRemoveRequest { id })
        .await
        .expect("removed");
    let list = cluster
        .member_list(MemberListRequest { linearizable: true })
        .await
        .expect("a list");
    let list = list.into_inner();
    assert_eq!(list.header.expect("a header").revision, 0);
    let names: Vec<&str> = list
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    assert_eq!(names, ["solo", "n3"]);
    let members = admin
        .members(MembersRequest {})
        .await
        .expect("members")
        .into_inner();
    assert_eq!(members.members.len(), 2);
    let status = clients
        .maintenance
        .clone()
        .status(StatusRequest {})
        .await
        .expect("status");
    assert_eq!(status.into_inner().version, "3.6.1");
}

/// Status line and body of a plain HTTP/1.1 request.
async fn http(server: &Server, path: &str) -> (String, String) {
    let mut socket = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon("an answer", socket.read_to_string(&mut answer))
        .await
        .expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (
        head.lines().next().unwrap_or_default().to_owned(),
        body.to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_version_and_metrics_are_on_the_client_port() {
    let server = Server::start().await;
    let clients = server.clients();
    put(&clients, "a", b"1").await;
    let ok = "HTTP/1.1 200 OK";
    let sick = "HTTP/1.1 503 Service Unavailable";
    let (line, body) = http(&server, "/version").await;
    assert_eq!(line, ok);
    assert!(body.contains(r#""etcdserver":"3.6.1""#), "{body}");
    let (line, body) = http(&server, "/health").await;
    assert_eq!(
        (line.as_str(), body.as_str()),
        (ok, r#"{"health":"true","reason":""}"#)
    );
    assert_eq!(
        http(&server, "/readyz").await,
        (ok.to_owned(), "ok\n".to_owned())
    );
    let (line, body) = http(&server, "/metrics").await;
    assert_eq!(line, ok);
    let wanted = [
        "cfgsvc_revision 2",
        "cfgsvc_is_leader 1",
        "cfgsvc_requests_total{method=\"/etcdserverpb.KV/Put\"} 1",
        "process_resident_memory_bytes ",
    ];
    for line in wanted {
        assert!(body.contains(line), "{line} in {body}");
    }
    server.solo.set(|status| status.leader = None);
    let (line, body) = http(&server, "/readyz").await;
    assert_eq!(
        (line.as_str(), body.as_str()),
        (sick, "no leader is known\n")
    );
    assert_eq!(http(&server, "/livez").await.0, ok);
    server
        .solo
        .set(|status| status.fault = Some("the disk failed".to_owned()));
    let (line, body) = http(&server, "/livez").await;
    assert_eq!((line.as_str(), body.as_str()), (sick, "the disk failed\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_nobody_serves_make_no_metrics() {
    let server = Server::start().await;
    assert_eq!(http(&server, "/no/such/path").await.0, "HTTP/1.1 200 OK");
    http(&server, "/etcdserverpb.KV/Invented").await;
    let (_, body) = http(&server, "/metrics").await;
    assert!(!body.contains("/no/such/path"), "{body}");
    assert!(!body.contains("Invented"), "{body}");
    let other = "cfgsvc_requests_total{method=\"other\"} 2";
    assert!(body.contains(other), "{body}");
}
