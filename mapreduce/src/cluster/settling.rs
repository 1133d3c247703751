//! What is left to do when a job has ended, until the group says that it is done: its output is put
//! into its place, or what there is of it is removed.

use crate::Result;
use crate::cluster::copy::Copy;
use crate::cluster::keys::{self, Part, key};
use crate::cluster::master::Shared;
use crate::cluster::publication::{self, Destination, Published};
use cfgsvc_client::{Client, Compare, Following, Is, Op, Put, Txn};
use mapreduce_core::job::JobState;
use mapreduce_core::names::{Epoch, JobId};
use mapreduce_core::record::JobStatus;
use std::collections::BTreeSet;
use std::time::Duration;

/// Between two tries of what did not come to its end.
const AGAIN: Duration = Duration::from_secs(2);

/// A job that has ended.
struct Ended {
    key: String,
    id: JobId,
    status: JobStatus,
    state: JobState,
    destination: Destination,
}

/// Settles jobs, one after the other, as long as this is the master.
pub(super) async fn settle_all(client: &Client, shared: &Shared, following: &Following<Copy>) {
    // The copy may not have it yet.
    let mut settled = BTreeSet::new();
    loop {
        // One that is not to be settled now keeps none of the others from it.
        let mut tried = settled.clone();
        let mut is_all = true;
        while let Some(ended) = next(following, &tried) {
            let (id, key) = (ended.id, ended.key.clone());
            tried.insert(id);
            match settle(client, shared, ended).await {
                Ok(()) => {
                    settled.insert(id);
                }
                Err(error) => {
                    tracing::error!(%id, key, %error, "job is not settled");
                    is_all = false;
                }
            }
        }
        if is_all {
            shared.to_settle.notified().await;
        } else {
            // Whatever is told meanwhile is looked at then.
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// One that is not settled, but for these: first those with which there was no problem yet.
fn next(following: &Following<Copy>, passed: &BTreeSet<JobId>) -> Option<Ended> {
    following.look(|state| {
        let jobs = state.kept().jobs.iter();
        let ended = jobs.filter_map(|(key, job)| {
            let destination = job.destination.clone().filter(|to| !to.settled)?;
            let is_over = job.header.status != JobStatus::Running && job.damage.is_none();
            let is_over = is_over && !passed.contains(&job.id);
            is_over.then_some((key, job, destination))
        });
        let (key, job, destination) = ended.min_by_key(|(_, _, to)| to.problem.is_some())?;
        Some(Ended {
            key: key.clone(),
            id: job.id,
            status: job.header.status.clone(),
            state: job.state.clone(),
            destination,
        })
    })
}

async fn settle(client: &Client, shared: &Shared, ended: Ended) -> Result<()> {
    let office = shared.with(|office| (office.master.epoch(), office.registered));
    let Some((epoch, registered)) = office else {
        return Ok(());
    };
    let at = key(&ended.key, Part::Output);
    let found = client.get_key(at.clone()).await?;
    let found = found.ok_or("the job has no destination")?;
    let before: Destination = serde_json::from_slice(&found.value)?;
    if before.settled {
        return Ok(());
    }
    // Files may take long: reports are heard meanwhile.
    let work = tokio::task::spawn_blocking(move || on_disk(&ended, epoch));
    let done = work.await?;
    let after = Destination {
        settled: done.is_ok(),
        problem: done.as_ref().err().map(ToString::to_string),
        ..before.clone()
    };
    if after != before {
        let txn = Txn::new()
            .when(Compare::mod_revision(keys::MASTER, Is::Equal, registered))
            .when(Compare::mod_revision(
                at.clone(),
                Is::Equal,
                found.mod_revision,
            ))
            .then(Op::Put(Put::new(at, serde_json::to_vec(&after)?)));
        if !client.txn(txn).await?.succeeded && done.is_ok() {
            return Err("it is done, and the group was not told: another did".into());
        }
    }
    done
}

fn on_disk(ended: &Ended, epoch: Epoch) -> Result<()> {
    let (id, key, destination) = (ended.id, ended.key.as_str(), &ended.destination);
    let output = destination.target.display();
    if ended.status != JobStatus::Done {
        publication::discard(destination, key)?;
        tracing::info!(%id, key, %output, "nothing is left of the output");
        return Ok(());
    }
    match publication::publish(destination, (key, id), &ended.state, epoch)? {
        Published::Now => tracing::info!(%id, key, %output, "output is published"),
        Published::Before => tracing::info!(%id, key, %output, "output was published before"),
    }
    Ok(())
}
