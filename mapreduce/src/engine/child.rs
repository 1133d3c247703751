//! A task in a process of its own, so that what a job's code does (crash, hang, take all memory)
//! happens to that process alone.
//!
//! The worker writes an [`Order`] as one line of JSON to its standard input and keeps that open:
//! its end means that the worker is gone, or wants the task no more, and the process ends. The
//! process writes [`Word`]s, a line of JSON each, to its standard output: how far it is now and
//! then, and at the end what came of it. A process that ends without saying so has crashed. What
//! the job's code prints goes to standard error.

use crate::engine::care::Care;
use crate::engine::local::part;
use crate::engine::output::{As, Target};
use crate::engine::progress::Progress;
use crate::engine::side::SideFile;
use crate::engine::spill::Bounds;
use crate::engine::task::{Context, Counters, MapPart, MapTask, Mapped, ReduceTask, TaskError};
use crate::job::Code;
use crate::store::{AttemptObjects, InputFile, Part, Parts, Stores, Within};
use crate::{AnyJob, Error, Result};
use mapreduce_core::spec::OutputFormat;
use mapreduce_data::block::Compression;
use mapreduce_data::partition::Partitioner;
use mapreduce_data::run::Region;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Between two words of how far it is.
const SAY_EVERY: Duration = Duration::from_millis(200);
/// Words of how far it is after which a process ends that nobody wants.
const UNWANTED_MAX: u32 = 10;
/// Octets of an order: regions of 250,000 map outputs are 60 MB of JSON.
const ORDER_MAX: u64 = 256 << 20;

/// What a process is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The job's name, among those of the binary.
    pub(crate) job: String,
    pub(crate) arguments: Vec<String>,
    /// The number of the task in its phase.
    pub(crate) task: u32,
    pub(crate) attempt: String,
    /// For its runs and what it merges; it exists and is empty.
    pub(crate) directory: PathBuf,
    /// The output file, of a task that writes one.
    pub(crate) output: PathBuf,
    /// Instead of it, the address of the job's directory in a bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bucket: Option<String>,
    /// Octets of memory for records.
    pub(crate) memory: usize,
    /// Octets of memory for all.
    pub(crate) memory_max: u64,
    /// The job's code may crash on records: they are marked, and these are left out.
    pub(crate) care: Option<Skip>,
    /// How the output is written, instead of what the job's code says.
    #[serde(default)]
    pub(crate) format: Option<OutputFormat>,
    pub(crate) what: What,
}

/// What is done about records on which the job's code crashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skip {
    /// Where runs of records begin that are left out, and how long they are.
    pub(crate) runs: Vec<(u64, u64)>,
    /// The file that has the number of the record at hand.
    pub(crate) mark: PathBuf,
    /// The file that lists what is left out.
    pub(crate) list: PathBuf,
}

/// Of which phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Map {
        /// What it reads: programs of the first version know this one alone.
        #[serde(flatten)]
        first: Range,
        /// After it, of a split of several small files.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        others: Vec<Range>,
        /// 0: there is no reduce.
        reduces: u32,
        /// The first keys of partitions, when they are ranges.
        ranges: Option<Vec<Vec<u8>>>,
        /// What is written for others goes over a network.
        is_packed: bool,
    },
    Reduce {
        /// The partition's region of each map task, in their order.
        sources: Vec<Place>,
    },
}

/// A range of an input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    /// The path or URL of the file.
    pub(crate) input: String,
    pub(crate) begin: u64,
    /// What is packed is read to its end.
    pub(crate) end: u64,
    /// What the file must be; empty where nobody knows.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) version: String,
}

/// Where a region is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) at: u64,
    pub(crate) length: u64,
    pub(crate) records: u64,
    /// Octets of memory for its longest block; 0: not known.
    #[serde(default)]
    pub(crate) longest: u64,
}

/// What a process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// It lives.
    Progress {
        /// Of input, so far.
        octets: u64,
        /// Of input, so far; keys, of a reduce.
        records: u64,
        /// Records that were merged or given out as values, so far. Programs of earlier versions
        /// do not say it.
        #[serde(default)]
        passed: u64,
        /// It is known that the job's own code is at work, and not the engine.
        #[serde(default)]
        is_in_code: bool,
        /// What the job's code says of the task.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        status: String,
    },
    /// It is done.
    Done {
        /// The run of a map task that wrote one.
        run: Option<PathBuf>,
        /// Of the run: sums of the partitions, one after the other.
        sums: Vec<u64>,
        /// Of its output file: octets, and their checksum.
        output: Option<(u64, u64)>,
        /// Of its side files the same, by their names in the job's output.
        sides: Vec<(String, u64, u64)>,
        /// By group and name.
        counters: Vec<(String, String, u64)>,
    },
    /// It has failed.
    Failed {
        /// Whether trying again elsewhere may help.
        kind: FailureKind,
        message: String,
    },
}

/// What has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// The job's code, or a record that it cannot have.
    Code,
    /// The input cannot be read.
    Input,
    /// A local disk is full.
    DiskFull,
    /// A local disk otherwise.
    Disk,
    /// It was ended.
    Ended,
}

impl FailureKind {
    fn of(error: &TaskError) -> Self {
        match error {
            TaskError::Input { .. } => Self::Input,
            TaskError::Function { source, .. } if is_full(&**source) => Self::DiskFull,
            TaskError::Function { .. } | TaskError::Panicked { .. } => Self::Code,
            TaskError::Disk { source, .. } if is_full(&**source) => Self::DiskFull,
            TaskError::Output(source) if is_full(&**source) => Self::DiskFull,
            TaskError::Disk { .. } | TaskError::Output(_) => Self::Disk,
            TaskError::Ended => Self::Ended,
        }
    }
}

/// Whether a full disk is among what caused an error.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Runs the order that comes on standard input.
pub(crate) fn main(jobs: &[AnyJob]) -> ExitCode {
    match words().and_then(|words| Ok((words, order()?))) {
        Ok((mut words, order)) => {
            bound_memory(order.memory_max);
            carry_out(jobs, order, &mut words)
        }
        Err(error) => {
            eprintln!("error: no order of a worker on standard input: {error}");
            ExitCode::from(2)
        }
    }
}

fn order() -> Result<Order> {
    let mut line = String::new();
    let mut input = std::io::stdin().lock();
    input.by_ref().take(ORDER_MAX).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Where words go. What the job's code prints goes to standard error instead.
fn words() -> Result<File> {
    let words = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(File::from(words))
}

/// This process, and not its worker, ends when there is not enough memory.
fn bound_memory(memory_max: u64) {
    let limit = Rlimit {
        current: Some(memory_max),
        maximum: Some(memory_max),
    };
    if let Err(error) = setrlimit(Resource::Data, limit) {
        eprintln!("warning: memory is not bounded: {error}");
    }
    // Where there is no such file the system has another rule.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

fn carry_out(jobs: &[AnyJob], order: Order, words: &mut File) -> ExitCode {
    let ended = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&ended);
    std::thread::spawn(move || {
        // Nothing comes but the end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        gone.store(true, Ordering::Relaxed);
    });
    let progress = Arc::new(Progress {
        ended,
        ..Progress::default()
    });
    let (done, is_done) = sync_channel::<Result<Word, TaskError>>(1);
    let run = {
        let progress = Arc::clone(&progress);
        let jobs = jobs.iter().find(|job| job.name == order.job);
        let code = jobs.ok_or_else(|| Error::from(format!("no job is named {}", order.job)));
        code.and_then(|job| job.make(&order.arguments))
            .map(|code| move || run(&*code, order, progress))
    };
    let run = match run {
        Ok(run) => run,
        Err(error) => {
            let (kind, message) = (FailureKind::Code, error.to_string());
            return say(words, &Word::Failed { kind, message });
        }
    };
    std::thread::spawn(move || {
        // Who waits for it waits until it comes.
        let _ = done.send(run());
    });
    let mut unwanted = 0;
    loop {
        match is_done.recv_timeout(SAY_EVERY) {
            Ok(Ok(word)) => return say(words, &word),
            Ok(Err(error)) => {
                let message = crate::cli::with_causes(&error);
                let kind = FailureKind::of(&error);
                return say(words, &Word::Failed { kind, message });
            }
            Err(RecvTimeoutError::Timeout) => {
                say(words, &how_far(&progress));
                // Code that hangs does not hear that nobody wants it.
                unwanted += u32::from(progress.ended.load(Ordering::Relaxed));
                if unwanted == UNWANTED_MAX {
                    return ExitCode::FAILURE;
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                // The thread has panicked, and said so on standard error.
                let message = "the job's code panicked".to_owned();
                let kind = FailureKind::Code;
                return say(words, &Word::Failed { kind, message });
            }
        }
    }
}

fn how_far(progress: &Progress) -> Word {
    Word::Progress {
        octets: progress.octets.load(Ordering::Relaxed),
        records: progress.records.load(Ordering::Relaxed),
        passed: progress.passed.load(Ordering::Relaxed),
        is_in_code: progress.is_in_code.load(Ordering::Relaxed),
        status: progress.status(),
    }
}

/// Says a word; nobody may listen any more, and then nobody wants it.
fn say(words: &mut File, word: &Word) -> ExitCode {
    let said = serde_json::to_vec(word)
        .map_err(Error::from)
        .and_then(|mut line| {
            line.push(b'\n');
            Ok(words.write_all(&line)?)
        });
    match (said, word) {
        (Ok(()), Word::Done { .. } | Word::Progress { .. }) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Files of an attempt: the output, which has no name of its own, and side files, called by its
/// name and theirs.
struct Attempt<'a>(&'a Path);

impl Parts for Attempt<'_> {
    fn create(&self, name: &str) -> Result<Box<dyn Part>> {
        let (Some(directory), Some(attempt)) = (self.0.parent(), self.0.file_name()) else {
            return Err("the output is not named".into());
        };
        let attempt = attempt.to_string_lossy();
        Within(directory).create(&format!("{attempt}{name}"))
    }
}

/// What is done about records on which the job's code crashes.
fn care(asked: Option<Skip>) -> Result<Care, TaskError> {
    let Some(Skip { runs, mark, list }) = asked else {
        return Ok(Care::default());
    };
    let care = Care::new(runs, &mark, &list);
    care.map_err(|error| TaskError::Disk {
        path: mark,
        source: error.into(),
    })
}

fn run(code: &dyn Code, order: Order, progress: Arc<Progress>) -> Result<Word, TaskError> {
    let Some(address) = &order.bucket else {
        let output = order.output.clone();
        return run_to(code, order, progress, &Attempt(&output));
    };
    let job = Stores::default().job_at(address);
    let job = job.and_then(|job| job.ok_or_else(|| format!("{address} is in no bucket").into()));
    let job = job.map_err(TaskError::Output)?;
    let files = AttemptObjects::new(job, order.attempt.clone(), part(order.task));
    let done = run_to(code, order, progress, &files);
    if done.is_err()
        && let Err(error) = files.discard()
    {
        eprintln!("warning: what this attempt has written is left until the job ends: {error}");
    }
    done
}

fn run_to(
    code: &dyn Code,
    order: Order,
    progress: Arc<Progress>,
    files: &dyn Parts,
) -> Result<Word, TaskError> {
    let care = care(order.care)?;
    let mut context = Context::new(order.task, order.attempt, progress).careful(care);
    let asked = order.format.map(|format| As::Format(format.into()));
    let format = asked.unwrap_or_else(|| code.output());
    let bounds = Bounds::new(order.memory, 1);
    let output = Target {
        to: files,
        name: String::new(),
    };
    match order.what {
        What::Map {
            first,
            others,
            reduces,
            ranges,
            is_packed,
        } => {
            let ranges = ranges.map(|firsts| Arc::new(Partitioner::Range(firsts)));
            let partition = || code.partition(reduces, ranges.clone());
            let parts: Vec<Range> = std::iter::once(first).chain(others).collect();
            let inputs = inputs(code, &parts)?;
            let parts = inputs.iter().zip(&parts);
            let task = MapTask {
                parts: parts
                    .map(|(file, part)| MapPart::new(file, part.begin, part.end))
                    .collect(),
                partitions: (reduces > 0).then(|| (reduces, partition())),
                directory: &order.directory,
                output,
                format,
                budget: order.memory,
                bounds,
                compression: if is_packed {
                    Compression::Lz4
                } else {
                    Compression::None
                },
            };
            Ok(mapped(code.map(&task, &mut context)?))
        }
        What::Reduce { sources } => {
            let task = ReduceTask {
                sources: sources.into_iter().map(source).collect(),
                directory: &order.directory,
                output,
                format,
                bounds,
            };
            let reduced = code.reduce(task, &mut context)?;
            Ok(Word::Done {
                run: None,
                sums: Vec::new(),
                output: Some((reduced.output.octets, reduced.output.checksum)),
                sides: reduced.sides.into_iter().map(side).collect(),
                counters: listed(reduced.counters),
            })
        }
    }
}

/// The files of a map task.
fn inputs(code: &dyn Code, parts: &[Range]) -> Result<Vec<InputFile>, TaskError> {
    let stores = Stores::default();
    let files = parts.iter().map(|part| {
        let file = stores.input(&part.input);
        let file = file.and_then(|file| file.must_be(&part.version));
        let file = file.map_err(|error| TaskError::Input {
            name: part.input.clone(),
            offset: part.begin,
            source: error.into(),
        })?;
        Ok(if code.unpacks() { file } else { file.plain() })
    });
    files.collect()
}

fn source(place: Place) -> (PathBuf, Region) {
    let region = Region {
        at: place.at,
        length: place.length,
        records: place.records,
        longest: place.longest,
        ..Region::default()
    };
    (place.path, region)
}

fn mapped(mapped: Mapped) -> Word {
    let regions = mapped.run.as_ref().map(|run| run.regions.as_slice());
    let sums = regions.unwrap_or_default().iter().map(|region| region.sum);
    Word::Done {
        sums: sums.collect(),
        run: mapped.run.map(|run| run.path),
        output: mapped.output.map(|one| (one.octets, one.checksum)),
        sides: mapped.sides.into_iter().map(side).collect(),
        counters: listed(mapped.counters),
    }
}

fn side(file: SideFile) -> (String, u64, u64) {
    (file.name, file.octets, file.checksum)
}

fn listed(counters: Counters) -> Vec<(String, String, u64)> {
    let listed = counters
        .into_iter()
        .map(|((group, name), by)| (group, name, by));
    listed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Packing;
    use crate::{Bytes, Emit, Identity, Job, KeyValues, Pairs, map_fn};

    /// The program of a job may be older than the worker that runs it, and the other way round.
    #[test]
    fn an_order_of_one_range_is_as_the_first_version_had_it() {
        let old = r#"{"map":{"input":"in","begin":3,"end":9,"reduces":2,"ranges":null,"is_packed":true}}"#;
        let read: What = serde_json::from_str(old).expect("it is read");
        assert_eq!(serde_json::to_string(&read).expect("JSON"), old);
        let What::Map { first, others, .. } = &read else {
            panic!("{read:?}");
        };
        assert_eq!((first.input.as_str(), first.begin, first.end), ("in", 3, 9));
        assert!(others.is_empty());
    }

    #[test]
    fn file_of_a_format_that_is_never_packed_is_read_as_it_is() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"\x1F\x8B\x08\0").expect("room");
        let input = file.path().display().to_string();
        let range = Range {
            input,
            begin: 0,
            end: 4,
            version: String::new(),
        };
        let packing = |code: &dyn Code| {
            let files = inputs(code, std::slice::from_ref(&range));
            files.expect("it is there")[0].packing
        };
        let none = |_: &[u8], _: &[u8], _: &mut Emit<'_, Bytes, Bytes>| Ok(());
        let lines = Job::new(
            "",
            KeyValues,
            move || map_fn(KeyValues, none),
            Identity::<Bytes, Bytes>::default,
        );
        assert_eq!(packing(&lines), Packing::Gzip);
        let pairs = Pairs::<Bytes, Bytes>::default;
        let pairs = Job::new(
            "",
            pairs(),
            move || map_fn(pairs(), none),
            Identity::<Bytes, Bytes>::default,
        );
        assert_eq!(packing(&pairs), Packing::None);
    }
}
