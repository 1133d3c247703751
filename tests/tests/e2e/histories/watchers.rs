//! Watches that run beside the clients: ours, ours remade again and again at the next member, and
//! `etcdctl watch` with the resuming of etcd's own client.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cfgsvc_client::{Client, EventKind, WatchEvents, WatchOptions};
use cfgsvc_history::{Change, Watch};
use cfgsvc_tests::harness::eventually;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::callers::{client, number, read_version, version_of};

/// Responses after which a watch is ended and remade by one that does so.
const REMADE_AFTER: usize = 40;
/// A watch that is remade says something at least so often, or is remade in silence.
const SILENCE: Duration = Duration::from_secs(2);

/// Something that watches.
pub(super) trait Watcher {
    /// The key that it watches; `None` is all.
    fn key(&self) -> Option<&'static str>;
    /// Waits until it has shown this revision, which has a change that it watches.
    fn wait_for(&mut self, revision: i64, within: Duration) -> Result<()>;
    /// Ends it; what it showed.
    fn end(self: Box<Self>) -> Result<Watch>;
}

/// A watch of our client.
pub(super) struct Ours {
    key: Option<&'static str>,
    seen: Arc<Mutex<Watch>>,
    task: JoinHandle<Result<()>>,
}

/// What one of ours is to do.
pub(super) struct Plan {
    pub(super) name: &'static str,
    /// Endpoints of the client; with `remade`, of the clients in turn.
    pub(super) endpoints: Vec<String>,
    /// The key; `None` is all.
    pub(super) key: Option<&'static str>,
    pub(super) from: i64,
    pub(super) remade: bool,
}

impl Ours {
    pub(super) fn start(runtime: &Handle, plan: Plan) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Watch {
            name: plan.name.to_owned(),
            key: plan.key.map(str::to_owned),
            from: plan.from,
            responses: Vec::new(),
        }));
        let clients = if plan.remade {
            let each = plan.endpoints.chunks(1);
            each.map(|endpoint| client(runtime, endpoint))
                .collect::<Result<Vec<_>>>()?
        } else {
            vec![client(runtime, &plan.endpoints)?]
        };
        let key = plan.key;
        let task = runtime.spawn(follow(clients, plan, Arc::clone(&seen)));
        Ok(Self { key, seen, task })
    }

    fn shown(&self) -> i64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.responses
            .last()
            .and_then(|changes| changes.last())
            .map_or(0, |change| change.revision)
    }
}

/// Watches with one client after the other.
async fn follow(clients: Vec<Client>, plan: Plan, seen: Arc<Mutex<Watch>>) -> Result<()> {
    let mut next = plan.from;
    for client in clients.iter().cycle() {
        let options = match plan.key {
            Some(key) => WatchOptions::new(key),
            None => WatchOptions::prefix(""),
        };
        let mut watch = match client.watch(options.from_revision(next)).await {
            Ok(watch) => watch,
            Err(error) if error.retryable() => continue,
            Err(error) => return Err(error).context(plan.name),
        };
        for count in 0.. {
            if plan.remade && count >= REMADE_AFTER {
                break;
            }
            let events = if plan.remade {
                match tokio::time::timeout(SILENCE, watch.next()).await {
                    Ok(events) => events,
                    Err(_) => break,
                }
            } else {
                watch.next().await
            };
            let events = events.context("a watch ended without a word")?;
            let events = events.context(plan.name)?;
            next = events.revision + 1;
            let changes = changes_of(&events)?;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.responses.push(changes);
        }
    }
    bail!("there is no client to watch with")
}

fn changes_of(events: &WatchEvents) -> Result<Vec<Change>> {
    let change = |event: &cfgsvc_client::Event| {
        let (key, kv) = version_of(&event.kv)?;
        Ok(Change {
            revision: event.kv.mod_revision,
            key,
            kv: match event.kind {
                EventKind::Put => Some(kv),
                EventKind::Delete => None,
            },
        })
    };
    events.events.iter().map(change).collect()
}

impl Watcher for Ours {
    fn key(&self) -> Option<&'static str> {
        self.key
    }

    fn wait_for(&mut self, revision: i64, within: Duration) -> Result<()> {
        let waited = eventually(within, format!("r{revision} to be shown"), || {
            self.shown() >= revision || self.task.is_finished()
        });
        let shown = self.shown();
        waited.with_context(|| format!("the last one was r{shown}"))
    }

    fn end(self: Box<Self>) -> Result<Watch> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(
            !self.task.is_finished(),
            "the watch {} ended by itself after {} responses",
            seen.name,
            seen.responses.len()
        );
        self.task.abort();
        Ok(seen.clone())
    }
}

/// `etcdctl watch` of everything, kept by a thread that starts it again behind what it has shown
/// when its member has no leader: it asks for one always, and ends then by design.
pub(super) struct Etcdctl {
    kept: Kept,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

/// What the thread keeps.
#[derive(Clone)]
struct Kept {
    name: String,
    endpoints: String,
    from: i64,
    /// What it printed, over all its starts.
    output: PathBuf,
    /// What it complained of.
    errors: PathBuf,
}

impl Etcdctl {
    pub(super) fn start(name: &str, endpoints: &str, from: i64, within: &Path) -> Self {
        let kept = Kept {
            name: name.to_owned(),
            endpoints: endpoints.to_owned(),
            from,
            output: within.join(format!("{name}.jsonl")),
            errors: within.join(format!("{name}.log")),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (keep, told) = (kept.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || keep.keep(&told));
        Self {
            kept,
            stop,
            thread: Some(thread),
        }
    }

    fn is_over(&self) -> bool {
        self.thread
            .as_ref()
            .is_none_or(std::thread::JoinHandle::is_finished)
    }

    /// Ends the thread and its process.
    fn join(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => bail!("the thread of {} panicked", self.kept.name),
            None => Ok(()),
        }
    }
}

impl Kept {
    fn keep(&self, stop: &AtomicBool) -> Result<()> {
        loop {
            let mut process = self.spawn()?;
            let told = || stop.load(Ordering::Acquire);
            let ended = loop {
                // A short wait that comes to nothing is looked at again.
                let over = || told() || !matches!(process.try_wait(), Ok(None));
                if eventually(SILENCE, "the end of a watch", over).is_ok() {
                    break process.try_wait().context("look at etcdctl watch")?;
                }
            };
            if ended.is_none() {
                process.kill().context("kill etcdctl watch")?;
                process.wait().context("wait for etcdctl watch")?;
                return Ok(());
            }
            let errors = fs::read_to_string(&self.errors).context("read its complaints")?;
            ensure!(
                errors.contains("etcdserver: no leader"),
                "{} ended by itself: {errors}",
                self.name
            );
        }
    }

    fn spawn(&self) -> Result<Child> {
        let output = File::options().create(true).append(true).open(&self.output);
        let printed = fs::read_to_string(&self.output).unwrap_or_default();
        let shown: Result<Vec<_>> = printed.lines().map(read_response).collect();
        // The response that ends a watch has no changes.
        let last = shown?.into_iter().flatten().last();
        Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoints))
            .args(["watch", "", "--prefix", "-w", "json"])
            .arg(format!(
                "--rev={}",
                last.map_or(self.from, |last| last.revision + 1)
            ))
            .stdin(Stdio::null())
            .stdout(output.context("make the file of a watch")?)
            .stderr(File::create(&self.errors).context("make the file of complaints")?)
            .spawn()
            .context("start etcdctl watch")
    }

    /// Whole lines that it printed.
    fn printed(&self) -> Result<String> {
        let mut text = fs::read_to_string(&self.output).context("read the file of a watch")?;
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        Ok(text)
    }
}

impl Watcher for Etcdctl {
    fn key(&self) -> Option<&'static str> {
        None
    }

    fn wait_for(&mut self, revision: i64, within: Duration) -> Result<()> {
        // What is waited for is a put; a deletion would have no other field behind it.
        let mark = format!("\"mod_revision\":{revision},");
        let name = &self.kept.name;
        eventually(within, format!("r{revision} from {name}"), || {
            let printed = self.kept.printed().unwrap_or_default();
            self.is_over() || printed.contains(&mark)
        })
    }

    fn end(mut self: Box<Self>) -> Result<Watch> {
        self.join()?;
        let printed = self.kept.printed()?;
        let responses: Result<Vec<_>> = printed.lines().map(read_response).collect();
        Ok(Watch {
            name: self.kept.name.clone(),
            key: None,
            from: self.kept.from,
            responses: responses?,
        })
    }
}

impl Drop for Etcdctl {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            eprintln!("{error:#}");
        }
    }
}

fn read_response(line: &str) -> Result<Vec<Change>> {
    let json: Value = serde_json::from_str(line).with_context(|| format!("etcdctl: {line}"))?;
    let events = json["Events"].as_array();
    let change = |event: &Value| {
        let (key, kv) = read_version(&event["kv"])?;
        Ok(Change {
            revision: kv.modified,
            key,
            kv: (number(event, "type") == 0).then_some(kv),
        })
    };
    events.into_iter().flatten().map(change).collect()
}

/// Everything that a member says happened from a revision on up to another.
pub(super) async fn log_of(member: &Client, from: i64, last: i64) -> Result<Vec<Change>> {
    let options = WatchOptions::prefix("").from_revision(from);
    let mut watch = member.watch(options).await?;
    let mut log: Vec<Change> = Vec::new();
    while log.last().is_none_or(|change| change.revision < last) {
        let events = watch.next().await.context("a watch ended")??;
        log.extend(changes_of(&events)?);
    }
    Ok(log)
}
