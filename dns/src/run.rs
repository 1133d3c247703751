//! The process: bind, follow the group, tell how it goes, end in order.

use std::io;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfgdns_core::{Acl, Chaos, CookieSecrets, Identity, Limits, NotifyTarget, Settings, TsigKeys};
use cfgdns_net::{BindError, Listen, QuicListen, Server, SharedTls, TcpLimits, TlsListen, Totals};
use cfgdns_sign::PrivateKey;
use cfgdns_zone::Name;
use cfgsvc_client::{Client, Freshness, Moment, Options, OptionsError, sleep_until};
use cfgsvc_daemon::tls::{ServerConfig, TlsFileError, server_config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::args::{Args, Target};
use crate::lamp::{Change, Lamp};
use crate::news;
use crate::publish::{Keys, Publisher};
use crate::secrets::{self, SecretError};
use crate::signatures;
use crate::status::{self, Known};

/// The keys that zones are made of.
const PREFIX: &str = "/cfgsvc/";
/// How many networks the rate limit remembers: 2.4 MB.
const LIMIT_ENTRIES: usize = 100_000;
/// Each how manyth reply over the limit is sent truncated, so that a client whose address is not
/// forged comes over TCP.
const LIMIT_SLIP: u8 = 2;
/// Files that the sockets of UDP, the group, HTTP and the rest need: without them the next broken
/// connection to the group would fence the server.
const FILES_RESERVED: u64 = 384;
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
    #[error("{option}")]
    Secret {
        /// The option that asks for it.
        option: &'static str,
        /// Why.
        source: SecretError,
    },
    /// It cannot show who it is over TLS and QUIC.
    #[error("--tls-cert, --tls-key")]
    Tls(#[from] TlsFileError),
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
    let drawn = drawn_cookies();
    let first = settings(&args, &drawn)?;
    let mut secondaries = targets(&args, &first.keys)?;
    let private = zone_keys(&args)?;
    let tls = certificate(&args)?.map(|config| Arc::new(SharedTls::new(config)));
    let (publisher, told) = Publisher::new(first, !secondaries.is_empty());
    let publisher = Arc::new(publisher);
    // Bound and not ready is better than not there (reference: a closed port hurts clients most).
    let server = bind(&listen(&args, tls.as_ref()), &publisher)?;
    let http = match args.http {
        Some(address) => Some(bind_http(address).await?),
        None => None,
    };
    let publish = Arc::clone(&publisher);
    let following = client.follow(
        PREFIX,
        args.stale_after,
        Keys::new(args.catalog.clone(), private),
        // Zones may take long to pack: others who use this thread go on meanwhile.
        move |state, changes| {
            tokio::task::block_in_place(|| publish.take(state, changes.is_some()));
        },
    );
    let known = Arc::new(Known {
        following,
        publisher: Arc::clone(&publisher),
        server: Mutex::new(Some(server)),
    });
    // All end when this is dropped.
    let mut beside = JoinSet::new();
    let patience = Moment::now() + args.stale_after;
    beside.spawn(tell(told, Arc::clone(&known), patience));
    beside.spawn(Arc::clone(&publisher).settle());
    beside.spawn(signatures::watch(Arc::clone(&publisher)));
    if let Some(listener) = http {
        let routes = status::routes(Arc::clone(&known));
        beside.spawn(cfgsvc_daemon::serve_http(listener, routes));
    }
    loop {
        let news = start_news(&publisher, secondaries);
        let next = hear_until_end(&mut hear, (&args, &drawn), (&known, tls.as_deref())).await;
        if let Some(news) = news {
            news.abort();
            // Until it has ended it could take what the next task must hear. An error says that it
            // was ended.
            let _ = news.await;
        }
        match next {
            Some(targets) => {
                secondaries = targets;
                // With the task went what it had to send, and who could not read it with the keys
                // of before may do so now.
                publisher.tell_all();
            }
            None => break,
        }
    }
    tracing::info!("ending: answers what it has read");
    drop(beside);
    end(known).await
}

/// Secrets of cookies for a server that is given none: drawn once, so that what clients have stays
/// good when the files are read again.
fn drawn_cookies() -> CookieSecrets {
    CookieSecrets {
        current: rand::random(),
        other: None,
    }
}

/// Tells the secondaries of changes, where there are some.
fn start_news(
    publisher: &Arc<Publisher>,
    targets: Vec<NotifyTarget>,
) -> Option<tokio::task::JoinHandle<()>> {
    if targets.is_empty() {
        return None;
    }
    Some(tokio::spawn(news::tell(Arc::clone(publisher), targets)))
}

/// Waits for a signal; the secondaries as the files now say, or none at the end.
async fn hear_until_end(
    hear: &mut Signals,
    (args, drawn): (&Args, &CookieSecrets),
    (known, tls): (&Known, Option<&SharedTls>),
) -> Option<Vec<NotifyTarget>> {
    while hear.next().await == Heard::Reload {
        let read = settings(args, drawn).and_then(|settings| {
            let targets = targets(args, &settings.keys)?;
            Ok((settings, targets, zone_keys(args)?, certificate(args)?))
        });
        match read {
            Ok((settings, targets, private, certificate)) => {
                known.publisher.set(settings);
                if let Some((tls, certificate)) = tls.zip(certificate) {
                    tls.store(certificate);
                }
                known
                    .following
                    .change(|state| state.kept_mut().set_private(private));
                tracing::info!("read the files again");
                return Some(targets);
            }
            Err(error) => tracing::error!(error = chain(&error), "goes on as before"),
        }
    }
    None
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
        let Totals {
            udp_requests: udp,
            tcp_requests: tcp,
            tls_requests: tls,
            quic_requests: quic,
            ..
        } = totals;
        tracing::info!(udp, tcp, tls, quic, "ended");
    }
    Ok(())
}

fn settings(args: &Args, drawn: &CookieSecrets) -> Result<Settings, RunError> {
    let cookies = match &args.cookie_file {
        Some(file) => secrets::cookies(file).map_err(secret("--cookie-file"))?,
        None => drawn.clone(),
    };
    let keys = match &args.key_file {
        Some(file) => secrets::keys(file).map_err(secret("--key-file"))?,
        None => TsigKeys::default(),
    };
    let named = args.transfers.iter().flat_map(|allow| &allow.key);
    if let Some(name) = named.into_iter().find(|name| keys.get(name).is_none()) {
        return Err(secret("--transfer")(SecretError::NoKey(name.clone())));
    }
    let version = concat!("cfgdns ", env!("CARGO_PKG_VERSION"));
    let version = Identity::try_from(version).ok();
    let chaos = args.nsid.clone().zip(version).filter(|_| args.chaos);
    Ok(Settings {
        nsid: args.nsid.clone(),
        chaos: chaos.map(|(id, version)| Chaos { id, version }),
        udp_octets_max: args.udp_size,
        cookies: Some(cookies),
        transfers: Acl::new(args.transfers.clone()),
        keys,
    })
}

fn zone_keys(args: &Args) -> Result<Vec<PrivateKey>, RunError> {
    let keys = args.zone_keys.as_deref().map(secrets::zone_keys);
    let keys = keys.transpose().map_err(secret("--zone-keys"))?;
    Ok(keys.unwrap_or_default())
}

/// As whom it shows itself over TLS and QUIC, where that is asked for.
fn certificate(args: &Args) -> Result<Option<ServerConfig>, RunError> {
    let files = args.tls_cert.as_deref().zip(args.tls_key.as_deref());
    let config = files.map(|(certificate, key)| server_config(certificate, key));
    Ok(config.transpose()?)
}

fn secret(option: &'static str) -> impl Fn(SecretError) -> RunError {
    move |source| RunError::Secret { option, source }
}

/// The secondaries that are told of changes, with their keys.
fn targets(args: &Args, keys: &TsigKeys) -> Result<Vec<NotifyTarget>, RunError> {
    let target = |target: &Target| {
        let missing = |name: &Name| secret("--notify")(SecretError::NoKey(name.clone()));
        let key = target.key.as_ref().map(|name| {
            let key = keys.get(name).cloned();
            key.ok_or_else(|| missing(name))
        });
        Ok(NotifyTarget {
            address: target.address,
            key: key.transpose()?,
        })
    };
    args.notify.iter().map(target).collect()
}

fn listen(args: &Args, tls: Option<&Arc<SharedTls>>) -> Listen {
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
            connections: tcp_connections(
                args.tcp_connections,
                1 + u64::from(!args.listen_tls.is_empty()),
                cfgsvc_daemon::raise_open_files(),
            ),
            connections_per_client: args.tcp_connections_per_client,
            idle_timeout: args.tcp_idle,
            write_timeout: TCP_WRITE,
            delivery_timeout: args.stale_after,
        },
        tls: tls
            .filter(|_| !args.listen_tls.is_empty())
            .map(|config| TlsListen {
                addresses: args.listen_tls.clone(),
                config: Arc::clone(config),
            }),
        quic: tls
            .filter(|_| !args.listen_quic.is_empty())
            .map(|config| QuicListen {
                addresses: args.listen_quic.clone(),
                config: Arc::clone(config),
            }),
        shutdown_timeout: SHUTDOWN,
    }
}

/// As many connections as are asked for, or as the process may have files for; TCP and TLS have as
/// many each.
fn tcp_connections(asked: NonZeroUsize, kinds: u64, files: u64) -> NonZeroUsize {
    let room = files.saturating_sub(FILES_RESERVED) / kinds;
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let room = NonZeroUsize::new(room).unwrap_or(NonZeroUsize::MIN);
    if room < asked {
        tracing::warn!(
            files,
            asked,
            connections = room,
            "fewer TCP connections than --tcp-connections: raise the limit of open files"
        );
    }
    asked.min(room)
}

fn bind(listen: &Listen, publisher: &Publisher) -> Result<Server, BindError> {
    let server = Server::bind(listen, publisher.shared())?;
    for address in server.addresses() {
        tracing::info!(%address, "answering over UDP and TCP: SERVFAIL until the group confirms");
    }
    for address in server.tls_addresses() {
        tracing::info!(%address, "answering over TLS: SERVFAIL until the group confirms");
    }
    for address in server.quic_addresses() {
        tracing::info!(%address, "answering over QUIC: SERVFAIL until the group confirms");
    }
    Ok(server)
}

async fn bind_http(address: SocketAddr) -> Result<TcpListener, RunError> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| RunError::Http { address, source })?;
    // Port 0 is any: say which.
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!(%address, "HTTP: /fresh, /zones, /metrics, /livez");
    Ok(listener)
}

/// Logs each change of freshness, and why nothing is answered; `patience`: until it should be.
async fn tell(mut told: watch::Receiver<Freshness>, known: Arc<Known>, patience: Moment) {
    let mut lamp = Lamp::new(patience);
    loop {
        let (freshness, why) = known.freshness();
        let (change, look_at) = lamp.look(freshness, why, Moment::now());
        match change {
            Some(Change::Ready { revision }) => {
                tracing::info!(revision, "fresh: zones are answered");
            }
            Some(Change::NotReady { why }) => {
                let check = "are --endpoints those of the group, and has it a quorum?";
                tracing::warn!(why, check, "not ready: SERVFAIL to all");
            }
            Some(Change::Fenced { revision, why }) => {
                tracing::warn!(revision, why, "fenced: SERVFAIL to all");
            }
            Some(Change::StillFenced { why }) => {
                tracing::warn!(why, "still fenced: SERVFAIL to all");
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
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            () = sleep_until(look_at) => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_group() {
        let asked = NonZeroUsize::new(1_000).expect("not zero");
        let with = |kinds, files| tcp_connections(asked, kinds, files).get();
        let found = [0, 384, 1_024, 1_384, u64::MAX].map(|files| with(1, files));
        assert_eq!(found, [1, 1, 640, 1_000, 1_000]);
        assert_eq!([1_024, 2_384].map(|files| with(2, files)), [320, 1_000]);
    }
}
