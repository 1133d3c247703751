//! `cfgdns`: authoritative DNS under the group's fence. What it does is in the library.

use std::io::Write;
use std::process::ExitCode;

use cfgdns::args::Args;
use cfgdns::run::{chain, run};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(problem) = cfgsvc_daemon::start_log(&args.log_filter()) {
        let _ = writeln!(std::io::stderr(), "error: {problem}");
        return 2.into();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(args)).map_err(|error| chain(&error)),
        Err(error) => Err(format!("cannot start threads: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "error: {problem}");
            ExitCode::FAILURE
        }
    }
}
