//! The last step of a job: its output directory, made beside its place, is put there by one rename,
//! as a local run does. Any master may do it, any number of times, once the group says that the job
//! is done: what there is to do follows from what is recorded.
//!
//! ```text
//! .NAME.KEY/_attempts/JOB-TASK-ATTEMPT      what attempts write
//! .NAME.KEY/part-NNNNN, _MANIFEST, ...      of the winners, by the log
//! .NAME.KEY.EPOCH                           claimed: one master has moved it to a name of its own
//! NAME                                      in its place
//! ```
//!
//! Two masters may be at it at once, each held up anywhere. Whoever moves the directory to a name
//! of its own has it; it holds the new output only if its manifest is of this job, for after the
//! last rename it may hold what was in the place before. So a late one never undoes what was done.

use crate::cluster::copy::counters;
use crate::engine::local::part;
use crate::store::Version;
use crate::{Error, Result, store};
use fs_err as fs;
use mapreduce_core::job::JobState;
use mapreduce_core::names::{AttemptId, Epoch, JobId, Phase, TaskId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Names in an output's directory that are not of tasks.
const RESERVED: [&str; 6] = [
    "_MANIFEST",
    "_SUCCESS",
    "_SKIPPED",
    "_attempts",
    "_files",
    "_program",
];

/// Where the output goes; in the group, beside the job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Destination {
    /// The directory, or the URL of a prefix.
    pub(crate) target: PathBuf,
    /// What is there may be replaced.
    pub(crate) overwrite: bool,
    /// All is done: it is there, or, of a job that has none, nothing is left.
    pub(crate) settled: bool,
    /// Why not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// In a bucket: what the manifest was when the job was submitted, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replaces: Option<Version>,
    /// A person does not want the output of a job that is done any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_given_up: bool,
}

/// How the last part of a name begins that a directory has while it is removed.
const GOING: &str = "going-";

/// Where the output of a job comes to be: the address that its description has.
pub(crate) fn staging(target: &Path, job: &str) -> Result<PathBuf> {
    let name = target.file_name().ok_or("the output is not named")?;
    let name = name.to_string_lossy();
    Ok(target.with_file_name(format!(".{name}.{job}")))
}

/// The directory in which attempts write.
pub(crate) fn attempts(staging: &Path) -> PathBuf {
    staging.join("_attempts")
}

/// The program of a job that has one of its own.
pub(crate) fn program(staging: &Path) -> PathBuf {
    staging.join("_program")
}

/// Files that tasks find in the directory in which they run.
pub(crate) fn side_inputs(staging: &Path) -> PathBuf {
    staging.join("_files")
}

/// Beside an attempt's output: the records that it left out.
pub(crate) fn skipped(output: &Path) -> PathBuf {
    output.with_added_extension("skipped")
}

/// The file of an attempt that has this name in the job's output; of the main one it is empty.
pub(crate) fn side(output: &Path, name: &str) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    path.push(name);
    path.into()
}

/// What the output file of an attempt is called until its job is done.
pub(crate) fn attempt_name(job: JobId, task: TaskId, attempt: AttemptId) -> String {
    format!("{job}-{task}-{attempt}")
}

#[derive(Serialize)]
pub(crate) struct Manifest {
    pub(crate) job: String,
    pub(crate) number: u64,
    pub(crate) epoch: u64,
    pub(crate) files: Vec<ManifestFile>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) side_files: Vec<ManifestFile>,
    pub(crate) counters: BTreeMap<String, BTreeMap<String, u128>>,
}

/// Of a manifest, what says whose it is.
#[derive(Deserialize)]
pub(crate) struct Whose {
    pub(crate) job: String,
    pub(crate) number: u64,
}

#[derive(Serialize)]
pub(crate) struct ManifestFile {
    pub(crate) name: String,
    pub(crate) octets: u64,
    /// XXH3.
    checksum: String,
    attempt: String,
}

impl ManifestFile {
    pub(crate) fn new(name: String, octets: u64, checksum: u64, attempt: String) -> Self {
        let checksum = format!("{checksum:016x}");
        Self {
            name,
            octets,
            checksum,
            attempt,
        }
    }
}

/// Whether a side file may have this name: it is a file's, and cannot be that of another one of the
/// output.
pub(crate) fn is_side_name(name: &str) -> bool {
    name.starts_with('_') && !name.contains('/') && !RESERVED.contains(&name)
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    Now,
    Before,
}

/// Publishes a job that is done. `epoch` is of the master that does it.
pub(crate) fn publish(
    destination: &Destination,
    of: (&str, JobId),
    state: &JobState,
    epoch: Epoch,
) -> Result<Published> {
    let target = &destination.target;
    let staging = staging(target, of.0)?;
    if is_there(&staging)? {
        fill(&staging, of, state, epoch)?;
    }
    let own = staging.with_added_extension(epoch.to_string());
    if claim(&staging, &own, of)? {
        fs::File::open(&own)?.sync_all()?;
        put(&own, destination)?;
        sync_parent(target)?;
        // What was there before has its name now.
        discard(destination, of.0)?;
        return Ok(Published::Now);
    }
    if is_of(target, of)? {
        // Whoever renamed it may have ended before its name was on disk.
        sync_parent(target)?;
        discard(destination, of.0)?;
        Ok(Published::Before)
    } else {
        Err(format!("{} is gone", staging.display()).into())
    }
}

/// Whether there is something. An error is not the same as nothing.
fn is_there(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives the directory its place. What is there is exchanged for it, if it may be.
fn put(own: &Path, destination: &Destination) -> Result<()> {
    let target = &destination.target;
    if !destination.overwrite {
        // A directory that holds nothing may be there, as for a local run; nothing else goes.
        let _ = fs::remove_dir(target);
    }
    let is_exchanged = destination.overwrite && is_there(target)?;
    store::put(own, target, is_exchanged)
}

/// Moves the directory to a name that no other master uses; false when nobody has the output.
fn claim(staging: &Path, own: &Path, of: (&str, JobId)) -> Result<bool> {
    if is_of(own, of)? {
        return Ok(true);
    }
    // What was in the output's place before, if it is there.
    remove(own)?;
    // What attempts wrote is moved when it is whole, and never removed.
    if is_of(staging, of)? && moved(staging, own)? {
        return Ok(true);
    }
    for claimed in claims(staging)? {
        if claimed.is_file() || is_going(&claimed) || !moved(&claimed, own)? {
            continue;
        }
        if is_of(own, of)? {
            return Ok(true);
        }
        remove(own)?;
    }
    Ok(false)
}

/// False: another was quicker.
fn moved(from: &Path, to: &Path) -> Result<bool> {
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What masters have claimed.
fn claims(staging: &Path) -> Result<Vec<PathBuf>> {
    let (Some(parent), Some(name)) = (staging.parent(), staging.file_name()) else {
        return Err("the output is not named".into());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found = Vec::new();
    if !is_there(parent)? {
        // Nor is anything in it.
        return Ok(found);
    }
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether a directory is the whole output of a job: manifests come to be at once and as the last.
fn is_of(directory: &Path, (job, id): (&str, JobId)) -> Result<bool> {
    match fs::read(directory.join("_MANIFEST")) {
        Ok(octets) => Ok(serde_json::from_slice::<Whose>(&octets)
            .is_ok_and(|whose| whose.job == job && whose.number == id.0)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives the winners' files their names, and says in a manifest what there is.
fn fill(staging: &Path, (job, id): (&str, JobId), state: &JobState, epoch: Epoch) -> Result<()> {
    if is_of(staging, (job, id))? {
        // All was done but to tidy up.
        return tidy(staging);
    }
    let mut files = Vec::new();
    for task in tasks(state, state.last_phase()) {
        let winner = state.winner(task);
        let winner = winner.ok_or_else(|| Error::from(format!("{task} is not done")))?;
        let name = part(task.index);
        let from = attempts(staging).join(attempt_name(id, task, winner.attempt));
        let to = staging.join(&name);
        move_once(&from, &to)?;
        let octets = fs::metadata(&to)?.len();
        let (length, checksum) = winner.main;
        if octets != length {
            let path = to.display();
            return Err(format!("{path} has {octets} octets, its task wrote {length}").into());
        }
        let attempt = winner.attempt.to_string();
        files.push(ManifestFile::new(name, octets, checksum, attempt));
    }
    let side_files = fill_sides(staging, id, state)?;
    let manifest = Manifest {
        job: job.to_owned(),
        number: id.0,
        epoch: state.epoch().0,
        files,
        side_files,
        counters: counters(state),
    };
    if state.skipped() > 0 {
        let listed = listed_skipped(staging, id, state)?;
        write(staging, "_SKIPPED", &listed, epoch)?;
    }
    write(staging, "_SUCCESS", b"", epoch)?;
    let manifest = serde_json::to_vec_pretty(&manifest)?;
    write(staging, "_MANIFEST", &manifest, epoch)?;
    tidy(staging)
}

/// Removes what is no output.
fn tidy(staging: &Path) -> Result<()> {
    remove(&attempts(staging))?;
    remove(&side_inputs(staging))?;
    remove(&program(staging))
}

/// Gives the winners' side files their names.
fn fill_sides(staging: &Path, id: JobId, state: &JobState) -> Result<Vec<ManifestFile>> {
    let mut files = Vec::new();
    for task in tasks(state, Phase::Map).chain(tasks(state, Phase::Reduce)) {
        let Some(winner) = state.counted(task) else {
            continue;
        };
        let output = attempts(staging).join(attempt_name(id, task, winner.attempt));
        for output_file in winner.sides() {
            let name = &output_file.name;
            if !is_side_name(name) {
                return Err(format!("{task} has a side file called {name}").into());
            }
            let to = staging.join(name);
            move_once(&side(&output, name), &to)?;
            let octets = fs::metadata(&to)?.len();
            if octets != output_file.length {
                let (path, length) = (to.display(), output_file.length);
                return Err(format!("{path} has {octets} octets, its task wrote {length}").into());
            }
            let (attempt, checksum) = (winner.attempt.to_string(), output_file.checksum);
            files.push(ManifestFile::new(name.clone(), octets, checksum, attempt));
        }
    }
    Ok(files)
}

/// The tasks of a phase.
pub(crate) fn tasks(state: &JobState, phase: Phase) -> impl Iterator<Item = TaskId> {
    let task = match phase {
        Phase::Map => TaskId::map,
        Phase::Reduce => TaskId::reduce,
    };
    (0..state.count(phase)).map(task)
}

/// What the winners have left out, in the order of tasks.
fn listed_skipped(staging: &Path, id: JobId, state: &JobState) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for task in tasks(state, Phase::Map).chain(tasks(state, Phase::Reduce)) {
        let Some(winner) = state.counted(task) else {
            continue;
        };
        let name = attempt_name(id, task, winner.attempt);
        match fs::read(skipped(&attempts(staging).join(name))) {
            Ok(listed) => all.extend(listed),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

/// Renames what was not renamed before.
fn move_once(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound && to.exists() => Ok(()),
        renamed => Ok(renamed?),
    }
}

/// Puts a whole file into a directory, which another master may claim meanwhile: so it comes to be
/// beside it. Whoever does this writes the same.
fn write(staging: &Path, name: &str, octets: &[u8], epoch: Epoch) -> Result<()> {
    let new = staging.with_added_extension(format!("{epoch}{name}"));
    let mut file = fs::File::create(&new)?;
    file.write_all(octets)?;
    file.sync_all()?;
    let renamed = fs::rename(&new, staging.join(name));
    if renamed.is_err() {
        remove(&new)?;
    }
    Ok(renamed?)
}

fn sync_parent(target: &Path) -> Result<()> {
    let parent = target.parent().filter(|path| !path.as_os_str().is_empty());
    Ok(fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?)
}

fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes what a job leaves on disk beside its output: of one that has failed or was cancelled,
/// all there is. Of one that is done and was given up, too: a master that publishes it meanwhile
/// finds nothing that it could put into the output's place, or has done so before.
pub(crate) fn discard(destination: &Destination, job: &str) -> Result<()> {
    let staging = staging(&destination.target, job)?;
    for claimed in claims(&staging)? {
        remove_whole(&claimed, &staging)?;
    }
    remove_whole(&staging, &staging)
}

/// Removes a directory that another master may rename meanwhile, which it must not do with a part
/// of it: so it gets a name that nobody looks for first.
fn remove_whole(path: &Path, staging: &Path) -> Result<()> {
    if is_going(path) {
        return remove(path);
    }
    let going = format!("{GOING}{}", uuid::Uuid::new_v4().simple());
    let going = staging.with_added_extension(going);
    if moved(path, &going)? {
        remove(&going)?;
    }
    Ok(())
}

/// Whether it is being removed.
fn is_going(path: &Path) -> bool {
    let name = path.extension().map(|name| name.to_string_lossy());
    name.is_some_and(|name| name.starts_with(GOING))
}

/// Whether the output is that of a job.
pub(crate) fn is_published(destination: &Destination, of: (&str, JobId)) -> Result<bool> {
    is_of(&destination.target, of)
}

#[cfg(test)]
#[path = "publication_tests.rs"]
mod tests;
