//! The process of a worker: a member by its lease, it reports what it runs, runs what it is told to
//! in processes of their own, and serves the outputs of its maps.
//!
//! What it may do is asked of [`mapreduce_core::worker`] before each deed, with the copy of the
//! group that this process follows and its own lease. What it is told by a master alone is never
//! enough to serve an octet or to publish a file.

use crate::cluster::attempt::{self, Done, Running};
use crate::cluster::copy::{Copy, Ended, News, runs};
use crate::cluster::keys::{self, WorkerEntry};
use crate::cluster::master::asked_to_end;
use crate::cluster::metrics::OfWorker;
use crate::cluster::process::Failure;
use crate::cluster::proto::{effect, master_client, worker_server};
use crate::cluster::shuffle::{self, Serving};
use crate::cluster::{http, logs, program, proto, wire};
use crate::store::Stores;
use crate::{Error, Result};
use cfgsvc_client::{
    Client, Compare, Following, Freshness, LeaseState, Moment, Op, Put, Session, Txn,
};
use fs_err as fs;
use mapreduce_core::limits::REPORT_ENTRIES_MAX;
use mapreduce_core::master::event::{
    Assignment, Failed, FetchFailed, Finished, Location, Outcome, Progress, Report,
};
use mapreduce_core::names::{AttemptId, Incarnation, JobId, Phase, TaskId};
use mapreduce_core::record::FailureClass;
use mapreduce_core::worker::{Confirmed, Deed, Intake, Refused, Taken, may};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Time to live of a worker's lease, s.
const TTL_S: i64 = 6;
/// For how long a confirmation of the copy counts.
const FRESH: Duration = Duration::from_secs(3);
/// Longest wait for the answer to a report.
const REPORT: Duration = Duration::from_secs(3);
/// Between two signs of life of who is connected, and for how long they may be missing.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(10);
/// Reports that wait for their answers.
const ASKED_MAX: usize = 2;
/// Octets of a message.
pub(crate) const MESSAGE_MAX: usize = 64 << 20;
/// Between two tries to reach a master.
const AGAIN: Duration = Duration::from_millis(200);
/// Between two looks for an earlier life's key to be gone.
const LOOK: Duration = Duration::from_millis(500);

/// How a worker runs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    /// Where others reach it.
    pub(crate) address: String,
    pub(crate) host: String,
    pub(crate) zone: String,
    /// Paths and URLs below which what is read is on this host.
    pub(crate) holds: Vec<String>,
    pub(crate) slots: u32,
    /// Octets of memory for the records of a task.
    pub(crate) memory: usize,
    /// For runs, programs and logs; of this worker alone.
    pub(crate) directory: PathBuf,
    /// A task may stand still for so long.
    pub(crate) still_max: Duration,
    /// Octets of memory that the process of a task may have.
    pub(crate) memory_max: u64,
}

/// What became of an attempt here.
#[derive(Debug)]
enum State {
    Running(Running),
    Finished(Box<Finished>, Done),
    Failed(Box<Failed>),
}

/// An attempt that this worker knows.
#[derive(Debug)]
struct Attempt {
    assignment: Assignment,
    state: State,
}

/// Where map outputs of a job are.
#[derive(Debug, Default)]
struct Whereabouts {
    known: u64,
    maps: BTreeMap<u32, Location>,
}

#[derive(Debug, Default)]
struct Inner {
    intake: Intake,
    sequence: u64,
    attempts: BTreeMap<AttemptId, Attempt>,
    whereabouts: BTreeMap<JobId, Whereabouts>,
    fetch_failed: Vec<FetchFailed>,
    /// What is known of jobs.
    jobs: BTreeMap<JobId, Arc<attempt::Job>>,
    /// Outputs of maps that have won here, by job and map.
    outputs: BTreeMap<(JobId, u32), (AttemptId, PathBuf)>,
}

/// What the parts of the process share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) incarnation: Incarnation,
    /// Buckets in which outputs of jobs are.
    pub(crate) stores: Stores,
    following: Following<Copy>,
    lease: tokio::sync::watch::Receiver<LeaseState>,
    inner: Mutex<Inner>,
    news: Arc<News>,
    /// Something has changed that the master should hear of.
    to_report: Notify,
    /// Locations have changed.
    pub(crate) located: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this may be done now, of a task of a job.
    pub(crate) fn may(&self, deed: Deed, job: JobId, task: TaskId) -> Result<(), Refused> {
        let now = Moment::now();
        self.following.look(|state| {
            let copy = state.kept();
            let found = copy.job(job).map(|(_, found)| found);
            let fresh_until = match state.freshness(now) {
                Freshness::Fresh { until, .. } => until,
                Freshness::Never | Freshness::Stale { .. } => Moment::since_boot(Duration::ZERO),
            };
            let lease_until = match *self.lease.borrow() {
                LeaseState::Held { until } => since_boot(until),
                LeaseState::Lost(_) => Duration::ZERO,
            };
            let confirmed = Confirmed {
                epoch: copy
                    .master
                    .as_ref()
                    .map(|(entry, _)| mapreduce_core::names::Epoch(entry.epoch)),
                lease_until,
                fresh_until: since_boot(fresh_until),
                job: found.map(|job| &job.header.status),
                winner: found
                    .and_then(|job| job.state.winner(task))
                    .map(|winner| winner.attempt),
            };
            may(deed, &confirmed, since_boot(now))
        })
    }

    /// The key of a job, by its number.
    pub(crate) fn key_of(&self, job: JobId) -> Option<String> {
        self.following
            .look(|state| state.kept().job(job).map(|(key, _)| key.to_owned()))
    }

    /// What is known of a job.
    pub(crate) fn description(&self, job: JobId) -> Option<Arc<attempt::Job>> {
        self.lock().jobs.get(&job).cloned()
    }

    /// Keeps what was read of a job, while it goes on; what all its attempts share.
    pub(crate) fn describe(&self, job: JobId, read: Arc<attempt::Job>) -> Arc<attempt::Job> {
        Arc::clone(self.lock().jobs.entry(job).or_insert(read))
    }

    /// Where a life of a worker is reached.
    pub(crate) fn address(&self, of: Incarnation) -> Option<String> {
        self.following
            .look(|state| state.kept().address(of).map(str::to_owned))
    }

    /// Where the outputs of a job's maps are, as far as is known.
    pub(crate) fn locations(&self, job: JobId) -> BTreeMap<u32, Location> {
        let inner = self.lock();
        let found = inner.whereabouts.get(&job);
        found.map(|found| found.maps.clone()).unwrap_or_default()
    }

    /// The run of a map that has won here, as the caller knows: also of one whose worker, this one,
    /// was not told yet.
    pub(crate) fn output(&self, job: JobId, map: u32, attempt: AttemptId) -> Option<PathBuf> {
        let inner = self.lock();
        let told = inner.outputs.get(&(job, map));
        if let Some((_, path)) = told.filter(|(of, _)| *of == attempt) {
            return Some(path.clone());
        }
        let attempt = inner.attempts.get(&attempt)?;
        let is_it = attempt.assignment.job == job && attempt.assignment.task == TaskId::map(map);
        match &attempt.state {
            State::Finished(_, done) if is_it => done.run.clone(),
            State::Finished(..) | State::Running(_) | State::Failed(_) => None,
        }
    }

    /// A reduce cannot have the output of a map: the master hears of it.
    pub(crate) fn cannot_fetch(&self, failed: FetchFailed) {
        let mut inner = self.lock();
        if !inner.fetch_failed.contains(&failed) {
            inner.fetch_failed.push(failed);
        }
        drop(inner);
        self.to_report.notify_one();
    }

    /// A reduce has the outputs of these maps now: what was said of them is over.
    pub(crate) fn could_fetch(&self, reader: AttemptId, maps: impl Iterator<Item = u32>) {
        let maps: BTreeSet<u32> = maps.collect();
        let mut inner = self.lock();
        let failed = &mut inner.fetch_failed;
        failed.retain(|failed| failed.reader != reader || !maps.contains(&failed.map));
    }

    /// An attempt has ended.
    pub(crate) fn ended(&self, of: AttemptId, result: Result<Done, (Failure, Option<u64>)>) {
        let mut inner = self.lock();
        match (inner.attempts.get_mut(&of), result) {
            (Some(attempt), Ok(done)) => {
                let finished = Box::new(done.finished(&attempt.assignment));
                attempt.state = State::Finished(finished, done);
            }
            (Some(attempt), Err((failure, position))) => {
                let failed = attempt::failed(failure, position, &attempt.assignment);
                attempt.state = State::Failed(Box::new(failed));
            }
            // It was stopped meanwhile.
            (None, Ok(done)) => attempt::aside(move || done.remove()),
            (None, Err(_)) => {}
        }
        inner.fetch_failed.retain(|failed| failed.reader != of);
        drop(inner);
        self.to_report.notify_one();
    }

    /// How it is now, for monitors.
    pub(crate) fn present(&self) -> OfWorker {
        let now = Moment::now();
        let lease = match *self.lease.borrow() {
            LeaseState::Held { until } => now.until(until),
            LeaseState::Lost(_) => Duration::ZERO,
        };
        let freshness = self.following.look(|state| state.freshness(now));
        let inner = self.lock();
        let mut present = OfWorker {
            lease_s: lease.as_secs_f64(),
            is_fresh: matches!(freshness, Freshness::Fresh { .. }),
            slots: self.settings.slots.into(),
            outputs: inner.outputs.len() as u64,
            ..OfWorker::default()
        };
        for attempt in inner.attempts.values() {
            match &attempt.state {
                State::Running(running) => {
                    present.running += 1;
                    present.octets += running.progress.octets.load(Ordering::Relaxed);
                    present.records += running.progress.records.load(Ordering::Relaxed);
                }
                State::Finished(..) => present.finished += 1,
                State::Failed(_) => present.failed += 1,
            }
        }
        present
    }

    /// Puts beside what runs what its code says of it.
    fn say_status(&self, report: &mut proto::ReportRequest) {
        let inner = self.lock();
        for told in &mut report.running {
            let attempt = wire::attempt_of(told.attempt);
            let attempt = attempt.ok().and_then(|id| inner.attempts.get(&id));
            if let Some(State::Running(running)) = attempt.map(|attempt| &attempt.state) {
                told.status = running.progress.status();
            }
        }
    }

    fn report(&self) -> Report {
        let mut inner = self.lock();
        inner.sequence += 1;
        let Inner {
            attempts,
            fetch_failed,
            ..
        } = &mut *inner;
        // Who was stopped misses nothing. What is too much for a report comes in later ones.
        fetch_failed.retain(|failed| attempts.contains_key(&failed.reader));
        let fetch_failed = fetch_failed.iter().take(REPORT_ENTRIES_MAX).cloned();
        let fetch_failed = fetch_failed.collect();
        let mut report = Report {
            incarnation: self.incarnation,
            sequence: inner.sequence,
            epoch: inner.intake.epoch(),
            accepted: inner.intake.accepted(),
            running: Vec::new(),
            finished: Vec::new(),
            failed: Vec::new(),
            fetch_failed,
            known: Vec::new(),
        };
        let mut reducing = BTreeSet::new();
        for (id, attempt) in &inner.attempts {
            let Assignment { job, task, .. } = attempt.assignment;
            if task.phase == Phase::Reduce {
                reducing.insert(job);
            }
            match &attempt.state {
                State::Running(running) => report.running.push(Progress {
                    job,
                    task,
                    attempt: *id,
                    bytes: running.progress.octets.load(Ordering::Relaxed),
                    records: running.progress.records.load(Ordering::Relaxed),
                }),
                State::Finished(finished, _) => report.finished.push((**finished).clone()),
                State::Failed(failed) => report.failed.push((**failed).clone()),
            }
        }
        inner.whereabouts.retain(|job, _| reducing.contains(job));
        for job in reducing {
            let known = inner.whereabouts.entry(job).or_default().known;
            report.known.push((job, known));
        }
        report
    }
}

fn since_boot(moment: Moment) -> Duration {
    Duration::from_nanos(moment.nanos())
}

/// Runs until it is asked to end. A lease that is lost ends a life: all that ran is ended, and
/// another life begins.
pub(crate) async fn run(
    client: Client,
    listener: tokio::net::TcpListener,
    settings: Settings,
    http: Option<tokio::net::TcpListener>,
) -> Result<()> {
    let _locked = own_directory(&settings.directory)?;
    let life = Arc::<Life>::default();
    let serving = worker_server::WorkerServer::new(Serving::new(Arc::clone(&life)));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    // Who fetches and stands still is let go.
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(serving);
    let server = server.serve_with_incoming(incoming);
    let mut ended = std::pin::pin!(asked_to_end()?);
    let mut showing = std::pin::pin!(http::serve_worker(http, Arc::clone(&life)));
    let mut living = std::pin::pin!(async {
        loop {
            if let Err(error) = live(&client, &settings, &life).await {
                tracing::warn!(%error, "begins another life");
                tokio::time::sleep(LOOK).await;
            }
        }
    });
    let done = tokio::select! {
        () = &mut living => Ok(()),
        () = &mut showing => Ok(()),
        served = server => Ok(served?),
        () = &mut ended => Ok(()),
    };
    let session = life.end();
    if let Some(session) = session {
        // The group need not wait for the lease to end.
        session.close().await?;
    }
    done
}

/// The life of a worker that is a member now, if it is one.
#[derive(Default)]
pub(crate) struct Life(Mutex<Option<(Arc<Shared>, Session)>>);

impl Life {
    fn lock(&self) -> MutexGuard<'_, Option<(Arc<Shared>, Session)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What serves.
    pub(crate) fn now(&self) -> Option<Arc<Shared>> {
        self.lock().as_ref().map(|(shared, _)| Arc::clone(shared))
    }

    /// Ends all that runs.
    fn end(&self) -> Option<Session> {
        let (shared, session) = self.lock().take()?;
        shared.lock().attempts.clear();
        Some(session)
    }
}

/// One life: until its lease is lost.
async fn live(client: &Client, settings: &Settings, life: &Life) -> Result<()> {
    // What an earlier life has left is nobody's.
    for part in [attempt::ATTEMPTS, program::PROGRAMS] {
        for entry in fs::read_dir(settings.directory.join(part))? {
            let path = entry?.path();
            fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path))?;
        }
    }
    let session = client.session(TTL_S).await?;
    let incarnation = join(client, &session, settings).await?;
    let (name, address) = (&settings.name, &settings.address);
    tracing::info!(%incarnation, name, address, "worker is a member");
    let news = Arc::new(News::default());
    let told = Arc::clone(&news);
    let copy = Copy::keeping(Ended::Forgotten);
    let following = client.follow(keys::PREFIX, FRESH, copy, move |_, changes| {
        if let Some(changes) = changes {
            told.tell(changes);
        }
    });
    let lease = session.state();
    let shared = Arc::new(Shared {
        client: client.clone(),
        settings: settings.clone(),
        incarnation,
        stores: Stores::default(),
        following,
        lease: lease.clone(),
        inner: Mutex::default(),
        news,
        to_report: Notify::new(),
        located: Notify::new(),
    });
    *life.lock() = Some((Arc::clone(&shared), session));
    let lost = tokio::select! {
        lost = lease_lost(lease) => lost,
        () = clean_all(&shared) => "it hears nothing".to_owned(),
        () = report_all(&shared) => "it reports nothing".to_owned(),
    };
    drop(life.end());
    Err(format!("life {incarnation} of worker {name} is over: {lost}").into())
}

async fn lease_lost(mut lease: tokio::sync::watch::Receiver<LeaseState>) -> String {
    let lost = lease.wait_for(|state| matches!(state, LeaseState::Lost(_)));
    match lost.await.map(|state| state.to_owned()) {
        Ok(LeaseState::Lost(why)) => format!("its lease is lost: {why}"),
        Ok(LeaseState::Held { .. }) | Err(_) => "its lease is not kept".to_owned(),
    }
}

/// Makes a worker's directory, for it alone, without what an earlier life has left.
fn own_directory(directory: &Path) -> Result<fs::File> {
    for part in [attempt::ATTEMPTS, program::PROGRAMS, shuffle::LOGS] {
        fs::create_dir_all(directory.join(part))?;
    }
    let locked = fs::File::create(directory.join("lock"))?;
    locked.file().try_lock().map_err(|error| {
        let name = directory.display();
        Error::from(format!(
            "--data-dir {name}: another worker uses it: {error}"
        ))
    })?;
    Ok(locked)
}

/// Hears what changes in the group: another master gets a report, and jobs that are over leave
/// nothing here.
async fn clean_all(shared: &Arc<Shared>) {
    let mut sweeping = logs::Sweeping::default();
    loop {
        let changed = shared.news.next().await;
        let of_gone = shared
            .following
            .look(|state| sweeping.needed(&changed, state.kept()));
        if let Some(jobs) = of_gone {
            let directory = shared.settings.directory.clone();
            attempt::aside(move || logs::sweep(&directory, &jobs));
        }
        if changed.master {
            shared.to_report.notify_one();
        }
        let mut inner = shared.lock();
        let mut jobs: BTreeSet<JobId> = inner.jobs.keys().copied().collect();
        jobs.extend(inner.outputs.keys().map(|(job, _)| *job));
        jobs.extend(
            inner
                .attempts
                .values()
                .map(|attempt| attempt.assignment.job),
        );
        let over = shared.following.look(|state| {
            let copy = state.kept();
            jobs.retain(|job| !copy.job(*job).is_some_and(|(_, job)| runs(job)));
            jobs
        });
        for job in over {
            inner.jobs.remove(&job);
            inner.outputs.retain(|(of, _), _| *of != job);
            inner
                .attempts
                .retain(|_, attempt| attempt.assignment.job != job);
            let directory = shared.settings.directory.clone();
            attempt::aside(move || attempt::clean(&directory, job));
        }
    }
}

/// Writes the worker's key, once an earlier life of this name is over.
async fn join(client: &Client, session: &Session, settings: &Settings) -> Result<Incarnation> {
    let key = format!("{}{}", keys::WORKERS, settings.name);
    let entry = serde_json::to_vec(&WorkerEntry {
        address: settings.address.clone(),
        slots: settings.slots,
        host: settings.host.clone(),
        zone: settings.zone.clone(),
        holds: settings.holds.clone(),
    })?;
    loop {
        let put = Put::new(key.clone(), entry.clone()).lease(session.lease());
        let txn = Txn::new()
            .when(Compare::missing(key.clone()))
            .then(Op::Put(put));
        let reply = client.txn(txn).await?;
        if reply.succeeded {
            return Ok(Incarnation(reply.revision.unsigned_abs()));
        }
        tracing::info!(
            name = settings.name,
            "waits for the lease of an earlier life"
        );
        tokio::time::sleep(LOOK).await;
    }
}

type ToMaster = master_client::MasterClient<tonic::transport::Channel>;

/// Reports to whoever is the master, and does what comes back. An answer is held back until there
/// is something to do: what is new here goes in a report of its own meanwhile.
async fn report_all(shared: &Arc<Shared>) {
    let mut asked: JoinSet<Result<proto::ReportResponse, String>> = JoinSet::new();
    let mut reached: Option<(String, ToMaster)> = None;
    loop {
        let master = shared.following.look(|state| {
            let master = state.kept().master.as_ref();
            master.map(|(entry, _)| entry.address.clone())
        });
        if reached.as_ref().map(|(known, _)| known) != master.as_ref() {
            // What was asked of another is of no interest.
            asked.abort_all();
            asked = JoinSet::new();
            reached = None;
        }
        let Some(address) = master else {
            shared.to_report.notified().await;
            continue;
        };
        if reached.is_none() {
            let connected = connect(&address).await;
            reached = connected.map(|client| (address.clone(), client));
        }
        let Some((_, client)) = &reached else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let mut report = wire::report(&shared.report());
        shared.say_status(&mut report);
        asked.spawn(ask(client.clone(), report));
        loop {
            let has_room = asked.len() < ASKED_MAX;
            tokio::select! {
                biased;
                Some(answer) = asked.join_next() => {
                    if let Some(problem) = answered(shared, answer) {
                        tracing::debug!(problem, address, "the master does not answer");
                        reached = None;
                        tokio::time::sleep(AGAIN).await;
                        break;
                    }
                    if asked.is_empty() {
                        break;
                    }
                }
                () = shared.to_report.notified(), if has_room => break,
            }
        }
    }
}

async fn ask(
    mut client: ToMaster,
    report: proto::ReportRequest,
) -> Result<proto::ReportResponse, String> {
    match tokio::time::timeout(REPORT, client.report(report)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.to_string()),
        Err(elapsed) => Err(elapsed.to_string()),
    }
}

/// Does what an answer says; why there was none.
fn answered(
    shared: &Arc<Shared>,
    answer: Result<Result<proto::ReportResponse, String>, tokio::task::JoinError>,
) -> Option<String> {
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(problem)) => return Some(problem),
        Err(error) => return Some(error.to_string()),
    };
    let epoch = mapreduce_core::names::Epoch(response.epoch);
    if shared.lock().intake.hear(epoch) {
        for effect in response.effects {
            take(shared, effect);
        }
    }
    None
}

async fn connect(address: &str) -> Option<ToMaster> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).ok()?;
    let endpoint = endpoint.connect_timeout(Duration::from_secs(1));
    let channel = endpoint.connect().await.ok()?;
    let client = master_client::MasterClient::new(channel);
    Some(client.max_decoding_message_size(MESSAGE_MAX))
}

fn take(shared: &Arc<Shared>, effect: proto::Effect) {
    let taken = match effect.effect {
        Some(effect::Effect::Assign(assign)) => {
            wire::assignment_of(assign).map(|assignment| begin(shared, assignment))
        }
        Some(effect::Effect::Tell(tell)) => wire::outcome_of(&tell).and_then(|outcome| {
            let attempt = wire::attempt_of(tell.attempt)?;
            told(shared, attempt, outcome);
            Ok(())
        }),
        Some(effect::Effect::Stop(stop)) => wire::attempt_of(stop.attempt).map(|attempt| {
            // Its process ends with what is dropped.
            shared.lock().attempts.remove(&attempt);
        }),
        Some(effect::Effect::Locations(locations)) => locate(shared, &locations),
        None => Ok(()),
    };
    if let Err(error) = taken {
        tracing::warn!(%error, "what the master says is not understood");
    }
}

fn begin(shared: &Arc<Shared>, assignment: Assignment) {
    let id = assignment.attempt;
    // Held until it is known here: what ends at once waits to say so.
    let mut inner = shared.lock();
    if inner.intake.take(id, assignment.epoch) != Taken::New {
        return;
    }
    let deed = Deed::Begin(assignment.epoch);
    let state = match shared.may(deed, assignment.job, assignment.task) {
        Ok(()) => State::Running(attempt::start(Arc::clone(shared), assignment.clone())),
        Err(refused) => {
            let failure = Failure {
                class: FailureClass::Fenced,
                message: refused.to_string(),
            };
            State::Failed(Box::new(attempt::failed(failure, None, &assignment)))
        }
    };
    let attempt = Attempt { assignment, state };
    inner.attempts.insert(id, attempt);
}

fn locate(shared: &Shared, locations: &proto::Locations) -> Result<(), wire::Missing> {
    let entries = locations.entries.iter().map(wire::location_of);
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    let mut inner = shared.lock();
    let found = inner.whereabouts.entry(JobId(locations.job)).or_default();
    if found.known == locations.from {
        found.known = locations.next;
        for (map, location) in entries {
            match location {
                Some(location) => found.maps.insert(map, location),
                None => found.maps.remove(&map),
            };
        }
    }
    let Inner {
        whereabouts,
        fetch_failed,
        ..
    } = &mut *inner;
    // Of a map that is elsewhere now nothing is known yet.
    fetch_failed.retain(|failed| {
        let known = whereabouts.get(&failed.job);
        let now = known.and_then(|known| known.maps.get(&failed.map));
        now.is_some_and(|now| now.attempt == failed.attempt)
    });
    drop(inner);
    shared.located.notify_waiters();
    if locations.next < locations.known {
        shared.to_report.notify_one();
    }
    Ok(())
}

/// What became of an attempt: its files are kept, published or removed.
fn told(shared: &Arc<Shared>, id: AttemptId, outcome: Outcome) {
    let mut inner = shared.lock();
    let Some(attempt) = inner.attempts.get(&id) else {
        return;
    };
    let (job, task) = (attempt.assignment.job, attempt.assignment.task);
    let State::Finished(_, done) = &attempt.state else {
        if outcome == Outcome::Noted || outcome == Outcome::Fenced {
            inner.attempts.remove(&id);
        }
        return;
    };
    let done = done.clone();
    inner.attempts.remove(&id);
    match (outcome, &done.run) {
        (Outcome::Won | Outcome::AlreadyWon, Some(run)) => {
            inner.outputs.insert((job, task.index), (id, run.clone()));
        }
        // Its output file gets its name when the job is done. So it does if a master knows nothing
        // of the job, or not any more: it may have won.
        (Outcome::Won | Outcome::AlreadyWon, None) | (Outcome::Fenced | Outcome::Noted, _) => {
            attempt::aside(move || done.remove_runs());
        }
        (Outcome::Lost(_), _) => attempt::aside(move || done.remove()),
    }
}
