//! Sizes: many names in a zone, and many zones, through a group of three and a name server; and an
//! apply that is killed in the middle of many transactions.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cfgsvc_client::{Client, Get, Op, Put, Txn};
use cfgsvc_tests::harness::{Cluster, eventually, eventually_some, run};
use hickory_proto::rr::RecordType;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::server::{NameServer, PATIENCE};
use super::{ZONE, apply};
use crate::beside::{cfgctl, start};
use crate::writers::client;

const NAMES: usize = 100_000;
const ZONES: usize = 10_000;
/// Keys of an apply under way after which it is killed: far from its end.
const MIDDLE: usize = 5_000;
/// Zones that are written at once.
const TASKS: usize = 16;
/// For 100,000 writes by a debug build on a machine that does much else.
const LARGE: Duration = Duration::from_mins(5);
const CATALOG: &str = "catalog.invalid";
const NODES: &str = "/cfgsvc/names/";

/// A zone of so many names below its own, and its own name server's.
fn zone(network: &str) -> String {
    let mut text = ZONE
        .lines()
        .take(5)
        .fold(String::new(), |text, line| text + line + "\n");
    for number in 0..NAMES - 2 {
        let (high, low) = (number / 250 % 250, number % 250);
        writeln!(text, "host{number} A {network}.{high}.{low}").expect("a string takes all");
    }
    text
}

fn host(number: usize) -> String {
    format!("host{number}.example.com.")
}

/// The address of a host there.
fn address(network: &str, number: usize) -> String {
    format!("{network}.{}.{}", number / 250 % 250, number % 250)
}

/// Has as much time as the whole test.
fn apply_large(cluster: &Cluster, file: &str) -> Result<()> {
    let endpoints = cluster.endpoints();
    let words = ["--endpoints", &endpoints, "zone", "apply", file];
    let mut apply = start("cfgctl", cluster.directory(), "apply.log", &words)?;
    let status = eventually_some(LARGE, "a large zone to be applied", || {
        apply.0.try_wait().transpose()
    })??;
    ensure!(
        status.success(),
        "{}",
        fs::read_to_string(cluster.directory().join("apply.log"))?
    );
    Ok(())
}

async fn nodes(client: &Client) -> Result<usize> {
    let found = client.get(Get::prefix(NODES).count_only()).await?;
    Ok(usize::try_from(found.count)?)
}

#[test]
fn long_hundred_thousand_names_are_served_and_a_killed_apply_changes_none() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let runtime = Runtime::new()?;
    let _inside = runtime.enter();
    let client = client(&cluster)?;
    let server = NameServer::start("ns1", &cluster, &["--rate-limit", "0"])?;
    let last = NAMES - 3;
    let began = Instant::now();
    let file = cluster.directory().join("one.zone");
    fs::write(&file, zone("10.1"))?;
    apply_large(&cluster, file.to_str().context("a path")?)?;
    let applied = began.elapsed();
    server.answers(&host(last), RecordType::A, &[&address("10.1", last)])?;
    eprintln!(
        "{NAMES} names: applied in {applied:?}, served after {:?}",
        began.elapsed()
    );
    ensure!(runtime.block_on(nodes(&client))? == NAMES, "all names");
    let listed = cfgctl(&cluster, &["-o", "json", "zone", "list"])?;
    let listed: Value = serde_json::from_str(&listed)?;
    ensure!(listed["zones"][0]["zone"] == "example.com", "{listed}");
    let soa = server.ask("example.com.", RecordType::SOA)?;

    // All names change, and whoever changes them is killed in the middle.
    let file = cluster.directory().join("other.zone");
    fs::write(&file, zone("10.2"))?;
    let endpoints = cluster.endpoints();
    let path = file.to_str().context("a path")?;
    let words = ["--endpoints", &endpoints, "zone", "apply", path];
    let dies = start("cfgctl", cluster.directory(), "killed.log", &words)?;
    eventually(PATIENCE, "an apply to be in the middle", || {
        runtime
            .block_on(nodes(&client))
            .is_ok_and(|count| count > NAMES + MIDDLE)
    })?;
    drop(dies);
    let left = runtime.block_on(nodes(&client))?;
    ensure!(left < 2 * NAMES, "it was not in the middle: {left} keys");
    server.is_fresh()?;
    ensure!(
        server.ask("example.com.", RecordType::SOA)? == soa,
        "the zone has changed"
    );
    for number in [0, last / 2, last] {
        let told = server.ask(&host(number), RecordType::A)?;
        ensure!(
            told.answer == [address("10.1", number)],
            "{number}: {told:?}"
        );
    }

    // The next one does what that could not, and removes what it has left.
    let began = Instant::now();
    apply_large(&cluster, path)?;
    eprintln!("all changed in {:?}", began.elapsed());
    for number in [0, last / 2, last] {
        server.answers(&host(number), RecordType::A, &[&address("10.2", number)])?;
    }
    let count = runtime.block_on(nodes(&client))?;
    ensure!(count == NAMES, "{count} keys after {left}");
    Ok(())
}

/// Writes zones as `cfgctl zone apply` writes small ones: processes of it for all of them would be
/// most of what the test does.
async fn write_zones(client: Client, numbers: impl Iterator<Item = usize>) -> Result<()> {
    let apex = r#"{"sets":{"NS":{"ttl":60,"data":["ns"]},
        "SOA":{"ttl":60,"data":["ns hostmaster 1 3600 600 604800 60"]}}}"#;
    for number in numbers {
        let key = |rest: &str| format!("{NODES}zone{number}.example/1/{rest}");
        let [_, high, low] = [number >> 16, number >> 8 & 255, number & 255];
        let ns = format!(r#"{{"sets":{{"A":{{"ttl":60,"data":["10.9.{high}.{low}"]}}}}}}"#);
        let settings = format!("/cfgsvc/zones/zone{number}.example");
        let txn = Txn::new()
            .then(Op::Put(Put::new(key("@"), apex)))
            .then(Op::Put(Put::new(key("ns"), ns)))
            .then(Op::Put(Put::new(settings, r#"{"generation":1}"#)));
        client.txn(txn).await.with_context(|| number.to_string())?;
    }
    Ok(())
}

#[test]
fn long_ten_thousand_zones_are_served_and_listed_here_and_in_the_catalog() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let runtime = Runtime::new()?;
    let _inside = runtime.enter();
    let client = client(&cluster)?;
    let more = [
        "--catalog",
        CATALOG,
        "--transfer",
        "127.0.0.0/8",
        "--rate-limit",
        "0",
    ];
    let server = NameServer::start("ns1", &cluster, &more)?;
    let began = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|first| runtime.spawn(write_zones(client.clone(), (first..ZONES).step_by(TASKS))))
        .collect();
    for task in tasks {
        runtime.block_on(task)??;
    }
    let written = began.elapsed();
    // One more, by hand.
    apply(&cluster, ZONE)?;
    server.answers("mail.example.com.", RecordType::A, &["192.0.2.7"])?;
    eprintln!(
        "{ZONES} zones: written in {written:?}, served after {:?}",
        began.elapsed()
    );
    for number in [0, ZONES / 2, ZONES - 1] {
        let (name, address) = (
            format!("ns.zone{number}.example."),
            format!("10.9.{}.{}", number >> 8 & 255, number & 255),
        );
        server.answers(&name, RecordType::A, &[&address])?;
    }
    let listed = cfgctl(&cluster, &["-o", "json", "zone", "list"])?;
    let listed: Value = serde_json::from_str(&listed)?;
    let count = listed["zones"].as_array().map_or(0, Vec::len);
    ensure!(count == ZONES + 1, "{count} zones are listed");

    let port = server.dns.port().to_string();
    let mut dig = Command::new("dig");
    dig.args([
        "@127.0.0.1",
        "-p",
        &port,
        CATALOG,
        "AXFR",
        "+noall",
        "+answer",
        "+onesoa",
    ]);
    let catalog = run(&mut dig)?.success()?;
    // Owner, TTL, class, type, data.
    let words = catalog.lines().map(|line| line.split_whitespace());
    let members = words.filter_map(|mut words| (words.nth(3)? == "PTR").then(|| words.next())?);
    let members: BTreeSet<&str> = members.collect();
    ensure!(
        members.len() == ZONES + 1,
        "the catalog has {} zones: {}",
        members.len(),
        &catalog[..catalog.len().min(500)]
    );
    for zone in ["example.com.", "zone0.example.", "zone9999.example."] {
        ensure!(members.contains(zone), "{zone} is not in the catalog");
    }
    Ok(())
}
