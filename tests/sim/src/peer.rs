//! Raft's messages over the simulated network; the twin of `cluster::network` and its server.

#![expect(
    clippy::result_large_err,
    reason = "openraft's error type is what its traits return"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cluster::log_store::LogStore;
use cluster::network::Acknowledged;
use cluster::proto;
use cluster::sent::{OVERDUE, Sent, watch_answers};
use cluster::state_store::{SnapshotHandle, StateStore as _, meta_from};
use cluster::types::{CommittedLeaderId, NodeInfo, Vote};
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, NetAppend, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote,
    RPCOption, RPCTypes, RaftNetworkFactory, stream_append_sequential,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{AsyncRuntime as _, OptionalSend};
use tokio::sync::{mpsc, oneshot};

use crate::defect::Defect;
use crate::member::Member;
use crate::network::{self, CallError, From, pipe, spawn_here};
use crate::runtime::{WorldRuntime, lock, sleep, timeout};
use crate::types::SimTypes;
use crate::world::World;

/// Bytes of one snapshot chunk; small, so that small snapshots have several.
const SNAPSHOT_CHUNK_BYTES: usize = 128;
/// Messages in each part of a stream between members.
const STREAM_WINDOW: usize = 64;
/// A connection that is silent so long is closed by its keep-alive.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(5);

type Rpc<T> = Result<T, RPCError<SimTypes>>;
type AppendResult = StreamAppendResult<SimTypes>;
type AppendResults<'s> = BoxStream<'s, Rpc<AppendResult>>;

/// Makes a [`Peer`] for each member.
#[derive(Clone)]
pub struct Network {
    world: Arc<World>,
    from: From,
    log: LogStore,
    acknowledged: BTreeMap<u64, Arc<Acknowledged>>,
}

impl Network {
    /// The way from `from` to the others, for what its `log` holds.
    pub fn new(world: Arc<World>, from: From, log: LogStore) -> Self {
        Self {
            world,
            from,
            log,
            acknowledged: BTreeMap::new(),
        }
    }
}

/// The way to one member.
pub struct Peer {
    world: Arc<World>,
    from: From,
    to: u64,
    log: LogStore,
    acknowledged: Arc<Acknowledged>,
}

impl RaftNetworkFactory<SimTypes> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &NodeInfo) -> Peer {
        Peer {
            world: self.world.clone(),
            from: self.from.clone(),
            to: target,
            log: self.log.clone(),
            acknowledged: self.acknowledged.entry(target).or_default().clone(),
        }
    }
}

fn unreachable(why: impl ToString) -> RPCError<SimTypes> {
    RPCError::Unreachable(Unreachable::from_string(why.to_string()))
}

fn call_failed(error: &CallError) -> RPCError<SimTypes> {
    unreachable(format!("{error:?}"))
}

impl Peer {
    async fn call<T, F, Fut>(&self, action: RPCTypes, ttl: Duration, handler: F) -> Rpc<T>
    where
        T: Send + 'static,
        F: Fn(Member) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let call = network::call(&self.world, self.from.clone(), self.to, handler);
        match timeout(ttl, call).await {
            Ok(answer) => answer.map_err(|error| call_failed(&error)),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.from.id,
                target: self.to,
                timeout: ttl,
            })),
        }
    }

    async fn ask(
        &self,
        rpc: VoteRequest<SimTypes>,
        pre_vote: bool,
        option: RPCOption,
    ) -> Rpc<VoteResponse<SimTypes>> {
        let answered = self.call(RPCTypes::Vote, option.hard_ttl(), move |member: Member| {
            let mut rpc = rpc.clone();
            async move {
                // The lease of a leader that is gone protects nobody.
                rpc.leadership_transfer |= member.without_leader();
                let raft = member.raft();
                let answer = if pre_vote {
                    raft.pre_vote(rpc).await
                } else {
                    raft.vote(rpc).await
                };
                answer.map_err(|error| error.to_string())
            }
        });
        let answer = answered
            .await
            .and_then(|answer| answer.map_err(unreachable));
        let told = match &answer {
            Ok(answer) if answer.vote_granted => "granted".to_owned(),
            Ok(answer) => format!("refused, vote {}", answer.vote),
            Err(error) => error.to_string(),
        };
        let (from, to) = (self.from.id, self.to);
        let kind = if pre_vote { "pre-vote" } else { "vote" };
        self.world
            .event(&format!("member {from} asks {to} for its {kind}: {told}"));
        answer
    }

    async fn open_stream(
        &self,
        ttl: Duration,
    ) -> Rpc<(
        mpsc::Sender<AppendEntriesRequest<SimTypes>>,
        mpsc::Receiver<Result<AppendResult, String>>,
    )> {
        let (requests, arrived) = pipe(&self.world, self.from.id, self.to, STREAM_WINDOW);
        let (answers, answered) = pipe(&self.world, self.to, self.from.id, STREAM_WINDOW);
        let ends = Arc::new(Mutex::new(Some((arrived, answers))));
        let caller = self.from.id;
        self.call(RPCTypes::AppendEntries, ttl, move |member: Member| {
            let ends = lock(&ends).take();
            async move {
                if let Some((arrived, answers)) = ends {
                    spawn_here(serve_appends(member, caller, arrived, answers));
                }
            }
        })
        .await?;
        Ok((requests, answered))
    }
}

/// The follower's end of a replication stream.
async fn serve_appends(
    member: Member,
    caller: u64,
    arrived: mpsc::Receiver<AppendEntriesRequest<SimTypes>>,
    answers: mpsc::Sender<Result<AppendResult, String>>,
) {
    let _connection = member.connected(caller);
    let requests = futures_util::stream::unfold(arrived, |mut arrived| async {
        let request = arrived.recv().await?;
        Some((request, arrived))
    });
    let results = member.raft().stream_append(requests);
    let mut results = std::pin::pin!(results);
    loop {
        let next = WorldRuntime::select2(results.next(), answers.closed()).await;
        let openraft::async_runtime::Select2::First(Some(result)) = next else {
            return;
        };
        let result = result.map_err(|fatal| fatal.to_string());
        if answers.send(result).await.is_err() {
            return;
        }
    }
}

impl NetStreamAppend<SimTypes> for Peer {
    fn stream_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'_, Rpc<AppendResults<'_>>>
    where
        S: Stream<Item = AppendEntriesRequest<SimTypes>> + OptionalSend + Unpin + 'static,
    {
        if self.world.plan.unary_appends {
            return self.append_one_by_one(input, option);
        }
        Box::pin(async move {
            let ttl = option.hard_ttl().max(Duration::from_millis(50));
            let (requests, answers) = self.open_stream(ttl).await?;
            let sent = Arc::new(Sent::default());
            let defect = self.world.plan.defect == Some(Defect::LateAnswer);
            let mut input = if defect {
                input.left_stream()
            } else {
                let log = self.log.clone();
                let requests = sent.clone().requests(input, move || log.purged());
                requests.right_stream()
            };
            let (open, closed) = oneshot::channel::<()>();
            spawn_here(async move {
                let mut closed = closed;
                loop {
                    let next = WorldRuntime::select2(&mut closed, input.next()).await;
                    let openraft::async_runtime::Select2::Second(Some(request)) = next else {
                        return;
                    };
                    if requests.send(request).await.is_err() {
                        return;
                    }
                }
            });
            let answers =
                futures_util::stream::unfold((answers, open), |(mut answers, open)| async {
                    let answer = answers.recv().await?;
                    Some((answer.map_err(unreachable), (answers, open)))
                });
            if defect {
                return Ok(answers.boxed());
            }
            let peer = (self.to, self.acknowledged.clone());
            Ok(watch_answers(answers.boxed(), sent, ttl.max(OVERDUE), peer))
        })
    }
}

impl Peer {
    /// Replication by single calls: each is answered before the next is sent.
    fn append_one_by_one<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'_, Rpc<AppendResults<'_>>>
    where
        S: Stream<Item = AppendEntriesRequest<SimTypes>> + OptionalSend + Unpin + 'static,
    {
        let (to, acknowledged) = (self.to, self.acknowledged.clone());
        let sent = Arc::new(Sent::default());
        let counter = sent.clone();
        let log = self.log.clone();
        let input = input.take_while(move |request| ready(counter.note(request, || log.purged())));
        let opened = stream_append_sequential(self, input, option);
        Box::pin(async move {
            let answers = opened.await?;
            let checked = answers.map(move |answer| acknowledged.check(to, sent.term(), answer?));
            Ok(checked.boxed())
        })
    }
}

impl NetAppend<SimTypes> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<SimTypes>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<SimTypes>> {
        let ttl = option.hard_ttl().max(Duration::from_millis(50));
        let answered = self.call(RPCTypes::AppendEntries, ttl, move |member: Member| {
            let rpc = rpc.clone();
            async move {
                let answer = member.raft().append_entries(rpc).await;
                answer.map_err(|error| error.to_string())
            }
        });
        answered.await?.map_err(unreachable)
    }
}

impl NetVote<SimTypes> for Peer {
    async fn vote(
        &mut self,
        rpc: VoteRequest<SimTypes>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<SimTypes>> {
        self.ask(rpc, false, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<SimTypes>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<SimTypes>> {
        self.ask(rpc, true, option).await
    }
}

impl NetBackoff<SimTypes> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl NetTransferLeader<SimTypes> for Peer {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<SimTypes>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<SimTypes>> {
        let ttl = option.hard_ttl();
        let answered = self.call(RPCTypes::TransferLeader, ttl, move |member: Member| {
            let request = request.clone();
            async move {
                let answer = member.raft().handle_transfer_leader(request).await;
                answer.map_err(|error| error.to_string())
            }
        });
        answered.await?.map_err(unreachable)
    }
}

// === snapshots ===

type SnapshotOf = Snapshot<CommittedLeaderId, u64, NodeInfo, SnapshotHandle>;
type Chunk = (usize, u64, Bytes);

fn streaming(why: impl ToString) -> StreamingError<SimTypes> {
    StreamingError::Unreachable(Unreachable::from_string(why.to_string()))
}

/// The receiver's end of a snapshot.
async fn receive_snapshot(
    member: Member,
    vote: Vote,
    manifest: proto::SnapshotManifest,
    mut chunks: mpsc::Receiver<Chunk>,
) -> Result<SnapshotResponse<SimTypes>, String> {
    let text = |error: std::io::Error| error.to_string();
    let meta = meta_from(&manifest).map_err(|error| error.to_string())?;
    let mut receiver = member.store().receive(&manifest).map_err(text)?;
    while let Some((file, offset, bytes)) = chunks.recv().await {
        sleep(Duration::from_millis(2)).await;
        receiver.write(file, offset, &bytes).map_err(text)?;
    }
    sleep(Duration::from_millis(1)).await;
    let snapshot = receiver.finish().map_err(text)?;
    let snapshot = Snapshot { meta, snapshot };
    let raft = member.raft();
    let answer = raft.install_full_snapshot(vote, snapshot).await;
    answer.map_err(|error| error.to_string())
}

impl Peer {
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotHandle,
    ) -> Result<SnapshotResponse<SimTypes>, StreamingError<SimTypes>> {
        let manifest = snapshot.files.manifest().map_err(streaming)?;
        let covered = manifest.last_log_id;
        let offer = manifest.clone();
        let held = self.call(
            RPCTypes::InstallSnapshot,
            SNAPSHOT_PATIENCE,
            move |member: Member| {
                let receiver = member.store().receive(&offer);
                async move {
                    let held = receiver.map(|receiver| receiver.held());
                    held.map_err(|error| error.to_string())
                }
            },
        );
        let held = held.await.map_err(streaming)?.map_err(streaming)?;
        if held.iter().any(|held| *held > 0) {
            self.world.count("snapshot transfer resumed");
        }
        let (chunks, arrived) = pipe(&self.world, self.from.id, self.to, STREAM_WINDOW);
        spawn_here(async move {
            for (file, held) in held.into_iter().enumerate() {
                let mut offset = held;
                loop {
                    let read = snapshot.files.read(file, offset, SNAPSHOT_CHUNK_BYTES);
                    let Ok(bytes) = read else { return };
                    if bytes.is_empty() {
                        break;
                    }
                    let next = offset + bytes.len() as u64;
                    if chunks.send((file, offset, bytes)).await.is_err() {
                        return;
                    }
                    offset = next;
                }
            }
        });
        let arrived = Arc::new(Mutex::new(Some(arrived)));
        let action = RPCTypes::InstallSnapshot;
        let installed = self.call(action, SNAPSHOT_PATIENCE, move |member: Member| {
            let arrived = lock(&arrived).take();
            let manifest = manifest.clone();
            async move {
                match arrived {
                    Some(arrived) => receive_snapshot(member, vote, manifest, arrived).await,
                    None => std::future::pending().await,
                }
            }
        });
        let answer = installed.await.map_err(streaming)?.map_err(streaming)?;
        if let (true, Some(covered)) = (answer.vote == vote, covered) {
            self.acknowledged.note(vote.leader_id.term, covered.index);
        }
        Ok(answer)
    }
}

impl NetSnapshot<SimTypes> for Peer {
    type SnapshotData = SnapshotHandle;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<SimTypes>, StreamingError<SimTypes>> {
        let sent = WorldRuntime::select2(cancel, self.send_snapshot(vote, snapshot.snapshot)).await;
        match sent {
            openraft::async_runtime::Select2::First(closed) => Err(StreamingError::Closed(closed)),
            openraft::async_runtime::Select2::Second(sent) => {
                match &sent {
                    Ok(_) => self.world.count("snapshot sent"),
                    Err(_) => self.world.count("snapshot transfer broken"),
                }
                sent
            }
        }
    }
}
