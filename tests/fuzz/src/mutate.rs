//! Changed inputs for a run without libFuzzer: seeded, so that a number repeats an input.
//!
//! Not steered by coverage: it looks near the kept inputs, which a coverage-steered run has found.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Longest input made from nothing.
const FRESH_BYTES_MAX: usize = 512;

/// Makes inputs out of others.
pub struct Mutator<'a> {
    seeds: &'a [Vec<u8>],
    rng: StdRng,
}

impl<'a> Mutator<'a> {
    /// Changes `seeds`; the same `number` gives the same inputs.
    pub fn new(seeds: &'a [Vec<u8>], number: u64) -> Self {
        Self {
            seeds,
            rng: StdRng::seed_from_u64(number),
        }
    }

    /// The next input.
    pub fn input(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        if input.is_empty() || self.rng.random_ratio(1, 8) {
            let length = self.rng.random_range(1..=FRESH_BYTES_MAX);
            input = (0..length).map(|_| self.rng.random()).collect();
        }
        for _ in 0..self.rng.random_range(1..=6) {
            self.change(&mut input);
        }
        input
    }

    fn seed(&mut self) -> Vec<u8> {
        if self.seeds.is_empty() {
            return Vec::new();
        }
        self.seeds[self.rng.random_range(0..self.seeds.len())].clone()
    }

    fn place(&mut self, input: &[u8]) -> usize {
        self.rng.random_range(0..=input.len())
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let (a, b) = (self.place(input), self.place(input));
        let (from, to) = (a.min(b), a.max(b));
        match self.rng.random_range(0..6) {
            0 if a < input.len() => input[a] ^= 1 << self.rng.random_range(0..8),
            1 if a < input.len() => input[a] = self.byte(),
            2 => {
                let byte = self.byte();
                input.insert(a, byte);
            }
            3 => drop(input.drain(from..to.min(from + 16))),
            4 => {
                let copied = input[from..to.min(from + 64)].to_vec();
                let at = self.place(input);
                input.splice(at..at, copied);
            }
            _ => {
                let other = self.seed();
                let (start, at) = (self.place(&other), self.place(input));
                input.truncate(at);
                input.extend_from_slice(&other[start..]);
            }
        }
    }

    /// Any byte, often one at which lengths and varints turn.
    fn byte(&mut self) -> u8 {
        const TURNING: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
        if self.rng.random() {
            TURNING[self.rng.random_range(0..TURNING.len())]
        } else {
            self.rng.random()
        }
    }
}
