//! When a long-lived stream is cut: the member stops, or the client wants a leader and there is
//! none.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::Status;

use crate::grpc::status;
use crate::service::Service;

/// Resolves, to the status to end with, when a stream must end.
pub fn cut(service: &Arc<Service>, wants_leader: bool) -> BoxFuture<'static, Status> {
    let service = Arc::clone(service);
    async move {
        let mut stopping = service.stopping.clone();
        let stopped = async {
            // A sender that is gone means that the member is gone.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            status::stopped()
        };
        if !wants_leader {
            return stopped.await;
        }
        tokio::select! {
            status = stopped => status,
            status = leaderless(service.status_changes(), &service) => status,
        }
    }
    .boxed()
}

/// Resolves when no leader has been known for the time that a stream endures it.
async fn leaderless(
    mut changes: watch::Receiver<Arc<cluster::Status>>,
    service: &Service,
) -> Status {
    loop {
        let lost = changes
            .wait_for(|status| status.leader.is_none())
            .await
            .is_err();
        let found = changes.wait_for(|status| status.leader.is_some());
        if lost
            || tokio::time::timeout(service.limits.leaderless, found)
                .await
                .is_err()
        {
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
