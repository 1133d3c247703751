//! TLS, as tools and a secondary of others find it: kdig, dig and BIND, which trust one authority
//! and want the server's name in its certificate.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{Cluster, Ran, eventually, http_get, run};
use hickory_proto::rr::RecordType;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::Signal;

use super::others::{Other, Place};
use super::server::{NameServer, PATIENCE};
use super::{WWW, ZONE, activate, place};
use crate::beside::{OTHERS, SELF};

/// What the certificate says that the server is.
pub(super) const NAME: &str = "ns1.example.com";
pub(super) const KEY: &str = "transfer.example";
pub(super) const SECRET: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// Who signs certificates, and the file by which tools know it.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) file: String,
}

impl Authority {
    pub(super) fn new(cluster: &Cluster, name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let file = cluster.directory().join(format!("{name}.pem"));
        fs::write(&file, params.self_signed(&key)?.pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            file: file.to_str().context("a path")?.to_owned(),
        })
    }
}

/// The files that the server is started with.
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    tsig: PathBuf,
}

impl Files {
    pub(super) fn new(cluster: &Cluster) -> Result<Self> {
        let file = |name| cluster.directory().join(name);
        let tsig = file("transfer.key");
        fs::write(&tsig, tsig_text())?;
        Ok(Self {
            certificate: file("ns1.crt"),
            key: file("ns1.key"),
            tsig,
        })
    }

    /// Writes a certificate that this authority has signed, and a new key.
    pub(super) fn certify(&self, authority: &Authority) -> Result<()> {
        let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, NAME);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &authority.issuer)?;
        fs::write(&self.certificate, certificate.pem())?;
        fs::write(&self.key, key.serialize_pem())?;
        Ok(())
    }

    pub(super) fn start(
        &self,
        cluster: &Cluster,
        more: &[&str],
    ) -> Result<(NameServer, SocketAddr)> {
        let path = |file: &PathBuf| file.to_str().map(str::to_owned).context("a path");
        let (certificate, key) = (path(&self.certificate)?, path(&self.key)?);
        let (tsig, allow) = (path(&self.tsig)?, format!("key {KEY}"));
        let own = ["--listen-tls", "127.0.0.1:0", "--tls-cert", &certificate];
        let keys = ["--tls-key", &key, "--key-file", &tsig, "--transfer", &allow];
        let server = NameServer::start("ns1", cluster, &[&own[..], &keys, more].concat())?;
        let address = server.logged("answering over TLS")?;
        server.answers(WWW, RecordType::A, &["192.0.2.1"])?;
        Ok((server, address))
    }
}

fn tsig_text() -> String {
    format!("key \"{KEY}\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{SECRET}\";\n}};\n")
}

/// Asks with kdig or dig over TLS, which end with a failure where the certificate is not right.
fn ask(program: &str, server: SocketAddr, authority: &Authority, words: &[&str]) -> Result<Ran> {
    let port = server.port().to_string();
    let mut tool = Command::new(program);
    tool.args(["@127.0.0.1", "-p", &port, "+tls", "+retry=0", "+time=10"]);
    tool.arg(format!("+tls-ca={}", authority.file));
    tool.arg(format!("+tls-hostname={NAME}"));
    run(tool.args(words))
}

/// The records that are printed, in order, with single spaces.
pub(super) fn records(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with(';'));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    words.filter(|line| !line.is_empty()).collect()
}

#[test]
fn answers_and_transfers_go_over_tls_to_tools_of_others() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, ZONE)?;
    let authority = Authority::new(&cluster, "authority")?;
    let files = Files::new(&cluster)?;
    files.certify(&authority)?;
    let (mut server, tls) = files.start(&cluster, &[])?;
    let kdig = |words: &[&str]| ask("kdig", tls, &authority, words)?.success();
    let dig = |words: &[&str]| ask("dig", tls, &authority, words)?.success();

    let www = kdig(&[WWW, "A", "+nsid"])?;
    ensure!(www.contains("(TLS1.3)"), "{www}");
    ensure!(
        www.contains("status: NOERROR") && www.contains("Flags: qr aa"),
        "{www}"
    );
    ensure!(
        records(&www) == [format!("{WWW} 5 IN A 192.0.2.1")],
        "{www}"
    );
    // kdig pads what it asks over TLS, and a block hides how long the reply is.
    ensure!(
        www.contains("PADDING") && www.contains("Received 468 B"),
        "{www}"
    );
    ensure!(www.contains("NSID: 6E7331"), "{www}");
    let www = dig(&["WWW.example.com", "A", "+norec"])?;
    ensure!(
        records(&www) == ["WWW.example.com. 5 IN A 192.0.2.1"],
        "{www}"
    );
    ensure!(www.contains("(TLS)"), "{www}");
    let none = kdig(&["none.example.com", "A"])?;
    ensure!(none.contains("status: NXDOMAIN"), "{none}");

    // A signature holds over what is padded too.
    let key = format!("hmac-sha256:{KEY}:{SECRET}");
    let signed = kdig(&["mail.example.com", "A", "-y", &key])?;
    ensure!(
        signed.contains("status: NOERROR") && signed.contains("TSIG"),
        "{signed}"
    );
    ensure!(signed.contains("Received 468 B"), "{signed}");
    let refused = ask("kdig", tls, &authority, &["example.com", "AXFR"])?;
    ensure!(refused.to_string().contains("REFUSED"), "{refused}");
    let file = files.tsig.to_str().context("a path")?;
    let by_kdig = records(&kdig(&["example.com", "AXFR", "-y", &key])?);
    let by_dig = records(&dig(&[
        "example.com",
        "AXFR",
        "-k",
        file,
        "+noall",
        "+answer",
    ])?);
    // The SOA, NS, two addresses, what www has, and the SOA again, which kdig leaves out.
    ensure!(
        by_dig.len() >= 6 && by_dig.first() == by_dig.last(),
        "{by_dig:?}"
    );
    let without_tsig = |all: &[String]| -> Vec<String> {
        let mut all: Vec<_> = all.iter().filter(|line| !line.contains(" TSIG ")).collect();
        all.dedup();
        all.into_iter().cloned().collect()
    };
    ensure!(
        without_tsig(&by_kdig) == without_tsig(&by_dig),
        "{by_kdig:?}\n{by_dig:?}"
    );

    let (_, metrics) = http_get(server.http, "/metrics", PATIENCE)?;
    let tls_requests = "cfgdns_requests_total{transport=\"tls\"} ";
    let counted = metrics
        .lines()
        .find_map(|line| line.strip_prefix(tls_requests));
    ensure!(counted == Some("7"), "{metrics}");

    // Nothing is different behind the fence.
    server.network.cut(SELF, OTHERS);
    eventually(PATIENCE, "SERVFAIL over TLS", || {
        kdig(&[WWW, "A"])
            .is_ok_and(|www| www.contains("status: SERVFAIL") && www.contains("24 (Invalid Data)"))
    })?;
    server.network.heal();
    ensure!(server.end()?.success());
    Ok(())
}

#[test]
fn certificate_is_read_again_and_a_broken_one_changes_nothing() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, ZONE)?;
    let [old, new] = ["old", "new"].map(|name| Authority::new(&cluster, name));
    let (old, new) = (old?, new?);
    let files = Files::new(&cluster)?;
    files.certify(&old)?;
    let (server, tls) = files.start(&cluster, &[])?;
    let trusts = |authority| -> Result<bool> {
        let ran = ask("kdig", tls, authority, &[WWW, "A", "+short"])?;
        Ok(ran.code == Some(0) && ran.stdout.trim() == "192.0.2.1")
    };
    ensure!(trusts(&old)? && !trusts(&new)?);
    files.certify(&new)?;
    ensure!(trusts(&old)?, "nobody has told it");
    server.signal(Signal::HUP)?;
    server.logs("read the files again")?;
    ensure!(trusts(&new)? && !trusts(&old)?);
    // The certificate of one, the key of another.
    let certificate = fs::read(&files.certificate)?;
    files.certify(&old)?;
    fs::write(&files.certificate, certificate)?;
    server.signal(Signal::HUP)?;
    server.logs("goes on as before")?;
    ensure!(
        server
            .log()?
            .contains("ns1.crt cannot be used with the key of")
    );
    ensure!(trusts(&new)?);
    Ok(())
}

/// BIND takes the zone over TLS alone, and is told of changes over UDP.
#[test]
fn secondary_follows_by_transfers_over_tls() -> Result<()> {
    let cluster = Cluster::start(1)?;
    place(&cluster, ZONE)?;
    let authority = Authority::new(&cluster, "authority")?;
    let files = Files::new(&cluster)?;
    files.certify(&authority)?;
    let secondary = Place::new(cluster.directory(), "named")?;
    let target = format!("{} key {KEY}", secondary.address);
    let (server, tls) = files.start(&cluster, &["--notify", &target])?;
    let named = named(&secondary, tls, &authority)?;
    named.answers("mail.example.com.", RecordType::A, &["192.0.2.7"])?;
    named.answers(WWW, RecordType::A, &["192.0.2.1"])?;
    activate(&cluster, "b")?;
    named.answers(WWW, RecordType::A, &["192.0.2.2"])?;
    let (_, metrics) = http_get(server.http, "/metrics", PATIENCE)?;
    ensure!(
        metrics.contains("cfgdns_requests_total{transport=\"tcp\"} 0\n"),
        "{metrics}"
    );
    ensure!(
        metrics.contains("\ncfgdns_transfers_total 2\n"),
        "{metrics}"
    );
    Ok(())
}

fn named(place: &Place, tls: SocketAddr, authority: &Authority) -> Result<Other> {
    let Place { address, directory } = place;
    let directory = directory.display();
    let (ip, port) = (address.ip(), address.port());
    let (key, trusted) = (tsig_text(), &authority.file);
    let (primary, primary_port) = (tls.ip(), tls.port());
    let configuration = format!(
        r#"{key}
controls {{ }};
tls cfgdns {{ ca-file "{trusted}"; remote-hostname "{NAME}"; protocols {{ TLSv1.3; }}; }};
options {{
  directory "{directory}";
  listen-on port {port} {{ {ip}; }};
  listen-on-v6 {{ none; }};
  pid-file none;
  session-keyfile none;
  recursion no;
  notify no;
  allow-notify {{ key {KEY}; }};
  dnssec-validation no;
}};
zone "example.com" {{
  type secondary; file "example.com.db";
  primaries {{ {primary} port {primary_port} key {KEY} tls cfgdns; }};
}};
"#
    );
    let file = "named.conf";
    let arguments = ["-g", "-d", "1", "-c", file];
    Other::start("named", place, file, &configuration, &arguments)
}
