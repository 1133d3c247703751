//! Locks and elections, as their users meet them: the command that runs while the lock is held is
//! stopped in time whatever happens to `cfgctl`.

use crate::Session;
use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::eventually;
use expect_test::expect;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

/// Longest wait for anything that must come.
const PATIENCE: Duration = Duration::from_mins(1);

/// A `cfgctl` that runs beside the test.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(session: &Session, args: &[&str]) -> Result<Self> {
        let mut child = session
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().context("it is piped")?;
        let lines = BufReader::new(stdout).lines();
        Ok(Self { child, lines })
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.lines.next().context("it says nothing more")??)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    fn code(&mut self) -> Result<Option<i32>> {
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended; what it guards ends with it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Who is there for the lock `job`.
fn queue(session: &Session) -> Result<Vec<String>> {
    let output = session.run(&["role", "show", "locks/job", "-o", "json"])?;
    if !output.status.success() {
        return Ok(Vec::new());
    }
    let role: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let there = role["attending"].as_array().context("a list")?.iter();
    Ok(there
        .filter_map(|there| there["host"].as_str().map(ToOwned::to_owned))
        .collect())
}

/// Waits until so many are there.
fn queued(session: &Session, count: usize) -> Result<()> {
    eventually(PATIENCE, format!("{count} queue up"), || {
        queue(session).is_ok_and(|hosts| hosts.len() == count)
    })
}

#[test]
fn a_command_finds_its_epoch_and_its_exit_code_is_taken_over() -> Result<()> {
    let session = Session::start_group()?;
    let script = "echo $EPOCH $CFGSVC_EPOCH $CFGSVC_ROLE $CFGSVC_HOST; cat; exit 7";
    let lock = ["lock", "job", "--host", "h1", "--", "sh", "-c"];
    let output = session.run(&[&lock[..], &[script]].concat())?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let [epoch, again, "locks/job", "h1"] = words[..] else {
        anyhow::bail!("{text}");
    };
    ensure!(epoch == again && epoch.parse::<i64>()? > 0, "{text}");
    ensure!(queue(&session)?.is_empty(), "it was released");
    let output = session.run(&[&lock[..], &["kill -9 $$"]].concat())?;
    ensure!(output.status.code() == Some(137), "{output:?}");
    let notes = String::from_utf8(output.stderr)?;
    let later = notes
        .split_whitespace()
        .find_map(|word| word.parse::<i64>().ok());
    ensure!(later > Some(epoch.parse()?), "epochs grow: {notes}");
    session.check(
        "lock job/ -- true
         lock job --stop 6s -- true",
        expect![[r#"
            $ cfgctl lock job/ -- true
            | error: invalid value 'job/' for '<NAME>': role 'locks/job/' must be names separated by '/', 253 bytes at most; a name is letters, digits, '.', '-' or '_', and begins with a letter or a digit
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl lock job --stop 6s -- true
            | waiting for lock `job`
            | error: lock `job`: the group refused: invalid object: lock 'locks/job': stop_ms is 6000, allowed: 100 to 5000, half of term_ms 10000
            exit 125
        "#]],
    )?;
    let output = session.run(&["lock", "job", "--", "/no/such/program"])?;
    ensure!(output.status.code() == Some(127), "{output:?}");
    ensure!(queue(&session)?.is_empty(), "it was released");
    Ok(())
}

#[test]
fn a_signal_ends_the_wait_and_stops_the_command_before_the_lock_is_released() -> Result<()> {
    let session = Session::start_group()?;
    let mut holder = Running::start(
        &session,
        &[
            "lock",
            "job",
            "--host",
            "a",
            "--term",
            "20s",
            "--stop",
            "10s",
            "--",
            "sh",
            "-c",
            "trap 'sleep 0.3; echo stopped; exit 9' TERM; echo up; while :; do sleep 0.05; done",
        ],
    )?;
    ensure!(holder.line()? == "up");
    let wait = ["lock", "job", "--host", "b", "--", "true"];
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut waiter = Running::start(&session, &wait)?;
        queued(&session, 2)?;
        waiter.signal(signal)?;
        ensure!(waiter.code()? == Some(code), "{signal:?}");
        ensure!(queue(&session)? == ["a"], "its place is given back at once");
    }
    for (wait, words) in [
        ("0s", "was not had: a holds it"),
        ("200ms", "was not had within 200 ms: a holds it"),
    ] {
        let args = ["lock", "job", "--wait", wait, "--", "true"];
        let output = session.run(&args)?;
        ensure!(output.status.code() == Some(125), "{output:?}");
        let notes = String::from_utf8(output.stderr)?;
        ensure!(notes.contains(words), "{notes}");
        ensure!(queue(&session)? == ["a"], "its place is given back at once");
    }
    let mut next = Running::start(&session, &["lock", "job", "--", "echo", "next"])?;
    queued(&session, 2)?;
    holder.signal(Signal::INT)?;
    ensure!(holder.line()? == "stopped");
    ensure!(holder.code()? == Some(9), "the code of the command");
    ensure!(next.line()? == "next" && next.code()? == Some(0));
    Ok(())
}

/// A command that says its process id and then writes the uptime (the clock that all processes
/// share) into `$1` again and again, deaf to SIGTERM.
const WRITES: &str = "trap '' TERM; echo $$; while :; do
    read now rest </proc/uptime; echo \"$now;\" >>\"$1\"; sleep 0.01; done";

/// Whether a process runs: one that has ended may wait for somebody to ask how.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// A holder, or one who waits, whose command writes into the file of its name. The lock-delay is
/// what a busy machine may need to kill it.
fn writer(session: &Session, host: &str, term: &str) -> Result<Running> {
    let lock = ["lock", "job", "--host", host, "--term", term];
    let times = ["--stop", "500ms", "--lock-delay", "2s"];
    let command = ["--", "sh", "-c", WRITES, "sh", host];
    Running::start(session, &[&lock[..], &times, &command].concat())
}

/// The uptimes that a holder's command has written so far, hundredths of a second.
fn stamps(session: &Session, host: &str) -> Result<Vec<u64>> {
    let text = fs::read_to_string(session.dir().join(host))?;
    let whole = text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix(";\n"));
    whole
        .map(|uptime| Ok(uptime.replace('.', "").parse()?))
        .collect()
}

#[test]
fn a_stopped_cfgctl_does_not_leave_its_command_running_into_the_next_holders_time() -> Result<()> {
    let session = Session::start_group()?;
    let mut holder = writer(&session, "a", "2s")?;
    holder.line()?;
    let mut next = writer(&session, "b", "2s")?;
    queued(&session, 2)?;
    holder.signal(Signal::STOP)?;
    next.line()?;
    eventually(PATIENCE, "the next writes", || {
        stamps(&session, "b").is_ok_and(|stamps| !stamps.is_empty())
    })?;
    let last = stamps(&session, "a")?.pop().context("it wrote")?;
    let first = stamps(&session, "b")?[0];
    ensure!(
        last <= first,
        "the first wrote at {last}, the next began at {first}"
    );
    holder.signal(Signal::CONT)?;
    ensure!(holder.code()? == Some(124));
    let later = stamps(&session, "a")?.pop().context("it wrote")?;
    ensure!(
        later == last,
        "it wrote at {later}, after the next began at {first}"
    );
    Ok(())
}

#[test]
fn a_killed_cfgctl_takes_its_command_along_at_once() -> Result<()> {
    let session = Session::start_group()?;
    let mut holder = writer(&session, "a", "1min")?;
    let command = holder.line()?;
    let _next = writer(&session, "b", "1min")?;
    queued(&session, 2)?;
    ensure!(runs(&command));
    holder.signal(Signal::KILL)?;
    eventually(PATIENCE, "the command is gone", || !runs(&command))?;
    ensure!(
        queue(&session)? == ["a", "b"],
        "long before the lease is over"
    );
    Ok(())
}

/// A holder whose guard gets `signal`, and then `cfgctl` SIGTERM if that is `asked`; returns its
/// exit code. When it ends, the command has, and the lock is released.
fn without_guard(signal: Signal, asked: bool) -> Result<Option<i32>> {
    let session = Session::start_group()?;
    let mut holder = writer(&session, "a", "1min")?;
    let command = holder.line()?;
    let cfgctl = holder.child.id();
    let children = fs::read_to_string(format!("/proc/{cfgctl}/task/{cfgctl}/children"))?;
    let guard = Pid::from_raw(children.trim().parse()?).context("a process")?;
    kill_process(guard, signal)?;
    if asked {
        holder.signal(Signal::TERM)?;
    }
    let code = holder.code();
    // Gone by now, unless the test fails.
    let _ = kill_process(guard, Signal::KILL);
    ensure!(!runs(&command), "before the lock was released");
    ensure!(queue(&session)?.is_empty(), "it was released");
    code
}

#[test]
fn a_guard_that_is_stuck_or_killed_does_not_keep_its_command() -> Result<()> {
    assert_eq!(without_guard(Signal::STOP, true)?, Some(137));
    assert_eq!(without_guard(Signal::KILL, false)?, Some(125));
    Ok(())
}

#[test]
fn a_command_whose_lock_is_taken_is_stopped_and_the_code_says_so() -> Result<()> {
    let session = Session::start_group()?;
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let lock = ["lock", "job", "--term", "9s", "--", "sh", "-c", script];
    let mut holder = Running::start(&session, &lock)?;
    ensure!(holder.line()? == "up");
    let mut next = Running::start(&session, &["lock", "job", "--", "echo", "next"])?;
    queued(&session, 2)?;
    session.data(&["role", "release", "locks/job"])?;
    ensure!(holder.code()? == Some(124));
    ensure!(next.line()? == "next" && next.code()? == Some(0));
    Ok(())
}

#[test]
fn an_election_is_held_seen_and_checked() -> Result<()> {
    let session = Session::start_group()?;
    let mut observer = Running::start(&session, &["elect", "job", "--observe", "-o", "json"])?;
    ensure!(observer.line()? == r#"{"epoch":null,"host":null,"value":null}"#);
    let mut first = Running::start(&session, &["elect", "job", "10.0.0.1:80", "--host", "a"])?;
    let line = first.line()?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["epoch", epoch, "a", "10.0.0.1:80"] = words[..] else {
        anyhow::bail!("{line}");
    };
    ensure!(observer.line()? == format!(r#"{{"epoch":{epoch},"host":"a","value":"10.0.0.1:80"}}"#));
    let check = ["role", "check", "locks/job", epoch];
    let output = session.run(&check)?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    let args = ["elect", "job", "x", "--host", "b", "--", "sh", "-c"];
    // Until it has been seen: of leaders that follow each other too fast, the last is told.
    let lead = "echo $EPOCH; exec sleep 600";
    let mut second = Running::start(&session, &[&args[..], &[lead]].concat())?;
    queued(&session, 2)?;
    first.signal(Signal::INT)?;
    ensure!(first.code()? == Some(0), "it was asked to end");
    let next: i64 = second.line()?.parse()?;
    ensure!(next > epoch.parse()?);
    let line = observer.line()?;
    ensure!(
        line == format!(r#"{{"epoch":{next},"host":"b","value":"x"}}"#),
        "{line}"
    );
    second.signal(Signal::TERM)?;
    ensure!(second.code()? == Some(143), "the command was stopped");
    ensure!(observer.line()? == r#"{"epoch":null,"host":null,"value":null}"#);
    let output = session.run(&check)?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    session.check(
        "role check locks/job 1
         role check locks/job 1 -o json
         elect job
         elect job x --observe",
        expect![[r#"
            $ cfgctl role check locks/job 1
            ROLE       EPOCH  HOLDER  CURRENT
            locks/job  0      -       no
            exit 1
            $ cfgctl role check locks/job 1 -o json
            {
              "current": false,
              "epoch": 0,
              "holder": null,
              "role": "locks/job"
            }
            exit 1
            $ cfgctl elect job
            | error: the following required arguments were not provided:
            |   <VALUE>
            |
            | Usage: cfgctl elect --endpoints <A,B,C> <NAME> <VALUE> [-- <COMMAND>...]
            |
            | For more information, try '--help'.
            exit 2
            $ cfgctl elect job x --observe
            | error: the argument '[VALUE]' cannot be used with '--observe'
            |
            | Usage: cfgctl elect --endpoints <A,B,C> <NAME> <VALUE> [-- <COMMAND>...]
            |
            | For more information, try '--help'.
            exit 2
        "#]],
    )
}
