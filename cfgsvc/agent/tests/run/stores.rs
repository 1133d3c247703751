//! LIFE, the third word of the hook `position`: what comes of a store that was opened anew.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};
use cfgsvc_tests::harness::eventually;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Hooks, PATIENCE, Setup};

/// Longer than a test: nobody comes again because a lease is over.
const ROLE: &str = "--term 10m --stop 2s --data number --candidates a1,b1";

/// Where a host's data ends, and the life of its store.
struct Store {
    data: PathBuf,
    life: PathBuf,
}

impl Store {
    fn new(setup: &Setup, host: &str, data: &str) -> Result<Self> {
        let at = |name: &str| setup.dir.path().join(format!("{host}.{name}"));
        let (data_file, life) = (at("data"), at("life"));
        fs::write(&data_file, data)?;
        let store = Self {
            data: data_file,
            life,
        };
        store.opened("one")?;
        Ok(store)
    }

    /// It is of another life from now on. Nobody finds half of it.
    fn opened(&self, life: &str) -> Result<()> {
        let new = self.life.with_extension("new");
        fs::write(&new, life)?;
        Ok(fs::rename(new, &self.life)?)
    }

    /// A script for the hook `position`, which fails while there is no life.
    fn position(&self) -> String {
        let (data, life) = (self.data.display(), self.life.display());
        format!("test -s {data} || exit 0; life=$(cat {life}) || exit 1; echo $(cat {data}) $life")
    }
}

/// Waits until the group knows this of a host that attends.
fn knows(setup: &Setup, host: &str, (field, value): (&str, &str)) -> Result<()> {
    let line = format!("get -v /cfgsvc/attending/db/orders/{host}");
    let what = format!("the group to know {field} {value} of {host}");
    eventually(PATIENCE, what, || {
        let known = setup.cfgctl(&line).unwrap_or_default();
        let known: Value = serde_json::from_str(&known).unwrap_or_default();
        known[field] == value
    })
}

/// What its hooks were told since the first `on-fence`.
fn told_so(hooks: &Hooks, expected: &[&str]) -> Result<()> {
    let last = expected.last().context("something")?;
    eventually(PATIENCE, format!("hooks to be told {expected:?}"), || {
        hooks.told(last).is_ok_and(|told| told[1..] == *expected)
    })
}

#[test]
fn a_standby_whose_store_was_opened_anew_comes_again_and_is_told_whom_to_follow() -> Result<()> {
    let setup = Setup::new(ROLE)?;
    let (of_a, of_b) = (
        Store::new(&setup, "a1", "orders 100")?,
        Store::new(&setup, "b1", "")?,
    );
    let copies = format!("echo orders 100 > {}", of_b.data.display());
    let (position_a, position_b) = (of_a.position(), of_b.position());
    let hooks_a = setup.hooks(&[("position", &position_a)])?;
    let hooks_b = [
        ("position", &*position_b),
        ("on-standby", &copies),
        ("on-fence", ""),
    ];
    let hooks_b = setup.hooks(&hooks_b)?;
    let a = setup.agent("a1", &["--hook-dir", hooks_a.dir()])?;
    a.serves()?;
    let b = setup.agent("b1", &["--hook-dir", hooks_b.dir()])?;
    knows(&setup, "b1", ("position", "100"))?;
    told_so(&hooks_b, &["on-standby a1"])?;

    of_b.opened("two")?;
    knows(&setup, "b1", ("life", "two"))?;
    told_so(&hooks_b, &["on-standby a1"; 2])?;

    // Its server does not answer any more, which is told after each three looks, and does again.
    fs::remove_file(&of_b.life)?;
    let told = || hooks_b.told("on-standby a1").unwrap_or_default();
    eventually(PATIENCE, "the hook to be told again", || told().len() > 3)?;
    of_b.opened("three")?;
    knows(&setup, "b1", ("life", "three"))?;
    b.verdict("standby")?;
    let told = told();
    assert!(
        told[1..].iter().all(|hook| hook == "on-standby a1"),
        "{told:?}"
    );
    a.end()?;
    b.end()
}

#[test]
fn a_standby_whose_store_falls_silent_while_it_comes_is_told_again() -> Result<()> {
    let setup = Setup::new(ROLE)?;
    let (of_a, of_b) = (
        Store::new(&setup, "a1", "orders 100")?,
        Store::new(&setup, "b1", "")?,
    );
    let copies = format!("echo orders 100 > {}", of_b.data.display());
    // Who looks sees the store of life two, and who asks then, to tell the group, nothing.
    let silent = format!("[ $life != two ] || rm {}", of_b.life.display());
    let (position_a, position_b) = (of_a.position(), format!("{}; {silent}", of_b.position()));
    let hooks_a = setup.hooks(&[("position", &position_a)])?;
    let hooks_b = [
        ("position", &*position_b),
        ("on-standby", &copies),
        ("on-fence", ""),
    ];
    let hooks_b = setup.hooks(&hooks_b)?;
    let a = setup.agent("a1", &["--hook-dir", hooks_a.dir()])?;
    a.serves()?;
    let b = setup.agent("b1", &["--hook-dir", hooks_b.dir()])?;
    knows(&setup, "b1", ("position", "100"))?;
    told_so(&hooks_b, &["on-standby a1"])?;

    of_b.opened("two")?;
    // Once since it was opened anew, and again when it had been silent.
    let told = || hooks_b.told("on-standby a1").unwrap_or_default();
    eventually(PATIENCE, "the hook to be told again", || told().len() > 3)?;
    of_b.opened("three")?;
    knows(&setup, "b1", ("life", "three"))?;
    b.verdict("standby")?;
    a.end()?;
    b.end()
}

#[test]
fn a_host_that_is_fenced_comes_again_and_is_not_fenced_again() -> Result<()> {
    let setup = Setup::new(ROLE)?;
    let store = Store::new(&setup, "a1", "orders 100")?;
    let position = store.position();
    let hooks = setup.hooks(&[("position", &position), ("on-fence", "")])?;
    let a = setup.agent("a1", &["--hook-dir", hooks.dir()])?;
    a.serves()?;
    setup.cfgctl("role pause db/orders")?;
    setup.cfgctl("role release db/orders")?;
    let reason = || a.verdict("fenced").map(|file| file.reason);
    eventually(PATIENCE, "nobody to hold it", || {
        reason().is_ok_and(|reason| reason == "nobody holds the role")
    })?;
    let told = hooks.told("on-fence")?;
    // The hook starts its server, say. What would be told of the first is told before the second.
    for life in ["two", "three"] {
        store.opened(life)?;
        knows(&setup, "a1", ("life", life))?;
    }
    assert_eq!(hooks.told("on-fence")?, told);
    a.end()
}

#[test]
fn a_host_does_not_begin_with_a_store_that_was_opened_since_it_came() -> Result<()> {
    let setup = Setup::new(ROLE)?;
    let works = setup.dir.path().join("works");
    let position = format!(
        "test -e {} && echo orders 100 one || echo orders 100 $(cat /proc/sys/kernel/random/uuid)",
        works.display()
    );
    let hooks = setup.hooks(&[("position", &position)])?;
    let a = setup.agent("a1", &["--hook-dir", hooks.dir()])?;
    let mut said = String::new();
    let found = eventually(PATIENCE, "the reason", || {
        said = a
            .verdict("fenced")
            .map_or_else(|_| String::new(), |file| file.reason);
        said.contains("the store was opened anew since the host came")
    });
    found.with_context(|| said)?;
    assert_eq!(a.role()?.0, 503);
    fs::write(&works, "")?;
    a.serves()?;
    a.end()
}

#[test]
fn a_host_says_anew_where_its_data_ends_when_the_holder_is_lost() -> Result<()> {
    let setup =
        Setup::new("--term 5s --stop 500ms --data number --max-lag 10 --candidates a1,b1,c1")?;
    let hosts = [("a1", "orders 100"), ("b1", ""), ("c1", "")];
    let stores = hosts.map(|(host, data)| Store::new(&setup, host, data));
    let [of_a, of_b, of_c] = stores;
    let (of_a, of_b, of_c) = (of_a?, of_b?, of_c?);
    let position = of_a.position();
    let hooks = setup.hooks(&[("position", &position)])?;
    let mut a = setup.agent("a1", &["--hook-dir", hooks.dir()])?;
    a.serves()?;
    let log = |host: &str| setup.dir.path().join(format!("{host}.log"));
    let follows = |host: &str, store: &Store| {
        let copies = format!("echo orders 95 > {}", store.data.display());
        let position = store.position();
        let hooks = setup.hooks(&[("position", &position), ("on-standby", &copies)])?;
        let log = File::create(log(host))?;
        let agent = setup.agent_logs(host, &["--hook-dir", hooks.dir()], log.into())?;
        knows(&setup, host, ("position", "95"))?;
        anyhow::Ok((agent, hooks))
    };
    let (b, _hooks_b) = follows("b1", &of_b)?;
    let (c, _hooks_c) = follows("c1", &of_c)?;
    // Both follow on, and the group hears nothing of it.
    fs::write(&of_b.data, "orders 97")?;
    fs::write(&of_c.data, "orders 99")?;
    a.signal(Signal::KILL)?;
    a.exit()?;
    c.serves()?;
    knows(&setup, "c1", ("position", "99"))?;
    b.verdict("standby")?;
    // As soon as they were asked: nobody's lease had to end first.
    for host in ["b1", "c1"] {
        let log = fs::read_to_string(log(host))?;
        assert_eq!(log.matches("no lease of the group").count(), 1, "{log}");
    }
    c.end()?;
    b.end()
}

#[test]
fn a_holder_tells_where_its_data_is_and_nobody_follows_who_lacks_more_than_allowed() -> Result<()> {
    let setup = Setup::new("--term 2s --stop 500ms --data number --max-lag 10 --candidates a1,b1")?;
    let of_a = Store::new(&setup, "a1", "orders 100")?;
    let of_b = Store::new(&setup, "b1", "")?;
    let position = of_a.position();
    let hooks_a = setup.hooks(&[("position", &position)])?;
    let mut a = setup.agent("a1", &["--hook-dir", hooks_a.dir()])?;
    a.serves()?;
    let position = of_b.position();
    let copies = format!("echo orders 95 > {}", of_b.data.display());
    let hooks_b = setup.hooks(&[("position", &position), ("on-standby", &copies)])?;
    let b = setup.agent("b1", &["--hook-dir", hooks_b.dir()])?;
    knows(&setup, "b1", ("position", "95"))?;
    let grant = || -> Value {
        let grant = setup.cfgctl("get -v /cfgsvc/grants/db/orders");
        serde_json::from_str(&grant.unwrap_or_default()).unwrap_or_default()
    };
    for end in ["107", "108"] {
        fs::write(&of_a.data, format!("orders {end}"))?;
        eventually(PATIENCE, "the group to know of it", || {
            grant()["reached"] == end
        })?;
    }
    // What is known by now is 11 more; the group hears of it when it asks.
    fs::write(&of_b.data, "orders 97")?;
    a.signal(Signal::KILL)?;
    a.exit()?;
    knows(&setup, "b1", ("position", "97"))?;
    let after = grant();
    assert_eq!(after["holder"], "a1", "{after}");
    b.verdict("standby")?;
    let a = setup.agent("a1", &["--hook-dir", hooks_a.dir()])?;
    a.serves()?;
    a.end()?;
    b.end()
}
