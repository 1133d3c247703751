//! The runtime that members run on: `openraft_rt_sim`'s, with a life around every task.
//!
//! ```text
//!  spawn inside a life ─► the task belongs to it ─► polled only while the life runs
//!     life paused: its tasks are parked       life ended: its tasks are dropped where they await
//! ```
//!
//! Why a wrapper: a process that dies, dies at whatever its tasks are waiting for, and a stopped
//! process makes no progress while the world goes on. Both are properties of a set of tasks that
//! openraft spawns by itself, so they belong into the runtime. So does the rate of a clock.
//!
//! Invariants
//! - no task of a life that has ended is polled again.
//! - a clock never goes back in a life; clocks of different machines run at different rates, and
//!   each boot of each machine begins at a time of its own.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_sim::{Elapsed, SimInstant, SimRuntime, SimSleep, SimTimeout};
use tokio::sync::oneshot;

use crate::rng::Rng;

/// A clock that runs right: thousandths of the world's rate.
pub const RIGHT_RATE: u64 = 1000;
/// The clock of what is of no life.
const WORLD: Clock = Clock {
    rate: RIGHT_RATE,
    since: Duration::ZERO,
    shown: Duration::from_hours(24),
};
/// How long a machine takes until a process of ours starts, in milliseconds; so that code may
/// subtract a timeout from now.
const BOOT_MS: (u64, u64) = (5_000, 60_000);
/// How long a machine has been up at most when the run begins, in milliseconds.
const UP_MS_MAX: u64 = 100 * 24 * 3_600 * 1_000;

/// The clock of one boot of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Thousandths of a second of it in a second of the world.
    pub rate: u64,
    /// The world's time when it showed `shown`.
    since: Duration,
    shown: Duration,
}

impl Clock {
    /// Of a machine that has been up for a while, long or not.
    pub fn up(rate: u64, rng: &mut Rng) -> Self {
        let (least, most) = BOOT_MS;
        let up_ms = *rng.pick(&[most, 100 * most, UP_MS_MAX]).unwrap_or(&most);
        Self::showing(rate, rng.millis(least, up_ms))
    }

    /// Of a machine that has just started.
    pub fn booted(rate: u64, rng: &mut Rng) -> Self {
        Self::showing(rate, rng.millis(BOOT_MS.0, BOOT_MS.1))
    }

    fn showing(rate: u64, shown: Duration) -> Self {
        let since = world_time();
        Self { rate, since, shown }
    }

    /// What it shows now.
    pub fn now(&self) -> Duration {
        let passed = world_time().saturating_sub(self.since).as_nanos();
        self.shown + nanos(passed * u128::from(self.rate) / u128::from(RIGHT_RATE))
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Life>>> = const { RefCell::new(None) };
}

/// Takes a lock. No code of the simulator panics while it holds one, and a panic ends the run.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One life of a process: from its start to its end.
pub struct Life {
    /// Which member lives it; for the trace.
    pub member: u64,
    /// The clock of its machine.
    pub clock: Clock,
    state: Mutex<LifeState>,
}

#[derive(Default)]
struct LifeState {
    ended: bool,
    /// How many stop it: it goes on when none does.
    paused: u32,
    /// Polls left until the life ends by itself.
    polls_left: Option<u64>,
    next_task: u64,
    tasks: BTreeMap<u64, Waker>,
    panic: Option<String>,
}

enum Turn {
    Run,
    Park,
    End,
}

impl Life {
    /// A life that begins.
    pub fn new(member: u64, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            member,
            clock,
            state: Mutex::default(),
        })
    }

    /// Runs `future` as a task of this life.
    pub fn spawn<F>(self: &Arc<Self>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // The task is detached; it ends with the life at the latest.
        drop(spawn_in(Some(self.clone()), future));
    }

    /// Ends it: every task is dropped where it waits.
    pub fn end(&self) {
        let wakers = {
            let mut state = lock(&self.state);
            state.ended = true;
            std::mem::take(&mut state.tasks)
        };
        for waker in wakers.into_values() {
            waker.wake();
        }
    }

    /// Ends it when its tasks have been polled this often: at an await of whatever runs then.
    pub fn end_after_polls(&self, polls: u64) {
        lock(&self.state).polls_left = Some(polls);
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        lock(&self.state).ended
    }

    /// Stops all its tasks, until [`Self::resume`] was called as often.
    pub fn pause(&self) {
        lock(&self.state).paused += 1;
    }

    /// Lets its tasks go on, unless somebody else has stopped them too.
    pub fn resume(&self) {
        let left = lock(&self.state).paused.saturating_sub(1);
        self.set_paused(left);
    }

    /// Lets its tasks go on, whoever has stopped them.
    pub fn resume_for_all(&self) {
        self.set_paused(0);
    }

    fn set_paused(&self, paused: u32) {
        let wakers: Vec<Waker> = {
            let mut state = lock(&self.state);
            state.paused = paused;
            state.tasks.values().cloned().collect()
        };
        if paused == 0 {
            for waker in wakers {
                waker.wake();
            }
        }
    }

    /// Whether it is stopped.
    pub fn paused(&self) -> bool {
        lock(&self.state).paused > 0
    }

    /// What a task of it panicked with.
    pub fn panicked(&self) -> Option<String> {
        lock(&self.state).panic.clone()
    }

    fn turn(&self, task: u64, waker: &Waker) -> Turn {
        let mut state = lock(&self.state);
        if state.ended {
            return Turn::End;
        }
        state.tasks.entry(task).or_insert_with(|| waker.clone());
        if state.paused > 0 {
            return Turn::Park;
        }
        match &mut state.polls_left {
            Some(0) => {
                drop(state);
                self.end();
                Turn::End
            }
            Some(left) => {
                *left -= 1;
                Turn::Run
            }
            None => Turn::Run,
        }
    }

    fn task_id(&self) -> u64 {
        let mut state = lock(&self.state);
        state.next_task += 1;
        state.next_task
    }

    fn forget(&self, task: u64) {
        lock(&self.state).tasks.remove(&task);
    }

    fn took_panic(&self, text: String) {
        lock(&self.state).panic.get_or_insert(text);
    }
}

/// The life whose task is being polled.
pub fn current_life() -> Option<Arc<Life>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Sets the current life and puts the one before back when dropped.
struct Entered(Option<Arc<Life>>);

impl Entered {
    fn new(life: Option<Arc<Life>>) -> Self {
        Self(CURRENT.replace(life))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Time of the world since its beginning.
pub fn world_time() -> Duration {
    SimInstant::try_now().map_or(Duration::ZERO, SimInstant::elapsed_since_start)
}

fn clock() -> Clock {
    current_life().map_or(WORLD, |life| life.clock)
}

/// Time of the current life's clock.
pub fn local_time() -> Duration {
    clock().now()
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The world's time that passes while the current life's clock advances by `local`.
fn world_span(local: Duration) -> Duration {
    let rate = clock().rate;
    nanos((local.as_nanos() * u128::from(RIGHT_RATE)).div_ceil(u128::from(rate)))
}

/// Sleeps by the current life's clock.
pub async fn sleep(local: Duration) {
    SimRuntime::sleep(world_span(local)).await;
}

/// Waits for `future`, by the current life's clock.
pub async fn timeout<F: Future + Send>(local: Duration, future: F) -> Result<F::Output, Elapsed> {
    SimRuntime::timeout(world_span(local), future).await
}

/// A moment of a member's clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalInstant(Duration);

impl fmt::Debug for LocalInstant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Add<Duration> for LocalInstant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl AddAssign<Duration> for LocalInstant {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl Sub<Duration> for LocalInstant {
    type Output = Self;

    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}

impl SubAssign<Duration> for LocalInstant {
    fn sub_assign(&mut self, by: Duration) {
        *self = *self - by;
    }
}

impl Sub<Self> for LocalInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl openraft::Instant for LocalInstant {
    fn now() -> Self {
        Self(local_time())
    }
}

/// Why a task has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinError {
    /// It panicked, with this text.
    Panic(String),
    /// Its life ended.
    Ended,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic(text) => write!(f, "the task panicked: {text}"),
            Self::Ended => write!(f, "the task's life ended"),
        }
    }
}

/// The result of a task, when it has one. Dropping it leaves the task running.
pub struct JoinHandle<T>(oneshot::Receiver<Result<T, JoinError>>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|result| result.unwrap_or(Err(JoinError::Ended)))
    }
}

struct Task<F: Future> {
    life: Option<(Arc<Life>, u64)>,
    future: Option<Pin<Box<F>>>,
    sender: Option<oneshot::Sender<Result<F::Output, JoinError>>>,
}

// The future is boxed, so that the task itself may move.
impl<F: Future> Unpin for Task<F> {}

impl<F: Future> Task<F> {
    fn give_up(&mut self) -> Poll<()> {
        let _entered = Entered::new(self.life.as_ref().map(|(life, _)| life.clone()));
        self.future = None;
        self.sender = None;
        Poll::Ready(())
    }

    fn done(&mut self, result: Result<F::Output, JoinError>) -> Poll<()> {
        if let Some((life, task)) = &self.life {
            life.forget(*task);
            if let Err(JoinError::Panic(text)) = &result {
                life.took_panic(text.clone());
            }
        }
        if let Some(sender) = self.sender.take() {
            // Nobody listens to a detached task.
            drop(sender.send(result));
        }
        self.give_up()
    }
}

impl<F: Future> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Some((life, task)) = &this.life {
            match life.turn(*task, context.waker()) {
                Turn::Run => {}
                Turn::Park => return Poll::Pending,
                Turn::End => return this.give_up(),
            }
        }
        let Some(future) = &mut this.future else {
            return Poll::Ready(());
        };
        let polled = {
            let _entered = Entered::new(this.life.as_ref().map(|(life, _)| life.clone()));
            std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)))
        };
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => this.done(Ok(output)),
            Err(payload) => this.done(Err(JoinError::Panic(panic_text(payload.as_ref())))),
        }
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned())
}

fn spawn_in<F>(life: Option<Arc<Life>>, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let life = life.map(|life| {
        let task = life.task_id();
        (life, task)
    });
    drop(SimRuntime::spawn(Task {
        life,
        future: Some(Box::pin(future)),
        sender: Some(sender),
    }));
    JoinHandle(receiver)
}

/// Runs `future` as a task of the world: of no life.
pub fn spawn_world<F>(future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    drop(spawn_in(None, future));
}

/// The runtime as openraft sees it.
#[derive(Debug)]
pub struct WorldRuntime(SimRuntime);

impl WorldRuntime {
    /// A runtime whose random numbers derive from `seed`.
    pub fn with_seed(seed: u64) -> Self {
        Self(SimRuntime::with_seed(seed))
    }
}

impl AsyncRuntime for WorldRuntime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = SimSleep;
    type Instant = LocalInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = SimTimeout<T>;
    type ThreadLocalRng = <SimRuntime as AsyncRuntime>::ThreadLocalRng;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn_in(current_life(), future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        SimRuntime::sleep(world_span(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Self::sleep(deadline.0.saturating_sub(local_time()))
    }

    fn timeout<R, F>(duration: Duration, future: F) -> Self::Timeout<R, F>
    where
        F: Future<Output = R> + OptionalSend,
    {
        SimRuntime::timeout(world_span(duration), future)
    }

    fn timeout_at<R, F>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F>
    where
        F: Future<Output = R> + OptionalSend,
    {
        Self::timeout(deadline.0.saturating_sub(local_time()), future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        matches!(error, JoinError::Panic(_))
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SimRuntime::thread_rng()
    }

    type Mpsc = <SimRuntime as AsyncRuntime>::Mpsc;
    type Watch = <SimRuntime as AsyncRuntime>::Watch;
    type Oneshot = <SimRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <SimRuntime as AsyncRuntime>::Mutex<T>;

    fn new(threads: usize) -> Self {
        Self(SimRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    async fn spawn_blocking<F, T>(work: F) -> Result<T, std::io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(work())
    }
}
