//! Hooks: who is told what in which order, and what their end means.

use std::path::PathBuf;
use std::{fs, io};

use anyhow::Result;
use cfgsvc_tests::harness::{eventually, eventually_some};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Agent, Hooks, PATIENCE, Setup, runs};

const TELL_ALL: [(&str, &str); 5] = [
    ("on-serve", ""),
    ("on-standby", ""),
    ("on-redirect", ""),
    ("on-rebuild", ""),
    ("on-fence", ""),
];

#[test]
fn hooks_serve_without_a_command_and_are_told_in_order() -> Result<()> {
    // Longer than the test: a lease that ends would be told of as well.
    let setup = Setup::new("--term 10m --stop 2s --candidates a1,b1")?;
    let (hooks_a, hooks_b) = (setup.hooks(&TELL_ALL)?, setup.hooks(&TELL_ALL)?);
    let a = setup.agent("a1", &["--hook-dir", hooks_a.dir()])?;
    // Nobody serves on a guess: before anything else, it is told not to.
    assert_eq!(hooks_a.told("on-serve")?, ["on-fence", "on-serve"]);
    let b = setup.agent("b1", &["--hook-dir", hooks_b.dir()])?;
    assert_eq!(
        hooks_b.told("on-standby a1")?,
        ["on-fence", "on-standby a1"]
    );
    let c = setup.hooks(&TELL_ALL)?;
    let redirected = setup.agent("c1", &["--hook-dir", c.dir()])?;
    assert_eq!(c.told("on-redirect a1")?, ["on-fence", "on-redirect a1"]);

    setup.cfgctl("role switch db/orders b1")?;
    hooks_b.told("on-serve")?;
    // By the guard, and once more by the agent, before the group was told.
    let told = hooks_a.told("on-standby b1")?;
    assert_eq!(told[2..], ["on-fence", "on-fence", "on-standby b1"]);
    a.end()?;
    b.end()?;
    redirected.end()
}

#[test]
fn a_stopped_agents_hooks_fence_by_the_guard() -> Result<()> {
    // To be waited for, and yet not lost before because the machine is slow.
    let setup = Setup::new("--term 10s --stop 2s")?;
    let hooks = setup.hooks(&TELL_ALL)?;
    let a = setup.agent("a1", &["--hook-dir", hooks.dir()])?;
    hooks.told("on-serve")?;
    a.signal(Signal::STOP)?;
    assert_eq!(
        hooks.told("on-fence")?,
        ["on-fence", "on-serve", "on-fence"]
    );
    a.signal(Signal::CONT)?;
    a.serves()?;
    a.end()
}

/// A setup, and an agent whose program and hook `on-serve` both run; the hook can be found by the
/// path that comes with them.
fn slow_hook_beside(role: &str) -> Result<(Setup, Hooks, Agent, PathBuf)> {
    let setup = Setup::new(role)?;
    let place = setup.dir.path().join("a-slow-hook");
    let script = format!("exec sh -c 'sleep 1000 & wait' {}", place.display());
    let hooks = setup.hooks(&[("on-serve", &script), ("on-fence", "")])?;
    let agent = agent_beside(&setup, &hooks)?;
    agent.serves()?;
    eventually(PATIENCE, "the hook", || runs(&place))?;
    Ok((setup, hooks, agent, place))
}

fn agent_beside(setup: &Setup, hooks: &Hooks) -> Result<Agent> {
    let program = ["--hook-dir", hooks.dir(), "--", "sleep", "1000"];
    setup.agent("a1", &program)
}

#[test]
fn a_hook_beside_the_program_does_not_outlive_a_killed_agent() -> Result<()> {
    let (setup, hooks, mut a, place) = slow_hook_beside("--term 2s --stop 1s")?;
    hooks.told("on-serve")?;
    a.signal(Signal::KILL)?;
    a.exit()?;
    let fencing = setup.hooks(&[("on-fence", "")])?;
    let again = agent_beside(&setup, &fencing)?;
    fencing.told("on-fence")?;
    assert!(!runs(&place), "what it puts up would come after on-fence");
    again.end()
}

#[test]
fn a_hook_beside_the_program_ends_with_it_while_the_agent_is_stopped() -> Result<()> {
    let (_setup, _hooks, a, place) = slow_hook_beside("--term 2s --stop 1s")?;
    a.signal(Signal::STOP)?;
    eventually(PATIENCE, "the hook's end", || !runs(&place))?;
    a.signal(Signal::CONT)?;
    a.serves()?;
    a.end()
}

#[test]
fn a_hook_that_cannot_serve_gives_the_role_to_another() -> Result<()> {
    // It is given up, so no lease has to end; and none ends on a machine that is busy.
    let setup = Setup::new("--term 20s --stop 500ms --candidates a1,b1")?;
    let broken = setup.hooks(&[("on-serve", "exit 1"), ("on-fence", "")])?;
    let whole = setup.hooks(&TELL_ALL)?;
    let a = setup.agent("a1", &["--hook-dir", broken.dir()])?;
    broken.told("on-serve")?;
    let b = setup.agent("b1", &["--hook-dir", whole.dir()])?;
    b.serves()?;
    a.end()?;
    b.end()
}

#[test]
fn the_role_is_not_given_up_before_on_fence_succeeds() -> Result<()> {
    // Longer than the test: the lease must not end meanwhile.
    let setup = Setup::new("--term 10m --stop 2s")?;
    let works = setup.dir.path().join("fencing-works");
    let script = format!("test -e {} || test ! -e {0}.asked", works.display());
    let hooks = setup.hooks(&[("on-fence", &script), ("on-serve", "")])?;
    let a = setup.agent("a1", &["--hook-dir", hooks.dir()])?;
    a.serves()?;
    fs::write(setup.dir.path().join("fencing-works.asked"), "")?;
    let b = setup.agent("b1", &[])?;
    b.verdict("standby")?;
    let tried = |_: &Agent| {
        // The guard's try, the agent's, and one more.
        let told = hooks.told("on-fence").unwrap_or_default();
        told.iter().filter(|hook| *hook == "on-fence").count() >= 4
    };
    hands_over_late(&setup, (a, b), tried, || fs::write(&works, ""))
}

#[test]
fn the_role_is_not_given_up_before_it_is_known_where_its_data_ends() -> Result<()> {
    // Longer than the test: the lease must not end meanwhile.
    let setup = Setup::new("--term 10m --stop 2s --data number --candidates a1,b1")?;
    let file = |name: &str| setup.dir.path().join(name);
    let (hidden, copy) = (file("hidden"), file("b1.position"));
    fs::write(&copy, "")?;
    let said = format!("test ! -e {} && echo orders 100", hidden.display());
    let (copied, copies) = (
        format!("cat {}", copy.display()),
        format!("echo orders 100 > {}", copy.display()),
    );
    let hooks_a = setup.hooks(&[("position", &said), ("on-serve", "")])?;
    let hooks_b = setup.hooks(&[("position", &copied), ("on-standby", &copies)])?;
    let a = setup.agent("a1", &["--hook-dir", hooks_a.dir()])?;
    a.serves()?;
    let b = setup.agent("b1", &["--hook-dir", hooks_b.dir()])?;
    hooks_b.told("on-standby a1")?;
    // A database that was stopped says nothing for a while.
    fs::write(&hidden, "")?;
    let says_so = |a: &Agent| {
        let shown = a.role().map(|(_, shown)| shown["problem"].to_string());
        shown.is_ok_and(|problem| problem.contains("hook position"))
    };
    hands_over_late(&setup, (a, b), says_so, || fs::remove_file(&hidden))
}

/// Switches the role from the first, who serves, to the second. Something keeps it from stopping,
/// as `is_kept` shows, until it is set `free`: the role is not given up before.
fn hands_over_late(
    setup: &Setup,
    (a, b): (Agent, Agent),
    is_kept: impl Fn(&Agent) -> bool,
    free: impl FnOnce() -> io::Result<()>,
) -> Result<()> {
    // It waits until b1 has the role.
    let mut switch = setup.cfgctl_started("role switch db/orders b1 --wait 5m")?;
    eventually(PATIENCE, "the holder to be kept", || is_kept(&a))?;
    assert_eq!(b.role()?.0, 503);
    free()?;
    b.serves()?;
    let switched = eventually_some(PATIENCE, "the switch", || switch.try_wait().transpose())??;
    assert!(switched.success(), "{switched}");
    a.end()?;
    b.end()
}

#[test]
fn a_host_that_lacks_writes_rebuilds_and_then_stands_by() -> Result<()> {
    let setup = Setup::new("--term 2s --stop 500ms --data number --candidates a1,b1")?;
    let at = |name: &str| setup.dir.path().join(format!("{name}.position"));
    fs::write(at("a1"), "orders 100")?;
    // It has nothing yet.
    fs::write(at("b1"), "")?;
    let hooks = |name: &str, rebuilt: &str| {
        let position = format!("cat {}", at(name).display());
        let rebuild = format!("echo orders {rebuilt} > {}", at(name).display());
        let copy = format!("echo orders 100 > {}", at(name).display());
        let mut all = TELL_ALL.to_vec();
        all.push(("position", &position));
        for (hook, script) in &mut all {
            match *hook {
                "on-rebuild" => *script = &rebuild,
                "on-standby" if name == "b1" => *script = &copy,
                _ => {}
            }
        }
        setup.hooks(&all)
    };
    let (hooks_a, hooks_b) = (hooks("a1", "150")?, hooks("b1", "150")?);
    let mut a = setup.agent("a1", &["--hook-dir", hooks_a.dir()])?;
    a.serves()?;
    let b = setup.agent("b1", &["--hook-dir", hooks_b.dir()])?;
    // Its hook gets the data; the group is told.
    hooks_b.told("on-standby a1")?;
    eventually(PATIENCE, "the group to know b1's position", || {
        let shown = setup.cfgctl("role show db/orders -o json");
        let shown: Value = serde_json::from_str(&shown.unwrap_or_default()).unwrap_or_default();
        let mut there = shown["attending"].as_array().into_iter().flatten();
        let b1 = there.find(|there| there["host"] == "b1");
        b1.is_some_and(|b1| b1["position"] == "100")
    })?;
    // It writes what the other has not, and is lost; the other goes on from less.
    fs::write(at("a1"), "orders 120")?;
    a.signal(Signal::KILL)?;
    a.exit()?;
    b.serves()?;
    let epoch = b.verdict("serve")?.epoch;
    fs::write(at("b1"), "orders 150")?;
    let a = setup.agent("a1", &["--hook-dir", hooks_a.dir()])?;
    let told = hooks_a.told("on-standby b1")?;
    assert!(told.contains(&"on-rebuild b1".to_owned()), "{told:?}");
    let file = a.verdict("standby")?;
    assert_eq!((file.epoch, file.known_epoch), (epoch, epoch));
    a.end()?;
    b.end()
}

/// An address that is still up, say: it would stay up for good once another verdict is told.
#[test]
fn what_the_last_agent_left_is_put_down_before_the_host_takes_part_again() -> Result<()> {
    let setup = Setup::new("--term 2s --stop 200ms")?;
    let works = setup.dir.path().join("fencing-works");
    fs::write(&works, "")?;
    let script = format!("test -e {}", works.display());
    let hooks = [("on-fence", &*script), ("on-serve", ""), ("on-standby", "")];
    let hooks = setup.hooks(&hooks)?;
    let mut a = setup.agent("a1", &["--hook-dir", hooks.dir()])?;
    a.serves()?;
    let b = setup.agent("b1", &[])?;
    b.verdict("standby")?;
    fs::remove_file(&works)?;
    a.signal(Signal::KILL)?;
    a.exit()?;
    b.serves()?;
    let fenced = || {
        let told = hooks.told("on-fence").unwrap_or_default();
        told.iter().filter(|hook| *hook == "on-fence").count()
    };
    let before = fenced();
    let a = setup.agent("a1", &["--hook-dir", hooks.dir()])?;
    eventually(PATIENCE, "two tries", || fenced() >= before + 2)?;
    let shown: Value = serde_json::from_str(&setup.cfgctl("role show db/orders -o json")?)?;
    let mut there = shown["attending"].as_array().into_iter().flatten();
    assert!(there.all(|there| there["host"] != "a1"), "{shown}");
    let problem = a.role()?.1["problem"].to_string();
    assert!(problem.contains("on-fence"), "{problem}");
    fs::write(&works, "")?;
    let told = hooks.told("on-standby b1")?;
    assert_eq!(told[told.len() - 2], "on-fence", "{told:?}");
    a.end()?;
    b.end()
}
