//! Clients that write while something happens, and the check of what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cfgsvc_client::{Client, Get, Options, Put};
use cfgsvc_tests::harness::Cluster;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Keys with the revision that was told.
type Acknowledged = Vec<(String, i64)>;

/// Writers with a session each: every write has its own key, so a version above 1 is a write that
/// was executed twice.
pub(crate) struct Writers {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Result<Acknowledged>>>,
}

/// A client of all members, patient enough for an election.
pub(crate) fn client(cluster: &Cluster) -> Result<Client> {
    let mut options = Options::new(cluster.endpoints().split(','));
    options.request_timeout = Duration::from_secs(20);
    // A third of that by default: a member that says nothing would hold up the writes for long.
    options.attempt_timeout = Some(Duration::from_secs(2));
    Ok(Client::new(options)?)
}

async fn write(
    client: Client,
    name: String,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> Result<Acknowledged> {
    let session = client.session(60).await.context("open a session")?;
    let client = client.in_session(&session);
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let key = format!("w/{name}/{number}");
        let reply = client
            .put(Put::new(key.clone(), "x"))
            .await
            .context(key.clone())?;
        acknowledged.push((key, reply.revision));
        count.fetch_add(1, Ordering::AcqRel);
    }
    Ok(acknowledged)
}

impl Writers {
    pub(crate) fn start(cluster: &Cluster, writers: usize) -> Result<Self> {
        let runtime = Runtime::new()?;
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let client = {
            let _guard = runtime.enter();
            client(cluster)?
        };
        let tasks = (0..writers)
            .map(|writer| {
                let (stop, count) = (stop.clone(), count.clone());
                runtime.spawn(write(client.clone(), writer.to_string(), stop, count))
            })
            .collect();
        Ok(Self {
            runtime,
            stop,
            count,
            tasks,
        })
    }

    /// Writes that were acknowledged so far.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Ends the writers and checks what the group holds against what it acknowledged: nothing is
    /// missing, nothing was done twice, and every write is at the revision that was told.
    pub(crate) fn check(self, cluster: &Cluster) -> Result<usize> {
        self.stop.store(true, Ordering::Release);
        self.runtime.block_on(async {
            let mut acknowledged = BTreeMap::new();
            for task in self.tasks {
                acknowledged.extend(task.await.context("a writer panicked")??);
            }
            let mut found = BTreeMap::new();
            let mut pages = client(cluster)?.get_pages(Get::prefix("w/")).await?;
            while let Some(kvs) = pages.next().await? {
                for kv in kvs {
                    let key = String::from_utf8_lossy(&kv.key).into_owned();
                    found.insert(key, (kv.mod_revision, kv.version));
                }
            }
            for (key, revision) in &acknowledged {
                let at = found
                    .get(key)
                    .with_context(|| format!("{key} at r{revision} is lost"))?;
                ensure!(
                    *at == (*revision, 1),
                    "{key}: told r{revision}, found {at:?}"
                );
            }
            ensure!(
                found.len() == acknowledged.len(),
                "{} keys, {} acknowledged: all writers ended with an answer",
                found.len(),
                acknowledged.len()
            );
            Ok(acknowledged.len())
        })
    }
}
