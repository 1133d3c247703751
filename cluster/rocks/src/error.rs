//! What went wrong on disk, in words for whoever runs the member.
//!
//! Why here: `RocksDB` reports a text and no code. This file alone reads that text; the rest of the
//! system sees an [`io::Error`] with a kind, the database, its directory and what to do next.

use std::io;
use std::path::Path;

/// Which of a member's two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    /// The durable Raft log.
    Log,
    /// The applied state.
    State,
}

impl Database {
    /// The name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::State => "state",
        }
    }
}

/// What to do when the files cannot be trusted any more.
const WHEN_DAMAGED: &str = "keep the directory for analysis, remove this member from the group and \
     add it again with an empty data directory; never edit or delete single files";

/// The kind that a text of `RocksDB` stands for.
fn kind_of(error: &rocksdb::Error) -> io::ErrorKind {
    let text = error.as_ref();
    let says = |part: &str| text.contains(part);
    if says("No space left on device") || says("Disk quota exceeded") {
        io::ErrorKind::StorageFull
    } else if text.starts_with("IO error") && (says("While lock file") || says("lock hold by")) {
        io::ErrorKind::ResourceBusy
    } else if says("Permission denied") || says("Operation not permitted") {
        io::ErrorKind::PermissionDenied
    } else if says("Read-only file system") {
        io::ErrorKind::ReadOnlyFilesystem
    } else if text.starts_with("Corruption") || says("No such file or directory") {
        // Files that a database names are never absent in one that is whole.
        io::ErrorKind::InvalidData
    } else if says("Column famil") {
        io::ErrorKind::InvalidInput
    } else {
        io::ErrorKind::Other
    }
}

/// A database that does not open.
pub(crate) fn open(database: Database, directory: &Path, error: &rocksdb::Error) -> io::Error {
    let name = database.name();
    let path = directory.display();
    let kind = kind_of(error);
    let message = if kind == io::ErrorKind::ResourceBusy {
        format!(
            "the {name} database {path} is in use by another process: stop it, or give this \
             member another data directory ({error})"
        )
    } else if kind == io::ErrorKind::InvalidInput {
        format!(
            "{path} is not a {name} database ({error}): check that the data directory belongs to \
             this version of the service and was not mixed up; if so, it is damaged: \
             {WHEN_DAMAGED}"
        )
    } else if kind == io::ErrorKind::InvalidData {
        format!("the {name} database {path} is damaged ({error}): {WHEN_DAMAGED}")
    } else if kind == io::ErrorKind::StorageFull {
        format!("no space to open the {name} database {path} ({error}): free space and start again")
    } else {
        format!(
            "cannot open the {name} database {path} ({error}): check the disk, its mount and the \
             owner of the files"
        )
    };
    io::Error::new(kind, message)
}

/// A database whose directory lacks what every database has, or holds what it should not.
pub(crate) fn not_a_database(database: Database, directory: &Path, found: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "{} is not a {} database: {found}; name a directory that does not exist yet, or one \
             that this service made; if it is such a one, it is damaged: {}",
            directory.display(),
            database.name(),
            WHEN_DAMAGED
        ),
    )
}

/// A database that must be there and is not.
pub(crate) fn absent(database: Database, directory: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!(
            "the {} database {} does not exist: check that the disk is mounted; if it is lost, \
             remove this member from the group and add it with an empty data directory",
            database.name(),
            directory.display()
        ),
    )
}

/// A change that may or may not be on disk.
pub(crate) fn write(database: Database, directory: &Path, error: &rocksdb::Error) -> io::Error {
    let kind = kind_of(error);
    let next = if kind == io::ErrorKind::StorageFull {
        "free space on that disk, then start this member again"
    } else {
        "check that disk, then start this member again; if it fails again, replace the member"
    };
    io::Error::new(
        kind,
        format!(
            "cannot write to the {} database {} ({error}): what was being written may or may not \
             be on disk, so it is not tried again; {next}",
            database.name(),
            directory.display()
        ),
    )
}

/// A read of `what` that failed.
pub(crate) fn read(
    database: Database,
    directory: &Path,
    what: &str,
    error: &rocksdb::Error,
) -> io::Error {
    io::Error::new(
        kind_of(error),
        format!(
            "cannot read {what} from the {} database {} ({error}): {}",
            database.name(),
            directory.display(),
            WHEN_DAMAGED
        ),
    )
}

/// Content of a database that is not what was written.
pub(crate) fn damaged(database: Database, directory: &Path, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the {} database {} is damaged: {what}: {}",
            database.name(),
            directory.display(),
            WHEN_DAMAGED
        ),
    )
}

/// A failed call on the file system.
pub(crate) fn file(doing: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot {doing} {}: {error}", path.display()),
    )
}

/// A copy of the state that could not be made.
pub(crate) fn checkpoint(state: &Path, copy: &Path, error: &rocksdb::Error) -> io::Error {
    io::Error::new(
        kind_of(error),
        format!(
            "cannot copy the state database {} to {} ({error}): check the disk's health and free \
             space",
            state.display(),
            copy.display()
        ),
    )
}
