//! Adapter to tonic: connections, metadata, and the loop that follows `route`'s decisions.
//!
//! Connections are made on first use and are remade by tonic. An attempt's failure is classified
//! here, in one place: whether it left this machine decides whether a write may be sent again.

use crate::connect::Connector;
use crate::error::{CallError, Cause};
use crate::ids::RequestId;
use crate::options::{Options, OptionsError};
use crate::refusal::{OWN_PREFIX, Refusal};
use crate::route::{Attempts, Failure, Next, Router, Safety};
use std::error::Error;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// What a member says that knows no leader: it did nothing. (One that cannot tell whether a
/// request was executed has other words.)
const NO_LEADER: &str = "etcdserver: no leader";
/// Bytes that a stream may send before they are read: what a slow reader may hold up.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// The same for a whole connection. It is shared by all its streams, so a small one (hyper's is
/// 5 MiB) lets three watches that are not read hold up every other request, renewals of leases
/// too. This one takes 512 of them; only what is really sent and not read costs memory.
const CONNECTION_WINDOW_BYTES: u32 = 512 * STREAM_WINDOW_BYTES;
/// What tonic says, on this side, of an answer over the limit: the request was executed.
const ANSWER_TOO_LARGE: &str = "Error, decoded message length too large";

/// Connections to all endpoints and the choice among them.
#[derive(Debug)]
pub(crate) struct Pool {
    channels: Vec<(String, Channel)>,
    router: Mutex<Router>,
    headers: MetadataMap,
    pub(crate) request_timeout: Duration,
    attempt_timeout: Option<Duration>,
    pub(crate) receive_bytes_max: usize,
}

/// How a call is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) safety: Safety,
    pub(crate) id: Option<RequestId>,
    /// When it is given up.
    pub(crate) deadline: Instant,
}

impl Pool {
    pub(crate) fn new(options: &Options) -> Result<Self, OptionsError> {
        let mut channels = Vec::new();
        for (uri, name) in options.uris()?.into_iter().zip(&options.endpoints) {
            let endpoint = Endpoint::from_shared(uri)
                .map_err(|_| OptionsError::BadEndpoint {
                    endpoint: name.clone(),
                    problem: "it is not a URI",
                })?
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .http2_keep_alive_interval(options.keepalive_interval)
                .keep_alive_timeout(options.keepalive_timeout);
            let connector = Connector::new(options.connect_timeout);
            let channel = endpoint.connect_with_connector_lazy(connector);
            channels.push((name.clone(), channel));
        }
        let mut headers = MetadataMap::new();
        for (key, text) in [
            ("cfgsvc-author", &options.author),
            ("cfgsvc-reason", &options.reason),
        ] {
            if let Some(text) = text {
                let value = AsciiMetadataValue::try_from(text.as_bytes())
                    .expect("control characters were refused, all else is a header value");
                headers.insert(key, value);
            }
        }
        Ok(Self {
            router: Mutex::new(Router::new(channels.len(), &mut rand::rng())),
            channels,
            headers,
            request_timeout: options.request_timeout,
            attempt_timeout: options.attempt_timeout,
            receive_bytes_max: options.receive_bytes_max,
        })
    }

    /// The endpoints, for messages.
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self
            .channels
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        names.join(", ")
    }

    pub(crate) fn count(&self) -> usize {
        self.channels.len()
    }

    /// When a request that begins now is given up.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    /// The endpoint in use: its index, name and channel.
    pub(crate) fn current(&self) -> (usize, &str, Channel) {
        let index = self.router().current();
        let (name, channel) = &self.channels[index];
        (index, name, channel.clone())
    }

    /// The endpoint that is so many after the one in use: its index.
    pub(crate) fn after(&self, steps: usize) -> usize {
        self.router().after(steps)
    }

    /// The endpoint with this index answers: it is in use from now on.
    pub(crate) fn prefer(&self, index: usize) {
        self.router().prefer(index);
    }

    pub(crate) fn move_on_from(&self, index: usize) {
        self.router().move_on_from(index);
    }

    fn router(&self) -> std::sync::MutexGuard<'_, Router> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `message` with the client's metadata.
    pub(crate) fn request<M>(&self, message: M, id: Option<RequestId>) -> Request<M> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        if let Some(id) = id {
            let metadata = request.metadata_mut();
            metadata.insert("cfgsvc-session", AsciiMetadataValue::from(id.session));
            metadata.insert("cfgsvc-seq", AsciiMetadataValue::from(id.seq));
            metadata.insert("cfgsvc-ack", AsciiMetadataValue::from(id.ack));
        }
        request
    }

    /// Makes one unary call, with the retries that are safe, within the request's time.
    pub(crate) async fn call<M, R, F, A>(
        &self,
        how: How,
        message: &M,
        attempt: A,
    ) -> Result<R, CallError>
    where
        M: Clone,
        A: Fn(Channel, Request<M>) -> F,
        F: Future<Output = Result<R, Status>>,
    {
        let How { deadline, .. } = how;
        let mut attempts = Attempts::new(how.safety, self.count());
        let mut sent = false;
        loop {
            let (index, name, channel) = self.current();
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = match (how.safety, self.attempt_timeout) {
                (Safety::Repeatable, Some(timeout)) => left.min(timeout),
                (Safety::Repeatable | Safety::Once, _) => attempts.attempt_timeout(left),
            };
            let answer = attempt(channel, self.request(message.clone(), how.id));
            let missed = match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(status)) => {
                    classify(&status, name).map_err(|error| error.after_lost_attempt(sent))?
                }
                Err(_) => Missed::silent(timeout),
            };
            if missed.failure != Failure::Overloaded {
                self.move_on_from(index);
            }
            sent |= missed.failure.maybe_executed();
            let left = deadline.saturating_duration_since(Instant::now());
            let next = attempts.after(missed.failure, left, &mut rand::rng());
            match next {
                Next::Retry { after } => {
                    tracing::debug!(endpoint = name, cause = %missed.cause, "request is repeated");
                    tokio::time::sleep(after).await;
                }
                Next::GiveUp => return Err(self.give_up(missed, name, sent)),
            }
        }
    }

    /// Asks one endpoint, once, whichever is in use. It need not hurry: who asks has asked others
    /// too when it is silent.
    pub(crate) async fn ask<M, R, F, A>(
        &self,
        index: usize,
        message: M,
        attempt: A,
    ) -> Result<R, CallError>
    where
        A: FnOnce(Channel, Request<M>) -> F,
        F: Future<Output = Result<R, Status>>,
    {
        let (name, channel) = &self.channels[index];
        let answer = attempt(channel.clone(), self.request(message, None)).await;
        answer.map_err(|status| match classify(&status, name) {
            Ok(missed) if missed.failure == Failure::NotSent => CallError::Unreachable {
                endpoints: name.clone(),
                source: missed.cause,
            },
            Ok(missed) => missed.into_error(self, name),
            Err(error) => error,
        })
    }

    /// The name of an endpoint.
    pub(crate) fn name(&self, index: usize) -> &str {
        &self.channels[index].0
    }

    fn give_up(&self, missed: Missed, name: &str, sent: bool) -> CallError {
        let source = missed.cause;
        let timed_out = |source| CallError::TimedOut {
            endpoints: self.names(),
            waited_ms: u64::try_from(self.request_timeout.as_millis()).unwrap_or(u64::MAX),
            sent,
            source,
        };
        match missed.failure {
            Failure::NotSent | Failure::Overloaded if sent => timed_out(Some(source)),
            Failure::NoLeader | Failure::Unavailable => CallError::Unavailable {
                message: source.0,
                sent,
            },
            Failure::NotSent => CallError::Unreachable {
                endpoints: self.names(),
                source,
            },
            Failure::Lost if missed.silent => timed_out(None),
            Failure::Lost => CallError::Broken {
                endpoint: name.to_owned(),
                source,
            },
            Failure::Overloaded => CallError::Overloaded { message: source.0 },
        }
    }
}

/// Asks the member to end the stream when it loses its group, instead of falling silent.
pub(crate) fn require_leader<M>(request: &mut Request<M>) {
    let yes = AsciiMetadataValue::from_static("true");
    request.metadata_mut().insert("hasleader", yes);
}

/// An attempt without an answer.
#[derive(Debug)]
pub(crate) struct Missed {
    pub(crate) failure: Failure,
    pub(crate) cause: Cause,
    silent: bool,
}

impl Missed {
    pub(crate) fn silent(timeout: Duration) -> Self {
        Self {
            failure: Failure::Lost,
            cause: Cause(format!("no answer within {} ms", timeout.as_millis())),
            silent: true,
        }
    }

    /// The member says that it cannot serve now.
    pub(crate) fn unavailable(cause: String) -> Self {
        Self {
            failure: Failure::Unavailable,
            cause: Cause(cause),
            silent: false,
        }
    }

    /// The member, or the connection to it, tells.
    fn told(failure: Failure, cause: Cause) -> Self {
        Self {
            failure,
            cause,
            silent: false,
        }
    }

    /// The other side ended the stream.
    pub(crate) fn ended() -> Self {
        Self {
            failure: Failure::Lost,
            cause: Cause("the stream ended".into()),
            silent: false,
        }
    }

    /// As an error of a stream that could not be opened.
    pub(crate) fn into_error(self, pool: &Pool, name: &str) -> CallError {
        let sent = self.failure.maybe_executed();
        pool.give_up(self, name, sent)
    }
}

/// What became of a request to which the member itself has said nothing.
fn unanswered(status: &Status) -> Option<(Failure, Cause)> {
    let source = status.source()?;
    let failure = if not_sent(source) {
        Failure::NotSent
    } else {
        Failure::Lost
    };
    Some((failure, innermost(source)))
}

/// What `status` says. What etcd's clients branch on stays as it is; of our own refusals the detail
/// says more than the text.
fn worded(status: &Status) -> String {
    let message = status.message();
    let detail = status.metadata().get("cfgsvc-detail");
    let detail = detail.and_then(|detail| detail.to_str().ok());
    match (message.strip_prefix(OWN_PREFIX), detail) {
        (Some(own), Some(detail)) if !detail.is_empty() => format!("{own}: {detail}"),
        (Some(own), _) => own.to_owned(),
        (None, _) => message.to_owned(),
    }
}

/// Why `status` is no answer, or the error that it is.
pub(crate) fn classify(status: &Status, endpoint: &str) -> Result<Missed, CallError> {
    let missed = |failure, cause| Ok(Missed::told(failure, cause));
    if let Some((failure, cause)) = unanswered(status) {
        return missed(failure, cause);
    }
    if status.code() == Code::OutOfRange && status.message().starts_with(ANSWER_TOO_LARGE) {
        return Err(CallError::Failed {
            code: status.code(),
            message: format!(
                "the answer is over `receive_bytes_max`: {}",
                status.message()
            ),
        });
    }
    let refusal = Refusal::from_status(status);
    let cause = Cause(status.message().to_owned());
    let message = worded(status);
    match status.code() {
        Code::Unavailable if message == NO_LEADER => missed(Failure::NoLeader, cause),
        Code::Unavailable | Code::FailedPrecondition
            if refusal == Some(Refusal::LearnerCannotServe) =>
        {
            missed(Failure::NoLeader, cause)
        }
        Code::Unavailable if refusal.is_none() || refusal == Some(Refusal::RestoreInProgress) => {
            missed(Failure::Unavailable, cause)
        }
        Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
            missed(Failure::Unavailable, cause)
        }
        // etcd's mistake: a follower that was asked about leases while the leader changed.
        Code::Unknown if message.ends_with("not a primary lessor") => {
            missed(Failure::Unavailable, cause)
        }
        Code::ResourceExhausted
            if matches!(
                refusal,
                Some(Refusal::TooManyRequests | Refusal::SessionWindowFull)
            ) =>
        {
            missed(Failure::Overloaded, cause)
        }
        Code::Unimplemented => Err(CallError::Unimplemented {
            endpoint: endpoint.to_owned(),
            message,
        }),
        code @ (Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss) => {
            Err(CallError::Failed { code, message })
        }
        code @ (Code::Unavailable
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unauthenticated) => Err(CallError::Refused {
            refusal,
            code,
            message,
            after_lost: false,
        }),
    }
}

/// Whether the request never left: the connection could not be made.
fn not_sent(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

fn innermost(error: &(dyn Error + 'static)) -> Cause {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    Cause(last.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: Status) -> Option<Failure> {
        classify(&status, "a:1").ok().map(|missed| missed.failure)
    }

    #[test]
    fn only_a_failed_connection_counts_as_not_sent() {
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let connect = tonic::ConnectError(Box::new(refused()));
        let status = Status::from_error(Box::new(connect));
        assert_eq!(failure(status), Some(Failure::NotSent));
        let status = Status::from_error(Box::new(refused()));
        assert_eq!(failure(status), Some(Failure::Lost));
        let status = Status::unavailable("etcdserver: leader changed");
        assert_eq!(failure(status), Some(Failure::Unavailable));
        let status = Status::unavailable("etcdserver: no leader");
        assert_eq!(failure(status), Some(Failure::NoLeader));
        let status = Status::resource_exhausted("etcdserver: too many requests");
        assert_eq!(failure(status), Some(Failure::Overloaded));
    }

    #[test]
    fn a_refusal_is_an_answer_and_an_internal_error_leaves_the_outcome_open() {
        let refused = Status::not_found("etcdserver: requested lease not found");
        let error = classify(&refused, "a:1").expect_err("a refusal");
        assert_eq!(error.refusal(), Some(Refusal::LeaseNotFound));
        assert!(!error.outcome_unknown() && !error.retryable());
        let error = classify(&Status::internal("oops"), "a:1").expect_err("a failure");
        assert!(error.outcome_unknown() && !error.retryable());
        let large = format!("{ANSWER_TOO_LARGE}: found 9 bytes, the limit is: 8 bytes");
        let error = classify(&Status::out_of_range(large), "a:1").expect_err("a failure");
        assert!(
            error.outcome_unknown(),
            "the answer came, so it was executed"
        );
    }

    #[test]
    fn after_an_attempt_without_an_answer_only_final_refusals_say_that_nothing_was_done() {
        let after = |status: Status| {
            let error = classify(&status, "a:1").expect_err("a refusal");
            assert!(!error.outcome_unknown());
            error.after_lost_attempt(true)
        };
        // The session or the space may have gone after the first attempt was executed.
        assert!(after(Status::not_found("etcdserver: session not found")).outcome_unknown());
        let full = Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
        assert!(after(full).outcome_unknown());
        assert!(after(Status::permission_denied("not yours")).outcome_unknown());
        assert!(after(Status::unimplemented("what?")).outcome_unknown());
        // The group's stored answer, or one that the first attempt must have had too.
        assert!(
            !after(Status::not_found("etcdserver: requested lease not found")).outcome_unknown()
        );
        let twice = Status::invalid_argument("etcdserver: duplicate key given in txn request");
        assert!(!after(twice).outcome_unknown());
    }

    #[test]
    fn a_stream_that_is_refused_for_overload_was_not_executed() {
        let mut options = Options::new(["a:1"]);
        options.request_timeout = Duration::from_millis(1);
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        let _inside = runtime.enter();
        let pool = Pool::new(&options).expect("good options");
        let status = Status::resource_exhausted("etcdserver: too many requests");
        let missed = classify(&status, "a:1").expect("no answer");
        let error = missed.into_error(&pool, "a:1");
        assert!(matches!(error, CallError::Overloaded { .. }), "{error}");
        assert!(!error.outcome_unknown());
    }
}
