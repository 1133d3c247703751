//! What the master hears of the group: jobs, workers, and that what it knows is confirmed.

use crate::Result;
use crate::cluster::copy::{Changed, Copy, Ended, JobCopy, News, runs};
use crate::cluster::keys::{self, Part};
use crate::cluster::master::{Office, Shared};
use cfgsvc_client::{Client, Following, Freshness, Moment};
use mapreduce_core::limits::JOBS_MAX;
use mapreduce_core::master::event::{Event, JobImage, WorkerInfo};
use mapreduce_core::names::{HostName, Incarnation, JobId, WorkerName, ZoneName};
use mapreduce_core::record::JobStatus;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// For how long a confirmation of the copy counts. The master decides nothing by it.
const FRESH: Duration = Duration::from_secs(3);

/// Follows the group.
pub(super) fn follow(client: &Client, news: &Arc<News>) -> Following<Copy> {
    let news = Arc::clone(news);
    client.follow(
        keys::PREFIX,
        FRESH,
        Copy::keeping(Ended::UntilSettled),
        move |state, changes| {
            let is_fresh = matches!(state.freshness(Moment::now()), Freshness::Fresh { .. });
            news.tell(Changed {
                is_confirmed: changes.is_none() && is_fresh,
                ..changes.unwrap_or_default()
            });
        },
    )
}

/// Tells the master what has changed. Ends with an error of the group's.
pub(super) async fn hear(
    client: &Client,
    shared: &Shared,
    (following, news): (&Following<Copy>, &News),
) -> Result<()> {
    let mut workers: BTreeMap<String, Incarnation> = BTreeMap::new();
    loop {
        let changes = news.next().await;
        for key in in_turn(following, changes.jobs) {
            hear_job(client, shared, following, &key).await?;
        }
        while let Some(key) = shared.with(take_waiting).flatten() {
            hear_job(client, shared, following, &key).await?;
        }
        for name in changes.workers {
            hear_worker(shared, following, &mut workers, &name);
        }
        if changes.is_confirmed {
            shared.step(Event::Confirmed);
        }
    }
}

/// The oldest job first: when there are more than a master takes, the next one takes the same.
fn in_turn(following: &Following<Copy>, jobs: BTreeSet<String>) -> Vec<String> {
    let number = |key: &String| {
        let id = |job: &JobCopy| job.id;
        following.look(|state| state.kept().jobs.get(key).map(id))
    };
    let mut jobs: Vec<_> = jobs.into_iter().map(|key| (number(&key), key)).collect();
    jobs.sort();
    jobs.into_iter().map(|(_, key)| key).collect()
}

/// The next job that waits, if there is room for it.
fn take_waiting(office: &mut Office) -> Option<String> {
    let has_room = office.master.jobs().count() < JOBS_MAX;
    let first = has_room.then(|| office.waiting.pop_first()).flatten();
    first.map(|(_, key)| key)
}

async fn hear_job(
    client: &Client,
    shared: &Shared,
    following: &Following<Copy>,
    key: &str,
) -> Result<()> {
    let now = following.look(|state| {
        let copy = state.kept().jobs.get(key);
        copy.map(|copy| (copy.id, runs(copy), copy.header.status.clone()))
    });
    let known = shared.with(|office| office.jobs_of(key));
    let gone = known.into_iter().flatten();
    for gone in gone.filter(|known| now.as_ref().is_none_or(|(id, ..)| id != known)) {
        // Nothing of it can be recorded any more.
        shared.step(Event::Cancelled(gone));
        shared.with(|office| office.forget_job(gone));
    }
    let Some((id, is_running, status)) = now else {
        // Its submission or its removal was left, perhaps.
        shared.to_settle.notify_one();
        return Ok(());
    };
    if !is_running {
        shared.to_settle.notify_one();
        shared.with(|office| office.waiting.remove(&id));
    }
    let is_known = shared.with(|office| office.keys.contains_key(&id));
    let is_full = shared.with(|office| office.master.jobs().count() >= JOBS_MAX);
    match (is_known, is_running) {
        (Some(false), true) if is_full == Some(true) => {
            let waits = shared.with(|office| office.waiting.insert(id, key.to_owned()));
            if waits == Some(None) {
                tracing::warn!(%id, key, "job waits: {JOBS_MAX} jobs run already");
            }
        }
        (Some(false), true) => {
            if let Some(image) = image(client, key, id).await? {
                tracing::info!(%id, key, name = image.spec.name, "job is there");
                shared.with(|office| office.keys.insert(id, key.to_owned()));
                shared.step(Event::Job(Box::new(image)));
            }
        }
        (Some(true), false) if status == JobStatus::Cancelled => {
            shared.step(Event::Cancelled(id));
        }
        _ => {}
    }
    Ok(())
}

fn hear_worker(
    shared: &Shared,
    following: &Following<Copy>,
    known: &mut BTreeMap<String, Incarnation>,
    name: &str,
) {
    let now = following.look(|state| state.kept().workers.get(name).cloned());
    if known.get(name).copied() == now.as_ref().map(|(life, _)| *life) {
        return;
    }
    if let Some(before) = known.remove(name) {
        tracing::info!(worker = name, life = %before, "worker is gone");
        shared.step(Event::Gone(before));
        shared.with(|office| office.forget(before));
    }
    let Some((life, entry)) = now else {
        return;
    };
    let names = WorkerName::new(name).and_then(|name| {
        let host = HostName::new(&entry.host)?;
        Ok((name, host, ZoneName::new(&entry.zone)?))
    });
    match names {
        Ok((name, host, zone)) => {
            tracing::info!(worker = %name, %life, "worker is there");
            known.insert(name.as_str().to_owned(), life);
            shared.step(Event::Joined(WorkerInfo {
                name,
                incarnation: life,
                slots: entry.slots,
                host,
                zone,
            }));
        }
        Err(error) => tracing::warn!(worker = name, %error, "worker is left out"),
    }
}

/// All that the group has of a job; none when it is not whole, or is gone.
async fn image(client: &Client, job: &str, id: JobId) -> Result<Option<JobImage>> {
    let all = client
        .get_all(format!("{}{job}/", keys::JOBS), 1000)
        .await?;
    let (mut header, mut spec, mut splits, mut log) = (None, None, Vec::new(), Vec::new());
    for kv in &all.kvs {
        // Other keys there are nobody's.
        let part = std::str::from_utf8(&kv.key).ok().and_then(keys::parse);
        match part.map(|(_, part)| part) {
            Some(Part::Header) => header = Some(&kv.value),
            Some(Part::Spec) => spec = Some(&kv.value),
            Some(Part::Splits(_)) => splits.push(kv.value.to_vec()),
            Some(Part::Log(_)) => log.push(kv.value.to_vec()),
            Some(Part::Output | Part::Info | Part::Ranges(_) | Part::Submitting) | None => {}
        }
    }
    let (Some(header), Some(spec)) = (header, spec) else {
        return Ok(None);
    };
    match JobImage::read(id, header, spec, &splits, &log) {
        Ok(image) => Ok(Some(image)),
        Err(error) => {
            // Somebody else's, or a later version's: others go on.
            tracing::error!(%id, key = job, %error, "job cannot be read");
            Ok(None)
        }
    }
}
