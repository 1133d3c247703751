//! Library defect S3: openraft credits a late answer to what was sent after it, so that a leader
//! which has been cut off confirms a read. Shown twice, as in `defects.rs`: that what we let
//! openraft see is safe from it, and that the library still has it.
//!
//! One member in this process leads; the two others are the test.

#![expect(
    clippy::result_large_err,
    reason = "openraft's error type is what its traits return"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cluster::directory_store::DirectoryStore;
use cluster::log_store::{FlushMode, LogStore, LogStoreOptions};
use cluster::machine::Machine;
use cluster::member::RaftHandle;
use cluster::sent::{OVERDUE, Sent, watch_answers};
use cluster::state_store::SnapshotHandle;
use cluster::types::{Command, CommittedLeaderId, LogId, NodeInfo, Types, Vote};
use cluster_core::log::MemoryLog;
use cluster_core::store::{MemoryState, StateEngine};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, unfold};
use futures_util::{Stream, StreamExt as _};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::{Config, OptionalSend, Raft, ReadPolicy};
use tokio::sync::{mpsc, watch};

use crate::list_app::ListApp;

const PATIENCE: Duration = Duration::from_secs(20);

type Rpc<T> = Result<T, RPCError<Types>>;
type Answer = StreamAppendResult<Types>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Link {
    Open,
    /// Requests arrive, and the answers to them are late.
    Late,
    /// Nothing arrives.
    Cut,
}

/// A request that left the leader.
#[derive(Debug, Clone)]
struct Left {
    to: u64,
    link: Link,
    empty: bool,
    last: Option<LogId>,
}

/// The two others.
struct Others {
    link: Mutex<Link>,
    left: watch::Sender<Vec<Left>>,
    late: Mutex<Vec<(u64, mpsc::Sender<Answer>, Answer)>>,
    /// Whether the leader's openraft sees the answers as in production.
    guarded: bool,
}

impl Others {
    fn set(&self, link: Link) {
        *self.link.lock().expect("link") = link;
    }

    /// The other end of a replication stream.
    async fn serve<S>(self: Arc<Self>, to: u64, mut input: S, answers: mpsc::Sender<Answer>)
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
    {
        loop {
            let request = tokio::select! {
                request = input.next() => request,
                () = answers.closed() => None,
            };
            let Some(request) = request else { return };
            let last = request.entries.last().map(|entry| entry.log_id);
            let last = last.or(request.prev_log_id);
            let link = *self.link.lock().expect("link");
            match link {
                // A stream that is over needs no answer.
                Link::Open => drop(answers.send(Ok(last)).await),
                Link::Late => {
                    let mut late = self.late.lock().expect("late");
                    late.push((to, answers.clone(), Ok(last)));
                }
                Link::Cut => {}
            }
            let empty = request.entries.is_empty();
            self.left.send_modify(|left| {
                left.push(Left {
                    to,
                    link,
                    empty,
                    last,
                });
            });
        }
    }

    /// The late answers of a member arrive.
    async fn arrive(&self, from: u64) {
        let late: Vec<_> = {
            let mut late = self.late.lock().expect("late");
            late.extract_if(.., |(to, _, _)| *to == from).collect()
        };
        for (_, answers, answer) in late {
            drop(answers.send(answer).await);
        }
    }

    async fn seen(&self, what: &str, met: impl Fn(&Left) -> bool) {
        let mut left = self.left.subscribe();
        let seen = left.wait_for(|left| left.iter().any(&met));
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.unwrap_or_else(|_| panic!("{what} was not sent"))
            .expect("the sender lives");
    }
}

#[derive(Clone)]
struct Factory(Arc<Others>);

struct Wire {
    to: u64,
    others: Arc<Others>,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Wire;

    async fn new_client(&mut self, target: u64, _node: &NodeInfo) -> Wire {
        Wire {
            to: target,
            others: self.0.clone(),
        }
    }
}

fn not_here<T>() -> Rpc<T> {
    Err(RPCError::Unreachable(Unreachable::from_string("not here")))
}

impl RaftNetworkV2<Types> for Wire {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        not_here()
    }

    fn stream_append<S>(
        &mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'_, Rpc<BoxStream<'_, Rpc<Answer>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let (to, others) = (self.to, self.others.clone());
        Box::pin(async move {
            let (answers, answered) = mpsc::channel(64);
            let answered = unfold(answered, |mut answered| async move {
                let answer = answered.recv().await?;
                Some((Ok(answer), answered))
            });
            if !others.guarded {
                tokio::spawn(others.serve(to, input, answers));
                return Ok(answered.boxed());
            }
            let sent = Arc::new(Sent::default());
            tokio::spawn(others.serve(to, sent.clone().requests(input, || None), answers));
            Ok(watch_answers(
                answered.boxed(),
                sent,
                OVERDUE,
                (to, Arc::default()),
            ))
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        Ok(VoteResponse::new(rpc.vote, rpc.last_log_id, true))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: openraft::storage::Snapshot<CommittedLeaderId, u64, NodeInfo, SnapshotHandle>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(Unreachable::from_string(
            "no snapshots here",
        )))
    }
}

/// A leader of three, and its first write, which is applied.
async fn leader(others: Arc<Others>, root: &std::path::Path) -> (RaftHandle, LogId) {
    let config = Config {
        election_timeout_min: 60_000,
        election_timeout_max: 90_000,
        heartbeat_interval: 50,
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    let open = |_: &std::path::Path| Ok(Arc::new(MemoryState::default()) as Arc<dyn StateEngine>);
    let store = Arc::new(DirectoryStore::open(root, Box::new(open)).expect("state"));
    let options = LogStoreOptions {
        tail_bytes: 1 << 20,
        read_bytes: 1 << 20,
    };
    let engine = Arc::new(MemoryLog::default());
    let log = LogStore::open(engine, FlushMode::Thread, options).expect("log");
    let app = Box::new(ListApp::default());
    let machine = Machine::open(store, Some(log.clone()), app).expect("machine");
    let raft = Raft::new(1, Arc::new(config), Factory(others), log, machine)
        .await
        .expect("raft starts");
    let nodes: BTreeMap<u64, NodeInfo> = (1..=3).map(|id| (id, NodeInfo::default())).collect();
    raft.initialize(nodes).await.expect("initialize");
    let led = raft.wait(Some(PATIENCE));
    led.current_leader(1, "it leads").await.expect("leader");
    // A leader takes writes once a quorum has answered it.
    let first = async {
        let command = Command(Bytes::from_static(b"x"));
        loop {
            match raft.client_write(command.clone()).await {
                Ok(written) => return written.log_id,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let first = tokio::time::timeout(PATIENCE, first).await;
    (raft, first.expect("a majority answers in time"))
}

/// A write is sent, and the answers to it are late; the leader is cut off, and asked to confirm a
/// read; then the answers arrive, one after the other. Returns whether they confirm it.
async fn late_answers_confirm_a_read(guarded: bool) -> bool {
    let others = Arc::new(Others {
        link: Mutex::new(Link::Open),
        left: watch::Sender::default(),
        late: Mutex::default(),
        guarded,
    });
    let root = tempfile::tempdir().expect("temp dir");
    let (raft, first) = leader(others.clone(), root.path()).await;
    others.set(Link::Late);
    let writer = raft.clone();
    let write = tokio::spawn(async move {
        let write = writer.client_write(Command(Bytes::from_static(b"A")));
        write.await.expect("a majority answered").log_id
    });
    for id in [2, 3] {
        // Who is slow may be sent the first write only now: that is not the one.
        let after = |left: &Left| left.last > Some(first) && !left.empty;
        let entry = |left: &Left| left.to == id && left.link == Link::Late && after(left);
        others.seen("the write", entry).await;
    }
    others.set(Link::Cut);
    let mut read = std::pin::pin!(raft.get_read_log_id(ReadPolicy::ReadIndex));
    assert!(futures_util::poll!(&mut read).is_pending());
    // Calls are taken in order: the read waits for its confirmation now.
    raft.with_raft_state(|_| ()).await.expect("it runs");

    others.arrive(2).await;
    let written = tokio::time::timeout(PATIENCE, write).await;
    let written = Some(written.expect("in time").expect("it ends"));
    let committed = |left: &Left| left.to == 3 && left.empty && left.last == written;
    others.seen("what is committed", committed).await;
    others.arrive(3).await;
    let confirmed = tokio::time::timeout(Duration::from_secs(3), read).await;
    raft.shutdown().await.expect("it ends");
    matches!(confirmed, Ok(Ok(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_late_answers_do_not_confirm_a_read() {
    assert!(!late_answers_confirm_a_read(true).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_canary_late_answers_confirm_a_read() {
    assert!(
        late_answers_confirm_a_read(false).await,
        "openraft has mended S3: what `Sent` holds back may be thought over"
    );
}
