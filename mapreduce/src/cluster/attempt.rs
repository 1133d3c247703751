//! One attempt of a task at a worker: what it needs is fetched, its process is started and listened
//! to, and what it leaves is kept until it is known what became of it.

use crate::cli::with_causes;
use crate::cluster::keys::{self, Part};
use crate::cluster::process::{self, Failure, Progress, Terms};
use crate::cluster::shuffle::{self, NotFetched, fetch};
use crate::cluster::staging::{AttemptPlace, Staging};
use crate::cluster::worker::Shared;
use crate::cluster::{program, proto, publication, wire};
use crate::engine::care::marked;
use crate::engine::child::{Order, Place, Range, Skip, What, Word};
use crate::{Error, Result};
use bytes::Bytes;
use fs_err as fs;
use mapreduce_core::job::inputs_digest;
use mapreduce_core::limits::{
    COUNTER_NAME_BYTES_MAX, COUNTERS_MAX, MESSAGE_BYTES_MAX, OUTPUT_NAME_BYTES_MAX, OUTPUTS_MAX,
};
use mapreduce_core::master::event::{
    Assignment, Failed, FetchFailed, Finished, JobImage, Location,
};
use mapreduce_core::names::{Incarnation, JobId, Phase};
use mapreduce_core::plan::SplitList;
use mapreduce_core::record::{BUILTIN_COUNT, FailureClass, Output, bounded, is_side_name};
use mapreduce_core::spec::JobSpec;
use mapreduce_core::worker::Deed;
use mapreduce_data::partition::hash;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::{AbortHandle, JoinSet};

/// Where attempts have their runs, in a worker's directory.
pub(crate) const ATTEMPTS: &str = "attempts";
/// Between two tries to fetch what did not come.
const AGAIN: Duration = Duration::from_millis(300);
/// A worker that is there and serves nothing for so long has it no more, as far as readers know.
const REFUSED_MAX: Duration = Duration::from_secs(10);
/// Workers that are fetched from at once.
const HOLDERS: usize = 5;
/// Outputs that are asked for at once.
const BATCH: usize = 256;

/// An attempt that runs. Dropping it ends its process.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) progress: Arc<Progress>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an attempt left: its files, and what is reported of it.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    /// Of a map whose output is for reduces.
    pub(crate) run: Option<PathBuf>,
    /// For runs; removed with the attempt.
    directory: PathBuf,
    /// Where its output is.
    place: AttemptPlace,
    /// The main one first.
    outputs: Vec<Output>,
    content: u64,
    inputs: u64,
    counters: Vec<(String, u64)>,
}

impl Done {
    /// As it is reported.
    pub(crate) fn finished(&self, assignment: &Assignment) -> Finished {
        Finished {
            job: assignment.job,
            task: assignment.task,
            attempt: assignment.attempt,
            outputs: self.outputs.clone(),
            content: self.content,
            inputs: self.inputs,
            // All are counted by name, as in a local run.
            builtin: [0; BUILTIN_COUNT],
            counters: self.counters.clone(),
        }
    }

    /// Removes its files; what cannot be removed is removed with the job.
    pub(crate) fn remove(&self) {
        self.remove_runs();
        let names = self.outputs.iter().map(|output| output.name.as_str());
        let _ = self.place.remove(names);
    }

    /// Removes what nobody fetches.
    pub(crate) fn remove_runs(&self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Files of an attempt that is not done: removed when it fails or is stopped.
struct Scratch {
    directory: PathBuf,
    place: AttemptPlace,
    is_kept: bool,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_kept {
            let (directory, place) = (self.directory.clone(), self.place.clone());
            aside(move || {
                // What its process still writes goes with the job.
                let _ = fs::remove_dir_all(directory);
                let _ = place.clear();
            });
        }
    }
}

/// Does what may take long where nobody waits for it; no order is kept.
pub(crate) fn aside(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        // The process ends.
        Err(_) => work(),
    }
}

/// Removes all that attempts of a job have here, but their logs.
pub(crate) fn clean(directory: &Path, job: JobId) {
    let of = format!("{job}-");
    let Ok(entries) = fs::read_dir(directory.join(ATTEMPTS)) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&of) {
            // What its process still writes is removed when this worker begins anew.
            let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
    }
}

/// Where the files of a job are that come from a bucket, beside its attempts: removed as they are.
fn files_name(job: JobId) -> String {
    format!("{job}-files")
}

/// A failure as it is reported, with the record at which it was if that is known.
pub(crate) fn failed(failure: Failure, position: Option<u64>, of: &Assignment) -> Failed {
    Failed {
        job: of.job,
        task: of.task,
        attempt: of.attempt,
        class: failure.class,
        // The group keeps no more of it, and a report has room for many.
        message: bounded(&failure.message, MESSAGE_BYTES_MAX).to_owned(),
        position,
    }
}

/// Starts an attempt; its end is told to the worker.
pub(crate) fn start(shared: Arc<Shared>, assignment: Assignment) -> Running {
    let progress = Arc::<Progress>::default();
    let shown = Arc::clone(&progress);
    let task = tokio::spawn(async move {
        let result = run(&shared, &assignment, &shown).await;
        shared.ended(assignment.attempt, result);
    });
    let task = task.abort_handle();
    Running { progress, task }
}

/// What the group has of a job that a task needs. It never changes.
#[derive(Debug)]
pub(crate) struct Job {
    spec: JobSpec,
    splits: SplitList,
    ranges: Option<Vec<Vec<u8>>>,
    /// Held by the attempt that fetches the program or files: others find what it has fetched.
    fetching: Mutex<()>,
}

impl Job {
    /// Does what is done for all attempts by the first. Files of a network, and sums of programs,
    /// take their time.
    fn once<T>(&self, work: impl FnOnce() -> T) -> T {
        tokio::task::block_in_place(|| {
            let one = self.fetching.lock();
            let _one = one.unwrap_or_else(PoisonError::into_inner);
            work()
        })
    }
}

async fn job(shared: &Shared, id: JobId) -> Result<Arc<Job>, Failure> {
    if let Some(known) = shared.description(id) {
        return Ok(known);
    }
    let job = Arc::new(read_job(shared, id).await?);
    Ok(shared.describe(id, job))
}

async fn read_job(shared: &Shared, id: JobId) -> Result<Job, Failure> {
    // That the group is silent, or the job gone, is no failure of the task.
    let fenced = |message: String| Failure {
        class: FailureClass::Fenced,
        message,
    };
    let name = shared.key_of(id);
    let name = name.ok_or_else(|| fenced("the job is not there any more".to_owned()))?;
    let all = shared
        .client
        .get_all(format!("{}{name}/", keys::JOBS), 1000);
    let all = all.await;
    let all = all.map_err(|error| fenced(format!("the group: {error}")))?;
    let (mut header, mut spec) = (Bytes::new(), Bytes::new());
    let (mut splits, mut ranges) = (Vec::new(), Vec::new());
    for kv in all.kvs {
        let part = std::str::from_utf8(&kv.key).ok().and_then(keys::parse);
        match part.map(|(_, part)| part) {
            Some(Part::Header) => header = kv.value,
            Some(Part::Spec) => spec = kv.value,
            Some(Part::Splits(_)) => splits.push(kv.value.to_vec()),
            Some(Part::Ranges(_)) => ranges.extend_from_slice(&kv.value),
            Some(_) | None => {}
        }
    }
    // A worker of a later version may read it: the task goes there.
    let wrong = |error: Error| Failure {
        class: FailureClass::IoRetryable,
        message: with_causes(&*error),
    };
    // All is of one submission, or none of it is used. Who has won is not asked here.
    let image = JobImage::read(id, &header, &spec, &splits, &[]);
    let image = image.map_err(|error| wrong(error.into()))?;
    let ranges = (!ranges.is_empty()).then(|| serde_json::from_slice(&ranges));
    Ok(Job {
        spec: image.spec,
        splits: image.splits,
        fetching: Mutex::default(),
        ranges: ranges.transpose().map_err(|error| wrong(error.into()))?,
    })
}

async fn run(
    shared: &Arc<Shared>,
    assignment: &Assignment,
    progress: &Progress,
) -> Result<Done, (Failure, Option<u64>)> {
    let name = publication::attempt_name(assignment.job, assignment.task, assignment.attempt);
    let directory = shared.settings.directory.join(ATTEMPTS).join(&name);
    // Beside what is removed with the attempt: it is looked at afterwards.
    let mark = directory.with_added_extension("record");
    let done = run_in(shared, assignment, progress, directory, &mark).await;
    done.map_err(|failure| {
        let is_code = failure.class == FailureClass::UserCode;
        let position = is_code.then(|| marked(&mark)).flatten();
        let class = match position {
            Some(_) => FailureClass::BadRecord,
            None => failure.class,
        };
        // There is one of careful jobs only.
        let _ = fs::remove_file(&mark);
        (Failure { class, ..failure }, position)
    })
}

async fn run_in(
    shared: &Arc<Shared>,
    assignment: &Assignment,
    progress: &Progress,
    directory: PathBuf,
    mark: &Path,
) -> Result<Done, Failure> {
    let (id, task) = (assignment.attempt, assignment.task);
    let job = job(shared, assignment.job).await?;
    fs::create_dir(&directory)?;
    let staging = Staging::at(&shared.stores, &job.spec.output);
    let staging = staging.map_err(|error| Failure::of(&error))?;
    let name = directory.file_name().unwrap_or_default();
    let mut scratch = Scratch {
        place: staging.place(name, task, id),
        directory,
        is_kept: false,
    };
    let place = scratch.directory.join("work");
    let of = &shared.settings.directory;
    let files = of.join(ATTEMPTS).join(files_name(assignment.job));
    let files = job.once(|| staging.files(&files));
    let files = files.map_err(|error| Failure::of(&error))?;
    tokio::task::block_in_place(|| equip(&place, &files))?;
    let (what, inputs) = match task.phase {
        Phase::Map => (map(&job, assignment)?, 0),
        Phase::Reduce => {
            let sources = fetch_all(shared, assignment, &scratch.directory).await?;
            let contents = sources.iter();
            let contents = contents.map(|(map, (location, _))| (*map, location.content));
            let inputs = inputs_digest(contents);
            let sources = sources.into_values().map(|(_, place)| place).collect();
            (What::Reduce { sources }, inputs)
        }
    };
    let program = job.once(|| program::of(of, &job.spec, &staging))?;
    let order = order(shared, assignment, &job.spec, &scratch, (mark, what));
    let terms = Terms {
        program: &program,
        directory: &place,
        log: &shuffle::log_path(&shared.settings.directory, assignment.job, id),
        still_max: shared.settings.still_max,
    };
    let may = || {
        // A worker that is fenced does no more work.
        let may = shared.may(Deed::GoOn, assignment.job, assignment.task);
        may.map_err(|refused| Failure {
            class: FailureClass::Fenced,
            message: refused.to_string(),
        })
    };
    let word = process::run(&order, &terms, progress, may).await?;
    let done = done(word, &scratch, inputs)?;
    if let Some(care) = &order.care {
        let kept = tokio::task::block_in_place(|| scratch.place.keep_list(&care.list));
        kept.map_err(|error| Failure::of(&error))?;
    }
    scratch.is_kept = true;
    Ok(done)
}

fn order(
    shared: &Shared,
    assignment: &Assignment,
    spec: &JobSpec,
    scratch: &Scratch,
    (mark, what): (&Path, What),
) -> Order {
    let is_careful = spec.options.skipped_max > 0;
    Order {
        job: spec.name.clone(),
        arguments: program::arguments(&spec.code),
        task: assignment.task.index,
        attempt: assignment.attempt.to_string(),
        directory: scratch.directory.clone(),
        output: scratch.place.file(),
        bucket: scratch.place.address(),
        memory: shared.settings.memory,
        memory_max: shared.settings.memory_max,
        care: is_careful.then(|| Skip {
            runs: assignment.skip.clone(),
            mark: mark.to_owned(),
            list: scratch.place.list(&scratch.directory),
        }),
        format: spec.options.format,
        what,
    }
}

/// Makes the directory in which a task runs: it finds there what was submitted with its job.
fn equip(place: &Path, files: &Path) -> Result<(), Failure> {
    fs::create_dir(place)?;
    let entries = match fs::read_dir(files) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        std::os::unix::fs::symlink(entry.path(), place.join(entry.file_name()))?;
    }
    Ok(())
}

fn done(word: Word, scratch: &Scratch, inputs: u64) -> Result<Done, Failure> {
    let Word::Done {
        run,
        sums,
        output,
        sides,
        counters,
    } = word
    else {
        return Err(process::failure(word));
    };
    let length = match &run {
        Some(run) => fs::metadata(run)?.len(),
        None => 0,
    };
    let sums: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    let content = hash(&sums);
    // Of a map for reduces: order-independent. Of an output: of its octets.
    let (length, checksum) = output.unwrap_or((length, content));
    let counters = all(counters)?;
    let sides = checked(sides)?;
    Ok(Done {
        content: if run.is_some() { content } else { checksum },
        run,
        directory: scratch.directory.clone(),
        place: scratch.place.clone(),
        outputs: outputs(length, checksum, sides),
        inputs,
        counters,
    })
}

/// What an attempt wrote, as it is recorded.
fn outputs(length: u64, checksum: u64, sides: Vec<(String, u64, u64)>) -> Vec<Output> {
    let main = (String::new(), length, checksum);
    let all = std::iter::once(main).chain(sides);
    let outputs = all.map(|(name, length, checksum)| Output {
        name,
        length,
        checksum,
    });
    outputs.collect()
}

/// Side files that a task may have. Its program says which: one that says too much fails by itself,
/// and keeps nobody's report from being believed.
fn checked(sides: Vec<(String, u64, u64)>) -> Result<Vec<(String, u64, u64)>, Failure> {
    const SIDES_MAX: usize = OUTPUTS_MAX - 1;
    let refused = |message| Failure {
        class: FailureClass::UserCode,
        message,
    };
    let found = sides.len();
    if found > SIDES_MAX {
        return Err(refused(format!(
            "the task has {found} side files, at most {SIDES_MAX} can be"
        )));
    }
    match sides
        .iter()
        .find(|(name, ..)| !(is_side_name(name) && publication::is_side_name(name)))
    {
        Some((name, ..)) => Err(refused(format!(
            "a side file is called `{}`, which it cannot be",
            bounded(name, OUTPUT_NAME_BYTES_MAX)
        ))),
        None => Ok(sides),
    }
}

/// Counters as the group has them. A job has so many, and no more.
fn all(counters: Vec<(String, String, u64)>) -> Result<Vec<(String, u64)>, Failure> {
    let refused = |message| Failure {
        class: FailureClass::UserCode,
        message,
    };
    let found = counters.len();
    if found > COUNTERS_MAX {
        let what = format!("the job counts by {found} names, at most {COUNTERS_MAX} can be");
        return Err(refused(what));
    }
    let named = counters
        .into_iter()
        .map(|(group, name, count)| (format!("{group}/{name}"), count));
    let named: Vec<_> = named.collect();
    match named
        .iter()
        .find(|(name, _)| name.len() > COUNTER_NAME_BYTES_MAX)
    {
        Some((name, _)) => Err(refused(format!(
            "a counter is called {name}: at most {COUNTER_NAME_BYTES_MAX} octets"
        ))),
        None => Ok(named),
    }
}

fn map(job: &Job, assignment: &Assignment) -> Result<What, Failure> {
    let split = job.splits.get(assignment.task.index);
    let split = split.ok_or_else(|| Failure {
        class: FailureClass::IoFatal,
        message: "the job has no such split".to_owned(),
    })?;
    let mut parts = split.parts().map(|part| Range {
        input: part.uri.to_owned(),
        begin: part.offset,
        end: part.offset + part.length,
        version: part.version.to_owned(),
    });
    let first = parts.next().ok_or_else(|| Failure {
        class: FailureClass::IoFatal,
        message: "the split is of nothing".to_owned(),
    })?;
    Ok(What::Map {
        first,
        others: parts.collect(),
        reduces: assignment.reduces,
        ranges: job.ranges.clone(),
        is_packed: true,
    })
}

type Fetched = BTreeMap<u32, (Location, Place)>;

/// Fetches the partition of every map, as their outputs come to be; again, what has another winner
/// meanwhile.
async fn fetch_all(
    shared: &Arc<Shared>,
    assignment: &Assignment,
    directory: &Path,
) -> Result<Fetched, Failure> {
    let job = assignment.job;
    let mut fetched = Fetched::new();
    let mut refused_since = BTreeMap::<Incarnation, Instant>::new();
    loop {
        let located = shared.located.notified();
        let now = shared.locations(job);
        fetched.retain(|map, (location, _)| now.get(map) == Some(location));
        if fetched.len() == assignment.maps as usize {
            return Ok(fetched);
        }
        let mut missing: BTreeMap<Incarnation, Vec<(u32, Location)>> = BTreeMap::new();
        for (map, location) in now {
            if !fetched.contains_key(&map) {
                missing
                    .entry(location.incarnation)
                    .or_default()
                    .push((map, location));
            }
        }
        if missing.is_empty() {
            located.await;
            continue;
        }
        let before = fetched.len();
        // Reduces that begin together do not all ask the same worker first.
        let mut holders = Vec::from_iter(missing);
        let first = assignment.task.index as usize % holders.len();
        holders.rotate_left(first);
        let mut holders = holders.into_iter();
        // Dropped with the attempt, they end.
        let mut fetching = JoinSet::new();
        loop {
            while fetching.len() < HOLDERS
                && let Some((holder, mut outputs)) = holders.next()
            {
                outputs.truncate(BATCH);
                let (shared, assignment) = (Arc::clone(shared), assignment.clone());
                let directory = directory.to_owned();
                let since = refused_since.get(&holder);
                let is_patient = since.is_none_or(|since| since.elapsed() < REFUSED_MAX);
                fetching.spawn(async move {
                    let from = (holder, is_patient);
                    let came = fetch_from(&shared, &assignment, from, &outputs, &directory).await;
                    (holder, came)
                });
            }
            let Some(more) = fetching.join_next().await else {
                break;
            };
            let (holder, came) = more.map_err(|error| Failure::of(&error.into()))?;
            let (more, is_refused) = came?;
            if is_refused {
                refused_since.entry(holder).or_insert_with(Instant::now);
            } else {
                refused_since.remove(&holder);
            }
            shared.could_fetch(assignment.attempt, more.keys().copied());
            fetched.extend(more);
        }
        if fetched.len() == before {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// What came, and whether the worker would not serve. While that may pass nobody hears of it.
async fn fetch_from(
    shared: &Shared,
    assignment: &Assignment,
    (holder, is_patient): (Incarnation, bool),
    outputs: &[(u32, Location)],
    directory: &Path,
) -> Result<(Fetched, bool), Failure> {
    let (job, partition) = (assignment.job, assignment.task.index);
    let failed = |(map, location): (u32, Location), damaged| FetchFailed {
        job,
        reader: assignment.attempt,
        map,
        attempt: location.attempt,
        holder,
        damaged,
    };
    let Some(address) = shared.address(holder) else {
        // The master sees that the worker is gone as we do.
        return Ok((Fetched::new(), false));
    };
    let request = proto::FetchRequest {
        job: job.0,
        incarnation: holder.0,
        partition,
        outputs: outputs
            .iter()
            .map(|(map, location)| proto::MapOutput {
                map: *map,
                attempt: Some(wire::attempt(location.attempt)),
            })
            .collect(),
    };
    let (places, problem) = fetch(&address, request, directory).await;
    let count = places.len();
    let is_refused = matches!(problem, Some(NotFetched::Refused(_)));
    match (problem, outputs.get(count)) {
        (Some(NotFetched::Disk(error)), _) => return Err(error.into()),
        (Some(NotFetched::Lost(why)), Some(next)) => {
            tracing::warn!(%job, map = next.0, %holder, why, "a map's output is lost");
            shared.cannot_fetch(failed(*next, true));
        }
        (Some(NotFetched::Refused(why)), _) if is_patient => {
            tracing::debug!(%job, %holder, why, "a worker does not serve now");
        }
        (Some(NotFetched::Unreached(why) | NotFetched::Refused(why)), Some(next)) => {
            tracing::info!(%job, map = next.0, %holder, why, "a map's output cannot be fetched");
            shared.cannot_fetch(failed(*next, false));
        }
        (Some(_) | None, _) => {}
    }
    let by_map: BTreeMap<u32, Location> = outputs.iter().copied().collect();
    let fetched = places.into_iter().filter_map(|(map, place)| {
        let location = by_map.get(&map)?;
        Some((map, (*location, place)))
    });
    Ok((fetched.collect(), is_refused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mapreduce_core::names::{AttemptId, Epoch, TaskId};

    #[test]
    fn what_a_program_says_too_much_of_fails_its_task_and_no_report() {
        let side = |name: &str| (name.to_owned(), 1, 1);
        assert!(checked(vec![side("_a"), side("_b")]).is_ok());
        for wrong in ["a", "_a/b", "_SUCCESS", "", "_\0"] {
            let refused = checked(vec![side(wrong)]).expect_err(wrong);
            assert_eq!(refused.class, FailureClass::UserCode, "{wrong}");
        }
        let many = (0..OUTPUTS_MAX).map(|number| side(&format!("_{number}")));
        assert!(checked(many.collect()).is_err());
        let assignment = Assignment {
            job: JobId(1),
            task: TaskId::map(0),
            attempt: AttemptId::NONE,
            epoch: Epoch(1),
            maps: 1,
            reduces: 0,
            skip: Vec::new(),
        };
        let failure = Failure {
            class: FailureClass::UserCode,
            message: "x".repeat(16 << 20),
        };
        let reported = failed(failure, None, &assignment);
        assert_eq!(reported.message.len(), MESSAGE_BYTES_MAX);
    }
}
