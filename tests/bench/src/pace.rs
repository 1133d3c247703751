//! Makes requests due at their time: the clock of an open loop.
//!
//! A thread of its own waits, because the runtime's timer knows only whole milliseconds, which is
//! as long as a request takes. It hands out tickets; a client that has one takes the next index of
//! the schedule. Tickets that nobody is free to take pile up, and their due times stay what they
//! are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::Semaphore;

use crate::schedule::Schedule;

/// Hands out the requests of a schedule when they are due; stops when it is dropped.
pub(crate) struct Pace {
    tickets: Arc<Semaphore>,
    taken: AtomicU64,
    schedule: Schedule,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pace {
    /// Hands out tickets from `start` on, and at the end one for each of `clients`, so that all
    /// learn that it is over.
    pub(crate) fn start(schedule: Schedule, start: Instant, clients: usize) -> Result<Self> {
        let tickets = Arc::new(Semaphore::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let (of_thread, ended) = (Arc::clone(&tickets), Arc::clone(&over));
        let thread = thread::Builder::new()
            .name("pace".to_owned())
            .spawn(move || {
                hand_out(schedule, start, &of_thread, &ended);
                of_thread.add_permits(clients);
            })
            .context("start a thread")?;
        Ok(Self {
            tickets,
            taken: AtomicU64::new(0),
            schedule,
            over,
            thread: Some(thread),
        })
    }

    /// The index of a request that is due; `None` when all have been taken.
    pub(crate) async fn next(&self) -> Option<u64> {
        let ticket = self.tickets.acquire().await.ok()?;
        ticket.forget();
        let index = self.taken.fetch_add(1, Ordering::Relaxed);
        (index < self.schedule.total()).then_some(index)
    }

    /// The schedule.
    pub(crate) fn schedule(&self) -> &Schedule {
        &self.schedule
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                eprintln!("the thread that paces requests has panicked");
            }
        }
    }
}

fn hand_out(schedule: Schedule, start: Instant, tickets: &Semaphore, over: &AtomicBool) {
    let mut index = 0;
    while index < schedule.total() && !over.load(Ordering::Relaxed) {
        let due = start + schedule.due(index);
        let now = Instant::now();
        if let Some(wait) = due
            .checked_duration_since(now)
            .filter(|wait| !wait.is_zero())
        {
            // It may return early, which the loop sees.
            thread::park_timeout(wait);
            continue;
        }
        // What became due while this thread was not on a processor is handed out at once.
        let mut due = 1;
        while index + due < schedule.total() && start + schedule.due(index + due) <= now {
            due += 1;
        }
        index += due;
        tickets.add_permits(usize::try_from(due).unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::schedule::Phases;

    #[tokio::test]
    async fn every_request_is_handed_out_once_and_not_before_it_is_due() {
        let phases = Phases {
            warmup: Duration::ZERO,
            measured: Duration::from_millis(20),
        };
        let schedule = Schedule::new(5_000.0, &phases);
        let start = Instant::now();
        let pace = Pace::start(schedule, start, 2).expect("a thread");
        let mut expected = 0;
        while let Some(index) = pace.next().await {
            assert_eq!(index, expected);
            assert!(start.elapsed() >= schedule.due(index));
            expected += 1;
        }
        assert_eq!(expected, schedule.total());
        assert_eq!(pace.next().await, None, "the second client learns it too");
    }

    #[tokio::test]
    async fn dropping_it_ends_the_thread_long_before_the_schedule() {
        let phases = Phases {
            warmup: Duration::ZERO,
            measured: Duration::from_hours(24),
        };
        let pace = Pace::start(Schedule::new(0.01, &phases), Instant::now(), 1).expect("a thread");
        assert_eq!(pace.next().await, Some(0));
        drop(pace);
    }
}
