//! Debian's Unbound, BIND and `PowerDNS` Recursor as the resolvers of clients, before two name
//! servers of which one or both are fenced.
//!
//! What clients wait for and when they are answered again is printed, not asserted: it is the
//! resolvers' doing. `TRIAL_SECONDS` says for how long name servers are fenced.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Cluster, eventually};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::others::{Other, Place};
use super::server::{NameServer, PATIENCE, Told};
use super::{BOUND, INVALID_DATA, WWW, apply};
use crate::beside::{OTHERS, SELF};
use crate::seeds::{lasts, setting};

/// For how long name servers are fenced in the gate.
const SECONDS: u64 = 4;
/// A name that everybody asks for, and names that nobody has asked for; both are kept for a second.
const ZONE: &str = "\
$ORIGIN example.com.
$TTL 1
@        SOA  ns1 hostmaster 1 3600 600 604800 1
         NS   ns1
         NS   ns2
ns1      A    127.0.0.1
ns2      A    127.0.0.1
www      A    192.0.2.1
*.new    A    192.0.2.9
";

/// Two name servers of a group, and three resolvers that ask both.
struct World {
    _cluster: Cluster,
    servers: [NameServer; 2],
    resolvers: [Other; 3],
}

impl World {
    fn start(bounds: [Duration; 2]) -> Result<Self> {
        let cluster = Cluster::start(1)?;
        apply(&cluster, ZONE)?;
        let server = |name: &str, bound: Duration| {
            let bound = format!("{}ms", bound.as_millis());
            let more = ["--rate-limit", "0", "--stale-after", &bound];
            NameServer::start(name, &cluster, &more)
        };
        let servers = [server("ns1", bounds[0])?, server("ns2", bounds[1])?];
        for server in &servers {
            server.is_fresh()?;
        }
        let place = |name: &str| Place::new(cluster.directory(), name);
        let resolvers = [
            unbound(&place("unbound")?, &servers)?,
            named(&place("named")?, &servers)?,
            recursor(&place("recursor")?, &servers)?,
        ];
        for resolver in &resolvers {
            eventually(PATIENCE, format!("{} to resolve", resolver.program), || {
                resolver.resolve(WWW).is_ok_and(|told| is_answer(&told))
            })
            .with_context(|| resolver.log().unwrap_or_default())?;
        }
        Ok(Self {
            _cluster: cluster,
            servers,
            resolvers,
        })
    }
}

fn unbound(place: &Place, servers: &[NameServer; 2]) -> Result<Other> {
    let Place { address, directory } = place;
    let configuration = format!(
        r#"server:
  interface: {}@{}
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{}"
  pidfile: ""
  use-syslog: no
  module-config: "iterator"
  do-not-query-localhost: no
  outgoing-interface: 127.0.0.1
stub-zone:
  name: example.com
  stub-addr: 127.0.0.1@{}
  stub-addr: 127.0.0.1@{}
remote-control:
  control-enable: no
"#,
        address.ip(),
        address.port(),
        directory.display(),
        servers[0].dns.port(),
        servers[1].dns.port(),
    );
    let file = "unbound.conf";
    Other::start("unbound", place, file, &configuration, &["-d", "-c", file])
}

fn named(place: &Place, servers: &[NameServer; 2]) -> Result<Other> {
    let Place { address, directory } = place;
    let configuration = format!(
        r#"controls {{ }};
options {{
  directory "{}";
  listen-on port {} {{ {}; }};
  listen-on-v6 {{ none; }};
  query-source address 127.0.0.1;
  pid-file none;
  session-keyfile none;
  dnssec-validation no;
  forward only;
  forwarders {{ 127.0.0.1 port {}; 127.0.0.1 port {}; }};
}};
"#,
        directory.display(),
        address.port(),
        address.ip(),
        servers[0].dns.port(),
        servers[1].dns.port(),
    );
    let file = "named.conf";
    Other::start(
        "named",
        place,
        file,
        &configuration,
        &["-4", "-g", "-c", file],
    )
}

/// By default it keeps a SERVFAIL for a minute.
fn recursor(place: &Place, servers: &[NameServer; 2]) -> Result<Other> {
    let Place { address, directory } = place;
    let configuration = format!(
        "local-address={}\nlocal-port={}\nsocket-dir={}\ndaemon=no\nsecurity-poll-suffix=\n\
         hint-file=no\npacketcache-servfail-ttl=1\nquery-local-address=127.0.0.1\ndnssec=off\n\
         forward-zones=example.com=127.0.0.1:{};127.0.0.1:{}\n",
        address.ip(),
        address.port(),
        directory.display(),
        servers[0].dns.port(),
        servers[1].dns.port(),
    );
    let arguments = ["--config-dir=."];
    Other::start(
        "pdns_recursor",
        place,
        "recursor.conf",
        &configuration,
        &arguments,
    )
}

fn is_answer(told: &Told) -> bool {
    told.rcode == ResponseCode::NoError && told.answer.len() == 1
}

/// A name that nobody has asked for.
fn new_name(resolver: &Other, number: usize) -> String {
    format!(
        "{}-{number}.new.example.com.",
        resolver.program.replace('_', "-")
    )
}

/// Cuts name servers off, and waits until they say that they cannot know.
fn fence(servers: &[NameServer]) -> Result<()> {
    for server in servers {
        server.network.cut(SELF, OTHERS);
    }
    for server in servers {
        eventually(PATIENCE, "a name server to be fenced", || {
            let told = server.ask(WWW, RecordType::A);
            told.is_ok_and(|told| told.is_fenced(INVALID_DATA))
        })?;
    }
    Ok(())
}

/// How long a client waited for each new name, and what was wrong.
fn load(resolver: &Other, time: Duration) -> (Vec<Duration>, Vec<String>) {
    let began = Instant::now();
    let (mut waits, mut wrong) = (Vec::new(), Vec::new());
    while began.elapsed() < time {
        let name = new_name(resolver, waits.len());
        let asked = Instant::now();
        match resolver.resolve(&name) {
            Ok(told) if is_answer(&told) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
        waits.push(asked.elapsed());
    }
    waits.sort();
    (waits, wrong)
}

#[test]
fn clients_of_resolvers_are_all_answered_while_one_of_two_servers_is_fenced() -> Result<()> {
    let world = World::start([BOUND, Duration::from_secs(10)])?;
    let time = Duration::from_secs(setting("TRIAL_SECONDS", SECONDS));
    fence(&world.servers[..1])?;
    let fenced = &world.servers[0];
    let before = fenced.replies("SERVFAIL")?;
    let loads: Vec<_> = thread::scope(|scope| {
        let loads = world.resolvers.each_ref();
        let loads = loads.map(|resolver| scope.spawn(move || load(resolver, time)));
        loads
            .into_iter()
            .map(|load| load.join().expect("it does not panic"))
            .collect()
    });
    for (resolver, (waits, wrong)) in world.resolvers.iter().zip(loads) {
        let count = waits.len();
        let p99 = waits.get(count * 99 / 100).context("a wait")?;
        let max = waits.last().context("a wait")?;
        eprintln!(
            "{}: {count} new names, p99 {p99:.1?}, max {max:.1?}",
            resolver.program
        );
        ensure!(
            wrong.is_empty(),
            "{} of {count}: {:?}",
            wrong.len(),
            wrong.first()
        );
    }
    let asked = fenced.replies("SERVFAIL")? - before;
    eprintln!("the fenced server said SERVFAIL {asked} times");
    ensure!(asked > 0, "nobody asked the fenced server");
    Ok(())
}

/// What clients of a resolver heard: when each was answered first after the servers were back.
#[derive(Debug, Default)]
struct Heard {
    failed: usize,
    new: Option<Duration>,
    popular: Option<Duration>,
}

/// Asks for the popular name and for new ones, in turns, until both are answered after `back`.
fn hear(resolver: &Other, back: &OnceLock<Instant>, within: Duration) -> Result<Heard> {
    let mut heard = Heard::default();
    let mut number = 0;
    let what = format!("{} to answer again", resolver.program);
    eventually(within, what, || {
        number += 1;
        let asked = Instant::now();
        let after = back
            .get()
            .map(|back| asked.saturating_duration_since(*back));
        let new = resolver
            .resolve(&new_name(resolver, number))
            .is_ok_and(|told| is_answer(&told));
        let popular = resolver.resolve(WWW).is_ok_and(|told| is_answer(&told));
        let Some(after) = after else {
            heard.failed += usize::from(!new) + usize::from(!popular);
            return false;
        };
        if new {
            heard.new.get_or_insert(after);
        }
        if popular {
            heard.popular.get_or_insert(after);
        }
        heard.new.is_some() && heard.popular.is_some()
    })?;
    Ok(heard)
}

#[test]
fn resolvers_of_three_makes_are_back_after_both_servers_were_fenced() -> Result<()> {
    let world = World::start([BOUND; 2])?;
    let time = Duration::from_secs(setting("TRIAL_SECONDS", SECONDS));
    fence(&world.servers)?;
    let back = OnceLock::new();
    let heard = thread::scope(|scope| -> Result<Vec<_>> {
        let heard: Vec<_> = world
            .resolvers
            .iter()
            .map(|resolver| {
                let back = &back;
                scope.spawn(move || hear(resolver, back, time + PATIENCE))
            })
            .collect();
        lasts(time);
        let healed = world.servers.iter().try_for_each(|server| {
            server.network.heal();
            server.is_fresh()
        });
        // They end whatever has gone wrong.
        back.get_or_init(Instant::now);
        let heard = heard
            .into_iter()
            .map(|heard| heard.join().expect("it does not panic"));
        let heard = heard.collect();
        healed.and(heard)
    })?;
    for (resolver, heard) in world.resolvers.iter().zip(heard) {
        eprintln!("{}: {heard:.1?}", resolver.program);
        ensure!(heard.failed > 0, "{} did not notice", resolver.program);
    }
    Ok(())
}
