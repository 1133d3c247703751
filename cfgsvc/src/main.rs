//! `cfgsvcd`: one member of the group.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use cfgsvc::options::{self, ENVIRONMENT_PREFIX, LogFormat, Problem, Settings, Texts};
use cfgsvc::recover;
use tikv_jemallocator::Jemalloc;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Requests and answers come and go in buffers of 8 KiB, for which the C library's allocator takes
/// a sixth of the server's time. `RocksDB` stays with that one: jemalloc in the place of `malloc`
/// deadlocks at the start below libfaketime, with which the tests step the clock.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Wrong usage, as `cfgctl` has it.
const USAGE: u8 = 2;
/// What other libraries have to say is for debugging only.
const QUIET: &str = "openraft=error,h2=warn,hyper=warn,tower=warn,tonic=warn,rustls=warn";

fn main() -> ExitCode {
    let matches = options::command()
        .subcommand(recover::command())
        .disable_help_subcommand(true)
        .args_conflicts_with_subcommands(true)
        .get_matches();
    if let Some((recover::NAME, matches)) = matches.subcommand() {
        return recover(matches);
    }
    let settings = match settings(&matches) {
        Ok(settings) => settings,
        Err(problems) => {
            eprintln!("error: {} of the settings cannot be used", problems.len());
            for problem in problems {
                eprintln!("  {problem}");
            }
            eprintln!("\nhint: `cfgsvcd --help` lists all settings");
            return ExitCode::from(USAGE);
        }
    };
    if let Err(error) = start_log(&settings) {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    match serve(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Data goes to stdout, as of a command and not of a server.
fn recover(matches: &clap::ArgMatches) -> ExitCode {
    match recover::run(matches, &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn settings(matches: &clap::ArgMatches) -> Result<Settings, Vec<Problem>> {
    let file = match matches.get_one::<String>("config") {
        Some(path) => file(path)?,
        None => Texts::new(),
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect();
    options::resolve(&options::flag_texts(matches), &environment, &file)
}

fn file(path: &str) -> Result<Texts, Vec<Problem>> {
    let text = fs_err::read_to_string(path).map_err(|error| {
        vec![Problem {
            origin: "--config".to_owned(),
            found: path.to_owned(),
            allowed: format!("a TOML file that can be read ({error})"),
        }]
    })?;
    options::file_texts(&text)
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start threads")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        let asked = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        cfgsvc::run::run(settings, asked).await
    })
}

/// Logs to stderr.
fn start_log(settings: &Settings) -> anyhow::Result<()> {
    // What the user asks for comes last and wins over the quiet defaults of the same target.
    let filter: EnvFilter = format!("{QUIET},{}", settings.log)
        .parse()
        .context("read the log filter")?;
    let colors = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_ansi(colors)
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
