//! The same requests to etcd and to us: the replies must be the same.
//!
//! Known differences of the etcd that Debian has (3.4) to us, which the requests keep away from:
//! - as 3.6 has it: unknown sort options and a watch with a negative start are refused, and two
//!   errors have other codes.
//! - in a transaction, etcd finds a range at a negative revision compacted; we read the latest there
//!   too.
//! - in a transaction, etcd does not see that a delete from a key on without end (range end `\0`)
//!   deletes a key that is put too; we refuse that as a duplicate key, as for any other range.
//!
//! Header fields other than the revision differ by nature.

use bytes::Bytes;
use cfgsvc_proto::etcd::compare::TargetUnion;
use cfgsvc_proto::etcd::request_op::Request as Op;
use cfgsvc_proto::etcd::watch_request::RequestUnion;
use cfgsvc_proto::etcd::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, RangeRequest, RequestOp,
    ResponseHeader, TxnRequest, WatchCreateRequest, WatchRequest,
};
use cfgsvc_tests::harness::Etcd;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::harness::{Clients, Server, soon};

/// Random requests for each seed.
const STEPS: usize = 250;
const SEEDS: u64 = 8;

#[derive(Debug, Clone)]
enum Call {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    Left(LeaseTimeToLiveRequest),
}

/// A reply in words, without what differs by nature.
macro_rules! shown {
    ($call:expr) => {
        shown!($call, |_response| {})
    };
    ($call:expr, $normalize:expr) => {
        match $call.await {
            Ok(response) => {
                let mut response = response.into_inner();
                bare(&mut response.header);
                let normalize: fn(&mut _) = $normalize;
                normalize(&mut response);
                format!("{response:#?}")
            }
            Err(status) => error(&status),
        }
    };
}

fn bare(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        *header = ResponseHeader {
            revision: header.revision,
            ..ResponseHeader::default()
        };
    }
}

fn error(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

async fn answer(clients: &Clients, call: Call) -> String {
    let Clients {
        mut kv, mut lease, ..
    } = clients.clone();
    match call {
        Call::Range(request) => shown!(kv.range(request)),
        Call::Put(request) => shown!(kv.put(request)),
        Call::Delete(request) => shown!(kv.delete_range(request)),
        Call::Txn(request) => shown!(kv.txn(request)),
        Call::Compact(request) => shown!(kv.compact(request)),
        Call::Grant(request) => shown!(lease.lease_grant(request)),
        Call::Revoke(request) => shown!(lease.lease_revoke(request)),
        // The remaining seconds depend on the moment, and etcd lists keys in no order.
        Call::Left(request) => shown!(
            lease.lease_time_to_live(request),
            |response: &mut LeaseTimeToLiveResponse| {
                response.ttl = response.ttl.min(0);
                response.keys.sort();
            }
        ),
    }
}

struct Pair {
    theirs: Clients,
    ours: Clients,
    _etcd: Etcd,
    _server: Server,
}

impl Pair {
    async fn start() -> Self {
        let server = Server::start().await;
        let etcd = tokio::task::spawn_blocking(Etcd::start);
        let etcd = etcd.await.expect("no panic").expect("etcd starts");
        Self {
            theirs: Clients::connect(&format!("http://{}", etcd.endpoint())),
            ours: server.clients(),
            _etcd: etcd,
            _server: server,
        }
    }

    async fn check(&self, context: &str, call: Call) {
        let theirs = soon("etcd", answer(&self.theirs, call.clone())).await;
        let ours = soon("our server", answer(&self.ours, call.clone())).await;
        assert_eq!(
            ours, theirs,
            "ours is left, etcd's is right; {context}: {call:#?}"
        );
    }

    /// The latest revision.
    async fn revision(&self) -> i64 {
        let request = RangeRequest {
            key: "x".into(),
            ..RangeRequest::default()
        };
        let response = self
            .ours
            .kv
            .clone()
            .range(request)
            .await
            .expect("a range")
            .into_inner();
        response.header.expect("a header").revision
    }

    /// All events of a watch up to `last`, each in words.
    async fn watched(clients: &Clients, create: WatchCreateRequest, last: i64) -> Vec<String> {
        let (requests, stream) = tokio::sync::mpsc::channel(1);
        let union = Some(RequestUnion::CreateRequest(create));
        requests
            .send(WatchRequest {
                request_union: union,
            })
            .await
            .expect("open");
        let stream = ReceiverStream::new(stream);
        let mut watch = clients.watch.clone();
        let mut responses = watch.watch(stream).await.expect("a stream").into_inner();
        let mut shown = Vec::new();
        let collect = async {
            while let Some(response) = responses.message().await.expect("no error") {
                let (created, canceled) = (response.created, response.canceled);
                if created || canceled {
                    shown.push(format!(
                        "id {} created {created} canceled {canceled} compacted {} {}",
                        response.watch_id, response.compact_revision, response.cancel_reason
                    ));
                }
                let seen = response.events.iter().filter_map(|event| event.kv.as_ref());
                let done = seen.map(|kv| kv.mod_revision).max() == Some(last);
                shown.extend(response.events.iter().map(|event| format!("{event:?}")));
                if done || canceled {
                    break;
                }
            }
        };
        soon("events of a watch", collect).await;
        shown
    }

    async fn check_watch(&self, context: &str, create: WatchCreateRequest, last: i64) {
        let theirs = Self::watched(&self.theirs, create.clone(), last).await;
        let ours = Self::watched(&self.ours, create.clone(), last).await;
        assert_eq!(
            ours, theirs,
            "ours is left, etcd's is right; {context}: {create:?}"
        );
    }
}

/// Draws requests that often meet: few keys, revisions near the latest, few leases.
struct Draw {
    rng: StdRng,
    revision: i64,
}

impl Draw {
    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.rng.random_range(0..choices.len())].clone()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn key(&mut self) -> Bytes {
        self.one_of(&["a", "b", "c", "d", "aa", "ab", "b\u{0}", "e"])
            .into()
    }

    fn range_end(&mut self) -> Bytes {
        self.one_of(&["", "", "\0", "b", "c", "f", "ab"]).into()
    }

    fn lease(&mut self) -> i64 {
        self.one_of(&[0, 0, 11, 12, 13])
    }

    fn near(&mut self) -> i64 {
        self.revision + self.rng.random_range(-12..3)
    }

    fn range(&mut self) -> RangeRequest {
        let mut request = RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            ..RangeRequest::default()
        };
        if self.chance(3) {
            request.key = Bytes::new();
        }
        if self.chance(40) {
            request.limit = self.rng.random_range(-1..4);
        }
        if self.chance(40) {
            request.revision = self.near().max(0);
        }
        if self.chance(40) {
            request.sort_order = self.rng.random_range(0..3);
            request.sort_target = self.rng.random_range(0..5);
        }
        request.serializable = self.chance(30);
        request.keys_only = self.chance(15);
        request.count_only = self.chance(15);
        if self.chance(20) {
            request.min_mod_revision = self.near().max(0);
            request.max_create_revision = self.near().max(0);
        }
        if self.chance(10) {
            request.max_mod_revision = self.near().max(0);
            request.min_create_revision = self.near().max(0);
        }
        request
    }

    fn put(&mut self) -> PutRequest {
        let mut request = PutRequest {
            key: self.key(),
            value: self.one_of(&["", "1", "2", "long value"]).into(),
            lease: self.lease(),
            prev_kv: self.chance(50),
            ignore_value: self.chance(8),
            ignore_lease: self.chance(8),
        };
        if request.ignore_value && self.chance(60) {
            request.value = Bytes::new();
        }
        if request.ignore_lease && self.chance(60) {
            request.lease = 0;
        }
        if self.chance(2) {
            request.key = Bytes::new();
        }
        request
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            prev_kv: self.chance(50),
        }
    }

    fn bounded_delete(&mut self) -> DeleteRangeRequest {
        let mut request = self.delete();
        if request.range_end == "\0" {
            request.range_end = "c".into();
        }
        request
    }

    fn compare(&mut self) -> Compare {
        let target_union = match self.rng.random_range(0..6) {
            0 => Some(TargetUnion::Version(self.rng.random_range(0..4))),
            1 => Some(TargetUnion::CreateRevision(self.near().max(0))),
            2 => Some(TargetUnion::ModRevision(self.near().max(0))),
            3 => Some(TargetUnion::Value(self.one_of(&["", "1", "2"]).into())),
            4 => Some(TargetUnion::Lease(self.lease())),
            _ => None,
        };
        let target = match &target_union {
            Some(TargetUnion::Version(_)) | None => 0,
            Some(TargetUnion::CreateRevision(_)) => 1,
            Some(TargetUnion::ModRevision(_)) => 2,
            Some(TargetUnion::Value(_)) => 3,
            Some(TargetUnion::Lease(_)) => 4,
        };
        let range_end = if self.chance(25) {
            self.range_end()
        } else {
            Bytes::new()
        };
        let result = self.rng.random_range(0..4);
        Compare {
            result,
            target,
            key: self.key(),
            range_end,
            target_union,
        }
    }

    fn txn(&mut self, depth: u32) -> TxnRequest {
        let count = |draw: &mut Self, most| draw.rng.random_range(0..=most);
        TxnRequest {
            compare: (0..count(self, 2)).map(|_| self.compare()).collect(),
            success: (0..count(self, 3)).map(|_| self.op(depth)).collect(),
            failure: (0..count(self, 2)).map(|_| self.op(depth)).collect(),
        }
    }

    fn op(&mut self, depth: u32) -> RequestOp {
        let request = match self.rng.random_range(0..20) {
            0..7 => Some(Op::RequestPut(self.put())),
            7..10 => Some(Op::RequestDeleteRange(self.bounded_delete())),
            10..12 if depth < 2 => Some(Op::RequestTxn(self.txn(depth + 1))),
            12 if self.chance(10) => None,
            _ => Some(Op::RequestRange(self.range())),
        };
        RequestOp { request }
    }

    fn call(&mut self) -> Call {
        match self.rng.random_range(0..100) {
            0..30 => Call::Range(self.range()),
            30..55 => Call::Put(self.put()),
            55..67 => Call::Delete(self.delete()),
            67..87 => Call::Txn(self.txn(0)),
            87..90 => Call::Compact(CompactionRequest {
                revision: self.near() - 8,
                physical: self.chance(50),
            }),
            90..95 => {
                let id = self.one_of(&[11, 12, 13]);
                // Long enough that none ends while the test runs.
                let ttl = self.one_of(&[500, 600, 1_000, 9_000_000_001]);
                Call::Grant(LeaseGrantRequest { id, ttl })
            }
            95..97 => Call::Revoke(LeaseRevokeRequest {
                id: self.one_of(&[11, 12, 13, 99]),
            }),
            _ => Call::Left(LeaseTimeToLiveRequest {
                id: self.one_of(&[11, 12, 13, 99]),
                keys: self.chance(70),
            }),
        }
    }

    fn watch(&mut self) -> WatchCreateRequest {
        WatchCreateRequest {
            key: self.key(),
            range_end: self.one_of(&["zzz", "\0"]).into(),
            start_revision: (self.revision - self.rng.random_range(0..60)).max(1),
            filters: if self.chance(30) { vec![1] } else { Vec::new() },
            prev_kv: self.chance(60),
            fragment: self.chance(30),
            watch_id: self.one_of(&[0, 5]),
            ..WatchCreateRequest::default()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_requests_get_the_answers_of_etcd() {
    let pair = Pair::start().await;
    for seed in 0..SEEDS {
        let mut draw = Draw {
            rng: StdRng::seed_from_u64(seed),
            revision: pair.revision().await,
        };
        for step in 0..STEPS {
            let call = draw.call();
            pair.check(&format!("seed {seed} step {step}"), call).await;
            if step % 5 == 0 {
                draw.revision = pair.revision().await;
            }
        }
        let last = PutRequest {
            key: "zz".into(),
            ..PutRequest::default()
        };
        pair.check("the last put", Call::Put(last)).await;
        draw.revision = pair.revision().await;
        for number in 0..6 {
            let create = draw.watch();
            pair.check_watch(
                &format!("seed {seed} watch {number}"),
                create,
                draw.revision,
            )
            .await;
        }
    }
}

/// Requests that are refused, or just not, for their shape or size.
#[tokio::test(flavor = "multi_thread")]
async fn requests_at_the_limits_get_the_answers_of_etcd() {
    let pair = Pair::start().await;
    let put = |key: &str, bytes: usize| PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: vec![b'v'; bytes].into(),
        ..PutRequest::default()
    };
    let op = |request: PutRequest| RequestOp {
        request: Some(Op::RequestPut(request)),
    };
    let puts = |count: usize| -> Vec<RequestOp> {
        (0..count)
            .map(|number| op(put(&format!("k{number}"), 1)))
            .collect()
    };
    let nested = |success: Vec<RequestOp>| RequestOp {
        request: Some(Op::RequestTxn(TxnRequest {
            success,
            ..TxnRequest::default()
        })),
    };
    let txn = |success: Vec<RequestOp>| {
        Call::Txn(TxnRequest {
            success,
            ..TxnRequest::default()
        })
    };
    let compact = |revision| {
        Call::Compact(CompactionRequest {
            revision,
            physical: true,
        })
    };
    let calls = [
        txn(puts(128)),
        txn(puts(129)),
        txn(vec![nested(puts(127))]),
        txn(vec![nested(puts(128))]),
        txn(vec![RequestOp { request: None }]),
        txn(vec![op(put("a", 1)), op(put("a", 1))]),
        txn(vec![op(put("a", 1)), nested(vec![op(put("a", 1))])]),
        txn(Vec::new()),
        Call::Put(put("big", 1_500_000)),
        Call::Put(put("too big", 1_600_000)),
        Call::Put(put("far too big", 2_200_000)),
        Call::Put(PutRequest {
            lease: 404,
            ..put("a", 1)
        }),
        Call::Put(PutRequest {
            ignore_value: true,
            ..put("a", 0)
        }),
        Call::Put(PutRequest {
            ignore_value: true,
            ..put("nobody", 0)
        }),
        compact(1),
        compact(1),
        compact(999),
        compact(0),
        compact(-1),
        Call::Range(RangeRequest {
            key: "a".into(),
            revision: 999,
            ..RangeRequest::default()
        }),
        Call::Grant(LeaseGrantRequest {
            id: 5,
            ttl: 9_000_000_000,
        }),
        Call::Grant(LeaseGrantRequest { id: 5, ttl: 10 }),
        Call::Grant(LeaseGrantRequest {
            id: 6,
            ttl: 9_000_000_001,
        }),
        Call::Grant(LeaseGrantRequest { id: 7, ttl: 0 }),
        Call::Grant(LeaseGrantRequest { id: 8, ttl: -5 }),
        Call::Revoke(LeaseRevokeRequest { id: 404 }),
        Call::Left(LeaseTimeToLiveRequest {
            id: 404,
            keys: true,
        }),
    ];
    for call in calls {
        let whole = format!("{call:?}");
        let name: String = whole.chars().take(200).collect();
        let theirs = soon("etcd", answer(&pair.theirs, call.clone())).await;
        let ours = soon("our server", answer(&pair.ours, call)).await;
        assert_eq!(
            digits_apart(&ours),
            digits_apart(&theirs),
            "ours, etcd's; {name}"
        );
    }
}

/// The size that a decoder found is of its own message; all else is compared.
fn digits_apart(text: &str) -> String {
    match text.split_once("larger than max (") {
        Some((before, _)) => before.to_owned(),
        None => text.to_owned(),
    }
}
