//! From many clients' renewals to few calls of the leader.
//!
//! Why a batch: each call costs the leader a check with its quorum; what has gathered while one was
//! under way shares the next.

use std::sync::Arc;
use std::time::Duration;

use cfgsvc_proto::v1::{Probes, Row, VotesResponse};
use cluster::{CallError, Group};
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::wire::{LeaseAnswer, LeaseCall, Renewed, Seen, decode};

/// Renewals that may wait for a call; one is a few words, and a client has one for each lease.
const WAITING_MAX: usize = 65_536;
/// Most renewals of one call.
const BATCH_MAX: usize = 4_096;
/// Calls under way at a time: one is checked while the next gathers.
const CALLS_MAX: usize = 2;
/// Wait before the leader is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

struct Waiting {
    id: i64,
    row: Option<Row>,
    answer: oneshot::Sender<Result<(Renewed, Option<Probes>), CallError>>,
}

/// Where renewals go.
#[derive(Clone)]
pub struct Renewals {
    waiting: mpsc::Sender<Waiting>,
    group: Arc<dyn Group>,
    /// How long one renewal is tried.
    patience: Duration,
}

impl Renewals {
    /// Starts the task that calls the leader; it ends when the last clone is dropped.
    pub fn start(group: Arc<dyn Group>, patience: Duration) -> Self {
        let (waiting, received) = mpsc::channel(WAITING_MAX);
        tokio::spawn(forward(Arc::clone(&group), received));
        Self {
            waiting,
            group,
            patience,
        }
    }

    /// Renews a lease.
    pub async fn renew(&self, id: i64) -> Result<Renewed, CallError> {
        let (renewed, _) = self.renew_with(id, None).await?;
        Ok(renewed)
    }

    /// Renews a lease, and tells what its host sees; answers whom that one is to probe, if it does
    /// not know.
    pub async fn renew_with(
        &self,
        id: i64,
        row: Option<Row>,
    ) -> Result<(Renewed, Option<Probes>), CallError> {
        let attempts = async {
            loop {
                match self.once(id, row.clone()).await {
                    Ok((renewed, probes)) if !renewed.undecided => return Ok((renewed, probes)),
                    Ok(_) | Err(CallError::NoLeader | CallError::NotLeader) => {
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    Err(error @ (CallError::Timeout { .. } | CallError::Refused(_))) => {
                        return Err(error);
                    }
                }
            }
        };
        tokio::time::timeout(self.patience, attempts)
            .await
            .unwrap_or_else(|_| Err(self.too_late()))
    }

    /// Tells what a host sees, without a lease to renew.
    pub async fn tell(&self, row: Row) -> Result<Option<Probes>, CallError> {
        let call = LeaseCall {
            rows: vec![row],
            ..LeaseCall::default()
        };
        let mut answer = self.patiently(&call).await?;
        Ok(answer.probes.pop().filter(|probes| probes.list != 0))
    }

    /// What the leader makes of all rows.
    pub async fn votes(&self) -> Result<VotesResponse, CallError> {
        let call = LeaseCall {
            votes: true,
            ..LeaseCall::default()
        };
        let answer = self.patiently(&call).await?;
        Ok(answer.votes.unwrap_or_default())
    }

    /// What is left of a lease; zeros when there is no such lease.
    pub async fn look(&self, id: i64) -> Result<Seen, CallError> {
        let call = LeaseCall {
            look: vec![id],
            ..LeaseCall::default()
        };
        let answer = self.patiently(&call).await?;
        Ok(answer.seen[0])
    }

    /// Asks until there is a leader that answers.
    async fn patiently(&self, call: &LeaseCall) -> Result<LeaseAnswer, CallError> {
        let attempts = async {
            loop {
                match ask(self.group.as_ref(), call).await {
                    Ok(answer) => return Ok(answer),
                    Err(CallError::NoLeader | CallError::NotLeader) => {
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    Err(error @ (CallError::Timeout { .. } | CallError::Refused(_))) => {
                        return Err(error);
                    }
                }
            }
        };
        tokio::time::timeout(self.patience, attempts)
            .await
            .unwrap_or_else(|_| Err(self.too_late()))
    }

    async fn once(
        &self,
        id: i64,
        row: Option<Row>,
    ) -> Result<(Renewed, Option<Probes>), CallError> {
        let (answer, answered) = oneshot::channel();
        let stopped = || CallError::Refused("the member is stopping".to_owned());
        self.waiting
            .send(Waiting { id, row, answer })
            .await
            .map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    fn too_late(&self) -> CallError {
        let waited_ms = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        CallError::Timeout { waited_ms }
    }
}

async fn forward(group: Arc<dyn Group>, mut received: mpsc::Receiver<Waiting>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&calls).acquire_owned().await else {
            return;
        };
        let mut batch = Vec::new();
        if received.recv_many(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        let group = Arc::clone(&group);
        tokio::spawn(async move {
            let call = LeaseCall {
                renew: batch.iter().map(|one| one.id).collect(),
                rows: batch.iter().filter_map(|one| one.row.clone()).collect(),
                ..LeaseCall::default()
            };
            let answer = ask(group.as_ref(), &call).await;
            let mut rows = 0;
            for (at, one) in batch.into_iter().enumerate() {
                let result = answer.as_ref().map_err(Clone::clone).map(|answer| {
                    let probes = one.row.is_some().then(|| answer.probes[rows].clone());
                    (answer.renewed[at], probes.filter(|probes| probes.list != 0))
                });
                rows += usize::from(one.row.is_some());
                // A client that went away does not wait for its answer.
                let _ = one.answer.send(result);
            }
            drop(permit);
        });
    }
}

/// Asks the leader; an answer has as many parts as the call.
async fn ask(group: &dyn Group, call: &LeaseCall) -> Result<LeaseAnswer, CallError> {
    let bytes = group.call_leader(call.encode_to_vec().into()).await?;
    let answer: LeaseAnswer = decode(bytes)?;
    let found = [answer.renewed.len(), answer.seen.len(), answer.probes.len()];
    let expected = [call.renew.len(), call.look.len(), call.rows.len()];
    if found != expected {
        return Err(CallError::Refused(format!(
            "the leader answered {found:?} renewals, looks and rows, expected {expected:?}"
        )));
    }
    Ok(answer)
}
