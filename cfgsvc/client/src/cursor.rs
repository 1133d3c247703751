//! What a watch delivers and where it goes on after a broken stream. Pure: `watch` is the shell.
//!
//! The member sends responses with events in order of revision. A response that is too large comes
//! in fragments; only its last one is not marked. Everything that a fragment brings is whole except
//! the revision that it ends with, so only that one is held back.
//!
//! Invariants
//! - delivered revisions strictly increase, each with all its events;
//! - after a broken stream the next one starts at the last revision that is known to be complete,
//!   plus one: no gap and no duplicate;
//! - at most one revision's events are held back;
//! - all that is delivered is of one group.
//!
//! A progress response promises that everything up to its revision has been sent. (etcd keeps this
//! promise since 3.4.25 and 3.5.8.)

use cfgsvc_proto::etcd::WatchResponse;
use cfgsvc_proto::kv;

/// All events of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchEvents {
    /// The revision. With progress asked for it may come without events: then all events up to
    /// this revision have been delivered.
    pub revision: i64,
    /// Its events, in order; empty for progress.
    pub events: Vec<Event>,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The new version; of a deleted key only the name and the revision.
    pub kv: kv::KeyValue,
    /// The version before, if asked for and not compacted.
    pub previous: Option<kv::KeyValue>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was set.
    Put,
    /// It was deleted.
    Delete,
}

impl Event {
    pub(crate) fn of(event: kv::Event) -> Option<Self> {
        let kind = match event.r#type() {
            kv::event::EventType::Put => EventKind::Put,
            kv::event::EventType::Delete => EventKind::Delete,
        };
        Some(Self {
            kind,
            kv: event.kv?,
            previous: event.prev_kv,
        })
    }
}

/// What a response leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The member has accepted the watch.
    Created,
    /// Hand this to the user.
    Deliver(WatchEvents),
    /// Everything up to this revision has been delivered.
    Progress(i64),
    /// The next revision is gone; the watch is over.
    Compacted {
        /// What was needed next.
        resume_revision: i64,
        /// The oldest revision that can be watched from; 0 when the member did not tell.
        compact_revision: i64,
    },
    /// The member cannot go on; another one may.
    Retry(String),
    /// The group ended the watch.
    Cancelled(String),
    /// The member broke the protocol.
    OutOfOrder(String),
}

/// Place of a watch in history.
#[derive(Debug)]
pub struct Cursor {
    /// First revision that is wanted and not known to be delivered; 0 until the member has said
    /// which one "now" is.
    next: i64,
    /// Events of one revision that may be incomplete.
    held: Option<WatchEvents>,
    /// The group that the watch began in; 0 until it is told.
    cluster_id: u64,
}

impl Cursor {
    /// From `start_revision` on; 0 is after the current one.
    pub fn new(start_revision: i64) -> Self {
        Self {
            next: start_revision,
            held: None,
            cluster_id: 0,
        }
    }

    /// Forgets what a broken stream left incomplete, and returns the revision to start from.
    pub fn resume(&mut self) -> i64 {
        self.held = None;
        self.next
    }

    /// Takes a response of the stream.
    pub fn accept(&mut self, response: WatchResponse) -> Vec<Step> {
        let header = response.header.as_ref();
        let revision = header.map_or(0, |header| header.revision);
        if let Some(other) = self.other_group(header.map_or(0, |header| header.cluster_id)) {
            return vec![other];
        }
        if let Some(strange) = impossible_revision(&response) {
            let text = format!("revision {strange} cannot be");
            return vec![Step::OutOfOrder(text)];
        }
        if response.compact_revision != 0 {
            return vec![Step::Compacted {
                resume_revision: self.next,
                compact_revision: response.compact_revision,
            }];
        }
        if response.canceled {
            return vec![self.canceled(response.cancel_reason)];
        }
        if response.created {
            if self.next == 0 {
                self.next = revision + 1;
            }
            return vec![Step::Created];
        }
        if response.events.is_empty() {
            return self.progress(revision, response.fragment);
        }
        let mut steps = Vec::new();
        for event in response.events {
            match Event::of(event) {
                Some(event) => self.event(event, &mut steps),
                None => steps.push(Step::OutOfOrder("an event without a key".into())),
            }
        }
        if !response.fragment {
            self.release(&mut steps);
        }
        self.check();
        steps
    }

    /// A group that was made anew from a snapshot has revisions of its own: going on in it would
    /// pass over what differs.
    fn other_group(&mut self, cluster_id: u64) -> Option<Step> {
        let began = self.cluster_id;
        if cluster_id == 0 || began == cluster_id {
            return None;
        }
        if began == 0 {
            self.cluster_id = cluster_id;
            return None;
        }
        Some(Step::Cancelled(format!(
            "another group answers: cluster {cluster_id:x}, the watch began in {began:x}"
        )))
    }

    fn canceled(&self, reason: String) -> Step {
        // What a member says that has lost its group or is going away.
        let passing = [
            "no leader",
            "server stopped",
            "leader changed",
            "Unavailable",
        ];
        if reason.contains("required revision has been compacted") {
            return Step::Compacted {
                resume_revision: self.next,
                compact_revision: 0,
            };
        }
        if passing.iter().any(|text| reason.contains(text)) {
            Step::Retry(reason)
        } else {
            Step::Cancelled(reason)
        }
    }

    fn event(&mut self, event: Event, steps: &mut Vec<Step>) {
        let revision = event.kv.mod_revision;
        match &mut self.held {
            Some(held) if held.revision == revision => {
                held.events.push(event);
                return;
            }
            Some(held) if held.revision > revision => {
                let found = held.revision;
                let text = format!("revision {revision} comes after {found}");
                steps.push(Step::OutOfOrder(text));
                return;
            }
            Some(_) => self.release(steps),
            None => {}
        }
        if revision < self.next {
            let text = format!("revision {revision} comes after {}", self.next - 1);
            steps.push(Step::OutOfOrder(text));
            return;
        }
        self.held = Some(WatchEvents {
            revision,
            events: vec![event],
        });
    }

    fn release(&mut self, steps: &mut Vec<Step>) {
        if let Some(whole) = self.held.take() {
            self.next = whole.revision + 1;
            steps.push(Step::Deliver(whole));
        }
    }

    fn progress(&mut self, revision: i64, fragment: bool) -> Vec<Step> {
        if fragment || self.held.is_some() || revision == 0 {
            return Vec::new();
        }
        // A watch from a future revision hears of earlier ones: nothing is new for it.
        if revision >= self.next {
            self.next = revision + 1;
        }
        vec![Step::Progress(self.next - 1)]
    }

    fn check(&self) {
        if let Some(held) = &self.held {
            assert!(!held.events.is_empty());
            assert!(held.revision >= self.next);
        }
    }
}

/// A revision that no group is at: a negative one, or the greatest number, since the cursor goes on
/// at the next one.
fn impossible_revision(response: &WatchResponse) -> Option<i64> {
    let header = response.header.iter().map(|header| header.revision);
    let kvs = response.events.iter().filter_map(|event| event.kv.as_ref());
    header
        .chain(kvs.map(|kv| kv.mod_revision))
        .find(|revision| !(0..i64::MAX).contains(revision))
}

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
