//! `deploy/examples/web` with a real group and real agents: who serves, who sends clients away, and
//! for how long a server that hears nothing may go on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{
    Cluster, ClusterOptions, Network, eventually, run_binary, unused_address,
};
use serde_json::Value;

use crate::beside::{OTHERS, Process, SELF, cfgctl, start, ways};

const PATIENCE: Duration = Duration::from_mins(1);
/// For how long a server may answer by what was confirmed.
const BOUND: Duration = Duration::from_secs(2);
/// A web server, and its ways to the group.
pub(crate) struct Server {
    _process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) network: Network,
}

/// What a server answers.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Server {
    pub(crate) fn start(colo: &str, cluster: &Cluster) -> Result<Self> {
        let (network, endpoints) = ways(cluster)?;
        let address = unused_address()?;
        let bound = format!("{}ms", BOUND.as_millis());
        let listen = address.to_string();
        let place = ["--colo", colo, "--listen", &listen];
        let group = ["--endpoints", &endpoints, "--stale-after", &bound];
        let log = format!("web-{colo}.log");
        let arguments = [&place[..], &group].concat();
        let process = start("cfgsvc-example-web", cluster.directory(), &log, &arguments)?;
        Ok(Self {
            _process: process,
            address,
            network,
        })
    }

    fn ask(&self, path: &str) -> Result<Answer> {
        let mut connection = TcpStream::connect(self.address)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes())?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("an answer")?;
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        let (head, body) = (head.to_owned(), body.to_owned());
        Ok(Answer { status, head, body })
    }

    fn status(&self) -> Option<u16> {
        self.ask("/").ok().map(|answer| answer.status)
    }

    pub(crate) fn answers(&self, status: u16) -> Result<()> {
        let mut last = None;
        let waited = eventually(PATIENCE, format!("status {status}"), || {
            last = self.ask("/").ok();
            last.as_ref().is_some_and(|answer| answer.status == status)
        });
        waited.with_context(|| format!("{} answers {last:?}", self.address))
    }

    /// The master and the epoch that it serves by.
    fn master(&self) -> Result<(String, i64)> {
        self.answers(200)?;
        let master: Value = serde_json::from_str(&self.ask("/")?.body)?;
        let host = master["host"].as_str().context("a host")?.to_owned();
        Ok((host, master["epoch"].as_i64().context("an epoch")?))
    }

    /// It sends clients to the other one, at the same path.
    pub(crate) fn redirects_to(&self, other: &Server) -> Result<()> {
        self.answers(307)?;
        let answer = self.ask("/orders?page=2")?;
        let expected = format!("location: http://{}/orders?page=2", other.address);
        let head = answer.head.to_ascii_lowercase();
        ensure!(head.lines().any(|line| line == expected), "{answer:?}");
        Ok(())
    }

    /// It hears nothing more: no request that it gets later than the bound is served.
    fn is_fenced_within_the_bound(&self, cut: impl FnOnce() -> Result<()>) -> Result<()> {
        cut()?;
        let since = Instant::now();
        let mut late = Vec::new();
        eventually(PATIENCE, "a server that hears nothing to be fenced", || {
            let asked = since.elapsed();
            let status = self.status();
            if asked > BOUND && status != Some(503) {
                late.push((asked, status));
            }
            status == Some(503)
        })?;
        ensure!(late.is_empty(), "answers after the bound: {late:?}");
        let answer = self.ask("/")?;
        let head = answer.head.to_ascii_lowercase();
        ensure!(head.contains("retry-after: 1"), "{answer:?}");
        ensure!(answer.body.contains("not confirmed"), "{answer:?}");
        Ok(())
    }
}

/// The agent of a host that stands for the database.
pub(crate) fn start_agent(cluster: &Cluster, host: &str, colo: &str) -> Result<Process> {
    let endpoints = cluster.endpoints();
    let state = cluster.directory().join(host);
    let state = state.to_string_lossy();
    let who = ["run", "--host", host, "--colo", colo, "--role", "db/orders"];
    let group = ["--endpoints", &endpoints, "--state-dir", &state];
    let rest = ["--address", "192.0.2.1:3306", "--http", "off"];
    let command = ["--watchdog", "off", "--", "sleep", "1d"];
    let arguments = [&who[..], &group, &rest, &command].concat();
    start(
        "cfgagent",
        cluster.directory(),
        &format!("{host}.log"),
        &arguments,
    )
}

pub(crate) fn place_roles(cluster: &Cluster, akl: &Server, wlg: &Server) -> Result<()> {
    for (colo, server) in [("akl", akl), ("wlg", wlg)] {
        let address = server.address.to_string();
        cfgctl(cluster, &["colo", "add", colo, "--address", &address])?;
    }
    let kind = ["--kind", "colo", "--candidates", "akl,wlg"];
    cfgctl(cluster, &[&["role", "create", "web"][..], &kind].concat())?;
    let follows = ["--follows", "web", "--candidates", "a1,w1"];
    let create = ["role", "create", "db/orders"];
    cfgctl(cluster, &[&create[..], &follows].concat())?;
    Ok(())
}

#[test]
fn web_servers_follow_the_active_colo_and_are_fenced_when_they_hear_nothing() -> Result<()> {
    let mut cluster = Cluster::unstarted(ClusterOptions {
        members: 3,
        ..ClusterOptions::default()
    })?;
    let akl = Server::start("akl", &cluster)?;
    let wlg = Server::start("wlg", &cluster)?;
    akl.answers(503)?;
    let answer = akl.ask("/")?;
    ensure!(answer.body.contains("nothing is known"), "{answer:?}");

    for member in 0..3 {
        cluster.spawn(member)?;
    }
    cluster.wait_all_ready()?;
    place_roles(&cluster, &akl, &wlg)?;
    let _a1 = start_agent(&cluster, "a1", "akl")?;
    let _w1 = start_agent(&cluster, "w1", "wlg")?;
    cfgctl(&cluster, &["colo", "activate", "akl", "--role", "web"])?;
    let (host, first) = akl.master()?;
    ensure!(host == "a1", "{host} is the master");
    wlg.redirects_to(&akl)?;

    eventually(PATIENCE, "wlg to be activated", || {
        // Refused until its host is there.
        cfgctl(&cluster, &["colo", "activate", "wlg", "--role", "web"]).is_ok()
    })?;
    let (host, second) = wlg.master()?;
    ensure!(host == "w1" && second > first, "{host} in epoch {second}");
    akl.redirects_to(&wlg)?;

    wlg.is_fenced_within_the_bound(|| {
        wlg.network.cut(SELF, OTHERS);
        Ok(())
    })?;
    akl.redirects_to(&wlg)?;
    wlg.network.heal();
    wlg.answers(200)?;

    akl.is_fenced_within_the_bound(|| (0..3).try_for_each(|member| cluster.kill(member)))?;
    wlg.answers(503)
}

#[test]
fn a_web_server_that_cannot_start_says_why_and_what_to_do() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let ran = run_binary(
        "cfgsvc-example-web",
        &["--colo", "akl", "--listen", &address],
    )?;
    let expected = format!(
        "error: cannot listen at {address}: Address already in use (os error 98)\n\
         hint: name another address with --listen\n"
    );
    ensure!((ran.code, &ran.stderr) == (Some(1), &expected), "{ran:?}");
    let arguments = ["--colo", "akl", "--endpoints", "nowhere"];
    let ran = run_binary("cfgsvc-example-web", &arguments)?;
    let expected = "hint: --endpoints takes HOST:PORT,...\n";
    ensure!(
        ran.code == Some(1) && ran.stderr.contains("nowhere") && ran.stderr.ends_with(expected),
        "{ran:?}"
    );
    Ok(())
}
