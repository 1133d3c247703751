//! A fake member: what an etcd never does, on demand, and what the client sent to it.

use anyhow::{Context, Result};
use cfgsvc_client::{Client, Options};
use cfgsvc_proto::etcd::kv_server::{Kv, KvServer};
use cfgsvc_proto::etcd::lease_server::{Lease, LeaseServer};
use cfgsvc_proto::etcd::watch_request::RequestUnion;
use cfgsvc_proto::etcd::watch_server::{Watch, WatchServer};
use cfgsvc_proto::etcd::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use cfgsvc_proto::kv;
use futures_util::StreamExt;
use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// Metadata of a put: session, seq, ack, author.
pub(crate) type Seen = [Option<String>; 4];

/// Longest wait for anything that must come.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A member that says what the test wants.
#[derive(Clone)]
pub(crate) struct Fake {
    /// What it was told, by the test and by clients; watched, so that a test can wait for it.
    told: watch::Sender<Told>,
    /// What it does; watched, so that a test can change it while requests wait.
    mood: watch::Sender<Mood>,
}

/// How a member behaves from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It answers.
    Serving,
    /// It accepts connections and requests and never answers any.
    Silent,
    /// It answers, but says nothing on the watches that it has accepted.
    DeafWatches,
    /// It sends events to every watch as fast as they are taken.
    Flooding,
    /// It ends each watch just after it has accepted it.
    Ending,
    /// It breaks each watch just after it has accepted it, since it has lost its leader.
    Leaderless,
}

#[derive(Default)]
struct Told {
    errors: VecDeque<Status>,
    seen: Vec<Seen>,
    watches: Vec<WatchCreateRequest>,
    renewals: usize,
    events: usize,
    revision: i64,
    cluster_id: u64,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            told: watch::Sender::default(),
            mood: watch::Sender::new(Mood::Serving),
        }
    }
}

/// A client of these endpoints.
pub(crate) fn client(endpoints: impl IntoIterator<Item = String>) -> Result<Client> {
    let mut options = Options::new(endpoints);
    options.author = Some("Zoë".into());
    Ok(Client::new(options)?)
}

impl Fake {
    /// Serves on loopback until the test's runtime ends; returns the endpoint.
    pub(crate) async fn start(&self) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = listener.local_addr()?.to_string();
        let server = tonic::transport::Server::builder()
            .add_service(KvServer::new(self.clone()))
            .add_service(LeaseServer::new(self.clone()))
            .add_service(WatchServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(endpoint)
    }

    fn told(&self) -> watch::Ref<'_, Told> {
        self.told.borrow()
    }

    /// Changes what it was told, and returns what `change` found.
    fn tells<T>(&self, change: impl FnOnce(&mut Told) -> T) -> T {
        let mut found = None;
        self.told.send_modify(|told| found = Some(change(told)));
        found.expect("it was called")
    }

    /// Answers the next requests with these.
    pub(crate) fn fail(&self, statuses: impl IntoIterator<Item = Status>) {
        self.tells(|told| told.errors.extend(statuses));
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// The revision that it shows from now on.
    pub(crate) fn at(&self, revision: i64) {
        self.tells(|told| told.revision = revision);
    }

    /// The group that it belongs to from now on.
    pub(crate) fn of_group(&self, cluster_id: u64) {
        self.tells(|told| told.cluster_id = cluster_id);
    }

    /// Waits until a flood has begun and has brought nothing to the network for `pause`.
    pub(crate) async fn flooded(&self, pause: Duration) -> Result<()> {
        let mut told = self.told.subscribe();
        timeout(PATIENCE, told.wait_for(|told| told.events > 0)).await??;
        let more = async {
            loop {
                let before = told.borrow_and_update().events;
                let grown = told.wait_for(|told| told.events > before);
                if timeout(pause, grown).await.is_err() {
                    return;
                }
            }
        };
        Ok(timeout(PATIENCE, more).await?)
    }

    /// Waits until so many watches were asked for.
    pub(crate) async fn watched(&self, count: usize) -> Result<()> {
        let mut told = self.told.subscribe();
        let enough = told.wait_for(|told| told.watches.len() >= count);
        let enough = timeout(PATIENCE, enough).await;
        enough.with_context(|| format!("{count} watches"))??;
        Ok(())
    }

    /// The puts since the last look.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.tells(|told| std::mem::take(&mut told.seen))
    }

    /// The watches that were asked for so far.
    pub(crate) fn watches(&self) -> Vec<WatchCreateRequest> {
        self.told().watches.clone()
    }

    /// Number of renewals that have arrived.
    pub(crate) fn renewals(&self) -> usize {
        self.told().renewals
    }

    fn header(&self) -> ResponseHeader {
        let told = self.told();
        ResponseHeader {
            revision: told.revision,
            cluster_id: told.cluster_id,
            ..ResponseHeader::default()
        }
    }

    async fn answer<T>(&self, reply: T) -> Result<Response<T>, Status> {
        if *self.mood.borrow() == Mood::Silent {
            pending::<()>().await;
        }
        match self.tells(|told| told.errors.pop_front()) {
            Some(status) => Err(status),
            None => Ok(Response::new(reply)),
        }
    }

    /// What a watch hears about `request`.
    fn tell(&self, request: WatchRequest) -> Answers<WatchResponse> {
        let mood = *self.mood.borrow();
        let header = Some(self.header());
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                self.tells(|told| told.watches.push(create));
                let created = WatchResponse {
                    header,
                    created: true,
                    ..WatchResponse::default()
                };
                let created = futures_util::stream::iter([Ok(created)]);
                match mood {
                    Mood::Flooding => {
                        let fake = self.clone();
                        let counted = flood().inspect(move |_| fake.tells(|told| told.events += 1));
                        Box::pin(created.chain(futures_util::stream::iter(counted)))
                    }
                    Mood::Ending | Mood::Leaderless => {
                        let reason = if mood == Mood::Leaderless {
                            "etcdserver: no leader"
                        } else {
                            "no reason"
                        };
                        let canceled = WatchResponse {
                            canceled: true,
                            cancel_reason: reason.into(),
                            ..WatchResponse::default()
                        };
                        Box::pin(created.chain(futures_util::stream::iter([Ok(canceled)])))
                    }
                    Mood::Serving | Mood::Silent | Mood::DeafWatches => Box::pin(created),
                }
            }
            Some(RequestUnion::ProgressRequest(_)) if mood == Mood::Serving => {
                let progress = WatchResponse {
                    header,
                    ..WatchResponse::default()
                };
                Box::pin(futures_util::stream::iter([Ok(progress)]))
            }
            Some(_) | None => Box::pin(futures_util::stream::empty()),
        }
    }
}

/// Events of 100 kB without end.
fn flood() -> impl Iterator<Item = Result<WatchResponse, Status>> {
    (100..).map(|revision| {
        let kv = kv::KeyValue {
            key: "k".into(),
            value: vec![b'x'; 100_000].into(),
            mod_revision: revision,
            ..kv::KeyValue::default()
        };
        Ok(WatchResponse {
            events: vec![kv::Event {
                kv: Some(kv),
                ..kv::Event::default()
            }],
            ..WatchResponse::default()
        })
    })
}

fn unused<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the fake does not have this call"))
}

#[tonic::async_trait]
impl Kv for Fake {
    type RangeStreamStream = Answers<RangeStreamResponse>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let names = [
            "cfgsvc-session",
            "cfgsvc-seq",
            "cfgsvc-ack",
            "cfgsvc-author",
        ];
        let seen = names.map(|name| {
            let value = request.metadata().get(name);
            value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        self.tells(|told| told.seen.push(seen));
        self.answer(PutResponse::default()).await
    }

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let reply = RangeResponse {
            header: Some(self.header()),
            ..RangeResponse::default()
        };
        self.answer(reply).await
    }

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        unused()
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        unused()
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        unused()
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        unused()
    }
}

#[tonic::async_trait]
impl Lease for Fake {
    type LeaseKeepAliveStream = Answers<LeaseKeepAliveResponse>;

    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { id, ttl } = request.into_inner();
        let reply = LeaseGrantResponse {
            id,
            ttl,
            ..LeaseGrantResponse::default()
        };
        self.answer(reply).await
    }

    async fn lease_revoke(
        &self,
        _: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.answer(LeaseRevokeResponse::default()).await
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let fake = self.clone();
        let answers = request.into_inner().then(move |renewal| {
            let fake = fake.clone();
            async move {
                let id = renewal?.id;
                fake.tells(|told| told.renewals += 1);
                let reply = LeaseKeepAliveResponse {
                    id,
                    ttl: 30,
                    ..LeaseKeepAliveResponse::default()
                };
                fake.answer(reply).await.map(Response::into_inner)
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let reply = LeaseTimeToLiveResponse {
            id: request.into_inner().id,
            ttl: 30,
            granted_ttl: 30,
            ..LeaseTimeToLiveResponse::default()
        };
        self.answer(reply).await
    }

    async fn lease_leases(
        &self,
        _: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        unused()
    }
}

#[tonic::async_trait]
impl Watch for Fake {
    type WatchStream = Answers<WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if *self.mood.borrow() == Mood::Silent {
            pending::<()>().await;
        }
        let fake = self.clone();
        let answers = request.into_inner().flat_map(move |request| match request {
            Ok(request) => fake.tell(request),
            Err(status) => Box::pin(futures_util::stream::iter([Err(status)])),
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
