//! The command line, and what a run is asked to do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "Examples:
  bench put --endpoints 127.0.0.1:2379 --clients 64
  bench put --endpoints 127.0.0.1:2379,127.0.0.1:2479 --rate 500 --pids 4242,4243
  bench mixed --writes 10 --clients 64 --json mixed.json
  bench watch --watchers 1000 --streams 10 --rate 10
  bench role-hosts --hosts 10000 --roles 1000 --term 10 --pids 4242,4243,4244
  bench votes --hosts 10,100,1000
  bench beside-etcd --quick --json ratios.json

Without --rate the loop is closed: every client sends when its last request was answered. With
--rate it is open: requests are due at that rate, and latency counts from when one was due.";

/// Drives any etcd v3 endpoint and measures it.
#[derive(Debug, Parser)]
#[command(name = "bench", after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Puts of random keys.
    Put(Common),
    /// Compare-and-swap on the modification revision; every client has its own key.
    Cas(Common),
    /// Linearizable gets of random keys.
    GetLinearizable(Common),
    /// Gets answered from the member's own state.
    GetSerializable(Common),
    /// Gets, and puts among them.
    Mixed {
        #[command(flatten)]
        common: Common,
        /// Puts in a hundred requests.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
        writes: u8,
        /// Gets are serializable, not linearizable.
        #[arg(long)]
        serializable: bool,
    },
    /// Linearizable ranges with values.
    Range {
        #[command(flatten)]
        common: Common,
        /// Keys in an answer.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Puts to one key that many watch; latency from a put being due to its event at a watcher.
    Watch {
        #[command(flatten)]
        common: Common,
        /// Watchers in all.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        watchers: u32,
        /// Streams that they share.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        streams: u32,
    },
    /// A lease granted, a key put with it, the lease revoked: one request in the figures.
    LeaseChurn(Common),
    /// Leases renewed over a stream of each client.
    KeepAlive {
        #[command(flatten)]
        common: Common,
        /// Leases in all, at least one a client.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        leases: u32,
    },
    /// Hosts that take part in roles: each renews the lease of one, and hears its verdicts.
    RoleHosts(RoleHosts),
    /// What votes cost: bytes of probes and rows, and the leader's work; in this process alone.
    Votes(Votes),
    /// From the commit of a failover to the changed answer at every name server.
    DnsFailover(DnsFailover),
    /// Runs the loads in turns against three cfgsvcd and three etcd, and prints ratios.
    BesideEtcd(Beside),
}

/// What every load takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Members, HOST:PORT, separated by commas; connections go to them in turn.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// Clients, each with one request in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Connections that the clients share; without it one a client (or a stream of watchers), at
    /// most 100.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: Option<u32>,
    /// Seconds that are measured.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Seconds of load before that.
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub warmup: Duration,
    /// Requests a second of all clients together: makes the loop open.
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// Bytes of a value; they do not compress.
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// Keys that are read and written.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub keys: u32,
    /// Process ids of the servers, separated by commas: their CPU time and memory are told.
    #[arg(long, value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Threads of this program.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub threads: u8,
    /// Write the figures to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Simulated hosts.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoleHosts {
    /// Members, HOST:PORT, separated by commas; connections go to them in turn.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// Hosts that it plays.
    #[arg(long = "hosts", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Roles that they take part in, each in one.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub roles: u32,
    /// Connections that they share; without it, each has its own.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: Option<u32>,
    /// Term of the roles, seconds; a fifth of it is the time to stop.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub term: Duration,
    /// Seconds that are measured, after one term.
    #[arg(long, default_value = "20", value_parser = seconds)]
    pub seconds: Duration,
    /// Process ids of the servers, separated by commas: their CPU time and memory are told.
    #[arg(long, value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Write the figures to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Fleets to be looked at.
#[derive(Debug, Clone, Args)]
pub(crate) struct Votes {
    /// Hosts in three colos, one fleet after the other.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
    pub hosts: Vec<u16>,
    /// Write the figures to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// A role that moves, and name servers that follow.
#[derive(Debug, Clone, Args)]
pub(crate) struct DnsFailover {
    /// Moves of the role.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub moves: u32,
    /// Name servers, each with a member of the group as its first endpoint.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub servers: u16,
    /// Zones with a name that follows the role.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub zones: u32,
    /// Milliseconds between two moves. With many zones the name servers have work after a move,
    /// what secondaries are sent, which the next move would meet.
    #[arg(long, default_value_t = 20)]
    pub rest_ms: u64,
    /// Where cfgsvcd and cfgdns are; without it beside this program.
    #[arg(long)]
    pub binaries: Option<PathBuf>,
    /// Write the figures to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// How two groups are compared.
#[derive(Debug, Clone, Args)]
pub(crate) struct Beside {
    /// One short turn of each load, about two minutes in all: a look, not a measurement.
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "warmup"])]
    pub quick: bool,
    /// Turns of each load for each of the two.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds measured in a turn.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub seconds: Duration,
    /// Seconds of load before that.
    #[arg(long, default_value = "1.5", value_parser = seconds)]
    pub warmup: Duration,
    /// Only loads whose name contains one of these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Where both keep their data, in directories that are removed; without it the system's
    /// directory for temporary files.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Our server; without it the one beside this program.
    #[arg(long)]
    pub cfgsvcd: Option<PathBuf>,
    /// The other server.
    #[arg(long, default_value = "/usr/bin/etcd")]
    pub etcd: PathBuf,
    /// Write the figures of every turn, the medians and the ratios to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    Put,
    Cas,
    Get { serializable: bool },
    Mixed { writes: u8, serializable: bool },
    Range { limit: u32 },
    Watch { watchers: u32, streams: u32 },
    LeaseChurn,
    KeepAlive { leases: u32 },
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// A load under the name that it is reported by.
    Load(&'static str, Load, Common),
    RoleHosts(RoleHosts),
    Votes(Votes),
    Beside(Beside),
    DnsFailover(DnsFailover),
}

impl Command {
    /// What the command asks for.
    pub(crate) fn task(self) -> Task {
        let (name, load, common) = match self {
            Self::Put(common) => ("put", Load::Put, common),
            Self::Cas(common) => ("cas", Load::Cas, common),
            Self::GetLinearizable(common) => {
                let serializable = false;
                ("get-linearizable", Load::Get { serializable }, common)
            }
            Self::GetSerializable(common) => {
                let serializable = true;
                ("get-serializable", Load::Get { serializable }, common)
            }
            Self::Mixed {
                common,
                writes,
                serializable,
            } => {
                let load = Load::Mixed {
                    writes,
                    serializable,
                };
                ("mixed", load, common)
            }
            Self::Range { common, limit } => ("range", Load::Range { limit }, common),
            Self::Watch {
                common,
                watchers,
                streams,
            } => ("watch", Load::Watch { watchers, streams }, common),
            Self::LeaseChurn(common) => ("lease-churn", Load::LeaseChurn, common),
            Self::KeepAlive { common, leases } => {
                ("keep-alive", Load::KeepAlive { leases }, common)
            }
            Self::RoleHosts(hosts) => return Task::RoleHosts(hosts),
            Self::Votes(votes) => return Task::Votes(votes),
            Self::DnsFailover(options) => return Task::DnsFailover(options),
            Self::BesideEtcd(beside) => return Task::Beside(beside),
        };
        Task::Load(name, load, common)
    }
}

impl Load {
    /// Refuses settings that cannot be met.
    pub(crate) fn check(self, common: &Common) -> Result<()> {
        let least = if let Self::Watch { .. } = self {
            crate::watch::STAMP_BYTES
        } else {
            0
        };
        ensure!(
            common.value_bytes >= least,
            "--value-bytes {} is too small: a watched value carries {least} bytes of time",
            common.value_bytes
        );
        if let Self::Range { limit } = self {
            ensure!(
                limit <= common.keys,
                "--limit {limit} is more than there are keys: raise --keys {}",
                common.keys
            );
        }
        if let Self::Watch { watchers, streams } = self {
            ensure!(
                streams <= watchers,
                "--streams {streams} is more than --watchers {watchers}: a stream needs a watcher"
            );
        }
        ensure!(
            !common.seconds.is_zero(),
            "--seconds 0 measures nothing: give at least 0.1"
        );
        Ok(())
    }

    /// Connections where none are asked for.
    pub(crate) fn connections(self, common: &Common) -> u32 {
        let wanted = if let Self::Watch { streams, .. } = self {
            streams.max(common.clients)
        } else {
            common.clients
        };
        common.connections.unwrap_or(wanted.min(100))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected seconds, such as 2.5")?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err(format!("{seconds} is not between 0 and 86400 seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected requests a second")?;
    if !(0.01..=10_000_000.0).contains(&rate) {
        return Err(format!("{rate} is not between 0.01 and 10000000 a second"));
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> (Load, Common) {
        let arguments = Arguments::try_parse_from(line.split(' ')).expect("it is well formed");
        match arguments.command.task() {
            Task::Load(_, load, common) => (load, common),
            Task::RoleHosts(_) | Task::Votes(_) | Task::Beside(_) | Task::DnsFailover(_) => {
                panic!("{line} is no load")
            }
        }
    }

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    #[test]
    fn settings_that_cannot_be_met_are_named() {
        for (line, named) in [
            ("bench watch --value-bytes 7", "--value-bytes 7"),
            ("bench range --keys 10", "--keys 10"),
            ("bench watch --watchers 5 --streams 6", "--streams 6"),
            ("bench put --seconds 0", "--seconds 0"),
        ] {
            let (load, common) = parsed(line);
            let error = load.check(&common).expect_err(line).to_string();
            assert!(error.contains(named), "{error}");
        }
        for line in [
            "bench put --rate 0",
            "bench put --seconds -1",
            "bench mixed --writes 101",
        ] {
            assert!(
                Arguments::try_parse_from(line.split(' ')).is_err(),
                "{line}"
            );
        }
    }

    #[test]
    fn connections_follow_clients_and_streams_up_to_a_hundred() {
        for (line, expected) in [
            ("bench put --clients 3", 3),
            ("bench put --clients 1000", 100),
            ("bench put --clients 1000 --connections 300", 300),
            ("bench watch --clients 1 --watchers 50 --streams 10", 10),
        ] {
            let (load, common) = parsed(line);
            assert_eq!(load.connections(&common), expected, "{line}");
        }
    }
}
