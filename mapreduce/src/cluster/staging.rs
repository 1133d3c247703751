//! Where the output of a job comes to be, and what its tasks need meanwhile: the program and files.
//! That is a directory beside the output, which all machines have, or one below its prefix in a
//! bucket.

use crate::cluster::{bucket, program, publication};
use crate::engine::local::part;
use crate::store::{self, JobObjects, Older, PROGRAM, Stores, Version};
use crate::{Error, Result};
use fs_err as fs;
use mapreduce_core::names::{AttemptId, TaskId};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Files of a job in a bucket: what they are called, and what they hold.
const FILES: &str = "files.json";

/// One of them; it is `files/N` by its place in the list.
#[derive(Debug, Serialize, Deserialize)]
struct InputFile {
    name: String,
    mode: u32,
    /// As that of programs.
    digest: String,
}

/// One of the two.
#[derive(Clone, Debug)]
pub(crate) enum Staging {
    Directory(PathBuf),
    Bucket(Arc<JobObjects>),
}

impl Staging {
    /// Of a job whose output goes there.
    pub(crate) fn of(stores: &Stores, target: &Path, job: &str) -> Result<Self> {
        if store::is_in_bucket(target) {
            return Ok(Self::Bucket(Arc::new(stores.job(target, job)?)));
        }
        Ok(Self::Directory(publication::staging(target, job)?))
    }

    /// By its address, which the job's description has.
    pub(crate) fn at(stores: &Stores, address: &str) -> Result<Self> {
        Ok(match stores.job_at(address)? {
            Some(job) => Self::Bucket(Arc::new(job)),
            None => Self::Directory(address.into()),
        })
    }

    pub(crate) fn address(&self) -> Result<String> {
        match self {
            Self::Directory(path) => Ok(path
                .to_str()
                .ok_or("the output's name is not UTF-8")?
                .to_owned()),
            Self::Bucket(job) => Ok(job.address()),
        }
    }

    /// What is in the place of an output in a bucket, which is refused unless it may be replaced.
    pub(crate) fn vacancy(&self, overwrite: bool) -> Result<(Option<Version>, Vec<Older>)> {
        match self {
            Self::Directory(_) => Ok((None, Vec::new())),
            Self::Bucket(job) => job.vacancy(overwrite),
        }
    }

    /// Leaves there what tasks need, until it is ended.
    pub(crate) fn fill(
        &self,
        (program, files): (&Path, &[PathBuf]),
        older: &[Older],
        ended: &AtomicBool,
    ) -> Result<()> {
        let goes_on = || {
            if ended.load(Ordering::Relaxed) {
                return Err("it was ended".into());
            }
            Ok(())
        };
        let names = names(files)?;
        match self {
            Self::Directory(staging) => {
                fs::create_dir(staging)?;
                fs::create_dir(publication::attempts(staging))?;
                fs::copy(program, publication::program(staging))?;
                let to = publication::side_inputs(staging);
                if !files.is_empty() {
                    fs::create_dir(&to)?;
                }
                for (file, name) in files.iter().zip(names) {
                    goes_on()?;
                    fs::copy(file, to.join(name))?;
                }
                goes_on()
            }
            Self::Bucket(job) => {
                job.note_older(older)?;
                leave_files(job, (files, &names), goes_on)?;
                // The last: what looks for the program finds all of it.
                store::leave(job, PROGRAM, fs::File::open(program)?, goes_on)
            }
        }
    }

    /// Copies the program; it is not known yet whether it is the right one.
    pub(crate) fn copy_program(&self, to: &std::fs::File) -> Result<()> {
        match self {
            Self::Directory(staging) => {
                let program = publication::program(staging);
                std::io::copy(&mut fs::File::open(program)?, &mut &*to)?;
                Ok(())
            }
            Self::Bucket(job) => {
                if job.copy(&job.own(PROGRAM), to)? {
                    return Ok(());
                }
                let url = job.url(&job.own(PROGRAM));
                Err(format!("{url} is gone: the job is over").into())
            }
        }
    }

    /// The directory in which files that were submitted with the job are; it need not be there.
    /// Those of a bucket are fetched once, to `own`.
    pub(crate) fn files(&self, own: &Path) -> Result<PathBuf> {
        match self {
            Self::Directory(staging) => Ok(publication::side_inputs(staging)),
            Self::Bucket(job) => {
                fetch_files(job, own)?;
                Ok(own.to_owned())
            }
        }
    }

    /// Where an attempt writes; `name` is its own among all jobs.
    pub(crate) fn place(&self, name: &OsStr, task: TaskId, attempt: AttemptId) -> AttemptPlace {
        match self {
            Self::Directory(staging) => {
                AttemptPlace::File(publication::attempts(staging).join(name))
            }
            Self::Bucket(job) => AttemptPlace::Bucket {
                job: Arc::clone(job),
                task,
                attempt,
            },
        }
    }
}

/// Refuses files that tasks cannot have.
pub(crate) fn check_files(files: &[PathBuf]) -> Result<()> {
    names(files).map(drop)
}

/// What files are called in the directories of tasks.
fn names(files: &[PathBuf]) -> Result<Vec<&OsStr>> {
    let mut names = Vec::new();
    for file in files {
        let name = file.file_name().ok_or_else(|| {
            let file = file.display();
            Error::from(format!("--file {file} has no name"))
        })?;
        if names.contains(&name) {
            let name = name.to_string_lossy();
            return Err(format!("--file: two files are called {name}").into());
        }
        names.push(name);
    }
    Ok(names)
}

fn leave_files(
    job: &Arc<JobObjects>,
    (files, names): (&[PathBuf], &[&OsStr]),
    goes_on: impl Fn() -> Result<()>,
) -> Result<()> {
    let mut listed = Vec::new();
    for (number, (path, name)) in files.iter().zip(names).enumerate() {
        goes_on()?;
        let name = name.to_str().ok_or_else(|| {
            let file = path.display();
            Error::from(format!("--file {file}: its name is not UTF-8"))
        })?;
        let file = fs::File::open(path)?;
        listed.push(InputFile {
            name: name.to_owned(),
            mode: file.metadata()?.permissions().mode() & 0o777,
            digest: program::checksum(path)?,
        });
        store::leave(job, &format!("files/{number}"), file, &goes_on)?;
    }
    job.put(&job.own(FILES), serde_json::to_vec(&listed)?.into())
}

/// Fetches the files of a job. Several attempts may do it at once: one is the first.
fn fetch_files(job: &JobObjects, own: &Path) -> Result<()> {
    if own.exists() {
        return Ok(());
    }
    let gone = |name: &str| format!("{} is gone: the job is over", job.url(name));
    let listed = job.get(&job.own(FILES))?;
    let (listed, _) = listed.ok_or_else(|| gone(&job.own(FILES)))?;
    let listed: Vec<InputFile> = serde_json::from_slice(&listed)?;
    let (Some(parent), Some(name)) = (own.parent(), own.file_name()) else {
        return Err("files have no place".into());
    };
    let new = tempfile::Builder::new()
        .prefix(&format!("{}.new-", name.to_string_lossy()))
        .tempdir_in(parent)?;
    for (number, file) in listed.iter().enumerate() {
        // It is a name, and no way to elsewhere.
        if Path::new(&file.name).file_name() != Some(OsStr::new(&file.name)) {
            return Err(format!("a file of the job is called {}", file.name).into());
        }
        let path = new.path().join(&file.name);
        let to = fs::File::create(&path)?;
        let from = job.own(&format!("files/{number}"));
        if !job.copy(&from, to.file())? {
            return Err(gone(&from).into());
        }
        let found = program::checksum(&path)?;
        if found != file.digest {
            let (url, digest) = (job.url(&from), &file.digest);
            return Err(format!("{url} is {found}, it was submitted as {digest}").into());
        }
        fs::set_permissions(&path, std::fs::Permissions::from_mode(file.mode))?;
    }
    match fs::rename(new.path(), own) {
        Ok(()) => {
            // It is where it belongs, and is no temporary one any more.
            let _ = new.keep();
            Ok(())
        }
        Err(_) if own.exists() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What an attempt writes.
#[derive(Clone, Debug)]
pub(crate) enum AttemptPlace {
    /// The main file; others begin with its name.
    File(PathBuf),
    Bucket {
        job: Arc<JobObjects>,
        task: TaskId,
        attempt: AttemptId,
    },
}

impl AttemptPlace {
    /// The output file, as its process is told.
    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Self::File(output) => output.clone(),
            Self::Bucket { .. } => PathBuf::new(),
        }
    }

    /// The directory of the job, as its process is told, if it is in a bucket.
    pub(crate) fn address(&self) -> Option<String> {
        match self {
            Self::File(_) => None,
            Self::Bucket { job, .. } => Some(job.address()),
        }
    }

    /// Removes files that are whole, by their names in the output; the main one has none.
    pub(crate) fn remove<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<()> {
        match self {
            Self::File(output) => {
                for name in names {
                    match fs::remove_file(publication::side(output, name)) {
                        Err(error) if error.kind() != ErrorKind::NotFound => {
                            return Err(error.into());
                        }
                        Ok(()) | Err(_) => {}
                    }
                }
                Ok(())
            }
            Self::Bucket { job, task, attempt } => {
                let attempt = attempt.to_string();
                let named = |name: &str| match name {
                    "" => job.named(&part(task.index), &attempt),
                    name => job.named(name, &attempt),
                };
                let names: Vec<String> = names.map(named).collect();
                job.delete(&names)
            }
        }
    }

    /// Removes what one has left that was stopped or has failed.
    pub(crate) fn clear(&self) -> Result<()> {
        match self {
            Self::File(_) => self.remove(std::iter::once("")),
            Self::Bucket { job, task, attempt } => {
                job.drop_attempt(&part(task.index), &attempt.to_string())
            }
        }
    }

    /// The list of what it leaves out: a file, until it is kept.
    pub(crate) fn list(&self, directory: &Path) -> PathBuf {
        match self {
            Self::File(output) => publication::skipped(output),
            Self::Bucket { .. } => directory.join("skipped"),
        }
    }

    /// Puts that list where the master finds it.
    pub(crate) fn keep_list(&self, list: &Path) -> Result<()> {
        let Self::Bucket { job, task, attempt } = self else {
            return Ok(());
        };
        match fs::read(list) {
            Ok(listed) => job.put_if_open(&bucket::skipped(job, *task, *attempt), listed.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
