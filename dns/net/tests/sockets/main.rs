//! Servers on loopback, and what clients see of them.
//!
//! Nothing here waits for a time: a reply, an end, or a count is waited for, at most [`PATIENCE`].

mod binding;
mod client;
mod quic;
mod tcp;
mod tls;
mod udp;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cfgdns_core::{Freshness, Limits, Settings, State, Tree, UDP_OCTETS_MAX, Zones};
use cfgdns_net::{Listen, Server, Shared, TcpLimits, Totals};
use cfgdns_zone::{Name, Source, load};

/// What is not there by then does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A state with a zone that has this address at `www`, and much at `big`.
fn state(www: &str, freshness: Freshness) -> State {
    let mut text = format!("$TTL 60\n@ SOA ns1 root 7 3600 600 604800 60\n@ NS ns1\nns1 A {www}\n");
    writeln!(text, "www A {www}").expect("a string");
    for number in 0..40 {
        writeln!(text, "big TXT \"{number:0>100}\"").expect("a string");
    }
    state_of(&text, freshness)
}

/// A state with this zone.
fn state_of(text: &str, freshness: Freshness) -> State {
    let origin: Name = "example.".parse().expect("a name");
    let source = Source {
        file: "zone",
        text: text.as_bytes(),
        origin: &origin,
    };
    let loaded = load(&source).unwrap_or_else(|report| panic!("{report}"));
    State {
        zones: Zones::new([Arc::new(Tree::build(&loaded.zone).expect("it has an SOA"))]),
        freshness,
        settings: Settings {
            udp_octets_max: UDP_OCTETS_MAX,
            ..Settings::default()
        },
    }
}

fn fresh() -> State {
    state("192.0.2.1", Freshness::Until(u64::MAX))
}

fn listen(addresses: &[&str]) -> Listen {
    let address = |text: &&str| text.parse().expect("an address");
    Listen {
        addresses: addresses.iter().map(address).collect(),
        udp_threads: NonZeroU16::new(2).expect("two"),
        tcp_threads: NonZeroU16::MIN,
        rate_limit: None,
        tcp: TcpLimits::USUAL,
        tls: None,
        quic: None,
        shutdown_timeout: Duration::from_secs(10),
    }
}

/// A server, and what it answers from.
struct Running {
    server: Server,
    shared: Arc<Shared>,
}

impl Running {
    fn new(listen: &Listen) -> Self {
        let shared = Arc::new(Shared::new(fresh()));
        let server = Server::bind(listen, &shared).expect("loopback is there");
        Self { server, shared }
    }

    fn address(&self) -> SocketAddr {
        self.server.addresses()[0]
    }

    /// Ends the server: nothing is left of it.
    fn shutdown(self) -> Totals {
        let totals = self.server.shutdown();
        assert_eq!(
            Arc::strong_count(&self.shared),
            1,
            "a thread or a task is left"
        );
        assert_eq!(totals.tcp_open, 0);
        totals
    }

    /// Waits until the counters are so.
    fn until(&self, what: &str, condition: impl Fn(&Totals) -> bool) -> Totals {
        let start = Instant::now();
        loop {
            let totals = self.server.totals();
            if condition(&totals) {
                return totals;
            }
            assert!(start.elapsed() < PATIENCE, "not {what}: {totals:#?}");
            std::thread::yield_now();
        }
    }
}

fn rate_limit(per_second: u16) -> Limits {
    Limits {
        per_second,
        slip: 0,
        entries: 1_000,
    }
}

fn number(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("not zero")
}
