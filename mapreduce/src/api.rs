//! What a job is made of: a mapper, perhaps a combiner, a partitioner and a reducer, each a small
//! trait with the types of its keys and values.

use crate::engine::input::InputFormat;
use crate::engine::side::Sides;
use crate::engine::task::Context;
use crate::{Error, Result};
use mapreduce_data::codec::Codec;
use mapreduce_data::merge::{Cursor, Values as Raw};
use std::io::Write;
use std::marker::PhantomData;

/// A value of type `C` as a function of a job sees it.
pub type Ref<'a, C> = <C as Codec>::Ref<'a>;

/// `map (k1, v1) -> list(k2, v2)`. One is made for each task, on the thread that runs it.
pub trait Mapper {
    /// k1, as the input has it.
    type InKey: Codec;
    /// v1, as the input has it.
    type InValue: Codec;
    /// k2. Its encoding is what keys are sorted and grouped by.
    type Key: Codec;
    /// v2.
    type Value: Codec;

    /// Called with each record of the split, in order.
    fn map(
        &mut self,
        key: Ref<'_, Self::InKey>,
        value: Ref<'_, Self::InValue>,
        out: &mut Emit<'_, Self::Key, Self::Value>,
    ) -> Result<()>;

    /// Called after the last record.
    fn finish(&mut self, _out: &mut Emit<'_, Self::Key, Self::Value>) -> Result<()> {
        Ok(())
    }
}

/// `reduce (k2, values) -> list(k3, v3)`. One is made for each task, on the thread that runs it.
pub trait Reducer {
    /// k2.
    type Key: Codec;
    /// v2.
    type Value: Codec;
    /// Of what it emits.
    type OutKey: Codec;
    /// Of what it emits.
    type OutValue: Codec;

    /// Called with each key of the partition, in increasing order. Values that are not asked for
    /// are passed over.
    fn reduce(
        &mut self,
        key: Ref<'_, Self::Key>,
        values: &mut Values<'_, Self::Value>,
        out: &mut Emit<'_, Self::OutKey, Self::OutValue>,
    ) -> Result<()>;

    /// Called after the last key.
    fn finish(&mut self, _out: &mut Emit<'_, Self::OutKey, Self::OutValue>) -> Result<()> {
        Ok(())
    }
}

/// Where emitted records go.
pub(crate) trait Sink<K: Codec, V: Codec> {
    fn emit(&mut self, key: Ref<'_, K>, value: Ref<'_, V>) -> Result<()>;
}

/// What a function of a job has beside its input: a way to emit, to count and to say how it is.
pub struct Emit<'a, K: Codec, V: Codec> {
    pub(crate) sink: &'a mut dyn Sink<K, V>,
    pub(crate) context: &'a mut Context,
    pub(crate) sides: &'a mut dyn Sides,
}

impl<K: Codec, V: Codec> Emit<'_, K, V> {
    /// Emits a record. An error is the disk's, or a record that is too long: return it.
    pub fn emit(&mut self, key: Ref<'_, K>, value: Ref<'_, V>) -> Result<()> {
        self.sink.emit(key, value)
    }

    /// Adds to a counter. What is run twice is counted once: only tasks whose output counts are
    /// summed.
    pub fn count(&mut self, group: &str, name: &str, by: u64) {
        self.context.count(group, name, by);
    }

    /// Says for people how the task stands, in a line: `mapreduce status` and the status page show
    /// it while the task runs. Code that says something lives, however long its record takes.
    pub fn status(&mut self, text: &str) {
        self.context.says(text);
    }

    /// A file of the task beside its records, by a name: what was refused, say. It is opened when
    /// it is asked for first. In the output it is called `_NAME-m-00007`, or `_NAME-r-00007` of a
    /// reduce task; it appears with the output, and of what was run twice there is one. Who reads
    /// the output as data passes it over. A task has at most 15 of them.
    pub fn side_file(&mut self, name: &str) -> Result<&mut dyn Write> {
        self.sides.side_file(name)
    }

    /// The task, its attempt, and where in the input it is.
    pub fn context(&self) -> &Context {
        self.context
    }
}

/// What `Emit` shows of itself: neither the sink nor the counts.
impl<K: Codec, V: Codec> std::fmt::Debug for Emit<'_, K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emit").finish_non_exhaustive()
    }
}

/// Gives the octets of the next value.
pub(crate) trait NextValue {
    fn next_value(&mut self) -> Result<Option<&[u8]>>;
    fn key(&self) -> &[u8];
}

impl<C: Cursor> NextValue for Raw<'_, C> {
    fn next_value(&mut self) -> Result<Option<&[u8]>> {
        Ok(self.advance()?)
    }

    fn key(&self) -> &[u8] {
        Raw::key(self)
    }
}

/// The values of a key, read as they are asked for: there may be more than fit into memory.
pub struct Values<'a, V> {
    raw: &'a mut dyn NextValue,
    of: PhantomData<V>,
}

impl<'a, V: Codec> Values<'a, V> {
    pub(crate) fn new(raw: &'a mut dyn NextValue) -> Self {
        let of = PhantomData;
        Self { raw, of }
    }

    /// The next one, until there is none. In the order of map tasks and, within one, in that in
    /// which they were emitted, unless a combiner has put them together.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it gives borrows from it"
    )]
    pub fn next(&mut self) -> Result<Option<Ref<'_, V>>> {
        match self.raw.next_value()? {
            Some(octets) => Ok(Some(V::decode(octets)?)),
            None => Ok(None),
        }
    }

    /// The key of the value that was given last. It differs within a group where only a part of
    /// keys makes it ([`crate::Job::group_by_first`]).
    pub fn key<K: Codec>(&self) -> Result<Ref<'_, K>> {
        Ok(K::decode(self.raw.key())?)
    }
}

impl<V> std::fmt::Debug for Values<'_, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Values").finish_non_exhaustive()
    }
}

/// Chooses the partition of a key: of the key, and how many there are. It must depend on nothing
/// else.
pub trait PartitionBy<K: Codec>: Send + Sync + 'static {
    /// The partition of a key, from 0 on and less than `partitions`.
    fn partition(&self, key: Ref<'_, K>, partitions: u32) -> u32;
}

/// A partitioner that is a function.
pub(crate) struct FnPartition<F>(pub(crate) F);

impl<K, F> PartitionBy<K> for FnPartition<F>
where
    K: Codec,
    F: Fn(Ref<'_, K>, u32) -> u32 + Send + Sync + 'static,
{
    fn partition(&self, key: Ref<'_, K>, partitions: u32) -> u32 {
        (self.0)(key, partitions)
    }
}

/// A mapper that is a function: of the types that its parameters have.
pub struct FnMapper<I, F, K, V>(F, PhantomData<(I, K, V)>);

impl<I, F, K, V> std::fmt::Debug for FnMapper<I, F, K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FnMapper").finish_non_exhaustive()
    }
}

/// The mapper that calls `map` with each record of an input format.
pub fn map_fn<I, F, K, V>(_input: I, map: F) -> FnMapper<I, F, K, V>
where
    I: InputFormat,
    K: Codec,
    V: Codec,
    F: FnMut(Ref<'_, I::Key>, Ref<'_, I::Value>, &mut Emit<'_, K, V>) -> Result<()>,
{
    FnMapper(map, PhantomData)
}

impl<I, F, K, V> Mapper for FnMapper<I, F, K, V>
where
    I: InputFormat,
    K: Codec,
    V: Codec,
    F: FnMut(Ref<'_, I::Key>, Ref<'_, I::Value>, &mut Emit<'_, K, V>) -> Result<()>,
{
    type InKey = I::Key;
    type InValue = I::Value;
    type Key = K;
    type Value = V;

    fn map(
        &mut self,
        key: Ref<'_, I::Key>,
        value: Ref<'_, I::Value>,
        out: &mut Emit<'_, K, V>,
    ) -> Result<()> {
        (self.0)(key, value, out)
    }
}

/// A reducer that is a function.
pub struct FnReducer<F, K, V, OK, OV>(F, PhantomData<(K, V, OK, OV)>);

impl<F, K, V, OK, OV> std::fmt::Debug for FnReducer<F, K, V, OK, OV> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FnReducer").finish_non_exhaustive()
    }
}

/// The reducer that calls `reduce` with each key; the key's type is that of the mapper.
pub fn reduce_fn<F, K, V, OK, OV>(reduce: F) -> FnReducer<F, K, V, OK, OV>
where
    K: Codec,
    V: Codec,
    OK: Codec,
    OV: Codec,
    F: FnMut(Ref<'_, K>, &mut Values<'_, V>, &mut Emit<'_, OK, OV>) -> Result<()>,
{
    FnReducer(reduce, PhantomData)
}

impl<F, K, V, OK, OV> Reducer for FnReducer<F, K, V, OK, OV>
where
    K: Codec,
    V: Codec,
    OK: Codec,
    OV: Codec,
    F: FnMut(Ref<'_, K>, &mut Values<'_, V>, &mut Emit<'_, OK, OV>) -> Result<()>,
{
    type Key = K;
    type Value = V;
    type OutKey = OK;
    type OutValue = OV;

    fn reduce(
        &mut self,
        key: Ref<'_, K>,
        values: &mut Values<'_, V>,
        out: &mut Emit<'_, OK, OV>,
    ) -> Result<()> {
        (self.0)(key, values, out)
    }
}

/// A reducer that gives all records on as they are.
#[derive(Debug)]
pub struct Identity<K, V>(PhantomData<(K, V)>);

impl<K, V> Default for Identity<K, V> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<K: Codec, V: Codec> Reducer for Identity<K, V> {
    type Key = K;
    type Value = V;
    type OutKey = K;
    type OutValue = V;

    fn reduce(
        &mut self,
        key: Ref<'_, K>,
        values: &mut Values<'_, V>,
        out: &mut Emit<'_, K, V>,
    ) -> Result<()> {
        // The key is emitted once for each value: its octets, so that it can be read again.
        let mut octets = Vec::new();
        K::encode(key, &mut octets);
        while let Some(value) = values.next()? {
            out.emit(K::decode(&octets)?, value)?;
        }
        Ok(())
    }
}

/// An error of a job's own, with what was wrong.
pub fn error(what: impl Into<String>) -> Error {
    what.into().into()
}
