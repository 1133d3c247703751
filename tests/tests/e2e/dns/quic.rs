//! DNS over QUIC, as a client of others finds it: kdig, whose QUIC and TLS are other libraries than
//! ours. It trusts one authority and wants the server's name in its certificate.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};
use cfgsvc_tests::harness::{Cluster, Ran, eventually, http_get, run};
use rustix::process::Signal;

use super::server::PATIENCE;
use super::tls::{Authority, Files, KEY, NAME, SECRET, records};
use super::{WWW, ZONE, activate, place};
use crate::beside::{OTHERS, SELF};

/// Asks with kdig over QUIC, which ends with a failure where the certificate is not right.
fn ask(server: SocketAddr, authority: &Authority, words: &[&str]) -> Result<Ran> {
    let port = server.port().to_string();
    let mut kdig = Command::new("kdig");
    kdig.args(["@127.0.0.1", "-p", &port, "+retry=0", "+time=10"]);
    kdig.arg(format!("+tls-ca={}", authority.file));
    kdig.arg(format!("+tls-hostname={NAME}"));
    // Last: the options of TLS choose that.
    run(kdig.arg("+quic").args(words))
}

#[test]
fn client_of_others_is_answered_over_quic_and_behind_the_fence_told_so() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, ZONE)?;
    let authority = Authority::new(&cluster, "authority")?;
    let files = Files::new(&cluster)?;
    files.certify(&authority)?;
    let (mut server, _) = files.start(&cluster, &["--listen-quic", "127.0.0.1:0"])?;
    let quic = server.logged("answering over QUIC")?;
    let kdig = |words: &[&str]| ask(quic, &authority, words)?.success();

    let www = kdig(&[WWW, "A", "+nsid"])?;
    ensure!(www.contains("QUIC session"), "{www}");
    let flags = www.contains("status: NOERROR") && www.contains("Flags: qr aa");
    ensure!(flags && www.contains("NSID: 6E7331"), "{www}");
    ensure!(
        records(&www) == [format!("{WWW} 5 IN A 192.0.2.1")],
        "{www}"
    );
    // Two on a connection.
    let two = kdig(&[
        "+keepopen",
        "mail.example.com",
        "A",
        "none.example.com",
        "A",
    ])?;
    ensure!(
        records(&two)[0] == "mail.example.com. 300 IN A 192.0.2.7",
        "{two}"
    );
    ensure!(two.contains("status: NXDOMAIN"), "{two}");
    activate(&cluster, "b")?;
    eventually(PATIENCE, "the other colo over QUIC", || {
        kdig(&[WWW, "A", "+short"]).is_ok_and(|www| www.trim() == "192.0.2.2")
    })?;

    // Who may have the zone over TCP has it not over QUIC, signed or not.
    let key = format!("hmac-sha256:{KEY}:{SECRET}");
    for words in [
        &["example.com", "AXFR"][..],
        &["example.com", "AXFR", "-y", &key],
        &["example.com", "IXFR=1"],
        &[WWW, "A", "-y", &key],
    ] {
        let refused = ask(quic, &authority, words)?.to_string();
        ensure!(refused.contains("REFUSED"), "{words:?}: {refused}");
        ensure!(!refused.contains("192.0.2."), "{words:?}: {refused}");
    }

    let (_, metrics) = http_get(server.http, "/metrics", PATIENCE)?;
    let requests = "cfgdns_requests_total{transport=\"quic\"} ";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(requests));
    let counted: u64 = counted.unwrap_or("none").parse()?;
    ensure!(counted >= 8, "{metrics}");

    server.network.cut(SELF, OTHERS);
    eventually(PATIENCE, "SERVFAIL over QUIC", || {
        kdig(&[WWW, "A"])
            .is_ok_and(|www| www.contains("status: SERVFAIL") && www.contains("24 (Invalid Data)"))
    })?;
    server.network.heal();
    ensure!(server.end()?.success());
    let log = server.log()?;
    ensure!(
        !log.contains("hickory") && !log.contains("quinn"),
        "a line for each client: {log}"
    );
    Ok(())
}

#[test]
fn certificate_is_read_again_for_quic() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, ZONE)?;
    let [old, new] = ["old", "new"].map(|name| Authority::new(&cluster, name));
    let (old, new) = (old?, new?);
    let files = Files::new(&cluster)?;
    files.certify(&old)?;
    let (server, _) = files.start(&cluster, &["--listen-quic", "127.0.0.1:0"])?;
    let quic = server.logged("answering over QUIC")?;
    let trusts = |authority| -> Result<bool> {
        let ran = ask(quic, authority, &[WWW, "A", "+short"])?;
        Ok(ran.code == Some(0) && ran.stdout.trim() == "192.0.2.1")
    };
    ensure!(trusts(&old)? && !trusts(&new)?);
    files.certify(&new)?;
    server.signal(Signal::HUP)?;
    server.logs("read the files again")?;
    ensure!(trusts(&new)? && !trusts(&old)?);
    Ok(())
}
