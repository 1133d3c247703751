//! What people do to jobs: submit and cancel them.
//!
//! A job comes to be by one transaction, which requires the key that says that it is being
//! submitted. Whoever takes that key away, where there is no job, knows from then on that there
//! will be none, even if that transaction is still under way ([`withdraw`]).

use crate::cluster::keys::{self, Info, Part, WorkerEntry, key};
use crate::cluster::publication::Destination;
use crate::cluster::staging::{self, Staging};
use crate::cluster::{keeping, program, words};
use crate::engine::local::{self, Options};
use crate::job::Code;
use crate::store::{self, Older, Stores};
use crate::{Error, Result};
use cfgsvc_client::{Client, Compare, Delete, Keys, Op, Put, Session, Txn};
use mapreduce_core::limits::HOSTS_MAX;
use mapreduce_core::names::HostName;
use mapreduce_core::record::{Header, JobStatus};
use mapreduce_core::spec::{InputSpec, JobCode, JobOptions, JobSpec, SPEC_VERSION, digest};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Octets of a value of the group that a list is cut into.
const CHUNK: usize = 512 << 10;
/// Time to live of the lease of who submits, s: for so long the group may be out of reach, and so
/// long after its end what it has left is kept.
const TTL_S: i64 = 30;
/// How long what was prepared may take to be removed.
const CLEAR_MAX: Duration = Duration::from_secs(10);
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

/// Why a job is not known to be there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    /// It is not there, and will not be.
    #[error(transparent)]
    Refused(Error),
    /// The group did not say.
    #[error("whether job {key} is submitted is not known: {problem}: {error}")]
    Unknown {
        key: String,
        problem: String,
        error: String,
    },
}

/// A key for a job, which nobody else draws.
pub(crate) fn new_key() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..12].to_owned()
}

/// Makes a job of this key, which must be new. Whatever ends that before there is a job, nothing is
/// left: what is not removed here a master removes when the lease is over. `interrupted` ends it.
pub(crate) async fn submit(
    client: &Client,
    key: &str,
    what: &Submission<'_>,
    interrupted: impl Future<Output = Result<()>>,
) -> Result<(), SubmitError> {
    let prepared = prepare(client, key, what).await;
    let (described, older, begun) = prepared.map_err(SubmitError::Refused)?;
    let session = client.session(TTL_S).await;
    let session = session.map_err(|error| SubmitError::Refused(error.into()))?;
    let begins = begun.begin(&session).await;
    begins.map_err(SubmitError::Refused)?;
    let submitted = tokio::select! {
        submitted = begun.fill(what.files, older, &described) => {
            submitted.map_err(NotSubmitted::over)
        }
        signal = interrupted => Err(NotSubmitted {
            error: signal.err().unwrap_or_else(|| "interrupted: there is no job".into()),
            how: How::Interrupted,
        }),
    };
    let submitted = match submitted {
        // Once it may have been written the key says to others whether it was.
        Ok(()) => begun.commit(&described).await,
        Err(error) => Err(error),
    };
    let submitted = match submitted {
        Ok(()) => Ok(()),
        Err(not) => begun.give_up(not).await,
    };
    // The master need not wait for the lease to end. If it is not reached, it waits.
    let _ = session.close().await;
    submitted
}

/// Makes sure that there will be no job of this key, whose output was to be there, and removes what
/// was prepared for it. False: the job is there.
pub(crate) async fn withdraw(client: &Client, job: &str, output: &Path) -> Result<bool> {
    let submitting = Delete::new(Keys::one(key(job, Part::Submitting)));
    let txn = Txn::new()
        .when(Compare::missing(key(job, Part::Header)))
        .then(Op::Delete(submitting));
    if !client.txn(txn).await?.succeeded {
        return Ok(false);
    }
    // There will be no job. What cannot be removed now a master removes: it knows where by a key.
    if let Err(left) = clear(client, job, output).await {
        eprintln!(
            "warning: what was prepared for job {job} is left until a master removes it: {left}"
        );
    }
    Ok(true)
}

/// Removes what was prepared for a job that will not be.
async fn clear(client: &Client, job: &str, output: &Path) -> Result<()> {
    let destination = match client.get_key(key(job, Part::Output)).await? {
        Some(found) => serde_json::from_slice(&found.value)?,
        None => Destination {
            target: store::place(output)?,
            ..Destination::default()
        },
    };
    let staging = Staging::of(&Stores::default(), &destination.target, job)?;
    discard(staging, destination, job).await?;
    keeping::remove_rest(client, job, None).await?;
    Ok(())
}

/// Removes files, which may be where nothing answers.
async fn discard(staging: Staging, destination: Destination, job: &str) -> Result<()> {
    let job = job.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        super::settling::discard_unborn(&staging, &destination, &job)
    });
    tokio::time::timeout(CLEAR_MAX, work).await??
}

/// How it stands with a job, and whether nothing is left to do for it; none: there is no such job.
pub(crate) async fn standing(client: &Client, job: &str) -> Result<Option<(JobStatus, bool)>> {
    let Some(found) = client.get_key(key(job, Part::Header)).await? else {
        return Ok(None);
    };
    let header = Header::decode(&found.value)?;
    let found = client.get_key(key(job, Part::Output)).await?;
    let destination = found.map(|kv| serde_json::from_slice::<Destination>(&kv.value));
    // Who has none was removed just now, and with that it was settled.
    let is_settled = destination.transpose()?.is_none_or(|to| to.settled);
    Ok(Some((header.status, is_settled)))
}

/// Plans a job. What can be refused is, before there is anything of it.
async fn prepare<'a>(
    client: &'a Client,
    job: &'a str,
    what: &Submission<'_>,
) -> Result<(Described, Vec<Older>, Begun<'a>)> {
    staging::check_files(what.files)?;
    let target = store::place(&what.options.output)?;
    let stores = Stores::default();
    let staging = Staging::of(&stores, &target, job)?;
    let workers = workers(client).await?;
    let hosts = |file: &str| hosts(&workers, file);
    let planned = tokio::task::block_in_place(|| local::prepare(what.code, what.options, &hosts))?;
    let overwrite = what.options.overwrite;
    let (replaces, older) = tokio::task::block_in_place(|| staging.vacancy(overwrite))?;
    let described = described(what, &planned, &staging)?;
    let destination = Destination {
        target,
        overwrite,
        replaces,
        ..Destination::default()
    };
    let begun = Begun {
        client,
        job,
        staging,
        destination,
        ended: Arc::default(),
    };
    Ok((described, older, begun))
}

/// What the group has of a job.
struct Described {
    header: Header,
    json: Vec<u8>,
    info: Vec<u8>,
    chunks: Vec<Vec<u8>>,
    ranges: Vec<u8>,
}

fn described(
    what: &Submission<'_>,
    planned: &local::Prepared,
    staging: &Staging,
) -> Result<Described> {
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
        output: staging.address()?,
        options: what.how.clone(),
    };
    let json = spec.to_json()?;
    let ranges = planned.ranges.as_ref();
    let ranges = ranges.map(serde_json::to_vec).transpose()?;
    Ok(Described {
        header: Header {
            spec_digest: digest([json.as_slice()]),
            maps: planned.plan.maps(),
            reduces: planned.plan.reduces,
            status: JobStatus::Running,
        },
        json,
        info: serde_json::to_vec(&Info {
            name: what.name.to_owned(),
            submitted_ms: words::now_ms(),
            input_octets: planned.plan.bytes,
        })?,
        chunks,
        ranges: ranges.unwrap_or_default(),
    })
}

/// Why there is no job.
struct NotSubmitted {
    error: Error,
    how: How,
}

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Nothing is done any more.
    Over,
    /// A thread may still write files.
    Interrupted,
    /// There may be a job.
    Unknown,
}

impl NotSubmitted {
    fn over(error: Error) -> Self {
        let how = How::Over;
        Self { error, how }
    }
}

/// A submission that is under way: others know by two keys where its files are, and that somebody
/// is at it.
struct Begun<'a> {
    client: &'a Client,
    job: &'a str,
    staging: Staging,
    destination: Destination,
    ended: Arc<AtomicBool>,
}

impl Begun<'_> {
    fn key(&self, part: Part) -> String {
        key(self.job, part)
    }

    fn taken() -> Error {
        "another job has the same key: submit it again".into()
    }

    fn lost() -> Error {
        let what = "it was withdrawn meanwhile, or the group was not reached for";
        format!("{what} {TTL_S} s: submit it again").into()
    }

    async fn begin(&self, session: &Session) -> Result<()> {
        let submitting = Put::new(self.key(Part::Submitting), "").lease(session.lease());
        let destination = serde_json::to_vec(&self.destination)?;
        let txn = Txn::new()
            .when(Compare::missing(self.key(Part::Header)))
            .when(Compare::missing(self.key(Part::Output)))
            .then(Op::Put(submitting))
            .then(Op::Put(Put::new(self.key(Part::Output), destination)));
        if self.client.txn(txn).await?.succeeded {
            return Ok(());
        }
        Err(Self::taken())
    }

    /// Leaves what tasks need, and the lists that are too long for one value.
    async fn fill(
        &self,
        files: &[PathBuf],
        older: Vec<Older>,
        described: &Described,
    ) -> Result<()> {
        let (staging, files) = (self.staging.clone(), files.to_vec());
        let ended = Arc::clone(&self.ended);
        // It may take long, or not end: whoever interrupts this is heard meanwhile.
        let work = tokio::task::spawn_blocking(move || {
            let program = std::env::current_exe()?;
            staging.fill((&program, &files), &older, &ended)
        });
        if let Err(error) = work.await? {
            return Err(self.reason(error).await);
        }
        for (number, chunk) in (0..).zip(&described.chunks) {
            self.put(Part::Splits(number), chunk.clone()).await?;
        }
        for (number, chunk) in (0..).zip(described.ranges.chunks(CHUNK)) {
            self.put(Part::Ranges(number), chunk.to_vec()).await?;
        }
        Ok(())
    }

    /// Why files could not be left: who has withdrawn it has removed the directory as well.
    async fn reason(&self, error: Error) -> Error {
        match self.client.get_key(self.key(Part::Submitting)).await {
            Ok(None) => Self::lost(),
            Ok(Some(_)) | Err(_) => error,
        }
    }

    /// Puts a part, while others know that somebody is at it: else they may have removed the rest.
    async fn put(&self, part: Part, value: Vec<u8>) -> Result<()> {
        let txn = Txn::new()
            .when(Compare::exists(self.key(Part::Submitting)))
            .then(Op::Put(Put::new(self.key(part), value)));
        if self.client.txn(txn).await?.succeeded {
            return Ok(());
        }
        Err(Self::lost())
    }

    /// From then on it is a job. The header comes first: who follows makes a job of it, and gives
    /// that what comes after. If the lease was lost, others may have removed what was prepared.
    async fn commit(&self, described: &Described) -> Result<(), NotSubmitted> {
        let submitting = self.key(Part::Submitting);
        let put = |part, value: Vec<u8>| Op::Put(Put::new(self.key(part), value));
        let txn = Txn::new()
            .when(Compare::missing(self.key(Part::Header)))
            .when(Compare::exists(submitting.clone()))
            .then(put(Part::Header, described.header.encode()))
            .then(put(Part::Spec, described.json.clone()))
            .then(put(Part::Info, described.info.clone()))
            .then(Op::Delete(Delete::new(Keys::one(submitting))));
        match self.client.txn(txn).await {
            Ok(reply) if reply.succeeded => Ok(()),
            Ok(_) => Err(NotSubmitted::over(Self::lost())),
            Err(error) => Err(NotSubmitted {
                how: if error.outcome_unknown() {
                    How::Unknown
                } else {
                    How::Over
                },
                error: error.into(),
            }),
        }
    }

    /// Makes sure that there is no job, or finds that there is one.
    async fn give_up(&self, not: NotSubmitted) -> Result<(), SubmitError> {
        let NotSubmitted { error, how } = not;
        if how == How::Unknown {
            return match withdraw(self.client, self.job, &self.destination.target).await {
                // Its transaction was committed, though nobody said so.
                Ok(false) => Ok(()),
                Ok(true) => Err(SubmitError::Refused(error)),
                Err(problem) => Err(SubmitError::Unknown {
                    key: self.job.to_owned(),
                    problem: crate::cli::with_causes(&*problem),
                    error: crate::cli::with_causes(&*error),
                }),
            };
        }
        if let Err(left) = self.clear(how).await {
            eprintln!("warning: what was prepared is left until a master removes it: {left}");
        }
        Err(SubmitError::Refused(error))
    }

    /// Removes what there is of it. What a thread writes after that, and its keys, a master
    /// removes: by them it knows where to look.
    async fn clear(&self, how: How) -> Result<()> {
        self.ended.store(true, Ordering::Relaxed);
        discard(self.staging.clone(), self.destination.clone(), self.job).await?;
        if how == How::Over {
            let submitting = Delete::new(Keys::one(self.key(Part::Submitting)));
            self.client.delete(submitting).await?;
            keeping::remove_rest(self.client, self.job, None).await?;
        }
        Ok(())
    }
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
