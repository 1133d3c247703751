//! Pictures of who sees whom, and what comes of them.

use super::*;

pub(in super::super) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// Hosts `a1 a2 b1 b2` and so on, and members; all rows are fresh and see everybody.
pub(in super::super) fn scene(hosts: &[&str], members: &[&str]) -> Scene {
    let colo = |host: &str| name(&host[..1]);
    let mut scene = Scene {
        now_ms: 100_000,
        members: members.iter().map(|member| (name(member), true)).collect(),
        ..Scene::default()
    };
    for host in hosts {
        scene.hosts.insert(name(host), colo(host));
        let others = hosts.iter().filter(|other| *other != host);
        scene.rows.insert(
            name(host),
            Row {
                colo: colo(host),
                heard_ms: 99_500,
                late_ms: 0,
                probed: true,
                hosts: others.map(|other| (name(other), Sight::Reached)).collect(),
                checks: BTreeMap::new(),
            },
        );
    }
    scene
}

/// Nobody outside of the colo hears its hosts, and these hear nobody outside.
pub(in super::super) fn cut_off(scene: &mut Scene, colo: &str) {
    let inside: BTreeSet<Name> = scene
        .hosts
        .iter()
        .filter(|(_, at)| at.as_str() == colo)
        .map(|(host, _)| host.clone())
        .collect();
    for (host, row) in &mut scene.rows {
        let is_inside = inside.contains(host);
        if is_inside {
            row.heard_ms = 10_000;
        }
        for (other, sight) in &mut row.hosts {
            if inside.contains(other) != is_inside {
                *sight = Sight::Missed;
            }
        }
    }
    if let Some(hears) = scene.members.get_mut(&name(colo)) {
        *hears = false;
    }
}

fn misses(scene: &mut Scene, observer: &str, subject: &str) {
    let row = scene.rows.get_mut(&name(observer)).expect("a row");
    row.hosts.insert(name(subject), Sight::Missed);
}

fn shown(scene: &Scene) -> String {
    let cut = cut(scene, Marks::default());
    let mut words: Vec<String> = cut
        .hosts_down()
        .map(|(host, state)| format!("{host} {state:?}"))
        .collect();
    words.extend(
        cut.colos
            .iter()
            .filter(|(_, state)| **state != State::Up)
            .map(|(colo, state)| format!("colo {colo} {state:?}")),
    );
    words.extend(
        cut.left_out
            .iter()
            .map(|(host, why)| format!("{host} {why}")),
    );
    words.join("; ")
}

impl Cut {
    fn hosts_down(&self) -> impl Iterator<Item = (&Name, State)> {
        self.subjects
            .iter()
            .filter_map(|(subject, (state, _))| match subject {
                Subject::Host(host) if *state != State::Up => Some((host, *state)),
                Subject::Host(_) | Subject::Check(_) => None,
            })
    }
}

#[test]
fn everybody_sees_everybody() {
    assert_eq!(
        shown(&scene(&["a1", "a2", "b1", "b2", "c1"], &["a", "b", "c"])),
        ""
    );
}

#[test]
fn colo_of_two_and_a_witness_is_cut_off() {
    let mut scene = scene(&["a1", "b1"], &["a", "b", "w"]);
    cut_off(&mut scene, "a");
    assert_eq!(
        shown(&scene),
        "a1 Down; colo a Down; a1 was not heard lately"
    );
    let cut = cut(&scene, Marks::default());
    assert_eq!(
        cut.evidence(&Subject::Host(name("a1"))),
        "a says nothing, b: 1 of 1 miss it, the group in w has not heard it"
    );
}

#[test]
fn colo_is_cut_off_that_had_the_leader_and_the_new_one_has_not_listened_yet() {
    let mut scene = scene(&["a1", "b1"], &["a", "b", "w"]);
    cut_off(&mut scene, "a");
    scene.rows.remove(&name("a1"));
    scene.led_since_ms = 99_000;
    assert_eq!(shown(&scene), "", "one colo of three says so");
    scene.led_since_ms = 90_000;
    assert_eq!(shown(&scene), "a1 Down; colo a Down");
    scene.attending.insert(name("a1"));
    assert_eq!(shown(&scene), "", "its lease lives");
}

#[test]
fn two_colos_without_a_third_decide_nothing_about_one_another() {
    let mut scene = scene(&["a1", "a2", "b1", "b2"], &["a", "b"]);
    cut_off(&mut scene, "a");
    assert_eq!(
        shown(&scene),
        "a1 was not heard lately; a2 was not heard lately"
    );
}

#[test]
fn one_observer_that_misses_somebody_is_not_a_colo() {
    let mut scene = scene(&["a1", "b1", "b2", "b3", "c1", "c2"], &[]);
    misses(&mut scene, "b1", "a1");
    assert_eq!(shown(&scene), "");
    misses(&mut scene, "c1", "a1");
    // A third of b's and half of c's.
    assert_eq!(shown(&scene), "");
    misses(&mut scene, "b2", "a1");
    assert_eq!(shown(&scene), "a1 Unsure; colo a Unsure");
    for observer in ["b3", "c2"] {
        misses(&mut scene, observer, "a1");
    }
    assert_eq!(shown(&scene), "a1 Down; colo a Down");
}

/// Everybody hears it, the group too, and it hears nobody: its row says nothing about them.
#[test]
fn host_that_hears_nobody_accuses_nobody() {
    let mut scene = scene(&["a1", "a2", "b1", "b2", "c1", "c2"], &["a", "b", "c"]);
    for other in ["a2", "b1", "b2", "c1", "c2"] {
        misses(&mut scene, "a1", other);
    }
    assert_eq!(shown(&scene), "a1 sees nobody");
    let mut late = scene.clone();
    late.rows.get_mut(&name("b1")).expect("a row").late_ms = 5_000;
    assert_eq!(shown(&late), "a1 sees nobody; b1 is late itself");
}

#[test]
fn host_whose_way_out_of_its_colo_is_broken_accuses_nobody() {
    let mut scene = scene(&["a1", "a2", "b1", "b2"], &["a", "b", "c"]);
    for other in ["b1", "b2"] {
        misses(&mut scene, "a1", other);
    }
    assert_eq!(shown(&scene), "a1 alone sees no other colo");
}

/// What a1 sees is its own way out of the colo; a2 says the same, and is late, or silent since.
#[test]
fn observer_that_is_not_well_bears_out_nobody() {
    let mut scene = scene(&["a1", "a2", "b1", "b2"], &["a", "b", "c"]);
    for observer in ["a1", "a2"] {
        for other in ["b1", "b2"] {
            misses(&mut scene, observer, other);
        }
    }
    let votes = |scene: &Scene| cut(scene, Marks::default()).evidence(&Subject::Host(name("b1")));
    assert!(votes(&scene).starts_with("a: 2 of 2 miss it"));
    let heard = "the group in a hears it, b: 0 of 1 miss it, the group in c hears it";
    let mut late = scene.clone();
    late.rows.get_mut(&name("a2")).expect("a row").late_ms = 501;
    assert_eq!(
        shown(&late),
        "a1 alone sees no other colo; a2 is late itself"
    );
    assert_eq!(votes(&late), heard);
    scene.rows.get_mut(&name("a2")).expect("a row").heard_ms = 10_000;
    assert_eq!(
        shown(&scene),
        "a2 Down; a1 alone sees no other colo; a2 was not heard lately"
    );
    assert_eq!(votes(&scene), heard);
}

/// A host that the group hears, and nobody else.
#[test]
fn host_is_down_for_all_others_though_the_group_hears_it() {
    let mut scene = scene(&["a1", "a2", "b1", "b2", "c1"], &["a", "b", "c"]);
    for observer in ["a2", "b1", "b2", "c1"] {
        misses(&mut scene, observer, "a1");
    }
    assert_eq!(shown(&scene), "a1 Down");
}

#[test]
fn check_is_down_when_a_majority_of_colos_says_so() {
    let mut scene = scene(&["a1", "a2", "b1", "c1"], &[]);
    let role: RoleName = "db".parse().expect("a role");
    scene.checks.insert(role.clone(), name("a"));
    for (observer, sight) in [("a2", Sight::Reached), ("b1", Sight::Missed)] {
        let row = scene.rows.get_mut(&name(observer)).expect("a row");
        row.checks.insert(role.clone(), sight);
    }
    assert_eq!(cut(&scene, Marks::default()).check(&role), State::Up);
    let row = scene.rows.get_mut(&name("c1")).expect("a row");
    row.checks.insert(role.clone(), Sight::Missed);
    assert_eq!(cut(&scene, Marks::default()).check(&role), State::Down);
}

mod random {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        /// Whatever half of the colos, or fewer, say: nobody elsewhere is down by it.
        #[test]
        fn invariant_half_of_the_colos_decide_nothing(
            rows in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 8), 4),
            liars in 1usize..3,
        ) {
            let hosts = ["a1", "a2", "b1", "b2", "c1", "c2", "d1", "d2"];
            let mut scene = scene(&hosts, &[]);
            let of_liars = &hosts[..liars * 2];
            for (host, row) in of_liars.iter().zip(&rows) {
                for (other, miss) in hosts.iter().zip(row) {
                    if *miss && host != other {
                        misses(&mut scene, host, other);
                    }
                }
            }
            let cut = cut(&scene, Marks::default());
            for host in &hosts {
                prop_assert_ne!(cut.host(&name(host)), State::Down);
            }
        }
    }
}
