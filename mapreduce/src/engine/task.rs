//! Tasks: what one attempt reads, does and leaves.

use crate::api::{Emit, Sink, Values};
use crate::engine::care::Care;
use crate::engine::collect::{Collect, Collected, PartitionOf};
use crate::engine::files;
use crate::engine::input::{InputFormat, RecordReader, Source};
use crate::engine::output::{As, Output, Own, Target, Written};
use crate::engine::progress::Progress;
use crate::engine::side::{Nowhere, SideFile, SideFiles};
use crate::engine::spill::{self, Bounds, Run};
use crate::store::{InputFile, Packing};
use crate::{Codec, Error, Mapper, Reducer, Ref, Result};
use mapreduce_data::RunError;
use mapreduce_data::block::Compression;
use mapreduce_data::merge::Groups;
use mapreduce_data::run::Region;
use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Records between two words of how many octets were read.
const LOOK_EVERY: u64 = 256;
/// Octets of a key in a sample, at most: lines may be long, and the first keys of ranges are among
/// what a job is submitted with.
const SAMPLED_MAX: usize = 256;
/// The group of what is counted of every task.
pub(crate) const OWN: &str = "mapreduce";

/// Why a task has failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// Its input.
    #[error("{name}, octet {offset}: {source}")]
    Input {
        /// Of the file.
        name: String,
        /// Where the record begins, or where reading failed.
        offset: u64,
        /// Why.
        source: Error,
    },
    /// A function of the job refused a record, or ended with an error.
    #[error("{name}, octet {offset}: the job's {function} function: {source}")]
    Function {
        /// `map`, `combine` or `reduce`.
        function: &'static str,
        /// Of the file; the key, for a reduce.
        name: String,
        /// Where the record begins; the split, for a combine.
        offset: u64,
        /// Why.
        source: Error,
    },
    /// It has panicked; where that can be caught.
    #[error("{at}: it panicked: {what}")]
    Panicked {
        /// The record, or the task where that is not known.
        at: String,
        /// What it said.
        what: String,
    },
    /// Its runs or its output.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The directory, or the file.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// Its output, which the reason names.
    #[error(transparent)]
    Output(Error),
    /// It was ended, as its job was.
    #[error("ended with its job")]
    Ended,
}

/// What is counted, by group and name.
pub(crate) type Counters = BTreeMap<(String, String), u64>;

/// Adds counters to others.
pub(crate) fn add(into: &mut Counters, from: Counters) {
    for (name, by) in from {
        let counter = into.entry(name).or_default();
        *counter = counter.saturating_add(by);
    }
}

/// The task that a function runs in.
#[derive(Debug)]
pub struct Context {
    task: u32,
    attempt: String,
    input: String,
    offset: u64,
    split: (u64, Option<u64>),
    counters: Counters,
    progress: Arc<Progress>,
    care: Care,
}

impl Context {
    pub(crate) fn new(task: u32, attempt: String, progress: Arc<Progress>) -> Self {
        Self {
            task,
            attempt,
            input: String::new(),
            offset: 0,
            split: (0, None),
            counters: Counters::new(),
            progress,
            care: Care::default(),
        }
    }

    /// Leaves records out, and says which one it is at.
    pub(crate) fn careful(self, care: Care) -> Self {
        Self { care, ..self }
    }

    /// The number of the task among those of its phase.
    pub fn task(&self) -> u32 {
        self.task
    }

    /// What no other attempt is called: a token for what a function does outside of the job, whose
    /// effects nobody can take back. See the limits in the documentation.
    pub fn attempt(&self) -> &str {
        &self.attempt
    }

    /// The input file of the record at hand; empty in a reduce. A task may read several small
    /// files, one after the other: it is asked for with each record.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// The first octet of the split in [`Self::input`], and the one after its last; `None`: to the
    /// end of a file that is packed. A split of several small files has all of each.
    pub fn split(&self) -> (u64, Option<u64>) {
        self.split
    }

    /// Where the record begins in the input file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// An error when nobody wants the task any more: return it. Who waits for something else looks
    /// here now and then.
    pub fn is_wanted(&self) -> Result<(), TaskError> {
        if self.progress.has_ended() {
            Err(TaskError::Ended)
        } else {
            Ok(())
        }
    }

    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// The job's code begins with a record or a key, or at the end of all; or it is done.
    fn set_in_code(&self, is_in_code: bool) {
        let flag = &self.progress.is_in_code;
        flag.store(is_in_code, Ordering::Relaxed);
    }

    /// For a function beside the task's own, with counters of its own: where it is, and no more.
    pub(crate) fn fork(&self, task: &MapTask<'_>) -> Self {
        let mut fork = Self::new(self.task, self.attempt.clone(), Arc::clone(&self.progress));
        if let Some(first) = task.parts.first() {
            fork.is_in(first);
        }
        fork
    }

    /// Begins with a part of the input.
    fn is_in(&mut self, part: &MapPart<'_>) {
        self.input.clone_from(&part.file.name);
        self.offset = part.begin;
        self.split = (part.begin, part.end);
    }

    /// Adds what was counted by a fork.
    pub(crate) fn join(&mut self, fork: Self) {
        add(&mut self.counters, fork.counters);
    }

    pub(crate) fn count(&mut self, group: &str, name: &str, by: u64) {
        let name = (group.to_owned(), name.to_owned());
        let counter = self.counters.entry(name).or_default();
        *counter = counter.saturating_add(by);
    }

    pub(crate) fn says(&self, status: &str) {
        self.progress.says(status);
    }

    /// Looks now and then whether it goes on, and says how far it is.
    fn look(&self, records: u64, octets: impl FnOnce() -> u64) -> Result<(), TaskError> {
        // Each record: some functions take minutes for one.
        self.progress.records.store(records, Ordering::Relaxed);
        if records.is_multiple_of(LOOK_EVERY) {
            self.progress.is_at(octets());
        }
        self.is_wanted()
    }

    /// Before record `number` is given to the job's code: whether it is to be left out, as the code
    /// has crashed on it.
    fn leaves_out(&mut self, number: u64, record: &[u8]) -> std::io::Result<bool> {
        if !self.care.is_needed {
            return Ok(false);
        }
        let (name, offset) = (&self.input, self.offset);
        let leaves_out = self.care.leaves_out(number, name, offset, record)?;
        if leaves_out {
            self.count(OWN, "skipped records", 1);
        }
        Ok(leaves_out)
    }

    /// The task has panicked, with this.
    pub(crate) fn panicked(&self, panic: &(dyn Any + Send)) -> TaskError {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let what = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let at = match self.input.as_str() {
            "" => format!("task {}", self.task),
            input => format!("{input}, octet {}", self.offset),
        };
        TaskError::Panicked {
            at,
            what: what.unwrap_or_else(|| "it does not say why".to_owned()),
        }
    }

    fn finish(&mut self, octets: u64) -> Counters {
        self.progress.is_at(octets);
        std::mem::take(&mut self.counters)
    }
}

/// Counts what is emitted.
struct Counted<'a, K: Codec, V: Codec> {
    sink: &'a mut dyn Sink<K, V>,
    records: u64,
}

impl<K: Codec, V: Codec> Sink<K, V> for Counted<'_, K, V> {
    fn emit(&mut self, key: Ref<'_, K>, value: Ref<'_, V>) -> Result<()> {
        self.records += 1;
        self.sink.emit(key, value)
    }
}

/// A range of a file that a map task reads.
pub(crate) struct MapPart<'a> {
    pub(crate) file: &'a InputFile,
    pub(crate) begin: u64,
    /// None: all of what is packed.
    pub(crate) end: Option<u64>,
}

impl<'a> MapPart<'a> {
    /// Of a file, as the plan has it.
    pub(crate) fn new(file: &'a InputFile, begin: u64, end: u64) -> Self {
        let is_plain = file.packing == Packing::None;
        let end = is_plain.then_some(end);
        Self { file, begin, end }
    }

    /// Opens it.
    pub(crate) fn open<I: InputFormat>(&self, input: &I) -> Result<Box<dyn RecordReader>> {
        let open = |at| Ok(files::open(self.file, at, self.end)?);
        input.open(Source {
            name: &self.file.name,
            begin: self.begin,
            end: self.end,
            open: &open,
        })
    }
}

/// What a map task reads, and where it writes.
pub(crate) struct MapTask<'a> {
    /// One after the other.
    pub(crate) parts: Vec<MapPart<'a>>,
    /// None: there is no reduce, and it writes an output file.
    pub(crate) partitions: Option<(u32, PartitionOf)>,
    /// For its runs. It exists and is empty.
    pub(crate) directory: &'a Path,
    /// The output file of a job without reduce.
    pub(crate) output: Target<'a>,
    pub(crate) format: As,
    /// Octets of memory for records.
    pub(crate) budget: usize,
    /// Of what it merges.
    pub(crate) bounds: Bounds,
    pub(crate) compression: Compression,
}

/// What a map task leaves.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// None: it has written an output file.
    pub(crate) run: Option<Run>,
    /// Of a job without reduce.
    pub(crate) output: Option<Written>,
    pub(crate) sides: Vec<SideFile>,
    pub(crate) counters: Counters,
}

/// What a reduce task leaves.
#[derive(Debug)]
pub(crate) struct Reduced {
    pub(crate) output: Written,
    pub(crate) sides: Vec<SideFile>,
    pub(crate) counters: Counters,
}

fn bad_input(name: &str, offset: u64, source: Error) -> TaskError {
    TaskError::Input {
        name: name.to_owned(),
        offset,
        source,
    }
}

/// Runs a map function over a split.
pub(crate) fn map<I, M>(
    input: &I,
    mut mapper: M,
    mut collect: Box<dyn Collect<M::Key, M::Value>>,
    task: &MapTask<'_>,
    context: &mut Context,
) -> Result<Mapped, TaskError>
where
    I: InputFormat,
    M: Mapper<InKey = I::Key, InValue = I::Value>,
{
    let mut read = Read::default();
    let mut sink = Counted {
        sink: &mut *collect,
        records: 0,
    };
    let mut sides = SideFiles::new(&task.output, true, context.task);
    let mut out = Emit {
        sink: &mut sink,
        context,
        sides: &mut sides,
    };
    for part in &task.parts {
        out.context.is_in(part);
        map_part(
            input,
            &mut mapper,
            (part, task.directory),
            &mut out,
            &mut read,
        )?;
    }
    let put_down = out.context.care.put_down();
    put_down.map_err(|error| on_disk(task.directory)(error.into()))?;
    out.context.set_in_code(true);
    let finished = mapper.finish(&mut out);
    out.context.set_in_code(false);
    finished.map_err(|source| failed("map", out.context, source))?;
    let sides = sides.finish().map_err(TaskError::Output)?;
    let emitted = sink.records;
    let collected = collect.finish(context);
    let collected = collected.map_err(|error| match task.partitions {
        Some(_) => on_disk(task.directory)(error),
        None => TaskError::Output(error),
    })?;
    count_map(context, &read, emitted, &collected);
    let counters = context.finish(read.octets);
    Ok(mapped(collected, sides, counters))
}

/// What a map task has read.
#[derive(Debug, Default)]
struct Read {
    records: u64,
    octets: u64,
}

/// Runs a map function over a part of its task's input.
fn map_part<I, M>(
    input: &I,
    mapper: &mut M,
    (part, directory): (&MapPart<'_>, &Path),
    out: &mut Emit<'_, M::Key, M::Value>,
    read: &mut Read,
) -> Result<(), TaskError>
where
    I: InputFormat,
    M: Mapper<InKey = I::Key, InValue = I::Value>,
{
    let name = &part.file.name;
    let reader = part.open(input);
    let mut reader = reader.map_err(|error| bad_input(name, part.begin, error))?;
    let before = read.octets;
    loop {
        let at = part.begin + reader.taken();
        let advanced = reader.advance();
        if !advanced.map_err(|error| bad_input(name, at, error))? {
            read.octets = before + reader.taken();
            return Ok(());
        }
        out.context.offset = reader.offset();
        let is_left_out = out.context.leaves_out(read.records, reader.value());
        read.records += 1;
        if is_left_out.map_err(|error| on_disk(directory)(error.into()))? {
            continue;
        }
        out.context.set_in_code(true);
        let mapped = one_record::<I, M>(mapper, &*reader, out);
        out.context.set_in_code(false);
        mapped.map_err(|source| failed("map", out.context, source))?;
        out.context.look(read.records, || before + reader.taken())?;
    }
}

fn mapped(collected: Collected, sides: Vec<SideFile>, counters: Counters) -> Mapped {
    let (run, output) = match collected {
        Collected::Run(run, _) => (Some(run), None),
        Collected::Output(written) => (None, Some(written)),
    };
    Mapped {
        run,
        output,
        sides,
        counters,
    }
}

fn count_map(context: &mut Context, read: &Read, emitted: u64, what: &Collected) {
    context.count(OWN, "map input records", read.records);
    context.count(OWN, "map input bytes", read.octets);
    context.count(OWN, "map output records", emitted);
    match what {
        Collected::Run(run, spilled) => {
            let sum = |of: fn(&Region) -> u64| run.regions.iter().map(of).sum();
            context.count(OWN, "shuffle records", sum(|region| region.records));
            context.count(OWN, "shuffle bytes", sum(|region| region.length));
            context.count(OWN, "spilled bytes", *spilled);
        }
        Collected::Output(written) => {
            context.count(OWN, "output records", written.records);
            context.count(OWN, "output bytes", written.octets);
        }
    }
}

fn on_disk(path: &Path) -> impl FnOnce(Error) -> TaskError {
    |source| {
        known(source).unwrap_or_else(|source| {
            let path = path.to_owned();
            TaskError::Disk { path, source }
        })
    }
}

/// What says by itself where it happened: in a combiner, say, which is called by a function.
fn known(error: Error) -> Result<TaskError, Error> {
    match error.downcast_ref() {
        Some(RunError::Ended) => Ok(TaskError::Ended),
        Some(_) | None => error.downcast().map(|known| *known),
    }
}

pub(crate) fn failed(function: &'static str, context: &Context, source: Error) -> TaskError {
    known(source).unwrap_or_else(|source| TaskError::Function {
        function,
        name: context.input.clone(),
        offset: context.offset,
        source,
    })
}

fn one_record<I, M>(
    mapper: &mut M,
    reader: &dyn RecordReader,
    out: &mut Emit<'_, M::Key, M::Value>,
) -> Result<()>
where
    I: InputFormat,
    M: Mapper<InKey = I::Key, InValue = I::Value>,
{
    let key = I::Key::decode(reader.key())?;
    let value = I::Value::decode(reader.value())?;
    mapper.map(key, value, out)
}

/// What a reduce task reads, and where it writes.
pub(crate) struct ReduceTask<'a> {
    /// The partition's region of each map task, in their order.
    pub(crate) sources: Vec<(PathBuf, Region)>,
    /// For merging more than can be open at once. It exists and is empty.
    pub(crate) directory: &'a Path,
    pub(crate) output: Target<'a>,
    pub(crate) format: As,
    /// Of what it merges.
    pub(crate) bounds: Bounds,
}

/// How a job has its keys grouped, and its output written.
pub(crate) struct How<'a, R: Reducer> {
    /// Octets of a key that make its group.
    pub(crate) group: fn(&[u8]) -> usize,
    pub(crate) own: Option<&'a Own<R::OutKey, R::OutValue>>,
}

/// Runs a reduce function over a partition.
pub(crate) fn reduce<R: Reducer>(
    mut reducer: R,
    how: How<'_, R>,
    task: ReduceTask<'_>,
    context: &mut Context,
) -> Result<Reduced, TaskError> {
    let octets: u64 = task.sources.iter().map(|(_, region)| region.length).sum();
    let records: u64 = task.sources.iter().map(|(_, region)| region.records).sum();
    let progress = Arc::clone(context.progress());
    let merged = spill::merge_all(task.sources, task.directory, task.bounds, &progress);
    let (merged, spilled) = merged.map_err(|error| on_disk(task.directory)(error.into()))?;
    let output = Output::create(&task.output, task.format, how.own);
    let mut output = output.map_err(TaskError::Output)?;
    let mut sides = SideFiles::new(&task.output, false, context.task);
    let mut out = Emit {
        sink: &mut output,
        context,
        sides: &mut sides,
    };
    let mut groups = Groups::by(how.group, merged);
    let mut count = 0_u64;
    while groups
        .advance()
        .map_err(|error| on_disk(task.directory)(error.into()))?
    {
        let (key, mut raw) = groups.group();
        let is_left_out = out.context.leaves_out(count, key);
        count += 1;
        if is_left_out.map_err(|error| on_disk(task.directory)(error.into()))? {
            continue;
        }
        let mut values = Values::new(&mut raw);
        let reduced = R::Key::decode(key).map_err(Error::from);
        out.context.set_in_code(true);
        let reduced = reduced.and_then(|key| reducer.reduce(key, &mut values, &mut out));
        out.context.set_in_code(false);
        reduced.map_err(|source| {
            out.context.input = format!("key {}", key.escape_ascii());
            failed("reduce", out.context, source)
        })?;
        out.context.look(count, || 0)?;
    }
    let put_down = out.context.care.put_down();
    put_down.map_err(|error| on_disk(task.directory)(error.into()))?;
    out.context.set_in_code(true);
    let finished = reducer.finish(&mut out);
    out.context.set_in_code(false);
    finished.map_err(|source| failed("reduce", out.context, source))?;
    let sides = sides.finish().map_err(TaskError::Output)?;
    let output = output.finish().map_err(TaskError::Output)?;
    context.count(OWN, "reduce input groups", count);
    context.count(OWN, "reduce input records", records);
    context.count(OWN, "spilled bytes", spilled);
    context.count(OWN, "output records", output.records);
    context.count(OWN, "output bytes", output.octets);
    let counters = context.finish(octets);
    Ok(Reduced {
        output,
        sides,
        counters,
    })
}

/// Keeps what cuts ranges of keys only.
struct Keys {
    cut: Vec<Vec<u8>>,
    /// Octets of a key that decide its partition.
    ranged: fn(&[u8]) -> usize,
    octets: Vec<u8>,
}

impl<K: Codec, V: Codec> Sink<K, V> for Keys {
    fn emit(&mut self, key: Ref<'_, K>, _value: Ref<'_, V>) -> Result<()> {
        let ranged = self.ranged;
        // Keys compare as octets: the first octets of one are a place between others as well.
        let cut = K::with(key, &mut self.octets, |key| {
            key[..ranged(key).min(SAMPLED_MAX)].to_vec()
        });
        self.cut.push(cut);
        Ok(())
    }
}

/// Keys that a map function emits for the first records of a split: at least `most` of them, if
/// there are as many, each as far as it can decide its partition. What the function refuses, the
/// job itself will report.
pub(crate) fn sample<I, M>(
    input: &I,
    mut mapper: M,
    parts: &[MapPart<'_>],
    (most, ranged): (usize, fn(&[u8]) -> usize),
) -> Result<Vec<Vec<u8>>, TaskError>
where
    I: InputFormat,
    M: Mapper<InKey = I::Key, InValue = I::Value>,
{
    let mut keys = Keys {
        cut: Vec::new(),
        ranged,
        octets: Vec::new(),
    };
    let mut context = Context::new(0, String::new(), Arc::default());
    let mut read = |part: &MapPart<'_>| -> Result<bool> {
        let mut reader = part.open(input)?;
        while keys.cut.len() < most && reader.advance()? {
            let mut out = Emit {
                sink: &mut keys,
                context: &mut context,
                sides: &mut Nowhere::default(),
            };
            one_record::<I, M>(&mut mapper, &*reader, &mut out)?;
        }
        Ok(keys.cut.len() >= most)
    };
    for part in parts {
        let is_enough = read(part);
        if is_enough.map_err(|error| bad_input(&part.file.name, part.begin, error))? {
            break;
        }
    }
    Ok(keys.cut)
}
