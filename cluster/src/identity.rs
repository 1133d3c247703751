//! Who a data directory is, and that nobody else is it.
//!
//! A member that lost its disk and starts empty under its old id would vote again in terms in which
//! it has voted, and count towards majorities for entries it no longer holds. So a directory gets a
//! random incarnation once, the group remembers it, and an id goes with one incarnation for ever.
//!
//! | what happened to the directory | how it is noticed |
//! | --- | --- |
//! | swapped with another member's | its name is not the one the program was started with |
//! | emptied | the incarnation is new; founders and joiners are asked before anything else |
//! | log or state removed | identity is there, they are not |
//! | identity removed or damaged | log or state are there, it is not; its checksum |
//! | copied, put back from a copy | the identity file has another inode or birth than it says |
//! | log and state put back from a copy | the leader remembers more of it (`network.rs`) |
//! | used by a running process | it holds the lock |

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use prost::Message;
use rustix::fs::{FlockOperation, flock};

use crate::directory_store::sync_directory;
use crate::proto;
use crate::sealed::{REPLACE, seal, unseal};
use crate::types::decode;

const IDENTITY_FILE: &str = "identity";
const LOCK_FILE: &str = "lock";
const FORMAT: u32 = 1;

/// Why a data directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it.
    #[error("data directory {path} is in use by another process")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// No member has run from it.
    #[error(
        "{path} is not the data directory of a member that has been part of a group: its file \
         `identity` is missing or tells of none; give the directory that a member ran with"
    )]
    NotUsed {
        /// The directory.
        path: PathBuf,
    },
    /// It is another member's.
    #[error(
        "data directory {path} belongs to member `{found}`, not to `{expected}`: start it with \
         `--name {found}`, or give `{expected}` its own directory"
    )]
    OtherName {
        /// The directory.
        path: PathBuf,
        /// Name in the directory.
        found: String,
        /// Name asked for.
        expected: String,
    },
    /// Its identity file is another than the one that was written.
    #[error(
        "data directory {path} is a copy of another one (its identity was written as {expected}, \
         it is {found}): two members with one identity would corrupt the group, and one that was \
         put back has forgotten what it promised since. Start the original, or an empty directory \
         with `--join`. Only if this directory was moved as it was, and the original no longer \
         exists, start once with `--danger-adopt-copied-data`"
    )]
    Copied {
        /// The directory.
        path: PathBuf,
        /// What the file says it is.
        expected: FileMark,
        /// What it is.
        found: FileMark,
    },
    /// Part of it is gone.
    #[error(
        "data directory {path} lacks `{missing}` although member `{name}` (id {node_id}) has used \
         it: what it promised is lost. Replace the member: `cfgctl member remove {name}`, then \
         start an empty directory with `--join`"
    )]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// What is not there.
        missing: &'static str,
        /// Name in the directory.
        name: String,
        /// Id in the directory.
        node_id: u64,
    },
    /// Its identity is gone.
    #[error(
        "data directory {path} holds `{found}` and lacks `identity`: whose it is, and what that \
         member promised, is lost: {REPLACE}"
    )]
    Unidentified {
        /// The directory.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// Written by a later version.
    #[error("data directory {path} has format {found}, this program knows {known}")]
    Format {
        /// The directory.
        path: PathBuf,
        /// Format found.
        found: u32,
        /// Newest format known.
        known: u32,
    },
    /// The file system.
    #[error("data directory {path}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// What tells a file from its copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMark {
    /// A copy beside the original has another; one in place of the original may have the same.
    pub inode: u64,
    /// Nanoseconds from 1970 until the file was made; 0 where the file system does not know.
    pub born_ns: u64,
}

impl fmt::Display for FileMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inode {} born at {}", self.inode, self.born_ns)
    }
}

impl FileMark {
    fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata(path)?;
        let born = metadata.created().ok();
        let born = born.and_then(|born| born.duration_since(std::time::UNIX_EPOCH).ok());
        Ok(Self {
            inode: metadata.ino(),
            born_ns: born.map_or(0, |born| u64::try_from(born.as_nanos()).unwrap_or(0)),
        })
    }

    /// Whether both are of one file, as far as both know.
    fn is_same(self, other: Self) -> bool {
        let born_unknown = self.born_ns == 0 || other.born_ns == 0;
        self.inode == other.inode && (born_unknown || self.born_ns == other.born_ns)
    }
}

/// A data directory that this process holds.
pub struct DataDirectory {
    path: PathBuf,
    identity: proto::Identity,
    /// The lock lives as long as this.
    lock: fs::File,
}

impl DataDirectory {
    /// Takes the directory, making it when it is not there. `adopt` accepts a copied one.
    pub fn open(path: &Path, name: &str, adopt: bool) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(io)?;
        let lock = take_lock(path)?;
        let file = path.join(IDENTITY_FILE);
        let identity = match fs::read(&file) {
            Ok(bytes) => {
                let content = unseal(&file, bytes).map_err(io)?;
                decode("identity file", content).map_err(|error| io(error.into()))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => new_identity(path, name)?,
            Err(error) => return Err(io(error)),
        };
        let mut directory = Self {
            path: path.to_owned(),
            identity,
            lock,
        };
        directory.check(name, &file, adopt)?;
        Ok(directory)
    }

    fn check(&mut self, name: &str, file: &Path, adopt: bool) -> Result<(), IdentityError> {
        let path = self.path.clone();
        let io = |source| IdentityError::Io {
            path: path.clone(),
            source,
        };
        self.check_format()?;
        if self.identity.name != name {
            let found = self.identity.name.clone();
            return Err(IdentityError::OtherName {
                path,
                found,
                expected: name.to_owned(),
            });
        }
        if self.identity.inode == 0 {
            return self.save().map_err(io);
        }
        let found = FileMark::of(file).map_err(io)?;
        let expected = self.mark();
        if !found.is_same(expected) {
            if !adopt {
                return Err(IdentityError::Copied {
                    path,
                    expected,
                    found,
                });
            }
            self.save().map_err(io)?;
        }
        self.check_parts()
    }

    fn check_format(&self) -> Result<(), IdentityError> {
        if self.identity.format == FORMAT {
            return Ok(());
        }
        Err(IdentityError::Format {
            path: self.path.clone(),
            found: self.identity.format,
            known: FORMAT,
        })
    }

    /// What was used is still there.
    fn check_parts(&self) -> Result<(), IdentityError> {
        let mut parts = ["log/CURRENT", "state/CURRENT"].into_iter();
        match parts.find(|part| self.identity.opened && !self.path.join(part).exists()) {
            None => Ok(()),
            Some(missing) => Err(IdentityError::Incomplete {
                path: self.path.clone(),
                missing,
                name: self.identity.name.clone(),
                node_id: self.identity.node_id,
            }),
        }
    }

    /// What the identity file says that it is.
    fn mark(&self) -> FileMark {
        FileMark {
            inode: self.identity.inode,
            born_ns: self.identity.born_ns,
        }
    }

    /// Takes a directory that a member has used, to look at what it holds and never to run from it:
    /// so it may be a copy, which the second value says.
    pub fn open_offline(path: &Path) -> Result<(Self, bool), IdentityError> {
        let io = |source| IdentityError::Io {
            path: path.to_owned(),
            source,
        };
        let file = path.join(IDENTITY_FILE);
        if !file.exists() {
            return Err(IdentityError::NotUsed {
                path: path.to_owned(),
            });
        }
        let lock = take_lock(path)?;
        let content = unseal(&file, fs::read(&file).map_err(io)?).map_err(io)?;
        let identity: proto::Identity =
            decode("identity file", content).map_err(|error| io(error.into()))?;
        if identity.cluster_id == 0 || !identity.opened {
            return Err(IdentityError::NotUsed {
                path: path.to_owned(),
            });
        }
        let directory = Self {
            path: path.to_owned(),
            identity,
            lock,
        };
        directory.check_format()?;
        directory.check_parts()?;
        let copied = !FileMark::of(&file).map_err(io)?.is_same(directory.mark());
        Ok((directory, copied))
    }

    /// Lets another process have it.
    pub fn release(&mut self) -> io::Result<()> {
        Ok(flock(&self.lock, FlockOperation::Unlock)?)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says.
    pub fn identity(&self) -> &proto::Identity {
        &self.identity
    }

    /// Binds it to a group for ever.
    pub fn bind(
        &mut self,
        cluster_id: u64,
        node_id: u64,
        founders: Vec<proto::Node>,
    ) -> io::Result<()> {
        self.identity.cluster_id = cluster_id;
        self.identity.node_id = node_id;
        self.identity.founders = founders;
        self.save()
    }

    /// Log and state were opened: from here on their absence means loss.
    pub fn set_opened(&mut self) -> io::Result<()> {
        if self.identity.opened {
            return Ok(());
        }
        self.identity.opened = true;
        self.save()
    }

    /// Writes the identity so that a crash leaves the old or the new one.
    fn save(&mut self) -> io::Result<()> {
        let temporary = self.path.join("identity.new");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        let mark = FileMark::of(&temporary)?;
        self.identity.inode = mark.inode;
        self.identity.born_ns = mark.born_ns;
        {
            use std::io::Write as _;
            let mut file = &file;
            file.write_all(&seal(&self.identity.encode_to_vec()))?;
        }
        file.sync_all()?;
        fs::rename(&temporary, self.path.join(IDENTITY_FILE))?;
        sync_directory(&self.path)
    }
}

/// Takes the lock of a directory, which must be there.
fn take_lock(path: &Path) -> Result<fs::File, IdentityError> {
    let io = |source| IdentityError::Io {
        path: path.to_owned(),
        source,
    };
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path.join(LOCK_FILE))
        .map_err(io)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(IdentityError::InUse {
            path: path.to_owned(),
        }),
        Err(error) => Err(io(error.into())),
    }
}

/// The identity of a directory that was never used.
fn new_identity(path: &Path, name: &str) -> Result<proto::Identity, IdentityError> {
    // The identity is durable before anything else is made.
    if let Some(found) = ["log", "state"]
        .into_iter()
        .find(|part| path.join(part).exists())
    {
        return Err(IdentityError::Unidentified {
            path: path.to_owned(),
            found,
        });
    }
    Ok(proto::Identity {
        format: FORMAT,
        name: name.to_owned(),
        incarnation: uuid::Uuid::new_v4().simple().to_string(),
        ..proto::Identity::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(path: &Path) {
        let mut directory = DataDirectory::open(path, "n1", false).expect("fresh");
        directory.bind(7, 1, Vec::new()).expect("bind");
        for part in ["log", "state"] {
            fs::create_dir_all(path.join(part)).expect("create");
            fs::write(path.join(part).join("CURRENT"), "db-00000001").expect("write");
        }
        directory.set_opened().expect("opened");
    }

    fn refusal(path: &Path, name: &str) -> String {
        match DataDirectory::open(path, name, false) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn identity_survives_a_reopen() {
        let root = tempfile::tempdir().expect("temp dir");
        bound(root.path());
        let again = DataDirectory::open(root.path(), "n1", false).expect("reopen");
        assert_eq!(
            (again.identity().cluster_id, again.identity().node_id),
            (7, 1)
        );
    }

    #[test]
    fn second_process_swapped_and_partly_emptied_directories_are_refused() {
        let root = tempfile::tempdir().expect("temp dir");
        bound(root.path());
        assert!(refusal(root.path(), "n2").contains("belongs to member `n1`, not to `n2`"));
        let held = DataDirectory::open(root.path(), "n1", false).expect("reopen");
        assert!(refusal(root.path(), "n1").contains("in use by another process"));
        drop(held);
        fs::remove_dir_all(root.path().join("log")).expect("remove");
        assert!(refusal(root.path(), "n1").contains("lacks `log/CURRENT`"));
    }

    #[test]
    fn lost_and_damaged_identities_are_refused() {
        let root = tempfile::tempdir().expect("temp dir");
        bound(root.path());
        let file = root.path().join("identity");
        let mut bytes = fs::read(&file).expect("read");
        bytes.pop();
        fs::write(&file, bytes).expect("write");
        let open = DataDirectory::open(root.path(), "n1", false);
        let Err(IdentityError::Io { source, .. }) = open else {
            panic!("accepted");
        };
        assert!(
            source.to_string().contains("identity is damaged"),
            "{source}"
        );
        fs::remove_file(&file).expect("remove");
        assert!(refusal(root.path(), "n1").contains("holds `log` and lacks `identity`"));
    }

    #[test]
    fn copied_directory_is_refused_until_adopted() {
        let root = tempfile::tempdir().expect("temp dir");
        let (original, copy) = (root.path().join("a"), root.path().join("b"));
        bound(&original);
        for directory in ["log", "state"] {
            fs::create_dir_all(copy.join(directory)).expect("create");
            let (from, to) = (original.join(directory), copy.join(directory));
            fs::copy(from.join("CURRENT"), to.join("CURRENT")).expect("copy");
        }
        fs::copy(original.join("identity"), copy.join("identity")).expect("copy");
        assert!(refusal(&copy, "n1").contains("is a copy of another one"));
        DataDirectory::open(&copy, "n1", true).expect("adopt");
        DataDirectory::open(&copy, "n1", false).expect("adopted for good");
    }

    #[test]
    fn file_put_back_under_the_same_inode_is_told_by_its_birth() {
        let mark = |inode, born_ns| FileMark { inode, born_ns };
        assert!(mark(5, 7).is_same(mark(5, 7)));
        assert!(!mark(5, 7).is_same(mark(5, 8)));
        assert!(!mark(5, 7).is_same(mark(6, 7)));
        assert!(mark(5, 7).is_same(mark(5, 0)), "one of them does not know");
    }

    #[test]
    fn directory_put_back_from_a_copy_is_refused() {
        let root = tempfile::tempdir().expect("temp dir");
        bound(root.path());
        let identity = root.path().join("identity");
        let copy = fs::read(&identity).expect("read");
        fs::remove_file(&identity).expect("remove");
        fs::write(&identity, copy).expect("put back, often under the inode that was just freed");
        assert!(refusal(root.path(), "n1").contains("is a copy of another one"));
    }
}
