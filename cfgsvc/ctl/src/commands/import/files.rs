//! Which files an import takes, and which keys they become.

use bytes::Bytes;
use rustix::fs::OFlags;
use std::fs::{self, FileType};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file: a request is at most 1.5 MiB, and there is room for its key twice.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;
/// Deepest directory: bounds the recursion. Linux paths are at most 4096 bytes.
const DEPTH_MAX: usize = 256;

/// A file that is not taken, and why.
pub(super) struct Skipped {
    pub(super) path: PathBuf,
    pub(super) why: String,
}

/// What a walk found, in order of the keys.
#[derive(Default)]
pub(super) struct Found {
    pub(super) files: Vec<(Bytes, PathBuf)>,
    pub(super) skipped: Vec<Skipped>,
}

/// Walks a directory, or takes one file. Only the start itself may be a link.
/// `before` is what all keys begin with.
pub(super) fn find(start: &Path, before: &[u8]) -> io::Result<Found> {
    let mut found = Found::default();
    let metadata = fs::metadata(start)?;
    if metadata.is_dir() {
        walk(start, before, 0, &mut found)?;
    } else if metadata.is_file() {
        let name = start.file_name().unwrap_or(start.as_os_str());
        let key = [before, name.as_bytes()].concat();
        found.files.push((key.into(), start.to_owned()));
    } else {
        let text = format!(
            "it is {}, not a file or directory",
            kind(metadata.file_type())
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    found.files.sort();
    Ok(found)
}

fn walk(dir: &Path, before: &[u8], depth: usize, found: &mut Found) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let mut key = [before, entry.file_name().as_bytes()].concat();
        let file_type = entry.file_type()?;
        if file_type.is_file() {
            found.files.push((key.into(), path));
        } else if file_type.is_dir() && depth < DEPTH_MAX {
            key.push(b'/');
            if let Err(error) = walk(&path, &key, depth + 1, found) {
                found.skipped.push(Skipped {
                    path,
                    why: error.to_string(),
                });
            }
        } else {
            let why = format!("it is {}", kind(file_type));
            found.skipped.push(Skipped { path, why });
        }
    }
    Ok(())
}

fn kind(file_type: FileType) -> &'static str {
    if file_type.is_symlink() {
        "a symbolic link"
    } else if file_type.is_socket() {
        "a socket"
    } else if file_type.is_fifo() {
        "a named pipe"
    } else if file_type.is_dir() {
        "a directory too deep down"
    } else {
        "a device"
    }
}

/// The file's bytes, or why it is skipped.
pub(super) fn read(path: &Path) -> Result<Bytes, String> {
    // Should a named pipe have taken its place, this must not wait for a writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(path);
    let file = file.map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    // One byte more than the limit: a file may grow after its size was looked at.
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes.into())
}
