//! Debian's knotd, nsd and named as secondaries of a group: whole zones, changes by NOTIFY, keys,
//! the list of zones, and the expire of a SOA as their fence.
//!
//! Nothing here waits for a refresh: where a zone says when to ask again by itself, that is later
//! than the test's patience, but in the test of the fence.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Cluster, eventually, eventually_some, run, unused_address};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use rustix::process::Signal;

use super::others::{Other, Place};
use super::server::{NameServer, PATIENCE, Told};
use super::{BOUND, WWW, activate, apply, place};
use crate::beside::{OTHERS, SELF, cfgctl};
use crate::seeds::lasts;

/// What the key is called on both sides.
const KEY: &str = "transfer.example";
const SECRET: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const OTHER_SECRET: &str = "MTAyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const CATALOG: &str = "catalog.invalid";
/// Beside `www` that follows a role.
const FENCE: &str = "_cfgsvc.www.example.com.";
/// Refresh, retry and expire of zones in tests that do not wait for them.
const LONG_TIMERS: &str = "3600 600 604800";
/// The same as deploy/DNS.md has them, so that a fence ends soon behind secondaries too.
const ADVISED_TIMERS: &str = "2 1 6";
/// In seconds: how often a secondary asks in the test of the fence, and for how long it answers
/// after it was last told that its copy is good.
const REFRESH: u32 = 2;
const EXPIRE: u32 = 6;
/// When it would ask again after it was told nothing, so that only news bring it back before.
const RETRY: u32 = 600;
/// What a busy machine adds to a timer of whole seconds.
const LATE: Duration = Duration::from_secs(4);
/// For a secondary that has heard of it to have the zone. Untold, Knot comes twice as late.
const BACK: Duration = Duration::from_secs(10);

/// A zone in which one change is much less than the zone, so that IXFR sends the change.
fn zone(origin: &str, timers: &str) -> String {
    let mut text = format!(
        "$ORIGIN {origin}.\n$TTL 300\n@ SOA ns1 hostmaster 1 {timers} 60\n NS ns1\n\
         ns1 A 127.0.0.1\nmail A 192.0.2.7\n"
    );
    let hosts = (0..40).map(|host| format!("host{host} A 198.51.100.{host}\n"));
    text.extend(hosts);
    text
}

/// The file of the key, as `tsig-keygen` writes it; what cfgdns is started with beside it.
struct Secret {
    file: String,
}

impl Secret {
    fn new(cluster: &Cluster) -> Result<Self> {
        let file = cluster.directory().join("transfer.key");
        fs::write(&file, Self::text())?;
        let file = file.to_str().context("a path")?.to_owned();
        Ok(Self { file })
    }

    fn text() -> String {
        format!("key \"{KEY}\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{SECRET}\";\n}};\n")
    }

    /// A name server that gives zones to whoever has the key, and tells these of changes.
    fn primary(&self, cluster: &Cluster, told: &[&Place], more: &[&str]) -> Result<NameServer> {
        self.server("ns1", cluster, told, more)
    }

    fn server(
        &self,
        name: &str,
        cluster: &Cluster,
        told: &[&Place],
        more: &[&str],
    ) -> Result<NameServer> {
        let allow = format!("key {KEY}");
        let mut arguments = vec!["--key-file", &self.file, "--transfer", &allow];
        let targets: Vec<String> = told
            .iter()
            .map(|place| format!("{} key {KEY}", place.address))
            .collect();
        for target in &targets {
            arguments.extend(["--notify", target]);
        }
        arguments.extend(more);
        NameServer::start(name, cluster, &arguments)
    }
}

/// Where secondaries will be: cfgdns is told of them before they are there.
struct Places {
    knotd: Place,
    nsd: Place,
    named: Place,
}

impl Places {
    fn new(cluster: &Cluster) -> Result<Self> {
        let place = |name: &str| Place::new(cluster.directory(), name);
        Ok(Self {
            knotd: place("knot")?,
            nsd: place("nsd")?,
            named: place("named")?,
        })
    }

    fn all(&self) -> [&Place; 3] {
        [&self.knotd, &self.nsd, &self.named]
    }

    fn start(&self, primaries: &[&NameServer]) -> Result<[Other; 3]> {
        Ok([
            knotd(&self.knotd, primaries)?,
            nsd(&self.nsd, primaries)?,
            named(&self.named, primaries)?,
        ])
    }
}

/// Knot; zones of the catalog too. A remote for each server: of several addresses of a remote it
/// does not try the second where the first says SERVFAIL.
fn knotd(place: &Place, primaries: &[&NameServer]) -> Result<Other> {
    let Place { address, directory } = place;
    let directory = directory.display();
    let (ip, port) = (address.ip(), address.port());
    let remote = |(number, primary): (usize, &&NameServer)| {
        let (ip, port) = (primary.dns.ip(), primary.dns.port());
        format!("  - id: ns{number}\n    address: {ip}@{port}\n    key: {KEY}\n")
    };
    let remotes: String = primaries.iter().enumerate().map(remote).collect();
    let names: Vec<_> = (0..primaries.len())
        .map(|number| format!("ns{number}"))
        .collect();
    let names = names.join(", ");
    let configuration = format!(
        r#"server:
  listen: {ip}@{port}
  rundir: "{directory}"
log:
  - target: stderr
    any: info
database:
  storage: "{directory}"
key:
  - id: {KEY}
    algorithm: hmac-sha256
    secret: {SECRET}
remote:
{remotes}acl:
  - id: cfgdns
    key: {KEY}
    action: notify
template:
  - id: default
    storage: "{directory}"
    master: [ {names} ]
    acl: cfgdns
zone:
  - domain: example.com
  - domain: {CATALOG}
    catalog-role: interpret
    catalog-template: default
"#
    );
    let file = "knot.conf";
    Other::start("knotd", place, file, &configuration, &["-c", file])
}

/// NSD.
fn nsd(place: &Place, primaries: &[&NameServer]) -> Result<Other> {
    let Place { address, directory } = place;
    let directory = directory.display();
    let (ip, port) = (address.ip(), address.port());
    let request = |primary: &&NameServer| {
        let (ip, port) = (primary.dns.ip(), primary.dns.port());
        format!("  request-xfr: {ip}@{port} {KEY}\n")
    };
    let requests: String = primaries.iter().map(request).collect();
    let configuration = format!(
        r#"server:
  ip-address: {ip}@{port}
  username: ""
  database: ""
  pidfile: "{directory}/pid"
  zonesdir: "{directory}"
  xfrdfile: "{directory}/xfrd.state"
  xfrdir: "{directory}"
  zonelistfile: "{directory}/zone.list"
  verbosity: 2
remote-control:
  control-enable: no
key:
  name: {KEY}
  algorithm: hmac-sha256
  secret: {SECRET}
zone:
  name: example.com
  zonefile: example.com.zone
{requests}  allow-notify: 0.0.0.0/0 {KEY}
"#
    );
    let file = "nsd.conf";
    Other::start("nsd", place, file, &configuration, &["-d", "-c", file])
}

/// BIND; zones of the catalog too.
fn named(place: &Place, primaries: &[&NameServer]) -> Result<Other> {
    let Place { address, directory } = place;
    let directory = directory.display();
    let (ip, port) = (address.ip(), address.port());
    let primary = |primary: &&NameServer| {
        let (ip, port) = (primary.dns.ip(), primary.dns.port());
        format!("{ip} port {port} key {KEY}; ")
    };
    let primaries: String = primaries.iter().map(primary).collect();
    let key = Secret::text();
    let configuration = format!(
        r#"{key}
controls {{ }};
primaries cfgdns {{ {primaries}}};
options {{
  directory "{directory}";
  listen-on port {port} {{ {ip}; }};
  listen-on-v6 {{ none; }};
  pid-file none;
  session-keyfile none;
  recursion no;
  notify no;
  allow-notify {{ key {KEY}; }};
  min-refresh-time 1;
  min-retry-time 1;
  max-retry-time 2;
  dnssec-validation no;
  catalog-zones {{
    zone "{CATALOG}" default-primaries {{ cfgdns; }} zone-directory "{directory}" min-update-interval 1;
  }};
}};
zone "example.com" {{
  type secondary; primaries {{ cfgdns; }}; file "example.com.db"; masterfile-format text;
}};
zone "{CATALOG}" {{ type secondary; primaries {{ cfgdns; }}; file "catalog.db"; }};
"#
    );
    let file = "named.conf";
    Other::start(
        "named",
        place,
        file,
        &configuration,
        &["-g", "-d", "1", "-c", file],
    )
}

/// Asks with dig: `words` are a name, a type and how.
fn dig(server: SocketAddr, words: &[&str]) -> Result<String> {
    let port = server.port().to_string();
    let mut dig = Command::new("dig");
    dig.args(["@127.0.0.1", "-p", &port, "+norec", "+tries=1"]);
    // It fails where a transfer does; what it prints says why.
    Ok(run(dig.args(words))?.stdout)
}

/// The octets of the first transfer that NSD's log tells of, from there on.
fn octets(nsd: &Other, from: usize) -> Result<u64> {
    eventually_some(PATIENCE, "nsd to tell of a transfer", || {
        let log = nsd.log().ok()?;
        let mut lines = log.get(from..)?.lines();
        lines.find_map(|line| {
            let (_, after) = line.split_once(" received update to serial ")?;
            let (_, octets) = after.rsplit_once(" of ")?;
            octets.split(' ').next()?.parse().ok()
        })
    })
}

#[test]
fn secondaries_of_three_makes_follow_by_transfers_and_news() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, &zone("example.com", LONG_TIMERS))?;
    let places = Places::new(&cluster)?;
    let primary = Secret::new(&cluster)?.primary(&cluster, &places.all(), &[])?;
    primary.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    let secondaries = places.start(&[&primary])?;
    for other in &secondaries {
        other.answers("host39.example.com.", RecordType::A, &["198.51.100.39"])?;
        other.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    }
    let [knotd, nsd, named] = &secondaries;
    knotd.says(0, &["[example.com.] AXFR, incoming", "finished"])?;
    let whole = octets(nsd, 0)?;
    named.says(0, &["example.com", "requesting AXFR of initial version"])?;
    ensure!(whole > 1_000, "the zone is {whole} octets");

    // A followed name moves: by NOTIFY, as there is no refresh in the time of the test; and by
    // what has changed, not the whole.
    let marks = [0, 1, 2].map(|one| secondaries[one].log().map_or(0, |log| log.len()));
    let began = Instant::now();
    activate(&cluster, "b")?;
    for other in &secondaries {
        other.answers(WWW, RecordType::A, &["192.0.2.2"])?;
        eprintln!("{} after {:?}", other.program, began.elapsed());
    }
    knotd.says(marks[0], &["[example.com.] IXFR, incoming", "finished"])?;
    let log = &knotd.log()?[marks[0]..];
    ensure!(!log.contains("[example.com.] AXFR"), "{log}");
    let step = octets(nsd, marks[1])?;
    ensure!(step < whole / 2, "{step} of {whole} octets");
    named.says(marks[2], &["example.com", "requesting IXFR"])?;
    // An A and a TXT, before and after, between two SOA each, and the newest at both ends.
    named.says(marks[2], &["Transfer completed", " 8 records,"])?;

    // And so does what a file changes.
    let changed = zone("example.com", LONG_TIMERS).replace("192.0.2.7", "192.0.2.8");
    apply(&cluster, &changed)?;
    for other in &secondaries {
        other.answers("mail.example.com.", RecordType::A, &["192.0.2.8"])?;
        // Whoever asks a secondary, hears what the primary says.
        for (name, rtype) in [("example.com.", RecordType::SOA), (FENCE, RecordType::TXT)] {
            let (here, there) = (primary.ask(name, rtype)?, other.ask(name, rtype)?);
            ensure!(here == there, "{}: {there:?}, not {here:?}", other.program);
        }
    }
    Ok(())
}

#[test]
fn zones_are_given_to_who_has_the_key_and_are_taken_by_checkers_of_three_makes() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, &zone("example.com", LONG_TIMERS))?;
    let primary = Secret::new(&cluster)?.primary(&cluster, &[], &[])?;
    primary.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    let right = format!("hmac-sha256:{KEY}:{SECRET}");
    let wrong = format!("hmac-sha256:{KEY}:{OTHER_SECRET}");
    let unknown = format!("hmac-sha256:other.example:{SECRET}");
    for (key, why) in [
        (None, "Transfer failed"),
        (Some(&wrong), " BADSIG "),
        (Some(&unknown), " BADKEY "),
    ] {
        for transfer in ["AXFR", "IXFR=1"] {
            let mut words = vec!["example.com", transfer, "+tcp"];
            words.extend(key.iter().flat_map(|key| ["-y", key]));
            let told = dig(primary.dns, &words)?;
            let secret = told.contains("198.51.100.1") || told.contains("hostmaster");
            ensure!(told.contains(why) && !secret, "{words:?}: {told}");
        }
    }
    let refused = [primary.replies("REFUSED")?, primary.replies("NOTAUTH")?];
    ensure!(refused == [2, 4], "{refused:?}");

    let words = [
        "example.com",
        "AXFR",
        "-y",
        &right,
        "+noall",
        "+answer",
        "+onesoa",
    ];
    let told = dig(primary.dns, &words)?;
    ensure!(told.lines().count() == 46, "{told}");
    let file = cluster.directory().join("transferred.zone");
    fs::write(&file, told)?;
    let file = file.to_str().context("a path")?;
    for checker in [
        &["kzonecheck", "-o", "example.com", file][..],
        &["named-checkzone", "-i", "full", "example.com", file],
        &["ldns-read-zone", file],
    ] {
        run(Command::new(checker[0]).args(&checker[1..]))?.success()?;
    }
    Ok(())
}

#[test]
fn catalog_brings_zones_to_secondaries_and_takes_them_away() -> Result<()> {
    const NAME: &str = "host1.example.org.";
    let cluster = Cluster::start(1)?;
    place(&cluster, &zone("example.com", LONG_TIMERS))?;
    let places = Places::new(&cluster)?;
    let told = [&places.knotd, &places.named];
    let primary = Secret::new(&cluster)?.primary(&cluster, &told, &["--catalog", CATALOG])?;
    primary.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    let secondaries = [
        knotd(&places.knotd, &[&primary])?,
        named(&places.named, &[&primary])?,
    ];
    for other in &secondaries {
        other.answers(WWW, RecordType::A, &["192.0.2.1"])?;
        let nobody = other.ask(NAME, RecordType::A)?;
        ensure!(nobody.rcode == ResponseCode::Refused, "{nobody:?}");
    }
    // Nobody touches a secondary: a zone comes, goes, and comes anew with other data.
    let new = zone("example.org", LONG_TIMERS);
    for (text, address) in [
        (new.clone(), "198.51.100.1"),
        (new.replace(".100.1", ".101.1"), "198.51.101.1"),
    ] {
        apply(&cluster, &text)?;
        for other in &secondaries {
            other.answers(NAME, RecordType::A, &[address])?;
        }
        cfgctl(&cluster, &["zone", "delete", "example.org", "--yes"])?;
        for other in &secondaries {
            other.tells(NAME, RecordType::A, |told| {
                told.rcode == ResponseCode::Refused
            })?;
        }
    }
    for other in &secondaries {
        ensure!(other.ask(WWW, RecordType::A)?.answer == ["192.0.2.1"]);
    }
    Ok(())
}

/// What cfgdns says to a secondary that asks whether its copy is good, with the key.
fn polls(primary: &NameServer) -> Result<String> {
    let key = format!("hmac-sha256:{KEY}:{SECRET}");
    let mut told = String::new();
    for how in [
        &["SOA", "+notcp"][..],
        &["SOA", "+tcp"],
        &["IXFR=1"],
        &["AXFR"],
    ] {
        told += &dig(
            primary.dns,
            &[&["example.com", "-y", &key, "+comments"], how].concat(),
        )?;
    }
    Ok(told)
}

/// Cuts cfgdns off: secondaries go on with what they have for as long as the SOA allows, counted
/// from when they were told last that it is good, and then say that they cannot know.
fn expire(primary: &NameServer, secondaries: &[Other]) -> Result<()> {
    primary.network.cut(SELF, OTHERS);
    let since = Instant::now();
    let allowed = BOUND + Duration::from_secs(EXPIRE.into()) + LATE;
    let mut over = vec![None; secondaries.len()];
    let mut late = Vec::new();
    eventually(PATIENCE, "secondaries to stop", || {
        for (other, over) in secondaries.iter().zip(&mut over) {
            let asked = since.elapsed();
            let told = other.ask(WWW, RecordType::A);
            match told {
                Ok(told) if is_over(&told) => {
                    over.get_or_insert((asked, told.error));
                }
                told if asked > allowed || over.is_some() => {
                    late.push((other.program, asked, told));
                }
                _ => {}
            }
        }
        over.iter().all(Option::is_some)
    })?;
    for (other, over) in secondaries.iter().zip(over) {
        eprintln!("{} stopped after {over:?}", other.program);
    }
    ensure!(late.is_empty(), "answers after the end: {late:?}");
    Ok(())
}

/// A secondary says so of a zone that has expired.
fn is_over(told: &Told) -> bool {
    told.rcode == ResponseCode::ServFail && !told.authoritative && told.answer.is_empty()
}

#[test]
fn secondaries_of_a_fenced_server_stop_by_the_expire_of_the_zone_and_are_told_when_it_is_back()
-> Result<()> {
    let cluster = Cluster::start(1)?;
    let timers = format!("{REFRESH} {RETRY} {EXPIRE}");
    place(&cluster, &zone("example.com", &timers))?;
    let places = Places::new(&cluster)?;
    let bound = format!("{}ms", BOUND.as_millis());
    let more = ["--stale-after", &bound];
    let primary = Secret::new(&cluster)?.primary(&cluster, &places.all(), &more)?;
    primary.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    let secondaries = places.start(&[&primary])?;
    for other in &secondaries {
        other.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    }
    // Refreshes keep the zone for longer than its expire.
    lasts(Duration::from_secs((EXPIRE + REFRESH).into()));
    for other in &secondaries {
        ensure!(
            other.ask(WWW, RecordType::A)?.answer == ["192.0.2.1"],
            "{}",
            other.log()?
        );
    }
    // Once with a change that they miss, and once with none: the serial is then the same.
    for address in ["192.0.2.2", "192.0.2.2"] {
        expire(&primary, &secondaries)?;
        let told = polls(&primary)?;
        let [polled, transferred] =
            ["status: SERVFAIL", "; Transfer failed."].map(|words| told.matches(words).count());
        let knows = told.contains("hostmaster");
        ensure!(polled == 2 && transferred == 2 && !knows, "{told}");
        activate(&cluster, "b")?;
        comes_back(&primary, &secondaries, address)?;
    }
    Ok(())
}

/// The cut heals: each secondary is told, long before it would ask by itself, and says nothing old.
fn comes_back(primary: &NameServer, secondaries: &[Other], address: &str) -> Result<()> {
    primary.network.heal();
    primary.is_fresh()?;
    let since = Instant::now();
    for other in secondaries {
        let mut wrong = Vec::new();
        other.tells(WWW, RecordType::A, |told| {
            let back = told.answer == [address];
            if !back && !is_over(told) {
                wrong.push(told.clone());
            }
            back
        })?;
        let after = since.elapsed();
        eprintln!("{} is back {after:?} after cfgdns", other.program);
        ensure!(
            after < BACK,
            "{} is back after {after:?}: {}",
            other.program,
            other.log()?
        );
        ensure!(wrong.is_empty(), "{} said {wrong:?}", other.program);
    }
    Ok(())
}

#[test]
fn secondaries_go_on_by_the_other_server_while_one_is_fenced() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, &zone("example.com", ADVISED_TIMERS))?;
    let places = Places::new(&cluster)?;
    let bound = format!("{}ms", BOUND.as_millis());
    let (secret, more) = (Secret::new(&cluster)?, ["--stale-after", &bound]);
    let fenced = secret.server("ns1", &cluster, &places.all(), &more)?;
    let other = secret.server("ns2", &cluster, &places.all(), &[])?;
    for server in [&fenced, &other] {
        server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    }
    let secondaries = places.start(&[&fenced, &other])?;
    for secondary in &secondaries {
        secondary.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    }
    fenced.network.cut(SELF, OTHERS);
    fenced.logs("fenced: SERVFAIL to all")?;
    let before = fenced.replies("SERVFAIL")?;
    // Each asks at every refresh; the fenced one alone would let it expire.
    lasts(Duration::from_secs((EXPIRE + REFRESH).into()));
    for secondary in &secondaries {
        let told = secondary.ask(WWW, RecordType::A)?;
        ensure!(
            told.answer == ["192.0.2.1"],
            "{told:?}: {}",
            secondary.log()?
        );
    }
    activate(&cluster, "b")?;
    for secondary in &secondaries {
        secondary.answers(WWW, RecordType::A, &["192.0.2.2"])?;
    }
    ensure!(
        fenced.replies("SERVFAIL")? > before,
        "nobody asked the fenced server"
    );
    Ok(())
}

#[test]
fn secondary_gets_the_whole_zone_of_a_server_whose_history_began_anew_and_then_changes()
-> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, &zone("example.com", LONG_TIMERS))?;
    let at = Place::new(cluster.directory(), "knot")?;
    let secret = Secret::new(&cluster)?;
    // A port that is the same after a start.
    let own = unused_address()?;
    let listen = own.to_string();
    let more = ["--listen", &listen, "--stale-after", "2s"];
    let mut restarted = secret.server("ns1", &cluster, &[&at], &more)?;
    restarted.dns = own;
    let other = secret.server("ns2", &cluster, &[&at], &["--stale-after", "2s"])?;
    for server in [&restarted, &other] {
        server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    }
    let knotd = knotd(&at, &[&restarted, &other])?;
    knotd.answers(WWW, RecordType::A, &["192.0.2.1"])?;

    // One is down while the zone changes, and the other is cut off when it is back.
    restarted.kill();
    other.network.cut(SELF, OTHERS);
    other.logs("fenced: SERVFAIL to all")?;
    activate(&cluster, "b")?;
    let mark = knotd.log()?.len();
    restarted.begin()?;
    restarted.dns = own;
    knotd.answers(WWW, RecordType::A, &["192.0.2.2"])?;
    knotd.says(mark, &["[example.com.]", "receiving AXFR-style IXFR"])?;

    // What changes from now on comes as a change, from either.
    other.network.heal();
    other.is_fresh()?;
    let mark = knotd.log()?.len();
    activate(&cluster, "a")?;
    knotd.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    knotd.says(mark, &["[example.com.] IXFR, incoming", "finished"])?;
    let log = &knotd.log()?[mark..];
    ensure!(!log.contains("AXFR"), "{log}");
    let key = format!("hmac-sha256:{KEY}:{SECRET}");
    let whole = [
        "example.com",
        "AXFR",
        "-y",
        &key,
        "+noall",
        "+answer",
        "+onesoa",
    ];
    let zones = [dig(own, &whole)?, dig(other.dns, &whole)?];
    ensure!(
        zones[0].lines().count() > 40 && zones[0] == zones[1],
        "{zones:?}"
    );
    for (name, rtype) in [("example.com.", RecordType::SOA), (FENCE, RecordType::TXT)] {
        let (here, there) = (restarted.ask(name, rtype)?, knotd.ask(name, rtype)?);
        ensure!(here == there, "{there:?}, not {here:?}");
    }
    Ok(())
}

#[test]
fn secondary_that_did_not_answer_is_told_again_when_files_are_read_anew() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, &zone("example.com", LONG_TIMERS))?;
    let silent = UdpSocket::bind("127.0.0.1:0")?;
    silent.set_read_timeout(Some(PATIENCE))?;
    let target = silent.local_addr()?.to_string();
    let primary = NameServer::start("ns1", &cluster, &["--notify", &target])?;
    // Which message it is of those that a server sends about a zone: their id.
    let told = || -> Result<[u8; 2]> {
        let mut octets = [0; 512];
        silent.recv(&mut octets).context("no news came")?;
        Ok([octets[0], octets[1]])
    };
    // Once it is sent again there is nothing newer.
    let mut last = told()?;
    eventually(PATIENCE, "the same message again", || {
        told().is_ok_and(|id| id == std::mem::replace(&mut last, id))
    })?;
    primary.signal(Signal::HUP)?;
    let next = told()?;
    ensure!(next != last, "it was sent a third time");
    Ok(())
}
