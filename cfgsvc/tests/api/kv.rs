//! What etcd 3.4 cannot be compared with: faults of the group, request ids, range streams, space.

use bytes::Bytes;
use cfgsvc_proto::etcd::request_op::Request as Op;
use cfgsvc_proto::etcd::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    RangeResponse, RequestOp, TxnRequest,
};
use cfgsvc_proto::v1::plan_request::Write;
use cfgsvc_proto::v1::{HistoryRequest, PlanRequest};
use cluster::{ProposeError, ReadError};
use expect_test::expect;
use tonic::Status;

use crate::harness::{Clients, Server, error, limits, put, soon, with};

fn key(name: &str) -> RangeRequest {
    RangeRequest {
        key: Bytes::copy_from_slice(name.as_bytes()),
        ..RangeRequest::default()
    }
}

fn all() -> RangeRequest {
    RangeRequest {
        range_end: Bytes::from_static(b"\0"),
        ..key("\0")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_group_are_told_in_etcds_words() {
    let server = Server::start().await;
    let clients = server.clients();
    let mut kv = clients.kv.clone();
    put(&clients, "a", b"1").await;
    let request = PutRequest {
        key: "a".into(),
        ..PutRequest::default()
    };
    let mut lines = Vec::new();
    for fault in [
        ProposeError::NoLeader,
        ProposeError::NoSpace {
            node_id: 7,
            free_bytes: 1,
        },
        ProposeError::Overloaded { waiting: 5_000 },
        ProposeError::LeaderChanged,
        ProposeError::Timeout { waited_ms: 7_000 },
    ] {
        server.solo.fail_proposals(Some(fault));
        lines.push(error(kv.put(request.clone()).await));
    }
    server.solo.fail_proposals(None);
    server.solo.fail_reads(Some(ReadError::NoLeader));
    lines.push(error(kv.range(key("a")).await));
    let read = RequestOp {
        request: Some(Op::RequestRange(key("a"))),
    };
    let txn = TxnRequest {
        success: vec![read],
        ..TxnRequest::default()
    };
    lines.push(error(kv.txn(txn).await));
    expect![[r#"
        Unavailable: etcdserver: no leader
        ResourceExhausted: etcdserver: mvcc: database space exceeded
        ResourceExhausted: etcdserver: too many requests
        Unavailable: etcdserver: leader changed
        Unavailable: etcdserver: request timed out
        Unavailable: etcdserver: no leader
        Unavailable: etcdserver: no leader"#]]
    .assert_eq(&lines.join("\n"));
    let serializable = RangeRequest {
        serializable: true,
        ..key("a")
    };
    assert_eq!(
        kv.range(serializable)
            .await
            .expect("needs no group")
            .into_inner()
            .count,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_wants_a_leader_is_told_that_there_is_none() {
    let server = Server::start().await;
    let mut kv = server.clients().kv;
    server.solo.set(|status| status.leader = None);
    let refused = kv.range(with(key("a"), &[("hasleader", "true")])).await;
    assert_eq!(error(refused), "Unavailable: etcdserver: no leader");
    kv.range(key("a")).await.expect("others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn header_has_ids_and_a_term_that_never_goes_back() {
    let server = Server::start().await;
    let mut kv = server.clients().kv;
    server.solo.set(|status| status.term = 9);
    kv.range(key("a")).await.expect("a range");
    server.solo.set(|status| status.term = 4);
    let header = kv
        .range(key("a"))
        .await
        .expect("a range")
        .into_inner()
        .header
        .expect("one");
    assert_eq!((header.cluster_id, header.member_id), (77, 7));
    assert_eq!((header.revision, header.raft_term), (1, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn request_id_is_executed_once_and_history_says_who_and_why() {
    let server = Server::start().await;
    let clients = server.clients();
    let grant = LeaseGrantRequest { ttl: 600, id: 5 };
    clients
        .lease
        .clone()
        .lease_grant(grant)
        .await
        .expect("a lease");
    let meta = [
        ("cfgsvc-author", "ops"),
        ("cfgsvc-reason", "drill"),
        ("cfgsvc-session", "5"),
        ("cfgsvc-seq", "1"),
    ];
    let request = PutRequest {
        key: "a".into(),
        value: "1".into(),
        ..PutRequest::default()
    };
    let mut kv = clients.kv.clone();
    let mut revisions = Vec::new();
    for _ in 0..3 {
        let response = kv
            .put(with(request.clone(), &meta))
            .await
            .expect("a put")
            .into_inner();
        revisions.push(response.header.expect("a header").revision);
    }
    assert_eq!(revisions, [2, 2, 2]);
    kv.delete_range(DeleteRangeRequest {
        key: "a".into(),
        ..DeleteRangeRequest::default()
    })
    .await
    .expect("a delete");
    let request = HistoryRequest {
        key: "a".into(),
        ..HistoryRequest::default()
    };
    let history = clients
        .admin
        .clone()
        .history(request)
        .await
        .expect("history")
        .into_inner();
    let shown: Vec<String> = history
        .entries
        .iter()
        .map(|entry| {
            let event = entry.event.as_ref().expect("an event");
            let kv = event.kv.as_ref().expect("a key");
            format!(
                "{} @{} version {} by `{}` for `{}` at a time: {}",
                event.r#type().as_str_name(),
                kv.mod_revision,
                kv.version,
                entry.author,
                entry.reason,
                entry.at_ms > 0
            )
        })
        .collect();
    expect![[r#"
        PUT @2 version 1 by `ops` for `drill` at a time: true
        DELETE @3 version 0 by `` for `` at a time: true"#]]
    .assert_eq(&shown.join("\n"));
    let bad = HistoryRequest {
        key: "a".into(),
        limit: 1_001,
        ..HistoryRequest::default()
    };
    expect!["InvalidArgument: limit is 1001, expected 0 to 1000"]
        .assert_eq(&error(clients.admin.clone().history(bad).await));
    let half = with(PutRequest::default(), &[("cfgsvc-session", "5")]);
    expect!["InvalidArgument: cfgsvc-session and cfgsvc-seq go together and are not 0; cfgsvc-ack needs both"].assert_eq(&error(kv.put(half).await));
}

async fn streamed(clients: &Clients, request: RangeRequest) -> Result<Vec<RangeResponse>, Status> {
    let mut stream = clients.kv.clone().range_stream(request).await?.into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = soon("a chunk", stream.message()).await? {
        chunks.push(chunk.range_response.expect("a range"));
    }
    Ok(chunks)
}

#[tokio::test(flavor = "multi_thread")]
async fn range_stream_is_of_one_revision_in_chunks() {
    let server = Server::start().await;
    let clients = server.clients();
    // More than the windows hold: the last chunk is made after the puts below.
    let mut pinned = 0;
    for number in 0..200 {
        pinned = put(&clients, &format!("k{number:03}"), &vec![b'v'; 50_000]).await;
    }
    let mut stream = clients
        .kv
        .clone()
        .range_stream(all())
        .await
        .expect("a stream")
        .into_inner();
    let first = soon("a chunk", stream.message())
        .await
        .expect("no error")
        .expect("one");
    let mut kvs = first.range_response.expect("a range").kvs;
    // What is written meanwhile is not in it.
    put(&clients, "k000", b"new").await;
    put(&clients, "k999", b"new").await;
    let mut last = None;
    while let Some(chunk) = soon("a chunk", stream.message()).await.expect("no error") {
        assert!(last.is_none(), "only the last has a header");
        let range = chunk.range_response.expect("a range");
        kvs.extend(range.kvs);
        last = range
            .header
            .map(|header| (header.revision, range.more, range.count));
    }
    // Who watches from the next revision on misses none of the later puts.
    assert_eq!(last, Some((pinned, false, 200)));
    assert_eq!(kvs.len(), 200);
    assert!(kvs.iter().all(|kv| kv.value.len() == 50_000));

    let limited = RangeRequest { limit: 25, ..all() };
    let chunks = streamed(&clients, limited).await.expect("chunks");
    let sizes: usize = chunks.iter().map(|chunk| chunk.kvs.len()).sum();
    let last = chunks.last().expect("one");
    assert_eq!((sizes, last.more, last.count), (25, true, 201));
    assert!(chunks.len() > 1);

    let counted = streamed(
        &clients,
        RangeRequest {
            count_only: true,
            ..all()
        },
    )
    .await;
    let counted = counted.expect("one chunk");
    assert_eq!((counted.len(), counted[0].count), (1, 201));
    let sorted = RangeRequest {
        sort_order: 2,
        ..all()
    };
    assert!(error(streamed(&clients, sorted).await).starts_with("Unimplemented"));
    let future = RangeRequest {
        revision: 999,
        ..all()
    };
    let text = error(streamed(&clients, future).await);
    assert_eq!(
        text,
        "OutOfRange: etcdserver: mvcc: required revision is a future revision"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_is_watched_while_the_group_does_not_answer() {
    let server = Server::start_with(cfgsvc::service::Limits {
        quota_bytes: Some(10_000),
        ..limits()
    })
    .await;
    let clients = server.clients();
    put(&clients, "a", b"1").await;
    put(&clients, "a", b"2").await;
    let compaction = CompactionRequest {
        revision: 3,
        physical: false,
    };
    // The proposal after the compaction is the member's own: to remove what is compacted.
    server.solo.stall_proposal_after(1);
    clients
        .kv
        .clone()
        .compact(compaction)
        .await
        .expect("a compaction");
    let stalled = async {
        while server.solo.will_stall() {
            tokio::task::yield_now().await;
        }
    };
    soon("a stalled removal", stalled).await;
    put(&clients, "b", &vec![b'v'; 20_000]).await;
    let full = async {
        while !server.service.is_full() {
            tokio::task::yield_now().await;
        }
    };
    soon("the quota", full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_space_puts_are_refused_and_the_rest_goes_on() {
    let server = Server::start_with(cfgsvc::service::Limits {
        quota_bytes: Some(10_000),
        ..limits()
    })
    .await;
    let clients = server.clients();
    put(&clients, "a", &vec![b'v'; 20_000]).await;
    let full = async {
        while !server.service.is_full() {
            server.service.check_quota().expect("memory has a size");
        }
    };
    soon("the quota", full).await;
    let mut kv = clients.kv.clone();
    let request = PutRequest {
        key: "b".into(),
        ..PutRequest::default()
    };
    let op = RequestOp {
        request: Some(Op::RequestPut(request.clone())),
    };
    let txn = TxnRequest {
        success: vec![op],
        ..TxnRequest::default()
    };
    let refused = "ResourceExhausted: etcdserver: mvcc: database space exceeded";
    for write in [Write::Put(request.clone()), Write::Txn(txn.clone())] {
        let plan = PlanRequest {
            write: Some(write),
            ..PlanRequest::default()
        };
        let planned = clients.roles.clone().plan(plan).await;
        assert_eq!(error(planned), refused, "as the write itself");
    }
    assert_eq!(error(kv.put(request).await), refused);
    assert_eq!(error(kv.txn(txn).await), refused);
    let grant = LeaseGrantRequest { ttl: 10, id: 0 };
    assert_eq!(
        error(clients.lease.clone().lease_grant(grant).await),
        refused
    );
    let mut maintenance = clients.maintenance.clone();
    let alarms = maintenance.alarm(cfgsvc_proto::etcd::AlarmRequest::default());
    let alarms = alarms.await.expect("alarms").into_inner().alarms;
    assert_eq!(
        alarms
            .iter()
            .map(|one| (one.member_id, one.alarm))
            .collect::<Vec<_>>(),
        [(7, 1)]
    );

    let delete = DeleteRangeRequest {
        key: "a".into(),
        ..DeleteRangeRequest::default()
    };
    kv.delete_range(delete).await.expect("gives space");
    let compaction = CompactionRequest {
        revision: 3,
        physical: true,
    };
    kv.compact(compaction).await.expect("gives space");
    server.service.check_quota().expect("memory has a size");
    put(&clients, "b", b"1").await;
}
