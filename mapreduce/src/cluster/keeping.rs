//! Jobs that have ended, and for how long the group keeps them: a person removes one, and the
//! master in office removes the oldest when there are many.
//!
//! The header goes first, in a transaction that says what it was: from then on there is no such
//! job, for whoever follows. The rest goes in bounded transactions; whoever ends between them
//! leaves keys of no job, which `remove` with the same key takes away.

use crate::Result;
use crate::cluster::copy::Copy;
use crate::cluster::keys::{self, Part, key};
use crate::cluster::master::Shared;
use crate::cluster::publication::Destination;
use cfgsvc_client::{Client, Compare, Delete, Following, Get, Is, Keys, Op, Txn};
use mapreduce_core::record::{Header, JobStatus};
use tokio::sync::Notify;

/// Keys that one transaction deletes; the group takes 128 steps.
const DELETED_MAX: usize = 100;

/// Removes a job that has ended; how many keys were deleted. `register`: only while the master's
/// entry is of this revision.
pub(crate) async fn remove(client: &Client, job: &str, register: Option<i64>) -> Result<usize> {
    let at = key(job, Part::Header);
    let mut removed = 0;
    if let Some(found) = client.get_key(at.clone()).await? {
        let header = Header::decode(&found.value)?;
        let destination = client.get_key(key(job, Part::Output)).await?;
        let destination: Option<Destination> = destination
            .map(|kv| serde_json::from_slice(&kv.value))
            .transpose()?;
        may_go(job, &header.status, destination.as_ref())?;
        let unchanged = Compare::mod_revision(at.clone(), Is::Equal, found.mod_revision);
        let txn = held(register)
            .when(unchanged)
            .then(Op::Delete(Delete::new(Keys::one(at))));
        if !client.txn(txn).await?.succeeded {
            return Err(format!("job {job} has changed meanwhile: try it again").into());
        }
        removed += 1;
    }
    let rest = Keys::prefix(format!("{}{job}/", keys::JOBS));
    loop {
        let limit = i64::try_from(DELETED_MAX)?;
        let page = Get::new(rest.clone()).keys_only().limit(limit);
        let page = client.get(page).await?;
        if page.kvs.is_empty() {
            return Ok(removed);
        }
        // A job of the same key that came to be meanwhile is not touched.
        let mut txn = held(register).when(Compare::missing(key(job, Part::Header)));
        for kv in &page.kvs {
            txn = txn.then(Op::Delete(Delete::new(Keys::one(kv.key.clone()))));
        }
        if !client.txn(txn).await?.succeeded {
            return Err(format!("job {job} is not removed whole: try it again").into());
        }
        removed += page.kvs.len();
    }
}

fn held(register: Option<i64>) -> Txn {
    match register {
        Some(revision) => Txn::new().when(Compare::mod_revision(keys::MASTER, Is::Equal, revision)),
        None => Txn::new(),
    }
}

/// Whether nothing is left to do for a job.
fn may_go(job: &str, status: &JobStatus, destination: Option<&Destination>) -> Result<()> {
    if *status == JobStatus::Running {
        return Err(format!(
            "job {job} is running: `mapreduce cancel {job}` ends it, then it can be removed"
        )
        .into());
    }
    match destination.filter(|to| !to.settled) {
        None => Ok(()),
        Some(to) => {
            let why = to.problem.as_deref().unwrap_or("the master is at it");
            let target = to.target.display();
            Err(
                format!("job {job} has ended, and its output {target} is not settled: {why}")
                    .into(),
            )
        }
    }
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
            match remove(client, &job, Some(registered)).await {
                Ok(removed) => tracing::info!(key = job, removed, "an old job is removed"),
                Err(error) => {
                    tracing::warn!(key = job, %error, "an old job is left");
                    break;
                }
            }
        }
    }
}
