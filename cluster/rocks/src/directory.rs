//! Directories of databases: told apart, made whole or not at all, measured, synced.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{self, Database};

/// The file that every complete database has.
const CURRENT: &str = "CURRENT";

/// Bytes in a block of [`MetadataExt::blocks`], by POSIX.
const STAT_BLOCK_BYTES: u64 = 512;

/// Makes sure that `directory` holds a database: as it is, or made by `make` when it is absent or
/// empty and `create_if_missing`. `make` gets another directory, which takes the name when it is
/// complete and synced.
pub(crate) fn ensure(
    database: Database,
    directory: &Path,
    create_if_missing: bool,
    make: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    if is_complete(database, directory)? {
        return Ok(());
    }
    if !create_if_missing {
        return Err(error::absent(database, directory));
    }
    let staging = staging_of(directory);
    match fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error::file("remove the unfinished", &staging, &error));
        }
        Ok(()) | Err(_) => {}
    }
    fs::create_dir(&staging).map_err(|error| error::file("make", &staging, &error))?;
    make(&staging)?;
    sync_tree(&staging)?;
    fs::rename(&staging, directory)
        .map_err(|error| error::file("move the new database to", directory, &error))?;
    sync(parent_of(directory))
}

/// Whether `directory` holds a database; `false` when it is absent or empty.
fn is_complete(database: Database, directory: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(error::not_a_database(database, directory, "it is a file"));
        }
        Err(error) => return Err(error::file("list", directory, &error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| error::file("list", directory, &error))?;
        names.push(entry.file_name());
    }
    if names.iter().any(|name| name == CURRENT) {
        return Ok(true);
    }
    match names.iter().min() {
        None => Ok(false),
        Some(name) => Err(error::not_a_database(
            database,
            directory,
            &format!("it holds {} and no {CURRENT}", name.display()),
        )),
    }
}

/// Where a database is made before it gets its name.
fn staging_of(directory: &Path) -> PathBuf {
    let mut name = directory
        .file_name()
        .map_or_else(|| OsString::from("database"), OsString::from);
    name.push(".new");
    directory.with_file_name(name)
}

/// The directory that holds the name of `path`.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Makes a file, or the names in a directory, durable.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| error::file("sync", path, &error))
}

/// Makes a directory of files and the files durable.
pub(crate) fn sync_tree(directory: &Path) -> io::Result<()> {
    let list = |error: io::Error| error::file("list", directory, &error);
    for entry in fs::read_dir(directory).map_err(list)? {
        let path = entry.map_err(list)?.path();
        sync(&path)?;
    }
    sync(directory)
}

/// Bytes that the files in `directory` take up on disk, with what is reserved for them.
pub(crate) fn size_bytes(directory: &Path) -> io::Result<u64> {
    let list = |error: io::Error| error::file("list", directory, &error);
    let mut bytes = 0;
    for entry in fs::read_dir(directory).map_err(list)? {
        match entry.map_err(list)?.metadata() {
            Ok(metadata) => bytes += metadata.blocks() * STAT_BLOCK_BYTES,
            // Background work removes files at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(list(error)),
        }
    }
    Ok(bytes)
}
