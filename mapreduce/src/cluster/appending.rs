//! The master's writes to the group: batches of a job's log, each conditional on its register, on
//! the job going on and on the number being free.

use crate::cluster::keys::{self, Part, key};
use crate::cluster::master::{Append, Shared};
use crate::{Error, Result};
use cfgsvc_client::{Client, Compare, Get, Is, Op, OpReply, Put, Txn};
use mapreduce_core::master::event::{Event, Refusal};
use mapreduce_core::record::{Batch, Header, JobStatus};
use std::time::Duration;

/// Between two tries of what the group did not answer.
const AGAIN: Duration = Duration::from_millis(200);

/// Writes batches, one after the other.
pub(super) async fn append_all(client: &Client, shared: &Shared) -> Result<()> {
    loop {
        let next = shared.with(|office| {
            while let Some(next) = office.appends.pop_front() {
                // Nobody waits for one of a job that is gone.
                if let Some(key) = office.keys.get(&next.job).cloned() {
                    return Some((next, key, office.registered));
                }
            }
            None
        });
        match next {
            None => return Ok(()),
            Some(None) => shared.to_append.notified().await,
            Some(Some((append, key, registered))) => {
                let (job, sequence) = (append.job, append.sequence);
                let event = match write(client, &key, append, registered).await {
                    Ok(None) => Event::Appended { job, sequence },
                    Ok(Some(why)) => Event::Refused { job, sequence, why },
                    Err(error) => {
                        tracing::warn!(%job, sequence, %error, "an append is repeated");
                        tokio::time::sleep(AGAIN).await;
                        Event::Unknown { job, sequence }
                    }
                };
                shared.step(event);
            }
        }
    }
}

/// Writes a batch; why it had no effect.
async fn write(
    client: &Client,
    job: &str,
    append: Append,
    registered: i64,
) -> Result<Option<Refusal>> {
    let log = key(job, Part::Log(append.sequence));
    let header = key(job, Part::Header);
    let before = client.get_key(header.clone()).await?;
    let status = before
        .as_ref()
        .map(|kv| Header::decode(&kv.value))
        .transpose()?;
    let is_running = status.is_some_and(|header| header.status == JobStatus::Running);
    let revision = before.map_or(0, |kv| kv.mod_revision);
    if is_running {
        let mut txn = Txn::new()
            .when(Compare::mod_revision(keys::MASTER, Is::Equal, registered))
            .when(Compare::mod_revision(header.clone(), Is::Equal, revision))
            .when(Compare::missing(log.clone()))
            .then(Op::Put(Put::new(log.clone(), append.batch.encode())));
        if let Some(now) = &append.header {
            txn = txn.then(Op::Put(Put::new(header.clone(), now.encode())));
        }
        if client.txn(txn).await?.succeeded {
            return Ok(None);
        }
    }
    why_not(client, &log, registered).await
}

/// Why an append had no effect, or that it had one before.
async fn why_not(client: &Client, log: &str, registered: i64) -> Result<Option<Refusal>> {
    let look = Txn::new()
        .then(Op::Get(Get::new(keys::MASTER)))
        .then(Op::Get(Get::new(log.to_owned())));
    let reply = client.txn(look).await?;
    let found = |at: usize| match reply.replies.get(at) {
        Some(OpReply::Get(got)) => Ok(got.kvs.first().cloned()),
        _ => Err(Error::from("a transaction has another shape")),
    };
    if let Some(there) = found(1)? {
        return Ok(Some(Refusal::Present(Box::new(Batch::decode(
            &there.value,
        )?))));
    }
    let ours = found(0)?.is_some_and(|kv| kv.mod_revision == registered);
    Ok(Some(if ours {
        Refusal::NotRunning
    } else {
        Refusal::Epoch
    }))
}
