//! Two colos, `a` and `b`, each with a member and two hosts, and a witness, `c`: what every trial
//! of votes begins with.
//!
//! ```text
//!  colo a: n1, a1 (db/orders), a2 (app/front)          colo c: n3
//!  colo b: n2, b1 (db/orders), b2 (app/front)
//! ```
//!
//! Agents reach members, and one another, through the [`Fabric`] alone; members reach one another
//! through the proxies of the group. A cut of a colo is a cut of both. Programs of roles write who
//! runs when to one log for each role, which is judged at the end: never two at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use cfgsvc_tests::harness::{
    Cluster, ClusterOptions, Network, binary_path, eventually_some, run_binary,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::fabric::{FIRST_HOST, Fabric};
use super::health::Health;
use super::starved::Starved;
use crate::placement::judge::{Log, Run, judge};

/// For what must happen, on a machine that does other things too.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
/// Where members answer, agents are probed, and checks are made.
const MEMBER_PORT: u16 = 2379;
const PROBE_PORT: u16 = 7946;
pub(super) const CHECK_PORT: u16 = 8080;
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Lines of a log in an error.
const TAIL: usize = 20;

/// The role that colos hold, and the two of hosts.
pub(super) const WEB: &str = "web";
pub(super) const DB: &str = "db/orders";
pub(super) const APP: &str = "app/front";
/// Each host, its colo, and its role.
pub(super) const HOSTS: [(&str, &str, &str); 4] = [
    ("a1", "a", DB),
    ("a2", "a", APP),
    ("b1", "b", DB),
    ("b2", "b", APP),
];
/// Each colo, and the address at which its clients are served.
pub(super) const ADDRESSES: [(&str, &str); 2] = [("a", "192.0.2.1"), ("b", "192.0.2.2")];
/// The leader of the group, but in trials about it.
const WITNESS: &str = "n3";

struct Host {
    name: &'static str,
    agent: Child,
    log: PathBuf,
}

/// How a group is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    /// For the message of a failure: how to do the same again.
    pub(super) again: &'static str,
    pub(super) seed: u64,
    /// Of the roles of hosts.
    pub(super) term: &'static str,
    pub(super) stop: &'static str,
    /// What else is said of `db/orders`, and of `app/front`.
    pub(super) roles: [&'static [&'static str]; 2],
}

pub(super) struct World {
    pub(super) fabric: Fabric,
    pub(super) cluster: Cluster,
    hosts: Vec<Host>,
    /// What the checks of roles ask, by host.
    pub(super) health: BTreeMap<&'static str, Health>,
    logs: BTreeMap<&'static str, Log>,
    /// From the fabric's addresses to the members.
    _doors: Network,
    /// Members that the person who asks reaches.
    asks: Vec<usize>,
    setup: Setup,
}

impl World {
    /// Everybody is there, sees all others, and serves in colo a; the witness leads.
    pub(super) fn start(setup: Setup) -> Result<Self> {
        let cluster = Cluster::start_with(ClusterOptions {
            members: 3,
            proxied: true,
            ..ClusterOptions::default()
        })?;
        let fabric = Fabric::new(3, 4, setup.seed)?;
        let doors = Network::new(Arc::new(|_| None))?;
        for member in 0..3 {
            let listen = (fabric.address(node_of_member(member)), MEMBER_PORT);
            doors.link(listen.into(), cluster.client_address(member)?, member)?;
        }
        let mut world = Self {
            fabric,
            cluster,
            hosts: Vec::new(),
            health: BTreeMap::new(),
            logs: BTreeMap::new(),
            _doors: doors,
            asks: vec![0, 1, 2],
            setup,
        };
        world.create()?;
        for role in [DB, APP] {
            let path = world.cluster.directory().join(role.replace('/', "+"));
            world.logs.insert(role, Log::create(path)?);
        }
        world.lead_from(WITNESS)?;
        for (name, colo, role) in HOSTS {
            if name == "b1" {
                // Those who come first hold what nobody holds.
                world.until("all to be served in a", |world| world.served_in("a"))?;
            }
            let node = node(name);
            let health = Health::answers(world.fabric.listener(node, CHECK_PORT)?)?;
            world.health.insert(name, health);
            world.start_agent(name, colo, role)?;
        }
        world.whole("a")?;
        Ok(world)
    }

    fn create(&self) -> Result<()> {
        for (colo, address) in ADDRESSES {
            self.cfgctl(&["colo", "add", colo, "--address", address])?;
        }
        let web = ["role", "create", WEB, "--kind", "colo"];
        self.cfgctl(&[&web[..], &["--candidates", "a,b"]].concat())?;
        self.cfgctl(&["colo", "activate", "a", "--role", WEB])?;
        let times = ["--term", self.setup.term, "--stop", self.setup.stop];
        let roles = [(DB, "a1,b1"), (APP, "a2,b2")];
        for ((role, candidates), more) in roles.into_iter().zip(self.setup.roles) {
            let create = ["role", "create", role, "--candidates", candidates];
            self.cfgctl(&[&create[..], &times, more].concat())?;
        }
        Ok(())
    }

    fn start_agent(&mut self, name: &'static str, colo: &str, role: &'static str) -> Result<()> {
        let node = node(name);
        let address = self.fabric.address(node);
        let dir = self.cluster.directory().join(name);
        let path = dir.with_extension("log");
        let log = File::options().create(true).append(true).open(&path)?;
        let holder = self.logs[role].path().to_owned();
        let agent = self
            .fabric
            .command(node)
            .arg(binary_path("cfgagent")?)
            .args(["run", "--host", name, "--colo", colo, "--role", role])
            .args(["--endpoints", &self.endpoints()])
            .args(["--address", &format!("{address}:{CHECK_PORT}")])
            .args(["--probe", &format!("{address}:{PROBE_PORT}")])
            .args(["--http", "off", "--watchdog", "off", "--state-dir"])
            .arg(dir)
            .arg("--")
            .arg(binary_path("trial-holder")?)
            .arg(holder)
            // Nobody listens to what it writes to a resource.
            .arg("127.0.0.1:9")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start cfgagent")?;
        let log = path;
        self.hosts.push(Host { name, agent, log });
        Ok(())
    }

    /// The members, as hosts reach them.
    pub(super) fn endpoints(&self) -> String {
        let members = (0..3).map(|member| self.fabric.address(node_of_member(member)));
        let members: Vec<_> = members.map(|at| format!("{at}:{MEMBER_PORT}")).collect();
        members.join(",")
    }

    /// Runs `cfgctl`, as a person does who reaches these members.
    pub(super) fn cfgctl(&self, arguments: &[&str]) -> Result<String> {
        let members = self.asks.iter().map(|at| self.cluster.client_address(*at));
        let members: Result<Vec<_>> = members.map(|at| Ok(at?.to_string())).collect();
        let endpoints = members?.join(",");
        let all = [&["--endpoints", &endpoints], arguments].concat();
        run_binary("cfgctl", &all)?.success()
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.cfgctl(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| text)
    }

    pub(super) fn status(&self) -> Result<Value> {
        self.json(&["status"])
    }

    /// What is so of a role: `grant`, `attending`.
    pub(super) fn role(&self, role: &str) -> Result<Value> {
        self.json(&["role", "show", role])
    }

    /// All that happened to who holds a role, in order.
    pub(super) fn history(&self, role: &str) -> Result<Vec<Value>> {
        let key = format!("/cfgsvc/grants/{role}");
        let history = self.json(&["history", &key, "--limit", "1000"])?;
        let entries = history["entries"].as_array();
        Ok(entries.context("the entries of a history")?.clone())
    }

    fn leader(&self) -> Result<String> {
        let status = self.status()?;
        let members = status["members"].as_array().context("members")?;
        let leader = members.iter().find(|one| one["role"] == "leader");
        let name = leader.and_then(|one| one["name"].as_str());
        Ok(name.context("a leader")?.to_owned())
    }

    /// Waits for what `look` finds; what a person needs is in the error.
    pub(super) fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        self.explained(eventually_some(PATIENCE, what, || {
            let found = look(self);
            if found.is_none() {
                // Each look starts programs, which the hosts feel.
                park_timeout(LOOK);
            }
            found
        }))
    }

    /// Waits until it has been so, at every look, for this long.
    pub(super) fn stays(
        &self,
        what: &str,
        least: Duration,
        look: impl Fn(&Self) -> Option<()>,
    ) -> Result<()> {
        let mut since: Option<Instant> = None;
        self.until(&format!("{what}, for {least:?}"), |world| {
            let from = Instant::now();
            since = look(world).map(|()| since.unwrap_or(from));
            since.filter(|since| since.elapsed() >= least).map(drop)
        })
    }

    /// What was waited for, or how everything is.
    pub(super) fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let said = |arguments: &[&str]| match self.cfgctl(arguments) {
                Ok(text) => format!("$ cfgctl {}\n{text}\n", arguments.join(" ")),
                Err(error) => format!("$ cfgctl {}\n{error:#}\n", arguments.join(" ")),
            };
            let mut text = said(&["status"]);
            for role in [WEB, DB, APP] {
                text += &said(&["role", "show", role]);
                text += &said(&["history", &format!("/cfgsvc/grants/{role}")]);
            }
            for host in &self.hosts {
                let log = fs::read_to_string(&host.log).unwrap_or_default();
                let _ = writeln!(text, "--- {}\n{}", host.name, tail(&log));
            }
            let leader = self.leader().unwrap_or_else(|_| WITNESS.to_owned());
            let at = usize::from(leader.as_bytes()[leader.len() - 1] - b'1');
            let log = self.cluster.logs(at).unwrap_or_default();
            let _ = writeln!(text, "--- {leader}\n{}", tail(&log));
            let again = self.setup.again;
            error.context(format!("{text}again: tests/run {again}"))
        })
    }

    /// Waits until everybody is up, sees all others, and all is served in this colo.
    pub(super) fn whole(&self, colo: &str) -> Result<()> {
        self.until(
            &format!("everybody there, and all served in {colo}"),
            |world| {
                world.served_in(colo)?;
                world.all_see_all()
            },
        )
    }

    /// Every host reaches every other, by the leader's matrix.
    pub(super) fn all_see_all(&self) -> Option<()> {
        let status = self.status().ok()?;
        let hosts = status["hosts"].as_array()?;
        let sees = |host: &Value| {
            let reached = host["reached"].as_array().map_or(0, Vec::len);
            host["state"] == "up" && host["left_out"].is_null() && reached == HOSTS.len() - 1
        };
        (hosts.len() == HOSTS.len() && hosts.iter().all(sees)).then_some(())
    }

    /// All roles are held, and served, in this colo.
    pub(super) fn served_in(&self, colo: &str) -> Option<()> {
        let web = self.role(WEB).ok()?;
        let here = web["grant"]["holder"] == colo;
        (here && self.serves(DB)? == format!("{colo}1") && self.serves(APP)? == format!("{colo}2"))
            .then_some(())
    }

    /// The host that serves a role.
    pub(super) fn serves(&self, role: &str) -> Option<String> {
        let role = self.role(role).ok()?;
        let grant = &role["grant"];
        let serves = grant["serving"].as_i64()? > 0 && grant["next"].is_null();
        grant["holder"]
            .as_str()
            .filter(|_| serves)
            .map(str::to_owned)
    }

    /// What the leader's matrix has in the row of a host, and about it.
    pub(super) fn host(&self, name: &str) -> Option<Value> {
        let status = self.status().ok()?;
        let hosts = status["hosts"].as_array()?;
        hosts.iter().find(|host| host["name"] == name).cloned()
    }

    /// A host that from now on runs in short turns, until what this gives back is dropped.
    pub(super) fn starve(&self, name: &str) -> Result<Starved> {
        let host = self.hosts.iter().find(|host| host.name == name);
        Starved::new(&host.context("a host")?.agent)
    }

    /// The epoch at which a role is.
    pub(super) fn epoch(&self, role: &str) -> Result<i64> {
        let shown = self.role(role)?;
        shown["grant"]["epoch"].as_i64().context("an epoch")
    }

    /// What keeps a role from moving, or would move it, by `cfgctl status`.
    pub(super) fn why(&self, role: &str) -> Option<String> {
        let status = self.status().ok()?;
        let roles = status["roles"].as_array()?.iter();
        let one = roles.into_iter().find(|one| one["role"] == role)?;
        one["why"].as_str().map(str::to_owned)
    }

    /// For how long a colo has been as it is, and how that is.
    pub(super) fn colo(&self, colo: &str) -> Option<(String, u64)> {
        let status = self.status().ok()?;
        let one = status["colos"]
            .as_array()?
            .iter()
            .find(|one| one["name"] == colo)?;
        Some((one["state"].as_str()?.to_owned(), one["for_ms"].as_u64()?))
    }

    /// For whom a role's check succeeds, and for whom it fails.
    pub(super) fn check(&self, role: &str) -> Option<(Vec<String>, Vec<String>)> {
        let status = self.status().ok()?;
        let checks = status["checks"].as_array()?;
        let one = checks.iter().find(|one| one["role"] == role)?;
        let names = |what: &str| -> Option<Vec<String>> {
            let names = one[what].as_array()?.iter();
            Some(
                names
                    .filter_map(|name| Some(name.as_str()?.to_owned()))
                    .collect(),
            )
        };
        Some((names("reached")?, names("missed")?))
    }

    /// Ends all cuts, and waits until all is as it was at first.
    pub(super) fn whole_again(&mut self) -> Result<()> {
        self.heal()?;
        self.whole("a")
    }

    /// Waits until a colo has been up, or down, for so long.
    pub(super) fn colo_has_been(&self, colo: &str, state: &str, least: Duration) -> Result<()> {
        let what = format!("colo {colo} to be {state} for {least:?}");
        self.until(&what, |world| {
            let (now, for_ms) = world.colo(colo)?;
            (now == state && Duration::from_millis(for_ms) >= least).then_some(())
        })
    }

    /// Cuts a colo off: its hosts, and its member. What it sends does not arrive, and what is sent
    /// to it, as said. The person who asks is elsewhere.
    pub(super) fn cut_colo(&mut self, colo: &str, sends: bool, hears: bool) -> Result<()> {
        let (inside, outside): (Vec<u8>, Vec<u8>) = nodes().partition(|at| colo_of(*at) == colo);
        for (own, other) in pairs(&inside, &outside) {
            if sends {
                self.fabric.cut_one_way(own, other);
            }
            if hears {
                self.fabric.cut_one_way(other, own);
            }
        }
        let member = usize::from(colo.as_bytes()[0] - b'a');
        let network = self.cluster.network()?;
        for other in (0..3).filter(|other| *other != member) {
            if sends {
                network.cut_one_way(member, other);
            }
            if hears {
                network.cut_one_way(other, member);
            }
        }
        self.asks.retain(|at| *at != member);
        Ok(())
    }

    /// Ends all cuts.
    pub(super) fn heal(&mut self) -> Result<()> {
        self.fabric.heal();
        self.cluster.network()?.heal();
        self.ask_all();
        Ok(())
    }

    /// The person who asks has all members in the list, the first one first.
    pub(super) fn ask_all(&mut self) {
        self.asks = vec![0, 1, 2];
    }

    /// Has this member lead.
    pub(super) fn lead_from(&self, member: &str) -> Result<()> {
        self.until(&format!("{member} to lead"), |world| {
            let leads = world.leader().ok()? == member;
            if !leads {
                let _ = world.cfgctl(&["leader", "move", member]);
            }
            leads.then_some(())
        })
    }

    /// Who ran a role's program when; it is an error if two ever did at once.
    pub(super) fn runs(&mut self, role: &'static str) -> Result<Vec<Run>> {
        let log = self.logs.get_mut(role).context("a role with a log")?;
        let runs = log.runs()?;
        let judged = judge(&runs).map_err(|problem| anyhow!("role {role}: {problem}"));
        self.explained(judged.map(|_| runs))
    }

    /// The same of all roles: nothing of any ran beside another of it.
    pub(super) fn judge(&mut self) -> Result<()> {
        for role in [DB, APP] {
            let runs = self.runs(role)?;
            ensure!(!runs.is_empty(), "role {role} was never served");
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            // Its guard ends what it runs.
            if let Some(pid) = i32::try_from(host.agent.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = host.agent.wait();
        }
    }
}

fn node_of_member(member: usize) -> u8 {
    u8::try_from(member).map_or(0, |member| member + 1)
}

/// The number of a host in the fabric.
pub(super) fn node(host: &str) -> u8 {
    let at = HOSTS
        .iter()
        .zip(FIRST_HOST..)
        .find(|(one, _)| one.0 == host);
    at.map_or(0, |(_, node)| node)
}

/// All members and hosts.
pub(super) fn nodes() -> impl Iterator<Item = u8> {
    (1..=3).chain((FIRST_HOST..).take(HOSTS.len()))
}

fn colo_of(node: u8) -> &'static str {
    match node {
        1..=3 => ["a", "b", "c"][usize::from(node - 1)],
        _ => HOSTS[usize::from(node - FIRST_HOST)].1,
    }
}

/// Each of the one with each of the other.
pub(super) fn pairs(one: &[u8], other: &[u8]) -> Vec<(u8, u8)> {
    let all = one.iter().flat_map(|a| other.iter().map(|b| (*a, *b)));
    all.collect()
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
