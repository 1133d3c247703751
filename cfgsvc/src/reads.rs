//! Turns for reads that take longer than one key: how many run, how many may wait.
//!
//! Why so: each of them holds a thread and its answer in memory. Without a bound, clients that ask
//! for much, or that ask and go away, would take all of both from the others.
//!
//! Invariants
//! - a read keeps its turn until it has ended, also when the one who asked is gone.
//! - a request waits behind a bounded number of others and for a bounded time; one more is refused
//!   at once. A step of a stream that was admitted waits for its turn: each stream has one step.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::grpc::status;

/// Large reads that run at a time; each holds its answer in memory.
const RUNNING_MAX: usize = 16;
/// Requests that may wait for a turn; some milliseconds each.
const WAITING_MAX: usize = 4_096;
/// Steps of streams that run at a time: so few that requests are answered while all watchers of a
/// member catch up.
const STEPS_MAX: usize = 8;
/// Scans of the whole store that run at a time: snapshots and hashes.
const SCANS_MAX: usize = 4;

/// The right to run one read, until it is dropped.
pub type Turn = OwnedSemaphorePermit;

/// Who may read now.
#[derive(Debug)]
pub struct Reads {
    turns: Arc<Semaphore>,
    /// Requests that wait or run.
    places: Semaphore,
    steps: Arc<Semaphore>,
    scans: Arc<Semaphore>,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(RUNNING_MAX)),
            places: Semaphore::new(RUNNING_MAX + WAITING_MAX),
            steps: Arc::new(Semaphore::new(STEPS_MAX)),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
        }
    }
}

impl Reads {
    /// Runs the read of a request on a thread of its own, after at most `patience` of waiting.
    pub async fn request<T, F>(&self, patience: Duration, read: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let _place = self
            .places
            .try_acquire()
            .map_err(|_| status::too_many_requests())?;
        let turn = tokio::time::timeout(patience, turn_of(&self.turns))
            .await
            .map_err(|_| status::timed_out())??;
        run(turn, read).await
    }

    /// Runs one step of a stream on a thread of its own.
    pub async fn step<T, F>(&self, read: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        run(turn_of(&self.steps).await?, read).await
    }

    /// The turn of a scan of the whole store, or a refusal: such scans are rare and long.
    pub fn scan(&self) -> Result<Turn, Status> {
        Arc::clone(&self.scans)
            .try_acquire_owned()
            .map_err(|_| status::too_many_requests())
    }
}

async fn turn_of(turns: &Arc<Semaphore>) -> Result<Turn, Status> {
    let turn = Arc::clone(turns).acquire_owned().await;
    turn.map_err(|_| status::stopped())
}

/// Runs `read` on a thread of its own, which gives the turn back.
pub async fn run<T, F>(turn: Turn, read: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let turned = move || {
        let value = read();
        drop(turn);
        value
    };
    tokio::task::spawn_blocking(turned)
        .await
        .map_err(|_| status::stopped())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_mins(10);

    /// Reads of which all turns are taken until the sender is dropped.
    async fn busy() -> (Arc<Reads>, Vec<mpsc::SyncSender<()>>) {
        let reads = Arc::new(Reads::default());
        let mut holders = Vec::new();
        for _ in 0..RUNNING_MAX {
            let (hold, held) = mpsc::sync_channel::<()>(1);
            let (began, begun) = tokio::sync::oneshot::channel();
            let reads = Arc::clone(&reads);
            tokio::spawn(async move {
                let wait = move || {
                    let _ = began.send(());
                    let _ = held.recv();
                };
                reads.request(LONG, wait).await
            });
            begun.await.expect("it runs");
            holders.push(hold);
        }
        (reads, holders)
    }

    #[tokio::test]
    async fn request_beyond_the_queue_is_refused_at_once() {
        let (reads, holders) = busy().await;
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..WAITING_MAX {
            let reads = Arc::clone(&reads);
            waiting.spawn(async move { reads.request(LONG, || 1).await });
        }
        while reads.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = reads.request(LONG, || 1).await.expect_err("too many");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(holders);
        let answers = waiting.join_all().await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok(1))));
    }

    #[tokio::test]
    async fn request_waits_no_longer_than_its_patience() {
        let (reads, _holders) = busy().await;
        let late = reads.request(Duration::from_millis(1), || 1).await;
        assert_eq!(
            late.expect_err("no turn").message(),
            "etcdserver: request timed out"
        );
    }

    #[tokio::test]
    async fn read_whose_client_went_away_keeps_its_turn() {
        let reads = Reads::default();
        let (hold, held) = mpsc::sync_channel::<()>(1);
        let (began, begun) = tokio::sync::oneshot::channel();
        let wait = move || {
            let _ = began.send(());
            let _ = held.recv();
        };
        tokio::select! {
            _ = reads.request(LONG, wait) => panic!("it is held"),
            _ = begun => {}
        }
        assert_eq!(reads.turns.available_permits(), RUNNING_MAX - 1);
        drop(hold);
        while reads.turns.available_permits() < RUNNING_MAX {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn steps_of_streams_and_requests_do_not_wait_for_each_other() {
        let (reads, _holders) = busy().await;
        assert!(matches!(reads.step(|| 1).await, Ok(1)));
        let reads = Reads::default();
        let steps: Vec<Turn> = (0..STEPS_MAX)
            .map(|_| {
                Arc::clone(&reads.steps)
                    .try_acquire_owned()
                    .expect("a turn")
            })
            .collect();
        assert!(matches!(reads.request(LONG, || 1).await, Ok(1)));
        drop(steps);
    }

    #[tokio::test]
    async fn scans_are_few() {
        let reads = Reads::default();
        let turns: Vec<Turn> = (0..SCANS_MAX)
            .map(|_| reads.scan().expect("a turn"))
            .collect();
        let refused = reads.scan().expect_err("too many");
        assert_eq!(refused.message(), "etcdserver: too many requests");
        drop(turns);
        assert!(reads.scan().is_ok());
    }
}
