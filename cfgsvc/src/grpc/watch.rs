//! `etcdserverpb.Watch`: one task for each stream.
//!
//! Invariants
//! - the task is the only sender of its stream, so what it sends is in order.
//! - a client that does not read stops its own task and nothing else: the hub never waits for it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cfgsvc_core::history::{Compacted, HistoryQuery, history_since};
use cfgsvc_proto::etcd::watch_request::RequestUnion;
use cfgsvc_proto::etcd::watch_server::Watch;
use cfgsvc_proto::etcd::{WatchRequest, WatchResponse};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::{Interval, MissedTickBehavior, interval_at};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use super::metadata::wants_leader;
use crate::app::commit;
use crate::service::Service;
use crate::streams::{self, Gone, Outlet};
use crate::watch::commit::Commit;
use crate::watch::session::{Need, Session};

/// Responses that wait for a slow client, each of about a mebibyte at most.
const RESPONSES_WAITING: usize = 4;
/// Bytes of history read in one step of catching up.
const STEP_BYTES: usize = 1 << 20;
/// Events of history read in one step of catching up.
const STEP_EVENTS: usize = 4_096;
/// Wait when the store did not have what was published, which only the moment of a snapshot's
/// installation can cause.
const STORE_PAUSE: Duration = Duration::from_millis(10);

#[tonic::async_trait]
impl Watch for Api {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send + 'static>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.check_leader(&request)?;
        let cut = streams::cut(&self.0, wants_leader(request.metadata()));
        let (responses, received) = streams::outlet(RESPONSES_WAITING);
        let task = Task {
            session: Session::new(&self.0.hub),
            service: Arc::clone(&self.0),
            responses,
        };
        tokio::spawn(task.run(request.into_inner(), cut));
        Ok(Response::new(Box::pin(received)))
    }
}

/// Why a stream ends.
enum End {
    /// The client is done or gone.
    Client,
    /// With this status.
    Status(Status),
}

struct Task {
    session: Session,
    service: Arc<Service>,
    responses: Outlet<WatchResponse>,
}

impl Task {
    async fn run(mut self, mut requests: Streaming<WatchRequest>, cut: BoxFuture<'static, Status>) {
        let gone = self.responses.gone();
        let end = tokio::select! {
            end = self.serve(&mut requests) => end,
            status = cut => End::Status(status),
            () = gone => End::Client,
        };
        if let End::Status(status) = end {
            self.responses.end(status);
        }
    }

    async fn serve(&mut self, requests: &mut Streaming<WatchRequest>) -> End {
        let mut progress = progress_interval(self.service.limits.progress_interval);
        // A client that has no more requests may still listen.
        let mut requests = requests.chain(stream::pending()).fuse();
        loop {
            let outcome = if let Some(need) = self.session.behind() {
                // Requests come first, so that a watcher can be canceled while it catches up.
                match requests.next().now_or_never().flatten() {
                    Some(request) => self.request(request).await,
                    None => self.catch_up(need).await,
                }
            } else {
                let inbox = Arc::clone(self.session.stream().inbox());
                tokio::select! {
                    Some(request) = requests.next() => self.request(request).await,
                    () = inbox.filled() => Ok(()),
                    _ = progress.tick() => {
                        let told = self.session.tick();
                        self.send(told).await
                    }
                }
            };
            let outcome = match outcome {
                Ok(()) => self.deliver().await,
                Err(end) => Err(end),
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    async fn request(&mut self, request: Result<WatchRequest, Status>) -> Result<(), End> {
        let request = request.map_err(End::Status)?;
        let responses = match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.session.create(&request),
            Some(RequestUnion::CancelRequest(request)) => self.session.cancel(request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => {
                self.session.want_progress();
                Vec::new()
            }
            None => Vec::new(),
        };
        self.send(responses).await
    }

    /// Sends what has arrived, and progress if it was asked for and is known.
    async fn deliver(&mut self) -> Result<(), End> {
        self.session.receive();
        while let Some(delivered) = self.session.next_delivered() {
            self.send(delivered).await?;
        }
        let progress = self.session.progress();
        self.send(progress).await
    }

    /// One step of history for the watchers that are behind.
    async fn catch_up(&mut self, need: Need) -> Result<(), End> {
        let (commits, next) =
            if let Some(recent) = self.service.hub.recent_seen(need.from, STEP_BYTES) {
                recent
            } else {
                match self.stored(need).await.map_err(End::Status)? {
                    Ok((commits, next)) => {
                        if next <= need.from {
                            tokio::time::sleep(STORE_PAUSE).await;
                        }
                        (commits, next)
                    }
                    Err(Compacted { floor }) => {
                        let ended = self.session.compacted(floor);
                        return self.send(ended).await;
                    }
                }
            };
        for id in self.session.ids_behind() {
            let fed = self.session.feed(id, &commits, next);
            self.send(fed).await?;
        }
        Ok(())
    }

    /// Commits from the store, and the revision to go on from. Nothing beyond what is published, so
    /// that headers never promise more than was delivered.
    async fn stored(
        &self,
        need: Need,
    ) -> Result<Result<(Vec<Arc<Commit>>, i64), Compacted>, Status> {
        let query = HistoryQuery {
            from: need.from,
            to: self.service.hub.published(),
            max_events: STEP_EVENTS,
            max_bytes: STEP_BYTES,
            previous: need.prev_kv,
        };
        let page = self
            .service
            .read_step(move |view| history_since(view, &query))
            .await?;
        Ok(page.map(|page| (page.revisions.into_iter().map(commit).collect(), page.next)))
    }

    async fn send(&self, responses: Vec<WatchResponse>) -> Result<(), End> {
        for mut response in responses {
            self.service.complete(&mut response.header);
            let sent = self.responses.send(response).await;
            sent.map_err(|Gone| End::Client)?;
        }
        Ok(())
    }
}

/// Ticks about every `period`; spread, so that streams that began together do not stay together.
fn progress_interval(period: Duration) -> Interval {
    let period = period.mul_f64(rand::random_range(1.0..1.1));
    let mut progress = interval_at(tokio::time::Instant::now() + period, period);
    progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
    progress
}
