//! Rows of one term, lists that are given once, and what is shown.

use cfgsvc_core::placement::objects::Kind;
use cfgsvc_core::votes::Placed;

use super::*;

fn at(ms: u64) -> Moment {
    Moment::since_boot(Duration::from_millis(ms))
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn fleet_of(hosts: &[(&str, &str)]) -> Fleet {
    let hosts = hosts.iter().map(|(host, colo)| (name(host), name(colo)));
    Fleet {
        hosts: hosts.collect(),
        ..Fleet::default()
    }
}

fn row(host: &str, list: u64, missed: &[u8]) -> v1::Row {
    v1::Row {
        host: host.to_owned(),
        colo: host[..1].to_owned(),
        probe: format!("192.0.2.1:{}", host.len()),
        list,
        probed: vec![0xff].into(),
        missed: missed.to_vec().into(),
        ..v1::Row::default()
    }
}

const HOSTS: [(&str, &str); 3] = [("a1", "a"), ("b1", "b"), ("c1", "c")];

fn heard() -> Votes {
    let votes = Votes::default();
    for (host, _) in HOSTS {
        let probes = votes.hear(at(1_000), 3, row(host, 0, &[]));
        assert_eq!(probes, Probes::default(), "nobody is known yet");
    }
    votes.look(at(1_100), 3, Some((1, fleet_of(&HOSTS))), BTreeMap::new());
    votes
}

#[test]
fn host_is_told_once_whom_to_probe_and_its_bits_are_of_that_list() {
    let votes = heard();
    let given = votes.hear(at(1_200), 3, row("a1", 0, &[]));
    let names: Vec<&str> = given
        .probes
        .iter()
        .map(|probe| probe.host.as_str())
        .collect();
    assert_eq!(names, ["b1", "c1"]);
    let again = votes.hear(at(1_300), 3, row("a1", given.list, &[0b10]));
    assert_eq!(again, Probes::default());
    votes.look(at(1_400), 3, Some((1, fleet_of(&HOSTS))), BTreeMap::new());
    let shown = votes.shown(at(1_500));
    let a1 = shown
        .hosts
        .iter()
        .find(|host| host.host == "a1")
        .expect("it is there");
    assert_eq!(
        (&a1.reached[..], &a1.missed[..]),
        (&["b1".to_owned()][..], &["c1".to_owned()][..])
    );
    assert_eq!(a1.heard_ms, 200);
}

#[test]
fn rows_of_one_term_do_not_count_in_another() {
    let votes = heard();
    votes.look(at(2_000), 4, Some((1, fleet_of(&HOSTS))), BTreeMap::new());
    let shown = votes.shown(at(2_000));
    assert!(
        shown.hosts.iter().all(|host| host.heard_ms == -1),
        "{shown:?}"
    );
    votes.hear(at(2_100), 4, row("a1", 0, &[]));
    votes.forget();
    assert!(votes.shown(at(2_200)).hosts.is_empty());
}

#[test]
fn rows_that_no_agent_sends_are_refused() {
    assert!(check_row(&row("a1", 0, &[1])).is_ok());
    assert!(check_row(&row("a1", 0, &[0; 129])).is_err());
    let long = v1::Row {
        host: "h".repeat(256),
        ..v1::Row::default()
    };
    assert!(check_row(&long).is_err());
    let votes = heard();
    // A host that is no name.
    let odd = v1::Row {
        host: "a/b".to_owned(),
        ..row("a1", 0, &[])
    };
    assert_eq!(votes.hear(at(1_200), 3, odd), Probes::default());
}

#[test]
fn check_of_a_role_is_shown_with_who_sees_it_fail() {
    let votes = heard();
    let mut fleet = fleet_of(&HOSTS);
    let role: RoleName = "db/orders".parse().expect("a role");
    let check = ("tcp".to_owned(), "192.0.2.1:3306".to_owned());
    fleet.checks.insert(role.clone(), check);
    fleet.roles.push(Placed {
        role,
        kind: Kind::Host,
        automatic: true,
        holder: Some(name("a1")),
        epoch: 7,
        colo: Some(name("a")),
        serving: 1,
        closing: false,
        begun: true,
        follows: None,
        candidates: vec![name("a1"), name("b1")],
    });
    votes.look(at(1_200), 3, Some((1, fleet)), BTreeMap::new());
    for (host, missed) in [("b1", 0b100), ("c1", 0)] {
        let given = votes.hear(at(1_300), 3, row(host, 0, &[]));
        assert_eq!(given.probes[2].role, "db/orders", "after the other hosts");
        votes.hear(at(1_400), 3, row(host, given.list, &[missed]));
    }
    votes.look(at(1_500), 3, None, BTreeMap::new());
    let shown = votes.shown(at(1_500)).checks;
    let [check] = &shown[..] else {
        panic!("one check: {shown:?}");
    };
    assert_eq!((&check.role[..], &check.state[..]), ("db/orders", "up"));
    assert_eq!(check.reached, ["c1"]);
    assert_eq!(check.missed, ["b1"]);
    assert!(check.evidence.contains("b: 1 of 1 miss it"), "{check:?}");
}
