//! Files with secrets are replaced while the server runs: SIGHUP takes what is good, and a file that
//! is not changes nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Cluster, eventually, run};
use hickory_proto::rr::RecordType;
use rustix::process::Signal;

use super::server::{NameServer, PATIENCE};
use super::{WWW, ZONE, place};

const OLD: &str = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2s=";
const NEW: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=";

fn key_file(secret: &str) -> String {
    format!("key transfer.example {{ algorithm hmac-sha256; secret \"{secret}\"; }};\n")
}

/// Whether dig gets the zone with a key of this secret.
fn transfers(server: &NameServer, secret: &str) -> Result<bool> {
    let port = server.dns.port().to_string();
    let key = format!("hmac-sha256:transfer.example:{secret}");
    let mut dig = Command::new("dig");
    dig.args(["@127.0.0.1", "-p", &port, "-y", &key, "example.com", "AXFR"]);
    let ran = run(dig.args(["+tries=1", "+time=10"]))?;
    let whole = ran.stdout.contains("XFR size");
    ensure!(
        whole != ran.stdout.contains("Transfer failed"),
        "neither a zone nor a refusal: {}{}",
        ran.stdout,
        ran.stderr
    );
    Ok(whole)
}

#[test]
fn key_that_is_replaced_holds_after_sighup_and_a_broken_file_changes_nothing() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, ZONE)?;
    let keys = cluster.directory().join("transfer.key");
    fs::write(&keys, key_file(OLD))?;
    let file = keys.to_str().context("a path")?;
    let options = ["--key-file", file, "--transfer", "key transfer.example"];
    let server = NameServer::start("ns1", &cluster, &options)?;
    server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    ensure!(transfers(&server, OLD)? && !transfers(&server, NEW)?);

    fs::write(&keys, key_file(NEW))?;
    server.signal(Signal::HUP)?;
    server.logs("read the files again")?;
    ensure!(transfers(&server, NEW)? && !transfers(&server, OLD)?);

    fs::write(&keys, "key transfer.example { algorithm rot13; };\n")?;
    server.signal(Signal::HUP)?;
    server.logs("goes on as before")?;
    ensure!(transfers(&server, NEW)?, "the key that held is gone");
    server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    fs::write(&keys, key_file(OLD))?;
    server.signal(Signal::HUP)?;
    eventually(PATIENCE, "the file to be read once it is good", || {
        transfers(&server, OLD).is_ok_and(|whole| whole)
    })
}
