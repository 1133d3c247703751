//! A signed zone, from the key to the validator: names that follow a role, names that are not there,
//! another key, and a server that lacks it. `delv`, which is BIND's, is the judge.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Cluster, etcdctl, eventually, http_get, run};
use hickory_proto::rr::RecordType;
use rustix::process::Signal;
use serde_json::Value;

use super::server::{NameServer, PATIENCE};
use super::{WWW, activate, place};
use crate::beside::cfgctl;
use crate::failures::leader;

const ZONE: &str = "example.com";

/// A key of the zone: its tag, and its public file.
struct Key {
    tag: u64,
    file: String,
}

fn generate(cluster: &Cluster, dir: &Path, algorithm: &str) -> Result<Key> {
    generate_for(cluster, dir, (algorithm, "csk"))
}

fn generate_for(cluster: &Cluster, dir: &Path, (algorithm, role): (&str, &str)) -> Result<Key> {
    let dir = dir.to_str().context("a path")?;
    let words = ["-o", "json", "zone", "key", "generate", ZONE, "--dir", dir];
    let more = ["--algorithm", algorithm, "--role", role];
    let made = cfgctl(cluster, &[&words[..], &more].concat())?;
    let made: Value = serde_json::from_str(&made)?;
    Ok(Key {
        tag: made["tag"].as_u64().context("a tag")?,
        file: made["public"].as_str().context("a file")?.to_owned(),
    })
}

/// What `delv` says, which trusts the keys in these files and nothing else.
fn delv(server: &NameServer, keys: &[&Key], question: &[&str]) -> Result<String> {
    let mut anchors = String::from("trust-anchors {\n");
    for key in keys {
        let text = fs::read_to_string(&key.file)?;
        let record = text.lines().find(|line| !line.starts_with(';'));
        let data = record
            .context("a record")?
            .split_once("DNSKEY")
            .context("it")?
            .1;
        let words: Vec<&str> = data.split_whitespace().collect();
        let [flags, protocol, algorithm, public] = words[..] else {
            anyhow::bail!("{data}");
        };
        let line = format!("{ZONE}. static-key {flags} {protocol} {algorithm} \"{public}\";\n");
        anchors.push_str(&line);
    }
    anchors.push_str("};\n");
    let file = Path::new(&keys.first().context("a key")?.file).with_extension("anchors");
    fs::write(&file, anchors)?;
    let port = server.dns.port().to_string();
    let mut delv = Command::new("delv");
    delv.args(["@127.0.0.1", "-p", &port, "+root=example.com", "-a"]);
    let ran = run(delv.arg(&file).args(question))?;
    Ok(ran.stdout + &ran.stderr)
}

/// Waits until the zone has these keys, and no others.
fn has_keys(server: &NameServer, keys: &[&Key]) -> Result<()> {
    let mut wanted: Vec<String> = keys.iter().map(|key| record(key)).collect::<Result<_>>()?;
    wanted.sort();
    let port = server.dns.port().to_string();
    eventually(PATIENCE, "the keys of the zone", || {
        let mut dig = Command::new("dig");
        dig.args([
            "+short",
            "+nosplit",
            "+norec",
            "-p",
            &port,
            "@127.0.0.1",
            ZONE,
            "DNSKEY",
        ]);
        let said = run(&mut dig).map(|ran| ran.stdout).unwrap_or_default();
        let mut found: Vec<&str> = said.lines().map(str::trim).collect();
        found.sort_unstable();
        found == wanted
    })
}

/// All that there is to ask is believed.
fn is_believed(server: &NameServer, keys: &[&Key]) -> Result<()> {
    for (question, words) in [
        ([WWW, "A"], "; fully validated"),
        (["mail.example.com.", "A"], "; fully validated"),
        (["example.com.", "SOA"], "; fully validated"),
        (["example.com.", "DNSKEY"], "; fully validated"),
        (["_cfgsvc.www.example.com.", "TXT"], "; fully validated"),
        (
            ["mail.example.com.", "MX"],
            "; negative response, fully validated",
        ),
        (
            ["none.example.com.", "A"],
            "; negative response, fully validated",
        ),
    ] {
        let said = delv(server, keys, &question)?;
        ensure!(said.contains(words), "{question:?}: {said}");
    }
    Ok(())
}

#[test]
fn signed_zone_is_believed_while_roles_move_and_keys_change() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, super::ZONE)?;
    let dir = cluster.directory().join("zone-keys");
    fs::create_dir(&dir)?;
    let first = generate(&cluster, &dir, "ed25519")?;
    let keys = dir.to_str().context("a path")?;
    let server = NameServer::start("ns1", &cluster, &["--zone-keys", keys])?;
    let bare = NameServer::start("ns2", &cluster, &[])?;
    cfgctl(&cluster, &["zone", "key", "add", ZONE, &first.file])?;
    has_keys(&server, &[&first])?;
    is_believed(&server, &[&first])?;
    activate(&cluster, "b")?;
    server.answers(WWW, RecordType::A, &["192.0.2.2"])?;
    is_believed(&server, &[&first])?;

    // One without the keys says nothing to who wants signatures, and goes on with others.
    bare.answers(WWW, RecordType::A, &["192.0.2.2"])?;
    let said = delv(&bare, &[&first], &[WWW, "A"])?;
    ensure!(
        said.contains("SERVFAIL") || said.contains("failed"),
        "{said}"
    );
    let log = bare.log()?;
    ensure!(log.contains("SERVFAIL to who wants signatures"), "{log}");
    let lacking = |server: &NameServer| -> Result<(bool, bool)> {
        let (_, metrics) = http_get(server.http, "/metrics", PATIENCE)?;
        let (_, zones) = http_get(server.http, "/zones", PATIENCE)?;
        let counted = metrics.contains("\ncfgdns_zones_without_keys 1\n");
        let ends = metrics.contains("\ncfgdns_signatures_end_timestamp_seconds ");
        ensure!(ends != counted, "one or the other: {metrics}");
        Ok((
            counted,
            zones.contains("\"keys_missing\":\"of the keys that sign"),
        ))
    };
    ensure!(lacking(&bare)? == (true, true), "monitors see it");
    ensure!(lacking(&server)? == (false, false), "this one has them");

    // Another key, by the steps of `cfgctl zone key add --help`.
    let second = generate(&cluster, &dir, "ed25519")?;
    reads_again(&server)?;
    let (old, new) = (tag(&first), tag(&second));
    cfgctl(
        &cluster,
        &["zone", "key", "add", ZONE, &second.file, "--standby"],
    )?;
    has_keys(&server, &[&first, &second])?;
    is_believed(&server, &[&first])?;
    // Each step is too early, and says so.
    let steps = [("use", &new), ("retire", &old), ("remove", &old)];
    for (step, tag) in steps {
        let words = ["zone", "key", step, ZONE, tag];
        let early = crate::cli::cfgctl(&cluster.endpoints(), &words);
        ensure!(
            early.code == Some(2) && early.stderr.contains("too early, wait until"),
            "{step}: {early:?}"
        );
        if step == "retire" {
            let signs = ["zone", "key", "remove", ZONE, tag, "--yes"];
            let signs = crate::cli::cfgctl(&cluster.endpoints(), &signs);
            ensure!(
                signs.code == Some(1) && signs.stderr.contains("zone key retire"),
                "{signs:?}"
            );
        }
        cfgctl(&cluster, &[&words[..], &["--yes"]].concat())?;
    }
    has_keys(&server, &[&second])?;
    is_believed(&server, &[&second])?;
    let said = delv(&server, &[&first], &[WWW, "A"])?;
    ensure!(
        !said.contains("fully validated"),
        "by a key that is gone: {said}"
    );
    Ok(())
}

fn tag(key: &Key) -> String {
    key.tag.to_string()
}

/// Has a name server read its files again.
fn reads_again(server: &NameServer) -> Result<()> {
    let read = |log: &str| log.matches("read the files again").count();
    let before = read(&server.log()?);
    server.signal(Signal::HUP)?;
    eventually(PATIENCE, "the keys to be read", || {
        server.log().is_ok_and(|log| read(&log) > before)
    })
}

/// What `dig` says in short: the SOA of the zone with its signatures.
fn soa(server: &NameServer) -> Result<String> {
    let port = server.dns.port().to_string();
    let mut dig = Command::new("dig");
    dig.args(["+short", "+dnssec", "+norec", "-p", &port, "@127.0.0.1"]);
    run(dig.args([ZONE, "SOA"]))?.success()
}

/// The serial, and when its signatures end, as RRSIG records have it: later ones are greater.
fn serial_and_end(soa: &str) -> Option<(u32, u64)> {
    let serial = soa.lines().find(|line| !line.starts_with("SOA "))?;
    let rrsig = soa.lines().find(|line| line.starts_with("SOA "))?;
    let serial = serial.split_whitespace().nth(2)?.parse().ok()?;
    let end = rrsig.split_whitespace().nth(4)?.parse().ok()?;
    Some((serial, end))
}

/// The value of the key that says how the zone is signed.
fn signing(cluster: &Cluster) -> Result<Value> {
    let key = format!("/cfgsvc/signing/{ZONE}");
    let got = etcdctl(&cluster.endpoints(), &["get", "--print-value-only", &key])?;
    Ok(serde_json::from_str(got.success()?.trim())?)
}

/// Puts the moment of signing so far back that little more than half of the time is over, and waits
/// until the group has signed anew, with a new serial and nobody's command.
fn is_signed_anew_by_itself(cluster: &Cluster, server: &NameServer, key: &Key) -> Result<()> {
    let mut object = signing(cluster)?;
    let (at, valid) = (&object["at"], &object["valid_s"]);
    let at = at.as_u64().context("a moment")?;
    let valid = valid.as_u64().context("a time")?;
    object["at"] = (at - valid / 2 - 60).into();
    let name = format!("/cfgsvc/signing/{ZONE}");
    let put = etcdctl(&cluster.endpoints(), &["put", &name, &object.to_string()])?;
    put.success()?;
    let old = object["at"].as_u64();
    eventually(2 * PATIENCE, "the zone to be signed anew", || {
        signing(cluster).is_ok_and(|now| now["at"].as_u64() > old)
    })?;
    let now = signing(cluster)?;
    ensure!(now["at"].as_u64() >= Some(at), "{now}");
    ensure!(
        now["keys"] == object["keys"] && now["valid_s"] == object["valid_s"],
        "{now}"
    );
    is_believed(server, &[key])
}

/// The whole zone, as `dig` prints what it was sent: in its order, with all data.
fn transferred(server: &NameServer) -> Result<String> {
    let port = server.dns.port().to_string();
    let mut dig = Command::new("dig");
    dig.args(["+nocmd", "+nostats", "+nocomments", "+onesoa", "+norec"]);
    run(dig.args(["-p", &port, "@127.0.0.1", ZONE, "AXFR"]))?.success()
}

#[test]
fn zone_is_signed_anew_by_the_group_before_its_signatures_end_whoever_leads() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    place(&cluster, super::ZONE)?;
    let dir = cluster.directory().join("zone-keys");
    fs::create_dir(&dir)?;
    let key = generate(&cluster, &dir, "ed25519")?;
    let keys = dir.to_str().context("a path")?;
    let more = ["--zone-keys", keys, "--transfer", "127.0.0.0/8"];
    let server = NameServer::start("ns1", &cluster, &more)?;
    let other = NameServer::start("ns2", &cluster, &more)?;
    cfgctl(&cluster, &["zone", "key", "add", ZONE, &key.file])?;
    has_keys(&server, &[&key])?;
    let of = |server: &NameServer| -> Result<(u32, u64)> {
        let soa = soa(server)?;
        serial_and_end(&soa).with_context(|| soa.clone())
    };
    // One for the moment that was put back, and one for the new one.
    let two_later = |server: &NameServer, (serial, end): (u32, u64)| -> Result<(u32, u64)> {
        eventually(PATIENCE, "its serial to be two later", || {
            of(server).is_ok_and(|(now, _)| now >= serial + 2)
        })?;
        let (now, end_now) = of(server)?;
        ensure!(now == serial + 2, "{now} after {serial}");
        ensure!(end_now >= end, "{end_now} after {end}");
        Ok((now, end_now))
    };
    let before = of(&server)?;
    is_signed_anew_by_itself(&cluster, &server, &key)?;
    let between = two_later(&server, before)?;

    let killed = leader(&cluster);
    cluster.kill(killed)?;
    eventually(PATIENCE, "another leader", || signing(&cluster).is_ok())?;
    is_signed_anew_by_itself(&cluster, &server, &key)?;
    let (last, _) = two_later(&server, between)?;

    // What secondaries get is whole, and the same from each server.
    eventually(PATIENCE, "the other server to have it", || {
        of(&other).is_ok_and(|(serial, _)| serial == last)
    })?;
    let (zone, other) = (transferred(&server)?, transferred(&other)?);
    ensure!(zone == other, "{zone}\n{other}");
    is_whole(&cluster, &zone)
}

/// `ldns-verify-zone` believes a zone.
fn is_whole(cluster: &Cluster, zone: &str) -> Result<()> {
    let file = cluster.directory().join("transferred.zone");
    fs::write(&file, zone)?;
    let mut verify = Command::new("ldns-verify-zone");
    let ran = run(verify.args(["-V", "2"]).arg(&file))?;
    ensure!(ran.code == Some(0), "{ran:?}\n{zone}");
    Ok(())
}

#[test]
fn algorithm_is_changed_and_a_pair_of_keys_signs_by_the_steps_that_are_written() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, super::ZONE)?;
    let dir = cluster.directory().join("zone-keys");
    fs::create_dir(&dir)?;
    let keys = dir.to_str().context("a path")?.to_owned();
    let ksk = generate_for(&cluster, &dir, ("ed25519", "ksk"))?;
    let zsk = generate_for(&cluster, &dir, ("ed25519", "zsk"))?;
    let more = ["--zone-keys", &keys, "--transfer", "127.0.0.0/8"];
    let server = NameServer::start("ns1", &cluster, &more)?;
    // Neither is enough; both are, in one commit.
    for (key, why) in [(&ksk, "signs the zone"), (&zsk, "signs the keys")] {
        let add = ["zone", "key", "add", ZONE, &key.file, "--role"];
        let role = if key.tag == ksk.tag { "ksk" } else { "zsk" };
        crate::cli::refused(&cluster.endpoints(), &[&add[..], &[role]].concat(), &[why]);
    }
    cfgctl(
        &cluster,
        &["zone", "key", "add", ZONE, &ksk.file, &zsk.file],
    )?;
    has_keys(&server, &[&ksk, &zsk])?;
    is_believed(&server, &[&ksk])?;
    is_whole(&cluster, &transferred(&server)?)?;
    let listed = cfgctl(&cluster, &["-o", "json", "zone", "key", "list", ZONE])?;
    let listed: Value = serde_json::from_str(&listed)?;
    let listed_keys = listed["keys"].as_array().context("keys")?;
    for (key, shown, role) in [
        (&ksk, &listed_keys[0], "ksk"),
        (&zsk, &listed_keys[1], "zsk"),
    ] {
        ensure!(shown["tag"] == key.tag && shown["role"] == role, "{shown}");
        ensure!(shown["signs"] == true && shown["since"].is_u64(), "{shown}");
        ensure!(shown["ds"].is_string() == (role == "ksk"), "{shown}");
    }

    // By the steps of ZONES.md: a key of the new algorithm signs when it comes, those of the old
    // one go together.
    let new = generate(&cluster, &dir, "ecdsap256sha256")?;
    reads_again(&server)?;
    let add = ["zone", "key", "add", ZONE, &new.file];
    let standby = [&add[..], &["--standby"]].concat();
    crate::cli::refused(&cluster.endpoints(), &standby, &["RFC 4035 2.2"]);
    cfgctl(&cluster, &add)?;
    has_keys(&server, &[&ksk, &zsk, &new])?;
    for trusted in [&ksk, &new] {
        is_believed(&server, &[trusted])?;
    }
    is_whole(&cluster, &transferred(&server)?)?;
    let (ksk_tag, zsk_tag) = (tag(&ksk), tag(&zsk));
    let one = ["zone", "key", "remove", ZONE, &ksk_tag, "--yes"];
    crate::cli::refused(&cluster.endpoints(), &one, &["signs"]);
    let both = ["zone", "key", "remove", ZONE, &ksk_tag, &zsk_tag];
    let early = crate::cli::cfgctl(&cluster.endpoints(), &both);
    ensure!(early.stderr.contains("too early, wait until"), "{early:?}");
    cfgctl(&cluster, &[&both[..], &["--yes"]].concat())?;
    has_keys(&server, &[&new])?;
    is_believed(&server, &[&new])?;
    is_whole(&cluster, &transferred(&server)?)?;

    // Signed anew by hand, for another time.
    let before = signing(&cluster)?;
    let sign = ["zone", "key", "sign", ZONE, "--valid"];
    crate::cli::refused(
        &cluster.endpoints(),
        &[&sign[..], &["59m"]].concat(),
        &["valid_s is 3540, allowed: 3600 to 31622400"],
    );
    let short = crate::cli::cfgctl(&cluster.endpoints(), &[&sign[..], &["6d"]].concat());
    let warned = short
        .stderr
        .contains("warning: signatures are good for 518400 s");
    ensure!(short.code == Some(0) && warned, "{short:?}");
    let after = signing(&cluster)?;
    ensure!(
        after["valid_s"] == 518_400 && after["keys"] == before["keys"],
        "{after}"
    );
    is_believed(&server, &[&new])
}

/// The data of the key's record.
fn record(key: &Key) -> Result<String> {
    let text = fs::read_to_string(&key.file)?;
    let record = text.lines().find(|line| !line.starts_with(';'));
    let data = record
        .context("a record")?
        .split_once("DNSKEY")
        .context("it")?
        .1;
    Ok(data.trim().to_owned())
}
