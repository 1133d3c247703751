//! What is left to do when a job has ended, until the group says that it is done: its output is put
//! into its place, or what there is of it is removed. And what is left of submissions that were
//! interrupted, and of removals, is removed.
//!
//! Jobs are settled beside each other: one whose file system does not answer keeps none of the
//! others from it, and says so. It cannot be interrupted; it is begun anew when it has ended, or by
//! the next master.

use crate::Result;
use crate::cluster::copy::Copy;
use crate::cluster::keys::{self, Part, key};
use crate::cluster::master::{Shared, lock};
use crate::cluster::publication::{self, Destination, Published};
use crate::cluster::staging::Staging;
use crate::cluster::{bucket, keeping};
use crate::store::Stores;
use cfgsvc_client::{Client, Compare, Following, Is, Op, Put, Txn};
use mapreduce_core::job::JobState;
use mapreduce_core::names::{Epoch, JobId};
use mapreduce_core::record::JobStatus;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Between two tries of what did not come to its end.
const AGAIN: Duration = Duration::from_secs(2);
/// Jobs that are settled at once: each may hold a thread for as long as its file system does not
/// answer, of 512 that there are.
const AT_ONCE: usize = 64;
/// Between two looks when nothing is told.
const IDLE: Duration = Duration::from_mins(10);
/// After so long it is said that it takes long.
const SLOW: Duration = Duration::from_secs(30);

/// A job that has ended.
struct Ended {
    key: String,
    id: JobId,
    status: JobStatus,
    state: JobState,
    destination: Destination,
}

/// What there is to do.
enum Work {
    Ended(Box<Ended>),
    /// A submission or a removal was left, by key.
    Partial(String, Option<Destination>),
}

impl Work {
    fn key(&self) -> &str {
        match self {
            Self::Ended(ended) => &ended.key,
            Self::Partial(key, _) => key,
        }
    }

    /// None of what is no job.
    fn id(&self) -> Option<JobId> {
        match self {
            Self::Ended(ended) => Some(ended.id),
            Self::Partial(..) => None,
        }
    }
}

/// Settles jobs as long as this is the master.
pub(super) async fn settle_all(client: &Client, shared: &Arc<Shared>, following: &Following<Copy>) {
    // The copy may not have it yet.
    let mut settled: BTreeSet<JobId> = BTreeSet::new();
    let mut later: BTreeMap<String, Instant> = BTreeMap::new();
    // What is at files goes on when this is dropped, as with a master that is held up.
    let mut begun = JoinSet::new();
    let mut at_work: HashMap<tokio::task::Id, String> = HashMap::new();
    loop {
        let now = Instant::now();
        later.retain(|_, at| *at > now);
        while begun.len() < AT_ONCE {
            let is_passed = |key: &str, id: Option<JobId>| {
                id.is_some_and(|id| settled.contains(&id))
                    || later.contains_key(key)
                    || at_work.values().any(|at_work| at_work == key)
                    || lock(&shared.settling).contains(key)
            };
            let Some(work) = next(following, is_passed) else {
                break;
            };
            let (key, id) = (work.key().to_owned(), work.id());
            let held = Held::new(&shared.settling, &key);
            let (client, shared) = (client.clone(), Arc::clone(shared));
            let task = begun.spawn(async move {
                let done = settle(&client, &shared, work, held).await;
                (id, done)
            });
            at_work.insert(task.id(), key);
        }
        let again = later.values().min().copied();
        // One at which an earlier office of this process still is is looked at again, too.
        let is_busy = lock(&shared.settling).len() > begun.len();
        let again = again.unwrap_or(now + if is_busy { AGAIN } else { IDLE });
        tokio::select! {
            Some(done) = begun.join_next_with_id() => {
                let task = done.as_ref().map_or_else(tokio::task::JoinError::id, |(task, _)| *task);
                let key = at_work.remove(&task).unwrap_or_default();
                match done {
                    Ok((_, (Some(id), Ok(())))) => {
                        settled.insert(id);
                        continue;
                    }
                    Ok((_, (None, Ok(())))) => {}
                    Ok((_, (_, Err(error)))) => tracing::error!(key, %error, "job is not settled"),
                    Err(error) => tracing::error!(key, %error, "job is not settled"),
                }
                later.insert(key, Instant::now() + AGAIN);
            }
            () = shared.to_settle.notified() => {}
            () = tokio::time::sleep_until(again) => {}
        }
    }
}

/// A job with which this process is at files: for as long as that takes, in whatever office.
struct Held {
    all: Arc<Mutex<BTreeSet<String>>>,
    key: String,
}

impl Held {
    fn new(all: &Arc<Mutex<BTreeSet<String>>>, key: &str) -> Self {
        lock(all).insert(key.to_owned());
        Self {
            all: Arc::clone(all),
            key: key.to_owned(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.key);
    }
}

/// What is not settled, but for these: first that with which there was no problem yet.
fn next(
    following: &Following<Copy>,
    is_passed: impl Fn(&str, Option<JobId>) -> bool,
) -> Option<Work> {
    following.look(|state| {
        let copy = state.kept();
        let ended = copy.jobs.iter().filter_map(|(key, job)| {
            let destination = job.destination.clone().filter(|to| !to.settled)?;
            let is_over = job.header.status != JobStatus::Running && job.damage.is_none();
            let is_next = is_over && !is_passed(key, Some(job.id));
            is_next.then_some((key, job, destination))
        });
        if let Some((key, job, destination)) = ended.min_by_key(|(_, _, to)| to.problem.is_some()) {
            return Some(Work::Ended(Box::new(Ended {
                key: key.clone(),
                id: job.id,
                status: job.header.status.clone(),
                state: job.state.clone(),
                destination,
            })));
        }
        let mut left = copy.partial.iter();
        let left = left.find(|(key, partial)| !partial.is_submitting && !is_passed(key, None));
        left.map(|(key, partial)| Work::Partial(key.clone(), partial.destination.clone()))
    })
}

async fn settle(client: &Client, shared: &Shared, work: Work, held: Held) -> Result<()> {
    let office = shared.with(|office| (office.master.epoch(), office.registered));
    let Some((epoch, registered)) = office else {
        return Ok(());
    };
    match work {
        Work::Ended(ended) => settle_job(client, shared, *ended, (epoch, registered), held).await,
        Work::Partial(key, destination) => {
            forget(client, shared, (&key, destination), registered, held).await
        }
    }
}

async fn settle_job(
    client: &Client,
    shared: &Shared,
    ended: Ended,
    (epoch, registered): (Epoch, i64),
    held: Held,
) -> Result<()> {
    let of_job = ended.key.clone();
    let at = key(&of_job, Part::Output);
    let found = client.get_key(at.clone()).await?;
    let found = found.ok_or("the job has no destination")?;
    let before: Destination = serde_json::from_slice(&found.value)?;
    if before.settled {
        return Ok(());
    }
    // What it is now: it may have been given up just now.
    let ended = Ended {
        destination: before,
        ..ended
    };
    let (stores, told) = (Arc::clone(&shared.stores), ended.destination.clone());
    // Files may take long: reports are heard meanwhile.
    let mut work = tokio::task::spawn_blocking(move || {
        let done = on_disk(&stores, &ended, epoch);
        drop(held);
        done
    });
    let mut said = Said {
        at,
        revision: found.mod_revision,
        registered,
        last: told,
    };
    let done = if let Ok(done) = tokio::time::timeout(SLOW, &mut work).await {
        done?
    } else {
        let target = said.last.target.display();
        let seconds = SLOW.as_secs();
        let problem = format!("{target}: it takes longer than {seconds} s, and goes on");
        tracing::error!(key = of_job, problem, "job is not settled");
        said.say(client, false, Some(problem)).await?;
        work.await?
    };
    if matches!(done, Ok(true)) {
        // It was there before it was given up.
        said.last.is_given_up = false;
    }
    let problem = done.as_ref().err().map(ToString::to_string);
    if !said.say(client, done.is_ok(), problem).await? && done.is_ok() {
        return Err("it is done, and the group was not told: another did".into());
    }
    done.map(drop)
}

/// What the group is told of a destination, while nobody else tells it something.
struct Said {
    at: String,
    revision: i64,
    registered: i64,
    last: Destination,
}

impl Said {
    async fn say(
        &mut self,
        client: &Client,
        settled: bool,
        problem: Option<String>,
    ) -> Result<bool> {
        let after = Destination {
            settled,
            problem,
            ..self.last.clone()
        };
        if after == self.last {
            return Ok(true);
        }
        let put = Put::new(self.at.clone(), serde_json::to_vec(&after)?);
        let unchanged = Compare::mod_revision(self.at.clone(), Is::Equal, self.revision);
        let txn = Txn::new()
            .when(Compare::mod_revision(
                keys::MASTER,
                Is::Equal,
                self.registered,
            ))
            .when(unchanged)
            .then(Op::Put(put));
        let reply = client.txn(txn).await?;
        if reply.succeeded {
            self.revision = reply.revision;
            self.last = after;
        }
        Ok(reply.succeeded)
    }
}

/// Whether the output is in its place.
fn on_disk(stores: &Stores, ended: &Ended, epoch: Epoch) -> Result<bool> {
    let (id, key, destination) = (ended.id, ended.key.as_str(), &ended.destination);
    let output = destination.target.display();
    let staging = Staging::of(stores, &destination.target, key)?;
    if ended.status != JobStatus::Done || destination.is_given_up {
        let is_published = discard(&staging, destination, (key, id))?;
        if is_published {
            tracing::info!(%id, key, %output, "output was published before it was given up");
        } else {
            tracing::info!(%id, key, %output, "nothing is left of the output");
        }
        return Ok(is_published);
    }
    let of = (key, id);
    let published = match &staging {
        Staging::Directory(_) => publication::publish(destination, of, &ended.state, epoch)?,
        Staging::Bucket(job) => bucket::publish(job, destination, of, &ended.state)?,
    };
    match published {
        Published::Now => tracing::info!(%id, key, %output, "output is published"),
        Published::Before => tracing::info!(%id, key, %output, "output was published before"),
    }
    Ok(true)
}

/// Removes what a job leaves beside its output: of one that has none, all there is. Whether it has
/// one, that is in its place.
fn discard(staging: &Staging, destination: &Destination, of: (&str, JobId)) -> Result<bool> {
    match staging {
        Staging::Directory(_) => {
            publication::discard(destination, of.0)?;
            publication::is_published(destination, of)
        }
        Staging::Bucket(job) => bucket::discard(job, of.0),
    }
}

/// The same of what never was a job.
pub(super) fn discard_unborn(
    staging: &Staging,
    destination: &Destination,
    key: &str,
) -> Result<()> {
    match staging {
        Staging::Directory(_) => publication::discard(destination, key),
        Staging::Bucket(job) => bucket::discard(job, key).map(drop),
    }
}

/// Removes what is left of a submission, or of a removal, that was interrupted.
async fn forget(
    client: &Client,
    shared: &Shared,
    (job, destination): (&str, Option<Destination>),
    registered: i64,
    held: Held,
) -> Result<()> {
    // The copy may be behind. Once neither is there neither comes to be.
    for part in [Part::Header, Part::Submitting] {
        if client.get_key(key(job, part)).await?.is_some() {
            return Ok(());
        }
    }
    if let Some(destination) = destination.filter(|to| !to.settled) {
        let (stores, job) = (Arc::clone(&shared.stores), job.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            let staging = Staging::of(&stores, &destination.target, &job);
            let done = staging.and_then(|staging| discard_unborn(&staging, &destination, &job));
            drop(held);
            done
        });
        work.await??;
    }
    let removed = keeping::remove_rest(client, job, Some(registered)).await?;
    tracing::info!(
        key = job,
        removed,
        "what was left of a submission is removed"
    );
    Ok(())
}
