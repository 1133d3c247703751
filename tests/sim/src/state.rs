//! A member's state database and its snapshots, in memory.
//!
//! The database has no log of its own: a crash leaves it at any batch between the last flush and
//! the last commit, whole batches only. A snapshot and an install are durable when they return; a
//! snapshot that is being received survives a kill, and a loss of power damages it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cluster::proto;
use cluster::state_store::{
    APPLIED_KEY, SnapshotFiles, SnapshotHandle, SnapshotReceiver, StateStore, manifest_for,
    meta_from,
};
use cluster::types::{LogId, SnapshotMeta, decode, log_id_optional};
use cluster_core::store::{Batch, ReadFn, StateEngine};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::defect::Defect;
use crate::disk::Crash;
use crate::rng::Rng;
use crate::runtime::lock;

/// Unflushed batches after which the older half goes to disk by itself, as a full memtable does.
const MEMTABLE_BATCHES: usize = 64;

/// What an install says that was broken off on purpose.
pub const INSTALL_BROKEN: &str = "the process ended in the middle of an install";

/// Everything in a database.
pub type Contents = BTreeMap<Bytes, Bytes>;

/// Is told of every commit.
pub trait StateObserver: Send + Sync {
    /// The state is now that of `applied`, and `hash` is the hash of all of it.
    fn committed(&self, applied: Option<LogId>, hash: u64);
}

/// The database.
pub struct SimEngine {
    state: Mutex<EngineState>,
    observer: Arc<dyn StateObserver>,
}

#[derive(Default)]
struct EngineState {
    durable: Contents,
    /// Committed behind it.
    pending: Vec<Batch>,
    live: Contents,
    /// Sum of the hashes of all entries: the same for the same contents, whatever the order.
    hash: u64,
}

/// FNV-1a over a key and a value: the same in every run and on every machine.
pub fn hash_of(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in (part.len() as u64).to_le_bytes().iter().chain(*part) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash ^ (hash >> 29)
}

fn apply(contents: &mut Contents, batch: &Batch, hash: &mut u64, skip: Option<&[u8]>) {
    for (key, value) in batch.iter() {
        if skip == Some(key.as_ref()) {
            continue;
        }
        let before = match value {
            Some(value) => {
                *hash = hash.wrapping_add(hash_of(&[key, value]));
                contents.insert(key.clone(), value.clone())
            }
            None => contents.remove(key),
        };
        if let Some(before) = before {
            *hash = hash.wrapping_sub(hash_of(&[key, &before]));
        }
    }
}

fn applied_in(contents: &Contents) -> io::Result<Option<LogId>> {
    let Some(bytes) = contents.get(APPLIED_KEY) else {
        return Ok(None);
    };
    let state: proto::AppliedState = decode("applied state", bytes.clone())?;
    Ok(log_id_optional(state.log_id.as_ref())?)
}

impl SimEngine {
    fn new(contents: Contents, observer: Arc<dyn StateObserver>) -> Self {
        let hash = contents.iter().fold(0_u64, |hash, (key, value)| {
            hash.wrapping_add(hash_of(&[key, value]))
        });
        Self {
            state: Mutex::new(EngineState {
                durable: contents.clone(),
                pending: Vec::new(),
                live: contents,
                hash,
            }),
            observer,
        }
    }

    /// Everything in it, and its hash.
    pub fn contents(&self) -> (Contents, u64) {
        let state = lock(&self.state);
        (state.live.clone(), state.hash)
    }

    /// Last log id applied in it, and the hash of all of it.
    pub fn applied(&self) -> io::Result<(Option<LogId>, u64)> {
        let state = lock(&self.state);
        Ok((applied_in(&state.live)?, state.hash))
    }

    /// What a crash leaves of it.
    fn crashed(&self, rng: &mut Rng, defect: Option<Defect>) -> Contents {
        let state = lock(&self.state);
        let mut left = state.durable.clone();
        let kept = rng.index(state.pending.len() + 1);
        let mut hash = 0;
        for batch in &state.pending[..kept] {
            apply(&mut left, batch, &mut hash, None);
        }
        if defect == Some(Defect::ApplyNotAtomic)
            && let Some(torn) = state.pending.get(kept)
        {
            apply(&mut left, torn, &mut hash, Some(APPLIED_KEY));
        }
        left
    }
}

impl StateEngine for SimEngine {
    fn read(&self, read: &mut ReadFn<'_>) -> io::Result<()> {
        read(&lock(&self.state).live)
    }

    fn commit(&self, batch: Batch) -> io::Result<()> {
        let (applied, hash) = {
            let mut state = lock(&self.state);
            let state = &mut *state;
            apply(&mut state.live, &batch, &mut state.hash, None);
            state.pending.push(batch);
            if state.pending.len() > MEMTABLE_BATCHES {
                let mut hash = 0;
                for batch in state.pending.drain(..MEMTABLE_BATCHES / 2) {
                    apply(&mut state.durable, &batch, &mut hash, None);
                }
            }
            (applied_in(&state.live)?, state.hash)
        };
        self.observer.committed(applied, hash);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.pending.clear();
        state.durable = state.live.clone();
        Ok(())
    }

    fn checkpoint(&self, directory: &std::path::Path) -> io::Result<()> {
        let why = format!("no files in a simulation: {}", directory.display());
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    fn size_bytes(&self) -> io::Result<u64> {
        let state = lock(&self.state);
        let sizes = state
            .live
            .iter()
            .map(|(key, value)| key.len() + value.len());
        Ok(sizes.sum::<usize>() as u64)
    }
}

/// A snapshot.
struct SimSnapshot {
    manifest: proto::SnapshotManifest,
    files: Vec<Bytes>,
}

impl SnapshotFiles for SimSnapshot {
    fn manifest(&self) -> io::Result<proto::SnapshotManifest> {
        Ok(self.manifest.clone())
    }

    fn read(&self, file: usize, offset: u64, max_bytes: usize) -> io::Result<Bytes> {
        let bytes = self
            .files
            .get(file)
            .ok_or_else(|| io::Error::other(format!("the snapshot has no file {file}")))?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let start = start.min(bytes.len());
        Ok(bytes.slice(start..bytes.len().min(start + max_bytes)))
    }
}

fn encode(contents: &Contents) -> Vec<Bytes> {
    let half = contents.len() / 2;
    let mut files = vec![Vec::new(), Vec::new()];
    for (place, (key, value)) in contents.iter().enumerate() {
        let file = &mut files[usize::from(place >= half)];
        for part in [key, value] {
            file.extend((part.len() as u64).to_le_bytes());
            file.extend_from_slice(part);
        }
    }
    files.into_iter().map(Bytes::from).collect()
}

fn decode_files(files: &[Bytes]) -> io::Result<Contents> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a snapshot file is broken");
    let mut contents = Contents::new();
    for file in files {
        let mut rest = file.clone();
        let part = |rest: &mut Bytes| -> io::Result<Bytes> {
            let length = rest.split_to_checked(8).ok_or_else(broken)?;
            let length = <[u8; 8]>::try_from(length.as_ref()).map_err(io::Error::other)?;
            let length = usize::try_from(u64::from_le_bytes(length)).map_err(io::Error::other)?;
            rest.split_to_checked(length).ok_or_else(broken)
        };
        while !rest.is_empty() {
            let key = part(&mut rest)?;
            let value = part(&mut rest)?;
            contents.insert(key, value);
        }
    }
    Ok(contents)
}

trait SplitChecked: Sized {
    fn split_to_checked(&mut self, at: usize) -> Option<Self>;
}

impl SplitChecked for Bytes {
    fn split_to_checked(&mut self, at: usize) -> Option<Self> {
        (at <= self.len()).then(|| self.split_to(at))
    }
}

/// A member's state directory; it outlives the process.
pub struct StateDisk {
    /// Names its snapshots.
    member: u64,
    observer: Arc<dyn StateObserver>,
    defect: Option<Defect>,
    inner: Mutex<Inner>,
}

struct Inner {
    engine: Arc<SimEngine>,
    snapshot: Option<Arc<SimSnapshot>>,
    /// Id and what has arrived of each file.
    incoming: Option<(String, Vec<Vec<u8>>)>,
    built: u64,
    installed: u64,
    /// The next install stops half way: the snapshot is kept, the database is the old one.
    break_install: bool,
}

impl StateDisk {
    /// An empty one.
    pub fn new(member: u64, observer: Arc<dyn StateObserver>, defect: Option<Defect>) -> Self {
        Self {
            member,
            inner: Mutex::new(Inner {
                engine: Arc::new(SimEngine::new(Contents::new(), observer.clone())),
                snapshot: None,
                incoming: None,
                built: 0,
                installed: 0,
                break_install: false,
            }),
            observer,
            defect,
        }
    }

    /// The database.
    pub fn sim_engine(&self) -> Arc<SimEngine> {
        lock(&self.inner).engine.clone()
    }

    /// Count of snapshots built and installed.
    pub fn snapshots(&self) -> (u64, u64) {
        let inner = lock(&self.inner);
        (inner.built, inner.installed)
    }

    /// The next install ends half way, with an error.
    pub fn break_next_install(&self) {
        lock(&self.inner).break_install = true;
    }

    /// Leaves what a crash leaves.
    pub fn crash(&self, crash: Crash, rng: &mut Rng) {
        let mut inner = lock(&self.inner);
        let left = inner.engine.crashed(rng, self.defect);
        inner.engine = Arc::new(SimEngine::new(left, self.observer.clone()));
        inner.break_install = false;
        if crash == Crash::Power
            && let Some((_, files)) = &mut inner.incoming
        {
            for file in files {
                // Lengths may reach the disk before contents do.
                let from = rng.index(file.len() + 1);
                file[from..].fill(0);
                if rng.chance(500) {
                    file.truncate(from);
                }
            }
        }
    }

    /// A copy of everything durable.
    pub fn image(&self) -> StateImage {
        let inner = lock(&self.inner);
        let durable = lock(&inner.engine.state).durable.clone();
        StateImage(durable, inner.snapshot.clone())
    }

    /// Puts an image in place of everything.
    pub fn restore(&self, image: &StateImage) {
        let mut inner = lock(&self.inner);
        inner.engine = Arc::new(SimEngine::new(image.0.clone(), self.observer.clone()));
        inner.snapshot.clone_from(&image.1);
        inner.incoming = None;
    }

    fn forgetful(&self, contents: &mut Contents) -> io::Result<()> {
        if self.defect == Some(Defect::SnapshotForgetsMembership)
            && let Some(bytes) = contents.get(APPLIED_KEY)
        {
            let mut state: proto::AppliedState = decode("applied state", bytes.clone())?;
            state.membership = None;
            contents.insert(APPLIED_KEY.into(), state.encode_to_vec().into());
        }
        Ok(())
    }
}

/// A state directory at one moment.
pub struct StateImage(Contents, Option<Arc<SimSnapshot>>);

impl StateImage {
    /// An emptied directory.
    pub fn empty() -> Self {
        Self(Contents::new(), None)
    }
}

/// The state directory of a running member.
#[derive(Clone)]
pub struct SimStore(pub Arc<StateDisk>);

impl StateStore for SimStore {
    fn engine(&self) -> Arc<dyn StateEngine> {
        self.0.sim_engine()
    }

    fn build(&self, meta: &SnapshotMeta) -> io::Result<SnapshotHandle> {
        let mut inner = lock(&self.0.inner);
        inner.engine.flush()?;
        inner.built += 1;
        let id = format!("{}-{}", self.0.member, inner.built);
        let mut manifest = manifest_for(meta, id);
        let files = encode(&inner.engine.contents().0);
        for (name, file) in ["a", "b"].iter().zip(&files) {
            manifest.files.push(proto::SnapshotFile {
                name: (*name).to_owned(),
                size_bytes: file.len() as u64,
                sha256: Sha256::digest(file).to_vec().into(),
            });
        }
        let files = Arc::new(SimSnapshot { manifest, files });
        inner.snapshot = Some(files.clone());
        Ok(SnapshotHandle { files })
    }

    fn current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotHandle)>> {
        let Some(files) = lock(&self.0.inner).snapshot.clone() else {
            return Ok(None);
        };
        let meta = meta_from(&files.manifest)?;
        Ok(Some((meta, SnapshotHandle { files })))
    }

    fn outdated_bytes(&self) -> io::Result<u64> {
        // Nothing is shared here.
        Ok(0)
    }

    fn receive(&self, manifest: &proto::SnapshotManifest) -> io::Result<Box<dyn SnapshotReceiver>> {
        let mut inner = lock(&self.0.inner);
        if inner
            .incoming
            .as_ref()
            .is_none_or(|(id, _)| *id != manifest.id)
        {
            inner.incoming = Some((manifest.id.clone(), vec![Vec::new(); manifest.files.len()]));
        }
        let held = inner.incoming.iter().flat_map(|(_, files)| files);
        let held = held.map(|file| file.len() as u64).collect();
        Ok(Box::new(Receiving {
            disk: self.0.clone(),
            manifest: manifest.clone(),
            held,
        }))
    }

    fn install(&self, snapshot: &SnapshotHandle) -> io::Result<()> {
        let manifest = snapshot.files.manifest()?;
        let mut files = Vec::new();
        for place in 0..manifest.files.len() {
            files.push(snapshot.files.read(place, 0, usize::MAX >> 1)?);
        }
        let mut contents = decode_files(&files)?;
        self.0.forgetful(&mut contents)?;
        let mut inner = lock(&self.0.inner);
        inner.snapshot = Some(Arc::new(SimSnapshot { manifest, files }));
        inner.incoming = None;
        if std::mem::take(&mut inner.break_install) {
            return Err(io::Error::other(INSTALL_BROKEN));
        }
        inner.installed += 1;
        inner.engine = Arc::new(SimEngine::new(contents, self.0.observer.clone()));
        let (applied, hash) = inner.engine.applied()?;
        drop(inner);
        self.0.observer.committed(applied, hash);
        Ok(())
    }
}

struct Receiving {
    disk: Arc<StateDisk>,
    manifest: proto::SnapshotManifest,
    held: Vec<u64>,
}

impl SnapshotReceiver for Receiving {
    fn held(&self) -> Vec<u64> {
        self.held.clone()
    }

    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = lock(&self.disk.inner);
        let other = || io::Error::other("another snapshot is being received");
        let (id, files) = inner.incoming.as_mut().ok_or_else(other)?;
        if *id != self.manifest.id {
            return Err(other());
        }
        let place = files.get_mut(file).zip(self.held.get_mut(file));
        let (held, count) = place.ok_or_else(|| io::Error::other("no such file"))?;
        if offset != *count {
            let why = format!("file {file}: expected offset {count}, got {offset}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        held.truncate(usize::try_from(offset).map_err(io::Error::other)?);
        held.extend_from_slice(bytes);
        *count = held.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<SnapshotHandle> {
        let mut inner = lock(&self.disk.inner);
        let other = || io::Error::other("another snapshot is being received");
        let (id, files) = inner.incoming.take().ok_or_else(other)?;
        if id != self.manifest.id {
            inner.incoming = Some((id, files));
            return Err(other());
        }
        let whole = files.iter().zip(&self.manifest.files).all(|(held, file)| {
            held.len() as u64 == file.size_bytes && Sha256::digest(held).as_slice() == file.sha256
        });
        if !whole {
            // What is wrong would be wrong again: the next transfer starts anew.
            let why = "its size or SHA-256 is not as announced";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let files: Vec<Bytes> = files.into_iter().map(Bytes::from).collect();
        inner.incoming = Some((id, files.iter().map(|file| file.to_vec()).collect()));
        let manifest = self.manifest.clone();
        Ok(SnapshotHandle {
            files: Arc::new(SimSnapshot { manifest, files }),
        })
    }
}
