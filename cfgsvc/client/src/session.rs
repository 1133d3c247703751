//! A session: a lease that is kept alive, and the request ids that hang on it.
//!
//! ```text
//!            renewal confirmed                     deadline passed, or
//!   ┌──────────────┐                               the group says: gone
//!   └─► Held{until}┴──────────────────────────────► Lost{reason}    (final)
//! ```
//! The state is a watch channel: whoever acts under the lease looks at it, and stops at `until`
//! even if nothing has been reported yet.

use crate::Client;
use crate::channel::Missed;
use crate::clock::{Moment, sleep_until};
use crate::error::{CallError, LeaseError};
use crate::ids::{RequestId, RequestIds};
use crate::keepalive::Term;
use crate::lease::Grant;
use crate::route::{Attempts, Failure, Next, Safety, backoff};
use cfgsvc_proto::etcd::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// What the holder of a lease may count on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It is held until this moment at least.
    Held {
        /// What is done under the lease must have ended by then, unless a later state says
        /// otherwise: begin to stop early enough. Clocks' rates are allowed for.
        until: Moment,
    },
    /// It is not held any more, for good.
    Lost(LeaseLost),
}

/// How a lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseLost {
    /// The group says that it does not live.
    #[error("the group says that the lease has expired or was revoked")]
    Gone,
    /// No renewal was confirmed in time.
    #[error("no renewal of the lease was confirmed before its term was over")]
    NotRenewed,
    /// The group asks to hand over what is held under it.
    #[error("the group asks to hand over what is held under the lease")]
    HandOver,
    /// The holder gave it back.
    #[error("the lease was given back")]
    Closed,
}

impl LeaseState {
    /// Whether the lease is certainly held at `now`.
    pub fn holds(&self, now: Moment) -> bool {
        match self {
            Self::Held { until } => now < *until,
            Self::Lost(_) => false,
        }
    }
}

/// Request ids behind a mutex, with a bell for those that wait for room in the window.
#[derive(Debug)]
pub(crate) struct Ids {
    ids: Mutex<RequestIds>,
    room: Notify,
}

/// The number of one request; dropping it closes the request.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    ids: &'a Ids,
    seq: u64,
}

impl Ids {
    pub(crate) fn new(session: i64) -> Self {
        Self {
            ids: Mutex::new(RequestIds::new(session)),
            room: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RequestIds> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new request, as soon as the window has room; no later than `deadline`.
    pub(crate) async fn open(&self, deadline: Instant) -> Result<Ticket<'_>, CallError> {
        let wait = async {
            loop {
                let room = self.room.notified();
                if let Some(seq) = self.lock().open() {
                    return Ticket { ids: self, seq };
                }
                room.await;
            }
        };
        timeout_at(deadline, wait)
            .await
            .map_err(|_| CallError::Overloaded {
                message: format!(
                    "{} requests of this session wait for their answers",
                    crate::ids::WINDOW
                ),
            })
    }
}

impl Ticket<'_> {
    pub(crate) fn id(&self) -> RequestId {
        self.ids.lock().id(self.seq)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.ids.lock().close(self.seq);
        // All of them look again: the ack may have jumped over many numbers.
        self.ids.room.notify_waiters();
    }
}

/// A lease that a task renews until it is lost, closed or the value is dropped.
#[derive(Debug)]
pub struct Session {
    lease: i64,
    ttl: Duration,
    ids: Arc<Ids>,
    keeper: KeepAlive,
}

impl Session {
    /// Id of its lease.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Its term.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// The lease's state, and its changes.
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.keeper.state()
    }

    /// Whether the lease is certainly held now.
    pub fn is_live(&self) -> bool {
        self.keeper.state().borrow().holds(Moment::now())
    }

    /// Waits until the lease is lost.
    pub async fn lost(&self) -> LeaseLost {
        self.keeper.lost().await
    }

    pub(crate) fn ids(&self) -> Arc<Ids> {
        Arc::clone(&self.ids)
    }

    /// Gives the lease back: its keys, and locks, go at once.
    pub async fn close(self) -> Result<(), LeaseError> {
        self.keeper.close().await
    }
}

/// A task that renews a lease. Dropping it revokes the lease, unless it was made to leave it.
#[derive(Debug)]
pub struct KeepAlive {
    state: watch::Receiver<LeaseState>,
    /// Present until closed; dropping it is the sign to end.
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<(), LeaseError>>>,
}

impl KeepAlive {
    /// The lease's state, and its changes.
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Waits until the lease is lost.
    pub async fn lost(&self) -> LeaseLost {
        lost(self.state()).await
    }

    /// Ends the task, and the lease with it unless it was made to leave it.
    pub async fn close(mut self) -> Result<(), LeaseError> {
        drop(self.stop.take());
        match self.task.take() {
            Some(task) => match task.await {
                Ok(result) => result,
                Err(ended) => match ended.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Err(LeaseError::Call(CallError::Unavailable {
                        message: "the runtime of the renewals was stopped before".into(),
                        sent: false,
                    })),
                },
            },
            None => Ok(()),
        }
    }
}

/// Waits until the lease of `state` is lost: reported so, or its time over.
pub async fn lost(mut state: watch::Receiver<LeaseState>) -> LeaseLost {
    loop {
        let until = match &*state.borrow_and_update() {
            LeaseState::Lost(lost) => return *lost,
            LeaseState::Held { until } => *until,
        };
        if Moment::now() >= until {
            return LeaseLost::NotRenewed;
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() {
                return LeaseLost::Closed;
            },
            // A renewal may come at the same moment: look again.
            () = sleep_until(until) => {}
        }
    }
}

/// What becomes of the lease when its keeper ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// It is revoked.
    Revoke,
    /// It lives on until its term is over.
    Leave,
}

impl Client {
    /// Starts a session whose lease has a term of at least `ttl_s` seconds.
    pub async fn session(&self, ttl_s: i64) -> Result<Session, LeaseError> {
        let grant = self.grant(ttl_s).await?;
        let ttl = Duration::from_secs(u64::try_from(grant.ttl_s).unwrap_or(0));
        Ok(Session {
            lease: grant.lease,
            ttl,
            ids: Arc::new(Ids::new(grant.lease)),
            keeper: self.keep_alive(&grant, AtEnd::Revoke),
        })
    }

    /// Renews a granted lease from now on.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn keep_alive(&self, grant: &Grant, at_end: AtEnd) -> KeepAlive {
        let (state_tx, state) = watch::channel(LeaseState::Held {
            until: grant.term.deadline(),
        });
        let (stop, stopped) = oneshot::channel();
        let keeper = Keeper {
            client: self.clone(),
            lease: grant.lease,
            term: grant.term,
            state: state_tx,
        };
        let task = tokio::spawn(keeper.run(stopped, at_end));
        KeepAlive {
            state,
            stop: Some(stop),
            task: Some(task),
        }
    }

    /// Renews a lease once and returns its new term.
    pub async fn renew(&self, lease: i64) -> Result<Grant, LeaseError> {
        let deadline = self.pool.deadline();
        let mut attempts = Attempts::new(Safety::Repeatable, self.pool.count());
        loop {
            let wait = attempts.attempt_timeout(deadline.duration_since(Instant::now()));
            let sent = Moment::now();
            let mut stream = RenewStream::open(self, lease);
            let missed = match timeout(wait, stream.exchange(lease)).await {
                Ok(Ok(reply)) if reply.ttl <= 0 => return Err(LeaseError::NotFound { lease }),
                Ok(Ok(reply)) => {
                    let (ttl_s, term) = (reply.ttl, crate::lease::term_of(sent, reply.ttl));
                    return Ok(Grant { lease, ttl_s, term });
                }
                Ok(Err(NoReply::Error(error))) => return Err(LeaseError::of(error, lease, 0)),
                Ok(Err(NoReply::Missed(missed))) => missed,
                Err(_) => Missed::silent(wait),
            };
            if missed.failure != Failure::Overloaded {
                self.pool.move_on_from(stream.index);
            }
            let left = deadline.duration_since(Instant::now());
            let next = attempts.after(missed.failure, left, &mut rand::rng());
            match next {
                Next::Retry { after } => tokio::time::sleep(after).await,
                Next::GiveUp => {
                    return Err(missed.into_error(&self.pool, &stream.endpoint).into());
                }
            }
        }
    }
}

/// The task behind a [`KeepAlive`].
struct Keeper {
    client: Client,
    lease: i64,
    term: Term,
    state: watch::Sender<LeaseState>,
}

impl Keeper {
    async fn run(
        mut self,
        stopped: oneshot::Receiver<()>,
        at_end: AtEnd,
    ) -> Result<(), LeaseError> {
        let lost = tokio::select! {
            lost = self.renew_until_lost() => lost,
            // The sender is only ever dropped.
            _ = stopped => LeaseLost::Closed,
        };
        self.state.send_replace(LeaseState::Lost(lost));
        tracing::debug!(lease = self.lease, reason = %lost, "keep-alive ends");
        if lost == LeaseLost::Closed && at_end == AtEnd::Revoke {
            return self.client.revoke(self.lease).await;
        }
        Ok(())
    }

    async fn renew_until_lost(&mut self) -> LeaseLost {
        let mut stream = None;
        let mut failed = 0;
        loop {
            let pause = match failed {
                0 => Moment::now().until(self.term.renew_at()),
                round => backoff(round - 1, &mut rand::rng()),
            };
            let next = Moment::now() + pause;
            sleep_until(next.min(self.term.deadline())).await;
            let now = Moment::now();
            if !self.term.holds(now) {
                return LeaseLost::NotRenewed;
            }
            let wait = self
                .term
                .answer_timeout()
                .min(now.until(self.term.deadline()));
            match timeout(wait, self.renew_once(&mut stream)).await {
                Ok(Ok(ttl_s)) if ttl_s <= 0 => return LeaseLost::Gone,
                Ok(Ok(ttl_s)) => {
                    let ttl = Duration::from_secs(u64::try_from(ttl_s).unwrap_or(0));
                    self.term.renewed(now, ttl);
                    let until = self.term.deadline();
                    self.state.send_replace(LeaseState::Held { until });
                    failed = 0;
                }
                Ok(Err(LeaseError::NotFound { .. })) => return LeaseLost::Gone,
                Ok(Err(error)) => {
                    tracing::debug!(lease = self.lease, %error, "renewal failed");
                    stream = None;
                    failed += 1;
                }
                Err(_) => {
                    // A late answer must not be taken for that of a later renewal. Only the one
                    // that was silent is left: others may have moved on from it already.
                    if let Some(silent) = stream.take() {
                        self.client.pool.move_on_from(silent.index);
                    }
                    failed += 1;
                }
            }
        }
    }

    async fn renew_once(&self, stream: &mut Option<RenewStream>) -> Result<i64, LeaseError> {
        let open = match stream {
            Some(open) => open,
            None => stream.insert(RenewStream::open(&self.client, self.lease)),
        };
        Ok(open.renew(self.lease).await?.ttl)
    }
}

/// An open stream of renewals, one at a time.
struct RenewStream {
    endpoint: String,
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    replies: Option<Streaming<LeaseKeepAliveResponse>>,
    receiver: Option<ReceiverStream<LeaseKeepAliveRequest>>,
    client: Client,
    index: usize,
    channel: Channel,
}

impl RenewStream {
    /// Chooses the endpoint. The call itself is made with the first renewal: a server may answer
    /// with headers only when it has a request.
    fn open(client: &Client, lease: i64) -> Self {
        let (index, name, channel) = client.pool.current();
        let (requests, receiver) = mpsc::channel(1);
        tracing::trace!(lease, endpoint = name, "renewals go to");
        Self {
            endpoint: name.to_owned(),
            requests,
            replies: None,
            receiver: Some(ReceiverStream::new(receiver)),
            client: client.clone(),
            index,
            channel,
        }
    }

    async fn renew(&mut self, lease: i64) -> Result<LeaseKeepAliveResponse, LeaseError> {
        let result = self.exchange(lease).await;
        result.map_err(|missed| {
            let error = match missed {
                NoReply::Missed(missed) => {
                    self.client.pool.move_on_from(self.index);
                    missed.into_error(&self.client.pool, &self.endpoint)
                }
                NoReply::Error(error) => error,
            };
            LeaseError::of(error, lease, 0)
        })
    }

    async fn exchange(&mut self, lease: i64) -> Result<LeaseKeepAliveResponse, NoReply> {
        let ended = || NoReply::Missed(Missed::ended());
        let request = LeaseKeepAliveRequest { id: lease };
        self.requests.send(request).await.map_err(|_| ended())?;
        if let Some(receiver) = self.receiver.take() {
            let mut request = self.client.pool.request(receiver, None);
            crate::channel::require_leader(&mut request);
            let reply = self
                .client
                .lease(self.channel.clone())
                .lease_keep_alive(request)
                .await;
            let reply = reply.map_err(|status| NoReply::of(&status, &self.endpoint))?;
            self.replies = Some(reply.into_inner());
        }
        let Some(replies) = &mut self.replies else {
            return Err(ended());
        };
        match replies.message().await {
            Ok(Some(reply)) if reply.id == lease => Ok(reply),
            Ok(Some(_)) => Err(NoReply::Error(CallError::Malformed {
                what: "renewal of another lease",
            })),
            Ok(None) => Err(ended()),
            Err(status) => Err(NoReply::of(&status, &self.endpoint)),
        }
    }
}

/// Why a renewal brought no reply.
enum NoReply {
    /// Another try may.
    Missed(Missed),
    /// The group's refusal, or nonsense.
    Error(CallError),
}

impl NoReply {
    fn of(status: &tonic::Status, endpoint: &str) -> Self {
        match crate::channel::classify(status, endpoint) {
            Ok(missed) => Self::Missed(missed),
            Err(error) => Self::Error(error),
        }
    }
}
