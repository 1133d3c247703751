//! Votes, with real agents that probe one another through a network that loses their packets: who
//! is cut off is left, who only looks so is not, and never do two serve a role at once.
//!
//! Each trial begins with the same two colos and a witness ([`world`]), served in colo `a`.
//! `TRIAL_SECONDS` says how long links are bad in `loss_and_jitter`, `TRIAL_SEED` repeats which
//! packets of how many are lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::seeds::{lasts, setting};
use fabric::Weather;
use world::{APP, DB, HOSTS, Setup, WEB, World, node, nodes, pairs};

mod fabric;
mod health;
mod names;
mod starved;
mod world;

/// More than twice the default hold-down (3 s): what stays so long is not about to be undone.
const STAYS: Duration = Duration::from_secs(7);
/// More than the hold-down.
const BACK: Duration = Duration::from_secs(4);
/// How long a colo is there, and is not, when its link flaps; and for how long it does.
const FLAP: Duration = Duration::from_secs(1);
const FLAPS: u32 = 20;
/// How long links are bad in the gate; an hour by hand.
const BAD_SECONDS: u64 = 30;
/// Links of hosts that are bad, but no reason to leave anybody.
const BAD: Weather = Weather {
    loss_percent: 5,
    jitter_ms: 200,
};

const FOLLOWS: &[&str] = &["--follows", WEB];
const CHECKED: &[&str] = &["--check", "http:/health"];

/// Both roles of hosts follow the colo's, with a short term.
fn following(again: &'static str) -> Setup {
    Setup {
        again,
        seed: 1,
        term: "2s",
        stop: "500ms",
        roles: [FOLLOWS, FOLLOWS],
    }
}

#[test]
fn long_colo_cut_off_is_left_with_all_that_follows_in_one_commit() -> Result<()> {
    let mut world = World::start(following("colo_cut_off"))?;
    world.cut_colo("a", true, true)?;
    let why = goes_to(&world, "b")?;
    ensure!(why.contains("by votes: colo a is down"), "{why}");
    ensure!(
        why.contains("c has not heard it"),
        "the witness has a say: {why}"
    );
    a_comes_back_and_takes_nothing(&mut world)
}

/// First what colo a sends is lost; then, when all is in b, what is sent to that.
#[test]
fn long_colo_cut_off_one_way_is_left_whichever_way_it_is() -> Result<()> {
    let mut world = World::start(following("colo_cut_off_one_way"))?;
    world.cfgctl(&["failover", "--interval", "1s"])?;
    world.cut_colo("a", true, false)?;
    goes_to(&world, "b")?;
    world.heal()?;
    world.whole("b")?;
    world.colo_has_been("a", "up", BACK)?;
    world.cut_colo("b", false, true)?;
    goes_to(&world, "a")?;
    world.heal()?;
    world.whole("a")?;
    world.judge()
}

#[test]
fn long_colo_of_the_leader_cut_off_is_left_when_the_next_leader_has_listened() -> Result<()> {
    let mut world = World::start(following("colo_of_the_leader"))?;
    world.lead_from("n1")?;
    world.whole("a")?;
    world.cut_colo("a", true, true)?;
    let why = goes_to(&world, "b")?;
    ensure!(why.contains("by votes: colo a is down"), "{why}");
    a_comes_back_and_takes_nothing(&mut world)
}

/// All goes there, by one commit; the reason that it has.
fn goes_to(world: &World, colo: &str) -> Result<String> {
    let what = format!("all to be served in {colo}");
    world.until(&what, |world| world.served_in(colo))?;
    world.explained(moved_together(world, colo))
}

/// The reason of the commit that gave all roles to this colo.
fn moved_together(world: &World, colo: &str) -> Result<String> {
    let (web, why) = given(world, WEB, colo)?;
    for (role, to) in [(DB, format!("{colo}1")), (APP, format!("{colo}2"))] {
        let (revision, reason) = given(world, role, &to)?;
        ensure!(
            revision == web,
            "{role} went to {to} at {revision} ({reason}), web at {web} ({why})"
        );
    }
    Ok(why)
}

/// The commit since which a role is held by this one, or asked for by it: revision and reason.
fn given(world: &World, role: &str, to: &str) -> Result<(i64, String)> {
    let history = world.history(role)?;
    let goes_there = |entry: &&Value| {
        let grant = grant_of(entry);
        let asks = if grant["next"].is_null() {
            "holder"
        } else {
            "next"
        };
        grant[asks] == to
    };
    let first = history.iter().rev().take_while(goes_there).last();
    let first = first.with_context(|| format!("{role} did not go to {to}: {history:#?}"))?;
    let revision = first["revision"].as_i64().context("a revision")?;
    let reason = first["reason"].as_str().unwrap_or_default();
    Ok((revision, reason.to_owned()))
}

fn grant_of(entry: &Value) -> Value {
    let text = entry["kv"]["value"].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

/// What was given to b stays there when a is up again, and has been for some time.
fn a_comes_back_and_takes_nothing(world: &mut World) -> Result<()> {
    let (moved, _) = given(world, WEB, "b")?;
    world.heal()?;
    world.whole("b")?;
    world.colo_has_been("a", "up", BACK)?;
    world.whole("b")?;
    let last = world.history(WEB)?.pop().context("a history")?;
    ensure!(last["revision"] == moved, "it was moved again: {last:#}");
    world.judge()
}

#[test]
fn long_colo_whose_link_flaps_is_left_once_at_most() -> Result<()> {
    let mut world = World::start(following("link_flaps"))?;
    for _ in 0..FLAPS / 2 {
        world.cut_colo("a", true, true)?;
        lasts(FLAP);
        world.heal()?;
        lasts(FLAP);
    }
    let at = world.until("all to be served in one colo", |world| {
        ["a", "b"]
            .into_iter()
            .find(|at| world.served_in(at).is_some())
    })?;
    world.whole(at)?;
    let moves = world.history(WEB)?;
    let moves = moves.iter().filter(|entry| {
        let reason = entry["reason"].as_str().unwrap_or_default();
        reason.starts_with("by votes")
    });
    let moves = moves.count();
    let runs = world.runs(DB)?.len();
    eprintln!("{moves} moves of the colo, {runs} times that {DB} was begun; served in {at}");
    ensure!(
        moves <= 1,
        "moved {moves} times within the interval of 1 min"
    );
    world.judge()
}

#[test]
fn long_gray_host_loses_its_role_only_when_more_than_one_sees_it() -> Result<()> {
    let mut world = World::start(Setup {
        again: "gray_host",
        seed: 1,
        term: "2s",
        stop: "500ms",
        roles: [CHECKED, CHECKED],
    })?;
    world.until("checks of both roles to succeed for all", |world| {
        let sights = [DB, APP].map(|role| world.check(role));
        let well = |sight: &Option<(Vec<String>, Vec<String>)>| {
            let reached = sight
                .as_ref()
                .map(|(reached, missed)| (reached.len(), missed.len()));
            reached == Some((HOSTS.len() - 1, 0))
        };
        sights.iter().all(well).then_some(())
    })?;
    world.health["a1"].set(false);
    world.until("b1 to serve", |world| {
        (world.serves(DB)? == "b1").then_some(())
    })?;
    let (_, why) = given(&world, DB, "b1")?;
    ensure!(why.contains("by votes: the check of a1 fails"), "{why}");
    // It lives, and is heard: its lease was no reason.
    ensure!(world.serves(APP).as_deref() == Some("a2"), "a2 is well");
    let epoch = world.epoch(DB)?;
    for (from, to) in [("a1", "b1"), ("b1", "a1")] {
        world.fabric.cut_tcp_one_way(node(from), node(to));
    }
    world.stays("a1 alone to see b1 fail", STAYS, |world| {
        let (reached, missed) = world.check(DB)?;
        (missed == ["a1"] && reached == ["a2", "b2"]).then_some(())
    })?;
    let status = world.cfgctl(&["status"])?;
    ensure!(
        status.contains("the check of db/orders is up, and fails for a1: a: 1 of 2 miss it"),
        "{status}"
    );
    ensure!(world.epoch(DB)? == epoch, "it was moved");
    world.judge()
}

/// a1 and b2 do not hear b1, all others do: a is not of one mind, b says that it is down. So it looks
/// unsure, until a1 is late itself: then a goes by a2 alone.
#[test]
fn long_host_that_is_late_itself_makes_nobody_look_down() -> Result<()> {
    let mut world = World::start(Setup {
        again: "late_itself",
        seed: 1,
        // Nobody loses a lease for being stopped so long.
        term: "20s",
        stop: "1s",
        roles: [FOLLOWS, FOLLOWS],
    })?;
    let epochs = |world: &World| -> Result<Vec<i64>> {
        [WEB, DB, APP]
            .iter()
            .map(|role| world.epoch(role))
            .collect()
    };
    let before = epochs(&world)?;
    for to in ["a1", "b2"] {
        world.fabric.cut_one_way(node("b1"), node(to));
    }
    world.until("b1 to look unsure, by what a1 says", |world| {
        says_of_b1(world, "unsure", "a: 1 of 2 miss it, b: 1 of 1 miss it")
    })?;
    let starved = world.starve("a1")?;
    // It is told, and does not count; and its lateness has added nobody to those that it misses.
    world.stays("a1 to be left out as late", BACK, |world| {
        let a1 = world.host("a1")?;
        let late = a1["left_out"] == "is late itself" && a1["state"] == "up";
        let told = a1["missed"] == json!(["b1"]) && a1["reached"] == json!(["a2", "b2"]);
        let b1 = says_of_b1(world, "up", "a: 0 of 1 miss it, b: 1 of 1 miss it");
        (late && told).then_some(b1?)
    })?;
    let status = world.cfgctl(&["status"])?;
    ensure!(status.contains("(is late itself)"), "{status}");
    drop(starved);
    world.until("a1 to count again", |world| {
        let a1 = world.host("a1")?;
        let counts = a1["left_out"].is_null().then_some(());
        counts.and(says_of_b1(
            world,
            "unsure",
            "a: 1 of 2 miss it, b: 1 of 1 miss it",
        ))
    })?;
    world.whole_again()?;
    ensure!(epochs(&world)? == before, "something was moved");
    world.judge()
}

/// Whether b1 looks so, for that reason.
fn says_of_b1(world: &World, state: &str, evidence: &str) -> Option<()> {
    let b1 = world.host("b1")?;
    let told = b1["evidence"].as_str()?.starts_with(evidence);
    (b1["state"] == state && told).then_some(())
}

#[test]
fn long_when_all_look_down_at_once_nothing_is_moved() -> Result<()> {
    let mut world = World::start(following("all_look_down"))?;
    let before = world.epoch(WEB)?;
    let hosts: Vec<u8> = nodes().skip(3).collect();
    for (from, to) in pairs(&hosts, &hosts) {
        world.fabric.cut_one_way(from, to);
    }
    world.stays("nobody to see anybody, and to count", STAYS, |world| {
        let status = world.status().ok()?;
        let hosts = status["hosts"].as_array()?;
        let blind = hosts.iter().all(|host| {
            host["state"] == "up"
                && host["left_out"] == "sees nobody"
                && host["missed"].as_array().is_some_and(|all| all.len() == 3)
        });
        (blind && status["roles"].as_array()?.is_empty()).then_some(())
    })?;
    world.whole_again()?;
    ensure!(world.epoch(WEB)? == before, "it was moved");
    // Now the group does not hear them either.
    let members: Vec<u8> = nodes().take(3).collect();
    for (host, member) in pairs(&hosts, &members) {
        world.fabric.cut_one_way(host, member);
        world.fabric.cut_one_way(member, host);
    }
    world.stays("all colos to look down, and to stay", STAYS, |world| {
        let down = ["a", "b"].map(|colo| world.colo(colo).map(|(state, _)| state));
        let down = down.iter().all(|state| state.as_deref() == Some("down"));
        let why = world.why(WEB)?;
        let says = why.contains("more than half of the colos look down at once");
        (down && says).then_some(())
    })?;
    world.whole_again()?;
    ensure!(world.epoch(WEB)? == before, "it was moved");
    world.judge()
}

#[test]
fn long_paused_group_moves_nothing_and_then_what_it_had_planned() -> Result<()> {
    let mut world = World::start(following("paused_group"))?;
    world.cfgctl(&["failover", "--pause", "--reason", "work on the network"])?;
    let before = world.epoch(WEB)?;
    world.cut_colo("a", true, true)?;
    world.stays("a to be down, and nothing to be done", STAYS, |world| {
        let (state, _) = world.colo("a")?;
        let paused = world.why(WEB)?.contains("decisions by votes are paused");
        (state == "down" && paused).then_some(())
    })?;
    ensure!(world.epoch(WEB)? == before, "it was moved while paused");
    // Also a person is told whose first member is the one that is cut off.
    world.ask_all();
    let why = world.why(WEB).unwrap_or_default();
    ensure!(why.contains("are paused"), "{why}: {:#}", world.status()?);
    let kept = world.cfgctl(&["failover", "--dry-run"])?;
    ensure!(kept.contains("paused (cfgctl failover --resume)"), "{kept}");
    let plan = ["failover", WEB, "--dry-run", "-o", "json"];
    let plan: Value = serde_json::from_str(&world.cfgctl(&plan)?)?;
    ensure!(world.epoch(WEB)? == before, "a plan has moved it");
    world.cfgctl(&["failover", "--resume"])?;
    goes_to(&world, "b")?;
    for (role, to) in [(WEB, "b"), (DB, "b1"), (APP, "b2")] {
        let (revision, _) = given(&world, role, to)?;
        let history = world.history(role)?;
        let done = history.iter().find(|entry| entry["revision"] == revision);
        let done = grant_of(done.context("the move")?);
        let key = format!("/cfgsvc/grants/{role}");
        let events = plan["events"].as_array().context("events")?;
        let planned = events
            .iter()
            .find(|event| event["kv"]["key"] == key.as_str());
        let planned = grant_of(planned.with_context(|| format!("{role} in {plan:#}"))?);
        for what in ["holder", "next"] {
            ensure!(
                planned[what] == done[what],
                "{role}: planned {planned}, done {done}"
            );
        }
    }
    a_comes_back_and_takes_nothing(&mut world)
}

#[test]
fn long_loss_and_jitter_on_all_links_move_nothing() -> Result<()> {
    let seconds = setting("TRIAL_SECONDS", BAD_SECONDS);
    let mut world = World::start(Setup {
        again: "loss_and_jitter",
        seed: setting("TRIAL_SEED", u64::from(std::process::id())),
        // The defaults.
        term: "5s",
        stop: "1s",
        roles: [FOLLOWS, CHECKED],
    })?;
    let roles = [WEB, DB, APP];
    let before: Result<Vec<i64>> = roles.iter().map(|role| world.epoch(role)).collect();
    let before = before?;
    let (passed, lost) = world.fabric.counts();
    world.fabric.set_weather(Some(BAD));
    let began = Instant::now();
    let (mut looks, mut missed) = (0, 0);
    while began.elapsed().as_secs() < seconds {
        lasts(Duration::from_secs(1));
        looks += 1;
        missed += world.status().map_or(0, |status| misses(&status));
        for (role, before) in roles.iter().zip(&before) {
            let now = world.explained(world.epoch(role))?;
            let after = began.elapsed();
            let same = if now == *before {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{role} moved after {after:?}"))
            };
            world.explained(same)?;
        }
    }
    let (all, gone) = world.fabric.counts();
    let (passed, lost) = (all - passed, gone - lost);
    eprintln!(
        "{seconds} s: {lost} packets lost, {passed} passed; in {looks} looks {missed} hosts missed; \
         nothing moved"
    );
    ensure!(lost * 100 > passed * 4, "links of hosts lose 5 % and more");
    world.fabric.set_weather(None);
    world.whole_again()?;
    for role in [DB, APP] {
        let runs = world.runs(role)?;
        ensure!(runs.len() == 1, "{role} was begun again: {runs:?}");
    }
    Ok(())
}

/// How many an observer misses, by the leader's matrix.
fn misses(status: &Value) -> usize {
    let hosts = status["hosts"].as_array();
    let missed = hosts.into_iter().flatten().map(|host| {
        let missed = host["missed"].as_array();
        missed.map_or(0, Vec::len)
    });
    missed.sum()
}
