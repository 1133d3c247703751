//! The guard with real processes: whatever happens, nothing of the program is left.
//!
//! "Nothing is left" is the end of a stream: guard and program hold one end of it as standard
//! output, and it ends when the last of them has. No test depends on the speed of the machine:
//! bounds are from below, or a minute.

mod handle;
mod harness;

use std::time::Duration;

use anyhow::Result;
use cfgsvc_agent::guard::protocol::{Ending, Reason, Report};
use cfgsvc_clock::Moment;
use harness::{Agent, LONG, ms};
use rustix::process::Signal;

/// It says `up`, and then does nothing for long.
const IDLE: &str = "echo up; exec sleep 1000";
/// The same, and SIGTERM does nothing to it.
const STUBBORN: &str = "trap '' TERM; echo up; exec sleep 1000";

/// It says nothing: it may be stopped before it could.
const SILENT: &str = "exec sleep 1000";

fn stopped(reason: Reason, ending: Ending) -> Vec<Report> {
    vec![
        Report::Stopping(reason),
        Report::Exited(ending),
        Report::Gone,
    ]
}

const TERMINATED: Ending = Ending::Signal(15);

#[test]
fn an_agent_that_closes_its_end_stops_the_program() -> Result<()> {
    let mut agent = Agent::with_running(LONG, IDLE)?;
    agent.hang_up()?;
    agent.expect(&stopped(Reason::AgentLost, TERMINATED))?;
    agent.all_gone()
}

#[test]
fn an_agent_that_dies_leaves_nobody() -> Result<()> {
    let mut agent = Agent::with_running(LONG, IDLE)?;
    agent.die();
    agent.all_gone()
}

#[test]
fn an_agent_that_says_nothing_more_stops_the_program_at_the_deadline() -> Result<()> {
    let mut agent = Agent::spawn(LONG, SILENT)?;
    let deadline = Moment::now() + ms(1_000);
    agent.until(deadline)?;
    agent.started()?;
    agent.expect(&[Report::Stopping(Reason::Deadline)])?;
    assert!(Moment::now() >= deadline, "stopped before the deadline");
    agent.expect(&[Report::Exited(TERMINATED), Report::Gone])?;
    agent.all_gone()
}

#[test]
fn an_agent_that_does_not_read_is_no_hindrance() -> Result<()> {
    let mut agent = Agent::spawn(ms(10), "trap '' TERM; exec sleep 1000")?;
    agent.deaf()?;
    agent.until(Moment::now() + ms(1_000))?;
    agent.all_gone()
}

#[test]
fn a_program_that_ignores_sigterm_is_killed_within_the_stop_margin() -> Result<()> {
    let mut agent = Agent::with_running(ms(400), STUBBORN)?;
    let asked = Moment::now();
    agent.say("stop\n")?;
    agent.expect(&stopped(Reason::Asked, Ending::Signal(9)))?;
    let took = Moment::now().since(asked);
    assert!(took >= ms(300), "killed after {took:?}");
    agent.all_gone()
}

#[test]
fn daemons_that_ignore_sigterm_are_killed() -> Result<()> {
    // Another session, two forks away: its parent is gone before it says `up`.
    let mut agent = Agent::with_running(
        ms(400),
        "(setsid sh -c \"trap '' TERM HUP; echo up; exec sleep 1000\" &); exec sleep 1000",
    )?;
    let asked = Moment::now();
    agent.say("stop\n")?;
    agent.expect(&stopped(Reason::Asked, TERMINATED))?;
    let took = Moment::now().since(asked);
    assert!(took >= ms(300), "gone after {took:?}, without KILL");
    agent.all_gone()
}

#[test]
fn daemons_are_asked_to_end_before_they_are_killed() -> Result<()> {
    let mut agent = Agent::with_running(
        LONG,
        "(setsid sh -c \"trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done\" &)
         exec sleep 1000",
    )?;
    agent.say("stop\n")?;
    agent.expect(&stopped(Reason::Asked, TERMINATED))?;
    assert_eq!(agent.line()?, "bye");
    agent.all_gone()
}

#[test]
fn what_the_main_process_leaves_behind_is_stopped() -> Result<()> {
    let script = "(setsid sh -c 'echo up; exec sleep 1000' &); read -r _ <&1; exit 3";
    let mut agent = Agent::with_running(LONG, script)?;
    agent.feed("on\n")?;
    agent.expect(&[
        Report::Exited(Ending::Code(3)),
        Report::Stopping(Reason::Exited),
        Report::Gone,
    ])?;
    agent.all_gone()
}

#[test]
fn a_guard_that_is_killed_takes_the_program_with_it() -> Result<()> {
    let mut agent = Agent::with_running(LONG, STUBBORN)?;
    agent.signal_guard(Signal::KILL)?;
    agent.program_gone()
}

#[test]
fn signals_to_the_guard_stop_the_program() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut agent = Agent::with_running(LONG, IDLE)?;
        agent.signal_guard(signal)?;
        agent.expect(&stopped(Reason::Signal, TERMINATED))?;
        agent.all_gone()?;
    }
    Ok(())
}

#[test]
fn what_says_that_it_is_up_is_heard_and_runs_on() -> Result<()> {
    let script = "echo up; read -r _ <&1; kill -USR1 $PPID; exec sleep 1000";
    let mut agent = Agent::spawn(LONG, script)?;
    // Before the program is there it means nothing, and ends nobody.
    agent.signal_guard(Signal::USR1)?;
    agent.until(Moment::now() + 10 * LONG)?;
    agent.started()?;
    assert_eq!(agent.line()?, "up");
    agent.feed("on\n")?;
    agent.expect(&[Report::Up])?;
    agent.say("stop\n")?;
    agent.expect(&stopped(Reason::Asked, TERMINATED))?;
    agent.all_gone()
}

#[test]
fn what_no_agent_says_stops_the_program() -> Result<()> {
    let far = (Moment::now() + Duration::from_secs(100_000)).nanos();
    for line in [
        "nonsense\n",
        "\n",
        "until\n",
        "until soon\n",
        "until -5\n",
        "until 18446744073709551616\n",
        "until 18446744073709551615\n",
        &format!("until {far}\n"),
        "until 1\0\n",
        &"x".repeat(65),
        &"until 1".repeat(1_000),
    ] {
        let mut agent = Agent::with_running(LONG, IDLE)?;
        // The guard need not read all of it.
        let _ = agent.say(line);
        agent.expect(&stopped(Reason::BadInput, TERMINATED))?;
        agent.all_gone()?;
    }
    Ok(())
}

#[test]
fn bad_input_before_the_start_starts_nothing() -> Result<()> {
    let mut agent = Agent::spawn(LONG, IDLE)?;
    agent.say("until 99999999999999999999999\n")?;
    agent.expect(&[Report::Stopping(Reason::BadInput), Report::Gone])?;
    agent.all_gone()
}

#[test]
fn a_deadline_that_is_extended_keeps_the_program_running() -> Result<()> {
    let mut agent = Agent::spawn(LONG, SILENT)?;
    let first = Moment::now() + ms(2_000);
    agent.until(first)?;
    agent.until(first + ms(1_000))?;
    agent.started()?;
    let last = first + ms(1_500);
    agent.until(last)?;
    agent.expect(&[Report::Stopping(Reason::Deadline)])?;
    assert!(Moment::now() >= last, "stopped before {last}");
    agent.expect(&[Report::Exited(TERMINATED), Report::Gone])?;
    agent.all_gone()
}

#[test]
fn a_deadline_that_is_shortened_stops_the_program() -> Result<()> {
    let mut agent = Agent::with_running(LONG, IDLE)?;
    agent.until(Moment::now())?;
    agent.expect(&stopped(Reason::Deadline, TERMINATED))?;
    agent.all_gone()
}

#[test]
fn a_deadline_after_stopping_began_changes_nothing() -> Result<()> {
    let mut agent = Agent::with_running(ms(400), STUBBORN)?;
    let later = Moment::now() + LONG;
    agent.say(&format!("stop\nuntil {}\n", later.nanos()))?;
    agent.expect(&stopped(Reason::Asked, Ending::Signal(9)))?;
    agent.all_gone()
}

#[test]
fn a_deadline_in_the_past_starts_nothing() -> Result<()> {
    let mut agent = Agent::spawn(LONG, IDLE)?;
    agent.until(Moment::now())?;
    agent.expect(&[Report::Late])?;
    agent.say("until 0\n")?;
    agent.expect(&[Report::Late])?;
    agent.say("stop\n")?;
    agent.expect(&[Report::Stopping(Reason::Asked), Report::Gone])?;
    agent.all_gone()
}

#[test]
fn the_program_has_its_environment_no_input_and_its_own_group() -> Result<()> {
    let script = "echo up; cat; echo \"$CFGSVC_ROLE $CFGSVC_EPOCH\"
        set -- $(cat /proc/$$/stat); test $5 = $$ && echo leads";
    let mut agent = Agent::with_running(LONG, script)?;
    assert_eq!(agent.line()?, "db/orders 42");
    assert_eq!(agent.line()?, "leads");
    agent.expect(&[
        Report::Exited(Ending::Code(0)),
        Report::Stopping(Reason::Exited),
        Report::Gone,
    ])?;
    agent.all_gone()
}

#[test]
fn a_program_that_is_not_there_is_said_so() -> Result<()> {
    let mut agent = Agent::spawn_command(LONG, &["/nowhere/to/be/found"])?;
    agent.until(Moment::now() + LONG)?;
    agent.started()?;
    agent.expect(&[
        Report::Exited(Ending::Code(127)),
        Report::Stopping(Reason::Exited),
        Report::Gone,
    ])?;
    agent.all_gone()
}

#[test]
fn guard_and_shield_refuse_to_run_without_their_parents() -> Result<()> {
    let output = harness::cfgagent()
        .args(["guard", "--stop-ms", "1", "--", "true"])
        .stdin(std::process::Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no socket to an agent"), "{text}");
    let output = harness::cfgagent()
        .args(["shield", "--guard", "1", "--", "echo", "unguarded"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(126), "{text}");
    assert!(text.contains("the guard, process 1, is gone"), "{text}");
    assert!(output.stdout.is_empty());
    Ok(())
}
