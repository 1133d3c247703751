//! One run: clients connected and prepared, load, figures.
//!
//! Invariants
//! - in a closed loop a request counts when its answer comes in the measured window; in an open
//!   loop when it was due there, and the window then ends with the last of them.
//! - CPU time is taken at the two ends of that window.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::args::{Common, Load};
use crate::client::{self, REQUEST};
use crate::pace::Pace;
use crate::procfs::{self, Usage};
use crate::report::{Report, Server};
use crate::schedule::{Phases, Schedule};
use crate::tally::Tally;
use crate::watch::{Received, Streams};
use crate::worker::Worker;

/// Time after the end of an open loop for requests that were due.
const OVERTIME: Duration = Duration::from_secs(10);
/// A client waits so long after a failure, so that a server that is down is not asked in a spin.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// What the clients of a run share.
struct Shared {
    start: Instant,
    phases: Phases,
    pace: Option<Pace>,
    counted: Mutex<Counted>,
}

/// What the clients have done.
struct Counted {
    tally: Tally,
    /// Requests answered from the start on, whether they count or not.
    answered: u64,
}

/// What processes had used at one moment.
struct Sample {
    at: Instant,
    servers: Vec<Usage>,
    own: Usage,
    machine_cpu_seconds: f64,
}

/// Clients and watchers that have what they need.
struct Prepared {
    workers: Vec<Worker>,
    streams: Option<Streams>,
}

/// Runs a load and tells its figures. It is an error when no request was answered.
pub(crate) async fn run(name: &str, load: Load, common: &Common) -> Result<Report> {
    load.check(common)?;
    Sample::take(&common.pids).context("look at the servers named by --pids")?;
    let Prepared { workers, streams } = prepare(load, common).await?;
    let phases = Phases {
        warmup: common.warmup,
        measured: common.seconds,
    };
    let start = Instant::now();
    let watchers = streams.map(|streams| streams.receive(start, phases));
    let schedule = common.rate.map(|rate| Schedule::new(rate, &phases));
    let pace = schedule.map(|schedule| Pace::start(schedule, start, workers.len()));
    let shared = Arc::new(Shared {
        start,
        phases,
        pace: pace.transpose()?,
        counted: Mutex::new(Counted {
            tally: Tally::new(),
            answered: 0,
        }),
    });
    let (workers, [before, after]) = load_and_sample(&shared, workers, common).await?;
    let received = match watchers {
        None => None,
        Some(watchers) => {
            let each = u64::from(watchers_of(load));
            let expected = shared.counted().answered * each;
            Some((watchers.finish(expected).await, expected))
        }
    };
    for worker in workers {
        worker.finish().await.context("give back the leases")?;
    }
    let mut report = report_of(&shared.counted(), received, &before, &after, common)?;
    name.clone_into(&mut report.load);
    report.connections = load.connections(common);
    Ok(report)
}

/// Connects, puts the keys that are read, and creates leases and watchers.
async fn prepare(load: Load, common: &Common) -> Result<Prepared> {
    let channels = client::connect(&common.endpoints, load.connections(common)).await?;
    if needs_keys(load) {
        let value = client::value(common.value_bytes, u64::MAX);
        client::fill(&channels[0], common.keys, &value).await?;
    }
    let mut workers = Vec::new();
    for (number, channel) in (0..common.clients).zip(channels.iter().cycle()) {
        workers.push(Worker::new(load, common, number, channel).await?);
    }
    let streams = if let Load::Watch { watchers, streams } = load {
        Some(Streams::open(&channels, watchers, streams).await?)
    } else {
        None
    };
    Ok(Prepared { workers, streams })
}

fn needs_keys(load: Load) -> bool {
    matches!(
        load,
        Load::Get { .. } | Load::Mixed { .. } | Load::Range { .. }
    )
}

fn watchers_of(load: Load) -> u32 {
    if let Load::Watch { watchers, .. } = load {
        watchers
    } else {
        0
    }
}

/// Lets the clients run to their end; takes a sample at each end of the measured window.
async fn load_and_sample(
    shared: &Arc<Shared>,
    workers: Vec<Worker>,
    common: &Common,
) -> Result<(Vec<Worker>, [Sample; 2])> {
    let mut tasks = JoinSet::new();
    for mut worker in workers {
        let shared = Arc::clone(shared);
        tasks.spawn(async move {
            match &shared.pace {
                None => closed(&shared, &mut worker).await,
                Some(pace) => open(&shared, pace, &mut worker).await,
            }
            worker
        });
    }
    tokio::time::sleep_until((shared.start + shared.phases.warmup).into()).await;
    let before = Sample::take(&common.pids)?;
    let mut after = None;
    if shared.pace.is_none() {
        tokio::time::sleep_until((shared.start + shared.phases.end()).into()).await;
        after = Some(Sample::take(&common.pids)?);
    }
    let mut workers = Vec::new();
    while let Some(worker) = tasks.join_next().await {
        workers.push(worker.context("a client has panicked")?);
    }
    let after = match after {
        Some(sample) => sample,
        None => Sample::take(&common.pids)?,
    };
    Ok((workers, [before, after]))
}

/// Sends when the last was answered.
async fn closed(shared: &Shared, worker: &mut Worker) {
    loop {
        let sent = shared.start.elapsed();
        if sent >= shared.phases.end() {
            return;
        }
        let answer = once(worker, sent).await;
        let now = shared.start.elapsed();
        shared.note(answer, now.saturating_sub(sent), now).await;
    }
}

/// Sends what is due.
async fn open(shared: &Shared, pace: &Pace, worker: &mut Worker) {
    let give_up = shared.phases.end() + OVERTIME;
    while let Some(index) = pace.next().await {
        let due = pace.schedule().due(index);
        let now = shared.start.elapsed();
        if now >= give_up {
            if shared.phases.counts(due) {
                shared.counted().tally.unstarted(now.saturating_sub(due));
            }
            continue;
        }
        let answer = once(worker, due).await;
        let took = shared.start.elapsed().saturating_sub(due);
        shared.note(answer, took, due).await;
    }
}

async fn once(worker: &mut Worker, due: Duration) -> Result<()> {
    match timeout(REQUEST, worker.once(due)).await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer in {REQUEST:?}"),
    }
}

impl Shared {
    /// Takes down what became of a request that counts by the time `at`.
    async fn note(&self, answer: Result<()>, took: Duration, at: Duration) {
        let counts = self.phases.counts(at);
        match answer {
            Ok(()) => {
                let mut counted = self.counted();
                counted.answered += 1;
                if counts {
                    counted.tally.answered(took);
                }
            }
            Err(error) => {
                if counts {
                    self.counted().tally.failed(format!("{error:#}"));
                }
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sample {
    fn take(pids: &[u32]) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            servers: pids
                .iter()
                .map(|pid| procfs::usage(*pid))
                .collect::<Result<_>>()?,
            own: procfs::usage(std::process::id())?,
            machine_cpu_seconds: procfs::machine_cpu_seconds()?,
        })
    }
}

fn report_of(
    counted: &Counted,
    received: Option<(Received, u64)>,
    before: &Sample,
    after: &Sample,
    common: &Common,
) -> Result<Report> {
    let mut errors = counted.tally.errors();
    let mut first_error = counted.tally.first_error().map(str::to_owned);
    let puts = received.as_ref().map(|_| counted.tally.requests());
    let lost_events = received
        .as_ref()
        .map(|(received, expected)| expected.saturating_sub(received.events));
    let tally = match &received {
        None => &counted.tally,
        Some((received, _)) => {
            errors += received.tally.errors();
            first_error = first_error.or(received.tally.first_error().map(str::to_owned));
            &received.tally
        }
    };
    let requests = tally.requests();
    ensure!(
        requests > 0,
        "nothing was answered in the measured time by {}: {}",
        common.endpoints.join(", "),
        first_error
            .as_deref()
            .unwrap_or("raise --seconds or --rate")
    );
    let servers: Vec<_> = (common.pids.iter().zip(&before.servers).zip(&after.servers))
        .map(|((pid, before), after)| Server {
            pid: *pid,
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            rss_mib: after.rss_mib,
        })
        .collect();
    let seconds = (after.at - before.at).as_secs_f64();
    // A sum of no floats would be minus zero.
    let server_cpu_seconds = servers
        .iter()
        .fold(0.0, |sum, server| sum + server.cpu_seconds);
    let own_cpu_seconds = after.own.cpu_seconds - before.own.cpu_seconds;
    let all = after.machine_cpu_seconds - before.machine_cpu_seconds;
    Ok(Report {
        load: String::new(),
        endpoints: common.endpoints.clone(),
        clients: common.clients,
        connections: 0,
        value_bytes: common.value_bytes,
        rate: common.rate,
        seconds,
        requests,
        errors,
        first_error,
        never_started: counted.tally.never_started(),
        puts,
        lost_events,
        per_second: requests as f64 / seconds,
        latency_ms: tally.latencies(),
        server_cpu_seconds,
        server_cpu_us_per_request: server_cpu_seconds * 1e6 / requests as f64,
        own_cpu_seconds,
        other_cpu_seconds: (all - server_cpu_seconds - own_cpu_seconds).max(0.0),
        servers,
    })
}
