//! Watches over real connections: complete and in order whatever the client does.

use std::time::Duration;

use cfgsvc_proto::etcd::watch_request::RequestUnion;
use cfgsvc_proto::etcd::{
    CompactionRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest,
};

use crate::harness::{Server, WatchStream, all_keys, limits, put, soon};

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_gets_everything_once_and_in_order_and_holds_up_nobody() {
    let server = Server::start().await;
    let clients = server.clients();
    let mut slow = WatchStream::open(&clients, &[]).await;
    assert!(slow.create(all_keys(0)).await.created);
    // More than the windows, the stream's queue and its inbox hold together.
    let value = vec![b'v'; 40_000];
    let mut last = 0;
    for number in 0..600 {
        last = soon("a put", put(&clients, &format!("k{}", number % 7), &value)).await;
    }
    let mut next = 2;
    while next <= last {
        for event in slow.next().await.expect("no error").events {
            assert_eq!(event.kv.expect("a key").mod_revision, next);
            next += 1;
        }
    }
    // It is live again.
    let live = put(&clients, "live", b"1").await;
    let response = slow.next().await.expect("no error");
    assert_eq!(
        response.events[0].kv.as_ref().expect("a key").mod_revision,
        live
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_of_the_past_meet_the_present_without_a_gap() {
    let server = Server::start().await;
    let clients = server.clients();
    for number in 0..50 {
        put(&clients, &format!("k{number}"), b"1").await;
    }
    let writer = {
        let clients = clients.clone();
        tokio::spawn(async move {
            let mut last = 0;
            for number in 0..400 {
                last = put(&clients, &format!("k{}", number % 50), b"2").await;
            }
            last
        })
    };
    let mut streams = Vec::new();
    for start in [2, 10, 30, 51] {
        let mut stream = WatchStream::open(&clients, &[]).await;
        assert!(stream.create(all_keys(start)).await.created);
        streams.push((start, stream));
    }
    let last = soon("the writer", writer).await.expect("no panic");
    for (start, stream) in &mut streams {
        let mut next = *start;
        while next <= last {
            for event in stream.next().await.expect("no error").events {
                assert_eq!(event.kv.expect("a key").mod_revision, next);
                next += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_when_asked_and_when_idle() {
    let interval = Duration::from_millis(100);
    let server = Server::start_with(cfgsvc::service::Limits {
        progress_interval: interval,
        ..limits()
    })
    .await;
    let clients = server.clients();
    let revision = put(&clients, "other", b"1").await;
    let mut stream = WatchStream::open(&clients, &[]).await;
    let quiet = WatchCreateRequest {
        key: "a".into(),
        ..WatchCreateRequest::default()
    };
    stream.create(quiet.clone()).await;
    stream
        .ask(RequestUnion::ProgressRequest(WatchProgressRequest {}))
        .await;
    let response = stream.next().await.expect("no error");
    let header = response.header.expect("a header");
    assert_eq!((response.watch_id, header.revision), (-1, revision));
    assert_eq!((header.cluster_id, header.member_id), (77, 7));

    let told = stream
        .create(WatchCreateRequest {
            progress_notify: true,
            ..quiet
        })
        .await;
    let response = stream.next().await.expect("no error");
    assert_eq!(
        (response.watch_id, response.events.len()),
        (told.watch_id, 0)
    );
    assert_eq!(response.header.expect("a header").revision, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_ends_what_needs_the_past() {
    let server = Server::start().await;
    let clients = server.clients();
    for number in 0..10 {
        put(&clients, "a", &[number]).await;
    }
    let compaction = CompactionRequest {
        revision: 6,
        physical: true,
    };
    clients
        .kv
        .clone()
        .compact(compaction)
        .await
        .expect("a compaction");
    let mut stream = WatchStream::open(&clients, &[]).await;
    let created = stream.create(all_keys(5)).await;
    assert!(created.created && !created.canceled);
    let canceled = stream.next().await.expect("no error");
    assert!(canceled.canceled);
    assert_eq!(
        (canceled.compact_revision, canceled.cancel_reason.as_str()),
        (6, "")
    );
    assert_eq!(canceled.header.expect("a header").revision, 0);
    // At the compacted revision itself all is there.
    stream
        .create(WatchCreateRequest {
            prev_kv: true,
            ..all_keys(6)
        })
        .await;
    let response = stream.next().await.expect("no error");
    let revisions: Vec<(i64, bool)> = response
        .events
        .iter()
        .map(|event| {
            (
                event.kv.as_ref().expect("a key").mod_revision,
                event.prev_kv.is_some(),
            )
        })
        .collect();
    assert_eq!(revisions[..2], [(6, false), (7, true)]);
    assert_eq!(revisions.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn canceled_watcher_is_silent_and_unknown_ids_are_ignored() {
    let server = Server::start().await;
    let clients = server.clients();
    let mut stream = WatchStream::open(&clients, &[]).await;
    let id = stream.create(all_keys(0)).await.watch_id;
    stream
        .ask(RequestUnion::CancelRequest(WatchCancelRequest {
            watch_id: 404,
        }))
        .await;
    stream
        .ask(RequestUnion::CancelRequest(WatchCancelRequest {
            watch_id: id,
        }))
        .await;
    let response = stream.next().await.expect("no error");
    assert!(response.canceled);
    assert_eq!(response.watch_id, id);
    put(&clients, "a", b"1").await;
    let created = stream.create(all_keys(0)).await;
    assert!(created.created, "nothing else came before");
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_that_wants_a_leader_is_cut_without_one_and_others_stay() {
    let server = Server::start().await;
    let clients = server.clients();
    let mut picky = WatchStream::open(&clients, &[("hasleader", "true")]).await;
    let mut patient = WatchStream::open(&clients, &[]).await;
    picky.create(all_keys(0)).await;
    patient.create(all_keys(0)).await;
    server.solo.set(|status| status.leader = None);
    let status = picky.next().await.expect_err("it is cut");
    assert_eq!(status.message(), "etcdserver: no leader");
    put(&clients, "a", b"1").await;
    assert_eq!(patient.next().await.expect("no error").events.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_server_ends_its_streams_and_returns() {
    let server = Server::start().await;
    let clients = server.clients();
    let mut stream = WatchStream::open(&clients, &[]).await;
    stream.create(all_keys(0)).await;
    server.stop.send_replace(true);
    let status = stream.next().await.expect_err("it ends");
    assert_eq!(
        (status.code(), status.message()),
        (tonic::Code::Unavailable, "etcdserver: server stopped")
    );
    soon("the server", server.served).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_goes_away_leaves_no_watcher() {
    let server = Server::start().await;
    let clients = server.clients();
    let mut stream = WatchStream::open(&clients, &[]).await;
    stream.create(all_keys(0)).await;
    assert_eq!(server.service.hub.waiting(), 1);
    drop(stream);
    let gone = async {
        while server.service.hub.waiting() > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("the watcher to go", gone).await;
}
