//! Names that follow the active colo, when that is cut off with its name server: the other colo's
//! says the new address in time, and the one that is cut off says nothing old, not even when it is
//! started again meanwhile.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::binary_path;
use hickory_proto::rr::RecordType;

use super::following;
use super::world::{ADDRESSES, WEB, World, node};
use crate::beside::{Process, start_command};
use crate::dns::server::{Told, ask_from};
use crate::dns::{INVALID_DATA, NOT_READY};

const ZONE: &str = "\
$ORIGIN example.com.
$TTL 300
@     SOA   ns1 hostmaster 1 3600 600 604800 60
      NS    ns1
ns1   A     192.0.2.3
";
const WWW: &str = "www.example.com.";
const PORT: u16 = 53;
/// The default of `--stale-after`.
const STALE_AFTER: Duration = Duration::from_secs(3);
/// The promised time from a cut to the commit: hosts that are not heard are missed after 4 s at
/// most, and left after the hold-down of 3 s, or twice that while a colo is unsure about anybody.
const PROMISED: Duration = Duration::from_secs(4 + 2 * 3);
/// What a machine adds that runs both colos, and tests, on two cores. From the commit to the answer
/// it is milliseconds.
const LATE: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// A name server on a host, and a client of its colo.
struct NameServer {
    _process: Process,
    log: String,
    at: SocketAddr,
    client: IpAddr,
}

impl NameServer {
    fn start(world: &World, host: &str, member: u8, log: &str) -> Result<Self> {
        let address = IpAddr::from(world.fabric.address(node(host)));
        let at = SocketAddr::new(address, PORT);
        let mut command = world.fabric.command(node(host));
        command.arg(binary_path("cfgdns")?);
        command.args(["--endpoints", &world.endpoints(), "--rate-limit", "0"]);
        command.args(["--listen", &at.to_string()]);
        Ok(Self {
            _process: start_command(&mut command, world.cluster.directory(), log)?,
            log: log.to_owned(),
            at,
            client: world.fabric.address(member).into(),
        })
    }

    fn ask(&self) -> Result<Told> {
        ask_from(self.client, self.at, WWW, RecordType::A)
    }

    fn logged(&self, world: &World) -> Result<String> {
        let path = world.cluster.directory().join(&self.log);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// All that it says, with when it was asked, until `ended`.
    fn asked_until(&self, ended: &AtomicBool) -> Vec<(Instant, Result<Told>)> {
        let mut all = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            all.push((Instant::now(), self.ask()));
            thread::park_timeout(PAUSE);
        }
        all
    }
}

fn says(told: &Result<Told>, address: &str) -> bool {
    told.as_ref().is_ok_and(|told| told.answer == [address])
}

fn is_fenced(told: &Result<Told>, error: u16) -> bool {
    told.as_ref().is_ok_and(|told| told.is_fenced(error))
}

/// A name server of colo a is started where nobody can tell it anything; after the cut it says the
/// address `new`, and nothing else before.
fn begins_again_in_the_dark(world: &mut World, new: &str) -> Result<NameServer> {
    let in_a = NameServer::start(world, "a1", 1, "ns-a-again.log")?;
    let mut told = Vec::new();
    world.until("it to have listened in vain", |world| {
        // Nobody answers before it is there.
        told.extend(in_a.ask().ok());
        let log = in_a.logged(world).ok()?;
        log.contains("not ready: SERVFAIL to all").then_some(())
    })?;
    ensure!(!told.is_empty(), "nobody asked");
    world.heal()?;
    world.until("the name of colo b in a", |_| {
        let now = in_a.ask();
        let back = says(&now, new);
        told.extend(now.ok());
        back.then_some(())
    })?;
    told.retain(|told| !told.is_fenced(NOT_READY) && told.answer != [new]);
    ensure!(told.is_empty(), "{told:?}");
    Ok(in_a)
}

#[test]
fn long_names_leave_a_colo_that_is_cut_off_in_time_and_its_name_server_says_nothing_old()
-> Result<()> {
    let [(_, old), (_, new)] = ADDRESSES;
    let mut world = World::start(following("names_leave_a_colo"))?;
    let file = world.cluster.directory().join("zone");
    fs::write(&file, ZONE)?;
    world.cfgctl(&["zone", "apply", file.to_str().context("a path")?])?;
    world.cfgctl(&["zone", "follow", WWW, "A", WEB])?;
    let in_a = NameServer::start(&world, "a1", 1, "ns-a.log")?;
    let in_b = NameServer::start(&world, "b1", 2, "ns-b.log")?;
    // For so long that what they have was confirmed just now, as it is most of the time.
    let named = world.stays("the name of colo a", STALE_AFTER, |_| {
        let both = [&in_a, &in_b].map(|server| says(&server.ask(), old));
        (both == [true; 2]).then_some(())
    });
    named.with_context(|| {
        [&in_a, &in_b]
            .map(|server| server.logged(&world).unwrap_or_default())
            .concat()
    })?;

    let ended = AtomicBool::new(false);
    let cut = Instant::now();
    let (told_a, told_b) = thread::scope(|scope| -> Result<_> {
        let asking_a = scope.spawn(|| in_a.asked_until(&ended));
        let asking_b = scope.spawn(|| in_b.asked_until(&ended));
        let moved = world.cut_colo("a", true, true).and_then(|()| {
            world.until("the name of colo b", |_| {
                says(&in_b.ask(), new).then_some(())
            })?;
            world.until("the name server of a to be fenced", |_| {
                is_fenced(&in_a.ask(), INVALID_DATA).then_some(())
            })
        });
        ended.store(true, Ordering::Relaxed);
        let told = [asking_a, asking_b].map(|asking| asking.join().expect("it does not panic"));
        let [told_a, told_b] = told;
        moved.map(|()| (told_a, told_b))
    })?;
    let moved = told_b.iter().find(|(_, told)| says(told, new));
    let since_cut = moved.context("it moved")?.0 - cut;
    eprintln!("the name is in b {since_cut:?} after the cut");
    ensure!(since_cut < PROMISED + LATE, "it took {since_cut:?}");
    let wrong = told_b
        .iter()
        .find(|(_, told)| !says(told, old) && !says(told, new));
    ensure!(wrong.is_none(), "b was in contact all the time: {wrong:?}");
    let late = told_a.iter().find(|(asked, told)| {
        let answers = *asked < cut + STALE_AFTER && says(told, old);
        !answers && !is_fenced(told, INVALID_DATA)
    });
    ensure!(late.is_none(), "a has said, after {cut:?}: {late:?}");

    drop(in_a);
    let in_a = begins_again_in_the_dark(&mut world, new)?;
    drop((in_a, in_b));
    world.whole("b")?;
    world.judge()
}
