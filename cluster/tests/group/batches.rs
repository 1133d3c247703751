//! How much is applied in one batch.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cluster::directory_store::DirectoryStore;
use cluster::machine::Machine;
use cluster::types::{Command, Entry, LogId, Payload, Types};
use cluster::{App, AppEntry, StateEngine, View};
use cluster_core::store::Overlay;
use futures_util::stream;
use openraft::storage::RaftStateMachine;

/// Answers as many bytes as the command says and keeps the index with which each batch ended.
struct Wordy(Arc<Mutex<Vec<u64>>>);

impl App for Wordy {
    fn load(&mut self, _view: &dyn View) -> io::Result<()> {
        Ok(())
    }

    fn apply(&mut self, _state: &mut Overlay<'_>, entry: &AppEntry) -> io::Result<Bytes> {
        let reply = String::from_utf8_lossy(&entry.command).trim().parse();
        Ok(Bytes::from(vec![0; reply.expect("a count")]))
    }

    fn published(&mut self, index: u64) {
        self.0.lock().expect("ends").push(index);
    }
}

/// The ends of the batches in which five commands of so many bytes, with such replies, are applied.
async fn batches(command_bytes: usize, reply_bytes: usize) -> Vec<u64> {
    let root = tempfile::tempdir().expect("temp dir");
    let open = |path: &Path| {
        let options = cluster_rocks::StateOptions::new(!path.join("CURRENT").exists());
        let state = cluster_rocks::open_state(path, &options)?;
        Ok(Arc::new(state) as Arc<dyn StateEngine>)
    };
    let store = Arc::new(DirectoryStore::open(root.path(), Box::new(open)).expect("state"));
    let ends: Arc<Mutex<Vec<u64>>> = Arc::default();
    let app = Box::new(Wordy(Arc::clone(&ends)));
    let mut machine = Machine::open(store, None, app).expect("machine");
    let mut command = reply_bytes.to_string().into_bytes();
    command.resize(command_bytes.max(command.len()), b' ');
    let command = Bytes::from(command);
    let entries = (1..=5).map(|index| {
        let entry = Entry {
            log_id: LogId::new_term_index(1, index),
            payload: Payload::Normal(Command(command.clone())),
        };
        Ok((entry, None))
    });
    RaftStateMachine::<Types>::apply(&mut machine, stream::iter(entries))
        .await
        .expect("apply");
    ends.lock().expect("ends").clone()
}

#[tokio::test]
async fn batch_is_bounded_by_the_bytes_of_commands_and_of_replies() {
    assert_eq!(batches(10, 10).await, [5]);
    assert_eq!(batches(3 << 20, 10).await, [2, 4, 5]);
    assert_eq!(batches(10, 3 << 20).await, [2, 4, 5]);
}
