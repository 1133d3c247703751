//! The small files of a data directory, as they are found: damaged, of another version, or sealed
//! by somebody else.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cluster::directory_store::DirectoryStore;
use cluster::identity::DataDirectory;
use cluster::proto;
use cluster::state_store::StateStore as _;
use cluster::{App, AppEntry, View};
use cluster_core::store::{MemoryState, Overlay, StateEngine};
use prost::Message;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::draw::Draw;
use crate::peer::{log_id, stored_membership};

/// A directory that goes with its run. In memory where the system has such a place.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() {
            TempDir::with_prefix_in("cfgsvc-fuzz-", memory)
        } else {
            TempDir::with_prefix("cfgsvc-fuzz-")
        };
        Self(made.expect("a directory for scratch files"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// An app without a state.
pub(crate) struct NoApp;

impl App for NoApp {
    fn load(&mut self, _view: &dyn View) -> io::Result<()> {
        Ok(())
    }

    fn apply(&mut self, _state: &mut Overlay<'_>, _entry: &AppEntry) -> io::Result<Bytes> {
        Ok(Bytes::new())
    }

    fn published(&mut self, _index: u64) {}
}

/// A store whose files are in `root` and whose database is `engine`.
pub(crate) fn memory_store(root: &Path, engine: Arc<MemoryState>) -> io::Result<DirectoryStore> {
    let open = move |directory: &Path| -> io::Result<Arc<dyn StateEngine>> {
        std::fs::create_dir_all(directory)?;
        Ok(engine.clone())
    };
    DirectoryStore::open(root, Box::new(open))
}

/// Identity, pointer to the database and kept snapshot.
pub(crate) fn target(data: &[u8]) {
    let mut draw = Draw::new(data);
    let scratch = Scratch::new();
    let root = scratch.path();
    if draw.flag() {
        write(&root.join("identity"), &identity(&mut draw));
        let name = draw.text(2);
        let offline = DataDirectory::open_offline(root).map(|(directory, _)| {
            assert_ne!(directory.identity().cluster_id, 0);
        });
        let opened = DataDirectory::open(root, &name, draw.flag());
        if let Ok(directory) = &opened {
            assert_eq!(directory.identity().name, name);
        }
        for error in [offline.err(), opened.err()].into_iter().flatten() {
            assert!(!error.to_string().is_empty());
        }
        return;
    }
    if draw.flag() {
        write(&root.join("state/CURRENT"), &current(&mut draw));
    }
    for directory in ["state/db-00000001", "state/db-00000002"] {
        if draw.flag() {
            std::fs::create_dir_all(root.join(directory)).expect("a directory");
        }
    }
    for id in ["a", "b"] {
        if draw.flag() {
            let directory = root.join("snapshot").join(id);
            write(&directory.join("MANIFEST.cfgsvc"), &manifest(&mut draw));
            write(&directory.join("f"), draw.bytes(4));
        }
    }
    if let Ok(store) = memory_store(root, Arc::default())
        && let Ok(Some((_, snapshot))) = store.current()
        && let Ok(manifest) = snapshot.files.manifest()
    {
        for (file, entry) in manifest.files.iter().enumerate() {
            let read = snapshot.files.read(file, 0, 16).expect("it was hashed");
            assert_eq!(read.len() as u64, entry.size_bytes.min(16));
        }
    }
}

fn write(path: &Path, bytes: &[u8]) {
    let parent = path.parent().expect("below the root");
    std::fs::create_dir_all(parent).expect("a directory");
    std::fs::write(path, bytes).expect("a scratch file");
}

/// Mostly with the right checksum.
fn sealed(draw: &mut Draw<'_>, content: &[u8]) -> Vec<u8> {
    if draw.rarely(4) {
        return content.to_vec();
    }
    let mut sealed = Sha256::digest(content).to_vec();
    sealed.extend_from_slice(content);
    sealed
}

fn identity(draw: &mut Draw<'_>) -> Vec<u8> {
    let content = if draw.rarely(4) {
        draw.bytes(32).to_vec()
    } else {
        let identity = proto::Identity {
            format: u32::from(!draw.rarely(8)),
            name: draw.text(2),
            incarnation: draw.text(4),
            cluster_id: draw.number(3),
            node_id: draw.number(3),
            founders: Vec::new(),
            inode: draw.number(2),
            opened: draw.flag(),
            born_ns: draw.number(2),
        };
        identity.encode_to_vec()
    };
    sealed(draw, &content)
}

fn current(draw: &mut Draw<'_>) -> Vec<u8> {
    match draw.below(6) {
        0 => draw.bytes(24).to_vec(),
        1 => format!("db-{}", draw.number(4)).into_bytes(),
        2 => b"db-18446744073709551615".to_vec(),
        _ => format!("db-{:08}", draw.below(3)).into_bytes(),
    }
}

fn manifest(draw: &mut Draw<'_>) -> Vec<u8> {
    let content = if draw.rarely(4) {
        draw.bytes(32).to_vec()
    } else {
        let manifest = proto::SnapshotManifest {
            last_log_id: draw.flag().then(|| log_id(draw)),
            membership: (!draw.rarely(8)).then(|| stored_membership(draw)),
            files: (0..draw.below(2))
                .map(|_| proto::SnapshotFile {
                    name: if draw.flag() {
                        "f".to_owned()
                    } else {
                        draw.text(8)
                    },
                    size_bytes: draw.number(5),
                    sha256: Bytes::copy_from_slice(draw.bytes(2)),
                })
                .collect(),
            id: draw.text(4),
        };
        manifest.encode_to_vec()
    };
    sealed(draw, &content)
}
