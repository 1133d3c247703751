//! All watchers of one stream: what the client is sent, and in which order. Without I/O.
//!
//! ```text
//!   create ──► behind ──(has all that was published: join)──► live ──► cancel
//!                ▲                                             │
//!                └───────────── the inbox overflowed ──────────┘
//! ```
//!
//! Invariants
//! - each create is answered once, before anything else of that watcher.
//! - the revisions in headers never go back on one stream.
//! - a progress answer with revision R is given only when every watcher that wants events up to R
//!   has been sent them.
//! - responses are made for one watcher at a time, so that many watchers of one stream do not
//!   multiply what waits in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use cfgsvc_core::Floor;
use cfgsvc_proto::etcd::{ResponseHeader, WatchCreateRequest, WatchResponse};
use cfgsvc_proto::kv::Event;

use super::commit::{Commit, event_bytes};
use super::cursor::Cursor;
use super::hub::{Hub, Stream};

/// Bytes of events after which a response is sent; a revision is not split for it.
const RESPONSE_BYTES: usize = 1 << 20;
/// Bytes of events of a fragment, for clients that ask for fragments: below the 2 MiB that etcd's
/// clients expect, with room for what surrounds the events.
const FRAGMENT_BYTES: usize = 3 << 19;
/// Most watchers of one stream: some 30 MB.
const WATCHERS_MAX: usize = 100_000;
/// What a failed create has instead of an id, and an answer for all watchers.
const NO_WATCHER: i64 = -1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It lacks something that was published.
    Behind,
    /// The hub delivers what it wants.
    Live,
}

impl Place {
    fn of(joined: bool) -> Self {
        if joined { Self::Live } else { Self::Behind }
    }
}

struct Watcher {
    cursor: Cursor,
    place: Place,
    progress_notify: bool,
    fragment: bool,
    /// Nothing was sent since the last progress notice was due.
    idle: bool,
}

impl Watcher {
    fn is_live(&self) -> bool {
        self.place == Place::Live
    }
}

/// What the watchers that are behind need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// First revision that one of them lacks.
    pub from: i64,
    /// Whether one of them wants the versions before.
    pub prev_kv: bool,
}

/// What was taken out of the inbox and is not sent yet.
#[derive(Default)]
struct Arrived {
    commits: BTreeMap<i64, Vec<Arc<Commit>>>,
    missed_from: Option<i64>,
}

/// All watchers of one stream.
pub struct Session {
    hub: Arc<Hub>,
    stream: Stream,
    watchers: BTreeMap<i64, Watcher>,
    arrived: Arrived,
    next_id: i64,
    header_revision: i64,
    progress_wanted: bool,
}

impl Session {
    /// A stream without watchers.
    pub fn new(hub: &Arc<Hub>) -> Self {
        Self {
            hub: Arc::clone(hub),
            stream: hub.stream(),
            watchers: BTreeMap::new(),
            arrived: Arrived::default(),
            next_id: 0,
            header_revision: 0,
            progress_wanted: false,
        }
    }

    /// The stream's place in the hub.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Adds a watcher.
    pub fn create(&mut self, request: &WatchCreateRequest) -> Vec<WatchResponse> {
        let published = self.hub.published();
        let header = self.header(published);
        let start = match request.start_revision {
            0 => published + 1,
            start => start,
        };
        let refused = |reason: &str| {
            vec![WatchResponse {
                header,
                watch_id: NO_WATCHER,
                created: true,
                canceled: true,
                cancel_reason: reason.to_owned(),
                ..WatchResponse::default()
            }]
        };
        if request.start_revision < 0 {
            return refused("mvcc: required revision has been compacted");
        }
        let Some(cursor) = Cursor::new(request, start) else {
            return refused("mvcc: watcher range is empty");
        };
        if self.watchers.contains_key(&request.watch_id) && request.watch_id != 0 {
            return refused("mvcc: duplicate watch ID provided on the WatchStream");
        }
        if self.watchers.len() >= WATCHERS_MAX {
            return refused("etcdserver: too many requests");
        }
        let id = if request.watch_id == 0 {
            self.free_id()
        } else {
            request.watch_id
        };
        let created = WatchResponse {
            header,
            watch_id: id,
            created: true,
            ..WatchResponse::default()
        };
        if let Err(first) = self.hub.floor().watch(start) {
            return vec![created, canceled_by_compaction(id, first)];
        }
        if !self.stream.admit() {
            return refused("etcdserver: too many requests");
        }
        let watcher = Watcher {
            place: Place::of(self.stream.join(id, &cursor)),
            cursor,
            progress_notify: request.progress_notify,
            fragment: request.fragment,
            idle: true,
        };
        self.watchers.insert(id, watcher);
        vec![created]
    }

    /// Ends a watcher; silence when there is none of that id.
    pub fn cancel(&mut self, id: i64) -> Vec<WatchResponse> {
        if self.watchers.remove(&id).is_none() {
            return Vec::new();
        }
        self.stream.leave(id);
        self.stream.dismiss();
        let header = self.header(self.hub.published());
        vec![WatchResponse {
            header,
            watch_id: id,
            canceled: true,
            ..WatchResponse::default()
        }]
    }

    /// The client asks up to which revision it has everything.
    pub fn want_progress(&mut self) {
        self.progress_wanted = true;
    }

    /// Takes what the hub has delivered; [`Session::next_delivered`] makes responses of it.
    pub fn receive(&mut self) {
        let deliveries = self.stream.inbox().take();
        if deliveries.missed_from.is_some() {
            self.stream.leave_all();
        }
        let arrived = &mut self.arrived;
        for (id, commit) in deliveries.commits {
            arrived.commits.entry(id).or_default().push(commit);
        }
        // The first that is missed counts: everything after it is read again.
        arrived.missed_from = arrived.missed_from.or(deliveries.missed_from);
    }

    /// The responses for the next watcher that something has arrived for; `None` when all are made.
    pub fn next_delivered(&mut self) -> Option<Vec<WatchResponse>> {
        while let Some((id, commits)) = self.arrived.commits.pop_first() {
            // What was delivered for an earlier watcher of this id is not for one that is behind.
            if self.watchers.get(&id).is_some_and(Watcher::is_live) {
                let responses = self.send(id, &commits);
                if !responses.is_empty() {
                    return Some(responses);
                }
            }
        }
        if let Some(missed_from) = self.arrived.missed_from.take() {
            for watcher in self
                .watchers
                .values_mut()
                .filter(|watcher| watcher.is_live())
            {
                watcher.cursor.pass(missed_from - 1);
                watcher.place = Place::Behind;
            }
        }
        None
    }

    /// What the watchers that are behind need; `None` when all are live.
    pub fn behind(&self) -> Option<Need> {
        let mut behind = self
            .watchers
            .values()
            .filter(|watcher| !watcher.is_live())
            .peekable();
        behind.peek()?;
        let start = Need {
            from: i64::MAX,
            prev_kv: false,
        };
        Some(behind.fold(start, |need, watcher| Need {
            from: need.from.min(watcher.cursor.next()),
            prev_kv: need.prev_kv || watcher.cursor.wants_prev_kv(),
        }))
    }

    /// Ids of the watchers that are behind.
    pub fn ids_behind(&self) -> Vec<i64> {
        let behind = self.watchers.iter().filter(|(_, one)| !one.is_live());
        behind.map(|(id, _)| *id).collect()
    }

    /// Gives a watcher that is behind all commits from [`Need::from`] to before `next`.
    pub fn feed(&mut self, id: i64, commits: &[Arc<Commit>], next: i64) -> Vec<WatchResponse> {
        let responses = self.send(id, commits);
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.cursor.pass(next - 1);
            watcher.place = Place::of(self.stream.join(id, &watcher.cursor));
        }
        responses
    }

    /// Ends the watchers that need what cannot be read any more.
    pub fn compacted(&mut self, floor: Floor) -> Vec<WatchResponse> {
        let first = |watcher: &Watcher| floor.watch(watcher.cursor.next()).err();
        let ended = self.watchers.extract_if(.., |_, watcher| {
            !watcher.is_live() && first(watcher).is_some()
        });
        let ended: Vec<WatchResponse> = ended
            .filter_map(|(id, watcher)| Some(canceled_by_compaction(id, first(&watcher)?)))
            .collect();
        for _ in &ended {
            self.stream.dismiss();
        }
        ended
    }

    /// Answers a wish for progress, if that can be done now.
    pub fn progress(&mut self) -> Vec<WatchResponse> {
        if !self.progress_wanted || self.behind().is_some() || !self.arrived.commits.is_empty() {
            return Vec::new();
        }
        let Some(confirmed) = self.stream.confirmed() else {
            return Vec::new();
        };
        // As etcd has it, a stream that watches the future has no progress to tell.
        self.progress_wanted = false;
        if self
            .watchers
            .values()
            .any(|watcher| watcher.cursor.next() > confirmed + 1)
        {
            return Vec::new();
        }
        let header = self.header(confirmed);
        vec![WatchResponse {
            header,
            watch_id: NO_WATCHER,
            ..WatchResponse::default()
        }]
    }

    /// A progress interval is over: tells the idle watchers that wish to know.
    pub fn tick(&mut self) -> Vec<WatchResponse> {
        let Some(confirmed) = self.stream.confirmed() else {
            return Vec::new();
        };
        let header = self.header(confirmed);
        let mut responses = Vec::new();
        for (id, watcher) in &mut self.watchers {
            let synced = watcher.is_live() && watcher.cursor.next() <= confirmed + 1;
            if watcher.progress_notify && watcher.idle && synced {
                responses.push(WatchResponse {
                    header,
                    watch_id: *id,
                    ..WatchResponse::default()
                });
            }
            watcher.idle = true;
        }
        responses
    }

    fn free_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// A header with `revision` or, if that was higher, the last one; always there.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "a response holds its header as an option"
    )]
    fn header(&mut self, revision: i64) -> Option<ResponseHeader> {
        self.header_revision = self.header_revision.max(revision);
        Some(ResponseHeader {
            revision: self.header_revision,
            ..ResponseHeader::default()
        })
    }

    /// Makes the responses with what watcher `id` wants of `commits`.
    fn send(&mut self, id: i64, commits: &[Arc<Commit>]) -> Vec<WatchResponse> {
        let header = self.header(commits.last().map_or(0, |commit| commit.revision));
        let mut responses = Vec::new();
        let Some(watcher) = self.watchers.get_mut(&id) else {
            return responses;
        };
        let respond = |events: Vec<Event>, fragment: bool| WatchResponse {
            header,
            watch_id: id,
            fragment,
            events,
            ..WatchResponse::default()
        };
        let (mut events, mut bytes) = (Vec::new(), 0);
        for commit in commits {
            let taken = watcher.cursor.take(commit);
            bytes += taken.iter().map(event_bytes).sum::<usize>();
            events.extend(taken);
            if bytes >= RESPONSE_BYTES {
                flush(
                    std::mem::take(&mut events),
                    watcher.fragment,
                    &respond,
                    &mut responses,
                );
                watcher.idle = false;
                bytes = 0;
            }
        }
        if !events.is_empty() {
            flush(events, watcher.fragment, &respond, &mut responses);
            watcher.idle = false;
        }
        responses
    }
}

/// Makes one response of `events`, or several for a client that takes fragments.
fn flush(
    events: Vec<Event>,
    fragment: bool,
    respond: &dyn Fn(Vec<Event>, bool) -> WatchResponse,
    responses: &mut Vec<WatchResponse>,
) {
    let (mut piece, mut bytes) = (Vec::new(), 0);
    for event in events {
        let size = event_bytes(&event);
        if fragment && bytes > 0 && bytes + size > FRAGMENT_BYTES {
            responses.push(respond(std::mem::take(&mut piece), true));
            bytes = 0;
        }
        bytes += size;
        piece.push(event);
    }
    responses.push(respond(piece, false));
}

/// As etcd has it: the revision says why, the header has none.
fn canceled_by_compaction(id: i64, compacted: i64) -> WatchResponse {
    WatchResponse {
        header: Some(ResponseHeader::default()),
        watch_id: id,
        canceled: true,
        compact_revision: compacted,
        ..WatchResponse::default()
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
