//! Jobs: their functions put together, and as things that can be run without knowing their types.

use crate::api::{FnPartition, Identity, Mapper, PartitionBy, Reducer};
use crate::engine::collect::{Collect, Direct, Folded, PartitionOf, Sorted};
use crate::engine::combined::{Combined, MakeCombiner};
use crate::engine::input::InputFormat;
use crate::engine::output::{As, Output, OutputFormat, Own, RecordFormat};
use crate::engine::spill::Spills;
use crate::engine::task::{self, Context, How, MapTask, Mapped, ReduceTask, Reduced, TaskError};
use crate::{Codec, Combine, Error, Ref, Result};
use mapreduce_data::codec::{Pair, first_half};
use mapreduce_data::fold::FoldBuffer;
use mapreduce_data::partition::{Partitioner, by_hash, hash};
use mapreduce_data::sort::SortBuffer;
use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

/// What a collector is made with.
struct Parts {
    partition: PartitionOf,
    spills: Spills,
    budget: usize,
    /// For functions that collecting calls.
    context: Context,
}

fn sorted<K, V>(partition: PartitionOf, spills: Spills, budget: usize) -> Sorted<K, V> {
    Sorted {
        buffer: SortBuffer::new(budget),
        partition,
        spills,
        key: Vec::new(),
        value: Vec::new(),
        of: PhantomData,
    }
}

type Collecting<M> =
    Box<dyn Fn(Parts) -> Box<dyn Collect<<M as Mapper>::Key, <M as Mapper>::Value>> + Send + Sync>;

/// A job: an input format, a mapper, a reducer, and what is said beside them.
pub struct Job<I: InputFormat, M: Mapper, R: Reducer> {
    name: String,
    about: String,
    input: I,
    mapper: Box<dyn Fn() -> M + Send + Sync>,
    reducer: Option<Box<dyn Fn() -> R + Send + Sync>>,
    collecting: Collecting<M>,
    partition: Option<Arc<dyn PartitionBy<M::Key>>>,
    /// It is one of the job's own, and no range.
    is_partitioned: bool,
    /// Octets of a key that decide its partition, where partitions are ranges of keys.
    ranged: fn(&[u8]) -> usize,
    /// Octets of a key that make its group.
    group: fn(&[u8]) -> usize,
    output: OutputFormat,
    own: Option<Own<R::OutKey, R::OutValue>>,
    is_sorted: bool,
}

impl<I: InputFormat, M: Mapper, R: Reducer> std::fmt::Debug for Job<I, M, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<I, M> Job<I, M, Identity<M::Key, M::Value>>
where
    I: InputFormat,
    M: Mapper<InKey = I::Key, InValue = I::Value> + 'static,
{
    /// Without a reduce: what map tasks emit is the output, in a file for each of them.
    pub fn map_only(name: &str, input: I, mapper: impl Fn() -> M + Send + Sync + 'static) -> Self {
        let job = Self::new(name, input, mapper, Identity::default);
        Self {
            reducer: None,
            ..job
        }
    }
}

impl<I, M, R> Job<I, M, R>
where
    I: InputFormat,
    M: Mapper<InKey = I::Key, InValue = I::Value> + 'static,
    R: Reducer<Key = M::Key, Value = M::Value> + 'static,
{
    /// What makes a mapper and a reducer is called once for each task.
    pub fn new(
        name: &str,
        input: I,
        mapper: impl Fn() -> M + Send + Sync + 'static,
        reducer: impl Fn() -> R + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            about: String::new(),
            input,
            mapper: Box::new(mapper),
            reducer: Some(Box::new(reducer)),
            collecting: Box::new(|parts| {
                Box::new(sorted::<M::Key, M::Value>(
                    parts.partition,
                    parts.spills,
                    parts.budget,
                ))
            }),
            partition: None,
            is_partitioned: false,
            ranged: <[u8]>::len,
            group: <[u8]>::len,
            output: OutputFormat::Lines,
            own: None,
            is_sorted: false,
        }
    }

    /// One line about it, for lists.
    #[must_use]
    pub fn about(mut self, about: &str) -> Self {
        about.clone_into(&mut self.about);
        self
    }

    /// Puts the values of a key together before they are sent, any number of times.
    #[must_use]
    pub fn combine<C>(mut self, combine: impl Fn() -> C + Send + Sync + 'static) -> Self
    where
        C: Combine<Value = M::Value>,
    {
        self.collecting = Box::new(move |parts| {
            Box::new(Folded::<M::Key, C> {
                buffer: FoldBuffer::new(combine(), parts.budget),
                again: combine(),
                partition: parts.partition,
                spills: parts.spills,
                key: Vec::new(),
                of: PhantomData,
            })
        });
        self
    }

    /// Puts values together by a reducer, any number of times or not at all. It gets what was
    /// collected, in order, when memory is full and at the end of a map task, each time a new one;
    /// what it emits may be in any order. A [`Combine`] takes less time and memory.
    #[must_use]
    pub fn combine_by<C>(mut self, combiner: impl Fn() -> C + Send + Sync + 'static) -> Self
    where
        C: Reducer<Key = M::Key, Value = M::Value, OutKey = M::Key, OutValue = M::Value> + 'static,
    {
        let make: MakeCombiner<C> = Arc::new(combiner);
        self.collecting = Box::new(move |parts| {
            let half = parts.budget / 2;
            Box::new(Combined {
                buffer: SortBuffer::new(half),
                make: Arc::clone(&make),
                context: parts.context,
                to: sorted(parts.partition, parts.spills.halved(), half),
                key: Vec::new(),
                value: Vec::new(),
            })
        });
        self
    }

    /// Chooses partitions by this instead of a hash of the key. A job that is [`Self::sorted`]
    /// cannot have it: it is refused when it is to be run.
    #[must_use]
    pub fn partition(
        self,
        by: impl Fn(Ref<'_, M::Key>, u32) -> u32 + Send + Sync + 'static,
    ) -> Self {
        self.partition_by(FnPartition(by))
    }

    /// Chooses partitions by this instead of a hash of the key.
    #[must_use]
    pub fn partition_by(mut self, by: impl PartitionBy<M::Key>) -> Self {
        self.partition = Some(Arc::new(by));
        self.is_partitioned = true;
        self
    }

    /// Partitions are ranges of keys, by a sample of the input: outputs are sorted as a whole, one
    /// after the other. Keys that belong together by [`Job::group_by_first`] or
    /// [`Job::partition_by_first`] are in one of them.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.is_sorted = true;
        self
    }

    /// How the output is written; lines, unless this says otherwise.
    #[must_use]
    pub fn output(mut self, format: OutputFormat) -> Self {
        self.output = format;
        self
    }

    /// Writes the output in a format of the job's own.
    #[must_use]
    pub fn output_by(mut self, format: impl RecordFormat<R::OutKey, R::OutValue>) -> Self {
        self.own = Some(Arc::new(format));
        self
    }

    /// To runs, or to the output when there is no reduce.
    fn collect(
        &self,
        task: &MapTask<'_>,
        context: &Context,
    ) -> Result<Box<dyn Collect<M::Key, M::Value>>, TaskError> {
        if let Some((partitions, partition)) = &task.partitions {
            let spills = Spills::new(
                task.directory.to_owned(),
                (*partitions, task.compression),
                task.bounds,
                Arc::clone(context.progress()),
            );
            return Ok((self.collecting)(Parts {
                partition: Arc::clone(partition),
                spills,
                budget: task.budget,
                context: context.fork(task),
            }));
        }
        // Without a reduce these are the types of the output.
        let own = self.own.as_ref().map(|own| own as &dyn Any);
        let own = own.and_then(|own| own.downcast_ref::<Own<M::Key, M::Value>>());
        let output = Output::create(&task.output, task.format, own).map_err(TaskError::Output)?;
        Ok(Box::new(Direct { output }))
    }

    fn partition_of(&self, partitions: u32, ranges: Option<Arc<Partitioner>>) -> PartitionOf {
        if let Some(ranges) = ranges {
            let ranged = self.ranged;
            return Arc::new(move |key, _| Ok(ranges.of(&key[..ranged(key)], partitions)));
        }
        let Some(by) = self.partition.clone() else {
            return Arc::new(move |_, hash| Ok(by_hash(hash, partitions)));
        };
        Arc::new(move |key, _| {
            let partition = by.partition(M::Key::decode(key)?, partitions);
            if partition < partitions {
                return Ok(partition);
            }
            let key = key.escape_ascii();
            let most = partitions - 1;
            Err(format!("the partition of {key} is {partition}, 0 to {most} can be").into())
        })
    }
}

impl<I, M, R, A, B> Job<I, M, R>
where
    I: InputFormat,
    M: Mapper<InKey = I::Key, InValue = I::Value, Key = Pair<A, B>> + 'static,
    R: Reducer<Key = M::Key, Value = M::Value> + 'static,
    A: Codec,
    B: Codec,
{
    /// Chooses partitions by the first half of keys: what has it in common is reduced by one task,
    /// in the order of the second half (a secondary sort).
    #[must_use]
    pub fn partition_by_first(mut self) -> Self {
        self = self.partition(|key, partitions| by_hash(hash(key.first_octets()), partitions));
        self.is_partitioned = false;
        self.ranged = first_half;
        self
    }

    /// Calls the reduce function once for all keys with one first half, with their values in the
    /// order of the second: see [`crate::Values::key`]. It chooses partitions by the first half
    /// too.
    #[must_use]
    pub fn group_by_first(mut self) -> Self {
        self.group = first_half;
        self.partition_by_first()
    }
}

/// A job whose types nobody needs to know.
pub(crate) trait Code: Send + Sync {
    fn splits(&self) -> bool;
    fn unpacks(&self) -> bool;
    fn is_map_only(&self) -> bool;
    fn is_sorted(&self) -> bool;
    /// Refuses what has been said of the job and cannot all be true.
    fn check(&self) -> Result<()>;
    fn partition(&self, partitions: u32, ranges: Option<Arc<Partitioner>>) -> PartitionOf;
    fn map(&self, task: &MapTask<'_>, context: &mut Context) -> Result<Mapped, TaskError>;
    fn reduce(&self, task: ReduceTask<'_>, context: &mut Context) -> Result<Reduced, TaskError>;
    fn output(&self) -> As;
    /// Keys that the map function emits for the first records of a part, as far as they cut ranges.
    fn sample(&self, task: &MapTask<'_>, most: usize) -> Result<Vec<Vec<u8>>, TaskError>;
}

impl<I, M, R> Code for Job<I, M, R>
where
    I: InputFormat,
    M: Mapper<InKey = I::Key, InValue = I::Value> + 'static,
    R: Reducer<Key = M::Key, Value = M::Value> + 'static,
{
    fn splits(&self) -> bool {
        self.input.splits()
    }

    fn unpacks(&self) -> bool {
        self.input.unpacks()
    }

    fn is_map_only(&self) -> bool {
        self.reducer.is_none()
    }

    fn is_sorted(&self) -> bool {
        self.is_sorted
    }

    fn check(&self) -> Result<()> {
        if self.is_sorted && self.is_partitioned {
            let what = "its partitions are ranges of keys, as it is sorted";
            return Err(format!("{what}: it cannot choose them by a function too").into());
        }
        Ok(())
    }

    fn output(&self) -> As {
        match self.own {
            Some(_) => As::Own,
            None => As::Format(self.output),
        }
    }

    fn partition(&self, partitions: u32, ranges: Option<Arc<Partitioner>>) -> PartitionOf {
        self.partition_of(partitions, ranges)
    }

    fn map(&self, task: &MapTask<'_>, context: &mut Context) -> Result<Mapped, TaskError> {
        let collect = self.collect(task, context)?;
        task::map(&self.input, (self.mapper)(), collect, task, context)
    }

    fn reduce(&self, task: ReduceTask<'_>, context: &mut Context) -> Result<Reduced, TaskError> {
        match &self.reducer {
            Some(reducer) => {
                let (group, own) = (self.group, self.own.as_ref());
                let how = How { group, own };
                task::reduce(reducer(), how, task, context)
            }
            None => Err(TaskError::Ended),
        }
    }

    fn sample(&self, task: &MapTask<'_>, most: usize) -> Result<Vec<Vec<u8>>, TaskError> {
        task::sample(
            &self.input,
            (self.mapper)(),
            &task.parts,
            (most, self.ranged),
        )
    }
}

type Make = dyn Fn(&[String]) -> Result<Arc<dyn Code>> + Send + Sync;

/// A job by its name, with arguments or without.
pub struct AnyJob {
    pub(crate) name: String,
    pub(crate) about: String,
    /// Its arguments, as help shows them.
    pub(crate) usage: String,
    make: Box<Make>,
}

impl std::fmt::Debug for AnyJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnyJob")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl AnyJob {
    /// A job that is made of its arguments, which `usage` shows.
    pub fn with_arguments<I, M, R>(
        name: &str,
        usage: &str,
        about: &str,
        make: impl Fn(&[String]) -> Result<Job<I, M, R>> + Send + Sync + 'static,
    ) -> Self
    where
        I: InputFormat,
        M: Mapper<InKey = I::Key, InValue = I::Value> + 'static,
        R: Reducer<Key = M::Key, Value = M::Value> + 'static,
    {
        Self {
            name: name.to_owned(),
            about: about.to_owned(),
            usage: usage.to_owned(),
            make: Box::new(move |arguments| Ok(Arc::new(make(arguments)?))),
        }
    }

    pub(crate) fn make(&self, arguments: &[String]) -> Result<Arc<dyn Code>> {
        let code = (self.make)(arguments)?;
        code.check()?;
        Ok(code)
    }
}

impl<I, M, R> From<Job<I, M, R>> for AnyJob
where
    I: InputFormat,
    M: Mapper<InKey = I::Key, InValue = I::Value> + 'static,
    R: Reducer<Key = M::Key, Value = M::Value> + 'static,
{
    fn from(job: Job<I, M, R>) -> Self {
        let (name, about) = (job.name.clone(), job.about.clone());
        let job: Arc<dyn Code> = Arc::new(job);
        Self {
            name,
            about,
            usage: String::new(),
            make: Box::new(move |arguments| match arguments {
                [] => Ok(Arc::clone(&job)),
                [first, ..] => Err(Error::from(format!("it takes no argument: {first}"))),
            }),
        }
    }
}
