//! The checked settings, and the rules between them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Resolver, parse};

/// How this member comes into the group when its data directory is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// One of the first members: name to peer address, this member included.
    Initial(BTreeMap<String, String>),
    /// A later member: asks at this client address.
    Join {
        /// HOST:PORT of any member's client side.
        address: String,
        /// Stay a learner when caught up.
        learner: bool,
    },
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the server runs with. All checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Unique name in the group.
    pub name: String,
    /// Failure domain.
    pub colo: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// HOST:PORT for clients.
    pub listen_client: String,
    /// HOST:PORT for members.
    pub listen_peer: String,
    /// What clients are told; at least one HOST:PORT.
    pub advertise_client: Vec<String>,
    /// What members are told.
    pub advertise_peer: String,
    /// How a new data directory comes into the group.
    pub start: Start,
    /// Accept a data directory that was copied or moved.
    pub danger_adopt_copied_data: bool,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Time without a leader after which an election starts.
    pub election: Duration,
    /// Log entries between snapshots.
    pub snapshot_entries: u64,
    /// Age from which history is compacted.
    pub compact_after: Option<Duration>,
    /// Revisions that compaction keeps.
    pub compact_keep: Option<u64>,
    /// Bytes of data above which writes are refused.
    pub quota_bytes: Option<u64>,
    /// Largest encoded write request in bytes.
    pub max_request_bytes: usize,
    /// Free bytes of disk below which writes are refused.
    pub min_free_bytes: u64,
    /// Filter of log lines.
    pub log: String,
    /// Form of log lines.
    pub log_format: LogFormat,
}

impl Settings {
    /// Least time to live of a lease in seconds: one and a half elections, so that an election does
    /// not outlive it.
    pub fn min_lease_ttl_s(&self) -> i64 {
        let ms = self.election.as_millis() * 3 / 2;
        i64::try_from(ms.div_ceil(1000)).unwrap_or(i64::MAX)
    }
}

/// Reads and checks all settings; `None` when one that others need is bad.
pub(super) fn build(from: &mut Resolver<'_>) -> Option<Settings> {
    let name = from.get("name", parse::name);
    let colo = from.get("colo", parse::name);
    let data_dir = from.get("data-dir", parse::path);
    let learner = from.get("learner", parse::switch);
    let danger_adopt_copied_data = from.get("danger-adopt-copied-data", parse::switch);
    let join = from.get("join", parse::host_port);
    let heartbeat_ms = from.get("heartbeat-ms", |text| parse::number(text, 1..=10_000));
    let election_ms = from.get("election-ms", |text| parse::number(text, 10..=50_000));
    let snapshot_entries = from.get("snapshot-entries", |text| {
        parse::number(text, 100..=1_000_000_000)
    });
    let compact_after = from.get("compact-after", parse::duration);
    let compact_keep = from.get("compact-keep", |text| parse::number(text, 0..=1 << 40));
    let quota_bytes = from.get("quota-bytes", |text| parse::bytes(text, 0..=1 << 50));
    // The upper bound is the gRPC limit for a received message, less room for the rest of it.
    let max_request_bytes = from.get("max-request-bytes", |text| {
        parse::bytes(text, 1024..=(3 << 19))
    });
    let min_free_bytes = from.get("min-free-bytes", |text| parse::bytes(text, 0..=1 << 50));
    let log = from.get("log", log_filter);
    let log_format = from.get("log-format", log_format);

    let initial = from.get("initial-cluster", parse::cluster);

    // All is read before anything is given up: all that is bad is reported together.
    check_timing(from, heartbeat_ms, election_ms);
    check_start(from, learner);
    let own = initial
        .as_ref()
        .and_then(|all| all.get(name.as_deref()?).cloned());
    let at = addresses(from, own)?;
    let start = match join {
        Some(address) => Start::Join {
            address,
            learner: learner?,
        },
        None => initial_start(from, name.as_deref()?, &at.advertise_peer, initial)?,
    };
    Some(Settings {
        name: name?,
        colo: colo?,
        data_dir: data_dir?,
        listen_client: at.listen_client,
        listen_peer: at.listen_peer,
        advertise_client: at.advertise_client,
        advertise_peer: at.advertise_peer,
        start,
        danger_adopt_copied_data: danger_adopt_copied_data?,
        heartbeat: Duration::from_millis(heartbeat_ms?),
        election: Duration::from_millis(election_ms?),
        snapshot_entries: snapshot_entries?,
        compact_after: compact_after?,
        compact_keep: compact_keep.filter(|count| *count > 0),
        quota_bytes: quota_bytes.filter(|bytes| *bytes > 0),
        max_request_bytes: usize::try_from(max_request_bytes?).ok()?,
        min_free_bytes: min_free_bytes?,
        log: log?,
        log_format: log_format?,
    })
}

/// Where this member listens, and what others are told.
struct Addresses {
    listen_client: String,
    listen_peer: String,
    advertise_client: Vec<String>,
    advertise_peer: String,
}

/// `own` is the peer address of this member in `--initial-cluster`.
fn addresses(from: &mut Resolver<'_>, own: Option<String>) -> Option<Addresses> {
    let listen_client = from.get("listen-client", parse::host_port);
    let listen_peer = from
        .get("listen-peer", parse::host_port)
        .or_else(|| own.clone());
    let advertise_client = from.get("advertise-client", parse::host_ports);
    let advertise_peer = from.get("advertise-peer", parse::host_port).or(own);
    let listen_peer = listen_peer.unwrap_or_else(|| "127.0.0.1:2380".to_owned());
    let listen_client = listen_client?;
    if listen_client == listen_peer {
        from.refuse(
            "listen-peer",
            format!("another address than {listen_client} of --listen-client"),
        );
    }
    let advertise_client = match advertise_client {
        Some(addresses) => addresses,
        None => vec![own_address(
            from,
            "advertise-client",
            "listen-client",
            &listen_client,
        )?],
    };
    let advertise_peer = match advertise_peer {
        Some(address) => address,
        None => own_address(from, "advertise-peer", "listen-peer", &listen_peer)?,
    };
    Some(Addresses {
        listen_client,
        listen_peer,
        advertise_client,
        advertise_peer,
    })
}

/// An election that comes before a few heartbeats could be lost is an election for nothing.
fn check_timing(from: &mut Resolver<'_>, heartbeat_ms: Option<u64>, election_ms: Option<u64>) {
    if let (Some(heartbeat), Some(election)) = (heartbeat_ms, election_ms)
        && election < 5 * heartbeat
    {
        from.refuse(
            "election-ms",
            format!("at least 5 heartbeats of {heartbeat} ms"),
        );
    }
}

/// What others are told when nothing else is set: where this member listens, if that is a host.
fn own_address(
    from: &mut Resolver<'_>,
    advertise: &'static str,
    listen: &str,
    address: &str,
) -> Option<String> {
    if is_any(address) {
        from.refuse(advertise, reachable(listen, address));
        return None;
    }
    Some(address.to_owned())
}

/// A member founds a group or joins one.
fn check_start(from: &mut Resolver<'_>, learner: Option<bool>) {
    let joins = from.find("join").is_some();
    if joins && from.find("initial-cluster").is_some() {
        from.refuse("join", "not together with --initial-cluster");
    }
    if !joins && learner == Some(true) {
        from.refuse("learner", "only together with --join");
    }
}

/// The founders: `initial`, or this member alone.
fn initial_start(
    from: &mut Resolver<'_>,
    name: &str,
    advertise_peer: &str,
    initial: Option<BTreeMap<String, String>>,
) -> Option<Start> {
    if from.find("initial-cluster").is_none() {
        return Some(Start::Initial(
            [(name.to_owned(), advertise_peer.to_owned())].into(),
        ));
    }
    let initial = initial?;
    match initial.get(name) {
        None => from.refuse(
            "initial-cluster",
            format!("a list that has this member, `{name}=...`"),
        ),
        Some(own) if own != advertise_peer => from.refuse(
            "advertise-peer",
            format!("the address of `{name}` in --initial-cluster, {own}"),
        ),
        Some(_) => {}
    }
    Some(Start::Initial(initial))
}

/// Whether an address means all interfaces, which nobody can connect to.
fn is_any(address: &str) -> bool {
    address.starts_with("0.0.0.0:") || address.starts_with("[::]:")
}

fn reachable(listen: &str, address: &str) -> String {
    format!("HOST:PORT that others can reach; --{listen} {address} names no host")
}

fn log_filter(text: &str) -> Result<String, String> {
    let expected = || "off, error, warn, info, debug, trace, or TARGET=LEVEL pairs".to_owned();
    // tracing-subscriber 0.3.23 cuts inside of characters of more than one byte, and panics.
    if !text.is_ascii() {
        return Err(expected());
    }
    text.parse::<tracing_subscriber::EnvFilter>()
        .map(|_| text.to_owned())
        .map_err(|_| expected())
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("text or json".to_owned()),
    }
}
