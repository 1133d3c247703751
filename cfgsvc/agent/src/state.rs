//! The state directory: who this agent is, and what its host was told last.
//!
//! ```text
//! DIR/agent.lock       held by the agent that runs
//! DIR/program.lock     held by each guard and its program, which inherit it from their agent: the
//!                      next agent waits for them
//! DIR/instance         the directory's random name
//! DIR/roles/ROLE.json  the verdict on ROLE, a slash of its name written as '+'
//! DIR/copy.json        the copy of the configuration
//! ```
//!
//! Why so: the group takes two agents of one host apart by the instance, so a directory has one
//! agent at a time. A program that outlives its agent is the last agent's: until it is gone, the
//! next one asks for nothing.
//!
//! Invariant: a file is what it was or what it becomes, whatever happens in between: written
//! beside, synced, renamed, and the directory synced.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cfgsvc_core::placement::RoleName;
use fs_err as fs;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

/// Largest file of a verdict that is read, bytes; the longest that is written has a fraction of it.
const VERDICT_BYTES_MAX: u64 = 1 << 20;
/// The form of the verdict file that is written here.
pub const FORMAT: u32 = 1;
/// How often an agent looks whether its directory is free: who asks [`has_agent`] holds the lock
/// for a moment too.
const TRIES_MAX: u32 = 10;
/// Wait for what the last agent left.
pub const LEFT_MAX: Duration = Duration::from_mins(1);

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refuses.
    #[error("cannot use the state directory {}", .dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Another agent runs.
    #[error(
        "another agent uses the state directory {}; give each agent its own with --state-dir",
        .dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A program of an agent that has ended runs on.
    #[error(
        "what the last agent ran still runs, and holds {} ({} s were waited); end it first",
        .lock.display(), LEFT_MAX.as_secs()
    )]
    Left {
        /// The lock that it holds.
        lock: PathBuf,
    },
    /// A file is not what is written here.
    #[error(
        "{} is damaged or of a later version ({problem}); bring it back from a copy, or remove it \
         if this host has no data of the role",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What is written down about a role, for the host's programs and for the next agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictFile {
    /// [`FORMAT`].
    pub format: u32,
    /// Counts the changes of this file.
    pub version: u64,
    /// The role.
    pub role: String,
    /// This host.
    pub host: String,
    /// `serve`, `standby`, `redirect`, `rebuild` or `fenced`.
    pub verdict: String,
    /// The epoch it is about; 0 when the role was never granted.
    pub epoch: i64,
    /// Who holds the role; empty when this host does, or nobody.
    pub holder: String,
    /// Where the holder is reached.
    pub addresses: Vec<String>,
    /// In words.
    pub reason: String,
    /// The last epoch whose data this host has.
    pub known_epoch: i64,
    /// The boot that the deadline is of: `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// `serve` is over then: nanoseconds of the lease clock (`CLOCK_MONOTONIC_RAW` and the time
    /// slept); 0 for every other verdict.
    pub deadline_nanos: u64,
    /// When it was written, milliseconds since 1970, for people.
    pub written_ms: i64,
}

impl VerdictFile {
    /// Reads the text of a file that must be about `role`; the error is what is wrong with it.
    pub fn parse(text: &[u8], role: &RoleName) -> Result<Self, String> {
        let file: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if file.format != FORMAT || file.role != role.as_str() || file.known_epoch < 0 {
            return Err(format!(
                "format {} for role '{}', expected format {FORMAT}",
                file.format, file.role
            ));
        }
        Ok(file)
    }

    /// Whether it lets the host serve, at this moment of this boot.
    pub fn serves(&self, boot: &str, now_nanos: u64) -> bool {
        self.verdict == "serve" && self.boot == boot && now_nanos < self.deadline_nanos
    }
}

/// A state directory that is this agent's while the value lives.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    instance: String,
    _lock: fs::File,
}

impl StateDir {
    /// Takes the directory, making it when it is not there, and waits for what the last agent left.
    /// Blocks.
    pub fn open(dir: &Path, mut wait: impl FnMut()) -> Result<Self, StateError> {
        let failed = |source| StateError::Io {
            dir: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir.join("roles")).map_err(failed)?;
        let lock = open_lock(&agent_lock(dir)).map_err(failed)?;
        let mut tries = 0;
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            tries += 1;
            if tries == TRIES_MAX {
                let dir = dir.to_owned();
                return Err(StateError::InUse { dir });
            }
            wait();
        }
        let program = program_lock(dir);
        let left = open_lock(&program).map_err(failed)?;
        let give_up = cfgsvc_clock::Moment::now() + LEFT_MAX;
        while let Err(error) = flock(&left, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            if cfgsvc_clock::Moment::now() >= give_up {
                return Err(StateError::Left { lock: program });
            }
            wait();
        }
        let instance = instance(dir).map_err(failed)?;
        Ok(Self {
            dir: dir.to_owned(),
            instance,
            _lock: lock,
        })
    }

    /// The directory's random name.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The lock that guards hold.
    pub fn program_lock(&self) -> PathBuf {
        program_lock(&self.dir)
    }

    /// The file that is there while the watchdog device is armed.
    pub fn watchdog_mark(&self) -> PathBuf {
        self.dir.join("watchdog-armed")
    }

    /// The copy of the configuration.
    pub fn copy(&self) -> PathBuf {
        self.dir.join("copy.json")
    }

    /// The verdict on `role` that was written last, if any was.
    pub fn verdict(&self, role: &RoleName) -> Result<Option<VerdictFile>, StateError> {
        read_verdict(&self.dir, role)
    }

    /// The file of the verdict on `role`.
    pub fn verdict_path(&self, role: &RoleName) -> PathBuf {
        verdict_path(&self.dir, role)
    }
}

/// Takes the lock that says that a program of this directory runs; held as long as the file is
/// open, also by those who inherit it. It waits while an agent is looking.
pub fn hold(lock: &Path) -> io::Result<fs::File> {
    let file = open_lock(lock)?;
    flock(&file, FlockOperation::LockShared)?;
    Ok(file)
}

/// The same, for what is started while the file is open as well.
pub fn hold_inherited(lock: &Path) -> io::Result<OwnedFd> {
    let lock = OwnedFd::from(hold(lock)?);
    fcntl_setfd(&lock, FdFlags::empty())?;
    Ok(lock)
}

/// Starts something that inherits a lock which is held, and which nothing else that is started
/// does.
pub(crate) fn inherited<T>(lock: &impl AsFd, start: impl FnOnce() -> T) -> io::Result<T> {
    fcntl_setfd(lock, FdFlags::empty())?;
    let started = start();
    fcntl_setfd(lock, FdFlags::CLOEXEC)?;
    Ok(started)
}

/// Whether an agent runs with this state directory.
pub fn has_agent(dir: &Path) -> io::Result<bool> {
    let lock = match fs::File::open(agent_lock(dir)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn agent_lock(dir: &Path) -> PathBuf {
    dir.join("agent.lock")
}

fn program_lock(dir: &Path) -> PathBuf {
    dir.join("program.lock")
}

fn verdict_path(dir: &Path, role: &RoleName) -> PathBuf {
    let name = role.as_str().replace('/', "+");
    dir.join("roles").join(format!("{name}.json"))
}

fn open_lock(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).open(path)
}

fn instance(dir: &Path) -> io::Result<String> {
    let path = dir.join("instance");
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let name = uuid::Uuid::new_v4().simple().to_string();
    replace(&path, format!("{name}\n").as_bytes())?;
    Ok(name)
}

/// The verdict on `role` that was written last in `dir`, if any was.
pub fn read_verdict(dir: &Path, role: &RoleName) -> Result<Option<VerdictFile>, StateError> {
    let path = verdict_path(dir, role);
    let failed = |source| StateError::Io {
        dir: dir.to_owned(),
        source,
    };
    let damaged = |problem: String| StateError::Damaged {
        path: path.clone(),
        problem,
    };
    match fs::metadata(&path) {
        Ok(found) if found.len() > VERDICT_BYTES_MAX => {
            return Err(damaged(format!(
                "{} bytes, at most {VERDICT_BYTES_MAX}",
                found.len()
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let text = fs::read(&path).map_err(failed)?;
    VerdictFile::parse(&text, role).map(Some).map_err(damaged)
}

/// Puts `bytes` in the place of `path`, durably. Blocks.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// The boot of this machine.
pub fn boot_id() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> RoleName {
        RoleName::try_from(name.to_owned()).expect("a name")
    }

    #[test]
    fn a_directory_has_one_agent_and_keeps_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = StateDir::open(dir.path(), || {}).expect("it is free");
        let second = StateDir::open(dir.path(), || {});
        assert!(
            matches!(second, Err(StateError::InUse { .. })),
            "{second:?}"
        );
        let has_agent = || has_agent(dir.path()).expect("readable");
        assert!(has_agent());
        let name = first.instance().to_owned();
        drop(first);
        assert!(!has_agent());
        let third = StateDir::open(dir.path(), || {}).expect("it is free again");
        assert_eq!(third.instance(), name);
        assert!(has_agent());
    }

    #[test]
    fn who_asks_for_an_agent_does_not_keep_one_from_starting() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path()).expect("writable");
        let asks = open_lock(&agent_lock(dir.path())).expect("writable");
        flock(&asks, FlockOperation::LockShared).expect("nobody has it");
        let mut asks = Some(asks);
        let opened = StateDir::open(dir.path(), || drop(asks.take()));
        assert!(opened.is_ok(), "{opened:?}");
    }

    #[test]
    fn the_next_agent_waits_for_what_the_last_one_left() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(StateDir::open(dir.path(), || {}).expect("it is free"));
        let mut program = Some(hold(&program_lock(dir.path())).expect("nobody looks"));
        let mut waits = 0;
        let opened = StateDir::open(dir.path(), || {
            waits += 1;
            if waits == 3 {
                program.take();
            }
        });
        assert!(opened.is_ok(), "{opened:?}");
        assert_eq!(waits, 3);
    }

    #[test]
    fn a_verdict_that_is_damaged_is_an_error_and_one_that_is_not_there_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(dir.path(), || {}).expect("it is free");
        let db = role("db/orders");
        assert_eq!(state.verdict(&db).expect("readable"), None);
        let file = VerdictFile {
            format: FORMAT,
            role: "db/orders".to_owned(),
            verdict: "serve".to_owned(),
            boot: "b".to_owned(),
            deadline_nanos: 10,
            ..VerdictFile::default()
        };
        let path = state.verdict_path(&db);
        let text = serde_json::to_vec(&file).expect("plain");
        replace(&path, &text).expect("writable");
        let read = state.verdict(&db).expect("readable").expect("there");
        assert_eq!(read, file);
        assert!(read.serves("b", 9) && !read.serves("b", 10) && !read.serves("c", 9));
        for broken in [&text[..text.len() / 2], b"", b"{\"format\":2}", b"[]"] {
            replace(&path, broken).expect("writable");
            let read = state.verdict(&db);
            assert!(matches!(read, Err(StateError::Damaged { .. })), "{read:?}");
        }
        // Another role's file under this name.
        let other = role("db+orders".replace('+', ".").as_str());
        replace(&state.verdict_path(&other), &text).expect("writable");
        let read = state.verdict(&other);
        assert!(matches!(read, Err(StateError::Damaged { .. })), "{read:?}");
    }
}
