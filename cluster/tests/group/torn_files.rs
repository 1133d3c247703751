//! Files of a member's data directory that are cut, flipped, zeroed or gone, at random places: the
//! member is refused in words that name the place and the next step, or holds what it held.
//!
//! A run prints its seed and the command that repeats it. `TORN_SEEDS` is how many seeds are tried,
//! `TORN_FIRST` the first of them.
//!
//! What is opened is a copy of the directory, made anew for each seed with the same hard links: a
//! snapshot shares its tables with the database, so damage to one is damage to both.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cluster::StateEngine;
use cluster::directory_store::DirectoryStore;
use cluster::group::{Group as _, Role};
use cluster::identity::DataDirectory;
use cluster::log_store::{FlushMode, LogStore, LogStoreOptions};
use cluster::machine::Machine;
use cluster::state_store::StateStore;
use cluster::types::{Entry, LogId, Types, Vote};
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::list_app::{ListApp, items};
use crate::world::{World, numbers};

/// Seeds in the gate: some seconds in a debug build.
const SEEDS: u64 = 100;

/// Longest time for one opening; it takes some milliseconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// Everything that a member knows.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    identity: cluster::proto::Identity,
    vote: Option<Vote>,
    last: Option<LogId>,
    /// The entries behind what is purged.
    entries: BTreeMap<u64, Entry>,
    applied: Option<LogId>,
    items: Vec<String>,
}

impl Held {
    /// The whole list: what is applied, and what the log has behind it.
    fn all_items(&self) -> Vec<String> {
        let mut all = self.items.clone();
        let next = self.applied.map_or(0, |id| id.index() + 1);
        for entry in self.entries.range(next..).map(|(_, entry)| entry) {
            if let EntryPayload::Normal(command) = &entry.payload {
                all.push(String::from_utf8_lossy(&command.0).into_owned());
            }
        }
        all
    }
}

fn open_state(path: &Path) -> io::Result<Arc<dyn StateEngine>> {
    let options = cluster_rocks::StateOptions::new(!path.join("CURRENT").exists());
    Ok(Arc::new(cluster_rocks::open_state(path, &options)?))
}

/// Opens a directory as a start does and reads everything in it.
async fn open(root: &Path) -> Result<Held, Box<dyn std::error::Error>> {
    let mut directory = DataDirectory::open(root, "n1", true)?;
    let identity = directory.identity().clone();
    if identity.cluster_id == 0 {
        // The other founders refuse a new incarnation before anything else of it is opened.
        return Err(format!(
            "{}: another data directory; replace the member",
            root.join("identity").display()
        )
        .into());
    }
    let options = cluster_rocks::LogOptions::new(!identity.opened);
    let engine = Arc::new(cluster_rocks::open_log(&root.join("log"), &options)?);
    let options = LogStoreOptions {
        tail_bytes: 1 << 20,
        read_bytes: 1 << 20,
    };
    let mut log = LogStore::open(engine, FlushMode::Inline, options)?;
    let store: Arc<dyn StateStore> = Arc::new(DirectoryStore::open(root, Box::new(open_state))?);
    let app = Box::new(ListApp::default());
    let mut machine = Machine::open(store.clone(), Some(log.clone()), app)?;
    if let Some((meta, snapshot)) = store.current()? {
        // Another member may ask for it.
        let manifest = snapshot.files.manifest()?;
        for (number, file) in manifest.files.iter().enumerate() {
            let bytes = snapshot.files.read(number, 0, usize::MAX >> 1)?;
            assert_eq!(
                bytes.len() as u64,
                file.size_bytes,
                "{} was checked",
                file.name
            );
        }
        // As openraft does at its start.
        if meta.last_log_id > machine.applied() {
            RaftStateMachine::<Types>::install_snapshot(&mut machine, &meta, snapshot).await?;
        }
    }
    let vote = RaftLogReader::<Types>::read_vote(&mut log).await?;
    let state = RaftLogStorage::<Types>::get_log_state(&mut log).await?;
    let first = state.last_purged_log_id.map_or(0, |id| id.index() + 1);
    let end = state.last_log_id.map_or(0, |id| id.index() + 1);
    let entries = RaftLogReader::<Types>::try_get_log_entries(&mut log, first..end).await?;
    let mut list = Vec::new();
    store.engine().read(&mut |view| {
        list = items(view)?;
        Ok(())
    })?;
    let held = Held {
        identity,
        vote,
        last: state.last_log_id,
        entries: entries
            .into_iter()
            .map(|entry| (entry.log_id.index(), entry))
            .collect(),
        applied: machine.applied(),
        items: list,
    };
    directory.release()?;
    Ok(held)
}

/// Files below `root`, by their paths in it. No lock and no text log of the database: nothing of a
/// member is in them.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("list") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(root).expect("it is below").to_owned());
            }
        }
    }
    found.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !matches!(&*name, "lock" | "LOCK") && !name.starts_with("LOG")
    });
    found.sort();
    found
}

/// Copies a directory; files that are one stay one.
fn copy(from: &Path, to: &Path) {
    let mut copied: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for file in files(from) {
        let (source, target) = (from.join(&file), to.join(&file));
        let parent = target.parent().expect("a file has a directory");
        fs::create_dir_all(parent).expect("make a directory");
        let inode = fs::metadata(&source).expect("metadata").ino();
        if let Some(first) = copied.get(&inode) {
            fs::hard_link(first, &target).expect("link");
        } else {
            fs::copy(&source, &target).expect("copy");
            copied.insert(inode, target);
        }
    }
    for directory in ["snapshot", "incoming"] {
        fs::create_dir_all(to.join(directory)).expect("make a directory");
    }
}

/// Damages one file below `root`; tells what was done and to which. The contents change in place,
/// so that all names of the file see it.
fn damage(root: &Path, random: &mut StdRng) -> (String, PathBuf) {
    let all = files(root);
    let file = all[random.random_range(0..all.len())].clone();
    let path = root.join(&file);
    let mut bytes = fs::read(&path).expect("read");
    let length = bytes.len();
    let what = match random.random_range(0..5) {
        // Half of the cuts are near the end, where the newest is.
        0 if length > 0 => {
            let near = if random.random() {
                length.min(200)
            } else {
                length
            };
            bytes.truncate(length - random.random_range(1..=near));
            format!("cut from {length} to {} bytes", bytes.len())
        }
        1 | 2 if length > 0 => {
            let places: Vec<usize> = (0..random.random_range(1..=3))
                .map(|_| random.random_range(0..length * 8))
                .collect();
            for place in &places {
                bytes[place / 8] ^= 1 << (place % 8);
            }
            format!("bits {places:?} of {length} bytes flipped")
        }
        3 if length > 0 => {
            let start = random.random_range(0..length);
            let end = random.random_range(start + 1..=length);
            bytes[start..end].fill(0);
            format!("bytes {start}..{end} of {length} zeroed")
        }
        _ => {
            fs::remove_file(&path).expect("remove");
            return ("removed".to_owned(), file);
        }
    };
    fs::write(&path, bytes).expect("write");
    (what, file)
}

/// All of an error's words.
fn words(error: &dyn std::error::Error) -> String {
    let mut all = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        all = format!("{all}: {error}");
        source = error.source();
    }
    all
}

/// A member's directory after a clean stop, and as a kill leaves it; in both are a snapshot, purged
/// entries, and entries behind them.
async fn sources(root: &Path) -> Vec<PathBuf> {
    let mut world = World::begin(&["n1", "n2", "n3"]).await;
    for number in numbers(0..250) {
        world.write("n1", number).await;
    }
    world.snapshot_of("n1").await;
    world.stop("n1").await;
    world.restart("n1").await.expect("it starts again");
    for number in numbers(250..400) {
        world.write("n2", number).await;
    }
    assert_eq!(world.read("n1").await, numbers(0..400));
    // Nothing is written any more: without the others there is no leader, and no vote to store.
    world.stop("n3").await;
    world.stop("n2").await;
    let killed = root.join("killed");
    copy(&world.directory("n1"), &killed);
    world.stop("n1").await;
    let stopped = root.join("stopped");
    copy(&world.directory("n1"), &stopped);
    vec![killed, stopped]
}

fn number_from(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_are_refused_or_cost_nothing() {
    let root = tempfile::tempdir().expect("temp dir");
    let sources = sources(root.path()).await;
    let mut whole = Vec::new();
    for source in &sources {
        let place = root.path().join("whole");
        copy(source, &place);
        let held = open(&place).await.expect("undamaged, it opens");
        assert_eq!(held.all_items(), numbers(0..400));
        fs::remove_dir_all(&place).expect("remove");
        whole.push(held);
    }
    let first = number_from("TORN_FIRST", 1);
    let seeds = first..first + number_from("TORN_SEEDS", SEEDS);
    let (mut refused, mut failures) = (BTreeMap::<String, u64>::new(), Vec::new());
    for seed in seeds.clone() {
        let mut random = StdRng::seed_from_u64(seed);
        let which = random.random_range(0..sources.len());
        let place = root.path().join(format!("seed-{seed}"));
        copy(&sources[which], &place);
        let (what, file) = damage(&place, &mut random);
        let path = place.clone();
        let opening =
            tokio::spawn(async move { open(&path).await.map_err(|error| words(error.as_ref())) });
        let opened = tokio::time::timeout(PATIENCE, opening).await;
        let kind = file.extension().or(file.file_name()).unwrap_or_default();
        let wrong = match opened {
            Err(_) => Some("it hangs".to_owned()),
            Ok(Err(panic)) => Some(format!("it panics: {panic}")),
            Ok(Ok(Err(error))) => {
                *refused
                    .entry(kind.to_string_lossy().into_owned())
                    .or_default() += 1;
                unclear(&error, &place)
            }
            Ok(Ok(Ok(held))) => difference(&held, &whole[which]),
        };
        if let Some(wrong) = wrong {
            failures.push(format!(
                "seed {seed}: {} of {}: {what}: {wrong}\n  TORN_FIRST={seed} TORN_SEEDS=1 cargo \
                 nextest run --workspace -E 'test(damaged_files_are_refused_or_cost_nothing)'",
                file.display(),
                sources[which].file_name().unwrap_or_default().display(),
            ));
        }
        fs::remove_dir_all(&place).expect("remove");
    }
    eprintln!("seeds {seeds:?}; refused by kind of file: {refused:?}");
    assert!(
        failures.is_empty(),
        "{} wrong:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_a_read_meets_stops_the_member() {
    let world = World::begin(&["n1"]).await;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "block checksum mismatch");
    let member = world.member("n1");
    let wrong = member.read(&mut |_| Err(io::Error::other("not of the disk")));
    assert!(wrong.is_err() && member.status().borrow().fault.is_none());
    let read = member.read(&mut |_| Err(damaged()));
    assert_eq!(
        read.map_err(|error| error.kind()),
        Err(io::ErrorKind::InvalidData)
    );
    let status = world
        .status_when("n1", |status| status.fault.is_some())
        .await;
    assert_eq!(status.fault.as_deref(), Some("block checksum mismatch"));
    assert_eq!(status.role, Role::Stopped);
}

/// Whether a refusal does not say where the damage is or what to do.
fn unclear(error: &str, root: &Path) -> Option<String> {
    let place = root.to_string_lossy();
    let named = error.contains(&*place);
    let lower = error.to_lowercase();
    let next = ["replace the member", "remove this member", "member remove"];
    let told = next.iter().any(|words| lower.contains(words));
    (!named || !told).then(|| format!("unclear: {error}"))
}

/// What a member that opens lacks or has wrong. Its state may be older when its log has the rest.
fn difference(found: &Held, whole: &Held) -> Option<String> {
    let same_identity = cluster::proto::Identity {
        inode: whole.identity.inode,
        born_ns: whole.identity.born_ns,
        ..found.identity.clone()
    } == whole.identity;
    if !same_identity {
        return Some(format!("identity {:?}", found.identity));
    }
    if found.vote != whole.vote || found.last != whole.last {
        return Some(format!(
            "vote {:?} and last entry {:?} in place of {:?} and {:?}",
            found.vote, found.last, whole.vote, whole.last
        ));
    }
    if found.entries != whole.entries {
        return Some("other entries".to_owned());
    }
    if found.applied > whole.applied || found.all_items() != whole.all_items() {
        return Some(format!(
            "applied {:?}: {:?}",
            found.applied,
            found.all_items()
        ));
    }
    None
}
