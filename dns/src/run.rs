//! The process: bind, follow the group, tell how it goes, end in order.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfgdns_core::{Chaos, CookieSecrets, Identity, Limits, Settings};
use cfgdns_net::{BindError, Listen, Server, TcpLimits};
use cfgsvc_client::{Client, Freshness, Moment, Options, OptionsError, sleep_until};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::args::Args;
use crate::lamp::{Change, Lamp};
use crate::publish::{Keys, Publisher};
use crate::secrets::{self, SecretError};
use crate::status::{self, Known};

/// The keys that zones are made of.
const PREFIX: &str = "/cfgsvc/";
/// How many networks the rate limit remembers: 2.4 MB.
const LIMIT_ENTRIES: usize = 100_000;
/// Each how manyth reply over the limit is sent truncated, so that a client whose address is not
/// forged comes over TCP.
const LIMIT_SLIP: u8 = 2;
/// Longest wait for a client that does not take its replies.
const TCP_WRITE: Duration = Duration::from_secs(10);
/// Time for the last replies at the end.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be answered at.
    #[error("cannot listen")]
    Bind(#[from] BindError),
    /// Nor told at.
    #[error("cannot listen at {address} for HTTP; is another program there?")]
    Http {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The endpoints are none.
    #[error("--endpoints")]
    Endpoints(#[from] OptionsError),
    /// A secret cannot be read.
    #[error("--cookie-file")]
    Secret(#[from] SecretError),
    /// The process gets no signals or threads.
    #[error("cannot {doing}")]
    Process {
        /// What failed.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Runs until it is asked to end.
pub async fn run(args: Args) -> Result<(), RunError> {
    let mut hear = Signals::new().map_err(|source| RunError::Process {
        doing: "watch for signals",
        source,
    })?;
    let client = Client::new(Options::new(args.endpoints.clone()))?;
    // Those of clients stay good when the files are read again.
    let drawn = CookieSecrets {
        current: rand::random(),
        other: None,
    };
    let (publisher, told) = Publisher::new(settings(&args, &drawn)?);
    let publisher = Arc::new(publisher);
    // Bound and not ready is better than not there (reference: a closed port hurts clients most).
    let server = Server::bind(&listen(&args), publisher.shared())?;
    for address in server.addresses() {
        tracing::info!(%address, "answering over UDP and TCP: SERVFAIL until the group confirms");
    }
    let http = match args.http {
        Some(address) => Some(bind_http(address).await?),
        None => None,
    };
    let publish = Arc::clone(&publisher);
    let following = client.follow(
        PREFIX,
        args.stale_after,
        Keys::default(),
        move |state, changes| publish.take(state, changes.is_some()),
    );
    let known = Arc::new(Known {
        following,
        publisher: Arc::clone(&publisher),
        server: Mutex::new(Some(server)),
    });
    let telling = tokio::spawn(tell(told, Arc::clone(&known)));
    let status = http.map(|listener| {
        tokio::spawn(cfgsvc_daemon::serve_http(
            listener,
            status::routes(Arc::clone(&known)),
        ))
    });
    while hear.next().await == Heard::Reload {
        match settings(&args, &drawn) {
            Ok(settings) => {
                publisher.set(settings);
                tracing::info!("read the files again");
            }
            Err(error) => tracing::error!(error = chain(&error), "goes on as before"),
        }
    }
    tracing::info!("ending: answers what it has read");
    telling.abort();
    if let Some(status) = status {
        status.abort();
    }
    end(known).await
}

/// Answers what has been read, and ends.
async fn end(known: Arc<Known>) -> Result<(), RunError> {
    let server = known
        .server
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let ended = tokio::task::spawn_blocking(move || server.map(Server::shutdown));
    let totals = ended.await.map_err(|error| RunError::Process {
        doing: "end in order",
        source: error.into(),
    })?;
    if let Some(totals) = totals {
        let (udp, tcp) = (totals.udp_requests, totals.tcp_requests);
        tracing::info!(udp, tcp, "ended");
    }
    Ok(())
}

fn settings(args: &Args, drawn: &CookieSecrets) -> Result<Settings, RunError> {
    let cookies = match &args.cookie_file {
        Some(file) => secrets::cookies(file)?,
        None => drawn.clone(),
    };
    let version = concat!("cfgdns ", env!("CARGO_PKG_VERSION"));
    let version = Identity::try_from(version).ok();
    let chaos = args.nsid.clone().zip(version).filter(|_| args.chaos);
    Ok(Settings {
        nsid: args.nsid.clone(),
        chaos: chaos.map(|(id, version)| Chaos { id, version }),
        udp_octets_max: args.udp_size,
        cookies: Some(cookies),
    })
}

fn listen(args: &Args) -> Listen {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = u16::try_from(cores).ok().and_then(NonZeroU16::new);
    Listen {
        addresses: args.listen.clone(),
        udp_threads: args.udp_threads.or(cores).unwrap_or(NonZeroU16::MIN),
        tcp_threads: NonZeroU16::MIN,
        rate_limit: (args.rate_limit > 0).then_some(Limits {
            per_second: args.rate_limit,
            slip: LIMIT_SLIP,
            entries: LIMIT_ENTRIES,
        }),
        tcp: TcpLimits {
            connections: args.tcp_connections,
            connections_per_client: args.tcp_connections_per_client,
            idle_timeout: args.tcp_idle,
            write_timeout: TCP_WRITE,
        },
        shutdown_timeout: SHUTDOWN,
    }
}

async fn bind_http(address: SocketAddr) -> Result<TcpListener, RunError> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| RunError::Http { address, source })?;
    // Port 0 is any: say which.
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!(%address, "HTTP: /fresh, /zones, /metrics, /livez");
    Ok(listener)
}

/// Logs each change of freshness.
async fn tell(mut told: watch::Receiver<Freshness>, known: Arc<Known>) {
    let mut lamp = Lamp::default();
    loop {
        let freshness = known.freshness().0;
        let (change, look_at) = lamp.look(freshness, Moment::now());
        match change {
            Some(Change::Ready { revision }) => {
                tracing::info!(revision, "fresh: zones are answered");
            }
            Some(Change::Fenced { revision }) => {
                let why = known.freshness().1;
                let why = why.unwrap_or_else(|| "no word from the group".to_owned());
                tracing::warn!(revision, why, "fenced: SERVFAIL to all");
            }
            Some(Change::Back {
                revision,
                fenced_for,
            }) => {
                let ms = fenced_for.as_millis();
                tracing::info!(revision, fenced_ms = %ms, "fresh again: zones are answered");
            }
            None => {}
        }
        let deadline = async {
            match look_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            () = deadline => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    End,
    Reload,
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.terminate.recv() => Heard::End,
            _ = self.interrupt.recv() => Heard::End,
            _ = self.hangup.recv() => Heard::Reload,
        }
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
