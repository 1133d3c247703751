//! A signed zone, from the key to the validator: names that follow a role, names that are not there,
//! another key, and a server that lacks it. `delv`, which is BIND's, is the judge.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Cluster, eventually, run};
use hickory_proto::rr::RecordType;
use rustix::process::Signal;
use serde_json::Value;

use super::server::{NameServer, PATIENCE};
use super::{WWW, activate, place};
use crate::beside::cfgctl;

const ZONE: &str = "example.com";

/// A key of the zone: its tag, and its public file.
struct Key {
    tag: u64,
    file: String,
}

fn generate(cluster: &Cluster, dir: &Path, algorithm: &str) -> Result<Key> {
    let dir = dir.to_str().context("a path")?;
    let words = ["-o", "json", "zone", "key", "generate", ZONE, "--dir", dir];
    let made = cfgctl(cluster, &[&words[..], &["--algorithm", algorithm]].concat())?;
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

    // Another key, by the steps of `cfgctl zone key add --help`.
    let second = generate(&cluster, &dir, "ed25519")?;
    server.signal(Signal::HUP)?;
    eventually(PATIENCE, "the keys to be read", || {
        server
            .log()
            .is_ok_and(|log| log.contains("read the files again"))
    })?;
    let tag = |key: &Key| key.tag.to_string();
    let (old, new) = (tag(&first), tag(&second));
    cfgctl(
        &cluster,
        &["zone", "key", "add", ZONE, &second.file, "--standby"],
    )?;
    has_keys(&server, &[&first, &second])?;
    is_believed(&server, &[&first])?;
    cfgctl(&cluster, &["zone", "key", "use", ZONE, &new])?;
    cfgctl(&cluster, &["zone", "key", "retire", ZONE, &old])?;
    cfgctl(&cluster, &["zone", "key", "remove", ZONE, &old])?;
    has_keys(&server, &[&second])?;
    is_believed(&server, &[&second])?;
    let said = delv(&server, &[&first], &[WWW, "A"])?;
    ensure!(
        !said.contains("fully validated"),
        "by a key that is gone: {said}"
    );
    Ok(())
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
