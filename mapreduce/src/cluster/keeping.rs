//! Jobs that have ended, and for how long the group keeps them: a person removes one, and the
//! master in office removes the oldest when there are many.
//!
//! The header goes first, in a transaction that says what it was: from then on there is no such
//! job, for whoever follows. The rest goes in bounded transactions; whoever ends between them
//! leaves keys of no job, which the master takes away.

use crate::Result;
use crate::cluster::copy::Copy;
use crate::cluster::keys::{self, Part, key};
use crate::cluster::master::Shared;
use crate::cluster::publication::Destination;
use cfgsvc_client::{Client, Compare, Delete, Following, Get, Is, Keys, Op, Put, Txn};
use mapreduce_core::record::{Header, JobStatus};
use tokio::sync::Notify;

/// Keys that one transaction deletes; the group takes 128 steps.
const DELETED_MAX: usize = 100;

/// Which jobs may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Those for which nothing is left to do.
    Settled,
    /// All that have ended; what is left of their outputs is given up.
    Ended,
}

/// Removes a job that has ended; how many keys were deleted. `register`: only while the master's
/// entry is of this revision.
pub(crate) async fn remove(
    client: &Client,
    job: &str,
    register: Option<i64>,
    what: What,
) -> Result<usize> {
    let at = key(job, Part::Header);
    let mut removed = 0;
    if let Some(found) = client.get_key(at.clone()).await? {
        let header = Header::decode(&found.value)?;
        let destination = client.get_key(key(job, Part::Output)).await?;
        let destination: Option<Destination> = destination
            .map(|kv| serde_json::from_slice(&kv.value))
            .transpose()?;
        match what {
            What::Settled => may_go(job, &header.status, destination.as_ref())?,
            What::Ended => must_be_over(job, &header.status)?,
        }
        let unchanged = Compare::mod_revision(at.clone(), Is::Equal, found.mod_revision);
        let txn = held(register)
            .when(unchanged)
            .then(Op::Delete(Delete::new(Keys::one(at))));
        if !client.txn(txn).await?.succeeded {
            return Err(format!("job {job} has changed meanwhile: try it again").into());
        }
        removed += 1;
    }
    Ok(removed + remove_rest(client, job, register).await?)
}

/// Removes the keys of what is no job, and is not being submitted; how many there were.
pub(crate) async fn remove_rest(
    client: &Client,
    job: &str,
    register: Option<i64>,
) -> Result<usize> {
    let mut removed = 0;
    let rest = Keys::prefix(format!("{}{job}/", keys::JOBS));
    // By this the master knows of what is left, whoever is interrupted here: it is the last to go.
    let last = key(job, Part::Output);
    loop {
        let limit = i64::try_from(DELETED_MAX)?;
        let page = Get::new(rest.clone()).keys_only().limit(limit);
        let found: Vec<_> = client
            .get(page)
            .await?
            .kvs
            .into_iter()
            .map(|kv| kv.key)
            .collect();
        if found.is_empty() {
            return Ok(removed);
        }
        // A job of the same key that came to be meanwhile is not touched.
        let mut txn = held(register)
            .when(Compare::missing(key(job, Part::Header)))
            .when(Compare::missing(key(job, Part::Submitting)));
        let is_last = |key: &bytes::Bytes| *key == last.as_bytes();
        let deleted = || found.iter().filter(|key| found.len() == 1 || !is_last(key));
        for key in deleted() {
            txn = txn.then(Op::Delete(Delete::new(Keys::one(key.clone()))));
        }
        if !client.txn(txn).await?.succeeded {
            return Err(format!("job {job} is not removed whole: try it again").into());
        }
        removed += deleted().count();
    }
}

fn held(register: Option<i64>) -> Txn {
    match register {
        Some(revision) => Txn::new().when(Compare::mod_revision(keys::MASTER, Is::Equal, revision)),
        None => Txn::new(),
    }
}

/// Gives up the output of a job that has ended, if it cannot be put into its place or removed: no
/// master publishes it any more. False when there is nothing to give up.
pub(crate) async fn give_up(client: &Client, job: &str) -> Result<bool> {
    let header = client.get_key(key(job, Part::Header)).await?;
    let header = Header::decode(&header.ok_or("the job is gone")?.value)?;
    must_be_over(job, &header.status)?;
    loop {
        let at = key(job, Part::Output);
        let Some(found) = client.get_key(at.clone()).await? else {
            return Ok(false);
        };
        let destination: Destination = serde_json::from_slice(&found.value)?;
        if destination.settled || destination.is_given_up {
            return Ok(!destination.settled);
        }
        if destination.problem.is_none() {
            return Err(format!(
                "job {job} has ended, and nothing has kept the master from its output yet: wait \
                 for it"
            )
            .into());
        }
        let given_up = Destination {
            is_given_up: true,
            ..destination
        };
        let put = Put::new(at.clone(), serde_json::to_vec(&given_up)?);
        let txn = Txn::new()
            .when(Compare::mod_revision(at, Is::Equal, found.mod_revision))
            .then(Op::Put(put));
        if client.txn(txn).await?.succeeded {
            return Ok(true);
        }
    }
}

fn must_be_over(job: &str, status: &JobStatus) -> Result<()> {
    if *status != JobStatus::Running {
        return Ok(());
    }
    Err(
        format!("job {job} is running: `mapreduce cancel {job}` ends it, then it can be removed")
            .into(),
    )
}

/// Whether nothing is left to do for a job.
fn may_go(job: &str, status: &JobStatus, destination: Option<&Destination>) -> Result<()> {
    must_be_over(job, status)?;
    let Some(to) = destination.filter(|to| !to.settled) else {
        return Ok(());
    };
    let target = to.target.display();
    let text = match to.problem.as_deref() {
        Some(why) => format!(
            "job {job} has ended, and its output {target} is not settled: {why}\n\
             hint: `mapreduce remove --discard {job}` gives that output up"
        ),
        None => format!(
            "job {job} has ended, and its output {target} is not settled: the master is at it"
        ),
    };
    Err(text.into())
}

/// Jobs that are more than are kept, the oldest first.
fn surplus(copy: &Copy, kept: usize) -> Vec<String> {
    let ended = copy
        .jobs
        .iter()
        .filter(|(job, copy)| may_go(job, &copy.header.status, copy.destination.as_ref()).is_ok());
    let mut ended: Vec<_> = ended.map(|(job, copy)| (copy.id, job)).collect();
    ended.sort();
    let more = ended.len().saturating_sub(kept);
    ended
        .into_iter()
        .take(more)
        .map(|(_, job)| job.clone())
        .collect()
}

/// Removes what is more than `kept`, while this is the master in office.
pub(super) async fn keep(
    client: &Client,
    shared: &Shared,
    (following, changed): (&Following<Copy>, &Notify),
    kept: usize,
) {
    loop {
        // The copy, or its confirmation: so what did not succeed is tried again.
        changed.notified().await;
        let Some(registered) = shared.with(|office| office.registered) else {
            continue;
        };
        for job in following.look(|state| surplus(state.kept(), kept)) {
            match remove(client, &job, Some(registered), What::Settled).await {
                Ok(removed) => tracing::info!(key = job, removed, "an old job is removed"),
                Err(error) => {
                    tracing::warn!(key = job, %error, "an old job is left");
                    break;
                }
            }
        }
    }
}
