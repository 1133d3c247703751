//! Clients that write with the epoch, wherever the group says that the role is served.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cfgsvc_client::{Client, Options};
use serde_json::Value;

use super::ROLE;
use super::engine::{Engine, TABLE};

/// Longest wait for one write to be acknowledged, before the client takes another connection.
const WRITE_MAX: Duration = Duration::from_secs(3);
/// Time between two looks at who serves.
const LOOK: Duration = Duration::from_millis(20);

/// A write that a client was told is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    pub(super) id: u64,
    pub(super) epoch: i64,
    at: Instant,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    next: AtomicU64,
    acknowledged: Mutex<Vec<Acknowledged>>,
    /// Where the role is served, by its port, and the epoch.
    serves: Mutex<Option<(u16, i64)>>,
}

pub(super) struct Load {
    engine: Engine,
    doors: BTreeMap<String, u16>,
    endpoints: String,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn new(engine: Engine, doors: BTreeMap<String, u16>, endpoints: String) -> Self {
        Self {
            engine,
            doors,
            endpoints,
            shared: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// Starts the clients.
    pub(super) fn start(&mut self, clients: usize) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let options = Options::new(self.endpoints.split(',').map(str::to_owned));
        let client = runtime.block_on(async { Client::new(options) })?;
        let (shared, doors) = (Arc::clone(&self.shared), self.doors.clone());
        self.threads.push(std::thread::spawn(move || {
            runtime.block_on(follow(&client, &doors, &shared));
        }));
        for _ in 0..clients {
            let (shared, engine) = (Arc::clone(&self.shared), self.engine);
            self.threads.push(std::thread::spawn(move || {
                while !shared.ends.load(Ordering::Relaxed) {
                    write_on_one_connection(engine, &shared);
                }
            }));
        }
        Ok(())
    }

    fn acknowledged(&self) -> MutexGuard<'_, Vec<Acknowledged>> {
        let all = self.shared.acknowledged.lock();
        all.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.acknowledged().len()
    }

    /// When the first write was acknowledged in an epoch after `epoch`.
    pub(super) fn first_after(&self, epoch: i64) -> Option<Instant> {
        let all = self.acknowledged();
        let later = all.iter().filter(|one| one.epoch > epoch);
        later.map(|one| one.at).min()
    }

    /// Ends the clients; all that was acknowledged.
    pub(super) fn stop(&mut self) -> Vec<Acknowledged> {
        self.shared.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            drop(thread.join());
        }
        std::mem::take(&mut *self.acknowledged())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Looks who serves, again and again.
async fn follow(client: &Client, doors: &BTreeMap<String, u16>, shared: &Shared) {
    let mut ticks = tokio::time::interval(LOOK);
    while !shared.ends.load(Ordering::Relaxed) {
        ticks.tick().await;
        // Without an answer the old one stands: the database refuses what is too old.
        let Ok(roles) = client.roles(ROLE).await else {
            continue;
        };
        let grant = roles
            .first()
            .and_then(|role| serde_json::from_str(&role.grant).ok());
        let grant: Value = grant.unwrap_or_default();
        let door = grant["holder"]
            .as_str()
            .and_then(|holder| doors.get(holder).copied());
        let serves = door
            .zip(grant["epoch"].as_i64())
            .filter(|_| grant["serving"] == 1);
        *shared.serves.lock().unwrap_or_else(PoisonError::into_inner) = serves;
    }
}

/// Writes until something goes wrong.
fn write_on_one_connection(engine: Engine, shared: &Shared) {
    let serves = *shared.serves.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((port, epoch)) = serves else {
        std::thread::park_timeout(LOOK);
        return;
    };
    // Whatever it is: this connection is of no use, and the write's end is not known.
    let Ok(mut client) = engine.client(port).spawn() else {
        return;
    };
    drop(write(engine, shared, (&mut client, epoch)));
    drop(client.kill());
    drop(client.wait());
}

fn write(engine: Engine, shared: &Shared, (client, epoch): (&mut Child, i64)) -> Result<()> {
    let mut input = client.stdin.take().context("its input")?;
    let output = BufReader::new(client.stdout.take().context("its output")?);
    let (lines, read) = mpsc::sync_channel(1);
    let reader = std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    input.write_all(TABLE.as_bytes())?;
    while !shared.ends.load(Ordering::Relaxed) {
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        input.write_all(engine.write(id, epoch).as_bytes())?;
        let said = read.recv_timeout(WRITE_MAX)?;
        if said == id.to_string() {
            let at = Instant::now();
            let mut all = shared
                .acknowledged
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.push(Acknowledged { id, epoch, at });
        }
    }
    drop(input);
    // It ends with the client's output.
    drop(reader);
    Ok(())
}
