//! The process of a master: waits for the lock, registers its epoch in the group, and carries out
//! what [`mapreduce_core::master::Master`] says, until it is not the master any more.
//!
//! The register is the key [`keys::MASTER`]. A master writes its epoch there only over a lower one
//! and while the lock's grant has its epoch; each of its writes is conditional on the revision of
//! that write. So a master that another has followed can change nothing, whatever it believes.

use crate::Result;
use crate::cluster::keys::{self, MasterEntry};
use crate::cluster::proto::master_server;
use crate::cluster::worker::{KEEPALIVE, MESSAGE_MAX};
use crate::cluster::{appending, hearing, http, inspect, proto, settling, wire};
use crate::store::Stores;
use cfgsvc_client::{Client, Compare, Is, LockOptions, Op, Put, Txn};
use mapreduce_core::master::event::{Effect, Event, ReportError};
use mapreduce_core::master::{Master, Settings};
use mapreduce_core::names::{Epoch, Incarnation, JobId};
use mapreduce_core::record::{Batch, Header};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

/// Between two looks at the time.
const TICK: Duration = Duration::from_millis(50);
/// Longest wait of a report for something to do.
const HOLD: Duration = Duration::from_millis(300);
/// Between two tries to be the master, when one ended with an error.
const PAUSE: Duration = Duration::from_secs(1);
/// Effects that wait for a worker which does not report; it is told anew what was left out.
const OUTBOX_MAX: usize = 65_536;

/// One epoch's work.
pub(super) struct Office {
    pub(super) master: Master,
    began: Instant,
    /// Revision of this master's entry in the group.
    pub(super) registered: i64,
    /// Keys of jobs.
    pub(super) keys: BTreeMap<JobId, String>,
    /// Those that are not taken, as there are so many: the next one is the first.
    pub(super) waiting: BTreeMap<JobId, String>,
    outboxes: BTreeMap<Incarnation, Outbox>,
    pub(super) appends: VecDeque<Append>,
    /// Where attempts failed, for people.
    pub(super) failed_at: inspect::FailedAt,
    /// What the code of attempts says, for people.
    pub(super) said: inspect::Said,
    pub(super) is_over: bool,
}

/// What a worker is to be told.
#[derive(Default)]
struct Outbox {
    effects: Vec<proto::Effect>,
    /// The latest report of it.
    latest: u64,
    /// There is something, or another report has come, or the office is over.
    told: Arc<Notify>,
}

pub(super) struct Append {
    pub(super) job: JobId,
    pub(super) sequence: u64,
    pub(super) batch: Batch,
    pub(super) header: Option<Header>,
}

/// What the parts of the process share.
#[derive(Default)]
pub(super) struct Shared {
    office: Mutex<Option<Office>>,
    /// There is something to append.
    pub(super) to_append: Notify,
    /// Jobs that have ended.
    pub(super) to_settle: Notify,
    /// Those with which files are put into place or removed now, by key.
    pub(super) settling: Arc<Mutex<BTreeSet<String>>>,
    /// Buckets in which their outputs are.
    pub(super) stores: Arc<Stores>,
    /// Where it serves HTTP, if it does.
    pub(super) http: Option<String>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Takes a step, if there is an office, and hands out what comes of it.
    pub(super) fn step(&self, event: Event) {
        let mut office = lock(&self.office);
        if let Some(office) = office.as_mut() {
            office.step(event);
            if !office.appends.is_empty() {
                self.to_append.notify_one();
            }
        }
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Office) -> T) -> Option<T> {
        lock(&self.office).as_mut().map(look)
    }
}

impl Office {
    fn step(&mut self, event: Event) {
        for effect in self.master.step(self.began.elapsed(), event) {
            match effect {
                Effect::Append {
                    job,
                    sequence,
                    batch,
                    header,
                } => self.appends.push_back(Append {
                    job,
                    sequence,
                    batch,
                    header,
                }),
                Effect::JobEnded { job, status } => {
                    // What there is to do then follows from the group.
                    tracing::info!(%job, ?status, "job ended");
                }
                Effect::Rejected {
                    from,
                    error: ReportError::UnknownWorker(_),
                } => {
                    // It was quicker than the watch that tells of it.
                    tracing::debug!(worker = %from, "a report of one that is not known yet");
                }
                Effect::Rejected { from, error } => {
                    tracing::warn!(worker = %from, %error, "a report is not believed");
                }
                Effect::Unreadable { job, message } => {
                    tracing::error!(%job, message, "job cannot be read");
                }
                Effect::SteppedDown { why } => {
                    tracing::warn!(why, "not the master any more");
                    self.is_over = true;
                }
                other @ (Effect::Assign { .. }
                | Effect::Tell { .. }
                | Effect::Stop { .. }
                | Effect::Locations { .. }) => self.tell(other),
            }
        }
    }

    fn tell(&mut self, effect: Effect) {
        if let Some((to, effect)) = wire::effect(effect) {
            let outbox = self.outboxes.entry(to).or_default();
            if outbox.effects.len() < OUTBOX_MAX {
                outbox.effects.push(effect);
                outbox.told.notify_waiters();
            }
        }
    }

    /// Jobs that have this key. When one is removed, another may get it.
    pub(super) fn jobs_of(&self, key: &str) -> Vec<JobId> {
        let all = self.keys.iter().chain(&self.waiting);
        let found = all.filter(|(_, of)| *of == key);
        found.map(|(id, _)| *id).collect()
    }

    /// A job that is not in the group any more.
    pub(super) fn forget_job(&mut self, id: JobId) {
        self.keys.remove(&id);
        self.waiting.remove(&id);
    }

    /// A worker is gone.
    pub(super) fn forget(&mut self, worker: Incarnation) {
        self.said.forget(worker);
        if let Some(outbox) = self.outboxes.remove(&worker) {
            outbox.told.notify_waiters();
        }
    }

    /// A report has come; what says that there is something for its worker. Of strangers nothing is
    /// kept: they hear of it when it is too late.
    fn heard(&mut self, from: Incarnation, sequence: u64) -> Arc<Notify> {
        if self.master.worker(from).is_none() {
            return Arc::default();
        }
        let outbox = self.outboxes.entry(from).or_default();
        if sequence > outbox.latest {
            outbox.latest = sequence;
            outbox.told.notify_waiters();
        }
        Arc::clone(&outbox.told)
    }

    /// What there is for a worker whose report with this number waits; none: it need not wait.
    fn answer(&mut self, to: Incarnation, sequence: u64) -> Option<Vec<proto::Effect>> {
        let outbox = self.outboxes.get_mut(&to)?;
        if !outbox.effects.is_empty() || sequence < outbox.latest {
            return Some(std::mem::take(&mut outbox.effects));
        }
        None
    }
}

/// Answers workers.
struct Reports {
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl master_server::Master for Reports {
    async fn report(
        &self,
        request: Request<proto::ReportRequest>,
    ) -> Result<Response<proto::ReportResponse>, Status> {
        let request = request.into_inner();
        self.shared
            .with(|office| office.said.note(&office.master, &request));
        let report = wire::report_of(request);
        let report = report.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (from, sequence) = (report.incarnation, report.sequence);
        self.shared
            .with(|office| office.failed_at.note(&office.master, &report));
        self.shared.step(Event::Report(Box::new(report)));
        let told = self.shared.with(|office| office.heard(from, sequence));
        let told = told.ok_or_else(|| Status::unavailable("not the master"))?;
        let deadline = tokio::time::Instant::now() + HOLD;
        loop {
            let mut told = std::pin::pin!(told.notified());
            // What is told from here on is heard.
            told.as_mut().enable();
            let is_late = tokio::time::Instant::now() >= deadline;
            let taken = self.shared.with(|office| {
                let effects = office.answer(from, sequence);
                let effects = effects.or_else(|| is_late.then(Vec::new));
                (office.master.epoch(), effects, office.is_over)
            });
            let Some((epoch, effects, false)) = taken else {
                return Err(Status::unavailable("not the master"));
            };
            if let Some(effects) = effects {
                let epoch = epoch.0;
                return Ok(Response::new(proto::ReportResponse { epoch, effects }));
            }
            // An error is that it took too long: then the answer is empty.
            let _ = tokio::time::timeout_at(deadline, told).await;
        }
    }

    async fn inspect(
        &self,
        request: Request<proto::InspectRequest>,
    ) -> Result<Response<proto::InspectResponse>, Status> {
        let answer = inspect::inspect(&self.shared, &request.into_inner());
        let answer = answer.ok_or_else(|| Status::unavailable("it is not the master in office"));
        answer.map(Response::new)
    }
}

/// Runs until it is asked to end.
pub(crate) async fn run(
    client: Client,
    listener: tokio::net::TcpListener,
    address: String,
    name: Option<String>,
    people: http::People,
) -> Result<()> {
    let shared = Arc::new(Shared {
        http: people.address()?,
        ..Shared::default()
    });
    let reports = master_server::MasterServer::new(Reports {
        shared: Arc::clone(&shared),
    })
    .max_decoding_message_size(MESSAGE_MAX);
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(reports);
    let server = server.serve_with_incoming(incoming);
    tracing::info!(address, "a master: waits for its turn");
    let holding = async {
        loop {
            let held = hold_office(&client, &shared, &address, name.as_deref()).await;
            if let Err(error) = held {
                tracing::warn!(%error, "stands by again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    let done: Result<()> = tokio::select! {
        () = holding => Ok(()),
        () = http::serve(&client, &shared, people) => Ok(()),
        served = server => Ok(served?),
        () = asked_to_end()? => Ok(()),
    };
    *lock(&shared.office) = None;
    for key in &*lock(&shared.settling) {
        // This process does not wait for its files: they may be where nothing answers.
        tracing::warn!(key, "job is not settled: the next master goes on with it");
    }
    done
}

/// SIGTERM and SIGINT.
pub(crate) fn asked_to_end() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Ends an office, however its time ends.
struct InOffice(Arc<Shared>);

impl Drop for InOffice {
    fn drop(&mut self) {
        let office = lock(&self.0.office).take();
        for outbox in office
            .into_iter()
            .flat_map(|office| office.outboxes.into_values())
        {
            outbox.told.notify_waiters();
        }
    }
}

async fn hold_office(
    client: &Client,
    shared: &Arc<Shared>,
    address: &str,
    name: Option<&str>,
) -> Result<()> {
    let mut options = LockOptions::new()
        .term(Duration::from_secs(5))
        .value(address);
    if let Some(name) = name {
        options = options.host(name);
    }
    let guard = client.lock(keys::LOCK, options).await?;
    let epoch = Epoch(guard.epoch().unsigned_abs());
    let Some(registered) = register(client, epoch, address, shared.http.clone()).await? else {
        guard.release().await?;
        return Ok(());
    };
    tracing::info!(%epoch, address, "is the master");
    *lock(&shared.office) = Some(Office {
        master: Master::new(epoch, Settings::default(), Duration::ZERO),
        began: Instant::now(),
        registered,
        keys: BTreeMap::new(),
        waiting: BTreeMap::new(),
        outboxes: BTreeMap::new(),
        appends: VecDeque::new(),
        failed_at: inspect::FailedAt::default(),
        said: inspect::Said::default(),
        is_over: false,
    });
    let office = InOffice(Arc::clone(shared));
    let done = tokio::select! {
        lost = guard.lost() => {
            tracing::warn!(%epoch, %lost, "is not the master any more");
            return Ok(());
        }
        done = work(client, shared) => done,
    };
    tracing::warn!(%epoch, "is not the master any more");
    drop(office);
    guard.release().await?;
    done
}

/// Writes who is the master; none when a later one has.
async fn register(
    client: &Client,
    epoch: Epoch,
    address: &str,
    http: Option<String>,
) -> Result<Option<i64>> {
    let entry = serde_json::to_vec(&MasterEntry {
        epoch: epoch.0,
        address: address.to_string(),
        http,
    })?;
    loop {
        let before = client.get_key(keys::MASTER).await?;
        // What is no entry keeps nobody out.
        let known: Option<MasterEntry> = before
            .as_ref()
            .and_then(|kv| serde_json::from_slice(&kv.value).ok());
        if known.is_some_and(|known| known.epoch > epoch.0) {
            return Ok(None);
        }
        let revision = before.map_or(0, |kv| kv.mod_revision);
        let txn = Txn::new()
            .when(Compare::mod_revision(keys::MASTER, Is::Equal, revision))
            .then(Op::Put(Put::new(keys::MASTER, entry.clone())));
        let reply = client.txn(txn).await?;
        if reply.succeeded {
            return Ok(Some(reply.revision));
        }
    }
}

/// What a master does while it is one. Ends when it is none any more.
async fn work(client: &Client, shared: &Arc<Shared>) -> Result<()> {
    let news = Arc::default();
    let following = Arc::new(hearing::follow(client, &news));
    // What there was before is told whole: the first load is a change of everything.
    tokio::select! {
        done = hearing::hear(client, shared, (&following, &news)) => done,
        done = appending::append_all(client, shared) => done,
        () = settling::settle_all(client, shared, &following) => Ok(()),
        () = tick(shared) => Ok(()),
    }
}

async fn tick(shared: &Shared) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        shared.step(Event::Time);
        if shared.with(|office| office.is_over) != Some(false) {
            return;
        }
    }
}
