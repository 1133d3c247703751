//! What is done about pictures that last.

use super::super::cut::tests::{cut_off, name, scene};
use super::super::cut::{Marks, Scene, cut};
use super::super::row::Sight;
use super::*;

fn role(text: &str) -> RoleName {
    text.parse().expect("a role")
}

fn web(holder: &str) -> Placed {
    Placed {
        role: role("web"),
        kind: Kind::Colo,
        automatic: true,
        holder: Some(name(holder)),
        epoch: 7,
        colo: None,
        serving: 1,
        closing: false,
        begun: false,
        follows: None,
        candidates: vec![name("a"), name("b"), name("c")],
    }
}

fn db(holder: &str, serving: u32) -> Placed {
    Placed {
        role: role("db"),
        kind: Kind::Host,
        colo: Some(name(&holder[..1])),
        holder: Some(name(holder)),
        serving,
        begun: true,
        candidates: vec![name("a1"), name("b1")],
        ..web("a")
    }
}

/// Looks at the same picture for so long.
fn after(scene: &Scene, roles: &[Placed], ms: u64, settings: &Settings) -> Outcome {
    let mut memory = Memory::default();
    let picture = cut(scene, Marks::default());
    memory.look(&picture, roles, scene.now_ms);
    let now = scene.now_ms + ms;
    memory.look(&picture, roles, now);
    decide(&memory, &picture, roles, (settings, now))
}

fn shown(outcome: &Outcome) -> String {
    let moves = outcome.moves.iter().map(|one| {
        let to: Vec<&str> = one.to.iter().map(Name::as_str).collect();
        format!(
            "{} at {} to {}: {}",
            one.role,
            one.epoch,
            to.join(" "),
            one.why
        )
    });
    let waits = outcome
        .waits
        .iter()
        .map(|(role, why)| format!("{role} waits: {why}"));
    moves.chain(waits).collect::<Vec<_>>().join("\n")
}

fn three_colos() -> Scene {
    scene(&["a1", "a2", "b1", "b2", "c1", "c2"], &["a", "b", "c"])
}

#[test]
fn nothing_is_done_while_all_is_well() {
    let roles = [web("a"), db("a1", 1)];
    let outcome = after(&three_colos(), &roles, 100_000, &Settings::default());
    assert_eq!(outcome, Outcome::default());
}

#[test]
fn colo_that_is_down_is_left_after_the_hold_down() {
    let mut scene = three_colos();
    cut_off(&mut scene, "a");
    let settings = Settings::default();
    let seen = "colo a is down (a says nothing, b: 2 of 2 miss it, c: 2 of 2 miss it)";
    assert_eq!(
        shown(&after(&scene, &[web("a")], 2_999, &settings)),
        format!("web waits: {seen}; it has been so for 2999 of 3000 ms")
    );
    let left = after(&scene, &[web("a")], 3_000, &settings);
    assert_eq!(shown(&left), format!("web at 7 to b c: {seen}"));
    // And another colo that is down changes nothing for those who are elsewhere.
    assert_eq!(
        after(&scene, &[web("b")], 3_000, &settings),
        Outcome::default()
    );
}

#[test]
fn what_flaps_is_not_left() {
    let (well, mut bad) = (three_colos(), three_colos());
    cut_off(&mut bad, "a");
    let roles = [web("a")];
    let mut memory = Memory::default();
    for second in 0..600 {
        let picture = cut(if second % 2 == 0 { &well } else { &bad }, Marks::default());
        let now = second * 1_000;
        memory.look(&picture, &roles, now);
        let outcome = decide(&memory, &picture, &roles, (&Settings::default(), now));
        assert!(outcome.moves.is_empty(), "{}", shown(&outcome));
    }
}

#[test]
fn nothing_is_done_by_votes_where_a_person_decides() {
    let mut scene = three_colos();
    cut_off(&mut scene, "a");
    let paused = Settings {
        paused: true,
        ..Settings::default()
    };
    let outcome = after(&scene, &[web("a")], 9_000, &paused);
    assert!(shown(&outcome).ends_with("are paused (cfgctl failover --resume)"));
    let manual = Placed {
        automatic: false,
        ..web("a")
    };
    let outcome = after(&scene, &[manual], 9_000, &Settings::default());
    assert!(shown(&outcome).ends_with("it is paused, or manual"));
}

#[test]
fn role_is_not_moved_again_before_the_interval_is_over() {
    let mut scene = three_colos();
    cut_off(&mut scene, "a");
    let (roles, settings) = ([web("a")], Settings::default());
    let picture = cut(&scene, Marks::default());
    let mut memory = Memory::default();
    memory.look(&picture, &roles, 100_000);
    memory.moved(&role("web"), 101_000);
    memory.look(&picture, &roles, 160_999);
    let at = |now| decide(&memory, &picture, &roles, (&settings, now));
    assert!(
        shown(&at(160_999)).ends_with("it was moved 59999 ms ago, and may be once in 60000 ms")
    );
    assert_eq!(at(161_000).moves.len(), 1);
}

#[test]
fn nobody_is_left_when_more_than_half_look_down_at_once() {
    // Two of each colo, and a third one in one.
    let mut scene = scene(&["a1", "a2", "b1", "b2", "c1", "c2", "c3"], &[]);
    let roles = [db("a1", 1)];
    for row in scene.rows.values_mut() {
        for other in ["a1", "b2", "c1"] {
            row.hosts.insert(name(other), Sight::Missed);
        }
    }
    let outcome = after(&scene, &roles, 9_000, &Settings::default());
    assert_eq!(
        outcome.moves.len(),
        1,
        "three of seven: {}",
        shown(&outcome)
    );
    for row in scene.rows.values_mut() {
        row.hosts.insert(name("c2"), Sight::Missed);
    }
    let outcome = after(&scene, &roles, 9_000, &Settings::default());
    assert!(
        shown(&outcome).contains("4 of 7 hosts look down at once"),
        "{}",
        shown(&outcome)
    );
}

#[test]
fn two_of_three_colos_that_look_down_are_not_believed() {
    let mut scene = three_colos();
    cut_off(&mut scene, "a");
    cut_off(&mut scene, "b");
    let outcome = after(&scene, &[web("a")], 9_000, &Settings::default());
    assert!(outcome.moves.is_empty(), "{}", shown(&outcome));
}

#[test]
fn hold_down_begins_anew_when_not_all_look_down_any_more() {
    let mut bad = three_colos();
    cut_off(&mut bad, "a");
    cut_off(&mut bad, "b");
    // The members hear one another, and none of those hosts.
    let members = ["a", "b", "c"].map(|colo| (name(colo), true));
    bad.members = members.into();
    let follower = Placed {
        follows: Some(role("web")),
        ..db("a1", 0)
    };
    let (roles, settings) = ([web("a"), follower], Settings::default());
    let mut memory = Memory::default();
    let bad = cut(&bad, Marks::default());
    assert!(everybody(&bad).is_err());
    for now in [100_000, 109_000] {
        memory.look(&bad, &roles, now);
    }
    // All are back, and nobody in a serves what follows yet.
    let well = cut(&three_colos(), Marks::default());
    memory.look(&well, &roles, 109_250);
    let at = |now| decide(&memory, &well, &roles, (&settings, now));
    assert!(
        shown(&at(111_999)).ends_with("it has been so for 2999 of 3000 ms"),
        "{}",
        shown(&at(111_999))
    );
    assert_eq!(at(112_000).moves.len(), 1, "they had their time");
}

#[test]
fn role_of_a_host_whom_only_the_group_hears_goes_to_one_that_is_up() {
    let mut scene = scene(&["a1", "a2", "b1", "b2", "c1"], &["a", "b", "c"]);
    for (host, row) in &mut scene.rows {
        if host.as_str() != "a1" {
            row.hosts.insert(name("a1"), Sight::Missed);
        }
    }
    let outcome = after(&scene, &[db("a1", 1)], 3_000, &Settings::default());
    assert!(shown(&outcome).starts_with("db at 7 to b1: host a1 is down for the others"));
    // One that is lost altogether goes by its lease, without a vote.
    assert_eq!(
        after(&scene, &[db("a1", 0)], 3_000, &Settings::default()),
        Outcome::default()
    );
}

#[test]
fn colo_is_left_when_nobody_there_serves_what_follows_it() {
    let follower = Placed {
        follows: Some(role("web")),
        ..db("a1", 0)
    };
    let outcome = after(
        &three_colos(),
        &[web("a"), follower],
        3_000,
        &Settings::default(),
    );
    assert_eq!(
        shown(&outcome),
        "web at 7 to b c: role db follows it, and nobody serves that in colo a"
    );
}
