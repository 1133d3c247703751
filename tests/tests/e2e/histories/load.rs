//! Clients that ask without end, and the record of what they asked, when, and what they were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use cfgsvc_history::{Condition, Kv, Operation, Outcome, Request};
use cfgsvc_tests::harness::eventually;

use super::callers::Caller;
use crate::seeds::Numbers;

/// Few, so that clients meet each other.
pub(super) const KEYS: [&str; 6] = ["k0", "k1", "k2", "k3", "k4", "k5"];
/// Between two operations of a client: the load is to leave the machine time for the members.
const PAUSE: Duration = Duration::from_millis(15);
/// After an operation without an answer.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What all clients did, with times of one monotonic clock.
pub(super) struct Record {
    started: Instant,
    next: AtomicUsize,
    operations: Mutex<Vec<Operation>>,
}

impl Record {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            next: AtomicUsize::new(0),
            operations: Mutex::new(Vec::new()),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).expect("584 years in nanoseconds")
    }

    /// Asks what `plan` makes of the operation's number, and keeps it.
    pub(super) fn ask(
        &self,
        client: &str,
        caller: &mut dyn Caller,
        plan: impl FnOnce(usize) -> Request,
    ) -> Result<(Request, Outcome)> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = plan(id);
        let call = self.now();
        let outcome = caller.call(&request)?;
        let end = self.now();
        let operation = Operation {
            id,
            client: client.to_owned(),
            call,
            end,
            request: request.clone(),
            outcome: outcome.clone(),
        };
        let mut operations = self
            .operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        operations.push(operation);
        Ok((request, outcome))
    }

    /// All operations that have ended.
    pub(super) fn operations(&self) -> Vec<Operation> {
        let operations = self
            .operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        operations.clone()
    }
}

/// Running clients.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<Worker>,
}

struct Worker {
    name: String,
    /// Operations that were answered.
    answered: Arc<AtomicUsize>,
    thread: JoinHandle<Result<()>>,
}

impl Load {
    /// One thread for each client.
    pub(super) fn start(
        record: &Arc<Record>,
        callers: Vec<(String, Box<dyn Caller>)>,
        seed: u64,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..).zip(callers).map(|(number, (name, caller))| {
            let answered = Arc::new(AtomicUsize::new(0));
            let client = Asking {
                record: Arc::clone(record),
                stop: Arc::clone(&stop),
                answered: Arc::clone(&answered),
                name: name.clone(),
                caller,
                numbers: Numbers::new(seed ^ (number << 32)),
                seen: BTreeMap::new(),
            };
            Worker {
                name,
                answered,
                thread: std::thread::spawn(move || client.run()),
            }
        });
        Self {
            workers: workers.collect(),
            stop,
        }
    }

    /// Waits until every client was answered `count` times more.
    pub(super) fn wait_for_progress(&self, count: usize, within: Duration) -> Result<()> {
        let answered = |worker: &Worker| worker.answered.load(Ordering::Acquire);
        let before: Vec<usize> = self.workers.iter().map(answered).collect();
        let lags = |(worker, before): &(&Worker, &usize)| answered(worker) < *before + count;
        let behind = || self.workers.iter().zip(&before).find(lags);
        let ended = |worker: &Worker| worker.thread.is_finished();
        let moved = eventually(within, "answers for every client", || {
            behind().is_none() || self.workers.iter().any(ended)
        });
        if let Err(error) = moved {
            let name = behind().map_or("nobody", |(worker, _)| &worker.name);
            return Err(error.context(format!("{name} got no {count} answers")));
        }
        Ok(())
    }

    /// Ends all clients after their operations under way.
    pub(super) fn end(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        let mut ended = Ok(());
        for worker in self.workers.drain(..) {
            let this = match worker.thread.join() {
                Ok(this) => this.map_err(|error| error.context(worker.name)),
                Err(_) => Err(anyhow!("the thread of {} panicked", worker.name)),
            };
            ended = ended.and(this);
        }
        ended
    }
}

impl Drop for Load {
    /// After a fault that could not be made: no client outlives the runtime that it uses.
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            eprintln!("{error:#}");
        }
    }
}

/// One client's thread.
struct Asking {
    record: Arc<Record>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    name: String,
    caller: Box<dyn Caller>,
    numbers: Numbers,
    /// The newest version of each key that it saw, to make conditions of.
    seen: BTreeMap<String, Kv>,
}

impl Asking {
    fn run(self) -> Result<()> {
        let Self {
            record,
            stop,
            answered,
            name,
            mut caller,
            mut numbers,
            mut seen,
        } = self;
        loop {
            let plan = |id| plan(&mut numbers, &seen, id);
            let (request, outcome) = record.ask(&name, caller.as_mut(), plan)?;
            let pause = match outcome {
                Outcome::Done(reply) => {
                    answered.fetch_add(1, Ordering::AcqRel);
                    if let Request::Write {
                        when: Some((key, _)),
                        ..
                    } = &request
                    {
                        seen.remove(key);
                    }
                    seen.extend(reply.found);
                    PAUSE
                }
                Outcome::Failed | Outcome::Unknown => PAUSE_AFTER_FAILURE,
            };
            let told = || stop.load(Ordering::Acquire);
            if eventually(pause, "the end of the load", told).is_ok() {
                return Ok(());
            }
        }
    }
}

/// The next request of a client; `id` makes its values unique.
fn plan(numbers: &mut Numbers, seen: &BTreeMap<String, Kv>, id: usize) -> Request {
    let key = (*numbers.one_of(&KEYS)).to_owned();
    let value = Some(format!("v{id}"));
    let one = BTreeMap::from([(key.clone(), value.clone())]);
    let known = seen.get(&key);
    let at = Condition::Revision(known.map_or(0, |kv| kv.modified));
    let (when, changes) = match numbers.below(20) {
        0..5 => (None, one),
        5..7 => (None, BTreeMap::from([(key, None)])),
        7..11 => (Some((key, at)), one),
        11 => {
            let was = known.map_or_else(String::new, |kv| kv.value.clone());
            (Some((key, Condition::Value(was))), one)
        }
        12 => {
            let other = (*numbers.one_of(&KEYS)).to_owned();
            let change = (numbers.below(2) == 0).then(|| value.clone()).flatten();
            (None, BTreeMap::from([(other, change), (key, value)]))
        }
        13 => {
            let other = (*numbers.one_of(&KEYS)).to_owned();
            let changes = BTreeMap::from([(other, None), (key.clone(), value)]);
            (Some((key, at)), changes)
        }
        14..16 => {
            return Request::Read {
                key: None,
                serializable: false,
            };
        }
        16 => {
            return Request::Read {
                key: Some(key),
                serializable: true,
            };
        }
        _ => {
            return Request::Read {
                key: Some(key),
                serializable: false,
            };
        }
    };
    Request::Write { when, changes }
}
