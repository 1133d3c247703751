//! The task behind a lock: carries out what `lock_core` decides, and tells it what happened.
//!
//! It lives until the lock is given back, or cannot be: dropping the sender of `leave` is the sign
//! to give it back.

use crate::Client;
use crate::clock::{Moment, sleep_until};
use crate::error::CallError;
use crate::lock_core::{Core, Effect, Event, Hindrance, Patience, Renewal, Standing, Terms, Told};
use crate::refusal::Refusal;
use crate::roles::{Attend, RenewState, StepNumbers, Verdict, VerdictKind, Verdicts, Yield};
use crate::route::backoff;
use crate::session::{LeaseLost, LeaseState};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, FuturesUnordered, StreamExt};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Longest pause between two tries to hear what the group says.
const FOLLOW_ROUNDS: u32 = 3;

/// How often it is looked whether the member that is followed still answers other calls.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the group gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    pub(crate) epoch: i64,
    pub(crate) stop: Duration,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Why the group never took the client in, or not again.
    pub(crate) refused: Option<CallError>,
    /// Who held the lock when the client last heard of it.
    pub(crate) holder: String,
    /// Whether the group knows that the client is gone.
    pub(crate) left: Result<(), CallError>,
}

/// What the task is given.
pub(crate) struct Task {
    pub(crate) client: Client,
    pub(crate) attend: Attend,
    pub(crate) patience: Patience,
    /// Answered once, when the lock is had.
    pub(crate) granted: oneshot::Sender<Granted>,
    pub(crate) state: watch::Sender<LeaseState>,
}

/// An event, and what it says beside the core's business.
enum News {
    Only(Event),
    /// The time to stop comes with the terms.
    Attends(Event, Duration),
    Refused(Event, CallError),
    Holder(Event, String),
    Left(Result<(), CallError>),
}

/// What a task keeps while it runs.
struct Run {
    client: Client,
    attend: Attend,
    attempts: StepNumbers,
    granted: Option<oneshot::Sender<Granted>>,
    state: watch::Sender<LeaseState>,
    stop: Duration,
    serve: Duration,
    calls: FuturesUnordered<BoxFuture<'static, News>>,
    verdicts: BoxStream<'static, News>,
    ended: Ended,
}

impl Task {
    /// Runs until everything is given back.
    pub(crate) async fn run(self, leave: oneshot::Receiver<()>) -> Ended {
        let mut core = Core::new(self.patience, Moment::now());
        let mut run = Run {
            client: self.client,
            attend: self.attend,
            attempts: StepNumbers::default(),
            granted: Some(self.granted),
            state: self.state,
            stop: Duration::ZERO,
            serve: Duration::ZERO,
            calls: FuturesUnordered::new(),
            verdicts: stream::pending().boxed(),
            ended: Ended {
                refused: None,
                holder: String::new(),
                left: Ok(()),
            },
        };
        let mut leave = Some(leave);
        let mut event = Event::Tick;
        loop {
            let effects = core.on(event, Moment::now());
            // What is held no more is said before anything else is begun.
            run.publish(core.standing());
            for effect in effects {
                if effect == Effect::Done {
                    return run.ended;
                }
                run.carry_out(effect);
            }
            event = run.next(core.next_wake(), &mut leave).await;
        }
    }
}

impl Run {
    fn publish(&mut self, standing: Standing) {
        let state = match standing {
            Standing::Waiting => return,
            Standing::Held { until, .. } => LeaseState::Held { until },
            Standing::Lost(lost) => LeaseState::Lost(lost),
            Standing::Left => LeaseState::Lost(LeaseLost::Closed),
        };
        self.state.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
        if let Standing::Held { epoch, .. } = standing
            && let Some(granted) = self.granted.take()
        {
            let stop = self.stop;
            // When nobody waits any more, the sign to leave comes next.
            let _ = granted.send(Granted { epoch, stop });
        }
    }

    fn attend_anew(&self) -> Attend {
        Attend {
            attempt: self.attempts.next(),
            ..self.attend.clone()
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let client = self.client.clone();
        match effect {
            Effect::Attend => self
                .calls
                .push(Box::pin(attend(client, self.attend_anew()))),
            Effect::Follow { lease } => {
                let (role, host) = (self.attend.role.clone(), self.attend.host.clone());
                self.verdicts = follow(client, role, host, lease).boxed();
            }
            Effect::Renew { lease } => {
                let within = self.serve / 3;
                self.calls.push(Box::pin(renew(client, lease, within)));
            }
            Effect::Leave { lease } => {
                self.verdicts = stream::pending().boxed();
                let leave = Yield {
                    role: self.attend.role.clone(),
                    host: self.attend.host.clone(),
                    lease,
                    position: String::new(),
                    leave: true,
                    attempt: self.attempts.next(),
                };
                self.calls.push(Box::pin(async move {
                    News::Left(leave_queue(&client, &leave).await)
                }));
            }
            Effect::Done => {}
        }
    }

    /// Waits for what happens next.
    async fn next(
        &mut self,
        wake: Option<Moment>,
        leave: &mut Option<oneshot::Receiver<()>>,
    ) -> Event {
        let wake = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let asked = async {
            match leave.as_mut() {
                // The sender is only ever dropped.
                Some(leave) => drop(leave.await),
                None => std::future::pending().await,
            }
        };
        let news = tokio::select! {
            biased;
            () = asked => {
                *leave = None;
                return Event::Leave;
            }
            () = wake => return Event::Tick,
            Some(news) = self.calls.next() => news,
            Some(news) = self.verdicts.next() => news,
        };
        match news {
            News::Only(event) => event,
            News::Attends(event, stop) => {
                self.stop = stop;
                self.ended.refused = None;
                if let Event::Attends { terms, .. } = event {
                    self.serve = terms.serve;
                }
                event
            }
            News::Refused(event, error) => {
                tracing::debug!(role = self.attend.role, %error, "a lock is not queued up for");
                self.ended.refused = Some(error);
                event
            }
            News::Holder(event, holder) => {
                self.ended.holder = holder;
                event
            }
            News::Left(left) => {
                self.ended.left = left;
                Event::Left
            }
        }
    }
}

async fn attend(client: Client, request: Attend) -> News {
    let sent = Moment::now();
    match client.attend(&request).await {
        Ok(attended) => {
            let terms = Terms {
                lease: attended.lease,
                serve: Duration::from_millis(attended.serve_ms),
            };
            let stop = Duration::from_millis(attended.stop_ms);
            News::Attends(Event::Attends { sent, terms }, stop)
        }
        Err(error) => {
            let hindrance = if error.refusal() == Some(Refusal::HostAttends) {
                Hindrance::Occupied
            } else if error.retryable() {
                Hindrance::Unreachable
            } else {
                Hindrance::Refused
            };
            News::Refused(Event::NotAttended(hindrance), error)
        }
    }
}

async fn renew(client: Client, lease: i64, within: Duration) -> News {
    let sent = Moment::now();
    News::Only(match client.renew_role_within(lease, within).await {
        Ok(state) => {
            let renewal = match state {
                RenewState::Renewed => Renewal::Renewed,
                RenewState::Closing => Renewal::Closing,
                RenewState::Gone => Renewal::Gone,
            };
            Event::Renewed {
                lease,
                sent,
                renewal,
            }
        }
        Err(error) => {
            tracing::debug!(lease, %error, "a lock's renewal failed");
            Event::NotRenewed { lease }
        }
    })
}

/// Leaves the queue; a lease that is over has left it already.
async fn leave_queue(client: &Client, leave: &Yield) -> Result<(), CallError> {
    match client.yield_role(leave).await {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.refusal(),
                Some(Refusal::LeaseNotFound | Refusal::RoleNotFound)
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The next verdict; the error is `None` when the member that is followed was silent to other
/// calls, renewals among them, so that its stream may be as well.
async fn hear(verdicts: &mut Verdicts) -> Result<Verdict, Option<CallError>> {
    loop {
        match tokio::time::timeout(LOOK_EVERY, verdicts.next()).await {
            Ok(told) => return told.map_err(Some),
            Err(_) if verdicts.left_behind() => return Err(None),
            Err(_) => {}
        }
    }
}

/// What the group says for one lease: stream after stream, since each begins with what is so then.
fn follow(
    client: Client,
    role: String,
    host: String,
    lease: i64,
) -> impl stream::Stream<Item = News> + Send {
    let start = (None, 0_u32);
    stream::unfold(start, move |(mut open, mut failed)| {
        let (client, role, host) = (client.clone(), role.clone(), host.clone());
        async move {
            loop {
                if failed > 0 {
                    let pause = backoff(failed.min(FOLLOW_ROUNDS) - 1, &mut rand::rng());
                    tokio::time::sleep(pause).await;
                }
                let told = match &mut open {
                    None => match client.verdicts(&role, &host, lease).await {
                        Ok(verdicts) => {
                            open = Some(verdicts);
                            continue;
                        }
                        Err(error) => Err(Some(error)),
                    },
                    Some(verdicts) => hear(verdicts).await,
                };
                match told {
                    Ok(verdict) => return Some((news_of(lease, verdict), (open, 0))),
                    Err(error) => {
                        tracing::debug!(lease, ?error, "what is so of a lock is asked anew");
                        open = None;
                        failed += 1;
                    }
                }
            }
        }
    })
}

fn news_of(lease: i64, verdict: Verdict) -> News {
    let told = match verdict.kind() {
        VerdictKind::Serve => Told::Yours {
            epoch: verdict.epoch,
        },
        VerdictKind::Fenced if verdict.not_attending => Told::NotAttending,
        VerdictKind::Fenced if verdict.hands_over => Told::HandOver,
        VerdictKind::Fenced
        | VerdictKind::Standby
        | VerdictKind::Redirect
        | VerdictKind::Rebuild => Told::NotYours,
    };
    News::Holder(Event::Told { lease, told }, verdict.holder)
}
