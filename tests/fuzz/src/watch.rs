//! What a client asks on a watch stream, while revisions come and go.
//!
//! Every watcher that lives to the end has been sent what it asked for: each revision once, in
//! order.

use std::collections::BTreeMap;
use std::sync::Arc;

use cfgsvc::watch::commit::Commit;
use cfgsvc::watch::hub::Hub;
use cfgsvc::watch::session::Session;
use cfgsvc_core::Floor;
use cfgsvc_proto::etcd::{WatchCreateRequest, WatchResponse};
use cfgsvc_proto::kv::{Event, KeyValue};

use crate::draw::Draw;

const WATCHERS_MAX: usize = 16;

/// A stream and what is published meanwhile.
pub(crate) fn target(data: &[u8]) {
    let mut draw = Draw::new(data);
    let hub = Arc::new(Hub::for_watchers(WATCHERS_MAX));
    let first = i64::try_from(draw.below(9)).unwrap_or(0) + 1;
    hub.reset(first, Floor::default());
    let mut session = Session::new(&hub);
    let mut commits: Vec<Arc<Commit>> = Vec::new();
    let mut sent = BTreeMap::new();
    while !draw.is_empty() {
        let responses = match draw.below(8) {
            0..=2 => {
                let revision = hub.published() + 1;
                let commit = commit(&mut draw, revision);
                commits.push(commit.clone());
                hub.publish(vec![commit], 0);
                Vec::new()
            }
            3 => session.create(&create(&mut draw)),
            4 => session.cancel(draw.signed(6)),
            5 => {
                session.want_progress();
                session.progress()
            }
            6 => session.tick(),
            _ => deliver(&mut session, &commits, first),
        };
        note(&mut sent, responses);
    }
    let responses = deliver(&mut session, &commits, first);
    note(&mut sent, responses);
}

fn commit(draw: &mut Draw<'_>, revision: i64) -> Arc<Commit> {
    let events = (0..=draw.below(3)).map(|_| Event {
        r#type: i32::from(draw.flag()),
        kv: Some(KeyValue {
            key: draw.key(),
            mod_revision: revision,
            value: draw.value(),
            ..KeyValue::default()
        }),
        prev_kv: None,
    });
    Arc::new(Commit::new(revision, events.collect()))
}

fn create(draw: &mut Draw<'_>) -> WatchCreateRequest {
    WatchCreateRequest {
        key: draw.key(),
        range_end: draw.range_end(),
        start_revision: draw.signed(20),
        progress_notify: draw.flag(),
        filters: (0..draw.below(3))
            .map(|_| i32::from(draw.byte() % 3))
            .collect(),
        prev_kv: false,
        watch_id: draw.signed(5),
        fragment: draw.flag(),
    }
}

/// As the stream's task does: takes what has come, and reads for those that are behind.
fn deliver(session: &mut Session, commits: &[Arc<Commit>], first: i64) -> Vec<WatchResponse> {
    let mut responses = Vec::new();
    session.receive();
    while let Some(delivered) = session.next_delivered() {
        responses.extend(delivered);
    }
    responses.extend(session.compacted(Floor {
        compacted: first + 1,
        ..Floor::default()
    }));
    if let Some(need) = session.behind() {
        let next = commits.last().map_or(first, |commit| commit.revision) + 1;
        let wanted: Vec<Arc<Commit>> = commits
            .iter()
            .filter(|commit| commit.revision >= need.from)
            .cloned()
            .collect();
        for id in session.ids_behind() {
            responses.extend(session.feed(id, &wanted, next));
        }
    }
    responses
}

/// The revision that a watcher was sent last, and whether more of it may come.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    revision: i64,
    is_open: bool,
}

/// Holds responses against those before them: a watcher gets no revision twice, and none before
/// another that it has.
fn note(sent: &mut BTreeMap<i64, Sent>, responses: Vec<WatchResponse>) {
    for response in responses {
        let id = response.watch_id;
        if response.created || response.canceled {
            sent.remove(&id);
        }
        let last = sent.entry(id).or_default();
        for event in &response.events {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            let follows = revision > last.revision || (last.is_open && revision == last.revision);
            assert!(follows, "watcher {id}: {revision} after {last:?}");
            *last = Sent {
                revision,
                is_open: true,
            };
        }
        if !response.events.is_empty() {
            last.is_open = response.fragment;
        }
    }
}
