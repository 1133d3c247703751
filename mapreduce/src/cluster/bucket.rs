//! The last step of a job whose output is in a bucket, where nothing can be renamed: the output is
//! there when its manifest is, which is put on a condition that only this job can meet, and only
//! once. Any master may do it, any number of times.
//!
//! ```text
//! submitted:  the version of the manifest that is there is recorded, or that there is none
//! done:       are the winners' objects there, as long as is recorded?
//!             _MANIFEST, if the manifest is still of that version
//!             _SUCCESS; what was there before is deleted, and what others have left of this job
//! ```
//!
//! Masters may be at it at once, each held up anywhere. Whatever one of them does late is of this
//! job alone: names of objects have its key; what was there before is deleted only if it still is
//! what it was; and the two names that a later job uses too are put on conditions (`_SKIPPED` on
//! what it was before the manifest was seen to be the old one), or are the same for all
//! (`_SUCCESS`). So a late one undoes nothing of a later job. (Where versions are sums of contents,
//! a `_SKIPPED` could be put over that of a later job which is as that of an earlier one was. And
//! of two jobs that want the same place at once the one that does not get it may put its own.)

use crate::Result;
use crate::cluster::copy::counters;
use crate::cluster::publication::{
    Destination, Manifest, ManifestFile, Published, Whose, is_side_name, tasks,
};
use crate::engine::local::part;
use crate::store::{JobObjects, MANIFEST, SUCCESS, Version};
use mapreduce_core::job::{JobState, Winner};
use mapreduce_core::names::{AttemptId, JobId, Phase, TaskId};
use serde::Deserialize;

/// What was left out, of all winners.
const SKIPPED: &str = "_SKIPPED";
/// An object's octets, and what it is at that moment.
type Found = Option<(bytes::Bytes, Version)>;

/// The name of what an attempt has left out.
pub(crate) fn skipped(job: &JobObjects, task: TaskId, attempt: AttemptId) -> String {
    job.own(&format!("skipped/{task}.{attempt}"))
}

/// Of a manifest, what is part of the output.
#[derive(Deserialize)]
struct Named {
    files: Vec<NamedFile>,
    #[serde(default)]
    side_files: Vec<NamedFile>,
}

#[derive(Deserialize)]
struct NamedFile {
    name: String,
}

fn is_of(found: &Found, (key, id): (&str, JobId)) -> bool {
    let whose = found
        .as_ref()
        .and_then(|(octets, _)| serde_json::from_slice::<Whose>(octets).ok());
    whose.is_some_and(|whose| whose.job == key && whose.number == id.0)
}

/// Publishes a job that is done.
pub(crate) fn publish(
    job: &JobObjects,
    destination: &Destination,
    of: (&str, JobId),
    state: &JobState,
) -> Result<Published> {
    // Before it is known that nobody has published it: see above.
    let listed = job.get(SKIPPED)?;
    let found = job.get(MANIFEST)?;
    if is_of(&found, of) {
        tidy(job, &found)?;
        return Ok(Published::Before);
    }
    if found.as_ref().map(|(_, version)| version) != destination.replaces.as_ref() {
        return Err(taken(job, &found));
    }
    let manifest = manifest(job, of, state)?;
    check(job, &manifest)?;
    put_skipped(job, state, listed)?;
    let octets = serde_json::to_vec_pretty(&manifest)?;
    let is_put = job.put_if(MANIFEST, octets, destination.replaces.as_ref())?;
    let found = job.get(MANIFEST)?;
    if !is_of(&found, of) {
        return Err(taken(job, &found));
    }
    // A person may have given it up meanwhile: whoever deletes it closes it first.
    if is_put
        && !job.is_open()?
        && let Err(error) = check(job, &manifest)
    {
        withdraw(job, &found)?;
        return Err(error);
    }
    tidy(job, &found)?;
    Ok(if is_put {
        Published::Now
    } else {
        Published::Before
    })
}

/// Deletes a manifest that names what is not there any more.
fn withdraw(job: &JobObjects, found: &Found) -> Result<()> {
    match found {
        Some((_, version)) => job.delete_version(MANIFEST, version),
        None => Ok(()),
    }
}

/// Another job was quicker, or a person.
fn taken(job: &JobObjects, found: &Found) -> crate::Error {
    let url = job.url(MANIFEST);
    let Some((octets, _)) = found else {
        return format!("{url} is gone, which this job was to replace").into();
    };
    match serde_json::from_slice::<Whose>(octets) {
        Ok(whose) => format!("{url}: another job, {}, has its output there", whose.job),
        Err(_) => format!("{url}: another job has its output there"),
    }
    .into()
}

fn manifest(job: &JobObjects, (key, id): (&str, JobId), state: &JobState) -> Result<Manifest> {
    let mut files = Vec::new();
    let mut side_files = Vec::new();
    for task in tasks(state, state.last_phase()) {
        let winner = state.winner(task);
        let winner = winner.ok_or_else(|| format!("{task} is not done"))?;
        let (octets, checksum) = winner.main;
        let attempt = winner.attempt.to_string();
        let name = job.named(&part(task.index), &attempt);
        files.push(ManifestFile::new(name, octets, checksum, attempt));
    }
    for (task, winner) in winners(state) {
        for side in winner.sides() {
            if !is_side_name(&side.name) {
                return Err(format!("{task} has a side file called {}", side.name).into());
            }
            let attempt = winner.attempt.to_string();
            let name = job.named(&side.name, &attempt);
            let file = ManifestFile::new(name, side.length, side.checksum, attempt);
            side_files.push(file);
        }
    }
    Ok(Manifest {
        job: key.to_owned(),
        number: id.0,
        epoch: state.epoch().0,
        files,
        side_files,
        counters: counters(state),
    })
}

/// Those whose side files are the job's.
fn winners(state: &JobState) -> impl Iterator<Item = (TaskId, &Winner)> {
    let all = tasks(state, Phase::Map).chain(tasks(state, Phase::Reduce));
    all.filter_map(|task| Some((task, state.counted(task)?)))
}

/// What winners have written is there as they wrote it.
fn check(job: &JobObjects, manifest: &Manifest) -> Result<()> {
    let files = || manifest.files.iter().chain(&manifest.side_files);
    let names: Vec<String> = files().map(|file| file.name.clone()).collect();
    for (file, found) in files().zip(job.lengths(&names)?) {
        let (url, wrote) = (job.url(&file.name), file.octets);
        match found {
            Some(octets) if octets == wrote => {}
            Some(octets) => {
                return Err(format!("{url} has {octets} octets, its task wrote {wrote}").into());
            }
            None => return Err(format!("{url} is gone").into()),
        }
    }
    Ok(())
}

/// Says what was left out: what an older output had left out was not by this job.
fn put_skipped(job: &JobObjects, state: &JobState, before: Found) -> Result<()> {
    let mut all = Vec::new();
    if state.skipped() > 0 {
        for (task, winner) in winners(state) {
            if let Some((listed, _)) = job.get(&skipped(job, task, winner.attempt))? {
                all.extend(listed);
            }
        }
    }
    let is_said = match &before {
        Some((octets, _)) => *octets == all,
        None => all.is_empty(),
    };
    let before = before.map(|(_, version)| version);
    if !is_said && !job.put_if(SKIPPED, all, before.as_ref())? {
        return Err(format!("{} has changed: another master is at it", job.url(SKIPPED)).into());
    }
    Ok(())
}

/// Deletes what is no output, once the manifest of this job is there.
fn tidy(job: &JobObjects, manifest: &Found) -> Result<()> {
    // One that is there says the same.
    job.put_if(SUCCESS, Vec::new(), None)?;
    job.delete_older()?;
    job.clear(&named(manifest)?)
}

fn named(manifest: &Found) -> Result<Vec<String>> {
    let Some((octets, _)) = manifest else {
        return Ok(Vec::new());
    };
    let named: Named = serde_json::from_slice(octets)?;
    let files = named.files.into_iter().chain(named.side_files);
    Ok(files.map(|file| file.name).collect())
}

/// Deletes all that a job has in the bucket, but for an output that is published: whether it is.
pub(crate) fn discard(job: &JobObjects, key: &str) -> Result<bool> {
    // Whoever publishes it from now on looks at whether what it names is there.
    job.close()?;
    let found = job.get(MANIFEST)?;
    if is_by(&found, key) {
        tidy(job, &found)?;
        return Ok(true);
    }
    job.clear(&[])?;
    let found = job.get(MANIFEST)?;
    if is_by(&found, key) {
        withdraw(job, &found)?;
    }
    Ok(false)
}

fn is_by(found: &Found, key: &str) -> bool {
    let whose = found
        .as_ref()
        .and_then(|(octets, _)| serde_json::from_slice::<Whose>(octets).ok());
    whose.is_some_and(|whose| whose.job == key)
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
