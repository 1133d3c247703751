//! What clients were told, checked against the history by revision.
//!
//! Every write has a value of its own, and every answer says its revision. So an answer is checked
//! at once, and whatever has no answer may have happened once or not at all: [`History`] refuses a
//! value that is written twice.
//!
//! Invariants
//! - an acknowledged write is in the history at its revision, with its content.
//! - a linearizable read shows the state of one revision, not older than the newest that was
//!   acknowledged to anybody before the read began.

use bytes::Bytes;

use crate::client::PREFIX;
use crate::history::History;

/// What is known of all clients together.
#[derive(Debug, Default)]
pub struct Oracle {
    /// The newest revision that was shown to a client.
    shown: i64,
    /// Acknowledged writes.
    pub writes: u64,
    /// Linearizable reads.
    pub reads: u64,
    /// Requests whose outcome stayed unknown.
    pub unknown: u64,
}

/// A range that a client read.
#[derive(Debug)]
pub struct Read {
    /// Revision of the answer.
    pub revision: i64,
    /// Revision that was asked for; 0 is the latest.
    pub asked: i64,
    /// Keys and values.
    pub found: Vec<(Bytes, Bytes)>,
}

impl Oracle {
    /// The floor of a read that begins now.
    pub fn floor(&self) -> i64 {
        self.shown
    }

    fn show(&mut self, revision: i64) {
        self.shown = self.shown.max(revision);
    }

    /// A write of `value` (`None` is a delete that found the key) to `key` was acknowledged.
    pub fn acknowledged(
        &mut self,
        history: &History,
        revision: i64,
        key: &Bytes,
        value: Option<&Bytes>,
    ) -> Result<(), String> {
        self.writes += 1;
        self.show(revision);
        let changes = history.at(revision).unwrap_or_default();
        let there = changes
            .iter()
            .any(|change| change.key == *key && change.value.as_ref() == value);
        if there {
            return Ok(());
        }
        Err(format!(
            "the write of {value:?} to {key:?} was acknowledged at revision {revision}, which is \
             {changes:?}"
        ))
    }

    /// A compare-and-swap of `key` on `expected` (its last revision, 0 when absent) was answered.
    pub fn compared(
        &mut self,
        history: &History,
        revision: i64,
        key: &Bytes,
        expected: i64,
        succeeded: bool,
    ) -> Result<(), String> {
        self.show(revision);
        let before = if succeeded { revision - 1 } else { revision };
        let found = history.value_at(key, before).map_or(0, |(at, _)| at);
        if (found == expected) == succeeded {
            return Ok(());
        }
        Err(format!(
            "a compare of {key:?} with revision {expected} was answered {succeeded} at {revision}, \
             where its revision was {found}"
        ))
    }

    /// A delete found nothing.
    pub fn absent(&mut self, history: &History, revision: i64, key: &Bytes) -> Result<(), String> {
        self.show(revision);
        match history.value_at(key, revision) {
            None => Ok(()),
            Some((at, _)) => Err(format!(
                "a delete of {key:?} found nothing at {revision}; it was put at {at}"
            )),
        }
    }

    /// A read that began when the floor was `floor` has this answer; `None` is a serializable one.
    pub fn read(
        &mut self,
        history: &History,
        floor: Option<i64>,
        read: &Read,
    ) -> Result<(), String> {
        if let Some(floor) = floor {
            self.reads += 1;
            if read.revision < floor {
                return Err(format!(
                    "a linearizable read shows revision {}; {floor} was acknowledged before",
                    read.revision
                ));
            }
            self.show(read.revision);
        }
        if read.revision > history.last() {
            return Err(format!(
                "a read shows revision {}, the last that exists is {}",
                read.revision,
                history.last()
            ));
        }
        let at = if read.asked > 0 {
            read.asked
        } else {
            read.revision
        };
        let expected = history.all_at(PREFIX.0, PREFIX.1, at);
        if read.found == expected {
            return Ok(());
        }
        Err(format!(
            "a read at revision {at} shows {:?}, the history says {expected:?}",
            read.found
        ))
    }
}

#[cfg(test)]
mod tests {
    use cfgsvc::watch::commit::Commit;
    use cfgsvc_proto::kv::{Event, KeyValue};

    use super::*;

    fn history(values: &[&'static str]) -> History {
        let mut history = History::default();
        for (revision, value) in (2..).zip(values) {
            let kv = KeyValue {
                key: Bytes::from_static(b"k"),
                value: Bytes::from_static(value.as_bytes()),
                ..KeyValue::default()
            };
            let event = Event {
                kv: Some(kv),
                ..Event::default()
            };
            let commit = Commit::new(revision, vec![event]);
            history.published(1, &commit).expect("in order");
        }
        history
    }

    fn read(revision: i64, value: &'static str) -> Read {
        let key = Bytes::from_static(b"k");
        Read {
            revision,
            asked: 0,
            found: vec![(key, Bytes::from_static(value.as_bytes()))],
        }
    }

    #[test]
    fn stale_read_and_lost_write_are_seen() {
        let history = history(&["a", "b"]);
        let mut oracle = Oracle::default();
        let (key, b) = (Bytes::from_static(b"k"), Bytes::from_static(b"b"));
        oracle
            .acknowledged(&history, 3, &key, Some(&b))
            .expect("it is there");
        let floor = Some(oracle.floor());
        oracle
            .read(&history, floor, &read(2, "a"))
            .expect_err("stale");
        oracle
            .read(&history, None, &read(2, "a"))
            .expect("serializable");
        oracle.read(&history, floor, &read(3, "b")).expect("fresh");
        oracle
            .read(&history, floor, &read(3, "a"))
            .expect_err("torn");
        oracle
            .acknowledged(&history, 4, &key, Some(&b))
            .expect_err("lost");
        oracle
            .compared(&history, 3, &key, 2, true)
            .expect("it was at 2");
        oracle
            .compared(&history, 3, &key, 3, false)
            .expect_err("it was at 3");
        oracle.absent(&history, 3, &key).expect_err("it was there");
    }

    #[test]
    fn value_written_twice_is_seen() {
        let mut history = history(&["a"]);
        let kv = KeyValue {
            key: Bytes::from_static(b"other"),
            value: Bytes::from_static(b"a"),
            ..KeyValue::default()
        };
        let event = Event {
            kv: Some(kv),
            ..Event::default()
        };
        let commit = Commit::new(3, vec![event]);
        history.published(1, &commit).expect_err("twice");
    }
}
