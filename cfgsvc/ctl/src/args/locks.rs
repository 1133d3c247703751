//! Grammar of the commands about locks and elections.

use cfgsvc_core::placement::{Name, RoleName};
use clap::Args;
use std::ffi::OsString;
use std::time::Duration;

/// What makes a lock with this name the role `locks/NAME`.
fn lock_name(text: &str) -> Result<String, String> {
    match format!("locks/{text}").parse::<RoleName>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// How a lock is asked for.
#[derive(Debug, Args)]
pub(crate) struct ClaimArgs {
    /// How long a renewal counts
    #[arg(long, value_name = "TIME", default_value = "10s", alias = "ttl")]
    #[arg(value_parser = humantime::parse_duration)]
    pub(crate) term: Duration,
    /// How long the holder has to stop: SIGTERM comes so much before the term is over
    #[arg(long, value_name = "TIME", default_value = "1s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub(crate) stop: Duration,
    /// How long the group waits after a holder that was lost
    #[arg(long, value_name = "TIME", default_value = "0s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub(crate) lock_delay: Duration,
    /// Longest wait for it; 0s tries once [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// Who asks for it [default: machine, process id and a random number]
    #[arg(long)]
    pub(crate) host: Option<Name>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Who asks first has it first. The command finds its fencing token, which is
greater for each later holder, in EPOCH and CFGSVC_EPOCH, the role to check it with in CFGSVC_ROLE,
and the holder's name in CFGSVC_HOST. It runs under a guard of its own: when the lock could not be
renewed, it gets SIGTERM at the deadline and SIGKILL after three quarters of the time to stop, also
when cfgctl is killed or stopped. So do all processes that it has started, also when it ends by
itself. Its standard input is empty. SIGINT, SIGTERM and SIGHUP stop it, and then release the lock.

Term, time to stop and lock-delay are those of the first who asks while nobody uses the lock.

Exit codes: that of the command; 124 the lock was lost and the command stopped, 125 the lock was
not had or the command not guarded, 126 the command cannot be run, 127 there is none.

Example: cfgctl lock nightly-backup -- backup.sh --all
         cfgctl lock nightly-backup --wait 0s -- backup.sh || echo somebody else does it"
)]
pub(crate) struct LockArgs {
    /// The lock
    #[arg(value_parser = lock_name)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) claim: ClaimArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "An election is a lock whose candidates say what they stand for. With a command
it is as with `cfgctl lock`. Without, it prints what it was elected with, and leads until it gets
SIGINT, SIGTERM or SIGHUP (exit code 0) or the leadership is lost (124).

With --observe it prints who leads and every change, with -o json as one object a line, until
Ctrl-C; of leaders that follow each other too fast, the last.

Example: cfgctl elect web/master 10.0.0.1:8080
         cfgctl elect web/master 10.0.0.1:8080 -- serve --master
         cfgctl elect web/master --observe -o json"
)]
pub(crate) struct ElectArgs {
    /// The election
    #[arg(value_parser = lock_name)]
    pub(crate) name: String,
    /// What the candidate stands for, such as its address
    #[arg(required_unless_present = "observe", conflicts_with = "observe")]
    pub(crate) value: Option<String>,
    /// Follow who leads
    #[arg(long)]
    pub(crate) observe: bool,
    #[command(flatten)]
    pub(crate) claim: ClaimArgs,
    /// A command that runs while it leads, and its arguments
    #[arg(last = true, conflicts_with = "observe", value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}
