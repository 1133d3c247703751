//! Grammar of the commands about colos, hosts and roles.

use cfgsvc_core::placement::{Name, RoleName};
use clap::{Args, Subcommand, ValueEnum};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum ColoCommand {
    /// Add a colo, or give it other addresses
    #[command(after_help = "Example: cfgctl colo add akl --address 192.0.2.10")]
    Add {
        /// Its name
        name: Name,
        /// Where its clients are sent; may be repeated
        #[arg(long = "address", value_name = "ADDRESS")]
        addresses: Vec<String>,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// List the colos
    #[command(after_help = "Example: cfgctl colo list")]
    List,
    /// Give a role that colos hold to a colo
    #[command(
        after_help = "Roles that follow it go along, in one commit, and are waited for and printed.
What a person decides about (manual, paused) stays.

Example: cfgctl colo activate wlg --role web --dry-run"
    )]
    Activate {
        /// The colo
        name: Name,
        /// The role that colos hold
        #[arg(long)]
        role: RoleName,
        #[command(flatten)]
        how: MoveArgs,
    },
    /// Have the group give no role to a colo, or to a host in it, by itself
    #[command(
        after_help = "Roles that it holds stay where they are: switch them, or activate another.

Example: cfgctl colo drain akl --reason 'power works'"
    )]
    Drain {
        /// The colo
        name: Name,
        /// The group may give it roles again
        #[arg(long)]
        undo: bool,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget a colo that has no host and no role
    #[command(after_help = "Example: cfgctl colo delete akl")]
    Delete {
        /// The colo
        name: Name,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// List the hosts, and the roles that each attends
    #[command(after_help = "Example: cfgctl host list")]
    List,
    /// Forget a host whose agent is stopped for good, and which is no candidate of a role
    #[command(after_help = "Example: cfgctl host delete h1")]
    Delete {
        /// The host
        name: Name,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Who can hold a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    /// One host
    Host,
    /// A colo: all its hosts may serve
    Colo,
}

/// Who decides on the next holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailoverArg {
    /// The group, when the last one is over
    Auto,
    /// A person
    Manual,
}

/// How positions are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataArg {
    /// Nothing is kept from one holder to the next
    None,
    /// A number in one sequence of writes
    Number,
    /// The last transaction of each server, as in `MariaDB`'s `gtid_binlog_state`
    Gtid,
    /// Timelines of `PostgreSQL`, and where each ends
    Lsn,
}

/// A setting that may be taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OrNone<T> {
    /// There is none.
    Nothing,
    /// This one.
    Some(T),
}

impl<T> OrNone<T> {
    pub(crate) fn into_option(self) -> Option<T> {
        match self {
            Self::Nothing => None,
            Self::Some(value) => Some(value),
        }
    }
}

fn or_none<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<OrNone<T>, String> {
    if text == "none" {
        return Ok(OrNone::Nothing);
    }
    let value = text.parse().map(OrNone::Some);
    value.map_err(|error| format!("{error}; or `none`"))
}

/// `cfgctl failover`.
#[derive(Debug, Args)]
#[command(after_help = "\
With a ROLE it goes to the first candidate that may take it by its policy, now, without hold-down
and interval; a person may choose another by `cfgctl role switch`. Without one it prints each role
that has a reason to move by votes, and what keeps it. What was decided, and why, is the history
of a role's grant: `cfgctl history /cfgsvc/grants/ROLE`.

Example: cfgctl failover --dry-run
Example: cfgctl failover web --dry-run
Example: cfgctl failover --pause --reason 'work on the network'
Example: cfgctl failover --hold-down 5s --interval 10min")]
pub(crate) struct FailoverArgs {
    /// The role that is to go to its next candidate
    #[arg(conflicts_with_all = ["pause", "resume", "hold_down", "interval"])]
    pub(crate) role: Option<RoleName>,
    /// Decide nothing by votes; leases end as ever
    #[arg(long, conflicts_with = "resume")]
    pub(crate) pause: bool,
    /// Decide by votes again
    #[arg(long)]
    pub(crate) resume: bool,
    /// How long something must be so before the group acts on it [default: 3s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) hold_down: Option<Duration>,
    /// Shortest time between two decisions about one role [default: 1min]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) interval: Option<Duration>,
    #[command(flatten)]
    pub(crate) how: MoveArgs,
}

/// How a role is moved.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// Only if the role is at this epoch
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(crate) epoch: i64,
    /// The next holder may lack what the last one wrote
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// Longest wait until the last holder has stopped and the next one has begun
    #[arg(long, value_name = "TIME", default_value = "1min")]
    #[arg(value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What is said of a role; what is not given stays, or has its default.
#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// Its name: names separated by slashes
    pub(crate) role: RoleName,
    /// Who can hold it [default: host]
    #[arg(long, value_enum)]
    pub(crate) kind: Option<KindArg>,
    /// How long a renewal counts [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) term: Option<Duration>,
    /// How long a holder needs to stop [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) stop: Option<Duration>,
    /// How far two clocks may differ in rate, parts per million [default: 1000]
    #[arg(long, value_name = "PPM")]
    pub(crate) rate_ppm: Option<u64>,
    /// How long the group waits after a holder that was lost [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) lock_delay: Option<Duration>,
    /// Who decides on the next holder [default: auto]
    #[arg(long, value_enum)]
    pub(crate) failover: Option<FailoverArg>,
    /// Who may hold it, the best first [default: anybody]
    #[arg(long, value_delimiter = ',', value_name = "A,B,C")]
    pub(crate) candidates: Option<Vec<Name>>,
    /// How positions of data are compared [default: none]
    #[arg(long, value_enum)]
    pub(crate) data: Option<DataArg>,
    /// Only hosts that the holder says are in sync follow it when it is lost [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true")]
    pub(crate) sync: Option<bool>,
    /// What may be missing where the group gives it to when the holder is lost: transactions,
    /// bytes, or units; the most advanced host is next [default: none, which asks nothing]
    #[arg(long, value_name = "N|none", value_parser = or_none::<u64>)]
    pub(crate) max_lag: Option<OrNone<u64>>,
    /// Goes with this role of a colo: only a host in the colo that holds it may have this one
    #[arg(long, value_name = "ROLE|none", value_parser = or_none::<RoleName>)]
    pub(crate) follows: Option<OrNone<RoleName>>,
    /// How other hosts see that the holder serves, at its first address: `tcp`, or `http:/PATH`
    /// that answers 200
    #[arg(long, value_name = "tcp|http:/PATH|none", value_parser = or_none::<String>)]
    pub(crate) check: Option<OrNone<String>>,
    /// Candidates in the colo of the last holder first [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true")]
    pub(crate) same_colo: Option<bool>,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// Create a role, or change what is said of it
    #[command(
        after_help = "A host that holds a role stops by itself when it could not renew for the
term, less the time to stop. The group gives the role to another no earlier than the term, plus
the error of clocks, plus the lock-delay after the last renewal.

Example: cfgctl role create db/orders --candidates h1,h2 --data number
Example: cfgctl role create db/orders --data gtid --sync --follows web"
    )]
    Create(RoleArgs),
    /// List the roles
    #[command(after_help = "Example: cfgctl role list -o json")]
    List,
    /// Print who holds a role, who is there for it, and what each may do
    #[command(after_help = "Example: cfgctl role show db/orders --watch")]
    Show {
        /// The role
        role: RoleName,
        /// Print it again at every change, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Give a role that nobody holds to a host or colo
    #[command(after_help = "Example: cfgctl role grant db/orders h1")]
    Grant {
        /// The role
        role: RoleName,
        /// The host or colo
        to: Name,
        #[command(flatten)]
        how: MoveArgs,
    },
    /// Give a role that somebody holds to another, who gets it when the first has stopped
    #[command(
        after_help = "Example: cfgctl role switch db/orders h2 --reason 'kernel update on h1'"
    )]
    Switch {
        /// The role
        role: RoleName,
        /// The host or colo
        to: Name,
        #[command(flatten)]
        how: MoveArgs,
    },
    /// Take a role from who holds it; nobody does then
    #[command(
        after_help = "A role that the group gives by itself must be paused first. A lock, that
is locks/NAME, goes to the next who waits for it.

Example: cfgctl role pause db/orders && cfgctl role release db/orders"
    )]
    Release {
        /// The role
        role: RoleName,
        #[command(flatten)]
        how: MoveArgs,
    },
    /// Have the group decide nothing about a role by itself
    #[command(after_help = "Example: cfgctl role pause db/orders --reason 'network works'")]
    Pause {
        /// The role
        role: RoleName,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Have the group decide again
    #[command(after_help = "Example: cfgctl role resume db/orders")]
    Resume {
        /// The role
        role: RoleName,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print whether an epoch is the newest of a role
    #[command(
        after_help = "For a resource that is asked to act for a holder. The exit code is 0 when
it is the newest, and its holder is not asked to stop; else 1. A resource that remembers the
highest epoch it was given, and refuses a lower one, need not ask.

Example: cfgctl role check locks/nightly-backup 4711"
    )]
    Check {
        /// The role; that of a lock or an election NAME is locks/NAME
        role: RoleName,
        /// The epoch that the resource was given
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        epoch: i64,
    },
    /// Delete a role that nobody attends
    #[command(after_help = "Example: cfgctl role delete db/orders")]
    Delete {
        /// The role
        role: RoleName,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}
