//! Long-lived streams: how a task sends, and when a stream is cut: the member stops, or the client
//! wants a leader and there is none.
//!
//! Invariant: the last word of a stream, why it ends, waits for no client.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::grpc::status;
use crate::service::Service;

/// Where the task of a stream puts what the client is to get.
pub struct Outlet<T> {
    items: mpsc::Sender<Result<T, Status>>,
    /// A place that is kept for the last word.
    last: mpsc::OwnedPermit<Result<T, Status>>,
}

/// The client went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// An outlet in which at most `waiting` items wait for a slow client, and the stream behind it.
pub fn outlet<T>(waiting: usize) -> (Outlet<T>, ReceiverStream<Result<T, Status>>) {
    let (items, received) = mpsc::channel(waiting + 1);
    let last = items
        .clone()
        .try_reserve_owned()
        .expect("a new channel is open and has a place");
    (Outlet { items, last }, ReceiverStream::new(received))
}

impl<T> Outlet<T> {
    /// Puts an item; waits while the client is slow.
    pub async fn send(&self, item: T) -> Result<(), Gone> {
        self.items.send(Ok(item)).await.map_err(|_| Gone)
    }

    /// Resolves when the client went away.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<T>
    where
        T: Send,
    {
        let items = self.items.clone();
        async move { items.closed().await }
    }

    /// Ends the stream with an error, after what was put before.
    pub fn end(self, status: Status) {
        self.last.send(Err(status));
    }
}

/// Returns when the member stops.
pub async fn stopped(mut stopping: watch::Receiver<bool>) {
    // A sender that is gone means that the member is gone.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Resolves, to the status to end with, when a stream must end.
pub fn cut(service: &Arc<Service>, wants_leader: bool) -> BoxFuture<'static, Status> {
    let service = Arc::clone(service);
    async move {
        let stopped = stopped(service.stopping.clone()).map(|()| status::stopped());
        if !wants_leader {
            return stopped.await;
        }
        tokio::select! {
            status = stopped => status,
            status = leaderless(service.status_changes(), service.limits.leaderless) => status,
        }
    }
    .boxed()
}

/// Resolves when no leader has been known for `limit`.
async fn leaderless(mut changes: watch::Receiver<Arc<cluster::Status>>, limit: Duration) -> Status {
    loop {
        let lost = changes.wait_for(|status| status.leader.is_none());
        if lost.await.is_err() {
            return status::no_leader();
        }
        let found = changes.wait_for(|status| status.leader.is_some());
        // Not in time, or never because the member is gone.
        let found = tokio::time::timeout(limit, found).await;
        if !matches!(found, Ok(Ok(_))) {
            return status::no_leader();
        }
    }
}

/// `items` until `cut` resolves; then its status, and the end.
pub fn until<S, T>(
    items: S,
    cut: BoxFuture<'static, Status>,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static
where
    S: Stream<Item = Result<T, Status>> + Send + 'static,
    T: Send + 'static,
{
    let end = Arc::new(std::sync::Mutex::new(None));
    let said = Arc::clone(&end);
    let cut = cut.map(move |status| {
        *said
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(status);
    });
    let last = stream::poll_fn(move |_| {
        let status = end
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        std::task::Poll::Ready(status.map(Err))
    });
    items.take_until(cut).chain(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn last_word_waits_for_no_client() {
        let (outlet, stream) = outlet(1);
        outlet.send(1).await.expect("a place");
        assert_eq!(outlet.send(2).now_or_never(), None, "the client is slow");
        outlet.end(status::stopped());
        let got: Vec<Result<i32, Status>> = stream.collect().await;
        let shown: Vec<_> = got.iter().map(|one| one.as_ref().ok().copied()).collect();
        assert_eq!(shown, [Some(1), None]);
    }

    #[tokio::test]
    async fn stream_that_wants_a_leader_ends_with_its_member() {
        let status = cluster::Status::first(1, 1);
        let (sender, changes) = watch::channel(Arc::new(status));
        drop(sender);
        let ended = leaderless(changes, Duration::from_mins(10)).await;
        assert_eq!(ended.message(), "etcdserver: no leader");
    }
}
