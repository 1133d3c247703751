//! What all sockets answer from: one state, which its owner swaps, and the present.
//!
//! A socket takes the state once for a batch of requests, and again for each message of a transfer,
//! so a swap is seen by whatever is read after it; nobody waits for anybody.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use cfgdns_core::{Moment, State};

/// The state that is answered from. Written by whoever follows the group, read by every socket.
#[derive(Debug)]
pub struct Shared {
    state: ArcSwap<State>,
}

impl Shared {
    /// Answers come from this state until another is stored.
    pub fn new(state: State) -> Self {
        Self {
            state: ArcSwap::from_pointee(state),
        }
    }

    /// From now on requests are answered from this state.
    pub fn store(&self, state: Arc<State>) {
        self.state.store(state);
    }

    /// The present state, for a batch of requests: it is not to be kept.
    pub fn load(&self) -> Guard<Arc<State>> {
        self.state.load()
    }
}

/// The present, by both clocks. Freshness must be counted by the same one: [`cfgsvc_clock::Moment`]
/// in milliseconds.
pub fn now() -> Moment {
    let wall_ms = u64::try_from(cfgsvc_clock::wall_ms()).unwrap_or(0);
    Moment {
        unix_seconds: wall_ms / 1_000,
        monotonic_ms: cfgsvc_clock::Moment::now().nanos() / 1_000_000,
    }
}
