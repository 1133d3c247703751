//! A job on this machine: on a few threads of one process, with the same tasks, runs and commits as
//! on many machines.

use crate::Result;
use crate::engine::output::{As, OutputFormat, Target};
use crate::engine::progress::Progress;
use crate::engine::spill::{Bounds, Run};
use crate::engine::task::{Context, Counters, MapPart, MapTask, OWN, ReduceTask, TaskError, add};
use crate::job::Code;
use crate::store::{self, InputFile, Packing, Parts, Staging, Stores};
use fs_err as fs;
use mapreduce_core::names::HostName;
use mapreduce_core::plan::{self, Plan, Shape, Split};
use mapreduce_data::block::Compression;
use mapreduce_data::partition::Partitioner;
use serde::Serialize;
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Octets of memory that a task has for records, unless another number is given.
const MEMORY: usize = 32 << 20;
/// Octets of input for each reduce task, unless a number is asked for.
const OCTETS_PER_REDUCE: u64 = 256 << 20;
/// Keys in a sample that cuts partitions of a sort.
const SAMPLE: usize = 10_000;
/// Splits that the sample is taken from.
const SAMPLED_SPLITS: u32 = 20;

/// Counters, by group and name.
type Groups = BTreeMap<String, BTreeMap<String, u64>>;

/// How a job is run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Paths, directories, globs, and URLs of `s3:`, `gs:`, `az:` and `file:`. Symbolic links are
    /// followed: a file that a directory has under two names is read twice.
    pub inputs: Vec<String>,
    /// A directory that does not exist, or is empty; or such a URL.
    pub output: PathBuf,
    /// Replaces an output that exists.
    pub overwrite: bool,
    /// Reduce tasks; by the size of the input when `None`.
    pub reduces: Option<u32>,
    /// Octets of a split; by the size of the input when `None`.
    pub split_octets: Option<u64>,
    /// Tasks that run at once.
    pub threads: NonZero<usize>,
    /// Octets of memory for the records of a task.
    pub memory: usize,
    /// How the output is written, instead of what the job says.
    pub format: Option<OutputFormat>,
    /// What the manifest says of who asked for it.
    pub id: Option<String>,
    /// Where runs are kept meanwhile; when `None`, beside the output, or where temporary files are
    /// for one in a bucket.
    pub scratch: Option<PathBuf>,
}

/// A phase, for those who look on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Map,
    Reduce,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Reduce => "reduce",
        }
    }
}

/// Who looks on.
pub(crate) trait Watch: Sync {
    /// A phase begins, with so many tasks.
    fn begins(&self, phase: Phase, tasks: u32);
    /// A task of it is done, and so many octets were read in this phase until now.
    fn done(&self, phase: Phase, octets: u64);
}

/// Nobody looks on.
pub(crate) struct Nobody;

impl Watch for Nobody {
    fn begins(&self, _phase: Phase, _tasks: u32) {}
    fn done(&self, _phase: Phase, _octets: u64) {}
}

/// What came of a job.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of whom asked for it, if that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its name.
    pub job: String,
    /// Where its output is.
    pub output: String,
    /// Map tasks.
    pub maps: u32,
    /// Reduce tasks.
    pub reduces: u32,
    /// Output files, in the order of their names.
    pub files: Vec<OutputFile>,
    /// What tasks wrote beside their records ([`crate::Emit::side_file`]).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub side_files: Vec<OutputFile>,
    /// What was counted, by group and name.
    pub counters: Groups,
    /// How long it took.
    #[serde(skip)]
    pub took: Duration,
}

/// An output file.
#[derive(Debug, Serialize)]
pub struct OutputFile {
    /// In the output directory.
    pub name: String,
    /// Its length.
    pub octets: u64,
}

impl OutputFile {
    fn is_side(&self) -> bool {
        self.name.starts_with('_')
    }
}

struct Local<'a> {
    code: &'a dyn Code,
    plan: &'a Plan,
    files: HashMap<&'a str, &'a InputFile>,
    options: &'a Options,
    scratch: PathBuf,
    output: &'a dyn Parts,
    ranges: Option<Arc<Partitioner>>,
    ended: &'a Arc<AtomicBool>,
}

/// Runs a job; `ended` ends it.
pub(crate) fn run(
    name: &str,
    code: &dyn Code,
    options: &Options,
    ended: &Arc<AtomicBool>,
    watch: &dyn Watch,
) -> Result<Report> {
    let began = Instant::now();
    let stores = Stores::default();
    let files = inputs(code, &stores, options)?;
    let plan = plan(code, &files, options, &|_| Vec::new())?;
    let mut output = stores.destination(&options.output, options.overwrite)?;
    let mut local = Local {
        code,
        plan: &plan,
        files: by_name(&files),
        options,
        scratch: match &options.scratch {
            Some(path) => path.join(output.own_name()),
            None => output.scratch(),
        },
        output: &*output,
        ranges: None,
        ended,
    };
    let done = local.run(watch).and_then(|counters| {
        let (side_files, files) = output.files()?.into_iter().partition(OutputFile::is_side);
        Ok(Report {
            id: options.id.clone(),
            job: name.to_owned(),
            output: options.output.display().to_string(),
            maps: plan.maps(),
            reduces: plan.reduces,
            files,
            side_files,
            counters: by_group(counters),
            took: began.elapsed(),
        })
    });
    let done = done.and_then(|report| {
        output.publish(&store::manifest(&report)?)?;
        Ok(Report {
            took: began.elapsed(),
            ..report
        })
    });
    done.map_err(|error| match output.discard() {
        Ok(()) => error,
        Err(left) => format!("{}; {left}", crate::cli::with_causes(&*error)).into(),
    })
}

/// What a job on many machines is submitted with.
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    /// The first keys of partitions, of a job that sorts.
    pub(crate) ranges: Option<Vec<Vec<u8>>>,
}

/// Plans a job, and refuses what would fail: its input is looked at, and its output is not there.
/// `hosts` are those that a file is on, by its name.
pub(crate) fn prepare(
    code: &dyn Code,
    options: &Options,
    hosts: &dyn Fn(&str) -> Vec<HostName>,
) -> Result<Prepared> {
    let stores = Stores::default();
    let files = inputs(code, &stores, options)?;
    let plan = plan(code, &files, options, hosts)?;
    stores.vacant(&options.output, options.overwrite)?;
    let ended = Arc::default();
    let local = Local {
        code,
        plan: &plan,
        files: by_name(&files),
        options,
        scratch: PathBuf::new(),
        // A sample writes nothing.
        output: &store::Within(Path::new("")),
        ranges: None,
        ended: &ended,
    };
    let is_sorted = code.is_sorted() && plan.reduces > 1;
    let ranges = match is_sorted.then(|| local.sample()).transpose()? {
        Some(Partitioner::Range(firsts)) => Some(firsts),
        Some(Partitioner::Hash) | None => None,
    };
    Ok(Prepared { plan, ranges })
}

/// The files that a job reads.
fn inputs(code: &dyn Code, stores: &Stores, options: &Options) -> Result<Vec<InputFile>> {
    let files = stores.inputs(&options.inputs)?;
    if code.unpacks() {
        return Ok(files);
    }
    Ok(files.into_iter().map(InputFile::plain).collect())
}

fn plan(
    code: &dyn Code,
    files: &[InputFile],
    options: &Options,
    hosts: &dyn Fn(&str) -> Vec<HostName>,
) -> Result<Plan> {
    let octets: u64 = files.iter().map(|file| file.length).sum();
    let by_size = u32::try_from(octets.div_ceil(OCTETS_PER_REDUCE)).unwrap_or(u32::MAX);
    let reduces = match (code.is_map_only(), options.reduces) {
        (true, None | Some(0)) => 0,
        (true, Some(_)) => return Err("the job has no reduce: leave --reduces out".into()),
        (false, Some(0)) => {
            return Err("--reduces 0: the job has a reduce, which needs at least 1 task".into());
        }
        (false, Some(reduces)) => reduces,
        (false, None) => by_size.clamp(1, 100),
    };
    let files = files.iter().map(|file| plan::InputFile {
        uri: file.name.clone(),
        length: file.length,
        splittable: code.splits() && file.packing == Packing::None,
        hosts: hosts(&file.name),
        version: file.version().to_owned(),
    });
    let files: Vec<_> = files.collect();
    let by_input = || plan::split_bytes_for(octets);
    let split_bytes = options.split_octets.unwrap_or_else(by_input);
    Ok(plan::plan(
        &files,
        Shape {
            split_bytes,
            reduces,
        },
    )?)
}

fn by_name(files: &[InputFile]) -> HashMap<&str, &InputFile> {
    files
        .iter()
        .map(|file| (file.name.as_str(), file))
        .collect()
}

fn by_group(counters: Counters) -> Groups {
    let mut groups = Groups::new();
    for ((group, name), count) in counters {
        groups.entry(group).or_default().insert(name, count);
    }
    groups
}

impl Options {
    /// On all processors, with the sizes that the command line has.
    pub fn new(inputs: Vec<String>, output: impl Into<PathBuf>) -> Self {
        let one = NonZero::<usize>::MIN;
        Self {
            inputs,
            output: output.into(),
            overwrite: false,
            reduces: None,
            split_octets: None,
            threads: std::thread::available_parallelism().unwrap_or(one),
            memory: MEMORY,
            format: None,
            id: None,
            scratch: None,
        }
    }
}

impl Local<'_> {
    /// Runs all tasks.
    fn run(&mut self, watch: &dyn Watch) -> Result<Counters> {
        // It goes when all is done, or has failed.
        let _scratch = Staging::create(self.scratch.clone())?;
        if self.code.is_sorted() && self.plan.reduces > 1 {
            self.ranges = Some(Arc::new(self.sample()?));
        }
        let mut counters = Counters::new();
        let runs = self.maps(&mut counters, watch)?;
        if !self.code.is_map_only() {
            self.reduces(&runs, &mut counters, watch)?;
        }
        Ok(counters)
    }

    fn file(&self, name: &str) -> &InputFile {
        self.files.get(name).expect("splits are of these files")
    }

    fn split(&self, task: u32) -> Split<'_> {
        self.plan
            .splits
            .get(task)
            .expect("there are as many as the plan says")
    }

    fn format(&self) -> As {
        let asked = self.options.format.map(As::Format);
        asked.unwrap_or_else(|| self.code.output())
    }

    /// Of one task among those that run here at once. Steps of a chain have a part of all threads
    /// each, and share the files of the process.
    fn bounds(&self) -> Bounds {
        let all = std::thread::available_parallelism().map_or(1, NonZero::get);
        let tasks = self.options.threads.get().max(all);
        Bounds::new(self.options.memory, tasks)
    }

    fn target(&self, name: String) -> Target<'_> {
        let to = self.output;
        Target { to, name }
    }

    fn map_task<'a>(
        &'a self,
        split: &Split<'_>,
        directory: &'a Path,
        output: String,
    ) -> MapTask<'a> {
        let parts = split.parts().map(|part| {
            let end = part.offset + part.length;
            MapPart::new(self.file(part.uri), part.offset, end)
        });
        let partition = || self.code.partition(self.plan.reduces, self.ranges.clone());
        MapTask {
            parts: parts.collect(),
            partitions: (!self.code.is_map_only()).then(|| (self.plan.reduces, partition())),
            directory,
            output: self.target(output),
            format: self.format(),
            budget: self.options.memory,
            bounds: self.bounds(),
            compression: Compression::None,
        }
    }

    /// Cuts the keys of some splits, evenly over the input, into ranges.
    fn sample(&self) -> Result<Partitioner> {
        let maps = self.plan.maps();
        let count = maps.min(SAMPLED_SPLITS);
        let mut keys = Vec::new();
        for number in 0..count {
            let task = u32::try_from(u64::from(number) * u64::from(maps) / u64::from(count))?;
            let split = self.split(task);
            let task = self.map_task(&split, Path::new(""), String::new());
            keys.extend(self.code.sample(&task, SAMPLE / count as usize)?);
        }
        Ok(Partitioner::from_sample(keys, self.plan.reduces))
    }

    /// Runs so many tasks on all threads; what they gave, in their order. One that fails ends all.
    fn all<T: Send>(
        &self,
        (phase, tasks): (Phase, u32),
        watch: &dyn Watch,
        run: impl Fn(u32, &mut Context) -> Result<T, TaskError> + Sync,
    ) -> Result<Vec<T>> {
        watch.begins(phase, tasks);
        let read = Arc::new(AtomicU64::new(0));
        let next = AtomicU32::new(0);
        let failed: Mutex<Option<TaskError>> = Mutex::new(None);
        let done: Mutex<Vec<(u32, T)>> = Mutex::new(Vec::new());
        let work = || {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks || self.ended.load(Ordering::Relaxed) {
                    return;
                }
                let progress = Progress {
                    ended: Arc::clone(self.ended),
                    all: Arc::clone(&read),
                    ..Progress::default()
                };
                let attempt = format!("{task}-0");
                let mut context = Context::new(task, attempt, Arc::new(progress));
                // What it has left half done is its own, and goes with the job.
                let caught = catch_unwind(AssertUnwindSafe(|| run(task, &mut context)));
                let panicked = |panic: Box<dyn Any + Send>| Err(context.panicked(&*panic));
                match caught.unwrap_or_else(panicked) {
                    Ok(one) => {
                        lock(&done).push((task, one));
                        watch.done(phase, read.load(Ordering::Relaxed));
                    }
                    Err(error) => {
                        // The first reason is the one: others end because of it.
                        if !self.ended.swap(true, Ordering::Relaxed) {
                            *lock(&failed) = Some(error);
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.options.threads.get().min(tasks as usize) {
                scope.spawn(work);
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error.into());
        }
        if self.ended.load(Ordering::Relaxed) {
            return Err(TaskError::Ended.into());
        }
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(task, _)| *task);
        Ok(done.into_iter().map(|(_, one)| one).collect())
    }

    fn maps(&self, counters: &mut Counters, watch: &dyn Watch) -> Result<Vec<Run>> {
        let tasks = self.plan.maps();
        let mapped = self.all((Phase::Map, tasks), watch, |number, context| {
            let directory = self.directory(&format!("map-{number}"))?;
            let task = self.map_task(&self.split(number), &directory, part(number));
            let mapped = self.code.map(&task, context)?;
            Ok(mapped)
        })?;
        let mut runs = Vec::new();
        for one in mapped {
            add(counters, one.counters);
            runs.extend(one.run);
        }
        Ok(runs)
    }

    fn reduces(&self, runs: &[Run], counters: &mut Counters, watch: &dyn Watch) -> Result<()> {
        let tasks = self.plan.reduces;
        let reduced = self.all((Phase::Reduce, tasks), watch, |number, context| {
            let directory = self.directory(&format!("reduce-{number}"))?;
            let region = |run: &Run| (run.path.clone(), run.regions[number as usize]);
            let task = ReduceTask {
                sources: runs.iter().map(region).collect(),
                directory: &directory,
                output: self.target(part(number)),
                format: self.format(),
                bounds: self.bounds(),
            };
            let reduced = self.code.reduce(task, context)?;
            // Nobody reads what a merge left.
            let path = directory.clone();
            let removed = fs::remove_dir_all(&directory);
            removed.map_err(|source| TaskError::Disk {
                path,
                source: source.into(),
            })?;
            Ok(reduced.counters)
        })?;
        for one in reduced {
            add(counters, one);
        }
        Ok(())
    }

    fn directory(&self, name: &str) -> Result<PathBuf, TaskError> {
        let path = self.scratch.join(name);
        match fs::create_dir(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(TaskError::Disk {
                path,
                source: error.into(),
            }),
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of an output file.
pub(crate) fn part(number: u32) -> String {
    format!("part-{number:05}")
}

/// The counter of records, or octets, that a job has read: for rates.
pub(crate) fn own(report: &Report, name: &str) -> u64 {
    let own = report.counters.get(OWN);
    own.and_then(|own| own.get(name))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, Emit, Identity, Job, Lines, U64, Values, map_fn, reduce_fn};

    #[test]
    fn ranges_of_long_keys_are_cut_by_their_first_octets() {
        let directory = tempfile::tempdir().expect("a directory");
        let input = directory.path().join("in");
        let lines = (0..100).map(|number| format!("{number:02}{}\n", "x".repeat(5_000)));
        fs::write(&input, lines.collect::<String>()).expect("a file");
        let lines = |_, line: &[u8], out: &mut Emit<'_, Bytes, U64>| out.emit(line, 1);
        let job = Job::new(
            "sort",
            Lines,
            move || map_fn(Lines, lines),
            Identity::default,
        );
        let options = Options {
            reduces: Some(4),
            ..Options::new(
                vec![input.display().to_string()],
                directory.path().join("out"),
            )
        };
        let prepared = prepare(&job.sorted(), &options, &|_| Vec::new()).expect("it is right");
        let ranges = prepared.ranges.expect("it is sorted");
        let begins: Vec<_> = ranges.iter().map(|first| first.split_at(2)).collect();
        let rest = "x".repeat(254);
        let rest = rest.as_bytes();
        assert_eq!(
            begins,
            [(&b"25"[..], rest), (&b"50"[..], rest), (&b"75"[..], rest)]
        );
    }

    #[test]
    fn job_ends_within_the_values_of_one_key() {
        let directory = tempfile::tempdir().expect("a directory");
        let input = directory.path().join("in");
        fs::write(&input, "\n".repeat(100_000)).expect("a file");
        let lines = |at, line: &[u8], out: &mut Emit<'_, Bytes, U64>| out.emit(line, at);
        let ended = Arc::<AtomicBool>::default();
        let read = Arc::<AtomicU64>::default();
        let (end, reads) = (Arc::clone(&ended), Arc::clone(&read));
        let reducer = move || {
            let (end, reads) = (Arc::clone(&end), Arc::clone(&reads));
            let values =
                move |_: &[u8], values: &mut Values<'_, U64>, _: &mut Emit<'_, U64, U64>| {
                    while values.next()?.is_some() {
                        end.store(true, Ordering::Relaxed);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                };
            reduce_fn::<_, Bytes, U64, U64, U64>(values)
        };
        let job = Job::new("long", Lines, move || map_fn(Lines, lines), reducer);
        let output = directory.path().join("out");
        let options = Options::new(vec![input.display().to_string()], &output);
        let error = run("long", &job, &options, &ended, &Nobody).expect_err("it was ended");
        assert!(
            matches!(error.downcast_ref(), Some(TaskError::Ended)),
            "{error}"
        );
        let read = read.load(Ordering::Relaxed);
        assert!((1..100).contains(&read), "{read} values were read");
        assert!(!output.exists());
    }
}
