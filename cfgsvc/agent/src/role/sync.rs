//! Which hosts a holder waits for, and which ones it names to the group: a state machine without a
//! clock, a socket or a process.
//!
//! Why so: when the holder is lost, the group gives the role to a host that it counts on. One that
//! the holder's database did not wait for lacks writes that were acknowledged. Answers are lost and
//! calls come late, so nobody but the group knows what it counts at a moment.
//!
//! ```text
//!  looks() ─▶ the hook: the database waits for these, and for those that it prints
//!                │ printed
//!                ▼
//!  wants() ─▶ next() ─▶ a call to the group ─▶ done() ─▶ next() ... ─▶ looks()
//! ```
//!
//! Invariants
//! - What the group counts is a part of what the database waits for, at every moment.
//! - A host that was named in a call without an answer is waited for until a later one is answered.
//! - A host is added by what the hook printed, with a revision from before the hook began.
//! - One host that is refused keeps no other from being added, or left out.

use std::collections::{BTreeSet, VecDeque};

/// Hosts, by name.
pub type Hosts = BTreeSet<String>;

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was answered, and every call before it is carried out by then, or never.
    Answered,
    /// It was refused, and is never carried out: whoever was named could not be counted on then,
    /// and cannot be by the same look.
    Refused,
    /// Nobody knows; or it was refused, and a copy of it may be on its way.
    Unknown,
}

/// What a holder knows of an epoch.
#[derive(Debug, Default)]
pub struct Sync {
    /// Named in calls that may still be carried out.
    pending: Hosts,
    /// What the hook printed last.
    wanted: Hosts,
    /// Those of it that are to be added.
    adds: VecDeque<String>,
    /// The last call of this round is made, or the group does not answer.
    over: bool,
}

impl Sync {
    /// The hook is about to be run, where the group counts `counted`: whom the database must wait
    /// for at least. What the hook printed before is no more to go by: it may leave hosts out now.
    pub fn looks(&mut self, counted: &Hosts) -> Hosts {
        self.over = true;
        counted.union(&self.pending).cloned().collect()
    }

    /// The hook was told that, and printed this: a round of calls begins.
    pub fn wants(&mut self, wanted: Hosts) {
        self.adds = wanted.iter().cloned().collect();
        self.wanted = wanted;
        self.over = false;
    }

    /// The list of the next call, if one is to be made: each new host with what is counted, then
    /// what is counted without those that are wanted no more.
    pub fn next(&mut self, counted: &Hosts) -> Option<Hosts> {
        if self.over {
            return None;
        }
        while let Some(host) = self.adds.pop_front() {
            if !counted.contains(&host) {
                let mut list = counted.clone();
                list.insert(host);
                return Some(list);
            }
        }
        self.over = true;
        let left: Hosts = counted.intersection(&self.wanted).cloned().collect();
        (left != *counted || !self.pending.is_empty()).then_some(left)
    }

    /// What came of the call with this list.
    pub fn done(&mut self, list: &Hosts, done: Done) {
        match done {
            Done::Answered => self.pending.clear(),
            Done::Refused => {}
            Done::Unknown => self.pending.extend(list.iter().cloned()),
        }
    }

    /// The group does not answer: the rest of the round is left out.
    pub fn give_up(&mut self) {
        self.over = true;
    }

    /// Whether the group counts what was wanted, as far as that is known.
    pub fn is_settled(&self, counted: &Hosts) -> bool {
        self.pending.is_empty() && *counted == self.wanted
    }
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
