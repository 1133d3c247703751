//! A group of members in this process, over real sockets and disks, for the tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cluster::group::{Group, NewMember, Status};
use cluster::start::{Beginning, Options, Running, StartError, start};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::list_app::{Echo, ListApp, items};

/// A group whose members come and go. Those that run when it is dropped are stopped: a process that
/// ends while a database is open aborts in the library's own teardown.
pub(crate) struct World {
    pub(crate) root: TempDir,
    pub(crate) addresses: BTreeMap<String, SocketAddr>,
    /// Where the others reach a member that they do not reach where it listens.
    pub(crate) advertised: BTreeMap<String, SocketAddr>,
    pub(crate) running: BTreeMap<String, Running>,
    /// Entries after which a member makes a snapshot.
    pub(crate) snapshot_entries: u64,
    /// Bytes after which it does.
    pub(crate) snapshot_bytes: u64,
}

/// An address on loopback that nobody else uses: a port of the system's choice can be taken by any
/// connection that is made while its member does not run, and by one to itself.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from(([127, 64 | (a & 63), b, c], port))
}

impl World {
    pub(crate) fn new(names: &[&str]) -> Self {
        let addresses = names
            .iter()
            .map(|name| ((*name).to_owned(), free_address()))
            .collect();
        let root = tempfile::tempdir().expect("temp dir");
        Self {
            root,
            addresses,
            advertised: BTreeMap::new(),
            running: BTreeMap::new(),
            snapshot_entries: 100,
            snapshot_bytes: u64::MAX,
        }
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// How often a snapshot has replaced the database of a member.
    pub(crate) fn installs(&self, name: &str) -> u64 {
        let pointer = self.directory(name).join("state/CURRENT");
        let current = std::fs::read_to_string(pointer).expect("a state");
        let number = current.trim().strip_prefix("db-").expect("a database");
        number.parse::<u64>().expect("a number") - 1
    }

    /// Waits until a member has made a snapshot.
    pub(crate) async fn snapshot_of(&self, name: &str) {
        let parent = self.directory(name).join("snapshot");
        let whole = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.path().extension().is_none())
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !std::fs::read_dir(&parent).expect("list").any(whole) {
            assert!(tokio::time::Instant::now() < deadline, "no snapshot");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn founders(&self) -> BTreeMap<String, String> {
        self.addresses
            .keys()
            .map(|name| (name.clone(), self.advertised(name).to_string()))
            .collect()
    }

    fn advertised(&self, name: &str) -> SocketAddr {
        let elsewhere = self.advertised.get(name);
        *elsewhere.unwrap_or(&self.addresses[name])
    }

    pub(crate) fn options(&self, name: &str, beginning: Beginning) -> Options {
        let listen_peer = self.addresses[name];
        Options {
            name: name.to_owned(),
            colo: "akl".to_owned(),
            data_directory: self.directory(name),
            listen_peer,
            advertise_peer: self.advertised(name).to_string(),
            client_addresses: vec![format!("{name}:2379")],
            beginning,
            heartbeat: Duration::from_millis(50),
            election: Duration::from_secs(1),
            snapshot_entries: self.snapshot_entries,
            snapshot_bytes: self.snapshot_bytes,
            keep_entries: 10,
            command_bytes_max: 1 << 20,
            request_timeout: Duration::from_secs(10),
            min_free_bytes: 1,
            danger_adopt_copied_data: false,
        }
    }

    pub(crate) async fn begin(names: &[&str]) -> Self {
        let mut world = Self::new(names);
        world.found(names).await;
        world
    }

    /// Starts the founders.
    pub(crate) async fn found(&mut self, names: &[&str]) {
        let world = &*self;
        let starts = names.iter().map(|name| {
            let options = world.options(name, Beginning::Found(world.founders()));
            start(options, Box::new(ListApp::default()), Arc::new(Echo))
        });
        let started = futures_util::future::join_all(starts.collect::<Vec<_>>()).await;
        let mut failures = Vec::new();
        for (name, started) in names.iter().zip(started) {
            match started {
                Ok(running) => drop(self.running.insert((*name).to_owned(), running)),
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
        assert_eq!(failures, [""; 0], "the founders start");
    }

    pub(crate) async fn restart(&mut self, name: &str) -> Result<(), StartError> {
        let options = self.options(name, Beginning::Found(self.founders()));
        let running = start(options, Box::new(ListApp::default()), Arc::new(Echo)).await?;
        self.running.insert(name.to_owned(), running);
        Ok(())
    }

    /// Starts a member that asks `through` for a place.
    pub(crate) async fn join(&mut self, name: &str, through: &str) {
        self.addresses.insert(name.to_owned(), free_address());
        let through = self.member(through).clone();
        let ask = move |member: NewMember, _: u64| -> futures_util::future::BoxFuture<'static, _> {
            let through = through.clone();
            Box::pin(async move {
                let joined = through
                    .member_join(member)
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(Some((through.identity().cluster_id, joined.id)))
            })
        };
        let beginning = Beginning::Join {
            ask: Box::new(ask),
            learner: false,
        };
        let options = self.options(name, beginning);
        let running = start(options, Box::new(ListApp::default()), Arc::new(Echo)).await;
        self.running
            .insert(name.to_owned(), running.expect("it joins"));
    }

    pub(crate) async fn stop(&mut self, name: &str) {
        let running = self.running.remove(name).expect("it runs");
        running.shutdown().await.expect("a clean stop");
    }

    pub(crate) fn member(&self, name: &str) -> &cluster::member::Member {
        &self.running[name].member
    }

    pub(crate) async fn status_when(
        &self,
        name: &str,
        met: impl FnMut(&Arc<Status>) -> bool,
    ) -> Arc<Status> {
        let mut status = self.member(name).status();
        let found = tokio::time::timeout(Duration::from_secs(20), status.wait_for(met)).await;
        found.expect("in time").expect("the member runs").clone()
    }

    pub(crate) async fn leader(&self) -> String {
        let name = self.running.keys().next().expect("a member runs").clone();
        let status = self
            .status_when(&name, |status| status.leader.is_some())
            .await;
        let leader = status.leader.expect("waited for");
        let found = status.members.iter().find(|member| member.id == leader);
        found.expect("the leader is a member").name.clone()
    }

    pub(crate) async fn write(&self, name: &str, item: String) {
        self.member(name)
            .propose(Bytes::from(item))
            .await
            .expect("a write");
    }

    pub(crate) async fn read(&self, name: &str) -> Vec<String> {
        self.member(name).read_barrier().await.expect("a barrier");
        let mut found = Vec::new();
        let read = self.member(name).read(&mut |view| {
            found = items(view)?;
            Ok(())
        });
        read.expect("a read");
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let running = std::mem::take(&mut self.running);
        if running.is_empty() {
            return;
        }
        let stop = async {
            for (name, running) in running {
                if let Err(error) = running.shutdown().await {
                    // A test that has failed already says why; a second panic would hide it.
                    assert!(std::thread::panicking(), "{name} stops: {error}");
                }
            }
        };
        block_in_place(|| Handle::current().block_on(stop));
    }
}

pub(crate) fn votes(status: &Status, name: &str) -> bool {
    let mut members = status.members.iter();
    members.any(|member| member.name == name && member.voter)
}

pub(crate) fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}
