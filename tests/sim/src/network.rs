//! Calls and streams between members and clients, over `links`.
//!
//! A call is two messages, each on its own way, so calls overtake each other. A stream keeps its
//! order, as a connection does: what is lost on it comes late, and what meets a cut waits for the
//! cut's end. Nothing tells a sender of a cut; a process that dies closes its connections.
//!
//! Invariant: a message is delivered to the life that runs at its target when it arrives.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;
use tokio::sync::{mpsc, oneshot};

use crate::member::Member;
use crate::runtime::{current_life, lock, spawn_world, world_time};
use crate::world::World;

/// How often a stream looks whether a cut is over.
const CUT_LOOK: Duration = Duration::from_millis(20);

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Member id; 0 is a client.
    pub id: u64,
    /// Of its data directory.
    pub incarnation: String,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// Nobody there, or the caller is refused: nothing was done.
    Refused(String),
    /// The other end is gone: what it did is not known.
    Broken,
}

type Answer<T> = Result<T, CallError>;

/// Calls the member at `to`. Never returns when a message is lost: callers set a time.
pub async fn call<T, F, Fut>(world: &Arc<World>, from: From, to: u64, handler: F) -> Answer<T>
where
    T: Send + 'static,
    F: Fn(Member) -> Fut + Send + 'static,
    Fut: Future<Output = T> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let copies = lock(&world.links).passage(from.id, to, true);
    if copies.is_empty() {
        world.count("message lost");
        lock(&world.links).keep_waiting(Box::new(sender));
    } else {
        if copies.len() > 1 {
            world.count("call doubled");
        }
        let world = world.clone();
        spawn_world(async move {
            let answer = Arc::new(Mutex::new(Some(sender)));
            let mut waited = Duration::ZERO;
            for at in copies {
                SimRuntime::sleep(at.saturating_sub(waited)).await;
                waited = waited.max(at);
                deliver(&world, &from, to, &handler, answer.clone());
            }
        });
    }
    receiver.await.unwrap_or(Err(CallError::Broken))
}

type Sender<T> = Arc<Mutex<Option<oneshot::Sender<Answer<T>>>>>;

fn deliver<T, F, Fut>(world: &Arc<World>, from: &From, to: u64, handler: &F, answer: Sender<T>)
where
    T: Send + 'static,
    F: Fn(Member) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let back = (to, from.id);
    let refused = |why: String| answer_with(world, back, &answer, Err(CallError::Refused(why)));
    if world.keeps_away(from.id) {
        return refused("the group is closed".to_owned());
    }
    let Some(member) = world.member(to) else {
        return refused("nobody is there".to_owned());
    };
    if let Err(why) = member.admit(from) {
        return refused(why);
    }
    let work = handler(member.clone());
    let world = world.clone();
    member.life().spawn(async move {
        let value = work.await;
        answer_with(&world, back, &answer, Ok(value));
    });
}

fn answer_with<T: Send + 'static>(
    world: &Arc<World>,
    (from, to): (u64, u64),
    answer: &Sender<T>,
    value: Answer<T>,
) {
    // The second copy of a doubled call finds the answer given.
    let Some(sender) = lock(answer).take() else {
        return;
    };
    let passage = lock(&world.links).passage(from, to, false);
    let Some(delay) = passage.first().copied() else {
        world.count("message lost");
        lock(&world.links).keep_waiting(Box::new(sender));
        return;
    };
    spawn_world(async move {
        SimRuntime::sleep(delay).await;
        // The caller may have given up.
        drop(sender.send(value));
    });
}

/// One direction of a connection. Ends when either end is dropped. At each end and on the way
/// there is room for `window` messages: a receiver that takes none makes the sender wait.
pub fn pipe<T: Send + 'static>(
    world: &Arc<World>,
    from: u64,
    to: u64,
    window: usize,
) -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
    let (sender, mut sent) = mpsc::channel::<T>(window);
    let (arrived, receiver) = mpsc::channel::<T>(window);
    let (timed, mut in_flight) = mpsc::channel::<(Duration, T)>(window);
    let links = world.clone();
    spawn_world(async move {
        let mut last = Duration::ZERO;
        while let Some(item) = sent.recv().await {
            let delay = lock(&links.links).delay_on_stream(from, to) + world_time();
            last = last.max(delay);
            if timed.send((last, item)).await.is_err() {
                return;
            }
        }
    });
    let links = world.clone();
    spawn_world(async move {
        while let Some((at, item)) = in_flight.recv().await {
            SimRuntime::sleep(at.saturating_sub(world_time())).await;
            while lock(&links.links).is_cut(from, to) {
                if arrived.is_closed() || in_flight.is_closed() {
                    return;
                }
                SimRuntime::sleep(CUT_LOOK).await;
            }
            if arrived.send(item).await.is_err() {
                return;
            }
        }
    });
    (sender, receiver)
}

/// Runs `future` as a task of the current life.
pub fn spawn_here<F>(future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    match current_life() {
        Some(life) => life.spawn(future),
        None => spawn_world(future),
    }
}
