//! What the daemons have in common: the log, the limit of open files, and HTTP for load balancers,
//! monitors and people.
//!
//! Invariant: whoever asks over HTTP takes a bounded part of the daemon, whatever it does: so many
//! connections, each for so long.

use std::io::{self, IsTerminal};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 256;
/// Longest time that a connection lasts, whether it is used or not: idle ones must not keep out
/// who asks.
const CONNECTION_MAX: Duration = Duration::from_secs(30);
/// Wait after a connection could not be taken: the kernel has no room for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Logs to standard error what the filter lets through, as in `RUST_LOG`. The error says what is
/// wrong with it.
pub fn start_log(filter: &str) -> Result<(), String> {
    // The filter's parser takes bytes of other alphabets apart in the middle.
    if !filter.is_ascii() {
        return Err(format!("log filter {filter:?} is not ASCII"));
    }
    let filter: EnvFilter = filter
        .parse()
        .map_err(|error| format!("log filter {filter:?}: {error}"))?;
    tracing_subscriber::fmt()
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    Ok(())
}

/// Lets the process open as many files as the system allows it, and says how many that are: what
/// most systems give at first, 1024, is less than a server has connections.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(?current, %error, "cannot raise the limit of open files");
            current
        }
    };
    files.unwrap_or(u64::MAX)
}

/// Answers over HTTP/1 until the task is dropped.
pub async fn serve_http(listener: TcpListener, routes: Router) {
    let mut open = JoinSet::new();
    loop {
        let has_room = open.len() < CONNECTIONS_MAX;
        tokio::select! {
            Some(_) = open.join_next() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => {
                    let routes = TowerToHyperService::new(routes.clone());
                    let stream = TokioIo::new(stream);
                    let answered = http1::Builder::new().serve_connection(stream, routes);
                    // What fails of it the client sees.
                    open.spawn(tokio::time::timeout(CONNECTION_MAX, answered));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}
