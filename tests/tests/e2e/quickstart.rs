//! `deploy/quickstart` with the binaries of the tests: it shows what it says, and leaves nothing
//! behind however it ends.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cfgsvc_tests::harness::{binary_path, eventually, eventually_some};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// Less than what a test may take, so that the process is named.
const PATIENCE: Duration = Duration::from_secs(100);
/// The same of a long test.
const LONG_PATIENCE: Duration = Duration::from_mins(9);
/// What only root is shown.
const DATABASE: [&str; 6] = [
    "a client that asks in wlg is told",
    "first order acknowledged in epoch",
    "HTTP/1.1 503 Service Unavailable",
    "standby: epoch",
    ", lost 0",
    "a1 alone had ",
];

/// One run of the script, whose output goes to a file.
struct Quickstart {
    child: Child,
    place: TempDir,
}

impl Quickstart {
    fn start() -> Self {
        let place = tempfile::tempdir().expect("temp dir");
        // The database's user finds its own below.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(place.path(), open).expect("chmod");
        let bin = place.path().join("bin");
        fs::create_dir(&bin).expect("mkdir");
        // What is built is here already.
        let cargo = bin.join("cargo");
        fs::write(&cargo, "#!/bin/sh\n").expect("write");
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o700)).expect("chmod");
        for program in ["cfgagent", "cfgctl", "cfgsvc-example-web", "mapreduce"] {
            binary_path(program).expect("it is built");
        }
        let built = binary_path("cfgsvcd").expect("it is built");
        let built = built.parent().expect("it lies in a directory");
        fs::create_dir(place.path().join("target")).expect("mkdir");
        symlink(built, place.path().join("target/release")).expect("link");
        let output = fs::File::create(place.path().join("output")).expect("a file");
        let path = std::env::var("PATH").expect("a PATH");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let script = root.expect("inside the clone").join("deploy/quickstart");
        let child = Command::new("bash")
            .arg(script)
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("CARGO_TARGET_DIR", place.path().join("target"))
            .env("TMPDIR", place.path())
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("a second handle"))
            .stdout(output)
            .spawn()
            .expect("bash starts");
        Self { child, place }
    }

    fn output(&self) -> String {
        fs::read_to_string(self.place.path().join("output")).expect("its output")
    }

    /// Waits for the end; returns the exit code.
    fn end(&mut self, patience: Duration) -> Option<i32> {
        let ended = eventually_some(patience, "the script to end", || {
            self.child.try_wait().transpose()
        });
        let ended = ended.unwrap_or_else(|error| panic!("{error}: {}", self.output()));
        ended.expect("its status").code()
    }

    /// Command lines of processes that speak of its directory, or are its programs.
    fn processes(&self) -> Vec<String> {
        let place = self.place.path().to_string_lossy().into_owned();
        let all = fs::read_dir("/proc").expect("list /proc");
        let lines = all.filter_map(|entry| {
            // A process may go meanwhile.
            let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
        lines.filter(|line| line.contains(&place)).collect()
    }

    /// It has left neither process nor file nor network.
    fn left_nothing(&self) {
        assert_eq!(self.processes(), [""; 0]);
        assert_eq!(self.members(), None);
        let ours = format!("cfgsvc-{}-", self.child.id());
        // Without any there is no such directory.
        let networks = fs::read_dir("/run/netns").into_iter().flatten();
        let names = networks.map(|entry| entry.expect("an entry").file_name());
        let left: Vec<_> = names
            .filter(|name| name.to_string_lossy().starts_with(&ours))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Its own directory, in which the members are.
    fn members(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(self.place.path()).expect("list");
        let mut paths = entries.map(|entry| entry.expect("an entry").path());
        paths.find(|path| path.to_string_lossy().contains("cfgsvc-quickstart-"))
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        // Only when a check failed does it still run; it then stops its members itself.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

#[test]
fn long_quickstart_loses_no_write_and_leaves_nothing_behind() {
    let mut quickstart = Quickstart::start();
    let code = quickstart.end(LONG_PATIENCE);
    let output = quickstart.output();
    assert_eq!(code, Some(0), "{output}");
    let group = [
        "  n3: r",
        "longest time without an acknowledged write",
        ", of which lost: 0",
        "akl1 wrote, the last time",
        "wlg1 writes, since",
        "standby: epoch",
        "switched in",
        "cfgctl lock nightly-backup",
        "goes on with what the group has recorded",
        "the same, octet for octet",
        "the most frequent: ",
        "cfgctl snapshot restore",
        "nobody wrote under an old epoch after a new one had begun",
        "nothing is left behind",
    ];
    let database = if geteuid().is_root() {
        &DATABASE[..]
    } else {
        &["Skipped: "]
    };
    for words in group.iter().chain(database) {
        assert!(output.contains(words), "no `{words}` in {output}");
    }
    quickstart.left_nothing();
}

fn is_interrupted(what: &str, patience: Duration, begun: impl Fn(&Quickstart) -> bool) {
    let mut quickstart = Quickstart::start();
    eventually(patience, what, || begun(&quickstart))
        .unwrap_or_else(|error| panic!("{error}: {}", quickstart.output()));
    let script = Pid::from_child(&quickstart.child);
    kill_process(script, Signal::TERM).expect("it runs");
    // Once more, as somebody does who is in a hurry.
    kill_process(script, Signal::TERM).expect("it runs");
    let code = quickstart.end(patience);
    assert_eq!(code, Some(143), "{}", quickstart.output());
    quickstart.left_nothing();
}

#[test]
fn quickstart_that_is_interrupted_in_the_middle_of_writes_leaves_nothing_behind() {
    is_interrupted("the writes begin", PATIENCE, |quickstart| {
        quickstart.members().is_some_and(|members| {
            fs::metadata(members.join("acknowledged")).is_ok_and(|file| file.len() > 0)
        })
    });
}

#[test]
fn long_quickstart_that_is_interrupted_while_a_colo_is_cut_off_leaves_nothing_behind() {
    if geteuid().is_root() {
        is_interrupted("a colo to be cut off", LONG_PATIENCE, |quickstart| {
            quickstart.output().contains("== Cut akl off, where")
        });
    }
}
