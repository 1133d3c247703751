//! What a job of many machines has in a bucket while it runs, below the prefix of its output.
//!
//! ```text
//! PREFIX/.mapreduce.KEY/program ...          its program and files; older.json, of what was there
//! PREFIX/.mapreduce.KEY/uploads/E.N/NAME     numbers of uploads that are under way
//! PREFIX/part-00000-KEY.E.N ...              what attempts wrote, each completed before it is told
//! PREFIX/_MANIFEST, _SUCCESS                 when the job is done
//! ```
//!
//! Nothing of it is ever given another content. The program says that the job is open: whoever
//! deletes what is left deletes it first, then looks at what there is. An attempt looks for it when
//! its file is complete, and deletes that if it is gone. So nothing is left by attempts that end
//! late, of whichever the other one sees.

mod attempt;

pub(crate) use attempt::AttemptObjects;

use super::objects::{Objects, conditions};
use super::upload::{AT_ONCE, Vacancy};
use super::{Location, MANIFEST, ObjectError, SUCCESS, Stores, location};
use crate::{Error as AnyError, Result};
use attempt::Upload;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

/// Of the directory of a job.
const OWN: &str = ".mapreduce.";
/// The program that runs its tasks.
pub(crate) const PROGRAM: &str = "program";
/// What there was before it.
const OLDER: &str = "older.json";
/// Says that the job is over, until nothing else is left.
const CLOSED: &str = "closed";
/// Octets of an object that are read as a whole.
const READ_MAX: u64 = 256 << 20;
/// Uploads that are under way.
const UPLOADS: &str = "uploads";

/// What an object is at a moment, as stores tell one from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e_tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

impl From<UpdateVersion> for Version {
    fn from(UpdateVersion { e_tag, version }: UpdateVersion) -> Self {
        Self { e_tag, version }
    }
}

impl From<Version> for UpdateVersion {
    fn from(Version { e_tag, version }: Version) -> Self {
        Self { e_tag, version }
    }
}

/// An object that was there before a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Older {
    /// Below the prefix.
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e_tag: Option<String>,
}

/// A job in a bucket.
pub(crate) struct JobObjects {
    objects: Arc<Objects>,
    /// Of the output, without a slash at its end.
    prefix: String,
    /// The job's.
    key: String,
}

impl fmt::Debug for JobObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}

/// Whether an output is in a bucket, by its name.
pub(crate) fn is_in_bucket(output: &std::path::Path) -> bool {
    let location = output.to_str().map(location);
    matches!(location, Some(Ok(Location::Object { .. })))
}

/// Whether an attempt of a job has given an object this name.
pub(super) fn is_of_attempt(name: &str, key: &str) -> bool {
    let is_number = |part: &str| {
        let mut digits = part.bytes();
        !part.is_empty() && digits.all(|digit| digit.is_ascii_digit())
    };
    let attempt = name.rsplit_once(&format!("-{key}."));
    let attempt = attempt.and_then(|(_, attempt)| attempt.split_once('.'));
    attempt.is_some_and(|(epoch, counter)| is_number(epoch) && is_number(counter))
}

/// The key of the job that has a directory of this name.
pub(super) fn key_of(directory: &str) -> Option<&str> {
    directory.strip_prefix(OWN)
}

impl Stores {
    /// A job whose output goes to this prefix.
    pub(crate) fn job(&self, output: &std::path::Path, key: &str) -> Result<JobObjects> {
        let name = output.to_str().ok_or("the output's name is not UTF-8")?;
        let bad = |why: String| AnyError::from(format!("output {name}: {why}"));
        let Location::Object {
            scheme,
            bucket,
            key: prefix,
        } = location(name).map_err(bad)?
        else {
            return Err(bad("it is in no bucket".to_owned()));
        };
        let objects = self.objects(scheme, bucket).map_err(bad)?;
        Ok(JobObjects::new(objects, prefix, key))
    }

    /// A job by the address of its directory; none of one that is not in a bucket.
    pub(crate) fn job_at(&self, address: &str) -> Result<Option<JobObjects>> {
        if !is_in_bucket(address.as_ref()) {
            return Ok(None);
        }
        let named = address.rsplit_once('/');
        let named = named.and_then(|(prefix, own)| Some((prefix, key_of(own)?)));
        let (prefix, key) = named.ok_or_else(|| format!("{address} is no directory of a job"))?;
        self.job(prefix.as_ref(), key).map(Some)
    }
}

impl JobObjects {
    pub(super) fn new(objects: Arc<Objects>, prefix: &str, key: &str) -> Self {
        Self {
            objects,
            prefix: prefix.trim_matches('/').to_owned(),
            key: key.to_owned(),
        }
    }

    /// Below a prefix in a bucket of tests.
    #[cfg(test)]
    pub(crate) fn in_store<S>(store: S, key: &str) -> Self
    where
        S: object_store::ObjectStore + object_store::multipart::MultipartStore,
    {
        Self::new(Arc::new(Objects::of(store)), "out", key)
    }

    /// The URL of its directory.
    pub(crate) fn address(&self) -> String {
        self.url(&format!("{OWN}{}", self.key))
    }

    pub(crate) fn url(&self, name: &str) -> String {
        self.objects.url(&format!("{}/{name}", self.prefix))
    }

    fn path(&self, name: &str) -> Result<Path, ObjectError> {
        self.objects.path(&format!("{}/{name}", self.prefix))
    }

    /// The name of an object of its directory.
    pub(crate) fn own(&self, name: &str) -> String {
        format!("{OWN}{}/{name}", self.key)
    }

    /// The name of a file of an attempt.
    pub(crate) fn named(&self, file: &str, attempt: &str) -> String {
        format!("{file}-{}.{attempt}", self.key)
    }

    /// Whether an object is of this job.
    fn is_own(&self, name: &str) -> bool {
        match name.split_once('/') {
            Some((directory, _)) => key_of(directory) == Some(&*self.key),
            None => is_of_attempt(name, &self.key),
        }
    }

    /// What is there before the job: the version of a manifest, and all objects. It is refused,
    /// unless it may be replaced.
    pub(crate) fn vacancy(&self, overwrite: bool) -> Result<(Option<Version>, Vec<Older>)> {
        let found = Vacancy::check(&self.objects, &self.prefix, overwrite)?;
        let below = format!("{}/", self.prefix);
        let older = found.older.into_iter().filter_map(|object| {
            let name = object.location.as_ref().strip_prefix(&below)?;
            // A manifest is replaced, and the others are said anew.
            let is_kept = [MANIFEST, SUCCESS, "_SKIPPED"].contains(&name);
            (!is_kept).then(|| Older {
                name: name.to_owned(),
                e_tag: object.e_tag.clone(),
            })
        });
        Ok((found.replaces.map(Version::from), older.collect()))
    }

    /// Keeps what is to be deleted when the job is done.
    pub(crate) fn note_older(&self, older: &[Older]) -> Result<()> {
        if older.is_empty() {
            return Ok(());
        }
        let noted = serde_json::to_vec(older)?;
        if noted.len() as u64 > READ_MAX {
            let (url, count) = (self.url(""), older.len());
            return Err(format!(
                "{url} has {count} objects, more than can be replaced at once: delete them, or name \
                 another output"
            )
            .into());
        }
        self.put(&self.own(OLDER), noted.into())
    }

    /// Deletes what was there before the job, unless it is something else now.
    pub(crate) fn delete_older(&self) -> Result<()> {
        let Some((noted, _)) = self.get(&self.own(OLDER))? else {
            return Ok(());
        };
        let older: Vec<Older> = serde_json::from_slice(&noted)?;
        let mut paths = Vec::new();
        for object in older {
            paths.push((self.path(&object.name)?, object.e_tag));
        }
        self.delete_all(paths)
    }

    /// An object's octets, and what it is now. One that is longer than any of ours has none: it is
    /// not read.
    pub(crate) fn get(&self, name: &str) -> Result<Option<(Bytes, Version)>> {
        let path = self.path(name)?;
        let (store, of) = (self.objects.store(), path.clone());
        let got = self.objects.run(async move {
            let got = store.get(&of).await?;
            let version = Version {
                e_tag: got.meta.e_tag.clone(),
                version: got.meta.version.clone(),
            };
            if got.meta.size > READ_MAX {
                return Ok((Bytes::new(), version));
            }
            Ok((got.bytes().await?, version))
        });
        match got {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(&path, &error).into()),
        }
    }

    /// Writes what an object has to a file; false when it is not there.
    pub(crate) fn copy(&self, name: &str, mut to: &std::fs::File) -> Result<bool> {
        let path = self.path(name)?;
        let (store, of) = (self.objects.store(), path.clone());
        let got = self.objects.run(async move { store.get(&of).await });
        let mut octets = match got {
            Ok(got) => got.into_stream(),
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(self.failed(&path, &error).into()),
        };
        loop {
            let (next, rest) = self
                .objects
                .run(async move { (octets.next().await, octets) });
            octets = rest;
            match next {
                None => return Ok(true),
                Some(Ok(chunk)) => to.write_all(&chunk)?,
                Some(Err(error)) => return Err(self.failed(&path, &error).into()),
            }
        }
    }

    /// Lengths of objects, none of those that are not there.
    pub(crate) fn lengths(&self, names: &[String]) -> Result<Vec<Option<u64>>> {
        let mut paths = Vec::new();
        for name in names {
            paths.push(self.path(name)?);
        }
        let store = self.objects.store();
        let all = paths.into_iter().map(move |path| {
            let store = Arc::clone(&store);
            async move {
                match store.head(&path).await {
                    Ok(found) => Ok(Some(found.size)),
                    Err(Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err((path, error)),
                }
            }
        });
        let all = futures_util::stream::iter(all).buffered(AT_ONCE);
        let found = self.objects.run(all.try_collect::<Vec<_>>());
        Ok(found.map_err(|(path, error)| self.failed(&path, &error))?)
    }

    /// Puts an object; one that is there has the same content.
    pub(crate) fn put(&self, name: &str, octets: Bytes) -> Result<()> {
        let path = self.path(name)?;
        let (store, to) = (self.objects.store(), path.clone());
        let put = async move { store.put(&to, octets.into()).await };
        match self.objects.run(put) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&path, &error).into()),
        }
    }

    /// The same, while the job is open.
    pub(crate) fn put_if_open(&self, name: &str, octets: Bytes) -> Result<()> {
        self.put(name, octets)?;
        self.must_be_open(name)
    }

    /// What was put when the job was over already is deleted again.
    fn must_be_open(&self, name: &str) -> Result<()> {
        if self.is_open()? {
            return Ok(());
        }
        self.delete(&[name.to_owned()])?;
        let url = self.url(name);
        Err(format!("{url}: the job is over, and it is deleted again").into())
    }

    /// Puts an object if it still is what it was, or still is not there; false when it is not so.
    pub(crate) fn put_if(
        &self,
        name: &str,
        octets: Vec<u8>,
        before: Option<&Version>,
    ) -> Result<bool> {
        let path = self.path(name)?;
        let mode = before.cloned().map(UpdateVersion::from);
        let mode = mode.map_or(PutMode::Create, PutMode::Update);
        let (store, to) = (self.objects.store(), path.clone());
        let put = self.objects.run(async move {
            let options = PutOptions::from(mode);
            store.put_opts(&to, octets.into(), options).await
        });
        match put {
            Ok(_) => Ok(true),
            Err(
                Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotFound { .. },
            ) => Ok(false),
            Err(error) => Err(self.failed(&path, &error).into()),
        }
    }

    fn failed(&self, path: &Path, error: &Error) -> ObjectError {
        conditions(&self.objects.url(path.as_ref()), error)
    }

    /// Whether attempts may still write.
    pub(crate) fn is_open(&self) -> Result<bool> {
        let program = self.path(&self.own(PROGRAM))?;
        Ok(self.objects.head(&program)?.is_some())
    }

    /// From now on what attempts complete is deleted by them. Readers still pass over what they have
    /// written, while the job has something in its directory.
    pub(crate) fn close(&self) -> Result<()> {
        self.put(&self.own(CLOSED), Bytes::new())?;
        self.delete(&[self.own(PROGRAM)])
    }

    /// Deletes all of the job but these objects: none comes to be any more.
    pub(crate) fn clear(&self, kept: &[String]) -> Result<()> {
        self.close()?;
        self.abort("")?;
        let kept: HashSet<&str> = kept.iter().map(String::as_str).collect();
        let (mut of_attempts, mut of_job) = (Vec::new(), Vec::new());
        let below = format!("{}/", self.prefix);
        for object in self.objects.below(&self.path("")?)? {
            let name = object.location.as_ref().strip_prefix(&below);
            let name = name.unwrap_or_default();
            if !self.is_own(name) || kept.contains(name) {
                continue;
            }
            let is_of_attempt = !name.contains('/');
            let paths = if is_of_attempt {
                &mut of_attempts
            } else {
                &mut of_job
            };
            paths.push((object.location, None));
        }
        // By its directory readers know what is no output.
        self.delete_all(of_attempts)?;
        let closed = self.path(&self.own(CLOSED))?;
        of_job.retain(|(path, _)| *path != closed);
        self.delete_all(of_job)?;
        self.delete_all(vec![(closed, None)])
    }

    /// Deletes an object if it still is what it was.
    pub(crate) fn delete_version(&self, name: &str, version: &Version) -> Result<()> {
        self.delete_all(vec![(self.path(name)?, version.e_tag.clone())])
    }

    /// Deletes objects.
    pub(crate) fn delete(&self, names: &[String]) -> Result<()> {
        let mut paths = Vec::new();
        for name in names {
            paths.push((self.path(name)?, None));
        }
        self.delete_all(paths)
    }

    /// Deletes objects; those with a tag if they still have it.
    fn delete_all(&self, paths: Vec<(Path, Option<String>)>) -> Result<()> {
        let store = self.objects.store();
        let all = paths.into_iter().map(move |(path, tag)| {
            let store = Arc::clone(&store);
            async move {
                let delete = async {
                    if tag.is_some() && store.head(&path).await?.e_tag != tag {
                        return Ok(());
                    }
                    store.delete(&path).await
                };
                match delete.await {
                    Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err((path, error)),
                }
            }
        });
        let all = futures_util::stream::iter(all).buffer_unordered(AT_ONCE);
        let deleted = self.objects.run(all.try_collect::<Vec<_>>());
        match deleted {
            Ok(_) => Ok(()),
            Err((path, error)) => Err(self.failed(&path, &error).into()),
        }
    }

    /// Ends uploads of an attempt, or of all, that were begun and not completed.
    fn abort(&self, attempt: &str) -> Result<()> {
        let directory = self.path(&self.own(&format!("{UPLOADS}/{attempt}")))?;
        let all = format!("{}/{}/", self.prefix, self.own(UPLOADS));
        for mark in self.objects.below(&directory)? {
            let named = mark.location.as_ref().strip_prefix(&all);
            let Some((_, name)) = named.and_then(|named| named.split_once('/')) else {
                continue;
            };
            let path = self.path(name)?;
            let number = match self.objects.get(&mark.location) {
                Ok(number) => number,
                // Somebody else was quicker.
                Err(Error::NotFound { .. }) => continue,
                Err(error) => return Err(self.failed(&mark.location, &error).into()),
            };
            let number = String::from_utf8_lossy(&number).into_owned();
            let (uploads, of) = (self.objects.uploads(), path.clone());
            let ended = self
                .objects
                .run(async move { uploads.abort_multipart(&of, &number).await });
            match ended {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                // It was completed or ended just now, or may not be ended by this process: a rule
                // of the bucket is for that. It is no reason to leave all else.
                Err(error) => {
                    let url = self.objects.url(path.as_ref());
                    tracing::warn!(url, %error, "an upload is not ended, and may take room");
                }
            }
            self.delete_all(vec![(mark.location, None)])?;
        }
        Ok(())
    }

    /// Deletes what an attempt that has failed or was stopped has left: its main output, and
    /// uploads that it has begun. Side files that it had completed are deleted with the job.
    pub(crate) fn drop_attempt(&self, main: &str, attempt: &str) -> Result<()> {
        self.abort(attempt)?;
        self.delete(&[self.named(main, attempt)])
    }
}

/// Puts a file into the directory of a job that is being submitted.
pub(crate) fn leave(
    job: &Arc<JobObjects>,
    name: &str,
    mut file: impl io::Read,
    mut goes_on: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut upload = Upload::new(Arc::clone(job), job.own(name), "0")?;
    let mut octets = vec![0; 256 << 10];
    loop {
        goes_on()?;
        match file.read(&mut octets)? {
            0 => break,
            read => upload.write_all(&octets[..read])?,
        }
    }
    upload.complete()?;
    if let Err(ended) = goes_on() {
        // Whoever has ended it may have looked for what there is before this was there.
        job.delete(&[job.own(name)])?;
        return Err(ended);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Store as _;
    use super::*;

    #[test]
    fn what_attempts_write_is_read_only_when_a_manifest_names_it() {
        let objects = Arc::new(Objects::of(object_store::memory::InMemory::new()));
        let job = JobObjects::new(Arc::clone(&objects), "all/out", "k1");
        let put = |name: &str, what: &str| {
            let what = Bytes::from(what.to_owned());
            job.put(name, what).expect("it is put");
        };
        let read = |name: &str| -> Result<Vec<String>, String> {
            let files = Arc::clone(&objects).list(name);
            let files = files.map_err(|error| error.to_string())?.into_iter();
            Ok(files.map(|file| file.name).collect())
        };
        let url = |name: &str| format!("s3://bucket/all/out/{name}");
        put(&job.own(PROGRAM), "program");
        put("part-00000-k1.1.1", "one");
        for name in ["all", "all/out", "all/out/part-*"] {
            let said = read(name).expect_err("it is not done");
            assert!(
                said.contains("the job that writes it is not done"),
                "{name}: {said}"
            );
        }
        put("part-00000-k2.1.1", "of another");
        put("mine", "mine");
        let others = [url("mine"), url("part-00000-k2.1.1")];
        assert_eq!(read("all").as_deref(), Ok(&others[..]));
        let manifest = r#"{"files":[{"name":"part-00000-k1.1.1","octets":3}]}"#;
        put(MANIFEST, manifest);
        for name in ["all", "all/out"] {
            assert_eq!(read(name), Ok(vec![url("part-00000-k1.1.1")]), "{name}");
        }
    }

    #[test]
    fn names_of_attempts_are_of_their_job_alone() {
        for own in ["part-00000-k1.3.12", "_a-b.c-m-00007-k1.1.1", "-k1.1.1"] {
            assert!(is_of_attempt(own, "k1"), "{own}");
        }
        let others = [
            "part-00000-k1",
            "part-00000-k1.3",
            "part-00000-k1.3.x",
            "k1.3.12",
        ];
        for other in others
            .into_iter()
            .chain(["part-00000-k11.3.12", "part-0-k1.3.12.gz"])
        {
            assert!(!is_of_attempt(other, "k1"), "{other}");
        }
    }
}
