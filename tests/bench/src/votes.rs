//! What it takes to find out who is down: the traffic of probes and rows, and the leader's work for
//! a look. Played in this process, by the code that the leader and the agents run; the bytes are
//! those of the messages, without what UDP, TCP and HTTP/2 add.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cfgsvc_agent::probe;
use cfgsvc_core::placement::objects::Kind;
use cfgsvc_core::placement::{Name, RoleName};
use cfgsvc_core::votes::cut::Marks;
use cfgsvc_core::votes::observers::subjects;
use cfgsvc_core::votes::{Memory, Placed, Row, Scene, Settings, Sight, State, cut, decide};
use cfgsvc_proto::v1;
use prost::Message as _;
use serde::Serialize;

const COLOS: [&str; 3] = ["akl", "wlg", "chc"];
/// Rows and probes of a host in a second, as agents send them.
const ROWS: f64 = 1.0;
const PROBES: f64 = 2.0;
/// Looks of the leader in a second.
const LOOKS: f64 = 4.0;
/// Looks that are measured.
const ROUNDS: u32 = 20;

/// What so many hosts cost.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub hosts: usize,
    /// Whom one host probes: the mean, and the most.
    pub probed: f64,
    pub probed_most: usize,
    /// Bytes a second of one host, which probes, and answers others.
    pub probe_bytes: f64,
    /// Bytes a second that the leader hears in rows of all hosts.
    pub row_bytes: f64,
    /// Bytes of the list that a host is given when it changes.
    pub list_bytes: usize,
    /// Milliseconds for a look, and for whom to probe when a host comes or goes.
    pub look_ms: f64,
    pub lists_ms: f64,
    /// Of one core, for looks.
    pub core_share: f64,
}

fn name(text: String) -> Result<Name> {
    text.parse().context("a name of letters and digits")
}

/// Everybody has sent a row; those in the first colo are not reached from elsewhere.
fn scene(hosts: &BTreeMap<Name, Name>, subjects: &BTreeMap<Name, Vec<Name>>) -> Scene {
    let row = |(host, colo): (&Name, &Name)| {
        let of = subjects.get(host).into_iter().flatten();
        let sights = of.map(|subject| {
            let far = hosts.get(subject) != Some(colo);
            let cut_off = |colo: Option<&Name>| colo.is_some_and(|colo| colo.as_str() == COLOS[0]);
            let missed = far && (cut_off(Some(colo)) || cut_off(hosts.get(subject)));
            let sight = if missed {
                Sight::Missed
            } else {
                Sight::Reached
            };
            (subject.clone(), sight)
        });
        let row = Row {
            colo: colo.clone(),
            heard_ms: 10_000,
            late_ms: 0,
            probed: true,
            hosts: sights.collect(),
            checks: BTreeMap::new(),
        };
        (host.clone(), row)
    };
    Scene {
        now_ms: 10_000,
        hosts: hosts.clone(),
        attending: hosts.keys().cloned().collect(),
        rows: hosts.iter().map(row).collect(),
        members: hosts.values().map(|colo| (colo.clone(), true)).collect(),
        checks: BTreeMap::new(),
        led_since_ms: 0,
    }
}

fn millis(from: Instant) -> f64 {
    from.elapsed().as_secs_f64() * 1e3
}

/// Bytes of a probe, of a row with so many probes, and of a list of as many.
fn sizes(host: &Name, probes: usize) -> (usize, usize, usize) {
    let address = "10.1.0.11:2384".to_owned();
    let bits = Bytes::from(vec![0xff; probes.div_ceil(8)]);
    let row = v1::Row {
        host: host.to_string(),
        colo: COLOS[0].to_owned(),
        probe: address.clone(),
        late_ms: 1,
        list: u64::MAX,
        missed: bits.clone(),
        probed: bits,
    };
    let entry = v1::Probe {
        host: host.to_string(),
        address,
        ..v1::Probe::default()
    };
    let list = v1::Probes {
        list: u64::MAX,
        probes: vec![entry; probes],
    };
    let question = probe::ask(host.as_str(), u64::MAX).len();
    (question, row.encoded_len(), list.encoded_len())
}

/// Milliseconds for one look, at which a colo is found down.
fn look(scene: &Scene) -> Result<f64> {
    let first = name(COLOS[0].to_owned())?;
    let role: RoleName = "web".parse().context("a role")?;
    let roles = [Placed {
        role,
        kind: Kind::Colo,
        automatic: true,
        holder: Some(first.clone()),
        epoch: 1,
        colo: None,
        serving: 0,
        closing: false,
        begun: true,
        follows: None,
        candidates: Vec::new(),
    }];
    let mut memory = Memory::default();
    let from = Instant::now();
    for at in 0..ROUNDS {
        let cut = cut(scene, Marks::default());
        ensure!(cut.colo(&first) == State::Down, "it is cut off");
        let now = scene.now_ms + u64::from(at) * 250;
        memory.look(&cut, &roles, now);
        let outcome = decide(&memory, &cut, &roles, (&Settings::default(), now));
        let moves = outcome.moves.len() + outcome.waits.len();
        ensure!(moves == 1, "it is to move");
    }
    Ok(millis(from) / f64::from(ROUNDS))
}

/// Measures it for so many hosts.
pub(crate) fn run(count: usize) -> Result<Figures> {
    let mut hosts = BTreeMap::new();
    for number in 0..count {
        let colo = COLOS[number % COLOS.len()];
        hosts.insert(name(format!("{colo}{number:05}"))?, name(colo.to_owned())?);
    }
    let from = Instant::now();
    let subjects = subjects(&hosts);
    let lists_ms = millis(from);
    let lists = hosts
        .keys()
        .map(|host| subjects.get(host).map_or(0, Vec::len));
    let probed: Vec<usize> = lists.collect();
    let mean = probed.iter().sum::<usize>() as f64 / count as f64;
    let most = probed.iter().copied().max().unwrap_or(0);
    let one = hosts.keys().next().context("one host at least")?;
    let (question, row, list) = sizes(one, most);
    let look_ms = look(&scene(&hosts, &subjects))?;
    Ok(Figures {
        hosts: count,
        probed: mean,
        probed_most: most,
        // Each probe is answered by as many bytes; a host probes, and is probed.
        probe_bytes: mean * PROBES * question as f64 * 4.0,
        row_bytes: row as f64 * ROWS * count as f64,
        list_bytes: list,
        look_ms,
        lists_ms,
        core_share: look_ms / 1e3 * LOOKS,
    })
}

/// For people.
pub(crate) fn lines(all: &[Figures]) -> Vec<String> {
    let head = format!(
        "{:>7} {:>12} {:>14} {:>12} {:>11} {:>10} {:>10} {:>8}",
        "hosts",
        "probes/host",
        "probe B/s/host",
        "rows B/s",
        "list B",
        "lists ms",
        "look ms",
        "core"
    );
    let line = |one: &Figures| {
        format!(
            "{:>7} {:>8.1} ({:>2}) {:>14.0} {:>12.0} {:>11} {:>10.2} {:>10.3} {:>7.1}%",
            one.hosts,
            one.probed,
            one.probed_most,
            one.probe_bytes,
            one.row_bytes,
            one.list_bytes,
            one.lists_ms,
            one.look_ms,
            one.core_share * 100.0
        )
    };
    std::iter::once(head).chain(all.iter().map(line)).collect()
}
