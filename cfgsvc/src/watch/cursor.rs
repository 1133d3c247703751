//! One watcher's place in the history: what it wants, and up to where it has it.
//!
//! Why separate: this is the whole decision of what a watcher is sent. It does no I/O and is
//! checked by itself against a plain filter over the history.
//!
//! Invariants
//! - `next` never decreases: no event is taken twice, and events are taken in order of revision.
//! - the events of one revision are taken together.

use std::cmp::Ordering;

use bytes::Bytes;
use cfgsvc_proto::etcd::WatchCreateRequest;
use cfgsvc_proto::etcd::watch_create_request::FilterType;
use cfgsvc_proto::kv::Event;
use cfgsvc_proto::kv::event::EventType;
use cluster_core::store::KeyRange;

use super::commit::Commit;

/// The keys a watcher wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interest {
    /// One key.
    Key(Bytes),
    /// A range of keys.
    Range(KeyRange),
}

impl Interest {
    /// Reads the key and range end of a request; `None` when the range is empty.
    pub fn parse(key: &Bytes, range_end: &Bytes) -> Option<Self> {
        let key = if key.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            key.clone()
        };
        match range_end.as_ref() {
            b"" => Some(Self::Key(key)),
            b"\0" => Some(Self::Range(KeyRange::from(key))),
            _ => match key.cmp(range_end) {
                Ordering::Less => Some(Self::Range(KeyRange::new(key, range_end.clone()))),
                Ordering::Equal | Ordering::Greater => None,
            },
        }
    }

    /// Whether `key` is wanted.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Range(range) => range.contains(key),
        }
    }
}

/// A watcher's wishes and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    next: i64,
    interest: Interest,
    puts: bool,
    deletes: bool,
    prev_kv: bool,
}

impl Cursor {
    /// A watcher that has everything before `next`; `None` when its range is empty.
    pub fn new(request: &WatchCreateRequest, next: i64) -> Option<Self> {
        let filtered = |filter: FilterType| request.filters.contains(&(filter as i32));
        Some(Self {
            next,
            interest: Interest::parse(&request.key, &request.range_end)?,
            puts: !filtered(FilterType::Noput),
            deletes: !filtered(FilterType::Nodelete),
            prev_kv: request.prev_kv,
        })
    }

    /// The first revision it does not have yet.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// The keys it wants.
    pub fn interest(&self) -> &Interest {
        &self.interest
    }

    /// Whether it wants the versions before.
    pub fn wants_prev_kv(&self) -> bool {
        self.prev_kv
    }

    /// Takes what it wants of `commit`; nothing when it has that revision already.
    pub fn take(&mut self, commit: &Commit) -> Vec<Event> {
        if commit.revision < self.next {
            return Vec::new();
        }
        self.next = commit.revision + 1;
        commit
            .events
            .iter()
            .filter(|event| self.wants(event))
            .map(|event| self.cut(event))
            .collect()
    }

    /// Notes that it has everything up to `revision`.
    pub fn pass(&mut self, revision: i64) {
        self.next = self.next.max(revision + 1);
    }

    fn wants(&self, event: &Event) -> bool {
        let kind = match event.r#type() {
            EventType::Put => self.puts,
            EventType::Delete => self.deletes,
        };
        kind && event
            .kv
            .as_ref()
            .is_some_and(|kv| self.interest.contains(&kv.key))
    }

    fn cut(&self, event: &Event) -> Event {
        Event {
            r#type: event.r#type,
            kv: event.kv.clone(),
            prev_kv: if self.prev_kv {
                event.prev_kv.clone()
            } else {
                None
            },
        }
    }
}
