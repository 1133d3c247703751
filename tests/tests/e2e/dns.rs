//! `cfgdns` with a real group: what clients hear while members die, while the name server is cut off,
//! and when it comes back.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Cluster, eventually, http_get, run};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use rustix::process::Signal;

use crate::beside::{OTHERS, SELF, cfgctl};
use crate::failures::leader;
use crate::web;
use server::{NameServer, PATIENCE, Told, ask};

mod asleep;
mod large;
mod others;
mod quic;
mod reload;
mod resolvers;
mod secondaries;
pub(crate) mod server;
mod signed;
mod silent;
mod tls;

const ZONE: &str = "\
$ORIGIN example.com.
$TTL 300
@     SOA   ns1 hostmaster 1 3600 600 604800 60
      NS    ns1
ns1   A     127.0.0.1
mail  A     192.0.2.7
";
const WWW: &str = "www.example.com.";
/// Extended errors (RFC 8914 5.2): not ready, and invalid data.
pub(crate) const NOT_READY: u16 = 14;
pub(crate) const INVALID_DATA: u16 = 24;
/// For how long a name server may answer by what was confirmed, in tests that wait for its end.
const BOUND: Duration = Duration::from_secs(2);

/// A zone, two colos with an address each, and `www`, which follows the active one: `a` at first.
fn place(cluster: &Cluster, zone: &str) -> Result<()> {
    apply(cluster, zone)?;
    for (colo, address) in [("a", "192.0.2.1"), ("b", "192.0.2.2")] {
        cfgctl(cluster, &["colo", "add", colo, "--address", address])?;
    }
    cfgctl(cluster, &["role", "create", "web", "--kind", "colo"])?;
    cfgctl(cluster, &["role", "grant", "web", "a"])?;
    let follow = ["zone", "follow", "www", "A", "web", "--zone", "example.com"];
    cfgctl(cluster, &follow)?;
    Ok(())
}

fn apply(cluster: &Cluster, zone: &str) -> Result<()> {
    let file = cluster.directory().join("zone");
    fs::write(&file, zone)?;
    let file = file.to_str().context("a path")?;
    cfgctl(cluster, &["zone", "apply", file])?;
    Ok(())
}

fn activate(cluster: &Cluster, colo: &str) -> Result<String> {
    cfgctl(cluster, &["colo", "activate", colo, "--role", "web"])
}

/// Asks a name server without pause, and keeps what was wrong.
fn questions(server: SocketAddr, ended: &AtomicBool) -> (u64, Vec<String>) {
    let mut count = 0;
    let mut wrong = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        count += 1;
        match ask(server, WWW, RecordType::A) {
            Ok(Told { rcode, answer, .. })
                if rcode == ResponseCode::NoError && answer.len() == 1 => {}
            other => wrong.push(format!("{other:?}")),
        }
    }
    (count, wrong)
}

#[test]
fn zone_and_names_that_follow_are_answered_to_tools_of_others() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, ZONE)?;
    let more = ["--listen", "[::1]:0"];
    let server = NameServer::start("ns1", &cluster, &more)?;
    server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    let dig = |words: &[&str]| -> Result<String> {
        let port = server.dns.port().to_string();
        let mut dig = Command::new("dig");
        dig.args(["+noall", "+answer", "+norec", "-p", &port, "@127.0.0.1"]);
        run(dig.args(words))?.success()
    };
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let www = dig(&["www.example.com", "A"])?;
    ensure!(words(&www) == "www.example.com. 5 IN A 192.0.2.1", "{www}");
    let mail = dig(&["+tcp", "MAIL.example.com", "A"])?;
    ensure!(
        words(&mail) == "MAIL.example.com. 300 IN A 192.0.2.7",
        "{mail}"
    );
    let epoch = dig(&["_cfgsvc.www.example.com", "TXT"])?;
    ensure!(
        epoch.contains("\"role=web\" \"holder=a\" \"epoch="),
        "{epoch}"
    );
    let nobody = dig(&["+comments", "none.example.com", "A"])?;
    ensure!(
        nobody.contains("status: NXDOMAIN") && nobody.contains("flags: qr aa"),
        "{nobody}"
    );
    let foreign = dig(&["+comments", "example.org", "A"])?;
    ensure!(foreign.contains("status: REFUSED"), "{foreign}");
    ensure!(foreign.contains("EDE: 20 (Not Authoritative)"), "{foreign}");

    // IPv6 too.
    let log = server.log()?;
    let mut lines = log
        .lines()
        .filter(|line| line.contains("answering over UDP and TCP"));
    let second = lines.nth(1).context("a second address")?;
    let second: SocketAddr = second.rsplit_once("address=").context("it")?.1.parse()?;
    ensure!(second.is_ipv6(), "{second}");
    ensure!(ask(second, WWW, RecordType::A)?.answer == ["192.0.2.1"]);

    activate(&cluster, "b")?;
    server.answers(WWW, RecordType::A, &["192.0.2.2"])?;
    let (status, metrics) = http_get(server.http, "/metrics", PATIENCE)?;
    ensure!(
        status == 200 && metrics.contains("\ncfgdns_fresh 1\n"),
        "{metrics}"
    );
    ensure!(
        metrics.contains("cfgdns_requests_total{transport=\"tcp\"} 1\n"),
        "{metrics}"
    );
    let (status, zones) = http_get(server.http, "/zones", PATIENCE)?;
    ensure!(
        status == 200 && zones.contains("\"zone\":\"example.com.\""),
        "{zones}"
    );
    Ok(())
}

#[test]
fn leaders_that_die_under_load_cost_no_client_an_answer() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    place(&cluster, ZONE)?;
    let server = NameServer::start("ns1", &cluster, &["--rate-limit", "0"])?;
    server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    let ended = AtomicBool::new(false);
    let (count, wrong) = thread::scope(|scope| -> Result<_> {
        let asking = scope.spawn(|| questions(server.dns, &ended));
        let killed = (0..3).try_for_each(|round| {
            let victim = leader(&cluster);
            cluster.kill(victim)?;
            // The group goes on, and what it says reaches the name server.
            let colo = ["b", "a", "b"][round];
            eventually(PATIENCE, "the role to move", || {
                activate(&cluster, colo).is_ok()
            })?;
            let address = ["192.0.2.2", "192.0.2.1", "192.0.2.2"][round];
            server.answers(WWW, RecordType::A, &[address])?;
            cluster.restart(victim)
        });
        ended.store(true, Ordering::Relaxed);
        let asked = asking.join().expect("it does not panic");
        killed.map(|()| asked)
    })?;
    ensure!(
        wrong.is_empty(),
        "{} of {count}: {:?}",
        wrong.len(),
        wrong.first()
    );
    ensure!(count > 1_000, "only {count} questions");
    let log = server.log()?;
    ensure!(!log.contains("fenced"), "{log}");
    Ok(())
}

/// What a name server that hears nothing says: after the bound nothing but that it cannot know.
fn is_fenced_within_the_bound(server: &NameServer, cut: impl FnOnce() -> Result<()>) -> Result<()> {
    cut()?;
    let since = Instant::now();
    let mut late = Vec::new();
    eventually(
        PATIENCE,
        "a name server that hears nothing to be fenced",
        || {
            let asked = since.elapsed();
            let told = server.ask(WWW, RecordType::A);
            let fenced = told.as_ref().is_ok_and(|told| told.is_fenced(INVALID_DATA));
            if asked > BOUND && !fenced {
                late.push((asked, told));
            }
            fenced
        },
    )?;
    ensure!(late.is_empty(), "answers after the bound: {late:?}");
    Ok(())
}

#[test]
fn name_server_that_is_cut_off_says_so_and_comes_back_with_what_is_true_then() -> Result<()> {
    let cluster = Cluster::start(3)?;
    place(&cluster, ZONE)?;
    let bound = format!("{}ms", BOUND.as_millis());
    let server = NameServer::start("ns1", &cluster, &["--stale-after", &bound])?;
    let other = NameServer::start("ns2", &cluster, &[])?;
    for server in [&server, &other] {
        server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    }
    is_fenced_within_the_bound(&server, || {
        server.network.cut(SELF, OTHERS);
        Ok(())
    })?;
    // Whatever is asked, in zones of ours or not; and load balancers are told.
    for (name, rtype) in [
        ("example.com.", RecordType::SOA),
        ("none.example.com.", RecordType::A),
        ("example.org.", RecordType::A),
        ("example.com.", RecordType::AXFR),
    ] {
        let told = server.ask(name, rtype)?;
        ensure!(told.is_fenced(INVALID_DATA), "{name} {rtype}: {told:?}");
    }
    let (status, fresh) = server.fresh()?;
    ensure!(status == 503 && fresh["fresh"] == false, "{fresh}");
    server.logs("fenced: SERVFAIL to all")?;

    // The role moves meanwhile: those in contact follow.
    activate(&cluster, "b")?;
    other.answers(WWW, RecordType::A, &["192.0.2.2"])?;
    ensure!(server.ask(WWW, RecordType::A)?.is_fenced(INVALID_DATA));

    // Back: the new address or nothing, never the old one.
    server.network.heal();
    let mut told = Vec::new();
    eventually(PATIENCE, "it to be back", || {
        let now = server.ask(WWW, RecordType::A);
        let back = now.as_ref().is_ok_and(|now| now.answer == ["192.0.2.2"]);
        told.extend(now.ok());
        back
    })?;
    let wrong: Vec<_> = told
        .iter()
        .filter(|told| !told.is_fenced(INVALID_DATA) && told.answer != ["192.0.2.2"])
        .collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    server.logs("fresh again")?;
    Ok(())
}

#[test]
fn group_without_a_quorum_fences_name_servers_that_still_hear_a_member() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    place(&cluster, ZONE)?;
    let bound = format!("{}ms", BOUND.as_millis());
    let server = NameServer::start("ns1", &cluster, &["--stale-after", &bound])?;
    server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    is_fenced_within_the_bound(&server, || {
        cluster.kill(0)?;
        cluster.kill(1)
    })?;
    cluster.spawn(0)?;
    cluster.wait_ready(0)?;
    server.answers(WWW, RecordType::A, &["192.0.2.1"])
}

#[test]
fn name_server_that_starts_knows_nothing_until_the_group_confirms() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, ZONE)?;
    let mut server = NameServer::start("ns1", &cluster, &["--stale-after", "1s"])?;
    server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    // Its host fails, and comes back without a way to the group.
    server.kill();
    server.network.cut(SELF, OTHERS);
    server.begin()?;
    let told = server.ask(WWW, RecordType::A)?;
    ensure!(told.is_fenced(NOT_READY), "{told:?}");
    let (status, fresh) = server.fresh()?;
    ensure!(status == 503 && fresh["revision"].is_null(), "{fresh}");
    server.logs("not ready: SERVFAIL to all")?;
    server.network.heal();
    server.is_fresh()?;
    ensure!(server.ask(WWW, RecordType::A)?.answer == ["192.0.2.1"]);
    // It ends in order, and reads its files again when it is told to.
    server.signal(Signal::HUP)?;
    server.logs("read the files again")?;
    ensure!(server.ask(WWW, RecordType::A)?.answer == ["192.0.2.1"]);
    let status = server.end()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn colo_that_comes_back_answers_nothing_old_and_sends_its_clients_away() -> Result<()> {
    const SERVICE: &str = "_web._tcp.example.com.";
    let cluster = Cluster::start(3)?;
    let akl = web::Server::start("akl", &cluster)?;
    let wlg = web::Server::start("wlg", &cluster)?;
    web::place_roles(&cluster, &akl, &wlg)?;
    let host_a = web::start_agent(&cluster, "a1", "akl")?;
    let _host_w = web::start_agent(&cluster, "w1", "wlg")?;
    apply(&cluster, ZONE)?;
    let follow = ["zone", "follow", SERVICE, "SRV", "web", "--names", "colos"];
    cfgctl(&cluster, &follow)?;
    activate(&cluster, "akl")?;
    let there = |web: &web::Server, colo: &str| {
        let port = web.address.port();
        format!("0 0 {port} {colo}.colos.example.com.")
    };
    let (in_akl, in_wlg) = (there(&akl, "akl"), there(&wlg, "wlg"));
    let dns_a = NameServer::start("ns-akl", &cluster, &[])?;
    let dns_w = NameServer::start("ns-wlg", &cluster, &[])?;
    akl.answers(200)?;
    for server in [&dns_a, &dns_w] {
        server.answers(SERVICE, RecordType::SRV, &[&in_akl])?;
    }

    // The colo is cut off, with all that is in it.
    akl.network.cut(SELF, OTHERS);
    dns_a.network.cut(SELF, OTHERS);
    drop(host_a);
    eventually(PATIENCE, "wlg to be active", || {
        activate(&cluster, "wlg").is_ok()
    })?;
    dns_w.answers(SERVICE, RecordType::SRV, &[&in_wlg])?;
    wlg.answers(200)?;
    akl.answers(503)?;
    eventually(PATIENCE, "its name server to be fenced", || {
        let told = dns_a.ask(SERVICE, RecordType::SRV);
        told.is_ok_and(|told| told.is_fenced(INVALID_DATA))
    })?;

    // It comes back with its disks intact.
    akl.network.heal();
    dns_a.network.heal();
    let _host_a = web::start_agent(&cluster, "a1", "akl")?;
    let mut told = Vec::new();
    eventually(PATIENCE, "its name server to be back", || {
        let now = dns_a.ask(SERVICE, RecordType::SRV);
        let back = now.as_ref().is_ok_and(|now| now.answer == [&in_wlg[..]]);
        told.extend(now.ok());
        back
    })?;
    told.retain(|told| !told.is_fenced(INVALID_DATA) && told.answer != [&in_wlg[..]]);
    ensure!(told.is_empty(), "{told:?}");
    akl.redirects_to(&wlg)
}
