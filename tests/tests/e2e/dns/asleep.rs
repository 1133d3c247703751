//! The machine of a name server sleeps: what it knew before is over when it wakes up, whatever its
//! timers think.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cfgsvc_tests::harness::{Cluster, eventually};
use hickory_proto::rr::RecordType;
use rustix::process::Signal;

use super::server::{NameServer, PATIENCE};
use super::{INVALID_DATA, WWW, ZONE, activate, place};
use crate::beside::{OTHERS, SELF};
use crate::placement::clock::{self, HostClock};
use crate::seeds::lasts;

const STALE_AFTER: Duration = Duration::from_secs(1);

#[test]
fn name_server_of_a_machine_that_slept_answers_nothing_until_the_group_confirms_it_anew()
-> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, ZONE)?;
    let directory = cluster.directory();
    let library = clock::library(directory)?;
    let mut clock = HostClock::new(&library, directory.join("ns1.clock"), 0)?;
    let bound = format!("{}ms", STALE_AFTER.as_millis());
    let more = ["--stale-after", &bound];
    let server = NameServer::start_with(&clock.environment(), "ns1", &cluster, &more)?;
    server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    // Nothing of it runs and its monotonic clocks stand still, while the one since boot goes on.
    let since = Instant::now();
    server.signal(Signal::STOP)?;
    server.network.cut(SELF, OTHERS);
    activate(&cluster, "b")?;
    lasts(STALE_AFTER.saturating_sub(since.elapsed()));
    clock.slept(since.elapsed())?;
    server.signal(Signal::CONT)?;
    for (name, rtype) in [(WWW, RecordType::A), ("example.com.", RecordType::SOA)] {
        let told = server.ask(name, rtype)?;
        ensure!(told.is_fenced(INVALID_DATA), "{name}: {told:?}");
    }
    server.network.heal();
    let mut told = Vec::new();
    eventually(PATIENCE, "it to be back", || {
        let now = server.ask(WWW, RecordType::A);
        let back = now.as_ref().is_ok_and(|now| now.answer == ["192.0.2.2"]);
        told.extend(now.ok());
        back
    })?;
    told.retain(|told| !told.is_fenced(INVALID_DATA) && told.answer != ["192.0.2.2"]);
    ensure!(told.is_empty(), "{told:?}");
    Ok(())
}
