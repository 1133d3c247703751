//! openraft's storage conformance suite on the log store and the state machine over `RocksDB`.

use std::sync::Arc;

use cluster::directory_store::DirectoryStore;
use cluster::log_store::{FlushMode, LogStore, LogStoreOptions};
use cluster::machine::Machine;
use cluster::types::Types;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::list_app::ListApp;

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Types>> {
        let root = tempfile::tempdir().expect("temp dir");
        let options = cluster_rocks::LogOptions::new(true);
        let engine = cluster_rocks::open_log(&root.path().join("log"), &options).expect("log");
        let options = LogStoreOptions {
            tail_bytes: 1 << 20,
            read_bytes: 1 << 20,
        };
        let log = LogStore::open(Arc::new(engine), FlushMode::Thread, options).expect("log store");
        let open = |path: &std::path::Path| {
            let options = cluster_rocks::StateOptions::new(!path.join("CURRENT").exists());
            let state = cluster_rocks::open_state(path, &options)?;
            Ok(Arc::new(state) as Arc<dyn cluster::StateEngine>)
        };
        let store = DirectoryStore::open(root.path(), Box::new(open)).expect("state");
        // The suite applies entries that it never appended, so there is no log to wait for.
        let machine = Machine::open(Arc::new(store), None, Box::new(ListApp::default()));
        Ok((root, log, machine.expect("machine")))
    }
}

#[test]
fn storage_passes_openrafts_conformance_suite() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime
        .block_on(async { Suite::test_all(Builder).await })
        .expect("conformance suite");
}
