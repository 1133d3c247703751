//! A guarded program, the verdict file, HTTP and the local copy.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cfgsvc_agent::state::{VerdictFile, boot_id};
use cfgsvc_clock::Moment;
use cfgsvc_tests::harness::{eventually, http_get};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{PATIENCE, Setup, runs};

const ROLE: &str = "--term 2s --stop 500ms";
/// Longer than a test: the lease must not end meanwhile, however slow the machine is.
const LONG: &str = "--term 10m --stop 500ms";

fn verdict(setup: &Setup, host: &str) -> Result<Output> {
    let asked = Command::new(env!("CARGO_BIN_EXE_cfgagent"))
        .args(["verdict", "db/orders", "--state-dir"])
        .arg(setup.state(host))
        .output();
    asked.context("run cfgagent verdict")
}

#[test]
fn one_serves_and_the_other_stands_by_until_it_is_switched() -> Result<()> {
    let setup = Setup::new(LONG)?;
    let place = setup.dir.path().join("a-program");
    let place = place.to_str().context("text")?;
    let program = ["--", "sh", "-c", "sleep 1000 & wait", place];
    let a = setup.agent("a1", &program)?;
    a.serves()?;
    let file = a.verdict("serve")?;
    assert_eq!(file.boot, boot_id()?);
    assert!(file.epoch > 0 && file.known_epoch == file.epoch && file.deadline_nanos > 0);
    let said = verdict(&setup, "a1")?;
    assert!(said.status.success(), "{said:?}");
    // It is started by a process that becomes it.
    eventually(PATIENCE, "the program", || runs(place.as_ref()))?;

    let b = setup.agent("b1", &["--address", "192.0.2.7:3306"])?;
    let standby = b.verdict("standby")?;
    assert_eq!((standby.holder.as_str(), standby.epoch), ("a1", file.epoch));
    assert_eq!(b.role()?.0, 503);
    let said = verdict(&setup, "b1")?;
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(
        String::from_utf8_lossy(&said.stdout).contains("a1 holds it"),
        "{said:?}"
    );

    setup.cfgctl("role switch db/orders b1")?;
    b.serves()?;
    let later = b.verdict("serve")?;
    assert!(later.epoch > file.epoch);
    let former = a.verdict("standby")?;
    assert_eq!((former.holder.as_str(), former.epoch), ("b1", later.epoch));
    assert_eq!(former.addresses, ["192.0.2.7:3306"]);
    assert!(!runs(place.as_ref()), "the program of the former holder");
    assert_eq!(a.role()?.0, 503);

    // In order: the group need not wait for the lease.
    b.end()?;
    a.serves()?;
    a.end()
}

#[test]
fn a_host_without_the_group_stops_in_time_and_says_so() -> Result<()> {
    let mut setup = Setup::new(ROLE)?;
    let place = setup.dir.path().join("a-program");
    let place = place.to_str().context("text")?;
    setup.cfgctl("set app/limit 17")?;
    let program = [
        "--copy",
        "app/",
        "--",
        "sh",
        "-c",
        "sleep 1000 & wait",
        place,
    ];
    let mut a = setup.agent("a1", &program)?;
    a.serves()?;
    eventually(PATIENCE, "the copy to be confirmed", || {
        let answer = http_get(a.http, "/config/app/limit", PATIENCE);
        answer.is_ok_and(|answer| answer == (200, "17".to_owned()))
    })?;
    let copy = setup.state("a1").join("copy.json");
    eventually(PATIENCE, "the copy on disk", || copy.exists())?;
    setup.cluster.kill(0)?;
    let file = a.verdict("fenced")?;
    assert_eq!(file.deadline_nanos, 0);
    eventually(PATIENCE, "the program's end", || !runs(place.as_ref()))?;
    assert_eq!(a.role()?.0, 503);
    assert_eq!(verdict(&setup, "a1")?.status.code(), Some(1));

    // Started while the group is away: it has the old copy, and serves nothing.
    a.signal(Signal::KILL)?;
    a.exit()?;
    let a = setup.agent("a1", &program)?;
    eventually(PATIENCE, "the old copy", || {
        let answer = http_get(a.http, "/config/app/limit", PATIENCE);
        answer.is_ok_and(|answer| answer == (200, "17".to_owned()))
    })?;
    assert_eq!(a.role()?.0, 503);
    setup.cluster.spawn(0)?;
    setup.cluster.wait_ready(0)?;
    a.serves()?;
    a.end()
}

/// When the pipe's last writer was gone.
fn gone_at(mut pipe: BufReader<File>) -> Result<Moment> {
    let more = pipe.read_to_end(&mut Vec::new())?;
    ensure!(more == 0, "{more} bytes more");
    Ok(Moment::now())
}

#[test]
fn a_guard_that_is_stopped_is_no_reason_to_serve_beyond_the_lease() -> Result<()> {
    // An eighth of the margin, a second and a half, is what the agent's own kill has.
    let stop = Duration::from_secs(12);
    let mut setup = Setup::new("--term 24s --stop 12s")?;
    let path = setup.dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&path).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    let script = format!(
        "exec > {}; echo $PPID; trap '' TERM; sleep 1000 & wait",
        path.display()
    );
    let a = setup.agent("a1", &["--", "sh", "-c", &script])?;
    let mut pipe = BufReader::new(File::open(&path)?);
    let mut guard = String::new();
    pipe.read_line(&mut guard)?;
    a.serves()?;
    let guard = Pid::from_raw(guard.trim().parse()?).context("a process")?;
    kill_process(guard, Signal::STOP)?;
    setup.cluster.kill(0)?;
    let ended = std::thread::spawn(move || gone_at(pipe));
    // Each renewal puts the deadline off; the last one counts.
    let file = setup.state("a1").join("roles/db+orders.json");
    let mut deadline = None;
    eventually(3 * PATIENCE, "the program's end", || {
        let text = fs::read(&file).unwrap_or_default();
        let page = serde_json::from_slice::<VerdictFile>(&text).ok();
        if let Some(page) = page.filter(|page| page.verdict == "serve") {
            deadline = Some(page.deadline_nanos);
        }
        ended.is_finished()
    })?;
    let gone = ended.join().expect("it does not panic")?;
    let deadline = Duration::from_nanos(deadline.context("it served")?);
    let over = Moment::since_boot(deadline) + stop;
    assert!(gone < over, "gone at {gone}, the lease was over at {over}");
    a.end()
}

#[test]
fn a_state_directory_has_one_agent_and_what_the_last_one_ran_is_waited_for() -> Result<()> {
    let setup = Setup::new(LONG)?;
    let place = setup.dir.path().join("a-program");
    let place = place.to_str().context("text")?;
    // It does not listen to SIGTERM, so that its guard needs a while.
    let program = [
        "--",
        "sh",
        "-c",
        "trap '' TERM; while :; do sleep 1; done",
        place,
    ];
    let mut a = setup.agent("a1", &program)?;
    a.serves()?;
    let second = setup.command("a1", "off").stderr(Stdio::piped()).output()?;
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        said.contains("another agent uses the state directory"),
        "{said}"
    );

    let epoch = a.verdict("serve")?.epoch;
    a.signal(Signal::KILL)?;
    a.exit()?;
    let again = setup.agent("a1", &program)?;
    again.serves()?;
    // What it writes is told from what the last one wrote.
    assert!(again.verdict("serve")?.epoch > epoch);
    again.end()
}

#[test]
fn what_a_dead_agent_left_behind_is_not_taken_for_serving() -> Result<()> {
    let setup = Setup::new("--term 10m --stop 2s")?;
    let mut a = setup.agent("a1", &["--", "sleep", "1000"])?;
    a.serves()?;
    assert!(verdict(&setup, "a1")?.status.success());
    a.signal(Signal::KILL)?;
    a.exit()?;
    let said = verdict(&setup, "a1")?;
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.starts_with("fenced: the agent that served"), "{said}");
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_with_the_next_step() -> Result<()> {
    let setup = Setup::new(ROLE)?;
    let refused = |rest: &[&str], why: &str| -> Result<()> {
        let mut command = setup.command("a1", "off");
        let said = command.args(rest).stderr(Stdio::piped()).output()?;
        let text = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(1), "{text}");
        assert!(text.contains(why), "{rest:?}: {text}");
        Ok(())
    };
    refused(
        &["--role", "x", "--", "sleep", "9"],
        "a COMMAND serves one role",
    )?;
    refused(&["--role", "x", "--role", "x"], "'x' is given twice")?;
    refused(&["--hook-dir", "/nowhere"], "hook directory /nowhere")?;
    let taken = setup.cluster.client_address(0)?.to_string();
    let mut command = setup.command("a1", &taken);
    let said = command.stderr(Stdio::piped()).output()?;
    let text = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.contains("give another --http"), "{text}");
    let file = setup.state("a1").join("roles/db+orders.json");
    fs::write(&file, "{")?;
    refused(&[], "is damaged or of a later version")?;
    assert_eq!(fs::read_to_string(&file)?, "{", "it is left as it was");
    Ok(())
}
