//! Locks and elections of applications, by the rules of roles: the lock NAME is the role
//! `locks/NAME`, which goes to its clients in the order in which they came.
//!
//! # What a holder may do until when
//!
//! ```text
//!   renewal sent                         deadline                  the group gives it to another
//!   ├──── the lock is held ──────────────┤── time to stop ──┤ clocks, lock-delay ─┤
//! ```
//! The deadline counts from the moment the last confirmed renewal was sent, by a clock that nobody
//! sets. At it the holder begins to stop, and has stopped `stop` later. Who cannot promise that
//! (any process can be paused at any place) has the resource check the epoch.
//!
//! # What a resource does
//!
//! The epoch is greater for each later holder. A resource that acts for a holder is given its epoch
//! and either
//! - remembers the highest that it has seen, and refuses a lower one: needs no call, and is right
//!   always; or
//! - asks the group, [`Client::is_current`] with [`LockGuard::role`] and the epoch, before it acts:
//!   right as of the call, so what it does must be over before the lock can change hands.
//!
//! An election is a lock whose clients say what they stand for: [`LockOptions::value`];
//! [`Client::observe`] follows who leads.

use crate::Client;
use crate::clock::Moment;
use crate::error::{CallError, LockError};
use crate::lock_core::Patience;
use crate::lock_task::{Ended, Granted, Task};
use crate::roles::Attend;
use crate::session::{LeaseLost, LeaseState, lost};
use rand::RngExt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// How long to wait for a lock that another holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Until it is had.
    #[default]
    Forever,
    /// So long at most.
    AtMost(Duration),
    /// Not at all.
    Once,
}

/// How a lock is asked for.
///
/// Term, time to stop and lock-delay are the lock's, not the client's: they are as said by the
/// first client of a lock that nobody uses, and stay until nobody uses it.
#[derive(Clone, Debug)]
pub struct LockOptions {
    term: Duration,
    stop: Duration,
    lock_delay: Duration,
    value: String,
    host: Option<String>,
    wait: Wait,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self {
            term: Duration::from_secs(10),
            stop: Duration::from_secs(1),
            lock_delay: Duration::ZERO,
            value: String::new(),
            host: None,
            wait: Wait::Forever,
        }
    }
}

impl LockOptions {
    /// A term of 10 s, 1 s to stop, no lock-delay, no value, a name of its own, and any wait.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a renewal counts, from the moment it is sent; whole milliseconds.
    #[must_use]
    pub fn term(mut self, term: Duration) -> Self {
        self.term = term;
        self
    }

    /// How long a holder needs to stop: the deadline is so much before the term's end. Half of
    /// the term at most.
    #[must_use]
    pub fn stop(mut self, stop: Duration) -> Self {
        self.stop = stop;
        self
    }

    /// How long the group waits, beyond the term, after a holder that was lost; not after one that
    /// has released it.
    #[must_use]
    pub fn lock_delay(mut self, lock_delay: Duration) -> Self {
        self.lock_delay = lock_delay;
        self
    }

    /// What the client stands for; [`Client::observe`] shows the leader's. 1,024 bytes at most.
    #[must_use]
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.value = value.into();
        self
    }

    /// Who it is: letters, digits, `.`, `-` and `_`. One client of a lock at a time has a name;
    /// another of the same name waits for its end. By default the machine's name, the process id
    /// and a random number, which no other client has.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// How long to wait for it.
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// The settings of the role that the lock is.
    fn to_json(&self) -> String {
        let (term, stop, delay) = (ms(self.term), ms(self.stop), ms(self.lock_delay));
        format!(r#"{{"kind":"lock","term_ms":{term},"stop_ms":{stop},"lock_delay_ms":{delay}}}"#)
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A name that no other client has.
fn own_name() -> String {
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    // A name begins with a letter or a digit and has 253 bytes at most.
    let machine: String = machine
        .chars()
        .filter(|c| plain(*c))
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(200)
        .collect();
    let random: u64 = rand::rng().random();
    format!(
        "{machine}{}{}-{random:016x}",
        if machine.is_empty() { "" } else { "-" },
        std::process::id()
    )
}

/// The task behind a lock, and the sign for it to give back what it has.
#[derive(Debug)]
struct Keeper {
    /// Dropping it is the sign.
    leave: oneshot::Sender<()>,
    task: JoinHandle<Ended>,
    role: String,
    host: String,
}

impl Keeper {
    async fn leave(self) -> Result<(), CallError> {
        drop(self.leave);
        ended(self.task.await)?.left
    }
}

/// What the task says at its end.
fn ended(joined: Result<Ended, tokio::task::JoinError>) -> Result<Ended, CallError> {
    joined.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => CallError::Unavailable {
            message: "the runtime of the lock's task was stopped before".into(),
            sent: true,
        },
    })
}

/// A place in the queue of a lock: a future that is ready when the lock is had.
///
/// It leaves the queue when it is dropped, in the background: within the time of a request if the
/// group can be reached, else, and when the runtime is stopped first, when its lease is over.
#[derive(Debug)]
#[must_use = "a lock is had only when this is awaited"]
pub struct Claim {
    name: String,
    /// The longest wait, if there was to be any; else zero.
    wait: Duration,
    granted: oneshot::Receiver<Granted>,
    state: watch::Receiver<LeaseState>,
    /// Taken with the result.
    keeper: Option<Keeper>,
}

impl Claim {
    /// Leaves the queue, and waits until the group knows, for the time of a request at most.
    pub async fn leave(mut self) -> Result<(), CallError> {
        match self.keeper.take() {
            Some(keeper) => keeper.leave().await,
            None => Ok(()),
        }
    }

    fn not_had(&self, ended: Result<Ended, CallError>) -> LockError {
        let name = self.name.clone();
        match ended {
            Ok(Ended {
                refused: Some(source),
                ..
            })
            | Err(source) => LockError::Call { name, source },
            Ok(Ended { holder, left, .. }) => LockError::NotHad {
                name,
                holder,
                waited: self.wait,
                source: left.err(),
            },
        }
    }
}

impl Future for Claim {
    type Output = Result<LockGuard, LockError>;

    /// # Panics
    /// When it is polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const ONCE: &str = "polled after the result";
        let granted = if self.granted.is_terminated() {
            None
        } else {
            ready!(Pin::new(&mut self.granted).poll(cx)).ok()
        };
        if let Some(Granted { epoch, stop }) = granted {
            let keeper = self.keeper.take().expect(ONCE);
            return Poll::Ready(Ok(LockGuard {
                epoch,
                stop,
                state: self.state.clone(),
                keeper,
            }));
        }
        let keeper = self.keeper.as_mut().expect(ONCE);
        let joined = ready!(Pin::new(&mut keeper.task).poll(cx));
        self.keeper = None;
        Poll::Ready(Err(self.not_had(ended(joined))))
    }
}

/// A lock that is held until its deadline, which renewals in the background put off.
///
/// Dropping it gives it back in the background, as with [`Claim`]: do so only when nothing that
/// it guards is under way.
#[derive(Debug)]
pub struct LockGuard {
    epoch: i64,
    stop: Duration,
    state: watch::Receiver<LeaseState>,
    keeper: Keeper,
}

impl LockGuard {
    /// The fencing token: greater for each later holder. Hand it to whatever is guarded.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The role that the lock is: what a resource asks about.
    pub fn role(&self) -> &str {
        &self.keeper.role
    }

    /// Who holds it: this client's name.
    pub fn host(&self) -> &str {
        &self.keeper.host
    }

    /// Whether it is held now.
    pub fn is_held(&self) -> bool {
        self.state.borrow().holds(Moment::now())
    }

    /// When what is done under the lock must begin to stop, unless a later renewal puts it off;
    /// none when the lock is lost.
    pub fn deadline(&self) -> Option<Moment> {
        match *self.state.borrow() {
            LeaseState::Held { until } => Some(until).filter(|until| Moment::now() < *until),
            LeaseState::Lost(_) => None,
        }
    }

    /// How long it may take to stop: by so much after its last deadline all is over.
    pub fn stop_time(&self) -> Duration {
        self.stop
    }

    /// Deadline and loss, as they change. Its `until` is [`LockGuard::deadline`].
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Waits until it is lost: at its deadline at the latest, and at once when the group says that
    /// it is gone or is to be handed over. After a loss the group gives it to another as soon as
    /// the guard is released, and by itself when the lease is over.
    pub async fn lost(&self) -> LeaseLost {
        lost(self.state()).await
    }

    /// Gives it back: call it when nothing that it guards is under way. After an error it is given
    /// back when the lease is over.
    pub async fn release(self) -> Result<(), CallError> {
        self.keeper.leave().await
    }
}

impl Client {
    /// Queues up for lock `name` (the role `locks/NAME`), as soon as it is called; the lock is had
    /// when the answer is awaited.
    ///
    /// A group that cannot be reached at all, or refuses, is an error; once the client has been
    /// taken in, it keeps its place, or queues up anew when it was cut off for too long.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn lock(&self, name: &str, options: LockOptions) -> Claim {
        let now = Moment::now();
        let (once, longest) = match options.wait {
            Wait::Forever => (false, None),
            Wait::AtMost(time) => (false, Some(time)),
            Wait::Once => (true, Some(self.pool.request_timeout)),
        };
        let until = longest.map(|time| now + time);
        let attend = Attend {
            role: format!("locks/{name}"),
            host: options.host.clone().unwrap_or_else(own_name),
            // Another claim of the same name, even of this process, is another client.
            instance: format!("{:032x}", rand::rng().random::<u128>()),
            // A claim does not outlive its process, so there is nothing that a boot could end.
            boot: "none".to_owned(),
            lock: options.to_json(),
            value: options.value,
            ..Attend::default()
        };
        let (role, host) = (attend.role.clone(), attend.host.clone());
        let (granted_tx, granted) = oneshot::channel();
        // Before it is had; who is given the receiver finds the state that came with the grant.
        let (state_tx, state) = watch::channel(LeaseState::Lost(LeaseLost::Closed));
        let task = Task {
            client: self.clone(),
            attend,
            patience: Patience { once, until },
            granted: granted_tx,
            state: state_tx,
        };
        let (leave, leaves) = oneshot::channel();
        let task = tokio::spawn(task.run(leaves));
        Claim {
            name: name.to_owned(),
            wait: match options.wait {
                Wait::AtMost(time) => time,
                Wait::Forever | Wait::Once => Duration::ZERO,
            },
            granted,
            state,
            keeper: Some(Keeper {
                leave,
                task,
                role,
                host,
            }),
        }
    }
}
