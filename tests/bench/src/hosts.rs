//! Hosts that take part in roles, as agents do: each has a connection, attends one role, hears its
//! verdicts and renews its lease at a third of the time that it may serve.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cfgsvc_proto::etcd::PutRequest;
use cfgsvc_proto::v1::renew_response::State;
use cfgsvc_proto::v1::roles_client::RolesClient;
use cfgsvc_proto::v1::{AttendRequest, RenewRequest, VerdictsRequest};
use rand::RngExt as _;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tonic::transport::Channel;

use crate::args::RoleHosts;
use crate::client::{REQUEST, connect, kv, told};
use crate::procfs::{Usage, usage};
use crate::tally::{Latencies, Tally};

/// Hosts that come at once.
const AT_ONCE: usize = 64;

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub hosts: u32,
    pub roles: u32,
    pub connections: u32,
    pub term_ms: u64,
    pub seconds: f64,
    pub renewals_per_second: f64,
    /// Milliseconds.
    pub latency: Latencies,
    pub errors: u64,
    /// Leases that the group let end.
    pub lost: u64,
    pub verdicts: u64,
    /// Of each server, in the order of the process ids.
    pub cpu_share: Vec<f64>,
    pub rss_mib: Vec<f64>,
}

struct Shared {
    tally: Mutex<Tally>,
    lost: AtomicU64,
    verdicts: AtomicU64,
    /// Renewals that end before are not counted.
    from: Mutex<Option<Instant>>,
}

/// One host.
struct Host {
    client: RolesClient<Channel>,
    name: String,
    role: String,
    lease: i64,
    serve: Duration,
}

pub(crate) async fn run(options: RoleHosts) -> Result<Figures> {
    let connections = options.connections.unwrap_or(options.count);
    let channels = connect(&options.endpoints, connections).await?;
    let first = channels.first().context("one connection at least")?;
    prepare(first, &options).await?;
    let shared = Arc::new(Shared {
        tally: Mutex::new(Tally::new()),
        lost: AtomicU64::new(0),
        verdicts: AtomicU64::new(0),
        from: Mutex::new(None),
    });
    let mut coming = JoinSet::new();
    let mut running = JoinSet::new();
    let mut come = 0;
    for (number, channel) in (0..options.count).zip(channels.iter().cycle()) {
        if coming.len() == AT_ONCE {
            come += began(coming.join_next().await, &mut running, &shared)?;
        }
        let role = number % options.roles;
        coming.spawn(attend(channel.clone(), number, role));
    }
    while !coming.is_empty() {
        come += began(coming.join_next().await, &mut running, &shared)?;
    }
    ensure!(
        come == options.count,
        "{come} of {} hosts came",
        options.count
    );
    // A whole round of renewals first.
    sleep(options.term).await;
    let before = usages(&options.pids)?;
    let started = Instant::now();
    *shared.from.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
    sleep(options.seconds).await;
    let seconds = started.elapsed().as_secs_f64();
    let after = usages(&options.pids)?;
    let tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
    let spent =
        |(before, after): (&Usage, &Usage)| (after.cpu_seconds - before.cpu_seconds) / seconds;
    Ok(Figures {
        hosts: options.count,
        roles: options.roles,
        connections,
        term_ms: u64::try_from(options.term.as_millis()).unwrap_or(u64::MAX),
        seconds,
        renewals_per_second: tally.requests() as f64 / seconds,
        latency: tally.latencies(),
        errors: tally.errors(),
        lost: shared.lost.load(Ordering::Relaxed),
        verdicts: shared.verdicts.load(Ordering::Relaxed),
        cpu_share: before.iter().zip(&after).map(spent).collect(),
        rss_mib: after.iter().map(|usage| usage.rss_mib).collect(),
    })
}

/// What is told of it.
pub(crate) fn lines(figures: &Figures) -> Vec<String> {
    let Latencies { p50, p99, max, .. } = figures.latency;
    let mut lines = vec![
        format!(
            "{} hosts of {} roles on {} connections, term {} ms: {:.0} renewals a second",
            figures.hosts,
            figures.roles,
            figures.connections,
            figures.term_ms,
            figures.renewals_per_second
        ),
        format!(
            "renewal: p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.0} ms; {} errors, {} leases \
             lost, {} verdicts heard",
            figures.errors, figures.lost, figures.verdicts
        ),
    ];
    let servers = figures.cpu_share.iter().zip(&figures.rss_mib);
    lines.extend(servers.enumerate().map(|(number, (cpu, rss))| {
        let percent = cpu * 100.0;
        format!(
            "server {}: {percent:.0} % of a core, {rss:.0} MiB",
            number + 1
        )
    }));
    lines
}

fn usages(pids: &[u32]) -> Result<Vec<Usage>> {
    pids.iter().map(|pid| usage(*pid)).collect()
}

/// Makes the colo and the roles.
async fn prepare(channel: &Channel, options: &RoleHosts) -> Result<()> {
    let mut kv = kv(channel);
    let spec = format!(
        r#"{{"term_ms":{},"stop_ms":{}}}"#,
        options.term.as_millis(),
        options.term.as_millis() / 5
    );
    let roles = (0..options.roles).map(|role| (format!("/cfgsvc/roles/bench/r{role}"), &*spec));
    for (key, value) in std::iter::once(("/cfgsvc/colos/bench".to_owned(), "{}")).chain(roles) {
        let put = PutRequest {
            key: key.into_bytes().into(),
            value: value.to_owned().into_bytes().into(),
            ..PutRequest::default()
        };
        kv.put(put).await.map_err(told).context("make the roles")?;
    }
    Ok(())
}

async fn attend(channel: Channel, number: u32, role: u32) -> Result<Host> {
    let mut client = RolesClient::new(channel);
    let (name, role) = (format!("h{number}"), format!("bench/r{role}"));
    let request = AttendRequest {
        role: role.clone(),
        host: name.clone(),
        colo: "bench".to_owned(),
        instance: format!("{:032x}", rand::rng().random::<u128>()),
        boot: "none".to_owned(),
        attempt: 1,
        ..AttendRequest::default()
    };
    let attended = client.attend(request).await.map_err(told);
    let attended = attended.with_context(|| format!("{name} attends {role}"))?;
    let attended = attended.into_inner();
    Ok(Host {
        client,
        name,
        role,
        lease: attended.lease,
        serve: Duration::from_millis(attended.serve_ms),
    })
}

/// One that has come hears and renews from now on.
fn began(
    came: Option<Result<Result<Host>, tokio::task::JoinError>>,
    running: &mut JoinSet<()>,
    shared: &Arc<Shared>,
) -> Result<u32> {
    let Some(came) = came else { return Ok(0) };
    let host = came.context("a host's task")??;
    running.spawn(hear(host.client.clone(), ask(&host), Arc::clone(shared)));
    running.spawn(renew(host, Arc::clone(shared)));
    Ok(1)
}

fn ask(host: &Host) -> VerdictsRequest {
    VerdictsRequest {
        role: host.role.clone(),
        host: host.name.clone(),
        lease: host.lease,
    }
}

async fn hear(mut client: RolesClient<Channel>, request: VerdictsRequest, shared: Arc<Shared>) {
    let Ok(stream) = client.verdicts(request).await else {
        return lock(&shared.tally).failed("a stream of verdicts was refused".to_owned());
    };
    let mut stream = stream.into_inner();
    while let Ok(Some(_)) = stream.message().await {
        shared.verdicts.fetch_add(1, Ordering::Relaxed);
    }
    lock(&shared.tally).failed("a stream of verdicts ended".to_owned());
}

async fn renew(mut host: Host, shared: Arc<Shared>) {
    let every = host.serve / 3;
    // Spread over the time, as hosts that did not start at once are.
    let mut due = tokio::time::Instant::now() + every.mul_f64(rand::rng().random::<f64>());
    loop {
        sleep_until(due).await;
        due += every;
        let sent = Instant::now();
        let leases = vec![host.lease];
        let answer = timeout(
            REQUEST,
            host.client.renew(RenewRequest { leases, row: None }),
        )
        .await;
        let counts = lock(&shared.from).is_some_and(|from| sent >= from);
        let problem = match answer {
            Ok(Ok(states)) if states.get_ref().states().next() == Some(State::Renewed) => None,
            Ok(Ok(_)) => {
                shared.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(Err(status)) => Some(told(status).to_string()),
            Err(_) => Some(format!("no answer in {REQUEST:?}")),
        };
        if counts {
            let mut tally = lock(&shared.tally);
            match problem {
                None => tally.answered(sent.elapsed()),
                Some(problem) => tally.failed(problem),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
