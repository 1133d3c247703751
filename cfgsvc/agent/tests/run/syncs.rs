//! The hook `sync`: whom the group counts on, and whom the database waits for.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use cfgsvc_agent::state::has_agent;
use cfgsvc_tests::harness::{Network, eventually, unused_address};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Agent, Hooks, PATIENCE, Setup};

/// Longer than a test.
const ROLE: &str = "--term 10m --stop 2s --data number --sync --candidates a1,b1,c1";

/// A database that waits for whom it is told, and for whom is connected, and says who that is.
struct Database {
    connected: PathBuf,
    told: PathBuf,
    hooks: Hooks,
}

impl Database {
    fn new(setup: &Setup) -> Result<Self> {
        let at = |name: &str| setup.dir.path().join(name);
        let (connected, told) = (at("connected"), at("told"));
        fs::write(&told, "")?;
        let script = format!(
            "echo waits:$CFGSVC_SYNCED >> {}; cat {}",
            told.display(),
            connected.display()
        );
        let hooks = [
            ("position", "echo orders 100 one"),
            ("sync", &*script),
            // It need not have ended.
            ("on-serve", "exec sleep 1000"),
        ];
        let hooks = setup.hooks(&hooks)?;
        let database = Self {
            connected,
            told,
            hooks,
        };
        database.connects("")?;
        Ok(database)
    }

    /// These are connected from now on. Nobody finds half of it.
    fn connects(&self, hosts: &str) -> Result<()> {
        let new = self.connected.with_extension("new");
        fs::write(&new, hosts)?;
        Ok(fs::rename(new, &self.connected)?)
    }

    /// Whom it was told to wait for, each time.
    fn told(&self) -> Vec<String> {
        let told = fs::read_to_string(&self.told).unwrap_or_default();
        let told = told.lines().filter_map(|line| line.strip_prefix("waits:"));
        told.map(str::to_owned).collect()
    }

    /// Waits until it is told so, by a run that begins from now on.
    fn waits(&self, expected: &str) -> Result<()> {
        let before = self.told().len();
        eventually(PATIENCE, format!("it to wait for '{expected}'"), || {
            let told = self.told();
            told.len() > before && told.last().is_some_and(|last| last == expected)
        })
    }
}

/// A host that follows.
struct Follower {
    agent: Agent,
    life: PathBuf,
    _hooks: Hooks,
}

/// A host that follows, and whose store is of life `one`.
fn follows(setup: &Setup, host: &str) -> Result<Follower> {
    let (life, copied) = (
        setup.dir.path().join(format!("{host}.life")),
        setup.dir.path().join(format!("{host}.copied")),
    );
    fs::write(&life, "one")?;
    let position = format!(
        "test -e {} && echo orders 100 $(cat {}) || true",
        copied.display(),
        life.display()
    );
    let copies = format!("touch {}", copied.display());
    let hooks = setup.hooks(&[("position", &position), ("on-standby", &copies)])?;
    let agent = setup.agent(host, &["--hook-dir", hooks.dir()])?;
    let line = format!("get -v /cfgsvc/attending/db/orders/{host}");
    eventually(PATIENCE, format!("{host} to have the data"), || {
        let known = setup.cfgctl(&line).unwrap_or_default();
        let known: Value = serde_json::from_str(&known).unwrap_or_default();
        known["position"] == "100"
    })?;
    Ok(Follower {
        agent,
        life,
        _hooks: hooks,
    })
}

/// Waits until the group counts these, with the life of the store of each.
fn counts(setup: &Setup, expected: &Value) -> Result<()> {
    eventually(PATIENCE, format!("the group to count {expected}"), || {
        let grant = setup.cfgctl("get -v /cfgsvc/grants/db/orders");
        let grant: Value = serde_json::from_str(&grant.unwrap_or_default()).unwrap_or_default();
        let none = json!({});
        grant.get("synced").unwrap_or(&none) == expected
    })
}

#[test]
fn a_host_in_sync_is_counted_on_until_it_is_gone_and_anew_when_its_store_is_another() -> Result<()>
{
    let setup = Setup::new(ROLE)?;
    let database = Database::new(&setup)?;
    let a = setup.agent("a1", &["--hook-dir", database.hooks.dir()])?;
    a.serves()?;
    database.waits("")?;
    let b = follows(&setup, "b1")?;
    counts(&setup, &json!({}))?;
    database.connects("b1")?;
    counts(&setup, &json!({ "b1": "one" }))?;
    database.waits("b1")?;
    // It is left out by the group when it comes with another store, and named again.
    fs::write(&b.life, "two")?;
    counts(&setup, &json!({ "b1": "two" }))?;
    assert!(a.role()?.1["problem"].is_null());
    database.connects("")?;
    counts(&setup, &json!({}))?;
    database.waits("")?;
    a.end()?;
    b.agent.end()
}

/// Longer, there and back, than the client library waits for one of several members before it asks
/// the next; shorter than an agent waits for an answer.
const ONE_WAY: Duration = Duration::from_millis(450);

#[test]
fn host_whose_answers_all_come_late_takes_part_and_serves_and_says_who_is_in_sync() -> Result<()> {
    let setup = Setup::new("--term 1m --stop 2s --data number --sync --candidates a1,b1")?;
    // The agent is 1, the member 0: three ways to it, as to a group of three.
    let late = Network::new(Arc::new(|_| Some(1)))?;
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        let listen = unused_address()?;
        late.link(listen, setup.cluster.client_address(0)?, 0)?;
        endpoints.push(listen.to_string());
    }
    late.delay_one_way(1, 0, ONE_WAY);
    late.delay_one_way(0, 1, ONE_WAY);
    let database = Database::new(&setup)?;
    let hooks = ["--hook-dir", database.hooks.dir()];
    let a = setup.agent_by("a1", &endpoints.join(","), &hooks)?;
    a.serves()?;
    let b = follows(&setup, "b1")?;
    database.connects("b1")?;
    counts(&setup, &json!({ "b1": "one" }))?;
    database.connects("")?;
    counts(&setup, &json!({}))?;
    // Nobody waits for a host that is gone.
    database.waits("")?;
    a.end()?;
    b.agent.end()
}

#[test]
fn one_that_cannot_be_counted_on_keeps_no_other_out_and_is_shown() -> Result<()> {
    let setup = Setup::new(ROLE)?;
    let database = Database::new(&setup)?;
    let a = setup.agent("a1", &["--hook-dir", database.hooks.dir()])?;
    a.serves()?;
    let b = follows(&setup, "b1")?;
    let shown = |expected: &str| {
        eventually(PATIENCE, format!("the problem '{expected}'"), || {
            let shown = a.role().map(|(_, shown)| shown["problem"].to_string());
            shown.is_ok_and(|problem| problem.contains(expected))
        })
    };
    // The agent of the first is not there.
    database.connects("a0 b1")?;
    counts(&setup, &json!({ "b1": "one" }))?;
    shown("'a0' cannot be in sync with 'a1'")?;
    // What cannot be read changes nothing.
    database.connects("b1; c1")?;
    shown("hook sync printed what is no host")?;
    database.waits("b1")?;
    counts(&setup, &json!({ "b1": "one" }))?;
    database.connects("b1")?;
    eventually(PATIENCE, "no problem", || {
        a.role().is_ok_and(|(_, shown)| shown["problem"].is_null())
    })?;
    a.end()?;
    b.agent.end()
}

#[test]
fn what_the_group_has_not_confirmed_is_waited_for() -> Result<()> {
    let mut setup = Setup::new(ROLE)?;
    let database = Database::new(&setup)?;
    let a = setup.agent("a1", &["--hook-dir", database.hooks.dir()])?;
    a.serves()?;
    let b = follows(&setup, "b1")?;
    let c = follows(&setup, "c1")?;
    database.connects("b1")?;
    counts(&setup, &json!({ "b1": "one" }))?;
    database.waits("b1")?;
    setup.cluster.kill(0)?;
    // One is gone, and another is there: the group counts on the first, and may on the other.
    database.connects("c1")?;
    database.waits("b1,c1")?;
    database.waits("b1,c1")?;
    database.connects("")?;
    database.waits("b1,c1")?;
    assert_eq!(a.role()?.0, 200, "it serves on");
    setup.cluster.spawn(0)?;
    setup.cluster.wait_ready(0)?;
    counts(&setup, &json!({}))?;
    database.waits("")?;
    a.end()?;
    b.agent.end()?;
    c.agent.end()
}

#[test]
fn a_holder_that_is_lost_is_followed_by_a_host_in_sync() -> Result<()> {
    let setup = Setup::new("--term 2s --stop 500ms --data number --sync --candidates a1,c1,b1")?;
    let database = Database::new(&setup)?;
    let mut a = setup.agent("a1", &["--hook-dir", database.hooks.dir()])?;
    a.serves()?;
    let (b, c) = (follows(&setup, "b1")?, follows(&setup, "c1")?);
    database.connects("b1")?;
    counts(&setup, &json!({ "b1": "one" }))?;
    a.signal(Signal::KILL)?;
    a.exit()?;
    b.agent.serves()?;
    c.agent.verdict("standby")?;
    counts(&setup, &json!({}))?;
    b.agent.end()?;
    c.agent.end()
}

#[test]
fn the_next_agent_waits_for_a_sync_that_a_killed_one_left() -> Result<()> {
    let setup = Setup::new(ROLE)?;
    let at = |name: &str| setup.dir.path().join(name);
    let (began, go, ended, early) = (at("began"), at("go"), at("ended"), at("early"));
    // Long enough for an agent that does not wait.
    let hangs = format!(
        "touch {}; until test -e {}; do sleep 0.01; done; sleep 1; touch {}",
        began.display(),
        go.display(),
        ended.display()
    );
    let position = ("position", "echo orders 100 one");
    let hooks = setup.hooks(&[position, ("sync", &hangs)])?;
    let mut a = setup.agent("a1", &["--hook-dir", hooks.dir()])?;
    eventually(PATIENCE, "the hook", || began.exists())?;
    a.signal(Signal::KILL)?;
    a.exit()?;
    let fences = format!("test -e {} || touch {}", ended.display(), early.display());
    let hooks = setup.hooks(&[position, ("on-fence", &fences)])?;
    let a = setup.agent("a1", &["--hook-dir", hooks.dir()])?;
    eventually(PATIENCE, "the next agent", || {
        has_agent(&setup.state("a1")).unwrap_or(false)
    })?;
    fs::write(&go, "")?;
    a.serves()?;
    assert!(ended.exists() && !early.exists());
    a.end()
}
