//! The agent's side, with real guards. The program holds a named pipe: its end is everybody's end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cfgsvc_agent::guard::handle::{GuardError, GuardHandle, GuardOptions};
use cfgsvc_agent::guard::protocol::{Ending, Reason, Report};
use cfgsvc_clock::Moment;
use cfgsvc_tests::harness::eventually;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::LONG;

struct Run {
    handle: GuardHandle,
    pipe: BufReader<File>,
    _dir: TempDir,
}

/// What guards a shell that runs `script`.
fn options(script: &str) -> GuardOptions {
    GuardOptions {
        executable: PathBuf::from(env!("CARGO_BIN_EXE_cfgagent")),
        command: ["sh", "-c", script].map(OsString::from).into(),
        beside: None,
        stop: LONG,
        hold: None,
        environment: Vec::new(),
    }
}

/// A guard whose program runs `script` with the pipe as its output, and has said `up`.
async fn running(script: &str) -> Result<Run> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&path).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    let mut handle = GuardHandle::spawn(&GuardOptions {
        environment: vec![("HELD".into(), path.clone().into())],
        ..options(&format!("exec > \"$HELD\"; {script}"))
    })?;
    let ready = next(&mut handle).await?;
    ensure!(matches!(ready, Some(Report::Ready { .. })), "{ready:?}");
    handle.until(Moment::now() + 10 * LONG)?;
    let started = next(&mut handle).await?;
    ensure!(
        matches!(started, Some(Report::Started { .. })),
        "{started:?}"
    );
    let pipe = within(tokio::task::spawn_blocking(move || {
        let mut pipe = BufReader::new(File::open(path)?);
        let mut line = String::new();
        pipe.read_line(&mut line)?;
        ensure!(line == "up\n", "the program says {line:?}");
        Ok(pipe)
    }))
    .await???;
    Ok(Run {
        handle,
        pipe,
        _dir: dir,
    })
}

async fn within<F: Future>(future: F) -> Result<F::Output, tokio::time::error::Elapsed> {
    tokio::time::timeout(LONG, future).await
}

async fn next(handle: &mut GuardHandle) -> Result<Option<Report>> {
    Ok(within(handle.next()).await.context("no report")??)
}

/// Waits until nobody holds the pipe.
async fn gone(mut pipe: BufReader<File>) -> Result<()> {
    let read = tokio::task::spawn_blocking(move || pipe.read_to_end(&mut Vec::new()));
    let rest = within(read).await.context("somebody holds the pipe")???;
    ensure!(rest == 0, "{rest} bytes more");
    Ok(())
}

fn signal(handle: &GuardHandle, signal: Signal) -> Result<()> {
    let pid = handle.pid().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(Pid::from_raw).context("the guard has ended")?;
    Ok(kill_process(pid, signal)?)
}

#[tokio::test]
async fn it_is_told_what_happens_to_the_end() -> Result<()> {
    let mut run = running("echo up; exec sleep 1000").await?;
    run.handle.until(Moment::now() + 9 * LONG)?;
    run.handle.stop()?;
    for expected in [
        Report::Stopping(Reason::Asked),
        Report::Exited(Ending::Signal(15)),
        Report::Gone,
    ] {
        assert_eq!(next(&mut run.handle).await?, Some(expected));
    }
    assert_eq!(next(&mut run.handle).await?, None);
    assert!(run.handle.until(Moment::now()).is_err(), "nobody listens");
    run.handle.kill_all(Duration::ZERO).await?;
    gone(run.pipe).await
}

#[tokio::test]
async fn a_dropped_handle_ends_the_program() -> Result<()> {
    let run = running("echo up; exec sleep 1000").await?;
    drop(run.handle);
    gone(run.pipe).await
}

#[tokio::test]
async fn what_a_killed_guard_leaves_is_killed() -> Result<()> {
    // The daemon is in another session, nobody's child, and outlives guard and program.
    let mut run =
        running("(setsid sh -c \"trap '' TERM; echo up; exec sleep 1000\" &); exec sleep 1000")
            .await?;
    signal(&run.handle, Signal::KILL)?;
    let died = within(run.handle.next()).await?;
    assert!(matches!(died, Err(GuardError::Died { .. })), "{died:?}");
    run.handle.kill_all(LONG).await?;
    gone(run.pipe).await
}

#[tokio::test]
async fn a_guard_that_is_stopped_is_killed_with_all_it_guards() -> Result<()> {
    // Without its environment, the daemon is known by its parents alone.
    let mut run =
        running("env -i PATH=\"$PATH\" setsid sh -c 'echo up; exec sleep 1000' & exec sleep 1000")
            .await?;
    signal(&run.handle, Signal::STOP)?;
    run.handle.kill_all(LONG).await?;
    gone(run.pipe).await?;
    let died = within(run.handle.next()).await?;
    assert!(matches!(died, Err(GuardError::Died { .. })), "{died:?}");
    Ok(())
}

#[tokio::test]
async fn a_guard_that_reads_nothing_is_an_error_and_no_wait() -> Result<()> {
    let mut run = running("echo up; exec sleep 1000").await?;
    signal(&run.handle, Signal::STOP)?;
    let later = Moment::now() + 9 * LONG;
    // A socket's buffer holds far fewer.
    let deaf = (0..10_000_000).find_map(|_| run.handle.until(later).err());
    assert!(matches!(deaf, Some(GuardError::Deaf(_))), "{deaf:?}");
    run.handle.kill_all(LONG).await?;
    gone(run.pipe).await
}

#[tokio::test]
async fn the_lock_is_held_from_the_start_to_the_last_process() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("program.lock");
    let lock = File::create(&path)?;
    let free = || flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
    let mut handle = GuardHandle::spawn(&GuardOptions {
        hold: Some(path),
        ..options("exec sleep 1000")
    })?;
    assert!(!free(), "the guard has hardly begun");
    handle.until(Moment::now() + 10 * LONG)?;
    while !matches!(next(&mut handle).await?, Some(Report::Started { .. })) {}
    assert!(!free(), "the program runs");
    handle.stop()?;
    while next(&mut handle).await?.is_some() {}
    assert!(free(), "nobody is left");
    Ok(())
}

/// An executable file in `dir`.
fn script(dir: &TempDir, text: &str) -> Result<PathBuf> {
    let path = dir.path().join("beside");
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[tokio::test]
async fn what_runs_beside_the_program_ends_with_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (lock, up) = (dir.path().join("lock"), dir.path().join("up"));
    // With a daemon, and without an ear for SIGTERM; the lock is whoever is left.
    let text = format!(
        "trap '' TERM; setsid sleep 1000 & touch {}; wait",
        up.display()
    );
    let mut handle = GuardHandle::spawn(&GuardOptions {
        beside: Some(script(&dir, &text)?),
        hold: Some(lock.clone()),
        stop: Duration::from_millis(100),
        ..options("exec sleep 1000")
    })?;
    handle.until(Moment::now() + 10 * LONG)?;
    eventually(LONG, "the one beside", || up.exists())?;
    handle.stop()?;
    let mut heard = Vec::new();
    while let Some(report) = next(&mut handle).await? {
        heard.push(report);
    }
    assert_eq!(heard.last(), Some(&Report::Gone), "{heard:?}");
    let told = heard
        .iter()
        .any(|report| matches!(report, Report::Beside(_)));
    assert!(!told, "it was stopped: {heard:?}");
    flock(File::open(&lock)?, FlockOperation::NonBlockingLockExclusive)?;
    Ok(())
}

#[tokio::test]
async fn what_fails_beside_the_program_is_said_and_the_program_runs_on() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (text, ending) in [("exit 5", 5), ("/nowhere/to/be/found", 127)] {
        let mut handle = GuardHandle::spawn(&GuardOptions {
            beside: Some(script(&dir, text)?),
            ..options("exec sleep 1000")
        })?;
        handle.until(Moment::now() + 10 * LONG)?;
        while !matches!(next(&mut handle).await?, Some(Report::Started { .. })) {}
        let failed = Report::Beside(Ending::Code(ending));
        assert_eq!(next(&mut handle).await?, Some(failed));
        handle.stop()?;
        let stopping = Report::Stopping(Reason::Asked);
        assert_eq!(next(&mut handle).await?, Some(stopping));
        while next(&mut handle).await?.is_some() {}
    }
    Ok(())
}

#[tokio::test]
async fn the_agents_environment_reaches_the_program() -> Result<()> {
    let mut run = running("echo up; test -n \"$CFGSVC_GUARD\" && exit 7").await?;
    let exited = Some(Report::Exited(Ending::Code(7)));
    assert_eq!(next(&mut run.handle).await?, exited);
    gone(run.pipe).await
}
