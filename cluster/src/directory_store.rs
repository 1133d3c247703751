//! [`StateStore`] in a directory of the file system.
//!
//! ```text
//! state/CURRENT            name of the database directory in use; replaced by rename
//! state/db-NNNNNNNN/       the database
//! snapshot/ID/             one snapshot: the database's files and MANIFEST.cfgsvc (sealed)
//! incoming/ID/             a snapshot that is being received; survives a restart
//! ```
//!
//! Invariants
//! - what CURRENT names is whole and durable; everything else may be removed at start;
//! - a snapshot directory is renamed into place only when whole and durable;
//! - a directory below incoming/ has one writer, and stays until its snapshot is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use cluster_core::store::{Batch, ReadFn, StateEngine};
use fs_err as fs;
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::proto;
use crate::sealed::{self, seal, unseal};
use crate::state_store::{
    SnapshotFiles, SnapshotHandle, SnapshotReceiver, StateStore, manifest_for, meta_from,
};
use crate::types::{SnapshotMeta, decode};

const MANIFEST_FILE: &str = "MANIFEST.cfgsvc";

/// Files in a snapshot at most: a database of 10 TB has fewer.
const FILES_MAX: usize = 200_000;

/// Opens a database directory, making it when it is not there.
pub type OpenEngine = Box<dyn Fn(&Path) -> io::Result<Arc<dyn StateEngine>> + Send + Sync>;

/// The database of a member, in its data directory.
pub struct DirectoryStore {
    root: PathBuf,
    open: OpenEngine,
    current: Mutex<Current>,
    /// Snapshots below incoming/ that are being received or wait to be installed, by id.
    incoming: Mutex<BTreeMap<String, Weak<InUse>>>,
}

/// Held by who uses a directory below incoming/.
struct InUse;

struct Current {
    database: Arc<Database>,
    number: u64,
    snapshot: Option<Arc<Directory>>,
}

impl DirectoryStore {
    /// Opens the database below `root`, or makes an empty one, and removes what a crash left.
    pub fn open(root: &Path, open: OpenEngine) -> io::Result<Self> {
        for directory in ["state", "snapshot", "incoming"] {
            fs::create_dir_all(root.join(directory))?;
        }
        let state = root.join("state");
        let pointer = state.join("CURRENT");
        let named = current_number(&pointer)?;
        let number = named.unwrap_or(1);
        let name = database_name(number);
        if named.is_some() && !state.join(&name).is_dir() {
            let why = format!("it names `{name}`, which is not there");
            return Err(sealed::damaged(&pointer, &why));
        }
        let database = Database::open(&open, state.join(&name))?;
        if named.is_none() {
            replace_file(&pointer, name.as_bytes())?;
        }
        // Only now: a pointer that went wrong must not cost the database.
        for entry in fs::read_dir(&state)? {
            let path = entry?.path();
            if path != pointer && path.file_name().is_none_or(|found| *found != *name) {
                remove_all(&path)?;
            }
        }
        let snapshot = newest_snapshot(&root.join("snapshot"))?;
        let current = Mutex::new(Current {
            database,
            number,
            snapshot,
        });
        Ok(Self {
            root: root.to_owned(),
            open,
            current,
            incoming: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for DirectoryStore {
    fn engine(&self) -> Arc<dyn StateEngine> {
        self.lock().database.clone()
    }

    fn build(&self, meta: &SnapshotMeta) -> io::Result<SnapshotHandle> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let parent = self.root.join("snapshot");
        let building = parent.join(format!("{id}.building"));
        self.engine().checkpoint(&building)?;
        let mut manifest = manifest_for(meta, id.clone());
        manifest.files = list_files(&building)?;
        for file in &mut manifest.files {
            // Tables carry their own checksums, and are hashed when the snapshot is asked for.
            if !is_table(&file.name) {
                file.sha256 = hash_file(&building.join(&file.name))?;
            }
        }
        write_manifest(&building, &manifest)?;
        let path = parent.join(&id);
        fs::rename(&building, &path)?;
        sync_directory(&parent)?;
        let directory = Arc::new(Directory::new(path, manifest));
        let before = self.lock().snapshot.replace(directory.clone());
        if let Some(before) = before {
            before.files.outdated();
        }
        Ok(SnapshotHandle { files: directory })
    }

    fn current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotHandle)>> {
        let Some(directory) = self.lock().snapshot.clone() else {
            return Ok(None);
        };
        let meta = meta_from(&directory.manifest)?;
        Ok(Some((meta, SnapshotHandle { files: directory })))
    }

    fn outdated_bytes(&self) -> io::Result<u64> {
        let Some(kept) = self.lock().snapshot.clone() else {
            return Ok(0);
        };
        let mut bytes = 0;
        for file in &kept.manifest.files {
            let found = fs::metadata(kept.files.path.join(&file.name))?;
            if is_table(&file.name) && found.nlink() == 1 {
                bytes += found.len();
            }
        }
        Ok(bytes)
    }

    fn receive(&self, manifest: &proto::SnapshotManifest) -> io::Result<Box<dyn SnapshotReceiver>> {
        check_manifest(manifest)?;
        let parent = self.root.join("incoming");
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        incoming.retain(|_, user| user.strong_count() > 0);
        if incoming.contains_key(&manifest.id) {
            let why = format!("snapshot {} is being received already", manifest.id);
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        for entry in fs::read_dir(&parent)? {
            let other = entry?;
            let name = other.file_name();
            let used = name.to_str().is_some_and(|id| incoming.contains_key(id));
            if !used && *name != *manifest.id {
                remove_all(&other.path())?;
            }
        }
        let path = parent.join(&manifest.id);
        fs::create_dir_all(&path)?;
        let mut held = Vec::with_capacity(manifest.files.len());
        for file in &manifest.files {
            let length = fs::metadata(path.join(&file.name)).map_or(0, |found| found.len());
            held.push(if length <= file.size_bytes { length } else { 0 });
        }
        check_space(&path, manifest, &held)?;
        let user = Arc::new(InUse);
        incoming.insert(manifest.id.clone(), Arc::downgrade(&user));
        Ok(Box::new(Receiving {
            path,
            manifest: manifest.clone(),
            held,
            open: None,
            user,
        }))
    }

    fn install(&self, snapshot: &SnapshotHandle) -> io::Result<()> {
        let manifest = snapshot.files.manifest()?;
        check_manifest(&manifest)?;
        let kept = self.root.join("snapshot").join(&manifest.id);
        let received = self.root.join("incoming").join(&manifest.id);
        if !kept.exists() {
            if !received.join(MANIFEST_FILE).exists() {
                copy_snapshot(self, snapshot, &manifest)?;
            }
            fs::rename(&received, &kept)?;
            sync_directory(&self.root.join("snapshot"))?;
        }
        let mut current = self.lock();
        let number = current.number + 1;
        let database = self.root.join("state").join(database_name(number));
        remove_all(&database)?;
        link_database(&kept, &manifest, &database)?;
        let database = Database::open(&self.open, database)?;
        sync_directory(&self.root.join("state"))?;
        replace_file(
            &self.root.join("state/CURRENT"),
            database_name(number).as_bytes(),
        )?;
        std::mem::replace(&mut current.database, database)
            .files
            .outdated();
        current.number = number;
        // After a crash between the two renames it is installed from where it is kept.
        let kept_already = |held: &Arc<Directory>| held.files.path == kept;
        if !current.snapshot.as_ref().is_some_and(kept_already) {
            let directory = Arc::new(Directory::verified(kept, manifest));
            if let Some(before) = current.snapshot.replace(directory) {
                before.files.outdated();
            }
        }
        Ok(())
    }
}

/// A directory that goes with its last user, once it is outdated.
struct Files {
    path: PathBuf,
    outdated: AtomicBool,
}

impl Files {
    fn new(path: PathBuf) -> Self {
        let outdated = AtomicBool::new(false);
        Self { path, outdated }
    }

    fn outdated(&self) {
        self.outdated.store(true, Ordering::Release);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if *self.outdated.get_mut()
            && let Err(error) = remove_all(&self.path)
        {
            tracing::warn!(%error, "an outdated directory stays on disk until the next start");
        }
    }
}

/// An open database. Who still reads or flushes the one before an install keeps its files: a
/// database opens files by name at any time. Fields drop in order: closed first, then removed.
struct Database {
    engine: Arc<dyn StateEngine>,
    files: Files,
}

impl Database {
    fn open(open: &OpenEngine, path: PathBuf) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            engine: open(&path)?,
            files: Files::new(path),
        }))
    }
}

impl StateEngine for Database {
    fn read(&self, read: &mut ReadFn<'_>) -> io::Result<()> {
        self.engine.read(read)
    }

    fn commit(&self, batch: Batch) -> io::Result<()> {
        self.engine.commit(batch)
    }

    fn flush(&self) -> io::Result<()> {
        self.engine.flush()
    }

    fn checkpoint(&self, directory: &Path) -> io::Result<()> {
        self.engine.checkpoint(directory)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.engine.size_bytes()
    }
}

/// A snapshot in a directory.
struct Directory {
    files: Files,
    manifest: proto::SnapshotManifest,
    hashed: OnceLock<proto::SnapshotManifest>,
    /// Set while it lies below incoming/.
    incoming: Option<Arc<InUse>>,
}

impl Directory {
    fn new(path: PathBuf, manifest: proto::SnapshotManifest) -> Self {
        Self {
            files: Files::new(path),
            manifest,
            hashed: OnceLock::new(),
            incoming: None,
        }
    }

    /// One whose files have just been found to be what its manifest says.
    fn verified(path: PathBuf, manifest: proto::SnapshotManifest) -> Self {
        let directory = Self::new(path, manifest.clone());
        directory.hashed.get_or_init(|| manifest);
        directory
    }
}

impl SnapshotFiles for Directory {
    fn manifest(&self) -> io::Result<proto::SnapshotManifest> {
        if let Some(manifest) = self.hashed.get() {
            return Ok(manifest.clone());
        }
        let mut manifest = self.manifest.clone();
        for file in &mut manifest.files {
            let path = self.files.path.join(&file.name);
            let found = match fs::metadata(&path) {
                Ok(found) => found.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(sealed::damaged(&path, "it is not there"));
                }
                Err(error) => return Err(error),
            };
            if found != file.size_bytes {
                let why = format!("it has {found} bytes in place of {}", file.size_bytes);
                return Err(sealed::damaged(&path, &why));
            }
            let hash = hash_file(&path)?;
            if !file.sha256.is_empty() && file.sha256 != hash {
                return Err(sealed::damaged(&path, "it does not match its SHA-256"));
            }
            file.sha256 = hash;
        }
        Ok(self.hashed.get_or_init(|| manifest).clone())
    }

    fn read(&self, file: usize, offset: u64, max_bytes: usize) -> io::Result<Bytes> {
        let entry = self.manifest.files.get(file).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the snapshot has no file {file}"),
            )
        })?;
        let mut source = fs::File::open(self.files.path.join(&entry.name))?;
        source.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(max_bytes.min(1 << 20));
        source.take(max_bytes as u64).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }
}

struct Receiving {
    path: PathBuf,
    manifest: proto::SnapshotManifest,
    held: Vec<u64>,
    /// The file that is being written.
    open: Option<(usize, fs::File)>,
    user: Arc<InUse>,
}

impl Receiving {
    fn close(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some((_, file)) => file.sync_all(),
            None => Ok(()),
        }
    }
}

impl SnapshotReceiver for Receiving {
    fn held(&self) -> Vec<u64> {
        self.held.clone()
    }

    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let (entry, held) = self
            .manifest
            .files
            .get(file)
            .zip(self.held.get_mut(file))
            .ok_or_else(|| invalid(format!("the snapshot has no file {file}")))?;
        if offset != *held {
            return Err(invalid(format!(
                "{}: expected offset {held}, got {offset}",
                entry.name
            )));
        }
        let end = offset + bytes.len() as u64;
        if end > entry.size_bytes {
            return Err(invalid(format!(
                "{}: {end} bytes are more than the {} announced",
                entry.name, entry.size_bytes
            )));
        }
        *held = end;
        let path = self.path.join(&entry.name);
        if self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            self.close()?;
            let target = fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            target.set_len(offset)?;
            self.open = Some((file, target));
        }
        let Some((_, target)) = &mut self.open else {
            return Ok(());
        };
        target.seek(SeekFrom::Start(offset))?;
        target.write_all(bytes)
    }

    fn finish(mut self: Box<Self>) -> io::Result<SnapshotHandle> {
        self.close()?;
        for file in &self.manifest.files {
            let path = self.path.join(&file.name);
            if file.size_bytes == 0 {
                write_file(&path, b"")?;
            }
            let size = fs::metadata(&path).map_or(0, |found| found.len());
            if size < file.size_bytes {
                // The sender broke off: the next transfer goes on from here.
                let why = format!("it ends after {size} of {} bytes", file.size_bytes);
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{}: {why}", path.display()),
                ));
            }
            if size > file.size_bytes || hash_file(&path)? != file.sha256 {
                // What is wrong would be wrong again: the next transfer starts anew.
                remove_all(&self.path)?;
                return Err(damaged(&path, "its size or SHA-256 is not as announced"));
            }
        }
        write_manifest(&self.path, &self.manifest)?;
        sync_directory(&self.path)?;
        let mut directory = Directory::verified(self.path.clone(), self.manifest.clone());
        directory.incoming = Some(self.user.clone());
        Ok(SnapshotHandle {
            files: Arc::new(directory),
        })
    }
}

/// Brings the files of a snapshot that lives elsewhere into this directory.
fn copy_snapshot(
    store: &DirectoryStore,
    snapshot: &SnapshotHandle,
    manifest: &proto::SnapshotManifest,
) -> io::Result<()> {
    let mut receiver = store.receive(manifest)?;
    for (file, held) in receiver.held().into_iter().enumerate() {
        let mut offset = held;
        loop {
            let bytes = snapshot.files.read(file, offset, 1 << 20)?;
            if bytes.is_empty() {
                break;
            }
            receiver.write(file, offset, &bytes)?;
            offset += bytes.len() as u64;
        }
    }
    receiver.finish().map(|_| ())
}

/// The number of the database in use; `None` before the first was made.
fn current_number(pointer: &Path) -> io::Result<Option<u64>> {
    let text = match fs::read(pointer) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let digits = text.strip_prefix(b"db-");
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
    // Written one way only: anything else was not written.
    let written = number.filter(|number| database_name(*number).as_bytes() == text);
    written.map(Some).ok_or_else(|| {
        let why = format!(
            "it names `{}`, not a database directory",
            text.escape_ascii()
        );
        sealed::damaged(pointer, &why)
    })
}

fn database_name(number: u64) -> String {
    format!("db-{number:08}")
}

fn damaged(path: &Path, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: {why}", path.display()),
    )
}

/// Refuses a snapshot that would not fit on the disk, before the first byte of it comes.
fn check_space(path: &Path, manifest: &proto::SnapshotManifest, held: &[u64]) -> io::Result<()> {
    let announced = manifest.files.iter().map(|file| file.size_bytes);
    let wanted = announced.fold(0, u64::saturating_add);
    let missing = wanted.saturating_sub(held.iter().sum());
    let disk = rustix::fs::statvfs(path)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if missing > free {
        let why = format!(
            "snapshot {} needs {missing} more bytes and {} has {free} left: make room there",
            manifest.id,
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::StorageFull, why));
    }
    Ok(())
}

/// A manifest comes from the network: names must be plain file names, and what it covers must be
/// readable when the snapshot is found at the next start.
fn check_manifest(manifest: &proto::SnapshotManifest) -> io::Result<()> {
    meta_from(manifest)?;
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= 128
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let named = manifest
        .files
        .iter()
        .find(|file| !plain(&file.name) || file.name == MANIFEST_FILE || file.sha256.len() != 32);
    if let Some(file) = named {
        return Err(damaged(Path::new(&file.name), "not a file of a snapshot"));
    }
    let mut names = BTreeSet::new();
    if let Some(file) = manifest.files.iter().find(|file| !names.insert(&file.name)) {
        return Err(damaged(Path::new(&file.name), "twice in one snapshot"));
    }
    if !plain(&manifest.id) || manifest.files.len() > FILES_MAX {
        return Err(damaged(
            Path::new(&manifest.id),
            "not a snapshot's manifest",
        ));
    }
    Ok(())
}

fn newest_snapshot(parent: &Path) -> io::Result<Option<Arc<Directory>>> {
    let mut newest: Option<(SnapshotMeta, Arc<Directory>)> = None;
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let manifest_path = path.join(MANIFEST_FILE);
        if path.extension().is_some() || !manifest_path.exists() {
            remove_all(&path)?;
            continue;
        }
        let content = unseal(&manifest_path, fs::read(&manifest_path)?)?;
        let manifest: proto::SnapshotManifest = decode("snapshot manifest", content)?;
        let meta = meta_from(&manifest)?;
        let directory = Arc::new(Directory::new(path, manifest));
        match &newest {
            Some((kept, _)) if kept.last_log_id >= meta.last_log_id => directory.files.outdated(),
            Some((_, older)) => {
                older.files.outdated();
                newest = Some((meta, directory));
            }
            None => newest = Some((meta, directory)),
        }
    }
    Ok(newest.map(|(_, directory)| directory))
}

fn list_files(directory: &Path) -> io::Result<Vec<proto::SnapshotFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| {
            damaged(
                directory,
                &format!("a file name is not text: {}", name.display()),
            )
        })?;
        let size_bytes = entry.metadata()?.len();
        files.push(proto::SnapshotFile {
            name,
            size_bytes,
            sha256: Bytes::new(),
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Table files never change and are linked; the few small others are copied, since the database
/// appends to them.
fn link_database(from: &Path, manifest: &proto::SnapshotManifest, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for file in &manifest.files {
        let (source, target) = (from.join(&file.name), to.join(&file.name));
        if is_table(&file.name) {
            fs::hard_link(&source, &target)?;
        } else {
            fs::copy(&source, &target)?;
            fs::File::open(&target)?.sync_all()?;
        }
    }
    sync_directory(to)
}

fn is_table(name: &str) -> bool {
    let extension = Path::new(name).extension();
    extension.is_some_and(|found| found == "sst")
}

fn write_manifest(directory: &Path, manifest: &proto::SnapshotManifest) -> io::Result<()> {
    write_file(
        &directory.join(MANIFEST_FILE),
        &seal(&manifest.encode_to_vec()),
    )
}

fn hash_file(path: &Path) -> io::Result<Bytes> {
    let mut source = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finalize().to_vec().into());
        }
        hasher.update(&buffer[..count]);
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Replaces a small file so that a crash leaves the old or the new content.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    write_file(&temporary, bytes)?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes renames and new files in a directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

fn remove_all(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) | Ok(()) => Ok(()),
    }
}
