//! The grammar of the command line, and nothing else: what is asked, not how it is done.

mod group;
mod keys;
mod locks;
mod placement;
mod zone;
mod zone_key;

pub(crate) use group::{
    CompletionsArgs, LeaderCommand, MemberCommand, SnapshotCommand, SnapshotRestoreArgs,
    SnapshotSaveArgs,
};
pub(crate) use keys::{
    CompactArgs, DelArgs, DiffArgs, ExportArgs, GetArgs, HistoryArgs, ImportArgs, LeaseCommand,
    RollbackArgs, SetArgs, TxnArgs, WatchArgs,
};
pub(crate) use locks::{ClaimArgs, ElectArgs, LockArgs};
pub(crate) use placement::{
    ColoCommand, DataArg, FailoverArg, FailoverArgs, HostCommand, KindArg, MoveArgs, OrNone,
    RoleArgs, RoleCommand,
};
pub(crate) use zone::{Followed, ZoneApplyArgs, ZoneCommand, ZoneFollowArgs};
pub(crate) use zone_key::{ZoneKeyArgs, ZoneKeyCommand};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::time::Duration;

/// Reads and changes the configuration that a cfgsvc group keeps, and operates the group.
#[derive(Debug, Parser)]
#[command(
    name = "cfgctl",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
#[command(
    after_help = "Data goes to standard output, everything else to standard error.
Exit codes: 0 done, 1 refused or not found, 2 wrong usage, 3 cannot reach the group.

Example: cfgctl --endpoints 10.0.0.1:2379,10.0.0.2:2379 get --prefix app/"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Members of the group, HOST:PORT, separated by commas
    #[arg(
        long,
        global = true,
        env = "CFGCTL_ENDPOINTS",
        value_delimiter = ',',
        hide_env = true
    )]
    #[arg(
        default_value = "127.0.0.1:2379",
        value_name = "A,B,C",
        help_heading = "Global options"
    )]
    pub(crate) endpoints: Vec<String>,
    /// Longest time for one request, such as 500ms or 5s
    #[arg(long, global = true, default_value = "5s", value_parser = humantime::parse_duration)]
    #[arg(value_name = "TIME", help_heading = "Global options")]
    pub(crate) timeout: Duration,
    /// Form of the data on standard output
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    #[arg(value_name = "table|json", hide_possible_values = true)]
    #[arg(help_heading = "Global options")]
    pub(crate) output: Output,
    /// When messages are coloured; `NO_COLOR` in the environment says never
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    #[arg(value_name = "auto|always|never", hide_possible_values = true)]
    #[arg(help_heading = "Global options")]
    pub(crate) color: Color,
    /// Who makes the change, for the history; $USER when not given
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "NAME"
    )]
    pub(crate) author: Option<String>,
    /// Why the change is made, for the history
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "TEXT"
    )]
    pub(crate) reason: Option<String>,
}

/// Form of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people
    Table,
    /// JSON for programs
    Json,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read a key, or all keys with a prefix
    Get(GetArgs),
    /// Set a key
    Set(SetArgs),
    /// Delete a key, or all keys with a prefix
    Del(DelArgs),
    /// Print changes as they happen
    Watch(WatchArgs),
    /// Print the versions of a key, with author, reason and time
    History(HistoryArgs),
    /// Print what differs between two versions of a key, or below a prefix
    Diff(DiffArgs),
    /// Bring back what a key, or all below a prefix, was at a revision
    Rollback(RollbackArgs),
    /// Execute a transaction from a file
    Txn(TxnArgs),
    /// Write files as keys
    Import(ImportArgs),
    /// Write keys as files
    Export(ExportArgs),
    /// Grant, revoke, look at and renew leases
    #[command(subcommand, after_help = "Example: cfgctl lease grant 60s")]
    Lease(LeaseCommand),
    /// Run a command while holding a lock
    Lock(LockArgs),
    /// Stand in an election, or follow who leads
    Elect(ElectArgs),
    /// Add, list, activate and drain colos
    #[command(subcommand, after_help = "Example: cfgctl colo list")]
    Colo(ColoCommand),
    /// List the hosts
    #[command(subcommand, after_help = "Example: cfgctl host list")]
    Host(HostCommand),
    /// Create, look at, grant, switch, release and pause roles
    #[command(subcommand, after_help = "Example: cfgctl role show db/orders")]
    Role(RoleCommand),
    /// Print what the group decides by itself, or have it decide about a role now
    Failover(FailoverArgs),
    /// Put in, print and delete DNS zones, and have names follow roles
    #[command(subcommand, after_help = "Example: cfgctl zone apply example.com.zone")]
    Zone(ZoneCommand),
    /// List, add, remove and promote members
    #[command(subcommand, after_help = "Example: cfgctl member list")]
    Member(MemberCommand),
    /// Print the state of every member
    #[command(after_help = "Example: cfgctl status -o json")]
    Status,
    /// Show or move the leadership
    #[command(subcommand, after_help = "Example: cfgctl leader show")]
    Leader(LeaderCommand),
    /// Save, inspect and restore snapshots
    #[command(
        subcommand,
        after_help = "Example: cfgctl snapshot save group.snapshot"
    )]
    Snapshot(SnapshotCommand),
    /// Forget versions that were replaced before a revision
    Compact(CompactArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the version of cfgctl
    #[command(after_help = "Example: cfgctl version -o json")]
    Version,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }
}
