//! What only processes know and the group does not: what runs, asked of the master in office, and
//! what attempts have printed, asked of the workers.

use crate::Result;
use crate::cluster::copy::Copy;
use crate::cluster::inspect::ANSWER_MAX;
use crate::cluster::keys::{self, MasterEntry};
use crate::cluster::proto::{self, master_client, worker_client};
use crate::cluster::wire;
use crate::cluster::worker::MESSAGE_MAX;
use cfgsvc_client::Client;
use mapreduce_core::names::{AttemptId, Incarnation, JobId, Phase, TaskId};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for a process to be reached.
const REACH: Duration = Duration::from_secs(1);
/// Longest wait for its answer.
const ANSWER: Duration = Duration::from_secs(3);
/// Workers that are asked at a time for a log of which it is not known who has it.
const ASKED_MAX: usize = 16;

/// Asks whoever is the master.
pub(crate) struct Asking {
    client: Client,
    reached: Option<(String, master_client::MasterClient<Channel>)>,
}

impl Asking {
    pub(crate) fn new(client: &Client) -> Self {
        let client = client.clone();
        let reached = None;
        Self { client, reached }
    }

    /// What it knows, with up to `tasks` tasks of a job. An error is that there is none, or that it
    /// does not answer.
    pub(crate) async fn ask(
        &mut self,
        job: Option<JobId>,
        tasks: usize,
    ) -> Result<proto::InspectResponse> {
        let found = self.client.get_key(keys::MASTER).await?;
        let found = found.ok_or("there has been no master yet")?;
        let entry: MasterEntry = serde_json::from_slice(&found.value)?;
        let known = self.reached.take();
        let known = known.filter(|(address, _)| *address == entry.address);
        let (address, mut master) = match known {
            Some(known) => known,
            None => (entry.address.clone(), reach(&entry.address).await?),
        };
        let request = proto::InspectRequest {
            job: job.map(|job| job.0),
            tasks_from: 0,
            tasks_max: u32::try_from(tasks.min(ANSWER_MAX))?,
        };
        let answer = tokio::time::timeout(ANSWER, master.inspect(request)).await;
        let answer = answer.map_err(|_| format!("the master at {address} does not answer"))?;
        let answer = answer.map_err(|status| {
            let said = status.message();
            format!("the master at {address}: {said}")
        })?;
        self.reached = Some((address, master));
        Ok(answer.into_inner())
    }
}

async fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let connected = endpoint.connect_timeout(REACH).connect().await;
    Ok(connected.map_err(|error| format!("{address} is not reached: {error}"))?)
}

async fn reach(address: &str) -> Result<master_client::MasterClient<Channel>> {
    let master = master_client::MasterClient::new(channel(address).await?);
    Ok(master.max_decoding_message_size(MESSAGE_MAX))
}

/// An attempt that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runs {
    pub(crate) task: TaskId,
    pub(crate) attempt: AttemptId,
    pub(crate) incarnation: Incarnation,
    pub(crate) worker: String,
    pub(crate) runtime: Duration,
    pub(crate) octets: u64,
    pub(crate) records: u64,
    pub(crate) is_backup: bool,
    /// What its code says; often nothing.
    pub(crate) status: String,
}

/// The attempts of an answer that have not finished, the longest first.
pub(crate) fn running(answer: &proto::InspectResponse) -> Vec<Runs> {
    let mut running: Vec<Runs> = Vec::new();
    for seen in &answer.tasks {
        let Ok(task) = wire::task_of(seen.task) else {
            continue;
        };
        for it in seen.attempts.iter().filter(|it| !it.finished) {
            let Ok(attempt) = wire::attempt_of(it.attempt) else {
                continue;
            };
            running.push(Runs {
                task,
                attempt,
                incarnation: Incarnation(it.incarnation),
                worker: it.worker.clone(),
                runtime: Duration::from_millis(it.runtime_ms),
                octets: it.octets,
                records: it.records,
                is_backup: it.backup,
                status: it.status.clone(),
            });
        }
    }
    running.sort_by_key(|runs| (std::cmp::Reverse(runs.runtime), runs.attempt));
    running
}

/// How a job's phase goes, in an answer.
pub(crate) fn phase(
    answer: &proto::InspectResponse,
    job: JobId,
    phase: Phase,
) -> Option<&proto::PhaseSeen> {
    let job = answer.jobs.iter().find(|seen| seen.job == job.0)?;
    match phase {
        Phase::Map => job.maps.as_ref(),
        Phase::Reduce => job.reduces.as_ref(),
    }
}

/// The worker that ran an attempt which failed, in an answer.
pub(crate) fn failed_at(
    answer: &proto::InspectResponse,
    attempt: AttemptId,
) -> Option<(Incarnation, String)> {
    let found = answer
        .failed
        .iter()
        .find(|failed| wire::attempt_of(failed.attempt) == Ok(attempt))?;
    Some((Incarnation(found.incarnation), found.worker.clone()))
}

/// Why there is no log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoLog {
    /// Every worker that is there has answered.
    #[error("the worker that ran it is gone, or has removed its log")]
    Gone,
    /// Somebody who may have it does not answer.
    #[error("no worker that answers has its log; not reached: {0}")]
    Unreached(String),
}

/// What an attempt has printed: asked of the worker that ran it if that is known, else of all.
/// Their addresses are those of the copy.
pub(crate) async fn log(
    workers: Vec<(Incarnation, String)>,
    job: JobId,
    task: TaskId,
    attempt: AttemptId,
    at: Option<Incarnation>,
) -> Result<Vec<u8>, NoLog> {
    let request = proto::LogRequest {
        job: job.0,
        task: Some(wire::task(task)),
        attempt: Some(wire::attempt(attempt)),
    };
    // A worker that was started again has the directory of its life before: so all others follow.
    let (first, others): (Vec<_>, Vec<_>) = workers
        .into_iter()
        .partition(|(incarnation, _)| Some(*incarnation) == at);
    let mut unreached = Vec::new();
    for asked in [first, others] {
        let mut left = asked.into_iter().map(|(_, address)| address);
        let mut asking = JoinSet::new();
        loop {
            while asking.len() < ASKED_MAX
                && let Some(address) = left.next()
            {
                asking.spawn(log_of(address, request));
            }
            match asking.join_next().await {
                Some(Ok(Ok(Some(log)))) => return Ok(log),
                Some(Ok(Ok(None))) => {}
                Some(Ok(Err(address))) => unreached.push(address),
                Some(Err(error)) => unreached.push(error.to_string()),
                None => break,
            }
        }
    }
    if unreached.is_empty() {
        Err(NoLog::Gone)
    } else {
        unreached.sort();
        Err(NoLog::Unreached(unreached.join(", ")))
    }
}

/// None: it does not have it. The error is its address.
async fn log_of(address: String, request: proto::LogRequest) -> Result<Option<Vec<u8>>, String> {
    let asking = async {
        let channel = channel(&address).await.ok()?;
        let mut worker = worker_client::WorkerClient::new(channel);
        match worker.log(request).await {
            Ok(answer) => Some(Some(answer.into_inner().octets.to_vec())),
            Err(status) if status.code() == tonic::Code::NotFound => Some(None),
            Err(_) => None,
        }
    };
    match tokio::time::timeout(ANSWER, asking).await {
        Ok(Some(found)) => Ok(found),
        Ok(None) | Err(_) => Err(address.clone()),
    }
}

/// Lives of workers, and where they are reached.
pub(crate) fn addresses(copy: &Copy) -> Vec<(Incarnation, String)> {
    let workers = copy.workers.values();
    workers
        .map(|(life, entry)| (*life, entry.address.clone()))
        .collect()
}
