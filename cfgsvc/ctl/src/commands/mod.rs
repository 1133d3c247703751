//! The commands, one file each.

mod colo;
mod compact;
mod completions;
mod del;
mod diff;
pub(crate) mod dry_run;
mod elect;
mod export;
mod failover;
mod follow;
mod get;
mod history;
mod import;
mod leader;
mod lease;
mod lock;
mod member;
mod role;
mod rollback;
mod set;
mod snapshot;
mod status;
mod txn;
mod version;
mod votes;
mod watch;
mod zone;

use crate::Outcome;
use crate::args::Command;
use crate::context::Context;
use std::time::Duration;

/// A term as the group takes it: whole seconds, never less than was asked for.
fn whole_seconds(term: Duration) -> i64 {
    let seconds = term.as_secs() + u64::from(term.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// Runs one command.
pub(crate) async fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Get(args) => get::run(context, args).await,
        Command::Set(args) => set::run(context, args).await,
        Command::Del(args) => del::run(context, args).await,
        Command::Watch(args) => watch::run(context, args).await,
        Command::History(args) => history::run(context, args).await,
        Command::Diff(args) => diff::run(context, args).await,
        Command::Rollback(args) => Box::pin(rollback::run(context, args)).await,
        Command::Txn(args) => txn::run(context, args).await,
        Command::Import(args) => import::run(context, args).await,
        Command::Export(args) => export::run(context, args).await,
        Command::Lease(command) => lease::run(context, command).await,
        Command::Lock(args) => Box::pin(lock::run(context, args)).await,
        Command::Elect(args) => Box::pin(elect::run(context, args)).await,
        Command::Colo(command) => Box::pin(colo::run(context, command)).await,
        Command::Host(command) => colo::run_host(context, command).await,
        Command::Role(command) => Box::pin(role::run(context, command)).await,
        Command::Failover(args) => Box::pin(failover::run(context, args)).await,
        Command::Zone(command) => Box::pin(zone::run(context, command)).await,
        Command::Member(command) => member::run(context, command).await,
        Command::Status => status::run(context).await,
        Command::Leader(command) => leader::run(context, command).await,
        Command::Snapshot(command) => snapshot::run(context, command).await,
        Command::Compact(args) => compact::run(context, args).await,
        Command::Completions(args) => completions::run(context, &args),
        Command::Version => version::run(context),
    }
}
