//! From the commit of a failover to the changed answer: a group of three, name servers, a role that
//! moves between two colos, and a client at each name server that asks twice in a millisecond.
//!
//! Two times are measured for each move and server: from when the move was sent, and from when its
//! commit was acknowledged, to when the reply with the new address had come. The second can be less
//! than what the reply took: the name server hears of a commit when the client does.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cfgsvc_client::{Client, MoveTo, Op, Options, Put, Txn};
use cfgsvc_tests::harness::unused_address;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::args::DnsFailover;
use crate::group::{Group, Kind};

/// Between two questions to a server.
const ASK_EVERY: Duration = Duration::from_micros(500);
/// For a reply, and for a name server to hear of a change.
const PATIENCE: Duration = Duration::from_secs(30);
/// Operations in a transaction.
const OPS: usize = 120;
const COLOS: [(&str, Ipv4Addr); 2] = [
    ("a", Ipv4Addr::new(192, 0, 2, 1)),
    ("b", Ipv4Addr::new(192, 0, 2, 2)),
];
const APEX: &str = r#"{"sets":{"NS":{"ttl":60,"data":["ns"]},
"SOA":{"ttl":60,"data":["ns root 1 3600 600 604800 60"]}}}"#;

/// What was measured, ms.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub moves: u32,
    pub servers: u16,
    pub zones: u32,
    /// From the acknowledged commit to the changed answer.
    pub committed: Times,
    /// From when the move was sent.
    pub sent: Times,
}

/// Percentiles over all moves and servers, ms.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Times {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Times {
    fn of(us: &Histogram<u64>) -> Self {
        let ms = |us: u64| us as f64 / 1_000.0;
        Self {
            p50: ms(us.value_at_quantile(0.5)),
            p99: ms(us.value_at_quantile(0.99)),
            max: ms(us.max()),
        }
    }
}

pub(crate) fn lines(figures: &Figures) -> Vec<String> {
    let Figures {
        moves,
        servers,
        zones,
        ..
    } = figures;
    let line = |what: &str, times: Times| {
        let Times { p50, p99, max } = times;
        format!("  {what:<18} p50 {p50:7.2}  p99 {p99:7.2}  max {max:7.2} ms")
    };
    vec![
        format!("{moves} moves, {servers} name servers, {zones} zones that follow"),
        line("from the commit", figures.committed),
        line("from the request", figures.sent),
    ]
}

/// A name server that ends with this value.
struct NameServer {
    process: Child,
    address: SocketAddr,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl NameServer {
    fn start(binary: &Path, endpoints: &str) -> Result<Self> {
        let address = unused_address()?;
        let process = Command::new(binary)
            .args([
                "--endpoints",
                endpoints,
                "--rate-limit",
                "0",
                "--log",
                "warn",
            ])
            .args(["--listen", &address.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        Ok(Self { process, address })
    }
}

/// Measures.
pub(crate) async fn run(options: DnsFailover) -> Result<Figures> {
    let binary = |name: &str| binary(options.binaries.as_deref(), name);
    let directory = std::env::temp_dir();
    let (group, _) = Group::start(Kind::Cfgsvc, &binary("cfgsvcd")?, &directory).await?;
    let endpoints = group.endpoints();
    let client = Client::new(Options::new(endpoints.clone()))?;
    place(&client, options.zones).await?;
    let servers: Vec<NameServer> = (0..usize::from(options.servers))
        .map(|number| {
            let mut endpoints = endpoints.clone();
            let count = endpoints.len();
            endpoints.rotate_left(number % count);
            NameServer::start(&binary("cfgdns")?, &endpoints.join(","))
        })
        .collect::<Result<_>>()?;
    // A zone in the middle: neither the first nor the last that is built.
    let question = question(options.zones / 2);
    let ended = Arc::new(AtomicBool::new(false));
    let (seen, mut changes) = mpsc::channel(256);
    for (number, server) in servers.iter().enumerate() {
        let (address, question, seen) = (server.address, question.clone(), seen.clone());
        let ended = Arc::clone(&ended);
        thread::spawn(move || {
            let told = watch(address, &question, &ended, |answer, at| {
                seen.blocking_send(Ok((number, answer, at))).is_ok()
            });
            if let Err(error) = told {
                // Nobody listens when the figures are complete.
                let _ = seen.blocking_send(Err(error));
            }
        });
    }
    let figures = moves(&client, &options, servers.len(), &mut changes).await;
    ended.store(true, Ordering::Relaxed);
    figures
}

fn binary(directory: Option<&Path>, name: &str) -> Result<PathBuf> {
    let path = match directory {
        Some(directory) => directory.join(name),
        None => std::env::current_exe()?.with_file_name(name),
    };
    ensure!(
        path.is_file(),
        "{} is not there; cargo build --release -p cfgsvc -p cfgdns",
        path.display()
    );
    Ok(path)
}

type Change = Result<(usize, Ipv4Addr, Instant)>;

async fn moves(
    client: &Client,
    options: &DnsFailover,
    servers: usize,
    changes: &mut mpsc::Receiver<Change>,
) -> Result<Figures> {
    let mut committed = Histogram::<u64>::new(3)?;
    let mut sent = Histogram::<u64>::new(3)?;
    // The first is not counted: servers start, and load.
    for number in 0..=options.moves {
        let (colo, address) = COLOS[usize::try_from(number)? % COLOS.len()];
        tokio::time::sleep(Duration::from_millis(options.rest_ms)).await;
        let asked = Instant::now();
        let moving = MoveTo {
            role: "web".into(),
            to: colo.into(),
            epoch: 0,
            accept_loss: false,
        };
        client.move_role(&moving).await.context("move the role")?;
        let acknowledged = Instant::now();
        let mut missing: Vec<usize> = (0..servers).collect();
        while !missing.is_empty() {
            let change = tokio::time::timeout(PATIENCE, changes.recv()).await;
            let Ok(Some(change)) = change else {
                bail!("name servers {missing:?} do not go along with move {number}");
            };
            let (server, answer, at) = change?;
            if answer != address || !missing.contains(&server) {
                continue;
            }
            missing.retain(|other| *other != server);
            if number > 0 {
                let us = |since: Instant| at.saturating_duration_since(since).as_micros();
                committed.record(u64::try_from(us(acknowledged))?)?;
                sent.record(u64::try_from(us(asked))?)?;
            }
        }
    }
    Ok(Figures {
        moves: options.moves,
        servers: options.servers,
        zones: options.zones,
        committed: Times::of(&committed),
        sent: Times::of(&sent),
    })
}

/// Two colos, a role, and zones with a name each that follows it.
async fn place(client: &Client, zones: u32) -> Result<()> {
    let put = |key: String, value: String| Op::Put(Put::new(key, value));
    for (colo, address) in COLOS {
        let value = format!(r#"{{"addresses":["{address}"]}}"#);
        client
            .put(Put::new(format!("/cfgsvc/colos/{colo}"), value))
            .await?;
    }
    let role = r#"{"kind":"colo","candidates":["a","b"]}"#;
    client.put(Put::new("/cfgsvc/roles/web", role)).await?;
    let all = 0..zones;
    // What refers to something comes after it.
    let names = all.clone().map(|zone| {
        let key = format!("/cfgsvc/names/zone-{zone}.example/1/@");
        put(key, APEX.to_owned())
    });
    let forced = all.clone().map(|zone| {
        let key = format!("/cfgsvc/zones/zone-{zone}.example");
        put(key, r#"{"generation":1}"#.to_owned())
    });
    let follows = all.map(|zone| {
        let key = format!("/cfgsvc/follows/zone-{zone}.example/www/A");
        put(key, r#"{"role":"web"}"#.to_owned())
    });
    for part in [
        names.collect::<Vec<_>>(),
        forced.collect(),
        follows.collect(),
    ] {
        for ops in part.chunks(OPS) {
            let txn = ops.iter().cloned().fold(Txn::new(), Txn::then);
            client.txn(txn).await.context("put zones")?;
        }
    }
    Ok(())
}

/// A question for the address of `www` in a zone.
fn question(zone: u32) -> Vec<u8> {
    let mut octets = b"\0\0\0\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in ["www", &format!("zone-{zone}"), "example", ""] {
        octets.extend(u8::try_from(label.len()));
        octets.extend_from_slice(label.as_bytes());
    }
    octets.extend(b"\0\x01\0\x01");
    octets
}

#[expect(
    clippy::disallowed_methods,
    reason = "it paces the questions, and waits for nothing"
)]
/// Asks a server again and again, and tells each address that is another than the last.
fn watch(
    server: SocketAddr,
    question: &[u8],
    ended: &AtomicBool,
    mut tell: impl FnMut(Ipv4Addr, Instant) -> bool,
) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut question = question.to_vec();
    let mut octets = [0; 1_232];
    let mut last = None;
    while !ended.load(Ordering::Relaxed) {
        let id = u16::from_be_bytes([question[0], question[1]]).wrapping_add(1);
        question[..2].copy_from_slice(&id.to_be_bytes());
        // It is refused until the server listens.
        if socket.send(&question).is_ok()
            && let Ok(length) = socket.recv(&mut octets)
        {
            let answer = address(&octets[..length], &question);
            if answer.is_some() && answer != last {
                last = answer;
                if let Some(answer) = answer
                    && !tell(answer, Instant::now())
                {
                    return Ok(());
                }
            }
        }
        thread::sleep(ASK_EVERY);
    }
    Ok(())
}

/// The address of a reply with one record.
fn address(reply: &[u8], question: &[u8]) -> Option<Ipv4Addr> {
    let same = reply.get(..2) == question.get(..2);
    let (flags, answers) = (reply.get(3)?, reply.get(6..8)?);
    let ip = reply
        .last_chunk::<4>()
        .filter(|_| reply.len() > question.len());
    (same && flags.trailing_zeros() >= 4 && answers == [0, 1])
        .then_some(())
        .and(ip)
        .map(|ip| Ipv4Addr::from(*ip))
}
