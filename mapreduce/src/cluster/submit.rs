//! What people do to jobs: submit and cancel them.

use crate::cluster::keys::{self, Info, Part, WorkerEntry, key};
use crate::cluster::publication::{self, Destination};
use crate::cluster::{program, words};
use crate::engine::local::{self, Options};
use crate::job::Code;
use crate::{Result, store};
use cfgsvc_client::{Client, Compare, Op, Put, Txn};
use fs_err as fs;
use mapreduce_core::limits::HOSTS_MAX;
use mapreduce_core::names::HostName;
use mapreduce_core::record::{Header, JobStatus};
use mapreduce_core::spec::{InputSpec, JobCode, JobOptions, JobSpec, SPEC_VERSION, digest};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// Octets of a value of the group that a list is cut into.
const CHUNK: usize = 512 << 10;
/// Between two tries to reach the group.
const AGAIN: Duration = Duration::from_secs(2);

/// A job to submit.
pub(crate) struct Submission<'a> {
    pub(crate) name: &'a str,
    pub(crate) arguments: Vec<String>,
    pub(crate) code: &'a dyn Code,
    pub(crate) options: &'a Options,
    /// What tasks find in the directory in which they run.
    pub(crate) files: &'a [PathBuf],
    /// How it runs.
    pub(crate) how: JobOptions,
}

impl Submission<'_> {
    fn code_of(&self) -> Result<JobCode> {
        let arguments = self.arguments.clone();
        Ok(JobCode::Binary {
            digest: program::checksum(&std::env::current_exe()?)?,
            target: program::target(),
            arguments,
        })
    }
}

/// Writes a job to the group; its key.
pub(crate) async fn submit(client: &Client, what: &Submission<'_>) -> Result<String> {
    let job = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
    let target = std::path::absolute(store::directory(&what.options.output)?)?;
    let staging = publication::staging(&target, &job)?;
    let workers = workers(client).await?;
    let hosts = |file: &str| hosts(&workers, file);
    let planned = local::prepare(what.code, what.options, &hosts)?;
    let chunks = planned.plan.splits.chunks();
    let spec = JobSpec {
        version: SPEC_VERSION,
        name: what.name.to_owned(),
        code: what.code_of()?,
        input: InputSpec {
            splits: planned.plan.maps(),
            chunks: u32::try_from(chunks.len())?,
            bytes: planned.plan.bytes,
            digest: hex(digest(chunks.iter().map(Vec::as_slice))),
        },
        reduces: planned.plan.reduces,
        output: staging
            .to_str()
            .ok_or("the output's name is not UTF-8")?
            .to_owned(),
        options: what.how.clone(),
    };
    let json = spec.to_json()?;
    let header = Header {
        spec_digest: digest([json.as_slice()]),
        maps: planned.plan.maps(),
        reduces: planned.plan.reduces,
        status: JobStatus::Running,
    };
    let destination = Destination {
        target,
        overwrite: what.options.overwrite,
        settled: false,
        problem: None,
    };
    let left = Left::new(&destination, &job)?;
    program::leave(&std::env::current_exe()?, &staging)?;
    program::leave_files(what.files, &staging)?;
    let ranges = planned.ranges.as_ref();
    let ranges = ranges.map(serde_json::to_vec).transpose()?;
    put_lists(client, &job, chunks, &ranges.unwrap_or_default()).await?;
    let output = serde_json::to_vec(&destination)?;
    let info = serde_json::to_vec(&Info {
        name: what.name.to_owned(),
        submitted_ms: words::now_ms(),
        input_octets: planned.plan.bytes,
    })?;
    // From then on it is a job. The header comes first: who follows makes a job of it, and gives
    // that what comes after.
    let txn = Txn::new()
        .when(Compare::missing(key(&job, Part::Header)))
        .then(Op::Put(Put::new(key(&job, Part::Header), header.encode())))
        .then(Op::Put(Put::new(key(&job, Part::Spec), json)))
        .then(Op::Put(Put::new(key(&job, Part::Output), output)))
        .then(Op::Put(Put::new(key(&job, Part::Info), info)));
    // Whether a job with an unknown outcome is there, others see by its key.
    let committed = client.txn(txn).await;
    let is_refused = matches!(&committed, Ok(reply) if !reply.succeeded);
    left.end(is_refused);
    committed?;
    if is_refused {
        return Err("another job has the same key: submit it again".into());
    }
    Ok(job)
}

async fn workers(client: &Client) -> Result<Vec<WorkerEntry>> {
    let workers = client.get_all(keys::WORKERS, 1000).await?;
    let workers = workers.kvs.iter();
    Ok(workers
        .filter_map(|kv| serde_json::from_slice(&kv.value).ok())
        .collect())
}

/// Machines whose workers have a file.
fn hosts(workers: &[WorkerEntry], file: &str) -> Vec<HostName> {
    let holders = workers.iter().filter(|worker| worker.has(file));
    let hosts: BTreeSet<&str> = holders.map(|worker| worker.host.as_str()).collect();
    let hosts = hosts
        .into_iter()
        .filter_map(|host| HostName::new(host).ok());
    hosts.take(HOSTS_MAX).collect()
}

fn hex(octets: [u8; 32]) -> String {
    octets.iter().fold(String::new(), |mut hex, octet| {
        words::add(&mut hex, format_args!("{octet:02x}"));
        hex
    })
}

/// Writes what is too long for one value, before there is a job.
async fn put_lists(client: &Client, job: &str, splits: Vec<Vec<u8>>, ranges: &[u8]) -> Result<()> {
    for (number, chunk) in (0..).zip(splits) {
        let at = key(job, Part::Splits(number));
        client.put(Put::new(at, chunk)).await?;
    }
    for (number, chunk) in (0..).zip(ranges.chunks(CHUNK)) {
        let at = key(job, Part::Ranges(number));
        client.put(Put::new(at, chunk.to_vec())).await?;
    }
    Ok(())
}

/// The directory beside the output: there before the job, and gone if there will be none.
struct Left<'a> {
    destination: &'a Destination,
    job: &'a str,
    is_kept: bool,
}

impl<'a> Left<'a> {
    fn new(destination: &'a Destination, job: &'a str) -> Result<Self> {
        let staging = publication::staging(&destination.target, job)?;
        fs::create_dir(&staging)?;
        let is_kept = false;
        let left = Self {
            destination,
            job,
            is_kept,
        };
        fs::create_dir(publication::attempts(&staging))?;
        Ok(left)
    }

    /// Keeps it, unless nobody wants it.
    fn end(mut self, is_unwanted: bool) {
        self.is_kept = !is_unwanted;
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = publication::discard(self.destination, self.job)
        {
            eprintln!("warning: what was prepared is left: {error}");
        }
    }
}

/// Waits until the group answers, and says that it waits.
pub(crate) async fn reached(client: &Client) {
    while let Err(error) = client.get_key(keys::MASTER).await {
        let error = words::line(&crate::cli::with_causes(&error));
        eprintln!("the group is not reached ({error}); goes on trying");
        tokio::time::sleep(AGAIN).await;
    }
}

/// Ends a job that runs.
pub(crate) async fn cancel(client: &Client, job: &str) -> Result<()> {
    loop {
        let at = key(job, Part::Header);
        let found = client.get_key(at.clone()).await?.ok_or("the job is gone")?;
        let mut header = Header::decode(&found.value)?;
        match header.status {
            JobStatus::Running => header.status = JobStatus::Cancelled,
            JobStatus::Done => return Err("the job is done already".into()),
            JobStatus::Failed(_) => return Err("the job has failed already".into()),
            JobStatus::Cancelled => return Ok(()),
        }
        let txn = Txn::new()
            .when(Compare::mod_revision(
                at.clone(),
                cfgsvc_client::Is::Equal,
                found.mod_revision,
            ))
            .then(Op::Put(Put::new(at, header.encode())));
        if client.txn(txn).await?.succeeded {
            return Ok(());
        }
    }
}
