//! How far the log was synced, in a file of its own beside it.
//!
//! Why: recovery takes a write-ahead log that ends early for one whose last batch was torn by a
//! loss of power. A file that was cut would so lose acknowledged entries, or a vote, without a
//! word. After each sync the sequence number of the last change goes into this file: a log that
//! ends before it has lost something.
//!
//! The file is not synced itself, so it costs no wait. It survives the end of the process; after a
//! loss of power it may be some seconds old, and is still true: it names only what was synced
//! before. Its 12 bytes lie in one sector and are replaced in place, so they are never torn.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{self, Database};

const NAME: &str = "SYNCED";
const NUMBER_BYTES: usize = 8;
const CONTENT_BYTES: usize = 12;

/// The open file.
pub(crate) struct Synced {
    file: File,
}

impl Synced {
    /// Makes the file of an empty log; not durable yet.
    pub(crate) fn make(directory: &Path) -> io::Result<()> {
        let path = directory.join(NAME);
        std::fs::write(&path, content(0)).map_err(|error| error::file("write", &path, &error))
    }

    /// Opens the file; returns the sequence number in it, too.
    pub(crate) fn open(directory: &Path) -> io::Result<(Self, u64)> {
        let path = directory.join(NAME);
        let damaged = |why: &str| {
            let what = format!("{}: {why}", path.display());
            error::damaged(Database::Log, directory, &what)
        };
        let opened = File::options().read(true).write(true).open(&path);
        let file = opened.map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                error::not_a_database(Database::Log, directory, &format!("it lacks {NAME}"))
            } else {
                error::file("open", &path, &error)
            }
        })?;
        let length = file
            .metadata()
            .map_err(|error| error::file("look at", &path, &error))?
            .len();
        let mut bytes = [0; CONTENT_BYTES];
        if length != CONTENT_BYTES as u64 {
            let why = format!("it has {length} bytes in place of {CONTENT_BYTES}");
            return Err(damaged(&why));
        }
        file.read_exact_at(&mut bytes, 0)
            .map_err(|error| error::file("read", &path, &error))?;
        let number = bytes
            .first_chunk::<NUMBER_BYTES>()
            .copied()
            .map(u64::from_le_bytes);
        match number.filter(|number| content(*number) == bytes) {
            Some(number) => Ok((Self { file }, number)),
            None => Err(damaged("it does not match its checksum")),
        }
    }

    /// Takes note that everything up to `sequence` was synced.
    pub(crate) fn set(&self, sequence: u64) -> io::Result<()> {
        self.file.write_all_at(&content(sequence), 0)
    }
}

/// Sequence number (8 bytes) and CRC-32C of it (4 bytes), little-endian.
fn content(sequence: u64) -> [u8; CONTENT_BYTES] {
    let number = sequence.to_le_bytes();
    let mut bytes = [0; CONTENT_BYTES];
    bytes[..NUMBER_BYTES].copy_from_slice(&number);
    bytes[NUMBER_BYTES..].copy_from_slice(&crc32c::crc32c(&number).to_le_bytes());
    bytes
}
