//! Files of this machine. An output comes to be beside its place, under a name of its own, and is
//! put there by one rename when all is done: it is there whole or not at all, whatever ends the
//! process.

use super::{
    Destination, GLOB, InputError, InputFile, MANIFEST, Packing, Part, Parts, SUCCESS, Store,
    is_no_data,
};
use crate::engine::local::OutputFile;
use crate::{Error, Result};
use fs_err as fs;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::io::{self, ErrorKind, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of this machine.
#[derive(Debug)]
pub(super) struct Files;

impl Store for Files {
    fn list(self: Arc<Self>, name: &str) -> Result<Vec<InputFile>, InputError> {
        let paths = named(name)?;
        let store: Arc<dyn Store> = self;
        paths.into_iter().map(|path| look(&store, path)).collect()
    }

    fn find(self: Arc<Self>, name: &str) -> Result<InputFile, InputError> {
        let path = Path::new(name);
        let kind = std::fs::metadata(path).map_err(unreadable(path))?;
        if !kind.is_file() {
            let path = path.to_owned();
            return Err(InputError::Special { path });
        }
        let store: Arc<dyn Store> = self;
        look(&store, path.to_owned())
    }

    fn open(&self, file: &InputFile, at: u64, _until: u64) -> io::Result<Box<dyn Read>> {
        let mut file = fs::File::open(&file.name)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(Box::new(file))
    }

    fn manifest(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(Path::new(name).join(MANIFEST)) {
            Ok(octets) => Ok(Some(octets)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn vacant(&self, name: &str, overwrite: bool) -> Result<()> {
        Directory::is_there(Path::new(name), overwrite).map(drop)
    }

    fn destination(self: Arc<Self>, name: &str, overwrite: bool) -> Result<Box<dyn Destination>> {
        Ok(Box::new(Directory::check(Path::new(name), overwrite)?))
    }
}

/// The files that are meant by a path, a directory or a glob.
fn named(name: &str) -> Result<Vec<PathBuf>, InputError> {
    let mut paths = Vec::new();
    let path = Path::new(name);
    if !name.contains(['*', '?', '[']) || path.exists() {
        expand(path, &mut paths)?;
        return Ok(paths);
    }
    // What is no data is meant only by who says so.
    let all = path
        .file_name()
        .is_some_and(|name| is_no_data(&name.to_string_lossy()));
    for found in matches(name)? {
        let base = found.file_name().map(|name| name.to_string_lossy());
        if !all && base.is_some_and(|base| is_no_data(&base)) {
            continue;
        }
        expand(&found, &mut paths)?;
    }
    if paths.is_empty() {
        let pattern = name.to_owned();
        return Err(InputError::NoMatch { pattern });
    }
    Ok(paths)
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>, InputError> {
    let paths = glob::glob_with(pattern, GLOB).map_err(|error| InputError::Pattern {
        pattern: pattern.to_owned(),
        why: error.to_string(),
    })?;
    let found = paths.map(|found| {
        found.map_err(|error| InputError::Unreadable {
            path: error.path().to_owned(),
            source: error.into(),
        })
    });
    found.collect()
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> InputError {
    let path = path.to_owned();
    |source| InputError::Unreadable { path, source }
}

fn expand(path: &Path, into: &mut Vec<PathBuf>) -> Result<(), InputError> {
    // Of std: the error names the path itself.
    let kind = std::fs::metadata(path).map_err(unreadable(path))?;
    if kind.is_dir() {
        let entries = std::fs::read_dir(path).map_err(unreadable(path))?;
        let names = entries.map(|entry| Ok(entry?.path()));
        let mut names: Vec<PathBuf> = names.collect::<io::Result<_>>().map_err(unreadable(path))?;
        names.sort();
        for name in names {
            let base = name.file_name().map(|name| name.to_string_lossy());
            if !base.is_some_and(|base| is_no_data(&base)) {
                expand(&name, into)?;
            }
        }
        Ok(())
    } else if kind.is_file() {
        into.push(path.to_owned());
        Ok(())
    } else {
        let path = path.to_owned();
        Err(InputError::Special { path })
    }
}

fn look(store: &Arc<dyn Store>, path: PathBuf) -> Result<InputFile, InputError> {
    let look = || -> io::Result<(u64, Vec<u8>)> {
        let file = std::fs::File::open(&path)?;
        let mut length = file.metadata()?.len();
        let mut first = Vec::new();
        (&file).take(Packing::LOOKED_AT).read_to_end(&mut first)?;
        if length == 0 && !first.is_empty() {
            // It may have been written just now.
            length = file.metadata()?.len();
        }
        Ok((length, first))
    };
    let (length, first) = look().map_err(unreadable(&path))?;
    if length == 0 && !first.is_empty() {
        return Err(InputError::Unsized { path });
    }
    let packing = Packing::of(&first);
    // Workers have other directories, and outputs have these names: they are the same everywhere.
    let name = std::path::absolute(&path).map_err(unreadable(&path))?;
    let name = name
        .into_os_string()
        .into_string()
        .map_err(|path| InputError::NotUtf8 { path: path.into() })?;
    Ok(InputFile {
        name,
        length,
        packing,
        version: None,
        store: Arc::clone(store),
    })
}

/// Files that come to be in a directory of this machine.
pub(crate) struct Within<'a>(pub(crate) &'a Path);

impl Parts for Within<'_> {
    fn create(&self, name: &str) -> Result<Box<dyn Part>> {
        let path = self.0.join(name);
        Ok(Box::new(FilePart(fs::File::create_new(path)?)))
    }
}

/// A directory that is removed, whatever happens, unless it is kept.
pub(crate) struct Staging {
    pub(crate) path: PathBuf,
    is_kept: bool,
}

impl Staging {
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        fs::create_dir(&path)?;
        let is_kept = false;
        Ok(Self { path, is_kept })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_kept {
            // It may have become the output; and what cannot be removed says so to nobody who
            // could do more about it than to see it there.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// How directories are renamed: by the system, or by a test.
type Rename = fn(&Path, &Path, RenameFlags) -> Result<(), Errno>;

fn rename(from: &Path, to: &Path, how: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, from, CWD, to, how)
}

/// An output directory.
pub(super) struct Directory {
    /// Where it will be. It is no symbolic link.
    place: PathBuf,
    /// The directory of the place, to be synced when the output is there.
    parent: fs::File,
    /// What is there may be replaced.
    overwrite: bool,
    name: String,
    staging: Staging,
    rename: Rename,
}

fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// The place of an output. A symbolic link to a directory is followed: it is what the output is
/// called, and the file system that it points to has the room.
pub(super) fn place(path: &Path) -> Result<PathBuf> {
    let base = path.file_name().ok_or("the output is not named")?;
    // Without a slash at its end, with which a link would be followed in some calls only.
    let place = path.with_file_name(base);
    if !fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink()) {
        return Ok(place);
    }
    let followed = fs::canonicalize(&place);
    followed.map_err(|error| format!("output {}, a symbolic link: {error}", path.display()).into())
}

impl Directory {
    /// Whether a directory is there; one that may not be replaced is refused.
    pub(super) fn is_there(path: &Path, overwrite: bool) -> Result<bool> {
        match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() && !overwrite {
                    let path = path.display();
                    let what = format!(
                        "output {path} exists: name another directory, or give --overwrite"
                    );
                    return Err(what.into());
                }
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(format!("output: {error}").into()),
        }
    }

    /// Refuses what is there already, and what would fail when all work is done.
    pub(super) fn check(path: &Path, overwrite: bool) -> Result<Self> {
        Self::check_by(rename, path, overwrite)
    }

    fn check_by(rename: Rename, path: &Path, overwrite: bool) -> Result<Self> {
        let is_exchanged = Self::is_there(path, overwrite)? && overwrite;
        let place = place(path)?;
        let base = place.file_name().ok_or("the output is not named")?;
        // Others may have the number of this process: those of other containers, and one that was
        // killed there.
        let run = uuid::Uuid::new_v4().simple().to_string();
        let name = format!(".{}.{}", base.to_string_lossy(), &run[..12]);
        let parent = fs::File::open(parent(&place)).map_err(|error| format!("output: {error}"))?;
        let staging = Staging::create(place.with_file_name(&name))?;
        let directory = Self {
            place,
            parent,
            overwrite,
            name,
            staging,
            rename,
        };
        if is_exchanged {
            directory.try_exchange()?;
        }
        Ok(directory)
    }

    /// Refuses a file system that cannot exchange directories.
    fn try_exchange(&self) -> Result<()> {
        let tried = ["a", "b"].map(|name| self.staging.path.join(name));
        for path in &tried {
            fs::create_dir(path)?;
        }
        let [a, b] = &tried;
        let exchanged = (self.rename)(a, b, RenameFlags::EXCHANGE);
        exchanged.map_err(|error| not_put(&self.place, true, error))?;
        for path in &tried {
            fs::remove_dir(path)?;
        }
        Ok(())
    }

    /// Gives the directory its place. Another job may have put its output there since the check:
    /// without `--overwrite` it stays.
    fn put(&self) -> Result<()> {
        let (from, to) = (&self.staging.path, &self.place);
        if self.overwrite && fs::symlink_metadata(to).is_ok() {
            match put_by(self.rename, from, to, true) {
                // Somebody has removed what was there.
                Err(Errno::NOENT) => {}
                done => return done.map_err(|error| not_put(to, true, error)),
            }
        }
        if !self.overwrite {
            // It is there and empty, or not there; another one stays, and is refused below.
            let _ = fs::remove_dir(to);
        }
        let done = put_by(self.rename, from, to, false);
        done.map_err(|error| not_put(to, false, error))
    }
}

impl Parts for Directory {
    fn create(&self, name: &str) -> Result<Box<dyn Part>> {
        Within(&self.staging.path).create(name)
    }
}

impl Destination for Directory {
    fn scratch(&self) -> PathBuf {
        self.staging.path.join(".scratch")
    }

    fn own_name(&self) -> &str {
        &self.name
    }

    /// Without what tasks keep there meanwhile.
    fn files(&self) -> Result<Vec<OutputFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.staging.path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                let octets = entry.metadata()?.len();
                files.push(OutputFile { name, octets });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// Puts the directory in its place. What was there is exchanged for it, and goes with it. If
    /// just this fails the work was not for nothing: the directory is kept.
    fn publish(&mut self, manifest: &[u8]) -> Result<()> {
        let staging = &self.staging.path;
        for (name, what) in [(MANIFEST, manifest), (SUCCESS, b"")] {
            let mut file = fs::File::create_new(staging.join(name))?;
            file.write_all(what)?;
            file.sync_all()?;
        }
        fs::File::open(staging)?.sync_all()?;
        if let Err(error) = self.put() {
            let kept = staging.display();
            let what = format!("{error}; it is whole in {kept}: move it there, or remove it");
            self.staging.is_kept = true;
            return Err(what.into());
        }
        let synced = self.parent.sync_all();
        Ok(synced.map_err(|error| format!("the output is there, but {error}"))?)
    }

    fn discard(&mut self) -> Result<()> {
        // It goes with its directory, when this is dropped.
        Ok(())
    }
}

/// Gives a directory the place of an output; of one that is there, by an exchange.
pub(crate) fn put(directory: &Path, place: &Path, is_there: bool) -> Result<()> {
    let done = put_by(rename, directory, place, is_there);
    done.map_err(|error| not_put(place, is_there, error))
}

fn put_by(rename: Rename, directory: &Path, place: &Path, is_there: bool) -> Result<(), Errno> {
    let how = if is_there {
        RenameFlags::EXCHANGE
    } else {
        RenameFlags::NOREPLACE
    };
    match rename(directory, place, how) {
        // Network file systems know no flags. A directory that holds something is not replaced.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !is_there => {
            rustix::fs::rename(directory, place)
        }
        done => done,
    }
}

/// Why an output has not got its place.
fn not_put(place: &Path, is_there: bool, error: Errno) -> Error {
    let output = place.display();
    match error {
        Errno::INVAL | Errno::NOSYS | Errno::NOTSUP if is_there => format!(
            "output {output}: this file system cannot exchange directories: move the old one away"
        )
        .into(),
        error => format!("output {output}: {error}").into(),
    }
}

struct FilePart(fs::File);

impl Write for FilePart {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Part for FilePart {
    fn finish(self: Box<Self>) -> Result<u64> {
        self.0.sync_all()?;
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
