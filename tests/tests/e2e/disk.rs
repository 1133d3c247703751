//! A disk that fills: writes are refused before it is full while reads go on; a write that fails
//! stops the member, and nothing that was acknowledged is lost.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cfgsvc_tests::harness::{Cluster, ClusterOptions, etcdctl, eventually, run};

const PATIENCE: Duration = Duration::from_mins(1);

/// A small file system in memory, unmounted when dropped.
pub(crate) struct SmallDisk {
    pub(crate) path: PathBuf,
    _place: tempfile::TempDir,
}

impl SmallDisk {
    pub(crate) fn mount(megabytes: u32) -> Self {
        let place = tempfile::tempdir().expect("temp dir");
        let path = place.path().join("disk");
        fs::create_dir(&path).expect("mount point");
        let size = format!("size={megabytes}m");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path))
        .expect("mount runs")
        .success()
        .expect("mounting a tmpfs needs root");
        Self {
            path,
            _place: place,
        }
    }

    /// Takes all but `left` bytes away.
    pub(crate) fn fill(&self, left: u64) -> PathBuf {
        let filler = self.path.join("filler");
        let found = rustix::fs::statvfs(&self.path).expect("statvfs");
        let free = found.f_bavail * found.f_frsize;
        let file = File::create(&filler).expect("filler");
        rustix::fs::fallocate(
            &file,
            rustix::fs::FallocateFlags::empty(),
            0,
            free.saturating_sub(left).max(1),
        )
        .expect("fallocate");
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: a member that is being killed may still hold it.
        if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.path)) {
            eprintln!("{} stays mounted: {error}", self.path.display());
        }
    }
}

fn start(disk: &Path, min_free: &str) -> Cluster {
    let options = ClusterOptions {
        members: 1,
        arguments: vec!["--min-free-bytes".to_owned(), min_free.to_owned()],
        within: Some(disk.to_owned()),
        ..ClusterOptions::default()
    };
    Cluster::start_with(options).expect("a member")
}

#[test]
fn almost_full_disk_refuses_writes_and_serves_reads_until_there_is_room() {
    let disk = SmallDisk::mount(256);
    let cluster = start(&disk.path, "16MiB");
    let at = cluster.endpoints();
    let put = || etcdctl(&at, &["put", "k", "v"]).expect("etcdctl runs");
    assert_eq!(put().code, Some(0));
    let filler = disk.fill(12 << 20);
    eventually(PATIENCE, "writes are refused", || {
        put().stderr.contains("mvcc: database space exceeded")
    })
    .expect("the member notices");
    let read = etcdctl(&at, &["get", "k"]).expect("etcdctl runs");
    assert_eq!((read.code, read.stdout.as_str()), (Some(0), "k\nv\n"));
    fs::remove_file(filler).expect("room");
    eventually(PATIENCE, "writes are taken again", || put().code == Some(0))
        .expect("it lifts by itself");
}

#[test]
fn full_disk_stops_the_member_and_loses_nothing_acknowledged() {
    let disk = SmallDisk::mount(256);
    let mut cluster = start(&disk.path, "0");
    let at = cluster.endpoints();
    let value = "x".repeat(100_000);
    let mut acknowledged = Vec::new();
    let mut put = |number: usize| {
        let key = format!("k{number:06}");
        let ran = etcdctl(&at, &["put", &key, &value]).expect("etcdctl runs");
        if ran.code == Some(0) {
            acknowledged.push(key);
        }
        ran.code
    };
    for number in 0..10 {
        assert_eq!(put(number), Some(0));
    }
    let filler = disk.fill(1 << 20);
    // The log has space allocated ahead: it takes more than what is free, but not for ever. One
    // that is refused or late may be the last one or not.
    let more = (10..1_000).take_while(|number| {
        put(*number);
        cluster.runs(0)
    });
    let tried = 10 + more.count();
    let status = cluster
        .wait_exit(0, PATIENCE)
        .unwrap_or_else(|error| panic!("after {tried} puts to a full disk: {error:#}"));
    assert!(!status.success());
    fs::remove_file(filler).expect("room");
    let log = cluster.logs(0).expect("log");
    assert!(log.contains("stopped by itself"), "{log}");
    cluster.spawn(0).expect("start");
    cluster.wait_ready(0).expect("it recovers");
    let read = etcdctl(&at, &["get", "k", "--prefix", "--keys-only"]).expect("etcdctl runs");
    let keys: Vec<&str> = read
        .stdout
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    for key in &acknowledged {
        assert!(keys.contains(&&**key), "{key} is lost");
    }
}
