//! How a host asks the group; the twin of the client library's calls that may be repeated.
//!
//! Why repeated: an attempt without an answer may have been carried out, and may be carried out
//! later still, by a member that waits for a leader. The agent's steps must bear that.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::group::Answer;
use super::machine::Machine;
use crate::member::Member;
use crate::network::{self, From};
use crate::rng::Rng;
use crate::runtime::{lock, sleep, timeout};
use crate::world::World;

/// Pause before another member is asked.
const PAUSE_MS: (u64, u64) = (2, 40);

/// How long a request is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How often.
    pub attempts: u32,
    /// How long each.
    pub each: Duration,
}

/// A host's way to the group; it stays with one member while that one answers.
#[derive(Clone)]
pub struct Calls {
    world: Arc<World>,
    from: From,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    member: Option<u64>,
}

impl Calls {
    /// Of `machine`.
    pub fn new(world: &Arc<World>, machine: &Machine) -> Self {
        let from = From {
            id: machine.id,
            incarnation: String::new(),
        };
        let rng = machine.fork_rng();
        Self {
            world: world.clone(),
            from,
            state: Arc::new(Mutex::new(State { rng, member: None })),
        }
    }

    /// The world it is in.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// The member that is asked now.
    pub fn member(&self) -> u64 {
        let mut state = lock(&self.state);
        if let Some(member) = state.member {
            return member;
        }
        let ids: Vec<u64> = self.world.hosts().iter().map(|host| host.id).collect();
        let member = state.rng.pick(&ids).copied().unwrap_or(1);
        state.member = Some(member);
        member
    }

    /// That one does not answer.
    pub fn move_on(&self) {
        lock(&self.state).member = None;
    }

    /// Asks once, for as long as somebody waits for the answer.
    pub fn open<T, F, Fut>(&self, ask: F) -> impl Future<Output = Option<T>> + Send + use<T, F, Fut>
    where
        T: Send + 'static,
        F: Fn(Member) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let (world, from, to) = (self.world.clone(), self.from.clone(), self.member());
        async move { network::call(&world, from, to, ask).await.ok() }
    }

    /// Asks once.
    pub async fn once<T, F, Fut>(&self, within: Duration, ask: F) -> Option<T>
    where
        T: Send + 'static,
        F: Fn(Member) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        if let Ok(Some(answer)) = timeout(within, self.open(ask)).await {
            return Some(answer);
        }
        self.move_on();
        None
    }

    /// Asks until somebody knows the answer.
    pub async fn repeat<T, F, Fut>(&self, patience: Patience, ask: F) -> Answer<T>
    where
        T: Send + 'static,
        F: Fn(Member) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Answer<T>> + Send + 'static,
    {
        for _ in 0..patience.attempts {
            match self.once(patience.each, ask.clone()).await {
                Some(Answer::Unknown) => self.move_on(),
                Some(answer) => return answer,
                None => {}
            }
            let pause = lock(&self.state).rng.millis(PAUSE_MS.0, PAUSE_MS.1);
            sleep(pause).await;
        }
        Answer::Unknown
    }
}
