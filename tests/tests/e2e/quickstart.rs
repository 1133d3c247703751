//! `deploy/quickstart` with the binaries of the tests: it shows what it says, and leaves nothing
//! behind however it ends.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cfgsvc_tests::harness::{binary_path, eventually, eventually_some};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Less than what a test may take, so that the process is named.
const PATIENCE: Duration = Duration::from_secs(100);

/// One run of the script, whose output goes to a file.
struct Quickstart {
    child: Child,
    place: TempDir,
}

impl Quickstart {
    fn start() -> Self {
        let place = tempfile::tempdir().expect("temp dir");
        let bin = place.path().join("bin");
        fs::create_dir(&bin).expect("mkdir");
        // What is built is here already.
        let cargo = bin.join("cargo");
        fs::write(&cargo, "#!/bin/sh\n").expect("write");
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o700)).expect("chmod");
        binary_path("cfgagent").expect("it is built");
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
    fn end(&mut self) -> Option<i32> {
        let ended = eventually_some(PATIENCE, "the script to end", || {
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
fn quickstart_loses_no_write_and_leaves_nothing_behind() {
    let mut quickstart = Quickstart::start();
    let code = quickstart.end();
    let output = quickstart.output();
    assert_eq!(code, Some(0), "{output}");
    for words in [
        "  n3: r",
        "longest time without an acknowledged write",
        ", of which lost: 0",
        "akl1 wrote, the last time",
        "wlg1 writes, since",
        "standby: epoch",
        "switched in",
        "cfgctl lock nightly-backup",
        "cfgctl snapshot restore",
        "nobody wrote under an old epoch after a new one had begun",
        "nothing is left behind",
    ] {
        assert!(output.contains(words), "no `{words}` in {output}");
    }
    assert_eq!(quickstart.processes(), [""; 0]);
    assert_eq!(quickstart.members(), None);
}

#[test]
fn quickstart_that_is_interrupted_in_the_middle_of_writes_leaves_nothing_behind() {
    let mut quickstart = Quickstart::start();
    eventually(PATIENCE, "the writes begin", || {
        quickstart.members().is_some_and(|members| {
            fs::metadata(members.join("acknowledged")).is_ok_and(|file| file.len() > 0)
        })
    })
    .unwrap_or_else(|error| panic!("{error}: {}", quickstart.output()));
    let script = Pid::from_child(&quickstart.child);
    kill_process(script, Signal::TERM).expect("it runs");
    assert_eq!(quickstart.end(), Some(143), "{}", quickstart.output());
    assert_eq!(quickstart.processes(), [""; 0]);
    assert_eq!(quickstart.members(), None);
}
