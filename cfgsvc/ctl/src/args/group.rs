//! Grammar of the commands about the group.

use cfgsvc_core::placement::{Name, RoleName};
use clap::{Args, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List the members
    #[command(after_help = "Example: cfgctl member list")]
    List,
    /// Register a member before it is started with --join
    #[command(after_help = "Example: cfgctl member add n4 --peer 10.0.0.4:2380 --colo akl")]
    Add {
        /// Its name
        name: String,
        /// HOST:PORT at which the other members will reach it
        #[arg(long, value_name = "HOST:PORT")]
        peer: String,
        /// Its failure domain
        #[arg(long, default_value = "", hide_default_value = true)]
        colo: String,
        /// It stays a learner, without a vote, when it has caught up
        #[arg(long)]
        learner: bool,
    },
    /// Remove a member for good
    #[command(after_help = "Example: cfgctl member remove n3")]
    Remove {
        /// Its name or id (hexadecimal)
        member: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Give a learner that has caught up a vote
    #[command(after_help = "Example: cfgctl member promote n4")]
    Promote {
        /// Its name or id (hexadecimal)
        member: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaderCommand {
    /// Print the leader
    #[command(after_help = "Example: cfgctl leader show")]
    Show,
    /// Hand the leadership over to a member
    #[command(after_help = "Example: cfgctl leader move n2")]
    Move {
        /// Its name or id (hexadecimal)
        member: String,
    },
    /// Have the group led from a colo, or from where a role is held
    #[command(after_help = "Example: cfgctl leader prefer akl
Example: cfgctl leader prefer --role web
Example: cfgctl leader prefer --none")]
    Prefer {
        /// The colo
        #[arg(required_unless_present_any = ["role", "none"])]
        colo: Option<Name>,
        /// The colo that holds this role, or that the host is in that does
        #[arg(long, conflicts_with = "colo")]
        role: Option<RoleName>,
        /// It is of no importance
        #[arg(long, conflicts_with_all = ["colo", "role"])]
        none: bool,
        /// Print what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Save the state of the group in a file
    Save(SnapshotSaveArgs),
    /// Print what a snapshot file holds, and check it
    #[command(after_help = "Example: cfgctl snapshot inspect group.snapshot")]
    Inspect {
        /// The file
        file: PathBuf,
    },
    /// Fill an empty, running group from a snapshot file
    Restore(SnapshotRestoreArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example: cfgctl snapshot save group.snapshot")]
pub(crate) struct SnapshotSaveArgs {
    /// The file
    pub(crate) file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The group must be empty: nothing may ever have been written to it.

Revisions are left out, so that none is given again that the former group gave to changes which
the file does not hold: locks, epochs and caches depend on that. It should be more than the writes
that the former group may have made since. Reads and watches at what was left out are refused as
compacted.

Example: cfgctl snapshot restore group.snapshot --yes"
)]
pub(crate) struct SnapshotRestoreArgs {
    /// The file
    pub(crate) file: PathBuf,
    /// Revisions to leave out [default: 1000000000; 0 for a file that was recovered offline, which
    /// has left out as many]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) advance: Option<i64>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: cfgctl completions bash > /etc/bash_completion.d/cfgctl")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}
