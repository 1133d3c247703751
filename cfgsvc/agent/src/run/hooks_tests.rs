//! What hooks are taken for, and what is left of them.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};

use cfgsvc_tests::harness::eventually;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::super::store::Store;
use super::*;

pub(crate) fn hooks(dir: &Path) -> Hooks {
    Hooks {
        files: Files::find(dir).expect("readable"),
        role: "r".to_owned(),
        host: "a1".to_owned(),
        colo: "akl".to_owned(),
        file: dir.join("verdict"),
        lock: dir.join("program.lock"),
    }
}

pub(crate) fn hook(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("writable");
}

pub(crate) fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A hook that hangs, with a child that holds a lock as long as it is there. It has come so far
/// once there is the file that is returned.
pub(crate) fn hangs(dir: &Path, name: &str) -> PathBuf {
    let started = dir.join("started");
    let script = format!(
        "exec 9> {}; flock 9; sleep 1000 & touch {}; wait",
        dir.join("lock").display(),
        started.display()
    );
    hook(dir, name, &script);
    started
}

/// Waits until nobody is left of such a hook.
pub(crate) fn free(dir: &Path) {
    let lock = File::open(dir.join("lock")).expect("it is there");
    let free = || flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
    eventually(Duration::from_mins(1), "the child's end", free).expect("it is killed");
}

/// Runs `on-fence` until it is done, and does `then` at the first problem, which it returns.
async fn fenced(hooks: &Hooks, then: impl FnOnce()) -> Option<String> {
    let (said, mut problems) = mpsc::channel(1);
    let told = Told::default();
    let problem = |problem: Option<String>| {
        // Only the first is looked at.
        let _ = said.try_send(problem);
    };
    let mut done = std::pin::pin!(hooks.until_done("on-fence", &told, problem));
    let first = tokio::select! {
        () = &mut done => return problems.recv().await.flatten(),
        first = problems.recv() => first.flatten(),
    };
    then();
    done.await;
    first
}

#[tokio::test]
async fn a_hook_that_is_not_there_at_the_start_is_done() {
    let dir = dir();
    let hooks = hooks(dir.path());
    hook(dir.path(), "on-fence", "exit 1");
    assert_eq!(fenced(&hooks, || {}).await, None);
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_a_hook_that_fails_until_it_leads_somewhere() {
    let dir = dir();
    let target = dir.path().join("target");
    symlink(&target, dir.path().join("on-fence")).expect("writable");
    let hooks = hooks(dir.path());
    let problem = fenced(&hooks, || hook(dir.path(), "target", "exit 0")).await;
    assert!(problem.is_some_and(|problem| problem.contains("tried again")));
}

#[tokio::test]
async fn a_directory_that_vanishes_makes_its_hooks_fail_until_it_is_back() {
    let dir = dir();
    let (there, away) = (dir.path().join("hooks"), dir.path().join("away"));
    fs::create_dir(&there).expect("writable");
    for name in ["on-fence", "position"] {
        hook(&there, name, "exit 0");
    }
    let hooks = hooks(&there);
    fs::rename(&there, &away).expect("writable");
    let position = Store::default().ask(&hooks, &Told::default()).await;
    assert!(position.is_err(), "no data: {position:?}");
    let back = || fs::rename(&away, &there).expect("writable");
    let problem = fenced(&hooks, back).await;
    assert!(problem.is_some_and(|problem| problem.contains("tried again")));
}

#[tokio::test]
async fn a_hook_that_hangs_is_shown_while_the_role_waits_for_it() {
    let dir = dir();
    let go = dir.path().join("go");
    let script = format!("until test -e {}; do sleep 0.01; done", go.display());
    hook(dir.path(), "on-fence", &script);
    let hooks = hooks(dir.path());
    let problem = fenced(&hooks, || fs::write(&go, "").expect("writable")).await;
    let expected = "hook on-fence has been running for more than 1 s";
    assert_eq!(problem.as_deref(), Some(expected));
}
