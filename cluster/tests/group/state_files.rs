//! Which directories of the state stay on disk, and for how long.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::StateEngine;
use cluster::directory_store::DirectoryStore;
use cluster::proto::SnapshotManifest;
use cluster::state_store::{SnapshotHandle, SnapshotReceiver, StateStore};
use cluster::types::{LogId, SnapshotMeta, StoredMembership};
use cluster_core::store::Batch;

fn open(root: &Path) -> DirectoryStore {
    let open = |path: &Path| {
        let options = cluster_rocks::StateOptions::new(!path.join("CURRENT").exists());
        let state = cluster_rocks::open_state(path, &options)?;
        Ok(Arc::new(state) as Arc<dyn StateEngine>)
    };
    DirectoryStore::open(root, Box::new(open)).expect("a state")
}

fn put(store: &DirectoryStore, key: &'static str) {
    let mut batch = Batch::default();
    batch.put(key, "value");
    store.engine().commit(batch).expect("commit");
}

fn has(engine: &dyn StateEngine, key: &str) -> bool {
    let mut found = false;
    let read = engine.read(&mut |view| {
        found = view.get(key.as_bytes())?.is_some();
        Ok(())
    });
    read.expect("read");
    found
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(LogId::new_term_index(1, index)),
        last_membership: StoredMembership::default(),
    }
}

fn databases(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join("state")).expect("list");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_dir()).collect()
}

#[test]
fn database_before_an_install_lives_until_its_last_user_is_done() {
    let root = tempfile::tempdir().expect("temp dir");
    let store = open(root.path());
    put(&store, "a");
    let snapshot = store.build(&meta(1)).expect("a snapshot");
    put(&store, "b");
    let before = store.engine();
    store.install(&snapshot).expect("install");
    assert!(
        !has(store.engine().as_ref(), "b"),
        "it is as of the snapshot"
    );
    // A snapshot may be under way on it, a reader may have it open.
    before.flush().expect("its files are there");
    assert!(has(before.as_ref(), "b"));
    assert_eq!(databases(root.path()).len(), 2);
    drop(before);
    assert_eq!(databases(root.path()).len(), 1);
}

#[test]
fn snapshot_that_is_installed_from_where_it_is_kept_stays() {
    let root = tempfile::tempdir().expect("temp dir");
    let store = open(root.path());
    put(&store, "a");
    store.build(&meta(1)).expect("a snapshot");
    for _ in 0..2 {
        let (_, kept) = store.current().expect("readable").expect("it is kept");
        store.install(&kept).expect("install");
    }
    let (_, kept) = store.current().expect("readable").expect("it is kept");
    let manifest = kept.files.manifest().expect("its files are there");
    assert!(!manifest.files.is_empty());
    assert!(has(store.engine().as_ref(), "a"));
}

/// Hands over what the receiver lacks, up to `bytes` more.
fn transfer(from: &SnapshotHandle, to: &mut dyn SnapshotReceiver, mut bytes: usize) {
    for (file, mut offset) in to.held().into_iter().enumerate() {
        while bytes > 0 {
            let data = from.files.read(file, offset, bytes.min(1000));
            let data = data.expect("a snapshot is readable");
            if data.is_empty() {
                break;
            }
            to.write(file, offset, &data).expect("write");
            offset += data.len() as u64;
            bytes -= data.len();
        }
    }
}

fn built(root: &Path) -> (DirectoryStore, SnapshotHandle) {
    let store = open(root);
    put(&store, "a");
    let snapshot = store.build(&meta(1)).expect("a snapshot");
    (store, snapshot)
}

fn kind_of<T>(result: std::io::Result<T>) -> Option<std::io::ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn transfer_that_broke_goes_on_where_it_ended() {
    let roots = [(); 2].map(|()| tempfile::tempdir().expect("temp dir"));
    let (_sender, snapshot) = built(roots[0].path());
    let manifest = snapshot.files.manifest().expect("manifest");
    let size: u64 = manifest.files.iter().map(|file| file.size_bytes).sum();
    let half = usize::try_from(size / 2).expect("small");

    let store = open(roots[1].path());
    let mut receiver = store.receive(&manifest).expect("receive");
    transfer(&snapshot, receiver.as_mut(), half);
    // The sender ends too early, as one does that can read its own disk no more.
    assert_eq!(
        kind_of(receiver.finish()),
        Some(std::io::ErrorKind::UnexpectedEof)
    );
    drop(store);

    let store = open(roots[1].path());
    let mut receiver = store.receive(&manifest).expect("receive");
    assert_eq!(receiver.held().iter().sum::<u64>(), half as u64);
    transfer(&snapshot, receiver.as_mut(), usize::MAX);
    let received = receiver.finish().expect("it is whole");
    store.install(&received).expect("install");
    assert!(has(store.engine().as_ref(), "a"));
}

#[test]
fn snapshot_being_received_has_one_writer_and_is_left_alone_by_the_next() {
    let roots = [(); 3].map(|()| tempfile::tempdir().expect("temp dir"));
    let (_first, first) = built(roots[0].path());
    let (_second, second) = built(roots[1].path());
    let manifests = [&first, &second].map(|one| one.files.manifest().expect("manifest"));

    let store = open(roots[2].path());
    let mut receiver = store.receive(&manifests[0]).expect("receive");
    let busy = Some(std::io::ErrorKind::ResourceBusy);
    assert_eq!(kind_of(store.receive(&manifests[0])), busy);
    transfer(&first, receiver.as_mut(), usize::MAX);
    let waiting = receiver.finish().expect("it is whole");
    // A leader that came later offers another one before the first is installed.
    drop(store.receive(&manifests[1]).expect("receive"));
    assert_eq!(kind_of(store.receive(&manifests[0])), busy);
    store.install(&waiting).expect("its files are there");
    assert!(has(store.engine().as_ref(), "a"));
}

#[test]
fn snapshot_holds_alone_what_the_database_has_rewritten() {
    let root = tempfile::tempdir().expect("temp dir");
    assert_eq!(open(root.path()).outdated_bytes().expect("sizes"), 0);
    let (store, snapshot) = built(root.path());
    assert_eq!(store.outdated_bytes().expect("sizes"), 0, "it is shared");
    let database = &databases(root.path())[0];
    let is_table = |path: &Path| path.extension().is_some_and(|found| found == "sst");
    let files = std::fs::read_dir(database).expect("list");
    let tables: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    for table in tables.iter().filter(|file| is_table(file)) {
        std::fs::remove_file(table).expect("as after a compaction");
    }
    let manifest = snapshot.files.manifest().expect("manifest");
    let tables = manifest
        .files
        .iter()
        .filter(|f| is_table(Path::new(&f.name)));
    let bytes: u64 = tables.map(|file| file.size_bytes).sum();
    assert!(bytes > 0);
    assert_eq!(store.outdated_bytes().expect("sizes"), bytes);
}

/// Why a snapshot is refused whose manifest was changed so.
fn refused_with(change: impl FnOnce(&mut SnapshotManifest)) -> std::io::Error {
    let roots = [(); 2].map(|()| tempfile::tempdir().expect("temp dir"));
    let (_sender, snapshot) = built(roots[0].path());
    let mut manifest = snapshot.files.manifest().expect("manifest");
    change(&mut manifest);
    let store = open(roots[1].path());
    store.receive(&manifest).err().expect("it is refused")
}

#[test]
fn snapshot_that_does_not_fit_on_the_disk_is_refused_at_once() {
    let error = refused_with(|manifest| manifest.files[0].size_bytes = u64::MAX);
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("make room there"), "{error}");
}

#[test]
fn snapshot_that_could_not_be_read_at_the_next_start_is_refused_at_once() {
    let error = refused_with(|manifest| manifest.membership = None);
    assert!(error.to_string().contains("lacks `membership`"), "{error}");
}

#[test]
fn snapshot_that_names_a_file_twice_is_refused_at_once() {
    // Checked last, an empty one would take the place of what was found to be whole.
    let error = refused_with(|manifest| {
        let mut empty = manifest.files[0].clone();
        empty.size_bytes = 0;
        manifest.files.push(empty);
    });
    assert!(error.to_string().contains("twice"), "{error}");
}
