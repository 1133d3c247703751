//! A snapshot that another member sends: its manifest may name any files, and its pieces may come
//! at any place.
//!
//! - nothing is written outside the directory of that snapshot;
//! - what is taken for whole is byte for byte what the manifest announced.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cluster::directory_store::DirectoryStore;
use cluster::proto;
use cluster::state_store::StateStore as _;
use sha2::{Digest as _, Sha256};

use crate::directory::{Scratch, memory_store};
use crate::draw::Draw;
use crate::peer::{log_id, stored_membership};

const NAMES: [&str; 12] = [
    "000001.sst",
    "CURRENT",
    "a",
    "b",
    "..",
    ".",
    "../a",
    "/dev/shm/cfgsvc-fuzz-escaped",
    "a/b",
    "MANIFEST.cfgsvc",
    "a\0b",
    "",
];

/// Transfers into one store, one after the other.
pub(crate) fn target(data: &[u8]) {
    let mut draw = Draw::new(data);
    let scratch = Scratch::new();
    let root = scratch.path().join("data");
    let mut store = memory_store(&root, Arc::default()).expect("an empty directory");
    while !draw.is_empty() {
        transfer(&mut draw, &root, &store);
        if draw.rarely(4) {
            drop(store);
            store = memory_store(&root, Arc::default()).expect("its own directory");
        }
        let outside = names(scratch.path());
        assert_eq!(outside, BTreeSet::from(["data".to_owned()]));
        assert!(!Path::new(NAMES[7]).exists());
        let inside = names(&root);
        assert!(
            inside
                .iter()
                .all(|name| ["incoming", "snapshot", "state"].contains(&&**name))
        );
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).expect("a directory of our own");
    entries
        .map(|entry| {
            let entry = entry.expect("a directory of our own");
            entry.file_name().to_string_lossy().into_owned()
        })
        .collect()
}

fn transfer(draw: &mut Draw<'_>, root: &Path, store: &DirectoryStore) {
    let mut contents = Vec::new();
    let files = (0..draw.below(4)).map(|_| {
        let content = draw.bytes(12);
        contents.push(content);
        file(draw, content)
    });
    let files = files.collect();
    let manifest = proto::SnapshotManifest {
        last_log_id: draw.flag().then(|| log_id(draw)),
        membership: (!draw.rarely(8)).then(|| stored_membership(draw)),
        files,
        id: if draw.rarely(8) {
            name(draw)
        } else {
            "one".to_owned()
        },
    };
    let Ok(mut receiver) = store.receive(&manifest) else {
        return;
    };
    assert!(
        store.receive(&manifest).is_err(),
        "two writers for one snapshot"
    );
    let held = receiver.held();
    assert_eq!(held.len(), manifest.files.len());
    for (index, content) in contents.iter().enumerate() {
        let from = usize::try_from(held[index]).unwrap_or(usize::MAX);
        let rest = content.get(from..).unwrap_or_default();
        let (file, offset) = if draw.rarely(16) {
            (draw.below(5), draw.number(12))
        } else {
            (index as u64, held[index])
        };
        let file = usize::try_from(file).unwrap_or(0);
        let _ = receiver.write(file, offset, rest);
        if draw.rarely(8) {
            let _ = receiver.write(index, draw.number(16), draw.bytes(4));
        }
    }
    if draw.rarely(8) {
        // The sender broke off.
        return;
    }
    let Ok(snapshot) = receiver.finish() else {
        return;
    };
    let whole = snapshot.files.manifest().expect("it was just hashed");
    assert_eq!(whole, manifest);
    for entry in &manifest.files {
        let path = root.join("incoming").join(&manifest.id).join(&entry.name);
        let found = std::fs::read(&path).expect("a file of the snapshot");
        assert_eq!(found.len() as u64, entry.size_bytes);
        assert_eq!(Sha256::digest(&found).as_slice(), entry.sha256.as_ref());
    }
    if draw.flag() && store.install(&snapshot).is_ok() {
        let current = store.current();
        assert!(current.is_err() || current.is_ok_and(|kept| kept.is_some()));
    }
}

fn file(draw: &mut Draw<'_>, content: &[u8]) -> proto::SnapshotFile {
    let mut sha256 = Bytes::copy_from_slice(&Sha256::digest(content));
    if draw.rarely(8) {
        sha256.truncate(usize::try_from(draw.below(33)).unwrap_or(0));
    }
    proto::SnapshotFile {
        name: name(draw),
        size_bytes: if draw.rarely(8) {
            draw.number(16)
        } else {
            content.len() as u64
        },
        sha256,
    }
}

fn name(draw: &mut Draw<'_>) -> String {
    match draw.below(32) {
        31 => draw.text(16),
        n if n < 24 => NAMES[usize::try_from(n % 4).unwrap_or(0)].to_owned(),
        n => NAMES[usize::try_from(n - 20).unwrap_or(0)].to_owned(),
    }
}
