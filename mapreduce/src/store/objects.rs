//! Buckets: S3 and what speaks like it, Google Cloud Storage, Azure. How they are reached is in
//! the environment, under the names that the `object_store` crate knows.
//!
//! An output of a job is what its manifest names, whatever else lies under the same prefix: what
//! attempts left that lost, or were killed.

use super::job::{is_of_attempt, key_of};
use super::reader::ObjectReader;
use super::runtime::{Pending, Runtime};
use super::upload::{ObjectOutput, Vacancy};
use super::{
    Destination, GLOB, InputError, InputFile, MANIFEST, ObjectError, Packing, Store, is_no_data,
};
use crate::Result;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    BackoffConfig, Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _,
    RetryConfig,
};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// Requests that are under way at once when many small ones are to be made.
const AT_ONCE: usize = 32;
/// Objects that are listed: more than a job can have tasks, with names that are passed over.
const LISTED_MAX: usize = 1_000_000;
/// Octets of a manifest that is read; one of 250,000 files has less.
const MANIFEST_MAX: u64 = 64 << 20;

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    S3,
    Gs,
    Az,
}

impl Scheme {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "s3" => Some(Self::S3),
            "gs" => Some(Self::Gs),
            "az" => Some(Self::Az),
            _ => None,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        })
    }
}

/// A bucket.
pub(super) struct Objects {
    /// `s3://bucket/`.
    root: String,
    store: Arc<dyn ObjectStore>,
    /// The same, for uploads whose numbers others are to know.
    uploads: Arc<dyn MultipartStore>,
    runtime: Arc<Runtime>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.root)
    }
}

/// What a job's manifest says of its files.
#[derive(Deserialize)]
struct Manifest {
    files: Vec<ManifestFile>,
}

#[derive(Deserialize)]
struct ManifestFile {
    name: String,
    octets: u64,
}

/// A request that fails is tried again for a minute at most: then the job says why it ended.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(3),
            base: 2.,
        },
        max_retries: 8,
        retry_timeout: Duration::from_mins(1),
    }
}

type Connected = (Arc<dyn ObjectStore>, Arc<dyn MultipartStore>);

fn both(store: impl ObjectStore + MultipartStore) -> Connected {
    let store = Arc::new(store);
    (Arc::clone(&store) as Arc<dyn ObjectStore>, store)
}

fn connect(scheme: Scheme, bucket: &str) -> object_store::Result<Connected> {
    use object_store::{aws, azure, gcp};
    Ok(match scheme {
        Scheme::S3 => {
            let builder = aws::AmazonS3Builder::from_env().with_bucket_name(bucket);
            both(builder.with_retry(retries()).build()?)
        }
        Scheme::Gs => {
            let builder = gcp::GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            both(builder.with_retry(retries()).build()?)
        }
        Scheme::Az => {
            let builder = azure::MicrosoftAzureBuilder::from_env().with_container_name(bucket);
            both(builder.with_retry(retries()).build()?)
        }
    })
}

/// What went wrong, in words for people.
pub(super) fn conditions(url: &str, error: &Error) -> ObjectError {
    let said = error.to_string();
    let is_about_bucket = ["NoSuchBucket", "ContainerNotFound"]
        .iter()
        .any(|code| said.contains(code));
    let is_denied = matches!(
        error,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
    );
    let (found, next) = if is_about_bucket {
        let next = "create it, or correct its name or the endpoint";
        ("there is no such bucket".to_owned(), next)
    } else if matches!(error, Error::NotFound { .. }) {
        ("there is no such object".to_owned(), "see what is there")
    } else if matches!(error, Error::Precondition { .. }) {
        return has_changed(url);
    } else if is_denied {
        let next =
            "give credentials that may do it, in the environment (AWS_ACCESS_KEY_ID and so on)";
        (one_line(&said), next)
    } else {
        let next = "see that the server is there, and that the environment names it \
                    (AWS_ENDPOINT_URL, AWS_ALLOW_HTTP=true for http)";
        (one_line(&with_cause(error, said)), next)
    };
    ObjectError {
        url: url.to_owned(),
        found,
        next,
    }
}

/// An input is not what it was when the job began.
pub(super) fn has_changed(url: &str) -> ObjectError {
    ObjectError {
        url: url.to_owned(),
        found: "it has changed since the job began".to_owned(),
        next: "leave inputs as they are while a job runs, and run it again",
    }
}

/// The innermost cause as well: that a connection was refused is said there only.
fn with_cause(error: &Error, said: String) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let last = cause.to_string();
    if said.contains(&last) {
        return said;
    }
    format!("{said}: {last}")
}

fn one_line(said: &str) -> String {
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Objects by the parts of their names, as files of directories are.
fn in_order(objects: &mut [ObjectMeta]) {
    let parts = |object: &ObjectMeta| {
        let parts = object.location.as_ref().split('/');
        parts.map(str::to_owned).collect::<Vec<_>>()
    };
    objects.sort_by_cached_key(parts);
}

/// Jobs that have a directory among these: they are not done, or not all is deleted that they
/// leave. The prefixes of their outputs, and their keys.
fn running(listed: &[ObjectMeta]) -> HashSet<(String, String)> {
    let jobs = listed.iter().filter_map(|object| {
        let mut prefix = String::new();
        for part in object.location.as_ref().split('/') {
            if let Some(key) = key_of(part) {
                return Some((prefix, key.to_owned()));
            }
            if !prefix.is_empty() {
                prefix.push('/');
            }
            prefix.push_str(part);
        }
        None
    });
    jobs.collect()
}

impl Objects {
    pub(super) fn connect(
        scheme: Scheme,
        bucket: &str,
        runtime: Arc<Runtime>,
    ) -> Result<Self, String> {
        // One that is there already has been chosen by the program.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let connected = connect(scheme, bucket).map_err(|error| one_line(&error.to_string()))?;
        let (store, uploads) = connected;
        Ok(Self {
            root: format!("{scheme}://{bucket}/"),
            store,
            uploads,
            runtime,
        })
    }

    /// A bucket of tests.
    #[cfg(test)]
    pub(super) fn of(store: impl ObjectStore + MultipartStore) -> Self {
        let (store, uploads) = both(store);
        Self {
            root: "s3://bucket/".to_owned(),
            store,
            uploads,
            runtime: Arc::new(Runtime::new().expect("threads")),
        }
    }

    pub(super) fn uploads(&self) -> Arc<dyn MultipartStore> {
        Arc::clone(&self.uploads)
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    pub(super) fn url(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    pub(super) fn path(&self, key: &str) -> Result<Path, ObjectError> {
        Path::parse(key).map_err(|error| ObjectError {
            url: self.url(key),
            found: one_line(&error.to_string()),
            next: "name it without empty parts, . and ..",
        })
    }

    /// Begins requests.
    pub(super) fn start<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
    ) -> Pending<T> {
        self.runtime.start(request)
    }

    /// Does requests.
    pub(super) fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.runtime.run(request)
    }

    /// An object, if there is one by just this name.
    pub(super) fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, ObjectError> {
        let (store, of) = (self.store(), path.clone());
        match self.run(async move { store.head(&of).await }) {
            Ok(object) => Ok(Some(object)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(conditions(&self.url(path.as_ref()), &error)),
        }
    }

    /// All objects below a name, in order.
    pub(super) fn below(&self, path: &Path) -> Result<Vec<ObjectMeta>, ObjectError> {
        let (store, prefix) = (self.store(), path.clone());
        let listed = self.run(async move {
            let prefix = (!prefix.as_ref().is_empty()).then_some(&prefix);
            let listed = store.list(prefix).take(LISTED_MAX + 1);
            listed.try_collect::<Vec<_>>().await
        });
        let url = self.url(path.as_ref());
        let mut listed = listed.map_err(|error| conditions(&url, &error))?;
        if listed.len() > LISTED_MAX {
            return Err(ObjectError {
                url,
                found: format!("more than {LISTED_MAX} objects"),
                next: "name a part of them, by a longer prefix",
            });
        }
        // What some programs put for a directory is none of its objects.
        listed.retain(|object| object.location != *path);
        in_order(&mut listed);
        Ok(listed)
    }

    fn matching(&self, pattern: &str) -> Result<Vec<ObjectMeta>, InputError> {
        let bad = |why: String| InputError::Pattern {
            pattern: self.url(pattern),
            why,
        };
        let glob = glob::Pattern::new(pattern).map_err(|error| bad(error.to_string()))?;
        let depth = pattern.split('/').count();
        let is_fixed = |part: &&str| !part.contains(['*', '?', '[']);
        let fixed: Vec<&str> = pattern.split('/').take_while(is_fixed).collect();
        // What is no data is meant only by who says so.
        let all = pattern.rsplit('/').next().is_some_and(is_no_data);
        let mut found = Vec::new();
        let listed = self.below(&self.path(&fixed.join("/"))?)?;
        let running = running(&listed);
        for object in listed {
            let parts: Vec<&str> = object.location.as_ref().split('/').collect();
            let Some((matched, rest)) = parts.split_at_checked(depth) else {
                continue;
            };
            let is_data = all || !matched.last().is_some_and(|name| is_no_data(name));
            if is_data && glob.matches_with(&matched.join("/"), GLOB) {
                let rest = rest.len();
                found.push((object, rest));
            }
        }
        if found.is_empty() {
            let pattern = self.url(pattern);
            return Err(InputError::NoMatch { pattern });
        }
        Ok(self.data(found, &running)?)
    }

    fn named(&self, key: &str) -> Result<Vec<ObjectMeta>, InputError> {
        let path = self.path(key)?;
        if !key.is_empty()
            && !key.ends_with('/')
            && let Some(object) = self.head(&path)?
        {
            return Ok(vec![object]);
        }
        let found = self.below(&path)?;
        if found.is_empty() {
            return Err(InputError::Object(ObjectError {
                url: self.url(key),
                found: "there is no such object, and none below it".to_owned(),
                next: "see what is in the bucket",
            }));
        }
        let depth = path.parts().count();
        let parts = |object: &ObjectMeta| object.location.parts().count() - depth;
        let running = running(&found);
        let found = found.into_iter().map(|object| {
            let below = parts(&object);
            (object, below)
        });
        Ok(self.data(found.collect(), &running)?)
    }

    /// What is data of these objects, each of which has so many parts below what was named: all
    /// without what begins with `.` or `_`, and of an output what its manifest names. Of jobs that
    /// are `running` there is nothing but that.
    fn data(
        &self,
        found: Vec<(ObjectMeta, usize)>,
        running: &HashSet<(String, String)>,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        let mut manifests = HashMap::new();
        let mut data = Vec::new();
        for (object, below) in found {
            let key = object.location.as_ref();
            let mut names = key.rsplit('/').take(below);
            let name = names.next();
            if names.any(is_no_data) {
                continue;
            }
            if name == Some(MANIFEST) {
                let directory = key.strip_suffix(MANIFEST).unwrap_or_default();
                manifests.insert(directory.to_owned(), self.manifest(&object)?);
            } else if !name.is_some_and(is_no_data) {
                data.push(object);
            }
        }
        data.retain(|object| {
            let key = object.location.as_ref();
            let (directory, name) = key.rsplit_once('/').unwrap_or(("", key));
            let mut running = running.iter();
            let is_running =
                running.any(|(prefix, job)| prefix == directory && is_of_attempt(name, job));
            if is_running && !manifests.contains_key(&format!("{directory}/")) {
                return false;
            }
            manifests.iter_mut().all(|(directory, files)| {
                let Some(name) = key.strip_prefix(directory.as_str()) else {
                    return true;
                };
                // One of another length stays among those that are missing.
                let is_named = files.get(name) == Some(&object.size);
                is_named && files.remove(name).is_some()
            })
        });
        let mut missing = manifests.iter().filter_map(|(directory, files)| {
            let (name, octets) = files.iter().next()?;
            Some((format!("{directory}{name}"), *octets))
        });
        match (missing.next(), running.iter().next()) {
            (None, Some((prefix, _))) if data.is_empty() => Err(ObjectError {
                url: self.url(prefix),
                found: "the job that writes it is not done".to_owned(),
                next: "wait until it is",
            }),
            (None, _) => Ok(data),
            (Some((key, octets)), _) => Err(ObjectError {
                url: self.url(&key),
                found: format!("it is not there with the {octets} octets that {MANIFEST} says"),
                next: "make the output again, with the job that made it",
            }),
        }
    }

    /// The files of an output, with their lengths.
    fn manifest(&self, object: &ObjectMeta) -> Result<HashMap<String, u64>, ObjectError> {
        let url = self.url(object.location.as_ref());
        let bad = |found: String| ObjectError {
            url: url.clone(),
            found,
            next: "it is no output of a job: name its objects by a glob",
        };
        if object.size > MANIFEST_MAX {
            return Err(bad(format!("a manifest of {} octets", object.size)));
        }
        let octets = self.get(&object.location);
        let octets = octets.map_err(|error| conditions(&url, &error))?;
        let manifest: Manifest =
            serde_json::from_slice(&octets).map_err(|error| bad(error.to_string()))?;
        let files = manifest.files.into_iter();
        Ok(files.map(|file| (file.name, file.octets)).collect())
    }

    /// All octets of an object.
    pub(super) fn get(&self, path: &Path) -> object_store::Result<bytes::Bytes> {
        let (store, path) = (self.store(), path.clone());
        self.run(async move { store.get(&path).await?.bytes().await })
    }

    /// Objects as files, in their order.
    fn files(self: &Arc<Self>, found: Vec<ObjectMeta>) -> Result<Vec<InputFile>, ObjectError> {
        let looks = self.looks(&found)?;
        let files = found.into_iter().zip(looks).map(|(object, look)| {
            let store: Arc<dyn Store> = Arc::<Self>::clone(self);
            InputFile {
                name: self.url(object.location.as_ref()),
                length: object.size,
                packing: look.0,
                // As reads will say it, which a listing need not.
                version: look.1.or(object.e_tag),
                store,
            }
        });
        Ok(files.collect())
    }

    /// How objects are packed, in their order, and what they are now: not all listings say it.
    fn looks(&self, objects: &[ObjectMeta]) -> Result<Vec<(Packing, Option<String>)>, ObjectError> {
        let store = self.store();
        let all = objects.iter().map(|object| {
            let (store, path) = (Arc::clone(&store), object.location.clone());
            let first = object.size.min(Packing::LOOKED_AT);
            async move {
                if first == 0 {
                    return Ok((Packing::None, None));
                }
                let look = first_octets(&*store, &path, first).await;
                look.map_err(|error| (path, error))
            }
        });
        let all = futures_util::stream::iter(all.collect::<Vec<_>>()).buffered(AT_ONCE);
        self.run(all.try_collect::<Vec<_>>())
            .map_err(|(path, error)| conditions(&self.url(path.as_ref()), &error))
    }
}

async fn first_octets(
    store: &dyn ObjectStore,
    path: &Path,
    count: u64,
) -> object_store::Result<(Packing, Option<String>)> {
    let options = GetOptions {
        range: Some(GetRange::Bounded(0..count)),
        ..GetOptions::default()
    };
    let got = store.get_opts(path, options).await?;
    let version = got.meta.e_tag.clone();
    Ok((Packing::of(&got.bytes().await?), version))
}

impl Store for Objects {
    fn list(self: Arc<Self>, key: &str) -> Result<Vec<InputFile>, InputError> {
        let found = if key.contains(['*', '?', '[']) {
            self.matching(key)?
        } else {
            self.named(key)?
        };
        Ok(self.files(found)?)
    }

    fn find(self: Arc<Self>, key: &str) -> Result<InputFile, InputError> {
        let none = || {
            InputError::Object(ObjectError {
                url: self.url(key),
                found: "there is no such object".to_owned(),
                next: "see what is in the bucket",
            })
        };
        let found = self.head(&self.path(key)?)?.ok_or_else(none)?;
        let found = self.files(vec![found])?;
        found.into_iter().next().ok_or_else(none)
    }

    fn open(&self, file: &InputFile, at: u64, until: u64) -> io::Result<Box<dyn Read>> {
        let key = file.name.strip_prefix(&self.root).unwrap_or_default();
        let path = self.path(key)?;
        let (store, runtime) = (self.store(), Arc::clone(&self.runtime));
        let reader = ObjectReader::new(store, runtime, path, file, at..until);
        Ok(Box::new(reader))
    }

    fn manifest(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(&format!("{}/{MANIFEST}", key.trim_end_matches('/')))?;
        match self.get(&path) {
            Ok(octets) => Ok(Some(octets.to_vec())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(conditions(&self.url(path.as_ref()), &error).into()),
        }
    }

    fn vacant(&self, key: &str, overwrite: bool) -> Result<()> {
        Vacancy::check(self, key, overwrite).map(drop)
    }

    fn destination(self: Arc<Self>, key: &str, overwrite: bool) -> Result<Box<dyn Destination>> {
        Ok(Box::new(ObjectOutput::check(self, key, overwrite)?))
    }
}
