//! Where files of jobs are: on this machine, or in buckets. A job names them by paths or by URLs,
//! and the engine reads and writes them through [`Store`] and [`Destination`].
//!
//! The two kinds of output differ in how they come to be there as a whole: a directory by one
//! rename, objects by a manifest that is put last and only once, and names what belongs to it.

mod job;
mod local;
mod objects;
mod reader;
mod runtime;
mod upload;

use crate::engine::local::{OutputFile, Report};
use crate::{Error, Result};
use objects::{Objects, Scheme};
use runtime::Runtime;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use job::{AttemptObjects, JobObjects, Older, PROGRAM, Version, is_in_bucket, leave};
pub(crate) use local::{Staging, Within, put};

/// What names the files of an output, is put last, and is followed by who reads it.
pub(crate) const MANIFEST: &str = "_MANIFEST";
/// Says to other systems that an output is whole.
pub(crate) const SUCCESS: &str = "_SUCCESS";

/// How a file is compressed, by its first octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// First octets that tell.
    const LOOKED_AT: u64 = 4;

    fn of(first: &[u8]) -> Self {
        match first {
            // The one method that there is (RFC 1952).
            [0x1F, 0x8B, 8, ..] => Self::Gzip,
            // A frame, or one that is passed over (RFC 8878), with which pzstd begins.
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// An input file.
#[derive(Clone, Debug)]
pub(crate) struct InputFile {
    /// The whole path, with which other processes find it, or the URL.
    pub(crate) name: String,
    pub(crate) length: u64,
    pub(crate) packing: Packing,
    /// What it is now, where the store knows: it must be the same when it is read.
    version: Option<String>,
    store: Arc<dyn Store>,
}

impl InputFile {
    /// What it is now; empty where the store does not know.
    pub(crate) fn version(&self) -> &str {
        self.version.as_deref().unwrap_or_default()
    }

    /// The same, unless it is not what it was when the job was submitted.
    pub(crate) fn must_be(self, version: &str) -> Result<Self, InputError> {
        if version.is_empty() || version == self.version() {
            return Ok(self);
        }
        Err(InputError::Changed { name: self.name })
    }

    /// To be read as it is, whatever its first octets are, by formats whose files are never packed.
    pub(crate) fn plain(self) -> Self {
        let packing = Packing::None;
        Self { packing, ..self }
    }

    /// Opens it at an octet of what is stored; `until` is up to where most of it will be read.
    pub(crate) fn open(&self, at: u64, until: Option<u64>) -> io::Result<Box<dyn Read>> {
        self.store.open(self, at, until.unwrap_or(self.length))
    }
}

/// Why an input cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("input {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("input {}: no file matches it", pattern)]
    NoMatch { pattern: String },
    #[error("input {}: neither a file nor a directory", path.display())]
    Special { path: PathBuf },
    #[error(
        "input {}: it has content, and its length is not known: copy it to a file",
        path.display()
    )]
    Unsized { path: PathBuf },
    #[error("input {}: {why}", pattern)]
    Pattern { pattern: String, why: String },
    #[error(
        "input {name}: it has changed since the job was submitted, and parts of it were read as it \
         was then; submit the job again"
    )]
    Changed { name: String },
    #[error("{}: its name is not UTF-8", path.display())]
    NotUtf8 { path: PathBuf },
    #[error("input {0}")]
    Object(#[from] ObjectError),
}

/// What went wrong with an object: its URL, what was found, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {found}; {next}")]
pub(crate) struct ObjectError {
    pub(crate) url: String,
    pub(crate) found: String,
    pub(crate) next: &'static str,
}

impl From<ObjectError> for io::Error {
    fn from(error: ObjectError) -> Self {
        Self::other(error)
    }
}

/// A place for files.
pub(crate) trait Store: fmt::Debug + Send + Sync {
    /// The files that are meant by a name, in the order of their names: it is one, a directory
    /// (without what begins with `.` or `_`), or a glob. Symbolic links are followed: what has two
    /// names in a directory is two files.
    fn list(self: Arc<Self>, name: &str) -> Result<Vec<InputFile>, InputError>;

    /// The file of just this name, whatever it would mean as a glob.
    fn find(self: Arc<Self>, name: &str) -> Result<InputFile, InputError>;

    /// Opens a file at an octet. Most of what is read ends before `until`.
    fn open(&self, file: &InputFile, at: u64, until: u64) -> io::Result<Box<dyn Read>>;

    /// The manifest of an output, if it has one.
    fn manifest(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// Refuses what is in the place of an output, unless it may be replaced.
    fn vacant(&self, name: &str, overwrite: bool) -> Result<()>;

    /// Where an output will be. What is there already is refused, before any work is done.
    fn destination(self: Arc<Self>, name: &str, overwrite: bool) -> Result<Box<dyn Destination>>;
}

/// Where tasks put files of an output.
pub(crate) trait Parts: Sync {
    /// A new file. Nobody sees it before all is published; dropped, it is gone.
    fn create(&self, name: &str) -> Result<Box<dyn Part>>;
}

/// An output that comes to be.
pub(crate) trait Destination: Parts {
    /// A directory for runs, which is not there yet, unless another one is asked for.
    fn scratch(&self) -> PathBuf;

    /// A name that no other output has while it comes to be.
    fn own_name(&self) -> &str;

    /// The files that are finished, in the order of their names.
    fn files(&self) -> Result<Vec<OutputFile>>;

    /// Makes it visible, all at once.
    fn publish(&mut self, manifest: &[u8]) -> Result<()>;

    /// Leaves nothing of an output that failed; an error says what is left.
    fn discard(&mut self) -> Result<()>;
}

/// A file of an output that is being written.
pub(crate) trait Part: Write + Send {
    /// Ends it, durably; its octets.
    fn finish(self: Box<Self>) -> Result<u64>;
}

/// The stores of a job. A bucket is connected to once.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    connected: Mutex<HashMap<(Scheme, String), Arc<Objects>>>,
    runtime: Mutex<Option<Arc<Runtime>>>,
}

/// Where a name points to.
#[derive(Debug, PartialEq, Eq)]
enum Location<'a> {
    Path(String),
    Object {
        scheme: Scheme,
        bucket: &'a str,
        key: &'a str,
    },
}

/// Reads a path or a URL.
fn location(name: &str) -> Result<Location<'_>, String> {
    let Some((scheme, rest)) = name.split_once("://") else {
        return Ok(Location::Path(name.to_owned()));
    };
    if scheme == "file" {
        let path = rest.strip_prefix("localhost").unwrap_or(rest);
        if !path.starts_with('/') {
            return Err("a file URL has three slashes and the whole path: file:///data/a".into());
        }
        let path = percent_encoding::percent_decode_str(path).decode_utf8();
        let path = path.map_err(|_| "its name is not UTF-8")?;
        return Ok(Location::Path(path.into_owned()));
    }
    let is_scheme = |text: &str| {
        let rest = |octet: &u8| octet.is_ascii_alphanumeric() || b"+-.".contains(octet);
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.bytes().all(|o| rest(&o))
    };
    if !is_scheme(scheme) {
        return Ok(Location::Path(name.to_owned()));
    }
    let scheme = Scheme::of(scheme)
        .ok_or_else(|| format!("{scheme}:// is not known: s3, gs, az and file are"))?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(format!("no bucket is named: {scheme}://BUCKET/PATH"));
    }
    Ok(Location::Object {
        scheme,
        bucket,
        key,
    })
}

/// Where the output of a job on many machines goes, by what a person calls it: a whole path, or a
/// URL of a prefix.
pub(crate) fn place(output: &Path) -> Result<PathBuf> {
    let Some(name) = output.to_str() else {
        return Ok(std::path::absolute(output)?);
    };
    let location = location(name).map_err(|why| Error::from(format!("output {name}: {why}")))?;
    match location {
        Location::Path(path) => local::place(&std::path::absolute(path)?),
        Location::Object { .. } => Ok(name.trim_end_matches('/').into()),
    }
}

impl Stores {
    /// The store of a name, and its name there.
    fn of(&self, name: &str) -> Result<(Arc<dyn Store>, String), String> {
        match location(name)? {
            Location::Path(path) => Ok((Arc::new(local::Files), path)),
            Location::Object {
                scheme,
                bucket,
                key,
            } => {
                let objects = self.objects(scheme, bucket)?;
                Ok((objects, key.to_owned()))
            }
        }
    }

    fn objects(&self, scheme: Scheme, bucket: &str) -> Result<Arc<Objects>, String> {
        let connected = self.connected.lock();
        let mut connected = connected.unwrap_or_else(PoisonError::into_inner);
        let key = (scheme, bucket.to_owned());
        if let Some(objects) = connected.get(&key) {
            return Ok(Arc::clone(objects));
        }
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = if let Some(runtime) = &*runtime {
            Arc::clone(runtime)
        } else {
            let new = Runtime::new().map_err(|error| error.to_string())?;
            Arc::clone(runtime.insert(Arc::new(new)))
        };
        let objects = Arc::new(Objects::connect(scheme, bucket, runtime)?);
        connected.insert(key, Arc::clone(&objects));
        Ok(objects)
    }

    /// The files that are meant by these names; each file once.
    pub(crate) fn inputs(&self, named: &[String]) -> Result<Vec<InputFile>, InputError> {
        let mut files = Vec::new();
        for name in named {
            let (store, path) = self.of_input(name)?;
            files.extend(store.list(&path)?);
        }
        let mut seen = std::collections::HashSet::new();
        files.retain(|file| seen.insert(file.name.clone()));
        Ok(files)
    }

    /// One file, by the name that it was listed with.
    pub(crate) fn input(&self, name: &str) -> Result<InputFile, InputError> {
        let (store, path) = self.of_input(name)?;
        store.find(&path)
    }

    fn of_input(&self, name: &str) -> Result<(Arc<dyn Store>, String), InputError> {
        self.of(name).map_err(|why| InputError::Pattern {
            pattern: name.to_owned(),
            why,
        })
    }

    /// Refuses what is in the place of an output, unless it may be replaced.
    pub(crate) fn vacant(&self, path: &Path, overwrite: bool) -> Result<()> {
        let Some(name) = path.to_str() else {
            return local::Directory::is_there(path, overwrite).map(drop);
        };
        let (store, path) = self.of_output(name)?;
        store.vacant(&path, overwrite)
    }

    fn of_output(&self, name: &str) -> Result<(Arc<dyn Store>, String)> {
        self.of(name)
            .map_err(|why| Error::from(format!("output {name}: {why}")))
    }

    /// Where an output will be.
    pub(crate) fn destination(&self, path: &Path, overwrite: bool) -> Result<Box<dyn Destination>> {
        let Some(name) = path.to_str() else {
            // What is no UTF-8 is no URL.
            return Ok(Box::new(local::Directory::check(path, overwrite)?));
        };
        let (store, path) = self.of_output(name)?;
        store.destination(&path, overwrite)
    }

    /// The manifest of an output, if it is there.
    pub(crate) fn manifest(&self, output: &Path) -> Result<Option<Vec<u8>>> {
        let name = output.to_str();
        let name = name.ok_or_else(|| format!("{}: its name is not UTF-8", output.display()))?;
        let (store, path) = self.of(name).map_err(|why| format!("{name}: {why}"))?;
        store.manifest(&path)
    }
}

/// Names of what jobs leave beside data, and of hidden files.
fn is_no_data(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

/// How globs match: a `*` ends at a slash, and a dot at the beginning is meant only by a dot.
const GLOB: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// A manifest, as it is written.
pub(crate) fn manifest(report: &Report) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(report)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt as _;

    fn path(name: &str) -> Location<'_> {
        Location::Path(name.to_owned())
    }

    #[test]
    fn names_are_paths_unless_they_are_urls_of_a_known_kind() {
        for name in ["a/b", "/a/b", "a:b", "C:/a", "1://x", "s3:/a/b"] {
            assert_eq!(location(name), Ok(path(name)), "{name}");
        }
        assert_eq!(location("file:///a%20b/*.gz"), Ok(path("/a b/*.gz")));
        assert_eq!(location("file://localhost/a"), Ok(path("/a")));
        let of = |scheme, bucket, key| {
            Ok(Location::Object {
                scheme,
                bucket,
                key,
            })
        };
        assert_eq!(location("s3://b/a/c%20*"), of(Scheme::S3, "b", "a/c%20*"));
        assert_eq!(location("gs://b"), of(Scheme::Gs, "b", ""));
        assert_eq!(location("az://b/"), of(Scheme::Az, "b", ""));
        for (wrong, why) in [
            ("file://host/a", "three slashes"),
            ("file://a", "three slashes"),
            ("http://a/b", "http:// is not known: s3, gs, az"),
            ("s3:///a", "no bucket is named: s3://BUCKET"),
        ] {
            let error = location(wrong).expect_err(wrong);
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn packed_files_are_known_by_their_first_octets() {
        let is = |first: &[u8]| Packing::of(first);
        assert_eq!(is(b"\x1F\x8B\x08\0"), Packing::Gzip);
        assert_eq!(is(b"\x28\xB5\x2F\xFD"), Packing::Zstd);
        for first in 0..=255_u8 {
            let is_passed_over = is(&[first, 0x2A, 0x4D, 0x18]) == Packing::Zstd;
            assert_eq!(is_passed_over, (0x50..=0x5F).contains(&first), "{first}");
        }
        // A length of 35,615, records, and what is shorter than what tells.
        for plain in [
            &b"\x1F\x8B\0\0"[..],
            b"\x1F\x8B\x01\x02",
            b"\x1F\x8B",
            b"P*M",
            b"",
        ] {
            assert_eq!(is(plain), Packing::None, "{plain:?}");
        }
    }

    #[test]
    fn file_is_found_by_the_name_that_it_was_listed_with() {
        let objects = Arc::new(Objects::of(object_store::memory::InMemory::new()));
        let directory = tempfile::TempDir::new().expect("a directory");
        let names = ["[", "[a]", "a", "a*", "a?", "b**c", "{d}"];
        for name in names {
            let path = objects.path(&format!("in/{name}")).expect("a name");
            let store = objects.store();
            let put = async move { store.put(&path, name.into()).await };
            objects.run(put).expect("it is put");
            std::fs::write(directory.path().join(name), name).expect("a file");
        }
        let stores = Stores::default();
        let key = (Scheme::S3, "bucket".to_owned());
        let connected = HashMap::from([(key, objects)]);
        *stores.connected.lock().expect("nobody panics") = connected;
        let directory = directory.path().display().to_string();
        let all = [directory.clone(), "s3://bucket/in".to_owned()];
        let listed = stores.inputs(&all).expect("they are there");
        assert_eq!(listed.len(), 2 * names.len());
        for file in listed {
            let found = stores.input(&file.name).expect(&file.name);
            let is = |file: &InputFile| (file.name.clone(), file.length, file.version.clone());
            assert_eq!(is(&found), is(&file));
        }
        for none in [
            format!("{directory}/[ab]"),
            directory,
            "s3://bucket/in/[ab]".to_owned(),
            "s3://bucket/in".to_owned(),
        ] {
            stores.input(&none).expect_err(&none);
        }
    }

    #[test]
    fn names_of_files_are_whole_paths() {
        let listed =
            Stores::default().inputs(&["Cargo.toml".to_owned(), "./Cargo.toml".to_owned()]);
        let listed = listed.expect("it is there");
        let names: Vec<&str> = listed.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, [concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    }
}
