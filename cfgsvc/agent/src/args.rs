//! The grammar of `cfgagent`, and nothing else.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cfgsvc_core::placement::{Name, RoleName};
use clap::{Args, Parser, Subcommand};

/// Shortest time of a check.
const CHECK_MIN: Duration = Duration::from_millis(100);
/// Longest.
const CHECK_MAX: Duration = Duration::from_hours(1);

/// The agent of a host: runs programs only while the group lets the host serve
#[derive(Debug, Parser)]
#[command(
    name = "cfgagent",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
#[command(after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage.

Example: cfgagent run --host a1 --colo akl --role db/orders -- mariadbd --datadir /srv/orders")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold a role's lease when it is given, and run a program or hooks while it lasts
    Run(Box<RunArgs>),
    /// Print what this host may do about a role, by its verdict file
    Verdict(VerdictArgs),
    /// Be the program of a role that is served by hooks
    #[command(hide = true)]
    Hold {
        /// Run this at the start
        #[arg(long)]
        on_serve: Option<PathBuf>,
        /// Run this at the end
        #[arg(long)]
        on_fence: Option<PathBuf>,
        /// Tell the parent, by SIGUSR1, when `on-serve` has succeeded
        #[arg(long)]
        guarded: bool,
    },
}

/// `cfgagent run`.
#[derive(Debug, Args)]
#[command(after_help = "\
The host takes part in each ROLE. When the group gives one to it, the COMMAND is started, or the
hook on-serve when there is no COMMAND; it is stopped (SIGTERM, SIGKILL after three quarters of the
role's stop_ms) before the lease is over, whatever happens to the agent. What the host may do is in
DIR/roles, on http://127.0.0.1:2383/role/ROLE (200 while it serves, else 503), and told to the
hooks.

Hooks are the files on-serve, on-standby, on-redirect, on-rebuild, on-fence, position, check and
sync of the hook directory; those that are missing when it starts are not run.
See deploy/AGENT.md.

Example: cfgagent run --host a1 --colo akl --role db/orders -- mariadbd --datadir /srv/orders
Example: cfgagent run --host w1 --colo akl --role web/vip --hook-dir /etc/cfgagent/hooks")]
pub struct RunArgs {
    /// Name of this host
    #[arg(long, value_parser = host_name)]
    pub host: Name,
    /// Colo of this host; it must exist
    #[arg(long, value_parser = host_name)]
    pub colo: Name,
    /// A role to take part in; may be given again
    #[arg(long = "role", required = true, value_name = "ROLE", value_parser = role_name)]
    pub roles: Vec<RoleName>,
    /// Members of the group, HOST:PORT, separated by commas
    #[arg(long, env = "CFGCTL_ENDPOINTS", hide_env = true, value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:2379", value_name = "A,B,C")]
    pub endpoints: Vec<String>,
    /// Where clients reach this host, HOST:PORT; kept with the host when it is new
    #[arg(long = "address", value_name = "HOST:PORT")]
    pub addresses: Vec<String>,
    /// Where the verdicts, the instance's name and the copy of the configuration are kept
    #[arg(long, default_value = "cfgagent.data", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Directory of the hooks
    #[arg(long, value_name = "DIR")]
    pub hook_dir: Option<PathBuf>,
    /// How often the hook `check` is run while a role is served
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = check_time)]
    pub check_interval: Duration,
    /// How long it may take; longer is a failure
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = check_time)]
    pub check_timeout: Duration,
    /// So many failures in a row give the role up
    #[arg(long, default_value = "3", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub check_failures: u32,
    /// Where to answer load balancers and people; `off`: nowhere
    #[arg(long, default_value = "127.0.0.1:2383", value_name = "HOST:PORT|off")]
    #[arg(value_parser = http_address)]
    pub http: HttpAddress,
    /// Where to answer probes of other hosts (UDP); `off`: nowhere. Others must reach it, so it is
    /// no wildcard
    #[arg(long, default_value = "off", value_name = "HOST:PORT|off", value_parser = probe_address)]
    pub probe: HttpAddress,
    /// The watchdog device that resets the machine when the agent cannot run while it serves;
    /// `auto`: /dev/watchdog if it is there
    #[arg(long, default_value = "auto", value_name = "PATH|auto|off")]
    pub watchdog: String,
    /// Keep a copy of all keys with this prefix, for programs that start while the group is away;
    /// may be given again
    #[arg(long = "copy", value_name = "PREFIX")]
    pub copies: Vec<String>,
    /// What is logged, as in `RUST_LOG`
    #[arg(
        long,
        env = "CFGAGENT_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log: String,
    /// The program that serves, and its arguments; it stays in the foreground
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `cfgagent verdict`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the verdict and why. Exits with 0 when this host serves the role: the agent runs, and the
lease that it has written down since the boot is not over on this machine's clock; else with 1.

Example: cfgagent verdict db/orders --state-dir /var/lib/cfgagent && run-backup")]
pub struct VerdictArgs {
    /// The role
    #[arg(value_parser = role_name)]
    pub role: RoleName,
    /// Where the agent keeps its state
    #[arg(long, default_value = "cfgagent.data", value_name = "DIR")]
    pub state_dir: PathBuf,
}

/// Where HTTP is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpAddress {
    /// Nowhere.
    Off,
    /// Here.
    At(SocketAddr),
}

fn http_address(text: &str) -> Result<HttpAddress, String> {
    if text == "off" {
        return Ok(HttpAddress::Off);
    }
    text.parse().map(HttpAddress::At).map_err(|error| {
        format!("{error}; give an address and a port, as in 127.0.0.1:2383, or off")
    })
}

fn probe_address(text: &str) -> Result<HttpAddress, String> {
    let at = http_address(text)?;
    match at {
        HttpAddress::At(at) if at.ip().is_unspecified() => {
            Err("others are told this address: give one that they reach".to_owned())
        }
        HttpAddress::At(_) | HttpAddress::Off => Ok(at),
    }
}

fn check_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (CHECK_MIN..=CHECK_MAX).contains(&time) {
        return Ok(time);
    }
    Err("give a time from 100ms to 1h".to_owned())
}

fn host_name(text: &str) -> Result<Name, String> {
    Name::try_from(text.to_owned()).map_err(|error| error.to_string())
}

fn role_name(text: &str) -> Result<RoleName, String> {
    let role = RoleName::try_from(text.to_owned()).map_err(|error| error.to_string())?;
    if role.is_lock() {
        return Err("locks are for cfgctl lock and cfgctl elect".to_owned());
    }
    Ok(role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_grammar_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_dashes_is_the_programs() {
        let cli = parse("cfgagent run --host a1 --colo akl --role db/orders -- sh --role x");
        let Ok(Command::Run(run)) = cli.map(|cli| cli.command) else {
            panic!("it is right");
        };
        assert_eq!(run.roles.len(), 1);
        assert_eq!(run.command, ["sh", "--role", "x"]);
        let http = HttpAddress::At(SocketAddr::from(([127, 0, 0, 1], 2383)));
        assert_eq!(run.http, http);
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        for (line, why) in [
            (
                "cfgagent run --host a/1 --colo akl --role r",
                "name 'a/1' must be",
            ),
            (
                "cfgagent run --host a --colo akl --role ../r",
                "names separated by",
            ),
            (
                "cfgagent run --host a --colo akl --role locks/r",
                "cfgctl lock",
            ),
            (
                "cfgagent run --host a --colo akl --role r --http x",
                "127.0.0.1:2383",
            ),
            (
                "cfgagent run --host a --colo akl --role r --probe 0.0.0.0:1",
                "that they reach",
            ),
            (
                "cfgagent run --host a --colo akl --role r --check-timeout 0s",
                "100ms to 1h",
            ),
            (
                "cfgagent run --host a --colo akl --role r --check-failures 0",
                "1..=1000",
            ),
            ("cfgagent run --host a --colo akl", "--role"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
