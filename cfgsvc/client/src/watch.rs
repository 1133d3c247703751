//! A watch: a stream of changes that survives broken connections.
//!
//! One task for each watch opens a stream at the endpoint in use, feeds `cursor`, and hands over
//! what it decides through a bounded channel. When the user reads slowly the channel fills, the
//! task waits, and HTTP/2 flow control holds the member back: nothing piles up in this process but
//! one window for each stream (see `channel`).
//!
//! The member is always asked to tell its progress, also when the user does not wish to hear it: a
//! watch of keys that never change would otherwise come back to a revision that was compacted long
//! ago, and end although it has missed nothing.

use crate::Client;
use crate::channel::{Missed, classify, require_leader};
use crate::cursor::{Cursor, Step, WatchEvents};
use crate::error::{CallError, WatchError};
use crate::keys::Keys;
use crate::route::{Attempts, Failure, Next, Safety, backoff};
use cfgsvc_proto::etcd;
use cfgsvc_proto::etcd::watch_client::WatchClient;
use etcd::watch_request::RequestUnion;
use etcd::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use futures_util::Stream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Revisions that wait for the user. Each may be as large as a transaction (1.5 MiB), so this
/// bounds the wait to some 100 MiB in the worst case and to little in practice.
const BUFFER: usize = 64;

/// A stream that was followed for so long has worked: the next one need not wait. One that is
/// accepted and broken at once, by members without a leader, is remade ever less often.
const LASTED: Duration = Duration::from_secs(1);

/// What to watch.
#[derive(Clone, Debug)]
#[must_use = "nothing is done until it is given to a client"]
pub struct WatchOptions {
    keys: Keys,
    start_revision: i64,
    previous: bool,
    progress: bool,
    attempt_timeout: Option<Duration>,
}

impl WatchOptions {
    /// Watches `keys` from now on.
    pub fn new(keys: impl Into<Keys>) -> Self {
        Self {
            keys: keys.into(),
            start_revision: 0,
            previous: false,
            progress: false,
            attempt_timeout: None,
        }
    }

    /// Watches all keys that start with `prefix`, from now on.
    pub fn prefix(prefix: impl Into<bytes::Bytes>) -> Self {
        Self::new(Keys::prefix(prefix))
    }

    /// From this revision on, which may lie in the past; 0 is from now on.
    pub fn from_revision(mut self, revision: i64) -> Self {
        self.start_revision = revision;
        self
    }

    /// Asks for the version that each event replaced.
    pub fn previous(mut self) -> Self {
        self.previous = true;
        self
    }

    /// Delivers progress too, as [`WatchEvents`] without events.
    pub fn progress(mut self) -> Self {
        self.progress = true;
        self
    }

    /// A member that does not accept the watch for so long is left, unless all are slow. Default:
    /// as with any request.
    pub(crate) fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }
}

/// A stream of [`WatchEvents`] in strictly increasing order, without gap or duplicate. After an
/// error it is over. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    items: mpsc::Receiver<Result<WatchEvents, WatchError>>,
    ask: mpsc::Sender<Ask>,
}

/// What the user of a watch wants from its task.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// To hear how far the member is.
    Progress,
    /// Another stream, at another member if there is one.
    Remake,
}

impl Watch {
    /// The next revision with events, or progress; `None` after an error has been returned.
    pub async fn next(&mut self) -> Option<Result<WatchEvents, WatchError>> {
        self.items.recv().await
    }

    /// What has come already, as [`Watch::next`]; none when nothing has, or nothing more will.
    pub(crate) fn next_now(&mut self) -> Option<Result<WatchEvents, WatchError>> {
        self.items.try_recv().ok()
    }

    /// Asks the member to say up to which revision everything was sent. The answer comes as
    /// progress. No effect while the stream is being remade, or when a request is under way.
    pub fn request_progress(&self) {
        // A full channel holds a request already; a closed one is reported by `next`.
        let _ = self.ask.try_send(Ask::Progress);
    }

    /// The stream is silent though there must be something to say: goes on at another member.
    pub(crate) fn remake(&self) {
        // As above; the caller asks again when that does not help.
        let _ = self.ask.try_send(Ask::Remake);
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvents, WatchError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(cx)
    }
}

impl Client {
    /// Starts a watch; returns when a member has accepted it.
    pub async fn watch(&self, options: WatchOptions) -> Result<Watch, WatchError> {
        let (items_tx, items) = mpsc::channel(BUFFER);
        let (ask, asked) = mpsc::channel(2);
        let mut follower = Follower {
            client: self.clone(),
            cursor: Cursor::new(options.start_revision),
            options,
            items: items_tx,
            asked,
        };
        let open = follower.open_first().await?;
        tokio::spawn(follower.run(open));
        Ok(Watch { items, ask })
    }
}

/// A stream that a member has accepted.
struct Open {
    index: usize,
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

/// Why a stream is not followed any longer.
enum End {
    /// Try another one.
    Broken(String),
    /// The watch is over.
    Over(WatchError),
    /// Nobody listens.
    Dropped,
}

/// The task behind a [`Watch`].
struct Follower {
    client: Client,
    options: WatchOptions,
    cursor: Cursor,
    items: mpsc::Sender<Result<WatchEvents, WatchError>>,
    asked: mpsc::Receiver<Ask>,
}

impl Follower {
    /// The first stream must be had within the time of a request, so that a wrong address is an
    /// error instead of an endless wait. It is one attempt after the other, as with any read.
    async fn open_first(&mut self) -> Result<Open, WatchError> {
        let deadline = self.client.pool.deadline();
        let mut attempts = Attempts::new(Safety::Repeatable, self.client.pool.count());
        loop {
            let (index, name, _) = self.client.pool.current();
            let name = name.to_owned();
            let wait = attempts.attempt_timeout(deadline.duration_since(Instant::now()));
            let missed = match timeout(wait, self.open()).await {
                Ok(Ok(open)) => return Ok(open),
                Ok(Err(OpenError::Over(error))) => return Err(error),
                Ok(Err(OpenError::Missed(missed))) => missed,
                Err(_) => Missed::silent(wait),
            };
            if missed.failure != Failure::Overloaded {
                self.client.pool.move_on_from(index);
            }
            let left = deadline.duration_since(Instant::now());
            let next = attempts.after(missed.failure, left, &mut rand::rng());
            match next {
                Next::Retry { after } => tokio::time::sleep(after).await,
                Next::GiveUp => return Err(missed.into_error(&self.client.pool, &name).into()),
            }
        }
    }

    async fn open(&mut self) -> Result<Open, OpenError> {
        let (index, name, channel) = self.client.pool.current();
        let (key, range_end) = self.options.keys.to_range();
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: self.cursor.resume(),
            progress_notify: true,
            prev_kv: self.options.previous,
            fragment: true,
            ..WatchCreateRequest::default()
        };
        let (requests, receiver) = mpsc::channel(2);
        let first = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        requests
            .send(first)
            .await
            .expect("the receiver is held below");
        let mut request = self
            .client
            .pool
            .request(ReceiverStream::new(receiver), None);
        require_leader(&mut request);
        let mut watch =
            WatchClient::new(channel).max_decoding_message_size(self.client.pool.receive_bytes_max);
        let refused = |status| match classify(&status, name) {
            Ok(missed) => OpenError::Missed(missed),
            Err(error) => OpenError::Over(error.into()),
        };
        let mut responses = watch.watch(request).await.map_err(refused)?.into_inner();
        loop {
            let Some(response) = responses.message().await.map_err(refused)? else {
                return Err(OpenError::Missed(Missed::ended()));
            };
            // A refused watch is created and canceled in one response, or in two.
            let canceled = response.canceled || response.compact_revision != 0;
            for step in self.cursor.accept(response) {
                match end_of(step) {
                    Ok(Step::Created) if !canceled => {
                        return Ok(Open {
                            index,
                            requests,
                            responses,
                        });
                    }
                    Ok(_) => {}
                    Err(End::Over(error)) => return Err(OpenError::Over(error)),
                    Err(End::Broken(cause)) => {
                        return Err(OpenError::Missed(Missed::unavailable(cause)));
                    }
                    Err(End::Dropped) => return Err(OpenError::Missed(Missed::ended())),
                }
            }
        }
    }

    async fn run(mut self, first: Open) {
        let mut open = Some(first);
        let mut round = 0;
        loop {
            let (index, end) = if let Some(stream) = open.take() {
                let (index, began) = (stream.index, Instant::now());
                let end = self.follow(stream).await;
                if began.elapsed() >= LASTED {
                    round = 0;
                }
                (index, end)
            } else {
                let index = self.client.pool.current().0;
                match self.reopen(round).await {
                    Ok(stream) => {
                        // What was asked of the old stream does not concern this one.
                        while self.asked.try_recv().is_ok() {}
                        open = Some(stream);
                        continue;
                    }
                    Err(end) => (index, end),
                }
            };
            match end {
                End::Broken(cause) => {
                    tracing::debug!(%cause, resume = self.cursor.resume(), "watch is remade");
                    self.client.pool.move_on_from(index);
                    let pause = backoff(round, &mut rand::rng());
                    round = (round + 1).min(16);
                    if self.dropped_within(pause).await {
                        return;
                    }
                }
                End::Over(error) => {
                    // Nobody hears the error when the user has gone.
                    let _ = self.items.send(Err(error)).await;
                    return;
                }
                End::Dropped => return,
            }
        }
    }

    /// Opens a stream to go on with. Only what another member would say too ends the watch.
    async fn reopen(&mut self, round: u32) -> Result<Open, End> {
        let whole = self.client.pool.request_timeout;
        let members = self.client.pool.count();
        // A silent member is left soon, unless all are slow.
        let wait = match usize::try_from(round) {
            Ok(round) if round < members => {
                let attempts = Attempts::new(Safety::Repeatable, members);
                let asked = self.options.attempt_timeout;
                asked.unwrap_or_else(|| attempts.attempt_timeout(whole))
            }
            Ok(_) | Err(_) => whole,
        };
        let items = self.items.clone();
        let opened = tokio::select! {
            opened = timeout(wait, self.open()) => opened,
            () = items.closed() => return Err(End::Dropped),
        };
        match opened {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(OpenError::Missed(missed))) => Err(End::Broken(missed.cause.0)),
            Ok(Err(OpenError::Over(WatchError::Call(
                error @ (CallError::Failed { .. } | CallError::Unimplemented { .. }),
            )))) => Err(End::Broken(error.to_string())),
            Ok(Err(OpenError::Over(error))) => Err(End::Over(error)),
            Err(_) => Err(End::Broken("no answer".into())),
        }
    }

    async fn dropped_within(&self, pause: Duration) -> bool {
        timeout(pause, self.items.closed()).await.is_ok()
    }

    async fn follow(&mut self, mut stream: Open) -> End {
        loop {
            let response = tokio::select! {
                response = stream.responses.message() => response,
                Some(asked) = self.asked.recv() => {
                    if matches!(asked, Ask::Remake) {
                        return End::Broken("the stream is silent".into());
                    }
                    let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    let request = WatchRequest { request_union: Some(request) };
                    // A full queue holds such a request; a closed one ends the stream anyway.
                    let _ = stream.requests.try_send(request);
                    continue;
                }
                () = self.items.closed() => return End::Dropped,
            };
            let response = match response {
                Ok(Some(response)) => response,
                Ok(None) => return End::Broken("the stream ended".into()),
                Err(status) => return end_of_stream(&status),
            };
            for step in self.cursor.accept(response) {
                let item = match end_of(step) {
                    Ok(Step::Deliver(events)) => events,
                    Ok(Step::Progress(revision)) if self.options.progress => WatchEvents {
                        revision,
                        events: Vec::new(),
                    },
                    Ok(_) => continue,
                    Err(end) => return end,
                };
                if self.items.send(Ok(item)).await.is_err() {
                    return End::Dropped;
                }
            }
        }
    }
}

/// A stream that was not opened.
enum OpenError {
    Missed(Missed),
    Over(WatchError),
}

fn end_of_stream(status: &tonic::Status) -> End {
    match classify(status, "") {
        Ok(missed) => End::Broken(missed.cause.0),
        Err(CallError::Failed { message, .. }) => End::Broken(message),
        Err(error) => End::Over(error.into()),
    }
}

/// Steps that end a stream or the watch are errors.
fn end_of(step: Step) -> Result<Step, End> {
    match step {
        Step::Created | Step::Deliver(_) | Step::Progress(_) => Ok(step),
        Step::Compacted {
            resume_revision,
            compact_revision,
        } => Err(End::Over(WatchError::Compacted {
            resume_revision,
            compact_revision,
        })),
        Step::Retry(cause) => Err(End::Broken(cause)),
        Step::Cancelled(reason) => Err(End::Over(WatchError::Cancelled { reason })),
        Step::OutOfOrder(what) => Err(End::Over(WatchError::OutOfOrder { what })),
    }
}
