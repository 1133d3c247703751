//! Leases over real connections and real time.

use std::time::{Duration, Instant};

use cfgsvc_proto::etcd::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseTimeToLiveRequest,
    PutRequest,
};
use cfgsvc_proto::kv::event::EventType;
use cluster::{ReadError, Role};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::harness::{Clients, Server, WatchStream, all_keys, error, soon};

async fn grant(clients: &Clients, ttl: i64) -> i64 {
    let request = LeaseGrantRequest { ttl, id: 0 };
    let granted = clients
        .lease
        .clone()
        .lease_grant(request)
        .await
        .expect("a lease")
        .into_inner();
    assert!(granted.id > 0);
    granted.id
}

async fn attach(clients: &Clients, key: &'static str, lease: i64) {
    let request = PutRequest {
        key: key.into(),
        lease,
        ..PutRequest::default()
    };
    clients.kv.clone().put(request).await.expect("a put");
}

/// An open stream of renewals.
struct KeepAlive {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    responses: Streaming<cfgsvc_proto::etcd::LeaseKeepAliveResponse>,
}

impl KeepAlive {
    /// Opens it with a first renewal, and returns its TTL.
    async fn open(clients: &Clients, id: i64) -> (Self, Result<i64, Status>) {
        let (requests, stream) = mpsc::channel(4);
        requests
            .send(LeaseKeepAliveRequest { id })
            .await
            .expect("open");
        let mut lease = clients.lease.clone();
        let responses = lease.lease_keep_alive(ReceiverStream::new(stream)).await;
        let mut stream = Self {
            requests,
            responses: responses.expect("a stream").into_inner(),
        };
        let first = stream.next().await;
        (stream, first)
    }

    async fn next(&mut self) -> Result<i64, Status> {
        let message = soon("a renewal", self.responses.message()).await?;
        Ok(message.expect("the stream goes on").ttl)
    }

    async fn renew(&mut self, id: i64) -> Result<i64, Status> {
        self.requests
            .send(LeaseKeepAliveRequest { id })
            .await
            .expect("open");
        self.next().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_ends_after_its_time_with_all_its_keys_in_one_revision() {
    let server = Server::start().await;
    let clients = server.clients();
    let mut stream = WatchStream::open(&clients, &[]).await;
    let begun = Instant::now();
    let id = grant(&clients, 6).await;
    attach(&clients, "b", id).await;
    attach(&clients, "a", id).await;
    // From the revision of the end on, wherever that is when the watch begins.
    stream.create(all_keys(4)).await;
    let response = stream.next().await.expect("no error");
    assert!(
        begun.elapsed() >= Duration::from_secs(6),
        "after {:?}",
        begun.elapsed()
    );
    let ended: Vec<(EventType, i64, &[u8])> = response
        .events
        .iter()
        .map(|event| {
            let kv = event.kv.as_ref().expect("a key");
            (event.r#type(), kv.mod_revision, kv.key.as_ref())
        })
        .collect();
    assert_eq!(
        ended,
        [
            (EventType::Delete, 4, b"a".as_ref()),
            (EventType::Delete, 4, b"b")
        ]
    );
    let (_, ttl) = KeepAlive::open(&clients, id).await;
    assert_eq!(ttl.expect("no error"), 0);
}

/// Renews a lease of 2 s for twice that. `false` when it ended because no renewal came in time.
async fn outlives_its_term(clients: &Clients) -> bool {
    let term = Duration::from_secs(2);
    let begun = Instant::now();
    let id = grant(clients, 2).await;
    let mut sent = begun;
    let (mut stream, mut ttl) = KeepAlive::open(clients, id).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(300));
    while begun.elapsed() < 2 * term {
        match ttl.expect("no error") {
            0 => {
                assert!(sent.elapsed() >= term, "it ended early");
                return false;
            }
            left => assert_eq!(left, 2),
        }
        ticks.tick().await;
        let sending = Instant::now();
        ttl = stream.renew(id).await;
        if matches!(ttl, Ok(2)) {
            sent = sending;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_lease_lives_longer_than_its_time() {
    let server = Server::start().await;
    let clients = server.clients();
    // A machine that stands still for a whole term proves nothing; not at every try.
    for _ in 0..10 {
        if outlives_its_term(&clients).await {
            return;
        }
    }
    panic!("no lease could be renewed in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_renewed_that_no_quorum_confirms() {
    let server = Server::start().await;
    let clients = server.clients();
    let id = grant(&clients, 600).await;
    let (mut stream, first) = KeepAlive::open(&clients, id).await;
    first.expect("confirmed");
    server
        .solo
        .fail_reads(Some(ReadError::Timeout { waited_ms: 1_000 }));
    assert_eq!(
        error(stream.renew(id).await),
        "Unavailable: etcdserver: request timed out"
    );
    server.solo.fail_reads(None);
    server.solo.set(|status| status.leader = None);
    let (_, none) = KeepAlive::open(&clients, id).await;
    assert_eq!(error(none), "Unavailable: etcdserver: request timed out");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_leader_gives_leases_their_whole_time_again() {
    let server = Server::start().await;
    let clients = server.clients();
    let id = grant(&clients, 600).await;
    let look = async || {
        let request = LeaseTimeToLiveRequest { id, keys: false };
        let mut lease = clients.lease.clone();
        let left = lease.lease_time_to_live(request).await.expect("left");
        let left = left.into_inner();
        assert_eq!(left.granted_ttl, 600);
        left.ttl
    };
    // Six seconds pass, as the leader counts them: another lease ends.
    let mut stream = WatchStream::open(&clients, &[]).await;
    let short = grant(&clients, 6).await;
    attach(&clients, "a", short).await;
    stream.create(all_keys(3)).await;
    stream.next().await.expect("its key is deleted");
    let left = look().await;
    assert!(left <= 594, "{left} s are left");
    server.solo.set(|status| status.role = Role::Follower);
    server.solo.set(|status| {
        status.role = Role::Leader;
        status.term += 1;
    });
    let more = async {
        while look().await <= 594 {
            tokio::task::yield_now().await;
        }
    };
    soon("the whole time", more).await;
    let listed = clients
        .lease
        .clone()
        .lease_leases(LeaseLeasesRequest {})
        .await;
    let listed = listed.expect("leases").into_inner().leases;
    assert_eq!(listed.iter().map(|one| one.id).collect::<Vec<_>>(), [id]);
}
