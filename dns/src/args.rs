//! The grammar of `cfgdns`, and nothing else.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use cfgdns_core::{Allow, Identity, UDP_OCTETS_MAX};
use cfgdns_zone::Name;
use clap::{ArgGroup, Parser};

/// Shortest time for which a confirmation may count: one round trip between far colos, thrice.
const STALE_AFTER_MIN: Duration = Duration::from_millis(500);
/// Longest: for so long a server that is cut off goes on to tell what may be over.
const STALE_AFTER_MAX: Duration = Duration::from_mins(10);
/// Less, and a client would be cut off before its first request comes.
const TCP_IDLE_MIN: Duration = Duration::from_secs(1);
const TCP_IDLE_MAX: Duration = Duration::from_mins(10);

/// Where name servers listen (RFC 1035 4.2).
const DNS_PORT: u16 = 53;
/// The same over TLS (RFC 7858 3.1), and over QUIC (RFC 9250 4.1.1), where it is one of UDP.
const ENCRYPTED_PORT: u16 = 853;

/// Whose lines the log has only when they are errors, unless the filter names them: these libraries
/// tell of each request over QUIC, and warn of what any client can do.
const LIBRARIES: [&str; 2] = ["hickory", "quinn"];

/// Authoritative DNS from the group's zones, while the group confirms them
#[derive(Debug, Parser)]
#[command(name = "cfgdns", version, max_term_width = 100)]
#[command(group = ArgGroup::new("encrypted").args(["listen_tls", "listen_quic"]).multiple(true))]
#[command(after_help = "\
Zones and the names that follow roles are put in with `cfgctl zone apply` and `cfgctl zone follow`.
Until the group has confirmed the copy, and whenever it has not done so for --stale-after, every
question is answered with SERVFAIL: extended error 14 (not ready) or 24 (invalid data).

SIGTERM and SIGINT end it when what has been read is answered. SIGHUP reads the files of
--cookie-file, --key-file, --zone-keys and --tls-cert again, and tells all secondaries; what the
options themselves say changes by a restart. See deploy/DNS.md.

QUIC is for clients that you know, and off by default: neither connections nor what clients send on
them is bounded there, and each who stops in a handshake keeps an eighth of new clients waiting 5 s.

Exit codes: 0 done, 1 failed, 2 wrong usage.

Example: cfgdns --key-file /etc/cfgdns/keys --transfer 'key transfer.' --catalog catalog.invalid \
           --notify '192.0.2.54 key transfer.'
Example: cfgdns --listen 192.0.2.53:53 --listen-tls 192.0.2.53 --tls-cert ns1.pem --tls-key ns1.key
         kdig +tls @192.0.2.53 www.example.com
Example: cfgdns --listen 192.0.2.53:53 --listen-quic 10.1.0.53 --tls-cert ns1.pem --tls-key ns1.key
         kdig +quic @10.1.0.53 www.example.com
Example: cfgdns --endpoints 10.1.0.1:2379,10.2.0.1:2379,10.3.0.1:2379 --listen 192.0.2.53:53
Example: cfgdns --listen 127.0.0.1:5300 --http 127.0.0.1:8053 --nsid ns1.akl
         dig -p 5300 @127.0.0.1 www.example.com")]
pub struct Args {
    /// Members of the group, its own colo's first, separated by commas
    #[arg(long, env = "CFGCTL_ENDPOINTS", hide_env = true, value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:2379", value_name = "A,B,C")]
    pub endpoints: Vec<String>,
    /// Where to answer over UDP and TCP; may be given again: 0.0.0.0 has no IPv6, `[::]` no IPv4.
    /// Replies leave from the address that was asked, also where this is one of those two
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5300")]
    pub listen: Vec<SocketAddr>,
    /// Where to answer over TLS (RFC 7858), and transfer zones (RFC 9103), at port 853 unless it is
    /// given; may be given again. TLS 1.3 only
    #[arg(long, value_name = "HOST[:PORT]", value_parser = encrypted_address)]
    #[arg(requires = "tls_cert", requires = "tls_key")]
    pub listen_tls: Vec<SocketAddr>,
    /// Where to answer over QUIC (RFC 9250), without transfers and signed requests, at UDP port 853
    /// unless it is given; may be given again. For clients that you know, see below
    #[arg(long, value_name = "HOST[:PORT]", value_parser = encrypted_address)]
    #[arg(requires = "tls_cert", requires = "tls_key")]
    pub listen_quic: Vec<SocketAddr>,
    /// File with the certificate for --listen-tls and --listen-quic in PEM, and those between it
    /// and the root
    #[arg(long, value_name = "FILE", requires = "encrypted")]
    pub tls_cert: Option<PathBuf>,
    /// File with its private key in PEM, without a password
    #[arg(long, value_name = "FILE", requires = "encrypted")]
    pub tls_key: Option<PathBuf>,
    /// Where to tell load balancers and monitors over HTTP: /fresh, /zones, /metrics, /livez
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<SocketAddr>,
    /// What the group has not confirmed for so long is not told any more; longer than an election
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = stale_after)]
    pub stale_after: Duration,
    /// Who answers, for those who ask (RFC 5001): up to 64 bytes
    #[arg(long, value_name = "TEXT", value_parser = identity)]
    pub nsid: Option<Identity>,
    /// Answer `id.server` and `version.bind` in the class CHAOS; the id is that of --nsid
    #[arg(long, requires = "nsid")]
    pub chaos: bool,
    /// Largest reply over UDP, octets
    #[arg(long, value_name = "OCTETS", default_value_t = UDP_OCTETS_MAX)]
    #[arg(value_parser = clap::value_parser!(u16).range(512..=i64::from(UDP_OCTETS_MAX)))]
    pub udp_size: u16,
    /// Threads for UDP at each address; one for each core by default
    #[arg(long, value_name = "N")]
    pub udp_threads: Option<NonZeroU16>,
    /// Like answers in a second to a network (/24, /56) over UDP, for each --listen; more are
    /// truncated or dropped. Each UDP thread has its share: who asks from one port gets one share.
    /// 0: no limit. Clients with a cookie of ours are not limited
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub rate_limit: u16,
    /// File with the secret of server cookies, 32 hexadecimal digits, that all servers of an
    /// address share; a second line is the one before or after it. By default drawn at the start
    #[arg(long, value_name = "FILE")]
    pub cookie_file: Option<PathBuf>,
    /// File with keys for TSIG (RFC 8945), a line `NAME ALGORITHM BASE64` each, or as tsig-keygen
    /// prints them
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Directory of the private keys of signed zones (K*.private), as `cfgctl zone key generate` or
    /// dnssec-keygen makes them
    #[arg(long, value_name = "DIR")]
    pub zone_keys: Option<PathBuf>,
    /// Who may have whole zones and what has changed in them (AXFR, IXFR): `any`, a NETWORK,
    /// `key NAME` or `NETWORK key NAME`; may be given again. Nobody by default
    #[arg(long = "transfer", value_name = "WHO")]
    pub transfers: Vec<Allow>,
    /// A secondary that is told of changes (NOTIFY): ADDRESS, ADDRESS:PORT, or either with
    /// ` key NAME`; may be given again
    #[arg(long = "notify", value_name = "TARGET")]
    pub notify: Vec<Target>,
    /// Make a zone of this name that lists all others (RFC 9432), for those who may have zones
    #[arg(long, value_name = "NAME", value_parser = zone_name)]
    pub catalog: Option<Name>,
    /// TCP connections at a time; an idle one makes room for a new one. As many again over TLS, and
    /// over QUIC as many requests under way
    #[arg(long, value_name = "N", default_value = "1000")]
    pub tcp_connections: NonZeroUsize,
    /// TCP connections of one client address
    #[arg(long, value_name = "N", default_value = "100")]
    pub tcp_connections_per_client: NonZeroUsize,
    /// How long a TCP connection may be idle, and a TLS handshake take; 1s to 10min
    #[arg(long, value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = tcp_idle)]
    pub tcp_idle: Duration,
    /// What is logged, as in `RUST_LOG`; of what libraries say about QUIC errors alone, but where
    /// the filter names `hickory` or `quinn`
    #[arg(
        long,
        value_name = "FILTER",
        env = "RUST_LOG",
        hide_env = true,
        default_value = "info"
    )]
    pub log: String,
}

impl Args {
    /// The filter of the log, with what libraries say.
    pub fn log_filter(&self) -> String {
        let unnamed = LIBRARIES.iter().filter(|name| !self.log.contains(**name));
        let quiet = unnamed.map(|name| format!("{name}=error"));
        let given = (!self.log.is_empty()).then(|| self.log.clone());
        given.into_iter().chain(quiet).collect::<Vec<_>>().join(",")
    }
}

/// A secondary that is told of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name of the key that messages to it are signed with.
    pub key: Option<Name>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (address, key) = match words[..] {
            [address] => (address, None),
            [address, "key", key] => (address, Some(zone_name(key)?)),
            _ => return Err("is neither ADDRESS[:PORT] nor ADDRESS[:PORT] key NAME".to_owned()),
        };
        let address = with_port(address, DNS_PORT)?;
        Ok(Self { address, key })
    }
}

/// An address, at this port where it has none.
fn with_port(text: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    text.parse()
        .map_err(|_| format!("'{text}' is neither ADDRESS nor ADDRESS:PORT"))
}

fn encrypted_address(text: &str) -> Result<SocketAddr, String> {
    with_port(text, ENCRYPTED_PORT)
}

/// A whole name, with or without its last dot.
fn zone_name(text: &str) -> Result<Name, String> {
    Name::parse(text.as_bytes(), Some(&Name::root())).map_err(|error| error.to_string())
}

fn identity(text: &str) -> Result<Identity, String> {
    Identity::try_from(text).map_err(|error| error.to_string())
}

fn stale_after(text: &str) -> Result<Duration, String> {
    time_within(text, STALE_AFTER_MIN, STALE_AFTER_MAX)
}

fn tcp_idle(text: &str) -> Result<Duration, String> {
    time_within(text, TCP_IDLE_MIN, TCP_IDLE_MAX)
}

fn time_within(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (min..=max).contains(&time) {
        return Ok(time);
    }
    let [min, max] = [min, max].map(humantime::format_duration);
    Err(format!("allowed: {min} to {max}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn grammar_is_consistent_and_limits_are_named() {
        Args::command().debug_assert();
        let parse = |args: &[&str]| {
            let args = ["cfgdns"].iter().chain(args).copied();
            Args::try_parse_from(args).map_err(|error| error.to_string())
        };
        let args = parse(&[]).expect("all have defaults");
        assert_eq!(args.listen, ["127.0.0.1:5300".parse().expect("an address")]);
        let args = parse(&["--notify", "::1", "--notify", "192.0.2.1:5353 key k"]);
        let targets = args.expect("two targets").notify;
        assert_eq!(targets[0].address.to_string(), "[::1]:53");
        assert_eq!(targets[1].address.to_string(), "192.0.2.1:5353");
        let key = targets[1].key.as_ref().map(ToString::to_string);
        assert_eq!(key.as_deref(), Some("k."));
        let error = parse(&["--notify", "ns.example"]).expect_err("a name");
        assert!(
            error.contains("'ns.example' is neither ADDRESS nor"),
            "{error}"
        );
        let files = ["--tls-cert", "c", "--tls-key", "k"];
        let tls = ["--listen-tls", "::1", "--listen-tls", "127.0.0.1:8530"];
        let args = parse(&[&tls[..], &files].concat()).expect("two addresses");
        let addresses = args.listen_tls.iter().map(ToString::to_string);
        let addresses: Vec<_> = addresses.collect();
        assert_eq!(addresses, ["[::1]:853", "127.0.0.1:8530"]);
        let quic = ["--listen-quic", "192.0.2.1", "--listen-quic", "[::1]:8530"];
        let args = parse(&[&quic[..], &files].concat()).expect("without TLS");
        let addresses = args.listen_quic.iter().map(ToString::to_string);
        let addresses: Vec<_> = addresses.collect();
        assert_eq!(addresses, ["192.0.2.1:853", "[::1]:8530"]);
        assert!(args.listen_tls.is_empty());
        parse(&[&quic[..], &tls, &files].concat()).expect("both");
        for (given, missing) in [
            (&tls[..], "--tls-cert"),
            (&quic[..], "--tls-cert"),
            (&[&quic[..], &files[..2]].concat(), "--tls-key"),
            (&[&tls[..], &files[..2]].concat(), "--tls-key"),
            (&files[..], "--listen-tls"),
            (&files[..], "--listen-quic"),
        ] {
            let error = parse(given).expect_err("something is missing");
            assert!(error.contains(missing), "{error}");
        }
        let error = parse(&["--transfer", "192.0.2.1/24"]).expect_err("host bits");
        assert!(error.contains("the network is `192.0.2.0/24`"), "{error}");
        let error = parse(&["--stale-after", "10ms"]).expect_err("too short");
        assert!(error.contains("allowed: 500ms to 10m"), "{error}");
        let error = parse(&["--tcp-idle", "0s"]).expect_err("too short");
        assert!(error.contains("allowed: 1s to 10m"), "{error}");
        let error = parse(&["--udp-size", "4096"]).expect_err("too large");
        assert!(error.contains("4096 is not in 512..=1232"), "{error}");
        let long = "x".repeat(65);
        let error = parse(&["--nsid", &long]).expect_err("too long");
        assert!(error.contains("at most 64 fit"), "{error}");
    }

    #[test]
    fn log_has_of_libraries_what_is_asked_for() {
        for (log, filter) in [
            ("info", "info,hickory=error,quinn=error"),
            ("", "hickory=error,quinn=error"),
            (
                "debug,hickory_server=info",
                "debug,hickory_server=info,quinn=error",
            ),
            ("quinn=trace,hickory=off", "quinn=trace,hickory=off"),
        ] {
            let args = Args::try_parse_from(["cfgdns", "--log", log]).expect("a filter");
            assert_eq!(args.log_filter(), filter);
        }
    }
}
