//! An output in a bucket, where nothing can be renamed: each file is uploaded in parts under a
//! name that no other run gives, the uploads are completed when all tasks are done, and the
//! manifest is put last, only if it is what it was when the job began. It is the truth: who reads
//! the output follows it.
//!
//! ```text
//!   tasks: parts of part-00000-RUN, part-00001-RUN ...    nothing to be seen
//!   all done: complete each                               objects, which nothing names
//!   _MANIFEST, put on the condition that nobody else did  the output is there
//!   _SUCCESS; what an older output had is deleted
//! ```

use super::objects::{Objects, conditions};
use super::runtime::Pending;
use super::{Destination, MANIFEST, ObjectError, Part, Parts, SUCCESS};
use crate::Result;
use crate::engine::local::OutputFile;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    Error, MultipartUpload, ObjectMeta, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    UpdateVersion,
};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Octets of a part: all the same, as some stores want.
pub(super) const PART: usize = 8 << 20;
/// Parts of an object, at most, everywhere.
pub(super) const PARTS_MAX: u32 = 10_000;
/// Uploads that are completed, or ended, at once.
pub(super) const AT_ONCE: usize = 16;

/// A file whose parts are all uploaded.
struct Ready {
    name: String,
    path: Path,
    octets: u64,
    upload: Box<dyn MultipartUpload>,
}

/// What the files of an output have in common.
struct Shared {
    objects: Arc<Objects>,
    ready: Mutex<Vec<Ready>>,
    /// Uploads that could not be ended.
    left: Mutex<Vec<String>>,
}

/// What readers see.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// A request may have put the manifest, and nobody said so.
    Unknown,
    All,
}

/// An output under a prefix.
pub(super) struct ObjectOutput {
    shared: Arc<Shared>,
    /// Without a slash at its end.
    prefix: String,
    /// What makes names of this run its own.
    run: String,
    /// `.mapreduce.RUN`.
    own_name: String,
    /// The manifest that is there, and will be replaced.
    replaces: Option<UpdateVersion>,
    /// Objects of an older output.
    older: Vec<Path>,
    completed: Vec<Path>,
    seen: Seen,
}

/// A prefix to which an output may go.
pub(super) struct Vacancy {
    /// Without a slash at its end.
    pub(super) prefix: String,
    /// What is there.
    pub(super) older: Vec<ObjectMeta>,
    /// The manifest among it.
    pub(super) replaces: Option<UpdateVersion>,
}

impl Vacancy {
    /// Refuses what is there already, unless it may be replaced.
    pub(super) fn check(objects: &Objects, key: &str, overwrite: bool) -> Result<Self> {
        let prefix = key.trim_end_matches('/');
        let url = objects.url(prefix);
        if prefix.is_empty() {
            return Err(format!("output {url}: name a path in the bucket").into());
        }
        let output = |error: ObjectError| format!("output {error}");
        let path = objects.path(prefix).map_err(output)?;
        // Before the listing: what this manifest names is listed, and listings lack what some
        // stores want for a condition.
        let manifest = objects.path(&format!("{prefix}/{MANIFEST}"))?;
        let replaces = objects.head(&manifest).map_err(output)?;
        let older = objects.below(&path).map_err(output)?;
        if let Some(first) = older.first()
            && !overwrite
        {
            let (first, count) = (&first.location, older.len());
            let what = format!(
                "output {url} exists: {count} objects, such as {first}: \
                 name another prefix, or give --overwrite"
            );
            return Err(what.into());
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            older,
            replaces: replaces.map(|object| UpdateVersion {
                e_tag: object.e_tag,
                version: object.version,
            }),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ObjectOutput {
    /// Refuses what is there already.
    pub(super) fn check(objects: Arc<Objects>, key: &str, overwrite: bool) -> Result<Self> {
        let Vacancy {
            prefix,
            older,
            replaces,
        } = Vacancy::check(&objects, key, overwrite)?;
        let run = uuid::Uuid::new_v4().simple().to_string();
        Ok(Self {
            shared: Arc::new(Shared {
                objects,
                ready: Mutex::default(),
                left: Mutex::default(),
            }),
            prefix,
            own_name: format!(".mapreduce.{run}"),
            run,
            replaces,
            older: older.into_iter().map(|object| object.location).collect(),
            completed: Vec::new(),
            seen: Seen::Nothing,
        })
    }

    fn path(&self, name: &str) -> Result<Path, ObjectError> {
        let objects = &self.shared.objects;
        objects.path(&format!("{}/{name}", self.prefix))
    }

    /// Completes all uploads; those that fail are ended later.
    fn complete(&mut self) -> Result<(), ObjectError> {
        let objects = &self.shared.objects;
        let ready = std::mem::take(&mut *lock(&self.shared.ready));
        let store = objects.store();
        let all = ready.into_iter().map(move |mut one| {
            let store = Arc::clone(&store);
            async move {
                let mut done = one.upload.complete().await.map(|_| ());
                if done.is_err() {
                    // It may be that only the answer was lost: the name is nobody else's.
                    let found = store.head(&one.path).await;
                    if found.is_ok_and(|object| object.size == one.octets) {
                        done = Ok(());
                    }
                }
                (one, done)
            }
        });
        let all = futures_util::stream::iter(all).buffer_unordered(AT_ONCE);
        let all = objects.run(all.collect::<Vec<_>>());
        let mut failed = None;
        for (one, done) in all {
            match done {
                Ok(()) => self.completed.push(one.path),
                Err(error) => {
                    let url = objects.url(one.path.as_ref());
                    failed.get_or_insert_with(|| conditions(&url, &error));
                    // Whether it is there nobody can say: it is ended, and deleted.
                    self.completed.push(one.path.clone());
                    lock(&self.shared.ready).push(one);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Puts the manifest, unless somebody else did since the job began.
    fn put_manifest(&mut self, manifest: &[u8]) -> Result<()> {
        let objects = Arc::clone(&self.shared.objects);
        let path = self.path(MANIFEST)?;
        let url = objects.url(path.as_ref());
        let mode = self.replaces.clone();
        let mode = mode.map_or(PutMode::Create, PutMode::Update);
        let payload = PutPayload::from(manifest.to_vec());
        let (store, to) = (objects.store(), path.clone());
        let put = objects.run(async move {
            let options = PutOptions::from(mode);
            store.put_opts(&to, payload, options).await
        });
        let Err(error) = put else {
            self.seen = Seen::All;
            return Ok(());
        };
        let is_there = objects.get(&path).ok();
        if is_there.is_some_and(|found| *found == *manifest) {
            // It is ours: the answer to the first request was lost.
            self.seen = Seen::All;
            return Ok(());
        }
        if matches!(
            error,
            Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotFound { .. }
        ) {
            let what = format!("{url}: another job has put its output there; name another prefix");
            return Err(what.into());
        }
        if !matches!(
            error,
            Error::PermissionDenied { .. }
                | Error::Unauthenticated { .. }
                | Error::NotImplemented { .. }
                | Error::NotSupported { .. }
        ) {
            self.seen = Seen::Unknown;
        }
        Err(conditions(&url, &error).into())
    }

    /// Deletes objects; the first that cannot be deleted is the error.
    fn delete(&self, paths: Vec<Path>) -> Result<(), ObjectError> {
        let objects = &self.shared.objects;
        let store = objects.store();
        let all = paths.into_iter().map(move |path| {
            let store = Arc::clone(&store);
            async move {
                match store.delete(&path).await {
                    Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err((path, error)),
                }
            }
        });
        let all = futures_util::stream::iter(all).buffer_unordered(AT_ONCE);
        let deleted = objects.run(all.try_collect::<Vec<_>>());
        deleted
            .map(|_| ())
            .map_err(|(path, error)| conditions(&objects.url(path.as_ref()), &error))
    }
}

impl Parts for ObjectOutput {
    fn create(&self, part: &str) -> Result<Box<dyn Part>> {
        let name = format!("{part}-{}", self.run);
        let path = self.path(&name)?;
        let objects = &self.shared.objects;
        let (store, to) = (objects.store(), path.clone());
        let upload = objects.run(async move { store.put_multipart(&to).await });
        let url = objects.url(path.as_ref());
        let upload = upload.map_err(|error| conditions(&url, &error))?;
        Ok(Box::new(ObjectPart {
            shared: Arc::clone(&self.shared),
            name,
            path,
            url,
            upload: Some(upload),
            buffer: Vec::with_capacity(PART),
            parts: 0,
            octets: 0,
            flying: None,
        }))
    }
}

impl Destination for ObjectOutput {
    fn scratch(&self) -> PathBuf {
        std::env::temp_dir().join(&self.own_name)
    }

    fn own_name(&self) -> &str {
        &self.own_name
    }

    fn files(&self) -> Result<Vec<OutputFile>> {
        let ready = lock(&self.shared.ready);
        let files = ready.iter().map(|one| OutputFile {
            name: one.name.clone(),
            octets: one.octets,
        });
        let mut files: Vec<_> = files.collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    fn publish(&mut self, manifest: &[u8]) -> Result<()> {
        self.complete()?;
        self.put_manifest(manifest)?;
        let after = |error: ObjectError| format!("the output is there, but {error}");
        let objects = &self.shared.objects;
        let (store, path) = (objects.store(), self.path(SUCCESS)?);
        let to = path.clone();
        objects
            .run(async move { store.put(&to, PutPayload::new()).await })
            .map_err(|error| after(conditions(&objects.url(path.as_ref()), &error)))?;
        let kept = [path, self.path(MANIFEST)?];
        let mut older = std::mem::take(&mut self.older);
        older.retain(|path| !kept.contains(path));
        self.delete(older).map_err(after)?;
        Ok(())
    }

    fn discard(&mut self) -> Result<()> {
        let objects = Arc::clone(&self.shared.objects);
        match self.seen {
            Seen::All => return Ok(()),
            Seen::Unknown => {
                let url = objects.url(&self.prefix);
                let what = format!(
                    "whether {url} has the output is not known: it has if there is a {MANIFEST}; \
                     else run the job again with --overwrite"
                );
                return Err(what.into());
            }
            Seen::Nothing => {}
        }
        let ready = std::mem::take(&mut *lock(&self.shared.ready));
        let all = ready.into_iter().map(|mut one| async move {
            let ended = one.upload.abort().await;
            ended.map_err(|error| (one.path, error))
        });
        let all = futures_util::stream::iter(all).buffer_unordered(AT_ONCE);
        let ended = objects.run(all.collect::<Vec<_>>());
        for (path, error) in ended.into_iter().filter_map(Result::err) {
            let error = conditions(&objects.url(path.as_ref()), &error);
            lock(&self.shared.left).push(error.to_string());
        }
        let completed = std::mem::take(&mut self.completed);
        if let Err(error) = self.delete(completed) {
            lock(&self.shared.left).push(error.to_string());
        }
        let left = lock(&self.shared.left);
        let Some(first) = left.first() else {
            return Ok(());
        };
        let count = left.len();
        Err(format!("{count} uploads could not be ended, and take room: {first}").into())
    }
}

/// A file that is being uploaded: what is here, and one part that is on its way.
struct ObjectPart {
    shared: Arc<Shared>,
    name: String,
    path: Path,
    url: String,
    /// None when it is finished, or was ended.
    upload: Option<Box<dyn MultipartUpload>>,
    buffer: Vec<u8>,
    parts: u32,
    octets: u64,
    flying: Option<Pending<object_store::Result<()>>>,
}

impl ObjectPart {
    /// Waits for the part that is on its way.
    fn land(&mut self) -> Result<(), ObjectError> {
        match self.flying.take().map(Pending::wait) {
            Some(Err(error)) => Err(conditions(&self.url, &error)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn send(&mut self) -> Result<(), ObjectError> {
        self.land()?;
        let refused = |found: String, next| ObjectError {
            url: self.url.clone(),
            found,
            next,
        };
        if self.parts == PARTS_MAX {
            let found = format!("more than {PARTS_MAX} parts of {PART} octets");
            return Err(refused(found, "use more reduces, or smaller splits"));
        }
        let Some(upload) = &mut self.upload else {
            return Err(refused(
                "it has failed before".to_owned(),
                "run the job again",
            ));
        };
        let part = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART));
        self.parts += 1;
        self.octets += part.len() as u64;
        let put = upload.put_part(PutPayload::from(part));
        self.flying = Some(self.shared.objects.start(put));
        Ok(())
    }
}

impl Write for ObjectPart {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let room = (PART - self.buffer.len()).min(octets.len());
        self.buffer.extend_from_slice(&octets[..room]);
        if self.buffer.len() == PART {
            self.send()?;
        }
        Ok(room)
    }

    /// What is less than a part cannot be sent before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Part for ObjectPart {
    fn finish(mut self: Box<Self>) -> Result<u64> {
        // An object without a part cannot be completed everywhere.
        if !self.buffer.is_empty() || self.parts == 0 {
            self.send()?;
        }
        self.land()?;
        if let Some(upload) = self.upload.take() {
            lock(&self.shared.ready).push(Ready {
                name: std::mem::take(&mut self.name),
                path: self.path.clone(),
                octets: self.octets,
                upload,
            });
        }
        Ok(self.octets)
    }
}

impl Drop for ObjectPart {
    /// One that is not finished has failed: it is ended, so that its parts take no room.
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else {
            return;
        };
        // What is on its way would begin anew what is ended; whether it arrived says nothing.
        let _ = self.land();
        let ended = self.shared.objects.run(async move { upload.abort().await });
        if let Err(error) = ended {
            let error = conditions(&self.url, &error);
            lock(&self.shared.left).push(error.to_string());
        }
    }
}
