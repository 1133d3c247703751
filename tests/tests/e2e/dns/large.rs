//! Sizes: many names in a zone, through a group of three and a name server; and an apply that is
//! killed in the middle of many transactions.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cfgsvc_client::{Client, Get};
use cfgsvc_tests::harness::{Cluster, eventually, eventually_some};
use hickory_proto::rr::RecordType;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::ZONE;
use super::server::{NameServer, PATIENCE};
use crate::beside::{cfgctl, start};
use crate::writers::client;

const NAMES: usize = 100_000;
/// Keys of an apply under way after which it is killed: far from its end.
const MIDDLE: usize = 5_000;
/// For 100,000 writes by a debug build on a machine that does much else.
const LARGE: Duration = Duration::from_mins(5);
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
