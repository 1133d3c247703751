//! What happened, in words: the last events for people, and a hash of all of them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::state::hash_of;

/// Events that a failure shows.
const LAST: usize = 60;

/// The events of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    count: u64,
    last: VecDeque<String>,
    all: Option<Vec<String>>,
}

impl Trace {
    /// Keeps the text of all events if `keep`.
    pub fn new(keep: bool) -> Self {
        Self {
            all: keep.then(Vec::new),
            ..Self::default()
        }
    }

    /// Something happened.
    pub fn event(&mut self, at: Duration, text: &str) {
        let line = format!("{:>10.6} {text}", at.as_secs_f64());
        self.hash = hash_of(&[&self.hash.to_le_bytes(), line.as_bytes()]);
        self.count += 1;
        if let Some(all) = &mut self.all {
            all.push(line.clone());
        }
        self.last.push_back(line);
        if self.last.len() > LAST {
            self.last.pop_front();
        }
    }

    /// Hash of all events.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Count of all events.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All events, or the last ones when not all were kept.
    pub fn lines(&self) -> Vec<String> {
        match &self.all {
            Some(all) => all.clone(),
            None => self.last.iter().cloned().collect(),
        }
    }
}
