//! Which directories of the state stay on disk, and for how long.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::StateEngine;
use cluster::directory_store::DirectoryStore;
use cluster::state_store::StateStore;
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
