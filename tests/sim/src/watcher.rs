//! Clients that watch: they resume by revision at another member whenever a stream ends, and
//! compare everything they get with the history.
//!
//! The member's end is the real watch session over the real hub; only the loop around them is the
//! twin of `cfgsvc::grpc::watch`.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cfgsvc::app::commit;
use cfgsvc::watch::commit::Commit;
use cfgsvc::watch::session::{Need, Session};
use cfgsvc_core::history::{Compacted, HistoryQuery, history_since};
use cfgsvc_proto::etcd::{WatchCreateRequest, WatchResponse};
use cfgsvc_proto::kv::event::EventType;
use cluster::state_store::StateStore as _;
use openraft::AsyncRuntime as _;
use openraft::async_runtime::Select2;
use openraft_rt_sim::SimRuntime;
use tokio::sync::mpsc;

use crate::client::PREFIX;
use crate::defect::Defect;
use crate::history::Change;
use crate::member::Member;
use crate::nemesis::operator;
use crate::network::{self, pipe, spawn_here};
use crate::rng::Rng;
use crate::runtime::{lock, sleep, world_time};
use crate::world::World;

const STEP_BYTES: usize = 400;
const STEP_EVENTS: usize = 2;
/// Responses in each part of a stream.
const WINDOW: usize = 64;
/// Longest pause of a slow watcher between two responses, in milliseconds.
const SLOW_MS: u64 = 1_500;
/// How often a watcher looks whether the run is over.
const LOOK: Duration = Duration::from_millis(500);
const STORE_PAUSE: Duration = Duration::from_millis(10);

/// One client that watches.
pub struct Watcher {
    world: Arc<World>,
    rng: Rng,
    key: Bytes,
    range_end: Bytes,
    /// First revision that it has not got.
    next: i64,
}

impl Watcher {
    /// Watches all keys, or one of them.
    pub fn new(world: Arc<World>) -> Self {
        let mut rng = world.fork_rng();
        let all = rng.chance(600);
        let (key, range_end) = if all {
            (Bytes::from_static(PREFIX.0), Bytes::from_static(PREFIX.1))
        } else {
            (Bytes::from_static(b"k1"), Bytes::new())
        };
        Self {
            world,
            rng,
            key,
            range_end,
            next: 2,
        }
    }

    /// Watches until the group is whole again, then until it has everything; `false` when that
    /// takes longer than `patience`.
    pub async fn run(mut self, patience: Duration) -> bool {
        let mut settled = None;
        while self.world.failure().is_none() {
            if settled.is_none() && self.world.settled() {
                settled = Some(world_time());
            }
            if settled.is_some() && self.lacks().is_empty() {
                return true;
            }
            if settled.is_some_and(|at| world_time() >= at + patience) {
                let lacks = self.lacks();
                self.world
                    .fail(format!("a watcher at {} never got {lacks:?}", self.next));
                return false;
            }
            self.stream().await;
            // Who is away for long finds that history was compacted meanwhile.
            let longest = if self.rng.chance(250) { 4000 } else { 100 };
            let pause = self.rng.millis(5, longest);
            SimRuntime::sleep(pause).await;
        }
        false
    }

    fn wants(&self, key: &Bytes) -> bool {
        if self.range_end.is_empty() {
            *key == self.key
        } else {
            *key >= self.key && *key < self.range_end
        }
    }

    fn lacks(&self) -> Vec<i64> {
        let history = lock(&self.world.history);
        history.changed_between(self.next, history.last(), |key| self.wants(key))
    }

    /// One stream, from its beginning to its end.
    async fn stream(&mut self) {
        let ids: Vec<u64> = self.world.hosts().iter().map(|host| host.id).collect();
        let Some(to) = self.rng.pick(&ids).copied() else {
            return;
        };
        let request = WatchCreateRequest {
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            start_revision: self.next,
            ..WatchCreateRequest::default()
        };
        let slow = self.rng.chance(300);
        let window = if slow { 1 } else { WINDOW };
        let (responses, mut arrived) = pipe::<WatchResponse>(&self.world, to, 0, window);
        // A doubled call opens one stream.
        let once = Arc::new(Mutex::new(Some((request, responses))));
        let serve = move |member: Member| {
            let opened = lock(&once).take();
            async move {
                if let Some((request, responses)) = opened {
                    spawn_here(serve(member, request, responses));
                }
            }
        };
        let call = network::call(&self.world, operator(), to, serve);
        let opened = SimRuntime::timeout(Duration::from_secs(1), call).await;
        if !matches!(opened, Ok(Ok(()))) {
            return;
        }
        self.world.count("watch stream");
        let ends = world_time() + self.rng.millis(200, 6000);
        while self.world.failure().is_none() {
            if self.world.settled() && self.lacks().is_empty() {
                return;
            }
            let left = ends.saturating_sub(world_time());
            match SimRuntime::timeout(left.min(LOOK), arrived.recv()).await {
                Ok(Some(response)) => {
                    if !self.take(response) || left.is_zero() {
                        return;
                    }
                    if slow && !self.world.settled() {
                        // The member has to wait, and what it still has to read may be compacted.
                        SimRuntime::sleep(self.rng.millis(10, SLOW_MS)).await;
                    }
                }
                Ok(None) => return,
                Err(_) if left.is_zero() => return,
                Err(_) => {}
            }
        }
    }

    /// Checks a response; whether the stream goes on.
    fn take(&mut self, response: WatchResponse) -> bool {
        if response.canceled {
            if response.compact_revision > self.next {
                self.world.count("watch resumed behind a compaction");
                self.next = response.compact_revision;
            }
            return false;
        }
        let mut events: Vec<(i64, Change)> = Vec::new();
        for event in response.events {
            let Some(kv) = &event.kv else { continue };
            let value = match event.r#type() {
                EventType::Put => Some(kv.value.clone()),
                EventType::Delete => None,
            };
            let change = Change {
                key: kv.key.clone(),
                value,
            };
            events.push((kv.mod_revision, change));
        }
        let mut rest = events.as_slice();
        while let Some((revision, _)) = rest.first() {
            let revision = *revision;
            let count = rest.iter().take_while(|(at, _)| *at == revision).count();
            let (these, others) = rest.split_at(count);
            let changes: Vec<Change> = these.iter().map(|(_, change)| change.clone()).collect();
            if let Err(why) = self.step(revision, &changes) {
                self.world.fail(why);
                return false;
            }
            rest = others;
        }
        true
    }

    fn step(&mut self, revision: i64, changes: &[Change]) -> Result<(), String> {
        let next = self.next;
        if revision < next {
            return Err(format!(
                "a watcher got revision {revision}, it has everything before {next}"
            ));
        }
        let history = lock(&self.world.history);
        let missed = history.changed_between(next, revision - 1, |key| self.wants(key));
        if !missed.is_empty() {
            return Err(format!(
                "a watcher at {next} got revision {revision} without {missed:?}"
            ));
        }
        let expected = history.at(revision).unwrap_or_default().iter();
        let expected: Vec<Change> = expected
            .filter(|change| self.wants(&change.key))
            .cloned()
            .collect();
        if expected != changes {
            return Err(format!(
                "a watcher got {changes:?} at revision {revision}, the history says {expected:?}"
            ));
        }
        drop(history);
        self.next = revision + 1;
        Ok(())
    }
}

/// The member's end of a stream.
async fn serve(
    member: Member,
    request: WatchCreateRequest,
    responses: mpsc::Sender<WatchResponse>,
) {
    let mut session = Session::new(member.hub());
    if !send(&responses, session.create(&request)).await {
        return;
    }
    loop {
        let made = if let Some(need) = session.behind() {
            match catch_up(&member, &mut session, need).await {
                Ok(made) => made,
                Err(_) => return,
            }
        } else {
            let inbox = Arc::clone(session.stream().inbox());
            let filled = SimRuntime::select2(inbox.filled(), responses.closed()).await;
            if matches!(filled, Select2::Second(())) {
                return;
            }
            Vec::new()
        };
        if !send(&responses, made).await {
            return;
        }
        session.receive();
        while let Some(delivered) = session.next_delivered() {
            if !send(&responses, delivered).await {
                return;
            }
        }
    }
}

async fn send(responses: &mpsc::Sender<WatchResponse>, made: Vec<WatchResponse>) -> bool {
    for response in made {
        if responses.send(response).await.is_err() {
            return false;
        }
    }
    true
}

type Page = Result<(Vec<Arc<Commit>>, i64), Compacted>;

async fn catch_up(
    member: &Member,
    session: &mut Session,
    need: Need,
) -> io::Result<Vec<WatchResponse>> {
    let (commits, next) = if let Some(recent) = member.hub().recent_seen(need.from, STEP_BYTES) {
        recent
    } else {
        member.world().count("watcher served from the store");
        match stored(member, need)? {
            Ok((commits, next)) => {
                if next <= need.from {
                    sleep(STORE_PAUSE).await;
                }
                (commits, next)
            }
            Err(Compacted { floor }) => {
                member.world().count("watch ended by a compaction");
                if member.world().plan.defect != Some(Defect::CompactionAheadOfWatchers) {
                    return Ok(session.compacted(floor));
                }
                (Vec::new(), floor.compacted)
            }
        }
    };
    let mut made = Vec::new();
    for id in session.ids_behind() {
        made.extend(session.feed(id, &commits, next));
    }
    Ok(made)
}

fn stored(member: &Member, need: Need) -> io::Result<Page> {
    let query = HistoryQuery {
        from: need.from,
        to: member.hub().published(),
        max_events: STEP_EVENTS,
        max_bytes: STEP_BYTES,
        previous: need.prev_kv,
    };
    let mut page = None;
    member.store().engine().read(&mut |view| {
        page = Some(history_since(view, &query)?);
        Ok(())
    })?;
    let page = page.ok_or_else(|| io::Error::other("nothing was read"))?;
    Ok(page.map(|page| (page.revisions.into_iter().map(commit).collect(), page.next)))
}
