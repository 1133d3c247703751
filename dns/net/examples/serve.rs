//! A name server of one zone out of a file, always fresh: to measure the sockets, and to try them.
//!
//! Run: `cargo run --release -p cfgdns-net --example serve -- 127.0.0.1:5300 example. FILE`
//! until SIGINT or SIGTERM; then it says what it has counted.

#![expect(clippy::print_stdout, reason = "its output is the result")]

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cfgdns_core::{Freshness, Settings, State, Tree, UDP_OCTETS_MAX, Zones};
use cfgdns_net::{Listen, Server, Shared, TcpLimits};
use cfgdns_zone::{Name, Source, load};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn state(origin: &str, file: &str) -> Result<State> {
    let text = std::fs::read(file).with_context(|| format!("read {file}"))?;
    let origin: Name = origin.parse().context("the origin is no name")?;
    let source = Source {
        file,
        text: &text,
        origin: &origin,
    };
    let loaded = load(&source).map_err(|report| anyhow::anyhow!("{report}"))?;
    let tree = Tree::build(&loaded.zone).context("build the zone")?;
    Ok(State {
        zones: Zones::new([Arc::new(tree)]),
        freshness: Freshness::Until(u64::MAX),
        settings: Settings {
            udp_octets_max: UDP_OCTETS_MAX,
            ..Settings::default()
        },
    })
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    ensure!(
        (3..=4).contains(&arguments.len()),
        "usage: serve ADDRESS:PORT ORIGIN FILE [UDP_THREADS]"
    );
    let address: SocketAddr = arguments[0].parse().context("the address")?;
    let threads: NonZeroU16 = match arguments.get(3) {
        Some(threads) => threads.parse().context("the number of threads")?,
        None => NonZeroU16::MIN,
    };
    let shared = Arc::new(Shared::new(state(&arguments[1], &arguments[2])?));
    let listen = Listen {
        addresses: vec![address],
        udp_threads: threads,
        tcp_threads: NonZeroU16::MIN,
        rate_limit: None,
        tcp: TcpLimits::USUAL,
        tls: None,
        quic: None,
        shutdown_timeout: Duration::from_secs(2),
    };
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("wait for signals")?;
    let server = Server::bind(&listen, &shared)?;
    println!("listening on {}", server.addresses()[0]);
    signals.forever().next();
    println!("{:#?}", server.shutdown());
    Ok(())
}
