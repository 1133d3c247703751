//! The only source of chance: splitmix64 from the seed.

use crate::names::mix;

#[derive(Clone, Debug)]
pub(super) struct Rng {
    seed: u64,
    drawn: u64,
}

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.drawn += 1;
        mix(self.seed, self.drawn)
    }

    /// One of `low..=high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.number() % (high.max(low) - low + 1)
    }

    pub(super) fn chance(&mut self, permille: u64) -> bool {
        self.between(0, 999) < permille
    }
}
