//! How connections are made: tonic's way, with a short memory of failures.
//!
//! Why: requests for one endpoint wait in one queue until it is connected, and a failed connection
//! fails only the first of them; the next one begins another connection. At an endpoint that never
//! answers, a machine without power, each of them waits for the whole connection time, one after
//! the other, until the last ones have no time left for another endpoint, and nobody can tell any
//! more that they were never sent. So a failure that took long is told to all that waited with it.

use hyper_util::client::legacy::connect::HttpConnector;
use std::future::{Future, ready};
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tonic::codegen::{Service, StdError};
use tonic::transport::Uri;

/// A failure that took less is not remembered: where nobody listens, each one is told at once.
const SLOW: Duration = Duration::from_millis(50);
/// How long a failure is remembered: long enough to empty the queue, and short beside the wait
/// before the next round of attempts.
const REMEMBERED: Duration = Duration::from_millis(100);

/// Makes the connections to one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    http: HttpConnector,
    /// When the last slow failure was seen.
    failed: Arc<Mutex<Option<Instant>>>,
}

impl Connector {
    /// Gives up a connection after `connect_timeout`.
    pub(crate) fn new(connect_timeout: Duration) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(connect_timeout));
        Self {
            http,
            failed: Arc::default(),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, StdError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_some_and(|failed| failed.elapsed() < REMEMBERED) {
            let error = Error::new(ErrorKind::TimedOut, "no connection could be made just now");
            return Box::pin(ready(Err(error.into())));
        }
        let began = Instant::now();
        let connecting = self.http.call(uri);
        let memory = Arc::clone(&self.failed);
        Box::pin(async move {
            let connected = connecting.await;
            if connected.is_err() && began.elapsed() >= SLOW {
                *memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            connected.map_err(Into::into)
        })
    }
}
